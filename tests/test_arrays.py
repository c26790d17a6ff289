"""Arrays in and out: 16-bit storage, layouts and foreign memory, `out=`, and that calls leave nothing behind."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from loops_by_hand import Hand, array, entry, packed
from programs import numbered
from test_c import MACHINES
from typer.testing import CliRunner

import moa
from moa.backends import c_build, llvm_build
from moa.backends.llvm import host
from moa.cli import app
from moa.dlpack import array_of
from moa.kernel import Kernel
from moa.loops import Arg, Loops, Name
from moa.normal import loads
from moa.oracle import oracle
from moa.storage import STORAGE, numpy_dtype, rounding
from moa.text import MoaError
from moa.tiles import Loop, Map, Nest, Reduce, TileStmt, When
from moa.verify import verify
from moa.verify.expected import compared, expected

Array = np.ndarray[Any, Any]
ROOT = Path(__file__).resolve().parent.parent
RNG = np.random.default_rng(5)
ATTENTION = "softmax(Q @ K.T / sqrt(d)) @ V"
SHAPES = {"Q": "... n d", "K": "... m d", "V": "... m c"}
SHORT = {"bfloat16": "bf16", "float16": "f16"}
HAS_CC = any(shutil.which(c) for c in ("cc", "gcc", "clang"))
BACKENDS = ["llvm", pytest.param("c", marks=pytest.mark.skipif(not HAS_CC, reason="no C compiler"))]


@pytest.fixture(scope="module")
def single() -> Kernel:
    return moa.compile(ATTENTION, dtype="float32", **SHAPES)


def arrays(dtype: str = "float32", n: int = 9, m: int = 11, d: int = 4, c: int = 3, lead: Any = ()) -> list[Array]:
    return [RNG.standard_normal((*lead, *s)).astype(numpy_dtype(dtype)) for s in ((n, d), (m, d), (m, c))]


def fails(message: str, f: Callable[[], Any]) -> MoaError:
    """The MoaError that f raises, whose message matches."""
    with pytest.raises(MoaError) as caught:
        f()
    assert caught.value.kind == "argument"
    assert re.search(message, caught.value.message), caught.value.message
    return caught.value


# Conversions of 16-bit floats ---------------------------------------------------------------------------------------

ALL = np.arange(1 << 16, dtype=np.uint16)
X86 = os.uname().machine == "x86_64"
BASELINE = replace(host(), cpu="x86-64", features="", avx512=False, vector_bytes=16) if X86 else host()
NO_HALVES = replace(host(), features=host().features.replace("+f16c", "-f16c"))
BUILDS: dict[str, tuple[Any, int]] = {
    "llvm": (lambda x: llvm_build.build(x), host().width("f32")),
    "llvm without f16c": (lambda x: llvm_build.build(x, NO_HALVES), host().width("f32")),
    "llvm baseline": (lambda x: llvm_build.build(x, BASELINE), 4),
}
if HAS_CC:
    BUILDS |= {
        f"c {name}": (lambda x, flags=flags: c_build.build(x, flags), {"host": host().width("f32")}.get(name, 8))
        for name, flags in MACHINES.items()
        if name != "baseline"
    }
    BUILDS |= {"c baseline": (lambda x: c_build.build(x, MACHINES["baseline"]), 4)} if X86 else {}


def copying(width: int, source: str, target: str, kind: str) -> Loops:
    """target[i] = source[i], an item being as many elements as a value of this kind holds."""
    h = Hand("f32", width)
    x, y = h.arg("p", 0), h.arg("p", 1)

    def body(item: Name) -> tuple[Arg, ...]:
        i = h.op("i", "imul", item, width if kind == "v" else 1)
        value = h.op(kind, "load", x, i, attrs=(source, False))
        h.do("store", y, i, value, attrs=(target, False))
        return ()

    h.loop(h.params[1], h.params[2], (), body)
    return h.loops()


def copied(machine: str, source: str, target: str, kind: str, x: Array, dtype: Any) -> Array:
    build, width = BUILDS[machine]
    built = build(copying(width, source, target, kind))
    assert len(x) % width == 0
    data = {"x": array(x, x.dtype), "y": array(np.zeros(len(x), dtype), dtype)}
    address = packed(["x", "y"], data).ctypes.data
    entry(built.phases[0])(address, 0, len(x) // (width if kind == "v" else 1), 0)
    return data["y"]


@pytest.mark.parametrize("kind", ["f", "v"])
@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("machine", BUILDS)
def test_every_16_bit_float_is_loaded(machine: str, dtype: str, kind: str) -> None:
    want = ALL.view(numpy_dtype(dtype)).astype(np.float32)
    got = copied(machine, SHORT[dtype], "f32", kind, ALL, np.float32)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    finite = ~np.isnan(want)
    np.testing.assert_array_equal(got[finite].view(np.uint32), want[finite].view(np.uint32))


def between(dtype: str) -> Array:
    """float32 numbers: all of a 16-bit type, the middles of neighbours, and those just beside the middles."""
    with np.errstate(all="ignore"):
        every = np.sort(ALL.view(numpy_dtype(dtype)).astype(np.float32))
        every = every[np.isfinite(every)]
        middle = (every[1:].astype(np.float64) / 2 + every[:-1].astype(np.float64) / 2).astype(np.float32)
        top = np.float32(np.finfo(np.float32).max)
        beside = [np.nextafter(middle, np.float32(s) * top) for s in (-1, 1)]
        largest = every[-1].astype(np.float64)
        edge = np.array([largest * (1 + 2.0**-k) for k in (8, 9, 10, 11, 12, 13)] + [1e-45, 1e38], np.float64)
        odd = np.array([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, top, -top], np.float32)
        whole = np.concatenate([every, middle, *beside, edge.astype(np.float32), -edge.astype(np.float32), odd])
    return np.resize(whole, -(-len(whole) // 64) * 64)


@pytest.mark.parametrize("kind", ["f", "v"])
@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("machine", BUILDS)
def test_stores_round_to_nearest_even(machine: str, dtype: str, kind: str) -> None:
    x = between(dtype)
    with np.errstate(all="ignore"):
        want = x.astype(numpy_dtype(dtype))
    got = copied(machine, "f32", SHORT[dtype], kind, x, np.uint16)
    found = got.view(want.dtype)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(want))
    finite = ~np.isnan(want)
    np.testing.assert_array_equal(got[finite], want.view(np.uint16)[finite])


# Kernels on 16-bit arrays -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", SHORT)
def test_elementwise_on_all_values(dtype: str, backend: str) -> None:
    x = ALL.view(numpy_dtype(dtype))
    with np.errstate(all="ignore"):
        want = (x.astype(np.float32) * np.float32(0.75)).astype(x.dtype)
    got = moa.compile("X * 0.75", X="n", dtype=dtype, backend=backend)(x)
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    finite = ~np.isnan(want)
    np.testing.assert_array_equal(got.view(np.uint16)[finite], want.view(np.uint16)[finite])


def near(kernel: Kernel, given: list[Array], got: Any) -> None:
    """Results are the oracle's, rounded once, or a neighbour where float32 was off by a little."""
    program = kernel._derive(given[0].ndim - 2).program
    want = oracle(program, {p.name: x for p, x in zip(program.inputs, given, strict=True)})
    for g, w in zip(got if isinstance(got, tuple) else (got,), want, strict=True):
        assert g.dtype == numpy_dtype(kernel.dtype) and g.shape == w.shape
        bound = (rounding(kernel.dtype) + 1e-5) * np.abs(w) + 1e-5 * np.abs(w).max(initial=0) + 2.0**-25
        assert (np.abs(g.astype(np.float64) - w) <= bound).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", SHORT)
def test_arrays_are_short_and_computing_is_not(dtype: str, backend: str) -> None:
    kernel = moa.compile(ATTENTION, dtype=dtype, backend=backend, products="float32", **SHAPES)
    cases = [{"n": 70, "m": 201, "d": 16, "c": 33}, {"n": 1, "m": 300}, {}, {"m": 1}, {"lead": (2, 3)}]
    for sizes in cases if backend == "llvm" else cases[:2]:
        given = arrays(dtype, **sizes)  # type: ignore[arg-type]
        near(kernel, given, kernel(*given))
        near(kernel, given, kernel(*(np.asfortranarray(x) for x in given)))
    for sizes in ({"n": 0}, {"c": 0}, {"lead": (0,)}) if backend == "llvm" else ():
        given = arrays(dtype, **sizes)  # type: ignore[arg-type]
        assert kernel(*given).size == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", SHORT)
def test_what_is_read_again_keeps_its_precision(dtype: str, backend: str) -> None:
    """Differences and sums of rounded values would be off by much more than one rounding."""
    text = "def f(X[n, d], Y[m, d]):\n    S = X @ Y.T\n    return S, S - max(S, axis=0), cumsum(S, axis=0)\n"
    kernel = moa.compile(text, dtype=dtype, backend=backend)
    x, y = (RNG.standard_normal(s).astype(numpy_dtype(dtype)) for s in ((40, 8), (30, 8)))
    s = x.astype(np.float64) @ y.astype(np.float64).T
    for g, w in zip(kernel(x, y), (s, s - s.max(0), s.cumsum(0)), strict=True):
        assert g.dtype == x.dtype
        assert (np.abs(g.astype(np.float64) - w) <= 1.01 * rounding(dtype) * np.abs(w) + 1e-4).all()


def test_a_result_above_the_largest_float16_is_infinite_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    kernel = moa.compile("def f(X[n]):\n    Y = X * 4\n    return Y, sum(Y)\n", dtype="float16")
    y, total = kernel(np.array([30000, 1], np.float16))
    assert y.tolist() == [np.inf, 4] and total == np.inf and total.dtype == np.float16
    assert not recwarn.list


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("name", ["causal", "linear", "neighbours_min"])
def test_verify_holds_for_short_arrays(name: str, dtype: str) -> None:
    found = verify(moa.compile(ROOT / "examples" / f"{name}.moa", dtype=dtype))
    assert found.ok, str(found)


@pytest.mark.parametrize("dtype", SHORT)
def test_the_tolerance_of_short_results_is_about_one_rounding(dtype: str) -> None:
    kernel = moa.compile("X * 1.02", X="n", dtype=dtype)
    x = np.linspace(1, 2, 50).astype(numpy_dtype(dtype))
    want = expected(kernel.derivation.program, {"X": x}, dtype)
    got = kernel(x)
    assert not compared((got,), want)
    for steps in (1, -1, 4):
        off = (got.view(np.uint16) + np.uint16(steps % (1 << 16))).view(got.dtype)
        assert bool(compared((off,), want)) == (steps > 1), steps
    large = expected(kernel.derivation.program, {"X": np.array([6.5e4, np.inf, 1e-7], x.dtype)}, dtype)
    assert not compared((kernel(np.array([6.5e4, np.inf, 1e-7], x.dtype)),), large)


@pytest.mark.parametrize("backend", ["c", "llvm"])
@pytest.mark.parametrize("dtype", SHORT)
def test_emitted_libraries_pass_their_own_test(tmp_path: Path, dtype: str, backend: str) -> None:
    if not HAS_CC or not X86:
        pytest.skip("needs a C compiler, and x86-64 for the assembly")
    kernel = moa.compile((ROOT / "examples" / "causal.moa").read_text(encoding="utf-8"), dtype=dtype)
    files = kernel.emit(tmp_path / "causal", backend=backend)
    text = (tmp_path / "causal" / "causal.h").read_text(encoding="ascii")
    assert "const uint16_t *Q" in text and "Floats in arrays are" in text
    sources = [str(f) for f in files if f.suffix in (".c", ".s")]
    strict = ("-std=c11", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-ffp-contract=off")
    machine = () if (backend, dtype) == ("c", "bfloat16") else ("-march=native",)
    out = tmp_path / "selftest"
    subprocess.run([*c_build.compiler(), *strict, *machine, *sources, "-lm", "-o", str(out)], check=True)
    done = subprocess.run([out], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(": ok") == 3


def test_a_self_test_of_short_arrays_can_fail(tmp_path: Path) -> None:
    if not HAS_CC:
        pytest.skip("needs a C compiler")
    kernel = moa.compile((ROOT / "examples" / "causal.moa").read_text(encoding="utf-8"), dtype="bfloat16")
    kernel.emit(tmp_path / "causal")
    code = tmp_path / "causal" / "causal.c"
    text = code.read_text(encoding="ascii")
    assert text.count("return moa_single((uint32_t)n << 16);") == 1
    code.write_text(text.replace("n << 16);", "(n | 32u) << 16);"), encoding="ascii")
    sources = [str(code), str(code).replace("causal.c", "causal_selftest.c")]
    subprocess.run(
        [*c_build.compiler(), *sources, "-ffp-contract=off", "-w", "-lm", "-o", str(tmp_path / "t")], check=True
    )
    assert subprocess.run([tmp_path / "t"], capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize("seed", range(12))
def test_what_is_read_again_is_never_a_result(seed: int) -> None:
    """Results may be stored in 16 bits since the program itself never reads them: they are copies."""
    tiles = moa.compile(numbered(seed).text, dtype="float32").for_many_rows().tiles
    results = {a.name for a in tiles.arrays if a.role == "output"}
    for s in (x for p in tiles.phases for x in statements(p.body)):
        assert not {array for array, _ in loads(s.value)} & results
        assert s.target.args[0] not in results or isinstance(s, Map) or s.fresh


def statements(body: tuple[TileStmt, ...]) -> Iterator[Map | Reduce]:
    for s in body:
        match s:
            case Loop():
                yield from statements(s.body)
            case When():
                yield from statements(s.body + s.other)
            case Nest():
                yield from s.statements


def test_the_command_line_takes_short_types(tmp_path: Path) -> None:
    source = tmp_path / "f.moa"
    source.write_text("def f(X[n]):\n    return X / 3\n", encoding="utf-8")
    for dtype, kept in (("bfloat16", "float32"), ("float16", "float16")):
        out = tmp_path / f"{dtype}.npz"
        given = ["run", str(source), "--size", "n=70", "--dtype", dtype, "--out", str(out)]
        done = CliRunner().invoke(app, given)
        assert done.exit_code == 0, done.output
        with np.load(out) as found:
            assert found["out"].dtype == kept and found["out"].shape == (70,)
        page = CliRunner().invoke(app, ["explain", str(source), "--dtype", dtype]).output
        assert f"float32, floats in arrays being {dtype}" in page and f"rounded to {dtype}" in page


def test_bfloat16_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    found = fails("ml_dtypes", lambda: moa.compile("X", X="n", dtype="bfloat16"))
    assert "pip install ml_dtypes" in found.hint
    assert moa.compile("X * 2", X="n", dtype="float16")(np.ones(3, np.float16)).tolist() == [2, 2, 2]


def test_ml_dtypes_is_imported_for_bfloat16_alone() -> None:
    code = "import moa, sys; moa.compile('X', X='n', dtype='float16'); print('ml_dtypes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


@pytest.mark.parametrize("dtype", ["float8", "bf16", "half", "int32", ""])
def test_unknown_types_are_refused(dtype: str) -> None:
    assert "bfloat16" in fails("dtype", lambda: moa.compile("X", X="n", dtype=dtype)).hint


def test_a_wrong_type_says_what_to_do(single: Kernel) -> None:
    q, k, v = arrays()
    found = fails("argument K is bfloat16, .* float32", lambda: single(q, k.astype(ml_dtypes.bfloat16), v))
    assert "dtype='bfloat16'" in found.hint
    found = fails("argument K is int32", lambda: single(q, k.astype(np.int32), v))
    assert found.hint == "convert it to float32"
    hostile = np.zeros(k.shape, np.dtype([("\x1b[31m", np.float32)]))
    assert "\x1b" not in str(fails("argument K", lambda: single(q, hostile, v)))


# Arguments ----------------------------------------------------------------------------------------------------------


def unaligned(x: Array) -> Array:
    out = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    out[...] = x
    return out


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "backwards": lambda x: np.ascontiguousarray(x[..., ::-1, ::-1])[..., ::-1, ::-1],
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
    "spread": lambda x: np.repeat(x, 3, -1)[..., ::3],
    "one row for all": lambda x: np.broadcast_to(x[..., :1, :], x.shape),
    "one number for all": lambda x: np.broadcast_to(x.reshape(-1)[0], x.shape),
    "unaligned": unaligned,
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
}


@pytest.mark.parametrize("dtype", STORAGE)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_every_type(layout: str, dtype: str) -> None:
    if layout == "big-endian" and dtype == "bfloat16":
        pytest.skip("NumPy has no big-endian bfloat16")
    kernel = moa.compile(ATTENTION, dtype=dtype, **SHAPES)
    for sizes in ({}, {"n": 1}, {"m": 1, "c": 1}, {"n": 37, "m": 41, "lead": (2,)}):
        plain = [np.ascontiguousarray(LAYOUTS[layout](x)).astype(x.dtype) for x in arrays(dtype, **sizes)]  # type: ignore[arg-type]
        given = [LAYOUTS[layout](x) for x in plain]
        for x in given:
            x.flags.writeable = False
        want, got = kernel(*plain), kernel(*given)
        limit = {"float64": 1e-12, "float32": 1e-5}.get(dtype, 2.1 * rounding(dtype))
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=limit, atol=limit)


def test_unaligned_arguments_are_copied(single: Kernel) -> None:
    given = [unaligned(x) for x in arrays()]
    assert all(x.flags.c_contiguous and not x.flags.aligned for x in given)
    assert all(single._parameters[0].read(x).flags.aligned for x in given)


@pytest.mark.parametrize("kind", [">i4", ">i8", "<i2", "u1"])
def test_integers_of_any_size_and_order(kind: str) -> None:
    kernel = moa.compile("X[idx]", X="n", idx="int r")
    found = kernel(np.arange(5.0), unaligned(np.array([3, 1, 4]).astype(kind)))
    assert found.tolist() == [3, 1, 4]


def test_masked_arrays_are_refused(single: Kernel) -> None:
    q, k, v = arrays()
    fails("argument V is a masked array", lambda: single(q, k, np.ma.masked_array(v, v > 0)))


def test_arrays_without_axes() -> None:
    kernel = moa.compile("X * 2", X="...")
    assert kernel(np.array(3.0)).shape == () and kernel(np.array(3.0)) == 6
    assert kernel(np.float64(4)) == 8 and kernel(5.0) == 10
    out = np.zeros(())
    assert kernel(np.array(7.0), out=out) is out and out == 14


def test_scalars_are_told_apart() -> None:
    kernel = moa.compile("X / c", X="n", c="float")
    x = np.ones(2)
    changing = np.array(2.0)
    assert kernel(x, changing).tolist() == [0.5, 0.5]
    changing[...] = 4
    assert kernel(x, changing).tolist() == [0.25, 0.25]
    assert kernel(x, 0.0).tolist() == [np.inf] * 2 and kernel(x, -0.0).tolist() == [-np.inf] * 2
    assert np.isnan(kernel(x, float("nan"))).all()
    fails("argument c", lambda: kernel(x, True))


# Foreign memory -----------------------------------------------------------------------------------------------------


class Managed(ctypes.Structure):
    """DLManagedTensor, from its description."""

    _fields_ = (
        ("data", ctypes.c_void_p), ("device", ctypes.c_int32), ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p),
    )  # fmt: skip


new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)
CODES = {"float64": (2, 64), "float32": (2, 32), "float16": (2, 16), "bfloat16": (4, 16), "int64": (0, 64)}


class Producer:
    """An array of another library, which speaks DLPack as it was before version 1."""

    def __init__(self, x: Array, device: int = 1, dense: bool = False, **changes: Any) -> None:
        shape, strides = (
            (ctypes.c_int64 * x.ndim)(*x.shape),
            (ctypes.c_int64 * x.ndim)(*(s // x.itemsize for s in x.strides)),
        )
        code, bits = CODES[x.dtype.name]
        given = {"code": code, "bits": bits, "lanes": 1, "offset": 0} | changes
        self.device, self.kept = device, (x, shape, strides)
        self.tensor = Managed(
            x.ctypes.data - given["offset"], device, 0, x.ndim, given["code"], given["bits"], given["lanes"], shape,
            None if dense else strides, given["offset"], None, None,
        )  # fmt: skip

    def __dlpack__(self, **_: Any) -> Any:
        return new_capsule(ctypes.addressof(self.tensor), b"dltensor", None)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0


@pytest.mark.parametrize("dtype", STORAGE)
def test_dlpack(dtype: str) -> None:
    kernel = moa.compile(ATTENTION, dtype=dtype, **SHAPES)
    q, k, v = arrays(dtype)
    want = kernel(q, k, v)
    given = [Producer(q, dense=True), Producer(k, offset=16), Producer(np.ascontiguousarray(v[::-1]))]
    got = kernel(*given)
    assert type(got) is np.ndarray
    np.testing.assert_array_equal(got.view(np.uint8), kernel(q, k, v[::-1]).view(np.uint8))
    turned = kernel(Producer(np.asfortranarray(q)), Producer(k), Producer(v[::-1][::-1]))
    np.testing.assert_allclose(turned.astype(float), want.astype(float), atol=2 * rounding(dtype) + 1e-5)


def test_dlpack_into_out() -> None:
    for dtype in STORAGE:
        kernel = moa.compile(ATTENTION, dtype=dtype, **SHAPES)
        given = arrays(dtype)
        x = np.zeros((9, 3), numpy_dtype(dtype))
        target = Producer(x)
        assert kernel(*given, out=target) is target
        np.testing.assert_array_equal(x.view(np.uint8), kernel(*given).view(np.uint8))


def test_dlpack_scalars_and_empty_arrays(single: Kernel) -> None:
    kernel = moa.compile("X / c", X="n", c="float")
    assert kernel(np.ones(2), Producer(np.array(2.0))).tolist() == [0.5, 0.5]
    q, k, v = arrays(n=0)
    assert single(Producer(q), Producer(k), Producer(v)).shape == (0, 3)


def test_dlpack_memory_lives_as_long_as_its_array() -> None:
    freed: list[int] = []
    destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(freed.append)
    x = np.arange(4.0)
    producer = Producer(x)
    pointer = ctypes.cast(destructor, ctypes.c_void_p)
    taken = array_of(new_capsule(ctypes.addressof(producer.tensor), b"dltensor", pointer))
    part = taken[1:3]
    del taken
    gc.collect()
    assert part.flags.writeable and part.tolist() == [1, 2] and np.shares_memory(part, x) and not freed
    del part
    gc.collect()
    assert len(freed) == 1


class Refusing:
    def __init__(self, error: Exception, device: int = 1) -> None:
        self.error, self.device = error, device

    def __dlpack__(self, **_: Any) -> Any:
        raise self.error

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0


def test_what_dlpack_cannot_give(single: Kernel) -> None:
    q, k, v = arrays()
    found = fails(r"argument K is on another device \(CUDA\)", lambda: single(q, Producer(k, device=2), v))
    assert "CPU" in found.hint
    fails("device type 99", lambda: single(q, Producer(k, device=99), v))
    fails("argument K .*: no memory today", lambda: single(q, Refusing(BufferError("no memory today\nat all")), v))
    assert "\x1b" not in str(fails("argument K", lambda: single(q, Refusing(RuntimeError("\x1b[31m")), v)))
    fails("argument K .*: ValueError", lambda: single(q, Refusing(ValueError()), v))
    fails("argument K is float64", lambda: single(q, Producer(k.astype(float)), v))
    for odd in ({"code": 5, "bits": 64}, {"lanes": 4}, {"bits": 4}, {"code": 2, "bits": 8}):
        fails("argument K", lambda odd=odd: single(q, Producer(k, **odd), v))  # type: ignore[misc]


@pytest.mark.parametrize("dtype", STORAGE)
def test_torch_tensors(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    kernel = moa.compile(ATTENTION, dtype=dtype, **SHAPES)
    q, k, v = (torch.randn(*s).to(getattr(torch, dtype)) for s in ((2, 9, 4), (2, 11, 4), (2, 11, 3)))
    plain = [x.to(torch.float64).numpy().astype(numpy_dtype(dtype)) for x in (q, k, v)]
    want = kernel(*plain)
    assert type(kernel(q, k, v)) is np.ndarray
    np.testing.assert_array_equal(kernel(q, k, v).view(np.uint8), want.view(np.uint8))
    turned = kernel(q.transpose(1, 2).contiguous().transpose(1, 2), k, v)
    np.testing.assert_allclose(turned.astype(float), want.astype(float), atol=2 * rounding(dtype) + 1e-5)
    out = torch.zeros(2, 9, 3, dtype=q.dtype)
    assert kernel(q, k, v, out=out) is out
    np.testing.assert_array_equal(out.to(torch.float64).numpy(), want.astype(np.float64))
    fails("argument K .*grad", lambda: kernel(q, k.clone().requires_grad_(), v))
    fails("argument K", lambda: kernel(q, torch.empty(2, 11, 4, device="meta", dtype=q.dtype), v))


def test_torch_is_not_imported() -> None:
    for path in [*ROOT.glob("moa/**/*.py"), *ROOT.glob("backends/*.py")]:
        assert not re.search(r"^\s*(import|from) torch", path.read_text(encoding="utf-8"), re.MULTILINE), path


# out= ---------------------------------------------------------------------------------------------------------------

TWO = "def f(X[n, d]):\n    return X * 2, sum(X)\n"


def test_out_is_filled_and_returned(single: Kernel) -> None:
    given = arrays(n=40)
    want = single(*given)
    for made in (
        np.empty((40, 3), np.float32),
        np.empty((40, 3), np.float32, order="F"),
        np.empty((40, 6), np.float32)[:, ::2],
        np.empty((40, 3), np.float32)[::-1],
        unaligned(np.empty((40, 3), np.float32)),
    ):
        made[...] = 7
        assert single(*given, out=made) is made
        np.testing.assert_array_equal(made, want)
        assert single(*given, out=(made,)) is not None


@pytest.mark.parametrize("dtype", STORAGE)
def test_out_of_several_results(dtype: str) -> None:
    kernel = moa.compile(TWO, dtype=dtype)
    x = RNG.standard_normal((5, 3)).astype(numpy_dtype(dtype))
    want = kernel(x)
    out = tuple(np.zeros(w.shape, w.dtype) for w in want)
    assert kernel(x, out=out) is out
    for a, b in zip(out, want, strict=True):
        np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))


def test_out_of_one_result_twice() -> None:
    kernel = moa.compile("def f(X[n]):\n    Y = X * 2\n    return Y, Y\n")
    a, b = np.zeros(3), np.zeros(3)
    kernel(np.ones(3), out=(a, b))
    assert a.tolist() == b.tolist() == [2, 2, 2]


def test_out_may_be_an_argument_or_overlap_one() -> None:
    kernel = moa.compile("concat(X[1:], X[:1]) + sum(X[:, None] * 0 + X, axis=-1)", X="n")
    memory = np.arange(80.0)
    want = kernel(memory[:64].copy())
    for shift in (0, 1, 16):
        data = memory.copy()
        target = data[shift : shift + 64]
        kernel(data[:64], out=target)
        np.testing.assert_array_equal(target, want)
    data = memory[:64].copy()
    target = data[::-1]
    kernel(data, out=target)
    np.testing.assert_array_equal(target, want)


def test_wrong_out(single: Kernel) -> None:
    given = arrays()
    good = np.zeros((9, 3), np.float32)
    fails(r"out has shape \[9, 4\], the result has shape \[9, 3\]", lambda: single(*given, out=np.zeros((9, 4), "f4")))
    fails("out is float64, the result is float32", lambda: single(*given, out=np.zeros((9, 3))))
    fails("out of type list is not an array", lambda: single(*given, out=[[0.0]]))
    fails("out names 2 arrays, the kernel returns 1", lambda: single(*given, out=(good, good)))
    fails("out names 0 arrays", lambda: single(*given, out=()))
    one_row = np.lib.stride_tricks.as_strided(good, (9, 3), (0, 4))
    fails("out .*elements that share memory", lambda: single(*given, out=one_row))
    fixed = good.copy()
    fixed.flags.writeable = False
    fails("out is read-only", lambda: single(*given, out=fixed))
    fails(r"out is on another device", lambda: single(*given, out=Producer(good, device=2)))
    kernel = moa.compile("def f(X[n]):\n    return X * 2, X * 3\n")
    x, both = np.ones(4), np.zeros(6)
    fails("out names 1 array, the kernel returns 2", lambda: kernel(x, out=both[:4]))
    fails(r"out\[0\] and out\[1\] share memory", lambda: kernel(x, out=(both[:4], both[2:])))
    assert not good.any() and not both.any()


# Nothing is left behind ---------------------------------------------------------------------------------------------


def resident_bytes() -> int:
    """After free memory went back to the system: what is lost has to show, not to fit into what was free."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_calls_leave_no_memory_behind(dtype: str) -> None:
    kernel = moa.compile(ATTENTION, dtype=dtype, **SHAPES)
    cases = []
    for n, m in ((1, 33), (9, 11), (40, 64), (65, 7)):
        given = arrays(dtype, n=n, m=m)
        cases.append((given, [np.asfortranarray(x) for x in given], [Producer(x) for x in given], kernel(*given)))

    def rounds(count: int) -> None:
        for _ in range(count):
            for plain, turned, foreign, out in cases:
                kernel(*plain, threads=1)
                kernel(*turned, threads=2)
                kernel(*plain, threads=2, out=out)
                kernel(*foreign, threads=1)
                kernel(*plain, threads=1, out=foreign[0] if out.shape == plain[0].shape else out)

    rounds(100)
    counts = [sys.getrefcount(x) for case in cases for x in case[0]]
    before = resident_bytes()
    rounds(500)
    assert [sys.getrefcount(x) for case in cases for x in case[0]] == counts
    assert resident_bytes() - before < 1 << 20


def test_threads_of_python_may_call_at_once() -> None:
    """Plans, compilations and calls by four threads, at shapes of their own and at one that they share."""
    kernel = moa.compile(ATTENTION, dtype="float32", **SHAPES)
    cases = [arrays(n=n, m=m, d=d) for n, m, d in ((9, 11, 4), (40, 64, 5), (3, 200, 6), (70, 30, 7))]
    want = [moa.compile(ATTENTION, dtype="float32", **SHAPES)(*x, threads=1) for x in cases]
    wrong: list[Any] = []
    start = threading.Barrier(4)

    def work(k: int) -> None:
        start.wait()
        out = np.empty_like(want[k])
        for turn in range(300):
            for j in (k, 0):
                found = kernel(*cases[j], threads=1 + turn % 2)
                if not np.array_equal(found, want[j]):
                    wrong.append((k, j, turn))
            kernel(*cases[k], out=out)
            if not np.array_equal(out, want[k]):
                wrong.append((k, "out", turn))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong, wrong[:5]


FORKS = """
import os, threading
import numpy as np
import moa
text, shapes = "softmax(Q @ K.T / sqrt(d)) @ V", {"Q": "n d", "K": "m d", "V": "m c"}
kernel = moa.compile(text, dtype="float32", **shapes)
given = [np.random.default_rng(0).standard_normal(s).astype(np.float32) for s in ((70, 8), (90, 8), (90, 8))]
want = kernel(*given, threads=2)
def compiling():
    for n in range(3):
        moa.compile(text, dtype="float64", **shapes)(*(x[:, : 3 + n].astype(float) for x in given))
busy = threading.Thread(target=compiling)
busy.start()
for turn in range(4):
    child = os.fork()
    if child == 0:
        same = np.array_equal(kernel(*given, threads=2), want)
        cut = [x[:, :6] for x in given]
        fresh = np.array_equal(kernel(*cut, threads=2), moa.compile(text, dtype="float32", **shapes)(*cut, threads=1))
        os._exit(0 if same and fresh else 3)
    _, status = os.waitpid(child, 0)
    assert status == 0, status
busy.join()
assert np.array_equal(kernel(*given, threads=2), want)
print("forked")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_calls_compiles_and_ends() -> None:
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "forked", done.stderr
