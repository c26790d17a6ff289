"""Text to syntax tree: `parse` for programs, `parse_expression` for one formula with its shapes beside it.

`with_kernel` chooses a function as the kernel.
"""

from __future__ import annotations

import re
from fractions import Fraction

from moa import ir
from moa.ops import Kind
from moa.parse.mistakes import CONSTANTS, NAME_HINT, RESERVED
from moa.parse.tree import KINDS, Tree, one_rest
from moa.text import MoaError, Span, printable

__all__ = ["parse", "parse_expression", "with_kernel"]

MAX_CHARACTERS = 100_000
MAX_BRACKETS = 200


def parse(text: str, file: str = "<text>") -> ir.Source:
    """The syntax tree of a program: its functions in order, the last one being the kernel.

    Errors: MoaError of kind "syntax" at the place of the mistake, of kind "limit" for a text beyond the bounds
    """
    text = _clean(text, file)
    build = Tree(text, file)
    whole = Span(file, text, 0, len(text))
    functions = tuple(build.run("program"))
    if not functions:
        raise MoaError("syntax", "the program has no function", whole.to(whole), "begin with def name(X[n, d]):")
    seen: dict[str, ir.Function] = {}
    for f in functions:
        if f.name.name in seen:
            raise MoaError("name", f"function {f.name.name} is defined twice", f.name.span, "give one another name")
        seen[f.name.name] = f
    return ir.Source(functions, whole)


def parse_expression(text: str, file: str, shapes: dict[str, str]) -> ir.Source:
    """A program of one function named `expression`, from a bare formula and a shape text per parameter.

    A shape text lists the axes: "... n dk", with `int` or `bool` before them for other kinds; "int" alone is an
    integer scalar, "" and "float" a float scalar. Parameters come in the order of `shapes`.
    """
    text = _clean(text, file)
    values = tuple(Tree(text, file).run("expression"))
    span = Span(file, text, 0, len(text.rstrip("\n")))
    parameters = tuple(_shape_parameter(name, shape) for name, shape in shapes.items())
    body = (ir.Return(values, span),)
    return ir.Source((ir.Function(ir.Name("expression", span), parameters, body, span),), span)


def with_kernel(source: ir.Source, function: str) -> ir.Source:
    """The same program with that function as the kernel: moved behind the others.

    Errors: MoaError of kind "argument" if there is none of that name
    """
    others = tuple(f for f in source.functions if f.name.name != function)
    chosen = tuple(f for f in source.functions if f.name.name == function)
    if not chosen:
        known = ", ".join(f.name.name for f in source.functions)
        text = f"the program has no function {printable(str(function))}"
        raise MoaError("argument", text, None, f"its functions: {known}")
    return ir.Source(others + chosen, source.span)


def _shape_parameter(name: str, shape: str) -> ir.Parameter:
    file = f"shape of {name}"
    text = _clean(shape, file)[:-1]
    whole = Span(file, text, 0, len(text))
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or name in RESERVED or name in CONSTANTS:
        raise MoaError("syntax", f"`{printable(name)}` is not a name of a parameter", None, NAME_HINT)
    words = [(m.group(), Span(file, text, m.start(), m.end())) for m in re.finditer(r"[^\s,]+", text)]
    kind: Kind = "f"
    typed = bool(words) and words[0][0] in KINDS
    if typed:
        kind = KINDS[words[0][0]]
        words = words[1:]
    dims: list[ir.Expr] = []
    for word, span in words:
        if word == "...":
            dims.append(ir.Name("...", span))
        elif re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", word) and word not in RESERVED:
            dims.append(ir.Name(word, span))
        elif re.fullmatch(r"[0-9]{1,18}", word):
            dims.append(ir.Num(Fraction(int(word)), True, span))
        else:
            hint = 'a shape lists sizes, as "... n dk", with int or bool before them for other kinds'
            raise MoaError("syntax", f"`{printable(word)}` is not a size", span, hint)
    one_rest(dims)
    return ir.Parameter(ir.Name(name, whole), tuple(dims) if dims else None, kind, None, whole)


def _clean(text: str, file: str) -> str:
    """The text with \\n as line ends and a last one; within the bounds on size and on open brackets."""
    if len(text) > MAX_CHARACTERS:
        message = f"the text has {len(text)} characters, at most {MAX_CHARACTERS} are read"
        raise MoaError("limit", message, None, "split it into several programs")
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if not text.endswith("\n"):
        text += "\n"
    closing = {"(": ")", "[": "]", "⟨": "⟩"}
    open_at: list[int] = []
    comment = False
    for k, c in enumerate(text):
        if comment or c == "#":
            comment = c != "\n"
        elif c in closing:
            open_at.append(k)
            if len(open_at) > MAX_BRACKETS:
                message = f"more than {MAX_BRACKETS} brackets are open"
                raise MoaError("limit", message, Span(file, text, k, k + 1), "name parts of the formula")
        elif c in closing.values():
            if not open_at:
                raise MoaError("syntax", f"`{c}` closes nothing", Span(file, text, k, k + 1), "remove it")
            opened = open_at.pop()
            if closing[text[opened]] != c:
                place = Span(file, text, opened, opened + 1)
                message = f"`{c}` does not close the `{text[opened]}` of line {place.line}, column {place.column}"
                raise MoaError("syntax", message, Span(file, text, k, k + 1), f"close it by `{closing[text[opened]]}`")
    if open_at:
        k = open_at[-1]
        span = Span(file, text, k, k + 1)
        raise MoaError("syntax", f"this `{text[k]}` is never closed", span, f"add `{closing[text[k]]}`")
    return text
