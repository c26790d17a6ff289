"""Programs that once went wrong, each with what it showed."""

from __future__ import annotations

import numpy as np
import pytest

import moa
from moa.oracle import oracle

SIZES = {"n": 37, "m": 21, "d": 5}
FOUND = {
    "an index mask and a data mask: splitting never ended": """
def f(S[n, m], B[n, m]):
    i, j = iota(n)[:, None], iota(m)
    return sum(where((j <= i) & (B > 0), S, 0))
""",
    "the same below a normaliser": """
def f(Q[n, d], K[n, d], V[n, d], B[n, n]):
    i, j = iota(n)[:, None], iota(n)
    return softmax(where((j <= i) & (B > 0), Q @ K.T, -inf)) @ V
""",
    "an index mask, a key mask and a data mask": """
def f(Q[n, d], K[n, d], V[n, d], k: bool[n], B[n, n]):
    i, j = iota(n)[:, None], iota(n)
    return softmax(where(((j <= i) & k) | (B > 1), Q @ K.T, -inf)) @ V, sum(where(k & (B > 0) & (j >= i - 3), B, 0))
""",
    "a plain index ran beyond the shorter array": """
def f(X[n, d]):
    return concat(X, 2 * X, axis=-1), concat(X, X * X, axis=0)
""",
    "a domain over rows that the members do not share": """
def f(Q[n, d], K[n, d]):
    i, j = iota(n)[:, None], iota(n)
    s = where((j <= i) & ((i - j < 3) | (j < 2)), Q @ K.T, -inf)
    p = maximum(s, 0)
    p = p / (sum(p, axis=-1, keepdims=True) + 0.01)
    return sum(p, axis=-2)
""",
    "ranks that only a condition reads were never made": """
def f(X[n, d]):
    return argsort(X, axis=-1), X[argsort(sum(X, axis=-1))]
""",
    "an integer that floats choose": """
def f(X[n, d]):
    return where(sum(X) > 0, 1, 0) + tanh(sum(X)), X[where(sum(X) > 0, 1, 0)]
""",
}


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.parametrize("n", [1, 2, 37])
def test_found(name: str, n: int) -> None:
    kernel = moa.compile(FOUND[name])
    rng = np.random.default_rng(n)
    sizes = SIZES | {"n": max(n, 2) if "integer" in name else n}
    arrays = {}
    for p in kernel.derivation.program.inputs:
        shape = [sizes[str(e)] for e in p.shape]
        arrays[p.name] = rng.random(shape) < 0.5 if p.kind == "b" else rng.standard_normal(shape)
    out = kernel(**arrays)
    expected = oracle(kernel.derivation.program, arrays)
    for a, b in zip(out if isinstance(out, tuple) else (out,), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_a_maximum_along_the_lanes_keeps_a_nan() -> None:
    x = np.random.default_rng(0).standard_normal((5, 40))
    x[2, 7] = x[3, 39] = np.nan
    np.testing.assert_array_equal(moa.compile("max(X, axis=-1)", X="n d")(x), x.max(axis=-1))
