"""The peers: each module gives what can be measured on a cell, or says why it cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.cells import Inputs, Reference
from benchmarks.sampling import Peer


@dataclass(frozen=True, slots=True)
class Absent:
    """A peer that cannot run, and the reason; a reason that holds for one cell only is not listed."""

    name: str
    reason: str
    everywhere: bool = True


@dataclass(frozen=True, slots=True)
class Options:
    """threads; the folder of the hand probes; whether torch.compile is used."""

    threads: int
    probe: Path | None = None
    compiled: bool = False


Found = Iterator[tuple[str, Callable[[], Any]] | Absent]
"""(name, work that returns the result, in any array of (1, heads, n, dv))."""

MODULES = {
    "moa": "moa_kernel",
    "beside": "moa_beside",
    "probe": "hand_probe",
    "numpy": "numpy_blas",
    "torch": "pytorch",
    "onnxruntime": "onnx_runtime",
    "openvino": "openvino_graph",
    "jax": "jax_xla",
    "ggml": "ggml_flash",
}


def found(given: Inputs, wanted: Reference, names: list[str], o: Options) -> Iterator[Peer | Absent]:
    """The peers of a cell. Each has run once and has its error; what fails says so."""
    for name in names:
        module = import_module(f"benchmarks.peers.{MODULES[name]}")
        try:
            for entry in module.peers(given, o):
                yield entry if isinstance(entry, Absent) else checked(entry[0], entry[1], wanted)
        except ImportError as e:
            yield Absent(name, f"{e.name or e} is not installed")


def checked(name: str, work: Callable[[], Any], wanted: Reference) -> Peer | Absent:
    try:
        return Peer(name, work, wanted.error(plain(work())))
    except (RuntimeError, TypeError, ValueError, NotImplementedError, MemoryError) as e:
        return Absent(
            name, f"fails here: {str(e).strip().splitlines()[0][:100] if str(e) else type(e).__name__}", False
        )


def plain(result: Any) -> Any:
    """A NumPy array of a result, bfloat16 of torch as float32."""
    if hasattr(result, "detach"):
        result = result.detach().float().numpy() if str(result.dtype) == "torch.bfloat16" else result.detach().numpy()
    return result
