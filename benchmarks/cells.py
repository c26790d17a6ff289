"""The cells: which formula at which sizes, what is aimed at, what the machine's ceiling for it is, and its inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.formulas import FORMULAS, Formula

Array = NDArray[Any]
WINDOW = 256
CAP = 20.0
DOCUMENTS = 5  # of one sequence, in the cell of the document mask
CHUNK = 64  # of the least work of a causal sum of outer products
REFERENCE_ROWS = 96  # rows of a head whose error is looked at


@dataclass(frozen=True, slots=True)
class Cell:
    """One comparison. `heads` query heads share `kv_heads` heads of keys and values.

    aim      the share that is aimed at: of the speed of the hand probe ("probe"), of the formula's own ceiling
             ("ceiling"), of the multiply-add peak ("peak"), of a pure read ("read"), of the larger of read and
             multiply-add time ("roofline"), of the rate of the cell `beside`; or at most so many times as long as that
             cell ("time"), or microseconds ("us")
    faster   how many times as fast as the best peer
    """

    name: str
    formula: str
    dtype: str
    heads: int
    n: int
    m: int
    dk: int
    dv: int
    kv_heads: int
    aim: tuple[str, float]
    faster: float
    beside: str = ""

    @property
    def of(self) -> Formula:
        return FORMULAS[self.formula]

    @property
    def pairs(self) -> float:
        """Pairs of a row and a key that the mask leaves, of all heads; half of all for causal."""
        match self.formula:
            case "window":
                inside = sum(min(i + 1, WINDOW) for i in range(self.n))
            case "document":
                inside = sum(s * (s + 1) // 2 for s in np.bincount(documents(self.n)).tolist())
            case _:
                return self.heads * self.n * self.m / (2 if self.of.causal else 1)
        return float(self.heads * inside)

    @property
    def flops(self) -> float:
        """Of the products alone, as it is counted everywhere; for linear attention those of chunks of CHUNK rows."""
        if self.formula == "linear":
            return float(self.heads * self.n * (4 * self.dk * self.dv + CHUNK * (self.dk + self.dv)))
        return 2 * self.pairs * (self.dk + self.dv)

    def least_flops(self) -> float:
        """The products, and two flops for each other instruction of a score, at the products' rate."""
        rate = 2 if self.dtype == "bfloat16" else 1  # products go twice as fast, the rest does not
        return self.flops + 2 * rate * self.pairs * self.of.scores[self.dtype]

    @property
    def bytes(self) -> float:
        """Keys and values, read once."""
        size = 2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize
        return float(size * self.kv_heads * self.m * (self.dk + self.dv))

    @property
    def bound_by_reading(self) -> bool:
        return self.aim[0] in ("read", "roofline")


@dataclass(slots=True)
class Inputs:
    """Arrays in float32 or float64 with rounded values, of shape (1, heads, rows, width), and what else is passed."""

    cell: Cell
    q: Array
    k: Array
    v: Array
    slope: Array = field(init=False)
    bias: Array = field(init=False)
    documents: Array = field(init=False)

    def __post_init__(self) -> None:
        c = self.cell
        self.slope = (2.0 ** (-8.0 * np.arange(1, c.heads + 1) / c.heads)).astype(self.q.dtype)
        self.documents = documents(c.n)
        self.bias = np.zeros((0, 0), self.q.dtype)
        if c.formula == "bias":
            self.bias = np.random.default_rng(1).standard_normal((c.n, c.m)).astype(self.q.dtype)

    def mask(self, rows: Array) -> Array:
        """Which keys each of the rows may see: (rows, keys)."""
        i, j = rows[:, None], np.arange(self.cell.m)
        match self.cell.formula:
            case "window":
                return np.asarray((j <= i) & (i - j < WINDOW))
            case "document":
                return np.asarray((j <= i) & (self.documents[rows][:, None] == self.documents))
        return np.asarray(j <= i) if self.cell.of.causal else np.ones((len(rows), self.cell.m), bool)

    def added(self, rows: Array, dtype: Any) -> Array | None:
        """What is added to the scores of the rows: (heads or 1, rows, keys), or None."""
        match self.cell.formula:
            case "alibi":
                distance = (rows[:, None] - np.arange(self.cell.m)).astype(dtype)
                return np.asarray(-self.slope.astype(dtype)[:, None, None] * distance)
            case "bias":
                return self.bias[rows].astype(dtype)[None]
        return None

    def combined(self, dtype: Any) -> Array:
        """Mask and bias as one array to add, for peers that take one: (1, heads or 1, n, m)."""
        rows = np.arange(self.cell.n)
        visible, added = self.mask(rows), self.added(rows, dtype)
        base = np.zeros((1, *visible.shape), dtype) if added is None else added
        return np.asarray(np.where(visible, base, np.asarray(-np.inf, dtype))[None])


def documents(n: int) -> Array:
    """The number of the document that each position belongs to; documents are of different lengths."""
    ends = np.cumsum(np.arange(1, DOCUMENTS + 1)) / (DOCUMENTS * (DOCUMENTS + 1) / 2)
    return np.searchsorted(ends * n, np.arange(n), side="right").clip(0, DOCUMENTS - 1).astype(np.int64)


def inputs_of(cell: Cell) -> Inputs:
    """Normal random inputs; of bfloat16 cells they are float32 with values that bfloat16 holds."""
    random = np.random.default_rng(0)
    kept = np.float64 if cell.dtype == "float64" else np.float32
    shapes = ((cell.heads, cell.n, cell.dk), (cell.kv_heads, cell.m, cell.dk), (cell.kv_heads, cell.m, cell.dv))
    arrays = [random.standard_normal((1, *s), np.float32).astype(kept) for s in shapes]
    if cell.dtype == "bfloat16":
        arrays = [rounded(a) for a in arrays]
    return Inputs(cell, *arrays)


def rounded(x: Array) -> Array:
    """float32 values rounded to bfloat16, to nearest even."""
    bits = x.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)).view(
        np.float32
    )


def phi(x: Array) -> Array:
    return np.asarray(np.where(x > 0, x + 1, np.exp(np.minimum(x, 0))))


@dataclass(frozen=True, slots=True)
class Reference:
    """The results in float64 of some heads and rows."""

    heads: tuple[int, ...]
    rows: Array
    values: Array  # (heads, rows, dv)

    def error(self, result: Array) -> float:
        """The largest difference; `result` is (1, heads, n, dv) or has those axes grouped."""
        r = np.asarray(result).astype(np.float64)
        r = r.reshape(-1, *r.shape[-2:])[list(self.heads)][:, self.rows]
        return float(np.abs(r - self.values).max())


def reference(given: Inputs) -> Reference:
    """First and last head, REFERENCE_ROWS rows spread over each."""
    cell = given.cell
    heads = tuple(sorted({0, cell.heads - 1}))
    rows = np.unique(np.linspace(0, cell.n - 1, min(cell.n, REFERENCE_ROWS)).astype(int))
    visible, added = given.mask(rows), given.added(rows, np.float64)
    values = []
    for h in heads:
        shared = h * cell.kv_heads // cell.heads
        q, k, v = (a.astype(np.float64) for a in (given.q[0, h, rows], given.k[0, shared], given.v[0, shared]))
        if cell.formula == "linear":
            values.append(np.where(visible, phi(q) @ phi(k).T, 0) @ v)
            continue
        s = q @ k.T / np.sqrt(cell.dk)
        if cell.formula == "softcap":
            s = CAP * np.tanh(s / CAP)
        if added is not None:
            s = s + added[h % len(added)]
        s = np.where(visible, s, -np.inf)
        e = np.exp(s - s.max(-1, keepdims=True))
        values.append(e @ v / e.sum(-1, keepdims=True))
    return Reference(heads, rows, np.array(values))


def cells() -> Iterator[Cell]:
    """Every cell, in the order of the table."""
    yield from prefill()
    yield from decoding()
    yield from masked()
    yield from awkward()


def square(
    name: str, formula: str, dtype: str, heads: int, n: int, d: int, aim: tuple[str, float], faster: float, **more: Any
) -> Cell:
    return Cell(name, formula, dtype, heads, n, n, d, more.pop("dv", d), heads, aim, faster, **more)


def prefill() -> Iterator[Cell]:
    short = {"float32": "f32", "float64": "f64", "bfloat16": "bf16"}
    faster = {
        ("float32", "full"): 1.12, ("float32", "causal"): 1.4, ("float64", "full"): 1.5, ("float64", "causal"): 1.9,
        ("bfloat16", "full"): 1.2, ("bfloat16", "causal"): 2.5,
    }  # fmt: skip
    for dtype, tag in short.items():
        for formula in ("full", "causal"):
            for n, heads in ((512, 8), (2048, 8), (8192, 1)):
                for d in (64, 128):
                    share = 0.95 if dtype == "bfloat16" else 1.0
                    if (dtype, formula, n) == ("float32", "causal", 512):
                        share = 1.08
                    name = f"{formula} {tag} n{n} d{d}"
                    yield square(name, formula, dtype, heads, n, d, ("probe", share), faster[dtype, formula])


def decoding() -> Iterator[Cell]:
    for dtype, tag in (("float32", "f32"), ("bfloat16", "bf16")):
        for m, heads, d in ((4096, 32, 128), (16384, 64, 64)):
            wide = 1.0 if dtype == "float32" else 3.0
            yield Cell(f"decode {tag} m{m} d{d}", "full", dtype, heads, 1, m, d, d, heads, ("read", 0.95), wide)
            group = 1.8 if dtype == "float32" else 3.0
            name = f"decode gqa {tag} m{m} d{d}"
            yield Cell(name, "grouped", dtype, heads, 1, m, d, d, heads // 4, ("roofline", 0.8), group)


def masked() -> Iterator[Cell]:
    for n in (2048, 8192):
        yield square(f"window f32 n{n} d64", "window", "float32", 8, n, 64, ("peak", 0.7), 2.2)
    for formula in ("alibi", "softcap", "document", "bias"):
        yield square(f"{formula} f32 n2048 d64", formula, "float32", 8, 2048, 64, ("ceiling", 0.85), 2.0)
    for n in (2048, 8192):
        yield square(f"linear f32 n{n} d64", "linear", "float32", 8, n, 64, ("peak", 0.6), 3.0)


def awkward() -> Iterator[Cell]:
    yield square("small f32", "full", "float32", 4, 64, 32, ("us", 30.0), 1.5)
    yield square("round f32 n320 d64", "full", "float32", 8, 320, 64, ("beside", 1.0), 1.2)
    yield square("tail f32 n331 d64", "full", "float32", 8, 331, 64, ("beside", 0.85), 1.2, beside="round f32 n320 d64")
    near = {40: "full f32 n2048 d64", 80: "full f32 n2048 d64", 96: "full f32 n2048 d128"}
    for d, beside in near.items():
        name = f"width f32 n2048 d{d}"
        yield square(name, "full", "float32", 8, 2048, d, ("beside", 0.85), 1.2, beside=beside)
    name = "widths f32 n2048 dk64 dv128"
    yield square(name, "full", "float32", 8, 2048, 64, ("beside", 0.85), 1.2, dv=128, beside="full f32 n2048 d64")
    rows = "rows f32 n16 m4096 d64"
    yield Cell(rows, "full", "float32", 8, 16, 4096, 64, 64, 8, ("beside", 1.0), 1.2)
    for n in (2, 3, 5, 8, 17):
        name = f"rows f32 n{n} m4096 d64"
        aim = ("time", 1.15) if n < 16 else ("beside", 0.85)
        yield Cell(name, "full", "float32", 8, n, 4096, 64, 64, 8, aim, 1.2, beside=rows)
