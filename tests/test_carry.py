"""Carry: reductions over j <= i as states along their rows; what reads them is computed beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from formulas import LENGTHS, PROGRAMS, agrees, derived, expected, gap, inputs, interpreted, kernel_of, of

from moa.laws.carry import Carried
from moa.laws.table import LAWS
from moa.normal import Recurrence, apply, lit
from moa.parse import parse
from moa.pipeline import Derivation, derive
from moa.poly import size

CARRIED = {
    "causal linear": ("h0", "h1"),
    "padded linear": ("h0", "h1"),
    "performer": ("h0.0", "h1.0"),
    "exponential features": ("h0.0", "h1.0"),
    "prefix mean": ("r0", "r1"),
    "strict triangle": ("r0",),
    "triangles": ("r0", "r1"),
    "retention": ("h0",),
    "strict retention": ("h0",),
    "gated": ("h0",),
    "prefix softmax": ("r1.0", "r2", "r3.0"),
    "prefix maximum": ("r0",),
}


def carried(d: Derivation) -> int:
    """The number of the first form in which something is carried."""
    return next(k for k, f in enumerate(d.forms) if "carry" in f.name)


def recurrences(d: Derivation) -> tuple[Recurrence, ...]:
    return tuple(r for r in d.forms[carried(d)].streamed.recurrences if r.readers)


@pytest.mark.parametrize("name", CARRIED)
def test_fires(name: str) -> None:
    d = derived(name)
    steps = [s for s in d.forms[carried(d)].steps if s.law == "carry"]
    assert all(s in d.trace.others for s in steps)
    assert tuple(s.target for s in steps) == CARRIED[name]
    assert all(any("only grows with" in what for what, _ in s.conditions) for s in steps)
    moved = name in ("retention", "strict retention", "gated", "prefix softmax")
    assert {s.contract for s in steps} == ({"rescales"} if moved else {"reassociates"})


@pytest.mark.parametrize("name", CARRIED)
def test_the_form_is_the_oracle_interpreted(name: str) -> None:
    d = derived(name)
    assert agrees(d, d.forms[carried(d)])


@pytest.mark.parametrize("name", CARRIED)
def test_the_form_is_the_oracle_compiled(name: str) -> None:
    d = derived(name)
    kernel = kernel_of(PROGRAMS[name], carried(d))
    for n in LENGTHS:
        given = inputs(d, n)
        assert gap((kernel(**given),), expected(d, given)) <= 1e-12, n


@pytest.mark.parametrize("name", CARRIED)
def test_operations_are_linear_in_the_length(name: str) -> None:
    """No n * n in the form that is carried, and nothing that it keeps has two lengths or a state for every row."""
    d = derived(name)
    form = d.forms[carried(d)]
    n = next(a for a in size("n").atoms())
    assert max(monomial.count(n) for monomial, _ in form.flops.terms) == 1
    assert max(monomial.count(n) for monomial, _ in d.forms[0].flops.terms) == 2
    kept = [e for r in recurrences(d) for e in r.readers]
    assert {e.name for e in kept} <= {"out", *({"r0"} if name == "triangles" else ())}
    assert all(not r.keep for r in recurrences(d))


def test_polynomials() -> None:
    n, dk, dv, b, h = (size(x) for x in ("n", "dk", "dv", "b", "h"))
    assert derived("retention").forms[1].flops == 5 * b * h * dk * dv * n + b * h * dv * n + h
    assert derived("prefix softmax").forms[1].flops == 2 * dk * h * n + 4 * dv * h * n + 12 * h * n
    assert derived("prefix mean").forms[1].flops == 2 * n * size("d")


def test_one_recurrence_reads_what_two_states_share() -> None:
    (r,) = recurrences(derived("causal linear"))
    assert [str(c.body) for c in r.components] == ["h0#0[j0, c] + t0[i, j0] * V[i, c]", "h1#0[j0] + t0[i, j0]"]
    assert [str(e) for e in r.readers] == ["out[i, c] = r1[i, c] / t2[i]"]


def test_a_running_maximum_is_the_reference() -> None:
    (r,) = recurrences(derived("prefix softmax"))
    assert [c.name for c in r.components] == list(CARRIED["prefix softmax"])
    moves = [e for e in r.maps if e.body.op == "exp"]
    assert any("(maximum(r1.0#0[i], lowest / 2) - maximum(t0[c, i], lowest / 2))" in str(e) for e in moves)


def test_exponents_stay_differences() -> None:
    """exp((i - j) g) is moved by exp(g), never as exp(i g) * exp(-j g), which would overflow here."""
    d = derived("retention")
    given = inputs(d, 300)
    given["g"] = np.asarray([-8.0, -3.0, 0.0])
    for form in d.forms:
        got = interpreted(d, form, given, 300)
        assert np.isfinite(got[0]).all()
        assert gap(got, expected(d, given)) <= 1e-12


def test_infinite_scores() -> None:
    """A prefix of -inf alone yields what the program says, and scores that grow move the reference in every row."""
    d = derived("prefix softmax")
    given = inputs(d, 17)
    given["K"] = given["K"] * 0
    given["K"][..., 0] = np.arange(17) * 200
    given["q"] = np.abs(given["q"]) + 1
    for form in d.forms:
        assert gap(interpreted(d, form, given, 17), expected(d, given)) <= 1e-12
    text = """
def masked(s[n], V[n, dv], keep: bool[n]):
    i, j = iota(n)[:, None], iota(n)
    return softmax(where((j <= i) & keep, s, -inf)) @ V
"""
    d = of(text)
    given = inputs(d, 17)
    given["keep"] = np.arange(17) > 4
    form = d.forms[carried(d)]
    assert gap(interpreted(d, form, given, 17), expected(d, given)) <= 1e-12
    assert gap((kernel_of(text, carried(d))(**given),), expected(d, given)) <= 1e-12


def test_leading_axes_run_at_once() -> None:
    text = PROGRAMS["causal linear"].replace("[n, d", "[..., n, d")
    d = derive(parse(text), 2)
    form = d.forms[carried(d)]
    assert len(form.sequences.terms) == 1 and len(form.sequences.atoms()) == 2
    kernel = kernel_of(text, carried(d), ranks=2)
    rng = np.random.default_rng(0)
    given = {k: rng.standard_normal((2, 3, 65, e)) for k, e in (("Q", 5), ("K", 5), ("V", 6))}
    for threads in (1, 2):
        assert gap((kernel(**given, threads=threads),), expected(d, given)) <= 1e-12


def test_more_rows_than_elements() -> None:
    text = "def f(X[m, d], y[n]):\n    return where(iota(m) <= iota(n)[:, None], 1, 0) @ X * y[:, None]\n"
    d = of(text)
    for n in (3, 40):
        given = inputs(d, n)
        assert gap(interpreted(d, d.forms[carried(d)], given, n), expected(d, given)) <= 1e-12
        assert gap((kernel_of(text, carried(d))(**given),), expected(d, given)) <= 1e-12


# Broken copies -------------------------------------------------------------------------------------------------------


def not_moved(made: Carried) -> Carried:
    """States that are added to without being moved."""

    def still(c: Any) -> Any:
        state = next(x for x in (c.body.args[0], c.body) if x.op in ("mul", "load", "max"))
        return replace(c, body=apply("add", state.args[1], c.body.args[1])) if state.op == "mul" else c

    return replace(made, components=tuple(map(still, made.components)))


def not_strict(made: Carried) -> Carried:
    return replace(made, prefix=replace(made.prefix, strict=not made.prefix.strict))


def wrong_start(made: Carried) -> Carried:
    return replace(made, components=tuple(replace(c, start=lit(1)) for c in made.components))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (not_moved, "retention"),
        (not_moved, "prefix softmax"),
        (not_strict, "strict triangle"),
        (not_strict, "causal linear"),
        (wrong_start, "prefix mean"),
        (wrong_start, "prefix maximum"),
    ],
)
def test_a_broken_copy_is_caught(
    change: Callable[[Carried], Carried], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = LAWS["carry"]
    monkeypatch.setitem(LAWS.laws, "carry", replace(right, apply=lambda *args: change(right.apply(*args))))
    broken = derive(parse(PROGRAMS[name]), 0)
    assert not agrees(broken, broken.forms[carried(broken)])


# Where it must not fire ----------------------------------------------------------------------------------------------

WINDOW = "i, j = iota(n)[:, None], iota(n)\n    return "
REFUSED = {
    "a window": (
        f"def f(X[n, d], w: int):\n    {WINDOW}where((j <= i) & (j > i - w), 1, 0) @ X\n",
        "does not only grow",
    ),
    "a suffix": (f"def f(X[n, d]):\n    {WINDOW}where(j >= i, 1, 0) @ X\n", "does not only grow"),
    "several at once": (f"def f(X[n, d]):\n    {WINDOW}where(j <= 2 * i, 1, 0) @ X\n", "does not only grow"),
    "a growth of unknown sign": (
        "def f(Q[n, k], K[n, k], V[n, d], g[n]):\n    i, j = iota(n)[:, None], iota(n)\n    c = cumsum(g)\n"
        "    return (Q @ K.T * where(j <= i, exp(c[:, None] - c), 0)) @ V\n",
        "is not proved to be at most 0",
    ),
    "not a difference": (
        "def f(Q[n, k], K[n, k], V[n, d], g: float):\n    i, j = iota(n)[:, None], iota(n)\n"
        "    return (Q @ K.T * where(j <= i, exp((i - 2 * j) * g), 0)) @ V\n",
        "is not a difference",
    ),
    "a weight that is no exponential": (
        "def f(Q[n, k], K[n, k], V[n, d]):\n    i, j = iota(n)[:, None], iota(n)\n"
        "    return (Q @ K.T * where(j <= i, 1 / (1.0 + i - j), 0)) @ V\n",
        "depends on i",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason(name: str) -> None:
    text, reason = REFUSED[name]
    d = of(text)
    first, *others = (f.name for f in d.forms)
    assert first == "as written" and all("side by side" in x for x in others)  # running sums that it has itself
    assert any(reason in why for _, _, why in d.trace.refused), d.trace.refused


def test_scores_of_rows_are_not_carried() -> None:
    d = of(
        "def f(Q[n, d], K[n, d], V[n, e]):\n    i, j = iota(n)[:, None], iota(n)\n"
        "    return softmax(where(j <= i, Q @ K.T / sqrt(d), -inf)) @ V\n"
    )
    assert [f.name for f in d.forms] == ["as written", "in parts, merged"]
    assert {s.law for s in d.trace.others} == {"merge"}
