"""C text of Loops: the bits of the interpreter and of LLVM, instruction by instruction and program by program."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loops_by_hand import FLOATS, array, entry, packed, same_bits
from programs import numbered
from test_llvm import CASES, ITEMS, NUMPY, copying, elements, floats, one_instruction

import moa
from moa.backends.c import print_c
from moa.backends.c_build import FLAGS, build, compile_c, compiler
from moa.backends.cfamily import comment, mangled
from moa.backends.llvm import host
from moa.expand import expand
from moa.interp.loops import run
from moa.loops import Loops
from moa.text import MoaError

ROOT = Path(__file__).resolve().parent.parent
HAS_CC = any(shutil.which(c) for c in ("cc", "gcc", "clang"))
pytestmark = pytest.mark.skipif(not HAS_CC, reason="no C compiler: install gcc or clang")
WIDE = host().vector_bytes
X86 = os.uname().machine == "x86_64"
MACHINES = {"host": FLAGS} | (
    {
        "avx2": tuple("-mavx2" if f == "-march=native" else f for f in FLAGS),
        "fma": (*(f for f in FLAGS if f != "-march=native"), "-mavx2", "-mfma"),
        "baseline": tuple(f for f in FLAGS if f != "-march=native"),
    }
    if X86
    else {}
)


def data_of(case: tuple[str, tuple[Any, ...], str, str], dtype: str, width: int) -> dict[str, Any]:
    op, _, types, result = case
    rng = np.random.default_rng(7)
    buffers: dict[str, Any] = {}
    for k, t in enumerate(types):
        if t in "fv":
            buffers[f"x{k}"] = floats(rng, dtype, ITEMS * width, op, k)
        elif t in "iw":
            data = rng.integers(-40, 40, ITEMS + 1)
            buffers[f"x{k}"] = abs(data) + 1 if op in ("idiv", "imod") and k == 1 else data
        else:
            buffers[f"x{k}"] = rng.integers(0, 2, ITEMS * width).astype(np.uint8)
    kind = {"i": np.int64, "b": np.uint8, "m": np.uint8}.get(result, FLOATS[dtype])
    return buffers | {"y": np.zeros(ITEMS * width, kind)}


def joined(parts: list[Loops]) -> Loops:
    """One Loops whose phases are the entries of all parts."""
    functions = tuple(replace(p.functions[0], name=f"case{k}") for k, p in enumerate(parts))
    return Loops(parts[0].dtype, parts[0].width, functions, tuple(f.name for f in functions))


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("machine", MACHINES)
def test_instructions(machine: str, dtype: str) -> None:
    """Every instruction, all of a width in one file; a width that is not the machine's is printed portably."""
    size = FLOATS[dtype]().itemsize
    widths = {"host": {2, WIDE // size}, "avx2": {32 // size}, "fma": {32 // size}, "baseline": {16 // size}}
    for width in sorted(widths[machine]):
        parts = [expand(one_instruction(dtype, width, case)) for case in CASES]
        built = build(joined(parts), MACHINES[machine])
        wrong = []
        for case, part, address in zip(CASES, parts, built.phases, strict=True):
            buffers = data_of(case, dtype, width)
            args = [f"x{k}" if k < len(case[2]) else 0 for k in range(3)] + ["y"]
            meant = {k: array(v, v.dtype) for k, v in buffers.items()}
            run(part, part.phases[0], args, 0, ITEMS, meant)
            got = {k: array(v, v.dtype) for k, v in buffers.items()}
            entry(address)(packed(args, got).ctypes.data, 0, ITEMS, 0)
            if not same_bits(meant["y"], got["y"]):
                wrong.append((case, meant["y"], got["y"]))
        assert not wrong, f"width {width}: {wrong}"


PAIRS = [("f32", "v"), ("f64", "v"), ("f16", "v"), ("bf16", "v"), ("u8", "m")]


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("width_bytes", [WIDE, 16])
def test_elements_under_masks(dtype: str, width_bytes: int) -> None:
    """Every element type, loaded and stored under masks, at a count that ends inside a vector."""
    width = width_bytes // FLOATS[dtype]().itemsize
    cases = [(a, b, "v") for a, k in PAIRS if k == "v" for b, j in PAIRS if j == "v"] + [("u8", "u8", "m")]
    parts = [copying(dtype, width, a, b, kind) for a, b, kind in cases]
    built = build(joined(parts), MACHINES["host" if width_bytes == WIDE else next(reversed(MACHINES))])
    count = 5 * width - 3
    for (a, b, kind), part, address in zip(cases, parts, built.phases, strict=True):
        x = elements(a, count) if kind == "v" else np.arange(count, dtype=np.uint8) % 2
        buffers: dict[str, Any] = {"x": x, "y": np.zeros(count + 2, NUMPY[b])}
        meant = {k: array(v, v.dtype) for k, v in buffers.items()}
        with np.errstate(all="ignore"):
            run(part, part.phases[0], ["x", "y", count], 0, 5, meant)
        got = {k: array(v, v.dtype) for k, v in buffers.items()}
        entry(address)(packed(["x", "y", count], got).ctypes.data, 0, 5, 0)
        found, wanted = got["y"], meant["y"]
        if b == "bf16":
            nan = (wanted & 0x7FFF) > 0x7F80
            assert np.array_equal((found & 0x7FFF) > 0x7F80, nan)
            found, wanted = found[~nan], wanted[~nan]
        assert same_bits(wanted, found), (a, b)


# Programs ------------------------------------------------------------------------------------------------------------

PROGRAMS = sorted(p.stem for p in (ROOT / "examples").glob("*.moa"))
EXTENTS = {"b": 2, "h": 3, "g": 2, "r": 2, "n": 37, "m": 53, "dk": 19, "dv": 8, "d": 9, "w": 5}


def both(source: Any, dtype: str, arguments: dict[str, Any]) -> tuple[Any, Any]:
    """The results of both backends for the same arguments."""
    out = []
    for backend in ("llvm", "c"):
        found = moa.compile(source, dtype=dtype, backend=backend)(**arguments)
        out.append(found if isinstance(found, tuple) else (found,))
    return out[0], out[1]


def equal(found: tuple[Any, Any]) -> bool:
    return all(same_bits(np.ascontiguousarray(a), np.ascontiguousarray(b)) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_examples_have_the_bits_of_llvm(name: str, dtype: str) -> None:
    rng = np.random.default_rng(3)
    source = ROOT / "examples" / f"{name}.moa"
    program = moa.compile(source).derivation.program
    arguments: dict[str, Any] = {}
    for p in program.inputs:
        shape = [EXTENTS[str(e)] for e in p.shape]
        arguments[p.name] = rng.standard_normal(shape).astype(dtype) if p.shape else EXTENTS[p.name]
    assert equal(both(source, dtype, arguments))


@pytest.mark.parametrize("seed", range(6))
def test_random_programs_have_the_bits_of_llvm(seed: int) -> None:
    case = numbered(seed)
    dtype = ("float32", "float64")[seed % 2]
    given = case.arrays()
    arguments = {k: np.asarray(v, dtype) if np.asarray(v).dtype.kind == "f" else v for k, v in given.items()}
    assert equal(both(case.text, dtype, arguments)), case


# Text ----------------------------------------------------------------------------------------------------------------

HOSTILE = "*/ int x; /* ??/\n*\\\n/ \u202e\x00 // ??/ \\u002a/ end*"


def test_a_comment_cannot_be_left(tmp_path: Path) -> None:
    text = comment(HOSTILE) + "\nint main(void) { return 0; }\n"
    assert text.isascii() and "\x00" not in text
    assert text.count("*/") == 1 and "??" not in text and "\\" not in text
    out = tmp_path / "a.out"
    compile_c(compiler(), ("-std=c11", "-trigraphs", "-Wall", "-Wextra", "-Werror"), text, tmp_path, out)
    assert subprocess.run([out], check=False).returncode == 0


@pytest.mark.parametrize("name", ["int", "a b", "é", "moa_v", "__x", "x" * 300, "", "1", "a*/b", "class", "out\n"])
def test_mangled_names_are_ordinary(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", mangled(name)) and len(mangled(name)) < 200
    assert mangled(name) not in ("int", "class") and not mangled(name).startswith("moa_")


def test_the_text_is_deterministic_and_its_functions_take_no_vector() -> None:
    loops = expand(one_instruction("f32", 16, CASES[0]))
    assert print_c(loops) == print_c(loops)
    heads = [
        line for line in print_c(loops).splitlines() if re.match(r"(MOA_NEST )?(static )?void moa_(p|nest)[0-9]", line)
    ]
    assert heads and not any("moa_v" in h or "moa_w" in h or "moa_m " in h for h in heads)


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    compiler.cache_clear()
    with pytest.raises(MoaError, match="needs a C compiler"):
        compiler()
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    with pytest.raises(MoaError, match="is no program"):
        compiler()
    monkeypatch.undo()
    compiler.cache_clear()


def test_the_source_is_that_of_the_backend() -> None:
    kernel = moa.compile("X * 2.0", X="n d", backend="c")
    assert "MOA_FMA" in kernel.source()
    kernel(np.ones((3, 4)))
    assert kernel.source() == next(iter(kernel._variants.values())).built.text
