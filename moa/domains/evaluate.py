"""What bounds, conditions and ranges are worth at given sizes: plain Python, the meaning of a `TileRange`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from moa.domains.ranges import TileRange
from moa.normal import Cond
from moa.poly import Atom, Poly

Values = Mapping[str, int]


def value_of(p: Poly, values: Values) -> int:
    """The integer that p is, with a value for each name in it."""

    def atom_value(a: Atom) -> int:
        match a.kind:
            case "var" | "size" | "int":
                return values[a.name]
            case "div":
                return value_of(a.args[0], values) // value_of(a.args[1], values)
            case "min":
                return min(value_of(x, values) for x in a.args)
            case "max":
                return max(value_of(x, values) for x in a.args)
            case "abs":
                return abs(value_of(a.args[0], values))
            case "select":
                return value_of(a.args[1 if holds(a.args[0], values) else 2], values)
            case "load":
                raise ValueError(f"data has no value here: {a}")

    return int(p.evaluate(atom_value))


def holds(c: Cond, values: Values) -> bool:
    """Whether a condition on integers holds, with a value for each name in it."""
    match c.op:
        case "ge":
            return value_of(c.args[0], values) >= 0
        case "eq":
            return value_of(c.args[0], values) == 0
        case "and":
            return all(holds(x, values) for x in c.args)
        case "or":
            return any(holds(x, values) for x in c.args)
        case "not":
            return not holds(c.args[0], values)
        case "true" | "false":
            return c.is_true
        case _:
            raise ValueError(f"data has no value here: {c}")


def classify(r: TileRange, values: Values) -> Literal["empty", "full", "partial"]:
    """What the tile at the origins in `values` is, as a range says."""
    if r.kind != "classified":
        return r.kind
    if holds(r.empty, values):
        return "empty"
    return "full" if holds(r.full, values) else "partial"


def visited(
    ranges: tuple[TileRange, ...], row: str | None, rows: int, red: str, granule: int, values: Values, row_extent: int
) -> Iterator[tuple[int, int, int, Literal["full", "partial"]]]:
    """(row origin, lo, hi, kind) of each tile that the ranges visit, in order; hi is cut at the end of its range.

    values   of sizes, integer parameters and the other variables of the item
    """
    for i in range(0, row_extent, rows) if row is not None else (0,):
        at = dict(values) | ({f"{row}@0": i} if row is not None else {})
        for r in ranges:
            hi = value_of(r.hi, at)
            for lo in range(value_of(r.lo, at), hi, granule):
                kind = classify(r, at | {f"{red}@0": lo})
                if kind != "empty":
                    yield i, lo, min(lo + granule, hi), kind
