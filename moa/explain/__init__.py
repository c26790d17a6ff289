"""Explain: the page that shows the whole way from a formula to a kernel, and every representation on the way.

Nothing here knows a formula: each line is made from the trace of the laws that fired and from the values between the
stages. The page renames index variables and arrays for the reader; the representations print under their own names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from moa.explain.fold import folds
from moa.explain.laws import contract, laws, refused
from moa.explain.names import names_of
from moa.explain.page import formula, groups, head, laid_out, normal_form
from moa.explain.placed import kernel_lines
from moa.explain.program import program_text
from moa.normal import Fold
from moa.pipeline import STAGES, Derivation, Placed, place
from moa.text import MoaError, printable
from moa.tile import Strategy

if TYPE_CHECKING:
    from moa.kernel import Kernel

__all__ = ["error_bound", "explain", "placed_of", "program_text"]


def explain(kernel: Kernel, stage: str | None = None, *, placed: Placed | None = None) -> str:
    """The page of a kernel, or one representation of it as text.

    stage   None for the page, or one of program, equations, normal, tiles, loops, source
    placed  the variant that the lower part is about: by default the last one that ran, else one for many rows
    Errors: MoaError of kind "argument" for a stage that does not exist
    """
    if stage is not None and stage not in STAGES:
        text = f"there is no stage {printable(stage)!r}"
        raise MoaError("argument", text, None, f"choose one of {', '.join(STAGES)}")
    d = kernel.derivation
    match stage:
        case "program":
            return program_text(d.program)
        case "equations":
            return str(d.equations)
        case "normal":
            return str(d.streamed)
    placed = placed or placed_of(kernel)
    match stage:
        case "tiles":
            return str(placed.tiles)
        case "loops":
            return str(placed.lowered.loops)
        case "source":
            return source_of(placed)
    names = names_of(kernel._source, d)
    sections = [
        ("formula", formula(kernel._source)),
        ("normal form", normal_form(kernel._source, names)),
        ("groups", groups(names)),
        ("laws", laws(names)),
        ("refused", refused(names)),
        ("fold", folds(names)),
        ("kernel", kernel_lines(names, placed, kernel._element)),
        ("contract", contract(names)),
        ("error", error_lines(d, kernel.dtype)),
    ]
    return f"{head(kernel._source, names, kernel.dtype)}\n\n{laid_out(sections)}"


def placed_of(kernel: Kernel) -> Placed:
    """The variant that ran last; before any call, the one for many rows of contiguous arrays."""
    from moa.backends.llvm import host

    built = [v.placed for v in kernel._variants.values() if v.built is not None]
    return built[-1] if built else placed_for(kernel, host().width(kernel._element))


def placed_for(kernel: Kernel, width: int, fixed: Mapping[str, int] | None = None) -> Placed:
    """The variant for many rows of contiguous arrays and vectors of `width` lanes."""
    from moa.kernel import KEYS, VECTORS

    d = kernel.derivation
    strategy = Strategy(width, VECTORS * width, KEYS[kernel._element], 4, 4 if kernel._element == "f32" else 2)
    own = {p.name for p in d.program.inputs}
    for e in d.streamed.equations:
        own |= {m.name for m in e.members} if isinstance(e, Fold) else {e.name}
    return place(d, strategy, kernel._element, fixed or {}, frozenset(own))


def source_of(placed: Placed) -> str:
    """The text that is built for a placed variant: LLVM IR for this machine."""
    from moa.backends.llvm import host, print_llvm
    from moa.expand import expand

    return print_llvm(expand(placed.lowered.loops), host())


def error_bound(derivation: Derivation, dtype: str) -> str | None:
    """A first-order bound on |result - exact| in sizes, the unit roundoff and the largest absolute inputs.

    None where it is not derived.
    """
    return None


def error_lines(derivation: Derivation, dtype: str) -> list[str]:
    bound = error_bound(derivation, dtype)
    return [] if bound is None else [bound]
