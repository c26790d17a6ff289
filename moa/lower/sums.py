"""Sums of the lanes of several vectors at once, which take fewer instructions than one by one. The bits of `reduce`."""

from __future__ import annotations

from moa.loops import Arg
from moa.lower.builder import Builder

LEAST = 3  # vectors; fewer are summed one by one


def lane_sums(b: Builder, vectors: list[Arg], width: int) -> list[Arg]:
    """The sum of the lanes of each vector."""
    out: list[Arg] = []
    while vectors:
        some, vectors = vectors[:width], vectors[width:]
        if len(some) < LEAST:
            out += [b.pure("f", "reduce", x, attrs=("add",)) for x in some]
            continue
        more = (1 << (len(some) - 1).bit_length()) - len(some)
        sums = b.pure("v", "sums", *some, *[some[-1]] * more)
        out += [b.pure("f", "extract", sums, attrs=(k,)) for k in range(len(some))]
    return out
