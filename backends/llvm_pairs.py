"""Words of two bfloat16 numbers in LLVM: rounding to them and multiplying them, where the target has the instructions.

The text for other targets gives the same bits.
"""

from __future__ import annotations

from moa.backends.llvm_text import Target, Text

LEAST_NORMAL = 0x00800000
VECTOR_BITS = (128, 256, 512)


def has_pairs(target: Target, width: int) -> bool:
    """Whether the target rounds and multiplies pairs of so many words."""
    return "+avx512bf16" in target.features.split(",") and target.avx512 and 32 * width in VECTOR_BITS


def pair(t: Text, args: list[str]) -> str:
    """Both operands rounded to nearest even, the first one in the low halves."""
    width, words = t.width, t.types["w"]
    if has_pairs(t.target, width):
        both = f"<{2 * width} x bfloat>"
        name = f"llvm.x86.avx512bf16.cvtne2ps2bf16.{32 * width}"
        made = t.temp(t.call(name, both, *(f"{t.types['v']} {x}" for x in reversed(args))))
        shorts = f"<{2 * width} x i16>"
        bits = t.temp(f"bitcast {both} {made} to {shorts}")
        order = ", ".join(f"i32 {k // 2 + k % 2 * width}" for k in range(2 * width))
        joined = t.temp(f"shufflevector {shorts} {bits}, {shorts} poison, <{2 * width} x i32> <{order}>")
        return f"bitcast {shorts} {joined} to {words}"
    low, high = (rounded(t, x) for x in args)
    below = t.temp(f"lshr {words} {low}, {t.constant(16, 'w')}")
    above = t.temp(f"and {words} {high}, {t.constant(-65536, 'w')}")
    return f"or {words} {below}, {above}"


def weave(t: Text, args: list[str], half: int) -> str:
    """Numbers of the first operand in the low halves of words, those of the second one above them."""
    width, words = t.width, t.types["w"]
    shorts = f"<{2 * width} x i16>"
    both = [t.temp(f"bitcast {words} {x} to {shorts}") for x in args]
    order = ", ".join(f"i32 {half * width + k // 2 + k % 2 * 2 * width}" for k in range(2 * width))
    joined = t.temp(f"shufflevector {shorts} {both[0]}, {shorts} {both[1]}, <{2 * width} x i32> <{order}>")
    return f"bitcast {shorts} {joined} to {words}"


def rounded(t: Text, value: str) -> str:
    """Words whose upper halves are the numbers rounded."""
    words, mask = t.types["w"], t.types["m"]
    bits = t.temp(f"bitcast {t.types['v']} {flushed(t, value)} to {words}")
    upper = t.temp(f"lshr {words} {bits}, {t.constant(16, 'w')}")
    odd = t.temp(f"and {words} {upper}, {t.constant(1, 'w')}")
    bias = t.temp(f"add {words} {odd}, {t.constant(0x7FFF, 'w')}")
    near = t.temp(f"add {words} {bits}, {bias}")
    quiet = t.temp(f"or {words} {bits}, {t.constant(1 << 22, 'w')}")
    nan = t.temp(f"fcmp uno {t.types['v']} {value}, {value}")
    return t.temp(f"select {mask} {nan}, {words} {quiet}, {words} {near}")


def flushed(t: Text, value: str) -> str:
    return t.temp(flush(t, value))


def flush(t: Text, value: str) -> str:
    """The value with numbers that are not normal replaced by 0 of their sign."""
    words, vector = t.types["w"], t.types["v"]
    bits = t.temp(f"bitcast {vector} {value} to {words}")
    size = t.temp(f"and {words} {bits}, {t.constant(0x7FFFFFFF, 'w')}")
    small = t.temp(f"icmp ult {words} {size}, {t.constant(LEAST_NORMAL, 'w')}")
    sign = t.temp(f"and {words} {bits}, {t.constant(-(1 << 31), 'w')}")
    zero = t.temp(f"bitcast {words} {sign} to {vector}")
    return f"select {t.types['m']} {small}, {vector} {zero}, {vector} {value}"


def dot2(t: Text, args: list[str]) -> str:
    """The first operand plus the products of the upper halves, then of the lower halves."""
    width, words, vector = t.width, t.types["w"], t.types["v"]
    if has_pairs(t.target, width):
        both = f"<{2 * width} x bfloat>"
        halves = [f"{both} {t.temp(f'bitcast {words} {x} to {both}')}" for x in args[1:]]
        return t.call(f"llvm.x86.avx512bf16.dpbf16ps.{32 * width}", vector, f"{vector} {args[0]}", *halves)
    total = flushed(t, args[0])
    upper, lower = ("and", -65536), ("shl", 16)
    for step, by in (upper, lower):
        bits = [t.temp(f"{step} {words} {x}, {t.constant(by, 'w')}") for x in args[1:]]
        factors = [flushed(t, t.temp(f"bitcast {words} {x} to {vector}")) for x in bits]
        rest = flush(t, t.temp(t.intrinsic("fma", vector, *factors, total)))
        total = rest if (step, by) == lower else t.temp(rest)
    return total
