"""Every example system beside the same function in PyTorch: lines, form, bytes, time, error.

    python -m benchmarks.systems                          every row; without torch, its columns say "absent"
    python -m benchmarks.systems --rows linear,Reformer   rows whose names hold one of these words
    python -m benchmarks.systems --show --markdown        the table of what was measured before

Rows are merged into one JSON file, so that a run can be done in parts. Peers take turns (see sampling.py); times are
medians, of the undisturbed samples where there are three. `ratio` is the time of PyTorch over that of the kernel:
above 1 the kernel is faster. Passes are those of the formula as written and as compiled; `form` is the one that ran:
sums exchanged, carried along the rows, in chunks of rows, or in parts that are merged.
Bytes are MiB of Kernel.cost at these sizes: what any kernel must move, and what the loops of this one do. Errors are
relative to the largest value, where that is above 1: to PyTorch in float32, and to PyTorch in float64.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import moa
from benchmarks.record import machine, read_record, write_record
from benchmarks.rows import ROWS, Given, Row, found
from benchmarks.sampling import Peer, measure
from moa.ceilings import Ceiling
from moa.oracle import bind
from moa.storage import numpy_dtype

ROOT = Path(__file__).resolve().parent.parent
MIB = 2**20
HEAD = (
    ("system", 33), ("n", 5), ("function", 36), ("lines", 5), ("passes", 6), ("compulsory", 10), ("predicted", 9),
    ("ms", 8), ("torch ms", 8), ("ratio", 6), ("compiled", 8), ("to torch", 8), ("to f64", 7), ("form", 0),
)  # fmt: skip
COMPILED = [name for name, _ in HEAD].index("compiled")
Report = Callable[[str], None]


def arrays(x: Any) -> tuple[Any, ...]:
    return x if isinstance(x, tuple) else (x,)


def error(got: tuple[Any, ...], want: tuple[Any, ...]) -> float:
    """The largest difference, relative to the largest value where that is above 1."""
    worst = 0.0
    for g, w in zip(got, want, strict=True):
        wide = np.asarray(w, np.float64)
        gap = np.abs(np.asarray(g, np.float64) - wide.reshape(g.shape))
        worst = max(worst, float(gap.max(initial=0)) / max(1.0, float(np.abs(wide).max(initial=0))))
    return worst


def peers_of(row: Row, given: Given, threads: int, compiled: bool) -> tuple[list[Peer], Callable[[], Any], str]:
    """PyTorch on these inputs; its results in float64; or why it is absent."""
    try:
        import torch

        from benchmarks import in_torch
    except ImportError as e:
        return [], tuple, f"{e.name or e} is not installed"
    torch.set_num_threads(threads)
    work = getattr(in_torch, row.peer)
    single = {k: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for k, x in given.items()}
    double = {k: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for k, x in single.items()}

    def run(f: Callable[..., Any], named: Given) -> Any:
        with torch.inference_mode():
            return f(**named)

    peers = [Peer("torch", partial(run, work, single))]
    if compiled:
        torch._dynamo.reset()
        peers.append(Peer("torch compiled", partial(run, torch.compile(work, dynamic=False), single)))
    return peers, partial(run, work, double), ""


def measured(row: Row, o: argparse.Namespace, progress: Report) -> dict[str, Any]:
    """The record of a row; after an interruption with what was measured until then."""
    progress("inputs")
    given = row.given(np.random.default_rng(0), row.n)
    progress("compiling")
    kernel = moa.compile(row.path, function=row.function, dtype="float32")
    got = arrays(kernel(**given, threads=o.threads))
    progress("PyTorch")
    theirs, in_float64, absent = peers_of(row, given, o.threads, o.compiled)
    errors = {}
    if theirs:
        errors = {"torch": error(got, arrays(theirs[0].run())), "float64": error(got, arrays(in_float64()))}
    progress("cost")
    entry = described(row, kernel, given) | {"errors": errors, "absent": absent, "threads": o.threads}
    peers = [Peer("moa", partial(kernel, **given, threads=o.threads)), *theirs]
    ceiling, interrupted = Ceiling("float32", o.threads), False
    try:
        measure(peers, ceiling, o.clean, o.seconds, progress, time.thread_time if o.processor else time.perf_counter)
    except KeyboardInterrupt:
        interrupted = True
    sampled = {p.name: p for p in peers if p.samples}
    times = {
        name: {"ms": 1e3 * p.median_s(ceiling.usual), "clean": len(p.clean(ceiling.usual)), "samples": len(p.samples)}
        for name, p in sampled.items()
    }
    return entry | {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "times": times,
        "processor": o.processor,
        "interrupted": interrupted,
    }


def described(row: Row, kernel: moa.Kernel, given: Given) -> dict[str, Any]:
    """What there is to say of the kernel that ran last, without time."""
    front = list(kernel._fronts.values())[-1]
    sizes = bind(front.program, given)
    known = {*kernel._names(), *front.program.sizes()}
    cost = kernel.cost(**{k: int(v) for k, v in (given | sizes).items() if k in known})
    size = numpy_dtype(kernel.dtype).itemsize
    return {
        "n": row.n,
        "function": f"{row.program}: {row.function}",
        "lines": row.lines(),
        "passes": kernel.passes,
        "form": list(kernel._variants.values())[-1].form,
        "compulsory_bytes": size * int(cost.number("compulsory_words")),
        "predicted_bytes": size * int(cost.number("streamed_words")),
    }


def cells(title: str, e: dict[str, Any]) -> tuple[str, ...]:
    """The texts of a line."""

    def ms(name: str) -> float | None:
        return e["times"][name]["ms"] if name in e["times"] else None

    def number(value: float | None, form: str, without: str = "-") -> str:
        return without if value is None else f"{value:{form}}"

    ours, theirs, absent = ms("moa"), ms("torch"), "absent" if e["absent"] else "-"
    ratio = theirs / ours if ours and theirs else None
    moved = (f"{e[f'{kind}_bytes'] / MIB:.1f}" for kind in ("compulsory", "predicted"))
    errors = (number(e["errors"].get(name), ".0e", absent) for name in ("torch", "float64"))
    return (
        title, str(e["n"]), e["function"], str(e["lines"]), "{} -> {}".format(*e["passes"]), *moved,
        number(ours, ".3f"), number(theirs, ".3f", absent), number(ratio, ".2f"),
        number(ms("torch compiled"), ".3f"), *errors, words_of(e["form"]),
    )  # fmt: skip


FORMS = {
    "open": "sums exchanged", "carry": "carried", "chunk": "in chunks", "in parts": "in parts",
    "products in": "products apart",
}  # fmt: skip


def words_of(form: str) -> str:
    """The name of a form without the names of its equations."""
    return ", ".join(next((w for k, w in FORMS.items() if part.startswith(k)), part) for part in form.split("; "))


def text(words: tuple[str, ...]) -> str:
    return " ".join(f"{w:{width}}" if width else w for w, (_, width) in zip(words, HEAD, strict=True)).rstrip()


def markdown(record: dict[str, Any], titles: list[str]) -> str:
    """A table for a page."""
    rows = [tuple(name for name, _ in HEAD), ("---",) * len(HEAD), *(cells(t, record["cells"][t]) for t in titles)]
    if all(r[COMPILED] == "-" for r in rows[2:]):
        rows = [r[:COMPILED] + r[COMPILED + 1 :] for r in rows]  # nobody asked for it
    return "\n".join(f"| {' | '.join(r)} |" for r in rows)


def options(arguments: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.systems", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--rows", default="", help="words of the names of systems: 'linear,Reformer'")
    p.add_argument("--list", action="store_true", help="print the names of the systems")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument(
        "--processor", action="store_true", help="one thread, and what it has of a processor: on busy machines"
    )
    p.add_argument("--clean", type=int, default=7, help="undisturbed samples that are enough")
    p.add_argument("--seconds", type=float, default=4.0, help="at most, for a row, without its preparation")
    p.add_argument("--compiled", action="store_true", help="also what torch.compile makes (minutes, a C++ compiler)")
    p.add_argument("--json", type=Path, default=ROOT / "build" / "bench" / "systems.json")
    p.add_argument("--fresh", action="store_true", help="forget what the JSON file holds")
    p.add_argument("--show", action="store_true", help="measure nothing: print what the JSON file holds")
    p.add_argument("--markdown", action="store_true", help="the table for a page")
    o = p.parse_args(arguments)
    o.threads = 1 if o.processor else o.threads
    o.wanted = list(found(o.rows))
    if not o.wanted:
        p.error(f"no system is called {o.rows}: --list prints the names")
    return o


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0, 130 after an interruption."""
    o = options(arguments)
    out, notes = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False)
    if o.list:
        out.print("\n".join(r.title for r in o.wanted), markup=False)
        return 0
    record = read_record(o.json) if o.show or not o.fresh else {"cells": {}}
    if not o.show:
        record["machine"] = machine()
    if not o.markdown:
        out.print(text(tuple(name for name, _ in HEAD)), markup=False)
    interrupted = False
    with notes.status("") as status:
        for k, row in enumerate(o.wanted if not o.show else []):
            title = f"{k + 1}/{len(o.wanted)} {row.title}"
            try:
                entry = measured(row, o, lambda what, title=title: status.update(f"{title}: {what}"))  # type: ignore[misc]
            except KeyboardInterrupt:
                interrupted = True
                break
            record["cells"][row.title] = entry
            write_record(o.json, record)
            if not o.markdown:
                out.print(text(cells(row.title, entry)), markup=False)
            interrupted = entry["interrupted"]
            if interrupted:
                break
    finish(o, record, out)
    if interrupted:
        notes.print("interrupted: what was measured so far is above, and in the file")
    return 130 if interrupted else 0


def finish(o: argparse.Namespace, record: dict[str, Any], out: Console) -> None:
    """Prints what is asked for beside the lines of a run: the table, who was absent, where the record is."""
    titles = [r.title for r in ROWS if r in o.wanted and r.title in record["cells"]]
    if o.markdown:
        out.print(markdown(record, titles), markup=False)
        return
    if o.show:
        for title in titles:
            out.print(text(cells(title, record["cells"][title])), markup=False)
    for reason in sorted({record["cells"][t]["absent"] for t in titles} - {""}):
        out.print(f"absent: torch: {reason}", markup=False)
    out.print(f"record: {o.json}", markup=False)


if __name__ == "__main__":
    sys.exit(main())
