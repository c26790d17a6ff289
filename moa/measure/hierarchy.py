"""A hierarchy of caches in native code, fed with the addresses that are really touched.

Conventions: caches start empty; a store that misses reads its line; a line that a nearer cache writes back is whole and
is not read; at the end dirty lines are written back, nearest level first, through every level. Where several threads
share the work, each has caches of its own but for the last level, which all share.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moa.backends.llvm import host
from moa.backends.llvm_build import Built, emitted, load
from moa.measure.caches_text import CONTEXT_WORDS, ENTRIES, FULL_WORDS, REGION_WORDS, SETS_WORDS, print_caches
from moa.text import MoaError

Words = NDArray[np.int64]
HELD_DIRTY, NO_LINE, LAST_LINE = 3, -1, 4  # a state, a line, the word of a context that holds the last one
MOST_LEVELS, MOST_REGIONS, MOST_THREADS = 8, 255, 64


@dataclass(frozen=True, slots=True)
class Native:
    """Code that ends in the entries of `print_caches`."""

    built: Built
    enter: Callable[[int], None]
    replay: Callable[[int, int], None]
    flush: Callable[[int], None]
    flush_sets: Callable[[int], None]


def native(built: Built) -> Native:
    word = ctypes.c_int64
    kinds = ((word,), (word, word), (word,), (word,))
    found = built.phases[-len(ENTRIES) :]
    made: list[Any] = [ctypes.CFUNCTYPE(None, *k)(a) for k, a in zip(kinds, found, strict=True)]
    return Native(built, *made)


@cache
def caches_alone() -> Native:
    """The caches without a kernel, for traces in memory."""
    target = host()
    text = print_caches(target)
    return native(load(emitted(text, target), ENTRIES, target, text))


@dataclass(frozen=True, slots=True)
class Region:
    """Memory whose lines belong to the array `name`."""

    name: str
    address: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Geometry:
    """A cache. `ways` is the associativity of the replay beside the fully associative one; 0: there is none."""

    capacity_bytes: int
    ways: int = 0

    def sets(self, line_bytes: int) -> int:
        return self.capacity_bytes // line_bytes // self.ways if self.ways else 1


@dataclass(frozen=True, slots=True)
class Moved:
    """Lines that moved between a level and the next farther one, for each array."""

    read: Words
    written: Words


@dataclass(frozen=True, slots=True)
class Calls:
    """Loads and stores of an array that were called, and the bytes of both."""

    loads: int
    stores: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Cache:
    """One cache: its record for the native code, what that points to, and the lines it counted for each array."""

    record: Words
    reads: Words
    writes: Words
    dirty: Callable[[], Words]  # the lines it holds that are to be written
    kept: tuple[Any, ...]


class Hierarchy:
    """Caches over some regions. `enter` makes the code of `native` feed those of one thread."""

    def __init__(
        self,
        native: Native,
        regions: Sequence[Region],
        levels: Sequence[Geometry],
        line_bytes: int = 64,
        threads: int = 1,
    ) -> None:
        """Errors: MoaError of kind "argument" for caches that do not exist"""
        checked(levels, line_bytes, threads)
        assert len(regions) <= MOST_REGIONS, f"{len(regions)} regions"
        self.native, self.names = native, list(dict.fromkeys(r.name for r in regions))
        self.line_bytes, self.threads, self.levels = line_bytes, threads, tuple(levels)
        self.region_names, placed, self.owners, self.real = numbered(regions, self.names, line_bytes)
        self.full = self.chain(self.full_cache)
        self.sets = self.chain(self.cache_of_sets) if all(g.ways for g in levels) else []
        self.regions = [placed.copy() for _ in range(threads)]
        self.contexts = [self.context(t) for t in range(threads)]

    def chain(self, make: Callable[[Geometry, int], Cache]) -> list[list[Cache]]:
        """The caches of each level: one for each thread, one in all at the last."""
        out = [[make(self.levels[-1], 0)]]
        for g in reversed(self.levels[:-1]):
            farther = out[0]
            out.insert(0, [make(g, at(farther[t % len(farther)].record)) for t in range(self.threads)])
        return out

    def full_cache(self, g: Geometry, farther: int) -> Cache:
        n, reads, writes = len(self.owners), *self.counts()
        following, previous, states = np.zeros(n + 1, np.int32), np.zeros(n + 1, np.int32), np.zeros(n, np.uint8)
        following[n] = previous[n] = n
        tables = (following, previous, states, reads, writes)
        capacity = g.capacity_bytes // self.line_bytes
        words = record(FULL_WORDS, capacity, 0, *map(at, tables), farther, n, at(self.owners))
        return Cache(words, reads, writes, lambda: np.flatnonzero(states == HELD_DIRTY), tables)

    def cache_of_sets(self, g: Geometry, farther: int) -> Cache:
        sets, reads, writes = g.sets(self.line_bytes), *self.counts()
        slots = sets * g.ways
        slot_of, set_of = np.zeros(len(self.owners), np.int32), (self.real % sets).astype(np.int32)
        tags, ages, marks = np.zeros(slots, np.int32), np.zeros(slots, np.int64), np.zeros(slots, np.uint8)
        tables = (slot_of, tags, ages, marks, reads, writes)
        words = record(SETS_WORDS, g.ways, 0, *map(at, tables), farther, at(self.owners), at(set_of), sets)
        return Cache(words, reads, writes, lambda: tags[marks != 0].astype(np.int64) - 1, (*tables, set_of))

    def counts(self) -> tuple[Words, Words]:
        return np.zeros(len(self.names), np.int64), np.zeros(len(self.names), np.int64)

    def context(self, t: int) -> Words:
        full, *sets = (at(chain[0][t % len(chain[0])].record) for chain in (self.full, self.sets) if chain)
        table, shift = self.regions[t], self.line_bytes.bit_length() - 1
        return record(CONTEXT_WORDS, at(table), len(table), full, sets[0] if sets else 0, NO_LINE, 0, shift)

    # feeding

    def enter(self, thread: int) -> None:
        """From now on accesses are those of this thread."""
        self.contexts[thread][LAST_LINE] = NO_LINE
        self.native.enter(at(self.contexts[thread]))

    def replay(self, trace: Words) -> None:
        """Feeds accesses: rows of address, bytes, 1 for a store."""
        assert trace.dtype == np.int64 and trace.ndim == 2 and trace.shape[1] == 3 and trace.flags.c_contiguous
        self.native.replay(at(trace), len(trace))

    def flush(self) -> None:
        """Writes back what is dirty, nearest level first. Nothing may be fed afterwards."""
        for flush, levels in ((self.native.flush, self.full), (self.native.flush_sets, self.sets)):
            for c in (c for level in levels[:-1] for c in level):
                flush(at(c.record))
            for c in (c for level in levels[-1:] for c in level):
                c.writes[:] += np.bincount(self.owners[c.dirty()], minlength=len(self.names))

    # reading

    def moved(self) -> tuple[Moved, ...]:
        """What moved at each level of the fully associative caches, all threads together."""
        return tuple(map(total, self.full))

    def moved_by_sets(self) -> tuple[Moved, ...]:
        """The same of the set-associative caches; empty if there are none."""
        return tuple(map(total, self.sets))

    def calls(self) -> dict[str, Calls]:
        """What was called for each array, all threads together."""
        out = dict.fromkeys(self.names, Calls(0, 0, 0))
        for row, name in zip(np.sum(self.regions, axis=0), self.region_names, strict=True):
            c = out[name]
            out[name] = Calls(c.loads + int(row[3]), c.stores + int(row[4]), c.size_bytes + int(row[5]))
        return out

    def strays(self) -> int:
        """Accesses outside all regions."""
        return sum(int(c[5]) for c in self.contexts)


def numbered(
    regions: Sequence[Region], names: Sequence[str], line_bytes: int
) -> tuple[list[str], Words, NDArray[np.uint8], Words]:
    """(names in the order of the table, table of regions, owner of each line, its real number).

    Lines are numbered from 0 without gaps between regions; two regions that share a line share its number.
    """
    order = sorted((r for r in regions if r.size_bytes > 0), key=lambda r: (r.address, r.size_bytes))
    table = np.zeros((len(order), REGION_WORDS), np.int64)
    owners: list[NDArray[np.uint8]] = []
    real: list[Words] = []
    count, done = 0, -1  # lines numbered so far, and the last real one of them
    for k, r in enumerate(order):
        first, last = r.address // line_bytes, (r.address + r.size_bytes - 1) // line_bytes
        start = max(first, done + 1)
        delta = count - start
        new = max(last - start + 1, 0)
        table[k, :3] = r.address, r.address + r.size_bytes, delta
        owners.append(np.full(new, names.index(r.name), np.uint8))
        real.append(np.arange(start, start + new, dtype=np.int64))
        count, done = count + new, max(done, last)
    none = np.zeros(0, np.int64)
    return (
        [r.name for r in order],
        table,
        np.concatenate([*owners, none.astype(np.uint8)]),
        np.concatenate([*real, none]),
    )


def checked(levels: Sequence[Geometry], line_bytes: int, threads: int) -> None:
    def wrong(text: str, hint: str) -> MoaError:
        return MoaError("argument", text, None, hint)

    if line_bytes < 8 or line_bytes & (line_bytes - 1):
        raise wrong(f"a line of {line_bytes} bytes", "lines are powers of two from 8 bytes on, mostly 64")
    if not 1 <= len(levels) <= MOST_LEVELS:
        raise wrong(f"{len(levels)} caches", f"give 1 to {MOST_LEVELS} capacities, nearest first")
    if not 1 <= threads <= MOST_THREADS:
        raise wrong(f"threads is {threads}", f"use 1 to {MOST_THREADS}")
    for g in levels:
        if g.capacity_bytes < line_bytes or g.capacity_bytes % line_bytes:
            text = f"a cache of {g.capacity_bytes} bytes with lines of {line_bytes}"
            raise wrong(text, "a cache holds one line or more, and only whole ones")
        if g.ways < 0 or (g.ways and (g.capacity_bytes // line_bytes) % g.ways):
            text = f"a cache of {g.capacity_bytes // line_bytes} lines in {g.ways} ways"
            raise wrong(text, "each set holds as many lines as there are ways: give a divisor, or 0 for no replay")
    for a, b in pairwise(levels):
        if a.capacity_bytes > b.capacity_bytes:
            text = f"a cache of {a.capacity_bytes} bytes is nearer than one of {b.capacity_bytes}"
            raise wrong(text, "order capacities from the nearest, smallest cache on")
    if len({bool(g.ways) for g in levels}) > 1:
        raise wrong("ways for some caches only", "give the ways of every level, or of none")


def at(array: Any) -> int:
    address: int = array.__array_interface__["data"][0]
    return address


def record(words: int, *values: int) -> Words:
    assert len(values) == words, f"{len(values)} values in a record of {words}"
    return np.array(values, np.int64)


def total(level: Sequence[Cache]) -> Moved:
    return Moved(np.sum([c.reads for c in level], axis=0), np.sum([c.writes for c in level], axis=0))
