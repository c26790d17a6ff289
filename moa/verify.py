"""Verify: a compiled kernel against the oracle on hard inputs, and every side condition of its derivation once more.

Sizes are chosen from the program's own: ordinary, 1, below a tile, primes, around tiles, empty. Data are chosen to
hurt: huge, equal, infinite, absent, strided. Laws are proved again without the engine that used them: the members they
made are evaluated at random points, and by sympy; conditions of the trace are read as text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from moa import ir
from moa.associative import proved
from moa.forms import chosen
from moa.interp.normal import run as run_normal
from moa.interp.normal import run_halves
from moa.kernel import Kernel
from moa.laws.chunk import LENGTH
from moa.naming import inline
from moa.normal import TRUE, Cond, Eq, Fold, Member, Scalar, both
from moa.ops import OPERATORS
from moa.oracle import _value, bind, evaluate, oracle
from moa.pipeline import Derivation, specialised_sizes
from moa.poly import Atom, Poly
from moa.storage import STORAGE, computed, numpy_dtype, rounding
from moa.text import MoaError

Array = np.ndarray[Any, Any]
NOISE = 1e-9
SMALLEST = 2.0**-24  # float16 above 0: numbers below are rounded by up to half of it
NUMPY: dict[str, Any] = {"f": np.float64, "i": np.int64, "b": np.bool_}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `detail` says how it came out: an error in units of its tolerance, a reason."""

    name: str
    ok: bool
    detail: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.ok else 'FAIL'} {self.name}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Verification:
    """All checks in order; `ok` if none failed."""

    ok: bool
    checks: tuple[Check, ...]

    def __str__(self) -> str:
        failed = [c for c in self.checks if not c.ok]
        count = f"{len(self.checks)} checks"
        end = f"all of {count} hold" if not failed else f"{len(failed)} of {count} FAIL"
        return "\n".join([*map(str, self.checks), end])


def verify(kernel: Kernel, *, seed: int = 0, progress: Callable[[Check], None] | None = None) -> Verification:
    """What the checks found. `progress` is called with each check as it is done.

    Values are those of the oracle, within what rounding may do to them. NaN stands where the equations have it; where
    a mask of indices hides a value that is not finite, NaN may reach rows beside it (contract: assumes finite).
    Errors: MoaError if no sizes at all satisfy what the program demands of them
    """
    checks: list[Check] = []
    for check in _all(kernel, np.random.default_rng(seed)):
        checks.append(check)
        if progress is not None:
            progress(check)
    return Verification(all(c.ok for c in checks), tuple(checks))


def _all(kernel: Kernel, rng: np.random.Generator) -> Iterator[Check]:
    ranks = 1 if kernel._lead else 0
    derivation = kernel._derive(ranks)
    yield from laws(derivation, rng)
    found = 0
    lead = {a.name for p in derivation.program.inputs if p.name in kernel._lead for a in p.shape[0].atoms()}
    for name, sizes in scenarios(derivation.program, kernel._fixed, lead if ranks else set()):
        given = arguments(derivation.program, sizes, rng, kernel.dtype)
        if given is None:
            continue
        if found == 0:
            yield from systems(derivation, small(derivation.program, kernel._fixed, rng, kernel.dtype) or given)
            yield from in_chunks(derivation, kernel._fixed, rng)
        found += 1
        yield values(kernel, derivation, f"{name} ({_sizes_text(sizes)})", given, rng)
        if found == 1:
            yield strided(kernel, given)
            yield threads(kernel, derivation, given)
            yield from infinities(kernel, derivation, given, rng)
    if not found:
        text = f"no sizes that were tried satisfy what {kernel.name} demands of them"
        raise MoaError("argument", text, None, "fix some with sizes=")


# Sizes and data ------------------------------------------------------------------------------------------------------

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


def _sizes_text(sizes: Mapping[str, int]) -> str:
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


# Values --------------------------------------------------------------------------------------------------------------


def noisy(
    program: ir.Program, given: Mapping[str, Any], sizes: Mapping[str, int], noise: float, rng: np.random.Generator
) -> list[tuple[Array, ...]]:
    """The oracle, three times, with every operand of every operation off by a random relative amount below `noise`.

    Each operand is taken from one of the copies, by turns: a kernel computes values again in another order where they
    are used again, so that errors of exp(s - m) do not cancel in a quotient. Equality, which has no error that is
    small, sees the values themselves.
    """
    copies = 3
    exact = ("eq", "ne", "index", "transpose", "reshape", "concat", "rotate", "part", "scan")
    made: list[dict[int, Any]] = [{} for _ in range(copies)]
    inputs = {p.name: np.asarray(given.get(p.name, p.default), NUMPY[p.kind]) for p in program.inputs}
    for v in program.values:
        turns = rng.integers(copies, size=len(v.args))
        for r, own in enumerate(made):
            here = dict(own)
            if v.op not in exact:
                for a, turn in zip(v.args, turns, strict=True):
                    x = made[(r + int(turn)) % copies][a]
                    if not isinstance(x, tuple) and x.dtype == np.float64:
                        here[a] = x * (1 + noise * rng.uniform(-1, 1, x.shape))
            out = _value(program, v, here, inputs, sizes)
            own[v.number] = out if isinstance(out, tuple) else np.asarray(out, NUMPY[v.kind])
    return [tuple(np.asarray(own[o]) for o in program.outputs) for own in made]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a call should give: per output the value, what rounding may change in it, and where that is known.

    `unsettled` are elements that rounding alone may change at will: a comparison of floats decides them.
    """

    values: tuple[Array, ...]
    tolerance: tuple[float, ...]
    unsettled: tuple[Array, ...]


def expected(program: ir.Program, given: Mapping[str, Any], dtype: str) -> Expected:
    """The oracle's values, with tolerances from how far they move when every operand is a little wrong."""
    sizes = bind(program, given)
    eps = float(np.finfo(computed(dtype)).eps)
    want = oracle(program, given)
    terms = 16 + sum(max(v, 0) for v in sizes.values()) / 8
    moved = [0.0 for _ in want]
    unsettled = [np.zeros(w.shape, bool) for w in want]
    with np.errstate(all="ignore"):
        for out in noisy(program, given, sizes, NOISE, np.random.default_rng(1)):
            for k, (a, b) in enumerate(zip(out, want, strict=True)):
                gap = distance(a, b)[np.isfinite(a) & np.isfinite(b)]
                moved[k] = max(moved[k], float(gap.max()) if gap.size else 0.0)
        size = [float(np.abs(w[np.isfinite(w)]).max()) if np.isfinite(w).any() else 0.0 for w in want]
        tol = tuple(eps * terms * (s + m / NOISE) for s, m in zip(size, moved, strict=True))
        for out in noisy(program, given, sizes, 8 * eps, np.random.default_rng(2)):
            for k, (a, b) in enumerate(zip(out, want, strict=True)):
                unsettled[k] |= (distance(a, b) > tol[k]) | (np.isnan(a) != np.isnan(b))
        for k, w in enumerate(want):  # numbers that the compute type may not hold
            if w.dtype.kind == "f":
                unsettled[k] |= np.isfinite(w) & (np.abs(w) + tol[k] >= np.finfo(computed(dtype)).max)
    return stored(Expected(want, tol, tuple(unsettled)), dtype)


def stored(want: Expected, dtype: str) -> Expected:
    """What arrays of `dtype` hold of it: rounded once more, too large numbers as infinities."""
    if dtype == computed(dtype):
        return want
    made = []
    with np.errstate(all="ignore"):
        for w, tol, skip in zip(want.values, want.tolerance, want.unsettled, strict=True):
            if w.dtype.kind != "f":
                made.append((w, tol, skip))
                continue
            low, near, high = (x.astype(numpy_dtype(dtype)).astype(np.float64) for x in (w - tol, w, w + tol))
            size = float(np.abs(near[np.isfinite(near)]).max(initial=0.0))
            wide = tol + 2 * rounding(dtype) * (size + tol) + SMALLEST
            made.append((near, wide, skip | (np.isinf(low) != np.isinf(high))))
    values, tolerance, unsettled = zip(*made, strict=True)
    return Expected(values, tolerance, unsettled)


def distance(a: Array, b: Array) -> Array:
    """|a - b|, of bits too."""
    return np.abs(np.subtract(a, b, dtype=np.float64))


def compared(
    got: Sequence[Array],
    want: Expected,
    nan: Sequence[Array] | None = None,
    masked: bool = False,
    undefined: bool = False,
) -> str:
    """Where a result is wrong, or nothing.

    nan         results whose NaN have to be in `got`; where the oracle has NaN they may be
    masked      NaN may be anywhere beside that
    undefined   NaN may stand for an infinity: a sum that was taken apart may be a difference of infinities
    """
    must = want.values if nan is None else nan
    for k, (g, w, p, tol, skip) in enumerate(zip(got, want.values, must, want.tolerance, want.unsettled, strict=True)):
        if g.shape != w.shape:
            return f"output {k} has shape {list(g.shape)}, expected {list(w.shape)}"
        bad = np.isnan(p) & ~np.isnan(g)
        if not masked:
            bad |= np.isnan(g) & ~np.isnan(p) & ~np.isnan(w) & ~(undefined & np.isinf(w))
        with np.errstate(all="ignore"):
            near = (distance(g, w) <= tol) | (g == w) | np.isnan(g) | np.isnan(w)
        bad |= ~near
        bad &= ~skip
        if bad.any():
            at = tuple(int(x) for x in np.argwhere(bad)[0])
            text = f"output {k} at {list(at)} is {g[at]}, expected {w[at]} within {tol:.3g}"
            return f"{text} ({int(bad.sum())} of {bad.size} elements)"
    return ""


def worst(got: Sequence[Array], want: Expected) -> float:
    """The largest error in units of its tolerance."""
    out = 0.0
    for g, w, tol, skip in zip(got, want.values, want.tolerance, want.unsettled, strict=True):
        with np.errstate(all="ignore"):
            gap = distance(g, w)
        gap = gap[np.isfinite(gap) & ~skip]
        if gap.size and tol:
            out = max(out, float(gap.max()) / tol)
    return out


def call(kernel: Kernel, given: Mapping[str, Any], threads: int | None = None) -> tuple[Array, ...]:
    out = kernel(threads=threads, **given)
    return out if isinstance(out, tuple) else (out,)


def values(
    kernel: Kernel, derivation: Derivation, name: str, given: Mapping[str, Any], rng: np.random.Generator
) -> Check:
    """The kernel on finite data of several kinds at one choice of sizes."""
    error = 0.0
    for kind, f in DATA.items():
        data = changed(given, f)
        want = expected(derivation.program, data, kernel.dtype)
        got = call(kernel, data)
        found = compared(got, want)
        if found:
            return Check(f"values, {name}", False, f"{kind} data: {found}")
        error = max(error, worst(got, want))
    return Check(f"values, {name}", True, f"{', '.join(DATA)} data: errors at most {error:.2g} of their tolerance")


def strided(kernel: Kernel, given: Mapping[str, Any]) -> Check:
    """Other strides give equal values: Fortran order, every second element, backwards."""
    want = call(kernel, given)
    scale = [float(np.abs(w[np.isfinite(w)]).max()) if np.isfinite(w).any() else 0.0 for w in want]
    eps = float(np.finfo(computed(kernel.dtype)).eps) + 2e-4 * rounding(kernel.dtype)

    def spread(x: Array) -> Array:
        wide = np.zeros(tuple(2 * e for e in x.shape), x.dtype)
        out = wide[(slice(None, None, 2),) * x.ndim]
        out[...] = x
        return out

    def backwards(x: Array) -> Array:
        everywhere = (slice(None, None, -1),) * x.ndim
        return np.ascontiguousarray(x[everywhere])[everywhere]

    for kind, f in (("Fortran order", np.asfortranarray), ("spread", spread), ("backwards", backwards)):
        got = call(kernel, {k: f(x) if isinstance(x, np.ndarray) and x.ndim else x for k, x in given.items()})
        for g, w, s in zip(got, want, scale, strict=True):
            with np.errstate(all="ignore"):
                near = (distance(g, w) <= 1e4 * eps * s) | (g == w) | (np.isnan(g) & np.isnan(w))
            if g.shape != w.shape or not near.all():
                return Check("strides", False, f"{kind}: results differ from those of contiguous arrays")
    return Check("strides", True, "Fortran order, every second element, backwards")


def threads(kernel: Kernel, derivation: Derivation, given: Mapping[str, Any]) -> Check:
    """Any number of threads gives equal bits, where the same form is computed."""
    forms = derivation.forms
    sizes = bind(derivation.program, given)
    alike = [c for c in (1, 2, 3) if chosen(forms, sizes, c).name == chosen(forms, sizes, 1).name]
    want = [x.tobytes() for x in call(kernel, given, 1)]
    for count in alike[1:]:
        if [x.tobytes() for x in call(kernel, given, count)] != want:
            return Check("threads", False, f"{count} threads give other bits than 1")
    return Check("threads", True, f"{', '.join(map(str, alike))}: equal bits")


def infinities(
    kernel: Kernel, derivation: Derivation, given: Mapping[str, Any], rng: np.random.Generator
) -> Iterator[Check]:
    """NaN and infinities in one argument at a time."""
    program = derivation.program
    hidden = hides(derivation)
    for p in program.inputs:
        x = given.get(p.name)
        if p.kind != "f" or not isinstance(x, np.ndarray) or not x.size:
            continue
        at = tuple(int(rng.integers(e)) for e in x.shape)
        for value in (np.nan, -np.inf, np.inf):
            data = changed(given, lambda y, value=value, at=at: _with(y, at, value), p.name)  # type: ignore[misc]
            yield _hostile(kernel, derivation, f"{value} in {p.name}", data, hidden)
        if x.ndim and x.shape[-1] > 1:
            data = changed(given, lambda y: _prefix(y), p.name)
            yield _hostile(kernel, derivation, f"-inf prefix in {p.name}", data, hidden)


def _with(x: Array, at: tuple[int, ...], value: float) -> Array:
    out = x.copy()
    out[at] = value
    return out


def _prefix(x: Array) -> Array:
    out = x.copy()
    out[..., : max(1, 2 * x.shape[-1] // 3)] = -np.inf
    return out


def _hostile(kernel: Kernel, derivation: Derivation, name: str, data: Mapping[str, Any], hidden: Hides) -> Check:
    want = expected(derivation.program, data, kernel.dtype)
    nan = _normal(derivation, data, kernel.dtype)
    infinite = any(isinstance(x, np.ndarray) and floating(x) and np.isinf(x).any() for x in data.values())
    got = call(kernel, data)
    found = compared(got, want, nan)
    if found and (hidden.index or (hidden.value and infinite)):
        least = tuple(np.where(np.isnan(g), p, 0.0) for g, p in zip(got, nan, strict=True)) if infinite else nan
        if not compared(got, want, least, masked=bool(hidden.index), undefined=True):
            return Check(
                name, True, f"NaN reaches other elements than the formula says: {hidden.index or hidden.value}"
            )
    return Check(name, not found, found or "NaN and infinities stand where the formula has them")


@dataclass(frozen=True, slots=True)
class Hides:
    """Why values that are not finite may reach other elements than the formula says; empty where they may not.

    index   by a mask of indices: any of them, in any direction
    value   by a law: infinities only, which may lose a NaN, or make one of an infinity
    """

    index: str
    value: str


def hides(derivation: Derivation) -> Hides:
    """What the derivation says of values that are not finite."""
    index = ""
    for e in derivation.streamed.equations:
        members: Sequence[Eq | Member] = e.members if isinstance(e, Fold) else (e,)
        for m in members:
            if m.domain is not TRUE or any(c is not TRUE for c, _ in m.pieces):
                index = "a mask of indices assumes that what it hides is finite"
    laws = {"linearity": "sums that are taken apart", "drop a guard": "a guard that is dropped"}
    fired = [f"{what} (law `{law}`)" for law, what in laws.items() if derivation.trace.fired(law)]
    if any(m.width > 1 for moved in derivation.report.moved for _, m in moved.members):
        fired.append("a mean that moves (law `change of reference`)")
    return Hides(index, f"{fired[0]} assumes finite values" if fired else "")


# Laws ----------------------------------------------------------------------------------------------------------------


def _normal(derivation: Derivation, given: Mapping[str, Any], dtype: str) -> tuple[Array, ...]:
    """The outputs of the equations before any law between reductions."""
    program = derivation.program
    if derivation.inlined.recurrences:
        return oracle(program, given)
    arrays, params = _split(program, given, dtype)
    found = run_normal(derivation.inlined, arrays, bind(program, given), params)
    return tuple(found[o] for o in derivation.inlined.outputs)


def _split(program: ir.Program, given: Mapping[str, Any], dtype: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(arrays, scalars with `lowest`)."""
    arrays = {p.name: given[p.name] for p in program.inputs if p.shape}
    scalars = {p.name: given[p.name] for p in program.inputs if not p.shape and p.name in given}
    return arrays, {**scalars, "lowest": float(np.finfo(computed(dtype)).min)}


def systems(derivation: Derivation, given: Mapping[str, Any]) -> Iterator[Check]:
    """The equations before the laws, and every form of them after, in tiles of 1, 5 and all, and in parts merged.

    This proves again what made the forms (exchanged sums, states carried from row to row), whatever engine made them.
    """
    program = derivation.program
    given = {k: x.astype(np.float64) if isinstance(x, np.ndarray) and floating(x) else x for k, x in given.items()}
    want = expected(program, given, "float64")
    sizes = bind(program, given)
    arrays, params = _split(program, given, "float64")
    yield _system("as psi left them", {"all at once": _normal(derivation, given, "float64")}, want, sizes)
    for form in derivation.forms:
        streamed = form.streamed
        results: dict[str, tuple[Array, ...]] = {}
        for tile in (1, 5, None):
            found = run_normal(streamed, arrays, sizes, params, tile)
            results[f"tiles of {tile or 'all'}"] = tuple(found[o] for o in streamed.outputs)
        extents = [evaluate(e.axis[1], sizes) for e in streamed.equations if isinstance(e, Fold)]
        if extents and min(extents) > 2 and not streamed.recurrences:
            found = run_halves(streamed, arrays, sizes, params, cuts=(2,))
            results["two parts, merged"] = tuple(found[o] for o in streamed.outputs)
        yield _system(form.name, results, want, sizes)


def in_chunks(derivation: Derivation, fixed: Mapping[str, int], rng: np.random.Generator) -> Iterator[Check]:
    """The forms that go by chunks of rows, at lengths of several chunks and a part of one."""
    program = derivation.program
    for form in derivation.forms:
        if not any(s.law == "chunk" for s in form.steps):
            continue
        counts = [a for r in form.streamed.recurrences for a in r.axis[1].atoms()]
        long = {x.name for a in counts for x in (a, *(x for p in a.args for x in p.atoms()))}
        sizes = {s: 2 * LENGTH + 2 if s in long else 3 for s in program.sizes()}
        integers = {p.name: 2 for p in program.inputs if p.kind == "i" and not p.shape}
        found = satisfied(program, {**integers, **sizes, **fixed}, {*integers, *fixed})
        given = None if found is None else arguments(program, found, rng, "float64")
        if given is None:
            continue
        sizes = bind(program, given)
        arrays, params = _split(program, given, "float64")
        got = run_normal(form.streamed, arrays, sizes, params)
        results = {"chunk by chunk": tuple(got[o] for o in form.streamed.outputs)}
        yield _system(form.name, results, expected(program, given, "float64"), sizes)


def _system(name: str, results: Mapping[str, Sequence[Array]], want: Expected, sizes: Mapping[str, int]) -> Check:
    for how, got in results.items():
        bad = compared(got, want)
        if bad:
            return Check(f"equations, {name}", False, f"{how}: {bad}")
    return Check(f"equations, {name}", True, f"{', '.join(results)}: equal to the oracle at {_sizes_text(sizes)}")


def laws(derivation: Derivation, rng: np.random.Generator) -> Iterator[Check]:
    """Each change of reference again, at random points and by sympy; conditions of the trace as text."""
    moved = derivation.report.moved
    if moved:
        from moa.laws import prove

        everywhere = {m.name: m for made in moved for _, m in made.members}
        for e in inline(derivation.streamed).equations:  # bodies as they were moved, nothing in them named
            if isinstance(e, Fold):
                everywhere |= {m.name: m for m in e.members}
        members = list(everywhere.values())
        signs = prove.nonnegative_sums([e for made in moved for e, _ in made.members])
        for made in moved:
            e, m = made.members[-1]
            proofs = {
                "move": prove.move_holds(m),
                "finish": prove.finish_holds(e, m, members),
                "exponents": prove.exponents_hold(m, members, signs),
            }
            failed = [k for k, holds in proofs.items() if not holds]
            where = at_random_points(e, m, members, rng)
            name = f"law `change of reference` on {m.name}"
            if failed or where:
                yield Check(name, False, where or f"not proved by sympy: {', '.join(failed)}")
            else:
                yield Check(name, True, "move and finish at random points; move, finish, exponents by sympy")
    for v in derivation.program.values:
        if v.op == "scan" and not v.attrs[0].step:
            how = "by sympy, in every order of operands" if proved(v.attrs[0]) else "no counterexample was found"
            yield Check(f"operator {v.attrs[0].body.name} is associative", True, how)
    for s in derivation.trace.steps:
        for fact, reason in s.conditions:
            told = re.fullmatch(r"(?s)(.+?)(?: > 0 and| is) free of (\w+)", fact)
            if told is not None:
                free = not re.search(rf"\b{re.escape(told.group(2))}\b", told.group(1))
                if not free or reason not in ("structure", "sign"):
                    yield Check(f"law `{s.law}` on {s.target}", False, f"{fact}: not so")


def at_random_points(e: Eq, m: Member, members: Sequence[Member], rng: np.random.Generator) -> str:
    """Where `move` or `finish` of a member fails, loads and parameters being random numbers; or nothing."""
    plain = {x.state(0): x.name for x in members if x.width == 1 and not x.refs}
    for _ in range(8):
        for c, basis in m.pieces:
            point = _Point(rng, plain)
            old, new = ([rng.uniform(-1, 1) for _ in m.refs] for _ in range(2))
            before = [point.value(b, {(k, "new"): x for k, x in enumerate(old)}) for b in basis]
            after = [point.value(b, {(k, "new"): x for k, x in enumerate(new)}) for b in basis]
            refs = {(k, "old"): x for k, x in enumerate(old)} | {(k, "new"): x for k, x in enumerate(new)}
            for row, there in zip(m.move, after, strict=True):
                total = sum(point.value(x, refs) * y for x, y in zip(row, before, strict=True))
                if not np.isclose(total, there, rtol=1e-8, atol=1e-10):
                    return f"move gives {total}, the basis at the new reference is {there}"
            ends = {(k, "new"): point.value(r) for k, r in enumerate(m.refs)}
            for k, component in enumerate(basis):
                point.known[m.state(k)] = point.value(component, ends)
            bodies = [s for d, s in e.pieces if both(e.domain, d) is both(m.domain, c)]
            if not bodies:
                return f"no piece of the reduction has the condition {c}"
            want, got = point.value(bodies[0]), point.value(m.finish)
            if not np.isclose(got, want, rtol=1e-8, atol=1e-10):
                return f"finish gives {got}, the body is {want}"
    return ""


class _Point:
    """Numbers for everything that a scalar reads: equal loads have equal numbers."""

    def __init__(self, rng: np.random.Generator, states: Mapping[str, str]) -> None:
        self.rng = rng
        self.states = states  # running values of plain members are the final ones
        self.known: dict[Any, float] = {}

    def number(self, key: Any, low: float = 0.25, high: float = 1.75) -> float:
        if key not in self.known:
            self.known[key] = float(self.rng.uniform(low, high))
        return self.known[key]

    def integer(self, p: Poly) -> int:
        def atom(a: Atom) -> int:
            return round(self.number(("integer", a), 1, 9))

        return int(p.evaluate(atom))

    def value(self, s: Scalar, refs: Mapping[tuple[int, str], float] | None = None) -> float:
        with np.errstate(all="ignore"):
            return float(self._value(s, refs or {}))

    def _value(self, s: Scalar, refs: Mapping[tuple[int, str], float]) -> Any:
        match s.op:
            case "lit":
                return float(s.args[0])
            case "int":
                return float(self.integer(s.args[0]))
            case "param":
                return -1e300 if s.args[0] == "lowest" else self.number(s)
            case "ref":
                return refs[s.args[0], s.args[1]]
            case "load":
                if s.args[0] in self.known:
                    return self.known[s.args[0]]
                return self.number((self.states.get(s.args[0], s.args[0]), s.args[1]))
            case "select":
                return self._value(s.args[1] if self.holds(s.args[0], refs) else s.args[2], refs)
            case _:
                return OPERATORS[s.op].numpy(*(self._value(x, refs) for x in s.args))

    def holds(self, c: Cond, refs: Mapping[tuple[int, str], float]) -> bool:
        match c.op:
            case "true" | "false":
                return c.is_true
            case "ge":
                return self.integer(c.args[0]) >= 0
            case "eq":
                return self.integer(c.args[0]) == 0
            case "and":
                return all(self.holds(x, refs) for x in c.args)
            case "or":
                return any(self.holds(x, refs) for x in c.args)
            case "not":
                return not self.holds(c.args[0], refs)
            case "cmp":
                return bool(OPERATORS[c.args[0]].numpy(self._value(c.args[1], refs), self._value(c.args[2], refs)))
            case _:
                return self.number(c) < 1
