"""Text as HTML and SVG: elements whose text and attributes are escaped, whatever they hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from moa.text import printable


class Markup(str):
    """Text that is HTML or SVG already."""

    __slots__ = ()


def tag(name: str, *content: str, **attributes: object) -> Markup:
    """One element; content that is not Markup is escaped. An attribute `font_size` is written `font-size`."""
    words = [f' {k.rstrip("_").replace("_", "-")}="{escaped(str(v))}"' for k, v in attributes.items()]
    inside = "".join(x if isinstance(x, Markup) else escaped(x) for x in content)
    return Markup(f"<{name}{''.join(words)}>{inside}</{name}>")


def escaped(text: str) -> Markup:
    """The text with what HTML and terminals give a meaning to written as what it is; lines stay lines."""
    return Markup("\n".join(escape(printable(line)) for line in text.split("\n")))


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """A table whose rows begin with their title."""
    titles = [tag("thead", tag("tr", *(tag("th", x, scope="col") for x in head)))] if head else []
    lines = [tag("tr", tag("th", first, scope="row", style=LEFT), *map(_cell, rest)) for first, *rest in rows]
    named = [tag("caption", caption)] if caption else []
    return tag("table", *named, *titles, tag("tbody", *lines))


LEFT = "text-align: left"


def _cell(text: str) -> Markup:
    """A number stands to the right, under the other ones."""
    number = text.replace(",", "").replace(".", "").isdigit()
    return tag("td", tag("code", text) if text else "", style="text-align: right" if number else LEFT)
