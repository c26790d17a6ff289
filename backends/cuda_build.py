"""Builds CUDA text by nvcc: to a shared library that is loaded here, and to the reports of its assembler."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from moa.backends.c_build import of_program
from moa.backends.cuda import print_cuda
from moa.lower import Lowered
from moa.text import MoaError, printable

FLAGS = ("-std=c++17", "-O3", "--fmad=false", "-shared", "-Xcompiler", "-fPIC", "-cudart", "static")
CUBIN_FLAGS = ("-std=c++17", "-O3", "--fmad=false", "-Werror", "all-warnings", "-Xptxas", "-v", "-cubin")
DEADLINE_S = 600
LEAST_MAJOR = 8
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
SEARCHED = ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS", "NVCC_CCBIN", "CUDAHOSTCXX", "CPATH", "CPLUS_INCLUDE_PATH")
"""Where the environment may tell nvcc what else to do."""
DRIVERS = ("libcuda.so.1", "libcuda.so", "nvcuda.dll")


@dataclass(frozen=True, slots=True)
class Usage:
    """What the assembler of NVIDIA says of one kernel."""

    kernel: str
    registers: int
    spill_bytes: int
    stack_bytes: int
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class Built:
    """A loaded library with the functions of `moa.backends.cuda_text.LAUNCH`, and its file as bytes."""

    library: Any = field(repr=False, compare=False)
    object_bytes: bytes = field(repr=False)

    def start(self, phase: int, words: int, items: int, scratch: int, space: int, stream: int) -> int:
        """Starts a phase; the words are at an address. Returns a cudaError_t."""
        size, pointer = ctypes.c_int64, ctypes.c_void_p
        code: int = self.library.moa_start(
            phase, pointer(words), size(items), size(scratch), pointer(space), pointer(stream)
        )
        return code

    def space(self, scratch: int, items: int) -> int:
        """The bytes of global memory for the scratch of these items: 0 where it fits shared memory."""
        self.library.moa_space.restype = ctypes.c_int64
        return int(self.library.moa_space(ctypes.c_int64(scratch), ctypes.c_int64(items)))

    def present(self) -> int:
        """The present device, or a negative cudaError_t."""
        return int(self.library.moa_present())

    def device_of(self, address: int) -> int:
        """The device that an address belongs to; negative where it is memory of none."""
        return int(self.library.moa_device_of(ctypes.c_void_p(address)))

    def error(self, code: int) -> str:
        self.library.moa_error.restype = ctypes.c_char_p
        return str(self.library.moa_error(code).decode())


@cache
def nvcc() -> str:
    """The path of nvcc: NVCC, else from PATH, else of CUDA_HOME.

    Errors: MoaError if there is none
    """
    named = os.environ.get("NVCC", "").strip()
    home = os.environ.get("CUDA_HOME", "") or "/usr/local/cuda"
    path = shutil.which(named) if named else shutil.which("nvcc") or shutil.which(str(Path(home) / "bin" / "nvcc"))
    if path is None:
        text = f"NVCC is {printable(named)!r}, which is no program" if named else "backend 'cuda' needs nvcc"
        hint = "install the CUDA toolkit or set NVCC; `moa emit --backend cuda` needs neither it nor a GPU"
        raise MoaError("argument", text, None, hint)
    return path


def architecture(device: int) -> str:
    """What nvcc calls the architecture of a device, as in sm_90a.

    Errors: MoaError if there is no driver or no such device, or if it is older than compute capability 8.0
    """
    major, minor = capability(device)
    if major < LEAST_MAJOR:
        text = f"device {device} has compute capability {major}.{minor}"
        raise MoaError("argument", text, None, f"kernels need {LEAST_MAJOR}.0 or later")
    return f"{major}{minor}{'a' if major >= 9 else ''}"


@cache
def capability(device: int) -> tuple[int, int]:
    """The compute capability of a device."""
    driver = loaded_driver()
    if driver is None or driver.cuInit(0) != 0:
        text = "there is no NVIDIA driver here" if driver is None else "the NVIDIA driver finds no device"
        hint = "run it where there is a GPU, or use backend='llvm'; `moa emit --backend cuda` needs no GPU"
        raise MoaError("argument", text, None, hint)
    handle, found = ctypes.c_int(), [ctypes.c_int(), ctypes.c_int()]
    code = driver.cuDeviceGet(ctypes.byref(handle), device)
    for attribute, value in zip((MAJOR, MINOR), found, strict=True):
        code = code or driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
    if code:
        raise MoaError("argument", f"there is no device {device} (driver error {code})", None, "see nvidia-smi")
    return found[0].value, found[1].value


def loaded_driver() -> Any:
    """The driver's library, None where there is none."""
    for name in DRIVERS:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def target(architecture: str) -> tuple[str, ...]:
    return ("-gencode", f"arch=compute_{architecture},code=sm_{architecture}")


def compile_cuda(command: Sequence[str], text: str, folder: Path, out: Path) -> str:
    """What the compiler prints; it writes `out`.

    Errors: MoaError if it fails or does not start
    """
    source = folder / "kernel.cu"
    source.write_text(text, encoding="ascii")
    line = [*command, "-o", str(out), str(source)]
    try:
        done = subprocess.run(line, capture_output=True, text=True, errors="replace", timeout=DEADLINE_S, cwd=folder)
    except OSError as e:
        text = f"{printable(command[0])} does not start: {e.strerror}"
        raise MoaError("argument", text, None, "set NVCC to nvcc") from None
    except subprocess.TimeoutExpired:
        text = f"{printable(command[0])} took more than {DEADLINE_S} s"
        raise MoaError("argument", text, None, "fix fewer sizes, or split the formula") from None
    if done.returncode:
        first = "\n".join(printable(x) for x in done.stderr.splitlines()[:5])
        hint = "it has to be nvcc 11.8 or later with a compiler of C++17"
        raise MoaError("argument", f"{printable(command[0])} failed:\n{first}", None, hint)
    return done.stdout + done.stderr


@dataclass(frozen=True, slots=True)
class Builder:
    """What makes libraries for one device: `command` compiles a source to a shared library."""

    command: tuple[str, ...]

    def build(self, lowered: Lowered) -> Built:
        """The kernels of a lowered program, loaded.

        Errors: MoaError as `compile_cuda`
        """
        with tempfile.TemporaryDirectory(prefix="moa-") as folder:  # 0700
            out = Path(folder) / "kernel.so"
            compile_cuda(self.command, print_cuda({"moa": lowered}), Path(folder), out)
            return loaded(out)

    def restored(self, object_bytes: bytes, phases: int) -> Built:
        """What `build` made, from its library."""
        with tempfile.TemporaryDirectory(prefix="moa-") as folder:
            out = Path(folder) / "kernel.so"
            out.write_bytes(object_bytes)
            return loaded(out)

    def identity(self) -> str:
        """All that decides what `build` makes, apart from this package: the command, its program, the environment."""
        return identity(self.command)


def loaded(path: Path) -> Built:
    return Built(ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_LOCAL), path.read_bytes())


@cache
def identity(command: tuple[str, ...]) -> str:
    return repr((command, of_program(command[:1], SEARCHED)))


@cache
def builder_for(device: int) -> Builder:
    """What builds for a device of this machine.

    Errors: MoaError if there is no such device, or no nvcc
    """
    return Builder((nvcc(), *FLAGS, *target(architecture(device))))


def usages(text: str, architecture: str) -> tuple[Usage, ...]:
    """What the kernels of a text use on an architecture. Warnings are errors; no device is needed.

    Errors: MoaError as `nvcc` and `compile_cuda`
    """
    with tempfile.TemporaryDirectory(prefix="moa-") as folder:
        command = (nvcc(), *CUBIN_FLAGS, *target(architecture))
        return parsed(compile_cuda(command, text, Path(folder), Path(folder) / "kernel.cubin"))


def parsed(report: str) -> tuple[Usage, ...]:
    """The kernels of a report of `ptxas -v`."""
    out = []
    for part in report.split("Compiling entry function '")[1:]:
        name = part.partition("'")[0]
        numbers = {
            key: int(found[1]) if (found := re.search(pattern, part)) else 0
            for key, pattern in {
                "registers": r"Used (\d+) registers",
                "spill_bytes": r"(\d+) bytes spill stores",
                "stack_bytes": r"(\d+) bytes stack frame",
                "shared_bytes": r"(\d+) bytes smem",
            }.items()
        }
        out.append(Usage(name, **numbers))
    return tuple(out)
