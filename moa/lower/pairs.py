"""Pairs of bfloat16 in a nest: words that hold two neighbours along an axis, and products of them."""

from __future__ import annotations

from moa.loops import Arg, Const
from moa.lower.memory import Place
from moa.lower.values import Values
from moa.normal import Index, Scalar
from moa.poly import const
from moa.tiles import Map, Reduce

HIGH = 1 << 16
MOST_VECTORS = 4  # of pairs along the lanes that are written one after the other


class Pairs(Values):
    """Evaluates operands in pairs, and stores values into tiles of pairs."""

    lane_starts: frozenset[tuple[str, int]] = frozenset()  # of the vectors of a block

    def pairs_axis(self, s: Scalar) -> str:
        """The axis of which two neighbours are one word of the tile that s is an element of, "" for others."""
        return self.store.pairs.get(s.args[0], "")

    def pair_loop(self, axis: str) -> tuple[Arg, Arg, Arg]:
        """(first, last + 1) of the whole pairs that are visited along an axis, and whether a single element follows."""
        lo, hi = self.visit(axis)
        two = Const(2, "i")
        odd = self.b.icmp("ne", self.b.pure("i", "imod", hi, two), Const(0, "i"))
        return self.b.pure("i", "idiv", lo, two), self.b.pure("i", "idiv", hi, two), odd

    def visit(self, axis: str) -> tuple[Arg, Arg]:
        """From where to where a loop over an axis of tiles goes."""
        raise NotImplementedError

    def at_pair(self, axis: str, number: Arg) -> None:
        """Makes one pair along an axis the present one."""
        self.locals[f"{axis}:pair"] = number
        self.locals[f"{axis}:even"] = self.b.imul(number, Const(2, "i"))

    def pair(self, s: Scalar, place: Place, axis: str, single: bool = False) -> Arg:
        """The present pair along an axis: a word in each lane.

        single  the upper one does not exist, and is 0 (as in tiles)
        """
        in_tile = self.pairs_axis(s) == axis
        local = f"{axis}:pair" if in_tile else f"{axis}:even"
        place = {**place, axis: (local, 0)}
        key = ("pair", s, single, tuple((v, place[v]) for v in sorted(s.vars()) if v in place))
        for f in self.frames:
            if key in f.memo:
                return f.memo[key]
        array, index = s.args
        lanes = self.lane is not None and any(self.lane in p.vars() for p in index)
        if in_tile:
            pointer, offset, _ = self.offset(array, index, place)
            at = self.address.poly(offset, self.env)
            if single and self.store.tiles[array][-1] == axis:  # what is above it was never written
                low = self.b.pure("p", "offset", pointer, at, attrs=("pair",))
                out = self.bits(low, Const(0, "i"))
            elif lanes:
                aligned = self.aligned(array, index, place)
                out = self.b.here("w", "load", pointer, at, attrs=("pair", aligned))
            else:
                out = self.one_pair(pointer, at)
        elif lanes:
            out = self.woven(s, place, axis, single)
        else:
            pointer, offset, element = self.offset(array, index, place)
            assert element == "bf16", (array, element)
            at = self.address.poly(offset, self.env)
            if single:
                out = self.bits(pointer, at)
            elif self.store.strides[array][-1] == const(1) and self.inside(index[-1], self.store.shapes[array][-1]):
                out = self.one_pair(self.b.pure("p", "offset", pointer, at, attrs=("bf16",)), Const(0, "i"))
            else:
                second, further, _ = self.offset(array, index, {**place, axis: (local, 1)})
                upper = self.bits(second, self.address.poly(further, self.env))
                out = self.b.iadd(self.bits(pointer, at), self.b.imul(upper, Const(HIGH, "i")))
        if not lanes:
            out = self.b.pure("w", "wsplat", out)
        self.frames[-1].memo[key] = out
        return out

    def woven(self, s: Scalar, place: Place, axis: str, single: bool) -> Arg:
        """Words of two neighbours along an axis, made of two vectors of elements along the lanes."""
        assert self.lane is not None
        w, (symbol, base) = self.store.width, place[self.lane]
        first, second = place, {**place, axis: (place[axis][0], place[axis][1] + 1)}
        if not self.unit(*s.args):
            upper = Const(0.0, "v") if single else self.load(s, second)
            return self.b.pure("w", "pair", self.load(s, first), upper)
        if single:
            return self.load(s, first, "w")
        start = base - base % (2 * w)
        if not {(symbol, start), (symbol, start + w)} <= self.lane_starts or not self.in_vectors(s):
            low, high = self.load(s, first, "w"), self.load(s, second, "w")
            return self.b.pure("w", "wadd", low, self.b.pure("w", "wmul", high, Const(HIGH, "w")))
        both = [self.vector_of_pairs(s, {**p, self.lane: (symbol, start)}) for p in (first, second)]
        return self.b.pure("w", "weave", *both, attrs=((base - start) // w,))

    def in_vectors(self, s: Scalar) -> bool:
        """Whether whole vectors of an array lie along the lanes, all inside of it."""
        array, index = s.args
        whole = self.tail is None and not self.rows
        return whole and self.unit(array, index) and self.inside(index[-1], self.store.shapes[array][-1])

    def bits(self, pointer: Arg, at: Arg) -> Arg:
        return self.b.here("i", "load", pointer, at, attrs=("bf16", False))

    def one_pair(self, pointer: Arg, at: Arg) -> Arg:
        return self.b.here("i", "load", pointer, at, attrs=("pair", False))

    def dot2(self, acc: Arg, product: Scalar, place: Place, axis: str, single: bool = False) -> Arg:
        """acc plus the products of the present pair."""
        words = [self.pair(x, place, axis, single) for x in product.args]
        return self.b.pure("v", "dot2", self.as_type(acc, "v"), *words)

    # pairs along the lanes ------------------------------------------------------------------------------------------

    def in_lanes(self, s: Reduce) -> bool:
        """Whether both factors of a product of pairs have them along the lanes."""
        assert self.lane is not None
        return s.paired and all(
            self.unit(array, index) and self.inside(index[-1], self.store.shapes[array][-1])
            for array, index in (x.args for x in s.value.args)
        )

    def vector_of_pairs(self, x: Scalar, place: Place) -> Arg:
        """The words from the place of the first lane on."""
        key = ("pairs", x, tuple((v, place[v]) for v in sorted(x.vars()) if v in place))
        for f in self.frames:
            if key in f.memo:
                return f.memo[key]
        array, index = x.args
        pointer, offset, _ = self.offset(array, index, place)
        start = self.b.pure("p", "offset", pointer, self.address.poly(offset, self.env), attrs=("bf16",))
        self.prefetch(array, index, place)
        out = self.frames[-1].memo[key] = self.b.here("w", "load", start, Const(0, "i"), attrs=("pair", False))
        return out

    def few_vectors(self) -> int:
        """How many vectors of pairs there are along the lanes, where that is known and few; else 0."""
        assert self.lane is not None
        count = self.count(self.lane)
        vectors = int(count.value) // (2 * self.store.width) if isinstance(count, Const) else 0
        return vectors if vectors <= MOST_VECTORS else 0

    def before_loop(self, axis: str, places: list[Place]) -> None:
        """Loads, before the innermost loop, the pairs along the lanes that stay the same in it."""
        for s in self.nest.statements:
            if not isinstance(s, Reduce) or self.lane not in s.over or not self.in_lanes(s):
                continue
            for x in (x for x in s.value.args if axis not in x.vars()):
                for p in places:
                    for v in range(self.few_vectors()):
                        self.vector_of_pairs(x, {**p, str(self.lane): ("", 2 * v * self.store.width)})

    def products_in_lanes(self, s: Reduce, places: list[Place], accs: list[Arg]) -> tuple[list[Arg], Arg]:
        """The accumulators after all whole vectors of pairs along the lanes, and where those end."""
        b, two = self.b, 2 * self.store.width

        def step(accs: list[Arg], starts: list[tuple[str, int]]) -> list[Arg]:
            out = []
            for p, acc in zip(places, accs, strict=True):  # a row of elements at a time: memory is fastest in order
                for at in starts:
                    words = [self.vector_of_pairs(x, {**p, str(self.lane): at}) for x in s.value.args]
                    acc = b.pure("v", "dot2", acc, *words)
                out.append(acc)
            return out

        if vectors := self.few_vectors():
            return step(accs, [("", v * two) for v in range(vectors)]), Const(vectors * two, "i")
        count = self.count(str(self.lane))
        end = b.isub(count, b.pure("i", "imod", count, Const(two, "i")))
        with b.loop(Const(0, "i"), end, Const(two, "i"), accs) as body, self.frame():
            self.locals[f"{self.lane}:l"] = body.index
            body.next = step(list(body.phis), [(f"{self.lane}:l", 0)])
        return list(body.results), end

    # tiles of pairs -------------------------------------------------------------------------------------------------

    def copies_bits(self, s: Map) -> bool:
        """Whether a statement copies bfloat16 elements that lie along the lanes into a tile of pairs."""
        if not self.pairs_axis(s.target) or s.value.op != "load" or self.lane is None:
            return False
        array, index = s.value.args
        plain = self.store.elements.get(array) == "bf16" and any(self.lane in p.vars() for p in index)
        return plain and self.unit(array, index) and self.inside(index[-1], self.store.shapes[array][-1])

    def copy_bits(self, s: Map, places: list[Place]) -> None:
        """Stores the words of two neighbours each; the last element of all may be alone."""
        axis = self.pairs_axis(s.target)
        self.lane_starts = frozenset(p[str(self.lane)] for p in places)
        there = [tuple(sorted(p.items())) for p in places]
        for p in places:
            symbol, k = p[axis]
            if k % 2 == 0:
                alone = tuple(sorted({**p, axis: (symbol, k + 1)}.items())) not in there
                self.store_word(s.target.args[0], s.target.args[1], self.woven(s.value, p, axis, alone), p)

    def flush(self) -> None:
        """Stores every tile value of the block; what is in pairs, two at a time."""
        waiting: dict[tuple[object, ...], dict[int, Arg]] = {}
        targets: dict[tuple[object, ...], tuple[str, Index, Place]] = {}
        for key, (value, index, place) in list(self.current.items()):
            axis = self.store.pairs.get(key[0])
            if axis is None:
                continue
            if axis == self.lane:
                self.store_short(key[0], index, value, place)
                del self.current[key]
                continue
            symbol, k = place[axis]
            word = (key[0], *sorted((v, at) for v, at in place.items() if v != axis), symbol, k // 2)
            waiting.setdefault(word, {})[k % 2] = value
            targets[word] = key[0], index, place
            del self.current[key]
        for word, halves in waiting.items():
            array, index, place = targets[word]
            self.store_pair(array, index, halves, place)
        super().flush()

    def store_short(self, array: str, index: Index, value: Arg, place: Place) -> None:
        """Stores a vector along the axis of pairs: its elements are neighbours, as they are in words."""
        axis, offset = self.store.pairs[array], const(0)
        pointer, _, _ = self.offset(array, index, place)
        axes, strides = self.store.tiles[array], self.store.strides[array]
        for p, a, step in zip(index, axes, strides, strict=True):
            local = self.global_poly(p, place) - self.origin(a)
            offset = offset + (local if a == axis else local * step * 2)
        at = self.address.poly(offset, self.env)
        self.b.here(None, "store", pointer, at, self.as_type(value, "v"), attrs=("bf16", False))

    def store_pair(self, array: str, index: Index, halves: dict[int, Arg], place: Place) -> None:
        words = (self.as_type(halves.get(k, Const(0.0, "v")), "v") for k in (0, 1))
        self.store_word(array, index, self.b.pure("w", "pair", *words), place)

    def store_word(self, array: str, index: Index, word: Arg, place: Place) -> None:
        """Stores the word that the element at a place is in."""
        b, axis = self.b, self.store.pairs[array]
        symbol, k = place[axis]
        local = f"{symbol}/2" if symbol else ""
        if symbol:
            self.locals[local] = b.pure("i", "idiv", self.locals[symbol], Const(2, "i"))
        place = {**place, axis: (local, k // 2)}
        pointer, offset, _ = self.offset(array, index, place)
        at = self.address.poly(offset, self.env)
        b.here(None, "store", pointer, at, word, attrs=("pair", self.aligned(array, index, place)))


def evened(pairs: set[str], axis: str, block: int) -> list[int]:
    """The sizes of blocks along an axis, the last ones for what is left: even ones where pairs are written."""
    if axis not in pairs:
        return [block, 1] if block > 1 else [block]
    block += block % 2
    return [block, 2, 1] if block > 2 else [2, 1]
