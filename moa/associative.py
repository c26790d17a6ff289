"""Associative: whether the operator of a scan is what its user declared, `identity=` and all.

A random test with a counterexample for the user at once; a proof by sympy where `verify` asks for one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from moa import ir
from moa.oracle import DTYPES, evaluate, run
from moa.text import MoaError

Array = np.ndarray[Any, Any]
SAMPLES = 6
TOLERANCE = 1e-6  # of the largest number at hand: a rule that is broken is broken by more
EXTENTS = (2, 1, 4, 3)  # tried for the sizes of cells, until the body has a value there


def check_scans(program: ir.Program) -> None:
    """Nothing, if no counterexample to a declared operator is found, in any scan of a program.

    Errors: MoaError of kind "type" at the operator, with a counterexample
    """
    for v in program.values:
        if v.op == "scan" and not v.attrs[0].step:
            scan = v.attrs[0]
            found = counterexample(scan, [literal(program, k) for k in scan.start])
            if found is not None:
                hint = _NEUTRAL if found.startswith("has another identity") else _STEP
                raise MoaError("type", f"{scan.body.name} {found}", v.span, hint)


def literal(program: ir.Program, number: int) -> Any:
    """The value of a literal, through casts."""
    v = program.values[number]
    while v.op != "literal":
        v = program.values[v.args[0]]
    return v.attrs[0] if isinstance(v.attrs[0], bool) else float(v.attrs[0])


_STEP = "a scan with init= takes a step function, which need not be associative"
_NEUTRAL = "give the state that changes nothing: 0 for a sum, -inf for a maximum"


def counterexample(scan: ir.Scan, identity: Sequence[Any]) -> str | None:
    """Where f(f(p, q), r) is not f(p, f(q, r)), or f with its identity is not what it was; None if none was found."""
    body = scan.body
    for extent in EXTENTS:
        sizes = dict.fromkeys(body.sizes(), extent)
        try:
            with np.errstate(all="ignore"):
                return _searched(body, identity, sizes)
        except (MoaError, ValueError, IndexError):
            continue  # these sizes do not fit what the body does
    return None


def _searched(body: ir.Program, identity: Sequence[Any], sizes: Mapping[str, int]) -> str | None:
    rng = np.random.default_rng(0)
    broken, other, times = None, None, 0
    neutral = [np.full(x.shape, v, x.dtype) for x, v in zip(_cells(body, sizes, rng), identity, strict=True)]
    for _ in range(SAMPLES):
        p, q, r = (_cells(body, sizes, rng) for _ in range(3))
        left = _applied(body, _applied(body, p, q, sizes), r, sizes)
        right = _applied(body, p, _applied(body, q, r, sizes), sizes)
        if _differ(left, right, (p, q, r)):
            times += 1
            broken = (
                f"is not associative: f(f(p, q), r) = {_text(left)} and f(p, f(q, r)) = {_text(right)}"
                f" for p = {_text(p)}, q = {_text(q)}, r = {_text(r)}"
            )
        for x in (_applied(body, neutral, p, sizes), _applied(body, p, neutral, sizes)):
            if _differ(x, p, (p,)):
                other = f"has another identity: it makes {_text(x)} of {_text(p)} and {_text(neutral)}"
    return broken if times > 1 else other


def _cells(body: ir.Program, sizes: Mapping[str, int], rng: np.random.Generator) -> list[Array]:
    """Random components of one operand: some equal ones among them."""
    out: list[Array] = []
    for p in body.inputs[: len(body.inputs) // 2]:
        shape = tuple(evaluate(e, sizes) for e in p.shape)
        if p.kind == "f":
            x: Array = np.round(rng.uniform(0.25, 2.0, shape), 1) if rng.random() < 0.5 else rng.standard_normal(shape)
        else:
            x = rng.integers(-3, 4, shape) if p.kind == "i" else rng.random(shape) < 0.5
        out.append(np.asarray(x, DTYPES[p.kind]))
    return out


def _applied(body: ir.Program, p: Sequence[Array], q: Sequence[Array], sizes: Mapping[str, int]) -> list[Array]:
    values = run(body, dict(zip((x.name for x in body.inputs), [*p, *q], strict=True)), sizes)
    return [np.asarray(values[o]) for o in body.outputs]


def _differ(a: Sequence[Array], b: Sequence[Array], given: Sequence[Sequence[Array]]) -> bool:
    """Whether two states are further apart than rounding takes them; NaN is equal to NaN."""
    numbers = [x for s in (a, b, *given) for x in s]
    largest = max((np.abs(x[np.isfinite(x)]).max(initial=1.0) for x in numbers if x.dtype.kind == "f"), default=1.0)
    for x, y in zip(a, b, strict=True):
        if x.dtype.kind != "f":
            same = np.array_equal(x, y)
        else:
            same = np.allclose(x, y, rtol=TOLERANCE, atol=TOLERANCE * largest, equal_nan=True)
        if not same:
            return True
    return False


def _text(state: Sequence[Array]) -> str:
    parts = [" ".join(np.array2string(x, precision=4, separator=", ").split()) for x in state]
    return parts[0] if len(parts) == 1 else f"({', '.join(parts)})"


# A proof --------------------------------------------------------------------------------------------------------------

ELEMENTWISE = {"add", "sub", "mul", "div", "neg", "abs", "exp", "log", "sqrt", "tanh"}
COMPARED = {"max", "min", "lt", "le", "gt", "ge", "eq", "ne"}
MOVES = {"index", "broadcast", "cast", "reshape", "fill"}  # one element of the result is one element of the operand
WEAK_ORDERS = [r for r in product(range(3), repeat=3) if set(r) == set(range(max(r) + 1))]  # of three operands
MOST_ORDERS = 13


def proved(scan: ir.Scan) -> bool:
    """Whether sympy shows an elementwise operator to be associative, for every order of what it compares.

    False says no more than that no proof was found.
    """
    body = scan.body
    many = len(body.inputs) // 2
    if not all(v.op in ELEMENTWISE | COMPARED | MOVES | {"input", "literal", "select"} for v in body.values):
        return False
    ordered = [k for k in range(many) if _is_compared(body, k)]
    orders = list(product(WEAK_ORDERS, repeat=len(ordered)))
    if len(orders) > MOST_ORDERS:
        return False
    return all(_holds(body, dict(zip(ordered, order, strict=True)), many) for order in orders)


def _is_compared(body: ir.Program, component: int) -> bool:
    """Whether a component, from either side, reaches an operand of a comparison as it is."""
    names = {body.inputs[component].name, body.inputs[component + len(body.inputs) // 2].name}
    reached: set[int] = set()
    for v in body.values:
        if v.op == "input" and v.attrs[0] in names:
            reached.add(v.number)
        elif v.op in MOVES | COMPARED and reached & set(v.args):
            if v.op in COMPARED:
                return True
            reached.add(v.number)
    return False


def _holds(body: ir.Program, orders: Mapping[int, Sequence[int]], many: int) -> bool:
    import sympy

    operands: list[list[Any]] = [[None] * many for _ in range(3)]
    for k in range(many):
        if k not in orders:
            for j in range(3):
                operands[j][k] = sympy.Symbol(f"x{j}_{k}", real=True)
            continue
        lowest = sympy.Symbol(f"x_{k}", real=True)
        gaps = [sympy.Symbol(f"gap{step}_{k}", positive=True) for step in range(2)]
        for j, rank in enumerate(orders[k]):
            operands[j][k] = lowest + sum(gaps[:rank])
    p, q, r = operands
    try:
        left = _symbolic(body, _symbolic(body, p, q), r)
        right = _symbolic(body, p, _symbolic(body, q, r))
    except (NotImplementedError, TypeError):
        return False
    differences = (a - b for a, b in zip(left, right, strict=True))
    return all(sympy.expand(d) == 0 or sympy.simplify(d) == 0 for d in differences)


def _symbolic(body: ir.Program, p: Sequence[Any], q: Sequence[Any]) -> list[Any]:
    """One element of the results, for one element of each component.

    Errors: NotImplementedError where an order is not known, TypeError for what sympy has no truth value of
    """
    import sympy

    names = dict(zip((x.name for x in body.inputs), [*p, *q], strict=True))
    values: dict[int, Any] = {}
    for v in body.values:
        x = [values[a] for a in v.args]
        match v.op:
            case "input":
                out = names[v.attrs[0]]
            case "literal":
                out = v.attrs[0] if isinstance(v.attrs[0], bool) else sympy.sympify(v.attrs[0])
            case "add":
                out = x[0] + x[1]
            case "sub":
                out = x[0] - x[1]
            case "mul":
                out = x[0] * x[1]
            case "div":
                out = x[0] / x[1]
            case "neg":
                out = -x[0]
            case "max":
                out = sympy.Max(*x)
            case "min":
                out = sympy.Min(*x)
            case "abs":
                out = sympy.Abs(x[0])
            case "lt" | "le" | "gt" | "ge" | "eq" | "ne":
                out = bool(getattr(sympy, v.op.capitalize())(*x))
            case "select":
                out = x[1] if bool(x[0]) else x[2]
            case op if op in MOVES:
                out = x[0]
            case op:
                out = getattr(sympy, op)(x[0])
        values[v.number] = out
    return [values[o] for o in body.outputs]
