"""Panels as SVG: one file, no script, no style sheet, nothing loaded; colours that stand on light and on dark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from moa.explain.cells import Shade, cells_of
from moa.explain.panels import Panel
from moa.markup import Markup, tag

COLOURS: dict[Shade, str] = {"full": "#3d7fc4", "partial": "#e39a2d", "mixed": "#8f9a5b", "empty": "none"}
GREY = "#767676"  # the grey with the same contrast, 4.5, on white and on black
MOST_TILES = 2000  # above it cells are drawn in place of tiles
MOST_CELLS = 96
WIDTH, LEFT, TOP = 640, 60, 52
SIDE = 360  # of the longer side of a panel
LINE = 18


@dataclass(frozen=True, slots=True)
class Drawing:
    """A panel with its heading and what its shades mean."""

    heading: str
    panel: Panel
    legend: tuple[tuple[Shade, str], ...]


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in positions: rows and keys."""

    row: int
    key: int
    rows: int
    keys: int
    shade: Shade


def drawn(title: str, drawings: tuple[Drawing, ...]) -> Markup:
    """The SVG of some panels under each other; title and legends are its text for those who cannot see it."""
    parts: list[Markup] = []
    top = LINE + 6
    for d in drawings:
        parts.append(tag("g", *_panel(d), transform=f"translate(0 {top})"))
        top += _height(d)
    described = ". ".join(x for d in drawings for x in (d.heading, *(text for _, text in _legend(d))))
    head = (tag("title", title), tag("desc", described), _text(8, 14, title, font_weight="bold"))
    return tag(
        "svg",
        *head,
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {top}",
        width=WIDTH,
        height=top,
        role="img",
        aria_label=title,
        font_family="system-ui, sans-serif",
        font_size=12,
        fill=GREY,
    )


def _sides(p: Panel) -> tuple[float, float]:
    """Width and height of a panel: true to its positions, but for very long ones."""
    rows, keys = max(p.rows.extent, 1), max(p.keys.extent, 1)
    longer = max(rows, keys)
    return max(SIDE * keys / longer, 48), max(SIDE * rows / longer, 24)


def _height(d: Drawing) -> int:
    return round(TOP + _sides(d.panel)[1] + 12 + LINE * len(_legend(d)) + 16)


def _panel(d: Drawing) -> Iterator[Markup]:
    p = d.panel
    width, height = _sides(p)
    yield _text(8, 14, d.heading)
    yield _text(LEFT, TOP - 6, f"{p.keys.letter} = 0")
    yield _text(LEFT + width + 6, TOP - 6, f"{p.keys.extent:,}")
    if p.rows.letter:
        yield _text(LEFT - 6, TOP + 12, f"{p.rows.letter} = 0", text_anchor="end")
        yield _text(LEFT - 6, TOP + height, f"{p.rows.extent:,}", text_anchor="end")
    x, y = width / max(p.keys.extent, 1), height / max(p.rows.extent, 1)
    edge = {} if _scaled(p) else {"stroke": GREY, "stroke_width": 0.5}
    boxes = [
        _box(LEFT + b.key * x, TOP + b.row * y, b.keys * x, b.rows * y, COLOURS[b.shade], **edge) for b in _boxes(p)
    ]
    yield tag("g", *boxes, **({"shape_rendering": "crispEdges"} if _scaled(p) else {}))
    yield _box(LEFT, TOP, width, height, "none", stroke=GREY)
    for k, (shade, text) in enumerate(_legend(d)):
        line = TOP + height + 24 + LINE * k
        yield _box(LEFT, line - 10, 12, 12, COLOURS[shade], stroke=GREY)
        yield _text(LEFT + 20, line, text)


def _boxes(p: Panel) -> Iterator[Box]:
    """Every tile, or cells where there are too many of them."""
    if not _scaled(p):
        for b in p.bands:
            for r in b.runs:
                for lo in range(r.lo, r.hi, p.keys.step):
                    yield Box(b.lo, lo, b.hi - b.lo, min(p.keys.step, r.hi - lo), r.kind)
        return
    cells = cells_of(p, MOST_CELLS, MOST_CELLS)
    for k, row in enumerate(cells.shades):
        rows = min(cells.rows, p.rows.extent - k * cells.rows)
        start = 0
        for shade, own in groupby(row):
            end = start + len(list(own))
            keys = min(end * cells.keys, p.keys.extent) - start * cells.keys
            if shade != "empty":
                yield Box(k * cells.rows, start * cells.keys, rows, keys, shade)
            start = end


def _scaled(p: Panel) -> bool:
    return p.tiles("full") + p.tiles("partial") > MOST_TILES


def _legend(d: Drawing) -> tuple[tuple[Shade, str], ...]:
    if not _scaled(d.panel):
        return d.legend
    cells = cells_of(d.panel, MOST_CELLS, MOST_CELLS)
    return (*d.legend, ("mixed", f"several of these in one cell of {cells.rows:,} x {cells.keys:,} positions"))


def _box(x: float, y: float, width: float, height: float, fill: str, **attributes: object) -> Markup:
    sides = {"x": x, "y": y, "width": width, "height": height}
    return tag("rect", **{k: f"{v:.2f}".rstrip("0").rstrip(".") for k, v in sides.items()}, fill=fill, **attributes)


def _text(x: float, y: float, text: str, **attributes: object) -> Markup:
    return tag("text", text, x=round(x), y=round(y), **attributes)
