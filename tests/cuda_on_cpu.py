"""CUDA text on a CPU: compiles it against `cuda_shim/cuda_runtime.h`, and runs cases of `chain` through it.

With MOA_TEST_GPU=1 in the environment, tests that plant no fault run on the GPU of this machine: see `device_for`.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chain import Array, Chain

from moa.backends.cuda import print_cuda
from moa.backends.cuda_build import builder_for, compile_cuda
from moa.oracle import evaluate
from moa.pipeline import Placed
from moa.tile import Strategy
from tests.golden.devices import memory

SHIM = Path(__file__).resolve().parent / "cuda_shim"
COMPILER = shutil.which("g++") or shutil.which("clang++") or ""
WITHOUT = "no C++ compiler: install g++ or clang++"
FLAGS = ("-std=c++17", "-O0", "-march=native", "-ffp-contract=off", "-w", "-fPIC", "-shared")
ILLEGAL_ADDRESS, LAUNCH_FAILURE = 700, 719
SHARED_BYTES = 232448  # of a block on an H200
SCHEDULES = (0, 1, 2)
"""Threads in turn; whole warps, the first first; whole warps, the last first."""


class Device:
    """CUDA text compiled for this processor, with memory that faults one element behind each array."""

    def __init__(self, text: str, folder: Path, flags: Sequence[str] = FLAGS) -> None:
        source, out = folder / "kernel.cu", folder / "kernel.so"
        source.write_text(text, encoding="ascii")
        command = [COMPILER, *flags, "-x", "c++", "-I", str(SHIM), "-o", str(out), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[:3000]
        self.library = ctypes.CDLL(str(out))
        self.library.moa_shim_alloc.restype = ctypes.c_void_p

    def array(self, values: Any, dtype: Any = None) -> Array:
        """A copy whose end is the end of memory."""
        source = np.array(values, dtype, order="C")
        address = self.library.moa_shim_alloc(ctypes.c_size_t(source.nbytes))
        assert address, "no memory is left"
        held = (ctypes.c_ubyte * source.nbytes).from_address(address)
        out = np.frombuffer(held, source.dtype).reshape(source.shape) if source.size else source
        out[...] = source
        return out

    def schedule(self, kind: int) -> None:
        self.library.moa_shim_schedule(kind)

    def free(self, array: Array) -> None:
        if array.size:
            self.library.moa_shim_free(ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes))

    def start(self, prefix: str, phase: int, words: Any, items: int, scratch: int, space: int = 0) -> int:
        """The code that a launch returns; 0 is success."""
        start = getattr(self.library, f"{prefix}_start")
        size = ctypes.c_int64
        return int(start(phase, words, size(items), size(scratch), ctypes.c_void_p(space), None))

    def shared_limit(self, limit: int) -> None:
        self.library.moa_shim_shared_limit(ctypes.c_int64(limit))

    def space(self, scratch: int, items: int, limit: int) -> int:
        """Bytes of global memory for the scratch of all blocks."""
        return scratch * items if scratch > limit else 0

    def phase(self, prefix: str, phase: int, words: Any, items: int, scratch: int, limit: int) -> None:
        """Runs one phase, with scratch in global memory where it does not fit."""
        space = self.array(np.full(self.space(scratch, items, limit), 0xFF, np.uint8))
        code = self.start(prefix, phase, words, items, scratch, space.ctypes.data)
        self.free(space)
        assert code == 0, f"phase {phase}: error {code}"

    def run(
        self, prefix: str, chain: Chain, placed: Placed, schedule: int = 0, limit: int = SHARED_BYTES
    ) -> tuple[Any, ...]:
        """The outputs of a case, its arrays lying in guarded memory; `limit` is how large shared memory is."""
        memory, hosts = chain.memory(placed)
        memory = {k: self.array(v) for k, v in memory.items()}
        words = packed(chain.slots(placed, memory, hosts), placed, memory)
        scratch = evaluate(placed.lowered.scratch_bytes, chain.sizes)
        self.schedule(schedule)
        self.shared_limit(limit)
        try:
            for phase, count in enumerate(placed.lowered.items):
                self.phase(prefix, phase, words, evaluate(count, chain.sizes), scratch, limit)
        finally:  # all libraries of this process share what the header holds
            self.shared_limit(SHARED_BYTES)
        out = tuple(memory[o].copy() for o in chain.derivation.streamed.outputs)
        for array in memory.values():
            self.free(array)
        return out


class OnGpu(Device):
    """CUDA text on the GPU of this machine, in managed memory. Its schedule, and how much it shares, are its own."""

    def __init__(self, text: str, folder: Path) -> None:
        self.memory = memory()
        out = folder / "kernel.so"
        compile_cuda(builder_for(0).command, text, folder, out)
        self.library = ctypes.CDLL(str(out))
        self.library.moa_space.restype = ctypes.c_int64

    def array(self, values: Any, dtype: Any = None) -> Array:
        made: Array = self.memory.array(np.array(values, dtype, order="C"))
        return made

    def free(self, array: Array) -> None:
        pass

    def schedule(self, kind: int) -> None:
        pass

    def shared_limit(self, limit: int) -> None:
        if limit != SHARED_BYTES:
            pytest.skip("how much memory is shared cannot be set on a GPU")

    def space(self, scratch: int, items: int, limit: int) -> int:
        return int(self.library.moa_space(ctypes.c_int64(scratch), ctypes.c_int64(items)))

    def start(self, prefix: str, phase: int, words: Any, items: int, scratch: int, space: int = 0) -> int:
        code = super().start(prefix, phase, words, items, scratch, space)
        self.memory.wait()
        return code


def device_for(text: str, folder: Path) -> Device:
    """Where a right program runs: this processor, or its GPU if the environment says MOA_TEST_GPU=1."""
    return OnGpu(text, folder) if os.environ.get("MOA_TEST_GPU") == "1" else Device(text, folder)


def packed(slots: Sequence[Any], placed: Placed, memory: Mapping[str, Array]) -> Any:
    """The packed arguments: names of buffers become their addresses."""
    words = (ctypes.c_int64 * max(len(slots), 1))()
    floats = ctypes.cast(words, ctypes.POINTER(ctypes.c_double))
    for k, (s, x) in enumerate(zip(placed.lowered.slots, slots, strict=True)):
        if s.kind == "host":
            floats[k] = x
        else:
            words[k] = memory[x].ctypes.data if s.kind == "pointer" else x
    return words


def text_of(parts: Mapping[str, Placed]) -> str:
    """One file with the kernels of several placed programs, by prefix."""
    return print_cuda({k: p.lowered for k, p in parts.items()})


STRATEGIES = (
    Strategy(32, 32, 32, 4, 4, 32, 2),
    Strategy(32, 64, 64, 8, 8, 32, 8, True),
    Strategy(32, 1, 32, 4, 4, 32, 3, True),
    Strategy(32, 32, 32, 2, 1, 8, 1),
)
