"""Addresses as pointers: the same values, each addition in the block that knows it, and nothing idle left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from chain import MINIATURES
from loops_by_hand import Hand, array
from test_lower import chain

import moa.pointers
from moa.interp.loops import run
from moa.loops import CallFn, Const, For, If, Loops, Name, Op, Stmt
from moa.pointers import ADDRESSED, with_pointers

NAMES = ("causal", "window", "columns", "variance", "turned", "gathered", "kept")


@pytest.mark.parametrize("name", NAMES)
def test_values_stay(name: str) -> None:
    c = chain(name)
    for strategy in (MINIATURES[0], MINIATURES[-1]):
        placed = c.place(strategy)
        moved = replace(placed.lowered, loops=with_pointers(placed.lowered.loops))
        assert moved.loops != placed.lowered.loops
        before, after = c.loops(placed), c.loops(replace(placed, lowered=moved))
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(before, after, strict=True))


def every(body: tuple[Stmt, ...]) -> Iterator[Stmt]:
    for s in body:
        yield s
        match s:
            case For():
                yield from every(s.body)
            case If():
                yield from every((*s.then, *s.other))


def names(s: Stmt) -> Iterator[Name]:
    """The names that a statement itself uses."""
    match s:
        case Op() | CallFn():
            args = list(s.args)
        case For():
            args = [s.lo, s.hi, s.step, *(a for c in s.carried for a in (c.first, c.next))]
        case If():
            args = [s.cond, *(a for _, x, y in s.results for a in (x, y))]
    yield from (a for a in args if isinstance(a, Name))


@pytest.mark.parametrize("name", NAMES)
def test_no_round_adds_what_it_does_not_change(name: str) -> None:
    """In a loop of instructions alone every index is a number, or what this very block made."""
    loops = with_pointers(chain(name).place(MINIATURES[-1]).lowered.loops)
    for f in loops.functions:
        inner = [s for s in every(f.body) if isinstance(s, For) and all(isinstance(x, Op) for x in s.body)]
        for s in inner:
            own = {s.index, *(c.phi for c in s.carried), *(x.result for x in s.body if isinstance(x, Op))}
            places = [x.args[1] for x in s.body if isinstance(x, Op) and x.op in ADDRESSED]
            assert all(isinstance(p, Const) or p in own for p in places), f"{f.name}: {s}"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_idle_is_left(name: str) -> None:
    for f in with_pointers(chain(name).place(MINIATURES[-1]).lowered.loops).functions:
        used = {n for s in every(f.body) for n in names(s)}
        made = [s for s in every(f.body) if isinstance(s, Op) and s.op in ("iadd", "isub", "imul", "offset")]
        assert not [s for s in made if s.result not in used], f.name


def picked() -> Loops:
    """y[i] = x[3 + i - 2] + x[3 + i], the second one where i is odd."""
    h = Hand("f64", 4)
    x, y, three = h.arg("p", 0), h.arg("p", 1), h.arg("i", 2)

    def body(i: Name) -> list[Name]:
        first = h.op("i", "isub", h.op("i", "iadd", three, i), 2)
        value = h.op("f", "load", x, first, attrs=("f64", False))
        odd = h.op("b", "icmp", h.op("i", "imod", i, 2), 1, attrs=("eq",))
        second = h.op("i", "iadd", first, 2)

        def then() -> list[Name]:
            return [h.op("f", "fadd", value, h.op("f", "load", x, second, attrs=("f64", False)))]

        (total,) = h.branch(odd, then, lambda: [value])
        h.do("store", y, i, total, attrs=("f64", False))
        return []

    h.loop(h.params[1], h.params[2], [], body)
    return h.loops()


def outcome(loops: Loops) -> np.ndarray:
    buffers = {"x": array(np.arange(20.0) ** 2, np.float64), "y": array(np.zeros(9), np.float64)}
    run(loops, "main", ["x", "y", 3], 0, 9, buffers)
    return buffers["y"]


def test_by_hand() -> None:
    i = np.arange(9)
    want = (i + 1.0) ** 2 + np.where(i % 2 == 1, (i + 3.0) ** 2, 0)
    assert np.array_equal(outcome(picked()), want)
    assert np.array_equal(outcome(with_pointers(picked())), want)
    text = str(with_pointers(picked()))
    assert text.index("offset") < text.index("for"), text  # what the loop does not change is added before it


def test_a_wrong_sign_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    note = moa.pointers.Pointers.note

    def wrong(self: moa.pointers.Pointers, s: Op) -> None:
        note(self, replace(s, op="iadd"))

    monkeypatch.setattr(moa.pointers.Pointers, "note", wrong)
    assert not np.array_equal(outcome(with_pointers(picked())), outcome(picked()))
