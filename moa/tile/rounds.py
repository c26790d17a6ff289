"""Rounds of rows: recurrences whose steps make a chunk of rows each, written where these rows are.

The arrays of such steps have an axis of chunks and one of places; an equation that only gives them their rows back is
no copy: what a step makes goes there. Places end where the rows do, which replaces what is written for positions
beyond: conditions, and positions that are cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from moa.naming import reads
from moa.normal import Axis, Eq, Fold, Index, Normal, Recurrence, loads
from moa.poly import Atom, Poly, minimum, var


@dataclass(frozen=True, slots=True)
class View:
    """Where an array that is made in rounds is written: `array` at `index`, over the axes of what makes it.

    place   the axis of places in a round; `rows` there are in all, and `start` is where a round begins
    """

    array: str
    shape: tuple[Poly, ...]
    index: Index
    place: Axis
    rows: Poly
    start: Poly

    @property
    def left(self) -> Poly:
        """At least 0 at the places of a round that are rows."""
        return self.rows - 1 - self.start - var(self.place[0])

    @property
    def extent(self) -> Poly:
        """The places of a round that are rows."""
        return minimum(self.place[1], self.rows - self.start)


def views(normal: Normal) -> tuple[Normal, Mapping[str, View]]:
    """The system without the equations that give rows back, and by which arrays of rounds their rows are written."""
    found: dict[str, View] = {}
    gone: set[str] = set()
    arrays = {e.name: (r, e) for r in normal.recurrences for e in r.readers}
    for e in normal.equations:
        if isinstance(e, Fold) or e.kind != "map" or e.dtype != "f" or len(e.pieces) != 1 or e.body.op != "load":
            continue
        name, index = e.body.args
        if name in arrays and _readers(normal, name) == 1 and name not in normal.outputs:
            view = _view(e, index, *arrays[name])
            if view is not None and e.name in (*normal.outputs, *normal.stored):
                found[name] = view
                gone.add(e.name)
    return replace(normal, equations=tuple(e for e in normal.equations if e.name not in gone)), found


def _readers(normal: Normal, name: str) -> int:
    """How many equations and recurrences read an array."""
    scalars: list[set[str]] = [set(reads(e)) for e in normal.equations]
    for r in normal.recurrences:
        found = [x for c in r.components for x in (c.start, c.body)]
        own = {a for x in found for a, _ in loads(x)}
        scalars.append(own.union(*(reads(e) for e in (*r.maps, *r.readers))))
    return sum(name in s for s in scalars)


def _view(e: Eq, index: Index, r: Recurrence, made: Eq) -> View | None:
    """The view that an equation is of an array with axes of chunks and of places; None if it is something else."""
    t = r.axis[0]
    at = [v for v, _ in made.outer]
    k = at.index(t)
    if r.reverse or k + 1 >= len(at) or (length := made.outer[k + 1][1].as_int()) is None:
        return None
    rows = [(v, x) for v, x in e.outer if index[k] == var(v) // length]
    if len(rows) != 1 or index[k + 1] != var(rows[0][0]) - var(rows[0][0]) // length * length:
        return None
    (v, extent), start = rows[0], var(t) * length
    if r.axis[1] != (extent + (length - 1)) // length:
        return None
    names = {p.as_var(): var(made.outer[j][0]) for j, p in enumerate(index) if j not in (k, k + 1)}
    names[v] = start + var(at[k + 1])
    if len(names) != len(e.outer) or any(w not in names for w, _ in e.outer):
        return None
    whole = all(
        dict(e.outer).get(p.as_var() or "") == made.outer[j][1] for j, p in enumerate(index) if j not in (k, k + 1)
    )
    if not whole:
        return None
    shape = tuple(x for _, x in e.outer)
    return View(e.name, shape, tuple(names[w] for w, _ in e.outer), made.outer[k + 1], extent, start)


def inside(left: frozenset[Poly], a: Atom) -> Poly | None:
    """The smaller of two integers whose difference is known not to be negative; `left` are such differences."""
    if a.kind != "min":
        return None
    x, y = a.args
    return x if y - x in left else y if x - y in left else None
