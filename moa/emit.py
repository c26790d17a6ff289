"""Emission: a folder with a formula as a C library that another project can take."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from moa import ir
from moa.assignments import assignment, holds
from moa.backends.c_library import Given, Interface, Width, header, source
from moa.backends.c_selftest import selftest
from moa.backends.cfamily import mangled
from moa.backends.llvm import Target, host, print_llvm
from moa.backends.llvm_build import machine, parse
from moa.cost import cost
from moa.expand import expand
from moa.explain.page import formula
from moa.forms import chosen, in_lengths
from moa.kernel import KEYS, VECTORS, Kernel, _intermediates
from moa.loops import ELEMENT_BYTES
from moa.machine import USUAL, machine_of
from moa.normal import Eq
from moa.oracle import evaluate
from moa.pipeline import Derivation, Placed, place, specialised
from moa.poly import Atom, Poly, const
from moa.spans import needs
from moa.storage import stated
from moa.text import MoaError, printable
from moa.tile import Strategy
from moa.tiles import Array

VECTOR_BYTES = (64, 32, 16)
MADE_BY = "moa"
PRIMES = (37, 53, 19, 23, 29, 5, 7, 3, 2, 11)


def emit(
    kernel: Kernel,
    folder: str | os.PathLike[str],
    sizes: Mapping[str, int] | None = None,
    *,
    backend: str = "c",
    ranks: int = 0,
    name: str = "",
) -> tuple[Path, ...]:
    """The files written. `sizes` are literals in the code; `ranks` is how many axes `...` stands for.

    Errors: MoaError of kind "argument", also where the folder holds something that was not emitted for this name
    """
    if backend not in ("c", "llvm", "cuda"):
        raise MoaError("argument", f"nothing is emitted by `{printable(str(backend))}`", None, "choose c, llvm or cuda")
    maker: type[Library] = import_module("moa.emit_cuda").CudaLibrary if backend == "cuda" else Library
    return write(Path(folder), maker(kernel, ranks, name, dict(sizes or {})).files(backend))


class Library:
    """One formula placed for emission."""

    vector_bytes: tuple[int, ...] = VECTOR_BYTES

    def __init__(self, kernel: Kernel, ranks: int, name: str, sizes: Mapping[str, int]) -> None:
        self.kernel, self.dtype = kernel, kernel._element
        if ranks and not kernel._lead:
            raise MoaError("argument", f"`...` stands for {ranks} axes, but {kernel.name} has no `...`", None, "")
        self.derivation: Derivation = kernel._derive(ranks)
        self.fixed = {**kernel._fixed, **sizes}
        program = self.derivation.program
        known = (*program.sizes(), *(p.name for p in program.inputs if p.kind == "i" and not p.shape))
        for k, value in sizes.items():
            if k not in known:
                text = f"{kernel.name} has no size {printable(k)}"
                raise MoaError("argument", text, None, f"its sizes: {', '.join(known) or 'none'}")
            if not isinstance(value, int) or not (0 <= value < 2**31 or k not in program.sizes()):
                raise MoaError("argument", f"{printable(k)} is {value!r}", None, "give a whole number from 0 on")
        self.name = mangled(name or kernel.name)
        self.obligations = program.obligations
        if all(k in self.fixed for k in known):
            self.derivation = replace(
                self.derivation,
                streamed=chosen(in_lengths(self.derivation.forms), self.fixed, machine=machine_of(USUAL)).streamed,
            )  # otherwise the form as written
        self.widths = tuple(self.width(b) for b in self.vector_bytes)
        self.interface = self.made_interface()

    def width(self, vector_bytes: int) -> Width:
        placed = self.placed(vector_bytes)
        return Width(vector_bytes, placed.tiles, placed.lowered)

    def placed(self, vector_bytes: int) -> Placed:
        """The variant for many rows."""
        d, lanes = self.derivation, vector_bytes // ELEMENT_BYTES[self.dtype]
        single = self.dtype == "f32"
        strategy = Strategy(lanes, VECTORS * lanes, KEYS[self.dtype], 4, 4 if single else 2, inverses=single)
        own = {p.name for p in d.program.inputs} | set(d.streamed.outputs) | _intermediates(d)
        return place(d, strategy, self.dtype, self.fixed, frozenset(own), self.kernel._stored)

    def replaced(self, p: Poly) -> Poly:
        def atom(a: Atom) -> Poly | None:
            return const(self.fixed[a.name]) if a.kind in ("size", "int") and a.name in self.fixed else None

        return p.replace(atom)

    def made_interface(self) -> Interface:
        program, tiles = self.derivation.program, self.widths[0].tiles
        arrays = {a.name: a for a in tiles.arrays}
        params: list[Array | Given] = []
        for p in program.inputs:
            shape = tuple(self.replaced(e) for e in p.shape)
            if p.shape:
                params.append(arrays.get(p.name, Array(p.name, p.kind, shape, "input")))
            elif p.name not in self.fixed:
                params.append(Given(p.name, p.kind))
        sizes = tuple(s for s in program.sizes() if s not in self.fixed)
        outputs = tuple(arrays[o] for o in dict.fromkeys(self.derivation.streamed.outputs))
        names: dict[str, str] = {}
        for x in (*(p.name for p in params), *sizes, *(o.name for o in outputs)):
            word = mangled(x)
            while word in (self.name, "args", "a", "threads", *names.values()) or f"{word}_stride" in names.values():
                word += "_"
            names[x] = word
        indices = tuple(self.indices())
        obligations = tuple(
            replace(o, left=self.replaced(o.left), right=self.replaced(o.right)) for o in self.obligations
        )
        return Interface(
            self.name, self.loops_dtype, self.kernel._stored, tuple(params), sizes, outputs, names, obligations,
            indices, self.about(),
        )  # fmt: skip

    @property
    def loops_dtype(self) -> str:
        return self.widths[0].lowered.loops.dtype

    def indices(self) -> Iterator[tuple[str, Poly]]:
        """The int arrays that index an axis, with its extent; what sizes have to fulfil for it is an obligation."""
        from moa.oracle import _without_floats

        program = self.derivation.program
        free = _without_floats(program)
        found: dict[tuple[str, Poly], None] = {}
        for v in program.values:
            axis = 0
            for item in v.attrs[0] if v.op == "index" else ():
                if isinstance(item, ir.Gather) and item.value in free:
                    wanted = needs(program, item.value, program.values[v.args[0]].shape[axis])
                    if wanted is None:
                        text = "emitted code cannot tell whether this index array stays inside the axis"
                        hint = "keep it there: x % size, minimum(maximum(x, 0), size - 1), or pass it as a parameter"
                        raise MoaError("argument", text, v.span, hint)
                    found |= dict.fromkeys((name, self.replaced(p)) for name, p in wanted.inputs)
                    self.obligations += wanted.obligations(v.span)
                axis += not isinstance(item, ir.New)
        yield from found

    # text

    def about(self) -> str:
        """The formula, how it came about in short, and what the caller has to know."""
        d, c = self.derivation, cost(self.derivation, self.placed(64))
        shapes = [f"{p.name}[{', '.join(map(str, p.shape))}]" if p.shape else p.name for p in d.program.inputs]
        laws = list(dict.fromkeys(s.law for s in d.trace.steps))
        lines = [f"{self.name}: made by {MADE_BY} from", "", *(f"    {t}" for t in formula(self.kernel._source)), ""]
        lines += [f"{d.program.name}({', '.join(shapes)}) in {stated(self.kernel.dtype)}, arrays in row-major order"]
        lines += [f"fixed: {', '.join(f'{k} = {v}' for k, v in sorted(self.fixed.items()))}"] if self.fixed else []
        lines += ["", "equations:", *(f"    {e}" for e in d.equations.equations), ""]
        lines += [f"laws: {', '.join(laws)}"] if laws else []
        lines += [f"passes over the longest axis: {c.passes[0]} as written, {c.passes[1]} here"]
        lines += [f"flops: {c.flops}", f"words between memory and cache: {c.streamed_words}"]
        return "\n".join(lines)

    def sizes_to_test(self) -> list[dict[str, int]]:
        """Up to three assignments of the sizes that satisfy what `check` relied on."""
        program = self.derivation.program
        whole = [p.name for p in program.inputs if p.kind == "i" and not p.shape and p.name not in self.fixed]
        names = [*self.interface.sizes, *whole]
        found: list[dict[str, int]] = []
        starts = [[*PRIMES], [1, *PRIMES], [64, 97, 5, 16, 8, 4, 2, 1]]
        for values in starts:
            pools = [values[k % len(values) :] + values[: k % len(values)] for k in range(len(names))]
            for given in itertools.islice(itertools.product(*pools), 4000):
                at = dict(zip(names, given, strict=True))
                if self.holds(at | self.fixed) and at not in found:
                    found.append(at)
                    break
        if not found:
            shapes = (a.shape for a in self.interface.outputs)
            some = [ir.Obligation(">=", e, const(1), program.span, "there are results") for s in shapes for e in s]
            facts = (*self.obligations, *some)
            solved = assignment([*whole, *self.interface.sizes], facts, self.fixed, (2, 4, 6, 8, 3, 1, 12))
            found = [{n: solved[n] for n in names}] if solved and self.holds(solved) else []
        if not found:
            raise MoaError(
                "argument", "no small sizes satisfy what the formula asks of them", None, "fix some by sizes"
            )
        return found

    def holds(self, sizes: dict[str, int]) -> bool:
        return all(holds(o, sizes) for o in self.obligations) and all(
            evaluate(e, sizes) >= 0 for p in self.derivation.program.inputs for e in p.shape
        )

    def files(self, backend: str) -> dict[str, str]:
        x, n = self.interface, self.name
        normal = specialised(self.derivation.equations, self.fixed)
        ranges = dict(x.indices)
        out = {
            f"{n}.h": header(x),
            f"{n}_selftest.c": selftest(x, normal, self.sizes_to_test(), self.fixed, ranges),
            "CMakeLists.txt": cmake(n, backend),
            f"{n}-config.cmake.in": CONFIG.replace("@NAME@", n),
        }
        if backend == "c":
            out[f"{n}.c"] = source(x, self.widths)
        else:
            out |= self.llvm_files()
        out[f"{n}.json"] = self.description(backend, sorted([*out, f"{n}.json"]))
        return out

    def llvm_files(self) -> dict[str, str]:
        """The Loops for this machine as LLVM text and as assembly, with the C around them."""
        target = host()
        w = next(x for x in self.widths if x.vector_bytes == target.vector_bytes)
        text = print_llvm(expand(w.lowered.loops), target).replace("@moa_p", f"@{self.name}_p")
        assembly = position_independent(target, text)
        arrow = "int64_t *, int64_t, int64_t, unsigned char *"
        entries = "".join(
            f"void {self.name}_p{k}({arrow});\n#define moa_p{k} {self.name}_p{k}\n" for k in range(len(w.lowered.items))
        )
        code = source(self.interface, (w,), lambda _: entries)
        return {f"{self.name}.c": code, f"{self.name}.ll": text, f"{self.name}_loops.s": assembly}

    def description(self, backend: str, files: list[str]) -> str:
        """NAME.json."""
        c = cost(self.derivation, self.placed(64))
        x = self.interface

        def array(a: Array) -> dict[str, Any]:
            return {"name": a.name, "c_name": x.names[a.name], "kind": a.kind, "shape": [str(p) for p in a.shape]}

        data = {
            "made_by": MADE_BY,
            "name": self.name,
            "backend": backend,
            "dtype": self.kernel.dtype,
            "formula": formula(self.kernel._source),
            "inputs": [array(p) for p in x.params if isinstance(p, Array)],
            "scalars": [{"name": p.name, "c_name": x.names[p.name], "kind": p.kind} for p in x.scalars],
            "sizes": {s: x.names[s] for s in x.sizes},
            "fixed": dict(sorted(self.fixed.items())),
            "outputs": [array(a) for a in x.outputs],
            "flops": str(c.flops),
            "compulsory_words": str(c.compulsory_words),
            "streamed_words": str(c.streamed_words),
            "scratch_bytes": {str(w.vector_bytes): str(w.lowered.scratch_bytes) for w in self.widths},
            "passes": list(c.passes),
            "equations": [str(e) for e in self.derivation.equations.equations if isinstance(e, Eq)],
            "float": x.float,
            "files": files,
        }
        return json.dumps(data, indent=2) + "\n"


# Files ---------------------------------------------------------------------------------------------------------------


def position_independent(target: Target, text: str) -> str:
    """The assembly of an LLVM text, fit for libraries."""
    import llvmlite.binding as llvm

    machine(target)  # initialises the target
    made = llvm.Target.from_triple(target.triple)
    pic = made.create_target_machine(cpu=target.cpu, features=target.features, opt=2, reloc="pic")
    return str(pic.emit_assembly(parse(text))) + '.section .note.GNU-stack,"",@progbits\n'


def write(folder: Path, files: Mapping[str, str]) -> tuple[Path, ...]:
    """Writes into a folder beside, then renames: a folder is there whole or not at all.

    A folder that is there is replaced if all it holds is what its own NAME.json lists.
    """
    folder = Path(os.path.abspath(folder))
    try:
        if os.path.lexists(folder) and not replaceable(folder):
            text = f"{printable(str(folder))} holds files that were not emitted"
            raise MoaError("argument", text, None, "choose a new folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            for name, text in sorted(files.items()):
                (made / name).write_text(text, encoding="ascii", newline="\n")
            os.chmod(made, 0o777 & ~umask())
            if folder.exists():
                old = made.with_name(made.name + ".old")
                os.rename(folder, old)
                os.rename(made, folder)
                shutil.rmtree(old)
            else:
                os.rename(made, folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as e:
        text = f"{printable(str(folder))} cannot be written: {e.strerror}"
        raise MoaError("argument", text, None, "check the path") from None
    return tuple(folder / name for name in sorted(files))


def umask() -> int:
    now = os.umask(0o077)
    os.umask(now)
    return now


def replaceable(folder: Path) -> bool:
    """Whether the folder is empty, or holds exactly what an emission before left there."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    present = {p.name for p in folder.iterdir()}
    if not present:
        return True
    for path in folder.glob("*.json"):
        try:
            data = json.loads(path.read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        if isinstance(data, dict) and data.get("made_by") == MADE_BY and isinstance(data.get("files"), list):
            return present <= set(map(str, data["files"])) and all((folder / n).is_file() for n in present)
    return False


def cmake(name: str, backend: str) -> str:
    extra = f" {name}_loops.s" if backend == "llvm" else ""
    languages = "C ASM" if backend == "llvm" else "C"
    return CMAKE.replace("@LANGUAGES@", languages).replace("@EXTRA@", extra).replace("@NAME@", name)


CMAKE = """# Made by moa. Use by add_subdirectory, or install and find_package(@NAME@); link to @NAME@::@NAME@.
cmake_minimum_required(VERSION 3.13)
project(@NAME@ LANGUAGES @LANGUAGES@)

option(@NAME@_NATIVE "Compile for the processor of this machine" ON)
option(@NAME@_OPENMP "Use OpenMP where there is one" OFF)
set(CMAKE_C_STANDARD 11)
set(CMAKE_C_EXTENSIONS OFF)
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release)
endif()

add_library(@NAME@ @NAME@.c@EXTRA@)
add_library(@NAME@::@NAME@ ALIAS @NAME@)
target_include_directories(@NAME@ PUBLIC $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}> $<INSTALL_INTERFACE:include>)
target_compile_options(@NAME@ PRIVATE $<$<COMPILE_LANGUAGE:C>:-ffp-contract=off>)
if(@NAME@_NATIVE)
  target_compile_options(@NAME@ PRIVATE $<$<COMPILE_LANGUAGE:C>:-march=native>)
endif()
set_target_properties(@NAME@ PROPERTIES POSITION_INDEPENDENT_CODE ON)
target_link_libraries(@NAME@ PUBLIC m)
if(@NAME@_OPENMP)
  find_package(OpenMP REQUIRED COMPONENTS C)
  target_link_libraries(@NAME@ PRIVATE OpenMP::OpenMP_C)
endif()

if(CMAKE_SOURCE_DIR STREQUAL CMAKE_CURRENT_SOURCE_DIR)
  enable_testing()
  add_executable(@NAME@_selftest @NAME@_selftest.c)
  target_link_libraries(@NAME@_selftest PRIVATE @NAME@)
  add_test(NAME @NAME@_selftest COMMAND @NAME@_selftest)
endif()

include(CMakePackageConfigHelpers)
configure_package_config_file(@NAME@-config.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/@NAME@-config.cmake
  INSTALL_DESTINATION lib/cmake/@NAME@)
install(TARGETS @NAME@ EXPORT @NAME@-targets ARCHIVE DESTINATION lib LIBRARY DESTINATION lib RUNTIME DESTINATION bin)
install(FILES @NAME@.h DESTINATION include)
install(EXPORT @NAME@-targets NAMESPACE @NAME@:: DESTINATION lib/cmake/@NAME@)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/@NAME@-config.cmake DESTINATION lib/cmake/@NAME@)
"""

CONFIG = """@PACKAGE_INIT@
include(CMakeFindDependencyMacro)
if(@@NAME@_OPENMP@)
  find_dependency(OpenMP COMPONENTS C)
endif()
include("${CMAKE_CURRENT_LIST_DIR}/@NAME@-targets.cmake")
"""
