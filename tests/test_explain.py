"""Explain: what each stage prints for each example (golden), and that the page is true, consistent and safe."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from programs import numbered

import moa
from moa import MoaError
from moa.explain import explain
from moa.explain.laws import put_in
from moa.explain.names import names_of
from moa.explain.text import factored, wrapped
from moa.loops import For, If, Loops, Op, Stmt
from moa.normal import Eq, Fold
from moa.pipeline import STAGES
from moa.poly import size

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted(p.stem for p in (ROOT / "examples").glob("*.moa"))
WIDTH = 16  # lanes: the golden files are those of one machine, on any machine

Golden = Callable[[str], str]


@cache
def compiled(name: str) -> moa.Kernel:
    """An example, its file named as from the root of the repository."""
    from moa.kernel import Kernel
    from moa.parse import parse

    path = f"examples/{name}.moa"
    return Kernel(parse((ROOT / path).read_text(encoding="utf-8"), path), "float32", {})


@cache
def page(name: str) -> str:
    k = compiled(name)
    return explain(k, placed=k.for_many_rows(WIDTH))


def statements(body: tuple[Stmt, ...]) -> Iterator[Op]:
    for s in body:
        match s:
            case Op():
                yield s
            case For():
                yield from statements(s.body)
            case If():
                yield from statements(s.then)
                yield from statements(s.other)


def digest(loops: Loops) -> str:
    """Loops in short: per function its instructions by kind, and a digest of the whole text."""
    lines = [f"{loops.dtype} width {loops.width}, sha256 {hashlib.sha256(str(loops).encode()).hexdigest()}"]
    for f in loops.functions:
        counts = Counter(op.op for op in statements(f.body))
        lines.append(f"{f.name}({len(f.params)}): " + ", ".join(f"{op} {n}" for op, n in sorted(counts.items())))
    return "\n".join(lines)


# Golden --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("stage", ["program", "equations", "normal", "tiles", "explain"])
def test_golden(name: str, stage: str, golden: Golden) -> None:
    k = compiled(name)
    text = page(name) if stage == "explain" else explain(k, stage, placed=k.for_many_rows(WIDTH))
    assert str(text) == golden(f"{stage}/{name}")


@pytest.mark.parametrize("name", EXAMPLES)
def test_golden_loops(name: str, golden: Golden) -> None:
    assert digest(compiled(name).for_many_rows(WIDTH).lowered.loops) == golden(f"loops/{name}")


def test_golden_is_compared(tmp_path: Path) -> None:
    from conftest import Golden

    path = tmp_path / "stage" / "x.txt"
    assert Golden(path, accept=False) != ""  # a file that is not there equals nothing
    assert Golden(path, accept=True) == "a\nb"
    assert path.read_text(encoding="utf-8") == "a\nb\n"
    assert Golden(path, accept=False) == "a\nb"
    assert Golden(path, accept=False) != "a\nc"
    assert Golden(path, accept=False) != "a\nc"


def test_the_same_text_whatever_the_hash_seed() -> None:
    code = "import moa; k = moa.compile('examples/linear.moa'); print(k.explain() + k.explain('tiles'))"
    texts = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1


# The page is true ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_law_that_fired_is_on_the_page(name: str) -> None:
    k, text = compiled(name), page(name)
    trace, steps = k.derivation.trace, k.derivation.forms[0].steps
    for s in steps:
        assert f"{s.law}  ({s.contract}" in text
    for rule, n in trace.counts.items():
        assert f"{rule} {n}" in text.replace("\n               ", " ")
    for g in k.derivation.report.groups:
        assert f"{g.passes[0][1]} pass" in text
    for contract in {s.contract for s in steps} - {"exact"}:
        assert re.search(rf"^(contract)?\s+{contract} \(", text, re.MULTILINE)


def test_the_page_of_attention() -> None:
    lines = [line.strip() for line in page("attention").splitlines()]
    for wanted in (
        "formula      softmax(Q @ K.T / sqrt(dk)) @ V",
        "QK[i, j] = sum_k Q[i, k] * K[j, k]",
        "out[i, c] = sum_j softmax[i, j] * V[j, c]",
        "M[i] = max_j QK[i, j] / sqrt(dk)",
        "-> M0[i] = max_j QK[i, j]; M[i] = M0[i] / sqrt(dk)",
        "out[i, c] = sum_j e[i, j] / where(l[i] == 0, 1, l[i]) * V[j, c]",
        "-> out0[i, c] = sum_j e[i, j] * V[j, c]; out[i, c] = out0[i, c] / where(l[i] == 0, 1, l[i])",
        "{M, l, out} over j < m: 3 passes, 2 after defer, 1 after change of reference",
        "l[i]         0           * exp(1 / sqrt(dk) * (r - r'))   + w[i, j]",
    ):
        assert wanted in lines, wanted
    assert "flops 2*m*n*(dk + dv) + 6*m*n" in page("attention")


def test_domains_are_ranges_of_the_kernel() -> None:
    text = page("causal")
    assert "max_{j: i >= j} x[i, j]" in text
    assert "for j in 0 .. i@0 by 192: full tiles, nothing is tested" in text
    assert "for j in i@0 .. min(i@0 + 64, n) by 192: partial tiles, each element is tested" in text


def test_nothing_fired_says_so() -> None:
    assert re.search(r"^laws         none was needed$", page("neighbours_min"), re.MULTILINE)


def test_refusals_have_their_reason() -> None:
    k = moa.compile("tanh(max(X, axis=-1, keepdims=True) - X) @ Y + sum(tanh(X - max(X, axis=-1, keepdims=True)), "
                    "axis=-1, keepdims=True)", X="n m", Y="m d")  # fmt: skip
    text = k.explain()
    assert k.passes[1] == 2
    assert re.search(r"^refused      change of reference, for .*tanh", text, re.MULTILINE)


def test_a_recurrence_is_shown() -> None:
    text = moa.compile(
        "def step(S, x):\n    k, g = x\n    return g * S + k\n"
        "def f(K[n, d], G[n, d]):\n    return scan(step, (K, G), axis=0, init=zeros(d))\n"
    ).explain()
    assert "one step after the other; every state is kept" in text


def test_the_variant_that_ran_is_shown() -> None:
    k = moa.compile("X @ Y", X="... n k", Y="... k m", dtype="float32")
    assert "stands for no axes" in k.explain()
    x = np.ones((2, 3, 5, 4), np.float32)
    k(x, x.swapaxes(-1, -2))
    text = k.explain()
    assert "stands for batch0, batch1 on this page" in text
    assert "-> [..., n, m]" in text.splitlines()[0]
    assert k.source() == k.explain("source")
    assert "batch0" in str(k.cost())


# The page is consistent ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_one_letter_for_one_axis(name: str) -> None:
    k = compiled(name)
    names = names_of(k._source, k.derivation, k.derivation.forms[0])
    for system in ("inlined", "equations", "streamed"):
        for e in getattr(k.derivation, system).equations:
            assert isinstance(e, Eq | Fold)
            for x in (e,) if isinstance(e, Eq) else e.maps:
                own = [v for v, _ in (*x.outer, *((x.red,) if x.red else ()))]
                assert len({names.letter((system, x.name), v) for v in own}) == len(own)
    shown = [names.array("equations", e.name) for e in k.derivation.equations.equations if isinstance(e, Eq)]
    inputs = {p.name for p in k.derivation.program.inputs} | set(k.derivation.program.sizes())
    assert not inputs & set(shown)
    assert len(set(shown)) >= len(shown) - len(k.derivation.equations.outputs)  # an output may copy a reduction


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_letters_are_those_of_the_results(name: str) -> None:
    assert re.search(r"^\s+out\d?\[(\w+, )*(i, c|i)\] = ", page(name), re.MULTILINE)
    assert not re.search(r"\br\d+(\.\d+)?\[", page(name)), "a reduction under its number"


def test_names_come_from_the_text() -> None:
    text = "def soft(y):\n    top = max(y, axis=-1, keepdims=True)\n    w = exp(y - top)\n" \
           "    return w / sum(w, axis=-1, keepdims=True)\n" \
           "def f(A[n, d], B[m, d], C[m, e]):\n    logits = A @ B.T\n    return soft(logits) @ C\n"  # fmt: skip
    shown = moa.compile(text).explain()
    for wanted in ("logits[i, j] = sum_k A[i, k] * B[j, k]", "top[i] = max_j logits[i, j]", "soft[i, j] = w[i, j] / "):
        assert wanted in shown
    assert "3 passes, 2 after defer, 1 after change of reference" in shown


@pytest.mark.parametrize("names", ["i j k c", "r u w out", "r0 t0 r1 x"])
def test_names_of_the_user_are_never_taken(names: str) -> None:
    a, b, n, d = names.split()
    text = moa.compile(f"softmax({a} @ {b}.T) @ {b}", **{a: f"{n} {d}", b: f"{n} {d}"}).explain()
    letters = re.search(r"for (.*); flops", text)
    assert letters is not None
    assert not {x.split(" < ")[0] for x in letters.group(1).split(", ")} & {a, b, n, d}


@pytest.mark.parametrize("seed", range(12))
def test_any_program_has_a_page(seed: int) -> None:
    k = moa.compile(numbered(seed).text)
    text = k.explain()
    assert text.isprintable() or all(c.isprintable() or c == "\n" for c in text)
    assert all(stage == "source" or k.explain(stage) for stage in STAGES)


# Small parts ---------------------------------------------------------------------------------------------------------


def test_an_expression_is_put_in_only_where_it_is_one_operand() -> None:
    for text, part, wanted in (
        ("exp(a / b - c)", "a / b", "exp(x - c)"),
        ("a / b * c", "a / b", "x * c"),
        ("c * a / b", "a / b", "c * a / b"),
        ("c - a / b", "a / b", "c - x"),
        ("c / a / b", "a / b", "c / a / b"),
        ("a - b - c", "a - b", "a - b - c"),
        ("c - (a - b)", "a - b", "c - (x)"),
        ("f(a, b)[i]", "f(a, b)", "f(a, b)[i]"),
        ("exp(a) * exp(a)", "exp(a)", "x * x"),
        ("sum_j f(a) * b", "f(a)", "sum_j x * b"),
        ("sum_{j: i >= j} a / b", "a / b", "sum_{j: i >= j} x"),
    ):
        assert put_in(text, part, "x")[0] == wanted


def test_factored_is_the_same_polynomial() -> None:
    n, m, a, b = (size(x) for x in "nmab")
    assert factored(n * m * a * 2 + n * m * b * 2 + n * m * 6) == "2*m*n*(a + b) + 6*m*n"
    assert factored(n * m - n) == "m*n - n"
    assert factored(n * a * 3 + n * b * 6 - n) == "3*n*(a + 2*b) - n"
    assert factored(n - n) == "0"


def test_wrapped_lines() -> None:
    assert wrapped("  a bb ccc", 4, 7) == ["  a bb", "    ccc"]
    assert wrapped("x", 4, 7) == ["x"]


def test_mistakes() -> None:
    k = compiled("attention")
    with pytest.raises(MoaError, match=r"there is no stage 'nor\\x1b'"):
        k.explain("nor\x1b")
    with pytest.raises(MoaError, match="no value for dk, m, dv"):
        k.cost(n=3)
    with pytest.raises(MoaError, match="attention has no size q"):
        k.cost(q=3)


def test_a_reshape_by_a_run_time_size_has_a_page() -> None:
    """isl knows no end for what a run-time size divides: the words are then not exact, and the page says so."""
    text = "def f(E[v, c], k: int[b, n], size: int):\n    return sum(reshape(E[k], [b, n // size, size * c]))\n"
    page = str(moa.compile(text).explain())
    assert "words" in page
