"""This machine, measured: its rates and the bandwidth of each of its memories.

Other work on the machine, or on its host, only makes things slower, for seconds at a time: a sample counts where the
rate of multiply-adds right before and after it was that of an undisturbed moment, and the median of those is taken.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moa.backends.llvm import host
from moa.backends.llvm_build import Built, emitted, load
from moa.backends.worker import run
from moa.ceilings import LINE_BYTES, Ceiling, has_bf16_dot, read_text
from moa.kernel import default_threads
from moa.machine import HERE, USUAL, Machine, Memory, keep_here, machine_of, processor
from moa.measure.here import caches_here

SHARED_FROM = 2  # caches beyond the two nearest are shared by all cores
UNDISTURBED = 0.9  # of the usual rate of multiply-adds
ENOUGH = 5  # undisturbed samples
PEAK_S, LEVEL_S, SAMPLE_S = 0.8, 1.5, 2e-3
STEP_BYTES = 8 * LINE_BYTES
MOST_SHARED_BYTES = 32 << 20
DRAM_PER_CACHE = 2  # bytes that are read from memory, per byte of the last cache
MOST_OF_FREE = 0.25

Now = Callable[[str], None]


@dataclass(slots=True)
class Sweep:
    """Reads so many bytes for each thread again and again."""

    thread_bytes: int
    threads: int
    rounds: int = 1
    built: Built = field(init=False)
    data: NDArray[np.uint8] = field(init=False)
    room: NDArray[np.uint8] = field(init=False)

    def __post_init__(self) -> None:
        self.thread_bytes = max(self.thread_bytes // STEP_BYTES, 1) * STEP_BYTES
        self.data = np.full(self.thread_bytes * self.threads + LINE_BYTES, 1, np.uint8)
        self.room = np.zeros((self.threads + 1) * LINE_BYTES, np.uint8)
        self.build()
        self()
        self.rounds = max(1, round(self.rounds * SAMPLE_S / min(self() for _ in range(3))))
        self.build()
        self()

    def build(self) -> None:
        target = host()
        text = read_text(target, self.thread_bytes, self.rounds)
        self.built = load(emitted(text, target), ("read",), target)

    def __call__(self) -> float:
        """The seconds that all rounds take."""
        base = -(-self.data.ctypes.data // LINE_BYTES) * LINE_BYTES
        room = -(-self.room.ctypes.data // LINE_BYTES) * LINE_BYTES
        packed = (ctypes.c_int64 * 2)(base, self.thread_bytes * self.threads)
        start = time.perf_counter()
        run(self.built.phases[0], ctypes.addressof(packed), self.threads, self.threads, room, LINE_BYTES, 1)
        return time.perf_counter() - start

    @property
    def bytes(self) -> int:
        return self.thread_bytes * self.threads * self.rounds


def probe(now: Now = lambda text: None, threads: int | None = None, keep: bool = True) -> Machine:
    """This machine with all its threads, kept for later commands."""
    count = default_threads() if threads is None else threads
    like = machine_of(USUAL)  # whose energies are taken
    dtypes = ["float64", "float32", *(["bfloat16"] if has_bf16_dot(host()) else [])]
    rates: dict[str, float] = {}
    for dtype in dtypes:
        now(f"measuring multiply-adds in {dtype}")
        rates[dtype] = peak(dtype, count)
    caches, line_bytes, described = caches_here()
    ceiling = Ceiling("float32", count)
    nearer = 0
    disturbed = False
    levels: list[Memory] = []
    for k, c in enumerate(caches):
        shared = k >= SHARED_FROM or (k == len(caches) - 1 and k > 0 and len(caches) == SHARED_FROM)
        now(f"measuring reads from L{k + 1}")
        each = c.capacity_bytes // 2
        if shared:
            each = max(min(c.capacity_bytes // 4, MOST_SHARED_BYTES) // count, 2 * nearer)
        rate, quiet = bandwidth(Sweep(each, count), ceiling)
        disturbed |= not quiet
        energy = like.levels[min(k, 2)].pj_per_byte
        levels.append(Memory(f"L{k + 1}", c.capacity_bytes, rate, energy, c.ways, shared))
        nearer = c.capacity_bytes
    now("measuring reads from memory")
    each = min(DRAM_PER_CACHE * nearer, int(MOST_OF_FREE * free_bytes())) // count
    rate, quiet = bandwidth(Sweep(each, count), ceiling)
    levels.append(Memory("DRAM", None, rate, like.levels[-1].pj_per_byte))
    noise = "; disturbed by other work: measure again" if disturbed or not quiet else ""
    energies = tuple((d, like.flop_pj(d)) for d in dtypes)
    source = f"measured; caches of {described}; energies as in docs/cost.md{noise}"
    flops = tuple(rates.items())
    found = Machine(HERE, processor(), count, line_bytes, flops, energies, tuple(levels), source)
    if keep:
        keep_here(found)
    return found


def peak(dtype: str, threads: int) -> float:
    """flop/s of multiply-adds: what one sample in twenty exceeds."""
    ceiling = Ceiling(dtype, threads)
    end = time.perf_counter() + PEAK_S
    while time.perf_counter() < end:
        ceiling.rate()
    return ceiling.peak


def bandwidth(sweep: Sweep, ceiling: Ceiling) -> tuple[float, bool]:
    """(bytes/s, whether there were enough undisturbed samples and only those count)."""
    every: list[float] = []
    clean: list[float] = []
    end = time.perf_counter() + LEVEL_S
    before = ceiling.rate()
    while time.perf_counter() < end or len(every) < ENOUGH:
        rate = sweep.bytes / sweep()
        after = ceiling.rate()
        every.append(rate)
        if min(before, after) >= UNDISTURBED * ceiling.usual:
            clean.append(rate)
        before = after
    enough = len(clean) >= ENOUGH
    return statistics.median(clean if enough else every), enough


def free_bytes() -> int:
    """Memory that is free, as far as the system tells."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 1 << 30
