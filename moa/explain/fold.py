"""A Fold on the page: one traversal as states, how they move to a new reference, what is added, what they end as."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce

from moa.explain.names import Names, Scope
from moa.explain.text import INDENT, WIDTH, element, equation, wrapped
from moa.normal import TRUE, Eq, Fold, Index, Member, Recurrence, Scalar, apply, lit, load, loads
from moa.ops import OPERATORS
from moa.poly import var


def folds(names: Names) -> list[str]:
    """Each traversal that computes several reductions: their states, how they move, what is added, what they end as."""
    lines: list[str] = []
    for e in names.derivation.streamed.equations:
        if isinstance(e, Fold):
            lines += [] if lines else _new(names)
            lines += _fold(names, e)
        elif e.kind == "map" and e.name in names.derivation.streamed.outputs and lines:
            lines += wrapped(f"then {equation(names, ('streamed', e.name), e)}", 4, WIDTH - INDENT)
    return lines


def recurrences(names: Names) -> list[str]:
    """Each scan that stays one step after the other: what a state starts as and how a step makes the next one."""
    lines: list[str] = []
    if not any(isinstance(e, Fold) for e in names.derivation.streamed.equations):
        lines += _new(names) if names.derivation.streamed.recurrences else []
    for r in names.derivation.streamed.recurrences:
        lines += _recurrence(names, r)
    return lines


def _recurrence(names: Names, r: Recurrence) -> list[str]:
    scope: Scope = ("streamed", r.components[0].name)
    axis = names.letter(scope, r.axis[0])
    order = " backwards" if r.reverse else ""
    first = f"for {axis} < {names.poly(scope, r.axis[1])}{order}, one step after the other; {_kept(r)}"
    lines = wrapped(first, 2, WIDTH - INDENT)
    before = _needed(r.maps, [c.body for c in r.components])
    lines += _steps(names, before)
    rows: list[tuple[str, ...]] = [("state", "starts as", "next")]
    for c in r.components:
        here: Scope = ("streamed", c.name)
        state = element(names, here, c.state, c.outer)
        rows.append((state, str(names.scalar(here, c.start)), str(names.scalar(here, c.body))))
    lines += _table(rows)
    if r.readers:
        lines.append(f"with the states {'before' if r.exclusive else 'after'} each step")
        lines += _steps(names, (*_needed(r.maps, [x.body for x in r.readers]), *r.readers))
    return lines


def _kept(r: Recurrence) -> str:
    if r.keep:
        return f"{'the state before it' if r.exclusive else 'every state'} is kept"
    last = " and the last one is kept" if r.last else ""
    return f"only the present state is held{last}" if r.readers else "the last state is kept"


def _needed(maps: Iterable[Eq], bodies: Iterable[Scalar]) -> tuple[Eq, ...]:
    """The maps of a step that some bodies read, or that those maps read."""
    by_name = {x.name: x for x in maps}
    found: set[str] = set()
    todo = list(bodies)
    while todo:
        new = {name for name, _ in loads(todo.pop()) if name in by_name} - found
        found |= new
        todo += [by_name[name].body for name in new]
    return tuple(x for x in by_name.values() if x.name in found)


def _steps(names: Names, equations: Iterable[Eq]) -> list[str]:
    return [line for x in equations for line in wrapped(f"  {_step(names, x)}", 6, WIDTH - INDENT)]


def _new(names: Names) -> list[str]:
    """Equations beside the traversals that the normal form does not have."""
    known = {shown for (system, _), shown in names.arrays.items() if system == "equations"}
    lines: list[str] = []
    for e in names.derivation.streamed.equations:
        if isinstance(e, Eq) and names.array("streamed", e.name) not in known:
            lines += wrapped(equation(names, ("streamed", e.name), e), 4, WIDTH - INDENT)
    return lines


def _step(names: Names, x: Eq) -> str:
    return equation(names, ("streamed", x.name), x)


def _fold(names: Names, f: Fold) -> list[str]:
    scope: Scope = ("streamed", f.members[0].name)
    axis = names.letter(scope, f.axis[0])
    domain = "" if f.domain is TRUE else f" with {names.cond(scope, f.domain)}"
    each = ", ".join(names.letter(scope, v) for v, _ in f.shared)
    one = f"one pass over {axis} < {names.poly(scope, f.axis[1])}{domain}" + (f", for each {each}" if each else "")
    lines = [one]
    refs = f.references()
    running: dict[Scalar, str] = {}
    for r, name in refs.items():
        shown = names.array("streamed", name)
        running[r] = shown
        user = next(m for m in f.members if r in m.refs)
        lines.append(f"{shown} = {names.scalar(('streamed', user.name), r)}; {shown}' is {shown} after this {axis}")
    for x in f.maps:
        here: Scope = ("streamed", x.name)
        primed = {
            load(n, (names.poly(here, p) for p in i)): load(names.array("streamed", n) + "'", ())
            for n, i in _loads_of(x, refs.values())
        }
        text = f"{element(names, here, x.name, x.outer)} = {names.scalar(here, x.body, primed)}"
        lines += wrapped(text, 4, WIDTH - INDENT)
    rows: list[tuple[str, ...]] = [("state", "starts as", "move", "add", "finish")]
    for m in f.members:
        rows += _member(names, m, running)
    lines += _table(rows)
    if refs:
        starts = ", ".join(_start(m) for m in f.members for _ in range(m.width))
        text = f"merge: states of two parts of {axis}, moved to one {' and '.join(running.values())}, add up; "
        lines += wrapped(f"{text}that of an empty part is ({starts}): {axis} may be cut anywhere", 2, WIDTH - INDENT)
    return lines


def _loads_of(x: Eq, wanted: Iterable[str]) -> Iterator[tuple[str, Index]]:
    names = set(wanted)
    for name, index in loads(x.body):
        if name in names:
            yield name, index


def _start(m: Member) -> str:
    value = OPERATORS[m.op].identity
    return "-" if value is None else f"{float(value):g}"


def _member(names: Names, m: Member, running: dict[Scalar, str]) -> list[tuple[str, ...]]:
    scope: Scope = ("streamed", m.name)
    own = {}
    for k, r in enumerate(m.refs):
        own[Scalar("ref", (k, "old"))] = load(running[r], ())
        own[Scalar("ref", (k, "new"))] = load(running[r] + "'", ())
    for name, index in dict.fromkeys(y for _, b in m.pieces for s in b for y in loads(s)):
        if names.array("streamed", name) in running.values():
            own[load(name, (names.poly(scope, p) for p in index))] = load(names.array("streamed", name) + "'", ())
    sign = {"add": "+", "mul": "*"}.get(m.op, m.op)
    rows: list[tuple[str, ...]] = []
    for k in range(m.width):
        state = element(names, scope, m.state(k), m.outer)
        add = "; ".join(
            f"{names.scalar(scope, b[k], own)}" + ("" if c is TRUE else f" where {names.cond(scope, c)}")
            for c, b in m.pieces
        )
        move = ""
        if m.move:
            row = [names.scalar(scope, s, own) for s in m.move[k]]
            states = [load(names.array("streamed", m.state(j)), _index(names, scope, m)) for j in range(m.width)]
            terms = [apply("mul", c, s) for c, s in zip(row, states, strict=True) if c is not lit(0)]
            if terms != [states[k]]:
                move = f"* {row[k]}" if len(terms) == 1 else f"becomes {reduce(_plus, terms)}"
        finish = names.scalar(scope, m.finish) if k == 0 else ""
        shown_finish = "" if str(finish) == state else str(finish)
        rows.append((state, _start(m), move, f"{sign} {add}", shown_finish))
    return rows


def _index(names: Names, scope: Scope, m: Member) -> Index:
    return tuple(var(names.letter(scope, v)) for v, _ in m.outer)


def _plus(a: Scalar, b: Scalar) -> Scalar:
    return apply("add", a, b)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns side by side, empty ones left out; under each other where they would not fit."""
    used = [k for k in range(len(rows[0])) if any(r[k] for r in rows[1:])]
    widths = [max(len(r[k]) for r in rows) for k in used]
    if sum(widths) + 3 * len(used) <= WIDTH:
        return ["  " + "   ".join(f"{r[k]:<{w}}" for k, w in zip(used, widths, strict=True)).rstrip() for r in rows]
    lines = []
    for r in rows[1:]:
        lines.append(f"  {r[0]}")
        lines += [x for k in used[1:] if r[k] for x in wrapped(f"    {rows[0][k]:<10} {r[k]}", 15, WIDTH - INDENT)]
    return lines
