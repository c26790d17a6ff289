"""What is predicted at each level of memory, against simulated caches that see every address the kernel touches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from moa.cost.levels import SCRATCH, Traffic, levels_of, traffic_of
from moa.explain import cost_of, last
from moa.given import made
from moa.kernel import Kernel
from moa.machine import Machine, Memory, machine_of
from moa.measure.inputs import arguments
from moa.measure.simulated import SimulatedLevel, simulate
from moa.poly import const
from moa.text import MoaError
from moa.tiles import Tiles

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
KIB = 1 << 10
WITHIN = 0.02


@dataclass(frozen=True)
class Case:
    """A kernel, its sizes, and caches on both sides of what changes there; `lead` is what `...` stands for."""

    program: str
    sizes: tuple[tuple[str, int], ...]
    kib: tuple[int, ...]
    regimes: tuple[str, ...]
    lead: tuple[int, ...] = ()
    dtype: str = "float32"


def case(program: str, kib: str, regimes: str, lead: tuple[int, ...] = (), dtype: str = "float32", **s: int) -> Case:
    return Case(program, tuple(s.items()), tuple(map(int, kib.split())), tuple(regimes.split(", ")), lead, dtype)


AGAIN, SHARED, SOME, ALL = "streamed again", "shared stays", "shared stays for some items", "all stays"
CASES = {
    "full": case("attention", "344 400 700", f"{AGAIN}, {SHARED}, {ALL}", n=512, m=512, dk=64, dv=64),
    "tails": case("attention", "184 224 300", f"{AGAIN}, {SHARED}, {ALL}", n=331, m=509, dk=40, dv=24),
    "heads": case("attention", "344 400", f"{AGAIN}, {SHARED}", (2,), n=200, m=512, dk=64, dv=64),
    "float64": case("attention", "340 900", f"{AGAIN}, {ALL}", (), "float64", n=200, m=400, dk=64, dv=64),
    "bfloat16": case("attention", "200 240", f"{AGAIN}, {SHARED}", (), "bfloat16", n=200, m=512, dk=64, dv=64),
    "causal": case("causal", "360 480 900", f"{SOME}, {SHARED}, {ALL}", n=700, dk=64, dv=64),
    "causal tails": case("causal", "230 300 500", f"{SOME}, {SHARED}, {ALL}", n=597, dk=32, dv=48),
    "window": case("window", "208 1024", f"{SHARED}, {ALL}", n=700, dk=64, dv=64, w=100),
    "window tails": case("window", "144 800", f"{SHARED}, {ALL}", n=517, dk=40, dv=24, w=77),
    "shared heads": case("gqa", "344 400 2048", f"{AGAIN}, {SHARED}, {ALL}", b=2, g=1, r=2, n=130, m=512, dk=64, dv=64),
    "one row": case("attention", "256 600", f"{SHARED}, {ALL}", n=1, m=1000, dk=64, dv=64),
    "linear": case("linear", "16 48 512", f"{SHARED}, {SHARED}, {ALL}", n=300, dk=32, dv=32),
}  # fmt: skip


def fresh(program: str) -> Kernel:
    """A kernel that has not run: its cost is that of the variant for many rows."""
    return made(str(EXAMPLES / f"{program}.moa"), None, "float32")


@cache
def kernel_of(program: str, dtype: str) -> Kernel:
    return made(str(EXAMPLES / f"{program}.moa"), None, dtype)


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
    k = kernel_of(c.program, c.dtype)
    values = arguments(k, (), dict(c.sizes), c.lead)
    levels = tuple(simulate(k, values, [kib * KIB]).levels[0] for kib in c.kib)
    tiles = last(k)[2].tiles  # type: ignore[union-attr]
    return levels, tiles, traffic_of(tiles, k._element, k._stored)


@pytest.mark.parametrize("name", CASES)
def test_predicted_is_what_caches_see(name: str) -> None:
    c = CASES[name]
    simulated, _, traffic = seen(name)
    for kib, regime, x in zip(c.kib, c.regimes, simulated, strict=True):
        (level,) = levels_of(traffic, machine(kib), sizes_of(c))
        assert level.regime == regime, (kib, traffic.tile_bytes(sizes_of(c)))
        assert level.predicted_bytes == pytest.approx(x.moved_bytes, rel=WITHIN), kib
        assert level.compulsory_bytes == level.lower_bound_bytes <= x.moved_bytes


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
    """Whether some level is off by more than is allowed, or in another regime."""
    c = CASES[name]
    for kib, regime, x in zip(c.kib, c.regimes, seen(name)[0], strict=True):
        (level,) = levels_of(traffic, machine(kib), sizes_of(c))
        if level.regime != regime or level.predicted_bytes != pytest.approx(x.moved_bytes, rel=WITHIN):
            return True
    return False


@pytest.mark.parametrize("name", ["full", "causal", "window", "shared heads"])
def test_a_wrong_tile_is_off(name: str) -> None:
    _, tiles, right = seen(name)
    assert not off(right, name)
    (phase,) = tiles.phases
    axes = tuple(replace(a, step=a.step // 2) if a.role == "item" and a.step > 1 else a for a in phase.axes)
    assert off(traffic_of(replace(tiles, phases=(replace(phase, axes=axes),)), "f32"), name)


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
    found = list(terms(seen(name)[2]))
    assert len(found) >= 3 and all(off(t, name) for t in found)


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
        assert sympy.simplify(f.subs(at).doit()) == level.predicted_bytes


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
    """Bounds fall with the capacity and are in order; a tile that does not fit is not predicted."""
    k = fresh("attention")
    sizes = {"n": 4096, "m": 4096, "dk": 64, "dv": 64}
    found = cost_of(k, machine(32, 512, 1024, 4096, 16384), **sizes).levels
    assert [x.regime for x in found] == ["tile larger", AGAIN, AGAIN, SHARED, ALL]
    assert found[0].predicted_bytes is None
    for x in found[1:]:
        assert x.compulsory_bytes <= x.conjectured_bound_bytes <= (x.predicted_bytes or 0)
        assert x.attainable_bytes is not None and x.attainable_bytes <= (x.predicted_bytes or 0)
    conjectured = [x.conjectured_bound_bytes for x in found]
    assert conjectured == sorted(conjectured, reverse=True)
    words = 4096 * 4096 * 128 * 128 // (32 * KIB // 4) - 32 * KIB // 4
    assert conjectured[0] == 4 * words  # n m (dk + dv)^2 / M - M


def test_time_energy_and_table() -> None:
    sizes = {"n": 4096, "m": 4096, "dk": 64, "dv": 64}
    k = fresh("attention")
    c = k.cost("zen4-server", **sizes)
    m = machine_of("zen4-server")
    times = dict(c.times_s())
    assert times["flops"] == c.number("flops") / 234.6e9
    assert times["DRAM"] == c.levels[-1].predicted_bytes / m.levels[-1].bytes_per_s
    moved = sum(x.predicted_bytes * y.pj_per_byte for x, y in zip(c.levels[1:], m.levels[2:], strict=True))
    assert c.energy_j() == pytest.approx((c.number("flops") * 0.85 + moved) * 1e-12)
    shown = str(c)
    assert "bytes beyond L2, 1 MiB" in shown and "tile larger" in shown and "energy, a model" in shown
    assert "not predicted" in shown and "conjectured, not proved" in shown
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
