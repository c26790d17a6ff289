"""Simulated caches beside those of cachegrind: two programs that share no code see the same kernel."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from moa.backends import llvm_text
from moa.given import made
from moa.measure.inputs import arguments
from moa.measure.simulated import simulate

ROOT = Path(__file__).resolve().parent.parent
COMPILER = next((c for c in ("gcc", "clang") if shutil.which(c)), "")
HERE = os.uname().machine == "x86_64" and shutil.which("valgrind") and COMPILER
pytestmark = pytest.mark.skipif(not HERE, reason="valgrind or a C compiler is missing, or this is no x86")
SIZES = {  # in the order of the parameters of the emitted functions
    "attention": {"n": 100, "dk": 32, "m": 300, "dv": 32},
    "causal": {"n": 203, "dk": 32, "dv": 32},
    "window": {"n": 300, "dk": 24, "dv": 24, "w": 40},
}
MAIN = """
#include <stdlib.h>
#include <string.h>
#include "@NAME@.h"

static float *made(size_t count) {
    float *x = aligned_alloc(4096, (count * sizeof(float) + 4095) / 4096 * 4096);
    for (size_t k = 0; k < count; k++) x[k] = (float)(k % 7) * 0.1f;
    return x;
}

int main(void) {
    @ARRAYS@
    size_t bytes = @NAME@_workspace(@SIZES@, 1);
    void *workspace = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    volatile char *other = malloc(1 << 22);
    for (size_t k = 0; k < 1 << 22; k += 64) other[k] = 1;
    return @NAME@(@ARGUMENTS@, workspace, bytes);
}
"""
CAPACITY, ALL, LINE = 32 << 10, 1 << 20, 64
FEW = 64  # lines of stack and constants
WITHIN = 0.02


def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine with vectors of 32 bytes: cachegrind knows no wider ones."""
    import moa.backends.llvm
    import moa.backends.llvm_build
    import moa.measure.hierarchy
    import moa.measure.simulated

    own = llvm_text.host()
    features = ",".join(f if "avx512" not in f and "evex" not in f else f"-{f[1:]}" for f in own.features.split(","))
    target = replace(own, vector_bytes=32, avx512=False, features=features)
    for module in (moa.backends.llvm, moa.backends.llvm_build, moa.measure.hierarchy, moa.measure.simulated):
        if hasattr(module, "host"):
            monkeypatch.setattr(module, "host", lambda: target)
    monkeypatch.setattr("moa.candidates.FEW_ITEMS", 0)  # what is emitted has the tiles for many rows


def main_of(name: str, sizes: dict[str, int]) -> str:
    """A program that calls an emitted function once, with a cache that holds nothing of its arrays."""
    keys = "m" if "m" in sizes else "n"
    shapes = {"Q": ("n", "dk"), "K": (keys, "dk"), "V": (keys, "dv"), "out": ("n", "dv")}
    given = [str(v) for k, v in sizes.items() if k not in ("dk", "dv")]
    scalars = [str(sizes["w"])] if "w" in sizes else []
    words = {
        "@NAME@": name,
        "@ARRAYS@": " ".join(f"float *{k} = made({sizes[a] * sizes[b]});" for k, (a, b) in shapes.items()),
        "@SIZES@": ", ".join(given),
        "@ARGUMENTS@": ", ".join(["Q", "K", "V", *scalars, *given[: len(given) - len(scalars)], "out"]),
    }
    text = MAIN
    for k, v in words.items():
        text = text.replace(k, v)
    return text


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, " ".join(map(str, command)) + "\n" + done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


def counted(path: Path) -> dict[str, int]:
    """The events of the functions of a kernel, and of what is inlined into them: loads are, by intrinsics."""
    names: list[str] = []
    total: dict[str, int] = {}
    inside = False
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        word, _, rest = line.partition(":" if line.startswith("events") else "=")
        if word == "events":
            names = rest.split()
        elif word == "fn":
            inside = rest.startswith("moa_")
        elif inside and line[:1].isdigit():
            for name, value in zip(names, line.split()[1:], strict=False):
                total[name] = total.get(name, 0) + int(value)
    return total


@pytest.mark.parametrize("name", SIZES)
def test_cachegrind_sees_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that are read into a cache of 32 KiB, fully associative, within 2 %.

    Cachegrind sees constants too, and what compilers put on the stack. How many lines these are tells a second cache,
    which holds all. They take room in the first one: some number of lines up to theirs, as many as are in use at once.
    """
    narrow(monkeypatch)
    sizes = SIZES[name]
    kernel = made(str(ROOT / f"examples/{name}.moa"), None, "float32")
    kernel.emit(tmp_path / "out", **{k: v for k, v in sizes.items() if k in ("dk", "dv")})
    (tmp_path / "main.c").write_text(main_of(name, sizes), encoding="ascii")
    flags = ("-O1", "-g", "-mavx2", "-mfma", "-I", "out")
    run(COMPILER, *flags, "-o", "main", "main.c", f"out/{name}.c", "-lm", cwd=tmp_path)
    caches = ("--cache-sim=yes", f"--D1={CAPACITY},{CAPACITY // LINE},{LINE}", f"--LL={ALL},16,{LINE}")
    run("valgrind", "--tool=cachegrind", *caches, "--cachegrind-out-file=found", "./main", cwd=tmp_path)
    found = counted(tmp_path / "found")
    values = arguments(kernel, (), sizes)
    whole = simulate(kernel, values, [CAPACITY, ALL])
    others = found["DLmr"] + found["DLmw"] - whole.levels[1].read_bytes // LINE
    assert 0 <= others <= FEW, "lines that hold no array"
    lines = found["D1mr"] + found["D1mw"]
    seen = {
        k: simulate(kernel, values, [CAPACITY - k * LINE]).levels[0].read_bytes // LINE for k in range(0, others, 4)
    }
    assert any(lines == pytest.approx(others + n, rel=WITHIN) for n in seen.values()), (lines, others, seen)
    assert whole.accesses <= found["Dr"] + found["Dw"]
