"""Counts: sums of polynomials over tiles, in closed form where there is one.

The sum over the tiles of an axis is closed for what is free of the tile, for powers of its number, and for those times
the number of rows in it; what is left (minima, maxima, selections that depend on the tile) stays a sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import comb
from typing import Any

import numpy as np

from moa.interp.scalar import Box
from moa.normal import Cond
from moa.poly import Atom, Poly, const, minimum, var

ONE = const(1)
Over = tuple[tuple[str, Poly], ...]  # (variable, how many values it has from 0 on), outermost first


@dataclass(frozen=True, slots=True)
class Along:
    """An axis that numbers work items: `step` values in a tile, or one.

    In polynomials `number` is the number of a tile, and `rows`, if step > 1, how many values are in it.
    """

    axis: str
    extent: Poly
    step: int

    @property
    def number(self) -> str:
        return self.axis if self.step == 1 else f"t_{self.axis}"

    @property
    def rows(self) -> str:
        return f"{self.axis}#"

    @property
    def tiles(self) -> Poly:
        return self.extent if self.step == 1 else (self.extent + (self.step - 1)) // self.step

    @property
    def origin(self) -> Poly:
        return var(self.number) * self.step

    def end(self) -> Poly:
        """min(origin + step, extent), as a polynomial of number and rows."""
        return self.origin + var(self.rows) if self.step > 1 else self.origin + 1

    def explicit(self) -> dict[str, Poly]:
        return {self.rows: minimum(const(self.step), self.extent - self.origin)}

    def summed(self, power: int, rows: int) -> Poly:
        """sum over the tiles of number**power * rows**(0 or 1)."""
        total = power_sum(power, self.tiles)
        if not rows:
            return total
        last = const(1)
        for _ in range(power):
            last = last * (self.tiles - 1)
        return total * self.step - last * (self.tiles * self.step - self.extent)


def power_sum(power: int, count: Poly) -> Poly:
    """sum of t**power for 0 <= t < count."""
    bernoulli = [Fraction(1)]
    for k in range(1, power + 1):
        bernoulli.append(-sum((comb(k + 1, j) * bernoulli[j] for j in range(k)), Fraction(0)) / (k + 1))
    total, term = const(0), const(1)
    for k in range(power, -1, -1):  # count**(power + 1 - k)
        term = term * count
        total = total + term * const(Fraction(comb(power + 1, k)) * bernoulli[k] / (power + 1))
    return total


@dataclass(frozen=True, slots=True)
class Sum:
    """factor times the sum of `body` over variables. Over none, body is 1."""

    factor: Poly
    over: Over = ()
    body: Poly = ONE

    def __str__(self) -> str:
        signs = " ".join(f"sum_{{{v} < {text(extent)}}}" for v, extent in self.over)
        return f"{text(self.factor, 1)} * {signs} {text(self.body, 1)}" if signs else text(self.factor)


@dataclass(frozen=True, slots=True)
class Count:
    """How many there are of something, by sizes. Where not `exact`, there are at most so many."""

    sums: tuple[Sum, ...] = ()
    exact: bool = True

    def __add__(self, other: Count) -> Count:
        found: dict[tuple[Over, Poly], Poly] = {}
        for s in (*self.sums, *other.sums):
            found[s.over, s.body] = found.get((s.over, s.body), const(0)) + s.factor
        sums = (Sum(factor, over, body) for (over, body), factor in found.items() if factor.terms)
        return Count(tuple(sorted(sums, key=lambda s: len(s.over))), self.exact and other.exact)

    def __str__(self) -> str:
        total = " + ".join(map(str, self.sums)) or "0"
        return total if self.exact else f"at most {total}"

    def value(self, sizes: Mapping[str, int]) -> int:
        """The number, at given sizes."""
        return sum(_integer(_box({}, sizes).poly(s.factor)) * _value(s.over, s.body, {}, sizes) for s in self.sums)

    def formula(self) -> Any:
        """The count as an expression of sympy."""
        import sympy

        total = sympy.Integer(0)
        for s in self.sums:
            term = expression(s.body)
            for v, extent in reversed(s.over):
                term = sympy.Sum(term, (symbol(v), 0, expression(extent) - 1))
            total += expression(s.factor) * term
        return total


def _value(over: Over, body: Poly, at: dict[str, Any], sizes: Mapping[str, int]) -> int:
    if not over:
        return _integer(_box(at, sizes).poly(body))
    (v, extent), *rest = over
    count = _integer(_box(at, sizes).poly(extent))
    if rest:
        return sum(_value(tuple(rest), body, {**at, v: np.asarray(k)}, sizes) for k in range(count))
    values = _box({**at, v: np.arange(count)}, sizes).poly(body)
    return int(np.sum(np.broadcast_to(np.asarray(values), (count,)), dtype=np.int64))


def largest(p: Poly, items: Iterable[Along], sizes: Mapping[str, int]) -> int:
    """The largest value over the tiles of the last axis of items, at the first ones of the others; 0 of none."""
    at: dict[str, Any] = {}
    for a in items:
        p = p.rename(a.explicit() if a.step > 1 else {})
        at = {**{v: np.asarray(0) for v in at}, a.number: np.arange(_integer(_box({}, sizes).poly(a.tiles)))}
    return int(np.max(_box(at, sizes).poly(p))) if all(x.size for x in at.values()) else 0


def _box(axes: Mapping[str, Any], sizes: Mapping[str, int]) -> Box:
    return Box(axes, {}, sizes, np.asarray(True), {}, np.dtype(np.float64))


def _integer(x: Any) -> int:
    n = round(float(x)) if isinstance(x, float) else int(x)
    assert n == x, f"not an integer: {x}"
    return n


def of(body: Poly, over: Over, items: Iterable[Along], exact: bool = True) -> Count:
    """The count whose value is `body`, summed over `over` and then over all work items."""
    pending = factored(body, over)
    for a in reversed(tuple(items)):
        pending = [s for p in pending for s in _along(p, a)]
    total = Count()
    for s in pending:
        total = total + Count((s,))
    return Count(total.sums, exact)


def factored(body: Poly, over: Over) -> list[Sum]:
    """The sum of body over variables, with what is free of them taken out."""
    names = {v for v, _ in over}
    free: dict[Poly, Poly] = {}
    for m, c in body.terms:
        mine = tuple(x for x in m if names & Poly({(x,): Fraction(1)}).vars())
        factor = Poly({tuple(x for x in m if x not in mine): Fraction(1)})
        free[factor] = free.get(factor, const(0)) + Poly({mine: c})
    return [Sum(f * b) if not over else Sum(f, over, b) for f, b in free.items()]


def _along(s: Sum, a: Along) -> list[Sum]:
    """The sum of s over the tiles of one axis."""
    names = {a.number, a.rows}
    if names & s.body.vars() or any(names & extent.vars() for _, extent in s.over):
        explicit = a.explicit() if a.step > 1 else {}
        over = tuple((v, extent.rename(explicit)) for v, extent in s.over)
        return factored((s.factor * s.body).rename(explicit), ((a.number, a.tiles), *over))
    closed, rest = const(0), const(0)
    for m, c in s.factor.terms:
        mine = [x for x in m if names & Poly({(x,): Fraction(1)}).vars()]
        power = sum(x == Atom("var", a.number) for x in mine)
        rows = sum(x == Atom("var", a.rows) for x in mine)
        if power + rows < len(mine) or rows > 1:
            rest = rest + Poly({m: c})
        else:
            closed = closed + Poly({tuple(x for x in m if x not in mine): c}) * a.summed(power, rows)
    out = [Sum(closed, s.over, s.body)] if closed.terms else []
    if rest.terms:
        explicit = a.explicit() if a.step > 1 else {}
        out += factored((rest * s.body).rename(explicit), ((a.number, a.tiles), *s.over))
    return out


# text ---------------------------------------------------------------------------------------------------------------


def text(p: Poly, around: int = 0) -> str:
    """The polynomial with common factors taken out, powers, and rounding up written as ceil; around: in a product."""
    if not p.terms:
        return "0"
    common = [a for a in dict.fromkeys(p.terms[0][0]) if all(a in m for m, _ in p.terms)]
    if len(p.terms) > 1 and common:
        rest = p.exact_quotient(Poly({tuple(common): Fraction(1)}))
        assert rest is not None
        return "*".join([*map(_atom_text, common), text(rest, 1)])
    parts = []
    for m, c in p.terms:
        powers = [f"{_atom_text(a)}^{m.count(a)}" if m.count(a) > 1 else _atom_text(a) for a in dict.fromkeys(m)]
        size = c if c > 0 else -c
        number = [] if size == 1 and m else [str(size) if size.denominator == 1 else f"({size})"]
        parts.append(("-" if c < 0 else "+", "*".join([*number, *powers])))
    out = ("-" if parts[0][0] == "-" else "") + parts[0][1]
    out += "".join(f" {sign} {part}" for sign, part in parts[1:])
    return f"({out})" if around and len(parts) > 1 else out


def _atom_text(a: Atom) -> str:
    match a.kind:
        case "div":
            up = rounded_up(a)
            return str(a) if up is None else f"ceil({text(up, 1)}/{text(a.args[1], 1)})"
        case "min" | "max":
            return f"{a.kind}({', '.join(map(text, a.args))})"
        case _:
            return str(a)


def rounded_up(a: Atom) -> Poly | None:
    """p where a division is best read as (p + d - 1) // d: p / d rounded up."""
    p: Poly = a.args[0]
    d: int | None = a.args[1].as_int()
    m, c = p.terms[-1]
    return None if d is None or d < 2 or m or c < d - 1 else p - (d - 1)


# sympy --------------------------------------------------------------------------------------------------------------


def symbol(name: str) -> Any:
    import sympy

    return sympy.Symbol(name, integer=True, nonnegative=True)


def expression(p: Poly) -> Any:
    """The polynomial as an expression of sympy: sizes and parameters are symbols of their names."""
    import sympy

    total = sympy.Integer(0)
    for m, c in p.terms:
        term = sympy.Rational(c.numerator, c.denominator)
        for a in m:
            term *= _atom(a)
        total += term
    return total


def _atom(a: Atom) -> Any:
    import sympy

    match a.kind:
        case "var" | "size":
            return symbol(a.name)
        case "int":
            return sympy.Symbol(a.name, integer=True)
        case "div":
            up = rounded_up(a)
            if up is not None:
                return sympy.ceiling(expression(up) / expression(a.args[1]))
            return sympy.floor(expression(a.args[0]) / expression(a.args[1]))
        case "min":
            return sympy.Min(*map(expression, a.args))
        case "max":
            return sympy.Max(*map(expression, a.args))
        case "abs":
            return sympy.Abs(expression(a.args[0]))
        case "select":
            return sympy.Piecewise((expression(a.args[1]), _condition(a.args[0])), (expression(a.args[2]), True))
        case "load":
            raise AssertionError(f"a count depends on data: {a}")


def _condition(c: Cond) -> Any:
    import sympy

    match c.op:
        case "true" | "false":
            return sympy.true if c.is_true else sympy.false
        case "ge":
            return sympy.Ge(expression(c.args[0]), 0)
        case "eq":
            return sympy.Eq(expression(c.args[0]), 0)
        case "and":
            return sympy.And(*map(_condition, c.args))
        case "or":
            return sympy.Or(*map(_condition, c.args))
        case "not":
            return sympy.Not(_condition(c.args[0]))
        case _:
            raise AssertionError(f"a count depends on data: {c}")
