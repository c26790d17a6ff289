"""ggml's flash attention, from a build of ggml that is given."""

from __future__ import annotations

from benchmarks.cells import Inputs
from benchmarks.peers import Absent, Found, Options


def peers(given: Inputs, o: Options) -> Found:
    yield Absent("ggml", "not built here")
