"""Scalar and Cond: one element as an exact expression, and conditions on indices and data.

Both are interned, so equality is identity. They are built through the functions below, which keep one form for one
meaning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any, ClassVar

from moa.ops import OPERATORS
from moa.poly import Poly, as_poly

Index = tuple[Poly, ...]


class Scalar:
    """One element, as an expression. Interned: equal expressions are the same object.

    op        args
    lit       (Fraction | float,)      exact; inf, -inf, nan as floats
    int       (Poly,)                  an integer expression as a float
    param     (name,)                  a float parameter of rank 0
    load      (array, index)           index is a tuple of Poly, one per axis
    ref       (k, when)                reference k of a Fold member; when is "old" or "new"
    select    (Cond, a, b)
    <name>    operands                 a float operator of OPERATORS
    """

    __slots__ = ("_text", "_vars", "args", "op")
    _text: str
    _vars: frozenset[str] | None
    _interned: ClassVar[dict[tuple[str, tuple[Any, ...]], Scalar]] = {}

    op: str
    args: tuple[Any, ...]

    def __new__(cls, op: str, args: tuple[Any, ...]) -> Scalar:
        key = (op, args)
        found = cls._interned.get(key)
        if found is None:
            found = super().__new__(cls)
            found.op, found.args, found._text, found._vars = op, args, "", None
            cls._interned[key] = found
        return found

    def __repr__(self) -> str:
        return f"Scalar({self})"

    def __str__(self) -> str:
        if not self._text:
            self._text = scalar_text(self)
        return self._text

    @property
    def operands(self) -> tuple[Scalar, ...]:
        """The scalar operands (of a select: the two branches)."""
        if self.op in ("lit", "int", "param", "load", "ref"):
            return ()
        return self.args[1:] if self.op == "select" else self.args

    def vars(self) -> frozenset[str]:
        """The names of the index variables in it."""
        if self._vars is None:
            out: set[str] = set()
            match self.op:
                case "int":
                    out |= self.args[0].vars()
                case "load":
                    for p in self.args[1]:
                        out |= p.vars()
                case "select":
                    out |= self.args[0].vars()
            for x in self.operands:
                out |= x.vars()
            self._vars = frozenset(out)
        return self._vars


class Cond:
    """A condition. Interned. Structural = contains no float.

    op     args
    ge     (Poly,)            p >= 0
    eq     (Poly,)            p == 0
    and    operands           a flat tuple sorted by text, without duplicates
    or     operands           likewise
    not    (c,)               only around eq, cmp and load: `ge` has its complement -p - 1 >= 0
    cmp    (name, a, b)       lt le gt ge eq ne of two Scalars
    load   (array, index)     an element of a bool array
    true, false
    """

    __slots__ = ("_atoms", "_text", "args", "op")
    _text: str
    _atoms: frozenset[Any] | None
    _interned: ClassVar[dict[tuple[str, tuple[Any, ...]], Cond]] = {}

    op: str
    args: tuple[Any, ...]

    def __new__(cls, op: str, args: tuple[Any, ...]) -> Cond:
        key = (op, args)
        found = cls._interned.get(key)
        if found is None:
            found = super().__new__(cls)
            found.op, found.args, found._text, found._atoms = op, args, "", None
            cls._interned[key] = found
        return found

    def __repr__(self) -> str:
        return f"Cond({self})"

    def __str__(self) -> str:
        if not self._text:
            self._text = cond_text(self)
        return self._text

    @property
    def is_true(self) -> bool:
        return self.op == "true"

    @property
    def is_false(self) -> bool:
        return self.op == "false"

    def atoms(self) -> frozenset[Any]:
        """The integer atoms in it (see `Poly.atoms`)."""
        if self._atoms is not None:
            return self._atoms
        out: set[Any] = set()
        for x in self.args:
            if isinstance(x, Poly | Cond):
                out |= x.atoms()
            elif isinstance(x, Scalar):
                from moa.normal.walk import scalar_atoms

                out |= scalar_atoms(x)
            elif isinstance(x, tuple):
                for p in x:
                    out |= p.atoms()
        self._atoms = frozenset(out)
        return self._atoms

    def vars(self) -> frozenset[str]:
        return frozenset(a.name for a in self.atoms() if a.kind == "var")

    def replace(self, f: Callable[[Any], Poly | None]) -> Cond:
        """The same condition with integer atoms replaced (see `Poly.replace`)."""
        from moa.normal.walk import map_cond, map_scalar

        return map_cond(self, lambda p: p.replace(f), lambda s: map_scalar(s, poly=lambda p: p.replace(f)))


TRUE = Cond("true", ())
FALSE = Cond("false", ())


# Building, with the simplifications that keep one form for one meaning ----------------------------------------------


def lit(value: float | int | Fraction) -> Scalar:
    if isinstance(value, float) and not math.isfinite(value):
        return Scalar("lit", (value if not math.isnan(value) else math.nan,))
    return Scalar("lit", (Fraction(value),))


ZERO, ONE = lit(0), lit(1)


def integer(p: Poly | int) -> Scalar:
    """An integer expression as a float."""
    p = as_poly(p)
    n = p.as_int()
    if n is not None:
        return lit(n)
    for a in sorted(p.top_atoms(), key=str):
        if a.kind == "select" and not is_structural(a.args[0]):  # a choice by floats is a choice between floats
            c, *sides = a.args
            x, y = (integer(p.replace({a: side}.get)) for side in sides)
            return choose(c, x, y)
    return Scalar("int", (p,))


def load(array: str, index: Iterable[Poly | int]) -> Scalar:
    return Scalar("load", (array, tuple(as_poly(p) for p in index)))


def apply(op: str, *operands: Scalar) -> Scalar:
    """op(operands); literals are folded where that is exact, neutral operands dropped."""
    assert op in OPERATORS, op
    if all(x.op == "lit" and isinstance(x.args[0], Fraction) for x in operands):
        a = [x.args[0] for x in operands]
        match op:
            case "add":
                return lit(a[0] + a[1])
            case "sub":
                return lit(a[0] - a[1])
            case "mul":
                return lit(a[0] * a[1])
            case "div" if a[1] != 0:
                return lit(a[0] / a[1])
            case "neg":
                return lit(-a[0])
            case "max":
                return lit(max(a))
            case "min":
                return lit(min(a))
            case "abs":
                return lit(abs(a[0]))
            case "exp" if a[0] == 0:
                return lit(1)
            case "log" if a[0] == 1:
                return lit(0)
            case "sqrt" if a[0] in (0, 1):
                return lit(a[0])
    if op == "neg" and operands[0].op == "lit":
        return lit(-operands[0].args[0])
    if op == "mul" and ONE in operands:
        return operands[1] if operands[0] is ONE else operands[0]
    if op == "div" and operands[1] is ONE:
        return operands[0]
    if op in ("add", "sub") and operands[1] is ZERO:
        return operands[0]
    if op == "add" and operands[0] is ZERO:
        return operands[1]
    if op == "neg" and operands[0].op == "neg":
        return operands[0].args[0]  # type: ignore[no-any-return]
    if op in ("max", "min") and operands[0] is operands[1]:
        return operands[0]
    return Scalar(op, operands)


def choose(c: Cond, a: Scalar, b: Scalar) -> Scalar:
    """a where c, else b."""
    if c.is_true or a is b:
        return a
    return b if c.is_false else Scalar("select", (c, a, b))


def at_least_zero(p: Poly) -> Cond:
    """p >= 0."""
    n = p.as_int()
    return Cond("ge", (p,)) if n is None else (TRUE if n >= 0 else FALSE)


def is_zero(p: Poly) -> Cond:
    """p == 0, with one sign for p and -p."""
    n = p.as_int()
    if n is not None:
        return TRUE if n == 0 else FALSE
    return Cond("eq", (min(p, -p, key=str),))


def both(*conds: Cond) -> Cond:
    """The conjunction."""
    flat: set[Cond] = set()
    for c in conds:
        flat |= set(c.args) if c.op == "and" else {c}
    flat.discard(TRUE)
    if FALSE in flat or any(negate(c) in flat for c in flat):
        return FALSE
    if not flat:
        return TRUE
    return flat.pop() if len(flat) == 1 else Cond("and", tuple(sorted(flat, key=str)))


def either(*conds: Cond) -> Cond:
    """The disjunction."""
    flat: set[Cond] = set()
    for c in conds:
        flat |= set(c.args) if c.op == "or" else {c}
    flat.discard(FALSE)
    if TRUE in flat or any(negate(c) in flat for c in flat):
        return TRUE
    if not flat:
        return FALSE
    return flat.pop() if len(flat) == 1 else Cond("or", tuple(sorted(flat, key=str)))


def negate(c: Cond) -> Cond:
    match c.op:
        case "true":
            return FALSE
        case "false":
            return TRUE
        case "ge":
            return at_least_zero(-c.args[0] - 1)
        case "not":
            return c.args[0]  # type: ignore[no-any-return]
        case "and":
            return either(*(negate(x) for x in c.args))
        case "or":
            return both(*(negate(x) for x in c.args))
        case _:
            return Cond("not", (c,))


def compare(name: str, a: Scalar, b: Scalar) -> Cond:
    """A comparison of two floats by name: lt le gt ge eq ne; of two literals, its value.

    x == x is kept: it is False on NaN.
    """
    if a.op == "lit" and b.op == "lit":
        return TRUE if OPERATORS[name].numpy(a.args[0], b.args[0]) else FALSE
    return Cond("cmp", (name, a, b))


def is_structural(c: Cond) -> bool:
    """Whether the condition contains no float: only such conditions become domains and pieces."""
    match c.op:
        case "cmp":
            return False
        case "and" | "or" | "not":
            return all(is_structural(x) for x in c.args)
        case _:
            return True


# Printing ------------------------------------------------------------------------------------------------------------

_PRECEDENCE = {"add": 4, "sub": 4, "mul": 5, "div": 5, "neg": 6}
_NAMES = {"max": "maximum", "min": "minimum"}


def number_text(value: Fraction | float) -> str:
    if isinstance(value, Fraction):
        if value.denominator == 1:
            return str(value.numerator)
        as_float = float(value)
        return repr(as_float) if Fraction(as_float) == value or value.denominator > 1000 else f"({value})"
    return str(value)


def index_text(index: Iterable[Any]) -> str:
    return ", ".join(map(str, index))


def scalar_text(s: Scalar, around: int = 0) -> str:
    match s.op:
        case "lit":
            text, level = number_text(s.args[0]), 9
        case "int":
            text = str(s.args[0])
            level = 4 if len(s.args[0].terms) > 1 else 9
        case "param":
            text, level = s.args[0], 9
        case "load":
            text, level = (f"{s.args[0]}[{index_text(s.args[1])}]" if s.args[1] else s.args[0]), 9
        case "ref":
            text, level = (f"r{s.args[0]}" + ("'" if s.args[1] == "new" else "")), 9
        case "select":
            text, level = f"where({s.args[0]}, {scalar_text(s.args[1])}, {scalar_text(s.args[2])})", 9
        case "add" | "sub" | "mul" | "div":
            level = _PRECEDENCE[s.op]
            symbol = OPERATORS[s.op].symbol
            right = scalar_text(s.args[1], level + (s.op in ("sub", "div")))
            text = f"{scalar_text(s.args[0], level)} {symbol} {right}"
        case "neg":
            text, level = f"-{scalar_text(s.args[0], 6)}", 6
        case _:
            text, level = f"{_NAMES.get(s.op, s.op)}({', '.join(scalar_text(x) for x in s.args)})", 9
    return f"({text})" if level < around else text


def cond_text(c: Cond, around: int = 0) -> str:
    match c.op:
        case "true" | "false":
            return c.op.capitalize()
        case "ge" | "eq":
            p: Poly = c.args[0]
            left = Poly({m: k for m, k in p.terms if k > 0})
            right = Poly({m: -k for m, k in p.terms if k < 0})
            symbol = ">=" if c.op == "ge" else "=="
            one = right.terms and right.terms[-1] == ((), Fraction(1)) and c.op == "ge"
            if one:
                symbol, right = ">", right - 1
            text = f"{left} {symbol} {right}"
        case "and" | "or":
            text = (" & " if c.op == "and" else " | ").join(cond_text(x, 1) for x in c.args)
        case "not" if c.args[0].op == "eq":
            return cond_text(c.args[0], around).replace("==", "!=")
        case "not":
            return f"~{cond_text(c.args[0], 1)}"
        case "cmp":
            text = f"{c.args[1]} {OPERATORS[c.args[0]].symbol} {c.args[2]}"
        case _:
            return f"{c.args[0]}[{index_text(c.args[1])}]"
    return f"({text})" if around else text
