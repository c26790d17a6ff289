"""Attention beside its peers: how much of the machine's peak the compiled formula reaches.

    python benchmarks/attention.py [--probe FILE.c] [--json FILE] ...

Cells: float32 and float64, full and causal, one and two threads; then a few rows against many keys (bandwidth), a small
call (overhead). Peers: the kernel, a hand-written C kernel if one is given, NumPy, torch where it is installed.

The C file exports `void init_attn(void)` and `void attn(const T *Q, const T *K, const T *V, T *O, int heads, int n,
int m, int causal, int threads)` and takes -DD=<d>, and -DF64 where T is double.

Flops are counted as 4 n m d a head, half of that for causal. `% peak` is of the multiply-add rate measured in the same
run, `ratio` is time of the C kernel over time of the kernel (above 1: faster than C). Only samples between two
undisturbed probes count (`clean/all`; see measure.py): nan where there was none. `best` and `of best` are of the
fastest sample of all, whatever the probes said: on a busy machine they say little about several threads. Errors are
against float64 NumPy by the same code as the peer `numpy`, whose own error in float64 is therefore 0.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from measure import Ceiling, Peer, measure, set_blas_threads
from numpy.typing import NDArray

import moa

Array = NDArray[Any]

FULL = """
def full(Q[..., n, dk], K[..., m, dk], V[..., m, dv]):
    return softmax(Q @ K.T / sqrt(dk)) @ V
"""
CAUSAL = """
def causal(Q[..., n, dk], K[..., n, dk], V[..., n, dv]):
    i, j = iota(n)[:, None], iota(n)
    return softmax(where(j <= i, Q @ K.T / sqrt(dk), -inf)) @ V
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """One comparison. rows and keys a head, width of a head."""

    title: str
    dtype: str
    causal: bool
    threads: int
    heads: int
    n: int
    m: int
    d: int

    @property
    def flops(self) -> float:
        return 4.0 * self.heads * self.n * self.m * self.d / (2 if self.causal else 1)

    @property
    def bytes(self) -> float:
        """What must be read and written once."""
        return float(np.dtype(self.dtype).itemsize * 2 * self.heads * (self.n + self.m) * self.d)


def inputs(cell: Cell) -> tuple[Array, Array, Array]:
    random = np.random.default_rng(0)
    shapes = ((cell.heads, cell.n, cell.d), (cell.heads, cell.m, cell.d), (cell.heads, cell.m, cell.d))
    q, k, v = (random.standard_normal(s).astype(cell.dtype) for s in shapes)
    return q, k, v


def reference(q: Array, k: Array, v: Array, causal: bool, head: int) -> Array:
    """One head in float64."""
    return in_numpy(q[head].astype(np.float64), k[head].astype(np.float64), v[head].astype(np.float64), causal)


def in_numpy(q: Array, k: Array, v: Array, causal: bool) -> Array:
    scores = q @ np.swapaxes(k, -1, -2)
    scores *= np.asarray(1 / np.sqrt(q.shape[-1]), q.dtype)
    if causal:
        scores[..., np.triu(np.ones(scores.shape[-2:], bool), 1)] = -np.inf
    scores -= scores.max(-1, keepdims=True)
    np.exp(scores, out=scores)
    total = scores.sum(-1, keepdims=True)
    return np.asarray(scores @ v / total)


# peers --------------------------------------------------------------------------------------------------------------


class Result:
    """A place for what a peer returned last."""

    def __init__(self) -> None:
        self.value: Any = None

    def error(self, wanted: dict[int, Array]) -> float:
        got = np.asarray(self.value)
        return max(float(np.abs(got[h].astype(np.float64) - w).max()) for h, w in wanted.items())


def peers(cell: Cell, names: list[str], probe: Callable[[Cell], Any]) -> Iterator[Peer]:
    """The peers of a cell that are there, `kernel` first."""
    q, k, v = inputs(cell)
    wanted = {h: reference(q, k, v, cell.causal, h) for h in {0, cell.heads - 1}}

    def peer(name: str, work: Callable[[], Any], result: Result) -> Peer:
        return Peer(name, work, lambda: result.error(wanted))

    def returning(name: str, work: Callable[[], Any]) -> Peer:
        result = Result()

        def once() -> None:
            result.value = work()

        return peer(name, once, result)

    for name in names:
        match name:
            case "kernel":
                kernel = moa.compile(CAUSAL if cell.causal else FULL, dtype=cell.dtype)
                yield returning(name, partial(kernel, q, k, v, threads=cell.threads))
            case "probe":
                attn = probe(cell)
                if attn is None:
                    continue
                out = np.empty_like(q)
                addresses = [ctypes.c_void_p(a.ctypes.data) for a in (q, k, v, out)]
                numbers = [ctypes.c_int(x) for x in (cell.heads, cell.n, cell.m, int(cell.causal), cell.threads)]
                kept = Result()
                kept.value = out
                yield peer(name, partial(attn, *addresses, *numbers), kept)
            case "numpy":
                if set_blas_threads(cell.threads) or cell.threads == os.cpu_count():
                    yield returning(name, lambda: in_numpy(q, k, v, cell.causal))
            case "torch":
                try:
                    import torch  # type: ignore[import-not-found]
                except ImportError:
                    continue
                torch.set_num_threads(cell.threads)
                t = [torch.from_numpy(a)[None] for a in (q, k, v)]
                attention = torch.nn.functional.scaled_dot_product_attention

                def in_torch(attention: Any = attention, t: Any = t) -> Any:
                    return attention(*t, is_causal=cell.causal)[0]

                yield returning(name, in_torch)


class Probe:
    """The hand-written kernel, compiled for each dtype and width when first needed."""

    def __init__(self, source: Path | None, flags: dict[str, str]) -> None:
        self.source, self.flags = source, flags
        self.libraries: dict[tuple[str, int], Any] = {}
        self.folder = tempfile.TemporaryDirectory()

    def __call__(self, cell: Cell) -> Any:
        compiler = shutil.which("gcc")
        if self.source is None or compiler is None:
            return None
        key = (cell.dtype, cell.d)
        if key not in self.libraries:
            library = Path(self.folder.name) / f"{cell.dtype}_{cell.d}.so"
            command = [compiler, "-O3", "-march=native", "-fopenmp", "-ffp-contract=fast", "-shared", "-fPIC"]
            command += [
                f"-DD={cell.d}",
                *(["-DF64"] if cell.dtype == "float64" else []),
                *self.flags[cell.dtype].split(),
            ]
            subprocess.run([*command, str(self.source), "-o", str(library), "-lm"], check=True)
            self.libraries[key] = loaded = ctypes.CDLL(str(library))
            loaded.init_attn()
        return self.libraries[key].attn


# cells --------------------------------------------------------------------------------------------------------------


def cells(o: argparse.Namespace) -> list[Cell]:
    out = []
    for dtype in o.dtypes:
        for causal in (False, True):
            for threads in o.threads:
                title = f"{dtype} {'causal' if causal else 'full'} {threads}t"
                out.append(Cell(title, dtype, causal, threads, o.heads, o.n, o.n, o.d))
    if o.all:
        for threads in o.threads:
            out.append(Cell(f"float32 1 row x 4096 keys {threads}t", "float32", False, threads, 32, 1, 4096, 128))
    return out


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the table."""

    cell: Cell
    peer: str
    seconds: float
    best_s: float
    gflops: float
    of_peak: float
    ratio: float
    best_ratio: float
    gbytes: float
    error: float
    clean: int
    every: int


def lines(cell: Cell, found: list[Peer], ceiling: Ceiling) -> list[Line]:
    times = {p.name: p.seconds(ceiling.peak) for p in found}
    out = []
    for p in found:
        seconds, best, clean = times[p.name]
        hand, best_hand, _ = times.get("probe", (float("nan"), float("nan"), 0))
        rate = cell.flops / seconds
        out.append(
            Line(
                cell, p.name, seconds, best, rate * 1e-9, 100 * rate / ceiling.peak, hand / seconds, best_hand / best,
                cell.bytes / seconds * 1e-9, p.error, clean, len(p.samples),
            )
        )  # fmt: skip
    return out


HEAD = f"{'cell':32} {'peer':7} {'ms':>9} {'best':>9} {'GFLOP/s':>8} {'% peak':>7} {'ratio':>6} {'of best':>7} "
HEAD += f"{'GB/s':>6} {'error':>8} {'clean/all':>9}"


def text(line: Line) -> str:
    first = f"{line.cell.title:32} {line.peer:7} {line.seconds * 1e3:9.3f} {line.best_s * 1e3:9.3f} {line.gflops:8.1f} "
    rest = f"{line.of_peak:7.1f} {line.ratio:6.3f} {line.best_ratio:7.3f} {line.gbytes:6.1f} {line.error:8.1e} "
    return first + rest + f"{line.clean:4}/{line.every:<4}"


def small_call(progress: Callable[[str], None]) -> dict[str, float]:
    """Microseconds of a small call (1, 4, 64, 64, 32), and of one with hardly any work, on one thread."""
    out = {}
    for title, heads, n, d in (("call (1, 4, 64, 64, 32)", 4, 64, 32), ("call (1, 1, 1, 1, 4)", 1, 1, 4)):
        progress(title)
        cell = Cell(title, "float32", False, 1, heads, n, n, d)
        q, k, v = (a[None] for a in inputs(cell))
        kernel = moa.compile(FULL, dtype="float32")
        for _ in range(200):
            kernel(q, k, v, threads=1)
        taken = []
        for _ in range(60):
            start = time.perf_counter()
            for _ in range(50):
                kernel(q, k, v, threads=1)
            taken.append((time.perf_counter() - start) / 50)
        out[title] = min(taken) * 1e6
        out[title + " median"] = median(taken) * 1e6
    return out


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--n", type=int, default=2048, help="rows, and keys")
    p.add_argument("--d", type=int, default=64)
    p.add_argument("--heads", type=int, default=2)
    p.add_argument("--threads", type=lambda s: [int(x) for x in s.split(",")], default=[1, 2])
    p.add_argument("--dtypes", type=lambda s: s.split(","), default=["float32", "float64"])
    p.add_argument("--peers", type=lambda s: s.split(","), default=["kernel", "probe", "numpy", "torch"])
    p.add_argument("--probe", type=Path, help="a hand-written kernel in C")
    p.add_argument("--flags-f32", default="", help="its further compiler flags for float32")
    p.add_argument("--flags-f64", default="", help="and for float64")
    p.add_argument("--clean", type=int, default=9, help="clean samples wanted of each peer")
    p.add_argument("--seconds", type=float, default=20, help="at most, for a cell")
    p.add_argument("--json", type=Path, help="write everything measured to this file")
    p.add_argument("--no-others", dest="all", action="store_false", help="only the eight cells")
    return p.parse_args(arguments)


def main() -> None:
    o = options()
    probe = Probe(o.probe, {"float32": o.flags_f32, "float64": o.flags_f64})
    tty = sys.stderr.isatty()

    def progress(*message: str) -> None:
        if tty:
            print(f"\r\x1b[K{': '.join(message)[:150]}", end="", file=sys.stderr, flush=True)

    record: dict[str, Any] = {"options": {k: str(v) for k, v in vars(o).items() if k != "probe"}, "cells": []}
    print(HEAD)
    try:
        for cell in cells(o):
            progress(cell.title, "preparing")
            ceiling = Ceiling(cell.dtype, cell.threads)
            found: list[Peer] = []
            try:
                found.extend(peers(cell, o.peers, probe))
                measure(found, ceiling, o.clean, o.seconds, partial(progress, cell.title))
            finally:
                progress("")
                measured = [p for p in found if p.samples]
                for line in lines(cell, measured, ceiling):
                    print(text(line), flush=True)
                record["cells"].append(cell_record(cell, measured, ceiling))
        if o.all:
            record["calls_us"] = small_call(progress)
            progress("")
            for title, value in record["calls_us"].items():
                print(f"{title:40} {value:8.1f} us")
    except KeyboardInterrupt:
        print("interrupted: what was measured so far is above", file=sys.stderr)
    if o.json is not None:
        o.json.write_text(json.dumps(record, indent=1), encoding="utf-8")


def cell_record(cell: Cell, found: list[Peer], ceiling: Ceiling) -> dict[str, Any]:
    return {
        "cell": {k: getattr(cell, k) for k in cell.__slots__},
        "flops": cell.flops,
        "peak": ceiling.peak,
        "peers": {
            p.name: {
                "error": p.error,
                "samples": [[s.seconds, s.before, s.after, s.waited_s, s.stolen] for s in p.samples],
                "clean": [s.clean(ceiling.peak) for s in p.samples],
            }
            for p in found
        },
    }


if __name__ == "__main__":
    main()
