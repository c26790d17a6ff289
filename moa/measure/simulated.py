"""What caches would see of a kernel: its instructions run with a call beside each load and store."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from moa.backends.llvm import host, print_llvm
from moa.backends.llvm_build import emitted, load, names
from moa.call import JOB_WORDS, PAGE, Call
from moa.expand import expand
from moa.measure.caches_text import ENTRIES, print_caches
from moa.measure.hierarchy import Calls, Geometry, Hierarchy, Moved, Native, Region, Words, checked, native
from moa.measure.inputs import arguments
from moa.text import MoaError

if TYPE_CHECKING:
    from moa.kernel import Kernel, Variant

SLICE_S = 0.05  # between two looks at whether to stop, where items are short
SCRATCH = "scratch"

Progress = Callable[[int, int], None]  # items done, items in all


@dataclass(frozen=True, slots=True)
class Part:
    """What moved of one array, in bytes; conflict_bytes as in `SimulatedLevel`."""

    name: str
    read_bytes: int
    written_bytes: int
    conflict_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class SimulatedLevel:
    """What moved between a cache and the next farther one.

    read_bytes, written_bytes  of fully associative LRU caches; `arrays` is the same by array
    conflict_bytes             what a set-associative cache of `ways` would move beyond that; None without a replay
    """

    capacity_bytes: int
    ways: int
    read_bytes: int
    written_bytes: int
    conflict_bytes: int | None
    arrays: tuple[Part, ...]

    @property
    def moved_bytes(self) -> int:
        return self.read_bytes + self.written_bytes


@dataclass(frozen=True, slots=True)
class Simulated:
    """Levels from the nearest on; `calls` tells for each array how often it was loaded and stored.

    accesses  loads and stores of all arrays, scratch and workspace included; spills of registers are not among them
    """

    levels: tuple[SimulatedLevel, ...]
    calls: tuple[tuple[str, Calls], ...]
    line_bytes: int
    threads: int
    form: str
    wall_s: float

    @property
    def accesses(self) -> int:
        return sum(c.loads + c.stores for _, c in self.calls)


def simulate(
    kernel: Kernel,
    given: Mapping[str, Any] | Sequence[Any],
    capacities_bytes: Sequence[int],
    ways: Sequence[int] | None = None,
    line_bytes: int = 64,
    threads: int = 1,
    progress: Progress | None = None,
) -> Simulated:
    """What moves through caches of these capacities, nearest first, when the kernel runs; its results are dropped.

    Work item k of a phase is done by thread k modulo `threads`, one after the other; each thread has caches of its own
    but for the last, which all share. Given arrays are where they are, all else begins at pages, one after the other.
    An interrupt stops it between two items.

    given  the arguments in order, or by name; sizes by name in place of arrays, which are random then
    ways   the associativity of each level in a replay beside, whose excess is `conflict_bytes`
    Errors: MoaError of kind "argument", and of kind "support" on a backend that does not run here
    """
    if ways is not None and len(ways) != len(capacities_bytes):
        text = f"{len(capacities_bytes)} capacities and {len(ways)} ways"
        raise MoaError("argument", text, None, "give the ways of each cache")
    levels = [Geometry(c, w) for c, w in zip(capacities_bytes, ways or [0] * len(capacities_bytes), strict=True)]
    checked(levels, line_bytes, threads)
    if kernel.backend == "cuda":
        hint = "python benchmarks/gpu_traffic.py runs it under Nsight Compute and reads its counters"
        raise MoaError("support", "the caches of a GPU are not simulated", None, hint)
    begin = time.perf_counter()
    read = arguments(kernel, () if isinstance(given, Mapping) else given, given if isinstance(given, Mapping) else {})
    call, variant = variant_of(kernel, read, threads)
    arena, regions = placed(call, variant, read, threads)
    caches = Hierarchy(traced(variant), regions, levels, line_bytes, threads)
    entries = caches.native.built.phases
    packed = arena.packed.__array_interface__["data"][0]
    counts = items_of(call)
    total = sum(counts)
    done = 0
    for entry, items in zip(entries, counts, strict=False):
        run: Any = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(entry)
        at, step = 0, 1
        while at < items:
            thread = at % threads
            some = min(step, items - at) if threads == 1 else 1
            caches.enter(thread)
            started = time.perf_counter()
            run(packed, at, at + some, arena.scratch + thread * call.scratch_bytes)
            step = min(2 * step, 1 << 20) if time.perf_counter() - started < SLICE_S / 2 else max(step // 2, 1)
            at += some
            if progress is not None:
                progress(done + at, total)
        done += items
    caches.flush()
    assert not caches.strays(), f"{caches.strays()} accesses of {kernel.name} are outside its arrays"
    return told(caches, variant, time.perf_counter() - begin)


def variant_of(kernel: Kernel, values: list[Any], threads: int) -> tuple[Call, Variant]:
    """The plan of a call, and the instance that it runs."""
    call = kernel._call(values, threads)
    return call, next(v for v in kernel._variants.values() if v.built is call.keep)


def packed_of(call: Call) -> Words:
    """The argument block of the entries, addresses being 0."""
    return np.frombuffer(call.template, np.int64)[call.phases * JOB_WORDS :]


def items_of(call: Call) -> list[int]:
    """How many work items each phase has."""
    jobs = np.frombuffer(call.template, np.int64)[: call.phases * JOB_WORDS].reshape(call.phases, JOB_WORDS)
    return [int(n) for n in jobs[:, 2]]


def placed(call: Call, variant: Variant, values: list[Any], threads: int) -> tuple[Arena, list[Region]]:
    """Memory for a call, and where every array of it is."""
    sizes = [int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize for _, shape, dtype in call.made]
    sizes.append(call.scratch_bytes * threads)
    starts = np.cumsum([0, *(-(-s // PAGE) * PAGE for s in sizes)])
    memory = np.zeros(int(starts[-1]) + PAGE, np.uint8)
    first = -(-memory.__array_interface__["data"][0] // PAGE) * PAGE
    packed = packed_of(call).copy()
    regions = []
    slots = variant.packing.slots
    for word, k, _ in call.inputs:
        array, slot = values[k], word - call.phases * JOB_WORDS
        packed[slot] = array.__array_interface__["data"][0]
        low, high = np.lib.array_utils.byte_bounds(array) if array.size else (int(packed[slot]),) * 2
        regions.append(Region(slots[slot].name, low, high - low))
    for (word, _, _), start, size in zip(call.made, starts, sizes, strict=False):
        slot = word - call.phases * JOB_WORDS
        packed[slot] = first + int(start)
        regions.append(Region(slots[slot].name, first + int(start), size))
    scratch = first + int(starts[len(call.made)])
    regions.append(Region(SCRATCH, scratch, sizes[-1]))
    return Arena(memory, packed, scratch), regions


@dataclass(frozen=True, slots=True)
class Arena:
    """Memory for all that a call makes. `packed` is the argument block of the entries, `scratch` an address."""

    memory: np.ndarray[Any, Any]
    packed: np.ndarray[Any, Any]
    scratch: int


def traced(variant: Variant) -> Native:
    """The code of a variant with calls beside its loads and stores, and the caches behind them."""
    target = host()
    loops = expand(variant.placed.lowered.loops)
    text = print_llvm(loops, target, traced=True)
    entries = (*names(len(loops.phases)), *ENTRIES)
    return native(load(emitted(text, target, print_caches(target)), entries, target, text))


def told(caches: Hierarchy, variant: Variant, wall_s: float) -> Simulated:
    """What the caches counted."""
    line = caches.line_bytes
    by_sets = caches.moved_by_sets() or (None,) * len(caches.levels)
    levels = []
    for g, full, sets in zip(caches.levels, caches.moved(), by_sets, strict=True):
        arrays = tuple(part(name, k, full, sets, line) for k, name in enumerate(caches.names))
        read, written = (sum(getattr(p, f"{way}_bytes") for p in arrays) for way in ("read", "written"))
        beyond = None if sets is None else sum(p.conflict_bytes or 0 for p in arrays)
        levels.append(SimulatedLevel(g.capacity_bytes, g.ways, read, written, beyond, arrays))
    calls = tuple(caches.calls().items())
    return Simulated(tuple(levels), calls, line, caches.threads, variant.form, wall_s)


def part(name: str, k: int, full: Moved, sets: Moved | None, line_bytes: int) -> Part:
    """What moved of array k."""
    read, written = int(full.read[k]) * line_bytes, int(full.written[k]) * line_bytes
    by_sets = None if sets is None else int(sets.read[k] + sets.written[k]) * line_bytes
    return Part(name, read, written, None if by_sets is None else by_sets - read - written)
