"""Panels as a picture: text in block characters, and SVG. Large ones are scaled, with the numbers stated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moa.explain.cells import Cells, Shade, cells_of
from moa.explain.panels import Kind, Panel
from moa.explain.svg import Drawing, drawn
from moa.markup import Markup, tag
from moa.text import MoaError, printable

GLYPHS: dict[Shade, str] = {"full": "█", "partial": "▒", "mixed": "░", "empty": "·"}
MOST_LINES, MOST_COLUMNS = 32, 64
TICK = 16  # columns between two labels


@dataclass(frozen=True, slots=True)
class Picture:
    """Which tiles a kernel enters at given sizes: `print` it, or show it in a notebook; `svg` is a file of its own.

    variant   which of the kernel's variants this is
    """

    name: str
    variant: str
    sizes: tuple[tuple[str, int], ...]
    panels: tuple[Panel, ...]

    @property
    def title(self) -> str:
        at = ", ".join(f"{k} = {v}" for k, v in self.sizes)
        return f"tiles of {self.name}" + (f" at {at}" if at else "")

    def __str__(self) -> str:
        blocks = [f"{self.title}, {self.variant}"]
        if not self.panels:
            blocks.append("there is no loop over tiles: an item is computed at once")
        return "\n\n".join([*blocks, *("\n".join(lines_of(p)) for p in self.panels)])

    def svg(self) -> str:
        """The picture as the text of an SVG file, readable on light and on dark backgrounds."""
        return str(drawn(self.title, tuple(Drawing(heading(p), p, legend(p)) for p in self.panels)))

    def save(self, path: Path) -> None:
        """Writes the SVG to a file.

        Errors: MoaError of kind "argument" where it cannot be written
        """
        try:
            path.write_text(self.svg(), encoding="utf-8")
        except OSError as e:
            text = f"{printable(str(path))} cannot be written: {e.strerror}"
            raise MoaError("argument", text, None, "check the path") from None

    def _repr_html_(self) -> str:
        return tag("figure", Markup(self.svg()), tag("figcaption", f"{self.title}, {self.variant}"))


def heading(p: Panel) -> str:
    """What the two sides of a panel are."""
    rows = f"{p.rows.step} of {p.rows.letter} an item" if p.rows.letter else "one item"
    text = f"phase {p.phase}: {rows}, {p.keys.letter} in tiles of up to {p.keys.step}"
    return f"{text}; {p.note}" if p.note else text


def legend(p: Panel) -> tuple[tuple[Shade, str], ...]:
    """What each shade of a panel means, with the numbers of tiles and of positions."""
    tested = f"only {' and '.join(p.tests)} is tested" if p.tests else "nothing is tested"
    found: list[tuple[Kind, str]] = [
        ("full", f"full: {_counts(p, 'full')}, {tested}"),
        ("partial", f"partial: {_counts(p, 'partial')}, each position is tested"),
        ("empty", f"empty: {p.positions('empty'):,} positions, never entered"),
    ]
    return tuple(x for x in found if p.positions(x[0])) or (("empty", "there are no positions at these sizes"),)


def _counts(p: Panel, kind: Kind) -> str:
    tiles = p.tiles(kind)
    return f"{tiles:,} tile{'s' * (tiles != 1)}, {p.positions(kind):,} positions"


def lines_of(p: Panel) -> Iterator[str]:
    """A panel as text: a line of characters for each row of cells, then what they mean."""
    cells = cells_of(p, MOST_LINES, MOST_COLUMNS)
    starts = [str(k * cells.rows) for k in range(len(cells.shades))]
    corner = f"{p.rows.letter or ' '} \\ {p.keys.letter}"
    margin = max(map(len, (corner, *starts)))
    yield heading(p)
    yield f"  {corner:>{margin}}  {_ticks(cells, p.keys.extent)}".rstrip()
    for start, row in zip(starts, cells.shades, strict=True):
        yield f"  {start:>{margin}}  {''.join(GLYPHS[x] for x in row)}"
    yield f"  a character is {cells.rows:,} x {cells.keys:,} positions"
    for shade, text in legend(p):
        yield f"  {GLYPHS[shade]} {text}"
    if any("mixed" in row for row in cells.shades):
        yield f"  {GLYPHS['mixed']} several of these in one character"


def _ticks(cells: Cells, extent: int) -> str:
    """The first key of every sixteenth column, above it."""
    columns = range(0, -(-extent // cells.keys), TICK)
    return "".join(f"{k * cells.keys:<{TICK}}" for k in columns).rstrip()
