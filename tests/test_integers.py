"""Integers through compiled kernels: reductions, argmax, sorting, masks and indices made of them, running sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import moa
from moa.oracle import evaluate, oracle
from moa.text import MoaError

PARAMETERS = "I: int[n, d], J: int[d, m], k: int[n], p: bool[n], X[n, d], Q[n, d], K[m, d], W[m, d], V[d, m], F[n, m]"
EXPRESSIONS = (
    "sum(I, axis=0)",
    "prod(I)",
    "max(I), min(I, axis=0)",
    "I @ J",
    "sum(I * 1000000007)",
    "sum(I) % 3, sum(I // 2)",
    "mean(I)",
    "any(I > 1, axis=0), all(I > -2)",
    "max(sum(I), axis=0)",
    "minimum(abs(max(I)), 2)",
    "argmax(X), argmax(X, axis=0)",
    "argmax(I)",
    "argmax(I * 1000000007 + 9000000000000000)",
    "argsort(X), argsort(I, axis=0)",
    "X[argsort(max(X))]",
    "top_k(X, 1)",
    "inverse(argsort(max(X)))",
    "V[argmax(X)]",
    "where(sum(I)[:, None] > 0, X, 0)",
    "sum(where(sum(I)[:, None] > 0, X, 0), axis=0)",
    "sum(where(iota(n) < sum(p, axis=0), X.T, 0))",
    "softmax(where(iota(m) <= sum(I)[:, None], Q @ K.T, -inf)) @ W",
    "softmax(where(iota(m) != argmax(Q @ K.T)[:, None], Q @ K.T, -inf)) @ W",
    "where(iota(d) == argmax(X)[:, None], 1, 0)",
    "sum(where(k[:, None] == iota(5), 1, 0), axis=0)",
    "sum(argmax(X), axis=0)",
    "max(argsort(X), axis=0)",
    "X * sum(I)[:, None]",
    "where(X > 0, I, -I)",
    "sum(where(X > 0, I, -I), axis=0)",
    "V[where(X > 0, 0, d - 1)]",
    "cumsum(I, axis=0), cummax(I)",
    "cumsum(p, axis=0)",
    "∨\\ p, ∧\\ p",
    "F[cumsum(p, axis=0) - cumsum(p, axis=0)]",
    "softmax(where(cumsum(k, axis=0)[:, None] == cumsum(k, axis=0), Q @ Q.T, -inf)) @ X",
    "concat(I, I, axis=1), concat(p, ~p)",
    "rotate(I, 2, axis=1), reverse(k)",
)
SIZES = ({"n": 5, "d": 3, "m": 4}, {"n": 1, "d": 1, "m": 1}, {"n": 37, "d": 20, "m": 9})


def arguments(program: Any, sizes: dict[str, int], dtype: str) -> dict[str, Any]:
    rng = np.random.default_rng(len(program.values))
    out: dict[str, Any] = {}
    for p in program.inputs:
        shape = tuple(evaluate(e, sizes) for e in p.shape)
        match p.kind:
            case "f":
                out[p.name] = rng.standard_normal(shape).round(1).astype(dtype)  # with equal elements
            case "i":
                out[p.name] = rng.integers(-3, 4, shape)
            case _:
                out[p.name] = rng.random(shape) < 0.6
    return out


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_kernel_has_the_values_of_the_oracle(expression: str, dtype: str) -> None:
    kernel = moa.compile(f"def f({PARAMETERS}):\n    return {expression}\n", dtype=dtype)
    tolerance = 1e-9 if dtype == "float64" else 1e-3
    for sizes in SIZES:
        args = arguments(kernel.derivation.program, sizes, dtype)
        found = kernel(**args)
        wanted = oracle(kernel.derivation.program, args)
        for a, b in zip(found if isinstance(found, tuple) else (found,), wanted, strict=True):
            assert a.shape == b.shape
            assert a.dtype.kind == b.dtype.kind
            if b.dtype.kind == "f":
                assert np.allclose(a, b, tolerance, tolerance)
            else:
                assert np.array_equal(a, b)


STEPS = (
    "return maximum(s, x) + 1\n\ndef f(k: int[n]):\n    return fold(step, k, axis=0, init=0)\n",
    "return s + x\n\ndef f(k: int[n]):\n    return scan(step, k, axis=0, init=0, exclusive=True)\n",
)


@pytest.mark.parametrize("text", STEPS)
def test_steps_of_integers_are_refused(text: str) -> None:
    with pytest.raises(MoaError, match="a scan of integers"):
        moa.compile(f"def step(s, x):\n    {text}")
