"""Machines: descriptions that ship are read, bad ones are refused with the place, this one is measured and kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moa import probe as probing
from moa.cache import Cache
from moa.machine import FOLDER, Machine, bytes_text, kept, machine_of, parsed, read, shipped, toml_of
from moa.text import MoaError

TEXT = (FOLDER / "zen4-server.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", shipped())
def test_what_ships(name: str) -> None:
    m = machine_of(name)
    assert m.name == name and m.title and m.source
    assert parsed(toml_of(m), "again") == m
    assert m.levels[-1].capacity_bytes is None and all(c.capacity_bytes for c in m.caches)
    speeds = [level.bytes_per_s for level in m.levels]
    assert speeds == sorted(speeds, reverse=True)
    energies = [level.pj_per_byte for level in m.levels]
    assert energies == sorted(energies)
    assert m.rate("float16") >= m.rate("float32") >= m.rate("float64") > 0
    lines = str(m).splitlines()
    assert lines[0].startswith(f"{name}: ") and sum("GB/s" in line for line in lines) == len(m.levels)


def test_the_ones_that_were_asked_for_ship() -> None:
    assert {"zen4-server", "laptop", "edge", "a100", "h100", "h200"} <= set(shipped())


def edited(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new, 1)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("name = \n", "m.toml is no TOML: Invalid value (at line 1, column 8)", "docs/cost.md"),
        ("x = " + "[" * 5000, "m.toml is no TOML", "docs/cost.md"),
        (edited("threads = 2\n", ""), "m.toml has no threads", "its keys: name, title"),
        (edited("threads = 2", "threads = true"), "m.toml: threads is True", "give a whole number"),
        (edited("threads = 2", "threads = 0"), "m.toml: threads is 0", "give a positive number"),
        (edited("threads = 2", "threads = 2\nspeed = 3"), "m.toml has an unknown key speed", "its keys"),
        (edited("line_bytes = 64", "line_bytes = 48"), "m.toml: level L1 has no capacity of whole lines", "capacity"),
        (edited("capacity_bytes = 32768\n", ""), "m.toml: level L1 has no capacity", "only the last level"),
        (edited("capacity_bytes = 32768", "capacity_bytes = 2097152"), "level L2 is smaller", "nearest on"),
        (edited('name = "DRAM"', 'name = "DRAM"\ncapacity_bytes = 64'), "the last level DRAM has a capacity", "holds"),
        (edited("[flops_per_s]", "[flops_per_s]\nfp8 = 1.0"), "m.toml: flops_per_s has fp8, no type", "float64"),
        (edited("float64 = 117300000000.0\n", ""), "m.toml: flops_per_s has no float64", "its keys"),
        (edited("pj_per_byte = 1.06", 'pj_per_byte = "x"'), "m.toml: levels[0]: pj_per_byte is 'x'", "give a number"),
        (edited("bytes_per_s = 390000000000.0", "bytes_per_s = nan"), "levels[0]: bytes_per_s is nan", "positive"),
        (edited("bfloat16 = 0.16\n", ""), "m.toml: pj_per_flop has no bfloat16", "its energy"),
        (edited("ways = 8", "ways = -1"), "m.toml: levels[0]: ways is -1", "give 0"),
    ],
)  # fmt: skip
def test_bad_descriptions(text: str, message: str, hint: str) -> None:
    with pytest.raises(MoaError) as e:
        parsed(text, "m.toml")
    assert message in str(e.value) and hint in str(e.value)


def test_bad_files_and_names(tmp_path: Path) -> None:
    with pytest.raises(MoaError, match="there is no machine 'cray'"):
        machine_of("cray")
    with pytest.raises(MoaError, match="cannot be read"):
        machine_of(str(tmp_path / "none.toml"))
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(MoaError, match="UTF-8"):
        machine_of(str(tmp_path / "a.toml"))
    (tmp_path / "b.toml").write_bytes(b"#" * 70000)
    with pytest.raises(MoaError, match="more than 65536 bytes"):
        machine_of(str(tmp_path / "b.toml"))
    (tmp_path / "c.toml").write_text(TEXT, encoding="utf-8")
    assert read(tmp_path / "c.toml") == machine_of("zen4-server")


def test_texts_of_a_description_cannot_harm(tmp_path: Path) -> None:
    m = parsed(TEXT.replace("two cores", "\\u001b[2J two cores"), "m.toml")
    assert "\x1b" not in str(m)
    assert parsed(toml_of(replace(m, title='a "b" \\ c')), "x").title == 'a "b" \\ c'


def test_this_machine_is_measured_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = Cache(tmp_path / "kept")
    monkeypatch.setattr("moa.cache.current", lambda: store)
    monkeypatch.setattr("moa.cache.made_by", lambda: "this version")
    monkeypatch.setattr(probing, "PEAK_S", 0.0)
    monkeypatch.setattr(probing, "LEVEL_S", 0.0)
    monkeypatch.setattr(probing, "MOST_SHARED_BYTES", 1 << 20)
    monkeypatch.setattr(probing, "free_bytes", lambda: 1 << 24)
    assert kept() is None and machine_of().name == "zen4-server"
    with pytest.raises(MoaError, match="has not been measured"):
        machine_of("here")
    told: list[str] = []
    m = probing.probe(told.append, 1)
    assert len(told) == len(m.levels) + len(m.flops_per_s)
    assert machine_of("here") == m == machine_of() and m.threads == 1
    assert all(level.bytes_per_s > 0 for level in m.levels) and m.rate("float32") > 0


def test_an_interrupt_keeps_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = Cache(tmp_path / "kept")
    monkeypatch.setattr("moa.cache.current", lambda: store)

    def stop(text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probing.probe(stop, 1)
    assert kept() is None and store.usage().entries == 0


class Calm:
    """A machine whose rate is always the same but for some samples."""

    def __init__(self, rates: list[float]) -> None:
        self.rates, self.usual = iter(rates), 1.0

    def rate(self) -> float:
        return next(self.rates, 1.0)


class Steps:
    bytes = 100

    def __init__(self, times: list[float]) -> None:
        self.times = iter(times)

    def __call__(self) -> float:
        return next(self.times)


def test_disturbed_samples_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "LEVEL_S", 0.0)
    monkeypatch.setattr(probing, "ENOUGH", 3)
    slow = probing.bandwidth(Steps([50.0, 50.0, 50.0]), Calm([0.5, 0.5, 0.5, 0.5]))  # type: ignore[arg-type]
    assert slow == (2.0, False)  # none of them counts, and that is told
    clock = iter(range(100))
    monkeypatch.setattr(probing, "LEVEL_S", 6)
    monkeypatch.setattr("moa.probe.time.perf_counter", lambda: next(clock))
    rates = [1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    found = probing.bandwidth(Steps([10.0, 50.0, 50.0, 10.0, 10.0, 10.0, 10.0]), Calm(rates))  # type: ignore[arg-type]
    assert found == (10.0, True)


def test_a_sweep_reads_what_it_says() -> None:
    s = probing.Sweep(10_000, 1)
    assert s.thread_bytes == 9728 and s.bytes == s.thread_bytes * s.rounds and s() > 0
    s.data[:] = 0
    s.rounds = 3  # odd: what is read is not undone by reading it again
    s.build()
    for at in (0, 5000, 9727):
        base = -s.data.ctypes.data % 64
        s.data[:] = 0
        s.data[base + at] = 1
        s.room[:] = 0
        s()
        assert s.room.any(), at
    s.data[:] = 0
    s.data[base + 9728 :] = 1
    s.room[:] = 0
    s()
    assert not s.room.any()


def test_the_command(tmp_path: Path) -> None:
    from tests.test_cli import moa

    code, text, _ = moa("machine", "a100")
    assert code == 0 and text == f"{machine_of('a100')}\n"
    code, text, _ = moa("machine", "a100", "--json", "-o", str(tmp_path / "x.toml"))
    assert code == 0 and json.loads(text)["levels"][0]["capacity_bytes"] == 192 << 10
    assert read(tmp_path / "x.toml") == machine_of("a100")
    code, _, errors = moa("machine", "nowhere")
    assert code == 2 and "there is no machine 'nowhere'" in errors
    assert moa("machine", "a100", "--threads", "2")[0] == 2


def test_bytes_as_text() -> None:
    assert [bytes_text(n) for n in (0, 64, 48 << 10, 300 << 20, 3 << 30)] == [
        "0 bytes", "64 bytes", "48 KiB", "300 MiB", "3 GiB",
    ]  # fmt: skip
    assert np.isfinite(Machine("a", "b", 1, 64, (("float32", 1.0),), (("float32", 1.0),), ()).rate("float16"))
