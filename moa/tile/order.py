"""Reductions of integers that need not visit every pair: counts of what comes before, and what belongs at one place.

Source: merge sort (Knuth, The Art of Computer Programming, volume 3, 5.2.4); a sum over pairs (x, u) of which only
those with x = f(u) count is a sum over u
"""

from __future__ import annotations

from moa.laws.split import conjuncts
from moa.normal import (
    Cond,
    Eq,
    Scalar,
    both,
    choose,
    cond_loads,
    integer,
    lit,
    load,
    loads,
    rename,
    rename_cond,
)
from moa.ops import OPERATORS
from moa.poly import Poly, var
from moa.psi.order import ordered_by
from moa.tile.phase import PhaseBuilder, Target
from moa.tile.plan import NeedStore, Plan
from moa.tiles import Nest, Phase, Placed, Reduce, Sorted

COMBINED = ("add", "mul", "min", "max")  # of integers: how what belongs at one place is joined


def whole_phase(plan: Plan, name: str, e: Eq) -> Phase | None:
    """The phase of a reduction that makes all of an axis at once; None if it is not such a one, or shared by warps."""
    if plan.strategy.warps or e.kind != "reduce" or e.dtype != "i" or len(e.pieces) > 1 or e.op not in COMBINED:
        return None
    how = counted(e) or brought(e)
    if how is None:
        return None
    for array in sorted(_read(e)):
        if array not in plan.memory:
            raise NeedStore(plan.members[array][0].name if array in plan.members else array)
    items = tuple(a for a in e.outer if a[0] != how.axis)
    builder = PhaseBuilder(plan, name, items, None)
    target = Target(e.name, e.index(), e.body, e)
    builder.axis_of(target)
    whole = builder.reduction(e, e.index(), load(e.name, e.index()))
    (over,) = whole.over
    assert e.red is not None
    names = {e.red[0]: var(over)}
    if isinstance(how, Sorted):
        how = Sorted(how.axis, plan.hosted(rename(how.key, names)))
    else:
        how = Placed(how.axis, how.at.rename(names), plan.hosted(rename(how.value, names)))
    statement = Reduce(whole.target, whole.op, plan.hosted(whole.value), whole.over, True, how)
    nest = Nest(((how.axis, 1),), None, (statement,))
    return Phase(name, builder.items, tuple(builder.axes.values()), (), (nest,))


def _read(e: Eq) -> set[str]:
    pieces = {a for c, s in e.pieces for a, _ in (*cond_loads(c), *loads(s))}
    return pieces | {a for a, _ in cond_loads(e.domain)}


def _parts(e: Eq) -> tuple[Cond, Scalar]:
    """Where an element takes part, and what it gives there."""
    ((c, s),) = e.pieces
    if s.op == "select" and s.args[2] is lit(float(OPERATORS[e.op].identity)):  # type: ignore[arg-type]
        return both(e.domain, c, s.args[0]), s.args[1]
    return both(e.domain, c), s


def counted(e: Eq) -> Sorted | None:
    """By which key the elements before each one are counted, if that is what a reduction does."""
    assert e.red is not None
    condition, value = _parts(e)
    if e.op != "add" or value is not lit(1):
        return None
    for v, extent in e.outer:
        if extent == e.red[1] and v in condition.vars():
            key = ordered_by(condition, e.red[0], v)
            if key is not None:
                return Sorted(v, key if isinstance(key, Scalar) else integer(key))
    return None


def brought(e: Eq) -> Placed | None:
    """At which place each element of a reduction belongs, if it belongs at one."""
    assert e.red is not None
    condition, value = _parts(e)
    for c in sorted(conjuncts(condition), key=str):
        for v, _ in e.outer:
            at = _solved(c, v) if c.op == "eq" else None
            if at is None or e.red[0] not in at.vars() or not any(a.kind == "load" for a in at.atoms()):
                continue
            rest = rename_cond(both(*(x for x in conjuncts(condition) if x is not c)), {v: at})
            identity = lit(float(OPERATORS[e.op].identity))  # type: ignore[arg-type]
            return Placed(v, at, choose(rest, rename(value, {v: at}), identity))
    return None


def _solved(c: Cond, v: str) -> Poly | None:
    """What a variable equals by an equation of integers, if it stands alone in it."""
    p: Poly = c.args[0]
    step = p.coefficient(v)
    n = None if step is None else step.as_int()
    if n not in (1, -1):
        return None
    at = var(v) - p * n
    return None if v in at.vars() else at
