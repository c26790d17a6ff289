"""Lower: Tiles -> Loops. Work items, tile loops, and each nest as a function.

ONF is this same function with width 1 and blocks of 1; nothing here knows a size but those in the nests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from moa.loops import ELEMENT_BYTES, Arg, CallFn, Carried, Const, Element, Fn, For, If, Loops, Name, Op, Stmt
from moa.lower.address import Address, Slot, stride
from moa.lower.barriers import Barriers, touched
from moa.lower.builder import Block, Builder
from moa.lower.columns import LINE, in_columns
from moa.lower.memory import Store
from moa.lower.nest import NestLowering
from moa.lower.order import OrderLowering, made_whole, order_bytes
from moa.lower.sharing import places
from moa.lower.sift import Sifting
from moa.normal import scalar_atoms
from moa.poly import Poly, const, maximum
from moa.tiles import Array, Loop, Nest, Phase, Sift, Tiles, TileStmt, When, nests

__all__ = ["Lowered", "Slot", "lower"]

BANK_BYTES = 16  # that rows of tiles are longer for threads, so that a column is spread over the banks
SKEW = 320  # bytes between tiles, so that no two streams are a multiple of 4 KiB apart
KIND_ELEMENT: dict[str, Element] = {"i": "i64", "b": "u8"}


@dataclass(frozen=True, slots=True)
class Lowered:
    """Loops, and what a call has to pass: the slots of the packed arguments, work items and scratch of each phase."""

    loops: Loops
    slots: tuple[Slot, ...]
    items: tuple[Poly, ...]
    scratch_bytes: Poly


def lower(
    tiles: Tiles,
    dtype: Element,
    width: int,
    row_axes: dict[str, str | None],
    unit: frozenset[str],
    warps: int = 0,
    stored: Element | None = None,
) -> Lowered:
    """The loops of all phases. `unit` names the arrays whose last axis is known to be contiguous.

    warps   how many of them share a work item, each with `width` lanes; 0 where one thread does all of it
    stored  the element type of float inputs and outputs, if it is not `dtype`
    """
    slots = argument_slots(tiles)
    numbers = {s: k for k, s in enumerate(slots)}
    elements = {a.name: element(a, dtype, stored or dtype) for a in tiles.arrays}
    functions: dict[tuple[object, ...], Fn] = {}
    entries: list[Fn] = []
    items: list[Poly] = []
    scratch: list[Poly] = []
    for phase in tiles.phases:
        row = row_axes[phase.name]
        lowering = PhaseLowering(tiles, phase, dtype, width, numbers, elements, unit, row, functions, warps)
        entries.append(lowering.lower(f"phase{len(entries)}"))
        items.append(lowering.item_count())
        scratch.append(lowering.bytes)
    total = scratch[0] if scratch else const(0)
    for s in scratch[1:]:
        total = maximum(total, s)
    loops = Loops(
        "f64" if dtype == "f64" else "f32", width, (*functions.values(), *entries), tuple(e.name for e in entries)
    )
    return Lowered(loops, slots, tuple(items), total)


def element(a: Array, dtype: Element, stored: Element) -> Element:
    """The element type of an array: what the program keeps for itself is as precise as its registers."""
    return KIND_ELEMENT.get(a.kind, dtype if a.role == "workspace" else stored)


def argument_slots(tiles: Tiles) -> tuple[Slot, ...]:
    """The order of the packed arguments: arrays with their strides, sizes and integers, host scalars."""
    out: list[Slot] = []
    for a in tiles.arrays:
        out.append(Slot("pointer", a.name))
        out += [Slot("stride", a.name, k) for k in range(len(a.shape))]
    names: dict[str, None] = {}
    for a in tiles.arrays:
        for extent in a.shape:
            for x in sorted(extent.atoms(), key=str):
                if x.kind in ("size", "int"):
                    names[x.name] = None
    names |= dict.fromkeys(sorted(tiles_atoms(tiles)))
    out += [Slot("size", n) for n in names]
    out += [Slot("host", name) for name, _ in tiles.hosts]
    return tuple(out)


def tiles_atoms(tiles: Tiles) -> set[str]:
    """Names of the sizes and integer parameters that statements and ranges use."""
    found: set[str] = set()

    def note(atoms: object) -> None:
        for a in atoms:  # type: ignore[attr-defined]
            if a.kind in ("size", "int"):
                found.add(a.name)

    def walk(body: tuple[TileStmt, ...]) -> None:
        for s in body:
            match s:
                case Loop():
                    note(s.lo.atoms() | s.hi.atoms())
                    walk(s.body)
                case When():
                    note(s.cond.atoms())
                    walk(s.body + s.other)
                case Sift():
                    for c in s.conds:
                        note(c.atoms())
                    walk(s.every + s.some)
                case Nest():
                    for x in s.statements:
                        note(scalar_atoms(x.value) | scalar_atoms(x.target))

    for p in tiles.phases:
        for axis in p.axes:
            note(axis.extent.atoms())
        walk(p.body)
    return found


class PhaseLowering:
    """The entry function of one phase, and the functions of its nests."""

    def __init__(
        self,
        tiles: Tiles,
        phase: Phase,
        dtype: Element,
        width: int,
        slots: dict[Slot, int],
        elements: dict[str, Element],
        unit: frozenset[str],
        row: str | None,
        functions: dict[tuple[object, ...], Fn],
        warps: int = 0,
    ) -> None:
        self.phase = phase
        self.slots = slots
        self.elements = elements
        self.functions = functions
        self.width = width
        offsets: dict[str, Poly] = {}
        strides: dict[str, tuple[Poly, ...]] = {}
        size = ELEMENT_BYTES[dtype]
        line = max(LINE, width * size)
        self.places = places(phase)
        columns = frozenset() if warps else in_columns(phase, size)
        shared: dict[int, Poly] = {}
        at = const(room_bytes(phase, width, size, warps)) + order_bytes(phase)
        for t in phase.tiles:
            steps: list[Poly] = []
            step = const(1)
            for k, axis in enumerate(reversed(t.axes)):
                steps.append(step)
                capacity = phase.axis(axis).capacity
                if axis == t.pairs:
                    capacity = (capacity + 1) // 2
                if k == 0 and t.name in columns:
                    capacity = odd(capacity, line // size)
                elif k == 0:
                    capacity = rounded(capacity, width) + (BANK_BYTES // size if warps and len(t.axes) > 1 else 0)
                step = step * capacity
            strides[t.name] = tuple(reversed(steps))
            if t.space == "block":
                continue
            room = rounded(step * size, line) + (0 if warps else SKEW)
            if t.name in self.places:
                shared[self.places[t.name]] = maximum(shared.get(self.places[t.name], const(0)), room)
            else:
                offsets[t.name] = at
                at = at + room
        for place, room in shared.items():
            offsets |= {name: at for name, p in self.places.items() if p == place}
            at = at + room
        self.bytes = rounded(at, 4096)
        for a in tiles.arrays:
            inner = const(1) if a.name in unit else stride(a.name, len(a.shape) - 1)
            strides[a.name] = tuple(inner if k == len(a.shape) - 1 else stride(a.name, k) for k in range(len(a.shape)))
        self.barriers = Barriers(on=warps > 0)
        self.store = Store(
            {a.name: a for a in phase.axes},
            row,
            width,
            dtype,
            {a.name: a.shape for a in tiles.arrays},
            elements,
            {t.name: t.axes for t in phase.tiles},
            strides,
            offsets,
            const(0),
            warps,
            {t.name: t.pairs for t in phase.tiles if t.pairs},
            frozenset(t.name for t in phase.tiles if t.space == "block"),
        )

    def item_count(self) -> Poly:
        total = const(1)
        for v in self.phase.items:
            total = total * self.tiles_along(v)
        return total

    def tiles_along(self, v: str) -> Poly:
        a = self.phase.axis(v)
        return a.extent if a.step == 1 else (a.extent + (a.step - 1)) // a.step

    def lower(self, name: str) -> Fn:
        b = self.b = Builder(name, None, ("p", "i", "i", "p"))
        _, first, last, self.workspace = b.params
        self.address = Address(b, self.slots, self.elements, self.store.shapes)
        self.env: dict[str, Arg] = {}
        with b.loop(first, last, Const(1, "i"), []) as body:
            rest: Arg = body.index
            for v in reversed(self.phase.items):
                a = self.phase.axis(v)
                number = self.address.poly(self.tiles_along(v), self.env.__getitem__)
                at = rest if v == self.phase.items[0] else b.pure("i", "imod", rest, number)
                rest = b.pure("i", "idiv", rest, number) if v != self.phase.items[0] else rest
                if a.step == 1:
                    self.env[v] = at
                    continue
                if self.phase.descending:
                    at = b.isub(b.isub(number, Const(1, "i")), at)
                origin = self.env[f"{v}@0"] = b.imul(at, Const(a.step, "i"))
                extent = self.address.poly(a.extent, self.env.__getitem__)
                self.env[f"{v}#"] = b.imin(b.isub(extent, origin), Const(a.step, "i"))
            self.sifting = Sifting(b, self.address, self.store.row, self.env)
            self.statements(self.phase.body)
            self.barriers.put(b)
        return b.finish()

    def statements(self, body: tuple[TileStmt, ...]) -> None:
        known = dict(self.sifting.rows)
        self.each(body)
        self.sifting.rows = known  # what a block found is not known behind it

    def each(self, body: tuple[TileStmt, ...]) -> None:
        b = self.b
        for s in body:
            match s:
                case Loop():
                    step = Const(self.phase.axis(s.axis).step, "i")
                    lo, hi = (self.address.poly(p, self.env.__getitem__) for p in (s.lo, s.hi))
                    without = replace(self.barriers)  # there may be no round
                    conds = s.hull + tuple(c for x in s.body if isinstance(x, Sift) for c in x.conds)
                    if conds:
                        self.sifting.prepare(conds, s.axis)
                        lo, hi = self.sifting.hull(s.hull, s.axis, lo, hi)
                    with b.loop(lo, hi, step, []) as loop:
                        self.env[f"{s.axis}@0"] = self.env[s.axis] = loop.index
                        self.env[f"{s.axis}#"] = b.imin(b.isub(hi, loop.index), step)
                        self.statements(s.body)
                        self.barriers.put(b)
                    self.barriers = without
                case When():
                    cond = self.address.cond(s.cond, self.env.__getitem__)
                    then, other = Block(), Block()
                    self.barriers.put(b)
                    for side, statements in ((then, s.body), (other, s.other)):
                        with b.inside(side):
                            self.statements(statements)
                            self.barriers.put(b)
                    b.end(cond, then, other)
                case Sift():
                    self.sift(s)
                case Nest():
                    self.nest(s)

    def sift(self, s: Sift) -> None:
        b = self.b
        if not s.axis:
            self.sifting.prepare(s.conds, s.axis)
        every, none = self.sifting.tests(s.conds, s.axis)
        skipped, done, whole, part = Block(), Block(), Block(), Block()
        with b.inside(done):
            if s.every == s.some:
                self.statements(s.every)
            else:
                for side, statements in ((whole, s.every), (part, s.some)):
                    with b.inside(side):
                        self.statements(statements)
                b.end(every, whole, part)
        b.end(none, skipped, done)

    def nest(self, nest: Nest, join: bool = False) -> None:
        """A call of the function that the nest is, and of its join; nests with the same text share one."""
        inner = Builder("nest", self.b)

        def outer(name: str) -> Arg:
            return inner.use(self.env[name])

        address = Address(inner, self.slots, self.elements, self.store.shapes, self.address)
        place = self.store, inner, address, inner.use(self.workspace), outer, nest
        if made_whole(nest):
            OrderLowering(*place).lower()
            self.call(inner)
            return
        lowering = NestLowering(*place)
        lowering.data = lambda a: inner.use(self.address.atom(a, self.env.__getitem__))
        (lowering.join if join else lowering.lower)()
        read, written = touched(nest, lowering.joined, join)
        self.barriers.before(self.b, self.placed(read), self.placed(written))
        self.call(inner)
        if lowering.joined and not join:
            self.nest(nest, join=True)

    def placed(self, names: set[str]) -> set[str]:
        """The names with one for all tiles in the same place."""
        return {f"#{self.places[n]}" if n in self.places else n for n in names}

    def call(self, inner: Builder) -> None:
        fn = inner.finish()
        back = {p: a for a, p in inner.imports.items()}
        params, body = renumbered(fn)
        key = (tuple(p.type for p in params), body)
        made = self.functions.setdefault(key, Fn(f"nest{len(self.functions)}", params, body))
        self.b.call(made.name, tuple(back[p] for p in fn.params))


def room_bytes(phase: Phase, width: int, size: int, warps: int) -> int:
    """The room before the tiles: for one vector, or for the partial results of every warp."""
    if not warps:
        return LINE * 4
    vectors = max(1, max((a.step for a in phase.axes if a.role == "item"), default=1) // width)
    most = max((len(n.statements) for n in nests(phase.body)), default=1)
    return warps * vectors * most * width * size


def odd(p: Poly, line: int) -> Poly:
    """p rounded up to an odd number of lines: a column of such rows is in all sets of a cache alike."""
    return rounded(p - line, 2 * line) + line


def rounded(p: Poly, multiple: int) -> Poly:
    """p rounded up to a multiple."""
    n = p.as_int()
    if n is not None:
        return const(-(-n // multiple) * multiple)
    return (p + (multiple - 1)) // multiple * multiple


def renumbered(fn: Fn) -> tuple[tuple[Name, ...], tuple[Stmt, ...]]:
    """Parameters and body with values numbered in order of definition: equal text for equal functions."""
    names: dict[Name, Name] = {}

    def define(n: Name) -> Name:
        names[n] = Name(len(names), n.type)
        return names[n]

    def arg(a: Arg) -> Arg:
        return names[a] if isinstance(a, Name) else a

    def walk(body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        out: list[Stmt] = []
        for s in body:
            match s:
                case Op():
                    args = tuple(arg(a) for a in s.args)
                    out.append(Op(None if s.result is None else define(s.result), s.op, args, s.attrs))
                case For():
                    bounds = (arg(s.lo), arg(s.hi), arg(s.step))
                    firsts = [arg(c.first) for c in s.carried]
                    index, phis = define(s.index), [define(c.phi) for c in s.carried]
                    inner = walk(s.body)
                    nexts = [arg(c.next) for c in s.carried]
                    results = [define(c.result) for c in s.carried]
                    carried = tuple(Carried(*c) for c in zip(phis, firsts, nexts, results, strict=True))
                    out.append(For(index, *bounds, carried, inner, s.on))
                case If():
                    cond = arg(s.cond)
                    then, other = walk(s.then), walk(s.other)
                    values = [(arg(a), arg(c)) for _, a, c in s.results]
                    results = [define(r) for r, _, _ in s.results]
                    out.append(If(cond, then, other, tuple((r, *v) for r, v in zip(results, values, strict=True))))
                case CallFn():
                    out.append(CallFn(s.function, tuple(arg(a) for a in s.args)))
        return tuple(out)

    params = tuple(define(p) for p in fn.params)
    return params, walk(fn.body)
