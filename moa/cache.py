"""The disk cache: what was compiled once is read back in another process.

An entry is a file named by its key, in a folder of the user's own. It holds the digest of its key and its content, so
that a file which is cut off, changed, or stored under another name is the same as one that is not there. Whatever goes
wrong with the disk means that nothing is kept, never an error.

    MOA_CACHE=0          no cache
    MOA_CACHE_DIR=PATH   the folder; else that of the system for caches
    MOA_CACHE_SIZE=N     the most bytes it may hold, 256 MiB by default; those used longest ago go first
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from moa.text import MoaError, printable

MOST_BYTES = 256 << 20
HEAD = b"moa cache 1\n"
KEY = re.compile(r"[0-9a-f]{64}")
UNFINISHED = re.compile(r"[0-9a-f]{64}\.[0-9a-f]{16}")
ABANDONED_S = 3600  # a file that nobody finished writing in this time is removed
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
ROOMY = 0.9  # eviction stops at this share of the bound, so that not every new entry evicts
STARTED_S = time.time()
PACKAGES = ("llvmlite", "islpy", "numpy", "lark")
SOURCES = (".py", ".lark", ".moa", ".json")
FOLDERS = os.open in os.supports_dir_fd and os.scandir in os.supports_fd and hasattr(os, "geteuid")


@dataclass(frozen=True, slots=True)
class Usage:
    """How many entries a cache holds, and their bytes."""

    entries: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Cache:
    """Contents by key in a folder. Every access goes through a descriptor of the folder, checked when it is opened."""

    folder: Path
    most_bytes: int = MOST_BYTES

    def get(self, key: str) -> bytes | None:
        """The content that was put under a key, or None."""
        with self._opened() as folder:
            if folder is None:
                return None
            try:
                file = os.open(key, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            except OSError:
                return None
            with os.fdopen(file, "rb") as f:
                return _content(f.fileno(), key, self.most_bytes)

    def put(self, key: str, content: bytes) -> None:
        """Keeps a content under a key, if the folder can be written and has room for it."""
        entry = HEAD + _digest(key, content) + content
        if len(entry) > self.most_bytes:
            return
        with suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._opened() as folder:
            if folder is not None:
                with suppress(OSError):
                    _written(folder, key, entry)
                    self._evict(folder)

    def usage(self) -> Usage:
        with self._opened() as folder:
            found = [] if folder is None else [s for name, s in _files(folder) if KEY.fullmatch(name)]
        return Usage(len(found), sum(s.st_size for s in found))

    def clear(self) -> Usage:
        """Removes all entries, and returns what they were. Files that are none of ours stay."""
        entries = total = 0
        with self._opened() as folder:
            for name, s in _files(folder) if folder is not None else ():
                if _removed(folder, name) and KEY.fullmatch(name):
                    entries, total = entries + 1, total + s.st_size
        return Usage(entries, total)

    @contextmanager
    def _opened(self) -> Iterator[int | None]:
        """A descriptor of the folder; None if it is not there, not ours, or if others can write to it."""
        try:
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            yield None
            return
        try:
            yield folder if _private(os.fstat(folder)) else None
        finally:
            os.close(folder)

    def _evict(self, folder: int) -> None:
        """Removes what was used longest ago until the rest fits, and files that were never finished."""
        entries = []
        for name, s in _files(folder):
            if KEY.fullmatch(name):
                entries.append((s.st_mtime_ns, name, s.st_size))
            elif time.time() - s.st_mtime > ABANDONED_S:
                _removed(folder, name)
        total = sum(size for *_, size in entries)
        if total <= self.most_bytes:
            return
        for _, name, size in sorted(entries):
            if total <= ROOMY * self.most_bytes:
                return
            _removed(folder, name)
            total -= size


def current() -> Cache | None:
    """The cache of this process by its environment, or None if there is none.

    Errors: MoaError if MOA_CACHE_SIZE is not a number of bytes
    """
    if not FOLDERS or os.environ.get("MOA_CACHE", "") == "0" or made_by() is None:
        return None
    return located()


def located() -> Cache | None:
    """The cache the environment names, used or not; None if there is no place for one."""
    text = os.environ.get("MOA_CACHE_SIZE", "")
    if text and not re.fullmatch(r"[0-9]{1,18}", text):
        hint = "set it to a number of bytes"
        raise MoaError("argument", f"MOA_CACHE_SIZE is `{printable(text)}`", None, hint)
    folder = _folder()
    return None if folder is None else Cache(folder, int(text) if text else MOST_BYTES)


def recalled(*parts: str) -> bytes | None:
    """The content that this version of the package kept for these parts of a key, or None."""
    store = current()
    return None if store is None else store.get(digest(str(made_by()), *parts))


def keep(content: bytes, *parts: str) -> None:
    """Keeps a content for another process, or another time."""
    store = current()
    if store is not None:
        store.put(digest(str(made_by()), *parts), content)


def digest(*parts: str | bytes) -> str:
    """A key: different parts give different keys, however they are cut."""
    made = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        made.update(len(data).to_bytes(8, "little"))
        made.update(data)
    return made.hexdigest()


@cache
def made_by() -> str | None:
    """A digest of what compiles: the files of this package, Python, and the packages that it computes with.

    A file is known by its place, its size, and when it was changed, which a new content always changes; to read them
    all would take a third of a call that finds its code. None if a file cannot be looked at, or if one changed while
    this process ran: which text of it runs is unknown then.
    """
    try:
        files = sorted(_sources(os.path.dirname(os.path.abspath(__file__))))
        packages = [_installed(name) for name in PACKAGES]
    except OSError:
        return None
    if any(max(s.st_mtime, s.st_ctime) >= STARTED_S for _, s in files):
        return None
    return digest(sys.version, *packages, *(f"{f} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns}" for f, s in files))


def _installed(package: str) -> str:
    """Where a package is, and when it was installed; it is not imported."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return ""
    s = os.stat(spec.origin)
    return f"{spec.origin} {s.st_size} {s.st_mtime_ns}"


def _sources(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Each source file of the package."""
    with os.scandir(folder) as found:
        for x in found:
            if x.is_dir():
                if x.name != "__pycache__":
                    yield from _sources(x.path)
            elif x.name.endswith(SOURCES):
                yield x.path, x.stat()


def _folder() -> Path | None:
    """MOA_CACHE_DIR, else `moa` in the folder of the system for caches; None where there is no such place."""
    named = os.environ.get("MOA_CACHE_DIR", "")
    if named:
        with suppress(OSError):  # the folder it is relative to may be gone
            return Path(os.path.abspath(named))
        return None
    if sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME", "")
        base = base if os.path.isabs(base) else os.path.expanduser("~/.cache")
    return Path(base) / "moa" if os.path.isabs(base) else None


def _private(s: os.stat_result) -> bool:
    """Whether a file or a folder is ours, and nobody else can write to it."""
    return s.st_uid == os.geteuid() and not s.st_mode & OTHERS_WRITE


def _digest(key: str, content: bytes) -> bytes:
    return digest(key, content).encode() + b"\n"


def _content(file: int, key: str, most_bytes: int) -> bytes | None:
    """The content of an opened entry if it is whole and ours; it counts as used now."""
    s = os.fstat(file)
    if not stat.S_ISREG(s.st_mode) or not _private(s) or s.st_size > most_bytes:
        return None
    try:
        text = b""
        while len(text) < s.st_size and (more := os.read(file, s.st_size - len(text))):
            text += more
        os.utime(file)
    except OSError:
        return None
    start = len(HEAD) + 65
    content = text[start:]
    return content if text[:start] == HEAD + _digest(key, content) else None


def _written(folder: int, key: str, entry: bytes) -> None:
    """Writes a file beside and renames it: a reader finds the old content or the new one, whole."""
    name = f"{key}.{secrets.token_hex(8)}"
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        with os.fdopen(file, "wb") as f:
            f.write(entry)
        os.rename(name, key, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        _removed(folder, name)
        raise


def _files(folder: int) -> list[tuple[str, os.stat_result]]:
    """The files of ours in a folder: entries, and unfinished ones."""
    out = []
    with suppress(OSError), os.scandir(folder) as found:
        for x in found:
            with suppress(OSError):
                if (KEY.fullmatch(x.name) or UNFINISHED.fullmatch(x.name)) and x.is_file(follow_symlinks=False):
                    out.append((x.name, x.stat(follow_symlinks=False)))
    return out


def _removed(folder: int | None, name: str) -> bool:
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        return False
    return True
