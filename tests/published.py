"""The published mathematics of the example systems, written out in NumPy float64 row by row.

Heads and batches are left out where a system is the same function of each: `over_heads` goes through them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import erf
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def attend(s: Array, V: Array) -> Array:
    """One row: the weights exp(s) of the keys that may be seen (s > -inf), normalised; 0 where there is none."""
    if not np.isfinite(s).any():
        return np.zeros(V.shape[1]) if not np.isnan(s).any() else np.full(V.shape[1], np.nan)
    p = np.exp(s - s.max())
    p = np.where(s == -np.inf, 0, p)
    return np.asarray((p / p.sum()) @ V)


def rows(S: Array, V: Array) -> Array:
    return np.array([attend(s, V) for s in S]).reshape(len(S), V.shape[1])


def over_heads(f: Callable[..., Array], *arrays: Array) -> Array:
    """f for each pair of the two leading axes, which all arrays have."""
    frame = arrays[0].shape[:2]
    cells = [f(*(a[at] for a in arrays)) for at in np.ndindex(frame)]
    return np.stack(cells).reshape(*frame, *cells[0].shape)


# Scaled dot products -------------------------------------------------------------------------------------------------


def scaled(Q: Array, K: Array, V: Array, scale: float, seen: Array | None = None, bias: Array | float = 0.0) -> Array:
    S = scale * Q @ K.T + bias
    return rows(S if seen is None else np.where(seen, S, -np.inf), V)


def positions(n: int, m: int) -> tuple[Array, Array]:
    return np.arange(n)[:, None], np.arange(m)


def window(Q: Array, K: Array, V: Array, scale: float, w: int, d: int, causal: bool) -> Array:
    i, j = positions(len(Q), len(K))
    seen = (abs(i - j) <= w * d) & ((i - j) % d == 0)
    return scaled(Q, K, V, scale, seen & (j <= i) if causal else seen)


def longformer(
    Q: Array, K: Array, V: Array, Qg: Array, Kg: Array, Vg: Array, everywhere: Array, keep: Array, w: int, scale: float
) -> Array:
    i, j = positions(len(Q), len(K))
    out = scaled(Q, K, V, scale, ((abs(i - j) <= w) | everywhere) & keep)
    out[~keep] = 0
    whole = scaled(Qg, Kg, Vg, scale, np.broadcast_to(keep, (len(Q), len(K))))
    return np.where(everywhere[:, None], whole, out)


def bigbird(Q: Array, K: Array, V: Array, R: Array, keep: Array, block: int, scale: float) -> Array:
    """The list of blocks of each block of rows, its keys laid end to end: what stands there twice counts twice."""
    last = len(Q) // block - 1
    out = np.zeros((len(Q), V.shape[1]))
    for x in range(last + 1):
        fixed = {0, x - 1, x, x + 1, last} & set(range(last + 1))
        listed = list(range(last + 1)) if x in (0, last) else [*sorted(fixed), *R[x - 1]]
        at = np.concatenate([np.arange(y * block, (y + 1) * block) for y in listed])
        mine = slice(x * block, (x + 1) * block)
        out[mine] = scaled(Q[mine], K[at], V[at], scale, bias=np.where(keep[at], 0.0, -10000.0))
    return np.where(keep[:, None], out, 0)


def hashes(x: Array, rotation: Array) -> Array:
    """[rounds, n] from rotation [d, rounds, f]: the first largest of x . rotation and its negative."""
    u = np.einsum("nd,drf->rnf", x, rotation)
    return np.argmax(np.concatenate([u, -u], axis=-1), axis=-1)


def reformer(
    QK: Array, V: Array, hashed: Array, unit: Array, chunk: int, causal: int, scale: float, masked: float, own: float,
    once: bool = False,
) -> Array:  # fmt: skip
    rounds, n = hashed.shape
    order = [(r, t) for r in range(rounds) for t in np.argsort(hashed[r], kind="stable")]
    count = len(order) // chunk
    members = [[t for _, t in order[c * chunk : (c + 1) * chunk]] for c in range(count)]
    home = {entry: k // chunk for k, entry in enumerate(order)}
    L, O = np.zeros((rounds, n)), np.zeros((rounds, n, V.shape[1]))
    for r, i in order:
        js = np.array(members[home[r, i] - 1] + members[home[r, i]])
        s = scale * unit[js] @ QK[i]
        if causal:
            s = np.where(js > i, masked, s)
        s = np.where(js == i, own, s)
        if once:
            times = [sum((home[q, i] - home[q, j]) % count in (0, 1) for q in range(rounds)) for j in js]
            s = s - np.log(np.array(times) + 1e-9)
        L[r, i] = s.max() + np.log(np.exp(s - s.max()).sum())
        O[r, i] = np.exp(s - L[r, i]) @ V[js]
    w = np.exp(L - L.max(axis=0))
    return np.asarray((w[..., None] * O).sum(axis=0) / w.sum(axis=0)[:, None])


def unit_rms(x: Array, eps: float) -> Array:
    return np.asarray(x / np.sqrt((x * x).sum(-1, keepdims=True) + x.shape[-1] * eps))


def unit_l2(x: Array, eps: float) -> Array:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), eps))


# Linear --------------------------------------------------------------------------------------------------------------


def linear(q: Array, k: Array, V: Array, causal: bool, scalar: float = 0.0, vector: float = 0.0) -> Array:
    """q (k^T V) / (q . (sum k + vector) + scalar): over all keys, or for each row over those up to it."""
    out = np.zeros((len(q), V.shape[1]))
    for i in range(len(q)):
        ks, vs = (k[: i + 1], V[: i + 1]) if causal else (k, V)
        out[i] = q[i] @ (ks.T @ vs) / (q[i] @ (ks.sum(axis=0) + vector) + scalar)
    return out


def elu1(x: Array) -> Array:
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def exponential_features(x: Array, W: Array, c: float, eps: float, keys: bool) -> Array:
    u = c * x @ W.T
    s = u.max() if keys else u.max(axis=1, keepdims=True)
    return np.asarray((np.exp(u - c * c * (x * x).sum(1, keepdims=True) / 2 - s) + eps) / np.sqrt(len(W)))


def relu_features(x: Array, W: Array, c: float, eps: float) -> Array:
    return np.maximum(c * x @ W.T, 0) + eps


# Recurrences ---------------------------------------------------------------------------------------------------------


def states(
    K: Array, V: Array, past: Array, G: Array | None = None, beta: Array | None = None, delta: bool = False
) -> Iterator[Array]:
    """S after each row: decayed by exp(G), then k v^T is added, or k (beta (v - k^T S))^T."""
    S = past
    for t in range(len(K)):
        if G is not None:
            S = np.exp(G[t])[:, None] * S
        v = beta[t] * (V[t] - K[t] @ S) if delta and beta is not None else V[t]
        S = S + np.outer(K[t], v)
        yield S


def recurrence(Q: Array, K: Array, V: Array, past: Array, scale: float, **rule: Any) -> tuple[Array, Array]:
    """The rows, and the last state; Q [r, n, dk] are the heads that share one state."""
    out, S = np.zeros((*Q.shape[:2], V.shape[1])), past
    for t, S in enumerate(states(K, V, past, **rule)):
        out[:, t] = scale * Q[:, t] @ S
    return out, S


def retention(Q: Array, K: Array, V: Array, g: float, scale: float) -> Array:
    i, j = positions(len(Q), len(K))
    return np.asarray(np.where(j <= i, scale * Q @ K.T * np.exp(np.minimum(i - j, i) * g * (j <= i)), 0) @ V)


def prefixes(s: Array, V: Array) -> Array:
    return np.array([attend(s[: t + 1], V[: t + 1]) for t in range(len(s))]).reshape(len(s), V.shape[1])


def previous(X: Array) -> Array:
    return np.concatenate([X[:1], X[:-1]])


def context(X: Array) -> Array:
    return np.array([X[: t + 1].mean(axis=0) for t in range(len(X))]).reshape(X.shape)


# Whole models --------------------------------------------------------------------------------------------------------


def norm(x: Array, w: Array, b: Array, eps: float) -> Array:
    c = x - x.mean(axis=-1, keepdims=True)
    return np.asarray(c / np.sqrt((c * c).mean(axis=-1, keepdims=True) + eps) * w + b)


def gelu(x: Array) -> Array:
    return np.vectorize(lambda v: v * (1 + erf(v / 2**0.5)) / 2)(x) if x.size else x


def rotary(x: Array, c: Array, s: Array) -> Array:
    r = c.shape[-1]
    turned = np.concatenate([-x[:, r // 2 : r], x[:, : r // 2]], axis=1)
    return np.concatenate([x[:, :r] * c + turned * s, x[:, r:]], axis=1)


def layer(X: Array, p: dict[str, Array], heads: int, eps: float) -> Array:
    """A GPT-NeoX layer on [n, D], and the norm behind it."""
    n, D = X.shape
    d = D // heads
    qkv = (norm(X, p["ln1_w"], p["ln1_b"], eps) @ p["qkv_w"].T + p["qkv_b"]).reshape(n, heads, 3, d)
    c, s = p["cos"][:n], p["sin"][:n]
    seen = np.tri(n, dtype=bool)
    turned = [(rotary(q, c, s), rotary(k, c, s), v) for q, k, v in qkv.transpose(1, 2, 0, 3)]
    mixed = [scaled(q, k, v, d**-0.5, seen) for q, k, v in turned]
    a = np.concatenate(mixed, axis=1) @ p["dense_w"].T + p["dense_b"]
    m = gelu(norm(X, p["ln2_w"], p["ln2_b"], eps) @ p["mlp1_w"].T + p["mlp1_b"]) @ p["mlp2_w"].T + p["mlp2_b"]
    return norm(X + a + m, p["ln3_w"], p["ln3_b"], eps)


def token_decoder(z: Array, ids: Array, p: dict[str, Array], block: int, heads: int, eps: float) -> Array:
    """[blocks - 1, block, vocabulary] from the context z [blocks, D] and the tokens [blocks * block]."""
    out = []
    for x in range(1, len(z)):
        prefix = (z[x - 1] @ p["expand_w"].T + p["expand_b"]).reshape(2, -1)
        tokens = p["token_embedding"][ids[x * block : (x + 1) * block - 1]]
        out.append(layer(np.concatenate([prefix, tokens]), p, heads, eps)[1:] @ p["out_w"].T)
    return np.array(out)


def position_aware(
    Q: Array, K: Array, V: Array, P: Array, inner: Array, keep: Array, content: float, position: float
) -> Array:
    seen = np.broadcast_to(keep, (len(Q), len(K)))
    r = scaled(Q, K, P, content, seen) @ inner.T
    return scaled(r, P, V, position, seen)
