"""Which tiles of the reduced axis a row tile visits, and how: full, partial, or classified one by one.

Conventions. A work item holds `rows` consecutive values of the index variable `row`, from the origin `var("row@0")`, a
multiple of `rows` inside the extent. The reduced axis is cut in tiles of `granule` that start at multiples of it; the
origin of such a tile is `var("red@0")`. With the predicate as a set S of pairs,

    touched = tiles that hold a pair of S that exists         (rows and columns inside the extents)
    full    = touched - tiles that hold a pair outside the predicate, the box left out

so a tail tile can be full: pairs that do not exist violate nothing. Bounds are Polys over the row origin, sizes,
integer parameters and the other variables of the item.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from moa.domains.sets import Extents, Frame, TooLong, budget, context, simplify
from moa.normal import FALSE, TRUE, Cond, at_least_zero, both, either, is_zero, negate
from moa.poly import Poly, const, maximum, minimum, select, var

Interval = tuple[Poly, Poly, Cond]
Join = Callable[[Poly, Poly], Poly]
FULL: Literal["full"] = "full"
PARTIAL: Literal["partial"] = "partial"
NOT_INTERVALS = "touched or full is not at most two intervals per row tile"
TOO_LONG = "questions about touched and full went past their limit of operations"
TILE = "@tile"


@dataclass(frozen=True, slots=True)
class TileRange:
    """Tiles of the reduced axis from lo (a multiple of the granule) up to hi; none where lo >= hi.

    kind    "full": no pair that exists violates the predicate; "partial": test each pair; "classified": skip a tile
            where `empty` holds, test no pair where `full` holds, test each pair otherwise
    empty   over the two origins; also FALSE where nothing is known
    full    over the two origins, for tiles that are not empty
    reason  why this is not a union of full and partial intervals
    """

    lo: Poly
    hi: Poly
    kind: Literal["full", "partial", "classified"]
    empty: Cond = FALSE
    full: Cond = FALSE
    reason: str = ""

    def __str__(self) -> str:
        tests = f", empty where {self.empty}, full where {self.full}" if self.kind == "classified" else ""
        return f"{self.lo} .. {self.hi} {self.kind}{tests}"


def tile_ranges(
    cond: Cond,
    row: str | None,
    rows: int,
    red: str,
    granule: int,
    extents: Mapping[str, Poly],
    others: tuple[str, ...] = (),
) -> tuple[TileRange, ...]:
    """The ranges of `red` that one row tile visits: disjoint, ascending, inside [0, extent).

    cond     leaves that are not affine may be true or false anywhere: a tile is full or empty only where the affine
             ones decide it
    row      None where the item has no row axis (one row; `rows` is ignored)
    others   further index variables of the item: one value each, symbols of the bounds
    """
    known = _known(extents, cond.vars() | {row, red, *others})
    return _tile_ranges(cond, row, rows if row is not None else 1, red, granule, known)


def tile_hull(
    cond: Cond,
    row: str | None,
    rows: int,
    red: str,
    granule: int,
    extents: Mapping[str, Poly],
    others: tuple[str, ...] = (),
) -> tuple[Poly, Poly] | None:
    """One range, from lo up to hi, that holds the ranges which `tile_ranges` finds; None if it is not found."""
    known = _known(extents, cond.vars() | {row, red, *others})
    return _tile_hull(cond, row, rows if row is not None else 1, red, granule, known)


def _known(extents: Mapping[str, Poly], used: Set[str | None]) -> Extents:
    return tuple(sorted((v, e) for v, e in extents.items() if v in used))


@lru_cache(maxsize=1024)
def _tile_hull(
    cond: Cond, row: str | None, rows: int, red: str, granule: int, known: Extents
) -> tuple[Poly, Poly] | None:
    extents = dict(known)
    cond = simplify(cond, TRUE, extents, smallest=0)
    try:
        with budget():
            return _Tiling(cond, row, rows, red, granule, extents).hull()
    except TooLong:
        return None


@lru_cache(maxsize=1024)
def _tile_ranges(
    cond: Cond, row: str | None, rows: int, red: str, granule: int, known: Extents
) -> tuple[TileRange, ...]:
    extents = dict(known)
    cond = simplify(cond, TRUE, extents, smallest=0)
    for solve in (_Tiling.intervals, _Tiling.classified, _Tiling.classified_everywhere):
        try:
            with budget():
                found = solve(_Tiling(cond, row, rows, red, granule, extents))
            if found is not None:
                return found
        except TooLong:
            pass
    return (TileRange(const(0), extents[red], "partial", reason=TOO_LONG),)


class _Tiling:
    """One question of `tile_ranges`. Sets are over [q], tile q of the reduced axis; row tile t is a parameter."""

    def __init__(
        self, cond: Cond, row: str | None, rows: int, red: str, granule: int, extents: dict[str, Poly]
    ) -> None:
        self.red, self.granule, self.end = red, granule, extents[red]
        self.frame = f = Frame((red,) if row is None else (row, red), extents, smallest=0)
        inside, outside, x = f.cond(cond), f.cond(negate(cond)), f"x{len(f.dims) - 1}"
        tile, origins, exists = f"{granule}*q <= {x} < {granule}*q + {granule}", "1=1", "1=1"
        if row is not None:
            f.multiple(f"{row}@0", rows, "t")
            tile += f" and {rows}*t <= x0 < {rows}*t + {rows}"
            origins = f"0 <= {rows}*t < {f.poly(extents[row])}"
            exists = f.box((row,))
        f.names[TILE] = "q"
        self.box = f"0 <= q and {granule}*q < {f.poly(self.end)}"
        box = f.box()
        self.given = f.set(f.facts(), origins, dims=())

        self.touched = self.tiles(inside, tile, box)
        self.violated = self.tiles(outside, tile)
        self.full = self.touched.subtract(self.violated).coalesce()
        # the same tiles inside the box, with simpler bounds
        self.relaxed = self.touched
        for spare in ("1=1", exists):
            wide = self.tiles(inside, tile, spare)
            if self.within(wide, self.box).is_subset(self.touched):
                self.relaxed = self.within(wide, "q >= 0")
                break

    # sets of tiles ----------------------------------------------------------------------------------------------

    def tiles(self, *texts: str) -> Any:
        """The tiles q that hold an element of a set given as text over dimensions and q."""
        import islpy as isl

        names = [f"x{k}" for k in range(len(self.frame.dims))]
        pairs = self.frame.set(*texts, dims=[*names, "q"])
        return pairs.project_out(isl.dim_type.set, 0, len(names)).intersect_params(self.given).coalesce()

    def within(self, s: Any, *texts: str) -> Any:
        return s.intersect(self.frame.set(*texts, dims=["q"]))

    def where(self, c: Cond) -> Any:
        """The values of the symbols for which c holds."""
        return self.frame.set(self.frame.cond(c), dims=())

    def are_interval(self, s: Any) -> bool:
        """Whether the tiles of s are consecutive, for every value of the symbols."""
        import islpy as isl

        after = s.apply(isl.Map("{ [a] -> [q] : q > a }", s.get_ctx()))
        before = s.apply(isl.Map("{ [a] -> [q] : q < a }", s.get_ctx()))
        return bool(after.intersect(before).is_subset(s))

    def groups(self, s: Any) -> Iterator[tuple[Any, ...]]:
        """Ways to see s as one interval or as two, the first of which never starts later."""
        if self.are_interval(s):
            yield (s,)
            return
        sets = [b.to_set() for b in s.get_basic_sets()]
        if len(sets) > 6:
            return
        for size in range(1, len(sets)):
            for chosen in itertools.combinations(range(len(sets)), size):
                first = _union(sets[k] for k in chosen)
                second = _union(sets[k] for k in range(len(sets)) if k not in chosen)
                starts_later = first.dim_min(0).gt_set(second.dim_min(0))
                if self.are_interval(first) and self.are_interval(second) and starts_later.is_empty():
                    yield (first, second)

    def ways(self, *sets: Any) -> Iterator[tuple[Any, ...]]:
        for s in sets:
            yield from self.groups(s)

    # bounds -----------------------------------------------------------------------------------------------------

    def always(self, a: Poly, b: Poly) -> bool:
        """Whether a <= b for every value of the symbols."""
        d = (b - a).as_int()
        return d >= 0 if d is not None else bool(self.given.is_subset(self.where(at_least_zero(b - a))))

    def larger(self, a: Poly, b: Poly) -> Poly:
        """max(a, b), without the operands that are never needed."""
        return self.extreme("max", lambda x, y: self.always(x, y), maximum, a, b)

    def smaller(self, a: Poly, b: Poly) -> Poly:
        """min(a, b), without the operands that are never needed."""
        return self.extreme("min", lambda x, y: self.always(y, x), minimum, a, b)

    def extreme(self, kind: str, needless: Callable[[Poly, Poly], bool], join: Join, *polys: Poly) -> Poly:
        operands = list(dict.fromkeys(x for p in polys for x in _operands(kind, p)))
        for x in tuple(operands):
            if any(y is not x and needless(x, y) for y in operands):
                operands.remove(x)
        return functools.reduce(join, sorted(operands, key=str))

    def interval(self, s: Any) -> Interval:
        """(lo, hi, guard) of an interval of tiles; wherever s has no tile, lo >= hi or the guard does not hold."""
        import islpy as isl

        try:
            last = s.dim_max(0)
        except isl.Error:  # it has no end but that of the axis
            s = self.within(s, self.box)
            if s.is_empty():
                return const(0), const(0), TRUE
            last = s.dim_max(0)
        where = s.params().coalesce()
        lo = self.bound(s.dim_min(0), 0, where, maximum, minimum)
        hi = self.bound(last, self.granule, where, minimum, maximum)
        if self.always(self.end, hi):
            hi = self.end
        rest = self.given.subtract(where)
        if rest.is_subset(self.where(at_least_zero(lo - hi))):
            return lo, hi, TRUE
        return lo, hi, self.condition(where, self.given)

    def bound(self, tile: Any, more: int, where: Any, *joins: Join) -> Poly:
        """granule * tile + more, equal to that on `where`: a piece or a join of pieces if that is proved."""
        import islpy as isl

        ctx = tile.get_ctx()
        build = isl.AstBuild.from_context(where.intersect(self.given))

        def read(value: Any) -> Poly:
            value = value.scale_val(isl.Val.int_from_si(ctx, self.granule)).add_constant_val(
                isl.Val.int_from_si(ctx, more)
            )
            return self.frame.read(build.expr_from_pw_aff(value))

        tile = tile.coalesce()
        parts = list(dict.fromkeys(read(isl.PwAff.from_aff(aff)) for _, aff in tile.get_pieces()))
        candidates = itertools.chain(
            parts,
            (
                functools.reduce(join, chosen)
                for n in range(2, len(parts) + 1)
                for join in joins
                for chosen in itertools.combinations(parts, n)
            ),
        )
        for joined in itertools.islice(candidates, 40):
            text = self.frame.poly(joined)
            same = isl.PwAff(f"{self.frame.header()} -> {{ [({text})] }}", ctx)
            value = tile.scale_val(isl.Val.int_from_si(ctx, self.granule)).add_constant_val(
                isl.Val.int_from_si(ctx, more)
            )
            if where.is_subset(value.eq_set(same)):
                return joined
        return read(tile)

    def condition(self, s: Any, given: Any) -> Cond:
        """A set of symbols as a condition, which need be right only where `given` holds."""
        import islpy as isl

        return self.frame.read_cond(isl.AstBuild.from_context(given).expr_from_set(s.gist(given).coalesce()))

    # answers ----------------------------------------------------------------------------------------------------

    def intervals(self) -> tuple[TileRange, ...] | None:
        """Full and partial ranges, if touched and full are at most two intervals each and the answer is proved."""
        if self.touched.is_empty():
            return ()
        fulls: tuple[Any, ...] = ()
        if not self.full.is_empty():
            free = self.frame.set("q >= 0", dims=["q"]).intersect_params(self.given)
            fulls = tuple(s.subtract(self.violated).coalesce() for s in (free, self.relaxed))
        for touched in self.ways(self.relaxed, self.touched):
            outer = [self.interval(s) for s in touched]
            if not self.proved(outer, self.touched) or not self.ordered(outer):
                continue
            for full in self.ways(*fulls, self.full) if fulls else [()]:
                inner = [self.interval(s) for s in full]
                in_order = len(inner) < 2 or self.always(inner[0][0], inner[1][0])
                if not full or (in_order and self.proved(inner, self.full)):
                    return self.cut(outer, inner)
        return None

    def proved(self, intervals: list[Interval], tiles: Any) -> bool:
        """Whether the intervals are made of whole tiles and hold exactly `tiles` in the box."""
        q = var(TILE) * self.granule
        held = self.frame.set("1=0", dims=["q"])
        for lo, hi, guard in intervals:
            if not all(self.multiple(x) or x == self.end for x in (*_leaves(lo), *_leaves(hi))):
                return False
            inside = both(guard, at_least_zero(q - lo), at_least_zero(hi - 1 - q))
            held = held.union(self.frame.set(self.frame.cond(inside), self.box, dims=["q"]))
        return bool(held.intersect_params(self.given).is_equal(tiles))

    def multiple(self, p: Poly) -> bool:
        """Whether p is a multiple of the granule."""
        if all(c.denominator == 1 and c % self.granule == 0 for _, c in p.terms):
            return True
        return self.given.is_subset(self.where(is_zero(p % self.granule)))  # type: ignore[no-any-return]

    def ordered(self, intervals: list[Interval]) -> bool:
        """Whether a second interval never starts before the first one, if that has a tile."""
        if len(intervals) < 2:
            return True
        (lo, hi, guard), (start, _, _) = intervals
        ordered = either(at_least_zero(start - lo), at_least_zero(start - self.guarded(lo, hi, guard)))
        return bool(self.given.is_subset(self.where(ordered)))

    def cut(self, touched: list[Interval], full: list[Interval]) -> tuple[TileRange, ...]:
        """The touched intervals in order, cut at the ends of the full ones.

        The cuts only ever move up, so the ranges are disjoint and in order by construction, and together hold what
        the intervals do.
        """
        out: list[TileRange] = []
        before = const(0)
        inner = [(lo, self.guarded(lo, hi, guard)) for lo, hi, guard in full]
        for lo, hi, guard in touched:
            cursor, hi = self.larger(lo, before), self.smaller(hi, self.end)
            for at, kind in (x for a, b in inner for x in ((a, PARTIAL), (b, FULL))):
                after = self.larger(at, cursor)
                out.append(TileRange(cursor, self.guarded(cursor, self.smaller(after, hi), guard), kind))
                cursor = after
            out.append(TileRange(cursor, self.guarded(cursor, hi, guard), PARTIAL))
            before = self.larger(self.guarded(lo, hi, guard), before) if len(touched) > 1 else hi
        return tuple(r for r in out if not self.always(r.hi, r.lo))

    def guarded(self, lo: Poly, hi: Poly, guard: Cond) -> Poly:
        """hi, or 0 where the guard does not hold (lo is not below it)."""
        if guard.is_true or self.given.is_subset(self.where(either(guard, at_least_zero(lo - hi)))):
            return hi
        return select(guard, hi, const(0))

    def classified(self) -> tuple[TileRange, ...]:
        """One range over the hull of touched, with the conditions that class each tile."""
        return self.classed(*self.hull())

    def hull(self) -> tuple[Poly, Poly]:
        """From where to where there are touched tiles."""
        import islpy as isl

        # without the divisions that make it more than an interval
        hull = self.relaxed.remove_divs_involving_dims(isl.dim_type.set, 0, 1).simple_hull().to_set()
        lo, hi, guard = self.interval(self.within(hull, "q >= 0").intersect_params(self.given))
        lo = self.larger(lo, const(0))
        return lo, self.guarded(lo, self.smaller(hi, self.end), guard)

    def classified_everywhere(self) -> tuple[TileRange, ...]:
        """The same over the whole axis."""
        return self.classed(const(0), self.end)

    def classed(self, lo: Poly, hi: Poly) -> tuple[TileRange, ...]:
        import islpy as isl

        self.frame.multiple(f"{self.red}@0", self.granule, "u")
        here = isl.Map(f"{self.frame.header()} -> {{ [q] -> [] : q = u }}", context())
        box = self.frame.set(self.box, dims=["q"]).intersect_params(self.given)
        given, touched, full = (s.apply(here).params() for s in (box, self.touched, self.full))
        empty = negate(self.condition(touched, given))
        return (TileRange(lo, hi, "classified", empty, self.condition(full, touched), NOT_INTERVALS),)


def _operands(kind: str, p: Poly) -> tuple[Poly, ...]:
    a = p.as_atom()
    return tuple(y for x in a.args for y in _operands(kind, x)) if a is not None and a.kind == kind else (p,)


def _leaves(p: Poly) -> tuple[Poly, ...]:
    """The values that p may have: the operands of minima, maxima and selections."""
    a = p.as_atom()
    if a is None or a.kind not in ("min", "max", "select"):
        return (p,)
    return tuple(y for x in a.args if isinstance(x, Poly) for y in _leaves(x))


def _union(sets: Iterable[Any]) -> Any:
    return functools.reduce(lambda a, b: a.union(b), sets).coalesce()
