"""Which elements of an axis any work item reaches."""

from __future__ import annotations

from collections.abc import Iterable

from moa.domains.sets import Frame, TooLong, budget
from moa.normal import Cond, at_least_zero, both, either
from moa.poly import Poly, const, select, var

X = "x@"


def projected(parts: Iterable[tuple[Poly, Poly, Cond]], extent: Poly) -> tuple[Poly, Poly] | None:
    """(first, last + 1) of the x with lo <= x < hi for one (lo, hi, condition) and some variables that meet it.

    The bounds are equal where there is none. All sizes are at least 1. None where what is reached is no interval.
    """
    import islpy as isl

    inside = either(*(both(c, at_least_zero(var(X) - lo), at_least_zero(hi - 1 - var(X))) for lo, hi, c in parts))
    others = tuple(sorted(inside.vars() - {X}))
    frame = Frame((X, *others), {}, smallest=1)
    text = frame.cond(inside)
    whole = f"0 <= x0 < {frame.poly(extent)}"
    facts = frame.facts()
    try:
        with budget():
            given = frame.set(facts, dims=())
            found = frame.set(text).project_out(isl.dim_type.set, 1, len(others)).intersect_params(given).coalesce()
            where = found.params().coalesce()
            build = isl.AstBuild.from_context(given)
            guard = None if given.is_subset(where) else frame.read_cond(build.expr_from_set(where.gist(given)))
            for leaf in leaves(guard) if guard is not None else ():
                if frame.set(frame.cond(leaf), dims=()).intersect(given).is_equal(where):
                    guard = leaf
            box = frame.set(whole, dims=["x0"]).intersect_params(where)
            if box.is_equal(found):
                return const(0), extent if guard is None else select(guard, extent, const(0))
            after = found.apply(isl.Map("{ [a] -> [b] : b > a }", found.get_ctx()))
            before = found.apply(isl.Map("{ [a] -> [b] : b < a }", found.get_ctx()))
            if not after.intersect(before).is_subset(found):
                return None
            build = isl.AstBuild.from_context(where)
            first, last = (frame.read(build.expr_from_pw_aff(e)) for e in (found.dim_min(0), found.dim_max(0)))
            return first, last + 1 if guard is None else select(guard, last + 1, first)
    except TooLong:
        return None
    except isl.Error:  # an end that no bound holds, as where a run-time size divides
        return None


def leaves(c: Cond) -> tuple[Cond, ...]:
    """The comparisons that a condition is made of."""
    return tuple(y for x in c.args for y in leaves(x)) if c.op in ("and", "or") else (c,)
