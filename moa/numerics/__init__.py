"""Numerics: what a derivation does to numbers, as contracts of the laws that fired and as a bound on rounding errors.

The bound is first order in the unit roundoff u and holds for finite inputs, where nothing overflows or underflows; it
is propagated operator by operator over the streamed equations, and is made of sizes and of the largest absolute values
of the inputs. `docs/numerics.md` says how.
"""

from __future__ import annotations

from moa.numerics.bound import Bound, OutputBound, error_bound
from moa.numerics.contracts import Brought, contract

__all__ = ["Bound", "Brought", "OutputBound", "contract", "error_bound"]
