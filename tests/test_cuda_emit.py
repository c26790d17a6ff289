"""Emitted CUDA: it compiles without warnings, passes its own test on this processor, and is found by CMake."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_on_cpu import COMPILER, SHIM, WITHOUT
from test_emit import EXAMPLES, HOSTILE, PROGRAMS
from test_emit import run as command
from typer.testing import CliRunner

import moa
from moa.cli import app
from moa.kernel import Kernel
from moa.text import MoaError

ROOT = Path(__file__).resolve().parent.parent
NVCC = shutil.which("nvcc")
CC = next((c for c in ("gcc", "clang") if shutil.which(c)), "")
needs_compilers = pytest.mark.skipif(not COMPILER or not CC, reason=f"{WITHOUT}, and gcc or clang")
needs_nvcc = pytest.mark.skipif(not NVCC or not shutil.which("cmake"), reason="nvcc or cmake is missing")
FEW = {"gqa": {"b": 1, "g": 2, "r": 2}}  # heads, so that a run on this processor is short
WARNINGS = ("-Wall", "-Wextra", "-Werror")


def kernel_of(name: str, dtype: str = "float32") -> Kernel:
    if name in PROGRAMS:
        return moa.compile(PROGRAMS[name], dtype=dtype)
    return moa.compile(ROOT / "examples" / f"{name}.moa", dtype=dtype)


def program(folder: Path, sources: list[Path], *includes: Path) -> Path:
    """The program of C and CUDA sources, the latter compiled for this processor."""
    objects = []
    for k, source in enumerate(sources):
        out = folder / f"{k}.o"
        where = [f"-I{p}" for p in includes]
        if source.suffix == ".c":
            command(CC, "-std=c11", "-Wpedantic", *WARNINGS, "-O1", *where, "-c", "-o", out, source)
        else:
            strict = ["-ffp-contract=off", "-march=native", "-Wno-clobbered", *WARNINGS]
            command(COMPILER, "-std=c++17", "-O0", *strict, f"-I{SHIM}", *where, "-x", "c++", "-c", "-o", out, source)
        objects.append(out)
    command(COMPILER, "-o", folder / "program", *objects, "-lm")
    return folder / "program"


def passes(folder: Path, name: str) -> str:
    """What the self-test prints."""
    sources = [folder / f"{name}.cu", folder / f"{name}_host.cu", folder / f"{name}_selftest.c"]
    return command(program(folder.parent, sources))


@needs_compilers
@pytest.mark.parametrize("name", [*EXAMPLES, *PROGRAMS])
def test_the_self_test(tmp_path: Path, name: str) -> None:
    kernel = kernel_of(name, ("float32", "float64")[len(name) % 2])
    kernel.emit(tmp_path / "out", backend="cuda", **FEW.get(name, {}))
    printed = passes(tmp_path / "out", name)
    assert printed.count(": ok") >= 1 and "WRONG" not in printed


@needs_compilers
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_in_memory(tmp_path: Path, dtype: str) -> None:
    kernel_of("causal", dtype).emit(tmp_path / "out", backend="cuda")
    assert passes(tmp_path / "out", "causal").count(": ok") == 3


@needs_compilers
def test_a_wrong_kernel_fails_its_test(tmp_path: Path) -> None:
    kernel_of("gqa").emit(tmp_path / "out", backend="cuda", **FEW["gqa"])
    path = tmp_path / "out" / "gqa.cu"
    text = path.read_text(encoding="ascii")
    assert "(intptr_t)a->Q;" in text
    path.write_text(text.replace("(intptr_t)a->Q;", "(intptr_t)a->K;"), encoding="ascii")
    with pytest.raises(AssertionError, match=r"WRONG|illegal"):
        passes(tmp_path / "out", "gqa")


CALLER = """#include "rows.h"
#include <cuda_runtime.h>
#include <stdio.h>
#include <string.h>

static int wrong = 0;

static void said(int code, const char *part)
{
    if (strstr(rows_error(code), part)) return;
    printf("%d is %s, not %s\\n", code, rows_error(code), part);
    wrong = 1;
}

int main(void)
{
    void *x, *out, *room;
    size_t bytes = 0;
    cudaGraph_t graph;
    cudaMalloc(&x, 4 * 5 * 300);
    cudaMalloc(&out, 4 * 300);
    memset(x, 0, 4 * 5 * 300);
    said(rows_supported(), "no error");
    said(rows_workspace(300, 5, &bytes), "no error");
    said(rows_workspace(-1, 5, &bytes), "negative");
    said(rows_workspace(1 << 30, 1 << 30, &bytes), "too many");
    said(rows_workspace(300, 5, NULL), "NULL");
    said(rows_workspace(300, 5, &bytes), "no error");
    cudaMalloc(&room, bytes + 1);
    said(rows((float *)x, 300, 5, NULL, room, bytes, NULL), "NULL");
    said(rows((float *)x, -1, 5, (float *)out, room, bytes, NULL), "negative");
    said(rows((float *)((char *)x + 2), 300, 5, (float *)out, room, bytes, NULL), "aligned");
    if (bytes) said(rows((float *)x, 300, 5, (float *)out, room, bytes - 1, NULL), "workspace");
    said(rows_launch(NULL, room, bytes, NULL), "NULL");
    said(rows((float *)x, 0, 5, NULL, room, bytes, NULL), "no error");
    said(700, "illegal");
    said(-99, "unknown");
    cudaStreamBeginCapture(NULL, cudaStreamCaptureModeGlobal);
    said(rows((float *)x, 300, 5, (float *)out, (char *)room + 1, bytes, NULL), bytes ? "workspace" : "no error");
    said(rows((float *)x, 300, 5, (float *)out, room, bytes, NULL), "no error");
    cudaStreamEndCapture(NULL, &graph);
    if (((float *)out)[299] == 0) wrong = 1; /* captured, not run */
    said((int)cudaGraphLaunch(NULL, NULL), "no error");
    if (((float *)out)[299] != 0) wrong = 1;
    moa_shim_shared_limit(1024);
    said(rows_workspace(300, 5, &bytes), "no error");
    if (bytes < 1024) wrong = 1; /* scratch in global memory now */
    cudaMalloc(&room, bytes);
    memset(out, 0xff, 4 * 300);
    said(rows((float *)x, 300, 5, (float *)out, room, bytes, NULL), "no error");
    if (((float *)out)[299] != 0) wrong = 1;
    return wrong;
}
"""


@needs_compilers
def test_arguments_are_checked_and_launches_are_captured(tmp_path: Path) -> None:
    kernel = moa.compile("max(X @ X.T, axis=-1)", X="n d", dtype="float32")
    kernel.emit(tmp_path / "out", backend="cuda", name="rows")
    (tmp_path / "caller.cu").write_text(CALLER, encoding="ascii")
    command(program(tmp_path, [tmp_path / "caller.cu", tmp_path / "out" / "rows.cu"], tmp_path / "out"))


@needs_compilers
def test_the_example_project_on_this_processor(tmp_path: Path) -> None:
    folder = ROOT / "examples" / "cuda_project"
    command(sys.executable, folder / "emit.py", tmp_path)
    names = ("causal_gqa", "rms_norm")
    sources = [folder / "main.cu", *(tmp_path / n / f"{n}.cu" for n in names)]
    assert "largest difference" in command(program(tmp_path, sources, *(tmp_path / n for n in names)))


@needs_nvcc
@pytest.mark.slow
def test_the_example_project_is_built(tmp_path: Path) -> None:
    """By CMake and nvcc; without a device it says so."""
    folder = ROOT / "examples" / "cuda_project"
    more = [f"-DMOA_PYTHON={sys.executable}", "-DCMAKE_CUDA_ARCHITECTURES=90a-real"]
    command("cmake", "-S", folder, "-B", tmp_path, *more)
    command("cmake", "--build", tmp_path)
    done = subprocess.run([tmp_path / "program"], capture_output=True, text=True, timeout=60)
    assert "largest difference" in done.stdout or "driver" in done.stderr or "device" in done.stderr


# Text and files ------------------------------------------------------------------------------------------------------


def test_the_bytes_are_the_same_each_time(tmp_path: Path) -> None:
    code = "import sys, moa; moa.compile(sys.argv[1], dtype='float32').emit(sys.argv[2], backend='cuda')"
    for k, seed in enumerate(("1", "2")):
        words = [sys.executable, "-c", code, ROOT / "examples" / "gqa.moa", tmp_path / str(k)]
        subprocess.run(words, env={**os.environ, "PYTHONHASHSEED": seed}, check=True, timeout=120)
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / str(k)).iterdir()} for k in range(2))
    assert first == second
    assert not any(str(tmp_path).encode() in data for data in first.values())


@needs_compilers
def test_names_and_comments_are_harmless(tmp_path: Path) -> None:
    moa.compile(HOSTILE, dtype="float32").emit(tmp_path / "out", backend="cuda")
    name = next((tmp_path / "out").glob("*.json")).stem
    for path in (tmp_path / "out").iterdir():
        text = path.read_text(encoding="ascii")
        assert "#error comment" not in re.sub(r"/\\*.*?\\*/", "", text, flags=re.DOTALL)
    assert ": ok" in passes(tmp_path / "out", name)


def test_the_command(tmp_path: Path) -> None:
    words = ["emit", str(ROOT / "examples" / "causal.moa"), "--backend", "cuda", "-o", str(tmp_path / "out")]
    found = CliRunner().invoke(app, [*words, "--size", "dk=64", "--name", "c1"])
    assert found.exit_code == 0, found.output
    data = json.loads((tmp_path / "out" / "c1.json").read_text(encoding="ascii"))
    assert data["backend"] == "cuda" and data["fixed"] == {"dk": 64} and "c1.cu" in data["files"]
    with pytest.raises(MoaError, match="choose c, llvm or cuda"):
        kernel_of("causal").emit(tmp_path / "no", backend="ptx")
