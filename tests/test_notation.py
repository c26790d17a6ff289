"""Notation: a Program printed as source text parses back to one of the same normal form."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from programs import anything
from rules import PARAMETERS, RULES
from structural import structural

from moa.canonical import canonical
from moa.check import check
from moa.ir import Program
from moa.notation import program_text
from moa.parse import parse
from moa.psi import normalise
from moa.rewrite import Trace

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.moa"))
SCANS = (
    "def f(X[n, d]):\n    return cumsum(X, axis=0), cummax(X)\n",
    "def step(s, x):\n    return 0.5 * s + x\n\ndef f(X[n, d]):\n"
    "    return scan(step, X, axis=0, init=zeros(d), reverse=True), fold(step, X, axis=0, init=ones(d))\n",
    "def step(S, x):\n    k, v = x\n    return S + k[:, None] * (v - k @ S)[None, :]\n\n"
    "def f(K[n, d], V[n, c]):\n    return scan(step, (K, V), axis=0, init=zeros(d, c), exclusive=True)\n",
    "def join(p, q):\n    (a, b), (c, d) = p, q\n    return a * c, b * c + d\n\n"
    "def f(g[n], x[n]):\n    a, b = scan(join, (g, x), axis=0, identity=(1, 0))\n    return b\n",
    "def f(k: int[n], keep: bool[n]):\n    return cumsum(k, axis=0), cummax(k), ∨\\ keep\n",
)


def same(program: Program) -> None:
    text = program_text(program)
    back = check(parse(text), 0)
    assert canonical(normalise(back, Trace())) == canonical(normalise(program, Trace())), text
    assert [(p.name, p.kind, p.shape, p.default) for p in back.inputs] == [
        (p.name, p.kind, p.shape, p.default) for p in program.inputs
    ]
    assert program_text(back).count("\n") <= 2 * text.count("\n")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples(path: Path) -> None:
    for ranks in (0, 2):
        same(check(parse(path.read_text(encoding="utf-8"), path.name), ranks))


@pytest.mark.parametrize("text", SCANS)
def test_scans(text: str) -> None:
    same(check(parse(text), 0))


@pytest.mark.parametrize("rule", RULES)
def test_rules(rule: str) -> None:
    for e in RULES[rule]:
        same(check(parse(f"def f({PARAMETERS}):\n    return {e}\n"), 0))


quick = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@settings(quick, max_examples=60)
@given(st.data())
def test_random_programs(data: st.DataObject) -> None:
    case = anything(lambda options: data.draw(st.sampled_from(options)))
    same(check(parse(case.text), len(case.lead)))


@settings(quick, max_examples=60)
@given(st.data())
def test_structural_programs(data: st.DataObject) -> None:
    case = structural(lambda options: data.draw(st.sampled_from(options)), 8)
    same(check(parse(case.text), 0))


def test_a_program_prints_as_it_is_read() -> None:
    text = "def f(Q[n, dk], K[m, dk], c: float = 0.5):\n    return max(c * Q @ K.T / sqrt(dk), axis=0)[1:-1]\n"
    expected = """def f(Q[n, dk], K[m, dk], c: float = 0.5):
    t0 = c * Q
    t1 = transpose(K, [1, 0])
    t2 = t0 @ t1
    t3 = sqrt(dk)
    t4 = t2 / t3
    t5 = max(t4, axis=0)
    t6 = t5[1:m - 1]
    return t6
"""
    assert program_text(check(parse(text), 0)) == expected
    assert program_text(check(parse(expected), 0)) == expected
