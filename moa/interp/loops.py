"""The meaning of Loops, one instruction after the other, with the bits that the machine gives.

Memory is a set of named buffers and an address is a buffer with an offset in bytes, so nothing outside a buffer can be
touched: bounds are checked at every load and store, for masked ones in the lanes that are on. Names are visible as
`moa.loops` says, and assigned once. The workspace starts as NaN, which shows lanes that are read before they are
written. Vectors are NumPy arrays; any width that is a power of two will do, those of no machine too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np

from moa.interp.floats import bf16_bits, bf16_value, dot2, fused_multiply_add, pair, weave
from moa.loops import ELEMENT_BYTES, Arg, CallFn, Const, Fn, For, If, Loops, Name, Op, Stmt
from moa.ops import erf

Value = Any
"""i: int, f: NumPy scalar, b: bool, v w m: arrays of `width` elements, p: Pointer."""


@dataclass(frozen=True, slots=True)
class Pointer:
    buffer: str
    offset_bytes: int = 0


WORKSPACE = "workspace"


def run(
    loops: Loops,
    phase: str,
    args: Sequence[int | float | str | Pointer],
    first: int,
    last: int,
    buffers: Mapping[str, np.ndarray[Any, Any]],
    workspace_bytes: int = 0,
) -> None:
    """Nothing: runs the items first .. last - 1 of a phase on `buffers`, which are contiguous and changed in place.

    A str in `args` is the start of the buffer of that name. bf16 elements lie in buffers of any type of two bytes.
    Errors: AssertionError naming the instruction
    """
    memory = {name: bytes_of(name, a) for name, a in buffers.items()}
    memory[WORKSPACE] = np.full(workspace_bytes, 0xFF, np.uint8)
    values = tuple(Pointer(a) if isinstance(a, str) else a for a in args)
    machine = Machine(loops, memory, values)
    with np.errstate(all="ignore"):
        machine.call(loops.function(phase), (Pointer("arguments"), first, last, Pointer(WORKSPACE)))


def bytes_of(name: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    assert array.flags.c_contiguous, f"the buffer {name} is not contiguous"
    return array.reshape(-1).view(np.uint8)


RELATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
}


def maximum(a: Value, b: Value) -> Value:
    """NaN if either is; 0 is above -0."""
    larger = np.where((a > b) | ((a == b) & ~np.signbit(a)), a, b)
    return np.where(np.isnan(a), a, larger)


def fraction(x: Value) -> Value:
    whole = np.floor(x)
    near = -(whole - x)
    down = np.where(near + whole > x, np.nextafter(near, np.asarray(-np.inf, x.dtype)), near)
    return np.where(np.isinf(x), np.zeros_like(x), down)


def scale(x: Value, n: Value) -> Value:
    power = np.clip(np.floor(np.where(np.isnan(n), 0, n)), -9999, 9999).astype(np.int32)
    return np.where(np.isnan(n), n, np.ldexp(x, power))


def mantissa_and_exponent(x: Value) -> tuple[Value, Value]:
    m, e = np.frexp(x)
    low = m < 0.75
    return np.where(low, 2 * m, m), np.where(low, e - 1, e)


def truncated(x: Value) -> int:
    return 0 if np.isnan(x) else max(-(2**63), min(2**63 - 1, int(np.clip(x, -1e19, 1e19))))


PURE: dict[str, Callable[..., Any]] = {
    "iadd": lambda a, b: a + b,
    "isub": lambda a, b: a - b,
    "imul": lambda a, b: a * b,
    "imin": min,
    "imax": max,
    "idiv": lambda a, b: a // b,
    "imod": lambda a, b: a % b,
    "iabs": abs,
    "band": lambda a, b: a & b,
    "bor": lambda a, b: a | b,
    "bnot": np.logical_not,
    "wadd": lambda a, b: a + b,
    "wsub": lambda a, b: a - b,
    "wmul": lambda a, b: a * b,
    "wmin": np.minimum,
    "wmax": np.maximum,
    "fadd": lambda a, b: a + b,
    "fsub": lambda a, b: a - b,
    "fmul": lambda a, b: a * b,
    "fdiv": lambda a, b: a / b,
    "fma": fused_multiply_add,
    "fneg": lambda a: -a,
    "fabs": np.abs,
    "fsqrt": np.sqrt,
    "fmax": lambda a, b: np.where(a > b, a, b),
    "fmin": lambda a, b: np.where(a < b, a, b),
    "fmaxn": maximum,
    "fminn": lambda a, b: -maximum(-a, -b),
    "select": lambda c, a, b: np.where(c, a, b) if isinstance(a, np.ndarray) else (a if c else b),
    "i2f": np.int64,
    "w2v": lambda a: a,
    "f2i": truncated,
    "exp2": np.exp2,
    "exp": np.exp,
    "log": np.log,
    "tanh": np.tanh,
    "erf": erf,
    "round": np.rint,
    "scale": scale,
    "fraction": fraction,
    "pair": pair,
    "dot2": dot2,
    "mantissa": lambda a: mantissa_and_exponent(a)[0],
    "exponent": lambda a: mantissa_and_exponent(a)[1],
}
"""Instructions without memory and attributes; the result is converted to its type afterwards."""

PAIRS: dict[str, str] = {op: f"f{op}" for op in ("add", "mul", "max", "min", "maxn", "minn")}

STORED = {"f64": np.float64, "f32": np.float32, "bf16": np.uint16, "f16": np.float16, "i64": np.int64, "u8": np.uint8,
          "pair": np.uint32}  # fmt: skip


class Machine:
    """Runs functions of one Loops on one memory."""

    def __init__(self, loops: Loops, memory: dict[str, np.ndarray[Any, Any]], args: tuple[Value, ...]) -> None:
        assert loops.width >= 1 and loops.width & (loops.width - 1) == 0, f"the width is {loops.width}"
        self.loops, self.width, self.memory, self.args = loops, loops.width, memory, args
        self.float: Any = np.float32 if loops.dtype == "f32" else np.float64
        self.word: Any = np.int32 if loops.dtype == "f32" else np.int64

    # statements

    def call(self, f: Fn, values: Sequence[Value]) -> None:
        assert len(values) == len(f.params), f"{f.name} takes {len(f.params)} arguments, not {len(values)}"
        self.body(f.body, dict(zip(f.params, values, strict=True)), f)

    def body(self, body: tuple[Stmt, ...], seen: dict[Name, Value], f: Fn) -> dict[Name, Value]:
        """The names visible at the end of `body`: those `seen` before, and its own."""
        names = dict(seen)
        for s in body:
            match s:
                case Op():
                    try:
                        value = self.op(s, [self.value(a, names) for a in s.args], f)
                    except AssertionError as e:
                        raise AssertionError(f"{f.name}: {s}: {e}") from None
                    if s.result is not None:
                        assign(names, s.result, value)
                case For():
                    self.loop(s, names, f)
                case If():
                    inner = self.body(s.then if self.value(s.cond, names) else s.other, names, f)
                    for r, a, b in s.results:
                        assign(names, r, self.value(a if self.value(s.cond, names) else b, inner))
                case CallFn():
                    self.call(self.loops.function(s.function), [self.value(a, names) for a in s.args])
                case _:
                    assert_never(s)
        return names

    def loop(self, s: For, names: dict[Name, Value], f: Fn) -> None:
        lo, hi, step = (self.value(a, names) for a in (s.lo, s.hi, s.step))
        assert step > 0, f"{f.name}: for {s.index}: the step is {step}"
        carried = [self.value(c.first, names) for c in s.carried]
        for index in range(lo, hi, step):
            inner = dict(names)
            assign(inner, s.index, index)
            for c, value in zip(s.carried, carried, strict=True):
                assign(inner, c.phi, value)
            end = self.body(s.body, inner, f)
            carried = [self.value(c.next, end) for c in s.carried]
        for c, value in zip(s.carried, carried, strict=True):
            assign(names, c.result, value)

    # values

    def value(self, a: Arg, names: dict[Name, Value]) -> Value:
        if isinstance(a, Const):
            return self.typed(a.value, a.type)
        assert a in names, f"{a} is not defined here"
        return names[a]

    def typed(self, x: Value, type_: str) -> Value:
        """x as a value of a type; scalars of vector types go to all lanes."""
        match type_:
            case "i":
                assert -(2**63) <= x < 2**63, f"{x} does not fit 64 bits"
                return int(x)
            case "f":
                return self.float(x)
            case "b":
                return bool(x)
            case "v" | "w" | "m":
                kind = {"v": self.float, "w": self.word, "m": np.bool_}[type_]
                array = np.asarray(x).astype(kind)
                assert array.shape in ((), (self.width,)), f"{array.shape} lanes"
                return np.broadcast_to(array, (self.width,))
            case _:
                assert isinstance(x, Pointer), f"{x} is no address"
                return x

    def op(self, s: Op, args: list[Value], f: Fn) -> Value:
        result = s.result.type if s.result is not None else ""
        lanes = np.arange(self.width)
        match s.op, args:
            case (("idiv" | "imod"), [_, b]) if b <= 0:
                raise AssertionError(f"the divisor is {b}")
            case (("icmp" | "wcmp" | "fcmp"), [a, b]):
                value = RELATIONS[s.attrs[0]](a, b)
            case "wsplat", [i]:
                value = np.int64(i).astype(self.word)
            case (("splat" | "bsplat"), [x]):
                value = x
            case "lanes", []:
                value = lanes
            case "first", [i]:
                value = lanes < i
            case "reduce", [x]:
                while len(x) > 1:
                    x = PURE[PAIRS[s.attrs[0]]](x[: len(x) // 2], x[len(x) // 2 :])
                value = x[0]
            case "sums", [*vectors]:
                rows = np.array(vectors)
                while rows.shape[1] > 1:
                    rows = rows[:, : rows.shape[1] // 2] + rows[:, rows.shape[1] // 2 :]
                value = np.resize(rows, self.width)
            case "insert", [x, y]:
                value = np.where(lanes == s.attrs[0], y, x)
            case "extract", [x]:
                value = x[s.attrs[0]]
            case "pick", [x, i]:
                value = x[i]
            case "arg", []:
                assert f.name in self.loops.phases, "only an entry reads its arguments"
                value = self.args[s.attrs[0]]
            case "offset", [p, i]:
                value = Pointer(p.buffer, p.offset_bytes + i * ELEMENT_BYTES[s.attrs[0]])
            case (("load" | "loadm"), [p, i, *mask]):
                value = self.load(p, i, result, *s.attrs, *mask)
            case "test", [p, i, x, mask]:
                element, relation = s.attrs
                held, used = self.place(p, i, self.width, element, False, np.broadcast_to(mask, self.width))
                value = np.zeros(self.width, np.bool_)
                value[used] = RELATIONS[relation](held[used - used[:1]], x)
            case "turn", [x, y]:
                step, half = s.attrs
                pairs = np.stack([v.reshape(-1, 2, step)[:, half] for v in (x, y)], axis=1)
                value = pairs.reshape(self.width)
            case "weave", [x, y]:
                value = weave(x, y, s.attrs[0])
            case ("prefetch", [_, _]) | ("barrier", []):
                return None
            case (("store" | "storem"), [p, i, x, *mask]):
                return self.store(p, i, x, s.args[2].type, *s.attrs, *mask)
            case _:
                assert s.op in PURE, "no such instruction"
                value = PURE[s.op](*args)
        return self.typed(value, result)

    # memory

    def place(self, p: Pointer, i: int, lanes: int, element: str, aligned: bool, mask: Any) -> Any:
        """The elements from i on of the array at p, of which those in `mask` exist; and the mask, cut to a slice."""
        size = ELEMENT_BYTES[element]
        start, memory = p.offset_bytes + i * size, self.memory.get(p.buffer)
        assert memory is not None, f"no buffer {p.buffer}"
        if aligned and lanes > 1:
            assert start % (lanes * size) == 0, f"byte {start} of {p.buffer} is not aligned"
        used = np.flatnonzero(mask) if mask is not None else np.arange(lanes)
        if not len(used):
            return np.empty(0, STORED[element]), used
        low, high = start + int(used[0]) * size, start + (int(used[-1]) + 1) * size
        assert low >= 0 and high <= len(memory), f"bytes {low} to {high} of {p.buffer}, which has {len(memory)}"
        return memory[low:high].view(STORED[element]), used

    def load(self, p: Pointer, i: int, kind: str, element: str, aligned: bool, mask: Any = None) -> Value:
        lanes = self.width if kind in "vmw" else 1
        held, used = self.place(p, i, lanes, element, aligned, mask)
        whole = np.zeros(lanes, STORED[element])
        if len(used):
            whole[used] = held[used - used[0]]
        match element, kind:
            case "bf16", ("f" | "v"):
                value: Any = bf16_value(whole)
            case (("f64" | "f32" | "f16" | "i64" | "u8"), ("f" | "v")):
                value = whole.astype(self.float)
            case ("i64", "i") | ("u8", "i") | (("pair" | "bf16"), ("i" | "w")):
                value = whole
            case "u8", ("b" | "m"):
                value = whole != 0
            case _:
                raise AssertionError(f"a load of {element} as {kind}")
        return value if kind in "vmw" else value[0]

    def store(self, p: Pointer, i: int, x: Value, kind: str, element: str, aligned: bool, mask: Any = None) -> None:
        lanes = self.width if kind in "vmw" else 1
        held, used = self.place(p, i, lanes, element, aligned, mask)
        assert self.memory[p.buffer].flags.writeable, f"the buffer {p.buffer} is only read"
        match element, kind:
            case "bf16", ("f" | "v"):
                whole = bf16_bits(np.atleast_1d(x))
            case (("f64" | "f32" | "f16"), ("f" | "v")) | ("i64", "i") | ("u8", ("b" | "m")) | ("pair", "w"):
                whole = np.atleast_1d(x).astype(STORED[element])
            case "u8", "i":
                whole = np.atleast_1d(x & 255).astype(np.uint8)
            case _:
                raise AssertionError(f"a store of {kind} as {element}")
        if len(used):
            held[used - used[0]] = whole[used]


def assign(names: dict[Name, Value], name: Name, value: Value) -> None:
    assert name not in names, f"{name} is assigned twice"
    names[name] = value
