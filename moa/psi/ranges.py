"""Ranges: integers settled under the extents of the index variables around them.

A variable v of extent e has 0 <= v <= e - 1 wherever anything is evaluated. Divisions whose quotient that decides
vanish, conditions that always hold are dropped, and the one wrap of a rotation becomes a selection. What remains is one
form for one index function, in whatever order the rules of psi composed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction

from moa import poly
from moa.check.facts import at_least
from moa.normal import (
    FALSE,
    TRUE,
    Cond,
    Scalar,
    apply,
    at_least_zero,
    both,
    choose,
    compare,
    either,
    integer,
    is_structural,
    is_zero,
    load,
    negate,
)
from moa.poly import Atom, Monomial, Poly, const
from moa.psi.choices import chosen
from moa.psi.known import assume

Scope = Mapping[str, Poly]  # the extent of each index variable
DEPTH = 3  # divisions taken apart in one proof


def certain(p: Poly, scope: Scope, depth: int = DEPTH) -> bool:
    """Whether p >= 0 for all values of the variables and all sizes; False where it is not known."""
    for m, c in p.terms:
        for k, a in enumerate(m):
            if a.kind not in ("div", "select") or not a.args[-1].vars() | a.args[0].vars():
                continue
            if depth == 0:
                return False
            rest = m[:k] + m[k + 1 :]
            others = p - Poly({m: c})
            if a.kind == "select":
                return all(certain(others + x * Poly({rest: c}), scope, depth - 1) for x in a.args[1:])
            return any(certain(others + low, scope, depth - 1) for low in _below(a, rest, c, scope, depth))
    low = _lowest(p, scope)
    return low is not None and _holds(low, scope)


def _below(a: Atom, rest: Monomial, c: int | Fraction, scope: Scope, depth: int) -> Iterator[Poly]:
    """What is never above c * rest * (x // d), for a division a = x // d and rest that is not negative."""
    x, d = a.args
    if not all(_natural(b, scope, depth) for b in rest):
        return
    exact = Poly({rest: c}).exact_quotient(d) if len(d.terms) == 1 else None
    if c > 0:
        if exact is not None:
            yield exact * (x - d + 1)
        if certain(x, scope, depth - 1):
            yield const(0)
    else:
        if exact is not None:
            yield exact * x
        if certain(d - 1, scope, depth - 1) and certain(x, scope, depth - 1):
            yield Poly({rest: c}) * x


def _natural(a: Atom, scope: Scope, depth: int) -> bool:
    if a.kind == "var":
        return a.name in scope
    if a.kind == "div" and depth:
        x, d = a.args
        return certain(x, scope, depth - 1) and certain(d - 1, scope, depth - 1)
    return at_least(Poly({(a,): 1}), 0)


def _lowest(p: Poly, scope: Scope) -> Poly | None:
    """A bound below p that is free of variables: each at 0 or at its last value; None where none is known."""
    out = const(0)
    for m, c in p.terms:
        term = const(c)
        for a in m:
            if a.kind != "var":
                if len(m) > 1 and any(b.kind == "var" for b in m) and not _natural(a, scope, 1):
                    return None
                if Poly({(a,): 1}).vars():
                    return None
                term = term * Poly({(a,): 1})
            elif a.name not in scope:
                return None
            else:
                term = const(0) if c > 0 else term * (scope[a.name] - 1)
        out = out + term
    return out


def _holds(p: Poly, scope: Scope) -> bool:
    """Whether p >= 0 for all sizes, those that are extents of variables being at least 1."""
    if at_least(p, 0):
        return True
    used = {a for e in scope.values() if (a := e.as_atom()) is not None and a.kind == "size"}
    more = {a: Poly({(a,): 1, (): 1}) for a in used if a in p.atoms()}
    if not more:
        return False
    return at_least(p.replace(more.get), 0)


# Settling -------------------------------------------------------------------------------------------------------


def settle(p: Poly, scope: Scope) -> Poly:
    """p with divisions decided or taken apart, and the wrap of a rotation as a selection."""
    return _piecewise(_settle(p, scope), scope, frozenset())


def _settle(p: Poly, scope: Scope) -> Poly:
    if all(a.kind in ("var", "size", "int") for m, _ in p.terms for a in m):
        return p
    out = const(0)
    for m, c in p.terms:
        product = const(c)
        for a in m:
            product = product * _settle_atom(a, scope)
        out = out + product
    return out


def _settle_atom(a: Atom, scope: Scope) -> Poly:
    match a.kind:
        case "div":
            return divide(_settle(a.args[0], scope), _settle(a.args[1], scope), scope)
        case "min" | "max":
            x, y = (_settle(b, scope) for b in a.args)
            first = certain(y - x, scope) if a.kind == "min" else certain(x - y, scope)
            second = certain(x - y, scope) if a.kind == "min" else certain(y - x, scope)
            if first or second:
                return x if first else y
            return poly.minimum(x, y) if a.kind == "min" else poly.maximum(x, y)
        case "abs":
            x = _settle(a.args[0], scope)
            return x if certain(x, scope) else poly.absolute(x)
        case "select":
            c, x, y = a.args
            return poly.select(settle_cond(c, scope), _settle(x, scope), _settle(y, scope))
        case "load":
            return poly.atom("load", a.name, (settle(x, scope) for x in a.args))
        case _:
            return Poly({(a,): 1})


def divide(a: Poly, d: Poly, scope: Scope) -> Poly:
    """floor(a / d), d being at least 1: multiples of d taken out, parts below a common factor dropped."""
    whole, a = _without_multiples(a, d)
    if not a.terms:
        return whole
    if certain(a, scope) and certain(d - 1 - a, scope):
        return whole
    for m, k in a.terms:  # (x // e + r) // d = (x + r e) // (e d)
        if k == 1 and len(m) == 1 and m[0].kind == "div":
            rest = a - Poly({m: 1})
            x, e = m[0].args
            whole_rest = all(n.denominator == 1 for _, n in rest.terms)
            if whole_rest and _positive(d) and _positive(e):
                return whole + divide(x + rest * e, e * d, scope)
    for c in _factors(a, d):
        high = Poly({m: k for m, k in a.terms if _is_multiple(m, k, c)})
        low = a - high
        if high.terms and certain(low, scope) and certain(c - 1 - low, scope):
            q, e = high.exact_quotient(c), d.exact_quotient(c)
            assert q is not None and e is not None
            return whole + divide(q, e, scope)
    return whole + a // d


def _positive(d: Poly) -> bool:
    """Whether a divisor may be taken to be at least 1: a call tests it of those that are not literals."""
    n = d.as_int()
    return n is None or n > 0


def _without_multiples(a: Poly, d: Poly) -> tuple[Poly, Poly]:
    """(q, r) with a = q d + r: what is seen to be a multiple of d is in q."""
    n = d.as_int()
    if n is not None:
        if n <= 0:
            return const(0), a
        q = Poly({m: c // n for m, c in a.terms if (c.denominator == 1 and c % n == 0) or not m})
        return q, a - q * d
    if len(d.terms) == 1:
        q = Poly({m: c for m, c in a.terms if _is_multiple(m, c, d)}).exact_quotient(d) or const(0)
        return q, a - q * d
    (lead, k), *_ = d.terms
    q = const(0)
    for m, c in a.terms:
        part = Poly({m: c}).exact_quotient(Poly({lead: k}))
        if part is not None and all(x.denominator == 1 for _, x in part.terms):
            rest = a - part * d
            if len(rest.terms) < len(a.terms):
                q, a = q + part, rest
    return q, a


def _is_multiple(m: Monomial, c: int | Fraction, d: Poly) -> bool:
    part = Poly({m: c}).exact_quotient(d)
    return part is not None and all(x.denominator == 1 for _, x in part.terms)


def _factors(a: Poly, d: Poly) -> tuple[Poly, ...]:
    """Factors c of a divisor of one term, each a multiple of which stands in a; the largest first."""
    if len(d.terms) != 1:
        return ()
    (m, n) = d.terms[0]
    found: dict[Poly, None] = {}
    for k, c in a.terms:
        left, common = list(k), []
        for x in m:
            if x in left:
                left.remove(x)
                common.append(x)
        if c.denominator == 1 and n.denominator == 1:
            factor = Poly({tuple(common): _gcd(int(c), int(n))})
            if factor != 1 and factor != d:
                found[factor] = None
    return tuple(sorted(found, key=lambda f: (-len(f.terms[0][0]), -f.terms[0][1], str(f))))


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return abs(a)


def _piecewise(p: Poly, scope: Scope, kept: frozenset[Atom]) -> Poly:
    """p with divisions that wrap once, (x + k) // d where 0 <= x < d, as selections around the whole of it."""
    for a in sorted((a for a in p.top_atoms() if a.kind == "div" and a not in kept), key=str):
        found = _wrap(a, scope)
        if found is None:
            continue
        below, first, second = found
        branches = []
        for quotient in (first, second):
            q = p.replace({a: quotient}.get)
            branches.append(_piecewise(q, scope, kept | {a}))
        return poly.select(below, *branches)
    return p


def _wrap(a: Atom, scope: Scope) -> tuple[Cond, Poly, Poly] | None:
    """(c, q, r): the quotient is q where c holds, else r; None where neither side is simpler than the division."""
    x, d = a.args
    k = _lowest(x, scope)
    if k is None or not x.vars() or not certain(d - 1 - (x - k), scope):
        return None
    up = certain(k, scope)
    if not up and not certain(-k, scope):
        return None
    once = certain(d - k if up else d + k, scope)
    if not once and k.as_int() is None:
        return None
    c = at_least_zero(d - 1 - x) if up else at_least_zero(x)
    return c, const(0), const(1 if up else -1) if once else Poly({(a,): 1})


def narrowed(c: Cond, scope: Scope) -> Cond:
    """A conjunction without the inequalities that others imply; FALSE where two exclude each other.

    Of a disjunction, without what implies another part, and without inequalities that only leave out what another has.
    """
    if c.op == "or":
        return _widened(c.args, scope)
    if c.op != "and":
        return c
    bounds = [x for x in c.args if x.op == "ge"]
    for k, x in enumerate(bounds):
        if any(certain(-x.args[0] - y.args[0] - 1, scope) for y in bounds[:k]):
            return FALSE
    kept = list(c.args)
    for x in bounds:
        if any(y.op == "ge" and y is not x and certain(x.args[0] - y.args[0], scope) for y in kept):
            kept.remove(x)
    return both(*kept)


def _widened(parts: tuple[Cond, ...], scope: Scope) -> Cond:
    alone = [y for y in parts if y.op == "ge"]
    kept = []
    for part in parts:
        others = [y.args[0] for y in alone if y is not part]
        inside = [(x, x.args[0] if x.op == "ge" else None) for x in (part.args if part.op == "and" else (part,))]
        if any(p is not None and certain(q - p, scope) for _, p in inside for q in others):
            continue
        if part.op == "and":
            inside = [(x, p) for x, p in inside if p is None or not any(certain(q + p + 1, scope) for q in others)]
        kept.append(both(*(x for x, _ in inside)))
    return either(*kept) if tuple(kept) == parts else narrowed(either(*kept), scope)


# The same for conditions and scalars ------------------------------------------------------------------------------


def settle_cond(c: Cond, scope: Scope) -> Cond:
    """c with what always holds or never does decided."""
    match c.op:
        case "ge":
            return chosen((settle(c.args[0], scope),), lambda p: _test(at_least_zero, p[0], scope), _either_of)
        case "eq":
            return chosen((settle(c.args[0], scope),), lambda p: _test(is_zero, p[0], scope), _either_of)
        case "and":
            return both(*(settle_cond(x, scope) for x in c.args))
        case "or":
            return either(*(settle_cond(x, scope) for x in c.args))
        case "not":
            return negate(settle_cond(c.args[0], scope))
        case "cmp":
            return compare(c.args[0], settle_scalar(c.args[1], scope), settle_scalar(c.args[2], scope))
        case "load":
            index = tuple(settle(p, scope) for p in c.args[1])
            return chosen(index, lambda at: Cond("load", (c.args[0], at)), _either_of)
        case _:
            return c


def _either_of(c: Cond, a: Cond, b: Cond) -> Cond:
    return either(both(c, a), both(negate(c), b))


def _test(relation: Callable[[Poly], Cond], p: Poly, scope: Scope) -> Cond:
    """p >= 0 or p == 0 for a settled p: decided by ranges; of a choice, a choice of tests."""
    a = p.as_atom()
    if a is not None and a.kind == "select":
        c, x, y = a.args
        sides = ((c, x), (negate(c), y))
        return either(*(narrowed(both(here, _test(relation, q, scope)), scope) for here, q in sides))
    if certain(-p - 1, scope):
        return FALSE
    if certain(p if relation is at_least_zero else p - 1, scope):
        return TRUE if relation is at_least_zero else FALSE
    return relation(p)


def settle_scalar(s: Scalar, scope: Scope) -> Scalar:
    """s with every integer and condition in it settled."""
    memo: dict[Scalar, Scalar] = {}

    def walk(x: Scalar) -> Scalar:
        if x not in memo:
            memo[x] = new(x)
        return memo[x]

    def new(x: Scalar) -> Scalar:
        match x.op:
            case "lit" | "param" | "ref":
                return x
            case "int":
                return chosen((settle(x.args[0], scope),), lambda p: integer(p[0]), choose)
            case "load":
                return chosen(tuple(settle(p, scope) for p in x.args[1]), lambda at: load(x.args[0], at), choose)
            case "select":
                c = settle_cond(x.args[0], scope)
                a, b = walk(x.args[1]), walk(x.args[2])
                return choose(c, assume(a, c, True), assume(b, c, False)) if is_structural(c) else choose(c, a, b)
            case _:
                return apply(x.op, *(walk(y) for y in x.args))

    return walk(s)
