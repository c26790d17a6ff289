"""Syntax tree to typed Program: names, kinds, symbolic shapes; functions are inlined."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

from moa import ir, poly
from moa.check.build import Builder, FunctionTerm, Term, fail
from moa.check.functions import one_value
from moa.check.walk import Checker, Scope
from moa.parse import parse
from moa.poly import Poly
from moa.text import MoaError

__all__ = ["check"]


def check(source: ir.Source, ranks: int = 0) -> ir.Program:
    """The typed Program of the last function of a source; `...` stands for `ranks` axes.

    Those axes have the sizes batch0, batch1, ...
    Errors: MoaError of kinds name, type, shape and limit, at the place of the mistake
    """
    kernel = source.functions[-1]
    functions = {f.name.name: f for f in source.functions}
    checker = Checker(Builder(), functions, prelude(), {}, [FunctionTerm(kernel.name.name, kernel, False)])
    try:
        scope = _parameters(checker, kernel, ranks)
        outputs = _flat(checker.run(kernel, scope), kernel)
        return checker.b.finish(kernel.name.name, outputs, kernel.span)
    except RecursionError:
        message = "the program is nested too deep"
        raise MoaError("limit", message, kernel.span, "name parts of it on lines of their own") from None


@lru_cache(maxsize=1)
def prelude() -> dict[str, ir.Function]:
    """The functions of the prelude by name."""
    text = resources.files("moa.grammar").joinpath("prelude.moa").read_text(encoding="utf-8")
    return {f.name.name: f for f in parse(text, "prelude.moa").functions}


def _flat(term: Term, kernel: ir.Function) -> tuple[int, ...]:
    """The outputs of the kernel: the values of a tuple, in order."""
    span = kernel.body[-1].span
    if isinstance(term, tuple) and term:
        return tuple(x for t in term for x in _flat(t, kernel))
    if isinstance(term, tuple):
        fail("type", "the kernel returns nothing", span, "return an array, or several joined by commas")
    return (one_value(term, span, "what the kernel returns"),)


def _parameters(checker: Checker, kernel: ir.Function, ranks: int) -> Scope:
    """The scope of the kernel: its inputs, and each size that stands alone in a shape."""
    b = checker.b
    sizes: dict[str, Poly] = {}
    integers = {p.name.name for p in kernel.parameters if p.kind == "i" and p.dims is None}
    names = {p.name.name for p in kernel.parameters} - integers
    lead = tuple(poly.size(f"batch{k}") for k in range(ranks))
    for p in kernel.parameters:
        for d in p.dims or ():
            if not isinstance(d, ir.Name) or d.name == "...":
                continue
            if d.name in names:
                message = f"{d.name} is both a parameter and a size"
                fail("name", message, d.span, "give one of them another name")
            if poly.size(d.name) in lead:
                fail("name", f"{d.name} is the size of a leading axis of `...`", d.span, "use another name")
            sizes[d.name] = poly.atom("int", d.name) if d.name in integers else poly.size(d.name)
    scope = Scope({}, sizes)
    checker.kernel_sizes |= sizes
    dims = Scope({}, sizes | {name: poly.atom("int", name) for name in integers})
    for p in kernel.parameters:
        if not p.kind:
            name = p.name.name
            hint = f"write {name}[n, d] for an array, {name}: float for a scalar"
            fail("type", f"parameter {name} of the kernel {kernel.name.name} has no shape", p.span, hint)
        shape: list[Poly] = []
        for d in p.dims or ():
            rest = isinstance(d, ir.Name) and d.name == "..."
            extents = lead if rest else (_extent(checker, d, dims),)
            shape += extents
        scope.names[p.name.name] = b.input(p.name.name, p.kind, tuple(shape), p.span, _default(checker, p))
    return scope


def _extent(checker: Checker, node: ir.Expr, scope: Scope) -> Poly:
    try:
        extent = checker.extent(node, scope)
    except MoaError as e:
        if e.kind == "name" and not e.hint.startswith("did"):
            e.hint = "each size stands alone as an axis of some parameter"
        raise
    n = extent.as_int()
    if n is not None and n < 0:
        fail("shape", f"an axis of extent {n}", node.span, "it must not be negative")
    return extent


def _default(checker: Checker, p: ir.Parameter) -> ir.Default:
    """The value of a scalar parameter where the caller gives none."""
    if p.default is None:
        return None
    if p.dims is not None:
        fail("type", f"parameter {p.name.name} of the kernel is an array: it has no default", p.default.span)
    b = checker.b
    x = one_value(checker.expr(p.default, Scope()), p.default.span, "the default")
    if b.kind(x) != p.kind and (p.kind, b.kind(x)) != ("f", "i"):
        fail("type", f"the default of parameter {p.name.name} is of another kind", p.default.span)
    value = b.constant(x)
    if value is None:
        fail("type", f"the default of parameter {p.name.name} is not a literal", p.default.span)
    return value
