"""Arrays in and out of a kernel: what is taken as an argument, and where results may be put."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moa import dlpack
from moa.ops import Kind
from moa.storage import STORAGE, numpy_dtype
from moa.text import MoaError, printable

Array = NDArray[Any]
NUMPY_KINDS: dict[str, Any] = {"i": np.dtype(np.int64), "b": np.dtype(np.bool_)}


class _Absent:
    """The value of a parameter that was not given."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = _Absent()


def hashable(value: Any) -> bool:
    return isinstance(value, np.ndarray) or getattr(type(value), "__hash__", None) is not None


def scalar_key(value: Any) -> Any:
    """What tells a scalar from others: 0.0 equals -0.0, and True equals 1, but kernels see the difference."""
    return value.hex() if type(value) is float else (type(value), value)


def placeable(array: Array) -> bool:
    """Whether strides of this array count elements, and those are aligned."""
    return bool(array.flags.aligned) and not any(s % array.itemsize for s in array.strides)


def element_dtype(kind: Kind, dtype: str) -> Any:
    """The NumPy dtype of arrays of a kind, where floats are of `dtype`."""
    return NUMPY_KINDS[kind] if kind in NUMPY_KINDS else numpy_dtype(dtype)


class Parameter:
    """One parameter of a kernel: how a value given for it is read."""

    def __init__(self, name: str, kind: Kind, array: bool, dtype: str) -> None:
        self.name = name
        self.kind = kind
        self.array = array
        self.dtype: Any = element_dtype(kind, dtype) if array else None

    def read(self, value: Any) -> Any:
        """The value as an aligned array of the kernel's dtype, or as a number where it has no axes.

        Plans of calls are kept by the shapes of arrays and by the values of numbers. Wrong kinds are left to `bind`.
        """
        if value is ABSENT:
            return value
        if not self.array:
            return self.scalar(value)
        array = self.placed(value)
        return array if array.ndim else array.item()

    def placed(self, value: Any) -> Array:
        """The value as an array that compiled code can read: in place, else a copy."""
        array: Array = value if isinstance(value, np.ndarray) else self.converted(value)
        if isinstance(array, np.ma.MaskedArray):
            text = f"argument {self.name} is a masked array, and kernels do not see masks"
            raise MoaError("argument", text, None, "fill it, or pass the mask as an array of its own")
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        match self.kind:
            case "f":
                return self.floats(array)
            case "i" if array.dtype.kind in "iu":
                return self.integers(array)
            case "b" if array.dtype.kind == "b":
                return np.require(array, None, ["C"])
        return array

    def integers(self, array: Array) -> Array:
        if array.dtype == np.uint64 and array.size and int(array.max()) > np.iinfo(np.int64).max:
            raise MoaError("argument", f"argument {self.name} holds {array.max()}, beyond 63 bits", None, "")
        return np.require(array, np.int64, ["C", "A"])

    def floats(self, value: Array) -> Array:
        """The array where it can be read in place, else a copy."""
        if value.dtype != self.dtype:
            text = f"argument {self.name} is {printable(str(value.dtype))}, the kernel is compiled for {self.dtype}"
            known = value.dtype.name in STORAGE
            hint = f"convert it, or compile with dtype={value.dtype.name!r}" if known else f"convert it to {self.dtype}"
            raise MoaError("argument", text, None, hint)
        return value if placeable(value) else value.copy()

    def scalar(self, value: Any) -> Any:
        """Arrays without axes become numbers."""
        if type(value) in (int, float, bool):
            return value
        if isinstance(value, np.generic | np.ndarray):
            return value.item() if value.ndim == 0 else value
        if dlpack.speaks(value):
            array = dlpack.borrowed(value, f"argument {self.name}")
            return array.item() if array.ndim == 0 else array
        return value

    def converted(self, value: Any) -> Array:
        """Lists and numbers become arrays of the wanted dtype, other arrays keep theirs."""
        if dlpack.speaks(value):
            return shared(value, f"argument {self.name}")
        try:
            array = np.asarray(value)
            if array.dtype.kind == "O":
                raise TypeError
            if hasattr(value, "__array_interface__") or hasattr(value, "__array__"):
                return array
            return array.astype(self.dtype, casting="same_kind" if array.size else "unsafe")
        except (ValueError, TypeError):
            text = f"argument {self.name} of type {printable(type(value).__name__)} is not an array of numbers"
            raise MoaError("argument", text, None, "pass a NumPy array") from None


def shared(value: Any, name: str) -> Array:
    """The memory of a DLPack producer to read: NumPy's own way knows read-only memory, but not bfloat16."""
    try:
        return np.from_dlpack(value)
    except Exception:  # a producer raises what it likes; what stands against it is found by `borrowed`
        return dlpack.borrowed(value, name)


def results(out: Any, wanted: Sequence[tuple[tuple[int, ...], Any]]) -> tuple[Array, ...]:
    """The arrays that `out` names for results of these shapes and dtypes.

    Errors: MoaError where they are too few or too many, of another shape or dtype, read-only, or share memory
    """
    given = out if isinstance(out, tuple) else (out,)
    if len(given) != len(wanted):
        text = f"out names {len(given)} array{'s' * (len(given) != 1)}, the kernel returns {len(wanted)}"
        raise MoaError("argument", text, None, f"pass {'a tuple of them' if len(wanted) > 1 else 'one array'}")
    names = [f"out[{k}]" if len(given) > 1 else "out" for k in range(len(given))]
    arrays = tuple(result(x, *w, n) for x, w, n in zip(given, wanted, names, strict=True))
    for k, a in enumerate(arrays):
        for j in range(k):
            if np.may_share_memory(a, arrays[j]):
                raise MoaError("argument", f"out[{j}] and out[{k}] share memory", None, "pass arrays of their own")
    return arrays


def result(value: Any, shape: tuple[int, ...], dtype: Any, name: str) -> Array:
    """One array that results can be written to."""
    if not isinstance(value, np.ndarray) and dlpack.speaks(value):
        value = dlpack.borrowed(value, name)
    if type(value) is not np.ndarray:
        text = f"{name} of type {printable(type(value).__name__)} is not an array"
        raise MoaError("argument", text, None, "pass a NumPy array")
    if value.dtype != dtype:
        text = f"{name} is {printable(str(value.dtype))}, the result is {dtype}"
        raise MoaError("argument", text, None, f"make it with dtype {dtype}")
    if value.shape != shape:
        text = f"{name} has shape {list(value.shape)}, the result has shape {list(shape)}"
        raise MoaError("argument", text, None, "pass an array of the shape of the result")
    if not value.flags.writeable:
        raise MoaError("argument", f"{name} is read-only", None, "pass an array that can be written")
    if any(s == 0 and n > 1 for s, n in zip(value.strides, shape, strict=True)):
        raise MoaError("argument", f"{name} has elements that share memory", None, "pass an array without broadcasting")
    return value
