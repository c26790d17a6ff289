"""Attention beside its peers, cell by cell, in one run on this machine.

    python -m benchmarks                                  every cell, every peer that is installed
    python -m benchmarks --cells 'decode*' --quick        some cells, few samples
    python -m benchmarks --cells '*f64*' --peers moa,probe,torch --probe FOLDER
    python -m benchmarks --show                           the table of what was measured before

The results of each cell are merged into one JSON file, so that a run can be done in parts. `moa` is the kernel; `best
peer` the fastest of the others; `value` what is reached of what is aimed at (`*`: not reached), `ceiling` the share of
the formula's own ceiling: its products and the instructions of its scores at the multiply-add rate of the same run, or
one read of keys and values beside it. Errors are the largest difference from float64. `clean` is the least number of
undisturbed samples of a peer; below three the median is of all samples. The last columns are times over that of `moa`,
which is the choice of the model alone: of the C backend, of tuned tiles, and of two kernels with the weights in memory.
"""

from __future__ import annotations

import argparse
import os
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":  # before NumPy is loaded; who imports this keeps its environment
    for fixed in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):  # BLAS chooses for this processor, as it would by itself
        os.environ.pop(fixed, None)
    os.environ["MOA_TUNED"] = "0"  # what was tuned on this machine before is not what the model chooses

from rich.console import Console  # noqa: E402
from rich.status import Status  # noqa: E402

from benchmarks.cells import Cell, cells, inputs_of, reference  # noqa: E402
from benchmarks.peers import MODULES, Absent, Options, found  # noqa: E402
from benchmarks.record import cell_record, machine, read_record, write_record  # noqa: E402
from benchmarks.report import HEAD, every_peer, line, markdown, plot  # noqa: E402
from benchmarks.sampling import Peer, measure  # noqa: E402
from moa.ceilings import Ceiling, Reader  # noqa: E402


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--cells", default="*", help="names, or patterns of names, of cells: 'full f32*,decode*'")
    p.add_argument("--list", action="store_true", help="print the names of the cells")
    p.add_argument("--peers", default=",".join(MODULES), help=f"of {','.join(MODULES)}")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--seconds", type=float, default=20.0, help="at most, for a cell, without its preparation")
    p.add_argument("--clean", type=int, default=9, help="undisturbed samples that are enough")
    p.add_argument("--quick", action="store_true", help="3 samples, 4 seconds a cell")
    p.add_argument("--compiled", action="store_true", help="also what torch.compile makes (minutes)")
    p.add_argument("--probe", type=Path, default=os.environ.get("MOA_PROBES"), help="folder of hand-written kernels")
    p.add_argument("--json", type=Path, default=ROOT / "build" / "bench" / "results.json")
    p.add_argument("--fresh", action="store_true", help="forget what the JSON file holds")
    p.add_argument("--show", action="store_true", help="measure nothing: print what the JSON file holds")
    p.add_argument("--markdown", action="store_true", help="with --show: as a table for a page")
    p.add_argument("--verbose", action="store_true", help="every peer of each cell")
    o = p.parse_args(arguments)
    if o.quick:
        o.seconds, o.clean = 4.0, 3
    unknown = set(o.peers.split(",")) - set(MODULES)
    if unknown:
        p.error(f"no peer {', '.join(sorted(unknown))}: choose of {', '.join(MODULES)}")
    o.wanted = [c for c in cells() if any(fnmatchcase(c.name, pattern.strip()) for pattern in o.cells.split(","))]
    if not o.wanted:
        p.error(f"no cell is called {o.cells}: --list prints the names")
    return o


def measured(cell: Cell, o: argparse.Namespace, status: Status) -> dict[str, Any]:
    """The record of a cell; after an interruption with what was measured until then."""
    status.update(f"{cell.name}: preparing")
    given = inputs_of(cell)
    wanted = reference(given)
    ceiling = Ceiling(cell.dtype, o.threads)
    reader = (
        Reader([given_bytes(given.k, cell), given_bytes(given.v, cell)], o.threads) if cell.bound_by_reading else None
    )
    peers: list[Peer] = [] if reader is None else [Peer("read", reader)]
    absent: dict[str, str] = {}
    left_out: dict[str, str] = {}
    chosen = Options(o.threads, o.probe and Path(o.probe), o.compiled)
    interrupted = False
    try:
        for peer in found(given, wanted, o.peers.split(","), chosen):
            if isinstance(peer, Absent):
                (absent if peer.everywhere else left_out)[peer.name] = peer.reason
            else:
                status.update(f"{cell.name}: {peer.name} is ready")
                peers.append(peer)
        measure(peers, ceiling, o.clean, o.seconds, lambda text: status.update(f"{cell.name}: {text}"))
    except KeyboardInterrupt:
        interrupted = True
    made = cell_record(cell, peers, ceiling, reader, o.threads)
    return made | {"absent": absent, "left_out": left_out, "interrupted": interrupted}


def given_bytes(x: Any, cell: Cell) -> Any:
    """The array as it lies in memory: bfloat16 takes half the bytes."""
    from benchmarks.peers.hand_probe import halves

    return halves(x) if cell.dtype == "bfloat16" else x


def main(arguments: list[str] | None = None) -> int:
    o = options(arguments)
    out, notes = Console(highlight=False, soft_wrap=True), Console(stderr=True, highlight=False)
    if o.list:
        out.print("\n".join(c.name for c in o.wanted), markup=False)
        return 0
    record = read_record(o.json) if not o.fresh or o.show else {"cells": {}}
    if o.show:
        show(o, record, out)
        return 0
    record["machine"] = machine()
    out.print(HEAD, markup=False)
    interrupted = False
    with notes.status("") as status:
        for cell in o.wanted:
            entry = measured(cell, o, status)
            if entry["peers"]:
                record["cells"][cell.name] = entry
                out.print(line(cell, record["cells"]), markup=False)
                if o.verbose:
                    out.print("\n".join(every_peer(entry)), markup=False)
                write_record(o.json, record)
            interrupted = entry["interrupted"]
            if interrupted:
                break
    finish(o, record, out)
    if interrupted:
        notes.print("interrupted: what was measured so far is above, and in the file")
    return 130 if interrupted else 0


def finish(o: argparse.Namespace, record: dict[str, Any], out: Console) -> None:
    """Prints who was absent, and where everything is; draws the picture."""
    reasons = {name: why for c in record["cells"].values() for name, why in c["absent"].items()}
    for name, why in sorted(reasons.items()):
        if not any(name in c["peers"] for c in record["cells"].values()):
            out.print(f"absent: {name}: {why}", markup=False)
    picture = o.json.with_suffix(".svg")
    missing = plot(picture, list(cells()), record["cells"], record["machine"]["processor"])
    out.print(missing or f"picture: {picture}", markup=False)
    out.print(f"record: {o.json}", markup=False)


def show(o: argparse.Namespace, record: dict[str, Any], out: Console) -> None:
    kept = [c for c in o.wanted if c.name in record["cells"]]
    if o.markdown:
        out.print(markdown(kept, record["cells"]), markup=False)
        return
    out.print(HEAD, markup=False)
    for cell in kept:
        out.print(line(cell, record["cells"]), markup=False)
        if o.verbose:
            out.print("\n".join(every_peer(record["cells"][cell.name])), markup=False)


if __name__ == "__main__":
    sys.exit(main())
