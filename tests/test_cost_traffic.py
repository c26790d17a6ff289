"""The table and the picture of traffic are made of what they say."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from benchmarks.curve import Axes, Curve, Series, drawn
from benchmarks.traffic import HEAD, KERNELS, capacities, curve, lines, main, markdown, plain

SMALL = {"attention": {"n": 40, "m": 200, "dk": 16, "dv": 16}, "linear": {"n": 50, "dk": 16, "dv": 16}}


def test_a_line_for_each_kernel_and_cache() -> None:
    found = list(lines(SMALL, ((8 << 10, 4), (1 << 20, 8))))
    assert [(x.kernel, x.level.capacity_bytes) for x in found] == [(k, c) for k in SMALL for c in (8 << 10, 1 << 20)]
    for x in found:
        assert x.level.off is not None and abs(x.level.off) < 0.03
        words = x.words()
        assert len(words) == len(HEAD) and float(words[4]) == round((x.level.predicted_bytes or 0) / 2**20, 2)
    shown = markdown([x.words() for x in found]).splitlines()
    assert shown[0] == f"| {' | '.join(HEAD)} |" and len(shown) == 2 + len(found)
    assert plain([x.words() for x in found]).splitlines()[1].startswith("attention  n 40, m 200  8 KiB")
    assert len(KERNELS) == 5


def test_a_curve_is_drawn() -> None:
    c = curve("attention", SMALL["attention"], line=9, points=3)
    by_name = {s.name: dict(s.points) for s in c.series}
    predicted, simulated = by_name["predicted"], by_name["simulated"]
    assert list(predicted) == capacities(9) and set(simulated) < set(predicted)
    for capacity, moved in simulated.items():
        assert predicted[capacity] == pytest.approx(moved, rel=0.05)
        assert by_name["certified bound"][capacity] <= by_name["conjectured bound"][capacity] <= moved
    svg = drawn(c)
    root = ElementTree.fromstring(svg)
    kinds = [x.tag.rpartition("}")[2] for x in root]
    assert kinds.count("circle") == 3 + 1 and kinds.count("path") == 3 + 3
    assert drawn(c) == svg and "nan" not in svg


def test_points_lie_where_their_values_are() -> None:
    axes = Axes((12.0, 22.0), (6.0, 8.0))
    left, bottom = axes.at(2.0**12, 1e6)
    right, top = axes.at(2.0**22, 1e8)
    middle = axes.at(2.0**17, 1e7)
    assert middle == ((left + right) / 2, (top + bottom) / 2) and left < right and top < bottom
    steep = Curve("t", (Series("a", "line", ((4096, 10**6), (8192, 10**7))),))
    assert "10 MB" in drawn(steep) and "8 KiB" in drawn(steep)


def test_options() -> None:
    with pytest.raises(SystemExit):
        main(["--fast"])
