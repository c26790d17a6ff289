"""Elements: one element of a value is a Scalar, an integer polynomial or a condition."""

from __future__ import annotations

from moa import poly
from moa.ir import Value
from moa.normal import (
    FALSE,
    TRUE,
    Axis,
    Cond,
    Index,
    Scalar,
    apply,
    at_least_zero,
    both,
    choose,
    compare,
    either,
    integer,
    is_zero,
    lit,
    negate,
)
from moa.poly import Poly, const

Element = Scalar | Poly | Cond  # one element of a float, integer or bool value

OUTER_NAMES = ("i", "c")


def axes_of(shape: tuple[Poly, ...]) -> tuple[tuple[Axis, ...], Index]:
    """Index variables for the axes of a shape that are not of literal extent 1, and the index they make."""
    axes: list[Axis] = []
    index: list[Poly] = []
    count = sum(extent.as_int() != 1 for extent in shape)
    for extent in shape:
        if extent.as_int() == 1:
            index.append(const(0))
            continue
        k = len(axes)
        place = count - 1 - k  # from the right: 0 is the last axis
        name = OUTER_NAMES[0] if count == 1 else (OUTER_NAMES[1 - place] if place < 2 else f"b{k}")
        axes.append((name, extent))
        index.append(poly.var(name))
    return tuple(axes), tuple(index)


def cell_axes(shape: tuple[Poly, ...]) -> tuple[tuple[Axis, ...], Index]:
    """Index variables for the axes of a cell, by position: components that share leading axes share their names."""
    index = tuple(const(0) if e.as_int() == 1 else poly.var(f"a{k}") for k, e in enumerate(shape))
    return tuple((f"a{k}", e) for k, e in enumerate(shape) if e.as_int() != 1), index


def literal(value: Value) -> Element:
    v = value.attrs[0]
    match value.kind:
        case "f":
            return lit(v)
        case "i":
            return const(v)
        case _:
            return TRUE if v else FALSE


def as_scalar(e: Element) -> Scalar:
    out = cast(e, "f")
    assert isinstance(out, Scalar)
    return out


def cast(e: Element, kind: str) -> Element:
    match e, kind:
        case Poly(), "f":
            return integer(e)
        case Cond(), "f":
            return choose(e, lit(1), lit(0))
        case Cond(), "i":
            return poly.select(e, const(1), const(0))
        case Poly(), "b":
            return negate(is_zero(e))
    return e


def select(c: Element, a: Element, b: Element) -> Element:
    assert isinstance(c, Cond)
    match a, b:
        case Scalar(), Scalar():
            return choose(c, a, b)
        case Poly(), Poly():
            return poly.select(c, a, b)
        case Cond(), Cond():
            return either(both(c, a), both(negate(c), b))
    raise AssertionError((a, b))


def elementwise(op: str, operands: list[Element]) -> Element:
    """An operator on one element of each operand."""
    match operands:
        case [Scalar() as a, Scalar() as b] if op in ("lt", "le", "gt", "ge", "eq", "ne"):
            return compare(op, a, b)
        case [Poly() as a, Poly() as b]:
            return integer_operation(op, a, b)
        case [Poly() as a]:
            return -a if op == "neg" else poly.absolute(a)
        case [Cond() as a, Cond() as b]:
            match op:
                case "and":
                    return both(a, b)
                case "or":
                    return either(a, b)
                case "eq":
                    return either(both(a, b), both(negate(a), negate(b)))
                case "ne":
                    return either(both(a, negate(b)), both(negate(a), b))
        case [Cond() as a]:
            return negate(a)
    scalars = [x for x in operands if isinstance(x, Scalar)]
    assert len(scalars) == len(operands), (op, operands)
    return apply(op, *scalars)


def divided(a: Poly, b: Poly) -> tuple[Poly, Poly]:
    """Quotient and remainder, rounded down. Sizes and integer parameters are known to be at least 1; data may be
    anything, and what is divided by 0 is 0, as in NumPy."""
    if b == 0:
        return const(0), const(0)
    if all(x.kind not in ("load", "var") for x in b.atoms()):
        return a // b, a % b
    above = poly.select(at_least_zero(b), a, -a)
    quotient = poly.atom("div", args=(above, poly.maximum(poly.absolute(b), const(1))))
    zero = is_zero(b)
    return poly.select(zero, const(0), quotient), poly.select(zero, const(0), a - b * quotient)


def integer_operation(op: str, a: Poly, b: Poly) -> Element:
    match op:
        case "add":
            return a + b
        case "sub":
            return a - b
        case "mul":
            return a * b
        case "floordiv":
            return divided(a, b)[0]
        case "mod":
            return divided(a, b)[1]
        case "max":
            return poly.maximum(a, b)
        case "min":
            return poly.minimum(a, b)
        case "lt":
            return at_least_zero(b - a - 1)
        case "le":
            return at_least_zero(b - a)
        case "gt":
            return at_least_zero(a - b - 1)
        case "ge":
            return at_least_zero(a - b)
        case "eq":
            return is_zero(a - b)
        case _:
            assert op == "ne", op
            return negate(is_zero(a - b))
