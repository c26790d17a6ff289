"""The built-in functions: one entry a function, with its parameters as the user sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from moa import poly
from moa.check import indexing
from moa.check.build import Builder, FunctionTerm, Term, fail, shape_text
from moa.check.facts import without_floors
from moa.ir import Shape
from moa.poly import Poly
from moa.text import Span

_SIZES_HINT = "write [a, b], made of sizes, int parameters and literals"


class Caller(Protocol):
    """What a built-in function needs of the checker: the values made so far, and calling functions given by name."""

    b: Builder

    def call(self, f: FunctionTerm, args: list[Term], span: Span) -> Term: ...

    def inside(self, b: Builder) -> Caller:
        """The same checker, writing values into another builder."""
        ...


@dataclass(slots=True)
class Arguments:
    """The arguments of one call by parameter name; what is not given is not there."""

    caller: Caller
    function: str
    terms: dict[str, Term]
    spans: dict[str, Span]
    span: Span

    @property
    def b(self) -> Builder:
        return self.caller.b

    def place(self, name: str) -> Span:
        return self.spans.get(name, self.span)

    def what(self, name: str) -> str:
        return f"`{name}` of {self.function}"

    def array(self, name: str) -> int:
        """The number of an argument that is one value."""
        return one_value(self.terms[name], self.place(name), self.what(name))

    def axis(self, x: int, default: int, name: str = "axis") -> int:
        """The axis of x that the argument names, from 0."""
        axis = default
        if name in self.terms:
            axis = indexing.literal(self.b, self.terms[name], self.place(name), self.what(name))
        return self.b.axis(x, axis, self.place(name), f"`{self.function}`")

    def flag(self, name: str) -> bool:
        """A True or False that is written out; False where it is not given."""
        if name not in self.terms:
            return False
        term = self.terms[name]
        value = self.b.constant(term) if isinstance(term, int) else None
        if not isinstance(value, bool):
            fail("type", f"{self.what(name)} must be True or False", self.place(name))
        return value

    def size(self, name: str) -> Poly:
        return indexing.integer(self.b, self.terms[name], self.place(name), self.what(name))

    def sizes(self, name: str) -> Shape:
        return indexing.integers(self.b, self.terms[name], self.place(name), self.what(name))


def one_value(term: Term, span: Span, what: str) -> int:
    """The number of a term that is one value; an error for tuples and functions."""
    if isinstance(term, tuple):
        fail("type", f"{what} is a tuple of {len(term)}, not an array", span, "unpack it: a, b = ...")
    if isinstance(term, FunctionTerm):
        fail("type", f"{what} is the function {term.name}, not an array", span, f"call it: {term.name}(...)")
    return term


@dataclass(frozen=True, slots=True)
class Builtin:
    """A built-in function: parameters in order, those without `?` required; `*` takes all the rest."""

    name: str
    parameters: tuple[str, ...]
    apply: Callable[[Arguments], Term]


BUILTINS: dict[str, Builtin] = {}


def builtin(name: str, parameters: str) -> Callable[[Callable[[Arguments], Term]], Callable[[Arguments], Term]]:
    """Enters a function into the table; `parameters` as in "x axis? keepdims?"."""

    def enter(f: Callable[[Arguments], Term]) -> Callable[[Arguments], Term]:
        assert name not in BUILTINS, name
        BUILTINS[name] = Builtin(name, tuple(parameters.split()), f)
        return f

    return enter


# Elementwise -------------------------------------------------------------------------------------------------------


def _unary(name: str) -> None:
    @builtin(name, "x")
    def apply(a: Arguments) -> Term:
        return a.b.arithmetic(name, (a.array("x"),), a.span)


def _binary(word: str, name: str) -> None:
    @builtin(word, "x y")
    def apply(a: Arguments) -> Term:
        return a.b.arithmetic(name, (a.array("x"), a.array("y")), a.span)


for _name in ("abs", "exp", "log", "sqrt", "tanh", "erf"):
    _unary(_name)
_binary("maximum", "max")
_binary("minimum", "min")


@builtin("where", "condition a b")
def _where(a: Arguments) -> Term:
    b = a.b
    condition = a.array("condition")
    if b.kind(condition) != "b":
        fail("type", f"{a.what('condition')} must be a condition", a.place("condition"), "compare it: x != 0")
    x, y = b.unify((a.array("a"), a.array("b")), a.span)
    shape = b.broadcast([b.shape(v) for v in (condition, x, y)], a.span, "`where`")
    return b.add("select", (condition, x, y), (), shape, b.kind(x), a.span)


# Reductions along one axis -----------------------------------------------------------------------------------------


def _reduction(name: str) -> None:
    @builtin(name, "x axis? keepdims?")
    def apply(a: Arguments) -> Term:
        if name in ("max", "min") and "axis" in a.terms and "keepdims" not in a.terms:
            axis = a.terms["axis"]
            if not isinstance(axis, int) or a.b.constant(axis) is None:
                hint = f"{name}imum(x, y) compares two arrays element by element"
                fail("type", f"the second argument of {name} is an axis, a literal", a.place("axis"), hint)
        x = a.array("x")
        return a.b.reduce(name, x, a.axis(x, -1), a.flag("keepdims"), a.span)


for _name in ("sum", "prod", "max", "min", "any", "all"):
    _reduction(_name)


@builtin("argmax", "x axis? keepdims?")
def _argmax(a: Arguments) -> Term:
    b = a.b
    x = b.number_kind(a.array("x"), a.span)
    axis = a.axis(x, -1)
    shape = b.shape(x)
    b.require(">=", shape[axis], poly.const(1), a.span, f"argmax over an axis of extent {shape[axis]}: it needs 1")
    out = b.add("argmax", (x,), (axis,), shape[:axis] + shape[axis + 1 :], "i", a.span)
    return b.keep_axis(out, axis, a.span) if a.flag("keepdims") else out


@builtin("argsort", "x axis?")
def _argsort(a: Arguments) -> Term:
    x = a.b.number_kind(a.array("x"), a.span)
    return a.b.add("argsort", (x,), (a.axis(x, -1),), a.b.shape(x), "i", a.span)


# Structure ---------------------------------------------------------------------------------------------------------


@builtin("size", "x axis?")
def _size(a: Arguments) -> Term:
    x = a.array("x")
    if "axis" in a.terms:
        return a.b.integer(a.b.shape(x)[a.axis(x, 0)], a.span)
    return a.b.integer(product(a.b.shape(x)), a.span)


def product(shape: Shape) -> Poly:
    out = poly.const(1)
    for extent in shape:
        out = out * extent
    return out


@builtin("iota", "n")
def _iota(a: Arguments) -> Term:
    shape = a.sizes("n")
    if len(shape) != 1:
        message = f"iota of {len(shape)} extents: the indices of several axes are several arrays"
        fail("type", message, a.place("n"), "i, j = iota(n)[:, None], iota(m)")
    return iota(a.b, shape[0], a.span)


def iota(b: Builder, extent: Poly, span: Span) -> int:
    """0, 1, ... extent - 1."""
    not_negative(b, extent, span)
    return b.add("iota", (), (extent,), (extent,), "i", span)


def not_negative(b: Builder, extent: Poly, span: Span) -> Poly:
    b.require(">=", extent, poly.const(0), span, f"an axis of extent {extent}: it must not be negative")
    return extent


def _filled(name: str, value: int) -> None:
    @builtin(name, "n *")
    def apply(a: Arguments) -> Term:
        shape: list[Poly] = []
        for key in a.terms:
            shape += [not_negative(a.b, e, a.place(key)) for e in a.sizes(key)]
        return a.b.fill(a.b.literal(Fraction(value), "f", a.span), tuple(shape), a.span)


_filled("zeros", 0)
_filled("ones", 1)


@builtin("concat", "a b axis?")
def _concat(a: Arguments) -> Term:
    x, y = a.array("a"), a.array("b")
    return concat(a.b, x, y, a.axis(x, 0), a.span)


def concat(b: Builder, x: int, y: int, axis: int, span: Span) -> int:
    """x, then y along one axis; the other extents are equal."""
    x, y = b.unify((x, y), span)
    s, t = b.shape(x), b.shape(y)
    if len(s) != len(t):
        message = f"concat of arrays of {len(s)} and {len(t)} axes: shapes {shape_text(s)} and {shape_text(t)}"
        fail("shape", message, span, "None makes an axis of extent 1: x[None]")
    for k, (e, f) in enumerate(zip(s, t, strict=True)):
        if k != axis and e != f:
            message = f"concat along axis {axis} meets extents {e} and {f} on axis {k}: shapes {shape_text(s)} and "
            fail("shape", message + shape_text(t), span, "all the other axes must have the same extents")
    shape = (*s[:axis], s[axis] + t[axis], *s[axis + 1 :])
    return b.add("concat", (x, y), (axis,), shape, b.kind(x), span)


@builtin("reshape", "x shape")
def _reshape(a: Arguments) -> Term:
    return reshape(a.b, a.array("x"), a.sizes("shape"), a.span)


def reshape(b: Builder, x: int, shape: Shape, span: Span) -> int:
    """x in row-major order under another shape; one extent may be -1. Requires the same number of elements."""
    total = product(b.shape(x))
    free = [k for k, e in enumerate(shape) if e == -1]
    hint = "as many elements must come out as go in; -1 stands for one extent that follows from the others"
    if free:
        rest = product(tuple(e for e in shape if e != -1))
        quotient = None if rest == 0 else total // rest
        if len(free) > 1 or quotient is None:
            fail("shape", f"the extent -1 in {shape_text(shape)} cannot be found", span, hint)
        shape = tuple(quotient if e == -1 else e for e in shape)
    for e in shape:
        not_negative(b, e, span)
    if shape == b.shape(x):
        return x
    new = product(shape)
    if new != total:
        reason = f"reshape of {shape_text(b.shape(x))}, {total} elements, to {shape_text(shape)}, {new} elements"
        exact, divisions = without_floors(new)
        if exact == without_floors(total)[0]:
            divisions = list(dict.fromkeys(divisions + without_floors(total)[1]))
            for d, n in divisions:
                b.require("divides", d, n, span, f"{d} must divide {n}: {reason}", hint)
        elif _never(new, total):
            fail("shape", reason, span, hint)
        else:
            b.require("==", *_cancelled(new, total), span, reason, hint)
    return b.add("reshape", (x,), (), shape, b.kind(x), span)


def _cancelled(a: Poly, b: Poly) -> tuple[Poly, Poly]:
    """Two numbers of elements without the sizes that both have as factors."""
    if len(a.terms) != 1 or len(b.terms) != 1:
        return a, b
    (m, c), (k, d) = a.terms[0], b.terms[0]
    left, right = list(m), list(k)
    for x in m:
        if x in right:
            left.remove(x)
            right.remove(x)
    return Poly({tuple(left): c}), Poly({tuple(right): d})


def _never(a: Poly, b: Poly) -> bool:
    """Whether two numbers of elements differ by one size against another or none: such an equality is a mistake."""
    (p, q) = _cancelled(a, b)
    if len(p.terms) != 1 or len(q.terms) != 1:
        return False
    (m, c), (k, d) = p.terms[0], q.terms[0]
    return len(m) <= 1 and len(k) <= 1 and (c == d or not m or not k)


@builtin("transpose", "x axes?")
def _transpose(a: Arguments) -> Term:
    x = a.array("x")
    axes = tuple(range(a.b.rank(x)))[::-1]
    if "axes" in a.terms:
        axes = permutation(a.b, x, a.sizes("axes"), a.place("axes"))
    return a.b.transpose(x, axes, a.span)


def permutation(b: Builder, x: int, axes: Shape, span: Span) -> tuple[int, ...]:
    """The axes as numbers from 0; an error where they do not name every axis of x once."""
    rank = b.rank(x)
    found = tuple(e.as_int() for e in axes)
    positive = tuple(k + rank if k is not None and k < 0 else k for k in found)
    if sorted(-1 if k is None else k for k in positive) != list(range(rank)):
        message = f"{shape_text(axes)} is not a permutation of the {rank} axes of {shape_text(b.shape(x))}"
        fail("shape", message, span, "every axis stands there once, as a literal")
    return tuple(k for k in positive if k is not None)


@builtin("rotate", "x k axis?")
def _rotate(a: Arguments) -> Term:
    x = a.array("x")
    return rotate(a.b, x, a.size("k"), a.axis(x, 0), a.span)


def rotate(b: Builder, x: int, k: Poly, axis: int, span: Span) -> int:
    return x if k == 0 else b.add("rotate", (x,), (k, axis), b.shape(x), b.kind(x), span)


@builtin("reverse", "x axis?")
def _reverse(a: Arguments) -> Term:
    x = a.array("x")
    return indexing.reverse(a.b, x, a.axis(x, 0), a.span)


@builtin("take", "x k axis?")
def _take(a: Arguments) -> Term:
    x = a.array("x")
    return indexing.take(a.b, x, a.axis(x, 0), a.size("k"), a.span)


@builtin("drop", "x k axis?")
def _drop(a: Arguments) -> Term:
    x = a.array("x")
    return indexing.drop(a.b, x, a.axis(x, 0), a.size("k"), a.span)


def matmul(b: Builder, x: int, y: int, span: Span) -> int:
    """NumPy's matmul: the last axis of x with the second-last of y, leading axes broadcast, vectors included."""
    x, y = b.unify((b.number_kind(x, span), b.number_kind(y, span)), span)
    s, t = b.shape(x), b.shape(y)
    if not s or not t:
        side = "left" if not s else "right"
        fail("shape", f"the {side} side of `@` has no axes", span, "* multiplies by a scalar")
    inner = t[-2] if len(t) > 1 else t[0]
    if s[-1] != inner:
        message = f"`@` joins axes of extents {s[-1]} and {inner}: shapes {shape_text(s)} and {shape_text(t)}"
        hint = "the last axis of the left side and the second-last of the right side must be equal"
        fail("shape", message, span, hint if len(t) > 1 else "the last axis of the left side must equal the vector")
    lead = b.broadcast([s[:-2], t[:-2]], span, "`@`")
    shape = lead + (s[-2:-1] if len(s) > 1 else ()) + (t[-1:] if len(t) > 1 else ())
    return b.add("matmul", (x, y), (), shape, b.kind(x), span)
