"""Lowering reductions that make all of an axis at once: ranks by merging, and values that are brought to a place.

The merge goes from runs of one element to runs of all: of two neighbouring runs the element that comes first is taken,
without a branch. Keys stay where they are, positions move between two halves of the room; each pass of the loop over
levels is another one, so that the text does not depend on how many there are.
"""

from __future__ import annotations

from moa.loops import ELEMENT_BYTES, Arg, Const, Type
from moa.lower.memory import Place
from moa.lower.values import Values
from moa.normal import Scalar
from moa.ops import OPERATORS
from moa.poly import Poly, const
from moa.tiles import Nest, Phase, Placed, Reduce, Sorted

WORD = ELEMENT_BYTES["i64"]
MOST_LEVELS = 62
ZERO, ONE = Const(0, "i"), Const(1, "i")


def made_whole(nest: Nest) -> Reduce | None:
    """The statement of a nest that makes all of an axis at once."""
    return next((s for s in nest.statements if isinstance(s, Reduce) and s.how is not None), None)


def order_bytes(phase: Phase) -> Poly:
    """The room for keys and two orders of positions."""
    total = const(0)
    for nest in phase.body:
        s = made_whole(nest) if isinstance(nest, Nest) else None
        if s is not None and isinstance(s.how, Sorted):
            total = phase.axis(s.how.axis).extent * (3 * WORD)
    return total


class OrderLowering(Values):
    """A nest of one such statement in its function."""

    def lower(self) -> None:
        s = made_whole(self.nest)
        assert s is not None
        if isinstance(s.how, Sorted):
            self.sort(s, s.how)
        else:
            assert isinstance(s.how, Placed)
            self.bring(s, s.how)

    # ranks ----------------------------------------------------------------------------------------------------------

    def sort(self, s: Reduce, how: Sorted) -> None:
        b = self.b
        (over,) = s.over
        array, index = s.target.args
        n = self.count(how.axis)
        integral = how.key.op == "int"
        room = self.address.poly(self.store.spill, self.env)
        keys = b.pure("p", "offset", self.workspace, room, attrs=("u8",))
        start = b.iadd(room, b.imul(n, Const(WORD, "i")))
        orders = b.pure("p", "offset", self.workspace, start, attrs=("u8",))
        kind: Type = "i" if integral else "f"
        element = "i64" if integral else self.store.element
        with b.loop(ZERO, n, ONE, []) as body, self.frame():
            place = self.at(over, body.index)
            key = self.int_value_of(how.key, place) if integral else self.value(how.key, place)
            b.here(None, "store", keys, body.index, key, attrs=(element, False))
            b.here(None, "store", orders, body.index, body.index, attrs=("i64", False))
        last = b.isub(n, ONE)
        levels = b.imin(last, Const(MOST_LEVELS, "i"))
        with b.loop(ZERO, levels, ONE, [ONE, ZERO, n]) as level, self.frame():
            width, source, other = level.phis
            twice = b.imul(width, Const(2, "i"))
            with b.when(b.icmp("lt", width, n), [width, source, other]) as more, self.frame():
                with b.loop(ZERO, n, twice, []) as run, self.frame():
                    middle = b.imin(b.iadd(run.index, width), n)
                    end = b.imin(b.iadd(run.index, twice), n)
                    with b.loop(run.index, end, ONE, [middle]) as step, self.frame():
                        second = step.phis[0]
                        first = b.isub(b.iadd(step.index, middle), second)

                        def read(at: Arg) -> tuple[Arg, Arg]:
                            where = b.iadd(source, b.imin(at, last))
                            position = b.here("i", "load", orders, where, attrs=("i64", False))
                            return position, b.here(kind, "load", keys, position, attrs=(element, False))

                        (x, a), (y, c) = read(first), read(second)
                        left = b.icmp("ge", first, middle)
                        takes = b.pure("b", "bor", left, self.precedes(c, a))
                        takes = b.pure("b", "band", takes, b.icmp("lt", second, end))
                        taken = b.pure("i", "select", takes, y, x)
                        b.here(None, "store", orders, b.iadd(other, step.index), taken, attrs=("i64", False))
                        step.next = [b.iadd(second, b.pure("i", "select", takes, ONE, ZERO))]
                more.values = [twice, other, source]
            level.next = list(more.results)
        ordered = level.results[1]
        with b.loop(ZERO, n, ONE, []) as body, self.frame():
            position = b.here("i", "load", orders, b.iadd(ordered, body.index), attrs=("i64", False))
            self.store_at(array, index, body.index, self.at(how.axis, position))

    def precedes(self, a: Arg, other: Arg) -> Arg:
        """Whether a key is smaller than another; a NaN is larger than any number."""
        b = self.b
        if a.type == "i":
            return b.icmp("lt", a, other)
        less = b.pure("b", "fcmp", a, other, attrs=("lt",))
        number = b.pure("b", "fcmp", a, a, attrs=("eq",))
        none = b.pure("b", "fcmp", other, other, attrs=("ne",))
        return b.pure("b", "bor", less, b.pure("b", "band", number, none))

    # places ---------------------------------------------------------------------------------------------------------

    def bring(self, s: Reduce, how: Placed) -> None:
        b = self.b
        (over,) = s.over
        identity = self.int_value_of(Scalar("lit", (float(OPERATORS[s.op].identity),)), {})  # type: ignore[arg-type]
        array, index = s.target.args
        n = self.count(how.axis)
        with b.loop(ZERO, n, ONE, []) as body, self.frame():
            self.store_at(array, index, identity, self.at(how.axis, body.index))
        with b.loop(ZERO, self.count(over), ONE, []) as body, self.frame():
            place = self.at(over, body.index)
            where = self.int_value(how.at, place)
            inside = b.pure("b", "band", b.icmp("ge", where, ZERO), b.icmp("lt", where, n))
            value = self.int_value_of(how.value, place)
            with b.when(inside, []), self.frame():
                here = self.at(how.axis, where)
                pointer, offset, element = self.offset(array, index, here)
                at = self.address.poly(offset, self.env)
                old = b.here("i", "load", pointer, at, attrs=(element, False))
                op = {"add": "iadd", "mul": "imul", "min": "imin", "max": "imax"}[s.op]
                new = b.pure("i", op, old, value)
                b.here(None, "store", pointer, at, new, attrs=(element, False))

    def at(self, axis: str, position: Arg) -> Place:
        """The place where an axis has one position."""
        name = f"{axis}:{len(self.locals)}"
        self.locals[name] = position
        return {axis: (name, 0)}


__all__ = ["OrderLowering", "made_whole", "order_bytes"]
