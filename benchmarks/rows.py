"""The attention systems at realistic sizes: the function of an example, inputs, and the peer in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "systems"
TAU = 0.125  # 64 ** -0.5
RNG = np.random.Generator
Given = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    n       rows of the sequence in the table
    small   so few that tests are quick; both are multiples of the chunks and blocks of the peers
    given   the arrays and scalars for n rows
    peer    the function of benchmarks/in_torch.py that computes the same
    """

    title: str
    program: str
    function: str
    n: int
    given: Callable[[RNG, int], Given]
    peer: str
    small: int = 128

    @property
    def path(self) -> Path:
        return EXAMPLES / f"{self.program}.moa"

    def lines(self) -> int:
        """The lines of the function and of those it needs, without blank ones and comments."""
        functions: dict[str, list[str]] = {}
        for line in self.path.read_text(encoding="utf-8").splitlines():
            if line.startswith("def "):
                found = functions.setdefault(line[4 : line.index("(")], [])
            if line.strip() and not line.startswith("#"):
                found.append(line)
        needed = [self.function]
        for name in needed:
            words = "".join(c if c.isalnum() or c == "_" else " " for c in "\n".join(functions[name])).split()
            needed += [f for f in functions if f in words and f not in needed]
        return sum(len(functions[f]) for f in needed)


def normal(rng: RNG, **shapes: tuple[int, ...]) -> Given:
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def heads(rng: RNG, n: int, h: int = 8, d: int = 64, m: int = 0, r: int = 0) -> Given:
    """Q, K, V of one batch; with r, as many heads of queries to one of keys."""
    q = (1, h, r, n, d) if r else (1, h, n, d)
    return normal(rng, Q=q, K=(1, h, m or n, d), V=(1, h, m or n, d))


# Scaled dot products -------------------------------------------------------------------------------------------------


def dot_products(rng: RNG, n: int) -> Given:
    return {**heads(rng, n, r=1), "scale": TAU}


def prefixes(rng: RNG, n: int) -> Given:
    return {**dot_products(rng, n), "first": 0}


def flash(rng: RNG, n: int) -> Given:
    return {**heads(rng, n), "scale": TAU}


def decode(rng: RNG, m: int) -> Given:
    return {**heads(rng, 1, m=m, r=4, d=128), "lengths": np.array([m]), "scale": 128**-0.5}


def lean(rng: RNG, m: int) -> Given:
    """Eight heads of unequal lengths, laid end to end and cut for five workers, across heads."""
    lengths = (m * np.array([8, 1, 4, 8, 2, 8, 7, 3])) // 8
    stop = np.cumsum(lengths)
    cuts = (stop[-1] * np.arange(6)) // 5
    places = {"lengths": lengths, "offset": stop - lengths, "first": cuts[:-1], "stop": cuts[1:]}
    return {**normal(rng, Q=(8, 4, 128), K=(8, m, 128), V=(8, m, 128)), **places, "scale": 128**-0.5}


# Windows, blocks, hashes ---------------------------------------------------------------------------------------------


def window(rng: RNG, n: int) -> Given:
    return {**heads(rng, n), "dilation": np.ones(8, np.int64), "w": min(256, n // 4), "scale": TAU}


def dilated(rng: RNG, n: int) -> Given:
    return {**heads(rng, n), "dilation": np.array([1, 1, 2, 2, 4, 4, 8, 8]), "w": min(128, n // 8), "scale": TAU}


def longformer(rng: RNG, n: int) -> Given:
    """32 tokens in 4096 that see everything, 96 of padding."""
    everywhere, keep, padding = np.zeros((1, n), bool), np.ones((1, n), bool), n * 3 // 128
    everywhere[0, rng.permutation(n - padding)[: n // 128]] = True
    keep[0, n - padding :] = False
    local, other = heads(rng, n, 4), {f"{k}g": x for k, x in heads(rng, n, 4).items()}
    return {**local, **other, "everywhere": everywhere, "keep": keep, "w": min(256, n // 4), "scale": TAU}


def bigbird(rng: RNG, n: int) -> Given:
    """Blocks of 64 (of n / 8 where there are few rows), three drawn for each."""
    block = min(64, n // 8)
    blocks = n // block
    R = np.stack([rng.permutation(blocks)[:3] for _ in range(4 * (blocks - 2))]).reshape(4, blocks - 2, 3)
    return {**heads(rng, n, 4), "R": R.astype(np.int64), "keep": np.ones((1, n), bool), "block": block, "scale": TAU}


def trax(rng: RNG, n: int) -> Given:
    """Four rounds; hashes, sorting and the attention in one call."""
    chunk = min(64, n // 4)
    constants = {"chunk": chunk, "causal": 0, "scale": 1.0, "eps": 1e-6, "masked": -1e9, "own": -1e5}
    return {**normal(rng, QK=(n, 64), V=(n, 64), rotation=(64, 4, n // chunk // 2)), **constants}


def lucid(rng: RNG, n: int) -> Given:
    """Four rounds, causal, the other published scaling, with hashes given."""
    chunk = min(64, n // 4)
    constants = {"chunk": chunk, "causal": 1, "scale": TAU, "eps": 1e-12, "masked": -1e9, "own": -5e4}
    return {**normal(rng, QK=(n, 64), V=(n, 64)), "hashed": rng.integers(0, n // chunk, (4, n)), **constants}


# Linear --------------------------------------------------------------------------------------------------------------


def linformer(rng: RNG, n: int) -> Given:
    return {**heads(rng, n), **normal(rng, E=(n, 256), F=(n, 256)), "scale": TAU / n**0.5}


def features(rng: RNG, n: int) -> Given:
    return {**heads(rng, n), **normal(rng, W=(256, 64)), "c": 64**-0.25, "eps": 1e-3}


def causal_features(rng: RNG, n: int) -> Given:
    return {**features(rng, n), "small": 1e-6}


def linear(rng: RNG, n: int) -> Given:
    return {**heads(rng, n), "lengths": np.array([n]), "scale": 1.0, "eps": 1e-6}


# Recurrences ---------------------------------------------------------------------------------------------------------


def rule(gates: bool, delta: bool) -> Callable[[RNG, int], Given]:
    def given(rng: RNG, n: int) -> Given:
        g = {**heads(rng, n, r=1), **normal(rng, past=(1, 8, 64, 64)), "scale": TAU}
        if delta:
            g["K"] /= np.linalg.norm(g["K"], axis=-1, keepdims=True)
        extra = {"G": -0.1 * rng.random((1, 8, n, 64), dtype=np.float32)} if gates else {}
        extra |= {"beta": rng.random((1, 8, n), dtype=np.float32)} if delta else {}
        return g | extra

    return given


def retention(rng: RNG, n: int) -> Given:
    return {**heads(rng, n), "log_decay": np.log(1 - 2.0 ** -np.arange(5, 13)).astype(np.float32), "scale": TAU}


def aaren(rng: RNG, n: int) -> Given:
    return {**normal(rng, q=(8, 64), K=(1, 8, n, 64), V=(1, 8, n, 64)), "scale": TAU}


def aaren_step(rng: RNG, b: int) -> Given:
    shapes = {"q": (8, 64), "k": (b, 8, 64), "v": (b, 8, 64), "m": (b, 8), "a": (b, 8, 64)}
    return {**normal(rng, **shapes), "l": 1 + rng.random((b, 8), dtype=np.float32), "scale": TAU}


def tokens(rng: RNG, n: int) -> Given:
    return normal(rng, X=(n, 768))


# Whole models --------------------------------------------------------------------------------------------------------


def weights(rng: RNG, D: int, length: int) -> Given:
    """One decoder layer of 8 heads, with rotary tables for the first 16 components of a head."""
    maps = {"qkv": (3 * D, D), "dense": (D, D), "mlp1": (4 * D, D), "mlp2": (D, 4 * D)}
    shapes = {f"{k}_w": s for k, s in maps.items()} | {f"{k}_b": s[:1] for k, s in maps.items()}
    shapes |= {f"{k}_{kind}": (D,) for k in ("ln1", "ln2", "ln3") for kind in "wb"}
    g = {k: (x / np.float32(np.sqrt(D)) if x.ndim == 2 else x) for k, x in normal(rng, **shapes).items()}
    angle = np.arange(length)[:, None] * 10000.0 ** (-np.arange(0, 16, 2) / 16)
    both = np.concatenate([angle, angle], axis=1)
    return {
        **g,
        "cos": np.cos(both).astype(np.float32),
        "sin": np.sin(both).astype(np.float32),
        "heads": 8,
        "eps": 1e-5,
    }


def block_decoder(rng: RNG, n: int) -> Given:
    ids = rng.integers(0, 4096, (1, n))
    return {"ids": ids, **normal(rng, embedding=(4096, 128)), **weights(rng, 512, n // 4), "block": 4}


def token_decoder(rng: RNG, n: int) -> Given:
    D, ids = 512, rng.integers(0, 4096, (1, n))
    shapes = {"z": (1, n // 4, D), "token_embedding": (4096, D), "out_w": (4096, D)}
    arrays = normal(rng, **shapes, expand_w=(2 * D, D), expand_b=(2 * D,))
    return {**arrays, "ids": ids, **weights(rng, D, 5), "block": 4}


def gated_layer(rng: RNG, n: int) -> Given:
    D, h, dk, dv, r = 512, 4, 128, 256, 16
    shapes = {"x": (n, D), "wq": (h, D, dk), "wk": (h, D, dk), "wv": (h, D, dv), "wg": (h, D, dv), "low": (D, r)}
    shapes |= {"up": (h, r, dk), "bias": (h, dk), "scale": (dv,), "mix": (h, dv, D), "past": (h, dk, dv)}
    g = normal(rng, **shapes)
    return {k: x / np.float32(np.sqrt(D)) if k.startswith(("w", "low", "mix")) else x for k, x in g.items()}


def position_aware(rng: RNG, n: int) -> Given:
    m = n // 4
    keep = np.arange(m) < np.array([m, m * 25 // 32])[:, None]
    arrays = normal(rng, Q=(2, n, 256), K=(2, m, 256), V=(2, m, 256), P=(m, 64), inner=(64, 64))
    return {**arrays, "keep": keep, "content": 256**-0.5, "position": TAU}


ROWS = (
    Row("scaled dot product", "scaled_dot_product", "full", 2048, dot_products, "full"),
    Row("scaled dot product: causal", "scaled_dot_product", "causal", 2048, prefixes, "causal"),
    Row("FlashAttention: with log-sum-exp", "flash", "flash", 2048, flash, "flash"),
    Row("Longformer: window", "longformer", "window", 4096, window, "dilated"),
    Row("Longformer: dilated causal", "longformer", "causal", 4096, dilated, "dilated_causal"),
    Row("Longformer: global tokens", "longformer", "longformer", 4096, longformer, "longformer"),
    Row("BigBird: gathered", "bigbird", "gathered", 4096, bigbird, "bigbird"),
    Row("BigBird: counted", "bigbird", "counted", 4096, bigbird, "bigbird"),
    Row("Reformer: 4 rounds hashing", "reformer", "reformer", 4096, trax, "reformer"),
    Row("Reformer: 4 rounds causal", "reformer", "lucid", 4096, lucid, "reformer_lucid"),
    Row("Reformer: pairs once", "reformer", "lucid_once", 4096, lucid, "reformer_once"),
    Row("Linformer", "linformer", "linformer", 4096, linformer, "linformer", 512),
    Row("Performer: softmax features", "performer", "softmax_features", 4096, features, "performer"),
    Row("Performer: ReLU features", "performer", "relu_features", 4096, features, "performer_relu"),
    Row("Performer: softmax causal", "performer", "causal_softmax_features", 2048, causal_features, "performer_causal"),
    Row("Performer: ReLU causal", "performer", "causal_relu_features", 2048, causal_features, "performer_causal_relu"),
    Row("linear attention", "linear_attention", "full", 4096, linear, "linear_full"),
    Row("linear attention: causal", "linear_attention", "causal", 4096, linear, "linear_causal"),
    Row("retention", "retention", "retention", 2048, retention, "retention"),
    Row("generative function: minima", "generative", "minima", 8192, tokens, "minima"),
    Row("generative function: maxima", "generative", "maxima", 8192, tokens, "maxima"),
    Row("generative function: means", "generative", "means", 8192, tokens, "means"),
    Row("generative: context compared", "generative", "minima_compared", 8192, tokens, "minima_compared"),
    Row("generative: context added", "generative", "minima_added", 8192, tokens, "minima_added"),
    Row("LeanAttention: one token", "lean", "decode", 16384, decode, "decode"),
    Row("LeanAttention: unequal cuts", "lean", "lean", 4096, lean, "lean"),
    Row("Aaren: all prefixes", "aaren", "parallel", 4096, aaren, "aaren"),
    Row("Aaren: one token", "aaren", "step", 16, aaren_step, "aaren_step", 2),
    Row("Block Transformer: blocks", "block_transformer", "block_decoder", 2048, block_decoder, "block_decoder"),
    Row("Block Transformer: tokens", "block_transformer", "token_decoder", 1024, token_decoder, "token_decoder", 16),
    Row("Small-E and Lina: gated layer", "small_e", "layer", 1024, gated_layer, "gated_layer"),
    Row("Lina: position-aware", "small_e", "position_aware", 1024, position_aware, "position_aware"),
    Row("ONNX rule: linear", "gated_linear", "linear", 2048, rule(False, False), "linear_rule"),
    Row("ONNX rule: gated", "gated_linear", "gated", 2048, rule(True, False), "gated_rule"),
    Row("ONNX rule: delta", "gated_linear", "delta", 2048, rule(False, True), "delta_rule"),
    Row("ONNX rule: gated delta", "gated_linear", "gated_delta", 2048, rule(True, True), "gated_delta_rule"),
)


def found(words: str) -> Iterator[Row]:
    """The rows whose titles hold one of the words, which commas separate; all of them for no word."""
    for row in ROWS:
        if any(w.strip().lower() in row.title.lower() for w in words.split(",")):
            yield row
