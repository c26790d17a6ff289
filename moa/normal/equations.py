"""Equations: each defines one array by name over its own index variables.

`Eq` is a Map or a Reduce; `Fold` is several Reduces of one group made into one traversal; `Recurrence` is a scan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moa.normal.scalar import TRUE, Cond, Index, Scalar
from moa.ops import REDUCE_WORDS, Kind
from moa.poly import Poly

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
        return len(self.pieces[0][1]) if self.pieces else max(len(self.move), 1)

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
    """One array of a Recurrence: `<name>#0` over `outer` is its state, kept as `name` with the axis at its place.

    dtype   "i" for integers (and bits, as 0 and 1): such a component is kept in order of its steps, the start before
            them, and `body` reads the one before from there
    """

    name: str
    outer: tuple[Axis, ...]
    start: Scalar
    body: Scalar
    dtype: Kind = "f"

    @property
    def state(self) -> str:
        return f"{self.name}#0"


@dataclass(frozen=True, slots=True)
class Recurrence:
    """state[t] = body(state[t - 1], t) along an axis: a scan, or with `keep` False only its last state.

    place       where the axis stands among the axes of the arrays that are kept
    exclusive   what is kept at t is the state before t
    reverse     t runs from the end; what is kept stays at its place
    maps        equations that belong to one step; what components read of a state is its value before the step
    readers     arrays with the axis among theirs, made at each step from the state after it (before it if exclusive)
    last        beside its readers, the last state is an array too
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
    last: bool = False

    def stores(self, c: Component) -> bool:
        """Whether states of a component are an array: all of them, or the last one."""
        return self.keep or self.last or not self.readers or c.dtype != "f"

    def kept(self, c: Component) -> tuple[Axis, ...]:
        """The axes of the array that is kept of a component."""
        if c.dtype != "f":
            t, extent = self.axis
            return (*c.outer[: self.place], (t, extent + 1), *c.outer[self.place :])
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
    return f"{head_text(e.name, e.outer)} = {REDUCE_WORDS[e.op]}_{{{e.red[0]} < {e.red[1]}{where}}} {body}"


def fold_text(f: Fold) -> str:
    where = "" if f.domain.is_true else f", {f.domain}"
    lines = [f"fold {f.axis[0]} < {f.axis[1]}{where}:", *(f"  {e}" for e in f.maps)]
    for m in f.members:
        bases = "; ".join(
            ("" if c.is_true else f"{c}: ") + (", ".join(map(str, b)) if len(b) > 1 else str(b[0])) for c, b in m.pieces
        )
        lines.append(f"  {head_text(m.name, m.outer)}: {REDUCE_WORDS[m.op]} of {bases}")
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
