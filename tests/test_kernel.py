"""What a call does with what it is given: kinds, shapes, strides, threads, memory; errors are MoaErrors."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_c import HAS_CC

import moa
from moa.kernel import Kernel
from moa.oracle import oracle
from moa.text import MoaError

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
ATTENTION = "softmax(Q @ K.T / sqrt(d)) @ V"
SHAPES = {"Q": "n d", "K": "m d", "V": "m c"}


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return moa.compile(ATTENTION, **SHAPES)


@pytest.fixture(scope="module")
def single() -> Kernel:
    return moa.compile(ATTENTION, dtype="float32", **SHAPES)


@pytest.fixture(scope="module")
def batched() -> Kernel:
    return moa.compile(ATTENTION, Q="... n d", K="... m d", V="... m c")


def arrays(n: int = 9, m: int = 11, d: int = 4, c: int = 3, lead: tuple[int, ...] = ()) -> tuple[Array, Array, Array]:
    return tuple(RNG.standard_normal((*lead, *shape)) for shape in ((n, d), (m, d), (m, c)))  # type: ignore[return-value]


def want(kernel: Kernel, *given: Any) -> Array:
    program = kernel._derive(given[0].ndim - 2).program
    return oracle(program, dict(zip("QKV", given, strict=True)))[0]


def fails(message: str, f: Callable[[], Any]) -> MoaError:
    """The MoaError that f raises, whose message matches."""
    with pytest.raises(MoaError) as caught:
        f()
    assert caught.value.kind == "argument"
    assert re.search(message, caught.value.message), caught.value.message
    return caught.value


# Arrays that are not plain -----------------------------------------------------------------------------------------

LAYOUTS: dict[str, Callable[[Array], Any]] = {
    "contiguous": lambda x: x,
    "Fortran order": np.asfortranarray,
    "every second element": lambda x: np.repeat(np.repeat(x, 2, 0), 2, 1)[::2, ::2],
    "negative strides": lambda x: np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
    "a row broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
    "read-only": lambda x: read_only(x),
    "unaligned": lambda x: unaligned(x),
    "strides of odd bytes": lambda x: of_record(x),
    "a list": lambda x: x.tolist(),
    "a tuple of rows": lambda x: tuple(x),
    "a memory view": lambda x: memoryview(x),
    "a subclass": lambda x: x.view(np.matrix),
}


def read_only(x: Array) -> Array:
    out = x.copy()
    out.flags.writeable = False
    return out


def unaligned(x: Array) -> Array:
    out = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    out[...] = x
    assert not out.flags.aligned
    return out


def of_record(x: Array) -> Array:
    """An array whose strides are no multiple of the size of an element."""
    out = np.zeros(x.shape, np.dtype([("a", np.uint8), ("x", x.dtype)]))["x"]
    out[...] = x
    assert out.strides[-1] % x.itemsize
    return out


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(kernel: Kernel, layout: str) -> None:
    plain = arrays()
    given = [LAYOUTS[layout](x) for x in plain]
    values = [np.array(np.asarray(x), np.float64) for x in given]
    before = [x.copy() for x in values]
    out = kernel(*given)
    assert type(out) is np.ndarray and out.shape == (9, 3)
    np.testing.assert_allclose(out, want(kernel, *values), rtol=0, atol=1e-13)
    for x, y in zip(given, before, strict=True):
        np.testing.assert_array_equal(np.asarray(x), y)  # arguments are not written


def test_layouts_may_differ(kernel: Kernel) -> None:
    q, k, v = arrays()
    mixed = (np.asfortranarray(q), LAYOUTS["negative strides"](k), LAYOUTS["every second element"](v))
    np.testing.assert_allclose(kernel(*mixed), want(kernel, q, k, v), rtol=0, atol=1e-13)


def test_other_faces_of_arrays(kernel: Kernel) -> None:
    q, k, v = arrays()

    class Interface:
        def __init__(self, x: Array) -> None:
            self.kept = x
            self.__array_interface__ = x.__array_interface__

    np.testing.assert_array_equal(kernel(Interface(q), Interface(k), Interface(v)), kernel(q, k, v))


def test_lists_are_read_in_the_dtype_of_the_kernel(single: Kernel) -> None:
    given = [x.astype(np.float32) for x in arrays()]
    np.testing.assert_array_equal(single(*(x.tolist() for x in given)), single(*given))
    assert single([[1]], [[1]], [[3]]).dtype == np.float32


# Wrong arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "int32", "bool", "complex128", "S3", "datetime64[s]"])
def test_wrong_dtype(kernel: Kernel, dtype: str) -> None:
    q, k, v = arrays()
    with np.errstate(all="ignore"):
        wrong = np.zeros(k.shape, dtype)
    found = fails("argument K is .*float64", lambda: kernel(q, wrong, v))
    assert "Traceback" not in str(found)


def test_byte_order(kernel: Kernel) -> None:
    q, k, v = arrays()
    swapped = k.astype(k.dtype.newbyteorder())
    try:
        out = kernel(q, swapped, v)
    except MoaError as e:
        assert e.kind == "argument" and "K" in e.message
    else:
        np.testing.assert_array_equal(out, kernel(q, k, v))


@pytest.mark.parametrize("bad", [np.array([[None, 1], [2, 3]], object), "text", b"bytes", {"a": 1}, None, object()])
def test_what_is_not_an_array(kernel: Kernel, bad: Any) -> None:
    q, _, v = arrays(m=2, d=2)
    found = fails("argument K", lambda: kernel(q, bad, v))
    assert found.hint


@pytest.mark.parametrize("bad", [[[1.0, 2.0], [3.0]], [[1.0, "x"]], [[[1.0]]], [], 5.0, [[1 + 2j, 1.0]]])
def test_bad_lists(kernel: Kernel, bad: Any) -> None:
    q, _, v = arrays(m=2, d=2)
    fails("argument K", lambda: kernel(q, bad, v))


def test_wrong_shapes(kernel: Kernel) -> None:
    q, k, v = arrays()
    fails("argument K has extent 3 on axis 1, expected d = 4", lambda: kernel(q, k[:, :3], v))
    fails("argument V has extent 10 on axis 0, expected m = 11", lambda: kernel(q, k, v[:10]))
    fails("argument Q has 1 axis", lambda: kernel(q[0], k, v))
    fails("argument Q has 3 axes", lambda: kernel(q[None], k, v))
    fails("argument Q has 0 axes", lambda: kernel(np.float64(1), k, v))
    fails("argument Q has 0 axes", lambda: kernel(np.array(1.0), k, v))


def test_wrong_numbers_of_arguments(kernel: Kernel) -> None:
    q, k, v = arrays()
    fails("argument V is missing", lambda: kernel(q, k))
    fails("argument Q is missing", lambda: kernel())
    fails("takes 3 arguments, 4 were given", lambda: kernel(q, k, v, v))
    fails("argument K is given twice", lambda: kernel(q, k, v, K=k))
    fails("has no parameter W", lambda: kernel(q, k, v, W=v))
    fails("has no parameter", lambda: kernel(q, k, v, **{"\x1b[31m": v}))
    np.testing.assert_array_equal(kernel(V=v, K=k, Q=q), kernel(q, k, v))
    np.testing.assert_array_equal(kernel(q, V=v, K=k), kernel(q, k, v))


def test_the_function_that_is_the_kernel() -> None:
    text = "def twice(X[n]):\n    return 2 * X\ndef inner(x):\n    return x\n"
    text += "def both(X[n]):\n    return twice(inner(X)) + 1"
    X = np.arange(3.0)
    for chosen, want in (("both", [1.0, 3.0, 5.0]), ("twice", [0.0, 2.0, 4.0]), ("", [1.0, 3.0, 5.0])):
        for _ in range(2):
            assert moa.compile(text, function=chosen)(X).tolist() == want
    fails("the program has no function three", lambda: moa.compile(text, function="three"))
    fails(r"no function \\x1b", lambda: moa.compile(text, function="\x1b[31m"))
    fails("named by a text, not by int", lambda: moa.compile(text, function=1))  # type: ignore[call-overload]
    with pytest.raises(MoaError, match="parameter x of the kernel inner has no shape"):
        moa.compile(text, function="inner")


def test_a_call_that_failed_leaves_no_trace(kernel: Kernel) -> None:
    q, k, v = arrays()
    good = kernel(q, k, v)
    for bad in ((q, k), (q, k[:, :2], v), (q, k.astype(np.float32), v)):
        with pytest.raises(MoaError):
            kernel(*bad)
        np.testing.assert_array_equal(kernel(q, k, v), good)


SCALARS = """def f(X[n], keep: bool[n], idx: int[r], w: int, c: float = 2):
    return c * sum(where(keep & (iota(n) < w), X, 0)) + sum(X[idx])
"""


@pytest.fixture(scope="module")
def scalars() -> Kernel:
    return moa.compile(SCALARS)


def test_scalars_and_kinds(scalars: Kernel) -> None:
    x = np.arange(6.0)
    keep = np.array([True, True, False, True, True, True])
    idx = np.array([1, 1, 5])

    def value(w: int, c: float = 2) -> float:
        return float(c * x[:w][keep[:w]].sum() + x[idx].sum())

    assert scalars(x, keep, idx, 4) == value(4)
    assert scalars(x, keep, idx, w=4, c=0.5) == value(4, 0.5)
    assert scalars(x, keep, idx, 4, 3) == value(4, 3)  # an int where a float is wanted
    assert scalars(x, keep, idx, np.int32(4), np.float32(0.5)) == value(4, 0.5)
    assert scalars(x, keep, idx, np.array(3)) == value(3)
    assert scalars(x, keep, idx.astype(np.int8), 4) == value(4)
    assert scalars(x, keep, idx.astype(np.uint16), 4) == value(4)
    assert scalars(x, keep, idx[::-1], 4) == value(4)
    assert scalars(x, keep, idx[:0], 4) == value(4) - x[idx].sum()
    assert scalars(x, keep, idx, -1) == value(0)
    assert scalars(x, keep, idx, 2**40) == value(6)
    assert isinstance(scalars(x, keep, idx, 4), np.ndarray)


def test_wrong_scalars_and_kinds(scalars: Kernel) -> None:
    x, keep, idx = np.arange(6.0), np.ones(6, bool), np.array([1, 1, 5])
    fails("argument w", lambda: scalars(x, keep, idx, 4.5))
    fails("argument w", lambda: scalars(x, keep, idx, True))
    fails("argument w", lambda: scalars(x, keep, idx, 2**63))
    fails("argument w", lambda: scalars(x, keep, idx, "4"))
    fails("argument w", lambda: scalars(x, keep, idx, None))
    fails("argument w", lambda: scalars(x, keep, idx, [4]))
    fails("argument w is missing", lambda: scalars(x, keep, idx))
    fails("argument c", lambda: scalars(x, keep, idx, 4, "2"))
    fails("argument c", lambda: scalars(x, keep, idx, 4, np.ones(2)))
    fails("argument keep", lambda: scalars(x, keep.astype(int), idx, 4))
    fails("argument idx", lambda: scalars(x, keep, idx.astype(float), 4))
    fails("argument idx", lambda: scalars(x, keep, idx > 0, 4))
    fails("idx holds 6.*outside an axis of extent 6", lambda: scalars(x, keep, np.array([0, 6]), 4))
    fails("idx holds -1", lambda: scalars(x, keep, np.array([0, -1]), 4))
    fails("idx", lambda: scalars(x, keep, np.array([2**64 - 1], np.uint64), 4))


def test_indices_are_checked_in_every_call(scalars: Kernel) -> None:
    x, keep, idx = np.arange(6.0), np.ones(6, bool), np.array([1, 1, 5])
    scalars(x, keep, idx, 4)
    fails("argument keep", lambda: scalars(x, keep.astype(np.uint8), idx, 4))  # of equal shape and strides
    fails("argument idx", lambda: scalars(x, keep, idx.astype(float), 4))
    idx[0] = 17
    fails("idx holds 17", lambda: scalars(x, keep, idx, 4))


def test_leading_axes(batched: Kernel) -> None:
    for lead in ((), (2,), (2, 3), (1, 1, 2), (0,), (2, 0)):
        given = arrays(lead=lead)
        out = batched(*given)
        assert out.shape == (*lead, 9, 3)
        np.testing.assert_allclose(out, want(batched, *given), rtol=0, atol=1e-13)
    q, k, v = arrays(lead=(2,))
    fails("`...` stands for 1 axes in Q and for 0 in K", lambda: batched(q, k[0], v))
    fails("argument K has extent 1 on axis 0", lambda: batched(q, k[:1], v))
    fails("argument", lambda: batched(q[0, 0], k[0, 0], v[0, 0]))


@pytest.mark.parametrize("empty", ["n", "m", "d", "c"])
def test_empty_axes(kernel: Kernel, empty: str) -> None:
    sizes = {"n": 9, "m": 11, "d": 4, "c": 3, empty: 0}
    given = arrays(**sizes)
    with np.errstate(all="ignore"):
        expected = want(kernel, *given)
    np.testing.assert_allclose(kernel(*given), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_values_that_are_not_finite(kernel: Kernel, value: float, which: int) -> None:
    given = arrays()
    given[which][2, 1] = value
    with np.errstate(all="ignore"):
        expected = want(kernel, *given)
    np.testing.assert_allclose(kernel(*given), expected, rtol=0, atol=1e-12)


def test_a_row_of_nan_stays_in_its_row(kernel: Kernel) -> None:
    q, k, v = arrays(n=40)
    clean = kernel(q, k, v)
    q[7] = np.nan
    out = kernel(q, k, v)
    assert np.isnan(out[7]).all()
    np.testing.assert_array_equal(np.delete(out, 7, 0), np.delete(clean, 7, 0))


# Results -----------------------------------------------------------------------------------------------------------


def test_results_own_their_memory(kernel: Kernel) -> None:
    given = arrays()
    first = kernel(*given)
    assert first.flags.owndata and first.flags.writeable and first.flags.c_contiguous
    kept = first.copy()
    second = kernel(*given)
    second[...] = 7
    np.testing.assert_array_equal(first, kept)
    first[...] = 5
    np.testing.assert_array_equal(kernel(*given), kept)


def test_two_outputs_are_two_arrays() -> None:
    f = moa.compile("def f(X[n, d]):\n    return X * 2, X * 2, sum(X)\n")
    x = RNG.standard_normal((5, 3))
    a, b, c = f(x)
    a[...] = 0
    np.testing.assert_array_equal(b, x * 2)
    np.testing.assert_allclose(c, x.sum(1), atol=1e-14)


BACKWARD = """def backward(Q[n, d], K[m, d], V[m, c], dO[n, c]):
    P = softmax(Q @ K.T / sqrt(d))
    dP = dO @ V.T
    dS = P * (dP - sum(P * dP, axis=-1)[:, None])
    return dS @ K / sqrt(d), dS.T @ Q / sqrt(d), P.T @ dO
"""


@pytest.mark.parametrize(("n", "m", "d", "c"), [(33, 40, 5, 9), (1, 1, 1, 2), (70, 3, 20, 4), (64, 200, 4, 33)])
def test_outputs_of_one_loop_have_axes_of_their_own(n: int, m: int, d: int, c: int) -> None:
    """Two of the gradients are sums of one loop, with columns of different lengths."""
    shapes = {"Q": (n, d), "K": (m, d), "V": (m, c), "dO": (n, c)}
    given = {k: RNG.standard_normal(s) for k, s in shapes.items()}
    f = moa.compile(BACKWARD)
    for got, want in zip(f(**given), oracle(f._derive(0).program, given), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


def test_repeated_calls_give_equal_bits(kernel: Kernel, single: Kernel) -> None:
    given = arrays(n=70, m=201, d=16, c=16)
    for f, data in ((kernel, given), (single, [x.astype(np.float32) for x in given])):
        first = f(*data).tobytes()
        for _ in range(5):
            f(*(x[: len(x) // 2] for x in data))  # leaves other values in scratch
            assert f(*data).tobytes() == first


@pytest.mark.parametrize("lead", [(), (3,)])
def test_any_number_of_threads_gives_equal_bits(batched: Kernel, lead: tuple[int, ...]) -> None:
    for n, m, d in ((150, 130, 8), (200, 400, 32), (13, 400, 32), (17, 300, 64)):
        given = arrays(n=n, m=m, d=d, c=d, lead=lead)
        first = batched(*given, threads=1).tobytes()
        for threads in (2, 3, 4):
            for _ in range(3):
                assert batched(*given, threads=threads).tobytes() == first
    fails("threads is 0", lambda: batched(*given, threads=0))
    fails("threads is -3", lambda: batched(*given, threads=-3))


def test_many_threads_call_one_kernel(kernel: Kernel) -> None:
    data = [arrays(n=200 + k % 3, m=400 + 7 * (k % 4), d=32, c=32) for k in range(12)]  # a millisecond each
    expected = [kernel(*given).tobytes() for given in data]
    wrong: list[str] = []
    start = threading.Barrier(12)

    def work(k: int) -> None:
        try:
            start.wait()
            for turn in range(20):
                j = (k + turn) % len(data)
                if kernel(*data[j], threads=1 + turn % 3).tobytes() != expected[j]:
                    wrong.append(f"thread {k}, turn {turn}")
        except Exception as e:
            wrong.append(repr(e))

    workers = [threading.Thread(target=work, args=(k,)) for k in range(12)]
    for t in workers:
        t.start()
    for t in workers:
        t.join()
    assert not wrong, wrong[:3]


def test_many_threads_compile_one_variant() -> None:
    """The first call compiles: twelve of them at once."""
    f = moa.compile("def f(X[n, d], w: int):\n    return sum(X) * w\n")
    x = RNG.standard_normal((6, 5))
    out: list[Any] = [None] * 12

    def work(k: int) -> None:
        out[k] = f(x, k)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(12)]
    for t in workers:
        t.start()
    for t in workers:
        t.join()
    for k in range(12):
        np.testing.assert_allclose(out[k], x.sum(1) * k, atol=1e-13)


def test_new_sizes_do_not_compile_again(kernel: Kernel) -> None:
    """Up to eight items of the usual rows there are three numbers of rows to choose among, beyond that it is one."""
    kernel(*arrays(n=300, m=50))
    count = len(kernel._variants)
    for n, m in ((301, 50), (600, 7), (329, 1000)):
        kernel(*arrays(n=n, m=m))
    assert len(kernel._variants) == count
    for n in (100, 101, 129, 140, 200, 250):
        kernel(*arrays(n=n, m=50))
    assert len(kernel._variants) <= count + 3


PEAK = """
import resource, sys
import numpy as np
import moa

formula, rows = sys.argv[1], int(sys.argv[2])
kernel = moa.compile(formula, dtype="float32")

def run(n):
    rng = np.random.default_rng(0)
    given = [rng.standard_normal((n, 64), dtype=np.float32) for _ in range(3)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    out = kernel(*given, threads=2)
    return out, before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

run(300)  # compiles
out, before, after = run(rows)
assert np.isfinite(out).all()
print((after - before) * 1024 - out.nbytes)
"""

CAUSAL = """def f(Q[n, d], K[n, d], V[n, d]):
    i, j = iota(n)[:, None], iota(n)
    return softmax(where(j <= i, Q @ K.T / sqrt(d), -inf)) @ V
"""
PLAIN = "def f(Q[n, d], K[m, d], V[m, d]):\n    return softmax(Q @ K.T / sqrt(d)) @ V\n"


@pytest.mark.parametrize("formula", [CAUSAL, PLAIN], ids=["causal", "plain"])
def test_no_array_of_all_pairs_exists(formula: str) -> None:
    """At 16384 rows and keys an array of all pairs would be 1 GiB; beside inputs and outputs a few MiB are used."""
    command = [sys.executable, "-c", textwrap.dedent(PEAK), formula, "16384"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < 32 * 2**20, f"{int(done.stdout) / 2**20:.0f} MiB"


@pytest.mark.parametrize("backend", ["llvm", "c"])
def test_truth_values_without_axes(backend: str) -> None:
    if backend == "c" and not HAS_CC:
        pytest.skip("no C compiler: install gcc or clang")
    text = "def f(X[n], on: bool):\n    return where(on, X, 0), max(where(on & (X > 0), X, -inf)), X * on\n"
    kernel = moa.compile(text, backend=backend)
    x = np.array([1.0, -2.0, 3.0])
    for on in (True, False, np.bool_(True)):
        kept, top, times = kernel(x, on)
        assert np.array_equal(kept, x * on) and np.array_equal(times, x * on) and top == (3 if on else -np.inf)
    with pytest.raises(moa.MoaError, match="expected bool"):
        kernel(x, 1)
    assert kernel.verify().ok
