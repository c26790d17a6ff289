"""Kernels written by hand in C, if a folder of them is given: no part of the project.

`probe_attn.c` (-DD=<d>, -DF64, -DBC, -DKB) and `probe_bf16.c` export `init_attn` and
`attn(Q, K, V, O, heads, n, m, causal, threads)`, the first also `attn_w` with a window before the threads;
`probe_decode.c` (-DD, -DG query heads a head of keys, -DBF16 for keys and values) exports `init_dec` and
`decode(Q, K, V, O, heads of keys, m, threads)`.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import WINDOW, Inputs
from benchmarks.peers import Absent, Found, Options

COMMON = ("-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-shared", "-fPIC")


@cache
def folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="probe")


@cache
def library(source: Path, flags: tuple[str, ...], initial: str) -> Any:
    """The compiled probe. Errors: RuntimeError with what the compiler said"""
    path = Path(folder().name) / f"{source.stem}{''.join(flags)}.so"
    command = [str(shutil.which("gcc")), *COMMON, *flags, str(source), "-o", str(path), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{source.name} does not compile: {done.stderr}")
    loaded = ctypes.CDLL(str(path))
    getattr(loaded, initial)()
    return loaded


def peers(given: Inputs, o: Options) -> Found:
    cell = given.cell
    if o.probe is None:
        yield Absent("probe", "no folder of hand-written kernels is given (--probe)")
        return
    if shutil.which("gcc") is None:
        yield Absent("probe", "there is no gcc to compile it")
        return
    aligned_rows = cell.n % 64 == 0 and cell.m % 4 == 0
    if cell.dk != cell.dv or cell.formula not in ("full", "causal", "window", "grouped"):
        yield Absent("probe", "not of this formula", everywhere=False)
    elif cell.n == 1:
        if cell.dk % 32 == 0:
            yield from decode(given, o)
    elif cell.formula != "grouped" and (cell.dtype != "bfloat16" or aligned_rows):
        yield from prefill(given, o)


def prefill(given: Inputs, o: Options) -> Found:
    cell = given.cell
    assert o.probe is not None
    d = f"-DD={cell.dk}"
    if cell.dtype == "bfloat16":
        attn = library(o.probe / "probe_bf16.c", (d,), "init_attn").attn
    else:
        flags = (d, "-DF64", "-DKB=4", "-DBC=96") if cell.dtype == "float64" else (d, "-DBC=192")
        attn = library(o.probe / "probe_attn.c", flags, "init_attn")
        attn = attn.attn_w if cell.formula == "window" else attn.attn
    arrays = [halves(a) if cell.dtype == "bfloat16" else a for a in (given.q, given.k, given.v)]
    out = np.empty_like(arrays[0])
    addresses = [ctypes.c_void_p(a.ctypes.data) for a in (*arrays, out)]
    window = [WINDOW] if cell.formula == "window" else []
    numbers = [ctypes.c_int(x) for x in (cell.heads, cell.n, cell.m, int(cell.of.causal), *window, o.threads)]

    def work() -> Any:
        attn(*addresses, *numbers)
        return (arrays, out)[1] if cell.dtype != "bfloat16" else Halves(out)

    yield "probe", work


def decode(given: Inputs, o: Options) -> Found:
    cell = given.cell
    assert o.probe is not None
    group = cell.heads // cell.kv_heads
    flags: tuple[str, ...] = (f"-DD={cell.dk}", f"-DG={group}", "-DPF=0", f"-DKBLK={128 if group > 1 else 32}")
    flags += {"bfloat16": ("-DBF16",), "float64": ("-DF64",), "float32": ()}[cell.dtype]
    run = library(o.probe / "probe_decode.c", flags, "init_dec").decode
    k, v = (halves(a) if cell.dtype == "bfloat16" else a for a in (given.k, given.v))
    out = np.empty((1, cell.heads, 1, cell.dv), given.q.dtype)
    addresses = [ctypes.c_void_p(a.ctypes.data) for a in (given.q, k, v, out)]
    numbers = [ctypes.c_int(x) for x in (cell.kv_heads, cell.m, o.threads)]
    held = (k, v)

    def work() -> Any:
        run(*addresses, *numbers)
        return (held, out)[1]

    yield "probe", work


@dataclass(frozen=True, slots=True)
class Halves:
    """Upper halves of float32 values; an array of those values for NumPy."""

    bits: Any

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return (self.bits.astype(np.uint32) << 16).view(np.float32)


def halves(x: Any) -> Any:
    """The upper 16 bits of float32 values that bfloat16 holds."""
    return np.ascontiguousarray((x.view(np.uint32) >> 16).astype(np.uint16))
