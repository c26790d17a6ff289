"""What no order of a kernel's work can move less than: products of matrices whose factors are in memory.

A *contraction* sums, over K positions, products of an element of one array at (row, k) and one of another at (column,
k), for `pairs` of a row and a column. Take any order of these multiplications (each made at least once, sums in any
tree) in a memory of M words, and cut it where M words have moved. In such a piece at most 2 M words of both factors are
at hand, half of them of each at best. A pair whose sum is begun and ended in one piece needs its whole row and column:
there are at most (M / K)^2 of those. Every other pair has a part of its sum in the memory at an end of the piece, or
moved: at most 4 M of them, and by Loomis and Whitney at most sqrt(M * M * 4 M) multiplications. So a piece holds at
most M^2 / K + 2 M^(3/2) of pairs * K multiplications, and what moves is at least

    pairs * K^2 / (M + 2 K sqrt(M)) - M   words.

The first term of the denominator is what scores that are used at once and never stored allow; the second is Hong and
Kung's, which alone would be too much to ask where K < sqrt(M).
Source: Hong and Kung 1981; Irony, Toledo and Tiskin 2004 for the counting; clipped by K here
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import sqrt

from moa.cost.boxes import Span
from moa.cost.sums import Count, of
from moa.cost.traffic import Tiled, Walk, reads_data
from moa.normal import Index, Scalar, loads
from moa.poly import Poly, const
from moa.tiles import Loop, Map, Nest, Phase, Reduce, Tiles, TileStmt, When, statements


@dataclass(frozen=True, slots=True)
class Contraction:
    """pairs   of a row and a column whose sums are certainly needed: those of tiles that no mask meets
    depth   products in each sum
    """

    pairs: Count
    depth: Poly


def contractions(tiles: Tiles) -> tuple[Contraction, ...]:
    """The products of matrices of all phases whose factors are elements of arrays."""
    return tuple(c for phase in tiles.phases for c in Products(tiles, phase).found())


def least_words(c: Contraction, capacity_words: float, sizes: Mapping[str, int]) -> float:
    """The words that any order of it moves through a memory of so many; below 0 where nothing is known."""
    depth = of(c.depth, (), ()).value(sizes)
    if depth < 1 or capacity_words < 1:
        return 0.0
    return c.pairs.value(sizes) * depth**2 / (capacity_words + 2 * depth * sqrt(capacity_words)) - capacity_words


class Products:
    """The contractions of one phase."""

    def __init__(self, tiles: Tiles, phase: Phase) -> None:
        self.tiles, self.phase, self.walk = tiles, phase, Walk(tiles, phase)
        written = [x.target.args[0] for x in statements(phase.body)]
        made = ((x.target.args, source(tiles, x)) for x in statements(phase.body))
        self.copies = {t: (i, index) for (t, i), index in made if index is not None and written.count(t) == 1}

    def found(self) -> Iterator[Contraction]:
        by_depth: dict[Poly, Count] = {}
        for depth, pairs in self.body(self.phase.body, self.walk.outside(), {}):
            by_depth[depth] = by_depth.get(depth, Count()) + of(pairs, (), self.walk.items)
        for depth, total in by_depth.items():
            yield Contraction(total, depth)

    def body(
        self, body: tuple[TileStmt, ...], env: Mapping[str, Span], tiled: Mapping[str, Tiled]
    ) -> Iterator[tuple[Poly, Poly]]:
        """(depth, pairs of one item) of each product that is made whatever data and masks are."""
        for s in body:
            match s:
                case Nest():
                    for x in s.statements:
                        if isinstance(x, Reduce):
                            yield from self.product(x, env)
                case Loop():
                    known = not reads_data(s.lo) and not reads_data(s.hi)
                    if s.kind == "full" and known:
                        inside, cases, _ = self.walk.loop(s, env, tiled)
                        if s.axis not in cases:
                            yield from self.body(s.body, inside, cases)
                case When():
                    pass

    def product(self, s: Reduce, env: Mapping[str, Span]) -> Iterator[tuple[Poly, Poly]]:
        if s.op != "add" or s.value.op != "mul" or len(s.over) != 1:
            return
        (k,) = s.over
        factors = [self.factor(x) for x in s.value.args]
        if None in factors:
            return
        left, right = (f for f in factors if f is not None)
        if k not in left & right or env[k] != Span(const(0), self.phase.axis(k).extent):
            return
        if not left - right or not right - left:
            return
        pairs = const(1)
        for v in (left | right) - {k}:
            pairs = pairs * self.walk.facts.length(env[v])
        yield self.phase.axis(k).extent, pairs

    def factor(self, x: Scalar) -> frozenset[str] | None:
        """The variables that an element of an array is at, where a factor is made of one such element."""
        found = list(dict.fromkeys(loads(x)))
        if len(found) != 1:
            return None
        ((name, index),) = found
        if name in self.copies and index == self.copies[name][0]:
            index = self.copies[name][1]
        elif not is_input(self.tiles, name):
            return None
        names = [p.as_var() for p in index]
        return None if None in names else frozenset(n for n in names if n is not None)


def source(tiles: Tiles, s: Map | Reduce) -> Index | None:
    """The index of the one element of an input that each element of a target is made of; None where it is not so."""
    found = list(dict.fromkeys(loads(s.value)))
    return found[0][1] if isinstance(s, Map) and len(found) == 1 and is_input(tiles, found[0][0]) else None


def is_input(tiles: Tiles, name: str) -> bool:
    """Whether an element has to be read: what a kernel stores for itself could be made again."""
    a = tiles.array(name)
    return a is not None and a.role == "input"
