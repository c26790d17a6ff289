"""What is measured of a kernel: its calls are those of its Loops, and what caches see of them follows by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import Case, Param

import moa
from moa.call import JOB_WORDS
from moa.interp.loops import Machine, Pointer, bytes_of
from moa.kernel import Kernel
from moa.measure import simulate
from moa.measure.inputs import arguments
from moa.measure.simulated import SCRATCH, items_of, packed_of
from moa.text import MoaError

EXAMPLES = Path(__file__).parent.parent / "examples"


class Counting(Machine):
    """Loops interpreted, and for each buffer how often and how many bytes of it are loaded and stored."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.calls: Counter[tuple[str, str]] = Counter()

    def load(self, p: Pointer, i: int, kind: str, element: str, aligned: bool, mask: Any = None) -> Any:
        self.tell("load", p, i, kind, element, aligned, mask)
        return super().load(p, i, kind, element, aligned, mask)

    def store(self, p: Pointer, i: int, x: Any, kind: str, element: str, aligned: bool, mask: Any = None) -> None:
        self.tell("store", p, i, kind, element, aligned, mask)
        super().store(p, i, x, kind, element, aligned, mask)

    def tell(self, what: str, p: Pointer, i: int, kind: str, element: str, aligned: bool, mask: Any) -> None:
        held, used = self.place(p, i, self.width if kind in "vm" else 1, element, aligned, mask)
        if len(used):
            self.calls[p.buffer, what] += 1
            self.calls[p.buffer, "bytes"] += held.nbytes


def interpreted(kernel: Kernel, values: list[Any]) -> Counter[tuple[str, str]]:
    """What the Loops of a call say that they load and store."""
    call = kernel._call(values, 1)
    variant = next(v for v in kernel._variants.values() if v.built is call.keep)
    loops, slots = variant.placed.lowered.loops, variant.packing.slots
    before = call.phases * JOB_WORDS
    buffers = {slots[s - before].name: np.ascontiguousarray(values[k]).copy() for s, k, _ in call.inputs}
    buffers |= {slots[s - before].name: np.zeros(shape, dtype) for s, shape, dtype in call.made}
    memory = {name: bytes_of(name, a) for name, a in buffers.items()}
    memory["workspace"] = np.zeros(call.scratch_bytes, np.uint8)
    words = packed_of(call)
    floats = words.view(np.float64)
    args = tuple(
        Pointer(s.name) if s.kind == "pointer" else float(floats[k]) if s.kind == "host" else int(words[k])
        for k, s in enumerate(slots)
    )
    machine = Counting(loops, memory, args)
    with np.errstate(all="ignore"):
        for phase, items in zip(loops.phases, items_of(call), strict=True):
            machine.call(loops.function(phase), (Pointer("arguments"), 0, items, Pointer("workspace")))
    return machine.calls


X, BIG = Param("X", ("n", "m")), {"n": 3, "m": 37}
CASES = {
    "rows": Case("def f(X[n, m]):\n    return softmax(X)\n", (X,), BIG),
    "nothing": Case("def f(X[n, m]):\n    return softmax(X)\n", (X,), {"n": 0, "m": 5}),
    "one": Case("def f(X[n, m]):\n    return softmax(X)\n", (X,), {"n": 1, "m": 1}),
    "nan": Case("def f(X[n, m]):\n    return softmax(X)\n", (X,), BIG, data="nan"),
    "infinite": Case("def f(X[n, m]):\n    return softmax(X)\n", (X,), BIG, data="-inf rows"),
    "causal": Case(
        "def f(Q[n, d], K[n, d], V[n, d]):\n"
        "    return softmax(where(iota(n) <= iota(n)[:, None], Q @ K.T, -inf)) @ V\n",
        (Param("Q", ("n", "d")), Param("K", ("n", "d")), Param("V", ("n", "d"))),
        {"n": 19, "d": 3},
    ),
    "shifted": Case(
        "def f(X[n, m]):\n    return minimum(X, concat(X[:, 1:], X[:, :1], axis=1))\n", (X,), {"n": 2, "m": 21}
    ),
    "bits and indices": Case(
        "def f(X[n, m], keep: bool[m], at: int[k]):\n    return where(keep, X, 0)[at]\n",
        (X, Param("keep", ("m",), "b"), Param("at", ("k",), "i", "index:n")),
        {"n": 5, "m": 19, "k": 3},
    ),
    "in memory": Case("def f(X[n, m]):\n    return argsort(sum(X, axis=1)), cumsum(X, axis=0)\n", (X,), BIG),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_calls_are_those_of_the_loops(name: str, dtype: str) -> None:
    case = CASES[name]
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="no bfloat16 for NumPy here: ml_dtypes")
    kernel = moa.compile(case.text, dtype=dtype)
    given = {
        k: v.astype(moa.storage.numpy_dtype(dtype)) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v
        for k, v in case.arrays().items()
    }
    values = arguments(kernel, given)
    found = simulate(kernel, values, [1 << 12])
    wanted = interpreted(kernel, values)
    for array, calls in found.calls:
        name = "workspace" if array == SCRATCH else array
        assert calls.loads == wanted[name, "load"], array
        assert calls.stores == wanted[name, "store"], array
        assert calls.size_bytes == wanted[name, "bytes"], array
    assert found.accesses == sum(n for (_, what), n in wanted.items() if what != "bytes")


def test_what_a_copy_moves() -> None:
    """Each line of X is read, each of the result read and written; at every level the same, and by any thread."""
    kernel = moa.compile("2 * X", X="n", dtype="float32")
    for n in (0, 1, 16, 1024, 5000):
        lines = -(-4 * n // 64)
        for threads in (1, 2):
            found = simulate(kernel, {"n": n}, [1 << 12, 1 << 14], [4, 8], threads=threads)
            for level in found.levels:
                assert (level.read_bytes, level.written_bytes) == (128 * lines, 64 * lines), (n, threads)
                assert level.conflict_bytes == 0


def test_rows_of_a_power_of_two_conflict() -> None:
    """Rows as long as a way of the cache: all of a column falls into one set; not so if they are a line longer."""
    kernel = moa.compile("A @ B", A="n k", B="k m", dtype="float32")
    for ways in (2, 4):
        (found,) = simulate(kernel, {"n": 16, "k": 24, "m": 1024}, [1 << 13], [ways]).levels
        (apart,) = simulate(kernel, {"n": 16, "k": 24, "m": 1040}, [1 << 13], [ways]).levels
        assert found.conflict_bytes is not None and apart.conflict_bytes is not None
        assert found.conflict_bytes > found.moved_bytes / 8 > 4 * apart.conflict_bytes, ways


@pytest.mark.parametrize(
    ("given", "capacities", "changes", "told"),
    [
        ({"n": 3}, [100], {}, "a cache of 100 bytes with lines of 64"),
        ({"n": 3}, [], {}, "0 caches"),
        ({"n": 3}, [64] * 9, {}, "9 caches"),
        ({"n": 3}, [128, 64], {}, "a cache of 128 bytes is nearer than one of 64"),
        ({"n": 3}, [128], {"ways": [3]}, "a cache of 2 lines in 3 ways"),
        ({"n": 3}, [128], {"ways": [1, 2]}, "1 capacities and 2 ways"),
        ({"n": 3}, [128, 128], {"ways": [1, 0]}, "ways for some caches only"),
        ({"n": 3}, [128], {"line_bytes": 48}, "a line of 48 bytes"),
        ({"n": 3}, [128], {"threads": 0}, "threads is 0"),
        ({"n": "3"}, [128], {}, "n is of type str"),
        ({"n": -1}, [128], {}, "X would be -1"),
        ({"k": 3}, [128], {}, "f has no parameter and no size k"),
        ({}, [128], {}, "no array for X, and no size n to make one"),
        ([np.zeros(3)], [128], {}, "argument X is float64"),
    ],
)
def test_mistakes(given: Any, capacities: list[int], changes: dict[str, Any], told: str) -> None:
    kernel = moa.compile("def f(X[n]):\n    return 2 * X\n", dtype="float32")
    with pytest.raises(MoaError) as e:
        simulate(kernel, given, capacities, **changes)
    assert told in str(e.value)
