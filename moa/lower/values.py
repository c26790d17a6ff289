"""The values of scalars and conditions in a nest: vectors where they depend on the lane axis."""

from __future__ import annotations

from collections.abc import Callable

from moa.loops import Arg, Const, Type
from moa.lower.address import Address, Slot
from moa.lower.builder import Builder
from moa.lower.memory import Memory, Place, Store
from moa.normal import Cond, Index, Scalar, subterms
from moa.poly import Poly, var
from moa.tile.congruence import congruence
from moa.tile.place import lane_load
from moa.tiles import Nest

INTEGER_LIMIT = 1 << 62
BINARY = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv", "max": "fmaxn", "min": "fminn"}
UNARY = {"neg": "fneg", "abs": "fabs", "sqrt": "fsqrt"} | {f: f for f in ("exp", "exp2", "log", "tanh", "erf")}


class Values(Memory):
    """Evaluates scalars; keeps what a block writes to tiles until the block ends."""

    def __init__(
        self, store: Store, b: Builder, address: Address, workspace: Arg, outer: Callable[[str], Arg], nest: Nest
    ) -> None:
        super().__init__(store, b, address, workspace, outer, nest)
        self.current: dict[tuple[str, tuple[Poly, ...]], tuple[Arg, Index, Place]] = {}

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

    def linear(self, p: Poly, place: Place) -> tuple[Poly, int] | None:
        """(value at the first lane, step along the lanes) of a polynomial that is linear there, else None."""
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
            divided = congruence(c.args[0], self.lane) if c.op == "eq" and not self.store.warps else None
            if divided is not None:
                return self.rest_test(*divided, place)
            loaded = lane_load(c.args[0], self.lane)
            if loaded is not None and self.readable(*loaded[1:3]):
                sign, array, index, rest = loaded
                other = self.int_value(-rest if sign > 0 else rest, place)
                return self.data_test(array, index, "eq" if c.op == "eq" else "ge" if sign > 0 else "le", other, place)
        if c.op == "load" and self.readable(*c.args):
            return self.data_test(c.args[0], c.args[1], "ne", Const(0, "i"), place)
        flags = self.each_lane(
            lambda at: b.pure("f", "select", self.scalar_cond(c, at), Const(1.0, "f"), Const(0.0, "f")), place
        )
        return b.pure("m", "fcmp", flags, Const(0.5, "v"), attrs=("gt",))

    def readable(self, array: str, index: Index) -> bool:
        """Whether lanes are consecutive elements of an array, none of them outside it."""
        unit = self.unit(array, index) and self.inside(index[-1], self.store.shapes[array][-1])
        return unit and not self.store.warps and array not in self.store.tiles

    def data_test(self, array: str, index: Index, relation: str, other: Arg, place: Place) -> Arg:
        """Elements of an integer or bool array along the lanes against an integer."""
        pointer, offset, element = self.offset(array, index, place)
        mask = self.lane_mask(place) or Const(True, "m")
        at = self.address.poly(offset, self.env)
        return self.b.here("m", "test", pointer, at, other, mask, attrs=(element, relation))

    def lane_test(self, op: str, start: Arg, step: int) -> Arg:
        """start + step * lane >= 0 (or == 0) for each lane: the crossing lane is clamped, so nothing overflows."""
        b = self.b
        cross = start if step < 0 else b.isub(Const(0, "i"), start)  # lane <= start, or lane >= -start
        cross = b.imin(b.imax(cross, Const(-1, "i")), Const(self.store.width, "i"))
        relation = "eq" if op == "eq" else ("le" if step < 0 else "ge")
        return b.pure("m", "wcmp", b.pure("w", "lanes"), b.pure("w", "wsplat", cross), attrs=(relation,))

    def rest_test(self, a: Poly, d: Poly, place: Place) -> Arg:
        """Whether d divides a, for each lane: its own rest by d against that of -a at the first lane."""
        b = self.b
        line = self.linear(a, place)
        assert line is not None
        start = self.address.poly(line[0], self.env)
        divisor = self.int_of_item(d, place)
        wanted = b.pure("i", "imod", start if line[1] < 0 else b.isub(Const(0, "i"), start), divisor)
        rests: Arg = Const(0.0, "v")
        for k in range(self.store.width):
            rest = b.pure("i", "imod", Const(k, "i"), divisor)
            rests = b.pure("v", "insert", rests, b.pure("f", "i2f", rest), attrs=(k,))
        return b.pure("m", "fcmp", rests, self.as_type(b.pure("f", "i2f", wanted), "v"), attrs=("eq",))

    def scalar_cond(self, c: Cond, place: Place) -> Arg:
        names = {a.name for a in c.atoms() if a.kind == "var"}
        at = {v: p for v, p in place.items() if v in names}

        def substitute(a: object) -> Poly | None:
            name = getattr(a, "name", "")
            if getattr(a, "kind", "") == "var" and name in at:
                return self.global_poly(var(name), at)
            return None

        return self.address.cond(c.replace(substitute), self.env)

    # integers -----------------------------------------------------------------------------------------------------

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

    # tiles in registers -------------------------------------------------------------------------------------------

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
            if array not in self.store.inner:
                self.store_at(array, index, value, place)
        self.current.clear()
