"""Tiles and loops for threads: operands staged once, places shared, barriers where nests meet, work dealt to warps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from chain import Chain, stored
from programs import numbered

import moa
from moa.loops import CallFn, For, Op, Stmt
from moa.lower.sharing import places
from moa.normal import apply, load, loads
from moa.pipeline import Placed, place
from moa.poly import const, var
from moa.text import MoaError
from moa.tile import Strategy
from moa.tiles import Loop, Map, Nest, Reduce, Tile, nests

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
WIDE = Strategy(32, 64, 64, 8, 8, 32, 8, True)
MINIATURES = (
    Strategy(2, 4, 6, 2, 2, 2, 2, True),
    Strategy(4, 4, 8, 2, 1, 4, 3),
    Strategy(2, 1, 6, 2, 2, 2, 2, True),
    Strategy(2, 2, 2, 3, 1, 1, 1, True),
)


def placed(name: str, strategy: Strategy = WIDE) -> Placed:
    d = moa.compile(EXAMPLES / f"{name}.moa").derivation
    own = {p.name for p in d.program.inputs} | set(d.streamed.outputs) | stored(d)
    return place(d, strategy, "f32", {"dk": 64, "dv": 64}, frozenset(own))


def statements(body: tuple[Stmt, ...]) -> Iterator[Stmt]:
    for s in body:
        yield s
        match s:
            case For():
                yield from statements(s.body)
            case _:
                pass


@pytest.mark.parametrize("seed", range(24))
def test_loops_for_threads_compute_the_same(seed: int) -> None:
    """The rounds of loops over warps and lanes, run one after the other, whatever a warp and a block are."""
    try:
        chain = Chain(numbered(seed))
    except MoaError:
        pytest.skip("the program is refused")
    form = seed % len(chain.derivation.forms)
    made = chain.place(MINIATURES[seed % len(MINIATURES)], {}, form)
    found = chain.differs(chain.loops(made), chain.expected(), chain.normal(), form)
    assert not found, (found, str(chain.case))


@pytest.mark.parametrize("name", ["attention", "causal"])
def test_products_read_their_operands_from_tiles(name: str) -> None:
    """Each array is fetched by copies alone, once a round; as many products read it as before."""
    (phase,) = placed(name).tiles.phases
    inputs = {"Q", "K", "V"}
    products = [s for n in nests(phase.body) for s in n.statements if isinstance(s, Reduce)]
    assert products and not any(array in inputs for s in products for array, _ in loads(s.value))
    assert [t.name for t in phase.tiles if t.space == "staged"] == ["K.s", "V.s"]
    without = replace(WIDE, staged=False)
    (plain,) = placed(name, without).tiles.phases
    assert any(array in inputs for n in nests(plain.body) for s in n.statements for array, _ in loads(s.value))


def test_operands_that_are_not_needed_together_share_a_place() -> None:
    (phase,) = placed("attention").tiles.phases
    assert places(phase) == {"K.s": 0, "V.s": 0}
    body = tuple(
        copying(*names)
        for names in (("a", "Q"), ("b", "K"), ("x", "a", "b"), ("c", "V"), ("y", "c"), ("d", "W"), ("z", "a", "d"))
    )
    tiles = tuple(replace(Tile(name, ("i",)), space="staged") for name in "abcd")
    found = places(replace(phase, tiles=tiles, body=(Loop("i", const(0), const(8), body, "full"),)))
    assert found["a"] not in (found["b"], found["c"], found["d"]) and found["b"] == found["c"] == found["d"]


def copying(target: str, *sources: str) -> Nest:
    """A nest that adds arrays."""
    i = (var("i"),)
    total = load(sources[0], i)
    for s in sources[1:]:
        total = apply("add", total, load(s, i))
    return Nest((), "i", (Map(load(target, i), total),))


def test_the_barriers_of_a_round() -> None:
    """Eight between nests of attention's loop that meet, none between those that do not."""
    loops = placed("attention").lowered.loops
    entry = loops.function(loops.phases[0])
    calls = [s for s in statements(entry.body) if isinstance(s, CallFn)]
    barriers = [s for s in statements(entry.body) if isinstance(s, Op) and s.op == "barrier"]
    assert 5 <= len(barriers) < len(calls)
    assert not any(isinstance(s, Op) and s.op == "barrier" for f in loops.functions[:-1] for s in statements(f.body))


def test_one_thread_has_no_warps_and_no_barriers() -> None:
    loops = placed("causal", Strategy(16, 64, 192)).lowered.loops
    for f in loops.functions:
        assert not any(isinstance(s, For) and s.on for s in statements(f.body))
        assert not any(isinstance(s, Op) and s.op in ("barrier", "pick") for s in statements(f.body))


def test_every_store_belongs_to_one_warp() -> None:
    """What is stored is stored inside a loop over warps, in every nest."""
    loops = placed("causal").lowered.loops
    for f in loops.functions:
        outside = [s for s in f.body if isinstance(s, Op) and s.op in ("store", "storem")]
        assert not outside, f.name
        if f.name not in loops.phases:
            assert [s.on for s in f.body if isinstance(s, For)] == ["warps"]
