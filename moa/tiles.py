"""Tiles: placement. Statements on tiles inside loops over tiles.

A tile holds the part of an equation that one work item needs at a time. Scalars and conditions are those of the
Normal, over the same index variables with their *global* values, so that a statement reads like the equation it comes
from; a tile is addressed by its axes, and lowering subtracts their origins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from moa.normal import ArrayInput, Axis, Cond, Scalar, head_text
from moa.ops import Kind
from moa.poly import Poly


@dataclass(frozen=True, slots=True)
class TileAxis:
    """An axis of tiles inside a phase.

    role    "item": split over work items, `step` wide; "loop": bound by a Loop, at most `step` wide;
            "whole": all of it at once
    extent  of the array axis
    step    how many at a time; the capacity of tiles along it ("whole": 0, which is the extent; or the most that there
            are, where the extent depends on a loop)
    """

    name: str
    role: Literal["item", "loop", "whole"]
    extent: Poly
    step: int = 0

    @property
    def capacity(self) -> Poly:
        from moa.poly import const

        return const(self.step) if self.step else self.extent


@dataclass(frozen=True, slots=True)
class Tile:
    """The last axis is contiguous.

    space  "scratch": workspace of the thread; "block": lives inside one nest only; "staged": scratch that holds an
           operand from its copying to its last use in the same body, and may be another tile's elsewhere
    pairs  the axis of which two neighbours are one word: bfloat16 numbers, rounded to them when they are written
    """

    name: str
    axes: tuple[str, ...]
    space: Literal["scratch", "block", "staged"] = "scratch"
    pairs: str = ""


@dataclass(frozen=True, slots=True)
class Map:
    """target = value for every position of the nest; `target` is a load of a tile or of an array."""

    target: Scalar
    value: Scalar

    def __str__(self) -> str:
        return f"{self.target} = {self.value}"


@dataclass(frozen=True, slots=True)
class Sorted:
    """How a count of the elements that come before each one is made: they are merged into order, by their keys.

    axis  of the target: all of it is counted at once
    key   over the reduced axis
    """

    axis: str
    key: Scalar

    def __str__(self) -> str:
        return f"by the order of {self.key}"


@dataclass(frozen=True, slots=True)
class Placed:
    """How a reduction over the elements that belong at one place is made: each is brought to its place.

    axis   of the target: the place, and all of it is made at once
    at     the place of an element, over the reduced axis; outside the target's axis it is none
    value  what is reduced, over the reduced axis: the identity where an element does not take part
    """

    axis: str
    at: Poly
    value: Scalar

    def __str__(self) -> str:
        return f"by placing at {self.at}"


@dataclass(frozen=True, slots=True)
class Reduce:
    """target = reduce(op, over, value), starting from the target's present value, or afresh.

    Axes in `over` that the nest loops over (or its lane axis) are reduced across the whole nest, the others inside it.

    how     a cheaper way than to visit every pair of a target and an element; the same result
    paired  the value is a product of bfloat16 numbers, and two neighbours along the axis are multiplied at once
    """

    target: Scalar
    op: str
    value: Scalar
    over: tuple[str, ...]
    fresh: bool
    how: Sorted | Placed | None = None
    paired: bool = False

    def __str__(self) -> str:
        sign = "=" if self.fresh else f"{self.op}="
        by = f", {self.how}" if self.how else ""
        two = " by 2" if self.paired else ""
        return f"{self.target} {sign} {self.op}_{{{', '.join(self.over)}{two}}} {self.value}{by}"


@dataclass(frozen=True, slots=True)
class Bounds:
    """The positions of an axis, lo .. hi, that one vector of rows visits, over the origin `row@v` of the vector."""

    axis: str
    lo: Poly
    hi: Poly

    def __str__(self) -> str:
        return f"{self.axis} in {self.lo} .. {self.hi}"


@dataclass(frozen=True, slots=True)
class Nest:
    """Statements that share one loop over register blocks: the unit of lowering.

    loops    ((axis, block), ...): outermost first
    lane     the axis in the lanes of vectors, or None
    vectors  of the lane axis in a block, where it is not the row of the work item
    bounds   what each vector of rows visits of an axis; vectors of rows are then a loop around the nest
    ahead    the axis of the loop around it for whose next round the arrays it reads by vectors are fetched, or None
    """

    loops: tuple[tuple[str, int], ...]
    lane: str | None
    statements: tuple[Map | Reduce, ...]
    vectors: int = 1
    ahead: str | None = None
    bounds: Bounds | None = None


@dataclass(frozen=True, slots=True)
class Loop:
    """for tiles of `axis` from lo to hi, at most the axis' step wide.

    kind    how the domain meets these tiles: "full": nothing is tested; "partial": each element is; "classified": each
            tile is, by `When`s in the body
    hull    conditions on data: the loop starts at the first position of which they are not refuted for all rows of the
            work item, and ends behind the last one
    """

    axis: str
    lo: Poly
    hi: Poly
    body: tuple[TileStmt, ...]
    kind: Literal["full", "partial", "classified"]
    hull: tuple[Cond, ...] = ()


@dataclass(frozen=True, slots=True)
class When:
    """body where cond, else other. cond is over origins of tiles (`j@0`), sizes, item variables: tested once a tile."""

    cond: Cond
    body: tuple[TileStmt, ...]
    other: tuple[TileStmt, ...] = ()


@dataclass(frozen=True, slots=True)
class Sift:
    """A round of a loop, by what its data say of all its positions and all rows of the work item together.

    axis    that of the loop; "" where conditions are of rows alone, and `every` and `some` the same
    every   where all conditions are found to hold everywhere
    some    where that is not found; nothing is done where one of them is found to hold nowhere
    """

    conds: tuple[Cond, ...]
    axis: str
    every: tuple[TileStmt, ...]
    some: tuple[TileStmt, ...]


TileStmt = Nest | Loop | When | Sift


@dataclass(frozen=True, slots=True)
class Phase:
    """A set of work items that may run in any order; it ends before the next begins.

    items       the axes that number the work items, outermost first: item w is a position in the grid of their tiles
    descending  the tiled item axis is walked from its end: the longest items come first
    """

    name: str
    items: tuple[str, ...]
    axes: tuple[TileAxis, ...]
    tiles: tuple[Tile, ...]
    body: tuple[TileStmt, ...]
    descending: bool = False

    def axis(self, name: str) -> TileAxis:
        return next(a for a in self.axes if a.name == name)

    def tile(self, name: str) -> Tile | None:
        return next((t for t in self.tiles if t.name == name), None)


@dataclass(frozen=True, slots=True)
class Array:
    """An array in memory: an input, an output, or an intermediate one in the caller's workspace."""

    name: str
    kind: Kind
    shape: tuple[Poly, ...]
    role: Literal["input", "output", "workspace"]


@dataclass(frozen=True, slots=True)
class Tiles:
    """hosts: scalars without index variables, evaluated once a call in float64 and rounded to the compute type."""

    name: str
    inputs: tuple[ArrayInput, ...]
    arrays: tuple[Array, ...]
    hosts: tuple[tuple[str, Scalar], ...]
    phases: tuple[Phase, ...]

    def array(self, name: str) -> Array | None:
        return next((a for a in self.arrays if a.name == name), None)

    def __str__(self) -> str:
        out = [f"{h} = {s}" for h, s in self.hosts]
        for p in self.phases:
            grid = ", ".join(f"{a} by {p.axis(a).step}" if p.axis(a).step > 1 else a for a in p.items)
            out.append(f"phase {p.name}: items ({grid}){' from the end' if p.descending else ''}")
            tiles = [
                f"{head_text(t.name, tuple((x, p.axis(x).extent) for x in t.axes))} {t.space}"
                + (f" in pairs of {t.pairs}" if t.pairs else "")
                for t in p.tiles
            ]
            out.append("  tiles " + "; ".join(tiles))
            out += tile_body_text(p.body, 1)
        return "\n".join(out)


def every(body: Iterable[TileStmt]) -> Iterator[TileStmt]:
    """The statements, and those inside each of them after it."""
    for s in body:
        yield s
        match s:
            case Loop():
                yield from every(s.body)
            case When():
                yield from every((*s.body, *s.other))
            case Sift():
                yield from every((*s.every, *s.some))


def nests(body: Iterable[TileStmt]) -> Iterator[Nest]:
    """Every nest in the statements and those inside them."""
    return (s for s in every(body) if isinstance(s, Nest))


def statements(body: Iterable[TileStmt]) -> Iterator[Map | Reduce]:
    """Every statement of these nests."""
    for nest in nests(body):
        yield from nest.statements


def tile_body_text(body: tuple[TileStmt, ...], depth: int) -> list[str]:
    pad = "  " * depth
    out: list[str] = []
    for s in body:
        match s:
            case Loop():
                hull = f", from the first to the last that may have {conds_text(s.hull)}" if s.hull else ""
                out.append(f"{pad}for {s.axis} in {s.lo} .. {s.hi} ({s.kind}){hull}:")
                out += tile_body_text(s.body, depth + 1)
            case When():
                out.append(f"{pad}when {s.cond}:")
                out += tile_body_text(s.body, depth + 1)
                if s.other:
                    out.append(f"{pad}else:")
                    out += tile_body_text(s.other, depth + 1)
            case Sift(axis=""):
                out.append(f"{pad}where some row may have {conds_text(s.conds)}:")
                out += tile_body_text(s.every, depth + 1)
            case Sift():
                out.append(f"{pad}where all have {conds_text(s.conds)}:")
                out += tile_body_text(s.every, depth + 1)
                out.append(f"{pad}where some may have {conds_text(s.conds)}:")
                out += tile_body_text(s.some, depth + 1)
            case Nest():
                loops = ", ".join(f"{a} by {b}" for a, b in s.loops)
                by = f" by {s.vectors}" if s.vectors > 1 else ""
                ahead = f", {s.ahead} ahead" if s.ahead else ""
                each = f", each vector {s.bounds}" if s.bounds else ""
                out.append(f"{pad}nest ({loops}) lanes {s.lane}{by}{ahead}{each}:")
                out += [f"{pad}  {x}" for x in s.statements]
    return out


def conds_text(conds: tuple[Cond, ...]) -> str:
    return " and ".join(f"({c})" for c in conds)


# fmt: off
__all__ = [
    "Array", "ArrayInput", "Axis", "Bounds", "Loop", "Map", "Nest", "Phase", "Placed", "Reduce", "Sift", "Sorted",
    "Tile", "TileAxis", "Tiles", "When", "every", "nests", "statements",
]
# fmt: on
