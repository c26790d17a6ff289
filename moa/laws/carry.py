"""Carry: a reduction over j <= i is a state that is moved from row i to row i + 1, and takes in one element there.

It is the change of reference with the row index as the reference. What ties a body to the row is either nothing (the
state is moved by 1), a weight exp(rate * (i - j)) or exp(u[i] - u[j]) (moved by the exponential of the difference,
which is formed before it is scaled), or the running extreme of a Fold, whose own move is used: the domain only grows
with the row, so a maximum over it never falls and the exponent stays at most 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from moa.laws.algebra import ZERO, Form, Key, expand, factors, form_text, identity_of, product, rebuild
from moa.laws.reading import Stays
from moa.laws.reference import plain_member
from moa.laws.split import conjuncts
from moa.laws.table import LAWS
from moa.normal import (
    Axis,
    Component,
    Cond,
    Eq,
    Fold,
    Member,
    Scalar,
    apply,
    at_least_zero,
    both,
    choose,
    integer,
    is_zero,
    lit,
    load,
    loads,
    map_scalar,
    rename,
    rename_cond,
)
from moa.ops import OPERATORS
from moa.poly import var


@dataclass(frozen=True, slots=True)
class Prefix:
    """A domain as: the elements before the row (the row's own too unless `strict`) for which `rest` holds."""

    row: Axis
    axis: Axis
    strict: bool
    rest: Cond


@dataclass(frozen=True, slots=True)
class Carried:
    """A reduction or a Fold as a state along its row axis.

    components   the states, without the row axis; index variables are those of the reduction
    values       per member its outer axes, row included, and what it is worth over the states of that row
    conditions   why it may
    maps         what belongs to one step, made before the components
    reverse      the steps go from the last row to the first
    """

    name: str
    prefix: Prefix
    components: tuple[Component, ...]
    values: tuple[tuple[str, tuple[Axis, ...], Scalar], ...]
    conditions: tuple[tuple[str, str], ...]
    moved: bool
    maps: tuple[Eq, ...] = ()
    reverse: bool = False


def prefix(domain: Cond, row: Axis, axis: Axis) -> Prefix:
    """The domain of a reduction over `axis` as a prefix that grows with `row` by one known element.

    Errors: Stays, where it is something else
    """
    lags: set[int] = set()
    rest: list[Cond] = []
    for c in sorted(conjuncts(domain), key=str):
        if row[0] not in c.vars():
            rest.append(c)
            continue
        lag = (var(row[0]) - var(axis[0]) - c.args[0]).as_int() if c.op == "ge" else None
        if lag not in (0, 1):
            raise Stays(f"the domain {c} does not only grow with {row[0]} by one known element")
        assert lag is not None
        lags.add(lag)
    if not lags:
        raise Stays(f"the domain does not depend on {row[0]}")
    if row[1] != axis[1]:  # rows after the last element add nothing
        rest.append(at_least_zero(axis[1] - 1 - var(axis[0])))
    return Prefix(row, axis, 1 in lags, both(*rest))


# What ties a body to the row -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Weight:
    """exp(exponent) in a body.

    step, start   what the exponent grows by at the next row, and what it is where an element enters
    reads_rows    the step reads an array at the row and at the row before
    """

    op: str
    step: Form
    start: Form
    reads_rows: bool
    conditions: tuple[tuple[str, str], ...]


def weighed(s: Scalar, p: Prefix, falling: Set[str]) -> tuple[Scalar, Weight | None]:
    """A body as the part that is free of the row, at the element that enters, and the weight that ties it to the row.

    falling   names of arrays that are proved not to grow along their axis
    Errors: Stays, naming what depends on the row in another way
    """
    value, op, exponent = parted(s, p.row[0])
    value = rename(value, {p.axis[0]: var(p.row[0])})
    if exponent is None:
        return value, None
    weight = _weight(op, exponent, p, falling)
    start = lit(1) if not weight.start else apply(weight.op, rebuild(weight.start))
    return apply("mul", start, value), weight


def parted(s: Scalar, row: str) -> tuple[Scalar, str, Form | None]:
    """A body as what is free of the row, and the exponential of what is not: its operator and exponent.

    Errors: Stays, naming what depends on the row in another way
    """
    coefficient, parts = factors(s)
    left = [f for f in parts if row not in f[0].vars()]
    tied = [f for f in parts if row in f[0].vars()]
    for x, _ in tied:
        if x.op not in ("exp", "exp2"):
            raise Stays(f"{x} depends on {row}")
    ops = {x.op for x, _ in tied}
    if len(ops) > 1:
        raise Stays("exponentials of different bases")
    if not tied:
        return product(left, coefficient), "exp", None
    exponent = ZERO
    for x, k in tied:
        for _ in range(abs(k)):
            exponent = exponent + expand(x.args[0]) if k > 0 else exponent - expand(x.args[0])
    return product(left, coefficient), ops.pop(), exponent


def _weight(op: str, exponent: Form, p: Prefix, falling: Set[str]) -> Weight:
    row, axis = p.row[0], p.axis[0]
    step = start = ZERO
    conditions: list[tuple[str, str]] = []
    reads_rows = False
    rows = {k: c for k, c in exponent.terms.items() if any(row in a.vars() for a, _ in k.atoms)}
    used: set[Key] = set()
    for key, c in rows.items():
        others = tuple(a for a in key.atoms if row not in a[0].vars())
        (x, power), *more = [a for a in key.atoms if row in a[0].vars()]
        rate = Form({Key(others, key.exponent): c})
        if more or power != 1 or key.exponent is not None or any(axis in a.vars() for a, _ in others):
            raise Stays(f"the exponent {form_text(exponent)} is not a difference along {row}")
        if x.op == "int":
            q = x.args[0]
            grows = (q.rename({row: var(row) + 1}) - q).as_int()
            if grows is None or q.coefficient(axis) != -grows:
                raise Stays(f"the exponent {x} is not a difference of {row} and {axis}")
            at = {axis: var(row), row: var(row) + (1 if p.strict else 0)}
            step = step + rate * expand(lit(grows))
            start = start + rate * expand(integer(q.rename(at)))
            conditions.append((f"{x} grows by {grows} from row to row", "structure"))
            continue
        partner = _at_row(key, axis, row)
        match = next(
            (k for k, d in exponent.terms.items() if d == -c and k not in rows and _at_row(k, axis, row) == partner),
            None,
        )
        if match is None:
            raise Stays(f"the exponent {form_text(exponent)} is not a difference along {row}")
        used.add(match)
        positive = c > 0 and not others
        if not (positive and x.op == "load" and x.args[0] in falling):
            raise Stays(f"{form_text(rate)} * ({x} - its value at {axis}) is not proved to be at most 0")
        if p.strict:
            raise Stays(f"{x} of the row after is needed")
        reads_rows = True
        step = step + rate * (expand(x) - expand(rename(x, {row: var(row) - 1})))
        conditions.append((f"{x} does not grow with {row}", "a sum of terms that are at most 0"))
    for key, c in exponent.terms.items():
        if key not in rows and key not in used:
            start = start + expand(rename(rebuild(Form({key: c})), {axis: var(row)}))
    return Weight(op, step, start, reads_rows, tuple(conditions))


def _at_row(k: Key, axis: str, row: str) -> Key:
    return Key(tuple((rename(a, {axis: var(row)}), n) for a, n in k.atoms), k.exponent)


# The state -----------------------------------------------------------------------------------------------------------


@LAWS.law(
    "carry",
    "sum_{j <= i+1} b_j w(i+1,j) = C sum_{j <= i} b_j w(i,j) + b_{i+1} w(i+1,i+1), C = w(i+1,j) / w(i,j) free of j",
    contract="rescales",
    source="change of reference, the row index being the reference; the domain only grows",
)
def carry(e: Eq | Fold, falling: Set[str], fresh: Callable[[str], str]) -> Carried:
    """A reduction or a Fold over a prefix domain as a state along the row axis.

    falling   names of arrays that are proved not to grow along their axis
    Errors: Stays, with the reason, where the law does not apply
    """
    members: tuple[Member, ...] = (plain_member(e),) if isinstance(e, Eq) else e.members
    axis = e.red if isinstance(e, Eq) else e.axis
    assert axis is not None
    row = row_of(members[0], axis)
    members = tuple(_along(m, row_of(m, axis), row) for m in members)
    if len({prefix(m.domain, row, axis).strict for m in members}) != 1:
        raise Stays("its members have different domains")
    components: list[Component] = []
    values: list[tuple[str, tuple[Axis, ...], Scalar]] = []
    conditions: list[tuple[str, str]] = []
    states: dict[str, str] = {}  # state of a member -> component
    news: dict[str, tuple[tuple[str, ...], Scalar]] = {}  # component -> its axes and value after the step
    moved = False
    for m in members:
        names = [m.name if k == 0 else fresh(m.name) for k in range(m.width)]
        states |= {m.state(k): name for k, name in enumerate(names)}
        p = prefix(m.domain, row, axis)
        made, because = _components(m, p, names, states, news, falling)
        for c in made:
            news[c.state] = tuple(v for v, _ in c.outer), c.body
        components += made
        conditions += because
        moved = moved or bool(m.move) or bool(because)
        values.append((m.name, m.outer, _finish(m, row[0], states, values)))
    p = prefix(members[0].domain, row, axis)
    grows = f"{axis[0]} {'<' if p.strict else '<='} {row[0]} only grows with {row[0]}"
    why = ((grows, "structure"), *dict.fromkeys(conditions))
    return Carried(e.name, p, tuple(components), tuple(values), why, moved)


def row_of(m: Member, axis: Axis) -> Axis:
    """The outer axis along which the domain of a member grows; conditions on other axes are the element's own."""
    tied = {v for c in conjuncts(m.domain) if axis[0] in c.vars() for v in c.vars()}
    rows: list[Axis] = []
    reasons: list[Stays] = []
    for a in m.outer:
        if a[0] in tied:
            try:
                prefix(m.domain, a, axis)
                rows.append(a)
            except Stays as reason:
                reasons.append(reason)
    if len(rows) == 1:
        return rows[0]
    if rows or not reasons:
        raise Stays(f"no domain ties {axis[0]} to {'one row' if rows else 'a row'}")
    raise reasons[-1]


def _along(m: Member, old: Axis, row: Axis) -> Member:
    """A member with the row axis under another name."""
    if old[0] == row[0]:
        return m
    if m.refs or row[0] in {v for v, _ in m.outer} or old[1] != row[1]:
        raise Stays("its members have different rows")
    at = {old[0]: var(row[0])}
    return replace(
        m,
        outer=tuple(row if a == old else a for a in m.outer),
        domain=rename_cond(m.domain, at),
        pieces=tuple((rename_cond(c, at), tuple(rename(b, at) for b in basis)) for c, basis in m.pieces),
        finish=rename(m.finish, at),
    )


def _components(
    m: Member,
    p: Prefix,
    names: list[str],
    states: Mapping[str, str],
    news: Mapping[str, tuple[tuple[str, ...], Scalar]],
    falling: Set[str],
) -> tuple[list[Component], list[tuple[str, str]]]:
    row = p.row[0]
    outer = tuple(a for a in m.outer if a[0] != row)
    index = tuple(var(v) for v, _ in outer)
    for x in (x for r in m.refs for x in loads(r)):
        if x[0] not in states and any(row in q.vars() for q in x[1]):
            raise Stays(f"its reference reads {x[0]} row by row")
    old = [_over_states(r, row, states, {}) for r in m.refs]
    new = [_over_states(r, row, states, news) for r in m.refs]

    def refs(s: Scalar) -> Scalar:
        def node(x: Scalar) -> Scalar | None:
            return (old if x.args[1] == "old" else new)[x.args[0]] if x.op == "ref" else None

        return map_scalar(s, node)

    weights: set[Weight | None] = set()
    enters = [identity_of(m.op)] * m.width
    for c, basis in reversed(m.pieces):
        if row in c.vars():
            raise Stays(f"the piece {c} depends on {row}")
        for k, b in enumerate(basis):
            value, weight = weighed(b, p, falling)
            weights.add(weight)
            enters[k] = choose(rename_cond(c, {p.axis[0]: var(row)}), refs(value), enters[k])
    if len({w and (w.op, w.step) for w in weights}) != 1:
        raise Stays("its pieces move differently")
    weight = next(iter(weights))
    if weight is not None and m.op not in OPERATORS["mul"].distributes:
        raise Stays(f"a weight inside {m.op}")
    out = []
    at = {p.axis[0]: var(row)}
    for k, name in enumerate(names):
        before = [load(f"{n}#0", index) for n in names]
        entries = [refs(x) for x in m.move[k]] if m.move else [lit(int(n == name)) for n in names]
        terms = [apply("mul", x, s) for x, s in zip(entries, before, strict=True) if x is not lit(0)]
        moved = terms[0]
        for t in terms[1:]:
            moved = apply("add", moved, t)
        if weight is not None and weight.step:
            moved = apply("mul", apply(weight.op, rebuild(weight.step)), moved)
        body = apply(m.op, moved, choose(rename_cond(p.rest, at), enters[k], identity_of(m.op)))
        if weight is not None and weight.reads_rows:
            body = choose(is_zero(var(row)), choose(rename_cond(p.rest, at), enters[k], identity_of(m.op)), body)
        out.append(Component(name, outer, identity_of(m.op), body))
    conditions = [x for w in weights if w is not None for x in w.conditions]
    return out, conditions


def _over_states(
    s: Scalar, row: str, states: Mapping[str, str], news: Mapping[str, tuple[tuple[str, ...], Scalar]]
) -> Scalar:
    """A scalar over states at a row as one over the components: those before the step, or what `news` says of them."""

    def node(x: Scalar) -> Scalar | None:
        if x.op != "load" or x.args[0] not in states:
            return None
        state = f"{states[x.args[0]]}#0"
        index = tuple(q for q in x.args[1] if q.as_var() != row)
        if len(index) != len(x.args[1]) - 1:
            raise Stays(f"{x} is read at another row")
        if state not in news:
            return load(state, index)
        outer, value = news[state]
        return rename(value, dict(zip(outer, index, strict=True)))

    return map_scalar(s, node)


def _finish(
    m: Member, row: str, states: Mapping[str, str], values: Sequence[tuple[str, tuple[Axis, ...], Scalar]]
) -> Scalar:
    """The value of a member over the components; values of members before it are put in."""
    known = {name: (outer, value) for name, outer, value in values}

    def node(x: Scalar) -> Scalar | None:
        if x.op != "load" or x.args[0] not in known:
            return None
        outer, value = known[x.args[0]]
        return rename(value, {v: q for (v, _), q in zip(outer, x.args[1], strict=True)})

    return map_scalar(_over_states(m.finish, row, states, {}), node)


def in_variables(c: Carried, names: Mapping[str, str]) -> Carried:
    """The same state over other index variables."""
    at = {v: var(w) for v, w in names.items()}

    def axes(outer: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple((names[v], e) for v, e in outer)

    p, row = c.prefix, {c.prefix.row[0]: var(names[c.prefix.row[0]])}
    return replace(
        c,
        maps=tuple(
            replace(
                e,
                domain=rename_cond(e.domain, row),
                pieces=tuple((rename_cond(k, row), rename(s, row)) for k, s in e.pieces),
            )
            for e in c.maps
        ),
        prefix=replace(p, row=(names[p.row[0]], p.row[1])),
        components=tuple(
            replace(x, outer=axes(x.outer), start=rename(x.start, at), body=rename(x.body, at)) for x in c.components
        ),
        values=tuple((n, axes(outer), rename(s, at)) for n, outer, s in c.values),
    )
