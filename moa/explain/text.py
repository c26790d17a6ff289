"""Small texts of a page: equations, extents, polynomials with their common factors taken out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import gcd

from moa.explain.names import Names, Scope
from moa.normal import TRUE, Axis, Cond, Eq, Scalar
from moa.ops import REDUCE_WORDS
from moa.poly import Atom, Poly, const

WIDTH = 118
INDENT = 13  # the column of titles


def equation(names: Names, scope: Scope, e: Eq) -> str:
    """One equation of the normal form as the page has it."""
    head = element(names, scope, e.name, e.outer)
    bodies = [(names.cond(scope, c), names.scalar(scope, s)) for c, s in e.pieces]
    value = pieces(bodies)
    if e.red is None:
        return f"{head} = {value}"
    return f"{head} = {over(names, scope, e.op, e.red[0], e.domain)} {value}"


def pieces(bodies: Iterable[tuple[Cond, Scalar]]) -> str:
    found = list(bodies)
    if len(found) == 1 and found[0][0] is TRUE:
        return str(found[0][1])
    return "{ " + "; ".join(f"{s} where {c}" for c, s in found) + " }"


def element(names: Names, scope: Scope, array: str, outer: Iterable[Axis]) -> str:
    index = ", ".join(names.letter(scope, v) for v, _ in outer)
    name = names.array(scope[0], array)
    return f"{name}[{index}]" if index else name


def over(names: Names, scope: Scope, op: str, v: str, domain: Cond) -> str:
    """`sum_j`, or `sum_{j: i >= j}` where the axis has a domain."""
    letter = names.letter(scope, v)
    if domain is TRUE:
        return f"{REDUCE_WORDS[op]}_{letter}"
    return f"{REDUCE_WORDS[op]}_{{{letter}: {names.cond(scope, domain)}}}"


def extents(names: Names, equations: Iterable[Eq], system: str) -> str:
    """`i < n, j < m`: what each letter runs over."""
    found: dict[str, str] = {}
    for e in equations:
        for v, extent in (*e.outer, *((e.red,) if e.red else ())):
            found.setdefault(names.letter((system, e.name), v), str(names.poly((system, e.name), extent)))
    return ", ".join(f"{v} < {p}" for v, p in found.items())


def factored(p: Poly) -> str:
    """The polynomial with terms that differ in one atom joined: 2*m*n*(dk + dv) + 6*m*n.

    Only terms of the highest degree are joined; the result is the same polynomial, for the eye.
    """
    top = max((len(m) for m, _ in p.terms), default=0)
    leading = [(m, int(c)) for m, c in p.terms if len(m) == top and c == int(c) and c > 0]
    if len(leading) < 2 or len(leading) < sum(len(m) == top for m, _ in p.terms):
        return str(p)
    common: Counter[Atom] = Counter(leading[0][0])
    for m, _ in leading[1:]:
        common &= Counter(m)
    factor = gcd(*(c for _, c in leading))
    if not common and factor == 1:
        return str(p)
    inner = const(0)
    for m, c in leading:
        inner = inner + Poly({tuple((Counter(m) - common).elements()): c // factor})
    outside = Poly({tuple(sorted(common.elements(), key=str)): factor})
    rest = p - outside * inner
    tail = "" if not rest.terms else (f" - {-rest}" if str(rest).startswith("-") else f" + {rest}")
    return f"{outside}*({inner}){tail}"


def wrapped(text: str, indent: int, width: int = WIDTH) -> list[str]:
    """The text in lines of at most `width` characters, broken at blanks; lines after the first are indented."""
    out: list[str] = []
    words = text.lstrip().split(" ")
    line = " " * (len(text) - len(text.lstrip())) + words[0]
    for word in words[1:]:
        if len(line) + 1 + len(word) > width:
            out.append(line)
            line = " " * indent + word
        else:
            line = f"{line} {word}"
    return [*out, line]
