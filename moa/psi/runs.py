"""Reductions that depend on a position i by its quotient i // B alone: they are made once for each quotient.

And counts, whose logarithm says by a condition on integers where nothing is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from moa.normal import (
    Cond,
    Eq,
    Scalar,
    both,
    either,
    is_structural,
    is_zero,
    load,
    map_cond,
    map_scalar,
    negate,
    scalar_atoms,
)
from moa.poly import Atom, Poly, atom, const, var
from moa.psi.rules import PSI
from moa.rewrite import Trace

RUNS, COUNT = "constant along runs", "log of a count"


def once_a_run(equations: list[Eq], trace: Trace) -> list[Eq]:
    """The equations with each reduction over numbers of runs in place of positions, where it may be."""
    out = list(equations)
    for k, e in enumerate(equations):
        for axis in range(len(e.outer)):
            found = PSI[RUNS].apply(out[k], axis) if e.kind == "reduce" else None
            if found is None:
                continue
            out[k], divisor = found
            trace.counts[RUNS] = trace.counts.get(RUNS, 0) + 1
            for n in range(len(out)):
                out[n] = _reading(out[n], e.name, axis, divisor)
    return out


@PSI.law(
    RUNS, "r[i] = s[i // B] where r[i] depends on i // B alone", source="an index function that factors through another"
)
def by_quotient(e: Eq, axis: int) -> tuple[Eq, Poly] | None:
    """A reduction over the quotients of an axis, and the divisor; None where it depends on more."""
    v, extent = e.outer[axis]
    atoms = {a for s in (e.domain, *(x for p in e.pieces for x in p)) for a in _atoms(s)}
    divisors = {a.args[1] for a in atoms if a.kind == "div" and a.args[0] == var(v)}
    if len(divisors) != 1:
        return None
    (d,) = divisors
    if d.vars() or any(a.kind == "load" for a in d.atoms()):
        return None
    quotient = Atom("div", "", (var(v), d))
    name = v
    while name in {w for w, _ in e.outer} | {e.red[0] if e.red else ""}:
        name += "'"
    new = _mapped(e, lambda p: p.replace(lambda a: var(name) if a is quotient else None))
    if any(v in s.vars() for s in (new.domain, *(x for p in new.pieces for x in p))):
        return None
    outer = tuple((name, (extent + d - const(1)) // d) if k == axis else a for k, a in enumerate(e.outer))
    return replace(new, outer=outer), d


def _reading(e: Eq, array: str, axis: int, d: Poly) -> Eq:
    """An equation that reads an array by quotients along one of its axes."""

    def at(index: tuple[Poly, ...]) -> tuple[Poly, ...]:
        return tuple(p // d if k == axis else p for k, p in enumerate(index))

    def poly(p: Poly) -> Poly:
        return p.replace(lambda a: atom("load", array, at(tuple(map(poly, a.args)))) if read(a) else None)

    def read(a: Atom) -> bool:
        return a.kind == "load" and a.name == array

    return _mapped(e, poly, lambda s: load(array, at(s.args[1])) if s.op == "load" and s.args[0] == array else None)


def _mapped(e: Eq, poly: Callable[[Poly], Poly], node: Callable[[Scalar], Scalar | None] = lambda _: None) -> Eq:
    def scalar(s: Scalar) -> Scalar:
        return map_scalar(s, node, poly)

    def cond(c: Cond) -> Cond:
        return map_cond(c, poly, scalar)

    return replace(e, domain=cond(e.domain), pieces=tuple((cond(c), scalar(s)) for c, s in e.pieces))


def _atoms(s: Scalar | Cond) -> frozenset[Atom]:
    return s.atoms() if isinstance(s, Cond) else scalar_atoms(s)


def counts(s: Scalar) -> bool:
    """Whether s is the logarithm of integers of the data."""
    return s.op == "log" and s.args[0].op == "int" and any(a.kind == "load" for a in s.args[0].args[0].atoms())


@PSI.law(COUNT, "log k = where(k == 0, -inf, log k), k an integer of the data", source="log 0 = -inf")
def vanishes(p: Poly) -> Cond:
    """p == 0, choices in p being choices of conditions."""
    a = next((a for a in sorted(p.top_atoms(), key=str) if a.kind == "select" and is_structural(a.args[0])), None)
    if a is None:
        return is_zero(p)
    c, *sides = a.args
    first, second = (vanishes(p.replace({a: x}.get)) for x in sides)
    return either(both(c, first), both(negate(c), second))
