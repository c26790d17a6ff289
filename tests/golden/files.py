"""Files of results that other packages computed: inputs, what came out, and how far ours may be from it."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

WIDE = 1e-12  # the tolerance of what a package computed in float64 throughout
BROKEN = (OSError, ValueError, EOFError, zipfile.BadZipFile)


class Unusable(Exception):
    """A file that cannot be compared; the message says why."""


class Foreign(Unusable):
    """A file of another format, or of a system without a program."""


@dataclass(frozen=True, slots=True)
class Case:
    """One file: the system it is of, its tolerance, and its arrays by name."""

    system: str
    tolerance: float
    arrays: dict[str, Array]

    def __getitem__(self, name: str) -> Array:
        if name not in self.arrays:
            raise Unusable(f"the file has no `{name}`")
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def number(self, name: str) -> float:
        value = self._scalar(name)
        if self[name].dtype.kind not in "fiu":
            raise Unusable(f"`{name}` is not a number")
        return float(value)

    def integer(self, name: str) -> int:
        return int(self.number(name))

    def word(self, name: str) -> str:
        return str(self._scalar(name))

    def _scalar(self, name: str) -> Any:
        if self[name].size != 1:
            raise Unusable(f"`{name}` is one value, here it has shape {list(self[name].shape)}")
        return self[name].reshape(())[()]

    def expected(self, name: str) -> tuple[Array, float]:
        """What an output is compared with, and how closely: as it was in float64 throughout, where that is known."""
        if f"{name}_wide" in self:
            return self[f"{name}_wide"], WIDE
        return self[name], self.tolerance


def read(path: Path) -> Case:
    """The case in a file.

    Errors: Foreign if the file names no system, Unusable if it cannot be read
    """
    try:
        with np.load(path, allow_pickle=False) as opened:
            arrays = {k: opened[k] for k in opened.files} if isinstance(opened, np.lib.npyio.NpzFile) else {}
    except BROKEN as e:
        raise Unusable(f"it cannot be read: {e}") from None
    if "system" not in arrays:
        raise Foreign("another format: it names no `system`")
    case = Case("", WIDE, arrays)
    return Case(case.word("system"), case.number("tol") if "tol" in case else WIDE, arrays)
