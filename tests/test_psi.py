"""Psi: each rule is seen to fire and keeps the oracle's value, a broken copy is caught; any order gives one form.

Programs of rules run at several sizes, with a run-time amount `w` that may be larger than an axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rules import PARAMETERS, RULES
from structural import structural

from moa import ir
from moa.canonical import canonical
from moa.check import check
from moa.interp.normal import run
from moa.oracle import bind, evaluate, oracle
from moa.parse import parse
from moa.poly import const
from moa.psi import PSI, Order, normalise
from moa.rewrite import Trace

SIZES = ({"n": 4, "m": 6, "d": 2, "r": 3}, {"n": 6, "m": 4, "d": 5, "r": 2}, {"n": 8, "m": 10, "d": 3, "r": 5})
AMOUNTS = (1, 3, 11)

PRODUCTS = tuple(f"X {f}•{g} Z" for f, g in product("+×⌈⌊", "+-×÷⌈⌊"))
NOT_FIRED = {"empty index", "shape"}


def case(expression: str) -> ir.Program:
    return check(parse(f"def f({PARAMETERS}):\n    return {expression}\n"), 0)


def arguments(program: ir.Program, sizes: dict[str, int], w: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    out: dict[str, Any] = {"w": w}
    for p in program.inputs:
        shape = tuple(evaluate(e, sizes) for e in p.shape)
        match p.kind:
            case "f":
                out[p.name] = rng.standard_normal(shape) if shape else 0.75
            case "b":
                out[p.name] = rng.random(shape) < 0.5
            case "i" if shape:
                out[p.name] = rng.integers(-3, 4, shape) if p.name == "k" else rng.integers(0, sizes["d"] - 1, shape)
    return out


def differs(program: ir.Program, args: dict[str, Any]) -> str:
    """The normal form of a program where it has other values than the oracle; nothing if it has the same."""
    want = oracle(program, args)
    normal = normalise(program, Trace())
    arrays = {p.name: args[p.name] for p in program.inputs if p.shape}
    scalars = {p.name: args[p.name] for p in program.inputs if not p.shape}
    found = run(normal, arrays, bind(program, args), scalars)
    for name, b in zip(normal.outputs, want, strict=True):
        a = np.asarray(found[name], np.float64)
        if a.shape != b.shape or not np.allclose(a, b.astype(np.float64), 1e-9, 1e-9, equal_nan=True):
            return str(normal)
    return ""


def wrong(expression: str) -> str:
    """Where the normal form differs from the oracle at some sizes and amount; nothing if it never does."""
    for sizes, w in zip(SIZES, AMOUNTS, strict=True):
        program = case(expression)
        found = differs(program, arguments(program, sizes, w))
        if found:
            return f"{expression} at {sizes}, w = {w}:\n{found}"
    return ""


@pytest.mark.parametrize(("rule", "expression"), [(r, e) for r, es in RULES.items() for e in es])
def test_a_rule_fires_and_keeps_the_value(rule: str, expression: str) -> None:
    trace = Trace()
    normalise(case(expression), trace)
    assert trace.fired(rule), trace.counts
    assert not wrong(expression)


@pytest.mark.parametrize("expression", PRODUCTS)
def test_inner_products_by_any_operators(expression: str) -> None:
    assert not wrong(expression)


def test_the_table() -> None:
    """Rows 1 to 23 are there; those that do not fire say where they are applied."""
    sources = " ".join(law.source for law in PSI.laws.values())
    for row in range(1, 24):
        assert f"MoA rule {row}" in sources
    assert {name for name, law in PSI.laws.items() if law.how} == NOT_FIRED
    assert set(PSI.laws) - NOT_FIRED == set(RULES)


# rule -> a wrong copy of it
MUTANTS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "psi": lambda f: lambda p, j: f(p, j * 0),
    "iota": lambda f: lambda p: f(p) + 1,
    "scalar operator": lambda f: lambda p, s: tuple(q[:-1] + (const(0),) * bool(q) for q in f(p, s)),
    "scalar operator on two": lambda f: lambda p, s: (*f(p, s)[:-1], tuple(x * 0 for x in p)),
    "scalar extension": lambda f: lambda p, s: tuple(tuple(x * 0 for x in q) for q in f(p, s)),
    "outer product": lambda f: lambda p, s: (f(p, s)[0], tuple(x * 0 for x in f(p, s)[1])),
    "omega on two": lambda f: lambda p, s: (f(p, s)[0], *(tuple(x * 0 for x in q) for q in f(p, s)[1:])),
    "take": lambda f: lambda p, n, u: p,
    "drop": lambda f: lambda p, n, u: p,
    "reverse": lambda f: lambda p, n: p,
    "stride": lambda f: lambda p, n, start, step: f(p, n, start, const(1)),
    "rotate": lambda f: lambda p, n, k: f(p, n, -k),
    "new axis": lambda f: lambda p: tuple(x * 0 for x in f(p)),
    "gather": lambda f: lambda p, rank, picked: f(p, rank, picked * 0),
    "cat": lambda f: lambda p, n: (f(p, n)[0], p, tuple(x * 0 for x in p)),
    "transpose": lambda f: lambda p: tuple(x * 0 for x in p),
    "permute": lambda f: lambda p, t: tuple(p[axis] for axis in t),  # the inverse: right for every involution
    "ravel": lambda f: lambda p, new, old: tuple(x * 0 for x in f(p, new, old)),
    "reshape": lambda f: lambda p, new, old: f((p[0] * 0, *p[1:]), new, old),
    "reduce": lambda f: lambda p, k: f(p, k * 0),
    "omega": lambda f: lambda axis, p, cell: (*(x * 0 for x in p[:axis]), *cell(p[axis:])),
    "scan": lambda f: lambda p, k: f(p, k * 0),
    "inner product": lambda f: lambda p, a, b, k: (f(p, a, b, k)[0], f(p, a, b, k * 0)[1]),
    "constant along runs": lambda f: lambda e, axis: (found[0], found[1] * 2) if (found := f(e, axis)) else None,
    "log of a count": lambda f: lambda p: f(p - 1),
    "assign": lambda f: lambda p: tuple(x * 0 for x in p),
}


@pytest.mark.parametrize("rule", MUTANTS)
def test_a_broken_copy_is_caught(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    law = PSI[rule]
    monkeypatch.setitem(PSI.laws, rule, replace(law, apply=MUTANTS[rule](law.apply)))

    def caught(expression: str) -> bool:
        try:
            return bool(wrong(expression))
        except (AssertionError, IndexError):
            return True  # a load out of bounds

    assert any(caught(e) for e in RULES[rule])


def test_every_rule_with_a_function_has_a_mutant() -> None:
    assert {name for name, law in PSI.laws.items() if law.apply is not None} == set(MUTANTS)


# Confluence ---------------------------------------------------------------------------------------------------------

ORDERS = tuple(Order(*flags) for flags in product((False, True), repeat=3))


def forms(text: str) -> set[str]:
    program = check(parse(text), 0)
    return {canonical(normalise(program, Trace(), order)) for order in ORDERS}


@settings(derandomize=True, deadline=None, database=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_order_gives_one_form(data: st.DataObject) -> None:
    case = structural(lambda options: data.draw(st.sampled_from(options)), 8)
    assert len(forms(case.text)) == 1
    program = check(parse(case.text), 0)
    assert not differs(program, case.arrays()), str(case)


def test_the_form_sees_a_difference() -> None:
    texts = [
        f"def f(X[n, m], Y[n, m]):\n    return {e}\n"
        for e in ("X + Y", "X - Y", "Y - X", "sum(X)", "sum(Y)", "X", "X[::-1]")
    ]
    assert len({f for t in texts for f in forms(t)}) == len(texts)


ALGEBRA = "X[n, m], Y[n, m], Z[m, d], A[p, m], B[n, m, d], E[12, m], v[n], w: int, c: float"
IDENTITIES = (
    ("transpose(transpose(B, [1, 2, 0]), [2, 0, 1])", "B"),
    ("⍉ (⍉ B)", "B"),
    ("transpose(transpose(B, [1, 2, 0]), [1, 2, 0])", "transpose(B, [2, 0, 1])"),
    ("take(drop(X, 2), 3)", "X[2:5]"),
    ("drop(take(X, 5), 2)", "X[2:5]"),
    ("drop(drop(X, 1), 2)", "drop(X, 3)"),
    ("take(X, -2)", "drop(X, n - 2)"),
    ("reverse(reverse(X))", "X"),
    ("reverse(X)[1:]", "reverse(X[:-1])"),
    ("X[::2][::2]", "X[::4]"),
    ("take(concat(X, A), n)", "X"),
    ("drop(concat(X, A), n)", "A"),
    ("concat(X, A)[n - 1:n + 1]", "concat(X[-1:], A[:1])"),
    ("concat(concat(X, A), Y)", "concat(X, concat(A, Y))"),
    ("reverse(concat(X, A))", "concat(reverse(A), reverse(X))"),
    ("concat(X, Y).T", "concat(X.T, Y.T, axis=1)"),
    ("reshape(reshape(B, [n * m * d]), [n * m, d])", "reshape(B, [n * m, d])"),
    ("reshape(reshape(B, [n * m, d]), [n, m, d])", "B"),
    ("reshape(reshape(X, [m, n]), [n, m])", "X"),
    ("reshape(reshape(E, [3, 4, m]), [6, 2 * m])", "reshape(E, [6, 2 * m])"),
    ("reshape(reshape(X, [n // 2, 2, m]), [n, m])", "X"),
    ("(X @ Z).T", "Z.T @ X.T"),
    ("sum(X[:, :, None] * Z, axis=1)", "X @ Z"),
    ("X +•× Z", "X @ Z"),
    ("rotate(rotate(X, 1), 2)", "rotate(X, 3)"),
    ("rotate(rotate(X, 2), -2)", "X"),
    ("rotate(rotate(X, w), 1)", "rotate(X, w + 1)"),
    ("rotate(X, n)", "X"),
    ("reverse(rotate(X, 1))", "rotate(reverse(X), -1)"),
    ("rotate(concat(X, A), n)", "concat(A, X)"),
    ("sum(X.T)", "sum(X, axis=0)"),
    ("where(X > c, X, Y)", "where(~(X > c), Y, X)"),
    ("X + Y", "Y + X"),
    ("where(c < X, X, Y)", "where(X > c, X, Y)"),
)


@pytest.mark.parametrize(("left", "right"), IDENTITIES)
def test_identities_of_the_calculus(left: str, right: str) -> None:
    both = [forms(f"def f({ALGEBRA}):\n    return {e}\n") for e in (left, right)]
    assert both[0] == both[1]
    assert len(both[0]) == 1


def test_a_domain_of_joined_arrays_is_that_of_the_mask() -> None:
    """Where a mask lets all of the first array through, the union over both is the mask alone; else it is both."""
    text = """def f(X[n, m], A[n, d]):
    i, j = iota(n)[:, None], iota(m + d)
    return sum(where({}, concat(A, X, axis=1), 0))
"""
    domains = []
    for mask in ("j <= i + d", "j <= i + d - 1", "j <= i", "j < d"):
        e = next(x for x in normalise(check(parse(text.format(mask)), 0), Trace()).equations if x.red)
        domains.append(str(e.domain))
    assert domains[0] == "d + i >= j"
    assert domains[1:] == ["d + i > j", "i >= j", "d > j"]
