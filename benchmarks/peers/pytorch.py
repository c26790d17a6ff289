"""PyTorch: scaled_dot_product_attention by each backend of the CPU, FlexAttention, and forms of linear attention."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.cells import CAP, CHUNK, WINDOW, Inputs
from benchmarks.peers import Absent, Found, Options


def peers(given: Inputs, o: Options) -> Found:
    import torch

    cell = given.cell
    torch.set_num_threads(o.threads)
    kind = getattr(torch, cell.dtype)
    q, k, v = (torch.from_numpy(np.ascontiguousarray(a)).to(kind) for a in (given.q, given.k, given.v))
    if cell.formula == "linear":
        yield from linear(torch, q, k, v, o)
        return
    if cell.formula != "softcap":
        yield from dot_product(torch, given, q, k, v)
    else:
        yield "torch eager", lambda: capped(torch, q, k, v)
    if not o.compiled:
        yield Absent("torch flex", "compiling it takes minutes: asked for by --compiled")
    elif shutil.which("g++") is None:
        yield Absent("torch flex", "it needs a C++ compiler")
    elif cell.dtype == "float64":
        yield Absent("torch flex", "no float64", everywhere=False)
    else:
        yield "torch flex", flex(torch, given, q, k, v)


def dot_product(torch: Any, given: Inputs, q: Any, k: Any, v: Any) -> Found:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    cell = given.cell
    attend = torch.nn.functional.scaled_dot_product_attention
    more: dict[str, Any] = {"is_causal": True} if cell.formula == "causal" else {}
    if cell.formula in ("window", "document"):
        more["attn_mask"] = torch.from_numpy(given.mask(np.arange(cell.n)))
    elif cell.formula in ("alibi", "bias"):
        more["attn_mask"] = torch.from_numpy(given.combined(given.q.dtype)).to(q.dtype)
    if cell.formula == "grouped":
        more["enable_gqa"] = True

    def by(backend: Any) -> Callable[[], Any]:
        def work() -> Any:
            with sdpa_kernel(backend), torch.no_grad():
                return attend(q, k, v, **more)

        return work

    yield "torch flash", by(SDPBackend.FLASH_ATTENTION)
    if cell.heads * cell.n * cell.m > 1 << 28:
        yield Absent("torch math", "the scores would take more than 1 GiB", everywhere=False)
    else:
        yield "torch math", by(SDPBackend.MATH)
    if cell.n == 1 and cell.formula == "full":
        yield "torch default", lambda: attend(q, k, v, **more)


def capped(torch: Any, q: Any, k: Any, v: Any) -> Any:
    scores = CAP * torch.tanh(q @ k.mT / (CAP * q.shape[-1] ** 0.5))
    visible = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    return torch.softmax(scores.masked_fill(~visible, -torch.inf), -1) @ v


def flex(torch: Any, given: Inputs, q: Any, k: Any, v: Any) -> Callable[[], Any]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    cell = given.cell
    slope = torch.from_numpy(given.slope).to(q.dtype)
    document = torch.from_numpy(given.documents)
    bias = torch.from_numpy(given.bias).to(q.dtype)
    scores = {
        "alibi": lambda s, b, h, i, j: s - slope[h] * (i - j),
        "softcap": lambda s, b, h, i, j: CAP * torch.tanh(s / CAP),
        "bias": lambda s, b, h, i, j: s + bias[i, j],
    }
    masks = {
        "window": lambda b, h, i, j: (j <= i) & (i - j < WINDOW),
        "document": lambda b, h, i, j: (j <= i) & (document[i] == document[j]),
    }
    block = None
    if cell.of.causal:
        block = create_block_mask(
            masks.get(cell.formula, lambda b, h, i, j: j <= i), None, None, cell.n, cell.m, device="cpu"
        )
    torch._dynamo.reset()
    run = torch.compile(flex_attention, dynamic=False)
    options = {"score_mod": scores.get(cell.formula), "block_mask": block, "enable_gqa": cell.formula == "grouped"}

    def work() -> Any:
        with torch.no_grad():
            return run(q, k, v, **options)

    return work


def linear(torch: Any, q: Any, k: Any, v: Any, o: Options) -> Found:
    """Causal linear attention in chunks: within a chunk by a masked product, between chunks by running sums."""

    def chunked(size: int) -> Callable[[Any, Any, Any], Any]:
        visible = torch.ones(size, size, dtype=q.dtype).tril()

        def run(q: Any, k: Any, v: Any) -> Any:
            f = torch.nn.functional.elu
            blocks = (*q.shape[:2], -1, size)
            qc, kc = (f(x) + 1 for x in (q.reshape(*blocks, q.shape[-1]), k.reshape(*blocks, k.shape[-1])))
            vc = v.reshape(*blocks, v.shape[-1])
            states = kc.mT @ vc
            before = states.cumsum(2) - states
            return (((qc @ kc.mT) * visible) @ vc + qc @ before).reshape(*q.shape[:3], v.shape[-1])

        return run

    for size in (CHUNK, 2 * CHUNK):
        yield f"torch chunks of {size}", partial(chunked(size), q, k, v)
    if o.compiled and shutil.which("g++") is not None:
        torch._dynamo.reset()
        fast = torch.compile(chunked(2 * CHUNK), dynamic=False)
        yield "torch compiled chunks", partial(fast, q, k, v)
