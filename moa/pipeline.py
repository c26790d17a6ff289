"""The straight line: text to Program to Normal to Tiles to Loops, each stage a function of the one before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from moa import ir
from moa.associative import check_scans
from moa.check import check
from moa.forms import Form, forms_of, streamed_beside
from moa.loops import Element
from moa.lower import Lowered, Slot, lower
from moa.naming import name
from moa.normal import Eq, Fold, Normal, Scalar, map_cond, map_scalar
from moa.poly import Atom, Poly, const
from moa.psi import normalise
from moa.rewrite import Trace
from moa.stream import Report
from moa.tile import Strategy, tile
from moa.tiles import Array, Tiles

STAGES = ("program", "equations", "normal", "tiles", "loops", "source")


@dataclass(frozen=True, slots=True)
class Derivation:
    """Everything that does not depend on a machine: from the typed program to the streamed equations.

    inlined    what psi-reduction left: Reduces and outputs
    equations  the same with shared sub-expressions named: the normal form
    streamed   after the laws between reductions, named again
    forms      every system that computes the same, the first being `streamed`
    """

    program: ir.Program
    inlined: Normal
    equations: Normal
    streamed: Normal
    trace: Trace
    report: Report
    forms: tuple[Form, ...] = ()


def typed(source: ir.Source, ranks: int = 0) -> ir.Program:
    """The program of a source with `...` standing for `ranks` axes.

    Errors: MoaError at the place of the mistake
    """
    program = check(source, ranks)
    check_scans(program)
    return program


def derive(source: ir.Source, ranks: int) -> Derivation:
    """The derivation of a source with `...` standing for `ranks` axes."""
    program = typed(source, ranks)
    trace = Trace()
    inlined = normalise(program, trace)
    streamed, report = streamed_beside(inlined, trace)
    forms = forms_of(inlined, streamed, trace)
    return Derivation(program, inlined, name(inlined), forms[0].streamed, trace, report, forms)


@dataclass(frozen=True, slots=True)
class Placed:
    """A derivation placed on a machine for one variant."""

    strategy: Strategy
    tiles: Tiles
    lowered: Lowered


def place(
    derivation: Derivation,
    strategy: Strategy,
    dtype: Element,
    fixed: Mapping[str, int],
    unit: frozenset[str],
    stored: Element | None = None,
) -> Placed:
    """Tiles and loops; `fixed` sizes are literals in them, arrays in `unit` are contiguous along their last axis.

    stored  the element type of float inputs and outputs, if it is not `dtype`
    """
    tiles = tile(specialised(derivation.streamed, fixed), strategy)
    rows = {p.name: next((a.name for a in p.axes if a.role == "item" and a.step > 1), None) for p in tiles.phases}
    return Placed(strategy, tiles, lower(tiles, dtype, strategy.width, rows, unit, strategy.warps, stored))


@dataclass(frozen=True, slots=True)
class Packing:
    """What a call needs of a placed variant: what it passes, and what it makes.

    outputs  the array returned at each place
    """

    slots: tuple[Slot, ...]
    arrays: tuple[Array, ...]
    hosts: tuple[tuple[str, Scalar], ...]
    items: tuple[Poly, ...]
    scratch_bytes: Poly
    outputs: tuple[str, ...]


def packing(placed: Placed, outputs: tuple[str, ...]) -> Packing:
    tiles, lowered = placed.tiles, placed.lowered
    return Packing(lowered.slots, tiles.arrays, tiles.hosts, lowered.items, lowered.scratch_bytes, outputs)


def row_extents(tiles: Tiles) -> tuple[Poly, ...]:
    """The extents of the axes that work items tile."""
    return tuple(a.extent for p in tiles.phases for a in p.axes if a.role == "item" and a.step > 1)


def specialised(normal: Normal, fixed: Mapping[str, int]) -> Normal:
    """The system with the values of some sizes and integer parameters in place of their names."""
    if not fixed:
        return normal

    def atom(a: Atom) -> Poly | None:
        return const(fixed[a.name]) if a.kind in ("size", "int") and a.name in fixed else None

    def poly(p: Poly) -> Poly:
        return p.replace(atom)

    def axes(outer: tuple[tuple[str, Poly], ...]) -> tuple[tuple[str, Poly], ...]:
        return tuple((v, poly(e)) for v, e in outer)

    def equation(e: Eq) -> Eq:
        return replace(
            e,
            outer=axes(e.outer),
            red=None if e.red is None else (e.red[0], poly(e.red[1])),
            domain=map_cond(e.domain, poly, lambda s: map_scalar(s, poly=poly)),
            pieces=tuple((c.replace(atom), map_scalar(s, poly=poly)) for c, s in e.pieces),
        )

    def fold(f: Fold) -> Fold:
        members = tuple(
            replace(
                m,
                outer=axes(m.outer),
                domain=m.domain.replace(atom),
                pieces=tuple((c.replace(atom), tuple(map_scalar(b, poly=poly) for b in bs)) for c, bs in m.pieces),
                refs=tuple(map_scalar(r, poly=poly) for r in m.refs),
                move=tuple(tuple(map_scalar(x, poly=poly) for x in row) for row in m.move),
                finish=map_scalar(m.finish, poly=poly),
            )
            for m in f.members
        )
        return replace(
            f,
            axis=(f.axis[0], poly(f.axis[1])),
            shared=axes(f.shared),
            domain=f.domain.replace(atom),
            members=members,
            maps=tuple(equation(x) for x in f.maps),
        )

    equations = tuple(fold(e) if isinstance(e, Fold) else equation(e) for e in normal.equations)
    inputs = tuple(replace(p, shape=tuple(poly(x) for x in p.shape)) for p in normal.inputs)
    recurrences = tuple(
        replace(
            r,
            axis=(r.axis[0], poly(r.axis[1])),
            components=tuple(
                replace(
                    c, outer=axes(c.outer), start=map_scalar(c.start, poly=poly), body=map_scalar(c.body, poly=poly)
                )
                for c in r.components
            ),
            maps=tuple(equation(x) for x in r.maps),
            readers=tuple(equation(x) for x in r.readers),
        )
        for r in normal.recurrences
    )
    return replace(normal, equations=equations, inputs=inputs, recurrences=recurrences)


def specialised_sizes(program: ir.Program) -> tuple[str, ...]:
    """Sizes that are worth a literal: those that stand only on the last axis of float arrays of rank 2 or more."""
    last: set[str] = set()
    other: set[str] = set()
    for p in program.inputs:
        for k, extent in enumerate(p.shape):
            names = {a.name for a in extent.atoms() if a.kind == "size"}
            alone = extent.as_atom() is not None and k == len(p.shape) - 1 and len(p.shape) >= 2 and p.kind == "f"
            (last if alone else other).update(names)
    return tuple(n for n in program.sizes() if n in last - other)


LARGEST_SPECIALISED = 512
