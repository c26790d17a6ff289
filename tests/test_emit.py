"""Emitted libraries: they compile without warnings, pass their own test, and give what the kernel gives."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import moa
from moa.cli import app
from moa.kernel import Kernel
from moa.text import MoaError

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted(p.stem for p in (ROOT / "examples").glob("*.moa"))
COMPILERS = [c for c in ("gcc", "clang") if shutil.which(c)]
STRICT = ("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
X86 = os.uname().machine == "x86_64"
needs_cc = pytest.mark.skipif(not COMPILERS, reason="no C compiler: install gcc or clang")
needs_cmake = pytest.mark.skipif(not COMPILERS or not shutil.which("cmake"), reason="cmake or a C compiler is missing")


def kernel_of(name: str, dtype: str = "float32") -> Kernel:
    return moa.compile(ROOT / "examples" / f"{name}.moa", dtype=dtype)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, " ".join(map(str, command)) + "\n" + done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def passes(folder: Path, name: str, *flags: str, compiler: str = "") -> str:
    """What the self-test prints, built with these flags."""
    sources = (folder / f"{name}.c", folder / f"{name}_selftest.c")
    program = folder.parent / "selftest"
    run(compiler or COMPILERS[0], *STRICT, *flags, "-o", program, *sources, "-lm")
    return run(program)


# The self-test -------------------------------------------------------------------------------------------------------


@needs_cc
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_pass_their_own_test(tmp_path: Path, name: str) -> None:
    kernel_of(name, ("float32", "float64")[EXAMPLES.index(name) % 2]).emit(tmp_path / "out")
    printed = passes(tmp_path / "out", name, "-O1", "-march=native")
    assert printed.count(": ok") >= 3 and "WRONG" not in printed


@needs_cc
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("machine", ["-mavx2", "-mfma", "-msse4.1", "-O2"] if X86 else ["-O2"])
def test_every_width_without_warnings(tmp_path: Path, machine: str, compiler: str) -> None:
    kernel_of("causal").emit(tmp_path / "out", ranks=1)
    flags = ("-O1", "-mavx2", machine) if machine == "-mfma" else ("-O1", machine)
    assert "WRONG" not in passes(tmp_path / "out", "causal", *flags, compiler=compiler)


@needs_cc
def test_sanitizers(tmp_path: Path) -> None:
    kernel_of("window").emit(tmp_path / "out")
    flags = ("-O1", "-march=native", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    (tmp_path / "x.c").write_text("int main(void) { return 0; }\n", encoding="ascii")
    tried = subprocess.run([COMPILERS[0], *flags, "-o", tmp_path / "x", tmp_path / "x.c"], capture_output=True)
    if tried.returncode:
        pytest.skip(f"{COMPILERS[0]} has no sanitizers here")
    assert "WRONG" not in passes(tmp_path / "out", "window", *flags)


@needs_cc
@pytest.mark.skipif(not X86 or not shutil.which("valgrind"), reason="valgrind is missing, or knows no AVX2 here")
def test_valgrind(tmp_path: Path) -> None:
    kernel_of("gqa").emit(tmp_path / "out", n=5, m=7, dk=4, dv=3)
    passes(tmp_path / "out", "gqa", "-O1", "-g", "-mavx2", "-mfma")
    run("valgrind", "-q", "--error-exitcode=9", "--leak-check=full", tmp_path / "selftest")


@pytest.mark.parametrize("name", ["causal", "with_lse"])
@pytest.mark.skipif(
    not shutil.which("aarch64-linux-gnu-gcc") or not shutil.which("qemu-aarch64"),
    reason="aarch64-linux-gnu-gcc or qemu-aarch64 is missing",
)
def test_aarch64(tmp_path: Path, name: str) -> None:
    """Another architecture, where the vectors are 128 bits wide and NaN have another default."""
    kernel_of(name, "float64" if name == "causal" else "float32").emit(tmp_path / "out")
    sources = [tmp_path / "out" / f"{name}{part}.c" for part in ("", "_selftest")]
    program = tmp_path / "selftest"
    run("aarch64-linux-gnu-gcc", *STRICT, "-O1", "-static", "-o", program, *sources, "-lm")
    assert "WRONG" not in run("qemu-aarch64", program)


@needs_cc
def test_a_wrong_kernel_fails_its_test(tmp_path: Path) -> None:
    kernel_of("alibi").emit(tmp_path / "out")
    path = tmp_path / "out" / "alibi.c"
    text = path.read_text(encoding="ascii")
    changed = text.replace("slot[0] = (int64_t)(intptr_t)a->Q", "slot[0] = (int64_t)(intptr_t)a->K")
    assert changed != text
    path.write_text(changed, encoding="ascii")
    with pytest.raises(AssertionError, match="WRONG"):
        passes(tmp_path / "out", "alibi", "-O1", "-march=native")


PROGRAMS = {
    "gathered": "def gathered(X[n, d], idx: int[m], keep: bool[m], c: float):\n"
    "    return where(keep[:, None], X[idx] * c, 0.0)\n",
    "scanned": "def step(S, x):\n    return 0.5 * S + x\n"
    "def scanned(X[n, d]):\n    return scan(step, X, axis=0, init=zeros(d))\n",
    "totals": "def totals(X[n, d]):\n    return sum(sum(X, axis=-1), axis=-1), max(max(X, axis=-1), axis=-1)\n",
    "in_order": "def in_order(X[n, d], k: int[n], R: int[c, r]):\n"
    "    rows = X[argsort(k)][(iota(n) + 1) % n]\n"
    "    return rows, rows[argsort(argsort(k))], rows[minimum(maximum(sum(R, axis=0)[:, None] - iota(3), 0), n - 1)]\n",
    "first_of_all": "def first_of_all(X[n, d], Y[d, e]):\n    return argmax(X), Y[argmax(X)]\n",
    "blocks": "def blocks(X[b, m, d], R: int[b, r], q: int[r]):\n"
    "    rows = reshape(X, [b * m, d])\n"
    "    return rows[R + iota(b)[:, None] * m], rows[reverse(q)[:, None] * m + iota(m)]\n",
    "windowed": "def windowed(X[n, d], w: int):\n    i, j = iota(n)[:, None], iota(n)\n"
    "    return where((j <= i) & (i - j < w), X @ X.T, 0)\n",
}


@needs_cc
@pytest.mark.parametrize("name", PROGRAMS)
def test_other_programs_pass_their_own_test(tmp_path: Path, name: str) -> None:
    moa.compile(PROGRAMS[name], dtype="float32").emit(tmp_path / "out")
    printed = passes(tmp_path / "out", name, "-O1", "-march=native")
    assert ": ok" in printed and "WRONG" not in printed


# What the functions do -----------------------------------------------------------------------------------------------


def library(folder: Path, name: str, *flags: str) -> Any:
    out = folder.parent / f"{name}.so"
    run(COMPILERS[0], *STRICT, "-O2", *flags, "-fPIC", "-shared", "-o", out, folder / f"{name}.c", "-lm")
    loaded = ctypes.CDLL(str(out))
    getattr(loaded, f"{name}_workspace").restype = ctypes.c_size_t
    getattr(loaded, f"{name}_error").restype = ctypes.c_char_p
    return loaded


@needs_cc
def test_the_library_gives_what_the_kernel_gives_and_checks_its_arguments(tmp_path: Path) -> None:
    kernel = kernel_of("attention")
    kernel.emit(tmp_path / "out", name="attend")
    found = library(tmp_path / "out", "attend", "-march=native")
    rng = np.random.default_rng(1)
    n, m, dk, dv = 150, 70, 33, 8
    Q, K, V = (rng.standard_normal(s).astype(np.float32) for s in ((n, dk), (m, dk), (m, dv)))
    out = np.zeros((n, dv), np.float32)
    size = ctypes.c_int64
    space_bytes = found.attend_workspace(size(n), size(dk), size(m), size(dv), 1)
    space = np.full(space_bytes, 0xFF, np.uint8)

    def call(q: int, rows: int, given: int, result: int = out.ctypes.data) -> int:
        pointers = [ctypes.c_void_p(x) for x in (q, K.ctypes.data, V.ctypes.data)]
        sizes = [size(x) for x in (rows, dk, m, dv)]
        rest = (ctypes.c_void_p(result), ctypes.c_void_p(space.ctypes.data), ctypes.c_size_t(given))
        return int(found.attend(*pointers, *sizes, *rest))

    def said(code: int) -> str:
        return str(found.attend_error(code).decode())

    assert call(Q.ctypes.data, n, space_bytes) == 0
    np.testing.assert_allclose(out, kernel(Q, K, V), atol=2e-6)
    assert "NULL" in said(call(0, n, space_bytes))
    assert "negative" in said(call(Q.ctypes.data, -1, space_bytes))
    assert "workspace" in said(call(Q.ctypes.data, n, space_bytes - 1))
    assert "aligned" in said(call(Q.ctypes.data + 1, n, space_bytes))
    assert call(0, 0, space_bytes, 0) == 0
    assert said(99) == "unknown error"
    assert found.attend_workspace(size(-1), size(m), size(dk), size(dv), 1) == 0


@needs_cc
def test_indices_are_checked(tmp_path: Path) -> None:
    moa.compile("X[idx]", dtype="float64", X="n d", idx="int m").emit(tmp_path / "out", name="pick")
    found = library(tmp_path / "out", "pick")
    X, out, space = np.arange(12.0).reshape(4, 3), np.zeros((2, 3)), np.zeros(1 << 20, np.uint8)

    def call(idx: list[int]) -> int:
        a = np.array(idx, np.int64)
        pointers = [ctypes.c_void_p(x.ctypes.data) for x in (X, a)]
        sizes = [ctypes.c_int64(x) for x in (4, 3, 2)]
        rest = (ctypes.c_void_p(out.ctypes.data), ctypes.c_void_p(space.ctypes.data), ctypes.c_size_t(space.size))
        return int(found.pick(*pointers, *sizes, *rest))

    assert call([3, 1]) == 0
    assert np.array_equal(out, X[[3, 1]])
    assert b"index" in found.pick_error(call([4, 0])) and b"index" in found.pick_error(call([0, -1]))


@needs_cc
def test_what_computed_indices_need_is_checked(tmp_path: Path) -> None:
    """R + 4 * i stays below 8 for i < 2: R has to stay below 4, in emitted code at every position."""
    moa.compile(PROGRAMS["blocks"], dtype="float64").emit(tmp_path / "out", m=4)
    found = library(tmp_path / "out", "blocks")
    X, space = np.arange(24.0).reshape(2, 4, 3), np.zeros(1 << 20, np.uint8)
    outs = np.zeros((2, 2, 3)), np.zeros((2, 4, 3))

    def call(picked: list[list[int]], listed: list[int]) -> int:
        R, q = np.array(picked, np.int64), np.array(listed, np.int64)
        pointers = [ctypes.c_void_p(x.ctypes.data) for x in (X, R, q)]
        sizes = [ctypes.c_int64(x) for x in (2, 3, 2)]
        rest = [ctypes.c_void_p(x.ctypes.data) for x in (*outs, space)]
        return int(found.blocks(*pointers, *sizes, *rest, ctypes.c_size_t(space.size)))

    assert call([[3, 0], [1, 2]], [1, 0]) == 0
    rows = X.reshape(8, 3)
    assert np.array_equal(outs[0], rows[[[3, 0], [5, 6]]])
    assert np.array_equal(outs[1], rows[[[0, 1, 2, 3], [4, 5, 6, 7]]])
    for bad in (([[4, 0], [0, 0]], [0, 0]), ([[0, 0], [0, -1]], [0, 0]), ([[0, 0], [0, 0]], [0, 2])):
        assert b"index" in found.blocks_error(call(*bad))


def test_an_index_of_which_nothing_is_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MoaError, match="cannot tell whether this index array stays inside the axis"):
        moa.compile("X[k * k]", X="n d", k="int m").emit(tmp_path / "out", name="far")


# Text and files ------------------------------------------------------------------------------------------------------


def test_the_bytes_are_the_same_each_time(tmp_path: Path) -> None:
    code = "import sys, moa; moa.compile(sys.argv[1], dtype='float32').emit(sys.argv[2])"
    for k, seed in enumerate(("1", "2")):
        command = [sys.executable, "-c", code, ROOT / "examples" / "gqa.moa", tmp_path / str(k)]
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, check=True, timeout=120)
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / str(k)).iterdir()} for k in range(2))
    assert first == second
    assert not any(str(tmp_path).encode() in data for data in first.values())


def test_sizes_become_literals(tmp_path: Path) -> None:
    paths = kernel_of("attention").emit(tmp_path / "out", dk=64, dv=64)
    assert sorted(p.name for p in paths) == sorted(p.name for p in (tmp_path / "out").iterdir())
    head = (tmp_path / "out" / "attention.h").read_text(encoding="ascii")
    assert "size_t attention_workspace(int64_t n, int64_t m, int threads);" in head
    data = json.loads((tmp_path / "out" / "attention.json").read_text(encoding="ascii"))
    assert data["fixed"] == {"dk": 64, "dv": 64} and sorted(data["files"]) == sorted(p.name for p in paths)
    with pytest.raises(MoaError, match="has no size q"):
        kernel_of("attention").emit(tmp_path / "out", q=3)


def test_foreign_files_stay(tmp_path: Path) -> None:
    kernel = moa.compile("X * 2.0", X="n d", dtype="float32")
    folder = tmp_path / "out"
    kernel.emit(folder)
    kernel.emit(folder)  # over what it wrote itself
    (folder / "mine.txt").write_text("mine", encoding="ascii")
    with pytest.raises(MoaError, match="holds files that were not emitted"):
        kernel.emit(folder)
    assert (folder / "mine.txt").read_text(encoding="ascii") == "mine"
    (tmp_path / "file").write_text("x", encoding="ascii")
    with pytest.raises(MoaError, match="holds files"):
        kernel.emit(tmp_path / "file")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "out"]


HOSTILE = (
    "# */ #error comment é ??/\n\ndef int_(I[n, d], double[n, d], workspace[n, d], __LINE__[n, d]):\n"
    "    # *??/\n    return (I + double) * workspace - __LINE__  # */ \\\n"
)


@needs_cc
def test_names_and_comments_are_harmless(tmp_path: Path) -> None:
    moa.compile(HOSTILE, dtype="float32").emit(tmp_path / "out")
    name = next((tmp_path / "out").glob("*.h")).stem
    for path in (tmp_path / "out").iterdir():
        text = path.read_text(encoding="ascii")
        assert "#error comment" not in re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    assert ": ok" in passes(tmp_path / "out", name, "-O1", "-trigraphs")


@pytest.mark.skipif(not shutil.which("g++"), reason="no g++")
def test_the_header_is_fit_for_cpp(tmp_path: Path) -> None:
    kernel_of("with_lse").emit(tmp_path / "out")
    (tmp_path / "x.cpp").write_text('#include "with_lse.h"\n#include "with_lse.h"\n', encoding="ascii")
    warnings = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
    run("g++", "-std=c++11", *warnings, "-fsyntax-only", "-I", tmp_path / "out", tmp_path / "x.cpp")


# Projects ------------------------------------------------------------------------------------------------------------


@needs_cmake
@pytest.mark.parametrize("backend", ["c", "llvm"])
def test_cmake_builds_tests_installs_and_is_found(tmp_path: Path, backend: str) -> None:
    kernel = moa.compile("sum(X * X, axis=-1)", X="n d", dtype="float32")
    kernel.emit(tmp_path / "out", backend=backend, name="squares")
    run("cmake", "-S", tmp_path / "out", "-B", tmp_path / "build")
    run("cmake", "--build", tmp_path / "build")
    assert "ok" in run(tmp_path / "build" / "squares_selftest")
    run("cmake", "--install", tmp_path / "build", "--prefix", tmp_path / "prefix")
    user = tmp_path / "user"
    user.mkdir()
    main = "#include <squares.h>\nint main(void) { return squares_workspace(8, 8, 1) == 0; }\n"
    (user / "main.c").write_text(main, encoding="ascii")
    (user / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(user C)\nfind_package(squares REQUIRED)\n"
        "add_executable(user main.c)\ntarget_link_libraries(user squares::squares)\n",
        encoding="ascii",
    )
    run("cmake", "-S", user, "-B", user / "build", f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}")
    run("cmake", "--build", user / "build")
    run(user / "build" / "user")


@needs_cmake
def test_the_example_project(tmp_path: Path) -> None:
    run("cmake", "-S", ROOT / "examples" / "c_project", "-B", tmp_path, f"-DMOA_PYTHON={sys.executable}")
    run("cmake", "--build", tmp_path)
    assert "largest difference" in run(tmp_path / "program")


def test_the_command(tmp_path: Path) -> None:
    example = str(ROOT / "examples" / "causal.moa")
    words = ["emit", example, "-o", str(tmp_path / "out"), "--size", "dk=64", "--ranks", "1", "--name", "c1"]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    assert (tmp_path / "out" / "c1.h").exists()
    assert "batch0" in (tmp_path / "out" / "c1.h").read_text(encoding="ascii")
    (tmp_path / "out" / "mine").touch()
    assert CliRunner().invoke(app, words).exit_code == 2
