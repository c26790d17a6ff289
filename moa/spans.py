"""Between which bounds the integers of a program lie, whatever its data: what index arrays have to fulfil.

An element of a computed index array is one of a few alternatives, each coefficient * (an element of an input) + what
lies between two bounds. From an index that has to be inside an axis follows what that input has to be inside of, and
what sizes have to fulfil: enough for every position, which can be more than is needed at some.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

from moa.ir import Gather, New, Obligation, Program, Value
from moa.poly import Poly, atom, const, maximum, minimum
from moa.text import Span

ONE = const(1)


@dataclass(frozen=True, slots=True)
class Between:
    """coefficient * input + x with low <= x <= high; an input of "" is none, a bound of None is unknown.

    facts   what of sizes and integer parameters must not be negative for that
    """

    low: Poly | None
    high: Poly | None
    input: str = ""
    coefficient: Poly = ONE
    facts: frozenset[Poly] = frozenset()

    def single(self) -> Poly | None:
        """The only value, if it is known."""
        return self.low if not self.input and self.low == self.high else None

    def plain(self) -> Between:
        """Without the input, of which nothing is known."""
        return Between(None, None, facts=self.facts) if self.input else self


Spans = tuple[Between, ...]
UNKNOWN: Spans = (Between(None, None),)


@dataclass(frozen=True, slots=True)
class Needs:
    """What makes an index array stay inside its axis.

    inputs   integer inputs whose elements are not negative and below a bound
    sizes    what must not be negative
    """

    inputs: tuple[tuple[str, Poly], ...]
    sizes: tuple[Poly, ...]

    def obligations(self, span: Span) -> tuple[Obligation, ...]:
        """What sizes have to fulfil, as facts that a call tests."""
        reason = "an index array stays inside its axis"
        return tuple(Obligation(">=", p, const(0), span, reason) for p in self.sizes)


def needs(program: Program, index: int, extent: Poly) -> Needs | None:
    """What makes the elements of a value indices of an axis; None where that cannot be told."""
    inputs: dict[tuple[str, Poly], None] = {}
    sizes: dict[Poly, None] = {}
    for x in spans(program)[index]:
        if x.low is None or x.high is None:
            return None
        sizes |= dict.fromkeys((x.low, *sorted(x.facts, key=str)))
        if x.input:
            room = extent - 1 - x.high
            whole = x.coefficient == ONE
            inputs[x.input, extent - x.high if whole else room // x.coefficient + 1] = None
            sizes[x.coefficient - 1] = None
        else:
            sizes[extent - 1 - x.high] = None
    return Needs(tuple(inputs), tuple(p for p in sizes if (n := p.as_int()) is None or n < 0))


@lru_cache(maxsize=256)
def gathers(program: Program) -> tuple[tuple[int, Needs | None], ...]:
    """Every index array, as the number of its value, with what makes it stay inside the axis that it is used on."""
    found = []
    for v in program.values:
        axis = 0
        for item in v.attrs[0] if v.op == "index" else ():
            if isinstance(item, Gather):
                found.append((item.value, needs(program, item.value, program.values[v.args[0]].shape[axis])))
            axis += not isinstance(item, New)
    return tuple(found)


@lru_cache(maxsize=256)
def spans(program: Program) -> tuple[Spans, ...]:
    """The alternatives for an element of each value; of floats nothing is known."""
    found: list[Spans] = []
    for v in program.values:
        found.append(_of_value(program, v, found) if v.kind == "i" else UNKNOWN)
    return tuple(found)


def _of_value(program: Program, v: Value, before: Sequence[Spans]) -> Spans:
    def of(k: int) -> Spans:
        return before[v.args[k]]

    match v.op:
        case "input":
            scalar = atom("int", v.attrs[0])
            return (Between(const(0), const(0), v.attrs[0]),) if v.shape else (Between(scalar, scalar),)
        case "literal" | "size":
            p = const(int(v.attrs[0])) if v.op == "literal" else v.attrs[0]
            return (Between(p, p),)
        case "iota":
            return (Between(const(0), v.attrs[0] - 1),)
        case "argmax" | "argsort":
            return (Between(const(0), program.values[v.args[0]].shape[v.attrs[0]] - 1),)
        case "index" | "reshape" | "transpose" | "rotate" | "fill":
            return of(0)
        case "concat":
            return _few((*of(0), *of(1)))
        case "select":
            return _few((*of(1), *of(2)))
        case "cast" if program.values[v.args[0]].kind == "b":
            return (Between(const(0), const(1)),)
        case "reduce" if v.attrs[0] in ("max", "min"):
            return of(0)
        case "neg":
            return tuple(Between(_negated(x.high), _negated(x.low), facts=x.facts) for x in map(Between.plain, of(0)))
        case op if op in BINARY:
            return _few(tuple(_both(op, a, b) for a, b in product(of(0), of(1))))
    return UNKNOWN


def _few(found: Spans) -> Spans:
    found = tuple(dict.fromkeys(found))
    return found if len(found) <= 8 else UNKNOWN


def _both(op: str, a: Between, b: Between) -> Between:
    found = BINARY[op](a, b)
    by = b.single() if op in ("mod", "floordiv") else b.single() or a.single() if op == "mul" else None
    own = frozenset[Poly]() if by is None or _natural(by) else frozenset({by if op == "mul" else by - 1})
    return replace(found, facts=a.facts | b.facts | own)


def _negated(p: Poly | None) -> Poly | None:
    return None if p is None else -p


def _plus(a: Poly | None, b: Poly | None) -> Poly | None:
    return None if a is None or b is None else a + b


def _add(a: Between, b: Between) -> Between:
    if a.input and b.input:
        return UNKNOWN[0]
    first = a if a.input else b
    return Between(_plus(a.low, b.low), _plus(a.high, b.high), first.input, first.coefficient)


def _sub(a: Between, b: Between) -> Between:
    b = b.plain()
    return _add(a, Between(_negated(b.high), _negated(b.low)))


def _mul(a: Between, b: Between) -> Between:
    factor = b.single() or a.single()
    other = a if b.single() is not None else b
    if factor is None or (factor.as_int() or 0) < 0 or other.low is None or other.high is None:
        return UNKNOWN[0]
    return Between(other.low * factor, other.high * factor, other.input, other.coefficient * factor)


def _mod(a: Between, b: Between) -> Between:
    divisor = b.single()
    return UNKNOWN[0] if divisor is None or (divisor.as_int() or 1) < 1 else Between(const(0), divisor - 1)


def _floordiv(a: Between, b: Between) -> Between:
    divisor = b.single()
    if divisor is None or (divisor.as_int() or 1) < 1 or a.input:
        return UNKNOWN[0]
    low, high = (None if p is None else p // divisor for p in (a.low, a.high))
    return Between(low, high)


def _max(a: Between, b: Between) -> Between:
    return _extreme(maximum, a.plain(), b.plain(), upper=False)


def _min(a: Between, b: Between) -> Between:
    return _extreme(minimum, a.plain(), b.plain(), upper=True)


def _extreme(f: Callable[[Poly, Poly], Poly], a: Between, b: Between, upper: bool) -> Between:
    """Of two values the larger one, or the smaller one: one known bound is enough on one side."""

    def joined(x: Poly | None, y: Poly | None, enough: bool) -> Poly | None:
        if x is None or y is None:
            return (y if x is None else x) if enough else None
        return f(x, y)

    return Between(joined(a.low, b.low, not upper), joined(a.high, b.high, upper))


def _natural(p: Poly) -> bool:
    """Whether a polynomial is a literal that is not negative, or of sizes and quotients of them alone: 0 or more."""
    n = p.as_int()
    if n is not None:
        return n >= 0
    return all(c > 0 for _, c in p.terms) and all(a.kind == "size" or _quotient(a) for a in p.top_atoms())


def _quotient(a: object) -> bool:
    return getattr(a, "kind", "") == "div" and all(_natural(p) for p in a.args)  # type: ignore[attr-defined]


BINARY: dict[str, Callable[[Between, Between], Between]] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "mod": _mod,
    "floordiv": _floordiv,
    "max": _max,
    "min": _min,
}
