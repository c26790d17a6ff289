"""Code of a bounded length: where blocks of rows would make it too long, fewer rows are computed at once."""

from __future__ import annotations

import numpy as np
import pytest

import moa
import moa.kernel as kernels
from moa.expand import expand
from moa.loops import longest_block
from moa.text import MoaError

TEXT = "softmax(Q @ K.T) @ V"
SHAPES = {"Q": "n d", "K": "m d", "V": "m c"}


def arguments() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((n, 8)) for n in (100, 70, 70)]


def test_fewer_rows_where_blocks_would_be_long(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = arguments()
    usual = moa.compile(TEXT, **SHAPES)
    want = usual(q, k, v)
    (variant,) = usual._variants.values()
    rows = variant.placed.strategy.rows
    longest = longest_block(expand(variant.placed.lowered.loops))
    monkeypatch.setattr(kernels, "LONGEST_BLOCK", longest - 1)
    small = moa.compile(TEXT, **SHAPES)
    assert np.allclose(small(q, k, v), want, 1e-13, 1e-13)
    (variant,) = small._variants.values()
    assert variant.placed.strategy.rows < rows
    assert longest_block(expand(variant.placed.lowered.loops)) < longest


def test_too_long_for_any_rows_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "LONGEST_BLOCK", 10)
    with pytest.raises(MoaError, match=r"blocks of \d+ instructions"):
        moa.compile(TEXT, **SHAPES)(*arguments())
