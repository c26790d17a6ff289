"""Normalise: psi-reduction of a typed Program to a system of equations.

An array is a shape and an index function, so every structural operator vanishes into the index of its operand: each
rule below is one line of `PSI`. What remains are Reduces and the outputs. Everything else is inlined here; which
sub-expressions deserve a name is decided afterwards, from the whole system (`moa.naming`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from moa import poly
from moa.ir import At, Gather, New, Program, Range, Scan, Value
from moa.normal import (
    FALSE,
    TRUE,
    ArrayInput,
    Axis,
    Component,
    Cond,
    Eq,
    Index,
    Normal,
    Piece,
    Recurrence,
    Scalar,
    apply,
    at_least_zero,
    both,
    choose,
    compare,
    either,
    integer,
    is_structural,
    is_zero,
    lit,
    load,
    loads,
    map_scalar,
    negate,
    rename,
    rename_cond,
    scalar_atoms,
    subterms,
)
from moa.ops import OPERATORS, Kind
from moa.poly import Atom, Poly, const
from moa.rewrite import Table, Trace
from moa.text import MoaError

PSI = Table("normalise")
MAX_PIECES = 64

Element = Scalar | Poly | Cond  # one element of a float, integer or bool value


def normalise(program: Program, trace: Trace) -> Normal:
    """The system of equations of a program: Reduces and one Map an output, everything else inlined.

    Source: the psi calculus, rows 1 to 23 of Mullin's rules; index functions compose on demand.
    """
    builder = _Builder(program, trace, taken={p.name for p in program.inputs})
    outputs = tuple(builder.output(k, number) for k, number in enumerate(program.outputs))
    inputs = tuple(ArrayInput(p.name, p.kind, p.shape) for p in program.inputs)
    recurrences = tuple(builder.recurrences)
    return Normal(program.name, inputs, tuple(builder.equations), outputs, recurrences, tuple(builder.stored))


OUTER_NAMES = ("i", "c", "h", "b", "g", "u", "v", "w", "x", "y", "z")


def axes_of(shape: tuple[Poly, ...]) -> tuple[tuple[Axis, ...], Index]:
    """Index variables for the axes of a shape that are not of literal extent 1, and the index they make."""
    axes: list[Axis] = []
    index: list[Poly] = []
    count = sum(extent.as_int() != 1 for extent in shape)
    for extent in shape:
        if extent.as_int() == 1:
            index.append(const(0))
            continue
        k = len(axes)
        place = count - 1 - k  # from the right: 0 is the last axis
        name = OUTER_NAMES[0] if count == 1 else (OUTER_NAMES[1 - place] if place < 2 else f"b{k}")
        axes.append((name, extent))
        index.append(poly.var(name))
    return tuple(axes), tuple(index)


def cell_axes(shape: tuple[Poly, ...]) -> tuple[tuple[Axis, ...], Index]:
    """Index variables for the axes of a cell, by position: components that share leading axes share their names."""
    index = tuple(const(0) if e.as_int() == 1 else poly.var(f"a{k}") for k, e in enumerate(shape))
    return tuple((f"a{k}", e) for k, e in enumerate(shape) if e.as_int() != 1), index


@dataclass(slots=True)
class _Builder:
    program: Program
    trace: Trace
    equations: list[Eq] = field(default_factory=list)
    known: dict[tuple[object, ...], str] = field(default_factory=dict)
    reduced: dict[int, tuple[str, tuple[Poly, ...]]] = field(default_factory=dict)
    scans: dict[int, Recurrence] = field(default_factory=dict)
    recurrences: list[Recurrence] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)
    bound: dict[str, Callable[[Index], Element]] = field(default_factory=dict)  # inputs of the body of a scan
    prefix: str = ""
    taken: set[str] = field(default_factory=set)

    def count(self, rule: str) -> None:
        self.trace.counts[rule] = self.trace.counts.get(rule, 0) + 1

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
        element = self.psi(value, index)
        body = as_scalar(element)
        name = self.name(f"out{k}" if len(self.program.outputs) > 1 else "out")
        # an output always has all its axes, those of literal extent 1 included
        names = iter(axes)
        outer = tuple((f"o{j}", e) if e.as_int() == 1 else next(names) for j, e in enumerate(value.shape))
        self.equations.append(Eq(name, "map", outer, ((TRUE, body),), dtype=value.kind))
        return name

    def reduce(self, op: str, extent: Poly, outer: tuple[Axis, ...], red: str, body: Scalar, dtype: Kind = "f") -> str:
        """The name of the Reduce: of an equal one if there is one."""
        domain, pieces = split(op, red, body, self.trace)
        key = (op, dtype, extent, tuple(e for _, e in outer), *canonical(outer, red, domain, pieces))
        if key in self.known:
            return self.known[key]
        name = self.name("r" + str(len(self.equations)))
        self.equations.append(Eq(name, "reduce", outer, pieces, op, (red, extent), domain, dtype))
        self.known[key] = name
        return name

    # the psi function ----------------------------------------------------------------------------------------------

    def psi(self, value: Value, index: Index) -> Element:
        """One element of a value: the index goes in, a scalar, an integer or a condition comes out."""
        assert len(index) == len(value.shape), value
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
                self.count("iota")
                return index[0]
            case "fill":
                return self.psi(args[0], ())
            case "cast":
                return cast(self.psi(args[0], aligned(args[0], index)), value.kind)
            case "select":
                c, a, b = (self.psi(x, aligned(x, index)) for x in args)
                return select(c, a, b)
            case "reduce":
                return self.psi_reduce(value, args[0], index)
            case "matmul":
                return self.psi_matmul(value, args, index)
            case "argmax":
                return self.psi_argmax(value, args[0], index)
            case "argsort":
                return self.psi_argsort(value, args[0], index)
            case "scan":
                return self.psi_scan(value, 0, index)
            case "part":
                return self.psi_scan(args[0], value.attrs[0], index)
            case op if op in OPERATORS:
                return elementwise(op, [self.psi(x, aligned(x, index)) for x in args])
            case op if op in STRUCTURAL:
                self.count(STRUCTURAL[op].name)
                return self.psi(args[0], STRUCTURAL[op].apply(value, args[0], index))
            case "index":
                return self.psi_index(value, args, index)
            case "concat":
                return self.psi_concat(value, args, index)
        raise MoaError("support", f"`{value.op}` is not compiled yet", value.span, "it works in the oracle only")

    def input(self, name: str, value: Value, index: Index) -> Element:
        at = tuple(const(0) if e.as_int() == 1 else p for e, p in zip(value.shape, index, strict=True))
        match value.kind:
            case "f":
                return load(name, at) if at else Scalar("param", (name,))
            case "i":
                return poly.atom("load", name, at) if at else poly.atom("int", name)
            case _:
                return Cond("load", (name, at))

    def psi_reduce(self, value: Value, x: Value, index: Index) -> Element:
        op, axis = value.attrs
        logical = op in ("and", "or")
        if value.number not in self.reduced:
            axes, red, at = along(value, x, axis)
            body = as_scalar(self.psi(x, at))
            scalar_op = {"and": "min", "or": "max"}.get(op, op)
            name = self.reduce(scalar_op, x.shape[axis], axes, red, body, "i" if value.kind == "i" else "f")
            self.reduced[value.number] = (name, value.shape)
        if value.kind == "i":
            return self.use_integer(value, index)
        element = self.use(value, index)
        return compare("gt", element, lit(0)) if logical else element

    def psi_argmax(self, value: Value, x: Value, index: Index) -> Poly:
        """argmax x = min {j : x[j] == max x}, where the first NaN counts as the maximum, as in NumPy."""
        axis = value.attrs[0]
        if value.number not in self.reduced:
            axes, red, at = along(value, x, axis)
            element = as_scalar(self.psi(x, at))
            largest = load(self.reduce("max", x.shape[axis], axes, red, element), (poly.var(v) for v, _ in axes))
            found = either(compare("eq", element, largest), compare("ne", element, element))
            body = choose(found, integer(poly.var(red)), lit(math.inf))
            self.count("argmax")
            self.reduced[value.number] = (self.reduce("min", x.shape[axis], axes, red, body, "i"), value.shape)
        return self.use_integer(value, index)

    def psi_argsort(self, value: Value, x: Value, index: Index) -> Poly:
        """The stable permutation: rank[i] counts what comes before i, order[k] is the i of rank k.

        x[j] comes before x[i] if it is smaller, or equal with j < i; a NaN is larger than any number.
        """
        axis = value.attrs[0]
        if value.number not in self.reduced:
            axes, at = axes_of(value.shape)
            extent = x.shape[axis]
            if extent.as_int() == 1:
                return const(0)
            here, there = at[axis], poly.var("j")
            other = (*at[:axis], there, *at[axis + 1 :])
            a, b = as_scalar(self.psi(x, other)), as_scalar(self.psi(x, at))
            nan_a, nan_b = compare("ne", a, a), compare("ne", b, b)
            less = either(compare("lt", a, b), both(negate(nan_a), nan_b))
            equal = either(compare("eq", a, b), both(nan_a, nan_b))
            before = either(less, both(equal, at_least_zero(here - there - 1)))
            rank = self.reduce("add", extent, axes, "j", choose(before, lit(1), lit(0)), "i")
            place = tuple(p for p, e in zip(other, value.shape, strict=True) if e.as_int() != 1)
            match_ = is_zero(poly.atom("load", rank, place) - here)
            body = choose(match_, integer(there), lit(math.inf))
            self.count("argsort")
            self.reduced[value.number] = (self.reduce("min", extent, axes, "j", body, "i"), value.shape)
        return self.use_integer(value, index)

    def psi_matmul(self, value: Value, args: list[Value], index: Index) -> Scalar:
        a, b = args
        if value.number not in self.reduced:
            axes, at = axes_of(value.shape)
            red = free_name(axes)
            k = poly.var(red)
            extent = a.shape[-1]
            rest = len(value.shape) - (len(a.shape) > 1) - (len(b.shape) > 1)
            batch, tail = at[:rest], at[rest:]
            left = (*batch, tail[0], k) if len(a.shape) > 1 else (k,)
            right = (*batch, k, tail[-1]) if len(b.shape) > 1 else (k,)
            if extent.as_int() == 1:
                left, right = (*left[:-1], const(0)), (*right[:-2], const(0), *right[-1:]) if len(right) > 1 else (k,)
            x = as_scalar(self.psi(a, aligned(a, left)))
            y = as_scalar(self.psi(b, aligned(b, right)))
            self.count("inner product")
            self.reduced[value.number] = (self.reduce("add", extent, axes, red, apply("mul", x, y)), value.shape)
        return self.use(value, index)

    def psi_scan(self, value: Value, k: int, index: Index) -> Scalar:
        """One element of component k of a scan, which becomes a Recurrence."""
        if value.number not in self.scans:
            self.scans[value.number] = self.recurrence(value)
        r = self.scans[value.number]
        shape = value.attrs[0].body.values[value.attrs[0].body.outputs[k]].shape
        place = value.attrs[0].axis
        shape = (*shape[:place], r.axis[1], *shape[place:]) if r.keep else shape
        at = (
            p for d, (p, e) in enumerate(zip(index, shape, strict=True)) if e.as_int() != 1 or (r.keep and d == place)
        )
        return load(r.components[k].name, at)

    def recurrence(self, value: Value) -> Recurrence:
        """The Recurrence of a scan: its body by psi on cells, its operands read at position t."""
        scan: Scan = value.attrs[0]
        name = self.name(f"s{len(self.recurrences)}")
        xs = [self.program.values[n] for n in value.args]
        extent = xs[0].shape[scan.axis]
        t = f"{name}.t"
        now = extent - 1 - poly.var(t) if scan.reverse else poly.var(t)
        cells = [scan.body.values[n].shape for n in scan.body.outputs]
        if any(scan.body.values[n].kind != "f" for n in scan.body.outputs):
            raise MoaError("support", "a scan of integers is not compiled yet", value.span, "cast it: `1.0 * x`")
        names = [f"{name}.{k}" if len(cells) > 1 else name for k in range(len(cells))]
        axes = [cell_axes(shape) for shape in cells]
        bound: dict[str, Callable[[Index], Element]] = {}
        for k, shape in enumerate(cells):
            bound[scan.body.inputs[k].name] = self.state_reader(f"{names[k]}#0", shape)
        for k, x in enumerate(xs):
            bound[scan.body.inputs[len(cells) + k].name] = self.cell_reader(x, scan.axis, now)
        inner = _Builder(scan.body, self.trace, bound=bound, prefix=f"{name}.", taken=self.taken)
        components = []
        for k, (outer, at) in enumerate(axes):
            body = as_scalar(inner.psi(scan.body.values[scan.body.outputs[k]], at))
            start = as_scalar(self.psi(self.program.values[scan.start[k]], at[len(at) - self.rank(scan.start[k]) :]))
            if not scan.step:  # op(identity, x) = x, literally
                first = as_scalar(bound[scan.body.inputs[len(cells) + k].name](at))
                body = choose(is_zero(poly.var(t)), first, body)
            components.append(Component(names[k], outer, start, body))
        self.count("scan")
        place = sum(e.as_int() != 1 for e in cells[0][: scan.axis])
        made = Recurrence(
            name, (t, extent), place, tuple(components), tuple(inner.equations), scan.exclusive, scan.reverse, scan.keep
        )
        self.recurrences.append(made)
        return made

    def rank(self, number: int) -> int:
        return len(self.program.values[number].shape)

    def state_reader(self, array: str, shape: tuple[Poly, ...]) -> Callable[[Index], Element]:
        def read(index: Index) -> Element:
            return load(array, (p for p, e in zip(index, shape, strict=True) if e.as_int() != 1))

        return read

    def cell_reader(self, x: Value, axis: int, now: Poly) -> Callable[[Index], Element]:
        """Reads the cell of an operand at a position; an operand that is reduced first becomes an array in memory."""
        outer, at = axes_of(x.shape)
        element = self.psi(x, at)
        known = {e.name for e in self.equations}
        inline = not isinstance(element, Scalar) or not any(a in known for a, _ in loads(element))
        if not inline:
            assert isinstance(element, Scalar)
            name = self.name(f"x{len(self.stored)}")
            self.equations.append(Eq(name, "map", outer, ((TRUE, element),)))
            self.stored.append(name)

        def read(index: Index) -> Element:
            full = (*index[:axis], now, *index[axis:])
            if inline:
                return self.psi(x, full)
            return load(name, (p for p, e in zip(full, x.shape, strict=True) if e.as_int() != 1))

        return read

    def use(self, value: Value, index: Index) -> Scalar:
        """A load of the Reduce that a value became: its axes of literal extent 1 are absent there."""
        name, shape = self.reduced[value.number]
        return load(name, (p for p, e in zip(index, shape, strict=True) if e.as_int() != 1))

    def use_integer(self, value: Value, index: Index) -> Poly:
        name, shape = self.reduced[value.number]
        return poly.atom("load", name, (p for p, e in zip(index, shape, strict=True) if e.as_int() != 1))

    def psi_index(self, value: Value, args: list[Value], index: Index) -> Element:
        x, items = args[0], value.attrs[0]
        rest = list(index)
        at: list[Poly] = []
        for item in items:
            match item:
                case New():
                    self.count("new axis")
                    rest.pop(0)
                case At():
                    self.count("psi")
                    at.append(item.index)
                case Range():
                    self.count("take and drop")
                    at.append(item.start + item.step * rest.pop(0))
                case Gather():
                    self.count("gather")
                    picked = self.program.values[item.value]
                    place = tuple(rest.pop(0) for _ in picked.shape)
                    element = self.psi(picked, place)
                    assert isinstance(element, Poly)
                    at.append(element)
        return self.psi(x, (*at, *rest))

    def psi_concat(self, value: Value, args: list[Value], index: Index) -> Element:
        axis = value.attrs[0]
        self.count("cat")
        a, b = args
        cut = a.shape[axis]
        p = index[axis]
        first = self.psi(a, index)
        second = self.psi(b, (*index[:axis], p - cut, *index[axis + 1 :]))
        return select(at_least_zero(cut - 1 - p), first, second)


def free_name(axes: tuple[Axis, ...]) -> str:
    """The name of the reduced variable: none of an equation's outer variables has it."""
    assert all(v != "j" for v, _ in axes)
    return "j"


def along(value: Value, x: Value, axis: int) -> tuple[tuple[Axis, ...], str, Index]:
    """For a reduction of x along an axis: outer axes, the reduced variable, and the index of an element of x."""
    axes, at = axes_of(value.shape)
    red = free_name(axes)
    here = const(0) if x.shape[axis].as_int() == 1 else poly.var(red)
    return axes, red, (*at[:axis], here, *at[axis:])


def aligned(x: Value, index: Index) -> Index:
    """The index of a broadcast operand: leading axes dropped, axes of literal extent 1 at 0."""
    tail = index[len(index) - len(x.shape) :]
    return tuple(const(0) if e.as_int() == 1 else p for e, p in zip(x.shape, tail, strict=True))


def literal(value: Value) -> Element:
    v = value.attrs[0]
    match value.kind:
        case "f":
            return lit(v)
        case "i":
            return const(v)
        case _:
            return TRUE if v else FALSE


def as_scalar(e: Element) -> Scalar:
    out = cast(e, "f")
    assert isinstance(out, Scalar)
    return out


def cast(e: Element, kind: str) -> Element:
    match e, kind:
        case Poly(), "f":
            return integer(e)
        case Cond(), "f":
            return choose(e, lit(1), lit(0))
        case Cond(), "i":
            return poly.select(e, const(1), const(0))
        case Poly(), "b":
            return negate(is_zero(e))
    return e


def select(c: Element, a: Element, b: Element) -> Element:
    assert isinstance(c, Cond)
    match a, b:
        case Scalar(), Scalar():
            return choose(c, a, b)
        case Poly(), Poly():
            return poly.select(c, a, b)
        case Cond(), Cond():
            return either(both(c, a), both(negate(c), b))
    raise AssertionError((a, b))


def elementwise(op: str, operands: list[Element]) -> Element:
    """An operator on one element of each operand."""
    match operands:
        case [Scalar() as a, Scalar() as b] if op in ("lt", "le", "gt", "ge", "eq", "ne"):
            return compare(op, a, b)
        case [Poly() as a, Poly() as b]:
            return integer_operation(op, a, b)
        case [Poly() as a]:
            return -a if op == "neg" else poly.absolute(a)
        case [Cond() as a, Cond() as b]:
            match op:
                case "and":
                    return both(a, b)
                case "or":
                    return either(a, b)
                case "eq":
                    return either(both(a, b), both(negate(a), negate(b)))
                case "ne":
                    return either(both(a, negate(b)), both(negate(a), b))
        case [Cond() as a]:
            return negate(a)
    scalars = [x for x in operands if isinstance(x, Scalar)]
    assert len(scalars) == len(operands), (op, operands)
    return apply(op, *scalars)


def integer_operation(op: str, a: Poly, b: Poly) -> Element:
    match op:
        case "add":
            return a + b
        case "sub":
            return a - b
        case "mul":
            return a * b
        case "floordiv":
            return a // b
        case "mod":
            return a % b
        case "max":
            return poly.maximum(a, b)
        case "min":
            return poly.minimum(a, b)
        case "lt":
            return at_least_zero(b - a - 1)
        case "le":
            return at_least_zero(b - a)
        case "gt":
            return at_least_zero(a - b - 1)
        case "ge":
            return at_least_zero(a - b)
        case "eq":
            return is_zero(a - b)
        case _:
            assert op == "ne", op
            return negate(is_zero(a - b))


# Structural rules: (value, operand, index) -> index of the operand --------------------------------------------------


@PSI.law("transpose", "p psi (t transpose A) = q psi A, q[t[k]] = p[k]", source="MoA rule 16")
def transpose_index(value: Value, x: Value, index: Index) -> Index:
    out: list[Poly] = [const(0)] * len(index)
    for k, axis in enumerate(value.attrs[0]):
        out[axis] = index[k]
    return tuple(out)


@PSI.law("rotate", "p psi (k rotate A) = ((p0 + k) mod s0, ..) psi A", source="MoA rule 14")
def rotate_index(value: Value, x: Value, index: Index) -> Index:
    k, axis = value.attrs
    n = x.shape[axis]
    p = index[axis]
    shift = k.as_int()
    if shift is not None and shift >= 0:  # p + k < 2 n once k is reduced: one select instead of a division
        wrapped = p + shift
        turned = poly.select(at_least_zero(n - 1 - wrapped), wrapped, wrapped % n if shift != 1 else wrapped - n)
    else:
        turned = (p + k) % n
    return (*index[:axis], turned, *index[axis + 1 :])


@PSI.law("reshape", "p psi (v reshape A) = gamma'(gamma(p; v); s) psi A, on a common refinement", source="MoA rule 9")
def reshape_index(value: Value, x: Value, index: Index) -> Index:
    return regroup(value.shape, x.shape, index)


STRUCTURAL = {"transpose": PSI["transpose"], "rotate": PSI["rotate"], "reshape": PSI["reshape"]}

PSI.law("new axis", "p psi A[None] = (p without it) psi A", source="reshape by a unit axis")(None)
PSI.law("psi", "p psi (j psi A) = (j cat p) psi A", source="MoA rule 2, composition of psi")(None)
PSI.law(
    "take and drop", "p psi (u drop A) = (p + u) psi A; strides and reversal likewise", source="MoA rules 10, 11, 13"
)(None)
PSI.law("iota", "(p) psi iota n = p", source="MoA rule 4")(None)
PSI.law("inner product", "p psi (A +.x B) = sum_k (a cat k) psi A * (k cat b) psi B", source="MoA rule 20")(None)
PSI.law("cat", "p psi (A cat B) = p psi A where p0 < s0, else (p0 - s0, ..) psi B", source="MoA rule 12")(None)
PSI.law("gather", "p psi A[idx] = (p' psi idx, p'') psi A", source="composition with a data-dependent index")(None)
PSI.law(
    "split",
    "reduce(op, where(p, x, e)) = reduce(op, x over p), e the identity; 0 * x = 0",
    contract="assumes finite",
    source="identity and absorbing elements of the operator table",
)(None)


def regroup(new: tuple[Poly, ...], old: tuple[Poly, ...], index: Index) -> Index:
    """The index in shape `old` of the element at `index` in shape `new`, row-major.

    Axes are matched in groups of equal product, so that div and mod act within a group only.
    """
    out: list[Poly] = []
    a, b = 0, 0
    while a < len(new) or b < len(old):
        take_a, take_b = 1 if a < len(new) else 0, 1 if b < len(old) else 0
        while True:
            left, right = product(new[a : a + take_a]), product(old[b : b + take_b])
            if left == right:
                break
            if a + take_a >= len(new) and b + take_b >= len(old):
                break  # equal by an obligation of check
            grow_a = left.exact_quotient(right) is None and right.exact_quotient(left) is not None
            if (grow_a or b + take_b >= len(old)) and a + take_a < len(new):
                take_a += 1
            else:
                take_b += 1
        offset = const(0)
        for p, e in zip(index[a : a + take_a], new[a : a + take_a], strict=True):
            offset = offset * e + p
        group = list(old[b : b + take_b])
        if take_a == take_b == 1:
            out.append(offset)
        else:
            out += digits(offset, group, list(zip(index[a : a + take_a], new[a : a + take_a], strict=True)))
        a, b = a + take_a, b + take_b
    return tuple(out)


def digits(offset: Poly, extents: list[Poly], parts: list[tuple[Poly, Poly]]) -> list[Poly]:
    """gamma': the index in row-major `extents` of an offset that is made of digits `parts` (index, extent)."""
    out: list[Poly] = []
    for k in range(len(extents)):
        below = product(extents[k + 1 :])
        if len(extents) == 1:
            out.append(offset)
            continue
        # trailing parts whose extents multiply to exactly `below` are what is left after the division
        tail, width = const(0), const(1)
        cut = len(parts)
        while cut > 0 and width != below:
            cut -= 1
            tail = tail + parts[cut][0] * width
            width = width * parts[cut][1]
        if width == below:
            lead = const(0)
            for p, e in parts[:cut]:
                lead = lead * e + p
            out.append(lead)
            parts, offset = parts[cut:], tail
        else:
            out.append(offset // below)
            offset = offset - below * (offset // below)
            parts = [(offset, below)]
    return out


def product(extents: tuple[Poly, ...] | list[Poly]) -> Poly:
    out = const(1)
    for e in extents:
        out = out * e
    return out


# Split: structural selects of a Reduce become its domain and pieces --------------------------------------------------


def split(op: str, red: str, body: Scalar, trace: Trace) -> tuple[Cond, tuple[Piece, ...]]:
    """The domain and the pieces of reduce(op, red, body); pieces that are the identity are dropped.

    Contract: `assumes finite` where a factor 0 has removed what it multiplies.
    """
    identity = OPERATORS[op].identity
    assert identity is not None and not isinstance(identity, bool)
    pieces: dict[Scalar, Cond] = {}
    found = 0

    def walk(x: Scalar, under: Cond) -> None:
        nonlocal found
        c = first_condition(x, red)
        if c is None or found >= MAX_PIECES:
            if x is not lit(identity):
                pieces[x] = either(pieces.get(x, FALSE), under)
            return
        found += 1
        for side, value in ((c, True), (negate(c), False)):
            here = both(under, side)
            if not here.is_false:
                walk(absorb(assume(x, c, value)), here)

    walk(body, TRUE)
    if not pieces:
        return FALSE, ((TRUE, lit(identity)),)
    if found:
        trace.counts["split"] = trace.counts.get("split", 0) + 1
    domain = either(*pieces.values())
    if len(pieces) == 1:
        return domain, ((TRUE, next(iter(pieces))),)
    return domain, tuple((c, s) for s, c in pieces.items())


def first_condition(s: Scalar, red: str) -> Cond | None:
    """A structural condition on the reduced variable that a select in s tests, outermost first."""
    for x in reversed(subterms(s)):
        if x.op == "select" and is_structural(x.args[0]) and red in x.args[0].vars():
            return x.args[0]  # type: ignore[no-any-return]
    for a in sorted(scalar_atoms(s), key=str):
        if a.kind == "select" and is_structural(a.args[0]) and red in a.args[0].vars():
            return a.args[0]  # type: ignore[no-any-return]
    return None


def assume(s: Scalar, c: Cond, value: bool) -> Scalar:
    """s with a condition known to hold, or known not to."""
    known = dict.fromkeys(c.args if c.op == "and" and value else (c,), value)
    if c.op == "or" and not value:
        known = dict.fromkeys(c.args, False)
    known |= {negate(k): not v for k, v in known.items()}

    def cond(x: Cond) -> Cond:
        if x in known:
            return TRUE if known[x] else FALSE
        match x.op:
            case "and":
                return both(*(cond(y) for y in x.args))
            case "or":
                return either(*(cond(y) for y in x.args))
            case "cmp":
                return compare(x.args[0], walk(x.args[1]), walk(x.args[2]))
        return x

    def atom(a: Atom) -> Poly | None:
        if a.kind == "select" and a.args[0] in known:
            return (a.args[1] if known[a.args[0]] else a.args[2]).replace(atom)  # type: ignore[no-any-return]
        return None

    def walk(x: Scalar) -> Scalar:
        match x.op:
            case "select":
                return choose(cond(x.args[0]), walk(x.args[1]), walk(x.args[2]))
            case "int":
                return integer(x.args[0].replace(atom))
            case "load":
                return load(x.args[0], (p.replace(atom) for p in x.args[1]))
        return apply(x.op, *(walk(y) for y in x.operands)) if x.operands else x

    return walk(s)


def absorb(s: Scalar) -> Scalar:
    """s with products and quotients of an exact 0 replaced by 0 (contract: assumes finite)."""
    zero = lit(0)

    def node(x: Scalar) -> Scalar | None:
        if x.op == "mul" and zero in x.args:
            return zero
        return zero if x.op == "div" and x.args[0] is zero else None

    return map_scalar(s, node)


def canonical(outer: tuple[Axis, ...], red: str, domain: Cond, pieces: tuple[Piece, ...]) -> tuple[object, ...]:
    """Domain and pieces with variables numbered by position: equal iff the equations are the same."""
    names = {v: poly.var(f"#{k}") for k, (v, _) in enumerate(outer)} | {red: poly.var("#r")}
    return (
        rename_cond(domain, names),
        tuple(sorted(((rename_cond(c, names), rename(s, names)) for c, s in pieces), key=str)),
    )
