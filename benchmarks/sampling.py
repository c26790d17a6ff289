"""Measuring on a machine that is shared: peers in turn, each sample between two probes of the machine's speed.

A sample counts as clean when the machine was at its usual full speed just before and just after it, and the host took
no processor meanwhile. The median of the clean samples is the result; peers take turns, so that what slows one slows
the others. The same work runs before each sample, untimed, so that its own threads are awake; and nothing is timed
while threads of an earlier peer still spin. Work that takes a fraction of a millisecond is repeated within a sample.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from moa.ceilings import Ceiling

Clock = Callable[[], float]
CLEAN = 0.9  # of the usual rate
WARM_S = 10e-3  # of untimed calls before a sample: with less, pools that sleep have one thread in some samples
STEP_S = 5e-3  # longer than a tick: what a thread on another processor has used is counted at ticks
CALM = 0.1  # of a step: a process that uses less of a processor than this has no thread left spinning
MOST_STEPS = 80
SAMPLE_S = 1e-3  # work is repeated until a sample takes this long
MOST_REPEATS = 200


@dataclass(slots=True)
class Sample:
    """seconds of one run; the rates of the probes before and after, flop/s; whether the host took a processor."""

    seconds: float
    before: float
    after: float
    stolen: bool

    def clean(self, usual: float) -> bool:
        return not self.stolen and min(self.before, self.after) >= CLEAN * usual


@dataclass(slots=True)
class Peer:
    """Something to measure: `run` does the work once; `error` is that of its result, against float64."""

    name: str
    run: Callable[[], object]
    error: float = float("nan")
    repeats: int = 1
    samples: list[Sample] = field(default_factory=list)

    def clean(self, usual: float) -> list[float]:
        return [s.seconds for s in self.samples if s.clean(usual)]

    def median_s(self, usual: float) -> float:
        """The median of the clean samples; of all of them where fewer than three are clean."""
        clean = self.clean(usual)
        seconds = clean if len(clean) >= 3 else [s.seconds for s in self.samples]
        return median(seconds) if seconds else float("nan")

    @property
    def best_s(self) -> float:
        return min((s.seconds for s in self.samples), default=float("nan"))


def stolen() -> int:
    """Ticks that the host has taken from this machine so far; 0 where the system does not say."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
        return int(fields[8])
    except (OSError, IndexError, ValueError):
        return 0


def warmed(peer: Peer) -> None:
    """Runs the peer, and decides how often a sample repeats its work."""
    peer.run()
    start = time.perf_counter()
    peer.run()
    taken = time.perf_counter() - start
    peer.repeats = max(1, min(MOST_REPEATS, int(SAMPLE_S / max(taken, 1e-7))))


def settle() -> None:
    """Waits until no thread of the process spins any more: pools do for 5 to 120 ms after a call."""
    for _ in range(MOST_STEPS):
        used = time.process_time()
        time.sleep(STEP_S)
        if time.process_time() - used < CALM * STEP_S:
            return


def sampled(peer: Peer, ceiling: Ceiling, clock: Clock = time.perf_counter) -> Sample:
    """One sample of the peer by a clock, between two probes."""
    settle()
    taken = stolen()
    before = ceiling.rate()
    start = time.perf_counter()
    peer.run()
    while time.perf_counter() - start < WARM_S:
        peer.run()
    start = clock()
    for _ in range(peer.repeats):
        peer.run()
    seconds = (clock() - start) / peer.repeats
    settle()
    return Sample(seconds, before, ceiling.rate(), stolen() != taken)


def measure(
    peers: Sequence[Peer],
    ceiling: Ceiling,
    enough: int,
    limit_s: float,
    progress: Callable[[str], None],
    clock: Clock = time.perf_counter,
) -> None:
    """Samples the peers in turn until each has `enough` clean samples, or for `limit_s` seconds but once at least.

    On KeyboardInterrupt the samples taken so far are in the peers.
    """
    for p in peers:
        warmed(p)
    began, turn = time.perf_counter(), 0
    while turn == 0 or time.perf_counter() - began < limit_s:
        counts = [len(p.clean(ceiling.usual)) for p in peers]
        if min(counts) >= enough:
            break
        progress(", ".join(f"{p.name} {c}/{len(p.samples)}" for p, c in zip(peers, counts, strict=True)))
        for k in range(len(peers)):
            peer = peers[(k + turn) % len(peers)]
            peer.samples.append(sampled(peer, ceiling, clock))
        turn += 1
