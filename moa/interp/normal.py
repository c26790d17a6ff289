"""The meaning of a Normal: every equation over its whole box in NumPy, loads checked where a value is demanded.

`run` computes all arrays; a Fold runs tile by tile along its axis, which is the definition of state, move, add and
finish. `run_halves` folds two parts of the axis apart and merges them: the merge law.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from moa.interp.recurrence import demand, in_order, run_recurrence
from moa.interp.scalar import NO_REFS, Array, Axes, Box, Refs
from moa.normal import (
    Axis,
    Cond,
    Eq,
    Fold,
    Member,
    Normal,
    Recurrence,
    Scalar,
    both,
    cond_loads,
    map_scalar,
    negate,
    rename,
)
from moa.ops import OPERATORS, REDUCERS
from moa.poly import Poly

Demanded = dict[str, Array]  # per array the elements that are used
States = dict[str, Array]  # per state name its values
Held = dict[str, list[Array]]  # per Fold member the references that its states are relative to
Span = tuple[int, int]


def run(
    normal: Normal,
    arrays: Mapping[str, Any],
    sizes: Mapping[str, int],
    params: Mapping[str, Any] | None = None,
    tile: int | None = None,
    dtype: Any = np.float64,
    lag: float = 0.0,
) -> dict[str, Array]:
    """The array of every equation and Fold member by name.

    sizes    every size of the program
    params   integer and float parameters of rank 0; `lowest` is the lowest finite number of dtype
    tile     elements of a Fold's axis taken at a time; None takes all
    lag      how far references may stay behind what they refer to, before the states of a Fold are moved to it
    Elements that nothing demands are NaN. Errors: AssertionError for a load out of bounds
    """
    machine = _Run(normal, arrays, sizes, params, dtype)
    machine.lag = lag
    return machine.all(lambda f, x: _tiles(x, tile))


def run_halves(
    normal: Normal,
    arrays: Mapping[str, Any],
    sizes: Mapping[str, int],
    params: Mapping[str, Any] | None = None,
    cuts: Sequence[int] = (),
    tree: Callable[[int], Any] | None = None,
    dtype: Any = np.float64,
) -> dict[str, Array]:
    """As `run`, every Fold computed in parts [0, cuts[0]), [cuts[0], cuts[1]) .. that are then merged.

    tree   given the number of parts, a nested pair of part numbers, the order of merging; left to right if None
    """

    def left(count: int) -> Any:
        out: Any = 0
        for k in range(1, count):
            out = (out, k)
        return out

    machine = _Run(normal, arrays, sizes, params, dtype)
    machine.merging = left if tree is None else tree
    return machine.all(lambda f, x: [(a, b) for a, b in zip((0, *cuts), (*cuts, x), strict=True)])


def _tiles(extent: int, tile: int | None) -> list[Span]:
    step = max(extent, 1) if tile is None else tile
    return [(a, min(a + step, extent)) for a in range(0, extent, step)]


def unnamed(f: Fold) -> Fold:
    """The Fold with its named maps and the references they load put back into the pieces."""
    bodies: dict[str, Eq] = {}
    back = {name: r for r, name in f.references().items()}

    def put(s: Scalar, refs: tuple[Scalar, ...]) -> Scalar:
        def node(x: Scalar) -> Scalar | None:
            if x.op != "load":
                return None
            if x.args[0] in back:
                return Scalar("ref", (refs.index(back[x.args[0]]), "new"))
            e = bodies.get(x.args[0])
            if e is None:
                return None
            return put(rename(e.body, {v: p for (v, _), p in zip(e.outer, x.args[1], strict=True)}), refs)

        return map_scalar(s, node)

    bodies.update({e.name: e for e in f.maps})
    members = tuple(
        replace(m, pieces=tuple((c, tuple(put(b, m.refs) for b in basis)) for c, basis in m.pieces)) for m in f.members
    )
    return replace(f, members=members, maps=())


class _Run:
    """One evaluation of a Normal."""

    def __init__(
        self, normal: Normal, arrays: Mapping[str, Any], sizes: Mapping[str, int], params: Any, dtype: Any
    ) -> None:
        equations = tuple(unnamed(e) if isinstance(e, Fold) else e for e in normal.equations)
        self.normal, self.dtype = replace(normal, equations=equations), np.dtype(dtype)
        self.params: dict[str, Any] = {"lowest": float(np.finfo(self.dtype).min), **sizes, **(params or {})}
        self.arrays: dict[str, Array] = {k: np.asarray(v) for k, v in arrays.items()}
        self.merging: Callable[[int], Any] | None = None
        self.lag = 0.0

    def extent(self, p: Poly) -> int:
        return int(Box({}, self.arrays, self.params, np.asarray(True), NO_REFS, self.dtype).poly(p))

    def axes(self, outer: Sequence[Axis], span: tuple[str, Span] | None = None) -> Axes:
        """Index arrays of the outer axes and, last, of a span of one more axis."""
        names = [v for v, _ in outer]
        ranges = [np.arange(self.extent(p)) for _, p in outer]
        if span is not None:
            names.append(span[0])
            ranges.append(np.arange(*span[1]))
        rank = len(names)
        return {
            v: r.reshape((1,) * k + (-1,) + (1,) * (rank - k - 1))
            for k, (v, r) in enumerate(zip(names, ranges, strict=True))
        }

    def box(self, axes: Axes, mask: Array, refs: Refs = NO_REFS) -> Box:
        shape = np.broadcast_shapes(*(np.shape(x) for x in axes.values()))
        return Box(axes, self.arrays, self.params, np.broadcast_to(mask, shape), refs, self.dtype)

    def full(self, box: Box, values: Any) -> Array:
        return np.broadcast_to(np.asarray(values), box.mask.shape)

    # evaluation --------------------------------------------------------------------------------------------------

    def all(self, spans: Callable[[Fold, int], list[Span]]) -> dict[str, Array]:
        demanded = _Demands(self).all()
        out: dict[str, Array] = {}
        with np.errstate(all="ignore"):
            for e in in_order(self.normal):
                if isinstance(e, Recurrence):
                    out |= run_recurrence(self, e)
                    continue
                if isinstance(e, Fold):
                    out |= self.fold(e, demanded, spans(e, self.extent(e.axis[1])))
                    continue
                values = self.map(e, demanded[e.name]) if e.kind == "map" else self.reduce(e, demanded[e.name])
                kind = {"f": self.dtype, "i": np.dtype(np.int64), "b": np.dtype(bool)}[e.dtype]
                self.arrays[e.name] = out[e.name] = values.astype(kind)
        return out

    def map(self, e: Eq, demanded: Array) -> Array:
        box = self.box(self.axes(e.outer), demanded)
        values = self.full(box, box.scalar(e.body))
        return np.where(demanded, values, np.nan) if e.dtype == "f" else np.where(demanded, values, 0)

    def reduce(self, e: Eq, demanded: Array) -> Array:
        assert e.red is not None
        span = (0, self.extent(e.red[1]))
        (total,) = self.add(e.op, e.outer, e.red[0], span, e.domain, [(c, (s,)) for c, s in e.pieces], demanded, {})
        return np.where(demanded, total, np.nan) if e.dtype == "f" else np.where(demanded, total, 0)

    def add(
        self,
        op: str,
        outer: Sequence[Axis],
        axis: str,
        span: Span,
        domain: Cond,
        pieces: Sequence[tuple[Cond, tuple[Scalar, ...]]],
        demanded: Array,
        refs: Mapping[tuple[int, str], Array],
    ) -> list[Array]:
        """op over a span of the axis of every component of the pieces."""
        operator = REDUCERS[op]
        base = self.box(self.axes(outer, (axis, span)), demanded[..., None])
        base.refs = {k: np.asarray(v)[..., None] for k, v in refs.items()}
        inside = base.under(self.full(base, base.cond(domain)))
        boolean = isinstance(operator.identity, bool)
        kind = np.dtype(bool) if boolean else self.dtype
        assert operator.identity is not None
        values = [np.full(base.mask.shape, operator.identity, kind) for _ in pieces[0][1]]
        for c, basis in pieces:
            box = inside.under(self.full(inside, inside.cond(c)))
            for k, b in enumerate(basis):
                values[k] = np.where(box.mask, box.scalar(b), values[k])
        return [operator.numpy.reduce(v, axis=-1, initial=operator.identity) for v in values]  # type: ignore[attr-defined]

    # folds -------------------------------------------------------------------------------------------------------

    def fold(self, f: Fold, demanded: Demanded, spans: list[Span]) -> dict[str, Array]:
        if self.merging is None:
            part = self.start(f)
            held: Held = {m.name: self.references(m, part) for m in f.members}
            for span in spans:
                part, held = self.tile(f, part, span, demanded, held)
            part = self.arrived(f, part, held)
        else:
            parts = [self.tile(f, self.start(f), span, demanded)[0] for span in spans]

            def merged(order: Any) -> States:
                if isinstance(order, int):
                    return parts[order]
                return self.merge(f, merged(order[0]), merged(order[1]))

            part = merged(self.merging(len(parts)))
        self.arrays |= part
        out: dict[str, Array] = {}
        for m in f.members:
            box = self.box(self.axes(m.outer), demanded[m.name])
            values = np.where(demanded[m.name], self.full(box, box.scalar(m.finish)), np.nan)
            self.arrays[m.name] = out[m.name] = values.astype(self.dtype)
        for name in part:
            del self.arrays[name]
        return out

    def start(self, f: Fold) -> States:
        """The states of an empty part."""
        shapes = {m.name: tuple(self.extent(p) for _, p in m.outer) for m in f.members}
        return {
            m.state(k): np.full(shapes[m.name], OPERATORS[m.op].identity, self.dtype)
            for m in f.members
            for k in range(m.width)
        }

    def references(self, m: Member, states: States) -> list[Array]:
        """What the references of a member are, given the states of earlier members."""
        shape = tuple(self.extent(p) for _, p in m.outer)
        box = self.box(self.axes(m.outer), np.ones(shape, bool))
        box.arrays = {**self.arrays, **states}
        return [self.full(box, box.scalar(r)) for r in m.refs]

    def moved(self, m: Member, states: States, old: list[Array], new: list[Array]) -> list[Array]:
        """The states of a member, kept relative to `old`, brought to `new`."""
        own = [states[m.state(k)] for k in range(m.width)]
        if not m.move:
            return own
        refs = {(k, "old"): x for k, x in enumerate(old)} | {(k, "new"): x for k, x in enumerate(new)}
        box = self.box(self.axes(m.outer), np.ones(own[0].shape, bool), refs)
        out = []
        for row in m.move:
            terms = [box.scalar(c) * x for c, x in zip(row, own, strict=True) if str(c) != "0"]
            out.append(self.full(box, sum(terms[1:], terms[0])))
        identity = OPERATORS[m.op].identity
        infinite = isinstance(identity, float) and np.isinf(identity)
        return [np.where(own[0] == identity, own[0], x) for x in out] if infinite else out

    def tile(
        self, f: Fold, states: States, span: Span, demanded: Demanded, held: Held | None = None
    ) -> tuple[States, Held]:
        """The states after one more tile, and the references they are relative to: per member, those, move, add.

        held  the references before the tile; those of the states if None
        """
        new: States = {}
        now: Held = {}
        for m in f.members:
            before = self.references(m, states) if held is None else held[m.name]
            true = self.references(m, {**states, **new})
            after = now[m.name] = [np.where(np.abs(x - y) <= self.lag, y, x) for x, y in zip(true, before, strict=True)]
            own = self.moved(m, states, before, after)
            refs = {(k, "new"): x for k, x in enumerate(after)}
            wanted = demanded[m.name]
            tile = self.add(m.op, m.outer, f.axis[0], span, both(f.domain, m.domain), m.pieces, wanted, refs)
            for k, (x, y) in enumerate(zip(own, tile, strict=True)):
                new[m.state(k)] = OPERATORS[m.op].numpy(x, y)
        return new, now

    def arrived(self, f: Fold, states: States, held: Held) -> States:
        """The states at the references that they end at."""
        new: States = {}
        for m in f.members:
            own = self.moved(m, states, held[m.name], self.references(m, {**states, **new}))
            new |= {m.state(k): x for k, x in enumerate(own)}
        return new

    def merge(self, f: Fold, a: States, b: States) -> States:
        """The states of two parts together: both moved to the references of the whole, then added."""
        new: States = {}
        for m in f.members:
            after = self.references(m, {**a, **new})
            left = self.moved(m, a, self.references(m, a), after)
            right = self.moved(m, b, self.references(m, b), after)
            for k, (x, y) in enumerate(zip(left, right, strict=True)):
                new[m.state(k)] = OPERATORS[m.op].numpy(x, y)
        return new


class _Demands:
    """Which elements of every array are used, from the outputs backwards.

    Structural conditions restrict what is demanded; a condition on floats does not (both branches are demanded).
    """

    def __init__(self, machine: _Run) -> None:
        self.machine = machine
        self.inputs = dict(machine.arrays)
        self.out: Demanded = {}

    def all(self) -> Demanded:
        m = self.machine
        for e in m.normal.equations:
            for name, outer in [(x.name, x.outer) for x in e.members] if isinstance(e, Fold) else [(e.name, e.outer)]:
                self.out[name] = np.full(tuple(m.extent(p) for _, p in outer), name in m.normal.outputs)
        for x in reversed(in_order(m.normal)):
            if isinstance(x, Recurrence):
                demand(self, x)
            elif isinstance(x, Fold):
                self.fold(x)
            elif x.kind == "map":
                self.touch(x.body, m.box(m.axes(x.outer), self.out[x.name]))
            else:
                assert x.red is not None
                pieces = [(c, (s,)) for c, s in x.pieces]
                self.pieces(x.outer, x.red, x.domain, pieces, self.out[x.name])
        return self.out

    def fold(self, f: Fold) -> None:
        m = self.machine
        for member in reversed(f.members):
            wanted = self.out[member.name]
            for s in (member.finish, *member.refs):
                self.touch(s, m.box(m.axes(member.outer), wanted), states=frozenset(self.states(f)))
            for x in f.members:  # a reference reads states of the member, so the member is demanded there
                for k in range(x.width):
                    if x.state(k) in self.out:
                        self.out[x.name] |= self.out.pop(x.state(k))
            self.pieces(member.outer, f.axis, both(f.domain, member.domain), member.pieces, wanted)

    def states(self, f: Fold) -> list[str]:
        return [x.state(k) for x in f.members for k in range(x.width)]

    def pieces(
        self,
        outer: Sequence[Axis],
        axis: Axis,
        domain: Cond,
        pieces: Sequence[tuple[Cond, tuple[Scalar, ...]]],
        wanted: Array,
    ) -> None:
        m = self.machine
        base = m.box(m.axes(outer, (axis[0], (0, m.extent(axis[1])))), wanted[..., None])
        for c, basis in pieces:
            box = self.narrow(base, both(domain, c))
            for b in basis:
                self.touch(b, box)

    def narrow(self, box: Box, c: Cond) -> Box:
        """The box where c holds, as far as that is known without evaluating floats; what c reads is demanded."""
        match c.op:
            case "and":  # conditions on indices guard the loads in the others
                for x in sorted(c.args, key=lambda x: bool(cond_loads(x))):
                    box = self.narrow(box, x)
                return box
            case "cmp":
                self.touch(c.args[1], box)
                self.touch(c.args[2], box)
                return box
            case "or" | "not":
                try:
                    return box.under(self.machine.full(box, box.cond(c)))
                except KeyError:
                    for x in c.args:
                        self.narrow(box, x)
                    return box
            case _:
                try:
                    return box.under(self.machine.full(box, box.cond(c)))
                except KeyError:
                    for array, index in cond_loads(c):
                        self.want(array, index, box)
                    return box

    def touch(self, s: Scalar, box: Box, states: frozenset[str] = frozenset()) -> None:
        """Demand everything that evaluating s in the box reads."""
        if not box.mask.any():
            return
        if s.op == "select":
            c, a, b = s.args
            self.touch(a, self.narrow(box, c), states)
            self.touch(b, self.narrow(box, negate(c)), states)
            return
        if s.op == "load":
            if s.args[0] in states and s.args[0] not in self.out:
                owner = s.args[0].rpartition("#")[0]
                self.out[s.args[0]] = np.zeros_like(self.out[owner])
            self.want(s.args[0], s.args[1], box)
            return
        for x in s.operands:
            self.touch(x, box, states)
        if s.op == "int":
            for a in s.args[0].atoms():
                if a.kind == "load":
                    self.want(a.name, a.args, box)

    def want(self, array: str, index: tuple[Poly, ...], box: Box) -> None:
        for p in index:
            for a in p.atoms():
                if a.kind == "load":
                    self.want(a.name, a.args, box)
        target = self.out.get(array)
        if target is None:
            return
        try:
            at = [np.broadcast_to(box.poly(p), box.mask.shape)[box.mask] for p in index]
        except KeyError:
            target[...] = True
            return
        for axis, x in enumerate(at):
            extent = target.shape[axis]
            bad = x[(x < 0) | (x >= extent)]
            if bad.size:
                text = ", ".join(map(str, index))
                raise AssertionError(f"{array}[{text}]: index {bad[0]} on axis {axis} of {extent}")
        target[tuple(at)] = True
