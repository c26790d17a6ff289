"""Builds Loops by the C compiler of the system: C text to a shared library in a private folder to addresses."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from moa.backends.c import print_c
from moa.backends.llvm import host
from moa.loops import Loops
from moa.text import MoaError, printable

FLAGS = ("-std=c11", "-O2", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared", "-w")
DEADLINE_S = 300
SEARCHED = ("CPATH", "C_INCLUDE_PATH", "COMPILER_PATH", "GCC_EXEC_PREFIX", "LIBRARY_PATH")
"""Where the environment may tell a compiler to look for headers and for its own programs."""


@dataclass(frozen=True, slots=True)
class Built:
    """A loaded library. `phases` are the addresses of void entry(int64_t *, int64_t, int64_t, unsigned char *).

    An address is valid as long as its Built lives; the file is gone once it is loaded. `object_bytes` is that file,
    `text` is empty if only it was kept.
    """

    phases: tuple[int, ...]
    object_bytes: bytes
    text: str
    compiler: tuple[str, ...]
    flags: tuple[str, ...]
    library: Any = field(repr=False, compare=False)

    def assembly(self) -> str:
        """The assembly text of the file (it is compiled once more); empty if only its object was kept."""
        if not self.text:
            return ""
        with tempfile.TemporaryDirectory(prefix="moa-") as folder:
            out = Path(folder) / "kernel.s"
            compile_c(self.compiler, (*self.flags, "-S"), self.text, Path(folder), out)
            return out.read_text(encoding="utf-8")


@cache
def compiler() -> tuple[str, ...]:
    """The command of the C compiler: CC, else cc, gcc or clang.

    Errors: MoaError if there is none
    """
    named = os.environ.get("CC", "").strip()
    if named:
        try:
            words = shlex.split(named)
        except ValueError:
            words = []
        path = shutil.which(words[0]) if words else None
        if path is None:
            raise MoaError("argument", f"CC is {printable(named)!r}, which is no program", None, "set CC to a compiler")
        return (path, *words[1:])
    for name in ("cc", "gcc", "clang"):
        path = shutil.which(name)
        if path is not None:
            return (path,)
    hint = "install gcc or clang, set CC, or use backend='llvm', which needs no compiler"
    raise MoaError("argument", "backend 'c' needs a C compiler: there is no cc, gcc or clang", None, hint)


def compile_c(command: tuple[str, ...], flags: tuple[str, ...], text: str, folder: Path, out: Path) -> None:
    """Nothing: writes the object of a C text to `out`."""
    source = folder / "kernel.c"
    source.write_text(text, encoding="ascii")
    line = [*command, *flags, "-o", str(out), str(source), "-lm"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, errors="replace", timeout=DEADLINE_S, cwd=folder)
    except OSError as e:
        text = f"the C compiler {printable(command[0])} does not start: {e.strerror}"
        raise MoaError("argument", text, None, "set CC to a compiler") from None
    except subprocess.TimeoutExpired:
        raise MoaError("argument", f"the C compiler took more than {DEADLINE_S} s", None, "") from None
    if done.returncode:
        first = "\n".join(printable(x) for x in done.stderr.splitlines()[:5])
        hint = "it has to be GCC 8 or clang 10 or later"
        raise MoaError("argument", f"{printable(command[0])} failed:\n{first}", None, hint)


def build(loops: Loops, flags: tuple[str, ...] = FLAGS, command: tuple[str, ...] | None = None) -> Built:
    """Errors: MoaError if there is no compiler, or if it fails."""
    command = command or compiler()
    text = print_c(loops)
    with tempfile.TemporaryDirectory(prefix="moa-") as folder:  # 0700
        out = Path(folder) / "kernel.so"
        compile_c(command, flags, text, Path(folder), out)
        code = out.read_bytes()
        library = ctypes.CDLL(str(out), mode=os.RTLD_NOW | os.RTLD_LOCAL)
    return Built(entries(library, len(loops.phases)), code, text, command, flags, library)


def restored(object_bytes: bytes, phases: int) -> Built:
    """What `build` made of loops with this many phases, from its library."""
    with tempfile.TemporaryDirectory(prefix="moa-") as folder:  # 0700
        out = Path(folder) / "kernel.so"
        out.write_bytes(object_bytes)
        library = ctypes.CDLL(str(out), mode=os.RTLD_NOW | os.RTLD_LOCAL)
    return Built(entries(library, phases), object_bytes, "", compiler(), FLAGS, library)


def entries(library: ctypes.CDLL, phases: int) -> tuple[int, ...]:
    """The addresses of the entries of a loaded library."""
    found = [ctypes.cast(getattr(library, f"moa_p{k}"), ctypes.c_void_p).value for k in range(phases)]
    return tuple(address for address in found if address)


@cache
def identity() -> str:
    """All that decides what `build` makes of loops, apart from this package: compiler, flags, machine, environment.

    Errors: MoaError if there is no compiler
    """
    command = compiler()
    return repr((host(), FLAGS, command, of_program(command, SEARCHED)))


def of_program(command: tuple[str, ...], searched: tuple[str, ...]) -> tuple[object, ...]:
    """All that decides what a compiler makes of the same text and flags: its file, its version, where it searches."""
    file = os.stat(command[0])
    try:
        told = subprocess.run([*command, "--version"], capture_output=True, timeout=DEADLINE_S).stdout
    except (OSError, subprocess.TimeoutExpired):
        told = b""
    return file.st_size, file.st_mtime_ns, told, [f"{name}={os.environ.get(name, '')}" for name in searched]
