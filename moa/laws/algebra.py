"""The structural algebra engine: scalars as sums of products, exactly, without a computer algebra system.

A `Form` is the *expanded* view of a scalar: a sum of terms, a term being an exact coefficient, a product of atoms
raised to integer powers, and one exponential whose exponent is again a Form. Two scalars are equal as polynomials iff
their Forms are equal. `factors` is the *unexpanded* view: a product whose sums stay whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from fractions import Fraction
from functools import cache
from typing import NamedTuple

from moa.normal import Cond, Scalar, apply, cond_loads, integer, lit, loads
from moa.ops import REDUCERS
from moa.poly import Poly

MAX_TERMS = 64  # a product that would expand beyond this stays an atom

Product = tuple[tuple[Scalar, int], ...]  # atoms and their powers, sorted by text


class Key(NamedTuple):
    """What a term is apart from its coefficient."""

    atoms: Product
    exponent: Form | None  # of one exponential; None is exp(0)


class Form:
    """A sum of terms with exact coefficients. Equal iff equal as a polynomial in the atoms and exponentials."""

    __slots__ = ("_hash", "terms")

    def __init__(self, terms: dict[Key, Fraction]) -> None:
        self.terms = {k: c for k, c in terms.items() if c}
        self._hash = hash(frozenset(self.terms.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Form) and self._hash == other._hash and self.terms == other.terms

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Form({rebuild(self)})"

    def __bool__(self) -> bool:
        return bool(self.terms)

    def __add__(self, other: Form) -> Form:
        terms = dict(self.terms)
        for k, c in other.terms.items():
            terms[k] = terms.get(k, Fraction(0)) + c
        return Form(terms)

    def __neg__(self) -> Form:
        return Form({k: -c for k, c in self.terms.items()})

    def __sub__(self, other: Form) -> Form:
        return self + -other

    def __mul__(self, other: Form) -> Form:
        out: dict[Key, Fraction] = {}
        for a, c in self.terms.items():
            for b, d in other.terms.items():
                for k, e in _times(a, b).terms.items():
                    out[k] = out.get(k, Fraction(0)) + c * d * e
        return Form(out)

    def inverse(self) -> Form | None:
        """1 / self where self is one term, else None."""
        if len(self.terms) != 1:
            return None
        ((k, c),) = self.terms.items()
        exponent = None if k.exponent is None else -k.exponent
        return Form({Key(tuple((a, -p) for a, p in k.atoms), exponent): 1 / c})


ZERO = Form({})
UNIT = Key((), None)
ONE = Form({UNIT: Fraction(1)})


def constant(value: Fraction | int) -> Form:
    return Form({UNIT: Fraction(value)})


def single(atom: Scalar, power: int = 1) -> Form:
    return Form({Key(((atom, power),), None): Fraction(1)})


def exponential(e: Form) -> Form:
    """exp(e); the terms k log(a) of e, k an integer, become a ** k."""
    out, rest = ONE, dict(e.terms)
    for k, c in e.terms.items():
        if c.denominator == 1 and k.exponent is None and len(k.atoms) == 1 and k.atoms[0][1] == 1:
            atom = k.atoms[0][0]
            if atom.op == "log":
                base = expand(atom.args[0])
                if len(base.terms) != 1:
                    base = single(atom.args[0])
                step = base if c > 0 else base.inverse()
                assert step is not None
                for _ in range(abs(int(c))):
                    out = out * step
                del rest[k]
    left = Form(rest)
    return out * Form({Key((), left): Fraction(1)}) if left else out


def _times(a: Key, b: Key) -> Form:
    powers = dict(a.atoms)
    for x, p in b.atoms:
        powers[x] = powers.get(x, 0) + p
    extra = ONE
    for x, p in list(powers.items()):
        if x.op == "sqrt" and abs(p) >= 2:  # sqrt(y) ** 2 = y
            inner = expand(x.args[0])
            inner = inner if len(inner.terms) == 1 else single(x.args[0])
            step = inner if p > 0 else inner.inverse()
            assert step is not None
            for _ in range(abs(p) // 2):
                extra = extra * step
            powers[x] = p - 2 * (abs(p) // 2) * (1 if p > 0 else -1)
    atoms = tuple(sorted(((x, p) for x, p in powers.items() if p), key=lambda t: str(t[0])))
    exponent = a.exponent if b.exponent is None else b.exponent if a.exponent is None else a.exponent + b.exponent
    if exponent is not None and not exponent:
        exponent = None
    out = Form({Key(atoms, exponent): Fraction(1)})
    return out if extra is ONE else out * extra


@cache
def expand(s: Scalar) -> Form:
    """The scalar as a sum of products of atoms.

    add, sub, neg, mul and div are opened; exp becomes an exponential of a Form; a logarithm of one exponential is its
    exponent. Everything else, and an integer expression with index variables (differences stay whole), is an atom.
    """
    match s.op:
        case "lit":
            return constant(s.args[0]) if isinstance(s.args[0], Fraction) else single(s)
        case "int":
            return _expand_integer(s.args[0])
        case "add":
            return expand(s.args[0]) + expand(s.args[1])
        case "sub":
            return expand(s.args[0]) - expand(s.args[1])
        case "neg":
            return -expand(s.args[0])
        case "mul":
            a, b = expand(s.args[0]), expand(s.args[1])
            return a * b if len(a.terms) * len(b.terms) <= MAX_TERMS else single(s)
        case "div":
            below = expand(s.args[1])
            inverse = below.inverse()
            return expand(s.args[0]) * (single(s.args[1], -1) if inverse is None else inverse)
        case "exp":
            return exponential(expand(s.args[0]))
        case "log":
            inner = expand(s.args[0])
            if len(inner.terms) == 1:
                ((k, c),) = inner.terms.items()
                if c == 1 and not k.atoms:
                    return k.exponent if k.exponent is not None else ZERO
            return single(s)
        case _:
            return single(s)


def _expand_integer(p: Poly) -> Form:
    if p.vars():
        negative = p.terms[0][1] < 0
        return -single(integer(-p)) if negative else single(integer(p))
    out = ZERO
    for monomial, c in p.terms:
        term = constant(c)
        for a in monomial:
            term = term * single(integer(Poly({(a,): Fraction(1)})))
        out = out + term
    return out


# Back to scalars -----------------------------------------------------------------------------------------------------


def is_host(s: Scalar) -> bool:
    """Whether the scalar has no index variable and reads no array: it is evaluated once a call."""
    return not s.vars() and not reads(s)


def product(factors_: Iterable[tuple[Scalar, int]], coefficient: Fraction = Fraction(1)) -> Scalar:
    """coefficient * product of factor ** power: numerators in the order given over denominators.

    Where some numerators have all index variables of a denominator, and not all of the product, they are divided first:
    that is fewer divisions than one for each element of the product.
    """
    given = list(factors_)
    first = _divided_first([(x, p) for x, p in given if x.vars()])
    above, below = lit(coefficient.numerator), lit(coefficient.denominator)
    if first:
        above, given = apply("mul", above, product(first)), [f for f in given if f not in first]
    for x, p in given:
        for _ in range(abs(p)):
            if p > 0:
                above = apply("mul", above, x)
            else:
                below = apply("mul", below, x)
    return apply("div", above, below)


def _divided_first(parts: list[tuple[Scalar, int]]) -> list[tuple[Scalar, int]]:
    """The factors that are divided before the others are multiplied; none where the order does not matter."""
    everything = frozenset(v for x, _ in parts for v in x.vars())
    for below, _ in (f for f in parts if f[1] < 0):
        smallest = min((x.vars() for x, p in parts if p > 0 and below.vars() <= x.vars()), key=len, default=everything)
        if smallest < everything:
            return [f for f in parts if f[0].vars() <= smallest]
    return []


def rebuild_term(key: Key, coefficient: Fraction) -> Scalar:
    """One term as a scalar: what is constant on the host is one factor, and comes first."""
    host = product((a for a in key.atoms if is_host(a[0])), coefficient)
    rest = [a for a in key.atoms if not is_host(a[0])]
    if key.exponent is not None:
        rest.insert(0, (apply("exp", rebuild(key.exponent)), 1))
    above = product(a for a in rest if a[1] > 0)
    out = host if above is lit(1) else apply("mul", host, above)
    below = product((a, -p) for a, p in rest if p < 0)
    return apply("div", out, below)


def rebuild(f: Form) -> Scalar:
    """A scalar that is the form; terms in order of their text, positive ones first."""
    out: Scalar | None = None
    order = sorted(f.terms.items(), key=lambda t: (t[1] < 0, str(rebuild_term(t[0], abs(t[1])))))
    for k, c in order:
        if out is None:
            out = rebuild_term(k, c)
        elif c < 0:
            out = apply("sub", out, rebuild_term(k, -c))
        else:
            out = apply("add", out, rebuild_term(k, c))
    return lit(0) if out is None else out


def form_text(f: Form) -> str:
    return str(rebuild(f))


# Questions -----------------------------------------------------------------------------------------------------------


@cache
def reads(s: Scalar) -> frozenset[str]:
    """The names of the arrays a scalar reads, in its conditions and indices too."""
    return frozenset(name for name, _ in loads(s))


def cond_reads(c: Cond) -> frozenset[str]:
    return frozenset(name for name, _ in cond_loads(c))


def split_axis(f: Form, axis: str) -> tuple[Form, Form]:
    """(the terms that have the index variable, those that are free of it)."""
    have = {k: c for k, c in f.terms.items() if _key_has(k, axis)}
    return Form(have), Form({k: c for k, c in f.terms.items() if k not in have})


def _key_has(k: Key, axis: str) -> bool:
    if any(axis in a.vars() for a, _ in k.atoms):
        return True
    return k.exponent is not None and any(_key_has(x, axis) for x in k.exponent.terms)


def collect(f: Form, axis: str) -> dict[Key, Form]:
    """f as a linear form over what depends on the axis: {axis part of a term: its coefficient, free of the axis}."""
    out: dict[Key, Form] = {}
    for k, c in f.terms.items():
        have = tuple(a for a in k.atoms if axis in a[0].vars())
        free = tuple(a for a in k.atoms if axis not in a[0].vars())
        key = Key(have, k.exponent)
        out[key] = out.get(key, ZERO) + Form({Key(free, None): c})
    return out


def ratio(f: Form, u: Form, axis: str) -> Form | None:
    """k, free of the axis, with f = k * u on the terms that have the axis; None where there is none."""
    over, under = collect(split_axis(f, axis)[0], axis), collect(split_axis(u, axis)[0], axis)
    if not under or over.keys() != under.keys():
        return None
    first = next(iter(under))
    inverse = under[first].inverse()
    if inverse is None:
        return ONE if over == under else None
    k = over[first] * inverse
    return k if all(over[x] == k * under[x] for x in under) else None


def coefficient_of(f: Form, atom: Scalar) -> Form:
    """c where f = c * atom + rest, over the terms in which the atom stands once."""
    out: dict[Key, Fraction] = {}
    for k, c in f.terms.items():
        if (atom, 1) in k.atoms:
            out[Key(tuple(a for a in k.atoms if a[0] is not atom), k.exponent)] = c
    return Form(out)


def factors(s: Scalar) -> tuple[Fraction, list[tuple[Scalar, int]]]:
    """The scalar as coefficient and factors with power 1 or -1, in order; sums stay whole (the unexpanded view)."""
    match s.op:
        case "lit" if isinstance(s.args[0], Fraction) and s.args[0]:
            return s.args[0], []
        case "neg":
            c, f = factors(s.args[0])
            return -c, f
        case "mul" | "div":
            c, f = factors(s.args[0])
            d, g = factors(s.args[1])
            if s.op == "mul":
                return c * d, f + g
            return c / d, f + [(x, -p) for x, p in g]
        case _:
            return Fraction(1), [(s, 1)]


def guarded(s: Scalar, neutral: float = 0.0) -> tuple[Cond, Scalar] | None:
    """(c, y) where s is y under the condition c and `neutral` elsewhere, else None."""
    from moa.normal import negate

    if s.op != "select":
        return None
    c, a, b = s.args
    e = lit(neutral)
    if a is e:
        return negate(c), b
    return (c, a) if b is e else None


def is_sum(s: Scalar) -> bool:
    return s.op in ("add", "sub", "neg")


def identity_of(op: str) -> Scalar:
    """The value of an empty reduction."""
    e = REDUCERS[op].identity
    assert e is not None
    return lit(float(e))


def unused(name: str, taken: Collection[str]) -> str:
    """The name, or the first of name0, name1, .. that is not taken."""
    return next(n for n in (name, *(f"{name}{k}" for k in range(99))) if n not in taken)
