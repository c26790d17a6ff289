"""Guards: what a choice of 0 protects from, and when it is needless.

`where(x == -inf, 0, y)` goes where y vanishes by itself at x = -inf, once references are finite. `where(w > 0, y, 0)`
with w = p * exp(x), p > 0, is such a guard: w is 0 where x is -inf, and behind it log(w) is x + log(p).
"""

from __future__ import annotations

from collections.abc import Set

from moa.laws.algebra import Form, expand, factors, form_text, guarded, product, ratio, split_axis
from moa.laws.sign import form_sign, positive
from moa.laws.split import assume, conjuncts
from moa.laws.table import LAWS
from moa.laws.terms import addends, total
from moa.normal import Cond, Scalar, apply, both, choose, compare, lit, map_scalar, negate

MINUS_INFINITY = lit(float("-inf"))


def tested(c: Cond) -> tuple[Scalar, float] | None:
    """(x, a) where the condition says x == a, a infinite, else None."""
    if c.op == "not" and c.args[0].op == "cmp" and c.args[0].args[0] == "ne":
        _, x, y = c.args[0].args
    elif c.op == "cmp" and c.args[0] == "eq":
        _, x, y = c.args
    else:
        return None
    for a, b in ((x, y), (y, x)):
        if b in (lit(float("inf")), lit(float("-inf"))):
            return a, b.args[0]
    return None


@LAWS.law(
    "drop a guard",
    "where(x == -inf, 0, exp(k * x + b) * y) = exp(k * x + b) * y, k > 0, b finite and free of j, y finite",
    contract="assumes finite",
    source="exp(-inf) = 0",
)
def needless(c: Cond, exponent: Form, axis: str, facts: Set[str]) -> str | None:
    """Why a guard around exp(exponent) may go, as text; None where it may not."""
    found = tested(c)
    if found is None:
        return None
    x, infinity = found
    k = ratio(exponent, expand(x), axis)
    if k is None or split_axis(expand(x), axis)[1]:
        return None
    sign = form_sign(k, facts)
    if sign == 0 or sign * infinity > 0:
        return None
    return f"exp({form_text(k)} * x + ..) is 0 at x = {infinity}"


@LAWS.law(
    "open a weight",
    "where(w > 0, y, 0) = where(x == -inf, 0, y with x + log(p) for log(w)), w = p * exp(x), p > 0 and free of j",
    contract="rescales",
    source="log inverts exp; a w that is 0 by underflow stands before a y that is nearly 0",
)
def open_weight(body: Scalar, axis: str, facts: Set[str]) -> Scalar | None:
    """The body with its guard on a weight as a test of the weight's exponent; None where there is no such guard."""
    found = guarded(body)
    if found is None:
        return None
    c, y = found
    for x in sorted(conjuncts(c), key=str):
        weight = _above_zero(x)
        exponents = None if weight is None else _exponents(weight, axis, facts)
        if weight is None or not exponents:
            continue
        rest = both(
            *(z for z in conjuncts(c) if z is not x), *(negate(compare("eq", u, MINUS_INFINITY)) for u in exponents)
        )
        inside = {z for z, _ in factors(assume(weight, rest))[1] if z.op == "exp"}
        new = map_scalar(assume(y, rest), lambda z, inside=inside: _open_log(z, inside))  # type: ignore[misc]
        return choose(rest, new, lit(0))
    return None


def _above_zero(c: Cond) -> Scalar | None:
    """w where the condition says w > 0, or w != 0, else None."""
    if c.op == "not" and c.args[0].op == "cmp" and c.args[0].args[0] == "eq":
        name, (a, b) = "ne", c.args[0].args[1:]
    elif c.op == "cmp":
        name, a, b = c.args
    else:
        return None
    if name in ("gt", "ne") and b is lit(0):
        return a  # type: ignore[no-any-return]
    return b if name in ("lt", "ne") and a is lit(0) else None


def _exponents(weight: Scalar, axis: str, facts: Set[str]) -> list[Scalar] | None:
    """What of the exponents of a weight has the axis, where it is a product of exponentials and positive factors."""
    coefficient, parts = factors(weight)
    if coefficient <= 0:
        return None
    out: list[Scalar] = []
    for x, p in parts:
        found = guarded(x)
        if found is not None:
            test = [tested(negate(c)) for c in conjuncts(found[0])]
            inner = _exponents(found[1], axis, facts)
            if p < 0 or not inner or any(t is None or t[0] not in inner for t in test):
                return None
            out += inner
        elif x.op == "exp" and p > 0:
            have = [a for a in addends(x.args[0]) if axis in a[1].vars()]
            out += [total(have)] if have else []
        elif x.op == "exp" or axis in x.vars() or not positive(x, facts):
            return None
    return out


def _open_log(s: Scalar, inside: Set[Scalar]) -> Scalar | None:
    if s.op != "log":
        return None
    coefficient, parts = factors(s.args[0])
    own = [(x, p) for x, p in parts if x in inside]
    if coefficient <= 0 or not own:
        return None
    rest = product([f for f in parts if f not in own], coefficient)
    terms = [(p, x.args[0]) for x, p in own]
    return total(terms if rest is lit(1) else [*terms, (1, apply("log", rest))])
