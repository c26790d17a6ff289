"""Sums of products in pieces: where each piece is x(i, k) y(j, k), the pieces are chosen factor by factor.

sum_k {p: a b; q: c d} = sum_k {p: a; q: c} {p: b; q: d}: a factor is made once for all that it is multiplied with, and
what is summed is one product.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from moa.normal import Eq, Scalar, choose, lit, rename, rename_cond
from moa.poly import Poly


def factorwise(e: Eq, mapping: Mapping[str, Poly], axes: Collection[str]) -> tuple[Scalar, Scalar] | None:
    """The two factors of a sum with pieces chosen in them; None where they are not over the same axes in all pieces."""
    if e.op != "add" or len(e.pieces) < 2 or e.red is None or any(s.op != "mul" for _, s in e.pieces):
        return None
    found: list[tuple[Scalar, Scalar]] = []
    over: tuple[frozenset[str], frozenset[str]] | None = None
    for _, s in e.pieces:
        x, y = (rename(f, mapping) for f in s.args)
        mine = frozenset(x.vars() & set(axes)), frozenset(y.vars() & set(axes))
        over = over or mine
        if mine != over and mine != over[::-1]:
            return None
        found.append((x, y) if mine == over else (y, x))
    assert over is not None
    (red,) = mapping[e.red[0]].vars()
    first, second = over
    conds = [rename_cond(c, mapping) for c, _ in e.pieces]
    if red not in first & second or not first - second or not second - first:
        return None
    if any(not c.vars() & set(axes) <= first & second for c in conds):
        return None
    factors: list[Scalar] = []
    for k in (0, 1):
        value = lit(0)
        for c, pair in zip(reversed(conds), reversed(found), strict=True):
            value = choose(c, pair[k], value)
        factors.append(value)
    return factors[0], factors[1]
