"""Time and memory of calls."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

ENOUGH_S, LONG_S = 0.5, 10.0
LEAST_RUNS, MOST_RUNS = 3, 101


def median_s(run: Callable[[], object], now: Callable[[str], None] = lambda text: None) -> tuple[float, int]:
    """(median time of a call, how many were timed); the first call is not among them."""
    run()
    times: list[float] = []
    while len(times) < LEAST_RUNS or (sum(times) < ENOUGH_S and len(times) < MOST_RUNS):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
        now(f"timing, {len(times)} calls")
        if sum(times) > LONG_S:
            break
    return statistics.median(times), len(times)


def peak_bytes(run: Callable[[], object]) -> tuple[int | None, str]:
    """(memory that a call added to what was resident before, at its peak; why it is not known)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
        before = status("VmRSS")
        run()
        return max(0, status("VmHWM") - before), ""
    except (OSError, KeyError) as e:
        run()
        return None, f"/proc tells nothing: {getattr(e, 'strerror', None) or 'no such line'}"


def status(name: str) -> int:
    """A line of /proc/self/status in bytes."""
    lines = dict(
        line.split(":", 1)
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    )
    return int(lines[name].split()[0]) * 1024
