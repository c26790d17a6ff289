"""Bytes that emitted CUDA kernels move on a GPU, beside the bytes that their loops say.

    python benchmarks/gpu_traffic.py write FOLDER        a CMake project with one program for each case
    sh FOLDER/measure.sh                                 on a machine with a GPU: builds, and runs each under ncu
    python benchmarks/gpu_traffic.py read FOLDER         what was measured, over what was predicted

Two predictions, both from the tiles of the very kernel: *compulsory* is every array once, which is what device memory
sees where the caches keep what is read again; *streamed* is what blocks ask of the second-level cache: the rows of a
block once, and the other side once for each block. Caches are invalidated before each measured launch. What is written
may stay in the second-level cache when a kernel ends, so writes are compared there and not in memory.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import moa
from moa.backends.cuda import filled
from moa.cost import cost
from moa.emit import write
from moa.emit_cuda import CudaLibrary
from moa.loops import ELEMENT_BYTES
from moa.oracle import evaluate
from moa.poly import Poly

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SECTOR_BYTES = 32
LAUNCHES, SKIPPED = 5, 2
METRICS = {
    "time_s": "gpu__time_duration.sum",
    "memory_read": "dram__bytes_read.sum",
    "memory_written": "dram__bytes_write.sum",
    "cache_read": "lts__t_sectors_srcunit_tex_op_read.sum",
    "cache_written": "lts__t_sectors_srcunit_tex_op_write.sum",
    "cache_hit_rate": "lts__t_sector_hit_rate.pct",
    "shared_conflicts": "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum",
    "busy": "sm__throughput.avg.pct_of_peak_sustained_elapsed",
}
"""What is asked of Nsight Compute, by the names used here."""


@dataclass(frozen=True, slots=True)
class Case:
    """An example at sizes; `fixed` are literals in the code."""

    name: str
    example: str
    dtype: str
    sizes: Mapping[str, int]
    fixed: Mapping[str, int]


D64 = {"dk": 64, "dv": 64}
CASES = (
    *(Case(f"full_f32_{n}", "attention", "float32", {"n": n, "m": n}, D64) for n in (2048, 16384, 131072)),
    *(Case(f"full_f64_{n}", "attention", "float64", {"n": n, "m": n}, D64) for n in (2048, 65536)),
    *(Case(f"causal_f32_{n}", "causal", "float32", {"n": n}, {"dk": 128, "dv": 128}) for n in (4096, 32768)),
    *(Case(f"window_f32_{n}", "window", "float32", {"n": n, "w": 1024}, D64) for n in (16384, 262144)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Prediction:
    """Bytes of all phases of one launch."""

    compulsory_read: int
    written: int
    streamed_read: int


def library(case: Case) -> CudaLibrary:
    kernel = moa.compile(EXAMPLES / f"{case.example}.moa", dtype=case.dtype)
    return CudaLibrary(kernel, 0, case.name, case.fixed)


def predicted(case: Case, made: CudaLibrary) -> Prediction:
    """The bytes by the formulas of `moa cost`, at the sizes of the case."""
    c, x = cost(made.derivation, made.placed(0)), made.interface
    sizes = {**case.sizes, **case.fixed}
    size = ELEMENT_BYTES[x.stored]  # type: ignore[index]

    def words(p: Poly) -> int:
        return int(evaluate(p, sizes))

    outputs = sum(product(tuple(words(e) for e in a.shape)) for a in x.outputs)
    return Prediction(
        size * (c.compulsory_words.value(sizes) - outputs), size * outputs,
        size * (c.streamed_words.value(sizes) - outputs),
    )  # fmt: skip


def product(shape: tuple[int, ...]) -> int:
    out = 1
    for n in shape:
        out *= n
    return out


# Writing -------------------------------------------------------------------------------------------------------------


def write_cases(folder: Path, cases: tuple[Case, ...] = CASES) -> None:
    """A CMake project: one emitted library and one program for each case, and the script that measures them."""
    lists = [PROJECT]
    script = ["#!/bin/sh", "set -e", 'cd "$(dirname "$0")"', "cmake -S . -B build && cmake --build build"]
    for case in cases:
        made = library(case)
        write(folder / case.name, made.files("cuda"))
        (folder / f"{case.name}_main.cu").write_text(program(case, made), encoding="ascii")
        p = predicted(case, made)
        said = {
            "kernels": f"{case.name}_[sg][0-9]+",
            "compulsory_read": p.compulsory_read,
            "written": p.written,
            "streamed_read": p.streamed_read,
        }
        (folder / f"{case.name}.prediction.json").write_text(json.dumps(said, indent=2) + "\n", encoding="ascii")
        lists.append(LIST.replace("@NAME@", case.name))
        script.append(" ".join(ncu(case.name)) + f" build/{case.name}_program > {case.name}.csv")
    (folder / "CMakeLists.txt").write_text("\n".join(lists), encoding="ascii")
    (folder / "measure.sh").write_text("\n".join([*script, ""]), encoding="ascii")


def ncu(name: str) -> list[str]:
    """The command of Nsight Compute but for the program: its clocks are left as they are."""
    return [
        "ncu", "--target-processes", "all", "--clock-control", "none", "--cache-control", "all",
        "--kernel-name", f"'regex:{name}_[sg][0-9]+'", "--launch-skip", str(SKIPPED), "--csv", "--page", "raw",
        "--print-units", "base", "--metrics", ",".join(METRICS.values()),
    ]  # fmt: skip


def program(case: Case, made: CudaLibrary) -> str:
    """A program that fills the inputs on the device and launches the kernels some times."""
    x = made.interface
    sizes = {**case.sizes, **case.fixed}
    lines = []
    for a in x.arrays:
        count = product(tuple(int(evaluate(e, sizes)) for e in a.shape))
        lines.append(f"{x.element(a.kind)} *x_{x.names[a.name]} = filled<{x.element(a.kind)}>({count});")
    given = [f"x_{x.names[p.name]}" if p in x.arrays else f"{case.sizes[p.name]}" for p in x.params]
    given += [str(case.sizes[s]) for s in x.sizes] + [f"x_{x.names[a.name]}" for a in x.outputs]
    counts = [f"{case.sizes[s]}, " for s in (*x.sizes, *(s.name for s in x.scalars if s.kind == "i"))]
    words = {"NAME": case.name, "ARRAYS": "\n    ".join(lines), "SIZES": "".join(counts), "GIVEN": ", ".join(given),
             "LAUNCHES": str(LAUNCHES)}  # fmt: skip
    return filled(PROGRAM, words)


PROJECT = """# Made by moa: programs whose traffic is measured.
cmake_minimum_required(VERSION 3.18)
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80 90a-real)
endif()
project(moa_traffic LANGUAGES C CXX CUDA)
"""

LIST = """add_subdirectory(@NAME@)
add_executable(@NAME@_program @NAME@_main.cu)
target_link_libraries(@NAME@_program PRIVATE @NAME@::@NAME@)
"""

PROGRAM = r"""/* Made by moa: launches @NAME@ for a profiler. */
#include "@NAME@.h"

#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>

static void stop_unless_ok(int code)
{
    if (code == 0) return;
    fprintf(stderr, "@NAME@: %s\n", @NAME@_error(code));
    exit(2);
}

template <typename T> static __global__ void fill(T *x, int64_t count, unsigned seed)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t k = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; k < count; k += step) {
        unsigned s = seed + (unsigned)k * 2654435761u;
        s ^= s >> 16;
        s = s * 2246822519u;
        x[k] = (T)((double)(s >> 8) / 8388608.0 - 1.0);
    }
}

template <typename T> static T *filled(int64_t count)
{
    static unsigned seed = 0;
    void *x = nullptr;
    T *typed;
    stop_unless_ok((int)cudaMalloc(&x, (size_t)count * sizeof(T)));
    typed = (T *)x;
    seed++;
    void *args[] = {&typed, &count, &seed};
    stop_unless_ok((int)cudaLaunchKernel(fill<T>, dim3(256), dim3(256), args, 0, (cudaStream_t)0));
    return typed;
}

int main(void)
{
    @ARRAYS@
    size_t bytes = 0;
    void *workspace = nullptr;
    stop_unless_ok(@NAME@_workspace(@SIZES@&bytes));
    if (bytes) stop_unless_ok((int)cudaMalloc(&workspace, bytes));
    for (int k = 0; k < @LAUNCHES@; k++)
        stop_unless_ok(@NAME@(@GIVEN@, workspace, bytes, (struct CUstream_st *)0));
    stop_unless_ok((int)cudaDeviceSynchronize());
    fprintf(stderr, "@NAME@: ok\n");
    return 0;
}
"""


# Reading -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch of a kernel: the values of METRICS, by their names here; bytes, seconds, percent."""

    kernel: str
    values: Mapping[str, float]


def launches(text: str) -> Iterator[Launch]:
    """The launches in what `ncu --csv --page raw` printed; lines of the profiler and of the program are passed over.

    Errors: ValueError where there is no table, or a metric is missing
    """
    lines = text.splitlines()
    start = next((k for k, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        raise ValueError("there is no table: was the program run under ncu --csv --page raw?")
    rows = csv.DictReader(io.StringIO("\n".join(line for line in lines[start:] if line.startswith('"'))))
    units = next(rows, {})
    for row in rows:
        values = {}
        for name, metric in METRICS.items():
            if not row.get(metric):
                raise ValueError(f"the table has no {metric}: see ncu --query-metrics for its name on this device")
            values[name] = float(row[metric].replace(",", "")) * scale(name, units.get(metric) or "")
        yield Launch(row["Kernel Name"].partition("(")[0], values)


def scale(name: str, unit: str) -> float:
    """What turns a value into bytes, seconds or percent."""
    if unit == "sector" or name in ("cache_read", "cache_written"):
        return SECTOR_BYTES
    known = {"byte": 1.0, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9, "ns": 1e-9, "nsecond": 1e-9, "usecond": 1e-6,
             "us": 1e-6, "msecond": 1e-3, "ms": 1e-3, "second": 1.0, "s": 1.0, "%": 1.0, "": 1.0}  # fmt: skip
    if unit not in known:
        raise ValueError(f"{name} is in {unit}: run ncu with --print-units base")
    return known[unit]


def report(name: str, said: Mapping[str, Any], found: list[Launch]) -> list[str]:
    """One line for each quantity: measured, predicted, their ratio. The phases of a launch are summed."""
    phases = sorted({x.kernel for x in found})
    times = len(found) // max(len(phases), 1)
    if not found or len(found) % len(phases):
        return [f"{name}: {len(found)} launches of {len(phases)} kernels were measured"]

    def mean(value: str) -> float:
        return sum(x.values[value] for x in found) / times

    out = [f"{name}: {1e3 * mean('time_s'):.3f} ms, {len(phases)} phase{'s' * (len(phases) != 1)}, {times} launches"]
    pairs = (
        ("read from memory", "memory_read", "compulsory_read"),
        ("read from the second-level cache", "cache_read", "streamed_read"),
        ("written to the second-level cache", "cache_written", "written"),
    )
    for text, measured, wanted in pairs:
        ratio = mean(measured) / said[wanted] if said[wanted] else float("nan")
        out.append(f"  {text:34} {mean(measured):16,.0f}  predicted {said[wanted]:16,}  ratio {ratio:.3f}")
    return out


def main(words: list[str]) -> int:
    match words:
        case ["write", folder]:
            Path(folder).mkdir(parents=True, exist_ok=True)
            write_cases(Path(folder))
        case ["read", folder]:
            for path in sorted(Path(folder).glob("*.csv")):
                said = json.loads(path.with_suffix(".prediction.json").read_text(encoding="ascii"))
                try:
                    found = list(launches(path.read_text(encoding="utf-8", errors="replace")))
                except ValueError as e:
                    print(f"{path.stem}: {e}")
                    continue
                print("\n".join(report(path.stem, said, found)))
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
