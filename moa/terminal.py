"""What a person sees: text on standard output, and on standard error how far a long piece of work is.

Colour is for terminals, and NO_COLOR is respected; nothing in a text is markup.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from moa.text import printable

SHOWN = 64  # results of up to this many elements are printed whole


class Out(Console):
    """Standard output: colour on a terminal only, no wrapping, nothing in the text is markup."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def say(text: str | Text) -> None:
    out = Out(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if out.is_terminal:
        out.print(text)
    else:
        print(text if isinstance(text, str) else text.plain)


@contextmanager
def working(text: str) -> Iterator[Callable[[str], None]]:
    """Shows on a terminal what is being done and for how long; gives what changes the text. Gone at the end."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        yield lambda text: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as progress:
        task = progress.add_task(printable(text), total=None)
        yield lambda text: progress.update(task, description=printable(text))


def titled(page: str) -> Text:
    """The page of `explain` with its titles in bold."""
    out = Text(page)
    out.highlight_regex(r"^\S[^\n]*?(?=  |$)", "bold")
    return out


def described(name: str, x: np.ndarray[Any, Any]) -> str:
    """A result: its shape, and its values or how they lie."""
    head = f"{name}: {x.dtype}[{', '.join(map(str, x.shape))}]"
    if x.size <= SHOWN:
        text = np.array2string(x, precision=6, separator=", ")
        return f"{head} =\n{text}"
    if x.dtype.kind != "f":
        return head
    finite = x[np.isfinite(x)]
    odd = x.size - finite.size
    if not finite.size:
        return f"{head}, none finite"
    tail = f", {odd} not finite" if odd else ""
    return f"{head}, min {finite.min():.6g}, mean {finite.mean(dtype=np.float64):.6g}, max {finite.max():.6g}{tail}"


def seconds(s: float) -> str:
    return f"{s:.3g} s" if s >= 1 else f"{s * 1e3:.3g} ms"
