"""The kernel that this project makes of the formula."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

import moa
from benchmarks.cells import CAP, WINDOW, Cell, Inputs
from benchmarks.peers import Absent, Found, Options
from moa.storage import numpy_dtype


def arguments(given: Inputs) -> dict[str, Any]:
    """What the kernel of a cell is called with, by name."""
    cell = given.cell
    kind = numpy_dtype(cell.dtype)
    q, k, v = (np.ascontiguousarray(a.astype(kind)) for a in (given.q, given.k, given.v))
    more: dict[str, Any] = {}
    match cell.formula:
        case "grouped":
            q = q.reshape(1, cell.kv_heads, -1, cell.n, cell.dk)
        case "window":
            more["w"] = WINDOW
        case "softcap":
            more["c"] = CAP
        case "alibi":
            more["slope"] = given.slope
        case "document":
            more["doc"] = given.documents
        case "bias":
            more["B"] = given.bias
    return {"Q": q, "K": k, "V": v, **more}


def thread_count(cell: Cell, o: Options) -> int | None:
    """How many threads a call is given: a small one decides by itself."""
    return None if cell.aim[0] == "us" else o.threads


def peers(given: Inputs, o: Options) -> Found:
    cell = given.cell
    kernel = moa.compile(cell.of.text, dtype=cell.dtype)
    try:
        yield "moa", partial(kernel, *arguments(given).values(), threads=thread_count(cell, o))
    except moa.MoaError as e:
        yield Absent("moa", str(e), everywhere=False)
