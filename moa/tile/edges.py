"""Where a domain ends inside a tile: each vector of rows visits only the positions that its own rows may see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from moa.tile.place import turned
from moa.tile.strategy import Strategy
from moa.tiles import Bounds, Map, Nest, Reduce, TileStmt

LONG_BLOCK = 8  # of one vector: enough multiply-adds at once to hide how long one takes


def bounded(body: tuple[TileStmt, ...], bounds: Bounds, row: str, s: Strategy) -> tuple[TileStmt, ...]:
    """The statements of a round in which vectors of rows visit their bounds only; as they are if some cannot.

    Every nest over both axes has to have the rows in its lanes: what a vector leaves out, no nest may read.
    """
    if not all(isinstance(x, Nest) for x in body):
        return body
    nests = [x for x in body if isinstance(x, Nest)]
    if any(x.lane != row and {row, bounds.axis} <= _axes(x) for x in nests):
        return body
    return tuple(_bounded(x, bounds, s) if {row, bounds.axis} <= _axes(x) else x for x in nests)


def _bounded(nest: Nest, bounds: Bounds, s: Strategy) -> Nest:
    if nest.loops and not turned(nest, nest.loops[-1][0]):
        *outer, (last, size) = nest.loops
        nest = replace(nest, loops=(*outer, (last, max(size, LONG_BLOCK) if size > 1 else size)))
    return replace(nest, bounds=bounds)


def _axes(nest: Nest) -> frozenset[str]:
    """The axes that the statements of a nest run over."""
    return frozenset((nest.lane or "", *(a for a, _ in nest.loops), *(a for x in _reduces(nest) for a in x.over)))


def _reduces(nest: Nest) -> Iterator[Reduce]:
    for x in nest.statements:
        assert isinstance(x, Map | Reduce)
        if isinstance(x, Reduce):
            yield x
