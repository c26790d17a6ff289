"""Measurements: `python -m benchmarks` sets every cell of attention beside every peer that is installed."""
