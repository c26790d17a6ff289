"""Which parts of (rows x keys) the loops of a placed kernel enter at given sizes, and which of them they test.

Everything is read off the ranges of the loops over tiles; the formula's own mask is not asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from moa.explain.names import Names
from moa.explain.placed import on_page, tests_of, tile_letters
from moa.interp.scalar import NO_REFS, Box
from moa.normal import Cond
from moa.pipeline import Placed
from moa.poly import Atom, Poly
from moa.text import MoaError
from moa.tiles import Loop, Phase, TileStmt, When

Kind = Literal["full", "partial", "empty"]
Grid = NDArray[Any]

KINDS: tuple[Kind, ...] = ("full", "partial", "empty")
MOST_BANDS = 1 << 14
MOST_TILES = 1 << 22
MOST_SIZE = 1 << 40


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring tiles of one kind: positions lo <= j < hi of the keys."""

    lo: int
    hi: int
    kind: Kind
    tiles: int


@dataclass(frozen=True, slots=True)
class Band:
    """The rows lo <= i < hi of one work item, and what its loops over the keys do, in their order."""

    lo: int
    hi: int
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a panel: its letter, how many positions it has, how many of them a tile has at most."""

    letter: str
    extent: int
    step: int


@dataclass(frozen=True, slots=True)
class Panel:
    """The loops of one phase over one axis.

    tests   the conditions that full tiles still test, of data or of a formula's own choice
    note    what of the other item axes is drawn, where the ranges depend on them
    """

    phase: str
    rows: Side
    keys: Side
    bands: tuple[Band, ...]
    tests: tuple[str, ...] = ()
    note: str = ""

    def tiles(self, kind: Kind) -> int:
        return sum(r.tiles for b in self.bands for r in b.runs if r.kind == kind)

    def positions(self, kind: Kind) -> int:
        """How many (row, key) pairs tiles of this kind hold; those in no tile are empty."""
        if kind == "empty":
            return self.rows.extent * self.keys.extent - self.positions("full") - self.positions("partial")
        return sum((r.hi - r.lo) * (b.hi - b.lo) for b in self.bands for r in b.runs if r.kind == kind)


def panels(names: Names, placed: Placed, given: Mapping[str, Any]) -> tuple[Panel, ...]:
    """The panels of every phase at given sizes, integer parameters, and arrays where ranges are read from data.

    Errors: MoaError of kind "argument" where a value is missing or unfit, or the picture would be too large
    """
    _checked(placed, given)
    return tuple(
        _Drawing(names, phase, given).panel(axis, tuple(loops))
        for phase in placed.tiles.phases
        for axis, loops in groupby((s for s in phase.body if isinstance(s, Loop)), key=lambda s: s.axis)
    )


def needed(placed: Placed) -> tuple[str, ...]:
    """The sizes, integer parameters and arrays of integers that decide where the loops over tiles go."""
    out: dict[str, None] = {}
    for phase in placed.tiles.phases:
        loops = tuple(s for s in phase.body if isinstance(s, Loop))
        if not loops:
            continue
        axes = {s.axis for s in loops} | _moving(loops).intersection(phase.items) | {_row(phase, loops)}
        found = {x for a in phase.axes if a.name in axes for x in a.extent.atoms()}.union(*map(_atoms, loops))
        out |= dict.fromkeys(sorted(a.name for a in found if a.kind in ("size", "int", "load")))
    return tuple(out)


def _moving(loops: Iterable[Loop]) -> set[str]:
    """The axes that ranges depend on."""
    return {str(a.name).partition("@")[0] for s in loops for a in _atoms(s) if a.kind == "var"}


def _row(phase: Phase, loops: Iterable[Loop]) -> str | None:
    """The item axis down the page: the tiled one, else the last that the ranges depend on, else the last."""
    moving = _moving(loops)
    tiled = [a for a in phase.items if phase.axis(a).step > 1]
    order = (*tiled, *(a for a in reversed(phase.items) if a in moving), *reversed(phase.items))
    return next(iter(order), None)


def _atoms(s: Loop) -> frozenset[Atom]:
    return s.lo.atoms().union(s.hi.atoms(), *(c.atoms() for c in _conditions(s.body)))


def _conditions(body: Iterable[TileStmt]) -> Iterator[Cond]:
    for s in body:
        if isinstance(s, When):
            yield s.cond
            yield from _conditions((*s.body, *s.other))


def _checked(placed: Placed, given: Mapping[str, Any]) -> None:
    wanted = needed(placed)
    missing = [x for x in wanted if x not in given]
    if missing:
        hint = f"the loops over tiles depend on {', '.join(wanted)}"
        raise MoaError("argument", f"no value for {', '.join(missing)}", None, hint)
    ranks = {a.name: len(a.shape) for a in placed.tiles.arrays}
    for name in wanted:
        value = given[name]
        if name in ranks:
            if not (isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.ndim == ranks[name]):
                text = f"the loops over tiles read {name}, which is not an array of integers with {ranks[name]} axes"
                raise MoaError("argument", text, None, f"pass {name} as in a call")
        elif not isinstance(value, int):
            raise MoaError("argument", f"{name} is an array", None, "give a whole number")


class _Drawing:
    """One phase at given values: item axes other than that of the rows stand at their first position."""

    def __init__(self, names: Names, phase: Phase, given: Mapping[str, Any]) -> None:
        self.phase = phase
        self.letters = tile_letters(names, phase)
        self.arrays = {k: v for k, v in given.items() if isinstance(v, np.ndarray)}
        self.values = {k: v for k, v in given.items() if isinstance(v, int)}
        self.at: dict[str, Grid] = {}
        for a in phase.items:
            self.stand(a, np.asarray(0))

    def panel(self, axis: str, loops: tuple[Loop, ...]) -> Panel:
        row, moving = _row(self.phase, loops), _moving(loops)
        rows, keys = self.side(row), self.side(axis)
        if -(-rows.extent // rows.step) > MOST_BANDS:
            text = f"{rows.extent:,} {rows.letter} in tiles of {rows.step} are more rows of tiles than {MOST_BANDS:,}"
            raise MoaError("argument", text, None, "give smaller sizes: the pattern is the same")
        others = [a for a in self.phase.items if a in moving and a != row]
        starts = range(0, rows.extent if all(self.side(a).extent for a in others) else 0, rows.step)
        if row is not None:
            self.stand(row, np.asarray(starts, np.int64).reshape(-1, 1))
        runs: list[list[Run]] = [[] for _ in starts]
        for s in loops if starts else ():
            for own, found in zip(runs, self.runs(s, len(starts)), strict=True):
                own += found
        bands = tuple(
            Band(lo, min(lo + rows.step, rows.extent), tuple(own)) for lo, own in zip(starts, runs, strict=True)
        )
        note = f"drawn for {', '.join(f'{self.letters[a]} = 0' for a in others)}" if others else ""
        return Panel(self.phase.name, rows, keys, bands, self.tests(loops), note)

    def side(self, axis: str | None) -> Side:
        if axis is None:
            return Side("", 1, 1)
        a = self.phase.axis(axis)
        return Side(self.letters[axis], int(self.number(a.extent)), a.step)

    def tests(self, loops: Iterable[Loop]) -> tuple[str, ...]:
        found = (c for s in loops if s.kind != "partial" for c in tests_of(s))
        return tuple(dict.fromkeys(on_page(str(c), self.letters) for c in found))

    # where the loops go

    def stand(self, axis: str, origin: Grid) -> None:
        self.at[f"{axis}@0"] = origin
        if self.phase.axis(axis).step == 1:
            self.at[axis] = origin

    def box(self) -> Box:
        return Box(self.at, self.arrays, self.values, np.asarray(True), NO_REFS, np.dtype(np.float64))

    def number(self, p: Poly) -> Grid:
        return np.asarray(self.box().poly(p))

    def runs(self, s: Loop, bands: int) -> Iterator[list[Run]]:
        """For each band, what one loop does in it."""
        step = self.phase.axis(s.axis).step
        lo, hi = (np.broadcast_to(self.number(p), (bands, 1)) for p in (s.lo, s.hi))
        if s.kind != "classified":
            for a, b in zip(lo[:, 0].tolist(), hi[:, 0].tolist(), strict=True):
                yield [Run(a, b, s.kind, -(-(b - a) // step))] if a < b else []
            return
        count = max(int((-(-(hi - lo) // step)).max()), 0)
        if bands * count > MOST_TILES:
            text = f"{bands * count:,} tiles would have to be classified, more than {MOST_TILES:,}"
            raise MoaError("argument", text, None, "give smaller sizes")
        origins = lo + step * np.arange(count)
        self.stand(s.axis, origins)
        found = np.broadcast_to(self.kinds(s.body), origins.shape)
        del self.at[f"{s.axis}@0"]
        for row, end, kinds in zip(origins.tolist(), hi[:, 0].tolist(), found.tolist(), strict=True):
            inside = [(o, k) for o, k in zip(row, kinds, strict=True) if o < end]
            groups = [(KINDS[k], [o for o, _ in own]) for k, own in groupby(inside, key=lambda x: x[1])]
            yield [Run(own[0], min(own[-1] + step, end), kind, len(own)) for kind, own in groups if kind != "empty"]

    def kinds(self, body: tuple[TileStmt, ...]) -> Grid:
        """For each tile of a classified loop its place in KINDS: `When`s guard what empty tiles skip, then choose."""
        match body:
            case (When(cond, inner, ()),):
                return np.where(self.box().cond(cond), self.kinds(inner), KINDS.index("empty"))
            case (When(cond),):
                return np.where(self.box().cond(cond), KINDS.index("full"), KINDS.index("partial"))
            case _:
                return np.asarray(KINDS.index("partial"))
