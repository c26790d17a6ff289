"""Why: the candidates among which the compiler chose at given sizes, each with what it would cost.

Every candidate and every choice here is what `Kernel` itself would take: nothing is chosen a second time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moa.cost import Cost, cost
from moa.forms import MARGIN, Outline
from moa.machine import Machine
from moa.markup import table
from moa.pipeline import Placed, row_extents
from moa.poly import Poly

if TYPE_CHECKING:
    from moa.kernel import Kernel

MAKERS = ("reassociate", "carry", "chunk", "merge")  # laws that make forms
HEAD = ("", "weighted operations", "words", "time", "")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of what could run.

    kind         "form", or "rows" of a work item
    operations   of the busiest thread, those one after the other weighted: what forms are chosen by; 0 for rows
    words        between memory and the cache of one work item, at most so many where not `exact`
    time_s       at least, on the machine; None without one
    bytes_moved  (level, bytes beyond it or None) on the machine
    reason       why it runs, or why not
    """

    kind: str
    name: str
    chosen: bool
    operations: float
    words: int
    exact: bool
    time_s: float | None
    bytes_moved: tuple[tuple[str, int | None], ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Why:
    """What was chosen at these sizes, and among what.

    refused  (law, of what, reason): forms that are not there
    """

    name: str
    sizes: tuple[tuple[str, int], ...]
    threads: int
    machine: str
    candidates: tuple[Candidate, ...]
    refused: tuple[tuple[str, str, str], ...]

    @property
    def chosen(self) -> tuple[str, str]:
        """(the form, the rows of a work item) that run."""
        form, rows = (c.name for c in self.candidates if c.chosen)
        return form, rows

    @property
    def title(self) -> str:
        at = ", ".join(f"{k} = {v}" for k, v in self.sizes)
        on = f", on {self.machine}" if self.machine else ""
        return f"candidates for {self.name} at {at}: {self.threads} thread{'s' * (self.threads > 1)}{on}"

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        out = []
        for c in self.candidates:
            operations = f"{c.operations:,.0f}" if c.kind == "form" else ""
            time = "" if c.time_s is None else f"{c.time_s * 1e3:.4g} ms"
            words = f"{'' if c.exact else 'at most '}{c.words:,}"
            out.append((f"{'*' if c.chosen else ' '} {c.name}", operations, words, time, c.reason))
        return out

    def __str__(self) -> str:
        time = HEAD[3] if self.machine else ""
        rows = [("  form, or rows of an item", *HEAD[1:3], time, HEAD[4]), *self.rows()]
        widths = [max(len(r[k]) for r in rows) for k in range(4)]
        lines = []
        for r in rows:
            numbers = (f"{x:>{w}}" for x, w in zip(r[1:4], widths[1:], strict=True) if w)
            lines.append("  ".join([f"{r[0]:{widths[0]}}", *numbers, r[4]]).rstrip())
        lines += [f"  no form by {law} of {target}: {reason}" for law, target, reason in self.refused]
        return "\n".join([self.title, *lines])

    def _repr_html_(self) -> str:
        return table(self.title, HEAD, self.rows())


def why(kernel: Kernel, machine: Machine | None, threads: int, sizes: Mapping[str, int]) -> Why:
    """The candidates at these sizes."""
    forms = kernel._front(0).forms
    form = kernel.form_at(sizes, threads)
    found = []
    for f, reason in reasons(forms, form, sizes, threads):
        c = form_cost(kernel, f.name, kernel.placed_at(sizes, f.name), machine, sizes)
        found.append(candidate("form", f.name, f.name == form, f.cost(sizes, threads), c, reason))
    own = kernel.strategy_at(form, sizes)
    there = kernel._rows(0, form, sizes, own.width, own.row)
    tiled = row_extents(kernel.placed_at(sizes, form, kernel.strategy_for(4 * own.width, own.row)).tiles)
    for rows in sorted({1, own.rows, *(n * own.width for n in (1, 2, 4))}) if tiled else (own.rows,):
        strategy = kernel.strategy_for(rows, own.row)
        c = form_cost(kernel, form, kernel.placed_at(sizes, form, strategy), machine, sizes)
        text = f"{strategy.rows} row{'s' * (strategy.rows > 1)}"
        reason = rows_reason(strategy.rows, own.rows, there) if tiled else "no axis is tiled by rows"
        found.append(candidate("rows", text, strategy.rows == own.rows, 0.0, c, reason))
    refused = tuple(dict.fromkeys(r for r in kernel.derivation.trace.refused if r[0] in MAKERS))
    on = "" if machine is None else machine.name
    return Why(kernel.name, tuple(sizes.items()), threads, on, tuple(found), refused)


def form_cost(kernel: Kernel, form: str, placed: Placed, machine: Machine | None, sizes: Mapping[str, int]) -> Cost:
    return cost(kernel._formed(0, form), placed, machine, kernel.dtype, form_flops(kernel, form), **sizes)


def form_flops(kernel: Kernel, form: str) -> Poly | None:
    """The operations of a form that is not as written."""
    return next((f.flops for f in kernel._front(0).forms[1:] if f.name == form), None)


def candidate(kind: str, name: str, chosen: bool, operations: float, c: Cost, reason: str) -> Candidate:
    time_s = max((t for _, t in c.times_s()), default=None)
    bytes_moved = tuple((x.name, x.predicted_bytes) for x in c.levels)
    words, exact = c.number("streamed_words"), c.streamed_words.exact
    return Candidate(kind, name, chosen, operations, words, exact, time_s, bytes_moved, reason)


def reasons(forms: tuple[Outline, ...], form: str, sizes: Mapping[str, int], threads: int) -> list[tuple[Outline, str]]:
    """Each form, and why it is the one of this name or not."""
    taken = next(f for f in forms if f.name == form).cost(sizes, threads)
    out = []
    for f in forms:
        own = f.cost(sizes, threads)
        if f.name == form:
            reason = "the only form" if len(forms) == 1 else "costs least"
            if any(x.cost(sizes, threads) < taken for x in forms):
                reason = f"as written, unless another form costs less than {MARGIN:.0%} of it"
        elif own < taken:
            reason = f"costs {own / taken:.0%} of it: not clearly less"
        else:
            reason = "costs more" if not taken else more(own / taken)
        out.append((f, reason))
    return out


def more(ratio: float) -> str:
    return f"costs {ratio:.3g} times as much" if ratio >= 1.1 else f"costs {ratio - 1:.2%} more"


def rows_reason(rows: int, own: int, there: int) -> str:
    """Why a work item has so many rows or not."""
    if rows > own:
        return f"there {'is' if there == 1 else 'are'} {there}"
    if rows < own:
        return "what is shared is streamed for fewer rows at a time"
    if rows == 1:
        return "lanes are along another axis"
    return f"the fewest that hold {there}" if there <= rows else f"the most, of {there}"
