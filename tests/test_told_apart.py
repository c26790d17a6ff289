"""Pieces of a sum that only data tell apart: exponentials of one reference stay under one sum."""

from __future__ import annotations

import math

import numpy as np
import pytest
from programs import Case, listed
from test_properties import check

import moa
from moa.laws import defer
from moa.oracle import oracle

PARAMETERS = "S[n, m], V[m, d], q: int[n], k: int[m], c: float"
GIVEN = "S[n, m] V[m, d] q:int[n] k:int[m] c["
BY_DATA = "softmax(where(q[:, None] == k, c, S)) @ V"
TWICE = "softmax(where(q[:, None] == k, c, where(q[:, None] < k, 2 * c, S))) @ V"
BY_PLACE = "softmax(where(iota(n)[:, None] >= iota(m), S, c)) @ V"


def text(body: str) -> str:
    return f"def f({PARAMETERS}):\n    return {body}\n"


def sums(body: str) -> int:
    return moa.compile(text(body)).explain("normal").count("sum")


def test_one_sum_for_all_pieces() -> None:
    assert sums(BY_DATA) == sums(TWICE) == 2  # the weights, and the weighted rows
    assert sums(BY_PLACE) > 2  # what stands behind a place is not visited at all: its sum is another one


@pytest.mark.parametrize("body", [BY_DATA, TWICE, BY_PLACE])
def test_every_stage_agrees(body: str) -> None:
    for seed in range(3):
        params = tuple(p for p in listed(GIVEN) if p.name != "c")
        written = text(body).replace(", c: float", "").replace("c, S", "0.75, S").replace("* c", "* 0.75")
        written = written.replace("== k, c,", "== k, 0.75,").replace("S, c)", "S, 0.75)")
        check(Case(written, params, {"n": 5, "m": 7, "d": 3}, seed=seed), ("tiles", "loops", "llvm"))


@pytest.mark.parametrize("c", [-math.inf, -1e9, 0.0, 700.0, 1e6, math.inf, math.nan])
def test_whatever_the_constant(c: float) -> None:
    rng = np.random.default_rng(3)
    for body in (BY_DATA, TWICE):
        kernel = moa.compile(text(body))
        for n, m in ((1, 1), (5, 97), (70, 3), (3, 0)):
            q, k = rng.integers(0, 3, n), rng.integers(0, 3, m)
            k[: m // 4] = 5
            q[:1] = 5  # a row with many equal ones
            S, V = rng.standard_normal((n, m)), rng.standard_normal((m, 4))
            S[:, 1:3] = -np.inf
            given = {"S": S, "V": V, "q": q, "k": k, "c": c}
            with np.errstate(all="ignore"):
                (want,) = oracle(kernel.derivation.program, given)
            np.testing.assert_allclose(kernel(**given), want, rtol=1e-12, atol=1e-12)


def test_without_the_rule_there_are_more_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defer, "beside", lambda t, where, along, scope: t)
    assert sums(BY_DATA) > 2
