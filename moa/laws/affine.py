"""Affine steps: a recurrence S <- A_t S + B_t, A_t a factor for each element, in chunks that run side by side.

What a chunk does to the state before it is P S + T: P the product of its factors, T what it makes of nothing. So P and
T of all chunks are made at once, the states between chunks follow from them in few steps, and then all chunks run from
their own states at once. That is twice the work, and the steps that have to wait for each other are few.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace

from moa.laws.algebra import reads, unused
from moa.laws.assemble import reads_of
from moa.laws.reading import Stays
from moa.laws.table import LAWS
from moa.normal import (
    TRUE,
    Axis,
    Component,
    Cond,
    Eq,
    Recurrence,
    Scalar,
    apply,
    at_least_zero,
    choose,
    compare,
    cond_scalars,
    lit,
    load,
    map_cond,
    map_scalar,
    rename,
)
from moa.poly import Poly, const, minimum, var

LENGTH = 64  # steps of a chunk
ONE, ZERO = lit(1), lit(0)


@dataclass(frozen=True, slots=True)
class SideBySide:
    """A recurrence in chunks.

    ends         the product of the factors of each chunk, and what it makes of nothing
    states       the states before chunks, and the last one where it is wanted
    chunks       the recurrence in each chunk, from the state before it
    equations    the arrays of the recurrence, taken from those of the chunks
    """

    ends: Recurrence
    states: tuple[Recurrence, ...]
    chunks: Recurrence
    equations: tuple[Eq, ...]
    conditions: tuple[tuple[str, str], ...]


@LAWS.law(
    "affine",
    "S <- A_t S + B_t over a chunk is S <- (prod A_t) S + T, T what the chunk makes of 0",
    contract="assumes finite",
    source="composition of affine maps; the factors act on each element of the state by itself",
)
def affine(r: Recurrence, fresh: Callable[[str], str], length: int = LENGTH) -> SideBySide:
    """A recurrence with affine steps in chunks of `length` steps.

    Errors: Stays, with the reason, where a step is something else
    """
    if any(c.dtype != "f" for c in r.components):
        raise Stays("it has a state of integers")
    hot = _of_states(r)
    steps = {c.name: _Step(c, hot).parts(c.body) for c in r.components}
    t, extent = r.axis
    axes = [ax for e in (*r.maps, *r.readers) for ax in (*e.outer, *((e.red,) if e.red else ()))]
    taken = {v for v, _ in (r.axis, *axes, *(ax for c in r.components for ax in c.outer))}
    a, s = unused("a", taken), unused("s", taken)
    chunk: Axis = (a, (extent + (length - 1)) // length)
    row: Axis = (s, const(length))
    element = var(a) * length + var(s)
    inside = at_least_zero(extent - 1 - element)
    places = {e.name: next((k for k, (v, _) in enumerate(e.outer) if v == t), None) for e in r.maps}
    moved = _Moved(t, chunk, row, minimum(element, extent - 1), places)

    def within(state: Scalar, body: Scalar) -> Scalar:
        return choose(inside, body, state)  # behind the last step nothing happens

    names = {e.name: fresh(e.name) for e in r.maps}
    ends: list[Component] = []
    over: dict[str, tuple[str, Scalar]] = {}  # what a chunk makes of nothing, and the product of its factors
    for c in r.components:
        factor, added = (moved.scalar(x, names) for x in steps[c.name])
        name, product = fresh(c.name), ONE
        state = load(f"{name}#0", (var(a), *_index(c.outer)))
        body = apply("add", _scaled("mul", factor, state), added)
        ends.append(Component(name, (chunk, *c.outer), ZERO, within(state, body)))
        if factor is not ONE:
            times, outer = fresh(c.name), _axes_of(c, factor)
            state = load(f"{times}#0", (var(a), *_index(outer)))
            ends.append(Component(times, (chunk, *outer), ONE, within(state, apply("mul", factor, state))))
            product = load(times, (var(a), *_index(outer)))
        over[c.name] = name, product
    needed = _needed(r.maps, [c.body for c in r.components])
    maps = tuple(moved.equation(e, names) for e in r.maps if e.name in needed)
    first = Recurrence(fresh(r.name), row, 0, tuple(ends), maps, False, False, False)

    def after(c: Component, name: str) -> Component:
        """The states of a component from chunk to chunk."""
        nothing, product = over[c.name]
        moved = _moved_by(product, load(f"{name}#0", _index(c.outer)))
        body = apply("add", moved, load(nothing, (var(a), *_index(c.outer))))
        return Component(name, c.outer, c.start, body)

    before = {c.name: fresh(c.name) for c in r.components}
    boundary = tuple(after(c, before[c.name]) for c in r.components)
    between = [Recurrence(fresh(r.name), chunk, 0, boundary, (), True, False, True)]
    if r.last or (not r.keep and not r.readers):
        ended = tuple(after(c, c.name) for c in r.components)
        between.append(Recurrence(fresh(r.name), chunk, 0, ended, (), False, False, False))

    kept = {c.name: fresh(c.name) for c in r.components} | {e.name: fresh(e.name) for e in r.readers}
    names = {e.name: fresh(e.name) for e in r.maps} | {c.state: f"{kept[c.name]}#0" for c in r.components}
    components = []
    for c in r.components:
        index = (var(a), *_index(c.outer))
        body = within(load(f"{kept[c.name]}#0", index), moved.scalar(c.body, names))
        components.append(Component(kept[c.name], (chunk, *c.outer), load(before[c.name], index), body))
    readers = tuple(replace(moved.equation(e, names), name=kept[e.name]) for e in r.readers)
    maps = tuple(moved.equation(e, names) for e in r.maps)
    last = Recurrence(fresh(r.name), row, r.place + 1, tuple(components), maps, r.exclusive, False, r.keep, readers)

    arrays = [(e.name, e.outer) for e in r.readers] + [(c.name, r.kept(c)) for c in r.components if r.keep]
    step = extent - 1 - var(t) if r.reverse else var(t)  # backwards, it is the first one that stands at the end
    equations = tuple(Eq(n, "map", outer, ((TRUE, _element(kept[n], outer, t, step, length)),)) for n, outer in arrays)
    conditions = [
        (f"the factor {_short(f)} and the term of {n} read no state", "structure") for n, (f, _) in steps.items()
    ]
    return SideBySide(first, tuple(between), last, equations, (*conditions, (f"chunks of {length} steps", "choice")))


@dataclass(frozen=True, slots=True)
class _Moved:
    """What is written for a step t, for the step `row` of a chunk; names are replaced.

    places  where t stands among the axes of each map
    """

    t: str
    chunk: Axis
    row: Axis
    at: Poly
    places: Mapping[str, int | None]

    def scalar(self, x: Scalar, names: Mapping[str, str]) -> Scalar:
        def node(y: Scalar) -> Scalar | None:
            if y.op != "load" or y.args[0] not in names:
                return None
            k, index = self.places.get(y.args[0]), y.args[1]
            here = index if k is None else (*index[:k], var(self.row[0]), *index[k + 1 :])
            return load(names[y.args[0]], (var(self.chunk[0]), *here))

        return map_scalar(rename(x, {self.t: self.at}), node)

    def cond(self, c: Cond, names: Mapping[str, str]) -> Cond:
        return map_cond(c, lambda p: p.rename({self.t: self.at}), lambda x: self.scalar(x, names))

    def equation(self, e: Eq, names: Mapping[str, str]) -> Eq:
        return replace(
            e,
            name=names.get(e.name, e.name),
            outer=(self.chunk, *(self.row if v == self.t else (v, x) for v, x in e.outer)),
            domain=self.cond(e.domain, names),
            pieces=tuple((self.cond(c, names), self.scalar(x, names)) for c, x in e.pieces),
        )


@dataclass(frozen=True, slots=True)
class _Step:
    """The body of a component as a factor times its state, and a term; neither may read `hot` arrays."""

    component: Component
    hot: Set[str]

    def parts(self, s: Scalar) -> tuple[Scalar, Scalar]:
        c = self.component
        if not reads(s) & self.hot:
            return ZERO, s
        if s is load(c.state, _index(c.outer)):
            return ONE, ZERO
        match s.op:
            case "add" | "sub":
                (f, x), (g, y) = map(self.parts, s.args)
                return _both(s.op, f, g), _both(s.op, x, y)
            case "neg":
                f, x = self.parts(s.args[0])
                return apply("neg", f), apply("neg", x)
            case "mul" | "div":
                free = [k for k in range(2) if not reads(s.args[k]) & self.hot]
                if free and (s.op == "mul" or free == [1]):
                    factor = s.args[free[0]]
                    f, x = self.parts(s.args[1 - free[0]])
                    return _scaled(s.op, f, factor), _scaled(s.op, x, factor)
            case "select" if not any(reads(x) & self.hot for x in cond_scalars(s.args[0])):
                (f, x), (g, y) = self.parts(s.args[1]), self.parts(s.args[2])
                return choose(s.args[0], f, g), choose(s.args[0], x, y)
        raise Stays(f"a step of {c.name} is no factor times the state, plus a term")


def _both(op: str, a: Scalar, b: Scalar) -> Scalar:
    return apply("neg", b) if op == "sub" and a is ZERO and b is not ZERO else apply(op, a, b)


def _scaled(op: str, x: Scalar, factor: Scalar) -> Scalar:
    return ZERO if x is ZERO else apply(op, x, factor)


def _moved_by(product: Scalar, state: Scalar) -> Scalar:
    """A state times the product of many factors, which makes nothing of 0 where it overflowed."""
    if product is ONE:
        return state
    return choose(compare("eq", state, ZERO), ZERO, apply("mul", product, state))


def _of_states(r: Recurrence) -> set[str]:
    """The states, and the maps that are made of them."""
    hot = {c.state for c in r.components}
    for e in r.maps:
        if reads_of(e) & hot:
            hot.add(e.name)
    return hot


def _needed(maps: tuple[Eq, ...], scalars: list[Scalar]) -> set[str]:
    """The maps that scalars read, directly or through others."""
    needed = {n for s in scalars for n in reads(s)}
    for e in reversed(maps):
        if e.name in needed:
            needed |= {n for _, s in e.pieces for n in reads(s)}
    return needed


def _axes_of(c: Component, factor: Scalar) -> tuple[Axis, ...]:
    """The axes of a state up to the last one that its factor depends on."""
    used = factor.vars()
    count = max((k + 1 for k, (v, _) in enumerate(c.outer) if v in used), default=0)
    return c.outer[:count]


def _index(outer: tuple[Axis, ...]) -> tuple[Poly, ...]:
    return tuple(var(v) for v, _ in outer)


def _element(name: str, outer: tuple[Axis, ...], t: str, step: Poly, length: int) -> Scalar:
    """The element of an array along t, made in a step, in the array by chunks and their steps."""
    within = step - step // length * length
    return load(name, (step // length, *(within if v == t else var(v) for v, _ in outer)))


def _short(s: Scalar) -> str:
    text = str(s)
    return text if len(text) <= 40 else text[:37] + "..."
