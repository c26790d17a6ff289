"""The sums of the lanes of several vectors in LLVM."""

from __future__ import annotations

from moa.backends.lane_sums import halvings, ordered, summed
from moa.backends.llvm_text import Text


def sums(t: Text, args: list[str]) -> str:
    """A vector whose lane k is the sum of the lanes of operand k."""
    element, size = t.float, t.bits // 8

    def shuffled(a: str, b: str, lanes: int, taken: list[int]) -> str:
        kind, order = f"<{lanes} x {element}>", ", ".join(f"i32 {k}" for k in taken)
        return t.temp(f"shufflevector {kind} {a}, {kind} {b}, <{len(taken)} x i32> <{order}>")

    def added(a: str, b: str, lanes: int) -> str:
        return t.temp(f"fadd <{lanes} x {element}> {a}, {b}")

    def fold(v: str, lanes: int) -> str:
        low, high = (shuffled(v, "poison", lanes, list(range(k, k + lanes // 2))) for k in (0, lanes // 2))
        return added(low, high, lanes // 2)

    def join(a: str, b: str, lanes: int, first: list[int], second: list[int]) -> str:
        left, right = shuffled(a, b, lanes, first), shuffled(a, b, lanes, second)
        if t.target.avx512 and second[0] - first[0] == 1:  # no instruction: else LLVM takes `vhaddps`, which is slow
            kind = f"<{lanes} x {element}>"
            left = t.temp(f'call {kind} asm "", "=v,0"({kind} {left})')
        return added(left, right, lanes)

    folds = halvings(t.width, size)
    found = summed([args[k] for k in ordered(len(args), t.width, size, folds)], t.width, size, folds, fold, join)
    lanes, there = t.width >> folds, len(found) * (t.width >> folds)
    kind = f"<{lanes} x {element}>"
    order = ", ".join(f"i32 {k if k < there else 'poison'}" for k in range(t.width))
    return f"shufflevector {kind} {found[0]}, {kind} {found[-1]}, <{t.width} x i32> <{order}>"
