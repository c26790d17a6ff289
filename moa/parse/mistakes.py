"""Syntax errors in words: what was found, what was expected, and what to do."""

from __future__ import annotations

import re
from typing import Any

from moa.text import MoaError, Span, printable

NAME_HINT = "names are made of ASCII letters, digits and _"
CONSTANTS = ("True", "False")
RESERVED = {
    "if": ("there is no `if`", "where(condition, a, b) selects element by element"),
    "else": ("there is no `else`", "where(condition, a, b) selects element by element"),
    "elif": ("there is no `elif`", "where(condition, a, b) selects element by element"),
    "lambda": ("there is no `lambda`", "write a function with def above this one"),
    "and": ("there is no `and`", "`&` joins conditions; put each comparison into parentheses"),
    "or": ("there is no `or`", "`|` joins conditions; put each comparison into parentheses"),
    "not": ("there is no `not`", "`~` negates a condition"),
    "in": ("there is no `in`", "any(x == y) says whether an array has an element"),
    "is": ("there is no `is`", "== compares values"),
    "for": ("there are no loops", "scan and fold go along an axis; everything else is written on whole arrays"),
    "while": ("there are no loops", "scan and fold go along an axis; everything else is written on whole arrays"),
    "import": ("there are no modules", "the functions of the language need no import"),
    "from": ("there are no modules", "the functions of the language need no import"),
    "class": ("there are no classes", "a program is a list of functions"),
    "with": ("there is no `with`", ""),
    "pass": ("there is no `pass`", "every function ends with return"),
    "del": ("there is no `del`", "a value that is not used costs nothing"),
    "global": ("there are no globals", "give the function a parameter"),
    "nonlocal": ("there are no globals", "give the function a parameter"),
    "try": ("there are no exceptions", ""),
    "except": ("there are no exceptions", ""),
    "raise": ("there are no exceptions", ""),
    "assert": ("there is no `assert`", "shapes in the parameters are checked at every call"),
    "yield": ("there is no `yield`", "return a, b gives several results"),
    "async": ("there is no `async`", ""),
    "await": ("there is no `await`", ""),
    "break": ("there are no loops", ""),
    "continue": ("there are no loops", ""),
}
WORDS = {
    "NAME": "a name",
    "NUMBER": "a number",
    "DEF": "def",
    "RETURN": "return",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "LANGLE": "`⟨`",
    "RANGLE": "`⟩`",
    "COLON": "`:`",
    "COMMA": "`,`",
    "DOT": "`.`",
    "EQUAL": "`=`",
    "_NL": "the end of the line",
    "_INDENT": "an indented line",
    "_DEDENT": "the end of the function",
    "$END": "the end of the text",
    "ELLIPSIS": "`...`",
    "NONE": "None",
    "__ANON_0": "`...`",
}
OPERAND = {"NAME", "NUMBER", "LPAR"}
OPERATORS = {"ADD", "MUL", "OR", "AND", "COMPARE", "POWER", "INNER", "GLYPH"}
PREFIXES = {"TILDE", "PREFIX", "RHO", "PREFIX_OR_INFIX", "REDUCE", "LSQB", "LANGLE"}


def dedent_error(file: str, text: str) -> MoaError:
    """The first line whose indentation goes back to no level above it."""
    levels = [0]
    at = 0
    for line in text.split("\n"):
        code = line.lstrip(" \t")
        if code and not code.startswith("#"):
            before = line[: len(line) - len(code)]
            indent = len(before.replace("\t", " " * 8))
            back = indent < levels[-1]
            while indent < levels[-1]:
                levels.pop()
            if back and indent > levels[-1]:
                at += len(before)
                break
            if indent > levels[-1]:
                levels.append(indent)
        at += len(line) + 1
    span = Span(file, text, min(at, len(text) - 1), min(at + 1, len(text)))
    return MoaError("syntax", "the indentation of this line fits no line above it", span, "align it")


def syntax_error(error: Any, file: str, text: str, start: str) -> MoaError:
    """A syntax error in words: what was found, what was expected, what to do."""
    from lark import UnexpectedCharacters

    if isinstance(error, UnexpectedCharacters):
        return _character_error(file, text, int(error.pos_in_stream or 0))
    token = error.token
    position = token.start_pos if token.type != "$END" and token.start_pos is not None else len(text) - 1
    stop = position + 1 if token.type in ("_NL", "$END") else token.end_pos
    span = Span(file, text, position, stop)
    before = text[:position].rstrip(" \t")
    if token.type == "NAME" and token.value in RESERVED:
        message, hint = RESERVED[token.value]
        return MoaError("syntax", message, span, hint)
    previous = re.search(r"[A-Za-z_][A-Za-z0-9_]*$", before)
    if previous and previous.group() in RESERVED:
        message, hint = RESERVED[previous.group()]
        return MoaError("syntax", message, Span(file, text, *previous.span()), hint)
    accepts = set(error.accepts or ())
    found = _found(token)
    expected = _expected(accepts)
    hint = _hint(token, accepts, before, text[position : position + 2], start)
    return MoaError("syntax", f"found {found}, expected {expected}", span, hint)


def _found(token: Any) -> str:
    match token.type:
        case "_NL":
            return "the end of the line"
        case "$END":
            return "the end of the text"
        case "_INDENT":
            return "an indented line"
        case "_DEDENT":
            return "the end of the function"
        case _:
            return f"`{printable(str(token.value))}`"


def _hint(token: Any, accepts: set[str], before: str, rest: str, start: str) -> str:
    value = str(token.value)
    if "DEF" in accepts and start == "program" and token.type != "DEF":
        return "a program is a list of functions: statements stand indented below def name(...):"
    if value == "=" and before.endswith(("+", "-", "*", "/", "%", "@", "&", "|")):
        return "write x = x + y: there is no assignment that combines"
    if rest == "->":
        return "results have no annotation: end the line with `:`"
    if value == "**" or (value == "*" and before.endswith(("(", ","))):
        return "arguments are written out one by one"
    if token.type == "_INDENT":
        return "lines of one function have the same indentation"
    if token.type == "_NL" and "COLON" in accepts and re.search(r"\bdef\b[^\n]*$", before):
        return "end the line of def with `:`"
    if value == "=" and "COMPARE" in accepts:
        return "== compares; = names a value at the start of a line"
    if token.type == "DEF" and start == "expression":
        return "this is read as one formula: give the whole program to compile instead"
    if value == "None":
        return "None stands in an index only: x[:, None]"
    if token.type == "NAME" and "ADD" in accepts:
        return "an operator is missing, or a comma"
    method = re.search(r"\.([A-Za-z_][A-Za-z0-9_]*)$", before)
    if value == "(" and method:
        return f"functions stand before their arguments: {method.group(1)}(x)"
    if value == "(" and before.endswith((")", "]")):
        return "only a name can be called"
    if value == ":" and before.endswith(("(", ",")):
        return "slices stand in an index: x[1:3]"
    return ""


def _character_error(file: str, text: str, position: int) -> MoaError:
    c = text[position]
    span = Span(file, text, position, position + 1)
    previous = re.search(r"[A-Za-z_][A-Za-z0-9_]*$", text[:position].rstrip(" \t"))
    hint = ""
    if previous and previous.group() in RESERVED:
        message, hint = RESERVED[previous.group()]
        return MoaError("syntax", message, Span(file, text, *previous.span()), hint)
    if c in "\"'`":
        return MoaError("syntax", "there are no strings", span, "comments begin with #")
    if c == "^":
        hint = "** is the power; ~(a == b) or a != b is exclusive or of conditions"
    elif c == ";":
        hint = "write one statement a line"
    elif c == "!":
        hint = "!= compares, ~ negates a condition"
    elif c in "{}":
        hint = "lists of sizes are written [a, b]"
    elif c.isalpha():
        hint = f"{NAME_HINT}; the Greek letters are the operators ρ τ δ ι Φ ψ θ Ω"
    elif not c.isprintable():
        hint = "remove it"
    elif c == "$" or c == "?" or c == "\\":
        hint = "it means nothing here"
    return MoaError("syntax", f"the character `{printable(c)}` is not expected here", span, hint)


def _expected(accepts: set[str]) -> str:
    """The acceptable tokens in words, the most telling first."""
    words: list[str] = []
    rest = set(accepts)
    if rest >= OPERAND:
        words.append("a formula")
        rest -= OPERAND | PREFIXES | {"ADD"}
    if rest & OPERATORS and "MUL" in rest:
        words.append("an operator")
        rest -= OPERATORS | PREFIXES | {"DOT", "ADD", "LSQB", "OMEGA"}
    if "_NL" in rest and "$END" in rest:
        rest.discard("_NL")
    order = list(WORDS)
    words += [WORDS[t] for t in sorted(rest & set(WORDS), key=order.index)]
    if not words:
        return "something else"
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
