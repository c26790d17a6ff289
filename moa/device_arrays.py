"""Arrays in the memory of a GPU: where they are and how they lie, read from the object that a caller holds.

Nothing is copied and nothing is waited for: the order of kernels is that of the caller's stream.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from moa import dlpack
from moa.dlpack import Tensor
from moa.text import MoaError, printable

CUDA, CUDA_MANAGED = 2, 13
NAMES = {"u1": "uint8", "f4": "float32", "f8": "float64", "f2": "float16", "i8": "int64", "b1": "bool"}
CODES = {(2, 32): "float32", (2, 64): "float64", (2, 16): "float16", (4, 16): "bfloat16", (0, 64): "int64",
         (1, 8): "uint8", (6, 8): "bool"}  # fmt: skip
LEGACY_STREAMS = (None, 0, 1)


@dataclass(frozen=True, slots=True)
class DeviceArray:
    """strides count elements. `device` is None where the object does not say; `held` keeps the memory."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    device: int | None
    held: Any

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def empty(self) -> bool:
        return 0 in self.shape

    def span(self, itemsize: int) -> tuple[int, int]:
        """The first byte, and the one behind the last."""
        low = sum(min(s, 0) * (n - 1) for s, n in zip(self.strides, self.shape, strict=True))
        high = sum(max(s, 0) * (n - 1) for s, n in zip(self.strides, self.shape, strict=True)) + 1
        return (0, 0) if self.empty else (self.address + low * itemsize, self.address + high * itemsize)


def device_array(value: Any, name: str) -> DeviceArray:
    """An array of torch, of CuPy, or of anything with `__cuda_array_interface__` or DLPack.

    Errors: MoaError where it is none of these, or is in other memory than that of a GPU
    """
    try:
        if of_torch(value):
            return torch_array(value, name)
        if hasattr(value, "__cuda_array_interface__"):
            return interface_array(value)
        if dlpack.speaks(value):
            return dlpack_array(value, name)
    except MoaError:
        raise
    except Exception as e:  # a producer raises what it likes
        reason = printable(str(e).splitlines()[0]) if str(e) else type(e).__name__
        raise MoaError("argument", f"{name} gives no memory away: {reason}", None, "pass an array on a GPU") from None
    text = f"{name} of type {printable(type(value).__name__)} is not an array on a GPU"
    raise MoaError("argument", text, None, "copy it there first, as by torch.asarray(x, device='cuda')")


def of_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def torch_array(value: Any, name: str) -> DeviceArray:
    if not value.is_cuda:
        raise MoaError("argument", f"{name} is on {value.device}", None, "move it: x.cuda()")
    dtype = str(value.dtype).removeprefix("torch.")
    return DeviceArray(
        value.data_ptr(), tuple(value.shape), tuple(value.stride()), dtype, int(value.device.index), value
    )


def interface_array(value: Any) -> DeviceArray:
    """Source: Numba, CUDA Array Interface, version 3"""
    face = value.__cuda_array_interface__
    shape, kind = tuple(map(int, face["shape"])), str(face["typestr"])
    dtype = NAMES.get(kind[1:], kind)
    size = np.dtype(kind).itemsize
    steps = face.get("strides")
    if steps is not None and any(s % size for s in steps):
        raise ValueError("its strides are no multiples of its elements")
    strides = contiguous(shape) if steps is None else tuple(s // size for s in steps)
    return DeviceArray(int(face["data"][0] or 0), shape, strides, dtype, None, value)


def dlpack_array(value: Any, name: str) -> DeviceArray:
    """Memory that a producer gives away without waiting: `stream=-1` is the specification's word for it."""
    kind, device = value.__dlpack_device__()
    if int(kind) not in (CUDA, CUDA_MANAGED):
        where = "the CPU" if int(kind) == dlpack.CPU else dlpack.DEVICES.get(int(kind), f"device type {int(kind)}")
        raise MoaError("argument", f"{name} is on {where}", None, "copy it to a CUDA device first")
    capsule = value.__dlpack__(stream=-1)
    tensor = Tensor.from_address(dlpack._pointer(capsule, dlpack.NAME))
    rank = int(tensor.ndim)
    shape = tuple(tensor.shape[:rank]) if rank else ()
    strides = tuple(tensor.strides[:rank]) if rank and tensor.strides else contiguous(shape)
    dtype = CODES.get((tensor.code, tensor.bits), f"DLPack type {tensor.code} of {tensor.bits} bits")
    address = (tensor.data or 0) + tensor.byte_offset
    return DeviceArray(address, shape, strides, dtype, int(device), capsule)


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a row-major array."""
    out: list[int] = []
    step = 1
    for n in reversed(shape):
        out.insert(0, step)
        step *= max(n, 1)
    return tuple(out)


# Streams and memory of the library that the caller uses ---------------------------------------------------------------


def stream_handle(stream: Any, arrays: list[Any]) -> int:
    """The address of a stream: of a number or an object, else of the present stream of torch or CuPy.

    Errors: MoaError where it is no stream, or where an array names another one that it is being written on
    """
    if stream is None:
        handle = present_stream(arrays)
    elif isinstance(stream, int):
        handle = stream
    elif hasattr(stream, "__cuda_stream__"):
        protocol = stream.__cuda_stream__
        handle = int((protocol() if callable(protocol) else protocol)[1])
    elif isinstance(found := getattr(stream, "cuda_stream", getattr(stream, "ptr", None)), int):
        handle = found
    else:
        text = f"a {printable(type(stream).__name__)} is not a stream"
        raise MoaError("argument", text, None, "pass a stream of torch or CuPy, or the address of one")
    for value in arrays:
        face = getattr(value, "__cuda_array_interface__", None) if not of_torch(value) else None
        named = face.get("stream") if face else None
        if named not in LEGACY_STREAMS and named != handle:
            text = f"an array is being written on stream {named:#x}, and the kernel would run on {handle:#x}"
            raise MoaError("argument", text, None, "pass that stream as stream=, or wait for it first")
    return handle


def present_stream(arrays: list[Any]) -> int:
    for value in arrays:
        if of_torch(value):
            return int(sys.modules["torch"].cuda.current_stream(value.device).cuda_stream)
        cupy = sys.modules.get("cupy")
        if cupy is not None and isinstance(value, cupy.ndarray):
            return int(cupy.cuda.get_current_stream().ptr)
    return 0


def empty(like: Any, shape: tuple[int, ...], dtype: str, handle: int) -> Any:
    """A new array of the library that `like` is of, for use on a stream; None where that cannot make one."""
    if of_torch(like):
        torch = sys.modules["torch"]
        made = torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)
        if handle != present_stream([like]):  # else its memory could be given to others too early
            made.record_stream(torch.cuda.ExternalStream(handle, device=like.device))
        return made
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(like, cupy.ndarray) and dtype != "bfloat16":
        with cupy.cuda.ExternalStream(handle):
            return cupy.empty(shape, dtype)
    return None


def element_bytes(dtype: str) -> int:
    """The size of an element; 1 of those that no kernel takes."""
    return {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8, "int64": 8}.get(dtype, 1)
