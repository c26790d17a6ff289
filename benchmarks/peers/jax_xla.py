"""JAX: dot_product_attention under jit, on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.cells import WINDOW, Inputs
from benchmarks.peers import Absent, Found, Options


def peers(given: Inputs, o: Options) -> Found:
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    cell = given.cell
    if cell.formula in ("linear", "softcap") or cell.dk != cell.dv:
        yield Absent("jax", "dot_product_attention has no such form", everywhere=False)
        return
    if cell.heads * cell.n * cell.m > 1 << 28:
        yield Absent("jax", "the scores would take more than 1 GiB", everywhere=False)
        return
    kind = getattr(jax.numpy, cell.dtype)
    q, k, v = (jax.numpy.asarray(a.transpose(0, 2, 1, 3), kind) for a in (given.q, given.k, given.v))
    more: dict[str, Any] = {"is_causal": cell.of.causal}
    if cell.formula == "window":
        more["local_window_size"] = (WINDOW - 1, 0)
    elif cell.formula == "document":
        more["mask"] = jax.numpy.asarray(given.mask(np.arange(cell.n))[None, None])
    elif cell.formula in ("alibi", "bias"):
        added = given.added(np.arange(cell.n), given.q.dtype)
        more["bias"] = jax.numpy.asarray(added, kind)[None]
    run = jax.jit(lambda q, k, v: jax.nn.dot_product_attention(q, k, v, **more))

    def work() -> Any:
        return Transposed(run(q, k, v).block_until_ready())

    yield "jax", work


class Transposed:
    """(1, rows, heads, width) as an array (1, heads, rows, width), when it is asked for."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.asarray(self.value).astype(np.float64).transpose(0, 2, 1, 3)
