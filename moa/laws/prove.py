"""A second opinion on changes of reference, by sympy: imported by tests and `verify`, never while compiling.

It reads the emitted members only: that `move` brings the basis from one reference to another, that `finish` gives the
original body back at the true references, and that every exponent is rate * (u - r), rate of proved sign and u the
body of the extreme that r is made of. The engine that derived them is not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import sympy

from moa.laws.algebra import factors
from moa.laws.reading import LOWEST
from moa.laws.split import conjuncts
from moa.normal import Cond, Eq, Member, Scalar, both, is_structural, lit, load, map_scalar, subterms
from moa.poly import Atom, Poly


def symbol(text: str, positive: bool = False) -> Any:
    return sympy.Symbol(text, positive=True) if positive else sympy.Symbol(text, real=True)


def integer_to_sympy(p: Poly) -> Any:
    def value(a: Atom) -> Any:
        return symbol(str(a), positive=a.kind == "size")

    total: Any = sympy.Integer(0)
    for monomial, c in p.terms:
        term: Any = sympy.Rational(c.numerator, c.denominator)
        for a in monomial:
            term *= value(a)
        total += term
    return total


def tests_infinity(c: Cond) -> bool | None:
    """True for x == inf or -inf, False for x != it, None for another condition."""
    if c.op == "not":
        inner = tests_infinity(c.args[0])
        return None if inner is None else not inner
    if c.op != "cmp" or c.args[0] not in ("eq", "ne"):
        return None
    infinite = any(x.op == "lit" and x.args[0] in (float("inf"), float("-inf")) for x in c.args[1:])
    return (c.args[0] == "eq") if infinite else None


def to_sympy(s: Scalar, nonnegative: Set[str] = frozenset()) -> Any:
    """The scalar over finite values: a choice on infinity is its finite side, a bound by `lowest` never binds.

    nonnegative   names of arrays whose elements are at least 0
    """

    def walk(x: Scalar) -> Any:
        return to_sympy(x, nonnegative)

    match s.op:
        case "lit":
            assert s is not lit(float("nan"))
            return sympy.Rational(s.args[0].numerator, s.args[0].denominator)
        case "int":
            return integer_to_sympy(s.args[0])
        case "add":
            return walk(s.args[0]) + walk(s.args[1])
        case "sub":
            return walk(s.args[0]) - walk(s.args[1])
        case "mul":
            return walk(s.args[0]) * walk(s.args[1])
        case "div":
            return walk(s.args[0]) / walk(s.args[1])
        case "neg":
            return -walk(s.args[0])
        case "exp" | "log" | "sqrt" | "tanh" | "erf":
            return getattr(sympy, s.op)(walk(s.args[0]))
        case "max" | "min":
            a, b = s.args
            if any(x is LOWEST for x in subterms(b)):
                return walk(a)
            x, y = walk(a), walk(b)
            apart = sympy.Abs(sympy.together(x - y))
            return (x + y + (apart if s.op == "max" else -apart)) / 2
        case "select":
            c, a, b = s.args
            if not c.vars() and is_structural(c):  # the axis is not empty
                return walk(a)
            if c.op == "cmp" and c.args[0] == "lt" and b is lit(float("nan")):  # a finite value
                return walk(a)
            if c.op == "cmp" and c.args[0] == "eq" and c.args[2] is a:
                value = b.args[1] if b.op == "select" and b.args[2] is lit(float("nan")) else b
                if set(factors(c.args[1])[1]) <= set(factors(value)[1]):
                    return walk(value)  # 0 times anything finite
            parts = (
                c.args if c.op == "and" else (c,)
            )  # `this axis is not empty` beside it: an empty sum is 0 either way
            found = next((f for f in map(tests_infinity, parts) if f is not None), None)
            if found is not None:
                return walk(b if found else a)
            is_zero_test = c.op == "cmp" and c.args[0] == "eq" and c.args[1] is b and c.args[2] is lit(0)
            return symbol(str(s), positive=is_zero_test and walk(a).is_positive and walk(b).is_nonnegative)
        case "load" if s.args[0] in nonnegative:
            return sympy.Symbol(str(s), nonnegative=True)
        case _:
            return symbol(str(s))


def nonnegative_sums(equations: Sequence[Eq]) -> frozenset[str]:
    """The names of the sums whose every element is at least 0."""
    out: set[str] = set()
    for e in equations:
        if e.op == "add" and all(_body_is_nonnegative(s, out) for _, s in e.pieces):
            out.add(e.name)
    return frozenset(out)


def _body_is_nonnegative(s: Scalar, known: Set[str]) -> bool:
    try:
        return bool(to_sympy(s, known).is_nonnegative)
    except AttributeError:  # an infinite literal is no number here
        return False


def is_zero(x: Any) -> bool:
    return bool(sympy.simplify(sympy.expand(x)) == 0)


def _refs(s: Scalar, values: Mapping[tuple[int, str], Scalar]) -> Scalar:
    return map_scalar(s, lambda x: values.get((x.args[0], x.args[1])) if x.op == "ref" else None)


def move_holds(m: Member) -> bool:
    """Whether basis(new) = move(old, new) * basis(old), for every piece."""
    if not m.move:
        return True
    back = {(k, "new"): Scalar("ref", (k, "old")) for k in range(len(m.refs))}
    for _, basis in m.pieces:
        old = [to_sympy(_refs(b, back)) for b in basis]
        for row, b in zip(m.move, basis, strict=True):
            moved = sum(to_sympy(c) * x for c, x in zip(row, old, strict=True))
            if not is_zero(moved - to_sympy(b)):
                return False
    return True


def _ends(m: Member, members: Sequence[Member]) -> list[Scalar]:
    """What the references end at: running values become final ones."""
    plain = {x.state(0): x for x in members if x.width == 1}

    def node(s: Scalar) -> Scalar | None:
        found = plain.get(s.args[0]) if s.op == "load" else None
        return None if found is None else load(found.name, s.args[1])

    return [map_scalar(r, node) for r in m.refs]


def finish_holds(e: Eq, m: Member, members: Sequence[Member]) -> bool:
    """Whether finish, over the basis at the final references, is the body of the original reduction."""
    ends = {(k, "new"): r for k, r in enumerate(_ends(m, members))}
    for c, basis in m.pieces:
        states = {m.state(k): _refs(b, ends) for k, b in enumerate(basis)}

        def node(s: Scalar, states: Mapping[str, Scalar] = states) -> Scalar | None:
            return states.get(s.args[0]) if s.op == "load" else None

        bodies = [s for d, s in e.pieces if both(e.domain, d) is both(m.domain, c)]
        if not bodies or not is_zero(to_sympy(map_scalar(m.finish, node)) - to_sympy(bodies[0])):
            return False
    return True


def exponents_hold(m: Member, members: Sequence[Member], nonnegative: Set[str] = frozenset()) -> bool:
    """Whether every exponential of the basis has an exponent that is a sum of rate * (u - r), each at most 0."""
    ends = _ends(m, members)
    extremes = {x.name: x for x in members if x.op in ("max", "min")}
    for c, basis in m.pieces:
        for b in basis:
            for x in _exponentials(b):
                exponent = to_sympy(x.args[0], nonnegative)
                for k, end in enumerate(ends):
                    rate = -sympy.diff(exponent, symbol(str(Scalar("ref", (k, "new")))))
                    names = [n for n in extremes if any(y.op == "load" and y.args[0] == n for y in subterms(end))]
                    if rate == 0 or not names:
                        continue
                    extreme = extremes[names[0]]
                    sign = 1 if extreme.op == "max" else -1
                    if not (rate * sign).is_positive:
                        return False
                    where = conjuncts(both(m.domain, c))
                    u = [s for d, (s,) in extreme.pieces if conjuncts(d) <= where]
                    if not u:
                        return False
                    exponent = exponent - rate * (to_sympy(u[0], nonnegative) - symbol(str(Scalar("ref", (k, "new")))))
                if not is_zero(exponent):
                    return False
    return True


def _exponentials(s: Scalar) -> list[Scalar]:
    return [x for x in subterms(s) if x.op == "exp" and any(y.op == "ref" for y in subterms(x))]
