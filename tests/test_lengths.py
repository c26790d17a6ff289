"""Lengths of chunks: every one computes the same on every backend, and the one of least predicted time is taken."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from chain import Chain, in_short, laws
from cuda_on_cpu import SCHEDULES, STRATEGIES, device_for, text_of
from formulas import PROGRAMS, agrees, derived, expected, gap
from programs import Case, listed

import moa
from moa.cost import cost
from moa.explain import last
from moa.forms import LENGTHS, Form, chosen, in_lengths
from moa.given import made
from moa.machine import Machine, machine_of
from moa.measure import simulate
from moa.measure.inputs import arguments
from moa.pipeline import Derivation

ZEN = machine_of("zen4-server")
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
HAS_CC = any(shutil.which(c) for c in ("cc", "gcc", "clang"))
GATED = """def step(S, x):
    k, v, g = x
    return exp(g)[:, None] * S + k[:, None] * v
def f(Q[n, d], K[n, d], V[n, c], g[n, d]):
    return sum(Q[:, :, None] * scan(step, (K, V, g), axis=0, init=zeros(d, c)), axis=1)"""
TEXTS = {
    "chunk": (PROGRAMS["causal linear"], "Q[n, dk] K[n, dk] V[n, dv]"),
    "side by side": (GATED, "Q[n, d] K[n, d] V[n, c] g[n, d]"),
}


def by_lengths(d: Derivation, word: str) -> dict[int, Form]:
    """The forms in chunks, by how long these are."""
    return {int(f.name.rsplit(" ", 1)[1]): f for f in in_lengths(d.forms) if f"{word}" in f.name and " by " in f.name}


@pytest.mark.parametrize("name", ["causal linear", "retention", "gated"])
def test_every_length_is_the_oracle(name: str) -> None:
    """At no rows, one, on both sides of a chunk's end, and several chunks with a tail."""
    d = derived(name)
    found = by_lengths(d, "chunk")
    assert tuple(sorted(found)) == LENGTHS
    for length, form in found.items():
        assert agrees(d, form, (0, 1, length - 1, length, length + 1, 2 * length + 3)), length


def with_form(text: str, form: Form, backend: str) -> moa.Kernel:
    kernel = moa.compile(text, backend=backend)
    kernel._derivations[0] = replace(kernel.derivation, forms=(replace(form, by_length=None),))
    kernel._fronts.pop(0, None)
    return kernel


@pytest.mark.parametrize("backend", ["llvm", pytest.param("c", marks=pytest.mark.skipif(not HAS_CC, reason="no cc"))])
@pytest.mark.parametrize("word", TEXTS)
def test_the_shortest_and_the_longest_run(word: str, backend: str) -> None:
    """Compiled, with two threads, at several chunks with a tail."""
    text, _ = TEXTS[word]
    found = by_lengths(moa.compile(text).derivation, word)
    rng = np.random.default_rng(0)
    for length in (LENGTHS[0], LENGTHS[-1]):
        kernel = moa.compile(text, backend=backend)
        d = kernel.derivation
        kernel._derivations[0] = replace(d, forms=(replace(found[length], by_length=None),))
        kernel._fronts.pop(0, None)
        n = 2 * length + 3
        given = {p.name: rng.standard_normal((n, 3)) for p in d.program.inputs}
        if "g" in given:
            given["g"] = -np.abs(given["g"])
        assert gap((kernel(**given, threads=2),), expected(d, given)) <= 1e-12, length
        assert next(iter(kernel._variants.values())).form == found[length].name


@pytest.mark.parametrize("word", TEXTS)
def test_on_a_gpu(word: str, tmp_path: Path) -> None:
    """Chunks longer than the rows of a block and than a round."""
    text, params = TEXTS[word]
    with laws(chunk=in_short(40), affine=in_short(40)):
        chain = Chain(Case(text, listed(params), {"n": 50, "d": 4, "c": 3, "dk": 4, "dv": 3}), "f32")
        form = next(k for k, f in enumerate(chain.derivation.forms) if word in f.name)
        placed = chain.place(STRATEGIES[0], {}, form)
    got = device_for(text_of({"long": placed}), tmp_path).run("long", chain, placed, SCHEDULES[0])
    assert not chain.differs(got, chain.expected(), chain.normal(), form)


# the choice ----------------------------------------------------------------------------------------------------------

MANY, FEW = {"n": 20000, "dk": 32, "dv": 32}, {"n": 900, "dk": 32, "dv": 32}


def with_memory(bytes_per_s: float) -> Machine:
    """A machine with caches of some KiB, on which states that are carried cost much."""
    l1, l2, _, dram = ZEN.levels
    levels = replace(l1, capacity_bytes=32 << 10), replace(l2, capacity_bytes=256 << 10), dram
    levels = (*levels[:2], replace(dram, bytes_per_s=bytes_per_s))
    return replace(ZEN, levels=levels, operations=(("step", 100.0), ("round", 100.0)))


@pytest.mark.parametrize(("bytes_per_s", "length"), [(1e12, 32), (12e9, 64), (4e9, 128), (1e9, 256)])
def test_the_slower_the_memory_the_longer_the_chunks(bytes_per_s: float, length: int) -> None:
    """States of short chunks are many: where memory is slow there are fewer. What is marked is what runs."""
    machine = with_memory(bytes_per_s)
    k = made(str(EXAMPLES / "linear.moa"), None, "float32")
    chunks = {int(f.name.rsplit(" ", 1)[1]): f for f in k._front(0).forms if "chunk" in f.name}
    assert tuple(sorted(chunks)) == LENGTHS and k.form_at(MANY, machine=machine) == chunks[length].name
    waits = [dict(chunks[n].times_s(MANY, 1, machine)) for n in LENGTHS]
    assert [w["DRAM"] for w in waits] == sorted((w["DRAM"] for w in waits), reverse=True)
    assert [w["flops"] for w in waits] == sorted(w["flops"] for w in waits)
    with (
        mock.patch("moa.kernel.machine_in_use", lambda: machine),
        mock.patch("moa.forms.machine_in_use", lambda: machine),
    ):
        k(*arguments(k, (), MANY), threads=1)
    assert k._variants and next(iter(k._variants.values())).form == chunks[length].name


@pytest.mark.parametrize("length", [32, 256])
def test_what_is_predicted_of_a_length_is_what_caches_see(length: int) -> None:
    """On either side of the crossover."""
    machine = with_memory(1e12 if length == 32 else 1e9)
    k = made(str(EXAMPLES / "linear.moa"), None, "float32")
    form = next(f for f in k._front(0).forms if f.name.endswith(f"chunk r1, r2 by {length}"))
    with mock.patch("moa.kernel.chosen", lambda *at, **more: form):
        moved = simulate(k, arguments(k, (), FEW), [m.capacity_bytes or 0 for m in machine.caches]).levels
    placed = last(k)[2]
    assert placed is not None
    predicted = cost(last(k)[0], placed, machine, "float32", **FEW).levels
    for level, x in zip(predicted, moved, strict=True):
        assert level.predicted_bytes == pytest.approx(x.moved_bytes, rel=0.02), level.name


@pytest.mark.parametrize("share, name", [(0.95, "carried"), (0.85, "in chunks")])
def test_chunks_are_taken_where_they_are_clearly_faster(share: float, name: str) -> None:
    """Within a tenth of another form they are not: what is read inside of chunks may have to be made again."""

    def form(name: str, weight: str, seconds: float) -> Any:
        return SimpleNamespace(name=name, weight=weight, margin=0.8, time_s=lambda *at: seconds)

    forms = (form("as written", "step", 9.0), form("carried", "step", 1.0), form("in chunks", "chunk", share))
    assert chosen(forms, {}).name == name
