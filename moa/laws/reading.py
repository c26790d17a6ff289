"""Reading a body as a product that a change of reference can move: data, exponentials, differences, guards.

The exponent of what is read is a sum of rate * (u - r), each proved to be at most 0: r is a maximum (minimum for a
negative rate) of the same traversal whose own body, under the piece's condition, is u as a polynomial. Where that is
not proved and the exponent is u + rest, rest free of the axis, the reference is the maximum of u itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from fractions import Fraction

from moa.laws.algebra import (
    ONE,
    ZERO,
    Form,
    coefficient_of,
    expand,
    factors,
    form_text,
    guarded,
    product,
    reads,
    rebuild,
    single,
    split_axis,
)
from moa.laws.guard import tested
from moa.laws.sign import form_sign
from moa.laws.split import assume, implies
from moa.laws.table import LAWS
from moa.laws.terms import addends, total
from moa.normal import Cond, Eq, Member, Scalar, apply, both, cond_loads, cond_scalars, lit, load, loads, negate
from moa.ops import OPERATORS

LOWEST = Scalar("param", ("lowest",))  # the lowest finite number of the compute type; the backend binds it


class Stays(Exception):
    """The law does not apply, with the reason: the reduction stays where it is."""


@dataclass(frozen=True, slots=True)
class Live:
    """A reduction of the same traversal: its equation and what its value is over the states so far."""

    eq: Eq
    member: Member

    @property
    def value(self) -> Scalar:
        return load(self.eq.name, self.eq.index())


@dataclass(frozen=True, slots=True)
class Reference:
    """One reference of an exponential.

    rate    the factor of (u - r)
    u       what is compared with it, over the axis
    true    the value of the reference when the traversal is over
    finite  the same kept finite
    """

    rate: Form
    u: Scalar
    true: Scalar
    finite: Scalar
    infinity: float
    proof: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A reduction of the traversal that dominates a value outer * core, with `scale` times itself.

    finite   the value is finite even where the reduction is not
    """

    name: str
    scale: Form
    core: Scalar
    outer: Form
    finite: bool

    def in_units(self) -> Scalar:
        """The value divided by the scale: comparable with the body of the reduction."""
        inverse = self.scale.inverse()
        assert inverse is not None
        return _through(self.core, inverse * self.outer)


@dataclass(frozen=True, slots=True)
class Difference:
    """A factor (x - true) ** power."""

    x: Scalar
    true: Scalar
    power: int


@dataclass(slots=True)
class Reading:
    """One piece of a body, read as a product.

    plain, outside   the factors of the data, and those of them that stand beside what is guarded
    own   (u, rest) where the exponent is u + rest and the reference is the maximum of u, which nothing else reads
    """

    cond: Cond
    plain: list[tuple[Scalar, int]] = field(default_factory=list)
    outside: list[tuple[Scalar, int]] = field(default_factory=list)
    exponents: list[Scalar] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    guards: list[Cond] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)
    unguarded: bool = False
    own: tuple[Scalar, Scalar] | None = None

    @property
    def is_zero(self) -> bool:
        """Whether it is 0 (or no number) at any reference."""
        return not self.exponents and any(x is lit(0) for x, _ in self.plain)


class Reader:
    """A body is looked at with the axis, and with the reductions whose values are still running."""

    def __init__(self, axis: str, live: Mapping[str, Live], facts: Set[str]) -> None:
        self.axis, self.live, self.facts = axis, live, facts
        self.guards: list[tuple[str, str]] = []

    def depends(self, s: Scalar) -> bool:
        return not self.live.keys().isdisjoint(reads(s))

    def free(self, s: Scalar) -> bool:
        return self.axis not in s.vars()

    # reading -----------------------------------------------------------------------------------------------------

    def read(self, c: Cond, body: Scalar, domain: Cond) -> Reading | None:
        """The piece as a product; None where it vanishes because its exponent is -inf and references are finite."""
        out = Reading(c)
        coefficient, parts = factors(body)
        if coefficient != 1:
            out.plain.append((lit(coefficient), 1))
        for x, p in parts:
            self.factor(x, p, out)
        if out.exponents and self._vanishes(out.exponents):
            return None
        if out.exponents:
            try:
                self.match(out, both(domain, c))
            except Stays as reason:
                self.match_itself(out, reason)
        self._drop_guards(out)
        out.unguarded = bool(out.references) and not out.guards and out.unguarded
        return out

    def factor(self, x: Scalar, power: int, out: Reading, inside: bool = False) -> None:
        if not self.depends(x):
            out.plain.append((x, power))
            if not inside:
                out.outside.append((x, power))
            return
        if x.op == "exp":
            argument = x.args[0] if power > 0 else apply("neg", x.args[0])
            out.exponents.append(argument)
            return
        if power < 0:
            raise Stays(f"a reference inside a divisor, {x}")
        found = guarded(x)
        if found is not None:
            c, y = found
            if any(self.depends(s) for s in cond_scalars(c)):
                raise Stays(f"a reference inside a condition, {c}")
            out.guards.append(negate(c))
            coefficient, parts = factors(y)
            if coefficient != 1:
                out.plain.append((lit(coefficient), 1))
            for z, p in parts:
                self.factor(z, p, out, True)
            return
        if x.op in ("add", "sub"):
            self.difference(x, out)
            return
        raise Stays(f"a reference inside {x.op}")

    def difference(self, s: Scalar, out: Reading) -> None:
        have, free = [], []
        for sign, y in addends(s):
            if self.free(y):
                free.append((-sign, y))
            elif self.depends(y):
                raise Stays(f"a reference multiplies data, in {y}")
            else:
                have.append((sign, y))
        if not have:
            raise Stays(f"no data beside the reference, in {s}")
        x, true = total(have), total(free)
        for k, d in enumerate(out.differences):
            if d.x is x and d.true is true:
                out.differences[k] = replace(d, power=d.power + 1)
                return
        out.differences.append(Difference(x, true, 1))

    def _vanishes(self, exponents: Sequence[Scalar]) -> bool:
        for s in exponents:
            for k, c in expand(s).terms.items():
                for a, p in k.atoms:
                    infinite = a.op == "lit" and isinstance(a.args[0], float) and p == 1
                    rest = tuple(b for b in k.atoms if b[0] is not a)
                    scale = Form({k._replace(atoms=rest): c})
                    if infinite and form_sign(scale, self.facts) * a.args[0] == -math.inf:
                        return True
        return False

    # exponents ---------------------------------------------------------------------------------------------------

    def match(self, out: Reading, where: Cond) -> None:
        """Write the exponents of a piece as a sum of rate * (u - r), each at most 0."""
        exponent = ZERO
        for s in out.exponents:
            exponent = exponent + expand(s)
        left = exponent
        _, free = split_axis(exponent, self.axis)
        for k, c in free.terms.items():
            atoms = [a for a in k.atoms if self.depends(a[0])]
            if not atoms:
                continue
            if len(atoms) != 1 or atoms[0][1] != 1 or k.exponent is not None:
                raise Stays(f"an exponent that is not linear in {', '.join(str(a) for a, _ in atoms)}")
            atom = atoms[0][0]
            minus = -Form({k._replace(atoms=tuple(a for a in k.atoms if a[0] is not atom)): c})
            reference = self.reference(atom, minus, left, where)
            out.references.append(reference)
            left = left - reference.rate * expand(reference.u) + minus * single(atom)
        if left:
            raise Stays(f"exponent <= 0 is not proved: {form_text(left)} remains of {form_text(exponent)}")
        out.unguarded = not any(r.infinity == 0.0 for r in out.references)

    def match_itself(self, out: Reading, reason: Stays) -> None:
        """Write the exponents as u + rest, rest free of the axis: the maximum of u is a reference for any rest."""
        exponent = sum((expand(s) for s in out.exponents), ZERO)
        have, free = split_axis(exponent, self.axis)
        u = rebuild(have)
        if not have or self.depends(u):
            raise reason
        out.references, out.own, out.unguarded = [], (u, rebuild(free)), False

    def reference(self, atom: Scalar, minus: Form, exponent: Form, where: Cond) -> Reference:
        """The reference that `atom`, standing with coefficient -minus, is: a reduction of the group dominates it."""
        reasons = []
        for candidate in self.candidates(atom):
            name, m = candidate.name, self.live[candidate.name]
            rate = minus * candidate.scale
            sign = form_sign(rate, self.facts)
            wanted = 1 if m.eq.op == "max" else -1
            if sign == 0:
                reasons.append(f"the sign of the rate {form_text(rate)} is not known")
                continue
            if sign != wanted:
                reasons.append(f"{name} is a {m.eq.op} and the rate {form_text(rate)} has the wrong sign")
                continue
            if not implies(where, m.eq.domain):
                reasons.append(f"{name} is taken over a smaller domain")
                continue
            u = self.body(m.eq, where)
            if u is None:
                reasons.append(f"{name} has no piece that covers {where}")
                continue
            true = candidate.in_units()
            if (
                split_axis(exponent - rate * expand(u), self.axis)[0].terms.keys()
                & split_axis(expand(u), self.axis)[0].terms.keys()
            ):
                reasons.append(f"{form_text(exponent)} is not {form_text(rate)} * ({u} - {name})")
                continue
            extreme, bound = ("max", product([(LOWEST, 1)], Fraction(1, 2)))
            if m.eq.op == "min":
                extreme, bound = "min", product([(LOWEST, 1)], Fraction(-1, 2))
            identity = OPERATORS[m.eq.op].identity
            assert isinstance(identity, float)
            proof = f"{u} {'<=' if m.eq.op == 'max' else '>='} {name}, its own body"
            return Reference(rate, u, true, apply(extreme, true, bound), 0.0 if candidate.finite else identity, proof)
        raise Stays("exponent <= 0 is not proved: " + ("; ".join(reasons) or f"{atom} is not a maximum of it"))

    def body(self, e: Eq, where: Cond) -> Scalar | None:
        """The body of a reduction where a condition holds, None where no single piece covers it."""
        for c, s in e.pieces:
            if implies(where, c):
                return assume(s, where)
        return None

    def candidates(self, atom: Scalar) -> list[Candidate]:
        """The reductions of the traversal that dominate an atom: itself, an operand of a maximum, a guarded one."""
        if atom.op == "load" and atom.args[0] in self.live:
            m = self.live[atom.args[0]]
            fits = m.eq.op in ("max", "min") and atom is m.value
            return [Candidate(atom.args[0], ONE, atom, ONE, False)] if fits else []
        if atom.op in ("max", "min"):
            return [
                Candidate(x.name, x.scale, atom, ONE, x.finite)
                for operand in atom.args
                for x in self._scaled(operand)
                if self.live[x.name].eq.op == atom.op and form_sign(x.scale, self.facts) > 0
            ]
        if atom.op == "select":
            c, a, b = atom.args
            found = tested(c)
            if found is not None and a.op == "lit" and isinstance(a.args[0], Fraction):
                same = {
                    x.name
                    for x in self._scaled(found[0])
                    if form_sign(x.scale, self.facts) > 0 and OPERATORS[self.live[x.name].eq.op].identity == found[1]
                }
                return [replace(x, finite=True) for x in self._scaled(b) if x.name in same]
        return []

    def _scaled(self, s: Scalar) -> list[Candidate]:
        """The candidates of a scalar that is a factor times one value of the traversal."""
        f = expand(s)
        if len(f.terms) != 1:
            return []
        ((k, _),) = f.terms.items()
        atoms = [a for a, p in k.atoms if p == 1 and self.depends(a)]
        if len(atoms) != 1 or k.exponent is not None:
            return []
        outer = coefficient_of(f, atoms[0])
        return [replace(x, scale=outer * x.scale, outer=outer * x.outer) for x in self.candidates(atoms[0])]

    def _drop_guards(self, out: Reading) -> None:
        """Remove the guards that finite references make needless; the others stay around the basis."""
        exponent = ZERO if out.own is None else expand(out.own[0])
        for r in out.references:
            exponent = exponent + r.rate * expand(r.u)
        kept = []
        beside = {a for x in (*(x for x, _ in out.plain), *(d.x for d in out.differences)) for a in loads(x)}
        for c in out.guards:
            infinite = not beside.isdisjoint(cond_loads(c))  # 0 times infinity is no number
            why = LAWS["drop a guard"].apply(c, exponent, self.axis, self.facts) if exponent and not infinite else None
            if why is None:
                kept.append(c)
            else:
                self.guards.append((str(c), why))
        if out.guards:
            out.unguarded = False
        out.guards = kept


def _through(s: Scalar, k: Form) -> Scalar:
    """k * s for k > 0, written inside maxima and minima so that no rounding parts a maximum from its arguments."""
    if s.op in ("max", "min"):
        return apply(s.op, *(_through(x, k) for x in s.args))
    return rebuild(k * expand(s))
