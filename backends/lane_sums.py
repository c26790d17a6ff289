"""How the lanes of several vectors are summed at once: the bits of a sum of each alone, in fewer instructions.

Vectors longer than HALVED_BYTES are folded to their halves first: an instruction on 64 bytes may take two turns. Then
two vectors at a time become one that holds partial sums of both, until each sum is one lane.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

HALVED_BYTES = 32
SHUFFLED_BYTES = 16  # lanes that one instruction shuffles freely

T = TypeVar("T")
Fold = Callable[[T, int], T]
"""(a vector, its lanes): the lower half of the lanes plus the upper one."""
Join = Callable[[T, T, int, list[int], list[int]], T]
"""(two vectors, their lanes, lanes of both, others): those lanes of both plus the others."""


def halvings(width: int, size: int) -> int:
    """How often vectors of `width` lanes of so many bytes are folded before they are joined."""
    count = 0
    while size * width >> count > HALVED_BYTES:
        count += 1
    return count


def summed(values: list[T], width: int, size: int, folds: int, fold: Fold[T], join: Join[T]) -> list[T]:
    """Vectors whose first lanes, one vector after the other, are the sums; `ordered` gives the operands for lane k."""
    lanes = width
    for _ in range(folds):
        values = [fold(v, lanes) for v in values]
        lanes //= 2
    step = lanes // 2
    while step:
        alone = len(values) == 1
        first, second = closer(lanes, step) if alone else taken(lanes, step, size)
        pairs = [(values[0], values[0])] if alone else list(zip(values[::2], values[1::2], strict=True))
        values = [join(a, b, lanes, first, second) for a, b in pairs]
        step //= 2
    return values


def taken(lanes: int, step: int, size: int) -> tuple[list[int], list[int]]:
    """Of each group of 2 * step lanes the first half, of two vectors in turn, and what is added to it."""
    if step == 1 and SHUFFLED_BYTES // size == 4 and lanes >= 4:
        first = [k - k % 4 + k % 2 * 2 + (lanes if k % 4 > 1 else 0) for k in range(lanes)]
    else:
        first = [k - k % (2 * step) + k % step + (lanes if k // step % 2 else 0) for k in range(lanes)]
    return first, [k + step for k in first]


def closer(lanes: int, step: int) -> tuple[list[int], list[int]]:
    """The same of one vector; what is left is in its first lanes, and once more in the others."""
    first = [k // step * 2 * step + k % step for k in range(lanes // 2)] * 2
    return first, [k + step for k in first]


def ordered(count: int, width: int, size: int, folds: int) -> list[int]:
    """Which operand comes at each place of `summed`, so that its lane k is the sum of operand k."""

    def join(a: list[int], b: list[int], _: int, first: list[int], __: list[int]) -> list[int]:
        return [(a + b)[k] for k in first]

    leaves = [[k] * width for k in range(count)]
    lanes = [x for v in summed(leaves, width, size, folds, lambda v, n: v[: n // 2], join) for x in v][:count]
    assert sorted(lanes) == list(range(count)), "each operand has a lane"
    return [lanes.index(k) for k in range(count)]
