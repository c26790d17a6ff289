"""Programs with several forms against results of other packages: every form reproduces them.

The files are those in tests/data/outside, or in the folder that MOA_GOLDEN_DATA names.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from formulas import kernel_of, of

FOLDER = Path(os.environ.get("MOA_GOLDEN_DATA") or Path(__file__).resolve().parent / "data" / "outside")

PROGRAMS = {
    "linear": """
def linear(Q[b, h, n, dk], K[b, h, m, dk], V[b, h, m, dv], lengths: int[b], scale: float, eps: float):
    A = where(iota(m) < lengths[:, None, None, None], scale * ((elu(Q) + 1) @ (elu(K) + 1).T), 0)
    return (A @ V) / (sum(A, axis=-1, keepdims=True) + eps)
""",
    "causal linear": """
def linear(Q[b, h, n, dk], K[b, h, n, dk], V[b, h, n, dv], lengths: int[b], scale: float, eps: float):
    i, j = iota(n)[:, None], iota(n)
    A = where((j < lengths[:, None, None, None]) & (j <= i), scale * ((elu(Q) + 1) @ (elu(K) + 1).T), 0)
    return (A @ V) / (sum(A, axis=-1, keepdims=True) + eps)
""",
    "retention": """
def retention(Q[b, h, n, dk], K[b, h, n, dk], V[b, h, n, dv], g[h], scale: float):
    i, j = iota(n)[:, None], iota(n)
    return (scale * (Q @ K.T) * where(j <= i, exp((i - j) * g[:, None, None]), 0)) @ V
""",
    "gated": """
def gated(Q[b, h, n, dk], K[b, h, n, dk], V[b, h, n, dv], g[b, h, n], scale: float):
    i, j = iota(n)[:, None], iota(n)
    c = cumsum(minimum(g, 0))
    return (scale * (Q @ K.T) * where(j <= i, exp(c[:, :, :, None] - c[:, :, None, :]), 0)) @ V
""",
    "aaren": """
def aaren(q[h, dk], K[b, h, n, dk], V[b, h, n, dv], scale: float):
    i, j = iota(n)[:, None], iota(n)
    s = scale * sum(K * q[:, None], axis=-1)
    return softmax(where(j <= i, s[:, :, None, :], -inf)) @ V
""",
    "linformer": """
def linformer(Q[b, h, n, d], K[b, h, m, d], V[b, h, m, d], E[m, r], F[m, r], scale: float):
    return softmax(scale * (Q @ (E.T @ K).T)) @ (F.T @ V)
""",
    "relu": """
def performer(Q[b, h, n, d], K[b, h, m, d], V[b, h, m, dv], W[r, d], c: float, eps: float):
    A = (maximum(c * Q @ W.T, 0) + eps) @ (maximum(c * K @ W.T, 0) + eps).T
    return (A @ V) / sum(A, axis=-1, keepdims=True)
""",
    "causal relu": """
def performer(Q[b, h, n, d], K[b, h, n, d], V[b, h, n, dv], W[r, d], c: float, eps: float, small: float):
    q, k = maximum(c * Q @ W.T, 0) + eps, maximum(c * K @ W.T, 0) + eps
    A = where(iota(n) <= iota(n)[:, None], q @ k.T, 0)
    return (A @ V) / (sum(A, axis=-1, keepdims=True) + small * sum(q, axis=-1, keepdims=True))
""",
    "exponential": """
def features(u, x, s, c, eps):
    return exp(u - c * c * sum(x * x, axis=-1, keepdims=True) / 2 - s) + eps

def performer(Q[b, h, n, d], K[b, h, m, d], V[b, h, m, dv], W[r, d], c: float, eps: float):
    u, w = c * Q @ W.T, c * K @ W.T
    q = features(u, Q, max(u, axis=-1, keepdims=True), c, eps)
    k = features(w, K, max(max(w, axis=-1), axis=-1)[:, :, None, None], c, eps)
    A = q @ k.T
    return (A @ V) / sum(A, axis=-1, keepdims=True)
""",
    "causal exponential": """
def features(u, x, s, c, eps):
    return exp(u - c * c * sum(x * x, axis=-1, keepdims=True) / 2 - s) + eps

def performer(Q[b, h, n, d], K[b, h, n, d], V[b, h, n, dv], W[r, d], c: float, eps: float, small: float):
    u, w = c * Q @ W.T, c * K @ W.T
    q = features(u, Q, max(u, axis=-1, keepdims=True), c, eps) / sqrt(r)
    k = features(w, K, max(max(w, axis=-1), axis=-1)[:, :, None, None], c, eps) / sqrt(r)
    A = where(iota(n) <= iota(n)[:, None], q @ k.T, 0)
    return (A @ V) / (sum(A, axis=-1, keepdims=True) + small * sum(q, axis=-1, keepdims=True))
""",
}

RENAMED = {"key_lengths": "lengths", "log_decay": "g", "feature_eps": "eps", "denominator_eps": "small"}

# file, program, how many forms there are at least
CASES = [
    ("linear_elu", "linear", 2),
    ("linear_elu_causal", "causal linear", 2),
    ("linear_elu_causal_chunked", "causal linear", 2),
    ("linear_elu_causal_recurrent", "causal linear", 2),
    ("retention", "retention", 2),
    ("simple_gla", "gated", 2),
    ("aaren", "aaren", 2),
    ("linformer", "linformer", 2),
    ("linformer_cross", "linformer", 2),
    ("linformer_short_one_kv_head", "linformer", 2),
    ("performer_relu", "relu", 2),
    ("performer_relu_causal", "causal relu", 2),
    ("performer_softmax", "exponential", 2),
    ("performer_softmax_cross", "exponential", 2),
    ("performer_softmax_causal", "causal exponential", 2),
]


def arguments(data: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """What a program takes, from a file."""
    out = {}
    for k, v in data.items():
        k = RENAMED.get(k, k)
        if k in names:
            out[k] = v if v.ndim else float(v)
    if "E" in out:
        out["E"], out["F"] = (out[k][: data["K"].shape[2]] for k in ("E", "F"))
        heads = out["Q"].shape[1]
        out["K"], out["V"] = (np.repeat(out[k], heads // out[k].shape[1], axis=1) for k in ("K", "V"))
    if out.get("g") is not None and out["g"].ndim == 4:
        out["g"] = out["g"][..., 0]
    return out


@pytest.mark.parametrize(("file", "program", "forms"), CASES)
def test_every_form_reproduces_the_package(file: str, program: str, forms: int) -> None:
    with np.load(FOLDER / f"{file}.npz") as opened:
        data = {k: opened[k] for k in opened.files}
    text = PROGRAMS[program]
    d = of(text)
    given = arguments(data, [p.name for p in d.program.inputs])
    want, tolerance = (data["O_wide"], 1e-12) if "O_wide" in data else (data["O"], float(data["tol"]))
    assert len(d.forms) >= forms
    for k, form in enumerate(d.forms):
        worst = float(np.abs(kernel_of(text, k)(**given) - want).max())
        assert worst <= tolerance, (form.name, worst)
