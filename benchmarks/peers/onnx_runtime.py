"""ONNX Runtime: the operator Attention of opset 23, and its own MultiHeadAttention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.cells import CAP, Inputs
from benchmarks.peers import Absent, Found, Options


def peers(given: Inputs, o: Options) -> Found:
    import onnxruntime as ort
    from onnx import TensorProto, helper

    cell = given.cell
    if cell.dtype != "float32" or cell.formula == "linear":
        yield Absent("onnxruntime", "float32 only, and no such operator", everywhere=False)
        return
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = o.threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 4

    def session(node: Any, inputs: dict[str, Any], rank: int) -> Callable[[], Any]:
        kind = TensorProto.FLOAT
        values = [
            helper.make_tensor_value_info(n, TensorProto.BOOL if a.dtype == bool else kind, a.shape)
            for n, a in inputs.items()
        ]
        out = helper.make_tensor_value_info("Y", kind, [None] * rank)
        graph = helper.make_graph([node], "one", values, [out])
        opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        made = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
        return lambda: made.run(None, inputs)[0]

    yield from attention(given, session, helper)
    if cell.formula in ("full", "causal") and cell.n > 1:
        yield from heads(given, session, helper)


def attention(given: Inputs, session: Any, helper: Any) -> Found:
    cell = given.cell
    inputs = {"Q": given.q, "K": given.k, "V": given.v}
    attributes: dict[str, Any] = {"is_causal": int(cell.formula in ("causal", "softcap"))}
    if cell.formula == "softcap":
        attributes["softcap"] = CAP
    if cell.formula in ("window", "document"):
        inputs["M"] = given.mask(np.arange(cell.n))
    elif cell.formula in ("alibi", "bias"):
        inputs["M"] = given.combined(np.float32)
    node = helper.make_node("Attention", list(inputs), ["Y"], **attributes)
    try:
        work = session(node, inputs, 4)
    except Exception as e:
        yield Absent("ort attention", f"refused: {str(e).splitlines()[0][:80]}", everywhere=False)
        return
    yield "ort attention", work


def heads(given: Inputs, session: Any, helper: Any) -> Found:
    """MultiHeadAttention takes (batch, rows, heads * width): laid out so beforehand, outside what is timed."""
    cell = given.cell

    def flat(x: Any) -> Any:
        return np.ascontiguousarray(x.transpose(0, 2, 1, 3).reshape(1, x.shape[2], -1))

    inputs = {"Q": flat(given.q), "K": flat(given.k), "V": flat(given.v)}
    attributes = {"num_heads": cell.heads, "unidirectional": int(cell.formula == "causal")}
    node = helper.make_node("MultiHeadAttention", list(inputs), ["Y"], domain="com.microsoft", **attributes)
    try:
        run = session(node, inputs, 3)
    except Exception as e:
        yield Absent("ort heads", f"refused: {str(e).splitlines()[0][:80]}", everywhere=False)
        return

    def work() -> Any:
        return FromRows(run(), cell.heads)

    yield "ort heads", work


class FromRows:
    """(1, rows, heads * width) as an array (1, heads, rows, width), when it is asked for."""

    __slots__ = ("heads", "value")

    def __init__(self, value: Any, heads: int) -> None:
        self.value, self.heads = value, heads

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self.value.reshape(*self.value.shape[:2], self.heads, -1).transpose(0, 2, 1, 3)
