"""What a program's phases have in common: its equations, its arrays in memory, its strategy, its host scalars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from moa.domains import TileRange, split, tile_hull, tile_ranges
from moa.laws.split import conjuncts
from moa.normal import TRUE, Cond, Eq, Fold, Member, Normal, Scalar, apply, both, choose, lit, loads, map_cond
from moa.poly import Poly, const, minimum, var
from moa.tile.rounds import views
from moa.tile.strategy import Strategy
from moa.tiles import Array, Bounds


class NeedStore(Exception):
    """An equation cannot be a tile of the work item that wants it: it has to become an array in memory."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Plan:
    """The tables of one attempt to tile a Normal with some equations stored."""

    def __init__(self, normal: Normal, strategy: Strategy, stored: frozenset[str]) -> None:
        normal, self.views = views(normal)
        self.normal = normal
        self.strategy = strategy
        self.equations: dict[str, Eq] = {}
        self.members: dict[str, tuple[Fold, Member]] = {}
        self.folds: dict[str, Fold] = {}
        self.moving: set[str] = set()  # Maps that load a reference: they belong to one round of a loop
        self.memory: dict[str, Array] = {
            p.name: Array(p.name, p.kind, p.shape, "input") for p in normal.inputs if p.shape
        }
        self.hosts: dict[Scalar, str] = {}
        self.reduced: dict[str, set[str]] = {}  # sums that are tiles -> the phases that make them
        for e in normal.equations:
            if isinstance(e, Fold):
                self.folds[e.name] = e
                for m in e.members:
                    self.members[m.name] = (e, m)
                for x in e.maps:
                    self.equations[x.name] = x
                    self.moving.add(x.name)
            else:
                self.equations[e.name] = e
        for e in normal.equations:
            if isinstance(e, Fold) and e.name in stored:
                for m in e.members:
                    self.memory[m.name] = Array(m.name, "f", tuple(x for _, x in m.outer), "workspace")
            elif isinstance(e, Eq) and (
                e.name in (*normal.outputs, *normal.stored) or e.name in stored or e.dtype != "f"
            ):
                role = "output" if e.name in normal.outputs else "workspace"
                self.memory[e.name] = Array(e.name, e.dtype, tuple(x for _, x in e.outer), role)  # type: ignore[arg-type]
        self.recurrences = {r.name: r for r in normal.recurrences}
        for r in normal.recurrences:
            for e in r.readers:
                role = "output" if e.name in normal.outputs else "workspace"
                shape = tuple(x for _, x in e.outer)
                if e.name in self.views:
                    view = self.views[e.name]
                    name, shape = view.array, view.shape
                    role = "output" if name in normal.outputs else "workspace"
                else:
                    name = e.name
                self.memory[name] = Array(name, "f", shape, role)  # type: ignore[arg-type]
                self.moving.add(e.name)
            for c in (c for c in r.components if r.stores(c)):
                self.memory[c.name] = Array(c.name, c.dtype, tuple(x for _, x in r.kept(c)), "workspace")
            for x in r.maps:
                self.equations[x.name] = x
                self.moving.add(x.name)
        self.stored = (
            stored | set(normal.stored) | {e.name for e in normal.equations if isinstance(e, Eq) and e.dtype != "f"}
        )
        self.references = {n for f in self.folds.values() for n in f.references().values()}

    def hosted(self, s: Scalar, inverse: bool = False) -> Scalar:
        """s with each largest part that has no index variable and reads no array made a host scalar.

        inverse  a division by one is a multiplication by its inverse, which is rounded as often: once
        """
        if s.op in ("lit", "load", "ref"):
            return s
        if not s.vars() and not loads(s) and not (s.op == "param" and s.args[0].startswith("host#")):
            if s not in self.hosts:
                self.hosts[s] = f"host#{len(self.hosts)}"
            return Scalar("param", (self.hosts[s],))
        if s.op == "select":
            c = map_cond(s.args[0], lambda p: p, self.hosted)
            return choose(c, self.hosted(s.args[1], inverse), self.hosted(s.args[2], inverse))
        if s.op == "div" and inverse and not s.args[1].vars() and not loads(s.args[1]):
            return apply("mul", self.hosted(s.args[0], inverse), self.hosted(apply("div", lit(1), s.args[1])))
        return apply(s.op, *(self.hosted(x, inverse) for x in s.operands)) if s.operands else s

    def ranges(
        self, domain: Cond, row: str | None, red: str, extents: Mapping[str, Poly], items: tuple[str, ...]
    ) -> tuple[TileRange, ...]:
        """The tile ranges of a fold's axis in one work item (see `moa.domains.tile_ranges`)."""
        end = extents[red]
        if domain.is_true:
            return (TileRange(const(0), end, "full"),)
        outer = tuple(v for v in items if v != row)
        affine, _ = split(domain, items, red, outer)
        found_ends = ends(affine, red, set(outer))
        affine = both(*(c for c in conjuncts(affine) if c not in found_ends))
        for c in found_ends:
            end = minimum(end, c.args[0] + var(red) + 1)
        if affine.is_true:
            return (TileRange(const(0), end, "full"),)
        s = self.strategy
        rows = s.rows if row is not None else 1
        found = tile_ranges(affine, row, rows, red, s.granule, extents, outer)
        if any(r.kind == "classified" for r in found):
            found = tile_ranges(affine, row, rows, red, s.keys, extents, outer)
        return tuple(replace(r, hi=minimum(r.hi, end)) for r in found) if found_ends else found

    def bounds(
        self, domain: Cond, row: str, red: str, extents: Mapping[str, Poly], items: tuple[str, ...]
    ) -> Bounds | None:
        """What one vector of rows visits of a fold's axis, where that is known."""
        affine, _ = split(domain, items, red, tuple(v for v in items if v != row))
        s = self.strategy
        found = tile_hull(affine, row, s.width, red, s.granule, extents, tuple(v for v in items if v != row))
        if affine.is_true or found is None:
            return None
        lo, hi = (p.rename({f"{row}@0": var(f"{row}@v")}) for p in found)
        return Bounds(red, lo, hi)

    def is_range(self, c: Cond, red: str, row: str | None, items: tuple[str, ...]) -> bool:
        """Whether a condition on a fold's axis is affine in one work item, whatever it reads of other items."""
        return split(c, items, red, tuple(v for v in items if v != row))[1].is_true

    def tested(self, domain: Cond) -> tuple[Cond, ...]:
        """The conjuncts of a domain that are conditions on data."""
        _, rest = split(domain, sorted(domain.vars()), "", ())
        return tuple(sorted(conjuncts(rest), key=str)) if not rest.is_true else ()

    def mask(self, own: Cond, union: Cond, partial: bool) -> Cond:
        """What must still be tested per element of a member's domain inside tiles of the union of domains."""
        if own.is_true:
            return TRUE
        if partial or own != union:
            return own
        conjuncts = own.args if own.op == "and" else (own,)
        affine, rest = split(own, sorted(own.vars()), "", ())
        return (
            both(*(c for c in conjuncts if c in (rest.args if rest.op == "and" else (rest,))))
            if affine != own
            else TRUE
        )


def ends(domain: Cond, red: str, outer: set[str]) -> tuple[Cond, ...]:
    """The conditions that say where the axis ends for a work item: all of it, less what the items before it have."""
    return tuple(c for c in sorted(conjuncts(domain), key=str) if _is_end(c, red, outer))


def _is_end(c: Cond, red: str, outer: set[str]) -> bool:
    if c.op != "ge":
        return False
    p: Poly = c.args[0]
    own = (p + var(red)).vars()
    steps = [p.coefficient(v) for v in (red, *own)]
    whole = all(s is not None and (n := s.as_int()) is not None and n < 0 for s in steps)
    return own <= outer and whole and steps[0] == -1


__all__ = ["NeedStore", "Plan", "ends"]
