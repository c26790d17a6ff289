"""Programs that have several forms, and what compares a form, interpreted or compiled, with the oracle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

import moa
from moa.forms import Form
from moa.interp.normal import run
from moa.oracle import evaluate, oracle
from moa.parse import parse
from moa.pipeline import Derivation, derive

Array = np.ndarray[Any, Any]

PROGRAMS = {
    "linear": """
def linear(Q[n, dk], K[m, dk], V[m, dv]):
    A = (elu(Q) + 1) @ (elu(K) + 1).T
    return (A @ V) / (sum(A, axis=-1, keepdims=True) + 1e-6)
""",
    "causal linear": """
def linear(Q[n, dk], K[n, dk], V[n, dv]):
    A = where(iota(n) <= iota(n)[:, None], (elu(Q) + 1) @ (elu(K) + 1).T, 0)
    return (A @ V) / (sum(A, axis=-1, keepdims=True) + 1e-6)
""",
    "padded linear": """
def linear(Q[n, dk], K[n, dk], V[n, dv], keep: bool[n]):
    A = where((iota(n) <= iota(n)[:, None]) & keep, (elu(Q) + 1) @ (elu(K) + 1).T, 0)
    return (A @ V) / (sum(A, axis=-1, keepdims=True) + 1e-6)
""",
    "performer": """
def performer(Q[n, d], K[n, d], V[n, dv], W[r, d], c: float):
    q, k = maximum(c * Q @ W.T, 0) + 0.001, maximum(c * K @ W.T, 0) + 0.001
    A = where(iota(n) <= iota(n)[:, None], q @ k.T, 0)
    return (A @ V) / sum(A, axis=-1, keepdims=True)
""",
    "prefix mean": """
def prefix_mean(X[n, d]):
    i, j = iota(n)[:, None, None], iota(n)[None, :, None]
    return sum(where(j <= i, X[None], 0), axis=1) / sum(where(j <= i, 1.0, 0), axis=1)
""",
    "strict triangle": """
def triangle(X[n, d]):
    return where(iota(n) < iota(n)[:, None], 1, 0) @ X
""",
    "triangles": """
def triangles(X[n, d]):
    T = where(iota(n) <= iota(n)[:, None], 1, 0)
    return T @ (T @ X)
""",
    "retention": """
def retention(Q[b, h, n, dk], K[b, h, n, dk], V[b, h, n, dv], g[h]):
    i, j = iota(n)[:, None], iota(n)
    return ((Q @ K.T / sqrt(dk)) * where(j <= i, exp((i - j) * g[:, None, None]), 0)) @ V
""",
    "strict retention": """
def retention(Q[h, n, dk], K[h, n, dk], V[h, n, dv], g[h]):
    i, j = iota(n)[:, None], iota(n)
    return ((Q @ K.T / sqrt(dk)) * where(j < i, exp((i - j) * g[:, None, None]), 0)) @ V
""",
    "gated": """
def gated(Q[h, n, dk], K[h, n, dk], V[h, n, dv], g[h, n]):
    i, j = iota(n)[:, None], iota(n)
    c = cumsum(minimum(g, 0))
    return ((Q @ K.T / sqrt(dk)) * where(j <= i, exp(c[:, :, None] - c[:, None, :]), 0)) @ V
""",
    "prefix softmax": """
def aaren(q[h, dk], K[h, n, dk], V[h, n, dv]):
    i, j = iota(n)[:, None], iota(n)
    return softmax(where(j <= i, sum(K * q[:, None], axis=-1)[:, None, :] / sqrt(dk), -inf)) @ V
""",
    "prefix maximum": """
def prefix_maximum(X[n, d]):
    i, j = iota(n)[:, None, None], iota(n)[None, :, None]
    return max(where(j <= i, X[None], -inf), axis=1)
""",
    "exponential features": """
def features(Q[n, d], K[n, d], V[n, dv], W[r, d]):
    u, v = Q @ W.T, K @ W.T
    q = exp(u - max(u, keepdims=True)) + 0.001
    k = exp(v - max(max(v, keepdims=True), axis=-2, keepdims=True)) + 0.001
    A = where(iota(n) <= iota(n)[:, None], q @ k.T, 0)
    return (A @ V) / sum(A, axis=-1, keepdims=True)
""",
    "chain": """
def chain(A[n, k], B[k, m], C[m, d]):
    return A @ B @ C
""",
    "long chain": """
def chain(A[n, k], B[k, m], C[m, d], D[d, r]):
    return A @ B @ C @ D
""",
    "projected": """
def projected(Q[n, dk], K[m, dk], V[m, dv], E[m, r], F[m, r]):
    return softmax((Q @ K.T) @ E / sqrt(dk)) @ (F.T @ V)
""",
}

EXTENTS = {"dk": 5, "dv": 6, "d": 5, "b": 2, "h": 3, "m": 11, "r": 4, "k": 5}
LENGTHS = (0, 1, 2, 5, 64, 65, 300)


@cache
def derived(name: str) -> Derivation:
    return derive(parse(PROGRAMS[name]), 0)


@cache
def of(text: str) -> Derivation:
    return derive(parse(text), 0)


def inputs(d: Derivation, n: int) -> dict[str, Any]:
    """Arguments at length n: decays at most 0, every third element padding."""
    rng = np.random.default_rng(n)
    out: dict[str, Any] = {}
    sizes = {**EXTENTS, "n": n}
    for p in d.program.inputs:
        shape = tuple(evaluate(e, sizes) for e in p.shape)
        values: Any = rng.standard_normal(shape)
        if p.kind == "b":
            values = np.asarray(values > -0.5)
        out[p.name] = values if p.shape else 0.7
    if "g" in out:
        out["g"] = -np.abs(out["g"])
    return out


def expected(d: Derivation, given: Mapping[str, Any]) -> tuple[Array, ...]:
    with np.errstate(all="ignore"):
        return oracle(d.program, dict(given))


def interpreted(d: Derivation, form: Form, given: Mapping[str, Any], n: int) -> tuple[Array, ...]:
    arrays = {k: v for k, v in given.items() if np.ndim(v)}
    scalars = {k: v for k, v in given.items() if not np.ndim(v)}
    sizes = {s: {**EXTENTS, "n": n}[s] for s in d.program.sizes()}
    found = run(form.streamed, arrays, sizes, scalars, tile=7)
    return tuple(found[o] for o in form.streamed.outputs)


def kernel_of(text: str, form: int, ranks: int = 0) -> moa.Kernel:
    """A kernel that has one form to choose from."""
    kernel = moa.compile(text)
    d = kernel._derive(ranks)
    kernel._derivations[ranks] = replace(d, forms=(replace(d.forms[form], by_length=None),))
    kernel._fronts.pop(ranks, None)  # it is made of the derivation
    return kernel


def gap(got: tuple[Array, ...], want: tuple[Array, ...]) -> float:
    """The largest difference, relative to the largest value of its output; NaN and infinities have to agree."""
    worst = 0.0
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape
        if not np.array_equal(np.isfinite(g), np.isfinite(w)):
            return float("inf")
        finite = np.isfinite(w)
        if finite.any():
            worst = max(worst, float(np.abs(g - w)[finite].max() / max(np.abs(w[finite]).max(), 1e-300)))
    return worst


def agrees(d: Derivation, form: Form, lengths: tuple[int, ...] = (0, 1, 2, 5, 17)) -> bool:
    """Whether a form, interpreted, has the values of the oracle."""
    for n in lengths:
        given = inputs(d, n)
        if not gap(interpreted(d, form, given, n), expected(d, given)) <= 1e-12:
            return False
    return True
