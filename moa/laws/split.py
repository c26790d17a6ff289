"""Split: a structural choice inside a reduced body becomes pieces, and pieces that are the identity become a domain."""

from __future__ import annotations

from dataclasses import replace

from moa.laws.algebra import factors, identity_of
from moa.laws.table import LAWS
from moa.normal import (
    FALSE,
    TRUE,
    Cond,
    Eq,
    Piece,
    Scalar,
    both,
    choose,
    either,
    is_structural,
    lit,
    map_scalar,
    negate,
    subterms,
)
from moa.ops import OPERATORS, REDUCERS
from moa.poly import Atom, Poly
from moa.psi.rejoin import rejoined

MAX_CONDITIONS = 4  # a body with more different conditions is left as it is


def conjuncts(c: Cond) -> frozenset[Cond]:
    if c.is_true:
        return frozenset()
    return frozenset(c.args) if c.op == "and" else frozenset((c,))


def implies(c: Cond, d: Cond) -> bool:
    """Whether c => d is proved: each conjunct of d is one of c, or p >= 0 where c has q >= 0 with p - q >= 0."""
    have = conjuncts(c)
    if c.is_false:
        return True
    for x in conjuncts(d):
        if x in have:
            continue
        if x.op == "or" and any(implies(c, y) for y in x.args):
            continue
        if x.op == "ge" and any(y.op == "ge" and _at_least(x.args[0] - y.args[0]) for y in have):
            continue
        return False
    return True


def _at_least(p: Poly) -> bool:
    """Whether p >= 0 for all sizes and index variables, which are at least 0."""
    return all(c >= 0 and all(a.kind in ("var", "size") for a in m) for m, c in p.terms)


def assume(s: Scalar, c: Cond) -> Scalar:
    """The scalar simplified where c holds: choices that c decides are made, equal literals compared."""

    def node(x: Scalar) -> Scalar | None:
        if x.op != "select":
            return None
        d, a, b = x.args
        d = narrowed(d, c)
        truth = True if d.is_true else False if d.is_false else _literal_truth(d)
        if truth is None:
            return None if d is x.args[0] else choose(d, a, b)
        return a if truth else b  # type: ignore[no-any-return]

    def choice(a: Atom) -> Poly | None:
        if a.kind != "select":
            return None
        d, x, y = a.args
        return x if implies(c, d) else y if implies(c, negate(d)) else None

    return map_scalar(s, node, lambda p: p.replace(choice))


def narrowed(d: Cond, c: Cond) -> Cond:
    """What is left to test of d where c holds."""
    if implies(c, d):
        return TRUE
    if implies(c, negate(d)):
        return FALSE
    match d.op:
        case "and":
            return both(*(narrowed(y, c) for y in d.args))
        case "or":
            return either(*(narrowed(y, c) for y in d.args))
        case _:
            return d


def _literal_truth(c: Cond) -> bool | None:
    """What a comparison of two literals is, else None."""
    if c.op == "not":
        inner = _literal_truth(c.args[0])
        return None if inner is None else not inner
    if c.op != "cmp" or c.args[1].op != "lit" or c.args[2].op != "lit":
        return None
    return bool(OPERATORS[c.args[0]].numpy(c.args[1].args[0], c.args[2].args[0]))


def _vanishes(s: Scalar, op: str) -> bool:
    """Whether s is a product with a factor that absorbs to the identity of op (0 times anything finite in a sum)."""
    if OPERATORS["mul"].absorbing != REDUCERS[op].identity:
        return False
    return any(p > 0 and x is lit(0) for x, p in factors(s)[1])


def _choice(s: Scalar, axis: str) -> Cond | None:
    """A structural condition on the axis that a choice in s depends on."""
    for x in subterms(s):
        if x.op == "select":
            for y in sorted(conjuncts(x.args[0]), key=str) or [x.args[0]]:
                if is_structural(y) and axis in y.vars():
                    return y
    return None


@LAWS.law(
    "split",
    "reduce_j where(p_j, a_j, b_j) = pieces {p: a; not p: b}; a piece that is the identity leaves the domain",
    source="a reduction over a disjoint union",
)
def split(e: Eq) -> Eq | None:
    """The reduction with structural choices on its axis as pieces and domain; None if there is nothing to do."""
    assert e.red is not None
    if isinstance(REDUCERS[e.op].identity, bool):
        return None
    axis, identity = e.red[0], identity_of(e.op)
    todo: list[Piece] = [(c, s) for c, s in e.pieces]
    done: list[Piece] = []
    used: set[Cond] = set()
    while todo:
        c, s = todo.pop(0)
        where = both(e.domain, c)
        if where is FALSE:
            continue
        s = assume(s, where)
        found = _choice(s, axis)
        decided = found is not None and (implies(where, found) or implies(where, negate(found)))
        if found is None or decided or len(used | {found}) > MAX_CONDITIONS:
            if s is not identity and (c is TRUE or not _vanishes(s, e.op)):  # a zero that no choice made keeps NaN
                done.append((c, s))
            continue
        used.add(found)
        todo[:0] = [(both(c, found), s), (both(c, negate(found)), s)]
    pieces = together(done, used)
    domain = e.domain
    if len(pieces) == 1 and pieces[0][0] is not TRUE:
        domain, pieces = both(domain, pieces[0][0]), [(TRUE, pieces[0][1])]
    if not pieces:
        pieces = [(TRUE, identity)]
    new = replace(e, domain=domain, pieces=tuple(pieces))
    return None if new == e else new


def together(pieces: list[Piece], used: set[Cond]) -> list[Piece]:
    """The pieces with two that differ in one number, and in one condition that was split at, as one."""
    for k, (c, a) in enumerate(pieces):
        for x in sorted(conjuncts(c) & used, key=str):
            rest = both(*(conjuncts(c) - {x}))
            for n, (d, b) in enumerate(pieces):
                joined = rejoined(x, a, b) if n != k and d is both(rest, negate(x)) else None
                if joined is not None:
                    others = [p for i, p in enumerate(pieces) if i not in (k, n)]
                    return together([(rest, joined), *others], used)
    return pieces
