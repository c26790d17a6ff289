"""The typed Program: shapes, kinds, obligations, what is folded, inlined and left out."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa import ir
from moa.check import check, prelude
from moa.oracle import oracle
from moa.parse import parse, parse_expression
from moa.text import MoaError

HEAD = "def f(Q[..., n, dk], X[n, d], w: int, c: float, keep: bool[n], idx: int[n, r]):\n"


def program(text: str, ranks: int = 0) -> ir.Program:
    body = text if text.startswith("    ") else f"    return {text}"
    return check(parse(f"{HEAD}{body}\n", "t"), ranks)


def shape(text: str, ranks: int = 0) -> str:
    p = program(text, ranks)
    return ", ".join(map(str, p.values[p.outputs[0]].shape))


def kind(text: str) -> str:
    p = program(text)
    return p.values[p.outputs[0]].kind


def facts(text: str) -> list[str]:
    return [f"{o.left} {o.relation} {o.right}" for o in program(text).obligations]


def count(p: ir.Program, op: str) -> int:
    return sum(v.op == op for v in p.values)


SHAPES = [
    ("X.T @ X", "d, d"),
    ("X @ X.T", "n, n"),
    ("X[:, 0] @ X", "d"),
    ("X.T @ keep", "d"),
    ("keep @ keep", ""),
    ("X[:, :, None] * X[:, None]", "n, d, d"),
    ("X[1:]", "n - 1, d"),
    ("X[:-1]", "n - 1, d"),
    ("X[::2]", "((n + 1) // 2), d"),
    ("X[::-1]", "n, d"),
    ("X[w:]", "n - w, d"),
    ("X[:w]", "w, d"),
    ("X[-w:]", "w, d"),
    ("X[n // 2 :]", "-(n // 2) + n, d"),
    ("X[2:0:-1]", "2, d"),
    ("X[..., None]", "n, d, 1"),
    ("X[None, ..., 0]", "1, n"),
    ("X[idx]", "n, r, d"),
    ("X[:, None, 1]", "n, 1"),
    ("concat(X[:1], X[:-1])", "n, d"),
    ("concat(X, X, axis=-1)", "n, 2*d"),
    ("reshape(X, [n // 4, 4, d])", "(n // 4), 4, d"),
    ("reshape(X, [-1])", "d*n"),
    ("reshape(X, [n, 2, -1])", "n, 2, (d // 2)"),
    ("transpose(X[None], [2, 0, 1])", "d, 1, n"),
    ("transpose(X[None])", "d, n, 1"),
    ("sum(X)", "n"),
    ("sum(X, axis=0)", "d"),
    ("max(X, keepdims=True)", "n, 1"),
    ("argmax(X, 0)", "d"),
    ("cumsum(X)", "n, d"),
    ("zeros(n, 2)", "n, 2"),
    ("zeros([n, d])", "n, d"),
    ("ones(n)[:, None] + iota(n)", "n, n"),
    ("take(X, 2)", "2, d"),
    ("drop(X, -2)", "n - 2, d"),
    ("top_k(X, 3)", "n, 3"),
    ("zeros(size(X, 0) * 2, size(X))", "2*n, d*n"),
    ("where(keep, 1, c)", "n"),
    ("X ** 0", "n, d"),
    ("zeros(maximum(n, n + 1))", "n + 1"),
    ("zeros(minimum(n, w))", "min(n, w)"),
    ("zeros(abs(w))", "abs(w)"),
    ("zeros(n % 3)", "-3*(n // 3) + n"),
]


@pytest.mark.parametrize(("text", "expected"), SHAPES)
def test_shape(text: str, expected: str) -> None:
    assert shape(text) == expected


def test_leading_axes() -> None:
    assert shape("Q @ Q.T", 2) == "batch0, batch1, n, n"
    assert shape("Q + c", 0) == "n, dk"
    assert program("sum(Q)", 1).sizes() == ("batch0", "n", "dk", "d", "r")


KINDS = [
    ("X", "f"),
    ("idx", "i"),
    ("keep", "b"),
    ("idx + 1", "i"),
    ("idx + 1.0", "f"),
    ("idx / 2", "f"),
    ("idx // 2", "i"),
    ("n / 2", "f"),
    ("n // 2", "i"),
    ("keep + keep", "i"),
    ("keep * X[:, 0]", "f"),
    ("sum(keep)", "i"),
    ("mean(keep)", "f"),
    ("X > 0", "b"),
    ("keep == (idx[:, 0] > 0)", "b"),
    ("where(keep, 1, 0)", "i"),
    ("where(keep, 1, 0.5)", "f"),
    ("argsort(X)", "i"),
    ("idx ** 2", "i"),
    ("idx ** -1", "f"),
    ("2 ** idx", "f"),
    ("exp(idx)", "f"),
    ("idx @ idx.T", "i"),
    ("-keep", "i"),
    ("max(idx)", "i"),
    ("w", "i"),
    ("c", "f"),
]


@pytest.mark.parametrize(("text", "expected"), KINDS)
def test_kind(text: str, expected: str) -> None:
    assert kind(text) == expected


OBLIGATIONS: list[tuple[str, list[str]]] = [
    ("X[0]", ["n >= 1"]),
    ("X[-2]", ["n >= 2"]),
    ("X[:3]", ["n >= 3"]),
    ("X[1:-1]", ["n >= 2"]),
    ("X[w]", ["w >= 0", "n - w >= 1"]),
    ("X[-w:]", ["w >= 1", "n - w >= 0"]),
    ("X[::-1]", []),
    ("X[n // 2 :]", []),
    ("X[: n // 2]", []),
    ("X[minimum(w, n) :]", ["min(n, w) >= 0"]),
    ("take(X, n)", []),
    ("iota(n - 1)", ["n >= 1"]),
    ("iota(w)", ["w >= 0"]),
    ("iota(maximum(w, 0))", []),
    ("reshape(X, [n // 4, 4, d])", ["4 divides n"]),
    ("reshape(X, [n // w, w, d])", ["w >= 1", "(n // w) >= 0", "w divides n"]),
    ("reshape(X, [d, n])", []),
    ("reshape(Q, [n, r, d])", ["d*r == dk"]),
    ("argmax(X)", ["d >= 1"]),
    ("n % w", ["w >= 1"]),
    ("iota(n) % w", ["w >= 1"]),
    ("iota(n) // 2", []),
]


@pytest.mark.parametrize(("text", "expected"), OBLIGATIONS)
def test_obligations(text: str, expected: list[str]) -> None:
    found = facts(text)
    assert sorted(found) == sorted(expected)


def test_sizes_fold() -> None:
    p = program("(n + 2 * n - n // 1) * 3 + w * w")
    assert [v.op for v in p.values] == ["size"]
    assert str(p.values[0].attrs[0]) == "w*w + 6*n"
    assert [v.op for v in program("n - n + 2").values] == ["literal"]


def test_literals_stay_exact() -> None:
    p = program("c * (0.1 + 0.2)")
    assert any(v.op == "literal" and str(v.attrs[0]) == "3/10" for v in p.values)


def test_power() -> None:
    assert count(program("X ** 4"), "mul") == 3
    assert count(program("X ** -1"), "div") == 1
    assert count(program("X ** 0.5"), "sqrt") == 1
    p = program("2 ** X")
    assert [v.op for v in p.values] == ["input", "literal", "log", "mul", "exp"]


def test_log_of_two_stays_a_log() -> None:
    p = program("log2(c)")
    assert count(p, "log") == 2 and count(p, "div") == 1


def test_dead_values_are_gone_and_equal_ones_shared() -> None:
    p = program("    a = exp(X)\n    b = exp(X)\n    unused = log(X)\n    return a + b")
    assert [v.op for v in p.values] == ["input", "exp", "add"]
    used = {a for v in p.values for a in v.args} | set(p.outputs)
    assert used == set(range(len(p.values)))
    assert [i.name for i in p.inputs] == ["Q", "X", "w", "c", "keep", "idx"]


def test_outputs() -> None:
    p = program("(X, keep), c")
    assert [p.values[o].kind for o in p.outputs] == ["f", "b", "f"]


def test_functions_are_inlined() -> None:
    text = (
        "def scaled(A[a, b], s=2):\n    return A * s * b\n"
        "def twice(g, x):\n    return g(g(x))\n"
        "def softmax(x):\n    return x + 1\n"
        "def f(X[n, d]):\n    return twice(softmax, scaled(X)) + scaled(s=3, A=X.T).T\n"
    )
    p = check(parse(text, "t"))
    x = np.arange(6.0).reshape(2, 3)
    assert np.allclose(oracle(p, {"X": x})[0], x * 2 * 3 + 2 + x * 3 * 2)


def test_parameters_and_locals_shadow_functions() -> None:
    text = "def f(max[n, d], exp: float):\n    sum = max * exp\n    n = sum + 1\n    return n\n"
    p = check(parse(text, "t"))
    assert np.allclose(oracle(p, {"max": np.ones((2, 3)), "exp": 2.0})[0], 3)


def test_the_prelude_is_not_changed_by_the_program() -> None:
    text = "def sum(x):\n    return x\ndef f(X[n, d]):\n    return softmax(X)\n"
    p = check(parse(text, "t"))
    assert count(p, "reduce") == 2


def test_sizes_of_the_kernel_are_seen_in_its_functions() -> None:
    p = check(parse("def g(x):\n    return x / sqrt(d)\ndef f(X[n, d]):\n    return g(X)\n", "t"))
    assert np.allclose(oracle(p, {"X": np.ones((1, 4))})[0], 0.5)


def test_defaults_of_scalars() -> None:
    p = check(parse("def f(X[n], eps: float = 1e-6, k: int = 2 + 1, b: bool = True):\n    return X + eps * k\n", "t"))
    assert [str(i.default) for i in p.inputs] == ["None", "1/1000000", "3", "True"]
    assert np.allclose(oracle(p, {"X": np.zeros(2)})[0], 3e-6)
    assert np.allclose(oracle(p, {"X": np.zeros(2), "k": 5, "eps": 1.0})[0], 5)


def test_sizes_in_shapes() -> None:
    p = check(parse("def f(X[2 * n, 3], Y[n], w: int, Z[w, n + 1]):\n    return X[::2, 0] + Y\n", "t"))
    assert [", ".join(map(str, i.shape)) for i in p.inputs] == ["2*n, 3", "n", "", "w, n + 1"]


def test_scan_bodies() -> None:
    text = (
        "def join(p, q):\n    (m, a), (k, b) = p, q\n    r = maximum(m, k)\n"
        "    return r, a * exp(m - r) + b * exp(k - r)\n"
        "def f(s[n], V[n, d]):\n    return scan(join, (s, V), axis=0, identity=(-inf, 0))\n"
    )
    p = check(parse(text, "t"))
    (scan,) = [v.attrs[0] for v in p.values if v.op == "scan"]
    assert [(i.name, ", ".join(map(str, i.shape))) for i in scan.body.inputs] == [
        ("p0", ""),
        ("p1", "d"),
        ("q0", ""),
        ("q1", "d"),
    ]
    assert [str(p.values[s].attrs[0]) for s in scan.start] == ["-inf", "0"]
    assert count(p, "part") == 2


def test_prelude_names() -> None:
    assert {"softmax", "logsumexp", "mean", "elu", "sigmoid", "silu", "relu", "log2", "exp2"} <= set(prelude())


def test_growth_is_bounded() -> None:
    double = "".join(f"def f{k}(x):\n    return f{k - 1}(x + 1) * f{k - 1}(x - 1)\n" for k in range(1, 40))
    chain = "".join(f"def f{k}(x):\n    return f{k - 1}(x + 1)\n" for k in range(1, 400))
    square = "    a = n + 1\n" + "    a = a * a\n" * 30 + "    return X * a\n"
    divide = "    a = n\n" + "    a = a // (a + 1)\n" * 40 + "    return X * a\n"
    kernel = "def f(X[n]):\n"
    for text in (
        f"def f0(x):\n    return x\n{double}{kernel}    return f39(X)\n",
        f"def f0(x):\n    return x\n{chain}{kernel}    return f399(X)\n",
        f"{kernel}{square}",
        f"{kernel}{divide}",
        f"{kernel}    return X{'[None]' * 60}\n",
        f"{kernel}    return X{' + X' * 20_000}\n",
    ):
        with pytest.raises(MoaError) as e:
            check(parse(text.replace("def f(X", "def kernel(X"), "t"))
        assert e.value.kind == "limit"


def test_the_same_text_gives_the_same_program() -> None:
    text = "softmax(Q @ K.T / sqrt(dk)) @ V"
    shapes = {"Q": "... n dk", "K": "... m dk", "V": "... m dv"}
    one, two = (check(parse_expression(text, "e", shapes), 1) for _ in range(2))
    assert one == two


# Any text ----------------------------------------------------------------------------------------------------------

LISTED = """
def f g ( ) [ ] , : = == <= < + - * / // % @ ** & | ~ . .T ... None True inf n d X Y w 1 2 0 -1 0.5 1e-3 return sum max
softmax where scan fold iota take drop concat reshape int bool float axis keepdims identity init if lambda # '
ρ τ ι ψ △ ▽ ⧺ θ Φ ⍉ Ω ⟨ ⟩ +/ ⌈/ +•× •×
"""
TOKENS = [*LISTED.split(), "\n", "\n    ", "\t", "\r\n"]


def survives(text: str) -> None:
    """Whatever the text, there is a Program or a MoaError that prints."""
    try:
        p = check(parse(text, "any"))
    except MoaError as e:
        assert str(e).replace("\n", "").isprintable()
        return
    assert p.outputs


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_any_text(text: str) -> None:
    survives(text)
    survives(f"def f(X[n]):\n    return {text}\n")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(TOKENS), max_size=30))
def test_any_tokens(tokens: list[str]) -> None:
    survives(" ".join(tokens))
    survives(f"def f(X[n, d], Y[n, d], w: int):\n    return {' '.join(tokens)}\n")


ATOMS = ["X", "Y", "n", "w", "1", "0", "-1", "2", "0.5", "iota(n)", "(X > 0)", "True", "inf", "(X, Y)", "[n, d]", "idx"]
FORMS = [
    "({0} + {1})",
    "({0} @ {1})",
    "({0} // {1})",
    "({0} ** {1})",
    "({0} & {1})",
    "({0} < {1} <= {2})",
    "sum({0}, {1})",
    "max({0}, axis={1}, keepdims={2})",
    "where({0}, {1}, {2})",
    "{0}[{1}]",
    "{0}[{1}:{2}]",
    "{0}[..., {1}::-2]",
    "{0}.T",
    "-{0}",
    "concat({0}, {1}, axis={2})",
    "reshape({0}, {1})",
    "rotate({0}, {1})",
    "take({0}, {1})",
    "zeros({0}, {1})",
    "iota({0})",
    "scan(g, {0}, axis={1}, identity={2})",
    "fold(g, {0}, init={1})",
    "softmax({0})",
    "logsumexp({0}, axis={1})",
    "({0} ψ {1})",
    "({0} ρ {1})",
    "({0} -Ω⟨1 0⟩ {1})",
    "({0} ⌈•+ {1})",
    "+/Ω⟨1⟩ {0}",
]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_any_formula(seed: int) -> None:
    choose = random.Random(seed)

    def build(depth: int) -> str:
        if depth == 0 or choose.random() < 0.2:
            return choose.choice(ATOMS)
        return choose.choice(FORMS).format(*(build(depth - 1) for _ in range(3)))

    head = "def g(p, q):\n    return p * q\ndef f(X[n, n], Y[n, n], w: int, idx: int[n], d: int):\n"
    text = f"{head}    return {build(3)}\n"
    try:
        p = check(parse(text, "any"))
        n = choose.choice([0, 1, 3])
        ones = np.ones((n, n))
        oracle(p, {"X": ones, "Y": ones, "w": choose.randint(-1, 2), "idx": np.zeros(n, int), "d": 2})
    except MoaError as e:
        assert str(e).replace("\n", "").isprintable()
