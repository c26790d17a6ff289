"""Verify: a compiled kernel against the oracle on hard inputs, and every side condition of its derivation once more.

Sizes are chosen from the program's own: ordinary, 1, below a tile, primes, around tiles, empty. Data are chosen to
hurt: huge, equal, infinite, absent, strided. Laws are proved again without the engine that used them: the members they
made are evaluated at random points, and by sympy; conditions of the trace are read as text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from moa.forms import chosen, in_lengths
from moa.kernel import Kernel
from moa.normal import TRUE, Eq, Fold, Member
from moa.oracle import bind, oracle
from moa.pipeline import Derivation
from moa.storage import computed, rounding
from moa.text import MoaError
from moa.verify.again import before_laws, in_chunks, laws, systems
from moa.verify.check import Check
from moa.verify.expected import compared, distance, expected, worst
from moa.verify.inputs import DATA, arguments, changed, floating, scenarios, sizes_text, small

Array = np.ndarray[Any, Any]


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
        yield values(kernel, derivation, f"{name} ({sizes_text(sizes)})", given, rng)
        if found == 1:
            yield strided(kernel, given)
            yield threads(kernel, derivation, given)
            yield from infinities(kernel, derivation, given, rng)
    if not found:
        text = f"no sizes that were tried satisfy what {kernel.name} demands of them"
        raise MoaError("argument", text, None, "fix some with sizes=")


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
    forms = in_lengths(derivation.forms)
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
    nan = before_laws(derivation, data, kernel.dtype)
    infinite = any(isinstance(x, np.ndarray) and floating(x) and np.isinf(x).any() for x in data.values())
    got = call(kernel, data)
    found = compared(got, want, nan)
    if found and (hidden.index or (hidden.value and infinite)):
        least = tuple(np.where(np.isnan(g), p, 0.0) for g, p in zip(got, nan, strict=True)) if infinite else nan
        reached = _reached(derivation, data)
        lost = tuple(u | (np.isnan(g) & r) for u, g, r in zip(want.unsettled, got, reached, strict=True))
        if not compared(got, replace(want, unsettled=lost), least, masked=bool(hidden.index)):
            return Check(
                name, True, f"NaN reaches other elements than the formula says: {hidden.index or hidden.value}"
            )
    return Check(name, not found, found or "NaN and infinities stand where the formula has them")


def _reached(derivation: Derivation, data: Mapping[str, Any]) -> Iterator[Array]:
    """For each output, the elements that an infinity in the data has a part in."""

    def marked(x: Array) -> Array:
        return np.where(np.isinf(x), np.nan, x)

    with np.errstate(all="ignore"):
        for y in oracle(derivation.program, changed(data, marked)):
            yield np.isnan(y)


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
