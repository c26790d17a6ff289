"""Runs: what depends on `j // B` is found once for all positions of a quotient, and what is computed stays the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from chain import MINIATURES, Chain
from programs import Case, Param, listed

import moa.tile.runs
from moa.kernel import compile
from moa.normal import TRUE, Cond, Eq, Scalar, apply, at_least_zero, choose, integer, lit, load, negate
from moa.oracle import oracle
from moa.poly import atom, size, var
from moa.psi.rejoin import rejoined
from moa.tile import phase
from moa.tile.factorwise import factorwise
from moa.tiles import Loop, TileStmt, When

HEAD = "def f(Q[n, d], K[m, d], V[m, c], R: int[p, r], keep: bool[m], block: int):\n"
LOOK = "    x, y = iota(n)[:, None] // block, iota(m) // block\n"
TEXTS = {
    "near": LOOK + "    return softmax(where((abs(x - y) <= 1) | (y == 0), Q @ K.T, -inf)) @ V",
    "near and before": LOOK
    + "    return softmax(where((abs(x - y) <= 1) & (iota(m) <= iota(n)[:, None]), Q @ K.T, -inf)) @ V",
    "near and kept": LOOK + "    return softmax(where((x != y) & keep, Q @ K.T, -inf)) @ V",
    "none": LOOK + "    return softmax(where(y < 0 * x, Q @ K.T, -inf)) @ V",
    "of keys alone": LOOK + "    return softmax(where(y % 2 == 0, Q @ K.T, -inf)) @ V",
    "counted": LOOK
    + "    times = sum(where(R[minimum(iota(n) // block, p - 1)][:, None] == y[:, None], 1, 0))\n"
    + "    return softmax(Q @ K.T + where(keep, 0, -5.5) + log(times)) @ V",
    "weighed": LOOK
    + "    times = sum(where(R[minimum(iota(n) // block, p - 1)][:, None] == y[:, None], 1, 0))\n"
    + "    return where(times > 0, times, 0) * (Q @ K.T) @ V",
    "gathered": LOOK
    + "    at = minimum(abs(R[minimum(iota(n) // block, p - 1), :1]), m - 1)\n"
    + "    return max(exp(Q @ K.T) * (at - y)) + sum(where(x == y, Q @ K.T, 0))",
    "joined": LOOK
    + "    S, T = where(x == y, Q @ K.T, -inf), Q @ (2 * K).T\n"
    + "    P = softmax(concat(S, where(x == iota(m) // block, -inf, T), axis=1))\n"
    + "    return P[:, :m] @ V + P[:, m:] @ V",
}
STRATEGIES = (MINIATURES[0], MINIATURES[4], MINIATURES[3])


def chain(text: str, n: int, m: int, block: int, data: str = "plain") -> Chain:
    more = (Param("R", ("p", "r"), "i", "small"), Param("keep", ("m",), "b"), Param("block", (), "i"))
    sizes = {"n": n, "m": m, "d": 2, "c": 3, "p": 3, "r": 2}
    c = Chain(Case(HEAD + TEXTS[text], (*listed("Q[n, d] K[m, d] V[m, c]"), *more), sizes, data=data, seed=n))
    c.scalars["block"] = c.arrays["block"] = block
    c.sizes["block"] = block
    return c


def loops(body: tuple[TileStmt, ...]) -> list[Loop]:
    out = []
    for s in body:
        match s:
            case Loop():
                out += [s, *loops(s.body)]
            case When():
                out += loops((*s.body, *s.other))
    return out


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moa.tile.runs, "SHORT_RUN", 2)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("text", TEXTS)
def test_every_stage_agrees(text: str) -> None:
    """Blocks that divide nothing, rows of one block and of several, blocks too short to be runs, one block of all."""
    for k, (n, m, block) in enumerate([(1, 1, 1), (8, 8, 4), (9, 13, 4), (8, 7, 3), (5, 11, 2), (7, 9, 40)]):
        c = chain(text, n, m, block, "plain" if k % 2 else "huge")
        want, nan = c.expected(), c.normal()
        placed = c.place(STRATEGIES[k % 3])
        assert not c.differs(c.tiles(placed), want, nan), (n, m, block)
        assert not c.differs(c.loops(placed), want, nan), (n, m, block)


@pytest.mark.parametrize("text", ["near", "counted", "gathered", "joined"])
def test_loops_go_over_runs(text: str) -> None:
    placed = chain(text, 8, 8, 4).place(replace(STRATEGIES[0], map_block=3))
    found = [s for p in placed.tiles.phases for s in loops(p.body)]
    assert any(isinstance(x, Loop) or (isinstance(x, When) and loops(x.body)) for s in found for x in s.body)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("wrong", ["rows", "runs"])
def test_a_wrong_claim_is_seen(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of several quotients taken for one, or runs that begin beside their quotients."""
    if wrong == "rows":
        monkeypatch.setattr(phase, "alike", lambda *_: TRUE)
    else:
        monkeypatch.setattr(phase, "count", lambda extent, d: extent // d)
    c = chain("near", 9, 13, 2 if wrong == "rows" else 4)
    placed = c.place(replace(STRATEGIES[0], keys=8 if wrong == "rows" else 10))
    try:
        assert c.differs(c.tiles(placed), c.expected(), c.normal())
    except AssertionError as e:
        assert "twice" not in str(e)


COUNTED = """def f(Q[h, n, d], K[h, n, d], V[h, n, c], R: int[p, r], keep: bool[n], block: int):
    x, y, last = iota(n)[:, None] // block, iota(n) // block, n // block - 1
    times = where(abs(x - y) <= 1, 1, 0) + sum(where(R[iota(n) // block][:, None] == y[:, None], 1, 0))
    S = Q @ K.T + where(keep, 0, -10000)
    return softmax(S + log(where(x == 0, 1, times))) @ V
"""


@pytest.mark.parametrize(("backend", "dtype"), [("llvm", "float32"), ("llvm", "float64"), ("c", "float32")])
def test_blocks_of_keys(backend: str, dtype: str) -> None:
    """Counts from data at sizes at which rows of a work item are one block, and several."""
    kernel = compile(COUNTED, dtype=dtype, backend=backend)
    rng = np.random.default_rng(0)
    for n, block in ((150, 64), (150, 32), (130, 128), (70, 7), (1, 16)):
        given = {k: rng.standard_normal((2, n, 8)).astype(dtype) for k in "QKV"}
        given |= {"R": rng.integers(0, 3, (-(-n // block), 2)), "keep": rng.random(n) < 0.8, "block": block}
        got = kernel(**given)
        (want,) = oracle(next(iter(kernel._fronts.values())).program, given)
        assert np.abs(got - want).max() < (1e-4 if dtype == "float32" else 1e-12), (n, block)


def test_what_no_count_has_is_not_read() -> None:
    """Keys of blocks that nobody counts hold NaN and infinities: they reach no row."""
    kernel = compile(COUNTED, dtype="float64")
    given = {k: np.ones((1, 256, 8)) for k in "QKV"}
    given |= {"R": np.zeros((4, 1), np.int64), "keep": np.ones(256, bool), "block": 64}
    given["K"][:, 192:], given["V"][:, 192:] = np.nan, np.inf
    assert (kernel(**given)[:, 64:128] == 1).all()


def test_numbers_are_chosen_between() -> None:
    x, j = load("X", [var("j")]), at_least_zero(var("j") - 1)
    n = atom("load", "k", [var("j")])
    a, b = (x_plus(x, lit(v)) for v in (0, -5))
    assert rejoined(j, x, b) is x_plus(x, choose(j, lit(0), lit(-5)))
    assert rejoined(j, x_plus(a, integer(n)), x_plus(b, integer(n + 1))) is None  # two differ
    assert rejoined(j, x_plus(x, integer(n)), x_plus(x, integer(n + 1))) is not None
    assert rejoined(j, x, load("Y", [var("j")])) is None
    assert rejoined(j, lit(1), lit(2)) is None


def x_plus(x: Scalar, y: Scalar) -> Scalar:
    return apply("add", x, y)


PIECES = """def f(Q[n, d], K[m, d], V[m, c], cos[n, d], sin[m, d], r: int):
    a = concat(Q[:, :2] * cos[:, :2], Q[:, 2:] + cos[:, 2:], axis=1)
    b = concat(K[:, :2] - sin[:, :2], K[:, 2:] * sin[:, 2:], axis=1)
    return softmax(a @ b.T) @ V, a @ b.T
"""


def test_pieces_of_a_product_are_chosen_in_its_factors() -> None:
    """Rotated features and plain ones: one product over all of them, each factor made once."""
    for k, (n, m) in enumerate(((1, 1), (8, 7), (9, 13))):
        params = listed("Q[n, d] K[m, d] V[m, c] cos[n, d] sin[m, d]")
        c = Chain(Case(PIECES, (*params, Param("r", (), "i")), {"n": n, "m": m, "d": 5, "c": 3}, seed=n))
        placed, want, nan = c.place(STRATEGIES[k]), c.expected(), c.normal()
        assert not c.differs(c.tiles(placed), want, nan), (n, m)
        assert not c.differs(c.loops(placed), want, nan), (n, m)
        assert "w[" in str(placed.tiles)


def test_factors_are_over_the_same_axes() -> None:
    axes = {"i", "j", "k"}
    at = {v: var(v) for v in axes}
    x, y, z = (load(a, [var(v) for v in index]) for a, index in (("X", "ik"), ("Y", "jk"), ("Z", "ijk")))
    low = at_least_zero(1 - var("k"))

    def pieces(*products: Scalar, where: Cond = low) -> Eq:
        outer = (("i", size("n")), ("j", size("n")))
        return Eq(
            "r", "reduce", outer, tuple(zip((where, negate(where)), products, strict=True)), "add", ("k", size("d"))
        )

    def product(a: Scalar, b: Scalar) -> Scalar:
        return apply("mul", a, b)

    assert factorwise(pieces(product(x, y), product(y, x)), at, axes) is not None
    assert factorwise(pieces(product(x, y), product(x, z)), at, axes) is None
    assert factorwise(pieces(product(x, y), x), at, axes) is None
    assert factorwise(pieces(product(x, y), product(x, y), where=at_least_zero(var("i") - var("k"))), at, axes) is None
