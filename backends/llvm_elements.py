"""Loads and stores in LLVM, with the conversions between elements of memory and the compute type."""

from __future__ import annotations

from moa.backends.llvm_halves import half_of_single, has_halves, single_of_half
from moa.backends.llvm_text import MEMORY, Text, retype, splatted, suffix
from moa.loops import ELEMENT_BYTES, Op


def memory_type(t: Text, element: str) -> str:
    """What an element is loaded as: bits where the target cannot convert it."""
    return "i16" if element == "f16" and not has_halves(t.target) else MEMORY[element]


def load(t: Text, s: Op, args: list[str]) -> str:
    assert s.result is not None
    element, aligned = s.attrs
    kind = s.result.type
    lanes = t.width if kind in "vmw" else 0
    one = memory_type(t, element)
    held = f"<{lanes} x {one}>" if lanes else one
    align = alignment(element, lanes if aligned else 0)
    place = t.temp(f"getelementptr {MEMORY[element]}, ptr {args[0]}, i64 {args[1]}")
    announce(t, place, ELEMENT_BYTES[element], lanes or 1, args[2] if s.op == "loadm" else "", store=False)
    if s.op == "load":
        text = f"load {held}, ptr {place}, align {align}"
    else:
        name = f"llvm.masked.load.{suffix(held)}.p0"
        mask = f"{t.types['m']} {args[2]}"
        text = t.call(name, held, f"ptr {place}", f"i32 {align}", mask, f"{held} zeroinitializer", immediate=(1,))
    return convert_in(t, text, element, kind, held)


def alignment(element: str, lanes: int) -> int:
    """In bytes: that of a vector, or of one element where lanes is 0; a pair lies at an address of bf16."""
    return ELEMENT_BYTES[element] * lanes or ELEMENT_BYTES["bf16" if element == "pair" else element]


def tested(t: Text, s: Op, args: list[str]) -> str:
    """The elements of the lanes against an integer, on where their mask is."""
    element, relation = s.attrs
    held = f"<{t.width} x {MEMORY[element]}>"
    place = t.temp(f"getelementptr {MEMORY[element]}, ptr {args[0]}, i64 {args[1]}")
    mask = f"{t.types['m']} {args[3]}"
    announce(t, place, ELEMENT_BYTES[element], t.width, args[3], store=False)
    operands = (f"ptr {place}", f"i32 {ELEMENT_BYTES[element]}", mask, f"{held} zeroinitializer")
    x = t.temp(t.call(f"llvm.masked.load.{suffix(held)}.p0", held, *operands, immediate=(1,)))
    other = args[2] if element == "i64" else t.temp(f"trunc i64 {args[2]} to i8")
    wide = t.temp(t.splat(MEMORY[element], other))
    sign = "" if relation in ("eq", "ne") else "s"
    return f"and {mask}, {t.temp(f'icmp {sign}{relation} {held} {x}, {wide}')}"


def announce(t: Text, place: str, element_bytes: int, lanes: int, mask: str, store: bool) -> None:
    """In a traced module, the call that tells of an access; under a mask from the first lane to the last that is on."""
    if not t.traced:
        return
    t.declared["moa_access"] = "declare void @moa_access(ptr, i64, i1 zeroext)"
    size = str(lanes * element_bytes)
    if mask:
        assert lanes <= 64, f"a mask of {lanes} lanes"
        narrow = t.temp(f"bitcast {t.types['m']} {mask} to i{lanes}")
        bits = t.temp(f"zext i{lanes} {narrow} to i64") if lanes < 64 else narrow
        skipped, above = (
            t.temp(t.call(f"llvm.{name}.i64", "i64", f"i64 {bits}", "i1 false", immediate=(1,)))
            for name in ("cttz", "ctlz")
        )
        count = t.temp(f"sub i64 {t.temp(f'sub i64 64, {above}')}, {skipped}")  # negative where no lane is on
        size = t.temp(f"mul i64 {count}, {element_bytes}")
        place = t.temp(f"getelementptr i8, ptr {place}, i64 {t.temp(f'mul i64 {skipped}, {element_bytes}')}")
    t.put(f"call void @moa_access(ptr {place}, i64 {size}, i1 zeroext {'true' if store else 'false'})")


def convert_in(t: Text, text: str, element: str, kind: str, held: str) -> str:
    """A loaded element as a value of type `kind`."""
    type_ = t.types[kind]
    match element, kind:
        case (("f32" | "f64"), ("f" | "v")):
            if element == t.dtype:
                return text
            return f"{'fpext' if element == 'f32' else 'fptrunc'} {held} {t.temp(text)} to {type_}"
        case "f16", ("f" | "v"):
            if has_halves(t.target):
                single = f"fpext {held} {t.temp(text)} to {retype(held, 'float')}"
            else:
                single = single_of_half(t, text, held)
            return single if t.dtype == "f32" else widen(t, single, held, type_)
        case "bf16", ("f" | "v"):
            wide = retype(held, "i32")
            bits = t.temp(f"zext {held} {t.temp(text)} to {wide}")
            high = t.temp(f"shl {wide} {bits}, {splatted(wide, '16')}")
            single = f"bitcast {wide} {high} to {retype(held, 'float')}"
            return single if t.dtype == "f32" else widen(t, single, held, type_)
        case (("i64" | "u8"), ("f" | "v")):
            return f"{'sitofp' if element == 'i64' else 'uitofp'} {held} {t.temp(text)} to {type_}"
        case "i64", "i":
            return text
        case "pair", "w":
            return text
        case (("u8" | "bf16" | "pair"), "i") | ("bf16", "w"):
            return f"zext {held} {t.temp(text)} to {type_}"
        case "u8", ("b" | "m"):
            return f"icmp ne {held} {t.temp(text)}, {splatted(held, '0')}"
        case _:
            raise AssertionError(f"a load of {element} as {kind}")


def widen(t: Text, single: str, held: str, type_: str) -> str:
    return f"fpext {retype(held, 'float')} {t.temp(single)} to {type_}"


def store(t: Text, s: Op, args: list[str]) -> str:
    element, aligned = s.attrs
    kind = s.args[2].type
    lanes = t.width if kind in "vmw" else 0
    one = memory_type(t, element)
    held = f"<{lanes} x {one}>" if lanes else one
    align = alignment(element, lanes if aligned else 0)
    place = t.temp(f"getelementptr {MEMORY[element]}, ptr {args[0]}, i64 {args[1]}")
    value = convert_out(t, args[2], element, kind, held)
    announce(t, place, ELEMENT_BYTES[element], lanes or 1, args[3] if s.op == "storem" else "", store=True)
    if s.op == "store":
        return f"store {held} {value}, ptr {place}, align {align}"
    name = f"llvm.masked.store.{suffix(held)}.p0"
    mask = f"{t.types['m']} {args[3]}"
    return t.call(name, "void", f"{held} {value}", f"ptr {place}", f"i32 {align}", mask, immediate=(2,))


def convert_out(t: Text, value: str, element: str, kind: str, held: str) -> str:
    """A value of type `kind` as an element to store."""
    type_ = t.types[kind]
    match element, kind:
        case (("f32" | "f64"), ("f" | "v")):
            if element == t.dtype:
                return value
            return t.temp(f"{'fpext' if element == 'f64' else 'fptrunc'} {type_} {value} to {held}")
        case (("f16" | "bf16"), ("f" | "v")):
            single = value if t.dtype == "f32" else round_to_odd(t, value, type_, held)
            if element == "f16" and not has_halves(t.target):
                return half_of_single(t, single, held)
            if element == "f16":
                return t.temp(f"fptrunc {retype(held, 'float')} {single} to {held}")
            return round_to_bf16(t, single, held)
        case ("i64", "i") | ("pair", "w"):
            return value
        case "u8", "i":
            return t.temp(f"trunc i64 {value} to i8")
        case "u8", ("b" | "m"):
            return t.temp(f"zext {type_} {value} to {held}")
        case _:
            raise AssertionError(f"a store of {kind} as {element}")


def round_to_odd(t: Text, value: str, type_: str, held: str) -> str:
    """double to float, inexact results made odd: a second rounding to 16 bits then is the only one.

    Source: Boldo and Melquiond 2008, Emulation of FMA and correctly rounded sums: proved algorithms using
    rounding to odd
    """
    single, bits, bit = retype(held, "float"), retype(held, "i32"), retype(held, "i1")
    near = t.temp(f"fptrunc {type_} {value} to {single}")
    back = t.temp(f"fpext {single} {near} to {type_}")
    exact = t.temp(f"fcmp ueq {type_} {back}, {value}")
    sizes = [t.temp(t.intrinsic("fabs", type_, x)) for x in (back, value)]
    above = t.temp(f"sext {bit} {t.temp(f'fcmp ogt {type_} {sizes[0]}, {sizes[1]}')} to {bits}")
    whole = t.temp(f"bitcast {single} {near} to {bits}")
    odd = t.temp(f"or {bits} {t.temp(f'add {bits} {whole}, {above}')}, {splatted(bits, '1')}")
    chosen = t.temp(f"select {bit} {exact}, {bits} {whole}, {bits} {odd}")
    return t.temp(f"bitcast {bits} {chosen} to {single}")


def round_to_bf16(t: Text, value: str, held: str) -> str:
    single, wide = retype(held, "float"), retype(held, "i32")
    bits = t.temp(f"bitcast {single} {value} to {wide}")
    high = t.temp(f"lshr {wide} {bits}, {splatted(wide, '16')}")
    even = t.temp(f"and {wide} {high}, {splatted(wide, '1')}")
    bias = t.temp(f"add {wide} {even}, {splatted(wide, '32767')}")
    near = t.temp(f"lshr {wide} {t.temp(f'add {wide} {bits}, {bias}')}, {splatted(wide, '16')}")
    quiet = t.temp(f"or {wide} {high}, {splatted(wide, '64')}")
    nan = t.temp(f"fcmp uno {single} {value}, {value}")
    chosen = t.temp(f"select {retype(held, 'i1')} {nan}, {wide} {quiet}, {wide} {near}")
    return t.temp(f"trunc {wide} {chosen} to {held}")
