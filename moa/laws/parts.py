"""Parts: a traversal split into parts of its axis, each with states of its own, which are then merged.

The merge is a traversal of the parts by the same law: the state of a part, at the reference that the part ended with,
is moved to the running reference of the whole and added. What moves a state inside a part moves it between parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from moa.laws.algebra import identity_of, unused
from moa.laws.reading import Stays
from moa.laws.table import LAWS
from moa.normal import (
    TRUE,
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
    compare,
    load,
    map_scalar,
    rename,
    rename_cond,
)
from moa.poly import const, var

LENGTH = 512  # elements of a part


@dataclass(frozen=True, slots=True)
class Parted:
    """A Fold in parts: `parts` has the states of each, `merged` the members of the Fold under their own names."""

    parts: Fold
    merged: Fold
    conditions: tuple[tuple[str, str], ...]


@LAWS.law(
    "merge",
    "sum_j b_j(r) = sum_p C(r_p, r) sum_{j in part p} b_j(r_p), r_p the reference that part p ends with",
    contract="rescales",
    source="change of reference; the parts are disjoint and cover the axis",
)
def merge(f: Fold, fresh: Callable[[str], str], length: int = LENGTH) -> Parted:
    """A traversal in parts of `length` elements, and the traversal of the parts that merges their states.

    Errors: Stays, with the reason, where the law does not apply
    """
    if any(m.width > 1 for m in f.members):
        raise Stays("states of several components are not stored")
    if any(m.domain is not f.domain for m in f.members):
        raise Stays("its members run over different domains")
    axis, extent = f.axis
    taken = {v for v, _ in (f.axis, *f.shared, *(a for m in f.members for a in m.outer))}
    p, s = unused("p", taken), unused("s", taken)
    here = var(p) * length + var(s)
    part: Axis = (p, (extent + (length - 1)) // length)
    inside = at_least_zero(extent - 1 - here)
    names = {m.name: fresh(m.name) for m in f.members}
    at = {axis: here}

    def cond(c: Cond) -> Cond:
        return rename_cond(c, at)

    def own(x: Scalar) -> Scalar:
        """A scalar of the Fold as one of a part: its states are the part's."""
        return _with_states(rename(x, at), names, p, "#0")

    def ended(x: Scalar) -> Scalar:
        """A reference as it is when its part ends."""
        return _with_states(x, names, p, "")

    parts: list[Member] = []
    merged: list[Member] = []
    for m in f.members:
        index: Index = (var(p), *(var(v) for v, _ in m.outer))
        name = names[m.name]
        pieces = tuple((cond(c), tuple(own(b) for b in basis)) for c, basis in m.pieces)
        refs = tuple(own(r) for r in m.refs)
        move = tuple(tuple(own(x) for x in row) for row in m.move)
        outer = (part, *m.outer)
        whole = both(cond(m.domain), inside)
        parts.append(Member(name, outer, m.op, whole, pieces, refs, move, load(f"{name}#0", index)))
        state = load(name, index)
        if m.move:
            moved = apply("mul", _from_ended(m, ended), state)
            nothing = identity_of(m.op)
            state = choose(compare("eq", state, nothing), nothing, moved) if math.isinf(nothing.args[0]) else moved
        merged.append(replace(m, domain=TRUE, pieces=((TRUE, (state,)),)))
    domain = both(cond(f.domain), inside)
    conditions = (("C(r, s) C(s, t) = C(r, t)", "change of reference"), (f"parts of {length} elements", "choice"))
    return Parted(
        Fold(fresh(f.name), (s, const(length)), (part, *f.shared), domain, tuple(parts)),
        Fold(f.name, part, f.shared, TRUE, tuple(merged)),
        conditions,
    )


def _with_states(s: Scalar, names: Mapping[str, str], part: str, suffix: str) -> Scalar:
    """A scalar over the states of members as one over those of a part."""

    def node(x: Scalar) -> Scalar | None:
        if x.op != "load" or not x.args[0].endswith("#0") or x.args[0][:-2] not in names:
            return None
        return load(f"{names[x.args[0][:-2]]}{suffix}", (var(part), *x.args[1]))

    return map_scalar(s, node)


def _from_ended(m: Member, ended: Callable[[Scalar], Scalar]) -> Scalar:
    """What moves the state of a part to the running reference of the whole."""

    def node(x: Scalar) -> Scalar | None:
        return ended(m.refs[x.args[0]]) if x.op == "ref" and x.args[1] == "old" else None

    return map_scalar(m.move[0][0], node)
