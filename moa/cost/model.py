"""The cost of a kernel: flops, words at each level of memory, scratch, and a table of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moa.cost.arithmetic import flops
from moa.cost.sums import Count, Sum, expression
from moa.cost.traffic import Words, compulsory, streamed
from moa.markup import table
from moa.oracle import evaluate
from moa.poly import Poly

if TYPE_CHECKING:
    from moa.pipeline import Derivation, Placed


@dataclass(frozen=True, slots=True)
class Level:
    """The words that cross one boundary between memories, by array.

    between         what the boundary is
    capacity_bytes  of the nearer memory; None where the model does not depend on it
    """

    between: str
    arrays: tuple[Words, ...]
    capacity_bytes: int | None = None

    @property
    def words(self) -> Count:
        return total(self.arrays)


def total(arrays: tuple[Words, ...]) -> Count:
    out = Count()
    for a in arrays:
        out = out + a.count
    return out


NAMES = ("flops", "compulsory_words", "streamed_words", "scratch_bytes", "intensity")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a kernel costs: counts in sizes, and numbers where `sizes` gives all of them.

    flops             of the normal form, over whole boxes; what has no index variable is free
    compulsory        each distinct element of inputs that is read and of outputs, once
    levels            nearest memory first
    scratch_bytes     of one thread
    passes            (as written, as compiled): the most traversals of one axis
    """

    name: str
    flops: Poly
    compulsory: tuple[Words, ...]
    levels: tuple[Level, ...]
    scratch_bytes: Poly
    passes: tuple[int, int]
    sizes: tuple[tuple[str, int], ...] = ()

    @property
    def compulsory_words(self) -> Count:
        return total(self.compulsory)

    @property
    def streamed_words(self) -> Count:
        """Words between the memory where arrays live and the cache that holds one work item."""
        return self.levels[0].words

    @property
    def intensity(self) -> float | None:
        """flop per streamed word, at the sizes given."""
        return None if not self.sizes else self.number("flops") / max(self.number("streamed_words"), 1)

    def formula(self, name: str) -> Any:
        """One of flops, compulsory_words, streamed_words, scratch_bytes, intensity as an expression of sympy."""
        match name:
            case "flops":
                return expression(self.flops)
            case "compulsory_words":
                return self.compulsory_words.formula()
            case "streamed_words":
                return self.streamed_words.formula()
            case "scratch_bytes":
                return expression(self.scratch_bytes)
            case "intensity":
                return self.formula("flops") / self.formula("streamed_words")
        raise AssertionError(f"a cost has no {name}: it has {', '.join(NAMES)}")

    def number(self, name: str) -> int:
        """The value of a formula at the sizes given."""
        sizes = dict(self.sizes)
        match name:
            case "flops":
                return evaluate(self.flops, sizes)
            case "compulsory_words":
                return self.compulsory_words.value(sizes)
            case "streamed_words":
                return self.streamed_words.value(sizes)
            case "scratch_bytes":
                return evaluate(self.scratch_bytes, sizes)
        raise AssertionError(f"a cost has no number {name}")

    @property
    def title(self) -> str:
        at = ", ".join(f"{k} = {v}" for k, v in self.sizes)
        return f"cost of {self.name}" + (f" at {at}" if at else "")

    def rows(self) -> list[tuple[str, str, str]]:
        """(what, its value at the sizes given, its formula) for each line of the table."""
        rows: list[tuple[str, str, str]] = []

        def row(title: str, formula: Poly | Count) -> None:
            counted = formula if isinstance(formula, Count) else Count((Sum(formula),))
            rows.append((title, f"{counted.value(dict(self.sizes)):,}" if self.sizes else "", str(counted)))

        row("flops", self.flops)
        row("compulsory words", self.compulsory_words)
        for level in self.levels:
            row(f"words, {level.between}", level.words)
            for a in level.arrays:
                row(f"  {a.array}", a.count)
        row("scratch bytes", self.scratch_bytes)
        if self.intensity is not None:
            rows.append(("flop per word", f"{self.intensity:,.2f}", ""))
        rows.append(("passes", "", f"{self.passes[0]} -> {self.passes[1]}"))
        return rows

    def __str__(self) -> str:
        rows = self.rows()
        widths = [max(len(r[k]) for r in rows) for k in (0, 1)]
        lines = [f"  {a:{widths[0]}}  {b:>{widths[1]}}  {c}".rstrip() for a, b, c in rows]
        return "\n".join([self.title, *lines])

    def _repr_html_(self) -> str:
        return table(self.title, ("", "value", "formula"), self.rows())


def cost(derivation: Derivation, placed: Placed, **sizes: int) -> Cost:
    """The cost of a placed derivation. `sizes` are values of its sizes and integer parameters, all of them or none.

    Sizes that are literals in the tiles are literals in the words too.
    Errors: AssertionError where some are given and one is missing
    """
    wanted = names(derivation)
    missing = [n for n in wanted if sizes and n not in sizes]
    assert not missing, f"no value for {', '.join(missing)}"
    level = Level("memory and the cache of one work item", streamed(placed.tiles))
    return Cost(
        derivation.program.name,
        flops(derivation.equations),
        compulsory(placed.tiles),
        (level,),
        placed.lowered.scratch_bytes,
        derivation.report.passes,
        tuple((n, sizes[n]) for n in wanted) if sizes else (),
    )


def names(derivation: Derivation) -> tuple[str, ...]:
    """The sizes and integer parameters of a program."""
    program = derivation.program
    return (*program.sizes(), *(p.name for p in program.inputs if p.kind == "i" and not p.shape))
