"""Which tiles are visited by columns again and again: the same part of the last axis, of many rows."""

from __future__ import annotations

from moa.normal import Index, loads
from moa.tiles import Nest, Phase, Tile, nests

LINE = 64


def in_columns(phase: Phase, element_bytes: int) -> frozenset[str]:
    """The tiles of which some nest goes through a column of lines more than once before it comes to the next one.

    Two ways to do so: a loop over vectors of rows around the nest, inside of which another loop comes back to all that
    such a vector has of the tile; and blocks of positions along the last axis that are less than a line.
    """
    tiles = {t.name: t for t in phase.tiles if len(t.axes) > 1}
    return frozenset(
        name
        for nest in nests(phase.body)
        for s in nest.statements
        for name, index in (*loads(s.value), *loads(s.target))
        if name in tiles and (by_vectors(nest, tiles[name]) or by_blocks(nest, index, element_bytes))
    )


def by_vectors(nest: Nest, t: Tile) -> bool:
    return nest.bounds is not None and t.axes[-1] == nest.lane and any(a not in t.axes for a, _ in nest.loops)


def by_blocks(nest: Nest, index: Index, element_bytes: int) -> bool:
    sizes = dict(nest.loops)
    last = index[-1].as_var()
    return last in sizes and last != nest.lane and sizes[last] * element_bytes < LINE
