"""The bytes that caches move for a kernel: its visits through a stack, as many of them as need be looked at.

Small kernels are walked place by place of each block, so that all but the order of the last lines is what it will be;
longer ones block by block. Of more than three positions of an axis that numbers independent items, three are walked:
what moves is affine in their number. Where even that is long, a cache that holds a tile is fed nest by nest, and one
that does not is fed some work items of each phase, those between them following by interpolation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from moa.cost.reach import Unknown
from moa.cost.stack import moved_bytes, through
from moa.cost.visits import Items, PhaseWalk, Starts, TooLong, Visits, Walk, every, known
from moa.domains.evaluate import value_of
from moa.loops import Element
from moa.normal import Index, loads
from moa.tiles import Loop, Nest, Phase, Tiles, TileStmt, When

MOST = 1_500_000  # visits: some tenths of a second for each cache
FEW = 3  # positions of independent items that are walked
ROUNDS = 24  # of a loop that are walked, and twice as many
SAMPLES = 3  # work items along an axis that are looked at to begin with
STRAIGHT = 0.01  # how far from the line between two samples one between them is taken to be on it
CARRIED = 0.05  # the most that may be kept between two runs along an axis, of what moves
DEEPEST = 6  # halvings of the way between two samples


@dataclass(frozen=True, slots=True)
class Sized:
    """A placed kernel at given sizes.

    each   (array, bytes of an element of it)
    width  lanes of a vector
    loose  what data say is taken as much as it may be, where else nothing is predicted
    close  place by place of each block, else block by block
    """

    tiles: Tiles
    dtype: Element
    each: tuple[tuple[str, int], ...]
    width: int
    sizes: tuple[tuple[str, int], ...]
    loose: bool = False
    close: bool = True

    def new_walk(self, times: int = 1) -> Walk:
        return Walk(self.tiles, dict(self.each), dict(self.sizes), times * MOST, self.loose, self.close)

    def walked(self, fine: bool, few: tuple[tuple[int, int], ...] = ()) -> Visits:
        """few: (axis of items by number, how many of its first positions are walked)."""
        return walked(self, fine, few)

    def counts(self, phase: Phase) -> list[int]:
        """How many positions of work items there are along each axis."""
        sizes = dict(self.sizes)
        return [-(-value_of(phase.axis(a).extent, sizes) // phase.axis(a).step) for a in phase.items]


@lru_cache(maxsize=4)
def walked(kernel: Sized, fine: bool, few: tuple[tuple[int, int], ...]) -> Visits:
    """What a kernel visits, kept for other caches at the same sizes."""
    walk = kernel.new_walk()
    items: Items = partial(first_of, dict(few)) if few else every
    for phase in kernel.tiles.phases:
        PhaseWalk(walk, phase, kernel.dtype, kernel.width, fine).run(items)
    return walk.visits()


@lru_cache(maxsize=64)
def predicted_bytes(kernel: Sized, capacities_bytes: tuple[int, ...], tile_bytes: int) -> tuple[int | None, ...]:
    """What crosses beyond each cache, the nearest first; None where it would take too long to find.

    tile_bytes  what a cache has to hold to be fed nest by nest
    Errors: Unknown where data say what is visited, and it is not to be taken as much as it may be
    """
    unknown: tuple[int | None, ...] = (None,) * len(capacities_bytes)
    try:
        few = fewer(kernel)
        if found := short(kernel, few):
            return affine(found, few, True, capacities_bytes)
        kernel = replace(kernel, close=False)
        large = tuple(c for c in capacities_bytes if c >= tile_bytes)
        small = capacities_bytes[: len(capacities_bytes) - len(large)]
        return (*sampled(kernel, small), *affine(kernel, few, False, large))
    except TooLong:
        return unknown


def predicted_or_bound(
    kernel: Sized, capacities_bytes: tuple[int, ...], tile_bytes: int
) -> tuple[tuple[int | None, ...], bool]:
    """(what crosses beyond each cache, whether that is a bound): data are taken to say as much as they may.

    All tiles that a domain may meet are visited. There is no bound for caches that do not hold a tile.
    """
    try:
        return predicted_bytes(kernel, capacities_bytes, tile_bytes), False
    except Unknown:
        pass
    try:
        loose = predicted_bytes(replace(kernel, loose=True), capacities_bytes, tile_bytes)
    except Unknown:
        return (None,) * len(capacities_bytes), False
    return tuple(x if c >= tile_bytes else None for x, c in zip(loose, capacities_bytes, strict=True)), True


# A few of many independent items -------------------------------------------------------------------------------------


def fewer(kernel: Sized) -> dict[str, int]:
    """The axes of independent items with more than FEW positions, and how many they have."""
    if len(kernel.tiles.phases) != 1:
        return {}
    (phase,) = kernel.tiles.phases
    counts = dict(zip(phase.items, kernel.counts(phase), strict=True))
    return {a: counts[a] for a in independent(kernel.tiles, phase) if counts[a] > FEW}


def independent(tiles: Tiles, phase: Phase) -> list[str]:
    """The outer axes of items whose number changes no distance: arrays depend on all that are further out."""
    out: list[str] = []
    indices = [{v for p in i for v in p.vars()} for a, i in touched(phase.body) if tiles.array(a) is not None]
    for k, axis in enumerate(phase.items[:-1]):
        if phase.axis(axis).step > 1 or any(not set(phase.items[:k]) <= names for names in indices):
            break
        out.append(axis)
    return out


def touched(body: Iterable[TileStmt]) -> Iterator[tuple[str, Index]]:
    for s in body:
        match s:
            case Nest():
                for x in s.statements:
                    yield from (*loads(x.value), *loads(x.target))
            case Loop():
                yield from touched(s.body)
            case When():
                yield from touched((*s.body, *s.other))


def affine(kernel: Sized, few: dict[str, int], fine: bool, capacities: Sequence[int]) -> tuple[int, ...]:
    """What crosses beyond each cache, from FEW positions of each of some axes and from one less."""
    if not capacities:
        return ()
    total = [0] * len(capacities)
    for taken in itertools.product((FEW - 1, FEW), repeat=len(few)):
        weight = math.prod(n - FEW + 1 if t == FEW else FEW - n for n, t in zip(few.values(), taken, strict=True))
        axes = tuple(kernel.tiles.phases[0].items.index(a) for a in few)
        moved = moved_bytes(kernel.walked(fine, tuple(zip(axes, taken, strict=True))), capacities)
        total = [t + weight * m for t, m in zip(total, moved, strict=True)]
    return tuple(total)


def first_of(most: Mapping[int, int], starts: Starts) -> Iterable[tuple[int, ...]]:
    """The items at the first positions along some axes."""
    return itertools.product(*(s[: most.get(k, len(s))] for k, s in enumerate(starts)))


# Samples of work items -----------------------------------------------------------------------------------------------


class Samples:
    """Work items along the innermost axis of a phase, each behind the one before it."""

    def __init__(self, kernel: Sized, phase: Phase, times: int = 1) -> None:
        *outer, self.count = kernel.counts(phase) or [1]
        self.others = math.prod(outer)
        self.walk = kernel.new_walk(times)
        self.phase = PhaseWalk(self.walk, phase, kernel.dtype, kernel.width, True)
        self.places: dict[int, tuple[int, int]] = {}  # in the order of the walk
        self.visits: Visits | None = None  # with all of these

    def visit(self, k: int) -> None:
        if k not in self.places:
            first = len(self.walk.order)
            self.phase.run(partial(at_position, k))
            self.places[k] = first, len(self.walk.order)
            self.visits = None

    def moved(self, capacity: int, *items: int) -> int:
        for k in items:
            self.visit(k)
        visits = self.visits = self.visits or self.walk.visits()
        events = itertools.chain.from_iterable(visits.events(*self.places[k]) for k in items)
        return through(events, visits.sizes_bytes, capacity)[1]

    def cost(self, capacity: int, k: int) -> int:
        return self.moved(capacity, k - 1, k) - self.moved(capacity, k - 1) if k else self.moved(capacity, 0)


def at_position(k: int, starts: Starts) -> Iterable[tuple[int, ...]]:
    return [(*(s[0] for s in starts[:-1]), starts[-1][k])] if starts else [()]


def visits_about(kernel: Sized, few: dict[str, int]) -> int:
    """About how many visits there are block by block, from an item in the middle of each phase."""
    total = 0
    for phase in kernel.tiles.phases:
        counts = kernel.counts(phase)
        if math.prod(counts):
            s = Samples(kernel, phase)
            try:
                s.visit(s.count // 2)
            except TooLong:
                return MOST + 1
            taken = (FEW if a in few else n for a, n in zip(phase.items, counts, strict=True))
            total += sum(1 for _ in s.walk.visits().events()) * math.prod(taken)
    return total


def short(kernel: Sized, few: dict[str, int]) -> Sized | None:
    """The kernel as all of it can be walked: place by place, else block by block; None where both are long."""
    coarse = replace(kernel, close=False)
    if visits_about(coarse, few) > MOST:
        return None
    return kernel if visits_about(kernel, few) <= MOST else coarse


def sampled(kernel: Sized, capacities: Sequence[int]) -> tuple[int | None, ...]:
    """What crosses beyond each cache alone, none of which holds a tile.

    None where what such a cache keeps between two runs along an axis may count.
    """
    total = [0.0] * len(capacities)
    ends = 0
    for phase in kernel.tiles.phases if capacities else ():
        if not math.prod(kernel.counts(phase)):
            continue
        try:
            if rounds := rounds_alone(kernel, phase):
                total = [t + first_rounds(kernel, phase, rounds, c) for t, c in zip(total, capacities, strict=True)]
                continue
            s = Samples(kernel, phase, 4)
            ends += s.others
            total = [t + s.others * along(s, c) for t, c in zip(total, capacities, strict=True)]
        except TooLong:
            return (None,) * len(capacities)
    return tuple(round(t) if ends * c <= CARRIED * t else None for t, c in zip(total, capacities, strict=True))


def rounds_alone(kernel: Sized, phase: Phase) -> int:
    """How many rounds its only loop has where a phase is one long item; 0 where it is not, or they are few."""
    loops = [s for s in phase.body if isinstance(s, Loop)]
    if math.prod(kernel.counts(phase)) != 1 or len(loops) != 1 or loops[0].lo.vars() | loops[0].hi.vars():
        return 0
    (loop,) = loops
    sizes = dict(kernel.sizes)
    rounds = -(-(known(value_of, loop.hi, sizes) - known(value_of, loop.lo, sizes)) // phase.axis(loop.axis).step)
    return rounds if rounds > 2 * ROUNDS else 0


def first_rounds(kernel: Sized, phase: Phase, rounds: int, capacity: int) -> float:
    """What crosses for all rounds, from the first ones: behind them each moves as much."""
    found = []
    for most in (ROUNDS, 2 * ROUNDS):
        walk = kernel.new_walk()
        one = PhaseWalk(walk, phase, kernel.dtype, kernel.width, True)
        one.most_rounds = most
        one.run()
        visits = walk.visits()
        found.append(through(visits.events(), visits.sizes_bytes, capacity)[1])
    few, twice = found
    return twice + (rounds - 2 * ROUNDS) * (twice - few) / ROUNDS


def along(s: Samples, capacity: int) -> float:
    """The sum over the items along an axis, most of which lie on a line between two that are looked at."""
    costs: dict[int, int] = {}

    def cost(k: int) -> int:
        if k not in costs:
            costs[k] = s.cost(capacity, k)
        return costs[k]

    def between(j: int, k: int, depth: int) -> float:
        """The sum over j < item <= k."""
        if k - j < 2:
            return cost(k) if k > j else 0.0
        middle = (j + k) // 2
        line = cost(j) + (cost(k) - cost(j)) * (middle - j) / (k - j)
        if depth < DEEPEST and abs(line - cost(middle)) > STRAIGHT * cost(middle):
            return between(j, middle, depth + 1) + between(middle, k, depth + 1)
        return trapezoid(cost(j), cost(middle), middle - j) + trapezoid(cost(middle), cost(k), k - middle)

    last = s.count - 1
    ends = sorted({0, last, *(max(last - 1, 0) * k // SAMPLES for k in range(1, SAMPLES + 1))})
    for j, k in itertools.pairwise(ends):
        for at in (k, (j + k) // 2):
            s.visit(max(at - 1, 0))
            s.visit(at)
    return cost(0) + sum(between(j, k, 0) for j, k in itertools.pairwise(ends))


def trapezoid(a: float, b: float, n: int) -> float:
    """The sum of n values behind a, on a straight line to b."""
    return n * (a + b) / 2 + (b - a) / 2
