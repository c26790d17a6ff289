"""Which integers an index takes over ranges of its variables, and which addresses of a tile a box is."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from moa.poly import Atom, Poly

Range = tuple[int, int]  # lo <= x < hi


class Unknown(Exception):
    """What is touched depends on data."""


def reach(p: Poly, env: Mapping[str, Range], sizes: Mapping[str, int]) -> tuple[int, int]:
    """(smallest, largest) value of an index, or bounds of them.

    Errors: Unknown
    """
    lo = hi = 0
    for m, c in p.terms:
        a, b = 1, 1
        for x in m:
            u, v = reach_atom(x, env, sizes)
            products = (a * u, a * v, b * u, b * v)
            a, b = min(products), max(products)
        ends = (a * c.numerator // c.denominator, -(-b * c.numerator // c.denominator))
        ends = ends if c > 0 else (b * c.numerator // c.denominator, -(-a * c.numerator // c.denominator))
        lo, hi = lo + ends[0], hi + ends[1]
    return lo, hi


def reach_atom(a: Atom, env: Mapping[str, Range], sizes: Mapping[str, int]) -> tuple[int, int]:
    match a.kind:
        case "var":
            return env[a.name][0], env[a.name][1] - 1
        case "size" | "int":
            return sizes[a.name], sizes[a.name]
        case "div":
            ends = [reach(x, env, sizes) for x in a.args]
            quotients = [x // y for x in ends[0] for y in ends[1] if y] or [0]
            return min(quotients), max(quotients)
        case "min" | "max":
            f = min if a.kind == "min" else max
            ends = [reach(x, env, sizes) for x in a.args]
            return f(x for x, _ in ends), f(x for _, x in ends)
        case "abs":
            lo, hi = reach(a.args[0], env, sizes)
            return (0 if lo <= 0 <= hi else min(abs(lo), abs(hi))), max(abs(lo), abs(hi))
        case "select":
            ends = [reach(x, env, sizes) for x in a.args[1:]]
            return min(x for x, _ in ends), max(x for _, x in ends)
        case _:
            raise Unknown(str(a))


def runs(box: Sequence[Range], capacities: Sequence[int], strides: Sequence[int], gap: int = 0) -> Iterator[Range]:
    """The elements of a box in a tile as ranges of addresses; rows with at most `gap` elements between them are one."""
    k = len(box)  # axes from here on are one run
    while k and (
        k == len(box) or (box[k] == (0, capacities[k]) and strides[k - 1] - capacities[k] * strides[k] <= gap)
    ):
        k -= 1
    outside, inside = range(k), range(k, len(box))
    length = 1 + sum((box[x][1] - box[x][0] - 1) * strides[x] for x in inside)
    start = sum(box[x][0] * strides[x] for x in inside)
    for at in itertools.product(*(range(*box[x]) for x in outside)):
        first = start + sum(i * strides[x] for i, x in zip(at, outside, strict=True))
        yield first, first + length


def blocks(r: Range, sizes: Sequence[int]) -> list[Range]:
    """A range in blocks as a nest takes it: of the first size, of the next one what is left, and so on."""
    lo, hi = r
    out = []
    for size in sizes:
        while lo + size <= hi:
            out.append((lo, lo + size))
            lo += size
    return [*out, (lo, hi)] if lo < hi else out


def chunks(r: Range, size: int) -> list[Range]:
    return [(x, min(x + size, r[1])) for x in range(r[0], r[1], size)]
