"""Tuning: candidates compute the same, what won is used and kept, and an interruption leaves a kernel that works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import moa
from moa import tune as tuning
from moa.candidates import neighbours
from moa.cli import app
from moa.kernel import Kernel
from moa.text import MoaError

TEXT = """
def f(Q[..., n, d], K[..., m, d], V[..., m, c]):
    return softmax(Q @ K.T) @ V
"""


def made(dtype: str = "float32") -> Kernel:
    return moa.compile(TEXT, dtype=dtype)


def given(n: int, m: int) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((2, x, 8)).astype("f") for x in (n, m, m)]


def wins(k: int) -> Any:
    """Samples in which the k-th candidate is the fastest."""

    def sampled(runs: list[Any], limit_s: float, now: Any) -> tuple[list[list[float]], bool]:
        return [[1.0 if at == k else 2.0] * 3 for at in range(len(runs))], False

    return sampled


@pytest.mark.parametrize("n", [1, 5, 17, 33, 70])
def test_every_candidate_computes_the_same(n: int) -> None:
    kernel, arrays = made(), given(n, 301)
    values = kernel._arguments(tuple(arrays), {})
    want = kernel(*arrays)
    model = kernel._choice(values, None)
    found = (model, *neighbours(model))
    assert len(found) == len(set(found)) >= 4
    for s in found:
        assert np.abs(kernel._call_by(values, 1, s).run(values) - want).max() < 2e-6, s


def test_what_won_is_used_by_calls_of_its_class_and_in_other_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOA_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("MOA_CACHE", "1")
    monkeypatch.setattr("moa.cache.made_by", lambda: "this version")  # sources may change while the tests run
    monkeypatch.setattr(tuning, "sampled", wins(2))
    kernel, arrays = made(), given(70, 301)
    kernel(*arrays)
    found = kernel.tune(*arrays)
    assert found.chosen == 2 and found.gain == 2 and "used from now on" in str(found)
    best = found.candidates[2].strategy
    for k in (kernel, made()):
        k(*given(80, 290))
        assert list(k._variants)[-1][-1] == best
        k(*given(80, 800))  # of another class
        assert list(k._variants)[-1][-1] == found.candidates[0].strategy
    monkeypatch.setenv("MOA_TUNED", "0")
    other = made()
    other(*arrays)
    assert list(other._variants)[-1][-1] == found.candidates[0].strategy


def test_what_is_not_kept_is_used_here_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tuning, "sampled", wins(1))
    kernel, arrays = made(), given(70, 301)
    best = kernel.tune(*arrays, keep=False).candidates[1].strategy
    kernel(*arrays)
    assert list(kernel._variants)[-1][-1] == best
    other = made()
    other(*arrays)
    assert list(other._variants)[-1][-1] != best


@pytest.mark.parametrize("times, chosen", [([1.0, 0.99], 0), ([1.0, 0.97], 1), ([1.0, 2.0], 0)])
def test_another_choice_wins_only_where_it_is_clearly_faster(
    times: list[float], chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sampled(runs: list[Any], limit_s: float, now: Any) -> tuple[list[list[float]], bool]:
        return [[x] * 3 for x in (*times, *[3.0] * (len(runs) - 2))], False

    monkeypatch.setattr(tuning, "sampled", sampled)
    assert made().tune(*given(40, 50), keep=False).chosen == chosen


def test_an_interruption_is_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, arrays = made(), given(40, 50)
    calls = []

    def now(text: str) -> None:
        calls.append(text)
        if text.startswith("timing, 1 "):
            raise KeyboardInterrupt

    found = kernel.tune(*arrays, keep=False, now=now)
    assert found.interrupted and found.chosen == 0 and "interrupted" in str(found)
    assert any("compiling 1 of" in x for x in calls) and np.isfinite(kernel(*arrays)).all()


def test_mistakes() -> None:
    with pytest.raises(MoaError, match="no time to measure in"):
        made().tune(*given(4, 5), limit_s=0.0)
    with pytest.raises(MoaError, match="no parameter and no size"):
        made().tune(n=3, q=4)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOA_CACHE_DIR", str(tmp_path / "cache"))
    file = tmp_path / "f.moa"
    file.write_text(TEXT)
    sizes = [x for k, v in {"n": 33, "m": 50, "d": 8, "c": 8}.items() for x in ("--size", f"{k}={v}")]
    common = ["tune", str(file), *sizes, "--lead", "2", "--seconds", "0.01"]
    done = CliRunner().invoke(app, common)
    assert done.exit_code == 0 and "the model's choice" in done.output, done.output
    answer = json.loads(CliRunner().invoke(app, [*common, "--json"]).output)
    assert answer["sizes"]["n"] == 33 and 0 <= answer["chosen"] < len(answer["candidates"])
    assert all(c["samples"] >= 3 and c["time_s"] > 0 for c in answer["candidates"])
