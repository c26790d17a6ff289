"""A panel in cells of equal size, for pictures with fewer places than the kernel has tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from moa.explain.panels import Panel

Shade = Literal["full", "partial", "mixed", "empty"]


@dataclass(frozen=True, slots=True)
class Cells:
    """A panel in cells of `rows` x `keys` positions: what each of them holds."""

    rows: int
    keys: int
    shades: tuple[tuple[Shade, ...], ...]


def cells_of(p: Panel, most_rows: int, most_keys: int) -> Cells:
    """A panel in at most so many cells: whole bands down, a power of two of keys across."""
    rows = p.rows.step * max(-(-len(p.bands) // most_rows), 1)
    keys = 1 << max(-(-p.keys.extent // most_keys) - 1, 0).bit_length()
    shape = (-(-p.rows.extent // rows), -(-p.keys.extent // keys))
    edges = np.minimum(np.arange(shape[1] + 1) * keys, p.keys.extent)
    held = {kind: np.zeros(shape, np.int64) for kind in ("full", "partial")}
    whole = np.zeros(shape, np.int64)
    for b in p.bands:
        at = b.lo // rows
        whole[at] += (b.hi - b.lo) * np.diff(edges)
        for r in b.runs:
            held[r.kind][at] += (b.hi - b.lo) * np.diff(np.clip(edges, r.lo, r.hi))
    return Cells(rows, keys, tuple(map(tuple, _shades(held["full"], held["partial"], whole).tolist())))


def _shades(full: NDArray[Any], partial: NDArray[Any], whole: NDArray[Any]) -> NDArray[Any]:
    cases = [full + partial == 0, full == whole, partial == whole]
    return np.select(cases, ["empty", "full", "partial"], "mixed")
