"""One phase: the statements of a work item, for targets, folds and recurrences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from moa.domains import TileRange
from moa.laws.algebra import factors, product, reads
from moa.laws.split import assume, conjuncts, narrowed
from moa.normal import (
    TRUE,
    Cond,
    Eq,
    Fold,
    Index,
    Member,
    Recurrence,
    Scalar,
    apply,
    at_least_zero,
    both,
    choose,
    compare,
    cond_polys,
    lit,
    load,
    loads,
    map_scalar,
    negate,
    rename,
    rename_cond,
    subterms,
)
from moa.ops import OPERATORS
from moa.poly import Atom, Poly, const, maximum, minimum, var
from moa.tile.demand import demands, testable
from moa.tile.edges import bounded
from moa.tile.formulas import renamed_fold
from moa.tile.parts import SHORT_TILE, apart_by_data
from moa.tile.place import as_index
from moa.tile.plan import NeedStore
from moa.tile.runs import alike, apart, count, divisor, each, long, quotients, settled
from moa.tile.sift import separable
from moa.tile.statements import Scope, Statements
from moa.tiles import Bounds, Loop, Map, Phase, Reduce, Sift, Tile, TileAxis, TileStmt, When


def without(s: Scalar, gone: tuple[Scalar, ...]) -> Scalar:
    """A product without some of its factors."""
    coefficient, parts = factors(s)
    left = list(parts)
    for x in gone:
        left.remove((x, 1))
    return product(left, coefficient)


def joint(fold: Fold) -> Poly | None:
    """Where the axis of a fold passes from one array to another: a position that pieces are chosen by; else None."""
    axis = fold.axis[0]
    found = {
        p + var(axis) + 1
        for m in fold.members
        for c in (m.domain, *(c for c, _ in m.pieces))
        for p in cond_polys(c)
        if p.vars() == {axis} and p.coefficient(axis) is not None and p.coefficient(axis).as_int() == -1  # type: ignore[union-attr]
    }
    inside = [
        p
        for p in found
        if p != fold.axis[1] and p.as_int() is None and all(a.kind in ("size", "int") for a in p.atoms())
    ]
    return inside[0] if len(inside) == 1 else None


def under(fold: Fold, c: Cond) -> Fold:
    """The fold where a condition holds: its pieces simplified, and without those that are not there."""
    members = []
    for m in fold.members:
        left = [(narrowed(d, c), tuple(assume(b, c) for b in basis)) for d, basis in m.pieces]
        pieces = tuple(x for x in left if not x[0].is_false)
        members.append(replace(m, domain=narrowed(m.domain, c), pieces=pieces))
    return replace(fold, domain=narrowed(fold.domain, c), members=tuple(members))


@dataclass(frozen=True, slots=True)
class Target:
    """What a phase writes: array[index] = value, or an equation of integers that is reduced into the array itself."""

    array: str
    index: Index
    value: Scalar
    reduce: Eq | None = None


class PhaseBuilder(Statements):
    """Builds one phase."""

    def build(self, targets: Sequence[Target]) -> Phase:
        values = [t.value for t in targets if t.reduce is None]
        if len(values) == len(targets) and not self.plan.strategy.warps:
            self.demands = demands(
                values, self.plan.members, self.plan.equations, self.plan.memory.keys(), set(self.items)
            )
        for t in targets:  # all of them first: what a fold calls its axes must not be what a later target calls its own
            self.axis_of(t)
        for t in targets:
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

    def finished(self, fold: Fold, member: Member, index: Index) -> Scalar:
        """The value of a member of a fold, over its states; the fold is emitted in the work item if it was not."""
        at = {v: p for (v, _), p in zip(member.outer, index, strict=True)}
        mapping = []
        for v, _ in fold.shared:
            item = at[v].as_var()
            if item is None or item not in self.items or item in mapping:
                raise NeedStore(fold.name)
            mapping.append(item)
        if len(mapping) < len(self.items):  # it is the same for several items: each would do it again
            raise NeedStore(fold.name)
        done = self.fold(fold, tuple(mapping))
        mine = next(m for m, old in zip(done.members, fold.members, strict=True) if old.name == member.name)
        return rename(mine.finish, {v: p for (v, _), p in zip(mine.outer, index, strict=True)})

    def recurrence(self, r: Recurrence) -> Phase:
        """The phase of a recurrence: its axis is a loop of single steps, its states are tiles."""
        t, extent = r.axis
        self.axes[t] = TileAxis(t, "loop", extent, 1)
        self.in_rounds(r)
        for c in r.components:
            for v, e in c.outer:
                if v not in self.axes:
                    self.axes[v] = TileAxis(v, "whole", e)
        states: list[Scalar] = []
        floats = [c for c in r.components if c.dtype == "f"]
        for c in floats:
            names = [v for v, _ in c.outer]
            axes = self.order((v for v in names if self.tiled(v)), None)
            self.tiles[c.state] = Tile(c.state, axes)
            self.states[c.state] = (c.state, tuple(names.index(v) for v in axes))
            states.append(load(c.state, as_index(axes)))
            self.emit(Map(states[-1], self.resolve(c.start, self.scope)), self.scope)
        for c in r.components:
            if c.dtype != "f":
                at = tuple(const(0) if v == t else var(v) for v, _ in r.kept(c))
                self.emit(Map(load(c.name, at), self.resolve(c.start, self.scope)), self.scope)
        body = Scope(self.scope, t)
        if r.exclusive and self.left:
            self.readers(r, body)
        fresh: list[Scalar] = []
        moved: set[Scalar] = set()
        for c, state in zip(floats, states, strict=True):
            name = f"{c.state}.new"
            self.tiles[name] = Tile(name, self.tiles[c.state].axes)
            fresh.append(load(name, state.args[1]))
            self.emit(Map(fresh[-1], self.resolve(self.here(c.body), body)), body)
            if self.left and not r.keep and not any(c.state in reads(x.body) for x in floats if x is not c):
                self.emit(Map(state, fresh[-1]), body)
                moved.add(state)
        position = extent - 1 - var(t) if r.reverse else var(t)
        for c in r.components:
            if c.dtype != "f":
                at = tuple(var(v) + 1 if v == t else var(v) for v, _ in r.kept(c))
                self.emit(Map(load(c.name, at), self.resolve(c.body, body)), body)
        for c, state, new in zip(floats, states, fresh, strict=True):
            if r.keep:
                at = tuple(position if v == t else var(v) for v, _ in r.kept(c))
                self.emit(Map(load(c.name, at), state if r.exclusive else new), body)
        if r.exclusive and not self.left:
            self.readers(r, body)
        for state, new in zip(states, fresh, strict=True):
            if state not in moved:
                self.emit(Map(state, new), body)
        if not r.exclusive:
            self.readers(r, body)
        self.scope.out.append(Loop(t, const(0), extent, tuple(body.out), "full"))
        for c, state in zip(floats, states, strict=True):
            if r.stores(c) and not r.keep:
                self.emit(Map(load(c.name, as_index(v for v, _ in c.outer)), state), self.scope)
        return Phase(
            self.name,
            self.items,
            tuple(self.axes.values()),
            tuple(self.tiles.values()),
            tuple(self.scope.out),
        )

    def in_rounds(self, r: Recurrence) -> None:
        """Enters the axis of places, where steps make rows of arrays: as many as there are."""
        found = {view.place: view for e in r.readers if (view := self.plan.views.get(e.name)) is not None}
        for (v, extent), view in found.items():
            n = extent.as_int()
            assert n is not None
            self.axes[v] = TileAxis(v, "whole", view.extent, n)
            self.left |= {view.left}

    def readers(self, r: Recurrence, body: Scope) -> None:
        """What a recurrence makes of its states at each step: those after it, or before it where those are kept."""
        t, extent = r.axis
        for reader in r.readers:
            for v, e in reader.outer:
                if v not in self.axes:
                    self.axes[v] = TileAxis(v, "whole", e)
            if reader.kind == "reduce":
                value: Scalar = self.instance(reader, reader.index(), body, TRUE)
            else:
                value = self.resolve(self.here(reader.body), body)
            at = tuple(extent - 1 - var(t) if r.reverse and v == t else var(v) for v, _ in reader.outer)
            view = self.plan.views.get(reader.name)
            target = load(reader.name, at) if view is None else load(view.array, view.index)
            self.emit(Map(target, self.here(value)), body)

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
        cut = joint(done)
        if cut is not None and not self.sifted(done) and all(r.kind != "classified" for r in self.ranges(done)):
            before = at_least_zero(cut - 1 - var(done.axis[0]))
            end = minimum(maximum(cut, const(0)), done.axis[1])
            first, second = under(done, before), under(done, negate(before))
            if not any(x.domain.is_false for x in (first, second)):  # else it is where the domain begins or ends
                self.assumed = before
                self.traverse(first, const(0), end)
                self.assumed = negate(before)
                left = done.axis[1] - cut
                if any(k < 0 for p in (cut, left) for _, k in p.terms):  # it may lie outside
                    self.traverse(second, end, done.axis[1])
                    self.assumed = TRUE
                    return done
                second = self.shifted(second, cut)
                self.known = {}  # what begins at the cut is simpler than what is cut there
                self.assumed = at_least_zero(var(second.axis[0]))
                self.traverse(second, end - cut, second.axis[1])
                self.known, self.assumed = None, TRUE
                return done
        both_ways = None if self.lanes is None or self.plan.strategy.warps else self.apart(done)
        if both_ways is not None:
            near, (v, extent) = both_ways[0], done.axis
            self.traverse(near)
            s = self.plan.strategy
            name = self.fresh_axis(v, extent, min(max(SHORT_TILE // s.width, 1) * s.width, s.keys))
            far = each(both_ways[1], lambda s: rename(s, {v: var(name)}), lambda c: rename_cond(c, {v: var(name)}))
            self.traverse(replace(far, axis=(name, extent)))
            return done
        self.traverse(done)
        return done

    def apart(self, fold: Fold) -> tuple[Fold, Fold] | None:
        """A range of the fold's axis, and what data add to it."""
        return apart_by_data(
            fold, self.row, self.items, lambda c: self.plan.is_range(c, fold.axis[0], self.row, self.items)
        )

    def shifted(self, fold: Fold, cut: Poly) -> Fold:
        """The fold over an axis that begins at a cut."""
        v, extent = fold.axis
        name = self.fresh_axis(v, extent - cut, self.plan.strategy.keys)
        moved = each(fold, lambda s: rename(s, {v: var(name) + cut}), lambda c: rename_cond(c, {v: var(name) + cut}))
        return replace(settled(moved, {}, self.scope_of_runs()), axis=(name, extent - cut))

    def traverse(self, fold: Fold, lo: Poly | None = None, hi: Poly | None = None) -> None:
        """Emits the loops of a fold over its axis, or a part of it; in runs, where they are long enough."""
        plain = tuple(self.loops(fold, self.scope, lo, hi))
        found = quotients(fold, self.plan.equations, self.plan.memory.__contains__, self.here)
        d = divisor(found, fold.axis[0])
        if d is None or self.plan.strategy.warps or self.lanes is None or self.seen_by_ranges(fold, d, plain):
            self.scope.out += self.wanted(fold, plain)
            return
        cond, known = long(d), {}
        rows = frozenset(b for v, b in found if v == self.row)
        if self.row is not None and rows:
            cond = both(cond, alike(self.row, self.plan.strategy.rows, self.axes[self.row].extent, rows))
            known = {Atom("div", "", (var(self.row), b)): var(f"{self.row}@0") // b for b in rows}
        self.scope.out += self.wanted(fold, (When(cond, self.runs(fold, d, known, lo, hi), plain),))

    def seen_by_ranges(self, fold: Fold, d: Poly, loops: tuple[TileStmt, ...]) -> bool:
        """Whether quotients are those of conditions alone, which the ranges of the loops have decided."""
        if d.as_int() is None or any(isinstance(x, Loop) and x.kind == "classified" for x in loops):
            return False
        values = each(fold, lambda s: s, lambda _: TRUE)
        found = quotients(values, self.plan.equations, self.plan.memory.__contains__, self.here)
        return divisor(found, fold.axis[0]) is None

    def wanted(self, fold: Fold, loops: tuple[TileStmt, ...]) -> tuple[TileStmt, ...]:
        """The loops of a fold, left out where no row of the work item reads what it makes."""
        conds = testable(self.demands.get(fold.name, TRUE), self.row, self.items)
        return (Sift(conds, "", loops, loops),) if conds else loops

    def runs(
        self, fold: Fold, d: Poly, known: dict[Atom, Poly], lo: Poly | None, hi: Poly | None
    ) -> tuple[TileStmt, ...]:
        """The loop over the runs of a fold's axis: in each, what is the same in all of it is found once."""
        axis, extent = fold.axis
        number = self.fresh_axis(f"{axis}r", count(extent, d), 1)
        start = var(number) * d
        first, end = (start if lo is None else maximum(start, lo)), minimum(start + d, extent if hi is None else hi)
        before = self.known
        self.known = {**(before or {}), **known, Atom("div", "", (var(axis), d)): var(number)}
        fold = settled(fold, self.known, self.scope_of_runs())
        moving = frozenset(v for v in self.axes if self.tiled(v))
        once, _ = apart(fold.domain, moving)
        body = Scope(self.scope, number)
        inside = self.loops(under(fold, once), body, first, end)
        self.known = before
        statements = (*body.out, *inside)
        if not once.is_true:
            statements = (When(once, statements),)
        return (Loop(number, const(0), count(extent, d), statements, "full"),)

    def loops(self, done: Fold, scope: Scope, lo: Poly | None, hi: Poly | None) -> list[TileStmt]:
        """The loops over tiles of a fold's axis, or a part of it."""
        data = self.sifted(done)
        edges = self.edges(done)
        axis, out = done.axis[0], list[TileStmt]()
        for r in self.ranges(done):
            first = r.lo if lo is None else maximum(r.lo, lo)
            end = r.hi if hi is None else minimum(r.hi, hi)
            edges = edges if lo is None else None
            if r.kind == "classified" and (lo is not None or self.axes[axis].step != self.plan.strategy.keys):
                r = replace(r, kind="partial")  # tiles are other ones
            if r.kind != "classified":
                body = self.edged(self.round(done, scope, r.kind == "partial"), r, edges)
                if data:
                    every = self.edged(self.round(done, scope, r.kind == "partial", data), r, edges)
                    body = (Sift(data, axis, every, body),)
                    out.append(Loop(axis, first, end, body, r.kind, data))
                    continue
            else:
                body = self.round(done, scope, True)
                if not r.full.is_false:
                    body = (When(r.full, self.round(done, scope, False), body),)
                if not r.empty.is_false:
                    body = (When(negate(r.empty), body),)
            out.append(Loop(axis, first, end, body, r.kind))
        return out

    def edges(self, fold: Fold) -> Bounds | None:
        """What each vector of rows visits of the fold's axis, where rows are several vectors."""
        s = self.plan.strategy
        if self.lanes is None or s.warps or s.rows <= s.width or any(m.domain != fold.domain for m in fold.members):
            return None
        found = self.plan.bounds(fold.domain, self.lanes, fold.axis[0], self.extents(fold), self.items)
        return None if found is not None and (found.lo, found.hi) == (const(0), fold.axis[1]) else found

    def edged(self, body: tuple[TileStmt, ...], r: TileRange, edges: Bounds | None) -> tuple[TileStmt, ...]:
        if edges is None or r.kind != "partial" or self.lanes is None:
            return body
        return bounded(body, edges, self.lanes, self.plan.strategy)

    def sifted(self, fold: Fold) -> tuple[Cond, ...]:
        """The conditions on data of a fold's domain of which a tile can be tested at once."""
        if self.plan.strategy.warps or any(m.domain != fold.domain for m in fold.members):
            return ()
        if self.lanes is None:  # to look at what few rows compare takes as long as to compute them
            return ()
        return tuple(c for c in self.plan.tested(fold.domain) if separable(c, fold.axis[0], self.row, self.items))

    def round(self, fold: Fold, scope: Scope, partial: bool, known: tuple[Cond, ...] = ()) -> tuple[TileStmt, ...]:
        """The statements for one tile of the fold's axis, of whose domain the conditions `known` hold everywhere."""
        body = Scope(scope, fold.axis[0])
        self.fold_body(fold, body, partial, known)
        return tuple(body.out)

    def ranges(self, fold: Fold) -> tuple[TileRange, ...]:
        return self.plan.ranges(fold.domain, self.row, fold.axis[0], self.extents(fold), self.items)

    def extents(self, fold: Fold) -> dict[str, Poly]:
        return {v: a.extent for v, a in self.axes.items() if a.role == "item"} | {fold.axis[0]: fold.axis[1]}

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

    def fold_body(self, fold: Fold, scope: Scope, partial: bool, known: tuple[Cond, ...] = ()) -> None:
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
            moved = self.moved(fold, m, scope)
            if not m.pieces:
                self.placed(m, moved, scope)
                continue
            domain = self.plan.mask(m.domain, fold.domain, partial)
            if known:
                domain = both(*(c for c in conjuncts(domain) if c not in known))
            if not self.blocked(m):
                moved = self.placed(m, moved, scope)
            for k in range(m.width):
                self.add(m, k, moved[k], domain, scope)

    def state(self, m: Member, k: int) -> Scalar:
        tile, _ = self.states[m.state(k)]
        return load(tile, as_index(self.tiles[tile].axes))

    def moved(self, fold: Fold, m: Member, scope: Scope) -> list[Scalar]:
        """What move . state is, for each component of the state; the states themselves where nothing moves."""
        states = [self.state(m, k) for k in range(m.width)]
        if not m.move:
            return states
        names = fold.references()

        def node(x: Scalar) -> Scalar | None:
            if x.op != "ref":
                return None
            r = m.refs[x.args[0]]
            name, index = names[r], as_index(v for v, _ in fold.reference_axes(r))
            return load(name if x.args[1] == "new" else f"{name}.old", index)

        results: list[Scalar] = []
        for row in m.move:
            total = lit(0)
            for factor, state in zip(row, states, strict=True):
                if factor is lit(0):
                    continue
                value = self.factor(self.resolve(map_scalar(factor, node), scope), scope)
                total = apply("add", total, apply("mul", value, state))
            results.append(total)
        identity = OPERATORS[m.op.removesuffix("_ref")].identity
        if isinstance(identity, float) and math.isinf(identity):  # of nothing so far: 0 times it is no number
            (state,), (total,) = states, results
            results = [choose(compare("eq", state, lit(identity)), lit(identity), total)]
        if m.width > 1:  # all components move at once
            for k, total in enumerate(results):
                old = states[k]
                temp = f"{m.state(k)}.new"
                if temp not in self.tiles:
                    self.tiles[temp] = Tile(temp, self.tiles[old.args[0]].axes)
                self.emit(Map(load(temp, old.args[1]), total), scope)
                results[k] = load(temp, old.args[1])
        return results

    def placed(self, m: Member, moved: list[Scalar], scope: Scope) -> list[Scalar]:
        """The states, after what moving makes of them is emitted."""
        states = [self.state(m, k) for k in range(m.width)]
        for state, total in zip(states, moved, strict=True):
            if total is not state:
                self.emit(Map(state, total), scope)
        return states

    def blocked(self, m: Member) -> bool:
        """Whether what one round adds is added up by itself first: sums of many terms then round as often as few."""
        return m.op == "add" and not self.plan.strategy.warps

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

    def add(self, m: Member, k: int, moved: Scalar, domain: Cond, scope: Scope) -> None:
        """Emits state_k <- op(moved, reduce of the pieces under the member's domain)."""
        op = m.op.removesuffix("_ref")
        identity = lit(float(OPERATORS[op].identity))  # type: ignore[arg-type]
        inside = conjuncts(m.domain)
        pieces = [(both(*(x for x in conjuncts(c) if x not in inside)), basis[k]) for c, basis in m.pieces]
        if len(pieces) == 1:
            value = self.masked(pieces[0][1], both(domain, pieces[0][0]), op, scope)
        else:
            value = self.chosen(pieces, domain, identity, scope)
        axis = scope.loop
        assert axis is not None
        state = self.state(m, k)
        if not self.blocked(m):
            self.emit(Reduce(state, m.op, value, (axis,), False), scope)
            return
        part = f"{state.args[0]}.part"
        if part not in self.tiles:
            self.tiles[part] = Tile(part, self.tiles[state.args[0]].axes)
        own = load(part, state.args[1])
        self.emit(Reduce(own, m.op, value, (axis,), True), scope)
        self.emit(Map(state, apply("add", moved, own)), scope)

    def chosen(self, pieces: list[tuple[Cond, Scalar]], domain: Cond, identity: Scalar, scope: Scope) -> Scalar:
        """The piece whose condition holds, in the domain, else the identity.

        Where 0 absorbs, what all pieces have is a factor outside (contract: assumes finite) and the rest is a tile:
        conditions are tested once, and not for each column of a product. Outside the domain the factor is 0, and the
        rest as well, but for elements of arguments: both may be infinite there.
        """
        outside: tuple[Scalar, ...] = ()
        if identity is lit(0):
            each = [[x for x, p in factors(s)[1] if p == 1] for _, s in pieces]
            outside = tuple(x for x in dict.fromkeys(each[0]) if all(x in xs for xs in each))
            pieces = [(c, without(s, outside)) for c, s in pieces]
        value = identity
        for c, s in reversed(pieces):
            given = outside and all(x.op in ("lit", "mul") or self.is_given(x) for x in subterms(s))
            value = choose(c if given else both(domain, c), self.resolve(s, scope), value)
        if identity is not lit(0):
            return value
        inner = {v for v in value.vars() if v in self.axes and self.tiled(v)}
        key = ("pieces", value)
        held = scope.find(key)
        if held is None:
            axes = self.order((v for v in self.axes if v in inner), None)
            tile = self.fresh_tile("w", axes)
            held = scope.memo[key] = load(tile, as_index(axes))
            self.emit(Map(held, value), scope)
        return apply("mul", held, self.masked(product((x, 1) for x in outside), domain, "add", scope))

    def is_given(self, s: Scalar) -> bool:
        """Whether a scalar is an element of an argument."""
        return s.op == "load" and s.args[0] in self.plan.memory and self.plan.memory[s.args[0]].role == "input"

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
