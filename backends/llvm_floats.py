"""fraction, scale, mantissa and exponent in LLVM: one AVX-512 instruction, or a portable form with the same bits."""

from __future__ import annotations

import numpy as np

from moa.backends.llvm_text import FRACTION_BITS, Text, splatted


def native(t: Text, kind: str) -> str | None:
    """The suffix of the AVX-512 intrinsics on these vectors, as in ps.512."""
    bits = t.width * t.bits
    fits = t.target.avx512 and kind == "v" and bits in (128, 256, 512)
    return f"p{t.float[0].replace('f', 's')}.{bits}" if fits else None


def masked(t: Text, name: str, type_: str, args: list[str], immediate: tuple[int, ...] = ()) -> str:
    """A call of an AVX-512 intrinsic with a mask of ones, in the present rounding mode."""
    mask = max(8, t.width)
    full = [*args, f"{type_} zeroinitializer", f"i{mask} -1"]
    if name.endswith(".512"):
        immediate = (*immediate, len(full))
        full.append("i32 4")
    return t.call(f"llvm.x86.avx512.mask.{name}", type_, *full, immediate=immediate)


def fraction(t: Text, kind: str, type_: str, x: str) -> str:
    if form := native(t, kind):
        return masked(t, f"reduce.{form}", type_, [f"{type_} {x}", "i32 9"], immediate=(1,))
    bits, bit = t.integer(kind), t.types["m" if kind == "v" else "b"]
    whole = t.temp(t.intrinsic("floor", type_, x))
    near = t.temp(f"fneg {type_} {t.temp(f'fsub {type_} {whole}, {x}')}")
    above = t.temp(f"fcmp ogt {type_} {t.temp(f'fadd {type_} {near}, {whole}')}, {x}")
    step = t.temp(f"sext {bit} {above} to {bits}")
    down = t.temp(f"add {bits} {t.temp(f'bitcast {type_} {near} to {bits}')}, {step}")
    size = t.temp(t.intrinsic("fabs", type_, x))
    infinite = t.temp(f"fcmp oeq {type_} {size}, {t.constant(float('inf'), kind)}")
    value = t.temp(f"bitcast {bits} {down} to {type_}")
    return f"select {bit} {infinite}, {type_} {t.constant(0.0, kind)}, {type_} {value}"


def scale(t: Text, kind: str, type_: str, args: list[str]) -> str:
    """x * 2**floor(n): two factors, of which the first is exact (2**-100 <= |x| <= 2**100)."""
    x, n = args
    if form := native(t, kind):
        return masked(t, f"scalef.{form}", type_, [f"{type_} {a}" for a in args])
    bits, bit = t.integer(kind), t.types["m" if kind == "v" else "b"]
    bias = 2 ** (10 if t.bits == 64 else 7) - 1
    shift = FRACTION_BITS[t.dtype]
    low, high = t.constant(-2.0 * bias + 2, kind), t.constant(2.0 * bias, kind)
    n1 = t.temp(f"fcmp ogt {type_} {low}, {n}")
    n2 = t.temp(f"select {bit} {n1}, {type_} {low}, {type_} {n}")
    n3 = t.temp(f"fcmp olt {type_} {high}, {n2}")
    n4 = t.temp(f"select {bit} {n3}, {type_} {high}, {type_} {n2}")
    total = t.temp(t.intrinsic("floor", type_, n4))
    half = t.temp(f"fmul {type_} {total}, {t.constant(0.5, kind)}")
    first = t.temp(t.intrinsic("floor", type_, half))
    second = t.temp(f"fsub {type_} {total}, {first}")
    for part in (first, second):
        number = t.temp(f"fadd {type_} {part}, {t.constant(1.5 * 2.0**shift + bias, kind)}")
        exponent = t.temp(f"bitcast {type_} {number} to {bits}")
        factor = t.temp(f"shl {bits} {exponent}, {splatted(bits, str(shift))}")
        x = t.temp(f"fmul {type_} {x}, {t.temp(f'bitcast {bits} {factor} to {type_}')}")
    nan = t.temp(f"fcmp uno {type_} {n}, {n}")
    return f"select {bit} {nan}, {type_} {n}, {type_} {x}"


def mantissa_or_exponent(t: Text, op: str, kind: str, type_: str, x: str) -> str:
    """From the bits of x, times a power of two where x is denormal."""
    bits, bit, shift = t.integer(kind), t.types["m" if kind == "v" else "b"], FRACTION_BITS[t.dtype]
    least = float(np.finfo(np.float32 if t.dtype == "f32" else np.float64).tiny)
    small = t.temp(f"fcmp olt {type_} {x}, {t.constant(least, kind)}")
    large = t.temp(f"fmul {type_} {x}, {t.constant(2.0**shift, kind)}")
    normal = t.temp(f"select {bit} {small}, {type_} {large}, {type_} {x}")
    whole = t.temp(f"bitcast {type_} {normal} to {bits}")
    start = splatted(bits, str(int(np.array(0.75, f"f{t.bits // 8}").view(f"i{t.bits // 8}"))))
    power = t.temp(f"ashr {bits} {t.temp(f'sub {bits} {whole}, {start}')}, {splatted(bits, str(shift))}")
    if op == "mantissa":
        rest = t.temp(f"sub {bits} {whole}, {t.temp(f'shl {bits} {power}, {splatted(bits, str(shift))}')}")
        return f"bitcast {bits} {rest} to {type_}"
    magic = 1.5 * 2.0**shift
    literal = int(np.array(magic, f"f{t.bits // 8}").view(f"i{t.bits // 8}"))
    number = t.temp(f"add {bits} {power}, {splatted(bits, str(literal))}")
    float_ = t.temp(f"bitcast {bits} {number} to {type_}")
    offsets = [t.constant(magic + shift, kind), t.constant(magic, kind)]
    offset = t.temp(f"select {bit} {small}, {type_} {offsets[0]}, {type_} {offsets[1]}")
    return f"fsub {type_} {float_}, {offset}"
