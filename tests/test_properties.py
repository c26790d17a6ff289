"""Random programs: the oracle, the equations, their folds, tiles, loops and machine code compute the same.

A program that once failed is in COUNTEREXAMPLES by name, and runs through every stage.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from chain import MINIATURES, Chain, in_short, laws
from hypothesis import HealthCheck, given, settings
from programs import Case, anything, attention, hostile, linear, listed, other, programs

import moa
from moa.loops import Element


@pytest.fixture(scope="module", autouse=True)
def short_parts() -> Iterator[None]:
    """Parts and chunks of few elements: sizes here have several of them."""
    with laws(merge=in_short(3), chunk=in_short(4)):
        yield


def check(case: Case, stages: tuple[str, ...], dtype: Element = "f64") -> None:
    """Asserts that stages agree with the oracle on a case, as written and in another form by its seed."""
    chain = Chain(case, dtype)
    want = chain.expected()
    nan = chain.normal()
    assert not chain.differs(nan, want, nan), ("normal", chain.differs(nan, want, nan))
    strategy = MINIATURES[case.seed % len(MINIATURES)]
    fixed = {k: v for k, v in chain.sizes.items() if k in ("d", "c")} if case.seed % 2 else {}
    for form in sorted({0, case.seed % len(chain.derivation.forms)}):
        results = {f"streamed, tiles of {tile}": chain.normal(form, tile) for tile in (None, 1, 5)}
        placed = chain.place(strategy, fixed, form)
        results |= {stage: chain.run(stage, placed) for stage in stages}
        for stage, got in results.items():
            found = chain.differs(got, want, nan, form)
            assert not found, (stage, chain.derivation.forms[form].name, strategy, found)


quick = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)


@settings(quick, max_examples=320)
@given(programs(attention))
def test_attention_programs(case: Case) -> None:
    check(case, ("tiles", "llvm"))


@settings(quick, max_examples=120)
@given(programs(other))
def test_other_programs(case: Case) -> None:
    check(case, ("tiles", "llvm"))


@settings(quick, max_examples=60)
@given(programs(linear))
def test_linear_programs(case: Case) -> None:
    check(case, ("tiles", "llvm"))


@settings(quick, max_examples=100)
@given(programs(anything))
def test_loops_of_random_programs(case: Case) -> None:
    check(case, ("loops",))


@settings(quick, max_examples=25)
@given(programs(anything))
def test_kernels_of_random_programs(case: Case) -> None:
    """What a user calls, in both element types."""
    for dtype, element in (("float64", "f64"), ("float32", "f32")):
        chain = Chain(case, element)  # type: ignore[arg-type]
        out = moa.compile(case.text, dtype=dtype)(**chain.arrays)
        got = out if isinstance(out, tuple) else (out,)
        found = chain.differs(got, chain.expected(), chain.normal())
        assert not found, (dtype, found)


def test_hostile_data_is_hostile() -> None:
    """The generator makes what its names say."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 8))
    assert np.isneginf(hostile(x, "-inf rows", rng)).all(axis=1).any()
    assert np.isneginf(hostile(x, "-inf prefix", rng)[:, 0]).all() and np.isfinite(x).all()
    assert np.isnan(hostile(x, "nan", np.random.default_rng(3))).any()
    assert np.abs(hostile(x, "huge", rng)).max() > 1e3


# Programs that once failed. -------------------------------------------------------------------------------------------


def case(text: str, params: str, sizes: dict[str, int], data: str = "plain", seed: int = 0) -> Case:
    """A case written by hand."""
    return Case(text, listed(params), sizes, data, seed)


COUNTEREXAMPLES: dict[str, Case] = {
    "two groups of reductions that read each other's values": case(
        """def both(X[n, d], Y[m, d]):
    S = X @ Y.T
    a, b = softmax(S), softmax(S, axis=0)
    return sum(a * b, axis=-1), (a * b) @ Y, (a * b).T @ X
""",
        "X[n, d] Y[m, d]",
        {"n": 7, "m": 5, "d": 3},
    ),
    "outputs of one loop with columns of different lengths": case(
        """def backward(Q[n, d], K[m, d], V[m, c], G[n, c]):
    P = softmax(Q @ K.T)
    dP = G @ V.T
    dS = P * (dP - sum(P * dP, axis=-1)[:, None])
    return dS @ K, dS.T @ Q, P.T @ G
""",
        "Q[n, d] K[m, d] V[m, c] G[n, c]",
        {"n": 7, "m": 5, "d": 3, "c": 4},
    ),
    "a minimum along lanes keeps NaN": case(
        "def g(X[n, d], Y[m, d]):\n    return min(sum((X[:, None] - Y) * (X[:, None] - Y), axis=-1))\n",
        "X[n, d] Y[m, d]",
        {"n": 8, "m": 7, "d": 4},
        "nan",
        382,
    ),
    "a plain index beyond the array of a branch not taken": case(
        "def g(X[n, d]):\n    return concat(X, 2 * X, axis=-1)\n", "X[n, d]", {"n": 17, "d": 3}
    ),
    "rows beyond the array of a branch not taken": case(
        "def g(X[n, d]):\n    return concat(X, 2 * X, axis=0)\n", "X[n, d]", {"n": 5, "d": 3}
    ),
    "a fold whose members have axes of their own": case(
        """def f(Q[n, d], K[n, d]):
    i, j = iota(n)[:, None], iota(n)
    s = where((j <= i) & ((i - j < 3) | (j < 2)), Q @ K.T, -inf)
    p = maximum(s, 0)
    p = p / (sum(p, axis=-1, keepdims=True) + 0.01)
    return sum(p, axis=-2)
""",
        "Q[n, d] K[n, d]",
        {"n": 7, "d": 3},
    ),
    "an array that only a condition reads": case(
        "def g(X[n, d]):\n    return argsort(X, axis=-1)\n", "X[n, d]", {"n": 5, "d": 4}
    ),
    "a mask around arrays that were joined": case(  # once 0 * inf: weights beyond the mask overflowed
        """def f(Q[n, d], K[n, d], A[m, d]):
    both = concat(A, K, axis=0)
    i, j = iota(n)[:, None], iota(m + n)
    return softmax(where(j <= i + m, Q @ both.T, -inf)) @ both
""",
        "Q[n, d] K[n, d] A[m, d]",
        {"n": 7, "m": 5, "d": 3},
        "huge",
        1,
    ),
    "pieces that are infinite beyond a mask of data": case(  # once 0 times them
        """def f(Q[n, d], k1[m], doc: int[n], dok: int[m], V[m, c]):
    i, j = iota(n)[:, None], iota(m)
    s = max(Q, axis=-1, keepdims=True) + k1 + where(i - j < 3, 0.5 * i, 0.25 * j)
    s = where(doc[:, None] == dok, s, -inf)
    return softmax(s) @ reverse(V, axis=-2)
""",
        "Q[n, d] k1[m] doc:int[n] dok:int[m] V[m, c]",
        {"n": 7, "m": 5, "d": 3, "c": 9},
        "huge",
        1,
    ),
    "a mask of indices and of data": case(  # once split for ever
        """def f(S[n, m], B[n, m]):
    i, j = iota(n)[:, None], iota(m)
    return sum(where((j <= i) & (B > 0), S, 0)), softmax(where((i // 3 == j // 3) & (B > 0), S, -inf))
""",
        "S[n, m] B[n, m]",
        {"n": 7, "m": 5},
    ),
    "a recurrence whose reader sums over its states": case(  # once split along that sum: wrong results
        """def h(Q[n, d], K[n, d], V[n, c]):
    i, j = iota(n)[:, None], iota(n)
    return where(j < i, Q @ K.T, 0) @ V @ V.T
""",
        "Q[n, d] K[n, d] V[n, c]",
        {"n": 9, "d": 4, "c": 3},
    ),
    "a term that cancels keeps its NaN": case(
        "def f(S[n, m], b[n], V[m, c]):\n    return softmax(S - b[:, None]) @ V\n",
        "S:finite[n, m] b[n] V:finite[m, c]",
        {"n": 1, "m": 5, "c": 2},
        "nan",
    ),
    "a mean of nothing": case(
        """def f(S[n, m], V[m, c]):
    y = S - mean(S, axis=-1, keepdims=True)
    return y @ V, y / sqrt(mean(y * y, axis=-1, keepdims=True) + 0.01) @ V
""",
        "S[n, m] V[m, c]",
        {"n": 3, "m": 0, "c": 2},
    ),
    "sums of floats and of integers under one sum": case(  # once a crash: they were made one traversal
        "def g(X[n, d], k: int[n, d]):\n    return sum(abs(X - sum(X, keepdims=True) * sum(k, keepdims=True)))\n",
        "X[n, d] k:int[n, d]",
        {"n": 7, "d": 5},
    ),
    "a masked variance by counts": case(
        """def g(X[n, d]):
    c = sum(where(X > 0, 1, 0), keepdims=True)
    y = sum(where(X > 0, X, 0), keepdims=True) / maximum(c, 1)
    return sum(where(X > 0, (X - y) ** 2, 0))
""",
        "X[n, d]",
        {"n": 7, "d": 5},
    ),
    "sorted by twice a sum": case("def g(X[n, d]):\n    return argsort(2 * sum(X))\n", "X[n, d]", {"n": 1, "d": 5}),
    "a weight of 0 beside an infinity": case(
        "def g(X[n, d]):\n    return sum(softmax(X) * exp(-X))\n", "X[n, d]", {"n": 5, "d": 4}, "-inf"
    ),
    "zeros beside a NaN": case("def g(X[n, d]):\n    return sum(zeros(d) * X)\n", "X[n, d]", {"n": 5, "d": 4}, "nan"),
    "a mask that every lane makes on its own": case(
        """def f(Q[n, d], K[n, d], V[n, c]):
    i, j = iota(n)[:, None], iota(n)
    near = (abs(i // 3 - j // 3) <= 1) & (abs(i % 3 - j % 3) <= 1)
    return softmax(where(near & ((i - j) % n < 5), Q @ K.T, -inf)) @ V
""",
        "Q[n, d] K[n, d] V[n, c]",
        {"n": 11, "d": 2, "c": 3},
    ),
    "normalisers of other rows": case(  # once read in the loop that made them: wrong results
        """def f(X[n, d]):
    A = softmax(X @ X.T)
    return softmax(A @ A.T) @ X
""",
        "X[n, d]",
        {"n": 13, "d": 3},
    ),
    "a value of the row and the same under a mask": case(  # once one tile: the second was written over the first
        """def f(Q[n, d], K[m, d], keep: bool[m], V[m, c]):
    return softmax(softmax(where(keep, Q @ K.T, -inf))) @ V
""",
        "Q[n, d] K[m, d] keep:bool[m] V[m, c]",
        {"n": 3, "d": 2, "m": 7, "c": 2},
    ),
    "a row of sums from the middle of a vector on": case(  # once read as if a vector began there
        """def f(X[n, d], W[d, r], C[m, r], V[m, c]):
    i, j = iota(n)[:, None], iota(m)
    return softmax(where(i + m - n - j < 5, X @ W @ C.T, -inf)) @ V
""",
        "X[n, d] W[d, r] C[m, r] V[m, c]",
        {"n": 5, "d": 3, "r": 4, "m": 17, "c": 2},
    ),
    "an integer chosen by floats": case(
        "def g(X[n, d]):\n    return where(sum(X) > 0, 1, 0) + tanh(sum(X))\n", "X[n, d]", {"n": 5, "d": 4}
    ),
}


@pytest.mark.parametrize("stage", ["tiles", "loops", "llvm"])
@pytest.mark.parametrize("name", list(COUNTEREXAMPLES))
def test_counterexample(name: str, stage: str) -> None:
    found = COUNTEREXAMPLES[name]
    for seed in range(10):  # each strategy, sizes as literals and not
        check(Case(found.text, found.params, found.sizes, found.data, found.seed * 10 + seed, found.lead), (stage,))
