"""Integer expressions as instructions: sizes, strides, offsets and conditions on them.

A Poly is summed and multiplied in the order of how far out its parts are known, so that each part is hoisted there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from moa.loops import Arg, Const, Element
from moa.lower.builder import Builder
from moa.normal import Cond
from moa.poly import Atom, Poly, atom, const, maximum, minimum


@dataclass(frozen=True, slots=True)
class Slot:
    """What a slot of the packed arguments holds.

    pointer   the address of array `name`             stride   of its axis, in elements
    size      a size or an integer parameter          host     a float computed once a call, as a double
    """

    kind: Literal["pointer", "stride", "size", "host"]
    name: str
    axis: int = 0


def stride(array: str, axis: int) -> Poly:
    """The stride of an axis as an atom; `Address` reads it from the packed arguments."""
    return atom("size", f"{array}|{axis}")


class Address:
    """Compiles Polys and integer conditions inside one function.

    Only the entry of a phase reads the packed arguments; the function of a nest has what it uses as parameters.
    """

    def __init__(
        self,
        b: Builder,
        slots: Mapping[Slot, int],
        elements: Mapping[str, Element],
        shapes: Mapping[str, tuple[Poly, ...]],
        outer: Address | None = None,
    ) -> None:
        self.b = b
        self.slots = slots
        self.elements = elements
        self.shapes = shapes
        self.outer = outer

    def slot(self, s: Slot) -> Arg:
        kind: Literal["p", "f", "i"] = {"pointer": "p", "host": "f"}.get(s.kind, "i")  # type: ignore[assignment]
        if self.outer is not None:
            return self.b.use(self.outer.slot(s))
        return self.b.pure(kind, "arg", attrs=(self.slots[s],))

    def pointer(self, array: str) -> Arg:
        return self.slot(Slot("pointer", array))

    def poly(self, p: Poly, env: Callable[[str], Arg]) -> Arg:
        """The value of a polynomial."""
        b = self.b
        terms: list[tuple[int, Arg]] = []
        for m, c in p.terms:
            assert c.denominator == 1, p
            factors = sorted((self.atom(a, env) for a in m), key=b.level)
            value: Arg = Const(int(c), "i")
            if factors:
                negative = int(c) == -1
                value = factors[0] if negative else b.imul(factors[0], value)
                for f in factors[1:]:
                    value = b.imul(value, f)
                if negative:
                    value = b.isub(Const(0, "i"), value)
            terms.append((b.level(value), value))
        total: Arg = Const(0, "i")
        for _, value in sorted(terms, key=lambda t: t[0]):
            total = b.iadd(total, value)
        return total

    def atom(self, a: Atom, env: Callable[[str], Arg]) -> Arg:
        b = self.b
        match a.kind:
            case "var":
                return env(a.name)
            case "size" | "int":
                array, _, axis = a.name.partition("|")
                return self.slot(Slot("stride", array, int(axis)) if axis else Slot("size", a.name))
            case "div":
                return b.pure("i", "idiv", self.poly(a.args[0], env), self.poly(a.args[1], env))
            case "min" | "max":
                return b.pure("i", f"i{a.kind}", self.poly(a.args[0], env), self.poly(a.args[1], env))
            case "abs":
                return b.pure("i", "iabs", self.poly(a.args[0], env))
            case "select":
                c = self.cond(a.args[0], env)
                return b.pure("i", "select", c, self.poly(a.args[1], env), self.poly(a.args[2], env))
            case "load":
                return b.here("i", "load", *self.element(a.name, a.args, env), attrs=("i64", False))

    def element(self, array: str, index: tuple[Poly, ...], env: Callable[[str], Arg]) -> tuple[Arg, Arg]:
        """(pointer, offset in elements) of one element of an array in memory.

        A condition or a choice around it may say that it is outside, and is made beside it: it is clamped.
        """
        offset = Poly({})
        for k, (p, extent) in enumerate(zip(index, self.shapes[array], strict=True)):
            within = p if p.as_int() is not None else maximum(minimum(p, extent - 1), const(0))
            offset = offset + within * stride(array, k)
        return self.pointer(array), self.poly(offset, env)

    def cond(self, c: Cond, env: Callable[[str], Arg]) -> Arg:
        """The value of a condition without floats."""
        b = self.b
        match c.op:
            case "true" | "false":
                return Const(c.op == "true", "b")
            case "ge" | "eq":
                return b.icmp(c.op, self.poly(c.args[0], env), Const(0, "i"))
            case "not":
                return b.pure("b", "bnot", self.cond(c.args[0], env))
            case "and" | "or":
                value = self.cond(c.args[0], env)
                for x in c.args[1:]:
                    value = b.pure("b", "band" if c.op == "and" else "bor", value, self.cond(x, env))
                return value
            case _:
                assert c.op == "load", c
                byte = b.here("i", "load", *self.element(c.args[0], c.args[1], env), attrs=("u8", False))
                return b.icmp("ne", byte, Const(0, "i"))
