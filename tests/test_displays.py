"""Displays: pictures against the mask and against a run of the tiles, and that what notebooks show is escaped."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import moa
from moa import MoaError
from moa.explain import of_form, page, picture_of
from moa.explain.cells import cells_of
from moa.explain.panels import Band, Panel, Run, Side
from moa.explain.picture import lines_of
from moa.interp import tiles as interp
from moa.kernel import Kernel
from moa.markup import Markup, escaped, table, tag
from moa.parse import parse
from moa.pipeline import Placed, place
from moa.tile import Strategy
from moa.tiles import Loop, Nest, When

ROOT = Path(__file__).resolve().parent.parent
SVG = "{http://www.w3.org/2000/svg}"
Array = np.ndarray[Any, Any]


# Against the mask ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Masked:
    """A formula whose mask is known: as text, and in NumPy from rows i and keys j."""

    mask: str
    numpy: Callable[..., Any]
    square: bool = True
    params: tuple[dict[str, int], ...] = ({},)

    def text(self) -> str:
        extra = "".join(f", {p}: int" for p in self.params[0])
        m = "n" if self.square else "m"
        return (
            f"def masked(Q[n, d], K[{m}, d], V[{m}, d]{extra}):\n    i, j = iota(n)[:, None], iota({m})\n"
            f"    return softmax(where({self.mask}, Q @ K.T, -inf)) @ V\n"
        )


W = tuple({"w": w} for w in (-1, 0, 1, 3, 11, 40))
MASKS = {
    "causal": Masked("j <= i", lambda i, j, n, m: j <= i),
    "bottom right": Masked("j <= i + m - n", lambda i, j, n, m: j <= i + m - n, False),
    "window": Masked("(j <= i) & (i - j < w)", lambda i, j, n, m, w: (j <= i) & (i - j < w), True, W),
    "two-sided": Masked("abs(i - j) <= w", lambda i, j, n, m, w: abs(i - j) <= w, True, W),
    "prefix": Masked("(j <= i) | (j < w)", lambda i, j, n, m, w: (j <= i) | (j < w), True, W),
    "blocks": Masked("i // 8 == j // 8", lambda i, j, n, m: i // 8 == j // 8),
    "sinks": Masked(
        "(j <= i) & ((i - j < w) | (j < 4))", lambda i, j, n, m, w: (j <= i) & ((i - j < w) | (j < 4)), True, W
    ),
    "neighbours": Masked(
        "(abs(i // 5 - j // 5) <= 1) & (abs(i % 5 - j % 5) <= 1)",
        lambda i, j, n, m: (abs(i // 5 - j // 5) <= 1) & (abs(i % 5 - j % 5) <= 1),
    ),
    "strided": Masked(
        "(j <= i) & ((i - j < 4) | (j % 8 == 7))", lambda i, j, n, m: (j <= i) & ((i - j < 4) | (j % 8 == 7))
    ),
    "everything": Masked("j >= 0", lambda i, j, n, m: (i >= 0) & (j >= 0), False),
    "nothing": Masked("j < 0", lambda i, j, n, m: (i < 0) & (j < 0), False),
}
SIZES = (0, 1, 2, 7, 13, 16, 31)
STRATEGIES = (Strategy(2, 4, 6, 2, 2, 2), Strategy(2, 1, 6, 2, 2, 2), Strategy(4, 4, 8, 2, 1, 4))


def kernel_of(text: str, path: str = "<masked>") -> Kernel:
    return Kernel(parse(text, path), "float64", {})


def small(k: Kernel, strategy: Strategy) -> Placed:
    return place(k.derivation, strategy, "f64", {}, frozenset())


def positions(p: Panel, kind: str) -> Array:
    """The positions of the panel that tiles of this kind hold; each is in one tile at most."""
    out = np.zeros((p.rows.extent, p.keys.extent), np.int64)
    for b in p.bands:
        for r in b.runs:
            if r.kind == kind:
                out[b.lo : b.hi, r.lo : r.hi] += 1
    assert out.max(initial=0) <= 1
    assert out.sum() == p.positions(kind)  # type: ignore[arg-type]
    return out.astype(bool)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("name", MASKS)
def test_full_partial_and_empty_are_those_of_the_mask(name: str, strategy: Strategy) -> None:
    case = MASKS[name]
    k = kernel_of(case.text())
    placed = small(k, strategy)
    for n in SIZES:
        for m in (n,) if case.square else SIZES:
            for params in case.params:
                sizes = {"n": n} | ({} if case.square else {"m": m}) | params
                for p in picture_of(k, placed=placed, **sizes).panels:
                    i, j = np.arange(n)[:, None], np.arange(m)
                    allowed = np.broadcast_to(case.numpy(i, j, n, m, **params), (n, m))
                    full, partial = positions(p, "full"), positions(p, "partial")
                    assert not (full & ~allowed).any(), (sizes, str(p))
                    assert not (allowed & ~full & ~partial).any(), (sizes, str(p))
                    assert not (full & partial).any()
                    assert p.positions("empty") == n * m - full.sum() - partial.sum()


def test_affine_masks_enter_no_empty_tile() -> None:
    """Where ranges are exact, each tile that is entered has a position that the mask allows."""
    for name in ("causal", "window", "bottom right", "blocks", "sinks"):
        case = MASKS[name]
        k = kernel_of(case.text())
        n = 31
        sizes = {"n": n} | ({} if case.square else {"m": n})
        for params in case.params:
            (p,) = picture_of(k, placed=small(k, Strategy(2, 4, 6, 2, 2, 2)), **sizes, **params).panels
            allowed = np.broadcast_to(case.numpy(np.arange(n)[:, None], np.arange(n), n, n, **params), (n, n))
            for b in p.bands:
                for r in b.runs:
                    assert allowed[b.lo : b.hi, r.lo : r.hi].any(), (name, params, b, r)


# Against a run -------------------------------------------------------------------------------------------------------


class Watched(interp._PhaseRun):
    """A run that notes for each tile that a loop of a phase enters: its rows, its keys, and whether it was tested."""

    seen: list[tuple[str, str, tuple[int, int], tuple[int, int]]] = []  # noqa: RUF012

    def body(self, body: tuple[Any, ...]) -> None:
        nests = any(isinstance(s, Nest) for s in body)
        loops = [a for a in self.spans if self.phase.axis(a).role == "loop"]
        items = [a for a in self.phase.items if self.phase.axis(a).step > 1] or list(self.phase.items)
        if nests and loops:
            self.seen.append((self.phase.name, loops[0], self.spans[items[-1]], self.spans[loops[0]]))
        super().body(body)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@pytest.mark.parametrize("name", MASKS)
def test_the_tiles_are_those_of_a_run(name: str, strategy: Strategy, monkeypatch: pytest.MonkeyPatch) -> None:
    case = MASKS[name]
    k = kernel_of(case.text())
    placed = small(k, strategy)
    monkeypatch.setattr(interp, "_PhaseRun", Watched)
    for n in (1, 7, 13):
        for params in case.params[:4]:
            sizes = {"n": n} | ({} if case.square else {"m": n + 2}) | params
            Watched.seen = []
            m = sizes.get("m", n)
            arrays = {"Q": np.ones((n, 2)), "K": np.ones((m, 2)), "V": np.ones((m, 2))}
            interp.run(placed.tiles, arrays, {"d": 2, **sizes}, params)
            shown = [
                (p.phase, (b.lo, b.hi - b.lo), (lo, min(p.keys.step, r.hi - lo)))
                for p in picture_of(k, placed=placed, **sizes).panels
                for b in p.bands
                for r in b.runs
                for lo in range(r.lo, r.hi, p.keys.step)
            ]
            assert sorted(shown) == sorted((phase, rows, keys) for phase, _, rows, keys in Watched.seen)


def test_a_classified_loop_is_drawn_tile_by_tile() -> None:
    """A loop made by hand, with tiles of all three kinds."""
    from moa.normal import at_least_zero
    from moa.poly import var

    k = kernel_of(MASKS["causal"].text())
    placed = small(k, Strategy(2, 4, 6, 2, 2, 2))
    (phase,) = placed.tiles.phases
    first = next(s for s in phase.body if isinstance(s, Loop))
    nest = Nest((), None, ())
    i, j = var("i@0"), var(f"{first.axis}@0")
    body = (When(at_least_zero(i - j), (When(at_least_zero(i - j - 6), (nest,), (nest,)),)),)
    loop = Loop(first.axis, first.lo * 0, phase.axis("i").extent, body, "classified")
    tiles = replace(placed.tiles, phases=(replace(phase, body=(loop,)),))
    (p,) = picture_of(k, placed=replace(placed, tiles=tiles), n=14).panels
    kinds = [[(r.lo, r.hi, r.kind, r.tiles) for r in b.runs] for b in p.bands]
    assert kinds == [
        [(0, 6, "partial", 1)],
        [(0, 6, "partial", 1)],
        [(0, 6, "full", 1), (6, 12, "partial", 1)],
        [(0, 12, "full", 2), (12, 14, "partial", 1)],
    ]


# What a picture says -------------------------------------------------------------------------------------------------


def example(name: str) -> Kernel:
    path = f"examples/{name}.moa"
    return Kernel(parse((ROOT / path).read_text(encoding="utf-8"), path), "float32", {})


def wide(name: str, **sizes: int) -> moa.explain.picture.Picture:  # type: ignore[name-defined]
    k = example(name)
    return picture_of(k, placed=k.for_many_rows(16), **sizes)


def test_text(golden: Callable[[str], str]) -> None:
    shown = [wide("causal", n=1000), wide("window", n=4096, w=700), wide("aaren", n=3), wide("neighbours_min")]
    assert "\n\n".join(map(str, shown)) == golden("picture/text")


def test_svg(golden: Callable[[str], str]) -> None:
    assert wide("causal", n=300).svg() == golden("picture/causal.svg")


@pytest.mark.parametrize("n", [0, 1, 64, 65, 100_003, 1_048_576])
def test_every_size_has_a_bounded_picture(n: int) -> None:
    p = wide("causal", n=n)
    lines = str(p).splitlines()
    assert len(lines) < 45 and max(map(len, lines)) < 120
    assert len(p.svg()) < 400_000
    (panel,) = p.panels
    total = panel.positions("full") + panel.positions("partial") + panel.positions("empty")
    assert total == n * n


def test_what_is_tested_in_full_tiles_is_said() -> None:
    text = "def f(Q[n, d], K[m, d], keep: bool[m]):\n    return sum(where(keep, Q @ K.T, 0))\n"
    k = kernel_of(text)
    assert "only keep[j] is tested" in str(k.picture(n=5, m=5))
    assert "full tiles, only keep[j] is tested" in k.explain()


def test_ranges_from_data() -> None:
    text = (
        "def f(Q[b, n, d], K[b, m, d], V[b, m, d], lens: int[b]):\n"
        "    return softmax(where(iota(m) < lens[:, None, None], Q @ K.T, -inf)) @ V\n"
    )
    k = kernel_of(text)
    p = k.picture(b=2, n=8, m=20, lens=np.array([9, 3]))
    assert p.panels[0].positions("full") + p.panels[0].positions("partial") in (8 * 9, 8 * 12)
    assert "drawn for b0 = 0" in str(p) or "drawn for b = 0" in str(p) or "= 0" in p.panels[0].note
    assert k.picture(b=0, n=8, m=20, lens=np.zeros(0, int)).panels[0].bands == ()
    with pytest.raises(MoaError, match="no value for b, lens"):
        k.picture(n=8, m=20)
    with pytest.raises(MoaError, match="not an array of integers with 1 axes"):
        k.picture(b=2, n=8, m=20, lens=np.array([[9]]))


def test_a_recurrence_is_one_row() -> None:
    k = example("linear")
    x = np.ones((3000, 4), np.float32)
    k(x, x, x)
    p = k.picture(n=3000)
    assert p.variant == "the variant that ran last"
    assert [(q.rows.extent, q.positions("full")) for q in p.panels] == [(1, 3000)]


def test_cells_keep_every_position() -> None:
    bands = (Band(0, 4, (Run(0, 3, "full", 1), Run(3, 5, "partial", 1))), Band(4, 6, ()))
    cells = cells_of(Panel("p", Side("i", 6, 4), Side("j", 9, 3), bands), 32, 5)
    assert (cells.rows, cells.keys) == (4, 2)
    assert cells.shades == (("full", "mixed", "mixed", "empty", "empty"), ("empty",) * 5)
    one = cells_of(Panel("p", Side("i", 6, 4), Side("j", 9, 3), bands), 1, 1)
    assert (one.rows, one.keys, one.shades) == (8, 16, (("mixed",),))


def test_mistakes() -> None:
    k = example("window")
    for given, message in (
        ({}, "no value for n, w"),
        ({"n": 4}, "no value for w"),
        ({"n": -1, "w": 2}, "n is -1"),
        ({"n": 2.5, "w": 2}, r"n is 2\.5"),
        ({"n": 4, "w": [1]}, "w is an array"),
        ({"n": 4, "w": 2, "\x1b": 1}, r"window has no size \\x1b"),
        ({"n": 1 << 30, "w": 2}, "more rows of tiles than"),
        ({"n": 1 << 50, "w": 2}, "n is 1125899906842624"),
        ({"n": "9" * 99, "w": 2}, r"n is 9{40}\n"),
    ):
        with pytest.raises(MoaError, match=message):
            k.picture(**given)  # type: ignore[arg-type]


def test_the_command(tmp_path: Path) -> None:
    from moa.cli import app

    def said(*words: str) -> tuple[int, str]:
        found = CliRunner().invoke(app, ["explain", str(ROOT / "examples/causal.moa"), *words])
        return found.exit_code, found.stdout + found.stderr

    path = tmp_path / "x.svg"
    code, text = said("--picture", "--size", "n=300", "--svg", str(path))
    assert code == 0 and text.startswith("tiles of causal at n = 300")
    assert path.read_text(encoding="utf-8").startswith("<svg ")
    for words, message in (
        (("--picture",), "no value for n"),
        (("--size", "n=3"), "--size goes with --picture"),
        (("--picture", "--size", "n=3", "--json"), "--json do not"),
        (("--size", "n=3", "--svg", str(tmp_path)), "cannot be written"),
        (("--picture", "--size", "n=-3"), "n is -3"),
    ):
        code, text = said(*words)
        assert code == 2 and message in text, words


# HTML and SVG --------------------------------------------------------------------------------------------------------

HOSTILE = "<script>alert(1)</script>&\"'\x1b[31m"


class Checker(HTMLParser):
    """Every element is closed, none of them runs or loads anything."""

    PAGE = frozenset(("article", "section", "figure", "figcaption", "h3", "h4", "pre", "code"))
    TABLE = frozenset(("table", "caption", "thead", "tbody", "tr", "th", "td"))
    DRAWN = frozenset(("svg", "title", "desc", "g", "rect", "text"))

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        assert name in self.PAGE | self.TABLE | self.DRAWN, name
        for key, value in attributes:
            assert not key.startswith("on") and key not in ("href", "src"), key
            assert key == "xmlns" or "http" not in str(value)
        self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(markup: str) -> str:
    """The text of some HTML, which must be clean."""
    checker = Checker()
    checker.feed(markup)
    checker.close()
    assert checker.open == []
    text = "".join(checker.text)
    assert all(c.isprintable() or c == "\n" for c in text)
    return text


def hostile() -> Kernel:
    text = f"# {HOSTILE}\ndef f(Q[n, d], K[n, d]):\n    return softmax(where(iota(n) <= 3, Q @ K.T, 0)) # {HOSTILE}\n"
    return Kernel(parse(text, HOSTILE), "float32", {})


def displays(k: Kernel) -> Iterator[str]:
    yield k._repr_html_()
    yield from (k.explain(stage)._repr_html_() for stage in (None, "program", "tiles", "source"))  # type: ignore[attr-defined]
    yield k.cost()._repr_html_()
    yield k.cost(**{x: 4 for x in k._names()})._repr_html_()


def test_displays_are_clean() -> None:
    for k in (hostile(), example("causal"), example("with_lse")):
        for markup in displays(k):
            read(markup)
    assert "<script>" not in "".join(displays(hostile()))
    assert r"<script>alert(1)</script>&\"'\x1b[31m".replace('\\"', '"') in read(hostile()._repr_html_())


def test_pages_are_text_and_html() -> None:
    k = example("causal")
    text = k.explain()
    assert isinstance(text, str) and text.splitlines()[0].startswith("examples/causal.moa:3  causal(")
    shown = read(text._repr_html_())  # type: ignore[attr-defined]
    for line in text.splitlines()[1:]:
        assert (
            re.sub(r"^(formula|normal form|groups|laws|forms|fold|kernel|contract|error|words)\b", "", line).strip()
            in shown
        )
    tiles = k.explain("tiles")
    assert read(tiles._repr_html_()) == tiles  # type: ignore[attr-defined]


def test_a_kernel_in_a_notebook() -> None:
    shown = read(example("causal")._repr_html_())
    assert "3 as written, 1 as compiled" in shown
    assert "softmax(where(j <= i, Q @ K.T / sqrt(dk), -inf)) @ V" in shown


def test_a_cost_in_a_notebook() -> None:
    c = example("causal").cost(n=100, dk=8, dv=8)
    shown = read(c._repr_html_())
    for row in c.rows():
        assert all(x.strip() in shown for x in row)
    assert "cost of causal at n = 100" in shown


def test_the_svg_is_xml_with_a_title() -> None:
    p = wide("causal", n=1000)
    root = ET.fromstring(p.svg())
    assert root.tag == f"{SVG}svg" and root.get("role") == "img"
    assert root.findtext(f"{SVG}title") == root.get("aria-label") == "tiles of causal at n = 1000"
    assert "full: 45 tiles, 468,480 positions" in str(root.findtext(f"{SVG}desc"))
    drawn = [r for r in root.iter(f"{SVG}rect") if r.get("fill") == "#3d7fc4"]
    assert len(drawn) == 45 + 1  # and the one of the legend
    assert read(p._repr_html_())
    width, height = (float(str(root.get(k))) for k in ("width", "height"))
    for r in root.iter(f"{SVG}rect"):
        x, y, w, h = (float(str(r.get(k))) for k in ("x", "y", "width", "height"))
        assert 0 <= x <= x + w <= width and 0 <= y <= y + h <= height


def test_the_page_of_a_recurrence(golden: Callable[[str], str]) -> None:
    """What a reader sees of the carried form of two examples: the laws, and what goes from step to step."""
    shown = []
    for name in ("linear", "aaren"):
        k = example(name)
        carried = next(f.name for f in k.derivation.forms if "carry" in f.name)
        d, form = of_form(k.derivation, carried)
        placed = place(d, Strategy(16, 64, 192, 4, 4), "f32", {}, frozenset())
        sections = dict(page(k, d, form, placed).sections)
        shown += [*sections["laws"], *sections["recurrence"]]
    assert "\n".join(shown) == golden("explain/carried")


def test_markup_escapes() -> None:
    assert tag("p", HOSTILE) == f"<p>{escaped(HOSTILE)}</p>"
    assert escaped(HOSTILE) == "&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;&#x27;\\x1b[31m"
    assert tag("p", Markup("<b>x</b>"), font_size=HOSTILE).startswith('<p font-size="&lt;script')
    assert "<script>" not in table(HOSTILE, (HOSTILE,), [(HOSTILE, HOSTILE, "1,000.5")])
    assert escaped("a\nb") == "a\nb"


def test_lines_are_counted() -> None:
    bands = (Band(0, 4, (Run(0, 5, "full", 1),)), Band(4, 6, (Run(0, 1, "partial", 1),)))
    lines = list(lines_of(Panel("p0", Side("i", 6, 4), Side("j", 9, 5), bands, note="drawn for b = 0")))
    assert lines == [
        "phase p0: 4 of i an item, j in tiles of up to 5; drawn for b = 0",
        "  i \\ j  0",
        "      0  █████····",
        "      4  ▒········",
        "  a character is 4 x 1 positions",
        "  █ full: 1 tile, 20 positions, nothing is tested",
        "  ▒ partial: 1 tile, 2 positions, each position is tested",
        "  · empty: 32 positions, never entered",
    ]
