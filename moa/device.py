"""Kernels on a GPU: the same formulas, placed on blocks of threads, called with arrays that are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from moa.arrays import ABSENT, scalar_key
from moa.backends.cuda import LANES, SCRATCH_BYTES, strategies
from moa.backends.cuda_build import Built, builder_for
from moa.device_arrays import DeviceArray, device_array, element_bytes, stream_handle
from moa.device_call import Run, planned
from moa.forms import chosen
from moa.kernel import MOST_CALLS, PLANNING, Kernel, Variant, _intermediates
from moa.loops import Element
from moa.oracle import bind, evaluate
from moa.pipeline import LARGEST_SPECIALISED, Derivation, Packing, Placed, packing, place, specialised_sizes
from moa.poly import Poly
from moa.storage import STORAGE
from moa.text import MoaError
from moa.tile import Strategy

BLOCKS = 132  # blocks that a large GPU runs at once: with fewer rows, axes are split into parts
FEW_ROWS = 2  # up to this many rows, lanes along another axis cost less
STAND_INS = {"f": np.float64(0), "i": np.int64(0), "b": np.bool_(False)}


class DeviceKernel(Kernel):
    """A compiled formula on a GPU. Call it with arrays of torch, of CuPy, or of what speaks of memory on a GPU."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._runs: dict[tuple[Any, ...], Run] = {}

    def __call__(self, *arrays: Any, stream: Any = None, out: Any = None, workspace: Any = None, **named: Any) -> Any:
        """The outputs, started on a stream and not waited for: one array, or a tuple of them.

        stream     of torch or CuPy, or its address; else the present one of torch or CuPy, else the default stream
        out        an array for the result, or a tuple of them; else torch or CuPy makes them
        workspace  an array of `workspace_bytes(...)` bytes; else torch or CuPy makes it
        Index arrays are on the GPU, so what they hold is not checked: what reaches outside is moved to the nearest end.
        Errors: MoaError of kind "argument"
        """
        values = self._values(arrays, named)
        inputs = {k: v for k, v in enumerate(values) if isinstance(v, DeviceArray)}
        run = self._run(values)
        givers = [v.held for v in inputs.values()]
        handle = stream_handle(stream, givers)
        results = run.results(out, givers, handle)
        run.check(inputs, results)
        run.launch(inputs, results, run.room(workspace, givers, handle), handle)
        if out is not None:
            return out
        return results[0].held if len(results) == 1 else tuple(r.held for r in results)

    def workspace_bytes(self, *arrays: Any, **named: Any) -> int:
        """The bytes of workspace that a call with these arguments needs."""
        return self._run(self._values(arrays, named)).workspace_bytes()

    def _values(self, arrays: tuple[Any, ...], named: Mapping[str, Any]) -> list[Any]:
        """The value of each parameter in order: arrays as DeviceArray, ABSENT where none was given."""
        out = []
        for p, v in zip(self._parameters, self._ordered(arrays, named), strict=True):
            if v is ABSENT or not p.array:
                out.append(v if v is ABSENT else p.read(v))
                continue
            array = device_array(v, f"argument {p.name}")
            wanted = {"f": self.dtype, "i": "int64", "b": "bool"}[p.kind]
            if array.dtype != wanted:
                text = f"argument {p.name} is {array.dtype}, the kernel takes {wanted} there"
                hint = f"convert it, or compile with dtype={array.dtype!r}" if array.dtype in STORAGE else "convert it"
                raise MoaError("argument", text, None, hint)
            if array.address % element_bytes(wanted):
                text = f"argument {p.name} is not aligned to its elements of {element_bytes(wanted)} bytes"
                raise MoaError("argument", text, None, "copy it")
            out.append(array)
        return out

    # planning ------------------------------------------------------------------------------------------------------

    def _run(self, values: list[Any]) -> Run:
        """The plan of a call; it depends on shapes, strides, scalars and the device."""
        device = next((v.device for v in values if isinstance(v, DeviceArray) and v.device is not None), 0)
        key = (device, *((v.shape, v.strides) if isinstance(v, DeviceArray) else scalar_key(v) for v in values))
        with PLANNING:
            if key not in self._runs:
                if len(self._runs) > MOST_CALLS:
                    self._runs.clear()
                self._runs[key] = self._planned_run(values, device)
            return self._runs[key]

    def _planned_run(self, values: list[Any], device: int) -> Run:
        given = {p.name: v for p, v in zip(self._parameters, values, strict=True) if v is not ABSENT}
        arrays = {k: v for k, v in given.items() if isinstance(v, DeviceArray)}
        ranks = self._ranks(arrays)  # type: ignore[arg-type]
        front = self._front(ranks)
        kinds = {p.name: p.kind for p in self._parameters}
        shown = {k: np.broadcast_to(STAND_INS[kinds[k]], v.shape) for k, v in arrays.items()}
        sizes = bind(front.program, given | shown)
        unit = frozenset(k for k, v in arrays.items() if v.ndim and (v.strides[-1] == 1 or v.shape[-1] <= 1))
        fixed = {k: sizes[k] for k in specialised_sizes(front.program) if sizes[k] <= LARGEST_SPECIALISED}
        fixed |= {k: sizes[k] for k in self._fixed if k in sizes}
        form = chosen(front.forms, sizes, BLOCKS)
        variant = self._variant_on(ranks, form.name, fixed, unit, sizes, device)
        params = {p.name: given.get(p.name, p.default) for p in front.program.inputs if not p.shape}
        numbers = {k: float(v) for k, v in params.items() if v is not None} | sizes
        order = {p.name: k for k, p in enumerate(self._parameters)}
        return planned(variant.packing, variant.built, order, arrays, sizes, numbers, self.dtype)

    def _variant_on(
        self, ranks: int, form: str, fixed: dict[str, int], unit: frozenset[str], sizes: Mapping[str, int], device: int
    ) -> Variant:
        """The instance for these sizes: many rows to a block where its scratch leaves room for other blocks."""
        builder = builder_for(device)
        few = self._rows(ranks, form, sizes, LANES) <= FEW_ROWS
        for strategy in strategies(self._element, few):
            parts = (str(ranks), form, str(sorted(fixed.items())), str(sorted(unit)), str(strategy), self.dtype)
            placed = self._placed_as(ranks, form, fixed, unit, strategy)
            if evaluate(self._scratch(placed, parts), sizes) <= SCRATCH_BYTES:
                break
        key = (builder, *parts)
        if key not in self._variants:

            def made() -> tuple[Packing, Built]:
                outputs = self._formed(ranks, form).streamed.outputs
                return packing(placed(), outputs), builder.build(placed().lowered)

            packed, built = self._kept.variant(builder, made, "cuda", *parts)
            self._variants[key] = Variant(ranks, form, packed, built, placed)
        return self._variants[key]

    def _scratch(self, placed: Callable[[], Placed], parts: tuple[str, ...]) -> Poly:
        """The bytes of scratch of a block."""
        return self._kept.value(Poly, lambda: placed().lowered.scratch_bytes, "scratch", *parts)

    def _placed_as(
        self, ranks: int, form: str, fixed: dict[str, int], unit: frozenset[str], strategy: Strategy
    ) -> Callable[[], Placed]:
        """A program placed in this way, when it is asked for."""

        @cache
        def placed() -> Placed:
            derivation = self._formed(ranks, form)
            own = unit | frozenset(derivation.streamed.outputs) | _intermediates(derivation)
            return place(derivation, strategy, self._element, fixed, own, self._stored)

        return placed

    def for_many_rows(self, width: int | None = None) -> Placed:
        return many_rows(self._derive(0), self._element, self._stored, self._fixed)


def many_rows(derivation: Derivation, element: Element, stored: Element, fixed: Mapping[str, int]) -> Placed:
    """A derivation placed for many rows of contiguous arrays: the most to a block that leaves room for other blocks."""
    own = frozenset(p.name for p in derivation.program.inputs) | _intermediates(derivation)
    for strategy in strategies(element):
        placed = place(derivation, strategy, element, fixed, own, stored)
        known = placed.lowered.scratch_bytes.as_int()
        if known is None or known <= SCRATCH_BYTES:
            break
    return placed
