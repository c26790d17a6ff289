"""Normalise: psi-reduction of a typed Program to a system of equations.

An array is a shape and an index function, so every structural operator vanishes into the index of its operand by the
rules of one table (`moa.psi.rules`). What remains are Reduces, recurrences and the outputs. Everything else is inlined
here; which sub-expressions deserve a name is decided afterwards, from the whole system (`moa.naming`).
"""

from __future__ import annotations

from moa.ir import Program
from moa.naming import reads
from moa.normal import ArrayInput, Eq, Normal, Recurrence, loads
from moa.psi.build import Builder, Order
from moa.psi.rules import PSI
from moa.psi.runs import once_a_run
from moa.rewrite import Trace

__all__ = ["PSI", "Order", "normalise"]


def normalise(program: Program, trace: Trace, order: Order = Order()) -> Normal:  # noqa: B008
    """The system of equations of a program: Reduces and one Map an output, everything else inlined.

    Source: the psi calculus, rows 1 to 23 of Mullin's rules; index functions compose on demand.
    """
    builder = Builder(program, trace, order, taken={p.name for p in program.inputs})
    if order.early:
        builder.early()
    outputs = tuple(builder.output(k, number) for k, number in enumerate(program.outputs))
    inputs = tuple(ArrayInput(p.name, p.kind, p.shape) for p in program.inputs)
    recurrences = tuple(builder.recurrences)
    equations = needed(builder.equations, {*outputs, *builder.stored}, recurrences)
    if not recurrences:
        equations = tuple(once_a_run(list(equations), trace))
    return Normal(program.name, inputs, equations, outputs, recurrences, tuple(builder.stored))


def needed(equations: list[Eq], wanted: set[str], recurrences: tuple[Recurrence, ...]) -> tuple[Eq, ...]:
    """The equations that outputs and recurrences read, in order."""
    for r in recurrences:
        for e in (*r.maps, *r.readers):
            wanted = wanted | reads(e)
        for c in r.components:
            wanted = wanted | {a for s in (c.start, c.body) for a, _ in loads(s)}
    out: list[Eq] = []
    for e in reversed(equations):
        if e.name in wanted:
            wanted = wanted | reads(e)
            out.append(e)
    return tuple(out[::-1])
