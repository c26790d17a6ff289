"""What is kept of a compilation on disk: enough to call the kernel again without deriving anything.

Three kinds of entries: the front of a text (its typed program, and the outlines of its forms), the outlook of a form
(what its tiles do), and a variant (what a call packs, and the machine code). All else is derived when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from moa import ir
from moa.cache import keep, recalled
from moa.cost.choice import Made, Outlook, Rounds, Sketch
from moa.cost.sets import Part
from moa.forms import Outline, in_lengths
from moa.lower import Slot
from moa.parse import parse, parse_expression, with_kernel
from moa.pipeline import Derivation, Packing
from moa.record import from_json, to_json
from moa.text import Span
from moa.tile import Strategy
from moa.tiles import Array

T = TypeVar("T")


class Builder(Protocol):
    """What a backend builds by: a module, or a command for one device."""

    def identity(self) -> str:
        """All that decides what is built, apart from this package."""

    def restored(self, object_bytes: bytes, phases: int) -> Any:
        """What was built, from its `object_bytes`."""


@dataclass(frozen=True, slots=True)
class Written:
    """A program as it was given: the text of a file, or an expression with its shapes. It is parsed when needed."""

    text: str
    file: str
    shapes: tuple[tuple[str, str], ...] = ()
    function: str = ""  # the kernel; "" is the last one

    def parsed(self) -> ir.Source:
        """The program, its kernel last.

        Errors: MoaError at the place of the mistake, of kind "argument" if there is no such function
        """
        if self.shapes:
            source = parse_expression(self.text, self.file, dict(self.shapes))
        else:
            source = parse(self.text, self.file)
        return with_kernel(source, self.function) if self.function else source

    def parts(self) -> tuple[str, ...]:
        """What tells it from other texts."""
        return (self.text, self.file, self.function, *(x for pair in self.shapes for x in pair))


@dataclass(frozen=True, slots=True)
class Front:
    """What calls need of a derivation.

    passes  the most traversals of one axis, as written and as compiled
    """

    program: ir.Program
    forms: tuple[Outline, ...]
    passes: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of a text before anything is derived, `...` standing for no axes.

    lead  for each parameter with `...` in its shape, how many axes are written beside it
    """

    program: ir.Program
    lead: tuple[tuple[str, int], ...]


CLASSES = (
    *(ir.Program, ir.Input, ir.Value, ir.Scan, ir.Obligation, ir.Range, ir.At, ir.New, ir.Gather, Span),
    *(Head, Front, Outline, Packing, Slot, Array, Outlook, Sketch, Rounds, Made, Part, Strategy),
)


def front_of(derivation: Derivation) -> Front:
    outlines = tuple(f.outline() for f in in_lengths(derivation.forms))
    return Front(derivation.program, outlines, derivation.report.passes)


def leading(source: ir.Source) -> tuple[tuple[str, int], ...]:
    """The parameters with `...` in their shapes: how many axes are written beside it."""
    out: list[tuple[str, int]] = []
    for p in source.functions[-1].parameters:
        if p.dims and any(isinstance(d, ir.Name) and d.name == "..." for d in p.dims):
            out.append((p.name.name, len(p.dims) - 1))
    return tuple(out)


@dataclass(frozen=True, slots=True)
class Kept:
    """The entries of one text. Without a text, nothing is kept."""

    written: Written | None

    def value(self, wanted: Any, make: Callable[[], T], *parts: str) -> T:
        """What `make` gives, which is a `wanted`, from the disk if it is there."""
        found: T | None = self.get(wanted, *parts)
        if found is not None:
            return found
        made = make()
        self.put(made, *parts)
        return made

    def get(self, wanted: Any, *parts: str) -> Any:
        """What was put, which is a `wanted`, or None."""
        content = None if self.written is None else recalled("value", *parts, *self.written.parts())
        if content is None:
            return None
        try:
            return from_json(content, wanted, CLASSES)
        except ValueError:
            return None

    def put(self, made: Any, *parts: str) -> None:
        """Keeps a value for other processes."""
        if self.written is not None:
            with suppress(RecursionError):  # what is nested too deep to be written is not kept
                keep(to_json(made).encode(), "value", *parts, *self.written.parts())

    def variant(self, builder: Builder, make: Callable[[], tuple[Packing, Any]], *parts: str) -> tuple[Packing, Any]:
        """What `make` gives: what calls pack, and what the backend built. Parts and builder tell it from others."""
        if self.written is None:
            return make()
        parts = ("variant", builder.identity(), *parts, *self.written.parts())
        content = recalled(*parts)
        if content is not None:
            head, _, code = content.partition(b"\n")
            try:
                packing = from_json(head, Packing, CLASSES)
                return packing, builder.restored(code, len(packing.items))
            except ValueError:
                pass
        packing, built = make()
        with suppress(RecursionError):
            keep(to_json(packing).encode() + b"\n" + built.object_bytes, *parts)
        return packing, built
