"""Explain: the page that shows the whole way from a formula to a kernel, and every representation on the way.

Nothing here knows a formula: each line is made from the trace of the laws that fired and from the values between the
stages. The page renames index variables and arrays for the reader; the representations print under their own names.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from moa import numerics
from moa.cost import Cost, cost
from moa.expand import expand
from moa.explain.fold import folds, recurrences
from moa.explain.html import Page, kernel_markup, page_of
from moa.explain.laws import contract, laws, refused
from moa.explain.names import names_of
from moa.explain.page import forms, formula, groups, head, normal_form
from moa.explain.panels import MOST_SIZE, needed, panels
from moa.explain.picture import Picture
from moa.explain.placed import kernel_lines
from moa.explain.text import INDENT, WIDTH, wrapped
from moa.explain.why import Why, form_cost, why
from moa.forms import Form, in_lengths
from moa.machine import Machine, machine_of
from moa.notation import program_text
from moa.pipeline import STAGES, Derivation, Placed
from moa.storage import PAIRED, computed, rounding, stated
from moa.text import MoaError, printable

if TYPE_CHECKING:
    from moa.kernel import Kernel

__all__ = ["cost_of", "error_bound", "explain", "html_of", "picture_of", "why_of"]


def explain(kernel: Kernel, stage: str | None = None, *, placed: Placed | None = None) -> Page:
    """The page of a kernel, or one representation of it, as text that a notebook shows as HTML.

    stage   None for the page, or one of program, equations, normal, tiles, loops, source
    placed  what the lower part is about: by default the variant that ran last, else one for many rows
    Errors: MoaError of kind "argument" for a stage that does not exist
    """
    if stage is not None and stage not in STAGES:
        text = f"there is no stage '{printable(stage)}'"
        raise MoaError("argument", text, None, f"choose one of {', '.join(STAGES)}")
    d, form, ran = last(kernel)
    if placed is not None:
        d, form = of_form(kernel.derivation, None)
    match stage:
        case "program":
            return Page(program_text(d.program).rstrip())
        case "equations":
            return Page(str(d.equations))
        case "normal":
            return Page(str(d.streamed))
    placed = placed or ran or kernel.for_many_rows()
    match stage:
        case "tiles":
            return Page(str(placed.tiles))
        case "loops":
            return Page(str(placed.lowered.loops))
        case "source":
            return Page(source_of(kernel, placed))
    return page(kernel, d, form, placed)


def page(kernel: Kernel, d: Derivation, form: Form, placed: Placed) -> Page:
    source = kernel._source
    names = names_of(source, d, form)
    sections = [
        ("formula", formula(source)),
        ("normal form", normal_form(source, names)),
        ("groups", groups(names)),
        ("laws", laws(names)),
        ("refused", refused(names)),
        ("forms", forms(names)),
        ("fold", folds(names)),
        ("recurrence", recurrences(names)),
        ("kernel", kernel_lines(names, placed, kernel._element)),
        ("contract", contract(names)),
        ("error", error_lines(d, kernel.dtype, placed.strategy.keys, not placed.strategy.warps)),
        ("words", words(cost(d, placed))),
    ]
    return page_of(head(source, names, stated(kernel.dtype)), sections)


def of_form(d: Derivation, name: str | None) -> tuple[Derivation, Form]:
    """A derivation with one of its forms as the system that is streamed: the one of this name, or the first."""
    form = next((f for f in in_lengths(d.forms) if f.name == name), d.forms[0])
    return replace(d, streamed=form.streamed), form


def last(kernel: Kernel) -> tuple[Derivation, Form, Placed | None]:
    """What ran last; before any call, the first form of the derivation for `...` of no axes, and no variant."""
    for variant in reversed(kernel._variants.values()):
        return (*of_form(kernel._derive(variant.ranks), variant.form), variant.placed)
    return (*of_form(kernel.derivation, None), None)


def source_of(kernel: Kernel, placed: Placed) -> str:
    """The text that is built for a placed variant: LLVM IR for this machine, C, or CUDA C++."""
    match kernel.backend:
        case "cuda":
            from moa.backends.cuda import print_cuda

            return print_cuda({"moa": placed.lowered})
        case "c":
            from moa.backends.c import print_c

            return print_c(expand(placed.lowered.loops))
    from moa.backends.llvm import host, print_llvm

    return print_llvm(expand(placed.lowered.loops), host())


def cost_of(kernel: Kernel, machine: Machine | str = "", /, **sizes: int) -> Cost:
    """The cost of the variant that ran last, else of the one for these sizes, on a machine if one is named.

    Without sizes, and on devices, of a variant for many rows.
    Errors: MoaError of kind "argument" where some sizes are given and one is missing, or one is not a size
    """
    on = machine if isinstance(machine, Machine) else machine_of(machine) if machine else None
    d, _, placed = last(kernel)
    checked(kernel, d, sizes)
    if placed is None and sizes and kernel.backend != "cuda":
        form = kernel.form_at(sizes)
        return form_cost(kernel, form, kernel.placed_at(sizes, form), on, sizes)
    return cost(d, placed or kernel.for_many_rows(), on, kernel.dtype, **sizes)


def checked(kernel: Kernel, d: Derivation, sizes: Mapping[str, int]) -> None:
    """Errors: MoaError of kind "argument" where some sizes are given and one is missing, or one is not a size"""
    known = tuple(dict.fromkeys((*d.program.sizes(), *kernel._names())))
    for name in sizes:
        if name not in known:
            text = f"{kernel.name} has no size {printable(name)}"
            raise MoaError("argument", text, None, f"its sizes: {', '.join(known) or 'none'}")
    missing = [n for n in known if sizes and n not in sizes]
    if missing:
        text = f"no value for {', '.join(missing)}"
        raise MoaError("argument", text, None, f"give all of {', '.join(known)}, or none for the formulas")


def why_of(kernel: Kernel, machine: Machine | str = "", threads: int = 1, /, **sizes: int) -> Why:
    """What a call at these sizes chooses among, `...` being no axes.

    Errors: MoaError of kind "argument" where a size is missing or unknown, "support" on devices
    """
    if kernel.backend == "cuda":
        text = "candidates are those of kernels for processors"
        raise MoaError("support", text, None, "compile it with backend llvm or c")
    if threads < 1:
        raise MoaError("argument", f"threads is {threads}", None, "use at least one")
    checked(kernel, kernel.derivation, sizes)
    missing = [n for n in kernel._names() if n not in sizes]
    if missing:
        text = f"no value for {', '.join(missing)}"
        raise MoaError("argument", text, None, "what is chosen depends on all sizes")
    on = machine if isinstance(machine, Machine) else machine_of(machine) if machine else None
    return why(kernel, on, threads, sizes)


def picture_of(kernel: Kernel, *, placed: Placed | None = None, **given: Any) -> Picture:
    """Which tiles the variant that ran last, else one for many rows, enters at given sizes.

    given   sizes and integer parameters; arrays of integers where the loops read their ends from data
    Errors: MoaError of kind "argument" where a value is missing, unknown or unfit, or the picture would be too large
    """
    d, form, ran = (*of_form(kernel.derivation, None), None) if placed is not None else last(kernel)
    variant = "the variant for many rows" if ran is None else "the variant that ran last"
    placed = placed or ran or kernel.for_many_rows()
    known = (*d.program.sizes(), *(p.name for p in d.program.inputs if p.kind == "i"))
    for name in given:
        if name not in known:
            text = f"{kernel.name} has no size {printable(name)}"
            raise MoaError("argument", text, None, f"its sizes: {', '.join(known) or 'none'}")
    values = {k: whole(k, v, k in d.program.sizes()) if np.ndim(v) == 0 else np.asarray(v) for k, v in given.items()}
    shown = tuple((k, v) for k in needed(placed) if isinstance(v := values.get(k), int))
    return Picture(kernel.name, variant, shown, panels(names_of(kernel._source, d, form), placed, values))


def whole(name: str, value: Any, is_size: bool) -> int:
    """A size or an integer parameter as an int."""
    try:
        found = operator.index(value)
    except TypeError:
        found = MOST_SIZE
    if abs(found) >= MOST_SIZE or (is_size and found < 0):
        hint = "give a whole number" + (" of at least 0" if is_size else "")
        raise MoaError("argument", f"{name} is {printable(str(value)[:40])}", None, hint)
    return found


def html_of(kernel: Kernel) -> str:
    """A kernel for a notebook: its signature, its formula, passes, and what its derivation does to numbers."""
    d, form, _ = last(kernel)
    before, after = kernel.passes
    facts = [
        ("passes", f"{before} as written, {after} as compiled"),
        ("computes in", f"{stated(kernel.dtype)}, by {kernel.backend}"),
        ("compiled variants", f"{len(kernel._variants)}"),
        ("contract", ", ".join(dict.fromkeys(s.contract for s in form.steps)) or "exact"),
    ]
    names = names_of(kernel._source, d, form)
    return kernel_markup(head(kernel._source, names, stated(kernel.dtype)), formula(kernel._source), facts)


def words(c: Cost) -> list[str]:
    """Elements that must be read or written at least once, and those that the loops of this kernel move."""
    lines = wrapped(f"each input and result once: {c.compulsory_words}", 4, WIDTH - INDENT)
    for level in c.boundaries:
        lines.append(f"between {level.between}:")
        for a in level.arrays:
            lines += wrapped(f"  {a.array}: {a.count}", 6, WIDTH - INDENT)
    return lines


def error_bound(derivation: Derivation, dtype: str, keys: int | None = None, apart: bool = True) -> str | None:
    """A first-order bound on |result - exact| in sizes, the unit roundoff and the largest absolute inputs.

    keys   steps of a loop over a reduced axis between two moves of a reference, by default those of a CPU
    apart  what they add is added up by itself first

    One line for each result; where there is no bound, the value that is the cause.
    """
    short = rounding(dtype) if dtype == PAIRED else 0.0
    text = str(numerics.error_bound(derivation, dtype=computed(dtype), keys=keys, factors=short, apart=apart))
    if not rounding(dtype):
        return text
    u = f"2^{round(math.log2(rounding(dtype)))}"
    if short and text != str(numerics.error_bound(derivation, dtype=computed(dtype), keys=keys, apart=apart)):
        text += f"\nbefore it is multiplied by elements of an argument, a computed factor may be rounded to {dtype}"
    return f"{text}\neach result is then rounded to {dtype}: by at most {u} of its size"


def error_lines(derivation: Derivation, dtype: str, keys: int, apart: bool) -> list[str]:
    bound = error_bound(derivation, dtype, keys, apart) or ""
    return [x for line in bound.splitlines() for x in wrapped(line, 4, WIDTH - INDENT)]
