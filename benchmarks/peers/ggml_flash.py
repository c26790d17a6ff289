"""ggml's flash attention is not measured: it is listed, so that nobody takes a table without it for one with it."""

from __future__ import annotations

from benchmarks.cells import Inputs
from benchmarks.peers import Absent, Found, Options


def peers(given: Inputs, o: Options) -> Found:
    yield Absent("ggml", "not measured: nothing here runs it")
