"""The rules of psi: what an index of the result of an operation is in its operands.

`RULES` has one function a rule, rows 1 to 23 of Mullin's rules and the few that the language adds. All structural
rules act on axis 0 of a cell; `omega` moves them to other axes. p is the index, s the shape of the operand A, t that
of B; an index may be partial, and `cat` joins indices.
"""

from __future__ import annotations

from collections.abc import Callable

from moa.check.facts import is_negative
from moa.ir import Range, Shape, Value
from moa.normal import Cond, Index, at_least_zero
from moa.poly import Poly, const
from moa.psi.reshape import regroup
from moa.rewrite import Table

PSI = Table("normalise")

# Index and shape --------------------------------------------------------------------------------------------------

PSI.law("empty index", "<> psi A = A", source="MoA rule 1", how="check: such an index is its operand")(None)


@PSI.law("psi", "p psi (j psi A) = (j cat p) psi A", source="MoA rule 2, composition of psi")
def psi(p: Index, j: Poly) -> Index:
    return (j, *p)


PSI.law(
    "shape",
    "p psi (shape A) = s[p]; the dimension and the size of A likewise",
    source="MoA rule 3",
    how="check: polynomials of sizes",
)(None)


@PSI.law("iota", "<i> psi (iota n) = i", source="MoA rule 4")
def iota(p: Index) -> Poly:
    return p[0]


# Scalar operators: the indices of the operands --------------------------------------------------------------------


@PSI.law("scalar operator", "p psi (f A) = f (p psi A)", source="MoA rule 5")
def monad(p: Index, shapes: tuple[Shape, ...]) -> tuple[Index, ...]:
    return (p,)


@PSI.law("scalar operator on two", "p psi (A f B) = (p psi A) f (p psi B), s = t", source="MoA rule 6")
def dyad(p: Index, shapes: tuple[Shape, ...]) -> tuple[Index, ...]:
    return (p,) * len(shapes)


@PSI.law("scalar extension", "p psi (x f A) = x f (p psi A), x a scalar", source="MoA rule 7")
def extension(p: Index, shapes: tuple[Shape, ...]) -> tuple[Index, ...]:
    return tuple(p if s else () for s in shapes)


@PSI.law("outer product", "p psi (A .f B) = (q psi A) f (r psi B), p = q cat r, q as long as s", source="MoA rule 19")
def outer(p: Index, shapes: tuple[Shape, ...]) -> tuple[Index, ...]:
    a, b = shapes
    cut = len(a) - len(b)  # A has a unit axis for each axis of B
    return (*p[:cut], *(const(0) for _ in b)), p[cut:]


@PSI.law(
    "omega on two",
    "p psi (A f omega <k l> B) = ((i cat r) psi A) f ((j cat r) psi B), frames aligned on the right",
    source="MoA rule 22",
)
def omega_two(p: Index, shapes: tuple[Shape, ...]) -> tuple[Index, ...]:
    return tuple(aligned(p, s) for s in shapes)


def aligned(p: Index, shape: Shape) -> Index:
    """The index of a broadcast operand: leading axes dropped, axes of literal extent 1 at 0."""
    tail = p[len(p) - len(shape) :]
    return tuple(const(0) if e.as_int() == 1 else x for e, x in zip(shape, tail, strict=True))


def scalar_rule(value: Value, shapes: tuple[Shape, ...]) -> str:
    """Which rule a scalar operator on operands of these shapes is."""
    if len(shapes) == 1:
        return "scalar extension" if value.op == "fill" else "scalar operator"
    full = {s for s in shapes if s}
    if len(full) <= 1:
        return "scalar operator on two" if all(shapes) or not any(shapes) else "scalar extension"
    if len(shapes) == 2:
        a, b = shapes
        cut = len(a) - len(b)
        if cut > 0 and all(e == 1 for e in a[cut:]) and all(e != 1 for e in (*a[:cut], *b)):
            return "outer product"
    return "omega on two"


# Structure: the index of the operand, by the first axis of a cell -------------------------------------------------


@PSI.law("omega", "p psi (f omega <k> A) = q psi f (r psi A), p = r cat q, r the frame", source="MoA rule 21")
def omega(axis: int, p: Index, cell: Callable[[Index], Index]) -> Index:
    """The index where a rule acts on cells: the frame stays."""
    return (*p[:axis], *cell(p[axis:]))


@PSI.law("take", "p psi (u take A) = (p0 + (u < 0)(s0 + u), ..) psi A", source="MoA rule 10")
def take(p: Index, n: Poly, u: Poly) -> Index:
    return (p[0] + n + u, *p[1:]) if is_negative(u) else p


@PSI.law("drop", "p psi (u drop A) = (p0 + (u > 0) u, ..) psi A", source="MoA rule 11")
def drop(p: Index, n: Poly, u: Poly) -> Index:
    return p if is_negative(u) else (p[0] + u, *p[1:])


@PSI.law("reverse", "p psi (reverse A) = (s0 - 1 - p0, ..) psi A", source="MoA rule 13")
def reverse(p: Index, n: Poly) -> Index:
    return (n - 1 - p[0], *p[1:])


@PSI.law("stride", "p psi A[a::k] = (a + k p0, ..) psi A", source="a reshape, then psi, with any remainder")
def stride(p: Index, n: Poly, start: Poly, step: Poly) -> Index:
    return (start + step * p[0], *p[1:])


@PSI.law("rotate", "p psi (k rotate A) = ((p0 + k) mod s0, ..) psi A", source="MoA rule 14")
def rotate(p: Index, n: Poly, k: Poly) -> Index:
    return ((p[0] + k) % n, *p[1:])


@PSI.law("new axis", "p psi A[None] = p' psi A, p = <0> cat p'", source="reshape by a unit axis")
def new_axis(p: Index) -> Index:
    return p[1:]


@PSI.law("gather", "p psi A[I] = ((q psi I) cat r) psi A, p = q cat r", source="psi with an index from data")
def gather(p: Index, rank: int, picked: Poly) -> Index:
    return (picked, *p[rank:])


@PSI.law("cat", "p psi (A cat B) = p psi A where p0 < s0, else (p0 - s0, ..) psi B", source="MoA rule 12")
def cat(p: Index, n: Poly) -> tuple[Cond, Index, Index]:
    """(where the first operand is meant, the index in it, the index in the second)."""
    return at_least_zero(n - 1 - p[0]), p, (p[0] - n, *p[1:])


@PSI.law("transpose", "p psi (transpose A) = (reverse p) psi A", source="MoA rule 15")
def transpose(p: Index) -> Index:
    return p[::-1]


@PSI.law("permute", "p psi (t transpose A) = q psi A, q[t[k]] = p[k]", source="MoA rule 16")
def permute(p: Index, t: tuple[int, ...]) -> Index:
    out = list(p)
    for k, axis in enumerate(t):
        out[axis] = p[k]
    return tuple(out)


@PSI.law("ravel", "p psi (ravel A) = gamma'(p0; s) psi A", source="MoA rule 8")
def ravel(p: Index, new: Shape, old: Shape) -> Index:
    return regroup(new, old, p)


@PSI.law("reshape", "p psi (v reshape A) = gamma'(gamma(p; v); s) psi A, on a common refinement", source="MoA rule 9")
def reshape(p: Index, new: Shape, old: Shape) -> Index:
    return regroup(new, old, p)


def range_rules(item: Range, n: Poly) -> tuple[tuple[str, tuple[Poly, ...]], ...]:
    """The rules that a range of an axis of extent n is, the last applied first, each with its parameters."""
    start, count = item.start, item.count
    if item.step == -1 and start == n - 1 and count == n:
        return (("reverse", ()),)
    if item.step != 1:
        return (("stride", (start, const(item.step))),)
    if start == 0:
        u = count - n
        return () if u == 0 else (("drop", (u,)) if is_negative(u) and count.as_int() is None else ("take", (count,)),)
    u = start - n
    if start + count == n:
        return (("take", (u,)) if is_negative(u) and start.as_int() is None else ("drop", (start,)),)
    return (("take", (count,)), ("drop", (start,)))


# Reductions -------------------------------------------------------------------------------------------------------


@PSI.law("reduce", "p psi (f red A) = f over k < s0 of (k cat p) psi A", source="MoA rule 17")
def reduce(p: Index, k: Poly) -> Index:
    return (k, *p)


@PSI.law("scan", "p psi (f scan A) = f over k <= p0 of (k cat p') psi A, p = p0 cat p'", source="MoA rule 18")
def scan(p: Index, k: Poly) -> Index:
    """The index of the cell that step k adds."""
    return (k, *p)


@PSI.law(
    "inner product",
    "p psi (A f.g B) = f over k of ((a cat k) psi A) g ((k cat b) psi B), p = a cat b",
    source="MoA rule 20; on stacks of matrices by omega",
)
def inner(p: Index, left: int, right: int, k: Poly) -> tuple[Index, Index]:
    """The indices of a stack of matrices or vectors of these ranks; those of the stack stand first in p."""
    tail = (left > 1) + (right > 1)
    stack, cell = p[: len(p) - tail], p[len(p) - tail :]
    a = (*stack, cell[0], k) if left > 1 else (k,)
    b = (*stack, k, cell[-1]) if right > 1 else (k,)
    return a, b


PSI.law("argmax", "argmax A = min over k with A[k] = max A of k; the first NaN counts", source="definition")(None)
PSI.law("argsort", "order[k] = the i with k elements before it; equal ones keep their order", source="MoA grade up")(
    None
)
PSI.law(
    "split",
    "reduce(op, where(p, x, e)) = reduce(op, x over p), e the identity; 0 * x = 0, x + -inf = -inf",
    contract="assumes finite",
    source="identity and absorbing elements of the operator table",
)(None)


@PSI.law("assign", "R := E: p psi R = p psi E for every p in the shape of E", source="MoA rule 23")
def assign(p: Index) -> Index:
    return p
