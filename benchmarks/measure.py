"""Measuring on a machine that is shared: peers in turn, each sample between two probes of the machine's speed.

A sample counts as clean when the machine was at its full speed just before and just after it, and no thread had to wait
for a processor meanwhile. Clean samples only are summarised; peers that are compared take turns, so that what slows one
slows the others. One thread is timed by the processor time of the process, so that waiting does not count; several are
timed by the clock on the wall. The probe is a loop of independent fused multiply-adds, built by the project's own
backend: it needs no compiler, and its best rate is the ceiling that results are measured against.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from moa.backends.llvm import host
from moa.backends.llvm_build import build
from moa.backends.worker import run
from moa.loops import Carried, Const, Element, Fn, For, Loops, Name, Op, Stmt

DTYPES: dict[str, Element] = {"float32": "f32", "float64": "f64"}
CHAINS = 16  # independent accumulators: more than latency times throughput, and they fit the registers
PROBE_S = 0.25e-3
CLEAN = 0.9  # of the best rate seen
WAITED = 0.01  # of a sample's time
PAUSE_S = 4e-3  # before a sample: threads that an earlier peer left spinning go to sleep


def multiply_add_loops(dtype: Element, width: int) -> Loops:
    """Loops whose item runs `args[0]` rounds of CHAINS independent vector multiply-adds, and stores their sum."""
    count = 0

    def new(type_: Any) -> Name:
        nonlocal count
        count += 1
        return Name(count, type_)

    packed, first, last, workspace = (new(t) for t in "piip")
    rounds, item, index, total = new("i"), new("i"), new("i"), new("v")
    carried: list[Carried] = []
    inside: list[Stmt] = []
    for k in range(CHAINS):
        phi, following, result = new("v"), new("v"), new("v")
        inside.append(Op(following, "fma", (phi, Const(0.999999, "v"), Const(1e-6, "v"))))
        carried.append(Carried(phi, Const(float(k), "v"), following, result))
    chains = For(index, Const(0, "i"), rounds, Const(1, "i"), tuple(carried), tuple(inside))
    sums: list[Stmt] = []
    so_far: Name = carried[0].result
    for c in carried[1:]:
        total = new("v")
        sums.append(Op(total, "fadd", (so_far, c.result)))
        so_far = total
    keep = Op(None, "store", (workspace, Const(0, "i"), so_far), (dtype, True))
    items = For(item, first, last, Const(1, "i"), (), (chains, *sums, keep))
    body = (Op(rounds, "arg", (), (0,)), items)
    entry = Fn("peak", (packed, first, last, workspace), body)
    return Loops("f64" if dtype == "f64" else "f32", width, (entry,), ("peak",))


class Ceiling:
    """The multiply-add rate of the machine now, with so many threads."""

    def __init__(self, dtype: str, threads: int) -> None:
        element = DTYPES[dtype]
        width = host().width(element)
        self.built = build(multiply_add_loops(element, width))
        self.threads = threads
        self.clock = time.process_time if threads == 1 else time.perf_counter
        self.room = np.zeros(threads * 64 + 64, np.uint8)
        self.packed = (ctypes.c_int64 * 1)(1000)
        self.flops = 2.0 * CHAINS * width * threads
        self.rates: list[float] = []
        self.run()
        for _ in range(3):  # twice: the first run finds the frequency low
            taken = self.run()
            self.packed[0] = max(int(self.packed[0] * PROBE_S / taken), 100)

    def run(self) -> float:
        """The seconds that one probe takes."""
        base = -(-self.room.ctypes.data // 64) * 64
        start = self.clock()
        run(self.built.phases[0], ctypes.addressof(self.packed), self.threads, self.threads, base, 64, 1)
        return self.clock() - start

    def rate(self) -> float:
        """flop/s of one probe."""
        rate = self.flops * self.packed[0] / self.run()
        self.rates.append(rate)
        return rate

    @property
    def peak(self) -> float:
        """The best rate seen so far, but for two that a clock may have got wrong."""
        return sorted(self.rates)[-min(len(self.rates), 3)] if self.rates else 0.0


def waited_s() -> float:
    """Seconds that threads of this process have been ready and without a processor; 0 where the system does not say."""
    total = 0
    for task in Path("/proc/self/task").glob("*/schedstat"):
        try:
            total += int(task.read_text(encoding="ascii").split()[1])
        except (OSError, IndexError, ValueError):
            continue
    return total * 1e-9


def stolen() -> int:
    """Ticks that the host has taken from this machine so far; 0 where the system does not say."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
        return int(fields[8])
    except (OSError, IndexError, ValueError):
        return 0


@dataclass(slots=True)
class Sample:
    """seconds; the rates of the probes before and after, flop/s; seconds that threads waited for a processor.

    stolen      whether the host took a processor meanwhile
    """

    seconds: float
    before: float
    after: float
    waited_s: float
    stolen: bool

    def clean(self, peak: float) -> bool:
        calm = not self.stolen and self.waited_s <= WAITED * self.seconds
        return calm and min(self.before, self.after) >= CLEAN * peak


@dataclass(slots=True)
class Peer:
    """Something to measure: `run` does the work once; `check` gives the largest error of its last result."""

    name: str
    run: Callable[[], object]
    check: Callable[[], float] | None = None
    samples: list[Sample] = field(default_factory=list)
    error: float = float("nan")

    def seconds(self, peak: float) -> tuple[float, float, int]:
        """(median of the clean samples, best sample, number of clean ones); without clean ones, no median."""
        clean = [s.seconds for s in self.samples if s.clean(peak)]
        every = [s.seconds for s in self.samples]
        if not every:
            return float("nan"), float("nan"), 0
        return median(clean) if clean else float("nan"), min(every), len(clean)


def measure(
    peers: Sequence[Peer],
    ceiling: Ceiling,
    enough: int,
    limit_s: float,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Samples the peers in turn until each has `enough` clean samples, or for `limit_s` seconds.

    On KeyboardInterrupt the samples taken so far are in the peers.
    """
    for p in peers:
        for _ in range(2):
            p.run()
        if p.check is not None:
            p.error = p.check()
    began = time.perf_counter()
    turn = 0
    while time.perf_counter() - began < limit_s:
        counts = [p.seconds(ceiling.peak)[2] for p in peers]
        if min(counts) >= enough:
            break
        progress(", ".join(f"{p.name} {c}/{len(p.samples)}" for p, c in zip(peers, counts, strict=True)))
        for k in range(len(peers)):
            peers[(k + turn) % len(peers)].samples.append(sample(peers[(k + turn) % len(peers)].run, ceiling))
        turn += 1


def sample(work: Callable[[], object], ceiling: Ceiling) -> Sample:
    """One sample of the work, between two probes.

    The same work runs once before, untimed: an OpenMP peer's threads spin for a while after its call and take a core
    from whoever comes next, and parked workers have to wake.
    """
    time.sleep(PAUSE_S)
    taken = stolen()
    before = ceiling.rate()
    if ceiling.threads > 1:
        work()
    ready = waited_s()
    start = ceiling.clock()
    work()
    seconds = ceiling.clock() - start
    waited = waited_s() - ready if ceiling.threads > 1 else 0.0
    after = ceiling.rate()
    return Sample(seconds, before, after, waited, stolen() != taken)


def set_blas_threads(count: int) -> bool:
    """Whether NumPy's own OpenBLAS, if that is what it has, now uses `count` threads."""
    folder = Path(np.__file__).resolve().parent.parent / "numpy.libs"
    for path in sorted(folder.glob("*openblas*")):
        library = ctypes.CDLL(str(path))
        for name in ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_", "openblas_set_num_threads"):
            if hasattr(library, name):
                getattr(library, name)(ctypes.c_int(count))
                return True
    return False
