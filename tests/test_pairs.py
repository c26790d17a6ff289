"""Products of pairs of bfloat16: the instructions on every machine, and the formulas that use them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from chain import MINIATURES, Chain, stored
from loops_by_hand import FLOATS, Hand, agree, array, entry, packed, same_bits
from programs import numbered

import moa
from moa.backends.c_build import FLAGS, build, compiler
from moa.backends.llvm import host, print_llvm
from moa.backends.llvm_pairs import has_pairs
from moa.interp.floats import bf16_bits, bf16_value, dot2, pair
from moa.interp.loops import run
from moa.loops import Arg, Loops, Name, Op
from moa.lower.builder import Builder
from moa.lower.sums import lane_sums
from moa.numerics import error_bound
from moa.numerics.posy import number
from moa.oracle import evaluate, oracle
from moa.pipeline import place
from moa.text import MoaError
from moa.verify.expected import compared, expected

HOST = host()
PORTABLE = replace(HOST, features=HOST.features.replace("+avx512bf16", "-avx512bf16"))
ITEMS = 64
SEEDS = (*range(24), 264)  # the last one has rows in lanes that end before a vector does
SPECIAL = [
    0.0,
    -0.0,
    np.inf,
    -np.inf,
    np.nan,
    1.0,
    1.00390625,
    1.01171875,
    1e-39,
    -1e-45,
    1.1754943e-38,
    -1.18e-38,
    3e38,
]


def numbers(rng: np.random.Generator, count: int) -> np.ndarray[Any, Any]:
    """float32 of all sizes, among them ties between two bfloat16, numbers near the least normal one, and specials."""
    x = np.ldexp(rng.standard_normal(count), rng.integers(-8, 8, count)).astype(np.float32)
    x[::5] = np.ldexp(x[::5], rng.integers(-140, 120, len(x[::5])))
    x[1::7] = rng.choice(np.array(SPECIAL, np.float32), len(x[1::7]))
    x.view(np.uint32)[2::6] &= 0xFFFF8000
    return x


def hand(width: int) -> Loops:
    """y = dot2(x, pairs of a, pairs next to b and c); z = those pairs; u = dot2 of one pair for all lanes, of bits, of
    what is woven; t = x in bfloat16."""
    h = Hand("f32", width)
    a, b, c, x, y, z, u, t = (h.arg("p", k) for k in range(8))

    def body(item: Name) -> tuple[Arg, ...]:
        i = h.op("i", "imul", item, width)
        start = h.op("v", "load", x, i, attrs=("f32", False))
        left = h.op(
            "w", "load", h.op("p", "offset", a, h.op("i", "imul", i, 2), attrs=("bf16",)), 0, attrs=("pair", False)
        )
        right = h.op("w", "pair", *(h.op("v", "load", p, i, attrs=("f32", False)) for p in (b, c)))
        h.do("store", y, i, h.op("v", "dot2", start, left, right), attrs=("f32", False))
        h.do("store", t, i, start, attrs=("bf16", False))
        h.do("store", z, i, right, attrs=("pair", True))
        odd = h.op("p", "offset", a, h.op("i", "iadd", item, 1), attrs=("bf16",))
        one = h.op("w", "wsplat", h.op("i", "load", odd, 0, attrs=("pair", False)))
        low = h.op("w", "load", a, h.op("i", "iadd", i, 3), attrs=("bf16", False))
        mask = h.op("m", "first", h.op("i", "imod", item, width))
        some = h.op("w", "loadm", a, i, mask, attrs=("bf16", False))
        words = h.op("w", "wadd", h.op("w", "wmul", some, h.op("w", "wsplat", 65536)), low)
        for half in (0, 1):
            words = h.op("w", "weave", words, right if half else some, attrs=(half,))
        alone = h.op("w", "wsplat", h.op("i", "load", a, item, attrs=("bf16", False)))
        sums = h.op("v", "dot2", h.op("v", "dot2", start, one, words), alone, right)
        h.do("store", u, i, sums, attrs=("f32", False))
        return ()

    h.loop(h.params[1], h.params[2], (), body)
    return h.loops()


def same_halves(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    """Equal bfloat16, where any NaN equals any other."""
    return same_bits(bf16_value(a), bf16_value(b))


def data(width: int) -> dict[str, Any]:
    rng = np.random.default_rng(width)
    n = ITEMS * width
    out: dict[str, Any] = {"a": bf16_bits(numbers(rng, 2 * n + 16))}
    out |= {k: numbers(rng, n) for k in "bcx"}
    return out | {
        "y": np.zeros(n, np.float32),
        "z": np.zeros(n, np.uint32),
        "u": np.zeros(n, np.float32),
        "t": np.zeros(n, np.uint16),
    }


@pytest.mark.parametrize("width", [2, 4, 8, 16])
@pytest.mark.parametrize("target", [HOST, PORTABLE], ids=["host", "portable"])
def test_instructions_in_llvm(width: int, target: Any) -> None:
    agree(hand(width), list("abcxyzut"), ITEMS, data(width), [target])


@pytest.mark.skipif(not compiler(), reason="there is no C compiler")
@pytest.mark.parametrize("flags", [FLAGS, tuple(f for f in FLAGS if f != "-march=native")], ids=["host", "baseline"])
def test_instructions_in_c(flags: tuple[str, ...]) -> None:
    for width in (2, 16) if flags is FLAGS else (4,):
        loops, buffers = hand(width), data(width)
        built = build(loops, flags)
        meant, got = ({k: array(v, v.dtype) for k, v in buffers.items()} for _ in range(2))
        run(loops, loops.phases[0], list("abcxyzut"), 0, ITEMS, meant)
        entry(built.phases[0])(packed(list("abcxyzut"), got).ctypes.data, 0, ITEMS, 0)
        assert all(same_bits(meant[k], got[k]) for k in "yzu"), width
        assert same_halves(meant["t"], got["t"]), width


def test_meaning() -> None:
    """Rounded to even once; the upper product is added first; what is not normal is 0 of its sign."""
    low, high = np.array([1.00390625, 1.01171875, -1e-39], np.float32), np.array([-0.0, np.inf, 3.0], np.float32)
    words = pair(low, high).view(np.uint16).reshape(-1, 2)
    assert bf16_value(words[:, 0]).tolist() == [1.0, 1.015625, 0.0] and np.signbit(bf16_value(words[:, 0]))[2]
    assert bf16_value(words[:, 1]).tolist() == [0.0, np.inf, 3.0]
    one = np.ones(1, np.float32)
    first = dot2(-one, pair(one * 2.0**-30, one), pair(one, one))
    assert first.tolist() == [2.0**-30]
    assert dot2(one * 0, pair(one * 1e-38, one * 0), pair(one / 2, one * 0)).tolist() == [0.0]


ATTENTION = "softmax(Q @ K.T / sqrt(d)) @ V"
SHAPES = {"Q": "n d", "K": "m d", "V": "m dv"}
WINDOW = """
def window(Q[n, d], K[n, d], V[n, dv], w: int, lo: int):
    i, j = iota(n)[:, None], iota(n)
    return softmax(where((j <= i) & (i - j < w) & (j >= lo), Q @ K.T / sqrt(d), -inf)) @ V
"""
DOCUMENT = """
def document(Q[n, d], K[n, d], V[n, dv], doc: int[n], w: int):
    i, j = iota(n)[:, None], iota(n)
    return softmax(where((j <= i) & (i - j < w) & (doc[:, None] == doc), Q @ K.T / sqrt(d), -inf)) @ V
"""
LINEAR = """
def linear(Q[n, d], K[n, d], V[n, dv]):
    return where(iota(n) <= iota(n)[:, None], (elu(Q) + 1) @ (elu(K) + 1).T, 0) @ V
"""


GROUPED = "softmax(Q @ K[:, None].T / sqrt(d)) @ V[:, None]"
OF_GROUPED = {"Q": "g r n d", "K": "g m d", "V": "g m dv"}


def halves(rng: np.random.Generator, *shape: int) -> Any:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    return rng.standard_normal(shape).astype(ml_dtypes.bfloat16)


def check(source: Any, given: dict[str, Any], shapes: dict[str, str] | None = None, **how: Any) -> Any:
    """The result, close to the oracle's of the same numbers in units of the largest."""
    kernel = source
    if isinstance(source, str):
        kernel = moa.compile(source, dtype="bfloat16", **how, **(shapes or {}))
    found = kernel(**given)
    wide = {k: v.astype(np.float64) if getattr(v, "dtype", None) == found.dtype else v for k, v in given.items()}
    (exact,) = oracle(kernel.derivation.program, wide)
    got = found.astype(np.float64)
    assert np.array_equal(np.isnan(got), np.isnan(exact))
    np.testing.assert_allclose(got, exact, rtol=2.0**-7, atol=2.0**-8 * np.nanmax(np.abs(exact[np.isfinite(exact)])))
    return found


MANY = [(20, 1, 1, 1), (64, 192, 64, 64), (65, 193, 33, 17), (131, 387, 2, 40)]
FEW = [(1, 301, 64, 64), (1, 77, 70, 33), (3, 9, 96, 5), (4, 193, 64, 80), (5, 192, 128, 100)]


@pytest.mark.parametrize("n, m, d, dv", [*MANY, *FEW])
def test_attention(n: int, m: int, d: int, dv: int) -> None:
    rng = np.random.default_rng(n)
    check(ATTENTION, {"Q": halves(rng, n, d), "K": halves(rng, m, d), "V": halves(rng, m, dv)}, SHAPES)


def test_edges_inside_pairs() -> None:
    kernel = moa.compile(WINDOW, dtype="bfloat16")
    for n, w, lo in ((200, 37, 0), (131, 5, 3), (77, 400, 1), (65, 1, 0), (100, 20, 51)):
        rng = np.random.default_rng(n)
        check(kernel, {"Q": halves(rng, n, 24), "K": halves(rng, n, 24), "V": halves(rng, n, 24), "w": w, "lo": lo})


def test_documents_that_end_inside_pairs() -> None:
    rng = np.random.default_rng(0)
    doc = np.repeat(np.arange(6), [3, 50, 77, 1, 64, 92])
    n = len(doc)
    kernel = moa.compile(DOCUMENT, dtype="bfloat16")
    for w in (9, 36, 300):
        q, k, v = (halves(rng, n, 24) for _ in range(3))
        check(kernel, {"Q": q, "K": k, "V": v, "doc": doc, "w": w})


def test_arrays_that_are_not_contiguous() -> None:
    rng = np.random.default_rng(1)
    q, k, v = (halves(rng, 24, 90).T, halves(rng, 24, 301).T, halves(rng, 24, 301).T)
    for rows in (90, 3, 1):
        check(ATTENTION, {"Q": q[:rows], "K": k, "V": v}, SHAPES)
    both = halves(rng, 301, 2, 25)
    check(ATTENTION, {"Q": q[:, :23], "K": both[:, 0, 1:-1], "V": both[:, 1, 1:]}, SHAPES)


def test_values_that_are_not_finite() -> None:
    rng = np.random.default_rng(2)
    q, k, v = halves(rng, 70, 9), halves(rng, 35, 9), halves(rng, 35, 9)
    v[3, 2], v[34, 5], v[2, 1] = np.inf, np.nan, -np.inf
    q[5, 1] = np.nan
    found = check(ATTENTION, {"Q": q, "K": k, "V": v}, SHAPES)
    assert np.isnan(found.astype(np.float32)).sum() == 9 + 69


def test_other_products() -> None:
    rng = np.random.default_rng(3)
    a, b = halves(rng, 150, 65), halves(rng, 65, 77)
    check("A @ B", {"A": a, "B": b}, {"A": "n k", "B": "k m"})
    check("A.T @ B", {"A": a.T.copy(), "B": b}, {"A": "k n", "B": "k m"})
    check(LINEAR, {"Q": a, "K": halves(rng, 150, 65), "V": halves(rng, 150, 33)})


def test_few_rows_that_share_keys() -> None:
    rng = np.random.default_rng(6)
    kernel = moa.compile(GROUPED, dtype="bfloat16", **OF_GROUPED)
    for r, m, d, dv in ((4, 385, 64, 64), (3, 50, 40, 72), (8, 191, 33, 32), (2, 1, 64, 31)):
        check(kernel, {"Q": halves(rng, 2, r, 1, d), "K": halves(rng, 2, m, d), "V": halves(rng, 2, m, dv)})


@pytest.mark.skipif(not compiler(), reason="there is no C compiler")
def test_bits_of_both_backends() -> None:
    rng = np.random.default_rng(4)
    given = {"Q": halves(rng, 67, 19), "K": halves(rng, 67, 19), "V": halves(rng, 67, 21), "w": 30, "lo": 1}
    first, second = (moa.compile(WINDOW, dtype="bfloat16", backend=b)(**given) for b in ("llvm", "c"))
    assert np.array_equal(first.view(np.uint16), second.view(np.uint16))


def test_computed_factors_stay_as_they_are() -> None:
    """Where products are asked for in float32 only elements of arrays are multiplied in pairs: that is exact."""
    rng = np.random.default_rng(5)
    given = {"Q": halves(rng, 70, 64), "K": halves(rng, 390, 64), "V": halves(rng, 390, 64)}
    rounded = check(ATTENTION, given, SHAPES)
    exact = check(ATTENTION, given, SHAPES, products="float32")
    single = moa.compile(ATTENTION, dtype="float32", **SHAPES)(*(x.astype(np.float32) for x in given.values()))
    gap = np.abs(single - exact.astype(np.float32)).max() / np.abs(single).max()
    assert gap < 2.0**-8 and not np.array_equal(rounded.view(np.uint16), exact.view(np.uint16))


@pytest.mark.skipif(not has_pairs(HOST, 16), reason="this processor multiplies no pairs")
def test_tiles() -> None:
    """Both products of attention are taken of pairs; of arrays alone only the first one, where that is asked for."""
    for products, count in (("", 2), ("float32", 1)):
        kernel = moa.compile(ATTENTION, dtype="bfloat16", products=products, **SHAPES)
        assert kernel.explain("tiles").count(" by 2}") == count
    found = moa.compile(ATTENTION, dtype="float32", **SHAPES)
    assert " by 2}" not in found.explain("tiles")


def test_what_is_said_of_rounding() -> None:
    """The bound counts the rounding of computed factors: 2**-8 of each term of the sum, which is 2**16 u."""
    d = moa.compile(ATTENTION, dtype="bfloat16", **SHAPES).derivation
    plain, rounded = (error_bound(d, dtype="float32", factors=f).outputs[0].formula for f in (0.0, 2.0**-8))
    assert plain is not None and rounded is not None
    gap = (rounded + number(0.0)).terms
    more = {m: c - dict(plain.terms).get(m, 0.0) for m, c in gap if c != dict(plain.terms).get(m, 0.0)}
    assert {str(m[0][0]): c for m, c in more.items()} == {"max|V|": 2.0**16}
    said = moa.compile(ATTENTION, dtype="bfloat16", **SHAPES).explain()
    assert "a computed factor may be rounded to bfloat16" in " ".join(said.split())
    assert "computed factor" not in moa.compile("sum(X)", dtype="bfloat16", X="n").explain()


def test_products_that_there_are_not() -> None:
    for dtype, products in (("bfloat16", "float16"), ("float32", "bfloat16"), ("float64", "float32")):
        with pytest.raises(MoaError, match="products"):
            moa.compile("sum(X)", dtype=dtype, products=products, X="n")


def sums_by_hand(dtype: str, width: int, count: int) -> Loops:
    """y = the sums of the lanes of vectors at once, z = one by one."""
    h = Hand(dtype, width)
    x, y, z = (h.arg("p", k) for k in range(3))
    b = Builder("sums", None)
    vectors: list[Arg] = [b.new("v", 0) for _ in range(count)]
    sums = lane_sums(b, vectors, width)
    given = {v: h.op("v", "load", x, k * width, attrs=(dtype, False)) for k, v in enumerate(vectors)}
    for s in b.blocks[0].out:
        assert isinstance(s, Op) and s.result is not None
        given[s.result] = h.op(s.result.type, s.op, *(given[a] for a in s.args), attrs=s.attrs)
    for k, (v, s) in enumerate(zip(vectors, sums, strict=True)):
        h.do("store", y, k, given[s], attrs=(dtype, False))
        h.do("store", z, k, h.op("f", "reduce", given[v], attrs=("add",)), attrs=(dtype, False))
    return h.loops()


def sums_data(dtype: str, width: int, count: int) -> dict[str, Any]:
    kind = FLOATS[dtype]
    x = np.random.default_rng(count).standard_normal(count * width).astype(kind)
    if count > 20:
        x[::7], x[width] = np.inf, np.nan
    return {"x": x, "y": np.zeros(count, kind), "z": np.zeros(count, kind)}


SUMS = [("f32", 2, 5), ("f32", 4, 6), ("f32", 8, 13), ("f32", 16, 16), ("f32", 16, 23), ("f64", 4, 11), ("f64", 8, 15)]


@pytest.mark.parametrize(("dtype", "width", "count"), SUMS)
def test_sums_of_several_vectors_have_the_bits_of_one(dtype: str, width: int, count: int) -> None:
    data = sums_data(dtype, width, count)
    got = agree(sums_by_hand(dtype, width, count), list("xyz"), 1, data, [HOST])
    assert same_bits(got["y"], got["z"])
    assert count > 20 or np.unique(got["y"]).size == count


@pytest.mark.skipif(not compiler(), reason="there is no C compiler")
@pytest.mark.parametrize("flags", [FLAGS, tuple(f for f in FLAGS if f != "-march=native")], ids=["host", "baseline"])
def test_sums_in_c(flags: tuple[str, ...]) -> None:
    for dtype, width, count in SUMS if flags is FLAGS else SUMS[1::3]:
        data, loops = sums_data(dtype, width, count), sums_by_hand(dtype, width, count)
        got = {k: array(v, v.dtype) for k, v in data.items()}
        entry(build(loops, flags).phases[0])(packed(list("xyz"), got).ctypes.data, 0, 1, 0)
        meant = agree(loops, list("xyz"), 1, data, [HOST])
        assert all(same_bits(meant[k], got[k]) for k in "yz"), (dtype, width)


def test_neighbours_are_stored_at_once() -> None:
    """Where a lane and the next one are stored side by side, and nothing is read in between."""
    h = Hand("f32", 8)
    x, y = (h.arg("p", k) for k in range(2))

    def body(item: Name) -> tuple[Arg, ...]:
        start = h.op("i", "imul", item, 16)
        v = h.op("v", "load", x, start, attrs=("f32", False))
        lanes = [h.op("f", "extract", v, attrs=(k,)) for k in range(8)]
        for at, k in enumerate((0, 1, 3, 2, 5, 6, 6, 7)):  # two pairs, and what are none
            h.do("store", y, h.op("i", "iadd", start, at) if at else start, lanes[k], attrs=("f32", False))
        h.do("store", y, h.op("i", "iadd", start, 8), lanes[4], attrs=("f32", False))
        read = h.op("f", "load", y, h.op("i", "iadd", start, 8), attrs=("f32", False))
        h.do("store", y, h.op("i", "iadd", start, 9), lanes[5], attrs=("f32", False))
        h.do("store", y, h.op("i", "iadd", start, 11), lanes[6], attrs=("f32", False))
        h.do("store", y, h.op("i", "iadd", start, 12), read, attrs=("f32", False))
        h.do("store", y, h.op("i", "iadd", start, 13), lanes[7], attrs=("f32", False))
        return ()

    h.loop(h.params[1], h.params[2], (), body)
    data = {"x": np.random.default_rng(0).standard_normal(48).astype(np.float32), "y": np.zeros(48, np.float32)}
    agree(h.loops(), list("xy"), 3, data, [HOST])
    assert print_llvm(h.loops(), HOST).count("store <2 x float>") == 2


def test_random_programs_interpreted() -> None:
    """Loops of small tiles, instruction by instruction: scratch that was never written is NaN."""
    paired = 0
    for seed in SEEDS:
        c = Chain(replace(numbered(seed), data="plain"), "f32")
        with np.errstate(all="ignore"):
            for p in c.case.params:
                if p.kind == "f" and p.axes:
                    c.arrays[p.name] = bf16_value(bf16_bits(c.arrays[p.name]))
        c.data = {k: c.arrays[k] for k in c.data}
        strategy = replace(MINIATURES[seed % len(MINIATURES)], pairs="rounded")
        unit = frozenset(c.derivation.streamed.outputs) | stored(c.derivation) | frozenset(c.data)
        placed = place(c.derivation, strategy, "f32", {}, unit, "bf16")
        paired += " by 2}" in str(placed.tiles)
        memory, hosts = c.memory(placed)
        short = [a.name for a in placed.tiles.arrays if a.kind == "f" and a.role != "workspace"]
        memory |= {k: bf16_bits(memory[k]).reshape(memory[k].shape) for k in short}
        args = c.slots(placed, memory, hosts)
        scratch = evaluate(placed.lowered.scratch_bytes, c.sizes)
        for phase, items in zip(placed.lowered.loops.phases, placed.lowered.items, strict=True):
            run(placed.lowered.loops, phase, args, 0, evaluate(items, c.sizes), memory, scratch)
        outputs = c.derivation.streamed.outputs
        got = tuple(bf16_value(memory[o]).astype(np.float64) if o in short else memory[o] for o in outputs)
        want = expected(c.program, c.arrays, "bfloat16")
        assert not compared(got, want, c.normal(), undefined=True), (seed, strategy)
    assert paired >= len(SEEDS) // 4
