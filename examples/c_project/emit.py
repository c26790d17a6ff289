"""Writes the C of both kernels: python emit.py FOLDER. The CMake of this project calls it."""

import sys
from pathlib import Path

import moa

HERE = Path(__file__).resolve().parent

for name in ("causal_gqa", "rms_norm"):
    moa.compile(HERE / f"{name}.moa", dtype="float32").emit(Path(sys.argv[1]) / name)
