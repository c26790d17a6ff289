"""Words: what a system of equations moves through memory, phase by phase.

Arrays in memory are inputs, outputs, what is stored in between, and what recurrences keep. Each is written once, and
read once by every phase that needs it: a stored array, an output and a recurrence each have a phase of their own, but
for those that one traversal makes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass

from moa.laws.algebra import reads
from moa.laws.assemble import defines, reads_of
from moa.normal import Axis, Eq, Fold, Normal, Recurrence
from moa.poly import Poly, const, product
from moa.tile import parallel


def memory_words(normal: Normal) -> tuple[Poly, tuple[Poly, Poly]]:
    """(words through memory, (words held in recurrences from step to step, words touched in all steps together))."""
    arrays = {p.name: product(p.shape) for p in normal.inputs}
    total, held, touched = const(0), const(0), const(0)
    for name, points in _made(normal):
        arrays[name] = points
        total = total + points
    for phase in _phases(normal, arrays.keys()):
        for name in sorted(phase):
            total = total + arrays[name]
    for r in normal.recurrences:
        for c in r.components if r.readers else ():
            held = held + _points(c.outer)
            touched = touched + _points(c.outer) * 3 * r.axis[1]  # read, written, and read by who uses it
    own = [parallel(r) for r in normal.recurrences if r.readers]
    fewest = min(own, key=len, default=())
    return total, (held.exact_quotient(_points(fewest)) or held, touched)


def _made(normal: Normal) -> Iterator[tuple[str, Poly]]:
    """The arrays that are written, and their elements."""
    kept = {*normal.stored, *normal.outputs}
    for e in normal.equations:
        yield from ((x.name, _points(x.outer)) for x in ((e,) if isinstance(e, Eq) else e.members) if x.name in kept)
    for r in normal.recurrences:
        yield from ((e.name, _points(e.outer)) for e in r.readers)
        yield from ((c.name, _points(r.kept(c))) for c in r.components if r.stores(c))


@dataclass(slots=True)
class _Phase:
    """The traversals of one phase, by their numbers, and the arrays that it reads."""

    folds: set[int]
    arrays: set[str]


def _phases(normal: Normal, arrays: Set[str]) -> list[set[str]]:
    """The arrays that each phase reads."""
    made = {n: e for e in normal.equations for n in defines(e)}
    out: list[_Phase] = []
    for e in normal.equations:
        if arrays & set(defines(e)):
            _join(out, _closure((e,), made, arrays))
    for r in normal.recurrences:
        first = _of_steps(r)
        found = _closure((made[n] for n in sorted(first) if n in made and n not in arrays), made, arrays)
        _join(out, _Phase(found.folds, found.arrays | first & arrays))
    return [p.arrays for p in out]


def _join(phases: list[_Phase], new: _Phase) -> None:
    """Takes a phase to the others, as a part of one that shares a traversal with it."""
    same = next((p for p in phases if p.folds & new.folds), None)
    if same is None:
        phases.append(new)
    else:
        same.folds |= new.folds
        same.arrays |= new.arrays


def _closure(equations: Iterable[Eq | Fold], made: dict[str, Eq | Fold], arrays: Set[str]) -> _Phase:
    """What some equations read of memory, themselves and by way of others that are not in it."""
    todo, out = list(equations), _Phase(set(), set())
    seen = {id(e) for e in todo}
    while todo:
        e = todo.pop()
        if isinstance(e, Fold):
            out.folds.add(id(e))
        for name in _reads(e):
            if name in arrays and name not in defines(e):
                out.arrays.add(name)
            elif (other := made.get(name)) is not None and id(other) not in seen:
                seen.add(id(other))
                todo.append(other)
    return out


def _reads(e: Eq | Fold) -> frozenset[str]:
    inside = () if isinstance(e, Eq) else e.maps
    return reads_of(e).union(*(reads_of(x) for x in inside))


def _of_steps(r: Recurrence) -> set[str]:
    """What the steps of a recurrence read that they do not make."""
    scalars = [x for c in r.components for x in (c.start, c.body)]
    own = {c.name for c in r.components} | {e.name for e in (*r.maps, *r.readers)}
    return {n for s in scalars for n in reads(s)}.union(*(reads_of(e) for e in (*r.maps, *r.readers))) - own


def _points(outer: Iterable[Axis]) -> Poly:
    return product(extent for _, extent in outer)
