"""Placing statements: which axis takes the lanes, and which statements share a nest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from moa.normal import Index, Scalar, cond_polys, load, loads, subterms
from moa.poly import Poly
from moa.tile.congruence import congruence
from moa.tile.strategy import Strategy
from moa.tiles import Map, Nest, Reduce, TileAxis, TileStmt

GATHER = 1.5  # cost of one lane loaded on its own, in vector loads
SCATTER = 2.0  # likewise stored
BANKS = 4.0  # cost of lanes on their own in the scratch of a block of threads, all at once: rows are padded for it
REUSE, REUSE_ELSEWHERE = 0.25, 0.6  # loads that a register block shares: the row axis holds several vectors
FEW_SCATTERED = 3  # of them: beyond, they are not made for several rows in one block
MOST_SCATTERED = 24  # integers that each lane makes on its own: beyond them, one element at a time is shorter code
ACCUMULATORS = 16  # of a register block: half of the registers, and enough to hide how long a multiply-add takes
MOST_VECTORS, SHORT_BLOCK = 8, 4  # of them along the lanes, and along another axis where both are many
STREAMS = 2  # rows of an array that are read at once where several share them; else 1: memory is fastest in order
MOST_TERMS = 12  # of what is computed in blocks of many vectors: there are as many copies of it
FUNCTIONS, FUNCTION_TERMS = ("exp", "exp2", "log", "tanh", "erf"), 8
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


@dataclass(frozen=True, slots=True)
class Around:
    """What a statement stands in.

    static   the axes whose vectors are a fixed number: a reduction across a whole nest keeps its partial results in
             registers, which needs that or a nest of nothing but the reduced axis
    row      that of the work item, where it is not in lanes
    axis     that of the loop over tiles, if it stands in one
    vectors  along the lane axis of the statement; 0 where that is not known
    alone    it shares no nest
    lines    the axes along which arrays in memory are read in order, whose extents are whole vectors
    steps    the loop goes by single steps, each of which reads rows of arrays that no other one does
    """

    static: frozenset[str] = frozenset()
    row: str | None = None
    axis: str | None = None
    vectors: int = 0
    alone: bool = False
    lines: frozenset[str] = frozenset()
    steps: bool = False


def place(
    body: list[TileStmt],
    statement: Map | Reduce,
    loops: tuple[str, ...],
    lane: str | None,
    s: Strategy,
    around: Around,
) -> None:
    """Appends a statement to the last nest of `body` where that keeps its meaning, else to a new one."""
    alone = around.alone or lane_by_lane(statement, lane) or (not s.warps and bool(body) and turns(body[-1]))
    if not alone and body and isinstance(body[-1], Nest) and joins(body[-1], statement, loops, lane, around.static):
        nest = body[-1]
        body[-1] = blocked(replace(nest, statements=(*nest.statements, statement)), statement, s, around)
        return
    body.append(blocked(Nest(tuple((a, 1) for a in loops), lane, (statement,)), statement, s, around))


def blocked(nest: Nest, statement: Map | Reduce, s: Strategy, around: Around) -> Nest:
    """The nest with sizes of its blocks: more of the innermost looped axis where a statement reduces for each element.

    Where rows are not in lanes, several of them share what is loaded for one, and what is streamed for them is fetched
    while the round before is computed. Several vectors of the lane axis do not wait for one another's multiply-adds.
    """
    if any(lane_by_lane(x, nest.lane) for x in nest.statements):
        return nest
    own = tuple(a for a, _ in nest.loops)
    inside = any(isinstance(x, Reduce) and any(a not in (*own, nest.lane) for a in x.over) for x in nest.statements)
    across = horizontal(statement, own, nest.lane)
    sizes = dict(nest.loops)
    if own and not s.warps and turned(nest, own[-1]):
        ahead = around.axis if around.axis in (own[-1], nest.lane) or around.steps else None
        return replace(nest, loops=(*nest.loops[:-1], (own[-1], s.width)), ahead=ahead)
    if own:
        sizes[own[-1]] = max(sizes[own[-1]], s.block if inside else s.map_block)
        if inside and own[-1] in around.lines and nest.lane in around.static and s.rows == s.width and not s.warps:
            sizes[own[-1]] = max(sizes[own[-1]], s.width)  # a line of each row at once, which need not be found again
    if around.steps and not inside and nest.lane is not None and not s.warps:
        nest = replace(nest, ahead=around.axis)
    if s.warps or nest.lane is None or nest.lane in around.static or not (inside or across):
        return replace(nest, loops=tuple(sizes.items()))
    if around.row in sizes:
        sizes[around.row] = s.row_block
        nest = replace(nest, ahead=around.axis if nest.lane != around.axis else None)
    if across:
        if own and own[-1] == around.axis:
            sizes[own[-1]] = STREAMS if around.row in sizes else 1
        return replace(nest, loops=tuple(sizes.items()))
    if own and own[-1] != around.row:
        sizes[own[-1]] = min(sizes[own[-1]], SHORT_BLOCK)
    most = ACCUMULATORS // sizes[own[-1]] if own else MOST_VECTORS
    if terms(nest) > MOST_TERMS:
        most = 1
    return replace(nest, loops=tuple(sizes.items()), vectors=max(nest.vectors, together(around.vectors, most)))


def turned(nest: Nest, axis: str) -> tuple[Scalar, ...]:
    """The loads that are strided along the lanes and contiguous along an axis, if the nest does little but them.

    A block of as many positions as lanes is loaded along the axis and transposed in registers.
    """
    lane = nest.lane
    if lane is None or any(isinstance(x, Reduce) or lane_by_lane(x, lane) for x in nest.statements):
        return ()
    if terms(nest) > MOST_TERMS:
        return ()
    found = dict.fromkeys((a, index) for x in nest.statements for a, index in loads(x.value))
    return tuple(
        load(a, index)
        for a, index in found
        if index and stride_kind(index, lane) == "strided" and stride_kind(index, axis) == "unit" and plain(index)
    )


def plain(index: Index) -> bool:
    """Whether an index is a polynomial of variables and sizes: an address that is cheap for each lane."""
    return all(a.kind in ("var", "size", "int") for p in index for a in p.atoms())


def terms(nest: Nest) -> int:
    """How much there is to compute for one vector: operations, functions, and integers that are not polynomials."""
    found = dict.fromkeys(y for x in nest.statements for y in subterms(x.value))
    polys = [p for y in found if y.op == "select" for p in cond_polys(y.args[0])]
    polys += [p for y in found if y.op in ("int", "load") for p in (y.args if y.op == "int" else y.args[1])]
    functions = sum(FUNCTION_TERMS for y in found if y.op in FUNCTIONS)
    return len(found) + functions + sum(len(p.atoms()) for p in polys if not plain((p,)))


def turns(s: TileStmt) -> bool:
    return isinstance(s, Nest) and bool(s.loops) and bool(turned(s, s.loops[-1][0]))


def together(count: int, most: int) -> int:
    """How many of `count` vectors to take at once: those that leave the fewest rounds; 0 are an unknown number."""
    most = max(1, min(most, MOST_VECTORS))
    return min(range(1, most + 1), key=lambda k: (count // k + count % k, k)) if count else most


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


def lane_load(p: Poly, lane: str) -> tuple[int, str, Index, Poly] | None:
    """(sign, array, index, rest): p = sign * array[index] + rest, and only the array moves along the lanes, by one."""
    moving = [(m, c) for m, c in p.terms if lane in Poly({m: c}).vars()]
    if len(moving) != 1 or len(moving[0][0]) != 1 or moving[0][1] not in (1, -1):
        return None
    ((a,), c) = moving[0]
    if a.kind != "load" or stride_kind(a.args, lane) != "unit":
        return None
    return int(c), a.name, a.args, p - Poly({(a,): c})


def scattered(value: Scalar, lane: str) -> int:
    """How many integers each lane makes on its own in a value: those of indices and conditions that are not linear."""
    found = [p for s in subterms(value) if s.op == "select" for p in cond_polys(s.args[0])]
    found += [p for s in subterms(value) if s.op == "int" for p in s.args]
    found += [p for _, index in loads(value) for p in index if stride_kind(index, lane) == "strided"]
    alone = [p for p in dict.fromkeys(found) if lane in p.vars() and p.coefficient(lane) is None]
    return sum(len(p.atoms()) for p in alone if lane_load(p, lane) is None and congruence(p, lane) is None)


def lane_by_lane(statement: Map | Reduce, lane: str | None) -> bool:
    """Whether conditions or many indices are made for each lane on its own: a block of them would be long code."""
    if lane is None:
        return False
    found = [
        p for s in subterms(statement.value) if s.op == "select" for p in cond_polys(s.args[0]) if lane in p.vars()
    ]
    own = any(
        ((c := p.coefficient(lane)) is None or c.as_int() not in (1, -1))
        and lane_load(p, lane) is None
        and congruence(p, lane) is None
        for p in found
    )
    return own or scattered(statement.value, lane) > FEW_SCATTERED


def horizontal(statement: Map | Reduce, loops: tuple[str, ...], lane: str | None) -> bool:
    """Whether a statement reduces along the lanes by itself, for each element of its target."""
    return isinstance(statement, Reduce) and lane in statement.over and bool(loops or statement.target.args[1])


def as_index(names: Iterable[str]) -> tuple[Poly, ...]:
    from moa.poly import var

    return tuple(var(n) for n in names)
