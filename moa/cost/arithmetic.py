"""Floating-point operations of a system of equations."""

from __future__ import annotations

from moa.naming import flops as scalar_flops
from moa.normal import Eq, Fold, Normal
from moa.ops import REDUCERS
from moa.poly import Poly, const


def flops(normal: Normal) -> Poly:
    """Floating-point operations of a named system over its whole boxes (domains are not subtracted)."""
    total = const(0)
    for e in normal.equations:
        assert not isinstance(e, Fold), "flops are counted on the normal form, before it is streamed"
        total = total + equation_flops(e)
    return total


def equation_flops(e: Eq) -> Poly:
    points = const(1)
    for _, extent in (*e.outer, *((e.red,) if e.red else ())):
        points = points * extent
    own = sum(scalar_flops(s) for _, s in e.pieces)
    return points * (own + (REDUCERS[e.op].flops if e.op else 0))
