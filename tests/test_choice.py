"""What is chosen by predicted time: both sides of each crossover, with results and bits that do not depend on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import moa
from moa.candidates import Candidate
from moa.cost.choice import Made, Outlook, Rounds, Sketch, Times, best
from moa.cost.sets import Part
from moa.given import made
from moa.kernel import Kernel, about
from moa.machine import Machine, machine_of, parsed, toml_of
from moa.measure.inputs import arguments
from moa.oracle import oracle
from moa.record import from_json, to_json
from moa.text import MoaError
from moa.tile import Strategy

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
ZEN, EDGE = machine_of("zen4-server"), machine_of("edge")
MAPS = "softmax(tanh(Q) @ tanh(K).T) @ V"


def fresh(program: str, dtype: str = "float32") -> Kernel:
    return made(str(EXAMPLES / f"{program}.moa"), None, dtype)


def mapped(dtype: str = "float32", backend: str = "llvm") -> Kernel:
    return moa.compile(MAPS, Q="n dk", K="m dk", V="m dv", dtype=dtype, backend=backend)


def with_caches(m: Machine, *kib: int, slower: float = 1.0) -> Machine:
    """The machine with caches of other sizes, and memories behind the first that are slower."""
    caches = tuple(
        replace(x, capacity_bytes=k << 10, bytes_per_s=x.bytes_per_s / (slower if n else 1.0))
        for n, (x, k) in enumerate(zip(m.caches, kib, strict=True))
    )
    last = replace(m.levels[-1], bytes_per_s=m.levels[-1].bytes_per_s / slower)
    return replace(m, levels=(*caches, last))


# lengths of tiles ----------------------------------------------------------------------------------------------------


def test_rounds_are_as_long_as_a_cache_holds() -> None:
    """A round of wide heads fits a cache only where it is short; on a machine with larger caches the usual one does."""
    k, sizes = fresh("attention"), {"n": 256, "m": 1500, "dk": 64, "dv": 64}
    wide = sizes | {"dk": 512, "dv": 512}
    assert k.strategy_at("as written", sizes, machine=ZEN).keys == 192
    assert k.strategy_at("as written", wide, machine=ZEN).keys == 48
    assert k.strategy_at("as written", wide, machine=with_caches(ZEN, 32, 4096, 65536)).keys == 192
    assert k.strategy_at("as written", sizes, machine=EDGE).keys == 48  # 256 KiB hold 96, but a set of 32 KiB does not
    assert k.strategy_at("as written", sizes | {"dk": 16, "dv": 16}, machine=EDGE).keys == 192
    assert k.strategy_at("as written", sizes, machine=with_caches(EDGE, 32, 1024)).keys == 192


@pytest.mark.parametrize(
    ("dtype", "n", "d", "keys"),
    [
        *(("float32", 4, 64, 96), ("float32", 4, 128, 48), ("float32", 17, 128, 48), ("float64", 4, 128, 24)),
        *(("float32", 1, 128, 192), ("float32", 4, 512, 48), ("float32", 64, 64, 192), ("bfloat16", 4, 128, 96)),
    ],
)
def test_few_rows_look_ahead_no_further_than_64_KiB(dtype: str, n: int, d: int, keys: int) -> None:
    """Rounds of few rows are short where a round is many bytes; a row by itself fetches nothing ahead."""
    k = fresh("attention", dtype)
    if k._width < (8 if dtype == "float64" else 16):
        pytest.skip("vectors are shorter here: rows are more than few")
    assert k.strategy_at("as written", {"n": n, "m": 4096, "dk": d, "dv": d}, machine=ZEN).keys == keys


@pytest.mark.parametrize(
    ("n", "threads", "rows"),
    [
        *((8, 1, 0.5), (12, 1, 1), (13, 1, 1), (16, 1, 1), (17, 1, 17 / 16), (32, 1, 2), (33, 1, 1), (48, 1, 1)),
        *((49, 1, 4), (64, 1, 4), (64, 2, 2), (33, 2, 2), (512, 1, 4), (512, 2, 4), (4096, 2, 4)),
        *((129, 1, 1), (200, 1, 1), (256, 1, 4), (272, 1, 1), (513, 1, 4)),  # a part of an item costs a whole one
    ],
)
def test_rows_follow_the_rows_and_the_threads_there_are(n: int, threads: int, rows: float) -> None:
    """No vectors without rows, and no thread without an item; as many rows as may be where neither is so."""
    k = fresh("attention")
    width = k._width
    at = {"n": -(-n * width // 16), "m": 1000, "dk": 64, "dv": 64}
    assert k.strategy_at("as written", at, threads=threads, machine=ZEN).rows == math.ceil(rows * width)


def test_few_rows_cost_what_the_machine_says() -> None:
    k = fresh("attention")
    width = k._width
    at = {"n": width // 2 + 1, "m": 1000, "dk": 64, "dv": 64}
    assert k.strategy_at("as written", at, machine=ZEN).rows == width // 2 + 1
    slow = replace(ZEN, operations=(("few", 2.5),))
    assert k.strategy_at("as written", at, machine=slow).rows == width


@pytest.mark.parametrize("program", ["attention", "causal", "window", "linear", "gqa"])
def test_threads_change_no_bits(program: str) -> None:
    k = fresh(program)
    for n in (20, 64, 100):
        sizes = {"n": n, "m": n, "dk": 33, "dv": 31, "w": 9, "b": 1, "g": 1, "r": 1}
        values = arguments(k, (), {x: sizes[x] for x in k._names()})
        forms = {k.form_at({x: sizes[x] for x in k._names()}, t) for t in (1, 2, 3)}
        if len(forms) == 1:
            assert len({k(*values, threads=t).tobytes() for t in (1, 2, 3)}) == 1


def test_threads_choose_rows_only_where_loops_are_as_long_for_all() -> None:
    k = fresh("causal")
    at = {"n": 64, "dk": 64, "dv": 64}
    assert k.strategy_at("as written", at, threads=2) == k.strategy_at("as written", at, threads=1)


# stored or made again ------------------------------------------------------------------------------------------------


def test_functions_of_arguments_are_stored_where_many_items_need_them() -> None:
    k, sizes = mapped(), {"m": 1000, "dk": 64, "dv": 64}
    width = k._width
    few, many = sizes | {"n": 4 * width}, sizes | {"n": 40 * width}
    assert k.strategy_at("as written", few, machine=ZEN).stored == ()
    assert k.strategy_at("as written", many, machine=ZEN).stored == ("t0", "t1")
    slow = with_caches(ZEN, 32, 64, 128, slower=1000)
    assert k.strategy_at("as written", many, machine=slow).stored == ()
    free = replace(ZEN, operations=(("function", 0.01),))
    assert k.strategy_at("as written", many, machine=free).stored == ()


def test_sums_that_phases_share_are_stored_where_they_are_long() -> None:
    k = moa.compile(
        "def f(X[n, d], W[d, c]):\n    Y = X @ W\n    return Y - max(Y, axis=0), sum(Y, axis=1)\n", dtype="float32"
    )
    sizes = {"n": 4000, "c": 16}
    again = k._made_again(0, "as written", sizes | {"d": 4000}, k._width)
    assert [x[0] for x in again] == ["r0"] and again[0][3] > 1
    assert k.strategy_at("as written", sizes | {"d": 1000}, machine=ZEN).stored == ("r0",)
    assert k.strategy_at("as written", sizes | {"d": 1000, "n": 8, "c": 2}, machine=ZEN).stored == ()
    slow = with_caches(ZEN, 32, 64, 128, slower=1e5)
    assert k.strategy_at("as written", sizes | {"d": 1000}, machine=slow).stored == ()


# forms ---------------------------------------------------------------------------------------------------------------


def test_a_state_that_leaves_the_cache_is_not_carried() -> None:
    """In rounds where the state stays near; as written where each step would fetch it from memory."""
    k, sizes = fresh("linear"), {"n": 2000, "dk": 64, "dv": 64}
    assert "round " in k.form_at(sizes, machine=ZEN)
    far = with_caches(ZEN, 4, 8, 12, slower=200)
    assert k.form_at(sizes, machine=far) == "as written"
    forms = {f.name: dict(f.times_s(sizes, 1, far)) for f in k.derivation.forms}
    assert any(x.startswith("states in DRAM") for times in forms.values() for x in times)


def test_weights_are_those_of_the_machine() -> None:
    k, sizes = fresh("linear"), {"n": 2000, "dk": 64, "dv": 64}
    assert "round " in k.form_at(sizes, machine=ZEN)

    def at(step: float, chunk: float, rounds: float) -> str:
        weights = (("step", step), ("chunk", chunk), ("round", rounds))
        return k.form_at(sizes, machine=replace(ZEN, operations=weights))

    assert at(100, 100, 100) == "as written"
    assert "chunk" in at(100, 0.1, 100)
    assert "carry" in at(0.1, 100, 100)


def test_parts_where_threads_outnumber_rows() -> None:
    k, sizes = fresh("attention"), {"n": 1, "m": 8000, "dk": 64, "dv": 64}
    assert k.form_at(sizes, 1, machine=ZEN) == "as written"
    assert k.form_at(sizes, 2, machine=ZEN) == "in parts, merged"
    assert k.form_at(sizes | {"n": 64}, 2, machine=ZEN) == "as written"
    for m in (8000, 32000, 64000, 300000):  # from the second cache to beyond the last one
        assert k.form_at(sizes | {"m": m}, 2, machine=ZEN) == "in parts, merged"


# the rule, and what it rests on --------------------------------------------------------------------------------------


def test_the_rule() -> None:
    def t(flops: float, near: float, far: float) -> Times:
        return Times((("flops", flops), ("L2", near), ("DRAM", far)))

    assert best([("a", t(1.0, 0.5, 0.5)), ("b", t(0.9, 0.5, 0.5))]) == "b"  # clearly less time
    assert best([("a", t(1.0, 0.5, 0.5)), ("b", t(0.98, 0.5, 0.5))]) == "a"  # as fast: the first
    assert best([("a", t(1.0, 0.1, 0.5)), ("b", t(1.0, 0.5, 0.2))]) == "b"  # less from the farthest
    assert best([("a", t(1.0, 0.5, 0.5)), ("b", t(1.0, 0.2, 0.5))]) == "b"  # less from the next one
    assert best([("a", t(0.1, 0.5, 2.0)), ("b", t(1.0, 0.5, 1.0))]) == "b"  # memory is what is waited for
    assert best([("a", Times(())), ("b", Times(()))]) == "a"


def test_sizes_that_are_alike_are_decided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    k = fresh("attention")
    assert [about(n) for n in (0, 1, 1023, 1024, 1500, 2047, 2048)] == [0, 1, 1023, 1024, 1024, 1024, 2048]
    first = k.strategy_at("as written", {"n": 1, "m": 5000, "dk": 64, "dv": 64})
    monkeypatch.setattr(Kernel, "tiles_at", lambda *a: pytest.fail("decided again"))
    assert all(k.strategy_at("as written", {"n": 1, "m": m, "dk": 64, "dv": 64}) is first for m in (4096, 8191))


def test_an_outlook_is_kept_as_text() -> None:
    for k in (fresh("causal"), mapped()):
        o = k._outlook(0, "as written", 16)
        assert from_json(to_json(o), Outlook, (Outlook, Sketch, Rounds, Made, Part)) == o


def test_reductions_of_positions_have_an_outlook() -> None:
    k = moa.compile("argmax(-X), argmax(X * X, axis=0)", X="n m")
    x = np.arange(12.0).reshape(3, 4)
    rows, columns = k(x)
    assert rows.tolist() == [0, 0, 0] and columns.tolist() == [2, 2, 2, 2]


def test_the_machine_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    from moa.machine import machine_in_use

    monkeypatch.delenv("MOA_MACHINE")
    machine_in_use.cache_clear()
    try:
        assert machine_in_use() == ZEN
        machine_in_use.cache_clear()
        monkeypatch.setenv("MOA_MACHINE", "edge")
        assert machine_in_use() == EDGE
        assert fresh("attention").why(n=256, m=1500, dk=64, dv=64).machine == "edge"
        machine_in_use.cache_clear()
        monkeypatch.setenv("MOA_MACHINE", "nowhere")
        with pytest.raises(MoaError, match="there is no machine 'nowhere'"):
            machine_in_use()
    finally:
        monkeypatch.undo()
        machine_in_use.cache_clear()


def test_operations_of_a_machine_are_read_and_written() -> None:
    m = replace(ZEN, operations=(("step", 4.0), ("few", 1.5)))
    assert parsed(toml_of(m), "m.toml") == m and m.costs("step") == 4.0 and m.costs("chunk") == ZEN.costs("chunk")
    for text in ("step = 0", 'step = "x"', "stop = 3"):
        with pytest.raises(MoaError, match="operations"):
            parsed(toml_of(m).replace("step = 4.0", text), "m.toml")


# results -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["llvm", "c"])
@pytest.mark.parametrize("n", [1, 13, 33, 70])
def test_results_do_not_depend_on_what_is_chosen(n: int, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short rounds, few rows, stored functions: the same values within rounding, with masked rows and infinities."""
    k = mapped("float64", backend)
    rng = np.random.default_rng(n)
    Q, K, V = (rng.standard_normal((x, 5)) for x in (n, 50, 50))
    Q[0, 0], K[3] = np.inf, -np.inf
    want = oracle(k.derivation.program, {"Q": Q, "K": K, "V": V})[0]
    usual = k.strategy_at("as written", {"n": n, "m": 50, "dk": 5, "dv": 5})
    width = usual.width
    for change in ({"stored": ("t0", "t1")}, {"keys": width}, {"stored": ("t0", "t1"), "keys": 2 * width}):
        other = mapped("float64", backend)
        monkeypatch.setattr(other, "strategy_at", always(replace(usual, **change)))
        np.testing.assert_allclose(other(Q, K, V), want, rtol=1e-12, atol=1e-12)


def always(s: Strategy) -> Any:
    return lambda *a, **kw: s


def kinds(found: tuple[Candidate, ...]) -> Mapping[str, int]:
    out: dict[str, int] = {}
    for c in found:
        out[c.kind] = out.get(c.kind, 0) + c.chosen
    return out


def test_what_is_listed_is_what_runs() -> None:
    k, sizes = mapped(), {"n": 600, "m": 700, "dk": 64, "dv": 64}
    why = k.why(threads=2, **sizes)
    assert {c.kind for c in why.candidates} == {"form", "stored", "keys", "rows"}
    strategy, among = k.tiles_at("as written", sizes, 0, 2, ZEN)
    assert kinds(among) == {"stored": 1, "keys": 1, "rows": 1}
    values: list[Any] = arguments(k, (), sizes)
    k(*values, threads=2)
    (ran,) = k._variants.values()
    assert ran.placed.strategy == strategy and strategy.stored == ("t0", "t1")
    for kind in ("keys", "rows"):
        (own,) = (c for c in why.candidates if c.kind == kind and c.chosen)
        assert own.name.startswith(f"{getattr(strategy, kind)} ")
        others = [c for c in why.candidates if c.kind == kind and not c.chosen]
        assert bool(others) == (kind == "keys") and all(c.reason and c.words for c in others)
