"""Arrays of other libraries, by DLPack: their memory as NumPy arrays, without a copy and without importing them.

Source: DLPack, include/dlpack/dlpack.h (DLTensor), and the Python specification of `__dlpack__`
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moa.storage import numpy_dtype
from moa.text import MoaError, printable

Array = NDArray[Any]

CPU = 1
DEVICES = {2: "CUDA", 4: "OpenCL", 7: "Vulkan", 8: "Metal", 10: "ROCm", 14: "oneAPI"}
CODES = {0: "i", 1: "u", 2: "f", 6: "b"}
BFLOAT16 = (4, 16)
NAME = b"dltensor"


class Tensor(ctypes.Structure):
    """DLTensor. Strides count elements; without them the tensor is contiguous."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class Held:
    """What NumPy takes an array from. It keeps the capsule, unused: the memory goes back when both are gone."""

    def __init__(self, capsule: Any, interface: dict[str, Any]) -> None:
        self.capsule = capsule
        self.__array_interface__ = interface


_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def speaks(value: Any) -> bool:
    return hasattr(type(value), "__dlpack__") and hasattr(type(value), "__dlpack_device__")


def borrowed(value: Any, name: str) -> Array:
    """The memory of a DLPack producer on the CPU as a writable array.

    Errors: MoaError where it is on another device, or where the producer or its element type stands against it
    """
    try:
        device = int(value.__dlpack_device__()[0])
        if device == CPU:
            return array_of(value.__dlpack__())
    except MoaError:
        raise
    except Exception as e:  # a producer raises what it likes
        reason = printable(str(e).splitlines()[0]) if str(e) else type(e).__name__
        raise MoaError("argument", f"{name} gives no memory away: {reason}", None, "pass a NumPy array") from None
    where = DEVICES.get(device, f"device type {device}")
    raise MoaError("argument", f"{name} is on another device ({where})", None, "copy it to the CPU first")


def array_of(capsule: Any) -> Array:
    """The array of an unused capsule, which it keeps alive.

    Errors: ValueError where the capsule is another thing, or the elements have no counterpart in NumPy
    """
    tensor = Tensor.from_address(_pointer(capsule, NAME))
    rank = tensor.ndim
    shape = tuple(tensor.shape[:rank]) if rank else ()
    element, kind = element_type(tensor)
    if tensor.device != CPU:
        raise ValueError("its memory is on another device")
    if 0 in shape:
        return np.empty(shape, element)
    steps = tuple(s * element.itemsize for s in tensor.strides[:rank]) if rank and tensor.strides else None
    address = (tensor.data or 0) + tensor.byte_offset
    interface = {"shape": shape, "typestr": kind, "data": (address, False), "strides": steps, "version": 3}
    return np.asarray(Held(capsule, interface)).view(element)


def element_type(tensor: Tensor) -> tuple[Any, str]:
    """The element type, and the text of one with its size that NumPy knows by itself."""
    size = tensor.bits // 8
    if (tensor.code, tensor.bits, tensor.lanes) == (*BFLOAT16, 1):
        return numpy_dtype("bfloat16"), "<u2"
    if tensor.lanes != 1 or tensor.code not in CODES or tensor.bits % 8 or size not in (1, 2, 4, 8):
        text = f"elements of DLPack type {tensor.code} with {tensor.bits} bits and {tensor.lanes} lanes are not numbers"
        raise ValueError(f"{text} that NumPy has")
    kind = f"={CODES[tensor.code]}{size}"
    return np.dtype(kind), np.dtype(kind).str
