"""Building structured SSA: every pure instruction is placed at the outermost block that has its operands, once.

So loop-invariant arithmetic is hoisted and common arithmetic is shared as it is written, and no pass has to do it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from moa.loops import Arg, CallFn, Carried, Const, Fn, For, If, Name, Op, Stmt, Type


@dataclass(slots=True)
class Block:
    """Statements being written, and the pure instructions among them by what they compute."""

    out: list[Stmt] = field(default_factory=list)
    known: dict[tuple[Any, ...], Name] = field(default_factory=dict)


class Builder:
    """One function being written. Values of an enclosing function become parameters when they are used."""

    def __init__(self, name: str, outer: Builder | None, params: tuple[Type, ...] = ()) -> None:
        self.name = name
        self.outer = outer
        self.count = 0
        self.depth: dict[Name, int] = {}
        self.blocks: list[Block] = [Block()]
        self.params: list[Name] = [self.new(t, 0) for t in params]
        self.imports: dict[Name, Name] = {}  # value of the enclosing function -> parameter

    def new(self, kind: Type, depth: int | None = None) -> Name:
        self.count += 1
        name = Name(self.count, kind)
        self.depth[name] = len(self.blocks) - 1 if depth is None else depth
        return name

    def use(self, outside: Arg) -> Arg:
        """A value of the enclosing function, as a parameter of this one."""
        if isinstance(outside, Const):
            return outside
        found = self.imports.get(outside)
        if found is None:
            found = self.imports[outside] = self.new(outside.type, 0)
            self.params.append(found)
        return found

    def level(self, a: Arg) -> int:
        return 0 if isinstance(a, Const) else self.depth[a]

    # instructions -------------------------------------------------------------------------------------------------

    def pure(self, kind: Type, op: str, *args: Arg, attrs: tuple[Any, ...] = ()) -> Arg:
        """An instruction without effects, placed as far out as its operands allow."""
        folded = fold(kind, op, args, attrs)
        if folded is not None:
            return folded
        if op in ("iadd", "imul", "fadd", "fmul", "imin", "imax", "wadd", "wmul") and str(args[0]) > str(args[1]):
            args = (args[1], args[0])
        depth = 0
        for a in args:
            if isinstance(a, Name) and self.depth[a] > depth:
                depth = self.depth[a]
        key = (kind, op, args, attrs)
        block = self.blocks[depth]
        found = block.known.get(key)
        if found is None:
            found = block.known[key] = self.new(kind, depth)
            block.out.append(Op(found, op, args, attrs))
        return found

    def here(self, kind: Type | None, op: str, *args: Arg, attrs: tuple[Any, ...] = ()) -> Arg:
        """An instruction in the present block: loads and stores."""
        name = None if kind is None else self.new(kind)
        self.blocks[-1].out.append(Op(name, op, args, attrs))
        return name if name is not None else Const(0, "i")

    @contextmanager
    def loop(
        self, lo: Arg, hi: Arg, step: Arg, first: list[Arg], on: Literal["", "warps", "lanes"] = ""
    ) -> Iterator[LoopBody]:
        """A For; set `.next` of the body to the carried values of the next round, read `.results` afterwards."""
        self.blocks.append(Block())
        index = self.new("i")
        body = LoopBody(index, [self.new(a.type) for a in first])
        yield body
        block = self.blocks.pop()
        assert len(body.next) == len(first)
        body.results = [self.new(a.type) for a in first]
        carried = tuple(
            Carried(p, f, n, r) for p, f, n, r in zip(body.phis, first, body.next, body.results, strict=True)
        )
        self.blocks[-1].out.append(For(index, lo, hi, step, carried, tuple(block.out), on))

    @contextmanager
    def when(self, cond: Arg, other: list[Arg]) -> Iterator[WhenBody]:
        """An If without else; set `.values` of the body to what replaces `other`, read `.results` afterwards."""
        self.blocks.append(Block())
        body = WhenBody()
        yield body
        block = self.blocks.pop()
        assert len(body.values) == len(other)
        body.results = [self.new(a.type) for a in other]
        results = tuple(zip(body.results, body.values, other, strict=True))
        self.blocks[-1].out.append(If(cond, tuple(block.out), (), results))

    @contextmanager
    def inside(self, block: Block) -> Iterator[None]:
        self.blocks.append(block)
        yield
        assert self.blocks.pop() is block

    def end(self, cond: Arg, then: Block, other: Block) -> None:
        self.blocks[-1].out.append(If(cond, tuple(then.out), tuple(other.out)))

    def call(self, function: str, args: tuple[Arg, ...]) -> None:
        self.blocks[-1].out.append(CallFn(function, args))

    def finish(self) -> Fn:
        assert len(self.blocks) == 1
        return Fn(self.name, tuple(self.params), tuple(self.blocks[0].out))

    # integers -------------------------------------------------------------------------------------------------------

    def iadd(self, a: Arg, b: Arg) -> Arg:
        return self.pure("i", "iadd", a, b)

    def isub(self, a: Arg, b: Arg) -> Arg:
        return self.pure("i", "isub", a, b)

    def imul(self, a: Arg, b: Arg) -> Arg:
        return self.pure("i", "imul", a, b)

    def imin(self, a: Arg, b: Arg) -> Arg:
        return self.pure("i", "imin", a, b)

    def imax(self, a: Arg, b: Arg) -> Arg:
        return self.pure("i", "imax", a, b)

    def icmp(self, relation: str, a: Arg, b: Arg) -> Arg:
        return self.pure("b", "icmp", a, b, attrs=(relation,))


@dataclass(slots=True)
class LoopBody:
    index: Name
    phis: list[Name]
    next: list[Arg] = field(default_factory=list)
    results: list[Name] = field(default_factory=list)


@dataclass(slots=True)
class WhenBody:
    values: list[Arg] = field(default_factory=list)
    results: list[Name] = field(default_factory=list)


_RELATIONS = {
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
}


def fold(kind: Type, op: str, args: tuple[Arg, ...], attrs: tuple[Any, ...]) -> Arg | None:
    """The result where it is known without running: integer arithmetic on constants, neutral operands, splats."""
    if Const not in map(type, args):
        same = op in ("imin", "imax", "isub") and args[0] == args[1]
        return (Const(0, "i") if op == "isub" else args[0]) if same else None
    values = [a.value if isinstance(a, Const) else None for a in args]
    if op in ("splat", "wsplat", "bsplat") and values[0] is not None:
        return Const(values[0], kind)
    match op, values:
        case "iadd", [0, _]:
            return args[1]
        case (("iadd" | "isub"), [_, 0]):
            return args[0]
        case "imul", [0, _] | [_, 0]:
            return Const(0, "i")
        case "imul", [1, _]:
            return args[1]
        case (("imul" | "idiv"), [_, 1]):
            return args[0]
    if op in ("iadd", "isub", "imul", "imin", "imax", "idiv", "imod", "icmp") and None not in values:
        a, b = (int(v) for v in values if v is not None)
        match op:
            case "iadd":
                return Const(a + b, "i")
            case "isub":
                return Const(a - b, "i")
            case "imul":
                return Const(a * b, "i")
            case "imin":
                return Const(min(a, b), "i")
            case "imax":
                return Const(max(a, b), "i")
            case "idiv" if b:
                return Const(a // b, "i")
            case "imod" if b:
                return Const(a % b, "i")
            case "icmp":
                return Const(bool(_RELATIONS[attrs[0]](a, b)), "b")
    if op in ("imin", "imax", "isub") and args[0] == args[1]:
        return Const(0, "i") if op == "isub" else args[0]
    if op in ("band", "bor") and values.count(None) == 1:
        known, other = (args[0], args[1]) if values[0] is not None else (args[1], args[0])
        assert isinstance(known, Const)
        return other if bool(known.value) == (op == "band") else known
    return None
