"""The callable a user holds: it picks a variant by the shapes of a call, compiles it when first needed, and runs it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moa import ir
from moa.call import ABSENT, Call, Parameter, hashable, prepare
from moa.forms import chosen
from moa.loops import Element
from moa.oracle import bind, evaluate
from moa.parse import parse, parse_expression
from moa.pipeline import LARGEST_SPECIALISED, Derivation, Placed, derive, place, row_extents, specialised_sizes
from moa.poly import Poly
from moa.text import MoaError, printable
from moa.tile import Strategy, tile

Array = NDArray[Any]
DTYPES: dict[str, Element] = {"float64": "f64", "float32": "f32"}
BACKENDS = ("llvm", "c")
VECTORS = 4  # row vectors of a work item: with blocks of 4 they make 16 accumulators
KEYS = {"f64": 96, "f32": 192}
MOST_CALLS = 256  # shapes whose plans are kept
FEW_ROWS = 2  # up to this many rows, lanes along another axis cost less
SINGLE_THREAD_FLOPS = 2_000_000  # below about 100 us on one thread, waking another costs more than it brings


def compile(
    source: str | os.PathLike[str],
    *,
    backend: str = "llvm",
    dtype: str = "float64",
    sizes: Mapping[str, int] | None = None,
    **shapes: str,
) -> Kernel:
    """A kernel from an expression with shape strings, from a program text, or from the path of a file.

    Q="... n dk" gives the shape of a parameter of an expression. `sizes` fixes sizes (and integer parameters) to
    literals: another value in a call compiles another instance.
    Errors: MoaError at the place of the mistake
    """
    if backend not in BACKENDS:
        known = " or ".join(BACKENDS)
        raise MoaError("argument", f"there is no backend `{printable(str(backend))}`", None, f"choose {known}")
    if dtype not in DTYPES:
        known = " or ".join(DTYPES)
        raise MoaError(
            "argument", f"kernels are not compiled for dtype `{printable(str(dtype))}`", None, f"choose {known}"
        )
    parsed = read(source, shapes)
    return Kernel(parsed, dtype, dict(sizes or {}), backend)


def read(source: str | os.PathLike[str], shapes: Mapping[str, str]) -> ir.Source:
    """The parsed source: a path, a program text, or an expression."""
    if isinstance(source, os.PathLike) or (isinstance(source, str) and "\n" not in source and source.endswith(".moa")):
        path = Path(source)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as e:
            reason = e.strerror or "it cannot be read"
            raise MoaError(
                "argument", f"no program at {printable(str(path))}: {reason}", None, "check the path"
            ) from None
        except UnicodeDecodeError:
            raise MoaError("argument", f"{printable(str(path))} is not UTF-8 text", None, "save it as UTF-8") from None
        return parse(text, str(path))
    if not isinstance(source, str):
        raise MoaError("argument", f"a program is text or a path, not {type(source).__name__}", None, "pass a str")
    if shapes:
        return parse_expression(source, "<expression>", dict(shapes))
    return parse(source, "<program>")


@dataclass(slots=True)
class Variant:
    """One compiled instance: what it was placed as, and its machine code."""

    placed: Placed
    built: Any


class Kernel:
    """A compiled formula. Call it with arrays in the order of its parameters, or by name; scalars by name."""

    def __init__(self, source: ir.Source, dtype: str, sizes: dict[str, int], backend: str = "llvm") -> None:
        self._source = source
        self.backend = backend
        self.dtype = dtype
        self._element = DTYPES[dtype]
        self._fixed = sizes
        self._derivations: dict[int, Derivation] = {}
        self._variants: dict[tuple[Any, ...], Variant] = {}
        self._row_extents: dict[Any, tuple[Poly, ...]] = {}
        self._calls: dict[tuple[Any, ...], Call] = {}
        self._lead = _leading(source)
        self.derivation = self._derive(0)
        self._parameters = tuple(
            Parameter(p.name, p.kind, bool(p.shape) or p.name in self._lead, dtype)
            for p in self.derivation.program.inputs
        )
        self._indexed = any(p.kind == "i" and p.array for p in self._parameters)
        unknown = [s for s in sizes if s not in self._names()]
        if unknown:
            known = ", ".join(self._names()) or "none"
            raise MoaError("argument", f"{self.name} has no size {printable(unknown[0])}", None, f"its sizes: {known}")

    @property
    def name(self) -> str:
        return self.derivation.program.name

    @property
    def passes(self) -> tuple[int, int]:
        """(before, after): the most traversals of one axis, as written and as compiled."""
        return self.derivation.report.passes

    def explain(self, stage: str | None = None) -> str:
        """The whole way from the formula to this kernel as a page, or one representation on it: see `STAGES`."""
        return str(_face("explain").explain(self, stage))

    def source(self) -> str:
        """The text that is built for the variant that ran last."""
        return str(_face("emit").c_text(self)) if self.backend == "c" else self.explain("source")

    def emit(
        self, folder: str | os.PathLike[str], *, backend: str = "c", ranks: int = 0, name: str = "", **sizes: int
    ) -> tuple[Path, ...]:
        """The files of a C library of this formula, written to a new folder (or one that was emitted before).

        `sizes` are literals in the code, `ranks` is how many axes `...` stands for, `name` that of the functions.
        Errors: MoaError of kind "argument"
        """
        files: tuple[Path, ...] = _face("emit").emit(self, folder, sizes, backend=backend, ranks=ranks, name=name)
        return files

    def cost(self, **sizes: int) -> Any:
        """What the kernel computes and moves (a `moa.cost.Cost`): as formulas, and as numbers where sizes are given."""
        return _face("explain").cost_of(self, **sizes)

    def verify(self) -> Any:
        """A `moa.verify.Verification`: hard inputs against the oracle, and every side condition proved again."""
        return _face("verify").verify(self)

    def _names(self) -> tuple[str, ...]:
        program = self.derivation.program
        integers = tuple(p.name for p in program.inputs if p.kind == "i" and not p.shape)
        return (*program.sizes(), *integers)

    def _derive(self, ranks: int) -> Derivation:
        if ranks not in self._derivations:
            self._derivations[ranks] = derive(self._source, ranks)
        return self._derivations[ranks]

    # calling ------------------------------------------------------------------------------------------------------

    def __call__(self, *arrays: Any, threads: int | None = None, **named: Any) -> Any:
        """The outputs for arrays and scalars: one array, or a tuple of them where the formula returns several.

        Arrays are NumPy arrays of the kernel's dtype with any strides. Results own their memory.
        Errors: MoaError of kind "argument"
        """
        values = self._arguments(arrays, named)
        return self._call(values, threads).run(values)

    def _arguments(self, arrays: tuple[Any, ...], named: Mapping[str, Any]) -> list[Any]:
        """The value of each parameter in order, ABSENT where none was given."""
        params = self._parameters
        if named or len(arrays) != len(params):
            arrays = self._ordered(arrays, named)
        out = []
        for p, v in zip(params, arrays, strict=True):
            simple = type(v) is np.ndarray and v.dtype is p.dtype and v.flags.c_contiguous and v.flags.aligned
            out.append(v if simple else p.read(v))
        return out

    def _ordered(self, arrays: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Any, ...]:
        names = [p.name for p in self._parameters]
        if len(arrays) > len(names):
            text = f"{self.name} takes {len(names)} arguments, {len(arrays)} were given"
            raise MoaError("argument", text, None, "its parameters: " + ", ".join(names))
        given = dict(zip(names, arrays, strict=False))
        for k, value in named.items():
            if k in given:
                raise MoaError("argument", f"argument {printable(k)} is given twice", None, "pass it once")
            if k not in names:
                text = f"{self.name} has no parameter {printable(k)}"
                raise MoaError("argument", text, None, "its parameters: " + ", ".join(names))
            given[k] = value
        return tuple(given.get(n, ABSENT) for n in names)

    def _call(self, values: list[Any], threads: int | None) -> Call:
        key = (tuple((v.shape, v.strides) if isinstance(v, np.ndarray) else v for v in values), threads)
        try:
            call = self._calls.get(key)
        except TypeError:
            bad = next(p for p, v in zip(self._parameters, values, strict=True) if not hashable(v))
            raise MoaError("argument", f"argument {bad.name} is not an array or a number", None, "") from None
        if call is not None and not self._indexed:
            return call
        given = {p.name: v for p, v in zip(self._parameters, values, strict=True) if v is not ABSENT}
        derivation = self._derive(self._ranks({k: v for k, v in given.items() if isinstance(v, np.ndarray)}))
        sizes = bind(derivation.program, given)  # where arrays hold indices, they are checked in every call
        if call is not None:
            return call
        if len(self._calls) > MOST_CALLS:
            self._calls.clear()
        call = self._calls[key] = self._plan(derivation, given, sizes, threads)
        return call

    def _ranks(self, arrays: Mapping[str, Array]) -> int:
        """How many axes `...` stands for in this call."""
        found: tuple[str, int] | None = None
        for name, written in self._lead.items():
            if name not in arrays:
                continue
            ranks = max(arrays[name].ndim - written, 0)
            if found is not None and found[1] != ranks:
                text = f"`...` stands for {found[1]} axes in {found[0]} and for {ranks} in {name}"
                raise MoaError("argument", text, None, "give both arrays the same leading axes")
            found = (name, ranks)
        return 0 if found is None else found[1]

    def _plan(self, derivation: Derivation, given: dict[str, Any], sizes: dict[str, int], threads: int | None) -> Call:
        program = derivation.program
        arrays = {k: v for k, v in given.items() if isinstance(v, np.ndarray) and v.ndim}
        unit = frozenset(k for k, v in arrays.items() if v.strides[-1] == v.itemsize or v.shape[-1] <= 1)
        fixed = {k: sizes[k] for k in specialised_sizes(program) if sizes[k] <= LARGEST_SPECIALISED}
        fixed |= {k: sizes[k] for k in self._fixed if k in sizes}
        count = default_threads() if threads is None else threads
        if count < 1:
            raise MoaError("argument", f"threads is {count}", None, "use at least one")
        form = chosen(derivation.forms, sizes, count)
        derivation = replace(derivation, streamed=form.streamed)
        variant = self._variant(derivation, form.name, fixed, unit, sizes)
        params: dict[str, Any] = {p.name: given.get(p.name, p.default) for p in program.inputs if not p.shape}
        params = {k: float(v) for k, v in params.items() if v is not None} | sizes
        if threads is None and form.cost(sizes) < SINGLE_THREAD_FLOPS:
            count = 1
        order = {p.name: k for k, p in enumerate(self._parameters)}
        return prepare(
            variant.placed, variant.built, derivation.streamed.outputs, order, arrays, sizes, params, self.dtype, count
        )

    def _variant(
        self, derivation: Derivation, form: str, fixed: dict[str, int], unit: frozenset[str], sizes: Mapping[str, int]
    ) -> Variant:
        """The instance for these sizes: the number of rows in a work item follows the rows there are."""
        from moa.backends.llvm import host
        from moa.expand import expand

        width = host().width(self._element)
        rows_there = self._rows(derivation, form, sizes, width)
        vectors = min(VECTORS, -(-rows_there // width))
        vectors = {3: 4}.get(vectors, vectors)
        rows = 1 if rows_there <= FEW_ROWS else vectors * width
        key = (derivation.program.inputs, form, tuple(sorted(fixed.items())), unit, rows)
        if key not in self._variants:
            block = 4 * VECTORS // max(vectors, 1)
            strategy = Strategy(width, rows, KEYS[self._element], min(block, 8), 4 if self._element == "f32" else 1)
            outputs = frozenset(derivation.streamed.outputs)
            placed = place(derivation, strategy, self._element, fixed, unit | outputs | _intermediates(derivation))
            builder = import_module(f"moa.backends.{self.backend}_build")
            self._variants[key] = Variant(placed, builder.build(expand(placed.lowered.loops)))
        return self._variants[key]

    def _rows(self, derivation: Derivation, form: str, sizes: Mapping[str, int], width: int) -> int:
        """The extent of the axis that work items tile."""
        key = derivation.program.inputs, form
        if key not in self._row_extents:
            tiles = tile(derivation.streamed, Strategy(width, VECTORS * width, KEYS[self._element]))
            self._row_extents[key] = row_extents(tiles)
        return max((evaluate(e, sizes) for e in self._row_extents[key]), default=1)


def _leading(source: ir.Source) -> dict[str, int]:
    """For each parameter with `...` in its shape: how many axes are written beside it."""
    out: dict[str, int] = {}
    for p in source.functions[-1].parameters:
        if p.dims and any(isinstance(d, ir.Name) and d.name == "..." for d in p.dims):
            out[p.name.name] = len(p.dims) - 1
    return out


def _intermediates(derivation: Derivation) -> frozenset[str]:
    """Names that may become arrays of our own: always contiguous."""
    from moa.normal import Fold

    out: set[str] = set()
    for e in derivation.streamed.equations:
        out |= {m.name for m in e.members} if isinstance(e, Fold) else {e.name}
    for r in derivation.streamed.recurrences:
        out |= {c.name for c in r.components} | {e.name for e in r.readers}
    return frozenset(out)


def _face(name: str) -> Any:
    """A module that looks at kernels from outside, to the right of this one: loaded when a method asks for it."""
    return import_module(f"moa.{name}")


def default_threads() -> int:
    """MOA_THREADS, or the processors this process may use."""
    text = os.environ.get("MOA_THREADS", "")
    if text:
        if not text.isdigit() or int(text) < 1:
            raise MoaError("argument", f"MOA_THREADS is `{printable(text)}`", None, "set it to a number of threads")
        return int(text)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
