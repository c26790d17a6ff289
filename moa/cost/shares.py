"""A formula where no closed form knows what stays: of what items touch of each array, the share that moves.

What items touch of each array, and of scratch in all rounds, are counts in sizes. The share of it that crosses beyond a
cache is counted by a walk, at the sizes given or, of a kernel that is long, at smaller ones; it stands as a number. The
formula is good for sizes at which the same things stay in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

from moa.cost.predicted import FEW, Sized, short
from moa.cost.stack import through
from moa.cost.sums import Count, of
from moa.cost.traffic import Walk, streamed
from moa.cost.visits import Event, TooLong
from moa.loops import ELEMENT_BYTES
from moa.normal import loads
from moa.poly import Poly, const, maximum, var
from moa.tiles import Loop, Nest, Phase, Sift, Tiles, TileStmt, When

SHORT = 256  # sizes up to here are not made smaller
PRECISE = 10**6  # of shares: the most that they are parts of
Loops = Mapping[str, tuple[Poly, Poly]]  # around a statement: (positions, rounds)


@dataclass(frozen=True, slots=True)
class Shares:
    """Counts in sizes, each with the share of it that moves.

    counted_at  the sizes at which the shares were counted
    """

    terms: tuple[tuple[Fraction, Count], ...]
    counted_at: tuple[tuple[str, int], ...]

    def value(self, sizes: Mapping[str, int]) -> int:
        return round(sum(share * c.value(sizes) for share, c in self.terms))

    def formula(self) -> Any:
        """As an expression of sympy in sizes."""
        import sympy

        parts = (sympy.Rational(s.numerator, s.denominator) * c.formula() for s, c in self.terms)
        return sum(parts, sympy.Integer(0))


@lru_cache(maxsize=64)
def shares_of(kernel: Sized, capacities_bytes: tuple[int, ...]) -> Shares | None:
    """The shares that move beyond the last of some caches; None where even short sizes take too long to walk.

    Errors: Unknown where data say what is visited
    """
    sizes = dict(kernel.sizes)
    while True:
        try:
            here = replace(kernel, sizes=tuple(sizes.items()))
            moved = moved_by_array(short(here, {}) or here, capacities_bytes)
            break
        except TooLong:
            if (fewer := shorter(kernel.tiles, sizes)) == sizes:
                return None
            sizes = fewer
    terms = []
    for name, c in touched(kernel.tiles, dict(kernel.each), ELEMENT_BYTES[kernel.dtype]).items():
        if moved.get(name) and (whole := c.value(sizes)):
            terms.append((Fraction(moved[name], whole).limit_denominator(PRECISE), c))
    return Shares(tuple(terms), tuple(sizes.items()))


def shorter(tiles: Tiles, sizes: Mapping[str, int]) -> dict[str, int]:
    """Half of each long size; where there is none, half of the sizes that number items beside rows."""
    if any(n > SHORT for n in sizes.values()):
        return {k: -(-n // 2) if n > SHORT else n for k, n in sizes.items()}
    outer = {str(p.axis(a).extent) for p in tiles.phases for a in p.items[:-1] if p.axis(a).step == 1}
    return {k: -(-n // 2) if k in outer and n > FEW else n for k, n in sizes.items()}


def moved_by_array(kernel: Sized, capacities_bytes: tuple[int, ...]) -> dict[str, int]:
    """The bytes of each array, and of scratch by the name "", that cross beyond the last of some caches.

    Errors: TooLong, Unknown
    """
    visits = kernel.walked(True)
    events: list[Event] = list(visits.events())
    for capacity in capacities_bytes:
        events, _ = through(events, visits.sizes_bytes, capacity)
    out: dict[str, int] = {}
    for part, _ in events:
        name = visits.arrays[part]
        out[name] = out.get(name, 0) + visits.sizes_bytes[part]
    return out


def touched(tiles: Tiles, each: Mapping[str, int], scratch_element: int) -> dict[str, Count]:
    """The bytes that items touch of each array, what is written twice, and of scratch in every round."""
    out = {}
    for w in streamed(tiles):
        total = w.read + w.written + w.written
        out[w.array] = Count(tuple(replace(s, factor=s.factor * each[w.array]) for s in total.sums), total.exact)
    scratch = Count()
    for phase in tiles.phases:
        walk = Walk(tiles, phase)
        words = const(0)
        for n in visited(walk, phase, phase.body, {}):
            words = words + n
        scratch = scratch + of(words * scratch_element, (), walk.items)
    return {**out, "": scratch}


def visited(walk: Walk, phase: Phase, body: tuple[TileStmt, ...], around: Loops) -> Iterator[Poly]:
    """The words of tiles that each statement visits in all rounds of an item."""
    for s in body:
        match s:
            case Loop():
                axis = walk.phase.axis(s.axis)
                inside, _, _ = walk.loop(s, {}, {})
                long = maximum(inside[s.axis].hi - inside[s.axis].lo, const(0))
                rounds = (long + (axis.step - 1)) // axis.step if axis.step else const(1)
                yield from visited(walk, phase, s.body, {**around, s.axis: (long, rounds)})
            case When():
                yield from visited(walk, phase, (*s.body, *s.other), around)
            case Sift():
                yield from visited(walk, phase, (*s.every, *s.some), around)
            case Nest():
                for x in s.statements:
                    for name, _ in dict.fromkeys((*loads(x.value), *loads(x.target))):
                        yield words_of(walk, phase, name, around)


def words_of(walk: Walk, phase: Phase, name: str, around: Loops) -> Poly:
    """The words of one tile in all rounds of the loops around a statement; none of an array or of registers."""
    tile = next((t for t in phase.tiles if t.name == name and t.space != "block"), None)
    if tile is None:
        return const(0)
    out = const(1)
    for a, (long, rounds) in around.items():
        out = out * (long if a in tile.axes else rounds)
    for a in tile.axes:
        if a not in around:
            axis = phase.axis(a)
            rows = var(f"{a}#") if axis.step > 1 else const(1)
            out = out * (rows if axis.role == "item" else axis.capacity)
    return out
