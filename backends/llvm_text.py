"""Pieces of LLVM text: types, literals, temporaries, calls of intrinsics."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache

import numpy as np

from moa.loops import ELEMENT_BYTES, Arg, Loops, Name


@dataclass(frozen=True, slots=True)
class Target:
    """A machine to print for. `vector_bytes` is the widest register; `avx512` means F, VL and DQ."""

    triple: str
    cpu: str
    features: str
    vector_bytes: int
    avx512: bool

    def width(self, dtype: str) -> int:
        return self.vector_bytes // ELEMENT_BYTES[dtype]


@cache
def host() -> Target:
    """The machine this process runs on."""
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    avx512 = all(features.get(f"avx512{x}", False) for x in ("f", "vl", "dq"))
    wide = 64 if avx512 else 32 if features.get("avx2", False) else 16
    return Target(llvm.get_process_triple(), llvm.get_host_cpu_name(), features.flatten(), wide, avx512)


FLOAT = {"f32": "float", "f64": "double"}
BITS = {"f32": 32, "f64": 64}
MEMORY = {"f64": "double", "f32": "float", "bf16": "i16", "f16": "half", "i64": "i64", "u8": "i8", "pair": "i32"}
FRACTION_BITS = {"f32": 23, "f64": 52}


def float_literal(value: float, dtype: str) -> str:
    with np.errstate(over="ignore"):
        x = float(np.float32(value)) if dtype == "f32" else float(value)
    return "0x7FF8000000000000" if x != x else "0x" + struct.pack(">d", x).hex().upper()


class Text:
    """The lines of one function at a time, and the declarations they need.

    A value is printed as its name; `t` numbers the temporaries of a function, `loop`, `then` and the like its labels.
    """

    def __init__(self, loops: Loops, target: Target, traced: bool = False) -> None:
        width = loops.width
        assert width >= 1 and width & (width - 1) == 0, f"the width is a power of two, not {width}"
        self.loops, self.target, self.dtype, self.width = loops, target, loops.dtype, width
        self.traced = traced
        self.float, self.bits = FLOAT[loops.dtype], BITS[loops.dtype]
        self.types = {
            "i": "i64", "f": self.float, "b": "i1", "p": "ptr",
            "v": f"<{width} x {self.float}>", "w": f"<{width} x i{self.bits}>", "m": f"<{width} x i1>",
        }  # fmt: skip
        self.declared: dict[str, str] = {}
        self.lines: list[str] = []
        self.temporaries = self.labels = 0
        self.block = "entry"
        self.packed: str | None = None

    def label(self) -> int:
        self.labels += 1
        return self.labels

    def start(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.block = label

    def put(self, text: str) -> None:
        self.lines.append("  " + text)

    def temp(self, text: str) -> str:
        self.temporaries += 1
        self.put(f"%t{self.temporaries} = {text}")
        return f"%t{self.temporaries}"

    def arg(self, a: Arg) -> str:
        return f"%{a}" if isinstance(a, Name) else self.constant(a.value, a.type)

    def typed(self, a: Arg) -> str:
        return f"{self.types[a.type]} {self.arg(a)}"

    def constant(self, value: float, type_: str) -> str:
        match type_:
            case "i":
                return str(int(value))
            case "b":
                return "true" if value else "false"
            case "f":
                return float_literal(value, self.dtype)
            case "v":
                return f"splat ({self.float} {float_literal(value, self.dtype)})"
            case "w":
                return f"splat (i{self.bits} {int(value)})"
            case "m":
                return f"splat (i1 {'true' if value else 'false'})"
            case _:
                raise AssertionError(f"a constant of type {type_}")

    def call(self, name: str, result: str, *args: str, immediate: tuple[int, ...] = ()) -> str:
        """The text of a call of an intrinsic; `args` carry their types, `immediate` tells which ones are literals."""
        shapes = (split_type(a) + (" immarg" if i in immediate else "") for i, a in enumerate(args))
        self.declared[name] = f"declare {result} @{name}({', '.join(shapes)})"
        return f"call {result} @{name}({', '.join(args)})"

    def intrinsic(self, name: str, type_: str, *values: str) -> str:
        return self.call(f"llvm.{name}.{suffix(type_)}", type_, *(f"{type_} {v}" for v in values))

    def splat(self, element: str, value: str) -> str:
        width = self.width
        one = self.temp(f"insertelement <{width} x {element}> poison, {element} {value}, i64 0")
        type_ = f"<{width} x {element}>"
        return f"shufflevector {type_} {one}, {type_} poison, <{width} x i32> zeroinitializer"

    def integer(self, kind: str) -> str:
        return self.types["w"] if kind == "v" else f"i{self.bits}"


def suffix(type_: str) -> str:
    """The type as intrinsics are named: <16 x float> is v16f32."""
    short = {"float": "f32", "double": "f64", "half": "f16"}
    if type_.startswith("<"):
        lanes, element = type_[1:-1].split(" x ")
        return f"v{lanes}{short.get(element, element)}"
    return short.get(type_, type_)


def split_type(typed: str) -> str:
    """The type in `type value`."""
    return typed[: typed.index(">") + 1] if typed.startswith("<") else typed.split(" ")[0]


def retype(type_: str, element: str) -> str:
    return f"{type_[: type_.index(' x ')]} x {element}>" if type_.startswith("<") else element


def splatted(type_: str, literal: str) -> str:
    return f"splat ({type_[1:-1].split(' x ')[1]} {literal})" if type_.startswith("<") else literal
