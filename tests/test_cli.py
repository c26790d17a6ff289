"""The command line: what it prints, exit codes, and that what is given cannot harm a terminal or a machine."""

from __future__ import annotations

import json
import os
import pickle
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from moa import __main__ as entry
from moa.cache import Cache
from moa.cli import app
from moa.kernel import Kernel
from moa.verify import Verification
from moa.verify.check import Check

ROOT = Path(__file__).resolve().parent.parent
ATTENTION = str(ROOT / "examples" / "attention.moa")
CAUSAL = str(ROOT / "examples" / "causal.moa")
COMMANDS = ("run", "explain", "verify", "cost", "measure", "emit", "step", "laws", "ops", "machine", "cache")
WINDOW = str(ROOT / "examples" / "window.moa")
FORMULA = ("softmax(Q @ K.T) @ V", "--shape", "Q=n d", "--shape", "K=m d", "--shape", "V=m dv")


def moa(*words: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of a command in this process."""
    found = CliRunner().invoke(app, words)
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    return found.exit_code, found.stdout, found.stderr


def shell(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "moa.cli", *words], capture_output=True, text=True, cwd=ROOT, **options
    )


@pytest.fixture
def arrays(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray[Any, Any]]]:
    rng = np.random.default_rng(0)
    found = {k: rng.standard_normal((9, 4)).astype(np.float32) for k in "QKV"}
    np.savez(tmp_path / "data.npz", **found)  # type: ignore[arg-type]
    for k, x in found.items():
        np.save(tmp_path / f"{k}.npy", x)
    return tmp_path, found


# What it does --------------------------------------------------------------------------------------------------------


def test_run_on_files(arrays: tuple[Path, dict[str, np.ndarray[Any, Any]]]) -> None:
    folder, a = arrays
    out = folder / "out.npz"
    code, text, _ = moa(
        "run", ATTENTION, f"Q={folder}/Q.npy", f"K={folder}/data.npz:K", f"V={folder}/data.npz", "--out", str(out)
    )
    assert code == 0, text
    assert "out: float32[9, 4] =" in text
    assert "passes 3 -> 1" in text
    s = a["Q"] @ a["K"].T / 2
    p = np.exp(s - s.max(-1, keepdims=True))
    with np.load(out) as written:
        np.testing.assert_allclose(written["out"], p / p.sum(-1, keepdims=True) @ a["V"], atol=1e-5)


def test_run_on_random_arrays() -> None:
    size = ("--size", "n=70", "--size", "dk=8", "--size", "dv=8")
    words = ("run", WINDOW, "w=5", *size, "--lead", "2", "--dtype", "float64")
    code, text, _ = moa(*words, "--threads", "1")
    assert code == 0
    assert text.startswith("out: float64[2, 70, 8], min ")
    assert text.splitlines()[0] == moa(*words)[1].splitlines()[0]
    assert text.splitlines()[0] != moa(*words, "--seed", "1")[1].splitlines()[0]


def test_run_a_formula_with_several_outputs() -> None:
    code, text, _ = moa("run", "sum(X), max(X)", "--shape", "X=n m", "--size", "n=2", "--size", "m=3")
    assert code == 0
    assert "out0: float32[2] =" in text and "out1: float32[2] =" in text


def test_explain() -> None:
    code, text, _ = moa("explain", *FORMULA)
    assert code == 0
    assert text.startswith("<expression>:1  expression(Q[n, d], K[m, d], V[m, dv]) -> [n, dv]  in float32\n")
    assert "{M, l, out} over j < m: 3 passes, 2 after defer, 1 after change of reference" in text
    for stage, word in (("program", "@ V"), ("tiles", "phase"), ("loops", "fn "), ("source", "define ")):
        code, text, _ = moa("explain", CAUSAL, "--stage", stage)
        assert code == 0 and word in text


def test_cost() -> None:
    code, text, _ = moa("cost", ATTENTION, *(w for s in ["n=64", "m=64", "dk=8", "dv=8"] for w in ("--size", s)))
    assert code == 0
    assert "cost of attention at n = 64" in text
    assert moa("cost", ATTENTION)[0] == 0


def test_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    code, text, _ = moa("verify", "sum(X)", "--shape", "X=n m")
    assert code == 0
    assert text.startswith("ok  ") and "checks hold\n" in text

    def found(kernel: Kernel, progress: Callable[[Check], None]) -> Verification:
        progress(Check("values", False, "3 tolerances"))
        return Verification(False, (Check("values", False, "3 tolerances"),))

    monkeypatch.setattr("moa.cli.check", found)
    code, text, _ = moa("verify", "sum(X)", "--shape", "X=n m")
    assert (code, text) == (1, "FAIL values: 3 tolerances\n1 of 1 checks FAIL\n")


def test_lists() -> None:
    code, text, _ = moa("laws")
    assert code == 0
    assert "  defer: sum_j (c * x_j) = c * sum_j x_j, c free of j\n      reassociates; distributivity\n" in text
    code, text, _ = moa("ops")
    assert code == 0
    assert "+        add       associative, commutative, identity 0" in text
    assert "  argsort(x, axis?)" in text and "  softmax(x, axis)" in text


def test_help() -> None:
    code, text, _ = moa("--help")
    assert code == 0
    assert "moa run examples/attention.moa Q=q.npy K=data.npz:K V=data.npz:V --out out.npz\n" in text
    assert "Exit status: 0 fine, 1 a check failed, 2 a mistake" in text
    for command in COMMANDS:
        code, text, _ = moa(command, "--help")
        examples = [line.split() for line in text.splitlines() if line.startswith(f"    moa {command}")]
        assert code == 0 and examples


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["run", "explain", "verify", "cost", "measure", "emit", "step", "laws", "ops", "machine"]
)
def test_the_examples_of_the_help_work(command: str, tmp_path: Path) -> None:
    _, text, _ = moa(command, "--help")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for words in (line.split()[1:] for line in text.splitlines() if line.startswith(f"    moa {command}")):
        found = subprocess.run([sys.executable, "-m", "moa", *words], cwd=tmp_path, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr


# JSON ----------------------------------------------------------------------------------------------------------------


def told(*words: str, code: int = 0) -> dict[str, Any]:
    """The object that a command prints with --json: one, of printable ASCII, and nothing beside it."""
    found, text, errors = moa(*words, "--json")
    assert (found, errors) == (code, ""), text + errors
    assert all(c == "\n" or " " <= c <= "~" for c in text)
    out: dict[str, Any] = json.loads(text, parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))
    return out


def test_json_of_run(tmp_path: Path) -> None:
    sizes = ("--size", "n=70", "--size", "dk=8", "--size", "dv=8")
    answer = told("run", WINDOW, "w=5", *sizes, "--out", str(tmp_path / "x.npz"))
    assert list(answer) == ["kernel", "dtype", "passes", "first_call_s", "call_s", "outputs", "file"]
    assert answer["kernel"] == "window" and answer["passes"] == {"written": 3, "compiled": 1}
    (out,) = answer["outputs"]
    assert list(out) == ["name", "dtype", "shape", "min", "mean", "max", "not_finite"]
    with np.load(answer["file"]) as file:
        assert out["max"] == float(file["out"].max()) and out["shape"] == [70, 8]


def test_json_of_results_that_are_not_finite() -> None:
    answer = told("run", "X / 0, X > 9, sum(X, axis=0)", "--shape", "X=n", "--size", "n=3")
    assert [o.get("not_finite") for o in answer["outputs"]] == [3, None, 0]
    assert answer["outputs"][0]["min"] is None and answer["outputs"][1]["dtype"] == "bool"
    assert told("run", "X", "--shape", "X=n", "--size", "n=0")["outputs"][0]["min"] is None


def test_json_of_explain() -> None:
    answer = told("explain", CAUSAL)
    assert list(answer) == ["kernel", "dtype", "passes", "stage", "text", "equations", "laws", "refused"]
    assert answer["stage"] is None and answer["text"] == moa("explain", CAUSAL)[1].removesuffix("\n")
    assert {"defer", "repair"} & {x["law"] for x in answer["laws"]}
    assert set(answer["laws"][0]) == {"law", "target", "before", "after", "contract", "conditions"}
    assert "phase" in told("explain", CAUSAL, "--stage", "tiles")["text"]


def test_json_of_cost() -> None:
    answer = told("cost", ATTENTION, *(w for s in ["n=64", "m=64", "dk=8", "dv=8"] for w in ("--size", s)))
    assert list(answer) == [
        "kernel", "sizes", "passes", "formulas", "values", "arrays", "machine", "levels", "times_s", "energy_j",
    ]  # fmt: skip
    assert answer["levels"] is None
    assert answer["values"]["compulsory_words"] == 4 * 64 * 8 and answer["sizes"]["n"] == 64
    assert set(answer["formulas"]) == set(answer["values"])
    assert told("cost", ATTENTION)["values"] is None


def test_json_of_candidates() -> None:
    sizes = [w for s in ("n=1", "m=900", "dk=8", "dv=8") for w in ("--size", s)]
    answer = told("cost", ATTENTION, *sizes, "--why", "--threads", "2", "--machine", "edge")
    assert (answer["sizes"]["m"], answer["threads"], answer["machine"]) == (900, 2, "edge")
    chosen = {c["kind"]: c["name"] for c in answer["candidates"] if c["chosen"]}
    assert (chosen["form"], chosen["rows"], len(chosen)) == ("in parts, merged", "1 row", 3)
    assert all(c["time_s"] and c["waits_s"] for c in answer["candidates"]) and all(
        c["bytes"]["L1"] for c in answer["candidates"]
    )
    plain = moa("cost", ATTENTION, *sizes, "--why")
    assert plain[0] == 0 and plain[1].startswith("candidates for attention at n = 1, ") and "* as written" in plain[1]


def test_json_of_measure() -> None:
    sizes = [w for s in ("n=40", "m=50", "dk=8", "dv=8") for w in ("--size", s)]
    answer = told("measure", ATTENTION, *sizes, "--cache", "4K/4", "--cache", "64K/8", "--threads", "2")
    assert list(answer)[:7] == ["kernel", "dtype", "sizes", "threads", "form", "line_bytes", "accesses"]
    assert answer["sizes"] == {"n": 40, "m": 50, "dk": 8, "dv": 8} and answer["threads"] == 2
    assert [(x["capacity_bytes"], x["ways"]) for x in answer["levels"]] == [(4096, 4), (65536, 8)]
    for level in answer["levels"]:
        assert {"Q", "K", "V", "out", "scratch"} == {a["name"] for a in level["arrays"]}
        assert level["read_bytes"] == sum(a["read_bytes"] for a in level["arrays"]) > 0
    assert answer["accesses"] == sum(c["loads"] + c["stores"] for c in answer["calls"])
    assert answer["call_s"] > 0 and answer["counted"] | answer["not_counted"]
    assert answer["predicted"] == []
    (level,) = told("measure", ATTENTION, *sizes, "--cache", "64K/8")["predicted"]
    assert level["predicted_bytes"] == level["measured_bytes"] and level["off"] == 0 == level["conflict_bytes"]
    plain = moa("measure", ATTENTION, *sizes, "--cache", "4K")
    assert plain[0] == 0 and plain[1].startswith("measured attention at n = 40, ") and "4 KiB " in plain[1]


def test_json_of_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = told("verify", "sum(X)", "--shape", "X=n m")
    assert list(answer) == ["kernel", "ok", "checks"] and answer["ok"] is True
    assert all(c["ok"] is True and c["name"] and c["detail"] for c in answer["checks"])
    monkeypatch.setattr("moa.cli.check", lambda *_, **__: Verification(False, (Check("values", False, "3"),)))
    assert told("verify", "sum(X)", "--shape", "X=n m", code=1)["ok"] is False


def test_json_of_lists(tmp_path: Path) -> None:
    assert {"name", "statement", "contract", "source", "how", "stage"} == set(told("laws")["laws"][0])
    answer = told("ops")
    found = {o["name"]: o for o in answer["operators"]}
    assert found["max"]["identity"] == "-inf" and found["add"]["associative"] is True
    assert {"name": "softmax", "parameters": ["x", "axis"]} in answer["prelude"] and answer["functions"]
    files = told("emit", "X + X", "--shape", "X=n", "-o", str(tmp_path / "made"))["files"]
    assert files and all(Path(f).is_file() for f in files)


def test_a_step_is_a_program(tmp_path: Path) -> None:
    linear = str(ROOT / "examples" / "linear.moa")
    code, text, _ = moa("step", linear)
    assert code == 0 and "def linear_step(Q[dk], K[dk], V[dv], h0[dk, dv], h1[dk]):" in text
    found = told("step", linear, "-o", str(tmp_path / "one.moa"))
    assert found["program"] == (tmp_path / "one.moa").read_text() and found["along"] == "n"
    assert [s["name"] for s in found["states"]] == ["h0", "h1"] and found["position"] is None
    assert moa("explain", str(tmp_path / "one.moa"))[0] == 0
    code, text, error = moa("step", CAUSAL)
    assert code == 2 and text == "" and "no state of constant size" in error
    code, text, error = moa("step", linear, "-o", str(tmp_path / "one.txt"))
    assert code == 2 and "written to a .moa file" in error and not (tmp_path / "one.txt").exists()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("explain", "Q @", "--shape", "Q=n d"), {"kind": "syntax", "place": ("<expression>", 1, 4)}),
        (("explain", "Q @ Q", "--shape", "Q=n d"), {"kind": "shape", "place": ("<expression>", 1, 1)}),
        (("run", ATTENTION), {"kind": "argument", "place": None}),
        (("run", "X", "--shape", "X=n", "--size", "n=3", "--out", "\x1b.txt"), {"kind": "argument", "place": None}),
    ],
)
def test_mistakes_as_json(words: tuple[str, ...], error: dict[str, Any]) -> None:
    found = told(*words, code=2)["error"]
    assert list(found) == ["kind", "message", "place", "remedy"]
    place = found["place"] and tuple(found["place"].values())
    assert (found["kind"], place) == (error["kind"], error["place"])
    assert found["message"] and (found["remedy"] or found["kind"] == "syntax")


@pytest.mark.parametrize("words", [("nothing", "--json"), ("run", "--json", "--bogus"), ("cost", "--json")])
def test_usage_errors_as_json(words: tuple[str, ...]) -> None:
    found = shell(*words)
    assert found.returncode == 2 and found.stderr == ""
    assert json.loads(found.stdout)["error"]["kind"] == "usage"


# The cache -----------------------------------------------------------------------------------------------------------


def test_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOA_CACHE_DIR", str(tmp_path / "kept"))
    store = Cache(tmp_path / "kept")
    store.put("a" * 64, b"content")
    held = store.usage().total_bytes
    answer = told("cache")
    assert answer == {
        **{"folder": str(store.folder), "entries": 1, "bytes": held, "used": False},
        "most_bytes": 256 << 20,
    }
    assert moa("cache")[1] == f"{store.folder}: 1 entries, {held} bytes; not used in this environment\n"
    assert moa("cache", "clear")[1] == f"{store.folder}: removed 1 entries, {held} bytes\n"
    assert told("cache", "clear") == {"folder": str(store.folder), "entries": 0, "bytes": 0}
    monkeypatch.setenv("MOA_CACHE_SIZE", "x")
    assert told("cache", code=2)["error"]["message"] == "MOA_CACHE_SIZE is `x`"


def test_a_command_uses_the_cache(tmp_path: Path) -> None:
    env = {**os.environ, "MOA_CACHE": "", "MOA_CACHE_DIR": str(tmp_path / "\x1b[31mkept")}
    for _ in range(2):
        assert shell("run", "X + X", "--shape", "X=n", "--size", "n=3", env=env).returncode == 0
    found = shell("cache", env=env).stdout
    assert "\x1b" not in found and " of at most 268,435,456" in found


@pytest.mark.parametrize(
    "words", [("explain",), ("cost",), ("run", "--size", "n=3", "--size", "d=2"), ("explain", "--stage", "program")]
)
def test_another_function_than_the_last(tmp_path: Path, words: tuple[str, ...]) -> None:
    program = tmp_path / "two.moa"
    program.write_text("def first(X[n, d]):\n    return sum(X)\n\ndef second(X[n, d]):\n    return first(2 * X)\n")
    answers = [
        json.loads(moa(words[0], str(program), *words[1:], *chosen, "--json")[1])
        for chosen in ((), ("--function", "first"), ("--function", "second"))
    ]
    assert [a["kernel"] for a in answers] == ["second", "first", "second"]
    for a in answers:
        a.pop("first_call_s", a.pop("call_s", None))
    assert answers[2] == answers[0] != answers[1]


# Mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("explain", "nowhere.moa"), "argument error: no program at nowhere.moa: No such file or directory"),
        (("explain", "softmax(Q)"), "'softmax(Q)' is neither a program nor a formula with shapes"),
        (("explain", "Q @", "--shape", "Q=n d"), "<expression>:1:4: syntax error:"),
        (("explain", "Q @ Q", "--shape", "Q=n d"), "shape error: "),
        (("explain", "Q", "--shape", "Q"), "--shape is 'Q'"),
        (("explain", "Q", "--shape", "Q=n", "--shape", "Q=m"), "Q is given twice"),
        (
            ("cost", ATTENTION, "--function", "none"),
            "the program has no function none\n  hint: its functions: attention",
        ),
        (("cost", "Q", "--shape", "Q=n", "--function", "f"), "the program has no function f"),
        (("run", ATTENTION), "no array for Q, and no size n to make one"),
        (("run", ATTENTION, "--size", "n=x"), "n is 'x'"),
        (("run", ATTENTION, "--size", "z=1"), "attention has no size z"),
        (("run", ATTENTION, "Z=1"), "attention has no parameter Z"),
        (("run", ATTENTION, "Q=1e"), "Q is '1e'"),
        (("run", ATTENTION, "Q=none.npy"), "none.npy cannot be read: No such file or directory"),
        (("run", WINDOW, "--size", "n=4", "--size", "dk=4", "--size", "dv=4"), "no value for w"),
        (("run", "X", "--shape", "X=n", "--size", "n=-1"), "X would be -1"),
        (("run", "X", "--shape", "X=n", "--size", "n=999999999999"), "X would be 999999999999"),
        (("run", "X[i]", "--shape", "X=n", "--shape", "i=int m", "--size", "n=3", "--size", "m=2"), "no array for i"),
        (
            ("run", "X", "--shape", "X=n", "--size", "n=3", "--out", "x.txt"),
            "results are written to a .npy or .npz",
        ),
        (("run", "X", "--shape", "X=n", "--size", "n=3", "--out", "/nowhere/x.npz"), "cannot be written: /nowhere"),
        (
            ("run", "X, X", "--shape", "X=n", "--size", "n=3", "--out", "x.npy"),
            "would hold 2 results: out0, out1",
        ),
        (("measure", ATTENTION, "--size", "n=3"), "no array for Q, and no size dk to make one"),
        (("measure", ATTENTION, "--cache", "3Q"), "--cache is '3Q'"),
        (("measure", "X", "--shape", "X=n", "--size", "threads=3"), "no parameter and no size threads"),
        (("measure", "X", "--shape", "X=n", "--size", "n=9", "--cache", "1K/3"), "a cache of 16 lines in 3 ways"),
        (("cost", ATTENTION, "--size", "n=3"), "no value for dk, m, dv"),
    ],
)
def test_mistakes_are_messages(words: tuple[str, ...], message: str) -> None:
    code, text, errors = moa(*words)
    assert code == 2
    assert message in errors, errors
    assert "Traceback" not in errors
    assert text == ""


@pytest.mark.parametrize("words", [(), ("nothing",), ("explain",), ("run", ATTENTION, "--bogus"), ("cost", "--dtype")])
def test_usage_errors_are_2(words: tuple[str, ...]) -> None:
    found = shell(*words)
    assert found.returncode == 2
    assert "Traceback" not in found.stderr


def test_wrong_shapes_are_a_mistake(arrays: tuple[Path, Any]) -> None:
    folder, _ = arrays
    np.save(folder / "W.npy", np.ones((9, 5), np.float32))
    code, _, errors = moa("run", ATTENTION, f"Q={folder}/Q.npy", f"K={folder}/W.npy", f"V={folder}/V.npy")
    assert code == 2 and "dk" in errors


# Strangers -----------------------------------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os._exit, (77,))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "bomb.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    (tmp_path / "raw.npy").write_bytes(pickle.dumps(Bomb()))
    np.savez(tmp_path / "bomb.npz", Q=np.array([Bomb()], dtype=object))
    for name in ("bomb.npy", "raw.npy", "bomb.npz:Q", "bomb.npz:K"):
        code, _, errors = moa("run", ATTENTION, f"Q={tmp_path}/{name}")
        assert code == 2 and "holds no" in errors


@pytest.mark.parametrize(
    "words",
    [
        ("explain", "\x1b[31mred.moa"),
        ("explain", "Q + \x1b]0;title\x07", "--shape", "Q=n"),
        ("explain", "Q", "--shape", "\x1bQ=n"),
        ("explain", "Q", "--shape", "Q=n\x1b[2J"),
        ("run", ATTENTION, "Q=\x1b[2J.npy"),
        ("run", ATTENTION, "\x1b=3"),
        ("run", ATTENTION, "Q=\x9b31m"),
        ("\x1b[2J",),
        ("run", ATTENTION, "--\x1b[2J"),
        ("explain", ATTENTION, "--stage", "\x1b[2J"),
        ("run", ATTENTION, "--seed", "\x1b[2J"),
    ],
)
def test_control_characters_never_reach_the_terminal(words: tuple[str, ...]) -> None:
    found = shell(*words)
    assert found.returncode == 2
    assert all(c.isprintable() or c == "\n" for c in found.stdout + found.stderr), found.stderr


def test_control_characters_in_a_program(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[31m.moa"
    path.write_text("# \x1b[2J [bold red]\ndef f(X[n]):\n    return X  # \x1b]0;x\x07 [link]\n", encoding="utf-8")
    for words in ((), ("--stage", "program")):
        found = shell("explain", str(path), *words)
        assert found.returncode == 0
        assert all(c.isprintable() or c == "\n" for c in found.stdout)


def test_names_are_not_arguments_of_python() -> None:
    for name in ("source", "dtype", "backend", "sizes", "self", "threads", "arrays"):
        code, text, _ = moa("run", f"{name} + {name}", "--shape", f"{name}=n", "--size", "n=3")
        assert code == 0 and "out: float32[3]" in text


# Files ---------------------------------------------------------------------------------------------------------------


def test_results_in_npy(tmp_path: Path) -> None:
    out = tmp_path / "x.npy"
    assert moa("run", "X + X", "--shape", "X=n", "--size", "n=3", "--out", str(out))[0] == 0
    first = np.load(out)
    out.chmod(0o640)
    assert moa("run", "X + X", "--shape", "X=n", "--size", "n=5", "--out", str(out))[0] == 0
    assert (first.shape, np.load(out).shape) == ((3,), (5,))
    assert out.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "x.npz"
    out.write_bytes(b"before")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    code, _, errors = moa("run", "X", "--shape", "X=n", "--size", "n=3", "--out", str(out))
    assert code == 2 and "cannot be written: No space left on device" in errors
    assert out.read_bytes() == b"before" and [p.name for p in tmp_path.iterdir()] == ["x.npz"]


# Terminals, pipes and signals ----------------------------------------------------------------------------------------


def listens() -> None:
    """A started command can be interrupted even where this process cannot, as in a job of a shell."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def in_terminal(*words: str, piped: bool = False, interrupt: bytes = b"", **env: str) -> tuple[int, str, str]:
    """(exit code, what a terminal got, what a pipe got): errors go to the terminal, output too unless it is piped.

    interrupt  the command is interrupted when the terminal has got this
    """
    ours, theirs = pty.openpty()
    started = subprocess.Popen(
        [sys.executable, "-m", "moa", *words],
        stdin=theirs,
        stdout=subprocess.PIPE if piped else theirs,
        stderr=theirs,
        cwd=ROOT,
        env={**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, "TERM": "xterm-256color", **env},
        preexec_fn=listens,
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            more = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not more:
            break
        seen += more
        if interrupt and interrupt in seen:
            started.send_signal(signal.SIGINT)
            interrupt = b""
    got = started.stdout.read() if started.stdout is not None else b""
    os.close(ours)
    return started.wait(timeout=120), seen.decode(), got.decode()


def test_colour_is_for_terminals() -> None:
    code, seen, _ = in_terminal("laws")
    assert code == 0 and "\x1b[1m" in seen and "\x1b[2m" in seen
    code, seen, _ = in_terminal("laws", NO_COLOR="1")
    assert code == 0 and not re.search(r"\x1b\[[0-9;]*[34][0-7]", seen)
    _, _, got = in_terminal("laws", piped=True)
    assert "\x1b" not in got and "defer" in got
    _, seen, _ = in_terminal("laws", "--json")
    assert json.loads(seen)["laws"]


def test_progress_of_measuring() -> None:
    words = ("measure", "sum(X)", "--shape", "X=n m", "--size", "n=500", "--size", "m=500")
    code, seen, got = in_terminal(*words, piped=True)
    assert code == 0 and "simulating" in seen and "\x1b" not in got and got.startswith("measured ")


def test_an_interrupt_of_measuring() -> None:
    sizes = (w for s in ("n=8192", "m=8192", "dk=64", "dv=64") for w in ("--size", s))
    code, seen, _ = in_terminal("measure", ATTENTION, *sizes, interrupt=b"simulating,")
    assert code == 130 and "Traceback" not in seen


@pytest.mark.parametrize("words", [("verify", "sum(X)", "--shape", "X=n m")])
def test_progress_is_for_terminals(words: tuple[str, ...]) -> None:
    code, seen, got = in_terminal(*words, piped=True)
    assert code == 0 and "compiling" in seen
    assert "\x1b" not in got and "compiling" not in got and got.startswith("ok  ")
    assert got == shell(*words).stdout
    assert shell(*words).stderr == ""
    code, seen, _ = in_terminal(*words)
    assert code == 0 and "checks hold" in seen


def test_an_interrupt_while_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loading(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "moa.cli", Loading("moa.cli"))
    with pytest.raises(SystemExit) as stopped:
        entry.main()
    assert stopped.value.code == 130


def test_an_interrupt_of_long_work() -> None:
    code, seen, _ = in_terminal("verify", CAUSAL, interrupt=b"ok  ")
    assert code == 130 and "Traceback" not in seen
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")  # the cursor is there again


def test_piped_output_is_plain() -> None:
    found = shell("explain", "examples/attention.moa", env={**os.environ, "TERM": "xterm-256color"})
    assert found.returncode == 0
    assert "\x1b" not in found.stdout
    assert found.stdout.startswith("examples/attention.moa:3  attention(Q[..., n, dk]")


def test_a_reader_that_leaves(tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    command = f"{sys.executable} -m moa.cli explain examples/causal.moa --stage loops 2>{errors} | head -1"
    found = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode in (0, 141)
    assert errors.read_text(encoding="utf-8") == ""


def test_an_interrupt() -> None:
    begun = "import moa.cli, moa.__main__; print('begun', flush=True); moa.__main__.main()"
    command = [sys.executable, "-c", begun, "run", "examples/attention.moa"]
    command += [w for s in ("n=40000", "m=40000", "dk=64", "dv=64") for w in ("--size", s)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = subprocess.Popen(command, cwd=ROOT, text=True, preexec_fn=listens, **pipes)
    assert started.stdout is not None and started.stdout.readline() == "begun\n"
    time.sleep(2)
    started.send_signal(signal.SIGINT)
    _, errors = started.communicate(timeout=120)
    assert started.returncode in (0, 130)
    assert "Traceback" not in errors


@pytest.mark.slow
def test_the_demo() -> None:
    found = subprocess.run([sys.executable, "examples/demo.py"], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    assert "\x1b" not in found.stdout
    assert found.stdout.count("  ok      ") == 3 and "FAILED" not in found.stdout
