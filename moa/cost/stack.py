"""What caches move of a sequence of visits: fully associative, the least recently used part evicted.

Conventions as in `moa.measure`: caches start empty; a store that misses reads; a part that a nearer cache writes back
is not read; at the end what is dirty is written back, nearest cache first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from moa.cost.visits import BACK, LOAD, Event, Visits


def moved_bytes(visits: Visits, capacities_bytes: Sequence[int]) -> tuple[int, ...]:
    """The bytes that cross beyond each cache, the nearest first, each seeing what the one before it lacks."""
    out = []
    events: Iterable[Event] = visits.events()
    for capacity in capacities_bytes:
        events, moved = through(events, visits.sizes_bytes, capacity)
        out.append(moved)
    return tuple(out)


def through(events: Iterable[Event], sizes: Sequence[int], capacity: int) -> tuple[list[Event], int]:
    """(what a cache asks of the next one, how many bytes that is)."""
    held: OrderedDict[int, bool] = OrderedDict()  # part: whether it is dirty; the least recently used first
    out: list[Event] = []
    used = moved = 0
    for p, kind in events:
        if p in held:
            held.move_to_end(p)
            if kind != LOAD:
                held[p] = True
            continue
        used += sizes[p]
        if kind != BACK:
            out.append((p, LOAD))
            moved += sizes[p]
        held[p] = kind != LOAD
        while used > capacity:
            q, dirty = held.popitem(last=False)
            used -= sizes[q]
            if dirty:
                out.append((q, BACK))
                moved += sizes[q]
    left = [(q, BACK) for q, dirty in held.items() if dirty]
    return out + left, moved + sum(sizes[q] for q, _ in left)
