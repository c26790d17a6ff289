"""Sizes of exact values: bounds in which elements may stand for themselves, so that a sum cancels its denominator.

size         |s| <= size(s), over the elements that s is made of
sum_over     sum_j of a bound: where its terms are those of a sum that is known to be made of terms >= 0, that sum
cancelled    S / D <= c where D = S + ..., D = sqrt(S / d + ...) and so on: an average is at most its largest term
replaced     every element by its bound in sizes and largest inputs; 1 / D by a lower bound of D, if there is one
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from moa.normal import Cond, Scalar, both, cond_loads, load, loads, rename, rename_cond
from moa.numerics.facts import Scope, without_guard
from moa.numerics.least import Least
from moa.numerics.posy import (
    ONE,
    ZERO,
    Atom,
    Function,
    Largest,
    Monomial,
    Posy,
    Power,
    Unbounded,
    monomial,
    number,
    of_poly,
    posy,
    posy_sum,
    symbol,
)
from moa.numerics.system import Reduction
from moa.poly import Poly, const, var

TERMS = "terms of "


def elements(p: Posy, f: Callable[[Scalar], Scalar]) -> Posy:
    """The bound with its elements mapped."""
    out = ZERO
    for m, c in p.terms:
        term = number(c)
        for a, q in m:
            term = term * symbol(f(a) if isinstance(a, Scalar) else a, q)
        out = out + term
    return out


@dataclass(slots=True)
class Sizes(Least):
    """Sizes of the expressions of one system."""

    _magnitudes: dict[tuple[Scalar, Scope], Posy] = field(default_factory=dict)
    _counted: dict[str, tuple[Reduction, Cond, tuple[str, ...]]] = field(default_factory=dict)

    # one expression -------------------------------------------------------------------------------------------------

    def size(self, s: Scalar, scope: Scope) -> Posy:
        """A bound on |s| over elements."""
        s = self.exact(s)
        match s.op:
            case "lit":
                value = float(s.args[0])
                return number(abs(value)) if abs(value) < float("inf") else ZERO  # an infinity is exact
            case "int":
                return integer_size(s.args[0], scope)
            case "param":
                return symbol(Largest(s.args[0]))
            case "neg" | "abs":
                return self.size(s.args[0], scope)
            case "mul":
                return self.size(s.args[0], scope) * self.size(s.args[1], scope)
            case "div":
                return self.cancelled(self.size(s.args[0], scope) * self.inverse(s.args[1], scope), scope)
            case "sqrt" if of_host(s):
                inner = self.size(s.args[0], scope)
                if len(inner.terms) == 1:
                    return inner.power(Fraction(1, 2))
        return symbol(s)

    def inverse(self, s: Scalar, scope: Scope) -> Posy:
        """1 / |s|, as an element to the power -1 where it varies."""
        s = self.exact(s)
        if of_host(s):
            try:
                return self.least(s, scope).power_below(-1)
            except Unbounded:
                pass
        if s.op == "sqrt":
            return symbol(s, -1)
        if s.op == "mul":
            return self.inverse(s.args[0], scope) * self.inverse(s.args[1], scope)
        return symbol(s, -1)

    def magnitude(self, s: Scalar, scope: Scope) -> Posy:
        """A bound on |s| in sizes and largest inputs.

        Errors: Unbounded
        """
        s = self.exact(s)
        key = (s, scope)
        if key not in self._magnitudes:
            self._magnitudes[key] = self._magnitude(s, scope)
        return self._magnitudes[key]

    def _magnitude(self, s: Scalar, scope: Scope) -> Posy:
        low, high = self.interval(s, scope)
        largest = max(abs(low), abs(high))
        if largest < float("inf"):
            return number(largest)
        match s.op:
            case "load":
                return self._of_load(s)
            case "add" | "sub":
                return posy_sum(self.magnitude(x, scope) for x in s.args)
            case "max" | "min":
                return self.magnitude(s.args[0], scope).join(self.magnitude(s.args[1], scope))
            case "select":
                yes, no = self.branches(s, scope)
                return self.magnitude(s.args[1], yes).join(self.magnitude(s.args[2], no))
            case "exp":
                return symbol(Function("exp", self.magnitude(s.args[0], scope)))
            case "sqrt":
                return self.magnitude(s.args[0], scope).power(Fraction(1, 2))
            case "log":
                above = self.magnitude(s.args[0], scope)
                least = self.least(s.args[0], scope)
                if least == ONE:
                    return symbol(Function("log", above)) if above != ONE else ZERO
                return symbol(Function("log", ONE + above)) + symbol(Function("log", ONE + least.power_below(-1)))
        size = self.size(s, scope)
        if size == symbol(s):
            raise Unbounded(f"{s} has no bound")
        return self.replaced(size, scope)

    def _of_load(self, s: Scalar) -> Posy:
        name = s.args[0]
        if name in self._counted:
            return of_poly(self._counted[name][0].axis[1])
        r = self.reduction(s)
        if r is None:
            if name in self.system.refused:
                raise Unbounded(self.system.refused[name])
            return symbol(Largest(name))
        parts = [self.magnitude(b, self.scope(r, k)) for k, (_, b) in enumerate(r.pieces)]
        largest = parts[0]
        for p in parts[1:]:
            largest = largest.join(p)
        match r.op:
            case "add":
                return largest * of_poly(r.axis[1])
            case "max" | "min":
                return largest
        raise Unbounded(f"{name} is a product of {r.axis[1]} terms")

    # bounds ---------------------------------------------------------------------------------------------------------

    def replaced(self, p: Posy, scope: Scope, which: Callable[[Scalar], bool] = lambda _: True) -> Posy:
        """The bound with the elements that `which` accepts replaced by their bounds, after cancelling."""
        out = ZERO
        for m, c in self.cancelled(p, scope, counts=True).terms:
            term = number(c)
            for a, q in m:
                if not isinstance(a, Scalar) or not which(a):
                    term = term * symbol(a, q)
                elif q > 0:
                    term = term * self.magnitude(a, scope).power(q)
                else:
                    term = term * self.least(a, scope).power(q)
            out = out + term
        return out

    def cancelled(self, p: Posy, scope: Scope, counts: bool = False) -> Posy:
        """The bound with what a denominator is known to be at least taken out of the numerator.

        counts   numbers of terms too: last, for a denominator may be wanted for something else
        """
        return posy_sum(self._cancelled(m, c, scope, counts) for m, c in p.terms)

    def _cancelled(self, m: Monomial, c: float, scope: Scope, counts: bool) -> Posy:
        if not any(q < 0 and isinstance(a, Scalar) for a, q in m):
            return posy({m: c})
        powers: dict[Atom, Power] = dict(m)
        factor = number(c) * self._taken(powers, scope, False)
        for a, q in powers.items() if self._below(powers) else ():
            spread = self.spread(a) if isinstance(a, Scalar) and q >= 1 else None
            if spread is not None:
                rest = posy({monomial({**powers, a: q - 1}): 1.0}) * spread
                again = self.cancelled(rest, scope, counts)
                if all(below(dict(t)) > below(powers) for t, _ in again.terms):
                    return again * factor
        if counts:
            factor = factor * self._taken(powers, scope, True)
        return posy({monomial(powers): 1.0}) * factor

    def _below(self, powers: Mapping[Atom, Power]) -> list[Scalar]:
        return [a for a, q in powers.items() if q < 0 and isinstance(a, Scalar)]

    def _taken(self, powers: dict[Atom, Power], scope: Scope, counts: bool) -> Posy:
        """Takes elements (or numbers of terms) out of `powers` with the denominators that cover them; the factor."""
        factor = ONE
        for d in self._below(powers):
            if counts and self._plain(d, scope):
                continue
            for a, q in list(powers.items()):
                k = -powers[d]
                if k <= 0 or q <= 0 or counts != is_count(a):
                    continue
                found = self.relation(a, d, scope)
                if found is not None:
                    constant, order = found
                    take = min(q, k / order)
                    powers[a] = q - take
                    powers[d] = powers[d] + take * order
                    factor = factor * constant.power(take)
        return factor

    def _plain(self, d: Scalar, scope: Scope) -> bool:
        """Whether a lower bound of d does not fall exponentially with the data."""
        try:
            return not any(isinstance(a, Function) for a in self.least(d, scope).atoms())
        except Unbounded:
            return False

    def spread(self, s: Scalar) -> Posy | None:
        """|sum| <= sum of sizes, for a sum of terms of either sign."""
        r = self.reduction(s, "add")
        if r is None or self._single(r) is not None:
            return None
        total = posy_sum(self.sum_over(self.size(b, self.scope(r, k)), r, k) for k, (_, b) in enumerate(r.pieces))
        at = r.bind(s.args[1])
        return elements(total, lambda x: rename(x, at))

    # relations ------------------------------------------------------------------------------------------------------

    def relation(self, a: Atom, d: Scalar, scope: Scope) -> tuple[Posy, Power] | None:
        """(c, q) with |a| <= c * d**q."""
        if a is d:
            return ONE, Fraction(1)
        match d.op:
            case "add":
                low = [self.interval(x, scope)[0] for x in d.args]
                if min(low) < 0:
                    return None
                return next((f for x in d.args if (f := self.relation(a, x, scope)) is not None), None)
            case "max":
                return next((f for x in d.args if (f := self.relation(a, x, scope)) is not None), None)
            case "sqrt":
                found = self.relation(a, d.args[0], scope)
                return None if found is None else (found[0], found[1] * 2)
            case "div" | "mul":
                for x, k in ((d.args[0], d.args[1]), (d.args[1], d.args[0]))[: 1 if d.op == "div" else 2]:
                    if not of_host(k):
                        continue
                    found = self.relation(a, x, scope)
                    if found is not None:
                        scale = self.magnitude(k, scope) if d.op == "div" else self.inverse(k, scope)
                        return found[0] * scale.power(found[1]), found[1]
            case "select" if without_guard(d) is not d:
                return self.relation(a, without_guard(d), scope)
            case "load":
                return self._of_sum(a, d)
        return None

    def _of_sum(self, a: Atom, d: Scalar) -> tuple[Posy, Power] | None:
        """A term of a sum of terms >= 0 is at most the sum; the count of terms is, times the least of them."""
        r = self.reduction(d, "add")
        terms = None if r is None else self._single(r)
        if r is None or terms is None:
            return None
        at = r.bind(d.args[1])
        count = self._count_of(a, r, d)
        if count is not None:
            try:
                least = self.least(r.pieces[count][1], self.scope(r, count))
            except Unbounded:
                return None
            return least.power_below(-1), Fraction(1)
        if not isinstance(a, Scalar) or not both(r.domain, r.pieces[0][0]).is_true:
            return None
        (m, c) = terms[0]
        element, q = m[0] if len(m) == 1 else (a, Fraction(0))
        if not q or not isinstance(element, Scalar):
            return None
        for v in sorted(a.vars()):
            if rename(element, at | {r.axis[0]: var(v)}) is a:
                return number(c).power(-1 / q), 1 / q
        return None

    def _count_of(self, a: Atom, r: Reduction, d: Scalar) -> int | None:
        """The piece of r whose number of terms a is."""
        if isinstance(a, Scalar):
            if a.op != "load" or a.args[0] not in self._counted:
                return None
            counted, where, used = self._counted[a.args[0]]
            at = r.bind(d.args[1])
            same = counted.axis == r.axis and counted.domain is r.domain and a.args[1] == tuple(at.get(v) for v in used)
            return next((k for k, (c, _) in enumerate(r.pieces) if same and c is where), None)
        whole = r.domain.is_true and r.pieces[0][0].is_true and r.axis[1].as_atom() is not None
        return 0 if whole and a == r.axis[1].as_atom() else None

    # sums -----------------------------------------------------------------------------------------------------------

    def _single(self, r: Reduction) -> list[tuple[Monomial, float]] | None:
        """The terms of a sum as one product a piece, where they are all >= 0."""
        if r.op != "add":
            return None
        out = []
        for k, (_, b) in enumerate(r.pieces):
            scope = self.scope(r, k)
            p = self.size(b, scope)
            if len(p.terms) != 1 or self.interval(b, scope)[0] < 0:
                return None
            out.append(p.terms[0])
        return out

    def count(self, r: Reduction, piece: int) -> Posy:
        """The number of terms of a piece."""
        where = r.pieces[piece][0]
        if both(r.domain, where).is_true:
            return of_poly(r.axis[1])
        has = both(r.domain, where)
        vars_ = has.vars() | {v for _, index in cond_loads(has) for p in index for v in p.vars()}
        used = tuple(v for v, _ in r.outer if v in vars_)
        name = f"{TERMS}{r.axis[0]} < {r.axis[1]}, {r.domain}, {where}"
        self._counted.setdefault(name, (r, where, used))
        return symbol(load(name, tuple(var(v) for v in used)))

    def sum_over(self, p: Posy, r: Reduction, piece: int) -> Posy:
        """sum over the axis of r, in one of its pieces, of a bound."""
        scope = self.scope(r, piece)
        axis = r.axis[0]
        out = ZERO
        for m, c in self.cancelled(p, scope).terms:
            free = {a: q for a, q in m if not (isinstance(a, Scalar) and axis in a.vars())}
            bound = {a: q for a, q in m if a not in free}
            out = out + posy({monomial(free): c}) * self._sum_of(bound, r, piece, scope)
        return out

    def _sum_of(self, powers: dict[Atom, Power], r: Reduction, piece: int, scope: Scope) -> Posy:
        if not powers:
            return self.count(r, piece)
        best: tuple[int, Power, Posy, dict[Atom, Power]] | None = None
        for total, m, c in self._sums_like(r, piece):
            share = min((powers.get(a, Fraction(0)) / q for a, q in m), default=Fraction(0))
            share = min(share, Fraction(1))
            if share <= 0:
                continue
            left = dict(powers)
            for a, q in m:
                left[a] = left[a] - q * share
            # sum_j b_j^p <= N^(1 - p) (sum_j b_j)^p
            value = number(c).power(-share) * symbol(total, share) * of_poly(r.axis[1]).power(1 - share)
            key = (-sum(1 for q in left.values() if q), share, value, {a: q for a, q in left.items() if q})
            if best is None or key[:2] > best[:2]:
                best = key
        if best is None:
            return self.replaced(posy({monomial(powers): 1.0}), scope) * self.count(r, piece)
        _, _, value, left = best
        return value * self.replaced(posy({monomial(left): 1.0}), scope)

    def _sums_like(self, r: Reduction, piece: int) -> Iterator[tuple[Scalar, Monomial, float]]:
        """Sums of terms >= 0 over the same axis and conditions: the element, and the product that is its term."""
        where = r.pieces[piece][0]
        for other in self.system.reductions.values():
            if other.op != "add" or other.axis[1] != r.axis[1]:
                continue
            if any(v not in dict(r.outer) for v, _ in other.outer):
                continue
            terms = self._single(other)
            if terms is None:
                continue
            new = {other.axis[0]: var(r.axis[0])}
            for k, (c, _) in enumerate(other.pieces):
                domain = rename_cond(other.domain, new)
                if (domain is r.domain or domain.is_true) and (c.is_true or rename_cond(c, new) is where):
                    m, scale = terms[k]
                    if m:
                        ((term, _),) = elements(posy({m: 1.0}), lambda x: rename(x, new)).terms  # noqa: B023
                        yield load(other.name, tuple(var(v) for v, _ in other.outer)), term, scale


def integer_size(p: Poly, scope: Scope) -> Posy:
    """A bound on an integer expression: index variables lie between 0 and their extents less one."""
    above, below = ZERO, ZERO
    for m, k in p.terms:
        term = number(abs(float(k)))
        for a in m:
            if a.kind == "var":
                term = term * of_poly(scope.extents.get(a.name, const(0)))
            elif a.kind == "load":
                term = term * symbol(Largest(a.name))
            elif a.kind in ("min", "max", "abs", "div", "select") and p.vars():
                inner = [integer_size(x, scope) for x in a.args if isinstance(x, Poly)]
                if a.kind == "div":
                    inner = inner[:1]
                term = term * (inner[0] if len(inner) == 1 else inner[0].join(inner[1]))
            else:
                term = term * symbol(a)
        if k > 0:
            above = above + term
        else:
            below = below + term
    if above == below:
        return above
    return above + below


def below(powers: Mapping[Atom, Power]) -> Power:
    """The sum of the negative powers of elements: how much is divided by."""
    return sum((q for a, q in powers.items() if q < 0 and isinstance(a, Scalar)), Fraction(0))


def is_count(a: Atom) -> bool:
    return not isinstance(a, Scalar) or (a.op == "load" and a.args[0].startswith(TERMS))


def of_host(s: Scalar) -> bool:
    """Whether a value is one number a call, made of sizes and parameters."""
    return not s.vars() and not loads(s)
