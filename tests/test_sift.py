"""Conditions on data: whole tiles are skipped or taken without a test, and what is computed stays the same."""

from __future__ import annotations

import numpy as np
import pytest
from chain import MINIATURES, Chain
from programs import Case, Param, listed

from moa.kernel import compile
from moa.lower.sift import Sifting
from moa.normal import at_least_zero, is_zero, negate
from moa.poly import Poly, atom, var
from moa.tile import Strategy
from moa.tile.sift import compared, separable
from moa.tiles import Loop, Sift

TEXT = """def f(Q[n, d], K[n, d], V[n, c], doc: int[n], keep: bool[n]):
    i, j = iota(n)[:, None], iota(n)
    return softmax(where(CONDITION, Q @ K.T, -inf)) @ V
"""
CONDITIONS = {
    "documents": "(j <= i) & (doc[:, None] == doc)",
    "all of a document": "doc[:, None] == doc",
    "other documents": "(j <= i) & (doc[:, None] != doc)",
    "padding": "keep",
    "kept before": "keep[:, None] & keep & (j <= i)",
    "order": "doc[:, None] + 1 > 2 * doc",
    "reach": "i - j < doc[:, None]",
    "either": "(j <= i) & (keep | (doc == 2))",
}

STRATEGIES = (MINIATURES[0], MINIATURES[4], MINIATURES[3])


def given(condition: str, n: int, kind: str, seed: int = 0) -> Chain:
    more = (Param("doc", ("n",), "i", kind), Param("keep", ("n",), "b"))
    text = TEXT.replace("CONDITION", CONDITIONS[condition])
    return Chain(Case(text, (*listed("Q[n, d] K[n, d] V[n, c]"), *more), {"n": n, "d": 2, "c": 3}, seed=seed))


@pytest.mark.parametrize("kind", ["document", ""])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_stage_agrees(condition: str, kind: str) -> None:
    for n in (1, 8, 13):
        strategy = STRATEGIES[n % 3]
        c = given(condition, n, kind, seed=n)
        placed, want, nan = c.place(strategy), c.expected(), c.normal()
        assert not c.differs(c.tiles(placed), want, nan), (n, strategy)
        assert not c.differs(c.loops(placed), want, nan), (n, strategy)


def test_what_cannot_be_seen_is_not_computed() -> None:
    """Not a number in the values of one document reaches no row tile without a row of it."""
    c = given("all of a document", 24, "document")
    c.data["doc"] = np.repeat([0, 1, 2], 8)
    c.data["V"][:8] = np.nan
    for strategy in STRATEGIES:
        placed = c.place(strategy)
        for (out,) in (c.tiles(placed), c.loops(placed)):
            assert np.isnan(out[:8]).all() and np.isfinite(out[8:]).all(), strategy


def test_gpu_tiles_are_not_sifted() -> None:
    c = given("documents", 8, "document")
    found = [s for s in c.place(MINIATURES[0]).tiles.phases[0].body if isinstance(s, Loop)]
    assert all(isinstance(s.body[0], Sift) and s.hull for s in found) and len(found) == 2
    warped = c.place(Strategy(2, 4, 6, 2, 2, 2, 2, True)).tiles.phases[0].body
    assert not any(s.hull for s in warped if isinstance(s, Loop))


@pytest.mark.parametrize("claim", [(True, False), (False, True)])
def test_a_wrong_claim_is_seen(claim: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    from moa.loops import Const
    from moa.pipeline import place

    c = given("documents", 13, "document", seed=1)
    claimed = tuple(Const(x, "b") for x in claim)
    monkeypatch.setattr(Sifting, "decided", lambda *_: claimed)
    placed = place(c.derivation, MINIATURES[0], "f64", {}, frozenset({"out"}))
    assert c.differs(c.loops(placed), c.expected(), c.normal())


def test_what_is_separable() -> None:
    i, j, b = var("i"), var("j"), var("b")

    def doc(*index: Poly) -> Poly:
        return atom("load", "doc", tuple(index))

    items = ("b", "i")
    same = is_zero(doc(b, i) - doc(b, j))
    for c in (same, negate(same), at_least_zero(doc(i) + 3 * doc(j) - 2), at_least_zero(doc(j) * doc(b))):
        assert separable(c, "j", "i", items), c
        f, g = compared(c, "j")
        assert "j" not in f.vars() and "i" not in g.vars()
    for c in (is_zero(doc(i + j)), at_least_zero(doc(i) * doc(j)), is_zero(doc(i) - var("k"))):
        assert not separable(c, "j", "i", items), c
    assert separable(is_zero(doc(i + j)), "j", None, items), "an item of one row"


@pytest.mark.parametrize("backend", ["llvm", "c"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_that_take_64_bits(backend: str, dtype: str) -> None:
    kernel = compile(TEXT.replace("CONDITION", CONDITIONS["documents"] + " & keep"), dtype=dtype, backend=backend)
    rng = np.random.default_rng(0)
    for n in (1, 17, 70):
        q, k, v = (rng.standard_normal((n, 4)).astype(dtype) for _ in range(3))
        doc, keep = rng.integers(0, 3, n) * 2**40 - 2**40, rng.random(n) < 0.7
        i, j = np.arange(n)[:, None], np.arange(n)
        s = np.where((j <= i) & (doc[:, None] == doc) & keep, q.astype(float) @ k.astype(float).T, -np.inf)
        with np.errstate(all="ignore"):
            e = np.where(s == -np.inf, 0, np.exp(s - s.max(-1, keepdims=True)))
        total = e.sum(-1, keepdims=True)
        want = e / np.where(total == 0, 1, total) @ v
        assert np.abs(kernel(q, k, v, doc, keep) - want).max() < (1e-5 if dtype == "float32" else 1e-13), n
