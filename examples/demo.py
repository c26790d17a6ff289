"""One compilation from the formula to the kernel, on real data: what `make demo` shows.

The data are the queries, keys and values of one layer of a sentence encoder and what the model itself computed from
them: 12 heads, 331 tokens, 32 features, float32. Every number below is measured by this run; it ends with status 1 if
a check fails.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

import moa
from moa.check import check
from moa.oracle import oracle
from moa.parse import parse

PROGRAM = "examples/attention.moa"
DATA = "examples/data/minilm_layer3.npz"
ROUNDS = 31


def main() -> int:
    out = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    os.chdir(Path(__file__).resolve().parent.parent)
    data = np.load(DATA, allow_pickle=False)
    Q, K, V, expected = (data[name] for name in ("Q", "K", "V", "O"))

    begin = time.perf_counter()
    kernel = moa.compile(PROGRAM, dtype="float32")
    result = kernel(Q, K, V)
    built = time.perf_counter() - begin

    title(out, "From the formula to the kernel")
    out.print(titled(moa.compile(PROGRAM, dtype="float32").explain()))

    title(out, "Checks")
    program = check(parse(Path(PROGRAM).read_text(encoding="utf-8"), PROGRAM), ranks=Q.ndim - 2)
    (exact,) = oracle(program, {"Q": Q, "K": K, "V": V})
    scores = Q.astype(np.float64) @ K.astype(np.float64).swapaxes(-1, -2) / np.sqrt(Q.shape[-1])
    one = float(np.finfo(np.float32).eps / 2 * np.abs(scores).max() * np.abs(V).max())
    out.print(f"  rounding the largest score once, to float32, may move a result by {one:.1e}")
    before, after = kernel.passes
    checks = [
        difference("the formula in float64", result, exact, one),
        difference("what the model computed in float32", result, expected, 2 * one),
        (after < before, f"passes over the keys: {before} as written, {after} as compiled"),
    ]
    for passed, text in checks:
        mark = Text("ok    ", style="green") if passed else Text("FAILED", style="bold red")
        out.print(Text("  ").append(mark).append(f"  {text}"))

    title(out, "Words moved by this call")
    heads, n, dk = Q.shape
    out.print(str(kernel.cost(batch0=heads, n=n, m=K.shape[1], dk=dk, dv=V.shape[2])))

    title(out, "Time")
    ours, theirs = times(lambda: kernel(Q, K, V), lambda: plain(Q, K, V))
    out.print(f"  compiled in {built:.2f} s, the first call included; medians of {ROUNDS} calls, taken in turn")
    out.print(Text("  moa    ").append(f"{ours * 1e3:7.2f} ms", style="bold"))
    out.print(f"  NumPy  {theirs * 1e3:7.2f} ms   {theirs / ours:.1f} times as long")
    return 0 if all(passed for passed, _ in checks) else 1


def difference(what: str, found: Any, wanted: Any, allowed: float) -> tuple[bool, str]:
    worst = float(np.abs(found - wanted).max())
    return worst <= allowed, f"against {what}: max |difference| {worst:.1e}, allowed {allowed:.1e}"


def plain(Q: Any, K: Any, V: Any) -> Any:
    """The same formula as one writes it in NumPy."""
    s = Q @ K.swapaxes(-1, -2) / np.sqrt(np.float32(Q.shape[-1]))
    p = np.exp(s - s.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True) @ V


def times(*calls: Callable[[], Any]) -> list[float]:
    """The median time of each, taken in turn after a few rounds to warm up."""
    taken: list[list[float]] = [[] for _ in calls]
    for k in range(5 + ROUNDS):
        for call, own in zip(calls, taken, strict=True):
            begin = time.perf_counter()
            call()
            if k >= 5:
                own.append(time.perf_counter() - begin)
    return [median(own) for own in taken]


def title(out: Console, text: str) -> None:
    out.print(Text(f"\n{text}\n", style="bold cyan"))


def titled(page: str) -> Text:
    text = Text(page)
    text.highlight_regex(r"(?m)^\S[^\n]*?(?=  |$)", "bold")
    return text


if __name__ == "__main__":
    sys.exit(main())
