"""One program through every stage: what each representation of it computes, and how the results are compared."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
from programs import Case

from moa.backends.llvm_build import Built, build
from moa.backends.worker import run as run_items
from moa.expand import expand
from moa.interp.loops import run as run_phase
from moa.interp.normal import run as run_normal
from moa.interp.scalar import evaluate as scalar_value
from moa.interp.tiles import run as run_tiles
from moa.laws.table import LAWS
from moa.loops import Element
from moa.oracle import bind, evaluate, oracle
from moa.parse import parse
from moa.pipeline import Derivation, Placed, derive, place
from moa.tile import Strategy
from moa.verify.expected import Expected, compared, expected

Array = np.ndarray[Any, Any]
MINIATURES = (
    Strategy(2, 4, 6, 2, 2, 2),
    Strategy(2, 1, 6, 2, 2, 2),
    Strategy(1, 1, 1, 1, 1, 1),
    Strategy(2, 2, 2, 3, 1, 1),
    Strategy(4, 4, 8, 2, 1, 4),
    Strategy(4, 3, 8, 2, 2, 2, row=1),  # rounds begin inside of vectors
)
FLOATS: dict[str, Any] = {"f64": np.float64, "f32": np.float32}


@contextmanager
def laws(**changes: Callable[..., Any]) -> Iterator[None]:
    """Some laws replaced by what is made of them; what was derived before and inside is forgotten."""
    old = dict(LAWS.laws)
    for name, change in changes.items():
        LAWS.laws[name] = replace(old[name], apply=change(old[name].apply))
    derived.cache_clear()
    try:
        yield
    finally:
        LAWS.laws.update(old)
        derived.cache_clear()


def in_short(length: int) -> Callable[..., Any]:
    """Parts or chunks of so many elements: small sizes have several of them."""
    return lambda apply: partial(apply, length=length)


class Chain:
    """A case, derived; its results stage by stage as tuples of arrays."""

    def __init__(self, case: Case, dtype: Element = "f64") -> None:
        self.case, self.dtype = case, dtype
        self.derivation = derived(case.text, len(case.lead))
        self.program = self.derivation.program
        self.arrays = case.arrays()
        with np.errstate(all="ignore"):
            for p in case.params:
                if p.kind == "f" and p.axes:  # what a kernel of this type is given
                    self.arrays[p.name] = self.arrays[p.name].astype(FLOATS[dtype])
        self.sizes = bind(self.program, self.arrays)
        self.scalars = {p.name: self.arrays[p.name] for p in case.params if not p.axes}
        self.data = {p.name: self.arrays[p.name] for p in case.params if p.axes}

    def undefined(self) -> bool:
        """Whether a law took a sum apart, so that infinities may cancel."""
        moved = (m for made in self.derivation.report.moved for _, m in made.members)
        return self.derivation.trace.fired("linearity") > 0 or any(m.width > 1 for m in moved)

    def expected(self) -> Expected:
        """What the oracle gives, and what rounding may change in it."""
        return expected(self.program, self.arrays, FLOATS[self.dtype].__name__)

    def differs(self, got: tuple[Array, ...], want: Expected, nan: tuple[Array, ...], form: int = 0) -> str:
        """Where a result differs, or nothing; `nan` is that of the Normal."""
        return compared(got, want, nan, undefined=form > 0 or self.undefined())

    def normal(self, form: int | None = None, tile: int | None = None) -> tuple[Array, ...]:
        """The outputs of the equations as psi left them, or of one of the forms that the laws made of them."""
        system = self.derivation.inlined if form is None else self.derivation.forms[form].streamed
        if system.recurrences:  # have no meaning there yet: the oracle stands in
            return oracle(self.program, self.arrays)
        params = {**self.scalars, "lowest": float(np.finfo(FLOATS[self.dtype]).min)}
        found = run_normal(system, self.data, self.sizes, params, tile)
        return tuple(found[o] for o in system.outputs)

    def place(self, strategy: Strategy, fixed: Mapping[str, int] | None = None, form: int = 0) -> Placed:
        return placed(Same(self.derivation), strategy, self.dtype, tuple((fixed or {}).items()), form)

    def params(self) -> dict[str, Any]:
        params = {k: float(v) for k, v in self.scalars.items()} | self.sizes
        return {**params, "lowest": float(np.finfo(FLOATS[self.dtype]).min)}

    def memory(self, placed: Placed) -> tuple[dict[str, Array], dict[str, float]]:
        """Every array of the placed program, outputs as NaN; the host scalars."""
        params = self.params()
        with np.errstate(all="ignore"):
            hosts = {k: float(scalar_value(s, {}, {}, params)) for k, s in placed.tiles.hosts}
        memory = {k: np.ascontiguousarray(v) for k, v in self.data.items()}
        kinds = {"f": FLOATS[self.dtype], "i": np.int64, "b": np.bool_}
        for a in placed.tiles.arrays:
            if a.role == "input":
                memory[a.name] = memory[a.name].astype(kinds[a.kind])
            else:
                shape = tuple(evaluate(e, self.sizes) for e in a.shape)
                memory[a.name] = np.full(shape, np.nan if a.kind == "f" else 77, kinds[a.kind])
        return memory, hosts

    def slots(self, placed: Placed, memory: Mapping[str, Array], hosts: Mapping[str, float]) -> list[Any]:
        """The packed arguments; addresses as names of buffers."""
        out: list[Any] = []
        for s in placed.lowered.slots:
            match s.kind:
                case "pointer":
                    out.append(s.name)
                case "stride":
                    out.append(memory[s.name].strides[s.axis] // memory[s.name].itemsize)
                case "size":
                    out.append(self.sizes[s.name])
                case "host":
                    out.append(FLOATS[self.dtype](hosts[s.name]))
        return out

    def run(self, stage: str, placed: Placed) -> tuple[Array, ...]:
        """The outputs of a stage: "tiles", "loops" or "llvm"."""
        match stage:
            case "tiles":
                return self.tiles(placed)
            case "loops":
                return self.loops(placed)
            case _:
                return self.llvm(placed, self.built(placed))

    def tiles(self, placed: Placed) -> tuple[Array, ...]:
        """The outputs of the Tiles, interpreted statement by statement."""
        kind = FLOATS[self.dtype]
        found = run_tiles(placed.tiles, self.data, self.sizes, self.scalars, kind)
        return tuple(found[o] for o in self.derivation.streamed.outputs)

    def loops(self, placed: Placed) -> tuple[Array, ...]:
        """The outputs of the Loops, interpreted instruction by instruction."""
        memory, hosts = self.memory(placed)
        args = self.slots(placed, memory, hosts)
        scratch = evaluate(placed.lowered.scratch_bytes, self.sizes)
        for phase, items in zip(placed.lowered.loops.phases, placed.lowered.items, strict=True):
            run_phase(placed.lowered.loops, phase, args, 0, evaluate(items, self.sizes), memory, scratch)
        return tuple(memory[o] for o in self.derivation.streamed.outputs)

    def built(self, placed: Placed) -> Built:
        return build(expand(placed.lowered.loops))

    def llvm(self, placed: Placed, built: Built, threads: int = 1) -> tuple[Array, ...]:
        """The outputs of the machine code; scratch starts as NaN."""
        memory, hosts = self.memory(placed)
        args = self.slots(placed, memory, hosts)
        packed = (ctypes.c_int64 * max(len(args), 1))()
        floats = ctypes.cast(packed, ctypes.POINTER(ctypes.c_double))
        for k, (s, x) in enumerate(zip(placed.lowered.slots, args, strict=True)):
            if s.kind == "host":
                floats[k] = x
            else:
                packed[k] = memory[x].ctypes.data if s.kind == "pointer" else x
        stride = evaluate(placed.lowered.scratch_bytes, self.sizes)
        workspace = np.full(stride * threads + 4096, 0xFF, np.uint8)
        base = -(-workspace.ctypes.data // 4096) * 4096
        for entry, items in zip(built.phases, placed.lowered.items, strict=True):
            run_items(entry, ctypes.addressof(packed), evaluate(items, self.sizes), threads, base, stride, 1)
        return tuple(memory[o] for o in self.derivation.streamed.outputs)


@lru_cache(maxsize=64)
def derived(text: str, ranks: int) -> Derivation:
    return derive(parse(text, "<random>"), ranks)


class Same:
    """A derivation as a key: equal to itself alone, whatever laws made another one of the same text."""

    def __init__(self, derivation: Derivation) -> None:
        self.derivation = derivation

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.derivation is other.derivation

    def __hash__(self) -> int:
        return id(self.derivation)


@lru_cache(maxsize=64)
def placed(same: Same, strategy: Strategy, dtype: Element, fixed: tuple[tuple[str, int], ...], form: int) -> Placed:
    derivation = same.derivation
    derivation = replace(derivation, streamed=derivation.forms[form].streamed)
    unit = frozenset(derivation.streamed.outputs)
    return place(derivation, strategy, dtype, dict(fixed), unit | stored(derivation))


def stored(derivation: Derivation) -> frozenset[str]:
    """Names that may become arrays of a kernel's own."""
    from moa.normal import Fold

    out: set[str] = set()
    for e in derivation.streamed.equations:
        out |= {m.name for m in e.members} if isinstance(e, Fold) else {e.name}
    for r in derivation.streamed.recurrences:
        out |= {x.name for x in (*r.components, *r.readers)}
    return frozenset(out)
