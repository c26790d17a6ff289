"""What is known of integer polynomials at check time: sizes are at least 0, the rest follows."""

from __future__ import annotations

from fractions import Fraction

from moa import poly
from moa.poly import Atom, Poly
from moa.text import MoaError, Span

MAX_TERMS = 64
MAX_DEGREE = 8
MAX_TEXT = 2000


def at_least(p: Poly, bound: int) -> bool:
    """Whether p >= bound is certain for all sizes (False where it is false or not known)."""
    return any(_lower(q) >= bound for q in _below(p))


def is_negative(p: Poly) -> bool:
    """Whether p reads as something negative: -1, -w, -(n // 2). Such a bound counts from the end."""
    return bool(p.terms) and all(c < 0 for _, c in p.terms)


def _lower(p: Poly) -> Fraction | float:
    total: Fraction | float = Fraction(0)
    for m, c in p.terms:
        if not m:
            total += c
        elif not (c > 0 and all(_not_negative(a) for a in m)):
            return float("-inf")
    return total


def _not_negative(a: Atom) -> bool:
    match a.kind:
        case "size" | "abs":
            return True
        case "div":
            return at_least(a.args[0], 0) and at_least(a.args[1], 0)
        case "min":
            return all(at_least(x, 0) for x in a.args)
        case "max":
            return any(at_least(x, 0) for x in a.args)
        case _:
            return False


def _below(p: Poly) -> list[Poly]:
    """Polynomials that are never above p: floors and minima that are subtracted give way to what bounds them."""
    out = [p]
    for m, c in p.terms:
        for k, a in enumerate(m):
            others = m[:k] + m[k + 1 :]
            rest = Poly({m: -c})
            if c < 0 and a.kind == "div":
                d = a.args[1].as_int()
                if d is not None and d > 0 and all(_not_negative(x) for x in others):
                    out.append(p + rest + a.args[0] * Poly({others: Fraction(c) / d}))
                elif a.args[1] == Poly({others: Fraction(1)}):
                    out.append(p + rest + a.args[0] * poly.const(c))
            elif c < 0 and a.kind == "min" and all(_not_negative(x) for x in others):
                out += [p + rest + x * Poly({others: c}) for x in a.args]
    return out


def without_floors(p: Poly) -> tuple[Poly, list[tuple[Poly, Poly]]]:
    """p with each d * (a // d) read as a, and the pairs (d, a) in which d must divide a for that."""
    used: dict[tuple[Poly, Poly], None] = {}
    out = poly.const(0)
    for m, c in p.terms:
        term = Poly({m: c})
        for k, a in enumerate(m):
            if a.kind != "div" or len(a.args[1].terms) != 1:
                continue
            (d, e), left = a.args[1].terms[0], list(m[:k] + m[k + 1 :])
            if all(left.count(x) >= d.count(x) for x in d):
                for x in d:
                    left.remove(x)
                used[a.args[1], a.args[0]] = None
                term = a.args[0] * Poly({tuple(left): Fraction(c) / e})
                break
        out = out + term
    return out, list(used)


def bounded(p: Poly, span: Span) -> Poly:
    """p itself; an error where it is too large to compute with."""
    if any(abs(c.numerator) >= 2**63 or c.denominator >= 2**63 for _, c in p.terms):
        raise MoaError("limit", "the integer does not fit 64 bits", span, "write it as a float, with a dot")
    if any(len(m) > MAX_DEGREE for m, _ in p.terms) or len(p.terms) > MAX_TERMS or len(str(p)) > MAX_TEXT:
        raise MoaError("limit", "the size is too long an expression", span, "pass it as a parameter of kind int")
    return p
