"""The formula in NumPy: products by its BLAS, the rest array by array."""

from __future__ import annotations

import ctypes
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cells import CAP, Inputs, phi
from benchmarks.peers import Absent, Found, Options

Array = NDArray[Any]


def peers(given: Inputs, o: Options) -> Found:
    cell = given.cell
    if cell.dtype == "bfloat16":
        yield Absent("numpy", "no bfloat16", everywhere=False)
        return
    if cell.heads * cell.n * cell.m > 1 << 29:
        yield Absent("numpy", "the scores would take more than 2 GiB", everywhere=False)
        return
    set_blas_threads(o.threads)
    rows = np.arange(cell.n)
    visible = given.mask(rows) if cell.of.causal else None
    added = given.added(rows, given.q.dtype)
    yield "numpy", partial(in_numpy, given, visible, added)


def in_numpy(given: Inputs, visible: Array | None, added: Array | None) -> Array:
    cell = given.cell
    group = cell.heads // cell.kv_heads
    q = given.q.reshape(1, cell.kv_heads, group * cell.n, cell.dk)  # query heads of a group are rows of one product
    if cell.formula == "linear":
        assert visible is not None
        scores = np.where(visible, phi(q) @ np.swapaxes(phi(given.k), -1, -2), 0)
        return np.asarray(scores @ given.v)
    scores = q @ np.swapaxes(given.k, -1, -2)
    scores *= np.asarray(1 / np.sqrt(cell.dk), q.dtype)
    if cell.formula == "softcap":
        scores /= CAP
        np.tanh(scores, out=scores)
        scores *= CAP
    if added is not None:
        scores += added
    if visible is not None:
        scores[..., ~visible] = -np.inf
    scores -= scores.max(-1, keepdims=True)
    np.exp(scores, out=scores)
    total = scores.sum(-1, keepdims=True)
    return np.asarray(scores @ given.v / total).reshape(1, cell.heads, cell.n, cell.dv)


def set_blas_threads(count: int) -> bool:
    """Whether NumPy's own OpenBLAS, if that is what it has, now uses `count` threads."""
    folder = Path(np.__file__).resolve().parent.parent / "numpy.libs"
    for path in sorted(folder.glob("*openblas*")):
        library = ctypes.CDLL(str(path))
        for name in ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads64_", "openblas_set_num_threads"):
            if hasattr(library, name):
                getattr(library, name)(ctypes.c_int(count))
                return True
    return False
