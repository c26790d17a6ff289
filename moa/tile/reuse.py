"""Sharing storage: a tile that is read for the last time where another is written takes that one's place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from moa.normal import Index, Scalar, load, loads, map_scalar
from moa.tiles import Loop, Map, Nest, Phase, Reduce, Sift, TileStmt, When, nests, statements


def reuse(phase: Phase) -> Phase:
    """The phase with in-place maps: `e[j, i] = f(s[j, i])` writes over s where nothing reads s afterwards."""
    names: dict[str, str] = {}
    _visit(phase.body, phase, names, frozenset())
    if not names:
        return phase

    def final(n: str) -> str:
        while n in names:
            n = names[n]
        return n

    tiles = tuple(t for t in phase.tiles if t.name not in names)
    return replace(phase, tiles=tiles, body=tuple(_renamed(s, final) for s in phase.body))


def inner(phase: Phase) -> Phase:
    """The phase with tiles that every nest writes before it reads them, at one index, as values of their blocks."""
    found = list(nests(phase.body))
    tiles = tuple(
        replace(t, space="block") if t.space == "scratch" and all(_own(x, t.name) for x in found) else t
        for t in phase.tiles
    )
    return replace(phase, tiles=tiles)


def _own(nest: Nest, name: str) -> bool:
    """Whether a nest reads a tile only after it wrote it, where it wrote it."""
    index: Index | None = None
    names = {nest.lane, *(a for a, _ in nest.loops)}
    for s in nest.statements:
        if any(a == name and i != index for a, i in loads(s.value)):
            return False
        if s.target.args[0] == name:
            crossing = isinstance(s, Reduce) and not names.isdisjoint(s.over)
            starts = isinstance(s, Map) or s.fresh
            if crossing or (index is None and not starts) or index not in (None, s.target.args[1]):
                return False
            index = s.target.args[1]
    return True


def _visit(body: tuple[TileStmt, ...], phase: Phase, names: dict[str, str], after: frozenset[str]) -> None:
    """Looks for in-place maps; `after` are the arrays read after this body (in loops: by the next round too)."""
    for k, x in enumerate(body):
        later = after | frozenset(_reads(body[k + 1 :]))
        match x:
            case Loop():
                start = frozenset(_read_first(x.body))
                _visit(x.body, phase, names, later | start)
            case When():
                _visit(x.body, phase, names, later)
                _visit(x.other, phase, names, later)
            case Sift():
                _visit(x.every, phase, names, later)
                _visit(x.some, phase, names, later)
            case Nest():
                _nest(x, phase, names, later)


def _nest(nest: Nest, phase: Phase, names: dict[str, str], later: frozenset[str]) -> None:
    for k, st in enumerate(nest.statements):
        if not isinstance(st, Map):
            continue
        target = phase.tile(st.target.args[0])
        if target is None or target.name in names or target.space == "block":
            continue
        rest = set(later)
        for other in nest.statements[k + 1 :]:
            rest |= {a for a, _ in loads(other.value)}
        for array, index in loads(st.value):
            old = phase.tile(array)
            if old is None or old.space == "block" or array == target.name or array in rest:
                continue
            if (old.axes, old.pairs) != (target.axes, target.pairs):
                continue
            if index != st.target.args[1] or array in names or array in names.values():
                continue
            everywhere = [i for a, i in loads(st.value) if a == array]
            written_here = any(o.target.args[0] == array for o in nest.statements)
            if len(everywhere) == 1 and not written_here and _written_once(phase.body, target.name, array):
                names[target.name] = array
                break


def _written_once(body: Iterable[TileStmt], name: str, old: str) -> bool:
    """Whether every statement that writes `name` is a Map that reads `old` at the same index, and no other reads it."""
    return all(
        s.target.args[0] != name or (isinstance(s, Map) and (old, s.target.args[1]) in loads(s.value))
        for s in statements(body)
    )


def _reads(body: Iterable[TileStmt]) -> set[str]:
    out: set[str] = set()
    for s in statements(body):
        out |= {a for a, _ in loads(s.value)}
        if isinstance(s, Reduce) and not s.fresh:
            out.add(s.target.args[0])
    return out


def _read_first(body: Iterable[TileStmt]) -> set[str]:
    """Arrays that a round of a loop reads before it writes them."""
    out: set[str] = set()
    written: set[str] = set()
    for s in statements(body):
        out |= {a for a, _ in loads(s.value)} - written
        if isinstance(s, Reduce) and not s.fresh:
            out |= {s.target.args[0]} - written
        written.add(s.target.args[0])
    return out


def _renamed(s: TileStmt, final: object) -> TileStmt:
    assert callable(final)

    def scalar(x: Scalar) -> Scalar:
        return map_scalar(x, lambda y: load(final(y.args[0]), y.args[1]) if y.op == "load" else None)

    match s:
        case Loop():
            return replace(s, body=tuple(_renamed(x, final) for x in s.body))
        case When():
            return replace(
                s, body=tuple(_renamed(x, final) for x in s.body), other=tuple(_renamed(x, final) for x in s.other)
            )
        case Sift():
            return replace(
                s, every=tuple(_renamed(x, final) for x in s.every), some=tuple(_renamed(x, final) for x in s.some)
            )
        case Nest():
            return replace(
                s,
                statements=tuple(replace(x, target=scalar(x.target), value=scalar(x.value)) for x in s.statements),
            )
