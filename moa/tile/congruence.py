"""Congruences: conditions that say that a divisor leaves no rest, which lanes of consecutive positions answer at once.

Of lanes l the condition start + s l = 0 (mod D), s = 1 or -1, holds for those whose rest by D is that of -s start.
Rests of lanes are found once, and that of a start once for all lanes.
"""

from __future__ import annotations

from moa.poly import Poly, absolute, const, maximum


def congruence(p: Poly, lane: str) -> tuple[Poly, Poly] | None:
    """(a, D) where p == 0 says that D >= 1 divides a, which moves by 1 or -1 along the lanes; else None."""
    found = _rest(p) or _rest(-p)
    if found is None:
        return None
    a, d = found
    step = a.coefficient(lane)
    return found if step is not None and step.as_int() in (1, -1) and lane not in d.vars() else None


def _rest(p: Poly) -> tuple[Poly, Poly] | None:
    """(a, D) where p is the rest of a by a divisor d, and D is |d|, or 1 where d is 0."""
    a = p.as_atom()
    if a is not None and a.kind == "select" and a.args[0].op == "eq" and a.args[1] == 0:
        return _by_data(a.args[2], a.args[0].args[0])
    for x in p.top_atoms():
        if x.kind == "div" and p == x.args[0] - x.args[1] * Poly({(x,): 1}) and (x.args[1].as_int() or 1) > 0:
            return x.args[0], x.args[1]
    return None


def _by_data(p: Poly, zero: Poly) -> tuple[Poly, Poly] | None:
    """The same of a rest by a divisor of any sign, where that is not 0 (see `divided` of `moa.psi.elements`)."""
    for x in p.top_atoms():
        side = x.args[0].as_atom() if x.kind == "div" else None
        if side is None or side.kind != "select" or side.args[0].op != "ge":
            continue
        d, a = side.args[0].args[0], side.args[1]
        least = maximum(absolute(d), const(1))
        if d in (zero, -zero) and side.args[2] == -a and x.args[1] == least and p == a - d * Poly({(x,): 1}):
            return a, least
    return None
