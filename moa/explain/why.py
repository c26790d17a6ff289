"""Why: the candidates among which the compiler chose at given sizes, each with what it would cost.

Every candidate and every choice here is what `Kernel` itself would take: nothing is chosen a second time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from moa.candidates import Candidate as Looked
from moa.cost import Cost, cost
from moa.cost.choice import ALIKE, NEAR, Times
from moa.forms import MARGIN, Outline
from moa.machine import Machine, machine_in_use
from moa.markup import table
from moa.pipeline import Placed
from moa.poly import Poly
from moa.tile import Strategy

if TYPE_CHECKING:
    from moa.kernel import Kernel

MAKERS = ("reassociate", "carry", "chunk", "in rounds", "merge")  # laws that make forms
HEAD = ("", "predicted time", "waits for", "words", "")


@dataclass(frozen=True)
class Candidate:
    """One of what could run.

    kind         "form", "rows" of a work item, "keys" (positions of a round of loops), or "stored"
    time_s       predicted, the longest of `waits_s` (or their sum): by it is chosen
    waits_s      (what is waited for by the busiest thread, seconds)
    operations   of the busiest thread, those one after the other weighted; 0 for what is no form
    words        between memory and the cache of one work item, at most so many where not `exact`
    cost         of what is placed for it
    reason       why it runs, or why not
    """

    kind: str
    name: str
    chosen: bool
    time_s: float
    waits_s: tuple[tuple[str, float], ...]
    operations: float
    words: int
    exact: bool
    cost: Cost = field(compare=False, repr=False)
    reason: str

    @cached_property
    def bytes_moved(self) -> tuple[tuple[str, int | None], ...]:
        """(level, bytes beyond it or None) by a walk over the tiles, on a machine that was named; may take seconds."""
        return tuple((x.name, x.predicted_bytes) for x in self.cost.levels)

    @property
    def waits_for(self) -> str:
        return max(self.waits_s, key=lambda x: x[1])[0] if self.waits_s else ""


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
        form, rows = (c.name for c in self.candidates if c.chosen and c.kind in ("form", "rows"))
        return form, rows

    @property
    def title(self) -> str:
        at = ", ".join(f"{k} = {v}" for k, v in self.sizes)
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"candidates for {self.name} at {at}: {threads}, on {self.machine}"

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        out = []
        for c in self.candidates:
            time = f"{c.time_s * 1e3:.4g} ms" if c.time_s else ""
            words = f"{'' if c.exact else 'at most '}{c.words:,}"
            out.append((f"{'*' if c.chosen else ' '} {c.name}", time, c.waits_for, words, c.reason))
        return out

    def __str__(self) -> str:
        rows = [("  form, what is stored, lengths of tiles", *HEAD[1:]), *self.rows()]
        widths = [max(len(r[k]) for r in rows) for k in range(4)]
        a, b, c, d = widths
        lines = [f"{r[0]:{a}}  {r[1]:>{b}}  {r[2]:{c}}  {r[3]:>{d}}  {r[4]}".rstrip() for r in rows]
        lines += [f"  no form by {law} of {target}: {reason}" for law, target, reason in self.refused]
        return "\n".join([self.title, *lines])

    def _repr_html_(self) -> str:
        return table(self.title, HEAD, self.rows())


def why(kernel: Kernel, machine: Machine | None, threads: int, sizes: Mapping[str, int]) -> Why:
    """The candidates at these sizes, for the machine in use where none is named."""
    m = machine or machine_in_use()
    forms = kernel._front(0).forms
    form = kernel.form_at(sizes, threads, machine=m)
    found = []
    for f, reason in reasons(forms, form, sizes, threads, m, kernel.dtype):
        strategy = kernel.strategy_at(f.name, sizes, 0, threads, m)
        c = form_cost(kernel, f.name, kernel.placed_at(sizes, f.name, strategy), machine, sizes)
        waits = f.times_s(sizes, threads, m, kernel.dtype)
        time_s, operations = f.together_s(t for _, t in waits), f.operations(sizes, threads, m)
        found.append(candidate("form", f.name, f.name == form, waits, time_s, operations, c, reason))
    own, among = kernel.tiles_at(form, sizes, 0, threads, m)
    for x in among:
        strategy = own if x.chosen else of_other(own, x)
        c = form_cost(kernel, form, kernel.placed_at(sizes, form, strategy), machine, sizes)
        alone = sum(y.kind == x.kind for y in among) == 1
        time_s = x.times.all_s if x.kind == "stored" else x.times.longest_s
        reason = lengths_reason(x, among, alone)
        found.append(candidate(x.kind, x.text, x.chosen, x.times.parts, time_s, 0.0, c, reason))
    refused = tuple(dict.fromkeys(r for r in kernel.derivation.trace.refused if r[0] in MAKERS))
    return Why(kernel.name, tuple(sizes.items()), threads, m.name, tuple(found), refused)


def of_other(own: Strategy, x: Looked) -> Strategy:
    """The tiles that run, with one thing as in a candidate that was not taken."""
    match x.kind:
        case "rows":
            return replace(own, rows=x.strategy.rows, block=x.strategy.block)
        case "keys":
            return replace(own, keys=x.strategy.keys)
    names = x.text.rsplit(" ", 2 if x.text.endswith("made again") else 1)[0].split(", ")
    return replace(own, stored=tuple(n for n in own.stored if n not in names) or tuple(names))


def form_cost(kernel: Kernel, form: str, placed: Placed, machine: Machine | None, sizes: Mapping[str, int]) -> Cost:
    return cost(kernel._formed(0, form), placed, machine, kernel.dtype, form_flops(kernel, form), **sizes)


def form_flops(kernel: Kernel, form: str) -> Poly | None:
    """The operations of a form that is not as written."""
    return next((f.flops for f in kernel._front(0).forms[1:] if f.name == form), None)


def candidate(
    kind: str,
    name: str,
    chosen: bool,
    waits: tuple[tuple[str, float], ...],
    time_s: float,
    operations: float,
    c: Cost,
    reason: str,
) -> Candidate:
    words, exact = c.number("streamed_words"), c.streamed_words.exact
    return Candidate(kind, name, chosen, time_s, waits, operations, words, exact, c, reason)


def reasons(
    forms: tuple[Outline, ...], form: str, sizes: Mapping[str, int], threads: int, m: Machine, dtype: str
) -> list[tuple[Outline, str]]:
    """Each form, and why it is the one of this name or not."""
    times = {f.name: f.time_s(sizes, threads, m, dtype) for f in forms}
    taken = times[form]
    out = []
    for f in forms:
        own = times[f.name]
        if f.name == form:
            reason = "the only form" if len(forms) == 1 else "takes least time"
            if any(t < taken for t in times.values()):
                reason = f"as written, unless another form takes less than {MARGIN:.0%} of its time"
        elif own < taken:
            reason = f"takes {own / taken:.0%} of its time: not clearly less"
        else:
            reason = "takes no less" if not taken else more(own / taken)
        out.append((f, reason))
    return out


def more(ratio: float) -> str:
    if ratio < 1.0005:
        return "takes as long"
    return f"takes {ratio:.3g} times as long" if ratio >= 1.1 else f"takes {ratio - 1:.1%} longer"


def lengths_reason(x: Looked, among: tuple[Looked, ...], alone: bool) -> str:
    """Why tiles have these lengths or not, or why something is stored or not."""
    if alone:
        return f"no other {'rows' if x.kind == 'rows' else 'rounds'} for these sizes"
    (taken,) = (y for y in among if y.kind == x.kind and y.chosen and (x.kind != "stored" or pair(x) == pair(y)))
    times, best = (x.times, taken.times) if x.kind != "stored" else (all_of(x.times), all_of(taken.times))
    if x is taken:
        return "takes least time" if x.kind != "stored" else "takes less time"
    if x.crowds:
        return "as fast, but a set of the nearest cache is too small for it"
    ratio = times.longest_s / best.longest_s if best.longest_s else 1.0
    return more(ratio) if ratio > NEAR else farther(x.times, taken.times)


def farther(x: Times, taken: Times) -> str:
    """Why of two candidates that are about as fast the first one is not taken."""
    for what, t in reversed(x.parts):
        if what != "flops" and t > dict(taken.parts)[what] + ALIKE * taken.longest_s:
            return f"as fast, but moves more from {what}"
    return "as fast, within what is known"


def pair(x: Looked) -> str:
    return x.text.rsplit(" ", 2 if x.text.endswith("made again") else 1)[0]


def all_of(t: Times) -> Times:
    return Times((("all", t.all_s),))
