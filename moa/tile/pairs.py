"""Which products are taken of pairs of bfloat16, and how their operands lie.

Two neighbours along the summed axis are one word. An array that is contiguous along that axis has them already; any
other operand that is read again is copied to a tile of such words, and rounded to bfloat16 if it was computed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moa.normal import Scalar
from moa.poly import var
from moa.tiles import Reduce


@dataclass(frozen=True, slots=True)
class Operand:
    """A factor of a product over `axis`, and the axis that is contiguous in its copy; None: it is read where it is."""

    load: Scalar
    axis: str
    inner: str | None


def operands(
    s: Reduce,
    which: str,
    lane: str,
    loops: tuple[str, ...],
    is_input: Callable[[str], bool],
    is_copied: Callable[[Scalar], bool],
) -> tuple[Operand, Operand] | None:
    """Both factors of a product that is taken of pairs; None where it is not.

    An array that is contiguous along the lanes, and not read again, has its pairs made as it is read; the other factor
    then is contiguous along the axis.

    which      that of the strategy: "exact" or "rounded"
    is_input   whether a name is a float array of the caller: one factor has to be an element of one
    is_copied  whether a copy of a factor pays, and may be made
    """
    if s.op != "add" or s.value.op != "mul" or len(s.over) != 1 or any(x.op != "load" for x in s.value.args):
        return None
    (axis,) = s.over
    exact = [is_input(x.args[0]) for x in s.value.args]
    if not any(exact) or (which == "exact" and not all(exact)):
        return None
    woven = [
        e and lane != axis and contiguous(x, lane) and not is_copied(x)
        for x, e in zip(s.value.args, exact, strict=True)
    ]
    found: list[Operand] = []
    for x, e, w in zip(s.value.args, exact, woven, strict=True):
        used = {v for p in x.args[1] for v in p.vars()}
        if axis not in used:
            return None
        if w or (e and contiguous(x, axis) and (axis == lane or lane not in used)):
            found.append(Operand(x, axis, None))
            continue
        inner = next((v for v in (lane, *reversed(loops)) if v in used and v != axis), None)
        if any(woven):
            inner = None if lane in used else axis
        if axis == lane or inner is None or not is_copied(x):
            return None
        found.append(Operand(x, axis, inner))
    return found[0], found[1]


def contiguous(x: Scalar, axis: str) -> bool:
    """Whether neighbours along an axis are neighbours in memory."""
    index = x.args[1]
    return bool(index) and index[-1] == var(axis) and all(axis not in p.vars() for p in index[:-1])
