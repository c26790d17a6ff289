"""The meaning of a Recurrence: its axis step by step, states as arrays without it.

What belongs to a step is computed when it is read: what components need from the states before the step, what readers
need from those after it (before it in an exclusive recurrence).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from moa.interp.scalar import NO_REFS, Array, Box
from moa.naming import reads
from moa.normal import Axis, Eq, Fold, Normal, Recurrence, Scalar, loads
from moa.ops import OPERATORS

if TYPE_CHECKING:
    from moa.interp.normal import _Demands, _Run


def made(r: Recurrence) -> dict[str, tuple[Axis, ...]]:
    """The arrays that a recurrence leaves in memory, with their axes."""
    out = {e.name: e.outer for e in r.readers}
    out |= {c.name: r.kept(c) for c in r.components if r.stores(c)}
    return out


def scalars(r: Recurrence) -> tuple[Scalar, ...]:
    """Everything that a recurrence evaluates."""
    parts = [x for c in r.components for x in (c.start, c.body)]
    return (*parts, *(s for e in (*r.maps, *r.readers) for _, s in e.pieces))


def in_order(normal: Normal) -> tuple[Eq | Fold | Recurrence, ...]:
    """Equations and recurrences in dependence order; equations as they stand where there is no recurrence."""
    if not normal.recurrences:
        return normal.equations
    makers: dict[str, Eq | Fold | Recurrence] = {}
    for x in normal.equations:
        makers |= dict.fromkeys([m.name for m in x.members] if isinstance(x, Fold) else [x.name], x)
    for r in normal.recurrences:
        makers |= dict.fromkeys(made(r), r)
    out: list[Eq | Fold | Recurrence] = []

    def visit(e: Eq | Fold | Recurrence) -> None:
        if any(e is x for x in out):
            return
        for a in sorted(_reads(e)):
            if a in makers and makers[a] is not e:
                visit(makers[a])
        out.append(e)

    for e in (*normal.recurrences, *normal.equations):
        visit(e)
    return tuple(out)


def _reads(e: Eq | Fold | Recurrence) -> set[str]:
    if isinstance(e, Recurrence):
        return {a for s in scalars(e) for a, _ in loads(s)}
    return reads(e)


def demand(d: _Demands, r: Recurrence) -> None:
    """Demands what every step of a recurrence reads, inside the conditions it is read under."""
    m = d.machine
    for c in r.components:
        d.touch(c.start, _ones(m, c.outer))
        d.touch(c.body, _ones(m, (r.axis, *c.outer)))
    for e in (*r.maps, *r.readers):
        outer = e.outer if r.axis in e.outer else (r.axis, *e.outer)
        box = _ones(m, outer)
        if e.red is None:
            d.touch(e.body, box)
        else:
            d.pieces(outer, e.red, e.domain, [(c, (s,)) for c, s in e.pieces], box.mask)


def _ones(machine: _Run, axes: tuple[Axis, ...]) -> Box:
    return machine.box(machine.axes(axes), np.ones(tuple(machine.extent(e) for _, e in axes), bool))


def run_recurrence(machine: _Run, r: Recurrence) -> dict[str, Array]:
    """The arrays of a recurrence by name."""
    t, extent = r.axis
    steps = machine.extent(extent)
    shapes = {n: tuple(machine.extent(e) for _, e in outer) for n, outer in made(r).items()}
    out = {n: np.full(shape, np.nan, machine.dtype) for n, shape in shapes.items()}
    integers = [c for c in r.components if c.dtype != "f"]
    floats = [c for c in r.components if c.dtype == "f"]
    out |= {c.name: np.zeros(shapes[c.name], np.int64) for c in integers}
    outside = {**machine.arrays, **{c.name: out[c.name] for c in integers}}
    machine.arrays = outside
    states = {c.state: _values(machine, c.outer, {}, c.start) for c in floats}
    for c in integers:
        out[c.name][(slice(None),) * r.place + (0,)] = _values(machine, c.outer, {}, c.start, np.dtype(np.int64))
    for step in range(steps):
        at = {t: np.asarray(step)}
        place = steps - 1 - step if r.reverse else step
        machine.arrays = {**outside, **states}
        _maps(machine, r, at, [c.body for c in r.components])
        new = {c.state: _values(machine, c.outer, at, c.body) for c in floats}
        for c in integers:
            value = _values(machine, c.outer, at, c.body, np.dtype(np.int64))
            out[c.name][(slice(None),) * r.place + (step + 1,)] = value
        kept = states if r.exclusive else new
        machine.arrays = {**outside, **kept}
        if r.keep:
            for c in floats:
                out[c.name][(slice(None),) * r.place + (place,)] = kept[c.state]
        _maps(machine, r, at, [s for e in r.readers for _, s in e.pieces])
        for e in r.readers:
            position = tuple(place if v == t else slice(None) for v, _ in e.outer)
            out[e.name][position] = _equation(machine, e, at, t)
        states = new
    machine.arrays = outside
    if not r.keep:
        out |= {c.name: states[c.state] for c in floats if r.stores(c)}
    machine.arrays |= out
    return out


def _maps(machine: _Run, r: Recurrence, at: Mapping[str, Array], wanted: Iterable[Scalar]) -> None:
    """The maps that some scalars read, as arrays; those with the step's axis have one element along it."""
    needed = {a for s in wanted for a, _ in loads(s)}
    for e in reversed(r.maps):
        if e.name in needed:
            needed |= {a for _, s in e.pieces for a, _ in loads(s)}
    for e in r.maps:
        if e.name in needed:
            values = _equation(machine, e, at, r.axis[0])
            place = next((k for k, (v, _) in enumerate(e.outer) if v == r.axis[0]), None)
            if place is not None:  # loads are at this step: the array is filled there alone
                whole = np.full(tuple(machine.extent(x) for _, x in e.outer), np.nan, machine.dtype)
                whole[(slice(None),) * place + (int(at[r.axis[0]]),)] = values
                values = whole
            machine.arrays[e.name] = values


def _equation(machine: _Run, e: Eq, at: Mapping[str, Array], t: str) -> Array:
    outer = tuple(a for a in e.outer if a[0] != t)
    if e.kind == "map":
        return _values(machine, outer, at, e.body)
    assert e.red is not None
    operator = OPERATORS[e.op]
    axes = (*outer, e.red)
    box = _box(machine, axes, at)
    inside = box.under(np.broadcast_to(box.cond(e.domain), box.mask.shape))
    values = np.full(box.mask.shape, operator.identity, machine.dtype)
    for c, s in e.pieces:
        here = inside.under(np.broadcast_to(inside.cond(c), box.mask.shape))
        values = np.where(here.mask, here.scalar(s), values)
    return np.asarray(operator.numpy.reduce(values, axis=-1, initial=operator.identity))  # type: ignore[attr-defined]


def _box(machine: _Run, axes: tuple[Axis, ...], at: Mapping[str, Array]) -> Box:
    found = machine.axes(axes)
    shape = tuple(machine.extent(e) for _, e in axes)
    return Box({**found, **at}, machine.arrays, machine.params, np.ones(shape, bool), NO_REFS, machine.dtype)


def _values(machine: _Run, outer: tuple[Axis, ...], at: Mapping[str, Array], s: Scalar, dtype: Any = None) -> Array:
    box = _box(machine, outer, at)
    values = box.scalar(s) if dtype is None else box.integer(s)
    return np.broadcast_to(np.asarray(values), box.mask.shape).astype(dtype or machine.dtype)
