"""Every example system against its published mathematics, at odd sizes, and where nothing may be seen."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import published
import pytest
from published import over_heads, positions, scaled

from moa.oracle import oracle
from moa.tile import Strategy, tile
from moa.tiles import Phase
from tests.golden.systems import EXAMPLES, LAYER, kernel

Array = np.ndarray[Any, Any]
Given = dict[str, Any]
Made = tuple[Given, list[Array]]
CASES: dict[tuple[str, str], Callable[[np.random.Generator], Made]] = {}

B, H, DK, DV = 2, 3, 5, 7


def case(program: str, function: str) -> Callable[[Callable[[np.random.Generator], Made]], None]:
    """Enters inputs of a function of an example, and what it has to give."""

    def enter(f: Callable[[np.random.Generator], Made]) -> None:
        CASES[program, function] = f

    return enter


def rows(rng: np.random.Generator, n: int, m: int, *shared: int) -> Given:
    """Q, K, V of B batches and H heads, with more heads of queries that share the keys."""
    shapes = {"Q": (B, H, *shared, n, DK), "K": (B, H, m, DK), "V": (B, H, m, DV)}
    return {k: rng.standard_normal(shape) for k, shape in shapes.items()}


def shared(f: Callable[..., Array], g: Given) -> list[Array]:
    """f for each of the heads that share keys, of each group."""
    return [np.stack([over_heads(f, g["Q"][:, :, r], g["K"], g["V"]) for r in range(g["Q"].shape[2])], axis=2)]


# Scaled dot products -------------------------------------------------------------------------------------------------


@case("scaled_dot_product", "full")
def _(rng: np.random.Generator) -> Made:
    g = rows(rng, 13, 29, 2)
    return {**g, "scale": 0.3}, shared(lambda q, k, v: scaled(q, k, v, 0.3), g)


@case("scaled_dot_product", "causal")
def _(rng: np.random.Generator) -> Made:
    g, (i, j) = rows(rng, 13, 29, 2), positions(13, 29)
    want = shared(lambda q, k, v: scaled(q, k, v, 0.3, j <= i - 5), g)
    assert not want[0][..., :5, :].any()  # rows without a key
    return {**g, "scale": 0.3, "first": -5}, want


@case("scaled_dot_product", "biased")
def _(rng: np.random.Generator) -> Made:
    g, bias = rows(rng, 5, 11, 1), rng.standard_normal((H, 1, 5, 11))
    both = np.broadcast_to(bias[:, 0], (B, H, 5, 11))
    want = over_heads(lambda q, k, v, b: scaled(q, k, v, 0.3, bias=b), g["Q"][:, :, 0], g["K"], g["V"], both)
    return {**g, "bias": bias, "scale": 0.3}, [want[:, :, None]]


@case("scaled_dot_product", "masked")
def _(rng: np.random.Generator) -> Made:
    g, keep = rows(rng, 5, 11, 1), rng.random((B, 5, 11)) > 0.6
    keep[1, 2] = False
    both = np.broadcast_to(keep[:, None], (B, H, 5, 11))
    want = over_heads(lambda q, k, v, s: scaled(q, k, v, 0.3, s), g["Q"][:, :, 0], g["K"], g["V"], both)
    return {**g, "keep": keep, "scale": 0.3}, [want[:, :, None]]


@case("scaled_dot_product", "near_blocks")
def _(rng: np.random.Generator) -> Made:
    g, (i, j) = rows(rng, 17, 17, 1), positions(17, 17)
    want = shared(lambda q, k, v: scaled(q, k, v, 0.3, abs(i // 3 - j // 3) <= 1), g)
    return {**g, "scale": 0.3, "block": 3}, want


@case("flash", "flash")
def _(rng: np.random.Generator) -> Made:
    g = rows(rng, 13, 211)
    top = over_heads(lambda q, k: np.logaddexp.reduce(0.3 * q @ k.T, axis=1), g["Q"], g["K"])
    return {**g, "scale": 0.3}, [over_heads(lambda q, k, v: scaled(q, k, v, 0.3), g["Q"], g["K"], g["V"]), top]


@case("lean", "decode")
def _(rng: np.random.Generator) -> Made:
    g, lengths = rows(rng, 1, 31, 2), np.array([31, 0])
    want = shared(lambda q, k, v: scaled(q, k, v, 0.3), g)
    want[0][1] = 0
    return {**g, "lengths": lengths, "scale": 0.3}, want


@case("lean", "lean")
def _(rng: np.random.Generator) -> Made:
    """Three heads of 23, 0 and 31 keys, cut for five workers, one without work, across the heads."""
    K, V, Q = rng.standard_normal((3, 31, DK)), rng.standard_normal((3, 31, DV)), rng.standard_normal((3, 2, DK))
    lengths, cuts = np.array([23, 0, 31]), np.array([0, 4, 4, 29, 50, 54])
    want = np.array([scaled(q, k[:n], v[:n], 0.3) for q, k, v, n in zip(Q, K, V, lengths, strict=True)])
    places = {"lengths": lengths, "offset": np.cumsum(lengths) - lengths, "first": cuts[:-1], "stop": cuts[1:]}
    return {"Q": Q, "K": K, "V": V, **places, "scale": 0.3}, [want]


# Sparse --------------------------------------------------------------------------------------------------------------


@case("longformer", "window")
def _(rng: np.random.Generator) -> Made:
    g, dilation = rows(rng, 23, 23), np.array([1, 2, 5])
    heads = np.broadcast_to(dilation, (B, H))
    want = over_heads(lambda q, k, v, d: published.window(q, k, v, 0.3, 2, d, False), *g.values(), heads)
    return {**g, "dilation": dilation, "w": 2, "scale": 0.3}, [want]


@case("longformer", "causal")
def _(rng: np.random.Generator) -> Made:
    g, dilation = rows(rng, 23, 23), np.array([1, 2, 5])
    heads = np.broadcast_to(dilation, (B, H))
    want = over_heads(lambda q, k, v, d: published.window(q, k, v, 0.3, 2, d, True), *g.values(), heads)
    return {**g, "dilation": dilation, "w": 2, "scale": 0.3}, [want]


def tokens(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
    """Which tokens see everything, and which are not padding."""
    everywhere, keep = rng.random((B, n)) > 0.8, np.ones((B, n), dtype=bool)
    keep[0, -4:] = False
    return everywhere & keep, keep


@case("longformer", "longformer")
def _(rng: np.random.Generator) -> Made:
    g, (everywhere, keep) = rows(rng, 19, 19), tokens(rng, 19)
    g |= {f"{name}g": rng.standard_normal(x.shape) for name, x in g.items()}
    flags = (np.broadcast_to(x[:, None], (B, H, 19)) for x in (everywhere, keep))
    want = over_heads(lambda *a: published.longformer(*a, w=2, scale=0.3), *g.values(), *flags)
    return {**g, "everywhere": everywhere, "keep": keep, "w": 2, "scale": 0.3}, [want]


@case("longformer", "padded")
def _(rng: np.random.Generator) -> Made:
    g, (_, keep) = rows(rng, 19, 19), tokens(rng, 19)
    none = np.zeros_like(keep)
    flags = (np.broadcast_to(x[:, None], (B, H, 19)) for x in (none, keep))
    want = over_heads(lambda *a: published.longformer(*a, w=2, scale=0.3), *g.values(), *g.values(), *flags)
    return {**g, "everywhere": none, "keep": keep, "w": 2, "scale": 0.3}, [want]


def bigbird(rng: np.random.Generator) -> Made:
    """Seven blocks of three; the blocks drawn include the first one twice, and near ones."""
    g, R = rows(rng, 21, 21), rng.integers(0, 7, (H, 5, 3))
    R[0, 2] = [0, 0, 3]
    keep = tokens(rng, 21)[1]
    drawn, both = np.broadcast_to(R, (B, H, 5, 3)), np.broadcast_to(keep[:, None], (B, H, 21))
    want = over_heads(lambda *a: published.bigbird(*a, block=3, scale=0.3), *g.values(), drawn, both)
    return {**g, "R": R, "keep": keep, "block": 3, "scale": 0.3}, [want]


case("bigbird", "counted")(bigbird)
case("bigbird", "gathered")(bigbird)


@case("reformer", "buckets")
def _(rng: np.random.Generator) -> Made:
    QK, rotation = rng.standard_normal((11, DK)), rng.standard_normal((DK, 3, 2))
    QK[3] = 0  # all components are equal: the first is taken
    return {"QK": QK, "rotation": rotation}, [published.hashes(QK, rotation)]


@case("reformer", "factored_buckets")
def _(rng: np.random.Generator) -> Made:
    QK, rotation = rng.standard_normal((11, DK)), rng.standard_normal((DK, 3, 5))
    want = published.hashes(QK, rotation[..., :2]) + 4 * published.hashes(QK, rotation[..., 2:])
    return {"QK": QK, "rotation": rotation, "factor": 4}, [want]


def hashed(rng: np.random.Generator, **constants: Any) -> Given:
    arrays = {"QK": rng.standard_normal((15, DK)), "V": rng.standard_normal((15, DV))}
    return {**arrays, "hashed": rng.integers(0, 4, (3, 15)), "chunk": 5, "causal": 1, **constants}


def reformer(g: Given, unit: Callable[[Array, float], Array], **more: Any) -> list[Array]:
    parts = {k: v for k, v in g.items() if k not in ("eps", "rotation")}
    return [published.reformer(**parts, unit=unit(g["QK"], g["eps"]), **more)]


@case("reformer", "trax")
def _(rng: np.random.Generator) -> Made:
    g = hashed(rng, scale=1.0, eps=1e-6, masked=-1e9, own=-1e5)
    return g, reformer(g, published.unit_rms)


@case("reformer", "lucid")
def _(rng: np.random.Generator) -> Made:
    g = hashed(rng, scale=DK**-0.5, eps=1e-12, masked=-np.finfo("float64").max, own=-5e4)
    g["QK"][4] = 0
    return g, reformer(g, published.unit_l2)


@case("reformer", "lucid_once")
def _(rng: np.random.Generator) -> Made:
    g = hashed(rng, scale=DK**-0.5, eps=1e-12, masked=-1e9, own=-5e4) | {"causal": 0}
    return g, reformer(g, published.unit_l2, once=True)


@case("reformer", "reformer")
def _(rng: np.random.Generator) -> Made:
    g = hashed(rng, scale=1.0, eps=1e-6, masked=-1e9, own=-1e5)
    rotation = rng.standard_normal((DK, 3, 2))
    g["hashed"] = published.hashes(g["QK"], rotation)
    want = reformer(g, published.unit_rms)
    return {k: v for k, v in g.items() if k != "hashed"} | {"rotation": rotation}, want


# Linear --------------------------------------------------------------------------------------------------------------


@case("linformer", "linformer")
def _(rng: np.random.Generator) -> Made:
    g, E, F = rows(rng, 13, 29), rng.standard_normal((29, 3)), rng.standard_normal((29, 3))
    want = over_heads(lambda q, k, v: scaled(q, E.T @ k, F.T @ v, 0.3), *g.values())
    return {**g, "E": E, "F": F, "scale": 0.3}, [want]


def performer(features: str, causal: bool) -> Callable[[np.random.Generator], Made]:
    def made(rng: np.random.Generator) -> Made:
        g, W = rows(rng, 23, 23), rng.standard_normal((11, DK))
        rest = {"W": W, "c": 0.6, "eps": 1e-3} | ({"small": 1e-6} if causal else {})

        def one(q: Array, k: Array, v: Array) -> Array:
            if features == "relu":
                q, k = (published.relu_features(x, W, 0.6, 1e-3) for x in (q, k))
            else:
                q, k = (published.exponential_features(x, W, 0.6, 1e-3, keys) for x, keys in ((q, False), (k, True)))
            return published.linear(q, k, v, causal, vector=1e-6 if causal else 0.0)

        return {**g, **rest}, [over_heads(one, *g.values())]

    return made


for features in ("softmax", "relu"):
    case("performer", f"{features}_features")(performer(features, False))
    case("performer", f"causal_{features}_features")(performer(features, True))


def linear_attention(causal: bool) -> Callable[[np.random.Generator], Made]:
    def made(rng: np.random.Generator) -> Made:
        g, lengths = rows(rng, 23, 23), np.array([23, 9])
        keep = np.broadcast_to(np.arange(23) < lengths[:, None, None], (B, H, 23))

        def one(q: Array, k: Array, v: Array, keep: Array) -> Array:
            kept = published.elu1(k) * keep[:, None]
            return published.linear(np.sqrt(0.3) * published.elu1(q), np.sqrt(0.3) * kept, v, causal, scalar=1e-6)

        return {**g, "lengths": lengths, "scale": 0.3, "eps": 1e-6}, [over_heads(one, *g.values(), keep)]

    return made


case("linear_attention", "full")(linear_attention(False))
case("linear_attention", "causal")(linear_attention(True))


# Recurrences ---------------------------------------------------------------------------------------------------------


def rule(gates: bool, delta: bool) -> Callable[[np.random.Generator], Made]:
    def made(rng: np.random.Generator) -> Made:
        g = rows(rng, 19, 19, 2) | {"past": rng.standard_normal((B, H, DK, DV))}
        extra = {"G": -rng.random((B, H, 19, DK))} if gates else {}
        extra |= {"beta": rng.random((B, H, 19))} if delta else {}
        out, last = np.zeros((B, H, 2, 19, DV)), np.zeros((B, H, DK, DV))
        for at in np.ndindex(B, H):
            mine = {k: v[at] for k, v in extra.items()}
            out[at], last[at] = published.recurrence(**{k: v[at] for k, v in g.items()}, scale=0.3, delta=delta, **mine)
        return {**g, **extra, "scale": 0.3}, [out, last]

    return made


case("gated_linear", "linear")(rule(gates=False, delta=False))
case("gated_linear", "gated")(rule(gates=True, delta=False))
case("gated_linear", "delta")(rule(gates=False, delta=True))
case("gated_linear", "gated_delta")(rule(gates=True, delta=True))


@case("retention", "retention")
def _(rng: np.random.Generator) -> Made:
    g, decay = rows(rng, 19, 19), -rng.random(H)
    want = over_heads(
        lambda q, k, v, d: published.retention(q, k, v, d, 0.3), *g.values(), np.broadcast_to(decay, (B, H))
    )
    return {**g, "log_decay": decay, "scale": 0.3}, [want]


@case("aaren", "parallel")
def _(rng: np.random.Generator) -> Made:
    g, q = rows(rng, 19, 19), rng.standard_normal((H, DK))
    heads = np.broadcast_to(q, (B, H, DK))
    want = over_heads(lambda q, k, v: published.prefixes(0.3 * k @ q, v), heads, g["K"], g["V"])
    return {"q": q, "K": g["K"], "V": g["V"], "scale": 0.3}, [want]


def aaren_states(q: Array, K: Array, V: Array) -> list[Array]:
    s = 0.3 * np.einsum("hd,bhnd->bhn", q, K)
    m = s.max(axis=-1)
    e = np.exp(s - m[..., None])
    return [m, e.sum(axis=-1), np.einsum("bhn,bhnd->bhd", e, V)]


@case("aaren", "recurrent")
def _(rng: np.random.Generator) -> Made:
    g, q = rows(rng, 19, 19), rng.standard_normal((H, DK))
    start = {"m0": np.full((B, H), -np.inf), "l0": np.zeros((B, H)), "a0": np.zeros((B, H, DV))}
    return {"q": q, "K": g["K"], "V": g["V"], **start, "scale": 0.3}, aaren_states(q, g["K"], g["V"])


@case("aaren", "step")
def _(rng: np.random.Generator) -> Made:
    g, q = rows(rng, 19, 19), rng.standard_normal((H, DK))
    K, V = g["K"], g["V"]
    state = dict(zip("mla", aaren_states(q, K[:, :, :-1], V[:, :, :-1]), strict=True))
    return {"q": q, "k": K[:, :, -1], "v": V[:, :, -1], **state, "scale": 0.3}, aaren_states(q, K, V)


GENERATIVE: dict[str, Callable[[Array], Array]] = {
    "minima": lambda X: np.minimum(X, published.previous(X)),
    "maxima": lambda X: np.maximum(X, published.previous(X)),
    "means": lambda X: (X + published.previous(X)) / 2,
    "minima_compared": lambda X: np.minimum(np.minimum(X, published.previous(X)), published.context(X)),
    "minima_added": lambda X: np.minimum(X, published.previous(X)) + published.context(X),
    "maxima_compared": lambda X: np.maximum(np.maximum(X, published.previous(X)), published.context(X)),
    "maxima_added": lambda X: np.maximum(X, published.previous(X)) + published.context(X),
}


def generative(f: Callable[[Array], Array]) -> Callable[[np.random.Generator], Made]:
    def made(rng: np.random.Generator) -> Made:
        X = rng.standard_normal((17, DV))
        return {"X": X}, [f(X)]

    return made


for name, function in GENERATIVE.items():
    case("generative", name)(generative(function))


# Whole models --------------------------------------------------------------------------------------------------------


def weights(rng: np.random.Generator, D: int, wide: int, length: int) -> Given:
    """One decoder layer, with rotary tables for the first four components of a head."""
    maps = {"qkv": (3 * D, D), "dense": (D, D), "mlp1": (wide, D), "mlp2": (D, wide)}
    shapes = {f"{k}_w": shape for k, shape in maps.items()} | {f"{k}_b": shape[:1] for k, shape in maps.items()}
    g = {name: 0.4 * rng.standard_normal(shapes.get(name, (D,))) for name in LAYER}
    g["mlp1_b"] *= 20  # the error function is at its limits too
    angles = np.arange(length)[:, None] * np.array([1, 0.1, 1, 0.1])
    return {**g, "cos": np.cos(angles), "sin": np.sin(angles)}


@case("block_transformer", "layer")
def _(rng: np.random.Generator) -> Made:
    g, X = weights(rng, 14, 9, 11), 3 * rng.standard_normal((B, 11, 14))
    return {**g, "X": X, "heads": 2, "eps": 1e-5}, [np.array([published.layer(x, g, 2, 1e-5) for x in X])]


@case("block_transformer", "block_decoder")
def _(rng: np.random.Generator) -> Made:
    g, ids, embedding = weights(rng, 12, 9, 7), rng.integers(0, 13, (B, 21)), rng.standard_normal((13, 4))
    want = np.array([published.layer(embedding[row].reshape(7, 12), g, 2, 1e-5) for row in ids])
    return {**g, "ids": ids, "embedding": embedding, "block": 3, "heads": 2, "eps": 1e-5}, [want]


@case("block_transformer", "token_decoder")
def _(rng: np.random.Generator) -> Made:
    g, ids, z = weights(rng, 12, 9, 4), rng.integers(0, 13, (B, 21)), rng.standard_normal((B, 7, 12))
    g |= {"token_embedding": rng.standard_normal((13, 12)), "out_w": rng.standard_normal((13, 12))}
    g |= {"expand_w": rng.standard_normal((24, 12)), "expand_b": rng.standard_normal(24)}
    want = np.array([published.token_decoder(context, row, g, 3, 2, 1e-5) for context, row in zip(z, ids, strict=True)])
    return {**g, "ids": ids, "z": z, "block": 3, "heads": 2, "eps": 1e-5}, [want]


def gates(rng: np.random.Generator) -> Given:
    g = {k: v[0] for k, v in rows(rng, 19, 19).items()}
    return {**g, "G": -rng.random((H, 19, DK))}


def gated(Q: Array, K: Array, V: Array, G: Array, past: Array) -> Array:
    heads = zip(Q, K, V, G, past, strict=True)
    return np.array([published.recurrence(q[None], k, v, p, DK**-0.5, G=g)[0][0] for q, k, v, g, p in heads])


@case("small_e", "gated")
def _(rng: np.random.Generator) -> Made:
    g = gates(rng) | {"past": rng.standard_normal((H, DK, DV))}
    return g, [gated(**g)]


@case("small_e", "parallel")
def _(rng: np.random.Generator) -> Made:
    g = gates(rng)
    return g, [gated(**g, past=np.zeros((H, DK, DV)))]


@case("small_e", "layer")
def _(rng: np.random.Generator) -> Made:
    shapes = {"wq": (H, 11, DK), "wk": (H, 11, DK), "wv": (H, 11, DV), "wg": (H, 11, DV), "low": (11, 2)}
    shapes |= {"up": (H, 2, DK), "bias": (H, DK), "scale": (DV,), "mix": (H, DV, 11), "past": (H, DK, DV)}
    g = {name: rng.standard_normal(shape) for name, shape in {"x": (19, 11), **shapes}.items()}
    x, gate = g["x"], g["x"] @ g["low"] @ g["up"] + g["bias"][:, None]
    o = gated(x @ g["wq"], x @ g["wk"], x @ g["wv"], np.log(1 / (1 + np.exp(-gate))) / 16, g["past"])
    y = o / np.sqrt((o * o).mean(axis=-1, keepdims=True) + 1e-5) * g["scale"]
    swish = (x @ g["wg"]) / (1 + np.exp(-(x @ g["wg"])))
    return g, [np.asarray(((y * swish) @ g["mix"]).sum(axis=0))]


@case("small_e", "position_aware")
def _(rng: np.random.Generator) -> Made:
    shapes = {"Q": (B, 13, DK), "K": (B, 11, DK), "V": (B, 11, DV), "P": (11, 4), "inner": (4, 4)}
    g = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    keep = rng.random((B, 11)) > 0.3
    batches = zip(g["Q"], g["K"], g["V"], keep, strict=True)
    want = np.array([published.position_aware(q, k, v, g["P"], g["inner"], s, 0.3, 0.5) for q, k, v, s in batches])
    return {**g, "keep": keep, "content": 0.3, "position": 0.5}, [want]


# Tests ---------------------------------------------------------------------------------------------------------------


def test_every_function_has_a_case() -> None:
    """A function is one that has shapes in its parameters: the others are parts of these."""
    found = set()
    for path in EXAMPLES.glob("*.moa"):
        heads = re.findall(r"(?m)^def (\w+)\(([^:]*?(?:: \w+[^:]*?)*)\):$", path.read_text(encoding="utf-8"))
        found |= {(path.stem, name) for name, parameters in heads if "[" in parameters}
    assert found == set(CASES)


@pytest.mark.parametrize(("program", "function"), sorted(CASES))
def test_the_oracle_is_the_published_mathematics(program: str, function: str) -> None:
    given, want = CASES[program, function](np.random.default_rng(7))
    leading = 2 if kernel(program, function)._lead else 0
    with np.errstate(all="ignore"):
        agree(oracle(kernel(program, function)._derive(leading).program, given), want)


KERNELS = sorted(CASES)


@pytest.mark.parametrize(("program", "function"), KERNELS)
def test_the_kernel_is_the_published_mathematics(program: str, function: str) -> None:
    given, want = CASES[program, function](np.random.default_rng(8))
    found = kernel(program, function)(**given)
    agree(found if isinstance(found, tuple) else (found,), want)


def agree(found: tuple[Array, ...], want: list[Array]) -> None:
    for f, w in zip(found, want, strict=True):
        assert f.shape == w.shape
        np.testing.assert_allclose(f, w, rtol=0, atol=1e-12 * max(1.0, float(np.abs(w).max(initial=0))))


def made(program: str, function: str) -> tuple[Given, Array]:
    given, want = CASES[program, function](np.random.default_rng(9))
    return given, want[0]


def test_a_row_without_keys_is_zero() -> None:
    given, want = made("scaled_dot_product", "biased")
    given["bias"][1, 0, 3] = -np.inf
    want[:, 1, 0, 3] = 0
    agree((kernel("scaled_dot_product", "biased")(**given),), [want])
    nothing = {**given, "K": given["K"][:, :, :0], "V": given["V"][:, :, :0], "bias": given["bias"][..., :0]}
    assert not kernel("scaled_dot_product", "biased")(**nothing).any()


def test_nothing_but_a_nan_that_is_seen_reaches_a_row() -> None:
    given, want = made("generative", "minima_compared")
    given["X"][5, 2] = np.nan
    found = kernel("generative", "minima_compared")(**given)
    reached = np.isnan(found)
    assert reached[5:, 2].all() and not reached[:5].any() and not np.delete(reached, 2, axis=1).any()
    np.testing.assert_allclose(found[:5], want[:5], rtol=0, atol=1e-12)


def test_a_nan_reaches_the_rows_that_see_it() -> None:
    given, want = made("lean", "decode")
    given["K"][0, 1, 30] = np.nan
    found = kernel("lean", "decode")(**given)
    assert np.isnan(found[0, 1]).all()
    agree((found[:, [0, 2]],), [want[:, [0, 2]]])


def test_any_cut_among_workers_gives_the_same() -> None:
    given, want = made("lean", "lean")
    rng = np.random.default_rng(10)
    for _ in range(20):
        cuts = np.sort(np.concatenate([[0, 54], rng.integers(0, 55, 4)]))
        agree((kernel("lean", "lean")(**{**given, "first": cuts[:-1], "stop": cuts[1:]}),), [want])


def test_tokens_one_by_one_are_the_recurrence() -> None:
    given, _ = made("aaren", "recurrent")
    state = [given[name] for name in ("m0", "l0", "a0")]
    for t in range(given["K"].shape[2]):
        token = {"q": given["q"], "k": given["K"][:, :, t], "v": given["V"][:, :, t], "scale": given["scale"]}
        state = kernel("aaren", "step")(**token, **dict(zip("mla", state, strict=True)))
    agree(tuple(state), list(kernel("aaren", "recurrent")(**given)))


def test_two_halves_joined_by_the_state_are_the_whole() -> None:
    given, want = made("gated_linear", "gated_delta")
    run, state, parts = kernel("gated_linear", "gated_delta"), given["past"], []
    for part in (slice(0, 8), slice(8, 19)):
        cut = {name: given[name][:, :, part] for name in ("K", "V", "G", "beta")} | {"Q": given["Q"][..., part, :]}
        out, state = run(**{**given, **cut, "past": state})
        parts.append(out)
    agree((np.concatenate(parts, axis=-2),), [want])


def test_one_pass() -> None:
    """The loop of FlashAttention, and that of others with one softmax over the keys."""
    assert kernel("flash", "flash").passes == (3, 1)
    for name in (("longformer", "longformer"), ("bigbird", "counted"), ("lean", "decode"), ("aaren", "parallel")):
        assert kernel(*name).passes == (3, 1)


def phases_of_exchanged_sums() -> tuple[Phase, ...]:
    derivation = kernel("performer", "softmax_features")._derive(2)
    form = next(f for f in derivation.forms if f.name.startswith("open"))
    return tile(form.streamed, Strategy(16, 64, 192)).phases


def extents(phase: Phase) -> set[str]:
    return {str(a.extent) for a in phase.axes}


def test_what_all_rows_share_is_made_once() -> None:
    """The sums over keys of exchanged products are arrays: no work item of rows goes over the keys again."""
    phases = phases_of_exchanged_sums()
    of_rows = [p.name for p in phases if "n" in {str(p.axis(v).extent) for v in p.items}]
    over_keys = [p.name for p in phases if "m" in extents(p)]
    assert of_rows and over_keys and not set(of_rows) & set(over_keys)


def test_heads_are_no_rows_of_tiles() -> None:
    """Nothing is shared from head to head, and states are matrices: a work item is one head."""
    states = [p for p in phases_of_exchanged_sums() if extents(p) >= {"m", "r", "dv"} and "r" not in p.items]
    assert states and all(a.step <= 1 for p in states for a in p.axes if a.role == "item" and str(a.extent) != "r")
