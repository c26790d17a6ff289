"""From equations to statements on tiles: the recursion that every phase is built by.

`resolve` replaces the load of an equation by the load of a tile, and emits the statements that fill the tile at the
outermost loop where they can stand. An equation used at several index patterns is several tiles (recomputed); what
cannot be a tile of the work item raises `NeedStore` and becomes an array in memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace

from moa.laws.split import assume, conjuncts, narrowed
from moa.normal import (
    TRUE,
    Axis,
    Cond,
    Eq,
    Fold,
    Index,
    Member,
    Scalar,
    apply,
    both,
    choose,
    compare,
    either,
    lit,
    load,
    loads,
    map_cond,
    map_scalar,
    negate,
    rename,
    rename_cond,
)
from moa.ops import OPERATORS, REDUCERS
from moa.poly import Poly, const, maximum, minimum, var
from moa.tile.factorwise import factorwise
from moa.tile.formulas import base_two, linear_tests
from moa.tile.pairs import Operand, operands
from moa.tile.place import (
    MOST_SCATTERED,
    Around,
    as_index,
    choose_lane,
    joins,
    place,
    plain,
    scattered,
    stride_kind,
)
from moa.tile.plan import NeedStore, Plan
from moa.tile.rounds import inside
from moa.tile.runs import Known, settled_cond, settled_scalar
from moa.tiles import Loop, Map, Nest, Reduce, Tile, TileAxis, TileStmt


@dataclass(slots=True)
class Scope:
    """A place for statements: the work item (loop is None) or the body of a loop over tiles."""

    parent: Scope | None
    loop: str | None
    out: list[TileStmt] = field(default_factory=list)
    memo: dict[tuple[object, ...], Scalar] = field(default_factory=dict)

    def find(self, key: tuple[object, ...]) -> Scalar | None:
        if key in self.memo:
            return self.memo[key]
        return None if self.parent is None else self.parent.find(key)

    def holds(self) -> set[str]:
        """The arrays with values in this scope and those around it."""
        around = set() if self.parent is None else self.parent.holds()
        return around | {x.args[0] for x in self.memo.values() if x.op == "load"}


class Statements(ABC):
    """The axes, tiles and statements of one phase. `items` are its item axes, `row` the one that is tiled."""

    def __init__(self, plan: Plan, name: str, items: tuple[Axis, ...], row: str | None) -> None:
        self.plan = plan
        self.name = name
        self.row = row if plan.strategy.rows > 1 else None
        self.lanes = self.row if plan.strategy.rows_in_lanes else None  # the row, where it is in lanes
        self.axes: dict[str, TileAxis] = {}
        for v, extent in items:
            self.axes[v] = TileAxis(v, "item", extent, plan.strategy.rows if v == row else 1)
        self.items = tuple(v for v, _ in items)
        self.tiles: dict[str, Tile] = {}
        self.states: dict[str, tuple[str, tuple[int, ...]]] = {}  # state -> tile, positions of its axes in a load
        self.instances: dict[tuple[str, Index, tuple[str, ...]], str] = {}
        self.reduced: dict[tuple[str, Index], str] = {}  # axis over which an instance of a Reduce runs
        self.scope = Scope(None, None)
        self.folds: dict[tuple[object, ...], Fold] = {}
        self.known: Known | None = None  # inside a run
        self.assumed: Cond = TRUE  # where the loop is that statements are made for
        self.left: frozenset[Poly] = frozenset()  # in rounds: what is not negative at places that are rows
        self.places: set[str] = set()  # axes of sums over them
        self.demands: dict[str, Cond] = {}  # of folds: when what they make is read

    @abstractmethod
    def finished(self, fold: Fold, member: Member, index: Index) -> Scalar:
        """The value of a member of a fold, over its states; the fold is emitted in the work item if it was not."""

    @abstractmethod
    def masked(self, s: Scalar, c: Cond, op: str, scope: Scope) -> Scalar:
        """s where c, else the identity of op. A factor takes the mask where 0 absorbs (contract: assumes finite)."""

    # names ---------------------------------------------------------------------------------------------------------

    def fresh_axis(self, wanted: str, extent: Poly, step: int = 0) -> str:
        k, name = 0, wanted
        while name in self.axes:
            k += 1
            name = f"{wanted}{k}"
        self.axes[name] = TileAxis(name, "loop" if step else "whole", extent, step)
        return name

    def fresh_tile(self, wanted: str, axes: tuple[str, ...]) -> str:
        k, name = 0, wanted
        while name in self.tiles or name in self.plan.memory:
            k += 1
            name = f"{wanted}'{k}"
        self.tiles[name] = Tile(name, axes)
        return name

    def tile_for(self, name: str, index: Index, axes: tuple[str, ...], scope: Scope) -> str:
        """The tile of an instance: rounds that exclude each other (full, partial) use the same one.

        scope  the innermost one that is open: what it and those around it hold stays as it is
        """
        key = (name, index, axes)
        known = self.instances.get(key)
        if known is not None and known not in scope.holds():
            return known
        self.instances[key] = self.fresh_tile(name, axes)
        return self.instances[key]

    def tiled(self, v: str) -> bool:
        """Whether a variable is an axis of tiles (and not a single value in each work item)."""
        return self.axes[v].step != 1

    def order(self, names: Iterable[str], lane: str | None) -> tuple[str, ...]:
        """Axes of a tile: as given, with the lane axis (or that of rows in lanes) last, contiguous."""
        out = list(names)
        last = lane if lane in out else self.lanes
        if last in out:
            out.remove(last)
            out.append(last)
        return tuple(out)

    # expressions ---------------------------------------------------------------------------------------------------

    def here(self, s: Scalar) -> Scalar:
        """s with what is known where statements are made."""
        s = map_scalar(s, poly=self.in_round) if self.left else s
        if self.known is not None:
            s = settled_scalar(s, self.known, self.scope_of_runs())
        return s if self.assumed.is_true else assume(s, self.assumed)

    def here_cond(self, c: Cond) -> Cond:
        c = map_cond(c, self.in_round, self.here) if self.left else c
        if self.known is not None:
            c = settled_cond(c, self.known, self.scope_of_runs())
        return narrowed(c, self.assumed)

    def in_round(self, p: Poly) -> Poly:
        return p.replace(lambda a: inside(self.left, a))

    def scope_of_runs(self) -> dict[str, Poly]:
        return {v: a.extent for v, a in self.axes.items()}

    def resolve(self, s: Scalar, scope: Scope) -> Scalar:
        """s with every load of an equation replaced by the load of a tile, or by what defines it."""
        return map_scalar(s, lambda x: self.resolve_load(x, scope) if x.op == "load" else None)

    def resolve_load(self, x: Scalar, scope: Scope, mask: Cond = TRUE) -> Scalar | None:
        array, index = x.args
        if array in self.states:
            tile, positions = self.states[array]
            return load(tile, (index[k] for k in positions))
        if array in self.plan.memory:
            return None
        if array in self.plan.members:
            fold, member = self.plan.members[array]
            return self.resolve(self.finished(fold, member, index), scope)
        if array in self.plan.equations:
            return self.instance(self.plan.equations[array], index, scope, mask)
        assert array in self.tiles, array
        return None

    def instance(self, e: Eq, index: Index, scope: Scope, mask: Cond) -> Scalar:
        """The load of a tile that holds e at this index pattern; its statements are emitted if they were not."""
        used = frozenset(v for p in index for v in p.vars()) | mask.vars()
        mapping = {v: p for (v, _), p in zip(e.outer, index, strict=True)}
        key: tuple[object, ...] = (e.name, index, mask)
        if self.assumed.vars() & used:
            key = (*key, str(self.assumed))
        if self.known is not None:
            key = (*key, *sorted(map(str, self.known)))
            if e.kind == "map" and e.name not in self.plan.moving:
                used = self.here(rename(e.body, mapping)).vars() | mask.vars()
        home = scope
        while home.parent is not None and home.loop not in used and e.name not in self.plan.moving:
            home = home.parent
        found = home.find(key) or self.part_of_whole(e, index, mask, home)
        if found is not None:
            return found
        if e.kind == "reduce" and home.parent is None and self.items and not any(v in used for v in self.items):
            raise NeedStore(e.name)  # every work item would reduce the same values again
        if e.kind == "reduce" and home.loop is not None and self.row is not None and self.row not in used:
            assert e.red is not None
            beside = [e.red[1], *(self.axes[v].extent for v in used if v in self.axes and self.axes[v].role == "whole")]
            if any(extent.as_int() is None for extent in beside):
                raise NeedStore(e.name)  # so would every row tile, and it is not a short sum for each step
        names = [v for v in self.axes if v in used and self.tiled(v)]
        if e.kind == "reduce" and e.name not in self.plan.moving:
            self.plan.reduced.setdefault(e.name, set()).add(self.name)
        if self.left and e.kind == "reduce" and not mask.is_true:  # which is of the sum, not of each of its terms
            made = choose(mask, self.instance(e, index, scope, TRUE), lit(0))
            tile = self.tile_for(e.name, index, self.order(names, None), scope)
            home.memo[key] = load(tile, as_index(self.tiles[tile].axes))
            self.emit(Map(home.memo[key], made), home)
            return home.memo[key]
        if mask.is_true and home.parent is None and self.is_long_product(e, index, names):
            found = self.in_tiles(e, index, names, home, scope)
            if found is not None:
                home.memo[key] = found
                return found
        over: tuple[str, ...] = ()
        if e.kind == "reduce":
            whole = self.reduction(e, index, load("?", ()), home)
            over, value = whole.over, whole.value
        else:
            value = self.resolve(self.here(rename(e.body, mapping)), home)
        if not mask.is_true:
            value = choose(mask, value, lit(0))
        alone_here = home if self.made_once(e.name) else None
        lane = self.lane(load("?", as_index(names)), value, over, free=True, scope=alone_here)
        tile = self.tile_for(e.name, index, self.order(names, lane), scope)
        target = load(tile, as_index(self.tiles[tile].axes))
        self.emit(Reduce(target, e.op, value, over, True) if over else Map(target, value), home)
        home.memo[key] = target
        return target

    def part_of_whole(self, e: Eq, index: Index, mask: Cond, scope: Scope) -> Scalar | None:
        """The load of a tile that holds e at all positions of an axis, at the wanted ones; None without one."""
        around: Scope | None = scope
        while around is not None:
            for key, found in around.memo.items():
                if key[0] != e.name or len(key) != 3 or key[2] != mask:
                    continue
                at = self.positions(e, index, key[1])  # type: ignore[arg-type]
                if at is not None and at.keys() <= {v for p in found.args[1] for v in p.vars()}:
                    return rename(found, at)
            around = around.parent
        return None

    def positions(self, e: Eq, index: Index, whole: Index) -> dict[str, Poly] | None:
        """Which variable of `index` stands for each of `whole` where they differ: those are axes held as a whole."""
        at: dict[str, Poly] = {}
        for p, q, (_, extent) in zip(index, whole, e.outer, strict=True):
            v = q.as_var()
            if p == q:
                continue
            if (
                v is None
                or p.as_var() is None
                or v in at
                or self.axes[v].role != "whole"
                or extent not in (self.axes[v].extent, self.axes[v].capacity)
            ):
                return None
            at[v] = p
        kept = {v for p, q in zip(index, whole, strict=True) if p == q for v in p.vars()}
        return at if at and not kept & at.keys() else None

    def is_long_product(self, e: Eq, index: Index, names: list[str]) -> bool:
        """Whether a sum is long, or of run-time length, and two operands are read again along axes of its elements."""
        mapping = {v: p for (v, _), p in zip(e.outer, index, strict=True)}
        if e.red is None or self.end_of(e, mapping) is None or self.plan.strategy.warps:
            return False
        length = e.red[1].as_int()
        if length is not None and length <= 2 * self.plan.strategy.keys:
            return False
        again = 0
        for _, at in dict.fromkeys(x for _, s in e.pieces for x in loads(s)):
            used = {v for p in at for v in p.rename(mapping).vars()}
            again += e.red[0] in used and not set(names) <= used
        return again > 1

    def end_of(self, e: Eq, mapping: Mapping[str, Poly]) -> Poly | None:
        """Where the axis of a reduction ends in a work item; None where its domain says more than that."""
        assert e.red is not None
        red, end = e.red[0], e.red[1].rename(mapping)
        for c in conjuncts(e.domain):
            rest = c.args[0] + var(red) if c.op == "ge" else var(red)
            rest = rest.rename(mapping)
            if red in rest.vars() or any(v not in self.items or self.tiled(v) for v in rest.vars()):
                return None
            end = minimum(end, maximum(rest + 1, const(0)))
        return end

    def in_tiles(self, e: Eq, index: Index, names: list[str], home: Scope, scope: Scope) -> Scalar | None:
        """The tile of a long sum, made in a loop over tiles of its axis, with what it reads near by.

        None where terms would not be added in their order: who compares two instances of a sum expects equal bits.
        """
        assert e.red is not None
        mapping = {v: p for (v, _), p in zip(e.outer, index, strict=True)}
        end = self.end_of(e, mapping)
        assert end is not None
        red = self.fresh_axis("k", e.red[1].rename(mapping), self.plan.strategy.keys)
        mapping[e.red[0]] = var(red)
        body = Scope(home, red)
        identity = value = lit(float(OPERATORS[e.op].identity))  # type: ignore[arg-type]
        for c, s in reversed(e.pieces):
            term = self.resolve(self.here(rename(s, mapping)), body)
            value = choose(self.here_cond(rename_cond(c, mapping)), term, value)
        lane = self.lane(load("?", as_index(names)), value, (red,), free=True)
        if lane == red:
            del self.axes[red]
            return None
        tile = self.tile_for(e.name, index, self.order(names, lane), scope)
        target = load(tile, as_index(self.tiles[tile].axes))
        if self.lane(target, value, (red,)) == red:
            del self.axes[red]
            return None
        self.emit(Map(target, identity), home)
        self.emit(Reduce(target, e.op, value, (red,), False), body)
        home.out.append(Loop(red, const(0), end, tuple(body.out), "full"))
        return target

    def reduction(self, e: Eq, index: Index, target: Scalar, home: Scope | None = None) -> Reduce:
        """The statement that reduces e at an index into a target."""
        assert e.red is not None
        home = home or self.scope
        mapping = {v: p for (v, _), p in zip(e.outer, index, strict=True)}
        red = self.reduced.get((e.name, index))
        if red is None:
            red = self.reduced[e.name, index] = self.fresh_axis("k", e.red[1].rename(mapping))
        mapping[e.red[0]] = var(red)
        identity = value = lit(float(REDUCERS[e.op].identity))  # type: ignore[arg-type]
        product = None if self.plan.strategy.warps else factorwise(e, mapping, self.axes.keys() - self.singles())
        if product is not None and self.lanes is not None:
            factors = (self.held(x, home) for x in product)
            value = choose(self.here_cond(rename_cond(e.domain, mapping)), apply("mul", *factors), identity)
            return Reduce(target, e.op, value, (red,), True)
        domain = rename_cond(e.domain, mapping)
        if self.left:
            used = {v for p in index for v in p.vars()}
            red, domain = self.ended(domain, red, e.red[1], used)
            self.reduced[e.name, index] = red
            mapping[e.red[0]] = var(red)
        if self.left and len(e.pieces) == 1 and e.pieces[0][0].is_true and not domain.is_true:
            term = self.masked(self.here(rename(e.body, mapping)), self.here_cond(domain), e.op, home)
            return Reduce(target, e.op, term, (red,), True)
        for c, s in reversed(e.pieces):
            term = self.resolve(self.here(rename(s, mapping)), home)
            value = choose(self.here_cond(rename_cond(c, mapping)), term, value)
        value = choose(self.here_cond(domain), value, identity)
        return Reduce(target, e.op, value, (red,), True)

    def ended(self, domain: Cond, red: str, extent: Poly, used: Set[str]) -> tuple[str, Cond]:
        """The axis of a sum in a round, which ends where a part of its domain says, and the rest of the domain.

        used  the axes of what is summed: sums over the same places have one axis, so that they share what they read
        """
        n = extent.as_int()
        for c in conjuncts(domain) if n is not None else ():
            rest = c.args[0] + var(red) if c.op == "ge" else var(red)
            if red in rest.vars() or not rest.vars() or any(v not in self.axes or self.tiled(v) for v in rest.vars()):
                continue
            assert n is not None
            axis = TileAxis(red, "whole", minimum(extent, rest + 1), n)
            same = (v for v, a in self.axes.items() if replace(a, name=red) == axis and v in self.places)
            found = next((v for v in same if v not in used), red)
            if found != red:
                del self.axes[red]
            self.axes[found] = replace(axis, name=found)
            self.places.add(found)
            at = {red: var(found)}
            self.left |= {c.args[0].rename(at)}
            return found, rename_cond(both(*(x for x in conjuncts(domain) if x != c)), at)
        return red, domain

    def singles(self) -> set[str]:
        return {v for v in self.axes if not self.tiled(v)}

    def held(self, s: Scalar, scope: Scope) -> Scalar:
        """The load of a tile that holds a scalar at all positions, with rows contiguous if it has them."""
        home = scope
        while home.parent is not None and home.loop not in s.vars():
            home = home.parent
        key = ("held", s, str(self.assumed), *sorted(map(str, self.known or ())))
        found = home.find(key)
        if found is None:
            value = self.resolve(self.here(s), home)
            names = [v for v in self.axes if v in s.vars() and self.tiled(v)]
            lane = None if self.lanes in names else self.lane(load("?", as_index(names)), value, (), True, home)
            tile = self.fresh_tile("w", self.order(names, lane))
            found = home.memo[key] = load(tile, as_index(self.tiles[tile].axes))
            self.emit(Map(found, value), home)
        return found

    def named(self, s: Scalar) -> bool:
        """Whether s is the load of a Map that becomes a tile."""
        return s.op == "load" and s.args[0] in self.plan.equations and s.args[0] not in self.plan.memory

    # statements ----------------------------------------------------------------------------------------------------

    def lane(
        self, target: Scalar, value: Scalar, over: tuple[str, ...], free: bool = False, scope: Scope | None = None
    ) -> str | None:
        """The cheapest lane axis of a statement; `free`: the target may still put any of its axes last.

        scope   where a sum will stand that is made here alone: outside of loops, nothing is packed before them. Who
                compares sums that are made in several places expects equal bits, and so lanes chosen alike
        """
        if self.integral(target):
            return None  # integers are scalars
        names = self.statement_axes(target, over)

        def reused(array: str, index: Index) -> bool:
            used = {v for p in index for v in p.vars()}
            again = [v for v in names if v not in used]
            if self.left and array in self.tiles:
                return bool(again)
            before = (scope is None or scope.loop is not None) and self.packable(array, index)
            return bool(again) and (before or self.repeated(array, used, again))

        axes = [self.axes[v] for v in names if v != self.row or v == self.lanes]
        if self.left:  # of equals the last one: states are contiguous along it
            axes.reverse()
        return choose_lane(
            axes, target, value, over, self.lanes, self.plan.strategy, free, reused, self.plan.memory.__contains__
        )

    def made_once(self, name: str) -> bool:
        """Whether a name is that of a sum that becomes an array: all that read it read the same bits."""
        return name.endswith(".r") and name.removesuffix(".r") in self.plan.memory

    def integral(self, target: Scalar) -> bool:
        return target.args[0] in self.plan.memory and self.plan.memory[target.args[0]].kind != "f"

    def statement_axes(self, target: Scalar, over: tuple[str, ...]) -> list[str]:
        """The tiled axes of a statement: those of its target in order, then the reduced ones."""
        out: list[str] = []
        for p in target.args[1]:
            out += [v for v in sorted(p.vars()) if v not in out and self.tiled(v)]
        return out + [v for v in over if v not in out]

    def packable(self, array: str, index: Index) -> bool:
        """Whether a load stays the same in every round of the loops of a work item."""
        return array in self.plan.memory and not any(
            self.axes[v].role == "loop" for p in index for v in p.vars() if v in self.axes
        )

    def repeated(self, array: str, used: Set[str], again: Iterable[str]) -> bool:
        """Whether a load is repeated along a long axis, so that a copy made before pays."""
        s = self.plan.strategy
        if s.warps or array not in self.plan.memory:
            return False
        lengths = [self.axes[v].capacity.as_int() for v in again if v not in used]
        return any(n is None or n >= 2 * s.block for n in lengths)

    def emit(self, statement: Map | Reduce, scope: Scope, alone: bool = False) -> None:
        value = linear_tests(statement.value)
        if scope.loop is not None and any(
            array.removesuffix(".old") in self.plan.references for array, _ in loads(value)
        ):
            value = base_two(value)
        inverse = self.plan.strategy.inverses and scope.loop is not None
        statement = replace(statement, value=self.plan.hosted(value, inverse))
        over = statement.over if isinstance(statement, Reduce) else ()
        alone_here = scope if self.made_once(statement.target.args[0]) else None
        lane = self.lane(statement.target, statement.value, over, scope=alone_here)
        if lane is not None and scattered(statement.value, lane) > MOST_SCATTERED:
            lane = None
        loops = tuple(v for v in self.statement_axes(statement.target, ()) if v != lane)
        if lane is not None and isinstance(statement, Reduce) and self.plan.strategy.pairs:
            statement = self.paired(statement, lane, loops, scope)
        if lane is not None and not (isinstance(statement, Reduce) and statement.paired):
            statement = replace(statement, value=self.packed(statement.value, lane, loops if over else (), scope))
        if lane is not None and lane == self.lanes and scope.loop is not None and (loops or over):
            along = (*loops[-1:], *over)
            statement = replace(statement, value=self.turned(statement.value, lane, along, scope, bool(over)))
        if over and lane is not None and scope.loop is not None and self.plan.strategy.staged:
            statement = replace(statement, value=self.staged(statement.value, lane, loops[-1:], scope))
        s = self.plan.strategy
        around = Around(
            frozenset({self.lanes} if self.lanes else ()),
            self.row if self.row != self.lanes else None,
            scope.loop,
            0 if lane is None else (self.axes[lane].capacity.as_int() or 0) // s.width,
            alone or (isinstance(statement, Reduce) and self.integral(statement.target)),  # not in the lanes of others
            self.in_lines(statement.value),
            bool(self.left) and scope.loop is not None,
        )
        place(scope.out, statement, loops, lane, s, around)

    def in_lines(self, value: Scalar) -> frozenset[str]:
        """The axes along which arrays in memory are read in order, of whole vectors."""
        last = (index[-1].as_var() for array, index in loads(value) if index and array in self.plan.memory)
        extents = ((v, self.axes[v].extent.as_int()) for v in last if v in self.axes)
        return frozenset(v for v, n in extents if n and n % self.plan.strategy.width == 0)

    def turned(self, value: Scalar, lane: str, along: tuple[str, ...], scope: Scope, reduced: bool) -> Scalar:
        """The value with matrices that are strided along the lanes and contiguous along an axis read from tiles.

        A tile is copied before, by transposing; but not where it is all that is done. Of what is reduced these are
        truth values alone: floats are packed.
        """
        if self.plan.strategy.warps or self.plan.strategy.width == 1 or value.op == "load":
            return value

        def copied(array: str, index: Index) -> Scalar | None:
            if stride_kind(index, lane) != "strided" or not plain(index):
                return None
            if all(stride_kind(index, v) != "unit" for v in along):
                return None
            names = [v for v in self.axes if self.tiled(v) and any(v in p.vars() for p in index)]
            key = ("turned", array, index)
            if scope.find(key) is None:
                axes = self.order(names, lane)
                tile = self.tile_for(f"{array}.t", index, axes, scope)
                scope.memo[key] = load(tile, as_index(axes))
                self.emit(Map(scope.memo[key], load(array, index)), scope, alone=True)
                earlier(scope.out, array)
            return scope.find(key)

        def kind(array: str) -> str:
            return self.plan.memory[array].kind if array in self.plan.memory else ""

        def tested(c: Cond) -> Cond:
            match c.op:
                case "and" | "or":
                    return (both if c.op == "and" else either)(*(tested(x) for x in c.args))
                case "not":
                    return negate(tested(c.args[0]))
                case "load" if kind(c.args[0]) == "b":
                    found = copied(*c.args)
                    return c if found is None else compare("ne", found, lit(0))
                case _:
                    return c

        def node(x: Scalar) -> Scalar | None:
            if x.op == "select":
                return choose(tested(x.args[0]), *x.args[1:])
            return copied(*x.args) if x.op == "load" and not reduced and kind(x.args[0]) == "f" else None

        return map_scalar(value, node)

    def paired(self, s: Reduce, lane: str, loops: tuple[str, ...], scope: Scope) -> Reduce:
        """The statement as a product of pairs, with copies of what is not in pairs; as it is where it is no such."""
        axes = self.statement_axes(s.target, s.over)

        def is_copied(x: Scalar) -> bool:
            array, index = x.args
            used = {v for p in index for v in p.vars()}
            again = [self.axes[v].capacity.as_int() for v in axes if v not in used and self.tiled(v)]
            if not any(n is None or n >= 2 * self.plan.strategy.block for n in again):
                return False
            made_here = s.over[0] == scope.loop and all(array != t for t, _ in self.states.values())
            return array in self.plan.memory or made_here

        found = operands(s, self.plan.strategy.pairs, lane, loops, self.stored_short, is_copied)
        copies = [] if found is None else [o for o in found if o.inner is not None]
        if found is None or any(self.lane(*self.copy(o)[:2], ()) != o.inner for o in copies):
            return s
        values = [o.load if o.inner is None else self.in_pairs(o, scope) for o in found]
        return replace(s, value=apply("mul", *values), paired=True)

    def stored_short(self, array: str) -> bool:
        """Whether an array is stored as the caller's floats are."""
        a = self.plan.memory.get(array)
        return a is not None and a.kind == "f" and a.role != "workspace"

    def copy(self, o: Operand) -> tuple[Scalar, Scalar, tuple[str, ...]]:
        """(target without a name, value, axes) of the copy of an operand."""
        used = {v for p in o.load.args[1] for v in p.vars()}
        names = [v for v in self.axes if v in used and self.tiled(v) and v not in (o.axis, o.inner)]
        axes = (*names, *dict.fromkeys((o.axis, str(o.inner))))
        return load("?", as_index(axes)), o.load, axes

    def in_pairs(self, o: Operand, scope: Scope) -> Scalar:
        """The load of the tile that holds an operand in pairs; the copy is made here if it was not."""
        array, index = o.load.args
        key = ("pairs", *o.load.args, o.axis, o.inner)
        home = self.scope if self.packable(array, index) else scope
        found = home.find(key)
        if found is None:
            _, value, axes = self.copy(o)
            tile = self.tile_for(f"{array}.h", index, axes, scope)
            self.tiles[tile] = replace(self.tiles[tile], pairs=o.axis)
            found = home.memo[key] = load(tile, as_index(axes))
            self.emit(Map(found, value), home)
            last = home.out[-1]
            if isinstance(last, Nest) and len(last.statements) == 1 and last.lane != self.lanes:
                home.out[-1] = replace(last, vectors=max(last.vectors, 2))  # whose elements fill a vector of pairs
            beside_its_source(home.out, array)
        return found

    def staged(self, value: Scalar, lane: str, block: tuple[str, ...], scope: Scope) -> Scalar:
        """The value with matrices that are the same in all lanes read from tiles, copied before; `block` is contiguous.

        So each element is fetched once for the work item, and those of a register block are neighbours.
        """

        def node(x: Scalar) -> Scalar | None:
            if x.op != "load" or x.args[0] not in self.plan.memory or self.plan.memory[x.args[0]].kind != "f":
                return None
            used = frozenset(v for p in x.args[1] for v in p.vars())
            names = [v for v in self.axes if v in used and self.tiled(v)]
            if lane in names or len(names) < 2 or scope.loop not in names:
                return None
            key = ("stage", *x.args)
            if key not in scope.memo:
                axes = self.order(names, *block or (None,))
                tile = self.tile_for(f"{x.args[0]}.s", x.args[1], axes, scope)
                self.tiles[tile] = replace(self.tiles[tile], space="staged")
                scope.memo[key] = load(tile, as_index(axes))
                self.emit(Map(scope.memo[key], x), scope)
                earlier(scope.out, x.args[0])
            return scope.memo[key]

        return map_scalar(value, node)

    def packed(self, value: Scalar, lane: str, again: tuple[str, ...], scope: Scope) -> Scalar:
        """The value with loads that are strided along the lanes read from a tile packed before.

        These are the ones that stay the same in a loop, and those that are read again for each block of a long axis:
        `again` are the axes that are looped over in a reduction.
        """

        def node(x: Scalar) -> Scalar | None:
            if x.op != "load" or stride_kind(x.args[1], lane) != "strided":
                return None
            used = frozenset(v for p in x.args[1] for v in p.vars())
            same = self.packable(*x.args)
            made_here = bool(self.left) and x.args[0] in self.tiles and not used >= set(again)
            if not made_here and x.args[0] not in self.plan.memory:
                return None
            if not (same and scope.loop is not None) and not made_here and not self.repeated(x.args[0], used, again):
                return None
            key = ("pack", *x.args, lane)
            home = self.scope if same else scope
            found = home.find(key)
            if found is None:
                names = self.order((v for v in self.axes if v in used and self.tiled(v)), lane)
                tile = self.tile_for(f"{x.args[0]}.t", x.args[1], names, scope)
                found = home.memo[key] = load(tile, as_index(names))
                self.emit(Map(found, x), home)
            return found

        return map_scalar(value, node)


def beside_its_source(body: list[TileStmt], array: str) -> None:
    """Moves the last nest, a copy of an array, into the nest that makes the array, or before one that only follows."""
    copy = body.pop()
    assert isinstance(copy, Nest)
    (statement,) = copy.statements if len(copy.statements) == 1 else (None,)
    body.append(copy)
    if statement is None:
        return
    for k in range(len(body) - 2, -1, -1):
        nest = body[k]
        if not isinstance(nest, Nest):
            break
        if any(x.target.args[0] == array for x in nest.statements):
            if joins(nest, statement, tuple(a for a, _ in copy.loops), copy.lane, frozenset()):
                body[k] = replace(nest, statements=(*nest.statements, statement))
                body.pop()
            return
    earlier(body, array)


def earlier(body: list[TileStmt], array: str) -> None:
    """Moves the last nest, which copies an array to a tile, before a nest that what follows the copy could join."""
    if len(body) < 2 or not isinstance(body[-2], Nest) or not isinstance(body[-1], Nest):
        return
    before = {s.target.args[0] for s in body[-2].statements}
    if array not in before and len(body[-1].statements) == 1:
        body[-2], body[-1] = body[-1], body[-2]
