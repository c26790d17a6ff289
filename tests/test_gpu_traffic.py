"""The harness of traffic on a GPU: its programs run on this processor, its reader reads a table made by hand."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from cuda_on_cpu import COMPILER, SHIM, WITHOUT
from test_emit import run as command

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def traffic() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_traffic", ROOT / "benchmarks" / "gpu_traffic.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_traffic"] = module
    spec.loader.exec_module(module)
    return module


def test_predictions_are_those_of_the_loops(traffic: Any) -> None:
    """Full: rows once, keys and values once for each 64 rows."""
    n, d = 16384, 64
    case = next(c for c in traffic.CASES if c.name == f"full_f32_{n}")
    p = traffic.predicted(case, traffic.library(case))
    assert p.compulsory_read == 4 * 3 * n * d and p.written == 4 * n * d
    assert p.streamed_read == 4 * (n * d + n // 64 * n * 2 * d)


# Made by hand in the form that `ncu --csv --page raw --print-units base` prints; the numbers are no measurement.
TABLE = """==PROF== Connected to process 1234
full: ok
==PROF== Disconnected from process 1234
"ID","Process ID","Kernel Name","Block Size","Grid Size",@METRICS
"","","","","",@UNITS
"0","1234","full_s0(full_words, long, unsigned char *, long)","(32, 8, 1)","(256, 1, 1)",@FIRST
"1","1234","full_s0(full_words, long, unsigned char *, long)","(32, 8, 1)","(256, 1, 1)",@SECOND
"""
UNITS = ("nsecond", "byte", "byte", "sector", "sector", "%", "", "%")
FIRST = ("2,000,000", "12,000,000", "0", "1,000,000", "125,000", "97.5", "0", "80")
SECOND = ("4,000,000", "12,000,000", "0", "1,000,000", "125,000", "97.5", "0", "80")


def table(traffic: Any, units: tuple[str, ...] = UNITS) -> str:
    def row(values: Any) -> str:
        return ",".join(f'"{v}"' for v in values)

    text = TABLE.replace("@METRICS", row(traffic.METRICS.values())).replace("@UNITS", row(units))
    return text.replace("@FIRST", row(FIRST)).replace("@SECOND", row(SECOND))


def test_a_table_is_read(traffic: Any) -> None:
    found = list(traffic.launches(table(traffic)))
    assert [x.kernel for x in found] == ["full_s0", "full_s0"]
    assert found[0].values["time_s"] == pytest.approx(2e-3)
    assert found[0].values["cache_read"] == 32e6
    said = {"compulsory_read": 12_000_000, "streamed_read": 64_000_000, "written": 4_000_000}
    lines = traffic.report("full", said, found)
    assert lines[0] == "full: 3.000 ms, 1 phase, 2 launches"
    assert [line.rsplit(" ", 1)[1] for line in lines[1:]] == ["1.000", "0.500", "1.000"]


def test_tables_that_are_none(traffic: Any) -> None:
    with pytest.raises(ValueError, match="no table"):
        list(traffic.launches("==ERROR== no permission\n"))
    with pytest.raises(ValueError, match="has no dram__bytes_read"):
        list(traffic.launches(table(traffic).replace("dram__bytes_read.sum", "dram__other.sum")))
    with pytest.raises(ValueError, match="--print-units base"):
        list(traffic.launches(table(traffic, ("fortnight", *UNITS[1:]))))
    assert traffic.report("none", {}, []) == ["none: 0 launches of 0 kernels were measured"]


@pytest.mark.skipif(not COMPILER, reason=WITHOUT)
def test_a_program_runs(traffic: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = traffic.Case("small", "window", "float32", {"n": 70, "w": 5}, {"dk": 8, "dv": 8})
    traffic.write_cases(tmp_path, (small,))
    said = json.loads((tmp_path / "small.prediction.json").read_text(encoding="ascii"))
    assert said["written"] == 4 * 70 * 8 and "small_program > small.csv" in (tmp_path / "measure.sh").read_text()
    where = [f"-I{SHIM}", f"-I{tmp_path / 'small'}"]
    sources = [tmp_path / "small_main.cu", tmp_path / "small" / "small.cu"]
    command(COMPILER, "-std=c++17", "-O1", "-w", *where, "-x", "c++", "-o", tmp_path / "program", *sources)
    command(tmp_path / "program")
    (tmp_path / "small.csv").write_text(table(traffic).replace("full_s0", "small_s0"), encoding="ascii")
    assert traffic.main(["read", str(tmp_path)]) == 0
