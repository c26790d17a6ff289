"""exp2, exp, log, tanh and erf: errors against wider arithmetic, edges, and the same bits from every printed form."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from loops_by_hand import FLOATS, array, elementwise, execute, same_bits

from moa.backends.llvm import Target, host
from moa.backends.llvm_build import Built, build
from moa.expand import ERF, ERF_RANGE, ERFC, EXP2, EXPM1, LN2_HIGH, LN2_LOW, LOG, expand
from moa.interp.loops import run
from moa.loops import For, Op
from moa.ops import erf

mpmath: Any = pytest.importorskip("mpmath")

HOST = host()
PORTABLE = replace(HOST, avx512=False, vector_bytes=32)
FUNCTIONS = ("exp2", "exp", "log", "tanh", "erf")
ULPS = {
    ("exp2", "f32"): 1.6, ("exp2", "f64"): 1.6, ("exp", "f32"): 1.0, ("exp", "f64"): 1.0,
    ("log", "f32"): 1.0, ("log", "f64"): 1.0, ("tanh", "f32"): 2.6, ("tanh", "f64"): 2.6,
    ("erf", "f32"): 1.2, ("erf", "f64"): 1.65,
}  # fmt: skip
RANGES = {"exp2": {"f32": (-152, 129), "f64": (-1077, 1025)}, "exp": {"f32": (-105, 90), "f64": (-747, 711)},
          "log": {"f32": (0, 8), "f64": (0, 8)}, "tanh": {"f32": (-10, 10), "f64": (-20, 20)},
          "erf": {"f32": (-4.5, 4.5), "f64": (-6.5, 6.5)}}  # fmt: skip


@cache
def built(op: str, dtype: str, target: Target, width: int) -> Built:
    return build(expand(elementwise(dtype, width, op)), target)


def apply(op: str, x: np.ndarray[Any, Any], target: Target = HOST) -> np.ndarray[Any, Any]:
    dtype = "f32" if x.dtype == np.float32 else "f64"
    width = target.width(dtype)
    assert len(x) % width == 0
    x, y = array(x, x.dtype), array(np.zeros_like(x), x.dtype)
    execute(built(op, dtype, target, width), ["x", "y"], 0, len(x) // width, {"x": x, "y": y})
    return y


def points(op: str, dtype: str, count: int) -> np.ndarray[Any, Any]:
    """Bit patterns all over the format, and as many numbers from the range that matters, near 0 more of them."""
    rng = np.random.default_rng(5)
    low, high = RANGES[op][dtype]
    near = rng.uniform(low, high, count) * rng.choice([1, 1, 1e-1, 1e-3, 1e-9], count)
    bits = rng.integers(0, 1 << 32, count).astype(np.uint32)
    if dtype == "f64":
        bits = bits.astype(np.uint64) << 32 | rng.integers(0, 1 << 32, count).astype(np.uint64)
    return np.concatenate([near.astype(FLOATS[dtype]), bits.view(FLOATS[dtype])])


def units(y: np.ndarray[Any, Any], exact: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """|y - exact| in units of the last place of float32 at exact (float64); 0 where both are the same special value."""
    with np.errstate(all="ignore"):
        rounded = exact.astype(np.float32)
        unit = np.abs(np.spacing(rounded)).astype(np.float64)
        error = np.abs(y.astype(np.float64) - exact) / unit
    special = ~np.isfinite(rounded) | ~np.isfinite(y)
    assert np.array_equal(np.isnan(y), np.isnan(exact))
    return np.where(special, np.where(same_special(y, rounded), 0, np.inf), error)


def same_special(y: np.ndarray[Any, Any], rounded: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray((y == rounded) | (np.isnan(y) & np.isnan(rounded)))


@pytest.mark.parametrize("op", FUNCTIONS)
def test_float32_against_float64(op: str) -> None:
    x = points(op, "f32", 1 << 20)
    with np.errstate(all="ignore"):
        exact = (erf if op == "erf" else getattr(np, op))(x.astype(np.float64))
    assert units(apply(op, x), exact).max() <= ULPS[op, "f32"]


@pytest.mark.parametrize("op", FUNCTIONS)
def test_float64_against_mpmath(op: str) -> None:
    x = points(op, "f64", 3000)[:4096]
    y = apply(op, x)
    exact: dict[str, Any] = {"exp2": lambda v: mpmath.mpf(2) ** v, "exp": mpmath.exp, "log": mpmath.log,
                             "tanh": mpmath.tanh, "erf": mpmath.erf}  # fmt: skip
    worst = 0.0
    with mpmath.workprec(160):
        for a, b in zip(x.tolist(), y.tolist(), strict=True):
            if math.isnan(a) or (op == "log" and a <= 0):
                continue
            if op in ("exp", "exp2") and abs(a) > 2000:
                assert b == (0 if a < 0 else math.inf)
                continue
            value = exact[op](mpmath.mpf(a))
            if abs(value) > np.finfo(float).max:
                assert b == math.inf or value < 2.0**1024
                continue
            unit = mpmath.mpf(math.ulp(float(value)))
            worst = max(worst, float(abs(mpmath.mpf(b) - value) / unit))
    assert worst <= ULPS[op, "f64"]


INF, NAN = math.inf, math.nan
EDGES = {
    "exp2": [(0.0, 1), (-0.0, 1), (1.0, 2), (-1.0, 0.5), (10.0, 1024), (INF, INF), (-INF, 0), (NAN, NAN), (-1e30, 0),
             (1e30, INF), (-1e-30, 1)],
    "exp": [(0.0, 1), (-0.0, 1), (INF, INF), (-INF, 0), (NAN, NAN), (-1e30, 0), (1e30, INF), (1e-30, 1)],
    "log": [(1.0, 0), (0.0, -INF), (-0.0, -INF), (-1.0, NAN), (INF, INF), (-INF, NAN), (NAN, NAN), (-1e-40, NAN)],
    "tanh": [(0.0, 0), (-0.0, -0.0), (INF, 1), (-INF, -1), (NAN, NAN), (50.0, 1), (-1e30, -1), (1e-40, 1e-40)],
    "erf": [(0.0, 0), (-0.0, -0.0), (INF, 1), (-INF, -1), (NAN, NAN), (50.0, 1), (-1e30, -1), (6.0, 1)],
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("op", FUNCTIONS)
def test_edges(op: str, dtype: str) -> None:
    pairs = np.resize(np.array(EDGES[op]), (16, 2)).astype(FLOATS[dtype])
    for target in (HOST, PORTABLE):
        assert same_bits(apply(op, pairs[:, 0], target), np.ascontiguousarray(pairs[:, 1]))


def test_exp2_underflows_gradually() -> None:
    powers = np.arange(-152, -120).astype(np.float32)
    assert np.array_equal(apply("exp2", powers), np.ldexp(np.float32(1), powers.astype(np.int32)))
    powers = np.arange(-1080, -1016).astype(np.float64)
    assert np.array_equal(apply("exp2", powers), np.ldexp(1.0, powers.astype(np.int32)))


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("op", FUNCTIONS)
def test_every_form_gives_the_same_bits(op: str, dtype: str) -> None:
    """AVX-512 instructions, the portable form, scalars, and the interpreter."""
    x = points(op, dtype, 1 << 10)
    y = apply(op, x)
    assert same_bits(y, apply(op, x, PORTABLE))
    z = np.zeros_like(x)
    run(expand(elementwise(dtype, len(x), op)), "main", ["x", "y"], 0, 1, {"x": x, "y": z})
    assert same_bits(y, z)
    scalar = build(expand(elementwise(dtype, 4, op, "f")))
    x, z = array(x, x.dtype), array(z, z.dtype)
    execute(scalar, ["x", "y"], 0, len(x), {"x": x, "y": z})
    assert same_bits(y, z)


def test_exp2_is_a_fraction_a_polynomial_and_a_scaling() -> None:
    loop = expand(elementwise("f32", 16, "exp2")).functions[0].body[-1]
    assert isinstance(loop, For)
    names = [s.op for s in loop.body if isinstance(s, Op)]
    assert names == ["imul", "load", "fraction", *["fma"] * 6, "scale", "store"]
    if HOST.avx512:
        text = built("exp2", "f32", HOST, 16).assembly()
        assert text.count("vreduceps") == text.count("vscalefps") == 1 and text.count("vfmadd") == 6


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_the_coefficients_are_as_good_as_their_docstring_says(dtype: str) -> None:
    def worst(coefficients: tuple[float, ...], function: Any, weight: Any, low: float, high: float) -> float:
        errors = []
        for k in range(401):
            x = low + (high - low) * mpmath.mpf(k) / 400
            if x != 0:
                value = sum(c * x**i for i, c in enumerate(coefficients))
                errors.append(abs((value - function(x)) * weight(x)))
        return float(max(errors))

    with mpmath.workprec(160):
        half = mpmath.log(2) / 2
        exp2 = worst(EXP2[dtype], lambda x: (2**x - 1) / x, lambda x: x / 2**x, 0, 1)
        expm1 = worst(EXPM1[dtype], lambda r: (mpmath.expm1(r) - r) / r**2, lambda r: r**2 / mpmath.expm1(r),
                      -half, half)  # fmt: skip
        log = worst(LOG[dtype], lambda z: (2 * mpmath.atanh(mpmath.sqrt(z)) / mpmath.sqrt(z) - 2) / z,
                    lambda z: z / 2, 0, mpmath.mpf(1) / 25)  # fmt: skip
        near = worst((1 + ERF[dtype][0], *ERF[dtype][1:]), lambda z: mpmath.erf(mpmath.sqrt(z)) / mpmath.sqrt(z),
                     lambda z: mpmath.sqrt(z) / mpmath.erf(mpmath.sqrt(z)), 0, 1)  # fmt: skip
        far = worst(ERFC[dtype], lambda t: -mpmath.log(mpmath.erfc(t)), lambda t: mpmath.erfc(t) / mpmath.erf(t),
                    1, mpmath.mpf(ERF_RANGE[dtype]))  # fmt: skip
    bounds = {
        "f32": (2.2e-9, 1.5e-8, 2.9e-9, 1.3e-8, 1.2e-8),
        "f64": (1.9e-17, 3.5e-17, 1.6e-17, 3.4e-17, 1.5e-17),
    }[dtype]
    assert all(a <= b for a, b in zip((exp2, expm1, log, near, far), bounds, strict=True)), (near, far)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_the_parts_of_ln_2(dtype: str) -> None:
    """The high part times any exponent is exact; both together are more precise than one number."""
    high, low = (FLOATS[dtype](x) for x in (LN2_HIGH[dtype], LN2_LOW[dtype]))
    digits, exponents = (24, 8) if dtype == "f32" else (53, 11)
    assert float(high) == LN2_HIGH[dtype] and math.ldexp(float(high), digits - exponents).is_integer()
    with mpmath.workprec(160):
        assert abs(mpmath.mpf(float(high)) + mpmath.mpf(float(low)) - mpmath.log(2)) < 2.0 ** (-digits - 10)
