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
from moa.measure import Geometry, counters, simulate
from moa.measure.here import caches_here
from moa.measure.inputs import arguments
from moa.measure.runs import peak_bytes
from moa.measure.simulated import SCRATCH, items_of, packed_of
from moa.measure.spills import Spills, spills
from moa.text import MoaError

EXAMPLES = Path(__file__).parent.parent / "examples"


class Counting(Machine):
    """Loops interpreted, and for each buffer how often and how many bytes of it are loaded and stored."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.calls: Counter[tuple[str, str]] = Counter()

        self.told = False

    def load(self, p: Pointer, i: int, kind: str, element: str, aligned: bool, mask: Any = None) -> Any:
        self.tell("load", p, i, kind, element, aligned, mask)
        value = super().load(p, i, kind, element, aligned, mask)
        self.told = False
        return value

    def store(self, p: Pointer, i: int, x: Any, kind: str, element: str, aligned: bool, mask: Any = None) -> None:
        self.tell("store", p, i, kind, element, aligned, mask)
        super().store(p, i, x, kind, element, aligned, mask)
        self.told = False

    def place(self, p: Pointer, i: int, count: int, element: str, aligned: bool, mask: Any = None) -> Any:
        """What an instruction touches: one that only tests what it reads is neither a load nor a store."""
        held, used = super().place(p, i, count, element, aligned, mask)
        if not self.told and len(used):
            self.calls[p.buffer, "load"] += 1
            self.calls[p.buffer, "bytes"] += held.nbytes
        return held, used

    def tell(self, what: str, p: Pointer, i: int, kind: str, element: str, aligned: bool, mask: Any) -> None:
        self.told = True
        held, used = self.place(p, i, self.width if kind in "vmw" else 1, element, aligned, mask)
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
    values = arguments(kernel, (), given)
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
        assert found.conflict_bytes > found.moved_bytes / 8 and found.conflict_bytes > 2 * apart.conflict_bytes, ways


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


# Beside the caches ---------------------------------------------------------------------------------------------------


def test_a_table() -> None:
    kernel = moa.compile("def twice(X[n]):\n    return 2 * X\n", dtype="float32")
    found = kernel.measure(n=1000, caches=[(4096, 4), (1 << 20, 8)])
    lines = str(found).splitlines()
    assert lines[0] == "measured twice at n = 1000: float32, as written, 1 thread"
    assert [line.split() for line in lines[1:6]] == [
        ["bytes", "beyond", "read", "written", "conflicts", "predicted", "off", "by"],
        ["4", "KiB,", "4", "ways", "8,064", "4,032", "0", "12,096", "+0.00%"],
        ["X", "4,032", "0", "0"],
        ["out", "4,032", "4,032", "0"],
        ["scratch", "0", "0", "0"],
    ]
    assert found.levels[0].read_bytes == 8064 and found.time_s > 0
    assert "<table>" in found._repr_html_() and "4 KiB, 4 ways" in found._repr_html_()
    own = kernel.measure(np.ones(10, np.float32), threads=2)
    assert own.sizes == (("n", 10),) and own.simulated.threads == 2 and own.predicted == ()


STANDARD = {
    "attention": {"n": 128, "m": 512, "dk": 64, "dv": 64},
    "causal": {"n": 300, "dk": 64, "dv": 64},
    "window": {"n": 400, "dk": 64, "dv": 64, "w": 100},
    "gqa": {"b": 1, "g": 1, "r": 2, "n": 130, "m": 400, "dk": 64, "dv": 64},
    "linear": {"n": 200, "dk": 64, "dv": 64},
}


@pytest.mark.parametrize("program", STANDARD)
def test_predicted_beside_measured(program: str) -> None:
    """The first level of cache, which a tile does not fit, and the second; conflicts are under 10 %."""
    kernel = moa.compile(EXAMPLES / f"{program}.moa", dtype="float32")
    found = kernel.measure(caches=[(32 << 10, 8), (1 << 20, 8)], **STANDARD[program])
    for level, simulated in zip(found.predicted, found.levels, strict=True):
        assert level.measured_bytes == simulated.moved_bytes and level.conflict_bytes == simulated.conflict_bytes
        assert level.off is not None and abs(level.off) < 0.02
        assert simulated.conflict_bytes <= 0.1 * simulated.moved_bytes
        assert f"{level.predicted_bytes:,}" in str(found) and f"{level.off:+.2%}" in str(found)


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_to_measure(n: int) -> None:
    kernel = moa.compile("softmax(X)", X="n m", dtype="float64")
    found = kernel.measure(np.full((n, n), np.nan), caches=[(64, 1)])
    assert (found.simulated.accesses > 0) == (n > 0)
    assert found.sizes == (("n", n), ("m", n))


def test_gpus_have_a_harness_of_their_own() -> None:
    kernel = moa.compile("2 * X", X="n", dtype="float32", backend="cuda")
    with pytest.raises(MoaError, match=r"the caches of a GPU are not simulated(?s:.*)gpu_traffic\.py"):
        kernel.measure(n=3)


def test_why_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "EACCES, not permitted: see /proc/sys/kernel/perf_event_paranoid"
    monkeypatch.setattr(counters, "open_event", lambda *_: (None, reason))
    ran: list[int] = []
    found = counters.counted(lambda: ran.append(1))
    assert ran == [1] and found.values == () and dict(found.missing) == dict.fromkeys(counters.EVENTS, reason)
    monkeypatch.undo()
    monkeypatch.setattr(counters.platform, "system", lambda: "Plan 9")
    assert counters.open_event(0, 0, 0)[1].startswith("perf_event_open is not known on Plan 9")


def test_what_is_counted() -> None:
    """Task clock is a software event that every Linux counts: the way from the call to a number works."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counters, "EVENTS", {"ns": (1, 1)})
        found = counters.counted(lambda: sum(range(100_000)))
    if found.missing:
        pytest.skip(found.missing[0][1])
    assert dict(found.values)["ns"] > 10_000


ASSEMBLY = """
\tvmovups\t%zmm0, 64(%rsp)
\tvmovups\t64(%rsp), %zmm1            # 64-byte Reload
\tvfmadd231ps\t(%rsp), %zmm1, %zmm2
\tvmovups\t%zmm0, (%rdi)
\tmovq\t%rax, 8(%rsp)
\tmovaps\t%xmm3, -24(%rsp)
"""


def test_spills_are_read_from_the_assembly() -> None:
    assert spills(ASSEMBLY) == Spills(2, 2)


def test_caches_of_the_system(tmp_path: Path) -> None:
    for k, (level, kind, sets, ways) in enumerate(
        ((1, "Data", 64, 8), (1, "Instruction", 64, 8), (2, "Unified", 9, 4))
    ):
        folder = tmp_path / f"index{k}"
        folder.mkdir()
        words = {"level": level, "type": kind, "number_of_sets": sets, "ways_of_associativity": ways}
        for name, value in {**words, "coherency_line_size": 64}.items():
            (folder / name).write_text(f"{value}\n", encoding="ascii")
    assert caches_here(tmp_path)[:2] == ((Geometry(32768, 8), Geometry(2304, 4)), 64)
    (tmp_path / "index0" / "level").write_text("?", encoding="ascii")
    assert caches_here(tmp_path)[2].startswith("usual sizes")


def test_memory_of_a_call() -> None:
    found, reason = peak_bytes(lambda: np.ones(1 << 22).sum())
    assert (found is None) == bool(reason)
    assert found is None or found > 1 << 24
