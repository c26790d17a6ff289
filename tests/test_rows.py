"""What a work item is: which axis is its row, where its rows are, what each vector of them visits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from chain import MINIATURES, Chain
from programs import Case, listed

from moa.kernel import compile
from moa.pipeline import Placed, place
from moa.poly import const
from moa.tile import Strategy
from moa.tile.plan import Plan
from moa.tiles import Loop, Nest, Phase, TileStmt

GROUPED = """def f(Q[g, r, n, d], K[g, m, d], V[g, m, c]):
    return softmax(Q @ K[:, None].T) @ V[:, None]
"""
CAUSAL = """def f(Q[n, d], K[n, d], V[n, c]):
    i, j = iota(n)[:, None], iota(n)
    return softmax(where(j <= i, Q @ K.T, -inf)) @ V
"""
SHORT = Strategy(4, 3, 8, 3, 2, 4, row=1)
ROWS = Strategy(2, 4, 6, 2, 2, 2)


def grouped(r: int, n: int) -> Chain:
    params = listed("Q[g, r, n, d] K[g, m, d] V[g, m, c]")
    return Chain(Case(GROUPED, params, {"g": 2, "r": r, "n": n, "m": 11, "d": 5, "c": 6}))


def causal(n: int) -> Chain:
    return Chain(Case(CAUSAL, listed("Q[n, d] K[n, d] V[n, c]"), {"n": n, "d": 3, "c": 2}))


def nests(body: tuple[TileStmt, ...]) -> Iterator[Nest]:
    for s in body:
        if isinstance(s, Nest):
            yield s
        elif isinstance(s, Loop):
            yield from nests(s.body)


def row(placed: Placed) -> str:
    (phase,) = placed.tiles.phases
    return next(str(phase.axis(v).extent) for v in phase.items if phase.axis(v).step > 1)


@pytest.mark.parametrize("r, n", [(1, 1), (3, 1), (4, 2), (7, 1)])
def test_heads_that_share_keys_are_rows(r: int, n: int) -> None:
    c = grouped(r, n)
    placed, want, nan = c.place(SHORT), c.expected(), c.normal()
    assert row(placed) == "r" and row(c.place(replace(SHORT, row=0))) == "n"
    assert not c.differs(c.tiles(placed), want, nan)
    assert not c.differs(c.loops(placed), want, nan)


def test_few_rows_look_ahead_and_are_no_lanes() -> None:
    (phase,) = grouped(3, 1).place(SHORT).tiles.phases
    found = list(nests(phase.body))
    assert all(x.lane != "b1" for x in found)
    assert {x.ahead for x in found} == {None, "j"} and any(x.vectors > 1 for x in found)


def test_a_kernel_takes_the_longest_row() -> None:
    kernel = compile(GROUPED, dtype="float32")
    rng = np.random.default_rng(0)
    for r, n, wanted in ((4, 1, "r"), (2, 5, "n"), (20, 3, "r"), (20, 33, "n")):
        q, k, v = (rng.standard_normal(s).astype("f") for s in ((2, r, n, 8), (2, 50, 8), (2, 50, 8)))
        s = np.einsum("grnd,gmd->grnm", q, k).astype(float)
        e = np.exp(s - s.max(-1, keepdims=True))
        want = np.einsum("grnm,gmc->grnc", e / e.sum(-1, keepdims=True), v)
        assert np.abs(kernel(q, k, v) - want).max() < 1e-5
        assert row(list(kernel._variants.values())[-1].placed) == wanted


def bounded(phase: Phase) -> list[Nest]:
    return [x for x in nests(phase.body) if x.bounds is not None]


def test_vectors_of_rows_have_edges_of_their_own() -> None:
    c = causal(13)
    (phase,) = c.place(ROWS).tiles.phases
    assert {str(x.bounds) for x in bounded(phase)} == {"j in 0 .. min(i@v + 2, n)"}
    assert not bounded(c.place(replace(ROWS, rows=2)).tiles.phases[0]), "one vector has the edges of the item"
    for n in (1, 2, 5, 8):
        c = causal(n)
        assert not c.differs(c.loops(c.place(ROWS)), c.expected(), c.normal())


def test_an_edge_too_near_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Plan.bounds

    def cut(*given: Any) -> Any:
        found = whole(*given)
        return found and replace(found, hi=found.hi - const(1))

    monkeypatch.setattr(Plan, "bounds", cut)
    c = causal(8)
    placed = place(c.derivation, ROWS, "f64", {}, frozenset({"out"}))
    assert c.differs(c.loops(placed), c.expected(), c.normal())


def test_products_are_packed_and_outputs_transposed() -> None:
    case = Case("def f(X[n, k], W[k, c]):\n    return X @ W\n", listed("X[n, k] W[k, c]"), {"n": 7, "k": 5, "c": 6})
    c = Chain(case)
    for strategy in MINIATURES:
        placed = c.place(strategy)
        assert not c.differs(c.loops(placed), c.expected(), c.normal()), strategy
    text = str(c.place(Strategy(4, 4, 8, 2, 1, 4)).tiles)
    assert "lanes i, k ahead:\n      X.t[k, i] = X[i, k]" in text
    assert "nest (i by 4) lanes c:" in text


def test_what_a_nest_makes_for_itself_is_not_stored() -> None:
    (phase,) = causal(5).place(ROWS).tiles.phases
    assert {t.name for t in phase.tiles if t.space == "block"} >= {"fold.0.ref0.old"}


SOME = Strategy(4, 6, 8, 2, 2, 4)
"""More rows than a vector has lanes, and no multiple of them: lanes are keys and columns."""


@pytest.mark.parametrize("n", [1, 5, 6, 13])
def test_more_rows_than_lanes_are_blocks(n: int) -> None:
    for c in (causal(n), grouped(2, n)):
        placed, want, nan = c.place(SOME), c.expected(), c.normal()
        assert all(x.lane not in ("i", "b1") for p in placed.tiles.phases for x in nests(p.body))
        assert not c.differs(c.tiles(placed), want, nan)
        assert not c.differs(c.loops(placed), want, nan)


@pytest.mark.parametrize("backend", ["llvm", "c"])
def test_a_kernel_of_few_rows_more_than_a_vector(backend: str) -> None:
    kernel = compile(CAUSAL.replace("j <= i", "j <= i + 300").replace("K[n, d], V[n, c]", "K[m, d], V[m, c]")
                     .replace("iota(n)\n", "iota(m)\n"), dtype="float32", backend=backend)  # fmt: skip
    rng = np.random.default_rng(1)
    for n, m in ((17, 211), (25, 317), (26, 211), (20, 1)):
        q, k, v = (rng.standard_normal(s).astype("f") for s in ((n, 40), (m, 40), (m, 24)))
        i, j = np.indices((n, m))
        s = np.where(j <= i + 300, q.astype(float) @ k.T, -np.inf)
        e = np.exp(s - s.max(-1, keepdims=True))
        assert np.abs(kernel(q, k, v) - e @ v / e.sum(-1, keepdims=True)).max() < 1e-5


def test_phases_without_long_rows_go_along_what_is_long() -> None:
    """Four rounds of hashes for 4096 tokens: tokens are the lanes, and what threads divide, too."""
    kernel = compile("examples/systems/reformer.moa", function="reformer", dtype="float32")
    sizes = {"n": 4096, "d": 64, "dv": 64, "rounds": 4, "f": 32, "chunk": 64, "causal": 0}
    hashes = kernel.placed_at(sizes, kernel.form_at(sizes)).tiles.phases[0]
    assert [str(hashes.axis(v).extent) for v in hashes.items] == ["rounds", "n"]
    assert all(x.lane == hashes.items[-1] for x in nests(hashes.body) if x.lane is not None)
