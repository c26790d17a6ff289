"""Addresses as pointers: each part of an index is added in the block that knows it, what is constant comes last.

A compiler that computes addresses as they are written has one addition in a round of a loop for all elements that lie
at fixed distances from one another, and none for what the loop does not change.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from moa.expand import largest_number
from moa.loops import Arg, CallFn, Const, Fn, For, If, Loops, Name, Op, Stmt

ADDRESSED = frozenset(("load", "loadm", "store", "storem", "prefetch", "test"))
PLAIN = frozenset(("iadd", "isub", "imul", "offset"))


def with_pointers(loops: Loops) -> Loops:
    """The same Loops; what is read and stored lies at constant indices, or at one that its own block makes."""
    return replace(loops, functions=tuple(Pointers(f).function() for f in loops.functions))


@dataclass(frozen=True, slots=True)
class Sum:
    """Names and a number to add up."""

    terms: tuple[Name, ...]
    number: int


@dataclass(slots=True)
class Block:
    """A body on the way: its statements so far, and the pointers that it has made."""

    out: list[Stmt] = field(default_factory=list)
    made: dict[tuple[Arg, Name, str], Name] = field(default_factory=dict)


class Pointers:
    """One function. `blocks` are those around the statement at hand; `depth` tells in which of them a name is made."""

    def __init__(self, f: Fn) -> None:
        self.f = f
        self.last = largest_number(f.body, max((p.number for p in f.params), default=0))
        self.blocks: list[Block] = []
        self.depth: dict[Name, int] = dict.fromkeys(f.params, 0)
        self.sums: dict[Name, Sum] = {}

    def function(self) -> Fn:
        return without_idle(replace(self.f, body=self.body(self.f.body, ())))

    def body(self, body: tuple[Stmt, ...], own: tuple[Name, ...]) -> tuple[Stmt, ...]:
        """A block with names of its own from its beginning."""
        self.depth |= dict.fromkeys(own, len(self.blocks))
        self.blocks.append(Block())
        for s in body:
            self.statement(s)
        return tuple(self.blocks.pop().out)

    def statement(self, s: Stmt) -> None:
        here = len(self.blocks) - 1
        match s:
            case Op():
                if s.op in ("iadd", "isub"):
                    self.note(s)
                elif s.op in ADDRESSED and isinstance(s.args[1], Name):
                    s = Op(s.result, s.op, (*self.place(s.args[0], s.args[1], s.attrs[0]), *s.args[2:]), s.attrs)
                if s.result is not None:
                    self.depth[s.result] = here
            case For():
                s = replace(s, body=self.body(s.body, (s.index, *(c.phi for c in s.carried))))
                self.depth |= dict.fromkeys((c.result for c in s.carried), here)
            case If():
                s = replace(s, then=self.body(s.then, ()), other=self.body(s.other, ()))
                self.depth |= dict.fromkeys((r for r, _, _ in s.results), here)
        self.blocks[-1].out.append(s)

    def note(self, s: Op) -> None:
        """Keeps a sum, unless all of it is made in one block."""
        a, b = s.args
        assert s.result is not None
        if s.op == "isub" and isinstance(b, Name):
            return
        left, right = self.sum(a), self.sum(b)
        number = left.number + (-right.number if s.op == "isub" else right.number)
        terms = left.terms + right.terms
        depths = {self.depth[n] for n in terms}
        if number or len(depths) > 1:
            in_order = sorted(terms, key=self.order) if len(terms) > 1 else terms
            self.sums[s.result] = Sum(tuple(in_order), number)

    def order(self, n: Name) -> tuple[int, int]:
        return self.depth[n], n.number

    def sum(self, a: Arg) -> Sum:
        if isinstance(a, Const):
            return Sum((), int(a.value))
        return self.sums.get(a, Sum((a,), 0))

    def place(self, pointer: Arg, index: Name, element: str) -> tuple[Arg, Arg]:
        """Pointer and index of an element, made anew."""
        whole = self.sum(index)
        terms = whole.terms
        here = len(self.blocks) - 1
        if not whole.number and terms and self.depth[terms[-1]] == here:
            for t in terms[:-1]:
                pointer = self.moved(pointer, t, element)
            return pointer, terms[-1]
        for t in terms:
            pointer = self.moved(pointer, t, element)
        return pointer, Const(whole.number, "i")

    def moved(self, pointer: Arg, by: Name, element: str) -> Name:
        """The pointer moved by so many elements, in the first block that knows both."""
        depth = max(self.depth[x] for x in (pointer, by) if isinstance(x, Name))
        block, key = self.blocks[depth], (pointer, by, element)
        if key not in block.made:
            self.last += 1
            block.made[key] = result = Name(self.last, "p")
            self.depth[result] = depth
            block.out.append(Op(result, "offset", (pointer, by), (element,)))
        return block.made[key]


def without_idle(f: Fn) -> Fn:
    """The function without what computes numbers and addresses that nothing uses."""
    used: set[Name] = set()

    def kept(body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        """From the last statement back to the first: what uses a name stands behind what makes it."""
        out: list[Stmt] = []
        for s in reversed(body):
            args: tuple[Arg, ...] = ()
            match s:
                case Op():
                    if s.op in PLAIN and s.result not in used:
                        continue
                    args = s.args
                case CallFn():
                    args = s.args
                case For():
                    note(tuple(a for c in s.carried for a in (c.first, c.next)))
                    s = replace(s, body=kept(s.body))
                    args = (s.lo, s.hi, s.step)
                case If():
                    note(tuple(a for _, x, y in s.results for a in (x, y)))
                    s = replace(s, then=kept(s.then), other=kept(s.other))
                    args = (s.cond,)
            note(args)
            out.append(s)
        return tuple(reversed(out))

    def note(args: tuple[Arg, ...]) -> None:
        for a in args:
            if isinstance(a, Name):
                used.add(a)

    return replace(f, body=kept(f.body))
