"""Stream: laws between reductions. Groups of reductions over one axis become Folds, one traversal each.

The line is: inline Maps, split choices into pieces and domains, defer what is free of the reduced axis, change
references so that what depends on a running value can run beside it, and assemble. Laws act by the properties of
operators; what none of them merges stays as it is, and the trace says which function stopped it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import moa.laws.split  # noqa: F401  (enters its law into the table)
from moa import naming
from moa.laws.defer import Deferred, defer
from moa.laws.group import Group, equation_reads, find_groups, levels, passes_of
from moa.laws.reading import Live, Stays
from moa.laws.reference import Moved, plain_member
from moa.laws.sign import nonnegative_names
from moa.laws.table import LAWS
from moa.normal import (
    TRUE,
    Cond,
    Eq,
    Fold,
    Index,
    Member,
    Normal,
    Scalar,
    either,
    load,
    map_cond,
    map_scalar,
    rename,
)
from moa.poly import Poly, var
from moa.rewrite import Step, Trace


@dataclass(frozen=True, slots=True)
class GroupReport:
    """One group: its members, axis, and traversals after each stage of laws, the first being before any."""

    members: tuple[str, ...]
    axis: tuple[str, str]
    passes: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        chain = " -> ".join(str(n) if i == 0 else f"{law} {n}" for i, (law, n) in enumerate(self.passes))
        return f"group {{{', '.join(self.members)}}} over {self.axis[0]} < {self.axis[1]}: {chain} passes"


@dataclass(frozen=True, slots=True)
class Report:
    """What `stream` found, for `explain`; `moved` records every change of reference, for `verify` to prove again."""

    groups: tuple[GroupReport, ...]
    moved: tuple[Moved, ...] = ()

    @property
    def passes(self) -> tuple[int, int]:
        """(before, after): the largest number of traversals over all groups."""
        before = max((g.passes[0][1] for g in self.groups), default=0)
        return before, max((g.passes[-1][1] for g in self.groups), default=0)

    def __str__(self) -> str:
        return "\n".join(map(str, self.groups))


Definitions = dict[str, tuple[tuple[str, ...], Scalar]]  # array -> its index variables and value


def stream(normal: Normal, trace: Trace) -> Normal:
    """The same system with groups made into Folds where laws allow it; deferred factors become Maps of outputs."""
    return stream_with_report(normal, trace)[0]


def stream_with_report(normal: Normal, trace: Trace) -> tuple[Normal, Report]:
    """What `stream` returns, and the groups with their pass counts."""
    reductions, definitions = inlined(normal)
    before = find_groups(reductions)
    counts = passes_of(before, levels(reductions, before))
    home = {name: k for k, g in enumerate(before) for name in g.members}

    reductions = _split(reductions, trace)
    names = _Names(normal)
    deferred, home_of = _defer_all(reductions, definitions, before, home, names, trace)
    groups = find_groups(deferred)
    level = levels(deferred, groups)
    middle = _by_home(len(before), deferred, level, home_of, counts)
    _attach_passes(trace, ("linearity", "defer", "defer out of an extreme"), home, counts, middle)

    repaired = _Repair(deferred, groups, names, trace)
    after = _by_home(len(before), deferred, repaired.level, home_of, middle)
    origin = {e.name: home_of[e.name] for e in deferred}
    _attach_passes(trace, ("change of reference", "drop a guard"), origin, middle, after)
    equations = repaired.assemble(definitions)
    out = _with_outputs(normal, equations, definitions)
    reports = tuple(
        GroupReport(
            g.members,
            (g.axis, str(g.extent)),
            (("", counts[k]), ("defer", middle[k]), ("change of reference", after[k])),
        )
        for k, g in enumerate(before)
    )
    return out, Report(reports, tuple(repaired.moved.values()))


def passes(normal: Normal) -> list[tuple[tuple[str, ...], int]]:
    """Per group of a system (streamed or not) its members and the number of traversals of its axis."""
    plain, fold_of = _unfolded(naming.inline(normal))
    reductions, _ = inlined(plain)
    groups = find_groups(reductions)
    level = levels(reductions, groups, lambda g, e, names: all(fold_of.get(n) == fold_of.get(e.name, e) for n in names))
    return [(g.members, n) for g, n in zip(groups, passes_of(groups, level), strict=True)]


def _unfolded(normal: Normal) -> tuple[Normal, dict[str, str]]:
    """The system with every Fold as reductions that load each other's values, to count traversals."""
    out: list[Eq | Fold] = []
    fold_of: dict[str, str] = {}
    for e in normal.equations:
        if isinstance(e, Eq):
            out.append(e)
            continue
        for m in e.members:
            fold_of[m.name] = e.name
            states = {x.state(k): x.name for x in e.members for k in range(x.width)}

            def value(s: Scalar, states: Mapping[str, str] = states) -> Scalar | None:
                return load(states[s.args[0]], s.args[1]) if s.op == "load" and s.args[0] in states else None

            refs = tuple(map_scalar(r, value) for r in m.refs)
            pieces = tuple((c, s) for c, b in m.pieces for s in (*b[:1], *refs))
            out.append(Eq(m.name, "reduce", m.outer, pieces, m.op, e.axis, m.domain))
    return replace(normal, equations=tuple(out)), fold_of


# Inlining ------------------------------------------------------------------------------------------------------------


def inline(s: Scalar, definitions: Definitions) -> Scalar:
    """The scalar with loads of defined arrays replaced by their values."""
    if not definitions:
        return s

    def node(x: Scalar) -> Scalar | None:
        if x.op == "load" and x.args[0] in definitions:
            outer, value = definitions[x.args[0]]
            return rename(value, dict(zip(outer, x.args[1], strict=True)))
        return None

    return map_scalar(s, node)


def _inline_eq(e: Eq, definitions: Definitions) -> Eq:
    if not definitions:
        return e

    def walk(s: Scalar) -> Scalar:
        return inline(s, definitions)

    def cond(c: Cond) -> Cond:
        return map_cond(c, lambda p: p, walk)

    return replace(e, domain=cond(e.domain), pieces=tuple((cond(c), walk(s)) for c, s in e.pieces))


def inlined(normal: Normal) -> tuple[list[Eq], Definitions]:
    """(the reductions, loading only inputs and each other; the value of every Map)."""
    definitions: Definitions = {}
    reductions: list[Eq] = []
    for e in normal.equations:
        assert isinstance(e, Eq), "a system is streamed once"
        e = _inline_eq(e, definitions)
        if e.kind == "map" and e.dtype == "f":
            definitions[e.name] = (tuple(v for v, _ in e.outer), e.body)
        elif e.kind == "reduce":
            reductions.append(e)
    return reductions, definitions


class _Names:
    """Names not used yet: the name of an equation, a point and a number."""

    def __init__(self, normal: Normal) -> None:
        self.taken = {i.name for i in normal.inputs}
        for e in normal.equations:
            self.taken |= {e.name} if isinstance(e, Eq) else {e.name, *(m.name for m in e.members)}

    def fresh(self, name: str) -> str:
        root = name
        stem, _, number = name.rpartition(".")
        if stem and number.isdigit():
            root = stem
        k = 0
        while f"{root}.{k}" in self.taken:
            k += 1
        self.taken.add(f"{root}.{k}")
        return f"{root}.{k}"


# Split and defer -----------------------------------------------------------------------------------------------------


def _split(reductions: Sequence[Eq], trace: Trace) -> list[Eq]:
    out = []
    for e in reductions:
        new: Eq | None = LAWS["split"].apply(e)
        if new is not None:
            trace.steps.append(Step("split", e.name, str(e), str(new), contract=LAWS["split"].contract))
        out.append(e if new is None else new)
    return out


def _key(e: Eq) -> object:
    """What two equal reductions have in common, their names apart: variables numbered by position."""
    assert e.red is not None
    new = {v: var(f"#{k}") for k, (v, _) in enumerate((*e.outer, e.red))}
    pieces = tuple(
        (map_cond(c, lambda p: p.rename(new), lambda s: rename(s, new)), rename(s, new)) for c, s in e.pieces
    )
    domain = map_cond(e.domain, lambda p: p.rename(new), lambda s: rename(s, new))
    return e.op, tuple(p for _, p in e.outer), e.red[1], domain, pieces, e.dtype


def _defer_all(
    reductions: Sequence[Eq],
    definitions: Definitions,
    groups: Sequence[Group],
    home: Mapping[str, int],
    names: _Names,
    trace: Trace,
) -> tuple[list[Eq], dict[str, int]]:
    """The reductions after the defer laws; which group of `groups` each comes from. Definitions are extended."""
    out: list[Eq] = []
    home_of: dict[str, int] = {}
    known: dict[object, Eq] = {}
    moved: Definitions = {}
    for e in reductions:
        here = home[e.name]
        e = _inline_eq(e, moved)
        live = frozenset(name for name, k in home_of.items() if k == here)
        done = defer(e, live, nonnegative_names(tuple(out)), names.fresh)
        if done is None:
            done = Deferred((e,), load(e.name, e.index()), (), ())
        value, parts = done.value, []
        for part in done.parts:
            twin = known.get(_key(part))
            if twin is not None:
                value = inline(value, {part.name: (tuple(v for v, _ in part.outer), load(twin.name, part.index()))})
                continue
            known[_key(part)] = part
            parts.append(part)
            home_of[part.name] = here
        out += parts
        if value is not load(e.name, e.index()):
            moved[e.name] = (tuple(v for v, _ in e.outer), value)
        for law in done.laws:
            text = "; ".join(map(str, parts)) + f"; {e.name} = {value}"
            trace.steps.append(Step(law, e.name, str(e), text, done.conditions, contract=LAWS[law].contract))
    for name, (outer, value) in list(definitions.items()):
        definitions[name] = (outer, inline(value, moved))
    definitions |= moved
    return out, home_of


def _by_home(
    count: int, reductions: Sequence[Eq], level: Mapping[str, int], home: Mapping[str, int], otherwise: Sequence[int]
) -> tuple[int, ...]:
    """The traversals per original group."""
    out = [0] * count
    for e in reductions:
        out[home[e.name]] = max(out[home[e.name]], level[e.name])
    return tuple(n or otherwise[k] for k, n in enumerate(out))


def _attach_passes(
    trace: Trace, laws: tuple[str, ...], home: Mapping[str, int], before: Sequence[int], after: Sequence[int]
) -> None:
    """Write into the steps of some laws what they did together to the traversals of their group."""
    for k, s in enumerate(trace.steps):
        if s.law in laws and s.passes is None and s.target in home:
            g = home[s.target]
            trace.steps[k] = replace(s, passes=(before[g], after[g]))


# Change of reference, and the result ---------------------------------------------------------------------------------


class _Repair:
    """Which reductions run in which traversal once references may run, and the members that they become."""

    def __init__(self, reductions: Sequence[Eq], groups: Sequence[Group], names: _Names, trace: Trace) -> None:
        self.reductions, self.groups, self.names, self.trace = list(reductions), groups, names, trace
        self.group_of = {name: g for g in groups for name in g.members}
        self.moved: dict[str, Moved] = {}
        self.renamed = {e.name: self.group_of[e.name].rename(e) for e in reductions}
        self.facts = nonnegative_names(tuple(reductions))
        self.order: list[str] = []
        self.partial: dict[str, int] = {}
        self.level = levels(self.reductions, groups, self.joins)

    def members(self, name: str) -> tuple[tuple[Eq, Member], ...]:
        if name in self.moved:
            return self.moved[name].members
        return ((self.renamed[name], plain_member(self.renamed[name])),)

    def joins(self, g: Group, e: Eq, loaded: Sequence[str]) -> bool:
        """Whether e can run in the traversal of what it loads: the change of reference succeeds."""
        live: dict[str, Live] = {}
        todo = list(loaded)
        while todo:
            name = todo.pop()
            for eq, member in self.members(name):
                if eq.name not in live:
                    live[eq.name] = Live(eq, member)
        for name in self.same_traversal(g, loaded):
            for eq, member in self.members(name):
                live.setdefault(eq.name, Live(eq, member))
        try:
            moved: Moved = LAWS["change of reference"].apply(self.renamed[e.name], live, self.facts, self.names.fresh)
        except Stays as reason:
            self.trace.refused.append(("change of reference", e.name, str(reason)))
            return False
        self.moved[e.name] = moved
        law = LAWS["change of reference"]
        for guard, why in moved.guards:
            gone = LAWS["drop a guard"]
            self.trace.steps.append(
                Step(gone.name, e.name, f"where({guard}, 0, y)", "y", ((why, "rate > 0"),), contract=gone.contract)
            )
        self.trace.steps.append(
            Step(law.name, e.name, moved.before, moved.after, moved.conditions, contract=law.contract)
        )
        return True

    def same_traversal(self, g: Group, loaded: Sequence[str]) -> list[str]:
        """Members that what is loaded refers to in its turn: they run in the same traversal."""
        out: list[str] = []
        todo = list(loaded)
        while todo:
            name = todo.pop()
            if name in self.moved:
                for other in sorted(equation_reads(self.renamed[name])):
                    if self.group_of.get(other) is g and other not in out:
                        out.append(other)
                        todo.append(other)
        return out

    def assemble(self, definitions: Definitions) -> list[Eq | Fold]:
        """Folds for traversals that need one, in dependence order; a member with permuted axes is a definition."""
        traversals: dict[tuple[str, int], list[str]] = {}
        for e in self.reductions:
            g = self.group_of[e.name]
            traversals.setdefault((g.members[0], self.level[e.name]), []).append(e.name)
        out: list[Eq | Fold] = []
        by_name = {e.name: e for e in self.reductions}
        permuted: Definitions = {}
        for (first, _), names in traversals.items():
            if len(names) == 1 and names[0] not in self.moved:
                out.append(by_name[names[0]])
                continue
            apart = self.apart(names)
            out += [by_name[name] for name in apart]
            out.append(self.fold(self.group_of[first], [n for n in names if n not in apart], permuted))
        if permuted:
            out = [_map_equation(e, lambda s: inline(s, permuted)) for e in out]
            for name, (outer, value) in list(definitions.items()):
                definitions[name] = (outer, inline(value, permuted))
            definitions |= permuted
        return _sorted(out)

    def apart(self, names: Sequence[str]) -> list[str]:
        """Reductions of a traversal that lack an axis which every reference has: they are not computed per row."""
        axes = [set(eq.outer) for name in names for eq, m in self.members(name) if m.refs]
        needed = set.intersection(*axes) if axes else set()
        used = {x for n in names if n in self.moved for x in equation_reads(self.renamed[n])}
        return [n for n in names if n not in self.moved and n not in used and not needed <= set(self.renamed[n].outer)]

    def fold(self, g: Group, names: Sequence[str], permuted: Definitions) -> Fold:
        members = [pair for name in names for pair in self.members(name)]
        first = members[0][0]
        shared = tuple(a for a in first.outer if all(a in eq.outer for eq, _ in members))
        done = []
        for eq, m in members:
            outer = (*shared, *(a for a in eq.outer if a not in shared))
            done.append((eq, replace(m, outer=outer)))
        domain = either(*(m.domain for _, m in done)) if all(m.domain is not TRUE for _, m in done) else TRUE
        fold = Fold(self.names.fresh("fold"), (g.axis, g.extent), shared, domain, tuple(m for _, m in done))
        new: dict[str, tuple[str, tuple[int, ...]]] = {}  # name -> its new name, and the order of its axes
        for eq, m in done:
            order = tuple(eq.outer.index(a) for a in m.outer)
            if order != tuple(range(len(order))):
                name = self.names.fresh(m.name)
                new[m.name] = (name, order)
                new |= {m.state(k): (f"{name}#{k}", order) for k in range(m.width)}
                index = tuple(var(v) for v, _ in m.outer)
                permuted[m.name] = (tuple(v for v, _ in eq.outer), load(name, index))
        return _with_order(fold, new) if new else fold


def _map_equation(e: Eq | Fold, f: Callable[[Scalar], Scalar]) -> Eq | Fold:
    if isinstance(e, Eq):
        return replace(e, pieces=tuple((map_cond(c, lambda p: p, f), f(s)) for c, s in e.pieces))
    own = {m.name for m in e.members} | {m.state(k) for m in e.members for k in range(m.width)}

    def outside(s: Scalar) -> Scalar:
        return map_scalar(s, lambda x: f(x) if x.op == "load" and x.args[0] not in own else None)

    return replace(e, members=tuple(_map_member(m, outside) for m in e.members))


def _map_member(m: Member, f: Callable[[Scalar], Scalar]) -> Member:
    pieces = tuple((map_cond(c, lambda p: p, f), tuple(f(s) for s in b)) for c, b in m.pieces)
    move = tuple(tuple(f(s) for s in row) for row in m.move)
    return replace(m, pieces=pieces, refs=tuple(f(r) for r in m.refs), move=move, finish=f(m.finish))


def _with_order(fold: Fold, new: Mapping[str, tuple[str, tuple[int, ...]]]) -> Fold:
    """The fold with members under new names, their axes in a new order; what loads them inside is rewritten."""

    def node(s: Scalar) -> Scalar | None:
        if s.op != "load" or s.args[0] not in new:
            return None
        name, order = new[s.args[0]]
        index: Index = s.args[1]
        return load(name, tuple(index[k] for k in order))

    members = tuple(_map_member(m, lambda s: map_scalar(s, node)) for m in fold.members)
    return replace(fold, members=tuple(replace(m, name=new[m.name][0] if m.name in new else m.name) for m in members))


def _reads(e: Eq | Fold) -> frozenset[str]:
    if isinstance(e, Eq):
        return equation_reads(e)
    own = {m.name for m in e.members} | {m.state(k) for m in e.members for k in range(m.width)}
    out: set[str] = set()
    for m in e.members:
        pieces = tuple((c, s) for c, b in m.pieces for s in b)
        rest = tuple((TRUE, s) for s in (*m.refs, *(x for row in m.move for x in row), m.finish))
        out |= equation_reads(Eq(m.name, "map", m.outer, pieces + rest, domain=m.domain))
    return frozenset(out - own)


def _defines(e: Eq | Fold) -> tuple[str, ...]:
    return (e.name,) if isinstance(e, Eq) else tuple(m.name for m in e.members)


def _sorted(equations: Sequence[Eq | Fold]) -> list[Eq | Fold]:
    """The equations in dependence order, otherwise as they stand."""
    missing = {name for e in equations for name in _defines(e)}
    todo, out = list(equations), []
    while todo:
        ready = next((e for e in todo if not (_reads(e) & missing) - set(_defines(e))), None)
        assert ready is not None, "a cycle among equations"
        todo.remove(ready)
        out.append(ready)
        missing -= set(_defines(ready))
    return out


def _with_outputs(normal: Normal, equations: list[Eq | Fold], definitions: Definitions) -> Normal:
    """The system with a Map for every output that is not an equation by itself, and nothing that nobody reads."""
    maps: list[Eq] = []
    shapes = {e.name: e for e in normal.equations if isinstance(e, Eq)}
    for name in normal.outputs:
        if name not in definitions:
            continue
        outer, value = definitions[name]
        old = shapes[name]
        extents: tuple[Poly, ...] = tuple(p for _, p in old.outer)
        maps.append(Eq(name, "map", tuple(zip(outer, extents, strict=True)), ((TRUE, value),), dtype=old.dtype))
    others = [e for e in normal.equations if isinstance(e, Eq) and e.kind == "map" and e.dtype != "f"]
    done: list[Eq | Fold] = [*others, *equations, *maps]
    return replace(normal, equations=tuple(_needed(done, normal.outputs)))


def _needed(equations: Sequence[Eq | Fold], outputs: Sequence[str]) -> list[Eq | Fold]:
    wanted = set(outputs)
    out: list[Eq | Fold] = []
    for e in reversed(_sorted(equations)):
        if wanted & set(_defines(e)):
            out.append(e)
            wanted |= _reads(e)
    return out[::-1]
