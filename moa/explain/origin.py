"""Names that the text itself gives: which expression of the normal form is which variable of the program.

A value of the Program has the span of the expression it came from. Where that expression is the right side of an
assignment, an argument of a function or what a function returns, the text has a name for it. A value is recognised in
the normal form by its canonical form alone: both are inlined down to inputs and reductions, variables by position.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from moa import ir
from moa.check import prelude
from moa.laws.split import assume
from moa.naming import template
from moa.normal import Eq, Normal, Scalar, is_structural, load, map_cond, map_scalar, negate, rename, subterms
from moa.poly import Poly, var
from moa.psi import normalise
from moa.rewrite import Trace
from moa.text import Span

Forms = dict[str, tuple[tuple[str, ...], Scalar]]  # equation -> its outer variables and its value, inlined


def given_names(source: ir.Source, program: ir.Program) -> dict[Scalar, str]:
    """For the canonical form of a float value, the name that the text has for it; the first use of a form names it."""
    places = _names_of_spans(source)
    out: dict[Scalar, str] = {}
    weak: dict[Scalar, str] = {}
    for priority in range(3):
        for v in program.values:
            name = places[priority].get(_place(v.span))
            if name is None or v.kind != "f":
                continue
            normal = normalise(replace(program, outputs=(v.number,)), Trace())
            form = canonical(forms(normal)[normal.outputs[0]][1])
            out.setdefault(form, name)
            for branch in _allowed(form):
                weak.setdefault(branch, name)
    return weak | out


def forms(normal: Normal) -> Forms:
    """The value of every equation with Maps inlined and each reduction loaded under its canonical text as a name."""
    out: Forms = {}
    for e in normal.equations:
        if not isinstance(e, Eq):
            continue
        pieces = tuple((map_cond(c, _same, lambda s: _inlined(s, out)), _inlined(s, out)) for c, s in e.pieces)
        outer = tuple(v for v, _ in e.outer)
        if e.kind == "map":
            out[e.name] = (outer, pieces[0][1])
        else:
            out[e.name] = (outer, load(_key(replace(e, pieces=pieces)), e.index()))
    return out


def canonical(s: Scalar) -> Scalar:
    """The scalar with its variables numbered by their place in it: equal for equal expressions."""
    return template(s)[0]


def _same(p: Poly) -> Poly:
    return p


def _inlined(s: Scalar, known: Forms) -> Scalar:
    def node(x: Scalar) -> Scalar | None:
        if x.op != "load" or x.args[0] not in known:
            return None
        outer, value = known[x.args[0]]
        return rename(value, dict(zip(outer, x.args[1], strict=True)))

    return map_scalar(s, node)


def _key(e: Eq) -> str:
    """The text of a reduction, its variables by position: what makes it the one it is."""
    assert e.red is not None
    new = {v: var(f"#{k}") for k, (v, _) in enumerate((*e.outer, e.red))}

    def poly(p: Poly) -> Poly:
        return p.rename(new)

    parts = [f"{map_cond(c, poly, lambda s: rename(s, new))}: {rename(s, new)}" for c, s in e.pieces]
    domain = map_cond(e.domain, poly, lambda s: rename(s, new))
    return f"<{e.op} {e.red[1]} {domain} {'; '.join(parts)}>"


def _allowed(form: Scalar) -> Iterator[Scalar]:
    """The value where a structural choice in it is decided: what a masked array is where it is not masked."""
    conditions = dict.fromkeys(x.args[0] for x in subterms(form) if x.op == "select" and is_structural(x.args[0]))
    for c in conditions:
        for decided in (assume(form, c), assume(form, negate(c))):
            if decided.op != "lit":
                yield canonical(decided)


# The syntax tree -----------------------------------------------------------------------------------------------------

Place = tuple[str, int, int]


def _place(s: Span) -> Place:
    return s.file, s.start, s.end


def _names_of_spans(source: ir.Source) -> tuple[dict[Place, str], dict[Place, str], dict[Place, str]]:
    """Names for expressions by their place: of assignments, of arguments, of functions for what they return."""
    own = {f.name.name: f for f in source.functions}
    functions = prelude() | own
    assigned: dict[Place, str] = {}
    arguments: dict[Place, str] = {}
    returned: dict[Place, str] = {}
    for f in functions.values():
        for statement in f.body:
            match statement:
                case ir.Assign():
                    for name, value in _pairs(statement):
                        assigned.setdefault(_place(value.span), name)
                case ir.Return(values=(value,)) if f is not source.functions[-1]:
                    returned.setdefault(_place(value.span), f.name.name)
            for call in _calls(statement):
                called = functions.get(call.function.name)
                if called is not None:
                    for p, x in _arguments(called, call):
                        arguments.setdefault(_place(x.span), p)
    return assigned, arguments, returned


def _pairs(a: ir.Assign) -> Iterator[tuple[str, ir.Expr]]:
    values: Iterable[ir.Expr] = (a.value,)
    if a.unpack:
        values = a.value.items if isinstance(a.value, ir.Sequence) else ()
    for target, value in zip(a.targets, values, strict=False):
        if isinstance(target, ir.Name):
            yield target.name, value


def _arguments(f: ir.Function, call: ir.Call) -> Iterator[tuple[str, ir.Expr]]:
    for p, x in zip(f.parameters, call.args, strict=False):
        yield p.name.name, x
    known = {p.name.name for p in f.parameters}
    for name, x in call.keywords:
        if name.name in known:
            yield name.name, x


def _calls(node: Any) -> Iterator[ir.Call]:
    """The calls in a syntax tree."""
    todo = [node]
    while todo:
        x = todo.pop()
        if isinstance(x, tuple):
            todo += x
        elif is_dataclass(x) and not isinstance(x, Span):
            if isinstance(x, ir.Call):
                yield x
            todo += [getattr(x, f.name) for f in fields(x)]
