"""What a command is given: programs, sizes and arrays as words, and random arrays where none are given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from moa import ir
from moa.files import from_file
from moa.kernel import Kernel, kernel_class, read
from moa.storage import numpy_dtype
from moa.text import MoaError, printable

MOST_RANDOM = 1 << 28  # elements of a random input


def made(file: str, shape: list[str] | None, dtype: str, function: str = "", backend: str = "llvm") -> Kernel:
    """The kernel of a path, or of a formula where shapes are given; of a function of it that is not the last one."""
    shapes = pairs(shape, "--shape")
    if not shapes and "\n" not in file and not file.endswith(".moa"):
        hint = 'a program is a path that ends in .moa; a formula needs the shapes of its parameters: --shape Q="n d"'
        raise MoaError("argument", f"'{printable(file)}' is neither a program nor a formula with shapes", None, hint)
    return kernel_class(backend)(read(file, shapes, function), dtype, {}, backend)


def pairs(texts: list[str] | None, what: str) -> dict[str, str]:
    """NAME=VALUE texts as a dictionary."""
    out: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[^\W\d]\w*", name):
            raise MoaError("argument", f"{what} is '{printable(text)}'", None, "write NAME=VALUE")
        if name in out:
            raise MoaError("argument", f"{printable(name)} is given twice", None, "give it once")
        out[name] = value
    return out


def whole(name: str, text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise MoaError("argument", f"{printable(name)} is '{printable(text)}'", None, "give a whole number")
    return int(text)


UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def caches_of(texts: list[str] | None) -> list[tuple[int, int]] | None:
    """(bytes, ways) of caches written as BYTES or BYTES/WAYS, K, M and G for powers of 1024; None of no texts."""
    out = []
    for text in texts or ():
        found = re.fullmatch(r"([0-9]{1,12})([KMG]?)(?:/([0-9]{1,4}))?", text)
        if found is None:
            raise MoaError("argument", f"--cache is '{printable(text)}'", None, "write BYTES or BYTES/WAYS: 48K/12")
        out.append((int(found[1]) * UNITS[found[2]], int(found[3] or 0)))
    return out or None


def loaded(kernel: Kernel, name: str, text: str) -> Any:
    """The value of an argument: an array from a file, or a number."""
    p = parameter(kernel, name)
    path, colon, key = text.rpartition(":")
    if not (colon and path.endswith(".npz")):
        path, key = text, ""
    if path.endswith((".npy", ".npz")):
        return converted(kernel, p, from_file(path, key or (name if path.endswith(".npz") else "")))
    try:
        return {"True": True, "False": False}[text] if p.kind == "b" else int(text) if p.kind == "i" else float(text)
    except (ValueError, KeyError):
        hint = "give a number (True or False for a truth value), a file.npy or a file.npz:key"
        raise MoaError("argument", f"{name} is '{printable(text)}'", None, hint) from None


def leading(text: str) -> list[int]:
    """What `--lead` says of `...`."""
    return [whole("--lead", x) for x in text.split(",") if x]


def inputs_of(kernel: Kernel, size: list[str] | None, values: list[str] | None) -> dict[str, Any]:
    """Sizes and arguments by name, as `--size` and NAME=VALUE give them."""
    named: dict[str, Any] = {k: whole(k, v) for k, v in pairs(size, "--size").items()}
    return named | {k: loaded(kernel, k, v) for k, v in pairs(values, "an argument").items()}


def parameter(kernel: Kernel, name: str) -> ir.Input:
    inputs = kernel._front(0).program.inputs
    found = next((p for p in inputs if p.name == name), None)
    if found is None:
        known = ", ".join(p.name for p in inputs)
        raise MoaError(
            "argument", f"{kernel.name} has no parameter {printable(name)}", None, f"its parameters: {known}"
        )
    return found


def converted(kernel: Kernel, p: ir.Input, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An array in the type that the kernel takes; floats are converted, other kinds must agree."""
    if p.kind == "f" and x.dtype.kind in "fiu":
        return x.astype(numpy_dtype(kernel.dtype))
    return x


def completed(kernel: Kernel, given: dict[str, Any], sizes: Mapping[str, int], lead: list[int], seed: int) -> list[Any]:
    """The arguments in order; arrays that were not given are random."""
    rng = np.random.default_rng(seed)
    program = kernel._front(0).program
    known = kernel._names()
    for name in sizes:
        if name not in known:
            text = f"{kernel.name} has no size {printable(name)}"
            raise MoaError("argument", text, None, f"its sizes: {', '.join(known) or 'none'}")
    out: list[Any] = []
    for p in program.inputs:
        if p.name in given:
            out.append(given[p.name])
        elif p.shape:
            out.append(random_array(kernel, p, sizes, lead, rng))
        elif p.name in sizes:
            out.append(sizes[p.name])
        elif p.default is not None:
            out.append(p.default if isinstance(p.default, bool) else float(p.default))
        else:
            raise MoaError("argument", f"no value for {p.name}", None, f"add {p.name}=NUMBER")
    return out


def random_array(
    kernel: Kernel, p: ir.Input, sizes: Mapping[str, int], lead: list[int], rng: np.random.Generator
) -> np.ndarray[Any, Any]:
    from moa.oracle import evaluate

    used = {a.name for extent in p.shape for a in extent.atoms() if a.kind in ("size", "int")}
    missing = [name for name in kernel._names() if name in used and name not in sizes]
    if missing:
        name = missing[0]
        hint = f"add {p.name}=file.npy, or --size {name}=NUMBER for a random one"
        raise MoaError("argument", f"no array for {p.name}, and no size {name} to make one", None, hint)
    shape = [*(lead if p.name in kernel._lead else []), *(evaluate(extent, sizes) for extent in p.shape)]
    count = 1
    for n in shape:
        count *= max(n, 0)
    if min(shape) < 0 or count > MOST_RANDOM:
        text = f"{p.name} would be {' x '.join(map(str, shape))}"
        raise MoaError(
            "argument", text, None, f"sizes are not negative, and an array has at most {MOST_RANDOM} elements"
        )
    if p.kind == "f":
        return rng.standard_normal(shape).astype(numpy_dtype(kernel.dtype))
    if p.kind == "b":
        return rng.random(shape) < 0.5
    raise MoaError(
        "argument", f"no array for {p.name}, and integers have no random values", None, f"add {p.name}=file.npy"
    )
