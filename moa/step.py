"""Step: one more token of a kernel over n tokens, with a state whose size does not depend on n.

The increment of one of the kernel's forms is written down as a program of the language; a kernel of its own is compiled
from that text, so it can be read, edited, explained, verified and emitted like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from moa import ir
from moa.arrays import Array, element_dtype
from moa.increment import Increment, State, increment, sizes_of
from moa.kept import Written
from moa.kernel import Kernel
from moa.laws.reading import Stays
from moa.normal import TRUE, ArrayInput, Eq, Normal, Scalar, loads, scalar_atoms, subterms
from moa.oracle import evaluate
from moa.pipeline import Derivation
from moa.poly import Poly, var
from moa.storage import computed, numpy_dtype
from moa.text import MoaError, printable
from moa.transcribe import transcribed

MOST_REASONS = 6


@dataclass(frozen=True, slots=True)
class Carried:
    """What is handed from token to token: arrays by name, and how many tokens there were."""

    arrays: Mapping[str, Any]
    position: int = 0

    def __getitem__(self, name: str) -> Any:
        return self.arrays[name]


class Step:
    """The update for one more token. `y, state = step(state, q, k, v)`, from `state = step.start(b=1, h=8, dk=64)`.

    text      the derived program, states after the parameters
    kernel    the kernel compiled from it
    states    what is handed on: name, kind, axes, what it is worth before the first token
    tokens    the axis of the tokens in each parameter and output of the whole kernel that has one
    outputs   the names of the kernel's outputs in order
    size, form  along which size, and from which form of the kernel
    """

    def __init__(self, whole: Kernel, derivation: Derivation, size: str, form: str, made: Increment) -> None:
        self.size, self.form, self.states, self.position = size, form, made.states, made.position
        self.tokens, self.outputs = made.tokens, derivation.streamed.outputs
        self._made, self._program, self._dtype = made, derivation.program, whole.dtype
        self._wide = computed(whole.dtype) != whole.dtype
        if self._wide and whole.backend == "cuda":
            text = f"a step keeps its state in {computed(whole.dtype)}, arrays on a GPU are not converted"
            raise MoaError("support", text, None, f"compile with dtype={computed(whole.dtype)!r}")
        self.text = self._header(whole.name) + transcribed(made.normal, _constants(whole.dtype))
        fixed = {k: v for k, v in whole._fixed.items() if k in _names(made.normal)}
        face = type(whole)
        self.kernel = face(Written(self.text, f"<step of {whole.name}>"), computed(whole.dtype), fixed, whole.backend)

    def __repr__(self) -> str:
        states = ", ".join(s.name for s in self.states) or "no state"
        return f"<step of {self._program.name} along {self.size}: {states}>"

    def _header(self, name: str) -> str:
        lines = [f"# One more token of {name}, along {self.size}; derived from its form: {self.form}."]
        for s in self.states:
            lines.append(f"# {s.name} is handed on: from {s.start} before the first token.")
        if self.position:
            lines.append(f"# {self.position} is the number of tokens before this one.")
        return "\n".join(lines) + "\n"

    def start(self, *, position: int = 0, **given: Any) -> Carried:
        """The state before the first token, for sizes (b=2), or arrays and numbers of the kernel they follow from.

        position  how many tokens there were already, where the arrays that states start from are of a later token
        Errors: MoaError where a size or an array is missing, unknown or does not fit
        """
        arrays, numbers, sizes = self._given(given)
        missing = sorted({a.name for s in self.states for _, p in s.axes for a in p.atoms()} - set(sizes))
        if missing:
            hint = f"pass {missing[0]}=..., or an array that has it"
            raise MoaError("argument", f"no value for the size {', '.join(missing)}", None, hint)
        out = {}
        for s in self.states:
            shape = tuple(evaluate(p, sizes) for _, p in s.axes)
            out[s.name] = self._started(s, shape, arrays, numbers)
        return Carried(out, position)

    def _started(self, s: State, shape: tuple[int, ...], arrays: dict[str, Array], numbers: dict[str, Any]) -> Any:
        dtype = element_dtype("i" if s.kind == "i" else "f", computed(self._dtype))
        needed = sorted({a for a, _ in loads(s.start)} | _parameters(s.start))
        missing = [n for n in needed if n not in arrays and n not in numbers and n != "lowest"]
        if missing:
            text = f"no value for {', '.join(missing)}: the state {s.name} starts from {s.start}"
            raise MoaError("argument", text, None, f"pass {missing[0]}=...")
        if s.start.op == "lit" or (s.start.op == "int" and s.start.args[0].as_int() is not None):
            return np.full(shape, float(str(s.start)) if s.start.op == "lit" else s.start.args[0].as_int(), dtype)
        if s.start.op == "load" and len(needed) == 1 and s.start.args[1] == tuple(var(v) for v, _ in s.axes):
            found = np.array(arrays[needed[0]], dtype)
        elif s.start.op == "param" and needed[0] in numbers:
            found = np.array(numbers[needed[0]], dtype)
        else:
            found = self._computed(s, arrays, numbers)
        if found.shape != shape:
            text = f"the state {s.name} starts with shape {list(found.shape)}, expected {list(shape)}"
            raise MoaError("argument", text, None, "pass arrays of one set of sizes")
        return found

    def _computed(self, s: State, arrays: dict[str, Array], numbers: dict[str, Any]) -> Array:
        """A start that is a formula: a program of its own."""
        e = Eq("first", "map", s.axes, ((TRUE, s.start),), dtype="i" if s.kind == "i" else "f")
        names = {a for a, _ in loads(s.start)} | _parameters(s.start)
        inputs = tuple(ArrayInput(p.name, p.kind, p.shape) for p in self._program.inputs if p.name in names)
        try:
            text = transcribed(Normal("start", inputs, (e,), ("first",)), _constants(self._dtype))
        except Stays as reason:
            raise MoaError("support", f"the start of {s.name} is not computed: {reason}", None, "") from None
        kernel = Kernel(Written(text, "<start>"), computed(self._dtype), {})
        values = {k: v for k, v in {**arrays, **numbers}.items() if k in names}
        return np.asarray(kernel(**{k: _widened(v, self._dtype) for k, v in values.items()}))

    def _given(self, given: Mapping[str, Any]) -> tuple[dict[str, Array], dict[str, Any], dict[str, int]]:
        """(arrays, numbers, sizes) of what was passed to `start`."""
        inputs = {p.name: p for p in self._program.inputs}
        sizes: dict[str, int] = {}
        arrays: dict[str, Array] = {}
        numbers = {p.name: float(p.default) for p in self._program.inputs if p.default is not None}
        known = {*inputs, *self._program.sizes()} - {self.size}
        for name, value in given.items():
            if name not in known:
                text = f"{self._program.name} has no size or parameter {printable(name)} that a start depends on"
                raise MoaError("argument", text, None, f"there are: {', '.join(sorted(known))}")
            if name not in inputs:
                _agree(sizes, name, value, "the size given")
            elif not inputs[name].shape:
                numbers[name] = value
            else:
                arrays[name] = np.asarray(value)
                for extent, n in zip(self._shape(inputs[name], arrays[name]), arrays[name].shape, strict=True):
                    a = extent.as_atom()
                    if a is not None and a.kind == "size":
                        _agree(sizes, a.name, n, name)
        return arrays, numbers, sizes

    def _shape(self, p: ir.Input, array: Array) -> tuple[Poly, ...]:
        """The shape of a parameter with the axis of the tokens, or without it: as many axes as the array has."""
        without = tuple(e for e in p.shape if not (e.as_atom() is not None and str(e) == self.size))
        for shape in (p.shape, without):
            if len(shape) == array.ndim:
                return shape
        text = f"argument {p.name} has {array.ndim} axes, expected {len(p.shape)}"
        raise MoaError("argument", text, None, f"pass {p.name}[{', '.join(map(str, p.shape))}]")

    def __call__(self, state: Carried, *arrays: Any, threads: int | None = None, **named: Any) -> tuple[Any, Carried]:
        """(the outputs of the kernel for this token, the state after it).

        Arguments are those of the kernel without the axis of the tokens, and without what states start from, in their
        order or by name. A state is not changed: it may be used again.
        Errors: MoaError of kind "argument"
        """
        if not isinstance(state, Carried):
            text = f"the first argument is the state, not {printable(type(state).__name__)}"
            raise MoaError("argument", text, None, "begin with step.start(...)")
        own = [p.name for p in self.kernel._parameters if p.name not in state.arrays and p.name != self.position]
        if len(arrays) > len(own):
            text = f"a step takes {len(own)} arguments beside the state, {len(arrays)} were given"
            raise MoaError("argument", text, None, f"its parameters: {', '.join(own)}")
        values = dict(zip(own, arrays, strict=False))
        twice = sorted(values.keys() & named.keys()) + sorted(n for n in named if n in state.arrays)
        if twice:
            raise MoaError("argument", f"argument {twice[0]} is given twice", None, "pass it once")
        values |= named
        values = {k: _widened(v, self._dtype) for k, v in values.items()}
        if self.position:
            values[self.position] = state.position
        more = {} if self.kernel.backend == "cuda" else {"threads": threads}
        found = self.kernel(**values, **state.arrays, **more)
        results = list(found) if isinstance(found, tuple) else [found]
        split = len(results) - len(self.states)
        after = dict(zip((s.name for s in self.states), results[split:], strict=True))
        outputs = results[:split]
        if self._wide:
            outputs = [x.astype(numpy_dtype(self._dtype)) if x.dtype.kind == "f" else x for x in outputs]
        return outputs[0] if split == 1 else tuple(outputs), Carried(after, state.position + 1)


def step_of(kernel: Kernel, size: str = "", ranks: int = 0) -> Step:
    """The step of a kernel along a size: from the first of its forms that has one.

    size   by default the one along which the kernel has a recurrence
    ranks  how many axes `...` stands for
    Errors: MoaError of kind "support" with what stands against it, of kind "argument" for an unknown size
    """
    derivation = kernel._derive(ranks)
    program = derivation.program
    found = dict.fromkeys(s for f in derivation.forms for s in sizes_of(f.streamed))
    if size and size not in program.sizes():
        text = f"{kernel.name} has no size {printable(size)}"
        raise MoaError("argument", text, None, f"its sizes: {', '.join(program.sizes())}")
    if not size and len(found) > 1:
        raise MoaError("argument", f"{kernel.name} has recurrences along {', '.join(found)}", None, 'choose: size="n"')
    reasons: list[str] = []
    along = size or next(iter(found), "")
    numbers = [p.name for p in program.inputs if not p.shape]
    for form in derivation.forms if along else ():
        if not size and along not in sizes_of(form.streamed):
            continue
        try:
            made = increment(form.streamed, along, numbers)
            return Step(kernel, derivation, along, form.name, made)
        except Stays as reason:
            reasons.append(str(reason))
    reasons += [f"{target}: {reason}" for law, target, reason in derivation.trace.refused if law == "carry"]
    text = f"{kernel.name} has no state of constant size" + (f" along {along}" if along else "")
    lines = "".join(f"\n  {x}" for x in list(dict.fromkeys(reasons))[:MOST_REASONS])
    hint = "write what is handed on as a scan, or let rows depend on what lies before them by sums over j <= i only"
    raise MoaError("support", text + (":" + lines if lines else ": nothing in it is carried along an axis"), None, hint)


def _constants(dtype: str) -> dict[str, str]:
    return {"lowest": repr(float(np.finfo(computed(dtype)).min))}


def _names(normal: Normal) -> set[str]:
    """The sizes and integer parameters of a system's inputs."""
    sizes = {a.name for i in normal.inputs for p in i.shape for a in p.atoms()}
    return sizes | {i.name for i in normal.inputs if i.kind == "i" and not i.shape}


def _parameters(s: Scalar) -> set[str]:
    found = {x.args[0] for x in subterms(s) if x.op == "param"}
    return found | {a.name for a in scalar_atoms(s) if a.kind == "int"}


def _agree(sizes: dict[str, int], name: str, value: Any, where: str) -> None:
    """Enters the value of a size."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise MoaError("argument", f"{name} is {printable(str(value)[:40])}", None, "give a whole number of at least 0")
    if sizes.setdefault(name, int(value)) != value:
        text = f"{name} is {value} in {where}, and {sizes[name]} in what came before"
        raise MoaError("argument", text, None, "pass arrays of one set of sizes")


def _widened(value: Any, dtype: str) -> Any:
    """An array of 16-bit floats in the type that is computed in; anything else as it is."""
    narrow = isinstance(value, np.ndarray) and computed(dtype) != dtype and value.dtype == numpy_dtype(dtype)
    return value.astype(computed(dtype)) if narrow else value
