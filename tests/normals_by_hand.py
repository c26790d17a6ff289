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


# Formulas beyond attention ------------------------------------------------------------------------------------------

X = ld("S", I, J)


def maximum_of(s: System, x: E) -> E:
    return s.reduce("m", "i", "max", "j", x)


def total_of(s: System, x: E, domain: Cond = TRUE) -> E:
    return s.reduce("l", "i", "add", "j", x, domain)


def sink(x: E | None = None) -> Normal:
    """One more score t[i] that has no value: the reference is an expression of the maximum."""
    s = System("sink")
    x = dots(s) / scale() if x is None else x
    top = fn("max", maximum_of(s, x), ld("t", I))
    l = total_of(s, exp(x - top))
    weighted(s, exp(x - top) / (l + exp(ld("t", I) - top)))
    return s.out("O")


def difference() -> Normal:
    s = System("difference of two")
    weighted(s, softmax(s, X, tag="1") - 0.5 * softmax(s, ld("B", I, J), tag="2"))
    return s.out("O")


def with_eps() -> Normal:
    s = System("eps")
    w = where(eq(X, -INF), 0, exp(X - maximum_of(s, X)))
    weighted(s, (w + 0.01) / (total_of(s, w) + 1e-6))
    return s.out("O")


def plus_constant() -> Normal:
    s = System("a weight plus a constant")
    weighted(s, softmax(s, X) + 0.25)
    return s.out("O")


def variance() -> Normal:
    s = System("variance")
    n = E(EXTENTS["m"])
    mean = s.reduce("mu", "i", "add", "j", X) / n
    s.reduce("v", "i", "add", "j", (X - mean) * (X - mean))
    s.map("var", "i", ld("v", I) / n)
    return s.out("var")


def weighted_variance() -> Normal:
    s = System("variance of the values under the weights")
    p = softmax(s, X)
    delta = ld("V", J, C) - s.reduce("mu", "ic", "add", "j", p * ld("V", J, C))
    s.reduce("v", "ic", "add", "j", p * (delta * delta))
    return s.out("v", "mu")


def covariance() -> Normal:
    s = System("covariance")
    a = s.reduce("a", "i", "add", "j", X) / E(EXTENTS["m"])
    b = s.reduce("b", "i", "add", "j", ld("B", I, J)) / E(EXTENTS["m"])
    s.reduce("v", "i", "add", "j", (X - a) * (ld("B", I, J) - b))
    return s.out("v")


def entropy() -> Normal:
    s = System("entropy")
    m = maximum_of(s, X)
    l = total_of(s, exp(X - m))
    s.reduce("h", "i", "add", "j", exp(X - m) / l * (X - m - log(l)))
    return s.out("h")


def log_normalised() -> Normal:
    s = System("exp of a score less its logsumexp")
    m = maximum_of(s, X)
    weighted(s, exp(X - (m + log(total_of(s, exp(X - m))))))
    return s.out("O")


def capped() -> Normal:
    return scores(base=30 * fn("tanh", X / 30))


def finite_reference() -> Normal:
    s = System("a reference made finite by the user")
    m = maximum_of(s, X)
    m = where(eq(m, -INF), 0, m)
    l = total_of(s, exp(X - m))
    weighted(s, exp(X - m) / where(eq(l, 0), 1, l))
    return s.out("O")


def softmin() -> Normal:
    s = System("softmin")
    m = s.reduce("m", "i", "min", "j", X)
    weighted(s, exp(-(X - m)) / total_of(s, exp(m - X)))
    return s.out("O")


def tempered() -> Normal:
    s = System("a rate of unknown sign")
    w = exp(E(Scalar("param", ("tau",))) * (X - maximum_of(s, X)))
    weighted(s, w / total_of(s, w))
    return s.out("O")


def powers_of_two() -> Normal:
    s = System("2 ** (x * log2(e))")
    x = X / scale()
    w = exp((x - maximum_of(s, x)) * 1.4426950408889634 * log(2))
    weighted(s, w / total_of(s, w))
    return s.out("O")


def inside_tanh() -> Normal:
    s = System("a reference inside tanh")
    s.reduce("q", "i", "add", "j", fn("tanh", X - maximum_of(s, X)))
    return s.out("q")


def kept_keys(guard: bool = True) -> Normal:
    s = System("a mask by key")
    weighted(s, softmax(s, where(Cond("load", ("keep", (J,))), X, -INF), guard=guard))
    return s.out("O")


def data_mask() -> Normal:
    return scores(base=where(compare("gt", ld("B", I, J).s, lit(0)), X, -INF))


def squared() -> Normal:
    s = System("squares of the weights")
    p = softmax(s, X)
    weighted(s, p * p)
    return s.out("O")


def standardised() -> Normal:
    s = System("softmax of standardised scores")
    n = E(EXTENTS["m"])
    mean = s.reduce("mu", "i", "add", "j", X) / n
    v = s.reduce("v", "i", "add", "j", (X - mean) * (X - mean)) / n
    weighted(s, softmax(s, (X - mean) / fn("sqrt", v + 1e-6)))
    return s.out("O")


def twice() -> Normal:
    s = System("softmax of softmax")
    weighted(s, softmax(s, softmax(s, X), tag="2"))
    return s.out("O")


def largest_score() -> Normal:
    s = System("largest score")
    s.reduce("w", "i", "max", "j", X / scale())
    return s.out("w")


def largest_weight() -> Normal:
    s = System("largest weight")
    s.reduce("w", "i", "max", "j", softmax(s, X))
    return s.out("w")


def largest_weighted() -> Normal:
    s = System("largest weighted value")
    p = softmax(s, where(CAUSAL, X, -INF))
    s.reduce("w", "ic", "max", "j", p * ld("V", J, C))
    s.reduce("u", "i", "min", "j", p)
    return s.out("w", "u")


def around_mean() -> Normal:
    s = System("an exponential around a mean")
    total_of(s, exp(X - s.reduce("mu", "i", "add", "j", X) / E(EXTENTS["m"])))
    return s.out("l")


def of_the_other_sign() -> Normal:
    s = System("exponents above 0")
    total_of(s, where(eq(X, -INF), 0, exp((maximum_of(s, X) - X) / 3)))
    return s.out("l")


def of_fewer_keys() -> Normal:
    s = System("a reference over fewer keys")
    m = s.reduce("m", "i", "max", "j", X, at_least_zero(I - J - 1))
    weighted(s, where(eq(X, -INF), 0, exp(X - fn("max", m, -9))), CAUSAL)
    return s.out("O")


def guarded_entropy() -> Normal:
    s = System("entropy with its guard")
    w = softmax(s, where(CAUSAL, X, -INF))
    s.reduce("h", "i", "add", "j", where(compare("gt", w.s, lit(0)), w * log(w), 0))
    return s.out("h")


def denominator() -> Normal:
    s = System("an unguarded sum as output")
    total_of(s, exp(X - maximum_of(s, X)))
    return s.out("l")


def transposed() -> Normal:
    s = System("an output with its axes the other way")
    s.reduce("O", "ci", "add", "j", softmax(s, X) * ld("V", J, C))
    return s.out("O")


def linear() -> Normal:
    s = System("no softmax at all")
    a = s.reduce("d", "ij", "add", "k", exp(ld("Q", I, K)) * exp(ld("K", J, K)))
    s.reduce("z", "i", "add", "j", a, CAUSAL)
    weighted(s, a, CAUSAL, "N")
    s.map("O", "ic", ld("N", I, C) / (ld("z", I) + 1e-6))
    return s.out("O")


# name -> (system, passes before, passes after)
SYSTEMS: dict[str, tuple[Normal, int, int]] = {
    "attention": (attention(), 3, 1),
    "causal": (causal(), 3, 1),
    "causal, unguarded": (causal(False), 3, 1),
    "window": (window(), 3, 1),
    "alibi": (alibi(), 3, 1),
    "scores": (scores(), 3, 1),
    "scores, unguarded": (scores(False), 3, 1),
    "with_lse": (with_lse(), 3, 1),
    "sink": (sink(), 3, 1),
    "sink on scores": (sink(X), 3, 1),
    "difference": (difference(), 3, 1),
    "eps": (with_eps(), 3, 1),
    "plus constant": (plus_constant(), 3, 1),
    "variance": (variance(), 2, 1),
    "weighted variance": (weighted_variance(), 4, 1),
    "covariance": (covariance(), 2, 1),
    "entropy": (entropy(), 3, 1),
    "log normalised": (log_normalised(), 3, 1),
    "capped": (capped(), 3, 1),
    "finite reference": (finite_reference(), 3, 1),
    "softmin": (softmin(), 3, 1),
    "tempered": (tempered(), 3, 1),
    "powers of two": (powers_of_two(), 3, 1),
    "inside tanh": (inside_tanh(), 2, 2),
    "kept keys": (kept_keys(), 3, 1),
    "kept keys, unguarded": (kept_keys(False), 3, 1),
    "data mask": (data_mask(), 3, 1),
    "squared": (squared(), 3, 1),
    "standardised": (standardised(), 5, 2),
    "twice": (twice(), 5, 2),
    "largest score": (largest_score(), 1, 1),
    "largest weight": (largest_weight(), 3, 1),
    "largest weighted": (largest_weighted(), 3, 1),
    "around a mean": (around_mean(), 2, 1),
    "of the other sign": (of_the_other_sign(), 2, 1),
    "of fewer keys": (of_fewer_keys(), 2, 1),
    "guarded entropy": (guarded_entropy(), 3, 1),
    "denominator": (denominator(), 2, 1),
    "transposed": (transposed(), 3, 1),
    "bias by row": (scores(base=X / scale() + ld("t", I)), 3, 1),
    "bias": (scores(base=X / scale() + ld("B", I, J)), 3, 1),
    "linear": (linear(), 1, 1),
}
