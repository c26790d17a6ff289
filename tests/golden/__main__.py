"""Runs the example programs on files of results that other packages computed: python -m tests.golden FOLDER.

A line for each file: its name and system, the largest error beside its tolerance, and the outcome. Errors are relative
to the largest value expected, where that is above 1. Exit status: 0 if nothing fails, 1 if something does, 2 for a
mistake in what was given.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moa.text import MoaError, printable
from tests.golden import devices
from tests.golden.files import Array, Case, Foreign, Unusable, read
from tests.golden.systems import SYSTEMS, results

DTYPES = ("float64", "float32")
BACKENDS = ("llvm", "c", "cuda")
FAILED, MISTAKE = 1, 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one file: `state` is ok, FAIL or skipped; `error` and `tolerance` of the worst of its outputs."""

    name: str
    system: str
    state: str
    error: float | None = None
    tolerance: float | None = None
    reason: str = ""

    def __str__(self) -> str:
        measured = "" if self.error is None else f"{self.error:.1e} of {self.tolerance:.1e}"
        return f"{self.name:36} {self.system:22} {measured:20} {self.state}{self.reason and ': '}{self.reason}"

    def keys(self) -> dict[str, Any]:
        """For JSON: an error that is not finite is a string."""
        finite = self.error is None or np.isfinite(self.error)
        return asdict(self) | ({} if finite else {"error": str(self.error)})


def difference(got: Array, want: Array) -> float:
    """The largest difference, relative to the largest value expected where that is above 1; inf where one is NaN."""
    if got.size != want.size:
        raise Unusable(f"shape {list(got.shape)}, expected {list(want.shape)}")
    with np.errstate(invalid="ignore"):
        gaps = np.where(got.reshape(want.shape) == want, 0, np.abs(got.reshape(want.shape) - want))
    worst = float(gaps.max(initial=0))
    return worst / max(1.0, float(np.abs(want).max(initial=0))) if np.isfinite(worst) else np.inf


def measured(case: Case, dtype: str, backend: str) -> Iterator[tuple[float, float]]:
    """Error and tolerance of each output."""
    least = float(np.finfo(dtype).eps / np.finfo("float64").eps) * 1e-12
    for call in SYSTEMS[case.system](case):
        for name, got in zip(call.outputs, results(call, dtype, backend), strict=True):
            if name:
                want, tolerance = case.expected(name)
                yield difference(got, want), max(tolerance, least)


def outcome(path: Path, dtype: str = "float64", backend: str = "llvm") -> Outcome:
    """Runs one file."""
    name, system = printable(path.name), "-"
    try:
        case = read(path)
        system = printable(case.system)
        if case.system not in SYSTEMS:
            raise Foreign("there is no program for this system")
        error, tolerance = max(measured(case, dtype, backend), key=lambda pair: pair[0] / pair[1])
    except Foreign as e:
        return Outcome(name, system, "skipped", reason=printable(str(e)))
    except (Unusable, MoaError) as e:
        return Outcome(name, system, "FAIL", reason=printable(str(e).split("\n")[0]))
    except (ValueError, IndexError) as e:
        return Outcome(name, system, "FAIL", reason=f"arrays of other shapes than the system has: {printable(str(e))}")
    except AssertionError as e:  # a mistake of ours: the other files are still of interest
        return Outcome(name, system, "FAIL", reason=f"the compiler failed: {printable(str(e))}")
    return Outcome(name, system, "ok" if error <= tolerance else "FAIL", error, tolerance)


def main(words: Sequence[str] | None = None) -> int:
    """The exit status of the command."""
    parser = argparse.ArgumentParser("python -m tests.golden", description="Example programs against outside results.")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a folder of .npz files")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0])
    parser.add_argument("--backend", choices=BACKENDS, default=BACKENDS[0])
    parser.add_argument("--json", action="store_true", help="print one JSON array, an object a file")
    given = parser.parse_args(words)
    paths = sorted(given.folder.glob("*.npz"))
    if not paths:
        print(f"no .npz file in {printable(str(given.folder))}", file=sys.stderr)
        return MISTAKE
    try:
        if given.backend == "cuda":
            devices.memory()
    except MoaError as e:
        print(e, file=sys.stderr)
        return MISTAKE
    found = []
    for path in paths:
        found.append(outcome(path, given.dtype, given.backend))
        if not given.json:
            print(found[-1], flush=True)
    if given.json:
        print(json.dumps([o.keys() for o in found], indent=1))
    return FAILED if any(o.state == "FAIL" for o in found) else 0


if __name__ == "__main__":
    sys.exit(main())
