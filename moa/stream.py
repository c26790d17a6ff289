"""Stream: laws between reductions. Groups of reductions over one axis become Folds, one traversal each.

The line is: inline Maps, split choices into pieces and domains, defer what is free of the reduced axis, change
references so that what depends on a running value can run beside it, and assemble. Laws act by the properties of
operators; what none of them merges stays as it is, and the trace says which function stopped it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import moa.laws.guard
import moa.laws.split  # noqa: F401  (they enter their laws into the table)
from moa import naming
from moa.laws.assemble import Moves, Repair, defines, in_order, reads_of
from moa.laws.defer import Deferred, defer
from moa.laws.group import Group, find_groups, levels, passes_of
from moa.laws.inlining import Definitions, Names, inline, inline_equation, inlined
from moa.laws.reference import Moved
from moa.laws.sign import nonnegative_names
from moa.laws.table import LAWS
from moa.normal import TRUE, Eq, Fold, Normal, Scalar, load, map_scalar, rename, rename_cond
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


def stream(normal: Normal, trace: Trace) -> Normal:
    """The same system with groups made into Folds where laws allow it; deferred factors become Maps of outputs."""
    return stream_with_report(normal, trace)[0]


def stream_with_report(normal: Normal, trace: Trace, moves: Moves = "all") -> tuple[Normal, Report]:
    """What `stream` returns, and the groups with their pass counts. `moves` are the changes of reference to make."""
    reductions, definitions = inlined(normal)
    before = find_groups(reductions)
    counts = passes_of(before, levels(reductions, before))
    home = {name: k for k, g in enumerate(before) for name in g.members}

    reductions = _split(reductions, trace)
    names = Names(normal)
    deferred, home_of = _defer_all(reductions, definitions, before, home, names, trace, moves)
    groups = find_groups(deferred)
    level = levels(deferred, groups)
    middle = _by_home(len(before), deferred, level, home_of, counts)
    _attach_passes(trace, ("linearity", "defer", "defer out of an extreme"), home, counts, middle)

    repaired = Repair(deferred, groups, names, trace, moves)
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


# Split and defer -----------------------------------------------------------------------------------------------------


def _split(reductions: Sequence[Eq], trace: Trace) -> list[Eq]:
    out = []
    for e in reductions:
        new: Eq | None = LAWS["split"].apply(e)
        if new is not None:
            trace.steps.append(Step("split", e.name, str(e), str(new), contract=LAWS["split"].contract))
        out.append(e if new is None else new)
    return out


def _open_weights(e: Eq, facts: Set[str], trace: Trace) -> Eq:
    assert e.red is not None
    law = LAWS["open a weight"]
    pieces = tuple((c, law.apply(s, e.red[0], facts) or s) for c, s in e.pieces)
    if pieces == e.pieces:
        return e
    new = replace(e, pieces=pieces)
    trace.steps.append(Step(law.name, e.name, str(e), str(new), contract=law.contract))
    return new


def _key(e: Eq) -> object:
    """What two equal reductions have in common, their names apart: variables numbered by position."""
    assert e.red is not None
    new = {v: var(f"#{k}") for k, (v, _) in enumerate((*e.outer, e.red))}
    pieces = tuple((rename_cond(c, new), rename(s, new)) for c, s in e.pieces)
    domain = rename_cond(e.domain, new)
    return e.op, tuple(p for _, p in e.outer), e.red[1], domain, pieces, e.dtype


def _defer_all(
    reductions: Sequence[Eq],
    definitions: Definitions,
    groups: Sequence[Group],
    home: Mapping[str, int],
    names: Names,
    trace: Trace,
    moves: Moves,
) -> tuple[list[Eq], dict[str, int]]:
    """The reductions after the defer laws; which group of `groups` each comes from. Definitions are extended."""
    out: list[Eq] = []
    home_of: dict[str, int] = {}
    known: dict[object, Eq] = {}
    moved: Definitions = {}
    for e in reductions:
        here = home[e.name]
        e = _open_weights(inline_equation(e, moved), nonnegative_names(tuple(out)), trace)
        live = frozenset(name for name, k in home_of.items() if k == here and moves != "none")
        done = defer(e, live, nonnegative_names(tuple(out)), names.fresh)
        if done is None:
            done = Deferred((e,), load(e.name, e.index()), (), ())
        value, parts = done.value, []
        for part in done.parts:
            part, value = _narrowed(part, value, names, trace)
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


def _narrowed(part: Eq, value: Scalar, names: Names, trace: Trace) -> tuple[Eq, Scalar]:
    """A reduction without the axes that it is free of, and a value that reads it."""
    law = LAWS["drop an axis"]
    new: Eq | None = law.apply(part, names.fresh) if part.dtype == "f" else None
    if new is None:
        return part, value
    gone = [v for v, _ in part.outer if v not in {w for w, _ in new.outer}]
    conditions = tuple((f"{part.name} is free of {v}", "structure") for v in gone)
    trace.steps.append(Step(law.name, part.name, str(part), str(new), conditions, contract=law.contract))
    return new, inline(value, {part.name: (tuple(v for v, _ in part.outer), load(new.name, new.index()))})


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
    for e in reversed(in_order(equations)):
        if wanted & set(defines(e)):
            out.append(e)
            wanted |= reads_of(e)
    return out[::-1]
