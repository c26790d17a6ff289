"""The syntax tree: precedence, statements, parameters, shape texts, and texts that are too large."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from moa import ir
from moa.parse import parse, parse_expression
from moa.text import MoaError, Span

EXAMPLES = sorted(Path(__file__).parent.parent.joinpath("examples").glob("*.moa"))


def text_of(node: Any) -> str:
    """A node with every grouping written as parentheses."""
    match node:
        case ir.Num(value, is_int, _):
            return str(value) if is_int else str(float(value))
        case ir.Name(name, _):
            return name
        case ir.Binary(op, left, right, _):
            return f"({text_of(left)} {op} {text_of(right)})"
        case ir.Unary(op, x, _):
            return f"({op} {text_of(x)})"
        case ir.Compare(ops, xs, _):
            parts = [text_of(xs[0])]
            for op, x in zip(ops, xs[1:], strict=True):
                parts += [op, text_of(x)]
            return f"<{' '.join(parts)}>"
        case ir.Call(f, args, keywords, _):
            return f"{f.name}({', '.join([*map(text_of, args), *(f'{k.name}={text_of(v)}' for k, v in keywords)])})"
        case ir.Subscript(x, items, _):
            return f"{text_of(x)}[{', '.join(map(text_of, items))}]"
        case ir.SliceItem(a, b, c, _):
            return ":".join("" if x is None else text_of(x) for x in (a, b, c))
        case ir.NewAxis():
            return "None"
        case ir.RestItem():
            return "..."
        case ir.Transposed(x, _):
            return f"{text_of(x)}.T"
        case ir.Sequence(items, _):
            return f"[{', '.join(map(text_of, items))}]"
    raise AssertionError(node)


def formula(text: str) -> str:
    (result,) = parse_expression(text, "e", {}).functions[0].body[0].values  # type: ignore[union-attr]
    return text_of(result)


PRECEDENCE = [
    ("a + b * c", "(a + (b * c))"),
    ("a - b - c", "((a - b) - c)"),
    ("a @ b @ c", "((a @ b) @ c)"),
    ("a * b @ c / d", "(((a * b) @ c) / d)"),
    ("-a ** 2", "(- (a ** 2))"),
    ("2 ** -x", "(2 ** (- x))"),
    ("a ** b ** c", "(a ** (b ** c))"),
    ("-a * b", "((- a) * b)"),
    ("~a & b | c", "(((~ a) & b) | c)"),
    ("a & b < c | d", "<(a & b) < (c | d)>"),
    ("a < b <= c == d", "<a < b <= c == d>"),
    ("a - slope[:, None] * (i - j)", "(a - (slope[::, None] * (i - j)))"),
    ("q @ k.T / sqrt(d)", "((q @ k.T) / sqrt(d))"),
    ("(a + b).T[0]", "(a + b).T[0]"),
    ("f(x, axis=-1).T", "f(x, axis=(- 1)).T"),
    ("x[1:, ::-1, ..., None, a:b:2, -1]", "x[1::, ::(- 1), ..., None, a:b:2, (- 1)]"),
    ("x[:1]", "x[:1:]"),
    ("(a, b)", "[a, b]"),
    ("(a,)", "[a]"),
    ("[a, b, ]", "[a, b]"),
    ("1e-6 + .5 + 2. + 10", "(((1e-06 + 0.5) + 2.0) + 10)"),
    ("a // b % c", "((a // b) % c)"),
    ("returned + iffy + notes + inner", "(((returned + iffy) + notes) + inner)"),
    ("a × b ÷ c − d", "(((a * b) / c) - d)"),
    ("a ≤ b ≠ c ≥ d", "<a <= b != c >= d>"),
    ("a ⌈ b", "(a max b)"),
    ("ρ A + B", "((rho A) + B)"),
    ("2 △ 3 ▽ A @ B", "((2 take (3 drop A)) @ B)"),
    ("-1 △ A", "((- 1) take A)"),
    ("⟨i j⟩ ψ A", "([i, j] psi A)"),
    ("⟨1, -1⟩ ψ ⍉ A", "([1, (- 1)] psi (transpose A))"),
    ("⟨⟩ ρ A", "([] reshape A)"),
    ("A ⧺ k θ Φ B", "(A cat (k rotate (reverse B)))"),
    ("+/ A × B", "(reduce +(A) * B)"),
    ("⌈/Ω⟨1⟩ A", "reduce max(A, [1])"),
    ("+\\ A", "scan +(A)"),
    ("A +•× B •- C", "outer -(inner + *(A, B), C)"),
    ("S −Ω⟨1 0⟩ m ÷Ω⟨1 0⟩ z", "omega -([1, 0], S, omega /([1, 0], m, z))"),
    ("ι n + τ A × δ A", "((iota n) + ((tau A) * (delta A)))"),
]


@pytest.mark.parametrize(("text", "expected"), PRECEDENCE)
def test_precedence(text: str, expected: str) -> None:
    assert formula(text) == expected


def test_a_formula_may_go_over_lines() -> None:
    assert formula("\n  a +   # first\n    b\n\n") == "(a + b)"


def test_formula_of_several_results() -> None:
    (result,) = parse_expression("a, b", "e", {}).functions[0].body
    assert isinstance(result, ir.Return)
    assert [text_of(v) for v in result.values] == ["a", "b"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples(path: Path) -> None:
    source = parse(path.read_text(encoding="utf-8"), path.name)
    assert [f.name.name for f in source.functions] == [path.stem]


def test_every_example_is_there() -> None:
    names = ["aaren", "alibi", "attention", "causal", "gqa", "linear", "neighbours_min", "window", "with_lse"]
    assert set(names) <= {p.stem for p in EXAMPLES}


def test_statements() -> None:
    source = parse("def f(x):\n    (a, b), c = x\n    i, j = a, b\n    y = i\n    return y, (j, c)\n", "t")
    one, two, three, last = source.functions[0].body
    assert isinstance(one, ir.Assign) and one.unpack
    assert isinstance(one.targets[0], tuple) and [n.name for n in one.targets[0]] == ["a", "b"]
    assert isinstance(two, ir.Assign) and isinstance(two.value, ir.Sequence)
    assert isinstance(three, ir.Assign) and not three.unpack
    assert isinstance(last, ir.Return) and len(last.values) == 2


def test_parameters() -> None:
    listed = "Q[..., n, 2 * d], idx: int[n], keep: bool[m, 1], w: int, c: float = 1e-6, x=3, flag: bool = True"
    text = f"def f({listed}): return c"
    p = parse(text, "t").functions[0].parameters
    assert [(x.name.name, x.kind, None if x.dims is None else [text_of(d) for d in x.dims]) for x in p] == [
        ("Q", "f", ["...", "n", "(2 * d)"]),
        ("idx", "i", ["n"]),
        ("keep", "b", ["m", "1"]),
        ("w", "i", None),
        ("c", "f", None),
        ("x", "", None),
        ("flag", "b", None),
    ]
    assert [None if x.default is None else text_of(x.default) for x in p[4:]] == ["1e-06", "3", "True"]


def test_shape_texts() -> None:
    shapes = {
        "Q": "... n dk",
        "idx": "int n r",
        "keep": "bool m",
        "w": "int",
        "c": "float",
        "d": "",
        "one": "float 1 n",
    }
    p = parse_expression("Q", "e", shapes).functions[0].parameters
    assert [(x.name.name, x.kind, None if x.dims is None else [text_of(d) for d in x.dims]) for x in p] == [
        ("Q", "f", ["...", "n", "dk"]),
        ("idx", "i", ["n", "r"]),
        ("keep", "b", ["m"]),
        ("w", "i", None),
        ("c", "f", None),
        ("d", "f", None),
        ("one", "f", ["1", "n"]),
    ]
    assert p[0].dims is not None and p[0].dims[1].span.file == "shape of Q"


@pytest.mark.parametrize("newline", ["\r\n", "\r", "\n"])
@pytest.mark.parametrize("indent", ["    ", "\t", " "])
@pytest.mark.parametrize("end", ["", "NEWLINE", "NEWLINE  # end", "NEWLINENEWLINE    NEWLINE"])
def test_layout_does_not_matter(newline: str, indent: str, end: str) -> None:
    head = "# top\n\ndef f(\n  X[n],\n\n    c: float): # head\n\n# left\n"
    text = f"{head}{indent}y = X # y\n\n{indent}  # deep\n{indent}return y"
    f = parse((text + end.replace("NEWLINE", "\n")).replace("\n", newline), "t").functions[0]
    assert len(f.body) == 2 and len(f.parameters) == 2


def test_spans_point_at_the_text() -> None:
    text = "def f(X[n, d]):\n    return sqrt((X + 1)).T\n"
    result = parse(text, "t").functions[0].body[0]
    assert isinstance(result, ir.Return)

    def part(node: Any) -> str:
        return text[node.span.start : node.span.end]

    node = result.values[0]
    assert isinstance(node, ir.Transposed) and part(node) == "sqrt((X + 1)).T"
    assert isinstance(node.array, ir.Call) and part(node.array) == "sqrt((X + 1))"
    assert part(node.array.args[0]) == "X + 1"
    assert part(result) == "return sqrt((X + 1)).T"


def test_numbers_are_exact() -> None:
    (result,) = parse_expression("0.1", "e", {}).functions[0].body[0].values  # type: ignore[union-attr]
    assert isinstance(result, ir.Num) and result.value == Fraction(1, 10) and not result.is_int


TOO_LARGE = {
    "parentheses": "(" * 5000 + "X" + ")" * 5000,
    "calls": "exp(" * 150 + "X" + ")" * 150,
    "signs": "-" * 20000 + "X",
    "postfix": "X" + ".T" * 20000,
    "powers": "X" + "**X" * 20000,
    "indices": "X" + "[0]" * 20000,
    "characters": "X" + " " * 1_000_000,
    "digits": "9" * 10_000,
    "exponent": "1e999999999",
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_too_large(name: str) -> None:
    with pytest.raises(MoaError) as e:
        parse(f"def f(X[n, n]):\n    return {TOO_LARGE[name]}\n", "t")
    assert e.value.kind == "limit"
    assert len(str(e.value)) < 1000


def test_a_long_chain_is_no_depth() -> None:
    node = parse(f"def f(X[n]):\n    return X{' + X' * 5000}\n", "t").functions[0].body[0]
    assert isinstance(node, ir.Return)


def test_many_threads_share_the_parser() -> None:
    found: list[str] = []

    def work(k: int) -> None:
        for _ in range(10):
            found.append(formula(f"(a{k} + b) * c") if k % 2 else parse("def f(x):\n    return x\n", "t").span.file)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(set(found)) == ["((a1 + b) * c)", "((a3 + b) * c)", "t"]


def test_importing_builds_no_parser() -> None:
    code = "import sys, moa.parse, moa.check; sys.exit('lark' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nodes_hold_no_token_of_the_parser() -> None:
    def visit(node: Any) -> None:
        assert type(node).__module__ in ("moa.ir", "moa.text", "builtins", "fractions"), type(node)
        if isinstance(node, tuple):
            for x in node:
                visit(x)
        elif dataclasses.is_dataclass(node) and not isinstance(node, Span):
            for f in dataclasses.fields(node):
                visit(getattr(node, f.name))

    visit(parse("def f(X[n, 2], c: float = 1):\n    a, b = X[0:1], ⟨c 1⟩ ψ X\n    return f(a, k=~b < 1), X.T\n", "t"))
