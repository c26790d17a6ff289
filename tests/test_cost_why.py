"""What is chosen among, and why: the candidates are those of the compiler, and what is marked is what runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import moa
from moa.forms import MARGIN, in_lengths
from moa.given import made
from moa.kernel import Kernel
from moa.machine import machine_of
from moa.measure.inputs import arguments
from moa.text import MoaError

ZEN = machine_of("zen4-server")
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def fresh(program: str) -> Kernel:
    return made(str(EXAMPLES / f"{program}.moa"), None, "float32")


def crossover(kernel: Kernel, name: str, low: int, high: int, threads: int, **sizes: int) -> int:
    """The first value of a size from which another form is chosen than at `low`."""
    first = kernel.form_at({**sizes, name: low}, threads)
    assert kernel.form_at({**sizes, name: high}, threads) != first
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if kernel.form_at({**sizes, name: middle}, threads) == first else (low, middle)
    return high


@pytest.mark.parametrize(
    ("program", "along", "high", "threads", "sizes"),
    [
        ("linear", "n", 2000, 1, {"dk": 32, "dv": 32}),
        ("linear", "n", 3000, 2, {"dk": 32, "dv": 32}),
        ("aaren", "n", 300, 1, {"dk": 16, "dv": 16}),
        ("attention", "m", 4000, 2, {"n": 1, "dk": 16, "dv": 16}),
        ("systems/linformer", "r", 600, 1, {"n": 6, "m": 6, "dk": 32, "dv": 32}),
    ],
)
def test_both_sides_of_a_crossover(program: str, along: str, high: int, threads: int, sizes: dict[str, int]) -> None:
    """Association, recompute or store, whole or in chunks, at once or in parts: what is marked ran, on either side."""
    at = crossover(fresh(program), along, 3, high, threads, **sizes)
    names = []
    for value in (at - 1, at):
        k = fresh(program)
        here = {**sizes, along: value}
        why = k.why(threads=threads, **here)
        name, rows = why.chosen
        names.append(name)
        scalars = {p.name: 0.5 for p in k._parameters if not p.array and p.kind == "f"}
        k(*arguments(k, (), here | scalars), threads=threads)
        (ran,) = k._variants.values()
        assert ran.form == name and f"{ran.placed.strategy.rows} row" in rows
        forms = [c for c in why.candidates if c.kind == "form"]
        known = in_lengths(k.derivation.forms)
        assert [c.name for c in forms] == [f.name for f in known]
        assert [c.time_s for c in forms] == [f.time_s(here, threads, ZEN) for f in known]
        assert sum(c.chosen for c in forms) == 1
        (own,) = (c for c in forms if c.chosen)
        for c in forms[1:]:  # the rule of the compiler: clearly faster than as written, and the fastest of these
            assert not own.chosen or own is forms[0] or own.time_s <= c.time_s
        if own is forms[0]:
            assert all(c.time_s >= MARGIN * own.time_s for c in forms)
        else:
            assert own.time_s < MARGIN * forms[0].time_s
    assert names[0] == "as written" != names[1]


@pytest.mark.parametrize("n", [1, 2, 3, 8, 16, 17, 33, 64, 600])
def test_rows_follow_the_rows_there_are(n: int) -> None:
    from moa.backends.llvm import host

    width = host().width("f32")
    k = fresh("attention")
    why = k.why("zen4-server", n=n, m=40, dk=8, dv=8)
    vectors = {1: 1, 2: 2, 3: 1, 4: 4}.get(-(-n // width), 4)  # three vectors are three items
    few = n <= max(1, 0.7 * width) or width < n <= 1.6 * width
    wanted = n if few else vectors * width
    assert why.chosen == ("as written", f"{wanted} row{'s' * (wanted > 1)}")
    own = [c for c in why.candidates if c.kind == "rows" and int(c.name.split()[0]) % width == 0]
    assert [c.words for c in own] == sorted(c.words for c in own)
    assert all(c.time_s > 0 for c in why.candidates if c.kind in ("form", "rows"))
    assert all(c.bytes_moved and c.words for c in why.candidates)


def test_the_table() -> None:
    k = fresh("attention")
    shown = str(k.why("zen4-server", n=9, m=2048, dk=64, dv=64)).splitlines()
    assert shown[0] == "candidates for attention at n = 9, m = 2048, dk = 64, dv = 64: 1 thread, on zen4-server"
    assert shown[2].split()[:7] == ["*", "as", "written", "0.04102", "ms", "flops", "263,296"]
    assert "in parts, merged" in shown[3] and shown[3].endswith("takes 0.1% longer")
    assert sum(line.startswith("* ") for line in shown) == 3  # a form, positions of a round, rows
    assert "<table" in k.why(n=9, m=9, dk=4, dv=4)._repr_html_()
    projected = fresh("systems/linformer").why(n=64, m=64, r=8, dk=8, dv=8)
    assert "no form by chunk of r1: no domain ties j to a row" in str(projected)


def test_costs_are_those_of_what_would_run() -> None:
    """With sizes and before any call, the form and the rows that a call takes; without, those for many rows."""
    k = fresh("linear")
    assert str(k.cost(n=64, dk=32, dv=32).formula("streamed_words")) != str(
        k.cost(n=4000, dk=32, dv=32).formula("streamed_words")
    )
    few = fresh("attention").cost(n=3, m=50, dk=8, dv=8)
    assert few.number("streamed_words") == 3 * 16 + 50 * 16


def test_mistakes() -> None:
    k = fresh("linear")
    with pytest.raises(MoaError, match="no value for n"):
        k.why(dk=3, dv=3)
    with pytest.raises(MoaError, match="no value for n, dk, dv"):
        k.why()
    with pytest.raises(MoaError, match="has no size m"):
        k.why(n=1, dk=1, dv=1, m=1)
    with pytest.raises(MoaError, match="threads is 0"):
        k.why(n=1, dk=1, dv=1, threads=0)
    assert moa.compile("2 * X", X="n").why(n=0).chosen[0] == "as written"
    assert np.isfinite(moa.compile("2 * X", X="n").why("edge", n=5).candidates[0].time_s)
