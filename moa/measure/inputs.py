"""What a kernel is measured on: arrays that were given, and random ones of given sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moa.call import PAGE
from moa.given import completed
from moa.text import MoaError, printable

if TYPE_CHECKING:
    from moa.kernel import Kernel

Given = Mapping[str, Any] | Sequence[Any]


def arguments(kernel: Kernel, given: Given, lead: Sequence[int] = (), seed: int = 0) -> list[Any]:
    """The value of each parameter as the kernel reads it; random arrays begin at pages.

    given  arguments in order, or a mapping: parameters to their values, sizes to numbers for arrays that are missing
    Errors: MoaError of kind "argument"
    """
    if not isinstance(given, Mapping):
        return kernel._arguments(tuple(given), {})
    parameters = [p.name for p in kernel._parameters]
    known = kernel._names()
    values = {k: v for k, v in given.items() if k in parameters}
    sizes: dict[str, int] = {}
    for name, value in given.items():
        if name in values:
            continue
        if name not in known:
            text = f"{kernel.name} has no parameter and no size {printable(str(name))}"
            raise MoaError(
                "argument", text, None, f"its parameters: {', '.join(parameters)}; sizes: {', '.join(known)}"
            )
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            text = f"{name} is of type {printable(type(value).__name__)}"
            raise MoaError("argument", text, None, "a size is a whole number")
        sizes[name] = int(value)
    sizes |= {k: v for k, v in values.items() if k in known}
    made = completed(kernel, values, sizes, list(lead), seed)
    placed = [x if name in values else at_page(x) for name, x in zip(parameters, made, strict=True)]
    return kernel._arguments(tuple(placed), {})


def at_page(value: Any) -> Any:
    """A copy of an array that begins at a page; what is not an array as it is."""
    if not isinstance(value, np.ndarray) or not value.size:
        return value
    room = np.empty(value.nbytes + PAGE, np.uint8)
    skipped = -room.__array_interface__["data"][0] % PAGE
    copy: NDArray[Any] = room[skipped : skipped + value.nbytes].view(value.dtype).reshape(value.shape)
    copy[...] = value
    return copy
