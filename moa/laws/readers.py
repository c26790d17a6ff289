"""Readers: what is computed row by row beside a carried state, so that the states of all rows never exist.

An equation joins the state where it reads it at its own row only. What nobody else reads belongs to one step; what
others read is written row by row. States that an equation reads together become one recurrence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from moa.laws.algebra import reads
from moa.laws.assemble import defines, in_order, reads_of
from moa.laws.carry import Carried, in_variables
from moa.laws.group import Unification, equation_loads
from moa.normal import TRUE, Axis, Cond, Eq, Fold, Index, Normal, Recurrence, Scalar, load, map_cond, map_scalar, rename
from moa.normal import loads as loads_of
from moa.poly import Poly, var


@dataclass(slots=True)
class _Joining:
    """The state of one walk over a system: where every array computed row by row belongs."""

    carried: Mapping[str, Carried]
    union: Unification
    home: dict[str, str] = field(default_factory=dict)  # array -> the state it is computed beside
    axes: dict[str, tuple[Axis, ...]] = field(default_factory=dict)
    space: dict[str, str] = field(default_factory=dict)  # array -> the name under which its variables are unified
    joined: list[Eq] = field(default_factory=list)
    kept: set[str] = field(default_factory=set)
    after: set[str] = field(default_factory=set)  # equations outside that need a state
    same: dict[str, str] = field(default_factory=dict)  # states that became one
    alone: set[str] = field(default_factory=set)  # states that need another state

    def root(self, name: str) -> str:
        while self.same[name] != name:
            name = self.same[name]
        return name

    def row(self, array: str) -> int:
        """The position of the row among the axes of an array."""
        row = self.carried[self.home[array]].prefix.row[0]
        if array in {e.name for e in self.joined}:
            here = self.union.find((self.home[array], row))
            return next(
                k for k, (v, _) in enumerate(self.axes[array]) if self.union.find((self.space[array], v)) == here
            )
        return [v for v, _ in self.axes[array]].index(row)


def with_recurrences(
    normal: Normal, carried: Mapping[str, Carried], beyond: Set[str] = frozenset()
) -> tuple[Normal, frozenset[str]]:
    """The system with Recurrences in place of carried equations and Folds; the carried arrays that had to be kept.

    carried   by the name of the equation or Fold
    beyond    arrays that are known after the last row only
    """
    wanted = {n for c in carried.values() for n, _, _ in c.values}
    equations = in_order(
        [x for e in normal.equations for x in (apart(e) if e.name not in carried and wanted & reads_of(e) else (e,))]
    )
    members = {n: c for c in carried.values() for n, _, _ in c.values}
    everything = [e for e in equations if isinstance(e, Eq) and e.name not in carried]
    spaces = [Eq(c.name, "map", _all_axes(c), ()) for c in carried.values()]
    j = _Joining(carried, Unification([*everything, *spaces]))
    j.after |= beyond
    for name, c in carried.items():
        j.same[name] = name
        for n, outer, _ in c.values:
            j.home[n], j.axes[n], j.space[n] = name, outer, name
    _unify_states(carried, j.union)
    for e in equations:
        if e.name in carried:
            if reads_of(e) & (set(j.home) | j.after):
                j.alone.add(e.name)
                j.kept |= reads_of(e) & set(j.home)
        elif isinstance(e, Eq) and _joins(e, j, set(members)):
            j.joined.append(e)
            first = next(n for n, _ in equation_loads(e) if n in j.home)
            j.home[e.name], j.axes[e.name], j.space[e.name] = j.root(j.home[first]), e.outer, e.name
        elif reads_of(e) & (set(j.home) | j.after):
            j.kept |= reads_of(e) & set(j.home)
            j.after |= set(defines(e))
    j.kept |= set(normal.outputs) & set(j.home)
    for r in normal.recurrences:
        scalars = [x for c in r.components for x in (c.start, c.body)]
        scalars += [s for e in (*r.maps, *r.readers) for _, s in e.pieces]
        j.kept |= {n for s in scalars for n in reads(s) if n in j.home}
    roots = dict.fromkeys(j.root(n) for n in carried)
    made = tuple(_recurrence([c for n, c in carried.items() if j.root(n) == root], j) for root in roots)
    gone = set(carried) | {e.name for e in j.joined}
    left = tuple(e for e in equations if e.name not in gone)
    out = replace(normal, equations=left, recurrences=(*normal.recurrences, *made))
    return out, frozenset(j.kept & set(members))


def apart(e: Eq | Fold) -> tuple[Eq | Fold, ...]:
    """A Fold whose members do not refer to each other as one equation a member."""
    if isinstance(e, Eq) or any(m.refs or m.width > 1 for m in e.members):
        return (e,)
    out: list[Eq | Fold] = []
    for m in e.members:
        index = tuple(var(v) for v, _ in m.outer)
        if m.finish is not load(m.state(0), index):
            return (e,)
        out.append(Eq(m.name, "reduce", m.outer, tuple((c, b) for c, (b,) in m.pieces), m.op, e.axis, m.domain))
    return tuple(out)


def _all_axes(c: Carried) -> tuple[Axis, ...]:
    return tuple(dict.fromkeys((c.prefix.row, *(a for _, outer, _ in c.values for a in outer))))


def _unify_states(carried: Mapping[str, Carried], union: Unification) -> None:
    """States that read the same array in the same pattern share variables, so that what they read is read once."""
    seen: dict[tuple[str, int], tuple[str, Index]] = {}
    for c in carried.values():
        own = {v for v, _ in _all_axes(c)}
        for x in c.components:
            for array, index in loads_of(x.body):
                if not any(p.as_var() == c.prefix.row[0] for p in index):
                    continue
                name, at = seen.setdefault((array, len(index)), (c.name, index))
                if name == c.name or carried[name].prefix.row[1] != c.prefix.row[1]:
                    continue
                pairs = [
                    ((name, p.as_var() or ""), (c.name, q.as_var() or ""))
                    for p, q in zip(at, index, strict=True)
                    if p.as_var() is not None and q.as_var() in own
                ]
                if all(a in union.parent and b in union.parent for a, b in pairs):
                    union.join(pairs)


def _joins(e: Eq, j: _Joining, members: set[str]) -> bool:
    """Whether an equation can be computed row by row beside the states it reads; its variables are then unified."""
    hot = [(n, index) for n, index in equation_loads(e) if n in j.home]
    if not hot or e.dtype != "f" or reads_of(e) & j.after:
        return False
    if e.kind == "reduce" and not any(n in members for n, _ in hot):
        return False
    rows = {index[j.row(n)].as_var() for n, index in hot}
    homes = dict.fromkeys(j.root(j.home[n]) for n, _ in hot)
    first = next(iter(homes))
    (row, *others) = rows
    extent = dict(e.outer).get(row or "")
    want = j.carried[first].prefix
    if others or extent != want.row[1]:
        return False
    if any(j.carried[h].prefix.row[1] != want.row[1] or j.carried[h].prefix.strict != want.strict for h in homes):
        return False
    if len(homes) > 1 and any(h in j.alone for h in homes):
        return False
    own = {v for v, _ in (*e.outer, *((e.red,) if e.red else ()))}
    pairs = [((h, j.carried[h].prefix.row[0]), (first, want.row[0])) for h in homes if h != first]
    for n, index in hot:
        for (v, _), p in zip(j.axes[n], index, strict=True):
            name = p.as_var()
            if name in own:
                assert name is not None
                pairs.append(((j.space[n], v), (e.name, name)))
    if not j.union.join(pairs):
        return False
    for h in homes:
        j.same[h] = first
    return True


def _recurrence(states: Sequence[Carried], j: _Joining) -> Recurrence:
    """One recurrence of states that are read together, with what is computed beside them."""
    names: dict[object, str] = {}
    extents: dict[str, Poly] = {}

    def called(space: str, axes: Sequence[Axis]) -> dict[str, str]:
        out = {}
        for v, extent in axes:
            root = j.union.find((space, v))
            if root not in names:
                name, k = v, 0
                while name in extents:
                    name, k = f"{v}{k}", k + 1
                names[root] = name
                extents[name] = extent
            out[v] = names[root]
        return out

    states = [in_variables(c, called(c.name, _all_axes(c))) for c in states]
    row = states[0].prefix.row
    values = {n: (tuple(v for v, _ in outer), s) for c in states for n, outer, s in c.values}
    homes = {c.name for c in states}
    mine = [e for e in j.joined if j.root(j.home[e.name]) in {j.root(h) for h in homes}]
    read = {n for e in mine for n, _ in equation_loads(e)}
    inside = {e.name: f"{e.name}.t" for e in mine if e.name in j.kept and e.name in read}

    def put(s: Scalar) -> Scalar:
        def node(x: Scalar) -> Scalar | None:
            if x.op != "load":
                return None
            if x.args[0] in values:
                outer, value = values[x.args[0]]
                return rename(value, dict(zip(outer, x.args[1], strict=True)))
            return load(inside[x.args[0]], x.args[1]) if x.args[0] in inside else None

        return map_scalar(s, node)

    maps = [e for c in states for e in c.maps]
    readers: list[Eq] = []
    for c in states:
        for n, outer, s in c.values:
            if n in j.kept:
                readers.append(Eq(n, "map", outer, ((TRUE, s),)))
    for e in mine:
        new = _rewritten(e, called(e.name, (*e.outer, *((e.red,) if e.red else ()))), put)
        if e.name in inside:
            maps.append(replace(new, name=inside[e.name]))
            readers.append(Eq(e.name, "map", new.outer, ((TRUE, load(inside[e.name], new.index())),)))
        else:
            (readers if e.name in j.kept else maps).append(new)
    components = tuple(x for c in states for x in c.components)
    first = states[0]
    back, strict = first.reverse, first.prefix.strict
    return Recurrence(f"{first.name}.carry", row, 0, components, tuple(maps), strict, back, False, tuple(readers))


def _rewritten(e: Eq, names: Mapping[str, str], put: Callable[[Scalar], Scalar]) -> Eq:
    """An equation in other index variables, its scalars mapped."""
    at = {v: var(w) for v, w in names.items()}

    def scalar(s: Scalar) -> Scalar:
        return put(rename(s, at))

    def cond(c: Cond) -> Cond:
        return map_cond(c, lambda p: p.rename(at), scalar)

    return replace(
        e,
        outer=tuple((names[v], x) for v, x in e.outer),
        red=None if e.red is None else (names[e.red[0]], e.red[1]),
        domain=cond(e.domain),
        pieces=tuple((cond(c), scalar(s)) for c, s in e.pieces),
    )
