"""The streamed equations as plain reductions: every state of a Fold at its last references, and outputs over them.

Over the reals a state that was moved from reference to reference is the sum of its basis at the last one; what the
moves cost in rounding is kept beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from moa.laws.reading import LOWEST
from moa.laws.reference import Moved
from moa.naming import inline
from moa.normal import (
    Axis,
    Cond,
    Eq,
    Fold,
    Index,
    Member,
    Normal,
    Piece,
    Scalar,
    lit,
    load,
    map_scalar,
    rename,
    subterms,
)
from moa.poly import Poly, var

NOT_A_NUMBER = lit(math.nan)
Definition = tuple[tuple[str, ...], Scalar]  # the variables of an array and its element


@dataclass(frozen=True, slots=True)
class Moves:
    """How the states of a member are moved: entry [a][b] times state b goes into state a; refs are the references."""

    row: int
    matrix: tuple[tuple[Scalar, ...], ...]
    refs: tuple[Scalar, ...]
    basis: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reduction:
    """name[outer] = reduce(op, axis in domain, pieces), over loads of inputs and of other reductions.

    computed  how the value is computed where not by this reduction: from states at other references
    """

    name: str
    outer: tuple[Axis, ...]
    op: str
    axis: Axis
    domain: Cond
    pieces: tuple[Piece, ...]
    moves: Moves | None = None
    computed: Scalar | None = None

    def bind(self, index: Index) -> dict[str, Poly]:
        """The outer variables at an index."""
        return {v: p for (v, _), p in zip(self.outer, index, strict=True)}


@dataclass(slots=True)
class System:
    """Reductions in dependence order by name; each output with its axes and its element.

    base_two   exponentials that kernels take as powers of two: the exponent is rounded twice more
    refused    arrays that have no bound, with the reason
    """

    reductions: dict[str, Reduction] = field(default_factory=dict)
    outputs: dict[str, tuple[tuple[Axis, ...], Scalar]] = field(default_factory=dict)
    base_two: set[Scalar] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    _definitions: dict[str, Definition] = field(default_factory=dict)

    def put(self, s: Scalar) -> Scalar:
        """s over inputs and reductions only; the bound that keeps a reference finite is left out."""

        def node(x: Scalar) -> Scalar | None:
            if x.op in ("max", "min") and any(y is LOWEST for y in subterms(x.args[1])):
                kept: Scalar = x.args[0]
                return kept
            if x.op == "select" and x.args[1] is NOT_A_NUMBER:
                kept = x.args[2]
                return kept
            if x.op == "load" and x.args[0] in self._definitions:
                names, value = self._definitions[x.args[0]]
                at: dict[str, Poly] = dict(zip(names, x.args[1], strict=True))
                return rename(value, at)
            return None

        return map_scalar(s, node)

    def define(self, name: str, outer: tuple[Axis, ...], value: Scalar) -> None:
        self._definitions[name] = (tuple(v for v, _ in outer), value)


def system(normal: Normal, moved: Iterable[Moved] = ()) -> System:
    """The system of a streamed normal; `moved` are the changes of reference that led to it."""
    out = System()
    meant = {e.name: e for made in moved for e, m in made.members if m.width > 1 or _is_scaled(m)}
    for r in normal.recurrences:
        for c in r.components:
            out.refused[c.name] = f"{c.name} carries its rounding errors from step to step"
        for x in r.readers:
            out.refused[x.name] = f"{x.name} reads a state that carries its rounding errors from step to step"
    plain = inline(normal)
    for e in plain.equations:
        if isinstance(e, Fold):
            for m in e.members:
                _member(e, m, meant.get(m.name), out)
        elif e.kind == "map":
            out.define(e.name, e.outer, out.put(e.body))
        else:
            assert e.red is not None
            pieces = tuple((c, out.put(s)) for c, s in e.pieces)
            out.reductions[e.name] = Reduction(e.name, e.outer, e.op, e.red, e.domain, pieces)
            if e.dtype != "f":
                out.refused[e.name] = f"{e.name} holds integers that are chosen by comparing floats"
    axes: dict[str, tuple[Axis, ...]] = {}
    for e in plain.equations:
        axes |= {m.name: m.outer for m in e.members} if isinstance(e, Fold) else {e.name: e.outer}
    for name in normal.outputs:
        if name in axes:
            out.outputs[name] = (axes[name], out.put(load(name, (var(v) for v, _ in axes[name]))))
        else:
            out.outputs[name] = ((), load(name, ()))
    return out


def _is_scaled(m: Member) -> bool:
    """Whether the reference of a member is not the one of its equation: the finish moves the state once more."""
    return any(x.op == "exp" for x in subterms(m.finish))


def _member(f: Fold, m: Member, meant: Eq | None, out: System) -> None:
    """Enters the states of a member and its value, which is a reduction by itself where it is known as one."""
    refs = tuple(out.put(r) for r in m.refs)

    def node(x: Scalar) -> Scalar | None:
        return refs[x.args[0]] if x.op == "ref" else None

    def last(s: Scalar) -> Scalar:
        return out.put(map_scalar(s, node))

    for k in range(m.width):
        pieces = []
        for c, basis in m.pieces:
            body = basis[k]
            pieces.append((c, last(body)))
            for x in subterms(body):
                if x.op == "exp" and any(y.op == "ref" for y in subterms(x)):
                    out.base_two.add(last(x))
        names = tuple(m.state(j) for j in range(m.width))
        matrix = tuple(tuple(out.put(x) for x in row) for row in m.move)
        moves = Moves(k, matrix, refs, names) if m.move else None
        op = m.op.removesuffix("_ref")
        out.reductions[m.state(k)] = Reduction(m.state(k), m.outer, op, f.axis, m.domain, tuple(pieces), moves)
    if meant is None or meant.red is None or meant.outer != m.outer:
        out.define(m.name, m.outer, out.put(m.finish))
        return
    original = tuple((c, out.put(s)) for c, s in meant.pieces)
    out.reductions[m.name] = Reduction(
        m.name, m.outer, m.op, meant.red, meant.domain, original, computed=out.put(m.finish)
    )
