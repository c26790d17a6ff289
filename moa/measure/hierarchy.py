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
        self.kept: list[Any] = []
        self.region_names, placed, owners, real = numbered(regions, self.names, line_bytes)
        self.lines = len(owners)
        self.owners, self.real = self.keep(owners), real
        self.full = self.chain(self.full_level)
        self.sets = self.chain(self.sets_level) if all(g.ways for g in levels) else []
        self.regions = [self.keep(placed.copy()) for _ in range(threads)]
        self.contexts = [self.context(t) for t in range(threads)]

    def keep(self, x: Any) -> Any:
        self.kept.append(x)
        return x

    def chain(self, make: Any) -> list[list[Words]]:
        """The records of each level: one for each thread, one in all at the last."""
        out: list[list[Words]] = []
        farther: list[Words] = []
        for k in reversed(range(len(self.levels))):
            shared = k == len(self.levels) - 1
            made = [
                make(self.levels[k], at(farther[0 if len(farther) == 1 else t]) if farther else 0)
                for t in range(1 if shared else self.threads)
            ]
            out.insert(0, made)
            farther = made
        return out

    def full_level(self, g: Geometry, farther: int) -> Words:
        n = self.lines
        following, previous = np.zeros(n + 1, np.int32), np.zeros(n + 1, np.int32)
        following[n] = previous[n] = n
        tables = [following, previous, np.zeros(n + 1, np.uint8), *self.counts()]
        words = [g.capacity_bytes // self.line_bytes, 0, *(at(self.keep(x)) for x in tables)]
        return record(FULL_WORDS, *words, farther, n, at(self.owners))

    def sets_level(self, g: Geometry, farther: int) -> Words:
        sets = g.sets(self.line_bytes)
        slots = sets * g.ways
        tables = [np.zeros(self.lines + 1, np.int32), np.zeros(slots, np.int32), np.zeros(slots, np.int64)]
        tables += [np.zeros(slots, np.uint8), *self.counts()]
        places = [at(self.keep(x)) for x in tables]
        set_of = self.keep((self.real % sets).astype(np.int32))
        return record(SETS_WORDS, g.ways, 0, *places, farther, at(self.owners), at(set_of), sets)

    def counts(self) -> list[Words]:
        return [np.zeros(len(self.names) + 1, np.int64) for _ in range(2)]

    def context(self, t: int) -> Words:
        full = self.full[0][min(t, len(self.full[0]) - 1)]
        sets = self.sets[0][min(t, len(self.sets[0]) - 1)] if self.sets else None
        table = self.regions[t]
        shift = self.line_bytes.bit_length() - 1
        nearest = 0 if sets is None else at(sets)
        return record(CONTEXT_WORDS, at(table), len(table), at(full), nearest, -1, 0, shift)

    # feeding

    def enter(self, thread: int) -> None:
        """From now on accesses are those of this thread."""
        self.contexts[thread][4] = -1
        self.native.enter(at(self.contexts[thread]))

    def replay(self, trace: Words) -> None:
        """Feeds accesses: rows of address, bytes, 1 for a store."""
        assert trace.dtype == np.int64 and trace.ndim == 2 and trace.shape[1] == 3 and trace.flags.c_contiguous
        self.native.replay(at(trace), len(trace))

    def flush(self) -> None:
        """Writes back what is dirty, nearest level first; the caches are empty afterwards."""
        for flush, levels in ((self.native.flush, self.full), (self.native.flush_sets, self.sets)):
            for records in levels:
                for r in records:
                    flush(at(r))
        for c in self.contexts:
            c[4] = -1

    # reading

    def moved(self) -> tuple[Moved, ...]:
        """What moved at each level of the fully associative caches, all threads together."""
        return tuple(self.total(records, 5) for records in self.full)

    def moved_by_sets(self) -> tuple[Moved, ...]:
        """The same of the set-associative caches; empty if there are none."""
        return tuple(self.total(records, 6) for records in self.sets)

    def total(self, records: list[Words], column: int) -> Moved:
        n = len(self.names)
        read, written = (np.sum([words_at(int(r[column + k]), n) for r in records], axis=0) for k in (0, 1))
        return Moved(read, written)

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


def words_at(address: int, count: int) -> Words:
    return (
        np.ctypeslib.as_array((ctypes.c_int64 * count).from_address(address)).copy() if count else np.zeros(0, np.int64)
    )
