"""C text of Loops: the bits of the interpreter and of LLVM, instruction by instruction and program by program."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loops_by_hand import FLOATS, array, entry, packed, same_bits
from test_llvm import CASES, ITEMS, NUMPY, copying, elements, floats, one_instruction

from moa.backends.c import print_c
from moa.backends.c_build import FLAGS, build, compiler
from moa.backends.cfamily import comment, mangled
from moa.backends.llvm import host
from moa.expand import expand
from moa.interp.loops import run
from moa.loops import Const, Fn, Loops, Name, Op
from moa.text import MoaError

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
    size = FLOATS[dtype]().itemsize
    for width in sorted({2, 16 // size, 32 // size, WIDE // size}):
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
                bad = np.flatnonzero(meant["y"].view(f"u{meant['y'].itemsize}") != got["y"].view(f"u{got['y'].itemsize}"))
                wrong.append((case, bad[:3], meant["y"][bad[:3]], got["y"][bad[:3]]))
        assert not wrong, f"width {width}: {wrong}"
