"""What a kernel is measured on: arrays that were given, and random ones of given sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moa.arrays import ABSENT
from moa.call import PAGE
from moa.given import completed
from moa.oracle import bind
from moa.text import MoaError, printable

if TYPE_CHECKING:
    from moa.kernel import Kernel


def arguments(
    kernel: Kernel, arrays: Sequence[Any], named: Mapping[str, Any], lead: Sequence[int] = (), seed: int = 0
) -> list[Any]:
    """The value of each parameter as the kernel reads it; random arrays begin at pages.

    named  parameters to their values, and sizes to numbers for arrays that are missing
    lead   what `...` stands for in those
    Errors: MoaError of kind "argument"
    """
    if arrays and len(arrays) == len(kernel._parameters):
        return kernel._arguments(tuple(arrays), named)
    parameters = [p.name for p in kernel._parameters]
    known = kernel._names()
    given = dict(zip(parameters, arrays, strict=False))
    twice = [*(k for k in named if k in given), *arrays[len(parameters) :]]
    if twice:  # a call of the kernel would say the same
        return kernel._arguments(tuple(arrays), named)
    given |= {k: v for k, v in named.items() if k in parameters}
    sizes: dict[str, int] = {}
    for name, value in named.items():
        if name in given:
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
    sizes |= {k: v for k, v in given.items() if k in known}
    made = completed(kernel, given, sizes, list(lead), seed)
    placed = [x if name in given else at_page(x) for name, x in zip(parameters, made, strict=True)]
    return kernel._arguments(tuple(placed), {})


def sizes_of(kernel: Kernel, values: list[Any]) -> tuple[tuple[str, int], ...]:
    """The sizes and integer parameters that arguments have."""
    given = {p.name: v for p, v in zip(kernel._parameters, values, strict=True) if v is not ABSENT}
    ranks = kernel._ranks({k: v for k, v in given.items() if isinstance(v, np.ndarray)})
    found = bind(kernel._front(ranks).program, given)
    return tuple(found.items())


def at_page(value: Any) -> Any:
    """A copy of an array that begins at a page; what is not an array as it is."""
    if not isinstance(value, np.ndarray) or not value.size:
        return value
    room = np.empty(value.nbytes + PAGE, np.uint8)
    skipped = -room.__array_interface__["data"][0] % PAGE
    copy: NDArray[Any] = room[skipped : skipped + value.nbytes].view(value.dtype).reshape(value.shape)
    copy[...] = value
    return copy
