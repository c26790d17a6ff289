"""Parts: a traversal in parts of its axis, their states merged by what moves a state inside a part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from chain import MINIATURES, Chain, in_short, laws
from formulas import gap, kernel_of
from programs import Case, listed

from moa.forms import chosen
from moa.laws.parts import Parted
from moa.normal import lit
from moa.oracle import oracle
from moa.parse import parse
from moa.pipeline import Derivation, derive

SIZES = "Q[n, d] K[n, d] V[n, c]"
PROGRAMS = {
    "softmax": "return softmax(Q @ K.T / sqrt(d)) @ V",
    "causal": "return softmax(where(j <= i, Q @ K.T, -inf)) @ V",
    "window": "return softmax(where((j <= i) & (i - j < 3), Q @ K.T, -inf)) @ V",
    "two outputs": "S = Q @ K.T\n    return softmax(S) @ V, logsumexp(S)",
    "largest": "return max(softmax(Q @ K.T), axis=-1)",
    "no reference": "A = maximum(Q @ K.T, 0)\n    return (A @ V) / (sum(A, axis=-1, keepdims=True) + 1)",
    "around a mean": "S = Q @ K.T\n    return exp(S - mean(S, axis=-1, keepdims=True)) @ V",
}


def text_of(name: str) -> str:
    return f"def f(Q[n, d], K[n, d], V[n, c]):\n    i, j = iota(n)[:, None], iota(n)\n    {PROGRAMS[name]}\n"


def parted(d: Derivation) -> int:
    return next(k for k, f in enumerate(d.forms) if "parts" in f.name)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_kernel_in_parts_is_the_oracle(name: str) -> None:
    text = text_of(name)
    d = derive(parse(text), 0)
    kernel = kernel_of(text, parted(d))
    rng = np.random.default_rng(0)
    for n in (0, 1, 5, 512, 513, 1100):
        given = {p: rng.standard_normal((n, e)) for p, e in (("Q", 4), ("K", 4), ("V", 3))}
        got = kernel(**given)
        with np.errstate(all="ignore"):
            want = oracle(d.program, given)
        assert gap(got if isinstance(got, tuple) else (got,), want) <= 1e-11, n


@pytest.mark.parametrize("data", ["plain", "equal", "-inf rows", "-inf prefix", "nan", "huge"])
@pytest.mark.parametrize("n", [1, 3, 4, 5, 11])
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_stage_has_the_values(name: str, n: int, data: str) -> None:
    """Parts of 4 elements: parts that are masked as a whole, the last one short, one part alone."""
    if name == "around a mean" and data not in ("plain", "nan"):
        pytest.skip("the reference of the formula itself is not finite there")
    with laws(merge=in_short(4)):
        chain = Chain(Case(text_of(name), listed(SIZES), {"n": n, "d": 2, "c": 3}, data, seed=n), "f64")
    form = parted(chain.derivation)
    placed = chain.place(MINIATURES[n % len(MINIATURES)], {}, form)
    want, nan = chain.expected(), chain.normal()
    for got in (
        chain.normal(form, 2),
        chain.tiles(placed),
        chain.loops(placed),
        chain.llvm(placed, chain.built(placed)),
    ):
        assert not chain.differs(got, want, nan, form)


def test_few_rows_and_many_threads_choose_it() -> None:
    d = derive(parse(text_of("softmax")), 0)
    assert chosen(d.forms, {"n": 1, "d": 64, "c": 64}, 1) is d.forms[0]
    one = derive(parse("def f(q[d], K[m, d], V[m, c]):\n    return softmax(K @ q) @ V\n"), 0)
    assert "parts" in chosen(one.forms, {"m": 8192, "d": 64, "c": 64}, 8).name
    assert chosen(one.forms, {"m": 8192, "d": 64, "c": 64}, 1) is one.forms[0]


def test_states_of_several_components_are_refused_with_the_reason() -> None:
    text = "def f(X[n, m]):\n    y = X - mean(X, axis=-1, keepdims=True)\n    return mean(y * y, axis=-1)\n"
    d = derive(parse(text), 0)
    assert not any("parts" in f.name for f in d.forms)
    assert any(law == "merge" and "several components" in why for law, _, why in d.trace.refused)


def unmoved(made: Parted) -> Parted:
    def plain(b: Any) -> Any:
        return b.args[1] if b.op == "mul" else b

    members = tuple(
        replace(m, pieces=tuple((c, tuple(plain(b) for b in bs)) for c, bs in m.pieces)) for m in made.merged.members
    )
    return replace(made, merged=replace(made.merged, members=members))


def last_lost(made: Parted) -> Parted:
    axis, extent = made.merged.axis
    return replace(made, merged=replace(made.merged, axis=(axis, extent - 1)))


def nothing_read(made: Parted) -> Parted:
    members = tuple(replace(m, pieces=tuple((c, (lit(1),)) for c, _ in m.pieces)) for m in made.parts.members)
    return replace(made, parts=replace(made.parts, members=members))


@pytest.mark.parametrize("change", [unmoved, last_lost, nothing_read])
def test_a_broken_copy_is_caught(change: Callable[[Parted], Parted]) -> None:
    with laws(merge=lambda apply: lambda *args: change(apply(*args, length=4))):
        chain = Chain(Case(text_of("softmax"), listed(SIZES), {"n": 11, "d": 2, "c": 3}), "f64")
    form = parted(chain.derivation)
    assert chain.differs(chain.normal(form, 2), chain.expected(), chain.normal(), form)
