"""What nvcc makes of the text: no warning, no spill, registers and shared memory as planned."""

from __future__ import annotations

from pathlib import Path

import pytest

import moa
from moa.backends import cuda_build
from moa.backends.cuda import LANES, LEAST_SHARED_BYTES, print_cuda, strategies, warps
from moa.backends.cuda_build import Usage, capability, nvcc, parsed, usages
from moa.kernel import _intermediates
from moa.loops import Element
from moa.pipeline import Placed, place
from moa.text import MoaError

ROOT = Path(__file__).resolve().parent.parent
REGISTERS = 65536  # of a multiprocessor, in 8.0 and 9.0
SHARED_BYTES = {"80": 163 << 10, "90a": 227 << 10}
SPILL_BYTES = 32


def has_nvcc() -> bool:
    try:
        return bool(nvcc())
    except MoaError:
        return False


needs_nvcc = pytest.mark.skipif(not has_nvcc(), reason="no nvcc: install the CUDA toolkit")


def placed(name: str, dtype: Element, width: int) -> Placed:
    """An example with head sizes of `width`."""
    d = moa.compile(ROOT / "examples" / f"{name}.moa").derivation
    fixed = {s: width for s in d.program.sizes() if s in ("d", "dk", "dv")}
    own = {p.name for p in d.program.inputs} | set(d.streamed.outputs) | _intermediates(d)
    return place(d, strategies(dtype)[0], dtype, fixed, frozenset(own))


@needs_nvcc
@pytest.mark.parametrize("architecture", ["80", "90a"])
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_registers_spills_and_shared_memory(dtype: Element, architecture: str) -> None:
    """Two blocks at least fit a multiprocessor, and nothing is spilled that matters."""
    programs = {n: placed(n, dtype, 64) for n in ("attention", "causal", "with_lse")}
    found = usages(print_cuda({n: p.lowered for n, p in programs.items()}), architecture)
    assert {u.kernel.partition("_")[0] for u in found} <= {"attention", "causal", "with"}
    for name, p in programs.items():
        threads = LANES * warps(p.lowered.loops)
        scratch = p.lowered.scratch_bytes.as_int()
        assert scratch is not None and 2 * (scratch + 1024) <= SHARED_BYTES[architecture], scratch
        assert scratch <= LEAST_SHARED_BYTES
        mine = [u for u in found if u.kernel == f"{name}_s0"]
        assert len(mine) == 1, found
        for u in mine:
            assert u.spill_bytes <= SPILL_BYTES and u.shared_bytes == 0, u
            assert 2 * threads * u.registers <= REGISTERS, u


REPORT = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'first' for 'sm_90a'
ptxas info    : Function properties for first
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 384 bytes smem, 400 bytes cmem[0]
ptxas info    : Compiling entry function 'second' for 'sm_90a'
ptxas info    : Function properties for second
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 255 registers
"""


def test_reports_are_read() -> None:
    assert parsed(REPORT) == (Usage("first", 40, 8, 16, 384), Usage("second", 255, 0, 0, 0))
    assert parsed("") == ()


@needs_nvcc
def test_a_warning_is_an_error() -> None:
    with pytest.raises(MoaError, match="never referenced"):
        usages("__global__ void k(int *x)\n{\n    int unused = 3;\n    *x = 1;\n}\n", "80")


def test_without_nvcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.delenv("NVCC", raising=False)
    nvcc.cache_clear()
    with pytest.raises(MoaError, match="needs nvcc"):
        nvcc()
    monkeypatch.setenv("NVCC", "no-such-compiler")
    with pytest.raises(MoaError, match="is no program"):
        nvcc()
    monkeypatch.undo()
    nvcc.cache_clear()


def test_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_build, "DRIVERS", ("libno-such-driver.so",))
    capability.cache_clear()
    with pytest.raises(MoaError, match="no NVIDIA driver"):
        capability(0)
    capability.cache_clear()
