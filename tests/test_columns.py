"""Tiles that are visited by columns have rows of an odd number of lines, so that a column is in all sets of a cache."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from moa.call import spread as spread_shape
from moa.candidates import Candidate, Setting, spread
from moa.cost.choice import Times
from moa.cost.sets import reached
from moa.domains.evaluate import value_of
from moa.forms import chosen
from moa.given import made
from moa.lower import odd
from moa.lower.columns import in_columns
from moa.machine import machine_of
from moa.measure.inputs import arguments
from moa.measure.simulated import simulate
from moa.poly import const, size

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_an_odd_number_of_lines() -> None:
    for n in range(200):
        found = odd(const(n), 16).as_int()
        assert found is not None and found % 32 == 16 and n <= found < max(n, 1) + 32
        assert value_of(odd(size("n"), 16), {"n": n}) == found


@pytest.mark.parametrize(("program", "found"), [("attention", set()), ("causal", {"r0", "Q.t"})])
def test_what_is_visited_by_columns(program: str, found: set[str]) -> None:
    """A loop over vectors of rows comes back to the column of one of them; without it whole rows are visited."""
    kernel = made(str(EXAMPLES / f"{program}.moa"), None, "float32")
    sizes = {k: 300 if k in ("n", "m") else 64 for k in kernel._names()}
    placed = kernel.placed_at(sizes, "as written", kernel.strategy_for(300))
    (phase,) = placed.tiles.phases
    assert in_columns(phase, 4) == found


CONFLICTS = {  # what was more than 10 % before tiles and rounds were laid out for sets
    "columns of scores": ("causal", "float32", "", {"n": 128, "dk": 128, "dv": 128}),
    "window": ("window", "float32", "", {"n": 200, "dk": 128, "dv": 128, "w": 100}),
    "whole lines of columns": ("attention", "float32", "", {"n": 16, "m": 300, "dk": 128, "dv": 128}),
    "few rows": ("attention", "float32", "", {"n": 16, "m": 600, "dk": 64, "dv": 64}),
    "float64": ("attention", "float64", "", {"n": 64, "m": 300, "dk": 80, "dv": 80}),
    "float64, short rows": ("attention", "float64", "", {"n": 64, "m": 300, "dk": 32, "dv": 32}),
    "pairs": ("attention", "bfloat16", "", {"n": 64, "m": 600, "dk": 80, "dv": 80}),
    "stored": ("linear", "float64", "open r0 in r1, r2; chunk", {"n": 200, "dk": 128, "dv": 128}),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_conflicts_are_few(name: str) -> None:
    program, dtype, form, sizes = CONFLICTS[name]
    kernel = made(str(EXAMPLES / f"{program}.moa"), None, dtype)
    with mock.patch("moa.kernel.chosen", partial(formed, form)):
        levels = simulate(kernel, arguments(kernel, (), sizes), [32 << 10], [8]).levels
    for level in levels:
        assert level.conflict_bytes is not None and level.conflict_bytes < 0.1 * level.moved_bytes


def formed(name: str, forms: tuple[Any, ...], *at: Any, **more: Any) -> Any:
    return next(f for f in forms if f.name.startswith(name)) if name else chosen(forms, *at, **more)


# Columns of arrays that are given -----------------------------------------------------------------------------------


def test_sets_that_are_reached() -> None:
    for step, sets in ((64, 64), (256, 16), (512, 8), (4096, 1), (320, 64), (576, 64), (640, 32), (96, 64), (0, 64)):
        found = {k * step // 64 % 64 for k in range(4096)} if step else set(range(64))
        assert reached(step, 64) == sets == len(found), step


@pytest.mark.parametrize(
    ("dtype", "d", "rows", "keys", "taken"),
    [
        ("float32", 64, 16, 192, 96),  # 192 lines of a column in 16 sets
        ("float32", 60, 16, 192, 192),  # columns are in all sets
        ("float32", 128, 16, 192, 192),  # no length from half of it on would do
        ("float32", 64, 64, 192, 192),  # the cache does not hold it at all
        ("float64", 80, 32, 96, 64),
    ],
)
def test_rounds_that_crowd_no_set(dtype: str, d: int, rows: int, keys: int, taken: int) -> None:
    kernel = made(str(EXAMPLES / "attention.moa"), None, dtype)
    width = 16 if dtype == "float32" else 8
    kernel._width = width
    found: list[Candidate] = [Candidate("keys", "", True, Times(()), kernel.strategy_for(rows))]
    setting = Setting(
        kernel._outlook(0, "as written", width),
        {"n": rows, "m": 999, "dk": d, "dv": d},
        1,
        machine_of("zen4-server"),
        dtype,
    )
    strategy = replace(kernel.strategy_for(rows), rows=rows, keys=keys)
    assert spread(setting, strategy, found, 9999).keys == taken
    assert [c.chosen for c in found] == ([False, True] if taken != keys else [True])


def test_a_given_array_in_few_sets_is_told() -> None:
    """And it is right: with a line between its rows the conflicts are gone."""
    kernel = made(str(EXAMPLES / "attention.moa"), None, "float64")
    sizes = {"n": 32, "m": 60, "dk": 64, "dv": 64}
    found = kernel.measure(**sizes, caches=[(32 << 10, 8)])
    assert len(found.crowded) == 1 and "rows of V begin 512 bytes apart, a column is in 8 of 64 sets" in str(found)
    q, k, v = arguments(kernel, (), sizes)
    room = np.zeros((60, 72))
    room[:, :64] = v
    apart = kernel.measure(q, k, room[:, :64], caches=[(32 << 10, 8)])
    assert apart.crowded == () and apart.levels[0].conflict_bytes < 0.1 * apart.levels[0].moved_bytes


def test_rows_of_arrays_in_between() -> None:
    assert spread_shape((3, 4, 128), 4) == (3, 4, 144) and spread_shape((4, 64), 8) == (4, 72)
    for shape in ((3, 64), (128,), (3, 0), (), (3, 127)):
        assert spread_shape(shape, 4) == shape
