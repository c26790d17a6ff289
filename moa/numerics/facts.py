"""What is known of exact values: simpler forms, numbers they lie between, and orders.

Nothing is recognised by name. That an exponent is at most 0 follows from what a maximum is: it is at least every term
it was taken over.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from moa.laws.sign import lower_bound
from moa.laws.split import conjuncts
from moa.normal import (
    Cond,
    Scalar,
    apply,
    both,
    choose,
    integer,
    lit,
    loads,
    map_scalar,
    rename,
    rename_cond,
)
from moa.numerics.system import Reduction, System
from moa.ops import OPERATORS
from moa.poly import Poly, var

Interval = tuple[float, float]
EVERYTHING: Interval = (-math.inf, math.inf)


@dataclass(frozen=True, eq=False, slots=True)
class Scope:
    """Where an expression stands: its index variables, conditions on them, and bounds that a choice gives values."""

    extents: Mapping[str, Poly]
    conds: frozenset[Cond] = frozenset()
    known: tuple[tuple[Scalar, float, float], ...] = ()


def ordered(low: float, high: float) -> Interval:
    """The interval, open to a side where infinities cancelled."""
    return (-math.inf if math.isnan(low) else low), (math.inf if math.isnan(high) else high)


def product_interval(a: Interval, b: Interval) -> Interval:
    found = [0.0 if 0 in (x, y) else x * y for x in a for y in b]
    return min(found), max(found)


@dataclass(slots=True)
class Facts:
    """Facts about the expressions of one system; inputs are finite."""

    system: System
    _exact: dict[Scalar, Scalar] = field(default_factory=dict)
    _intervals: dict[tuple[Scalar, Scope], Interval] = field(default_factory=dict)
    _scopes: dict[tuple[str, int], Scope] = field(default_factory=dict)
    _sides: dict[tuple[Scalar, Scope], tuple[Scope, Scope]] = field(default_factory=dict)

    def scope(self, r: Reduction, piece: int) -> Scope:
        """The scope of the terms of a piece; of what is outside the reduction for piece -1."""
        key = (r.name, piece)
        if key not in self._scopes:
            conds = conjuncts(both(r.domain, r.pieces[piece][0])) if piece >= 0 else frozenset()
            axes = (*r.outer, r.axis) if piece >= 0 else r.outer
            self._scopes[key] = Scope(dict(axes), conds)
        return self._scopes[key]

    def reduction(self, s: Scalar, *ops: str) -> Reduction | None:
        """The reduction that s loads, where it is one (by one of the operators)."""
        r = self.system.reductions.get(s.args[0]) if s.op == "load" else None
        return r if r is not None and (not ops or r.op in ops) else None

    # simpler forms --------------------------------------------------------------------------------------------------

    def exact(self, s: Scalar) -> Scalar:
        """An expression with the same value over the reals, where differences of equals are 0."""
        return map_scalar(s, self._simpler, memo=self._exact)

    def _simpler(self, x: Scalar) -> Scalar | None:
        zero = lit(0)
        match x.op:
            case "sub" if x.args[0] is x.args[1]:
                return zero
            case "mul" | "div" if zero in x.args[: 2 if x.op == "mul" else 1]:
                return zero
            case "add" if x.args[1].op == "lit" and x.args[0].op in ("add", "sub") and x.args[0].args[1].op == "lit":
                inner = x.args[0]
                rest = inner.args[1] if inner.op == "add" else apply("neg", inner.args[1])
                return apply("add", inner.args[0], apply("add", rest, x.args[1]))
            case "add" if x.args[1].op == "lit" and x.args[0].op == "select":
                c, a, b = x.args[0].args
                return self.exact(choose(c, apply("add", a, x.args[1]), apply("add", b, x.args[1])))
            case "select" if self._never_zero(x.args[0]):
                return x.args[2]  # type: ignore[no-any-return]
            case "load":
                r = self.reduction(x, "add")
                if r is not None and r.computed is not None:
                    computed = self.exact(rename(r.computed, r.bind(x.args[1])))
                    return computed if computed.op == "load" else None
                if (
                    r is not None
                    and r.domain.is_true
                    and [s for _, s in r.pieces] == [lit(1)]
                    and r.pieces[0][0].is_true
                ):
                    return integer(r.axis[1].rename(r.bind(x.args[1])))
        return None

    def _never_zero(self, c: Cond) -> bool:
        """Whether c is `k == 0` for an integer expression that is always positive."""
        if c.op != "cmp" or c.args[0] != "eq" or c.args[2] is not lit(0) or c.args[1].op != "int":
            return False
        least = lower_bound(c.args[1].args[0])
        return least is not None and least > 0

    # numbers between which a value lies -----------------------------------------------------------------------------

    def interval(self, s: Scalar, scope: Scope) -> Interval:
        """Numbers (low, high) with low <= s <= high."""
        key = (s, scope)
        if key not in self._intervals:
            self._intervals[key] = EVERYTHING  # what a value needs of itself is unknown
            low, high = self._interval(s, scope)
            for t, least, most in scope.known:
                if t is s:
                    low, high = max(low, least), min(high, most)
            self._intervals[key] = (low, high)
        return self._intervals[key]

    def _interval(self, s: Scalar, scope: Scope) -> Interval:
        args = [] if s.op in ("lit", "int", "load", "param") else [self.interval(x, scope) for x in s.operands]
        match s.op:
            case "lit":
                return float(s.args[0]), float(s.args[0])
            case "int":
                least, most = lower_bound(s.args[0]), lower_bound(-s.args[0])
                return -math.inf if least is None else float(least), math.inf if most is None else -float(most)
            case "load":
                r = self.reduction(s)
                return EVERYTHING if r is None else self._of_reduction(r)
            case "add":
                return ordered(args[0][0] + args[1][0], args[0][1] + args[1][1])
            case "sub":
                a, b = s.args
                low, high = ordered(args[0][0] - args[1][1], args[0][1] - args[1][0])
                if high > 0 and self.at_most(a, b, scope):
                    high = 0.0
                if low < 0 and self.at_most(b, a, scope):
                    low = 0.0
                return low, high
            case "mul":
                low, high = product_interval(*args)
                return (max(low, 0.0), high) if s.args[0] is s.args[1] else (low, high)
            case "div" if args[1][0] >= 0:
                return product_interval(args[0], (0.0, 1 / args[1][0] if args[1][0] > 0 else math.inf))
            case "neg":
                return -args[0][1], -args[0][0]
            case "abs":
                return 0.0, max(map(abs, args[0]))
            case "max" | "min":
                f = max if s.op == "max" else min
                return f(args[0][0], args[1][0]), f(args[0][1], args[1][1])
            case "exp":
                return safe_exp(args[0][0]), safe_exp(args[0][1])
            case "sqrt":
                return math.sqrt(max(args[0][0], 0.0)), math.sqrt(max(args[0][1], 0.0))
            case "tanh":
                return math.tanh(args[0][0]), math.tanh(args[0][1])
            case "erf":
                return math.erf(args[0][0]), math.erf(args[0][1])
            case "log" if args[0][0] > 0:
                return math.log(args[0][0]), math.log(args[0][1])
            case "select":
                yes, no = self.branches(s, scope)
                a, b = self.interval(s.args[1], yes), self.interval(s.args[2], no)
                return min(a[0], b[0]), max(a[1], b[1])
        return EVERYTHING

    def _of_reduction(self, r: Reduction) -> Interval:
        parts = [self.interval(s, self.scope(r, k)) for k, (_, s) in enumerate(r.pieces)]
        low, high = min(p[0] for p in parts), max(p[1] for p in parts)
        match r.op:
            case "add":
                return (0.0 if low >= 0 else -math.inf), (0.0 if high <= 0 else math.inf)
            case "max":
                return (low if self.nonempty(r) else -math.inf), high
            case "min":
                return low, (high if self.nonempty(r) else math.inf)
        return EVERYTHING

    def branches(self, s: Scalar, scope: Scope) -> tuple[Scope, Scope]:
        """The scopes of the two sides of a choice: a comparison with a number bounds what is compared."""
        c: Cond = s.args[0]
        if c.op != "cmp" or c.args[2].op != "lit" or math.isinf(c.args[2].args[0]):
            return scope, scope
        x, limit = c.args[1], float(c.args[2].args[0])
        above, below = (x, limit, math.inf), (x, -math.inf, limit)
        match c.args[0]:
            case "gt" | "ge":
                sides = above, below
            case "lt" | "le":
                sides = below, above
            case _:
                return scope, scope
        key = (s, scope)
        if key not in self._sides:
            made = [Scope(scope.extents, scope.conds, (*scope.known, side)) for side in sides]
            self._sides[key] = (made[0], made[1])
        return self._sides[key]

    def nonempty(self, r: Reduction) -> bool:
        """Whether a reduction is proved to have a term for every value of its outer variables."""
        where = both(r.domain, r.pieces[0][0]) if len(r.pieces) == 1 else r.domain
        if where.is_true:
            return True
        return any(extent == r.axis[1] and rename_cond(where, {r.axis[0]: var(v)}).is_true for v, extent in r.outer)

    # orders ---------------------------------------------------------------------------------------------------------

    def at_most(self, a: Scalar, b: Scalar, scope: Scope) -> bool:
        """Whether a <= b is proved."""
        a, b = self.exact(a), self.exact(b)
        if a is b or a is lit(-math.inf):
            return True
        if b.op == "max" and any(self.at_most(a, x, scope) for x in b.args):
            return True
        if a.op == "min" and any(self.at_most(x, b, scope) for x in a.args):
            return True
        if any(self._is_term(a, b, x, scope) for x, up in extremes(b, 1) if up > 0 and self.reduction(x, "max")):
            return True
        if any(self._is_term(b, a, x, scope) for x, up in extremes(a, 1) if up > 0 and self.reduction(x, "min")):
            return True
        if a.op == "max":
            return all(self.at_most(x, b, scope) for x in a.args)
        if a.op == "select":
            return all(self.at_most(x, b, scope) for x in a.args[1:])
        if a.op in OPERATORS and b.op in OPERATORS:
            return False
        return self.interval(a, scope)[1] <= self.interval(b, scope)[0]

    def _is_term(self, a: Scalar, b: Scalar, x: Scalar, scope: Scope) -> bool:
        """Whether a is b with one term of the extreme x in its place."""
        r = self.reduction(x)
        assert r is not None
        at = r.bind(x.args[1])
        for c, body in r.pieces:
            for v in sorted(a.vars()):
                here = {**at, r.axis[0]: var(v)}
                if scope.extents.get(v) != r.axis[1].rename(at):
                    continue
                where = rename_cond(both(r.domain, c), here)
                if conjuncts(where) <= scope.conds and self._with(b, x, rename(body, here)) is a:
                    return True
        return False

    def _with(self, s: Scalar, old: Scalar, new: Scalar) -> Scalar:
        return self.exact(map_scalar(s, lambda y: new if y is old else None))


def extremes(s: Scalar, up: int) -> Iterator[tuple[Scalar, int]]:
    """Every load in s with 1 where s grows with it, -1 where it falls; those of unknown direction are left out."""
    match s.op:
        case "load":
            yield s, up
        case "add" | "max" | "min":
            for x in s.args:
                yield from extremes(x, up)
        case "sub":
            yield from extremes(s.args[0], up)
            yield from extremes(s.args[1], -up)
        case "mul" | "div":
            a, b = s.args
            if s.op == "mul" and positive_scale(a):
                yield from extremes(b, up)
            elif positive_scale(b):
                yield from extremes(a, up)
        case "neg":
            yield from extremes(s.args[0], -up)
        case _ if s.op in OPERATORS and OPERATORS[s.op].monotone == "up":
            yield from extremes(s.args[0], up)


def positive_scale(s: Scalar) -> bool:
    from moa.laws.sign import positive

    return positive(s)


def without_guard(s: Scalar) -> Scalar:
    """s out of `where(x == -inf, 0, s)` and `where(s == 0, 1, s)`, where the other side stands for nothing."""
    if s.op == "select" and s.args[0].op == "cmp" and s.args[0].args[0] == "eq" and s.args[1].op == "lit":
        x, value = s.args[0].args[1:]
        if (value is lit(-math.inf) and s.args[1] is lit(0)) or (value is lit(0) and x is s.args[2]):
            return s.args[2]  # type: ignore[no-any-return]
    return s


def readable(s: Scalar) -> str:
    """The text of a value without the numbers of states."""
    text = str(s)
    for name, _ in loads(s):
        text = text.replace(name, name.split("#")[0])
    return text


def safe_exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf
