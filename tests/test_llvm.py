"""LLVM text of Loops: every instruction has the meaning that the interpreter gives it, bit for bit."""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from loops_by_hand import FLOATS, Hand, agree, array, elementwise, execute

from moa.backends.llvm import RELATIONS, host, print_llvm
from moa.backends.llvm_build import BLOCK_CEILING, build, load
from moa.expand import expand
from moa.loops import ELEMENT_BYTES, Arg, Const, Fn, Loops, Name

HOST = host()
PORTABLE = replace(HOST, avx512=False, vector_bytes=32)
ITEMS = 40

INTEGER = [(op, (), "ii", "i") for op in ("iadd", "isub", "imul", "imin", "imax", "idiv", "imod")]
BIT = [(op, (), t * n, t) for t in "bm" for op, n in (("band", 2), ("bor", 2), ("bnot", 1))]
WORD = [(op, (), "ww", "w") for op in ("wadd", "wsub", "wmul", "wmin", "wmax")]
COMPARE = [(op, (r,), t, s) for op, t, s in [("icmp", "ii", "b"), ("wcmp", "ww", "m"), ("fcmp", "ff", "b"),
                                             ("fcmp", "vv", "m")] for r in RELATIONS]  # fmt: skip
FLOAT = [(op, (), t * n, t) for t in "fv" for op, n in [
    ("fadd", 2), ("fsub", 2), ("fmul", 2), ("fdiv", 2), ("fma", 3), ("fneg", 1), ("fabs", 1), ("fsqrt", 1),
    ("fmax", 2), ("fmin", 2), ("fmaxn", 2), ("fminn", 2), ("round", 1), ("fraction", 1), ("scale", 2),
    ("mantissa", 1), ("exponent", 1), ("exp2", 1), ("exp", 1), ("log", 1), ("tanh", 1), ("erf", 1)]]  # fmt: skip
CONVERT = [("wsplat", (), "i", "w"), ("lanes", (), "", "w"), ("first", (), "i", "m"), ("bsplat", (), "b", "m"),
           ("splat", (), "f", "v"), ("i2f", (), "i", "f"), ("w2v", (), "w", "v"), ("f2i", (), "f", "i")]  # fmt: skip
CHOOSE = [("select", (), "b" + t + t, t) for t in "ifbvwm"] + [("select", (), "mvv", "v"), ("select", (), "mww", "w")]
LANE = [("insert", (1,), "vf", "v"), ("extract", (1,), "v", "f"), ("iabs", (), "i", "i")]
REDUCE = [("reduce", (op,), "v", "f") for op in ("add", "mul", "max", "min")]
CASES = [*INTEGER, *BIT, *WORD, *COMPARE, *FLOAT, *CONVERT, *CHOOSE, *LANE, *REDUCE]


def operand(h: Hand, type_: str, place: Name, item: Name) -> Name:
    """A value of a type, taken from the data of an item."""
    if type_ == "w":
        i, j = (operand(h, "i", place, h.op("i", "iadd", item, k)) for k in (0, 1))
        slope = h.op("w", "wmul", h.op("w", "wsplat", i), h.op("w", "lanes"))
        return h.op("w", "wadd", slope, h.op("w", "wsplat", j))
    index = h.op("i", "imul", item, h.width) if type_ in "vm" else item
    element = {"f": h.dtype, "v": h.dtype, "i": "i64", "b": "u8", "m": "u8"}[type_]
    return h.op(type_, "load", place, index, attrs=(element, False))


def one_instruction(dtype: str, width: int, case: tuple[str, tuple[Any, ...], str, str]) -> Loops:
    op, attrs, types, result = case
    h = Hand(dtype, width)
    places = [h.arg("p", k) for k in range(len(types))]
    out = h.arg("p", 3)

    def body(item: Name) -> tuple[Arg, ...]:
        value = h.op(result, op, *(operand(h, t, p, item) for t, p in zip(types, places, strict=True)), attrs=attrs)
        index = h.op("i", "imul", item, width) if result in "vwm" else item
        if result == "w":
            value = h.op("v", "w2v", value)
        element = {"f": dtype, "v": dtype, "w": dtype, "i": "i64", "b": "u8", "m": "u8"}[result]
        h.do("store", out, index, value, attrs=(element, False))
        return ()

    h.loop(h.params[1], h.params[2], (), body)
    return h.loops()


def floats(rng: np.random.Generator, dtype: str, count: int, op: str, k: int) -> np.ndarray[Any, Any]:
    kind = FLOATS[dtype]
    values = rng.standard_normal(count).astype(kind)
    if op in ("mantissa", "exponent"):
        lowest, highest = np.finfo(kind).minexp - 10, np.finfo(kind).maxexp - 3
        return np.ldexp(np.abs(values) + kind(0.1), rng.integers(lowest, highest, count).astype(np.int32)).astype(kind)
    if op == "scale" and k == 0:
        return (values + np.copysign(kind(0.1), values)).astype(kind)
    reach = 2200 if dtype == "f64" else 280
    if op == "scale":
        values = rng.uniform(-reach, reach, count).astype(kind)
    elif op not in ("reduce", "f2i"):
        with np.errstate(over="ignore"):
            values[::3] = np.ldexp(
                values[::3], rng.integers(-reach // 2, reach // 2, len(values[::3])).astype(np.int32)
            )
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 0.5, 2.5, 1.5, -1e-9, 1e19, -1e19, 3.0, 1e-45]
    values[1::5] = rng.choice(np.array(special, kind), len(values[1::5]))
    return values


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: ".".join([c[0], *map(str, c[1]), c[2] or "-"]))
def test_instruction(case: tuple[str, tuple[Any, ...], str, str], dtype: str) -> None:
    op, _, types, result = case
    for width, targets in (
        (2, [HOST]),
        (PORTABLE.width(dtype), [HOST, PORTABLE]),
        (HOST.width(dtype), [HOST, PORTABLE]),
    ):
        rng = np.random.default_rng(7)
        buffers = {}
        for k, t in enumerate(types):
            if t in "fv":
                data: Any = floats(rng, dtype, ITEMS * width, op, k)
            elif t in "iw":
                data = rng.integers(-40, 40, ITEMS + 1)
                data = abs(data) + 1 if op in ("idiv", "imod") and k == 1 else data
            else:
                data = rng.integers(0, 2, ITEMS * width).astype(np.uint8)
            buffers[f"x{k}"] = data
        kind = {"i": np.int64, "b": np.uint8, "m": np.uint8}.get(result, FLOATS[dtype])
        buffers["y"] = np.zeros(ITEMS * width, kind)
        args = [f"x{k}" if k < len(types) else 0 for k in range(3)]
        agree(expand(one_instruction(dtype, width, case)), [*args, "y"], ITEMS, buffers, targets)


def copying(dtype: str, width: int, source: str, target: str, kind: str) -> Loops:
    """target[i] = source[i] for blocks, the last one masked by the count in slot 2."""
    h = Hand(dtype, width)
    x, y, count = h.arg("p", 0), h.arg("p", 1), h.arg("i", 2)

    def body(item: Name) -> tuple[Arg, ...]:
        i = h.op("i", "imul", item, width)
        mask = h.op("m", "first", h.op("i", "isub", count, i))
        value = h.op(kind, "loadm", x, i, mask, attrs=(source, False))
        h.do("storem", y, i, value, mask, attrs=(target, False))
        return ()

    h.loop(h.params[1], h.params[2], (), body)
    return h.loops()


NUMPY = {"f64": np.float64, "f32": np.float32, "f16": np.float16, "bf16": np.uint16, "i64": np.int64, "u8": np.uint8}


def elements(element: str, count: int) -> np.ndarray[Any, Any]:
    """Numbers of all sizes, half-way cases of the shorter formats among them."""
    rng = np.random.default_rng(3)
    if element == "bf16":
        return rng.integers(0, 1 << 16, count).astype(np.uint16)
    if element in ("i64", "u8"):
        return rng.integers(0, 3, count).astype(NUMPY[element])
    x = np.ldexp(rng.standard_normal(count), rng.integers(-30, 20, count))
    x[::4] = np.ldexp(rng.integers(1 << 11, 1 << 14, len(x[::4])), rng.integers(-30, -4, len(x[::4])))
    x[1::4] = x[::4][: len(x[1::4])] * (1 + rng.choice([0, 1, -1], len(x[1::4])) * 2.0**-40)
    x[2::16], x[3::16], x[5::16], x[6::16] = np.nan, np.inf, 1e39, 1e-42
    with np.errstate(over="ignore"):
        return x.astype(NUMPY[element])


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("source", ["f64", "f32", "f16", "bf16", "i64", "u8"])
@pytest.mark.parametrize("target", ["f64", "f32", "f16", "bf16"])
def test_elements_are_converted_once_and_a_mask_keeps_to_its_lanes(dtype: str, source: str, target: str) -> None:
    width, count = HOST.width(dtype), 37 * 8 + 5
    x = elements(source, count)
    buffers = {"x": x, "y": np.full(count, 7).astype(NUMPY[target])}
    for targets in ([HOST], [PORTABLE]):
        agree(copying(dtype, width, source, target, "v"), ["x", "y", count], -(-count // width), buffers, targets)


def test_bfloat16_is_rounded_once_from_both_types() -> None:
    """A double just above the middle of two bfloat16 goes up, though as a float it would be the middle."""
    middle = 1 + 2.0**-8
    x = np.array([middle, middle + 2.0**-40, middle - 2.0**-40, middle + 2.0**-7] * 4, np.float64)
    out = agree(copying("f64", 8, "f64", "bf16", "v"), ["x", "y", 16], 2, {"x": x, "y": np.zeros(16, np.uint16)})
    assert out["y"][:4].tolist() == [0x3F80, 0x3F81, 0x3F80, 0x3F82]


def test_a_masked_load_reads_nothing_beyond_the_end_of_a_page() -> None:
    page = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(page))
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    assert protect(start + mmap.PAGESIZE, mmap.PAGESIZE, 0) == 0
    for element in ("f64", "f32", "bf16"):
        count = 5
        loops = copying("f32", HOST.width("f32"), element, element, "v")
        place = start + mmap.PAGESIZE - count * ELEMENT_BYTES[element]
        for target in (HOST, PORTABLE):
            execute(build(loops, target), [place, place, count], 0, 1, {})
    protect(start + mmap.PAGESIZE, mmap.PAGESIZE, 3)


def nested() -> Loops:
    """Sums with loops in branches in loops: y[item] = sum over j < n of (j even: sum_{k<j} x[k], else: y of before)."""
    h = Hand("f64", 2)
    x, y, n = h.arg("p", 0), h.arg("p", 1), h.arg("i", 2)

    def row(item: Name) -> tuple[Arg, ...]:
        def column(j: Name, total: Name, last: Name) -> tuple[Arg, ...]:
            def even() -> tuple[Arg, ...]:
                def inner(k: Name, s: Name) -> tuple[Arg, ...]:
                    return (h.op("f", "fadd", s, h.op("f", "load", x, k, attrs=("f64", False))),)

                (s,) = h.loop(item, j, (total,), inner, step=2)
                return (s, h.op("i", "iadd", j, 1))

            def odd() -> tuple[Arg, ...]:
                return (h.op("f", "fmul", total, Const(0.5, "f")), last)

            bit = h.op("b", "icmp", h.op("i", "imod", j, 2), 0, attrs=("eq",))
            return tuple(h.branch(bit, even, odd))

        total, last = h.loop(0, n, (Const(0.0, "f"), Const(0, "i")), column)
        never = h.loop(5, item, (total,), lambda k, s: (h.op("f", "fneg", s),))
        positive = h.op("b", "fcmp", total, Const(1.0, "f"), attrs=("gt",))
        h.branch(positive, lambda: h.do("store", y, item, never[0], attrs=("f64", False)), lambda: ())
        h.do("store", y, h.op("i", "iadd", item, 8), h.op("f", "i2f", last), attrs=("f64", False))
        return ()

    h.loop(h.params[1], h.params[2], (), row)
    return h.loops()


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_loops_and_branches_nest_and_carry_values(n: int) -> None:
    x = np.random.default_rng(0).standard_normal(8)
    out = agree(nested(), ["x", "y", n], 8, {"x": x, "y": np.full(16, 9.0)})
    y = np.full(16, 9.0)
    for item in range(8):
        total, last = 0.0, 0
        for j in range(n):
            if j % 2 == 0:
                for k in range(item, j, 2):
                    total += x[k]
                last = j + 1
            else:
                total *= 0.5
        if total > 1:
            y[item] = total * (-1) ** max(0, item - 5)
        y[8 + item] = last
    assert np.array_equal(out["y"], y)


def two_phases(dtype: str, width: int) -> Loops:
    """Each phase multiplies by slot 3 into the workspace, and copies from there: twice the same function."""
    helper = Hand(dtype, width)
    params = (helper.name("p"), helper.name("p"), helper.name("v"), helper.name("i"), helper.name("b"))
    p, q, factor, i, bit = params
    loaded = helper.op("v", "load", p, i, attrs=(dtype, True))
    scaled = helper.op("v", "fmul", loaded, factor)
    helper.do("store", q, i, helper.op("v", "select", bit, scaled, loaded), attrs=(dtype, True))
    functions = [helper.fn("scale <of> a; block", params)]
    for phase in range(2):
        h = Hand(dtype, width)
        x, y, scale = h.arg("p", phase), h.arg("p", phase + 1), h.arg("f", 3)

        def body(item: Name, h: Hand = h, x: Name = x, y: Name = y, scale: Name = scale) -> tuple[Arg, ...]:
            i = h.op("i", "imul", item, width)
            block = h.op("p", "offset", h.params[3], i, attrs=(dtype,))
            here = h.op("p", "offset", x, i, attrs=(dtype,))
            h.call("scale <of> a; block", here, block, h.op("v", "splat", scale), Const(0, "i"), Const(True, "b"))
            h.call("scale <of> a; block", block, h.op("p", "offset", y, i, attrs=(dtype,)), Const(0.0, "v"),
                   Const(0, "i"), Const(False, "b"))  # fmt: skip
            return ()

        h.loop(h.params[1], h.params[2], (), body)
        functions.append(h.fn(f"phase {phase}"))
    return Loops(dtype, width, tuple(functions), ("phase 0", "phase 1"))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_phases_and_functions(dtype: str) -> None:
    kind, width = FLOATS[dtype], HOST.width(dtype)
    x = np.random.default_rng(0).standard_normal(4 * width).astype(kind)
    buffers = {"x": x, "y": np.zeros_like(x), "z": np.zeros_like(x)}
    targets = [HOST, PORTABLE]
    loops = two_phases(dtype, width)
    out = agree(loops, ["x", "y", "z", 3.0], 4, buffers, targets, workspace_bytes=x.nbytes)
    assert np.array_equal(out["z"], (x * kind(3)) * kind(3))


def test_the_text_is_deterministic_and_has_no_name_of_the_loops() -> None:
    text = print_llvm(two_phases("f32", 16), HOST)
    assert text == print_llvm(two_phases("f32", 16), HOST)
    assert "scale" not in text and "phase" not in text
    assert not any(flag in text for flag in (" fast ", " contract ", " reassoc ", " nnan "))


def test_an_object_is_loaded_without_its_text() -> None:
    first = build(elementwise("f64", 4, "fsqrt"))
    again = load(first.object_bytes, ("moa_p0",), HOST)
    x = array(np.arange(8.0), np.float64)
    y = array(np.zeros(8), np.float64)
    execute(again, ["x", "y"], 0, 2, {"x": x, "y": y})
    assert np.array_equal(y, np.sqrt(x)) and again.assembly() == "" and "vsqrtpd" in first.assembly()


def test_a_block_above_the_ceiling_is_refused() -> None:
    h = Hand("f64", 2)
    i: Name = h.params[1]
    for _ in range(BLOCK_CEILING):
        i = h.op("i", "iadd", i, 1)
    h.op("b", "icmp", i, 0, attrs=("lt",))
    with pytest.raises(AssertionError, match="above the ceiling"):
        build(h.loops())


def test_a_bad_value_is_an_assertion() -> None:
    h = Hand("f64", 2)
    h.op("f", "fadd", h.params[1], Const(1.0, "f"))
    with pytest.raises(AssertionError, match="not a valid module"):
        build(h.loops())
    with pytest.raises(AssertionError, match="no text for the instruction"):
        build(elementwise("f64", 2, "tanh"))


def product(dtype: str, width: int, keys: int = 4, vectors: int = 4) -> Loops:
    """S[j, i] += K[j, k] * Q[k, i] for 4 keys j and 4 vectors of i, in registers over the loop of k."""
    h = Hand(dtype, width)
    out, left, right, depth = h.arg("p", 0), h.arg("p", 1), h.arg("p", 2), h.arg("i", 3)
    row = vectors * width
    places = [(j, v) for j in range(keys) for v in range(vectors)]
    start = [h.op("v", "load", out, j * row + v * width, attrs=(dtype, True)) for j, v in places]

    def step(k: Name, *sums: Name) -> list[Arg]:
        base = h.op("i", "imul", k, row)
        q = [h.op("v", "load", right, h.op("i", "iadd", base, v * width), attrs=(dtype, True)) for v in range(vectors)]
        rows = [h.op("i", "iadd", h.op("i", "imul", depth, j), k) for j in range(keys)]
        key = [h.op("v", "splat", h.op("f", "load", left, r, attrs=(dtype, False))) for r in rows]
        return [h.op("v", "fma", key[j], q[v], s) for (j, v), s in zip(places, sums, strict=True)]

    for (j, v), s in zip(places, h.loop(0, depth, start, step), strict=True):
        h.do("store", out, j * row + v * width, s, attrs=(dtype, True))
    return h.loops()


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_the_product_kernel_keeps_its_sums_in_registers(dtype: str) -> None:
    width, depth = HOST.width(dtype), 24
    loops = product(dtype, width)
    rng = np.random.default_rng(1)
    kind = FLOATS[dtype]
    buffers = {k: rng.standard_normal(n).astype(kind) for k, n in (("s", 16 * width), ("k", 4 * depth),
                                                                  ("q", 4 * width * depth))}  # fmt: skip
    out = agree(loops, ["s", "k", "q", depth], 1, buffers)
    expected = buffers["s"].reshape(4, -1) + buffers["k"].reshape(4, -1).astype(float) @ buffers["q"].reshape(depth, -1)
    assert np.allclose(out["s"].reshape(4, -1), expected, atol=1e-4)
    if HOST.avx512:
        assembly = build(loops).assembly()
        loop = max(assembly.split("\n.LBB"), key=lambda b: b.count("vfmadd"))
        assert loop.count("vfmadd") == 16 and not [x for x in assembly.splitlines() if "mm" in x and "(%rsp)" in x]


def test_no_width_depends_on_the_machine() -> None:
    """Functions with vectors wider and narrower than a register agree with the interpreter."""
    for width in (1, 2, 32):
        x = np.random.default_rng(0).standard_normal(64).astype(np.float32)
        agree(expand(elementwise("f32", width, "exp2")), ["x", "y"], 64 // width, {"x": x, "y": np.zeros_like(x)})


def test_arguments_are_read_by_entries_only() -> None:
    h = Hand("f64", 2)
    h.arg("i", 0)
    with pytest.raises(AssertionError, match="only an entry"):
        print_llvm(Loops("f64", 2, (Fn("other", (), h.fn("x").body), Hand("f64", 2).fn("main")), ("main",)), HOST)
