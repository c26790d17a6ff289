"""The callable a user holds: it picks a variant by the shapes of a call, compiles it when first needed, and runs it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moa import ir
from moa.arrays import ABSENT, NUMPY_KINDS, Parameter, hashable, scalar_key
from moa.call import Call, prepare
from moa.candidates import Candidate, Setting, tiles_at
from moa.cost.choice import Outlook, outlook
from moa.forms import chosen, in_lengths
from moa.kept import Front, Head, Kept, Written, front_of, leading
from moa.loops import Element, Loops, longest_block
from moa.machine import Machine, machine_in_use
from moa.oracle import Indices, bind, evaluate, indices
from moa.pipeline import (
    LARGEST_SPECIALISED,
    Derivation,
    Packing,
    Placed,
    derive,
    packing,
    place,
    specialised_sizes,
    typed,
)
from moa.poly import Poly
from moa.storage import PAIRED, STORAGE, computed, numpy_dtype
from moa.text import MoaError, printable
from moa.tile import Plan, Strategy, made_again, planned
from moa.tiles import Tiles

Array = NDArray[Any]
DTYPES: dict[str, Element] = {dtype: STORAGE[computed(dtype)] for dtype in STORAGE}  # what is computed in
BACKENDS = ("llvm", "c", "cuda")
VECTORS = 4  # row vectors of a work item: with blocks of 4 they make 16 accumulators
KEYS = {"f64": 96, "f32": 192}
KEYS_IN_PAIRS = 176  # a tile of half of them and 64 rows leaves room in each set of 32 KiB, and 192 would not
MOST_CALLS = 256  # shapes whose plans are kept
LONGEST_BLOCK = 3500  # instructions in one block; with more, fewer rows are computed at once
SOME_MORE = 1.6  # vectors of rows: up to this many, too, lanes along another axis may cost less
MOST_ROW_AXES = 3  # that are looked at where the innermost one is short
EXACT = 1024  # from here on, sizes between two powers of two are alike for tiles
PLANNING = threading.RLock()  # one compilation at a time; a fork waits for it, so that none is cut off in the child
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=PLANNING.acquire, after_in_parent=PLANNING.release, after_in_child=PLANNING.release)


def compile(
    source: str | os.PathLike[str],
    *,
    backend: str = "llvm",
    dtype: str = "float64",
    sizes: Mapping[str, int] | None = None,
    function: str = "",
    products: str = "",
    **shapes: str,
) -> Kernel:
    """A kernel from an expression with shape strings, from a program text, or from the path of a file.

    Q="... n dk" gives the shape of a parameter of an expression. `sizes` fixes sizes (and integer parameters) to
    literals: another value in a call compiles another instance. `function` names the function of a program that is the
    kernel, by default the last one. `products` is what factors of products are rounded to: in kernels of bfloat16,
    where the processor multiplies pairs of it, a computed factor is rounded to bfloat16 before it is multiplied by
    elements of an argument; "float32" keeps it as it is, and takes longer.
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
    if products not in ("", dtype, computed(dtype)):
        known = " or ".join(dict.fromkeys((dtype, computed(dtype))))
        text = f"products of a {dtype} kernel are not taken in `{printable(str(products))}`"
        raise MoaError("argument", text, None, f"choose {known}")
    numpy_dtype(dtype)
    kernel = kernel_class(backend)(read(source, shapes, function), dtype, dict(sizes or {}), backend)
    kernel.products = products or dtype
    return kernel


def kernel_class(backend: str) -> type[Kernel]:
    found: type[Kernel] = _face("device").DeviceKernel if backend == "cuda" else Kernel
    return found


def read(source: str | os.PathLike[str], shapes: Mapping[str, str], function: str = "") -> Written:
    """What was given: a path, a program text, or an expression; and which function is the kernel."""
    if not isinstance(function, str):
        text = f"a function is named by a text, not by {type(function).__name__}"
        raise MoaError("argument", text, None, 'pass a str: function="name"')
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
        return Written(text, str(path), function=function)
    if not isinstance(source, str):
        raise MoaError("argument", f"a program is text or a path, not {type(source).__name__}", None, "pass a str")
    for name, shape in shapes.items():
        if not isinstance(shape, str):
            text = f"the shape of {printable(name)} is a text, not {type(shape).__name__}"
            raise MoaError("argument", text, None, 'list the axes: "... n dk"')
    return Written(source, "<expression>" if shapes else "<program>", tuple(shapes.items()), function)


@dataclass(frozen=True, slots=True)
class Variant:
    """One compiled instance: what its calls pack, its machine code, and what it was placed as, made when asked for."""

    ranks: int
    form: str
    packing: Packing
    built: Any
    place: Callable[[], Placed]

    @property
    def placed(self) -> Placed:
        return self.place()


class Facts(NamedTuple):
    """What is known of a call: how many axes `...` stands for, the model's choice of tiles, and its class among it."""

    ranks: int
    front: Front
    given: dict[str, Any]
    sizes: dict[str, int]
    model: Strategy
    parts: tuple[str, ...]


class Kernel:
    """A compiled formula. Call it with arrays in the order of its parameters, or by name; scalars by name."""

    def __init__(self, source: ir.Source | Written, dtype: str, sizes: dict[str, int], backend: str = "llvm") -> None:
        self._given = source
        self._kept = Kept(source if isinstance(source, Written) else None)
        self.backend = backend
        self.dtype = dtype
        self._element, self._stored = DTYPES[dtype], STORAGE[dtype]
        self.products = dtype  # what factors of products are rounded to, where the processor multiplies them in pairs
        self._fixed = sizes
        self._derivations: dict[int, Derivation] = {}
        self._variants: dict[tuple[Any, ...], Variant] = {}
        self._outlooks: dict[Any, Outlook] = {}
        self._strategies: dict[Any, Strategy] = {}
        self._sketch: tuple[Any, tuple[Plan, Tiles]] | None = None
        self._again: dict[Any, tuple[tuple[str, Poly, Poly, int], ...]] = {}
        self._winners: dict[tuple[str, ...], Strategy] = {}  # what calls of a class use
        self._calls: dict[tuple[Any, ...], Call] = {}
        self._fronts: dict[int, Front] = {}
        self._places: dict[tuple[int, str, Strategy], Placed] = {}  # as calls are at sizes that were asked about
        self._many_rows: dict[int, Placed] = {}  # by width of vectors: what is explained where nothing has run
        self._head = self._kept.value(Head, self._checked, "head")
        self._lead = dict(self._head.lead)
        self._parameters = tuple(
            Parameter(p.name, p.kind, bool(p.shape) or p.name in self._lead, dtype) for p in self._head.program.inputs
        )
        self._exact = tuple(
            (k, NUMPY_KINDS[p.kind]) for k, p in enumerate(self._parameters) if p.kind != "f" and p.array
        )
        self._indices: dict[tuple[Any, ...], Indices] = {}  # to be checked in every call
        unknown = [s for s in sizes if s not in self._names()]
        if unknown:
            known = ", ".join(self._names()) or "none"
            raise MoaError("argument", f"{self.name} has no size {printable(unknown[0])}", None, f"its sizes: {known}")

    @property
    def name(self) -> str:
        return self._head.program.name

    @property
    def derivation(self) -> Derivation:
        """The way from the program to the streamed equations, `...` standing for no axes; made when first asked for."""
        return self._derive(0)

    @cached_property
    def _source(self) -> ir.Source:
        return self._given.parsed() if isinstance(self._given, Written) else self._given

    @property
    def passes(self) -> tuple[int, int]:
        """(before, after): the most traversals of one axis, as written and as compiled."""
        return self._front(0).passes

    def explain(self, stage: str | None = None) -> str:
        """The whole way from the formula to this kernel as a page, or one representation on it: see `STAGES`."""
        page: str = _face("explain").explain(self, stage)
        return page

    def picture(self, **sizes: Any) -> Any:
        """Which tiles the kernel enters at these sizes, and which of them it tests (a `moa.explain.picture.Picture`).

        Arrays of integers are given where the loops read their ends from data.
        Errors: MoaError of kind "argument" where a value is missing or unfit
        """
        return _face("explain").picture_of(self, **sizes)

    def _repr_html_(self) -> str:
        return str(_face("explain").html_of(self))

    def source(self) -> str:
        """The text that is built for the variant that ran last."""
        return self.explain("source")

    def emit(
        self, folder: str | os.PathLike[str], *, backend: str = "c", ranks: int = 0, name: str = "", **sizes: int
    ) -> tuple[Path, ...]:
        """The files of a C library of this formula, written to a new folder (or one that was emitted before).

        `sizes` are literals in the code, `ranks` is how many axes `...` stands for, `name` that of the functions.
        Errors: MoaError of kind "argument"
        """
        files: tuple[Path, ...] = _face("emit").emit(self, folder, sizes, backend=backend, ranks=ranks, name=name)
        return files

    def cost(self, machine: Any = "", /, **sizes: int) -> Any:
        """What the kernel computes and moves (a `moa.cost.Cost`): as formulas, and as numbers where sizes are given.

        machine  whose levels of memory are predicted: a `moa.machine.Machine`, "here", one that ships, a file
        Errors: MoaError of kind "argument"
        """
        return _face("explain").cost_of(self, machine, **sizes)

    def why(self, machine: Any = "", /, *, threads: int = 1, **sizes: int) -> Any:
        """Among what a call at these sizes is chosen, and why the others lost (a `moa.explain.why.Why`).

        machine  on which time and bytes are predicted for each, as in `cost`; none by default
        Errors: MoaError of kind "argument"
        """
        return _face("explain").why_of(self, machine, threads, **sizes)

    def measure(
        self,
        *arrays: Any,
        threads: int = 1,
        caches: Sequence[tuple[int, int]] | None = None,
        lead: Sequence[int] = (),
        seed: int = 0,
        now: Callable[[str], None] = lambda text: None,
        **named: Any,
    ) -> Any:
        """What a call really moves and takes (a `moa.measure.Measured`): simulated caches, counters, time, memory.

        Arguments are those of a call; sizes named in place of arrays make random ones, with `lead` for `...`.

        caches  (bytes, ways) from the nearest on, by default those of this machine; without ways no conflicts are found
        now     is told what is being done
        Errors: MoaError of kind "argument"
        """
        return _face("measure").measure(self, arrays, named, caches, threads, lead, seed, now)

    def tune(
        self,
        *arrays: Any,
        threads: int | None = None,
        lead: Sequence[int] = (),
        limit_s: float = 5.0,
        keep: bool = True,
        now: Callable[[str], None] = lambda text: None,
        **named: Any,
    ) -> Any:
        """Measures the few best tiles for a call, and uses the fastest from now on (a `moa.tune.Tuned`).

        Arguments are those of a call; sizes named in place of arrays make random ones, with `lead` for `...`.

        keep  for other processes on this machine too
        Errors: MoaError of kind "argument"
        """
        return _face("tune").tune(self, arrays, named, threads, lead, 0, limit_s, keep, now)

    def step(self, *, size: str = "", ranks: int = 0) -> Any:
        """One more token (a `moa.step.Step`): the update of constant memory that is in this kernel over n tokens.

        size   along which, by default that of the kernel's recurrences
        ranks  how many axes `...` stands for
        Errors: MoaError of kind "support", naming what needs more than a state of constant size
        """
        return _face("step").step_of(self, size, ranks)

    def verify(self) -> Any:
        """A `moa.verify.Verification`: hard inputs against the oracle, and every side condition proved again."""
        return _face("verify").verify(self)

    def _names(self) -> tuple[str, ...]:
        program = self._head.program
        integers = tuple(p.name for p in program.inputs if p.kind == "i" and not p.shape)
        return (*program.sizes(), *integers)

    def _checked(self) -> Head:
        """What is known before a call tells how many axes `...` stands for.

        Errors: MoaError at the place of the mistake
        """
        lead = leading(self._source)
        return Head(typed(self._source) if lead else self._front(0).program, lead)

    def _derive(self, ranks: int) -> Derivation:
        with PLANNING:
            if ranks not in self._derivations:
                self._derivations[ranks] = derive(self._source, ranks)
            return self._derivations[ranks]

    def _front(self, ranks: int) -> Front:
        """What calls need of the derivation for `ranks` axes, from the disk if it is there."""
        if ranks not in self._fronts:
            self._fronts[ranks] = self._kept.value(Front, lambda: front_of(self._derive(ranks)), "front", str(ranks))
        return self._fronts[ranks]

    # calling ------------------------------------------------------------------------------------------------------

    def __call__(self, *arrays: Any, threads: int | None = None, out: Any = None, **named: Any) -> Any:
        """The outputs for arrays and scalars: one array, or a tuple of them where the formula returns several.

        Arrays are NumPy arrays of the kernel's dtype with any strides, or what speaks DLPack on the CPU or
        `__array_interface__`. Results are NumPy arrays that own their memory.

        out  an array of the shape and dtype of the result, or a tuple of them, to be filled and returned. Results go
             straight into C-contiguous memory that no argument shares, else by way of a temporary
        Errors: MoaError of kind "argument"
        """
        values = self._arguments(arrays, named)
        call = self._call(values, threads)
        return call.run(values) if out is None else call.run_into(values, out)

    def _arguments(self, arrays: tuple[Any, ...], named: Mapping[str, Any]) -> list[Any]:
        """The value of each parameter in order, ABSENT where none was given."""
        params = self._parameters
        if named or len(arrays) != len(params):
            arrays = self._ordered(arrays, named)
        out = []
        for p, v in zip(params, arrays, strict=True):
            plain = type(v) is np.ndarray and v.dtype is p.dtype and v.shape and v.flags.carray
            out.append(v if plain else p.read(v))
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
        key = (tuple([(v.shape, v.strides) if isinstance(v, np.ndarray) else scalar_key(v) for v in values]), threads)
        try:
            call = self._calls.get(key)
        except TypeError:
            bad = next(p for p, v in zip(self._parameters, values, strict=True) if not hashable(v))
            raise MoaError("argument", f"argument {bad.name} is not an array or a number", None, "") from None
        if call is not None and all(values[k].dtype == wanted for k, wanted in self._exact):
            checked = self._indices.get(key)
            if checked is not None:
                checked.check({p.name: v for p, v in zip(self._parameters, values, strict=True)})
            return call
        with PLANNING:
            return self._planned(key, values, threads)

    def _planned(self, key: tuple[Any, ...], values: list[Any], threads: int | None) -> Call:
        """The plan of a call that has none yet."""
        given = {p.name: v for p, v in zip(self._parameters, values, strict=True) if v is not ABSENT}
        ranks = self._ranks({k: v for k, v in given.items() if isinstance(v, np.ndarray)})
        front = self._front(ranks)
        sizes = bind(front.program, given)
        if key not in self._calls:
            if len(self._calls) > MOST_CALLS:
                self._calls.clear()
                self._indices.clear()
            checked = indices(front.program, given, sizes)
            if checked is not None:
                self._indices[key] = checked
            self._calls[key] = self._plan(ranks, front, given, sizes, threads)
        return self._calls[key]

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

    def _chosen(self, front: Front, sizes: Mapping[str, int], threads: int | None) -> tuple[str, int]:
        """The name of the form that a call runs, and with how many threads."""
        count = default_threads() if threads is None else threads
        if count < 1:
            raise MoaError("argument", f"threads is {count}", None, "use at least one")
        form = chosen(front.forms, sizes, 1, dtype=self.dtype)
        if threads is None and form.operations(sizes) < machine_in_use().costs("wake"):
            return form.name, 1
        if count > 1:
            form = chosen(front.forms, sizes, count, dtype=self.dtype)
        return form.name, count

    def _facts(self, values: list[Any], threads: int | None) -> Facts:
        """What is known of a call before its tiles are."""
        given = {p.name: v for p, v in zip(self._parameters, values, strict=True) if v is not ABSENT}
        ranks = self._ranks({k: v for k, v in given.items() if isinstance(v, np.ndarray)})
        front = self._front(ranks)
        sizes = bind(front.program, given)
        form, count = self._chosen(front, sizes, threads)
        model = self.strategy_at(form, sizes, ranks, count)
        return Facts(ranks, front, given, sizes, model, self._class(ranks, form, sizes, model))

    def _choice(self, values: list[Any], threads: int | None) -> Strategy:
        """The tiles that the model chooses for a call."""
        return self._facts(values, threads).model

    def _call_by(self, values: list[Any], threads: int | None, strategy: Strategy) -> Call:
        """The plan of a call in these tiles."""
        with PLANNING:
            known = self._facts(values, threads)
            return self._plan(known.ranks, known.front, known.given, known.sizes, threads, strategy)

    def _keep_choice(self, values: list[Any], threads: int | None, strategy: Strategy, keep: bool) -> None:
        """Makes a strategy what later calls like this one use."""
        parts = self._facts(values, threads).parts
        self._winners[parts] = strategy
        self._calls.clear()
        if keep:
            self._kept.put((strategy.rows, strategy.keys, strategy.block, strategy.map_block), *parts)

    def _class(self, ranks: int, form: str, sizes: Mapping[str, int], model: Strategy) -> tuple[str, ...]:
        """What calls have in common that use one choice: sizes between the same powers of two among it."""
        builder = import_module(f"moa.backends.{self.backend}_build")
        classes = str(sorted((k, int(n).bit_length()) for k, n in sizes.items()))
        return ("tuned", builder.identity(), str(os.cpu_count()), self.dtype, str(ranks), form, classes, str(model))

    def _strategy(self, ranks: int, form: str, sizes: Mapping[str, int], threads: int) -> Strategy:
        """The tiles for a call: those that were tuned for its class, else the model's choice."""
        model = self.strategy_at(form, sizes, ranks, threads)
        if self.backend == "cuda":
            return model
        parts = self._class(ranks, form, sizes, model)
        if parts not in self._winners:
            on = os.environ.get("MOA_TUNED", "") != "0"
            found = self._kept.get(tuple[int, int, int, int], *parts) if on else None
            rows, keys, block, map_block = found or (model.rows, model.keys, model.block, model.map_block)
            self._winners[parts] = replace(model, rows=rows, keys=keys, block=block, map_block=map_block)
        return self._winners[parts]

    def _plan(
        self,
        ranks: int,
        front: Front,
        given: dict[str, Any],
        sizes: dict[str, int],
        threads: int | None,
        strategy: Strategy | None = None,
    ) -> Call:
        program = front.program
        arrays = {k: v for k, v in given.items() if isinstance(v, np.ndarray) and v.ndim}
        unit = frozenset(k for k, v in arrays.items() if v.strides[-1] == v.itemsize or v.shape[-1] <= 1)
        fixed = {k: sizes[k] for k in specialised_sizes(program) if sizes[k] <= LARGEST_SPECIALISED}
        fixed |= {k: sizes[k] for k in self._fixed if k in sizes}
        form, count = self._chosen(front, sizes, threads)
        variant = self._variant(ranks, form, fixed, unit, strategy or self._strategy(ranks, form, sizes, count))
        params: dict[str, Any] = {p.name: given.get(p.name, p.default) for p in program.inputs if not p.shape}
        params = {k: float(v) for k, v in params.items() if v is not None} | sizes
        order = {p.name: k for k, p in enumerate(self._parameters)}
        return prepare(variant.packing, variant.built, order, arrays, sizes, params, self.dtype, count)

    def _variant(
        self, ranks: int, form: str, fixed: dict[str, int], unit: frozenset[str], strategy: Strategy
    ) -> Variant:
        """The instance in these tiles: the number of rows in a work item follows the rows there are."""
        key = (ranks, form, tuple(sorted(fixed.items())), unit, strategy)
        found = self._variants.pop(key, None) or self._compiled(ranks, form, strategy, fixed, unit)
        self._variants[key] = found  # the last one is what ran last
        return found

    def strategy_for(self, rows_there: int, row: int = 0) -> Strategy:
        """Usual tiles for so many rows there are: vectors of them, or, of less than one, lanes along another axis.

        row  which axis they are along, from the innermost
        """
        width = self._width
        vectors = min(VECTORS, -(-rows_there // width))
        vectors = {3: 4}.get(vectors, vectors)
        few_rows = rows_there < width or width < rows_there <= SOME_MORE * width
        rows = max(1, rows_there) if few_rows else vectors * width
        block, precise = 4 * VECTORS // max(vectors, 1), self._element == "f32"
        few = 4 if precise else 1
        pairs = self._pairs(width)
        keys = KEYS_IN_PAIRS if pairs and not few_rows else KEYS[self._element]
        return Strategy(width, rows, keys, min(block, 8), few, row=row, inverses=precise, pairs=pairs)

    def _pairs(self, width: int) -> Literal["", "exact", "rounded"]:
        """Which products are taken of pairs of bfloat16: none where this machine has no instruction for them."""
        from moa.backends.llvm import host
        from moa.backends.llvm_pairs import has_pairs

        if self.dtype != PAIRED or not has_pairs(host(), width):
            return ""
        return "rounded" if self.products == PAIRED else "exact"

    @cached_property
    def _width(self) -> int:
        from moa.backends.llvm import host

        return host().width(self._element)

    def strategy_at(
        self, form: str, sizes: Mapping[str, int], ranks: int = 0, threads: int = 1, machine: Machine | None = None
    ) -> Strategy:
        """The tiles that take least time at these sizes, by the machine in use or another one.

        Rows are along the axis that has most of them where they are few. How many threads there are decides only what
        changes no result: any number of them gives the same bits.
        """
        m = machine or machine_in_use()
        key = ranks, form, threads, m, tuple((k, about(n)) for k, n in sizes.items())
        if key not in self._strategies:
            if len(self._strategies) > MOST_CALLS:
                self._strategies.clear()
            kept = Kept(None) if self._strategies else self._kept  # that of the first call alone
            self._strategies[key] = kept.value(
                Strategy,
                lambda: self.tiles_at(form, sizes, ranks, threads, m)[0],
                *("strategy", self.dtype, self.products, str(self._width), *map(str, key)),
            )
        return self._strategies[key]

    def tiles_at(
        self, form: str, sizes: Mapping[str, int], ranks: int, threads: int, machine: Machine
    ) -> tuple[Strategy, tuple[Candidate, ...]]:
        """What `strategy_at` takes, and among what."""
        sizes, width = {k: about(n) for k, n in sizes.items()}, self._width
        extents = {str(e): evaluate(e, sizes) for e in self._extents(ranks, form, width)}
        rows, row = max(extents.values(), default=1), 0
        if rows < width:  # another axis may be longer
            rows, row = max(self._row_axes(ranks, form, sizes, width))
        few = {e for e, n in extents.items() if n < width <= max(extents.values())}
        if few:  # in place of which no other short axis is the row
            few |= {k for k, n in sizes.items() if n < width}
        short = tuple(sorted(few))
        usual = replace(self.strategy_for(rows, -row), short=short)
        setting = Setting(self._outlook(ranks, form, width, -row), sizes, threads, machine, self.dtype)
        return tiles_at(setting, usual, rows, self.strategy_for, self._made_again(ranks, form, sizes, width))

    def form_at(
        self, sizes: Mapping[str, int], threads: int = 1, ranks: int = 0, machine: Machine | None = None
    ) -> str:
        """The name of the form that a call at these sizes runs."""
        return chosen(self._front(ranks).forms, sizes, threads, machine, self.dtype).name

    def placed_at(
        self, sizes: Mapping[str, int], form: str, strategy: Strategy | None = None, ranks: int = 0
    ) -> Placed:
        """A form as calls of contiguous arrays run it at these sizes, or in other tiles; sizes stay names in it."""
        strategy = strategy or self.strategy_at(form, sizes, ranks)
        key = ranks, form, strategy
        if key not in self._places:
            unit = frozenset(p.name for p in self._front(ranks).program.inputs)
            self._places[key] = self._placed(ranks, form, strategy, {}, unit)
        return self._places[key]

    def _placed(
        self, ranks: int, form: str, strategy: Strategy, fixed: Mapping[str, int], unit: frozenset[str]
    ) -> Placed:
        """A form in these tiles, or in smaller ones where its code would be too long."""
        derivation = self._formed(ranks, form)
        own = unit | frozenset(derivation.streamed.outputs) | _intermediates(derivation)
        for rows in dict.fromkeys((strategy.rows, min(strategy.rows, strategy.width), 1)):
            smaller = replace(strategy, rows=rows)
            found = place(derivation, smaller, self._element, fixed, own, self._stored)
            if not too_long(found.lowered.loops):
                return found
        text = f"the code of {self.name} would have blocks of {longest_block(found.lowered.loops)} instructions"
        raise MoaError("support", text, None, "compute parts of it in kernels of their own")

    def _compiled(
        self, ranks: int, form: str, strategy: Strategy, fixed: dict[str, int], unit: frozenset[str]
    ) -> Variant:
        """The variant, from the disk if it is there: what it was placed as is then made only when asked for."""

        @cache
        def placed() -> Placed:
            return self._placed(ranks, form, strategy, fixed, unit)

        builder = import_module(f"moa.backends.{self.backend}_build")

        def compiled() -> tuple[Packing, Any]:
            from moa.expand import expand

            outputs = self._formed(ranks, form).streamed.outputs
            return packing(placed(), outputs), builder.build(expand(placed().lowered.loops))

        parts = (str(ranks), form, str(sorted(fixed.items())), str(sorted(unit)), str(strategy), self.dtype)
        packed, built = self._kept.variant(builder, compiled, self.backend, *parts)
        return Variant(ranks, form, packed, built, placed)

    def _formed(self, ranks: int, form: str) -> Derivation:
        """The derivation with one of its forms, by name, as what is streamed."""
        derivation = self._derive(ranks)
        return replace(derivation, streamed=next(f for f in in_lengths(derivation.forms) if f.name == form).streamed)

    def for_many_rows(self, width: int | None = None) -> Placed:
        """What is explained where nothing has run: the variant for many rows of contiguous arrays, `...` being no axes.

        width  lanes of a vector, by default those of this machine
        """
        from moa.backends.llvm import host

        width = width or host().width(self._element)
        if width not in self._many_rows:
            d = self.derivation
            single = self._element == "f32"
            strategy = Strategy(width, VECTORS * width, KEYS[self._element], 4, 4 if single else 2, inverses=single)
            strategy = replace(strategy, pairs=self._pairs(width))
            own = frozenset(p.name for p in d.program.inputs) | _intermediates(d)
            self._many_rows[width] = place(d, strategy, self._element, {}, own, self._stored)
        return self._many_rows[width]

    def _row_axes(self, ranks: int, form: str, sizes: Mapping[str, int], width: int) -> Iterator[tuple[int, int]]:
        """The extents of the axes that may be the row, and which they are, as numbers that fall from the innermost."""
        for row in range(MOST_ROW_AXES):
            yield self._rows(ranks, form, sizes, width, row), -row
            if row and self._extents(ranks, form, width, row) == self._extents(ranks, form, width, row - 1):
                return

    def _made_again(
        self, ranks: int, form: str, sizes: Mapping[str, int], width: int
    ) -> tuple[tuple[str, Poly, Poly, int], ...]:
        """The sums that several phases need and that are no larger than an argument: they may be made once."""
        key = ranks, form
        if key not in self._again:
            strategy = Strategy(width, VECTORS * width, KEYS[self._element])
            self._again[key] = self._kept.value(
                tuple[tuple[str, Poly, Poly, int], ...],
                lambda: made_again(self._sketched(ranks, form, strategy)[0]),
                *("again", str(ranks), form, str(strategy)),
            )
        shapes = (p.shape for p in self._front(ranks).program.inputs if p.kind == "f")
        largest = max((prod(evaluate(e, sizes) for e in shape) for shape in shapes), default=1)
        return tuple(x for x in self._again[key] if evaluate(x[1], sizes) <= largest)

    def _rows(self, ranks: int, form: str, sizes: Mapping[str, int], width: int, row: int = 0) -> int:
        """The extent of the axis that work items tile: of those that may be, `row` from the innermost."""
        return max((evaluate(e, sizes) for e in self._extents(ranks, form, width, row)), default=1)

    def _extents(self, ranks: int, form: str, width: int, row: int = 0) -> tuple[Poly, ...]:
        """The extents of the axes that work items tile, each `row` from the innermost of those that may be."""
        return tuple(e for s in self._outlook(ranks, form, width, row).phases for e in s.rows)

    def _outlook(self, ranks: int, form: str, width: int, row: int = 0) -> Outlook:
        """What the tiles of a form do, for any lengths of tiles."""
        key = ranks, form, width, row
        if key not in self._outlooks:
            strategy = Strategy(width, VECTORS * width, KEYS[self._element], row=row)
            self._outlooks[key] = self._kept.value(
                Outlook,
                lambda: outlook(
                    self._formed(ranks, form).streamed, self._sketched(ranks, form, strategy)[1], strategy.keys
                ),
                *("outlook", str(ranks), form, str(strategy)),
            )
        return self._outlooks[key]

    def _sketched(self, ranks: int, form: str, strategy: Strategy) -> tuple[Plan, Tiles]:
        """A form in usual tiles; the last one is kept for the next question about it."""
        key = ranks, form, strategy
        if self._sketch is None or self._sketch[0] != key:
            self._sketch = key, planned(self._formed(ranks, form).streamed, strategy)
        return self._sketch[1]


def about(n: int) -> int:
    """The size by which tiles are chosen: itself, or the power of two at or below it."""
    return n if n < EXACT else 1 << (n.bit_length() - 1)


def _intermediates(derivation: Derivation) -> frozenset[str]:
    """Names that may become arrays of our own: always contiguous."""
    from moa.normal import Fold

    out: set[str] = set()
    for e in derivation.streamed.equations:
        out |= {m.name for m in e.members} if isinstance(e, Fold) else {e.name}
    for r in derivation.streamed.recurrences:
        out |= {c.name for c in r.components} | {e.name for e in r.readers}
    return frozenset(out)


def too_long(loops: Loops) -> bool:
    """Whether machine code of these loops would take unreasonably long to make."""
    from moa.expand import expand

    return longest_block(loops) > LONGEST_BLOCK // 4 and longest_block(expand(loops)) > LONGEST_BLOCK


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
