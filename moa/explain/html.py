"""What a notebook shows of a page, of a representation and of a kernel: plain HTML, everything in it escaped."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from moa.explain.page import Section, laid_out
from moa.markup import Markup, table, tag


class Page(str):
    """A text of `explain`: a `str` that a notebook shows section by section."""

    head: str
    sections: tuple[Section, ...]

    def __new__(cls, text: str, head: str = "", sections: Iterable[Section] = ()) -> Self:
        self = super().__new__(cls, text)
        self.head, self.sections = head, tuple(s for s in sections if s[1])
        return self

    def _repr_html_(self) -> str:
        if not self.head:
            return tag("article", tag("pre", str(self)))
        return tag("article", title(self.head), *(_section(name, lines) for name, lines in self.sections))


def page_of(head: str, sections: Iterable[Section]) -> Page:
    """A page with a line about the whole and titled sections, as text and for notebooks."""
    found = tuple(sections)
    return Page(f"{head}\n\n{laid_out(found)}", head, found)


def kernel_markup(head: str, formula: Iterable[str], facts: Iterable[tuple[str, str]]) -> Markup:
    """A kernel: its signature, its formula, and a table of what is known of it before it runs."""
    return tag("article", title(head), tag("pre", "\n".join(formula)), table("", (), facts))


def title(text: str) -> Markup:
    return tag("h3", tag("code", text))


def _section(name: str, lines: Iterable[str]) -> Markup:
    return tag("section", tag("h4", name), tag("pre", "\n".join(lines)))
