"""The runner of files with outside results: on files made here, and on those in tests/data/outside.

MOA_GOLDEN_DATA names another folder of that format.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published import over_heads, recurrence, scaled

from tests.golden.__main__ import difference, main, outcome

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(os.environ.get("MOA_GOLDEN_DATA") or ROOT / "tests" / "data" / "outside")


def attention(**more: Any) -> dict[str, Any]:
    """What a file of the format holds: two heads of queries to one of keys."""
    rng = np.random.default_rng(3)
    Q, K, V = (rng.standard_normal(shape) for shape in ((2, 4, 5, 3), (2, 2, 7, 3), (2, 2, 7, 2)))
    O = over_heads(lambda q, k, v: scaled(q, k, v, 0.5), Q, np.repeat(K, 2, axis=1), np.repeat(V, 2, axis=1))
    return {"system": "sdpa", "tol": 1e-12, "scale": 0.5, "heads_per_kv_head": 2, "Q": Q, "K": K, "V": V, "O": O} | more


def delta() -> dict[str, Any]:
    """A recurrence of one head with its last state; O is imprecise, O_wide is not."""
    rng = np.random.default_rng(4)
    Q, K, V, past = (rng.standard_normal((1, 1, *shape)) for shape in ((5, 3), (5, 3), (5, 2), (3, 2)))
    beta = rng.random((1, 1, 5, 1))
    O, S = recurrence(Q[0], K[0, 0], V[0, 0], past[0, 0], 0.5, beta=beta[0, 0, :, 0], delta=True)
    arrays = {"Q": Q, "K": K, "V": V, "beta": beta, "state_in": past, "O_wide": O[None], "state_out": S[None, None]}
    return {"system": "delta", "tol": 1e-6, "scale": 0.5, "O": O[None] + 1e-7, **arrays}


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_files_of_any_name_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "one.npz", **attention())
    write(tmp_path / "another name.npz", **delta())
    assert main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines] == ["ok", "ok"]
    assert "delta" in lines[0] and "of 1.0e-12" in lines[0] and "one.npz" in lines[1]
    assert main([str(tmp_path), "--dtype", "float32"]) == 0


def test_a_wrong_value_fails(tmp_path: Path) -> None:
    wrong = attention()
    wrong["O"][1, 2, 3, 1] += 1e-11
    found = outcome(write(tmp_path / "x.npz", **wrong))
    assert found.state == "FAIL" and found.error is not None and 0.5e-11 < found.error < 2e-11
    assert outcome(write(tmp_path / "x.npz", **(wrong | {"tol": 1e-10}))).state == "ok"
    assert main([str(tmp_path), "--json"]) == 0
    late = delta()
    late["state_out"][0, 0, 2, 1] += 1e-4
    assert outcome(write(tmp_path / "y.npz", **late)).state == "FAIL"
    assert main([str(tmp_path), "--json"]) == 1


@pytest.mark.parametrize(
    ("change", "state", "reason"),
    [
        ({"system": "an unheard-of one"}, "skipped", "there is no program for this system"),
        ({"system": "sdpa\n\x1b[31m"}, "skipped", "there is no program for this system"),
        ({"system": np.array(["a", "b"])}, "FAIL", "`system` is one value, here it has shape [2]"),
        ({"scale": None}, "FAIL", "the file has no `scale`"),
        ({"heads_per_kv_head": 3}, "FAIL", "4 heads of Q, 2 of K, 3 to one"),
        ({"K": np.ones((2, 2, 7, 9))}, "FAIL", "dk"),
        ({"O": np.ones((2, 4, 5, 9))}, "FAIL", "shape [2, 2, 2, 5, 2], expected [2, 4, 5, 9]"),
        ({"Q": np.ones(3)}, "FAIL", "arrays of other shapes than the system has"),
        ({"scale": "many"}, "FAIL", "`scale` is not a number"),
        ({"tol": "none"}, "FAIL", "`tol` is not a number"),
        ({"O": np.full((2, 4, 5, 2), np.nan)}, "FAIL", ""),
    ],
)
def test_a_file_that_cannot_be_compared_is_a_line(
    tmp_path: Path, change: dict[str, Any], state: str, reason: str
) -> None:
    arrays = {k: v for k, v in (attention() | change).items() if v is not None}
    found = outcome(write(tmp_path / "x.npz", **arrays))
    assert found.state == state and reason in found.reason
    assert "\n" not in str(found) and "\x1b" not in str(found)


def test_broken_and_foreign_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write(tmp_path / "good.npz", **attention())
    (tmp_path / "cut.npz").write_bytes(good.read_bytes()[:900])
    (tmp_path / "empty.npz").touch()
    (tmp_path / "folder.npz").mkdir()
    write(tmp_path / "foreign.npz", numbers=np.arange(3))
    with (tmp_path / "object.npz").open("wb") as f:
        np.savez(f, system=np.array([{"a": 1}], dtype=object))
    assert main([str(tmp_path), "--json"]) == 1
    states = {o["name"]: (o["state"], o["reason"]) for o in json.loads(capsys.readouterr().out)}
    assert states.pop("good.npz") == ("ok", "")
    assert states.pop("foreign.npz") == ("skipped", "another format: it names no `system`")
    assert len(states) == 4 and all(s == "FAIL" and "cannot be read" in reason for s, reason in states.values())


def test_a_folder_without_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "no .npz file in" in capsys.readouterr().err


def test_the_command(tmp_path: Path) -> None:
    write(tmp_path / "one.npz", **attention())
    words = [sys.executable, "-m", "tests.golden", str(tmp_path)]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0 and found.stdout.rstrip().endswith("ok") and not found.stderr


def test_difference() -> None:
    inf, nan = np.array([np.inf]), np.array([np.nan])
    assert difference(inf, inf) == 0 and difference(inf, -inf) == np.inf and difference(nan, inf) == np.inf
    assert difference(np.array([3.0]), np.array([4.0])) == 0.25 and difference(np.zeros(0), np.zeros(0)) == 0


FILES = sorted(FOLDER.glob("*.npz"))


def test_there_are_results_of_other_packages() -> None:
    assert FILES, FOLDER


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_folder(path: Path) -> None:
    found = outcome(path)
    assert found.state != "FAIL", str(found)
