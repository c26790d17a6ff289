"""Positive lower bounds of exact values: what may stand below the line.

A sum of terms that are at least 0 is at least 1 where one of them is exp(0): a maximum over the same terms is equal to
one of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from moa.normal import Cond, Scalar, both, lit, map_scalar, rename, rename_cond, subterms
from moa.numerics.facts import Facts, Scope, readable, without_guard
from moa.numerics.posy import ONE, Function, Posy, Unbounded, meet, number, of_poly, symbol
from moa.numerics.system import Reduction
from moa.poly import Poly, var


@dataclass(slots=True)
class Least(Facts):
    """Positive lower bounds of the expressions of one system."""

    def least(self, s: Scalar, scope: Scope) -> Posy:
        """A positive number that s is never below, but for a sum of nothing, which is exactly 0.

        Errors: Unbounded, naming the value that has none
        """
        found = self._least(self.exact(s), scope, {})
        if found is None:
            raise Unbounded(f"{readable(without_guard(s))} has no lower bound")
        return found

    def _least(self, s: Scalar, scope: Scope, given: Mapping[Scalar, Scalar]) -> Posy | None:
        low = self.interval(s, scope)[0] if not given else 0.0

        def walk(x: Scalar, where: Scope = scope) -> Posy | None:
            return self._least(x, where, given)

        match s.op:
            case "lit":
                return number(float(s.args[0])) if s.args[0] > 0 else None
            case "int":
                p: Poly = s.args[0]
                if not p.vars() and all(k > 0 for _, k in p.terms):
                    return of_poly(p)
            case "max":
                found = [y for y in map(walk, s.args) if y is not None]
                if found:
                    return found[0]
            case "min":
                return meet(*map(walk, s.args))
            case "sqrt":
                inner = walk(s.args[0])
                return None if inner is None else inner.root_below()
            case "exp":
                return self._least_exp(s, scope, given)
            case "mul":
                a, b = map(walk, s.args)
                return None if a is None or b is None else a * b
            case "div":
                a = walk(s.args[0])
                return None if a is None else a * self.magnitude(s.args[1], scope).power_below(-1)
            case "select":
                yes, no = self.branches(s, scope)
                return meet(walk(s.args[1], yes), walk(s.args[2], no))
            case "add":
                found_add = self._least_add(s, scope, given)
                if found_add is not None:
                    return found_add
            case "load":
                r = self.reduction(s, "add")
                if r is not None:
                    return self._least_sum(r, s, given)
        return number(low) if low > 0 and not math.isinf(low) else None

    def _least_exp(self, s: Scalar, scope: Scope, given: Mapping[Scalar, Scalar]) -> Posy | None:
        x = map_scalar(s.args[0], lambda y: given.get(y)) if given else s.args[0]
        x = self.exact(x)
        if x is lit(0):
            return ONE
        if given:
            return None
        low = self.interval(x, scope)[0]
        if low >= 0:
            return ONE
        return symbol(Function("exp", self.magnitude(x, scope)), -1)

    def _least_add(self, s: Scalar, scope: Scope, given: Mapping[Scalar, Scalar]) -> Posy | None:
        """Of a sum of two that are at least 0; where they compare an extreme with something else, case by case."""
        if min(self.interval(x, scope)[0] for x in s.args) < 0:
            return None
        found = [(x, self._least(x, scope, given)) for x in s.args]
        kept = [p for x, p in found if p is not None and not self._may_be_nothing(x, given)]
        if len(kept) == 2:
            return kept[0] + kept[1]
        if kept:
            return kept[0]
        if given:
            return None
        for top in self._maxima(s):
            cases = [self._least(s, scope, {top: x}) for x in top.args]
            if all(c is not None for c in cases):
                return meet(*cases)
        return None

    def _may_be_nothing(self, s: Scalar, given: Mapping[Scalar, Scalar]) -> bool:
        """Whether s is a sum that may have no term; where its maximum is taken to be finite, it has one."""
        r = self.reduction(s)
        if r is None:
            return False
        if any(self.reduction(y) is not None and self.reduction(y).axis == r.axis for y in given.values()):  # type: ignore[union-attr]
            return False
        infinite = any(y.op == "lit" and y.args[0] == -math.inf for _, b in r.pieces for y in subterms(b))
        return infinite or not self.nonempty(r)

    def _maxima(self, s: Scalar) -> Iterator[Scalar]:
        """Choices between an extreme and something else, in s and in the sums it is made of."""
        seen: dict[Scalar, None] = {}
        for x in subterms(s):
            r = self.reduction(x, "add")
            bodies = [rename(b, r.bind(x.args[1])) for _, b in r.pieces] if r is not None else [x]
            for b in bodies:
                seen |= dict.fromkeys(y for y in subterms(b) if y.op == "max")
        yield from seen

    def _least_sum(self, r: Reduction, s: Scalar, given: Mapping[Scalar, Scalar]) -> Posy | None:
        """Of a sum of terms that are at least 0: one of them is exp(0), or each has a lower bound."""
        if any(self.interval(b, self.scope(r, k))[0] < 0 for k, (_, b) in enumerate(r.pieces)):
            return None
        at = r.bind(s.args[1])
        bodies = [(rename_cond(both(r.domain, c), at), self._given(rename(b, at), given)) for c, b in r.pieces]
        if self._one_is_one(bodies, r.axis[0]):
            return ONE
        if given:
            return None
        parts = [self._least(self.exact(b), self.scope(r, k), {}) for k, (_, b) in enumerate(r.pieces)]
        each = meet(*parts)
        if each is None:
            return None
        return each * of_poly(r.axis[1]) if r.domain.is_true and len(parts) == 1 and r.pieces[0][0].is_true else each

    def _given(self, s: Scalar, given: Mapping[Scalar, Scalar]) -> Scalar:
        return self.exact(map_scalar(s, lambda y: given.get(y)) if given else s)

    def _one_is_one(self, bodies: list[tuple[Cond, Scalar]], axis: str) -> bool:
        """Whether an extreme over the same terms is reached, where the exponent of one of them is then 0."""
        exponents = []
        for c, b in bodies:
            b = without_guard(b)
            if b.op != "exp":
                return False
            exponents.append((c, b.args[0]))
        for x in (y for _, e in exponents for y in subterms(e) if y.op == "load"):
            top = self.reduction(x, "max", "min")
            if top is None:
                continue
            at = {**top.bind(x.args[1]), top.axis[0]: var(axis)}
            terms = [(rename_cond(both(top.domain, c), at), rename(u, at)) for c, u in top.pieces]
            if all(any(c is d and self._with(e, x, u) is lit(0) for d, e in exponents) for c, u in terms):
                return True
        return False

    def magnitude(self, s: Scalar, scope: Scope) -> Posy:
        """A bound on |s| in sizes and largest inputs."""
        raise NotImplementedError
