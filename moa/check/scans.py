"""scan and fold along an axis with a user's function, and the running sums written with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from moa import ir
from moa.check.build import Builder, FunctionTerm, Term, fail, shape_text
from moa.check.functions import Arguments, Caller, builtin, one_value
from moa.ir import Shape
from moa.ops import OPERATORS, Kind
from moa.text import Span

_WHICH = "identity= declares an associative operator, init= a step function"
Cell = tuple[Shape, Kind]


@builtin("scan", "f x axis? identity? init? exclusive? reverse?")
def _scan(a: Arguments) -> Term:
    return _along(a, keep=True)


@builtin("fold", "f x axis? identity? init? reverse?")
def _fold(a: Arguments) -> Term:
    return _along(a, keep=False)


def _along(a: Arguments, keep: bool) -> Term:
    """The states of a scan, or the last one of a fold: one value, or a tuple for a tuple of states."""
    b, f = a.b, a.terms["f"]
    if not isinstance(f, FunctionTerm):
        fail("type", f"{a.what('f')} must be a function", a.place("f"), "define it with def and give its name")
    term = a.terms["x"]
    many = isinstance(term, tuple)
    given = term if isinstance(term, tuple) else (term,)
    if not given:
        fail("type", f"{a.what('x')} is an empty tuple", a.place("x"), "give the arrays to go along")
    xs = [one_value(t, a.place("x"), a.what("x")) for t in given]
    axes = [a.axis(x, 0) for x in xs]
    for x, axis in zip(xs, axes, strict=True):
        extent, first = b.shape(x)[axis], b.shape(xs[0])[axes[0]]
        if extent != first:
            message = f"{a.function} goes along axes of extents {first} and {extent}"
            fail("shape", message, a.place("x"), "all arrays must have the same extent there")
    # every operand is walked along one and the same axis number
    axis = axes[0]
    xs = [_moved(b, x, k, axis, a.span) for x, k in zip(xs, axes, strict=True)]
    if ("identity" in a.terms) == ("init" in a.terms):
        fail("type", f"{a.function} takes either identity or init", a.span, _WHICH)
    if "init" in a.terms:
        return _step(a, f, xs, many, axis, keep)
    return _associative(a, f, xs, many, axis, keep)


def _moved(b: Builder, x: int, axis: int, to: int, span: Span) -> int:
    """x with that axis at another place."""
    if axis == to:
        return x
    order = [k for k in range(b.rank(x)) if k != axis]
    if to > len(order):
        fail("shape", f"an array of {b.rank(x)} axes has no axis {to} to go along", span, "axis=0 goes along the first")
    order.insert(to, axis)
    return b.transpose(x, tuple(order), span)


def _cells(b: Builder, xs: Sequence[int], axis: int) -> list[Cell]:
    return [(b.shape(x)[:axis] + b.shape(x)[axis + 1 :], b.kind(x)) for x in xs]


def _associative(a: Arguments, f: FunctionTerm, xs: list[int], many: bool, axis: int, keep: bool) -> Term:
    b = a.b
    cells = _cells(b, xs, axis)
    body = _body(a.caller, f, [(cells, many), (cells, many)], a.span)
    found = _results(body)
    if [k for _, k in found] != [k for _, k in cells] and len(found) == len(cells):
        # the operator turns conditions into integers, or integers into floats: then its operands are such
        xs = [b.cast(x, k, a.span) for x, (_, k) in zip(xs, found, strict=True)]
        cells = _cells(b, xs, axis)
        body = _body(a.caller, f, [(cells, many), (cells, many)], a.span)
        found = _results(body)
    _same(found, cells, f, a.span, "the operand")
    term = a.terms["identity"]
    terms = term if isinstance(term, tuple) else (term,)
    if len(terms) != len(cells):
        fail("type", f"{len(terms)} identities for {len(cells)} components", a.place("identity"), "one for each")
    start: list[int] = []
    for t, (_, kind) in zip(terms, cells, strict=True):
        x = one_value(t, a.place("identity"), a.what("identity"))
        if b.constant(x) is None:
            fail("type", f"{a.what('identity')} must be made of literals", a.place("identity"))
        if kind == "i" and b.kind(x) == "f":
            fail("type", f"{a.what('identity')} is a float, the operand an int", a.place("identity"))
        start.append(b.cast(x, kind, a.span))
    return _value(a, ir.Scan(body, axis, False, keep, a.flag("exclusive"), a.flag("reverse"), tuple(start)), xs, many)


def _step(a: Arguments, f: FunctionTerm, xs: list[int], many: bool, axis: int, keep: bool) -> Term:
    b = a.b
    term = a.terms["init"]
    states = isinstance(term, tuple)
    terms = term if isinstance(term, tuple) else (term,)
    start = [one_value(t, a.place("init"), a.what("init")) for t in terms]
    if not start:
        fail("type", f"{a.what('init')} is an empty tuple", a.place("init"), "give the state to begin with")
    cells = _cells(b, xs, axis)
    found: list[Cell] = []
    state: list[Cell] = []
    for _ in range(2):
        state = [(b.shape(s), b.kind(s)) for s in start]
        body = _body(a.caller, f, [(state, states), (cells, many)], a.span)
        found = _results(body)
        if found == state or len(found) != len(state):
            break
        # a scalar initial state takes the shape of the states, one of a narrower kind theirs
        start = [
            b.cast(b.fill(s, shape, a.span) if not b.shape(s) else s, max(kind, b.kind(s), key="bif".index), a.span)
            for s, (shape, kind) in zip(start, found, strict=True)
        ]
    _same(found, state, f, a.span, "the state")
    scan = ir.Scan(body, axis, True, keep, a.flag("exclusive"), a.flag("reverse"), tuple(start))
    return _value(a, scan, xs, states)


def _body(caller: Caller, f: FunctionTerm, arguments: list[tuple[list[Cell], bool]], span: Span) -> ir.Program:
    """The Program of a function on cells; its inputs are the components of its two arguments in order."""
    b = Builder(caller.b.budget)
    names = [p.name.name for p in f.function.parameters] if f.function is not None else ["p", "q"]
    args: list[Term] = []
    for name, (cells, many) in zip([*names, "p", "q"][:2], arguments, strict=True):
        numbers = tuple(
            b.add("input", (), (_component(b, name, k, many, shape, kind, span),), shape, kind, span)
            for k, (shape, kind) in enumerate(cells)
        )
        args.append(numbers if many else numbers[0])
    out = caller.inside(b).call(f, args, span)
    outputs = out if isinstance(out, tuple) else (out,)
    found = tuple(one_value(t, span, f"a result of {f.name}") for t in outputs)
    for o in b.obligations.values():
        caller.b.require(o.relation, o.left, o.right, o.span, o.reason)
    b.obligations.clear()
    return b.finish(f.name, found, f.function.span if f.function is not None else span)


def _component(b: Builder, name: str, k: int, many: bool, shape: Shape, kind: Kind, span: Span) -> str:
    """Enters one input of a body; its name."""
    full = f"{name}{k}" if many else name
    while any(p.name == full for p in b.inputs):
        full += "_"
    b.inputs.append(ir.Input(full, kind, shape, span))
    return full


def _results(body: ir.Program) -> list[Cell]:
    return [(body.values[o].shape, body.values[o].kind) for o in body.outputs]


def _same(found: list[Cell], expected: list[Cell], f: FunctionTerm, span: Span, what: str) -> None:
    """Raises unless a body gives back cells of the kinds and shapes that it takes."""
    if len(found) != len(expected):
        message = f"{f.name} gives {len(found)} results, {what} has {len(expected)} components"
        fail("type", message, span, "it must give back as many as it takes")
    for k, ((s, i), (t, j)) in enumerate(zip(found, expected, strict=True)):
        if s != t:
            message = f"{f.name} gives shape {shape_text(s)} for component {k}, {what} has {shape_text(t)}"
            fail("shape", message, span, "it must give back the shapes that it takes")
        if i != j:
            names = {"f": "float", "i": "int", "b": "bool"}
            message = f"{f.name} gives {names[i]} for component {k}, {what} has {names[j]}"
            fail("type", message, span, "it must give back the kinds that it takes")


def _value(a: Arguments, scan: ir.Scan, xs: list[int], many: bool) -> Term:
    """The value of a scan, as a tuple of its parts where it has several."""
    b = a.b
    extent = b.shape(xs[0])[scan.axis]
    shapes = []
    for shape, kind in _results(scan.body):
        if scan.keep and len(shape) < scan.axis:
            fail("shape", f"a state of shape {shape_text(shape)} has no axis {scan.axis}", a.span, "go along axis 0")
        shapes.append((((*shape[: scan.axis], extent, *shape[scan.axis :]) if scan.keep else shape), kind))
    number = b.add("scan", xs, (scan,), *shapes[0], a.span)
    if len(shapes) == 1:
        return (number,) if many else number
    return tuple(b.add("part", (number,), (k,), s, kind, a.span) for k, (s, kind) in enumerate(shapes))


# Running reductions ------------------------------------------------------------------------------------------------


def _running(name: str, operator: str) -> None:
    @builtin(name, "x axis?")
    def apply(a: Arguments) -> Term:
        x = a.array("x")
        return running(a.b, operator, x, a.axis(x, -1), a.span)


_running("cumsum", "add")
_running("cummax", "max")


def running(b: Builder, operator: str, x: int, axis: int, span: Span) -> int:
    """The reductions of x[:1], x[:2], ... along an axis by an associative operator of the table."""
    x = b.number_kind(x, span) if operator not in ("and", "or") else x
    kind = b.kind(x)
    shape = b.shape(x)[:axis] + b.shape(x)[axis + 1 :]
    body = Builder(b.budget)
    p, q = (body.add("input", (), (name,), shape, kind, span) for name in ("p", "q"))
    body.inputs += [ir.Input(name, kind, shape, span) for name in ("p", "q")]
    program = body.finish(operator, (body.apply(operator, (p, q), span),), span)
    e = OPERATORS[operator].identity
    assert e is not None
    value: Fraction | float | bool
    if isinstance(e, bool):
        value = e
    elif math.isinf(e):
        value = e if kind == "f" else Fraction(-(2**63) if e < 0 else 2**63 - 1)
    else:
        value = Fraction(int(e))
    start = (b.literal(value, kind, span),)
    scan = ir.Scan(program, axis, False, True, False, False, start)
    return b.add("scan", (x,), (scan,), b.shape(x), kind, span)
