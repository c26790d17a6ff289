"""What no row reads is not made, and what data add to a range is visited apart: what is computed stays the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from chain import MINIATURES, Chain
from programs import Case, Param, listed

import moa.tile.phase
from moa.kernel import compile
from moa.normal import Cond, at_least_zero, both, either, is_zero, negate
from moa.oracle import oracle
from moa.poly import absolute, atom, const, maximum, minimum, select, var
from moa.tile.congruence import congruence
from moa.tile.formulas import linear_test
from moa.tiles import Loop, Sift

HEAD = "def f(Q[n, d], K[n, d], V[n, c], some: bool[n], keep: bool[n], doc: int[n], w: int):\n"
LOOK = "    i, j = iota(n)[:, None], iota(n)\n"
TEXTS = {
    "range or data": LOOK + "    return softmax(where((abs(i - j) <= w) | some, Q @ K.T, -inf)) @ V",
    "range or data, kept": LOOK + "    return softmax(where(((abs(i - j) <= w) | some) & keep, Q @ K.T, -inf)) @ V",
    "before, or data": LOOK + "    return softmax(where(((j <= i) & (i - j < w)) | (doc == 2), Q @ K.T, -inf)) @ V",
    "sums": LOOK + "    return where((j <= i - w) | some, Q @ K.T, 0) @ V",
    "rows that read": LOOK
    + "    A, B = softmax(Q @ K.T) @ V, softmax(where(j <= i, K @ K.T, -inf)) @ V\n"
    + "    return where(some[:, None], A, where(keep[:, None], B, 0))",
    "rows of a number": LOOK + "    return where(doc[:, None] == 2, softmax(where(j <= i, Q @ K.T, -inf)) @ V, V)",
    "both read": LOOK
    + "    A = softmax(Q @ K.T) @ V\n    return where(some[:, None], A, 0), where(keep[:, None], A, 1)",
    "all read": LOOK + "    A = softmax(Q @ K.T) @ V\n    return where(some[:, None], A, 0) + A",
}
STRATEGIES = (MINIATURES[0], MINIATURES[4], MINIATURES[3])


def chain(text: str, n: int, seed: int = 0) -> Chain:
    more = (Param("some", ("n",), "b"), Param("keep", ("n",), "b"), Param("doc", ("n",), "i", "document"))
    params = (*listed("Q[n, d] K[n, d] V[n, c]"), *more, Param("w", (), "i"))
    c = Chain(Case(HEAD + TEXTS[text], params, {"n": n, "d": 2, "c": 3}, seed=seed))
    c.scalars["w"] = c.arrays["w"] = c.sizes["w"] = 2
    return c


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moa.tile.phase, "SHORT_TILE", 2)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("text", TEXTS)
def test_every_stage_agrees(text: str) -> None:
    for k, (n, found) in enumerate(((1, "all"), (8, "one"), (9, "none"), (13, "some"))):
        c = chain(text, n, seed=n)
        if found != "some":
            c.data["some"] = c.arrays["some"] = np.arange(n) == n // 2 if found == "one" else np.full(n, found == "all")
        placed, want, nan = c.place(STRATEGIES[k % 3]), c.expected(), c.normal()
        assert not c.differs(c.tiles(placed), want, nan), n
        assert not c.differs(c.loops(placed), want, nan), n


REST = """def f(Q[h, n, d], K[h, n, d], V[h, n, c], D: int[h], w: int):
    i, j, e = iota(n)[:, None], iota(n), D[:, None, None]
    return softmax(where((j <= i) & ((i - j) % e == 0), Q @ K.T, -inf)) @ V, where((j - i + 2) % w == 0, Q @ K.T, 0) @ V
"""


def test_congruences() -> None:
    """Divisors from data (negative ones and 0 too) and from a parameter, shorter than a vector and longer than all."""
    for k, n in enumerate((1, 7, 13)):
        for divisors, w in (([1, 2], 1), ([3, 0], 2), ([-2, 40], 7)):
            params = (*listed("Q[h, n, d] K[h, n, d] V[h, n, c]"), Param("D", ("h",), "i"), Param("w", (), "i"))
            c = Chain(Case(REST, params, {"h": 2, "n": n, "d": 2, "c": 3}, seed=n))
            c.data["D"] = c.arrays["D"] = np.array(divisors)
            c.scalars["w"] = c.arrays["w"] = c.sizes["w"] = w
            placed, want, nan = c.place(STRATEGIES[k]), c.expected(), c.normal()
            assert not c.differs(c.tiles(placed), want, nan), (n, divisors)
            assert not c.differs(c.loops(placed), want, nan), (n, divisors)


def test_what_is_a_congruence() -> None:
    i, j, d = var("i"), var("j"), atom("load", "D", [var("h")])
    rest = (i - j) - d * atom("div", args=[select(at_least_zero(d), i - j, j - i), maximum(absolute(d), const(1))])
    by_data = select(is_zero(d), const(0), rest)
    assert congruence(by_data, "i") == congruence(-by_data, "i") == (i - j, maximum(absolute(d), const(1)))
    assert congruence((i - j) % 3, "i") == (i - j, const(3))
    for p in (
        i - j,
        (2 * i - j) % 3,
        (i - j) % 3 - 1,
        (i - j) // 3,
        select(is_zero(d), const(1), rest),
        (j - i) % var("i"),
    ):
        assert congruence(p, "i") is None, p


@pytest.mark.parametrize("backend", ["llvm", "c"])
def test_rests_in_lanes(backend: str) -> None:
    kernel = compile(REST, dtype="float64", backend=backend)
    rng = np.random.default_rng(0)
    for n, divisors, w in ((150, [3, 40], 5), (70, [0, -8], 1), (33, [1 << 40, 1], 200)):
        given = {k: rng.standard_normal((2, n, 4)) for k in "QKV"} | {"D": np.array(divisors), "w": w}
        for got, want in zip(kernel(**given), oracle(next(iter(kernel._fronts.values())).program, given), strict=True):
            assert np.abs(got - want).max() < 1e-12, (n, divisors)


def test_what_is_placed() -> None:
    """Data are looked at in short tiles behind a range; a traversal that no row of an item reads is left out."""
    phase = chain("range or data", 8).place(STRATEGIES[0]).tiles.phases[0]
    assert len({s.axis for s in phase.body if isinstance(s, Loop)}) == 2
    phase = chain("rows that read", 8).place(STRATEGIES[0]).tiles.phases[0]
    tests = [s for s in phase.body if isinstance(s, Sift)]
    assert [len(s.conds) for s in tests] == [1, 2], tests
    for text in ("both read", "all read"):
        assert not any(isinstance(s, Sift) for p in chain(text, 8).place(STRATEGIES[0]).tiles.phases for s in p.body)


@pytest.mark.parametrize("text", ["rows that read", "rows of a number"])
def test_a_wrong_condition_is_seen(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = moa.tile.phase.testable
    monkeypatch.setattr(moa.tile.phase, "testable", lambda *a: tuple(negate(c) for c in right(*a)))
    c = chain(text, 13)
    c.data["some"] = c.arrays["some"] = np.arange(13) < 4
    c.data["doc"] = c.arrays["doc"] = np.where(np.arange(13) < 4, 2, 0)
    placed = c.place(replace(STRATEGIES[0], map_block=3))
    assert c.differs(c.tiles(placed), c.expected(), c.normal())
    assert c.differs(c.loops(placed), c.expected(), c.normal())


def test_linear_tests() -> None:
    """A test of |x|, min or max says the same as tests of what they are made of."""
    x, y = var("x"), var("y")
    for p in (
        absolute(x) - 2,
        2 - absolute(x),
        minimum(x, y) + 1,
        1 - minimum(x, y),
        maximum(x, y) - y,
        3 - maximum(x, y),
    ):
        c = at_least_zero(p)
        new = linear_test(both(c, at_least_zero(y)))
        assert not any(a.kind in ("abs", "min", "max") for a in new.atoms()), new
        for a in range(-4, 5):
            for b in range(5):
                assert holds(new, a, b) == holds(c, a, b), (p, a, b)
    assert linear_test(either(at_least_zero(absolute(x) - 1), at_least_zero(y))) is not None


def holds(c: Cond, x: int, y: int) -> bool:
    from moa.domains import holds

    return holds(c, {"x": x, "y": y})


TOKENS = """def f(Q[h, n, d], K[h, n, d], V[h, n, c], G[h, n, d], some: bool[n], keep: bool[n], w: int):
    near = (abs(iota(n)[:, None] - iota(n)) <= w) | some
    rows = softmax(where(keep, G @ K.T, -inf)) @ V
    return where(some[:, None], rows, softmax(where(near & keep, Q @ K.T, -inf)) @ V)
"""


@pytest.mark.parametrize(("backend", "dtype"), [("llvm", "float32"), ("llvm", "float64"), ("c", "float32")])
def test_rows_and_keys_of_a_few(backend: str, dtype: str) -> None:
    kernel = compile(TOKENS, dtype=dtype, backend=backend)
    rng = np.random.default_rng(0)
    for n, share, w in ((150, 0.02, 10), (150, 1.0, 3), (97, 0.0, 30), (1, 1.0, 0), (70, 0.1, 200)):
        given = {k: rng.standard_normal((2, n, 8)).astype(dtype) for k in "QKVG"}
        given |= {"some": rng.random(n) < share, "keep": rng.random(n) < 0.9, "w": w}
        got = kernel(**given)
        (want,) = oracle(next(iter(kernel._fronts.values())).program, given)
        assert np.abs(got - want).max() < (1e-4 if dtype == "float32" else 1e-12), (n, share)
