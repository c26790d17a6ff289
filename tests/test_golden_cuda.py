"""The files of outside results through kernels for GPUs, the GPU being this processor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu import COMPILER, FLAGS, SHIM, WITHOUT, Device
from test_golden_data import FILES, FOLDER, attention, write

from moa import device
from moa.backends import cuda_build
from moa.backends.cuda_build import Builder
from tests.golden import devices
from tests.golden.__main__ import main, outcome

needs_compiler = pytest.mark.skipif(not COMPILER, reason=WITHOUT)
COMMAND = (COMPILER, *FLAGS, "-x", "c++", "-I", str(SHIM))


class Guarded(Device):
    """Memory that ends where an array ends."""

    def wait(self) -> None:
        """A launch here is over when it returns."""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Guarded:
    return Guarded("#include <cuda_runtime.h>\n", tmp_path_factory.mktemp("memory"))


@pytest.fixture
def on_this_processor(guarded: Guarded) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "builder_for", lambda number: Builder(COMMAND))
        patch.setattr(devices, "memory", lambda: guarded)
        yield


@needs_compiler
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_the_folder(path: Any, on_this_processor: None) -> None:
    found = outcome(path, backend="cuda")
    assert found.state != "FAIL", str(found)


@needs_compiler
def test_a_wrong_value_fails(tmp_path: Any, on_this_processor: None, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = attention()
    wrong["O"][1, 2, 3, 1] += 1e-11
    write(tmp_path / "x.npz", **wrong)
    assert main([str(tmp_path), "--backend", "cuda"]) == 1
    assert "FAIL" in capsys.readouterr().out


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cuda_build, "DRIVERS", ("libno-such-driver.so",))
    devices.memory.cache_clear()
    assert main([str(FOLDER), "--backend", "cuda"]) == 2
    assert "there is no NVIDIA GPU here" in capsys.readouterr().err


class Driver:
    """What of a driver is used, in memory of this process; `code` is what it answers."""

    def __init__(self, code: int = 0) -> None:
        self.code = code
        self.held: list[Any] = []
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def function(*args: Any) -> int:
            self.asked.append(name)
            if name == "cuMemAllocManaged":
                self.held.append(np.empty(args[1].value, np.uint8))
                args[0]._obj.value = self.held[-1].ctypes.data
            return 0 if name == "cuInit" else self.code

        return function


def test_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls of the driver, one after the other; no driver is asked here."""
    driver = Driver()
    monkeypatch.setattr(devices, "loaded_driver", lambda: driver)
    gpu = devices.Gpu()
    x = np.arange(6.0).reshape(2, 3)
    there = gpu.array(x)
    gpu.wait()
    assert np.array_equal(there, x) and there.ctypes.data == driver.held[0].ctypes.data
    assert gpu.array(np.zeros((0, 4))).shape == (0, 4)
    assert driver.asked[:4] == ["cuInit", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent", "cuMemAllocManaged"]
    driver.code = 2
    with pytest.raises(devices.MoaError, match="cuMemAllocManaged failed: driver error 2"):
        gpu.array(x)
