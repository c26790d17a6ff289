"""The table of systems: its rows agree with PyTorch at small sizes, run, are kept, and compile for every backend.

Nothing depends on how long anything takes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import moa
from benchmarks import systems
from benchmarks.rows import ROWS, Row
from benchmarks.sampling import Peer, Sample
from benchmarks.systems import arrays, error, main, peers_of

TITLES = [r.title for r in ROWS]


def small(row: Row, dtype: str) -> dict[str, object]:
    given = row.given(np.random.default_rng(1), row.small)
    floats = {k for k, x in given.items() if isinstance(x, np.ndarray) and x.dtype.kind == "f"}
    return {k: x.astype(dtype) if k in floats else x for k, x in given.items()}


@pytest.mark.parametrize("row", ROWS, ids=TITLES)
def test_pytorch_computes_the_same(row: Row) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    given = small(row, "float64")
    kernel = moa.compile(row.path, function=row.function)
    peers, _, absent = peers_of(row, given, 1, False)
    assert not absent
    want = arrays(peers[0].run())
    assert all(np.isfinite(np.asarray(w)).all() and np.asarray(w).any() for w in want)
    assert error(arrays(kernel(**given)), want) < 1e-11


FIRST = {r.program: r for r in reversed(ROWS)}  # of each program; the other functions take minutes


@pytest.mark.parametrize(
    "row", [pytest.param(r, id=r.title, marks=() if FIRST[r.program] is r else pytest.mark.slow) for r in ROWS]
)
def test_every_backend_explains_costs_and_prints(row: Row) -> None:
    first = moa.compile(row.path, function=row.function, dtype="float32")
    kernels = [moa.compile(row.path, function=row.function, dtype="float32", backend=b) for b in ("c", "cuda")]
    for kernel in kernels:  # the way to the equations is the same: it is gone once
        kernel._derivations, kernel._many_rows = first._derivations, first._many_rows
    assert row.function in str(first.explain())
    assert all(f"cost of {row.function}" in str(kernel.cost()) for kernel in (first, *kernels))
    assert "define" in str(first.source())
    assert "static" in kernels[0].source() and "__global__" in kernels[1].source()


def test_lines_are_those_of_what_is_needed() -> None:
    lines = {r.title: r.lines() for r in ROWS}
    assert lines["Linformer"] == 2 and lines["generative function: minima"] == 4


def test_an_error_is_relative_to_large_values_only() -> None:
    one, large = np.array([0.25]), np.array([100.0, 0])
    assert error((one,), (one + 0.5,)) == 0.5 and error((large,), (large + np.array([0.0, 1]),)) == 0.01


def test_rows_are_kept_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.json"
    common = ["--seconds", "0", "--threads", "1", "--json", str(path)]
    assert main(["--rows", "Aaren: one token", *common]) == 0
    assert main(["--rows", "rule: linear", *common]) == 0
    capsys.readouterr()
    kept = json.loads(path.read_text())["cells"]
    assert set(kept) == {"Aaren: one token", "ONNX rule: linear"} and kept["Aaren: one token"]["times"]["moa"]["ms"] > 0
    assert main(["--rows", "one token", "--show", "--markdown", "--json", str(path)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert (
        shown[0].startswith("| system | n |") and len(shown) == 3 and shown[2].startswith("| Aaren: one token | 16 |")
    )


def test_without_pytorch_its_columns_say_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "r.json"
    assert main(["--rows", "Aaren: one token", "--seconds", "0", "--threads", "1", "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[1].count("absent") == 3 and "absent: torch: torch is not installed" in printed


def test_an_interruption_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.json"

    def stopped(peers: list[Peer], *rest: object) -> None:
        peers[0].samples.append(Sample(1.0, 1.0, 1.0, False))
        raise KeyboardInterrupt

    monkeypatch.setattr(systems, "measure", stopped)
    assert main(["--rows", "token", "--threads", "1", "--json", str(path)]) == 130
    (kept,) = json.loads(path.read_text())["cells"].values()
    assert kept["times"]["moa"]["ms"] == 1000.0 and kept["interrupted"]


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--rows", "nothing of this name"])
    assert "--list prints the names" in capsys.readouterr().err
    assert main(["--list", "--rows", "Lean"]) == 0
    assert capsys.readouterr().out.splitlines() == ["LeanAttention: one token", "LeanAttention: unequal cuts"]
