"""How full the sets of a cache are while a nest comes back to what it read before, at given lengths of tiles.

A nest whose outer loop goes along one axis comes back in each of its rounds to all that does not lie along that axis,
and, where its blocks are less than a line, to a column of what lies along it. Columns of an array whose rows are a
multiple of many lines are in few sets of a cache, which then hold less than the cache could.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, gcd

from moa.domains.evaluate import value_of
from moa.machine import Memory
from moa.normal import Index, loads
from moa.poly import Poly, const, product
from moa.tiles import Nest, Reduce, Tiles

LINE_BYTES = 64
ROOM = 0.4  # of a way, which what comes and goes needs


@dataclass(frozen=True, slots=True)
class Part:
    """What a nest comes back to of an array or a tile.

    words  all of it, where it is contiguous or nearly so; else 0
    rows   of a column, one line of each; `stride` words from one to the next, 0 where columns are in all sets alike
    array  it is an array in memory, and no tile
    """

    words: Poly
    rows: Poly
    stride: Poly
    array: bool


Sweep = tuple[Part, ...]  # of one nest


def sweep(tiles: Tiles, s: Nest, lengths: Mapping[str, Poly]) -> Sweep:
    """What a nest comes back to in each round of its outer loop; nothing where it reduces nothing inside."""
    own = {a for a, _ in s.loops} | {s.lane}
    inside = any(isinstance(x, Reduce) and any(a not in own for a in x.over) for x in s.statements)
    if not s.loops or not inside:
        return ()
    along = s.loops[0][0]
    found: dict[tuple[str, Index], Part] = {}
    for name, index in (a for x in s.statements for a in loads(x.value)):
        part = part_of(tiles, name, index, along, lengths)
        if part is not None:
            found[name, index] = part
    return tuple(found.values())


def part_of(tiles: Tiles, name: str, index: Index, along: str, lengths: Mapping[str, Poly]) -> Part | None:
    array = next((a for a in tiles.arrays if a.name == name), None)
    used = [{v for v in p.vars() if v in lengths} for p in index]
    if not index or any(along in vs for vs in used[:-1]):
        return None
    if along in used[-1]:
        stride = const(0) if array is None else array.shape[-1]
        return Part(const(0), points(lengths, used[:-1]), stride, array is not None)
    return Part(points(lengths, used), const(0), const(0), array is not None)


def points(lengths: Mapping[str, Poly], used: Sequence[set[str]]) -> Poly:
    """How many positions all these variables have together."""
    return product(lengths[v] for v in sorted({v for vs in used for v in vs}))


def crowds(sweeps: Sequence[Sweep], at: Mapping[str, int], m: Memory, word: int, scratch_word: int) -> bool:
    """Whether a set of a cache holds less than what some nest comes back to, while the cache as a whole holds it.

    word, scratch_word  bytes of a word of arrays, and of tiles
    """
    if not m.ways or not m.capacity_bytes:
        return False
    sets = m.capacity_bytes // (LINE_BYTES * m.ways)
    for s in sweeps:
        lines = ways = 0.0
        for p in s:
            each = word if p.array else scratch_word
            whole, rows = value_of(p.words, at) * each / LINE_BYTES, value_of(p.rows, at)
            lines += whole + rows
            ways += whole / sets + ceil(rows / reached(value_of(p.stride, at) * each, sets))
        if lines < sets * m.ways and ways > m.ways - ROOM:
            return True
    return False


def reached(stride_bytes: int, sets: int) -> int:
    """How many sets rows are in that are so far from one another."""
    around = sets * LINE_BYTES
    return min(sets, around // gcd(stride_bytes, around)) if stride_bytes else sets
