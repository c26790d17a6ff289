"""Change of reference: a sum of P(x, r) exp(rate * (u - r)) is a state that can be moved from one reference to another.

The body of a sum is read as a product: factors of the data, exponentials whose exponent is rate * (u - r), and
differences (x - r) to a power. The state holds the partial derivatives of that product in its references, which are
the lower powers of the differences; moving it is the binomial theorem times one exponential. Nothing is solved.

References are kept finite: r = max(m, lowest / 2), with `lowest` the lowest finite number of the compute type (a
parameter that the backend binds). A row whose true reference is -inf has the value NaN where no guard says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product as every

from moa.laws.algebra import ONE, Form, cond_reads, expand, form_text, identity_of, product, ratio, rebuild
from moa.laws.reading import LOWEST, Live, Reader, Reading, Reference, Stays
from moa.laws.table import LAWS
from moa.laws.terms import total
from moa.normal import (
    TRUE,
    Cond,
    Eq,
    Member,
    Piece,
    Scalar,
    apply,
    at_least_zero,
    both,
    choose,
    compare,
    lit,
    load,
    map_scalar,
    scalar_atoms,
)
from moa.ops import OPERATORS

MAX_WIDTH = 4


@dataclass(frozen=True, slots=True)
class Moved:
    """What the law made: the members to add (sums for a mean first, the reduction last) and why it may."""

    members: tuple[tuple[Eq, Member], ...]
    before: str
    after: str
    conditions: tuple[tuple[str, str], ...]
    guards: tuple[tuple[str, str], ...]


def plain_member(e: Eq) -> Member:
    """The member of a reduction that has no reference."""
    pieces = tuple((c, (s,)) for c, s in e.pieces)
    return Member(e.name, e.outer, e.op, e.domain, pieces, (), (), load(f"{e.name}#0", e.index()))


@LAWS.law(
    "change of reference",
    "exp(k * (u - s)) = exp(k * (r - s)) * exp(k * (u - r)); (x - s)^n = sum_i binom(n, i) (r - s)^(n - i) (x - r)^i",
    contract="rescales",
    source="functional equation of exp, binomial theorem",
)
def change_reference(e: Eq, live: Mapping[str, Live], facts: Set[str], fresh: Callable[[str], str]) -> Moved:
    """The reduction as a member of the traversal that computes what it refers to.

    live   the reductions of that traversal, by name; loads of them in e are at the shared index
    Errors: Stays, with the reason, where the law does not apply
    """
    assert e.red is not None
    if not OPERATORS[e.op].homogeneous:
        raise Stays(f"a reference inside {e.op}")
    tests = {a for c in (e.domain, *(c for c, _ in e.pieces)) for a in cond_reads(c)}
    tests |= {a.name for _, s in e.pieces for a in scalar_atoms(s) if a.kind == "load"}
    if tests & set(live):
        raise Stays("a reference inside a condition or an index")
    axis = e.red[0]
    reader = Reader(axis, live, facts)
    readings = [reader.read(c, s, e.domain) for c, s in e.pieces]
    kept = [r for r in readings if r is not None]
    if not kept:
        raise Stays("every piece vanishes")
    first = next((r for r in kept if not r.is_zero), kept[0])
    kept = [replace(r, references=first.references, own=first.own) if r.is_zero else r for r in kept]
    for r in kept:
        same = [(x.rate, x.finite) for x in r.references] == [(x.rate, x.finite) for x in first.references]
        if not same or [(d.true, d.power) for d in r.differences] != [(d.true, d.power) for d in first.differences]:
            raise Stays("the pieces disagree on the reference")
        if (r.own and r.own[1]) is not (first.own and first.own[1]):
            raise Stays("the pieces disagree on the exponent")
    unguarded = len(kept) < len(readings) or any(r.unguarded for r in kept)
    return _build(e, reader, kept, unguarded, fresh)


# Building the member -------------------------------------------------------------------------------------------------


def _build(e: Eq, reader: Reader, kept: list[Reading], unguarded: bool, fresh: Callable[[str], str]) -> Moved:
    assert e.red is not None
    some = at_least_zero(e.red[1] - 1)  # the sum over no element at all is its identity
    first = kept[0]
    powers = [d.power for d in first.differences]
    width = math.prod(p + 1 for p in powers)
    if width > 1 and e.op not in OPERATORS["mul"].distributes:
        raise Stays(f"a difference from a reference inside {e.op}")
    if width > MAX_WIDTH:
        raise Stays(f"the state would have {width} components, more than {MAX_WIDTH}")
    if len(kept) == 1:
        e, kept = replace(e, domain=both(e.domain, first.cond)), [replace(first, cond=TRUE)]
    live = dict(reader.live)
    added: list[tuple[Eq, Member]] = []
    rest = None if first.own is None else first.own[1]
    if rest is not None:
        kept = _own_reference(e, kept, live, added, fresh)
        first = kept[0]
    centres = [_centre(e, k, kept, live, reader.facts, added, fresh) for k in range(len(powers))]
    ends = list(dict.fromkeys([*(r.finite for r in first.references), *centres]))  # what the references end at
    old = {r: Scalar("ref", (k, "old")) for k, r in enumerate(ends)}
    new = {r: Scalar("ref", (k, "new")) for k, r in enumerate(ends)}
    order = sorted(every(*(range(p + 1) for p in powers)), key=lambda a: (-sum(a), tuple(-x for x in a)))
    pieces = tuple((r.cond, tuple(_basis(r, a, new, centres) for a in order)) for r in kept)
    scale = _exponential([(r.rate, apply("sub", old[r.finite], new[r.finite])) for r in first.references])
    steps = [apply("sub", old[r], new[r]) for r in centres]
    move = tuple(tuple(_entry(a, b, steps, scale) for b in order) for a in order)
    last = [apply("sub", r, d.true) for r, d in zip(centres, first.differences, strict=True)]
    states = [load(f"{e.name}#{k}", e.index()) for k in range(len(order))]
    terms = [apply("mul", _entry(order[0], b, last, None), x) for b, x in zip(order, states, strict=True)]
    whole = e.domain.is_true and len(kept) == 1
    nothing = identity_of(e.op)
    if not whole:
        terms[1:] = [choose(compare("eq", x, lit(0)), lit(0), t) for x, t in zip(states[1:], terms[1:], strict=True)]
    finish = total([(1, t) for t in terms])
    if rest is not None:
        scaled = apply("mul", finish, apply("exp", apply("add", first.references[0].finite, rest)))
        scaled = choose(compare("lt", rest, lit(math.inf)), scaled, lit(math.nan))
        guarded = reader.guards or first.guards or not whole
        finish = choose(compare("eq", finish, nothing), nothing, scaled) if guarded else scaled
    if whole and (len(terms) > 1 or rest is not None):
        finish = choose(some, finish, nothing)
    if unguarded:
        for r in first.references:
            if r.infinity:
                finish = choose(both(some, compare("eq", r.true, lit(r.infinity))), lit(math.nan), finish)
    running = tuple(_running(r, live) for r in ends)
    member = Member(e.name, e.outer, e.op, e.domain, pieces, running, move, finish)
    conditions = [(f"exponent {form_text(r.rate)} * (u - r) <= 0", r.proof) for x in kept for r in x.references]
    conditions += [(f"{form_text(r.rate)} is free of {reader.axis}", "structure") for r in first.references]
    conditions += [("C is", f"{width}x{width}")]
    if rest is not None:
        conditions.append((f"{rest} is finite", "else the value is NaN, or that of a sum over nothing"))
    before = "; ".join(str(s) for _, s in e.pieces)
    after = "; ".join(", ".join(map(str, b)) for _, b in pieces)
    return Moved((*added, (e, member)), before, after, tuple(dict.fromkeys(conditions)), tuple(reader.guards))


def _exponential(parts: list[tuple[Form, Scalar]]) -> Scalar | None:
    """exp(sum of rate * difference), None if there is no part: the difference is taken before it is scaled."""
    if not parts:
        return None
    terms = [apply("mul", rebuild(k), d) for k, d in parts]
    out = terms[0]
    for t in terms[1:]:
        out = apply("add", out, t)
    return apply("exp", out)


def _basis(r: Reading, powers: tuple[int, ...], new: Mapping[Scalar, Scalar], centres: list[Scalar]) -> Scalar:
    """One function of the basis: the exponential, the data, and the differences to these powers, guarded."""
    if r.is_zero:
        return product(r.plain)
    scale = _exponential([(x.rate, apply("sub", x.u, new[x.finite])) for x in r.references])
    out: list[tuple[Scalar, int]] = [] if scale is None else [(scale, 1)]
    out += [f for f in r.plain if not r.guards or f not in r.outside]
    for d, centre, p in zip(r.differences, centres, powers, strict=True):
        out += [(apply("sub", d.x, new[centre]), 1)] * p
    value = product(out)
    for c in r.guards:
        value = choose(c, lit(0), value)
    return product([(value, 1), *r.outside]) if r.guards else value


def _entry(a: tuple[int, ...], b: tuple[int, ...], steps: list[Scalar], scale: Scalar | None) -> Scalar:
    """How much of component b goes into component a when the references move by `steps`."""
    if any(y > x for x, y in zip(a, b, strict=True)):
        return lit(0)
    coefficient = math.prod(math.comb(x, y) for x, y in zip(a, b, strict=True))
    parts = [] if scale is None else [(scale, 1)]
    for x, y, step in zip(a, b, steps, strict=True):
        parts += [(step, 1)] * (x - y)
    return product(parts, Fraction(coefficient))


def _running(s: Scalar, live: Mapping[str, Live]) -> Scalar:
    """The scalar over the states of the traversal instead of the values they end at."""

    def node(x: Scalar) -> Scalar | None:
        if x.op != "load" or x.args[0] not in live:
            return None
        m = live[x.args[0]]
        if x is not m.value:
            raise Stays(f"{x} is another element of a running reduction")
        value = m.member.finish
        while value.op == "select" and value.args[1] is lit(math.nan):  # what the whole row decides
            value = value.args[2]
        return value if not m.member.refs else _running(value, live)

    return map_scalar(s, node)


def _own_reference(
    e: Eq,
    kept: list[Reading],
    live: dict[str, Live],
    added: list[tuple[Eq, Member]],
    fresh: Callable[[str], str],
) -> list[Reading]:
    """The readings with the maximum of their own exponents as reference, bounded so that none is infinite."""
    pieces = tuple((r.cond, _behind(r.guards, r.own[0])) for r in kept if r.own is not None and not r.is_zero)
    used = set().union(*(s.vars() | c.vars() for c, s in pieces), e.domain.vars())
    outer = tuple(a for a in e.outer if a[0] in used or any(a in m.eq.outer for m in live.values()))
    value = _in_traversal(replace(e, op="max", outer=outer, pieces=pieces), live, added, fresh).value
    bound = product([(LOWEST, 1)], Fraction(1, 2))
    finite = apply("min", apply("max", value, bound), apply("neg", bound))
    return [
        replace(r, references=[Reference(ONE, r.own[0], value, finite, 0.0, f"{r.own[0]} <= {value}, its own body")])
        for r in kept
        if r.own is not None
    ]


def _behind(guards: list[Cond], u: Scalar) -> Scalar:
    """u where no guard holds: what stands before it is not part of a maximum."""
    for c in guards:
        u = choose(c, lit(-math.inf), u)
    return u


def _in_traversal(
    wanted: Eq, live: dict[str, Live], added: list[tuple[Eq, Member]], fresh: Callable[[str], str]
) -> Live:
    """The reduction as one of the traversal: one that is there already, or a new member."""
    for m in live.values():
        if replace(m.eq, name=wanted.name) == wanted and not m.member.refs:
            return m
    new = replace(wanted, name=fresh(wanted.name))
    live[new.name] = Live(new, plain_member(new))
    added.append((new, live[new.name].member))
    return live[new.name]


def _centre(
    e: Eq,
    k: int,
    kept: list[Reading],
    live: dict[str, Live],
    facts: Set[str],
    added: list[tuple[Eq, Member]],
    fresh: Callable[[str], str],
) -> Scalar:
    """A reference near the data x of a difference, over the values at the end of the traversal.

    The extreme that x is already compared with, else a mean of the x seen so far: weighted where the traversal has
    such sums, else a sum and a count that are added to it. Never the defining expression of the true reference on
    partial sums, and never 0: both cancel.
    """
    assert e.red is not None
    x = kept[0].differences[k].x
    for r in kept[0].references:
        scale = ratio(expand(x), expand(r.u), e.red[0])
        if scale is not None and expand(x) == scale * expand(r.u):
            return apply("mul", rebuild(scale), r.finite)
    pieces = tuple((r.cond, r.differences[k].x) for r in kept)
    for above in live.values():
        for below in live.values():
            if below.eq.name in facts and _is_mean(above.eq, below.eq, e, pieces):
                return _quotient(above.value, below.value)
    used = set().union(*(s.vars() | c.vars() for c, s in pieces), e.domain.vars())
    outer = tuple(a for a in e.outer if a[0] in used or any(a in m.eq.outer for m in live.values()))
    sums = (pieces, tuple((c, lit(1)) for c, _ in pieces))
    parts = [_in_traversal(replace(e, outer=outer, pieces=body), live, added, fresh).value for body in sums]
    return _quotient(*parts)


def _is_mean(above: Eq, below: Eq, e: Eq, pieces: tuple[Piece, ...]) -> bool:
    """Whether above / below is a mean of x with weights: piece by piece the bodies are weight * x and weight."""
    if not (above.op == below.op == e.op and above.domain is below.domain is e.domain):
        return False
    if not [c for c, _ in above.pieces] == [c for c, _ in below.pieces] == [c for c, _ in pieces]:
        return False
    bodies = zip(above.pieces, below.pieces, pieces, strict=True)
    return all(expand(a) == expand(b) * expand(x) for (_, a), (_, b), (_, x) in bodies)


def _quotient(a: Scalar, b: Scalar) -> Scalar:
    return apply("div", a, choose(compare("eq", b, lit(0)), lit(1), b))
