"""What each statement of a nest loads and stores, and what of that stays in registers: a nest as it is walked."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from moa.cost.within import Piece
from moa.lower.pairs import MOST_VECTORS, evened
from moa.normal import Index, Scalar, choose, is_zero, lit, loads, rename
from moa.poly import const, var
from moa.tiles import Bounds, Map, Nest, Phase, Placed, Reduce, Sorted


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


@dataclass(frozen=True, slots=True)
class Known:
    """What a nest is described with: its phase, the arrays of floats and of others, and the tiles that are in scratch.

    row    the axis of rows that may be in the lanes
    width  lanes of a vector
    """

    phase: Phase
    floats: Collection[str]
    others: Collection[str]
    places: Mapping[str, Place]
    row: str | None
    width: int

    def holds(self, array: str) -> bool:
        """Whether a name is of memory; else it is of registers."""
        return array in self.places or array in self.floats or array in self.others


@dataclass(slots=True)
class Access:
    """A load or store in a nest, of an array or of a tile in its place.

    rows      the axis of rows that is in the lanes
    apart     the axis of the lanes of a vector whose elements are stored one by one
    plain     the variable that each part of its index is, or None
    used      the variables of its index
    absolute  the variables whose values decide what is visited
    relative  those of which positions inside the tile do
    known     the visits that it was so far
    """

    array: str
    index: Index
    write: bool
    place: Place | None
    rows: str | None
    apart: str | None
    plain: tuple[str | None, ...]
    used: frozenset[str]
    absolute: tuple[str, ...]
    relative: tuple[str, ...]
    known: dict[tuple[object, ...], tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of a nest: what it loads and then stores in each block, `over` being reduced inside the block.

    start   what its target is loaded from first
    held    loads before the innermost loop of the nest, which vectors of pairs along the lanes are
    fixed   loads of a block before anything is reduced in it
    across  whether it reduces over the blocks too: then its target is in registers until the end
    paired  whether two positions are reduced at a time, and if so whether they lie `in_lanes`, in `few` vectors
    orders  of its loads in blocks of some lengths
    """

    over: tuple[str, ...]
    start: tuple[Access, ...]
    held: tuple[Access, ...]
    fixed: tuple[Access, ...]
    read: tuple[Access, ...]
    written: tuple[Access, ...]
    across: bool
    paired: bool
    in_lanes: bool
    few: bool
    orders: dict[tuple[object, ...], list[Piece]] = field(default_factory=dict)

    @property
    def at_once(self) -> tuple[Access, ...]:
        """What happens at each place: loads, and stores into arrays; tiles are stored at the end of the block."""
        return (*self.read, *(a for a in self.written if a.place is None and not self.across))

    @property
    def accesses(self) -> tuple[Access, ...]:
        return (*self.held, *self.fixed, *self.read, *self.written)


@dataclass(frozen=True, slots=True)
class Blocks:
    """A nest as it is walked.

    loops     (axis, its blocks, largest first)
    bounds    what each vector of rows visits of an axis, vectors being a loop around the nest
    lane      the axis of the lanes
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


def described(nest: Nest, known: Known) -> Blocks:
    """How a nest is walked: values of tiles that are written in it stay in registers."""
    around = loops_of(nest, known)
    made: set[tuple[str, Index]] = {s.target.args for s in nest.statements}
    statements = tuple(statement(nest, s, made, known) for s in nest.statements)
    accesses = [a for s in statements for a in (*s.start, *s.accesses)]
    absolute = {v for a in accesses for v in a.absolute}
    relative = {a for a, _ in around} | {a for s in statements for a in s.over}
    relative |= {v for a in accesses for v in a.relative}
    bounds = nest.bounds
    if bounds is not None:
        used = {a.name.removesuffix("@0") for p in (bounds.lo, bounds.hi) for a in p.atoms() if a.kind == "var"}
        absolute |= {bounds.axis, str(nest.lane)} | {v for v in used if not v.endswith("@v")}
    ordered = (tuple(sorted(absolute)), tuple(sorted(relative - absolute)))
    return Blocks(around, bounds, nest.lane, statements, *ordered)


def statement(nest: Nest, s: Map | Reduce, made: Collection[tuple[str, Index]], known: Known) -> Statement:
    value, over, paired = s.value, s.over if isinstance(s, Reduce) else (), isinstance(s, Reduce) and s.paired
    if isinstance(s, Reduce) and s.how is not None:
        value, over = once(s.how, over), ()
    loops, lane, (target, index) = [a for a, _ in nest.loops], nest.lane, s.target.args
    in_vectors = lane in over and bool(nest.loops or index)  # partial sums in the lanes, folded for each target
    across = not in_vectors and any(a in loops or a == lane for a in over)
    inside = tuple(a for a in over if a != lane and (in_vectors or a not in loops))
    found = [x for x in dict.fromkeys(loads(value)) if x not in made or x[0] in known.floats or x[0] in known.others]
    read = [a for x in found for a in access(*x, False, nest, known)]
    begins = isinstance(s, Reduce) and s.how is None and not s.fresh and lane not in over
    along_lanes = paired and in_vectors and all(unit(i, lane) for _, i in found)
    few = along_lanes and 0 < whole_pairs(str(lane), known) <= MOST_VECTORS
    held = [a for a in read if few and loops and loops[-1] not in a.used]
    fixed = [a for a in read if inside and not in_vectors and not paired and not a.used & set(inside)]
    return Statement(
        (*inside, lane) if in_vectors and lane is not None else inside,
        tuple(access(target, index, False, nest, known)) if begins else (),
        tuple(held),
        tuple(fixed),
        tuple(a for a in read if a not in held and a not in fixed),
        tuple(access(target, index, True, nest, known)),
        across,
        paired,
        along_lanes,
        few,
    )


def whole_pairs(lane: str, known: Known) -> int:
    """How many whole vectors of pairs there are along the lanes, where that is known before a call; else 0."""
    axis = known.phase.axis(lane)
    return (axis.extent.as_int() or 0) // (2 * known.width) if axis.role == "whole" else 0


def once(how: Sorted | Placed, over: tuple[str, ...]) -> Scalar:
    """What is read of each element where all of an axis is made at once, at the places of its target."""
    read = how.key if isinstance(how, Sorted) else choose(is_zero(how.at), how.value, lit(0))
    return rename(read, {v: var(how.axis) for v in over})


def loops_of(nest: Nest, known: Known) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The loops of a nest: vectors of lanes are one too, but where all rows are in them, or lanes are summed."""
    in_pairs = {known.places[t].pairs for t, _ in (s.target.args for s in nest.statements) if t in known.places}
    found = tuple((a, tuple(evened(in_pairs - {""}, a, size))) for a, size in nest.loops)
    lane = nest.lane
    if lane is None or nest.bounds is not None:
        return found
    vectors = (lane, (known.width * nest.vectors, known.width))
    along = [s for s in nest.statements if isinstance(s, Reduce) and lane in s.over]
    if lane != known.row:
        inside = any(nest.loops or s.target.args[1] for s in along)
        return found if inside else (*found, vectors)
    apart = any(lane in p.vars() for s in nest.statements for _, i in loads(s.value) for p in i[:-1])
    maps = all(isinstance(s, Map) for s in nest.statements)
    return (vectors, *found) if maps and apart else found


def access(array: str, index: Index, write: bool, nest: Nest, known: Known) -> Iterator[Access]:
    """The access, unless it is of registers."""
    if not known.holds(array):
        return
    place = known.places.get(array)
    absolute: set[str] = set()
    relative: set[str] = set()
    for k, p in enumerate(index):
        local = place is not None and p.as_var() == place.axes[k]
        (relative if local else absolute).update(p.vars())
        if place is not None and not local and known.phase.axis(place.axes[k]).role != "whole":
            absolute.add(place.axes[k])
    used = frozenset(v for p in index for v in p.vars())
    rows = nest.lane if nest.lane == known.row else None
    apart = write and nest.lane in used and not unit(index, nest.lane) and array not in known.others
    plain = tuple(p.as_var() for p in index)
    ordered = (tuple(sorted(absolute)), tuple(sorted(relative - absolute)))
    yield Access(array, index, write, place, rows, nest.lane if apart else None, plain, used, *ordered)


def unit(index: Index, lane: str | None) -> bool:
    """Whether lanes that follow one another are elements that do."""
    if not index or lane is None or any(lane in p.vars() for p in index[:-1]):
        return False
    return index[-1].coefficient(lane) == const(1)
