"""Integers that a comparison of floats chooses: the choice moves out of the integer, so that no index holds a float."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from moa.normal import Cond, Index, is_structural
from moa.poly import Atom

T = TypeVar("T")
MOST_CHOICES = 8  # different comparisons that are moved out of one integer


def chosen(polys: Index, make: Callable[[Index], T], select: Callable[[Cond, T, T], T]) -> T:
    """make(polys), once for each value that comparisons of floats inside the integers may have."""

    def walk(now: Index, left: int) -> T:
        a = next((a for p in now for a in sorted(p.atoms(), key=str) if is_float_choice(a)), None)
        if a is None or not left:
            return make(now)
        c, x, y = a.args
        sides = (tuple(p.replace({a: side}.get) for p in now) for side in (x, y))
        first, second = (walk(side, left - 1) for side in sides)
        return select(c, first, second)

    return walk(polys, MOST_CHOICES)


def is_float_choice(a: Atom) -> bool:
    return a.kind == "select" and not is_structural(a.args[0])
