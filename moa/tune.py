"""Tuning: the few best choices of tiles are measured in turn, and the fastest is kept for later calls.

The model's own choice is the first candidate. Another one wins only where it is faster by more than noise; what won is
kept beside the cache for this machine, this program and sizes of the same class. `MOA_TUNED=0` leaves it unused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from moa.candidates import neighbours
from moa.measure.inputs import arguments, sizes_of
from moa.text import MoaError
from moa.tile import Strategy

if TYPE_CHECKING:
    from moa.kernel import Kernel

CLEARLY = 0.98  # of the model's time: a candidate that takes more of it has not won
SAMPLE_S = 1e-3  # a call is repeated until a sample takes this long
LEAST_SAMPLES = 3  # of each candidate that can win
Now = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate that was measured: its tiles, the median time of a call, and of how many samples."""

    strategy: Strategy
    time_s: float
    samples: int

    def __str__(self) -> str:
        s = self.strategy
        where = "in lanes" if s.rows_in_lanes else "in blocks"
        return f"{s.rows} rows {where}, {s.keys} steps, blocks of {s.block} and {s.map_block}"


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was measured. The first candidate is the model's choice; `chosen` is the number of the one that is used."""

    name: str
    dtype: str
    sizes: tuple[tuple[str, int], ...]
    threads: int
    candidates: tuple[Trial, ...]
    chosen: int
    interrupted: bool

    @property
    def gain(self) -> float:
        """How many times as fast as the model's choice the one is that is used."""
        return self.candidates[0].time_s / self.candidates[self.chosen].time_s

    def __str__(self) -> str:
        at = ", ".join(f"{k} = {v}" for k, v in self.sizes)
        count = f"{self.threads} thread{'s' * (self.threads > 1)}"
        lines = [f"tuned {self.name}{f' at {at}' if at else ''}: {self.dtype}, {count}"]
        wide = max(len(str(c)) for c in self.candidates)
        for k, c in enumerate(self.candidates):
            notes = ["the model's choice"] * (k == 0) + ["used from now on"] * (k == self.chosen)
            lines.append(f"  {c!s:{wide}}  {1e3 * c.time_s:9.4g} ms  {', '.join(notes)}".rstrip())
        if self.interrupted:
            lines.append("  interrupted: fewer samples than were asked for")
        return "\n".join(lines)


def tune(
    kernel: Kernel,
    arrays: Sequence[Any] = (),
    named: Mapping[str, Any] | None = None,
    threads: int | None = None,
    lead: Sequence[int] = (),
    seed: int = 0,
    limit_s: float = 5.0,
    keep: bool = True,
    now: Now = lambda text: None,
) -> Tuned:
    """Measures the candidates for a call in turn, and makes the fastest what later calls of its class use.

    An interruption ends the measuring; what was measured until then decides, if it is enough.

    keep  on the disk too, for other processes
    Errors: MoaError of kind "argument"; of kind "support" for kernels of devices
    """
    if kernel.backend == "cuda":
        raise MoaError("support", "kernels for devices are not tuned", None, "tune those for processors")
    if not limit_s > 0:
        raise MoaError("argument", f"{limit_s} seconds are no time to measure in", None, "give more than 0")
    values = arguments(kernel, arrays, named or {}, lead, seed)
    model = kernel._choice(values, threads)
    runs = []
    wanted = (model, *neighbours(model))
    for k, s in enumerate(wanted):
        now(f"compiling {k + 1} of {len(wanted)}")
        call = kernel._call_by(values, threads, s)
        runs.append(partial(call.run, values))
    samples, interrupted = sampled(runs, limit_s, now)
    found = tuple(
        Trial(s, median(taken) if taken else float("nan"), len(taken)) for s, taken in zip(wanted, samples, strict=True)
    )
    enough = [k for k, c in enumerate(found) if c.samples >= LEAST_SAMPLES]
    best = min(enough, key=lambda k: found[k].time_s, default=0)
    chosen = best if 0 in enough and found[best].time_s < CLEARLY * found[0].time_s else 0
    if 0 in enough:
        kernel._keep_choice(values, threads, found[chosen].strategy, keep)
    sizes = sizes_of(kernel, values)
    return Tuned(kernel.name, kernel.dtype, sizes, call.threads, found, chosen, interrupted)


def sampled(runs: Sequence[Callable[[], object]], limit_s: float, now: Now) -> tuple[list[list[float]], bool]:
    """(seconds of a call in each sample of each, whether it was interrupted); they take turns."""
    samples: list[list[float]] = [[] for _ in runs]
    repeats = []
    try:
        for run in runs:
            run()
            begin = time.perf_counter()
            run()
            repeats.append(max(1, int(SAMPLE_S / max(time.perf_counter() - begin, 1e-7))))
        began, turn = time.perf_counter(), 0
        while turn < LEAST_SAMPLES or time.perf_counter() - began < limit_s:
            now(f"timing, {turn} rounds of {len(runs)} candidates")
            for k in range(len(runs)):
                at = (k + turn) % len(runs)
                runs[at]()
                begin = time.perf_counter()
                for _ in range(repeats[at]):
                    runs[at]()
                samples[at].append((time.perf_counter() - begin) / repeats[at])
            turn += 1
    except KeyboardInterrupt:
        return samples, True
    return samples, False
