"""Kernels called with arrays on a GPU, the GPU being this processor: what is passed, made, checked and refused."""

from __future__ import annotations

import ctypes
import sys
import types
from collections.abc import Iterator
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu import COMPILER, FLAGS, SHIM, WITHOUT

import moa
from moa import cache, device
from moa.backends import cuda_build
from moa.backends.cuda_build import Builder, capability
from moa.device import DeviceKernel
from moa.device_arrays import contiguous, device_array, stream_handle
from moa.dlpack import Tensor
from moa.text import MoaError

COMMAND = (COMPILER, *FLAGS, "-x", "c++", "-I", str(SHIM))
needs_compiler = pytest.mark.skipif(not COMPILER, reason=WITHOUT)
Array = np.ndarray[Any, Any]


class Faced:
    """A NumPy array that says it is on a GPU."""

    def __init__(self, array: Array, stream: int | None = None) -> None:
        self.array = array
        self.__cuda_array_interface__ = {**array.__array_interface__, "version": 3, "stream": stream}


@pytest.fixture(autouse=True)
def this_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "builder_for", lambda number: Builder(COMMAND))


def library(kernel: DeviceKernel) -> Any:
    """The library of the instance that was built last."""
    found = [variant.built for variant in kernel._variants.values()][-1].library
    found.moa_shim_last_stream.restype = ctypes.c_void_p
    return found


def on_device(kernel: DeviceKernel, *arrays: Array, **named: Any) -> list[Faced]:
    """The arrays as memory of the device that the kernel for such arrays sees."""
    faces = [Faced(a) for a in arrays]
    kernel.workspace_bytes(*faces, **named)
    adopt(kernel, *arrays)
    return faces


ADOPTED: list[Any] = []  # what was on the device once stays: its address must not become that of an array that is not


def adopt(kernel: DeviceKernel, *arrays: Array) -> None:
    for a in arrays:
        base = a if a.base is None else a.base
        ADOPTED.append(base)
        library(kernel).moa_shim_adopt(ctypes.c_void_p(base.ctypes.data), ctypes.c_size_t(base.nbytes))  # type: ignore[union-attr]


ATTENTION = "softmax(Q @ K.T / sqrt(dk)) @ V"


@pytest.fixture(scope="module")
def attention() -> Iterator[DeviceKernel]:
    kernel = moa.compile(ATTENTION, Q="... n dk", K="... m dk", V="... m dv", dtype="float32", backend="cuda")
    assert isinstance(kernel, DeviceKernel)
    yield kernel


def data(n: int = 40, m: int = 37, dk: int = 8, dv: int = 5) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(0)
    shapes = ((2, n, dk), (2, m, dk), (2, m, dv))
    return tuple(rng.standard_normal(s).astype(np.float32) for s in shapes)  # type: ignore[return-value]


def meant(Q: Array, K: Array, V: Array) -> Array:
    S = Q.astype(float) @ K.swapaxes(-1, -2) / np.sqrt(Q.shape[-1])
    P = np.exp(S - S.max(-1, keepdims=True))
    return P / P.sum(-1, keepdims=True) @ V  # type: ignore[no-any-return]


@needs_compiler
def test_a_call(attention: DeviceKernel) -> None:
    arrays = data()
    Q, K, V = on_device(attention, *arrays)
    out = np.full((2, 40, 5), np.nan, np.float32)
    face = Faced(out)
    adopt(attention, out)
    assert attention(Q, K, V=V, out=face, stream=64) is face
    np.testing.assert_allclose(out, meant(*arrays), atol=1e-6)
    assert library(attention).moa_shim_last_stream() == 64
    assert attention.workspace_bytes(Q, K, V) == 0


@needs_compiler
@pytest.mark.parametrize(("n", "m"), [(1, 70), (2, 1), (3, 0), (0, 4)])
def test_few_rows_and_none(attention: DeviceKernel, n: int, m: int) -> None:
    """One row takes another axis for its lanes; no keys give 0."""
    arrays = data(n, m)
    faces = on_device(attention, *arrays)
    out = np.full((2, n, 5), np.nan, np.float32)
    adopt(attention, out)
    attention(*faces, out=Faced(out))
    np.testing.assert_allclose(out, meant(*arrays) if m else np.zeros((2, n, 5)), atol=1e-6)


@needs_compiler
def test_strides_are_passed(attention: DeviceKernel) -> None:
    """A transposed and a reversed array are read where they lie."""
    Q, K, V = data()
    turned = np.ascontiguousarray(Q.swapaxes(-1, -2)).swapaxes(-1, -2)
    back = np.ascontiguousarray(K[:, ::-1])[:, ::-1]
    faces = on_device(attention, turned, back, V)
    out = np.zeros((2, 40, 5), np.float32)
    adopt(attention, out)
    attention(*faces, out=Faced(out))
    np.testing.assert_allclose(out, meant(Q, K, V), atol=1e-6)


@needs_compiler
def test_phases_and_workspace() -> None:
    """A program of several phases, with scalars, integers and bits."""
    text = (
        "def f(X[n, d], keep: bool[n], idx: int[r], c: float):\n"
        "    Y = where(keep[:, None], X * c, 0)\n    return sum(Y @ Y.T)[idx], argmax(X, axis=-1)\n"
    )
    kernel = moa.compile(text, dtype="float64", backend="cuda")
    assert isinstance(kernel, DeviceKernel)
    rng = np.random.default_rng(1)
    X, keep, idx = rng.standard_normal((19, 7)), rng.random(19) < 0.5, rng.integers(0, 19, 4)
    faces = on_device(kernel, X, keep, idx, c=0.5)
    need = kernel.workspace_bytes(*faces, c=0.5)
    first, second, room = np.zeros(4), np.zeros(19, np.int64), np.zeros(need + 8, np.uint8)
    adopt(kernel, first, second, room)
    kernel(*faces, c=0.5, out=(Faced(first), Faced(second)), workspace=Faced(room))
    Y = np.where(keep[:, None], X * 0.5, 0)
    np.testing.assert_allclose(first, (Y @ Y.T).sum(-1)[idx], atol=1e-12)
    assert np.array_equal(second, X.argmax(-1))
    assert need > 0
    with pytest.raises(MoaError, match="only torch and CuPy can make"):
        kernel(*faces, c=0.5, out=(Faced(first), Faced(second)))
    with pytest.raises(MoaError, match="bytes, the kernel needs"):
        kernel(*faces, c=0.5, out=(Faced(first), Faced(second)), workspace=Faced(room[: need - 1]))


@needs_compiler
def test_scratch_that_fits_no_shared_memory(attention: DeviceKernel) -> None:
    arrays = data(n=5, m=3, dk=2000)
    faces = on_device(attention, *arrays)
    need = attention.workspace_bytes(*faces)
    out, room = np.zeros((2, 5, 5), np.float32), np.full(need, 0xFF, np.uint8)
    adopt(attention, out, room)
    attention(*faces, out=Faced(out), workspace=Faced(room))
    np.testing.assert_allclose(out, meant(*arrays), atol=1e-5)
    assert need > 2 * 32 * 2000 * 4


@needs_compiler
def test_half_precision_in_memory() -> None:
    kernel = moa.compile("X @ Y", X="n k", Y="k m", dtype="float16", backend="cuda")
    assert isinstance(kernel, DeviceKernel)
    rng = np.random.default_rng(2)
    X, Y = (rng.standard_normal(s).astype(np.float16) for s in ((33, 20), (20, 35)))
    faces = on_device(kernel, X, Y)
    out = np.zeros((33, 35), np.float16)
    adopt(kernel, out)
    kernel(*faces, out=Faced(out))
    wanted = (X.astype(np.float32) @ Y.astype(np.float32)).astype(np.float16)
    np.testing.assert_allclose(out.astype(float), wanted.astype(float), rtol=1e-3, atol=1e-3)
    with pytest.raises(MoaError, match="the kernel takes float16 there"):
        kernel(Faced(X.astype(np.float32)), faces[1], out=Faced(out))


@needs_compiler
def test_libraries_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another kernel of the same text neither places nor compiles anything."""
    monkeypatch.delenv("MOA_CACHE", raising=False)
    monkeypatch.setenv("MOA_CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setattr(cache, "STARTED_S", inf)  # sources that change while the tests run do not matter
    cache.made_by.cache_clear()
    x = data()[0]
    counts = []
    for again in (False, True):
        if again:
            monkeypatch.setattr(cuda_build, "compile_cuda", lambda *_: pytest.fail("it was not kept"))
            monkeypatch.setattr(device, "place", lambda *_: pytest.fail("it was not kept"))
        kernel = moa.compile("def f(X[..., n, d]):\n    return sum(X * X, axis=-1)\n", dtype="float32", backend="cuda")
        assert isinstance(kernel, DeviceKernel)
        out = np.zeros((2, 40), np.float32)
        faces = on_device(kernel, x)
        adopt(kernel, out)
        kernel(*faces, out=Faced(out))
        np.testing.assert_allclose(out, (x * x).sum(-1), rtol=1e-5)
        counts.append(len(kernel._variants))
    assert counts == [1, 1]


@needs_compiler
def test_what_is_refused(attention: DeviceKernel) -> None:
    arrays = data()
    Q, K, V = on_device(attention, *arrays)
    out = np.zeros((2, 40, 5), np.float32)
    adopt(attention, out)
    wide, shifted = np.zeros((2, 40, 8)), np.zeros(2 * 40 * 8 * 4 + 2, np.uint8)[2:].view(np.float32).reshape(2, 40, 8)
    inside = arrays[0].reshape(-1)[: 2 * 40 * 5].reshape(2, 40, 5)
    cases: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        ("argument Q is on the CPU", (arrays[0], K, V), {"out": Faced(out)}),
        ("argument Q of type str is not an array on a GPU", ("Q", K, V), {}),
        ("argument Q is float64, the kernel takes float32", (Faced(wide), K, V), {}),
        ("not aligned to its elements of 4 bytes", (Faced(shifted), K, V), {}),
        ("only torch and CuPy can make the result", (Q, K, V), {}),
        ("has shape", (Q, K, V), {"out": Faced(out[:1])}),
        ("has dtype", (Q, K, V), {"out": Faced(np.zeros((2, 40, 5)))}),
        ("is not contiguous", (Q, K, V), {"out": Faced(np.zeros((2, 5, 40), np.float32).swapaxes(1, 2))}),
        ("out names 2 arrays", (Q, K, V), {"out": (Faced(out), Faced(out))}),
        ("not in the memory of a GPU", (Q, K, V), {"out": Faced(np.zeros((2, 40, 5), np.float32))}),
        ("result 0 shares memory with argument Q", (Q, K, V), {"out": Faced(inside)}),
        ("a str is not a stream", (Q, K, V), {"out": Faced(out), "stream": "default"}),
        ("written on stream 0x7", (Faced(arrays[0], 7), K, V), {"out": Faced(out)}),
        ("argument V is missing", (Q, K), {"out": Faced(out)}),
    ]
    for message, given, named in cases:
        with pytest.raises(MoaError, match=message):
            attention(*given, **named)
    library(attention).moa_shim_device(1)
    with pytest.raises(MoaError, match="argument Q is on device 0, the kernel would run on device 1"):
        attention(Q, K, V, out=Faced(out))
    library(attention).moa_shim_device(0)
    attention(Faced(arrays[0], 7), K, V, out=Faced(out), stream=7)


@needs_compiler
def test_a_launch_that_fails(attention: DeviceKernel) -> None:
    """Shared memory of no device: there is a kernel for what fits all of them, and no other."""
    Q, K, V = on_device(attention, *data())
    out = np.zeros((2, 40, 5), np.float32)
    adopt(attention, out)
    library(attention).moa_shim_shared_limit(ctypes.c_int64(1024))
    try:
        with pytest.raises(MoaError, match=r"not started: invalid argument \(CUDA error 1\)"):
            attention(Q, K, V, out=Faced(out), workspace=Faced(np.zeros(1 << 22, np.uint8)))
    finally:  # all libraries of this process share what the header holds
        library(attention).moa_shim_shared_limit(ctypes.c_int64(232448))


# Libraries of arrays -------------------------------------------------------------------------------------------------


class Tensor32:
    """What is asked of a tensor of torch."""

    dtype = "torch.float32"
    is_cuda = True

    def __init__(self, array: Array, recorded: list[int]) -> None:
        self.array, self.shape, self.recorded = array, array.shape, recorded
        self.device = types.SimpleNamespace(index=0)

    def data_ptr(self) -> int:
        return self.array.ctypes.data

    def stride(self) -> tuple[int, ...]:
        return tuple(s // 4 for s in self.array.strides)

    def record_stream(self, stream: Any) -> None:
        self.recorded.append(stream)


@needs_compiler
def test_torch_makes_results_on_its_present_stream(attention: DeviceKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[int] = []

    def made(shape: tuple[int, ...], dtype: Any, device: Any) -> Tensor32:
        array = np.full(shape, np.nan, dtype)
        adopt(attention, array)
        return Tensor32(array, recorded)

    cuda = types.SimpleNamespace(
        current_stream=lambda device: types.SimpleNamespace(cuda_stream=96),
        ExternalStream=lambda handle, device: handle,
    )
    torch = types.SimpleNamespace(Tensor=Tensor32, cuda=cuda, empty=made, float32=np.float32)
    monkeypatch.setitem(sys.modules, "torch", torch)  # type: ignore[arg-type]
    arrays = data()
    on_device(attention, *arrays)
    tensors = [Tensor32(a, recorded) for a in arrays]
    out = attention(*tensors)
    np.testing.assert_allclose(out.array, meant(*arrays), atol=1e-6)
    assert library(attention).moa_shim_last_stream() == 96 and not recorded
    attention(*tensors, stream=types.SimpleNamespace(cuda_stream=128))
    assert library(attention).moa_shim_last_stream() == 128 and recorded == [128]
    tensors[0].is_cuda = False
    with pytest.raises(MoaError, match="argument Q is on"):
        attention(*tensors)


class Producer:
    """An array that speaks DLPack, on a device of some kind."""

    def __init__(self, array: Array, kind: int = 2) -> None:
        self.array, self.kind, self.streams = array, kind, []  # type: ignore[var-annotated]
        self.shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        code = {"f": 2, "i": 0, "b": 6}[array.dtype.kind]
        self.tensor = Tensor(array.ctypes.data, kind, 0, array.ndim, code, array.itemsize * 8, 1, self.shape, None, 0)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0

    def __dlpack__(self, stream: int | None = None) -> Any:
        self.streams.append(stream)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(self.tensor), b"dltensor", None)


def test_dlpack_is_taken_without_waiting() -> None:
    x = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    producer = Producer(x)
    found = device_array(producer, "x")
    assert (found.address, found.shape, found.strides) == (x.ctypes.data, (2, 3), (3, 1))
    assert (found.dtype, found.device) == ("float32", 0)
    assert producer.streams == [-1]
    with pytest.raises(MoaError, match="x is on ROCm"):
        device_array(Producer(x, 10), "x")
    broken = Producer(x)
    broken.__dict__["kind"] = "?"
    with pytest.raises(MoaError, match="x gives no memory away"):
        device_array(broken, "x")


@pytest.mark.parametrize(("given", "handle"), [(5, 5), (types.SimpleNamespace(ptr=6), 6), (None, 0)])
def test_streams(given: Any, handle: int) -> None:
    assert stream_handle(given, []) == handle


def test_the_stream_protocol() -> None:
    class Stream:
        def __cuda_stream__(self) -> tuple[int, int]:
            return 0, 77

    assert stream_handle(Stream(), []) == 77


def test_pages_are_about_blocks_of_threads() -> None:
    """What is explained, drawn and counted is what a GPU would run, and needs none."""
    kernel = moa.compile(ATTENTION, Q="n dk", K="m dk", V="m dv", dtype="float32", backend="cuda")
    page = " ".join(str(kernel.explain()).split())
    assert "an item is 64 of i" in page and "bytes a block of 8 warps, in shared memory where it fits" in page
    assert "ceil(m/64)" in page.partition("error")[2]  # a reference moves once for each tile of keys
    assert "on warps" in kernel.explain("loops") and "__global__" in kernel.explain("source")
    (outer, *_) = kernel.cost(n=256, m=256, dk=64, dv=64).boundaries
    keys = next(a for a in outer.arrays if a.array == "K")
    assert keys.read.value({"n": 256, "m": 256, "dk": 64, "dv": 64}) == 256 // 64 * 256 * 64
    drawn = str(moa.compile("examples/causal.moa", backend="cuda").picture(n=128))
    assert "32 of i an item" in drawn


def test_the_source_needs_no_device() -> None:
    kernel = moa.compile("X * 2.0", X="n d", dtype="float32", backend="cuda")
    assert "__global__" in kernel.source()


def test_spans() -> None:
    x = np.zeros((4, 6), np.float32)[::-1, ::2]
    low, high = device_array(Faced(x), "x").span(4)
    assert (low, high) == (x.base.ctypes.data, x.base.ctypes.data + 4 * 23)  # type: ignore[union-attr]
    assert contiguous((2, 0, 3)) == (3, 3, 1)


# Without ------------------------------------------------------------------------------------------------------------


def test_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "builder_for", cuda_build.builder_for)
    monkeypatch.setattr(cuda_build, "DRIVERS", ("libno-such-driver.so",))
    monkeypatch.setattr(cuda_build, "nvcc", lambda: "nvcc")
    capability.cache_clear()
    kernel = moa.compile("X * 2.0", X="n d", dtype="float32", backend="cuda")
    with pytest.raises(MoaError, match="there is no NVIDIA driver here"):
        kernel(Faced(np.zeros((2, 3), np.float32)))
    capability.cache_clear()
