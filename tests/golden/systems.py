"""Which function of which example computes a system, and what it takes from a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import moa
from moa.device import DeviceKernel
from tests.golden.devices import called
from tests.golden.files import Array, Case, Unusable

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "systems"


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a function of an example, and the names of its outputs in the file ("" for one that is not there).

    `frame`: the leading axes of all arrays given, where the example is for one cell of them.
    """

    program: str
    function: str
    given: dict[str, Any]
    outputs: tuple[str, ...] = ("O",)
    frame: tuple[int, ...] = ()


System = Callable[[Case], Iterator[Call]]
SYSTEMS: dict[str, System] = {}


def system(*names: str) -> Callable[[System], System]:
    """Enters what calls an example under the names that files have for it."""

    def enter(f: System) -> System:
        SYSTEMS.update(dict.fromkeys(names, f))
        return f

    return enter


@cache
def kernel(program: str, function: str, dtype: str = "float64", backend: str = "llvm") -> moa.Kernel:
    return moa.compile(EXAMPLES / f"{program}.moa", function=function, dtype=dtype, backend=backend)


def results(call: Call, dtype: str = "float64", backend: str = "llvm") -> tuple[Array, ...]:
    """What the example gives, cell by cell of the frame; floats are of that dtype."""
    run = kernel(call.program, call.function, dtype, backend)
    arrays = {k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in call.given.items() if np.ndim(v)}
    numbers = {k: v for k, v in call.given.items() if not np.ndim(v)}
    cells = []
    for at in np.ndindex(call.frame):
        cell = {k: v[at] for k, v in arrays.items()}
        cells.append(called(run, cell, numbers) if isinstance(run, DeviceKernel) else run(**cell, **numbers))
    outputs = zip(*(cell if isinstance(cell, tuple) else (cell,) for cell in cells), strict=True)
    return tuple(np.stack(values).reshape(*call.frame, *values[0].shape) for values in outputs)


def taken(case: Case, *names: str, **numbers: str) -> dict[str, Any]:
    """Arrays by their own names, and numbers by the names they have in the file."""
    return {name: case[name] for name in names} | {name: case.number(of) for name, of in numbers.items()}


def grouped(case: Case) -> dict[str, Any]:
    """Q [b, g, r, n, dk], K, V and the scale; r heads of queries share one of keys and values."""
    Q, K = case["Q"], case["K"]
    b, heads, n, dk = Q.shape
    r = case.integer("heads_per_kv_head") if "heads_per_kv_head" in case else 1
    if heads != K.shape[1] * r:
        raise Unusable(f"{heads} heads of Q, {K.shape[1]} of K, {r} to one")
    return {"Q": Q.reshape(b, heads // r, r, n, dk), "K": K, "V": case["V"], "scale": case.number("scale")}


# Scaled dot products -------------------------------------------------------------------------------------------------


@system("sdpa")
def full(case: Case) -> Iterator[Call]:
    given = grouped(case)
    yield Call("scaled_dot_product", "full", given)
    if given["Q"].shape[2] == 1:
        yield Call("flash", "flash", taken(case, "Q", "K", "V", scale="scale"), ("O", ""))


@system("sdpa_causal")
def causal(case: Case) -> Iterator[Call]:
    yield Call("scaled_dot_product", "causal", {**grouped(case), "first": case.integer("first_key")})


@system("sdpa_bias")
def biased(case: Case) -> Iterator[Call]:
    given = grouped(case)
    bias = case["bias"].reshape(*given["Q"].shape[1:4], -1)
    yield Call("scaled_dot_product", "biased", {**given, "bias": bias})


@system("sdpa_mask")
def masked(case: Case) -> Iterator[Call]:
    yield Call("scaled_dot_product", "masked", {**grouped(case), "keep": case["mask"][:, 0] != 0})


@system("block_local")
def near_blocks(case: Case) -> Iterator[Call]:
    yield Call("scaled_dot_product", "near_blocks", {**grouped(case), "block": case.integer("block")})


@system("decode")
def decode(case: Case) -> Iterator[Call]:
    given = {**grouped(case), "lengths": case["lengths"]}
    yield Call("lean", "decode", given)
    yield Call("lean", "lean", laid_end_to_end(given))


def laid_end_to_end(given: dict[str, Any]) -> dict[str, Any]:
    """The keys of all heads in one line, cut for seven workers: unequally, within heads and across them."""
    Q, K, V = given["Q"], given["K"], given["V"]
    groups = K.shape[0] * K.shape[1]
    lengths = np.repeat(given["lengths"], K.shape[1])
    stop = np.cumsum(lengths)
    cuts = np.sort((stop[-1] * np.array([0, 0.05, 0.3, 0.3, 0.41, 0.7, 0.93, 1])).astype(np.int64))
    return {
        "Q": Q.reshape(groups, -1, Q.shape[-1]),
        "K": K.reshape(groups, *K.shape[2:]),
        "V": V.reshape(groups, *V.shape[2:]),
        "lengths": lengths,
        "offset": stop - lengths,
        "first": cuts[:-1],
        "stop": cuts[1:],
        "scale": given["scale"],
    }


# Sparse: windows, blocks, hashes -------------------------------------------------------------------------------------


@system("window")
def window(case: Case) -> Iterator[Call]:
    given = taken(case, "Q", "K", "V", "dilation", scale="scale")
    yield Call("longformer", "causal" if case.integer("causal") else "window", {**given, "w": case.integer("window")})


@system("longformer")
def longformer(case: Case) -> Iterator[Call]:
    given = taken(case, "Q", "K", "V", scale="scale") | {
        "everywhere": case["is_global"] != 0,
        "keep": case["is_pad"] == 0,
        "w": case.integer("window"),
    }
    if "Qg" in case:
        yield Call("longformer", "longformer", given | taken(case, "Qg", "Kg", "Vg"))
    else:
        yield Call("longformer", "padded", given)


@system("bigbird")
def bigbird(case: Case) -> Iterator[Call]:
    given = taken(case, "Q", "K", "V", "R", scale="scale")
    given |= {"keep": case["is_pad"] == 0, "block": case.integer("block")}
    yield Call("bigbird", "counted", given)
    yield Call("bigbird", "gathered", given)


@system("reformer")
def reformer(case: Case) -> Iterator[Call]:
    """Hashing, then attention with the hashes of the file: one that is a tie in rounding would change all after it."""
    yield hashing(case)
    function = {"rms": "trax", "l2": "lucid"}.get(case.word("key_norm"))
    if function is None:
        raise Unusable(f"no program for key_norm {case.word('key_norm')}")
    if case.integer("duplicate_correction"):
        function += "_once"
    given = taken(case, "QK", "V", scale="scale", eps="key_eps", masked="mask_value", own="self_value")
    integers = {name: case.integer(name) for name in ("chunk", "causal")}
    frame = case["QK"].shape[:2]
    yield Call("reformer", function, {**given, **integers, "hashed": case["buckets"]}, frame=frame)


def hashing(case: Case) -> Call:
    """The hashes of the rows; a rotation that is not there for each head is that of all."""
    QK, rotation, factors = case["QK"], case["rotation"], case["bucket_factors"]
    frame = QK.shape[:2]
    given = {"QK": QK, "rotation": np.broadcast_to(rotation, (*frame, *rotation.shape[1:]))}
    if len(factors) == 1:
        return Call("reformer", "buckets", given, ("buckets",), frame)
    return Call("reformer", "factored_buckets", {**given, "factor": int(factors[0])}, ("buckets",), frame)


# Linear --------------------------------------------------------------------------------------------------------------


@system("linformer")
def linformer(case: Case) -> Iterator[Call]:
    Q, K, V = case["Q"], case["K"], case["V"]
    heads, m = Q.shape[1], K.shape[2]
    K, V = (np.repeat(x, heads // x.shape[1], axis=1) for x in (K, V))
    given = {"Q": Q, "K": K, "V": V, "E": case["E"][:m], "F": case["F"][:m], "scale": case.number("scale")}
    yield Call("linformer", "linformer", given)


@system("performer")
def performer(case: Case) -> Iterator[Call]:
    given = taken(case, "Q", "K", "V", "W", c="c", eps="feature_eps")
    function = f"{case.word('feature_map')}_features"
    if case.integer("causal"):
        yield Call("performer", f"causal_{function}", {**given, "small": case.number("denominator_eps")})
    else:
        yield Call("performer", function, given)


@system("linear_elu")
def linear_attention(case: Case) -> Iterator[Call]:
    given = taken(case, "Q", "K", "V", scale="scale", eps="eps")
    function = "causal" if case.integer("causal") else "full"
    yield Call("linear_attention", function, {**given, "lengths": case["key_lengths"]})


# Recurrences ---------------------------------------------------------------------------------------------------------


@system("retention")
def retention(case: Case) -> Iterator[Call]:
    yield Call("retention", "retention", taken(case, "Q", "K", "V", "log_decay", scale="scale"))


@system("gla", "delta")
def gated_linear(case: Case) -> Iterator[Call]:
    rule = "delta" if case.system == "delta" else "linear"
    given = grouped(case)
    (b, g, n, dk), dv = given["K"].shape, given["V"].shape[-1]
    given["past"] = case["state_in"] if "state_in" in case else np.zeros((b, g, dk, dv))
    if "log_decay" in case:
        rule = {"delta": "gated_delta", "linear": "gated"}[rule]
        given["G"] = np.broadcast_to(case["log_decay"], (b, g, n, dk))
    if case.system == "delta":
        given["beta"] = np.broadcast_to(case["beta"][..., 0], (b, g, n))
    yield Call("gated_linear", rule, given, ("O", "state_out" if "state_out" in case else ""))


@system("aaren")
def aaren(case: Case) -> Iterator[Call]:
    given = taken(case, "q", "K", "V", scale="scale")
    yield Call("aaren", "parallel", given)
    b, h, _, dv = case["V"].shape
    state = {"m0": np.full((b, h), -np.inf), "l0": np.zeros((b, h)), "a0": np.zeros((b, h, dv))}
    yield Call("aaren", "recurrent", {**given, **state}, ("m_last", "l_last", "a_last"))


# Whole models --------------------------------------------------------------------------------------------------------


@system("position_aware_cross")
def position_aware(case: Case) -> Iterator[Call]:
    given = taken(case, "Q", "K", "V", "P", content="scale_content", position="scale_position")
    yield Call("small_e", "position_aware", {**given, "inner": case["inner_w"], "keep": case["keep"] != 0})


LAYER = [f"{part}_{kind}" for part in ("ln1", "qkv", "dense", "ln2", "mlp1", "mlp2", "ln3") for kind in "wb"]


def layer(case: Case, prefix: str = "") -> dict[str, Any]:
    """The weights of one decoder layer."""
    arrays = {name: case[prefix + name] for name in (*LAYER, "cos", "sin")}
    return {**arrays, "heads": case.integer("heads"), "eps": case.number("ln_eps")}


@system("gpt_neox_layer")
def gpt_neox_layer(case: Case) -> Iterator[Call]:
    yield Call("block_transformer", "layer", {**layer(case), "X": case["X"]})


@system("block_transformer")
def block_transformer(case: Case) -> Iterator[Call]:
    both = {"ids": case["ids"], "block": case.integer("block_length")}
    blocks = Call("block_transformer", "block_decoder", both | layer(case, "block_") | taken(case, "embedding"), ("z",))
    yield blocks
    weights = layer(case, "token_") | taken(case, "token_embedding", "expand_w", "expand_b", "out_w")
    yield Call("block_transformer", "token_decoder", {**both, **weights, "z": results(blocks)[0]})
