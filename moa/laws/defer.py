"""Defer: what is free of the reduced axis leaves the reduction, by the algebra of the operator that reduces.

A factor leaves an operator over which multiplication distributes (a sum). A positive factor, or a term, leaves an
operator with which addition and positive scaling commute because they are monotone (a maximum, a minimum).
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from fractions import Fraction

from moa.laws.algebra import factors, guarded, product, reads
from moa.laws.sign import nonzero, positive
from moa.laws.table import LAWS
from moa.laws.terms import Factors, Scope, Term, addends, total
from moa.normal import (
    Cond,
    Eq,
    Piece,
    Scalar,
    apply,
    at_least_zero,
    choose,
    compare,
    cond_loads,
    is_structural,
    lit,
    load,
)
from moa.ops import OPERATORS, REDUCERS


@dataclass(frozen=True, slots=True)
class Deferred:
    """What a law made of one reduction: new reductions, and its value over their loads."""

    parts: tuple[Eq, ...]
    value: Scalar
    laws: tuple[str, ...]
    conditions: tuple[tuple[str, str], ...]


Fresh = Callable[[str], str]  # a name not used yet, from the name of the equation it comes from


def defer(e: Eq, live: Set[str], facts: Set[str], fresh: Fresh) -> Deferred | None:
    """The reduction with everything movable moved out, by the laws that fit its operator; None if nothing moves."""
    assert e.red is not None
    scope = Scope(e.red[0], live)
    if e.op in OPERATORS["mul"].distributes:
        return _sum(e, scope, facts, fresh)
    if REDUCERS[e.op].idempotent and not isinstance(REDUCERS[e.op].identity, bool):
        return _extreme(e, scope, facts, fresh)
    return None


# Sums ----------------------------------------------------------------------------------------------------------------


@LAWS.law(
    "defer",
    "sum_j (c * x_j) = c * sum_j x_j, c free of j",
    contract="reassociates",
    source="distributivity",
)
def take_factors(t: Term) -> tuple[Fraction, Factors, Scalar]:
    """(coefficient, factors that leave, what stays under the sum)."""
    return t.coefficient, t.free, product(t.rest)


def _shape_of(s: Scalar, scope: Scope) -> tuple[str, ...]:
    """The operators of the factors that depend on the group: terms of different shape are different sums."""
    found = guarded(s)
    if found is not None:
        return _shape_of(found[1], scope)
    return tuple(sorted(x.op for x, _ in factors(s)[1] if scope.depends(x)))


def beside(t: Term, where: Cond, along: Set[str], scope: Scope) -> Term:
    """The term with the exponentials that stay under the sum, where only data tell its piece from another one.

    Both are visited in any case, and both follow the same reference.

    along   what exponentials of the sum that depend on its axis are relative to
    """
    if is_structural(where) and not cond_loads(where):
        return t
    stay = tuple((x, p) for x, p in t.free if p == 1 and _exponents(x, scope, free=True) & along)
    return replace(t, free=tuple(f for f in t.free if f not in stay), rest=(*stay, *t.rest)) if stay else t


def _exponents(s: Scalar, scope: Scope, free: bool = False) -> frozenset[str]:
    """The reductions of the group that exponentials among the factors of s read, of those that have its axis or not."""
    found: frozenset[str] = frozenset()
    for x, p in factors(s)[1]:
        inner = guarded(x)
        if inner is not None:
            found |= _exponents(inner[1], scope, free)
        elif x.op == "exp" and p == 1 and scope.free(x) == free:
            found |= reads(x) & scope.live
    return found


def _sum(e: Eq, scope: Scope, facts: Set[str], fresh: Fresh) -> Deferred | None:
    assert e.red is not None
    classes: dict[tuple[Fraction, Factors, tuple[str, ...]], list[Piece]] = {}
    risky: set[tuple[Fraction, Factors, tuple[str, ...]]] = set()
    unsafe: set[tuple[Fraction, Factors, tuple[str, ...]]] = set()
    some = at_least_zero(e.red[1] - 1)
    several = False
    along = frozenset().union(*(_exponents(s, scope) for _, s in e.pieces))
    for c, body in e.pieces:
        terms: tuple[Term, ...] = LAWS["linearity"].apply(body, scope)
        several = several or len(terms) > 1
        for t in terms:
            coefficient, free, rest = LAWS["defer"].apply(beside(t, c, along, scope))
            key = (coefficient, tuple(sorted(free, key=lambda f: (-f[1], str(f[0])))), _shape_of(rest, scope))
            classes.setdefault(key, []).append((c, rest))
            if not all(_safe(f, scope, facts) for f in free):
                whole = e.domain.is_true and c.is_true and not t.risky
                (unsafe if whole else risky).add(key)
    if len(classes) == 1 and not several and next(iter(classes))[:2] == (Fraction(1), ()):
        return None
    parts, value, conditions = [], None, []
    for key, pieces in classes.items():
        coefficient, free, _ = key
        part = replace(e, name=fresh(e.name), pieces=_joined(pieces))
        parts.append(part)
        here = load(part.name, part.index())
        term = product(((here, 1), *free), abs(coefficient))
        if key in risky:
            term = choose(compare("eq", here, lit(0)), lit(0), term)
        elif key in unsafe:
            term = choose(some, term, lit(0))
        if value is None:
            value = term if coefficient > 0 else apply("neg", term)
        else:
            value = apply("add" if coefficient > 0 else "sub", value, term)
        conditions += [(f"{x} is free of {scope.axis}", "structure") for x, _ in free]
        if key in risky:
            conditions.append((f"a sum over nothing is 0: {part.name} == 0 gives 0", "select"))
        elif key in unsafe and not some.is_true:
            conditions.append((f"a sum over nothing is 0: {some} or 0", "select"))
    assert value is not None
    laws = (("linearity",) if len(classes) > 1 else ()) + (
        ("defer",) if any(k[1] or k[0] != 1 for k in classes) else ()
    )
    return Deferred(tuple(parts), value, laws or ("linearity",), tuple(conditions))


@LAWS.law(
    "drop an axis",
    "sum_j x_j is one number for all i where x is free of i (any operator)",
    contract="exact",
    source="structure",
)
def drop_axes(e: Eq, fresh: Fresh) -> Eq | None:
    """The reduction without outer axes that nothing in it depends on; None where there is none."""
    used = e.domain.vars().union(*(c.vars() | s.vars() for c, s in e.pieces))
    outer = tuple(a for a in e.outer if a[0] in used)
    return None if outer == e.outer else replace(e, name=fresh(e.name), outer=outer)


def _safe(f: tuple[Scalar, int], scope: Scope, facts: Set[str]) -> bool:
    """Whether f times an empty sum is 0: what does not depend on the group is as finite as the data."""
    return not scope.depends(f[0]) or (f[1] < 0 and nonzero(f[0], facts) and _defined(f[0], facts))


def _defined(s: Scalar, facts: Set[str]) -> bool:
    """Whether no quotient in the scalar can be 0 / 0: a size can be 0."""
    if s.op == "div" and (s.args[1].op == "int" or not nonzero(s.args[1], facts)):
        return False
    return all(_defined(x, facts) for x in s.args if isinstance(x, Scalar))


def _joined(pieces: list[Piece]) -> tuple[Piece, ...]:
    """Bodies of one condition added up."""
    out: dict[Cond, Scalar] = {}
    for c, s in pieces:
        out[c] = apply("add", out[c], s) if c in out else s
    return tuple(out.items())


# Maxima and minima ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Around:
    """One layer taken off a body: coefficient * product(factors) * core, or core + terms."""

    coefficient: Fraction = Fraction(1)
    factors: Factors = ()
    terms: tuple[tuple[int, Scalar], ...] = ()

    def wrap(self, core: Scalar) -> Scalar:
        if self.terms:
            return total([(1, core), *self.terms])
        return product(((core, 1), *self.factors), self.coefficient)


@LAWS.law(
    "defer out of an extreme",
    "max_j (c * x_j + b) = c * max_j x_j + b, b and c free of j, c > 0 (min likewise)",
    contract="exact",
    source="monotonicity",
)
def take_layer(body: Scalar, scope: Scope, facts: Set[str]) -> tuple[Around, Scalar] | None:
    """One layer of the body, a positive factor or terms free of the axis, and the core; None where there is none.

    An integer expression such as i - j is one atom and is never split. A term of the data stays: it would cancel in
    x - max(x), and a NaN in it would be lost.
    """
    coefficient, parts = factors(body)
    out = tuple(f for f in parts if scope.free(f[0]) and positive(f[0], facts))
    if out or abs(coefficient) != 1:
        rest = [f for f in parts if f not in out]
        if not rest:
            return None
        return Around(abs(coefficient), out), product(rest, Fraction(1 if coefficient > 0 else -1))
    if body.op in ("add", "sub"):
        terms = addends(body)
        free = tuple(t for t in terms if scope.free(t[1]) and (scope.depends(t[1]) or not reads(t[1])))
        if free:
            return Around(terms=free), total([t for t in terms if t not in free])
        lists = [factors(x) for _, x in terms]
        common = tuple(
            f
            for f in dict.fromkeys(lists[0][1])
            if scope.free(f[0]) and positive(f[0], facts) and all(f in fs for _, fs in lists)
        )
        if common:
            inner = []
            for (sign, _), (c, fs) in zip(terms, lists, strict=True):
                left = list(fs)
                for f in common:
                    left.remove(f)
                inner.append((sign if c > 0 else -sign, product(left, abs(c))))
            return Around(factors=common), total(inner)
    return None


def _extreme(e: Eq, scope: Scope, facts: Set[str], fresh: Fresh) -> Deferred | None:
    layers: list[Around] = []
    pieces = [p for p in e.pieces if p[1] is not lit(0)]
    zeros = [p for p in e.pieces if p[1] is lit(0)]  # a positive factor leaves them as they are
    while pieces:
        found = [LAWS["defer out of an extreme"].apply(s, scope, facts) for _, s in pieces]
        if any(f is None for f in found) or len({f[0] for f in found}) != 1 or (zeros and found[0][0].terms):
            break
        layers.append(found[0][0])
        pieces = [(c, f[1]) for (c, _), f in zip(pieces, found, strict=True)]
    if not layers:
        return None
    left = iter(pieces)
    part = replace(e, name=fresh(e.name), pieces=tuple(p if p in zeros else next(left) for p in e.pieces))
    value = load(part.name, part.index())
    for layer in reversed(layers):
        value = layer.wrap(value)
    conditions = [(f"{x} > 0 and free of {scope.axis}", "sign") for a in layers for x, _ in a.factors]
    conditions += [(f"{x} is free of {scope.axis}", "structure") for a in layers for _, x in a.terms]
    return Deferred((part,), value, ("defer out of an extreme",), tuple(conditions))
