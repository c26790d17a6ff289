"""The command line: run, explain, verify, cost, laws, ops. A mistake is a message and status 2, not a traceback."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import typer
from rich.console import Console
from rich.text import Text

from moa import ir
from moa.kernel import Kernel, read
from moa.text import MoaError, printable
from moa.verify import verify as check

FAILED, MISTAKE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141
MOST_RANDOM = 1 << 28  # elements of a random input
SHOWN = 64  # results of up to this many elements are printed whole

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Dtype(StrEnum):
    float32 = "float32"
    float64 = "float64"


class Emitted(StrEnum):
    c = "c"
    llvm = "llvm"


class Stage(StrEnum):
    program = "program"
    equations = "equations"
    normal = "normal"
    tiles = "tiles"
    loops = "loops"
    source = "source"


File = Annotated[str, typer.Argument(metavar="FILE", help="A .moa program, or a formula (with --shape).")]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar='NAME="AXES"', help='Axes of a parameter of a formula: Q="... n dk", w=int.'),
]
Sizes = Annotated[list[str] | None, typer.Option("--size", metavar="NAME=N", help="The value of a size: n=1024.")]
Floats = Annotated[Dtype, typer.Option("--dtype", help="What the kernel computes in.")]


@app.callback()
def commands() -> None:
    """Compile attention, or any other array formula, and look at what it became.

    FILE is a program, or a formula with the shapes of its parameters beside it:

    \b
      moa run examples/attention.moa Q=q.npy K=data.npz:K V=data.npz:V --out out.npz
      moa run examples/causal.moa --size n=1024 --size dk=64 --size dv=64
      moa explain examples/attention.moa
      moa explain "softmax(Q @ K.T) @ V" --shape Q="n d" --shape K="m d" --shape V="m dv"
      moa cost examples/attention.moa --size n=4096 --size m=4096 --size dk=64 --size dv=64

    Exit status: 0 fine, 1 a check failed, 2 a mistake in what was given.
    """


# Commands ------------------------------------------------------------------------------------------------------------


@app.command(short_help="Run a program on arrays.")
def run(
    file: File,
    values: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=VALUE]...", help="x.npy, data.npz:key, or a number."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE.npz", help="Write the results here.")] = None,
    size: Sizes = None,
    lead: Annotated[str, typer.Option("--lead", metavar="B,H", help="What `...` is for random inputs.")] = "",
    seed: Annotated[int, typer.Option("--seed", help="Of the random inputs.")] = 0,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="By default all processors.")] = None,
    dtype: Floats = Dtype.float32,
    shape: Shapes = None,
) -> None:
    """Run a program on arrays from files, or on random ones of the sizes given."""
    with guarded():
        if out is not None and out.suffix != ".npz":
            text = f"--out is '{printable(str(out))}'"
            raise MoaError("argument", text, None, "results are written to a .npz file")
        kernel = made(file, shape, dtype)
        sizes = {k: whole(k, v) for k, v in pairs(size, "--size").items()}
        given = {k: loaded(kernel, k, v) for k, v in pairs(values, "an argument").items()}
        arguments = completed(kernel, given, sizes, [whole("--lead", x) for x in lead.split(",") if x], seed)
        begin = time.perf_counter()
        kernel(*arguments, threads=threads)
        first = time.perf_counter() - begin
        begin = time.perf_counter()
        found = kernel(*arguments, threads=threads)
        again = time.perf_counter() - begin
        results = found if isinstance(found, tuple) else (found,)
        names = ["out"] if len(results) == 1 else [f"out{k}" for k in range(len(results))]
        if out is not None:
            written(out, dict(zip(names, results, strict=True)))
        for name, x in zip(names, results, strict=True):
            say(described(name, x))
        say(f"passes {kernel.passes[0]} -> {kernel.passes[1]}; first call {seconds(first)}, again {seconds(again)}")
        if out is not None:
            say(f"wrote {', '.join(names)} to {printable(str(out))}")


@app.command(short_help="Show the way from the formula to the kernel.")
def explain(
    file: File,
    stage: Annotated[Stage | None, typer.Option("--stage", help="Print one representation instead.")] = None,
    dtype: Floats = Dtype.float32,
    shape: Shapes = None,
) -> None:
    """Show the whole way from the formula to the kernel: equations, laws, the traversal that runs, its cost."""
    with guarded():
        text = made(file, shape, dtype).explain(stage.value if stage else None)
        say(titled(text) if stage is None else Text(text))


@app.command(short_help="Check a kernel on hard inputs.")
def verify(file: File, dtype: Floats = Dtype.float32, shape: Shapes = None) -> None:
    """Check a kernel against the oracle on hard inputs, and prove the side conditions of its laws again."""
    with guarded():
        found = check(made(file, shape, dtype), progress=lambda c: say(str(c)))
        say(str(found).splitlines()[-1])
        if not found.ok:
            raise typer.Exit(FAILED)


@app.command(short_help="Count operations and the words that move.")
def cost(file: File, size: Sizes = None, dtype: Floats = Dtype.float32, shape: Shapes = None) -> None:
    """Count operations and the words that move: formulas, and numbers where every size is given."""
    with guarded():
        sizes = {k: whole(k, v) for k, v in pairs(size, "--size").items()}
        say(str(made(file, shape, dtype).cost(**sizes)))


@app.command(short_help="Write a C library of a program.")
def emit(
    file: File,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="A new folder, or one emitted before.")],
    backend: Annotated[Emitted, typer.Option("--backend", help="What the loops are printed as.")] = Emitted.c,
    size: Sizes = None,
    ranks: Annotated[int, typer.Option("--ranks", min=0, help="How many axes `...` stands for.")] = 0,
    name: Annotated[str, typer.Option("--name", help="Of the functions and files; by default the program's.")] = "",
    dtype: Floats = Dtype.float32,
    shape: Shapes = None,
) -> None:
    """Write a folder another project can take: C, a header, a self-test, CMake. A --size becomes a literal."""
    with guarded():
        sizes = {k: whole(k, v) for k, v in pairs(size, "--size").items()}
        kernel = made(file, shape, dtype)
        for path in kernel.emit(out, backend=backend.value, ranks=ranks, name=name, **sizes):
            say(printable(str(path)))


@app.command(short_help="List the laws of the book.")
def laws() -> None:
    """List the laws of the book: what each says, what it does to numbers, and where it comes from."""
    with guarded():
        import moa.stream  # noqa: F401  (enters its laws into the table)
        from moa.laws.table import LAWS
        from moa.psi import PSI

        for table in (PSI, LAWS):
            say(Text(table.stage, style="bold"))
            for law in table.laws.values():
                say(f"  {law.name}: {law.statement}")
                how = f"; applied by {law.how}" if law.how else ""
                say(Text(f"      {law.contract}; {law.source}{how}", style="dim"))


@app.command(short_help="List operators and functions.")
def ops() -> None:
    """List the operators with their algebra, and the functions of the language with their parameters."""
    with guarded():
        from moa.check import prelude
        from moa.check.functions import BUILTINS
        from moa.ops import OPERATORS

        say(Text("operators", style="bold"))
        for o in OPERATORS.values():
            words = [w for w in ("associative", "commutative", "idempotent") if getattr(o, w)]
            words += [f"identity {o.identity:g}"] if o.identity is not None else []
            words += [f"distributes over {', '.join(o.distributes)}"] if o.distributes else []
            words += [f"monotone {o.monotone}"] if o.monotone else []
            say(f"  {o.symbol:<8} {o.name:<9} {', '.join(words)}".rstrip())
        say(Text("functions", style="bold"))
        for f in BUILTINS.values():
            say(f"  {f.name}({', '.join(f.parameters)})")
        say(Text("prelude, written in the language", style="bold"))
        for g in prelude().values():
            say(f"  {g.name.name}({', '.join(p.name.name for p in g.parameters)})")


# What was given ------------------------------------------------------------------------------------------------------


def made(file: str, shape: list[str] | None, dtype: Dtype) -> Kernel:
    """The kernel of a path, or of a formula where shapes are given."""
    shapes = pairs(shape, "--shape")
    if shapes:
        return Kernel(read(file, shapes), dtype.value, {})
    if "\n" not in file and not file.endswith(".moa"):
        hint = 'a program is a path that ends in .moa; a formula needs the shapes of its parameters: --shape Q="n d"'
        raise MoaError("argument", f"'{printable(file)}' is neither a program nor a formula with shapes", None, hint)
    return Kernel(read(file, {}), dtype.value, {})


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


def loaded(kernel: Kernel, name: str, text: str) -> Any:
    """The value of an argument: an array from a file, or a number."""
    p = parameter(kernel, name)
    path, colon, key = text.rpartition(":")
    if not (colon and path.endswith(".npz")):
        path, key = text, ""
    if path.endswith((".npy", ".npz")):
        return converted(kernel, p, from_file(path, key or (name if path.endswith(".npz") else "")))
    try:
        return int(text) if p.kind == "i" else float(text)
    except ValueError:
        hint = "give a number, a file.npy or a file.npz:key"
        raise MoaError("argument", f"{name} is '{printable(text)}'", None, hint) from None


def parameter(kernel: Kernel, name: str) -> ir.Input:
    inputs = kernel.derivation.program.inputs
    found = next((p for p in inputs if p.name == name), None)
    if found is None:
        known = ", ".join(p.name for p in inputs)
        raise MoaError(
            "argument", f"{kernel.name} has no parameter {printable(name)}", None, f"its parameters: {known}"
        )
    return found


def from_file(path: str, key: str) -> np.ndarray[Any, Any]:
    """An array of a .npy or .npz file; objects are never unpickled."""
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


def converted(kernel: Kernel, p: ir.Input, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An array in the type that the kernel takes; floats are converted, other kinds must agree."""
    if p.kind == "f" and x.dtype.kind in "fiu":
        return x.astype(kernel.dtype)
    return x


def completed(kernel: Kernel, given: dict[str, Any], sizes: Mapping[str, int], lead: list[int], seed: int) -> list[Any]:
    """The arguments in order; arrays that were not given are random."""
    rng = np.random.default_rng(seed)
    program = kernel.derivation.program
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
        return rng.standard_normal(shape).astype(kernel.dtype)
    if p.kind == "b":
        return rng.random(shape) < 0.5
    raise MoaError(
        "argument", f"no array for {p.name}, and integers have no random values", None, f"add {p.name}=file.npy"
    )


# What is said --------------------------------------------------------------------------------------------------------


class Out(Console):
    """Standard output: colour on a terminal only, no wrapping, nothing in the text is markup."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def say(text: str | Text) -> None:
    out = Out(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if out.is_terminal:
        out.print(text)
    else:
        print(text if isinstance(text, str) else text.plain)


def titled(page: str) -> Text:
    """The page of `explain` with its titles in bold."""
    out = Text(page)
    out.highlight_regex(r"^\S[^\n]*?(?=  |$)", "bold")
    return out


def described(name: str, x: np.ndarray[Any, Any]) -> str:
    """A result: its shape, and its values or how they lie."""
    head = f"{name}: {x.dtype}[{', '.join(map(str, x.shape))}]"
    if x.size <= SHOWN:
        text = np.array2string(x, precision=6, separator=", ")
        return f"{head} =\n{text}"
    if x.dtype.kind != "f":
        return head
    finite = x[np.isfinite(x)]
    odd = x.size - finite.size
    if not finite.size:
        return f"{head}, none finite"
    tail = f", {odd} not finite" if odd else ""
    return f"{head}, min {finite.min():.6g}, mean {finite.mean(dtype=np.float64):.6g}, max {finite.max():.6g}{tail}"


def seconds(s: float) -> str:
    return f"{s:.3g} s" if s >= 1 else f"{s * 1e3:.3g} ms"


def written(path: Path, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    try:
        with path.open("wb") as f:
            np.savez(f, **arrays)  # type: ignore[arg-type]
    except OSError as e:
        text = f"{printable(str(path))} cannot be written: {e.strerror}"
        raise MoaError("argument", text, None, "check the path") from None


@contextmanager
def guarded() -> Iterator[None]:
    """Mistakes as messages on standard error; nothing that was given reaches a terminal but through `printable`."""
    try:
        yield
        sys.stdout.flush()
    except MoaError as e:
        stop("\n".join(printable(line) for line in str(e).splitlines()))
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it once more
        raise SystemExit(BROKEN_PIPE) from None


def stop(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise typer.Exit(MISTAKE)


def main() -> None:
    """The entry of the command `moa`."""
    try:
        status = app(prog_name="moa", standalone_mode=False)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except Exception as e:
        told = getattr(e, "format_message", None)  # what the parser of the command line raises
        if told is None:
            raise
        print("\n".join(printable(line) for line in str(told()).splitlines()), file=sys.stderr)
        print("  hint: moa --help, or moa COMMAND --help", file=sys.stderr)
        status = MISTAKE
    sys.exit(status or 0)


if __name__ == "__main__":
    main()
