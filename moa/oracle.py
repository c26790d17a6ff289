"""The meaning of a Program: NumPy in float64, value by value, without any rewriting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from moa import ir
from moa.ops import OPERATORS, Kind
from moa.poly import Atom, Poly
from moa.spans import Needs, gathers
from moa.text import MoaError, printable

DTYPES: dict[Kind, Any] = {"f": np.float64, "i": np.int64, "b": np.bool_}
KIND_NAMES: dict[Kind, str] = {"f": "float", "i": "int", "b": "bool"}
Array = np.ndarray[Any, Any]


def evaluate(p: Poly, sizes: Mapping[str, int]) -> int:
    """The integer that a polynomial of sizes and integer parameters is."""

    def value(a: Atom) -> int:
        match a.kind:
            case "size" | "int":
                return sizes[a.name]
            case "div":
                d = evaluate(a.args[1], sizes)
                if d == 0:
                    raise MoaError("argument", f"{a.args[1]} is 0 and divides", None, "pass a divisor of at least 1")
                return evaluate(a.args[0], sizes) // d
            case "min":
                return min(evaluate(x, sizes) for x in a.args)
            case "max":
                return max(evaluate(x, sizes) for x in a.args)
            case "abs":
                return abs(evaluate(a.args[0], sizes))
            case _:
                raise AssertionError(f"{a.kind} in a size")

    total: int | Fraction = 0
    for monomial, c in p.terms:
        for a in monomial:
            c = c * value(a)
        total += c
    assert total.denominator == 1, p
    return int(total)


def bind(program: ir.Program, arrays: Mapping[str, Any]) -> dict[str, int]:
    """The value of each size and of each integer parameter (0 or 1 of a truth value), from the arguments by name.

    Errors: MoaError of kind "argument" where an argument is missing, unknown, of another kind, rank or shape, where
    sizes contradict each other or an obligation of `check`, and where an index array reaches outside its axis.
    """
    return _bind(program, _arguments(program, arrays))


def oracle(program: ir.Program, arrays: Mapping[str, Any]) -> tuple[Array, ...]:
    """The outputs of a program for arguments by name: float64, int64 or bool arrays."""
    found = _arguments(program, arrays)
    sizes = _bind(program, found)
    with np.errstate(all="ignore"):
        values = run(program, {k: _widen(a) for k, a in found.items()}, sizes)
    return tuple(np.array(values[o]) for o in program.outputs)


# Arguments ---------------------------------------------------------------------------------------------------------


def _kind(a: Array) -> Kind | None:
    if a.dtype.kind == "f" or "float" in a.dtype.name:
        return "f"
    kinds: dict[str, Kind] = {"i": "i", "u": "i", "b": "b"}
    return kinds.get(a.dtype.kind)


def _widen(a: Array) -> Array:
    kind = _kind(a)
    assert kind is not None
    return a.astype(DTYPES[kind])


def _arguments(program: ir.Program, arrays: Mapping[str, Any]) -> dict[str, Array]:
    """The arguments as arrays, each checked for presence, kind and rank."""
    names = [p.name for p in program.inputs]
    for name in arrays:
        if name not in names:
            known = f"the parameters are {', '.join(names)}" if names else "there are no parameters"
            raise MoaError("argument", f"{program.name} has no parameter {printable(str(name))}", None, known)
    out: dict[str, Array] = {}
    for p in program.inputs:
        if p.name not in arrays and p.default is None:
            raise MoaError("argument", f"argument {p.name} is missing", p.span, f"pass {_wanted(p)}")
        given = arrays.get(p.name, p.default)
        if isinstance(given, Fraction):
            given = int(given) if p.kind == "i" else float(given)
        a = np.asarray(given)
        if p.kind == "f" and not p.shape and isinstance(given, int) and not isinstance(given, bool):
            a = np.asarray(float(given))
        kind = _kind(a)
        if kind != p.kind:
            message = f"argument {p.name} is of dtype {a.dtype}, expected {KIND_NAMES[p.kind]}"
            raise MoaError("argument", message, p.span, f"pass {_wanted(p)}")
        if a.ndim != len(p.shape):
            axes = f"{a.ndim} axes" if a.ndim != 1 else "1 axis"
            message = f"argument {p.name} has {axes}, shape {_tuple(a.shape)}, expected {len(p.shape)}"
            raise MoaError("argument", message, p.span, f"pass {_wanted(p)}")
        out[p.name] = a
    return out


def _wanted(p: ir.Input) -> str:
    if not p.shape:
        return f"{p.name} as a scalar of kind {KIND_NAMES[p.kind]}"
    return f"{p.name}[{', '.join(map(str, p.shape))}] of kind {KIND_NAMES[p.kind]}"


def _tuple(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _bind(program: ir.Program, arrays: Mapping[str, Array]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    first: dict[str, str] = {}
    for p in program.inputs:
        if p.kind in ("i", "b") and not p.shape:
            n = int(arrays[p.name])
            if not -(2**62) <= n < 2**62:
                raise MoaError("argument", f"argument {p.name} is {n}, beyond 62 bits", p.span)
            sizes[p.name] = n
    for p in program.inputs:
        for axis, extent in enumerate(p.shape):
            atom = extent.as_atom()
            if atom is not None and atom.kind == "size" and atom.name not in sizes:
                sizes[atom.name] = arrays[p.name].shape[axis]
                first[atom.name] = p.name
    for p in program.inputs:
        for axis, (extent, found) in enumerate(zip(p.shape, arrays[p.name].shape, strict=True)):
            expected = evaluate(extent, sizes)
            if expected != found:
                origin = f" ({extent} is {expected} in {first[str(extent)]})" if str(extent) in first else ""
                message = (
                    f"argument {p.name} has extent {found} on axis {axis}, expected {extent} = {expected}{origin}: "
                    f"found shape {_tuple(arrays[p.name].shape)}"
                )
                raise MoaError("argument", message, p.span, f"pass {_wanted(p)}")
    for o in program.obligations:
        left, right = evaluate(o.left, sizes), evaluate(o.right, sizes)
        match o.relation:
            case "==":
                holds = left == right
            case ">=":
                holds = left >= right
            case "divides":
                holds = left != 0 and right % left == 0
        if not holds:
            used = sorted({a.name for p in (o.left, o.right) for a in p.atoms() if a.kind in ("size", "int")})
            values = ", ".join(f"{name} = {sizes[name]}" for name in used)
            raise MoaError("argument", f"{o.reason}, with {values}", o.span, "pass other sizes")
    checked = indices(program, arrays, sizes)
    if checked is not None:
        checked.check(arrays)
    return sizes


@dataclass(frozen=True)
class Indices:
    """The index arrays of a call that may reach outside their axes, depending on integers and conditions alone.

    wanted   their numbers, and those of the values that they are computed from
    arrays   the names of the arrays that these read
    scalars  the other inputs that they read
    """

    program: ir.Program
    sizes: Mapping[str, int]
    wanted: frozenset[int]
    arrays: tuple[str, ...]
    scalars: Mapping[str, Array]

    def check(self, arrays: Mapping[str, Array]) -> None:
        """Raises MoaError of kind "argument" where an index array reaches outside its axis."""
        read = {**self.scalars, **{k: _widen(arrays[k]) for k in self.arrays}}
        with np.errstate(all="ignore"):
            values = run(self.program, read, self.sizes, self.wanted)
        for v in self.program.values:
            if v.op == "index":
                _check_gather(self.program, v, values, self.sizes)


def indices(program: ir.Program, arrays: Mapping[str, Any], sizes: Mapping[str, int]) -> Indices | None:
    """What has to be checked in every call with arrays of these shapes and with these scalars, if anything has to."""
    free = _without_floats(program)
    wanted = {k for k, known in gathers(program) if known is None or not _inside(known, sizes)} & free
    if not wanted:
        return None
    for v in reversed(program.values):
        if v.number in wanted:
            wanted |= set(v.args)
    read = {v.attrs[0] for v in program.values if v.op == "input" and v.number in wanted}
    inputs = [p for p in program.inputs if p.name in read]
    scalars = {p.name: np.asarray(arrays.get(p.name, p.default)).astype(DTYPES[p.kind]) for p in inputs if not p.shape}
    return Indices(program, sizes, frozenset(wanted), tuple(p.name for p in inputs if p.shape), scalars)


def _inside(known: Needs, sizes: Mapping[str, int]) -> bool:
    """Whether an index array is inside its axis whatever the data."""
    return not known.inputs and all(evaluate(p, sizes) >= 0 for p in known.sizes)


def _without_floats(program: ir.Program) -> set[int]:
    """The values that are computed from integers and conditions alone."""
    out: set[int] = set()
    for v in program.values:
        if v.kind != "f" and v.op != "scan" and all(a in out for a in v.args):
            out.add(v.number)
    return out


def _check_gather(program: ir.Program, v: ir.Value, values: Mapping[int, Any], sizes: Mapping[str, int]) -> None:
    """Raises where the index array of an `index` value reaches outside the axis (only if it is in `values`)."""
    axis = 0
    for item in v.attrs[0]:
        if isinstance(item, ir.Gather) and item.value in values:
            extent = evaluate(program.values[v.args[0]].shape[axis], sizes)
            found = np.asarray(values[item.value])
            bad = (found < 0) | (found >= extent)
            if bad.any():
                source = program.values[item.value]
                name = f"argument {source.attrs[0]}" if source.op == "input" else "the index array"
                k = np.unravel_index(int(np.argmax(bad)), bad.shape)
                position = f" at {_tuple([int(x) for x in k])}" if k else ""
                message = f"{name} holds {found[k]}{position}, outside an axis of extent {extent}"
                raise MoaError("argument", message, v.span, f"indices go from 0 to {extent - 1}")
        axis += not isinstance(item, ir.New)


# Values ------------------------------------------------------------------------------------------------------------


def run(
    program: ir.Program, inputs: Mapping[str, Array], sizes: Mapping[str, int], only: Set[int] | None = None
) -> dict[int, Any]:
    """The value of each operation by number (of those in `only`), for inputs in their wide dtypes."""
    values: dict[int, Any] = {}
    for v in program.values:
        if only is None or v.number in only:
            out = _value(program, v, values, inputs, sizes)
            values[v.number] = np.asarray(out, DTYPES[v.kind]) if not isinstance(out, tuple) else out
    return values


def _value(
    program: ir.Program, v: ir.Value, values: dict[int, Any], inputs: Mapping[str, Array], sizes: Mapping[str, int]
) -> Any:
    x = [values[a] for a in v.args]
    shape = tuple(evaluate(e, sizes) for e in v.shape)
    match v.op:
        case "input":
            return inputs[v.attrs[0]]
        case "literal":
            return v.attrs[0] if not isinstance(v.attrs[0], Fraction) else _number(v.attrs[0], v.kind)
        case "size":
            return evaluate(v.attrs[0], sizes)
        case "iota":
            return np.arange(shape[0])
        case "fill":
            return np.full(shape, x[0])
        case "select":
            return np.where(x[0], x[1], x[2])
        case "cast":
            return x[0].astype(DTYPES[v.kind])
        case "reduce":
            return _reduce(v.attrs[0], x[0], v.attrs[1])
        case "matmul":
            return np.matmul(x[0], x[1])
        case "index":
            _check_gather(program, v, values, sizes)
            return _index(x[0], v.attrs[0], values, sizes)
        case "transpose":
            return np.transpose(x[0], v.attrs[0])
        case "reshape":
            return np.reshape(x[0], shape)
        case "concat":
            return np.concatenate((x[0], x[1]), axis=v.attrs[0])
        case "rotate":
            return np.roll(x[0], -evaluate(v.attrs[0], sizes), axis=v.attrs[1])
        case "argmax":
            return np.argmax(x[0], axis=v.attrs[0])
        case "argsort":
            return np.argsort(x[0], axis=v.attrs[0], kind="stable")
        case "scan":
            return _scan(v.attrs[0], x, [values[s] for s in v.attrs[0].start], sizes)
        case "part":
            return x[0][v.attrs[0]]
        case _:
            return OPERATORS[v.op].numpy(*x)


def _number(value: Fraction, kind: Kind) -> float | int:
    if kind == "i":
        return int(value)
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def identity(operator: str, kind: Kind) -> Any:
    """What a reduction of nothing is: for integers the extreme one where the operator's own is infinite."""
    e = OPERATORS[operator].identity
    assert e is not None, operator
    if kind == "i" and e in (float("inf"), float("-inf")):
        info = np.iinfo(np.int64)
        return info.max if e > 0 else info.min
    return DTYPES[kind](e)


def _reduce(operator: str, x: Array, axis: int) -> Any:
    kinds: dict[str, Kind] = {"f": "f", "i": "i", "b": "b"}
    if x.shape[axis] == 0:
        return np.full(x.shape[:axis] + x.shape[axis + 1 :], identity(operator, kinds[x.dtype.kind]))
    ufunc: Any = OPERATORS[operator].numpy
    return ufunc.reduce(x, axis=axis)


def _index(x: Array, items: tuple[ir.IndexItem, ...], values: Mapping[int, Any], sizes: Mapping[str, int]) -> Array:
    """x indexed item by item, from the last axis to the first: earlier axes keep their numbers."""
    axis = sum(not isinstance(i, ir.New) for i in items)
    for item in reversed(items):
        axis -= not isinstance(item, ir.New)
        match item:
            case ir.New():
                x = np.expand_dims(x, axis)
            case ir.Range(start, step, count):
                n = evaluate(count, sizes)
                chosen = evaluate(start, sizes) + step * np.arange(n)
                assert n == 0 or (min(chosen) >= 0 and max(chosen) < x.shape[axis]), (item, x.shape)
                x = np.take(x, chosen, axis)
            case ir.At(index):
                k = evaluate(index, sizes)
                assert 0 <= k < x.shape[axis], (item, x.shape)
                x = np.take(x, k, axis)
            case ir.Gather(value):
                x = np.take(x, values[value], axis)
    return x


def _scan(scan: ir.Scan, xs: list[Array], start: list[Any], sizes: Mapping[str, int]) -> Any:
    """All states along the axis, or the last one: one array, or a tuple of them.

    An associative operator begins with the first cells themselves; its identity is the state of nothing. `reverse`
    walks the axis from its end, results staying at their places.
    """
    body = scan.body
    names = [p.name for p in body.inputs]
    cells = [tuple(evaluate(e, sizes) for e in body.values[o].shape) for o in body.outputs]
    kinds = [body.values[o].kind for o in body.outputs]
    state = [np.broadcast_to(np.asarray(s, DTYPES[k]), c) for s, k, c in zip(start, kinds, cells, strict=True)]
    count = xs[0].shape[scan.axis]
    kept: list[list[Array]] = [state] * count
    began = scan.step
    for t in range(count)[:: -1 if scan.reverse else 1]:
        now = [np.take(x, t, scan.axis) for x in xs]
        before = state
        if began:
            values = run(body, dict(zip(names, [*state, *now], strict=True)), sizes)
            state = [values[o] for o in body.outputs]
        else:
            state, began = now, True
        kept[t] = before if scan.exclusive else state
    if not scan.keep:
        out = [np.asarray(s) for s in state]
    elif count:
        out = [np.stack([k[c] for k in kept], axis=scan.axis) for c in range(len(state))]
    else:
        out = [np.empty((*c[: scan.axis], 0, *c[scan.axis :]), DTYPES[k]) for c, k in zip(cells, kinds, strict=True)]
    return out[0] if len(out) == 1 else tuple(out)
