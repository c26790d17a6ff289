"""The house rules: who imports whom, what is never named, and that a clone installs and runs."""

from __future__ import annotations

import ast
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tokenize
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# fmt: off
ORDER = [
    "text", "cache", "machine", "markup", "poly", "ops", "ir", "parse", "check", "notation", "spans", "oracle",
    "associative", "rewrite", "normal", "record", "naming", "psi", "canonical", "domains", "laws", "stream", "tiles",
    "tile", "loops", "lower", "lift", "expand", "pointers", "interp", "cost", "backends", "ceilings", "words", "forms",
    "increment", "transcribe", "pipeline", "storage", "dlpack", "arrays", "call", "candidates", "kept", "kernel",
    "device_arrays", "device_call", "device", "step", "numerics", "verify", "explain", "assignments", "emit",
    "emit_cuda", "files", "given", "measure", "tune", "probe", "answers", "terminal", "cli", "__main__",
]
# fmt: on

SOURCES = sorted(p for folder in ("moa", "backends", "grammar") for p in (ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    """The dotted name of a source file: backends/c.py is moa.backends.c."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "moa" else ("moa", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """(module, line) of every import of a file, wherever it stands, but for those under TYPE_CHECKING."""

    def walk(node: ast.AST) -> Iterator[tuple[str, int]]:
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                for x in node.orelse:
                    yield from walk(x)
                return
            case ast.Import():
                yield from ((a.name, node.lineno) for a in node.names)
            case ast.ImportFrom():
                assert node.level == 0, f"{path}:{node.lineno}: a relative import"
                # `from moa import psi` imports moa.psi
                names = [f"moa.{a.name}" for a in node.names] if node.module == "moa" else [str(node.module)]
                yield from ((name, node.lineno) for name in names)
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")))


def place(module: str) -> int | None:
    """Where a module stands in the order; None for those outside it (`moa` itself, the grammar's data)."""
    parts = module.split(".")
    if parts[0] != "moa" or len(parts) == 1 or parts[1] == "grammar":
        return None
    assert parts[1] in ORDER, f"{module} has no place in the order of imports"
    return ORDER.index(parts[1])


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_leftwards(path: Path) -> None:
    here = place(module_of(path))
    if here is None:
        return
    for module, line in imports_of(path):
        there = place(module)
        assert there is None or there <= here, f"{path.relative_to(ROOT)}:{line}: {module} is to the right of it"


def test_the_order_is_seen_to_be_broken(tmp_path: Path) -> None:
    text = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import moa.cli\ndef f():\n    from moa import psi\n"
    )
    (tmp_path / "x.py").write_text(text, encoding="utf-8")
    assert [m for m, _ in imports_of(tmp_path / "x.py")] == ["typing", "moa.psi"]
    assert ORDER.index("poly") < ORDER.index("normal")


def test_import_is_light() -> None:
    heavy = ["sympy", "islpy", "llvmlite", "lark"]
    code = f"import moa, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


NAMED = re.compile("attention|softmax|flash", re.IGNORECASE)


def code_of(text: str) -> Iterator[tuple[int, str]]:
    """(line, token) of everything in a file but comments and docstrings."""
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                docstrings.add((node.lineno, node.value.col_offset))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT and token.start not in docstrings:
            yield token.start[0], token.string


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_pattern_is_named(path: Path) -> None:
    for line, token in code_of(path.read_text(encoding="utf-8")):
        assert not NAMED.search(token), f"{path.relative_to(ROOT)}:{line}: {token}"


def test_a_name_is_seen() -> None:
    text = '"""softmax"""\n# softmax\ndef f():\n    """softmax"""\n    x = "a softmax"\n    is_softmax = 1\n'
    assert [line for line, token in code_of(text) if NAMED.search(token)] == [5, 6]


# Installing ----------------------------------------------------------------------------------------------------------


def clone(into: Path) -> None:
    """A copy of what git holds or would hold, links as links."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout: a clone cannot be made")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in listed:
        source = ROOT / name
        if name and (source.is_symlink() or source.is_file()):
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, into / name, follow_symlinks=False)


def test_every_package_is_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    found = {module_of(p) for p in SOURCES if p.name == "__init__.py"}
    assert set(listed) == found
    for link in ("backends", "grammar"):
        assert os.readlink(ROOT / "moa" / link) == f"../{link}"


@pytest.mark.slow
def test_a_clone_installs(tmp_path: Path) -> None:
    """clone -> sdist -> wheel -> a fresh environment, which has the code and the grammar's data."""
    copy, dist, fresh = tmp_path / "clone", tmp_path / "dist", tmp_path / "fresh"
    clone(copy)
    venv.create(fresh, with_pip=True, symlinks=True)
    python = fresh / "bin" / "python"

    def run(*command: str | Path, cwd: Path = tmp_path) -> str:
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "install", "setuptools>=68", "wheel")
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    dist.mkdir()
    run(python, "-c", build, dist, cwd=copy)
    (sdist,) = dist.glob("*.tar.gz")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", dist, sdist)
    (wheel,) = dist.glob("*.whl")
    run(*pip, "install", "--no-deps", wheel)

    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {module_of(p).replace(".", "/") + ("/__init__.py" if p.name == "__init__.py" else ".py") for p in SOURCES}
    wanted |= {f"moa/grammar/{p.name}" for p in (ROOT / "grammar").iterdir() if p.suffix in (".lark", ".moa", ".json")}
    assert wanted <= held, sorted(wanted - held)

    # what moa needs, from the environment of the tests
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "needs.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    show = "import moa, moa.backends, moa.grammar, importlib.resources as r; print(moa.__file__); "
    show += "print(*(p.name for p in r.files('moa.grammar').iterdir()))"
    where, data = run(python, "-c", show).splitlines()
    assert Path(where).is_relative_to(fresh)
    assert {p.name for p in (ROOT / "grammar").iterdir() if p.suffix in (".lark", ".moa", ".json")} <= set(data.split())
