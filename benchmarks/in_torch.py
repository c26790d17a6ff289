"""The attention systems in PyTorch, each in the strongest form that eager PyTorch has without a kernel of its own.

Functions take tensors of any float dtype by the names of the example programs, and give what those give. Windows are
blocks of rows beside the keys they may see, under the fused attention of PyTorch; sums of outer products are products
of matrices, causal ones in chunks with a running state.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

attention = F.scaled_dot_product_attention
CHUNK = 64


# Scaled dot products -------------------------------------------------------------------------------------------------


def full(Q: Tensor, K: Tensor, V: Tensor, scale: float) -> Tensor:
    return attention(Q[:, :, 0], K, V, scale=scale)[:, :, None]


def causal(Q: Tensor, K: Tensor, V: Tensor, scale: float, first: int) -> Tensor:
    assert first == 0 and Q.shape[-2] == K.shape[-2]
    return attention(Q[:, :, 0], K, V, scale=scale, is_causal=True)[:, :, None]


def flash(Q: Tensor, K: Tensor, V: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The fused attention of PyTorch for CPUs, which gives the log-sum-exp too."""
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, top = fused(Q, K, V, scale=scale)
    return out, top


def decode(Q: Tensor, K: Tensor, V: Tensor, lengths: Tensor, scale: float) -> Tensor:
    """The heads that share keys are the rows of one attention, over the keys there are."""
    there = enumerate(lengths.tolist())
    rows = [attention(Q[b : b + 1, :, :, 0], K[b : b + 1, :, :n], V[b : b + 1, :, :n], scale=scale) for b, n in there]
    return torch.cat(rows)[:, :, :, None]


def lean(Q: Tensor, K: Tensor, V: Tensor, lengths: Tensor, scale: float, **cuts: Tensor) -> Tensor:
    """Head by head, over the keys there are: the cuts among workers do not change the function."""
    there = enumerate(lengths.tolist())
    return torch.cat([attention(Q[g : g + 1], K[g : g + 1, :n], V[g : g + 1, :n], scale=scale) for g, n in there])


# Windows and blocks --------------------------------------------------------------------------------------------------


def band(n: int, w: int, rows: int, causal: bool, like: Tensor) -> Tensor:
    """0 where a row of a block sees a key of those beside it, else -inf: [blocks, rows, keys]."""
    start = torch.arange(0, n, rows)[:, None, None]
    i = start + torch.arange(rows)[:, None]
    j = start - w + torch.arange(rows + w if causal else rows + 2 * w)
    seen = (j >= 0) & (j < n) & ((i - j).abs() <= w)
    if causal:
        seen &= j <= i
    return torch.where(seen, 0.0, -math.inf).to(like.dtype)


def beside(x: Tensor, w: int, rows: int, causal: bool) -> Tensor:
    """For each block of rows those beside it, as a view: [b, h, blocks, rows + 2 w, d]."""
    padded = F.pad(x, (0, 0, w, 0 if causal else w))
    return padded.unfold(2, rows + w if causal else rows + 2 * w, rows).transpose(-1, -2)


def windowed(Q: Tensor, K: Tensor, V: Tensor, w: int, scale: float, causal: bool = False) -> Tensor:
    b, h, n, d = Q.shape
    rows = max(w // 2, 1)
    mask = band(n, w, rows, causal, Q)
    q = Q.reshape(b * h, n // rows, rows, d)
    k, v = (beside(x, w, rows, causal).flatten(0, 1) for x in (K, V))
    return attention(q, k, v, attn_mask=mask, scale=scale).reshape(b, h, n, -1)


def dilated(Q: Tensor, K: Tensor, V: Tensor, dilation: Tensor, w: int, scale: float, causal: bool = False) -> Tensor:
    """Heads of one dilation d together: d sequences of n / d rows, each with a plain window."""
    n = Q.shape[2]
    out = torch.empty_like(V)
    for d in dilation.unique().tolist():
        heads = dilation == d
        q, k, v = (x[:, heads].unflatten(2, (n // d, d)).transpose(2, 3).flatten(1, 2) for x in (Q, K, V))
        o = windowed(q, k, v, w, scale, causal)
        out[:, heads] = o.unflatten(1, (-1, d)).transpose(2, 3).flatten(2, 3)
    return out


def dilated_causal(Q: Tensor, K: Tensor, V: Tensor, dilation: Tensor, w: int, scale: float) -> Tensor:
    return dilated(Q, K, V, dilation, w, scale, causal=True)


def longformer(
    Q: Tensor, K: Tensor, V: Tensor, Qg: Tensor, Kg: Tensor, Vg: Tensor, everywhere: Tensor, keep: Tensor, w: int,
    scale: float,
) -> Tensor:  # fmt: skip
    """The tokens that are seen by all stand beside the window of each block; their own rows are a small attention."""
    b, h, n, d = Q.shape
    assert b == 1
    rows, at = max(w // 2, 1), everywhere[0].nonzero()[:, 0]
    blocks = n // rows
    taken = torch.where(everywhere | ~keep, -math.inf, 0.0).to(Q.dtype)
    near = band(n, w, rows, False, Q) + beside(taken[:, None, :, None], w, rows, False)[0, 0, :, :, 0][:, None]
    mask = torch.cat([torch.zeros(blocks, rows, len(at), dtype=Q.dtype), near], dim=-1)
    k, v = (
        torch.cat([x[0, :, None, at].expand(h, blocks, len(at), x.shape[-1]), beside(x, w, rows, False)[0]], dim=2)
        for x in (K, V)
    )
    out = attention(Q.reshape(h, blocks, rows, d), k, v, attn_mask=mask, scale=scale).reshape(1, h, n, -1)
    whole = torch.where(keep, 0.0, -math.inf).to(Q.dtype)[:, None, None]
    out[:, :, at] = attention(Qg[:, :, at], Kg, Vg, attn_mask=whole, scale=scale)
    return torch.where(keep[:, None, :, None], out, 0)


def bigbird(
    Q: Tensor, K: Tensor, V: Tensor, R: Tensor, keep: Tensor, block: int, scale: float
) -> Tensor:  # fmt: skip
    """The keys of each block of rows gathered; the first and the last block see all."""
    b, h, n, _ = Q.shape
    assert b == 1
    blocks = n // block
    x = torch.arange(1, blocks - 1)
    fixed = torch.stack([torch.zeros_like(x), x - 1, x, x + 1, torch.full_like(x, blocks - 1)], dim=1)
    again = torch.zeros_like(fixed, dtype=torch.bool)
    again[0, 1] = again[-1, 3] = True  # the first block is beside the second, the last beside the one before it
    listed = torch.cat([fixed.expand(h, -1, -1), R], dim=2)
    pad = torch.where(keep[0], 0.0, -10000.0).to(Q.dtype).reshape(blocks, block)
    drop = torch.cat([again, torch.zeros(R.shape[1:], dtype=torch.bool)], dim=1)
    mask = torch.where(drop[..., None], -math.inf, pad[listed])
    head = torch.arange(h)[:, None, None]
    k, v = (t[0].unflatten(1, (blocks, block))[head, listed].flatten(2, 3) for t in (K, V))
    q = Q[0].unflatten(1, (blocks, block))
    inner = attention(q[:, 1:-1], k, v, attn_mask=mask.flatten(2)[:, :, None], scale=scale)
    ends = torch.cat([q[:, 0], q[:, -1]], dim=1)[None]
    outer = attention(ends, K, V, attn_mask=pad.reshape(1, 1, 1, n), scale=scale)[0].unflatten(1, (2, block))
    out = torch.cat([outer[:, :1], inner, outer[:, 1:]], dim=1).reshape(1, h, n, -1)
    return torch.where(keep[:, None, :, None], out, 0)


def hashed_chunks(
    QK: Tensor, K: Tensor, V: Tensor, hashed: Tensor, chunk: int, causal: int, scale: float, masked: float, own: float,
    once: bool = False,
) -> Tensor:  # fmt: skip
    """Sorted rows in chunks, each beside the one before it; rounds joined by their log-sum-exp."""
    n, rounds = len(QK), len(hashed)
    order = hashed.sort(dim=-1, stable=True).indices
    first = torch.arange(rounds)[:, None]
    back = (order + n * first).reshape(-1).argsort()
    t = order.reshape(-1, chunk)
    count = len(t)
    i, j = t[:, :, None], torch.cat([t.roll(1, 0), t], dim=1)
    s = scale * QK[t] @ K[j].transpose(-1, -2)
    if causal:
        s = torch.where(i < j[:, None], masked, s)
    s = torch.where(i == j[:, None], own, s)
    if once:
        at = (back // chunk).reshape(rounds, n)
        mine, theirs = at[:, t][:, :, :, None], at[:, j][:, :, None]
        s = s - (((mine == theirs) | ((mine - 1) % count == theirs)).sum(0).to(s.dtype) + 1e-9).log()
    L = s.logsumexp(-1, keepdim=True)
    o = (s - L).exp() @ V[j]
    o, L = o.reshape(rounds * n, -1)[back].reshape(rounds, n, -1), L.reshape(-1)[back].reshape(rounds, n, 1)
    return (L.softmax(0) * o).sum(0)


def reformer(QK: Tensor, V: Tensor, rotation: Tensor, eps: float, **constants: Any) -> Tensor:
    u = torch.einsum("nd,drf->rnf", QK, rotation)
    unit = QK * torch.rsqrt((QK * QK).sum(-1, keepdim=True) + QK.shape[-1] * eps)
    return hashed_chunks(QK, unit, V, torch.cat([u, -u], dim=-1).argmax(dim=-1), **constants)


def reformer_lucid(QK: Tensor, V: Tensor, hashed: Tensor, eps: float, **constants: Any) -> Tensor:
    return hashed_chunks(QK, F.normalize(QK, dim=-1, eps=eps), V, hashed, **constants)


def reformer_once(**given: Any) -> Tensor:
    return reformer_lucid(**given, once=True)


# Linear --------------------------------------------------------------------------------------------------------------


def linformer(Q: Tensor, K: Tensor, V: Tensor, E: Tensor, F: Tensor, scale: float) -> Tensor:
    return attention(Q, E.T @ K, F.T @ V, scale=scale)


def with_ones(V: Tensor) -> Tensor:
    """One more column of ones: the sums of weights come with the weighted sums."""
    return torch.cat([V, torch.ones_like(V[..., :1])], dim=-1)


def prefix_sums(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """sum_{s <= t} (q_t . k_s) v_s: chunks, between them a running state."""
    n = q.shape[-2]
    assert n % CHUNK == 0
    q, k, v = (x.unflatten(-2, (n // CHUNK, CHUNK)) for x in (q, k, v))
    states = k.transpose(-1, -2) @ v
    before = states.cumsum(dim=-3) - states
    return ((q @ k.transpose(-1, -2)).tril() @ v + q @ before).flatten(-3, -2)


def linear_full(Q: Tensor, K: Tensor, V: Tensor, lengths: Tensor, scale: float, eps: float) -> Tensor:
    keep = torch.arange(K.shape[-2]) < lengths[:, None, None]
    q, k = scale * (F.elu(Q) + 1), (F.elu(K) + 1) * keep[..., None]
    o = q @ (k.transpose(-1, -2) @ with_ones(V))
    return o[..., :-1] / (o[..., -1:] + eps)


def linear_causal(Q: Tensor, K: Tensor, V: Tensor, lengths: Tensor, scale: float, eps: float) -> Tensor:
    keep = torch.arange(K.shape[-2]) < lengths[:, None, None]
    q, k = scale * (F.elu(Q) + 1), (F.elu(K) + 1) * keep[..., None]
    o = prefix_sums(q, k, with_ones(V))
    return o[..., :-1] / (o[..., -1:] + eps)


def features(x: Tensor, W: Tensor, c: float, eps: float, keys: bool) -> Tensor:
    u = c * x @ W.T
    s = u.amax((-1, -2) if keys else -1, keepdim=True)
    return ((u - c * c * (x * x).sum(-1, keepdim=True) / 2 - s).exp() + eps) / math.sqrt(len(W))


def performer(Q: Tensor, K: Tensor, V: Tensor, W: Tensor, c: float, eps: float) -> Tensor:
    o = features(Q, W, c, eps, False) @ (features(K, W, c, eps, True).transpose(-1, -2) @ with_ones(V))
    return o[..., :-1] / o[..., -1:]


def performer_relu(Q: Tensor, K: Tensor, V: Tensor, W: Tensor, c: float, eps: float) -> Tensor:
    q, k = (F.relu(c * x @ W.T) + eps for x in (Q, K))
    o = q @ (k.transpose(-1, -2) @ with_ones(V))
    return o[..., :-1] / o[..., -1:]


def performer_causal(Q: Tensor, K: Tensor, V: Tensor, W: Tensor, c: float, eps: float, small: float) -> Tensor:
    q, k = features(Q, W, c, eps, False), features(K, W, c, eps, True)
    o = prefix_sums(q, k, with_ones(V))
    return o[..., :-1] / (o[..., -1:] + small * q.sum(-1, keepdim=True))


def performer_causal_relu(Q: Tensor, K: Tensor, V: Tensor, W: Tensor, c: float, eps: float, small: float) -> Tensor:
    q, k = (F.relu(c * x @ W.T) + eps for x in (Q, K))
    o = prefix_sums(q, k, with_ones(V))
    return o[..., :-1] / (o[..., -1:] + small * q.sum(-1, keepdim=True))


# Recurrences ---------------------------------------------------------------------------------------------------------


def decayed_sums(q: Tensor, k: Tensor, v: Tensor, g: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
    """The rows and the last state of S_t = exp(g_t) S_{t-1} + k_t v_t^T in chunks; g [.., n, d] or [.., n, 1].

    Inside a chunk decays are taken apart into exp(b) and exp(-b): they must not be strong.
    """
    n = q.shape[-2]
    q, k, v, g = (x.unflatten(-2, (n // CHUNK, CHUNK)) for x in (q, k, v, g))
    b = g.cumsum(dim=-2)
    end = b[..., -1:, :]
    inside = ((q * b.exp()) @ (k * (-b).exp()).transpose(-1, -2)).tril() @ v
    states = (k * (end - b).exp()).transpose(-1, -2) @ v
    S, before = past, []
    for c in range(n // CHUNK):
        before.append(S)
        S = end[..., c, :, :].exp().transpose(-1, -2) * S + states[..., c, :, :]
    return (inside + (q * b.exp()) @ torch.stack(before, dim=-3)).flatten(-3, -2), S


def linear_rule(Q: Tensor, K: Tensor, V: Tensor, past: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    out = prefix_sums(Q[:, :, 0], K, V) + Q[:, :, 0] @ past
    return scale * out[:, :, None], past + K.transpose(-1, -2) @ V


def gated_rule(Q: Tensor, K: Tensor, V: Tensor, G: Tensor, past: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    out, S = decayed_sums(Q[:, :, 0], K, V, G, past)
    return scale * out[:, :, None], S


def delta_rule(Q: Tensor, K: Tensor, V: Tensor, beta: Tensor, past: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """In chunks: what each row writes is the solution of a triangular system (Yang et al. 2024, arXiv 2406.06484)."""
    return gated_delta_rule(Q, K, V, torch.zeros_like(K[..., :1]), beta, past, scale)


def gated_delta_rule(
    Q: Tensor, K: Tensor, V: Tensor, G: Tensor, beta: Tensor, past: Tensor, scale: float
) -> tuple[Tensor, Tensor]:  # fmt: skip
    n = K.shape[-2]
    q, k, v, g, w = (x.unflatten(2, (n // CHUNK, CHUNK)) for x in (Q[:, :, 0], K, V, G, beta[..., None]))
    b = g.cumsum(dim=-2)
    end = b[..., -1:, :]
    up, down = k * b.exp(), k * (-b).exp()
    eye = torch.eye(CHUNK, dtype=q.dtype)
    system = eye + (w * (up @ down.transpose(-1, -2))).tril(-1)
    both = torch.linalg.solve_triangular(system, torch.cat([w * v, w * up], dim=-1), upper=False, unitriangular=True)
    written, seen = both.split([v.shape[-1], k.shape[-1]], dim=-1)
    inside = ((q * b.exp()) @ down.transpose(-1, -2)).tril()
    later, read = (k * (end - b).exp()).transpose(-1, -2), q * b.exp()
    S, out = past, []
    for c in range(n // CHUNK):
        u = written[:, :, c] - seen[:, :, c] @ S
        out.append(read[:, :, c] @ S + inside[:, :, c] @ u)
        S = end[:, :, c].exp().transpose(-1, -2) * S + later[:, :, c] @ u
    return scale * torch.stack(out, dim=2).flatten(2, 3)[:, :, None], S


def retention(Q: Tensor, K: Tensor, V: Tensor, log_decay: Tensor, scale: float) -> Tensor:
    b, h, n, d = Q.shape
    g = log_decay[:, None, None].expand(b, h, n, 1)
    return decayed_sums(scale * Q, K, V, g, torch.zeros(b, h, d, V.shape[-1], dtype=Q.dtype))[0]


def aaren(q: Tensor, K: Tensor, V: Tensor, scale: float) -> Tensor:
    """Running sums beside the largest score of all: fast, and without digits where scores rise by more than 80."""
    s = scale * (K @ q[:, :, None])
    o = ((s - s.amax(-2, keepdim=True)).exp() * with_ones(V)).cumsum(dim=-2)
    return o[..., :-1] / o[..., -1:]


def aaren_step(q: Tensor, k: Tensor, v: Tensor, m: Tensor, l: Tensor, a: Tensor, scale: float) -> tuple[Tensor, ...]:
    s = scale * (k * q).sum(-1)
    top = torch.maximum(m, s)
    old, new = (m - top).exp(), (s - top).exp()
    return top, l * old + new, a * old[..., None] + v * new[..., None]


def previous(X: Tensor) -> Tensor:
    return torch.cat([X[:1], X[:-1]])


def context(X: Tensor) -> Tensor:
    return X.cumsum(0) / torch.arange(1, len(X) + 1, dtype=X.dtype)[:, None]


def minima(X: Tensor) -> Tensor:
    return torch.minimum(X, previous(X))


def maxima(X: Tensor) -> Tensor:
    return torch.maximum(X, previous(X))


def means(X: Tensor) -> Tensor:
    return (X + previous(X)) / 2


def minima_compared(X: Tensor) -> Tensor:
    return torch.minimum(minima(X), context(X))


def minima_added(X: Tensor) -> Tensor:
    return minima(X) + context(X)


# Whole models --------------------------------------------------------------------------------------------------------


def rotary(x: Tensor, c: Tensor, s: Tensor) -> Tensor:
    r = c.shape[-1]
    turned = torch.cat([-x[..., r // 2 : r], x[..., : r // 2]], dim=-1)
    return torch.cat([x[..., :r] * c + turned * s, x[..., r:]], dim=-1)


def layer(X: Tensor, heads: int, eps: float, cos: Tensor, sin: Tensor, **w: Any) -> Tensor:
    b, n, D = X.shape

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (D,), w[f"{name}_w"], w[f"{name}_b"], eps)

    p = F.linear(norm(X, "ln1"), w["qkv_w"], w["qkv_b"]).reshape(b, n, heads, 3, D // heads).permute(3, 0, 2, 1, 4)
    o = attention(rotary(p[0], cos[:n], sin[:n]), rotary(p[1], cos[:n], sin[:n]), p[2], is_causal=True)
    mixed = F.linear(o.transpose(1, 2).reshape(b, n, D), w["dense_w"], w["dense_b"])
    wide = F.gelu(F.linear(norm(X, "ln2"), w["mlp1_w"], w["mlp1_b"]))
    return norm(X + mixed + F.linear(wide, w["mlp2_w"], w["mlp2_b"]), "ln3")


def block_decoder(ids: Tensor, embedding: Tensor, block: int, **w: Any) -> Tensor:
    return layer(embedding[ids].reshape(len(ids), ids.shape[1] // block, -1), **w)


def token_decoder(
    z: Tensor, ids: Tensor, token_embedding: Tensor, expand_w: Tensor, expand_b: Tensor, out_w: Tensor, block: int,
    **w: Any,
) -> Tensor:  # fmt: skip
    b, blocks, D = z.shape
    prefix = F.linear(z[:, :-1], expand_w, expand_b).reshape(-1, 2, D)
    tokens = token_embedding[ids.reshape(b, blocks, block)[:, 1:, :-1]].reshape(-1, block - 1, D)
    Y = layer(torch.cat([prefix, tokens], dim=1), **w)
    return F.linear(Y[:, 1:], out_w).reshape(b, blocks - 1, block, -1)


def gated_layer(
    x: Tensor, wq: Tensor, wk: Tensor, wv: Tensor, wg: Tensor, low: Tensor, up: Tensor, bias: Tensor, scale: Tensor,
    mix: Tensor, past: Tensor,
) -> Tensor:  # fmt: skip
    gate = F.logsigmoid(x @ low @ up + bias[:, None]) / 16
    o = decayed_sums(x @ wq, x @ wk, x @ wv, gate, past)[0] / math.sqrt(wq.shape[-1])
    y = o * torch.rsqrt(o.square().mean(-1, keepdim=True) + 1e-5) * scale * F.silu(x @ wg)
    return y.transpose(0, 1).flatten(1) @ mix.flatten(0, 1)


def position_aware(
    Q: Tensor, K: Tensor, V: Tensor, P: Tensor, inner: Tensor, keep: Tensor, content: float, position: float
) -> Tensor:  # fmt: skip
    mask = keep[:, None, None]
    p = P.expand(len(Q), 1, *P.shape)
    r = attention(Q[:, None], K[:, None], p, attn_mask=mask, scale=content)
    return attention(r @ inner.T, p, V[:, None], attn_mask=mask, scale=position)[:, 0]
