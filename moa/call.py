"""One call of compiled code: packing arguments, making results, handing the work items to threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import cffi
import numpy as np
from numpy.typing import NDArray

from moa.arrays import element_dtype, results
from moa.interp.scalar import evaluate as scalar_value
from moa.oracle import evaluate
from moa.pipeline import Packing
from moa.storage import computed

Array = NDArray[Any]
PAGE, LINE_BYTES = 4096, 64
CROWDED = 8  # lines: a column of rows that are a multiple of so many is in an eighth of the sets of a cache, or fewer
KEPT_BYTES = 1 << 26  # scratch above this is given back after the call
JOB_WORDS = 7  # of one phase, as the worker reads them: entry, arguments, items, threads, workspace, its stride, chunk
FFI = cffi.FFI()
WORDS, POINTERS = FFI.typeof("int64_t[]"), FFI.typeof("void **")


@cache
def starter() -> Callable[[Any, int], None]:
    """The worker of this process as a function of the address of jobs and their number. It releases the GIL."""
    from moa.backends.worker import pool

    run: Callable[[Any, int], None] = FFI.cast("void (*)(void *, int64_t)", pool().address)
    return run


@dataclass(slots=True)
class Call:
    """Everything about a call but the addresses: it is kept for calls with the same shapes, strides and scalars.

    template  the words of the jobs, one a phase, then the packed arguments; addresses are 0
    inputs    (word, parameter, whether it is a plain buffer): pointers to pass
    made      (word, shape, dtype): arrays to make; outputs first
    order     which of `made` is returned at each place
    between   (word, its first byte behind all scratch) of the arrays in `made` that are no outputs
    """

    template: bytes
    inputs: tuple[tuple[int, int, bool], ...]
    made: tuple[tuple[int, tuple[int, ...], Any], ...]
    order: tuple[int, ...]
    between: tuple[tuple[int, int], ...]
    between_bytes: int
    phases: int
    scratch_bytes: int
    threads: int
    start: Callable[[Any, int], None]
    keep: Any  # the machine code
    free: list[Any] = field(default_factory=list)  # copies of the template that no call uses at present

    def run(self, values: list[Any]) -> Any:
        """The outputs for the values of the parameters."""
        arrays = [np.empty(shape, dtype) for _, shape, dtype in self.outputs]
        self.fill(values, arrays)
        if len(self.order) == 1:
            return arrays[self.order[0]]
        return tuple(arrays[k] for k in self.order)

    def run_into(self, values: list[Any], out: Any) -> Any:
        """`out`, which holds the outputs: written in place where that is safe, else copied.

        Errors: MoaError as `moa.arrays.results`
        """
        targets = results(out, [self.made[k][1:] for k in self.order])
        arrays = [np.empty(shape, dtype) for _, shape, dtype in self.outputs]
        read = [values[k] for _, k, _ in self.inputs]
        for k, target in zip(self.order, targets, strict=True):
            plain = target.flags.c_contiguous and target.flags.aligned
            if plain and not any(np.may_share_memory(target, x) for x in read):
                arrays[k] = target
        self.fill(values, arrays)
        for k, target in zip(self.order, targets, strict=True):
            if arrays[k] is not target:
                target[...] = arrays[k]
        return out

    @property
    def outputs(self) -> tuple[tuple[int, tuple[int, ...], Any], ...]:
        """Those of `made` that are returned."""
        return self.made[: len(self.made) - len(self.between)]

    def fill(self, values: list[Any], arrays: list[Array]) -> None:
        """Runs all phases: writes `arrays`, which are the outputs."""
        try:
            words, pointers = self.free.pop()
        except IndexError:
            words = FFI.new(WORDS, len(self.template) // 8)
            FFI.memmove(words, self.template, len(self.template))
            pointers = FFI.cast(POINTERS, words)
            for job in range(0, self.phases * JOB_WORDS, JOB_WORDS):
                pointers[job + 1] = words + self.phases * JOB_WORDS
        for at, k, plain in self.inputs:
            if plain:
                pointers[at] = FFI.from_buffer(values[k])
            else:
                words[at] = values[k].__array_interface__["data"][0]
        for (at, _, _), array in zip(self.outputs, arrays, strict=True):
            pointers[at] = FFI.from_buffer(array)
        own_bytes = self.scratch_bytes * self.threads
        workspace = scratch(own_bytes + self.between_bytes)
        for at, first in self.between:
            words[at] = workspace + own_bytes + first
        for job in range(0, self.phases * JOB_WORDS, JOB_WORDS):
            words[job + 4] = workspace
        self.start(words, self.phases)
        self.free.append((words, pointers))


_kept = threading.local()


def scratch(size: int) -> int:
    """The page-aligned address of at least `size` bytes that belong to this thread until its next call."""
    held: tuple[int, int, Array] | None = getattr(_kept, "held", None)  # address, bytes from there, what owns them
    if held is None or held[1] < size or (held[1] > KEPT_BYTES and size <= KEPT_BYTES):
        buffer = np.empty(size + PAGE, np.uint8)
        address: int = buffer.__array_interface__["data"][0]
        held = _kept.held = (-(-address // PAGE) * PAGE, size, buffer)
    return held[0]


def spread(shape: tuple[int, ...], element_bytes: int) -> tuple[int, ...]:
    """The shape, its rows a line longer where they are a multiple of CROWDED lines: a column is then in all sets."""
    if len(shape) < 2 or not shape[-1] or shape[-1] * element_bytes % (CROWDED * LINE_BYTES):
        return shape
    return (*shape[:-1], shape[-1] + LINE_BYTES // element_bytes)


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
    params = {**params, "lowest": float(np.finfo(computed(dtype)).min)}
    slots, outputs = packing.slots, packing.outputs
    phases = len(packing.items)
    jobs = np.zeros((phases, JOB_WORDS), np.int64)
    template = np.zeros(len(slots), np.int64)
    floats = template.view(np.float64)
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, Any] = {}
    for a in packing.arrays:
        shapes[a.name] = tuple(evaluate(e, sizes) for e in a.shape)
        dtypes[a.name] = element_dtype(a.kind, computed(dtype) if a.role == "workspace" else dtype)
        if a.role == "workspace":
            shapes[a.name] = spread(shapes[a.name], np.dtype(dtypes[a.name]).itemsize)
    with np.errstate(all="ignore"):
        hosts = {k: float(scalar_value(s, {}, {}, params)) for k, s in packing.hosts}
    inputs: list[tuple[int, int, bool]] = []
    made: dict[str, tuple[int, tuple[int, ...], Any]] = {}
    for k, s in enumerate(slots):
        at = jobs.size + k
        match s.kind:
            case "pointer" if s.name in order:
                inputs.append((at, order[s.name], bool(arrays[s.name].flags.c_contiguous)))
            case "pointer":
                made[s.name] = (at, shapes[s.name], dtypes[s.name])
            case "stride" if s.name in arrays:
                template[k] = arrays[s.name].strides[s.axis] // arrays[s.name].itemsize
            case "stride":
                template[k] = int(np.prod(shapes[s.name][s.axis + 1 :], dtype=np.int64))
            case "size":
                template[k] = sizes[s.name]
            case "host":
                floats[k] = hosts[s.name]
    names = list(dict.fromkeys([*outputs, *made]))
    items = [evaluate(p, sizes) for p in packing.items]
    between, between_bytes = [], 0
    for array in names[len(set(outputs)) :]:
        word, shape, kind = made[array]
        between.append((word, between_bytes))
        between_bytes += -(-int(np.prod(shape, dtype=np.int64)) * np.dtype(kind).itemsize // PAGE) * PAGE
    scratch_bytes, count = evaluate(packing.scratch_bytes, sizes), max(1, min(threads, max(items, default=1)))
    for job, entry, n in zip(jobs, built.phases, items, strict=True):
        job[:] = (entry, 0, n, count, 0, scratch_bytes, 1)
    return Call(
        jobs.tobytes() + template.tobytes(),
        tuple(inputs),
        tuple(made[n] for n in names),
        tuple(names.index(n) for n in outputs),
        tuple(between),
        between_bytes,
        phases,
        scratch_bytes,
        count,
        starter(),
        built,
    )
