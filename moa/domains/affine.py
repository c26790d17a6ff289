"""Which conditions are integer sets: affine in the index variables, with sizes and parameters as symbols.

A leaf `p >= 0` or `p == 0` is affine if p is a sum of literal multiples of index variables and of *values*: sizes,
integer parameters, and any integer expression without index variables (n * r, n // B), each taken as one symbol.
`//` and `%` by literals, abs, min, max and a selection between affine terms are affine too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from moa.normal import TRUE, Cond, both, cond_loads, either
from moa.poly import Atom, Poly

IsValue = Callable[[Atom], bool]


def values_outside(dims: Collection[str], loads: bool) -> IsValue:
    """Whether an atom is one symbol: free of the index variables `dims`; loads count only if `loads` is set."""

    def is_value(a: Atom) -> bool:
        inner = {a}.union(*(x.atoms() for x in a.args))
        return not any((b.kind == "var" and b.name in dims) or (not loads and reads(b)) for b in inner)

    return is_value


def reads(a: Atom) -> bool:
    """Whether an atom itself reads data: a load, or a selection by data."""
    return a.kind == "load" or (a.kind == "select" and bool(cond_loads(a.args[0])))


def affine_poly(p: Poly, is_value: IsValue) -> bool:
    """Whether p is a literal combination of index variables, values and quasi-affine atoms."""
    return all(all(map(is_value, m)) or (len(m) == 1 and affine_atom(m[0], is_value)) for m, _ in p.terms)


def affine_atom(a: Atom, is_value: IsValue) -> bool:
    """Whether an atom is an index variable, or min, max, abs, select or `// literal` of affine terms."""
    match a.kind:
        case "var" | "size" | "int":
            return True
        case "div":
            return a.args[1].as_int() not in (None, 0) and affine_poly(a.args[0], is_value)
        case "min" | "max" | "abs":
            return all(affine_poly(x, is_value) for x in a.args)
        case "select":
            return affine_cond(a.args[0], is_value) and all(affine_poly(x, is_value) for x in a.args[1:])
        case "load":
            return False


def affine_cond(c: Cond, is_value: IsValue) -> bool:
    """Whether every leaf of the condition is affine."""
    match c.op:
        case "ge" | "eq":
            return affine_poly(c.args[0], is_value)
        case "and" | "or" | "not":
            return all(affine_cond(x, is_value) for x in c.args)
        case _:
            return c.op in ("true", "false")


def relax(c: Cond, is_value: IsValue) -> Cond:
    """An affine condition that holds wherever c does: leaves that are not affine are taken as true."""
    match c.op:
        case "and":
            return both(*(relax(x, is_value) for x in c.args))
        case "or":
            return either(*(relax(x, is_value) for x in c.args))
        case _:
            return c if affine_cond(c, is_value) else TRUE


def split(
    cond: Cond, outer_vars: Collection[str], red_var: str, fixed: Collection[str] | None = None
) -> tuple[Cond, Cond]:
    """(affine, rest) with affine & rest = cond.

    affine is also implied by each conjunct of the rest as far as its affine leaves say: (j <= i & keep[j]) | (j < p)
    gives the domain (j <= i) | (j < p), and stays in the rest as a whole.
    fixed: outer variables that have one value in a work item; loads indexed by them alone (the length of a sequence,
    `len[b]`) then count as values. None: no load is affine.
    """
    dims = {*outer_vars, red_var} - set(fixed or ())
    is_value = values_outside(dims, loads=fixed is not None)
    conjuncts: tuple[Cond, ...] = cond.args if cond.op == "and" else (cond,)
    affine = both(*(relax(c, is_value) for c in conjuncts))
    rest = both(*(c for c in conjuncts if not affine_cond(c, is_value)))
    return affine, rest
