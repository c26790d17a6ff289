"""What each command answers, as JSON: the keys are stable, numbers that are not finite are strings."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from moa.cache import Cache, Usage
from moa.cost import Cost
from moa.explain.why import Why
from moa.kernel import Kernel
from moa.machine import Machine
from moa.measure import Measured
from moa.step import Step
from moa.text import MoaError
from moa.tune import Tuned
from moa.verify import Verification

Answer = dict[str, Any]
KEYS = """\
run      kernel, dtype, passes {written, compiled}, first_call_s, call_s, file (or null),
         outputs [{name, dtype, shape}], and of floats min, mean, max of what is finite, not_finite
explain  kernel, dtype, passes, stage (or null), text, equations [text],
         laws [{law, target, before, after, contract, conditions [{condition, reason}]}],
         refused [{law, target, reason}]
cost     kernel, sizes {name: n}, passes, formulas and values (or null) of flops, compulsory_words,
         streamed_words, scratch_bytes; arrays [{between, array, words}]; with --machine and sizes also
         machine, levels [{name, capacity_bytes, compulsory_bytes, lower_bound_bytes,
         conjectured_bound_bytes, attainable_bytes, predicted_bytes (or null), at_most, closed_form_bytes
         (or null), regime}],
         times_s {what: n}, energy_j; else null
cost --why   kernel, sizes {name: n}, threads, machine, candidates [{kind, name, chosen, time_s, waits_s {what: n},
         operations, words, exact, bytes {level: n or null}, reason}], refused [{law, target, reason}]
measure  kernel, dtype, sizes {name: n}, threads, form, line_bytes, accesses, levels [{capacity_bytes, ways,
         read_bytes, written_bytes, conflict_bytes (or null),
         arrays [{name, read_bytes, written_bytes, conflict_bytes (or null)}]}],
         predicted [{capacity_bytes, regime, compulsory_bytes, lower_bound_bytes, conjectured_bound_bytes,
         attainable_bytes, predicted_bytes (or null), at_most, measured_bytes, conflict_bytes, off (or null)}],
         calls [{name, loads, stores, bytes}], spills {stores, loads} (or null), counted {name: n},
         not_counted {name: reason}, call_s, calls_timed, peak_bytes (or null), crowded [text]
tune     kernel, dtype, sizes {name: n}, threads, candidates [{rows, keys, block, map_block, in_lanes,
         time_s, samples}], chosen, interrupted
verify   kernel, ok, checks [{name, ok, detail}]
emit     kernel, backend, files [path]
step     kernel, program (text), along, form, states [{name, shape [text], start, next}], position (or null),
         file (or null)
laws     laws [{stage, name, statement, contract, source, how}]
ops      operators [{name, symbol, identity, associative, commutative, idempotent, distributes,
         monotone}], functions and prelude [{name, parameters}]
machine  name, title, source, threads, line_bytes, flops_per_s {dtype: n}, pj_per_flop {dtype: n},
         levels [{name, capacity_bytes (or null), ways, shared, bytes_per_s, pj_per_byte}]
cache    folder (or null), used, entries, bytes, most_bytes
cache clear   folder (or null), entries and bytes removed
error    kind, message, place {file, line, column} (or null), remedy (or null)
"""
LEVEL = (
    "name", "capacity_bytes", "compulsory_bytes", "lower_bound_bytes", "conjectured_bound_bytes", "attainable_bytes",
    "predicted_bytes", "at_most", "closed_form_bytes", "regime",
)  # fmt: skip
MEASURED = ("measured_bytes", "conflict_bytes", "off")
COUNTS = ("flops", "compulsory_words", "streamed_words", "scratch_bytes")


def text_of(answer: Answer) -> str:
    """The answer as one JSON object of printable ASCII."""
    return json.dumps(finite(answer), indent=2, ensure_ascii=True, allow_nan=False)


def finite(x: Any) -> Any:
    """The same with numbers that JSON lacks as strings: "inf", "-inf", "nan"."""
    match x:
        case dict():
            return {k: finite(v) for k, v in x.items()}
        case list() | tuple():
            return [finite(v) for v in x]
        case float() if not math.isfinite(x):
            return str(x)
    return x


def of_error(e: MoaError) -> Answer:
    place = e.span and {"file": e.span.file, "line": e.span.line, "column": e.span.column}
    return {"error": {"kind": e.kind, "message": e.message, "place": place, "remedy": e.hint or None}}


def of_run(kernel: Kernel, outputs: dict[str, np.ndarray[Any, Any]], first_s: float, call_s: float) -> Answer:
    return {
        **of_kernel(kernel),
        "dtype": kernel.dtype,
        "passes": passes(kernel.passes),
        "first_call_s": first_s,
        "call_s": call_s,
        "outputs": [of_array(name, x) for name, x in outputs.items()],
    }


def of_kernel(kernel: Kernel) -> Answer:
    return {"kernel": kernel.name}


def passes(found: tuple[int, int]) -> Answer:
    return {"written": found[0], "compiled": found[1]}


def of_array(name: str, x: np.ndarray[Any, Any]) -> Answer:
    out: Answer = {"name": name, "dtype": str(x.dtype), "shape": list(x.shape)}
    if x.dtype.kind != "f":
        return out
    known = x[np.isfinite(x)].astype(np.float64)
    values = (known.min(), known.mean(), known.max()) if known.size else (None, None, None)
    numbers = {k: None if v is None else float(v) for k, v in zip(("min", "mean", "max"), values, strict=True)}
    return {**out, **numbers, "not_finite": int(x.size - known.size)}


def of_page(kernel: Kernel, stage: str | None, text: str) -> Answer:
    trace = kernel.derivation.trace
    return {
        **of_kernel(kernel),
        "dtype": kernel.dtype,
        "passes": passes(kernel.passes),
        "stage": stage,
        "text": text,
        "equations": str(kernel.derivation.equations).splitlines(),
        "laws": [
            {
                **{k: getattr(s, k) for k in ("law", "target", "before", "after", "contract")},
                "conditions": [{"condition": c, "reason": r} for c, r in s.conditions],
            }
            for s in trace.steps
        ],
        "refused": [dict(zip(("law", "target", "reason"), r, strict=True)) for r in dict.fromkeys(trace.refused)],
    }


def of_cost(kernel: Kernel, cost: Cost) -> Answer:
    return {
        **of_kernel(kernel),
        "sizes": dict(cost.sizes),
        "passes": passes(cost.passes),
        "formulas": {
            "flops": str(cost.flops),
            "compulsory_words": str(cost.compulsory_words),
            "streamed_words": str(cost.streamed_words),
            "scratch_bytes": str(cost.scratch_bytes),
        },
        "values": {name: cost.number(name) for name in COUNTS} if cost.sizes else None,
        "arrays": [
            {"between": level.between, "array": a.array, "words": str(a.count)}
            for level in cost.boundaries
            for a in level.arrays
        ],
        "machine": None if cost.machine is None else cost.machine.name,
        "levels": [{k: getattr(level, k) for k in LEVEL} for level in cost.levels] or None,
        "times_s": dict(cost.times_s()) or None,
        "energy_j": cost.energy_j(),
    }


def of_why(kernel: Kernel, found: Why) -> Answer:
    keys = ("kind", "name", "chosen", "operations", "words", "exact", "time_s", "reason")
    return {
        **of_kernel(kernel),
        "sizes": dict(found.sizes),
        "threads": found.threads,
        "machine": found.machine,
        "candidates": [
            {**{k: getattr(c, k) for k in keys}, "waits_s": dict(c.waits_s), "bytes": dict(c.bytes_moved)}
            for c in found.candidates
        ],
        "refused": [dict(zip(("law", "target", "reason"), r, strict=True)) for r in found.refused],
    }


def of_machine(m: Machine) -> Answer:
    keys = ("name", "capacity_bytes", "ways", "shared", "bytes_per_s", "pj_per_byte")
    return {
        **{k: getattr(m, k) for k in ("name", "title", "source", "threads", "line_bytes")},
        "flops_per_s": dict(m.flops_per_s),
        "pj_per_flop": dict(m.pj_per_flop),
        "levels": [{k: getattr(level, k) for k in keys} for level in m.levels],
    }


def of_tuned(kernel: Kernel, found: Tuned) -> Answer:
    return {
        **of_kernel(kernel),
        "dtype": found.dtype,
        "sizes": dict(found.sizes),
        "threads": found.threads,
        "candidates": [
            {
                **{k: getattr(c.strategy, k) for k in ("rows", "keys", "block", "map_block")},
                "in_lanes": c.strategy.rows_in_lanes,
                "time_s": c.time_s,
                "samples": c.samples,
            }
            for c in found.candidates
        ],
        "chosen": found.chosen,
        "interrupted": found.interrupted,
    }


def of_measured(kernel: Kernel, found: Measured) -> Answer:
    simulated = found.simulated
    keys = ("capacity_bytes", "ways", "read_bytes", "written_bytes", "conflict_bytes")
    parts = ("name", "read_bytes", "written_bytes", "conflict_bytes")
    return {
        **of_kernel(kernel),
        "dtype": found.dtype,
        "sizes": dict(found.sizes),
        "threads": simulated.threads,
        "form": simulated.form,
        "line_bytes": simulated.line_bytes,
        "accesses": simulated.accesses,
        "levels": [
            {
                **{k: getattr(level, k) for k in keys},
                "arrays": [{k: getattr(a, k) for k in parts} for a in level.arrays],
            }
            for level in simulated.levels
        ],
        "predicted": [{**{k: getattr(level, k) for k in (*LEVEL, *MEASURED)}} for level in found.predicted],
        "calls": [
            {"name": name, "loads": c.loads, "stores": c.stores, "bytes": c.size_bytes} for name, c in simulated.calls
        ],
        "spills": None if found.spills is None else {"stores": found.spills.stores, "loads": found.spills.loads},
        "counted": dict(found.counters.values),
        "not_counted": dict(found.counters.missing),
        "call_s": found.time_s,
        "calls_timed": found.timed_calls,
        "peak_bytes": found.peak_bytes,
        "crowded": list(found.crowded),
    }


def of_verification(kernel: Kernel, found: Verification) -> Answer:
    checks = [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in found.checks]
    return {**of_kernel(kernel), "ok": found.ok, "checks": checks}


def of_emitted(kernel: Kernel, backend: str, files: tuple[Path, ...]) -> Answer:
    return {**of_kernel(kernel), "backend": backend, "files": [str(path) for path in files]}


def of_step(kernel: Kernel, step: Step) -> Answer:
    return {
        **of_kernel(kernel),
        "program": step.text,
        "along": step.size,
        "form": step.form,
        "states": [
            {"name": s.name, "shape": [str(p) for _, p in s.axes], "start": str(s.start), "next": s.result}
            for s in step.states
        ],
        "position": step.position or None,
    }


def of_laws(laws: list[Any]) -> Answer:
    keys = ("stage", "name", "statement", "contract", "source", "how")
    return {"laws": [{k: getattr(law, k) for k in keys} for law in laws]}


def of_operators(operators: list[Any], functions: dict[str, list[str]], prelude: dict[str, list[str]]) -> Answer:
    keys = ("name", "symbol", "identity", "associative", "commutative", "idempotent", "distributes", "monotone")
    return {
        "operators": [{k: getattr(o, k) for k in keys} for o in operators],
        "functions": [{"name": k, "parameters": v} for k, v in functions.items()],
        "prelude": [{"name": k, "parameters": v} for k, v in prelude.items()],
    }


def of_cache(store: Cache | None, usage: Usage) -> Answer:
    folder = None if store is None else str(store.folder)
    return {"folder": folder, "entries": usage.entries, "bytes": usage.total_bytes}
