"""The notation of MoA: prefix and infix glyphs, reductions, products, and omega (the rank operator).

Structural glyphs act on axis 0; `op Ω⟨k⟩ A` applies `op` to the cells of rank k, and `A op Ω⟨k l⟩ B` joins cells of
ranks k and l, the frames around them aligned on the right (moa.md, section 2).
"""

from __future__ import annotations

from collections.abc import Callable

from moa import ir, poly
from moa.check import indexing, scans
from moa.check.build import Builder, Term, fail, shape_text, whole
from moa.check.functions import Caller, concat, iota, matmul, one_value, permutation, product, reshape, rotate
from moa.text import Span

WORDS = {"+": "add", "-": "sub", "*": "mul", "/": "div", "max": "max", "min": "min", "&": "and", "|": "or"}
REDUCED = {"+": "sum", "*": "prod", "max": "max", "min": "min", "&": "all", "|": "any"}
GLYPHS = {"rho": "ρ", "tau": "τ", "delta": "δ", "iota": "ι", "reverse": "Φ", "transpose": "⍉", "psi": "ψ"}
GLYPHS |= {"take": "△", "drop": "▽", "cat": "⧺", "rotate": "θ", "reshape": "ρ"}


def _array(term: Term, glyph: str, span: Span) -> int:
    return one_value(term, span, f"the operand of `{GLYPHS[glyph]}`")


# Prefix ------------------------------------------------------------------------------------------------------------


def _rho(b: Builder, term: Term, span: Span) -> Term:
    x = _array(term, "rho", span)
    return tuple(b.integer(e, span) for e in b.shape(x))


def _tau(b: Builder, term: Term, span: Span) -> Term:
    return b.integer(product(b.shape(_array(term, "tau", span))), span)


def _delta(b: Builder, term: Term, span: Span) -> Term:
    return b.integer(poly.const(b.rank(_array(term, "delta", span))), span)


def _iota(b: Builder, term: Term, span: Span) -> Term:
    shape = indexing.integers(b, term, span, "the operand of `ι`")
    if len(shape) != 1:
        message = f"`ι` of {len(shape)} extents: the indices of several axes are several arrays"
        fail("type", message, span, "i, j = iota(n)[:, None], iota(m)")
    return iota(b, shape[0], span)


def _reverse(b: Builder, term: Term, span: Span) -> Term:
    x = _array(term, "reverse", span)
    return indexing.reverse(b, x, b.axis(x, 0, span, "`Φ`"), span)


def _transpose(b: Builder, term: Term, span: Span) -> Term:
    x = _array(term, "transpose", span)
    return b.transpose(x, tuple(range(b.rank(x)))[::-1], span)


PREFIX: dict[str, Callable[[Builder, Term, Span], Term]] = {
    "rho": _rho,
    "tau": _tau,
    "delta": _delta,
    "iota": _iota,
    "reverse": _reverse,
    "transpose": _transpose,
}

# Infix -------------------------------------------------------------------------------------------------------------


def _psi(b: Builder, left: Term, right: Term, span: Span, first: int = 0) -> Term:
    """p ψ A: the sub-array at the partial index p (from axis `first` on)."""
    x = _array(right, "psi", span)
    index = indexing.integers(b, left, span, "the left side of `ψ`")
    _fits(b, x, len(index) + first, "ψ", span)
    items: list[ir.IndexItem] = [whole(e) for e in b.shape(x)]
    for k, p in enumerate(index, first):
        items[k] = ir.At(indexing.position(b, b.shape(x)[k], p, span))
    return b.index(x, items, span)


def _fits(b: Builder, x: int, count: int, glyph: str, span: Span) -> None:
    if count > b.rank(x):
        message = f"`{glyph}` reaches {count} axes of an array of shape {shape_text(b.shape(x))}"
        fail("shape", message, span, "the left side has one number an axis, at most")


def _take(b: Builder, left: Term, right: Term, span: Span, first: int = 0) -> Term:
    x = _array(right, "take", span)
    counts = indexing.integers(b, left, span, "the left side of `△`")
    _fits(b, x, len(counts) + first, "△", span)
    for k, n in enumerate(counts, first):
        x = indexing.take(b, x, k, n, span)
    return x


def _drop(b: Builder, left: Term, right: Term, span: Span, first: int = 0) -> Term:
    x = _array(right, "drop", span)
    counts = indexing.integers(b, left, span, "the left side of `▽`")
    _fits(b, x, len(counts) + first, "▽", span)
    for k, n in enumerate(counts, first):
        x = indexing.drop(b, x, k, n, span)
    return x


def _cat(b: Builder, left: Term, right: Term, span: Span, first: int = 0) -> Term:
    if isinstance(left, tuple) and isinstance(right, tuple):
        return (*left, *right)
    x, y = (one_value(t, span, "a side of `⧺`") for t in (left, right))
    return concat(b, x, y, b.axis(x, first, span, "`⧺`"), span)


def _rotate(b: Builder, left: Term, right: Term, span: Span, first: int = 0) -> Term:
    x = _array(right, "rotate", span)
    k = indexing.integer(b, left, span, "the left side of `θ`")
    return rotate(b, x, k, b.axis(x, first, span, "`θ`"), span)


def _reshape(b: Builder, left: Term, right: Term, span: Span) -> Term:
    shape = indexing.integers(b, left, span, "the left side of `ρ`")
    return reshape(b, _array(right, "reshape", span), shape, span)


def _permute(b: Builder, left: Term, right: Term, span: Span) -> Term:
    x = _array(right, "transpose", span)
    return b.transpose(x, permutation(b, x, indexing.integers(b, left, span, "the left side of `⍉`"), span), span)


INFIX: dict[str, Callable[[Builder, Term, Term, Span], Term]] = {
    "psi": _psi,
    "take": _take,
    "drop": _drop,
    "cat": _cat,
    "rotate": _rotate,
    "reshape": _reshape,
    "transpose": _permute,
}
_CELLS: dict[str, Callable[[Builder, Term, Term, Span, int], Term]] = {
    "psi": _psi,
    "take": _take,
    "drop": _drop,
    "rotate": _rotate,
}

# Operators ---------------------------------------------------------------------------------------------------------


def operate(caller: Caller, name: str, args: list[Term], span: Span) -> Term:
    """What a glyph with an operator means: `reduce +`, `scan max`, `inner + *`, `outer -`, `omega take`."""
    b = caller.b
    match name.split():
        case ["reduce", f]:
            return _reduce(b, f, args, span)
        case ["scan", f]:
            return _scan(b, f, args, span)
        case ["inner", f, g]:
            return _inner(b, f, g, args, span)
        case ["outer", g]:
            x, y = (one_value(t, span, "a side of an outer product") for t in args)
            return _pointwise(b, g, _pad(b, x, b.rank(y), span), y, span)
        case ["omega", op]:
            cells = [indexing.literal(b, t, span, "a rank after Ω") for t in _items(args[0])]
            if len(args) == 2:
                return _omega_prefix(b, op, cells, args[1], span)
            return _omega_infix(b, op, cells, args[1], args[2], span)
    raise AssertionError(name)


def _items(term: Term) -> tuple[Term, ...]:
    return term if isinstance(term, tuple) else (term,)


def _cell_axis(b: Builder, x: int, cells: list[int], count: int, span: Span) -> int:
    """The first axis of the cells of x, of the one rank given."""
    if len(cells) != count:
        fail("type", f"`Ω` has {len(cells)} ranks, expected {count}", span, "one for each operand")
    if not 0 <= cells[-1] <= b.rank(x):
        found = shape_text(b.shape(x))
        fail("shape", f"cells of rank {cells[-1]} of an array of shape {found}", span, "Ω gives the rank of cells")
    return b.rank(x) - cells[-1]


def _along(b: Builder, args: list[Term], what: str, span: Span) -> tuple[int, int]:
    """The operand of a reduction or scan, and its axis."""
    x = one_value(args[0], span, f"the operand of {what}")
    axis = 0
    if len(args) > 1:
        cells = [indexing.literal(b, t, span, "a rank after Ω") for t in _items(args[1])]
        axis = _cell_axis(b, x, cells, 1, span)
    return x, b.axis(x, axis, span, what)


def _reduce(b: Builder, f: str, args: list[Term], span: Span) -> int:
    x, axis = _along(b, args, f"a reduction by {f}", span)
    return b.reduce(REDUCED[f], x, axis, False, span)


def _scan(b: Builder, f: str, args: list[Term], span: Span) -> int:
    x, axis = _along(b, args, f"a scan by {f}", span)
    if f in ("&", "|") and b.kind(x) != "b":
        fail("type", f"a scan by {f} is for conditions", span, "write x != 0")
    return scans.running(b, WORDS[f], x, axis, span)


def _pointwise(b: Builder, g: str, x: int, y: int, span: Span) -> int:
    if g in ("&", "|"):
        if (b.kind(x), b.kind(y)) != ("b", "b"):
            fail("type", f"`{g}` joins conditions", span, "compare first, in parentheses")
        return b.apply(WORDS[g], (x, y), span)
    return b.arithmetic(WORDS[g], (x, y), span)


def _pad(b: Builder, x: int, count: int, span: Span) -> int:
    """x with `count` new axes of extent 1 at its end."""
    return b.index(x, [*(whole(e) for e in b.shape(x)), *[ir.New()] * count], span)


def _inner(b: Builder, f: str, g: str, args: list[Term], span: Span) -> int:
    """A f•g B: f over the last axis of A and the first of B."""
    x, y = (one_value(t, span, "a side of an inner product") for t in args)
    s, t = b.shape(x), b.shape(y)
    if not s or not t:
        fail("shape", "an inner product of a scalar", span, "× multiplies by a scalar")
    if s[-1] != t[0]:
        message = f"the inner product joins axes of extents {s[-1]} and {t[0]}: shapes {shape_text(s)} and "
        hint = "the last axis of the left side and the first of the right side must be equal"
        fail("shape", message + shape_text(t), span, hint)
    if (f, g) == ("+", "*") and len(t) <= 2:
        return matmul(b, x, y, span)
    out = _pointwise(b, g, _pad(b, x, len(t) - 1, span), y, span)
    return b.reduce(REDUCED[f], out, len(s) - 1, False, span)


def _omega_prefix(b: Builder, op: str, cells: list[int], term: Term, span: Span) -> Term:
    x = one_value(term, span, "the operand")
    axis = _cell_axis(b, x, cells, 1, span)
    rank = b.rank(x)
    match op:
        case "reverse":
            return indexing.reverse(b, x, b.axis(x, axis, span, "`Φ`"), span)
        case "transpose":
            return b.transpose(x, (*range(axis), *range(axis, rank)[::-1]), span)
        case "-":
            return b.arithmetic("neg", (x,), span)
        case _:
            fail("type", f"`{GLYPHS.get(op, op)}` is not applied to cells", span, "Ω stands after Φ, ⍉ and reductions")


def _omega_infix(b: Builder, op: str, cells: list[int], left: Term, right: Term, span: Span) -> Term:
    y = one_value(right, span, "the right side")
    if op in _CELLS:
        # the left side is one vector for all cells
        return _CELLS[op](b, left, y, span, _cell_axis(b, y, cells, len(cells) if len(cells) < 3 else 2, span))
    if op not in WORDS or op in ("&", "|"):
        fail("type", f"`{GLYPHS.get(op, op)}` is not applied to cells", span, "Ω stands after + - × ÷ ⌈ ⌊ ψ △ ▽ θ")
    x = one_value(left, span, "the left side")
    if len(cells) != 2:
        fail("type", f"`Ω` has {len(cells)} ranks, expected 2", span, "one for each operand")
    _cell_axis(b, x, cells[:1], 1, span)
    _cell_axis(b, y, cells[1:], 1, span)
    k, l = cells
    if k != l and 0 not in (k, l):
        message = f"`{op}` joins cells of ranks {k} and {l}"
        fail("shape", message, span, "the ranks are equal, or one is 0")
    s, t = b.shape(x)[b.rank(x) - k :], b.shape(y)[b.rank(y) - l :]
    if k == l and s != t:
        fail("shape", f"`{op}` joins cells of shapes {shape_text(s)} and {shape_text(t)}", span, "they must be equal")
    return _pointwise(b, op, _pad(b, x, max(l - k, 0), span), _pad(b, y, max(k - l, 0), span), span)
