"""Neighbours of a vector that are stored next to one another are stored at once: a store of each takes a turn."""

from __future__ import annotations

from dataclasses import dataclass, field

from moa.backends.llvm_text import MEMORY, Text
from moa.loops import Arg, Name, Op
from moa.pointers import PLAIN

Place = tuple[Arg, Arg | None, int]  # a pointer, what is added to it, a number of elements


@dataclass(slots=True)
class Stores:
    """What a function has made so far, and the last store if nothing but addresses stands behind it."""

    lanes: dict[Arg, tuple[Arg, int]] = field(default_factory=dict)  # elements of vectors
    moved: dict[Arg, tuple[Arg, Arg, str]] = field(default_factory=dict)  # pointers
    last: tuple[Place, Arg, int, int] | None = None  # where, of which vector, which lane, in which line

    def note(self, s: Op, line: int) -> None:
        """Keeps what an instruction makes, which is printed in a line."""
        if s.op == "store" and self.last is not None:
            self.last = *self.last[:3], line
        elif s.op == "extract" and s.result is not None:
            self.lanes[s.result] = s.args[0], s.attrs[0]
        elif s.op == "offset" and s.result is not None and isinstance(s.args[1], Name):
            self.moved[s.result] = s.args[0], s.args[1], s.attrs[0]
        elif s.op not in PLAIN and s.op != "store":
            self.last = None

    def place(self, s: Op) -> Place:
        pointer, index = s.args[:2]
        if isinstance(index, Name):
            return pointer, index, 0
        base, by, element = self.moved.get(pointer, (pointer, None, s.attrs[0]))
        return (base, by, int(index.value)) if element == s.attrs[0] else (pointer, None, int(index.value))

    def both(self, t: Text, s: Op) -> str:
        """The text of a store, if the one before it can be part of it; else nothing, and this one is kept."""
        last, self.last = self.last, None
        if t.traced or t.dtype != "f32" or s.attrs[0] != "f32" or s.args[2] not in self.lanes:
            return ""
        vector, lane = self.lanes[s.args[2]]
        where = base, by, number = self.place(s)
        if last is None or last[1:3] != (vector, lane - 1) or lane % 2 == 0 or last[0] != (base, by, number - 1):
            self.last = where, vector, lane, 0
            return ""
        kind, element = t.types["v"], MEMORY["f32"]
        order = f"<2 x i32> <i32 {lane - 1}, i32 {lane}>"
        two = t.temp(f"shufflevector {kind} {t.arg(vector)}, {kind} poison, {order}")
        at = t.temp(f"getelementptr {element}, ptr {t.arg(s.args[0])}, i64 {t.arg(s.args[1])}")
        first = t.temp(f"getelementptr {element}, ptr {at}, i64 -1")
        del t.lines[last[3]]
        return f"store <2 x float> {two}, ptr {first}, align 4"
