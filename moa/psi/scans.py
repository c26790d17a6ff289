"""Scans and folds become recurrences: a body by psi on cells, its operands read at a position along the axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from moa import poly
from moa.ir import Scan, Value
from moa.normal import TRUE, Component, Eq, Index, Recurrence, Scalar, is_zero, load, loads, negate
from moa.ops import Kind
from moa.poly import Poly
from moa.psi.build import Builder
from moa.psi.elements import Element, as_scalar, axes_of, cast, cell_axes, select
from moa.psi.ranges import settle_scalar


def psi_scan(b: Builder, value: Value, index: Index) -> Element:
    """One element of a scan, or of one component of it."""
    kind = value.kind
    value, k = (b.program.values[value.args[0]], value.attrs[0]) if value.op == "part" else (value, 0)
    if value.number not in b.scans:
        b.scans[value.number] = recurrence(b, value)
    r = b.scans[value.number]
    scan: Scan = value.attrs[0]
    shape = scan.body.values[scan.body.outputs[k]].shape
    place = scan.axis
    if kind != "f":
        kept = Kept(scan, k, r.components[k].name, r.place, r.axis[1])
        if not r.keep:
            return kept(index, r.axis[1])
        return kept.at((*index[:place], *index[place + 1 :]), index[place])
    shape = (*shape[:place], r.axis[1], *shape[place:]) if r.keep else shape
    at = (p for d, (p, e) in enumerate(zip(index, shape, strict=True)) if e.as_int() != 1 or (r.keep and d == place))
    return load(r.components[k].name, at)


def recurrence(b: Builder, value: Value) -> Recurrence:
    """The Recurrence of a scan."""
    scan: Scan = value.attrs[0]
    name = b.name(f"s{len(b.recurrences)}")
    xs = [b.program.values[n] for n in value.args]
    extent = xs[0].shape[scan.axis]
    t = f"{name}.t"
    now = extent - 1 - poly.var(t) if scan.reverse else poly.var(t)
    results = [scan.body.values[n] for n in scan.body.outputs]
    names = [f"{name}.{k}" if len(results) > 1 else name for k in range(len(results))]
    place = sum(e.as_int() != 1 for e in results[0].shape[: scan.axis])
    bound: dict[str, Callable[[Index], Element]] = {}
    for k, x in enumerate(results):
        state = state_reader(f"{names[k]}#0", x.shape)
        if x.kind != "f":
            state = partial(Kept(scan, k, names[k], place, extent), step=poly.var(t))
        bound[scan.body.inputs[k].name] = state
    for k, x in enumerate(xs):
        bound[scan.body.inputs[len(results) + k].name] = cell_reader(b, x, scan.axis, now)
    around = {**b.around, t: extent}
    inner = Builder(scan.body, b.trace, b.order, bound=bound, around=around, prefix=f"{name}.", taken=b.taken)
    components = []
    for k, x in enumerate(results):
        outer, at = cell_axes(x.shape)
        body = inner.psi(x, at)
        given = b.program.values[scan.start[k]]
        start = b.psi(given, at[len(at) - len(given.shape) :])
        if not scan.step:  # op(identity, x) = x, literally
            body = select(is_zero(poly.var(t)), bound[scan.body.inputs[len(results) + k].name](at), body)
        kind: Kind = "f" if x.kind == "f" else "i"
        first, next_ = (settle_scalar(as_scalar(cast(y, kind)), {**around, **dict(outer)}) for y in (start, body))
        components.append(Component(names[k], outer, first, next_, kind))
    made = Recurrence(
        name, (t, extent), place, tuple(components), tuple(inner.equations), scan.exclusive, scan.reverse, scan.keep
    )
    b.recurrences.append(made)
    return made


@dataclass(frozen=True, slots=True)
class Kept:
    """The integers or bits of a component: the one before step t is kept at t, the last one at the number of steps."""

    scan: Scan
    component: int
    array: str
    place: int
    extent: Poly

    def __call__(self, cell: Index, step: Poly) -> Element:
        """What is kept before a step."""
        result = self.scan.body.values[self.scan.body.outputs[self.component]]
        index = [p for p, e in zip(cell, result.shape, strict=True) if e.as_int() != 1]
        kept = poly.atom("load", self.array, (*index[: self.place], step, *index[self.place :]))
        return kept if result.kind == "i" else negate(is_zero(kept))

    def at(self, cell: Index, position: Poly) -> Element:
        """What the scan has at a position."""
        step = self.extent - 1 - position if self.scan.reverse else position
        return self(cell, step if self.scan.exclusive else step + 1)


def state_reader(array: str, shape: tuple[Poly, ...]) -> Callable[[Index], Element]:
    def read(index: Index) -> Element:
        return load(array, (p for p, e in zip(index, shape, strict=True) if e.as_int() != 1))

    return read


def cell_reader(b: Builder, x: Value, axis: int, now: Poly) -> Callable[[Index], Element]:
    """Reads the cell of an operand at a position; an operand that is reduced first becomes an array in memory."""
    outer, at = axes_of(x.shape)
    element = b.psi(x, at)
    known = {e.name for e in b.equations}
    inline = not isinstance(element, Scalar) or not any(a in known for a, _ in loads(element))
    if not inline:
        assert isinstance(element, Scalar)
        name = b.name(f"x{len(b.stored)}")
        b.equations.append(Eq(name, "map", outer, ((TRUE, settle_scalar(element, dict(outer))),)))
        b.stored.append(name)

    def read(index: Index) -> Element:
        full = b.on_axis("scan", axis, index, now)
        if inline:
            return b.psi(x, full)
        return load(name, (p for p, e in zip(full, x.shape, strict=True) if e.as_int() != 1))

    return read
