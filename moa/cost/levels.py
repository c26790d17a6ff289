"""What moves at each level of a machine's memory: predicted from the tiles, beside what must move.

Conventions: one thread does all items in their order; caches start empty; a store that misses reads its line; what is
dirty is written back at the end. Bytes are those of the kernel's visits in a stack (`moa.cost.predicted`). Beside them
is a closed form for caches that hold a tile; in it scratch is counted once each way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt
from typing import Any, Literal

from moa.cost.bounds import Contraction, contractions, least_words
from moa.cost.predicted import Sized, predicted_or_bound
from moa.cost.reuse import BYTES, Bytes, Item, found_again, item_of
from moa.cost.shares import shares_of
from moa.cost.sums import Count, largest, of, symbol
from moa.cost.traffic import Words, compulsory, streamed
from moa.loops import ELEMENT_BYTES, Element
from moa.machine import Machine
from moa.poly import Poly, const, size
from moa.tiles import Phase, Tiles

SCRATCH = "scratch@"  # bytes that a thread touches of its scratch, in counts
NAMES = {BYTES: "M_bytes", SCRATCH: "scratch_bytes"}
Regime = Literal["all stays", "shared stays", "shared stays for some items", "streamed again", "tile larger"]
WHOLE: Regime = "all stays"
STAYS: Regime = "shared stays"
SOME: Regime = "shared stays for some items"
STREAMED: Regime = "streamed again"
NO_TILE: Regime = "tile larger"
FORMULA_WITHIN = 0.02
CLOSED, SHARES = FORMULAS = "closed form", "shares counted by a walk"
IN_DATA, LONG = "data say what is visited: there is only a bound", "it would take too long to walk"
FAR = "the shares at the shorter sizes that can be walked are more than 2 % away at these"


@dataclass(frozen=True, slots=True)
class Level:
    """The bytes that cross between one cache and what is farther.

    compulsory_bytes        each byte of inputs that is read and of outputs, once
    lower_bound_bytes       certified: no order of this work moves less (`moa.cost.bounds`)
    conjectured_bound_bytes of keeping rows and streaming the rest, or of storing what is in between: not proved
    attainable_bytes        about, with as many rows at a time as the cache holds; None where it holds not one
    predicted_bytes         for the tiles of this kernel; None where it would take too long to find
    at_most                 it is an upper bound: data say what is visited
    closed_form_bytes       by the formula in sizes and the capacity, for one phase; None where a tile does not fit
    regime                  what stays in the cache
    measured_bytes, conflict_bytes   of simulated caches, None before they were
    """

    name: str
    capacity_bytes: int
    compulsory_bytes: int
    lower_bound_bytes: int
    conjectured_bound_bytes: int
    attainable_bytes: int | None
    predicted_bytes: int | None
    regime: Regime
    closed_form_bytes: int | None = None
    measured_bytes: int | None = None
    conflict_bytes: int | None = None
    at_most: bool = False

    @property
    def off(self) -> float | None:
        """How far the prediction is from what was measured, as a share of that; None where one of them is not there."""
        if self.predicted_bytes is None or not self.measured_bytes:
            return None
        return self.predicted_bytes / self.measured_bytes - 1


@dataclass(frozen=True, slots=True)
class Traffic:
    """The bytes of a kernel as counts in sizes and in the capacity BYTES.

    compulsory  as in `Level`
    whole       where everything stays: results and arrays in between are also read before they are written
    cold        where nothing stays from one item to the next
    footprint   of all arrays and scratch; that is SCRATCH in the counts
    tiles       of the kernel, of whose arrays `each` has (name, bytes of an element)
    width       lanes of a vector
    products    of matrices, which bound what moves
    """

    compulsory: Count
    whole: Count
    cold: Count
    footprint: Count
    tiles: Tiles
    dtype: Element
    each: tuple[tuple[str, int], ...]
    width: int
    items: tuple[Item, ...]
    products: tuple[Contraction, ...]

    def scratch_bytes(self, sizes: Mapping[str, int]) -> int:
        """What a thread touches of its scratch: tiles as long as the longest round."""
        pairs = zip(self.tiles.phases, self.items, strict=True)
        return max((scratch_of(p, i, ELEMENT_BYTES[self.dtype], sizes) for p, i in pairs), default=0)

    def tile_bytes(self, sizes: Mapping[str, int]) -> int:
        """What a cache holds where a tile stays in it and the rest is streamed: scratch, and two rounds of an item."""
        rounds = (largest(item.rounds, item.items, sizes) for item in self.items)
        return self.scratch_bytes(sizes) + max(rounds, default=0)

    def kept(self, with_scratch: bool) -> Count:
        """The bytes that a cache of BYTES bytes holds from one item to the next."""
        out = Count()
        for item in self.items:
            out = out + found_again(item, size(SCRATCH) if with_scratch else const(0))
        return out


def traffic_of(tiles: Tiles, dtype: Element, stored: Element | None = None, width: int = 16) -> Traffic:
    """What a placed kernel moves.

    stored  the type of float inputs and outputs if it is not `dtype`
    width   lanes of a vector
    """
    each = element_bytes(tiles, dtype, stored)
    by_items, once = streamed(tiles), compulsory(tiles)
    scratch = counted(size(SCRATCH))
    between = Count()
    for a in tiles.arrays:
        if a.role == "workspace":
            volume = const(each[a.name])
            for extent in a.shape:
                volume = volume * extent
            between = between + counted(volume)
    allocated = weighed(once, each, written_twice=True) + times(between + scratch, 2)
    footprint = weighed(once, each) + between + scratch
    items = tuple(item_of(tiles, p, each) for p in tiles.phases)
    cold = weighed(by_items, each, written_twice=True) + times(scratch, 2)
    kinds = tuple(each.items())
    products = contractions(tiles)
    return Traffic(weighed(once, each), allocated, cold, footprint, tiles, dtype, kinds, width, items, products)


def element_bytes(tiles: Tiles, dtype: Element, stored: Element | None) -> dict[str, int]:
    out = {}
    for a in tiles.arrays:
        floats = dtype if stored is None or a.role == "workspace" else stored
        out[a.name] = {"f": ELEMENT_BYTES[floats], "i": 8, "b": 1}[a.kind]
    return out


def scratch_of(phase: Phase, item: Item, element: int, sizes: Mapping[str, int]) -> int:
    """The bytes that a phase touches of its tiles that are not in registers only."""
    long: dict[str, int] = {}
    for axis, length in item.lengths:
        long[axis] = max(long.get(axis, 0), largest(length, item.items, sizes))
    total = 0
    for t in phase.tiles:
        if t.space != "block":
            volume = element
            for a in t.axes:
                positions = long[a] if a in long else counted(phase.axis(a).capacity).value(sizes)
                volume *= -(-positions // 2) if a == t.pairs else positions
            total += volume
    return total


def counted(p: Poly) -> Count:
    return of(p, (), ())


def times(c: Count, factor: int) -> Count:
    return Count(tuple(replace(s, factor=s.factor * factor) for s in c.sums), c.exact)


def weighed(words: tuple[Words, ...], each: Bytes, written_twice: bool = False) -> Count:
    """The bytes of words; with `written_twice`, of stores the line that is read before it is written too."""
    out = Count()
    for w in words:
        out = out + times(w.read, each[w.array]) + times(w.written, each[w.array] * (1 + written_twice))
    return out


def levels_of(traffic: Traffic, machine: Machine, sizes: Mapping[str, int]) -> tuple[Level, ...]:
    """The levels of a machine at these sizes, from the nearest on."""
    out = []
    tile = traffic.tile_bytes(sizes)
    kernel = Sized(traffic.tiles, traffic.dtype, traffic.each, traffic.width, tuple(sorted(sizes.items())))
    walked, loose = predicted_or_bound(kernel, tuple(m.capacity_bytes or 0 for m in machine.caches), tile)
    sizes = {**sizes, SCRATCH: traffic.scratch_bytes(sizes)}
    held_before = False
    for m, seen in zip(machine.caches, walked, strict=True):
        assert m.capacity_bytes is not None
        at = {**sizes, BYTES: m.capacity_bytes}
        closed, regime = closed_form_at(traffic, at, tile, not held_before)
        predicted = closed if seen is None and len(traffic.tiles.phases) == 1 and not loose else seen
        held_before = held_before or m.capacity_bytes >= tile
        once = traffic.compulsory.value(sizes)
        least = max(once, least_bytes(traffic, at))
        conjectured = max(least, conjectured_at(traffic, at))
        attainable = attainable_at(traffic, at)
        out.append(Level(m.name, m.capacity_bytes, once, least, conjectured, attainable, predicted, regime, closed))
    return tuple(replace(x, at_most=loose and x.predicted_bytes is not None) for x in out)


def beside(levels: tuple[Level, ...], simulated: Sequence[Any]) -> tuple[Level, ...]:
    """The levels with what simulated caches of the same capacities moved (`moa.measure.SimulatedLevel`)."""
    found = {x.capacity_bytes: x for x in simulated}
    out = []
    for level in levels:
        x = found.get(level.capacity_bytes)
        measured = {} if x is None else {"measured_bytes": x.moved_bytes, "conflict_bytes": x.conflict_bytes}
        out.append(replace(level, **measured))
    return tuple(out)


def scratch_passes(traffic: Traffic, levels: tuple[Level, ...], level: Level, sizes: Mapping[str, int]) -> bool:
    """Whether scratch comes to a level again and again: no nearer one holds a tile."""
    tile = traffic.tile_bytes(sizes)
    return not any(x.capacity_bytes >= tile for x in levels[: levels.index(level)])


def closed_form_at(traffic: Traffic, at: Mapping[str, int], tile: int, with_scratch: bool) -> tuple[int | None, Regime]:
    if at[BYTES] >= traffic.footprint.value(at):
        return traffic.whole.value(at), WHOLE
    if at[BYTES] < tile:
        return None, NO_TILE
    kept = traffic.kept(with_scratch).value(at)
    most = traffic.kept(False).value({**at, BYTES: 1 << 62})
    regime: Regime = STREAMED if kept == 0 and most else STAYS if kept == most else SOME
    return traffic.cold.value(at) - kept, regime


def least_bytes(traffic: Traffic, at: Mapping[str, int]) -> int:
    """The certified bound of the products of matrices, in words of the smallest float that is read."""
    kinds = {a.name: a.kind for a in traffic.tiles.arrays if a.role == "input"}
    word = min((n for a, n in traffic.each if kinds.get(a) == "f"), default=8)
    return max((ceil(word * least_words(c, at[BYTES] / word, at)) for c in traffic.products), default=0)


def conjectured_at(traffic: Traffic, at: Mapping[str, int]) -> int:
    """With P pairs of a row and a position, D words of each: the less of P D^2 / M and 2 P (1 + D / sqrt(M)), less M.

    The first where all that a row keeps is streamed past; the second where results in between are stored and read, with
    square blocks. Orders of both: Saha and Ye 2024; the constants are not proved.
    """
    capacity, word = at[BYTES], ELEMENT_BYTES[traffic.dtype]
    total = 0.0
    for item in traffic.items:
        products = of(item.resident * item.streamed, (), item.items).value(at)
        rows = (
            of(const(1), (), item.items[:-1]).value(at) * counted(item.items[-1].extent).value(at) if item.items else 1
        )
        kept = of(item.resident, (), item.items).value(at) / max(rows, 1)  # D, in bytes
        if products and kept:
            pairs = products / kept**2
            stored = 2 * pairs * (word + kept / sqrt(capacity / word))
            total += min(products / capacity, stored)
    return int(total) - capacity


def attainable_at(traffic: Traffic, at: Mapping[str, int]) -> int | None:
    """About what moves with the most rows that the cache holds beside one position of what is streamed."""
    total = 0
    for item in traffic.items:
        kept, sent = of(item.resident, (), item.items).value(at), of(item.streamed, (), item.items).value(at)
        if not item.items or not sent or not item.pairs[0].shared.terms:
            total += kept + sent
            continue
        axis = item.items[-1]
        count = counted(axis.extent).value(at)
        items = counted(axis.tiles).value(at)
        others = of(const(1), (), item.items[:-1]).value(at)
        row = kept / max(count * others, 1)
        rows = min(int(at[BYTES] / max(row, 1)), count)
        if rows < 1:
            return None
        held = largest(item.streamed, item.items, at) + row <= at[BYTES]
        total += kept + (sent // max(items, 1) if held else sent * max(count // rows, 1) // max(items, 1))
    return max(total, traffic.compulsory.value(at))


def formula_of(traffic: Traffic, levels: tuple[Level, ...], level: Level, sizes: Mapping[str, int]) -> tuple[Any, str]:
    """(a formula of a level as an expression of sympy, or None; what it is: one of FORMULAS, or why there is none).

    M_bytes        the capacity
    scratch_bytes  what a thread touches of its scratch
    """
    import sympy

    if level.at_most or level.predicted_bytes is None:
        return None, IN_DATA if level.at_most else LONG
    names = {symbol(k): sympy.Symbol(v, integer=True, nonnegative=True) for k, v in NAMES.items()}
    closed, most = level.closed_form_bytes, FORMULA_WITHIN * level.predicted_bytes
    if closed is not None and abs(closed - level.predicted_bytes) <= most:
        if level.regime == WHOLE:
            return traffic.whole.formula().subs(names), CLOSED
        kept = traffic.kept(scratch_passes(traffic, levels, level, sizes))
        return (traffic.cold.formula() - kept.formula()).subs(names), CLOSED
    kernel = Sized(traffic.tiles, traffic.dtype, traffic.each, traffic.width, tuple(sorted(sizes.items())))
    shares = shares_of(kernel, tuple(x.capacity_bytes for x in levels[: levels.index(level) + 1]))
    if shares is None:
        return None, LONG
    if abs(shares.value(sizes) - level.predicted_bytes) > most:
        return None, FAR
    return shares.formula(), SHARES
