"""What a kernel visits, in order: its Tiles walked at given sizes, one part of an array after the other.

A part is a box of elements: what one block of a nest touches of an array or of scratch, cut wherever another visit
ends. Nothing is run: boxes follow from tiles, loops and indices, in the order in which loops are made of them.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from moa.cost.loose import bound, decided, somewhere
from moa.cost.reach import Range, Unknown, blocks, chunks, reach, runs
from moa.domains.evaluate import holds, value_of
from moa.loops import ELEMENT_BYTES, Element
from moa.lower import PhaseLowering
from moa.normal import Index, Scalar, choose, is_zero, lit, loads, rename
from moa.poly import Poly, var
from moa.tiles import Bounds, Loop, Map, Nest, Phase, Placed, Reduce, Sift, Sorted, Tiles, TileStmt, When

LINE_BYTES = 64
CHUNK = 16  # positions of a reduced axis that are visited together
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


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tile is in scratch: its axes with their capacities and strides in elements, and its first byte.

    pairs  the axis of which two positions are one element, or ""
    """

    axes: tuple[str, ...]
    capacities: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    pairs: str


@dataclass(slots=True)
class Access:
    """A load or store in a nest, of an array or of a tile in its place.

    lanes     the axis of rows that is in the lanes: in all of its capacity, or in vectors of it one by one
    absolute  the variables whose values decide what is visited
    relative  those of which positions inside the tile do
    known     the visits that it was so far
    """

    array: str
    index: Index
    write: bool
    place: Place | None
    lanes: str | None
    one_vector: bool
    absolute: tuple[str, ...]
    relative: tuple[str, ...]
    known: dict[tuple[object, ...], tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of a nest: what it loads and then stores in each block, `over` being reduced inside the block.

    across  whether it reduces over the blocks too: then its target is in registers until the end
    start   what such a target is loaded from before the first block
    """

    over: tuple[str, ...]
    read: tuple[Access, ...]
    written: tuple[Access, ...]
    across: bool
    start: tuple[Access, ...]


@dataclass(frozen=True, slots=True)
class Blocks:
    """A nest as it is walked.

    loops     (axis, its blocks, largest first)
    bounds    what each vector of rows visits of an axis, vectors being a loop around the nest
    lane      their axis
    absolute  the variables whose values decide what is visited; of `relative` ones only the length does
    known     the sequences that it was so far
    """

    loops: tuple[tuple[str, tuple[int, ...]], ...]
    bounds: Bounds | None
    lane: str | None
    statements: tuple[Statement, ...]
    absolute: tuple[str, ...]
    relative: tuple[str, ...]
    known: dict[tuple[object, ...], int] = field(default_factory=dict)


class Walk:
    """What was visited so far.

    Errors: TooLong beyond `most` visits
    """

    def __init__(
        self, tiles: Tiles, each: Mapping[str, int], sizes: Mapping[str, int], most: int, loose: bool = False
    ) -> None:
        """each: the bytes of an element of each array; loose: what data say is as much as it may be, not Unknown"""
        self.tiles, self.sizes, self.most, self.loose = tiles, dict(sizes), most, loose
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


def once(how: Sorted | Placed, over: tuple[str, ...]) -> Scalar:
    """What is read of each element where all of an axis is made at once, at the places of its target."""
    read = how.key if isinstance(how, Sorted) else choose(is_zero(how.at), how.value, lit(0))
    return rename(read, {v: var(how.axis) for v in over})


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
        self.nests: dict[int, Blocks] = {}
        self.most_rounds: int | None = None  # the most of a loop that no other one is around

    def run(self, items: Items = every) -> None:
        """Walks the items that `items` makes of where they start along each axis."""
        phase = self.phase
        axes = [phase.axis(v) for v in phase.items]
        extents = [value_of(a.extent, self.sizes) for a in axes]
        whole = {a.name: (0, value_of(a.extent, self.sizes)) for a in phase.axes if a.role == "whole"}
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
                        inside = {**env, s.axis: (o, min(o + step, hi))}
                        self.body(s.body, inside, {**values, s.axis: o, f"{s.axis}@0": o})
                case When():
                    self.body(self.branch(s, values), env, values)
                case Sift():
                    if not self.walk.loose:
                        raise Unknown(str(s.conds))
                    self.body(longer(s.every, s.some), env, values)

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
            b = self.nests[id(nest)] = self.blocks(nest)
        key = (*[env[v] for v in b.absolute], *[env[v][1] - env[v][0] for v in b.relative])
        found = b.known.get(key)
        if found is None:
            found = b.known[key] = self.walk.sequence(tuple(self.visited(b, env, values)))
        self.walk.went(found)

    def blocks(self, nest: Nest) -> Blocks:
        """How a nest is walked: values of tiles that are written in it stay in registers."""
        made = {s.target.args for s in nest.statements}
        loops = {a for a, _ in nest.loops}
        around = self.loops(nest)
        one_vector = nest.bounds is not None or any(a == nest.lane for a, _ in around)
        rows = (nest.lane if nest.lane == self.row else None, one_vector)
        statements = []
        for s in nest.statements:
            value, over = s.value, s.over if isinstance(s, Reduce) else ()
            if isinstance(s, Reduce) and s.how is not None:
                value, over = once(s.how, over), ()
            found = [x for x in dict.fromkeys(loads(value)) if x not in made or x[0] in self.walk.arrays]
            read = tuple(a for array, index in found for a in self.access(array, index, False, *rows))
            inside = tuple(a for a in over if a not in loops and a != nest.lane)
            target, index = s.target.args
            written = tuple(self.access(target, index, True, *rows))
            across = any(a in loops for a in over)
            begins = across and isinstance(s, Reduce) and not s.fresh and nest.lane not in over
            start = tuple(self.access(target, index, False, *rows)) if begins else ()
            statements.append(Statement(inside, read, written, across, start))
        accesses = [a for s in statements for a in (*s.read, *s.written)]
        absolute = {v for a in accesses for v in a.absolute}
        relative = {a for a, _ in around} | {a for s in statements for a in s.over}
        relative |= {v for a in accesses for v in a.relative}
        bounds = nest.bounds
        if bounds is not None:
            used = {a.name.removesuffix("@0") for p in (bounds.lo, bounds.hi) for a in p.atoms() if a.kind == "var"}
            absolute |= {bounds.axis, str(nest.lane)} | {v for v in used if not v.endswith("@v")}
        ordered = (tuple(sorted(absolute)), tuple(sorted(relative - absolute)))
        return Blocks(around, bounds, nest.lane, tuple(statements), *ordered)

    def loops(self, nest: Nest) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The loops of a nest: vectors of lanes are one too, but where all rows are in them, or lanes are summed."""
        found = tuple((a, (size, 1)) for a, size in nest.loops)
        lane = nest.lane
        if lane is None or nest.bounds is not None:
            return found
        vectors = (lane, (self.width * nest.vectors, self.width))
        along = [s for s in nest.statements if isinstance(s, Reduce) and lane in s.over]
        if lane != self.row:
            inside = any(nest.loops or s.target.args[1] for s in along)
            return found if inside else (*found, vectors)
        apart = any(lane in p.vars() for s in nest.statements for _, i in loads(s.value) for p in i[:-1])
        maps = all(isinstance(s, Map) for s in nest.statements)
        return (vectors, *found) if maps and apart else found

    def access(self, array: str, index: Index, write: bool, lanes: str | None, one_vector: bool) -> Iterator[Access]:
        """The access, unless it is of registers."""
        place = self.places.get(array)
        if place is None and array not in self.walk.arrays:
            return
        absolute: set[str] = set()
        relative: set[str] = set()
        for k, p in enumerate(index):
            local = place is not None and p.as_var() == place.axes[k]
            (relative if local else absolute).update(p.vars())
            if place is not None and not local and self.origin(place.axes[k]):
                absolute.add(place.axes[k])
        relative -= absolute
        ordered = (tuple(sorted(absolute)), tuple(sorted(relative)))
        yield Access(array, index, write, place, lanes, one_vector, *ordered)

    def origin(self, axis: str) -> bool:
        """Whether tiles along an axis begin at a position of their own."""
        return self.phase.axis(axis).role != "whole"

    def visited(self, b: Blocks, env: Env, values: Mapping[str, int]) -> Iterator[int]:
        """The visits of a nest."""
        if not self.fine:
            for a in (a for s in b.statements for a in (*s.read, *s.written)):
                yield from self.visit(a, env, env)
        elif b.bounds is None or b.lane is None:
            yield from self.rounds(b, env, env)
        else:
            axis = b.bounds.axis
            for r in chunks(env[b.lane], self.width):
                at = {**values, f"{b.lane}@v": r[0]}
                lo, hi = self.within(b.bounds.lo, b.bounds.hi, at, env[axis][1])
                lo, hi = max(lo, env[axis][0]), min(hi, env[axis][1])
                yield from self.rounds(b, {**env, b.lane: r, axis: (lo, max(lo, hi))}, env)

    def rounds(self, b: Blocks, env: Env, outer: Env) -> Iterator[int]:
        """The visits of all statements for each block; `outer` has the origins of tiles."""
        names = [a for a, _ in b.loops]
        for a in (a for s in b.statements for a in s.start):
            yield from self.visit(a, env, outer)
        for at in itertools.product(*(blocks(env[a], sizes) for a, sizes in b.loops)):
            here = {**env, **dict(zip(names, at, strict=True))}
            for s in b.statements:
                for part in itertools.product(*(pieces(env[a], CHUNK) for a in s.over)):
                    inside = {**here, **dict(zip(s.over, part, strict=True))} if s.over else here
                    for a in s.read:
                        yield from self.visit(a, inside, outer)
                for a in () if s.across else s.written:
                    yield from self.visit(a, here, outer)
        for a in (a for s in b.statements if s.across for a in s.written):
            yield from self.visit(a, env, outer)

    def visit(self, a: Access, env: Env, outer: Env) -> tuple[int, ...]:
        """The numbers of the visits that an access is; none where nothing is touched."""
        inside = [(env[v][0] - outer[v][0], env[v][1] - outer[v][0]) for v in a.relative]
        key = (*[env[v] for v in a.absolute], *inside)
        found = a.known.get(key)
        if found is None:
            found = a.known[key] = tuple(
                self.of_array(a, env) if a.place is None else self.of_tile(a, a.place, env, outer)
            )
        return found

    def of_array(self, a: Access, env: Env) -> Iterator[int]:
        region = self.walk.arrays[a.array]
        box = [self.positions(p, env, n) for p, n in zip(a.index, region.shape, strict=True)]
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
            if axis == a.lanes and p.as_var() == axis and axis != place.pairs:
                vectors = -(-(hi - lo + 1) // self.width)
                local.append((lo - first, lo - first + vectors * self.width) if a.one_vector else (0, capacity))
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


def pieces(r: Range, size: int) -> list[Range]:
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
