"""Arrays from files and to files: .npy and .npz. Nothing is unpickled; a file is written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from moa.text import MoaError, printable

SUFFIXES = (".npy", ".npz")


def from_file(path: str, key: str) -> np.ndarray[Any, Any]:
    """An array of a .npy file, or the one of this key of a .npz file.

    Errors: MoaError of kind "argument" if it cannot be read, or holds no plain array of this name
    """
    shown = printable(path)
    try:
        found = np.load(path, allow_pickle=False)
        if not key:
            return np.asarray(found)
        with found:
            if key in found.files:
                return np.asarray(found[key])
            held = ", ".join(printable(k) for k in found.files)
    except OSError as e:
        raise MoaError("argument", f"{shown} cannot be read: {e.strerror or e}", None, "check the path") from None
    except Exception as e:
        reason = printable(str(e).splitlines()[0]) if str(e) else type(e).__name__
        raise MoaError("argument", f"{shown} holds no plain array: {reason}", None, "save it with numpy.save") from None
    raise MoaError("argument", f"{shown} holds no {printable(key)}", None, f"it holds {held or 'nothing'}")


def plain(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array in a type that files know: float32 for bfloat16, which it holds exactly."""
    return x.astype(np.float32) if x.dtype.kind == "V" else x


def writable(path: Path, suffixes: tuple[str, ...] = SUFFIXES) -> None:
    """Nothing, where results can be written to a file of this name: asked before they are computed.

    Errors: MoaError of kind "argument"
    """
    shown = printable(str(path))
    if path.suffix not in suffixes:
        what = " or ".join(suffixes)
        raise MoaError("argument", f"--out is '{shown}'", None, f"results are written to a {what} file")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        reason = "it is a folder" if path.is_dir() else f"{printable(str(path.parent))} is no folder to write to"
        raise MoaError("argument", f"{shown} cannot be written: {reason}", None, "check the path")


def written(path: Path, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    """Writes arrays to a file beside it, then puts that into its place.

    Errors: MoaError of kind "argument" if it cannot be written, or if a .npy file would have to hold several
    """
    if path.suffix == ".npy" and len(arrays) > 1:
        text = f"{printable(str(path))} would hold {len(arrays)} results: {', '.join(arrays)}"
        raise MoaError("argument", text, None, "a .npz file holds several")

    def write(f: IO[bytes]) -> None:
        if path.suffix == ".npy":
            np.save(f, next(iter(arrays.values())))
        else:
            np.savez(f, **arrays)  # type: ignore[arg-type]

    replaced(path, write)


def text_to(path: Path, text: str) -> None:
    """Writes a text as UTF-8 likewise."""
    replaced(path, lambda f: f.write(text.encode()))


def replaced(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Puts what `write` writes into the place of a file, whole or not at all.

    Errors: MoaError of kind "argument" if it cannot be written
    """
    try:
        file, name = tempfile.mkstemp(prefix=".moa-", dir=path.parent)
        try:
            with os.fdopen(file, "wb") as f:
                write(f)
            os.chmod(name, mode_for(path))
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as e:
        text = f"{printable(str(path))} cannot be written: {e.strerror}"
        raise MoaError("argument", text, None, "check the path") from None


def mode_for(path: Path) -> int:
    """The permissions of a file that takes this place: those of the file there, else what the umask leaves."""
    if path.exists():
        return path.stat().st_mode & 0o777
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask
