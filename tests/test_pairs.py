"""Products of pairs of bfloat16: the instructions on every machine, and the formulas that use them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from loops_by_hand import Hand, agree, array, entry, packed, same_bits

from moa.backends.c_build import FLAGS, build, compiler
from moa.backends.llvm import host
from moa.interp.floats import bf16_bits, bf16_value, dot2, pair
from moa.interp.loops import run
from moa.loops import Arg, Loops, Name

HOST = host()
PORTABLE = replace(HOST, features=HOST.features.replace("+avx512bf16", "-avx512bf16"))
ITEMS = 64
SPECIAL = [
    0.0,
    -0.0,
    np.inf,
    -np.inf,
    np.nan,
    1.0,
    1.00390625,
    1.01171875,
    1e-39,
    -1e-45,
    1.1754943e-38,
    -1.18e-38,
    3e38,
]


def numbers(rng: np.random.Generator, count: int) -> np.ndarray[Any, Any]:
    """float32 of all sizes, among them ties between two bfloat16, numbers near the least normal one, and specials."""
    x = np.ldexp(rng.standard_normal(count), rng.integers(-8, 8, count)).astype(np.float32)
    x[::5] = np.ldexp(x[::5], rng.integers(-140, 120, len(x[::5])))
    x[1::7] = rng.choice(np.array(SPECIAL, np.float32), len(x[1::7]))
    x.view(np.uint32)[2::6] &= 0xFFFF8000
    return x


def hand(width: int) -> Loops:
    """y = dot2(x, pairs of a, pairs next to b and c); z = those pairs; u = dot2 of one pair for all lanes, and bits."""
    h = Hand("f32", width)
    a, b, c, x, y, z, u = (h.arg("p", k) for k in range(7))

    def body(item: Name) -> tuple[Arg, ...]:
        i = h.op("i", "imul", item, width)
        start = h.op("v", "load", x, i, attrs=("f32", False))
        left = h.op(
            "w", "load", h.op("p", "offset", a, h.op("i", "imul", i, 2), attrs=("bf16",)), 0, attrs=("pair", False)
        )
        right = h.op("w", "pair", *(h.op("v", "load", p, i, attrs=("f32", False)) for p in (b, c)))
        h.do("store", y, i, h.op("v", "dot2", start, left, right), attrs=("f32", False))
        h.do("store", z, i, right, attrs=("pair", True))
        odd = h.op("p", "offset", a, h.op("i", "iadd", item, 1), attrs=("bf16",))
        one = h.op("w", "wsplat", h.op("i", "load", odd, 0, attrs=("pair", False)))
        low = h.op("w", "load", a, h.op("i", "iadd", i, 3), attrs=("bf16", False))
        mask = h.op("m", "first", h.op("i", "imod", item, width))
        some = h.op("w", "loadm", a, i, mask, attrs=("bf16", False))
        words = h.op("w", "wadd", h.op("w", "wmul", some, h.op("w", "wsplat", 65536)), low)
        alone = h.op("w", "wsplat", h.op("i", "load", a, item, attrs=("bf16", False)))
        sums = h.op("v", "dot2", h.op("v", "dot2", start, one, words), alone, right)
        h.do("store", u, i, sums, attrs=("f32", False))
        return ()

    h.loop(h.params[1], h.params[2], (), body)
    return h.loops()


def data(width: int) -> dict[str, Any]:
    rng = np.random.default_rng(width)
    n = ITEMS * width
    out: dict[str, Any] = {"a": bf16_bits(numbers(rng, 2 * n + 16))}
    out |= {k: numbers(rng, n) for k in "bcx"}
    return out | {"y": np.zeros(n, np.float32), "z": np.zeros(n, np.uint32), "u": np.zeros(n, np.float32)}


@pytest.mark.parametrize("width", [2, 4, 8, 16])
@pytest.mark.parametrize("target", [HOST, PORTABLE], ids=["host", "portable"])
def test_instructions_in_llvm(width: int, target: Any) -> None:
    agree(hand(width), list("abcxyzu"), ITEMS, data(width), [target])


@pytest.mark.skipif(not compiler(), reason="there is no C compiler")
@pytest.mark.parametrize("flags", [FLAGS, tuple(f for f in FLAGS if f != "-march=native")], ids=["host", "baseline"])
def test_instructions_in_c(flags: tuple[str, ...]) -> None:
    for width in (2, 4, 16):
        loops, buffers = hand(width), data(width)
        built = build(loops, flags)
        meant, got = ({k: array(v, v.dtype) for k, v in buffers.items()} for _ in range(2))
        run(loops, loops.phases[0], list("abcxyzu"), 0, ITEMS, meant)
        entry(built.phases[0])(packed(list("abcxyzu"), got).ctypes.data, 0, ITEMS, 0)
        assert all(same_bits(meant[k], got[k]) for k in "yzu"), width


def test_meaning() -> None:
    """Rounded to even once; the upper product is added first; what is not normal is 0 of its sign."""
    low, high = np.array([1.00390625, 1.01171875, -1e-39], np.float32), np.array([-0.0, np.inf, 3.0], np.float32)
    words = pair(low, high).view(np.uint16).reshape(-1, 2)
    assert bf16_value(words[:, 0]).tolist() == [1.0, 1.015625, 0.0] and np.signbit(bf16_value(words[:, 0]))[2]
    assert bf16_value(words[:, 1]).tolist() == [0.0, np.inf, 3.0]
    one = np.ones(1, np.float32)
    first = dot2(-one, pair(one * 2.0**-30, one), pair(one, one))
    assert first.tolist() == [2.0**-30]
    assert dot2(one * 0, pair(one * 1e-38, one * 0), pair(one / 2, one * 0)).tolist() == [0.0]
