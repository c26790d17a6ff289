"""Indices: `x[...]`, take, drop, reverse and `psi` become `index` values, one item an axis."""

from __future__ import annotations

from collections.abc import Callable

from moa import ir, poly
from moa.check.build import Builder, Term, fail, shape_text, whole
from moa.check.facts import at_least, is_negative
from moa.poly import Poly
from moa.text import Span

_BOUND_HINT = "an index is a literal, or made of sizes and int parameters"


def integer(b: Builder, term: Term, span: Span, what: str) -> Poly:
    """The polynomial that a term is; an error where it is not made of literals, sizes and int parameters."""
    p = b.poly(term) if isinstance(term, int) else None
    if p is None:
        fail("type", f"{what} must be known from sizes and int parameters", span, _BOUND_HINT)
    return p


def literal(b: Builder, term: Term, span: Span, what: str) -> int:
    """The integer that a term is; an error where it is not a constant."""
    p = b.poly(term) if isinstance(term, int) else None
    n = None if p is None else p.as_int()
    if n is None:
        fail("type", f"{what} must be an integer literal", span)
    return n


def integers(b: Builder, term: Term, span: Span, what: str) -> tuple[Poly, ...]:
    """The polynomials of a tuple of sizes; a single size counts as a tuple of one."""
    items = term if isinstance(term, tuple) else (term,)
    return tuple(integer(b, t, span, what) for t in items)


def subscript(b: Builder, x: int, node: ir.Subscript, evaluate: Callable[[ir.Expr], Term]) -> int:
    """x[items], with the meaning of NumPy where the bounds hold; obligations where only sizes can tell."""
    rank = b.rank(x)
    rests = sum(isinstance(i, ir.RestItem) for i in node.items)
    taken = sum(not isinstance(i, ir.RestItem | ir.NewAxis) for i in node.items)
    if rests > 1:
        fail("syntax", "`...` is there twice in one index", node.span, "one `...` stands for all the axes left over")
    if taken > rank:
        found = f"shape {shape_text(b.shape(x))}" if rank else "no axes"
        indices = "1 index" if taken == 1 else f"{taken} indices"
        fail("shape", f"{indices} for an array with {found}", node.span, "there is one index an axis, at most")
    items: list[ir.IndexItem] = []
    axis = 0
    gathers: list[Span] = []
    points: list[Span] = []

    def skip(count: int) -> None:
        nonlocal axis
        items.extend(whole(e) for e in b.shape(x)[axis : axis + count])
        axis += count

    for item in node.items:
        match item:
            case ir.RestItem():
                skip(rank - taken)
                continue
            case ir.NewAxis():
                items.append(ir.New())
                continue
            case ir.SliceItem():
                items.append(_slice(b, b.shape(x)[axis], item, evaluate))
            case _:
                found_item = _point(b, b.shape(x)[axis], evaluate(item), item.span)
                items.append(found_item)
                (gathers if isinstance(found_item, ir.Gather) else points).append(item.span)
        axis += 1
    skip(rank - axis)
    if len(gathers) > 1:
        fail("type", "two integer arrays in one index", gathers[1], "index twice: x[a][:, b]")
    if gathers and points:
        fail("type", "an integer array and an integer in one index", points[0], "index twice: x[a][:, k]")
    return b.index(x, items, node.span)


def _point(b: Builder, extent: Poly, term: Term, span: Span) -> ir.IndexItem:
    """One index or one integer array."""
    if not isinstance(term, int):
        fail("type", "a tuple or a function cannot be an index", span, "separate the indices of several axes by commas")
    p = b.poly(term)
    if p is not None:
        return ir.At(position(b, extent, p, span))
    match b.kind(term):
        case "i":
            return ir.Gather(term)
        case "b":
            hint = "where(condition, a, b) keeps the shape: it is the same for all data"
            fail("type", "a condition cannot be an index", span, hint)
        case _:
            fail("type", "a float cannot be an index", span, _BOUND_HINT)


def position(b: Builder, extent: Poly, p: Poly, span: Span) -> Poly:
    """The index p on an axis of that extent, negative ones counted from the end."""
    reason = f"index {p} is outside an axis of extent {extent}"
    if is_negative(p):
        b.require(">=", extent, -p, span, reason)
        if not at_least(-p, 1):
            b.require(">=", -p, poly.const(1), span, reason)
        return extent + p
    b.require(">=", p, poly.const(0), span, reason)
    b.require(">=", extent, p + 1, span, reason)
    return p


def _slice(b: Builder, extent: Poly, item: ir.SliceItem, evaluate: Callable[[ir.Expr], Term]) -> ir.Range:
    def bound(node: ir.Expr | None, what: str) -> Poly | None:
        if node is None:
            return None
        p = integer(b, evaluate(node), node.span, f"the {what} of a slice")
        if is_negative(p):
            if not at_least(-p, 1):
                b.require(">=", -p, poly.const(1), node.span, f"the {what} {p} counts from the end: it must not be 0")
            return extent + p
        return p

    step = 1 if item.step is None else literal(b, evaluate(item.step), item.step.span, "the step of a slice")
    if step == 0:
        fail("type", "the step of a slice is 0", item.span, "x[:: 1] takes every element, x[:: -1] reverses")
    start, stop = bound(item.start, "start"), bound(item.stop, "stop")
    if step > 0:
        low = poly.const(0) if start is None else start
        high = extent if stop is None else stop
        within(b, extent, low, high, item.span)
        return ir.Range(low, step, _count(high - low, step))
    # a reversed range start, start - 1, ... stop + 1 lies between stop + 1 and start + 1
    high = extent if start is None else start + 1
    low = poly.const(0) if stop is None else stop + 1
    within(b, extent, low, high, item.span)
    return ir.Range(high - 1, step, _count(high - low, -step))


def _count(length: Poly, step: int) -> Poly:
    return length if step == 1 else (length + (step - 1)) // step


def within(b: Builder, extent: Poly, low: Poly, high: Poly, span: Span) -> None:
    """Requires 0 <= low <= high <= extent."""
    reason = f"the range from {low} to {high} does not fit an axis of extent {extent}"
    hint = "unlike in NumPy, a range is never cut off: minimum(k, n) says what is meant"
    for left, right in ((low, poly.const(0)), (high, low), (extent, high)):
        b.require(">=", left, right, span, reason, hint)


def take(b: Builder, x: int, axis: int, k: Poly, span: Span) -> int:
    """The first k slabs along an axis, the last -k where k is negative."""
    extent = b.shape(x)[axis]
    low, high = (extent + k, extent) if is_negative(k) else (poly.const(0), k)
    within(b, extent, low, high, span)
    return _along(b, x, axis, ir.Range(low, 1, high - low), span)


def drop(b: Builder, x: int, axis: int, k: Poly, span: Span) -> int:
    """All but the first k slabs along an axis, all but the last -k where k is negative."""
    extent = b.shape(x)[axis]
    low, high = (poly.const(0), extent + k) if is_negative(k) else (k, extent)
    within(b, extent, low, high, span)
    return _along(b, x, axis, ir.Range(low, 1, high - low), span)


def reverse(b: Builder, x: int, axis: int, span: Span) -> int:
    extent = b.shape(x)[axis]
    return _along(b, x, axis, ir.Range(extent - 1, -1, extent), span)


def _along(b: Builder, x: int, axis: int, item: ir.IndexItem, span: Span) -> int:
    """x indexed on one axis only."""
    items: list[ir.IndexItem] = [whole(e) for e in b.shape(x)]
    items[axis] = item
    return b.index(x, items, span)
