"""Caches as plain Python: the meaning of `moa.measure.hierarchy`."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

from moa.measure.hierarchy import Geometry

Access = tuple[int, int, bool]  # address, bytes, whether it is a store


class Cache:
    """LRU sets of lines; one set is a fully associative cache."""

    def __init__(self, lines: int, sets: int, farther: Cache | None) -> None:
        self.ways, self.sets, self.farther = lines // sets, sets, farther
        self.held: list[OrderedDict[int, bool]] = [OrderedDict() for _ in range(sets)]
        self.read: Counter[int] = Counter()
        self.written: Counter[int] = Counter()

    def touch(self, line: int, kind: str) -> None:
        held = self.held[line % self.sets]
        dirty = kind != "load"
        if line in held:
            dirty = held.pop(line) or dirty
        else:
            if len(held) == self.ways:
                self.drop(held)
            if kind != "written back":
                self.read[line] += 1
                if self.farther is not None:
                    self.farther.touch(line, "load")
        held[line] = dirty

    def drop(self, held: OrderedDict[int, bool]) -> None:
        line, dirty = held.popitem(last=False)
        if dirty:
            self.written[line] += 1
            if self.farther is not None:
                self.farther.touch(line, "written back")

    def flush(self) -> None:
        for held in self.held:
            while held:
                self.drop(held)


def replayed(
    accesses: Iterable[tuple[int, Access]], levels: Sequence[Geometry], line_bytes: int, threads: int, by_sets: bool
) -> list[list[Cache]]:
    """The caches of each level, one for each thread but for the last, after accesses of (thread, access)."""

    def made(g: Geometry, farther: Cache | None) -> Cache:
        return Cache(g.capacity_bytes // line_bytes, g.sets(line_bytes) if by_sets else 1, farther)

    chains: list[list[Cache]] = [[made(levels[-1], None)]]
    for g in reversed(levels[:-1]):
        before = chains[0]
        chains.insert(0, [made(g, before[t % len(before)]) for t in range(threads)])
    for t, (address, size, store) in accesses:
        for line in range(address // line_bytes, (address + size - 1) // line_bytes + 1 if size else 0):
            chains[0][t % len(chains[0])].touch(line, "store" if store else "load")
    for level in chains:
        for cache in level:
            cache.flush()
    return chains
