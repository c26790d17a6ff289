"""Counters of the processor, where the system lets a process read them: perf_event_open of Linux."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SYSTEM_CALLS = {"x86_64": 298, "aarch64": 241, "riscv64": 241}
HARDWARE, CACHES = 0, 3
READ_MISS, WRITE_MISS = 1 << 16, 1 << 16 | 1 << 8
EVENTS = {
    "cycles": (HARDWARE, 0),
    "instructions": (HARDWARE, 1),
    "L1D read misses": (CACHES, READ_MISS),
    "LLC read misses": (CACHES, 2 | READ_MISS),
    "LLC write misses": (CACHES, 2 | WRITE_MISS),
}
"""What is counted: kind and number of the event in linux/perf_event.h."""

REASONS = {
    errno.ENOENT: "this processor, or what it is emulated by, offers no such event",
    errno.EACCES: "not permitted: see /proc/sys/kernel/perf_event_paranoid",
    errno.EPERM: "not permitted: see /proc/sys/kernel/perf_event_paranoid",
    errno.ENOSYS: "this kernel has no perf_event_open",
    errno.EOPNOTSUPP: "this processor cannot count it",
}
DISABLED, EXCLUDE_KERNEL, EXCLUDE_HYPERVISOR = 1 << 0, 1 << 5, 1 << 6
TOTAL_TIMES = 1 | 2  # time enabled, time running
ENABLE, DISABLE = 0x2400, 0x2401


class Attributes(ctypes.Structure):
    """struct perf_event_attr, version 1 and room for what came later."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("config", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
        ("sample_type", ctypes.c_uint64),
        ("read_format", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("rest", ctypes.c_uint64 * 8),
    )


@dataclass(frozen=True, slots=True)
class Counters:
    """What was counted, and why the others were not."""

    values: tuple[tuple[str, int], ...]
    missing: tuple[tuple[str, str], ...]


def counted(run: Callable[[], object]) -> Counters:
    """The events of one run in user mode, those of all threads that are there now."""
    values: list[tuple[str, int]] = []
    missing: list[tuple[str, str]] = []
    with opened() as found:
        for files, _ in found.values():
            for f in files:
                control(f, ENABLE)
        try:
            run()
        finally:
            for files, _ in found.values():
                for f in files:
                    control(f, DISABLE)
        for name, (files, reason) in found.items():
            if files:
                values.append((name, sum(map(scaled, files))))
            else:
                missing.append((name, reason))
    return Counters(tuple(values), tuple(missing))


@contextmanager
def opened() -> Iterator[dict[str, tuple[list[int], str]]]:
    """For each event the files that count it, or none and the reason."""
    out: dict[str, tuple[list[int], str]] = {name: ([], "") for name in EVENTS}
    try:
        for name, (kind, number) in EVENTS.items():
            for thread in threads():
                file, reason = open_event(kind, number, thread)
                if file is None:
                    out[name] = (out[name][0], reason)
                    break
                out[name][0].append(file)
        yield out
    finally:
        for files, _ in out.values():
            for f in files:
                os.close(f)


def open_event(kind: int, number: int, thread: int) -> tuple[int | None, str]:
    call = SYSTEM_CALLS.get(platform.machine())
    if platform.system() != "Linux" or call is None:
        return None, f"perf_event_open is not known on {platform.system()} {platform.machine()}"
    attributes = Attributes(kind, ctypes.sizeof(Attributes), number)
    attributes.read_format, attributes.flags = TOTAL_TIMES, DISABLED | EXCLUDE_KERNEL | EXCLUDE_HYPERVISOR
    library = ctypes.CDLL(None, use_errno=True)
    words = [ctypes.c_long(x) for x in (thread, -1, -1, 0)]
    file = library.syscall(ctypes.c_long(call), ctypes.byref(attributes), *words)
    if file >= 0:
        return file, ""
    number = ctypes.get_errno()
    reason = REASONS.get(number, os.strerror(number))
    return None, f"{errno.errorcode.get(number, number)}, {reason}"


def threads() -> list[int]:
    """The threads of this process; 0, the one that asks, where they cannot be listed."""
    try:
        return [int(p.name) for p in Path("/proc/self/task").iterdir()]
    except OSError:
        return [0]


def control(file: int, request: int) -> None:
    from fcntl import ioctl

    ioctl(file, request, 0)


def scaled(file: int) -> int:
    """The count; where events took turns, what it would be had this one been counted all the time."""
    value, enabled, running = (ctypes.c_uint64 * 3).from_buffer_copy(os.read(file, 24))
    return round(value * enabled / running) if running else value
