"""The oracle against NumPy written by hand, its meaning at the edges, and what it refuses of arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moa import ir
from moa.check import check
from moa.oracle import bind, oracle
from moa.parse import parse, parse_expression
from moa.text import MoaError

EXAMPLES = Path(__file__).parent.parent / "examples"
Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(7)


def data(*shape: int) -> Array:
    return RNG.standard_normal(shape)


def program(text: str, ranks: int = 0) -> ir.Program:
    return check(parse(text, "t.moa"), ranks)


def softmax(s: Array) -> Array:
    """Rows of nothing but -inf give 0."""
    with np.errstate(all="ignore"):
        m = np.max(s, axis=-1, keepdims=True)
        e = np.exp(s - np.where(np.isinf(m), 0, m))
        l = e.sum(axis=-1, keepdims=True)
    return e / np.where(l == 0, 1, l)


def plain_attention(Q: Array, K: Array, V: Array, bias: Array | float = 0.0) -> Array:
    return softmax(np.einsum("...id,...jd->...ij", Q, K) / Q.shape[-1] ** 0.5 + bias) @ V


def mask(keep: Array) -> Array:
    return np.where(keep, 0.0, -np.inf)


def attention(Q: Array, K: Array, V: Array) -> Array:
    return plain_attention(Q, K, V)


def causal(Q: Array, K: Array, V: Array) -> Array:
    return plain_attention(Q, K, V, mask(np.tri(len(Q[..., :, 0].T), dtype=bool)))


def window(Q: Array, K: Array, V: Array, w: int) -> Array:
    n = Q.shape[-2]
    return plain_attention(Q, K, V, mask(np.tri(n, dtype=bool) & ~np.tri(n, k=-w, dtype=bool)))


def alibi(Q: Array, K: Array, V: Array, slope: Array) -> Array:
    n = Q.shape[-2]
    distance = np.subtract.outer(np.arange(n), np.arange(n))
    return plain_attention(Q, K, V, -np.einsum("h,ij->hij", slope, distance))


def gqa(Q: Array, K: Array, V: Array) -> Array:
    r = Q.shape[2]
    return plain_attention(Q, np.repeat(K[:, :, None], r, axis=2), np.repeat(V[:, :, None], r, axis=2))


def with_lse(Q: Array, K: Array, V: Array) -> tuple[Array, Array]:
    s = Q @ K.T / np.sqrt(Q.shape[1])
    return attention(Q, K, V), np.log(np.exp(s).sum(axis=1))


def linear(Q: Array, K: Array, V: Array) -> Array:
    def feature(x: Array) -> Array:
        return np.where(x > 0, x + 1, np.exp(x))

    a = np.tril(np.einsum("...id,...jd->...ij", feature(Q), feature(K)))
    return a @ V / (a.sum(axis=-1, keepdims=True) + 1e-6)


def aaren(q: Array, K: Array, V: Array) -> Array:
    s = np.exp(K @ q / np.sqrt(len(q)))
    return np.cumsum(s[:, None] * V, axis=0) / np.cumsum(s)[:, None]


def neighbours_min(X: Array) -> Array:
    out = X.copy()
    out[1:] = np.minimum(X[1:], X[:-1])
    return out


CASES: list[tuple[Callable[..., Any], int, dict[str, Any]]] = [
    (attention, 0, {"Q": data(5, 4), "K": data(7, 4), "V": data(7, 3)}),
    (attention, 2, {"Q": data(2, 3, 5, 4), "K": data(2, 3, 7, 4), "V": data(2, 3, 7, 3)}),
    (attention, 0, {"Q": data(1, 1), "K": data(1, 1), "V": data(1, 1)}),
    (causal, 0, {"Q": data(6, 4), "K": data(6, 4), "V": data(6, 3)}),
    (window, 0, {"Q": data(6, 4), "K": data(6, 4), "V": data(6, 3), "w": 3}),
    (window, 1, {"Q": data(2, 6, 4), "K": data(2, 6, 4), "V": data(2, 6, 3), "w": 0}),
    (alibi, 0, {"Q": data(2, 3, 5, 4), "K": data(2, 3, 5, 4), "V": data(2, 3, 5, 3), "slope": data(3)}),
    (gqa, 0, {"Q": data(2, 2, 3, 5, 4), "K": data(2, 2, 7, 4), "V": data(2, 2, 7, 3)}),
    (with_lse, 0, {"Q": data(5, 4), "K": data(7, 4), "V": data(7, 3)}),
    (linear, 0, {"Q": data(5, 4), "K": data(5, 4), "V": data(5, 3)}),
    (linear, 1, {"Q": data(2, 5, 4), "K": data(2, 5, 4), "V": data(2, 5, 3)}),
    (aaren, 0, {"q": data(4), "K": data(6, 4), "V": data(6, 3)}),
    (neighbours_min, 0, {"X": data(6, 3)}),
    (neighbours_min, 0, {"X": data(1, 1)}),
]


@pytest.mark.parametrize(("by_hand", "ranks", "arguments"), CASES)
def test_design_programs(by_hand: Callable[..., Any], ranks: int, arguments: dict[str, Any]) -> None:
    path = EXAMPLES / f"{by_hand.__name__}.moa"
    p = check(parse(path.read_text(encoding="utf-8"), path.name), ranks)
    expected = by_hand(**arguments)
    expected = expected if isinstance(expected, tuple) else (expected,)
    found = oracle(p, arguments)
    assert len(found) == len(expected)
    for f, e in zip(found, expected, strict=True):
        assert f.shape == e.shape and f.dtype == np.float64
        np.testing.assert_allclose(f, e, rtol=1e-12, atol=1e-12)


JOIN = """
def join(p, q):
    (m1, l1, a1), (m2, l2, a2) = p, q
    m = maximum(m1, m2)
    return m, l1 * exp(m1 - m) + l2 * exp(m2 - m), a1 * exp(m1 - m) + a2 * exp(m2 - m)
def f(s[n], V[n, dv]):
    m, l, a = scan(join, (s, ones(n), V), axis=0, identity=(-inf, 0, 0))
    M, L, A = fold(join, (s, ones(n), V), axis=0, identity=(-inf, 0, 0))
    e, k, b = scan(join, (s, ones(n), V), axis=0, identity=(-inf, 0, 0), exclusive=True)
    x, y, z = scan(join, (s, ones(n), V), axis=0, identity=(-inf, 0, 0), reverse=True)
    return a / l[:, None], A / L, e, k, b, z / y[:, None]
"""


def test_scan_with_a_users_operator() -> None:
    s, V = data(6), data(6, 3)
    a, last, e, k, b, z = oracle(program(JOIN), {"s": s, "V": V})
    weights = np.tril(np.exp(s)[None, :].repeat(6, 0))
    expected = weights @ V / weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(a, expected, rtol=1e-12)
    np.testing.assert_allclose(last, expected[-1], rtol=1e-12)
    assert e[0] == -np.inf and k[0] == 0 and not b[0].any()
    np.testing.assert_allclose(b[1:] / k[1:, None], expected[:-1], rtol=1e-12)
    back = np.triu(np.exp(s)[None, :].repeat(6, 0))
    np.testing.assert_allclose(z, back @ V / back.sum(axis=1, keepdims=True), rtol=1e-12)


def test_scan_of_nothing() -> None:
    a, last, e, *_ = oracle(program(JOIN), {"s": data(0), "V": data(0, 3)})
    assert a.shape == (0, 3) and e.shape == (0,) and np.isnan(last).all()


STEP = """
def decay(S, x):
    k, v, g = x
    return g[:, None] * S + k[:, None] * v[None, :]
def f(K[n, dk], V[n, dv], G[n, dk]):
    S = scan(decay, (K, V, G), axis=0, init=zeros(dk, dv))
    before = scan(decay, (K, V, G), axis=0, init=0, exclusive=True)
    return S, before, fold(decay, (K, V, G), axis=0, init=zeros(dk, dv))
"""


def test_scan_with_a_step() -> None:
    K, V, G = data(5, 2), data(5, 3), data(5, 2)
    state, states = np.zeros((2, 3)), []
    for t in range(5):
        state = G[t][:, None] * state + np.outer(K[t], V[t])
        states.append(state)
    S, before, last = oracle(program(STEP), {"K": K, "V": V, "G": G})
    np.testing.assert_allclose(S, states, rtol=1e-12)
    np.testing.assert_allclose(before, [np.zeros((2, 3)), *states[:-1]], rtol=1e-12)
    np.testing.assert_allclose(last, states[-1], rtol=1e-12)


X, Y, M = data(6, 4), data(4, 5), data(3, 6, 4)
I = np.array([[0, 5], [2, 2], [1, 0]])
KEEP = np.array([True, False, True, True, False, True])
FORMULAS: list[tuple[str, Any]] = [
    ("X[I]", X[I]),
    ("X[:, J]", X[:, [3, 0, 0]]),
    ("X.T[:, I]", X.T[:, I]),
    ("X[J[0]]", X[3]),
    ("X[1:5:2, ::-1]", X[1:5:2, ::-1]),
    ("X[4:0:-2]", X[4:0:-2]),
    ("X[-3:, None, -1]", X[-3:, None, -1]),
    ("M[..., 1]", M[..., 1]),
    ("M[0, 1:]", M[0, 1:]),
    ("M @ Y", M @ Y),
    ("M @ Y[:, 0]", M @ Y[:, 0]),
    ("M[:, 0] @ Y", M[:, 0] @ Y),
    ("Y.T @ X[0]", Y.T @ X[0]),
    ("reshape(X, [n // 2, 2, d])", X.reshape(3, 2, 4)),
    ("reshape(X, [2, -1])", X.reshape(2, 12)),
    ("transpose(M, [1, 2, 0])", np.transpose(M, (1, 2, 0))),
    ("transpose(M)", M.T),
    ("M.T", np.swapaxes(M, 1, 2)),
    ("concat(X, X[:, :1], axis=1)", np.concatenate([X, X[:, :1]], axis=1)),
    ("rotate(X, 2)", np.roll(X, -2, axis=0)),
    ("rotate(X, -w, axis=1)", np.roll(X, 2, axis=1)),
    ("reverse(X, axis=-1)", X[:, ::-1]),
    ("drop(take(X, 4), 1)", X[1:4]),
    ("cumsum(X, axis=0)", np.cumsum(X, axis=0)),
    ("cummax(X)", np.maximum.accumulate(X, axis=-1)),
    ("cummax(argsort(X))", np.maximum.accumulate(np.argsort(X), axis=-1)),
    ("argmax(X, axis=0)", np.argmax(X, axis=0)),
    ("argmax(zeros(3))", 0),
    ("argsort(X, axis=0)", np.argsort(X, axis=0)),
    ("inverse(argsort(X[:, 0]))", np.argsort(np.argsort(X[:, 0]))),
    ("top_k(X, 2)", np.argsort(-X)[:, :2]),
    ("prod(X)", X.prod(axis=-1)),
    ("min(X, axis=0, keepdims=True)", X.min(axis=0, keepdims=True)),
    ("any(X > 1), all(X > -9, axis=0)", ((X > 1).any(axis=-1), np.ones(4, bool))),
    ("sum(keep)", 4),
    ("mean(keep)", 4 / 6),
    ("mean(M, axis=1)", M.mean(axis=1)),
    ("X ** 3 + X ** -2 + abs(X) ** 0.5 + 2 ** X", X**3 + X**-2.0 + np.abs(X) ** 0.5 + 2**X),
    ("n / 4, n // 4, n % 4, -n // 4, n ** 2, 2 * n - w", (1.5, 1, 2, -2, 36, 10)),
    ("iota(n) // 4 - iota(n) % 4", np.arange(6) // 4 - np.arange(6) % 4),
    ("maximum(iota(n) - 2, 0)", np.maximum(np.arange(6) - 2, 0)),
    ("where(keep[:, None] & (X > 0), X, 0)", np.where(KEEP[:, None] & (X > 0), X, 0)),
    ("0 < X < 1", (X > 0) & (X < 1)),
    ("keep != (X[:, 0] > 0)", (X[:, 0] > 0) != KEEP),
    ("relu(X) + sigmoid(X) + silu(X)", np.maximum(X, 0) + (1 + X) / (1 + np.exp(-X))),
    ("softplus(X) + elu(X)", np.logaddexp(0, X) + np.where(X > 0, X, np.expm1(X))),
    ("exp2(X) + log2(exp2(X))", np.exp2(X) + X),
    ("logsumexp(X, axis=0, keepdims=True)", np.log(np.exp(X).sum(axis=0, keepdims=True))),
    ("size(X), size(M, -1), size(M, axis=0)", (24, 4, 3)),
    ("erf(X) * c", np.array([[math.erf(x) for x in row] for row in X]) * 0.5),
    ("tanh(X) * c", np.tanh(X) * 0.5),
    # MoA
    ("Φ X", X[::-1]),
    ("⍉ M", M.T),
    ("⟨2 0 1⟩ ⍉ M", np.transpose(M, (2, 0, 1))),
    ("⟨1 2⟩ ψ M", M[1, 2]),
    ("⟨⟩ ψ M", M),
    ("2 △ X", X[:2]),
    ("-2 △ X", X[-2:]),
    ("⟨2, -1⟩ △ X", X[:2, -1:]),
    ("⟨1, -1⟩ ▽ X", X[1:, :-1]),
    ("1 △Ω⟨1⟩ X", X[:, :1]),
    ("X ⧺ X", np.concatenate([X, X])),
    ("1 θ X", np.roll(X, -1, axis=0)),
    ("ρ M", (3, 6, 4)),
    ("τ M, δ M", (72, 3)),
    ("⟨d n⟩ ρ X", X.reshape(4, 6)),
    ("(ρ X) ρ ι τ X", np.arange(24).reshape(6, 4)),
    ("+/ X", X.sum(axis=0)),
    ("⌈/Ω⟨1⟩ M", M.max(axis=-1)),
    ("×/Ω⟨2⟩ M", M.prod(axis=1)),
    ("+\\ X", np.cumsum(X, axis=0)),
    ("⌈\\Ω⟨1⟩ X", np.maximum.accumulate(X, axis=1)),
    ("X +•× Y", X @ Y),
    ("M +•× Y", M @ Y),
    ("X ⌊•+ Y", (X[:, :, None] + Y).min(axis=1)),
    ("X +•× transpose(M, [2, 0, 1])", np.tensordot(X, np.transpose(M, (2, 0, 1)), 1)),
    ("X •− Y", np.subtract.outer(X, Y)),
    ("X −Ω⟨1 0⟩ ⌈/Ω⟨1⟩ X", X - X.max(axis=1)[:, None]),
    ("M ×Ω⟨2 2⟩ X", M * X),
    ("M ×Ω⟨0 1⟩ X[:, 0]", M[..., None] * X[:, 0]),
    ("ΦΩ⟨1⟩ X", X[:, ::-1]),
    ("⍉Ω⟨2⟩ M", np.swapaxes(M, 1, 2)),
]


@pytest.mark.parametrize(("text", "expected"), FORMULAS, ids=[f[0] for f in FORMULAS])
def test_formula(text: str, expected: Any) -> None:
    shapes = {"X": "n d", "Y": "d e", "M": "b n d", "I": "int r q", "J": "int g", "keep": "bool n", "w": "int", "c": ""}
    p = check(parse_expression(text, "e", shapes))
    values = {"X": X, "Y": Y, "M": M, "I": I, "J": np.array([3, 0, 0]), "keep": KEEP, "w": 2, "c": 0.5}
    found = oracle(p, values)
    expected = expected if isinstance(expected, tuple) else (expected,)
    assert len(found) == len(expected)
    for f, e in zip(found, expected, strict=True):
        assert f.shape == np.shape(e)
        assert f.dtype.kind == np.asarray(e).dtype.kind or np.asarray(e).dtype.kind == "i"
        np.testing.assert_allclose(f, e, rtol=1e-12, atol=1e-12)


# The edges ---------------------------------------------------------------------------------------------------------


def one(text: str, **arrays: Any) -> Array:
    shapes = {k: " ".join(f"{k.lower()}{a}" for a in range(np.ndim(v))) for k, v in arrays.items()}
    return oracle(check(parse_expression(text, "e", shapes)), arrays)[0]


def test_the_maximum_of_nothing() -> None:
    empty = np.zeros((2, 0))
    assert (one("max(X)", X=empty) == -np.inf).all()
    assert (one("min(X)", X=empty) == np.inf).all()
    assert (one("sum(X) + prod(X)", X=empty) == 1).all()
    assert not one("any(X > 0)", X=empty).any() and one("all(X > 0)", X=empty).all()


def test_where_selects() -> None:
    x = np.array([1.0, np.nan, -np.inf])
    assert one("where(X == X, 1, 0)", X=x).tolist() == [1, 0, 1]
    assert one("where(X > 0, log(X), 0)", X=x).tolist() == [0, 0, 0]


def test_rows_without_a_key() -> None:
    rows = np.array([[-np.inf, -np.inf], [0.0, -np.inf]])
    assert one("softmax(S)", S=rows).tolist() == [[0, 0], [1, 0]]
    assert one("logsumexp(S)", S=rows).tolist() == [-np.inf, 0]
    assert one("softmax(S)", S=np.zeros((2, 0))).shape == (2, 0)


def test_large_scores() -> None:
    assert one("softmax(S)", S=np.array([[1e4, 1e4 - 1]]))[0, 0] == pytest.approx(1 / (1 + np.exp(-1)))


def test_a_nan_reaches_what_reads_it() -> None:
    out = one("softmax(S)", S=np.array([[0.0, np.nan], [1.0, 1.0]]))
    assert np.isnan(out[0]).all() and not np.isnan(out[1]).any()


def test_narrow_floats_are_widened() -> None:
    p = check(parse_expression("X + 1e-9", "e", {"X": "n"}))
    assert oracle(p, {"X": np.zeros(1, np.float16)})[0][0] == 1e-9


# Arguments ---------------------------------------------------------------------------------------------------------

HEAD = "def f(X[n, d], Y[n, 2 * d], w: int, c: float, keep: bool[n], idx: int[r]):\n"
GOOD: dict[str, Any] = {
    "X": np.zeros((4, 3)),
    "Y": np.zeros((4, 6)),
    "w": 2,
    "c": 0.5,
    "keep": np.ones(4, bool),
    "idx": np.array([0, 3]),
}


def test_bind() -> None:
    p = program(f"{HEAD}    return X[idx]\n")
    assert bind(p, GOOD) == {"n": 4, "d": 3, "w": 2, "r": 2}


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("X", {"X": None}, "argument X is missing"),
    ("X", {"Q": 1}, "f has no parameter Q"),
    ("X", {"X": np.zeros(4)}, "argument X has 1 axis, shape [4], expected 2"),
    ("X", {"X": np.zeros((4, 3), int)}, "argument X is of dtype int64, expected float"),
    ("X", {"keep": np.ones(4)}, "argument keep is of dtype float64, expected bool"),
    ("X", {"w": 2.0}, "argument w is of dtype float64, expected int"),
    ("X", {"w": True}, "argument w is of dtype bool, expected int"),
    ("X", {"w": 2**62}, "argument w is 4611686018427387904, beyond 62 bits"),
    ("X", {"keep": np.ones(5, bool)}, "argument keep has extent 5 on axis 0, expected n = 4 (n is 4 in X)"),
    ("X", {"Y": np.zeros((4, 5))}, "argument Y has extent 5 on axis 1, expected 2*d = 6"),
    ("X[:5]", {}, "the range from 0 to 5 does not fit an axis of extent n, with n = 4"),
    ("X[w]", {"w": 4}, "index w is outside an axis of extent n, with n = 4, w = 4"),
    ("X[w]", {"w": -1}, "index w is outside an axis of extent n, with w = -1"),
    ("iota(n) % w", {"w": 0}, "the divisor w must be at least 1, with w = 0"),
    ("reshape(X, [n // w, w, d])", {"w": 3}, "3"),
    ("X[idx]", {"idx": np.array([0, 4])}, "argument idx holds 4 at [1], outside an axis of extent 4"),
    ("X[idx]", {"idx": np.array([-1, 0])}, "argument idx holds -1 at [0], outside an axis of extent 4"),
    ("X[idx + 1]", {}, "the index array holds 4 at [1], outside an axis of extent 4"),
    ("X[:, idx]", {}, "argument idx holds 3 at [1], outside an axis of extent 3"),
    ("X[argsort(X[0] + idx[0]) + 2]", {}, "the index array holds 4 at [2], outside an axis of extent 4"),
]


@pytest.mark.parametrize(("text", "change", "message"), REFUSED)
def test_refused(text: str, change: dict[str, Any], message: str) -> None:
    p = program(f"{HEAD}    return {text}\n")
    arguments = {k: v for k, v in (GOOD | change).items() if v is not None}
    with pytest.raises(MoaError) as e:
        oracle(p, arguments)
    assert e.value.kind == "argument"
    assert message in e.value.message
    assert str(e.value)


def test_bind_finds_what_integers_decide() -> None:
    p = program(f"{HEAD}    return X[idx * w // 2 + 1]\n")
    with pytest.raises(MoaError, match="the index array holds 4"):
        bind(p, GOOD)
