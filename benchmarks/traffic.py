"""Five kernels: what is predicted to move at two levels of cache, beside what simulated caches see.

    python -m benchmarks.traffic                 the table, in about a minute on one thread
    python -m benchmarks.traffic --markdown      the same for a page
    python -m benchmarks.traffic --svg OUT.svg   bytes over the size of one cache, with the bounds, and no table

Nothing here is timed, so a busy machine gives the same numbers. Predictions are of the variant that runs, for vectors
of this machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.curve import Curve, Series, drawn
from moa.cost import Level
from moa.cost.levels import levels_of, traffic_of
from moa.cost.predicted import Sized
from moa.cost.stack import moved_bytes
from moa.given import made
from moa.machine import Machine, Memory, bytes_text
from moa.measure.inputs import arguments, sizes_of
from moa.measure.measured import predicted
from moa.measure.simulated import simulate, variant_of

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
CACHES = ((32 << 10, 8), (1 << 20, 8))
MIB = 1 << 20
HEAD = ("kernel", "sizes", "cache", "compulsory", "predicted", "simulated", "off by", "conflicts", "what stays")
KERNELS: dict[str, Mapping[str, int]] = {
    "attention": {"n": 2048, "m": 2048, "dk": 64, "dv": 64},
    "causal": {"n": 2048, "dk": 64, "dv": 64},
    "window": {"n": 2048, "dk": 64, "dv": 64, "w": 512},
    "gqa": {"b": 1, "g": 2, "r": 4, "n": 512, "m": 2048, "dk": 64, "dv": 64},
    "linear": {"n": 2048, "dk": 64, "dv": 64},
}
DRAWN = ("attention", {"n": 1024, "m": 1024, "dk": 64, "dv": 64})
SMALLEST, LARGEST = 4 << 10, 4 << 20
LINE, POINTS = 96, 17  # capacities that are predicted, and simulated


@dataclass(frozen=True, slots=True)
class Line:
    """One kernel at one cache."""

    kernel: str
    sizes: str
    level: Level

    def words(self) -> tuple[str, ...]:
        x = self.level
        assert x.predicted_bytes is not None and x.measured_bytes and x.conflict_bytes is not None and x.off is not None
        amounts = (x.compulsory_bytes, x.predicted_bytes, x.measured_bytes)
        return (
            self.kernel,
            self.sizes,
            bytes_text(x.capacity_bytes),
            *(f"{a / MIB:.2f}" for a in amounts),
            f"{x.off:+.2%}",
            f"{x.conflict_bytes / x.measured_bytes:+.1%}",
            x.regime,
        )


def lines(kernels: Mapping[str, Mapping[str, int]], caches: Sequence[tuple[int, int]] = CACHES) -> Iterator[Line]:
    """Every kernel at every cache."""
    for name, sizes in kernels.items():
        kernel = made(str(EXAMPLES / f"{name}.moa"), None, "float32")
        values = arguments(kernel, (), sizes)
        found = simulate(kernel, values, [c for c, _ in caches], [w for _, w in caches])
        text = ", ".join(f"{k} {v}" for k, v in sizes.items() if k not in ("b", "dk", "dv"))
        for level in predicted(kernel, values, sizes_of(kernel, values), found, 64):
            yield Line(name, text, level)


def curve(name: str, sizes: Mapping[str, int], line: int = LINE, points: int = POINTS) -> Curve:
    """The bytes beyond one cache over its size: predicted, simulated and bounded."""
    kernel = made(str(EXAMPLES / f"{name}.moa"), None, "float32")
    values = arguments(kernel, (), sizes)
    at = sizes_of(kernel, values)
    placed = variant_of(kernel, values, 1)[1].placed
    traffic = traffic_of(placed.tiles, kernel._element, kernel._stored, placed.strategy.width)
    sized = Sized(traffic.tiles, traffic.dtype, traffic.each, traffic.width, at, close=False)  # else it takes minutes
    visits = sized.walked(True)
    fine, coarse = capacities(line), capacities(points)
    bounds = [levels_of(traffic, machine(c), dict(at))[0] for c in coarse]
    simulated = [simulate(kernel, values, [c]).levels[0].moved_bytes for c in coarse]
    given = ", ".join(f"{k} = {v}" for k, v in at)
    return Curve(
        f"{name} at {given}, float32: bytes beyond one cache",
        (
            Series("predicted", "line", tuple((c, moved_bytes(visits, (c,))[0]) for c in fine)),
            Series("simulated", "points", tuple(zip(coarse, simulated, strict=True))),
            Series("conjectured bound", "dashes", tuple((x.capacity_bytes, x.conjectured_bound_bytes) for x in bounds)),
            Series("certified bound", "dots", tuple((x.capacity_bytes, x.lower_bound_bytes) for x in bounds)),
        ),
    )


def capacities(count: int) -> list[int]:
    """So many capacities with the same ratio from one to the next, in whole lines."""
    ratio = (LARGEST / SMALLEST) ** (1 / (count - 1))
    return [round(SMALLEST * ratio**k / 64) * 64 for k in range(count)]


def machine(capacity: int) -> Machine:
    memories = (Memory("cache", capacity, 1.0, 0.0), Memory("memory", None, 1.0, 0.0))
    return Machine("one cache", "", 1, 64, (), (), memories)


def markdown(rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(r)} |" for r in (HEAD, ("---",) * len(HEAD), *rows))


def plain(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(r[k]) for r in (HEAD, *rows)) for k in range(len(HEAD))]
    return "\n".join("  ".join(f"{x:{w}}" for x, w in zip(r, widths, strict=True)).rstrip() for r in (HEAD, *rows))


def main(words: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--markdown", action="store_true", help="print the table for a page")
    options.add_argument("--svg", type=Path, metavar="OUT.svg", help="draw bytes over cache size instead")
    given = options.parse_args(words)
    if given.svg:
        given.svg.write_text(drawn(curve(*DRAWN)), encoding="utf-8")
        return 0
    with Console(stderr=True).status("simulating"):
        rows = [line.words() for line in lines(KERNELS)]
    print(markdown(rows) if given.markdown else plain(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
