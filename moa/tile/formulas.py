"""Rewriting what goes into tiles: base two, renamed folds, what a scalar reads, how loops grow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from moa.domains import value_of
from moa.normal import (
    Axis,
    Cond,
    Fold,
    Index,
    Member,
    Scalar,
    apply,
    at_least_zero,
    both,
    choose,
    either,
    lit,
    load,
    loads,
    map_scalar,
    rename,
    rename_cond,
)
from moa.poly import Poly, const, var
from moa.tile.plan import Plan
from moa.tiles import Loop, TileStmt


def growing(body: tuple[TileStmt, ...], row: str) -> bool:
    """Whether loops are longer in the last work item than in the first, for one size of all axes."""
    size, last = 1 << 12, (1 << 12) - 64

    def bound(p: Poly, origin: int) -> int:
        known = p.replace(lambda a: const(size) if a.kind == "load" else None)
        values = {a.name: 0 if a.kind == "var" else size for a in known.atoms()}
        return value_of(known, values | {f"{row}@0": origin})

    def total(origin: int) -> int:
        return sum(max(bound(s.hi, origin) - bound(s.lo, origin), 0) for s in body if isinstance(s, Loop))

    return total(last) > total(0)


def base_two(s: Scalar) -> Scalar:
    """s with exp(c * x) as exp2((c / log 2) * x), c free of indices.

    Beside a reference the exponent is at most 0, where the rounding of the product costs less than one unit in the
    last place of the largest term (contract: rescales).
    """
    one_over_log2 = apply("div", lit(1), apply("log", lit(2)))

    def node(x: Scalar) -> Scalar | None:
        if x.op != "exp":
            return None
        inside = x.args[0]
        if inside.op == "mul" and not inside.args[0].vars() and not loads(inside.args[0]):
            factor = apply("mul", inside.args[0], one_over_log2)
            return apply("exp2", apply("mul", factor, inside.args[1]))
        return apply("exp2", apply("mul", one_over_log2, inside))

    return map_scalar(s, node)


def linear_tests(s: Scalar) -> Scalar:
    """s with tests of |x|, min(x, y) and max(x, y) as tests of x and y, which lanes make at once."""

    def node(x: Scalar) -> Scalar | None:
        return choose(linear_test(x.args[0]), x.args[1], x.args[2]) if x.op == "select" else None

    return map_scalar(s, node)


def linear_test(c: Cond) -> Cond:
    if c.op in ("and", "or"):
        return (both if c.op == "and" else either)(*map(linear_test, c.args))
    if c.op != "ge":
        return c
    p: Poly = c.args[0]
    for m, k in p.terms:
        if len(m) == 1 and m[0].kind in ("abs", "min", "max") and p.vars():
            a, rest = m[0], p - Poly({m: k})
            sides = (a.args[0], -a.args[0]) if a.kind == "abs" else a.args
            least = (a.kind == "min") == (k > 0)  # k * a is the least of both, and so both are at least what it is
            return (both if least else either)(*(linear_test(at_least_zero(rest + k * x)) for x in sides))
    return c


def renamed_fold(fold: Fold, names: dict[str, str], suffix: str) -> Fold:
    """A fold over other variables; its states get a suffix, so that two copies can stand in one phase."""
    at = {v: var(n) for v, n in names.items()}
    own = {m.state(k) for m in fold.members for k in range(m.width)}

    def scalar(s: Scalar) -> Scalar:
        def node(x: Scalar) -> Scalar | None:
            if suffix and x.op == "load" and x.args[0] in own:
                head, k = x.args[0].rsplit("#", 1)
                return load(f"{head}{suffix}#{k}", x.args[1])
            return None

        return map_scalar(rename(s, at), node)

    def axes(outer: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple((names[v], e) for v, e in outer)

    members = tuple(
        replace(
            m,
            name=m.name + suffix,
            outer=axes(m.outer),
            domain=rename_cond(m.domain, at),
            pieces=tuple((rename_cond(c, at), tuple(scalar(b) for b in basis)) for c, basis in m.pieces),
            refs=tuple(scalar(r) for r in m.refs),
            move=tuple(tuple(scalar(x) for x in row) for row in m.move),
            finish=scalar(m.finish),
        )
        for m in fold.members
    )
    return replace(
        fold,
        axis=(names[fold.axis[0]], fold.axis[1]),
        shared=axes(fold.shared),
        members=members,
        domain=rename_cond(fold.domain, at),
    )


def fold_uses(plan: Plan, s: Scalar) -> Iterator[tuple[Fold, Member, Index]]:
    """Every member of a fold that a scalar reads, through named equations, with its index."""
    for array, index in loads(s):
        if array in plan.memory:
            continue
        if array in plan.members:
            yield (*plan.members[array], index)
        elif array in plan.equations:
            e = plan.equations[array]
            at = {v: p for (v, _), p in zip(e.outer, index, strict=True)}
            for _, body in e.pieces:
                yield from fold_uses(plan, rename(body, at))
