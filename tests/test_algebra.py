"""The structural engine: forms agree with NumPy, equal polynomials have equal forms, signs are never wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from normals_by_hand import AXES, CAUSAL, EXTENTS, INF, E, I, J, attention, causal, exp, fn, ld, log, where

from moa.interp.scalar import evaluate
from moa.laws.algebra import ONE, ZERO, expand, factors, form_text, product, ratio, reads, rebuild, split_axis
from moa.laws.group import find_groups
from moa.laws.sign import form_sign, lower_bound, negative, nonnegative, positive
from moa.laws.split import assume, implies, split
from moa.laws.terms import Scope, separate
from moa.normal import TRUE, Cond, Eq, Scalar, apply, at_least_zero, both, integer, lit, load
from moa.poly import size, var

PARAMS = {"a": 0.7, "b": -1.3, "n": 5, "m": 3}
LEAVES = (lit(2), lit(-3), Scalar("param", ("a",)), Scalar("param", ("b",)), integer(size("n")), integer(size("m")))


def scalars() -> st.SearchStrategy[Scalar]:
    def grow(inner: st.SearchStrategy[Scalar]) -> st.SearchStrategy[Scalar]:
        two = st.tuples(st.sampled_from(("add", "sub", "mul")), inner, inner).map(lambda t: apply(*t))
        below = st.tuples(inner, inner).map(lambda t: apply("div", t[0], apply("exp", t[1])))
        one = st.tuples(st.sampled_from(("neg", "tanh")), inner).map(lambda t: apply(*t))
        safe = inner.map(lambda x: apply("exp", apply("tanh", x)))
        root = inner.map(lambda x: apply("sqrt", apply("exp", apply("tanh", x))))
        return st.one_of(two, below, one, safe, root)

    return st.recursive(st.sampled_from(LEAVES), grow, max_leaves=8)


def value(s: Scalar) -> float:
    return float(evaluate(s, {}, {}, PARAMS, dtype=np.float64))


@settings(max_examples=200, deadline=None)
@given(scalars())
def test_the_form_of_a_scalar_has_its_value(s: Scalar) -> None:
    want, got = value(s), value(rebuild(expand(s)))
    if math.isfinite(want) and math.isfinite(got) and abs(want) < 1e9:
        assert got == pytest.approx(want, rel=1e-6, abs=1e-6)


@settings(max_examples=200, deadline=None)
@given(scalars(), scalars(), scalars())
def test_equal_polynomials_have_equal_forms(a: Scalar, b: Scalar, c: Scalar) -> None:
    left = expand(apply("mul", a, apply("add", b, c)))
    right = expand(apply("add", apply("mul", c, a), apply("mul", b, a)))
    assert left == right and hash(left) == hash(right)
    assert expand(apply("sub", a, a)) == ZERO


@settings(max_examples=300, deadline=None)
@given(scalars())
def test_signs_are_never_wrong(s: Scalar) -> None:
    x = value(s)
    if math.isnan(x):
        return
    assert not positive(s) or x >= 0
    assert not negative(s) or x <= 0
    assert not nonnegative(s) or x >= 0
    sign = form_sign(expand(s))
    assert not sign or x * sign >= 0


def test_signs_of_rates() -> None:
    root = fn("sqrt", E(size("dk"))).s
    assert positive(root) and positive(apply("div", lit(1), root))
    assert positive(log(2).s) and not positive(Scalar("param", ("t",)))
    assert lower_bound(size("n") * 2 - 1) == 1 and lower_bound(size("n") - size("m")) is None
    assert positive(where(Cond("cmp", ("eq", load("l", (I,)), lit(0))), 1, ld("l", I)).s, {"l"})


def test_exponentials_and_logarithms() -> None:
    x, y = ld("x", J), ld("y", J)
    assert expand((exp(x) * exp(-x)).s) == ONE
    assert expand(exp(x + log(y)).s) == expand((y * exp(x)).s)
    assert expand(log(exp(x - y)).s) == expand((x - y).s)
    assert expand((fn("sqrt", y) * fn("sqrt", y)).s) == expand(y.s)
    assert expand(exp(x * log(2) * (1 / log(2))).s) == expand(exp(x).s)


def test_differences_of_indices_stay_whole() -> None:
    f = expand((E(I - J) * ld("t", I)).s)
    assert len(f.terms) == 1
    assert f == -expand((E(J - I) * ld("t", I)).s)


def test_ratio_and_split() -> None:
    u = (ld("d", I, J) + ld("b", J)).s
    f = apply("div", u, fn("sqrt", E(size("dk"))).s)
    k = ratio(expand(f), expand(u), "j")
    assert k is not None and form_text(k) == "1 / sqrt(dk)"
    assert ratio(expand(f), expand(ld("d", I, J).s), "j") is None
    have, free = split_axis(expand((ld("d", I, J) - ld("m", I)).s), "j")
    assert form_text(have) == "d[i, j]" and free == -expand(ld("m", I).s)


def test_the_unexpanded_view_keeps_sums_whole() -> None:
    s = ((ld("x", I) + 1) * (ld("y", J) + 1) / 4).s
    c, parts = factors(s)
    assert len(parts) == 2 and expand(product(parts, c)) == expand(s)
    assert reads(s) == {"x", "y"}


def test_terms_of_one_polynomial_stay_together() -> None:
    scope = Scope("j", {"r", "l1", "l2"})
    square = (ld("x", J) - ld("r", I)) * (ld("x", J) - ld("r", I))
    assert len(separate(square.s, scope)) == 1
    two = (ld("x", J) / ld("l1", I) + ld("y", J) / ld("l2", I)) * ld("v", J)
    assert [t.free for t in separate(two.s, scope)] == [((ld("l1", I).s, -1),), ((ld("l2", I).s, -1),)]
    same = (ld("x", J) / ld("l1", I) + ld("y", J) / ld("l1", I)) * ld("v", J)
    assert len(separate(same.s, scope)) == 1


def test_implication() -> None:
    assert implies(both(CAUSAL, at_least_zero(J - 3)), at_least_zero(J - 1))
    assert not implies(at_least_zero(J - 1), at_least_zero(J - 3))
    assert implies(CAUSAL, TRUE) and not implies(TRUE, CAUSAL)
    assert assume(where(at_least_zero(J), ld("x", J), 0).s, at_least_zero(J - 2)) is ld("x", J).s


def test_split_makes_domains_and_pieces() -> None:
    body = where(CAUSAL, ld("S", I, J), -INF).s
    e = Eq("m", "reduce", (AXES["i"],), ((TRUE, body),), "max", AXES["j"])
    new = split(e)
    assert new is not None and new.domain is CAUSAL and new.body is ld("S", I, J).s
    both_sides = Eq("m", "reduce", (AXES["i"],), ((TRUE, where(CAUSAL, ld("S", I, J), 1).s),), "max", AXES["j"])
    new = split(both_sides)
    assert new is not None and [str(c) for c, _ in new.pieces] == ["i >= j", "j > i"]


def test_groups() -> None:
    groups = find_groups([e for e in attention().equations if isinstance(e, Eq)])
    assert [g.members for g in groups] == [("d",), ("m", "l", "O")]
    row, other, k = var("r"), var("s"), var("q")
    a = Eq("a", "reduce", (("r", EXTENTS["n"]),), ((TRUE, load("x", (row, k))),), "max", ("q", EXTENTS["m"]))
    b = Eq(
        "b",
        "reduce",
        (("s", EXTENTS["n"]),),
        ((TRUE, apply("sub", load("x", (other, var("p"))), load("a", (other,)))),),
        "add",
        ("p", EXTENTS["m"]),
    )
    (g,) = find_groups([a, b])
    renamed = g.rename(b)
    assert renamed.outer == a.outer and renamed.red == a.red
    shifted = Eq("b", "reduce", (("s", EXTENTS["n"]),), ((TRUE, load("a", (other - 1,))),), "add", ("p", EXTENTS["m"]))
    assert len(find_groups([a, shifted])) == 2
    assert len(find_groups([e for e in causal().equations if isinstance(e, Eq)])) == 2
