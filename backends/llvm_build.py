"""Builds Loops in memory: LLVM text to object bytes to addresses. Needs no compiler and no linker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from moa.backends.llvm import Target, host, print_llvm
from moa.loops import Loops

BLOCK_CEILING = 10_000
"""Instructions of one basic block: code generation is quadratic in them (10,000 take 1.8 s)."""


@dataclass(frozen=True, slots=True)
class Built:
    """Machine code in memory. `phases` are the addresses of void entry(i64 *args, i64 first, i64 last, u8 *workspace).

    An address is valid as long as its Built lives. `object_bytes` is what `load` takes, in another process too.
    """

    phases: tuple[int, ...]
    object_bytes: bytes
    text: str
    target: Target
    engine: Any = field(repr=False, compare=False)

    def assembly(self) -> str:
        """The assembly text of the module (it is compiled once more); empty if only its object was kept."""
        return assembly(self.text, self.target) if self.text else ""


def build(loops: Loops, target: Target | None = None) -> Built:
    """Errors: AssertionError if a basic block is longer than BLOCK_CEILING, or if the text is not valid."""
    target = target or host()
    text = print_llvm(loops, target)
    return load(emitted(text, target), names(len(loops.phases)), target, text)


def emitted(text: str, target: Target, beside: str = "") -> bytes:
    """The object of a module, linked with the one `beside` it that defines what it only declares."""
    module = parse(text)
    if beside:
        module.link_in(parse(beside))
    code: bytes = machine(target).emit_object(module)
    return code


def assembly(text: str, target: Target) -> str:
    """The assembly text of a module."""
    return str(machine(target).emit_assembly(parse(text)))


def restored(object_bytes: bytes, phases: int) -> Built:
    """What `build` made of loops with this many phases, from its object."""
    return load(object_bytes, names(phases), host())


def identity() -> str:
    """All that decides what `build` makes of loops, apart from this package."""
    import llvmlite.binding as llvm

    return f"{host()} {llvm.llvm_version_info}"


def names(phases: int) -> tuple[str, ...]:
    return tuple(f"moa_p{k}" for k in range(phases))


def load(object_bytes: bytes, entries: tuple[str, ...], target: Target, text: str = "") -> Built:
    """The entries of an object that `emitted` made for this machine."""
    import llvmlite.binding as llvm

    empty = llvm.parse_assembly("")
    empty.triple = target.triple
    engine = llvm.create_mcjit_compiler(empty, machine(target))
    engine.add_object_file(llvm.ObjectFileRef.from_data(object_bytes))
    engine.finalize_object()
    addresses = tuple(engine.get_function_address(n) for n in entries)
    assert all(addresses), f"the object lacks one of {entries}"
    return Built(addresses, object_bytes, text, target, engine)


def parse(text: str) -> Any:
    """The verified LLVM module of a text."""
    longest = largest_block(text)
    assert longest <= BLOCK_CEILING, f"a basic block of {longest} instructions is above the ceiling of {BLOCK_CEILING}"
    import llvmlite.binding as llvm

    try:
        module = llvm.parse_assembly(text)
        module.verify()
    except RuntimeError as e:
        raise AssertionError(f"not a valid module: {e}") from None
    return module


def largest_block(text: str) -> int:
    """The number of instructions of the longest basic block."""
    longest = count = 0
    for line in text.splitlines():
        count = count + 1 if line.startswith("  ") else 0
        longest = max(longest, count)
    return longest


def machine(target: Target) -> Any:
    """A target machine; an engine made with it owns it, so each use makes its own (0.6 ms)."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    made = llvm.Target.from_triple(target.triple)
    return made.create_target_machine(cpu=target.cpu, features=target.features, opt=2, jit=True)
