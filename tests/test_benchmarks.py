"""The benchmarks run, merge what they measure, and judge it rightly. Nothing depends on how long anything takes."""

from __future__ import annotations

import ctypes
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as run
from benchmarks.cells import Cell, cells, inputs_of, reference, rounded
from benchmarks.peers import Options, found, hand_probe, moa_beside, moa_kernel, numpy_blas
from benchmarks.record import BESIDE, best_peer, met, reached
from benchmarks.sampling import Peer, Sample, measure
from moa.ceilings import READ_CHUNK_BYTES, Ceiling, Reader
from moa.storage import numpy_dtype

SMALL = {c.formula: replace(c, heads=4, kv_heads=4 // (c.heads // c.kv_heads), n=c.n and 37, m=37) for c in cells()}
SMALL["grouped"] = replace(SMALL["grouped"], heads=4, kv_heads=1, n=1)


@pytest.mark.parametrize("formula", sorted(SMALL))
def test_kernel_and_numpy_agree_with_the_reference(formula: str) -> None:
    cell = replace(SMALL[formula], dtype="float64")
    given = inputs_of(cell)
    wanted = reference(given)
    peers = list(found(given, wanted, ["moa", "numpy"], Options(1)))
    assert [p.name for p in peers] == ["moa", "numpy"]
    assert all(isinstance(p, Peer) and p.error < 1e-11 for p in peers), peers


@pytest.mark.parametrize("formula", sorted(SMALL))
def test_what_stands_beside_the_kernel_computes_the_same(formula: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moa_beside, "TUNED_S", 1e-3)
    given = inputs_of(replace(SMALL[formula], dtype="float64"))
    peers = list(found(given, reference(given), ["beside"], Options(1)))
    names = [p.name for p in peers if shutil.which("cc") or p.name != "moa in C"]
    assert names == [n for n in BESIDE if shutil.which("cc") or n != "moa in C"]
    assert all(isinstance(p, Peer) and p.error < 1e-11 for p in peers if p.name in names), peers


def test_a_wrong_result_has_an_error() -> None:
    given = inputs_of(replace(SMALL["causal"], dtype="float64"))
    wanted = reference(given)
    right = np.asarray(next(iter(numpy_blas.peers(given, Options(1))))[1]())
    wrong = right.copy()
    wrong[0, -1, -1, 0] += 1e-3
    assert wanted.error(right) < 1e-12 < 0.9e-3 < wanted.error(wrong)


@pytest.mark.parametrize("formula", sorted(SMALL))
def test_pairs_are_those_of_the_mask(formula: str) -> None:
    cell = SMALL[formula]
    there = cell.heads * inputs_of(cell).mask(np.arange(cell.n)).sum()
    halved = cell.of.causal and formula not in ("window", "document")  # counted as half of all, everywhere
    assert cell.pairs == (cell.heads * cell.n * cell.m / 2 if halved else there)


def test_a_run_merges_its_cells_and_shows_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.json"
    common = ["--peers", "moa,numpy,probe", "--seconds", "0", "--threads", "1", "--json", str(path)]
    assert run.main(["--cells", "small f32", *common]) == 0
    assert run.main(["--cells", "rows f32 n2 *", "--verbose", *common]) == 0
    printed = capsys.readouterr().out
    assert "absent: probe: no folder of hand-written kernels is given" in printed and "numpy" in printed
    kept = json.loads(path.read_text())["cells"]
    assert set(kept) == {"small f32", "rows f32 n2 m4096 d64"}
    assert all(p["error"] < 1e-5 and p["samples"] for c in kept.values() for p in c["peers"].values())
    assert run.main(["--show", "--json", str(path)]) == 0
    assert "small f32" in capsys.readouterr().out
    assert run.main(["--show", "--markdown", "--json", str(path)]) == 0
    assert "| small f32 |" in capsys.readouterr().out


def test_an_interruption_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.json"

    def stopped(peers: list[Peer], *rest: object) -> None:
        peers[0].samples.append(Sample(1.0, 1.0, 1.0, False))
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "measure", stopped)
    assert run.main(["--cells", "small f32,round*", "--peers", "moa", "--threads", "1", "--json", str(path)]) == 130
    kept = json.loads(path.read_text())["cells"]
    assert set(kept) == {"small f32"} and kept["small f32"]["peers"]["moa"]["median_s"] == 1.0


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in ((["--cells", "nothing"], "--list"), (["--peers", "moa,tench"], "no peer tench")):
        with pytest.raises(SystemExit):
            run.main(arguments)
        assert said in capsys.readouterr().err


def test_clean_samples_are_between_probes_at_full_speed() -> None:
    times = (
        (1.0, 100.0, 100.0, False),
        (9.0, 80.0, 100.0, False),
        (9.0, 100.0, 80.0, False),
        (9.0, 100.0, 100.0, True),
    )
    peer = Peer("p", lambda: None, samples=[Sample(*t) for t in times])
    assert peer.clean(100.0) == [1.0]
    assert peer.median_s(100.0) == 9.0, "of all, where few are clean"
    peer.samples += peer.samples[:1] * 2
    assert peer.median_s(100.0) == 1.0


def test_what_is_reached() -> None:
    by_name = {c.name: c for c in cells()}
    entry = {"flops": 8.0, "least_flops": 10.0, "peak": 1.0}
    peers = {"moa": 20.0, "probe": 18.0, "read": 15.0, "a": 40.0, "b": 30.0}
    entry["peers"] = {k: {"median_s": v} for k, v in peers.items()}  # type: ignore[assignment]
    assert best_peer(entry) == "b", "neither the probe nor the read is a peer"

    def value(name: str, **more: object) -> float:
        return reached(by_name[name], {name: entry, **more})  # type: ignore[arg-type]

    assert value("full f32 n512 d64") == 0.9 and not met(by_name["full f32 n512 d64"], 0.9)
    assert value("decode f32 m4096 d128") == 0.75
    assert value("decode gqa f32 m4096 d128") == 0.75, "reading takes longer than 10 flops at 1 flop/s"
    assert value("window f32 n2048 d64") == 0.4
    assert value("small f32") == 20e6 and not met(by_name["small f32"], 31) and met(by_name["small f32"], 29)
    other = {"flops": 8.0, "peers": {"moa": {"median_s": 10.0}}}
    assert value("tail f32 n331 d64", **{"round f32 n320 d64": other}) == 0.5
    assert value("rows f32 n2 m4096 d64", **{"rows f32 n16 m4096 d64": other}) == 2.0
    assert np.isnan(value("tail f32 n331 d64"))


def test_a_read_reads_every_chunk() -> None:
    words = READ_CHUNK_BYTES // 4
    a = np.zeros(2 * words + 3 * 128 + 5, np.int32)
    reader = Reader([a], 1)
    assert reader.bytes == (2 * words + 3 * 128) * 4
    for at in (0, 127, words - 1, words, 2 * words - 1, 2 * words, 2 * words + 3 * 128 - 1):
        a[:], seen = 0, []
        a[at] = 1
        for first in range(3):  # what an item has read is what its last line of sums holds
            packed = (ctypes.c_int64 * 2)(a.ctypes.data, reader.bytes)
            reader.room[:] = 0
            base = -(-reader.room.ctypes.data // 64) * 64
            entry = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)(reader.built.phases[0])
            entry(ctypes.addressof(packed), first, first + 1, base)
            seen.append(bool(reader.room.any()))
        assert seen == [k == at // words for k in range(3)], at


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_ceilings_run_in_samples(dtype: str) -> None:
    ceiling = Ceiling(dtype, 1)
    peer = Peer("nothing", lambda: None)
    measure([peer], ceiling, 1, 0.0, lambda text: None)
    assert peer.samples and ceiling.peak >= ceiling.usual > 0


def test_bfloat16_inputs_are_what_bfloat16_holds() -> None:
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    assert np.array_equal(rounded(x), x.astype(numpy_dtype("bfloat16")).astype(np.float32))
    assert np.array_equal(np.asarray(hand_probe.Halves(hand_probe.halves(rounded(x)))), rounded(x))


def test_every_cell_has_a_name_and_neighbours_exist() -> None:
    every: list[Cell] = list(cells())
    names = [c.name for c in every]
    assert len(set(names)) == len(names)
    assert {c.beside for c in every} - {""} <= set(names)
    assert moa_kernel.peers and all(c.flops > 0 and c.least_flops() >= c.flops for c in every)
