"""Recurrences with affine steps in chunks that run side by side: every stage, hard values, refusals, and the choice."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from chain import MINIATURES, Chain, in_short, laws
from programs import Case, listed

import moa
from moa.forms import chosen
from moa.laws.affine import affine
from moa.normal import lit
from moa.parse import parse
from moa.pipeline import derive

HAS_CC = any(shutil.which(c) for c in ("cc", "gcc", "clang"))
READ = "    return sum(Q[:, :, None] * S, axis=1)"
PROGRAMS = {
    "linear": (
        "def step(S, x):\n    k, v = x\n    return S + k[:, None] * v\n"
        f"def f(Q[n, d], K[n, d], V[n, c]):\n    S = scan(step, (K, V), axis=0, init=zeros(d, c))\n{READ}",
        "Q[n, d] K[n, d] V[n, c]",
    ),
    "gated, past and last": (
        "def step(S, x):\n    k, v, g = x\n    return exp(g)[:, None] * S + k[:, None] * v\n"
        "def f(Q[n, d], K[n, d], V[n, c], G[n, d], past[d, c]):\n"
        "    S = scan(step, (K, V, G), axis=0, init=past)\n"
        f"{READ}, fold(step, (K, V, G), axis=0, init=past)",
        "Q[n, d] K[n, d] V[n, c] G[n, d] past[d, c]",
    ),
    "before, heads": (
        "def step(S, x):\n    k, v, g = x\n    return (S - k[:, :, None] * v[:, None]) / (1 + g * g)[:, None, None]\n"
        "def f(Q[h, n, d], K[h, n, d], V[h, n, c], g[h, n]):\n"
        "    S = scan(step, (K, V, g), axis=1, init=zeros(h, d, c), exclusive=True)\n"
        "    return sum(Q[:, :, :, None] * S, axis=2)",
        "Q[h, n, d] K[h, n, d] V[h, n, c] g[h, n]",
    ),
    "backwards, past and last": (
        "def step(S, x):\n    k, v, g = x\n    return exp(g)[:, None] * S + k[:, None] * v\n"
        "def f(Q[n, d], K[n, d], V[n, c], G[n, d], past[d, c]):\n"
        "    S = scan(step, (K, V, G), axis=0, init=past, reverse=True)\n"
        f"{READ}, fold(step, (K, V, G), axis=0, init=past, reverse=True)",
        "Q[n, d] K[n, d] V[n, c] G[n, d] past[d, c]",
    ),
    "backwards, before": (
        "def step(S, x):\n    k, v = x\n    return 0.5 * S + k[:, None] * v\n"
        "def f(Q[n, d], K[n, d], V[n, c]):\n"
        f"    S = scan(step, (K, V), axis=0, init=ones(d, c), reverse=True, exclusive=True)\n{READ}",
        "Q[n, d] K[n, d] V[n, c]",
    ),
    "running sums": ("def f(X[n, d]):\n    return cumsum(X, axis=0)", "X[n, d]"),
    "running sums of rows, from the end, before": (
        "def plus(p, q):\n    return p + q\n"
        "def f(X[n, d]):\n    return scan(plus, X, axis=1, identity=0, reverse=True, exclusive=True)",
        "X[n, d]",
    ),
    "forgets where it is told to": (
        "def step(S, x):\n    k, v, keep = x\n    return where(keep, 0.5 * S, -S) + k[:, None] * v\n"
        "def f(Q[n, d], K[n, d], V[n, c], keep: bool[n]):\n"
        f"    S = scan(step, (K, V, keep), axis=0, init=zeros(d, c))\n{READ}",
        "Q[n, d] K[n, d] V[n, c] keep:bool[n]",
    ),
}  # fmt: skip


def in_parts(case: Case, dtype: str = "f64", length: int = 4) -> tuple[Chain, int]:
    """A case with chunks of so many steps, and the number of its form that has them."""
    with laws(affine=in_short(length)):
        chain = Chain(case, dtype)  # type: ignore[arg-type]
        form = next(k for k, f in enumerate(chain.derivation.forms) if "side by side" in f.name)
        return chain, form


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 11])
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_stage(name: str, n: int) -> None:
    """Chunks of 4 steps, at lengths on both sides of it; the interpreters check every index."""
    text, params = PROGRAMS[name]
    chain, form = in_parts(Case(text, listed(params), {"n": n, "d": 3, "c": 2, "h": 2}))
    for k, strategy in enumerate(MINIATURES):
        placed = chain.place(strategy, {}, form)
        results = {"tiles": chain.tiles(placed), "loops": chain.loops(placed)}
        if k == n % len(MINIATURES):
            results["llvm"] = chain.llvm(placed, chain.built(placed), 2)
        for stage, got in results.items():
            assert not chain.differs(got, chain.expected(), chain.normal(), form), (strategy, stage)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_wrong_product_is_seen(name: str) -> None:
    """The factors left out of the product that a state is moved by; where all are 1 there is none to leave out."""

    def wrong(apply: Any) -> Any:
        def made(*args: Any) -> Any:
            found = apply(*args, length=4)
            ends = tuple(replace(c, body=lit(1)) if c.start is lit(1) else c for c in found.ends.components)
            return replace(found, ends=replace(found.ends, components=ends))

        return made

    text, params = PROGRAMS[name]
    with laws(affine=wrong):
        chain = Chain(Case(text, listed(params), {"n": 11, "d": 3, "c": 2, "h": 2}), "f64")
        form = next(k for k, f in enumerate(chain.derivation.forms) if "side by side" in f.name)
        placed = chain.place(MINIATURES[0], {}, form)
        bad = chain.differs(chain.tiles(placed), chain.expected(), chain.normal(), form)
    assert bool(bad) == (name != "linear" and "sums" not in name)  # where all factors are 1 there is none


def gated(**more: Any) -> Mapping[str, Any]:
    rng = np.random.default_rng(0)
    n, d, c = 300, 5, 9
    given = {k: rng.standard_normal((n, w)) for k, w in (("Q", d), ("K", d), ("V", c))}
    return {**given, "G": -rng.random((n, d)), "past": rng.standard_normal((d, c)), **more}


HARD = {
    "ordinary": {},
    "all is forgotten": {"G": np.full((300, 5), -np.inf)},
    "products underflow": {"G": np.full((300, 5), -50.0)},
    "products overflow where there is no state": {"G": np.full((300, 5), 12.0), "past": np.zeros((5, 9)),
                                                  "K": np.where(np.arange(300)[:, None] < 299, 0, 1.0) * np.ones(5)},
    "huge values": {"V": np.full((300, 9), 1e150)},
}  # fmt: skip


@pytest.mark.parametrize("backend", ["llvm", pytest.param("c", marks=pytest.mark.skipif(not HAS_CC, reason="no cc"))])
@pytest.mark.parametrize("case", HARD)
def test_many_threads_take_it(case: str, backend: str) -> None:
    """One sequence for 16 threads: chunks of 64 steps run side by side, with the values of a single thread."""
    kernel = moa.compile(PROGRAMS["gated, past and last"][0], backend=backend)
    given = gated(**HARD[case])
    alone, many = kernel(**given, threads=1), kernel(**given, threads=16)
    forms = [v.form for v in kernel._variants.values()]
    assert forms[0] == "as written" and "side by side" in forms[1]
    for x, y in zip(alone, many, strict=True):
        np.testing.assert_allclose(y, x, rtol=1e-11, atol=1e-11 * max(1.0, float(np.abs(x).max())))


def test_the_choice() -> None:
    """Twice the work pays where there are more threads than sequences, and not where each has one of its own."""
    forms = derive(parse(PROGRAMS["before, heads"][0], "f"), 0).forms
    sizes = {"n": 4096, "d": 64, "c": 64, "h": 1}

    def name(**more: int) -> str:
        threads = more.pop("threads")
        return chosen(forms, sizes | more, threads).name

    assert "side by side" in name(threads=16) and "side by side" in name(threads=132, h=8)
    assert name(threads=1) == name(threads=2, h=2) == name(threads=16, h=16) == "as written"
    assert name(threads=16, n=32) == "as written"  # all steps are in one chunk


def test_running_sums_of_few_sequences() -> None:
    """The work is three times as much, and each array is written twice: many threads gain by it, two do not."""
    forms = derive(parse("def f(X[n, d]):\n    return cumsum(X, axis=0)"), 0).forms
    names = [chosen(forms, {"n": 1 << 20, "d": 1}, threads).name for threads in (1, 2, 16)]
    assert names[:2] == ["as written"] * 2 and "side by side" in names[2]
    assert chosen(forms, {"n": 1 << 12, "d": 256}, 16).name == "as written"
    X = np.random.default_rng(1).standard_normal((1000, 1))
    kernel = moa.compile("cumsum(X, axis=0)", X="n d")
    np.testing.assert_allclose(kernel(X, threads=32), np.cumsum(X, axis=0), rtol=1e-12, atol=1e-12)
    assert "side by side" in next(v.form for v in kernel._variants.values())


STATES = "    S = scan(step, (K, V), axis=0, init=zeros(d, c){})\n"
REFUSED = {
    "a step that sums over its state": ("S + k[:, None] * (v - sum(k[:, None] * S, axis=0))", "", "no factor times"),
    "a product of states": ("S * S + k[:, None] * v", "", "no factor times"),
    "a function of the state": ("tanh(S) + k[:, None] * v", "", "no factor times"),
    "a state in the divisor": ("1 / (S + 2) + k[:, None] * v", "", "no factor times"),
    "a choice by the state": ("where(S > 0, S, 0) + k[:, None] * v", "", "no factor times"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    body, more, reason = REFUSED[name]
    text = f"def step(S, x):\n    k, v = x\n    return {body}\n"
    text += f"def f(Q[n, d], K[n, d], V[n, c]):\n{STATES.format(more)}{READ}"
    d = derive(parse(text, "f"), 0)
    assert not any("side by side" in f.name for f in d.forms)
    assert any(law == "affine" and reason in why for law, _, why in d.trace.refused), d.trace.refused


def test_verify_looks_at_it() -> None:
    found = moa.compile(PROGRAMS["gated, past and last"][0], dtype="float64").verify()
    assert found.ok and "side by side" in str(found)


def test_the_law_itself() -> None:
    """Neither the parts nor the chunks read what they do not have: names are fresh and states their own."""
    d = derive(parse(PROGRAMS["gated, past and last"][0], "f"), 0)
    (r,) = d.forms[0].streamed.recurrences
    names = iter(f"x{k}" for k in range(99))
    found = affine(r, lambda root: next(names))
    made = [c.name for x in (found.ends, *found.states, found.chunks) for c in x.components]
    assert len(set(made)) == len(made) and "s1" in made
    assert found.chunks.axis[1].as_int() == 64 and [e.name for e in found.equations] == [e.name for e in r.readers]
