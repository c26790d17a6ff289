"""Verify: a compiled kernel against the oracle on hard inputs, and every side condition of its derivation once more.

Sizes are chosen from the program's own: ordinary, 1, below a tile, primes, around tiles, empty. Data are chosen to
hurt: huge, equal, infinite, absent, strided. Laws are proved again without the engine that used them: the members they
made are evaluated at random points, and by sympy; conditions of the trace are read as text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moa import ir
from moa.interp.normal import run as run_normal
from moa.interp.normal import run_halves
from moa.kernel import Kernel
from moa.normal import TRUE, Cond, Eq, Fold, Member, Scalar, both
from moa.ops import OPERATORS
from moa.oracle import _value, bind, evaluate, oracle
from moa.pipeline import Derivation, specialised_sizes
from moa.poly import Atom, Poly
from moa.text import MoaError

Array = np.ndarray[Any, Any]
NOISE = 1e-9
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
    ranks = 1 if kernel.leading else 0
    derivation = kernel.derive(ranks)
    yield from laws(derivation, rng)
    found = 0
    for name, sizes in scenarios(derivation.program, kernel.fixed):
        given = arguments(derivation.program, sizes, rng, kernel.dtype)
        if given is None:
            continue
        if found == 0:
            yield systems(derivation, small(derivation.program, kernel.fixed, rng, kernel.dtype) or given)
        found += 1
        yield values(kernel, derivation, f"{name} ({_sizes_text(sizes)})", given, rng)
        if found == 1:
            yield strided(kernel, given)
            yield threads(kernel, given)
            yield from infinities(kernel, derivation, given, rng)
    if not found:
        text = f"no sizes that were tried satisfy what {kernel.name} demands of them"
        raise MoaError("argument", text, None, "fix some with sizes=")
