"""Verify: true kernels pass, and broken ones are seen: values, NaN, strides, threads, laws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from formulas import PROGRAMS

import moa
import moa.verify as verify_module
from moa.kernel import Kernel
from moa.laws.table import LAWS
from moa.normal import Member, apply, lit
from moa.text import MoaError
from moa.verify import Verification, verify
from moa.verify.again import in_chunks, laws, systems
from moa.verify.check import Check
from moa.verify.expected import expected
from moa.verify.inputs import satisfied, scenarios, small

ATTENTION = "def f(Q[n, d], K[m, d], V[m, c]):\n    return softmax(Q @ K.T / sqrt(d)) @ V\n"
CAUSAL = """def f(Q[n, d], K[n, d], V[n, c]):
    i, j = iota(n)[:, None], iota(n)
    return softmax(where(j <= i, Q @ K.T, -inf)) @ V
"""
STANDARD = """def f(X[n, d]):
    y = X - mean(X, axis=-1, keepdims=True)
    return y / sqrt(mean(y * y, axis=-1, keepdims=True) + 0.01)
"""
GATHERED = "def f(X[n, d], idx: int[r], w: int, keep: bool[n]):\n    return sum(where(keep[idx], sum(X)[idx], 0)) + w\n"
BLOCKED = "def f(X[n, d]):\n    return sum(reshape(X, [n // 4, 4, d]), axis=1)\n"
STEPPED = "def f(X[n, d]):\n    return where(sum(X) > 0, 1.0, 0.0) + tanh(sum(X))\n"
Calls = tuple[np.ndarray[Any, Any], ...]


@pytest.mark.parametrize(
    ("text", "dtype"),
    [(ATTENTION, "float32"), (CAUSAL, "float64"), (STANDARD, "float32"), (GATHERED, "float64"), (BLOCKED, "float32"),
     (STEPPED, "float32")],
)  # fmt: skip
def test_kernels_are_true(text: str, dtype: str) -> None:
    seen: list[Check] = []
    found = verify(moa.compile(text, dtype=dtype), progress=seen.append)
    assert found.ok, str(found)
    assert tuple(seen) == found.checks
    assert str(found).splitlines()[-1] == f"all of {len(seen)} checks hold"


def test_what_is_looked_at() -> None:
    kernel = moa.compile(ATTENTION)
    text = str(verify(kernel))
    for words in ("law `change of reference` on", "by sympy", "two parts, merged", "n = 0", "m = 1", "around tiles",
                  "nan in Q", "-inf prefix in K", "inf in V", "strides", "threads", "larger primes"):  # fmt: skip
        assert words in text, words
    assert text == str(kernel.verify())


def test_sizes_are_those_of_the_program() -> None:
    kernel = moa.compile(BLOCKED, sizes={"d": 3})
    sizes = [s for _, s in scenarios(kernel.derivation.program, {"d": 3}, set())]
    assert all(s["n"] % 4 == 0 and s["d"] == 3 for s in sizes)
    assert {s["n"] for s in sizes} >= {0, 4, 16}
    assert satisfied(kernel.derivation.program, {"n": 5, "d": 3}, {"d"}) == {"n": 8, "d": 3}


def test_sizes_that_cannot_be_are_a_mistake_of_the_user() -> None:
    kernel = moa.compile("def f(X[n]):\n    return X[:100000]\n")
    with pytest.raises(MoaError, match="no sizes that were tried"):
        verify(kernel)


Spoiled = Callable[[Calls, Mapping[str, Any], int | None], Calls]


def first_changed(out: Calls, f: Callable[[np.ndarray[Any, Any]], None]) -> Calls:
    copy = out[0].copy()
    if copy.size:
        f(copy)
    return (copy, *out[1:])


def drop_nan(out: Calls, given: Mapping[str, Any], threads: int | None) -> Calls:
    return tuple(np.nan_to_num(x, nan=0.0) for x in out)


def add_nan(out: Calls, given: Mapping[str, Any], threads: int | None) -> Calls:
    def f(x: np.ndarray[Any, Any]) -> None:
        x.flat[0] = np.nan

    return first_changed(out, f) if np.isnan(given["Q"]).any() else out


def small_error(out: Calls, given: Mapping[str, Any], threads: int | None) -> Calls:
    return tuple(x * (1 + 1e-11) for x in out)


def last_row(out: Calls, given: Mapping[str, Any], threads: int | None) -> Calls:
    def f(x: np.ndarray[Any, Any]) -> None:
        x[-1] = x[0]

    return first_changed(out, f) if len(out[0]) % 2 else out


def by_threads(out: Calls, given: Mapping[str, Any], threads: int | None) -> Calls:
    return tuple(np.nextafter(x, 9) for x in out) if threads == 3 else out


def by_strides(out: Calls, given: Mapping[str, Any], threads: int | None) -> Calls:
    return out if given["Q"].flags.c_contiguous else tuple(x + 0.01 for x in out)


def huge_only(out: Calls, given: Mapping[str, Any], threads: int | None) -> Calls:
    return tuple(x * 0.999 for x in out) if np.abs(given["Q"]).max(initial=0) > 100 else out


@pytest.mark.parametrize(
    ("spoil", "name"),
    [(drop_nan, "nan in"), (add_nan, "nan in Q"), (small_error, "values, ordinary"), (last_row, "values"),
     (by_threads, "threads"), (by_strides, "strides"), (huge_only, "values, ordinary")],
)  # fmt: skip
def test_broken_kernels_are_seen(spoil: Spoiled, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true = verify_module.call

    def call(kernel: Kernel, given: Mapping[str, Any], threads: int | None = None) -> Calls:
        return spoil(true(kernel, given, threads), given, threads)

    monkeypatch.setattr(verify_module, "call", call)
    found = verify(moa.compile(ATTENTION))
    failed = [c.name for c in found.checks if not c.ok]
    assert any(name in c for c in failed), str(found)
    assert not found.ok and "FAIL" in str(found)
    assert str(found).splitlines()[-1].endswith("checks FAIL")


def no_move(m: Member) -> Member:
    return replace(m, move=tuple(tuple(lit(int(a == b)) for b in range(m.width)) for a in range(m.width)))


def no_finish(m: Member) -> Member:
    return replace(m, finish=lit(1))


@pytest.mark.parametrize("text", [ATTENTION, STANDARD])
@pytest.mark.parametrize("spoil", [no_move, no_finish])
def test_broken_laws_are_seen(text: str, spoil: Callable[[Member], Member]) -> None:
    derivation = moa.compile(text).derivation
    rng = np.random.default_rng(0)
    assert all(c.ok for c in laws(derivation, rng))
    first, *rest = derivation.report.moved
    *before, (e, m) = first.members
    moved = replace(first, members=(*before, (e, spoil(m))))
    broken = replace(derivation, report=replace(derivation.report, moved=(moved, *rest)))
    checks = list(laws(broken, rng))
    assert [c.name for c in checks if not c.ok] == [f"law `change of reference` on {m.name}"]


def test_a_condition_of_the_trace_that_is_false_is_seen() -> None:
    derivation = moa.compile(ATTENTION).derivation
    steps = derivation.trace.steps
    k = next(k for k, s in enumerate(steps) if any("free of" in fact for fact, _ in s.conditions))
    kept = steps[k]
    steps[k] = replace(kept, conditions=(("r2[j] is free of j", "structure"),))
    failed = [c for c in laws(derivation, np.random.default_rng(0)) if not c.ok]
    steps[k] = kept
    assert [c.detail for c in failed] == ["r2[j] is free of j: not so"]


def test_a_verification_reads_as_text() -> None:
    found = Verification(False, (Check("a", True, "fine"), Check("b", False, "1 is not 2")))
    assert str(found) == "ok   a: fine\nFAIL b: 1 is not 2\n1 of 2 checks FAIL"


@pytest.mark.parametrize("law", ["carry", "chunk", "reassociate"])
def test_a_form_that_is_wrong_is_found(law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The derivation of another form is not trusted: its equations are evaluated beside the oracle."""
    right = LAWS[law]

    def mutant(*args: Any, **options: Any) -> Any:
        made = right.apply(*args, **options)
        match law:
            case "carry":
                doubled = tuple(replace(c, body=apply("add", c.body, c.body)) for c in made.components)
                return replace(made, components=doubled)
            case "chunk":
                return replace(made, far=replace(made.far, pieces=tuple((c, lit(0)) for c, _ in made.far.pieces)))
        pieces = tuple((c, apply("add", s, s)) for c, s in made.outer.pieces)
        return replace(made, outer=replace(made.outer, pieces=pieces))

    assert all(c.ok for c in systems_of(moa.compile(PROGRAMS["causal linear"])))
    monkeypatch.setitem(LAWS.laws, law, replace(right, apply=mutant))
    assert not all(c.ok for c in systems_of(moa.compile(PROGRAMS["causal linear"])))


def systems_of(kernel: moa.Kernel) -> list[Check]:
    rng = np.random.default_rng(0)
    derivation = kernel.derivation
    given = small(derivation.program, {}, rng, "float64")
    assert given is not None
    return [*systems(derivation, given), *in_chunks(derivation, {}, rng)]


def test_states_that_overflow_are_not_compared() -> None:
    """Products of a growing state overflow in another order in a kernel: infinities become NaN in either."""
    text = """def step(S, x):
    k, v = x
    return 2 * S * k[:, None] + k[:, None] * v[None, :]

def f(Q[n, d], K[n, d], V[n, c], past[d, c]):
    S = scan(step, (K, V), axis=0, init=past)
    return (Q[:, None] @ S)[:, 0]
"""
    program = moa.compile(text)._derive(0).program
    rng = np.random.default_rng(0)
    given = {k: rng.standard_normal((40, 3)) * 1e30 for k in "QKV"} | {"past": np.ones((3, 3))}
    want = expected(program, given, "float64")
    early = [bool(s.any()) for s in want.unsettled[0]]
    assert not early[0] and early[-1]
    assert early == sorted(early)
    calm = expected(program, {k: x * 1e-30 for k, x in given.items()}, "float64")
    assert not calm.unsettled[0].any()
