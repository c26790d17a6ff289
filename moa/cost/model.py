"""The cost of a kernel: flops, words, what moves at each level of a machine, time and energy, and a table of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moa.cost.arithmetic import flops
from moa.cost.levels import Level, Traffic, beside, formula_of, levels_of, traffic_of
from moa.cost.sums import Count, Sum, expression
from moa.cost.traffic import Words, compulsory, streamed
from moa.loops import Element
from moa.machine import Machine, bytes_text
from moa.markup import table
from moa.oracle import evaluate
from moa.poly import Poly

if TYPE_CHECKING:
    from moa.pipeline import Derivation, Placed


@dataclass(frozen=True, slots=True)
class Boundary:
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


ELEMENTS: dict[str, tuple[Element, Element | None]] = {  # (of arithmetic, of arrays where they differ)
    "float64": ("f64", None), "float32": ("f32", None), "bfloat16": ("f32", "bf16"), "float16": ("f32", "f16"),
}  # fmt: skip
NAMES = ("flops", "compulsory_words", "streamed_words", "scratch_bytes", "intensity")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a kernel costs: counts in sizes, and numbers where `sizes` gives all of them.

    flops             of the normal form, over whole boxes; what has no index variable is free
    compulsory        each distinct element of inputs that is read and of outputs, once
    boundaries        the words of arrays, nearest memory first
    traffic           what `levels` are computed from, if a machine was named
    scratch_bytes     of one thread
    passes            (as written, as compiled): the most traversals of one axis
    """

    name: str
    flops: Poly
    compulsory: tuple[Words, ...]
    boundaries: tuple[Boundary, ...]
    scratch_bytes: Poly
    passes: tuple[int, int]
    dtype: str
    traffic: Traffic | None = None
    machine: Machine | None = None
    sizes: tuple[tuple[str, int], ...] = ()

    @property
    def compulsory_words(self) -> Count:
        return total(self.compulsory)

    @property
    def streamed_words(self) -> Count:
        """Words between the memory where arrays live and the cache that holds one work item."""
        return self.boundaries[0].words

    @property
    def intensity(self) -> float | None:
        """flop per streamed word, at the sizes given."""
        return None if not self.sizes else self.number("flops") / max(self.number("streamed_words"), 1)

    @property
    def levels(self) -> tuple[Level, ...]:
        """What moves at each level of the machine, nearest first, at the sizes given; () without sizes or a machine."""
        if self.machine is None or self.traffic is None or not self.sizes:
            return ()
        return levels_of(self.traffic, self.machine, dict(self.sizes))

    def beside(self, simulated: Sequence[Any]) -> tuple[Level, ...]:
        """The levels with what simulated caches of the same capacities moved (`moa.measure.SimulatedLevel`)."""
        return beside(self.levels, simulated)

    def times_s(self) -> tuple[tuple[str, float], ...]:
        """(what is waited for, seconds) for arithmetic and each level; the time is at least the largest of them.

        flops are those of whole boxes, and all threads share the work evenly
        """
        if not self.levels:
            return ()
        m = self.machine
        assert m is not None
        out = [("flops", self.number("flops") / m.rate(self.dtype))]
        for level, farther in zip(self.levels, m.levels[1:], strict=True):
            if level.predicted_bytes is not None:
                out.append((farther.name, level.predicted_bytes / farther.bytes_per_s))
        return tuple(out)

    def energy_j(self) -> float | None:
        """Joules by the machine's table: of flops, and of bytes at each level that is predicted. A model."""
        if not self.levels:
            return None
        m = self.machine
        assert m is not None
        total = self.number("flops") * m.flop_pj(self.dtype)
        for level, farther in zip(self.levels, m.levels[1:], strict=True):
            total += (level.predicted_bytes or 0) * farther.pj_per_byte
        return total * 1e-12

    def formula(self, name: str) -> Any:
        """One of NAMES, or the predicted bytes of a level by its name, as an expression of sympy.

        The latter is within 2 % of what is predicted at the sizes given: a closed form in sizes, M_bytes (the capacity)
        and scratch_bytes, or where there is none (a tile does not fit, several phases share what stays) what items
        touch, in sizes, times the shares of it that move here. `formula_is` says which; None where there is neither.
        """
        if (found := self._formula_of(name)) is not None:
            return found[0]
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

    def formula_is(self, name: str) -> str:
        """What the formula of a level is, one of `moa.cost.levels.FORMULAS`; where there is none, the reason."""
        found = self._formula_of(name)
        assert found is not None, f"no level is named {name}"
        return found[1]

    def _formula_of(self, name: str) -> tuple[Any, str] | None:
        levels = self.levels
        level = next((x for x in levels if x.name == name), None)
        if level is None or self.traffic is None:
            return None
        return formula_of(self.traffic, levels, level, dict(self.sizes))

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
        for b in self.boundaries:
            row(f"words, {b.between}", b.words)
            for a in b.arrays:
                row(f"  {a.array}", a.count)
        row("scratch bytes", self.scratch_bytes)
        if self.intensity is not None:
            rows.append(("flop per word", f"{self.intensity:,.2f}", ""))
        rows.append(("passes", "", f"{self.passes[0]} -> {self.passes[1]}"))
        return [*rows, *self.level_rows()]

    def level_rows(self) -> list[tuple[str, str, str]]:
        """The lines of the levels."""
        rows: list[tuple[str, str, str]] = []
        if not self.levels:
            return rows
        assert self.machine is not None
        rows.append(("on", self.machine.name, f"{self.machine.title}; one thread does all"))
        for level in self.levels:
            title = f"bytes beyond {level.name}, {bytes_text(level.capacity_bytes)}"
            unknown = "not predicted" if level.predicted_bytes is None else f"{level.predicted_bytes:,}"
            where = f"{level.regime}; at most: data say what is visited" if level.at_most else level.regime
            rows.append((title, unknown, where))
            rows.append(("  compulsory", f"{level.compulsory_bytes:,}", "each byte once"))
            rows.append(
                ("  lower bound", f"{level.lower_bound_bytes:,}", "certified: no order of this work moves less")
            )
            rows.append(("  conjectured bound", f"{level.conjectured_bound_bytes:,}", "conjectured, not proved"))
            about = "no row fits" if level.attainable_bytes is None else f"{level.attainable_bytes:,}"
            rows.append(("  attainable, about", about, "with as many rows at a time as fit"))
        times = self.times_s()
        longest = max(times, key=lambda x: x[1])
        rows.append(("time, at least", f"{longest[1] * 1e3:.4g} ms", ", ".join(f"{w} {t * 1e3:.4g}" for w, t in times)))
        rows.append(
            ("energy, a model", f"{(self.energy_j() or 0) * 1e3:.4g} mJ", "levels that are not predicted left out")
        )
        return rows

    def __str__(self) -> str:
        rows = self.rows()
        widths = [max(len(r[k]) for r in rows) for k in (0, 1)]
        lines = [f"  {a:{widths[0]}}  {b:>{widths[1]}}  {c}".rstrip() for a, b, c in rows]
        return "\n".join([self.title, *lines])

    def _repr_html_(self) -> str:
        return table(self.title, ("", "value", "formula"), self.rows())


def cost(
    derivation: Derivation,
    placed: Placed,
    machine: Machine | None = None,
    dtype: str = "float32",
    counted: Poly | None = None,
    /,
    **sizes: int,
) -> Cost:
    """The cost of a placed derivation, whose operations are those `counted`, by default those of its normal form.

    `sizes` are values of its sizes and integer parameters, all of them or none.
    Sizes that are literals in the tiles are literals in the words too.
    Errors: AssertionError where some are given and one is missing
    """
    wanted = names(derivation)
    missing = [n for n in wanted if sizes and n not in sizes]
    assert not missing, f"no value for {', '.join(missing)}"
    boundary = Boundary("memory and the cache of one work item", streamed(placed.tiles))
    return Cost(
        derivation.program.name,
        flops(derivation.equations) if counted is None else counted,
        compulsory(placed.tiles),
        (boundary,),
        placed.lowered.scratch_bytes,
        derivation.report.passes,
        dtype,
        None if machine is None else traffic_of(placed.tiles, *ELEMENTS[dtype], placed.strategy.width),
        machine,
        tuple((n, sizes[n]) for n in wanted) if sizes else (),
    )


def names(derivation: Derivation) -> tuple[str, ...]:
    """The sizes and integer parameters of a program."""
    program = derivation.program
    return (*program.sizes(), *(p.name for p in program.inputs if p.kind == "i" and not p.shape))
