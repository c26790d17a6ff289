"""Beside a scan: what reads its states at their own position is computed in its loop, so that they are never stored.

An equation that sums over a state, as q . S does, belongs to the step that makes the state. Where everything that
reads the states is of this kind, only the present state exists. A fold of the same step is the last state of the same
loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from moa.laws.assemble import defines, reads_of
from moa.laws.carry import Carried, Prefix
from moa.laws.readers import apart, with_recurrences
from moa.laws.reading import Stays
from moa.laws.table import LAWS
from moa.naming import reads
from moa.normal import (
    TRUE,
    Cond,
    Eq,
    Fold,
    Normal,
    Recurrence,
    Scalar,
    load,
    loads,
    map_cond,
    map_scalar,
    rename,
    rename_cond,
)
from moa.poly import Poly, var
from moa.rewrite import Step, Trace


def beside_scans(normal: Normal, trace: Trace) -> Normal:
    """The system with the states of every scan held one at a time, where nothing needs more of them."""
    for r in normal.recurrences:
        if not _stores_states(r) or not any(_sums_over(e, {c.name for c in r.components}) for e in normal.equations):
            continue
        try:
            made: Fused = LAWS["beside a scan"].apply(normal, r)
        except Stays as reason:
            trace.refused.append(("beside a scan", r.name, str(reason)))
            continue
        normal = made.system
        law = LAWS["beside a scan"]
        trace.steps.append(Step(law.name, r.name, str(r), str(made.recurrence), made.conditions, contract=law.contract))
    return normal


@dataclass(frozen=True, slots=True)
class Fused:
    """A system in which loops over one axis became one recurrence, which holds one state at a time."""

    system: Normal
    recurrence: Recurrence
    conditions: tuple[tuple[str, str], ...]


@LAWS.law(
    "beside a scan",
    "y_t = f(S_t, x_t) for all t: each y_t at the step that makes S_t, which then is not stored",
    contract="exact",
    source="fusion of loops over one axis; each element is computed from the same values in the same order",
)
def beside(normal: Normal, r: Recurrence) -> Fused:
    """The system with what reads the states of a scan computed in its loop.

    Errors: Stays, where some state is read at another position, or by something that is no sum over it
    """
    twin = next((x for x in normal.recurrences if x is not r and _is_twin(x, r)), None)
    base = r if twin is None else replace(twin, exclusive=r.exclusive)
    index = tuple(var(v) for v, _ in base.components[0].outer)
    values = []
    for c, old in zip(base.components, r.components, strict=True):
        index = tuple(var(v) for v, _ in c.outer)
        outer = (*c.outer[: r.place], base.axis, *c.outer[r.place :])
        values.append((old.name, outer, load(c.state, index)))
    prefix = Prefix(base.axis, base.axis, r.exclusive, TRUE)
    state = Carried(base.name, prefix, base.components, tuple(values), (), False, base.maps, r.reverse)
    others = tuple(x for x in normal.recurrences if x is not r and x is not twin)
    rest = replace(normal, recurrences=others)
    made, kept = with_recurrences(rest, {base.name: state}, _beyond(normal, r, others))
    new = made.recurrences[-1]
    if kept:
        raise Stays(f"{', '.join(sorted(kept))} is needed as an array")
    old_maps = {e.name for e in base.maps}
    sums = [e for e in (*new.maps, *new.readers) if e.kind == "reduce" and e.name not in old_maps]
    new = replace(new, name=base.name, place=base.place, last=twin is not None)
    if r.reverse:
        new = _backwards(new, old_maps)
    conditions = [(f"{e.name} reads the state at its own {r.axis[0]}", "structure") for e in sums]
    if twin is not None:
        conditions.append((f"{twin.name} is the last of these states", "the same start and step"))
    at = tuple(new if x is r else x for x in normal.recurrences if x is not twin)
    return Fused(replace(made, recurrences=at), new, tuple(conditions))


def _stores_states(r: Recurrence) -> bool:
    """Whether a recurrence keeps all of its states, each of them an array of floats."""
    return r.keep and not r.readers and all(c.dtype == "f" and c.outer for c in r.components)


def _is_twin(x: Recurrence, r: Recurrence) -> bool:
    """Whether x has the last of the states that r has."""
    if x.keep or x.readers or x.reverse != r.reverse:
        return False
    return step_key(replace(x, exclusive=False)) == step_key(replace(r, exclusive=False))


def _sums_over(e: Eq | Fold, states: set[str]) -> bool:
    """Whether an equation reduces an axis of states: what it makes of them is smaller than they are."""
    if isinstance(e, Fold):
        return any(_sums_over(x, states) for x in apart(e) if isinstance(x, Eq))
    found = (index for _, s in e.pieces for a, index in loads(s) if a in states)
    return e.red is not None and any(e.red[0] in p.vars() for index in found for p in index)


def _beyond(normal: Normal, r: Recurrence, others: Sequence[Recurrence]) -> set[str]:
    """What is known after the loop of a scan only: its last states, and what other recurrences make of its states."""
    made = {c.name for c in r.components}
    beyond = {c.name for x in normal.recurrences if x not in (r, *others) for c in x.components}
    size = -1
    while size != len(made) + len(beyond):
        size = len(made) + len(beyond)
        for e in normal.equations:
            if reads_of(e) & beyond:
                beyond |= set(defines(e))
            if reads_of(e) & made:
                made |= set(defines(e))
        for x in others:
            if read_by(x) & (made | beyond):
                beyond |= {c.name for c in x.components} | {e.name for e in x.readers}
    return beyond


def read_by(r: Recurrence) -> set[str]:
    """The arrays that a recurrence reads."""
    scalars = [s for c in r.components for s in (c.start, c.body)]
    return {a for s in scalars for a, _ in loads(s)}.union(*(reads(e) for e in (*r.maps, *r.readers)))


def _backwards(r: Recurrence, old: set[str]) -> Recurrence:
    """The recurrence with what its new maps and readers read of other arrays at the position of a step, not its number.

    old  the names of maps that are written in steps already
    """
    t, extent = r.axis
    own = {e.name: [v for v, _ in e.outer].index(t) for e in r.maps if e.name not in old}

    def scalar(s: Scalar) -> Scalar:
        return map_scalar(rename(s, {t: extent - 1 - var(t)}), node)

    def node(x: Scalar) -> Scalar | None:
        if x.op != "load" or x.args[0] not in own:
            return None
        k = own[x.args[0]]
        return load(x.args[0], (*x.args[1][:k], var(t), *x.args[1][k + 1 :]))

    def cond(c: Cond) -> Cond:
        return map_cond(c, lambda p: p.rename({t: extent - 1 - var(t)}), scalar)

    def equation(e: Eq) -> Eq:
        return replace(e, domain=cond(e.domain), pieces=tuple((cond(c), scalar(s)) for c, s in e.pieces))

    maps = tuple(e if e.name in old else equation(e) for e in r.maps)
    return replace(r, maps=maps, readers=tuple(map(equation, r.readers)))


def step_key(r: Recurrence) -> object:
    """What two equal recurrences have in common: names of states and maps, and variables, by place."""
    wanted = {a for c in r.components for a, _ in loads(c.body)}
    maps: list[Eq] = []
    for e in reversed(r.maps):
        if e.name in wanted:
            maps.insert(0, e)
            wanted |= reads(e)
    names = {n: f"#{k}" for k, c in enumerate(r.components) for n in (c.name, c.state)}
    names |= {e.name: f"#m{k}" for k, e in enumerate(maps)}

    def named(s: Scalar) -> Scalar | None:
        return load(names[s.args[0]], s.args[1]) if s.op == "load" and s.args[0] in names else None

    def same(e: Eq) -> object:
        inner = () if e.red is None else (e.red,)
        at: dict[str, Poly] = {v: var(f"#{k}") for k, (v, _) in enumerate((*e.outer, *inner))}
        at[r.axis[0]] = var("#t")
        pieces = tuple((rename_cond(c, at), map_scalar(rename(s, at), named)) for c, s in e.pieces)
        extents = tuple(p for _, p in (*e.outer, *inner))
        return e.kind, e.op, e.dtype, extents, rename_cond(e.domain, at), pieces

    ends = [(c, s) for c in r.components for s in (c.start, c.body)]
    bodies = tuple(same(Eq("", "map", c.outer, ((TRUE, s),), dtype=c.dtype)) for c, s in ends)
    return r.axis[1], r.exclusive, r.reverse, bodies, tuple(map(same, maps))
