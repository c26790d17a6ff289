"""What really moved: kernels run with a call beside each load and store, counters of the machine, time and memory."""

from moa.measure.hierarchy import Geometry
from moa.measure.measured import Measured, measure
from moa.measure.simulated import Part, Simulated, SimulatedLevel, simulate

__all__ = ["Geometry", "Measured", "Part", "Simulated", "SimulatedLevel", "measure", "simulate"]
