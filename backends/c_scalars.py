"""Polynomials, scalars and conditions as expressions of C: integers in int64_t, floats in double."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import lcm

from moa.backends.cfamily import integer, literal
from moa.normal import Cond, Index, Scalar
from moa.poly import Atom, Poly

FUNCTIONS = {"exp": "exp", "exp2": "exp2", "log": "log", "sqrt": "sqrt", "tanh": "tanh", "erf": "erf", "abs": "fabs",
             "max": "moa_maximum", "min": "moa_minimum"}  # fmt: skip
SYMBOLS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
COMPARISONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}

HELPERS = """
UNUSED static int64_t moa_floor(int64_t a, int64_t d)
{
    return d == 0 ? 0 : a / d - (a % d != 0 && (a < 0) != (d < 0));
}
UNUSED static int64_t moa_min(int64_t a, int64_t b) { return a < b ? a : b; }
UNUSED static int64_t moa_max(int64_t a, int64_t b) { return a > b ? a : b; }
UNUSED static int64_t moa_abs(int64_t a) { return a < 0 ? -a : a; }
UNUSED static double moa_maximum(double a, double b) { return a != a || a > b ? a : b; }
UNUSED static double moa_minimum(double a, double b) { return a != a || a < b ? a : b; }
""".replace("UNUSED", "__attribute__((unused))").lstrip()
"""What the expressions call."""


class Expressions:
    """Prints expressions; `name` says how an index variable, a size or a parameter is written, `load` an element."""

    def __init__(self, name: Callable[[str, str], str], load: Callable[[str, Index], str]) -> None:
        self.name, self.element = name, load

    def poly(self, p: Poly) -> str:
        """An int64_t; rational coefficients are brought to one denominator, which divides."""
        if not p.terms:
            return "0"
        whole = lcm(*(Fraction(c).denominator for _, c in p.terms))
        parts = []
        for monomial, c in p.terms:
            factors = [self.atom(a) for a in monomial]
            n = int(Fraction(c) * whole)
            if n != 1 or not factors:
                factors.insert(0, integer(n) if n >= 0 else f"({integer(n)})")
            parts.append(" * ".join(factors))
        text = " + ".join(parts)
        if whole != 1:
            return f"(({text}) / {whole})"
        return f"({text})" if len(parts) > 1 or " " in text else text

    def atom(self, a: Atom) -> str:
        match a.kind:
            case "var" | "size" | "int":
                return self.name(a.kind, a.name)
            case "div":
                return f"moa_floor({self.poly(a.args[0])}, {self.poly(a.args[1])})"
            case "min" | "max":
                return f"moa_{a.kind}({self.poly(a.args[0])}, {self.poly(a.args[1])})"
            case "abs":
                return f"moa_abs({self.poly(a.args[0])})"
            case "load":
                return f"(int64_t){self.element(a.name, a.args)}"
            case _:
                return f"({self.cond(a.args[0])} ? {self.poly(a.args[1])} : {self.poly(a.args[2])})"

    def cond(self, c: Cond) -> str:
        match c.op:
            case "true" | "false":
                return "1" if c.is_true else "0"
            case "ge":
                return f"({self.poly(c.args[0])} >= 0)"
            case "eq":
                return f"({self.poly(c.args[0])} == 0)"
            case "and" | "or":
                return "(" + f" {'&&' if c.op == 'and' else '||'} ".join(self.cond(x) for x in c.args) + ")"
            case "not":
                return f"!{self.cond(c.args[0])}"
            case "cmp":
                return f"({self.scalar(c.args[1])} {COMPARISONS[c.args[0]]} {self.scalar(c.args[2])})"
            case _:
                return f"({self.element(c.args[0], c.args[1])} != 0)"

    def scalar(self, s: Scalar) -> str:
        match s.op:
            case "lit":
                text = literal(float(s.args[0]), "f64")
                return f"({text})" if text.startswith("-") else text
            case "int":
                return f"(double){self.poly(s.args[0])}"
            case "param":
                return self.name("param", s.args[0])
            case "load":
                return self.element(s.args[0], s.args[1])
            case "select":
                return f"({self.cond(s.args[0])} ? {self.scalar(s.args[1])} : {self.scalar(s.args[2])})"
            case "neg":
                return f"(-{self.scalar(s.args[0])})"
            case op if op in SYMBOLS:
                return f"({self.scalar(s.args[0])} {SYMBOLS[op]} {self.scalar(s.args[1])})"
            case op:
                return f"{FUNCTIONS[op]}({', '.join(self.scalar(x) for x in s.args)})"
