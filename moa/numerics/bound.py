"""The bound of a derivation: a formula for each output, a number where sizes and largest inputs are given."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from moa.kernel import DTYPES, KEYS
from moa.laws.split import conjuncts
from moa.normal import Eq, Fold, Normal, Scalar, cond_loads, scalar_atoms
from moa.numerics.errors import Errors
from moa.numerics.facts import Scope
from moa.numerics.posy import Largest, Posy, Unbounded
from moa.numerics.system import system
from moa.oracle import evaluate
from moa.pipeline import Derivation
from moa.poly import Atom, Poly
from moa.tile.parts import SHORT_TILE
from moa.tile.runs import SHORT_RUN

UNIT_ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53}


@dataclass(frozen=True, slots=True)
class OutputBound:
    """The bound on one output: |output - exact| <= u * formula, where u is the unit roundoff.

    formula  None where there is no bound; then `reason` says which value is the cause
    value    u * formula for the sizes and largest inputs that were given, else None
    """

    output: str
    formula: Posy | None
    value: float | None = None
    reason: str = ""

    def __str__(self) -> str:
        if self.formula is None:
            return f"no bound on |{self.output} - exact|: {self.reason}"
        if not self.formula.terms:
            return f"{self.output} is exact"
        return f"|{self.output} - exact| <= u*({self.formula})"


@dataclass(frozen=True, slots=True)
class Bound:
    """The bounds on the outputs of a derivation, in their order, for one compute type."""

    dtype: str
    outputs: tuple[OutputBound, ...]

    @property
    def unit_roundoff(self) -> float:
        return UNIT_ROUNDOFF[self.dtype]

    @property
    def values(self) -> tuple[float | None, ...]:
        return tuple(b.value for b in self.outputs)

    def __str__(self) -> str:
        lines = [str(b) for b in self.outputs]
        if any(b.formula is not None and b.formula.terms for b in self.outputs):
            lines.append(f"u = 2^{round(math.log2(self.unit_roundoff))}")
        return "\n".join(lines)


def shortest_tile(normal: Normal, keys: int) -> int:
    """How many positions of a streamed axis are between two moves at the least: `keys`, or fewer in runs."""
    equations = [x for e in normal.equations for x in ((e,) if isinstance(e, Eq) else e.maps)]
    members = [m for e in normal.equations if isinstance(e, Fold) for m in e.members]
    conds = [c for e in equations for c in (e.domain, *(c for c, _ in e.pieces))]
    conds += [c for m in members for c in (m.domain, *(c for c, _ in m.pieces))]
    scalars = [s for e in equations for _, s in e.pieces] + [s for m in members for _, b in m.pieces for s in b]
    atoms = {a for x in conds for a in x.atoms()}.union(*map(scalar_atoms, scalars))
    if any(a.kind == "div" and (a.args[1].as_int() or keys) >= SHORT_RUN for a in atoms):
        return min(keys, SHORT_RUN)
    data = (x for c in conds for x in conjuncts(c) if x.op == "or")
    return min(keys, SHORT_TILE) if any(cond_loads(x) for x in data) else keys


def error_bound(
    derivation: Derivation,
    sizes: Mapping[str, int] | None = None,
    maxima: Mapping[str, float] | None = None,
    *,
    dtype: str = "float64",
    keys: int | None = None,
    apart: bool = True,
    factors: float = 0.0,
) -> Bound:
    """A first-order bound on the rounding errors of each output.

    sizes   sizes and integer parameters by name; with `maxima` they make the bounds numbers
    maxima  the largest absolute value of each float input (and of each integer array whose values enter)
    keys    how many terms a kernel adds between two moves of a reference; by default as kernels of `dtype` do
    apart   whether these terms are added up by themselves first: kernels on processors do, those on devices do not
    factors the roundoff of a computed factor of products with elements of inputs, where it is rounded before
    """
    whole = system(derivation.streamed, derivation.report.moved)
    keys, factors = keys or KEYS[DTYPES[dtype]], factors / UNIT_ROUNDOFF[dtype]
    shortest = shortest_tile(derivation.streamed, keys)
    errors = Errors(whole, keys=keys, apart=apart, factors=factors, shortest=shortest)
    found = []
    for name, (axes, element) in whole.outputs.items():
        scope = Scope(dict(axes))
        try:
            if name in whole.refused:
                raise Unbounded(whole.refused[name])
            formula = errors.replaced(errors.error(element, scope), scope)
        except Unbounded as e:
            found.append(OutputBound(name, None, None, str(e)))
            continue
        value = None if sizes is None or maxima is None else at(formula, sizes, maxima) * UNIT_ROUNDOFF[dtype]
        found.append(OutputBound(name, formula, value))
    return Bound(dtype, tuple(found))


def at(p: Posy, sizes: Mapping[str, int], maxima: Mapping[str, float]) -> float:
    """The number that a bound over sizes and largest inputs is."""

    def number(a: Largest | Atom | Scalar) -> float:
        if isinstance(a, Largest):
            return float(maxima[a.name])
        assert isinstance(a, Atom)
        return abs(float(evaluate(Poly({(a,): 1}), sizes)))

    return p.value(number)
