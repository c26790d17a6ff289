"""Boxes of array elements with symbolic bounds: how many distinct elements several of them hold."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from moa.domains import implied
from moa.normal import TRUE, Cond, at_least_zero, both, either
from moa.poly import Poly, const, maximum, minimum, var

ZERO = const(0)
MOST = 6  # boxes of one array that are told apart by inclusion and exclusion


@dataclass(frozen=True, slots=True)
class Span:
    """offset + scale * x for lo <= x < hi."""

    lo: Poly
    hi: Poly
    scale: int = 1
    offset: Poly = ZERO

    def same_lattice(self, other: Span) -> bool:
        return self.scale == other.scale and self.offset == other.offset


Spans = tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of the variables in bounds: extents, and a condition they meet."""

    extents: tuple[tuple[str, Poly], ...]
    under: Cond

    def hold(self, c: Cond) -> bool:
        return c.is_true or implied(c, self.under, dict(self.extents))

    def always(self, p: Poly) -> bool:
        """Whether p >= 0."""
        return self.hold(at_least_zero(p))

    def length(self, s: Span) -> Poly:
        n = s.hi - s.lo
        return n if self.always(n) else maximum(n, const(0))

    def volume(self, box: Spans) -> Poly:
        return functools.reduce(lambda a, b: a * b, map(self.length, box), const(1))

    def inside(self, a: Spans, b: Spans) -> bool:
        """Whether box a lies inside box b."""
        return all(
            x == y or (x.same_lattice(y) and self.always(x.lo - y.lo) and self.always(y.hi - x.hi))
            for x, y in zip(a, b, strict=True)
        )

    def disjoint(self, a: Spans, b: Spans) -> bool:
        return any(
            x.same_lattice(y) and (self.always(y.lo - x.hi) or self.always(x.lo - y.hi))
            for x, y in zip(a, b, strict=True)
        )


def count(boxes: Sequence[Spans], facts: Facts) -> tuple[Poly, bool]:
    """(number of distinct elements, whether it is exact and not only an upper bound)."""
    kept = merged(_outermost(list(dict.fromkeys(boxes)), facts), facts)
    exact = True
    total = const(0)
    for group in _groups(kept, facts):
        if len(group) > MOST or not _same_lattices(group):
            exact = exact and len(group) == 1
            total = functools.reduce(lambda t, b: t + facts.volume(b), group, total)
            continue
        for n in range(1, len(group) + 1):
            for chosen in itertools.combinations(group, n):
                common = facts.volume(functools.reduce(_common, chosen))
                total = total + (common if n % 2 else -common)
    return total, exact


def _outermost(boxes: list[Spans], facts: Facts) -> list[Spans]:
    """The boxes that lie in no other."""
    kept: list[Spans] = []
    for k, b in enumerate(boxes):
        others = (*kept, *boxes[k + 1 :])
        if not any(facts.inside(b, other) for other in others):
            kept.append(b)
    return kept


def merged(boxes: list[Spans], facts: Facts) -> list[Spans]:
    """The boxes with neighbours in the list that differ along one axis only joined, where their union is a box."""
    for n in range(len(boxes), 1, -1):
        for k in range(len(boxes) - n + 1):
            joined = _joined(boxes[k : k + n], facts)
            if joined is not None:
                return merged([*boxes[:k], joined, *boxes[k + n :]], facts)
    return boxes


def _joined(boxes: Sequence[Spans], facts: Facts) -> Spans | None:
    first = boxes[0]
    differing = [k for k in range(len(first)) if any(b[k] != first[k] for b in boxes)]
    if len(differing) != 1:
        return None
    (k,) = differing
    hull = _hull(tuple(b[k] for b in boxes), facts)
    return None if hull is None else (*first[:k], hull, *first[k + 1 :])


@lru_cache(maxsize=1024)
def _hull(spans: Spans, facts: Facts) -> Span | None:
    """The span from the first one's start to the last one's end, if that is the union of all."""
    first, last = spans[0], spans[-1]
    if not all(s.same_lattice(first) for s in spans):
        return None
    hull = Span(first.lo, last.hi, first.scale, first.offset)
    x = "x@"
    union, within, extents = either(*(_within(x, s) for s in spans)), _within(x, hull), dict(facts.extents)
    same = implied(within, both(facts.under, union), extents) and implied(union, both(facts.under, within), extents)
    return hull if same else None


def _within(x: str, s: Span) -> Cond:
    return both(at_least_zero(var(x) - s.lo), at_least_zero(s.hi - 1 - var(x)))


def _groups(boxes: list[Spans], facts: Facts) -> list[list[Spans]]:
    """The boxes, in groups that share no element with each other."""
    groups: list[list[Spans]] = []
    for b in boxes:
        near = [g for g in groups if not all(facts.disjoint(b, other) for other in g)]
        groups = [g for g in groups if g not in near] + [[b, *(x for g in near for x in g)]]
    return groups


def _same_lattices(group: Sequence[Spans]) -> bool:
    return all(x.same_lattice(y) for b in group for x, y in zip(b, group[0], strict=True))


def _common(a: Spans, b: Spans) -> Spans:
    return tuple(Span(maximum(x.lo, y.lo), minimum(x.hi, y.hi), x.scale, x.offset) for x, y in zip(a, b, strict=True))


def facts_of(extents: Mapping[str, Poly], under: Cond = TRUE) -> Facts:
    return Facts(tuple(sorted(extents.items())), under)
