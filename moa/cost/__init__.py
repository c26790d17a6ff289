"""Cost: what a kernel computes and moves, as formulas in its sizes and as numbers."""

from __future__ import annotations

from moa.cost.arithmetic import flops
from moa.cost.model import Cost, Level, cost
from moa.cost.sums import Count
from moa.cost.traffic import Words

__all__ = ["Cost", "Count", "Level", "Words", "cost", "flops"]
