"""Rounds: chunks one behind the other, each step doing all that belongs to the rows of its chunk.

Chunk makes an array of the states at all boundaries, and passes over the rows once for each of its parts. Here the step
that has the state before a chunk also makes what its rows take from it, what they take from each other, and what
follows row by row; then only one state exists, and what is read of a chunk is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from moa.laws.algebra import reads, unused
from moa.laws.assemble import in_order, reads_of
from moa.laws.beside import Fused
from moa.laws.chunk import Chunked
from moa.laws.group import Unification, equation_loads
from moa.laws.reading import Stays
from moa.laws.table import LAWS
from moa.normal import (
    TRUE,
    Axis,
    Component,
    Cond,
    Eq,
    Fold,
    Index,
    Normal,
    Recurrence,
    Scalar,
    at_least_zero,
    both,
    cond_loads,
    load,
    loads,
    map_cond,
    map_scalar,
    rename,
    rename_cond,
)
from moa.poly import Atom, Poly, const, minimum, var


@LAWS.law(
    "in rounds",
    "y_i = f(S_a, x), i a row of chunk a: at the step that has S_a before it, for all rows of the chunk at once",
    contract="assumes finite",
    source="fusion of loops over one axis, rows i = a L + s; what a row does not see of its chunk is a factor 0",
)
def in_rounds(normal: Normal, chunks: Sequence[tuple[Eq, Chunked]], fresh: Callable[[str], str]) -> Fused:
    """The system before its sums went by chunks, with them and all that follows row by row in the steps of chunks.

    Errors: Stays, where chunks are not alike
    """
    (_, first), *others = chunks
    count, row = first.states.axis[1], first.row
    if any(c.row[1] != row[1] or c.states.axis[1] != count for _, c in others):
        raise Stays("its sums go by chunks of different rows")
    normal, chunks = _in_same_variables(normal, chunks)
    (_, first), *_ = chunks
    taken = {v for e in normal.equations for v in _variables(e)}
    taken |= {v for _, c in chunks for e in (c.near, c.far) for v in _variables(e)}
    length = first.sums.red
    assert length is not None
    a, s, u = (unused(v, taken) for v in "asu")
    steps = _Steps(normal, (a, count), (s, length[1]), (u, length[1]), row[1], fresh)
    for e, c in chunks:
        steps.chunk(e, c)
    return steps.made(first.states.name)


def _variables(e: Eq | Fold) -> set[str]:
    return {v for v, _ in (*e.outer, *((e.red,) if e.red else ()))} if isinstance(e, Eq) else set()


def _in_same_variables(normal: Normal, chunks: Sequence[tuple[Eq, Chunked]]) -> tuple[Normal, list[tuple[Eq, Chunked]]]:
    """The system with one name for each axis of sums that are read together, and of what reads them."""
    equations = [e for e in in_order(normal.equations) if isinstance(e, Eq)]
    axes = {e.name: e.outer for e, _ in chunks}
    union = Unification(equations)
    for e in equations:
        if e.name not in axes and reads_of(e) & axes.keys():
            own = {v for v in _variables(e)}
            for name, index in equation_loads(e):
                for (v, _), p in zip(axes.get(name, ()), index, strict=False):
                    if p.as_var() in own:
                        union.join([((name, v), (e.name, str(p.as_var())))])
            axes[e.name] = e.outer
    names: dict[tuple[str, str], str] = {}
    for e in (*(e for e, _ in chunks), *(e for e in equations if e.name in axes)):
        for v, _ in e.outer:
            root = union.find((e.name, v))
            names.setdefault(root, unused(v, names.values()))

    def of(name: str, variables: Iterable[str]) -> dict[str, str]:
        """New names: those of the classes, and others where a name is one of them."""
        own = {v for v, _ in axes[name]}
        at = {v: names[union.find((name, v))] for v in own}
        for v in sorted(set(variables) - own):
            at[v] = unused(v, {*at.values(), *(w for w in variables if w != v)}) if v in at.values() else v
        return at

    out = []
    for e, c in chunks:
        parts = (e, c.near, c.sums, c.far, c.whole)
        at = of(e.name, {v for x in parts for v in _variables(x)})
        new, near, sums, far, whole = (_renamed(x, at) for x in parts)
        (component,) = c.states.components
        polys = {v: var(w) for v, w in at.items()}
        component = replace(
            component,
            outer=tuple((at.get(v, v), x) for v, x in component.outer),
            body=rename(component.body, {v: p for v, p in polys.items() if v != c.states.axis[0]}),
        )
        states = replace(c.states, components=(component,))
        row = (at[c.row[0]], c.row[1])
        out.append((new, replace(c, near=near, sums=sums, far=far, whole=whole, states=states, row=row)))
    renamed = {e.name: e for e, _ in out}
    for e in equations:
        if e.name in axes and e.name not in renamed:
            renamed[e.name] = _renamed(e, of(e.name, _variables(e)))
    return replace(normal, equations=tuple(renamed.get(e.name, e) for e in normal.equations)), out


def _renamed(e: Eq, names: Mapping[str, str]) -> Eq:
    at = {v: var(names[v]) for v in _variables(e)}
    return replace(
        e,
        outer=tuple((names[v], x) for v, x in e.outer),
        red=None if e.red is None else (names[e.red[0]], e.red[1]),
        domain=rename_cond(e.domain, at),
        pieces=tuple((rename_cond(c, at), rename(s, at)) for c, s in e.pieces),
    )


class _Steps:
    """What belongs to one chunk: `chunk` its number, `row` and `other` places inside it; `extent` rows there are."""

    def __init__(
        self, normal: Normal, chunk: Axis, row: Axis, other: Axis, extent: Poly, fresh: Callable[[str], str]
    ) -> None:
        self.normal, self.fresh = normal, fresh
        self.chunk_axis, self.row, self.other, self.extent = chunk, row, other, extent
        self.by_name = {e.name: e for e in normal.equations if isinstance(e, Eq)}
        self.components: list[Component] = []
        self.maps: list[Eq] = []
        self.hot: dict[str, int] = {}  # arrays made in steps, and where the row stands among their axes
        self.inner: dict[tuple[str, Index], Scalar] = {}
        self.sources: set[str] = set()

    def element(self, place: Axis) -> Poly:
        return var(self.chunk_axis[0]) * self._length() + var(place[0])

    def _length(self) -> int:
        n = self.row[1].as_int()
        assert n is not None
        return n

    def chunk(self, e: Eq, c: Chunked) -> None:
        """Takes in one sum that goes by chunks: its state, what is near and what is far."""
        assert c.sums.red is not None and c.near.red is not None
        a = var(self.chunk_axis[0])
        at = {c.sums.outer[0][0]: a, c.sums.red[0]: var(self.other[0])}
        self.maps.append(
            replace(
                c.sums,
                outer=(self.chunk_axis, *c.sums.outer[1:]),
                red=self.other,
                domain=rename_cond(c.sums.domain, at),
                pieces=tuple((rename_cond(d, at), rename(b, at)) for d, b in c.sums.pieces),
            )
        )
        place = [v for v, _ in c.whole.outer].index(c.row[0])
        (component,) = c.states.components
        state, before_rows = component.name, {v for v, _ in c.whole.outer[:place]}
        order = sorted(range(len(component.outer)), key=lambda k: component.outer[k][0] not in before_rows)

        def ordered(x: Scalar) -> Scalar | None:
            """The state with the axes first along which rounds are independent: they number work items."""
            if x.op != "load" or x.args[0] not in (state, component.state):
                return None
            index = x.args[1] if x.args[0] == component.state else x.args[1][1:]
            return load(component.state, tuple(index[k] for k in order))

        body = map_scalar(rename(component.body, {c.states.axis[0]: a}), ordered)
        self.components.append(replace(component, outer=tuple(component.outer[k] for k in order), body=body))
        self._near(c)
        far = self._of_rows(c.far, c.row[0])
        self.maps.append(replace(far, pieces=tuple((d, map_scalar(b, ordered)) for d, b in far.pieces)))
        self.hot |= {c.near.name: place, c.far.name: place, e.name: place}
        self.maps.append(self._of_rows(c.whole, c.row[0]))
        self.sources.add(e.name)

    def _near(self, c: Chunked) -> None:
        """What a row takes from the others of its chunk: both by their places in it."""
        assert c.near.red is not None
        (i, _), (j, extent) = c.row, c.near.red
        here, there = self.element(self.row), self.element(self.other)
        inside = {i: minimum(here, self.extent - 1), j: minimum(there, extent - 1)}

        def cond(d: Cond) -> Cond:
            """A condition at places of the chunk; what it reads of data is inside of them."""
            if d.op == "and":
                return both(*map(cond, d.args))
            return rename_cond(d, inside if cond_loads(d) else {i: here, j: there})

        domain = map_cond(cond(c.near.domain), self._chunk_known, self._at_chunk)
        self.maps.append(
            replace(
                c.near,
                outer=self._axes(c.near.outer, i),
                red=self.other,
                domain=both(domain, at_least_zero(extent - 1 - there)),
                pieces=tuple((cond(d), self._inner(rename(b, inside))) for d, b in c.near.pieces),
            )
        )

    def _inner(self, s: Scalar) -> Scalar:
        """A scalar with the sums for pairs of places made in the step."""
        pair = {self.row[0], self.other[0]}

        def node(x: Scalar) -> Scalar | None:
            if x.op != "load" or x.args[0] not in self.by_name:
                return None
            e, index = self.by_name[x.args[0]], x.args[1]
            used = {v for p in index for v in p.vars()}
            if e.kind != "reduce" or not pair <= used:
                return None
            key = (e.name, index)
            if key not in self.inner:
                names = {v: p for (v, _), p in zip(e.outer, index, strict=True)}
                extents = {p.as_var(): x for (_, x), p in zip(e.outer, index, strict=True)}
                known = [(v, extents[v]) for v in sorted(used - pair - {self.chunk_axis[0]})]
                outer = (*known, self.chunk_axis, self.row, self.other)
                name = self.fresh(e.name)
                pieces = tuple((rename_cond(d, names), self._inner(rename(b, names))) for d, b in e.pieces)
                self.maps.append(replace(e, name=name, outer=outer, domain=rename_cond(e.domain, names), pieces=pieces))
                self.inner[key] = load(name, tuple(var(v) for v, _ in outer))
            return self.inner[key]

        return map_scalar(s, node)

    def _axes(self, outer: tuple[Axis, ...], row: str) -> tuple[Axis, ...]:
        k = [v for v, _ in outer].index(row)
        return (*outer[:k], self.chunk_axis, self.row, *outer[k + 1 :])

    def _of_rows(self, e: Eq, row: str) -> Eq:
        """An equation of rows as one of chunks and places; what is made in steps is read at them."""
        at = {row: minimum(self.element(self.row), self.extent - 1)}

        def node(x: Scalar) -> Scalar | None:
            if x.op != "load" or x.args[0] not in self.hot:
                return None
            k = self.hot[x.args[0]]
            return load(x.args[0], (*x.args[1][:k], var(self.chunk_axis[0]), var(self.row[0]), *x.args[1][k + 1 :]))

        def cond(c: Cond) -> Cond:
            return rename_cond(c, at)

        return replace(
            e,
            outer=self._axes(e.outer, row),
            domain=cond(e.domain),
            pieces=tuple((cond(c), map_scalar(self._at_chunk(rename(s, at)), node)) for c, s in e.pieces),
        )

    def _at_chunk(self, s: Scalar) -> Scalar:
        """A scalar of rows of one chunk, with that chunk in place of the quotient of the row."""
        return map_scalar(s, poly=self._chunk_known)

    def _chunk_known(self, p: Poly) -> Poly:
        """An integer with what is known of places in a chunk: their quotients by its length."""
        length = self._length()
        known: dict[Atom, Poly] = {}
        for x in self.row, self.other:
            known |= {a: const(0) for a in (var(x[0]) // length).atoms() if a.kind == "div"}
            inside = minimum(self.element(x), self.extent - 1) // length
            known |= {a: var(self.chunk_axis[0]) for a in inside.top_atoms() if a.kind == "div"}
        return p.replace(known.get)

    def joins(self, e: Eq) -> str | None:
        """The row variable of an equation that reads what steps make, each at its own row; None where it does not."""
        found = {x[1][self.hot[x[0]]].as_var() for _, s in e.pieces for x in loads(s) if x[0] in self.hot}
        conds = [c for c, _ in e.pieces] + [e.domain]
        (v, *more) = found
        if more or v is None or e.dtype != "f" or any(x[0] in self.hot for c in conds for x in cond_loads(c)):
            return None
        return v if dict(e.outer).get(v) == self.extent else None

    def made(self, name: str) -> Fused:
        left: list[Eq | Fold] = []
        joined: list[str] = []
        for e in in_order([x for x in self.normal.equations if x.name not in self.sources]):
            row = None
            if isinstance(e, Eq) and reads_of(e) & self.hot.keys():
                row = self.joins(e)
            if row is None or not isinstance(e, Eq):
                left.append(e)
                continue
            new = self._of_rows(e, row)
            self.hot[e.name] = [v for v, _ in e.outer].index(row)
            self.maps.append(new)
            joined.append(e.name)
        wanted = {*self.normal.outputs, *self.normal.stored}.union(*(reads_of(e) for e in left))
        for r in self.normal.recurrences:
            scalars = [x for c in r.components for x in (c.start, c.body)]
            wanted |= {n for x in scalars for n in reads(x)}.union(*(reads_of(e) for e in (*r.maps, *r.readers)))
        kept = [e for e in self.maps if e.name in wanted and e.name in (*joined, *self.sources)]
        readers, maps, views = [], [e for e in self.maps if e not in kept], list[Eq]()
        read = set[str]().union(*(reads_of(e) for e in self.maps))
        for e in kept:
            old, name_of_rounds = self.by_name[e.name], self.fresh(f"{e.name}.")
            body = e
            if e.name in read:  # by what follows in the step
                maps.append(e)
                body = Eq(e.name, "map", e.outer, ((TRUE, load(e.name, e.index())),))
            readers.append(replace(body, name=name_of_rounds))
            index, k = old.index(), self.hot[e.name]
            chunk = index[k] // self._length()
            at = (*index[:k], chunk, index[k] - chunk * self._length(), *index[k + 1 :])
            views.append(Eq(e.name, "map", old.outer, ((TRUE, load(name_of_rounds, at)),)))
        inside = {e.name: self.fresh(f"{e.name}.") for e in kept if e.name in read}

        def of_step(x: Scalar) -> Scalar | None:
            return load(inside[x.args[0]], x.args[1]) if x.op == "load" and x.args[0] in inside else None

        def within(e: Eq) -> Eq:
            pieces = tuple((c, map_scalar(x, of_step)) for c, x in e.pieces)
            return replace(e, name=inside.get(e.name, e.name), pieces=pieces)

        recurrence = Recurrence(
            f"{name}.rounds",
            self.chunk_axis,
            0,
            tuple(self.components),
            tuple(map(within, _ordered(maps))),
            True,
            False,
            False,
            tuple(map(within, readers)),
        )
        system = replace(
            self.normal,
            equations=tuple(in_order([*left, *views])),
            recurrences=(*self.normal.recurrences, recurrence),
        )
        made = ", ".join([*sorted(self.sources), *joined])
        why = f"{made} of a row read states before its chunk, and what is made in it"
        return Fused(system, recurrence, ((why, "structure"), (f"rounds of {self._length()} rows", "choice")))


def _ordered(maps: list[Eq]) -> tuple[Eq, ...]:
    """Maps of a step in dependence order."""
    by_name = {e.name: e for e in maps}
    out: dict[str, Eq] = {}

    def visit(e: Eq) -> None:
        for n in sorted(reads_of(e)):
            if n in by_name and n not in out and n != e.name:
                visit(by_name[n])
        out.setdefault(e.name, e)

    for e in maps:
        visit(e)
    return tuple(out.values())
