"""Scans and folds become recurrences: a body by psi on cells, its operands read at a position along the axis."""

from __future__ import annotations

from collections.abc import Callable

from moa import poly
from moa.ir import Scan, Value
from moa.normal import TRUE, Component, Eq, Index, Recurrence, Scalar, choose, is_zero, load, loads
from moa.poly import Poly
from moa.psi.build import Builder
from moa.psi.elements import Element, as_scalar, axes_of, cell_axes
from moa.psi.ranges import settle_scalar
from moa.text import MoaError


def psi_scan(b: Builder, value: Value, index: Index) -> Scalar:
    """One element of a scan, or of one component of it."""
    value, k = (b.program.values[value.args[0]], value.attrs[0]) if value.op == "part" else (value, 0)
    if value.number not in b.scans:
        b.scans[value.number] = recurrence(b, value)
    r = b.scans[value.number]
    scan: Scan = value.attrs[0]
    shape = scan.body.values[scan.body.outputs[k]].shape
    place = scan.axis
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
    cells = [scan.body.values[n].shape for n in scan.body.outputs]
    if any(scan.body.values[n].kind != "f" for n in scan.body.outputs):
        raise MoaError("support", "a scan of integers is not compiled yet", value.span, "cast it: `1.0 * x`")
    names = [f"{name}.{k}" if len(cells) > 1 else name for k in range(len(cells))]
    axes = [cell_axes(shape) for shape in cells]
    bound: dict[str, Callable[[Index], Element]] = {}
    for k, shape in enumerate(cells):
        bound[scan.body.inputs[k].name] = state_reader(f"{names[k]}#0", shape)
    for k, x in enumerate(xs):
        bound[scan.body.inputs[len(cells) + k].name] = cell_reader(b, x, scan.axis, now)
    around = {**b.around, t: extent}
    inner = Builder(scan.body, b.trace, b.order, bound=bound, around=around, prefix=f"{name}.", taken=b.taken)
    components = []
    for k, (outer, at) in enumerate(axes):
        body = as_scalar(inner.psi(scan.body.values[scan.body.outputs[k]], at))
        given = b.program.values[scan.start[k]]
        start = as_scalar(b.psi(given, at[len(at) - len(given.shape) :]))
        if not scan.step:  # op(identity, x) = x, literally
            first = as_scalar(bound[scan.body.inputs[len(cells) + k].name](at))
            body = choose(is_zero(poly.var(t)), first, body)
        scope = {**around, **dict(outer)}
        components.append(Component(names[k], outer, settle_scalar(start, scope), settle_scalar(body, scope)))
    place = sum(e.as_int() != 1 for e in cells[0][: scan.axis])
    made = Recurrence(
        name, (t, extent), place, tuple(components), tuple(inner.equations), scan.exclusive, scan.reverse, scan.keep
    )
    b.recurrences.append(made)
    return made


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
