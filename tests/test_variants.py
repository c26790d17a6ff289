"""One kernel, many shapes: few instances are compiled, and a new length or batch compiles none."""

from __future__ import annotations

import numpy as np

import moa
from moa.oracle import oracle


def test_lengths_and_batches_share_instances() -> None:
    kernel = moa.compile("softmax(Q @ K.T / sqrt(dk)) @ V", Q="b n dk", K="b m dk", V="b m dv", dtype="float32")
    rng = np.random.default_rng(0)

    def call(b: int, n: int, m: int) -> None:
        arrays = [rng.standard_normal((b, x, 8)).astype(np.float32) for x in (n, m, m)]
        out = kernel(*arrays)
        exact = oracle(kernel.derivation.program, dict(zip("QKV", arrays, strict=True)))[0]
        assert np.abs(out - exact).max() < 1e-5

    for n in (1, 17, 512, 8192):
        call(1, n, 33)
    compiled = len(kernel._variants)
    assert compiled <= 4  # one row, a few rows, many rows: guards on the number of rows alone
    for b, n, m in ((64, 17, 5), (64, 512, 40), (3, 513, 200), (2, 8191, 3), (64, 1, 100)):
        call(b, n, m)
    assert len(kernel._variants) == compiled


def test_another_feature_size_is_another_instance() -> None:
    kernel = moa.compile("Q @ K.T", Q="n d", K="m d")
    for d in (3, 4, 3):
        kernel(np.ones((20, d)), np.ones((20, d)))
    assert len(kernel._variants) == 2
