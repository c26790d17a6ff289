"""One call of a kernel on a GPU: packing arguments, where results and workspace are, starting the phases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moa.backends.cuda_build import Built
from moa.device_arrays import DeviceArray, contiguous, device_array, element_bytes, empty
from moa.interp.scalar import evaluate as scalar_value
from moa.lower import element
from moa.oracle import evaluate
from moa.pipeline import Packing
from moa.storage import STORAGE, computed
from moa.text import MoaError

DTYPES = {"i64": "int64", "u8": "bool", **{element: name for name, element in STORAGE.items()}}
ALIGNED = 256  # where arrays in the workspace start


@dataclass(frozen=True, slots=True)
class Made:
    """An array that the kernel writes: the slots of its pointer, and for an output what it is."""

    name: str
    slot: int
    shape: tuple[int, ...]
    dtype: str
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """What calls with the same shapes, strides and scalars have in common.

    inputs   (slot, parameter): pointers to pass      outputs  one for each result      own  arrays in the workspace
    items    work items of each phase                 own_bytes  of the workspace before the scratch of blocks
    """

    built: Built
    template: NDArray[np.int64]
    inputs: tuple[tuple[int, int], ...]
    outputs: tuple[Made, ...]
    own: tuple[Made, ...]
    own_bytes: int
    items: tuple[int, ...]
    scratch_bytes: int
    names: tuple[str, ...]

    def workspace_bytes(self) -> int:
        """What a call needs beside its arrays: nothing where scratch fits shared memory and nothing is stored between.

        Errors: MoaError where there is no device
        """
        spaces = [self.built.space(self.scratch_bytes, n) for n in self.items]
        if min(spaces, default=0) < 0:
            raise self.failed(-min(spaces))
        total = self.own_bytes + max(spaces, default=0)
        return total + ALIGNED if total else 0

    def results(self, out: Any, givers: Sequence[Any], handle: int) -> list[DeviceArray]:
        """The arrays for the results: those of `out`, or new ones."""
        if out is None:
            return [self.new(m, givers, handle) for m in self.outputs]
        given = out if isinstance(out, tuple) else (out,)
        if len(given) != len(self.outputs):
            text = f"out names {len(given)} array{'s' * (len(given) != 1)}, the kernel returns {len(self.outputs)}"
            raise MoaError("argument", text, None, "pass a tuple with one for each")
        return [fitting(x, m, k) for k, (x, m) in enumerate(zip(given, self.outputs, strict=True))]

    def new(self, m: Made, givers: Sequence[Any], handle: int) -> DeviceArray:
        for giver in givers:
            made = empty(giver, m.shape, m.dtype, handle)
            if made is not None:
                return device_array(made, "the result")
        text = "only torch and CuPy can make the result"
        raise MoaError("argument", text, None, f"pass out=, of shape {list(m.shape)} and dtype {m.dtype}")

    def room(self, workspace: Any, givers: Sequence[Any], handle: int) -> int:
        """The aligned address of the workspace; 0 where none is needed."""
        need = self.workspace_bytes()
        if not need:
            return 0
        if workspace is None:
            made = next((w for g in givers if (w := empty(g, (need,), "uint8", handle)) is not None), None)
            if made is None:
                text = f"the kernel needs {need} bytes of workspace, which only torch and CuPy can make"
                raise MoaError("argument", text, None, "pass workspace=")
            workspace = made
        array = device_array(workspace, "workspace")
        low, high = array.span(element_bytes(array.dtype))
        if high - low < need:
            text = f"the workspace has {high - low} bytes, the kernel needs {need}"
            raise MoaError("argument", text, None, "ask workspace_bytes() with the same arguments")
        return -(-low // ALIGNED) * ALIGNED

    def check(self, inputs: Mapping[int, DeviceArray], results: Sequence[DeviceArray]) -> None:
        """Asserts that all arrays are on the present device, and that no result shares memory with another array.

        Errors: MoaError
        """
        present = self.built.present()
        if present < 0:
            raise self.failed(-present)
        arrays = [(f"argument {self.names[k]}", a) for k, a in inputs.items()]
        arrays += [(f"result {k}", a) for k, a in enumerate(results)]
        for name, a in arrays:
            found = present if a.empty else self.built.device_of(a.address)
            if found == present:
                continue
            where = f"on device {found}" if found >= 0 else "not in the memory of a GPU"
            text = f"{name} is {where}, the kernel would run on device {present}"
            raise MoaError("argument", text, None, "move it, or make its device the present one")
        spans = [(name, a.span(element_bytes(a.dtype))) for name, a in arrays]
        for k, (name, (low, high)) in enumerate(spans[len(inputs) :], len(inputs)):
            for other, (first, end) in spans[:k]:
                if low < end and first < high:
                    raise MoaError("argument", f"{name} shares memory with {other}", None, "pass another array as out=")

    def launch(self, inputs: Mapping[int, DeviceArray], results: Sequence[DeviceArray], room: int, handle: int) -> None:
        """Starts the phases, one after the other, on a stream."""
        words = self.template.copy()
        for slot, k in self.inputs:
            words[slot] = inputs[k].address
        for m, r in zip(self.outputs, results, strict=True):
            words[m.slot] = r.address
        for m in self.own:
            words[m.slot] = room + m.offset
        address = words.ctypes.data
        for phase, items in enumerate(self.items):
            code = self.built.start(phase, address, items, self.scratch_bytes, room + self.own_bytes, handle)
            if code:
                raise self.failed(code)

    def failed(self, code: int) -> MoaError:
        return MoaError(
            "argument", f"the kernel was not started: {self.built.error(code)} (CUDA error {code})", None, ""
        )


def fitting(value: Any, m: Made, k: int) -> DeviceArray:
    """One array of `out`, which has to be contiguous."""
    array = device_array(value, f"out[{k}]")
    for what, found, wanted in (("shape", array.shape, m.shape), ("dtype", array.dtype, m.dtype)):
        if found != wanted:
            text = f"out[{k}] has {what} {found}, the result has {what} {wanted}"
            raise MoaError("argument", text, None, f"pass an array of that {what}")
    strides = [(s, t) for s, t, n in zip(array.strides, contiguous(m.shape), m.shape, strict=True) if n > 1]
    if not array.empty and any(s != t for s, t in strides):
        raise MoaError("argument", f"out[{k}] is not contiguous", None, "pass a contiguous array")
    return array


def planned(
    packed: Packing,
    built: Built,
    order: Mapping[str, int],
    arrays: Mapping[str, DeviceArray],
    sizes: Mapping[str, int],
    params: Mapping[str, Any],
    dtype: str,
) -> Run:
    """The plan of calls with these shapes, strides and scalars."""
    outputs = packed.outputs
    params = {**params, "lowest": float(np.finfo(computed(dtype)).min)}
    with np.errstate(all="ignore"):
        hosts = {k: float(scalar_value(s, {}, {}, params)) for k, s in packed.hosts}
    held = {a.name: a for a in packed.arrays}
    shapes = {a.name: tuple(evaluate(e, sizes) for e in a.shape) for a in packed.arrays}
    template = np.zeros(max(len(packed.slots), 1), np.int64)
    inputs, made, own_bytes = [], {}, 0
    for k, s in enumerate(packed.slots):
        match s.kind:
            case "pointer" if s.name in order:
                inputs.append((k, order[s.name]))
            case "pointer":
                found = DTYPES[element(held[s.name], STORAGE[computed(dtype)], STORAGE[dtype])]
                made[s.name] = Made(s.name, k, shapes[s.name], found, own_bytes)
                if s.name not in outputs:
                    count = int(np.prod(shapes[s.name], dtype=np.int64)) * element_bytes(found)
                    own_bytes += -(-count // ALIGNED) * ALIGNED
            case "stride" if s.name in arrays:
                template[k] = arrays[s.name].strides[s.axis]
            case "stride":
                template[k] = contiguous(shapes[s.name])[s.axis]
            case "size":
                template[k] = sizes[s.name]
            case "host":
                template.view(np.float64)[k] = hosts[s.name]
    if len(set(outputs)) < len(outputs):
        raise MoaError("argument", "a result is returned twice", None, "return it once")
    return Run(
        built, template, tuple(inputs), tuple(made[o] for o in outputs),
        tuple(m for m in made.values() if m.name not in outputs), own_bytes,
        tuple(evaluate(p, sizes) for p in packed.items), evaluate(packed.scratch_bytes, sizes), tuple(order),
    )  # fmt: skip
