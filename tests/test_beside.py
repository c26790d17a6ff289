"""Beside a scan: sums over its states are made in its loop, and no array of states is left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from formulas import agrees, expected, gap, inputs, kernel_of, of

import moa
from moa.forms import Form
from moa.laws.beside import Fused
from moa.laws.table import LAWS
from moa.normal import Recurrence
from moa.parse import parse
from moa.pipeline import Derivation, derive
from moa.tile import Strategy, parallel, tile

STEPS = """
def plain(S, x):
    k, v = x
    return S + k[..., None] * v[..., None, :]

def decayed(S, x):
    k, v, u = x
    return exp(-abs(u))[..., None] * S + k[..., None] * v[..., None, :]

def delta(S, x):
    k, v = x
    return S + k[..., None] * (v - sum(k[..., None] * S, axis=-2))[..., None, :]

def both(S, x):
    A, z = S
    k, v = x
    return A + k[..., None] * v[..., None, :], z + abs(k)
"""
HEAD = "Q[h, n, dk], K[h, n, dk], V[h, n, dv]"
READ = "sum(Q[..., None] * S, axis=-2)"
PROGRAMS = {
    "plain": (HEAD, f"S = scan(plain, (K, V), axis=1, init=0)\n    return {READ}"),
    "decayed": (f"{HEAD}, U[h, n, dk]", f"S = scan(decayed, (K, V, U), axis=1, init=0)\n    return {READ} / sqrt(dk)"),
    "delta": (HEAD, f"S = scan(delta, (0.1 * K, V), axis=1, init=0)\n    return {READ}"),
    "backwards": (HEAD, f"S = scan(delta, (0.1 * K, V), axis=1, init=0, reverse=True)\n    return {READ} * V"),
    "exclusive": (HEAD, f"S = scan(plain, (K, V), axis=1, init=1, exclusive=True)\n    return {READ} + V"),
    "past": (
        f"{HEAD}, P[h, dk, dv]",
        f"S = scan(delta, (0.1 * K, V), axis=1, init=P)\n    return {READ}, fold(delta, (0.1 * K, V), axis=1, init=P)",
    ),
    "exclusive, with the end": (
        HEAD,
        f"S = scan(plain, (K, V), axis=1, init=0, exclusive=True)\n"
        f"    return {READ}, 2 * fold(plain, (K, V), axis=1, init=0)",
    ),
    "end read by all": (
        HEAD,
        f"S = scan(plain, (K, V), axis=1, init=0)\n    E = fold(plain, (K, V), axis=1, init=0)\n"
        f"    return {READ} + sum(Q[..., None] * E[:, None], axis=-2)",
    ),
    "two states": (
        HEAD,
        "S, z = scan(both, (K, V), axis=1, init=(0, 0))\n"
        f"    return {READ} / (1 + abs(sum(Q * z, axis=-1, keepdims=True)))",
    ),
    "largest": (HEAD, "S = scan(plain, (K, V), axis=1, init=0)\n    return max(S, axis=-1), min(S, axis=2)"),
    "states are a result too": (HEAD, f"S = scan(plain, (K, V), axis=1, init=0)\n    return {READ}, S"),
    "groups": (
        "Q[h, r, n, dk], K[h, n, dk], V[h, n, dv]",
        "S = scan(plain, (K, V), axis=1, init=0)\n    return sum(Q[..., None] * S[:, None], axis=-2)",
    ),
    "projected": (
        "X[n, d], wq[h, d, dk], wk[h, d, dk], wv[h, d, dv]",
        "Q, K, V = X @ wq, X @ wk, X @ wv\n    S = scan(plain, (K, V), axis=1, init=0)\n    return " + READ,
    ),
    "one after the other": (
        HEAD,
        f"S = scan(plain, (K, V), axis=1, init=0)\n    y = {READ}\n    T = scan(plain, (K, y), axis=1, init=0)\n"
        "    return sum(Q[..., None] * T, axis=-2) + y",
    ),
}
STAYS = {
    "another position": (
        HEAD,
        f"S = scan(plain, (K, V), axis=1, init=0)\n    return {READ} + sum(Q[..., None] * S[:, ::-1], axis=-2)",
    ),
    "a sum over positions": (HEAD, f"S = scan(plain, (K, V), axis=1, init=0)\n    return {READ}, sum(S, axis=1)"),
}


def text_of(case: tuple[str, str]) -> str:
    head, body = case
    return f"{STEPS}\ndef f({head}):\n    {body}\n"


def derived(name: str) -> Derivation:
    return of(text_of(PROGRAMS[name]))


def states_kept(form: Form) -> list[Recurrence]:
    return [r for r in form.streamed.recurrences if r.keep]


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_array_of_states_is_left(name: str) -> None:
    d = derived(name)
    assert d.trace.fired("beside a scan")
    assert not states_kept(d.forms[0])
    arrays = tile(d.forms[0].streamed, Strategy(8, 16, 64)).arrays
    assert not [a.name for a in arrays if len(a.shape) == 4 and a.role == "workspace"]


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_form_is_the_oracle_interpreted(name: str) -> None:
    d = derived(name)
    for form in d.forms:
        assert agrees(d, form, (0, 1, 2, 5, 9)), form.name


@pytest.mark.parametrize(
    ("name", "backend"), [*((n, "llvm") for n in PROGRAMS), *((n, "c") for n in ("delta", "backwards", "past"))]
)
def test_the_kernel_is_the_oracle(name: str, backend: Any) -> None:
    d = derived(name)
    kernel = moa.compile(text_of(PROGRAMS[name]), backend=backend)
    for n in (0, 1, 2, 67):
        given = inputs(d, n)
        got = kernel(**given)
        assert gap(got if isinstance(got, tuple) else (got,), expected(d, given)) <= 1e-12, n


@pytest.mark.parametrize("name", ["delta", "backwards", "exclusive", "past", "two states"])
def test_what_is_not_a_number_stays_where_it_is(name: str) -> None:
    d = derived(name)
    for value in (np.nan, np.inf, -np.inf):
        given = inputs(d, 9)
        given["K"][1, 4, 2] = value
        got = kernel_of(text_of(PROGRAMS[name]), 0)(**given)
        want = expected(d, given)
        for g, w in zip(got if isinstance(got, tuple) else (got,), want, strict=True):
            assert np.array_equal(np.isnan(g), np.isnan(w)) and not np.isfinite(w).all()


@pytest.mark.parametrize("name", STAYS)
def test_states_that_are_needed_stay(name: str) -> None:
    d = of(text_of(STAYS[name]))
    assert [target for law, target, _ in d.trace.refused if law == "beside a scan"] == ["s0"]
    assert len(states_kept(d.forms[0])) == 1
    assert agrees(d, d.forms[0])


def test_heads_are_items_also_where_a_step_sums() -> None:
    (r,) = derived("delta").forms[0].streamed.recurrences
    assert [str(extent) for _, extent in parallel(r)] == ["h"]
    (r,) = of(text_of(STAYS["a sum over positions"])).forms[0].streamed.recurrences
    assert [str(extent) for _, extent in parallel(r)] == ["h", "dk", "dv"]


def test_a_step_is_derived() -> None:
    kernel = moa.compile(text_of(PROGRAMS["past"]))
    d = derived("past")
    given = inputs(d, 5)
    step = kernel.step()
    state = step.start(P=given["P"])
    for t in range(5):
        (y, last), state = step(state, *(given[k][:, t] for k in "QKV"))
    want, end = expected(d, given)
    assert gap((y, last), (want[:, 4], end)) <= 1e-12


def replaced(made: Fused, new: Recurrence) -> Fused:
    rs = tuple(new if r is made.recurrence else r for r in made.system.recurrences)
    return replace(made, system=replace(made.system, recurrences=rs), recurrence=new)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("exclusive", lambda r: replace(r, exclusive=False)),
        ("plain", lambda r: replace(r, exclusive=True)),
        ("past", lambda r: replace(r, components=tuple(replace(c, start=c.body) for c in r.components))),
        ("backwards", lambda r: replace(r, reverse=False)),
    ],
)
def test_a_broken_copy_is_caught(name: str, change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = LAWS["beside a scan"]

    def wrong(*args: Any) -> Fused:
        made = right.apply(*args)
        return replaced(made, change(made.recurrence))

    monkeypatch.setitem(LAWS.laws, "beside a scan", replace(right, apply=wrong))
    broken = derive(parse(text_of(PROGRAMS[name])), 0)
    with pytest.raises((AssertionError, KeyError)):
        assert agrees(broken, broken.forms[0], (5,))
