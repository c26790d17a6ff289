"""What is chosen by predicted time, beside what the candidates take: the order of the two should agree.

    python -m benchmarks.choice                the table, in about half a minute
    python -m benchmarks.choice --markdown     the same for a page

Candidates of one line run in turns, and the median of their turns counts. Other work on the machine slows both.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

from moa.explain.why import Candidate, of_other
from moa.given import made
from moa.kernel import Kernel
from moa.machine import machine_in_use
from moa.measure.inputs import arguments

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
MAPS = "def mapped(Q[n, dk], K[m, dk], V[m, dv]):\n    return softmax(tanh(Q) @ tanh(K).T) @ V\n"
PROJECTED = "def projected(Q[n, dk], K[m, dk], V[m, dv], E[r, m]):\n    return softmax(Q @ (E @ K).T) @ (E @ V)\n"
HEADS = {"dk": 64, "dv": 64}
SEPARATE = 1.3  # predictions further apart than this are expected in the order of what is measured
TURNS, TURN_S = 7, 0.02
CASES: tuple[tuple[str, str, int, Mapping[str, int]], ...] = (
    ("attention", "rows", 1, {"n": 96, "m": 1024, **HEADS}),
    ("attention", "rows", 2, {"n": 64, "m": 1024, **HEADS}),
    ("attention", "keys", 1, {"n": 256, "m": 1536, "dk": 512, "dv": 512}),
    ("attention", "form", 2, {"n": 1, "m": 16384, **HEADS}),
    ("attention", "form", 2, {"n": 64, "m": 4096, **HEADS}),
    ("linear", "form", 1, {"n": 4096, **HEADS}),
    ("linear", "form", 1, {"n": 200, **HEADS}),
    (PROJECTED, "form", 1, {"n": 512, "m": 512, "r": 16, **HEADS}),
    (PROJECTED, "form", 1, {"n": 32, "m": 32, "r": 512, **HEADS}),
    (MAPS, "stored", 1, {"n": 1024, "m": 1024, **HEADS}),
    (MAPS, "stored", 1, {"n": 8, "m": 1024, **HEADS}),
)


@dataclass(frozen=True, slots=True)
class Line:
    """One candidate: its predicted and its measured time."""

    kernel: str
    sizes: str
    name: str
    chosen: bool
    predicted_s: float
    measured_s: float


def kernel_of(program: str) -> Kernel:
    import moa

    if "\n" in program:
        return moa.compile(program, dtype="float32")
    return made(str(EXAMPLES / f"{program}.moa"), None, "float32")


def call_of(program: str, sizes: Mapping[str, int], threads: int, kind: str, c: Candidate) -> Callable[[], Any]:
    """A call that runs one candidate, compiled."""
    k = kernel_of(program)
    values = arguments(k, (), dict(sizes))
    forms = k._front(0).forms
    form = next(f for f in forms if f.name == (c.name if kind == "form" else k.form_at(sizes, threads)))
    own, among = k.tiles_at(form.name, sizes, 0, threads, machine_in_use())
    if kind != "form" and not c.chosen:
        own = of_other(own, next(x for x in among if (x.kind, x.text) == (kind, c.name)))
    with (
        mock.patch("moa.kernel.chosen", lambda *a, **kw: form),
        mock.patch.object(k, "strategy_at", lambda *a, **kw: own),
    ):
        k(*values, threads=threads)
    return lambda: k(*values, threads=threads)


def measured(calls: Sequence[Callable[[], Any]]) -> list[float]:
    """The median seconds of each call, in turns."""
    turns: list[list[float]] = [[] for _ in calls]
    often = []
    for f in calls:
        begun = time.perf_counter()
        f()
        often.append(max(1, min(200, int(TURN_S / (time.perf_counter() - begun)))))
    for _ in range(TURNS):
        for f, n, found in zip(calls, often, turns, strict=True):
            begun = time.perf_counter()
            for _ in range(n):
                f()
            found.append((time.perf_counter() - begun) / n)
    return [median(t) for t in turns]


def lines() -> Iterator[list[Line]]:
    """The candidates of each case."""
    for program, kind, threads, sizes in CASES:
        k = kernel_of(program)
        found = [c for c in k.why(threads=threads, **sizes).candidates if c.kind == kind]
        calls = [call_of(program, sizes, threads, kind, c) for c in found]
        at = ", ".join(f"{a} {n}" for a, n in sizes.items()) + f", {threads} thread{'s' * (threads > 1)}"
        times = measured(calls)
        yield [Line(k.name, at, c.name, c.chosen, c.time_s, t) for c, t in zip(found, times, strict=True)]


def verdict(group: Sequence[Line]) -> str:
    """Whether candidates that are predicted far apart come out in that order."""
    wrong = 0
    for a in group:
        for b in group:
            if b.predicted_s > SEPARATE * a.predicted_s and b.measured_s < a.measured_s:
                wrong += 1
    return "in order" if not wrong else f"{wrong} not in order"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--markdown", action="store_true")
    markdown = parser.parse_args().markdown
    if markdown:
        print("| kernel | sizes | candidate | predicted | measured |\n|---|---|---|---:|---:|")
    for group in lines():
        for x in group:
            row = (
                f"{'*' if x.chosen else ' '} {x.name}",
                f"{x.predicted_s * 1e6:,.0f} us",
                f"{x.measured_s * 1e6:,.0f} us",
            )
            if markdown:
                print("| " + " | ".join((x.kernel, x.sizes, *row)) + " |")
            else:
                print(f"{x.kernel:12} {x.sizes:44} {row[0]:44} {row[1]:>12} {row[2]:>12}", flush=True)
        if not markdown:
            print(f"{'':12} {verdict(group)}", flush=True)


if __name__ == "__main__":
    main()
