"""Increment: a system over n tokens as the system for one more token, with the states it hands on.

A recurrence along the tokens is one application of its body: what it starts from becomes an input, what it ends with
an output. Everything else along the tokens is computed for the one there is; where an index of it is used as a number,
that is the position of the token, which is handed on too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, count

from moa.laws.assemble import in_order, reads_of
from moa.laws.beside import step_key
from moa.laws.group import equation_loads
from moa.laws.reading import Stays
from moa.normal import (
    TRUE,
    ArrayInput,
    Axis,
    Component,
    Cond,
    Eq,
    Fold,
    Index,
    Normal,
    Recurrence,
    Scalar,
    apply,
    at_least_zero,
    both,
    choose,
    compare,
    cond_loads,
    cond_scalars,
    either,
    integer,
    is_zero,
    load,
    loads,
    map_scalar,
    negate,
    scalar_atoms,
    subterms,
)
from moa.poly import Atom, Poly, atom, var

HEAD = "position"


@dataclass(frozen=True, slots=True)
class State:
    """What one step hands to the next: the array `name` over `axes`, worth `start` before the first token.

    result  the equation that makes the next one
    """

    name: str
    kind: str
    axes: tuple[Axis, ...]
    start: Scalar
    result: str


@dataclass(frozen=True, slots=True)
class Increment:
    """The system of one more token.

    normal    its inputs are those of the tokens' system that it reads, without the axis of the tokens, then states,
              then the position; its outputs are those of the tokens' system, then the next states
    tokens    the axis of the tokens in each input and output that had it
    position  the name of the integer that counts tokens, "" if nothing depends on it
    """

    normal: Normal
    states: tuple[State, ...]
    tokens: tuple[tuple[str, int], ...]
    position: str


def increment(streamed: Normal, size: str, integers: Sequence[str] = ()) -> Increment:
    """The increment of a streamed system whose tokens are the axes of extent `size`; `integers` are parameter names.

    Errors: Stays, naming what needs more than the states: a sum over all tokens, another token's row
    """
    return _Increment(streamed, size, set(integers)).made()


def sizes_of(streamed: Normal) -> tuple[str, ...]:
    """The sizes along which a system has a recurrence."""
    found = [r.axis[1].as_atom() for r in streamed.recurrences]
    return tuple(dict.fromkeys(a.name for a in found if a is not None and a.kind == "size"))


@dataclass(slots=True)
class _Around:
    """What names mean at one place: its variables that run over tokens, and what stands for states and for maps."""

    tokens: frozenset[str]
    names: Mapping[str, str] = field(default_factory=dict)
    memo: dict[Scalar, Scalar] = field(default_factory=dict)


class _Increment:
    def __init__(self, system: Normal, size: str, integers: set[str]) -> None:
        self.system, self.size = system, size
        self.extent = atom("size", size)
        self.taken = {i.name for i in system.inputs} | integers | self._own() | set(self._sizes())
        self.axis: dict[str, int] = {}  # of each array that has one, the axis of the tokens
        self.before: dict[str, str] = {}  # of an array kept by a recurrence: what it was a token ago, and is now
        self.after: dict[str, str] = {}
        self.first: dict[str, int] = {}  # the index, from that of the token, at which it holds what it was before
        self.numbers: set[str] = set()  # states without axes
        self.final: set[str] = set()  # arrays that hold what is known after the last token only
        self.equations: list[Eq] = []
        self.states: list[State] = []
        self.position = self.fresh(HEAD)

    def _own(self) -> set[str]:
        """The names of what stays an equation: states are named anew."""
        out = {e.name for r in self.system.recurrences for e in (*r.maps, *r.readers)}
        for e in self.system.equations:
            out |= {e.name} if isinstance(e, Eq) else {e.name, *(m.name for m in e.members)}
        return out

    def _sizes(self) -> set[str]:
        return {a.name for i in self.system.inputs for p in i.shape for a in p.atoms()}

    def fresh(self, wanted: str) -> str:
        name = next(n for n in chain((wanted,), (f"{wanted}_{k}" for k in count(1))) if n not in self.taken)
        self.taken.add(name)
        return name

    def made(self) -> Increment:
        for i in self.system.inputs:
            self._enter(i.name, i.shape)
        plain = [x for e in self.system.equations for x in ((e,) if isinstance(e, Eq) else unfolded(e))]
        for e in plain:
            self._enter(e.name, [p for _, p in e.outer])
        steps = [r for r in self.system.recurrences if r.axis[1] == self.extent]
        others = [r for r in self.system.recurrences if r.axis[1] != self.extent]
        for r in others:
            raise Stays(f"the scan along {r.axis[0]} < {r.axis[1]} would be a scan inside a step")
        for r in steps:
            for e in r.readers:
                self._enter(e.name, [p for _, p in e.outer])
        twins: dict[object, Recurrence] = {}
        for r in steps:
            twin = twins.setdefault(step_key(r), r)
            self._enter_states(r, twin)
        self._find_final(plain, steps)
        for r in steps:
            self._unroll(r, twins[step_key(r)] is r)
        for e in plain:
            self.equations.append(self.equation(e, _Around(self._tokens(e))))
        kept = [n for n in self.system.outputs if n in self.after]  # a state that is a result as it is
        for name in kept:
            source = next(e for e in self.equations if e.name == self.after[name])
            self.equations.append(Eq(name, "map", source.outer, ((TRUE, load(source.name, source.index())),)))
        outputs = (*self.system.outputs, *(s.result for s in self.states))
        equations = _live(self.equations, outputs)
        return self._assembled(equations, outputs)

    def _assembled(self, equations: tuple[Eq, ...], outputs: tuple[str, ...]) -> Increment:
        read = {a for e in equations for a in _read(e)}
        read -= {s.name for s in self.states}
        inputs = [
            ArrayInput(i.name, i.kind, self.without(i.name, i.shape)) for i in self.system.inputs if i.name in read
        ]
        inputs += [ArrayInput(s.name, "i" if s.kind == "i" else "f", tuple(p for _, p in s.axes)) for s in self.states]
        position = self.position if self.position in read else ""
        if position:
            inputs.append(ArrayInput(position, "i", ()))
        wanted = ({i.name for i in inputs} | set(self.system.outputs)) - {s.name for s in self.states}
        tokens = tuple((n, k) for n, k in self.axis.items() if n in wanted)
        normal = Normal(f"{self.system.name}_step", tuple(inputs), equations, outputs)
        return Increment(normal, tuple(self.states), tokens, position)

    # the axis of the tokens ------------------------------------------------------------------------------------------

    def _enter(self, name: str, shape: Sequence[Poly]) -> None:
        """Notes which axis of an array is that of the tokens."""
        found = [k for k, p in enumerate(shape) if p == self.extent]
        if len(found) > 1:
            raise Stays(f"{name} holds a number for each pair of tokens")
        for p in shape:
            if p != self.extent:
                self.value(p, _Around(frozenset()), f"the extent {p} of {name}")
        if found:
            self.axis[name] = found[0]

    def without(self, name: str, axes: Sequence[Poly]) -> tuple[Poly, ...]:
        return tuple(x for k, x in enumerate(axes) if k != self.axis.get(name))

    def _tokens(self, e: Eq) -> frozenset[str]:
        return frozenset(v for v, p in e.outer if p == self.extent)

    # recurrences -----------------------------------------------------------------------------------------------------

    def _enter_states(self, r: Recurrence, twin: Recurrence) -> None:
        if r.reverse:
            raise Stays(f"the scan along {r.axis[0]} runs from the last token")
        for c, same in zip(r.components, twin.components, strict=True):
            if any(p == self.extent for _, p in c.outer):
                raise Stays(f"the state {c.name} has an axis of all tokens")
            if r is twin:
                start, around = self.scalar(c.start, _Around(frozenset())), tuple(v for v, _ in c.outer)
                given = start.args[0] if start.op in ("load", "param") else ""
                plain = start.op == "param" or (start.op == "load" and start.args[1] == tuple(map(var, around)))
                alone = plain and given in {i.name for i in self.system.inputs} and self._reads(given) == 1
                name = given if alone else self.fresh(plainly(c.name))
                self.numbers |= set() if c.outer else {name}
                state = State(name, c.dtype, c.outer, start, self.fresh(f"next_{name}"))
                self.states.append(state)
                self.before[c.name], self.after[c.name] = state.name, state.result
            else:
                self.before[c.name], self.after[c.name] = self.before[same.name], self.after[same.name]
            self.first[c.name] = 0 if c.dtype != "f" or r.exclusive else -1
            kept = r.kept(c)
            if len(kept) > len(c.outer):
                self.axis[c.name] = r.place

    def _reads(self, name: str) -> int:
        """How many times an input is read, equal recurrences counted once."""
        distinct = {step_key(r): r for r in self.system.recurrences}.values()
        found = [_of(s) for r in distinct for c in r.components for s in (c.start, c.body)]
        found += [_read(e) for r in self.system.recurrences for e in (*r.maps, *r.readers)]
        found += [_read(x) for e in self.system.equations for x in ((e,) if isinstance(e, Eq) else unfolded(e))]
        return sum(name in x for x in found)

    def _unroll(self, r: Recurrence, first: bool) -> None:
        """The equations of one step: components from the states before it, readers from those after it."""
        old = {c.state: self.before[c.name] for c in r.components}
        new = old if r.exclusive else {c.state: self.after[c.name] for c in r.components}
        moved = _depending(r.maps, set(old))
        for e in r.maps:
            self._enter(e.name, [p for _, p in e.outer])
        again = {} if r.exclusive else {e.name: self.fresh(plainly(e.name)) for e in r.maps if e.name in moved}
        for name, copy in again.items():
            if name in self.axis:
                self.axis[copy] = self.axis[name]
        t = {r.axis[0]}
        for e in r.maps:
            self.equations.append(self.equation(e, _Around(self._tokens(e) | t, old)))
            if e.name in again:
                later = self.equation(e, _Around(self._tokens(e) | t, new | again))
                self.equations.append(replace(later, name=again[e.name]))
        for e in r.readers:
            self.equations.append(self.equation(e, _Around(self._tokens(e) | t, new | again)))
        if first:
            for c in r.components:
                self.equations.append(self._stepped(c, _Around(frozenset(t), old)))

    def _stepped(self, c: Component, around: _Around) -> Eq:
        return Eq(self.after[c.name], "map", c.outer, ((TRUE, self.scalar(c.body, around)),), dtype=c.dtype)

    def _find_final(self, plain: Sequence[Eq], steps: Sequence[Recurrence]) -> None:
        self.final |= {c.name for r in steps for c in r.components if c.name not in self.axis}
        found = -1
        while found != len(self.final):
            found = len(self.final)
            for e in plain:
                ends = any(self._last(a, i) for a, i in equation_loads(e))
                if e.name not in self.axis and (ends or reads_of(e) & self.final):
                    self.final.add(e.name)

    def _last(self, array: str, index: Index) -> bool:
        """Whether an element of a kept array is that after the last token."""
        at = self.axis.get(array)
        return at is not None and array in self.first and index[at] - self.extent == self.first[array]

    # rewriting -------------------------------------------------------------------------------------------------------

    def equation(self, e: Eq, around: _Around) -> Eq:
        if e.red is not None and e.red[1] == self.extent:
            raise Stays(f"{e.name} takes in every token: {e}")
        if e.red is not None:
            self.value(e.red[1], around, f"the extent of {e.red[0]} in {e.name}")
        return replace(
            e,
            outer=tuple(a for a in e.outer if a[1] != self.extent),
            domain=self.cond(e.domain, around),
            pieces=tuple((self.cond(c, around), self.scalar(s, around)) for c, s in e.pieces),
        )

    def scalar(self, s: Scalar, around: _Around) -> Scalar:
        found = around.memo.get(s)
        if found is None:
            found = around.memo[s] = self._scalar(s, around)
        return found

    def _scalar(self, s: Scalar, around: _Around) -> Scalar:
        match s.op:
            case "lit" | "param":
                return s
            case "int":
                return integer(self.value(s.args[0], around, str(s)))
            case "load":
                name, index = self.read(s.args[0], s.args[1], around)
                alone = name in self.numbers
                return Scalar("param", (name,)) if alone else load(name, index)
            case "select":
                c, a, b = s.args
                return choose(self.cond(c, around), self.scalar(a, around), self.scalar(b, around))
        return apply(s.op, *(self.scalar(x, around) for x in s.args))

    def cond(self, c: Cond, around: _Around) -> Cond:
        match c.op:
            case "ge":
                if self._of_every_token(c.args[0], around):
                    return TRUE
                return at_least_zero(self.value(c.args[0], around, str(c)))
            case "eq":
                return is_zero(self.value(c.args[0], around, str(c)))
            case "and":
                return both(*(self.cond(x, around) for x in c.args))
            case "or":
                return either(*(self.cond(x, around) for x in c.args))
            case "not":
                return negate(self.cond(c.args[0], around))
            case "cmp":
                return compare(c.args[0], self.scalar(c.args[1], around), self.scalar(c.args[2], around))
            case "load":
                return Cond("load", self.read(c.args[0], c.args[1], around))
        return c

    def _of_every_token(self, p: Poly, around: _Around) -> bool:
        """Whether p >= 0 says no more than that a token is one of the n."""
        for v in around.tokens:
            rest = (p - (self.extent - 1 - var(v))).as_int()
            if rest is not None and rest >= 0:
                return True
        return False

    def value(self, p: Poly, around: _Around, what: str) -> Poly:
        """An integer with the position for a token's index."""

        def at(a: Atom) -> Poly | None:
            if a.kind == "var" and a.name in around.tokens:
                return atom("int", self.position)
            if a.kind == "size" and a.name == self.size:
                raise Stays(f"{what} depends on how many tokens there are")
            if a.kind == "load":
                name, index = self.read(a.name, a.args, around)
                alone = name in self.numbers
                return atom("int", name) if alone else atom("load", name, index)
            return None

        return p.replace(at)

    def read(self, array: str, index: Index, around: _Around) -> tuple[str, Index]:
        """What stands for an element of an array: its name now, and its index without that of the token."""
        name, at = around.names.get(array, array), self.axis.get(array)
        others = tuple(self.value(p, around, f"an index of {array}") for p in self.without(array, index))
        if around.tokens and (array in self.final or self._last(array, index)):
            raise Stays(f"every token needs {array}, which is known after the last one only")
        if at is None or self._last(array, index):
            return self.after.get(array, name), others
        shifts = [(index[at] - var(v)).as_int() for v in around.tokens]
        shift = next((k for k in shifts if k is not None), None)
        first = self.first.get(array, 0)
        if shift is None or shift not in ((first, first + 1) if array in self.after else (0,)):
            raise Stays(f"{array}[{', '.join(map(str, index))}] is of another token than the one that is added")
        if array in self.after:
            name = (self.before if shift == first else self.after)[array]
        return name, others


def unfolded(f: Fold) -> tuple[Eq, ...]:
    """The reductions of a traversal each on its own: the references in them are the final ones."""
    out: list[Eq] = []
    values = f.references()
    for m in f.members:
        for k in range(m.width):
            pieces = tuple((c, map_scalar(b[k], partial(_final, m.refs))) for c, b in m.pieces)
            out.append(Eq(m.state(k), "reduce", m.outer, pieces, m.op, f.axis, m.domain))
        out.append(Eq(m.name, "map", m.outer, ((TRUE, m.finish),)))
    out += [Eq(name, "map", f.reference_axes(r), ((TRUE, r),)) for r, name in values.items()]
    return (*out, *f.maps)


def _final(refs: tuple[Scalar, ...], s: Scalar) -> Scalar | None:
    return refs[s.args[0]] if s.op == "ref" else None


def plainly(name: str) -> str:
    """A name of an equation as an identifier."""
    return "".join(x if x.isalnum() else "_" for x in name)


def _of(s: Scalar) -> set[str]:
    """The arrays and parameters that a scalar reads."""
    found = {x.args[0] for x in subterms(s) if x.op == "param"}
    return found | {a for a, _ in loads(s)} | {a.name for a in scalar_atoms(s) if a.kind == "int"}


def _read(e: Eq) -> set[str]:
    """The arrays and parameters that an equation reads."""
    out: set[str] = set()
    for c in (e.domain, *(c for c, _ in e.pieces)):
        out |= {a for a, _ in cond_loads(c)} | {a.name for a in c.atoms() if a.kind == "int"}
        out |= {a for s in cond_scalars(c) for a in _of(s)}
    return out | {a for _, s in e.pieces for a in _of(s)}


def _live(equations: Sequence[Eq], outputs: Sequence[str]) -> tuple[Eq, ...]:
    """The equations that the outputs need, in dependence order."""
    wanted = set(outputs)
    out: list[Eq] = []
    for e in reversed(in_order(equations)):
        assert isinstance(e, Eq)
        if e.name in wanted:
            out.append(e)
            wanted |= _read(e)
    return tuple(out[::-1])


def _depending(maps: Sequence[Eq], states: set[str]) -> set[str]:
    """The maps of a step, in dependence order, that change with its states."""
    out: set[str] = set()
    for e in maps:
        if _read(e) & (states | out):
            out.add(e.name)
    return out
