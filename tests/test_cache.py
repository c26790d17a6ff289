"""The disk cache: what is kept, when it is used, and that a bad folder or a bad entry is the same as none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from programs import numbered

import moa
from moa import cache, kept
from moa.backends.worker import pool
from moa.cache import Cache, Usage, digest
from moa.check import check
from moa.kernel import Kernel
from moa.normal import Scalar
from moa.parse import parse
from moa.poly import Atom, Poly, const, maximum, size
from moa.record import from_json, to_json
from moa.text import MoaError

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.moa"))
PROGRAM = """
def f(Q[..., n, dk], K[..., m, dk], V[..., m, dv], c: float = 1.5):
    return softmax(c * Q @ K.T / sqrt(dk)) @ V
"""
KEY = "a" * 64
HAS_CC = any(shutil.which(c) for c in ("cc", "gcc", "clang"))
needs_cc = pytest.mark.skipif(not HAS_CC, reason="no C compiler: install gcc or clang")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache is used, and this is its folder, which is not there yet."""
    monkeypatch.delenv("MOA_CACHE")
    monkeypatch.setenv("MOA_CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setattr(cache, "STARTED_S", inf)  # sources that change while the tests run do not matter
    cache.made_by.cache_clear()
    return tmp_path / "kept"


@pytest.fixture
def underived(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """After a call of this, parsing, deriving and placing fail."""

    def fail(*_: Any) -> Any:
        pytest.fail("it was not kept")

    def forbid() -> None:
        monkeypatch.setattr("moa.kept.parse", fail)
        monkeypatch.setattr("moa.kernel.derive", fail)
        monkeypatch.setattr("moa.kernel.place", fail)
        monkeypatch.setattr("moa.kernel.planned", fail)

    return forbid


def arrays(*lead: int, n: int = 5, m: int = 7, d: int = 3) -> tuple[np.ndarray[Any, Any], ...]:
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal((*lead, k, d)) for k in (n, m, m))


def entries(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if cache.KEY.fullmatch(p.name))


# A kernel from the cache ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["llvm", pytest.param("c", marks=needs_cc)])
def test_a_second_kernel_derives_nothing(backend: str, underived: Callable[[], None]) -> None:
    first = moa.compile(PROGRAM, backend=backend)
    wanted = first(*arrays(2))
    told = (first.name, first.passes, first._names(), first._lead)
    underived()
    second = moa.compile(PROGRAM, backend=backend)
    assert np.array_equal(second(*arrays(2)), wanted)
    assert (second.name, second.passes, second._names(), second._lead) == told
    with pytest.raises(MoaError, match="argument K has extent 4 on axis 1"):
        second(*arrays(d=3)[:1], *arrays(d=4)[1:])


def test_the_rest_is_derived_when_it_is_asked_for(folder: Path) -> None:
    pages = []
    for _ in range(2):
        kernel = moa.compile(PROGRAM)
        kernel(*arrays(2))
        pages.append((kernel.explain(), kernel.source(), str(kernel.cost()), kernel.explain("tiles")))
    assert pages[0] == pages[1]


@needs_cc
def test_the_text_of_a_library_from_the_cache(folder: Path) -> None:
    texts = []
    for _ in range(2):
        kernel = moa.compile(PROGRAM, backend="c")
        kernel(*arrays())
        texts.append(kernel.source())
    assert "moa_p0" in texts[0] and texts[0] == texts[1]


def test_indices_are_checked_in_a_kernel_from_the_cache(underived: Callable[[], None]) -> None:
    def kernel() -> Kernel:
        return moa.compile("def f(X[n, d], i: int[m]):\n    return X[i]\n")

    x = np.arange(6.0).reshape(3, 2)
    assert np.array_equal(kernel()(x, np.array([2, 0])), x[[2, 0]])
    underived()
    second = kernel()
    assert np.array_equal(second(x, np.array([2, 0])), x[[2, 0]])
    with pytest.raises(MoaError, match="outside an axis"):
        second(x, np.array([2, 3]))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: str(p.name))
def test_what_is_kept_of_each_example_reads_back(path: Path, folder: Path) -> None:
    kernel = moa.compile(path)
    for ranks in (0, 1) if kernel._lead else (0,):
        front = kept.front_of(kernel._derive(ranks))
        assert from_json(to_json(front), kept.Front, kept.CLASSES) == front
        assert to_json(from_json(to_json(front), kept.Front, kept.CLASSES)) == to_json(front)


@pytest.mark.parametrize("seed", range(6))
def test_random_programs_from_the_cache(seed: int, underived: Callable[[], None]) -> None:
    case = numbered(seed)
    wanted = moa.compile(case.text)(**case.arrays())
    underived()
    found = moa.compile(case.text)(**case.arrays())
    for a, b in zip(*(x if isinstance(x, tuple) else (x,) for x in (wanted, found)), strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def test_random_programs_read_back() -> None:
    for seed in range(100):
        program = check(parse(numbered(seed).text))
        assert from_json(to_json(program), type(program), kept.CLASSES) == program


def test_other_things_are_other_entries(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a result depends on makes an entry of its own."""

    def made(**options: Any) -> int:
        text = options.pop("text", PROGRAM)
        a = [x.astype(options.get("dtype", "float64")) for x in arrays(n=options.pop("n", 5))]
        before = len(entries(folder)) if folder.exists() else 0
        moa.compile(text, **options)(*a)
        return len(entries(folder)) - before

    pool()  # once in a process
    assert made() == 7  # head, front, rows along two axes, sums that phases share, strategy, variant
    assert made() == 0
    assert made(text=PROGRAM + " ") == 7
    assert made(dtype="float32") == 5  # all but the head and the front
    assert made(sizes={"n": 5}) == 1
    assert made(n=100) == 2  # more rows in a work item
    with monkeypatch.context() as patch:
        patch.setattr("moa.backends.llvm_build.identity", lambda: "another machine")
        assert made() == 1
    with monkeypatch.context() as patch:
        patch.setattr("moa.cache.made_by", lambda: "another version")
        assert made() == 7
    assert made() == 0


def test_a_parsed_source_is_not_kept(folder: Path) -> None:
    pool()
    shutil.rmtree(folder, ignore_errors=True)
    Kernel(parse(PROGRAM), "float64", {})(*arrays())
    assert not folder.exists()


def test_mistakes_are_not_kept(folder: Path) -> None:
    for _ in range(2):
        with pytest.raises(MoaError, match="joins axes"):
            moa.compile("Q @ Q", Q="n d")
    assert not folder.exists()


def test_no_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOA_CACHE", "0")
    moa.compile(PROGRAM)(*arrays())
    assert not folder.exists()


def test_sources_that_changed_meanwhile_keep_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "STARTED_S", 0.0)
    cache.made_by.cache_clear()
    moa.compile(PROGRAM)(*arrays())
    assert not folder.exists()


def test_every_source_counts(folder: Path) -> None:
    names = {os.path.relpath(file, ROOT / "moa") for file, _ in cache._sources(str(ROOT / "moa"))}
    assert {"kernel.py", "backends/llvm.py", "grammar/prelude.moa", "grammar/moa.lark", "laws/defer.py"} <= names


def test_a_new_text_of_the_same_length_and_age_is_another(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("a = 1\n")
    (_, before), *_ = cache._sources(str(tmp_path))
    time.sleep(0.05)
    file.write_text("a = 2\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    (_, after), *_ = cache._sources(str(tmp_path))
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert after.st_ctime_ns != before.st_ctime_ns  # part of what `made_by` is made of


def test_only_the_first_choice_of_tiles_is_kept(folder: Path) -> None:
    kernel = moa.compile(PROGRAM)
    kernel(*arrays(n=5))
    before = len(entries(folder))
    kernel.strategy_at(kernel._front(0).forms[0].name, {"n": 7, "m": 9, "dk": 3, "dv": 2})
    assert len(entries(folder)) == before


CHILD = f"""
import hashlib, numpy as np, moa
from moa import cache
cache.STARTED_S = float("inf")
a = [np.random.default_rng(k).standard_normal((40, 8)) for k in range(3)]
print(hashlib.sha256(moa.compile({PROGRAM!r})(*a).tobytes()).hexdigest())
"""


def test_processes_that_compile_at_once(folder: Path) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    told = [p.communicate(timeout=120) for p in started]
    assert all(p.returncode == 0 for p in started), told
    assert len({out for out, _ in told}) == 1
    assert sorted(p.name for p in folder.iterdir()) == [p.name for p in entries(folder)]
    store = Cache(folder)
    assert all(store.get(p.name) is not None for p in entries(folder))


# Entries -------------------------------------------------------------------------------------------------------------


def test_contents(tmp_path: Path) -> None:
    store = Cache(tmp_path / "a" / "b")
    assert store.get(KEY) is None and store.usage() == Usage(0, 0)
    for content in (b"", b"one", b"\x00\n" * 1000):
        store.put(KEY, content)
        assert store.get(KEY) == content
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    assert (store.folder / KEY).stat().st_mode & 0o777 == 0o600
    assert store.usage() == Usage(1, (store.folder / KEY).stat().st_size)


def spoilt(path: Path, how: str) -> None:
    whole = path.read_bytes()
    match how:
        case "truncated":
            path.write_bytes(whole[:-1])
        case "longer":
            path.write_bytes(whole + b"x")
        case "empty":
            path.write_bytes(b"")
        case "garbage":
            path.write_bytes(os.urandom(len(whole)))
        case "a changed byte":
            path.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
        case "another format":
            path.write_bytes(whole.replace(b"cache 1", b"cache 2"))
        case "written by others":
            path.chmod(0o622)
        case "a link":
            path.rename(path.with_name("there"))
            path.symlink_to(path.with_name("there"))
        case "a pipe":
            path.unlink()
            os.mkfifo(path)


SPOILT = [
    *("truncated", "longer", "empty", "garbage", "a changed byte", "another format", "written by others", "a link"),
    "a pipe",
]


@pytest.mark.parametrize("how", SPOILT)
def test_a_bad_entry_is_as_none_and_is_replaced(how: str, tmp_path: Path) -> None:
    store = Cache(tmp_path / "kept")
    store.put(KEY, b"content")
    spoilt(store.folder / KEY, how)
    assert store.get(KEY) is None
    store.put(KEY, b"content")
    assert store.get(KEY) == b"content"


@pytest.mark.parametrize("how", ["truncated", "garbage", "a link"])
def test_a_kernel_with_bad_entries_compiles_again(how: str, folder: Path) -> None:
    wanted = moa.compile(PROGRAM)(*arrays())
    for path in entries(folder):
        spoilt(path, how)
    assert np.array_equal(moa.compile(PROGRAM)(*arrays()), wanted)
    assert all(Cache(folder).get(path.name) is not None for path in entries(folder))


def test_an_entry_under_another_key(tmp_path: Path) -> None:
    store = Cache(tmp_path / "kept")
    store.put(KEY, b"content")
    (store.folder / KEY).rename(store.folder / ("b" * 64))
    assert store.get("b" * 64) is None


def test_an_entry_that_is_no_record_compiles_again(folder: Path) -> None:
    """A whole entry whose content is not what it should be."""
    wanted = moa.compile(PROGRAM)(*arrays())
    store = Cache(folder)
    for path in entries(folder):
        content = store.get(path.name)
        assert content is not None
        if content.startswith(b"["):
            store.put(path.name, content.replace(b'"Slot","pointer"', b'"Slot","printer"').replace(b'"Front"', b'"F"'))
    assert np.array_equal(moa.compile(PROGRAM)(*arrays()), wanted)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_belongs_to_others_is_not_read(tmp_path: Path) -> None:
    store = Cache(tmp_path / "kept")
    store.put(KEY, b"content")
    os.chown(store.folder / KEY, 12345, -1)
    assert store.get(KEY) is None
    store.put(KEY, b"content")
    assert store.get(KEY) == b"content"
    os.chown(store.folder, 12345, -1)
    assert store.get(KEY) is None
    store.put("b" * 64, b"content")
    assert len(list(store.folder.iterdir())) == 1


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_write_is_not_used(mode: int, tmp_path: Path) -> None:
    store = Cache(tmp_path / "kept")
    store.put(KEY, b"content")
    store.folder.chmod(mode)
    assert store.get(KEY) is None and store.usage() == Usage(0, 0)
    store.put("b" * 64, b"content")
    assert [p.name for p in store.folder.iterdir()] == [KEY]


def test_a_link_to_a_folder_is_not_used(tmp_path: Path) -> None:
    Cache(tmp_path / "kept").put(KEY, b"content")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    store = Cache(tmp_path / "link")
    store.put("b" * 64, b"content")
    assert store.get(KEY) is None and [p.name for p in (tmp_path / "kept").iterdir()] == [KEY]


def test_a_folder_that_cannot_be_is_no_cache(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "in", Path("/proc/nowhere")):
        monkeypatch.setenv("MOA_CACHE_DIR", str(place))
        moa.compile(PROGRAM)(*arrays())
        assert Cache(place).usage() == Usage(0, 0)


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Cache(tmp_path / "kept")
    store.put("b" * 64, b"content")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    store.put(KEY, b"content")
    assert [p.name for p in store.folder.iterdir()] == ["b" * 64]


def test_what_was_used_longest_ago_goes(tmp_path: Path) -> None:
    store = Cache(tmp_path / "kept", most_bytes=4000)
    keys = [c * 64 for c in "abcdef"]
    for k, key in enumerate(keys[:3]):
        store.put(key, b"x" * 1000)
        os.utime(store.folder / key, (1000 + k, 1000 + k))
    assert store.get(keys[0]) is not None  # used now
    store.put(keys[3], b"x" * 1000)
    found = {p.name for p in store.folder.iterdir()}
    assert keys[0] in found and keys[3] in found and keys[1] not in found
    assert store.usage().total_bytes <= 4000
    store.put(keys[4], b"x" * 4000)
    assert store.get(keys[4]) is None and keys[3] in {p.name for p in store.folder.iterdir()}


def test_files_that_nobody_finished_go(tmp_path: Path) -> None:
    store = Cache(tmp_path / "kept")
    store.put(KEY, b"")
    old, new, other = (store.folder / x for x in (f"{KEY}.{'0' * 16}", f"{KEY}.{'1' * 16}", "notes"))
    for path in (old, new, other):
        path.write_text("")
    os.utime(old, (1, 1))
    os.utime(other, (1, 1))
    store.put(KEY, b"")
    assert not old.exists() and new.exists() and other.exists()


def test_clear_removes_what_is_ours(tmp_path: Path) -> None:
    store = Cache(tmp_path / "kept")
    store.put(KEY, b"content")
    (store.folder / "notes").write_text("")
    (store.folder / ("b" * 64)).mkdir()
    assert store.clear().entries == 1
    assert sorted(p.name for p in store.folder.iterdir()) == ["b" * 64, "notes"]
    assert store.clear() == Usage(0, 0)


def test_keys_are_not_confused() -> None:
    keys = [digest(), digest(""), digest("ab"), digest("a", "b"), digest("", "ab"), digest("ab", ""), digest(b"\xff")]
    assert len(set(keys)) == len(keys)
    assert digest("\ud800") != digest("\ud801")


# The environment -----------------------------------------------------------------------------------------------------


def test_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("MOA_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/xdg")
    assert cache._folder() == Path("/var/xdg/moa")
    for relative in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        assert cache._folder() == tmp_path / ".cache" / "moa"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache._folder() == tmp_path / "Library" / "Caches" / "moa"
    monkeypatch.setenv("MOA_CACHE_DIR", "/a/b")
    assert cache._folder() == Path("/a/b")


def test_the_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOA_CACHE_SIZE", "1000")
    found = cache.current()
    assert found is not None and found.most_bytes == 1000
    moa.compile(PROGRAM)(*arrays())
    assert cache.Cache(folder).usage().total_bytes <= 1000
    for bad in ("1k", "-1", "\x1b", "9" * 30):
        monkeypatch.setenv("MOA_CACHE_SIZE", bad)
        with pytest.raises(MoaError, match="MOA_CACHE_SIZE is"):
            cache.current()


# Records -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        *(0, -1, 2**70, True, None, "", "x" * 100, 1.5, -0.0, inf, Fraction(-1, 3), (), ((1,), ())),
        *(const(0), size("n") * size("n") - 3, maximum(size("n") // 3, size("m")), Poly({(): Fraction(1, 2)})),
        Scalar("div", (Scalar("int", (size("n"),)), Scalar("lit", (Fraction(1, 3),)))),
    ],
    ids=str,
)
def test_values_read_back(value: Any) -> None:
    found = from_json(to_json(value), type(value) if not isinstance(value, tuple) else tuple[Any, ...], ())
    assert found == value and type(found) is type(value)
    assert str(found) == str(value)


def test_what_is_shared_is_written_once() -> None:
    s = Scalar("param", ("c",))
    for _ in range(60):
        s = Scalar("add", (s, s))
    assert len(to_json(s)) < 3000
    assert from_json(to_json(s), Scalar, ()) is s


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "1", "[[],{}]", '[[],{"":0}]', '[[["Poly",1]],{"":0}]', '[[["Poly",[[[],"1"]]]],{"":0}]'),
        *('[[["Atom","bogus","",[]]],{"":0}]', '[[["Atom","div","",[]]],{"":0}]', '[[["Scalar","exp",[1]]],{"":0}]'),
        *('[[["Fraction",1,0]],{"":0}]', '[[["Slot","size","n",0]],{"":0}]', '[[["os.system","x"]],{"":0}]'),
        *('[[["Span","a","b",0,1]],{"":0}]', '[[["Poly",[]]],{"":1}]', "[" * 100_000, '[[["Poly",[]]],{"":-1}]'),
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a record"):
        from_json(text, Poly, ())


def test_fields_are_checked() -> None:
    program = check(parse(PROGRAM))
    text = to_json(program)
    assert from_json(text, type(program), kept.CLASSES) == program
    for a, b in (('"Input","Q","f"', '"Input","Q","z"'), ('"Input","Q"', '"Input",7'), ('"matmul"', "null")):
        assert a in text
        with pytest.raises(ValueError, match="not a record"):
            from_json(text.replace(a, b), type(program), kept.CLASSES)
    assert Atom("size", "n").kind == "size"
