"""Pieces: structural choices in the body of a Reduce become its domain and disjoint pieces."""

from __future__ import annotations

from moa.normal import (
    FALSE,
    TRUE,
    Cond,
    Piece,
    Scalar,
    both,
    either,
    is_structural,
    lit,
    map_scalar,
    negate,
    scalar_atoms,
    subterms,
)
from moa.ops import REDUCERS
from moa.psi.known import assume
from moa.psi.ranges import Scope, narrowed
from moa.psi.rejoin import rejoined
from moa.rewrite import Trace

MAX_PIECES = 64


def split(op: str, red: str, body: Scalar, scope: Scope, trace: Trace) -> tuple[Cond, tuple[Piece, ...]]:
    """The domain and the pieces of reduce(op, red, body); pieces that are the identity are dropped.

    Contract: `assumes finite` where a factor 0 has removed what it multiplies.
    """
    identity = REDUCERS[op].identity
    assert identity is not None and not isinstance(identity, bool)
    found = 0

    def walk(x: Scalar, under: Cond) -> tuple[Cond, dict[Scalar, Cond]]:
        """Where under the condition there is something to reduce, and the pieces of x."""
        nonlocal found
        c = first_condition(x, red)
        if c is None or found >= MAX_PIECES:
            return (FALSE, {}) if x is lit(identity) else (under, {x: under})
        found += 1
        sides = [(narrowed(both(under, c), scope), True), (narrowed(both(under, negate(c)), scope), False)]
        sides = [(here, value) for here, value in sides if not here.is_false]
        parts = [walk(absorb(assume(x, c, value)), here) for here, value in sides]
        whole = all(part is here for (part, _), (here, _) in zip(parts, sides, strict=True))
        domain = under if whole else narrowed(either(*(part for part, _ in parts)), scope)
        if len(parts) == 2 and all(len(pieces) == 1 for _, pieces in parts):
            (a,), (b,) = (pieces for _, pieces in parts)
            joined = rejoined(c, a, b)
            if joined is not None:
                return domain, {joined: domain}
        pieces: dict[Scalar, Cond] = {}
        for _, more in parts:
            for s, where in more.items():
                pieces[s] = either(pieces.get(s, FALSE), where)
        return domain, pieces

    domain, pieces = walk(body, TRUE)
    if not pieces:
        return FALSE, ((TRUE, lit(identity)),)
    if found:
        trace.counts["split"] = trace.counts.get("split", 0) + 1
    if len(pieces) == 1:
        return domain, ((TRUE, next(iter(pieces))),)
    return domain, tuple((c, s) for s, c in pieces.items())


def first_condition(s: Scalar, red: str) -> Cond | None:
    """A structural condition on the reduced variable that a select in s tests, outermost first.

    Of a condition on an index that is itself a choice, the inner choice comes first: what is left is affine.
    """
    found: Cond | None = None
    for x in reversed(subterms(s)):
        if x.op == "select" and is_structural(x.args[0]) and red in x.args[0].vars():
            found = x.args[0]
            break
    atoms = scalar_atoms(s) if found is None else found.atoms()
    while choices := [a for a in atoms if a.kind == "select" and is_structural(a.args[0]) and red in a.args[0].vars()]:
        found = min(choices, key=str).args[0]
        assert found is not None
        atoms = found.atoms()
    return found


def absorb(s: Scalar) -> Scalar:
    """s with products and quotients of an exact 0 replaced by 0, sums with -inf by -inf (contract: assumes finite)."""
    zero, nothing = lit(0), lit(float("-inf"))

    def node(x: Scalar) -> Scalar | None:
        if x.op == "mul" and zero in x.args:
            return zero
        if x.op == "add" and nothing in x.args:
            return nothing
        return zero if x.op == "div" and x.args[0] is zero else None

    return map_scalar(s, node)
