"""Stream groups: which reductions run over the same axis, and in how many traversals.

Two reductions belong together when one loads the other at indices free of its own reduced axis, or both load the same
reduction in the same pattern; their extents are equal and their domains may differ. Index variables are unified along
the way, so that a group has one name for every axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cache

from moa.laws.algebra import cond_reads
from moa.normal import Eq, Index, cond_loads, loads, rename, rename_cond
from moa.poly import Poly, var

Variable = tuple[str, str]  # an equation and one of its index variables
Traversal = tuple[str, int]  # a group, by its first member, and which of its traversals


@dataclass(frozen=True, slots=True)
class Group:
    """Reductions over one axis. `names` gives, per member, what each of its own index variables is called in it."""

    members: tuple[str, ...]
    axis: str
    extent: Poly
    names: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]

    def variables(self, member: str) -> dict[str, str]:
        return dict(dict(self.names)[member])

    def rename(self, e: Eq) -> Eq:
        """A member in the variables of the group."""
        own = self.variables(e.name)
        new = {v: var(w) for v, w in own.items()}
        assert e.red is not None
        return replace(
            e,
            outer=tuple((own[v], p) for v, p in e.outer),
            red=(own[e.red[0]], e.red[1]),
            domain=rename_cond(e.domain, new),
            pieces=tuple((rename_cond(c, new), rename(s, new)) for c, s in e.pieces),
        )


@cache
def equation_loads(e: Eq) -> tuple[tuple[str, Index], ...]:
    """(array, index) of everything an equation reads."""
    out: dict[tuple[str, Index], None] = dict.fromkeys(cond_loads(e.domain))
    for c, s in e.pieces:
        out |= dict.fromkeys(cond_loads(c)) | dict.fromkeys(loads(s))
    return tuple(out)


@cache
def equation_reads(e: Eq) -> frozenset[str]:
    return frozenset(name for name, _ in equation_loads(e)) | cond_reads(e.domain)


class Unification:
    """Which index variables are one: union-find; a class holds at most one variable of an equation."""

    def __init__(self, equations: Sequence[Eq]) -> None:
        self.parent: dict[Variable, Variable] = {}
        self.members: dict[Variable, list[Variable]] = {}
        for e in equations:
            for v, _ in (*e.outer, *((e.red,) if e.red else ())):
                self.parent[(e.name, v)] = (e.name, v)
                self.members[(e.name, v)] = [(e.name, v)]

    def find(self, x: Variable) -> Variable:
        while self.parent[x] != x:
            x = self.parent[x]
        return x

    def join(self, pairs: Iterable[tuple[Variable, Variable]]) -> bool:
        """Unify all pairs, or none of them if two variables of one equation would become one."""
        saved = dict(self.parent), {k: list(v) for k, v in self.members.items()}
        for a, b in pairs:
            x, y = self.find(a), self.find(b)
            if x == y:
                continue
            if {e for e, _ in self.members[x]} & {e for e, _ in self.members[y]}:
                self.parent, self.members = saved
                return False
            self.parent[y] = x
            self.members[x] += self.members.pop(y)
        return True


def _plain(index: Index) -> tuple[str, ...] | None:
    """The names of the variables of an index that is distinct plain variables, else None."""
    names = [p.as_var() for p in index]
    found = tuple(n for n in names if n is not None)
    return found if len(found) == len(names) == len(set(found)) else None


def find_groups(reductions: Sequence[Eq]) -> tuple[Group, ...]:
    """The groups of a system of reductions, singles included, in order of their first member."""
    by_name = {e.name: e for e in reductions}
    union = Unification(reductions)
    patterns: dict[tuple[str, int], list[tuple[Eq, tuple[str, ...]]]] = {}
    for a in reductions:
        assert a.red is not None
        for name, index in equation_loads(a):
            b, at = by_name.get(name), _plain(index)
            if b is None or at is None or "i" in (a.dtype, b.dtype):  # integers are arrays of their own
                continue
            assert b.red is not None
            if a.red[0] in at:
                patterns.setdefault((name, at.index(a.red[0])), []).append((a, at))
            elif a.red[1] == b.red[1]:
                outer = [((a.name, v), (b.name, w)) for v, (w, _) in zip(at, b.outer, strict=True)]
                union.join([((a.name, a.red[0]), (b.name, b.red[0])), *outer])
    for users in patterns.values():
        (first, at), *rest = users
        for other, its in rest:
            assert first.red is not None and other.red is not None
            if first.name != other.name and first.red[1] == other.red[1]:
                union.join([((first.name, v), (other.name, w)) for v, w in zip(at, its, strict=True)])
    classes: dict[Variable, list[Eq]] = {}
    for e in reductions:
        assert e.red is not None
        classes.setdefault(union.find((e.name, e.red[0])), []).append(e)
    return tuple(_group(members, union) for members in classes.values())


def _group(members: list[Eq], union: Unification) -> Group:
    called: dict[Variable, str] = {}
    used: set[str] = set()
    names = []
    for e in members:
        assert e.red is not None
        own = []
        for v, _ in (*e.outer, e.red):
            root = union.find((e.name, v))
            if root not in called:
                name, k = v, 0
                while name in used:
                    name, k = f"{v}{k}", k + 1
                called[root] = name
                used.add(name)
            own.append((v, called[root]))
        names.append((e.name, tuple(own)))
    first = members[0]
    assert first.red is not None
    return Group(tuple(e.name for e in members), dict(names[0][1])[first.red[0]], first.red[1], tuple(names))


def levels(
    equations: Sequence[Eq],
    groups: Sequence[Group],
    joins: Callable[[Group, Eq, Sequence[str]], bool] = lambda g, e, names: False,
) -> dict[str, int]:
    """In which traversal of its group, from 1, every reduction runs.

    A member runs after every member that it depends on, through other equations too; `joins(group, member, names)`
    says whether it can share the traversal of the members `names` that it loads. No traversal waits for itself, by
    way of those of other groups.
    """
    group_of = {name: g for g in groups for name in g.members}
    after: dict[str, dict[str, int]] = {}  # equation -> group (by first member) -> first traversal that may use it
    out: dict[str, int] = {}
    needs: dict[str, set[Traversal]] = {}  # equation -> the traversals whose members it reads
    waits: dict[Traversal, set[Traversal]] = {}
    for e in equations:
        first: dict[str, int] = {}
        own = group_of.get(e.name)
        direct: list[str] = []
        needed: set[Traversal] = set()
        for name in sorted(equation_reads(e)):
            if name in out:
                needed.add((group_of[name].members[0], out[name]))
            else:
                needed |= needs.get(name, set())
            if own is not None and group_of.get(name) is own:
                direct.append(name)
                continue
            for g, level in after.get(name, {}).items():
                first[g] = max(first.get(g, 1), level)
        for name in direct:
            for g, level in after[name].items():
                if own is None or g != own.members[0]:
                    first[g] = max(first.get(g, 1), level)
        if own is not None:
            here = own.members[0]
            level = first.get(here, 1)
            top = max((out[name] for name in direct), default=0)
            level = max(level, top)
            level = _free(here, level, needed, waits)
            if level == top and not joins(own, e, [name for name in direct if out[name] == top]):
                level = _free(here, top + 1, needed, waits)
            out[e.name] = level
            waits.setdefault((here, level), set()).update(needed - {(here, level)})
            first[here] = level + 1
        needs[e.name] = needed
        after[e.name] = first
    return out


def _free(here: str, level: int, needed: Set[Traversal], waits: Mapping[Traversal, set[Traversal]]) -> int:
    """The first traversal of a group, from a level on, that none of those it needs has to wait for."""
    while (here, level) in _waited_for(needed - {(here, level)}, waits):
        level += 1
    return level


def _waited_for(start: Iterable[Traversal], waits: Mapping[Traversal, set[Traversal]]) -> set[Traversal]:
    """These traversals, and all that have to be done before them."""
    todo, out = list(start), set(start)
    while todo:
        new = waits.get(todo.pop(), set()) - out
        out |= new
        todo += new
    return out


def passes_of(groups: Sequence[Group], level: Mapping[str, int]) -> tuple[int, ...]:
    """The number of traversals of every group."""
    return tuple(max(level[name] for name in g.members) for g in groups)
