"""Backends: printers of Loops that decide nothing."""
