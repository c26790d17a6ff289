"""All that is measured of a kernel, as one value that prints as a table."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moa.backends.llvm import host, print_llvm
from moa.backends.llvm_build import assembly
from moa.cost import Level
from moa.cost.levels import beside, levels_of, traffic_of
from moa.expand import expand
from moa.machine import Machine, Memory
from moa.markup import table
from moa.measure.counters import Counters, counted
from moa.measure.crowded import crowded
from moa.measure.here import caches_here
from moa.measure.hierarchy import Geometry
from moa.measure.inputs import arguments, sizes_of
from moa.measure.runs import median_s, peak_bytes
from moa.measure.simulated import Part, Simulated, SimulatedLevel, simulate, variant_of
from moa.measure.spills import Spills, spills

if TYPE_CHECKING:
    from moa.kernel import Kernel

HEAD = ("", "read", "written", "conflicts", "predicted", "off by")
Now = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a kernel moved in simulated caches, and what the machine says of it.

    predicted  for each cache, what the model says beside what was measured; () for several threads
    caches    where the description of the caches is from
    spills    vector instructions that use the stack: not among the accesses of `simulated`. None where not known
    peak_bytes   memory that a call added, or None for the `peak_reason`
    crowded      where conflicts are much: given arrays that have a part in them by their strides
    """

    name: str
    dtype: str
    sizes: tuple[tuple[str, int], ...]
    caches: str
    simulated: Simulated
    predicted: tuple[Level, ...]
    counters: Counters
    spills: Spills | None
    time_s: float
    timed_calls: int
    peak_bytes: int | None
    peak_reason: str
    crowded: tuple[str, ...] = ()

    @property
    def levels(self) -> Any:
        return self.simulated.levels

    @property
    def title(self) -> str:
        at = ", ".join(f"{k} = {v}" for k, v in self.sizes)
        count = f"{self.simulated.threads} thread{'s' * (self.simulated.threads > 1)}"
        return f"measured {self.name}{f' at {at}' if at else ''}: {self.dtype}, {self.simulated.form}, {count}"

    def moves(self) -> list[tuple[str, ...]]:
        """The bytes beyond each cache, in all and for each array, and what was predicted of all."""
        out: list[tuple[str, ...]] = []
        predicted = self.predicted or (None,) * len(self.simulated.levels)
        for level, model in zip(self.simulated.levels, predicted, strict=True):
            ways = f", {level.ways} ways" if level.ways else ""
            title = f"{size(level.capacity_bytes)}{ways}"
            out.append((title, *counts(level), *beside_texts(model)))
            out += [(f"  {p.name}", *counts(p), "", "") for p in level.arrays]
        return out

    def notes(self) -> list[tuple[str, str]]:
        """The other lines: what, and its value."""
        calls = (
            f"{self.simulated.accesses:,} loads and stores, lines of {self.simulated.line_bytes} bytes, empty caches"
        )
        out = [("simulated", f"{calls}; caches of {self.caches}")]
        out += [("conflicts", text) for text in self.crowded]
        if self.spills is not None:
            kept = f"{self.spills.stores} vector stores to the stack and {self.spills.loads} uses of it in the code"
            out.append(("spills", f"{kept}, not in the table"))
        out += [("counted", f"{value:,} {name}") for name, value in self.counters.values]
        reasons: dict[str, list[str]] = {}
        for name, reason in self.counters.missing:
            reasons.setdefault(reason, []).append(name)
        out += [("not counted", f"{', '.join(names)}: {reason}") for reason, names in reasons.items()]
        out.append(("time", f"{1e3 * self.time_s:.4g} ms, the median of {self.timed_calls} calls"))
        peak = self.peak_reason if self.peak_bytes is None else f"{self.peak_bytes:,} bytes more at the peak of a call"
        return [*out, ("memory", peak)]

    def __str__(self) -> str:
        rows = [("bytes beyond", *HEAD[1:]), *self.moves()]
        widths = [max(len(r[k]) for r in rows) for k in range(len(HEAD))]
        lines = [
            "  ".join([f"{r[0]:{widths[0]}}", *(f"{x:>{w}}" for x, w in zip(r[1:], widths[1:], strict=True))])
            for r in rows
        ]
        wide = max(len(what) for what, _ in self.notes())
        notes = [f"{what:{wide}}  {value}" for what, value in self.notes()]
        return "\n".join([self.title, *(f"  {line}".rstrip() for line in (*lines, *notes))])

    def _repr_html_(self) -> str:
        return table(self.title, ("bytes beyond", *HEAD[1:]), self.moves()) + table("", (), self.notes())


def counts(x: Part | SimulatedLevel) -> tuple[str, str, str]:
    """What is read, written, and moved by conflicts."""
    conflicts = "" if x.conflict_bytes is None else f"{x.conflict_bytes:,}"
    return f"{x.read_bytes:,}", f"{x.written_bytes:,}", conflicts


def beside_texts(level: Level | None) -> tuple[str, str]:
    """(what is predicted beyond a cache, how far that is from what was measured)."""
    if level is None or level.predicted_bytes is None:
        return "", ""
    off = level.off
    return f"{'at most ' * level.at_most}{level.predicted_bytes:,}", "" if off is None else f"{off:+.2%}"


def size(count: int) -> str:
    """Bytes as a person says them, where that is exact."""
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count:,} bytes"


def measure(
    kernel: Kernel,
    arrays: Sequence[Any],
    named: Mapping[str, Any],
    caches: Sequence[tuple[int, int]] | None = None,
    threads: int = 1,
    lead: Sequence[int] = (),
    seed: int = 0,
    now: Now = lambda text: None,
) -> Measured:
    """What a kernel moves on these arguments, or on random ones of these sizes.

    caches  (bytes, ways) from the nearest on; by default those of this machine
    now     is told what is being done
    Errors: MoaError as `simulate`
    """
    found, line_bytes, described = caches_here() if caches is None else (caches, 64, "given sizes")
    levels = [Geometry(*c) if isinstance(c, tuple) else c for c in found]
    ways = [g.ways for g in levels] if any(g.ways for g in levels) else None
    capacities = [g.capacity_bytes for g in levels]
    values = arguments(kernel, arrays, named, lead, seed)
    now("simulating")

    def progress(done: int, total: int) -> None:
        now(f"simulating, {done:,} of {total:,} items")

    simulated = simulate(kernel, values, capacities, ways, line_bytes, threads, progress)

    def run() -> object:
        return kernel(*values, threads=threads)

    now("timing")
    time_s, calls = median_s(run, now)
    now("counting")
    counters = counted(run)
    peak, reason = peak_bytes(run)
    sizes, kept = sizes_of(kernel, values), spilled(kernel, values, threads)
    now("predicting")
    model = predicted(kernel, values, sizes, simulated, line_bytes)
    by_strides = crowded(simulated.levels, {p.name: v for p, v in zip(kernel._parameters, values, strict=True)})
    about = kernel.name, kernel.dtype, sizes, described, simulated, model, counters, kept
    return Measured(*about, time_s, calls, peak, reason, by_strides)


def predicted(
    kernel: Kernel, values: list[Any], sizes: tuple[tuple[str, int], ...], simulated: Simulated, line_bytes: int
) -> tuple[Level, ...]:
    """What the model says of the variant that runs, for the caches that were simulated; () for several threads."""
    if simulated.threads > 1:
        return ()
    _, variant = variant_of(kernel, values, 1)
    placed = variant.placed
    caches = [Memory(f"L{k}", x.capacity_bytes, 1.0, 0.0) for k, x in enumerate(simulated.levels, 1)]
    machine = Machine("caches", "", 1, line_bytes, (), (), (*caches, Memory("memory", None, 1.0, 0.0)))
    traffic = traffic_of(placed.tiles, kernel._element, kernel._stored, placed.strategy.width)
    return beside(levels_of(traffic, machine, dict(sizes)), simulated.levels)


def spilled(kernel: Kernel, values: list[Any], threads: int) -> Spills | None:
    """The spills of the code that runs, where it is LLVM's for x86."""
    if kernel.backend != "llvm" or platform.machine() not in ("x86_64", "AMD64"):
        return None
    _, variant = variant_of(kernel, values, threads)
    target = host()
    return spills(assembly(print_llvm(expand(variant.placed.lowered.loops), target), target))
