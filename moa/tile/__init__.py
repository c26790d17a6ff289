"""Tile: Normal -> Tiles. Splits axes, places every value, orders the statements of each work item.

Which equations are arrays in memory is found by trying: outputs are; whatever else a phase cannot hold as a tile of
its work item (`NeedStore`) becomes one, with a phase of its own, and the attempt starts again.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from moa.laws.group import equation_loads
from moa.naming import reads
from moa.normal import TRUE, Axis, Eq, Fold, Index, Member, Normal, Recurrence, Scalar, load, loads, rename
from moa.poly import Poly, product, var
from moa.tile.formulas import fold_uses
from moa.tile.independent import foreign
from moa.tile.order import whole_phase
from moa.tile.phase import PhaseBuilder, Target
from moa.tile.plan import NeedStore, Plan, ends
from moa.tile.reuse import inner, reuse
from moa.tile.strategy import Strategy
from moa.tiles import Phase, Tiles

__all__ = ["Plan", "Strategy", "made_again", "planned", "tile"]


def tile(normal: Normal, strategy: Strategy) -> Tiles:
    """The tiles of a named Normal for one strategy."""
    return planned(normal, strategy)[1]


def made_again(plan: Plan) -> tuple[tuple[str, Poly, Poly, int], ...]:
    """The sums that several phases make: their names, how many elements they have, of how many terms, how often."""
    found = []
    for name, phases in sorted(plan.reduced.items()):
        e = plan.equations[name]
        assert e.red is not None
        if len(phases) > 1 and e.dtype == "f":
            found.append((name, product(x for _, x in e.outer), e.red[1], len(phases)))
    return tuple(found)


def planned(normal: Normal, strategy: Strategy) -> tuple[Plan, Tiles]:
    """The tiles of a named Normal for one strategy, and the plan behind them."""
    stored = frozenset(strategy.stored)
    while True:
        plan = Plan(folded(normal, stored), strategy, stored)
        try:
            return plan, _attempt(plan)
        except NeedStore as need:
            assert need.name not in stored, f"{need.name} is stored already"
            stored |= {need.name}


def _attempt(plan: Plan) -> Tiles:
    """All phases, in dependence order: outputs that read the same folds share one."""
    phases: list[Phase] = []
    waiting: list[Eq] = []
    for e in _in_memory(plan):
        output = isinstance(e, Eq) and e.name in plan.normal.outputs
        if isinstance(e, Eq) and output and _joinable(plan, waiting, e):
            waiting.append(e)
            continue
        if waiting:
            phases.append(_phase(plan, len(phases), waiting))
            waiting = []
        if isinstance(e, Fold):
            phases.append(_fold_phase(plan, len(phases), e))
        elif isinstance(e, Recurrence):
            items = parallel(e)
            row = items[-1][0] if items and all(c.outer[-1] == items[-1] for c in e.components) else None
            phases.append(PhaseBuilder(plan, f"p{len(phases)}", items, row).recurrence(e))
        else:
            waiting = [e]
    if waiting:
        phases.append(_phase(plan, len(phases), waiting))
    arrays = tuple(plan.memory.values())

    def done(p: Phase) -> Phase:
        return reuse(p) if plan.strategy.warps else inner(reuse(inner(p)))

    hosts = tuple((name, s) for s, name in plan.hosts.items())
    for p in phases:
        assert not (found := list(foreign(p))), f"{p.name} reads what other items of it write: {found}"
    return Tiles(plan.normal.name, plan.normal.inputs, arrays, hosts, tuple(done(p) for p in phases))


def _in_memory(plan: Plan) -> list[Eq | Fold | Recurrence]:
    """What becomes arrays in memory, in dependence order."""
    normal = plan.normal
    makers: dict[str, Eq | Fold | Recurrence] = {}
    for e in normal.equations:
        for n in (m.name for m in e.members) if isinstance(e, Fold) else (e.name,):
            makers[n] = e
    for r in normal.recurrences:
        written = (plan.views[e.name].array if e.name in plan.views else e.name for e in r.readers)
        for n in (r.name, *(c.name for c in r.components), *written):
            makers[n] = r
    out: list[Eq | Fold | Recurrence] = []
    seen: set[str] = set()

    def visit(e: Eq | Fold | Recurrence) -> None:
        if e.name in seen:
            return
        seen.add(e.name)
        for n in sorted(_reads(e)):
            if n in makers:
                visit(makers[n])
        if isinstance(e, Recurrence) or e.name in plan.stored or e.name in normal.outputs:
            out.append(e)

    for name in normal.outputs:
        visit(makers[name])
    return out


def _reads(e: Eq | Fold | Recurrence) -> set[str]:
    if not isinstance(e, Recurrence):
        return reads(e)
    scalars = [s for c in e.components for s in (c.start, c.body)]
    scalars += [s for x in (*e.maps, *e.readers) for _, s in x.pieces]
    return {a for s in scalars for a, _ in loads(s)}


def parallel(r: Recurrence) -> tuple[Axis, ...]:
    """The axes of a recurrence along which its steps are independent: every state is read at its own position."""
    out: list[Axis] = []
    for k, axis in enumerate(r.components[0].outer):
        if not all(len(c.outer) > k and c.outer[k] == axis for c in r.components) or not _apart(r, k, axis):
            break
        out.append(axis)
    return tuple(out)


def _apart(r: Recurrence, k: int, axis: Axis) -> bool:
    """Whether the steps at each position along an axis, the k-th one of all states, read what is made there alone."""
    at = {c.state: k for c in r.components}
    at |= {c.name: r.kept(c).index(axis) for c in r.components if c.dtype != "f"}

    def where(e: Eq) -> set[str | None]:
        """The variables of an equation at which it reads along the axis."""
        return {index[at[a]].as_var() for a, index in equation_loads(e) if a in at}

    for e in r.maps:
        found = where(e)
        if found:
            own = [n for n, (v, x) in enumerate(e.outer) if {v} == found and x == axis[1]]
            if not own:
                return False
            at[e.name] = own[0]
    # whoever reads the states has the axis too, and does not reduce over a variable of that name
    readers = [e for e in r.readers if axis not in e.outer or not where(e) <= {axis[0]}]
    bodies = [Eq(c.name, "map", c.outer, ((TRUE, c.body),)) for c in r.components]
    return not readers and all(where(e) <= {axis[0]} for e in bodies)


def folded(normal: Normal, stored: Set[str] = frozenset()) -> Normal:
    """The system with each Reduce that reads a Reduce along its own axis as a fold of one member: it is streamed.

    stored  equations that are arrays in memory: a product with one of them needs no traversal of its own
    """
    reduces = {e.name: e for e in normal.equations if isinstance(e, Eq)}
    kept = {*stored, *normal.stored}

    def streams(e: Eq) -> bool:
        assert e.red is not None
        todo = [s for _, s in e.pieces]
        while todo:
            for array, index in loads(todo.pop()):
                inner = reduces.get(array)
                if inner is None or not any(e.red[0] in p.vars() for p in index):
                    continue
                if inner.kind == "reduce":
                    if array in kept and _product_column(e):
                        continue
                    return True
                at = {v: p for (v, _), p in zip(inner.outer, index, strict=True)}
                todo.append(rename(inner.body, at))
        return False

    out: list[Eq | Fold] = []
    for e in normal.equations:
        if isinstance(e, Eq) and e.kind == "reduce" and e.dtype == "f" and streams(e):
            out.append(as_fold(e))
        else:
            out.append(e)
    read = {
        a for e in out for a in (reads(e) if isinstance(e, Fold) else (a for _, s in e.pieces for a, _ in loads(s)))
    }
    return replace(normal, equations=tuple(only_references(e, read) if isinstance(e, Fold) else e for e in out))


def only_references(fold: Fold, read: set[str]) -> Fold:
    """The fold with extremes that serve as references alone marked: a NaN in them reaches the result without them."""
    members = tuple(
        replace(m, op=f"{m.op}_ref") if m.op in ("max", "min") and m.name not in read else m for m in fold.members
    )
    return replace(fold, members=members)


def as_fold(e: Eq) -> Fold:
    """A Reduce as a fold of one member without references. Every outer axis its whole body has is shared."""
    assert e.red is not None
    used: set[str] = set()
    for c, s in e.pieces:
        for x in (*c.vars(), *s.vars()):
            used.add(x)
    pieces = tuple((c, (s,)) for c, s in e.pieces)
    member = Member(e.name, e.outer, e.op, e.domain, pieces, (), (), load(f"{e.name}#0", e.index()))
    last = e.outer[-1:] if len(e.outer) > 1 and _product_column(e) else ()
    shared = tuple(a for a in e.outer if a not in last)
    return Fold(f"{e.name}.fold", e.red, shared, e.domain, (member,))


def _product_column(e: Eq) -> bool:
    """Whether the last outer axis is a column of a product: a factor of each piece is free of it."""
    v = e.outer[-1][0]

    def free(s: Scalar) -> bool:
        return s.op == "mul" and any(v not in x.vars() or free(x) for x in s.args)

    return all(free(s) for _, s in e.pieces) and v not in e.domain.vars()


def _joinable(plan: Plan, waiting: list[Eq], e: Eq) -> bool:
    """Whether two outputs can share a phase: they read the same folds over the same items."""
    if not waiting:
        return False
    first, second = _folds(plan, waiting[0]), _folds(plan, e)
    return bool(first) and first == second and not any(a in {w.name for w in waiting} for a, _ in loads(e.body))


def _folds(plan: Plan, e: Eq) -> set[str]:
    return {fold.name for _, s in e.pieces for fold, _, _ in fold_uses(plan, s)}


def _phase(plan: Plan, number: int, equations: list[Eq]) -> Phase:
    """The phase of one stored equation, or of several outputs that read the same folds."""
    first = equations[0]
    whole = whole_phase(plan, f"p{number}", first) if len(equations) == 1 else None
    if whole is not None:
        return whole
    mappings: dict[str, tuple[str, ...]] = {}
    items: tuple[Axis, ...] | None = None
    targets: list[Target] = []
    for e in equations:
        target, outer = _target(plan, e)
        names: dict[str, Poly] = {}
        for fold, member, index in fold_uses(plan, target.value):
            at = {v: p for (v, _), p in zip(member.outer, index, strict=True)}
            mapping = tuple(at[v].as_var() or "" for v, _ in fold.shared)
            own = {v for v, _ in outer}
            if len(set(mapping)) < len(mapping) or not set(mapping) <= own:
                raise NeedStore(fold.name)
            if e is first:
                here = tuple(a for a in outer if a[0] in mapping)
                if items is not None and {v for v, _ in items} != set(mapping):
                    raise NeedStore(fold.name)
                items = here
                mappings.setdefault(fold.name, mapping)
            else:
                for mine, theirs in zip(mapping, mappings[fold.name], strict=True):
                    if names.setdefault(mine, var(theirs)) != var(theirs):
                        raise NeedStore(fold.name)
        if e is not first:
            taken = {v for t in targets for p in t.index for v in p.vars()}
            for v, _ in outer:
                k = 0
                while v not in names and (f"{v}{k}" if k else v) in taken:
                    k += 1
                names.setdefault(v, var(f"{v}{k}" if k else v))
            target = Target(target.array, tuple(p.rename(names) for p in target.index), rename(target.value, names))
        targets.append(target)
    outer = _target(plan, first)[1]
    if items is None:
        items = outer[:-1] if len(outer) > 1 else outer
        if all(str(extent) in plan.strategy.short for _, extent in items):  # too few for vectors, and for threads
            items = outer
        return PhaseBuilder(plan, f"p{number}", items, _innermost(plan, items)).build(targets)
    return PhaseBuilder(plan, f"p{number}", items, _row(plan, first, items)).build(targets)


def _target(plan: Plan, e: Eq) -> tuple[Target, tuple[Axis, ...]]:
    """What a stored equation writes, and its axes. A stored Reduce is written through an equation of its own."""
    index: Index = e.index()
    if e.kind == "map":
        return Target(e.name, index, e.body), e.outer
    if e.dtype != "f":
        return Target(e.name, index, e.pieces[0][1], e), e.outer
    inner = f"{e.name}.r"
    plan.equations[inner] = replace(e, name=inner)
    return Target(e.name, index, load(inner, index)), e.outer


def _fold_phase(plan: Plan, number: int, fold: Fold) -> Phase:
    """The phase that stores the members of a fold."""
    builder = PhaseBuilder(plan, f"p{number}", fold.shared, _fold_row(plan, fold, fold.shared))
    done = builder.fold(fold, tuple(v for v, _ in fold.shared))
    targets = [
        Target(old.name, tuple(var(v) for v, _ in m.outer), m.finish)
        for old, m in zip(fold.members, done.members, strict=True)
    ]
    return builder.build(targets)


def _row(plan: Plan, e: Eq, items: tuple[Axis, ...]) -> str | None:
    """The item axis to tile: the one that most loads of the folds' loops do not have, so that they are shared."""
    for fold, member, index in fold_uses(plan, e.body if e.kind == "map" else e.pieces[0][1]):
        at = {v: p for (v, _), p in zip(member.outer, index, strict=True)}
        row = _fold_row(plan, fold, tuple((at[v].as_var() or "", x) for v, x in fold.shared))
        if row is not None:
            return row
    return _innermost(plan, items)


def _innermost(plan: Plan, items: tuple[Axis, ...]) -> str | None:
    """The innermost item axis, of those that are not short if there are any."""
    long = [v for v, extent in items if str(extent) not in plan.strategy.short]
    names = long or [v for v, _ in items]
    return names[-1] if names else None


def _fold_row(plan: Plan, fold: Fold, items: tuple[Axis, ...]) -> str | None:
    if not fold.shared:
        return None
    score: dict[str, int] = {v: 0 for v, _ in fold.shared}
    seen: set[tuple[str, Index]] = set()

    def walk(s: Scalar) -> None:
        for array, index in loads(s):
            if (array, index) in seen:
                continue
            seen.add((array, index))
            used = {v for p in index for v in p.vars()}
            if array in plan.memory:
                if fold.axis[0] in used:
                    for v in score:
                        score[v] += v not in used
            elif array in plan.equations:
                e = plan.equations[array]
                at = {v: p for (v, _), p in zip(e.outer, index, strict=True)}
                if e.red is not None:
                    at[e.red[0]] = var(f"{e.red[0]}'")  # bound in there: not the fold's axis of that name
                for _, body in e.pieces:
                    walk(rename(body, at))

    for m in fold.members:
        for _, basis in m.pieces:
            for b in basis:
                walk(b)
    ended = {v for c in ends(fold.domain, fold.axis[0], set(score)) for v in c.vars()}  # where an item ends is its own
    found = [k for k in range(len(items)) if fold.shared[k][0] not in ended]
    if not any(score.values()) and any(len(m.outer) > len(fold.shared) + 1 for m in fold.members):
        return None  # rows would share no load, and states that are matrices have lanes and blocks of their own
    best = max((score[fold.shared[k][0]] for k in found), default=0)
    found = [k for k in found if score[fold.shared[k][0]] == best]
    found = [k for k in found if str(fold.shared[k][1]) not in plan.strategy.short] or found
    back = plan.strategy.row if best else 0  # where nothing is shared, the innermost has what is nearest in memory
    return items[found[max(0, len(found) - 1 - back)]][0] if found else None
