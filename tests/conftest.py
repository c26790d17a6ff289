"""Fixtures of all tests. Golden files hold what a stage prints; `pytest --accept` writes them anew: read the diff."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

GOLDEN = Path(__file__).resolve().parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--accept", action="store_true", help="write golden files as they are now; read the diff after it")


class Golden(str):
    """The text of a golden file. `text == golden` is False where they differ, or writes the file under --accept."""

    path: Path
    accept: bool

    def __new__(cls, path: Path, accept: bool) -> Golden:
        self = super().__new__(cls, path.read_text(encoding="utf-8").removesuffix("\n") if path.exists() else "")
        self.path, self.accept = path, accept
        return self

    def __eq__(self, other: object) -> bool:
        if str.__eq__(self, other) and self.path.exists():
            return True
        if self.accept and isinstance(other, str):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(f"{other}\n", encoding="utf-8")
            return True
        return False

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


@pytest.fixture(autouse=True, scope="session")
def no_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is read from the cache of the user, and nothing is kept between tests: a test says so if it wants to.

    What is chosen for a machine is chosen for one that ships, whatever was measured here.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOA_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("MOA_CACHE", "0")
        patch.setenv("MOA_MACHINE", "zen4-server")
        patch.delenv("MOA_TUNED", raising=False)
        yield


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str], Golden]:
    """golden("tiles/causal") is the text of tests/golden/tiles/causal.txt."""
    accept = bool(request.config.getoption("--accept"))
    return lambda name: Golden(GOLDEN / f"{name}.txt", accept)
