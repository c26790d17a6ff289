"""Walking Scalars and Conds: rebuilding them with parts replaced, and what they read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from moa.normal.scalar import (
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
    load,
    negate,
)
from moa.poly import Poly

# Walking -----------------------------------------------------------------------------------------------------------


def map_cond(c: Cond, poly: Callable[[Poly], Poly], scalar: Callable[[Scalar], Scalar]) -> Cond:
    """The condition rebuilt with every Poly and every Scalar in it mapped."""
    match c.op:
        case "ge":
            return at_least_zero(poly(c.args[0]))
        case "eq":
            return is_zero(poly(c.args[0]))
        case "and":
            return both(*(map_cond(x, poly, scalar) for x in c.args))
        case "or":
            return either(*(map_cond(x, poly, scalar) for x in c.args))
        case "not":
            return negate(map_cond(c.args[0], poly, scalar))
        case "cmp":
            return compare(c.args[0], scalar(c.args[1]), scalar(c.args[2]))
        case "load":
            return Cond("load", (c.args[0], tuple(poly(p) for p in c.args[1])))
        case _:
            return c


def map_scalar(
    s: Scalar,
    node: Callable[[Scalar], Scalar | None] = lambda _: None,
    poly: Callable[[Poly], Poly] = lambda p: p,
    memo: dict[Scalar, Scalar] | None = None,
) -> Scalar:
    """The scalar rebuilt bottom up: `poly` on each Poly; then `node(rebuilt)` replaces a node where not None."""
    memo = {} if memo is None else memo
    found = memo.get(s)
    if found is not None:
        return found

    def walk(x: Scalar) -> Scalar:
        return map_scalar(x, node, poly, memo)

    match s.op:
        case "lit" | "param" | "ref":
            new = s
        case "int":
            new = integer(poly(s.args[0]))
        case "load":
            new = load(s.args[0], (poly(p) for p in s.args[1]))
        case "select":
            new = choose(map_cond(s.args[0], poly, walk), walk(s.args[1]), walk(s.args[2]))
        case _:
            new = apply(s.op, *(walk(x) for x in s.args))
    out = node(new)
    out = new if out is None else out
    memo[s] = out
    return out


def rename(s: Scalar, names: Mapping[str, Poly]) -> Scalar:
    """The scalar with index variables replaced, all at once."""
    return map_scalar(s, poly=lambda p: p.rename(names)) if names else s


def rename_cond(c: Cond, names: Mapping[str, Poly]) -> Cond:
    return map_cond(c, lambda p: p.rename(names), lambda s: rename(s, names)) if names else c


def subterms(s: Scalar) -> tuple[Scalar, ...]:
    """Every scalar in s, s included, each once, operands before what uses them; scalars in conditions too."""
    out: dict[Scalar, None] = {}

    def walk(x: Scalar) -> None:
        if x in out:
            return
        if x.op == "select":
            for y in cond_scalars(x.args[0]):
                walk(y)
        for y in x.operands:
            walk(y)
        out[x] = None

    walk(s)
    return tuple(out)


def cond_scalars(c: Cond) -> tuple[Scalar, ...]:
    """The scalars compared in a condition."""
    match c.op:
        case "cmp":
            return (c.args[1], c.args[2])
        case "and" | "or" | "not":
            return tuple(s for x in c.args for s in cond_scalars(x))
        case _:
            return ()


def cond_polys(c: Cond) -> tuple[Poly, ...]:
    """The integers that a condition compares with 0."""
    if c.op in ("ge", "eq"):
        return c.args
    return tuple(p for x in c.args if isinstance(x, Cond) for p in cond_polys(x))


@cache
def cond_loads(c: Cond) -> tuple[tuple[str, Index], ...]:
    """(array, index) of every element a condition reads, integer and boolean ones included."""
    out = [(a.name, a.args) for a in c.atoms() if a.kind == "load"]
    match c.op:
        case "load":
            out.append((c.args[0], c.args[1]))
        case "and" | "or" | "not":
            out += [y for x in c.args for y in cond_loads(x) if y not in out]
    for s in cond_scalars(c):
        out += [y for y in loads(s) if y not in out]
    return tuple(out)


@cache
def scalar_atoms(s: Scalar) -> frozenset[Any]:
    """The integer atoms in a scalar."""
    out: set[Any] = set()
    for x in subterms(s):
        match x.op:
            case "int":
                out |= x.args[0].atoms()
            case "load":
                for p in x.args[1]:
                    out |= p.atoms()
            case "select":
                out |= x.args[0].atoms()
    return frozenset(out)


@cache
def loads(s: Scalar) -> tuple[tuple[str, Index], ...]:
    """(array, index) of every element a scalar reads, integer and boolean ones included."""
    out: dict[tuple[str, Index], None] = {}
    for x in subterms(s):
        match x.op:
            case "load":
                out[(x.args[0], x.args[1])] = None
            case "select":
                for y in cond_loads(x.args[0]):
                    out[y] = None
    for a in scalar_atoms(s):
        if a.kind == "load":
            out[(a.name, a.args)] = None
    return tuple(out)
