"""Chunk: a carried reduction moved from one chunk of rows to the next, and done as it stands inside each chunk.

The change of reference with the last row before a chunk as the reference: what lies before the chunk is a state at
that row, moved by C from boundary to boundary and never from the origin; what lies inside it is the reduction over the
elements of the chunk alone. The states of all boundaries are one array, made by a recurrence of few steps.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass, replace

from moa.laws.algebra import Form, expand, factors, product, rebuild, unused
from moa.laws.carry import Prefix, parted, prefix, row_of, weighed
from moa.laws.reading import Stays
from moa.laws.reassociate import Reassociated
from moa.laws.reference import plain_member
from moa.laws.table import LAWS
from moa.normal import (
    TRUE,
    Axis,
    Component,
    Eq,
    Index,
    Piece,
    Recurrence,
    Scalar,
    apply,
    at_least_zero,
    both,
    choose,
    is_zero,
    lit,
    load,
    map_scalar,
    rename,
    rename_cond,
)
from moa.ops import OPERATORS
from moa.poly import Poly, const, maximum, minimum, var

LENGTH = 64  # rows of a chunk


@dataclass(frozen=True, slots=True)
class Chunked:
    """A reduction over a prefix in chunks: `whole` = what is near + what is far.

    near     the reduction over the elements of a row's own chunk
    sums     what each chunk adds to the state, at its last row
    states   the recurrence that makes the state before each chunk
    far      what a row takes from the state before its chunk
    row      the axis that goes by chunks
    """

    whole: Eq
    near: Eq
    sums: Eq
    states: Recurrence
    far: Eq
    row: Axis
    conditions: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Weight:
    """exp(exponent) that ties an element to a row; `None` exponent where nothing does."""

    op: str
    exponent: Form | None
    p: Prefix

    def between(self, row: Poly, reference: Poly) -> Scalar:
        """What a state at the reference is multiplied with at the row."""
        if self.exponent is None:
            return lit(1)
        e, (i, j) = rebuild(self.exponent), (self.p.row[0], self.p.axis[0])
        difference = expand(rename(e, {i: row, j: reference})) - expand(rename(e, {i: reference, j: reference}))
        return apply(self.op, rebuild(difference))

    def element(self, s: Scalar, row: Poly, at: Poly) -> Scalar:
        """An element of the sum as it stands in a state at the row."""
        if self.exponent is None:
            return s
        e = rename(rebuild(self.exponent), {self.p.row[0]: row, self.p.axis[0]: at})
        coefficient, parts = factors(s)
        return product([(apply(self.op, rebuild(expand(e))), 1), *parts], coefficient)


@LAWS.law(
    "chunk",
    "sum_{j <= i} b_j w(i,j) = w(i,r) sum_{j <= r} b_j w(r,j) + sum_{r < j <= i} b_j w(i,j), r the row before",
    contract="rescales",
    source="change of reference, the last row of each chunk being the reference",
)
def chunk(e: Eq, made: Reassociated, falling: Set[str], fresh: Callable[[str], str], length: int = LENGTH) -> Chunked:
    """A reduction over a prefix in chunks of rows, from the same reduction with its sums exchanged.

    Errors: Stays, with the reason, where the law does not apply
    """
    inner = made.inner
    assert inner.red is not None and e.red is not None
    if inner.op not in OPERATORS["mul"].distributes:
        raise Stays(f"chunks of {inner.op}")
    row = row_of(plain_member(inner), inner.red)
    p = prefix(inner.domain, row, inner.red)
    weight, bodies = _weights(inner, p, falling)
    taken = {v for x in (e, inner, made.outer) for v, _ in (*x.outer, *((x.red,) if x.red else ()))}
    a, s = unused("a", taken), unused("s", taken)
    count = (row[1] + (length - 1)) // length
    element = var(a) * length + var(s)  # the element s of chunk a
    last = minimum(var(a) * length + length, row[1]) - 1
    others = tuple(x for x in inner.outer if x != row)
    index = tuple(var(v) for v, _ in others)

    inside = minimum(element, inner.red[1] - 1)  # beyond the end nothing is added, and nothing read
    at = {inner.red[0]: inside}
    sums = Eq(
        fresh(inner.name),
        "reduce",
        ((a, count), *others),
        tuple((rename_cond(c, at), weight.element(rename(b, at), last, inside)) for c, b in bodies),
        inner.op,
        (s, const(length)),
        both(rename_cond(p.rest, at), at_least_zero(inner.red[1] - 1 - element)),
    )
    added = load(sums.name, (var(a), *index))
    name = fresh(inner.name)
    before = maximum(var(a) * length - 1, const(0))
    moved = apply("mul", weight.between(last, before), load(f"{name}#0", index))
    body = choose(is_zero(var(a)), added, apply("add", moved, added))
    component = Component(name, others, lit(0), body)
    states = Recurrence(f"{name}.chunks", (a, count), 0, (component,), (), True, False, True)

    def far(x: Scalar) -> Scalar | None:
        if x.op != "load" or x.args[0] != inner.name:
            return None
        where: dict[str, Poly] = {v: q for (v, _), q in zip(inner.outer, x.args[1], strict=True)}
        r = where[row[0]]
        reference = maximum(r // length * length - 1, const(0))
        rest: Index = tuple(where[v] for v, _ in others)
        state = load(name, (r // length, *rest))
        if weight.exponent is None:
            return state
        here = rename(weight.between(r, reference), {v: q for v, q in where.items() if v != row[0]})
        return apply("mul", here, state)  # before the first chunk the state is 0

    away = replace(made.outer, name=fresh(e.name), pieces=tuple((c, map_scalar(b, far)) for c, b in made.outer.pieces))
    own = is_zero(var(row[0]) // length - var(e.red[0]) // length)
    near = replace(e, name=fresh(e.name), domain=both(e.domain, own))
    total = apply("add", load(near.name, e.index()), load(away.name, e.index()))
    whole = Eq(e.name, "map", e.outer, ((TRUE, total),))
    conditions = (
        (f"{p.axis[0]} {'<' if p.strict else '<='} {row[0]} only grows with {row[0]}", "structure"),
        (f"chunks of {length} rows", "choice"),
        *made.conditions,
    )
    return Chunked(whole, near, sums, states, away, row, conditions)


def _weights(inner: Eq, p: Prefix, falling: Set[str]) -> tuple[_Weight, list[Piece]]:
    """The weight that all pieces have, and per piece its condition and what is free of the row."""
    bodies: list[Piece] = []
    found: set[_Weight] = set()
    for c, b in inner.pieces:
        if p.row[0] in c.vars():
            raise Stays(f"the piece {c} depends on {p.row[0]}")
        weighed(b, replace(p, strict=False), falling)
        value, op, exponent = parted(b, p.row[0])
        found.add(_Weight(op, exponent, p))
        bodies.append((c, value))
    if len(found) != 1:
        raise Stays("its pieces move differently")
    return found.pop(), bodies
