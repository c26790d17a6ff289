"""OpenVINO: a graph of one scaled_dot_product_attention. bfloat16 is what it computes in; its arrays are float32."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.cells import Inputs
from benchmarks.peers import Absent, Found, Options


def peers(given: Inputs, o: Options) -> Found:
    import openvino as ov
    from openvino import opset13 as ops

    cell = given.cell
    if cell.dtype == "float64" or cell.formula in ("linear", "softcap", "grouped"):
        yield Absent("openvino", "no float64, and no such operator", everywhere=False)
        return
    arrays = [np.ascontiguousarray(a, np.float32) for a in (given.q, given.k, given.v)]
    if cell.formula in ("window", "document", "alibi", "bias"):
        arrays.append(given.combined(np.float32))
    parameters = [ops.parameter(list(a.shape), ov.Type.f32) for a in arrays]
    result = ops.scaled_dot_product_attention(*parameters, causal=cell.formula == "causal")
    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": o.threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if cell.dtype == "bfloat16" else "f32",
    }
    compiled = ov.Core().compile_model(ov.Model([result], parameters), "CPU", settings)
    request = compiled.create_infer_request()
    for k, a in enumerate(arrays):
        request.set_input_tensor(k, ov.Tensor(a, shared_memory=True))

    def work() -> Any:
        request.infer()
        return request.get_output_tensor(0).data

    yield "openvino", work
