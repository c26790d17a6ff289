"""Tables of laws, and the trace of those that fired."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Contract = Literal["exact", "reassociates", "rescales", "approximates", "assumes finite", "cancels"]


@dataclass(frozen=True, slots=True)
class Law:
    """A law of the book: what it says, where it comes from, what it does to numbers.

    name       as `explain` prints it
    statement  the equation, left = right, with its side condition
    contract   what it does to floating-point values
    source     a paper, or the name of the algebraic property
    stage      the stage whose table it belongs to
    how        where it is applied, if not by the stage itself one firing at a time
    """

    name: str
    statement: str
    contract: Contract
    source: str
    stage: str
    apply: Callable[..., Any]
    how: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One firing of a law: on what, with which side conditions and how each was established."""

    law: str
    target: str
    before: str
    after: str
    conditions: tuple[tuple[str, str], ...] = ()
    passes: tuple[int, int] | None = None
    contract: Contract = "exact"


@dataclass(slots=True)
class Trace:
    """The steps of one compilation, in order, and what was refused with its reason.

    others   steps that made other forms of the system than the one as written (each `Form` has its own as well)
    """

    steps: list[Step] = field(default_factory=list)
    refused: list[tuple[str, str, str]] = field(default_factory=list)  # (law, target, reason)
    counts: dict[str, int] = field(default_factory=dict)  # structural rules fire often: only counted
    others: list[Step] = field(default_factory=list)

    def fired(self, law: str) -> int:
        return self.counts.get(law, 0) + sum(1 for s in self.steps if s.law == law)


class Table:
    """A table of laws of one stage; `law` is the decorator that enters a function into it."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.laws: dict[str, Law] = {}

    def law(
        self, name: str, statement: str, *, contract: Contract = "exact", source: str, how: str = ""
    ) -> Callable[[Any], Any]:
        def enter(f: Callable[..., Any]) -> Callable[..., Any]:
            assert name not in self.laws, name
            self.laws[name] = Law(name, statement, contract, source, self.stage, f, how)
            return f

        return enter

    def __getitem__(self, name: str) -> Law:
        return self.laws[name]
