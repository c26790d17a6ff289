"""A domain that is a range or a condition on data: the range is visited first, then what is left, in short tiles.

Of (|i - j| <= w) | seen[j] most tiles hold no position beyond the range. Tiles are short there, so that the data can
leave many of them out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from moa.laws.split import conjuncts
from moa.normal import Cond, Fold, both, either, negate
from moa.tile.sift import separable

SHORT_TILE = 16  # positions of an axis whose tiles the data leave out


def apart_by_data(
    fold: Fold, row: str | None, items: Collection[str], affine: Callable[[Cond], bool]
) -> tuple[Fold, Fold] | None:
    """The fold over a range, and over what data add to it; None where its domain is not such a union."""
    axis = fold.axis[0]
    if row is None or any(m.domain != fold.domain for m in fold.members):
        return None
    for c in sorted(conjuncts(fold.domain), key=str):
        if c.op != "or":
            continue
        ranges = [x for x in c.args if affine(x)]
        data = [x for x in c.args if x not in ranges]
        if len(data) != 1 or not separable(data[0], axis, row, items) or {axis, row} & data[0].vars() != {axis}:
            continue
        near = either(*ranges)
        if not {axis, row} <= near.vars():
            continue
        rest = both(*(conjuncts(fold.domain) - {c}))
        return over(fold, both(near, rest)), over(fold, both(negate(near), data[0], rest))
    return None


def over(fold: Fold, domain: Cond) -> Fold:
    return replace(fold, domain=domain, members=tuple(replace(m, domain=domain) for m in fold.members))
