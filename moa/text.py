"""Places in a program text, and the one way every mistake of a user is shown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """The characters start..end (offsets) of a named text."""

    file: str
    text: str
    start: int
    end: int

    @property
    def line(self) -> int:
        """The 1-based line on which the span starts."""
        return self.text.count("\n", 0, self.start) + 1

    @property
    def column(self) -> int:
        """The 1-based column at which the span starts."""
        return self.start - (self.text.rfind("\n", 0, self.start) + 1) + 1

    def to(self, other: Span) -> Span:
        """The span from the start of this one to the end of `other`."""
        return Span(self.file, self.text, min(self.start, other.start), max(self.end, other.end))


class MoaError(Exception):
    """A mistake of the user: what is wrong, where, and what to do about it.

    `kind` is a word such as "syntax", "shape", "type", "name", "argument"; `message` states the two facts in
    conflict with their values; `hint` says what to do.
    """

    def __init__(self, kind: str, message: str, span: Span | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.span = span
        self.hint = hint

    def __str__(self) -> str:
        head = f"{self.kind} error: {self.message}"
        lines = [head] if self.span is None else [f"{place(self.span)}: {head}", *caret(self.span)]
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


def printable(text: str) -> str:
    """The text with every control or non-printing character written as an escape: safe on a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def place(span: Span) -> str:
    """`file:line:column` of the start of a span."""
    return f"{printable(span.file)}:{span.line}:{span.column}"


def caret(span: Span) -> list[str]:
    """The source line of a span, and below it a line of carets under the marked characters."""
    begin = span.text.rfind("\n", 0, span.start) + 1
    stop = span.text.find("\n", span.start)
    line = span.text[begin:] if stop < 0 else span.text[begin:stop]
    first, last = span.start - begin, max(span.end, span.start + 1) - begin
    before, marked, after = (
        printable(part.replace("\t", "    ")) for part in (line[:first], line[first:last], line[last:])
    )
    marked = marked or " "
    window = 100
    if len(before) > window:
        before = "..." + before[-window:]
    if len(marked) + len(after) > window:
        after, marked = "", marked[:window]
    return [f"    {before}{marked}{after}", f"    {' ' * len(before)}{'^' * len(marked)}"]
