"""Domains: every element of small boxes is counted by brute force; nothing here trusts the set library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from moa.domains import (
    TileRange,
    count,
    holds,
    implied,
    is_empty,
    sets,
    simplify,
    split,
    tile_ranges,
    value_of,
    visited,
)
from moa.domains.ranges import TOO_LONG
from moa.normal import FALSE, TRUE, Cond, at_least_zero, both, compare, either, is_zero, load, negate
from moa.poly import Atom, Poly, absolute, atom, const, maximum, minimum, select, size, var

i, j, b = var("i"), var("j"), var("b")
n, m = size("n"), size("m")
w, p = atom("int", "w"), atom("int", "p")


def le(x: Poly | int, y: Poly | int) -> Cond:
    return at_least_zero(-(x - y) if isinstance(x, Poly) else y - x)  # type: ignore[operator, arg-type]


@dataclass(frozen=True)
class Mask:
    """A predicate twice: as a condition, and in NumPy; `square` if there are as many keys as rows."""

    cond: Cond
    numpy: Callable[..., Any]
    square: bool
    params: tuple[Mapping[str, int], ...] = ({},)
    classified: bool = False  # somewhere touched or full is not intervals


W = tuple({"w": x} for x in (-1, 0, 1, 2, 5, 40))
P = tuple({"p": x} for x in (-3, 0, 1, 4, 9, 50))
MASKS = {
    "causal": Mask(le(j, i), lambda i, j, n, m: j <= i, True),
    "causal, n and m": Mask(le(j, i), lambda i, j, n, m: j <= i, False),
    "bottom-right": Mask(le(j, i + m - n), lambda i, j, n, m: j <= i + m - n, False),
    "window": Mask(both(le(j, i), le(i - j, w - 1)), lambda i, j, n, m, w: (j <= i) & (i - j < w), True, W),
    "two-sided": Mask(le(absolute(i - j), w), lambda i, j, n, m, w: abs(i - j) <= w, True, W),
    "dilation": Mask(is_zero((i - j) % 3), lambda i, j, n, m: (i - j) % 3 == 0, True, classified=True),
    "prefix": Mask(either(le(j, i), le(j, p - 1)), lambda i, j, n, m, p: (j <= i) | (j < p), True, P),
    "blocks": Mask(is_zero(i // 4 - j // 4), lambda i, j, n, m: i // 4 == j // 4, False),
    "neighbourhood": Mask(
        both(le(absolute(i // 5 - j // 5), 1), le(absolute(i % 5 - j % 5), 1)),
        lambda i, j, n, m: (abs(i // 5 - j // 5) <= 1) & (abs(i % 5 - j % 5) <= 1),
        True,
        classified=True,
    ),
    "strided": Mask(is_zero(j % 3), lambda i, j, n, m: (j % 3 == 0) & (i >= 0), False, classified=True),
    "causal or strided": Mask(
        both(le(j, i), either(le(i - j, 3), is_zero(j % 4))),
        lambda i, j, n, m: (j <= i) & ((i - j <= 3) | (j % 4 == 0)),
        True,
        classified=True,
    ),
    "sinks": Mask(
        both(le(j, i), either(le(i - j, w - 1), le(j, 3))),
        lambda i, j, n, m, w: (j <= i) & ((i - j < w) | (j < 4)),
        True,
        W,
    ),
    "repeats the box": Mask(both(le(j, m - 1), le(i, n - 1)), lambda i, j, n, m: (j < m) & (i < n), False),
    "never": Mask(FALSE, lambda i, j, n, m: (i < j) & (j < i), False),
    "always": Mask(TRUE, lambda i, j, n, m: (i == i) & (j == j), False),
}
SIZES = (0, 1, 2, 3, 7, 13, 16, 31, 33)


def check_tiles(
    ranges: tuple[TileRange, ...],
    predicate: Callable[[Any, Any], Any],
    rows: int,
    granule: int,
    sizes: Mapping[str, int],
    shape: tuple[int, int],
    row: str | None = "i",
) -> None:
    """Every promise of `tile_ranges` at given sizes; predicate takes index arrays, beyond the box too."""
    i_all, j_all = np.ogrid[: shape[0] + rows, : shape[1] + granule]
    truth = np.broadcast_to(predicate(i_all, j_all), (shape[0] + rows, shape[1] + granule))
    seen = np.zeros(shape, int)
    last = -1, -1
    for i0, lo, hi, kind in visited(ranges, row, rows, "j", granule, sizes, shape[0]):
        assert lo % granule == 0 and 0 <= lo < hi <= shape[1]
        assert hi == min(lo + granule, shape[1]), "a tile is cut"
        assert (i0, lo) > last, "ranges are in order and do not overlap"
        last = i0, lo
        assert truth[i0 : min(i0 + rows, shape[0]), lo:hi].any(), "an empty tile is entered"
        whole = truth[i0 : i0 + rows, lo : lo + granule].all()
        assert (kind == "full") <= truth[i0 : min(i0 + rows, shape[0]), lo:hi].all(), "a full tile has a violation"
        assert whole <= (kind == "full"), "a full tile is tested"
        seen[i0 : i0 + rows, lo:hi] += 1
    assert (seen <= 1).all()
    assert (seen[truth[: shape[0], : shape[1]]] == 1).all(), "a pair is missed"


@pytest.mark.parametrize("granule", [1, 2, 4])
@pytest.mark.parametrize("rows", [1, 2, 4, 16])
@pytest.mark.parametrize("name", MASKS)
def test_tiles(name: str, rows: int, granule: int) -> None:
    mask = MASKS[name]
    ranges = tile_ranges(mask.cond, "i", rows, "j", granule, {"i": n, "j": n if mask.square else m})
    assert len(ranges) <= 10
    if not mask.classified:
        assert all(r.kind != "classified" and not r.reason for r in ranges)
    assert all(r.reason != TOO_LONG for r in ranges)
    for sizes in ({"n": x, "m": y} for x in SIZES for y in SIZES if x == y or not mask.square):
        for params in mask.params if sizes["n"] in (2, 13, 33) else mask.params[:3]:
            check_tiles(
                ranges,
                lambda i, j, known={**sizes, **params}: mask.numpy(i, j, **known),
                rows,
                granule,
                {**sizes, **params},
                (sizes["n"], sizes["m"]),
            )


@pytest.mark.parametrize("name", MASKS)
def test_counts(name: str) -> None:
    mask = MASKS[name]
    for x, y in ((0, 7), (1, 1), (7, 13), (33, 31), (16, 16)):
        for params in mask.params:
            known = {"n": x, "m": y} | params
            truth = np.broadcast_to(mask.numpy(*np.ogrid[:x, :y], **known), (x, y))
            assert count(mask.cond, {"i": x, "j": y}, known) == truth.sum()


def test_ranges_read_well() -> None:
    def text(name: str, rows: int, granule: int) -> list[str]:
        square = MASKS[name].square
        return [
            f"{r.kind} {r.lo} .. {r.hi}"
            for r in tile_ranges(MASKS[name].cond, "i", rows, "j", granule, {"i": n, "j": n if square else m})
        ]

    assert text("always", 16, 4) == ["full 0 .. m"]
    assert text("never", 16, 4) == []
    assert text("causal", 16, 4) == ["full 0 .. i@0", "partial i@0 .. min(i@0 + 16, n)"]
    assert text("causal", 1, 1) == ["full 0 .. i@0 + 1"]
    assert text("window", 1, 1) == ["full max(0, i@0 - w + 1) .. i@0 + 1"]
    assert text("repeats the box", 4, 4) == ["full 0 .. m"]


def test_other_variables_and_loads_are_symbols_of_the_bounds() -> None:
    length = atom("load", "length", (b,))
    ranges = tile_ranges(le(j, length - 1), "i", 4, "j", 4, {"i": n, "j": m, "b": size("B")}, ("b",))
    assert [r.kind for r in ranges] == ["full", "partial"]
    assert ranges[-1].hi.atoms() >= {length.as_atom()}
    ranges = tile_ranges(le(j, i + b), "i", 4, "j", 2, {"i": n, "j": m, "b": const(3)}, ("b",))
    for x, y, z in ((7, 9, 0), (7, 9, 2), (3, 1, 1), (5, 0, 2)):
        check_tiles(ranges, lambda i, j, z=z: j <= i + z, 4, 2, {"n": x, "m": y, "b": z}, (x, y))


def test_an_item_without_rows() -> None:
    ranges = tile_ranges(both(le(b, j), le(j, w)), None, 1, "j", 4, {"j": m, "b": n}, ("b",))
    for x in (0, 3, 8):
        for last in (-1, 2, 7, 40):
            known = {"m": 13, "n": 9, "b": x, "w": last}
            check_tiles(ranges, lambda i, j, x=x, y=last: (x <= j) & (j <= y), 1, 4, known, (1, 13), None)


def test_data_are_tested_but_bound_what_they_can() -> None:
    keep = Cond("load", ("keep", (j,)))
    under = tile_ranges(both(le(j, i), keep), "i", 4, "j", 4, {"i": n, "j": n})
    assert [(r.kind, str(r.lo), str(r.hi)) for r in under] == [("partial", "0", "min(i@0 + 4, n)")]
    beside = tile_ranges(either(le(j, i), keep), "i", 4, "j", 4, {"i": n, "j": n})
    assert [(r.kind, str(r.lo), str(r.hi)) for r in beside] == [("full", "0", "i@0"), ("partial", "i@0", "n")]


def test_a_spent_budget_tests_every_element(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "OPERATIONS", 50)
    (r,) = tile_ranges(le(j * 3, i + 977), "i", 4, "j", 4, {"i": n, "j": m})
    assert (r.kind, str(r.lo), str(r.hi), r.reason) == ("partial", "0", "m", TOO_LONG)
    assert not is_empty(both(le(j, i - 977), le(i, j)), {"i": n, "j": n})


# Conditions ----------------------------------------------------------------------------------------------------------


def test_split() -> None:
    keep = Cond("load", ("keep", (j,)))
    large = compare("gt", load("X", (i,)), load("X", (j,)))
    outer = ("b", "i")
    assert split(both(le(j, i), keep, large), outer, "j") == (le(j, i), both(keep, large))
    ragged = le(j, atom("load", "length", (b,)))
    assert split(ragged, outer, "j") == (TRUE, ragged)
    assert split(ragged, outer, "j", fixed=("b",)) == (ragged, TRUE)
    assert split(both(le(j, i), le(i * j, 7)), outer, "j") == (le(j, i), le(i * j, 7))
    run_time = is_zero(i // w - j // w)
    assert split(run_time, outer, "j") == (TRUE, run_time)
    for affine in (
        le(j % 3 + absolute(i - j), minimum(i, w)),
        le(j, select(le(i, w), i, n * m)),
        le(j, n * m // w),
        negate(is_zero(i - j)),
    ):
        assert split(affine, outer, "j") == (affine, TRUE)
    mixed = either(both(le(j, i), keep), le(j, p))
    assert split(mixed, outer, "j") == (either(le(j, i), le(j, p)), mixed)


def test_questions() -> None:
    square = {"i": n, "j": n}
    assert implied(le(0, i), TRUE, square)
    assert not implied(le(0, i), TRUE, {})
    assert implied(le(1, n), TRUE, {}) and not implied(le(1, n), TRUE, {}, smallest=0)
    assert implied(le(j, i + 3), le(j, i), square)
    assert not implied(le(j, i), le(j, i + 3), square)
    assert implied(le(1, n * m), TRUE, {})
    assert is_empty(both(le(j, i - 1), le(i, j)), square)
    assert is_empty(both(is_zero(i % 2), is_zero(i % 2 - 1)), square)
    assert not is_empty(le(j, i), square)
    keep = Cond("load", ("keep", (j,)))
    assert not implied(keep, le(j, i), square) and not is_empty(both(keep, le(j, i)), square)
    assert is_empty(both(keep, le(n, j)), square)
    same = le(atom("load", "x", (i,)), 3)
    assert implied(le(atom("load", "x", (i,)), 5), same, square)


def test_simplify() -> None:
    square = {"i": n, "j": n}
    keep = Cond("load", ("keep", (j,)))
    assert simplify(both(le(j, i), le(j, n - 1)), TRUE, square) == le(j, i)
    assert simplify(le(j, i), le(j, i), square) == TRUE
    assert simplify(le(i + 1, j), le(j, i), square) == FALSE
    assert simplify(both(keep, either(le(j, i), le(n, j))), TRUE, square) == both(keep, le(j, i))
    assert simplify(either(both(keep, le(j, i)), le(j, i)), TRUE, square) == le(j, i)


VALUES = st.sampled_from([i, j, i - j, i + j, i + w, j - w, i // 3, j // 2, i % 3, (i + j) % 2, i - n, j - m])


@st.composite
def polys(draw: st.DrawFn) -> Poly:
    x, y = draw(VALUES), draw(VALUES)
    kind = draw(st.sampled_from(["first", "sum", "min", "max", "abs", "div", "select"]))
    match kind:
        case "sum":
            return x * draw(st.integers(-2, 2)) + y
        case "min":
            return minimum(x, y)
        case "max":
            return maximum(x, y)
        case "abs":
            return absolute(x - y)
        case "div":
            return (x + y) // draw(st.integers(2, 4))
        case "select":
            return select(le(i, w), x, y)
        case _:
            return x


LEAVES = st.tuples(polys(), st.integers(-3, 6), st.sampled_from([at_least_zero, is_zero])).map(
    lambda t: t[2](t[0] + t[1])
)
CONDITIONS = st.recursive(
    LEAVES,
    lambda c: st.one_of(
        c.map(negate), st.lists(c, min_size=2, max_size=3).flatmap(lambda x: st.sampled_from([both(*x), either(*x)]))
    ),
    max_leaves=3,
)


def truth_of(c: Cond, known: Mapping[str, int], i: Any, j: Any) -> Any:
    at = np.vectorize(lambda a, b: holds(c, {**known, "i": int(a), "j": int(b)}), otypes=[bool])
    return at(i, j)


@settings(max_examples=60, deadline=None)
@example(negate(is_zero(minimum(i, j - m) + 1)), 1, 1, False)  # a part of touched that is beyond the box only
@example(either(is_zero(i + j // 2 - 1), is_zero(i // 3 + i - j - 1), is_zero(i + 1)), 2, 2, False)  # an empty hull
@given(CONDITIONS, st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 4]), st.booleans())
def test_tiles_of_any_condition(c: Cond, rows: int, granule: int, square: bool) -> None:
    ranges = tile_ranges(c, "i", rows, "j", granule, {"i": n, "j": n if square else m})
    if any(r.reason == TOO_LONG for r in ranges):
        return
    for x, y, z in ((0, 3, 1), (3, 0, 1), (1, 1, 0), (5, 9, 2), (9, 6, -1)):
        known = {"n": x, "m": x if square else y, "w": z}
        check_tiles(ranges, lambda i, j, k=known: truth_of(c, k, i, j), rows, granule, known, (x, known["m"]))


@settings(max_examples=60, deadline=None)
@given(CONDITIONS, CONDITIONS)
def test_simplify_keeps_the_meaning(c: Cond, under: Cond) -> None:
    after = simplify(c, under, {"i": n, "j": m})
    inside, empty = implied(c, under, {"i": n, "j": m}), is_empty(c, {"i": n, "j": m})
    for x, y, z in ((1, 1, 0), (4, 6, 2), (7, 3, -1)):
        known = {"n": x, "m": y, "w": z}
        ij = np.ogrid[:x, :y]
        before, where = truth_of(c, known, *ij), truth_of(under, known, *ij)
        assert (truth_of(after, known, *ij) == before)[where].all()
        assert not inside or before[where].all()
        assert not empty or not before.any()
        assert count(c, {"i": x, "j": y, "b": 3}, known) == 3 * before.sum()


def test_value_of_reads_every_kind_of_atom() -> None:
    known = {"i": 7, "n": 10, "w": 3}
    shown = maximum(i // w, minimum(n, absolute(2 - i))) + select(le(i, w), const(100), const(1000))
    assert value_of(shown, known) == 1005
    with pytest.raises(ValueError, match="data"):
        value_of(Poly({(Atom("load", "x", (i,)),): const(1).terms[0][1]}), known)
