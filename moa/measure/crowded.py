"""Arrays whose rows are so far from one another that a column of them is in few sets of a cache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from moa.cost.sets import LINE_BYTES, reached
from moa.measure.simulated import SimulatedLevel

MUCH = 0.1  # of what moves
SOME = 0.01


def crowded(levels: Iterable[SimulatedLevel], given: Mapping[str, Any]) -> tuple[str, ...]:
    """What is to be said where conflicts are much, of each given array that has a part in them by its strides."""
    out = []
    for number, level in enumerate(levels, 1):
        if level.ways and (level.conflict_bytes or 0) > MUCH * level.moved_bytes:
            sets = level.capacity_bytes // LINE_BYTES // level.ways
            for p in level.arrays:
                step = apart(given.get(p.name))
                if (p.conflict_bytes or 0) > SOME * level.moved_bytes and reached(step, sets) < sets:
                    where = f"a column is in {reached(step, sets)} of {sets} sets of cache {number}"
                    out.append(f"rows of {p.name} begin {step} bytes apart, {where}; with a line between rows, in all")
    return tuple(out)


def apart(array: Any) -> int:
    """The bytes from one row of an array to the next; 0 where there is but one."""
    several = isinstance(array, np.ndarray) and array.ndim > 1 and array.shape[-2] > 1
    return abs(array.strides[-2]) if several else 0
