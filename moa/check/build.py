"""`Builder`: the values of a Program in the making, with kinds, shapes and obligations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, NoReturn

from moa import ir, poly
from moa.check.facts import at_least, bounded
from moa.ir import Shape
from moa.ops import OPERATORS, REDUCTIONS, Kind
from moa.poly import Poly
from moa.text import MoaError, Span

MAX_VALUES = 10_000
MAX_CHAIN = 250
MAX_STEPS = 200_000
MAX_RANK = 32
KIND_NAMES = {"f": "float", "i": "int", "b": "bool"}


@dataclass(frozen=True, slots=True)
class FunctionTerm:
    """A function given by name: one of the program or the prelude, or a built-in one."""

    name: str
    function: ir.Function | None
    prelude: bool


# What a name or an expression stands for: a value by its number, a tuple of these, or a function.
Term = int | tuple["Term", ...] | FunctionTerm


@dataclass(slots=True)
class Budget:
    """What one check may cost in all, inlined functions and scan bodies included."""

    steps: int = MAX_STEPS
    values: int = MAX_VALUES

    def step(self, span: Span) -> None:
        self.steps -= 1
        if self.steps < 0:
            hint = "functions that call each other many times grow like a power"
            raise MoaError("limit", f"checking takes more than {MAX_STEPS} steps", span, hint)

    def value(self, span: Span) -> None:
        self.values -= 1
        if self.values < 0:
            raise MoaError("limit", f"the program has more than {MAX_VALUES} operations", span, "split it")


def shape_text(shape: Shape) -> str:
    """A shape as the user writes it."""
    return f"[{', '.join(map(str, shape))}]"


def fail(kind: str, message: str, span: Span, hint: str = "") -> NoReturn:
    raise MoaError(kind, message, span, hint)


@dataclass(slots=True)
class Builder:
    """Values in order, equal ones once. Every method that makes a value returns its number."""

    budget: Budget = field(default_factory=Budget)
    values: list[ir.Value] = field(default_factory=list)
    inputs: list[ir.Input] = field(default_factory=list)
    obligations: dict[tuple[str, Poly, Poly], ir.Obligation] = field(default_factory=dict)
    numbers: dict[tuple[Any, ...], int] = field(default_factory=dict)
    chains: list[int] = field(default_factory=list)  # of each value, the longest chain of operations up to it

    # values

    def add(self, op: str, args: Sequence[int], attrs: tuple[Any, ...], shape: Shape, kind: Kind, span: Span) -> int:
        key = (op, tuple(args), attrs, shape, kind)
        if op != "scan" and key in self.numbers:
            return self.numbers[key]
        self.budget.value(span)
        if len(shape) > MAX_RANK:
            fail("limit", f"the array has {len(shape)} axes, at most {MAX_RANK} are possible", span)
        for extent in shape:
            bounded(extent, span)
        chain = 1 + max((self.chains[a] for a in args), default=0)
        if chain > MAX_CHAIN:
            hint = "scan and fold repeat a step along an axis; a sum of many terms goes along an axis"
            fail("limit", f"more than {MAX_CHAIN} operations follow one another", span, hint)
        self.chains.append(chain)
        number = len(self.values)
        self.values.append(ir.Value(number, op, tuple(args), attrs, shape, kind, span))
        if op != "scan":
            self.numbers[key] = number
        return number

    def shape(self, x: int) -> Shape:
        return self.values[x].shape

    def kind(self, x: int) -> Kind:
        return self.values[x].kind

    def rank(self, x: int) -> int:
        return len(self.values[x].shape)

    def input(self, name: str, kind: Kind, shape: Shape, span: Span, default: ir.Default = None) -> int:
        self.inputs.append(ir.Input(name, kind, shape, span, default))
        if kind == "i" and not shape:
            return self.integer(poly.atom("int", name), span)
        return self.add("input", (), (name,), shape, kind, span)

    def literal(self, value: Fraction | float | bool, kind: Kind, span: Span) -> int:
        return self.add("literal", (), (value,), (), kind, span)

    def integer(self, p: Poly, span: Span) -> int:
        """A rank-0 integer: a literal where it is a constant, else a `size`."""
        n = bounded(p, span).as_int()
        if n is not None:
            return self.literal(Fraction(n), "i", span)
        return self.add("size", (), (p,), (), "i", span)

    def constant(self, x: int) -> Fraction | float | bool | None:
        """The value of a literal, else None."""
        v = self.values[x]
        return v.attrs[0] if v.op == "literal" else None

    def poly(self, x: int) -> Poly | None:
        """The polynomial that a rank-0 integer is, where it is one."""
        v = self.values[x]
        if v.op == "size":
            return v.attrs[0]  # type: ignore[no-any-return]
        if v.op == "literal" and v.kind == "i":
            return poly.const(v.attrs[0])
        return None

    def cast(self, x: int, kind: Kind, span: Span) -> int:
        """x as that kind: itself where it is of it, a literal where it is one."""
        v = self.values[x]
        if v.kind == kind:
            return x
        if v.op == "literal":
            return self.literal(v.attrs[0] if isinstance(v.attrs[0], float) else Fraction(v.attrs[0]), kind, span)
        return self.add("cast", (x,), (), v.shape, kind, span)

    def number_kind(self, x: int, span: Span) -> int:
        """x, as an integer where it is a condition."""
        return self.cast(x, "i", span) if self.kind(x) == "b" else x

    def unify(self, xs: Sequence[int], span: Span) -> tuple[int, ...]:
        """The same values in the one kind that all can take: bool, int or float."""
        kinds = {self.kind(x) for x in xs}
        kind: Kind = "f" if "f" in kinds else "i" if "i" in kinds else "b"
        return tuple(self.cast(x, kind, span) for x in xs)

    # obligations

    def require(self, relation: str, left: Poly, right: Poly, span: Span, reason: str, hint: str = "") -> None:
        """Records left == right, left >= right or left divides right, unless it is certain; an error if it is false."""
        bounded(left, span)
        bounded(right, span)
        if relation == ">=" and at_least(left - right, 0):
            return
        if relation == "==" and left == right:
            return
        a, b = left.as_int(), right.as_int()
        if relation == ">=" and (left - right).as_int() is not None:
            fail("shape", reason, span, hint)
        if a is not None and b is not None:
            holds = a == b if relation == "==" else a != 0 and b % a == 0
            if not holds:
                fail("shape", reason, span, hint)
            return
        if relation == ">=":  # one form for one fact: constants stand on the right
            slack = left - right
            constant = Poly({m: c for m, c in slack.terms if not m})
            left, right = slack - constant, -constant
        key = (relation, left, right)
        self.obligations.setdefault(key, ir.Obligation(relation, left, right, span, reason))  # type: ignore[arg-type]

    # elementwise

    def broadcast(self, shapes: Sequence[Shape], span: Span, what: str) -> Shape:
        """The common shape by NumPy's rule, in which only a literal 1 and a missing leading axis stretch."""
        rank = max(len(s) for s in shapes)
        out: list[Poly] = []
        for k in range(-rank, 0):
            extent = poly.const(1)
            for s in shapes:
                if len(s) < -k or s[k] == 1 or s[k] == extent:
                    continue
                if extent != 1:
                    texts = " and ".join(shape_text(s) for s in shapes)
                    message = f"{what} meets extents {extent} and {s[k]} on axis {k}: shapes {texts}"
                    hint = "extents must be the same size, or a literal 1; None makes an axis of extent 1"
                    fail("shape", message, span, hint)
                extent = s[k]
            out.append(extent)
        return tuple(out)

    def apply(self, name: str, xs: Sequence[int], span: Span) -> int:
        """The operator of that name on operands of the right kinds, folded where all are exact constants or sizes."""
        folded = self._fold(name, xs, span)
        if folded is not None:
            return folded
        operator = OPERATORS[name]
        kind = operator.result(tuple(self.kind(x) for x in xs))
        assert kind is not None, (name, [self.kind(x) for x in xs])
        shape = self.broadcast([self.shape(x) for x in xs], span, f"`{operator.symbol}`")
        return self.add(name, xs, (), shape, kind, span)

    def arithmetic(self, name: str, xs: Sequence[int], span: Span) -> int:
        """`apply` after casts: conditions become integers, integers meeting floats become floats."""
        xs = self.unify([self.number_kind(x, span) for x in xs], span)
        operator = OPERATORS[name]
        if operator.result(tuple(self.kind(x) for x in xs)) is None:
            if any(self.kind(x) == "f" for x in xs):
                message = f"`{operator.symbol}` is for integers, here is a float"
                fail("type", message, span, "/ divides real numbers" if name == "floordiv" else "")
            xs = tuple(self.cast(x, "f", span) for x in xs)
        return self.apply(name, xs, span)

    def _fold(self, name: str, xs: Sequence[int], span: Span) -> int | None:
        polys = [self.poly(x) for x in xs]
        if polys and all(p is not None for p in polys) and name in _FOLDS:
            return self.integer(self._fold_size(name, [p for p in polys if p is not None], span), span)
        values = [self.constant(x) for x in xs]
        if name == "neg" and isinstance(values[0], float):
            return self.literal(-values[0], "f", span)
        exact = [v for v in values if isinstance(v, Fraction) and max(abs(v.numerator), v.denominator) < 2**64]
        if len(exact) < len(xs) or self.kind(xs[0]) != "f":
            return None
        match name:
            case "add":
                return self.literal(exact[0] + exact[1], "f", span)
            case "sub":
                return self.literal(exact[0] - exact[1], "f", span)
            case "mul":
                return self.literal(exact[0] * exact[1], "f", span)
            case "div" if exact[1] != 0:
                return self.literal(exact[0] / exact[1], "f", span)
            case "neg":
                return self.literal(-exact[0], "f", span)
        return None

    def _fold_size(self, name: str, ps: list[Poly], span: Span) -> Poly:
        match name:
            case "add":
                return ps[0] + ps[1]
            case "sub":
                return ps[0] - ps[1]
            case "mul":
                return ps[0] * ps[1]
            case "neg":
                return -ps[0]
            case "abs":
                return ps[0] if at_least(ps[0], 0) else poly.absolute(ps[0])
            case "min":
                return poly.minimum(ps[0], ps[1])
            case "max":
                return poly.maximum(ps[0], ps[1])
            case _:
                d = ps[1].as_int()
                if d == 0:
                    fail("type", f"{ps[0]} is divided by 0", span, "the divisor must not be 0")
                if d is None:
                    self.require(">=", ps[1], poly.const(1), span, f"the divisor {ps[1]} must be at least 1")
                return ps[0] // ps[1] if name == "floordiv" else ps[0] % ps[1]

    # arrays

    def axis(self, x: int, axis: int, span: Span, what: str) -> int:
        """The axis counted from 0; an error where x does not have it."""
        rank = self.rank(x)
        if not -rank <= axis < rank:
            found = f"shape {shape_text(self.shape(x))}" if rank else "no axes"
            fail("shape", f"{what} along axis {axis} of an array with {found}", span, _axis_hint(rank))
        return axis % rank

    def reduce(self, word: str, x: int, axis: int, keepdims: bool, span: Span) -> int:
        """sum, prod, max, min, any or all along one axis."""
        axis = self.axis(x, axis, span, f"`{word}`")
        if word in ("any", "all"):
            if self.kind(x) != "b":
                found = KIND_NAMES[self.kind(x)]
                fail("type", f"`{word}` is for conditions, here is an array of {found}", span, "write x != 0")
        else:
            x = self.number_kind(x, span)
        shape = self.shape(x)
        out = self.add("reduce", (x,), (REDUCTIONS[word], axis), shape[:axis] + shape[axis + 1 :], self.kind(x), span)
        return self.keep_axis(out, axis, span) if keepdims else out

    def keep_axis(self, x: int, axis: int, span: Span) -> int:
        """x with a new axis of extent 1 before that axis."""
        items = [whole(extent) for extent in self.shape(x)]
        return self.index(x, [*items[:axis], ir.New(), *items[axis:]], span)

    def index(self, x: int, items: Sequence[ir.IndexItem], span: Span) -> int:
        """x indexed by one item per axis (New: none); x itself where nothing changes."""
        shape: list[Poly] = []
        args = [x]
        axis = 0
        trivial = True
        for item in items:
            match item:
                case ir.Range(start, step, count):
                    shape.append(count)
                    trivial = trivial and start == 0 and step == 1 and count == self.shape(x)[axis]
                case ir.New():
                    shape.append(poly.const(1))
                    trivial = False
                case ir.Gather(value):
                    shape += self.shape(value)
                    args.append(value)
                    trivial = False
                case ir.At():
                    trivial = False
            axis += not isinstance(item, ir.New)
        assert axis == self.rank(x), (items, self.shape(x))
        return x if trivial else self.add("index", args, (tuple(items),), tuple(shape), self.kind(x), span)

    def transpose(self, x: int, permutation: tuple[int, ...], span: Span) -> int:
        if permutation == tuple(range(self.rank(x))):
            return x
        shape = tuple(self.shape(x)[k] for k in permutation)
        return self.add("transpose", (x,), (permutation,), shape, self.kind(x), span)

    def fill(self, x: int, shape: Shape, span: Span) -> int:
        """A scalar as an array of that shape."""
        return x if not shape else self.add("fill", (x,), (), shape, self.kind(x), span)

    # the end

    def finish(self, name: str, outputs: tuple[int, ...], span: Span) -> ir.Program:
        """The Program of the values that the outputs need, numbered anew."""
        needed = set(outputs)
        for v in reversed(self.values):
            if v.number in needed:
                needed |= set(v.args)
                if v.op == "scan":
                    needed |= set(v.attrs[0].start)
        new: dict[int, int] = {}
        kept: list[ir.Value] = []
        for v in self.values:
            if v.number in needed:
                new[v.number] = len(kept)
                args = tuple(new[a] for a in v.args)
                kept.append(replace(v, number=len(kept), args=args, attrs=_renumber(v.attrs, new)))
        outputs = tuple(new[o] for o in outputs)
        return ir.Program(name, tuple(self.inputs), tuple(kept), outputs, self._strongest(), span)

    def _strongest(self) -> tuple[ir.Obligation, ...]:
        """The obligations without those that follow from another one: of p >= 1 and p >= 2 the second."""
        best: dict[Poly, Fraction] = {}
        for o in self.obligations.values():
            if o.relation == ">=":
                bound = Fraction(o.right.as_int() or 0)
                best[o.left] = max(bound, best.get(o.left, bound))
        return tuple(o for o in self.obligations.values() if o.relation != ">=" or o.right == int(best[o.left]))


_FOLDS = {"add", "sub", "mul", "neg", "abs", "min", "max", "floordiv", "mod"}


def whole(extent: Poly) -> ir.Range:
    return ir.Range(poly.const(0), 1, extent)


def _axis_hint(rank: int) -> str:
    return f"axes go from 0 to {rank - 1}, or from -{rank} to -1" if rank else "a scalar has no axes"


def _renumber(attrs: tuple[Any, ...], new: dict[int, int]) -> tuple[Any, ...]:
    """The attributes with the value numbers inside them replaced."""
    match attrs:
        case (ir.Scan() as scan,):
            return (replace(scan, start=tuple(new[s] for s in scan.start)),)
        case (tuple() as items,):
            return (tuple(ir.Gather(new[i.value]) if isinstance(i, ir.Gather) else i for i in items),)
        case _:
            return attrs
