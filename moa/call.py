"""One call of compiled code: packing arguments, making results, handing the work items to threads."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moa.arrays import element_dtype, results
from moa.interp.scalar import evaluate as scalar_value
from moa.oracle import evaluate
from moa.pipeline import Packing
from moa.storage import computed

Array = NDArray[Any]
PAGE = 4096
KEPT_BYTES = 1 << 26  # scratch above this is given back after the call


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
        arrays = [np.empty(shape, dtype) for _, shape, dtype in self.made]
        self.fill(values, arrays)
        if len(self.order) == 1:
            return arrays[self.order[0]]
        return tuple(arrays[k] for k in self.order)

    def run_into(self, values: list[Any], out: Any) -> Any:
        """`out`, which holds the outputs: written in place where that is safe, else copied.

        Errors: MoaError as `moa.arrays.results`
        """
        targets = results(out, [self.made[k][1:] for k in self.order])
        arrays = [np.empty(shape, dtype) for _, shape, dtype in self.made]
        read = [values[k] for _, k in self.inputs]
        for k, target in zip(self.order, targets, strict=True):
            plain = target.flags.c_contiguous and target.flags.aligned
            if plain and not any(np.may_share_memory(target, x) for x in read):
                arrays[k] = target
        self.fill(values, arrays)
        for k, target in zip(self.order, targets, strict=True):
            if arrays[k] is not target:
                target[...] = arrays[k]
        return out

    def fill(self, values: list[Any], arrays: list[Array]) -> None:
        """Runs all phases: writes `arrays`, which are those of `made`."""
        packed = self.template.copy()
        for slot, k in self.inputs:
            packed[slot] = values[k].__array_interface__["data"][0]
        for (slot, _, _), array in zip(self.made, arrays, strict=True):
            packed[slot] = array.__array_interface__["data"][0]
        workspace = scratch(self.scratch_bytes * self.threads)
        address = packed.__array_interface__["data"][0]
        jobs: list[int] = []
        for entry, items in self.entries:
            jobs += (entry, address, items, self.threads, workspace, self.scratch_bytes, 1)
        table = (ctypes.c_int64 * len(jobs))(*jobs)
        self.start(ctypes.addressof(table), len(self.entries))


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
    packing: Packing,
    built: Any,
    order: Mapping[str, int],
    arrays: Mapping[str, Array],
    sizes: Mapping[str, int],
    params: Mapping[str, Any],
    dtype: str,
    threads: int,
) -> Call:
    """The plan of calls with these shapes, strides and scalars."""
    from moa.backends.worker import pool

    params = {**params, "lowest": float(np.finfo(computed(dtype)).min)}
    slots, outputs = packing.slots, packing.outputs
    template = np.zeros(max(len(slots), 1), np.int64)
    floats = template.view(np.float64)
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, Any] = {}
    for a in packing.arrays:
        shapes[a.name] = tuple(evaluate(e, sizes) for e in a.shape)
        dtypes[a.name] = element_dtype(a.kind, computed(dtype) if a.role == "workspace" else dtype)
    with np.errstate(all="ignore"):
        hosts = {k: float(scalar_value(s, {}, {}, params)) for k, s in packing.hosts}
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
    names = list(dict.fromkeys([*outputs, *made]))
    items = tuple(evaluate(p, sizes) for p in packing.items)
    return Call(
        template,
        tuple(inputs),
        tuple(made[n] for n in names),
        tuple(names.index(n) for n in outputs),
        tuple(zip(built.phases, items, strict=True)),
        evaluate(packing.scratch_bytes, sizes),
        max(1, min(threads, max(items, default=1))),
        pool().run,
        built,
    )
