"""One phase: the tile statements of a work item, from the equations its targets need.

Everything here is one recursion: `resolve` replaces the load of an equation by the load of a tile, and emits the
statements that fill the tile at the outermost loop where they can stand. An equation used at several index patterns is
several tiles (recomputed); what cannot be a tile of the work item raises `NeedStore` and becomes an array in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from moa.domains import TileRange
from moa.normal import (
    TRUE,
    Axis,
    Cond,
    Eq,
    Fold,
    Index,
    Member,
    Recurrence,
    Scalar,
    apply,
    both,
    choose,
    lit,
    load,
    loads,
    map_scalar,
    negate,
    rename,
    rename_cond,
)
from moa.ops import OPERATORS
from moa.poly import Atom, Poly, const, var
from moa.tile.place import as_index, choose_lane, place, stride_kind
from moa.tile.plan import NeedStore, Plan
from moa.tiles import Loop, Map, Phase, Reduce, Tile, TileAxis, TileStmt, When


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


@dataclass(frozen=True, slots=True)
class Target:
    """What a phase writes: array[index] = value, or an equation of integers that is reduced into the array itself."""

    array: str
    index: Index
    value: Scalar
    reduce: Eq | None = None


class PhaseBuilder:
    """Builds one phase; `items` are its item axes, outermost first, `row` the one that is tiled."""

    def __init__(self, plan: Plan, name: str, items: tuple[Axis, ...], row: str | None) -> None:
        self.plan = plan
        self.name = name
        self.row = row if plan.strategy.rows > 1 else None
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

    def build(self, targets: Iterable[Target]) -> Phase:
        for t in targets:
            self.axis_of(t)
            if t.reduce is not None:
                self.emit(self.reduction(t.reduce, t.index, load(t.array, t.index)), self.scope)
                continue
            value = self.resolve(t.value, self.scope)
            self.emit(Map(load(t.array, t.index), value), self.scope)
        return Phase(
            self.name, self.items, tuple(self.axes.values()), tuple(self.tiles.values()), tuple(self.scope.out)
        )

    def axis_of(self, t: Target) -> None:
        """Enters the axes of a target that are not item axes."""
        shape = self.plan.memory[t.array].shape
        for p, extent in zip(t.index, shape, strict=True):
            v = p.as_var()
            if v is not None and v not in self.axes:
                self.axes[v] = TileAxis(v, "whole", extent)

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

    def tile_for(self, name: str, index: Index, axes: tuple[str, ...], home: Scope) -> str:
        """The tile of an instance: rounds that exclude each other (full, partial) use the same one."""
        key = (name, index, axes)
        known = self.instances.get(key)
        if known is not None and all(known != x.args[0] for x in home.memo.values() if x.op == "load"):
            return known
        self.instances[key] = self.fresh_tile(name, axes)
        return self.instances[key]

    def tiled(self, v: str) -> bool:
        """Whether a variable is an axis of tiles (and not a single value in each work item)."""
        return self.axes[v].step != 1

    def order(self, names: Iterable[str], lane: str | None) -> tuple[str, ...]:
        """Axes of a tile: as given, with the lane axis (or the row axis) last, contiguous."""
        out = list(names)
        last = lane if lane in out else self.row
        if last in out:
            out.remove(last)
            out.append(last)
        return tuple(out)

    # expressions -----------------------------------------------------------------------------------------------------

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

    def finished(self, fold: Fold, member: Member, index: Index) -> Scalar:
        """The value of a member of a fold, over its states; the fold is emitted in the work item if it was not."""
        at = {v: p for (v, _), p in zip(member.outer, index, strict=True)}
        mapping = []
        for v, _ in fold.shared:
            item = at[v].as_var()
            if item is None or item not in self.items or item in mapping:
                raise NeedStore(fold.name)
            mapping.append(item)
        done = self.fold(fold, tuple(mapping))
        mine = next(m for m, old in zip(done.members, fold.members, strict=True) if old.name == member.name)
        return rename(mine.finish, {v: p for (v, _), p in zip(mine.outer, index, strict=True)})

    def instance(self, e: Eq, index: Index, scope: Scope, mask: Cond) -> Scalar:
        """The load of a tile that holds e at this index pattern; its statements are emitted if they were not."""
        used = frozenset(v for p in index for v in p.vars()) | mask.vars()
        home = scope
        while home.parent is not None and home.loop not in used and e.name not in self.plan.moving:
            home = home.parent
        key = (e.name, index, mask)
        found = home.find(key)
        if found is not None:
            return found
        names = [v for v in self.axes if v in used and self.tiled(v)]
        mapping = {v: p for (v, _), p in zip(e.outer, index, strict=True)}
        over: tuple[str, ...] = ()
        if e.kind == "reduce":
            whole = self.reduction(e, index, load("?", ()), home)
            over, value = whole.over, whole.value
        else:
            value = self.resolve(rename(e.body, mapping), home)
        if not mask.is_true:
            value = choose(mask, value, lit(0))
        lane = self.lane(load("?", as_index(names)), value, over, free=True)
        tile = self.tile_for(e.name, index, self.order(names, lane), home)
        target = load(tile, as_index(self.tiles[tile].axes))
        self.emit(Reduce(target, e.op, value, over, True) if over else Map(target, value), home)
        home.memo[key] = target
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
        identity = value = lit(float(OPERATORS[e.op].identity))  # type: ignore[arg-type]
        for c, s in reversed(e.pieces):
            value = choose(rename_cond(c, mapping), self.resolve(rename(s, mapping), home), value)
        value = choose(rename_cond(e.domain, mapping), value, identity)
        return Reduce(target, e.op, value, (red,), True)

    # statements --------------------------------------------------------------------------------------------------------

    def lane(self, target: Scalar, value: Scalar, over: tuple[str, ...], free: bool = False) -> str | None:
        """The cheapest lane axis of a statement; `free`: the target may still put any of its axes last."""
        if target.args[0] in self.plan.memory and self.plan.memory[target.args[0]].kind != "f":
            return None  # integers are scalars
        axes = [self.axes[v] for v in self.statement_axes(target, over)]
        return choose_lane(axes, target, value, over, self.row, self.plan.strategy, free, self.packable)

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

    def emit(self, statement: Map | Reduce, scope: Scope) -> None:
        value = statement.value
        if scope.loop is not None and any(
            array.removesuffix(".old") in self.plan.references for array, _ in loads(value)
        ):
            value = base_two(value)
        statement = replace(statement, value=self.plan.hosted(value))
        over = statement.over if isinstance(statement, Reduce) else ()
        lane = self.lane(statement.target, statement.value, over)
        if lane is not None and scope.loop is not None:
            statement = replace(statement, value=self.packed(statement.value, lane))
        loops = tuple(v for v in self.statement_axes(statement.target, ()) if v != lane)
        static = frozenset({self.row} if self.row else ())
        place(scope.out, statement, loops, lane, static, self.plan.strategy)

    def packed(self, value: Scalar, lane: str) -> Scalar:
        """The value with loop-invariant loads that are strided along the lanes read from a tile packed before."""

        def node(x: Scalar) -> Scalar | None:
            if x.op != "load" or stride_kind(x.args[1], lane) != "strided" or not self.packable(*x.args):
                return None
            key = ("pack", *x.args, lane)
            found = self.scope.find(key)
            if found is None:
                used = frozenset(v for p in x.args[1] for v in p.vars())
                names = self.order((v for v in self.axes if v in used and self.tiled(v)), lane)
                tile = self.fresh_tile(f"{x.args[0]}.t", names)
                found = self.scope.memo[key] = load(tile, as_index(names))
                self.emit(Map(found, x), self.scope)
            return found

        return map_scalar(value, node)

    # recurrences ---------------------------------------------------------------------------------------------------------

    def recurrence(self, r: Recurrence) -> Phase:
        """The phase of a recurrence: its axis is a loop of single steps, its states are tiles."""
        t, extent = r.axis
        self.axes[t] = TileAxis(t, "loop", extent, 1)
        for c in r.components:
            for v, e in c.outer:
                if v not in self.axes:
                    self.axes[v] = TileAxis(v, "whole", e)
        states: list[Scalar] = []
        for c in r.components:
            names = [v for v, _ in c.outer]
            axes = self.order((v for v in names if self.tiled(v)), None)
            self.tiles[c.state] = Tile(c.state, axes)
            self.states[c.state] = (c.state, tuple(names.index(v) for v in axes))
            states.append(load(c.state, as_index(axes)))
            self.emit(Map(states[-1], self.resolve(c.start, self.scope)), self.scope)
        body = Scope(self.scope, t)
        fresh: list[Scalar] = []
        for c, state in zip(r.components, states, strict=True):
            name = f"{c.state}.new"
            self.tiles[name] = Tile(name, self.tiles[c.state].axes)
            fresh.append(load(name, state.args[1]))
            self.emit(Map(fresh[-1], self.resolve(c.body, body)), body)
        position = extent - 1 - var(t) if r.reverse else var(t)
        for c, state, new in zip(r.components, states, fresh, strict=True):
            if r.keep:
                at = tuple(position if v == t else var(v) for v, _ in r.kept(c))
                self.emit(Map(load(c.name, at), state if r.exclusive else new), body)
        for state, new in zip(states, fresh, strict=True):
            self.emit(Map(state, new), body)
        for reader in r.readers:  # they read the states after the step
            for v, e in reader.outer:
                if v not in self.axes:
                    self.axes[v] = TileAxis(v, "whole", e)
            if reader.kind == "reduce":
                value: Scalar = self.instance(reader, reader.index(), body, TRUE)
            else:
                value = self.resolve(reader.body, body)
            at = tuple(extent - 1 - var(t) if r.reverse and v == t else var(v) for v, _ in reader.outer)
            self.emit(Map(load(reader.name, at), value), body)
        self.scope.out.append(Loop(t, const(0), extent, tuple(body.out), "full"))
        if not r.keep and not r.readers:
            for c, state in zip(r.components, states, strict=True):
                self.emit(Map(load(c.name, as_index(v for v, _ in c.outer)), state), self.scope)
        return Phase(
            self.name, self.items, tuple(self.axes.values()), tuple(self.tiles.values()), tuple(self.scope.out)
        )

    # folds ---------------------------------------------------------------------------------------------------------------

    def fold(self, fold: Fold, mapping: tuple[str, ...]) -> Fold:
        """The fold with this phase's axes; its loops are emitted in the work item the first time."""
        key = (fold.name, mapping)
        if key in self.folds:
            return self.folds[key]
        names: dict[str, str] = dict(zip((v for v, _ in fold.shared), mapping, strict=True))
        names[fold.axis[0]] = self.fresh_axis(fold.axis[0], fold.axis[1], self.plan.strategy.keys)
        for m in fold.members:
            for v, extent in m.outer:
                if v not in names:
                    names[v] = self.fresh_axis(v, extent)
        suffix = "" if not self.folds else f"'{len(self.folds)}"
        done = self.folds[key] = renamed_fold(fold, names, suffix)
        self.fold_start(done)
        for r in self.ranges(done):
            if r.kind != "classified":
                body = self.round(done, r.kind == "partial")
            else:
                body = self.round(done, True)
                if not r.full.is_false:
                    body = (When(r.full, self.round(done, False), body),)
                if not r.empty.is_false:
                    body = (When(negate(r.empty), body),)
            self.scope.out.append(Loop(done.axis[0], r.lo, r.hi, body, r.kind))
        return done

    def round(self, fold: Fold, partial: bool) -> tuple[TileStmt, ...]:
        """The statements for one tile of the fold's axis."""
        body = Scope(self.scope, fold.axis[0])
        self.fold_body(fold, body, partial)
        return tuple(body.out)

    def ranges(self, fold: Fold) -> tuple[TileRange, ...]:
        extents = {v: a.extent for v, a in self.axes.items() if a.role == "item"} | {fold.axis[0]: fold.axis[1]}
        return self.plan.ranges(fold.domain, self.row, fold.axis[0], extents, self.items)

    def fold_start(self, fold: Fold) -> None:
        """Emits the start states and references."""
        for m in fold.members:
            for k in range(m.width):
                outer = [v for v, _ in m.outer]
                axes = self.order((v for v in outer if self.tiled(v)), None)
                tile = self.fresh_tile(m.state(k), axes)
                self.states[m.state(k)] = (tile, tuple(outer.index(v) for v in axes))
                identity = OPERATORS[m.op.removesuffix("_ref")].identity
                assert identity is not None
                self.emit(Map(load(tile, as_index(axes)), lit(float(identity))), self.scope)
        for r, name in fold.references().items():
            outer = [v for v, _ in fold.reference_axes(r)]
            axes = self.order((v for v in outer if self.tiled(v)), None)
            positions = tuple(outer.index(v) for v in axes)
            for n in (name, f"{name}.old"):
                self.tiles[n] = Tile(n, axes)
                self.states[n] = (n, positions)
            self.emit(Map(load(name, as_index(axes)), self.resolve(r, self.scope)), self.scope)

    def fold_body(self, fold: Fold, scope: Scope, partial: bool) -> None:
        """Emits one round: for each member, its references, the move of its state, and what it adds."""
        names = fold.references()
        updated: set[Scalar] = set()
        for m in fold.members:
            for r in m.refs:
                if r not in updated:
                    updated.add(r)
                    tile = load(names[r], as_index(self.tiles[names[r]].axes))
                    self.emit(Map(load(f"{names[r]}.old", tile.args[1]), tile), scope)
                    self.emit(Map(tile, self.resolve(r, scope)), scope)
            if m.move:
                self.move(fold, m, scope)
            domain = self.plan.mask(m.domain, fold.domain, partial)
            for k in range(m.width):
                self.add(m, k, domain, scope)

    def state(self, m: Member, k: int) -> Scalar:
        tile, _ = self.states[m.state(k)]
        return load(tile, as_index(self.tiles[tile].axes))

    def move(self, fold: Fold, m: Member, scope: Scope) -> None:
        """Emits state <- move . state."""
        names = fold.references()

        def node(x: Scalar) -> Scalar | None:
            if x.op != "ref":
                return None
            r = m.refs[x.args[0]]
            name, index = names[r], as_index(v for v, _ in fold.reference_axes(r))
            return load(name if x.args[1] == "new" else f"{name}.old", index)

        states = [self.state(m, k) for k in range(m.width)]
        results: list[Scalar] = []
        for row in m.move:
            total = lit(0)
            for factor, state in zip(row, states, strict=True):
                if factor is lit(0):
                    continue
                value = self.factor(self.resolve(map_scalar(factor, node), scope), scope)
                total = apply("add", total, apply("mul", value, state))
            results.append(total)
        if m.width > 1:  # all components move at once
            for k, total in enumerate(results):
                old = states[k]
                temp = f"{m.state(k)}.new"
                if temp not in self.tiles:
                    self.tiles[temp] = Tile(temp, self.tiles[old.args[0]].axes)
                self.emit(Map(load(temp, old.args[1]), total), scope)
                results[k] = load(temp, old.args[1])
        for state, total in zip(states, results, strict=True):
            if total is not state:
                self.emit(Map(state, total), scope)

    def factor(self, value: Scalar, scope: Scope) -> Scalar:
        """A factor of a move, as a tile of its own: it is the same for every column of an accumulator."""
        if value.op == "lit" or not loads(value):
            return value
        key = ("factor", value)
        found = scope.find(key)
        if found is None:
            used = frozenset(v for _, index in loads(value) for p in index for v in p.vars())
            axes = self.order((v for v in self.axes if v in used and self.tiled(v)), None)
            tile = "move"
            while tile in self.tiles and ("factor-name", tile) in scope.memo:
                tile += "'"
            self.tiles[tile] = Tile(tile, axes)
            scope.memo[("factor-name", tile)] = value
            found = scope.memo[key] = load(tile, as_index(axes))
            self.emit(Map(found, value), scope)
        return found

    def add(self, m: Member, k: int, domain: Cond, scope: Scope) -> None:
        """Emits state_k <- op(state_k, reduce of the pieces under the member's domain)."""
        op = m.op.removesuffix("_ref")
        identity = lit(float(OPERATORS[op].identity))  # type: ignore[arg-type]
        if len(m.pieces) == 1:
            value = self.masked(m.pieces[0][1][k], both(domain, m.pieces[0][0]), op, scope)
        else:
            value = identity
            for c, basis in reversed(m.pieces):
                value = choose(both(domain, c), self.resolve(basis[k], scope), value)
        axis = scope.loop
        assert axis is not None
        self.emit(Reduce(self.state(m, k), m.op, value, (axis,), False), scope)

    def masked(self, s: Scalar, c: Cond, op: str, scope: Scope) -> Scalar:
        """s where c, else the identity of op. A factor takes the mask where 0 absorbs (contract: assumes finite)."""
        identity = OPERATORS[op].identity
        if c.is_true:
            return self.resolve(s, scope)
        if identity == OPERATORS["mul"].absorbing:
            here = frozenset(v for v in c.vars() if v in self.axes and self.tiled(v))
            if s.op == "mul":
                for k, x in enumerate(s.args):
                    if here <= x.vars() and (x.op == "mul" or self.named(x)):
                        other = self.resolve(s.args[1 - k], scope)
                        inner = self.masked(x, c, op, scope)
                        return apply("mul", *((inner, other) if k == 0 else (other, inner)))
            if here <= s.vars() and self.named(s):
                tile = self.resolve_load(s, scope, c)
                assert tile is not None
                return tile
        return choose(c, self.resolve(s, scope), lit(float(identity)))  # type: ignore[arg-type]

    def named(self, s: Scalar) -> bool:
        """Whether s is the load of a Map that becomes a tile."""
        return s.op == "load" and s.args[0] in self.plan.equations and s.args[0] not in self.plan.memory


def growing(body: tuple[TileStmt, ...], row: str) -> bool:
    """Whether loops are longer in the last work item than in the first, for one size of all axes."""
    size, last = 1 << 12, (1 << 12) - 64

    def total(origin: int) -> int:
        values = {f"{row}@0": origin}
        out = 0
        for s in body:
            if isinstance(s, Loop):
                lo, hi = (p.evaluate(lambda a: number(a, values)) for p in (s.lo, s.hi))
                out += max(hi - lo, 0)
        return out

    def number(a: Atom, values: dict[str, int]) -> int:
        match a.kind:
            case "var":
                return values.get(a.name, 0)
            case "div":
                x, d = (p.evaluate(lambda b: number(b, values)) for p in a.args)
                return int(x // d)
            case "min" | "max":
                x, y = (p.evaluate(lambda b: number(b, values)) for p in a.args)
                return int(min(x, y) if a.kind == "min" else max(x, y))
            case "abs":
                return int(abs(a.args[0].evaluate(lambda b: number(b, values))))
            case "select":
                return int(a.args[1].evaluate(lambda b: number(b, values)))
            case _:
                return size

    return total(last) > total(0)


def base_two(s: Scalar) -> Scalar:
    """s with exp(c * x) as exp2((c / log 2) * x), c free of indices.

    Beside a reference the exponent is at most 0, where the rounding of the product costs less than one unit in the
    last place of the largest term (contract: rescales).
    """
    one_over_log2 = apply("div", lit(1), apply("log", lit(2)))

    def node(x: Scalar) -> Scalar | None:
        if x.op != "exp":
            return None
        inside = x.args[0]
        if inside.op == "mul" and not inside.args[0].vars() and not loads(inside.args[0]):
            factor = apply("mul", inside.args[0], one_over_log2)
            return apply("exp2", apply("mul", factor, inside.args[1]))
        return apply("exp2", apply("mul", one_over_log2, inside))

    return map_scalar(s, node)


def renamed_fold(fold: Fold, names: dict[str, str], suffix: str) -> Fold:
    """A fold over other variables; its states get a suffix, so that two copies can stand in one phase."""
    at = {v: var(n) for v, n in names.items()}
    own = {m.state(k) for m in fold.members for k in range(m.width)}

    def scalar(s: Scalar) -> Scalar:
        def node(x: Scalar) -> Scalar | None:
            if suffix and x.op == "load" and x.args[0] in own:
                head, k = x.args[0].rsplit("#", 1)
                return load(f"{head}{suffix}#{k}", x.args[1])
            return None

        return map_scalar(rename(s, at), node)

    def axes(outer: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple((names[v], e) for v, e in outer)

    members = tuple(
        replace(
            m,
            name=m.name + suffix,
            outer=axes(m.outer),
            domain=rename_cond(m.domain, at),
            pieces=tuple((rename_cond(c, at), tuple(scalar(b) for b in basis)) for c, basis in m.pieces),
            refs=tuple(scalar(r) for r in m.refs),
            move=tuple(tuple(scalar(x) for x in row) for row in m.move),
            finish=scalar(m.finish),
        )
        for m in fold.members
    )
    return replace(
        fold,
        axis=(names[fold.axis[0]], fold.axis[1]),
        shared=axes(fold.shared),
        members=members,
        domain=rename_cond(fold.domain, at),
    )


def fold_uses(plan: Plan, s: Scalar) -> Iterator[tuple[Fold, Member, Index]]:
    """Every member of a fold that a scalar reads, through named equations, with its index."""
    for array, index in loads(s):
        if array in plan.memory:
            continue
        if array in plan.members:
            yield (*plan.members[array], index)
        elif array in plan.equations:
            e = plan.equations[array]
            at = {v: p for (v, _), p in zip(e.outer, index, strict=True)}
            for _, body in e.pieces:
                yield from fold_uses(plan, rename(body, at))
