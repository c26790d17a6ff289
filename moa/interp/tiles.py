"""The meaning of Tiles: every work item of every phase in NumPy, statement by statement over whole tiles.

Scratch tiles start as NaN in each work item, those along a loop's axis in each of its rounds, and nothing may read an
element before it is written. Arrays in memory that a phase stores start as NaN too; it stores each element once. Loads
are checked where their value is wanted, so a load outside an axis is legal in the branch of a select not taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any, assert_never

import numpy as np

from moa.interp.scalar import NO_REFS, Array, Axes, Box
from moa.normal import Cond, Index
from moa.ops import OPERATORS, REDUCERS
from moa.poly import Poly
from moa.tiles import Loop, Map, Nest, Phase, Reduce, Sift, Tiles, TileStmt, When, statements

UNSET: dict[str, tuple[Any, Any]] = {"i": (np.iinfo(np.int64).min, np.int64), "b": (False, np.bool_)}
"""What elements of arrays in memory are before they are stored, beside NaN for floats; and their type."""


def run(
    tiles: Tiles,
    arrays: Mapping[str, Any],
    sizes: Mapping[str, int],
    params: Mapping[str, Any] | None = None,
    dtype: Any = np.float64,
) -> dict[str, Array]:
    """Every array that is not an input, by name.

    sizes    every size of the program
    params   integer and float parameters of rank 0; `lowest` is the lowest finite number of dtype
    Errors: AssertionError for a load out of bounds or of what was not written, a range visited twice, an element
    stored twice or not at all
    """
    machine = _Run(tiles, arrays, sizes, params or {}, np.dtype(dtype))
    with np.errstate(all="ignore"):
        for name, s in tiles.hosts:
            value = Box({}, {}, machine.params, np.asarray(True), NO_REFS, np.dtype(np.float64)).scalar(s)
            machine.params[name] = machine.dtype.type(value)
        for phase in tiles.phases:
            _PhaseRun(machine, phase).run()
    for name, count in machine.stores.items():
        assert (count == 1).all(), f"no phase stores {name}"
    return {a.name: machine.arrays[a.name] for a in tiles.arrays if a.role != "input"}


class _Run:
    """The memory of one call: arrays by name, and how often each element of those being made was stored."""

    def __init__(
        self, tiles: Tiles, arrays: Mapping[str, Any], sizes: Mapping[str, int], params: Mapping[str, Any], dtype: Any
    ) -> None:
        self.dtype = dtype
        self.params: dict[str, Any] = {"lowest": float(np.finfo(dtype).min), **sizes, **params}
        self.arrays: dict[str, Array] = {k: np.asarray(v) for k, v in arrays.items()}
        self.stores: dict[str, Array] = {}
        box = Box({}, self.arrays, self.params, np.asarray(True), NO_REFS, dtype)
        for a in tiles.arrays:
            shape = tuple(int(box.poly(p)) for p in a.shape)
            if a.role == "input":
                found = self.arrays[a.name].shape
                assert found == shape, f"{a.name} has shape {found}, expected {shape}"
            else:
                self.arrays[a.name] = np.full(shape, *UNSET.get(a.kind, (np.nan, dtype)))
                self.stores[a.name] = np.zeros(shape, np.int64)


class _TileBox(Box):
    """A box whose arrays include tiles: those are addressed relative to the origins of their axes."""

    __slots__ = ("phase",)

    def __init__(self, phase: _PhaseRun, axes: Axes, mask: Array) -> None:
        machine = phase.machine
        super().__init__(axes, machine.arrays, machine.params, mask, NO_REFS, machine.dtype)
        self.phase = phase

    def under(self, c: Array) -> Box:
        return _TileBox(self.phase, self.axes, self.mask & c)

    def owned(self) -> Box:
        """This box over the numbers of the items that stored each element in place of the elements."""
        return Box(self.axes, {**self.arrays, **self.phase.owner}, self.params, self.mask, NO_REFS, self.dtype)

    def load(self, array: str, index: Index) -> Any:
        phase = self.phase
        if array not in phase.values:
            if array in phase.owner:
                owner = Box.load(self.owned(), array, index)
                assert ((owner == phase.item) | ~self.mask).all(), f"{array} is loaded where this item did not store it"
            elif array in phase.machine.stores:
                assert (phase.machine.stores[array] == 1).all(), f"{array} is loaded before it is stored"
            return super().load(array, index)
        at = []
        for p, axis in zip(index, phase.phase.tile(array).axes, strict=True):  # type: ignore[union-attr]
            origin, count = phase.span(axis)
            x = np.asarray(self.poly(p)) - origin
            bad = ((x < 0) | (x >= count)) & self.mask
            assert not bad.any(), f"{array}[{', '.join(map(str, index))}]: outside {count} of {axis} from {origin}"
            at.append(np.clip(x, 0, max(count - 1, 0)))
        values, written = phase.values[array], phase.written[array]
        if any(extent == 0 for extent in values.shape):
            return np.zeros(np.broadcast_shapes(*(x.shape for x in at)), values.dtype)
        known = written[tuple(at)] | ~self.mask
        assert known.all(), f"{array}[{', '.join(map(str, index))}] is read before it is written"
        return values[tuple(at)]


class _PhaseRun:
    """One phase: its tiles, and where its loops are."""

    def __init__(self, machine: _Run, phase: Phase) -> None:
        self.machine, self.phase = machine, phase
        self.item = 0
        self.owner: dict[str, Array] = {}  # arrays that this phase stores -> the item that stored each element
        self.values: dict[str, Array] = {}
        self.written: dict[str, Array] = {}
        self.spans: dict[str, tuple[int, int]] = {}  # axis -> (origin, count) of items and loops
        self.visited: dict[str, Array] = {}  # loop axis -> positions that a round of this item had
        for name in {x.target.args[0] for x in statements(phase.body)} & set(machine.stores):
            assert not machine.stores[name].any(), f"{name} is stored by two phases"
            self.owner[name] = np.full(machine.stores[name].shape, -1)

    def run(self) -> None:
        axes = [self.phase.axis(v) for v in self.phase.items]
        extents = [self.number(a.extent) for a in axes]
        steps = [range(0, extent, a.step) for a, extent in zip(axes, extents, strict=True)]
        for self.item, origins in enumerate(product(*steps)):
            self.spans = {
                a.name: (o, min(a.step, extent - o)) for a, o, extent in zip(axes, origins, extents, strict=True)
            }
            self.visited = {}
            for t in self.phase.tiles:
                self.clear(t.name)
            self.body(self.phase.body)
        for name in sorted(self.owner):
            count = self.machine.stores[name]
            assert (count == 1).all(), f"phase {self.phase.name} stores an element of {name} {count.min()} times"

    def clear(self, tile: str) -> None:
        axes = self.phase.tile(tile).axes  # type: ignore[union-attr]
        shape = tuple(self.number(self.phase.axis(a).capacity) for a in axes)
        self.values[tile] = np.full(shape, np.nan, self.machine.dtype)
        self.written[tile] = np.zeros(shape, bool)

    def span(self, axis: str) -> tuple[int, int]:
        """(origin, count) of the present tiles along an axis."""
        a = self.phase.axis(axis)
        return (0, self.number(a.extent)) if a.role == "whole" else self.spans[axis]

    # where we are ----------------------------------------------------------------------------------------------------

    def places(self) -> dict[str, Array]:
        """Index variables that have one value here: origins of tiles, and axes that are taken one by one."""
        out: dict[str, Array] = {}
        for v, (origin, _) in self.spans.items():
            out[f"{v}@0"] = np.asarray(origin)
            if self.single(v):
                out[v] = np.asarray(origin)
        return out

    def single(self, axis: str) -> bool:
        a = self.phase.axis(axis)
        return a.role != "whole" and a.step == 1

    def number(self, p: Poly) -> int:
        return int(_TileBox(self, self.places(), np.asarray(True)).poly(p))

    # statements ------------------------------------------------------------------------------------------------------

    def body(self, body: tuple[TileStmt, ...]) -> None:
        for s in body:
            match s:
                case Loop():
                    self.loop(s)
                case When():
                    holds = bool(_TileBox(self, self.places(), np.asarray(True)).cond(s.cond))
                    self.body(s.body if holds else s.other)
                case Sift():
                    held = [self.everywhere(c, s.axis) for c in s.conds]
                    if all(x.any() for x in held):
                        self.body(s.every if all(x.all() for x in held) else s.some)
                case Nest():
                    for x in s.statements:
                        self.statement(s, x)
                case _:
                    assert_never(s)

    def loop(self, s: Loop) -> None:
        a = self.phase.axis(s.axis)
        lo, hi, extent = self.number(s.lo), self.number(s.hi), self.number(a.extent)
        assert lo >= hi or (lo >= 0 and hi <= extent), f"{s.axis} in {lo} .. {hi}, of extent {extent}"
        if s.hull and lo < hi:
            self.spans[s.axis] = (lo, hi - lo)
            left = np.flatnonzero(np.logical_and.reduce([self.some_row(c, s.axis) for c in s.hull]))
            del self.spans[s.axis]
            lo, hi = (lo + int(left[0]), lo + int(left[-1]) + 1) if len(left) else (lo, lo)
        visited = self.visited.setdefault(s.axis, np.zeros(extent, bool))
        for origin in range(lo, hi, a.step):
            count = min(a.step, hi - origin)
            assert not visited[origin : origin + count].any(), f"{s.axis} from {origin} is visited twice"
            visited[origin : origin + count] = True
            self.spans[s.axis] = (origin, count)
            for t in self.phase.tiles:
                if s.axis in t.axes:
                    self.clear(t.name)
            self.body(s.body)
            del self.spans[s.axis]

    def some_row(self, c: Cond, axis: str) -> Array:
        """Whether a condition holds for some row of the work item, for each position of an axis in its span."""
        found = self.everywhere(c, axis)
        return np.asarray(found.any(axis=tuple(range(found.ndim - 1))))

    def everywhere(self, c: Cond, axis: str) -> Array:
        """The values of a condition at all rows of the work item and all positions of an axis in its span."""
        names = [a.name for a in self.phase.axes if a.role == "item" and not self.single(a.name)]
        axes = self.box_axes((*names, axis) if axis else tuple(names))
        shape = np.broadcast_shapes(*(x.shape for x in axes.values()), ())
        return np.broadcast_to(np.asarray(_TileBox(self, axes, np.ones(shape, bool)).cond(c)), shape)

    def statement(self, nest: Nest, s: Map | Reduce) -> None:
        array, index = s.target.args
        over = s.over if isinstance(s, Reduce) else ()
        used = {v for p in index for v in p.vars()}
        names = [a.name for a in self.phase.axes if a.name in used and not self.single(a.name)]
        assert not set(over) & used, f"{s} reduces an axis of its target"
        own = {a for a, _ in nest.loops} | {nest.lane}
        assert set(names) <= own, f"{s}: the nest lacks an axis of the target"
        axes = self.box_axes((*names, *over))
        left = {v for v in s.value.vars() if v not in axes}
        assert not left, f"{s}: {', '.join(sorted(left))} has no value"
        shape = np.broadcast_shapes(*(x.shape for x in axes.values()), ()) if axes else ()
        box = _TileBox(self, axes, np.ones(shape, bool))
        values = np.broadcast_to(np.asarray(box.scalar(s.value)), shape)
        at_axes = self.box_axes(tuple(names))
        if isinstance(s, Reduce):
            total = reduced(s.op, values, len(over))
            if not s.fresh:
                inside = _TileBox(self, at_axes, np.ones(total.shape, bool))
                total = combined(s.op, np.broadcast_to(inside.load(array, index), total.shape), total)
            values = total
        self.store(array, index, at_axes, np.asarray(values))

    def box_axes(self, names: tuple[str, ...]) -> Axes:
        """Index arrays of axes of tiles, over global values, and what has one value here."""
        out: dict[str, Array] = dict(self.places())
        rank = len(names)
        for k, v in enumerate(names):
            origin, count = self.span(v)
            out[v] = np.arange(origin, origin + count).reshape((1,) * k + (-1,) + (1,) * (rank - k - 1))
        return out

    def store(self, array: str, index: Index, axes: Axes, values: Array) -> None:
        box = _TileBox(self, axes, np.ones(values.shape, bool))
        at = [np.broadcast_to(np.asarray(box.poly(p)), values.shape) for p in index]
        if array in self.values:
            tile = self.phase.tile(array)
            assert tile is not None
            at = [x - self.span(a)[0] for x, a in zip(at, tile.axes, strict=True)]
            target, count = self.values[array], None
        else:
            assert array in self.owner, f"{array} is only read"
            target, count = self.machine.arrays[array], self.machine.stores[array]
        for axis, x in enumerate(at):
            inside = (x >= 0) & (x < target.shape[axis])
            assert inside.all(), f"a store to {array}[{', '.join(map(str, index))}] on axis {axis}"
        target[tuple(at)] = values.astype(target.dtype)
        if count is None:
            self.written[array][tuple(at)] = True
        else:
            np.add.at(count, tuple(at), 1)
            self.owner[array][tuple(at)] = self.item


def reduced(op: str, values: Array, axes: int) -> Array:
    """op over the last `axes` axes. A *_ref operator drops a NaN: what it bounds reaches the result by itself."""
    operator = REDUCERS[op.removesuffix("_ref")]
    assert operator.identity is not None, op
    if op.endswith("_ref"):
        values = np.where(np.isnan(values), operator.identity, values)
    last = tuple(range(values.ndim - axes, values.ndim))
    ufunc: Any = operator.numpy
    return np.asarray(ufunc.reduce(values, axis=last, initial=operator.identity))


def combined(op: str, old: Array, new: Array) -> Array:
    """op(old, new)."""
    if op.endswith("_ref"):
        better = new > old if op == "max_ref" else new < old
        return np.where(better, new, old)
    return np.asarray(OPERATORS[op].numpy(old, new))
