"""Reshape: gamma' after gamma, the index in one shape of the element at an index of another, row-major."""

from __future__ import annotations

from moa.normal import Index
from moa.poly import Poly, const


def regroup(new: tuple[Poly, ...], old: tuple[Poly, ...], index: Index) -> Index:
    """The index in shape `old` of the element at `index` in shape `new`, row-major.

    Axes are matched in groups of equal product, so that div and mod act within a group only.
    """
    out: list[Poly] = []
    a, b = 0, 0
    while a < len(new) or b < len(old):
        take_a, take_b = 1 if a < len(new) else 0, 1 if b < len(old) else 0
        while True:
            left, right = product(new[a : a + take_a]), product(old[b : b + take_b])
            if left == right:
                break
            if a + take_a >= len(new) and b + take_b >= len(old):
                break  # equal by an obligation of check
            grow_a = left.exact_quotient(right) is None and right.exact_quotient(left) is not None
            if (grow_a or b + take_b >= len(old)) and a + take_a < len(new):
                take_a += 1
            else:
                take_b += 1
        offset = const(0)
        for p, e in zip(index[a : a + take_a], new[a : a + take_a], strict=True):
            offset = offset * e + p
        group = list(old[b : b + take_b])
        if take_a == take_b == 1:
            out.append(offset)
        else:
            out += digits(offset, group, list(zip(index[a : a + take_a], new[a : a + take_a], strict=True)))
        a, b = a + take_a, b + take_b
    return tuple(out)


def digits(offset: Poly, extents: list[Poly], parts: list[tuple[Poly, Poly]]) -> list[Poly]:
    """gamma': the index in row-major `extents` of an offset that is made of digits `parts` (index, extent)."""
    out: list[Poly] = []
    for k in range(len(extents)):
        below = product(extents[k + 1 :])
        if len(extents) == 1:
            out.append(offset)
            continue
        # trailing parts whose extents multiply to exactly `below` are what is left after the division
        tail, width = const(0), const(1)
        cut = len(parts)
        while cut > 0 and width != below:
            cut -= 1
            tail = tail + parts[cut][0] * width
            width = width * parts[cut][1]
        if width == below:
            lead = const(0)
            for p, e in parts[:cut]:
                lead = lead * e + p
            out.append(lead)
            parts, offset = parts[cut:], tail
        else:
            out.append(offset // below)
            offset = offset - below * (offset // below)
            parts = [(offset, below)]
    return out


def product(extents: tuple[Poly, ...] | list[Poly]) -> Poly:
    out = const(1)
    for e in extents:
        out = out * e
    return out
