"""What one work item finds in a cache that the item before it left there, as polynomials over the items of a phase.

Two items that follow each other share the elements that both stream: K and V of one head, the overlap of two windows.
When the second item comes to a shared element again, what was touched since is all that they share and all that one
item keeps (its rows and results). Where a cache holds that, the shared elements are not moved again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from moa.cost.boxes import Span, Spans, count
from moa.cost.sums import Along, Count, of
from moa.cost.traffic import Tiled, Touch, Walk, reads_data
from moa.normal import Cond, at_least_zero
from moa.poly import Poly, const, maximum, minimum, select, size, var
from moa.tiles import Loop, Nest, Phase, Sift, Tiles, TileStmt, When

BYTES = "M@"  # the capacity of the nearer memory in formulas
Bytes = Mapping[str, int]  # of one element of each array


@dataclass(frozen=True, slots=True)
class Pair:
    """Items that follow each other, for all positions of the outer `items`; the inner ones are at their ends.

    shared      bytes that the second one streams again
    between     bytes touched from one use of these to the next
    """

    items: tuple[Along, ...]
    shared: Poly
    between: Poly


@dataclass(frozen=True, slots=True)
class Item:
    """One work item of a phase, in bytes.

    resident  of its rows and results
    streamed  of what it streams, once
    rounds    of arrays that two rounds of its loops touch, its rows and results included: scratch that the last,
              shorter round leaves alone is used again in the first one of the next item
    lengths   positions that one round has at most, for each loop, with its axis
    pairs     how it follows the one before it
    """

    items: tuple[Along, ...]
    resident: Poly
    streamed: Poly
    rounds: Poly
    lengths: tuple[tuple[str, Poly], ...]
    pairs: tuple[Pair, ...]


class Rounds(Walk):
    """The touches of two rounds of each loop."""

    __slots__ = ()

    def loop(
        self, s: Loop, env: Mapping[str, Span], tiled: Mapping[str, Tiled]
    ) -> tuple[dict[str, Span], dict[str, Tiled], bool]:
        inside, cases, exact = Walk.loop(self, s, env, tiled)
        span, step = inside[s.axis], self.phase.axis(s.axis).step
        if step:
            inside[s.axis] = Span(span.lo, minimum(span.lo + 2 * step, span.hi))
        return inside, cases, exact


def lengths_of(walk: Walk, body: tuple[TileStmt, ...]) -> Iterator[tuple[str, Poly]]:
    """The positions that one round has at most, for each loop."""
    for s in body:
        match s:
            case Loop():
                axis = walk.phase.axis(s.axis)
                known = not reads_data(s.lo) and not reads_data(s.hi)
                long = walk.bound(s.hi) - walk.bound(s.lo) if known else axis.extent
                yield s.axis, minimum(const(axis.step), long) if axis.step else long
                yield from lengths_of(walk, s.body)
            case When():
                yield from lengths_of(walk, (*s.body, *s.other))
            case Sift():
                yield from lengths_of(walk, (*s.every, *s.some))
            case Nest():
                pass


def item_of(tiles: Tiles, phase: Phase, sizes_bytes: Bytes) -> Item:
    """What one item of a phase keeps, streams and shares with the one before it."""
    walk = Walk(tiles, phase)
    kept = [t for t in walk.touches if not t.traversal]
    resident = total(walk, kept, sizes_bytes)
    came, went = (total(walk, [t for t in kept if t.write == way], sizes_bytes) for way in (False, True))
    hulls = {a: hull(walk, a) for a in dict.fromkeys(t.array for t in walk.touches if t.traversal)}
    streamed = const(0)
    for a, box in hulls.items():
        streamed = streamed + walk.facts.volume(box) * sizes_bytes[a]
    two = Rounds(tiles, phase)
    rounds = total(two, list(two.touches), sizes_bytes)
    lengths = tuple(lengths_of(walk, phase.body))
    pairs = tuple(pairs_of(walk, hulls, came, went, sizes_bytes))
    return Item(walk.items, resident, streamed, rounds, lengths, pairs)


def total(walk: Walk, touches: list[Touch], sizes_bytes: Bytes) -> Poly:
    """The bytes of distinct elements."""
    out = const(0)
    for a in dict.fromkeys(t.array for t in touches):
        out = out + count([t.spans for t in touches if t.array == a], walk.facts)[0] * sizes_bytes[a]
    return out


def hull(walk: Walk, array: str) -> Spans:
    """The smallest box that holds what an item streams of an array."""
    boxes = [whole(t) for t in walk.touches if t.array == array and t.traversal]
    first, *others = boxes
    out = list(first)
    for box in others:
        for k, span in enumerate(box):
            if span != out[k]:
                out[k] = Span(lower(walk, out[k].lo, span.lo), upper(walk, out[k].hi, span.hi))
    return tuple(out)


def whole(t: Touch) -> Spans:
    """What a touch reaches in all tiles of its loop."""
    if t.tiled is None:
        return t.spans
    loop = t.tiled
    number = loop.number
    return tuple(Span(loop.lo, loop.hi) if number in s.lo.vars() | s.hi.vars() and s.scale == 1 else s for s in t.spans)


def lower(walk: Walk, a: Poly, b: Poly) -> Poly:
    return a if walk.facts.always(b - a) else b if walk.facts.always(a - b) else minimum(a, b)


def upper(walk: Walk, a: Poly, b: Poly) -> Poly:
    return a if walk.facts.always(a - b) else b if walk.facts.always(b - a) else maximum(a, b)


def pairs_of(walk: Walk, hulls: Mapping[str, Spans], came: Poly, went: Poly, sizes_bytes: Bytes) -> Iterator[Pair]:
    """The innermost axis of items counts on; where it begins again, the next outer one has counted on."""
    descending = walk.phase.descending
    for k in range(len(walk.items) - 1, -1, -1):
        axis, inner = walk.items[k], walk.items[k + 1 :]
        rows = {axis.rows: const(axis.step)} if axis.step > 1 else {}
        before = {axis.number: var(axis.number) - 1, **rows}
        here: dict[str, Poly] = {}
        for a in inner:
            first, last = at(a, const(0)), at(a, a.tiles - 1)
            here |= last if descending else first
            before |= first if descending else last
        shared = const(0)
        for array, box in hulls.items():
            mine, other = renamed(box, here), renamed(box, before)
            shared = shared + common(walk, mine, other) * sizes_bytes[array]
        kept = came.rename(here) + went.rename(before)  # rows of this item, results of the one before it
        follows = at_least_zero(var(axis.number) - 1)
        yield Pair(walk.items[: k + 1], select(follows, shared, const(0)), shared + kept)


def at(a: Along, number: Poly) -> dict[str, Poly]:
    """The variables of an axis in the tile of a number."""
    rows = {a.rows: minimum(const(a.step), a.extent - number * a.step)} if a.step > 1 else {}
    return {a.number: number, **rows}


def renamed(box: Spans, names: Mapping[str, Poly]) -> Spans:
    values = dict(names)
    return tuple(Span(s.lo.rename(values), s.hi.rename(values), s.scale, s.offset.rename(values)) for s in box)


def common(walk: Walk, a: Spans, b: Spans) -> Poly:
    """The elements of two boxes of one array."""
    out = const(1)
    for x, y in zip(a, b, strict=True):
        if not x.same_lattice(y):
            return const(0)
        lo = x.lo if x.lo == y.lo else maximum(x.lo, y.lo)
        hi = x.hi if x.hi == y.hi else minimum(x.hi, y.hi)
        n = hi - lo
        out = out * (n if walk.facts.always(n) else maximum(n, const(0)))
    return out


def found_again(item: Item, scratch: Poly) -> Count:
    """The bytes of a phase that a cache of BYTES bytes holds from one item to the next, with so much scratch in it."""
    out = Count()
    for p in item.pairs:
        out = out + of(select(holds(p.between + scratch), p.shared, const(0)), (), p.items)
    return out


def holds(needed: Poly) -> Cond:
    """Whether a cache of BYTES bytes holds so much."""
    return at_least_zero(size(BYTES) - needed)
