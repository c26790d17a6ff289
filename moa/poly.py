"""Exact integer polynomials: sizes, extents, bounds and indices are all of this one type.

A `Poly` is a sum of monomials over `Atom`s, kept in canonical form: two polynomials are equal iff they print the
same. An atom is an index variable, a size, an integer parameter, or an integer expression that is not a polynomial of
others (a floor division, a minimum, a value loaded from an integer array, a selection).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from moa.normal import Cond

AtomKind = Literal["var", "size", "int", "div", "min", "max", "abs", "load", "select"]


class Atom:
    """One indivisible integer. Interned: equal atoms are the same object.

    kind    name            args
    var     its name        ()                  an index variable
    size    its name        ()                  a size of the program
    int     its name        ()                  an integer parameter of rank 0
    div     ""              (a, d)              floor(a / d)
    min/max ""              (a, b)
    abs     ""              (a,)
    load    array name      index per axis      one element of an integer array
    select  ""              (condition, a, b)   condition is a `moa.normal.Cond`
    """

    __slots__ = ("_text", "args", "kind", "name")
    _interned: ClassVar[dict[tuple[str, str, tuple[Any, ...]], Atom]] = {}

    kind: AtomKind
    name: str
    args: tuple[Any, ...]
    _text: str

    def __new__(cls, kind: AtomKind, name: str = "", args: tuple[Any, ...] = ()) -> Atom:
        key = (kind, name, args)
        found = cls._interned.get(key)
        if found is None:
            found = super().__new__(cls)
            found.kind, found.name, found.args, found._text = kind, name, args, ""
            cls._interned[key] = found
        return found

    def __repr__(self) -> str:
        return f"Atom({self})"

    def __str__(self) -> str:
        if not self._text:
            self._text = self._print()
        return self._text

    def _print(self) -> str:
        match self.kind:
            case "var" | "size" | "int":
                return self.name
            case "div":
                a, d = (f"({p})" if len(p.terms) > 1 else str(p) for p in self.args)
                return f"({a} // {d})"
            case "load":
                return f"{self.name}[{', '.join(map(str, self.args))}]"
            case "select":
                return f"where({self.args[0]}, {self.args[1]}, {self.args[2]})"
            case _:
                return f"{self.kind}({', '.join(map(str, self.args))})"


Monomial = tuple[Atom, ...]


Number = int | Fraction  # a coefficient: a Fraction only where it is not an integer


def monomial_text(m: Monomial) -> str:
    return "*".join(map(str, m))


@lru_cache(maxsize=1 << 16)
def monomial_place(m: Monomial) -> tuple[int, str]:
    """What monomials of a sum are sorted by: most atoms first."""
    return -len(m), monomial_text(m)


def reduced(c: Number) -> Number:
    return c if isinstance(c, int) else (c.numerator if c.denominator == 1 else c)


def _place(term: tuple[Monomial, Number]) -> tuple[int, str]:
    return monomial_place(term[0])


class Poly:
    """An exact polynomial with rational coefficients (integer-valued where it is used as an index)."""

    __slots__ = ("_atoms", "_hash", "_text", "_vars", "terms")

    _atoms: frozenset[Atom] | None
    _vars: frozenset[str] | None

    terms: tuple[tuple[Monomial, Number], ...]

    def __init__(self, terms: Mapping[Monomial, Number]) -> None:
        kept = [(m, c if type(c) is int else reduced(c)) for m, c in terms.items() if c]
        if len(kept) > 1:
            kept.sort(key=_place)
        self.terms = tuple(kept)
        self._hash = hash(self.terms)
        self._text = ""
        self._atoms = self._vars = None

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int):
            other = const(other)
        return isinstance(other, Poly) and self._hash == other._hash and self.terms == other.terms

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Poly({self})"

    def __str__(self) -> str:
        if not self._text:
            self._text = self._print()
        return self._text

    def _print(self) -> str:
        if not self.terms:
            return "0"
        out = ""
        for m, c in self.terms:
            size: Number = c if c > 0 else -c
            body = monomial_text(m)
            if not body:
                body = str(size)
            elif size != 1:
                body = f"{size}*{body}" if isinstance(size, int) else f"({size})*{body}"
            sign = "-" if c < 0 else "+"
            out = (f"-{body}" if c < 0 else body) if not out else f"{out} {sign} {body}"
        return out

    # arithmetic -------------------------------------------------------------------------------------------------

    def __add__(self, other: Poly | int) -> Poly:
        right = as_poly(other).terms
        if not right:
            return self
        if not self.terms:
            return as_poly(other)
        terms = dict(self.terms)
        for m, c in right:
            terms[m] = terms.get(m, 0) + c
        return Poly(terms)

    __radd__ = __add__

    def __neg__(self) -> Poly:
        return Poly({m: -c for m, c in self.terms})

    def __sub__(self, other: Poly | int) -> Poly:
        right = as_poly(other).terms
        if not right:
            return self
        terms = dict(self.terms)
        for m, c in right:
            terms[m] = terms.get(m, 0) - c
        return Poly(terms)

    def __rsub__(self, other: Poly | int) -> Poly:
        return as_poly(other) - self

    def __mul__(self, other: Poly | int) -> Poly:
        factor = as_poly(other)
        if factor is ONE or not self.terms:
            return self
        if self is ONE or not factor.terms:
            return factor
        terms: dict[Monomial, Number] = {}
        for m, c in self.terms:
            for k, d in factor.terms:
                product = tuple(sorted(m + k, key=str)) if m and k else m + k
                terms[product] = terms.get(product, 0) + c * d
        return Poly(terms)

    __rmul__ = __mul__

    def __floordiv__(self, other: Poly | int) -> Poly:
        d = as_poly(other)
        n = d.as_int()
        if n is not None and n < 0:
            return -self // -d
        if n is not None and n != 0:
            whole = {m: Fraction(c, n) for m, c in self.terms if Fraction(c, n).denominator == 1}
            rest = Poly({m: c for m, c in self.terms if Fraction(c, n).denominator != 1})
            k = rest.as_int()
            tail = const(k // n) if k is not None else atom("div", args=(rest, d))
            return Poly(whole) + tail
        exact = self.exact_quotient(d)
        if exact is None:
            return atom("div", args=(self, d))
        common = math.lcm(*(c.denominator for _, c in exact.terms))
        return exact if common == 1 else exact * common // common

    def __mod__(self, other: Poly | int) -> Poly:
        return self - as_poly(other) * (self // other)

    def exact_quotient(self, d: Poly) -> Poly | None:
        """self / d where d is one monomial that divides every term, else None."""
        if len(d.terms) != 1:
            return const(1) if d == self else None
        (divisor, coefficient) = d.terms[0]
        out: dict[Monomial, Number] = {}
        for m, c in self.terms:
            left = list(m)
            for a in divisor:
                if a not in left:
                    return None
                left.remove(a)
            out[tuple(left)] = Fraction(c, coefficient)
        return Poly(out)

    # questions --------------------------------------------------------------------------------------------------

    def as_int(self) -> int | None:
        """The value if this is an integer constant, else None."""
        if not self.terms:
            return 0
        if len(self.terms) == 1 and not self.terms[0][0] and self.terms[0][1].denominator == 1:
            return int(self.terms[0][1])
        return None

    def as_atom(self) -> Atom | None:
        """The atom if this is exactly one atom, else None."""
        if len(self.terms) == 1 and len(self.terms[0][0]) == 1 and self.terms[0][1] == 1:
            return self.terms[0][0][0]
        return None

    def as_var(self) -> str | None:
        """The name if this is exactly one index variable, else None."""
        a = self.as_atom()
        return a.name if a is not None and a.kind == "var" else None

    def top_atoms(self) -> frozenset[Atom]:
        """The atoms of the monomials, not those inside other atoms."""
        return frozenset(a for m, _ in self.terms for a in m)

    def atoms(self) -> frozenset[Atom]:
        """All atoms, those inside other atoms included."""
        if self._atoms is None:
            out: set[Atom] = set()
            for a in self.top_atoms():
                out.add(a)
                for x in a.args:
                    out |= x.atoms()
            self._atoms = frozenset(out)
        return self._atoms

    def vars(self) -> frozenset[str]:
        """The names of all index variables, nested ones included."""
        if self._vars is None:
            self._vars = frozenset(a.name for a in self.atoms() if a.kind == "var")
        return self._vars

    def coefficient(self, name: str) -> Poly | None:
        """c where self = c * name + rest and rest is free of the variable; None if it is not so."""
        if name not in self.vars():
            return ZERO
        v = Atom("var", name)
        linear: dict[Monomial, Number] = {}
        for m, c in self.terms:
            left = list(m)
            if v in left:
                left.remove(v)
                linear[tuple(left)] = c
            if v in left or any(name in x.vars() for a in left for x in a.args):
                return None
        return Poly(linear)

    def rename(self, names: Mapping[str, Poly]) -> Poly:
        """The same polynomial with index variables replaced, all at once."""
        if self.vars().isdisjoint(names):
            return self
        return self.replace(lambda a: names.get(a.name) if a.kind == "var" else None)

    def replace(self, f: Callable[[Atom], Poly | None]) -> Poly:
        """The same polynomial with f(atom) for each atom where f gives something; arguments of atoms are visited."""
        if not any(m for m, _ in self.terms):
            return self
        out = const(0)
        for m, c in self.terms:
            product = const(c)
            for a in m:
                product = product * _replace_atom(a, f)
            out = out + product
        return out

    def evaluate(self, value: Callable[[Atom], Any]) -> Any:
        """The number (or integer array) that this polynomial is; `value` gives what an atom is worth."""
        total: Any = 0
        for m, c in self.terms:
            product: Any = 1
            for a in m:
                product = product * value(a)
            total = total + (int(c) * product if c.denominator == 1 else c.numerator * product / c.denominator)
        return total


def _replace_atom(a: Atom, f: Callable[[Atom], Poly | None]) -> Poly:
    new = f(a)
    if new is not None:
        return new
    if not a.args:
        return Poly({(a,): 1})
    args = tuple(x.replace(f) for x in a.args)
    if args == a.args:
        return Poly({(a,): 1})
    match a.kind:
        case "div":
            return args[0] // args[1]  # type: ignore[no-any-return]
        case "min":
            return minimum(*args)
        case "max":
            return maximum(*args)
        case "abs":
            return absolute(args[0])
        case "select":
            return select(*args)
        case _:
            return atom(a.kind, a.name, args)


@lru_cache(maxsize=4096)
def const(value: Number) -> Poly:
    return Poly({(): value})


ZERO, ONE = const(0), const(1)


def as_poly(value: Poly | int) -> Poly:
    return value if isinstance(value, Poly) else const(value)


def atom(kind: AtomKind, name: str = "", args: Iterable[Any] = ()) -> Poly:
    return Poly({(Atom(kind, name, tuple(args)),): 1})


@lru_cache(maxsize=4096)
def var(name: str) -> Poly:
    return atom("var", name)


def product(factors: Iterable[Poly]) -> Poly:
    out = const(1)
    for f in factors:
        out = out * f
    return out


def size(name: str) -> Poly:
    return atom("size", name)


def minimum(a: Poly, b: Poly) -> Poly:
    """min(a, b); decided where the difference is a constant."""
    d = (a - b).as_int()
    if d is not None:
        return a if d <= 0 else b
    return atom("min", args=sorted((a, b), key=str))


def maximum(a: Poly, b: Poly) -> Poly:
    """max(a, b); decided where the difference is a constant."""
    d = (a - b).as_int()
    if d is not None:
        return a if d >= 0 else b
    return atom("max", args=sorted((a, b), key=str))


def absolute(a: Poly) -> Poly:
    n = a.as_int()
    return const(abs(n)) if n is not None else atom("abs", args=(a,))


def select(c: Cond, a: Poly, b: Poly) -> Poly:
    """a where c, else b; decided where c is a constant."""
    if a == b or c.is_true:
        return a
    return b if c.is_false else atom("select", args=(c, a, b))
