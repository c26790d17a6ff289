"""Contracts and error bounds: a bound holds, is not absurd, says why where there is none, and a broken rule is seen."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from programs import numbered

import moa
from moa.kernel import Kernel
from moa.numerics import Bound, contract, error_bound, errors
from moa.numerics.errors import Errors
from moa.numerics.facts import Facts
from moa.numerics.least import Least
from moa.numerics.posy import ONE, ZERO
from moa.ops import erf
from moa.oracle import bind, oracle
from moa.parse import parse
from moa.pipeline import derive

Array = np.ndarray[Any, Any]
Args = Mapping[str, Any]
LONG = np.longdouble
SIZES = {"n": 37, "m": 41, "d": 8, "dk": 8, "dv": 5, "c": 5, "b": 2, "h": 3, "g": 2, "r": 2}


def rows(s: Array) -> Array:
    """exp(s) over its sum along the last axis; rows of -inf are 0."""
    top = s.max(axis=-1, keepdims=True)
    e = np.where(np.isneginf(s), 0, np.exp(s - np.where(np.isneginf(top), 0, top)))
    total = e.sum(axis=-1, keepdims=True)
    return e / np.where(total == 0, 1, total)


def scores(a: Args) -> Array:
    return a["Q"] @ np.swapaxes(a["K"], -1, -2) / np.sqrt(LONG(a["Q"].shape[-1]))


def masked(a: Args, keep: Callable[[Array, Array], Array]) -> Array:
    i, j = np.indices((a["Q"].shape[-2], a["K"].shape[-2]))
    return rows(np.where(keep(i, j), scores(a), -np.inf)) @ a["V"]


def alibi(a: Args) -> Array:
    i, j = np.indices((a["Q"].shape[-2], a["K"].shape[-2]))
    return rows(scores(a) - a["slope"][:, None, None] * (i - j)) @ a["V"]


def gqa(a: Args) -> Array:
    return rows(a["Q"] @ np.swapaxes(a["K"][:, :, None], -1, -2) / np.sqrt(LONG(a["Q"].shape[-1]))) @ a["V"][:, :, None]


def logsum(s: Array) -> Array:
    top = s.max(axis=-1, keepdims=True)
    return top[..., 0] + np.log(np.exp(s - top).sum(axis=-1))


def linear(a: Args) -> Array:
    q, k = (np.where(x > 0, x + 1, np.exp(x)) for x in (a["Q"], a["K"]))
    p = np.tril(q @ k.T)
    return p @ a["V"] / (p.sum(axis=-1, keepdims=True) + LONG("1e-6"))


def norm(a: Args) -> Array:
    y = a["X"] - a["X"].mean(axis=-1, keepdims=True)
    return y / np.sqrt((y * y).mean(axis=-1, keepdims=True) + LONG("0.1"))


def rms(a: Args) -> Array:
    x = a["X"]
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + LONG("0.01")) * a["gain"]


@dataclass(frozen=True)
class Formula:
    """A program and the same in long double."""

    text: str
    exact: Callable[[Args], Array | tuple[Array, ...]]
    sizes: dict[str, int] = field(default_factory=dict)


QKV = "def f(Q[n, dk], K[m, dk], V[m, dv]):\n    "
SELF = "def f(Q[n, dk], K[n, dk], V[n, dv]):\n    i, j = iota(n)[:, None], iota(n)\n    "
FORMULAS = {
    "attention": Formula(QKV + "return softmax(Q @ K.T / sqrt(dk)) @ V", lambda a: rows(scores(a)) @ a["V"]),
    "long rows": Formula(
        QKV + "return softmax(Q @ K.T / sqrt(dk)) @ V", lambda a: rows(scores(a)) @ a["V"], {"n": 17, "m": 421}
    ),
    "causal": Formula(
        SELF + "return softmax(where(j <= i, Q @ K.T / sqrt(dk), -inf)) @ V",
        lambda a: masked(a, lambda i, j: j <= i),
    ),
    "window": Formula(
        SELF + "return softmax(where((j <= i) & (i - j < 5), Q @ K.T / sqrt(dk), -inf)) @ V",
        lambda a: masked(a, lambda i, j: (j <= i) & (i - j < 5)),
    ),
    "empty rows": Formula(
        SELF + "return softmax(where(j < i - 3, Q @ K.T / sqrt(dk), -inf)) @ V",
        lambda a: masked(a, lambda i, j: j < i - 3),
    ),
    "alibi": Formula(
        "def f(Q[b, h, n, dk], K[b, h, n, dk], V[b, h, n, dv], slope[h]):\n    i, j = iota(n)[:, None], iota(n)\n"
        "    return softmax(Q @ K.T / sqrt(dk) - slope[:, None, None] * (i - j)) @ V",
        alibi,
    ),
    "gqa": Formula(
        "def f(Q[b, g, r, n, dk], K[b, g, m, dk], V[b, g, m, dv]):\n"
        "    return softmax(Q @ K[:, :, None].T / sqrt(dk)) @ V[:, :, None]",
        gqa,
    ),
    "with_lse": Formula(
        QKV + "S = Q @ K.T / sqrt(dk)\n    return softmax(S) @ V, logsumexp(S)",
        lambda a: (rows(scores(a)) @ a["V"], logsum(scores(a))),
    ),
    "softcap": Formula(
        QKV + "return softmax(2 * tanh(Q @ K.T / sqrt(dk) / 2)) @ V",
        lambda a: rows(2 * np.tanh(scores(a) / 2)) @ a["V"],
    ),
    "linear": Formula(
        SELF + "A = where(j <= i, (elu(Q) + 1) @ (elu(K) + 1).T, 0)\n"
        "    return (A @ V) / (sum(A, axis=-1, keepdims=True) + 1e-6)",
        linear,
    ),
    "layer norm": Formula(
        "def f(X[n, d]):\n    y = X - mean(X, axis=-1, keepdims=True)\n"
        "    return y / sqrt(mean(y * y, axis=-1, keepdims=True) + 0.1)",
        norm,
    ),
    "rms norm": Formula(
        "def f(X[n, d], gain[d]):\n    return X / sqrt(mean(X * X, axis=-1, keepdims=True) + 0.01) * gain", rms
    ),
    "pooling": Formula(
        "def f(X[n, d], W[d]):\n    p = softmax(X @ W)\n    return sum(p[..., None] * X, axis=-2)",
        lambda a: rows(a["X"] @ a["W"]) @ a["X"],
    ),
    "matmul": Formula("def f(X[n, d], W[d, c]):\n    return X @ W", lambda a: a["X"] @ a["W"]),
    "rows": Formula("def f(X[n, m]):\n    return softmax(X)", lambda a: rows(a["X"])),
    "logsumexp": Formula("def f(X[n, m]):\n    return logsumexp(X)", lambda a: logsum(a["X"])),
    "sink": Formula(
        QKV + "s = Q @ K.T / sqrt(dk)\n    g = maximum(max(s, axis=-1, keepdims=True), 0)\n    e = exp(s - g)\n"
        "    return e / (sum(e, axis=-1, keepdims=True) + exp(-g)) @ V",
        lambda a: np.exp(scores(a)) / (np.exp(scores(a)).sum(axis=-1, keepdims=True) + 1) @ a["V"],
    ),
}


def arguments(k: Kernel, sizes: Mapping[str, int], scale: float = 1.0, low: float = -1.0) -> dict[str, Any]:
    rng = np.random.default_rng(7)
    shapes = {p.name: [bound_size(e, sizes) for e in p.shape] for p in k.derivation.program.inputs}
    return {name: (rng.uniform(low, 1, shape) * scale).astype(k.dtype) for name, shape in shapes.items()}


def bound_size(e: Any, sizes: Mapping[str, int]) -> int:
    return int(e.evaluate(lambda a: sizes[a.name]))


def largest(args: Args) -> dict[str, float]:
    return {k: float(np.max(np.abs(v), initial=0)) for k, v in args.items()}


def measured(k: Kernel, args: Args, exact: Callable[[Args], Any]) -> list[float]:
    """The largest error of each output against long double."""
    got = k(**args)
    want = exact({name: np.asarray(x, LONG) for name, x in args.items()})
    pairs = zip(*(x if isinstance(x, tuple) else (x,) for x in (got, want)), strict=True)
    return [float(np.max(np.abs(np.asarray(g, LONG) - w))) for g, w in pairs]


def bound_of(k: Kernel, sizes: Mapping[str, int], args: Args) -> Bound:
    """The bound of the system that ran is that of the streamed one."""
    return error_bound(k.derivation, sizes, largest(args), dtype=k.dtype)


@pytest.mark.skipif(np.finfo(LONG).nmant <= 52, reason="long double is no wider than float64 here")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FORMULAS)
def test_the_bound_holds_and_is_not_absurd(name: str, dtype: str) -> None:
    formula = FORMULAS[name]
    sizes = SIZES | formula.sizes
    k = moa.compile(formula.text, dtype=dtype)
    args = arguments(k, sizes)
    bounds = bound_of(k, sizes, args).outputs
    for b, error in zip(bounds, measured(k, args, formula.exact), strict=True):
        assert b.value is not None, b.reason
        assert error <= b.value <= 2000 * error, f"{name}: measured {error:.2e}, {b.value / error:.0f} times: {b}"


@pytest.mark.skipif(np.finfo(LONG).nmant <= 52, reason="long double is no wider than float64 here")
@pytest.mark.parametrize("scale", [30.0, 1e-3])
@pytest.mark.parametrize("name", [n for n in FORMULAS if n not in ("sink", "linear")])
def test_the_bound_holds_on_adversarial_data(name: str, scale: float) -> None:
    """Scores of thousands, where one term decides each row; and data so small that only roundings are left."""
    formula = FORMULAS[name]
    sizes = SIZES | formula.sizes
    k = moa.compile(formula.text, dtype="float32")
    args = arguments(k, sizes, scale)
    for b, error in zip(bound_of(k, sizes, args).outputs, measured(k, args, formula.exact), strict=True):
        assert b.value is not None and error <= b.value, f"{name}: measured {error:.2e}: {b}"


@pytest.mark.parametrize("seed", [2, 3, 5, 25, 40, 86, 103, 110])
def test_the_bound_holds_for_programs_nobody_wrote(seed: int) -> None:
    case = numbered(seed)
    given = case.arrays("plain")
    args = {k: v.astype(np.float32) if getattr(v, "dtype", None) == np.float64 else v for k, v in given.items()}
    k = moa.compile(case.text, dtype="float32")
    got = k(**args)
    d = derive(parse(case.text, "<random>"), len(case.lead))
    want = oracle(d.program, args)
    bounds = error_bound(d, bind(d.program, args), largest(args), dtype="float32").outputs
    for g, w, b in zip(got if isinstance(got, tuple) else (got,), want, bounds, strict=True):
        if b.value is None:
            assert b.reason
            continue
        finite = np.isfinite(w)
        error = np.max(np.abs(np.asarray(g, np.float64)[finite] - w[finite]), initial=0.0)
        assert error <= b.value, f"measured {error:.2e}: {b}\n{case}"


NO_BOUND = {
    "sum of either sign": ("def f(X[n, d], Y[n, d]):\n    return sum(X) / sum(Y)", "r1[i] has no lower bound"),
    "no eps": ("def f(X[n, d], Y[n, d]):\n    return X / sqrt(sum(Y * Y, axis=-1, keepdims=True))", "no lower bound"),
    "run-time number": ("def f(X[n, d], tau: float):\n    return X / tau", "tau has no lower bound"),
    "choice": ("def f(X[n, d], W[d, c]):\n    return where(X @ W > 0, 1, 0)", "r0[i, c] > 0 is made on rounded values"),
    "state": ("def f(X[n, d]):\n    return cumsum(X * X, axis=0)", "carries its rounding errors from step to step"),
}


@pytest.mark.parametrize("name", NO_BOUND)
def test_where_there_is_no_bound_the_reason_names_the_equation(name: str) -> None:
    text, reason = NO_BOUND[name]
    (b,) = error_bound(derive(parse(text, "f"), 0)).outputs
    assert b.formula is None and b.value is None
    assert reason in b.reason, b.reason


def formula_of(text: str) -> str:
    return str(error_bound(derive(parse(text, "f"), 0)).outputs[0].formula)


def test_the_lower_bound_of_a_normaliser_is_derived_and_not_recognised() -> None:
    prelude = formula_of(FORMULAS["attention"].text)
    body = "z = Q @ K.T / sqrt(dk)\n    e = exp(z - {top})\n    return e / sum(e, axis=-1, keepdims=True) @ V"
    assert formula_of(QKV + body.format(top="max(z, axis=-1, keepdims=True)")) == prelude
    assert "exp" not in prelude and "exp" not in formula_of(FORMULAS["sink"].text)
    inverse = "def f(z[n, m]):\n    return 1 / sum(exp(z - {top}), axis=-1)"
    assert "exp" not in formula_of(inverse.format(top="max(z, axis=-1, keepdims=True)"))
    assert "exp" in formula_of(inverse.format(top="max(z, axis=-1, keepdims=True) / 2"))  # no exponent need be 0


def test_an_average_is_bounded_by_its_largest_term_and_not_by_their_number() -> None:
    assert formula_of(FORMULAS["attention"].text) == (
        "max|V|*(4*dk*sqrt(dk)*max|K|*max|Q| + 24*sqrt(dk)*max|K|*max|Q| + 10.2*(ceil(m/96) - 1) + 2*min(m, 96) + 9.16)"
    )


@pytest.mark.parametrize("backend", ["llvm", "c"])
@pytest.mark.parametrize("n", [1, 5, 16, 70])
def test_a_long_sum_is_added_up_tile_by_tile(n: int, backend: str) -> None:
    """Equal terms are rounded to the same side: in one chain of 30,000 that is more than the bound has room for."""
    if backend == "c" and not (shutil.which("cc") or shutil.which("gcc")):
        pytest.skip("no C compiler")
    k = moa.compile("exp(X - max(X, keepdims=True)) @ Y", X="n m", Y="m c", dtype="float32", backend=backend)
    x, y = np.zeros((n, 30_000), np.float32), np.full((30_000, 3), 0.1, np.float32)
    (b,) = error_bound(k.derivation, {"n": n, "m": x.shape[1]}, {"X": 0.0, "Y": 0.1}, dtype="float32").outputs
    exact = x.shape[1] * float(y[0, 0])
    assert b.value is not None and b.value < 2e-4 * exact
    assert np.abs(k(x, y) - exact).max() <= b.value
    chain = np.cumsum(y[:, 0], dtype=np.float32)[-1]
    assert abs(float(chain) - exact) > b.value


def test_a_term_is_at_most_the_root_of_the_sum_of_squares() -> None:
    """No eps is needed: |x| <= sqrt(sum_j x_j^2)."""
    assert formula_of("def f(X[n, d]):\n    return X / sqrt(mean(X * X, axis=-1, keepdims=True))") == (
        "sqrt(d)*(0.5*d + 2.5)"
    )


def test_symbols_and_numbers_agree() -> None:
    d = derive(parse(FORMULAS["matmul"].text, "f"), 0)
    b = error_bound(d, {"n": 3, "d": 10, "c": 2}, {"X": 2.0, "W": 0.5}, dtype="float32")
    assert str(b) == "|out - exact| <= u*(d^2*max|W|*max|X|)\nu = 2^-24"
    assert b.values == (100 * 2.0**-24,)


# A broken rule ------------------------------------------------------------------------------------------------------

NARROW = "def f(X[n, d]):\n    return "
BROKEN: dict[str, tuple[Any, str, Any, str, Callable[[Args], Any]]] = {
    "rounding": (Errors, "rounding", lambda self, s, scope: ZERO, "X * X", lambda a: a["X"] * a["X"]),
    "product": (Errors, "unrounded_product", lambda self, s, scope: ZERO, "X ** 15", lambda a: a["X"] ** 15),
    "sum": (Errors, "_of_sum_error", lambda self, r: ZERO, "sum(X)", lambda a: a["X"].sum(axis=-1)),
    "exponent": (
        Errors,
        "_of_exp",
        lambda self, s, scope: self.size(s, scope).times(errors.EXP),
        "exp(X * X * 32)",
        lambda a: np.exp(a["X"] * a["X"] * 32),
    ),
    "exp": (errors, "EXP", 0.0, "exp(X)", lambda a: np.exp(a["X"])),
    "erf": (errors, "ERF", 0.0, "erf(X)", lambda a: erf(a["X"])),
    "tanh": (errors, "TANH", 0.0, "tanh(X)", lambda a: np.tanh(a["X"])),
    "log": (errors, "LOG", 0.01, "log(abs(X) + 7)", lambda a: np.log(np.abs(a["X"]) + 7)),
    "order": (Facts, "at_most", lambda self, a, b, scope: True, "exp(9 * X - (-X))", lambda a: np.exp(10 * a["X"])),
    "denominator": (
        Least,
        "least",
        lambda self, s, scope: ONE,
        "X / (abs(X - X ** 7) + 1e-3)",
        lambda a: a["X"] / (np.abs(a["X"] - a["X"] ** 7) + LONG("1e-3")),
    ),
}


@pytest.mark.skipif(np.finfo(LONG).nmant <= 52, reason="long double is no wider than float64 here")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, broken, text, exact = BROKEN[name]
    k = moa.compile(NARROW + text, dtype="float32")
    sizes = SIZES | {"n": 512, "d": 24}
    args = arguments(k, sizes, low=0.98)

    def holds() -> bool:
        (b,) = bound_of(k, sizes, args).outputs
        assert b.value is not None, b.reason
        return measured(k, args, exact)[0] <= b.value

    assert holds()
    monkeypatch.setattr(owner, attribute, broken)
    assert not holds()


# Contracts ----------------------------------------------------------------------------------------------------------


def test_contracts_are_worst_first_with_the_laws_that_bring_them() -> None:
    found = [str(c) for c in contract(derive(parse(FORMULAS["attention"].text, "f"), 0))]
    assert found == [
        "assumes finite: drop a guard",
        "approximates: exp within 0.92 ulp, exp2 within 1.54 ulp",
        "rescales: change of reference",
        "reassociates: defer, tiling",
        "exact: defer out of an extreme",
    ]


def test_contracts_of_other_formulas() -> None:
    def kinds(name: str) -> list[str]:
        return [c.contract for c in contract(derive(parse(FORMULAS[name].text, "f"), 0))]

    assert kinds("layer norm")[0] == "cancels"
    assert kinds("matmul") == ["reassociates"]
    (only,) = contract(derive(parse("def f(X[n]):\n    return maximum(X, 0)", "f"), 0))
    assert only.contract == "exact"
