"""Normals written by hand, fully inlined, and what NumPy says they are: the systems that the laws are tested on.

Sizes are n rows, m keys, dk and dv features. `E` wraps a Scalar so that bodies read like formulas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moa.normal import (
    TRUE,
    ArrayInput,
    Cond,
    Eq,
    Normal,
    Scalar,
    apply,
    at_least_zero,
    both,
    choose,
    compare,
    integer,
    lit,
    load,
)
from moa.poly import Poly, size, var

SIZES = {"n": 7, "m": 11, "dk": 4, "dv": 3}
EXTENTS = {k: size(k) for k in SIZES}
I, J, K, C = map(var, ("i", "j", "k", "c"))
AXES = {"i": ("i", EXTENTS["n"]), "j": ("j", EXTENTS["m"]), "k": ("k", EXTENTS["dk"]), "c": ("c", EXTENTS["dv"])}
CAUSAL = at_least_zero(I - J)
INF = float("inf")


class E:
    """A Scalar with operators."""

    def __init__(self, s: Scalar | float | Poly) -> None:
        self.s = s if isinstance(s, Scalar) else integer(s) if isinstance(s, Poly) else lit(s)

    def __add__(self, o: Any) -> E:
        return E(apply("add", self.s, e(o).s))

    def __radd__(self, o: Any) -> E:
        return e(o) + self

    def __sub__(self, o: Any) -> E:
        return E(apply("sub", self.s, e(o).s))

    def __rsub__(self, o: Any) -> E:
        return e(o) - self

    def __mul__(self, o: Any) -> E:
        return E(apply("mul", self.s, e(o).s))

    def __rmul__(self, o: Any) -> E:
        return e(o) * self

    def __truediv__(self, o: Any) -> E:
        return E(apply("div", self.s, e(o).s))

    def __rtruediv__(self, o: Any) -> E:
        return e(o) / self

    def __neg__(self) -> E:
        return E(apply("neg", self.s))


def e(x: Any) -> E:
    return x if isinstance(x, E) else E(x)


def fn(name: str, *xs: Any) -> E:
    return E(apply(name, *(e(x).s for x in xs)))


def exp(x: Any) -> E:
    return fn("exp", x)


def log(x: Any) -> E:
    return fn("log", x)


def ld(array: str, *index: Poly) -> E:
    return E(load(array, index))


def where(c: Cond, a: Any, b: Any) -> E:
    return E(choose(c, e(a).s, e(b).s))


def eq(a: Any, b: Any) -> Cond:
    return compare("eq", e(a).s, e(b).s)


def scale() -> E:
    return fn("sqrt", E(EXTENTS["dk"]))


INPUTS = (
    ArrayInput("Q", "f", (EXTENTS["n"], EXTENTS["dk"])),
    ArrayInput("K", "f", (EXTENTS["m"], EXTENTS["dk"])),
    ArrayInput("V", "f", (EXTENTS["m"], EXTENTS["dv"])),
    ArrayInput("S", "f", (EXTENTS["n"], EXTENTS["m"])),
    ArrayInput("B", "f", (EXTENTS["n"], EXTENTS["m"])),
    ArrayInput("y", "f", (EXTENTS["m"],)),
    ArrayInput("t", "f", (EXTENTS["n"],)),
    ArrayInput("keep", "b", (EXTENTS["m"],)),
)


@dataclass
class System:
    """A system under construction."""

    name: str = "system"
    equations: list[Eq] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    def reduce(self, name: str, outer: str, op: str, red: str, body: Any, domain: Cond = TRUE) -> E:
        axes = tuple(AXES[v] for v in outer)
        self.equations.append(Eq(name, "reduce", axes, ((TRUE, e(body).s),), op, AXES[red], domain))
        return ld(name, *(var(v) for v in outer))

    def map(self, name: str, outer: str, body: Any) -> None:
        self.equations.append(Eq(name, "map", tuple(AXES[v] for v in outer), ((TRUE, e(body).s),)))

    def out(self, *names: str) -> Normal:
        return Normal(self.name, INPUTS, tuple(self.equations), names)


def dots(s: System) -> E:
    return s.reduce("d", "ij", "add", "k", ld("Q", I, K) * ld("K", J, K))


def softmax(s: System, x: E, domain: Cond = TRUE, guard: bool = True, tag: str = "") -> E:
    """The weights of a softmax over j, reductions m and l in the system."""
    m = s.reduce("m" + tag, "i", "max", "j", x, domain)
    w = where(eq(x, -INF), 0, exp(x - m)) if guard else exp(x - m)
    l = s.reduce("l" + tag, "i", "add", "j", w, domain)
    return w / where(eq(l, 0), 1, l) if guard else w / l


def weighted(s: System, p: E, domain: Cond = TRUE, name: str = "O") -> E:
    return s.reduce(name, "ic", "add", "j", p * ld("V", J, C), domain)


def attention() -> Normal:
    s = System("attention")
    weighted(s, softmax(s, dots(s) / scale()))
    return s.out("O")


def causal(guard: bool = True) -> Normal:
    """The mask is still a choice in the bodies."""
    s = System("causal")
    weighted(s, softmax(s, where(CAUSAL, dots(s) / scale(), -INF), guard=guard))
    return s.out("O")


def window() -> Normal:
    """The mask is a domain already."""
    s = System("window")
    domain = both(CAUSAL, at_least_zero(var("j") - var("i") + 2))
    weighted(s, softmax(s, dots(s) / scale(), domain), domain)
    return s.out("O")


def alibi() -> Normal:
    s = System("alibi")
    weighted(s, softmax(s, dots(s) / scale() - ld("t", I) * E(I - J)))
    return s.out("O")


def scores(guard: bool = True, base: E | None = None) -> Normal:
    """Scores are an input, so that they can be anything."""
    s = System("scores")
    weighted(s, softmax(s, ld("S", I, J) if base is None else base, guard=guard))
    return s.out("O")


def with_lse() -> Normal:
    s = System("with_lse")
    x = ld("S", I, J)
    weighted(s, softmax(s, x))
    s.map("L", "i", ld("m", I) + log(ld("l", I)))
    return s.out("O", "L")


def arrays(seed: int = 0, sizes: dict[str, int] = SIZES) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    n, m, dk, dv = (sizes[k] for k in ("n", "m", "dk", "dv"))
    return {
        "Q": rng.normal(size=(n, dk)),
        "K": rng.normal(size=(m, dk)),
        "V": rng.normal(size=(m, dv)),
        "S": rng.normal(size=(n, m)) * 3,
        "B": rng.normal(size=(n, m)),
        "y": rng.normal(size=m),
        "t": rng.normal(size=n),
        "keep": rng.random(m) < 0.6,
    }


def adversarial(kind: str, seed: int = 0) -> dict[str, Any]:
    """Inputs whose scores are hard: huge, masked rows, masked prefixes, infinite, not a number."""
    a = arrays(seed)
    s = a["S"]
    match kind:
        case "plain":
            pass
        case "huge":
            s *= 1e6
        case "growing":
            s += 300 * np.arange(s.shape[1])
        case "masked rows":
            s[::2] = -INF
        case "masked prefix":
            s[:, :6] = -INF
        case "some masked":
            s[np.random.default_rng(seed + 1).random(s.shape) < 0.4] = -INF
        case "plus infinity":
            s[1, 3] = INF
        case "not a number":
            s[2, 4] = math.nan
    return a


KINDS = ("plain", "huge", "growing", "masked rows", "masked prefix", "some masked", "plus infinity", "not a number")
