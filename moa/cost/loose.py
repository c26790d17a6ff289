"""What data say of loops, branches and positions, taken as much as it may be.

Loops run over whole extents, of two ways through a round the longer one is taken, and what is read at a position that
data hold is somewhere else for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from moa.cost.reach import Range, Unknown, reach
from moa.domains.evaluate import holds, value_of
from moa.normal import Cond
from moa.poly import Poly

Values = Mapping[str, int]
FAR = 1 << 40  # between positions that are not known


def bound(p: Poly, values: Values, otherwise: int) -> int:
    """What p is worth, or `otherwise` where data say it."""
    try:
        return value_of(p, values)
    except ValueError:
        return otherwise


def decided(c: Cond, values: Values) -> bool | None:
    """Whether a condition holds; None where data say it."""
    try:
        return holds(c, values)
    except ValueError:
        return None


def somewhere(p: Poly, env: Mapping[str, Range], sizes: Values, extent: int) -> Range:
    """Positions beyond the extent for an index that is an element of an array: others for each position of that.

    Errors: Unknown where an index is more than that
    """
    found = p.as_atom()
    if found is None or found.kind != "load":
        raise Unknown(str(p))
    *outer, (lo, hi) = (reach(x, env, sizes) for x in found.args)
    first, many = 0, 1
    for low, high in outer:
        first, many = first * FAR + low, many * (high - low + 1)
    start = extent + first * FAR + lo
    return start, start + many * (hi - lo + 1)
