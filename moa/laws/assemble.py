"""Traversals: which reductions share one once references may run, and the Folds that they become."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Literal

from moa.laws.group import Group, equation_loads, equation_reads, levels
from moa.laws.inlining import Definitions, Names, inline
from moa.laws.reading import Live, Stays
from moa.laws.reference import Moved, plain_member
from moa.laws.sign import nonnegative_names
from moa.laws.table import LAWS
from moa.normal import TRUE, Axis, Eq, Fold, Index, Member, Scalar, either, load, map_cond, map_scalar
from moa.poly import var
from moa.rewrite import Step, Trace

Moves = Literal["all", "narrow", "none"]  # with running values: whatever can, what has one state a column, nothing


def is_wide(m: Member, shared: Set[Axis]) -> bool:
    """Whether a member moves several states for each column of a product: that is work for all of its elements."""
    return m.width > 1 and not set(m.outer) <= shared


class Repair:
    """Which reductions run in which traversal once references may run, and the members that they become."""

    def __init__(
        self, reductions: Sequence[Eq], groups: Sequence[Group], names: Names, trace: Trace, moves: Moves = "all"
    ) -> None:
        self.reductions, self.groups, self.names, self.trace = list(reductions), groups, names, trace
        self.moves = moves
        self.group_of = {name: g for g in groups for name in g.members}
        self.moved: dict[str, Moved] = {}
        self.renamed = {e.name: self.group_of[e.name].rename(e) for e in reductions}
        self.facts = nonnegative_names(tuple(reductions))
        self.order: list[str] = []
        self.partial: dict[str, int] = {}
        self.level = levels(self.reductions, groups, self.joins)

    def members(self, name: str) -> tuple[tuple[Eq, Member], ...]:
        if name in self.moved:
            return self.moved[name].members
        return ((self.renamed[name], plain_member(self.renamed[name])),)

    def joins(self, g: Group, e: Eq, loaded: Sequence[str]) -> bool:
        """Whether e can run in the traversal of what it loads: the change of reference succeeds."""
        if self.moves == "none":
            return False
        live: dict[str, Live] = {}
        todo = list(loaded)
        while todo:
            name = todo.pop()
            for eq, member in self.members(name):
                if eq.name not in live:
                    live[eq.name] = Live(eq, member)
        for name in self.same_traversal(g, loaded):
            for eq, member in self.members(name):
                live.setdefault(eq.name, Live(eq, member))
        try:
            self.at_own_row(e, live)
            moved: Moved = LAWS["change of reference"].apply(self.renamed[e.name], live, self.facts, self.names.fresh)
        except Stays as reason:
            self.trace.refused.append(("change of reference", e.name, str(reason)))
            return False
        if self.moves == "narrow" and any(
            is_wide(m, {a for x in live.values() for a in x.eq.outer}) for _, m in moved.members
        ):
            return False
        self.moved[e.name] = moved
        law = LAWS["change of reference"]
        for guard, why in moved.guards:
            gone = LAWS["drop a guard"]
            self.trace.steps.append(
                Step(gone.name, e.name, f"where({guard}, 0, y)", "y", ((why, "rate > 0"),), contract=gone.contract)
            )
        self.trace.steps.append(
            Step(law.name, e.name, moved.before, moved.after, moved.conditions, contract=law.contract)
        )
        return True

    def at_own_row(self, e: Eq, live: Mapping[str, Live]) -> None:
        """Refuses what other rows, or columns, have: it is not there before the traversals of all are over.

        Errors: Stays
        """
        for name, index in equation_loads(self.renamed[e.name]):
            if name in live and index != live[name].eq.index():
                raise Stays(f"{load(name, index)} belongs to another row")

    def same_traversal(self, g: Group, loaded: Sequence[str]) -> list[str]:
        """Members that what is loaded refers to in its turn: they run in the same traversal."""
        out: list[str] = []
        todo = list(loaded)
        while todo:
            name = todo.pop()
            if name in self.moved:
                for other in sorted(equation_reads(self.renamed[name])):
                    if self.group_of.get(other) is g and other not in out:
                        out.append(other)
                        todo.append(other)
        return out

    def assemble(self, definitions: Definitions) -> list[Eq | Fold]:
        """Folds for traversals that need one, in dependence order; a member with permuted axes is a definition."""
        traversals: dict[tuple[str, int], list[str]] = {}
        for e in self.reductions:
            g = self.group_of[e.name]
            traversals.setdefault((g.members[0], self.level[e.name]), []).append(e.name)
        out: list[Eq | Fold] = []
        by_name = {e.name: e for e in self.reductions}
        permuted: Definitions = {}
        for (first, _), names in traversals.items():
            if len(names) == 1 and names[0] not in self.moved:
                out.append(by_name[names[0]])
                continue
            apart = self.apart(names)
            out += [by_name[name] for name in apart]
            out.append(self.fold(self.group_of[first], [n for n in names if n not in apart], permuted))
        if permuted:
            out = [_map_equation(e, lambda s: inline(s, permuted)) for e in out]
            for name, (outer, value) in list(definitions.items()):
                definitions[name] = (outer, inline(value, permuted))
            definitions |= permuted
        return in_order(out)

    def apart(self, names: Sequence[str]) -> list[str]:
        """Reductions of a traversal that lack an axis which every reference has: they are not computed per row."""
        axes = [set(eq.outer) for name in names for eq, m in self.members(name) if m.refs]
        needed = set.intersection(*axes) if axes else set()
        used = {x for n in names if n in self.moved for x in equation_reads(self.renamed[n])}
        return [n for n in names if n not in self.moved and n not in used and not needed <= set(self.renamed[n].outer)]

    def fold(self, g: Group, names: Sequence[str], permuted: Definitions) -> Fold:
        members = [pair for name in names for pair in self.members(name)]
        first = members[0][0]
        shared = tuple(a for a in first.outer if all(a in eq.outer for eq, _ in members))
        done = []
        for eq, m in members:
            outer = (*shared, *(a for a in eq.outer if a not in shared))
            done.append((eq, replace(m, outer=outer)))
        domain = either(*(m.domain for _, m in done)) if all(m.domain is not TRUE for _, m in done) else TRUE
        if not domain.vars() <= {g.axis, *(v for v, _ in shared)}:
            domain = TRUE  # members over different rows: each keeps its own domain
        fold = Fold(self.names.fresh("fold"), (g.axis, g.extent), shared, domain, tuple(m for _, m in done))
        new: dict[str, tuple[str, tuple[int, ...]]] = {}  # name -> its new name, and the order of its axes
        for eq, m in done:
            order = tuple(eq.outer.index(a) for a in m.outer)
            if order != tuple(range(len(order))):
                name = self.names.fresh(m.name)
                new[m.name] = (name, order)
                new |= {m.state(k): (f"{name}#{k}", order) for k in range(m.width)}
                index = tuple(var(v) for v, _ in m.outer)
                permuted[m.name] = (tuple(v for v, _ in eq.outer), load(name, index))
        return _with_order(fold, new) if new else fold


def _map_equation(e: Eq | Fold, f: Callable[[Scalar], Scalar]) -> Eq | Fold:
    if isinstance(e, Eq):
        return replace(e, pieces=tuple((map_cond(c, lambda p: p, f), f(s)) for c, s in e.pieces))
    own = {m.name for m in e.members} | {m.state(k) for m in e.members for k in range(m.width)}

    def outside(s: Scalar) -> Scalar:
        return map_scalar(s, lambda x: f(x) if x.op == "load" and x.args[0] not in own else None)

    return replace(e, members=tuple(_map_member(m, outside) for m in e.members))


def _map_member(m: Member, f: Callable[[Scalar], Scalar]) -> Member:
    pieces = tuple((map_cond(c, lambda p: p, f), tuple(f(s) for s in b)) for c, b in m.pieces)
    move = tuple(tuple(f(s) for s in row) for row in m.move)
    return replace(m, pieces=pieces, refs=tuple(f(r) for r in m.refs), move=move, finish=f(m.finish))


def _with_order(fold: Fold, new: Mapping[str, tuple[str, tuple[int, ...]]]) -> Fold:
    """The fold with members under new names, their axes in a new order; what loads them inside is rewritten."""

    def node(s: Scalar) -> Scalar | None:
        if s.op != "load" or s.args[0] not in new:
            return None
        name, order = new[s.args[0]]
        index: Index = s.args[1]
        return load(name, tuple(index[k] for k in order))

    members = tuple(_map_member(m, lambda s: map_scalar(s, node)) for m in fold.members)
    return replace(fold, members=tuple(replace(m, name=new[m.name][0] if m.name in new else m.name) for m in members))


def reads_of(e: Eq | Fold) -> frozenset[str]:
    if isinstance(e, Eq):
        return equation_reads(e)
    own = {m.name for m in e.members} | {m.state(k) for m in e.members for k in range(m.width)}
    out: set[str] = set()
    for m in e.members:
        pieces = tuple((c, s) for c, b in m.pieces for s in b)
        rest = tuple((TRUE, s) for s in (*m.refs, *(x for row in m.move for x in row), m.finish))
        out |= equation_reads(Eq(m.name, "map", m.outer, pieces + rest, domain=m.domain))
    return frozenset(out - own)


def defines(e: Eq | Fold) -> tuple[str, ...]:
    return (e.name,) if isinstance(e, Eq) else tuple(m.name for m in e.members)


def in_order(equations: Sequence[Eq | Fold]) -> list[Eq | Fold]:
    """The equations in dependence order, otherwise as they stand."""
    missing = {name for e in equations for name in defines(e)}
    todo, out = list(equations), []
    while todo:
        ready = next((e for e in todo if not (reads_of(e) & missing) - set(defines(e))), None)
        assert ready is not None, "a cycle among equations"
        todo.remove(ready)
        out.append(ready)
        missing -= set(defines(ready))
    return out
