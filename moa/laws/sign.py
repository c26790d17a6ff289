"""Signs proved from structure: literals, sizes (at least 1), index variables (at least 0), exponentials, roots.

`facts` are the names of arrays whose elements are known to be at least 0 (a sum of exponentials is one). What is not
proved is unknown: a run-time scalar has no sign.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from fractions import Fraction

from moa.laws.algebra import Form
from moa.normal import Eq, Recurrence, Scalar, lit, load
from moa.poly import Atom, Poly, var

Facts = Set[str]
NONE: Facts = frozenset()


def lower_bound(p: Poly) -> Fraction | None:
    """A number the polynomial is never below, from sizes >= 1 and index variables >= 0; None where there is none."""
    total = Fraction(0)
    for monomial, c in p.terms:
        least = Fraction(1)
        for a in monomial:
            factor = _least(a)
            if factor is None:
                return None
            least *= factor
        if monomial and c < 0:
            return None
        total += c * least
    return total


def _least(a: Atom) -> Fraction | None:
    match a.kind:
        case "size":
            return Fraction(1)
        case "var" | "abs":
            return Fraction(0)
        case "max" | "min":
            bounds = [lower_bound(x) for x in a.args]
            known = [b for b in bounds if b is not None and b >= 0]
            if a.kind == "max":
                return max(known, default=None)
            return min(known) if len(known) == 2 else None
        case _:
            return None


def positive(s: Scalar, facts: Facts = NONE) -> bool:
    """Whether every value of the scalar is proved to be > 0."""
    match s.op:
        case "lit":
            return bool(s.args[0] > 0)
        case "int":
            least = lower_bound(s.args[0])
            return least is not None and least > 0
        case "exp":
            return True
        case "sqrt":
            return positive(s.args[0], facts)
        case "log":
            return _above_one(s.args[0])
        case "add":
            a, b = s.args
            return (positive(a, facts) and nonnegative(b, facts)) or (positive(b, facts) and nonnegative(a, facts))
        case "mul" | "div":
            a, b = s.args
            return (positive(a, facts) and positive(b, facts)) or (negative(a, facts) and negative(b, facts))
        case "neg":
            return negative(s.args[0], facts)
        case "max":
            return any(positive(x, facts) for x in s.args)
        case "min":
            return all(positive(x, facts) for x in s.args)
        case "select":
            c, a, b = s.args
            is_zero_test = c.op == "cmp" and c.args[0] == "eq" and c.args[1] is b and c.args[2] is lit(0)
            return positive(a, facts) and (positive(b, facts) or (is_zero_test and nonnegative(b, facts)))
        case _:
            return False


def nonnegative(s: Scalar, facts: Facts = NONE) -> bool:
    """Whether every value of the scalar is proved to be >= 0."""
    if positive(s, facts):
        return True
    match s.op:
        case "lit":
            return bool(s.args[0] >= 0)
        case "int":
            least = lower_bound(s.args[0])
            return least is not None and least >= 0
        case "load":
            return s.args[0] in facts
        case "sqrt" | "abs":
            return True
        case "add":
            return all(nonnegative(x, facts) for x in s.args)
        case "mul":
            return s.args[0] is s.args[1] or all(nonnegative(x, facts) for x in s.args)
        case "div":
            return nonnegative(s.args[0], facts) and nonnegative(s.args[1], facts)
        case "max":
            return any(nonnegative(x, facts) for x in s.args)
        case "min":
            return all(nonnegative(x, facts) for x in s.args)
        case "select":
            return all(nonnegative(x, facts) for x in s.args[1:])
        case _:
            return False


def negative(s: Scalar, facts: Facts = NONE) -> bool:
    """Whether every value of the scalar is proved to be < 0."""
    match s.op:
        case "lit":
            return bool(s.args[0] < 0)
        case "neg":
            return positive(s.args[0], facts)
        case "mul" | "div":
            a, b = s.args
            return (positive(a, facts) and negative(b, facts)) or (negative(a, facts) and positive(b, facts))
        case "add":
            return all(negative(x, facts) for x in s.args)
        case "log":
            return s.args[0].op == "lit" and bool(0 < s.args[0].args[0] < 1)
        case _:
            return False


def nonpositive(s: Scalar, facts: Facts = NONE) -> bool:
    """Whether every value of the scalar is proved to be <= 0."""
    match s.op:
        case "lit":
            return bool(s.args[0] <= 0)
        case "neg":
            return nonnegative(s.args[0], facts)
        case "add":
            return all(nonpositive(x, facts) for x in s.args)
        case "mul":
            pairs = (s.args, s.args[::-1])
            return any(nonpositive(a, facts) and nonnegative(b, facts) for a, b in pairs)
        case "div":
            return nonpositive(s.args[0], facts) and nonnegative(s.args[1], facts)
        case "min":
            return any(nonpositive(x, facts) for x in s.args)
        case "max" | "select":
            return all(nonpositive(x, facts) for x in s.args[-2:])
        case _:
            return negative(s, facts)


def _above_one(s: Scalar) -> bool:
    match s.op:
        case "lit":
            return bool(s.args[0] > 1)
        case "int":
            least = lower_bound(s.args[0])
            return least is not None and least > 1
        case _:
            return s.op == "exp" and positive(s.args[0])


def nonzero(s: Scalar, facts: Facts = NONE) -> bool:
    """Whether the scalar is proved never to be 0."""
    if positive(s, facts) or negative(s, facts):
        return True
    if s.op == "select":
        c, a, b = s.args
        return nonzero(a, facts) and c.op == "cmp" and c.args[0] == "eq" and c.args[1] is b and c.args[2] is lit(0)
    return False


def form_sign(f: Form, facts: Facts = NONE) -> int:
    """1 or -1 where every term of the form is proved to have that sign, else 0."""
    found = 0
    for k, c in f.terms.items():
        sign = 1 if c > 0 else -1
        for a, p in k.atoms:
            if negative(a, facts):
                sign *= -1 if p % 2 else 1
            elif not positive(a, facts):
                return 0
        if found and sign != found:
            return 0
        found = sign
    return found


def nonpositive_steps(recurrences: Sequence[Recurrence]) -> frozenset[str]:
    """The names of arrays that are running sums of terms proved to be at most 0: they do not grow along their axis."""
    out: set[str] = set()
    for r in recurrences:
        for c in r.components:
            body = c.body.args[2] if c.body.op == "select" else c.body
            state = load(c.state, (var(v) for v, _ in c.outer))
            added = [x for x in body.args if x is not state] if body.op == "add" and state in body.args else []
            if r.keep and not r.reverse and len(added) == 1 and nonpositive(added[0]):
                out.add(c.name)
    return frozenset(out)


def nonnegative_names(equations: tuple[Eq, ...]) -> frozenset[str]:
    """The names of the reductions whose values are proved to be at least 0, in dependence order."""
    out: set[str] = set()
    for e in equations:
        if e.kind == "reduce" and e.op in ("add", "mul", "max", "min"):
            empty_is_fine = e.op in ("add", "mul", "min")
            if empty_is_fine and all(nonnegative(b, out) for _, b in e.pieces):
                out.add(e.name)
    return frozenset(out)
