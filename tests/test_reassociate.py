"""Reassociate: sums are exchanged where that saves work, every order has the same values, and the sizes choose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from formulas import LENGTHS, PROGRAMS, agrees, derived, expected, gap, inputs, kernel_of, of

import moa
from moa.forms import Form, chosen
from moa.laws.reassociate import Reassociated
from moa.laws.table import LAWS
from moa.normal import TRUE, apply, lit
from moa.parse import parse
from moa.pipeline import Derivation, derive
from moa.poly import size

EXCHANGED = ["linear", "causal linear", "padded linear", "performer", "retention", "strict retention", "gated"]
CHAINS = ["linear", "chain", "long chain", "projected"]


def form(d: Derivation, *opened: str) -> Form:
    """The form that was made by exactly these exchanges."""
    (found,) = [f for f in d.forms if tuple(x for x in f.name.split("; ") if x.startswith("open")) == opened]
    return found


@pytest.mark.parametrize("name", [*EXCHANGED, *CHAINS[1:]])
def test_fires(name: str) -> None:
    d = derived(name)
    assert d.forms[0].name == "as written" and d.forms[0].streamed is d.streamed
    steps = [s for s in d.trace.others if s.law == "reassociate"]
    assert steps and all(s.contract == "reassociates" for s in steps)
    assert any(why == "structure" and "is free of" in what for what, why in steps[0].conditions)
    assert any(s.law == "reassociate" for s in d.forms[1].steps)


@pytest.mark.parametrize("name", sorted({*EXCHANGED, *CHAINS}))
def test_every_form_is_the_oracle_interpreted(name: str) -> None:
    d = derived(name)
    for f in d.forms:
        assert agrees(d, f), f.name


@pytest.mark.parametrize("name", sorted({*EXCHANGED, *CHAINS}))
def test_every_form_is_the_oracle_compiled(name: str) -> None:
    d = derived(name)
    for k, f in enumerate(d.forms[1:], 1):
        kernel = kernel_of(PROGRAMS[name], k)
        for n in LENGTHS:
            given = inputs(d, n)
            got = kernel(**given)
            assert gap((got,), expected(d, given)) <= 1e-12, (f.name, n)


def test_a_sum_stays_one_factor() -> None:
    """elu(q) + 1 is opened nowhere: the new inner sum has elu(k) + 1 as it stands, and no form has more sums."""
    f = form(derived("linear"), "open r0 in r1, r2")
    text = [line for line in str(f.streamed).splitlines() if line.startswith("h")]
    assert text == ["h0[j0, c] = sum_{j < m} t0[j, j0] * V[j, c]", "h1[j0] = sum_{j < m} t0[j, j0]"]


def test_operations_are_linear_in_the_lengths() -> None:
    n, m, dk, dv = (size(x) for x in ("n", "m", "dk", "dv"))
    d = derived("linear")
    assert d.forms[0].flops == 2 * n * m * (dk + dv) + n * m + 3 * dk * (m + n) + dv * n + n
    assert d.forms[1].flops == 2 * (n + m) * dk * dv + 4 * dk * m + 5 * dk * n + dv * n + n
    causal = derived("causal linear").forms[1]
    assert causal.flops == 4 * dk * dv * n + 9 * dk * n + dv * n + n


def test_every_order_of_a_chain() -> None:
    n, k, m, d, r = (size(x) for x in ("n", "k", "m", "d", "r"))
    orders = {
        n * k * m + n * m * d + n * d * r,
        k * m * d + n * k * d + n * d * r,
        n * k * m + m * d * r + n * m * r,
        k * m * d + k * d * r + n * k * r,
        m * d * r + k * m * r + n * k * r,
    }
    found = derived("long chain").forms
    assert {f.flops for f in found} == {2 * p for p in orders}
    assert len(found) == len({f.name for f in found}) == 5


def test_sizes_choose() -> None:
    d = derived("chain")
    small, large = {"n": 4, "k": 500, "m": 400, "d": 300}, {"n": 4000, "k": 10, "m": 400, "d": 10}
    assert chosen(d.forms, small).name == "as written"
    assert chosen(d.forms, large).name == "open r0 in r1"
    causal = derived("causal linear").forms
    assert chosen(causal, {"n": 64, "dk": 64, "dv": 64}) is causal[0]
    rounds = next(f for f in causal if "round " in f.name)
    assert chosen(causal, {"n": 4096, "dk": 64, "dv": 64}) is rounds
    assert chosen([f for f in causal if f is not rounds], {"n": 4096, "dk": 64, "dv": 64}) is causal[1]
    assert chosen(causal, {"n": 4096, "dk": 64, "dv": 64}, threads=16) is causal[2]  # one sequence, many chunks
    wide = derived("retention").forms[1]
    assert str(wide.sequences) == "b*h"


def test_a_kernel_takes_the_form_of_its_sizes() -> None:
    kernel = moa.compile(PROGRAMS["linear"])
    d = derived("linear")
    for n in (1, 300):
        given = inputs(d, n)
        assert gap((kernel(**given),), expected(d, given)) <= 1e-12
    small = inputs(d, 300)
    wide = {**small, "V": small["V"][:, :1], "K": small["K"][:1], "Q": small["Q"]}
    wide["V"] = wide["V"][:1]
    assert gap((kernel(**wide),), expected(d, wide)) <= 1e-12
    assert len(kernel._variants) > 1


def test_a_projection_is_moved_to_the_keys() -> None:
    """(Q K^T) E = Q (K^T E): the scores of all keys are never computed where there are fewer projected ones."""
    d = derived("projected")
    sizes = {"n": 4096, "m": 4096, "dk": 64, "dv": 64, "r": 128}
    best = chosen(d.forms, sizes)
    assert best.name == "open r0 in r1"
    n, m, dk, dv, r = (size(x) for x in ("n", "m", "dk", "dv", "r"))
    assert best.flops == 2 * r * (dk * m + dk * n + dv * m + dv * n) + dv * n + 5 * n * r


# Broken copies -------------------------------------------------------------------------------------------------------


def lost_factor(made: Reassociated) -> Reassociated:
    """The new inner sum without a factor."""
    (c, s), *_ = made.inner.pieces
    return replace(made, inner=replace(made.inner, pieces=((c, s.args[0]),)))


def lost_coefficient(made: Reassociated) -> Reassociated:
    return replace(made, outer=replace(made.outer, pieces=((TRUE, apply("mul", lit(2), made.outer.body)),)))


def lost_domain(made: Reassociated) -> Reassociated:
    return replace(made, outer=replace(made.outer, domain=TRUE), inner=replace(made.inner, domain=TRUE))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lost_factor, PROGRAMS["chain"]),
        (lost_coefficient, PROGRAMS["chain"]),
        (lost_domain, "def f(A[n, k], B[m, k], V[m, d], p: bool[m]):\n    return where(p, A @ B.T, 0) @ V\n"),
    ],
)
def test_a_broken_copy_is_caught(
    change: Callable[[Reassociated], Reassociated], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = LAWS["reassociate"]
    d = of(text)
    assert len(d.forms) == 2 and agrees(d, d.forms[1])

    def wrong(*args: Any) -> Reassociated:
        return change(right.apply(*args))

    monkeypatch.setitem(LAWS.laws, "reassociate", replace(right, apply=wrong))
    broken = derive(parse(text), 0)
    assert not agrees(broken, broken.forms[1])


# Where it must not fire ----------------------------------------------------------------------------------------------

REFUSED = {
    "data says which pairs count": (
        "def f(A[n, k], B[m, k], V[m, d], p: bool[n, m]):\n    return where(p, A @ B.T, 0) @ V\n",
        "the domain p[i, j] does not only grow with i",
    ),
    "floats say which pairs count": (
        "def f(A[n, k], B[m, k], V[m, d], M[n, m]):\n    return where(M > 0, A @ B.T, 0) @ V\n",
        "no domain ties j to a row",
    ),
    "a window": (
        "def f(A[n, k], B[n, k], V[n, d], w: int):\n    i, j = iota(n)[:, None], iota(n)\n"
        "    return where((j <= i) & (i - j < w), A @ B.T, 0) @ V\n",
        "does not only grow with i",
    ),
    "the score is compared": (
        "def f(A[n, k], B[m, k], V[m, d]):\n    S = A @ B.T\n    return where(S > 0, S, 0) @ V\n",
        "is compared",
    ),
    "a maximum": (
        "def f(A[n, k], B[m, k], v[m]):\n    return max((A @ B.T) * v, axis=-1)\n",
        "does not distribute over max",
    ),
    "a bias by pair": (
        "def f(A[n, k], B[m, k], M[n, m], V[m, d]):\n    return ((A @ B.T) * M) @ V\n",
        "no domain ties j to a row",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason(name: str) -> None:
    text, reason = REFUSED[name]
    d = of(text)
    assert [f.name for f in d.forms] == ["as written"]
    assert any(law == "reassociate" and reason in why for law, _, why in d.trace.refused), d.trace.refused


def test_nothing_is_said_where_there_is_nothing_to_exchange() -> None:
    d = of("def f(Q[n, d], K[m, d], V[m, e]):\n    return softmax(Q @ K.T / sqrt(d)) @ V\n")
    assert [f.name for f in d.forms] == ["as written", "in parts, merged"]
    assert not d.trace.refused and {s.law for s in d.trace.others} == {"merge"}
