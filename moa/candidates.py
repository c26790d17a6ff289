"""Candidates: the tiles a form may run in at given sizes, each with the time that is predicted, and the ones taken.

What is taken has neighbours, whose times the model does not tell apart from it: those are measured (`moa.tune`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from moa.cost.choice import KEYS, ROWS, Lengths, Outlook, Times, best, made_s, through, times_of, word_bytes
from moa.cost.sets import crowds
from moa.domains.evaluate import value_of
from moa.machine import Machine
from moa.oracle import evaluate
from moa.poly import Poly, size
from moa.tile import Strategy

HALVINGS = 2  # of the usual positions of a round that are looked at
TWELFTHS = (10, 8, 6)  # of them that are taken instead where they crowd the sets of the nearest cache
LONG = 64  # rounds for which the positions of a round are chosen
AHEAD_BYTES = 64 << 10  # of arrays in a round, where the next one is fetched meanwhile (docs/performance.md)
FEW_ITEMS = 8  # of the usual rows: for more of them other rows gain little, and new sizes should not compile again
Again = tuple[str, Poly, Poly, int]  # a sum that phases make: its name, its elements, their terms, how many phases


@dataclass(frozen=True, slots=True)
class Candidate:
    """Tiles, or arrays that are stored, and what is waited for with them.

    kind    "rows" of an item, "keys" (positions of a round, with times of one long item), or "stored"
    crowds  it would be taken, but for more in one set of the nearest cache than that holds
    """

    kind: str
    text: str
    chosen: bool
    times: Times
    strategy: Strategy
    crowds: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """At what sizes, on what machine, in which type a form is to run."""

    outlook: Outlook
    sizes: Mapping[str, int]
    threads: int
    machine: Machine
    dtype: str

    def times(self, s: Strategy, threads: int = 1, long: int = 0) -> Times:
        lengths = Lengths(s.rows, s.keys, not s.rows_in_lanes)
        return times_of(self.outlook, lengths, self.sizes, threads, self.machine, self.dtype, long)

    def crowds(self, s: Strategy) -> bool:
        """Whether a set of the nearest cache is too small for what nests come back to, as far as is known."""
        if not s.rows_in_lanes or s.pairs or not self.machine.caches:
            return False
        at, word = {**self.sizes, ROWS: s.rows, KEYS: s.keys}, word_bytes(self.dtype)
        return any(crowds(p.sweeps, at, self.machine.caches[0], word, max(word, 4)) for p in self.outlook.phases)


def tiles_at(
    setting: Setting, usual: Strategy, rows_there: int, made: Callable[[int], Strategy], sums: tuple[Again, ...]
) -> tuple[Strategy, tuple[Candidate, ...]]:
    """The strategy that takes least time, and all that were looked at.

    usual  for so many rows as there are; `made` gives the one for so many rows of an item
    sums   that several phases make and that might be stored
    """
    found: list[Candidate] = []
    stored = tuple(name for name, *_ in filter(lambda x: _sum(setting, x, found, usual), sums))
    strategy = replace(usual, stored=stored + _maps(setting, usual, found))
    if strategy.rows_in_lanes:
        strategy = _keys_taken(setting, strategy, found)
    phases = setting.outlook.phases
    among = _rows(strategy, rows_there, made) if any(s.rows for s in phases) else [strategy]
    if not strategy.rows_in_lanes:
        return _keys_taken(setting, _taken(setting, 1, "rows", among, found), found), tuple(found)
    alone = best([(s, setting.times(s)) for s in among])  # threads must not change results, as rounds do
    keys = spread(setting, alone, found, LONG * usual.keys).keys
    threads = setting.threads if all(s.even for s in phases) else 1
    taken = _taken(setting, threads, "rows", [replace(s, keys=keys) for s in among], found)
    return taken, tuple(found)


def spread(setting: Setting, strategy: Strategy, found: list[Candidate], long: int) -> Strategy:
    """The tiles, with rounds that are somewhat shorter where these crowd the sets of the nearest cache."""
    if not setting.crowds(strategy):
        return strategy
    width = strategy.width
    for other in (replace(strategy, keys=strategy.keys * n // 12 // width * width) for n in TWELFTHS):
        if not other.keys or setting.crowds(other):
            continue
        k = next(k for k, c in enumerate(found) if c.kind == "keys" and c.chosen)
        found[k] = replace(found[k], chosen=False, crowds=True)
        own = replace(found[k].strategy, keys=other.keys)
        found.insert(k + 1, Candidate("keys", _text("keys", own), True, setting.times(own, 1, long), own))
        return other
    return strategy


def _keys_taken(setting: Setting, strategy: Strategy, found: list[Candidate]) -> Strategy:
    long = LONG * strategy.keys  # new sizes should not compile again
    return _taken(setting, 1, "keys", _keys(setting, strategy), found, long)


def neighbours(s: Strategy) -> tuple[Strategy, ...]:
    """Tiles about as fast as these, as far as is known: half and twice the steps, fewer rows, other blocks."""

    def others() -> Iterator[Strategy]:
        for keys in (s.keys // 2, s.keys * 2):
            if keys and keys % s.width == 0:
                yield replace(s, keys=keys)
        if s.rows_in_lanes and s.rows > s.width and s.rows // 2 % s.width == 0:
            yield replace(s, rows=s.rows // 2, block=min(8, 2 * s.block))
        if s.rows_in_lanes and s.width > 1:
            yield replace(s, block=s.block + 2)
        elif s.width > 1:
            yield replace(s, rows=s.width * -(-s.rows // s.width))
        yield replace(s, map_block=2 * s.map_block if s.map_block < 4 else 2)

    return tuple(dict.fromkeys(x for x in others() if x != s))


def _taken(
    setting: Setting, threads: int, kind: str, among: list[Strategy], found: list[Candidate], long: int = 0
) -> Strategy:
    timed = [(s, setting.times(s, threads, long)) for s in among]
    taken = best(timed)
    found += [Candidate(kind, _text(kind, s), s == taken, t, s) for s, t in timed]
    return taken


def _text(kind: str, s: Strategy) -> str:
    n = s.rows if kind == "rows" else s.keys
    return f"{n} {'row' if kind == 'rows' else 'position'}{'s' * (n != 1)}"


def _rows(strategy: Strategy, rows_there: int, made: Callable[[int], Strategy]) -> list[Strategy]:
    """Fewer rows of an item than are usual, too; where they are fewer than lanes, in lanes or not."""
    width = strategy.width
    if rows_there > FEW_ITEMS * strategy.rows:
        return [strategy]
    fewer = [n * width for n in (4, 2, 1) if n * width <= max(strategy.rows, width)]
    few, there = rows_there < width or not strategy.rows_in_lanes, max(1, rows_there)
    numbers = [there, -(-there // width) * width] if few else fewer
    own = (made(n) for n in numbers)
    return [replace(strategy, rows=s.rows, block=s.block) for s in own]


def _keys(setting: Setting, strategy: Strategy) -> list[Strategy]:
    """Shorter rounds than are usual, too, where there are rounds; only those where few rows look ahead a long way."""
    steps = (step for s in setting.outlook.phases for r in s.rounds for _, step in r.loops)
    if size(KEYS) not in steps:
        return [strategy]
    width = strategy.width
    shorter = dict.fromkeys((strategy.keys >> k) // width * width for k in range(HALVINGS + 1))
    found = [replace(strategy, keys=n) for n in shorter if n]
    if strategy.rows_in_lanes or strategy.rows < 2:
        return found
    near = [s for s in found if _round_bytes(setting, s) <= AHEAD_BYTES]
    return near or found[-1:]


def _round_bytes(setting: Setting, s: Strategy) -> float:
    """The bytes of arrays in one round, of the phase that has most of them."""
    at = {**setting.sizes, ROWS: s.rows, KEYS: s.keys}
    of_phases = ([r for r in x.rounds if r.loops] for x in setting.outlook.phases)
    words = (sum(value_of(r.streamed, at) for r in rounds) for rounds in of_phases)
    return word_bytes(setting.dtype) * max(words, default=0.0)


def _sum(setting: Setting, x: Again, found: list[Candidate], usual: Strategy) -> bool:
    """Whether a sum that several phases make takes less time if it is made once."""
    name, elements, terms, phases = x
    m, n = setting.machine, evaluate(elements, setting.sizes)
    rate = m.rate(setting.dtype) / m.threads
    once = n * 2 * evaluate(terms, setting.sizes) / rate
    moved = (1 + phases) * n * word_bytes(setting.dtype)
    where, seconds = through(m, n * word_bytes(setting.dtype), moved, 1)
    stored = Times((("flops", once), (where, seconds), ("phases", m.costs("phase") / rate)))
    return _either(name, Times((("flops", phases * once),)), stored, found, usual)


def _maps(setting: Setting, usual: Strategy, found: list[Candidate]) -> tuple[str, ...]:
    """The functions of arguments that take less time if they are evaluated once: all of them or none.

    A product of two arrays has the same lanes as what it is for, one with a factor that is made beside it has not.
    """
    names = tuple(dict.fromkeys(x.name for s in setting.outlook.phases for x in s.made))
    if not names:
        return ()
    lengths = Lengths(usual.rows, usual.keys)
    again, stored = made_s(setting.outlook, lengths, setting.sizes, setting.machine, setting.dtype)
    return names if _either(", ".join(names), again, stored, found, usual) else ()


def _either(names: str, again: Times, stored: Times, found: list[Candidate], usual: Strategy) -> bool:
    once = stored.all_s < again.all_s
    found.append(Candidate("stored", f"{names} made again", not once, again, usual))
    found.append(Candidate("stored", f"{names} stored", once, stored, usual))
    return once
