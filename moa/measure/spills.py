"""Registers that the compiler keeps on the stack: no load or store of the Loops, so read from the assembly."""

from __future__ import annotations

import re
from dataclasses import dataclass

STACK = re.compile(r"\(%rsp\)")
VECTOR = re.compile(r"%[xyz]mm\d")
STORED = re.compile(r"^v?mov\S*\s.*\(%rsp\)$")


@dataclass(frozen=True, slots=True)
class Spills:
    """Vector instructions of the code that write to the stack, and that read from it."""

    stores: int
    loads: int


def spills(assembly: str) -> Spills:
    """Those of x86 in the syntax of AT&T: instructions on vectors that have an operand at %rsp."""
    lines = [line.split("#")[0].strip() for line in assembly.splitlines()]
    found = [line for line in lines if STACK.search(line) and VECTOR.search(line)]
    stores = sum(STORED.match(line) is not None for line in found)
    return Spills(stores, len(found) - stores)
