"""Series over a logarithmic axis of bytes as SVG: one file, no script, readable on light and on dark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, floor, log2, log10
from typing import Literal

from moa.machine import bytes_text
from moa.markup import Markup, tag

GREY = "#767676"  # the same contrast on white and on black
COLOURS = {"line": "#3d7fc4", "points": "#c8781e", "dashes": "#8f5fb8", "dots": "#4b9460"}
WIDTH, HEIGHT = 680, 400
LEFT, RIGHT, TOP, BOTTOM = 72, 30, 36, 92


@dataclass(frozen=True, slots=True)
class Series:
    """(bytes of the cache, bytes that move) with how they are drawn."""

    name: str
    kind: Literal["line", "points", "dashes", "dots"]
    points: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Curve:
    title: str
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class Axes:
    """Logarithms of the ends: of two below, of ten at the side."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (log2(x) - self.x[0]) / (self.x[1] - self.x[0])
        up = (log10(y) - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def drawn(c: Curve) -> Markup:
    """The SVG; the title and what each series is are its text for those who cannot see it."""
    xs = [x for s in c.series for x, _ in s.points]
    ys = [y for s in c.series for _, y in s.points]
    axes = Axes((log2(min(xs)), log2(max(xs))), (floor(log10(min(ys)) * 2) / 2, ceil(log10(max(ys)) * 4) / 4))
    described = ", ".join(f"{s.name}: {s.points[0][1]:,} bytes down to {s.points[-1][1]:,}" for s in c.series)
    return tag(
        "svg",
        tag("title", c.title),
        tag("desc", described),
        text(LEFT, 20, c.title, font_weight="bold"),
        *grid(axes),
        *(x for s in c.series for x in shape(axes, s)),
        *legend(c.series),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        width=WIDTH,
        height=HEIGHT,
        role="img",
        aria_label=c.title,
        font_family="system-ui, sans-serif",
        font_size=12,
        fill=GREY,
    )


def grid(axes: Axes) -> Iterator[Markup]:
    """Lines at powers of two below and at 1, 2 and 5 at the side, with what they are."""
    low, high = axes.x
    for k in range(ceil(low), floor(high) + 1):
        x, _ = axes.at(2.0**k, 10 ** axes.y[0])
        yield line(x, TOP, x, HEIGHT - BOTTOM)
        yield text(x, HEIGHT - BOTTOM + 16, bytes_text(1 << k), text_anchor="middle")
    for exponent in range(floor(axes.y[0]), ceil(axes.y[1]) + 1):
        for digit in (1, 2, 5):
            value = digit * 10**exponent
            if axes.y[0] <= log10(value) <= axes.y[1]:
                _, y = axes.at(2.0**low, value)
                yield line(LEFT, y, WIDTH - RIGHT, y)
                yield text(LEFT - 6, y + 4, amount(value), text_anchor="end")
    yield text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 36, "size of the cache", text_anchor="middle")


def amount(value: int) -> str:
    return f"{value / 1e9:g} GB" if value >= 10**9 else f"{value / 1e6:g} MB"


def shape(axes: Axes, s: Series) -> Iterator[Markup]:
    placed = [axes.at(*p) for p in s.points]
    colour = COLOURS[s.kind]
    if s.kind == "points":
        for x, y in placed:
            yield tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=4, fill="none", stroke=colour, stroke_width=2)
        return
    dash = {"line": "none", "dashes": "7 4", "dots": "2 4"}[s.kind]
    yield path(" ".join(f"{'L' if k else 'M'}{x:.1f} {y:.1f}" for k, (x, y) in enumerate(placed)), colour, dash)


def path(d: str, colour: str, dash: str) -> Markup:
    return tag("path", d=d, fill="none", stroke=colour, stroke_width=2, stroke_dasharray=dash)


def legend(series: tuple[Series, ...]) -> Iterator[Markup]:
    y = HEIGHT - 22
    for k, s in enumerate(series):
        x = LEFT + k * (WIDTH - LEFT - RIGHT) / len(series)
        if s.kind == "points":
            yield tag("circle", cx=x + 14, cy=y - 4, r=4, fill="none", stroke=COLOURS[s.kind], stroke_width=2)
        else:
            dash = {"line": "none", "dashes": "7 4", "dots": "2 4"}[s.kind]
            yield path(f"M{x:.1f} {y - 4} h28", COLOURS[s.kind], dash)
        yield text(x + 36, y, s.name)


def line(x1: float, y1: float, x2: float, y2: float) -> Markup:
    ends = {k: f"{v:.1f}" for k, v in (("x1", x1), ("y1", y1), ("x2", x2), ("y2", y2))}
    return tag("line", stroke=GREY, stroke_opacity=0.25, **ends)


def text(x: float, y: float, content: str, **attributes: object) -> Markup:
    return tag("text", content, x=f"{x:.1f}", y=f"{y:.1f}", **attributes)
