"""The operator table: one record an operator, with its algebra as data.

Laws are written for the properties recorded here, never for an operator's name. `numpy` is the meaning of an
operator in the oracle and in `interp`; kinds are "f" (float), "i" (int), "b" (bool).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["f", "i", "b"]


@dataclass(frozen=True, slots=True)
class Operator:
    """One scalar operator.

    signatures    for each accepted tuple of operand kinds, the kind of the result
    flops         floating-point operations one application costs (0: selects, comparisons, sign changes, casts)
    identity      e with op(e, x) = x, where it has one; so it can be reduced over an empty axis
    absorbing     a with op(a, x) = a for every finite x
    distributes   names of operators g with op(c, g(x, y)) = g(op(c, x), op(c, y))
    homogeneous   whether op(c * x, c * y) = c * op(x, y) for every c > 0
    monotone      "up" or "down" where it is monotone in its only operand
    """

    name: str
    symbol: str
    numpy: Callable[..., Any]
    signatures: tuple[tuple[tuple[Kind, ...], Kind], ...]
    flops: int = 1
    identity: float | bool | None = None
    associative: bool = False
    commutative: bool = False
    idempotent: bool = False
    absorbing: float | bool | None = None
    distributes: tuple[str, ...] = ()
    homogeneous: bool = False
    monotone: str = ""

    @property
    def arity(self) -> int:
        return len(self.signatures[0][0])

    def result(self, kinds: tuple[Kind, ...]) -> Kind | None:
        """The kind of the result for these operand kinds, None where they are not accepted."""
        return dict(self.signatures).get(kinds)


def erf(x: Any) -> Any:
    """The error function, 2 / sqrt(pi) times the integral of exp(-t ** 2) from 0 to x, in the dtype of x."""
    x = np.asarray(x)
    return np.vectorize(math.erf, otypes=[x.dtype if x.dtype.kind == "f" else float])(x)[()]


_FF: tuple[tuple[tuple[Kind, ...], Kind], ...] = ((("f", "f"), "f"),)
_F: tuple[tuple[tuple[Kind, ...], Kind], ...] = ((("f",), "f"),)
_NUM2: tuple[tuple[tuple[Kind, ...], Kind], ...] = ((("f", "f"), "f"), (("i", "i"), "i"))
_NUM1: tuple[tuple[tuple[Kind, ...], Kind], ...] = ((("f",), "f"), (("i",), "i"))
_INT2: tuple[tuple[tuple[Kind, ...], Kind], ...] = ((("i", "i"), "i"),)
_COMPARE: tuple[tuple[tuple[Kind, ...], Kind], ...] = ((("f", "f"), "b"), (("i", "i"), "b"))
_EQUAL: tuple[tuple[tuple[Kind, ...], Kind], ...] = (*_COMPARE, (("b", "b"), "b"))
_BB: tuple[tuple[tuple[Kind, ...], Kind], ...] = ((("b", "b"), "b"),)

OPERATORS: dict[str, Operator] = {
    o.name: o
    for o in (
        Operator("add", "+", np.add, _NUM2, 1, 0.0, True, True, homogeneous=True),
        Operator("sub", "-", np.subtract, _NUM2, homogeneous=True),
        Operator("mul", "*", np.multiply, _NUM2, 1, 1.0, True, True, absorbing=0.0, distributes=("add", "sub")),
        Operator("div", "/", np.divide, _FF),
        Operator("floordiv", "//", np.floor_divide, _INT2, 0),
        Operator("mod", "%", np.mod, _INT2, 0),
        Operator("neg", "-", np.negative, _NUM1, 0, monotone="down"),
        Operator("abs", "abs", np.abs, _NUM1, 0),
        Operator("max", "maximum", np.maximum, _NUM2, 1, -math.inf, True, True, True, math.inf, homogeneous=True),
        Operator("min", "minimum", np.minimum, _NUM2, 1, math.inf, True, True, True, -math.inf, homogeneous=True),
        Operator("exp", "exp", np.exp, _F, monotone="up"),
        Operator("exp2", "exp2", np.exp2, _F, monotone="up"),
        Operator("log", "log", np.log, _F, monotone="up"),
        Operator("sqrt", "sqrt", np.sqrt, _F, monotone="up"),
        Operator("tanh", "tanh", np.tanh, _F, monotone="up"),
        Operator("erf", "erf", erf, _F, monotone="up"),
        Operator("lt", "<", np.less, _COMPARE, 0),
        Operator("le", "<=", np.less_equal, _COMPARE, 0),
        Operator("gt", ">", np.greater, _COMPARE, 0),
        Operator("ge", ">=", np.greater_equal, _COMPARE, 0),
        Operator("eq", "==", np.equal, _EQUAL, 0),
        Operator("ne", "!=", np.not_equal, _EQUAL, 0),
        Operator("and", "&", np.logical_and, _BB, 0, True, True, True, True, False, ("or",)),
        Operator("or", "|", np.logical_or, _BB, 0, False, True, True, True, True, ("and",)),
        Operator("not", "~", np.logical_not, ((("b",), "b"),), 0),
    )
}

# name in the language -> operator that is reduced
REDUCTIONS: dict[str, str] = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "any": "or", "all": "and"}


class _First:
    """The place of the first maximum along an axis; the first NaN counts as the maximum, as in NumPy."""

    @staticmethod
    def reduce(x: Any, axis: int | tuple[int, ...] = -1, initial: float = -math.inf) -> Any:
        (axis,) = axis if isinstance(axis, tuple) else (axis,)
        return np.argmax(x, axis=axis)


# what an axis is reduced by: operators, and the place of a maximum, which is 0 where there is nothing but -inf
REDUCERS: dict[str, Operator] = OPERATORS | {
    "argmax": Operator("argmax", "argmax", _First(), ((("f",), "i"),), 0, -math.inf)  # type: ignore[arg-type]
}

# what an axis is reduced by -> its name in the language
REDUCE_WORDS = {operator: word for word, operator in REDUCTIONS.items()} | {"argmax": "argmax"}
