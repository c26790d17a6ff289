"""Random programs of the language with the data they are run on.

`attention` builds scores x masks x normalisers x outputs; `other` everything that is not of that form. Both draw
through a function `choose(options)`, so hypothesis (which shrinks towards the first option) and a plain generator of
random numbers can drive them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

INFINITE = ("-inf rows", "-inf prefix", "-inf", "+inf", "nan")
Choose = Callable[[Sequence[Any]], Any]
Array = np.ndarray[Any, Any]

ROWS = (3, 1, 2, 4, 5, 7, 8, 9, 13, 17)  # around tiles of 4 rows, vectors of 2 and 8, loops of 6 and 8
KEYS = (3, 1, 2, 4, 5, 6, 7, 11, 12, 13, 17, 19)
WIDTHS = (2, 1, 3, 4, 5, 8, 9)


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter: kind f, i, b; its axes by name of size (an int is literal); what its values are.

    values   "data": as the case says; "bias": likewise; "value": likewise, but finite where scores are not;
             "finite": normal; "positive"; "index:<size>": in range of an axis; "document": sorted small integers;
             "small": an integer from 1 to 5
    """

    name: str
    axes: tuple[str, ...]
    kind: str = "f"
    values: str = "data"

    def text(self) -> str:
        prefix = {"f": "", "i": "int", "b": "bool"}[self.kind]
        if not self.axes:
            return f"{self.name}: {prefix or 'float'}"
        inside = ", ".join(self.axes)
        return f"{self.name}[{inside}]" if not prefix else f"{self.name}: {prefix}[{inside}]"


@dataclass(frozen=True, slots=True)
class Case:
    """A program, the sizes it runs at, and its data.

    data   "plain", or what hostile values its "data" parameters hold (see `hostile`)
    """

    text: str
    params: tuple[Param, ...]
    sizes: dict[str, int]
    data: str = "plain"
    seed: int = 0
    lead: tuple[int, ...] = ()

    def arrays(self, data: str | None = None) -> dict[str, Any]:
        """The arguments by name."""
        data = self.data if data is None else data
        rng = np.random.default_rng(self.seed)
        return {p.name: self.argument(p, rng, data) for p in self.params}

    def argument(self, p: Param, rng: np.random.Generator, data: str) -> Any:
        shape: list[int] = []
        for a in p.axes:
            shape += self.lead if a == "..." else [self.extent(a)]
        kind, _, axis = p.values.partition(":")
        if not p.axes:
            return int(rng.integers(1, 6)) if p.kind == "i" else float(np.round(rng.uniform(0.25, 0.75), 2))
        if p.kind == "b":
            return rng.random(shape) < 0.6
        if kind == "index":
            return rng.integers(0, max(self.extent(axis), 1), shape)
        if kind == "document":
            return np.sort(rng.integers(0, 3, shape), axis=-1)
        if p.kind == "i":
            return rng.integers(-3, 4, shape)
        x = rng.standard_normal(shape)
        if kind == "positive":
            return np.abs(x) + 0.1
        only = next((k for k in ("value", "bias") if data.endswith(f" {k}")), "")
        if only:
            data = data.removesuffix(f" {only}") if kind == only else "plain"
        elif kind == "value" and data in INFINITE:
            data = "plain"
        return hostile(x, data, rng) if kind in ("data", "value", "bias") else x

    def extent(self, axis: str) -> int:
        a, _, b = axis.partition(" + ")
        return (int(a) if a.isdigit() else self.sizes[a]) + (int(b) if b else 0)

    def __str__(self) -> str:
        return f"{self.text}\n# {self.sizes}, {self.data}, seed {self.seed}" + (f", {self.lead}" if self.lead else "")


def hostile(x: Array, data: str, rng: np.random.Generator) -> Array:
    """Data that is hard on a compiler of exponentials: large, infinite, absent."""
    if not x.size:
        return x
    match data:
        case "huge":
            return x * 1e4
        case "tiny":
            return x * 1e-60
        case "equal":
            return np.ones_like(x)
        case "-inf rows":
            x = x.copy()
            rows = rng.random(x.shape[: max(x.ndim - 1, 1)]) < 0.4
            x[rows] = -np.inf
        case "-inf prefix":
            x = x.copy()
            x[..., : max(1, 2 * x.shape[-1] // 3)] = -np.inf
        case "+inf" | "nan" | "-inf":
            x = x.copy()
            value = {"+inf": np.inf, "nan": np.nan, "-inf": -np.inf}[data]
            x[rng.random(x.shape) < 1.5 / x.size] = value
        case _:
            assert data == "plain", data
    return x


@dataclass(slots=True)
class Sketch:
    """A program being drawn: its lines and parameters."""

    choose: Choose
    lead: bool
    params: list[Param] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    head: str = ""  # functions before the kernel
    finite: bool = False  # whether the data has to be finite

    def chance(self, parts: int) -> bool:
        """True once in `parts`."""
        return bool(self.choose((False,) * (parts - 1) + (True,)))

    def param(self, name: str, axes: tuple[str, ...], kind: str = "f", values: str = "data") -> str:
        if all(p.name != name for p in self.params):
            self.params.append(Param(name, axes, kind, values))
        return name

    def array(self, name: str, *axes: str, values: str = "data") -> str:
        """A float array, with the leading axes of the program in front."""
        return self.param(name, ("...", *axes) if self.lead else axes, "f", values)

    def line(self, text: str) -> None:
        self.lines.append(f"    {text}")


# scores x masks x normalisers x outputs ------------------------------------------------------------------------------


def scores(s: Sketch, n: str, m: str, q: str = "Q", k: str = "K") -> str:
    """An expression for the scores [n, m]."""
    s.array(q, n, "d")
    s.array(k, m, "d")
    base = f"{q} @ {k}.T"
    if s.chance(12):
        s.finite = True  # a term of the row cancels in a softmax
        base = f"max({q}, axis=-1, keepdims=True) + {s.param('k1', (m,))}"
    for _ in range(s.choose((0, 1, 1, 2, 3))):
        kind = s.choose(("scale", "bias", "piece", "distance", "select", "tanh", "key", "row", "square", "param"))
        match kind:
            case "scale":
                base = s.choose((f"({base}) / sqrt(d)", f"0.5 * ({base})", f"({base}) / 3"))
            case "param":
                base = f"{s.param('tau', (), 'f')} * ({base})"
            case "bias":
                base = f"{base} + {s.param('B', (n, m), values='bias')}"
            case "key":
                base = f"{base} + {s.param('bk', (m,), values='bias')}"
            case "row":
                base = f"{base} - {s.param('br', (n,), values='finite')}[:, None]"
            case "piece":
                p = s.choose(("j <= i", "i - j < 3", "(i + j) % 2 == 0", "j < 4", f"{s_keep(s, m)}"))
                bias = s.param("B", (n, m), values="bias")
                a, b = s.choose((("1", "0"), (bias, "0"), ("0.5 * i", "0.25 * j"), ("2", "-1")))
                base = f"{base} + where({p}, {a}, {b})"
            case "distance":
                base = f"{base} - {s.choose(('0.1 * abs(i - j)', '0.25 * (i - j)', '0.1 * maximum(i - j, 2)'))}"
            case "select":
                s.line(f"t{len(s.lines)} = {base}")
                t = s.lines[-1].split()[0]
                base = s.choose((f"where({t} > 0, {t}, 0.1 * {t})", f"maximum({t}, 0)", f"minimum({t}, 1)"))
            case "tanh":
                base = s.choose((f"3 * tanh(({base}) / 3)", f"tanh({base})"))
            case "square":
                s.line(f"t{len(s.lines)} = {base}")
                t = s.lines[-1].split()[0]
                base = f"0.1 * {t} * {t}"
    return base


def s_keep(s: Sketch, m: str) -> str:
    return s.param("keep", (m,), "b")


def mask(s: Sketch, n: str, m: str, depth: int = 0) -> str:
    """A condition on [n, m]."""
    w = s.param("w", (), "i", "small") if s.chance(3) else "3"
    kind = s.choose(
        ("causal", "strict", "window", "union", "stride", "block", "keys", "document", "data", "band", "and", "or",
         "not", "prefix", "later", "pairs", "row")
    )  # fmt: skip
    if depth > 1 and kind in ("and", "or", "not"):
        kind = "causal"
    match kind:
        case "causal":
            return "j <= i"
        case "strict":
            return "j < i"
        case "later":
            return s.choose(("j >= i", "j > i", f"j <= i + {w}", f"j <= i - {w}"))
        case "window":
            return f"(j <= i) & (i - j < {w})"
        case "band":
            return f"abs(i - j) <= {w}"
        case "union":
            return f"(j <= i) & ((i - j < {w}) | (j < 2))"
        case "stride":
            return f"(i - j) % {w} == 0"
        case "block":
            return s.choose((f"i // {w} == j // {w}", f"j // {w} <= i // {w}"))
        case "keys":
            return s_keep(s, m)
        case "prefix":
            return f"j < {w}"
        case "row":
            return f"i < {w}"
        case "pairs":
            return s.param("pairs", (n, m), "b")
        case "document":
            return f"{s.param('doc', (n,), 'i', 'document')}[:, None] == {s.param('dok', (m,), 'i', 'document')}"
        case "data":
            return f"{s.param('B', (n, m), values='bias')} > 0"
        case "not":
            return f"~({mask(s, n, m, depth + 1)})"
        case _:
            sign = "&" if kind == "and" else "|"
            return f"({mask(s, n, m, depth + 1)}) {sign} ({mask(s, n, m, depth + 1)})"


def normaliser(s: Sketch, n: str, m: str, score: str) -> str:
    """Lines that make `p` from the scores in a variable; its name."""
    kind = s.choose(
        ("softmax", "softmax", "softmax", "sink", "learned sink", "eps", "standard", "squared", "difference", "linear",
         "written", "relu", "plain", "halves", "temperature", "double")
    )  # fmt: skip
    match kind:
        case "softmax":
            s.line(f"p = softmax({score})")
        case "temperature":
            s.line(f"p = softmax({score} / {s.param('tau', (), 'f')})")
        case "sink":
            s.line(f"g = maximum(max({score}, axis=-1, keepdims=True), 0)")
            s.line(f"e = where({score} == -inf, 0, exp({score} - g))")
            s.line("p = e / (sum(e, axis=-1, keepdims=True) + exp(-g))")
        case "learned sink":
            sink = s.param("sink", (n,), "f", "finite")
            s.line(f"g = maximum(max({score}, axis=-1, keepdims=True), {sink}[:, None])")
            s.line(f"e = where({score} == -inf, 0, exp({score} - g))")
            s.line(f"p = e / (sum(e, axis=-1, keepdims=True) + exp({sink}[:, None] - g))")
        case "eps":
            s.line(f"g = max({score}, axis=-1, keepdims=True)")
            s.line(f"e = where({score} == -inf, 0, exp({score} - g))")
            s.line("p = e / (sum(e, axis=-1, keepdims=True) + 0.001)")
        case "written":
            s.line(f"e = exp({score} - max({score}, axis=-1, keepdims=True))")
            s.line("p = e / sum(e, axis=-1, keepdims=True)")
        case "standard":
            s.finite = True  # moving a mean by the binomial theorem multiplies infinities by 0
            s.line(f"z = where({score} == -inf, 0, {score})")
            s.line("y = z - mean(z, axis=-1, keepdims=True)")
            s.line("p = y / sqrt(mean(y * y, axis=-1, keepdims=True) + 0.01)")
        case "squared":
            s.line(f"e = where({score} == -inf, 0, {score})")
            s.line("p = e * e / (sum(e * e, axis=-1, keepdims=True) + 0.01)")
        case "relu":
            s.line(f"p = maximum({score}, 0)")
            s.line("p = p / (sum(p, axis=-1, keepdims=True) + 0.01)")
        case "linear":
            s.line(f"p = where({score} == -inf, 0, {score})")
        case "plain":
            s.line(f"p = where({score} == -inf, 0, 1 / (1 + exp(-{score})))")
        case "halves":
            s.line(f"p = softmax({score}) * 0.5 + where({score} > 0, 0.5, 0.25)")
        case "double":
            s.line(f"p = softmax(softmax({score}))")
        case _:
            other = scores(s, n, m, "Q2", "K2")
            s.line(f"p = softmax({score}) - {s.param('tau', (), 'f')} * softmax({other})")
    return "p"


def outputs(s: Sketch, n: str, m: str, score: str, p: str) -> str:
    """The expression that is returned."""
    kind = s.choose(
        ("product", "product", "product", "two", "column", "moment", "weights", "largest", "reversed", "joined",
         "entropy", "sums", "columns", "both", "gathered", "shifted", "scaled", "residual")
    )  # fmt: skip
    if kind == "joined" and s.lead:
        kind = "product"
    without = ("column", "weights", "largest", "entropy", "sums", "columns")
    v = "" if kind in without else s.array("V", m, "c", values="value")
    match kind:
        case "product":
            return f"{p} @ {v}"
        case "two":
            return f"{p} @ {v}, {s.choose((f'logsumexp({score})', f'max({score})', f'sum({p})'))}"
        case "column":
            return f"{p}.T @ {s.array('W', n, 'c', values='value')}"
        case "columns":
            return f"sum({p}, axis=-2)"
        case "both":
            return f"{p} @ {v}, {p}.T @ {s.array('W', n, 'c', values='value')}"
        case "moment":
            s.line(f"o = {p} @ {v}")
            return f"o, {p} @ ({v} * {v}) - o * o"
        case "weights":
            return p
        case "largest":
            return s.choose((f"max({p})", f"min({p})", f"max({p}, axis=-2)"))
        case "reversed":
            return f"{p} @ reverse({v}, axis=-2)"
        case "joined":
            extra = s.param("V0", (m, "c"), values="value")
            return f"{p} @ concat({v}, {extra}, axis=0)[:{m}]"
        case "entropy":
            return f"sum({p} * {p})"
        case "sums":
            return f"sum({p} * where({score} == -inf, 0, {score}))"
        case "gathered":
            return f"{p} @ {v}[..., {s.choose(('::-1', ':1', ':'))}]"
        case "shifted":
            return f"{p} @ rotate({v}, 1, axis=-2)"
        case "scaled":
            return f"{p} @ ({v} * {s.param('kv', (m,), values='value')}[:, None])"
        case _:
            return f"{p} @ {v} + {s.array('W', n, 'c', values='value')}"


def attention(choose: Choose) -> Case:
    """A program of scores, mask, normaliser and outputs."""
    s = Sketch(choose, lead=choose((False, False, False, False, True)))
    n, m = ("n", choose(("m", "n", "m")))
    s.line(f"i, j = iota({n})[:, None], iota({m})")
    s.line(f"s = {scores(s, n, m)}")
    masked = s.chance(2)
    if masked:
        s.line(f"s = where({mask(s, n, m)}, s, -inf)")
    p = normaliser(s, n, m, "s")
    result = outputs(s, n, m, "s", p)
    s.line(f"return {result}")
    return finish(s, "f", masked)


def finish(s: Sketch, name: str, masked: bool = False) -> Case:
    """The case with sizes and data drawn.

    A value that is not finite at a position that indices mask for some rows may or may not reach rows that share its
    tile: beside such a mask only biases are infinite, as masks in data are.
    """
    choose = s.choose
    sizes = {"n": choose(ROWS), "m": choose(KEYS), "d": choose(WIDTHS), "c": choose(WIDTHS)}
    kinds = ["plain", "plain", "plain", "huge", "equal", "tiny"]
    if masked:
        kinds += ["-inf rows bias", "-inf prefix bias", "-inf bias"]
    elif not s.finite:
        kinds += [*INFINITE, "nan value", "-inf value"]
    if s.chance(25):
        sizes[choose(("n", "m", "d", "c"))] = 0
    data = choose(kinds)
    params = ordered(s.params)
    lead = choose(((), (2,), (1,), (2, 3), (0,))) if s.lead else ()
    text = f"{s.head}def {name}({', '.join(p.text() for p in params)}):\n" + "\n".join(s.lines)
    return Case(text, params, sizes, data, choose(range(1000)), lead)


def ordered(params: list[Param]) -> tuple[Param, ...]:
    return tuple(sorted(params, key=lambda p: not p.axes))


# everything else ------------------------------------------------------------------------------------------------------

JOIN = """def join(p, q):
    (m1, l1, a1), (m2, l2, a2) = p, q
    m = maximum(m1, m2)
    return m, l1 * exp(m1 - m) + l2 * exp(m2 - m), a1 * exp(m1 - m) + a2 * exp(m2 - m)
"""
TURNED = """def turned(s, x):
    return (3 * s + x) % 7
"""
DECAY = """def decay(S, x):
    k, v, g = x
    return g[:, None] * S + k[:, None] * v[None, :]
"""
HEADS = {"join": JOIN, "decay": DECAY, "turned": TURNED}
NORM = "y = X - mean(X, axis=@, keepdims=True); z = y / sqrt(mean(y * y, axis=@, keepdims=True) + 0.01)"
DISTANCE = "q = sum((X[:, None] - Y) * (X[:, None] - Y), axis=-1)"
JOINED = "s = K @ q; m, l, a = {}(join, (s, ones(m), V), axis=0, identity=(-inf, 0, 0){})"
LOOKUP = "s = sum(Q[:, None] * K[table], axis=-1); return sum(softmax(s)[..., None] * V[table], axis=1)"

OTHER: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "X[..., n, d]",
        (
            "return mean(X, axis=@)",
            "return sum(X, axis=@)",
            "return max(X, axis=@)",
            "return X - min(X, axis=@, keepdims=True)",
            "return prod(1 + 0.1 * X, axis=@)",
            "return sum(max(X)), min(max(X))",
            f"{NORM}; return z",
            f"{NORM}; return z, y",
            "y = mean(X, axis=@, keepdims=True); return mean((X - y) * (X - y), axis=@), mean((X - y) ** 3, axis=@)",
            "return sum(where(X == max(X, axis=-1, keepdims=True), X, 0))",
            "return where(sum(X) > 0, 1, 0) + tanh(sum(X))",
            "return argmax(X, axis=@)",
            "return argmax(tanh(X), axis=@), max(X)",
        ),
    ),
    (
        "X[..., n, d]",
        tuple(f"return {f}" for f in (
            "exp(X)", "tanh(X)", "erf(X)", "log(abs(X) + 1)", "sqrt(abs(X))", "where(X > 0, X, -X / 2)", "elu(X)",
            "silu(X)", "X * X - X ** 3", "maximum(X, 0)", "softplus(X)", "minimum(X, X * X)", "sigmoid(X)", "abs(X)",
        )),
    ),
    (
        "X[..., n, d]",
        tuple(f"y = {y}; return {f}" for y in (
            "reverse(X, axis=@)", "rotate(X, 1, axis=@)", "concat(X, 2 * X, axis=@)", "X[..., 1:]", "X.T",
            "X[..., ::-1]", "concat(X, X[..., :1], axis=-1)",
        ) for f in ("y", "sum(y)", "max(y, axis=-2)", "y * 2 + 1")),
    ),
    (
        "X[..., n, d] gain[d]",
        (f"{NORM}; return z * gain + 1", "return X / sqrt(mean(X * X, axis=-1, keepdims=True) + 0.01) * gain"),
    ),
    (
        "X[..., n, d] W[d]",
        tuple(f"p = softmax(X @ W); return {f}" for f in ("p", "sum(p[..., None] * X, axis=-2)", "p, max(X @ W)")),
    ),
    (
        "X[..., n, d] W[d, c]",
        tuple(f"return {f}" for f in (
            "X @ W", "tanh(X @ W) @ W.T", "maximum(X @ W, 0)", "max(X @ W, axis=-2)", "(X @ W).T", "softmax(X @ W)",
        )),
    ),
    (
        "X[..., n, d] W[d]",  # an exponential around something else than its maximum
        tuple(f"w = exp(({x}) / 8); return {f}" for x in (
            "X - mean(X, keepdims=True)", "max(X, keepdims=True) - X", "X - tanh(max(X, keepdims=True))",
        ) for f in ("sum(w)", "max(w), w @ W", "w @ W / sum(w)")),
    ),
    (
        "X[..., n, d] W[d]",
        tuple(f"w = softmax(where(iota(d) % 3 <= iota(n)[:, None], X, -inf)); return {f}" for f in (
            "max(w)", "min(w * W)", "-sum(where(w > 0, w * log(w), 0)), w @ W", "max(w * W), sum(w * w)",
        )),
    ),
    (
        "X[n, d] k:int[n, d]",
        tuple(f"y = {y}; return {f}" for y in (
            "cumsum(k, axis=0)", "cummax(k)", "scan(turned, k, axis=@, init=1)",
            "scan(turned, k, axis=0, init=1, exclusive=True)", "scan(turned, k, axis=@, init=2, reverse=True)",
        ) for f in ("y", "where(y % 2 == 0, X, 0) @ X.T", "X * y, y")),
    ),
    ("X[..., n, d] Y[..., d, c]", ("return X @ Y", "return softmax(X @ Y)", "return (X @ Y).T")),
    (
        "X[..., n, d] keep:bool[n]",
        tuple(f"y = where(keep[:, None], X, 0); return {f}" for f in (
            "y", "sum(y, axis=-2)", "max(y, axis=-2)", "y @ y.T",
        )),
    ),
    ("X[n, d] Y[m, d]", tuple(f"{DISTANCE}; return {f}" for f in ("q", "min(q)", "softmax(-q)", "softmax(-q) @ Y"))),
    (
        "Y[n, d] idx:index:n[r]",
        ("return Y[idx]", "return sum(Y[idx], axis=0)", "return Y[idx] @ Y.T"),
    ),
    ("Q[n, d] K[m, d] V[m, c] table:index:m[n, 2]", (LOOKUP,)),
    (
        "Y[n, 4]",
        (
            "return reshape(Y, [n, 2, 2])",
            "return sum(reshape(Y, [n, 2, 2]), axis=1)",
            "return reshape(Y, [2 * n, 2])",
            "return transpose(reshape(Y, [n, 2, 2]), [1, 0, 2])",
            "return softmax(reshape(Y, [n * 4]))",
        ),
    ),
    (
        "X[n, d]",
        (
            "return argsort(X, axis=@)",
            "return argsort(sum(X)), sum(X)",
            "return sum(X * argsort(X, axis=-1))",
            "return X[argsort(sum(X))]",
        ),
    ),
    (
        "X[..., n, d]",
        tuple(f"return {g}" for f in ("cumsum", "cummax") for g in (
            f"{f}(X, axis=@)", f"{f}(X * 2, axis=@) + 1", f"sum({f}(X, axis=@))",
            f"{f}(X - max(X, axis=-1, keepdims=True), axis=-2)",
        )),
    ),
    (
        "q[d] K[m, d] V[m, c]",
        tuple(f"{JOINED.format('scan', flag)}; return {f}" for flag in ("", ", reverse=True", ", exclusive=True")
              for f in ("a, l", "a / l[:, None]", "m, a"))
        + tuple(f"{JOINED.format('fold', '')}; return {f}" for f in ("a, l", "a / l")),
    ),
    (
        "K[m, d] V[m, c] G:positive[m, d]",
        tuple(f"S = scan(decay, (K, V, 0.5 * G), axis=0, init=zeros(d, c){flag}); return {f}"
              for flag in ("", ", reverse=True", ", exclusive=True")
              for f in ("S", "sum(K[..., None] * S, axis=1)", "sum(S, axis=0)")),
    ),
)  # fmt: skip
"""Parameters and bodies: `;` ends a line, @ is an axis; a parameter may have a kind or values, as name:kind[axes]."""


def other(choose: Choose) -> Case:
    """A program that is not attention: pooling, layer norm, reductions, gathers, structural operators, scans, maps."""
    params, bodies = choose(OTHER)
    body = choose(bodies).replace("@=", "@").replace("axis=@", f"axis={choose(('-1', '-2'))}")
    s = Sketch(choose, lead="..." in params and choose((False, True)))
    for p in listed(params):
        axes = tuple(a for a in p.axes if a != "..." or s.lead)
        s.params.append(Param(p.name, axes, p.kind, p.values))
    s.lines = [f"    {line}" for line in body.split("; ")]
    s.head = next((f for name, f in HEADS.items() if f"{name}," in body), "")
    s.finite = "** 3" in body  # a mean that moves multiplies infinities by 0
    case = finish(s, "g")
    return replace(case, sizes={**case.sizes, "r": choose((2, 1, 5, 0))})


def listed(text: str) -> tuple[Param, ...]:
    """Parameters written as `X[..., n, d] keep:bool[n] idx:index:n[r]`."""
    out = []
    for p in text.split("] "):
        head, _, inside = p.rstrip("]").partition("[")
        name, _, values = head.partition(":")
        kind = {"bool": "b", "int": "i", "index": "i"}.get(values.partition(":")[0], "f")
        out.append(Param(name, tuple(inside.split(", ")), kind, values if values not in ("", "bool") else "data"))
    return tuple(out)


# sums that can be exchanged or carried along rows --------------------------------------------------------------------

FEATURES = ("{}", "elu({}) + 1", "maximum({}, 0)", "tanh({})", "{} * {}")
DECAYS = ("", "", "exp(-0.5 * (i - j))", "exp(0.1 * (j - i))", "0.5", "exp(g[:, None] - g)", "(1 + 0.1 * (i - j))")
SUMS = ("j <= i", "j <= i", "", "j < i", "(j <= i) & (i - j < 3)", "j >= i", "keep", "(j <= i) & keep")


def linear(choose: Choose) -> Case:
    """Attention without a softmax: products that associate, over prefixes and other domains, with decays."""
    s = Sketch(choose, lead=choose((False, False, True)), finite=True)
    feature, decay, domain = choose(FEATURES), choose(DECAYS), choose(SUMS)
    q, k, v = (s.array(name, "n", axis) for name, axis in (("Q", "d"), ("K", "d"), ("V", "c")))
    s.line("i, j = iota(n)[:, None], iota(n)")
    s.line(f"A = ({feature.format(q, q)}) @ ({feature.format(k, k)}).T" + (f" * {decay}" if decay else ""))
    if "g[" in decay:
        s.param("g", ("n",), values="finite")  # exponentials of large differences overflow
    if "keep" in domain:
        s_keep(s, "n")
    if domain:
        s.line(f"A = where({domain}, A, 0)")
    ratio = f"(A @ {v}) / (1 + abs(sum(A, axis=-1, keepdims=True)))"
    ends = (f"A @ {v}", ratio, f"A @ {v}, sum(A)", f"A @ {v} @ {v}.T", f"A.T @ {v}", f"A @ ({v} * {v}) / 2")
    s.line(f"return {choose(ends)}")
    return finish(s, "h")


def anything(choose: Choose) -> Case:
    return choose((attention, attention, attention, attention, other, linear))(choose)


@st.composite
def programs(draw: st.DrawFn, build: Callable[[Choose], Case] = anything) -> Case:
    """A random program with its data."""
    return build(lambda options: draw(st.sampled_from(options)))


def numbered(seed: int, build: Callable[[Choose], Case] = anything) -> Case:
    """Random program number `seed`."""
    return build(random.Random(seed).choice)
