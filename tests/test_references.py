"""Every example system beside other packages that compute it: skipped, with the reason, where one is not installed.

All of them run in float64. Where a package rounds to float32 inside, `wide` makes it compute in float64 there too, so
that the tolerance is the same for all: 1e-12 of the largest value, where that is above 1.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden.__main__ import difference
from tests.golden.systems import kernel

Array = np.ndarray[Any, Any]
TOLERANCE = 1e-12
B, H, D = 2, 3, 8


def optional(name: str) -> Any:
    """The module, or the test is skipped."""
    return pytest.importorskip(name, reason=f"{name.partition('.')[0]} is not installed (the extra `references`)")


@pytest.fixture
def torch() -> Iterator[Any]:
    found = optional("torch")
    found.manual_seed(5)
    with found.inference_mode():
        yield found


@pytest.fixture
def wide(torch: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What packages call float32 is float64 during this test."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    yield
    torch.set_default_dtype(before)


def agree(program: str, function: str, given: dict[str, Any], *want: Any) -> None:
    """Checks what an example gives; tensors become arrays."""
    plain = {k: np.asarray(x) if hasattr(x, "shape") else x for k, x in given.items()}
    found = kernel(program, function)(**plain)
    outputs = found if isinstance(found, tuple) else (found,)
    for got, expected in zip(outputs, want, strict=True):
        assert np.asarray(expected).dtype == np.float64
        assert difference(got, np.asarray(expected)) <= TOLERANCE, (program, function)


def heads_of(x: Any) -> Any:
    """[b, n, h d] as [b, h, n, d]."""
    return x.unflatten(-1, (H, D)).transpose(1, 2)


def rows(torch: Any, n: int, *more: int) -> Any:
    return torch.randn(B, n, *more, dtype=torch.float64)


# transformers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0, 5])
def test_longformer(torch: Any, wide: None, padding: int) -> None:
    models = optional("transformers.models.longformer.modeling_longformer")
    config = optional("transformers").LongformerConfig(
        hidden_size=H * D, num_attention_heads=H, attention_window=[6], attention_probs_dropout_prob=0.0
    )
    layer, X = models.LongformerSelfAttention(config, 0).double().eval(), rows(torch, 24, H * D)
    everywhere, keep = torch.zeros(B, 24, dtype=bool), torch.ones(B, 24, dtype=bool)
    everywhere[0, [2, 11]] = everywhere[1, 0] = True
    keep[0, 24 - padding :] = False
    mask = torch.where(keep, 1e4 * everywhere, -1e4).double()
    out = layer(X, mask, ~keep, everywhere, True)[0]
    parts = {"Q": "query", "K": "key", "V": "value"}
    parts |= {f"{k}g": f"{name}_global" for k, name in parts.items()}
    given = {k: heads_of(getattr(layer, name)(X)) for k, name in parts.items()}
    given |= {"everywhere": everywhere, "keep": keep, "w": 3, "scale": D**-0.5}
    agree("longformer", "longformer", given, heads_of(out))


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("function", ["counted", "gathered"])
def test_bigbird(torch: Any, wide: None, function: str, drawn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In evaluation the package draws the first block each time: it counts that often."""
    models = optional("transformers.models.big_bird.modeling_big_bird")
    config = optional("transformers").BigBirdConfig(
        hidden_size=H * D, num_attention_heads=H, block_size=3, num_random_blocks=2, max_position_embeddings=36
    )
    layer, X = models.BigBirdBlockSparseAttention(config, seed=4).double().train(drawn), rows(torch, 36, H * D)
    keep = torch.ones(B, 36, dtype=bool)
    keep[1, -4:] = False
    seen: list[Array] = []
    draw = layer._bigbird_block_rand_mask_with_head

    def recorded(*args: Any, **named: Any) -> Any:
        seen.append(np.stack(draw(*args, **named)).astype(np.int64))
        return list(seen[-1])

    monkeypatch.setattr(layer, "_bigbird_block_rand_mask_with_head", recorded)
    blocked, band, rows_kept, keys_kept = models.BigBirdModel.create_masks_for_block_sparse_attn(keep.double(), 3)
    out = layer(X, band, rows_kept, keys_kept, blocked, blocked)[0]
    (R,) = seen
    assert R.any() == drawn
    given = {"Q": layer.query(X), "K": layer.key(X), "V": layer.value(X)}
    given = {k: heads_of(x) for k, x in given.items()} | {"R": R, "keep": keep, "block": 3, "scale": D**-0.5}
    agree("bigbird", function, given, heads_of(out))


@pytest.mark.parametrize("causal", [False, True])
def test_reformer(torch: Any, wide: None, causal: bool) -> None:
    models = optional("transformers.models.reformer.modeling_reformer")
    sizes = {"attention_head_size": D, "num_attention_heads": H, "hidden_size": H * D}
    config = optional("transformers").ReformerConfig(
        **sizes, lsh_attn_chunk_length=4, num_hashes=3, num_buckets=6, hash_seed=7, is_decoder=causal,
        lsh_attention_probs_dropout_prob=0.0, attn_layers=["lsh"],
    )  # fmt: skip
    layer, X = models.LSHSelfAttention(config, 0).double().eval(), rows(torch, 24, H * D)
    found = layer(X, num_hashes=3)
    QK, V, want = heads_of(layer.query_key(X)), heads_of(layer.value(X)), heads_of(found.hidden_states)
    torch.manual_seed(7)
    rotation = torch.randn(H, D, 3, 3, dtype=torch.float64)
    constants = {"chunk": 4, "causal": int(causal), "scale": 1.0, "eps": 1e-6, "masked": -1e9, "own": -1e5}
    for b, h in np.ndindex(B, H):
        one = {"QK": QK[b, h], "V": V[b, h], **constants}
        agree("reformer", "trax", {**one, "hashed": found.buckets[b, h]}, want[b, h])
        agree("reformer", "reformer", {**one, "rotation": rotation[h]}, want[b, h])


# The small packages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_reformer_pytorch(torch: Any, wide: None, causal: bool, once: bool) -> None:
    package = optional("reformer_pytorch.reformer_pytorch")
    layer = package.LSHAttention(bucket_size=4, n_hashes=3, causal=causal, allow_duplicate_attention=not once).eval()
    QK, V = rows(torch, 24, D), rows(torch, 24, D)
    want, _, buckets = layer(QK, V)
    constants = {"chunk": 4, "causal": int(causal), "scale": D**-0.5, "eps": 1e-12, "own": -5e4}
    constants["masked"] = -float(np.finfo("float64").max)
    for b in range(B):
        given = {"QK": QK[b], "V": V[b], "hashed": buckets[b].reshape(3, 24), **constants}
        agree("reformer", "lucid_once" if once else "lucid", given, want[b])


def test_linformer(torch: Any) -> None:
    layer = optional("linformer.linformer").LinformerSelfAttention(H * D, 20, k=7, heads=H).double().eval()
    layer.to_out = torch.nn.Identity()
    X, Y = rows(torch, 11, H * D), rows(torch, 17, H * D)  # keys are fewer than projections
    given = {"Q": heads_of(layer.to_q(X)), "K": heads_of(layer.to_k(Y)), "V": heads_of(layer.to_v(Y))}
    given |= {"E": layer.proj_k[:17], "F": layer.proj_v[:17], "scale": D**-0.5}
    agree("linformer", "linformer", given, heads_of(layer(X, context=Y)))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("features", ["softmax", "relu"])
def test_performer(torch: Any, features: str, causal: bool) -> None:
    package, relu = optional("performer_pytorch.performer_pytorch"), features == "relu"
    layer = package.FastAttention(D, nb_features=13, causal=causal, generalized_attention=relu).double().eval()
    given = {k: rows(torch, H, 19, D) for k in "QKV"}
    given |= {"W": layer.projection_matrix, "c": D**-0.25, "eps": 1e-3 if relu else 1e-4}
    want = layer(given["Q"], given["K"], given["V"])
    if causal:
        agree("performer", f"causal_{features}_features", {**given, "small": 1e-6}, want)
    else:
        agree("performer", f"{features}_features", given, want)


# fla-core ------------------------------------------------------------------------------------------------------------


def plain_file(name: str) -> Any:
    """A file of fla-core in plain PyTorch; the package itself needs more."""
    spec = importlib.util.find_spec("fla")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("fla-core is not installed (the extra `references`)")
    optional("einops")
    path = Path(spec.submodule_search_locations[0]) / "ops" / name / "naive.py"
    found = importlib.util.spec_from_file_location(f"plain_{name}", path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def recurrent(torch: Any) -> dict[str, Any]:
    """Q, K, V and gates as fla-core has them, [b, n, h, d], and a state."""
    g = {k: rows(torch, 21, H, d) for k, d in (("Q", D), ("K", D), ("V", 5))}
    g["K"] = torch.nn.functional.normalize(g["K"], dim=-1)
    chances = {k: torch.rand(B, 21, H, *shape, dtype=torch.float64) for k, shape in (("G", (D,)), ("beta", ()))}
    return g | {"G": -chances["G"], "beta": chances["beta"], "past": rows(torch, H, D, 5)}


def turned(g: dict[str, Any], *names: str) -> dict[str, Any]:
    """As the examples have them: [b, h, n, d], with one head of queries to one of keys."""
    out = {k: g[k].transpose(1, 2) for k in names}
    return out | {"Q": out["Q"][:, :, None], "past": g["past"], "scale": D**-0.5}


def test_gated(torch: Any, wide: None) -> None:
    g = recurrent(torch)
    out, last = plain_file("gla").naive_recurrent_gla(g["Q"], g["K"], g["V"], g["G"], g["past"], True)
    agree("gated_linear", "gated", turned(g, "Q", "K", "V", "G"), out.transpose(1, 2)[:, :, None], last)


def test_one_gate_a_head(torch: Any, wide: None) -> None:
    g, plain = recurrent(torch), plain_file("simple_gla")
    gate = g["G"][..., 0]
    arrays = (g["Q"], g["K"], g["V"], gate)
    out, last = plain.naive_recurrent_simple_gla(*arrays, initial_state=g["past"])
    given = turned(g | {"G": gate[..., None].expand(-1, -1, -1, D)}, "Q", "K", "V", "G")
    agree("gated_linear", "gated", given, out.transpose(1, 2)[:, :, None], last)
    chunks, end = plain.naive_chunk_simple_gla(*arrays, initial_state=g["past"], output_final_state=True, chunk_size=8)
    agree("gated_linear", "gated", given, chunks.transpose(1, 2)[:, :, None], end)


def test_retention(torch: Any, wide: None) -> None:
    g, rate = recurrent(torch), -torch.rand(H, dtype=torch.float64)
    out, _ = plain_file("simple_gla").naive_parallel_simple_gla(g["Q"], g["K"], g["V"], rate.expand(B, 21, H))
    given = {k: g[k].transpose(1, 2) for k in "QKV"} | {"log_decay": rate, "scale": D**-0.5}
    agree("retention", "retention", given, out.transpose(1, 2))


def test_delta(torch: Any, wide: None) -> None:
    g = recurrent(torch)
    given = turned(g, "Q", "K", "V", "beta")
    arrays = (given["Q"][:, :, 0], given["K"], given["V"], given["beta"])
    out, last = plain_file("delta_rule").delta_rule_recurrence(*arrays, initial_state=g["past"])
    agree("gated_linear", "delta", given, out[:, :, None], last)


def test_gated_delta(torch: Any, wide: None) -> None:
    g = recurrent(torch)
    gate = g["G"][..., 0]
    arrays = (g["Q"], g["K"], g["V"], g["beta"], gate)
    rule = plain_file("gated_delta_rule").naive_recurrent_gated_delta_rule
    out, last = rule(*arrays, initial_state=g["past"], output_final_state=True)
    given = turned(g | {"G": gate[..., None].expand(-1, -1, -1, D)}, "Q", "K", "V", "G", "beta")
    agree("gated_linear", "gated_delta", given, out.transpose(1, 2)[:, :, None], last)


@pytest.mark.parametrize("name", ["recurrent", "chunk"])
def test_linear_attention(torch: Any, wide: None, name: str) -> None:
    """The chunks of the package have 64 rows."""
    Q, K, V = (rows(torch, 128, H, d) for d in (D, D, 5))
    feature = torch.nn.functional.elu
    work = getattr(plain_file("linear_attn"), f"naive_{name}_linear_attn")
    want = work(feature(Q) + 1, feature(K) + 1, V, scale=0.5, normalize=True)
    want = want[0] if name == "recurrent" else want
    given = {k: x.transpose(1, 2) for k, x in (("Q", Q), ("K", K), ("V", V))}
    given |= {"lengths": np.full(B, 128), "scale": 0.5, "eps": 1e-10}
    agree("linear_attention", "causal", given, want.transpose(1, 2))


# jax -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def jax() -> Iterator[Any]:
    found = optional("jax")
    before = found.config.jax_enable_x64
    found.config.update("jax_enable_x64", True)
    yield found
    found.config.update("jax_enable_x64", before)


def test_aaren_is_an_associative_scan(jax: Any) -> None:
    rng, np_ = np.random.default_rng(6), jax.numpy
    q, K, V = (rng.standard_normal(s) for s in ((H, D), (B, H, 37, D), (B, H, 37, 5)))
    K[:, :, 20] *= 40  # a score far above those before

    def joined(x: Any, y: Any) -> Any:
        m = np_.maximum(x[0], y[0])
        u, w = np_.exp(x[0] - m), np_.exp(y[0] - m)
        return m, x[1] * u + y[1] * w, x[2] * u[..., None] + y[2] * w[..., None]

    s = 0.5 * np_.einsum("hd,bhnd->bhn", q, K)
    m, l, a = jax.lax.associative_scan(joined, (s, np_.ones_like(s), np_.asarray(V)), axis=2)
    agree("aaren", "parallel", {"q": q, "K": K, "V": V, "scale": 0.5}, a / l[..., None])
    state = {"m0": np.full((B, H), -np.inf), "l0": np.zeros((B, H)), "a0": np.zeros((B, H, 5))}
    last = (m[..., -1], l[..., -1], a[:, :, -1])
    agree("aaren", "recurrent", {"q": q, "K": K, "V": V, "scale": 0.5, **state}, *last)


def test_gates_are_an_associative_scan(jax: Any) -> None:
    rng, np_ = np.random.default_rng(7), jax.numpy
    shapes = {"Q": (H, 37, D), "K": (H, 37, D), "V": (H, 37, 5)}
    g = {k: rng.standard_normal(s) for k, s in shapes.items()} | {"G": -rng.random((H, 37, D))}

    def joined(x: Any, y: Any) -> Any:
        return x[0] * y[0], y[0][..., None] * x[1] + y[1]

    first = np_.exp(g["G"]), g["K"][..., None] * np_.asarray(g["V"])[:, :, None]
    _, S = jax.lax.associative_scan(joined, first, axis=1)
    want = np_.einsum("hnk,hnkv->hnv", g["Q"], S) / np.sqrt(D)
    agree("small_e", "parallel", g, want)
    agree("small_e", "gated", {**g, "past": np.zeros((H, D, 5))}, want)


def test_contexts_are_an_associative_scan(jax: Any) -> None:
    X, np_ = np.random.default_rng(8).standard_normal((37, 5)), jax.numpy
    mean = jax.lax.associative_scan(np_.add, np_.asarray(X)) / np_.arange(1, 38)[:, None]
    before = np_.concatenate([X[:1], X[:-1]])
    for name, f in (("minima", np_.minimum), ("maxima", np_.maximum)):
        agree("generative", f"{name}_compared", {"X": X}, f(f(X, before), mean))
        agree("generative", f"{name}_added", {"X": X}, f(X, before) + mean)


# onnx ----------------------------------------------------------------------------------------------------------------


def evaluated(op: str, named: dict[str, Array | None], outputs: int, **attributes: Any) -> list[Array]:
    """What onnx's own evaluator gives for one operator."""
    onnx = optional("onnx")
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    if not onnx.defs.has(op):
        pytest.skip(f"onnx {onnx.__version__} has no operator {op}")
    since = onnx.defs.get_schema(op).since_version
    there = {k: x for k, x in named.items() if x is not None}
    node = helper.make_node(
        op, [k if k in there else "" for k in named], [f"out{k}" for k in range(outputs)], **attributes
    )
    kinds = {np.dtype(np.float64): TensorProto.DOUBLE, np.dtype(bool): TensorProto.BOOL}
    inputs = [helper.make_tensor_value_info(k, kinds[x.dtype], x.shape) for k, x in there.items()]
    results = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in node.output]
    model = helper.make_model(
        helper.make_graph([node], op, inputs, results), opset_imports=[helper.make_opsetid("", since)]
    )
    return list(ReferenceEvaluator(model).run(None, there))


class Wide:
    """NumPy whose float32 is float64."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, "float64" if name == "float32" else name)


@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
def test_onnx_linear_attention(rule: str, past: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two heads of queries share a state."""
    monkeypatch.setattr(optional("onnx.reference.ops.op_linear_attention"), "np", Wide())
    rng = np.random.default_rng(9)
    Q, K = rng.standard_normal((B, H, 2, 17, D)), rng.standard_normal((B, H, 17, D))
    K /= np.linalg.norm(K, axis=-1, keepdims=True)
    given = {"Q": Q, "K": K, "V": rng.standard_normal((B, H, 17, 5)), "scale": 0.25}
    given["past"] = rng.standard_normal((B, H, D, 5)) if past else np.zeros((B, H, D, 5))
    gates = {"G": -rng.random((B, H, 17, D))} if rule.startswith("gated") else {}
    rates = {"beta": rng.random((B, H, 17))} if rule.endswith("delta") else {}

    def packed(x: Array | None) -> Array | None:
        return None if x is None else np.ascontiguousarray(np.moveaxis(x, 2, 1).reshape(B, 17, -1))

    arrays = {"query": packed(Q.reshape(B, H * 2, 17, D)), "key": packed(K), "value": packed(given["V"])}
    arrays |= {
        "past": given["past"] if past else None,
        "decay": packed(gates.get("G")),
        "beta": packed(rates.get("beta")),
    }
    out, last = evaluated("LinearAttention", arrays, 2, q_num_heads=2 * H, kv_num_heads=H, update_rule=rule, scale=0.25)
    want = np.moveaxis(out.reshape(B, 17, H, 2, 5), 1, 3)
    agree("gated_linear", rule, given | gates | rates, want, last)


@pytest.mark.parametrize("kind", ["full", "causal", "biased", "masked"])
def test_onnx_attention(kind: str) -> None:
    """Two heads of queries share one of keys."""
    rng = np.random.default_rng(10)
    Q, K, V = (rng.standard_normal(s) for s in ((B, H, 2, 11, D), (B, H, 11, D), (B, H, 11, 5)))
    more: dict[str, Any] = {"first": 0} if kind == "causal" else {}
    mask: Array | None = None
    if kind == "biased":
        more["bias"] = rng.standard_normal((H, 2, 11, 11))
        mask = more["bias"].reshape(1, 2 * H, 11, 11)
    elif kind == "masked":
        more["keep"] = rng.random((B, 11, 11)) > 0.4
        more["keep"][:, :, 3] = True  # what a row without keys gives is not the same in all
        mask = np.broadcast_to(more["keep"][:, None], (B, 2 * H, 11, 11)).copy()
    arrays = {"q": Q.reshape(B, 2 * H, 11, D), "k": K, "v": V, "mask": mask}
    out = evaluated("Attention", arrays, 1, scale=0.25, is_causal=int(kind == "causal"))[0]
    agree("scaled_dot_product", kind, {"Q": Q, "K": K, "V": V, "scale": 0.25, **more}, out.reshape(B, H, 2, 11, 5))


# torch itself --------------------------------------------------------------------------------------------------------


def test_pytorch_attention(torch: Any) -> None:
    attend = torch.nn.functional.scaled_dot_product_attention
    g = {k: torch.randn(B, H, 33, d, dtype=torch.float64) for k, d in (("Q", D), ("K", D), ("V", 5))}
    scores = 0.3 * g["Q"] @ g["K"].mT
    agree("flash", "flash", g | {"scale": 0.3}, attend(*g.values(), scale=0.3), scores.logsumexp(-1))
    causal = {**g, "Q": g["Q"][:, :, None], "scale": 0.3, "first": 0}
    agree("scaled_dot_product", "causal", causal, attend(*g.values(), scale=0.3, is_causal=True)[:, :, None])


@pytest.mark.parametrize("causal", [False, True])
def test_dilated_windows(torch: Any, causal: bool) -> None:
    """FlexAttention takes any predicate."""
    flex = optional("torch.nn.attention.flex_attention").flex_attention
    g = {k: torch.randn(B, H, 29, D, dtype=torch.float64) for k in "QKV"}
    dilation = torch.tensor([1, 2, 5])

    def scored(s: Any, b: Any, h: Any, i: Any, j: Any) -> Any:
        seen = ((i - j).abs() <= 3 * dilation[h]) & ((i - j) % dilation[h] == 0)
        return torch.where(seen & (j <= i) if causal else seen, s, -torch.inf)

    want = flex(*g.values(), score_mod=scored, scale=0.3)
    function = "causal" if causal else "window"
    agree("longformer", function, g | {"dilation": dilation, "w": 3, "scale": 0.3}, want)
