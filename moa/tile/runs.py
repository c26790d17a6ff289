"""Runs: positions of an axis that have one quotient by B, which is one number for all of them.

Where what a traversal reads or tests depends on `j // B`, its tiles are cut at multiples of B, and the quotient is the
number of the run: conditions on it are tested once a run, and an index that follows from it is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from moa.laws.split import conjuncts
from moa.normal import (
    Cond,
    Eq,
    Fold,
    Index,
    Member,
    Scalar,
    at_least_zero,
    both,
    cond_loads,
    is_structural,
    is_zero,
    loads,
    map_cond,
    map_scalar,
    rename,
    scalar_atoms,
)
from moa.poly import Atom, Poly, const, minimum, var
from moa.psi.ranges import Scope, settle

SHORT_RUN = 16  # positions: below, tests of single positions cost less than the tiles that a run would leave

Known = Mapping[Atom, Poly]  # integers that have one value where statements are made, and those values


def quotients(
    fold: Fold, equations: Mapping[str, Eq], stored: Callable[[str], bool], here: Callable[[Scalar], Scalar]
) -> frozenset[tuple[str, Poly]]:
    """(v, B) of every v // B in what a fold tests and reads, B free of data and of index variables.

    here   a scalar with what is known where the fold stands
    """
    found: set[tuple[str, Poly]] = set()
    seen: set[tuple[str, Index]] = set()

    def note(atoms: frozenset[Atom]) -> None:
        for a in atoms:
            if a.kind == "div" and (v := a.args[0].as_var()) is not None and plain(a.args[1]):
                found.add((v, a.args[1]))

    def walk(s: Scalar) -> None:
        note(scalar_atoms(s))
        for array, index in loads(s):
            read(array, index)

    def read(array: str, index: Index) -> None:
        if array not in equations or stored(array) or (array, index) in seen:
            return
        seen.add((array, index))
        e = equations[array]
        at = {v: p for (v, _), p in zip(e.outer, index, strict=True)}
        if e.red is not None:
            at[e.red[0]] = var(f"{e.red[0]}'")  # bound in there: no axis of the fold
        for _, s in e.pieces:
            walk(here(rename(s, at)))

    for m in fold.members:
        for c in (m.domain, *(c for c, _ in m.pieces)):
            note(c.atoms())
            for array, index in cond_loads(c):
                read(array, index)
        for _, basis in m.pieces:
            for b in basis:
                walk(b)
    return frozenset(found)


def plain(p: Poly) -> bool:
    return all(a.kind in ("size", "int") for a in p.atoms())


def divisor(found: frozenset[tuple[str, Poly]], axis: str) -> Poly | None:
    """The B of the runs of an axis: the one there is, unless its runs are known to be short."""
    mine = sorted({d for v, d in found if v == axis}, key=str)
    if len(mine) != 1 or ((n := mine[0].as_int()) is not None and n < SHORT_RUN):
        return None
    return mine[0]


def alike(row: str, rows: int, extent: Poly, divisors: frozenset[Poly]) -> Cond:
    """Whether all rows of the work item have the same quotients."""
    first = var(f"{row}@0")
    last = minimum(first + rows, extent) - 1
    return both(*(is_zero(last // d - first // d) for d in sorted(divisors, key=str)))


def long(d: Poly) -> Cond:
    return at_least_zero(d - SHORT_RUN)


def settled(fold: Fold, known: Known, scope: Scope) -> Fold:
    """The fold with integers that are known replaced, and what follows from them."""
    return each(fold, lambda s: settled_scalar(s, known, scope), lambda c: settled_cond(c, known, scope))


def each(fold: Fold, scalar: Callable[[Scalar], Scalar], cond: Callable[[Cond], Cond]) -> Fold:
    """The fold with every scalar and every condition mapped."""

    def member(m: Member) -> Member:
        return replace(
            m,
            domain=cond(m.domain),
            pieces=tuple((cond(c), tuple(map(scalar, basis))) for c, basis in m.pieces),
            refs=tuple(map(scalar, m.refs)),
            move=tuple(tuple(map(scalar, row)) for row in m.move),
            finish=scalar(m.finish),
        )

    return replace(fold, domain=cond(fold.domain), members=tuple(map(member, fold.members)))


def settled_poly(p: Poly, known: Known, scope: Scope) -> Poly:
    return settle(p.replace(known.get), scope).replace(known.get)


def settled_scalar(s: Scalar, known: Known, scope: Scope) -> Scalar:
    return map_scalar(s, poly=lambda p: settled_poly(p, known, scope))


def settled_cond(c: Cond, known: Known, scope: Scope) -> Cond:
    return map_cond(c, lambda p: settled_poly(p, known, scope), lambda s: settled_scalar(s, known, scope))


def apart(c: Cond, moving: frozenset[str]) -> tuple[Cond, Cond]:
    """(what of a conjunction has one value in a run, the rest)."""
    free = [x for x in conjuncts(c) if not x.vars() & moving and not _floats(x)]
    return both(*free), both(*(x for x in conjuncts(c) if x not in free))


def _floats(c: Cond) -> bool:
    return not is_structural(c)


def count(extent: Poly, d: Poly) -> Poly:
    """How many runs an axis has."""
    return (extent + d - const(1)) // d
