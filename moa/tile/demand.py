"""When the rows of a work item read what a traversal makes: without a row that does, the traversal is left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from moa.laws.split import conjuncts
from moa.normal import (
    FALSE,
    TRUE,
    Cond,
    Eq,
    Fold,
    Index,
    Member,
    Scalar,
    both,
    cond_scalars,
    either,
    is_structural,
    negate,
    rename,
)
from moa.poly import var
from moa.tile.sift import separable


def demands(
    values: Iterable[Scalar],
    members: Mapping[str, tuple[Fold, Member]],
    equations: Mapping[str, Eq],
    stored: Set[str],
    items: Set[str],
) -> dict[str, Cond]:
    """For each fold that values read, the condition on variables of items under which they do."""
    found: dict[str, Cond] = {}
    seen: set[tuple[Scalar, Cond]] = set()

    def walk(s: Scalar, under: Cond) -> None:
        if (s, under) in seen:
            return
        seen.add((s, under))
        match s.op:
            case "load":
                array, index = s.args
                read(array, index, under)
            case "select":
                c, a, b = s.args
                for x in cond_scalars(c):
                    walk(x, under)
                known = is_structural(c) and c.vars() <= items
                walk(a, both(under, c) if known else under)
                walk(b, both(under, negate(c)) if known else under)
            case _:
                for x in s.operands:
                    walk(x, under)

    def read(array: str, index: Index, under: Cond) -> None:
        if array in members:
            fold, mine = members[array]
            found[fold.name] = either(found.get(fold.name, FALSE), under)
            at = {v: p for (v, _), p in zip(mine.outer, index, strict=True)}
            for m in fold.members:
                inner = {v: at.get(v, var(f"{v}'")) for v, _ in (*m.outer, fold.axis)}
                for x in (*(b for _, basis in m.pieces for b in basis), *m.refs, m.finish):
                    walk(rename(x, inner), under)
        elif array in equations and array not in stored:
            e = equations[array]
            at = {v: p for (v, _), p in zip(e.outer, index, strict=True)}
            if e.red is not None:
                at[e.red[0]] = var(f"{e.red[0]}'")
            for _, x in e.pieces:
                walk(rename(x, at), under)

    for s in values:
        walk(s, TRUE)
    return found


def testable(c: Cond, row: str | None, items: Iterable[str]) -> tuple[Cond, ...]:
    """The conditions of a conjunction of which the rows of a work item can be tested together."""
    return tuple(x for x in sorted(conjuncts(c), key=str) if separable(x, "", row, tuple(items)))
