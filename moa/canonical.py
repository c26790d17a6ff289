"""The canonical form of a Normal: a text that is equal for systems that differ only in names and in order.

Index variables are numbered by position, an equation is known by its content instead of its name, operands of
commutative operators are sorted, and choices are flat lists of conditions and values. Psi-reduction is confluent: in
whatever order its rules are applied, this text is the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import permutations

from moa import poly
from moa.normal import (
    FALSE,
    TRUE,
    Axis,
    Cond,
    Eq,
    Index,
    Normal,
    Piece,
    Recurrence,
    Scalar,
    both,
    either,
    map_cond,
    negate,
    number_text,
)
from moa.ops import OPERATORS
from moa.poly import Atom, Poly, var
from moa.psi.ranges import Scope, narrowed, settle

MOST_CHOICES = 12  # values of a choice that is written flat
MOST_TURNED = 4  # axes of a reduction that are put in order
TURNED = {"gt": "lt", "ge": "le"}
Place = tuple[str, tuple[tuple[int, ...], ...]]  # the key of an array, and the orders of its axes that are equal


def canonical(normal: Normal) -> str:
    """The system as text: one line an equation, in the order in which the outputs need them.

    Errors: AssertionError for a system with Folds, which have an order of their own
    """
    book = _Book(normal)
    heads = [f"return {', '.join(book.key(o) for o in normal.outputs)}"]
    return "\n".join([*heads, *(f"{k} = {text}" for k, text in book.lines.items())])


@dataclass(slots=True)
class _Book:
    """Keys of the equations met so far, and their texts by key."""

    normal: Normal
    lines: dict[str, str] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    equations: dict[str, Eq] = field(default_factory=dict)
    recurrences: dict[str, Recurrence] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for e in self.normal.equations:
            assert isinstance(e, Eq), e
            self.equations[e.name] = e
        for r in self.normal.recurrences:
            self.recurrences |= {c.name: r for c in r.components}
            self.equations |= {e.name: e for e in (*r.maps, *r.readers)}

    def key(self, array: str) -> str:
        return self.place(array)[0]

    def place(self, array: str) -> Place:
        """The key of an array; that of an input is its name."""
        if array not in self.places:
            if array in self.equations:
                self.places[array] = self.enter(self.equations[array])
            elif array in self.recurrences:
                self.recurrence(self.recurrences[array])
            else:
                self.places[array] = array, ()
        return self.places[array]

    def line(self, text: str) -> str:
        """The key of a text, which is entered."""
        key = "@" + hashlib.sha256(text.encode()).hexdigest()[:12]
        self.lines[key] = text
        return key

    def enter(self, e: Eq) -> Place:
        """The key of an equation; the axes of a reduction stand in the order that gives the least text."""
        rank = len(e.outer)
        free = e.kind == "reduce" and rank <= MOST_TURNED
        orders = list(permutations(range(rank))) if free else [tuple(range(rank))]
        texts = {order: self.text(e, tuple(e.outer[k] for k in order)) for order in orders}
        least = min(texts.values())
        return self.line(least), tuple(order for order, text in texts.items() if text == least)

    def text(self, e: Eq, outer: tuple[Axis, ...]) -> str:
        names = {v: f"i{k}" for k, (v, _) in enumerate(outer)} | ({e.red[0]: "k"} if e.red else {})
        axes = (*outer, e.red) if e.red else outer
        writer = _Writer(self, {v: var(n) for v, n in names.items()}, {names[v]: x for v, x in axes})
        pieces = "; ".join(sorted(writer.piece(p) for p in e.pieces))
        head = ", ".join(f"{names[v]} < {writer.extent(x)}" for v, x in outer)
        if e.red is None:
            return f"[{head}] {e.dtype} {pieces}"
        domain = writer.cond(e.domain)
        return f"[{head}] {e.dtype} {e.op} over k < {writer.extent(e.red[1])}, {domain} of {pieces}"

    def recurrence(self, r: Recurrence) -> None:
        """Enters the arrays of a recurrence; inside it a state is known by its number."""
        for k, c in enumerate(r.components):
            self.places[c.state] = self.places[c.name] = f"state{k}", ()
        names: Mapping[str, Poly] = {r.axis[0]: var("t")}
        parts = [f"t < {r.axis[1]}, {r.exclusive} {r.reverse} {r.keep} {r.place}"]
        for c in r.components:
            own = {v: var(f"i{k}") for k, (v, _) in enumerate(c.outer)}
            writer = _Writer(self, {**names, **own}, {f"i{k}": x for k, (_, x) in enumerate(c.outer)})
            head = ", ".join(writer.extent(x) for _, x in c.outer)
            parts.append(f"[{head}] {c.dtype} from {writer.scalar(c.start)} by {writer.scalar(c.body)}")
        key = self.line("; ".join(parts))
        for k, c in enumerate(r.components):
            self.places[c.name] = f"{key}.{k}", ()
            del self.places[c.state]


class _Writer:
    """Writes the scalars of one equation, its variables by their numbers; `scope` has the extents of those."""

    def __init__(self, book: _Book, names: Mapping[str, Poly], scope: Scope) -> None:
        self.book, self.names, self.scope = book, names, scope
        self.memo: dict[Scalar, str] = {}

    # integers and conditions: rebuilt under the new names, which orders them

    def renamed(self, p: Poly) -> Poly:
        return p.replace(self.atom)

    def atom(self, a: Atom) -> Poly | None:
        match a.kind:
            case "var":
                return self.names.get(a.name)
            case "load":
                name, index = self.loaded(a.name, a.args)
                return poly.atom("load", name, index)
            case "select":
                c = self.condition(a.args[0])
                x, y = (self.renamed(b) for b in a.args[1:])
                turned = str(negate(c)) < str(c)
                return poly.select(negate(c), y, x) if turned else poly.select(c, x, y)
        return None

    def loaded(self, array: str, index: Index) -> tuple[str, Index]:
        """The key of an array and the index, its axes in the order of the key."""
        key, orders = self.book.place(array)
        renamed = tuple(self.renamed(p) for p in index)
        if not orders:
            return key, renamed
        return key, min((tuple(renamed[k] for k in order) for order in orders), key=lambda x: list(map(str, x)))

    def condition(self, c: Cond) -> Cond:
        """The condition with its scalars as opaque names: their texts."""
        if c.op == "load":
            return Cond("load", self.loaded(c.args[0], c.args[1]))
        if c.op == "cmp":
            name, a, b = c.args
            if name in TURNED:
                name, a, b = TURNED[name], b, a
            x, y = (self.scalar(s) for s in (a, b))
            if name in ("eq", "ne"):
                x, y = sorted((x, y))
            return Cond("cmp", (name, Scalar("param", (x,)), Scalar("param", (y,))))
        if c.op in ("and", "or"):
            return (both if c.op == "and" else either)(*(self.condition(x) for x in c.args))
        if c.op == "not":
            return negate(self.condition(c.args[0]))
        return map_cond(c, self.renamed, lambda s: s)

    def poly(self, p: Poly) -> str:
        return str(self.renamed(p))

    def extent(self, p: Poly) -> str:
        return str(settle(p, {}))

    def cond(self, c: Cond) -> str:
        return str(narrowed(self.condition(c), self.scope))

    def piece(self, p: Piece) -> str:
        return f"{self.cond(p[0])}: {self.scalar(p[1])}"

    # scalars

    def scalar(self, s: Scalar) -> str:
        if s not in self.memo:
            self.memo[s] = self.written(s)
        return self.memo[s]

    def written(self, s: Scalar) -> str:
        match s.op:
            case "lit":
                return number_text(s.args[0])
            case "int":
                return f"({self.poly(s.args[0])})"
            case "param":
                return str(s.args[0])
            case "load":
                name, index = self.loaded(*s.args)
                return f"{name}[{', '.join(map(str, index))}]"
            case "select":
                return self.choice(s)
        operands = [self.scalar(x) for x in s.operands]
        if OPERATORS[s.op].commutative:
            operands.sort()
        return f"{s.op}({', '.join(operands)})"

    def choice(self, s: Scalar) -> str:
        """where(c, where(d, x, y), z) as the list c & d: x, c & ~d: y, ~c: z."""
        values: dict[str, Cond] = {}

        def walk(x: Scalar, under: Cond) -> None:
            if under.is_false:
                return
            if x.op != "select":
                text = self.scalar(x)
                values[text] = either(values.get(text, FALSE), under)
                return
            c = self.condition(x.args[0])
            walk(x.args[1], narrowed(both(under, c), self.scope))
            walk(x.args[2], narrowed(both(under, negate(c)), self.scope))

        walk(s, TRUE)
        if len(values) > MOST_CHOICES:
            c, a, b = s.args
            return f"where({self.cond(c)}, {self.scalar(a)}, {self.scalar(b)})"
        return "{" + "; ".join(sorted(f"{c}: {text}" for text, c in values.items())) + "}"
