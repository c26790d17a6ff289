"""Where the time of the first call goes, stage by stage, imports left out.

cold is a new process without a disk cache, warm the same once more, kept a new process that finds it in the cache.

    python benchmarks/compile_time.py [NAME ...] [--repeat 3] [--json FILE]
    python -m cProfile -s tottime benchmarks/compile_time.py --here causal      # one program, cold, in this process

Processor time in milliseconds, the least of the repeats. A stage's time is its own: what it asks of another stage is
counted there. `other` is the rest of `compile` and of the first call; `call` is a second call with the same shapes.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import moa

PROGRAMS: dict[str, tuple[str, dict[str, tuple[int, ...]], dict[str, int]]] = {
    "attention": (
        """
def attention(Q[..., n, dk], K[..., m, dk], V[..., m, dv]):
    return softmax(Q @ K.T / sqrt(dk)) @ V
""",
        {"Q": (2, 300, 64), "K": (2, 200, 64), "V": (2, 200, 64)},
        {},
    ),
    "causal": (
        """
def causal(Q[..., n, dk], K[..., n, dk], V[..., n, dv]):
    i, j = iota(n)[:, None], iota(n)
    return softmax(where(j <= i, Q @ K.T / sqrt(dk), -inf)) @ V
""",
        {"Q": (2, 300, 64), "K": (2, 300, 64), "V": (2, 300, 64)},
        {},
    ),
    "window": (
        """
def window(Q[..., n, dk], K[..., n, dk], V[..., n, dv], w: int):
    i, j = iota(n)[:, None], iota(n)
    return softmax(where((j <= i) & (i - j < w), Q @ K.T / sqrt(dk), -inf)) @ V
""",
        {"Q": (2, 300, 64), "K": (2, 300, 64), "V": (2, 300, 64)},
        {"w": 100},
    ),
    "linear": (
        """
def linear(Q[..., n, dk], K[..., n, dk], V[..., n, dv]):
    A = where(iota(n) <= iota(n)[:, None], (elu(Q) + 1) @ (elu(K) + 1).T, 0)
    return (A @ V) / (sum(A, axis=-1, keepdims=True) + 1e-6)
""",
        {"Q": (2, 300, 64), "K": (2, 300, 64), "V": (2, 300, 64)},
        {},
    ),
    "decode": (
        """
def decode(Q[..., n, dk], K[..., m, dk], V[..., m, dv]):
    return softmax(Q @ K.T / sqrt(dk)) @ V
""",
        {"Q": (2, 1, 64), "K": (2, 300, 64), "V": (2, 300, 64)},
        {},
    ),
}

KINDS = ("cold", "warm", "kept")
STAGES: tuple[tuple[str, str, str], ...] = (  # stage, module, function as the module calls it
    ("parse", "moa.kept", "parse"),
    ("parse", "moa.kept", "parse_expression"),
    ("parse", "moa.check", "parse"),
    ("check", "moa.pipeline", "check"),
    ("normalise", "moa.pipeline", "normalise"),
    ("name", "moa.pipeline", "name"),
    ("stream", "moa.pipeline", "streamed_beside"),
    ("stream", "moa.pipeline", "stream_with_report"),
    ("stream", "moa.pipeline", "forms_of"),
    ("tile", "moa.pipeline", "tile"),
    ("tile", "moa.kernel", "planned"),
    ("ranges", "moa.tile.plan", "tile_ranges"),
    ("lower", "moa.pipeline", "lower"),
    ("expand", "moa.expand", "expand"),
    ("print", "moa.backends.llvm_build", "print_llvm"),
    ("verify", "moa.backends.llvm_build", "parse"),
    ("codegen", "moa.backends.llvm_build", "emitted"),
    ("load", "moa.backends.llvm_build", "load"),
    ("cache", "moa.kept", "recalled"),
    ("cache", "moa.kept", "from_json"),
    ("cache", "moa.kept", "keep"),
    ("worker", "moa.backends.worker", "pool"),
)


class Stopwatch:
    """Own times of the stages, in seconds."""

    def __init__(self) -> None:
        self.own: dict[str, float] = {}
        self.inside: list[float] = []

    def timed(self, stage: str, f: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **named: Any) -> Any:
            self.inside.append(0.0)
            start = time.process_time()
            try:
                return f(*args, **named)
            finally:
                taken = time.process_time() - start
                self.own[stage] = self.own.get(stage, 0.0) + taken - self.inside.pop()
                if self.inside:
                    self.inside[-1] += taken

        return wrapped

    def attach(self) -> None:
        """Puts a timer around each stage that is there; everything it imports is loaded by then."""
        for stage, module, function in STAGES:
            owner = importlib.import_module(module)
            if hasattr(owner, function):
                setattr(owner, function, self.timed(stage, getattr(owner, function)))
        build = importlib.import_module("moa.backends.llvm_build")
        if hasattr(build, "machine"):  # the target machine generates the code
            made = build.machine
            watch = self

            class Machine:
                def __init__(self, target: Any) -> None:
                    self.inner = made(target)
                    self.emit_object = watch.timed("codegen", self.inner.emit_object)
                    self.emit_assembly = self.inner.emit_assembly

            original = importlib.import_module("llvmlite.binding").create_mcjit_compiler
            llvm = importlib.import_module("llvmlite.binding")
            setattr(build, "machine", Machine)  # noqa: B010
            setattr(  # noqa: B010
                llvm, "create_mcjit_compiler", lambda m, t: original(m, t.inner if isinstance(t, Machine) else t)
            )


def once(name: str, watch: Stopwatch) -> dict[str, float]:
    """Milliseconds of each stage of one compilation and its first call."""
    text, shapes, scalars = PROGRAMS[name]
    random = np.random.default_rng(0)
    arrays = {k: random.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    watch.own.clear()
    start = time.process_time()
    kernel = moa.compile(text, dtype="float32")
    kernel(**arrays, **scalars, threads=1)
    total = time.process_time() - start
    out = {k: v * 1e3 for k, v in watch.own.items()}
    start = time.process_time()
    for _ in range(10):
        kernel(**arrays, **scalars, threads=1)
    call = (time.process_time() - start) / 10
    return {**out, "other": (total - sum(watch.own.values())) * 1e3, "total": total * 1e3, "call": call * 1e3}


def imports() -> None:
    """Loads what the first call would load."""
    names = [module for _, module, _ in STAGES]
    for module in dict.fromkeys(["islpy", "lark", "lark.indenter", "llvmlite.binding", "moa.cost", *names]):
        importlib.import_module(module)


def child(name: str) -> dict[str, dict[str, float]]:
    imports()
    watch = Stopwatch()
    watch.attach()
    return {"cold": once(name, watch), "warm": once(name, watch)}


def measured(name: str, repeat: int, env: dict[str, str]) -> list[dict[str, dict[str, float]]]:
    """What each of some new processes tells."""
    command = [sys.executable, str(Path(__file__).resolve()), "--here", name]
    runs = []
    for _ in range(repeat):
        done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **env})
        runs.append(json.loads(done.stdout.splitlines()[-1])[name])
    return runs


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("names", nargs="*", metavar="NAME", help="of " + ", ".join(PROGRAMS))
    p.add_argument("--repeat", type=int, default=3)
    p.add_argument("--json", type=Path)
    p.add_argument("--here", action="store_true", help="in this process, once")
    o = p.parse_args()
    names = o.names or list(PROGRAMS)
    if o.here:
        print(json.dumps({n: child(n) for n in names}))
        return
    found: dict[str, dict[str, dict[str, float]]] = {}
    try:
        for n in names:
            runs = measured(n, o.repeat, {"MOA_CACHE": "0"})
            with tempfile.TemporaryDirectory() as folder:
                env = {"MOA_CACHE": "", "MOA_CACHE_DIR": folder}
                filled = [{"kept": r["cold"]} for r in measured(n, 1 + o.repeat, env)[1:]]
            best = {kind: min((r[kind] for r in runs), key=lambda r: r["total"]) for kind in ("cold", "warm")}
            best["kept"] = min((r["kept"] for r in filled), key=lambda r: r["total"])
            found[n] = best
            print(f"{n}: " + ", ".join(f"{k} {best[k]['total']:.0f} ms" for k in KINDS), file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    stages = [*dict.fromkeys(s for s, _, _ in STAGES), "other", "total", "call"]
    print(f"{'':10}" + "".join(f"{n + ' ' + kind:>16}" for n in found for kind in KINDS))
    for s in stages:
        row = [found[n][kind].get(s) for n in found for kind in KINDS]
        if any(x is not None for x in row):
            print(f"{s:10}" + "".join(f"{'' if x is None else format(x, '.1f'):>16}" for x in row))
    if o.json is not None:
        o.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
