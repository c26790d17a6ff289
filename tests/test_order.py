"""Orders, ranks and what is brought to its place: made once for a whole axis, equal to NumPy's stable sort."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from programs import Case, listed
from test_properties import check

import moa
from moa.normal import lit, load
from moa.parse import parse
from moa.pipeline import derive
from moa.poly import atom, var
from moa.psi.order import before, ordered_by
from moa.tile import Strategy, tile
from moa.tile import order as order_module
from moa.tiles import Placed, Reduce, Sorted, statements

Array = np.ndarray[Any, Any]
SIZES = (0, 1, 2, 3, 7, 8, 13, 64, 97)


def kinds(rng: np.random.Generator, shape: tuple[int, ...]) -> list[Array]:
    """Keys that are hard to order."""
    n = shape[-1]
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -np.nan])
    return [
        rng.standard_normal(shape),
        rng.integers(0, 3, shape).astype(float),
        np.zeros(shape),
        np.broadcast_to(np.arange(n, dtype=float), shape).copy(),
        np.broadcast_to(-np.arange(n, dtype=float), shape).copy(),
        special[rng.integers(0, len(special), shape)],
        np.full(shape, np.nan),
    ]


def ranks(x: Array) -> Array:
    return np.argsort(np.argsort(x, axis=-1, kind="stable"), axis=-1, kind="stable")


@pytest.mark.parametrize(("dtype", "backend"), [("float64", "llvm"), ("float32", "llvm"), ("float64", "c")])
def test_order_is_that_of_numpy(dtype: Any, backend: str) -> None:
    kernel = moa.compile("argsort(x), argsort(argsort(x))", x="b n", dtype=dtype, backend=backend)
    rng = np.random.default_rng(3)
    for n in SIZES if backend == "llvm" else SIZES[-1:]:  # each may be another variant, and C is slow to build
        for x in kinds(rng, (3, n)):
            x = x.astype(dtype)
            order, place = kernel(x, threads=2)
            assert np.array_equal(order, np.argsort(x, axis=-1, kind="stable"))
            assert np.array_equal(place, ranks(x))


def test_integers_along_any_axis() -> None:
    kernel = moa.compile("argsort(k, axis=0), argsort(k, axis=1), argsort(-k)", k="int b m n")
    rng = np.random.default_rng(4)
    for shape in ((1, 1, 1), (2, 3, 5), (5, 1, 33), (4, 7, 2)):
        for low, high in ((0, 2), (-(2**62), 2**62)):
            k = rng.integers(low, high, shape)
            first, second, last = kernel(k)
            assert np.array_equal(first, np.argsort(k, axis=0, kind="stable"))
            assert np.array_equal(second, np.argsort(k, axis=1, kind="stable"))
            assert np.array_equal(last, np.argsort(-k, axis=-1, kind="stable"))


def test_strided_keys_and_a_key_that_is_computed() -> None:
    kernel = moa.compile("argsort(sum(x * x, axis=0)), top_k(2 * x, 3)", x="n m")
    x = np.random.default_rng(5).integers(-4, 5, (40, 26)).astype(float)[::2, ::-2]
    order, best = kernel(x)
    assert np.array_equal(order, np.argsort((x * x).sum(0), kind="stable"))
    assert np.array_equal(best, np.argsort(-2 * x, axis=-1, kind="stable")[:, :3])


# The laws ------------------------------------------------------------------------------------------------------------

PARAMETERS = "x: int[n], y: int[n], p: bool[n], X[n, d], k: int[n]"
GIVEN = "x:int[n] y:int[n] p:bool[n] X[n, d] k:int[n]"
PLACED = (
    "sum(where(x == iota(5)[:, None], 1, 0))",
    "sum(where((x == iota(4)[:, None]) & p, y, 0))",
    "sum(where(x - 1 == iota(5)[:, None], iota(n) + iota(5)[:, None], 0))",
    "sum(where(-x == iota(3)[:, None], y, 0))",
    "prod(where((x == iota(5)[:, None]) & (y > iota(5)[:, None]), y, 1))",
)


@pytest.mark.parametrize("text", PLACED)
def test_what_belongs_at_one_place_is_brought_there(text: str) -> None:
    case = Case(f"def f({PARAMETERS}):\n    return {text}", listed(GIVEN), {"n": 7, "d": 2})
    check(case, ("tiles", "loops", "llvm"))
    assert "by placing at" in moa.compile(case.text).explain("tiles")


@pytest.mark.parametrize("text", ["argsort(X, axis=0)", "argsort(k)", "argsort(argsort(sum(X)))"])
def test_every_stage_agrees(text: str) -> None:
    for n in (1, 2, 5):
        text_of = f"def f({PARAMETERS}):\n    return {text}"
        check(Case(text_of, listed(GIVEN), {"n": n, "d": 3}, seed=n), ("tiles", "loops", "llvm"))


def test_warps_compare_all_pairs() -> None:
    derivation = derive(parse("def f(x[n]):\n    return argsort(x)"), 0)
    for warps, sorts in ((0, True), (4, False)):
        tiles = tile(derivation.streamed, Strategy(32 if warps else 8, 32, 32, warps=warps))
        made = [x.how for p in tiles.phases for x in statements(p.body) if isinstance(x, Reduce)]
        assert any(isinstance(h, Sorted) for h in made) == any(isinstance(h, Placed) for h in made) == sorts


def test_a_condition_that_is_not_an_order_is_none() -> None:
    a, b = load("x", (var("j"),)), load("x", (var("i"),))
    assert ordered_by(before(a, b, var("j"), var("i")), "j", "i") is a
    assert ordered_by(before(a, b, var("i"), var("j")), "j", "i") is None  # equal ones the other way round
    assert ordered_by(before(b, a, var("j"), var("i")), "j", "i") is None
    whole, other = (atom("load", "k", (var(v),)) for v in "ji")
    assert ordered_by(before(whole, other, var("j"), var("i")), "j", "i") == whole
    assert ordered_by(before(2 * whole, other, var("j"), var("i")), "j", "i") is None
    assert ordered_by(before(a, lit(0), var("j"), var("i")), "j", "i") is None


def test_a_broken_merge_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from moa.lower.order import OrderLowering

    old: Callable[..., Any] = OrderLowering.precedes
    monkeypatch.setattr(OrderLowering, "precedes", lambda self, a, b: self.b.pure("b", "bnot", old(self, b, a)))
    with pytest.raises(AssertionError):
        test_order_is_that_of_numpy("float64", "llvm")


def test_a_broken_place_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.array([0, 2, 2, 1])
    counted = moa.compile("sum(where(x == iota(3)[:, None], 1, 0))", x="int n")(x)
    old = order_module._solved
    monkeypatch.setattr(order_module, "_solved", lambda c, v: (at := old(c, v)) and at + 1)
    broken = moa.compile("sum(where(x == iota(3)[:, None], 1, 0))", x="int n")(x)
    assert np.array_equal(counted, [1, 1, 2]) and not np.array_equal(broken, counted)


def test_places_of_maxima_are_printed() -> None:
    kernel = moa.compile("argmax(X)", X="n m")
    assert "argmax_{" in kernel.explain("equations") and "argmax_{" in kernel.explain("normal")
    assert "argmax_j X[i, j]" in str(kernel.explain())
