"""Declared operators: a counterexample is shown at once, a proof is found where there is one."""

from __future__ import annotations

import pytest

import moa
from moa.associative import proved
from moa.check import check
from moa.ir import Scan
from moa.parse import parse
from moa.text import MoaError

GOOD = {
    "exponentials": (
        "def f(p, q):\n    (m1, l1, a1), (m2, l2, a2) = p, q\n    m = maximum(m1, m2)\n"
        "    u, v = exp(m1 - m), exp(m2 - m)\n"
        "    return m, l1 * u + l2 * v, a1 * u[..., None] + a2 * v[..., None]\n",
        "(x, ones(n), Y)",
        "(-inf, 0, 0)",
        True,
    ),
    "first of the largest": (
        "def f(p, q):\n    (v, i), (w, j) = p, q\n    return maximum(v, w), where(w > v, j, i)\n",
        "(x, iota(n))",
        "(-inf, 0)",
        True,
    ),
    "affine": (
        "def f(p, q):\n    (a, b), (c, d) = p, q\n    return a * c, b * c + d\n",
        "(x, x)",
        "(1, 0)",
        True,
    ),
    "matrices": ("def f(p, q):\n    return p @ q\n", "Z", "0", None),
    "bits": ("def f(p, q):\n    return p | q\n", "(x > 0)", "False", None),
    "mean and count": (
        "def f(p, q):\n    (a, k), (b, l) = p, q\n    return (a * k + b * l) / (k + l), k + l\n",
        "(x, ones(n))",
        "(0, 0)",
        True,
    ),
    "products": ("def f(p, q):\n    return p * q\n", "x", "1", True),
}
BAD = {
    "differences": ("def f(p, q):\n    return p - q\n", "x", "0", "is not associative: f"),
    "averages": ("def f(p, q):\n    return (p + q) / 2\n", "x", "0", "associative|identity"),
    "last of the larger": (
        "def f(p, q):\n    (v, i), (w, j) = p, q\n    return v + w, where(w > v, j, i)\n",
        "(x, iota(n))",
        "(0, 0)",
        "associative|identity",
    ),
    "another identity": ("def f(p, q):\n    return maximum(p, q)\n", "x", "0", "has another identity"),
    "integers": ("def f(p, q):\n    return p - q\n", "iota(n)", "0", "is not associative"),
}


def text(f: str, x: str, identity: str) -> str:
    return f"{f}\ndef g(x[n], Y[n, d], Z[n, d, d]):\n    return scan(f, {x}, axis=0, identity={identity})\n"


def scan_of(source: str) -> Scan:
    return next(v.attrs[0] for v in check(parse(source), 0).values if v.op == "scan")


@pytest.mark.parametrize("name", [k for k in GOOD if k != "matrices"])
def test_good_operators_pass(name: str) -> None:
    f, x, identity, known = GOOD[name]
    source = text(f, x, identity)
    moa.compile(source)
    if known:
        assert proved(scan_of(source))


def test_the_identity_of_matrices_is_not_a_number() -> None:
    f, x, identity, _ = GOOD["matrices"]
    with pytest.raises(MoaError, match="has another identity"):
        moa.compile(text(f, x, identity))


@pytest.mark.parametrize("name", BAD)
def test_bad_operators_are_refused(name: str) -> None:
    f, x, identity, message = BAD[name]
    source = text(f, x, identity)
    with pytest.raises(MoaError, match=message) as found:
        moa.compile(source)
    assert found.value.kind == "type" and found.value.span is not None
    assert not proved(scan_of(source)) or "identity" in str(found.value)


def test_verify_says_how_it_is_known() -> None:
    f, x, identity, _ = GOOD["affine"]
    checks = {c.name: c.detail for c in moa.compile(text(f, x, identity)).verify().checks}
    assert "by sympy" in checks["operator f is associative"]


def test_a_step_need_not_be() -> None:
    moa.compile("def f(s, x):\n    return s - x\n\ndef g(x[n]):\n    return scan(f, x, axis=0, init=0)\n")
