"""Pieces that differ in one number are one piece: the choice stands between the numbers."""

from __future__ import annotations

from moa.normal import Cond, Scalar, apply, choose, compare, lit

NUMBERS = ("lit", "int")
NEUTRAL = {"add": lit(0), "mul": lit(1)}


class Unlike(Exception):
    """Two scalars differ in more than numbers."""


def rejoined(c: Cond, a: Scalar, b: Scalar) -> Scalar | None:
    """What is a where c holds and b elsewhere, as one scalar; None where they differ in more than one number.

    Everything around the numbers is then computed once.
    """
    found: set[tuple[Scalar, Scalar]] = set()

    def walk(x: Scalar, y: Scalar) -> Scalar:
        if x is y:
            return x
        if x.op in NUMBERS and y.op in NUMBERS:
            found.add((x, y))
            return choose(c, x, y)
        for op, neutral in NEUTRAL.items():  # x + 0 is x already
            if y.op == op != x.op and y.args[1].op in NUMBERS:
                return apply(op, walk(x, y.args[0]), walk(neutral, y.args[1]))
            if x.op == op != y.op and x.args[1].op in NUMBERS:
                return apply(op, walk(x.args[0], y), walk(x.args[1], neutral))
        if x.op != y.op or not x.operands:
            raise Unlike
        if x.op == "select":
            return choose(condition(x.args[0], y.args[0]), walk(x.args[1], y.args[1]), walk(x.args[2], y.args[2]))
        return apply(x.op, *(walk(p, q) for p, q in zip(x.args, y.args, strict=True)))

    def condition(x: Cond, y: Cond) -> Cond:
        if x is y:
            return x
        if x.op != "cmp" or y.op != "cmp" or x.args[0] != y.args[0]:
            raise Unlike
        return compare(x.args[0], walk(x.args[1], y.args[1]), walk(x.args[2], y.args[2]))

    if a.op in NUMBERS:
        return None
    try:
        joined = walk(a, b)
    except Unlike:
        return None
    return joined if len(found) == 1 else None
