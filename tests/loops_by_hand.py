"""Writes Loops by hand for tests, and runs them both by the interpreter and as machine code."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from moa.backends.llvm import Target, host
from moa.backends.llvm_build import Built, build
from moa.interp.loops import run
from moa.loops import Arg, CallFn, Carried, Const, Fn, For, If, Loops, Name, Op, Stmt

FLOATS = {"f32": np.float32, "f64": np.float64}
Buffers = dict[str, np.ndarray[Any, Any]]


class Hand:
    """The body of one function under construction."""

    def __init__(self, dtype: str, width: int) -> None:
        self.dtype, self.width, self.number = dtype, width, 0
        self.params = (self.name("p"), self.name("i"), self.name("i"), self.name("p"))
        self.blocks: list[list[Stmt]] = [[]]

    def name(self, type_: str) -> Name:
        self.number += 1
        return Name(self.number, type_)

    def op(self, type_: str, op: str, *args: Arg | int, attrs: tuple[Any, ...] = ()) -> Name:
        result = self.name(type_)
        self.blocks[-1].append(Op(result, op, arguments(args), attrs))
        return result

    def do(self, op: str, *args: Arg | int, attrs: tuple[Any, ...] = ()) -> None:
        self.blocks[-1].append(Op(None, op, arguments(args), attrs))

    def arg(self, type_: str, slot: int) -> Name:
        return self.op(type_, "arg", attrs=(slot,))

    def loop(
        self, lo: Arg | int, hi: Arg | int, firsts: Sequence[Arg], body: Callable[..., Sequence[Arg]], step: int = 1
    ) -> list[Name]:
        """body(index, *phis) -> what is carried on."""
        index, phis = self.name("i"), [self.name(f.type) for f in firsts]
        self.blocks.append([])
        following = body(index, *phis) or ()
        inside = tuple(self.blocks.pop())
        results = [self.name(f.type) for f in firsts]
        carried = tuple(Carried(*t) for t in zip(phis, firsts, following, results, strict=True))
        low, high = arguments((lo, hi))
        self.blocks[-1].append(For(index, low, high, Const(step, "i"), carried, inside))
        return results

    def branch(self, cond: Arg, then: Callable[[], Sequence[Arg]], other: Callable[[], Sequence[Arg]]) -> list[Name]:
        bodies, values = [], []
        for side in (then, other):
            self.blocks.append([])
            values.append(side() or ())
            bodies.append(tuple(self.blocks.pop()))
        results = [self.name(a.type) for a in values[0]]
        self.blocks[-1].append(If(cond, *bodies, tuple(zip(results, *values, strict=True))))
        return results

    def call(self, function: str, *args: Arg) -> None:
        self.blocks[-1].append(CallFn(function, args))

    def fn(self, name: str, params: tuple[Name, ...] | None = None) -> Fn:
        return Fn(name, self.params if params is None else params, tuple(self.blocks[0]))

    def loops(self) -> Loops:
        return Loops(self.dtype, self.width, (self.fn("main"),), ("main",))


def arguments(args: Sequence[Arg | int]) -> tuple[Arg, ...]:
    return tuple(Const(a, "i") if isinstance(a, int) else a for a in args)


def array(values: Any, dtype: Any) -> np.ndarray[Any, Any]:
    """A copy that starts at a multiple of 64 bytes."""
    source = np.asarray(values, dtype)
    raw = np.zeros(source.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    out = raw[start : start + source.nbytes].view(dtype).reshape(source.shape)
    out[...] = source
    return out


def entry(address: int) -> Callable[..., None]:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)(address)


def packed(args: Sequence[int | float | str], buffers: Buffers) -> np.ndarray[Any, Any]:
    out = np.zeros(max(1, len(args)), np.int64)
    for k, a in enumerate(args):
        if isinstance(a, float):
            out.view(np.float64)[k] = a
        else:
            out[k] = buffers[a].ctypes.data if isinstance(a, str) else a
    return out


def execute(
    built: Built, args: Sequence[int | float | str], first: int, last: int, buffers: Buffers, workspace_bytes: int = 0
) -> None:
    """Runs every phase of `built` on the items first .. last - 1."""
    space = array(np.full(max(1, workspace_bytes), 0xFF), np.uint8)
    slots = packed(args, buffers)
    for address in built.phases:
        entry(address)(slots.ctypes.data, first, last, space.ctypes.data)


def same_bits(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    """Equal bytes, where any NaN equals any other."""
    equal = a.view(f"u{a.itemsize}") == b.view(f"u{b.itemsize}")
    return bool(np.all(equal | (np.isnan(a) & np.isnan(b)) if a.dtype.kind == "f" else equal))


def agree(
    loops: Loops,
    args: Sequence[int | float | str],
    last: int,
    buffers: Buffers,
    targets: Sequence[Target] = (),
    workspace_bytes: int = 0,
) -> Buffers:
    """The buffers after a run of all phases on items 0 .. last - 1: the same from the interpreter and all targets."""
    meant = {k: array(v, v.dtype) for k, v in buffers.items()}
    for phase in loops.phases:
        run(loops, phase, args, 0, last, meant, workspace_bytes)
    for target in targets or (host(),):
        got = {k: array(v, v.dtype) for k, v in buffers.items()}
        execute(build(loops, target), args, 0, last, got, workspace_bytes)
        for k in buffers:
            assert same_bits(meant[k], got[k]), f"{k} differs on {target.cpu}:\n{meant[k]}\n{got[k]}\n{loops}"
    return meant


def elementwise(dtype: str, width: int, op: str, kind: str = "v") -> Loops:
    """y[i] = op(x[i]) for blocks of `width` elements (kind v) or one by one (kind f)."""
    h = Hand(dtype, width)
    x, y = h.arg("p", 0), h.arg("p", 1)

    def body(item: Name) -> tuple[Arg, ...]:
        i = h.op("i", "imul", item, width if kind == "v" else 1)
        h.do("store", y, i, h.op(kind, op, h.op(kind, "load", x, i, attrs=(dtype, False))), attrs=(dtype, False))
        return ()

    h.loop(h.params[1], h.params[2], (), body)
    return h.loops()
