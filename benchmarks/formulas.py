"""The formulas that are measured: as programs, as NumPy in float64, and what they cost beyond multiply-adds."""

from __future__ import annotations

from dataclasses import dataclass

PLAIN = """
def plain(Q[..., n, dk], K[..., m, dk], V[..., m, dv]):
    return softmax(Q @ K.T / sqrt(dk)) @ V
"""
GROUPED = """
def grouped(Q[b, g, r, n, dk], K[b, g, m, dk], V[b, g, m, dv]):
    return softmax(Q @ K[:, :, None].T / sqrt(dk)) @ V[:, :, None]
"""
CAUSAL = """
def causal(Q[..., n, dk], K[..., n, dk], V[..., n, dv]):
    i, j = iota(n)[:, None], iota(n)
    return softmax(where(j <= i, Q @ K.T / sqrt(dk), -inf)) @ V
"""
WINDOW = """
def window(Q[..., n, dk], K[..., n, dk], V[..., n, dv], w: int):
    i, j = iota(n)[:, None], iota(n)
    return softmax(where((j <= i) & (i - j < w), Q @ K.T / sqrt(dk), -inf)) @ V
"""
ALIBI = """
def alibi(Q[b, h, n, dk], K[b, h, n, dk], V[b, h, n, dv], slope[h]):
    i, j = iota(n)[:, None], iota(n)
    S = Q @ K.T / sqrt(dk) - slope[:, None, None] * (i - j)
    return softmax(where(j <= i, S, -inf)) @ V
"""
SOFTCAP = """
def softcap(Q[..., n, dk], K[..., n, dk], V[..., n, dv], c: float):
    i, j = iota(n)[:, None], iota(n)
    return softmax(where(j <= i, c * tanh(Q @ K.T / sqrt(dk) / c), -inf)) @ V
"""
DOCUMENT = """
def document(Q[..., n, dk], K[..., n, dk], V[..., n, dv], doc: int[n]):
    i, j = iota(n)[:, None], iota(n)
    return softmax(where((j <= i) & (doc[:, None] == doc), Q @ K.T / sqrt(dk), -inf)) @ V
"""
BIAS = """
def biased(Q[..., n, dk], K[..., n, dk], V[..., n, dv], B[n, n]):
    i, j = iota(n)[:, None], iota(n)
    return softmax(where(j <= i, Q @ K.T / sqrt(dk) + B, -inf)) @ V
"""
LINEAR = """
def linear(Q[..., n, dk], K[..., n, dk], V[..., n, dv]):
    return where(iota(n) <= iota(n)[:, None], (elu(Q) + 1) @ (elu(K) + 1).T, 0) @ V
"""

EXP = {"float64": 13, "float32": 8, "bfloat16": 8}
"""Instructions of one exponential: the fraction, the polynomial, the scaling by a power of two."""

SOFT = {t: 3 + e for t, e in EXP.items()}
"""Of one score: the scale and the reference (one multiply-add), the maximum, the exponential, the sum."""

TANH = {t: 8 + e for t, e in EXP.items()}
"""Of one hyperbolic tangent at the least: an exponential, a division, and what joins small arguments to it."""


@dataclass(frozen=True, slots=True)
class Formula:
    """text      the program
    causal    whether keys after the row are masked
    scores    vector instructions of one score apart from its products, by dtype: what the formula's ceiling counts
    """

    text: str
    causal: bool
    scores: dict[str, int]


def plus(more: int) -> dict[str, int]:
    return {t: s + more for t, s in SOFT.items()}


FORMULAS = {
    "full": Formula(PLAIN, False, SOFT),
    "grouped": Formula(GROUPED, False, SOFT),
    "causal": Formula(CAUSAL, True, SOFT),
    "window": Formula(WINDOW, True, SOFT),
    "alibi": Formula(ALIBI, True, plus(1)),
    "softcap": Formula(SOFTCAP, True, {t: SOFT[t] + TANH[t] for t in SOFT}),
    "document": Formula(DOCUMENT, True, plus(1)),
    "bias": Formula(BIAS, True, plus(1)),
    "linear": Formula(LINEAR, True, dict.fromkeys(SOFT, 0)),
}
