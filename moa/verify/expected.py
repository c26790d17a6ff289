"""What a call should give: the oracle's values, and how far rounding may move them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moa import ir
from moa.oracle import _value, bind, oracle
from moa.storage import PAIRED, computed, numpy_dtype, rounding

Array = np.ndarray[Any, Any]
NOISE = 1e-9
SMALLEST = 2.0**-24  # float16 above 0: numbers below are rounded by up to half of it
Outside = Callable[[Array], Array]  # of magnitudes: those that the compute type does not hold
NUMPY: dict[str, Any] = {"f": np.float64, "i": np.int64, "b": np.bool_}


def noisy(
    program: ir.Program, given: Mapping[str, Any], sizes: Mapping[str, int], noise: float, rng: np.random.Generator
) -> list[tuple[Array, ...]]:
    """The oracle, three times, with every operand of every operation off by a random relative amount below `noise`.

    Each operand is taken from one of the copies, by turns: a kernel computes values again in another order where they
    are used again, so that errors of exp(s - m) do not cancel in a quotient. Equality, which has no error that is
    small, sees the values themselves.
    """
    copies = 3
    exact = ("eq", "ne", "index", "transpose", "reshape", "concat", "rotate", "part", "scan")
    made: list[dict[int, Any]] = [{} for _ in range(copies)]
    inputs = {p.name: np.asarray(given.get(p.name, p.default), NUMPY[p.kind]) for p in program.inputs}
    for v in program.values:
        turns = rng.integers(copies, size=len(v.args))
        for r, own in enumerate(made):
            here = dict(own)
            if v.op not in exact:
                for a, turn in zip(v.args, turns, strict=True):
                    x = made[(r + int(turn)) % copies][a]
                    if not isinstance(x, tuple) and x.dtype == np.float64:
                        here[a] = x * (1 + noise * rng.uniform(-1, 1, x.shape))
            out = _value(program, v, here, inputs, sizes)
            own[v.number] = out if isinstance(out, tuple) else np.asarray(out, NUMPY[v.kind])
    return [tuple(np.asarray(own[o]) for o in program.outputs) for own in made]


def out_of_range(
    program: ir.Program, given: Mapping[str, Any], sizes: Mapping[str, int], outside: Outside, instead: float
) -> tuple[Array, ...]:
    """The outputs of the oracle with `instead` for what is outside of a range; of scans, for all states from there on.

    Infinities are left as they are where an operand is one.
    """
    made: dict[int, Any] = {}
    inputs = {p.name: np.asarray(given.get(p.name, p.default), NUMPY[p.kind]) for p in program.inputs}
    for v in program.values:
        out = _value(program, v, made, inputs, sizes)
        parts = [np.asarray(x) for x in (out if isinstance(out, tuple) else (out,))]
        if v.args:
            operands = [x for a in v.args for x in (made[a] if isinstance(made[a], tuple) else (made[a],))]
            finite = all(np.isfinite(x).all() for x in operands)
            lost = [outside(np.abs(x)) & (finite | np.isfinite(x)) for x in parts]
            if v.op == "scan":
                lost = [_from_there_on(y, v.attrs[0]) for y in lost]
            made_up = (np.where(y, instead, x) for x, y in zip(parts, lost, strict=True))
            parts = [y.astype(x.dtype) if x.dtype.kind == "f" else x for x, y in zip(parts, made_up, strict=True)]
        made[v.number] = tuple(parts) if isinstance(out, tuple) else np.asarray(parts[0], NUMPY[v.kind])
    return tuple(np.asarray(made[o]) for o in program.outputs)


def _from_there_on(beyond: Array, scan: ir.Scan) -> Array:
    """All states from the first step on at which one of them is marked."""
    if not scan.keep:
        return beyond
    flipped = np.flip(beyond, scan.axis) if scan.reverse else beyond
    steps = flipped.any(axis=tuple(a for a in range(flipped.ndim) if a != scan.axis), keepdims=True)
    later = np.logical_or.accumulate(steps, scan.axis)
    return np.broadcast_to(np.flip(later, scan.axis) if scan.reverse else later, beyond.shape)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a call should give: per output the value, what rounding may change in it, and where that is known.

    `unsettled` are elements that rounding alone may change at will: a comparison of floats decides them.
    """

    values: tuple[Array, ...]
    tolerance: tuple[float, ...]
    unsettled: tuple[Array, ...]


def expected(program: ir.Program, given: Mapping[str, Any], dtype: str) -> Expected:
    """The oracle's values, with tolerances from how far they move when every operand is a little wrong."""
    sizes = bind(program, given)
    eps = float(np.finfo(computed(dtype)).eps)
    want = oracle(program, given)
    terms = 16 + sum(max(v, 0) for v in sizes.values()) / 8
    moved = [0.0 for _ in want]
    unsettled = [np.zeros(w.shape, bool) for w in want]
    with np.errstate(all="ignore"):
        for out in noisy(program, given, sizes, NOISE, np.random.default_rng(1)):
            for k, (a, b) in enumerate(zip(out, want, strict=True)):
                gap = distance(a, b)[np.isfinite(a) & np.isfinite(b)]
                moved[k] = max(moved[k], float(gap.max()) if gap.size else 0.0)
        size = [float(np.abs(w[np.isfinite(w)]).max()) if np.isfinite(w).any() else 0.0 for w in want]
        factors = 2 * rounding(dtype) if dtype == PAIRED else 0.0
        least = float(np.finfo(computed(dtype)).tiny)  # numbers below are rounded to more than eps, or to 0
        near = (eps * terms * (s + m / NOISE) + factors * m / NOISE for s, m in zip(size, moved, strict=True))
        tol = tuple(x + least for x in near)
        for out in noisy(program, given, sizes, 8 * eps, np.random.default_rng(2)):
            for k, (a, b) in enumerate(zip(out, want, strict=True)):
                unsettled[k] |= (distance(a, b) > tol[k]) | (np.isnan(a) != np.isnan(b))
        most = float(np.finfo(computed(dtype)).max)
        lost, spared = (out_of_range(program, given, sizes, lambda x: x > most, instead) for instead in (np.nan, 0.0))
        fewer = out_of_range(program, given, sizes, lambda x: (x > 0) & (x < least), 0.0)
        for k, w in enumerate(want):  # numbers that the compute type may not hold, here or on the way
            if w.dtype.kind == "f":
                unsettled[k] |= np.isfinite(w) & (np.abs(w) + tol[k] >= most)
            for other in (lost, spared, fewer):
                unsettled[k] |= np.isnan(other[k]) != np.isnan(w)
            unsettled[k] |= (lost[k] != w) & ~np.isnan(w)
            unsettled[k] |= distance(fewer[k], w) > tol[k]
    return stored(Expected(want, tol, tuple(unsettled)), dtype)


def stored(want: Expected, dtype: str) -> Expected:
    """What arrays of `dtype` hold of it: rounded once more, too large numbers as infinities."""
    if dtype == computed(dtype):
        return want
    made = []
    with np.errstate(all="ignore"):
        for w, tol, skip in zip(want.values, want.tolerance, want.unsettled, strict=True):
            if w.dtype.kind != "f":
                made.append((w, tol, skip))
                continue
            low, near, high = (x.astype(numpy_dtype(dtype)).astype(np.float64) for x in (w - tol, w, w + tol))
            size = float(np.abs(near[np.isfinite(near)]).max(initial=0.0))
            wide = tol + 2 * rounding(dtype) * (size + tol) + SMALLEST
            made.append((near, wide, skip | (np.isinf(low) != np.isinf(high))))
    values, tolerance, unsettled = zip(*made, strict=True)
    return Expected(values, tolerance, unsettled)


def distance(a: Array, b: Array) -> Array:
    """|a - b|, of bits too."""
    return np.abs(np.subtract(a, b, dtype=np.float64))


def compared(
    got: Sequence[Array],
    want: Expected,
    nan: Sequence[Array] | None = None,
    masked: bool = False,
    undefined: bool = False,
) -> str:
    """Where a result is wrong, or nothing.

    nan         results whose NaN have to be in `got`; where the oracle has NaN they may be
    masked      NaN may be anywhere beside that
    undefined   NaN may stand for an infinity: a sum that was taken apart may be a difference of infinities
    """
    must = want.values if nan is None else nan
    for k, (g, w, p, tol, skip) in enumerate(zip(got, want.values, must, want.tolerance, want.unsettled, strict=True)):
        if g.shape != w.shape:
            return f"output {k} has shape {list(g.shape)}, expected {list(w.shape)}"
        bad = np.isnan(p) & ~np.isnan(g)
        if not masked:
            bad |= np.isnan(g) & ~np.isnan(p) & ~np.isnan(w) & ~(undefined & np.isinf(w))
        with np.errstate(all="ignore"):
            near = (distance(g, w) <= tol) | (g == w) | np.isnan(g) | np.isnan(w)
        bad |= ~near
        bad &= ~skip
        if bad.any():
            at = tuple(int(x) for x in np.argwhere(bad)[0])
            text = f"output {k} at {list(at)} is {g[at]}, expected {w[at]} within {tol:.3g}"
            return f"{text} ({int(bad.sum())} of {bad.size} elements)"
    return ""


def worst(got: Sequence[Array], want: Expected) -> float:
    """The largest error in units of its tolerance."""
    out = 0.0
    for g, w, tol, skip in zip(got, want.values, want.tolerance, want.unsettled, strict=True):
        with np.errstate(all="ignore"):
            gap = distance(g, w)
        gap = gap[np.isfinite(gap) & ~skip]
        if gap.size and tol:
            out = max(out, float(gap.max()) / tol)
    return out
