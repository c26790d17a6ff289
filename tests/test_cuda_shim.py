"""The CPU in place of a GPU: copies that arrive late, products of small matrices, and mistakes that it must see."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import cuda_on_cpu
import numpy as np
import pytest
from chain import Array, Chain
from cuda_on_cpu import COMPILER, SCHEDULES, SHIM, WITHOUT, Device
from programs import Case, listed
from test_cuda_nvcc import needs_nvcc

from moa.backends.cuda_build import Builder, usages

needs_compiler = pytest.mark.skipif(not COMPILER, reason=WITHOUT)
TEXT = (SHIM / "products.cu").read_text(encoding="ascii")
MISALIGNED = 716
BF16, F16, TF32, F64 = range(4)
SHAPES = ((1, 8, 8), (32, 16, 16), (37, 24, 72), (70, 40, 104))  # rows, columns, steps: rows are copied by 16 bytes


class Shapes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in "nmk"] + [(name, ctypes.c_void_p) for name in "abc"]


def product(device: Device, which: int, a: Array, b: Array, c: Array, k: int = 0) -> int:
    """The code of the launch; what it computes is in `c`."""
    shapes = Shapes(*c.shape, k or a.shape[1], a.ctypes.data, b.ctypes.data, c.ctypes.data)
    return int(device.library.product_start(which, ctypes.byref(shapes)))


def as_bf16(x: Array) -> tuple[Array, Array]:
    """Bits of the upper half of floats, and the floats that they are."""
    bits = (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return bits, (bits.astype(np.uint32) << 16).view(np.float32)


def as_f16(x: Array) -> tuple[Array, Array]:
    half = x.astype(np.float16)
    return half.view(np.uint16), half.astype(np.float32)


def wrong(device: Device, which: int = BF16, shapes: tuple[tuple[int, int, int], ...] = SHAPES) -> list[Any]:
    """The shapes and schedules under which a product is not that of NumPy, or the launch fails."""
    rng = np.random.default_rng(0)
    out: list[Any] = []
    for n, m, k in shapes:
        made = as_bf16 if which == BF16 else as_f16
        (a, left), (b, right) = made(rng.standard_normal((n, k))), made(rng.standard_normal((k, m)))
        arrays = [device.array(x) for x in (a, b, np.full((n, m), np.nan, np.float32))]
        for schedule in SCHEDULES:
            device.library.moa_shim_schedule(schedule)
            arrays[2][...] = np.nan
            code = product(device, which, *arrays)
            if code or not np.allclose(arrays[2], left.astype(float) @ right, rtol=1e-5, atol=1e-5):
                out.append(((n, m, k), schedule, code))
        for x in arrays:
            device.free(x)
    device.library.moa_shim_schedule(0)
    return out


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Device:
    return Device(TEXT, tmp_path_factory.mktemp("products"))


@needs_compiler
@pytest.mark.parametrize("which", [BF16, F16])
def test_products_with_copies_that_overlap(right: Device, which: int) -> None:
    assert not wrong(right, which)


@needs_compiler
def test_halves_of_every_kind(right: Device) -> None:
    """Each element of float16 and bfloat16, subnormals, infinities and NaN too, times one."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    exact = {BF16: (bits.astype(np.uint32) << 16).view(np.float32), F16: bits.view(np.float16).astype(np.float32)}
    one = {BF16: 0x3F80, F16: 0x3C00}
    for which, values in exact.items():
        a, b = right.array(np.zeros((1 << 16, 8), np.uint16)), right.array(np.zeros((8, 8), np.uint16))
        c = right.array(np.zeros((1 << 16, 8), np.float32))
        a[:, 0], b[0, :] = bits, one[which]
        with np.errstate(invalid="ignore"):
            assert product(right, which, a, b, c) == 0
            assert np.array_equal(c[:, 3], values, equal_nan=True)
        for x in (a, b, c):
            right.free(x)


@needs_compiler
def test_one_instruction_in_tf32_and_float64(right: Device) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((16, 8)).astype(np.float32), rng.standard_normal((8, 8)).astype(np.float32)
    c = right.array(np.zeros((16, 8), np.float32))
    assert product(right, TF32, right.array(x), right.array(y), c) == 0
    cut = [(v.view(np.uint32) & 0xFFFFE000).view(np.float32).astype(float) for v in (x, y)]
    np.testing.assert_allclose(c, cut[0] @ cut[1], rtol=1e-5, atol=1e-5)
    assert np.abs(c - x.astype(float) @ y).max() > 1e-5  # the low digits did not count
    u, v = rng.standard_normal((8, 4)), rng.standard_normal((4, 8))
    d = right.array(np.zeros((8, 8)))
    assert product(right, F64, right.array(u), right.array(v), d) == 0
    np.testing.assert_allclose(d, u @ v, rtol=1e-14, atol=1e-14)


FAULTS = {
    "a wait for one group too few": ("copies_wait<2>();", "copies_wait<3>();"),
    "no wait": ("copies_wait<2>();", ""),
    "a copy in no group": ("        copies_commit();", "        if (t > 0) copies_commit();"),
    "no barrier after the wait": ("__syncthreads(); /* the tile is here */", ""),
    "a place too few": ("PLACES = 3", "PLACES = 2"),
    "a transpose left out": ("matrices_transposed(b,", "matrices(b,"),
    "a transpose too many": ("matrices(a,", "matrices_transposed(a,"),
    "rows of the wrong half": ("lane / 16 * 8);\n        matrices_tr", "(1 - lane / 16) * 8);\n        matrices_tr"),
    "operands exchanged": ("c[0], a, near", "c[0], a, far"),
    "results in the wrong rows": ("lane / 4 + i / 2 * 8", "lane / 4 * 2 + i / 2"),
}


@needs_compiler
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(fault: str, tmp_path: Path) -> None:
    old, new = FAULTS[fault]
    assert TEXT.count(old) == 2 if fault == "operands exchanged" else TEXT.count(old) == 1
    assert wrong(Device(TEXT.replace(old, new), tmp_path), shapes=SHAPES[2:])


@needs_compiler
def test_an_address_that_is_no_multiple_of_16_is_seen(right: Device, tmp_path: Path) -> None:
    a, b, c = (right.array(np.zeros((8, 8), t)) for t in (np.uint16, np.uint16, np.float32))
    assert product(right, BF16, a[:7], b, c[:7], k=9) == MISALIGNED  # rows of 18 bytes
    assert product(right, BF16, a, b, c) == 0
    pitched = Device(TEXT.replace("PITCH = 24", "PITCH = 20"), tmp_path)
    assert product(pitched, BF16, a, b, c) == MISALIGNED


@needs_nvcc
@pytest.mark.parametrize("architecture", ["80", "90a"])
def test_nvcc_takes_the_same_text(architecture: str) -> None:
    header = (SHIM / "warp_instructions.h").read_text(encoding="ascii").replace("#include <cuda_runtime.h>", "")
    text = TEXT.replace('#include "warp_instructions.h"', f"#include <cuda_runtime.h>\n#include <stdint.h>\n{header}")
    found = {u.kernel: u for u in usages(text, architecture)}
    assert set(found) == {"product_bf16", "product_f16", "product_tf32", "product_f64"}
    assert all(u.spill_bytes == 0 and u.registers <= 64 for u in found.values()), found


@needs_compiler
def test_the_same_cases_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MOA_TEST_GPU=1: built by nvcc, run in managed memory, waited for; all of them played by this processor here."""
    waits: list[int] = []

    class Memory:
        def array(self, values: Array) -> Array:
            return values.copy()

        def wait(self) -> None:
            waits.append(1)

    command = (COMPILER, *cuda_on_cpu.FLAGS, "-x", "c++", "-I", str(SHIM))
    monkeypatch.setenv("MOA_TEST_GPU", "1")
    monkeypatch.setattr(cuda_on_cpu, "memory", Memory)
    monkeypatch.setattr(cuda_on_cpu, "builder_for", lambda number: Builder(command))
    chain = Chain(Case("def f(X[n, d]):\n    return sum(X)", listed("X[n, d]"), {"n": 37, "d": 70}), "f32")
    placed = chain.place(cuda_on_cpu.STRATEGIES[0])
    device = cuda_on_cpu.device_for(cuda_on_cpu.text_of({"one": placed}), tmp_path)
    assert isinstance(device, cuda_on_cpu.OnGpu)
    assert not chain.differs(device.run("one", chain, placed, 2), chain.expected(), chain.normal())
    assert len(waits) == len(placed.lowered.items)
    with pytest.raises(pytest.skip.Exception, match="cannot be set on a GPU"):
        device.run("one", chain, placed, limit=1024)
