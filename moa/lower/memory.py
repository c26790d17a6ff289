"""Where the values of a nest are: positions, addresses, loads and stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from moa.loops import Arg, Const, Element, Type
from moa.lower.address import Address
from moa.lower.builder import Builder, LoopBody
from moa.normal import Index, Scalar
from moa.poly import Atom, Poly, const, maximum, minimum, var
from moa.tiles import Nest, TileAxis

Local = tuple[str, int]  # position inside a tile: a local loop variable ("" for none) plus a constant
Place = dict[str, Local]


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
    spill: Poly  # bytes: room for one vector, or for the partial results of every warp
    warps: int = 0  # that share a work item; 0 where one thread does all of it
    pairs: Mapping[str, str] = field(default_factory=dict)  # tiles of pairs: the axis of which two are one word
    inner: frozenset[str] = frozenset()  # tiles that are values of the blocks of nests, and nowhere in memory


@dataclass(slots=True)
class Frame:
    """What is known at one depth of the nest."""

    memo: dict[tuple[object, ...], Arg] = field(default_factory=dict)


class Memory:
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
        self.tail: Arg | None = None  # lanes of the last, incomplete vector: how many
        self.lane = nest.lane
        self.rows = nest.lane is not None and nest.lane == store.row  # lanes are the rows of the item: all of them
        self.placed: dict[tuple[Poly, tuple[tuple[str, Local], ...]], Poly] = {}
        self.data: Callable[[Atom], Arg] | None = None  # an integer of the data, read before the nest

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
        used = p.vars()
        if not used:
            return p
        at = tuple((axis, local) for axis, local in place.items() if axis in used)
        found = self.placed.get((p, at))
        if found is None:
            names = {axis: self.origin(axis) + (var(s) if s else const(0)) + k for axis, (s, k) in at}
            found = self.placed[p, at] = p.rename(names) if names else p
        return found

    def int_value(self, p: Poly, place: Place) -> Arg:
        return self.address.poly(self.global_poly(p, place), self.env)

    def int_of_item(self, p: Poly, place: Place) -> Arg:
        """The same, what the data say of the work item being read once, before the nest."""

        def of_item(a: Atom) -> Poly | None:
            names = [q.as_var() for q in a.args] if a.kind == "load" else [None]
            axes = [self.store.axes.get(v) for v in names if v is not None]
            if (
                self.data is None
                or len(axes) < len(names)
                or any(x is None or x.role != "item" or x.step > 1 for x in axes)
            ):
                return None
            if str(a) not in self.locals:
                self.locals[str(a)] = self.data(a)
            return var(str(a))

        return self.int_value(p.replace(of_item), place)

    def as_type(self, a: Arg, kind: Type) -> Arg:
        if a.type == kind:
            return a
        assert (a.type, kind) in (("f", "v"), ("b", "m")), (a, kind)
        return self.b.pure(kind, "splat" if kind == "v" else "bsplat", a)

    def each_lane(self, f: Callable[[Place], Arg], place: Place) -> Arg:
        """A vector made lane by lane; positions beyond the end are clamped to the last one."""
        assert self.lane is not None
        if self.store.warps:
            return self.own_lane(f, place)
        out: Arg = Const(0.0, "v")
        for k, at in enumerate(self.lane_places(place)):
            out = self.b.pure("v", "insert", out, f(at), attrs=(k,))
        return out

    def own_lane(self, f: Callable[[Place], Arg], place: Place) -> Arg:
        """The same, each lane making its own element at once."""
        assert self.lane is not None
        b = self.b
        last = b.isub(self.count(self.lane), Const(1, "i"))
        with self.over_lanes([Const(0.0, "v")]) as body, self.frame():
            own = self.at_lane(place, body.index, last if self.tail is not None or self.rows else None)
            mine = b.pure("m", "wcmp", b.pure("w", "lanes"), b.pure("w", "wsplat", body.index), attrs=("eq",))
            body.next = [b.pure("v", "select", mine, self.as_type(f(own), "v"), body.phis[0])]
        return body.results[0]

    def over_lanes(self, first: list[Arg]) -> AbstractContextManager[LoopBody]:
        return self.b.loop(Const(0, "i"), Const(self.store.width, "i"), Const(1, "i"), first, "lanes")

    def first_in(self, place: Place) -> Arg:
        """The position of the first lane of a vector."""
        assert self.lane is not None
        symbol, base = place[self.lane]
        return self.address.poly((var(symbol) if symbol else const(0)) + base, self.env)

    def at_lane(self, place: Place, lane: Arg, last: Arg | None) -> Place:
        """The place of one lane of a vector, clamped to the last position where there is one."""
        assert self.lane is not None
        symbol, base = place[self.lane]
        name = f"{self.lane}:{symbol}{base}@"
        at = self.b.iadd(self.first_in(place), lane)
        self.locals[name] = at if last is None else self.b.imin(at, last)
        return {**place, self.lane: (name, 0)}

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

    def lane_mask(self, place: Place) -> Arg | None:
        """The lanes that exist, None where all do."""
        if self.rows:
            assert self.lane is not None
            symbol, base = place[self.lane]
            at = self.address.poly((var(symbol) if symbol else const(0)) + base, self.env)
            return self.b.pure("m", "first", self.b.isub(self.count(self.lane), at))
        return None if self.tail is None else self.b.pure("m", "first", self.tail)

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
        """Whether an index is inside an axis by construction: a literal, or a variable, and what is added, ends there.

        What is added is not negative: a size, or the extent of the variable's axis, which has a position.
        """
        names = p.vars()
        if len(names) != 1:
            return p.as_int() is not None or self.inside_round(p, extent)
        (v,) = names
        if v not in self.store.axes:
            return False
        shift, own = p - var(v), self.store.axes[v].extent
        room = (extent - own - shift).as_int()
        if shift.vars() or room is None or room < 0:
            return False
        known = shift.as_int()
        if known is not None:
            return known >= 0
        return shift == own or all(c > 0 and all(a.kind == "size" for a in m) for m, c in shift.terms)

    def inside_round(self, p: Poly, extent: Poly) -> bool:
        """Whether an index is a place of a round, where it begins added, and the places end where the axis does."""
        for v in p.vars():
            axis, start = self.store.axes.get(v), p - var(v)
            if axis is None or axis.role != "whole" or (end := axis.extent.as_atom()) is None or end.kind != "min":
                continue
            loops = all(w in self.store.axes and self.store.axes[w].role == "loop" for w in start.vars())
            if loops and all(c > 0 for _, c in start.terms) and any(start + x == extent for x in end.args):
                return True
        return False

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
        if self.store.warps:
            return False  # threads load their elements one by one, and rows are padded
        local = self.global_poly(index[-1], place) - self.origin(self.store.tiles[array][-1])
        for start in (local, local - var(f"{self.lane}:l")):
            known = start.as_int()
            if known is not None:
                return known % self.store.width == 0
        return False

    def load(self, s: Scalar, place: Place, kind: Type = "v") -> Arg:
        """An element, or those of all lanes: as numbers, or (kind w) as their bits."""
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
            self.prefetch(array, index, place)
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
            return self.b.here(kind, "load", pointer, at, attrs=(element, aligned))
        return self.b.here(kind, "loadm", pointer, at, mask, attrs=(element, False))

    def prefetch(self, array: str, index: Index, place: Place) -> None:
        """Asks for the same vector of the next round of the loop that the nest looks ahead in."""
        axis = self.nest.ahead
        if axis is None or array in self.store.tiles or not any(axis in p.vars() for p in index):
            return
        further = place
        if axis in place:
            symbol, base = place[axis]
            further = {**place, axis: (symbol, base + self.store.axes[axis].step)}
        else:  # a loop of single steps
            index = tuple(p.rename({axis: var(axis) + 1}) for p in index)
        where = tuple(self.global_poly(p, further) for p in index)
        offset = const(0)
        for p, step in zip(where, self.store.strides[array], strict=True):
            offset = offset + p * step
        element = self.store.elements[array]
        self.b.here(
            None, "prefetch", self.address.pointer(array), self.address.poly(offset, self.env), attrs=(element,)
        )

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
        if self.store.warps:
            self.own_lane_store(array, index, value, place)
        elif not self.rows and self.tail is None:
            for k, at_lane in enumerate(self.lane_places(place)):
                pointer, offset, element = self.offset(array, index, at_lane)
                lane = b.pure("f", "extract", value, attrs=(k,))
                b.here(None, "store", pointer, self.address.poly(offset, self.env), lane, attrs=(element, False))
        else:
            self.scatter(array, index, value, place)

    def own_lane_store(self, array: str, index: Index, value: Arg, place: Place) -> None:
        """Stores the lanes that exist, each lane its own element."""
        assert self.lane is not None
        b = self.b
        left: Arg = Const(self.store.width, "i") if self.tail is None else self.tail
        if self.rows:
            left = b.isub(self.count(self.lane), self.first_in(place))
        with self.over_lanes([]) as body, self.frame(), b.when(b.icmp("lt", body.index, left), []), self.frame():
            pointer, offset, element = self.offset(array, index, self.at_lane(place, body.index, None))
            own = b.here("f", "pick", value, body.index)
            b.here(None, "store", pointer, self.address.poly(offset, self.env), own, attrs=(element, False))

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
