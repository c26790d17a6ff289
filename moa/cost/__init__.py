"""Cost: what a kernel computes and moves, as formulas in its sizes and as numbers."""

from __future__ import annotations

from moa.cost.arithmetic import flops
from moa.cost.levels import Level
from moa.cost.model import Boundary, Cost, cost
from moa.cost.sums import Count
from moa.cost.traffic import Words

__all__ = ["Boundary", "Cost", "Count", "Level", "Words", "cost", "flops"]
