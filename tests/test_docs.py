"""The documentation runs: every program, session, command and module in it, with the output that it shows.

    ```python     a program of the language: it is compiled as `kernel`. If its first line is a comment with the name of
                  a file, it is that module of moa; if it is an import, a script (see below).
    ```pycon      a session, after `import numpy as np; import moa`
    ```console    commands of `moa`

`pytest --accept` writes what they print now; blocks of other kinds are not run.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import moa
import moa.psi.build
from moa.backends import llvm
from moa.check import prelude
from moa.check.functions import BUILTINS
from moa.cli import app
from moa.laws.table import LAWS
from moa.lower.values import UNARY
from moa.ops import OPERATORS

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "docs/language.md", "docs/design.md", "docs/cost.md")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WIDE_BYTES = 64  # vectors of the machine whose output is shown


class Recorder(doctest.OutputChecker):
    """Takes every output as it comes."""

    def __init__(self) -> None:
        self.got: list[str] = []

    def check_output(self, want: str, got: str, flags: int) -> bool:
        self.got.append(got)
        return True


class Page:
    """One page while it runs: what its sessions know, and its text with the outputs of now."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch
        self.known: dict[str, Any] = {"np": np, "moa": moa}

    def rendered(self, text: str) -> str:
        return BLOCK.sub(lambda m: f"```{m[1]}\n{self.block(m[1], m[2])}```", text)

    def block(self, kind: str, text: str) -> str:
        match kind:
            case "python" if text.startswith("# ") and text.splitlines()[0].endswith(".py"):
                self.module(text)
            case "python" if not text.startswith("import "):
                self.known["kernel"] = moa.compile(text)
            case "pycon":
                return self.session(text)
            case "console":
                return "".join(self.command(line) for line in text.splitlines() if line.startswith("$ "))
        return text

    def session(self, text: str) -> str:
        examples = doctest.DocTestParser().get_examples(text)
        assert examples, text
        out = ""
        for e in examples:
            recorder = Recorder()
            runner = doctest.DocTestRunner(checker=recorder, verbose=False)
            test = doctest.DocTest([e], self.known, "docs", None, 0, text)
            said: list[str] = []
            runner.run(test, out=said.append, clear_globs=False)
            assert not runner.failures, "".join(said)
            self.known = test.globs
            first, *rest = e.source.splitlines()
            out += "\n".join([f">>> {first}", *(f"... {line}".rstrip() for line in rest)]) + "\n" + recorder.got[0]
        return out

    def command(self, line: str) -> str:
        name, *words = shlex.split(line.removeprefix("$ "))
        assert name == "moa", line
        found = CliRunner().invoke(app, words)
        assert found.exception is None or isinstance(found.exception, SystemExit), line
        return f"{line}\n{found.stdout}{found.stderr}"

    def module(self, text: str) -> None:
        path = Path(text.splitlines()[0].removeprefix("# "))
        name = ".".join(("moa", *(x for x in path.with_suffix("").parts if x != "moa")))
        file = self.folder / path.name
        file.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        self.patch.setitem(sys.modules, name, made)
        spec.loader.exec_module(made)


class AsOfNow(set[str]):
    """The operators that psi passes through, which it reads off the table when it is imported, as the table is now."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in OPERATORS


@contextlib.contextmanager
def as_they_were(*tables: dict[Any, Any]) -> Iterator[None]:
    """What is entered into these tables is taken out again."""
    before = [dict(t) for t in tables]
    try:
        yield
    finally:
        for t, old in zip(tables, before, strict=True):
            t.clear()
            t.update(old)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_what_it_prints(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(ROOT)
    wide = replace(llvm.host(), vector_bytes=WIDE_BYTES)
    monkeypatch.setattr(llvm, "host", lambda: wide)
    for name_of_hook in ("moa.kernel.BACKENDS", "moa.pipeline.normalise", "moa.expand.expand"):
        module, _, attribute = name_of_hook.rpartition(".")
        monkeypatch.setattr(name_of_hook, getattr(importlib.import_module(module), attribute))  # put back after it
    monkeypatch.setattr("moa.psi.build.SCALAR", AsOfNow(moa.psi.build.SCALAR))
    path = ROOT / name
    text = path.read_text(encoding="utf-8")
    with as_they_were(OPERATORS, BUILTINS, UNARY, LAWS.laws):
        now = Page(tmp_path, monkeypatch).rendered(text)
    if request.config.getoption("--accept"):
        path.write_text(now, encoding="utf-8")
    else:
        assert now == text


def test_the_script_of_the_front_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    found = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("(8, 1000, 64) (3, 1)\n<expression>:1  expression(")
    assert "# (8, 1000, 64) (3, 1)" in text


def test_the_picture_of_the_front_page(request: pytest.FixtureRequest) -> None:
    from moa.explain import picture_of

    kernel = moa.compile(ROOT / "examples/window.moa", dtype="float32")
    found = picture_of(kernel, placed=kernel.for_many_rows(WIDE_BYTES // 4), n=4096, w=1000)
    path = ROOT / "docs/window.svg"
    if request.config.getoption("--accept"):
        found.save(path)
    assert path.read_text(encoding="utf-8") == found.svg()


def test_a_wrong_output_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "```python\ndef f(x[n]):\n    return sum(x)\n```\n\n```pycon\n>>> float(kernel(np.ones(3)))\n3.0\n```\n"
    assert Page(tmp_path, monkeypatch).rendered(text) == text
    assert Page(tmp_path, monkeypatch).rendered(text.replace("3.0", "4.0")) == text
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        Page(tmp_path, monkeypatch).rendered("```pycon\n>>> 1 / 0\n```\n")
    with pytest.raises(moa.MoaError):
        Page(tmp_path, monkeypatch).rendered("```python\ndef f(x[n]):\n    return y\n```\n")


def test_every_link_of_the_pages_leads_somewhere() -> None:
    for name in PAGES:
        text = (ROOT / name).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert ((ROOT / name).parent / target).exists(), f"{name}: {target}"
        for target in re.findall(r"`((?:moa|docs|tests|examples|grammar|backends|benchmarks)/[a-z0-9_/.]+)`", text):
            assert (ROOT / target).exists(), f"{name}: {target}"


def test_every_function_and_glyph_is_in_the_language_page() -> None:
    text = (ROOT / "docs/language.md").read_text(encoding="utf-8")
    words = set(re.findall(r"\w+|[^\w\s]", text))
    missing = [x for x in (*BUILTINS, *prelude(), *"ρτδιψ△▽⧺Φθ⍉Ω+×⌈⌊∧∨•⟨⟩≤≥≠÷−") if x not in words]
    assert not missing
