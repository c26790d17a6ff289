"""What a kernel visits, in order: its Tiles walked at given sizes, one part of an array after the other.

A part is a box of elements: what one block of a nest touches of an array or of scratch, cut wherever another visit
ends. Nothing is run: boxes follow from tiles, loops and indices, in the order in which loops are made of them.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from moa.cost.loose import bound, decided, somewhere
from moa.cost.nests import Access, Blocks, Known, Place, Statement, described
from moa.cost.reach import Range, Unknown, blocks, chunks, reach, runs
from moa.cost.within import pieces
from moa.domains.evaluate import holds, value_of
from moa.loops import ELEMENT_BYTES, Element
from moa.lower import PhaseLowering
from moa.poly import Poly
from moa.tiles import Loop, Nest, Phase, Sift, Tiles, TileStmt, When

LINE_BYTES = 64
CHUNK = 16  # positions of a reduced axis that are visited together where all one by one would be long
Box = tuple[Range, ...]
Env = dict[str, Range]
Event = tuple[int, int]  # part, and what comes: LOAD, STORE, or BACK of what a nearer cache held
LOAD, STORE, BACK = 0, 1, 2
Starts = Sequence[Sequence[int]]  # of work items, along each of their axes
Items = Callable[[Starts], Iterable[tuple[int, ...]]]
V = TypeVar("V")
W = TypeVar("W")


class TooLong(Exception):
    """More is visited than was asked for."""


@dataclass(frozen=True, slots=True)
class Visits:
    """Parts of arrays in the order in which they are visited.

    sizes_bytes  of each part
    arrays       the one of each part, "" of scratch
    sequences    of visits, each made by a nest
    order        the sequences, one after the other
    """

    sizes_bytes: tuple[int, ...]
    arrays: tuple[str, ...]
    sequences: tuple[tuple[Event, ...], ...]
    order: Sequence[int]

    def events(self, first: int = 0, last: int | None = None) -> Iterator[Event]:
        """The visits of some of the sequences in the order."""
        return itertools.chain.from_iterable(self.sequences[k] for k in self.order[first:last])


@dataclass(frozen=True, slots=True)
class Region:
    """An array in memory, or all of scratch as bytes: its extents, and the bytes of an element."""

    name: str
    shape: tuple[int, ...]
    element_bytes: int

    @property
    def whole_lines(self) -> bool:
        """Whether every row begins at a line, so that boxes are cut there; else they are cut into runs of bytes."""
        return bool(self.shape) and self.shape[-1] * self.element_bytes % LINE_BYTES == 0

    @property
    def strides(self) -> tuple[int, ...]:
        return tuple(math.prod(self.shape[k + 1 :]) for k in range(len(self.shape)))


SCRATCH = Region("", (), 1)


class Walk:
    """What was visited so far.

    Errors: TooLong beyond `most` visits
    """

    def __init__(
        self,
        tiles: Tiles,
        each: Mapping[str, int],
        sizes: Mapping[str, int],
        most: int,
        loose: bool = False,
        close: bool = True,
    ) -> None:
        """each: the bytes of an element of each array; loose: what data say is as much as it may be, not Unknown.

        close: inside a block, each place after the other; else boxes of the block and of CHUNK positions
        """
        self.tiles, self.sizes, self.most, self.loose, self.close = tiles, dict(sizes), most, loose, close
        self.arrays = {
            a.name: Region(a.name, tuple(value_of(e, sizes) for e in a.shape), each[a.name]) for a in tiles.arrays
        }
        self.kinds: dict[tuple[Region, Box, bool], int] = {}
        self.sequences: dict[tuple[int, ...], int] = {}
        self.lengths: list[int] = []
        self.order: list[int] = []
        self.visited = 0

    def kind(self, region: Region, box: Box, write: bool) -> int:
        return self.kinds.setdefault((region, box, write), len(self.kinds))

    def sequence(self, kinds: tuple[int, ...]) -> int:
        n = self.sequences.setdefault(kinds, len(self.sequences))
        if n == len(self.lengths):
            self.lengths.append(len(kinds))
        return n

    def went(self, sequence: int) -> None:
        self.order.append(sequence)
        self.visited += self.lengths[sequence]
        if self.visited > self.most:
            raise TooLong

    def visits(self) -> Visits:
        """What was walked, with the boxes cut into parts."""
        cuts: dict[Region, list[set[int]]] = {}
        for region, box, _ in self.kinds:
            found = cuts.setdefault(region, [set() for _ in box])
            for axis, (lo, hi) in zip(found, box, strict=True):
                axis |= {lo, hi}
        edges = {r: [sorted(axis) for axis in found] for r, found in cuts.items()}
        sizes: list[int] = []
        arrays: list[str] = []
        numbers: dict[tuple[Region, tuple[int, ...]], int] = {}
        events: list[tuple[Event, ...]] = []
        for region, box, write in self.kinds:
            e = edges[region]
            along = [range(bisect_left(x, lo), bisect_left(x, hi)) for x, (lo, hi) in zip(e, box, strict=True)]
            mine = []
            for at in itertools.product(*along):
                n = numbers.get((region, at))
                if n is None:
                    n = numbers[region, at] = len(sizes)
                    lengths = (x[k + 1] - x[k] for x, k in zip(e, at, strict=True))
                    sizes.append(math.prod(lengths, start=region.element_bytes))
                    arrays.append(region.name)
                mine.append((n, STORE if write else LOAD))
            events.append(tuple(mine))
        sequences = (itertools.chain.from_iterable(events[k] for k in kinds) for kinds in self.sequences)
        merged = tuple(tuple(e for e, _ in itertools.groupby(s)) for s in sequences)
        return Visits(tuple(sizes), tuple(arrays), merged, self.order)


def every(starts: Starts) -> Iterable[tuple[int, ...]]:
    return itertools.product(*starts)


class PhaseWalk:
    """A walk over the work items of one phase.

    Errors: Unknown
    """

    def __init__(self, walk: Walk, phase: Phase, dtype: Element, width: int, fine: bool) -> None:
        """fine: block by block of each nest, else each nest at once"""
        self.walk, self.phase, self.sizes, self.fine = walk, phase, walk.sizes, fine
        self.element_bytes, self.width = ELEMENT_BYTES[dtype], width
        self.row = next((a.name for a in phase.axes if a.role == "item" and a.step > 1), None)
        elements = dict.fromkeys((a.name for a in walk.tiles.arrays), dtype)
        store = PhaseLowering(walk.tiles, phase, dtype, width, {}, elements, frozenset(), self.row, {}).store
        self.places = {}
        for t in phase.tiles:
            if t.space != "block":
                capacities = tuple(
                    -(-value_of(phase.axis(a).capacity, self.sizes) // (2 if a == t.pairs else 1)) for a in t.axes
                )
                strides = tuple(value_of(p, self.sizes) for p in store.strides[t.name])
                offset = value_of(store.offsets[t.name], self.sizes)
                self.places[t.name] = Place(t.axes, capacities, strides, offset, t.pairs)
        floats = {a.name for a in walk.tiles.arrays if a.kind == "f"}
        self.known = Known(phase, floats, walk.arrays.keys() - floats, self.places, self.row, width)
        self.nests: dict[int, Blocks] = {}
        self.most_rounds: int | None = None  # the most of a loop that no other one is around

    def run(self, items: Items = every) -> None:
        """Walks the items that `items` makes of where they start along each axis."""
        phase = self.phase
        axes = [phase.axis(v) for v in phase.items]
        extents = [value_of(a.extent, self.sizes) for a in axes]
        whole = self.whole(self.sizes)
        starts = []
        for a, extent in zip(axes, extents, strict=True):
            found = range(0, extent, a.step)
            starts.append(found[::-1] if phase.descending and a.step > 1 else found)
        for at in items(starts):
            env: Env = dict(whole)
            values = dict(self.sizes)
            for a, extent, o in zip(axes, extents, at, strict=True):
                env[a.name] = (o, min(o + a.step, extent))
                values[a.name] = values[f"{a.name}@0"] = o
            self.body(phase.body, env, values, self.most_rounds)

    def body(self, body: tuple[TileStmt, ...], env: Env, values: dict[str, int], most: int | None = None) -> None:
        for s in body:
            match s:
                case Nest():
                    self.nest(s, env, values)
                case Loop():
                    step = self.phase.axis(s.axis).step
                    lo, hi = self.ends(s, values)
                    for o in range(lo, hi, step)[:most]:
                        here = {**values, s.axis: o, f"{s.axis}@0": o}
                        inside = {**env, s.axis: (o, min(o + step, hi)), **self.whole(here, s.axis)}
                        self.body(s.body, inside, here)
                case When():
                    self.body(self.branch(s, values), env, values)
                case Sift():
                    if not self.walk.loose:
                        raise Unknown(str(s.conds))
                    self.body(longer(s.every, s.some), env, values)

    def whole(self, values: Mapping[str, int], loop: str = "") -> Env:
        """The axes that are there as a whole, or, of a loop, those that end where its round does."""
        found = (a for a in self.phase.axes if a.role == "whole" and a.extent.vars() == ({loop} if loop else set()))
        return {a.name: (0, value_of(a.extent, values)) for a in found}

    def ends(self, s: Loop, values: Mapping[str, int]) -> Range:
        """Where a loop begins and ends."""
        if s.hull and not self.walk.loose:
            raise Unknown(str(s.hull))
        return self.within(s.lo, s.hi, values, value_of(self.phase.axis(s.axis).extent, self.sizes))

    def within(self, lo: Poly, hi: Poly, values: Mapping[str, int], extent: int) -> Range:
        """What two bounds are worth, or, loose, 0 and the extent where data say them."""
        if self.walk.loose:
            return bound(lo, values, 0), bound(hi, values, extent)
        return known(value_of, lo, values), known(value_of, hi, values)

    def branch(self, s: When, values: Mapping[str, int]) -> tuple[TileStmt, ...]:
        found = decided(s.cond, values) if self.walk.loose else known(holds, s.cond, values)
        return longer(s.body, s.other) if found is None else s.body if found else s.other

    def nest(self, nest: Nest, env: Env, values: Mapping[str, int]) -> None:
        b = self.nests.get(id(nest))
        if b is None:
            b = self.nests[id(nest)] = described(nest, self.known)
        key = (*[env[v] for v in b.absolute], *[env[v][1] - env[v][0] for v in b.relative])
        found = b.known.get(key)
        if found is None:
            found = b.known[key] = self.walk.sequence(tuple(self.visited(b, env, values)))
        self.walk.went(found)

    def origin(self, axis: str) -> bool:
        """Whether tiles along an axis begin at a position of their own."""
        return self.phase.axis(axis).role != "whole"

    def visited(self, b: Blocks, env: Env, values: Mapping[str, int]) -> Iterator[int]:
        """The visits of a nest."""
        if not self.fine:
            for a in (a for s in b.statements for a in s.accesses):
                yield from self.visit(a, self.all_lanes(b, env), env)
        elif b.bounds is None or b.lane is None:
            yield from self.rounds(b, self.all_lanes(b, env), env)
        else:
            axis = b.bounds.axis
            first, end = env[axis]
            for r in chunks(env[b.lane], self.width):
                at = {**values, f"{b.lane}@v": r[0]}
                lo, hi = self.within(b.bounds.lo, b.bounds.hi, at, end)
                lo, hi = max(lo, first), min(hi, end)
                if any(axis == p.pairs for p in self.places.values()):
                    lo -= (lo - first) % 2
                yield from self.rounds(b, {**env, b.lane: r, axis: (lo, max(lo, hi))}, env)

    def all_lanes(self, b: Blocks, env: Env) -> Env:
        """Where rows are in the lanes, all that a work item may have are computed."""
        if b.lane is None or b.lane != self.row or b.bounds is not None:
            return env
        lo, _ = env[b.lane]
        return {**env, b.lane: (lo, lo + self.phase.axis(b.lane).step)}

    def rounds(self, b: Blocks, env: Env, outer: Env) -> Iterator[int]:
        """The visits of all statements for each block; `outer` has the origins of tiles, and which rows there are."""
        names = [a for a, _ in b.loops]
        for a in (a for s in b.statements if s.across for a in s.start):
            yield from self.visit(a, env, outer)
        before = None
        for at in itertools.product(*(blocks(env[a], sizes) for a, sizes in b.loops)):
            here = {**env, **dict(zip(names, at, strict=True))}
            if at[:-1] != before:
                before = at[:-1]
                for a, whole in ((a, self.whole_pairs(s, env)) for s in b.statements for a in s.held):
                    yield from self.visit(a, {**here, **whole}, outer)
            for s in b.statements:
                yield from self.block(b, s, here, outer)
            for a in (a for s in b.statements if not s.across for a in s.written if a.place is not None):
                yield from self.visit(a, here, outer)
        for a in (a for s in b.statements if s.across for a in s.written):
            yield from self.visit(a, env, outer)

    def whole_pairs(self, s: Statement, env: Env) -> Env:
        """What whole vectors of pairs there are of the lanes that a statement reduces."""
        lo, hi = env[s.over[-1]]
        return {s.over[-1]: (lo, hi - (hi - lo) % (2 * self.width))}

    def block(self, b: Blocks, s: Statement, here: Env, outer: Env) -> Iterator[int]:
        """The visits of a statement in one block, but for tiles, which are stored at its end."""
        if not s.across:
            yield from self.each(self.ordered(b, s, s.start, here), here, outer)
        yield from self.each(self.ordered(b, s, s.fixed, here), here, outer)
        if not s.over:
            yield from self.each(self.ordered(b, s, s.at_once, here), here, outer)
            return
        lane = s.over[-1] if s.over[-1] == b.lane else None
        read, held = self.ordered(b, s, s.read, here), self.ordered(b, s, s.held, here)
        for part in itertools.product(*(self.parts(s, a, a == lane, here) for a in s.over)):
            inside = {**here, **dict(zip(s.over, part, strict=True))}
            yield from self.each(read, inside, outer)
            if s.held and not self.in_whole_pairs(s, part[-1], here):
                yield from self.each(held, inside, outer)
        yield from self.each(self.ordered(b, s, s.at_once[len(s.read) :], here), here, outer)

    def in_whole_pairs(self, s: Statement, part: Range, env: Env) -> bool:
        return part[1] <= self.whole_pairs(s, env)[s.over[-1]][1]

    def parts(self, s: Statement, axis: str, lanes: bool, env: Env) -> list[Range]:
        """What is reduced of an axis at once: a position or a pair of them, or a vector along the lanes."""
        if not self.walk.close:
            return [env[axis]] if lanes else firsts(env[axis], CHUNK)
        if not lanes:
            return chunks(env[axis], 2 if s.paired else 1)
        if not s.in_lanes:
            return chunks(env[axis], self.width)
        (lo, end), (_, hi) = self.whole_pairs(s, env)[axis], env[axis]
        whole = chunks((lo, end), max(end - lo, 1) if s.few else 2 * self.width)
        return [*whole, *chunks((end, hi), self.width)]

    def ordered(self, b: Blocks, s: Statement, accesses: tuple[Access, ...], env: Env) -> list[tuple[Access, Env]]:
        """Some loads and stores of a statement in one block, place by place: each with where it is in the block."""
        if not accesses or not self.walk.close:
            return [(a, {}) for a in accesses]
        lanes = b.lane is not None and (b.lane in dict(b.loops) or (b.lane == self.row and b.bounds is None))
        block = [(a, env[a][1] - env[a][0], 1) for a, _ in b.loops if a != b.lane]
        if b.lane is not None and lanes:
            block.append((b.lane, env[b.lane][1] - env[b.lane][0], self.width))
        used = tuple(a.used for a in accesses)
        key = (used, *(n for _, n, _ in block))
        order = s.orders.get(key)
        if order is None:
            order = s.orders[key] = pieces(used, block)
        return [(accesses[n], {v: (env[v][0] + lo, env[v][0] + hi) for v, (lo, hi) in at}) for n, at in order]

    def each(self, accesses: list[tuple[Access, Env]], env: Env, outer: Env) -> Iterator[int]:
        for a, at in accesses:
            yield from self.visit(a, {**env, **at} if at else env, outer)

    def visit(self, a: Access, env: Env, outer: Env) -> tuple[int, ...]:
        """The numbers of the visits that an access is; none where nothing is touched."""
        inside = [(env[v][0] - outer[v][0], env[v][1] - outer[v][0]) for v in a.relative]
        key = (*[env[v] for v in a.absolute], *inside, outer[a.rows] if a.rows in a.absolute else None)
        found = a.known.get(key)
        if found is None:
            found = a.known[key] = tuple(self.elements(a, env, outer))
        return found

    def elements(self, a: Access, env: Env, outer: Env) -> Iterator[int]:
        """The elements of an access; lanes that are stored one by one go through a vector of room."""
        for at, room in self.by_lanes(a, env):
            if room:
                vector = 0, self.width * self.element_bytes
                yield self.walk.kind(SCRATCH, (lines_of(vector, 1, 0),), True)
            yield from self.of_array(a, at, outer) if a.place is None else self.of_tile(a, a.place, at, outer)

    def by_lanes(self, a: Access, env: Env) -> Iterator[tuple[Env, bool]]:
        """Where an access goes, and whether through room: then all lanes but the last, and that one."""
        if a.apart is None:
            yield env, False
            return
        lo, hi = env[a.apart]
        room = a.apart == a.rows or (hi - lo) % self.width > 0
        for r in ((lo, hi - 1), (hi - 1, hi)) if room else ((lo, hi),):
            if r[0] < r[1]:
                yield {**env, a.apart: r}, room

    def of_array(self, a: Access, env: Env, outer: Env) -> Iterator[int]:
        region = self.walk.arrays[a.array]
        if a.rows in a.used and a.rows is not None:  # rows beyond the last one are that one again
            (lo, hi), (_, end) = env[a.rows], outer[a.rows]
            env = {**env, a.rows: (min(lo, end - 1), min(hi, end))}
        box = [
            self.positions(p, env, n) if v is None else (env[v][0], min(env[v][1], n))
            for p, v, n in zip(a.index, a.plain, region.shape, strict=True)
        ]
        if any(hi <= lo for lo, hi in box):
            return
        if region.whole_lines:
            each = LINE_BYTES // region.element_bytes
            box[-1] = (box[-1][0] // each * each, -(-box[-1][1] // each) * each)
            yield self.walk.kind(region, tuple(box), a.write)
            return
        linear = Region(region.name, (), 1)
        for r in runs(box, region.shape, region.strides):
            yield self.walk.kind(linear, (lines_of(r, region.element_bytes, 0),), a.write)

    def positions(self, p: Poly, env: Env, extent: int) -> Range:
        """The positions along one axis of an array that an index takes."""
        try:
            lo, hi = reach(p, env, self.sizes)
        except Unknown:
            if not self.walk.loose:
                raise
            return somewhere(p, env, self.sizes, extent)
        return max(lo, 0), min(hi + 1, extent)

    def of_tile(self, a: Access, place: Place, env: Env, outer: Env) -> Iterator[int]:
        local = []
        for p, axis, capacity in zip(a.index, place.axes, place.capacities, strict=True):
            lo, hi = reach(p, env, self.sizes)
            first = outer[axis][0] if self.origin(axis) else 0
            if axis == a.rows and p.as_var() == axis and axis != place.pairs:
                vectors = -(-(hi - lo + 1) // self.width)
                local.append((lo - first, lo - first + vectors * self.width))
                continue
            start, end = max(lo - first, 0), hi - first + 1
            if axis == place.pairs:
                start, end = start // 2, -(-end // 2)
            local.append((start, min(end, capacity)))
        if any(hi <= lo for lo, hi in local):
            return
        gap = LINE_BYTES // self.element_bytes - 1
        for r in runs(local, place.capacities, place.strides, gap):
            yield self.walk.kind(SCRATCH, (lines_of(r, self.element_bytes, place.offset),), a.write)


def firsts(r: Range, size: int) -> list[Range]:
    """Chunks, each as its first position and the rest of it: what is come back to lies between lines that are new."""
    out = []
    for lo, hi in chunks(r, size):
        out.append((lo, lo + 1))
        if hi > lo + 1:
            out.append((lo + 1, hi))
    return out


def lines_of(r: Range, element_bytes: int, offset: int) -> Range:
    """The bytes of the lines that a run of elements is in."""
    first, last = (offset + x * element_bytes for x in r)
    return first // LINE_BYTES * LINE_BYTES, -(-last // LINE_BYTES) * LINE_BYTES


def longer(a: tuple[TileStmt, ...], b: tuple[TileStmt, ...]) -> tuple[TileStmt, ...]:
    """Of two bodies the one with more statements."""

    def count(body: tuple[TileStmt, ...]) -> int:
        inner = {Loop: ("body",), When: ("body", "other"), Sift: ("every", "some")}
        return sum(1 + sum(count(getattr(s, k)) for k in inner.get(type(s), ())) for s in body)

    return a if count(a) >= count(b) else b


def known(f: Callable[[V, Mapping[str, int]], W], x: V, values: Mapping[str, int]) -> W:
    """f of a bound or a condition, unless that depends on data."""
    try:
        return f(x, values)
    except ValueError as e:
        raise Unknown(str(x)) from e
