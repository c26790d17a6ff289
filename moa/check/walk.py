"""`Checker`: walks the syntax tree, inlines functions, and writes one value per operation into a `Builder`."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NoReturn

from moa import ir, poly
from moa.check import glyphs, scans  # noqa: F401  (scans enters its functions into BUILTINS)
from moa.check.build import KIND_NAMES, Builder, FunctionTerm, Term, fail, shape_text
from moa.check.functions import BUILTINS, Arguments, Builtin, matmul, one_value
from moa.check.indexing import subscript
from moa.ops import Kind
from moa.poly import Poly
from moa.text import MoaError, Span, place, printable

MAX_NESTING = 150
MAX_POWER = 64
ARITHMETIC = {"+": "add", "-": "sub", "*": "mul", "/": "div", "//": "floordiv", "%": "mod", "max": "max", "min": "min"}
LOGIC = {"&": "and", "|": "or"}
COMPARISONS = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne"}
CONSTANTS: dict[str, tuple[float | bool, Kind]] = {"inf": (math.inf, "f"), "True": (True, "b"), "False": (False, "b")}
NUMPY_NAMES = {
    "arange": "iota(n)",
    "concatenate": "concat(a, b)",
    "shape": "size(x, axis)",
    "len": "size(x, 0)",
    "matmul": "a @ b",
    "dot": "a @ b",
    "swapaxes": "transpose(x, [1, 0])",
    "power": "x ** 2",
    "clip": "minimum(maximum(x, a), b)",
    "square": "x ** 2",
    "range": "iota(n)",
    "roll": "rotate(x, k)",
    "flip": "reverse(x)",
    "cumprod": "scan(f, x, axis=0, identity=1)",
    "float": "x * 1.0",
    "einsum": "a @ b, or sum(a * b, axis=k)",
}


@dataclass(slots=True)
class Scope:
    """What names mean inside one function."""

    names: dict[str, Term] = field(default_factory=dict)
    sizes: dict[str, Poly] = field(default_factory=dict)
    prelude: bool = False


@dataclass(slots=True)
class Checker:
    """One check: the functions in reach, the functions being inlined, and how deep the walk is."""

    b: Builder
    functions: Mapping[str, ir.Function]
    prelude: Mapping[str, ir.Function]
    kernel_sizes: dict[str, Poly]
    active: list[FunctionTerm] = field(default_factory=list)
    depth: int = 0

    def inside(self, b: Builder) -> Checker:
        return Checker(b, self.functions, self.prelude, self.kernel_sizes, self.active, self.depth)

    # statements

    def run(self, function: ir.Function, scope: Scope) -> Term:
        """What the body of a function returns."""
        for s in function.body:
            self.b.budget.step(s.span)
            match s:
                case ir.Assign(targets, unpack, value):
                    term = self.expr(value, scope)
                    if unpack:
                        self.unpack(targets, term, value.span, scope)
                    else:
                        scope.names[targets[0].name] = term
                case ir.Return((value,)):
                    return self.expr(value, scope)
                case ir.Return(values):
                    return tuple(self.expr(v, scope) for v in values)
        raise AssertionError("parse lets no function end without return")

    def unpack(self, targets: tuple[Any, ...], term: Term, span: Span, scope: Scope) -> None:
        if not isinstance(term, tuple):
            hint = "take its parts by index: a = x[0]" if isinstance(term, int) else ""
            fail("type", f"{len(targets)} names for one value", span, hint)
        if len(term) != len(targets):
            fail("type", f"{len(targets)} names for a tuple of {len(term)}", span, "there must be one name a value")
        for target, t in zip(targets, term, strict=True):
            if isinstance(target, tuple):
                self.unpack(target, t, span, scope)
            else:
                scope.names[target.name] = t

    # expressions

    def value(self, node: ir.Expr, scope: Scope, what: str) -> int:
        """The number of an expression that must be one value."""
        return one_value(self.expr(node, scope), node.span, what)

    def expr(self, node: ir.Expr, scope: Scope) -> Term:
        self.b.budget.step(node.span)
        self.depth += 1
        if self.depth > MAX_NESTING:
            message = f"the formula with its functions is nested more than {MAX_NESTING} deep"
            fail("limit", message, node.span, "name parts of it on lines of their own")
        try:
            match node:
                case ir.Num(value, is_int, span):
                    return self.b.literal(value, "i" if is_int else "f", span)
                case ir.Name():
                    return self.name(node, scope)
                case ir.Binary():
                    return self.chain(node, scope)
                case ir.Call():
                    return self.call_node(node, scope)
                case ir.Sequence(items):
                    return tuple(self.expr(x, scope) for x in items)
                case ir.Subscript(array, _, _):
                    x = self.value(array, scope, "what is indexed")
                    return subscript(self.b, x, node, lambda e: self.expr(e, scope))
                case ir.Transposed(array, span):
                    return self.transposed(self.value(array, scope, "the operand of `.T`"), span)
                case ir.Unary(op, operand, span):
                    return self.unary(op, self.expr(operand, scope), span)
                case ir.Compare():
                    return self.compare(node, scope)
        finally:
            self.depth -= 1

    def name(self, node: ir.Name, scope: Scope) -> Term:
        name = node.name
        if name in scope.names:
            return scope.names[name]
        if name in scope.sizes:
            return self.b.integer(scope.sizes[name], node.span)
        if name in CONSTANTS:
            value, kind = CONSTANTS[name]
            return self.b.literal(value, kind, node.span)
        found = self.find_function(name, scope)
        if found is not None:
            return found
        self.unknown(node, {*scope.names, *scope.sizes} or CONSTANTS, "name")

    def unknown(self, node: ir.Name, known: Iterable[str], what: str) -> NoReturn:
        """Raises for a name that means nothing, with the nearest that does."""
        names = sorted(known)
        near = difflib.get_close_matches(node.name[:100], names, 1, 0.6)
        hint = f"did you mean {near[0]}?" if near else ""
        if not near and what == "name" and names:
            hint = f"the names here are {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
        if node.name in NUMPY_NAMES:
            hint = f"write {NUMPY_NAMES[node.name]}"
        fail("name", f"there is no {what} {printable(node.name)}", node.span, hint)

    def find_function(self, name: str, scope: Scope) -> FunctionTerm | None:
        if name in self.functions and not scope.prelude:
            return FunctionTerm(name, self.functions[name], False)
        if name in self.prelude:
            return FunctionTerm(name, self.prelude[name], True)
        return FunctionTerm(name, None, True) if name in BUILTINS else None

    def chain(self, node: ir.Binary, scope: Scope) -> Term:
        """a + b + c ...: the left spine is walked by a loop, not by recursion."""
        spine = [node]
        while isinstance(spine[-1].left, ir.Binary):
            spine.append(spine[-1].left)
        left = self.expr(spine[-1].left, scope)
        for n in reversed(spine):
            self.b.budget.step(n.span)
            left = self.binary(n, left, self.expr(n.right, scope))
        return left

    def binary(self, node: ir.Binary, left: Term, right: Term) -> Term:
        op, span = node.op, node.span
        if op in glyphs.INFIX:
            return glyphs.INFIX[op](self.b, left, right, span)
        x = one_value(left, node.left.span, f"the left side of `{op}`")
        y = one_value(right, node.right.span, f"the right side of `{op}`")
        return self.operate(op, x, y, span)

    def operate(self, op: str, x: int, y: int, span: Span) -> int:
        """x op y for an operator by its symbol."""
        b = self.b
        if op == "@":
            return matmul(b, x, y, span)
        if op == "**":
            return self.power(x, y, span)
        if op in LOGIC:
            for v in (x, y):
                if b.kind(v) != "b":
                    hint = "compare first, in parentheses: (x > 0) & (y > 0)"
                    fail("type", f"`{op}` joins conditions, here is {_a(b.kind(v))}", span, hint)
            return b.apply(LOGIC[op], (x, y), span)
        if op in ("//", "%"):
            divisor = b.poly(y)
            if divisor is not None and divisor.as_int() is None:
                reason = f"the divisor {divisor} must be at least 1"
                b.require(">=", divisor, poly.const(1), span, reason)
            if divisor == 0:
                fail("type", f"`{op}` by 0", span, "the divisor must not be 0")
        return b.arithmetic(ARITHMETIC[op], (x, y), span)

    def power(self, x: int, y: int, span: Span) -> int:
        """x ** y: repeated products for an integer literal, sqrt for a half, exp and log for a literal base."""
        b = self.b
        exponent, base = b.constant(y), b.constant(x)
        p = b.poly(y)
        if p is not None and p.as_int() is not None:
            exponent = Fraction(p.as_int() or 0)
        if isinstance(exponent, Fraction) and exponent.denominator == 1:
            n = int(exponent)
            if abs(n) > MAX_POWER:
                fail("limit", f"the exponent {printable(str(n))[:30]} is beyond {MAX_POWER}", span, "exp(n * log(x))")
            x = b.number_kind(x, span)
            if n == 0:
                one = b.cast(b.literal(Fraction(1), "i", span), b.kind(x), span)
                return b.fill(one, b.shape(x), span)
            out = x
            for _ in range(abs(n) - 1):
                out = b.arithmetic("mul", (out, x), span)
            return out if n > 0 else b.arithmetic("div", (b.literal(Fraction(1), "i", span), out), span)
        if exponent == Fraction(1, 2):
            return b.arithmetic("sqrt", (x,), span)
        if exponent == Fraction(-1, 2):
            return b.arithmetic("div", (b.literal(Fraction(1), "i", span), b.arithmetic("sqrt", (x,), span)), span)
        if isinstance(base, Fraction) and base > 0:
            return b.arithmetic("exp", (b.arithmetic("mul", (y, b.arithmetic("log", (x,), span)), span),), span)
        hint = "an integer literal, 0.5, or a positive literal as base; in general exp(y * log(x)) for positive x"
        fail("type", "this power is not defined", span, hint)

    def unary(self, op: str, term: Term, span: Span) -> Term:
        b = self.b
        if op in glyphs.PREFIX:
            return glyphs.PREFIX[op](b, term, span)
        x = one_value(term, span, f"the operand of `{op}`")
        match op:
            case "-":
                return b.arithmetic("neg", (x,), span)
            case "+":
                return b.number_kind(x, span)
            case _:
                if b.kind(x) != "b":
                    message = f"`~` negates a condition, here is {_a(b.kind(x))}"
                    fail("type", message, span, "compare first: ~(x > 0)")
                return b.apply("not", (x,), span)

    def transposed(self, x: int, span: Span) -> int:
        rank = self.b.rank(x)
        if rank < 2:
            found = f"shape {shape_text(self.b.shape(x))}" if rank else "no axes"
            hint = "`.T` swaps the last two axes; x[:, None] makes a column"
            fail("shape", f"`.T` of an array with {found}", span, hint)
        return self.b.transpose(x, (*range(rank - 2), rank - 1, rank - 2), span)

    def compare(self, node: ir.Compare, scope: Scope) -> int:
        b, out = self.b, None
        xs = [self.value(x, scope, f"a side of `{node.ops[0]}`") for x in node.operands]
        for op, x, y in zip(node.ops, xs[:-1], xs[1:], strict=True):
            x, y = b.unify((x, y), node.span)
            if op not in ("==", "!="):
                x, y = b.number_kind(x, node.span), b.number_kind(y, node.span)
            c = b.apply(COMPARISONS[op], (x, y), node.span)
            out = c if out is None else b.apply("and", (out, c), node.span)
        assert out is not None
        return out

    # calls

    def call_node(self, node: ir.Call, scope: Scope) -> Term:
        name = node.function.name
        if " " in name:  # a glyph with an operator: no name that a program can define
            return glyphs.operate(self, name, [self.expr(x, scope) for x in node.args], node.span)
        found = scope.names.get(name)
        if found is not None and not isinstance(found, FunctionTerm):
            fail("name", f"{name} is a value here, not a function", node.function.span, "rename the value")
        f = found if found is not None else self.find_function(name, scope)
        if f is None:
            known = [*self.functions, *self.prelude, *BUILTINS]
            self.unknown(node.function, known, "function")
        args = [(self.expr(x, scope), x.span) for x in node.args]
        keywords = {k.name: (self.expr(x, scope), k.span.to(x.span)) for k, x in node.keywords}
        return self.apply(f, args, keywords, node.span)

    def call(self, f: FunctionTerm, args: list[Term], span: Span) -> Term:
        return self.apply(f, [(a, span) for a in args], {}, span)

    def apply(
        self, f: FunctionTerm, args: list[tuple[Term, Span]], keywords: dict[str, tuple[Term, Span]], span: Span
    ) -> Term:
        if f.function is None:
            return self.apply_builtin(BUILTINS[f.name], args, keywords, span)
        if f in self.active:
            fail("name", f"function {f.name} calls itself", span, "scan and fold repeat a step along an axis")
        parameters = f.function.parameters
        names = [p.name.name for p in parameters]
        required = [p.name.name for p in parameters if p.default is None]
        given = match_arguments(f.name, names, required, args, keywords, span)
        self.active.append(f)
        try:
            scope = Scope({}, {} if f.prelude else dict(self.kernel_sizes), f.prelude)
            for p in parameters:
                if p.name.name not in given:
                    assert p.default is not None
                    given[p.name.name] = self.expr(p.default, Scope(prelude=f.prelude)), p.default.span
            self.bind(f.function, given, scope)
            return self.run(f.function, scope)
        except MoaError as e:
            raise _seen_from(e, f, span) from None
        finally:
            self.active.pop()

    def apply_builtin(
        self, f: Builtin, args: list[tuple[Term, Span]], keywords: dict[str, tuple[Term, Span]], span: Span
    ) -> Term:
        names = [p.rstrip("?") for p in f.parameters if p != "*"]
        required = [p for p in f.parameters if p != "*" and not p.endswith("?")]
        rest = args[len(names) :] if "*" in f.parameters else []
        given = match_arguments(f.name, names, required, args[: len(args) - len(rest)], keywords, span)
        given |= {f"*{k}": a for k, a in enumerate(rest)}
        terms, spans = {k: t for k, (t, _) in given.items()}, {k: s for k, (_, s) in given.items()}
        return f.apply(Arguments(self, f.name, terms, spans, span))

    def bind(self, f: ir.Function, given: dict[str, tuple[Term, Span]], scope: Scope) -> None:
        """Gives the parameters of an inlined function their values, and the sizes in its shapes theirs."""
        b = self.b
        own: dict[str, Poly] = {}
        rest: tuple[Poly, ...] | None = None
        later: list[tuple[ir.Expr, Poly, str, Span]] = []
        for p in f.parameters:
            name = p.name.name
            term, span = given[name]
            if not p.kind:
                scope.names[name] = term
                continue
            what = f"argument {name} of {f.name.name}"
            x = one_value(term, span, what)
            if p.kind != b.kind(x) and (p.kind, b.kind(x)) != ("f", "i"):
                fail("type", f"{what} is {_a(b.kind(x))}, expected {_a(p.kind)}", span)
            x = scope.names[name] = b.cast(x, p.kind, span)
            shape = b.shape(x)
            dims = p.dims or ()
            has_rest = bool(dims) and _is_rest(dims[0])
            fixed = len(dims) - has_rest
            if len(shape) < fixed or (not has_rest and len(shape) != fixed):
                expected = f"{fixed} axes" if fixed != 1 else "1 axis"
                more = " or more" if has_rest else ""
                fail("shape", f"{what} has shape {shape_text(shape)}, expected {expected}{more}", span)
            if has_rest:
                lead = shape[: len(shape) - fixed]
                if rest is not None and lead != rest:
                    message = f"{what} has leading axes {shape_text(lead)}, an earlier one {shape_text(rest)}"
                    fail("shape", message, span, "`...` stands for the same axes in every parameter")
                rest = lead
            for d, extent in zip(dims[int(has_rest) :], shape[len(shape) - fixed :], strict=True):
                if isinstance(d, ir.Name) and own.setdefault(d.name, extent) == extent:
                    continue
                later.append((d, extent, what, span))
        scope.sizes |= own
        for d, extent, what, span in later:
            expected_extent = self.extent(d, Scope(sizes=scope.sizes, prelude=scope.prelude))
            if expected_extent != extent:
                message = f"{what} has an axis of extent {extent}, expected {expected_extent}"
                fail("shape", message, span, "a size has one value in all parameters")

    def extent(self, node: ir.Expr, scope: Scope) -> Poly:
        """The polynomial that an axis in a shape is."""
        x = self.expr(node, scope)
        p = self.b.poly(x) if isinstance(x, int) else None
        if p is None:
            hint = "extents are made of sizes, int parameters and literals"
            fail("type", "this is not the extent of an axis", node.span, hint)
        return p


def match_arguments(
    function: str,
    names: list[str],
    required: list[str],
    args: list[tuple[Term, Span]],
    keywords: dict[str, tuple[Term, Span]],
    span: Span,
) -> dict[str, tuple[Term, Span]]:
    """The arguments of a call by parameter name; an error where they do not fit."""
    signature = f"{function}({', '.join(n if n in required else f'{n}=...' for n in names)})"
    if len(args) > len(names):
        message = f"{function} takes {len(names)} arguments, here are {len(args)}"
        fail("type", message, args[len(names)][1], f"it is {signature}")
    given = dict(zip(names, args, strict=False))
    for name, (term, at) in keywords.items():
        if name not in names:
            near = difflib.get_close_matches(name[:100], names, 1, 0.6)
            hint = f"did you mean {near[0]}?" if near else f"it is {signature}"
            fail("type", f"{function} has no argument {name}", at, hint)
        if name in given:
            fail("type", f"argument {name} of {function} is given twice", at, f"it is {signature}")
        given[name] = term, at
    for name in required:
        if name not in given:
            fail("type", f"argument {name} of {function} is missing", span, f"it is {signature}")
    return given


def _is_rest(node: ir.Expr) -> bool:
    return isinstance(node, ir.Name) and node.name == "..."


def _a(kind: Kind) -> str:
    return {"f": "a float", "i": "an int", "b": "a condition"}[kind] if kind in KIND_NAMES else kind


def _seen_from(e: MoaError, f: FunctionTerm, call: Span) -> MoaError:
    """The error as the caller sees it: of a prelude function at the call, of the program's own where it is."""
    if f.prelude and f.function is not None:
        inside = e.span is not None and e.span.file == f.function.span.file and e.span.text == f.function.span.text
        return MoaError(e.kind, f"in {f.name}: {e.message}", call, e.hint) if inside else e
    if e.kind == "limit" or e.span is None or e.span.text != call.text:
        return e
    if not call.start <= e.span.start < call.end and "called at" not in e.hint:
        seen = f"called at {place(call)}"
        return MoaError(e.kind, e.message, e.span, f"{e.hint}; {seen}" if e.hint else seen)
    return e
