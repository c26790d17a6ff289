"""How floats are stored in arrays, and what they are computed in."""

from __future__ import annotations

from typing import Any

import numpy as np

from moa.loops import Element
from moa.text import MoaError

STORAGE: dict[str, Element] = {"float64": "f64", "float32": "f32", "bfloat16": "bf16", "float16": "f16"}


PAIRED = "bfloat16"
"""Where the processor has an instruction for it, products are taken of pairs of it, computed factors being rounded."""


def computed(dtype: str) -> str:
    """The type that kernels compute in, for arrays of `dtype`: 16-bit types are for storage alone."""
    return "float64" if dtype == "float64" else "float32"


def stated(dtype: str) -> str:
    """The types of a kernel in words."""
    return dtype if dtype == computed(dtype) else f"{computed(dtype)}, floats in arrays being {dtype}"


def numpy_dtype(dtype: str) -> Any:
    """The NumPy dtype of this name.

    Errors: MoaError for bfloat16 where the package ml_dtypes, which NumPy has it from, is missing
    """
    if dtype != "bfloat16":
        return np.dtype(dtype)
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        text = "bfloat16 arrays need the package ml_dtypes"
        raise MoaError("argument", text, None, "install it: pip install ml_dtypes") from None
    return np.dtype(bfloat16)


def rounding(dtype: str) -> float:
    """The unit roundoff of storing a number of the compute type: 0 where it is stored as it is."""
    return {"bfloat16": 2.0**-8, "float16": 2.0**-11}.get(dtype, 0.0)
