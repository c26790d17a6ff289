"""Guards: `where(x == -inf, 0, y)` where y vanishes by itself at x = -inf, once references are finite."""

from __future__ import annotations

from collections.abc import Set

from moa.laws.algebra import Form, expand, form_text, ratio, split_axis
from moa.laws.sign import form_sign
from moa.laws.table import LAWS
from moa.normal import Cond, Scalar, lit


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
