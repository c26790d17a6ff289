"""Lowering one nest of tile statements to a function: blocks, lanes, inner reductions, write-back.

For each looped axis a main loop by the block and a remainder by one; the lane axis as a fixed number of vectors (row
axis) or as a loop over vectors with one masked rest. All statements run on one block, values of tiles written in it
stay in registers, and each is stored once at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from moa.loops import Arg, Const, Element, Type
from moa.lower.address import Address, Slot
from moa.lower.builder import Builder
from moa.normal import Cond, Index, Scalar, lit, loads, subterms
from moa.ops import OPERATORS
from moa.poly import Poly, const, maximum, minimum, var
from moa.tiles import Map, Nest, Reduce, TileAxis

FOLDED = {"add": "add", "mul": "mul", "max": "maxn", "min": "minn", "max_ref": "max", "min_ref": "min"}  # of lanes
INTEGER_LIMIT = 1 << 62

Local = tuple[str, int]  # position inside a tile: a local loop variable ("" for none) plus a constant
Place = dict[str, Local]

BINARY = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv", "max": "fmaxn", "min": "fminn"}
UNARY = {"neg": "fneg", "abs": "fabs", "sqrt": "fsqrt", "exp": "exp", "exp2": "exp2", "log": "log", "tanh": "tanh"}
COMBINE = BINARY | {"max_ref": "fmax", "min_ref": "fmin"}


@dataclass(frozen=True, slots=True)
class Store:
    """Where arrays and tiles are, for one phase."""

    axes: dict[str, TileAxis]
    row: str | None
    width: int
    element: Element
    shapes: dict[str, tuple[Poly, ...]]  # arrays in memory
    elements: dict[str, Element]
    tiles: dict[str, tuple[str, ...]]  # axes of scratch tiles
    strides: dict[str, tuple[Poly, ...]]
    offsets: dict[str, Poly]  # bytes in the workspace
    spill: Poly  # bytes: room for one vector


@dataclass(slots=True)
class Frame:
    """What is known at one depth of the nest."""

    memo: dict[tuple[object, ...], Arg] = field(default_factory=dict)


class NestLowering:
    """One nest in its function. `outer` reads index variables, origins and counts of the enclosing function."""

    def __init__(
        self, store: Store, b: Builder, address: Address, workspace: Arg, outer: Callable[[str], Arg], nest: Nest
    ) -> None:
        self.store = store
        self.b = b
        self.address = address
        self.workspace = workspace
        self.outer = outer
        self.nest = nest
        self.locals: dict[str, Arg] = {}
        self.frames: list[Frame] = [Frame()]
        self.current: dict[tuple[str, tuple[Poly, ...]], tuple[Arg, Index, Place]] = {}
        self.tail: Arg | None = None  # lanes of the last, incomplete vector: how many
        self.lane = nest.lane
        self.rows = nest.lane is not None and nest.lane == store.row  # lanes are the rows of the item: all of them
        # vectors of rows are unrolled, but where lanes are loaded on their own they are an outer loop
        self.outside = self.rows and self.gathers()
        self.static = store.axes[nest.lane].step // store.width if nest.lane and self.rows and not self.outside else 0

    # the nest ---------------------------------------------------------------------------------------------------------

    def lower(self) -> None:
        cross = [s for s in self.nest.statements if isinstance(s, Reduce) and self.crosses(s)]
        vectors = self.static or 1
        start: list[Arg] = []
        for s in cross:
            start += [self.cross_start(s, v) for v in range(self.copies(s, vectors))]
        results = self.vectors_outside() if self.outside else self.loops(list(self.nest.loops), {}, cross, start)
        k = 0
        for s in cross:
            for v in range(self.copies(s, vectors)):
                self.cross_end(s, v, results[k])
                k += 1

    def gathers(self) -> bool:
        """Whether all statements are maps and some load is strided along the lanes."""
        assert self.lane is not None
        maps = all(isinstance(s, Map) for s in self.nest.statements)
        strided = (
            any(self.lane in p.vars() for p in index) and not self.unit(array, index)
            for s in self.nest.statements
            for array, index in loads(s.value)
        )
        return maps and any(strided)

    def vectors_outside(self) -> list[Arg]:
        """A loop over the vectors of rows around the nest: the addresses of their rows are computed once."""
        assert self.lane is not None
        step = self.store.axes[self.lane].step
        local = f"{self.lane}:l"
        with self.b.loop(Const(0, "i"), Const(step, "i"), Const(self.store.width, "i"), []) as body, self.frame():
            self.locals[local] = body.index
            return self.loops(list(self.nest.loops), {self.lane: (local, 0)}, [], [])

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
        return {self.lane: ("", v * self.store.width)}

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

    def loops(self, dims: list[tuple[str, int]], place: Place, cross: list[Reduce], carried: list[Arg]) -> list[Arg]:
        if not dims:
            return self.lanes(place, cross, carried)
        (axis, block), *rest = dims
        count = self.count(axis)
        fixed = count.value if isinstance(count, Const) else None
        lo: Arg = Const(0, "i")
        sizes = [block, 1] if block > 1 and (fixed is None or int(fixed) % block) else [block]
        for size in sizes:
            rest_count = self.b.pure("i", "imod", count, Const(size, "i")) if size > 1 else Const(0, "i")
            whole = self.b.isub(count, rest_count)
            carried = self.one_loop(axis, lo, whole, size, rest, place, cross, carried)
            lo = whole
        return carried

    def one_loop(
        self,
        axis: str,
        lo: Arg,
        hi: Arg,
        size: int,
        rest: list[tuple[str, int]],
        place: Place,
        cross: list[Reduce],
        carried: list[Arg],
    ) -> list[Arg]:
        if isinstance(lo, Const) and isinstance(hi, Const) and lo.value >= hi.value:
            return carried
        with self.b.loop(lo, hi, Const(size, "i"), carried) as body, self.frame():
            self.locals[f"{axis}:l"] = body.index
            inner = [{**place, axis: (f"{axis}:l", k)} for k in range(size)]
            if rest:
                assert size == 1, "only the innermost looped axis has blocks"
                body.next = self.loops(rest, inner[0], cross, list(body.phis))
            else:
                body.next = self.lanes(place, cross, list(body.phis), (axis, size))
        return list(body.results)

    def lanes(
        self, place: Place, cross: list[Reduce], carried: list[Arg], block: tuple[str, int] | None = None
    ) -> list[Arg]:
        """The lane axis of one block: fixed vectors, or a loop over vectors and the rest."""
        rows: list[Place] = [place]
        if block is not None:
            axis, size = block
            rows = [{**place, axis: (f"{axis}:l", k)} for k in range(size)]
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
        with self.b.loop(Const(0, "i"), whole, Const(w, "i"), carried) as body, self.frame():
            self.locals[local] = body.index
            body.next = self.block([{**r, self.lane: (local, 0)} for r in rows], cross, list(body.phis))
        carried = list(body.results)
        rest = self.b.isub(count, whole)
        if rest == Const(0, "i"):
            return carried
        with self.b.when(self.b.icmp("gt", rest, Const(0, "i")), carried) as then, self.frame():
            self.locals[local] = whole
            self.tail = rest
            then.values = self.block([{**r, self.lane: (local, 0)} for r in rows], cross, carried)
            self.tail = None
        return list(then.results)

    def block(self, places: list[Place], cross: list[Reduce], carried: list[Arg]) -> list[Arg]:
        """All statements on one block: `places` are its vectors (or elements)."""
        carried = list(carried)
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
            else:
                for p in places:
                    self.write(s.target, self.value_for(s.target, s.value, p), p)
        self.flush()
        return carried

    def guarded(self, s: Reduce, value: Arg) -> Arg:
        """The value with the idle lanes of the last vector at the identity, where lanes are reduced."""
        if self.tail is None or self.lane not in s.over:
            return value
        mask = self.b.pure("m", "first", self.tail)
        return self.b.pure("v", "select", mask, self.as_type(value, "v"), Const(self.identity(s.op), "v"))

    # reductions ---------------------------------------------------------------------------------------------------------

    def integral(self, target: Scalar) -> bool:
        """Whether a target is an array of integers or bits: its statements run on integers, one element at a time."""
        return self.store.elements.get(target.args[0]) in ("i64", "u8")

    def value_for(self, target: Scalar, s: Scalar, place: Place) -> Arg:
        return self.int_value_of(s, place) if self.integral(target) else self.value(s, place)

    def int_value_of(self, s: Scalar, place: Place) -> Arg:
        """The value of a scalar that is an integer."""
        match s.op:
            case "lit":
                number = max(min(float(s.args[0]), float(INTEGER_LIMIT)), -float(INTEGER_LIMIT))
                return Const(int(number), "i")
            case "int":
                return self.int_value(s.args[0], place)
            case "select":
                c = self.cond(s.args[0], place)
                x, y = self.int_value_of(s.args[1], place), self.int_value_of(s.args[2], place)
                return self.b.pure("i", "select", c, x, y)
        return self.b.pure("i", "f2i", self.value(s, place))

    def inner_integer(self, s: Reduce, places: list[Place]) -> None:
        """A reduction of integers, over one axis."""
        (axis,) = s.over
        op = {"add": "iadd", "mul": "imul", "min": "imin", "max": "imax"}[s.op]
        for p in places:
            identity = self.int_value_of(lit(self.identity(s.op)), p)
            with self.b.loop(Const(0, "i"), self.count(axis), Const(1, "i"), [identity]) as body, self.frame():
                self.locals[f"{axis}:l"] = body.index
                value = self.int_value_of(s.value, {**p, axis: (f"{axis}:l", 0)})
                body.next = [self.b.pure("i", op, body.phis[0], value)]
            self.write(s.target, body.results[0], p)

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
            with self.b.loop(Const(0, "i"), self.count(axis), Const(1, "i"), accs) as body, self.frame():
                self.locals[f"{axis}:l"] = body.index
                body.next = rounds(tuple(rest), {**place, axis: (f"{axis}:l", 0)}, list(body.phis))
            return list(body.results)

        for p, value in zip(targets, rounds(s.over, {}, start), strict=True):
            self.write(s.target, value, p)

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
            with self.b.loop(Const(0, "i"), whole, Const(w, "i"), accs) as body, self.frame():
                self.locals[local] = body.index
                body.next = vector(list(body.phis), place)
            rest_count = self.b.isub(count, whole)
            accs = list(body.results)
            if rest_count == Const(0, "i"):
                return accs
            with self.b.when(self.b.icmp("gt", rest_count, Const(0, "i")), accs) as then, self.frame():
                self.locals[local] = whole
                self.tail = rest_count
                then.values = vector(accs, place)
                self.tail = None
            return list(then.results)

        start: list[Arg] = [Const(self.identity(s.op), "v") for _ in places]
        for p, acc in zip(places, rounds(others, {}, start), strict=True):
            value = self.b.pure("f", "reduce", acc, attrs=(FOLDED[s.op],))
            if not s.fresh:
                value = self.combine(s.op, self.read(s.target, p), value)
            self.write(s.target, value, p)
        self.flush()

    # positions ------------------------------------------------------------------------------------------------------------

    @contextmanager
    def frame(self) -> Iterator[None]:
        self.frames.append(Frame())
        yield
        self.frames.pop()

    def env(self, name: str) -> Arg:
        return self.locals[name] if name in self.locals else self.outer(name)

    def count(self, axis: str) -> Arg:
        a = self.store.axes[axis]
        if a.role == "whole":
            return self.address.poly(a.extent, self.env)
        return self.outer(f"{axis}#")

    def origin(self, axis: str) -> Poly:
        return const(0) if self.store.axes[axis].role == "whole" else var(f"{axis}@0")

    def global_poly(self, p: Poly, place: Place) -> Poly:
        """An index over local variables and origins."""
        names = {}
        for axis, (symbol, k) in place.items():
            names[axis] = self.origin(axis) + (var(symbol) if symbol else const(0)) + k
        return p.rename(names)

    def int_value(self, p: Poly, place: Place) -> Arg:
        return self.address.poly(self.global_poly(p, place), self.env)

    # values ---------------------------------------------------------------------------------------------------------------

    def prepare(self, s: Scalar, place: Place, over: tuple[str, ...]) -> None:
        """Evaluates, before an inner loop, the largest parts that do not change in it."""
        if s.op == "lit":
            return
        if not any(a in s.vars() for a in over):
            self.value(s, place)
        else:
            for x in s.operands:
                self.prepare(x, place, over)

    def value(self, s: Scalar, place: Place) -> Arg:
        """The value of a scalar at a place: a vector where it depends on the lane axis."""
        if s.op == "lit":
            return Const(float(s.args[0]), "f")
        key = (s, tuple((v, place[v]) for v in sorted(s.vars()) if v in place))
        if s.op == "load":
            held = self.current.get(self.position(s, place))
            if held is not None:
                return held[0]
        for f in self.frames:
            if key in f.memo:
                return f.memo[key]
        out = self.compute(s, place)
        if not any(x.op == "load" and x.args[0] in self.store.tiles for x in subterms(s)) or s.op == "load":
            self.frames[-1].memo[key] = out
        return out

    def compute(self, s: Scalar, place: Place) -> Arg:
        b = self.b
        match s.op:
            case "int":
                return self.integer(s.args[0], place)
            case "param":
                return self.address.slot(Slot("host", s.args[0]))
            case "load":
                return self.load(s, place)
            case "select":
                c = self.cond(s.args[0], place)
                x, y = self.value(s.args[1], place), self.value(s.args[2], place)
                kind: Type = "v" if "v" in (x.type, y.type) or c.type == "m" else "f"
                return b.pure(kind, "select", c, self.as_type(x, kind), self.as_type(y, kind))
            case "add" | "sub" if any(x.op == "mul" for x in s.args):
                return self.fused(s, place)
        args = [self.value(x, place) for x in s.operands]
        kind = "v" if any(a.type == "v" for a in args) else "f"
        op = BINARY[s.op] if len(args) == 2 else UNARY[s.op]
        return b.pure(kind, op, *(self.as_type(a, kind) for a in args))

    def fused(self, s: Scalar, place: Place) -> Arg:
        """x * y + z, x * y - z or z - x * y with one rounding."""
        left, right = s.args
        product, other, first = (left, right, True) if left.op == "mul" else (right, left, False)
        x, y, z = (self.value(t, place) for t in (*product.args, other))
        kind: Type = "v" if any(t.type == "v" for t in (x, y, z)) else "f"
        x, y, z = (self.as_type(t, kind) for t in (x, y, z))
        if s.op == "sub" and first:
            z = self.b.pure(kind, "fneg", z)
        elif s.op == "sub":
            x = self.b.pure(kind, "fneg", x)
        return self.b.pure(kind, "fma", x, y, z)

    def as_type(self, a: Arg, kind: Type) -> Arg:
        if a.type == kind:
            return a
        assert (a.type, kind) in (("f", "v"), ("b", "m")), (a, kind)
        return self.b.pure(kind, "splat" if kind == "v" else "bsplat", a)

    def linear(self, p: Poly, place: Place) -> tuple[Poly, int] | None:
        """(value at the first lane, step along the lanes) where a polynomial is linear along them with a literal step."""
        if self.lane is None or self.lane not in p.vars():
            return self.global_poly(p, place), 0
        c = p.coefficient(self.lane)
        step = None if c is None else c.as_int()
        return None if step is None else (self.global_poly(p, place), step)

    def integer(self, p: Poly, place: Place) -> Arg:
        """An integer expression as a float."""
        b = self.b
        line = self.linear(p, place)
        if line is None:
            return self.each_lane(lambda at: b.pure("f", "i2f", self.int_value(p, at)), place)
        start = self.address.poly(line[0], self.env)
        if line[1] == 0:
            return b.pure("f", "i2f", start)
        lanes = b.pure("w", "lanes")
        if line[1] != 1:
            lanes = b.pure("w", "wmul", lanes, Const(line[1], "w"))
        return b.pure("v", "w2v", b.pure("w", "wadd", b.pure("w", "wsplat", start), lanes))

    def each_lane(self, f: Callable[[Place], Arg], place: Place) -> Arg:
        """A vector made lane by lane; positions beyond the end are clamped to the last one."""
        assert self.lane is not None
        out: Arg = Const(0.0, "v")
        for k, at in enumerate(self.lane_places(place)):
            out = self.b.pure("v", "insert", out, f(at), attrs=(k,))
        return out

    def lane_places(self, place: Place) -> Iterator[Place]:
        assert self.lane is not None
        symbol, base = place[self.lane]
        last = self.b.isub(self.count(self.lane), Const(1, "i"))
        for k in range(self.store.width):
            if self.tail is None and not self.rows:
                yield {**place, self.lane: (symbol, base + k)}
                continue
            at = self.address.poly((var(symbol) if symbol else const(0)) + base + k, self.env)
            name = f"{self.lane}:{symbol}{base + k}"
            self.locals[name] = self.b.imin(at, last)
            yield {**place, self.lane: (name, 0)}

    def cond(self, c: Cond, place: Place) -> Arg:
        """A condition at a place: a mask where it depends on the lane axis."""
        b = self.b
        if c.op in ("true", "false"):
            return Const(c.op == "true", "b")
        if c.op in ("and", "or"):
            parts = [self.cond(x, place) for x in c.args]
            kind: Type = "m" if any(p.type == "m" for p in parts) else "b"
            out = self.as_type(parts[0], kind)
            for p in parts[1:]:
                out = b.pure(kind, "band" if c.op == "and" else "bor", out, self.as_type(p, kind))
            return out
        if c.op == "not":
            x = self.cond(c.args[0], place)
            return b.pure(x.type, "bnot", x)
        if c.op == "cmp":
            x, y = self.value(c.args[1], place), self.value(c.args[2], place)
            if "v" in (x.type, y.type):
                return b.pure("m", "fcmp", self.as_type(x, "v"), self.as_type(y, "v"), attrs=(c.args[0],))
            return b.pure("b", "fcmp", x, y, attrs=(c.args[0],))
        if self.lane is None or self.lane not in c.vars():
            return self.scalar_cond(c, place)
        if c.op in ("ge", "eq"):
            line = self.linear(c.args[0], place)
            if line is not None and line[1] in (1, -1):
                return self.lane_test(c.op, self.address.poly(line[0], self.env), line[1])
        flags = self.each_lane(
            lambda at: b.pure("f", "select", self.scalar_cond(c, at), Const(1.0, "f"), Const(0.0, "f")), place
        )
        return b.pure("m", "fcmp", flags, Const(0.5, "v"), attrs=("gt",))

    def lane_test(self, op: str, start: Arg, step: int) -> Arg:
        """start + step * lane >= 0 (or == 0) for each lane: the crossing lane is clamped, so nothing overflows."""
        b = self.b
        cross = start if step < 0 else b.isub(Const(0, "i"), start)  # lane <= start, or lane >= -start
        cross = b.imin(b.imax(cross, Const(-1, "i")), Const(self.store.width, "i"))
        relation = "eq" if op == "eq" else ("le" if step < 0 else "ge")
        return b.pure("m", "wcmp", b.pure("w", "lanes"), b.pure("w", "wsplat", cross), attrs=(relation,))

    def scalar_cond(self, c: Cond, place: Place) -> Arg:
        names = {a.name for a in c.atoms() if a.kind == "var"}
        at = {v: p for v, p in place.items() if v in names}

        def substitute(a: object) -> Poly | None:
            name = getattr(a, "name", "")
            if getattr(a, "kind", "") == "var" and name in at:
                return self.global_poly(var(name), at)
            return None

        return self.address.cond(c.replace(substitute), self.env)

    # memory ---------------------------------------------------------------------------------------------------------------

    def position(self, s: Scalar, place: Place) -> tuple[str, tuple[Poly, ...]]:
        return s.args[0], tuple(self.global_poly(p, place) for p in s.args[1])

    def read(self, target: Scalar, place: Place) -> Arg:
        return self.value(target, place)

    def write(self, target: Scalar, value: Arg, place: Place) -> None:
        """Keeps the value of a tile until the block ends; stores into arrays at once."""
        lanes = self.lane is not None and any(self.lane in p.vars() for p in target.args[1])
        value = self.as_type(value, "v") if lanes else value
        if target.args[0] in self.store.tiles:
            self.current[self.position(target, place)] = (value, target.args[1], dict(place))
            for f in self.frames:
                for key in [k for k in f.memo if k[0] is target]:
                    del f.memo[key]
        else:
            self.store_at(target.args[0], target.args[1], value, place)

    def flush(self) -> None:
        """Stores every tile value of the block."""
        for (array, _), (value, index, place) in self.current.items():
            self.store_at(array, index, value, place)
        self.current.clear()

    def offset(self, array: str, index: Index, place: Place) -> tuple[Arg, Poly, Element]:
        """(pointer, offset in elements, element type)."""
        where = tuple(self.global_poly(p, place) for p in index)
        if array in self.store.tiles:
            axes, strides = self.store.tiles[array], self.store.strides[array]
            offset = const(0)
            for p, axis, step in zip(where, axes, strides, strict=True):
                offset = offset + (p - self.origin(axis)) * step
            at = self.address.poly(self.store.offsets[array], self.env)
            return self.b.pure("p", "offset", self.workspace, at, attrs=("u8",)), offset, self.store.element
        offset = const(0)
        strides = self.store.strides[array]
        for p, q, extent, step in zip(index, where, self.store.shapes[array], strides, strict=False):
            # selects may discard what lies outside the axis: what may lie there is clamped into it
            within = q if self.inside(p, extent) else maximum(minimum(q, extent - 1), const(0))
            offset = offset + within * step
        return self.address.pointer(array), offset, self.store.elements[array]

    def inside(self, p: Poly, extent: Poly) -> bool:
        """Whether an index is inside an axis by construction: a variable whose own axis is no longer, or a literal."""
        v = p.as_var()
        if v is None or v not in self.store.axes:
            return p.as_int() is not None
        room = (extent - self.store.axes[v].extent).as_int()
        return room is not None and room >= 0

    def load(self, s: Scalar, place: Place) -> Arg:
        array, index = s.args
        if self.lane is None or not any(self.lane in p.vars() for p in index):
            pointer, offset, element = self.offset(array, index, place)
            return self.b.here("f", "load", pointer, self.address.poly(offset, self.env), attrs=(element, False))
        if not self.unit(array, index):

            def one(at: Place) -> Arg:
                pointer, offset, element = self.offset(array, index, at)
                return self.b.here("f", "load", pointer, self.address.poly(offset, self.env), attrs=(element, False))

            return self.each_lane(one, place)
        in_tile = array in self.store.tiles
        last = self.global_poly(index[-1], place)
        if in_tile or self.inside(index[-1], self.store.shapes[array][-1]):
            pointer, offset, element = self.offset(array, index, place)
            at = self.address.poly(offset, self.env)
            mask = None if in_tile else self.lane_mask(place)
        else:  # shifted: lanes outside the axis are not read
            start, extent = self.address.poly(last, self.env), self.store.shapes[array][-1]
            upper = self.b.isub(self.address.poly(extent, self.env), start)
            mask = self.b.pure("m", "first", upper)
            lower = self.b.pure("m", "first", self.b.isub(Const(0, "i"), start))
            mask = self.b.pure("m", "band", mask, self.b.pure("m", "bnot", lower))
            pointer, offset, element = (
                self.offset(array, index[:-1], place)
                if len(index) > 1
                else (self.address.pointer(array), const(0), self.store.elements[array])
            )
            at = self.b.iadd(self.address.poly(offset, self.env), start)
        if mask is None:
            aligned = in_tile and self.aligned(array, index, place)
            return self.b.here("v", "load", pointer, at, attrs=(element, aligned))
        return self.b.here("v", "loadm", pointer, at, mask, attrs=(element, False))

    def unit(self, array: str, index: Index) -> bool:
        """Whether consecutive lanes are consecutive elements."""
        assert self.lane is not None
        if any(self.lane in p.vars() for p in index[:-1]) or self.store.strides[array][-1] != const(1):
            return False
        c = index[-1].coefficient(self.lane)
        return c is not None and c.as_int() == 1

    def aligned(self, array: str, index: Index, place: Place) -> bool:
        """Whether a vector of a tile starts at a multiple of the width: its row does, and so does its position."""
        assert self.lane is not None
        local = self.global_poly(index[-1], place) - self.origin(self.lane)
        return local.as_int() is not None or local == var(f"{self.lane}:l")

    def lane_mask(self, place: Place) -> Arg | None:
        """The lanes that exist, None where all do."""
        if self.rows:
            assert self.lane is not None
            symbol, base = place[self.lane]
            at = self.address.poly((var(symbol) if symbol else const(0)) + base, self.env)
            return self.b.pure("m", "first", self.b.isub(self.count(self.lane), at))
        return None if self.tail is None else self.b.pure("m", "first", self.tail)

    def store_at(self, array: str, index: Index, value: Arg, place: Place) -> None:
        b = self.b
        in_tile = array in self.store.tiles
        if value.type in ("f", "i"):
            pointer, offset, element = self.offset(array, index, place)
            if element == "u8":
                value = b.icmp("ne", value, Const(0, "i"))
            b.here(None, "store", pointer, self.address.poly(offset, self.env), value, attrs=(element, False))
            return
        if self.unit(array, index):
            pointer, offset, element = self.offset(array, index, place)
            at = self.address.poly(offset, self.env)
            mask = None if in_tile else self.lane_mask(place)
            if mask is None:
                aligned = in_tile and self.aligned(array, index, place)
                b.here(None, "store", pointer, at, value, attrs=(element, aligned))
            else:
                b.here(None, "storem", pointer, at, value, mask, attrs=(element, False))
            return
        if not self.rows and self.tail is None:
            for k, at_lane in enumerate(self.lane_places(place)):
                pointer, offset, element = self.offset(array, index, at_lane)
                lane = b.pure("f", "extract", value, attrs=(k,))
                b.here(None, "store", pointer, self.address.poly(offset, self.env), lane, attrs=(element, False))
            return
        self.scatter(array, index, value, place)

    def scatter(self, array: str, index: Index, value: Arg, place: Place) -> None:
        """Stores the lanes that exist one by one, through a vector of room in the workspace."""
        assert self.lane is not None
        b, w = self.b, self.store.width
        room = b.pure("p", "offset", self.workspace, self.address.poly(self.store.spill, self.env), attrs=("u8",))
        b.here(None, "store", room, Const(0, "i"), value, attrs=(self.store.element, True))
        symbol, base = place[self.lane]
        first = self.address.poly((var(symbol) if symbol else const(0)) + base, self.env)
        left = b.imin(b.isub(self.count(self.lane), first), Const(w, "i"))
        with b.loop(Const(0, "i"), left, Const(1, "i"), []) as body, self.frame():
            name = f"{self.lane}:{symbol}{base}s"
            self.locals[name] = b.iadd(first, body.index)
            one = b.here("f", "load", room, body.index, attrs=(self.store.element, False))
            pointer, offset, element = self.offset(array, index, {**place, self.lane: (name, 0)})
            b.here(None, "store", pointer, self.address.poly(offset, self.env), one, attrs=(element, False))
