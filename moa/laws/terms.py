"""Linearity: the body of a sum as terms that become separate sums, where their factors free of the axis differ.

A term is coefficient * product(free) * product(rest): `free` are factors free of the reduced axis, `rest` the others.
Addends stay together unless what depends on the group tells them apart: terms of one polynomial in (x - r) are never
distributed, because that would make moments about 0.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace
from fractions import Fraction

from moa.laws.algebra import factors, guarded, product, reads
from moa.laws.sign import nonzero
from moa.laws.table import LAWS
from moa.normal import Scalar, apply, choose, lit

Factors = tuple[tuple[Scalar, int], ...]
MAX_PARTS = 16  # a product is not distributed into more sums than this


@dataclass(frozen=True, slots=True)
class Term:
    """One summand of a body.

    risky   a factor was taken from under a guard, where it need not be finite: an empty sum must stay 0
    """

    coefficient: Fraction = Fraction(1)
    free: Factors = ()
    rest: Factors = ()
    risky: bool = False

    def scalar(self) -> Scalar:
        return product((*self.free, *self.rest), self.coefficient)

    def times(self, other: Term) -> Term:
        return Term(
            self.coefficient * other.coefficient,
            self.free + other.free,
            self.rest + other.rest,
            self.risky or other.risky,
        )


@dataclass(frozen=True, slots=True)
class Scope:
    """What a body is looked at with: the reduced axis, and the names of the reductions of its group."""

    axis: str
    live: Set[str]

    def free(self, s: Scalar) -> bool:
        return self.axis not in s.vars()

    def depends(self, s: Scalar) -> bool:
        return not self.live.isdisjoint(reads(s))


@LAWS.law(
    "linearity",
    "sum_j (a_j + b_j) = sum_j a_j + sum_j b_j, where a and b have different factors free of j or exponentials",
    contract="reassociates",
    source="linearity of a sum",
)
def separate(body: Scalar, scope: Scope) -> tuple[Term, ...]:
    """The terms of a body; their sum is the body."""
    coefficient, parts = factors(body)
    out: tuple[Term, ...] = (Term(coefficient),)
    for x, p in parts:
        if p < 0:
            inner: tuple[Term, ...] = (Term(free=((x, p),)) if scope.free(x) else Term(rest=((x, p),)),)
        else:
            inner = _factor(x, scope)
        if len(out) * len(inner) > MAX_PARTS:
            inner = (Term(rest=((x, p),)),)
        out = tuple(a.times(b) for a in out for b in inner)
    return out


def _factor(x: Scalar, scope: Scope) -> tuple[Term, ...]:
    if scope.free(x) and not _is_masked(x):
        return (Term(free=((x, 1),)),)
    if x.op in ("add", "sub"):
        return _sum(x, scope)
    if x.op == "exp":
        return (_exponential(x, scope),)
    found = guarded(x)
    if found is not None:
        c, y = found
        inner = separate(y, scope)
        if len(inner) > 1 or inner[0].free or inner[0].coefficient != 1:
            return tuple(
                replace(
                    t,
                    rest=((choose(c, product(t.rest), lit(0)), 1),),
                    risky=t.risky or not all(p < 0 and nonzero(f) for f, p in t.free if scope.depends(f)),
                )
                for t in inner
            )
    return (Term(rest=((x, 1),)),)


def _is_masked(x: Scalar) -> bool:
    """Whether x is exp(-inf - r): it vanishes with the exponentials of its sum, and stays with them."""
    if x.op != "exp":
        return False
    return any(y.op == "lit" and not isinstance(y.args[0], Fraction) for _, y in addends(x.args[0]))


def addends(s: Scalar) -> list[tuple[int, Scalar]]:
    """The scalar as a sum of signed addends, nested sums opened."""
    match s.op:
        case "add":
            return addends(s.args[0]) + addends(s.args[1])
        case "sub":
            return addends(s.args[0]) + [(-k, x) for k, x in addends(s.args[1])]
        case "neg":
            return [(-k, x) for k, x in addends(s.args[0])]
        case _:
            return [(1, s)]


def total(parts: list[tuple[int, Scalar]]) -> Scalar:
    """The sum of signed addends."""
    out: Scalar | None = None
    for sign, x in parts:
        first = x if sign > 0 else apply("neg", x)
        out = first if out is None else apply("add" if sign > 0 else "sub", out, x)
    return lit(0) if out is None else out


def _exponential(x: Scalar, scope: Scope) -> Term:
    """exp(a + log(b)), b free of the axis, is b * exp(a)."""
    parts = addends(x.args[0])
    logs = [(k, y) for k, y in parts if y.op == "log" and scope.free(y) and scope.depends(y)]
    if not logs:
        return Term(rest=((x, 1),))
    rest = apply("exp", total([a for a in parts if a not in logs]))
    return Term(free=tuple((y.args[0], k) for k, y in logs), rest=((rest, 1),))


def _sum(x: Scalar, scope: Scope) -> tuple[Term, ...]:
    together: list[tuple[int, Scalar]] = []  # addends that nothing of the group tells apart
    classes: dict[tuple[frozenset[tuple[Scalar, int]], frozenset[tuple[Scalar, int]]], list[Term]] = {}
    for sign, y in addends(x):
        split = separate(y, scope)
        if all(not t.rest for t in split) or not scope.depends(y):
            together.append((sign, y))
            continue
        for t in split:
            free = frozenset(f for f in t.free if scope.depends(f[0]))
            bound = frozenset(f for f in t.rest if scope.depends(f[0]))
            if not free and not bound:
                together.append((sign, t.scalar()))
            else:
                classes.setdefault((free, bound), []).append(replace(t, coefficient=sign * t.coefficient))
    if not classes:
        return (Term(rest=((x, 1),)),)
    out = [_merged(live_free | live_rest, terms, scope) for (live_free, live_rest), terms in classes.items()]
    if together:
        rest = total(together)
        out.insert(0, Term(free=((rest, 1),)) if scope.free(rest) else Term(rest=((rest, 1),)))
    return tuple(out)


def _merged(common: frozenset[tuple[Scalar, int]], terms: list[Term], scope: Scope) -> Term:
    """Terms with the same factors of the group as one: the factors times the sum of what else they have."""
    if len(terms) == 1:
        return terms[0]
    first = terms[0]
    parts = []
    for t in terms:
        left = [f for f in (*t.free, *t.rest) if f not in common]
        parts.append((1 if t.coefficient > 0 else -1, product(left, abs(t.coefficient))))
    inner = total(parts)
    free = tuple(f for f in first.free if f in common)
    rest = tuple(f for f in first.rest if f in common)
    if scope.free(inner):
        return Term(free=(*free, (inner, 1)), rest=rest, risky=any(t.risky for t in terms))
    return Term(free=free, rest=(*rest, (inner, 1)), risky=any(t.risky for t in terms))
