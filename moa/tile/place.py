"""Placing statements: which axis takes the lanes, and which statements share a nest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from moa.normal import Index, Scalar, cond_polys, loads, subterms
from moa.poly import Poly
from moa.tile.strategy import Strategy
from moa.tiles import Map, Nest, Reduce, TileAxis, TileStmt

GATHER = 1.5  # cost of one lane loaded on its own, in vector loads
SCATTER = 2.0  # likewise stored
BANKS = 4.0  # cost of lanes on their own in the scratch of a block of threads, all at once: rows are padded for it
REUSE, REUSE_ELSEWHERE = 0.25, 0.6  # loads that a register block shares: the row axis holds several vectors
FEW_SCATTERED = 3  # of them: beyond, they are not made for several rows in one block
MOST_SCATTERED = 24  # integers that each lane makes on its own: beyond them, one element at a time is shorter code
INSIDE = 1 / 16  # what is done once for a whole reduction, beside what is done for each of its elements


def stride_kind(index: Index, axis: str) -> str:
    """How an element moves along an axis: "absent", "unit" (contiguous), or "strided"."""
    if not any(axis in p.vars() for p in index):
        return "absent"
    last = index[-1].coefficient(axis)
    if last is not None and last.as_int() == 1 and not any(axis in p.vars() for p in index[:-1]):
        return "unit"
    return "strided"


def choose_lane(
    axes: Iterable[TileAxis],
    target: Scalar,
    value: Scalar,
    over: tuple[str, ...],
    row: str | None,
    s: Strategy,
    free: bool,
    packable: Callable[[str, Index], bool],
    in_memory: Callable[[str], bool],
) -> str | None:
    """The axis whose lanes cost least: contiguous loads and stores are cheap, lanes on their own are not.

    free        the target may put any of its axes last
    packable    says of a load whether it can be transposed once, before the loops
    in_memory   says of a name whether it is an array, and not a tile
    """

    def alone(array: str, cost: float) -> float:
        return BANKS if s.warps and not in_memory(array) else cost * s.width

    best: tuple[float, int, str] | None = None
    for k, a in enumerate(axes):
        extent = a.step or a.extent.as_int() or 1 << 30
        if extent < 2:
            continue
        reuse = REUSE if a.name == row else REUSE_ELSEWHERE
        cost = 0.0
        for array, index in loads(value):
            kind = stride_kind(index, a.name) if index else "absent"
            if kind == "strided" and over and packable(array, index):
                kind = "unit"
            cost += reuse * {"absent": 0.0, "unit": 1.0, "strided": alone(array, GATHER)}[kind]
        weight = INSIDE if over else 1.0
        if a.name in over:
            cost += 4 * weight
        else:
            kind = stride_kind(target.args[1], a.name)
            cost += weight * (alone(target.args[0], SCATTER) if kind == "strided" and not free else 1.0)
        cost += 1.0  # the work itself, in whole vectors
        cost *= max(1.0, s.width / extent)
        candidate = (cost, 0 if a.name == row else k + 1, a.name)
        if best is None or candidate < best:
            best = candidate
    return None if best is None else best[2]


def place(
    body: list[TileStmt],
    statement: Map | Reduce,
    loops: tuple[str, ...],
    lane: str | None,
    static: frozenset[str],
    s: Strategy,
    alone: bool = False,
) -> None:
    """Appends a statement to the last nest of `body` where that keeps its meaning, else to a new one; `alone` to none.

    `static` are the axes whose vectors are a fixed number: a reduction across the whole nest keeps its partial results
    in registers, which needs that or a nest of nothing but the reduced axis.
    """
    alone = alone or lane_by_lane(statement, lane)
    if not alone and body and isinstance(body[-1], Nest) and joins(body[-1], statement, loops, lane, static):
        nest = body[-1]
        body[-1] = replace(nest, statements=(*nest.statements, statement), loops=blocks(nest, statement, s))
        return
    nest = Nest(tuple((a, 1) for a in loops), lane, (statement,))
    body.append(replace(nest, loops=blocks(nest, statement, s)))


def blocks(nest: Nest, statement: Map | Reduce, s: Strategy) -> tuple[tuple[str, int], ...]:
    """Block sizes: the innermost looped axis, more of it where a statement reduces inside."""
    if not nest.loops or any(lane_by_lane(x, nest.lane) for x in nest.statements):
        return nest.loops
    *outer, (last, size) = nest.loops
    names = {a for a, _ in nest.loops} | {nest.lane}
    inside = isinstance(statement, Reduce) and any(a not in names for a in statement.over)
    return (*outer, (last, max(size, s.block if inside else s.map_block)))


def joins(
    nest: Nest, statement: Map | Reduce, loops: tuple[str, ...], lane: str | None, static: frozenset[str]
) -> bool:
    """Whether a statement means the same block by block inside the nest as after it."""
    own = tuple(a for a, _ in nest.loops)
    if horizontal(statement, loops, lane) or any(horizontal(x, own, nest.lane) for x in nest.statements):
        return False
    if any(lane_by_lane(x, nest.lane) for x in nest.statements):
        return False
    if lane != nest.lane:
        across = isinstance(statement, Reduce) and not loops and lane is None
        if not (across and own == () and nest.lane in statement.over):  # type: ignore[union-attr]
            return False
    elif loops != own:
        crossing = isinstance(statement, Reduce) and len(own) == 1 and loops == () and own[0] in statement.over
        if not (crossing and lane in static):
            return False
    written: dict[str, Index] = {}
    reduced: set[str] = set()
    names = {*own, nest.lane}
    for x in nest.statements:
        written[x.target.args[0]] = x.target.args[1]
        if isinstance(x, Reduce) and any(a in names for a in x.over):
            reduced.add(x.target.args[0])
    if statement.target.args[0] in reduced:
        return False
    for array, index in loads(statement.value):
        if array in reduced or (array in written and written[array] != index):
            return False
    for x in nest.statements:
        for array, index in (*loads(x.value), (x.target.args[0], x.target.args[1])):
            if array == statement.target.args[0] and index != statement.target.args[1]:
                return False
    return True


def scattered(value: Scalar, lane: str) -> int:
    """How many integers each lane makes on its own in a value: those of indices and conditions that are not linear."""
    found = [p for s in subterms(value) if s.op == "select" for p in cond_polys(s.args[0])]
    found += [p for s in subterms(value) if s.op == "int" for p in s.args]
    found += [p for _, index in loads(value) for p in index if stride_kind(index, lane) == "strided"]
    return sum(len(p.atoms()) for p in dict.fromkeys(found) if lane in p.vars() and p.coefficient(lane) is None)


def lane_by_lane(statement: Map | Reduce, lane: str | None) -> bool:
    """Whether conditions or many indices are made for each lane on its own: a block of them would be long code."""
    if lane is None:
        return False
    found = [
        p for s in subterms(statement.value) if s.op == "select" for p in cond_polys(s.args[0]) if lane in p.vars()
    ]
    own = any((c := p.coefficient(lane)) is None or c.as_int() not in (1, -1) for p in found)
    return own or scattered(statement.value, lane) > FEW_SCATTERED


def horizontal(statement: Map | Reduce, loops: tuple[str, ...], lane: str | None) -> bool:
    """Whether a statement reduces along the lanes by itself, for each element of its target."""
    return isinstance(statement, Reduce) and lane in statement.over and bool(loops or statement.target.args[1])


def as_index(names: Iterable[str]) -> tuple[Poly, ...]:
    from moa.poly import var

    return tuple(var(n) for n in names)
