"""Products of matrices: rows are packed once, long sums go by tiles, what is free of a row is made once for all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from formulas import agrees, expected, gap, kernel_of, of

import moa
from moa.forms import chosen
from moa.laws.algebra import product
from moa.laws.table import LAWS
from moa.normal import Eq, load
from moa.oracle import evaluate
from moa.parse import parse
from moa.pipeline import Derivation, derive
from moa.poly import var
from moa.tile import Strategy, tile

PRODUCTS = {
    "by rows": "def f(X[n, d], W[d, e]):\n    return X @ W\n",
    "by columns": "def f(X[n, d], W[e, d]):\n    return X @ W.T\n",
    "along the first axis": "def f(X[n, d], W[n, e]):\n    return W.T @ X\n",
    "in heads": "def f(X[n, d], W[h, d, e], b[e]):\n    return maximum(X @ W + b, 0)\n",
    "two of them": "def f(X[n, d], W[d, e], U[e, d]):\n    return exp(-abs(X @ W)) @ U\n",
    "largest sums": "def f(X[n, d], W[d, e]):\n    return max(X[:, :, None] + W, axis=1)\n",
    "masked": "def f(X[n, d], W[n, d]):\n    return where(iota(n) <= iota(n)[:, None], X @ W.T, 0)\n",
}
JOINED = "def f(Q[n, d], K[m, d], R[e, d], V[m, dv], U[e, dv]):\n    i, j = iota(n)[:, None], iota(m)\n"
KEPT = "k = iota(e + m)\n    S = Q @ concat(R, K, axis=0).T\n"
JOINTS = {
    "two arrays": "P = softmax(concat(Q @ K.T, Q @ R.T, axis=-1))\n    return P[:, :m] @ V + P[:, m:] @ U",
    "one of them masked": "S = where(j <= i, Q @ K.T, -inf)\n    P = softmax(concat(S, Q @ R.T, axis=-1))\n"
    "    return P[:, :m] @ V + P[:, m:] @ U",
    "blocks": "S = where((j // 3 == i // 3) | (j // 3 == 0), Q @ K.T, -inf)\n"
    "    return sum(exp(concat(S, where(i // 3 == 1, -inf, Q @ R.T), axis=-1)))",
    "keys and values": f"{KEPT}    return softmax(S) @ concat(U, V, axis=0)",
    "keys and values, masked": f"{KEPT}    return softmax(where(k <= i + e, S, -inf)) @ concat(U, V, axis=0)",
    "keys and values in a window": f"{KEPT}    W = (k <= i + e) & (i + e - k < 5)\n"
    "    return softmax(where(W, S, -inf)) @ concat(U, V, axis=0)",
}
TRUTH = "def f(Q[h, n, d], K[h, m, d], V[h, m, dv], B: bool[n, m]):\n    i, j = iota(n)[:, None], iota(m)\n"
TRUTHS = {
    "a mask": "    return softmax(where(B, Q @ K.T, -inf)) @ V",
    "what it leaves out": "    S = Q @ K.T\n"
    "    return softmax(where(~B & (j <= i), S, -inf)) @ V, sum(where(B | (j > i), S, 0))",
    "for some": "    return where(B, softmax(Q @ K.T), 0) @ V",
}
NORM = """
def norm(x, w, b):
    c = x - mean(x, keepdims=True)
    return c / sqrt(mean(c * c, keepdims=True) + 0.01) * w + b
"""
LAYERS = {
    "norm, then a product": "def f(X[n, d], w[d], b[d], W[dv, d]):\n    return norm(X, w, b) @ W.T\n",
    "in batches": "def f(X[h, n, d], w[d], b[d], W[dv, d]):\n    return norm(X, w, b) @ W.T + 1\n",
    "a product, then norm": "def f(X[n, d], W[d, dv], w[dv], b[dv]):\n    return norm(X @ W, w, b)\n",
}


def filled(d: Derivation, sizes: dict[str, int]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    made = {p.name: rng.standard_normal(tuple(evaluate(e, sizes) for e in p.shape)) for p in d.program.inputs}
    return {p.name: made[p.name] > 0 if p.kind == "b" else made[p.name] for p in d.program.inputs}


def close(kernel: moa.Kernel, d: Derivation, sizes: dict[str, int]) -> bool:
    given = filled(d, sizes)
    out = kernel(**given)
    return gap(out if isinstance(out, tuple) else (out,), expected(d, given)) <= 1e-12


@pytest.mark.parametrize(("name", "backend"), [*((n, "llvm") for n in PRODUCTS), ("in heads", "c")])
def test_a_product_is_the_oracle(name: str, backend: Any) -> None:
    kernel, d = moa.compile(PRODUCTS[name], backend=backend), of(PRODUCTS[name])
    for n, k, e in ((67, 601, 19), (3, 1, 5), (70, 0, 3), (1, 97, 1)):
        assert close(kernel, d, {"n": n, "d": k, "e": e, "h": 2}), (n, k, e)


def test_sums_that_are_compared_have_equal_bits() -> None:
    """The place of the largest of some sums is where one of them equals it, however both are computed."""
    text = (
        "def f(X[n, d], W[d, h, e]):\n    u = X @ transpose(W, [1, 0, 2])\n    return argmax(concat(u, -u, axis=-1))\n"
    )
    kernel, d = moa.compile(text), of(text)
    for n, k in ((11, 6), (70, 3), (5, 201)):
        given = filled(d, {"n": n, "d": k, "h": 3, "e": 2})
        assert np.array_equal(kernel(**given), expected(d, given)[0])


def test_rows_are_packed_before_the_product() -> None:
    for name in ("by rows", "by columns", "in heads"):
        text = str(tile(of(PRODUCTS[name]).forms[0].streamed, Strategy(8, 32, 96)))
        assert "X.t[k, i] = X[i, k]" in text and "for k in 0 .. d (full)" in text


def test_what_a_pass_made_is_not_made_again() -> None:
    form = of(NORM + LAYERS["a product, then norm"]).forms[-1]
    text = str(tile(form.streamed, Strategy(8, 32, 96)))
    assert text.count("W[k, ") == 1, text


@pytest.mark.parametrize("name", JOINTS)
def test_arrays_that_are_joined(name: str) -> None:
    text = f"{JOINED}    {JOINTS[name]}\n"
    kernel, d = moa.compile(text), of(text)
    for n, m, e in ((67, 71, 19), (5, 0, 7), (3, 9, 0), (1, 1, 1), (70, 197, 203)):
        assert close(kernel, d, {"n": n, "m": m, "e": e, "d": 4, "dv": 3}), (n, m, e)


def test_each_part_of_a_joined_axis_has_its_own_products() -> None:
    text = str(tile(of(f"{JOINED}    {JOINTS['blocks']}\n").forms[0].streamed, Strategy(8, 32, 96)))
    loops = text.split("  for j")[1:]
    assert ["K[" in x for x in loops] == [True, False] and ["R[" in x for x in loops] == [False, True]


@pytest.mark.parametrize("name", ["keys and values", "keys and values, masked"])
def test_no_element_of_joined_arrays_is_chosen(name: str) -> None:
    """Each loop reads the array that it is over, and only the second one has elements that the mask leaves out."""
    text = str(tile(of(f"{JOINED}    {JOINTS[name]}\n").forms[0].streamed, Strategy(8, 32, 96)))
    first, *others = text.split("  for j")[1:]
    assert "R[" in first and "U[" in first and "where(" not in first
    for x in others:
        assert "K[" in x and "V[" in x and "R[" not in x and "U[" not in x
        assert x.count("where(i >= ") == (2 if "(partial)" in x else 0)


@pytest.mark.parametrize(("name", "backend"), [*((n, "llvm") for n in TRUTHS), ("a mask", "c")])
def test_masks_of_truth_values(name: str, backend: Any) -> None:
    kernel, d = moa.compile(TRUTH + TRUTHS[name], backend=backend), of(TRUTH + TRUTHS[name])
    for n, m in ((67, 203), (16, 16), (1, 5), (70, 17), (3, 0), (131, 1)):
        assert close(kernel, d, {"h": 2, "n": n, "m": m, "d": 4, "dv": 3}), (n, m)


@pytest.mark.parametrize("name", TRUTHS)
def test_truth_values_along_rows_are_turned_once_a_round(name: str) -> None:
    text = str(tile(of(TRUTH + TRUTHS[name]).forms[0].streamed, Strategy(8, 32, 96)))
    loops = text.split("  for j")[1:]
    assert loops and all(x.count("B[i, j]") == x.count("= B[i, j]") == 1 for x in loops), text


@pytest.mark.parametrize("name", LAYERS)
def test_every_form_of_a_layer_is_the_oracle(name: str) -> None:
    text = NORM + LAYERS[name]
    d = of(text)
    for k, form in enumerate(d.forms):
        assert agrees(d, form, (0, 1, 5)), form.name
        kernel = kernel_of(text, k)
        for n, m, e in ((35, 23, 7), (1, 1, 1), (5, 300, 2)):
            assert close(kernel, d, {"n": n, "d": m, "dv": e, "h": 2}), form.name


def test_products_wait_for_a_mean_where_that_is_less_work() -> None:
    """A product of differences from a running mean has two states a column: twice the work, for one pass fewer."""
    forms = of(NORM + LAYERS["norm, then a product"]).forms
    apart = next(f for f in forms if f.name == "products in a pass of their own")
    assert chosen(forms, {"n": 512, "d": 512, "dv": 512}) is apart
    variance = "def f(X[n, d]):\n    c = X - mean(X, keepdims=True)\n    return mean(c * c)\n"
    assert [f.name for f in of(variance).forms][:1] == ["as written"]
    assert not [f for f in of(variance).forms if "pass of their own" in f.name]


def test_an_axis_that_nothing_depends_on_is_dropped() -> None:
    d = of(NORM + LAYERS["in batches"])
    steps = [s for s in d.trace.steps if s.law == "drop an axis"]
    assert steps and all("is free of" in what for s in steps for what, _ in s.conditions)
    free = [e for e in d.forms[0].streamed.equations if isinstance(e, Eq) and e.kind == "reduce" and len(e.outer) == 1]
    assert [str(e.body) for e in free] == ["b[j] * W[c, j]"]


def test_a_broken_drop_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = LAWS["drop an axis"]

    def wrong(e: Eq, fresh: Any) -> Eq | None:
        made = right.apply(e, fresh)
        return None if made is None else replace(made, outer=made.outer[:-1])

    monkeypatch.setitem(LAWS.laws, "drop an axis", replace(right, apply=wrong))
    with pytest.raises((AssertionError, ValueError, KeyError, IndexError)):
        d = derive(parse(NORM + LAYERS["in batches"]), 0)
        assert agrees(d, d.forms[0], (5,))


def test_a_quotient_with_fewer_axes_is_made_before_the_product() -> None:
    a, b, s = load("a", (var("i"), var("j"))), load("b", (var("j"), var("c"))), load("s", (var("i"), var("j")))
    assert str(product([(a, 1), (b, 1), (s, -1)])) == "a[i, j] / s[i, j] * b[j, c]"
    assert str(product([(a, 1), (s, -1)])) == "a[i, j] / s[i, j]"
    wide = load("w", (var("i"), var("c")))
    assert str(product([(a, 1), (b, 1), (wide, -1)])) == "a[i, j] * b[j, c] / w[i, c]"
