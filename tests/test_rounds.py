"""Rounds: chunks one behind the other, each step doing all that belongs to the rows of its chunk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chain import MINIATURES, Chain, in_short, laws
from cuda_on_cpu import SCHEDULES, STRATEGIES, device_for, text_of
from formulas import PROGRAMS, agrees, derived, expected, gap, inputs
from programs import Case, listed

import moa
from moa.forms import Form, in_lengths
from moa.laws.beside import Fused
from moa.normal import TRUE, Eq, lit, load
from moa.parse import parse
from moa.pipeline import Derivation, derive
from moa.poly import const, var
from moa.tile import parallel
from moa.tile.rounds import views

NAMES = ("causal linear", "padded linear", "performer", "retention", "strict retention", "gated")
PARAMS = {
    "causal linear": "Q[n, dk] K[n, dk] V[n, dv]",
    "padded linear": "Q[n, dk] K[n, dk] V[n, dv] keep:bool[n]",
    "retention": "Q[b, h, n, dk] K[b, h, n, dk] V[b, h, n, dv] g[h]",
    "gated": "Q[h, n, dk] K[h, n, dk] V[h, n, dv] g[h, n]",
}
TWICE = """
def f(Q[n, dk], K[n, dk], V[n, dv], W[dv, dv]):
    A = where(iota(n) <= iota(n)[:, None], Q @ K.T, 0)
    Y = A @ V
    return exp(Y) @ W, Y
"""
HAS_CC = any(shutil.which(c) for c in ("cc", "gcc", "clang"))


def in_rounds(d: Derivation) -> int:
    """The number of the form that goes by rounds."""
    return next(k for k, f in enumerate(d.forms) if "round " in f.name)


@pytest.mark.parametrize("name", NAMES)
def test_the_form_is_the_oracle(name: str) -> None:
    d = derived(name)
    form = d.forms[in_rounds(d)]
    assert agrees(d, form, (0, 1, 5, 64, 65, 130))
    (step,) = (s for s in form.steps if s.law == "in rounds")
    assert step in d.trace.others


@pytest.mark.parametrize("stage", ["tiles", "loops", "llvm"])
@pytest.mark.parametrize(("n", "length"), [(1, 4), (4, 4), (5, 4), (11, 3), (17, 8)])
@pytest.mark.parametrize("name", ["padded linear", "retention", "gated"])
def test_every_stage_stays_inside_the_arrays(name: str, n: int, length: int, stage: str) -> None:
    """At lengths on both sides of a round's end; the interpreters check every index."""
    with laws(chunk=in_short(length)):
        chain = Chain(Case(PROGRAMS[name], listed(PARAMS[name]), {"n": n, "dk": 2, "dv": 3, "h": 2, "b": 1}), "f64")
    form = in_rounds(chain.derivation)
    placed = chain.place(MINIATURES[n % len(MINIATURES)], {}, form)
    assert not chain.differs(chain.run(stage, placed), chain.expected(), chain.normal(), form)


def kernel_in_rounds(text: str, backend: str, dtype: str, length: int = 32, ranks: int = 0) -> tuple[moa.Kernel, Form]:
    kernel = moa.compile(text, backend=backend, dtype=dtype)
    d = kernel._derive(ranks)
    form = next(f for f in in_lengths(d.forms) if "round " in f.name and f.name.endswith(f" by {length}"))
    kernel._derivations[ranks] = replace(d, forms=(replace(form, by_length=None),))
    kernel._fronts.clear()
    return kernel, form


@pytest.mark.parametrize("backend", ["llvm", pytest.param("c", marks=pytest.mark.skipif(not HAS_CC, reason="no cc"))])
@pytest.mark.parametrize("name", ["padded linear", "gated"])
def test_kernels_at_real_widths(name: str, backend: str) -> None:
    """Several rounds with a tail, more columns than a block has, two threads."""
    kernel, form = kernel_in_rounds(PROGRAMS[name], backend, "float64")
    d = kernel.derivation
    for n in (1, 32, 33, 100):
        given = inputs(d, n)
        assert gap((kernel(**given, threads=2),), expected(d, given)) <= 1e-12, n
    assert next(iter(kernel._variants.values())).form == form.name


@pytest.mark.skipif(not HAS_CC, reason="no cc")
def test_c_has_the_bits_of_llvm() -> None:
    rng = np.random.default_rng(0)
    given = [rng.standard_normal((3, 77, 40), np.float32) for _ in range(3)]
    text = PROGRAMS["causal linear"].replace("[n,", "[..., n,")
    results = [kernel_in_rounds(text, backend, "float32", ranks=1)[0](*given) for backend in ("llvm", "c")]
    assert np.array_equal(*results)


def test_one_phase_and_nothing_between() -> None:
    """What gives rows back is no copy: the step writes them. One axis for all sums over places, one mask for both."""
    kernel, form = kernel_in_rounds(PROGRAMS["causal linear"], "llvm", "float32")
    tiles = kernel.placed_at({"n": 1000, "dk": 64, "dv": 64}, form.name).tiles
    assert len(tiles.phases) == 1 and [a.role for a in tiles.arrays] == ["input"] * 3 + ["output"]
    assert str(tiles).count("where(s >= ") == 1
    assert "min(" not in "\n".join(line for line in str(tiles).splitlines() if "=" in line)


def test_all_sequences_are_items() -> None:
    """Batches and heads, also where the state has an axis of features between them."""
    text = """def f(Q[b, h, n, dk], K[b, h, n, dk], V[b, h, n, dv], m: int[b]):
    A = where(iota(n) < m[:, None, None, None], exp(Q) @ exp(K).T, 0)
    A = where(iota(n) <= iota(n)[:, None], A, 0)
    return (A @ V) / (sum(A, keepdims=True) + 1)
"""
    d = derive(parse(text), 0)
    (r,) = d.forms[in_rounds(d)].streamed.recurrences
    assert [str(x) for _, x in parallel(r)] == ["b", "h"]
    assert all([str(x) for _, x in c.outer[:2]] == ["b", "h"] for c in r.components)
    kernel, _ = kernel_in_rounds(text, "llvm", "float64")
    rng = np.random.default_rng(0)
    given = {k: rng.standard_normal((2, 3, 41, 5)) for k in "QKV"} | {"m": np.array([41, 17])}
    assert gap((kernel(**given, threads=2),), expected(d, given)) <= 1e-12


def test_what_follows_row_by_row_is_in_the_step_and_read_again() -> None:
    """A result that another one is made of: both are written, and neither is read from memory."""
    d = derive(parse(TWICE), 0)
    form = d.forms[in_rounds(d)]
    (r,) = form.streamed.recurrences
    assert len(r.readers) == 2
    assert agrees(d, form, (0, 1, 63, 65))
    kernel, _ = kernel_in_rounds(TWICE, "llvm", "float64")
    rng = np.random.default_rng(0)
    q, k, v, w = (0.1 * rng.standard_normal(s) for s in ((70, 4), (70, 4), (70, 5), (5, 5)))
    y = np.tril(q @ k.T) @ v
    got = kernel(q, k, v, w)
    assert np.abs(got[0] - np.exp(y) @ w).max() < 1e-13 and np.abs(got[1] - y).max() < 1e-13


def test_what_is_not_finite_stays_where_it_is_read() -> None:
    """Rows before an infinity or a NaN are as without it."""
    kernel, _ = kernel_in_rounds(PROGRAMS["gated"], "llvm", "float32")
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 90, 8), np.float32) for _ in range(3))
    g = -np.abs(rng.standard_normal((2, 90))).astype(np.float32)
    whole = kernel(q, k, v, g)
    for bad in (np.inf, np.nan):
        broken = v.copy()
        broken[:, 64] = bad
        got = kernel(q, k, broken, g)
        assert np.array_equal(got[:, :64], whole[:, :64]) and not np.isfinite(got[:, 64:]).any()


def test_on_a_gpu(tmp_path: Path) -> None:
    with laws(chunk=in_short(8)):
        sizes = {"n": 21, "dk": 4, "dv": 5}
        chain = Chain(Case(PROGRAMS["causal linear"], listed(PARAMS["causal linear"]), sizes), "f32")
        form = in_rounds(chain.derivation)
        placed = chain.place(STRATEGIES[0], {}, form)
    got = device_for(text_of({"rounds": placed}), tmp_path).run("rounds", chain, placed, SCHEDULES[0])
    assert not chain.differs(got, chain.expected(), chain.normal(), form)


# broken copies -------------------------------------------------------------------------------------------------------


def changed(made: Fused, name: str, change: Callable[[Eq], Eq]) -> Fused:
    """The system with one map of its steps changed, the one whose name begins like this."""
    (old,) = made.system.recurrences[-1:]
    found = [e for e in old.maps if e.name.startswith(name)]
    assert found
    new = replace(old, maps=tuple(change(e) if e is found[0] else e for e in old.maps))
    others = made.system.recurrences[:-1]
    return replace(made, system=replace(made.system, recurrences=(*others, new)), recurrence=new)


def all_near(made: Fused) -> Fused:
    return changed(made, "r11", lambda e: replace(e, domain=TRUE))


def nothing_far(made: Fused) -> Fused:
    return changed(made, "r10", lambda e: replace(e, pieces=((TRUE, lit(0)),)))


def states_after(made: Fused) -> Fused:
    r = replace(made.recurrence, exclusive=False)
    return replace(made, system=replace(made.system, recurrences=(*made.system.recurrences[:-1], r)), recurrence=r)


@pytest.mark.parametrize("change", [all_near, nothing_far, states_after])
def test_a_broken_copy_is_caught(change: Callable[[Fused], Fused]) -> None:
    with laws(**{"in rounds": lambda apply: lambda *args: change(apply(*args))}):
        d = derive(parse(PROGRAMS["gated"]), 0)
    assert not agrees(d, d.forms[in_rounds(d)], (5, 70, 130))


def test_only_rows_given_back_are_views() -> None:
    d = derived("causal linear")
    normal = d.forms[in_rounds(d)].streamed
    left, found = views(normal)
    assert len(found) == 1 and len(left.equations) == len(normal.equations) - 1
    out = next(e for e in normal.equations if e.name == "out")
    assert isinstance(out, Eq)
    (name, index) = out.body.args
    shifted = load(name, (index[0], index[1], const(0)))  # another column
    turned = load(name, (index[0], 63 - index[1], index[2]))  # rows backwards
    chunked = load(name, (var("i") // 32, index[1], index[2]))
    for body in (shifted, turned, chunked):
        other = replace(out, pieces=((TRUE, body),))
        system = replace(normal, equations=tuple(other if e is out else e for e in normal.equations))
        assert not views(system)[1]
