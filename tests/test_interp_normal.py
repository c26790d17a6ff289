"""The interpreter of Normals: bounds under the mask, demanded sets, Folds at any tile size."""

from __future__ import annotations

import numpy as np
import pytest

from moa.interp.normal import run
from moa.interp.scalar import evaluate
from moa.normal import (
    TRUE,
    ArrayInput,
    Eq,
    Fold,
    Member,
    Normal,
    Scalar,
    apply,
    at_least_zero,
    choose,
    compare,
    integer,
    lit,
    load,
    negate,
)
from moa.poly import absolute, atom, const, size, var

I, J = var("i"), var("j")
N = size("n")
AXIS_I, AXIS_J = ("i", N), ("j", N)
X = ArrayInput("x", "f", (N,))


def normal(*equations: Eq | Fold, outputs: tuple[str, ...] = ("y",), inputs: tuple[ArrayInput, ...] = (X,)) -> Normal:
    return Normal("test", inputs, equations, outputs)


def test_arithmetic_over_a_box() -> None:
    axes = {"i": np.arange(3)[:, None], "j": np.arange(4)}
    s = apply("sub", apply("mul", integer(I * 2 + J), lit(3)), load("x", (J,)))
    x = np.arange(4.0) / 7
    got = evaluate(s, axes, {"x": x}, {})
    assert np.array_equal(got, 3.0 * (2 * np.arange(3)[:, None] + np.arange(4)) - x)


def test_integers() -> None:
    axes = {"i": np.arange(-5, 6)}
    for p, want in (
        (I // 3, np.arange(-5, 6) // 3),
        (I % 3, np.arange(-5, 6) % 3),
        (absolute(I), np.abs(np.arange(-5, 6))),
        (atom("load", "idx", (absolute(I),)), np.arange(6)[::-1][np.abs(np.arange(-5, 6))]),
    ):
        assert np.array_equal(evaluate(integer(p), axes, {"idx": np.arange(6)[::-1]}, {}), want)


def test_loads_are_checked_only_under_the_mask() -> None:
    axes = {"i": np.arange(5)}
    s = load("x", (I - 2,))
    with pytest.raises(AssertionError, match=r"x\[i - 2\]: index -2 on axis 0 of 3"):
        evaluate(s, axes, {"x": np.arange(3.0)}, {})
    got = evaluate(s, axes, {"x": np.arange(3.0)}, {}, mask=np.arange(5) >= 2)
    assert np.array_equal(got[2:], np.arange(3.0))
    guarded = choose(at_least_zero(I - 2), s, lit(0))
    assert np.array_equal(evaluate(guarded, axes, {"x": np.arange(3.0)}, {}), [0, 0, 0, 1, 2])
    other = choose(negate(at_least_zero(I - 2)), lit(0), s)
    assert np.array_equal(evaluate(other, axes, {"x": np.arange(3.0)}, {}), [0, 0, 0, 1, 2])


def test_conditions_on_data() -> None:
    axes = {"i": np.arange(4)}
    x = np.array([1.0, np.nan, -np.inf, -1.0])
    c = compare("eq", load("x", (I,)), lit(float("-inf")))
    assert np.array_equal(evaluate(c, axes, {"x": x}, {}), [False, False, True, False])


def test_reductions_and_domains() -> None:
    causal = at_least_zero(I - J)
    e = Eq("y", "reduce", (AXIS_I,), ((TRUE, load("x", (J,))),), "add", AXIS_J, causal)
    x = np.random.default_rng(0).normal(size=6)
    assert np.allclose(run(normal(e), {"x": x}, {"n": 6})["y"], np.cumsum(x))
    m = Eq("y", "reduce", (AXIS_I,), ((TRUE, load("x", (J,))),), "max", AXIS_J, at_least_zero(I - J - 1))
    got = run(normal(m), {"x": x}, {"n": 6})["y"]
    assert got[0] == -np.inf and np.array_equal(got[1:], np.maximum.accumulate(x)[:-1])


def test_pieces() -> None:
    below = at_least_zero(I - J)
    pieces = ((below, load("x", (J,))), (negate(below), lit(1)))
    e = Eq("y", "reduce", (AXIS_I,), pieces, "mul", AXIS_J)
    x = np.arange(1.0, 6.0)
    assert np.allclose(run(normal(e), {"x": x}, {"n": 5})["y"], np.cumprod(x))


def test_only_demanded_elements_are_checked() -> None:
    """A Map that is out of bounds where nobody uses it is fine; where somebody does, it is not."""
    t = Eq("t", "map", (AXIS_I,), ((TRUE, load("x", (I - 1,))),))
    fine = Eq("y", "map", (AXIS_I,), ((TRUE, choose(at_least_zero(I - 1), load("t", (I,)), lit(0))),))
    got = run(normal(t, fine), {"x": np.arange(4.0)}, {"n": 4})
    assert np.array_equal(got["y"], [0, 0, 1, 2]) and np.isnan(got["t"][0])
    bad = Eq("y", "map", (AXIS_I,), ((TRUE, load("t", (I,))),))
    with pytest.raises(AssertionError, match="index -1"):
        run(normal(t, bad), {"x": np.arange(4.0)}, {"n": 4})


def test_demand_goes_through_reductions() -> None:
    t = Eq("t", "map", (AXIS_I, AXIS_J), ((TRUE, load("x", (I - J,))),))
    e = Eq("y", "reduce", (AXIS_I,), ((TRUE, load("t", (I, J))),), "add", AXIS_J, at_least_zero(I - J))
    x = np.arange(5.0)
    assert np.array_equal(run(normal(t, e), {"x": x}, {"n": 5})["y"], np.cumsum(x))


def log_sum_exp() -> Fold:
    """The running maximum and the sum of exponentials relative to it, with the shared exponent as a named map."""
    low = apply("div", Scalar("param", ("lowest",)), lit(2))
    ref = apply("max", load("m#0", ()), low)
    old, new = Scalar("ref", (0, "old")), Scalar("ref", (0, "new"))
    weight = apply("exp", apply("sub", load("x", (J,)), new))
    m = Member("m", (), "max", TRUE, ((TRUE, (load("x", (J,)),)),), (), (), load("m#0", ()))
    move = ((apply("exp", apply("sub", old, new)),),)
    y = Member("y", (), "add", TRUE, ((TRUE, (weight,)),), (ref,), move, load("y#0", ()))
    return Fold("fold", AXIS_J, (), TRUE, (m, y))


@pytest.mark.parametrize("tile", [1, 2, 3, 100, None])
def test_a_fold_by_hand(tile: int | None) -> None:
    x = np.array([-np.inf, -800.0, 3.0, 900.0, 899.0, -np.inf, 900.5])
    got = run(normal(log_sum_exp(), outputs=("m", "y")), {"x": x}, {"n": 7}, tile=tile)
    assert got["m"] == 900.5
    assert np.allclose(got["y"], np.exp(x - 900.5).sum(), rtol=1e-14)


def test_a_fold_with_named_maps() -> None:
    f = log_sum_exp()
    named = Eq("w", "map", (AXIS_J,), ((TRUE, apply("exp", apply("sub", load("x", (J,)), load("fold.ref0", ())))),))
    m, y = f.members
    y = Member(y.name, y.outer, y.op, y.domain, ((TRUE, (load("w", (J,)),)),), y.refs, y.move, y.finish)
    x = np.array([1.0, 5.0, -2.0, 7.0])
    want = run(normal(f, outputs=("y",)), {"x": x}, {"n": 4}, tile=1)["y"]
    got = run(normal(Fold("fold", AXIS_J, (), TRUE, (m, y), (named,))), {"x": x}, {"n": 4}, tile=1)["y"]
    assert np.array_equal(got, want)


def test_a_fold_whose_piece_loads_its_reference_by_name() -> None:
    f = log_sum_exp()
    m, y = f.members
    body = apply("exp", apply("sub", load("x", (J,)), load("fold.ref0", ())))
    y = Member(y.name, y.outer, y.op, y.domain, ((TRUE, (body,)),), y.refs, y.move, y.finish)
    x = np.array([1.0, 5.0, -2.0, 7.0])
    want = run(normal(f, outputs=("y",)), {"x": x}, {"n": 4}, tile=1)["y"]
    assert np.array_equal(run(normal(Fold("fold", AXIS_J, (), TRUE, (m, y))), {"x": x}, {"n": 4}, tile=1)["y"], want)


def test_float32() -> None:
    e = Eq("y", "map", (AXIS_I,), ((TRUE, apply("div", load("x", (I,)), lit(3))),))
    got = run(normal(e), {"x": np.arange(3.0)}, {"n": 3}, dtype=np.float32)["y"]
    assert got.dtype == np.float32 and np.array_equal(got, np.arange(3, dtype=np.float32) / np.float32(3))


def test_sizes_and_parameters() -> None:
    e = Eq("y", "map", (AXIS_I,), ((TRUE, apply("mul", integer(N + const(1)), Scalar("param", ("c",)))),))
    assert np.array_equal(run(normal(e), {"x": np.zeros(2)}, {"n": 2}, {"c": 0.5})["y"], [1.5, 1.5])
