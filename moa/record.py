"""Values of the compiler as JSON text and back: numbers, tuples, polynomials, scalars, and dataclasses by name.

What occurs twice is written once, in a table whose rows refer to rows above them. The reader makes only the classes it
was given, checks the type of every field and operand, and raises ValueError for any other text.
"""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from fractions import Fraction
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from moa.normal import Cond, Scalar
from moa.ops import OPERATORS
from moa.poly import Atom, Poly

T = TypeVar("T")
Index = tuple[Poly, ...]
LONG = 24  # characters of a string that is written once

# What the arguments are, by kind of atom, scalar and condition.
ATOMS: dict[str, Any] = {
    **{"var": tuple[()], "size": tuple[()], "int": tuple[()], "load": Index, "abs": tuple[Poly]},
    **{"div": tuple[Poly, Poly], "min": tuple[Poly, Poly], "max": tuple[Poly, Poly]},
    "select": tuple[Cond, Poly, Poly],
}
SCALARS: dict[str, Any] = {
    **{"lit": tuple[Fraction | float], "int": tuple[Poly], "param": tuple[str], "load": tuple[str, Index]},
    **{"ref": tuple[int, str], "select": tuple[Cond, Scalar, Scalar]},
    **{o.name: tuple[(Scalar,) * o.arity] for o in OPERATORS.values() if o.name != "select"},  # type: ignore[misc]
}
CONDS: dict[str, Any] = {
    **{"ge": tuple[Poly], "eq": tuple[Poly], "not": tuple[Cond], "and": tuple[Cond, ...], "or": tuple[Cond, ...]},
    **{"cmp": tuple[str, Scalar, Scalar], "load": tuple[str, Index], "true": tuple[()], "false": tuple[()]},
}


def to_json(value: Any) -> str:
    """The text of a value; AssertionError for one that has no text."""
    writer = Writer()
    root = writer.write(value)
    return json.dumps([writer.table, root], separators=(",", ":"))


def from_json(text: str | bytes, wanted: type[T], classes: tuple[type, ...]) -> T:
    """The value of a text, which is a `wanted`; its dataclasses are of `classes`.

    Errors: ValueError if the text is not that of such a value
    """
    try:
        table, root = json.loads(text)
        value = Reader({c.__name__: c for c in classes}, table).read(root)
        if not fits(value, wanted):
            raise ValueError(f"not a {wanted}")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, ZeroDivisionError, RecursionError) as e:
        raise ValueError(f"not a record: {e}") from None
    return cast(T, value)


class Writer:
    """Values as what JSON has; a row of the table is [tag, ...]."""

    def __init__(self) -> None:
        self.table: list[Any] = []
        self.rows: dict[Any, int] = {}

    def write(self, x: Any) -> Any:
        match x:
            case None | bool() | int() | float():
                return x
            case tuple():
                return [self.write(y) for y in x]
            case str() if len(x) < LONG:
                return x
        key = (type(x), id(x) if is_dataclass(x) else x)  # dataclasses with 1 and True in them are equal
        if key not in self.rows:
            row = self.row(x)
            self.rows[key] = len(self.table)
            self.table.append(row)
        return {"": self.rows[key]}

    def row(self, x: Any) -> list[Any]:
        match x:
            case str():
                return ["text", x]
            case Fraction():
                return ["Fraction", x.numerator, x.denominator]
            case Poly():
                return ["Poly", self.write(x.terms)]
            case Atom():
                return ["Atom", x.kind, x.name, self.write(x.args)]
            case Scalar() | Cond():
                return [type(x).__name__, x.op, self.write(x.args)]
        assert is_dataclass(x), f"{type(x).__name__} has no text"
        return [type(x).__name__, *(self.write(getattr(x, f.name)) for f in fields(x))]


class Reader:
    """The value of each row, in order."""

    def __init__(self, classes: dict[str, type], table: list[Any]) -> None:
        self.classes = classes
        self.made: list[Any] = []
        for tag, *parts in table:
            self.made.append(self.row(tag, [self.read(p) for p in parts]))

    def read(self, x: Any) -> Any:
        match x:
            case list():
                return tuple(self.read(y) for y in x)
            case {"": int(k)} if 0 <= k < len(self.made):
                return self.made[k]
            case None | bool() | int() | float() | str():
                return x
        raise ValueError("a reference to nothing")

    def row(self, tag: str, parts: list[Any]) -> Any:
        match tag, *parts:
            case "text", str(text):
                return text
            case "Fraction", int(n), int(d):
                return Fraction(n, d)
            case "Poly", terms:
                return Poly(dict(fitting(terms, tuple[tuple[tuple[Atom, ...], int | Fraction], ...])))
            case "Atom", str(kind), str(name), args:
                return Atom(cast(Any, kind), name, fitting(args, ATOMS[kind]))
            case "Scalar", str(op), args:
                return Scalar(op, fitting(args, SCALARS[op]))
            case "Cond", str(op), args:
                return Cond(op, fitting(args, CONDS[op]))
        made = self.classes[tag](*parts)
        for name, hint in hints(self.classes[tag]).items():
            fitting(getattr(made, name), hint)
        return made


@cache
def hints(c: type) -> dict[str, Any]:
    return get_type_hints(c)


def fitting(value: Any, hint: Any) -> Any:
    if not fits(value, hint):
        raise ValueError(f"{type(value).__name__} where {hint} is wanted")
    return value


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type: a class, a literal, a union, or a tuple of them."""
    if hint is Any:
        return True
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in args
    if origin in (Union, UnionType):
        return any(fits(value, a) for a in args)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(args) == 2 and args[1] is ...:
            return all(fits(x, args[0]) for x in value)
        return len(value) == len(args) and all(fits(x, a) for x, a in zip(value, args, strict=True))
    return type(value) is hint or (hint is type(None) and value is None)
