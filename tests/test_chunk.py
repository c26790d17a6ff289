"""Chunk: reductions over j <= i as states at the boundaries of chunks, and as they stand inside each chunk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from chain import MINIATURES, Chain, in_short, laws
from formulas import LENGTHS, PROGRAMS, agrees, derived, expected, gap, inputs, interpreted, kernel_of
from programs import Case, listed

from moa.laws.chunk import Chunked
from moa.normal import apply, lit
from moa.parse import parse
from moa.pipeline import Derivation, derive
from moa.poly import size

CHUNKED = ("causal linear", "padded linear", "performer", "retention", "strict retention", "gated")


def chunked(d: Derivation) -> int:
    """The number of the first form that goes by chunks."""
    return next(k for k, f in enumerate(d.forms) if "chunk" in f.name)


@pytest.mark.parametrize("name", CHUNKED)
def test_the_form_is_the_oracle(name: str) -> None:
    d = derived(name)
    assert agrees(d, d.forms[chunked(d)], (0, 1, 5, 64, 65, 130))
    kernel = kernel_of(PROGRAMS[name], chunked(d))
    for n in LENGTHS:
        given = inputs(d, n)
        assert gap((kernel(**given),), expected(d, given)) <= 1e-12, n


@pytest.mark.parametrize("name", CHUNKED)
def test_operations_are_linear_in_the_length(name: str) -> None:
    d = derived(name)
    form = d.forms[chunked(d)]
    n = next(a for a in size("n").atoms())
    assert max(monomial.count(n) for monomial, _ in form.flops.terms) == 1
    steps = [s for s in form.steps if s.law == "chunk"]
    assert steps and all(s in d.trace.others for s in steps)


def test_exponents_stay_differences_inside_a_chunk_and_between_boundaries() -> None:
    d = derived("retention")
    given = inputs(d, 300)
    given["g"] = np.asarray([-8.0, -3.0, 0.0])
    got = interpreted(d, d.forms[chunked(d)], given, 300)
    assert gap(got, expected(d, given)) <= 1e-12


def test_what_is_not_a_prefix_is_refused_with_its_reason() -> None:
    d = derived("linear")
    assert not any("chunk" in f.name for f in d.forms)
    assert any(law == "chunk" and "a row" in reason for law, _, reason in d.trace.refused)


@pytest.mark.parametrize("stage", ["tiles", "loops", "llvm"])
@pytest.mark.parametrize("n", [1, 3, 4, 5, 11])
@pytest.mark.parametrize("name", ["padded linear", "gated"])
def test_every_stage_stays_inside_the_arrays(name: str, n: int, stage: str) -> None:
    """Chunks of 4 rows, at lengths on both sides of it; the interpreters check every index."""
    params = {
        "padded linear": "Q[n, dk] K[n, dk] V[n, dv] keep:bool[n]",
        "gated": "Q[h, n, dk] K[h, n, dk] V[h, n, dv] g[h, n]",
    }
    with laws(chunk=in_short(4)):
        chain = Chain(Case(PROGRAMS[name], listed(params[name]), {"n": n, "dk": 2, "dv": 3, "h": 2}), "f64")
    form = chunked(chain.derivation)
    placed = chain.place(MINIATURES[n % len(MINIATURES)], {}, form)
    assert not chain.differs(chain.run(stage, placed), chain.expected(), chain.normal(), form)


def no_move(made: Chunked) -> Chunked:
    (c,) = made.states.components
    state = made.sums.name
    body = c.body.args[2] if c.body.op == "select" else c.body
    added = next(x for x in body.args if x.op == "load" and x.args[0] == state)
    other = next(x for x in body.args if x is not added)
    while other.op == "mul":
        other = other.args[1]
    return replace(made, states=replace(made.states, components=(replace(c, body=apply("add", other, added)),)))


def all_near(made: Chunked) -> Chunked:
    return replace(made, near=replace(made.near, domain=made.near.domain.args[-1]))


def nothing_far(made: Chunked) -> Chunked:
    return replace(made, far=replace(made.far, pieces=tuple((c, lit(0)) for c, _ in made.far.pieces)))


@pytest.mark.parametrize("change", [no_move, all_near, nothing_far])
def test_a_broken_copy_is_caught(change: Callable[[Chunked], Chunked]) -> None:
    with laws(chunk=lambda apply: lambda *args: change(apply(*args))):
        d = derive(parse(PROGRAMS["gated"]), 0)
    assert not agrees(d, d.forms[chunked(d)], (5, 130))
