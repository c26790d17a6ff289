"""Integers through compiled kernels: reductions, argmax, sorting, masks and indices made of them, running sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from programs import Case, listed
from test_properties import check

import moa
from moa.oracle import evaluate, oracle

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
    "max(softmax(Q @ K.T) * softmax(Q @ K.T, axis=0)), argmax(softmax(Q @ K.T) * softmax(Q @ K.T, axis=0))",
    "argmax(where(iota(m) <= iota(n)[:, None], Q @ K.T / 3, -inf)), argmax(-X / sum(X * X, keepdims=True), axis=0)",
    "argmax(I * 1000000007 + 9000000000000000)",
    "argsort(X), argsort(I, axis=0)",
    "X[argsort(max(X))]",
    "top_k(X, 1)",
    "inverse(argsort(max(X)))",
    "argsort(argsort(X)), argsort(argsort(I, axis=0), axis=0), argsort(argsort(X, axis=0), axis=1)",
    "X[argsort(argsort(max(X)))] + X[argsort(max(X))]",
    "V[(k * k // 2 + k // 3) % d]",
    "V[argmax(X)[argsort(k) // 2 * 2 % n]], where(argmax(X)[argsort(k) // 2 * 2 % n] > 0, 1, 0)",
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
    "I // -3, I % -3, iota(n) // -2",
    "I // k[:, None], I % k[:, None]",
    "sum(where(k != 0, 7 // k, 0), axis=0)",
    "I // (k - k)[:, None], I // iota(d)",
    "(I * 0 - 9223372036854775807 - 1) // where(I > 0, -1, 1)",
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


def test_indices_that_take_arithmetic_are_made_once() -> None:
    """Where nothing else is read, and nothing divided, they stay in the index: that is what domains are found in."""
    made = moa.compile("V[(k * k // 2 + k // 3) % d]", V="d e", k="int n").explain("equations")
    assert made.startswith("x0[i] = ") and made.endswith("out[i, c] = V[x0[i], c]")
    assert moa.compile("V[k]", V="d e", k="int n").explain("equations") == "out[i, c] = V[k[i], c]"
    assert moa.compile("V[iota(d) // 2]", V="d e").explain("equations") == "out[i, c] = V[(i // 2), c]"


def test_the_order_of_an_order_is_the_ranks() -> None:
    text = moa.compile("argsort(argsort(k))", k="int n").explain("equations")
    assert "min" not in text and text.count("sum_{") == 1


SCANS = {
    "exclusive": ("def step(p, q):\n    return p + q\n", "scan(step, k, axis=0, identity=0, exclusive=True)"),
    "backwards": ("def step(p, q):\n    return p + q\n", "scan(step, k, axis=0, identity=0, reverse=True)"),
    "backwards, exclusive": (
        "def step(p, q):\n    return maximum(p, q)\n",
        "scan(step, k, axis=0, identity=-100, reverse=True, exclusive=True)",
    ),
    "a step": ("def step(s, x):\n    return (s * 31 + x) % 1000003\n", "scan(step, k, axis=1, init=7)"),
    "a fold": ("def step(s, x):\n    return maximum(s, x) + 1\n", "fold(step, k, axis=0, init=-2)"),
    "bits": ("def step(p, q):\n    return p | q\n", "scan(step, b, axis=0, identity=False)"),
    "bits that count": ("def step(p, q):\n    return p + q\n", "scan(step, b, axis=0, identity=0)"),
    "bits before": (
        "def step(p, q):\n    return p & q\n",
        "where(scan(step, b, axis=0, identity=True, exclusive=True), x, 0)",
    ),
    "floats decide": ("def step(s, y):\n    return where(y > 0, s + 1, 0)\n", "scan(step, x, axis=0, init=0)"),
    "beside floats": (
        "def step(s, y):\n    a, c = s\n    return a * 0.5 + y * c, c + 1\n",
        "scan(step, x, axis=0, init=(zeros(size(x, 1)), 0))",
    ),
    "the place of the largest so far": (
        "def step(p, q):\n    (v, i), (w, j) = p, q\n    return maximum(v, w), where(w > v, j, i)\n",
        "scan(step, (x, k), axis=0, identity=(-inf, 0))",
    ),
    "two states of a fold": (
        "def step(s, y):\n    a, c = s\n    a = maximum(a, 0) + y\n    return a, maximum(a, c)\n",
        "fold(step, k, axis=0, init=(0, -1000))",
    ),
    "segments": (
        "def step(p, q):\n    return p + q\n",
        "softmax(where(cumsum(b[:, 0])[:, None] == cumsum(b[:, 0]), x @ x.T, -inf)) @ x",
    ),
}


@pytest.mark.parametrize("sizes", [{"n": 1, "m": 1}, {"n": 7, "m": 3}, {"n": 40, "m": 18}, {"n": 0, "m": 2}])
@pytest.mark.parametrize("name", SCANS)
def test_scans_of_integers_and_bits(name: str, sizes: dict[str, int]) -> None:
    step, expression = SCANS[name]
    text = f"{step}\ndef f(x[n, m], k: int[n, m], b: bool[n, m]):\n    return {expression}\n"
    params = "x[n, m] k:int[n, m] b:bool[n, m]"
    for seed in range(3):
        check(Case(text, listed(params), sizes, "plain", seed), ("tiles", "loops", "llvm"))
