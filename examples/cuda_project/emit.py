"""Writes the CUDA of both kernels: python emit.py FOLDER. The CMake of this project calls it."""

import sys
from pathlib import Path

import moa

FORMULAS = Path(__file__).resolve().parent.parent / "c_project"

for name in ("causal_gqa", "rms_norm"):
    moa.compile(FORMULAS / f"{name}.moa", dtype="float32").emit(Path(sys.argv[1]) / name, backend="cuda")
