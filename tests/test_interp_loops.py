"""The interpreter of Loops: what it refuses, and its arithmetic against exact numbers."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest
from loops_by_hand import Hand

from moa.interp.floats import bf16_bits, bf16_value, fused_multiply_add
from moa.interp.loops import Pointer, run
from moa.loops import Arg, Const, Fn, Loops, Name, Op


def start(h: Hand, **buffers: np.ndarray) -> None:
    run(h.loops(), "main", list(buffers), 0, 1, buffers, workspace_bytes=64)


def refused(h: Hand, message: str, **buffers: np.ndarray) -> None:
    with pytest.raises(AssertionError, match=re.escape(message)):
        start(h, **buffers)


def test_a_load_outside_a_buffer_names_the_instruction() -> None:
    h = Hand("f64", 4)
    h.op("v", "load", h.arg("p", 0), 1, attrs=("f64", False))
    refused(h, "main: v6 = load.f64.False p5 1: bytes 8 to 40 of x, which has 32", x=np.zeros(4))
    h = Hand("f64", 4)
    h.op("v", "load", h.arg("p", 0), -1, attrs=("f64", False))
    refused(h, "bytes -8 to 24 of x", x=np.zeros(4))


def test_a_masked_access_is_checked_in_its_lanes() -> None:
    def masked(first: int, count: int) -> Hand:
        h = Hand("f64", 4)
        x, y = h.arg("p", 0), h.arg("p", 1)
        mask = h.op("m", "first", count)
        h.do("storem", y, 0, h.op("v", "loadm", x, first, mask, attrs=("f64", False)), mask, attrs=("f64", False))
        return h

    x, y = np.arange(6.0), np.full(4, -1.0)
    start(masked(3, 3), x=x, y=y)
    assert y.tolist() == [3, 4, 5, -1]
    start(masked(99, 0), x=x, y=y)
    refused(masked(3, 4), "bytes 24 to 56 of x", x=x, y=y)


def test_masked_off_lanes_are_zero() -> None:
    h = Hand("f64", 4)
    value = h.op("v", "loadm", h.arg("p", 0), 0, h.op("m", "first", 1), attrs=("f64", False))
    h.do("store", h.arg("p", 1), 0, value, attrs=("f64", False))
    y = np.full(4, 9.0)
    start(h, x=np.full(4, 5.0), y=y)
    assert y.tolist() == [5, 0, 0, 0]


def test_an_access_said_to_be_aligned_is() -> None:
    h = Hand("f32", 4)
    h.op("v", "load", h.arg("p", 0), 2, attrs=("f32", True))
    refused(h, "byte 8 of x is not aligned", x=np.zeros(8, np.float32))


def test_the_workspace_starts_as_nan() -> None:
    h = Hand("f64", 4)
    h.do("store", h.arg("p", 0), 0, h.op("v", "load", h.params[3], 4, attrs=("f64", True)), attrs=("f64", False))
    x = np.zeros(4)
    start(h, x=x)
    assert np.isnan(x).all()
    h = Hand("f64", 4)
    h.op("v", "load", h.params[3], 5, attrs=("f64", False))
    refused(h, "of workspace, which has 64")


def test_names_are_visible_in_their_block_only() -> None:
    h = Hand("f64", 2)
    inside: list[Name] = []

    def body(i: Name) -> tuple[Arg, ...]:
        inside.append(h.op("i", "iadd", i, 1))
        return ()

    h.loop(0, 3, (), body)
    h.op("i", "iadd", inside[0], 1)
    refused(h, "i6 is not defined here")
    h = Hand("f64", 2)
    h.branch(Const(True, "b"), lambda: inside.append(h.op("i", "iadd", 1, 1)), lambda: ())
    h.op("i", "iadd", inside[1], 1)
    refused(h, "i5 is not defined here")


def test_a_name_is_assigned_once() -> None:
    name = Name(9, "i")
    op = Op(name, "iadd", (Const(1, "i"), Const(2, "i")))
    f = Fn("main", Hand("f64", 2).params, (op, op))
    with pytest.raises(AssertionError, match="i9 is assigned twice"):
        run(Loops("f64", 2, (f,), ("main",)), "main", [], 0, 1, {})


def test_what_has_no_meaning_is_refused() -> None:
    for message, op, args in [
        ("the divisor is 0", "idiv", (1, 0)),
        ("does not fit 64 bits", "iadd", (2**63 - 1, 1)),
        ("no such instruction", "bump", (1,)),
    ]:
        h = Hand("f64", 2)
        h.op("i", op, *args)
        refused(h, message)
    h = Hand("f64", 2)
    h.loop(0, 1, (), lambda i: (), step=0)
    refused(h, "the step is 0")
    h = Hand("f64", 2)
    h.do("store", h.arg("p", 0), 0, Const(1.0, "f"), attrs=("f64", False))
    x = np.zeros(2)
    x.flags.writeable = False
    refused(h, "the buffer x is only read", x=x)


def test_an_address_may_start_inside_a_buffer() -> None:
    h = Hand("f64", 2)
    h.do("store", h.op("p", "offset", h.arg("p", 0), 1, attrs=("f32",)), 1, Const(7.0, "f"), attrs=("f64", False))
    x = np.zeros(4, np.float64)
    run(h.loops(), "main", [Pointer("x", 4)], 0, 1, {"x": x})
    assert x.tolist() == [0, 0, 7, 0]


def exact(a: float, b: float, c: float) -> Fraction:
    return Fraction(a) * Fraction(b) + Fraction(c)


def test_fma_of_float64_is_rounded_once() -> None:
    rng = np.random.default_rng(0)
    for reach in (3, 60, 400, 520):
        a, b, c = (np.ldexp(rng.standard_normal(300), rng.integers(-reach, reach, 300)) for _ in range(3))
        c[::3] = -(a * b)[::3]
        c[1::9] = 0
        with np.errstate(all="ignore"):
            got = fused_multiply_add(a, b, c)
        for k in range(300):
            value = exact(*map(float, (a[k], b[k], c[k]))) if np.isfinite([a[k], b[k], c[k]]).all() else None
            if value is not None and abs(value) < Fraction(2) ** 1023:
                assert got[k] == float(value), (a[k], b[k], c[k])


def test_fma_of_float32_is_rounded_once() -> None:
    """By the definition: no float32 is nearer, and of two equally near ones the even one is taken."""
    rng = np.random.default_rng(0)
    a, b, c = (np.ldexp(rng.standard_normal(4000), rng.integers(-40, 40, 4000)).astype(np.float32) for _ in range(3))
    c[::3] = -(a * b)[::3]
    c[1::3] = ((a * b) * np.float32(2.0**24) * rng.choice([1, -1], 4000).astype(np.float32))[1::3]
    got = fused_multiply_add(a, b, c)
    for k in range(4000):
        value = exact(float(a[k]), float(b[k]), float(c[k]))
        distance = abs(Fraction(float(got[k])) - value)
        for side in (-np.inf, np.inf):
            other = abs(Fraction(float(np.nextafter(got[k], np.float32(side)))) - value)
            assert distance < other or (distance == other and got[k].view(np.int32) % 2 == 0)


def test_a_third_operand_far_below_breaks_a_tie() -> None:
    """The product lies in the middle of two numbers; a sum rounded to twice the digits first would stay there."""
    for kind, half, low in ((np.float32, 12, 60), (np.float64, 26, 120)):
        a, b = 1 + 2.0**-half, 1 + 2.0 ** -(half if kind is np.float32 else half + 1)
        for c in (2.0**-low, -(2.0**-low)):
            got = fused_multiply_add(np.array([a, -a], kind), np.array([b, b], kind), np.array([c, -c], kind))
            for g, value in zip(got, (exact(a, b, c), -exact(a, b, c)), strict=True):
                beside = [np.nextafter(g, kind(side)) for side in (-np.inf, np.inf)]
                assert all(abs(Fraction(float(g)) - value) < abs(Fraction(float(x)) - value) for x in beside)


def test_special_values_of_fma() -> None:
    inf, nan = np.inf, np.nan
    with np.errstate(all="ignore"):
        got = fused_multiply_add(
            np.array([inf, inf, 0.0, 1e308, -0.0, 1.0, 5e-324]),
            np.array([1.0, 0.0, 5.0, 10.0, 1.0, 1.0, 0.5]),
            np.array([-inf, 1.0, nan, 0.0, -0.0, -1.0, 0.0]),
        )
    assert np.isnan(got[:3]).all() and got[3] == inf and np.signbit(got[4]) and not np.signbit(got[5]) and got[6] == 0


def test_bfloat16_round_trip() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    values = bf16_value(bits)
    back = bf16_bits(values)
    with np.errstate(invalid="ignore"):
        wide = values.astype(np.float64)
    assert np.array_equal(back[~np.isnan(values)], bits[~np.isnan(values)]) and np.isnan(bf16_value(back))[-1]
    assert np.array_equal(back, bf16_bits(wide))
