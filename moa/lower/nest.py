"""Lowering one nest of tile statements to a function: blocks, lanes, inner reductions, write-back.

For each looped axis a main loop by the block and a remainder by one; the lane axis as a fixed number of vectors (row
axis) or as a loop over vectors with one masked rest. All statements run on one block, values of tiles written in it
stay in registers, and each is stored once at its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from moa.loops import Arg, Const, Type
from moa.lower.address import Address
from moa.lower.builder import Builder
from moa.lower.memory import Place, Store
from moa.lower.pairs import Pairs, evened
from moa.lower.sums import lane_sums
from moa.lower.values import BINARY
from moa.normal import Scalar, lit, loads
from moa.ops import OPERATORS
from moa.poly import Poly, const
from moa.tile.place import turned
from moa.tiles import Bounds, Map, Nest, Reduce

LONG = 1 << 30
COMBINE = BINARY | {"max_ref": "fmax", "min_ref": "fmin"}
FOLDED = {"add": "add", "mul": "mul", "max": "maxn", "min": "minn", "max_ref": "max", "min_ref": "min"}  # of lanes


class NestLowering(Pairs):
    """One nest in its function."""

    def __init__(
        self, store: Store, b: Builder, address: Address, workspace: Arg, outer: Callable[[str], Arg], nest: Nest
    ) -> None:
        super().__init__(store, b, address, workspace, outer, nest)
        # vectors of rows are unrolled, but where lanes are loaded on their own they are an outer loop
        self.outside = self.rows and (nest.bounds is not None or self.gathers())
        if store.warps and self.rows and not nest.loops and self.maps():
            self.outside = True  # each warp takes vectors of its own
        self.static = store.axes[nest.lane].step // store.width if nest.lane and self.rows and not self.outside else 0
        self.cross = [s for s in nest.statements if isinstance(s, Reduce) and self.crosses(s)]
        self.partials = [(s, v) for s in self.cross for v in range(self.copies(s, self.static or 1))]
        self.shared = self.shared_axis() if store.warps else None
        self.warp: Arg | None = None
        self.visited: dict[str, tuple[Arg, Arg]] = {}  # of axes of which not all is visited
        self.written_in_pairs = {self.pairs_axis(s.target) for s in nest.statements}

    def lower(self) -> None:
        """The nest; where its warps share a reduction, `join` has to follow."""
        if self.nest.bounds is not None:
            self.vectors_in_bounds(self.nest.bounds)
            return
        if not self.store.warps:
            self.finish(self.rounds([self.cross_start(*x) for x in self.partials]))
            return
        warps = Const(self.store.warps if self.shared else 1, "i")
        with self.b.loop(Const(0, "i"), warps, Const(1, "i"), [], "warps") as body, self.frame():
            self.warp = body.index
            if not self.joined:
                self.finish(self.rounds([self.cross_start(*x) for x in self.partials]))
                return
            kind: Type = "v" if self.lane is not None else "f"
            results = self.rounds([Const(self.identity(s.op), kind) for s, _ in self.partials])
            for k, value in enumerate(results):
                self.b.here(None, "store", *self.room(k, body.index), value, attrs=(self.store.element, False))

    @property
    def joined(self) -> bool:
        """Whether the warps end with partial results."""
        return bool(self.cross) and self.shared is not None

    def join(self) -> None:
        """Combines the partial results of all warps, in the order of the warps."""
        with self.b.loop(Const(0, "i"), Const(1, "i"), Const(1, "i"), [], "warps"), self.frame():
            kind: Type = "v" if self.lane is not None else "f"
            results = []
            for k, (s, v) in enumerate(self.partials):
                value = self.cross_start(s, v)
                for warp in range(self.store.warps):
                    part = self.b.here(kind, "load", *self.room(k, Const(warp, "i")), attrs=(self.store.element, False))
                    value = self.combine(s.op, value, part)
                results.append(value)
            self.finish(results)

    def rounds(self, start: list[Arg]) -> list[Arg]:
        return self.vectors_outside() if self.outside else self.loops(list(self.nest.loops), [{}], self.cross, start)

    def finish(self, results: list[Arg]) -> None:
        for (s, v), value in zip(self.partials, results, strict=True):
            self.cross_end(s, v, value)

    def room(self, k: int, warp: Arg) -> tuple[Arg, Arg]:
        """(pointer, offset in elements) of partial result k of a warp."""
        start = self.address.poly(self.store.spill, self.env)
        pointer = self.b.pure("p", "offset", self.workspace, start, attrs=("u8",))
        vectors = self.b.iadd(self.b.imul(warp, Const(len(self.partials), "i")), Const(k, "i"))
        return pointer, self.b.imul(vectors, Const(self.store.width, "i"))

    def shared_axis(self) -> str | None:
        """The axis whose loop the warps of a work item share: the longest, the innermost of those."""
        if self.nest.loops:
            known = [(self.store.axes[a].capacity.as_int() or LONG, k, a) for k, (a, _) in enumerate(self.nest.loops)]
            return max(known)[2]
        inside = any(isinstance(s, Reduce) and self.inner_lane(s) for s in self.nest.statements)
        return None if self.static or inside else self.lane

    def share(self, lo: Arg, step: int) -> tuple[Arg, Arg]:
        """Where a loop of the shared axis starts in this warp, and its step."""
        assert self.warp is not None
        first = self.b.iadd(lo, self.b.imul(self.warp, Const(step, "i")))
        return first, Const(step * self.store.warps, "i")

    def maps(self) -> bool:
        return all(isinstance(s, Map) for s in self.nest.statements)

    def gathers(self) -> bool:
        """Whether all statements are maps and some load is strided along the lanes."""
        assert self.lane is not None
        strided = (
            any(self.lane in p.vars() for p in index) and not self.unit(array, index)
            for s in self.nest.statements
            for array, index in loads(s.value)
        )
        return self.maps() and any(strided)

    def vectors_outside(self) -> list[Arg]:
        """A loop over the vectors of rows around the nest: the addresses of their rows are computed once."""
        assert self.lane is not None
        end = Const(self.store.axes[self.lane].step, "i")
        local = f"{self.lane}:l"
        with self.b.loop(*self.vector_loop(end), []) as body, self.frame():
            self.locals[local] = body.index
            return self.loops(list(self.nest.loops), [{self.lane: (local, 0)}], [], [])

    def vectors_in_bounds(self, bounds: Bounds) -> None:
        """A loop over the vectors of rows that exist, each with the part of an axis that its rows may see."""
        assert self.lane is not None
        b, local = self.b, f"{self.lane}:l"
        with b.loop(Const(0, "i"), self.count(self.lane), Const(self.store.width, "i"), []) as body, self.frame():
            self.locals[local] = body.index
            self.locals[f"{self.lane}@v"] = b.iadd(self.address.poly(self.origin(self.lane), self.env), body.index)
            first, end, origin = (
                self.address.poly(p, self.env) for p in (bounds.lo, bounds.hi, self.origin(bounds.axis))
            )
            lo = b.imax(b.isub(first, origin), Const(0, "i"))
            if bounds.axis in self.store.pairs.values():  # one position more, which its conditions leave out
                lo = b.isub(lo, b.pure("i", "imod", lo, Const(2, "i")))
            hi = b.imin(b.isub(end, origin), self.count(bounds.axis))
            self.visited[bounds.axis] = lo, b.imax(lo, hi)
            place: Place = {self.lane: (local, 0)}
            start = [self.cross_start(*x) for x in self.partials]
            self.finish(self.loops(list(self.nest.loops), [place], self.cross, start))

    def visit(self, axis: str) -> tuple[Arg, Arg]:
        """From where to where a loop over an axis of tiles goes."""
        return self.visited[axis] if axis in self.visited else (Const(0, "i"), self.count(axis))

    def vector_loop(self, end: Arg, lo: Arg | None = None) -> tuple[Arg, Arg, Arg]:
        """lo, hi, step of a loop over vectors of the lane axis."""
        if self.shared is not None and self.shared == self.lane:
            lo, step = self.share(Const(0, "i"), self.store.width)
            return lo, end, step
        return lo or Const(0, "i"), end, Const(self.store.width, "i")

    def crosses(self, s: Reduce) -> bool:
        names = {a for a, _ in self.nest.loops} | {self.lane}
        return any(a in names for a in s.over) and not self.inner_lane(s)

    def inner_lane(self, s: Reduce) -> bool:
        """Whether the statement reduces along the lanes by itself, for each element of its target."""
        return self.lane in s.over and bool(self.nest.loops or s.target.args[1])

    def copies(self, s: Reduce, vectors: int) -> int:
        return vectors if self.lane is not None and self.lane not in s.over else 1

    def cross_place(self, s: Reduce, v: int) -> Place:
        if self.lane is None or self.lane in s.over:
            return {}
        return {self.lane: ("" if self.nest.bounds is None else f"{self.lane}:l", v * self.store.width)}

    def cross_start(self, s: Reduce, v: int) -> Arg:
        kind: Type = "v" if self.lane is not None else "f"
        if s.fresh or self.lane in s.over:
            return Const(self.identity(s.op), kind)
        return self.as_type(self.read(s.target, self.cross_place(s, v)), kind)

    def cross_end(self, s: Reduce, v: int, value: Arg) -> None:
        if self.lane is not None and self.lane in s.over:
            value = self.b.pure("f", "reduce", value, attrs=(FOLDED[s.op],))
            if not s.fresh:
                value = self.combine(s.op, self.read(s.target, {}), value)
        self.write(s.target, value, self.cross_place(s, v))
        self.flush()

    def loops(
        self, dims: list[tuple[str, int]], places: list[Place], cross: list[Reduce], carried: list[Arg]
    ) -> list[Arg]:
        if not dims:
            return self.lanes(places, cross, carried)
        (axis, block), *rest = dims
        lo, end = self.visit(axis)
        fixed = end.value if isinstance(end, Const) and isinstance(lo, Const) else None
        sizes = evened(self.written_in_pairs, axis, block)
        if fixed is not None and int(fixed) % sizes[0] == 0:
            sizes = sizes[:1]
        for size in sizes:
            rest_count = self.b.pure("i", "imod", self.b.isub(end, lo), Const(size, "i")) if size > 1 else Const(0, "i")
            whole = self.b.isub(end, rest_count)
            carried = self.one_loop(axis, lo, whole, size, rest, places, cross, carried)
            lo = whole
        return carried

    def one_loop(
        self,
        axis: str,
        lo: Arg,
        hi: Arg,
        size: int,
        rest: list[tuple[str, int]],
        places: list[Place],
        cross: list[Reduce],
        carried: list[Arg],
    ) -> list[Arg]:
        if isinstance(lo, Const) and isinstance(hi, Const) and lo.value >= hi.value:
            return carried
        first, step = self.share(lo, size) if axis == self.shared else (lo, Const(size, "i"))
        if not rest:
            self.before_loop(axis, places)
        with self.b.loop(first, hi, step, carried) as body, self.frame():
            self.locals[f"{axis}:l"] = body.index
            inner = [{**p, axis: (f"{axis}:l", k)} for p in places for k in range(size)]
            body.next = self.loops(rest, inner, cross, list(body.phis))
        return list(body.results)

    def lanes(self, rows: list[Place], cross: list[Reduce], carried: list[Arg]) -> list[Arg]:
        """The lane axis of one block: fixed vectors, or a loop over vectors and the rest."""
        if self.lane is None or self.outside:
            return self.block(rows, cross, carried)
        w = self.store.width
        if self.static:
            places = [{**r, self.lane: ("", v * w)} for r in rows for v in range(self.static)]
            return self.block(places, cross, carried)
        inside = [s for s in self.nest.statements if isinstance(s, Reduce) and self.inner_lane(s)]
        if inside:
            assert len(self.nest.statements) == 1, "a horizontal reduction stands alone in its nest"
            self.horizontal(inside[0], rows)
            return carried
        count = self.count(self.lane)
        whole = self.b.isub(count, self.b.pure("i", "imod", count, Const(w, "i")))
        local = f"{self.lane}:l"
        lo: Arg = Const(0, "i")
        if self.nest.vectors > 1:
            step = Const(w * self.nest.vectors, "i")
            several = self.b.isub(count, self.b.pure("i", "imod", count, step))
            with self.b.loop(lo, several, step, carried) as body, self.frame():
                self.locals[local] = body.index
                places = [{**r, self.lane: (local, v * w)} for r in rows for v in range(self.nest.vectors)]
                body.next = self.block(places, cross, list(body.phis))
            carried, lo = list(body.results), several
        if lo != whole:
            with self.b.loop(*self.vector_loop(whole, lo), carried) as body, self.frame():
                self.locals[local] = body.index
                body.next = self.block([{**r, self.lane: (local, 0)} for r in rows], cross, list(body.phis))
            carried = list(body.results)
        rest = self.b.isub(count, whole)
        if rest == Const(0, "i"):
            return carried
        some = self.b.icmp("gt", rest, Const(0, "i"))
        if self.shared is not None and self.shared == self.lane:
            assert self.warp is not None
            some = self.b.pure("b", "band", some, self.b.icmp("eq", self.warp, Const(self.store.warps - 1, "i")))
        with self.b.when(some, carried) as then, self.frame():
            self.locals[local] = whole
            self.tail = rest
            then.values = self.block([{**r, self.lane: (local, 0)} for r in rows], cross, carried)
            self.tail = None
        return list(then.results)

    def block(self, places: list[Place], cross: list[Reduce], carried: list[Arg]) -> list[Arg]:
        """All statements on one block: `places` are its vectors (or elements)."""
        carried = list(carried)
        self.turn(places)
        first = 0
        for s in self.nest.statements:
            if isinstance(s, Reduce) and s in cross:
                n = self.copies(s, self.static or 1)
                for p in places:
                    v = p[self.lane][1] // self.store.width if n > 1 and self.lane is not None else 0
                    value = self.guarded(s, self.value(s.value, p))
                    kind = carried[first + v].type
                    carried[first + v] = self.accumulate(s, carried[first + v], self.as_type(value, kind), None, p)
                first += n
            elif isinstance(s, Reduce):
                (self.inner_integer if self.integral(s.target) else self.inner)(s, places)
            elif self.copies_bits(s):
                self.copy_bits(s, places)
            else:
                for p in places:
                    self.write(s.target, self.value_for(s.target, s.value, p), p)
        self.flush()
        return carried

    def turn(self, places: list[Place]) -> None:
        """Loads that are strided along the lanes: whole vectors along the block, transposed in registers."""
        w, b = self.store.width, self.b
        if self.store.warps or not self.nest.loops or len(places) != w or w == 1 or self.nest.loops[-1][1] != w:
            return
        axis = self.nest.loops[-1][0]
        for s in turned(self.nest, axis):
            array, index = s.args
            if self.store.strides[array][-1] != const(1) or not self.within(array, index[-1]):
                continue
            lines: list[Arg] = []
            for at in list(self.lane_places(places[0])):
                pointer, offset, element = self.offset(array, index, at)
                self.prefetch(array, index, at)
                lines.append(b.here("v", "load", pointer, self.address.poly(offset, self.env), attrs=(element, False)))
            step = 1
            while step < w:
                for k in (k for k in range(w) if not k & step):
                    pair = lines[k], lines[k + step]
                    lines[k], lines[k + step] = (b.pure("v", "turn", *pair, attrs=(step, half)) for half in (0, 1))
                step *= 2
            for p, line in zip(places, lines, strict=True):
                self.frames[-1].memo[s, tuple((v, p[v]) for v in sorted(s.vars()) if v in p)] = line

    def within(self, array: str, p: Poly) -> bool:
        return array in self.store.tiles or self.inside(p, self.store.shapes[array][-1])

    def guarded(self, s: Reduce, value: Arg) -> Arg:
        """The value with the idle lanes of the last vector at the identity, where lanes are reduced."""
        if self.tail is None or self.lane not in s.over:
            return value
        mask = self.b.pure("m", "first", self.tail)
        return self.b.pure("v", "select", mask, self.as_type(value, "v"), Const(self.identity(s.op), "v"))

    def inner_integer(self, s: Reduce, places: list[Place]) -> None:
        """A reduction to integers, over one axis."""
        if s.op == "argmax":
            self.first_largest(s, places)
            return
        (axis,) = s.over
        op = {"add": "iadd", "mul": "imul", "min": "imin", "max": "imax"}[s.op]
        for p in places:
            identity = self.int_value_of(lit(self.identity(s.op)), p)
            with self.b.loop(Const(0, "i"), self.count(axis), Const(1, "i"), [identity]) as body, self.frame():
                self.locals[f"{axis}:l"] = body.index
                value = self.int_value_of(s.value, {**p, axis: (f"{axis}:l", 0)})
                body.next = [self.b.pure("i", op, body.phis[0], value)]
            self.write(s.target, body.results[0], p)

    def first_largest(self, s: Reduce, places: list[Place]) -> None:
        """The position of the first largest value of an axis: the first NaN, if there is one."""
        (axis,) = s.over
        for p in places:
            start: list[Arg] = [Const(-math.inf, "f"), Const(0, "i")]
            with self.b.loop(Const(0, "i"), self.count(axis), Const(1, "i"), start) as body, self.frame():
                self.locals[f"{axis}:l"] = body.index
                best, at = body.phis
                value = self.as_type(self.value(s.value, {**p, axis: (f"{axis}:l", 0)}), "f")
                number = self.b.pure("b", "fcmp", best, best, attrs=("eq",))
                over = self.b.pure("b", "bnot", self.b.pure("b", "fcmp", value, best, attrs=("le",)))
                taken = self.b.pure("b", "band", number, over)
                place = self.b.pure("i", "select", taken, body.index, at)
                body.next = [self.b.pure("f", "select", taken, value, best), place]
            self.write(s.target, body.results[1], p)

    def identity(self, op: str) -> float:
        value = OPERATORS[op.removesuffix("_ref")].identity
        assert value is not None
        return float(value)

    def combine(self, op: str, acc: Arg, value: Arg) -> Arg:
        kind: Type = "v" if "v" in (acc.type, value.type) else "f"
        acc, value = self.as_type(acc, kind), self.as_type(value, kind)
        return self.b.pure(kind, COMBINE[op], value, acc)  # the order decides which NaN a *_ref maximum drops

    def accumulate(self, s: Reduce, acc: Arg, value: Arg | None, product: Scalar | None, p: Place) -> Arg:
        """op(acc, value); a product that is added becomes one fused multiply-add."""
        if product is not None:
            a, c = self.value(product.args[0], p), self.value(product.args[1], p)
            return self.b.pure(acc.type, "fma", self.as_type(a, acc.type), self.as_type(c, acc.type), acc)
        assert value is not None
        return self.combine(s.op, acc, value)

    def inner(self, s: Reduce, places: list[Place]) -> None:
        """A reduction inside the block: loops over the reduced axes with all accumulators of the block carried."""
        targets = places
        kinds: list[Type] = ["v" if self.lane is not None and self.depends(s, self.lane) else "f" for _ in targets]
        start = [
            Const(self.identity(s.op), kind) if s.fresh else self.as_type(self.read(s.target, p), kind)
            for p, kind in zip(targets, kinds, strict=True)
        ]
        if s.paired:
            results = self.paired(s, targets, start)
            for p, value in zip(targets, results, strict=True):
                self.write(s.target, value, p)
            return
        for p in targets:
            self.prepare(s.value, p, s.over)
        product = s.value if s.op == "add" and s.value.op == "mul" else None

        def rounds(over: tuple[str, ...], place: Place, accs: list[Arg]) -> list[Arg]:
            if not over:
                out = []
                for p, acc in zip(targets, accs, strict=True):
                    here = {**p, **place}
                    value = None if product is not None else self.as_type(self.value(s.value, here), acc.type)
                    out.append(self.accumulate(s, acc, value, product, here))
                return out
            axis, *rest = over
            with self.b.loop(*self.visit(axis), Const(1, "i"), accs) as body, self.frame():
                self.locals[f"{axis}:l"] = body.index
                body.next = rounds(tuple(rest), {**place, axis: (f"{axis}:l", 0)}, list(body.phis))
            return list(body.results)

        for p, value in zip(targets, rounds(s.over, {}, start), strict=True):
            self.write(s.target, value, p)

    def paired(self, s: Reduce, targets: list[Place], accs: list[Arg]) -> list[Arg]:
        """The accumulators after all pairs along the axis, and the single one that may be left."""
        b, (axis,) = self.b, s.over
        self.lane_starts = frozenset(p[self.lane] for p in targets) if self.lane else frozenset()
        lo, hi, odd = self.pair_loop(axis)

        def step(accs: list[Arg], single: bool) -> list[Arg]:
            return [self.dot2(acc, s.value, p, axis, single) for p, acc in zip(targets, accs, strict=True)]

        with b.loop(lo, hi, Const(1, "i"), accs) as body, self.frame():
            self.at_pair(axis, body.index)
            body.next = step(list(body.phis), single=False)
        if odd == Const(False, "b"):
            return list(body.results)
        with b.when(odd, list(body.results)) as then, self.frame():
            self.at_pair(axis, hi)
            then.values = step(list(body.results), single=True)
        return list(then.results)

    def depends(self, s: Map | Reduce, axis: str) -> bool:
        return axis in s.value.vars() or any(axis in p.vars() for p in s.target.args[1])

    def horizontal(self, s: Reduce, places: list[Place]) -> None:
        """A reduction along the lanes, for each element of the target: vector partials, folded once at the end."""
        assert self.lane is not None
        w = self.store.width
        others = tuple(a for a in s.over if a != self.lane)
        count = self.count(self.lane)
        whole = self.b.isub(count, self.b.pure("i", "imod", count, Const(w, "i")))
        local = f"{self.lane}:l"
        product = s.value if s.op == "add" and s.value.op == "mul" else None

        def vector(accs: list[Arg], place: Place) -> list[Arg]:
            out = []
            for p, acc in zip(places, accs, strict=True):
                here = {**p, **place, str(self.lane): (local, 0)}
                if product is not None and self.tail is None:
                    out.append(self.accumulate(s, acc, None, product, here))
                else:
                    value = self.guarded(s, self.as_type(self.value(s.value, here), "v"))
                    out.append(self.accumulate(s, acc, value, None, here))
            return out

        def rounds(over: tuple[str, ...], place: Place, accs: list[Arg]) -> list[Arg]:
            if over:
                axis, *rest = over
                with self.b.loop(Const(0, "i"), self.count(axis), Const(1, "i"), accs) as body, self.frame():
                    self.locals[f"{axis}:l"] = body.index
                    body.next = rounds(tuple(rest), {**place, axis: (f"{axis}:l", 0)}, list(body.phis))
                return list(body.results)
            first: Arg = Const(0, "i")
            if self.in_lanes(s):
                accs, first = self.products_in_lanes(s, [{**p, **place} for p in places], accs)
            if first != whole:
                with self.b.loop(first, whole, Const(w, "i"), accs) as body, self.frame():
                    self.locals[local] = body.index
                    body.next = vector(list(body.phis), place)
                accs = list(body.results)
            rest_count = self.b.isub(count, whole)
            if rest_count == Const(0, "i"):
                return accs
            with self.b.when(self.b.icmp("gt", rest_count, Const(0, "i")), accs) as then, self.frame():
                self.locals[local] = whole
                self.tail = rest_count
                then.values = vector(accs, place)
                self.tail = None
            return list(then.results)

        start: list[Arg] = [Const(self.identity(s.op), "v") for _ in places]
        vectors = rounds(others, {}, start)
        at_once = s.op == "add" and not self.store.warps
        values = (
            lane_sums(self.b, vectors, w)
            if at_once
            else [self.b.pure("f", "reduce", x, attrs=(FOLDED[s.op],)) for x in vectors]
        )
        for p, value in zip(places, values, strict=True):
            if not s.fresh:
                value = self.combine(s.op, self.read(s.target, p), value)
            self.write(s.target, value, p)
        self.flush()
