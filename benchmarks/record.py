"""What was measured, as a JSON file that grows cell by cell, and what follows from it."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.cells import Cell
from benchmarks.sampling import Peer
from moa.ceilings import Ceiling, Reader

PACKAGES = ("numpy", "torch", "onnxruntime", "openvino", "jax", "llvmlite")
BESIDE = ("moa in C", "moa tuned", "moa unfused")  # the same formula by this project, otherwise
NOT_PEERS = ("moa", "probe", "read", *BESIDE)  # not compared as peers: the kernel, what it is aimed at, the ceiling


def machine() -> dict[str, Any]:
    """The processor, its number of cores, the versions of all that is measured."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        facts = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        keys = ("model name", "cpu family", "model", "stepping")
        name = "{}, family {}, model {}, stepping {}".format(*(facts.get(k, "?") for k in keys))
    except OSError:
        pass
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"processor": name, "cores": os.cpu_count(), "system": platform.platform(), "versions": versions}


def cell_record(cell: Cell, peers: list[Peer], ceiling: Ceiling, reader: Reader | None, threads: int) -> dict[str, Any]:
    """All of one cell, with every sample."""
    usual = ceiling.usual
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "threads": threads,
        "flops": cell.flops,
        "least_flops": cell.least_flops(),
        "peak": ceiling.peak,
        "usual": usual,
        "read_bytes": reader.bytes if reader is not None else 0,
        "peers": {
            p.name: {
                "median_s": p.median_s(usual),
                "best_s": p.best_s,
                "clean": len(p.clean(usual)),
                "error": p.error,
                "samples": [[s.seconds, s.before, s.after, s.stolen] for s in p.samples],
            }
            for p in peers
            if p.samples
        },
    }


def read_record(path: Path) -> dict[str, Any]:
    """The record of a file, or an empty one."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"machine": machine(), "cells": {}}
    return found


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Writes the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(record, indent=1), encoding="utf-8")
    os.replace(beside, path)


def median_s(entry: dict[str, Any], peer: str) -> float:
    return float(entry["peers"][peer]["median_s"]) if peer in entry["peers"] else math.nan


def best_peer(entry: dict[str, Any]) -> str:
    """The name of the fastest peer; empty where there is none."""
    names = [n for n in entry["peers"] if n not in NOT_PEERS]
    return min(names, key=lambda n: median_s(entry, n), default="")


def ceiling_s(entry: dict[str, Any]) -> float:
    """The least time of the formula: its arithmetic at the peak, or reading keys and values once."""
    read_s = median_s(entry, "read") if "read" in entry["peers"] else 0.0
    return max(float(entry["least_flops"]) / float(entry["peak"]), read_s)


def reached(cell: Cell, cells: dict[str, Any]) -> float:
    """What there is of what is aimed at (for "time" and "us": the measured value itself); nan if it is unknown."""
    entry = cells[cell.name]
    ours = median_s(entry, "moa")
    beside = cells.get(cell.beside)
    match cell.aim[0]:
        case "probe":
            return median_s(entry, "probe") / ours
        case "ceiling" | "roofline":
            return ceiling_s(entry) / ours
        case "peak":
            return float(entry["flops"] / entry["peak"]) / ours
        case "read":
            return median_s(entry, "read") / ours
        case "us":
            return ours * 1e6
        case "time":
            return ours / median_s(beside, "moa") if beside else math.nan
    if not beside:
        return 1.0 if not cell.beside else math.nan
    return float(entry["flops"] / ours / (beside["flops"] / median_s(beside, "moa")))


def met(cell: Cell, value: float) -> bool:
    return value <= cell.aim[1] if cell.aim[0] in ("us", "time") else value >= cell.aim[1]
