"""Beside the kernel: the same in C, the same in tiles that were tuned, and its products and weights as two kernels.

None of them is compared as a peer. The two kernels write the weights to memory: what fusing them saves is their time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import moa
from benchmarks.cells import Inputs
from benchmarks.peers import Absent, Found, Options
from benchmarks.peers.moa_kernel import arguments, thread_count

TUNED_S = 2.0


def peers(given: Inputs, o: Options) -> Found:
    cell = given.cell
    named = arguments(given)
    count = thread_count(cell, o)
    for name, make in (("moa in C", in_c), ("moa tuned", tuned), ("moa unfused", unfused)):
        try:
            yield name, make(given, named, count)
        except moa.MoaError as e:
            yield Absent(name, str(e).splitlines()[0], everywhere=False)


def in_c(given: Inputs, named: dict[str, Any], count: int | None) -> Callable[[], Any]:
    kernel = moa.compile(given.cell.of.text, dtype=given.cell.dtype, backend="c")
    return partial(kernel, *named.values(), threads=count)


def tuned(given: Inputs, named: dict[str, Any], count: int | None) -> Callable[[], Any]:
    kernel = moa.compile(given.cell.of.text, dtype=given.cell.dtype)
    kernel.tune(*named.values(), threads=count, limit_s=TUNED_S, keep=False)
    return partial(kernel, *named.values(), threads=count)


def unfused(given: Inputs, named: dict[str, Any], count: int | None) -> Callable[[], Any]:
    """Two kernels: the weights, which are the formula without its last product, and that product."""
    cell = given.cell
    text, v = halved(cell.of.text)
    weights = moa.compile(text, dtype=cell.dtype)
    lead = "b g r" if cell.formula == "grouped" else "..."
    values = "b g m dv" if cell.formula == "grouped" else "... m dv"
    product = moa.compile(f"P @ {v}", P=f"{lead} n m", V=values, dtype=cell.dtype)
    left = [x for k, x in named.items() if k != "V"]
    room: list[Any] = []

    def work() -> Any:
        if not room:
            room.append(weights(*left, threads=count))
        return product(weights(*left, threads=count, out=room[0]), named["V"], threads=count)

    return work


def halved(text: str) -> tuple[str, str]:
    """(the program of the weights, what they are multiplied by) of a program that ends with a product by V."""
    before, _, v = text.rstrip().rpartition(" @ ")
    head, _, body = before.partition(":\n")
    parameters = re.sub(r", V\[[^]]*]", "", head)
    assert v.startswith("V") and parameters != head, text
    return f"{parameters}:\n{body}\n", v
