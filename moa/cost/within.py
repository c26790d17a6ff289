"""In which order a block of a nest loads: place by place, each element once, as code is made of it.

A place is one position along each axis of the block, or one vector along the lanes; the last axis goes fastest. What a
load does not depend on changes nothing: it is held in registers from the first place on.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from moa.cost.reach import Range

Along = tuple[str, int, int]  # an axis of a block, how many positions it has there, and of these one place
Piece = tuple[int, tuple[tuple[str, Range], ...]]  # a load by number, and its positions in the block along some axes


def pieces(used: Sequence[frozenset[str]], block: Sequence[Along]) -> list[Piece]:
    """The loads in order, those one after the other along one axis as one.

    used  the axes that each load depends on
    """
    out: list[tuple[int, dict[str, Range]]] = []
    for n, at in each(used, block):
        joined = along(out[-1][1], at) if out and out[-1][0] == n else None
        if joined is None:
            out.append((n, at))
        else:
            a, (lo, _) = joined, out[-1][1][joined]
            out[-1] = n, {**out[-1][1], a: (lo, at[a][1])}
    return [(n, tuple(at.items())) for n, at in out]


def each(used: Sequence[frozenset[str]], block: Sequence[Along]) -> Iterator[tuple[int, dict[str, Range]]]:
    """Every load of every place that is not held already."""
    for place in itertools.product(*(range(-(-long // unit)) for _, long, unit in block)):
        at = {a: (k * unit, min((k + 1) * unit, long)) for k, (a, long, unit) in zip(place, block, strict=True)}
        first = {a for k, (a, _, _) in zip(place, block, strict=True) if k == 0}
        for n, axes in enumerate(used):
            if all(a in first or a in axes for a in at):
                yield n, {a: r for a, r in at.items() if a in axes}


def along(before: dict[str, Range], at: dict[str, Range]) -> str | None:
    """The one axis along which a piece continues another, if there is one."""
    other = [a for a in at if at[a] != before[a]]
    return other[0] if len(other) == 1 and before[other[0]][1] == at[other[0]][0] else None
