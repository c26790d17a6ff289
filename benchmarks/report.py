"""The record as a table, and as a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from benchmarks.cells import Cell
from benchmarks.record import BESIDE, best_peer, ceiling_s, median_s, met, reached

HEAD = (
    f"{'cell':28} {'moa ms':>9} {'best peer':>16} {'its ms':>9} {'ratio':>6} {'aim':>5}  {'of':>8} {'value':>7} "
    f"{'aim':>6}  {'ceiling':>7} {'error':>8} {'peer s':>8} {'clean':>6} {'in C':>5} {'tuned':>5} {'apart':>5}"
)


def number(value: float, form: str) -> str:
    """The value by the format, a dash for nan."""
    width = int(form.lstrip("<>").split(".")[0])
    return f"{'-':>{width}}" if math.isnan(value) else f"{value:{form}}"


def line(cell: Cell, cells: dict[str, Any]) -> str:
    """One row. `ratio`: how many times as fast as the best peer; `*` after a value: what is aimed at is not reached.

    The last columns are times of the same formula over that of the kernel: in C, in tuned tiles, as two kernels.
    """
    entry = cells[cell.name]
    best = best_peer(entry)
    ours, theirs = median_s(entry, "moa"), median_s(entry, best)
    ratio, value = theirs / ours, reached(cell, cells)
    errors = [float(entry["peers"].get(p, {}).get("error", math.nan)) for p in ("moa", best)]
    beside = [median_s(entry, n) / ours for n in BESIDE]
    counts = [p["clean"] for p in entry["peers"].values()]
    short = ["" if math.isnan(x) or ok else "*" for x, ok in ((ratio, ratio >= cell.faster), (value, met(cell, value)))]
    return (
        f"{cell.name:28} {number(ours * 1e3, '9.3f')} {best or '-':>16} {number(theirs * 1e3, '9.3f')} "
        f"{number(ratio, '6.2f')} {cell.faster:5.2f}{short[0]:1} {cell.aim[0]:>8} {number(value, '7.3f')} "
        f"{cell.aim[1]:6.2f}{short[1]:1} {number(ceiling_s(entry) / ours, '7.3f')} {number(errors[0], '8.1e')} "
        f"{number(errors[1], '8.1e')} {min(counts, default=0):6} {' '.join(number(x, '5.2f') for x in beside)}"
    )


def every_peer(entry: dict[str, Any]) -> list[str]:
    """Lines with each peer of a cell, the fastest first."""
    peers = sorted(entry["peers"].items(), key=lambda item: float(item[1]["median_s"]))
    out = [f"    {name:22} {why}" for name, why in entry["left_out"].items()]
    for name, p in peers:
        rate = entry["flops"] / p["median_s"] * 1e-9
        if name == "read":
            out.append(
                f"    {name:22} {p['median_s'] * 1e3:9.3f} ms  {entry['read_bytes'] / p['median_s'] * 1e-9:7.1f} GB/s"
            )
            continue
        share = 100 * entry["flops"] / p["median_s"] / entry["peak"]
        out.append(
            f"    {name:22} {p['median_s'] * 1e3:9.3f} ms  best {p['best_s'] * 1e3:9.3f}  {rate:7.1f} GFLOP/s "
            f"{share:5.1f} % of peak  error {p['error']:.1e}  clean {p['clean']}/{len(p['samples'])}"
        )
    return out


def markdown(wanted: list[Cell], cells: dict[str, Any]) -> str:
    """A table for a page."""
    rows = ["| cell | moa, ms | best peer | its ms | times as fast | of the formula's ceiling | error | peer's |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    for cell in wanted:
        entry = cells.get(cell.name)
        if entry is None or "moa" not in entry["peers"]:
            continue
        best = best_peer(entry)
        ours, theirs = median_s(entry, "moa"), median_s(entry, best)
        errors = [float(entry["peers"].get(p, {}).get("error", math.nan)) for p in ("moa", best)]
        rows.append(
            f"| {cell.name} | {ours * 1e3:.3f} | {best or '-'} | {number(theirs * 1e3, '1.3f')} | "
            f"{number(theirs / ours, '1.2f')} | {100 * ceiling_s(entry) / ours:.0f} % | {number(errors[0], '1.0e')} | "
            f"{number(errors[1], '1.0e')} |"
        )
    return "\n".join(rows) + "\n"


def plot(path: Path, wanted: list[Cell], cells: dict[str, Any], title: str) -> str:
    """Writes bars of the ratio to the best peer; what is missing for it, or nothing."""
    try:
        import matplotlib

        matplotlib.use("svg")
        from matplotlib import pyplot
    except ImportError:
        return "no picture: matplotlib is not installed"
    shown = [c for c in wanted if c.name in cells and "moa" in cells[c.name]["peers"] and best_peer(cells[c.name])]
    if not shown:
        return "no picture: nothing was measured beside a peer"
    ratios = [median_s(cells[c.name], best_peer(cells[c.name])) / median_s(cells[c.name], "moa") for c in shown]
    figure, axes = pyplot.subplots(figsize=(9, 0.24 * len(shown) + 1.2))
    places = range(len(shown))
    axes.barh(places, ratios, color=["#3d7fc4" if r >= 1 else "#e39a2d" for r in ratios])
    axes.scatter([c.faster for c in shown], places, marker="|", color="black", s=80, label="aim", zorder=3)
    axes.axvline(1, color="#767676", linewidth=1)
    axes.set_yticks(places, [f"{c.name} ({best_peer(cells[c.name])})" for c in shown], fontsize=7)
    axes.set_xlabel("times as fast as the best peer (named beside the cell)")
    axes.set_title(title, fontsize=8)
    axes.invert_yaxis()
    axes.legend(fontsize=7)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)
    return ""
