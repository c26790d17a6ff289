"""Transcribe: a system of equations as a program of the language, so that what was derived can be read and compiled.

Every equation becomes one assignment. Its index variables are the axes of its right side in their order, a reduced one
last; an array is transposed and given axes of extent 1 until it meets the others there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from moa.laws.group import equation_loads
from moa.laws.reading import Stays
from moa.normal import ArrayInput, Axis, Cond, Eq, Index, Normal, Scalar
from moa.notation import CALLED, INFIX, number_text, poly_text
from moa.ops import OPERATORS, REDUCE_WORDS
from moa.poly import Atom, Poly

IDENTITIES = {"add": "0", "mul": "1", "max": "-inf", "min": "inf"}
LEVELS = {"lt": 1, "le": 1, "gt": 1, "ge": 1, "eq": 1, "ne": 1, "or": 2, "and": 3, "add": 4, "sub": 4, "mul": 5}
LEVELS |= {"div": 5, "floordiv": 5, "mod": 5}
HIGHEST, UNARY = 9, 6
SPECIFIERS = {"f": "float", "i": "int", "b": "bool"}


@dataclass(frozen=True, slots=True)
class Text:
    """A part of a right side: its precedence, and which axes of the frame its array has (from the first on)."""

    text: str
    level: int = HIGHEST
    axes: frozenset[str] = frozenset()

    def at(self, level: int) -> str:
        return f"({self.text})" if self.level < level else self.text


def transcribed(normal: Normal, constants: Mapping[str, str] | None = None) -> str:
    """The program of a system of plain equations: it parses, and checks to a program with the same values.

    constants  texts of parameters that are not inputs
    Errors: Stays, where an equation has no text
    """
    return _Writer(normal, dict(constants or {})).program()


@dataclass(slots=True)
class _Writer:
    normal: Normal
    constants: dict[str, str]
    names: dict[str, str] = field(default_factory=dict)
    frame: tuple[Axis, ...] = ()

    def program(self) -> str:
        taken = {i.name for i in self.normal.inputs}
        taken |= {a.name for i in self.normal.inputs for p in i.shape for a in p.atoms()}
        self.names = {i.name: i.name for i in self.normal.inputs}
        lines = []
        for e in self.normal.equations:
            assert isinstance(e, Eq), "a traversal is unfolded first"
            same = e.body if e.kind == "map" else None
            if same is not None and same.op == "load" and same.args[1] == e.index() and e.index():
                self.names[e.name] = self.names[same.args[0]]
                continue
            wanted = "".join(x if x.isalnum() else "_" for x in e.name)
            while wanted in taken:
                wanted += "_"
            taken.add(wanted)
            lines.append(f"{wanted} = {self.equation(e)}")
            self.names[e.name] = wanted
        head = f"def {self.normal.name}({', '.join(map(parameter, self.normal.inputs))}):"
        used = "\n".join(lines)
        constants = [f"{k} = {v}" for k, v in self.constants.items() if k in used]
        end = f"return {', '.join(self.names[o] for o in self.normal.outputs)}"
        return "\n".join([head, *(f"    {x}" for x in (*constants, *lines, end))]) + "\n"

    def equation(self, e: Eq) -> str:
        self.frame = e.outer
        if e.kind == "map":
            return self.spread(self.scalar(e.body), frozenset(v for v, _ in e.outer)).text
        if e.op not in IDENTITIES:
            raise Stays(f"{e.name} is a reduction by {e.op}")
        assert e.red is not None
        at = self.place(e)
        self.frame = (*e.outer[:at], e.red, *e.outer[at:])
        value = Text(IDENTITIES[e.op] if e.dtype == "f" or e.op in ("add", "mul") else "0")
        if e.dtype != "f" and e.op not in ("add", "mul") and not (e.domain.is_true and e.pieces[0][0].is_true):
            raise Stays(f"{e.name} is an extreme of integers over a part of an axis")
        for c, s in reversed(e.pieces):
            value = self.chosen(self.cond(c), self.scalar(s), value) if not c.is_true else self.scalar(s)
        if not e.domain.is_true:
            value = self.chosen(self.cond(e.domain), value, Text(IDENTITIES[e.op]))
        value = self.spread(value, frozenset(v for v, _ in self.frame))
        axis = at - len(self.frame)
        return (
            f"{REDUCE_WORDS[e.op]}({value.text})" if axis == -1 else f"{REDUCE_WORDS[e.op]}({value.text}, axis={axis})"
        )

    def place(self, e: Eq) -> int:
        """Where a reduced axis is put among the others so that as few arrays as possible are transposed."""
        assert e.red is not None
        outer, red = [v for v, _ in e.outer], e.red[0]
        orders = [[v for p in index if (v := p.as_var()) is not None] for _, index in equation_loads(e)]

        def transposed(at: int) -> int:
            order = [*outer[:at], red, *outer[at:]]
            return sum(axes != sorted(axes, key=order.index) for axes in orders)

        return min(range(len(outer), -1, -1), key=transposed)

    def spread(self, t: Text, wanted: frozenset[str]) -> Text:
        """The same with all wanted axes."""
        if t.axes >= wanted:
            return t
        shape = ", ".join(poly_text(p) for _, p in self.frame)
        return Text(f"{t.at(4)} + zeros({shape})", 4, wanted)

    # scalars ----------------------------------------------------------------------------------------------------------

    def scalar(self, s: Scalar) -> Text:
        match s.op:
            case "lit":
                return self.literal(s.args[0])
            case "int":
                return self.integer(s.args[0])
            case "param":
                return Text(s.args[0])
            case "load":
                return self.load(s.args[0], s.args[1])
            case "select":
                c, a, b = s.args
                return self.chosen(self.cond(c), self.scalar(a), self.scalar(b))
            case "neg":
                (a,) = map(self.scalar, s.args)
                return Text(f"-{a.at(UNARY)}", UNARY, a.axes)
        return self.operation(s.op, [self.scalar(x) for x in s.args])

    def operation(self, op: str, parts: Sequence[Text]) -> Text:
        axes = frozenset().union(*(p.axes for p in parts))
        if op in INFIX:
            a, b = parts
            level = LEVELS[op]
            return Text(f"{a.at(level + (level == 1))} {INFIX[op]} {b.at(level + 1)}", level, axes)
        name = CALLED.get(op, OPERATORS[op].symbol)
        return Text(f"{name}({', '.join(p.text for p in parts)})", HIGHEST, axes)

    def literal(self, value: Fraction | float) -> Text:
        if value != value:
            return Text("(inf - inf)")
        text = str(value.numerator) if isinstance(value, Fraction) and value.denominator == 1 else ""
        text = text or number_text(value, "f")
        return Text(text, UNARY if text.startswith("-") else HIGHEST)

    def chosen(self, c: Text, a: Text, b: Text) -> Text:
        return Text(f"where({c.text}, {a.text}, {b.text})", HIGHEST, c.axes | a.axes | b.axes)

    # conditions and integers ------------------------------------------------------------------------------------------

    def cond(self, c: Cond) -> Text:
        match c.op:
            case "true" | "false":
                return Text(c.op.capitalize())
            case "ge" | "eq":
                p: Poly = c.args[0]
                strict = c.op == "ge" and dict(p.terms).get(()) == -1
                left = self.integer(Poly({m: k for m, k in p.terms if k > 0}))
                right = self.integer(Poly({m: -k for m, k in p.terms if k < 0 and not (strict and not m)}))
                symbol = "==" if c.op == "eq" else ">" if strict else ">="
                return Text(f"{left.at(2)} {symbol} {right.at(2)}", 1, left.axes | right.axes)
            case "and" | "or":
                first, *rest = (self.cond(x) for x in c.args)
                for x in rest:
                    first = self.operation(c.op, (first, x))
                return first
            case "not":
                x = self.cond(c.args[0])
                return Text(f"~{x.at(UNARY)}", UNARY, x.axes)
            case "cmp":
                return self.operation(c.args[0], [self.scalar(x) for x in c.args[1:]])
        return self.load(c.args[0], c.args[1])

    def integer(self, p: Poly) -> Text:
        common = max((c.denominator for _, c in p.terms), default=1)
        if common != 1:
            inner = self.integer(p * common)
            return Text(f"{inner.at(5)} // {common}", 5, inner.axes)
        total: Text | None = None
        for m, c in p.terms:
            factors = [self.atom(a) for a in m]
            if abs(c) != 1 or not factors:
                factors.insert(0, Text(str(abs(c))))
            term = factors[0]
            for x in factors[1:]:
                term = self.operation("mul", (term, x))
            if total is None:
                total = Text(f"-{term.at(UNARY)}", UNARY, term.axes) if c < 0 else term
            else:
                total = self.operation("sub" if c < 0 else "add", (total, term))
        return total or Text("0")

    def atom(self, a: Atom) -> Text:
        match a.kind:
            case "var":
                extent = next(p for v, p in self.frame if v == a.name)
                return self.placed(f"iota({poly_text(extent)})", (a.name,))
            case "size" | "int":
                return Text(a.name)
            case "load":
                return self.load(a.name, a.args)
            case "select":
                c, x, y = a.args
                return self.chosen(self.cond(c), self.integer(x), self.integer(y))
            case "div":
                return self.operation("floordiv", [self.integer(x) for x in a.args])
        return self.operation(a.kind, [self.integer(x) for x in a.args])

    # arrays -----------------------------------------------------------------------------------------------------------

    def load(self, array: str, index: Index) -> Text:
        """An element as the array with its axes at their places in the frame."""
        items: list[str] = []
        axes: list[str] = []
        for p in index:
            v = p.as_var()
            used = sorted(p.vars())
            if v is not None:
                items.append(":")
            elif not used and not any(a.kind == "load" for a in p.atoms()):
                items.append(poly_text(p))
                continue
            elif len(used) == 1:
                extent = next(e for name, e in self.frame if name == used[0])
                outside, self.frame = self.frame, ((used[0], extent),)
                items.append(self.integer(p).text)
                self.frame = outside
            else:
                raise Stays(f"{array}[{', '.join(map(str, index))}] has an index of {len(used)} axes")
            axes.append(v or used[0])
        if len(set(axes)) < len(axes):
            raise Stays(f"{array}[{', '.join(map(str, index))}] is a diagonal")
        if sum(x != ":" and not p.as_var() and bool(p.vars()) for x, p in zip(items, index, strict=True)) > 1:
            raise Stays(f"{array}[{', '.join(map(str, index))}] has two indices that are arrays")
        name = self.names[array]
        if any(x != ":" for x in items):
            while items[-1] == ":":
                items.pop()
            name = f"{name}[{', '.join(items)}]"
        return self.placed(name, axes)

    def placed(self, name: str, axes: Sequence[str]) -> Text:
        """An array with these axes, transposed into their order in the frame, with new ones between and after."""
        order = [v for v, _ in self.frame]
        wanted = sorted(axes, key=order.index)
        if list(axes) != wanted:
            name = f"transpose({name}, [{', '.join(str(list(axes).index(v)) for v in wanted)}])"
        if not wanted:
            return Text(name)
        items = [":" if v in wanted else "None" for v in order[order.index(wanted[0]) :]]
        if "None" in items:
            while items[-1] == ":":
                items.pop()
            if items == sorted(items) and items.count(":") == len(wanted) > 1:
                items = ["...", *items[len(wanted) :]]
            name = f"{name}[{', '.join(items)}]"
        return Text(name, HIGHEST, frozenset(axes))


def parameter(i: ArrayInput) -> str:
    dims = ", ".join(map(poly_text, i.shape))
    word = SPECIFIERS[i.kind]
    if not i.shape:
        return f"{i.name}: {word}"
    return f"{i.name}[{dims}]" if i.kind == "f" else f"{i.name}: {word}[{dims}]"
