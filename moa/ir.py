"""The two front representations: the syntax tree that `parse` makes and the typed Program that `check` makes."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from moa.ops import Kind
from moa.poly import Poly
from moa.text import Span

# The syntax tree. Every node has a span. -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Num:
    value: Fraction
    is_int: bool
    span: Span


@dataclass(frozen=True, slots=True)
class Name:
    name: str
    span: Span


@dataclass(frozen=True, slots=True)
class Call:
    """f(args, key=value); `function` is a name: functions are not values, except as an argument by name."""

    function: Name
    args: tuple[Expr, ...]
    keywords: tuple[tuple[Name, Expr], ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Unary:
    """op is "-", "+", "~", or a prefix glyph of MoA by its word ("rho", "tau", "iota", ...)."""

    op: str
    operand: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Binary:
    """op is "+ - * / // % ** @ & |", or an infix glyph of MoA by its word ("psi", "take", "drop", "cat", ...)."""

    op: str
    left: Expr
    right: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Compare:
    """a < b <= c: operators and operands in turn; a chain means `and`."""

    ops: tuple[str, ...]
    operands: tuple[Expr, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class SliceItem:
    """start:stop:step in an index; each may be absent."""

    start: Expr | None
    stop: Expr | None
    step: Expr | None
    span: Span


@dataclass(frozen=True, slots=True)
class NewAxis:
    """None in an index."""

    span: Span


@dataclass(frozen=True, slots=True)
class RestItem:
    """... in an index."""

    span: Span


@dataclass(frozen=True, slots=True)
class Subscript:
    array: Expr
    items: tuple[Expr | SliceItem | NewAxis | RestItem, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Transposed:
    """x.T: the last two axes swapped."""

    array: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Sequence:
    """(a, b) or [a, b]: a tuple of values, or a vector of sizes where one is expected."""

    items: tuple[Expr, ...]
    span: Span


Expr = Num | Name | Call | Unary | Binary | Compare | Subscript | Transposed | Sequence


@dataclass(frozen=True, slots=True)
class Assign:
    """targets = value; a nested pattern `(a, b), c = ...` is a tuple of targets."""

    targets: tuple[Any, ...]  # of Name or of such a tuple; of length 1 for `x = ...`
    unpack: bool  # False for `x = ...`
    value: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Return:
    values: tuple[Expr, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a function.

    dims     None where none are written: a scalar if `kind` is written, anything otherwise (helper functions);
             else an expression of sizes per axis, Name("...") standing for the list of leading axes
    kind     "f", "i" or "b" where written or implied by dims, else ""
    default  an expression or None
    """

    name: Name
    dims: tuple[Expr, ...] | None
    kind: Kind | Literal[""]
    default: Expr | None
    span: Span


@dataclass(frozen=True, slots=True)
class Function:
    name: Name
    parameters: tuple[Parameter, ...]
    body: tuple[Assign | Return, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Source:
    """A parsed text: its functions in order; the last one is the kernel."""

    functions: tuple[Function, ...]
    span: Span


# The typed Program: everything inlined, one operation a value. -----------------------------------------------------

Shape = tuple[Poly, ...]
Default = Fraction | float | bool | None


@dataclass(frozen=True, slots=True)
class Input:
    """A parameter of the kernel: an array, or a scalar where `shape` is ().

    `shape` has one Poly an axis; it names each size at least once as exactly `size(name)` somewhere in the program.
    A literal 1 broadcasts. `default` is what a scalar is worth where the caller gives none.
    """

    name: str
    kind: Kind
    shape: Shape
    span: Span
    default: Default = None


# Items of an `index` operation, one per axis of the operand (New: none):


@dataclass(frozen=True, slots=True)
class Range:
    """start, start + step, ...: count of them. The whole axis is Range(0, 1, extent)."""

    start: Poly
    step: int
    count: Poly


@dataclass(frozen=True, slots=True)
class At:
    """One index; the axis disappears. Known to be in bounds, or an obligation says so."""

    index: Poly


@dataclass(frozen=True, slots=True)
class New:
    """A new axis of literal extent 1."""


@dataclass(frozen=True, slots=True)
class Gather:
    """The elements that an integer array (a value) names; its shape replaces the axis. At most one in an index."""

    value: int


IndexItem = Range | At | New | Gather


@dataclass(frozen=True, slots=True)
class Value:
    """One operation of a Program; operands are numbers of earlier values. `shape` is that of the result.

    op            args        attrs
    input         ()          (name,)                     an array or scalar parameter
    literal       ()          (Fraction | float | bool,)  exact; inf, -inf, nan as floats; shape ()
    size          ()          (Poly,)                     kind "i", shape (): sizes and integer parameters
    iota          ()          (extent,)                   kind "i", shape (extent,)
    fill          (x,)        ()                          a scalar value broadcast to `shape`
    <operator>    operands    ()                          a name in OPERATORS; operands broadcast as in NumPy
    select        (c, a, b)   ()                          where; broadcast
    cast          (x,)        ()                          to `kind` (int or bool to float, bool to int)
    reduce        (x,)        (operator, axis)            the axis disappears
    matmul        (a, b)      ()                          NumPy's matmul, vectors included
    index         (x, *idx)   (items,)                    a tuple of IndexItem; Gather.value is a value number
    transpose     (x,)        (permutation,)              result axis k is axis permutation[k] of x
    reshape       (x,)        ()                          to `shape`
    concat        (a, b)      (axis,)
    rotate        (x,)        (k, axis)                   result[0] is x[k]; k is a Poly
    argmax        (x,)        (axis,)                     kind "i"; the first maximum
    argsort       (x,)        (axis,)                     kind "i"; stable
    scan          (x...,)     (Scan,)                     see `Scan`
    part          (s,)        (k,)                        component k of a scan of several components
    """

    number: int
    op: str
    args: tuple[int, ...]
    attrs: tuple[Any, ...]
    shape: Shape
    kind: Kind
    span: Span


@dataclass(frozen=True, slots=True)
class Scan:
    """A scan or fold along one axis with a body on cells.

    body       a Program: for an associative operator its inputs are the components of p, then those of q; for a step
               function those of the state, then those of this step's cells; its outputs are the new components
    step       True for a step function
    keep       False for `fold`: only the last state
    exclusive, reverse   as named
    start      identity (literal scalars as values) or initial state: value numbers
    """

    body: Program
    axis: int
    step: bool
    keep: bool
    exclusive: bool
    reverse: bool
    start: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Obligation:
    """A fact about sizes that check relied on and the call must test: left == right, or left >= right, or d | a."""

    relation: Literal["==", ">=", "divides"]
    left: Poly
    right: Poly
    span: Span
    reason: str


@dataclass(frozen=True, slots=True)
class Program:
    """A typed program: values in order, outputs by number. Nothing in it is unused."""

    name: str
    inputs: tuple[Input, ...]
    values: tuple[Value, ...]
    outputs: tuple[int, ...]
    obligations: tuple[Obligation, ...]
    span: Span

    def sizes(self) -> tuple[str, ...]:
        """The names of the sizes, in the order of the parameters."""
        out: dict[str, None] = {}
        for p in self.inputs:
            for extent in p.shape:
                for a in sorted(extent.atoms(), key=str):
                    if a.kind == "size":
                        out[a.name] = None
        return tuple(out)
