"""The contract of a whole derivation: what its laws and functions do to numbers, worst first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from moa.normal import Eq, Normal, Scalar, cond_scalars, subterms
from moa.pipeline import Derivation
from moa.rewrite import Contract

WORST_FIRST: tuple[Contract, ...] = (
    "cancels",
    "assumes finite",
    "approximates",
    "rescales",
    "reassociates",
    "exact",
)
assert set(WORST_FIRST) == set(get_args(Contract))

ULPS = {"exp2": 1.54, "exp": 0.92, "log": 0.89, "tanh": 2.51, "erf": 1.6}
"""The largest errors of the functions that are made of arithmetic, in units of the last place (see `moa.expand`)."""


@dataclass(frozen=True, slots=True)
class Brought:
    """One contract, with the laws that bring it; `approximates` with the functions and their bounds."""

    contract: Contract
    laws: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.contract}: {', '.join(self.laws)}"


def contract(derivation: Derivation) -> tuple[Brought, ...]:
    """The contracts of the laws that fired, worst first; where none did and nothing is rounded otherwise, `exact`."""
    found: dict[Contract, dict[str, None]] = {}
    for s in derivation.trace.steps:
        found.setdefault(s.contract, {})[s.law] = None
    for m in (m for moved in derivation.report.moved for _, m in moved.members):
        if m.width > 1:  # differences from a reference, moved by the binomial theorem
            found.setdefault("cancels", {})["change of reference"] = None
    for name in functions(derivation.inlined):
        text = f"{name} within {ULPS[name]} ulp"
        if name == "exp" and derivation.trace.fired("change of reference"):
            text += f", exp2 within {ULPS['exp2']} ulp"
        found.setdefault("approximates", {})[text] = None
    if any(isinstance(e, Eq) and e.op in ("add", "mul") for e in derivation.inlined.equations):
        found.setdefault("reassociates", {})["tiling"] = None
    if not found:
        return (Brought("exact", ()),)
    return tuple(Brought(c, tuple(found[c])) for c in WORST_FIRST if c in found)


def functions(normal: Normal) -> list[str]:
    """The functions of the system that are made of arithmetic, by name."""
    used: set[str] = set()

    def walk(s: Scalar) -> None:
        for x in subterms(s):
            used.add(x.op)

    for e in normal.equations:
        if isinstance(e, Eq):
            for c, s in e.pieces:
                for x in (s, *cond_scalars(c)):
                    walk(x)
    for r in normal.recurrences:
        for s in (x for c in r.components for x in (c.start, c.body)):
            walk(s)
        for s in (s for e in (*r.maps, *r.readers) for _, s in e.pieces):
            walk(s)
    return [name for name in ULPS if name in used]
