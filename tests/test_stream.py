"""Stream: pass counts, and that a Fold at any tile size, in any number of parts, is the system it was made from."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from normals_by_hand import KINDS, SIZES, SYSTEMS, adversarial, arrays, attention, causal

from moa.interp.normal import run, run_halves
from moa.normal import Eq, Fold, Normal, load
from moa.rewrite import Trace
from moa.stream import passes, stream, stream_with_report

PARAMS = {"tau": 0.7}


def same(want: dict[str, np.ndarray], got: dict[str, np.ndarray], outputs: tuple[str, ...]) -> bool:
    """Whether the outputs agree to 1e-12 of the largest value, NaN and infinities at the same places."""
    for name in outputs:
        w, g = want[name], got[name]
        finite = np.isfinite(w)
        if not np.array_equal(np.isnan(w), np.isnan(g)):
            return False
        infinite = ~finite & ~np.isnan(w)
        if not np.array_equal(w[infinite], g[infinite]):
            return False
        scale = max(1.0, float(np.abs(w[finite]).max(initial=0.0)))
        if not np.all(np.abs(w[finite] - g[finite]) <= 1e-12 * scale):
            return False
    return True


@cache
def meaning(name: str, kind: str) -> dict[str, np.ndarray]:
    return run(SYSTEMS[name][0], adversarial(kind), SIZES, PARAMS)


@cache
def streamed(name: str) -> tuple[Normal, Normal]:
    normal = SYSTEMS[name][0]
    return normal, stream(normal, Trace())


@pytest.mark.parametrize("name", SYSTEMS)
def test_passes(name: str) -> None:
    normal, before, after = SYSTEMS[name]
    trace = Trace()
    out, report = stream_with_report(normal, trace)
    assert report.passes == (before, after)
    assert max(n for _, n in passes(normal)) == before
    assert max(n for _, n in passes(out)) == after
    assert bool(trace.refused) == (after > 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_fold_at_any_tile_size_is_the_system(name: str, kind: str) -> None:
    normal, out = streamed(name)
    data = adversarial(kind)
    want = meaning(name, kind)
    for tile in (1, 5, None):
        assert same(want, run(out, data, SIZES, PARAMS, tile=tile), normal.outputs), tile


@pytest.mark.parametrize("lag", [0.5, 4.0])
@pytest.mark.parametrize("kind", ["plain", "growing", "masked prefix", "some masked"])
@pytest.mark.parametrize("name", [k for k, (_, before, after) in SYSTEMS.items() if after < before])
def test_references_may_lag(name: str, kind: str, lag: float) -> None:
    """States kept near their reference, and moved only when it is too far: the same law, the last move included."""
    normal, out = streamed(name)
    data = adversarial(kind)
    got = run(out, data, SIZES, PARAMS, tile=2, lag=lag)
    assert same(meaning(name, kind), got, normal.outputs)


def test_a_lagging_reference_is_one() -> None:
    """With a lag that nothing exceeds the states are never moved: a large score then overflows, as it must."""
    normal, out = streamed("scores")
    data = adversarial("growing")
    assert not same(meaning("scores", "growing"), run(out, data, SIZES, PARAMS, tile=2, lag=1e5), normal.outputs)


@pytest.mark.parametrize("kind", ["plain", "growing", "masked prefix", "some masked", "not a number"])
@pytest.mark.parametrize("name", [k for k, (_, before, after) in SYSTEMS.items() if after < before])
def test_parts_merge(name: str, kind: str) -> None:
    """The merge law: an empty part is neutral, and parts may be merged in any order and any nesting."""
    normal, out = streamed(name)
    data = adversarial(kind)
    want = meaning(name, kind)
    for cuts, tree in (
        ((0,), None),
        ((11,), None),
        ((4,), None),
        ((4,), lambda n: (1, 0)),
        ((3, 8), lambda n: ((0, 1), 2)),
        ((3, 8), lambda n: (0, (1, 2))),
        ((3, 8), lambda n: (2, (0, 1))),
    ):
        got = run_halves(out, data, SIZES, PARAMS, cuts=cuts, tree=tree)
        assert same(want, got, normal.outputs), cuts


def test_attention_in_numpy() -> None:
    a = arrays()
    s = a["Q"] @ a["K"].T / 2
    p = np.exp(s - s.max(1, keepdims=True))
    want = {"O": p / p.sum(1, keepdims=True) @ a["V"]}
    for normal in (attention(), stream(attention(), Trace())):
        assert same(want, run(normal, a, SIZES, tile=5), ("O",))


def test_causal_in_numpy() -> None:
    a = arrays()
    s = np.where(np.arange(11) <= np.arange(7)[:, None], a["Q"] @ a["K"].T / 2, -np.inf)
    p = np.exp(s - s.max(1, keepdims=True))
    want = {"O": p / p.sum(1, keepdims=True) @ a["V"]}
    for guard in (True, False):
        assert same(want, run(stream(causal(guard), Trace()), a, SIZES, tile=5), ("O",))


def test_attention_prints() -> None:
    assert str(stream(attention(), Trace())).splitlines() == [
        "d[i, j] = sum_{k < dk} Q[i, k] * K[j, k]",
        "fold j < m:",
        "  m.0[i]: max of d[i, j]",
        "    finish m.0#0[i]",
        "  l[i]: sum of exp(1 / sqrt(dk) * (d[i, j] - r0'))",
        "    refs   r0 = maximum(m.0#0[i], lowest / 2)",
        "    move   [exp(1 / sqrt(dk) * (r0 - r0'))]",
        "    finish l#0[i]",
        "  O.0[i, c]: sum of exp(1 / sqrt(dk) * (d[i, j] - r0')) * V[j, c]",
        "    refs   r0 = maximum(m.0#0[i], lowest / 2)",
        "    move   [exp(1 / sqrt(dk) * (r0 - r0'))]",
        "    finish O.0#0[i, c]",
        "O[i, c] = O.0[i, c] / where(l[i] == 0, 1, l[i])",
    ]


def test_masks_become_domains() -> None:
    (fold,) = [e for e in stream(causal(), Trace()).equations if isinstance(e, Fold)]
    assert str(fold.domain) == "i >= j"
    assert all(str(m.domain) == "i >= j" for m in fold.members)


def test_refusals_name_the_function_that_stopped_it() -> None:
    for name, word in (("inside tanh", "tanh"), ("standardised", "reference")):
        trace = Trace()
        stream(SYSTEMS[name][0], trace)
        assert any(word in reason for _, _, reason in trace.refused)


def test_steps_record_passes_and_conditions() -> None:
    trace = Trace()
    stream(attention(), trace)
    by_law = {s.law: s for s in trace.steps}
    assert by_law["defer"].passes == (3, 2)
    assert by_law["change of reference"].passes == (2, 1)
    assert any("<= 0" in what for what, _ in by_law["change of reference"].conditions)


def test_output_is_the_same_whatever_the_names() -> None:
    """No law looks at a name: arrays renamed, the system comes out the same but for the names."""
    normal = attention()
    names = {"d": "a", "m": "b", "l": "z", "O": "x", "Q": "u", "K": "v", "V": "w"}

    def renamed(s):  # type: ignore[no-untyped-def]
        from moa.normal import map_scalar

        return map_scalar(s, lambda x: load(names[x.args[0]], x.args[1]) if x.op == "load" else None)

    equations = []
    for e in normal.equations:
        assert isinstance(e, Eq)
        pieces = tuple((c, renamed(s)) for c, s in e.pieces)
        equations.append(Eq(names[e.name], e.kind, e.outer, pieces, e.op, e.red, e.domain))
    other = Normal(normal.name, normal.inputs, tuple(equations), ("x",))
    text = str(stream(other, Trace()))
    import re

    back = {v: k for k, v in names.items()}
    text = re.sub(r"\b([a-z])(?=[\[.#])", lambda t: back.get(t[1], t[1]), text)
    assert text == str(stream(normal, Trace()))
