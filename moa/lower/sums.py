"""Sums of the lanes of several vectors at once: halves of two of them are joined and added. The bits of `reduce`."""

from __future__ import annotations

from moa.loops import Arg
from moa.lower.builder import Builder

LEAST = 4  # vectors; fewer are summed one by one


def lane_sums(b: Builder, vectors: list[Arg], width: int) -> list[Arg]:
    """The sum of the lanes of each vector."""
    out: list[Arg] = []
    while vectors:
        count = min(width, 1 << (len(vectors).bit_length() - 1))
        if count < LEAST:
            out += [b.pure("f", "reduce", x, attrs=("add",)) for x in vectors[:count]]
        else:
            one, places = joined(b, vectors[:count], width)
            out += [b.pure("f", "extract", one, attrs=(places.index(k),)) for k in range(count)]
        vectors = vectors[count:]
    return out


def joined(b: Builder, vectors: list[Arg], width: int) -> tuple[Arg, list[int]]:
    """A vector of all sums, and which sum is in each lane; the number of vectors is a power of two."""
    rest = [(x, [k] * width) for k, x in enumerate(vectors)]
    step = width // 2
    while step:
        pairs = zip(rest[::2], rest[1::2], strict=True) if len(rest) > 1 else [(rest[0], rest[0])]
        rest = [(added(b, x, y, step), turned(p, q, step)) for (x, p), (y, q) in pairs]
        step //= 2
    return rest[0]


def added(b: Builder, x: Arg, y: Arg, step: int) -> Arg:
    halves = [b.pure("v", "turn", x, y, attrs=(step, half)) for half in (0, 1)]
    return b.pure("v", "fadd", *halves)


def turned(p: list[int], q: list[int], step: int) -> list[int]:
    """Which sum is in each lane after `turn`: of pairs of groups of `step` lanes one, of both operands in turn."""
    return [(q if k // step % 2 else p)[k - k % (2 * step) + k % step] for k in range(len(p))]
