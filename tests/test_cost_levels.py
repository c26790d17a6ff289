"""What is predicted at each level of memory, against simulated caches that see every address the kernel touches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

import moa
from moa.backends.llvm import host
from moa.backends.llvm_pairs import has_pairs
from moa.cost import cost
from moa.cost.levels import FORMULAS, SCRATCH, Traffic, levels_of, traffic_of
from moa.cost.predicted import Sized, predicted_bytes, walked
from moa.cost.shares import moved_by_array, shares_of
from moa.explain import cost_of, last
from moa.forms import chosen
from moa.given import made
from moa.kernel import Kernel
from moa.machine import Machine, Memory, machine_of
from moa.measure.inputs import arguments
from moa.measure.simulated import SimulatedLevel, simulate
from moa.normal import loads
from moa.poly import const
from moa.storage import computed
from moa.text import MoaError
from moa.tiles import Loop, Nest, Tiles, TileStmt

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
KIB = 1 << 10
WITHIN = 0.02
IN_PAIRS = " in pairs"


@dataclass(frozen=True)
class Case:
    """A kernel, its sizes, and caches on both sides of what changes there.

    lead   what `...` stands for
    dtype  of arrays; with IN_PAIRS its products are taken of pairs where the processor has them
    form   the beginning of the name of its form, "" for the one that is chosen
    """

    program: str
    sizes: tuple[tuple[str, int], ...]
    kib: tuple[int, ...]
    regimes: tuple[str, ...]
    lead: tuple[int, ...] = ()
    dtype: str = "float32"
    form: str = ""

    @property
    def runs(self) -> bool:
        return not self.dtype.endswith(IN_PAIRS) or has_pairs(host(), 16)


@pytest.fixture(autouse=True)
def _usual_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches of the cases are those between which tiles of the usual rows change their regime."""
    monkeypatch.setattr("moa.candidates.FEW_ITEMS", 2)


SHORT = {
    "less": "tile larger", "again": "streamed again", "shared": "shared stays", "some": "shared stays for some items",
    "all": "all stays",
}  # fmt: skip


def case(
    program: str, caches: str, lead: tuple[int, ...] = (), dtype: str = "float32", form: str = "", **s: int
) -> Case:
    """caches: KiB and the regime, of each."""
    words = caches.split()
    regimes = tuple(SHORT[w] for w in words[1::2])
    return Case(program, tuple(s.items()), tuple(map(int, words[::2])), regimes, lead, dtype, form)


AGAIN, SHARED, ALL, LESS = (SHORT[w] for w in ("again", "shared", "all", "less"))
CARRIED, CHUNKS, PARTS = "open r0 in r1, r2; carry", "open r0 in r1, r2; chunk", "in parts"
CASES = {
    "full": case("attention", "32 less 64 less 344 again 400 shared 700 all", n=512, m=512, dk=64, dv=64),
    "tails": case("attention", "24 less 128 less 184 again 224 shared 300 all", n=331, m=509, dk=40, dv=24),
    "heads": case("attention", "344 again 400 shared", (2,), n=200, m=512, dk=64, dv=64),
    "many heads": case("attention", "32 less 344 shared 400 shared", (2, 7), n=150, m=450, dk=64, dv=64),
    "float64": case("attention", "340 again 900 all", (), "float64", n=200, m=400, dk=64, dv=64),
    "bfloat16": case("attention", "200 again 240 shared", (), "bfloat16", n=200, m=512, dk=64, dv=64),
    "pairs": case("attention", "240 again 280 shared", (), f"bfloat16{IN_PAIRS}", n=200, m=512, dk=64, dv=64),
    "causal": case("causal", "32 less 96 less 360 some 400 some 480 shared 900 all", n=700, dk=64, dv=64),
    "causal tails": case("causal", "230 some 300 shared 500 all", n=597, dk=32, dv=48),
    "short heads": case("causal", "160 less 288 shared 320 shared 352 shared 384 shared", (3,), n=300, dk=64, dv=64),
    "window": case("window", "24 less 128 less 208 shared 1024 all", n=700, dk=64, dv=64, w=100),
    "window tails": case("window", "144 shared 800 all", n=517, dk=40, dv=24, w=77),
    "shared heads": case("gqa", "48 less 344 again 400 shared 2048 all", b=2, g=1, r=2, n=130, m=512, dk=64, dv=64),
    "one row": case("attention", "32 less 256 shared 600 all", n=1, m=1000, dk=64, dv=64),
    "one row in parts": case("attention", "24 less 128 less 256 shared 900 all", form=PARTS, n=1, m=1500, dk=64, dv=64),
    "linear": case("linear", "16 shared 48 shared 512 all", n=300, dk=32, dv=32),
    "carried": case("linear", "16 less 32 less 48 shared 512 all", form=CARRIED, n=60, dk=64, dv=64),
    "linear as written": case("linear", "48 less 128 less 448 shared 512 shared", form="as w", n=700, dk=64, dv=64),
    "stored": case(
        "linear", "24 less 64 less 256 shared 600 shared 1024 shared 2048 all", form=CHUNKS, n=900, dk=32, dv=32
    ),
    "stored tails": case("linear", "64 less 256 shared 512 shared 1536 all", form=CHUNKS, n=701, dk=32, dv=40),
    "vectors of rows": case("causal", "16 less 24 less 48 less 64 less", n=300, dk=64, dv=64),
    "float64 below a tile": case(
        "gqa", "9 less 13 less 16 less 18 less 20 less", (), "float64", b=1, g=1, r=1, n=200, m=209, dk=64, dv=64
    ),
    "few rows": case("attention", "16 less 20 less", (2,), f"bfloat16{IN_PAIRS}", n=15, m=792, dk=16, dv=64),
    "linear with wide rows": case("linear", "18 less 20 less 22 less 26 less", form="as w", n=200, dk=80, dv=80),
    "one row of groups": case("gqa", "9 less 11 less 13 less", (), "bfloat16", b=2, g=2, r=4, n=1, m=512, dk=64, dv=64),
    "narrow rows": case("gqa", "5 less 6 less 9 shared", (), "float64", b=1, g=2, r=1, n=33, m=64, dk=3, dv=3),
    "narrow parts": case("attention", "7 less 8 less 9 less", form=PARTS, n=15, m=509, dk=17, dv=17),
    "few keys": case("attention", "21 less 24 less 32 shared", (1,), n=150, m=17, dk=17, dv=17),
    "narrow window": case("window", "4 all", n=97, dk=1, dv=1, w=17),
    "short rows of pairs": case(
        "gqa", "7 less 12 less", (), f"bfloat16{IN_PAIRS}", PARTS, b=3, g=2, r=3, n=17, m=63, dk=16, dv=16
    ),
    "linear in parts": case("linear", "4 less 6 less 37 all", (2,), "float16", PARTS, n=65, dk=17, dv=17),
    "wide rows": case("linear", "9 less 20 less 41 less", (), "bfloat16", "as w", n=33, dk=128, dv=128),
    "stored parts": case(
        "attention", "64 less 344 some 400 shared 640 shared 1280 all", form=PARTS, n=192, m=1100, dk=64, dv=64
    ),
}  # fmt: skip


def fresh(program: str) -> Kernel:
    """A kernel that has not run: its cost is that of the variant for many rows."""
    return made(str(EXAMPLES / f"{program}.moa"), None, "float32")


@cache
def kernel_of(program: str, dtype: str, form: str) -> Kernel:
    k = made(str(EXAMPLES / f"{program}.moa"), None, dtype.removesuffix(IN_PAIRS))
    if not dtype.endswith(IN_PAIRS):
        k.products = computed(dtype)
    return k


def machine(*kib: int) -> Machine:
    caches = tuple(Memory(f"L{k + 1}", c * KIB, 1e9, 1.0) for k, c in enumerate(kib))
    rates = (("float64", 1e9), ("float32", 1e9))
    return Machine("small", "small caches", 1, 64, rates, rates, (*caches, Memory("DRAM", None, 1e9, 100.0)))


def sizes_of(c: Case) -> dict[str, int]:
    return dict(c.sizes) | {f"batch{k}": n for k, n in enumerate(c.lead)}


@cache
def seen(name: str) -> tuple[tuple[SimulatedLevel, ...], Tiles, Traffic]:
    """(each cache alone, simulated; the tiles that ran; what is predicted of them)."""
    c = CASES[name]
    k = kernel_of(c.program, c.dtype, c.form)
    values = arguments(k, (), dict(c.sizes), c.lead)
    with mock.patch("moa.kernel.chosen", partial(formed, c.form)):
        levels = tuple(simulate(k, values, [kib * KIB]).levels[0] for kib in c.kib)
    placed = last(k)[2]
    assert placed is not None
    return levels, placed.tiles, traffic_of(placed.tiles, k._element, k._stored, placed.strategy.width)


def formed(name: str, forms: tuple[Any, ...], *at: Any, **more: Any) -> Any:
    return next(f for f in forms if f.name.startswith(name)) if name else chosen(forms, *at, **more)


@pytest.mark.parametrize("name", CASES)
def test_predicted_is_what_caches_see(name: str) -> None:
    c = CASES[name]
    if not c.runs:
        pytest.skip("this processor multiplies no pairs of bfloat16")
    simulated, _, traffic = seen(name)
    for kib, regime, x in zip(c.kib, c.regimes, simulated, strict=True):
        (level,) = levels_of(traffic, machine(kib), sizes_of(c))
        assert level.regime == regime, (kib, traffic.tile_bytes(sizes_of(c)))
        assert level.predicted_bytes == pytest.approx(x.moved_bytes, rel=WITHIN), kib
        assert level.compulsory_bytes <= level.lower_bound_bytes <= x.moved_bytes
        assert level.lower_bound_bytes <= level.conjectured_bound_bytes <= x.moved_bytes


def test_levels_behind_one_another() -> None:
    """A level sees what the nearer ones miss: scratch no longer, once one of them holds a tile."""
    k = fresh("attention")
    sizes = {"n": 512, "m": 512, "dk": 64, "dv": 64}
    caches = (320, 344, 640)
    moved = simulate(k, arguments(k, (), sizes, ()), [kib * KIB for kib in caches]).levels
    found = k.cost(machine(*caches), **sizes)
    for level, x in zip(found.beside(moved), moved, strict=True):
        assert level.measured_bytes == x.moved_bytes and level.conflict_bytes is None
        assert level.predicted_bytes == pytest.approx(level.measured_bytes, rel=WITHIN)
    assert [x.regime for x in found.levels] == [AGAIN, SHARED, ALL]
    assert all(level.measured_bytes is None for level in found.levels)


# a wrong prediction is seen ------------------------------------------------------------------------------------------


def off(traffic: Traffic, name: str) -> bool:
    """Whether some level is off by more than is allowed."""
    c = CASES[name]
    for kib, x in zip(c.kib, seen(name)[0], strict=True):
        (level,) = levels_of(traffic, machine(kib), sizes_of(c))
        if level.predicted_bytes != pytest.approx(x.moved_bytes, rel=WITHIN):
            return True
    return False


def with_tiles(right: Traffic, tiles: Tiles) -> Traffic:
    return traffic_of(tiles, right.dtype, None, right.width)


@pytest.mark.parametrize("name", ["full", "causal", "window", "shared heads", "stored"])
def test_a_wrong_tile_is_off(name: str) -> None:
    _, tiles, right = seen(name)
    assert not off(right, name)
    for wrong in (2, 4):
        phases = tuple(
            replace(p, axes=tuple(replace(a, step=a.step // wrong) if a.step > wrong else a for a in p.axes))
            for p in tiles.phases
        )
        assert off(with_tiles(right, replace(tiles, phases=phases)), name)


def without_statements(body: tuple[TileStmt, ...]) -> Iterator[tuple[TileStmt, ...]]:
    """The body without one of its statements that touch memory, and with a loop that ends early."""
    for k, s in enumerate(body):
        if isinstance(s, Loop):
            for inner in (replace(s, hi=s.hi - 64), *(replace(s, body=b) for b in without_statements(s.body))):
                yield (*body[:k], inner, *body[k + 1 :])
        if isinstance(s, Nest):
            for j, x in enumerate(s.statements):
                if any(a in ("Q", "K", "V", "out") for a, _ in (*loads(x.value), *loads(x.target))):
                    kept = replace(s, statements=(*s.statements[:j], *s.statements[j + 1 :]))
                    yield (*body[:k], kept, *body[k + 1 :])


@pytest.mark.parametrize("name", ["tails", "causal"])
def test_a_missing_visit_is_off(name: str) -> None:
    _, tiles, right = seen(name)
    (phase,) = tiles.phases
    bodies = list(without_statements(phase.body))
    assert len(bodies) >= 5
    for body in bodies:
        assert off(with_tiles(right, replace(tiles, phases=(replace(phase, body=body),))), name), body


def closed_forms_off(traffic: Traffic, name: str) -> bool:
    """Whether a closed form is off, or is not given at all."""
    c = CASES[name]
    for kib, regime, x in zip(c.kib, c.regimes, seen(name)[0], strict=True):
        (level,) = levels_of(traffic, machine(kib), sizes_of(c))
        if regime != LESS and level.closed_form_bytes != pytest.approx(x.moved_bytes, rel=WITHIN):
            return True
    return False


def terms(traffic: Traffic) -> Iterator[Traffic]:
    for field in ("cold", "whole"):
        count = getattr(traffic, field)
        for k in range(len(count.sums)):
            yield replace(traffic, **{field: replace(count, sums=(*count.sums[:k], *count.sums[k + 1 :]))})
    for item in traffic.items:
        none = tuple(replace(p, shared=const(0)) for p in item.pairs)
        yield replace(traffic, items=(replace(item, pairs=none),))


@pytest.mark.parametrize("name", ["full", "causal", "shared heads"])
def test_a_missing_term_is_off(name: str) -> None:
    right = seen(name)[2]
    assert not closed_forms_off(right, name)
    found = list(terms(right))
    assert len(found) >= 3 and all(closed_forms_off(t, name) for t in found)


def test_what_is_too_long_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of work items and nests at once, where a walk block by block would take long."""
    for name in ("causal", "window", "full", "stored tails", "many heads"):
        traffic, at = seen(name)[2], sizes_of(CASES[name])
        tile = traffic.tile_bytes(at)
        caches = (32 * KIB, tile // 2, 2 * tile)
        sized = Sized(traffic.tiles, traffic.dtype, traffic.each, traffic.width, tuple(at.items()))
        whole = [predicted_bytes(sized, (c,), tile)[0] for c in caches]
        with monkeypatch.context() as m:
            m.setattr("moa.cost.predicted.visits_about", lambda kernel, few: 1 << 62)
            predicted_bytes.cache_clear()
            found = predicted_bytes(sized, caches, tile)
            for x, y in zip(found, whole, strict=True):
                assert x is None or x == pytest.approx(y, rel=WITHIN), name
            assert found[2] is not None and (None not in found or name in ("stored tails", "many heads"))
            m.setattr("moa.cost.predicted.MOST", 10)
            predicted_bytes.cache_clear()
            walked.cache_clear()
            assert predicted_bytes(sized, caches, tile) == (None, None, None)
        predicted_bytes.cache_clear()


SEGMENTS = """def f(Q[n, d], K[m, d], V[m, d], a: int[n], b: int[m]):
    return softmax(where(a[:, None] == b, Q @ K.T, -inf)) @ V
"""
LENGTHS = """def f(Q[b, n, d], K[b, m, d], V[b, m, d], length: int[b]):
    return softmax(where(iota(m) < length[:, None, None], Q @ transpose(K, [0, 2, 1]), -inf)) @ V
"""


@pytest.mark.parametrize("name", ["gather", "gathered", "segments", "lengths", "sorted"])
def test_what_data_decide_has_a_bound(name: str) -> None:
    """At most so much: more than any data move, and no longer so where nothing depends on data."""
    rng = np.random.default_rng(0)
    X, Q, K = (rng.standard_normal((n, 64), dtype=np.float32) for n in (300, 60, 300))
    idx = rng.integers(0, 300, 150)
    kernel, values = {
        "gather": (moa.compile("X[idx] * 2", X="n d", idx="int r", dtype="float32"), [(X, idx)]),
        "gathered": (
            moa.compile("softmax(Q @ K[idx].T) @ K[idx]", Q="n d", K="m d", idx="int r", dtype="float32"),
            [(Q, K, idx), (Q, K, np.arange(150))],
        ),
        "segments": (
            moa.compile(SEGMENTS, dtype="float32"),
            [(Q, K, K, np.arange(60) // 20, np.arange(300) // 100), (Q, K, K, np.zeros(60, int), np.zeros(300, int))],
        ),
        "lengths": (
            moa.compile(LENGTHS, dtype="float32"),
            [(np.stack([Q] * 2), np.stack([K] * 2), np.stack([K] * 2), np.array(n)) for n in ((300, 300), (3, 170))],
        ),
        "sorted": (moa.compile("X[argsort(sum(X, axis=1))]", X="n d", dtype="float32"), [(X,)]),
    }[name]
    for given in values:
        for level in kernel.measure(*given, caches=[(512 * KIB, 0), (4096 * KIB, 0)]).predicted:
            assert level.at_most and level.regime != LESS
            assert level.predicted_bytes >= 0.98 * level.measured_bytes, (name, level)
            assert level.predicted_bytes <= 4 * level.measured_bytes or name == "lengths"
    shown = str(kernel.measure(*given, caches=[(512 * KIB, 0)]))
    assert "at most" in shown


def test_below_a_tile_there_is_no_bound() -> None:
    k = moa.compile(SEGMENTS, dtype="float32")
    found = k.cost(machine(4, 512), n=100, m=400, d=64)
    assert [x.predicted_bytes is None for x in found.levels] == [True, False]
    assert "not predicted" in str(found) and "at most: data say what is visited" in str(found)
    assert not any(x.at_most for x in fresh("attention").cost(machine(512), n=9, m=9, dk=8, dv=8).levels)


# formulas, and what a user sees --------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["attention", "causal"])
def test_a_formula_has_the_value(program: str) -> None:
    import sympy

    k = fresh(program)
    sizes = {x: {"n": 512, "m": 512, "dk": 64, "dv": 64}[x] for x in k._names()}
    c = cost_of(k, machine(360, 420, 2048), **sizes)
    scratch = c.traffic.scratch_bytes(sizes)  # type: ignore[union-attr]
    for level in c.levels:
        f = c.formula(level.name)
        at: dict[Any, int] = {
            x: {**sizes, "M_bytes": level.capacity_bytes, "scratch_bytes": scratch}[x.name] for x in f.free_symbols
        }
        assert sympy.simplify(f.subs(at).doit()) == level.closed_form_bytes


def valued(f: Any, level: Any, sizes: dict[str, int], scratch: int) -> float:
    known = {**sizes, "M_bytes": level.capacity_bytes, "scratch_bytes": scratch}
    return float(f.subs({x: known[x.name] for x in f.free_symbols}).doit())


@pytest.mark.parametrize(
    ("name", "kib", "more"),
    [
        ("full", "32 300 344", {"n": 64}),  # below a tile, and where one fits
        ("causal", "96 330 360", {"n": 64}),
        ("short heads", "300 352 384", {"batch0": 3}),  # two heads in the cache together
        ("stored", "64 600 2048", {"n": 64}),  # arrays between phases: some stay, all stay
        ("carried", "16 32 48", {"n": 20}),
    ],
)
def test_formulas_where_no_closed_form_is(name: str, kib: str, more: dict[str, int]) -> None:
    """Within 2 % of the walk on both sides of each cliff, and of the walk at sizes nearby at which the same stays."""
    c = CASES[name]
    k, sizes = kernel_of(c.program, c.dtype, c.form), sizes_of(c)
    form = formed(c.form, k._front(len(c.lead)).forms, sizes, 1).name
    placed = k.placed_at(sizes, form, None, len(c.lead))
    d = replace(k._derive(len(c.lead)), streamed=k._formed(len(c.lead), form).streamed)
    kinds = set()
    for n in map(int, kib.split()):
        found = cost(d, placed, machine(n), c.dtype, **sizes)
        (level,) = found.levels
        f = found.formula(level.name)
        assert f is not None, found.formula_is(level.name)
        kinds.add(found.formula_is(level.name))
        assert f.free_symbols and level.predicted_bytes is not None
        scratch = found.traffic.scratch_bytes(sizes)  # type: ignore[union-attr]
        assert valued(f, level, sizes, scratch) == pytest.approx(level.predicted_bytes, rel=0.02), n
        if found.formula_is(level.name) == FORMULAS[0]:
            continue
        near = {a: v + more.get(a, 0) for a, v in sizes.items()}
        (other,) = cost(d, placed, machine(n), c.dtype, **near).levels
        if other.regime == level.regime:
            assert valued(f, level, near, scratch) == pytest.approx(other.predicted_bytes, rel=0.06), n
    assert kinds == set(FORMULAS)


def test_of_a_long_kernel_shares_are_counted_where_it_is_shorter() -> None:
    """And where they are not those of the long one, that is said."""
    k, sizes = fresh("attention"), {"n": 2048, "m": 3072, "dk": 64, "dv": 64}
    found = cost_of(k, machine(48, 344), **sizes)
    f, level = found.formula("L1"), found.levels[0]
    assert found.formula_is("L1") == FORMULAS[1] and found.formula_is("L2") == FORMULAS[0]
    assert valued(f, level, sizes, 0) == pytest.approx(level.predicted_bytes, rel=0.02)

    def without_scratch(*at: Any) -> dict[str, int]:
        return {a: n for a, n in moved_by_array(*at).items() if a}

    shares_of.cache_clear()
    with mock.patch("moa.cost.shares.moved_by_array", without_scratch):
        assert found.formula("L1") is None and "2 % away" in found.formula_is("L1")
    shares_of.cache_clear()


def test_without_end_each_byte_moves_once() -> None:
    """M to infinity: n dk + m dk + m dv + n dv words; beyond that, only results that are read first, and scratch."""
    import sympy

    k = fresh("attention")
    sizes = {"n": 512, "m": 512, "dk": 64, "dv": 64}
    c = cost_of(k, machine(1 << 20), **sizes)
    n, m, dk, dv = (sympy.Symbol(s, integer=True, nonnegative=True) for s in ("n", "m", "dk", "dv"))
    scratch = sympy.Symbol("scratch_bytes", integer=True, nonnegative=True)
    assert sympy.expand(c.formula("L1") - 4 * (n * dk + m * dk + m * dv + 2 * n * dv) - 2 * scratch) == 0
    (level,) = c.levels
    assert level.compulsory_bytes == level.attainable_bytes == level.conjectured_bound_bytes == 4 * 4 * 512 * 64


def test_bounds_and_regimes_by_capacity() -> None:
    """Bounds fall with the capacity and are in order; where a tile does not fit there is no closed form."""
    k = fresh("attention")
    sizes = {"n": 4096, "m": 4096, "dk": 64, "dv": 64}
    found = cost_of(k, machine(32, 512, 1024, 4096, 16384), **sizes).levels
    assert [x.regime for x in found] == ["tile larger", AGAIN, AGAIN, SHARED, ALL]
    assert found[0].closed_form_bytes is None
    for x in found:
        assert x.compulsory_bytes <= x.conjectured_bound_bytes <= (x.predicted_bytes or 0)
        assert x.attainable_bytes is not None and x.attainable_bytes <= (x.predicted_bytes or 0)
    conjectured = [x.conjectured_bound_bytes for x in found]
    assert conjectured == sorted(conjectured, reverse=True)
    words = 4096 * 4096 * 128 * 128 // (32 * KIB // 4) - 32 * KIB // 4
    assert conjectured[0] == 4 * words  # n m (dk + dv)^2 / M - M


def test_certified_and_conjectured_bounds() -> None:
    """n m dk^2 / (M + 2 dk sqrt(M)) - M words, and below about d^2 / 2 words of cache what storing scores moves."""
    sizes = {"n": 4096, "m": 4096, "dk": 64, "dv": 64}
    k = fresh("attention")
    found = k.cost(machine(4, 32, 256), **sizes).levels
    pairs = 4096 * 4096
    for x in found[:2]:
        words = x.capacity_bytes // 4
        certified = pairs * 64**2 / (words + 128 * words**0.5) - words
        assert x.lower_bound_bytes == pytest.approx(4 * certified, abs=4) and x.lower_bound_bytes > x.compulsory_bytes
    assert found[2].lower_bound_bytes == found[2].compulsory_bytes
    streamed, stored = (pairs * 128**2 / 1024, 2 * pairs * (1 + 128 / 32))
    assert stored < streamed and found[0].conjectured_bound_bytes == pytest.approx(4 * (stored - 1024), abs=8)
    (product,) = k.cost(machine(4), **sizes).traffic.products
    assert str(product.pairs) == "m*n" and str(product.depth) == "dk"
    causal = fresh("causal").cost(machine(4), n=700, dk=64, dv=64).traffic.products
    assert causal[0].pairs.value({"n": 700, "dk": 64, "dv": 64}) == sum(
        64 * t * min(64, 700 - 64 * t) for t in range(11)
    )
    one = moa.compile("A @ B.T", A="n k", B="m k", dtype="float32").cost(machine(4), n=600, m=600, k=600)
    assert one.levels[0].lower_bound_bytes > one.levels[0].compulsory_bytes
    for no_product in ("sum(X * Y, axis=1)", "exp(X) + Y"):
        assert not moa.compile(no_product, X="n m", Y="n m").cost(machine(4), n=9, m=9).traffic.products


def test_time_energy_and_table() -> None:
    sizes = {"n": 4096, "m": 4096, "dk": 64, "dv": 64}
    k = fresh("attention")
    c = k.cost("zen4-server", **sizes)
    m = machine_of("zen4-server")
    times = dict(c.times_s())
    assert times["flops"] == c.number("flops") / 234.6e9
    assert times["DRAM"] == c.levels[-1].predicted_bytes / m.levels[-1].bytes_per_s
    moved = sum(x.predicted_bytes * y.pj_per_byte for x, y in zip(c.levels, m.levels[1:], strict=True))
    assert c.energy_j() == pytest.approx((c.number("flops") * 0.85 + moved) * 1e-12)
    shown = str(c)
    assert "bytes beyond L2, 1 MiB" in shown and "tile larger" in shown and "energy, a model" in shown
    assert "conjectured, not proved" in shown
    assert k.cost(**sizes).levels == () and k.cost("zen4-server").levels == () == k.cost("zen4-server").times_s()
    with pytest.raises(MoaError, match="there is no machine 'zen5'"):
        k.cost("zen5", **sizes)


def test_scratch_is_what_is_touched() -> None:
    """A window never fills the tile of scores: its rounds are shorter."""
    traffic = seen("window")[2]
    sizes = sizes_of(CASES["window"])
    long = sizes_of(CASES["window"]) | {"w": 700}
    assert traffic.scratch_bytes(sizes) < traffic.scratch_bytes(long)
    assert traffic.cold.value({**sizes, SCRATCH: 0}) + 2 * traffic.scratch_bytes(sizes) == traffic.cold.value(
        {**sizes, SCRATCH: traffic.scratch_bytes(sizes)}
    )
