"""Conversions of 16-bit floats in LLVM, by integer arithmetic where the target has no instruction for them."""

from __future__ import annotations

from moa.backends.llvm_text import Target, Text, float_literal, retype, splatted

LIFT = float_literal(2.0**112, "f32")  # float bits with the exponent of a float16 are too small by this factor


def has_halves(target: Target) -> bool:
    """Whether float16 is converted by instructions: without them LLVM calls functions that may not be there."""
    return not target.triple.startswith(("x86_64", "i386", "i686")) or "+f16c" in target.features.split(",")


class Words:
    """32-bit integer arithmetic on a value, or on all lanes of a vector."""

    def __init__(self, t: Text, type_: str) -> None:
        self.t, self.type = t, retype(type_, "i32")
        self.single, self.bit = retype(type_, "float"), retype(type_, "i1")

    def op(self, name: str, a: str, b: str | int) -> str:
        return self.t.temp(f"{name} {self.type} {a}, {self.of(b)}")

    def of(self, b: str | int) -> str:
        return b if isinstance(b, str) else splatted(self.type, str(b))

    def less(self, a: str, b: int) -> str:
        return self.t.temp(f"icmp ult {self.type} {a}, {self.of(b)}")

    def choose(self, test: str, a: str | int, b: str | int) -> str:
        return self.t.temp(f"select {self.bit} {test}, {self.type} {self.of(a)}, {self.type} {self.of(b)}")

    def bits(self, x: str) -> str:
        return self.t.temp(f"bitcast {self.single} {x} to {self.type}")

    def value(self, n: str) -> str:
        return self.t.temp(f"bitcast {self.type} {n} to {self.single}")

    def arithmetic(self, name: str, x: str, literal: str) -> str:
        return self.t.temp(f"{name} {self.single} {x}, {splatted(self.single, literal)}")


def single_of_half(t: Text, loaded: str, held: str) -> str:
    """The instruction that yields floats, from the text of one that yields the bits of float16 as i16."""
    w = Words(t, held)
    wide = t.temp(f"zext {held} {t.temp(loaded)} to {w.type}")
    sign = w.op("shl", w.op("and", wide, 0x8000), 16)
    size = w.op("and", wide, 0x7FFF)
    moved = w.op("shl", size, 13)
    finite = w.bits(w.arithmetic("fmul", w.value(moved), LIFT))
    quiet = w.choose(w.less(size, 0x7C01), 0, 0x400000)
    large = w.op("or", w.op("or", moved, 0x7F800000), quiet)
    chosen = w.op("or", w.choose(w.less(size, 0x7C00), finite, large), sign)
    return f"bitcast {w.type} {chosen} to {w.single}"


def half_of_single(t: Text, x: str, held: str) -> str:
    """The bits of float16 as i16, rounded to nearest even."""
    w = Words(t, held)
    bits = w.bits(x)
    size = w.op("and", bits, 0x7FFFFFFF)
    shifted = w.op("lshr", size, 13)
    nan = w.op("or", w.op("and", shifted, 0x3FF), 0x7E00)
    high = w.choose(w.less(size, 0x7F800001), 0x7C00, nan)
    low = w.op("sub", w.bits(w.arithmetic("fadd", w.value(size), float_literal(0.5, "f32"))), 0x3F000000)
    bias = w.op("add", w.op("and", shifted, 1), 0xFFF - 0x38000000)
    normal = w.op("lshr", w.op("add", size, bias), 13)
    finite = w.choose(w.less(size, 0x38800000), low, normal)
    chosen = w.choose(w.less(size, 0x47800000), finite, high)
    sign = w.op("and", w.op("lshr", bits, 16), 0x8000)
    return t.temp(f"trunc {w.type} {w.op('or', chosen, sign)} to {held}")
