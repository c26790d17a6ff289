"""One call of compiled code: reading arguments, packing them, handing the work items to threads."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moa.interp.scalar import evaluate as scalar_value
from moa.ops import Kind
from moa.oracle import evaluate
from moa.pipeline import Placed
from moa.text import MoaError, printable

Array = NDArray[Any]
PAGE = 4096
KEPT_BYTES = 1 << 26  # scratch above this is given back after the call
NUMPY_KINDS: dict[str, Any] = {"i": np.dtype(np.int64), "b": np.dtype(np.bool_)}


class _Absent:
    """The value of a parameter that was not given."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = _Absent()


def hashable(value: Any) -> bool:
    return isinstance(value, np.ndarray) or getattr(type(value), "__hash__", None) is not None


class Parameter:
    """One parameter of a kernel: how a value given for it is read."""

    def __init__(self, name: str, kind: Kind, array: bool, dtype: str) -> None:
        self.name = name
        self.kind = kind
        self.array = array
        self.dtype: Any = NUMPY_KINDS.get(kind, np.dtype(dtype)) if array else None

    def read(self, value: Any) -> Any:
        """The value as an aligned array of the kernel's dtype; scalars and wrong kinds are left to `bind`."""
        if value is ABSENT or not self.array:
            return value
        if not isinstance(value, np.ndarray):
            value = self.converted(value)
        if self.kind == "f":
            if value.dtype != self.dtype:
                text = f"argument {self.name} is {value.dtype}, the kernel is compiled for {self.dtype}"
                raise MoaError("argument", text, None, f"convert it, or compile with dtype={value.dtype.name!r}")
            if not value.flags.aligned or any(s % value.itemsize for s in value.strides):
                value = np.ascontiguousarray(value)
        elif self.kind == "i" and value.dtype.kind in "iu":
            if value.dtype == np.uint64 and value.size and int(value.max()) > np.iinfo(np.int64).max:
                raise MoaError("argument", f"argument {self.name} holds {value.max()}, beyond 63 bits", None, "")
            value = np.ascontiguousarray(value, dtype=np.int64)
        elif self.kind == "b" and value.dtype.kind == "b":
            value = np.ascontiguousarray(value)
        return value

    def converted(self, value: Any) -> Array:
        """Lists and numbers become arrays of the wanted dtype, other arrays keep theirs."""
        try:
            array = np.asarray(value)
            if array.dtype.kind == "O":
                raise TypeError
            foreign = hasattr(value, "__array_interface__") or hasattr(value, "__dlpack__")
            return array if foreign else array.astype(self.dtype, casting="same_kind" if array.size else "unsafe")
        except (ValueError, TypeError):
            text = f"argument {self.name} of type {printable(type(value).__name__)} is not an array of numbers"
            raise MoaError("argument", text, None, "pass a NumPy array") from None


@dataclass(slots=True)
class Call:
    """Everything about a call but the addresses: it is kept for calls with the same shapes, strides and scalars.

    inputs   (slot, parameter): pointers to pass        made   (slot, shape, dtype): arrays to make; outputs first
    order    which of `made` is returned at each place
    """

    template: Array
    inputs: tuple[tuple[int, int], ...]
    made: tuple[tuple[int, tuple[int, ...], Any], ...]
    order: tuple[int, ...]
    entries: tuple[tuple[int, int], ...]  # (address, items) of each phase
    scratch_bytes: int
    threads: int
    start: Callable[[int, int], None]
    keep: Any  # the machine code

    def run(self, values: list[Any]) -> Any:
        """The outputs for the values of the parameters."""
        packed = self.template.copy()
        for slot, k in self.inputs:
            packed[slot] = values[k].__array_interface__["data"][0]
        arrays = []
        for slot, shape, dtype in self.made:
            array = np.empty(shape, dtype)
            packed[slot] = array.__array_interface__["data"][0]
            arrays.append(array)
        workspace = scratch(self.scratch_bytes * self.threads)
        address = packed.__array_interface__["data"][0]
        jobs: list[int] = []
        for entry, items in self.entries:
            jobs += (entry, address, items, self.threads, workspace, self.scratch_bytes, 1)
        table = (ctypes.c_int64 * len(jobs))(*jobs)
        self.start(ctypes.addressof(table), len(self.entries))
        if len(self.order) == 1:
            return arrays[self.order[0]]
        return tuple(arrays[k] for k in self.order)


_kept = threading.local()


def scratch(size: int) -> int:
    """The page-aligned address of at least `size` bytes that belong to this thread until its next call."""
    buffer = getattr(_kept, "buffer", None)
    if buffer is None or buffer.size < size + PAGE:
        buffer = np.empty(size + PAGE, np.uint8)
        _kept.buffer = buffer
    elif buffer.size > KEPT_BYTES and size + PAGE <= KEPT_BYTES:
        buffer = _kept.buffer = np.empty(size + PAGE, np.uint8)
    address: int = buffer.__array_interface__["data"][0]
    return -(-address // PAGE) * PAGE


def prepare(
    placed: Placed,
    built: Any,
    outputs: tuple[str, ...],
    order: Mapping[str, int],
    arrays: Mapping[str, Array],
    sizes: Mapping[str, int],
    params: Mapping[str, Any],
    dtype: str,
    threads: int,
) -> Call:
    """The plan of calls with these shapes, strides and scalars."""
    from moa.backends.worker import pool

    params = {**params, "lowest": float(np.finfo(dtype).min)}
    slots = placed.lowered.slots
    template = np.zeros(max(len(slots), 1), np.int64)
    floats = template.view(np.float64)
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, Any] = {}
    for a in placed.tiles.arrays:
        shapes[a.name] = tuple(evaluate(e, sizes) for e in a.shape)
        dtypes[a.name] = NUMPY_KINDS.get(a.kind, np.dtype(dtype))
    with np.errstate(all="ignore"):
        hosts = {k: float(scalar_value(s, {}, {}, params)) for k, s in placed.tiles.hosts}
    inputs: list[tuple[int, int]] = []
    made: dict[str, tuple[int, tuple[int, ...], Any]] = {}
    for k, s in enumerate(slots):
        match s.kind:
            case "pointer" if s.name in order:
                inputs.append((k, order[s.name]))
            case "pointer":
                made[s.name] = (k, shapes[s.name], dtypes[s.name])
            case "stride" if s.name in arrays:
                template[k] = arrays[s.name].strides[s.axis] // arrays[s.name].itemsize
            case "stride":
                template[k] = int(np.prod(shapes[s.name][s.axis + 1 :], dtype=np.int64))
            case "size":
                template[k] = sizes[s.name]
            case "host":
                floats[k] = hosts[s.name]
    names = [*outputs, *(n for n in made if n not in outputs)]
    items = tuple(evaluate(p, sizes) for p in placed.lowered.items)
    return Call(
        template,
        tuple(inputs),
        tuple(made[n] for n in dict.fromkeys(names)),
        tuple(list(dict.fromkeys(names)).index(n) for n in outputs),
        tuple(zip(built.phases, items, strict=True)),
        evaluate(placed.lowered.scratch_bytes, sizes),
        max(1, min(threads, max(items, default=1))),
        pool().run,
        built,
    )
