"""The order of elements: which one comes before another, and what is told from such a condition."""

from __future__ import annotations

from collections.abc import Iterator

from moa.normal import Cond, Scalar, at_least_zero, both, either, negate, rename
from moa.poly import Poly, var
from moa.psi.elements import Element, elementwise


def relation(op: str, a: Element, b: Element) -> Cond:
    """A comparison of two elements, by name."""
    out = elementwise(op, [a, b])
    assert isinstance(out, Cond)
    return out


def before(a: Element, b: Element, at_a: Poly, at_b: Poly) -> Cond:
    """Whether a, at one position, comes before b at another: it is smaller, or equal and stands first.

    A NaN is larger than any number, and equal to a NaN.
    """
    nan_a, nan_b = relation("ne", a, a), relation("ne", b, b)
    less = either(relation("lt", a, b), both(negate(nan_a), nan_b))
    equal = either(relation("eq", a, b), both(nan_a, nan_b))
    return either(less, both(equal, at_least_zero(at_b - at_a - 1)))


def ordered_by(c: Cond, there: str, here: str) -> Scalar | Poly | None:
    """The key at `there` by which c says that the element there comes before the one `here`; None if it is not that."""
    c = c.replace(lambda a: None)
    for key in _keys(c, there):
        if there in key.vars() and here not in key.vars():
            other = rename(key, {there: var(here)}) if isinstance(key, Scalar) else key.rename({there: var(here)})
            if before(key, other, var(there), var(here)) == c:
                return key
    return None


def _keys(c: Cond, there: str) -> Iterator[Scalar | Poly]:
    """What may be compared in a condition, at `there`."""
    match c.op:
        case "and" | "or" | "not":
            for x in c.args:
                yield from _keys(x, there)
        case "cmp":
            yield c.args[1]
        case "eq":
            part = Poly({m: k for m, k in c.args[0].terms if there in Poly({m: k}).vars()})
            yield from (part, -part)
