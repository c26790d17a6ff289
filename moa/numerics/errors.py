"""Rounding errors, operator by operator: |computed - exact| <= u * error, terms in u**2 left out.

Every operation of IEEE arithmetic is rounded once; the functions that are made of arithmetic have the errors measured
in `moa.expand`. A sum of n terms costs each of them at most n roundings, in whatever order and however blocked it is
added, its product included (a fused multiply-add costs one); where blocks of it are added up first, as many as a block
has terms, and one for each block. Underflow and overflow are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction

from moa.normal import Cond, Scalar, cond_loads, lit, map_scalar, rename, scalar_atoms, subterms
from moa.numerics.facts import Scope
from moa.numerics.posy import ONE, ZERO, Function, Posy, Unbounded, number, of_poly, posy_sum, symbol
from moa.numerics.sizes import Sizes, elements
from moa.numerics.system import Reduction
from moa.poly import Atom

# of the correct result, in units of the roundoff u: an ulp is at most 2 u of it (see the head of `moa.expand`)
EXP2, EXP, LOG, TANH, ERF = 2 * 1.54, 2 * 0.92, 2 * 0.89, 2 * 2.51, 2 * 1.6
ERF_SLOPE = 1.13  # the largest derivative of erf is 2 / sqrt(pi)
CONVERTED = 2.0  # roundings of an exponent that is taken to base two: of the factor and of the product
RANGES = 6  # rounds that a domain can add to those of its axis: two intervals, each with a partial start and end
EXACT_BITS = 24


@dataclass(slots=True)
class Errors(Sizes):
    """Errors of the expressions of one system.

    keys      how many terms are added between two moves
    apart     they are added up by themselves before they join the state
    factors   of a product that is summed, whose other factor is an element of an input: how many times u a computed one
              is rounded by before it is multiplied; 0 where it is taken as it is
    shortest  how many terms there are between two moves at the least
    """

    keys: int = 1
    apart: bool = True
    factors: float = 0.0
    shortest: int = 1
    _errors: dict[tuple[Scalar, Scope], Posy] = field(default_factory=dict)
    _of_states: dict[str, Posy] = field(default_factory=dict)

    def error(self, s: Scalar, scope: Scope) -> Posy:
        """A bound on the error of s over elements.

        Errors: Unbounded, with the reason
        """
        key = (s, scope)
        if key not in self._errors:
            self._errors[key] = self._error(s, scope)
        return self._errors[key]

    def _error(self, s: Scalar, scope: Scope) -> Posy:
        match s.op:
            case "lit":
                return ZERO if exactly_stored(s.args[0]) else number(abs(float(s.args[0])))
            case "int":
                self._refuse(s.args[0].atoms(), scope)
                return ZERO
            case "param":
                return self.size(s, scope)  # a run-time number is rounded to the compute type
            case "load":
                return self._of_element(s, scope)
            case "neg" | "abs":
                return self.error(s.args[0], scope)
            case "max" | "min":
                return self.error(s.args[0], scope).join(self.error(s.args[1], scope))
            case "add" | "sub":
                return posy_sum(self.error(x, scope) for x in s.args) + self.rounding(s, scope)
            case "mul":
                return self.unrounded_product(s, scope) + self.rounding(s, scope)
            case "div":
                a, b = s.args
                over = self.inverse(b, scope)
                passed = self.error(a, scope) * over + self.size(a, scope) * over * over * self.error(b, scope)
                return self.cancelled(passed, scope) + self.rounding(s, scope)
            case "sqrt":
                inner = self.error(s.args[0], scope)
                passed = (inner * self.inverse(s, scope)).times(0.5) if inner != ZERO else ZERO
                return self.cancelled(passed, scope) + self.rounding(s, scope)
            case "exp":
                return self._of_exp(s, scope)
            case "tanh":
                return self.error(s.args[0], scope) + self.size(s, scope).times(TANH)
            case "erf":
                passed = self.error(s.args[0], scope).times(ERF_SLOPE)
                return self.cancelled(passed, scope) + self.size(s, scope).times(ERF)
            case "log":
                inner = self.error(s.args[0], scope)
                passed = inner * self.inverse(s.args[0], scope) if inner != ZERO else ZERO
                return self.cancelled(passed, scope) + self.size(s, scope).times(LOG)
            case "select":
                return self._of_choice(s, scope)
        raise Unbounded(f"{s.op} has no rule for errors")

    def rounding(self, s: Scalar, scope: Scope) -> Posy:
        """One rounding of the result."""
        return self.size(s, scope)

    def unrounded_product(self, s: Scalar, scope: Scope) -> Posy:
        a, b = s.args
        return self.size(a, scope) * self.error(b, scope) + self.size(b, scope) * self.error(a, scope)

    def _of_exp(self, s: Scalar, scope: Scope) -> Posy:
        x = s.args[0]
        inside = self.error(x, scope)
        if s in self.system.base_two:
            inside = inside + self.size(x, scope).times(CONVERTED) + number(EXP2)
        else:
            inside = inside + number(EXP)
        return symbol(self.exact(s)) * inside if self.exact(s).op != "lit" else inside

    # choices --------------------------------------------------------------------------------------------------------

    def _of_choice(self, s: Scalar, scope: Scope) -> Posy:
        c, a, b = s.args
        yes, no = self.branches(s, scope)
        sides = []
        for x, side in ((a, yes), (b, no)):
            found = self.error(x, side)
            if side is not scope:  # what is known on this side only is used here
                found = self.replaced(found, side, lambda e: e.op != "load")
            sides.append(found)
        if self._decided(c, scope):
            return sides[0].join(sides[1])
        if self._meets(c, a, b):
            return (sides[0] + sides[1]).times(2)
        raise Unbounded(f"the choice {condition_text(c)} is made on rounded values")

    def _decided(self, c: Cond, scope: Scope) -> bool:
        """Whether computed values decide a condition as exact ones do."""
        match c.op:
            case "and" | "or" | "not":
                return all(self._decided(x, scope) for x in c.args)
            case "cmp":
                _, a, b = c.args
                if any(x.op == "lit" and math.isinf(x.args[0]) for x in (a, b)):
                    return True
                if b is lit(0) and c.args[0] in ("eq", "ne") and self._zero_only_of_nothing(a):
                    return True
                return all(self.error(x, scope) == ZERO for x in (a, b))
            case _:
                self._refuse(c.atoms(), scope)
                return True

    def _zero_only_of_nothing(self, s: Scalar) -> bool:
        """Whether s is a sum of terms >= 0: computed, it is 0 where every term is."""
        r = self.reduction(s, "add")
        return r is not None and self._single(r) is not None

    def _meets(self, c: Cond, a: Scalar, b: Scalar) -> bool:
        """Whether both sides have one value where the two compared values are equal."""
        if c.op != "cmp":
            return False
        _, x, y = c.args

        def there(s: Scalar) -> Scalar:
            return self.exact(map_scalar(s, lambda z: y if z is x else None))

        return there(a) is there(b)

    # elements of arrays ---------------------------------------------------------------------------------------------

    def _of_element(self, s: Scalar, scope: Scope) -> Posy:
        if s.args[0] in self.system.refused:
            raise Unbounded(self.system.refused[s.args[0]])
        self._refuse(scalar_atoms(s), scope)
        r = self.reduction(s)
        if r is None:
            return ZERO
        at = r.bind(s.args[1])
        return elements(self.of_reduction(r), lambda x: rename(x, at))

    def _refuse(self, integers: Iterable[Atom], scope: Scope) -> None:
        """Errors: Unbounded where an integer expression may differ because a float was rounded."""
        for a in integers:
            if a.name in self.system.refused:
                raise Unbounded(self.system.refused[a.name])
            if a.kind == "select" and not self._decided(a.args[0], scope):
                raise Unbounded(f"the choice {condition_text(a.args[0])} is made on rounded values")

    def of_reduction(self, r: Reduction) -> Posy:
        """The error of an element, over elements that do not have the reduced axis."""
        if r.name not in self._of_states:
            if r.computed is None:
                self._of_states[r.name] = self._of_reduction_error(r)
            else:
                self._of_states[r.name] = self.error(r.computed, self.scope(r, -1))
        return self._of_states[r.name]

    def _of_reduction_error(self, r: Reduction) -> Posy:
        for k, (c, _) in enumerate(r.pieces):
            self._refuse((*r.domain.atoms(), *c.atoms()), self.scope(r, k))
        match r.op:
            case "add":
                return self._of_sum_error(r)
            case "max" | "min":
                out = ZERO
                for k, (_, b) in enumerate(r.pieces):
                    scope = self.scope(r, k)
                    out = out.join(self.replaced(self.error(b, scope), scope, lambda x: r.axis[0] in x.vars()))
                return out
        raise Unbounded(f"{readable_name(r)} is a product of {r.axis[1]} terms")

    def _of_sum_error(self, r: Reduction) -> Posy:
        passed, total = ZERO, ZERO
        counts = True
        for k, (_, b) in enumerate(r.pieces):
            scope = self.scope(r, k)
            own = self.unrounded_product(b, scope) if b.op == "mul" else self.error(b, scope)
            if self.factors and b.op == "mul" and self._is_input(b.args[0]) != self._is_input(b.args[1]):
                own = own + self.size(b, scope).times(self.factors)
            passed = passed + self.sum_over(own, r, k)
            total = total + self.sum_over(self.size(b, scope), r, k)
            counts = counts and b is lit(1)
        if counts:
            return ZERO
        return passed + total * self._roundings(r) + self._of_moves(r, total)

    def _roundings(self, r: Reduction) -> Posy:
        """How often a term of a sum is rounded at the most."""
        if r.moves is None or not self.apart:
            return of_poly(r.axis[1])
        return symbol(Function("least", of_poly(r.axis[1]), self.keys)) + self._times(r) + ONE  # for a merge of parts

    def _times(self, r: Reduction) -> Posy:
        """How often the state of a sum moves after it has a term."""
        times = symbol(Function("moves", of_poly(r.axis[1]), self.shortest))
        return times if r.domain.is_true else times + number(RANGES)

    def _is_input(self, s: Scalar) -> bool:
        return s.op == "load" and s.args[0] not in self.system.reductions

    # moves between references ---------------------------------------------------------------------------------------

    def _of_moves(self, r: Reduction, total: Posy) -> Posy:
        """What moving the states costs.

        Moves compose, so an error made in one reaches the end through one move by the whole way; and a rounded
        reference is as good as an exact one but in what is added last. With one factor exp(k * (r - r')) a state is
        rounded twice for each move, and the exponents of all moves add up to that of a term, counted there. With
        several states, an entry of the matrix times a state is a bound on what each move adds.
        """
        if r.moves is None:
            return ZERO
        times = self._times(r)
        matrix = r.moves.matrix
        if len(matrix) == 1:
            return total * times.times(EXP2 + 1)
        rows = range(len(matrix))
        scope = self.scope(r, -1)
        way = [[self._entry(x, r, scope) for x in row] for row in matrix]
        size = [self._basis(self.system.reductions[name]) for name in r.moves.basis]
        out = ZERO
        for b in rows:
            others = [c for c in rows if matrix[b][c] is not lit(0)]
            if others == [b] and matrix[b][b] is lit(1):
                continue
            local = posy_sum(way[b][c] * size[c].times(len(others) + operations(matrix[b][c])) for c in others)
            out = out + way[r.moves.row][b] * local
        return out * times

    def _entry(self, x: Scalar, r: Reduction, scope: Scope) -> Posy:
        """A bound on an entry of a matrix: references are at most twice their size apart; exponents are <= 0."""
        assert r.moves is not None
        match x.op:
            case "ref":
                return self.magnitude(r.moves.refs[x.args[0]], scope)
            case "lit":
                return number(abs(float(x.args[0])))
            case "exp":
                return ONE
            case "add" | "sub":
                return posy_sum(self._entry(y, r, scope) for y in x.args)
            case "mul":
                return self._entry(x.args[0], r, scope) * self._entry(x.args[1], r, scope)
        return self.magnitude(x, scope)

    def _basis(self, r: Reduction) -> Posy:
        """The sum of the sizes of a basis at any of the references: differences are bounded, weights are not."""
        out = ZERO
        for k, (_, b) in enumerate(r.pieces):
            scope = self.scope(r, k)
            size = self.replaced(self.size(b, scope), scope, lambda x: x not in self.system.base_two)
            out = out + self.sum_over(size, r, k)
        return out


def operations(s: Scalar) -> float:
    """Roundings of an entry: one for each operation, those of exponentials and their exponents as they are."""
    return sum(EXP2 if x.op == "exp" else 1.0 for x in subterms(s) if x.op not in ("lit", "ref", "int", "load"))


def exactly_stored(x: Fraction | float) -> bool:
    """Whether a literal is a number of every compute type."""
    if not isinstance(x, Fraction):
        return True
    d = x.denominator
    return d & (d - 1) == 0 and x.numerator.bit_length() <= EXACT_BITS and d.bit_length() <= EXACT_BITS


def condition_text(c: Cond) -> str:
    """The text of a condition without the numbers of states."""
    text = str(c)
    for name, _ in cond_loads(c):
        text = text.replace(name, name.split("#")[0])
    return text


def readable_name(r: Reduction) -> str:
    return r.name.split("#")[0]
