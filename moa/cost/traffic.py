"""What a kernel's work items touch: a walk over its Tiles, nothing of which is known beforehand.

A work item runs beside a cache that holds its rows. Elements whose index is free of the streamed axis are resident:
they move once an item. A traversal of a streamed axis moves each of its elements once, a second traversal moves them
again. Scratch stays in the cache; elements of arrays in memory are counted where a statement loads or stores them,
masked lanes and branches not taken included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from moa.cost.boxes import Facts, Span, Spans, count, facts_of
from moa.cost.projection import projected
from moa.cost.sums import Along, Count, Over, of
from moa.normal import TRUE, Cond, Index, at_least_zero, both, either, is_zero, loads, negate
from moa.poly import Poly, const, maximum, minimum, select, var
from moa.tiles import Loop, Nest, Phase, Reduce, Sift, TileAxis, Tiles, TileStmt, When


@dataclass(frozen=True, slots=True)
class Tiled:
    """A loop whose tiles are told apart by a `When`: tile `number` starts at lo + step * number."""

    axis: str
    lo: Poly
    hi: Poly
    step: int

    @property
    def number(self) -> str:
        return f"t_{self.axis}"

    @property
    def origin(self) -> Poly:
        return self.lo + var(self.number) * self.step

    @property
    def tiles(self) -> Poly:
        return maximum((self.hi - self.lo + (self.step - 1)) // self.step, const(0))


@dataclass(frozen=True, slots=True)
class Touch:
    """Elements of an array that one work item loads or stores.

    over        the streamed axes its index depends on
    tiled       the loop whose every tile is a case of its own; then bounds and cond depend on the tile's number
    """

    array: str
    write: bool
    spans: Spans
    over: tuple[str, ...] = ()
    tiled: Tiled | None = None
    exact: bool = True

    @property
    def traversal(self) -> str:
        """The innermost streamed axis, "" for what is resident."""
        return self.over[-1] if self.over else ""


@dataclass(frozen=True, slots=True)
class Words:
    """Words of one array that move, all work items together."""

    array: str
    read: Count
    written: Count

    @property
    def count(self) -> Count:
        return self.read + self.written


def streamed(tiles: Tiles) -> tuple[Words, ...]:
    """The words of each array that move between memory and the cache that holds one work item."""
    read: dict[str, Count] = {}
    written: dict[str, Count] = {}
    for phase in tiles.phases:
        walk = Walk(tiles, phase)
        for array in walk.arrays():
            for write, total in ((False, read), (True, written)):
                total[array] = total.get(array, Count()) + walk.moved(array, write)
    arrays = [a.name for a in tiles.arrays if a.name in read]
    return tuple(Words(a, read[a], written[a]) for a in arrays)


def compulsory(tiles: Tiles) -> tuple[Words, ...]:
    """The words of inputs that some work item reads and of outputs that are written, each element once."""
    counts: dict[str, tuple[Count, Count]] = {}
    walks = [Walk(tiles, phase) for phase in tiles.phases]
    for a in tiles.arrays:
        if a.role == "workspace":
            continue
        boxes: list[Spans] = []
        exact = True
        for w in walks:
            found, sure = w.everywhere(a.name, a.role == "output")
            boxes, exact = boxes + found, exact and sure
        whole = tuple(Span(const(0), extent) for extent in a.shape)
        volume, sure = count(boxes, facts_of({}))
        moved = of(volume, (), (), (exact and sure) or whole in boxes)
        if boxes:
            counts[a.name] = (Count(), moved) if a.role == "output" else (moved, Count())
    return tuple(Words(a, *c) for a, c in counts.items())


@dataclass(slots=True)
class Walk:
    """The touches of one phase's work item."""

    tiles: Tiles
    phase: Phase
    items: tuple[Along, ...] = field(init=False)
    facts: Facts = field(init=False)
    axes: dict[str, TileAxis] = field(init=False)
    touches: dict[Touch, Cond] = field(init=False)  # and the condition on its tile under which it happens

    def __post_init__(self) -> None:
        self.axes = {a.name: a for a in self.phase.axes}
        axes = {v: self.phase.axis(v) for v in self.phase.items}
        self.items = tuple(Along(v, a.extent, a.step) for v, a in axes.items())
        known = TRUE
        for a in self.items:
            if a.step > 1:
                rows, left = var(a.rows), a.extent - a.end()
                whole = either(is_zero(rows - a.step), is_zero(left))
                known = both(known, at_least_zero(var(a.number)), at_least_zero(rows - 1), at_least_zero(left), whole)
                known = both(known, at_least_zero(a.step - rows))
        self.facts = facts_of({a.axis: a.extent for a in self.items if a.step == 1}, known)
        self.touches = self.body(self.phase.body, self.outside(), {})

    def outside(self) -> dict[str, Span]:
        """What a work item has of each axis outside of loops."""
        whole = {x.name: Span(const(0), x.capacity) for x in self.phase.axes if x.role == "whole"}
        return {**{a.axis: Span(a.origin, a.end()) for a in self.items}, **whole}

    def arrays(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(t.array for t in self.touches))

    def bound(self, p: Poly) -> Poly:
        """A bound of a loop over numbers of tiles."""
        p = p.rename({f"{a.axis}@0": a.origin for a in self.items if a.step > 1})
        ends = {minimum(a.origin + a.step, a.extent).as_atom(): a.end() for a in self.items if a.step > 1}
        return p.replace(lambda x: ends.get(x))

    # the statements of a work item ----------------------------------------------------------------------------------

    def body(
        self, body: tuple[TileStmt, ...], env: Mapping[str, Span], tiled: Mapping[str, Tiled]
    ) -> dict[Touch, Cond]:
        """Every touch of a body, and when it happens."""
        out: dict[Touch, Cond] = {}
        for s in body:
            found: dict[Touch, Cond] = {}
            match s:
                case Nest():
                    for t in self.nest(s, env, tiled):
                        found[t] = TRUE
                case Loop():
                    inside, cases, exact = self.loop(s, env, tiled)
                    found = self.body(s.body, inside, cases)
                    ran = at_least_zero(inside[s.axis].hi - inside[s.axis].lo - 1) if s.axis not in cases else TRUE
                    ran = TRUE if self.facts.hold(ran) else ran
                    found = {t: c if s.axis in t.over else both(c, ran) for t, c in found.items()}
                    if not exact or s.axis in cases:
                        sure = {t: exact and s.axis in t.over for t in found}
                        found = {t if sure[t] else replace(t, exact=False): c for t, c in found.items()}
                case When():
                    when = s.cond.replace(lambda a: tiled[a.name[:-2]].origin if a.name[:-2] in tiled else None)
                    when = when.replace(lambda a: self.bound(var(a.name)) if a.kind == "var" else None)
                    then, other = self.body(s.body, env, tiled), self.body(s.other, env, tiled)
                    if self.undecided(when):  # at most: either side
                        found = {replace(t, exact=False): either(c, then.get(t, c)) for t, c in (other | then).items()}
                        then = other = {}
                    for t in (*then, *other):
                        yes, no = then.get(t), other.get(t)
                        if yes is not None and no is not None and yes == no:
                            found[t] = yes
                        else:
                            parts = [both(c, x) for c, x in ((when, yes), (negate(when), no)) if x is not None]
                            found[t] = either(*parts)
                case Sift():  # at most: what the data leave out is not known
                    found = self.body(s.every, env, tiled) | self.body(s.some, env, tiled)
                    found = {replace(t, exact=False): c for t, c in found.items()}
            for t, c in found.items():
                out[t] = either(out[t], c) if t in out else c
        return out

    def undecided(self, when: Cond) -> bool:
        """Whether a condition depends on data, on a run of a loop, or on a quotient by a number that is not known."""
        atoms = when.atoms()
        if any(a.kind == "load" or (a.kind == "div" and a.args[1].as_int() is None) for a in atoms):
            return True
        return any(v in self.axes and self.axes[v].role == "loop" for v in when.vars())

    def loop(
        self, s: Loop, env: Mapping[str, Span], tiled: Mapping[str, Tiled]
    ) -> tuple[dict[str, Span], dict[str, Tiled], bool]:
        """What is known inside a loop, and whether its bounds are."""
        lo, hi = self.bound(s.lo), self.bound(s.hi)
        around = any(v in self.axes and self.axes[v].role == "loop" for v in lo.vars() | hi.vars())
        exact = not around and not reads_data(lo) and not reads_data(hi)
        if around:
            lo, hi = const(0), self.phase.axis(s.axis).extent
        elif not exact:  # data end it earlier, or begin it later
            lo, hi = limit(lo, const(0), minimum), limit(hi, self.phase.axis(s.axis).extent, maximum)
        if f"{s.axis}@0" not in {a.name for c in _conditions(s.body) for a in c.atoms()}:
            return {**env, s.axis: Span(lo, hi)}, dict(tiled), exact
        case = Tiled(s.axis, lo, hi, self.phase.axis(s.axis).step)
        end = minimum(case.origin + case.step, hi)
        return {**env, s.axis: Span(case.origin, end)}, {**tiled, s.axis: case}, exact

    def nest(self, nest: Nest, env: Mapping[str, Span], tiled: Mapping[str, Tiled]) -> Iterator[Touch]:
        for s in nest.statements:
            target, index = s.target.args
            found = [(a, i, False) for x in (s.value, s.target) for a, i in loads(x) if x is s.value or a != target]
            if isinstance(s, Reduce) and not s.fresh:
                found.append((target, index, False))
            found.append((target, index, True))
            for array, where, write in found:
                if self.tiles.array(array) is not None:
                    yield self.touch(array, where, write, env, tiled)

    def touch(
        self, array: str, index: Index, write: bool, env: Mapping[str, Span], tiled: Mapping[str, Tiled]
    ) -> Touch:
        shape = next(a.shape for a in self.tiles.arrays if a.name == array)
        streams = [a.name for a in self.phase.axes if a.role == "loop" and any(a.name in p.vars() for p in index)]
        spans, exact = [], True
        seen: set[str] = set()
        for p, extent in zip(index, shape, strict=True):
            span, sure = self.span(p, extent, env)
            ranged = {v for v in p.vars() if v in env and env[v].hi - env[v].lo != const(1)}
            exact = exact and sure and not (ranged & seen)
            seen |= ranged
            spans.append(span)
        case = next((tiled[v] for v in streams if v in tiled), None)
        return Touch(array, write, tuple(spans), tuple(streams), case, exact)

    def span(self, p: Poly, extent: Poly, env: Mapping[str, Span]) -> tuple[Span, bool]:
        """The elements along one axis that an index reaches, and whether they are known."""
        if not p.vars() <= env.keys():  # it follows from where a tile begins
            return Span(const(0), extent), False
        points = {v: env[v].lo for v in p.vars() if env[v].hi - env[v].lo == const(1)}
        ranged = sorted(p.vars() - points.keys())
        steps = {v: _step(p, v) for v in ranged}
        whole = p.as_atom()
        if whole is not None and whole.kind == "div" and not reads_data(p):
            by = whole.args[1].as_int()
            inner, sure = self.span(whole.args[0], extent * whole.args[1], env)
            if by is not None and inner.scale == 1:
                return Span(inner.lo // by, (inner.hi - 1) // by + 1), sure
        if reads_data(p) or None in steps.values():
            total = const(1)
            for v in ranged:
                total = total * self.facts.length(env[v])
            return Span(const(0), minimum(total, extent)), False
        if len(ranged) == 1 and abs(steps[ranged[0]] or 0) > 1:
            (v,) = ranged
            return Span(env[v].lo, env[v].hi, steps[v] or 1, p.rename({**points, v: const(0)})), True
        if any(abs(n or 0) != 1 for n in steps.values()):
            return Span(const(0), extent), False
        lo = p.rename(points | {v: env[v].lo if n == 1 else env[v].hi - 1 for v, n in steps.items()})
        hi = p.rename(points | {v: env[v].hi - 1 if n == 1 else env[v].lo for v, n in steps.items()}) + 1
        if p.as_var() is None and p.as_int() is None:  # what reaches outside is not read, or read at the edge
            lo = lo if self.facts.always(lo) else maximum(lo, const(0))
            hi = hi if self.facts.always(extent - hi) else minimum(hi, extent)
        return Span(lo, hi), True

    # totals ---------------------------------------------------------------------------------------------------------

    def moved(self, array: str, write: bool) -> Count:
        """The words of an array that all work items move, one way."""
        mine = [t for t in self.touches if t.array == array and t.write == write]
        resident = [t.spans for t in mine if not t.traversal]
        base, exact = count(resident, self.facts)
        exact = exact and all(t.exact for t in mine)
        when = {self.touches[t] for t in mine if not t.traversal}
        if len(when) == 1 and not reads_data(base):
            (always,) = when
            total = of(select(always, base, const(0)), (), self.items)
        else:
            total, exact = of(base, (), self.items), exact and not when
        for traversal in dict.fromkeys(t.traversal for t in mine if t.traversal):
            whole = [t.spans for t in mine if t.traversal == traversal and t.tiled is None]
            if whole:
                both_, sure = count([*resident, *whole], self.facts)
                total, exact = total + of(both_ - base, (), self.items), exact and sure
            cases = [t for t in mine if t.traversal == traversal and t.tiled is not None]
            for t in cases:  # tiles of one loop share nothing; what several statements read in one is counted once
                total = total + self.by_tile(t)
            exact = exact and (not cases or (not resident and not whole and len(cases) == 1))
        return Count(total.sums, exact)

    def by_tile(self, t: Touch) -> Count:
        assert t.tiled is not None
        over: Over = ((t.tiled.number, t.tiled.tiles),)
        when = self.touches[t]
        volume = self.facts.volume(t.spans)
        known = not any(a.kind == "load" for a in when.atoms()) and when.op != "load"
        return of(select(when, volume, const(0)) if known else volume, over, self.items)

    def everywhere(self, array: str, write: bool) -> tuple[list[Spans], bool]:
        """The elements that any work item touches, and whether they are known."""
        mine = [t for t in self.touches if t.array == array and t.write == write]
        if not mine:
            return [], True
        exact = all(t.exact for t in mine)
        shape = next(a.shape for a in self.tiles.arrays if a.name == array)
        boxes = list(dict.fromkeys(t.spans for t in mine))
        when = {t.spans: self.on_tile(t) for t in mine}
        differing = [k for k in range(len(shape)) if len({b[k] for b in boxes}) > 1]
        together = [boxes] if len(differing) <= 1 else [[b] for b in boxes]
        out = []
        for group in together:
            spans: list[Span] = []
            for k, extent in enumerate(shape):
                span, sure = self.union({(b[k], when[b]): None for b in group}, extent)
                spans.append(span)
                exact = exact and sure
            out.append(tuple(spans))
        return out, exact

    def on_tile(self, t: Touch) -> Cond:
        """When a touch happens, as a condition on numbers of tiles."""
        if t.tiled is None:
            return self.touches[t]
        number = var(t.tiled.number)
        return both(self.touches[t], at_least_zero(number), at_least_zero(t.tiled.tiles - 1 - number))

    def union(self, parts: Iterable[tuple[Span, Cond]], extent: Poly) -> tuple[Span, bool]:
        """The elements along one axis that parts (each under its condition) reach in all work items together."""
        parts = tuple(parts)
        if all(not (s.lo.vars() | s.hi.vars() | s.offset.vars()) and c.is_true for s, c in parts) and len(parts) == 1:
            return parts[0][0], True
        if any(s.scale != 1 for s, _ in parts):
            return Span(const(0), extent), False
        found = projected([(s.lo, s.hi, both(self.existing(), c)) for s, c in parts], extent)
        return (Span(const(0), extent), False) if found is None else (Span(*found), True)

    def existing(self) -> Cond:
        """What numbers of work items meet."""
        inside = (both(at_least_zero(var(a.number)), at_least_zero(a.tiles - 1 - var(a.number))) for a in self.items)
        return both(self.facts.under, *inside)


def _conditions(body: tuple[TileStmt, ...]) -> Iterator[Cond]:
    """The conditions of the `When`s of a body, those inside other loops included."""
    for s in body:
        match s:
            case When():
                yield s.cond
                yield from _conditions((*s.body, *s.other))
            case Sift():
                yield from _conditions((*s.every, *s.some))
            case Loop():
                yield from _conditions(s.body)
            case Nest():
                pass


def limit(p: Poly, otherwise: Poly, of: Callable[[Poly, Poly], Poly]) -> Poly:
    """A bound of p whatever data say, below or above (`of`: `minimum` or `maximum`); `otherwise` that of data alone."""
    a = p.as_atom()
    if a is None or not reads_data(p):
        return otherwise if reads_data(p) else p
    match a.kind:
        case "min" | "max":
            x, y = (limit(q, otherwise, of) for q in a.args)
            return minimum(x, y) if a.kind == "min" else maximum(x, y)
        case "select":
            return of(*(limit(q, otherwise, of) for q in a.args[1:]))
    return otherwise


def reads_data(p: Poly) -> bool:
    return any(a.kind == "load" or (a.kind == "select" and a.args[0].op == "load") for a in p.atoms())


def _step(p: Poly, v: str) -> int | None:
    c = p.coefficient(v)
    return None if c is None else c.as_int()
