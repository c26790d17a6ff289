"""The native caches against caches written in plain Python, on random traces."""

from __future__ import annotations

import random

import numpy as np
from caches_by_hand import Access, replayed
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.measure.hierarchy import Geometry, Hierarchy, Region, caches_alone

BASE = 1 << 40


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, list[Geometry], list[Region], int, list[tuple[int, Access]]]:
    """(line bytes, levels, regions, threads, accesses of threads)."""
    line = draw(st.sampled_from([8, 32, 64]))
    levels, least = [], 1
    for _ in range(draw(st.integers(1, 3))):
        ways = draw(st.integers(1, 4))
        sets = draw(st.integers(1, 5))
        while ways * sets < least:
            sets += 1
        least = ways * sets
        levels.append(Geometry(ways * sets * line, ways))
    regions, at = [], BASE + draw(st.integers(0, 3)) * 8
    for k in range(draw(st.integers(1, 4))):
        size = draw(st.integers(0, 12 * line))
        regions.append(Region("abc"[k % 3], at, size))
        at += size + draw(st.sampled_from([0, 4, line, 7 * line]))
    filled = [r for r in regions if r.size_bytes]
    threads = draw(st.integers(1, 3))
    rng = random.Random(draw(st.integers(0, 1 << 30)))
    accesses = []
    for _ in range(draw(st.integers(0, 200)) if filled else 0):
        r = rng.choice(filled)
        first = rng.randrange(r.size_bytes)
        size = rng.randrange(min(r.size_bytes - first, 3 * line) + 1)
        accesses.append((rng.randrange(threads), (r.address + first, size, rng.random() < 0.5)))
    return line, levels, regions, threads, accesses


@settings(max_examples=200, deadline=None)
@given(cases())
def test_caches_are_those_by_hand(
    case: tuple[int, list[Geometry], list[Region], int, list[tuple[int, Access]]],
) -> None:
    line, levels, regions, threads, accesses = case
    caches = Hierarchy(caches_alone(), regions, levels, line, threads)
    for t, access in accesses:
        caches.enter(t)
        caches.replay(np.array([access], np.int64))
    caches.flush()
    assert caches.strays() == 0
    owner = {}
    for r in sorted((r for r in regions if r.size_bytes), key=lambda r: r.address):
        for x in range(r.address // line, (r.address + r.size_bytes - 1) // line + 1):
            owner.setdefault(x, r.name)
    for by_sets, found in ((False, caches.moved()), (True, caches.moved_by_sets())):
        wanted = replayed(accesses, levels, line, threads, by_sets)
        for level, moved in zip(wanted, found, strict=True):
            for k, name in enumerate(caches.names):
                read = sum(n for c in level for x, n in c.read.items() if owner[x] == name)
                written = sum(n for c in level for x, n in c.written.items() if owner[x] == name)
                assert (read, written) == (moved.read[k], moved.written[k]), (by_sets, name)
    calls = caches.calls()
    assert sum(c.loads + c.stores for c in calls.values()) == sum(a[1] > 0 for _, a in accesses)
    assert sum(c.size_bytes for c in calls.values()) == sum(a[1] for _, a in accesses)
