"""Conditions as integer sets, and back: the only place where the integer set library is spoken to.

A `Frame` fixes the dimensions of a set (some index variables) and names every other symbol as a parameter p0, p1, ...;
sets are built from text made of these names only, never from the user's. Each question has a budget of elementary
operations, so that an answer never depends on the speed of the machine.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from typing import Any

from moa.domains.affine import affine_atom, affine_cond, values_outside
from moa.normal import FALSE, TRUE, Cond, at_least_zero, both, either, is_zero, map_cond, negate
from moa.poly import Atom, Poly, atom, const, maximum, minimum, select, var

Extents = tuple[tuple[str, Poly], ...]

OPERATIONS = 700_000  # measured: about 200 ms on one core of a 2 GHz server


class TooLong(Exception):
    """A question about sets went past its budget of operations."""


_local = threading.local()


def context() -> Any:
    """This thread's context of the library (contexts may not be shared between threads)."""
    import islpy as isl

    found = getattr(_local, "context", None)
    if found is None:
        found = _local.context = isl.Context()
    return found


@contextmanager
def budget() -> Iterator[None]:
    """Everything inside shares one budget of operations; TooLong where it is spent."""
    import islpy as isl

    ctx = context()
    ctx.reset_operations()
    ctx.set_max_operations(OPERATIONS)
    try:
        yield
    except isl.Error:
        # the parser reports a spent budget as a syntax error: ask again whether there is anything left
        try:
            isl.Set("{ [x] : x > 1 }", ctx).is_empty()
        except isl.Error:
            raise TooLong from None
        raise
    finally:
        ctx.set_max_operations(0)
        ctx.reset_operations()


class Frame:
    """The dimensions and symbols of one question.

    dims      index variables that are set dimensions, in order: x0, x1, ...
    extents   of index variables, where known: 0 <= v < extent
    smallest  no size is below it
    """

    def __init__(self, dims: tuple[str, ...], extents: Mapping[str, Poly], smallest: int) -> None:
        self.dims = dims
        self.extents = extents
        self.smallest = smallest
        self.params: dict[Poly, str] = {}
        self.symbols: dict[str, Poly] = {}
        self.multiples: dict[str, Poly] = {}
        self.names = {v: f"x{k}" for k, v in enumerate(dims)}
        self.is_value = values_outside(dims, loads=True)

    # text -------------------------------------------------------------------------------------------------------

    def multiple(self, v: str, step: int, symbol: str) -> None:
        """From now on the variable v is a multiple of `step`; the parameter `symbol` is the multiple."""
        self.names[v] = f"({step}*{symbol})"
        self.symbols[symbol] = var(symbol)
        self.multiples[symbol] = var(v) * Poly({(): Fraction(1, step)})

    def param(self, p: Poly) -> str:
        """The name of a symbol, given on first use."""
        if p not in self.params:
            name = self.params[p] = f"p{len(self.params)}"
            self.symbols[name] = p
        return self.params[p]

    def poly(self, p: Poly) -> str:
        """An affine polynomial with integer coefficients as text."""
        return self._scaled(p)[0]

    def _scaled(self, p: Poly) -> tuple[str, int]:
        """(text of d * p, d) with the least d that makes the coefficients integers."""
        d = math.lcm(*(c.denominator for _, c in p.terms)) if p.terms else 1
        parts = [f"{int(c * d)}" if not m else f"{int(c * d)}*{self.monomial(m)}" for m, c in p.terms]
        return "(" + " + ".join(parts or ["0"]) + ")", d

    def monomial(self, m: tuple[Atom, ...]) -> str:
        if len(m) != 1 or not affine_atom(m[0], self.is_value):
            return self.param(Poly({m: Fraction(1)}))
        a = m[0]
        match a.kind:
            case "var" if a.name in self.names:
                return self.names[a.name]
            case "var" | "size" | "int":
                return self.param(Poly({m: Fraction(1)}))
            case "div":
                divisor = a.args[1].as_int()
                text, d = self._scaled(a.args[0] if divisor > 0 else -a.args[0])
                return f"floor({text}/{d * abs(divisor)})"
            case "abs":
                return f"max({self.poly(a.args[0])}, {self.poly(-a.args[0])})"
            case _:
                return f"{a.kind}({self.poly(a.args[0])}, {self.poly(a.args[1])})"

    def cond(self, c: Cond) -> str:
        """A condition as text; leaves that are not affine are taken as true."""
        if c.op in ("ge", "eq"):
            if not affine_cond(c, self.is_value):
                return "1=1"
            cases = without_extreme(c.args[0]) if c.op == "ge" else None
            cases = cases or without_selection(c)
            return self.cond(cases) if cases else f"{self._scaled(c.args[0])[0]} {'>=' if c.op == 'ge' else '='} 0"
        match c.op:
            case "and" | "or":
                return "(" + f" {c.op} ".join(self.cond(x) for x in c.args) + ")"
            case "not" if affine_cond(c, self.is_value):
                return f"not ({self.cond(c.args[0])})"
            case "false":
                return "1=0"
            case _:
                return "1=1"

    def facts(self) -> str:
        """What is known of the symbols named so far: sizes and products of sizes, variables with an extent."""
        facts: dict[str, None] = {}
        seen: set[Poly] = set()
        while len(seen) < len(self.params):
            for p, name in list(self.params.items()):
                if p in seen:
                    continue
                seen.add(p)
                if all(a.kind == "size" for m, _ in p.terms for a in m):
                    facts[f"{name} >= {self.smallest}"] = None
                v = p.as_var()
                if v is not None and v in self.extents:
                    facts[f"0 <= {name} < {self.poly(self.extents[v])}"] = None
        return " and ".join(facts) or "1=1"

    def box(self, dims: Collection[str] | None = None) -> str:
        """Every dimension of `dims` (all of them by default) that has an extent is inside it."""
        known = [v for v in self.dims if v in self.extents and (dims is None or v in dims)]
        inside = [f"0 <= {self.names[v]} < {self.poly(self.extents[v])}" for v in known]
        return " and ".join(inside) or "1=1"

    # sets -------------------------------------------------------------------------------------------------------

    def set(self, *texts: str, dims: Iterable[str] | None = None) -> Any:
        """The set of the points where every text holds; `dims` are names of dimensions, () for a set of parameters."""
        import islpy as isl

        names = [f"x{k}" for k in range(len(self.dims))] if dims is None else list(dims)
        space = f"[{', '.join(names)}] : " if names or dims is None else ": "
        return isl.Set(f"{self.header()} -> {{ {space}{' and '.join(f'({t})' for t in texts)} }}", context())

    def header(self) -> str:
        return f"[{', '.join(self.symbols)}]"

    # and back ---------------------------------------------------------------------------------------------------

    def read(self, e: Any) -> Poly:
        """The Poly of an integer expression of the library."""
        return integral(self._read(e).rename(self.multiples))

    def _read(self, e: Any) -> Poly:
        import islpy as isl

        match e.get_type():
            case isl.ast_expr_type.int:
                return const(e.get_val().to_python())
            case isl.ast_expr_type.id:
                return self.symbols[e.get_id().get_name()]
        o: Any = isl.ast_expr_op_type
        op = e.get_op_type()
        parts = [e.get_op_arg(k) for k in range(e.get_op_n_arg())]
        if op in (o.select, o.cond):
            return select(self._read_cond(parts[0]), self._read(parts[1]), self._read(parts[2]))
        a = [self._read(x) for x in parts]
        match op:
            case o.add:
                return a[0] + a[1]
            case o.sub:
                return a[0] - a[1]
            case o.mul:
                return a[0] * a[1]
            case o.minus:
                return -a[0]
            case o.max:
                return _fold(maximum, a)
            case o.min:
                return _fold(minimum, a)
            case o.fdiv_q | o.pdiv_q | o.div:
                return floor(a[0], a[1].as_int())
            case o.pdiv_r | o.zdiv_r:
                return a[0] - a[1] * floor(a[0], a[1].as_int())
        raise AssertionError(e.to_C_str())

    def read_cond(self, e: Any) -> Cond:
        """The Cond of a boolean expression of the library."""
        return map_cond(self._read_cond(e), lambda p: integral(scaled(p.rename(self.multiples))), lambda x: x)

    def _read_cond(self, e: Any) -> Cond:
        import islpy as isl

        if e.get_type() == isl.ast_expr_type.int:
            return TRUE if e.get_val().to_python() else FALSE
        o: Any = isl.ast_expr_op_type
        op = e.get_op_type()
        parts = [e.get_op_arg(k) for k in range(e.get_op_n_arg())]
        match op:
            case o.and_ | o.and_then:
                return both(*(self._read_cond(x) for x in parts))
            case o.or_ | o.or_else:
                return either(*(self._read_cond(x) for x in parts))
        a, b = (self._read(x) for x in parts)
        match op:
            case o.eq:
                return is_zero(a - b)
            case o.ge:
                return at_least_zero(a - b)
            case o.gt:
                return at_least_zero(a - b - 1)
            case o.le:
                return at_least_zero(b - a)
            case o.lt:
                return at_least_zero(b - a - 1)
        raise AssertionError(e.to_C_str())


def without_extreme(p: Poly) -> Cond | None:
    """p >= 0 without one of its minima or maxima, if it has any: p with each operand, and'ed or or'ed."""
    for m, c in p.terms:
        if len(m) == 1 and m[0].kind in ("min", "max", "abs"):
            a = m[0].args if m[0].kind != "abs" else (m[0].args[0], -m[0].args[0])
            rest = p - Poly({m: c})
            join = both if (c > 0) == (m[0].kind == "min") else either
            return join(*(at_least_zero(rest + x * Poly({(): c})) for x in a))
    return None


def without_selection(c: Cond) -> Cond | None:
    """p >= 0 or p == 0 without one of its selections, if it has any, by cases."""
    p: Poly = c.args[0]
    if not any(a.args for a in p.top_atoms()):
        return None
    chosen = next((a for a in sorted(p.atoms(), key=str) if a.kind == "select"), None)
    if chosen is None:
        return None
    when, a, b = chosen.args
    yes, no = c.replace(lambda x: a if x == chosen else None), c.replace(lambda x: b if x == chosen else None)
    return either(both(when, yes), both(negate(when), no))


def floor(p: Poly, d: int | None) -> Poly:
    """floor(p / d), d > 0, with the coefficients inside at most d / 2 in size."""
    assert d is not None and d > 0
    common = math.gcd(d, *(int(c) for m, c in p.terms if m))
    whole: dict[tuple[Atom, ...], Fraction] = {}
    rest: dict[tuple[Atom, ...], Fraction] = {}
    d //= common
    for m, c in p.terms:
        k = int(c) // common
        whole[m] = Fraction(-((d - 2 * k) // (2 * d)) if m else k // d)
        rest[m] = k - d * whole[m]
    inner = Poly(rest)
    if inner.as_int() is not None:
        return Poly(whole)
    if len(inner.terms) > 1 and inner.terms[1][0] and str(inner).startswith("-"):
        # floor(x / d) = -floor((d - 1 - x) / d)
        return Poly(whole) - atom("div", args=(d - 1 - inner, const(d)))
    return Poly(whole) + atom("div", args=(inner, const(d)))


def integral(p: Poly) -> Poly:
    """The same integer without fractional coefficients: a fraction of a multiple becomes a division."""

    def inside(a: Atom) -> Poly | None:
        match a.kind:
            case "div":
                d = math.lcm(*(c.denominator for _, c in a.args[0].terms))
                multiple: Poly = integral(a.args[0] * d) // (a.args[1] * d)
                return multiple
            case "min" | "max":
                return (minimum if a.kind == "min" else maximum)(*map(integral, a.args))
            case "select":
                when = map_cond(a.args[0], lambda x: integral(scaled(x)), lambda x: x)
                return select(when, integral(a.args[1]), integral(a.args[2]))
            case _:
                return None

    p = p.replace(inside)
    parts = Poly({m: c for m, c in p.terms if c.denominator != 1})
    if not parts.terms:
        return p
    d = math.lcm(*(c.denominator for _, c in parts.terms))
    return p - parts + atom("div", args=(parts * d, const(d)))


def scaled(p: Poly) -> Poly:
    """p times the least positive integer that makes its coefficients integers."""
    return p * math.lcm(*(c.denominator for _, c in p.terms)) if p.terms else p


def _fold(f: Any, parts: list[Poly]) -> Poly:
    out = parts[0]
    for p in parts[1:]:
        out = f(out, p)
    return out


# Questions -----------------------------------------------------------------------------------------------------------


def is_empty(cond: Cond, extents: Mapping[str, Poly], smallest: int = 1) -> bool:
    """Whether no index inside the extents meets cond, for any sizes >= smallest; False if that is not known in time."""
    return _is_empty(cond, tuple(sorted((v, e) for v, e in extents.items() if v in cond.vars())), smallest)


@lru_cache(maxsize=4096)
def _is_empty(cond: Cond, extents: Extents, smallest: int) -> bool:
    if cond.is_true or cond.is_false:
        return cond.is_false
    frame = Frame((), dict(extents), smallest)
    text = frame.cond(cond)
    facts = frame.facts()
    try:
        with budget():
            return bool(frame.set(text, facts).is_empty())
    except TooLong:
        return False


def implied(cond: Cond, under: Cond, extents: Mapping[str, Poly], smallest: int = 1) -> bool:
    """Whether cond holds wherever `under` does inside the extents; False where that is not known in time."""
    if cond.is_true or under.is_false or cond == under or (under.op == "and" and cond in under.args):
        return True
    return is_empty(both(under, negate(cond)), extents, smallest)


def simplify(cond: Cond, under: Cond, extents: Mapping[str, Poly], smallest: int = 1) -> Cond:
    """A condition equal to cond wherever `under` holds inside the extents, with what is decided there removed."""
    if cond.op in ("true", "false"):
        return cond
    if is_empty(both(under, cond), extents, smallest):
        return FALSE
    if implied(cond, under, extents, smallest):
        return TRUE
    if cond.op not in ("and", "or"):
        return cond
    # a part is simplified under its siblings: all true around a conjunct, all false around a disjunct
    join = both if cond.op == "and" else either
    parts: list[Cond] = list(cond.args)
    for k, part in enumerate(parts):
        others = join(*parts[:k], *parts[k + 1 :])
        around = others if cond.op == "and" else negate(others)
        parts[k] = simplify(part, both(under, around), extents, smallest)
    return join(*parts)


def count(cond: Cond, box: Mapping[str, int], params: Mapping[str, int]) -> int:
    """How many points of the box meet cond, exactly, at given sizes and parameters. cond must be affine there."""

    def value(a: Atom) -> Poly | None:
        return const(params[a.name]) if a.kind in ("size", "int") else None

    return _count(cond.replace(value), tuple(sorted(box.items())))


@lru_cache(maxsize=1024)
def _count(cond: Cond, box: tuple[tuple[str, int], ...]) -> int:
    used = {v: const(k) for v, k in box if v in cond.vars()}
    factor = math.prod(max(k, 0) for v, k in box if v not in used)
    if factor == 0 or cond.is_false:
        return 0
    if cond.is_true:
        return factor
    frame = Frame(tuple(used), used, smallest=1)
    assert affine_cond(cond, frame.is_value) and cond.vars() <= used.keys(), f"not countable: {cond}"
    points = frame.set(frame.cond(cond), frame.box())
    return factor * int(points.count_val().to_python())
