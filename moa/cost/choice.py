"""Choosing by predicted time: what a kernel's tiles compute and move, in closed form over the lengths of its tiles.

A sketch is made once of the tiles for usual lengths, with names in place of these lengths, and is worth numbers for
any other ones. It knows less than a walk over the tiles (`moa.cost.predicted`): loops whose ends follow the rows are
as long as for the row in the middle, and of two ways through a round the longer one is taken. It is what may be asked
before each call; `moa cost --why` has the words and bytes of the walk beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import TypeVar

from moa.cost.sets import Sweep, sweep
from moa.domains.evaluate import value_of
from moa.loops import ELEMENT_BYTES
from moa.machine import Machine, Memory
from moa.naming import flops as scalar_flops
from moa.normal import Eq, Normal, Scalar, loads
from moa.ops import OPERATORS
from moa.poly import Atom, Poly, const, minimum, product, size
from moa.tiles import Loop, Map, Nest, Phase, Reduce, Sift, Tiles, TileStmt, When, every

ROWS, KEYS = "rows@", "keys@"  # of an item, and of a round, in polynomials
FUNCTIONS = frozenset(("exp", "exp2", "log", "sqrt", "tanh", "erf"))
NEAR = 1.05  # candidates that take so many times the least are as fast as it, as far as is known
ALIKE = 0.01  # of that time: what differs by less differs in nothing
ELEMENTS = {"float64": "f64", "float32": "f32", "bfloat16": "bf16", "float16": "f16"}
T = TypeVar("T")


def word_bytes(dtype: str) -> int:
    """Of an element of arrays."""
    return ELEMENT_BYTES[ELEMENTS[dtype]]


def through(machine: Machine, held: float, moved: float, threads: int) -> tuple[str, float]:
    """(the nearest memory that holds so many bytes for each thread, seconds in which it gives all threads `moved`)."""
    where = next(m for m in machine.levels if room(m, threads) >= held)
    return where.name, moved / (where.bytes_per_s / machine.threads * threads)


def room(m: Memory, threads: int) -> float:
    """The bytes that one of so many threads has of a memory."""
    if m.capacity_bytes is None:
        return float("inf")
    return m.capacity_bytes / threads if m.shared else m.capacity_bytes


# Sketches ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rounds:
    """What is done in one round of loops, or once an item where there are none.

    loops      (positions, how many a round has) of the loops around it, outermost first
    flops      operations, and `functions` of them that are FUNCTIONS, in all lanes
    touched    words of tiles that its statements load and store
    streamed   words of arrays
    """

    loops: tuple[tuple[Poly, Poly], ...]
    flops: Poly
    functions: Poly
    touched: Poly
    streamed: Poly


@dataclass(frozen=True, slots=True)
class Made:
    """A tile that work items make for themselves, of FUNCTIONS of arguments: it could be an array.

    elements   that it would have
    each       functions for one of them
    functions  evaluated in one round of loops, as in `Rounds`
    """

    name: str
    elements: Poly
    each: int
    loops: tuple[tuple[Poly, Poly], ...]
    functions: Poly


@dataclass(frozen=True, slots=True)
class Sketch:
    """One phase.

    items    without the axis of rows, of which there are `rows` (none: no axis is tiled)
    scratch  words of tiles in scratch
    even     all items have loops of the same lengths, so that lengths of tiles change no result
    made     what could be stored
    sweeps   what nests inside loops come back to
    """

    items: Poly
    rows: tuple[Poly, ...]
    rounds: tuple[Rounds, ...]
    scratch: Poly
    even: bool
    made: tuple[Made, ...]
    sweeps: tuple[Sweep, ...] = ()


@dataclass(frozen=True, slots=True)
class Outlook:
    """All phases, and the words of all arrays."""

    phases: tuple[Sketch, ...]
    words: Poly


def outlook(normal: Normal, tiles: Tiles, keys: int) -> Outlook:
    """The sketch of the tiles of a system; their rounds have `keys` positions."""
    found = (e for e in normal.equations if isinstance(e, Eq) and e.kind == "map" and len(e.pieces) == 1)
    maps = {e.name: product(x for _, x in e.outer) for e in found}
    words = const(0)
    for a in tiles.arrays:
        words = words + product(a.shape)
    return Outlook(tuple(sketch(tiles, p, keys, maps) for p in tiles.phases), words)


def sketch(tiles: Tiles, phase: Phase, keys: int, maps: Mapping[str, Poly]) -> Sketch:
    """What a phase does; `maps` are the equations that could be arrays, with their elements."""
    lengths = {}
    for a in phase.axes:
        names = {"item": size(ROWS) if a.step > 1 else const(1), "loop": size(KEYS) if a.step == keys else a.capacity}
        lengths[a.name] = names.get(a.role, a.capacity)
    row = next((a for a in phase.axes if a.role == "item" and a.step > 1), None)
    items = product(phase.axis(a).extent for a in phase.items if row is None or a != row.name)
    scratch = const(0)
    for t in phase.tiles:
        if t.space != "block":
            scratch = scratch + product(lengths[a] for a in t.axes)
    found: dict[tuple[tuple[Poly, Poly], ...], Rounds] = {}
    made: list[Made] = []
    sweeps: dict[Sweep, None] = {}
    for around, s in nests(phase, phase.body, lengths, ()):
        if around and (found_again := sweep(tiles, s, lengths)):
            sweeps[found_again] = None
        r = nest(tiles, s, lengths, around)
        found[around] = together(found[around], r) if around in found else r
        made += makes(tiles, phase, s, maps, lengths, around)
    ends = {v for s in every(phase.body) if isinstance(s, Loop) for p in (s.lo, s.hi) for v in p.vars()}
    tested = any(isinstance(s, When | Sift) or (isinstance(s, Nest) and s.bounds) for s in every(phase.body))
    rows = () if row is None else (row.extent,)
    even = not ends and not tested
    return Sketch(items, rows, tuple(found.values()), scratch, even, tuple(made), tuple(sweeps))


def together(a: Rounds, b: Rounds) -> Rounds:
    return Rounds(a.loops, a.flops + b.flops, a.functions + b.functions, a.touched + b.touched, a.streamed + b.streamed)


Around = tuple[tuple[Poly, Poly], ...]


def nests(
    phase: Phase, stmts: Sequence[TileStmt], lengths: Mapping[str, Poly], around: Around
) -> Iterator[tuple[Around, Nest]]:
    """The nests that one round of each loop goes through, with the loops around them."""
    for s in stmts:
        match s:
            case Nest():
                yield around, s
            case Loop():
                yield from nests(phase, s.body, lengths, (*around, (positions(phase, s), lengths[s.axis])))
            case When():
                yield from nests(phase, longer(s.body, s.other), lengths, around)
            case Sift():
                yield from nests(phase, longer(s.every, s.some), lengths, around)


def longer(a: Sequence[TileStmt], b: Sequence[TileStmt]) -> Sequence[TileStmt]:
    return a if sum(1 for _ in every(a)) >= sum(1 for _ in every(b)) else b


def positions(phase: Phase, s: Loop) -> Poly:
    """How many positions a loop goes through, for the row in the middle; all of them where data say it."""
    extent = phase.axis(s.axis).extent
    extents = {a.name: a.extent for a in phase.axes}

    def middle(a: Atom) -> Poly | None:
        if a.kind == "var":
            return extents[a.name.partition("@")[0]] // 2
        return extent if a.kind == "load" else None

    return minimum(s.hi.replace(middle) - s.lo.replace(middle), extent)


def nest(tiles: Tiles, s: Nest, lengths: Mapping[str, Poly], around: Around) -> Rounds:
    zero = const(0)
    out = Rounds(around, zero, zero, zero, zero)
    own = dict.fromkeys((*(a for a, _ in s.loops), *((s.lane,) if s.lane else ())))
    for x in s.statements:
        axes = dict.fromkeys((*own, *(x.over if isinstance(x, Reduce) else ())))
        points = product(lengths[a] for a in axes)
        flops = scalar_flops(x.value) + (joining(x.op) if isinstance(x, Reduce) else 0)
        touched, streamed = zero, zero
        for name, index in dict.fromkeys((*loads(x.value), *loads(x.target))):
            used = {v for p in index for v in p.vars()}
            words = product(n for v, n in lengths.items() if v in used)
            if tiles.array(name) is None:
                touched = touched + words
            else:
                streamed = streamed + words
        made = functions(x.value)
        out = together(out, Rounds(around, points * (flops - made), points * made, touched, streamed))
    return out


def joining(op: str) -> int:
    """Operations that take one more value into a reduction; that of pairs, or of positions, is no operator: one."""
    known = OPERATORS.get(op.removesuffix("_ref"))
    return 1 if known is None else known.flops


def makes(
    tiles: Tiles, phase: Phase, s: Nest, maps: Mapping[str, Poly], lengths: Mapping[str, Poly], around: Around
) -> Iterator[Made]:
    """The tiles that a nest makes of functions of arguments."""
    for x in s.statements:
        name, index = x.target.args
        read = dict.fromkeys(loads(x.value))
        plain = all((a := tiles.array(n)) is not None and a.role == "input" and a.kind == "f" for n, _ in read)
        each = functions(x.value)
        if isinstance(x, Map) and name in maps and read and plain and each and phase.tile(name):
            yield Made(name, maps[name], each, around, product(lengths[v] for p in index for v in p.vars()) * each)


def functions(s: Scalar) -> int:
    """How many of FUNCTIONS one evaluation has."""
    return (s.op in FUNCTIONS) + sum(functions(x) for x in s.operands)


# Times ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of tiles: rows of an item, positions of a round. `few`: lanes are along another axis than the rows."""

    rows: int
    keys: int
    few: bool = False


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds for what is waited for: (what, seconds). Each thread has its share of rates and bandwidths."""

    parts: tuple[tuple[str, float], ...]

    @property
    def longest_s(self) -> float:
        return max((t for _, t in self.parts), default=0.0)

    @property
    def all_s(self) -> float:
        return sum(t for _, t in self.parts)


def times_of(
    o: Outlook, lengths: Lengths, sizes: Mapping[str, int], threads: int, machine: Machine, dtype: str, long: int = 0
) -> Times:
    """What the busiest thread waits for with tiles of these lengths: operations, and bytes beyond each cache.

    long  positions that all loops go through, for one item among many, whatever the sizes are
    """
    found: dict[str, float] = {}
    at = {**sizes, ROWS: lengths.rows, KEYS: lengths.keys}
    word, scratch_word = word_bytes(dtype), max(word_bytes(dtype), 4)
    rate = machine.rate(dtype) / machine.threads
    all_bytes = float("inf") if long else word * value_of(o.words, at)
    few = machine.costs("few") if lengths.few else 1.0
    for s in o.phases:
        items = 1 if long else items_of(s, lengths, at)
        if not items:
            continue
        share = -(-items // threads)  # items of the busiest thread
        total = dict.fromkeys(PARTS, 0.0)
        held = scratch = scratch_word * value_of(s.scratch, at)
        for r in s.rounds:
            loops = tuple((const(long), step) for _, step in r.loops) if long else r.loops
            often, exact = rounds_of(loops, at)
            for k in PARTS:
                full, none = (value_of(getattr(r, k), {**at, KEYS: n}) for n in (lengths.keys, 0))
                total[k] += often * none + exact * (full - none)
                held += word * full * (2 if r.loops else 1) if k == "streamed" else 0
        streamed, touched = word * total["streamed"], scratch_word * total["touched"]
        flops = few * total["flops"] + machine.costs("function") * total["functions"]
        found["flops"] = found.get("flops", 0.0) + share * flops / rate
        for near, far in zip(machine.caches, machine.levels[1:], strict=True):
            capacity = room(near, min(threads, items))
            if capacity >= scratch + min(streamed, all_bytes):
                moved = min(items * streamed, all_bytes) / items
            else:
                moved = streamed if capacity >= held else streamed + touched
            found[far.name] = found.get(far.name, 0.0) + share * moved / (far.bytes_per_s / machine.threads)
    return Times(tuple(found.items()))


PARTS = ("flops", "functions", "touched", "streamed")


def items_of(s: Sketch, lengths: Lengths, at: Mapping[str, int]) -> int:
    tiles = -(-value_of(s.rows[0], at) // lengths.rows) if s.rows else 1
    return value_of(s.items, at) * tiles


def rounds_of(loops: Around, at: Mapping[str, int]) -> tuple[float, float]:
    """(rounds, positions over those of a whole round)."""
    counts = [max(value_of(n, at), 0) / max(value_of(step, at), 1) for n, step in loops]
    return prod(ceil(c) for c in counts), prod(counts)


def made_s(o: Outlook, lengths: Lengths, sizes: Mapping[str, int], machine: Machine, dtype: str) -> tuple[Times, Times]:
    """What one thread waits for where items make what could be stored, and where it is stored."""
    at = {**sizes, ROWS: lengths.rows, KEYS: lengths.keys}
    one = machine.costs("function") / (machine.rate(dtype) / machine.threads)
    again = once = moved = 0.0
    for s in o.phases:
        for x in s.made:
            again += items_of(s, lengths, at) * rounds_of(x.loops, at)[1] * value_of(x.functions, at)
    names = {x.name: x for s in o.phases for x in s.made}
    for x in names.values():
        elements = value_of(x.elements, at)
        once, moved = once + elements * x.each, moved + 3 * elements * word_bytes(dtype)
    where, seconds = through(machine, moved / 3, moved, 1)
    between = len(names) * machine.costs("phase") / (machine.rate(dtype) / machine.threads)
    return Times((("flops", again * one),)), Times((("flops", once * one), (where, seconds), ("phases", between)))


def best(candidates: Sequence[tuple[T, Times]]) -> T:
    """The candidate that takes least time.

    Of those about as fast as the fastest it is one that waits least for the farthest memory, of these one that waits
    least for the next one, and so on; the first of several that do.
    """
    least = min(t.longest_s for _, t in candidates)
    near = [(c, t) for c, t in candidates if t.longest_s <= NEAR * least]
    for what in reversed([w for w, _ in near[0][1].parts if w != "flops"]):
        fewest = min(dict(t.parts)[what] for _, t in near)
        near = [(c, t) for c, t in near if dict(t.parts)[what] <= fewest + ALIKE * least]
    return near[0][0]
