"""Bounds as sums of products: positive coefficients, and atoms to rational powers.

An atom is a size, the largest absolute value of an input, a function of such a sum (exp, log, a reciprocal), or the
absolute value of one element (a `Scalar`) that a later step compares with a denominator or replaces by its bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from moa.normal import Scalar
from moa.poly import Atom as Integer
from moa.poly import Poly

Power = Fraction


class Unbounded(Exception):
    """There is no bound; the argument says which value has none."""


@dataclass(frozen=True, slots=True)
class Largest:
    """The largest absolute value of an input."""

    name: str

    def __str__(self) -> str:
        return f"max|{self.name}|"


@dataclass(frozen=True, slots=True)
class Function:
    """A function of a bound: exp, log, inverse, moves: ceil(x / by) - 1, at least 0, or least: that of x and by."""

    name: str
    of: Posy
    by: int = 1

    def __str__(self) -> str:
        match self.name:
            case "inverse":
                return f"1/({self.of})"
            case "moves":
                inner = str(self.of) if len(self.of.terms) == 1 else f"({self.of})"
                return f"(ceil({inner}/{self.by}) - 1)"
            case "least":
                return f"min({self.of}, {self.by})"
            case _:
                return f"{self.name}({self.of})"


Atom = Largest | Function | Scalar | Integer
Monomial = tuple[tuple[Atom, Power], ...]  # sorted by the text of the atom


def monomial(powers: Mapping[Atom, Power]) -> Monomial:
    return tuple(sorted(((a, p) for a, p in powers.items() if p), key=lambda x: (str(x[0]), str(type(x[0])))))


@dataclass(frozen=True, slots=True)
class Posy:
    """A sum of products with positive coefficients; no term is 0."""

    terms: tuple[tuple[Monomial, float], ...]

    def __add__(self, other: Posy) -> Posy:
        out = dict(self.terms)
        for m, c in other.terms:
            out[m] = out.get(m, 0.0) + c
        return posy(out)

    def __mul__(self, other: Posy) -> Posy:
        out: dict[Monomial, float] = {}
        for m, c in self.terms:
            for k, d in other.terms:
                both = dict(m)
                for a, p in k:
                    both[a] = both.get(a, Fraction(0)) + p
                key = monomial(both)
                out[key] = out.get(key, 0.0) + c * d
        return posy(out)

    def times(self, c: float) -> Posy:
        return posy({m: c * d for m, d in self.terms})

    def power(self, p: Power) -> Posy:
        """self ** p; of a sum, an inverse or a power that is no whole number is a bound from above."""
        if not self.terms:
            assert p > 0
            return self
        if len(self.terms) == 1:
            ((m, c),) = self.terms
            return posy({monomial({a: q * p for a, q in m}): c ** float(p)})
        if p < 0:
            return posy({monomial({Function("inverse", self): -p}): 1.0})
        out = ONE
        for _ in range(math.floor(p)):
            out = out * self
        rest = p - math.floor(p)
        # (a + b)^p <= a^p + b^p for 0 <= p <= 1
        return out * posy_sum(posy({m: c}).power(rest) for m, c in self.terms) if rest else out

    def power_below(self, p: Power | int) -> Posy:
        """self ** p, where a bound from below is wanted: an inverse only."""
        assert p < 0
        return self.power(Fraction(p))

    def root_below(self) -> Posy:
        """The square root of one term: a bound of the root from below."""
        best = next((t for t in self.terms if not t[0]), self.terms[0])
        return Posy((best,)).power(Fraction(1, 2))

    def join(self, other: Posy) -> Posy:
        """At least both."""
        out = dict(self.terms)
        for m, c in other.terms:
            out[m] = max(out.get(m, 0.0), c)
        return posy(out)

    def atoms(self) -> Iterator[Atom]:
        for m, _ in self.terms:
            for a, _ in m:
                yield a

    def value(self, number: Callable[[Largest | Integer], float]) -> float:
        """The number it is; infinite where it overflows."""
        total = 0.0
        for m, c in self.terms:
            try:
                total += c * math.prod(_value(a, number) ** float(p) for a, p in m)
            except (OverflowError, ZeroDivisionError):
                return math.inf
        return total

    def __str__(self) -> str:
        return text(self)


def _value(a: Atom, number: Callable[[Largest | Integer], float]) -> float:
    match a:
        case Function():
            x = a.of.value(number)
            match a.name:
                case "exp":
                    return math.exp(x)
                case "log":
                    return math.log(x)
                case "inverse":
                    return 1 / x
                case "least":
                    return min(x, float(a.by))
                case _:
                    return max(math.ceil(x / a.by) - 1.0, 0.0)
        case Scalar():
            raise AssertionError(f"{a} was not replaced by its bound")
        case _:
            return number(a)


def posy(terms: Mapping[Monomial, float]) -> Posy:
    return Posy(tuple(sorted(((m, c) for m, c in terms.items() if c), key=lambda t: _key(t[0]))))


def _key(m: Monomial) -> tuple[float, str]:
    return -float(sum(p for _, p in m)), monomial_text(m)


def posy_sum(parts: Iterator[Posy]) -> Posy:
    out = ZERO
    for p in parts:
        out = out + p
    return out


def number(c: float) -> Posy:
    assert c >= 0
    return posy({(): float(c)})


def symbol(a: Atom, p: Power | int = 1) -> Posy:
    return posy({monomial({a: Fraction(p)}): 1.0})


def of_poly(p: Poly) -> Posy:
    """|p| for an integer expression of sizes; exact where its coefficients are positive."""
    return posy_sum(number(abs(float(c))) * math_product(symbol(a) for a in m) for m, c in p.terms)


def math_product(parts: Iterator[Posy]) -> Posy:
    out = ONE
    for p in parts:
        out = out * p
    return out


def smaller(a: Posy, b: Posy) -> bool:
    """Whether a <= b is seen: their ratio is made of sizes and exponentials, which are at least 1."""
    if len(a.terms) != 1 or len(b.terms) != 1:
        return False
    (((m, c),), ((k, d),)) = a.terms, b.terms
    ratio = dict(m)
    for x, p in k:
        ratio[x] = ratio.get(x, Fraction(0)) - p
    large = all(isinstance(x, Integer) or (isinstance(x, Function) and x.name == "exp") for x, p in ratio.items() if p)
    return c <= d and large and all(p <= 0 for p in ratio.values())


def meet(*parts: Posy | None) -> Posy | None:
    """At most each of them; None where one is."""
    kept = [p for p in parts if p is not None]
    if len(kept) < len(parts):
        return None
    out = kept[0]
    for p in kept[1:]:
        if smaller(out, p):
            continue
        out = p if smaller(p, out) else (out.power(Fraction(-1)) + p.power(Fraction(-1))).power(Fraction(-1))
    return out


# Text ----------------------------------------------------------------------------------------------------------------


def monomial_text(m: Monomial) -> str:
    above = [_power_text(a, p) for a, p in m if p > 0]
    below = [_power_text(a, -p) for a, p in m if p < 0]
    if not below:
        return "*".join(above)
    under = below[0] if len(below) == 1 else f"({'*'.join(below)})"
    return f"{'*'.join(above) or '1'}/{under}"


def _power_text(a: Atom, p: Power) -> str:
    inner = str(a)
    if p == Fraction(1, 2):
        return f"sqrt({inner})"
    if p.denominator == 2 and p > 1:
        return f"{inner}*sqrt({inner})" if p == Fraction(3, 2) else f"{inner}^{p.numerator // 2}*sqrt({inner})"
    return inner if p == 1 else f"{inner}^{p if p.denominator == 1 else f'({p})'}"


def number_text(c: float) -> str:
    """The number rounded up to three digits."""
    if c == int(c) and c < 1e6:
        return str(int(c))
    scale = 10.0 ** (2 - math.floor(math.log10(c)))
    up = math.ceil(c * scale * (1 - 1e-12)) / scale
    return f"{up:.3g}" if up < 1e6 else f"{up:.2e}"


def text(p: Posy) -> str:
    """The sum, with what all terms share in front of it."""
    if not p.terms:
        return "0"
    shared = dict(p.terms[0][0])
    for m, _ in p.terms[1:]:
        here = dict(m)
        shared = {a: min(q, here[a]) for a, q in shared.items() if a in here and (q > 0) == (here[a] > 0)}
    if len(p.terms) == 1 or not shared:
        return " + ".join(_term_text(m, c) for m, c in p.terms)
    rest = posy({monomial({a: q - shared.get(a, Fraction(0)) for a, q in m}): c for m, c in p.terms})
    return f"{monomial_text(monomial(shared))}*({text(rest)})"


def _term_text(m: Monomial, c: float) -> str:
    if not m:
        return number_text(c)
    body = monomial_text(m)
    if c == 1:
        return body
    return f"{number_text(c)}*{body}" if not body.startswith("1/") else f"{number_text(c)}{body[1:]}"


ZERO = Posy(())
ONE = number(1.0)
