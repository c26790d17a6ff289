"""Machines as data: rates, memories from the nearest on, and energies, read from TOML and written as TOML.

A description is one that ships, by its name; a file; or this machine as `moa machine` measured it, "here".
"""

from __future__ import annotations

import os
import platform
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from moa.cache import keep, recalled
from moa.text import MoaError, printable

FOLDER = Path(__file__).parent / "machines"
DTYPES = ("float64", "float32", "bfloat16", "float16")
NEEDED = ("float64", "float32")
HERE, USUAL = "here", "zen4-server"
MOST_BYTES = 1 << 16  # of a file
MOST_LEVELS = 8
Types = tuple[type, ...]
INT: Types = (int,)
FLOAT: Types = (int, float)
TEXT: Types = (str,)
FLAG: Types = (bool,)
TABLE: Types = (dict,)
LIST: Types = (list,)
KINDS = {
    INT: "a whole number", FLOAT: "a number", TEXT: "a text", FLAG: "true or false", TABLE: "a table",
    LIST: "tables [[levels]]",
}  # fmt: skip
MACHINE_KEYS: dict[str, Types] = {
    "name": TEXT, "title": TEXT, "source": TEXT, "threads": INT, "line_bytes": INT, "flops_per_s": TABLE,
    "pj_per_flop": TABLE, "operations": TABLE, "levels": LIST,
}  # fmt: skip
LEVEL_KEYS: dict[str, Types] = {
    "name": TEXT, "capacity_bytes": INT, "ways": INT, "shared": FLAG, "bytes_per_s": FLOAT, "pj_per_byte": FLOAT,
}  # fmt: skip
OPTIONAL = {"source", "ways", "shared", "capacity_bytes", "operations"}
# What one costs in operations of a product of tiles, as measured on a server of two Zen 4 cores; a machine may differ.
#   step      an operation of a recurrence: its state goes through the nearest cache at each step
#   chunk     an operation of a form in chunks
#   round     an operation of a form whose chunks follow one another, with all that belongs to one at hand
#   few       an operation for fewer rows than a vector has lanes
#   function  an exponential, a logarithm, a root, tanh or erf
#   phase     all threads come to the end of one phase, and begin the next
#   wake      another thread: for less work than this, about 100 us, one thread does all
OPERATIONS = {"step": 2.5, "chunk": 2.5, "round": 1.25, "few": 1.45, "function": 20.0, "phase": 5e5, "wake": 6e6}


@dataclass(frozen=True, slots=True)
class Memory:
    """One level of memory.

    capacity_bytes  of one thread where it is not shared; None: all arrays are in it
    ways            of its sets, 0 where not known
    bytes_per_s     at which all threads together read what it holds
    """

    name: str
    capacity_bytes: int | None
    bytes_per_s: float
    pj_per_byte: float
    ways: int = 0
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """levels: memories from the nearest on; only the last one has no capacity. Rates are those of all threads."""

    name: str
    title: str
    threads: int
    line_bytes: int
    flops_per_s: tuple[tuple[str, float], ...]
    pj_per_flop: tuple[tuple[str, float], ...]
    levels: tuple[Memory, ...]
    source: str = ""
    operations: tuple[tuple[str, float], ...] = ()  # of OPERATIONS, those that are different here

    @property
    def caches(self) -> tuple[Memory, ...]:
        return self.levels[:-1]

    def rate(self, dtype: str) -> float:
        """flop/s of a type: 16-bit floats without a rate of their own are computed in float32."""
        return self._of(dict(self.flops_per_s), dtype)

    def costs(self, what: str) -> float:
        """What one of OPERATIONS costs, in operations of a product of tiles."""
        return dict(self.operations).get(what, OPERATIONS[what])

    def flop_pj(self, dtype: str) -> float:
        return self._of(dict(self.pj_per_flop), dtype)

    def _of(self, found: dict[str, float], dtype: str) -> float:
        return found.get(dtype, found["float32"])

    def __str__(self) -> str:
        head = f"{self.name}: {self.title}; {self.threads} thread{'s' * (self.threads != 1)}"
        rates = [f"  {d:10}{r / 1e9:>12,.1f} Gflop/s  {self.flop_pj(d):>8g} pJ/flop" for d, r in self.flops_per_s]
        out = [head, *rates]
        for m in self.levels:
            held = "" if m.capacity_bytes is None else bytes_text(m.capacity_bytes)
            kind = "" if m.capacity_bytes is None else "shared" if m.shared else "each thread"
            ways = f"{m.ways} ways" if m.ways else ""
            rate = f"{m.bytes_per_s / 1e9:>12,.1f} GB/s     {m.pj_per_byte:>8g} pJ/byte"
            out.append(f"  {m.name:10}{rate}  {held:>10}  {kind}{', ' * bool(ways)}{ways}".rstrip())
        return "\n".join([*out, *([f"  {self.source}"] if self.source else [])])


def bytes_text(count: int) -> str:
    """Bytes as a person says them, where that is exact."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count and count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count:,} bytes"


def shipped() -> tuple[str, ...]:
    """The names of the descriptions that ship."""
    return tuple(sorted(p.stem for p in FOLDER.glob("*.toml")))


@lru_cache(maxsize=1)
def machine_in_use() -> Machine:
    """What this process chooses by: the machine that MOA_MACHINE names, else this one if it was measured, else USUAL.

    Errors: MoaError of kind "argument" where MOA_MACHINE names none
    """
    return machine_of(os.environ.get("MOA_MACHINE", ""))


def machine_of(text: str = "") -> Machine:
    """The machine of a name, of a file that ends in .toml, or of "here"; of "", this one if it was measured.

    Errors: MoaError of kind "argument"
    """
    if not text:
        return kept() or machine_of(USUAL)
    if text == HERE:
        found = kept()
        if found is None:
            raise MoaError("argument", "this machine has not been measured", None, "run `moa machine` first")
        return found
    if text in shipped():
        return read(FOLDER / f"{text}.toml")
    if text.endswith(".toml"):
        return read(Path(text))
    hint = f"use {HERE}, {', '.join(shipped())}, or a file that ends in .toml"
    raise MoaError("argument", f"there is no machine '{printable(text)}'", None, hint)


def read(path: Path) -> Machine:
    """The machine that a file describes.

    Errors: MoaError of kind "argument", with the file and the key
    """
    shown = printable(str(path))
    try:
        with path.open("rb") as f:
            data = f.read(MOST_BYTES + 1)
    except OSError as e:
        raise MoaError("argument", f"{shown} cannot be read: {e.strerror or e}", None, "check the path") from None
    if len(data) > MOST_BYTES:
        raise MoaError("argument", f"{shown} has more than {MOST_BYTES} bytes", None, "describe one machine")
    try:
        return parsed(data.decode("utf-8"), shown)
    except UnicodeDecodeError:
        raise MoaError("argument", f"{shown} is no UTF-8 text", None, "save it as UTF-8") from None


def parsed(text: str, shown: str) -> Machine:
    """The machine of a text in TOML; `shown` is what the text is called in errors."""
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as e:
        raise MoaError("argument", f"{shown} is no TOML: {printable(str(e))}", None, "see docs/cost.md") from None
    fields = checked(found, MACHINE_KEYS, shown)
    rates, energies = (rates_of(fields[k], f"{shown}: {k}") for k in ("flops_per_s", "pj_per_flop"))
    for dtype, _ in rates:
        if dtype not in dict(energies):
            wrong(f"{shown}: pj_per_flop has no {dtype}", "give each type with a rate its energy")
    operations = operations_of(fields.get("operations", {}), f"{shown}: operations")
    levels = []
    for k, level in enumerate(fields["levels"]):
        where = f"{shown}: levels[{k}]"
        if not isinstance(level, dict):
            wrong(f"{where} is no table", "begin each level with [[levels]]")
        levels.append(Memory(**checked(level, LEVEL_KEYS, where)))
    ordered(levels, fields["line_bytes"], shown)
    if fields["line_bytes"] < 8 or fields["line_bytes"] & (fields["line_bytes"] - 1):
        wrong(f"{shown}: line_bytes is {fields['line_bytes']}", "lines are powers of two from 8 bytes on")
    made = {"flops_per_s": rates, "pj_per_flop": energies, "operations": operations, "levels": tuple(levels)}
    return Machine(**{**fields, **made})


def checked(found: Mapping[str, Any], keys: Mapping[str, Types], where: str) -> dict[str, Any]:
    """The fields of a table: all that are needed, none that are unknown, each of its type and positive."""
    for key in found:
        if key not in keys:
            wrong(f"{where} has an unknown key {printable(key)}", f"its keys: {', '.join(keys)}")
    out: dict[str, Any] = {}
    for key, types in keys.items():
        if key not in found:
            if key not in OPTIONAL:
                wrong(f"{where} has no {key}", f"its keys: {', '.join(keys)}")
            if key == "capacity_bytes":
                out[key] = None
            continue
        value: Any = found[key]
        out[key] = fit(value, key, types, f"{where}: {key} is {printable(repr(value))[:60]}")
    return out


def fit(value: Any, key: str, types: Types, text: str) -> Any:
    """A value of its type, numbers positive."""
    if type(value) not in types:
        wrong(text, f"give {KINDS[types]}")
    if types is TEXT:
        return printable(str(value))
    if types in (INT, FLOAT):
        number = min(value, 1e18)  # a whole number may be too large for a float
        if key == "ways" and not 0 <= number < 1e6:
            wrong(text, "give 0 where it is not known")
        if key != "ways" and not 0 < number < 1e18:
            wrong(text, "give a positive number")
    return value


def rates_of(table: Mapping[str, Any], where: str) -> tuple[tuple[str, float], ...]:
    """The numbers of a table by types of floats, in the order of DTYPES."""
    for key in table:
        if key not in DTYPES:
            wrong(f"{where} has {printable(key)}, no type of floats", f"use {', '.join(DTYPES)}")
    needed = {d: FLOAT for d in DTYPES if d in table or d in NEEDED}
    return tuple((d, float(x)) for d, x in checked(table, needed, where).items())


def operations_of(table: Mapping[str, Any], where: str) -> tuple[tuple[str, float], ...]:
    """The numbers of a table that has some of OPERATIONS, in their order."""
    for key in table:
        if key not in OPERATIONS:
            wrong(f"{where} has an unknown key {printable(key)}", f"its keys: {', '.join(OPERATIONS)}")
    needed = {k: FLOAT for k in OPERATIONS if k in table}
    return tuple((k, float(x)) for k, x in checked(table, needed, where).items())


def ordered(levels: list[Memory], line_bytes: int, shown: str) -> None:
    if not 2 <= len(levels) <= MOST_LEVELS:
        wrong(f"{shown} has {len(levels)} levels", "give one cache or more, nearest first, then the memory behind them")
    *caches, last = levels
    if last.capacity_bytes is not None:
        wrong(
            f"{shown}: the last level {last.name} has a capacity", "the last level is the memory that holds all arrays"
        )
    before = 0
    for m in caches:
        if m.capacity_bytes is None or m.capacity_bytes % line_bytes:
            text = f"{shown}: level {m.name} has no capacity of whole lines of {line_bytes} bytes"
            wrong(text, "only the last level has no capacity_bytes")
        if m.capacity_bytes < before:
            wrong(f"{shown}: level {m.name} is smaller than the level before it", "give levels from the nearest on")
        before = m.capacity_bytes


def wrong(text: str, hint: str) -> NoReturn:
    raise MoaError("argument", text, None, hint)


# Writing -------------------------------------------------------------------------------------------------------------


def toml_of(m: Machine) -> str:
    """The description that `parsed` reads back."""

    def quoted(text: str) -> str:
        return '"' + printable(text).replace("\\", "\\\\").replace('"', '\\"') + '"'

    lines = [f"name = {quoted(m.name)}", f"title = {quoted(m.title)}", f"source = {quoted(m.source)}"]
    lines += [f"threads = {m.threads}", f"line_bytes = {m.line_bytes}"]
    tables = [("flops_per_s", m.flops_per_s), ("pj_per_flop", m.pj_per_flop)]
    for key, table in [*tables, *([("operations", m.operations)] if m.operations else [])]:
        lines += ["", f"[{key}]", *(f"{dtype} = {value!r}" for dtype, value in table)]
    for level in m.levels:
        lines += ["", "[[levels]]", f"name = {quoted(level.name)}"]
        if level.capacity_bytes is not None:
            lines.append(f"capacity_bytes = {level.capacity_bytes}")
        lines += [f"ways = {level.ways}", f"shared = {'true' if level.shared else 'false'}"]
        lines += [f"bytes_per_s = {level.bytes_per_s!r}", f"pj_per_byte = {level.pj_per_byte!r}"]
    return "\n".join(lines) + "\n"


def kept() -> Machine | None:
    """This machine as it was measured last by this version of the package, or None."""
    data = recalled("machine", *identity())
    return None if data is None else parsed(data.decode("utf-8"), "the kept description of this machine")


def keep_here(m: Machine) -> None:
    keep(toml_of(m).encode("utf-8"), "machine", *identity())


def identity() -> tuple[str, ...]:
    """What tells this machine from others that share its cache folder."""
    return platform.node(), platform.machine(), processor(), str(os.cpu_count())


def processor() -> str:
    """The name of the processor, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("model name"):
                return printable(line.partition(":")[2].strip())
    except OSError:
        pass
    return printable(platform.processor() or platform.machine())
