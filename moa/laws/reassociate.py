"""Reassociate: sums over independent axes commute and products associate, so a chain of them has several orders.

A factor of a sum that is itself a sum is opened: what has the outer axis goes into a new inner sum, the rest stays
outside. Factors are split on the unexpanded view, so a sum such as (f(q) + 1) is one factor. The new inner sum has the
inner axis and whatever its factors and its domain have; where that is every outer axis, nothing is saved unless the sum
can be carried along one of them (see `carry`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from moa.laws.algebra import cond_reads, factors, guarded, product, reads
from moa.laws.reading import Stays
from moa.laws.split import conjuncts
from moa.laws.table import LAWS
from moa.normal import TRUE, Axis, Cond, Eq, Scalar, both, choose, lit, load, rename, rename_cond
from moa.ops import OPERATORS
from moa.poly import var

Powers = list[tuple[Scalar, int]]


@dataclass(frozen=True, slots=True)
class Reassociated:
    """One reduction with its sums exchanged.

    inner, outer   the new sum over the old outer axis, and the reduction that reads it, under its old name
    conditions     why it may
    """

    inner: Eq
    outer: Eq
    conditions: tuple[tuple[str, str], ...]

    def missing(self) -> tuple[str, ...]:
        """The outer axes that the new inner sum does not have: it is computed once for all of them."""
        have = {v for v, _ in self.inner.outer}
        return tuple(v for v, _ in self.outer.outer if v not in have)


def opens(e: Eq, inner: Eq) -> bool:
    """Whether e has `inner` as a factor along its own axis, beside which there is something to exchange it with."""
    assert e.red is not None
    for _, s in e.pieces:
        along = False
        for x, p in factors(s)[1]:
            y = _under_guards(x)
            along = along or (p > 0 and y.op == "load" and y.args[0] == inner.name and _has(y, e.red[0]))
        if not along:
            return False
    return e.op == inner.op or any(len(factors(s)[1]) > 1 and _others(s, e.red[0], inner.name) for _, s in e.pieces)


def _others(s: Scalar, axis: str, name: str) -> bool:
    return any(_has(x, axis) and name not in reads(x) for x, _ in factors(s)[1])


def _has(s: Scalar, axis: str) -> bool:
    return axis in s.vars()


def _under_guards(s: Scalar) -> Scalar:
    """The scalar without the choices of 0 around it; a product under a choice is left."""
    found = guarded(s)
    return s if found is None else _under_guards(found[1])


@LAWS.law(
    "reassociate",
    "sum_j x_j * (sum_k y_jk * z_k) = sum_k z_k * (sum_j x_j * y_jk), z free of j",
    contract="reassociates",
    source="sums over independent axes commute, products associate and distribute over sums",
)
def reassociate(e: Eq, inner: Eq, fresh: Callable[[str], str]) -> Reassociated:
    """The reduction e with its factor `inner` opened.

    fresh   a name that no array has
    Errors: Stays, with the reason, where the law does not apply
    """
    assert e.red is not None and inner.red is not None
    for op in (e.op, inner.op):
        if op not in OPERATORS["mul"].distributes or not OPERATORS[op].commutative:
            raise Stays(f"multiplication does not distribute over {op}")
    if e.op != inner.op:
        raise Stays(f"{e.op} and {inner.op} do not commute")
    axis = e.red[0]
    opened = [(c, _opened(s, inner.name)) for c, s in e.pieces]
    first = opened[0][1]
    pieces: list[tuple[Cond, Scalar]] = []
    for c, x in opened:
        if x.load is not first.load:
            raise Stays(f"the pieces read {inner.name} at different places")
        if (x.coefficient, x.outside(axis)) != (first.coefficient, first.outside(axis)):
            raise Stays("the pieces have different factors")
        value = product(f for f in x.factors if _has(f[0], axis))
        for g in x.guards:
            value = choose(g, value, lit(0)) if axis in g.vars() else value
        pieces.append((c, value))
    names = {v for v, _ in (*e.outer, e.red)}
    k: Axis = (_free_name(inner.red[0], names), inner.red[1])
    mapping = {v: p for (v, _), p in zip(inner.outer, first.load.args[1], strict=True)} | {inner.red[0]: var(k[0])}
    if len(inner.pieces) != 1 or not inner.pieces[0][0].is_true:
        raise Stays(f"{inner.name} has several pieces")
    coefficient, parts = factors(rename(inner.body, mapping))
    outside_parts = [f for f in parts if not _has(f[0], axis)]
    inside_parts = [f for f in parts if _has(f[0], axis)]
    if not outside_parts:
        raise Stays(f"{inner.name} is not a product of a factor with {axis} and one without")
    conditions = tuple(c for x in (e.domain, rename_cond(inner.domain, mapping)) for c in sorted(conjuncts(x), key=str))
    inside = both(*(c for c in conditions if axis in c.vars()))
    around = both(*(c for c in conditions if axis not in c.vars()))
    body = tuple((c, _times(product(inside_parts), s)) for c, s in pieces)
    used = inside.vars().union(*(s.vars() | c.vars() for c, s in body))
    made = Eq(fresh("h"), "reduce", _axes(e, k, used), body, e.op, e.red, inside)
    free, guards = first.outside(axis)
    value = product([*outside_parts, (load(made.name, made.index()), 1), *free], first.coefficient * coefficient)
    for g in guards:
        value = choose(g, value, lit(0))
    new = replace(e, red=k, domain=around, pieces=((TRUE, value),))
    why = [(f"{x} is free of {axis}", "structure") for x, _ in outside_parts]
    why += [(f"{axis} and {k[0]} are independent", "structure"), (f"* distributes over {e.op}", "operator table")]
    return Reassociated(made, new, tuple(why))


def _times(a: Scalar, b: Scalar) -> Scalar:
    return product([(a, 1), (b, 1)])


@dataclass(frozen=True, slots=True)
class _Opened:
    """A body as coefficient * load * product(factors), 0 where a guard does not hold."""

    coefficient: Fraction
    load: Scalar
    factors: tuple[tuple[Scalar, int], ...]
    guards: tuple[Cond, ...]

    def outside(self, axis: str) -> tuple[Powers, list[Cond]]:
        """The factors and the guards that are free of the axis."""
        return [f for f in self.factors if not _has(f[0], axis)], [g for g in self.guards if axis not in g.vars()]


def _opened(s: Scalar, name: str) -> _Opened:
    """A body with the load of `name` split off."""
    coefficient, parts = factors(s)
    found: Scalar | None = None
    rest: Powers = []
    guards: list[Cond] = []
    for x, p in parts:
        mine = name in reads(x)
        if not mine:
            rest.append((x, p))
            continue
        while (inner := guarded(x)) is not None and p > 0:
            c, y = inner
            if name in cond_reads(c):
                raise Stays(f"{name} is compared in {c}")
            more, around = factors(y)
            x = next((z for z, _ in around if name in reads(z)), y)
            coefficient *= more
            rest += [f for f in around if f[0] is not x]
            guards.append(c)
        if x.op != "load" or p != 1 or found is not None:
            raise Stays(f"{name} stands inside {x.op if x.op != 'load' else 'a power'}")
        found = x
    if found is None:
        raise Stays(f"{name} is not a factor")
    return _Opened(coefficient, found, tuple(rest), tuple(guards))


def _axes(e: Eq, k: Axis, used: frozenset[str]) -> tuple[Axis, ...]:
    """The axes of the new inner sum: those of e that it has, the inner axis before the columns."""
    have = [a for a in e.outer if a[0] in used]
    place = next((n for n, a in enumerate(e.outer) if a[0] not in used), None)
    if place is None:  # every axis: the one that a domain or a weight ties to the reduced axis is where the sum grows
        tied = {v for c in conjuncts(e.domain) for v in c.vars() if e.red is not None and e.red[0] in c.vars()}
        place = next((n + 1 for n, a in enumerate(e.outer) if a[0] in tied), len(have))
    before = [a for a in e.outer[:place] if a[0] in used]
    return (*before, *((k,) if k[0] in used else ()), *(a for a in have if a not in before))


def _free_name(wanted: str, taken: set[str]) -> str:
    k, name = 0, wanted
    while name in taken:
        name, k = f"{wanted}{k}", k + 1
    return name
