"""No pass may know a name: with every function and parameter renamed, and exp written as a power of two, all stays."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

import moa
from moa.oracle import oracle

EXAMPLES = sorted(Path(__file__).parent.parent.joinpath("examples").glob("*.moa"))
PRELUDE = resources.files("moa.grammar").joinpath("prelude.moa").read_text(encoding="utf-8")
DEFINED = re.findall(r"^def (\w+)", PRELUDE, re.MULTILINE)
POWER = "def raised(whatever):\n    return 2 ** (whatever * 1.4426950408889634)\n\n"


def words(text: str, names: dict[str, str]) -> str:
    """The text with whole words replaced."""
    return re.sub(r"\b\w+\b", lambda m: names.get(m[0], m[0]), text)


def disguised(text: str) -> str:
    """The program with the prelude written into it under other names, and other names for all parameters."""
    functions = {name: f"f{k}_" for k, name in enumerate(DEFINED)} | {"exp": "raised"}
    prelude = words(PRELUDE, functions | {"x": "operand"})
    parameters = dict.fromkeys(re.findall(r"\b([A-Z]\w*|q|slope)\[", text))
    own = {name: f"p{k}_" for k, name in enumerate(re.findall(r"^def (\w+)", text, re.MULTILINE))}
    return POWER + prelude + "\n" + words(text, functions | own | {p: f"arg{k}" for k, p in enumerate(parameters)})


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_passes_stay(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    plain, other = moa.compile(text), moa.compile(disguised(text))
    assert "softmax" not in disguised(text).split("def p0_")[1]
    assert other.passes == plain.passes
    laws = [s.law for s in plain.derivation.trace.steps]
    assert [s.law for s in other.derivation.trace.steps] == laws


def test_values_stay() -> None:
    text = Path(__file__).parent.parent.joinpath("examples", "causal.moa").read_text(encoding="utf-8")
    kernel = moa.compile(disguised(text))
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((2, 70, 5)) for _ in range(3)]
    names = [p.name for p in kernel.derivation.program.inputs]
    (exact,) = oracle(moa.compile(text)._derive(1).program, dict(zip("QKV", arrays, strict=True)))
    np.testing.assert_allclose(kernel(**dict(zip(names, arrays, strict=True))), exact, rtol=0, atol=1e-13)
