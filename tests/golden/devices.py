"""Calls of kernels for a GPU with NumPy arrays: the arrays are copied to memory that both sides see."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from moa.backends.cuda_build import loaded_driver
from moa.device import DeviceKernel
from moa.text import MoaError
from tests.golden.files import Array

ATTACHED_GLOBAL = 1


class Face:
    """An array in memory of a GPU, as `__cuda_array_interface__`."""

    def __init__(self, array: Array) -> None:
        self.array = array
        self.__cuda_array_interface__ = {**array.__array_interface__, "version": 3, "stream": None}


class Gpu:
    """Managed memory of device 0, by the driver."""

    def __init__(self) -> None:
        driver = loaded_driver()
        if driver is None or driver.cuInit(0):
            hint = "run it where there is one; the tests run the same kernels on a CPU"
            raise MoaError("argument", "there is no NVIDIA GPU here", None, hint)
        self.driver, self.context = driver, ctypes.c_void_p()
        self.done("cuDevicePrimaryCtxRetain", ctypes.byref(self.context), 0)
        self.done("cuCtxSetCurrent", self.context)

    def done(self, function: str, *args: Any) -> None:
        code = getattr(self.driver, function)(*args)
        if code:
            raise MoaError("argument", f"{function} failed: driver error {code}", None, "see nvidia-smi")

    def array(self, values: Array) -> Array:
        """A copy there; it is never given back, for a process of tests is short."""
        address = ctypes.c_uint64()
        self.done("cuMemAllocManaged", ctypes.byref(address), ctypes.c_size_t(max(values.nbytes, 1)), ATTACHED_GLOBAL)
        held = (ctypes.c_ubyte * max(values.nbytes, 1)).from_address(address.value)
        out: Array = np.frombuffer(held, values.dtype, values.size).reshape(values.shape)
        out[...] = values
        return out

    def wait(self) -> None:
        """Until all that was started is done; raises for what failed."""
        self.done("cuCtxSynchronize")


@cache
def memory() -> Any:
    """Where arrays are copied to: `array(values)` does it, `wait()` is until all that was started is done.

    Errors: MoaError where there is no GPU
    """
    return Gpu()


def called(kernel: DeviceKernel, arrays: Mapping[str, Array], numbers: Mapping[str, Any]) -> Any:
    """The outputs of a call, as NumPy arrays: a tuple of them where the formula returns several."""
    there = memory()
    faces = {k: Face(there.array(np.ascontiguousarray(x))) for k, x in arrays.items()}
    run = kernel._run(kernel._values((), {**faces, **numbers}))
    results = tuple(Face(there.array(np.zeros(m.shape, m.dtype))) for m in run.outputs)
    need = run.workspace_bytes()
    room = Face(there.array(np.full(need, 0xFF, np.uint8))) if need else None
    kernel(**faces, **numbers, out=results if len(results) > 1 else results[0], workspace=room)
    there.wait()
    out = tuple(r.array.copy() for r in results)
    return out if len(out) > 1 else out[0]
