"""CUDA text of Loops, run on this processor: the bits of the interpreter, programs, and faults that must be seen."""

from __future__ import annotations

import ctypes
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chain import Chain
from cuda_on_cpu import (
    COMPILER,
    ILLEGAL_ADDRESS,
    LAUNCH_FAILURE,
    SCHEDULES,
    SHARED_BYTES,
    STRATEGIES,
    WITHOUT,
    Device,
    device_for,
    text_of,
)
from loops_by_hand import array, packed, same_bits
from programs import Case, numbered
from test_c import data_of, joined
from test_llvm import CASES, ITEMS, NUMPY, copying, elements, one_instruction

from moa.backends.cuda import kernels, launcher, preamble, print_cuda
from moa.expand import expand
from moa.interp.loops import run
from moa.loops import Loops
from moa.lower import Lowered, Slot
from moa.pipeline import Placed
from moa.poly import const
from moa.text import MoaError

pytestmark = pytest.mark.skipif(not COMPILER, reason=WITHOUT)
WIDTH = 32


def lowered(loops: Loops, slots: int) -> Lowered:
    """Loops written by hand as what is printed."""
    return Lowered(loops, (Slot("size", "x"),) * slots, (const(ITEMS),) * len(loops.phases), const(0))


# Instructions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_instructions(dtype: str, tmp_path: Path) -> None:
    """Every instruction has the bits of the interpreter, all of them in one file."""
    parts = [expand(one_instruction(dtype, WIDTH, case)) for case in CASES]
    device = device_for(print_cuda({"all": lowered(joined(parts), 4)}), tmp_path)
    wrong = []
    for k, (case, part) in enumerate(zip(CASES, parts, strict=True)):
        buffers = data_of(case, dtype, WIDTH)
        args = [f"x{k}" if k < len(case[2]) else 0 for k in range(3)] + ["y"]
        meant = {k: array(v, v.dtype) for k, v in buffers.items()}
        run(part, part.phases[0], args, 0, ITEMS, meant)
        got = {k: device.array(v) for k, v in buffers.items()}
        assert device.start("all", k, ctypes.c_void_p(packed(args, got).ctypes.data), ITEMS, 0) == 0, case
        if not same_bits(meant["y"], got["y"]):
            wrong.append((case, meant["y"], got["y"]))
    assert not wrong


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_elements_under_masks(dtype: str, tmp_path: Path) -> None:
    """Every element type, loaded and stored under masks, at a count that ends inside a vector."""
    floats = ("f32", "f64", "f16", "bf16")
    cases = [(a, b, "v") for a in floats for b in floats] + [("u8", "u8", "m")]
    parts = [copying(dtype, WIDTH, *case) for case in cases]
    device = device_for(print_cuda({"all": lowered(joined(parts), 3)}), tmp_path)
    count = 5 * WIDTH - 3
    for k, ((a, b, kind), part) in enumerate(zip(cases, parts, strict=True)):
        x = elements(a, count) if kind == "v" else np.arange(count, dtype=np.uint8) % 2
        buffers: dict[str, Any] = {"x": x, "y": np.zeros(count, NUMPY[b])}
        meant = {k: array(v, v.dtype) for k, v in buffers.items()}
        with np.errstate(all="ignore"):
            run(part, part.phases[0], ["x", "y", count], 0, 5, meant)
        got = {k: device.array(v) for k, v in buffers.items()}
        assert device.start("all", k, ctypes.c_void_p(packed(["x", "y", count], got).ctypes.data), 5, 0) == 0
        found, wanted = got["y"], meant["y"]
        if b == "bf16":
            nan = (wanted & 0x7FFF) > 0x7F80
            assert np.array_equal((found & 0x7FFF) > 0x7F80, nan)
            found, wanted = found[~nan], wanted[~nan]
        assert same_bits(wanted, found), (a, b)


# Programs ------------------------------------------------------------------------------------------------------------


def chains(cases: dict[str, Case], dtype: str) -> dict[str, tuple[Chain, Placed, int]]:
    """Each case that `check` accepts, derived and placed, by prefix; with the number of the form that was chosen."""
    out: dict[str, tuple[Chain, Placed, int]] = {}
    for k, (prefix, case) in enumerate(cases.items()):
        try:
            chain = Chain(case, dtype)  # type: ignore[arg-type]
        except MoaError:
            continue
        form = k % len(chain.derivation.forms)
        fixed = {n: v for n, v in chain.sizes.items() if n in ("d", "c", "dk", "dv")} if k % 3 else {}
        out[prefix] = chain, chain.place(STRATEGIES[k % len(STRATEGIES)], fixed, form), form
    return out


def failures(device: Device, jobs: dict[str, tuple[Chain, Placed, int]]) -> list[Any]:
    """What is wrong: a result that differs from the oracle, or one that depends on the schedule."""
    wrong: list[Any] = []
    for prefix, (chain, placed, form) in jobs.items():
        want, nan = chain.expected(), chain.normal()
        first = None
        for schedule in SCHEDULES:
            got = device.run(prefix, chain, placed, schedule)
            found = chain.differs(got, want, nan, form)
            first = first or got
            if found or not all(map(same_bits, first, got)):
                wrong.append((prefix, schedule, placed.strategy, found, str(chain.case)))
    return wrong


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_random_programs(dtype: str, tmp_path: Path) -> None:
    first = 0 if dtype == "f32" else 1000
    jobs = chains({f"r{seed}": numbered(seed) for seed in range(first, first + 24)}, dtype)
    assert len(jobs) > 18
    assert not failures(device_for(text_of({k: p for k, (_, p, _) in jobs.items()}), tmp_path), jobs)


def written(text: str, params: str, **sizes: int) -> Case:
    from programs import listed

    return Case(text, listed(params), sizes)


MASKED = """def f(Q[n, d], K[m, d], V[m, c]):
    i, j = iota(n)[:, None], iota(m)
    return softmax(where({}, Q @ K.T / sqrt(d), -inf)) @ V"""
QKV = "Q[n, d] K[m, d] V[m, c]"
WRITTEN = {
    "plain": written("def f(Q[n, d], K[m, d], V[m, c]):\n    return softmax(Q @ K.T) @ V", QKV, n=70, m=67, d=5, c=35),
    "product": written("def f(X[n, d], Y[d, c]):\n    return X @ Y", "X[n, d] Y[d, c]", n=37, d=41, c=33),
    "causal": written(MASKED.format("j <= i"), QKV, n=97, m=97, d=8, c=9),
    "window": written(MASKED.format("(j <= i) & (i - j < 20)"), QKV, n=131, m=131, d=4, c=3),
    "stride": written(MASKED.format("(i - j) % 3 == 0"), QKV, n=40, m=66, d=3, c=4),
    "one": written(MASKED.format("j <= i"), QKV, n=1, m=1, d=1, c=1),
    "no keys": written(MASKED.format("j <= i"), QKV, n=5, m=0, d=2, c=3),
    "no rows": written(MASKED.format("j <= i"), QKV, n=0, m=5, d=2, c=3),
    "no columns": written(MASKED.format("j <= i"), QKV, n=5, m=5, d=2, c=0),
    "two": written("def f(X[n, d]):\n    return sum(X), max(X, axis=0)", "X[n, d]", n=35, d=66),
    "products": written(
        "def f(Q[n, d], K[m, d], V[m, c], W[m, c]):\n    P = softmax(Q @ K.T)\n    return P @ V, P @ W",
        "Q[n, d] K[m, d] V[m, c] W[m, c]", n=70, m=150, d=9, c=35,
    ),
    "scan": written("def f(X[n, d]):\n    return cumsum(X, axis=0), cummax(X, axis=-1)", "X[n, d]", n=19, d=35),
    "gather": written("def f(Y[n, d], idx: int[r]):\n    return sum(Y[idx], axis=0)", "Y[n, d] idx:index:n[r]",
                      n=40, d=37, r=50),
    "order": written("def f(X[n, d]):\n    return argsort(X, axis=-1), argmax(X, axis=0)", "X[n, d]", n=5, d=37),
}  # fmt: skip


@pytest.fixture(scope="module")
def programs_on_cpu(tmp_path_factory: pytest.TempPathFactory) -> tuple[Device, dict[str, tuple[Chain, Placed, int]]]:
    cases = {f"w{s}_{k.replace(' ', '_')}": c for s in range(2) for k, c in WRITTEN.items()}
    jobs = {k: (c, c.place(STRATEGIES[int(k[1])], {}, 0), 0) for k, (c, _, _) in chains(cases, "f32").items()}
    assert len(jobs) == len(cases)
    return device_for(text_of({k: p for k, (_, p, _) in jobs.items()}), tmp_path_factory.mktemp("cuda")), jobs


def test_programs_by_hand(programs_on_cpu: tuple[Device, dict[str, tuple[Chain, Placed, int]]]) -> None:
    """Sizes beside the tile, primes, 1 and 0; masks that skip tiles; scans; gathers; integers out."""
    assert not failures(*programs_on_cpu)


def test_scratch_in_global_memory(programs_on_cpu: tuple[Device, dict[str, tuple[Chain, Placed, int]]]) -> None:
    """Where scratch does not fit shared memory it is a slice of the workspace, with the same bits."""
    device, jobs = programs_on_cpu
    for prefix in ("w0_plain", "w1_causal"):
        chain, placed, _ = jobs[prefix]
        shared = device.run(prefix, chain, placed)
        assert all(map(same_bits, shared, device.run(prefix, chain, placed, limit=1024)))


def test_forms_in_parts_and_in_chunks(tmp_path: Path) -> None:
    """Few rows: the axis is split over blocks, and what they made is merged; prefixes go by chunks, and so do scans."""
    from chain import in_short, laws

    linear = """def f(Q[n, d], K[n, d], V[n, c]):
    A = where(iota(n) <= iota(n)[:, None], (elu(Q) + 1) @ (elu(K) + 1).T, 0)
    return (A @ V) / (sum(A, axis=-1, keepdims=True) + 1)"""
    gated = """def step(S, x):
    k, v, g = x
    return exp(g)[:, None] * S + k[:, None] * v
def f(Q[n, d], K[n, d], V[n, c], g[n, d]):
    return sum(Q[:, :, None] * scan(step, (K, V, g), axis=0, init=zeros(d, c)), axis=1)"""
    cases = {
        "row": (WRITTEN["plain"].text, QKV, {"n": 1, "m": 67, "d": 5, "c": 35}, "parts"),
        "causal": (MASKED.format("j <= i"), QKV, {"n": 41, "m": 41, "d": 4, "c": 3}, "parts"),
        "linear": (linear, "Q[n, d] K[n, d] V[n, c]", {"n": 21, "d": 4, "c": 5}, "chunk"),
        "gated": (gated, "Q[n, d] K[n, d] V[n, c] g[n, d]", {"n": 21, "d": 4, "c": 5}, "side by side"),
    }
    placed: dict[str, Placed] = {}
    found: dict[str, tuple[Chain, int]] = {}
    with laws(merge=in_short(16), chunk=in_short(8), affine=in_short(8)):
        for name, (text, params, sizes, word) in cases.items():
            chain = Chain(written(text, params, **sizes), "f32")
            form = next(k for k, f in enumerate(chain.derivation.forms) if word in f.name)
            placed[name] = chain.place(STRATEGIES[0], {}, form)
            found[name] = chain, form
    device = device_for(text_of(placed), tmp_path)
    for name, (chain, form) in found.items():
        for schedule in SCHEDULES:
            got = device.run(name, chain, placed[name], schedule)
            assert not chain.differs(got, chain.expected(), chain.normal(), form), (name, schedule)


@pytest.mark.parametrize("seed", [3, 4, 8])
def test_the_bits_are_those_of_the_loops(seed: int, tmp_path: Path) -> None:
    chain = Chain(numbered(seed), "f32")
    placed = chain.place(STRATEGIES[0])
    lowered = replace(placed.lowered, loops=expand(placed.lowered.loops))
    meant = chain.loops(replace(placed, lowered=lowered))
    got = device_for(text_of({"bits": placed}), tmp_path).run("bits", chain, placed)
    assert all(map(same_bits, meant, got))


# Faults --------------------------------------------------------------------------------------------------------------


def faulty(tmp_path: Path, old: str, new: str) -> tuple[Device, Chain, Placed]:
    """A right program with a pattern in its text replaced."""
    chain = Chain(WRITTEN["plain"], "f32")
    placed = chain.place(STRATEGIES[1])
    text = text_of({"bad": placed})
    assert re.search(old, text)
    return Device(re.sub(old, new, text), tmp_path), chain, placed


def wrong_under(device: Device, chain: Chain, placed: Placed, prefix: str = "bad") -> set[int]:
    """The schedules under which the result is wrong, or an error."""
    want, nan = chain.expected(), chain.normal()
    out = set()
    for schedule in SCHEDULES:
        try:
            right = not chain.differs(device.run(prefix, chain, placed, schedule), want, nan)
        except AssertionError:
            right = False
        out |= set() if right else {schedule}
    return out


def test_a_missing_barrier_is_seen(tmp_path: Path) -> None:
    """Thread after thread may be lucky; a warp that runs ahead is not."""
    assert wrong_under(*faulty(tmp_path, r"__syncthreads\(\);", ";")) >= {1, 2}


def test_each_barrier_is_needed(tmp_path: Path) -> None:
    """One kernel for each barrier, without that one. Three are not missed here: one between nests whose warps happen to
    keep to their own rows, and those before a next tile and a next item, of which there are few.
    """
    chain = Chain(WRITTEN["plain"], "f32")
    placed = chain.place(STRATEGIES[1], {"d": 5, "c": 35})
    barrier, parts = "__syncthreads();", [preamble("f32")]
    count = kernels(placed.lowered, "bad").count(barrier)
    for k in range(count):
        pieces = kernels(placed.lowered, f"b{k}").split(barrier)
        parts.append(barrier.join(pieces[: k + 1]) + ";" + barrier.join(pieces[k + 1 :]))
        parts.append(launcher(placed.lowered, f"b{k}"))
    device = Device("".join(parts), tmp_path)
    seen = [bool(wrong_under(device, chain, placed, f"b{k}")) for k in range(count)]
    assert count > 5 and seen.count(False) <= 3, seen


def test_a_wrong_lane_is_seen(tmp_path: Path) -> None:
    assert wrong_under(*faulty(tmp_path, r"\+ MOA_LANE\)", "+ (MOA_LANE ^ 1))")) == set(SCHEDULES)


def test_an_access_behind_an_array_is_seen(tmp_path: Path) -> None:
    device, chain, placed = faulty(tmp_path, r"if \(m\d+\) MOA_AT", "MOA_AT")
    with pytest.raises(AssertionError, match=f"error {ILLEGAL_ADDRESS}"):
        device.run("bad", chain, placed)


def test_a_write_behind_shared_memory_is_seen(tmp_path: Path) -> None:
    device, chain, placed = faulty(tmp_path, "scratch = moa_shared;", "scratch = moa_shared + 8192;")
    with pytest.raises(AssertionError, match=f"error {LAUNCH_FAILURE}"):
        device.run("bad", chain, placed)


def test_a_barrier_that_some_threads_miss_is_seen(tmp_path: Path) -> None:
    device, chain, placed = faulty(tmp_path, r"__syncthreads\(\);", "if (MOA_WARP != 3) __syncthreads();")
    with pytest.raises(AssertionError, match=f"error {LAUNCH_FAILURE}"):
        device.run("bad", chain, placed)


def test_too_much_shared_memory_is_refused(tmp_path: Path) -> None:
    chain = Chain(WRITTEN["plain"], "f32")
    placed = chain.place(STRATEGIES[0], {"d": 5, "c": 35})
    device = Device(text_of({"one": placed}), tmp_path)
    assert "one_g0" not in text_of({"one": placed})  # it fits every device: there is one kernel
    with pytest.raises(AssertionError, match="error 1"):
        device.run("one", chain, placed, limit=1024)
    assert device.start("one", 9, None, 1, 0) != 0 and SHARED_BYTES > 1024


# Text ----------------------------------------------------------------------------------------------------------------


def test_the_text_is_deterministic_and_of_ascii() -> None:
    chain = Chain(WRITTEN["window"], "f64")
    texts = {text_of({"moa": chain.place(s)}) for s in (STRATEGIES[0], STRATEGIES[0])}
    assert len(texts) == 1 and texts.pop().isascii()
