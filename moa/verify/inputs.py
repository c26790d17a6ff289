"""Sizes and data to check a kernel at: ordinary ones, and those that hurt."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np

from moa import ir
from moa.oracle import bind, evaluate
from moa.pipeline import specialised_sizes
from moa.storage import STORAGE, numpy_dtype
from moa.text import MoaError

Array = np.ndarray[Any, Any]
PRIMES = (13, 29, 7, 5, 11, 3)
LARGER_PRIMES = (37, 101, 53, 17, 23, 19)
MOST_ELEMENTS = 1 << 19
FACTORS = (1, 2, 3, 4, 6, 8, 12, 16, 32, 64)  # what sizes are made multiples of where the program divides them


def scenarios(program: ir.Program, fixed: Mapping[str, int], lead: Set[str]) -> Iterator[tuple[str, dict[str, int]]]:
    """Names and sizes to check a kernel at; those in `fixed` stay as they are, those in `lead` are leading axes."""
    narrow = [s for s in specialised_sizes(program) if s not in fixed]  # another value is another instance
    wide = [s for s in program.sizes() if s not in fixed and s not in narrow and s not in lead]
    integers = {p.name: 3 for p in program.inputs if p.kind == "i" and not p.shape}

    def made(values: Sequence[int], narrow_value: int = 8, **others: int) -> dict[str, int] | None:
        chosen = dict(zip(wide, (values[k % len(values)] for k in range(len(wide))), strict=True))
        start = {**integers, **dict.fromkeys(narrow, narrow_value), **dict.fromkeys(lead, 2)}
        found = satisfied(program, {**start, **chosen, **fixed, **others}, {*integers, *fixed})
        for s in wide:  # leading axes come first: they are shortened until the oracle is done in a moment
            if found is not None and largest(program, found) > MOST_ELEMENTS:
                chosen[s] = min(chosen[s], 2)
                found = satisfied(program, {**start, **chosen, **fixed, **others}, {*integers, *fixed})
        return found

    plans: list[tuple[str, dict[str, int] | None]] = [("ordinary", made(PRIMES))]
    plans.append(("all 1", made((1,), 1)))
    plans += [(f"{s} = 1", made(PRIMES, **{s: 1})) for s in wide]
    plans.append(("below a tile", made((3, 2))))
    plans.append(("odd", made((9, 5), 5)))
    plans.append(("larger primes", made(LARGER_PRIMES)))
    plans.append(("around tiles", made((65, 193, 97))))
    plans += [(f"{s} = 0", made(PRIMES, **{s: 0})) for s in (*wide, *sorted(lead))]
    seen: list[dict[str, int]] = []
    for name, sizes in plans:
        if sizes is not None and sizes not in seen:
            seen.append(sizes)
            yield name, sizes


def largest(program: ir.Program, sizes: Mapping[str, int]) -> int:
    """The elements of the largest value that the oracle makes."""
    return max(math.prod(evaluate(e, sizes) for e in v.shape) for v in program.values)


def satisfied(program: ir.Program, sizes: dict[str, int], kept: Set[str]) -> dict[str, int] | None:
    """Sizes near these that meet the program's obligations, None if none are found; those in `kept` stay."""
    for factor in FACTORS:
        tried = {k: v if k in kept else -(-v // factor) * factor for k, v in sizes.items()}
        try:
            held = all(_holds(o, tried) for o in program.obligations)
        except MoaError:
            held = False
        if held:
            return tried
    return None


def _holds(o: ir.Obligation, sizes: Mapping[str, int]) -> bool:
    left, right = evaluate(o.left, sizes), evaluate(o.right, sizes)
    match o.relation:
        case "==":
            return left == right
        case ">=":
            return left >= right
        case _:
            return left != 0 and right % left == 0


def sizes_text(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{k} = {v}" for k, v in sizes.items()) or "no sizes"


def arguments(
    program: ir.Program, sizes: Mapping[str, int], rng: np.random.Generator, dtype: str
) -> dict[str, Any] | None:
    """Ordinary data by name; None where no integers that were tried are valid indices."""
    reach = _reaches(program, sizes)
    for highest in (None, 1):
        given = {p.name: _argument(p, sizes, rng, dtype, reach.get(p.name, highest)) for p in program.inputs}
        try:
            bind(program, given)
            return given
        except MoaError:
            continue
    return None


def _argument(p: ir.Input, sizes: Mapping[str, int], rng: np.random.Generator, dtype: str, highest: int | None) -> Any:
    shape = tuple(evaluate(e, sizes) for e in p.shape)
    if not shape and not p.shape:
        match p.kind:
            case "i":
                return sizes[p.name]
            case "b":
                return True
            case _:
                return 0.625
    match p.kind:
        case "i":
            return rng.integers(0, 4 if highest is None else max(highest, 1), shape)
        case "b":
            return rng.random(shape) < 0.6
        case _:
            return rng.standard_normal(shape).astype(numpy_dtype(dtype))


def _reaches(program: ir.Program, sizes: Mapping[str, int]) -> dict[str, int]:
    """For each parameter that holds indices of an axis, the shortest such axis."""
    out: dict[str, int] = {}
    for v in program.values:
        if v.op != "index":
            continue
        axis = 0
        for item in v.attrs[0]:
            if isinstance(item, ir.Gather):
                source = program.values[item.value]
                while source.op in ("index", "transpose", "reshape") and source.args:
                    source = program.values[source.args[0]]
                if source.op == "input":
                    extent = evaluate(program.values[v.args[0]].shape[axis], sizes)
                    out[source.attrs[0]] = min(extent, out.get(source.attrs[0], extent))
            axis += not isinstance(item, ir.New)
    return out


def small(program: ir.Program, fixed: Mapping[str, int], rng: np.random.Generator, dtype: str) -> dict[str, Any] | None:
    """Ordinary data of a few elements an axis: the equations are evaluated over whole boxes."""
    names = [s for s in program.sizes() if s not in fixed]
    sizes = dict(zip(names, (5, 7, 3, 4, 6, 2)[: len(names)] + (3,) * max(0, len(names) - 6), strict=True))
    integers = {p.name: 2 for p in program.inputs if p.kind == "i" and not p.shape}
    found = satisfied(program, {**integers, **sizes, **fixed}, {*integers, *fixed})
    return None if found is None else arguments(program, found, rng, dtype)


def floating(x: Array) -> bool:
    return x.dtype.name in STORAGE


def changed(given: Mapping[str, Any], f: Callable[[Array], Array], only: str = "") -> dict[str, Any]:
    """The arguments with float arrays (or the one named) replaced by f of them."""
    out = dict(given)
    for k, x in given.items():
        if isinstance(x, np.ndarray) and floating(x) and x.size and only in ("", k):
            out[k] = f(x)
    return out


def _growing(x: Array) -> Array:
    """Every element larger than those before it: each tile moves the references of the last."""
    return np.asarray(np.sort(x.reshape(-1)).reshape(x.shape) * 4)


DATA: dict[str, Callable[[Array], Array]] = {
    "ordinary": lambda x: x,
    "huge": lambda x: np.asarray(x * 100).astype(x.dtype),
    "equal": np.ones_like,
    "growing": lambda x: _growing(x).astype(x.dtype),
    "shrinking": lambda x: np.asarray(_growing(x)[..., ::-1]).astype(x.dtype),
    "zero": np.zeros_like,
}
