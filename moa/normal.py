"""The Normal: a system of equations, each defining one array by name over its own index variables.

`Scalar` is an exact expression for one element, `Cond` a condition on indices and data; both are interned, so equality
is identity. `Eq` is a Map or a Reduce; `Fold` is several Reduces of one group made into one traversal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal

from moa.ops import OPERATORS, Kind
from moa.poly import Poly, as_poly

Index = tuple[Poly, ...]


class Scalar:
    """One element, as an expression. Interned: equal expressions are the same object.

    op        args
    lit       (Fraction | float,)      exact; inf, -inf, nan as floats
    int       (Poly,)                  an integer expression as a float
    param     (name,)                  a float parameter of rank 0
    load      (array, index)           index is a tuple of Poly, one per axis
    ref       (k, when)                reference k of a Fold member; when is "old" or "new"
    select    (Cond, a, b)
    <name>    operands                 a float operator of OPERATORS
    """

    __slots__ = ("_text", "_vars", "args", "op")
    _text: str
    _vars: frozenset[str] | None
    _interned: ClassVar[dict[tuple[str, tuple[Any, ...]], Scalar]] = {}

    op: str
    args: tuple[Any, ...]

    def __new__(cls, op: str, args: tuple[Any, ...]) -> Scalar:
        key = (op, args)
        found = cls._interned.get(key)
        if found is None:
            found = super().__new__(cls)
            found.op, found.args, found._text, found._vars = op, args, "", None
            cls._interned[key] = found
        return found

    def __repr__(self) -> str:
        return f"Scalar({self})"

    def __str__(self) -> str:
        if not self._text:
            self._text = scalar_text(self)
        return self._text

    @property
    def operands(self) -> tuple[Scalar, ...]:
        """The scalar operands (of a select: the two branches)."""
        if self.op in ("lit", "int", "param", "load", "ref"):
            return ()
        return self.args[1:] if self.op == "select" else self.args

    def vars(self) -> frozenset[str]:
        """The names of the index variables in it."""
        if self._vars is None:
            out: set[str] = set()
            match self.op:
                case "int":
                    out |= self.args[0].vars()
                case "load":
                    for p in self.args[1]:
                        out |= p.vars()
                case "select":
                    out |= self.args[0].vars()
            for x in self.operands:
                out |= x.vars()
            self._vars = frozenset(out)
        return self._vars


class Cond:
    """A condition. Interned. Structural = contains no float.

    op     args
    ge     (Poly,)            p >= 0
    eq     (Poly,)            p == 0
    and    operands           a flat tuple sorted by text, without duplicates
    or     operands           likewise
    not    (c,)               only around eq, cmp and load: `ge` has its complement -p - 1 >= 0
    cmp    (name, a, b)       lt le gt ge eq ne of two Scalars
    load   (array, index)     an element of a bool array
    true, false
    """

    __slots__ = ("_text", "args", "op")
    _text: str
    _interned: ClassVar[dict[tuple[str, tuple[Any, ...]], Cond]] = {}

    op: str
    args: tuple[Any, ...]

    def __new__(cls, op: str, args: tuple[Any, ...]) -> Cond:
        key = (op, args)
        found = cls._interned.get(key)
        if found is None:
            found = super().__new__(cls)
            found.op, found.args, found._text = op, args, ""
            cls._interned[key] = found
        return found

    def __repr__(self) -> str:
        return f"Cond({self})"

    def __str__(self) -> str:
        if not self._text:
            self._text = cond_text(self)
        return self._text

    @property
    def is_true(self) -> bool:
        return self.op == "true"

    @property
    def is_false(self) -> bool:
        return self.op == "false"

    def atoms(self) -> frozenset[Any]:
        """The integer atoms in it (see `Poly.atoms`)."""
        out: set[Any] = set()
        for x in self.args:
            if isinstance(x, Poly | Cond):
                out |= x.atoms()
            elif isinstance(x, Scalar):
                out |= scalar_atoms(x)
            elif isinstance(x, tuple):
                for p in x:
                    out |= p.atoms()
        return frozenset(out)

    def vars(self) -> frozenset[str]:
        return frozenset(a.name for a in self.atoms() if a.kind == "var")

    def replace(self, f: Callable[[Any], Poly | None]) -> Cond:
        """The same condition with integer atoms replaced (see `Poly.replace`)."""
        return map_cond(self, lambda p: p.replace(f), lambda s: map_scalar(s, poly=lambda p: p.replace(f)))


TRUE = Cond("true", ())
FALSE = Cond("false", ())

# Building, with the simplifications that keep one form for one meaning ----------------------------------------------


def lit(value: float | int | Fraction) -> Scalar:
    if isinstance(value, float) and not math.isfinite(value):
        return Scalar("lit", (value if not math.isnan(value) else math.nan,))
    return Scalar("lit", (Fraction(value),))


def integer(p: Poly | int) -> Scalar:
    """An integer expression as a float."""
    p = as_poly(p)
    n = p.as_int()
    return Scalar("int", (p,)) if n is None else lit(n)


def load(array: str, index: Iterable[Poly | int]) -> Scalar:
    return Scalar("load", (array, tuple(as_poly(p) for p in index)))


def apply(op: str, *operands: Scalar) -> Scalar:
    """op(operands); literals are folded where that is exact, neutral operands dropped."""
    assert op in OPERATORS, op
    if all(x.op == "lit" and isinstance(x.args[0], Fraction) for x in operands):
        a = [x.args[0] for x in operands]
        match op:
            case "add":
                return lit(a[0] + a[1])
            case "sub":
                return lit(a[0] - a[1])
            case "mul":
                return lit(a[0] * a[1])
            case "div" if a[1] != 0:
                return lit(a[0] / a[1])
            case "neg":
                return lit(-a[0])
            case "max":
                return lit(max(a))
            case "min":
                return lit(min(a))
            case "abs":
                return lit(abs(a[0]))
            case "exp" if a[0] == 0:
                return lit(1)
            case "log" if a[0] == 1:
                return lit(0)
            case "sqrt" if a[0] in (0, 1):
                return lit(a[0])
    one, zero = lit(1), lit(0)
    if op == "neg" and operands[0].op == "lit":
        return lit(-operands[0].args[0])
    if op == "mul" and one in operands:
        return operands[1] if operands[0] is one else operands[0]
    if op == "div" and operands[1] is one:
        return operands[0]
    if op in ("add", "sub") and operands[1] is zero:
        return operands[0]
    if op == "add" and operands[0] is zero:
        return operands[1]
    if op == "neg" and operands[0].op == "neg":
        return operands[0].args[0]  # type: ignore[no-any-return]
    if op in ("max", "min") and operands[0] is operands[1]:
        return operands[0]
    return Scalar(op, operands)


def choose(c: Cond, a: Scalar, b: Scalar) -> Scalar:
    """a where c, else b."""
    if c.is_true or a is b:
        return a
    return b if c.is_false else Scalar("select", (c, a, b))


def at_least_zero(p: Poly) -> Cond:
    """p >= 0."""
    n = p.as_int()
    return Cond("ge", (p,)) if n is None else (TRUE if n >= 0 else FALSE)


def is_zero(p: Poly) -> Cond:
    """p == 0, with one sign for p and -p."""
    n = p.as_int()
    if n is not None:
        return TRUE if n == 0 else FALSE
    return Cond("eq", (min(p, -p, key=str),))


def both(*conds: Cond) -> Cond:
    """The conjunction."""
    flat: set[Cond] = set()
    for c in conds:
        flat |= set(c.args) if c.op == "and" else {c}
    flat.discard(TRUE)
    if FALSE in flat or any(negate(c) in flat for c in flat):
        return FALSE
    if not flat:
        return TRUE
    return flat.pop() if len(flat) == 1 else Cond("and", tuple(sorted(flat, key=str)))


def either(*conds: Cond) -> Cond:
    """The disjunction."""
    flat: set[Cond] = set()
    for c in conds:
        flat |= set(c.args) if c.op == "or" else {c}
    flat.discard(FALSE)
    if TRUE in flat or any(negate(c) in flat for c in flat):
        return TRUE
    if not flat:
        return FALSE
    return flat.pop() if len(flat) == 1 else Cond("or", tuple(sorted(flat, key=str)))


def negate(c: Cond) -> Cond:
    match c.op:
        case "true":
            return FALSE
        case "false":
            return TRUE
        case "ge":
            return at_least_zero(-c.args[0] - 1)
        case "not":
            return c.args[0]  # type: ignore[no-any-return]
        case "and":
            return either(*(negate(x) for x in c.args))
        case "or":
            return both(*(negate(x) for x in c.args))
        case _:
            return Cond("not", (c,))


def compare(name: str, a: Scalar, b: Scalar) -> Cond:
    """A comparison of two floats by name: lt le gt ge eq ne; of two literals, its value.

    x == x is kept: it is False on NaN.
    """
    if a.op == "lit" and b.op == "lit":
        return TRUE if OPERATORS[name].numpy(a.args[0], b.args[0]) else FALSE
    return Cond("cmp", (name, a, b))


def is_structural(c: Cond) -> bool:
    """Whether the condition contains no float: only such conditions become domains and pieces."""
    match c.op:
        case "cmp":
            return False
        case "and" | "or" | "not":
            return all(is_structural(x) for x in c.args)
        case _:
            return True


# Walking -----------------------------------------------------------------------------------------------------------


def map_cond(c: Cond, poly: Callable[[Poly], Poly], scalar: Callable[[Scalar], Scalar]) -> Cond:
    """The condition rebuilt with every Poly and every Scalar in it mapped."""
    match c.op:
        case "ge":
            return at_least_zero(poly(c.args[0]))
        case "eq":
            return is_zero(poly(c.args[0]))
        case "and":
            return both(*(map_cond(x, poly, scalar) for x in c.args))
        case "or":
            return either(*(map_cond(x, poly, scalar) for x in c.args))
        case "not":
            return negate(map_cond(c.args[0], poly, scalar))
        case "cmp":
            return compare(c.args[0], scalar(c.args[1]), scalar(c.args[2]))
        case "load":
            return Cond("load", (c.args[0], tuple(poly(p) for p in c.args[1])))
        case _:
            return c


def map_scalar(
    s: Scalar,
    node: Callable[[Scalar], Scalar | None] = lambda _: None,
    poly: Callable[[Poly], Poly] = lambda p: p,
    memo: dict[Scalar, Scalar] | None = None,
) -> Scalar:
    """The scalar rebuilt bottom up: `poly` on each Poly; then `node(rebuilt)` replaces a node where not None."""
    memo = {} if memo is None else memo
    found = memo.get(s)
    if found is not None:
        return found

    def walk(x: Scalar) -> Scalar:
        return map_scalar(x, node, poly, memo)

    match s.op:
        case "lit" | "param" | "ref":
            new = s
        case "int":
            new = integer(poly(s.args[0]))
        case "load":
            new = load(s.args[0], (poly(p) for p in s.args[1]))
        case "select":
            new = choose(map_cond(s.args[0], poly, walk), walk(s.args[1]), walk(s.args[2]))
        case _:
            new = apply(s.op, *(walk(x) for x in s.args))
    out = node(new)
    out = new if out is None else out
    memo[s] = out
    return out


def rename(s: Scalar, names: Mapping[str, Poly]) -> Scalar:
    """The scalar with index variables replaced, all at once."""
    return map_scalar(s, poly=lambda p: p.rename(names)) if names else s


def rename_cond(c: Cond, names: Mapping[str, Poly]) -> Cond:
    return map_cond(c, lambda p: p.rename(names), lambda s: rename(s, names)) if names else c


def subterms(s: Scalar) -> tuple[Scalar, ...]:
    """Every scalar in s, s included, each once, operands before what uses them; scalars in conditions too."""
    out: dict[Scalar, None] = {}

    def walk(x: Scalar) -> None:
        if x in out:
            return
        if x.op == "select":
            for y in cond_scalars(x.args[0]):
                walk(y)
        for y in x.operands:
            walk(y)
        out[x] = None

    walk(s)
    return tuple(out)


def cond_scalars(c: Cond) -> tuple[Scalar, ...]:
    """The scalars compared in a condition."""
    match c.op:
        case "cmp":
            return (c.args[1], c.args[2])
        case "and" | "or" | "not":
            return tuple(s for x in c.args for s in cond_scalars(x))
        case _:
            return ()


def cond_loads(c: Cond) -> tuple[tuple[str, Index], ...]:
    """(array, index) of every element a condition reads, integer and boolean ones included."""
    out = [(a.name, a.args) for a in c.atoms() if a.kind == "load"]
    match c.op:
        case "load":
            out.append((c.args[0], c.args[1]))
        case "and" | "or" | "not":
            out += [y for x in c.args for y in cond_loads(x) if y not in out]
    for s in cond_scalars(c):
        out += [y for y in loads(s) if y not in out]
    return tuple(out)


def scalar_atoms(s: Scalar) -> frozenset[Any]:
    """The integer atoms in a scalar."""
    out: set[Any] = set()
    for x in subterms(s):
        match x.op:
            case "int":
                out |= x.args[0].atoms()
            case "load":
                for p in x.args[1]:
                    out |= p.atoms()
            case "select":
                out |= x.args[0].atoms()
    return frozenset(out)


def loads(s: Scalar) -> tuple[tuple[str, Index], ...]:
    """(array, index) of every element a scalar reads, integer and boolean ones included."""
    out: dict[tuple[str, Index], None] = {}
    for x in subterms(s):
        match x.op:
            case "load":
                out[(x.args[0], x.args[1])] = None
            case "select":
                for y in cond_loads(x.args[0]):
                    out[y] = None
    for a in scalar_atoms(s):
        if a.kind == "load":
            out[(a.name, a.args)] = None
    return tuple(out)


# Equations -----------------------------------------------------------------------------------------------------------

Axis = tuple[str, Poly]  # an index variable and its extent
Piece = tuple[Cond, Scalar]


@dataclass(frozen=True, slots=True)
class Eq:
    """One array, by name, over its own index variables.

    kind     "map": outer variables only, one piece with condition TRUE
             "reduce": reduce(op, red in domain, pieces); pieces are disjoint, elements outside them are the identity
    domain   a structural condition on outer and red: the demanded set of the reduced axis
    dtype    "f" for floats; "i" for integer arrays kept in memory
    """

    name: str
    kind: Literal["map", "reduce"]
    outer: tuple[Axis, ...]
    pieces: tuple[Piece, ...]
    op: str = ""
    red: Axis | None = None
    domain: Cond = TRUE
    dtype: Kind = "f"

    @property
    def body(self) -> Scalar:
        """The body of an equation that has one piece."""
        assert len(self.pieces) == 1
        return self.pieces[0][1]

    def index(self) -> Index:
        return tuple(var_of(a) for a in self.outer)

    def __str__(self) -> str:
        return eq_text(self)


@dataclass(frozen=True, slots=True)
class Member:
    """One reduction of a Fold, as state, move, add, finish.

    outer    its own outer axes; those the fold shares come first and have the same names
    op       the operator that adds
    pieces   per piece: condition and the basis (b_1 .. b_p), scalars over the fold's axis, `ref(k, "new")` inside
    refs     the references, scalars over loads of `<member>#k` (states of earlier members) and finished values
    move     p x p scalars over ref(k, "old"), ref(k, "new"): state <- move . state; () where nothing moves
    finish   the member's value, a scalar over loads of its own states `<name>#k` and of finished values
    """

    name: str
    outer: tuple[Axis, ...]
    op: str
    domain: Cond
    pieces: tuple[tuple[Cond, tuple[Scalar, ...]], ...]
    refs: tuple[Scalar, ...]
    move: tuple[tuple[Scalar, ...], ...]
    finish: Scalar

    @property
    def width(self) -> int:
        """p: the number of state components."""
        return len(self.pieces[0][1])

    def state(self, k: int) -> str:
        return f"{self.name}#{k}"


@dataclass(frozen=True, slots=True)
class Fold:
    """One traversal of an axis that computes all members of a group."""

    name: str
    axis: Axis
    shared: tuple[Axis, ...]
    domain: Cond  # the union of the members' domains
    members: tuple[Member, ...]
    maps: tuple[Eq, ...] = ()  # named sub-expressions of the pieces that load a reference (see `references`)

    def references(self) -> dict[Scalar, str]:
        """The distinct references of the members and the array names under which named pieces load their new values."""
        found = dict.fromkeys(r for m in self.members for r in m.refs)
        return {r: f"{self.name}.ref{k}" for k, r in enumerate(found)}

    def reference_axes(self, r: Scalar) -> tuple[Axis, ...]:
        """The axes of a reference: the shared ones, and those of its own (a mean for each column)."""
        used = r.vars()
        extra = dict.fromkeys(a for m in self.members for a in m.outer if a not in self.shared and a[0] in used)
        return (*self.shared, *extra)

    def __str__(self) -> str:
        return fold_text(self)


@dataclass(frozen=True, slots=True)
class Component:
    """One array of a Recurrence: `<name>#0` over `outer` is its state, kept as `name` with the axis at its place."""

    name: str
    outer: tuple[Axis, ...]
    start: Scalar
    body: Scalar

    @property
    def state(self) -> str:
        return f"{self.name}#0"


@dataclass(frozen=True, slots=True)
class Recurrence:
    """state[t] = body(state[t - 1], t) along an axis: a scan, or with `keep` False only its last state.

    place       where the axis stands among the axes of the arrays that are kept
    exclusive   what is kept at t is the state before t
    reverse     t runs from the end; what is kept stays at its place
    maps        equations that read a state: they belong to one step
    readers     arrays with the axis among theirs, made at each step from the state after it
    """

    name: str
    axis: Axis
    place: int
    components: tuple[Component, ...]
    maps: tuple[Eq, ...]
    exclusive: bool
    reverse: bool
    keep: bool
    readers: tuple[Eq, ...] = ()

    def kept(self, c: Component) -> tuple[Axis, ...]:
        """The axes of the array that is kept of a component."""
        if not self.keep:
            return c.outer
        return (*c.outer[: self.place], self.axis, *c.outer[self.place :])

    def __str__(self) -> str:
        return recurrence_text(self)


@dataclass(frozen=True, slots=True)
class ArrayInput:
    name: str
    kind: Kind
    shape: tuple[Poly, ...]


@dataclass(frozen=True, slots=True)
class Normal:
    """A system of equations in dependence order. Outputs are names of equations; the order is the user's.

    recurrences   beside the equations: they read and make arrays in memory
    stored        Maps that recurrences read: arrays in memory too
    """

    name: str
    inputs: tuple[ArrayInput, ...]
    equations: tuple[Eq | Fold, ...]
    outputs: tuple[str, ...]
    recurrences: tuple[Recurrence, ...] = ()
    stored: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join(str(e) for e in (*self.recurrences, *self.equations))


def var_of(axis: Axis) -> Poly:
    from moa.poly import var

    return var(axis[0])


# Printing ------------------------------------------------------------------------------------------------------------

_PRECEDENCE = {"add": 4, "sub": 4, "mul": 5, "div": 5, "neg": 6}
_NAMES = {"max": "maximum", "min": "minimum"}


def number_text(value: Fraction | float) -> str:
    if isinstance(value, Fraction):
        if value.denominator == 1:
            return str(value.numerator)
        as_float = float(value)
        return repr(as_float) if Fraction(as_float) == value or value.denominator > 1000 else f"({value})"
    return str(value)


def index_text(index: Iterable[Any]) -> str:
    return ", ".join(map(str, index))


def scalar_text(s: Scalar, around: int = 0) -> str:
    match s.op:
        case "lit":
            text, level = number_text(s.args[0]), 9
        case "int":
            text = str(s.args[0])
            level = 4 if len(s.args[0].terms) > 1 else 9
        case "param":
            text, level = s.args[0], 9
        case "load":
            text, level = (f"{s.args[0]}[{index_text(s.args[1])}]" if s.args[1] else s.args[0]), 9
        case "ref":
            text, level = (f"r{s.args[0]}" + ("'" if s.args[1] == "new" else "")), 9
        case "select":
            text, level = f"where({s.args[0]}, {scalar_text(s.args[1])}, {scalar_text(s.args[2])})", 9
        case "add" | "sub" | "mul" | "div":
            level = _PRECEDENCE[s.op]
            symbol = OPERATORS[s.op].symbol
            right = scalar_text(s.args[1], level + (s.op in ("sub", "div")))
            text = f"{scalar_text(s.args[0], level)} {symbol} {right}"
        case "neg":
            text, level = f"-{scalar_text(s.args[0], 6)}", 6
        case _:
            text, level = f"{_NAMES.get(s.op, s.op)}({', '.join(scalar_text(x) for x in s.args)})", 9
    return f"({text})" if level < around else text


def cond_text(c: Cond, around: int = 0) -> str:
    match c.op:
        case "true" | "false":
            return c.op.capitalize()
        case "ge" | "eq":
            p: Poly = c.args[0]
            left = Poly({m: k for m, k in p.terms if k > 0})
            right = Poly({m: -k for m, k in p.terms if k < 0})
            symbol = ">=" if c.op == "ge" else "=="
            one = right.terms and right.terms[-1] == ((), Fraction(1)) and c.op == "ge"
            if one:
                symbol, right = ">", right - 1
            text = f"{left} {symbol} {right}"
        case "and" | "or":
            text = (" & " if c.op == "and" else " | ").join(cond_text(x, 1) for x in c.args)
        case "not" if c.args[0].op == "eq":
            return cond_text(c.args[0], around).replace("==", "!=")
        case "not":
            return f"~{cond_text(c.args[0], 1)}"
        case "cmp":
            text = f"{c.args[1]} {OPERATORS[c.args[0]].symbol} {c.args[2]}"
        case _:
            return f"{c.args[0]}[{index_text(c.args[1])}]"
    return f"({text})" if around else text


_REDUCE_NAMES = {"add": "sum", "mul": "prod", "max": "max", "min": "min", "or": "any", "and": "all"}


def head_text(name: str, outer: tuple[Axis, ...]) -> str:
    return f"{name}[{', '.join(v for v, _ in outer)}]" if outer else name


def pieces_text(pieces: tuple[Piece, ...]) -> str:
    if len(pieces) == 1 and pieces[0][0].is_true:
        return str(pieces[0][1])
    return "{ " + "; ".join(f"{c}: {s}" for c, s in pieces) + " }"


def eq_text(e: Eq) -> str:
    body = pieces_text(e.pieces)
    if e.kind == "map":
        return f"{head_text(e.name, e.outer)} = {body}"
    assert e.red is not None
    where = "" if e.domain.is_true else f", {e.domain}"
    return f"{head_text(e.name, e.outer)} = {_REDUCE_NAMES[e.op]}_{{{e.red[0]} < {e.red[1]}{where}}} {body}"


def fold_text(f: Fold) -> str:
    where = "" if f.domain.is_true else f", {f.domain}"
    lines = [f"fold {f.axis[0]} < {f.axis[1]}{where}:", *(f"  {e}" for e in f.maps)]
    for m in f.members:
        bases = "; ".join(
            ("" if c.is_true else f"{c}: ") + (", ".join(map(str, b)) if len(b) > 1 else str(b[0])) for c, b in m.pieces
        )
        lines.append(f"  {head_text(m.name, m.outer)}: {_REDUCE_NAMES[m.op]} of {bases}")
        if m.refs:
            lines.append("    refs   " + ", ".join(f"r{k} = {r}" for k, r in enumerate(m.refs)))
        if m.move:
            rows = "; ".join("[" + ", ".join(map(str, row)) + "]" for row in m.move)
            lines.append(f"    move   {rows}")
        lines.append(f"    finish {m.finish}")
    return "\n".join(lines)


def recurrence_text(r: Recurrence) -> str:
    order = "backwards " if r.reverse else ""
    what = ("the state before it" if r.exclusive else "each state") if r.keep else "the last state"
    lines = [f"scan {order}{r.axis[0]} < {r.axis[1]}, keeping {what}:", *(f"  {e}" for e in r.maps)]
    for c in r.components:
        lines.append(f"  {head_text(c.name, c.outer)}: from {c.start} by {c.body}")
    lines += [f"  then {e}" for e in r.readers]
    return "\n".join(lines)
