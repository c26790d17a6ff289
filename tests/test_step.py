"""Step: token by token, every row is that of the kernel over all tokens; what needs more than a state is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from formulas import EXTENTS, PROGRAMS
from hypothesis import given, settings
from hypothesis import strategies as st
from test_c import HAS_CC
from test_carry import CARRIED

import moa
from moa.oracle import evaluate, oracle
from moa.step import Step
from moa.text import MoaError

Array = np.ndarray[Any, Any]
SYSTEMS = Path(__file__).resolve().parent.parent / "examples" / "systems"

SCANS = {
    "running sum": "def f(X[n, d]):\n    return cumsum(X, axis=0)\n",
    "running maximum": "def f(X[n, d]):\n    return cummax(X, axis=0)\n",
    "before": """
def add(s, x):
    return 0.5 * s + x

def f(X[n, d], S[d]):
    return X * scan(add, X, axis=0, init=S, exclusive=True), fold(add, X, axis=0, init=S)
""",
    "a formula at the start": """
def add(s, x):
    return 0.5 * s + x

def f(X[n, d], S[d], c: float):
    return scan(add, X, axis=0, init=exp(S) * c), sum(S) * X
""",
    "twins": """
def write(S, x):
    k, v, g = x
    u = sum(k[..., None] * S, axis=-2)
    return exp(g)[..., None, None] * S + k[..., None] * (v - u)[..., None, :]

def f(Q[h, n, dk], K[h, n, dk], V[h, n, dv], g[h, n], past[h, dk, dv]):
    S = scan(write, (K, V, g), axis=1, init=past)
    return sum(Q[..., None] * S, axis=-2), fold(write, (K, V, g), axis=1, init=past)
""",
    "records": """
def place(p, q):
    (v, i), (w, j) = p, q
    return maximum(v, w), where(w > v, j, i)

def f(X[n]):
    largest, at = scan(place, (X, iota(n)), identity=(-inf, 0))
    return largest, at
""",
    "layer": """
def add(s, x):
    return 0.5 * s + x

def f(X[n, d], W[d, r], U[r, d]):
    h = softmax(X @ W)
    y = X / sqrt(mean(X * X, axis=-1, keepdims=True) + 1e-5)
    return y + scan(add, h, axis=0, init=zeros(r)) @ U, logsumexp(X)
""",
    "position": "def f(X[n, d]):\n    return cumsum(X, axis=0) / (iota(n)[:, None] + 1)\n",
    "number": "def add(s, x):\n    return s + x\n\ndef f(X[n], c: float):\n    return scan(add, X, axis=0, init=c)\n",
}
OF_ALL = "exponential features"  # its stabiliser is a maximum over all tokens
TEXTS = {**{k: PROGRAMS[k] for k in CARRIED if k != OF_ALL}, **SCANS}


def arguments(kernel: moa.Kernel, sizes: dict[str, int], seed: int, hostile: str = "") -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    out: dict[str, Any] = {}
    for p in kernel.derivation.program.inputs:
        shape = tuple(evaluate(e, sizes) for e in p.shape)
        x: Any = rng.standard_normal(shape)
        if p.name == "g":
            x = -np.abs(x)
        elif hostile == "huge":
            x = x * 1e3
        elif hostile and p.kind == "f" and p.shape and x.size:
            x[rng.random(shape) < 1.5 / x.size] = {"-inf": -np.inf, "nan": np.nan, "inf": np.inf}[hostile]
        if p.kind == "b":
            x = x > -0.5
        if p.kind == "i":
            x = rng.integers(0, sizes["n"] + 1, shape)
        out[p.name] = x if p.shape else 0.7
    return out


def in_steps(step: Step, given: dict[str, Any], n: int) -> list[list[Array]]:
    """The outputs after each token."""
    axis = dict(step.tokens)
    names = [p.name for p in step.kernel.derivation.program.inputs]
    state = step.start(**given)
    out = []
    for t in range(n):
        own = [x for x in names if x not in state.arrays and x != step.position]
        token = {x: np.take(given[x], t, axis=axis[x]) if x in axis else given[x] for x in own}
        y, state = step(state, **token)
        out.append(list(y) if isinstance(y, tuple) else [y])
    assert state.position == n
    return out


def check(kernel: moa.Kernel, given: dict[str, Any], n: int, tolerance: float = 1e-12) -> None:
    """Each output after t tokens is that of the oracle over the first t: its last row, or all of it."""
    step = kernel.step()
    program, axis = kernel.derivation.program, dict(step.tokens)
    for t, found in enumerate(in_steps(step, given, n), 1):
        first = {}
        for p in program.inputs:
            along = [k for k, e in enumerate(p.shape) if str(e) == step.size]
            first[p.name] = np.take(given[p.name], range(t), axis=along[0]) if along else given[p.name]
        with np.errstate(all="ignore"):
            wanted = oracle(program, first)
        for name, x, w in zip(step.outputs, found, wanted, strict=True):
            w = np.take(w, t - 1, axis=axis[name]) if name in axis else w
            assert x.shape == w.shape and x.dtype == (w.dtype if w.dtype.kind != "f" else x.dtype)
            scale = np.abs(w[np.isfinite(w)]).max(initial=1e-30)
            np.testing.assert_allclose(x, w, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("name", TEXTS)
def test_token_by_token(name: str, n: int) -> None:
    kernel = moa.compile(TEXTS[name])
    check(kernel, arguments(kernel, {**EXTENTS, "n": n}, n), n)


HOSTILE = [(k, x) for k in ("prefix softmax", "prefix maximum", "running maximum", "records", "before")
           for x in ("huge", "-inf", "inf", "nan")]  # fmt: skip


@pytest.mark.parametrize("name, hostile", [*HOSTILE, ("twins", "huge"), ("twins", "nan")])  # linearity assumes finite
def test_hostile_values(name: str, hostile: str) -> None:
    kernel = moa.compile(TEXTS[name])
    check(kernel, arguments(kernel, {**EXTENTS, "n": 6}, 3, hostile), 6)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_sizes(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(TEXTS)))
    sizes = {k: data.draw(st.integers(1, 9), label=k) for k in (*EXTENTS, "n")}
    kernel = moa.compile(TEXTS[name])
    check(kernel, arguments(kernel, sizes, data.draw(st.integers(0, 99))), sizes["n"])


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-5), ("bfloat16", 3e-2), ("float16", 3e-3)])
def test_the_state_of_16_bit_kernels_is_wide(dtype: str, tolerance: float) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    from moa.storage import numpy_dtype

    kernel = moa.compile(TEXTS["gated"], dtype=dtype)
    given = arguments(kernel, {**EXTENTS, "n": 9}, 0)
    given = {k: x.astype(numpy_dtype(dtype)) if np.ndim(x) else x for k, x in given.items()}
    step = kernel.step()
    found = in_steps(step, given, 9)
    assert found[0][0].dtype == numpy_dtype(dtype)
    assert all(x.dtype == np.float32 for x in step.start(**given).arrays.values())
    (wanted,) = oracle(kernel.derivation.program, given)
    rows = np.stack([x[0].astype(float) for x in found], axis=1)
    assert np.abs(rows - wanted).max() <= tolerance * np.abs(wanted).max()


STEPPED = ("linear_attention.causal", "gated_linear.linear", "gated_linear.gated", "gated_linear.delta",
           "gated_linear.gated_delta", "aaren.parallel", "aaren.recurrent", "retention.retention",
           "performer.causal_relu_features", "small_e.gated", "small_e.layer")  # fmt: skip


@pytest.mark.parametrize("name", STEPPED)
def test_systems(name: str) -> None:
    file, _, function = name.partition(".")
    kernel = moa.compile(SYSTEMS / f"{file}.moa", function=function)
    check(kernel, arguments(kernel, {**EXTENTS, "n": 5, "D": 7}, 1), 5)


@pytest.mark.skipif(not HAS_CC, reason="no C compiler: install gcc or clang")
def test_the_c_backend() -> None:
    kernel = moa.compile(TEXTS["gated"], backend="c")
    assert kernel.step().kernel.backend == "c"
    check(kernel, arguments(kernel, {**EXTENTS, "n": 4}, 1), 4)


def test_equal_recurrences_share_a_state() -> None:
    step = moa.compile(TEXTS["twins"]).step()
    assert [s.name for s in step.states] == ["past"]
    assert step.text.count("next_past = ") == 1


def test_the_text_is_a_program() -> None:
    step = moa.compile(TEXTS["causal linear"]).step()
    again = moa.compile(step.text)
    rng = np.random.default_rng(0)
    given = {p.name: rng.standard_normal([EXTENTS[str(e)] for e in p.shape]) for p in again.derivation.program.inputs}
    for x, y in zip(again(**given), step.kernel(**given), strict=True):
        assert np.array_equal(x, y)
    assert again.verify().ok


def test_dots_of_the_shapes() -> None:
    text = "def f(Q[..., n, d], K[..., n, d]):\n    return where(iota(n) <= iota(n)[:, None], Q @ K.T, 0) @ K\n"
    kernel = moa.compile(text)
    step = kernel.step(ranks=2)
    rng = np.random.default_rng(0)
    Q, K = rng.standard_normal((2, 2, 3, 5, 4))
    state, rows = step.start(K=K), []
    for t in range(5):
        y, state = step(state, Q[:, :, t], K[:, :, t])
        rows.append(y)
    np.testing.assert_allclose(np.stack(rows, axis=2), kernel(Q, K), rtol=1e-12, atol=1e-12)


def test_a_state_is_not_changed() -> None:
    step = moa.compile(TEXTS["running sum"]).step()
    start = step.start(d=3)
    one, after = step(start, np.ones(3))
    two, _ = step(start, np.ones(3))
    assert np.array_equal(one, two) and not start[step.states[0].name].any() and after.position == 1


REFUSED = {
    "of another token": "def f(X[n, d]):\n    return cumsum(X, axis=0) + X[::-1]\n",
    "known after the last one": "def f(X[n, d]):\n    return cumsum(X, axis=0) / cumsum(X, axis=0)[n - 1]\n",
    "takes in every token": "def f(X[n, d]):\n    return cumsum(X, axis=0) / sum(X, axis=0)\n",
    "for each pair": "def f(X[n, d], B[n, n]):\n    return cumsum(X, axis=0) * B[:, :1]\n",
    "runs from the last": """
def add(s, x):
    return s + x

def f(X[n, d]):
    return scan(add, X, axis=0, identity=0, reverse=True)
""",
    "takes in every token: r4 = max_": PROGRAMS[OF_ALL],
    "how many tokens": "def f(X[n, d]):\n    return cumsum(X, axis=0) / n\n",
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_refused(reason: str) -> None:
    with pytest.raises(MoaError, match="no state of constant size") as found:
        moa.compile(REFUSED[reason]).step()
    assert reason in str(found.value), str(found.value)


def test_attention_has_no_such_state() -> None:
    text = "softmax(where(iota(n) <= iota(n)[:, None], Q @ K.T, -inf)) @ V"
    with pytest.raises(MoaError, match="no state of constant size"):
        moa.compile(text, Q="n d", K="n d", V="n dv").step()


def test_mistakes() -> None:
    step = moa.compile(TEXTS["before"]).step()
    two = "def f(X[n, d], Y[m, d]):\n    return cumsum(X, axis=0), cumsum(Y, axis=0)\n"
    x = np.ones(4)
    for call, message in {
        lambda: step.start(): "no value for the size d",
        lambda: step.start(d=4): "no value for S",
        lambda: step.start(S=x, d=5): "d is",
        lambda: step.start(q=x): "no size or parameter q",
        lambda: step.start(d=-1): "d is -1",
        lambda: step.start(S=np.ones((2, 2, 2))): "S has 3 axes",
        lambda: step(None, x): "first argument is the state",
        lambda: step(step.start(S=x), x, x): "1 arguments",
        lambda: step(step.start(S=x), x, X=x): "given twice",
        lambda: step(step.start(S=x), np.ones(5)): "extent",
        lambda: moa.compile(TEXTS["before"]).step(size="q"): "no size q",
        lambda: moa.compile(two).step(): "recurrences along n, m",
    }.items():
        with pytest.raises(MoaError, match=message):
            call()
