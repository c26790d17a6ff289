"""Sharing is naming: which sub-expressions of the fully inlined system become Maps.

It is a function of the whole inlined system, never a sequence of steps, so the order in which rules fired before does
not matter. From the roots down, a scalar sub-expression that costs arithmetic is named iff its set of uses (equation
and index tuple) differs from that of the expression around it, or it has fewer index variables than the equation it
stands in. What has no index variable is left in place: it is evaluated once a call.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass, field, replace

from moa.naming.steps import at_steps, of_one_step, without_steps
from moa.normal import (
    TRUE,
    Axis,
    Cond,
    Eq,
    Fold,
    Member,
    Normal,
    Recurrence,
    Scalar,
    cond_loads,
    cond_scalars,
    load,
    loads,
    map_scalar,
    rename,
)
from moa.ops import OPERATORS
from moa.poly import Poly, var

Use = tuple[str, tuple[str, ...]]


def cost(s: Scalar) -> bool:
    """Whether the expression contains arithmetic on values that have index variables."""
    if not s.vars():
        return False
    if s.op in OPERATORS and OPERATORS[s.op].flops:
        return True
    inner = cond_scalars(s.args[0]) if s.op == "select" else ()
    return any(cost(x) for x in (*s.operands, *inner))


def variables(s: Scalar) -> tuple[str, ...]:
    """The index variables of a scalar in the order in which its text has them."""
    out: dict[str, None] = {}

    def poly_vars(p: Poly) -> None:
        for m, _ in p.terms:
            for a in m:
                if a.kind == "var":
                    out[a.name] = None
                for x in a.args:
                    if isinstance(x, Poly):
                        poly_vars(x)
                    else:
                        cond_vars(x)

    def cond_vars(c: Cond) -> None:
        for x in c.args:
            match x:
                case Poly():
                    poly_vars(x)
                case Cond():
                    cond_vars(x)
                case Scalar():
                    walk(x)
                case tuple():
                    for p in x:
                        poly_vars(p)

    def walk(x: Scalar) -> None:
        match x.op:
            case "int":
                poly_vars(x.args[0])
            case "load":
                for p in x.args[1]:
                    poly_vars(p)
            case "select":
                cond_vars(x.args[0])
        for y in x.operands:
            walk(y)

    walk(s)
    return tuple(out)


def template(s: Scalar) -> tuple[Scalar, tuple[str, ...]]:
    """The scalar with its variables numbered in order of appearance, and the variables."""
    names = variables(s)
    return rename(s, {v: var(f"#{k}") for k, v in enumerate(names)}), names


@dataclass(slots=True)
class _Site:
    """A root scalar, the equation it belongs to and that equation's axes."""

    equation: str
    axes: tuple[Axis, ...]
    root: Scalar


@dataclass(slots=True)
class _Namer:
    normal: Normal
    taken: set[str]
    uses: dict[Scalar, set[Use]] = field(default_factory=dict)
    named: dict[Scalar, str] = field(default_factory=dict)
    maps: list[Eq] = field(default_factory=list)

    def record(self, site: _Site) -> None:
        seen: set[Scalar] = set()

        def walk(s: Scalar) -> None:
            if s in seen:
                return
            seen.add(s)
            if cost(s):
                key, names = template(s)
                self.uses.setdefault(key, set()).add((site.equation, names))
            for x in children(s):
                walk(x)

        walk(site.root)

    def rewrite(self, site: _Site) -> Scalar:
        """The root with the sub-expressions that deserve it named."""
        extents = dict(site.axes)
        memo: dict[tuple[Scalar, frozenset[str]], Scalar] = {}

        def walk(s: Scalar, around: frozenset[Use], owner: frozenset[str]) -> Scalar:
            if not cost(s):
                return s
            key, names = template(s)
            equations = {e for e, _ in self.uses[key]}
            mine = frozenset(self.uses[key])
            shared = {(e, ()) for e in equations} != {(e, ()) for e, _ in around} or len(mine) != len(around)
            if shared or set(names) < owner:
                return load(self.name(key, names, extents, mine), (var(v) for v in names))
            found = memo.get((s, owner))
            if found is None:
                found = memo[(s, owner)] = descend(s, mine, owner)
            return found

        def descend(s: Scalar, around: frozenset[Use], owner: frozenset[str]) -> Scalar:
            done = {x: walk(x, around, owner) for x in children(s)}
            return rebuild(s, done)

        names = variables(site.root)
        around: frozenset[Use] = frozenset({(site.equation, names)})
        return walk(site.root, around, frozenset(extents))

    def name(self, key: Scalar, names: tuple[str, ...], extents: dict[str, Poly], mine: frozenset[Use]) -> str:
        """The name of the Map for a template; it is made, with what it shares inside, at the first use."""
        if key in self.named:
            return self.named[key]
        k = len(self.named)
        while f"t{k}" in self.taken:
            k += 1
        name = self.named[key] = f"t{k}"
        self.taken.add(name)
        body = rename(key, {f"#{j}": var(v) for j, v in enumerate(names)})
        owner = frozenset(names)

        def walk(s: Scalar, around: frozenset[Use]) -> Scalar:
            if not cost(s):
                return s
            inner, inner_names = template(s)
            uses = frozenset(self.uses[inner])
            if len(uses) != len(around) or {e for e, _ in uses} != {e for e, _ in around} or set(inner_names) < owner:
                return load(self.name(inner, inner_names, extents, uses), (var(v) for v in inner_names))
            return rebuild(s, {x: walk(x, uses) for x in children(s)})

        done = {x: walk(x, mine) for x in children(body)}
        self.maps.append(Eq(name, "map", tuple((v, extents[v]) for v in names), ((TRUE, rebuild(body, done)),)))
        return name


def children(s: Scalar) -> tuple[Scalar, ...]:
    """Operands, and for a select the scalars its condition compares."""
    return (*cond_scalars(s.args[0]), *s.operands) if s.op == "select" else s.operands


def rebuild(s: Scalar, done: dict[Scalar, Scalar]) -> Scalar:
    """s with its children replaced."""
    if not done or all(k is v for k, v in done.items()):
        return s
    from moa.normal import apply, choose, map_cond

    if s.op == "select":
        c = map_cond(s.args[0], lambda p: p, lambda x: done.get(x, x))
        return choose(c, done[s.args[1]], done[s.args[2]])
    return apply(s.op, *(done[x] for x in s.operands))


def with_references(fold: Fold, member: Member) -> tuple[tuple[Cond, tuple[Scalar, ...]], ...]:
    """The pieces of a member with each new reference as a load of its name (see `Fold.references`)."""
    names = fold.references()

    def node(x: Scalar) -> Scalar | None:
        if x.op == "ref":
            assert x.args[1] == "new", "a piece uses new references only"
            r = member.refs[x.args[0]]
            return load(names[r], (var(v) for v, _ in fold.reference_axes(r)))
        return None

    return tuple((c, tuple(map_scalar(b, node) for b in basis)) for c, basis in member.pieces)


def name(normal: Normal) -> Normal:
    """The system with shared sub-expressions as Maps, in dependence order; see the head of this file."""
    folds = {e.name: e for e in normal.equations if isinstance(e, Fold)}
    equations: list[Eq | Fold] = []
    for e in normal.equations:
        if isinstance(e, Fold):
            e = replace(e, members=tuple(replace(m, pieces=with_references(e, m)) for m in e.members))
        equations.append(e)
    taken = {p.name for p in normal.inputs}
    for e in equations:
        taken |= {e.name} | ({m.name for m in e.members} if isinstance(e, Fold) else set())
    carried = [at_steps(r) for r in normal.recurrences if r.readers]
    taken |= {c.name for r in carried for c in r.components}
    taken |= {e.name for r in carried for e in (*r.maps, *r.readers)}
    namer = _Namer(normal, taken)
    for e in equations:
        for site in sites(e):
            namer.record(site)
    for r in carried:
        for site in step_sites(r):
            namer.record(site)
    out: list[Eq | Fold] = []
    for e in equations:
        out.append(_rewritten(e, namer))
    steps = [_named_steps(r, namer) for r in carried]
    done = {r.name: _with_maps(r, namer.maps) for r in steps}
    local = {n for f in folds.values() for n in f.references().values()}
    local |= {n for r in carried for n in of_one_step(r)}
    placed = ordered(out, namer.maps, local, {a for r in done.values() for a in _reads_of_steps(r)})
    recurrences = tuple(done.get(r.name, r) for r in normal.recurrences)
    return replace(normal, equations=placed, recurrences=recurrences)


def sites(e: Eq | Fold) -> Iterator[_Site]:
    if isinstance(e, Fold):
        for m in e.members:
            for _, basis in m.pieces:
                for b in basis:
                    yield _Site(m.name, (*m.outer, e.axis), b)
        return
    axes = (*e.outer, e.red) if e.red is not None else e.outer
    for _, s in e.pieces:
        yield _Site(e.name, axes, s)


# Recurrences with readers ---------------------------------------------------------------------------------------------


def _reads_of_steps(r: Recurrence) -> set[str]:
    scalars = [x for c in r.components for x in (c.start, c.body)]
    return {a for s in scalars for a, _ in loads(s)}.union(*(reads(e) for e in (*r.maps, *r.readers)))


def step_sites(r: Recurrence) -> Iterator[_Site]:
    for c in r.components:
        yield _Site(c.name, (*c.outer, r.axis), c.body)
    for e in (*r.maps, *r.readers):
        yield from sites(e)


def _named_steps(r: Recurrence, namer: _Namer) -> Recurrence:
    components = tuple(replace(c, body=namer.rewrite(_Site(c.name, (*c.outer, r.axis), c.body))) for c in r.components)
    maps, readers = (tuple(_named_equation(e, namer) for e in x) for x in (r.maps, r.readers))
    return replace(r, components=components, maps=maps, readers=readers)


def _with_maps(r: Recurrence, maps: list[Eq]) -> Recurrence:
    """The recurrence with the Maps among `maps` that read its states or its own maps, in dependence order."""
    mine = {e.name: e for e in r.maps}
    known = of_one_step(r)
    for e in maps:
        if any(a in known for a, _ in loads(e.body)):
            mine[e.name] = e
            known.add(e.name)
    out: dict[str, Eq] = {}

    def visit(e: Eq) -> None:
        for a in sorted(reads(e)):
            if a in mine and a not in out:
                visit(mine[a])
        out[e.name] = e

    for e in mine.values():
        if e.name not in out:
            visit(e)
    return without_steps(replace(r, maps=tuple(out.values())))


def _named_equation(e: Eq, namer: _Namer) -> Eq:
    axes = (*e.outer, e.red) if e.red is not None else e.outer
    return replace(e, pieces=tuple((c, namer.rewrite(_Site(e.name, axes, s))) for c, s in e.pieces))


def _rewritten(e: Eq | Fold, namer: _Namer) -> Eq | Fold:
    if isinstance(e, Eq):
        return _named_equation(e, namer)
    members = []
    for m in e.members:
        axes = (*m.outer, e.axis)
        pieces = tuple((c, tuple(namer.rewrite(_Site(m.name, axes, b)) for b in basis)) for c, basis in m.pieces)
        members.append(replace(m, pieces=pieces))
    return replace(e, members=tuple(members))


def reads(e: Eq | Fold) -> set[str]:
    """The names of all arrays an equation loads."""
    out: set[str] = set()
    if isinstance(e, Eq):
        for c, s in ((e.domain, None), *e.pieces):
            out |= {a for a, _ in cond_loads(c)} | ({a for a, _ in loads(s)} if s is not None else set())
        return out
    own = {m.state(k) for m in e.members for k in range(m.width)} | {m.name for m in e.members}
    own |= set(e.references().values()) | {x.name for x in e.maps}
    for x in e.maps:
        out |= reads(x)
    for m in e.members:
        out |= {a for a, _ in cond_loads(m.domain)}
        for c, basis in m.pieces:
            out |= {a for a, _ in cond_loads(c)}
            for b in basis:
                out |= {a for a, _ in loads(b)}
        for r in (*m.refs, m.finish):
            out |= {a for a, _ in loads(r)}
    return out - own


def ordered(
    equations: list[Eq | Fold], maps: list[Eq], references: set[str], wanted: Set[str] = frozenset()
) -> tuple[Eq | Fold, ...]:
    """All equations and what they read, in dependence order; Maps that load a reference move into their Fold.

    wanted   names of Maps that something else reads
    """
    inside: dict[str, Eq] = {}
    for x in maps:  # in order of creation: what a Map names inside comes before it
        if any(a in references or a in inside for a, _ in loads(x.body)):
            inside[x.name] = x
    placed: list[Eq | Fold] = []
    for e in equations:
        if isinstance(e, Fold):
            mine = set(e.references().values())
            local: dict[str, Eq] = {}
            for x in inside.values():
                if any(a in mine or a in local for a, _ in loads(x.body)):
                    local[x.name] = x
            e = replace(e, maps=tuple(local.values()))
        placed.append(e)
    todo: list[Eq | Fold] = [*(e for e in maps if e.name not in inside), *placed]
    defines = {d: e for e in todo for d in ((m.name for m in e.members) if isinstance(e, Fold) else (e.name,))}
    out: list[Eq | Fold] = []
    seen: set[int] = set()

    def visit(e: Eq | Fold) -> None:
        if id(e) in seen:
            return
        seen.add(id(e))
        for a in sorted(reads(e)):
            if a in defines:
                visit(defines[a])
        out.append(e)

    for e in todo:
        if e.name in wanted or e.name in {x.name for x in placed}:
            visit(e)
    return tuple(out)


def inline(normal: Normal) -> Normal:
    """The system with every named Map that is not an output put back where it is used: the inverse of `name`."""
    outputs = {*normal.outputs, *normal.stored}
    bodies: dict[str, Eq] = {}

    def put(s: Scalar) -> Scalar:
        def node(x: Scalar) -> Scalar | None:
            if x.op == "load" and x.args[0] in bodies:
                e = bodies[x.args[0]]
                return rename(e.body, {v: p for (v, _), p in zip(e.outer, x.args[1], strict=True)})
            return None

        return map_scalar(s, node)

    out: list[Eq | Fold] = []
    for e in normal.equations:
        if isinstance(e, Eq):
            e = replace(e, pieces=tuple((c, put(s)) for c, s in e.pieces))
            if e.kind == "map" and e.name not in outputs:
                bodies[e.name] = e
            else:
                out.append(e)
            continue
        for x in e.maps:
            bodies[x.name] = replace(x, pieces=((TRUE, put(x.body)),))
        back = {load(n, (var(v) for v, _ in e.reference_axes(r))): r for r, n in e.references().items()}
        members = []
        for m in e.members:
            mine = {x: Scalar("ref", (m.refs.index(r), "new")) for x, r in back.items() if r in m.refs}
            pieces = tuple((c, tuple(map_scalar(put(b), mine.get) for b in basis)) for c, basis in m.pieces)
            members.append(replace(m, pieces=pieces))
        out.append(replace(e, members=tuple(members), maps=()))
    return replace(normal, equations=tuple(out))


def flops(s: Scalar) -> int:
    """Floating-point operations of one evaluation; what has no index variable is free."""
    seen: set[Scalar] = set()

    def walk(x: Scalar) -> int:
        if x in seen or not x.vars():
            return 0
        seen.add(x)
        own = OPERATORS[x.op].flops if x.op in OPERATORS else 0
        return own + sum(walk(y) for y in children(x))

    return walk(s)
