"""What is left of an expression where a condition is known to hold, or known not to."""

from __future__ import annotations

from moa.normal import (
    FALSE,
    TRUE,
    Cond,
    Scalar,
    apply,
    at_least_zero,
    both,
    choose,
    compare,
    either,
    integer,
    is_zero,
    load,
    negate,
)
from moa.poly import Atom, Poly


def assume(s: Scalar, c: Cond, value: bool) -> Scalar:
    """s with a condition known to hold, or known not to."""
    known = dict.fromkeys(c.args if c.op == "and" and value else (c,), value)
    if c.op == "or" and not value:
        known = dict.fromkeys((c, *c.args), False)
    known |= {negate(k): not v for k, v in known.items()}

    def cond(x: Cond) -> Cond:
        if x in known:
            return TRUE if known[x] else FALSE
        match x.op:
            case "and":
                return both(*(cond(y) for y in x.args))
            case "or":
                return either(*(cond(y) for y in x.args))
            case "not":
                return negate(cond(x.args[0]))
            case "ge":
                return at_least_zero(x.args[0].replace(atom))
            case "eq":
                return is_zero(x.args[0].replace(atom))
            case "load":
                return Cond("load", (x.args[0], tuple(p.replace(atom) for p in x.args[1])))
            case "cmp":
                return compare(x.args[0], walk(x.args[1]), walk(x.args[2]))
        return x

    def atom(a: Atom) -> Poly | None:
        if a.kind == "select" and a.args[0] in known:
            return (a.args[1] if known[a.args[0]] else a.args[2]).replace(atom)  # type: ignore[no-any-return]
        return None

    memo: dict[Scalar, Scalar] = {}

    def walk(x: Scalar) -> Scalar:
        if x not in memo:
            memo[x] = new(x)
        return memo[x]

    def new(x: Scalar) -> Scalar:
        match x.op:
            case "select":
                return choose(cond(x.args[0]), walk(x.args[1]), walk(x.args[2]))
            case "int":
                return integer(x.args[0].replace(atom))
            case "load":
                return load(x.args[0], (p.replace(atom) for p in x.args[1]))
        return apply(x.op, *(walk(y) for y in x.operands)) if x.operands else x

    return walk(s)
