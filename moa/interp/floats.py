"""Operations of binary floating point that NumPy lacks, correctly rounded: fma, bfloat16, products of pairs of it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def fused_multiply_add(a: Any, b: Any, c: Any) -> Any:
    """a * b + c with one rounding, on arrays or scalars of float32 or float64."""
    if np.asarray(a).dtype == np.float32:
        x, y, z = (np.asarray(t, np.float64) for t in (a, b, c))
        return odd_sum(x * y, z).astype(np.float32)
    arrays = np.broadcast_arrays(np.atleast_1d(a), np.atleast_1d(b), np.atleast_1d(c))
    return fma_float64(*arrays).reshape(np.shape(a))


def odd_sum(a: Array, b: Array) -> Array:
    """a + b in float64, an inexact sum replaced by that one of its two neighbours whose last bit is 1.

    Rounding such a sum to a format shorter by two bits or more is the only rounding.
    Source: Boldo and Melquiond 2008, Emulation of FMA and correctly rounded sums: proved algorithms using rounding to
    odd
    """
    total = np.atleast_1d(a + b)
    part = total - a
    error = (a - (total - part)) + (b - part)
    bits = total.view(np.int64)
    move = np.isfinite(total) & (error != 0) & (bits & 1 == 0)
    step = np.where((error > 0) == (total > 0), 1, -1)
    return np.where(move, bits + step, bits).view(np.float64).reshape(np.shape(a))


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """a * b rounded, and what it lacks. Source: Dekker 1971"""
    halves = []
    for x in (a, b):
        large = 134217729.0 * x
        high = large - (large - x)
        halves.append((high, x - high))
    (ah, al), (bh, bl) = halves
    product = a * b
    return product, al * bl - (((product - ah * bh) - al * bh) - ah * bl)


def fma_float64(a: Array, b: Array, c: Array) -> Array:
    """By error-free sums where no part can over- or underflow, by rational numbers elsewhere. Source: as `odd_sum`."""
    uh, ul = two_product(a, b)
    th, tl = two_sum(c, ul)
    vh, vl = two_sum(uh, th)
    result = vh + odd_sum(tl, vl)
    ranges = ((a, 250), (b, 250), (c, 500))
    safe = np.ones(np.shape(a), bool)
    for x, e in ranges:
        size = np.abs(x)
        safe &= (size < 2.0**e) & (size > 2.0**-e)
    product_is_finite = np.isfinite(a) & np.isfinite(b)  # though its rounding may not be
    plain = np.where(product_is_finite & np.isinf(c), c, a * b + c)
    result = np.where(result == 0, plain, result)
    finite = product_is_finite & np.isfinite(c)
    for k in np.flatnonzero(~safe):
        result[k] = rational(float(a[k]), float(b[k]), float(c[k]), float(plain[k])) if finite[k] else plain[k]
    return result


def rational(a: float, b: float, c: float, plain: float) -> float:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return plain if plain == 0 else 0.0
    try:
        near = float(exact)
    except OverflowError:
        return float("inf") if exact > 0 else float("-inf")
    return near if near else (0.0 if exact > 0 else -0.0)


def bf16_value(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def bf16_bits(x: Array) -> Array:
    """The bits of x, float32 or float64, rounded once to nearest even; NaN stays NaN."""
    single = x if x.dtype == np.float32 else odd_single(x)
    bits = single.view(np.uint32)
    high = bits >> 16
    near = (bits + 32767 + (high & 1)) >> 16
    return np.where(np.isnan(single), high | 64, near).astype(np.uint16)


def odd_single(x: Array) -> Array:
    """float64 to float32, rounded to odd."""
    near = x.astype(np.float32)
    back = near.astype(np.float64)
    bits = near.view(np.int32)
    odd = (bits - (np.abs(back) > np.abs(x))) | 1
    return np.where((back == x) | np.isnan(x), bits, odd).astype(np.int32).view(np.float32)


def normal(x: Array) -> Array:
    """float32 with numbers that are not normal replaced by 0 of their sign."""
    return np.where(np.abs(x) < np.finfo(np.float32).smallest_normal, np.copysign(np.float32(0), x), x)


def pair(low: Array, high: Array) -> Array:
    """Two float32 as bfloat16 in one word."""
    lower, upper = (bf16_bits(normal(x)).astype(np.uint32) for x in (low, high))
    return (lower | upper << 16).view(np.int32)


def weave(a: Array, b: Array, half: int) -> Array:
    """The numbers in a half of the words of a, each with that of b at the same place above it."""
    shorts = [np.ascontiguousarray(w, np.int32).view(np.uint16).reshape(2, -1)[half] for w in (a, b)]
    low, high = (x.astype(np.uint32) for x in shorts)
    out: Array = (low | high << 16).view(np.int32)
    return out


def dot2(x: Array, a: Array, b: Array) -> Array:
    """x plus the products of both halves of words, the upper one first, each rounded."""
    words = [np.ascontiguousarray(w, np.int32).view(np.uint32) for w in (a, b)]
    for halves in ([w & 0xFFFF0000 for w in words], [w << 16 for w in words]):
        left, right = (normal(h.view(np.float32)) for h in halves)
        x = normal(fused_multiply_add(left, right, normal(x)))
    return x
