"""Lowered loops at miniature widths: equal to the oracle, inside their buffers, each output element stored once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from chain import MINIATURES, Chain
from programs import Case, Param, listed

import moa.interp.loops as interp
from moa.loops import Op
from moa.oracle import evaluate
from moa.pipeline import Placed
from moa.tile import Strategy

HEAD = "    i, j = iota(n)[:, None], iota(n)\n"
SELF = "Q[n, d] K[n, d] V[n, c]"
PROGRAMS: dict[str, tuple[str, str]] = {
    "plain": ("    return softmax(Q @ K.T) @ V\n", "Q[n, d] K[m, d] V[m, c]"),
    "causal": (f"{HEAD}    return softmax(where(j <= i, Q @ K.T, -inf)) @ V\n", SELF),
    "window": (f"{HEAD}    return softmax(where((j <= i) & (i - j < 3), Q @ K.T, -inf)) @ V\n", SELF),
    "blocks": (f"{HEAD}    return softmax(where(i // 3 == j // 3, Q @ K.T, -inf)) @ V\n", SELF),
    "distance": (f"{HEAD}    return softmax(Q @ K.T - 0.1 * abs(i - j)) @ V, logsumexp(Q @ K.T)\n", SELF),
    "columns": ("    return softmax(Q @ K.T).T @ W\n", "Q[n, d] K[m, d] W[n, c]"),
    "weights": ("    return softmax(Q @ K.T)\n", "Q[n, d] K[m, d]"),
    "leading axes": ("    return softmax(Q @ K.T) @ V\n", "Q[..., n, d] K[..., m, d] V[..., m, c]"),
    "variance": ("    y = X - mean(X)[:, None]\n    return y / sqrt(mean(y * y)[:, None] + 0.01)\n", "X[n, d]"),
    "joined": ("    return concat(X, 2 * X, axis=-1), concat(X, -X, axis=0)\n", "X[n, d]"),
    "turned": ("    return reverse(X, axis=0), rotate(X, 1, axis=1), X.T\n", "X[n, d]"),
    "extremes": ("    return max(X), min(X, axis=0), max(X @ X.T)\n", "X[n, d]"),
    "gathered": ("    return X[idx] @ X.T\n", "X[n, d] idx:index:n[m]"),
    "kept": (
        "    return sum(where(keep[:, None], X, 0), axis=0), max(where(keep, X.T, -inf))\n",
        "X[n, d] keep:bool[n]",
    ),
}
MINIATURE = Strategy(2, 4, 6, 2, 2, 2)


def chain(name: str, n: int = 9, m: int = 7, d: int = 4, c: int = 3, data: str = "plain") -> Chain:
    body, params = PROGRAMS[name]
    found = listed(params)
    lead = (2,) if "..." in params else ()
    text = f"def f({', '.join(p.text() for p in found)}):\n{body}"
    return Chain(Case(text, found, {"n": n, "m": m, "d": d, "c": c}, data, 0, lead))


@pytest.mark.parametrize("strategy", MINIATURES, ids=str)
@pytest.mark.parametrize("name", PROGRAMS)
def test_loops_mean_what_the_oracle_says(name: str, strategy: Strategy) -> None:
    c = chain(name)
    for fixed in ({}, {"d": 4}):
        placed = c.place(strategy, fixed)
        assert not c.differs(c.loops(placed), c.expected(), c.normal()), fixed


@pytest.mark.parametrize("name", PROGRAMS)
def test_sizes_around_tiles(name: str) -> None:
    """1, tile - 1, tile, tile + 1 for 4 rows and loops of 6; primes; empty axes."""
    for n, m, d, c in (
        (1, 1, 1, 1),
        (3, 5, 2, 1),
        (4, 6, 1, 2),
        (5, 7, 3, 5),
        (11, 13, 5, 2),
        (2, 0, 2, 2),
        (0, 3, 2, 2),
    ):
        if name in ("gathered",) and n == 0:
            continue
        made = chain(name, n, m, d, c)
        got = made.loops(made.place(MINIATURE))
        assert not made.differs(got, made.expected(), made.normal()), (n, m, d, c)


@pytest.mark.parametrize("data", ["huge", "equal", "nan", "-inf", "+inf"])
@pytest.mark.parametrize("name", ["plain", "columns", "extremes", "weights"])
def test_hostile_data(name: str, data: str) -> None:
    c = chain(name, data=data)
    for strategy in MINIATURES[:2]:
        assert not c.differs(c.loops(c.place(strategy)), c.expected(), c.normal()), strategy


def test_float32() -> None:
    body, params = PROGRAMS["causal"]
    text = f"def f({', '.join(p.text() for p in listed(params))}):\n{body}"
    c = Chain(Case(text, listed(params), {"n": 9, "d": 4, "c": 3}), "f32")
    got = c.loops(c.place(MINIATURE))
    assert got[0].dtype == np.float32
    assert not c.differs(got, c.expected(), c.normal())


def run_items(c: Chain, placed: Placed, order: str) -> tuple[np.ndarray[Any, Any], ...]:
    """The outputs with the work items of each phase run one by one in another order."""
    memory, hosts = c.memory(placed)
    args = c.slots(placed, memory, hosts)
    scratch = evaluate(placed.lowered.scratch_bytes, c.sizes)
    rng = np.random.default_rng(0)
    for phase, items in zip(placed.lowered.loops.phases, placed.lowered.items, strict=True):
        numbers = list(range(evaluate(items, c.sizes)))
        numbers = numbers[::-1] if order == "backwards" else [numbers[k] for k in rng.permutation(len(numbers))]
        for k in numbers:
            interp.run(placed.lowered.loops, phase, args, k, k + 1, memory, scratch)
    return tuple(memory[o] for o in c.derivation.streamed.outputs)


@pytest.mark.parametrize("order", ["backwards", "any"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_items_may_run_in_any_order(name: str, order: str) -> None:
    c = chain(name)
    placed = c.place(MINIATURE)
    for a, b in zip(c.loops(placed), run_items(c, placed, order), strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("strategy", MINIATURES, ids=str)
@pytest.mark.parametrize("name", PROGRAMS)
def test_each_output_element_is_stored_once(name: str, strategy: Strategy, monkeypatch: pytest.MonkeyPatch) -> None:
    c = chain(name, n=7, m=5, d=3)
    counts: dict[str, np.ndarray[Any, Any]] = {}
    store = interp.Machine.store

    def counting(
        self: interp.Machine, p: Any, i: int, x: Any, kind: str, element: str, aligned: bool, mask: Any = None
    ) -> None:
        store(self, p, i, x, kind, element, aligned, mask)
        lanes = self.width if kind in "vm" else 1
        on = np.ones(lanes, bool) if mask is None else mask
        seen = counts.setdefault(p.buffer, np.zeros(len(self.memory[p.buffer]) // 8, int))
        seen[p.offset_bytes // 8 + i + np.flatnonzero(on)] += 1

    monkeypatch.setattr(interp.Machine, "store", counting)
    placed = c.place(strategy)
    c.loops(placed)
    for a in placed.tiles.arrays:
        if a.role == "input":
            assert a.name not in counts
        else:
            assert (counts[a.name] == 1).all(), a.name


def test_width_one_is_the_same_function() -> None:
    """Without lanes no vector instruction is left."""
    for name in PROGRAMS:
        placed = chain(name).place(Strategy(1, 1, 6, 1, 1, 1))
        text = str(placed.lowered.loops)
        assert placed.lowered.loops.width == 1 and "for " in text


def test_nests_with_equal_text_share_a_function() -> None:
    loops = chain("causal").place(MINIATURE).lowered.loops
    texts = [str(f.params) + str(f.body) for f in loops.functions]
    assert len(set(texts)) == len(texts)


def test_a_lost_mask_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores without their masks leave the buffers, or change what another item stored."""
    store = interp.Machine.store

    def unmasked(
        self: interp.Machine, p: Any, i: int, x: Any, kind: str, element: str, aligned: bool, mask: Any = None
    ) -> None:
        store(self, p, i, x, kind, element, aligned, None)

    c = chain("plain", n=5, c=3)
    placed = c.place(MINIATURE)
    assert any(isinstance(s, Op) and s.op == "storem" for f in placed.lowered.loops.functions for s in ops(f.body))
    monkeypatch.setattr(interp.Machine, "store", unmasked)
    with pytest.raises(AssertionError):
        assert not c.differs(c.loops(placed), c.expected(), c.normal())


def ops(body: Any) -> list[Any]:
    out: list[Any] = []
    for s in body:
        out.append(s)
        for inner in ("body", "then", "other"):
            out += ops(getattr(s, inner, ()))
    return out


def test_scalars_reach_loops() -> None:
    text = "def f(X[n, d], w: int, tau: float):\n    return sum(where(iota(d) < w, X, 0)) * tau / w\n"
    params = (*listed("X[n, d]"), Param("w", (), "i", "small"), Param("tau", (), "f"))
    for seed in range(4):
        c = Chain(Case(text, params, {"n": 5, "d": 7}, seed=seed))
        for strategy in MINIATURES:
            assert not c.differs(c.loops(c.place(strategy)), c.expected(), c.normal())
