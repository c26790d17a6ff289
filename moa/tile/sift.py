"""Conditions on data of which a whole tile is tested at once: by the least and the greatest of what they compare.

f(i) + g(j) >= 0 holds for all rows i and keys j of a tile if min f + min g >= 0, and for none if max f + max g < 0.
Nothing is needed of f and g; where they rise with their index (numbers of documents, lengths), few tiles are undecided.
"""

from __future__ import annotations

from collections.abc import Collection

from moa.normal import Cond
from moa.poly import Poly, const, select


def separable(c: Cond, axis: str, row: str | None, items: Collection[str]) -> bool:
    """Whether a condition is p >= 0, p == 0 or its negation, p a sum of terms without the row and terms without `axis`.

    An element of a bool array is 0 or 1. Other item variables have one value in a work item.
    """
    if c.op == "not":
        return c.args[0].op in ("eq", "load") and separable(c.args[0], axis, row, items)
    if c.op not in ("ge", "eq", "load"):
        return False
    parts = [frozenset(v for p in c.args[1] for v in p.vars())] if c.op == "load" else _monomials(c.args[0])
    return all(vs <= {axis, *items} and not {axis, row} <= vs for vs in parts)


def _monomials(p: Poly) -> list[frozenset[str]]:
    return [Poly({m: k}).vars() for m, k in p.terms]


def compared(c: Cond, axis: str) -> tuple[Poly, Poly]:
    """(f, g) of a separable condition: what it compares with 0, or with 1 for an element of a bool array."""
    if c.op == "not":
        return compared(c.args[0], axis)
    p = select(c, const(1), const(0)) if c.op == "load" else c.args[0]
    f = Poly({m: k for m, k in p.terms if axis not in Poly({m: k}).vars()})
    return f, p - f
