"""The builder: asks for one element of each output and collects the Reduces that answering needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from moa import ir, poly
from moa.ir import At, Gather, New, Program, Range, Value
from moa.normal import (
    TRUE,
    Axis,
    Cond,
    Eq,
    Index,
    Piece,
    Recurrence,
    Scalar,
    at_least_zero,
    both,
    choose,
    compare,
    either,
    integer,
    is_zero,
    lit,
    load,
    negate,
    rename,
    rename_cond,
    scalar_atoms,
)
from moa.ops import OPERATORS, Kind
from moa.poly import Poly, const
from moa.psi.elements import Element, as_scalar, axes_of, cast, elementwise, literal, select
from moa.psi.pieces import split
from moa.psi.ranges import Scope, settle_scalar
from moa.psi.rules import PSI, aligned, range_rules, scalar_rule
from moa.psi.runs import COUNT, counts
from moa.rewrite import Trace
from moa.text import MoaError

SCALAR = {*OPERATORS, "cast", "select", "fill"}
STRUCTURAL = {"index", "transpose", "reshape", "rotate"}
LOGICAL = {"and": "min", "or": "max"}  # reductions of conditions, as 0 and 1


@dataclass(frozen=True, slots=True)
class Order:
    """In which order rules are applied. The normal form does not depend on it, which a property test shows.

    last_first   the last operand of an operation is visited first
    merge        structural operators are composed to one, which is then applied; else applied one by one
    early        reductions are made in the order of the program, before what uses them
    """

    last_first: bool = False
    merge: bool = False
    early: bool = False


@dataclass(slots=True)
class Builder:
    """What is known of a program so far.

    known      Reduces by their canonical content
    reduced    of a value: the Reduce that it became, and its shape
    bound      readers of inputs: in the body of a scan
    around     the extents of variables that stand around the program: the position of a scan
    """

    program: Program
    trace: Trace
    order: Order = Order()
    equations: list[Eq] = field(default_factory=list)
    known: dict[tuple[object, ...], str] = field(default_factory=dict)
    reduced: dict[int, tuple[str, tuple[Poly, ...]]] = field(default_factory=dict)
    scans: dict[int, Recurrence] = field(default_factory=dict)
    recurrences: list[Recurrence] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)
    bound: dict[str, Callable[[Index], Element]] = field(default_factory=dict)
    around: Scope = field(default_factory=dict)
    views: dict[int, tuple[Value, Index]] = field(default_factory=dict)
    prefix: str = ""
    taken: set[str] = field(default_factory=set)
    gathers: frozenset[int] | None = None
    indices: dict[int, bool] = field(default_factory=dict)
    ranks: dict[tuple[int, int], str] = field(default_factory=dict)

    def fire(self, rule: str, *args: Any) -> Any:
        """What a rule of the table makes of its arguments."""
        self.trace.counts[rule] = self.trace.counts.get(rule, 0) + 1
        return PSI[rule].apply(*args)

    def on_axis(self, rule: str, axis: int, index: Index, *args: Any) -> Index:
        """A rule on axis 0 of the cells that begin at an axis."""
        if axis == 0:
            return self.fire(rule, index, *args)  # type: ignore[no-any-return]
        return self.fire("omega", axis, index, lambda p: self.fire(rule, p, *args))  # type: ignore[no-any-return]

    def name(self, wanted: str) -> str:
        k, name = 0, self.prefix + wanted
        while name in self.taken:
            k += 1
            name = f"{self.prefix}{wanted}{k}"
        self.taken.add(name)
        return name

    # outputs and reductions --------------------------------------------------------------------------------------

    def output(self, k: int, number: int) -> str:
        value = self.program.values[number]
        axes, index = axes_of(value.shape)
        body = settle_scalar(as_scalar(self.psi(value, self.fire("assign", index))), {**self.around, **dict(axes)})
        name = self.name(f"out{k}" if len(self.program.outputs) > 1 else "out")
        # an output always has all its axes, those of literal extent 1 included
        names = iter(axes)
        outer = tuple((f"o{j}", e) if e.as_int() == 1 else next(names) for j, e in enumerate(value.shape))
        self.equations.append(Eq(name, "map", outer, ((TRUE, body),), dtype=value.kind))
        return name

    def reduce(self, op: str, extent: Poly, outer: tuple[Axis, ...], red: str, body: Scalar, dtype: Kind = "f") -> str:
        """The name of the Reduce: of an equal one if there is one."""
        scope = {**self.around, **dict(outer), red: extent}
        domain, pieces = split(op, red, settle_scalar(body, scope), scope, self.trace)
        key = (op, dtype, extent, tuple(e for _, e in outer), *content(outer, red, domain, pieces))
        if key in self.known:
            return self.known[key]
        name = self.name("r" + str(len(self.equations)))
        self.equations.append(Eq(name, "reduce", outer, pieces, op, (red, extent), domain, dtype))
        self.known[key] = name
        return name

    def use(self, value: Value, index: Index) -> Element:
        """An element of the Reduce that a value became: its axes of literal extent 1 are absent there."""
        name, shape = self.reduced[value.number]
        at = (p for p, e in zip(index, shape, strict=True) if e.as_int() != 1)
        return poly.atom("load", name, at) if value.kind == "i" else load(name, at)

    def early(self) -> None:
        """Makes every reduction of the program, operands before what uses them."""
        for value in self.program.values:
            if value.op in ("reduce", "matmul", "argmax", "argsort"):
                self.psi(value, tuple(const(0) for _ in value.shape))

    # the psi function ----------------------------------------------------------------------------------------------

    def psi(self, value: Value, index: Index) -> Element:
        """One element of a value: the index goes in, a scalar, an integer or a condition comes out."""
        assert len(index) == len(value.shape), value
        if value.number in self.picked and not self.bound and self.is_array(value):
            return self.use(value, index)
        return self.element(value, index)

    @property
    def picked(self) -> frozenset[int]:
        """The numbers of the values that are indices of gathers."""
        if self.gathers is None:
            items = (i for v in self.program.values if v.op == "index" for i in v.attrs[0])
            self.gathers = frozenset(i.value for i in items if isinstance(i, Gather))
        return self.gathers

    def is_array(self, value: Value) -> bool:
        """Whether indices that follow from data by some arithmetic are an array of their own, made once."""
        if value.number not in self.indices:
            self.indices[value.number] = False
            axes, at = axes_of(value.shape)
            body = settle_scalar(as_scalar(self.element(value, at)), {**self.around, **dict(axes)})
            if value.op not in ("input", "reduce", "argmax", "argsort") and axes and is_arithmetic(body):
                name = self.name("x" + str(len(self.equations)))
                self.equations.append(Eq(name, "map", axes, ((TRUE, body),), dtype="i"))
                self.reduced[value.number] = (name, value.shape)
                self.indices[value.number] = True
        return self.indices[value.number]

    def element(self, value: Value, index: Index) -> Element:
        """One element of a value by the rule of its operator."""
        args = [self.program.values[n] for n in value.args]
        match value.op:
            case "input" if value.attrs[0] in self.bound:
                return self.bound[value.attrs[0]](index)
            case "input":
                return self.input(value.attrs[0], value, index)
            case "literal":
                return literal(value)
            case "size":
                return value.attrs[0]  # type: ignore[no-any-return]
            case "iota":
                return self.fire("iota", index)  # type: ignore[no-any-return]
            case op if op in SCALAR:
                return self.psi_scalar(value, args, index)
            case op if op in STRUCTURAL:
                base, at = self.viewed(value, index) if self.order.merge else self.applied(value, index)
                return self.psi(base, at)
            case "concat":
                return self.psi_concat(value, args, index)
            case "reduce":
                return self.psi_reduce(value, args[0], index)
            case "matmul":
                return self.psi_matmul(value, args, index)
            case "argmax":
                return self.psi_argmax(value, args[0], index)
            case "argsort":
                return self.psi_argsort(value, args[0], index)
            case "scan" | "part":
                from moa.psi.scans import psi_scan

                return psi_scan(self, value, index)
        raise MoaError("support", f"`{value.op}` is not compiled yet", value.span, "it works in the oracle only")

    def all(self, wanted: list[tuple[Value, Index]]) -> list[Element]:
        """One element of each of some values, visited in the order that was asked for."""
        if self.order.last_first:
            return [self.psi(x, at) for x, at in reversed(wanted)][::-1]
        return [self.psi(x, at) for x, at in wanted]

    def input(self, name: str, value: Value, index: Index) -> Element:
        at = tuple(const(0) if e.as_int() == 1 else p for e, p in zip(value.shape, index, strict=True))
        match value.kind:
            case "f":
                return load(name, at) if at else Scalar("param", (name,))
            case "i":
                return poly.atom("load", name, at) if at else poly.atom("int", name)
            case _:
                return Cond("load", (name, at)) if at else negate(is_zero(poly.atom("int", name)))

    def psi_scalar(self, value: Value, args: list[Value], index: Index) -> Element:
        shapes = tuple(x.shape for x in args)
        indices = self.fire(scalar_rule(value, shapes), index, shapes)
        operands = self.all(list(zip(args, indices, strict=True)))
        match value.op:
            case "fill":
                return operands[0]
            case "cast":
                return cast(operands[0], value.kind)
            case "select":
                return select(*operands)
            case op:
                out = elementwise(op, operands)
                if isinstance(out, Scalar) and counts(out):
                    return choose(self.fire(COUNT, out.args[0].args[0]), lit(-math.inf), out)
                return out

    # structural operators ------------------------------------------------------------------------------------------

    def applied(self, value: Value, index: Index) -> tuple[Value, Index]:
        """The operand of a structural operator, and the index in it."""
        x = self.program.values[value.args[0]]
        match value.op:
            case "transpose":
                t = value.attrs[0]
                if t == tuple(range(len(t)))[::-1]:
                    return x, self.fire("transpose", index)
                return x, self.fire("permute", index, t)
            case "reshape":
                return x, self.fire("ravel" if len(value.shape) == 1 else "reshape", index, value.shape, x.shape)
            case "rotate":
                k, axis = value.attrs
                return x, self.on_axis("rotate", axis, index, x.shape[axis], k)
            case _:
                return x, self.indexed(value.attrs[0], x, index)

    def indexed(self, items: tuple[ir.IndexItem, ...], x: Value, index: Index) -> Index:
        axis = 0  # the axes of x before it are done
        for item in items:
            match item:
                case New():
                    index = self.on_axis("new axis", axis, index)
                    continue
                case At(j):
                    index = self.on_axis("psi", axis, index, j)
                case Range():
                    for rule, parameters in range_rules(item, x.shape[axis]):
                        index = self.on_axis(rule, axis, index, x.shape[axis], *parameters)
                case Gather(number):
                    picked = self.program.values[number]
                    rank = len(picked.shape)
                    element = self.psi(picked, index[axis : axis + rank])
                    assert isinstance(element, Poly)
                    index = self.on_axis("gather", axis, index, rank, element)
            axis += 1
        return index

    def viewed(self, value: Value, index: Index) -> tuple[Value, Index]:
        """As `applied` for a whole chain of structural operators, composed on variables first."""
        if value.number not in self.views:
            base, at = value, tuple(poly.var(f"?{k}") for k in range(len(value.shape)))
            while base.op in STRUCTURAL:
                base, at = self.applied(base, at)
            self.views[value.number] = base, at
        base, at = self.views[value.number]
        names = {f"?{k}": p for k, p in enumerate(index)}
        return base, tuple(p.rename(names) for p in at)

    def psi_concat(self, value: Value, args: list[Value], index: Index) -> Element:
        axis = value.attrs[0]
        first, left, right = self.fire("cat", index[axis:], args[0].shape[axis])
        frame = index[:axis]
        a, b = self.all([(args[0], (*frame, *left)), (args[1], (*frame, *right))])
        return select(first, a, b)

    # reductions ----------------------------------------------------------------------------------------------------

    def along(self, value: Value, x: Value, axis: int) -> tuple[tuple[Axis, ...], str, Index]:
        """For a reduction of x along an axis: outer axes, the reduced variable, and the index of an element of x."""
        axes, at = axes_of(value.shape)
        red = free_name(axes)
        here = const(0) if x.shape[axis].as_int() == 1 else poly.var(red)
        return axes, red, self.on_axis("reduce", axis, at, here)

    def psi_reduce(self, value: Value, x: Value, index: Index) -> Element:
        op, axis = value.attrs
        if value.number not in self.reduced:
            axes, red, at = self.along(value, x, axis)
            body = as_scalar(self.psi(x, at))
            kind: Kind = "i" if value.kind == "i" else "f"
            name = self.reduce(LOGICAL.get(op, op), x.shape[axis], axes, red, body, kind)
            self.reduced[value.number] = (name, value.shape)
        element = self.use(value, index)
        if op in LOGICAL:
            assert isinstance(element, Scalar)
            return compare("gt", element, lit(0))
        return element

    def psi_matmul(self, value: Value, args: list[Value], index: Index) -> Element:
        a, b = args
        if value.number not in self.reduced:
            axes, at = axes_of(value.shape)
            red = free_name(axes)
            extent = a.shape[-1]
            k = const(0) if extent.as_int() == 1 else poly.var(red)
            left, right = self.fire("inner product", at, len(a.shape), len(b.shape), k)
            x, y = self.all([(a, aligned(left, a.shape)), (b, aligned(right, b.shape))])
            body = as_scalar(elementwise("mul", [x, y]))
            kind: Kind = "i" if value.kind == "i" else "f"
            self.reduced[value.number] = (self.reduce("add", extent, axes, red, body, kind), value.shape)
        return self.use(value, index)

    def psi_argmax(self, value: Value, x: Value, index: Index) -> Element:
        """argmax x = min {j : x[j] == max x}, where the first NaN counts as the maximum, as in NumPy.

        For floats that is one reduction, which makes each x[j] once.
        """
        axis = value.attrs[0]
        if value.number not in self.reduced:
            axes, red, at = self.along(value, x, axis)
            element = self.psi(x, at)
            self.count("argmax")
            if x.kind == "i":
                name = self.reduce("max", x.shape[axis], axes, red, as_scalar(element), "i")
                largest = poly.atom("load", name, tuple(poly.var(v) for v, _ in axes))
                body = choose(relation("eq", element, largest), integer(poly.var(red)), lit(math.inf))
                name = self.reduce("min", x.shape[axis], axes, red, body, "i")
            else:  # numbers that are made twice may be rounded in two ways: none need equal the maximum
                name = self.reduce("argmax", x.shape[axis], axes, red, as_scalar(element), "i")
            self.reduced[value.number] = (name, value.shape)
        return self.use(value, index)

    def psi_argsort(self, value: Value, x: Value, index: Index) -> Element:
        """The stable permutation: rank[i] counts what comes before i, order[k] is the i of rank k.

        x[j] comes before x[i] if it is smaller, or equal with j < i; a NaN is larger than any number.
        """
        axis = value.attrs[0]
        axes, at = axes_of(value.shape)
        if x.shape[axis].as_int() == 1:
            return const(0)
        if value.number not in self.reduced:
            self.count("argsort")
        if value.number not in self.reduced and x.op == "argsort" and x.attrs[0] == axis:
            inner = self.program.values[x.args[0]]  # the permutation that undoes an order is the ranks
            self.reduced[value.number] = (self.rank(inner, axis), value.shape)
        if value.number not in self.reduced:
            here, there = at[axis], poly.var(free_name(axes))
            other = (*at[:axis], there, *at[axis + 1 :])
            place = tuple(p for p, e in zip(other, value.shape, strict=True) if e.as_int() != 1)
            match_ = is_zero(poly.atom("load", self.rank(x, axis), place) - here)
            body = choose(match_, integer(there), lit(math.inf))
            self.reduced[value.number] = (self.reduce("min", x.shape[axis], axes, "j", body, "i"), value.shape)
        return self.use(value, index)

    def rank(self, x: Value, axis: int) -> str:
        """The array of ranks along an axis: how many elements come before each."""
        if (x.number, axis) not in self.ranks:
            axes, at = axes_of(x.shape)
            here, there = at[axis], poly.var(free_name(axes))
            other = (*at[:axis], there, *at[axis + 1 :])
            a, b = self.psi(x, other), self.psi(x, at)
            nan_a, nan_b = relation("ne", a, a), relation("ne", b, b)
            less = either(relation("lt", a, b), both(negate(nan_a), nan_b))
            equal = either(relation("eq", a, b), both(nan_a, nan_b))
            before = either(less, both(equal, at_least_zero(here - there - 1)))
            body = choose(before, lit(1), lit(0))
            self.ranks[x.number, axis] = self.reduce("add", x.shape[axis], axes, "j", body, "i")
        return self.ranks[x.number, axis]

    def count(self, rule: str) -> None:
        self.trace.counts[rule] = self.trace.counts.get(rule, 0) + 1


def is_arithmetic(s: Scalar) -> bool:
    """Whether an integer reads an array and takes several divisions, choices or other reads beside."""
    kinds = [a.kind for a in scalar_atoms(s)]
    return "load" in kinds and sum(k in ("load", "div", "select") for k in kinds) > 2


def relation(op: str, a: Element, b: Element) -> Cond:
    out = elementwise(op, [a, b])
    assert isinstance(out, Cond)
    return out


def free_name(axes: tuple[Axis, ...]) -> str:
    """The name of the reduced variable: none of an equation's outer variables has it."""
    assert all(v != "j" for v, _ in axes)
    return "j"


def content(outer: tuple[Axis, ...], red: str, domain: Cond, pieces: tuple[Piece, ...]) -> tuple[object, ...]:
    """Domain and pieces with variables numbered by position: equal iff the equations are the same."""
    names = {v: poly.var(f"#{k}") for k, (v, _) in enumerate(outer)} | {red: poly.var("#r")}
    return (
        rename_cond(domain, names),
        tuple(sorted(((rename_cond(c, names), rename(s, names)) for c, s in pieces), key=str)),
    )
