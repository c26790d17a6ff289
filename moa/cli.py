"""The command line: one function a command. A mistake is a message and status 2, not a traceback."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import typer
from rich.text import Text

from moa import answers
from moa.cache import Usage, current, located
from moa.files import plain, text_to, writable, written
from moa.given import caches_of, completed, inputs_of, leading, loaded, made, pairs, whole
from moa.machine import machine_of, toml_of
from moa.measure import measure as taken
from moa.probe import probe
from moa.terminal import described, say, seconds, titled, working
from moa.text import MoaError, printable
from moa.tune import tune as tuned
from moa.verify import verify as check
from moa.verify.check import Check

T = TypeVar("T")
FAILED, MISTAKE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141

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
    bfloat16 = "bfloat16"
    float16 = "float16"


class Emitted(StrEnum):
    c = "c"
    llvm = "llvm"
    cuda = "cuda"


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
Values = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME=VALUE]...", help="x.npy, data.npz:key, or a number; by default random."),
]
Lead = Annotated[str, typer.Option("--lead", metavar="B,H", help="What `...` is for random inputs.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the random inputs.")]
Floats = Annotated[Dtype, typer.Option("--dtype", help="Floats in arrays; 16-bit ones are computed in float32.")]
Chosen = Annotated[
    str, typer.Option("--function", metavar="NAME", help="The kernel; by default the last function of the program.")
]
Placing = Annotated[
    Emitted, typer.Option("--backend", help="Whose tiles and loops: those of a CPU (llvm, c) or of a GPU.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object: moa --help has its keys.")]


def commands() -> None:
    """Compile attention, or any other array formula, and look at what it became.

    FILE is a program, or a formula with the shapes of its parameters beside it:

    \b
      moa run examples/attention.moa Q=q.npy K=data.npz:K V=data.npz:V --out out.npz
      moa run examples/causal.moa --size n=1024 --size dk=64 --size dv=64
      moa explain examples/attention.moa
      moa explain "softmax(Q @ K.T) @ V" --shape Q="n d" --shape K="m d" --shape V="m dv"
      moa cost examples/attention.moa --size n=4096 --size m=4096 --size dk=64 --size dv=64
      moa measure examples/attention.moa --size n=4096 --size m=4096 --size dk=64 --size dv=64

    Exit status: 0 fine, 1 a check failed, 2 a mistake in what was given, 130 interrupted.

    With --json a command prints one object on standard output, in place of all else; of a mistake, its `error`.
    Numbers that are not finite are strings. The keys:
    """


KEYS = "".join(f"  {line}" for line in answers.KEYS.splitlines(keepends=True))
app.callback(help=f"{cleandoc(commands.__doc__ or '')}\n\n\b\n{KEYS}")(commands)


# Commands ------------------------------------------------------------------------------------------------------------


@app.command(short_help="Run a program on arrays.")
def run(
    file: File,
    values: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=VALUE]...", help="x.npy, data.npz:key, or a number."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the results here: a .npz file, or .npy of one.")
    ] = None,
    size: Sizes = None,
    lead: Lead = "",
    seed: Seed = 0,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="By default all processors.")] = None,
    dtype: Floats = Dtype.float32,
    shape: Shapes = None,
    function: Chosen = "",
    as_json: Json = False,
) -> None:
    """Run a program on arrays from files, or on random ones of the sizes given.

    \b
      moa run examples/window.moa w=128 --size n=4096 --size dk=64 --size dv=64 --lead 4
    """
    with guarded(as_json):
        if out is not None:
            writable(out)
        kernel = made(file, shape, dtype.value, function)
        sizes = {k: whole(k, v) for k, v in pairs(size, "--size").items()}
        given = {k: loaded(kernel, k, v) for k, v in pairs(values, "an argument").items()}
        arguments = completed(kernel, given, sizes, leading(lead), seed)
        first, _ = timed(lambda: kernel(*arguments, threads=threads))
        again, found = timed(lambda: kernel(*arguments, threads=threads))
        results = [plain(x) for x in (found if isinstance(found, tuple) else (found,))]
        names = ["out"] if len(results) == 1 else [f"out{k}" for k in range(len(results))]
        outputs = dict(zip(names, results, strict=True))
        if out is not None:
            written(out, outputs)
        if as_json:
            answer = answers.of_run(kernel, outputs, first, again)
            tell({**answer, "file": None if out is None else str(out)})
            return
        for name, x in outputs.items():
            say(described(name, x))
        say(f"passes {kernel.passes[0]} -> {kernel.passes[1]}; first call {seconds(first)}, again {seconds(again)}")
        if out is not None:
            say(f"wrote {', '.join(names)} to {printable(str(out))}")


@app.command(short_help="Show the way from the formula to the kernel.")
def explain(
    file: File,
    stage: Annotated[Stage | None, typer.Option("--stage", help="Print one representation instead.")] = None,
    picture: Annotated[bool, typer.Option("--picture", help="Draw the tiles it enters at each --size.")] = False,
    svg: Annotated[Path | None, typer.Option("--svg", metavar="OUT.svg", help="Write the picture here too.")] = None,
    size: Sizes = None,
    dtype: Floats = Dtype.float32,
    shape: Shapes = None,
    function: Chosen = "",
    backend: Placing = Emitted.llvm,
    as_json: Json = False,
) -> None:
    """Show the whole way from the formula to the kernel: equations, laws, the traversal that runs, its cost.

    \b
      moa explain examples/causal.moa --picture --size n=1024
      moa explain examples/causal.moa --backend cuda
    """
    with guarded(as_json):
        kernel = made(file, shape, dtype.value, function, backend.value)
        if picture or svg or size:
            if stage or as_json or not (picture or svg):
                text = "--size goes with --picture; --stage and --json do not"
                raise MoaError("argument", text, None, "leave one out")
            drawn = kernel.picture(**{k: whole(k, v) for k, v in pairs(size, "--size").items()})
            if svg:
                drawn.save(svg)
            say(str(drawn))
            return
        named = stage.value if stage else None
        text = kernel.explain(named)
        if as_json:
            tell(answers.of_page(kernel, named, text))
        else:
            say(titled(text) if stage is None else Text(text))


@app.command(short_help="Check a kernel on hard inputs.")
def verify(
    file: File, dtype: Floats = Dtype.float32, shape: Shapes = None, function: Chosen = "", as_json: Json = False
) -> None:
    """Check a kernel against the oracle on hard inputs, and prove the side conditions of its laws again.

    \b
      moa verify examples/causal.moa --dtype float64
    """
    with guarded(as_json):
        kernel = made(file, shape, dtype.value, function)
        with working("compiling") as now:

            def progress(c: Check) -> None:
                if not as_json:
                    say(str(c))
                now(f"after {c.name}")

            found = check(kernel, progress=progress)
        if as_json:
            tell(answers.of_verification(kernel, found))
        else:
            say(str(found).splitlines()[-1])
        if not found.ok:
            raise typer.Exit(FAILED)


@app.command(short_help="Count operations and the words that move.")
def cost(
    file: File,
    size: Sizes = None,
    machine: Annotated[
        str, typer.Option("--machine", metavar="NAME|FILE", help="Predict each level of its memory: see moa machine.")
    ] = "",
    why: Annotated[bool, typer.Option("--why", help="List what was chosen among at these sizes instead.")] = False,
    threads: Annotated[int, typer.Option("--threads", min=1, help="How many share the work, for --why.")] = 1,
    dtype: Floats = Dtype.float32,
    shape: Shapes = None,
    function: Chosen = "",
    as_json: Json = False,
) -> None:
    """Count operations and the words that move: formulas, and numbers where every size is given.

    \b
      moa cost examples/causal.moa --size n=4096 --size dk=64 --size dv=64
      moa cost examples/causal.moa --size n=4096 --size dk=64 --size dv=64 --machine zen4-server
      moa cost examples/linear.moa --size n=4096 --size dk=64 --size dv=64 --why
      moa cost examples/systems/longformer.moa --function window
    """
    with guarded(as_json):
        sizes = {k: whole(k, v) for k, v in pairs(size, "--size").items()}
        kernel = made(file, shape, dtype.value, function)
        if why:
            candidates = kernel.why(machine, threads=threads, **sizes)
            if as_json:
                tell(answers.of_why(kernel, candidates))
            else:
                say(str(candidates))
            return
        found = kernel.cost(machine, **sizes)
        if as_json:
            tell(answers.of_cost(kernel, found))
        else:
            say(str(found))


@app.command(short_help="Run a program through simulated caches, counters and a clock.")
def measure(
    file: File,
    values: Values = None,
    size: Sizes = None,
    lead: Lead = "",
    seed: Seed = 0,
    threads: Annotated[int, typer.Option("--threads", min=1, help="How many share the work.")] = 1,
    cache: Annotated[
        list[str] | None,
        typer.Option(
            "--cache", metavar="BYTES[/WAYS]", help="Each from the nearest on: 48K/12; by default those here."
        ),
    ] = None,
    dtype: Floats = Dtype.float32,
    shape: Shapes = None,
    function: Chosen = "",
    as_json: Json = False,
) -> None:
    """Measure what a program moves: bytes beyond each cache, simulated from the addresses that it really touches.

    Beside them stand counters of the processor where the system has them, the time of a call, and its memory.

    \b
      moa measure examples/causal.moa --size n=1024 --size dk=64 --size dv=64 --cache 32K/8 --cache 1M/8
    """
    with guarded(as_json):
        kernel = made(file, shape, dtype.value, function)
        named = inputs_of(kernel, size, values)
        with working(f"compiling {kernel.name}") as now:
            found = taken(kernel, (), named, caches_of(cache), threads, leading(lead), seed, now)
        if as_json:
            tell(answers.of_measured(kernel, found))
        else:
            say(str(found))


@app.command(short_help="Measure the best few tiles, and use the fastest.")
def tune(
    file: File,
    values: Values = None,
    size: Sizes = None,
    lead: Lead = "",
    seed: Seed = 0,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="How many share the work.")] = None,
    limit: Annotated[float, typer.Option("--seconds", help="To measure for, without compiling.")] = 5.0,
    dtype: Floats = Dtype.float32,
    shape: Shapes = None,
    function: Chosen = "",
    as_json: Json = False,
) -> None:
    """Measure the model's choice of tiles and its neighbours in turn; later calls at such sizes use the fastest.

    What won is kept beside the cache, for this machine. Ctrl-C ends the measuring. MOA_TUNED=0 leaves it unused.

    \b
      moa tune examples/attention.moa --size n=2048 --size m=2048 --size dk=64 --size dv=64 --lead 1,8
    """
    with guarded(as_json):
        kernel = made(file, shape, dtype.value, function)
        named = inputs_of(kernel, size, values)
        with working(f"compiling {kernel.name}") as now:
            found = tuned(kernel, (), named, threads, leading(lead), seed, limit, True, now)
        if as_json:
            tell(answers.of_tuned(kernel, found))
        else:
            say(str(found))
        if found.interrupted:
            raise SystemExit(INTERRUPTED)


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
    function: Chosen = "",
    as_json: Json = False,
) -> None:
    """Write a folder another project can take: C, a header, a self-test, CMake. A --size becomes a literal.

    \b
      moa emit examples/causal.moa -o causal --size dk=64 --size dv=64
    """
    with guarded(as_json):
        sizes = {k: whole(k, v) for k, v in pairs(size, "--size").items()}
        kernel = made(file, shape, dtype.value, function)
        with working(f"placing and printing {kernel.name}"):
            files = kernel.emit(out, backend=backend.value, ranks=ranks, name=name, **sizes)
        if as_json:
            tell(answers.of_emitted(kernel, backend.value, files))
            return
        for path in files:
            say(printable(str(path)))


@app.command(short_help="Derive the update for one more token.")
def step(
    file: File,
    along: Annotated[
        str, typer.Option("--along", metavar="NAME", help="The size that counts tokens; by default it is found.")
    ] = "",
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="OUT.moa", help="Write the program here.")] = None,
    ranks: Annotated[int, typer.Option("--ranks", min=0, help="How many axes `...` stands for.")] = 0,
    dtype: Floats = Dtype.float32,
    shape: Shapes = None,
    function: Chosen = "",
    as_json: Json = False,
) -> None:
    """Derive a program for one more token with a state of constant size, from the program over n tokens.

    \b
      moa step examples/linear.moa
    """
    with guarded(as_json):
        if out is not None:
            writable(out, (".moa",))
        kernel = made(file, shape, dtype.value, function)
        found = kernel.step(size=along, ranks=ranks)
        if out is not None:
            text_to(out, found.text)
        if as_json:
            tell({**answers.of_step(kernel, found), "file": None if out is None else str(out)})
        elif out is None:
            say(Text(found.text.rstrip()))
        else:
            say(f"wrote {printable(found.kernel.name)} to {printable(str(out))}")


@app.command(short_help="List the laws of the book.")
def laws(as_json: Json = False) -> None:
    """List the laws of the book: what each says, what it does to numbers, and where it comes from.

    \b
      moa laws --json
    """
    with guarded(as_json):
        import moa.stream  # noqa: F401  (enters its laws into the table)
        from moa.laws.table import LAWS
        from moa.psi import PSI

        if as_json:
            tell(answers.of_laws([*PSI.laws.values(), *LAWS.laws.values()]))
            return
        for table in (PSI, LAWS):
            say(Text(table.stage, style="bold"))
            for law in table.laws.values():
                say(f"  {law.name}: {law.statement}")
                how = f"; applied by {law.how}" if law.how else ""
                say(Text(f"      {law.contract}; {law.source}{how}", style="dim"))


@app.command(short_help="List operators and functions.")
def ops(as_json: Json = False) -> None:
    """List the operators with their algebra, and the functions of the language with their parameters.

    \b
      moa ops --json
    """
    with guarded(as_json):
        from moa.check import prelude
        from moa.check.functions import BUILTINS
        from moa.ops import OPERATORS

        functions = {f.name: list(f.parameters) for f in BUILTINS.values()}
        written_here = {g.name.name: [p.name.name for p in g.parameters] for g in prelude().values()}
        if as_json:
            tell(answers.of_operators(list(OPERATORS.values()), functions, written_here))
            return
        say(Text("operators", style="bold"))
        for o in OPERATORS.values():
            words = [w for w in ("associative", "commutative", "idempotent") if getattr(o, w)]
            words += [f"identity {o.identity:g}"] if o.identity is not None else []
            words += [f"distributes over {', '.join(o.distributes)}"] if o.distributes else []
            words += [f"monotone {o.monotone}"] if o.monotone else []
            say(f"  {o.symbol:<8} {o.name:<9} {', '.join(words)}".rstrip())
        for title, listed in (("functions", functions), ("prelude, written in the language", written_here)):
            say(Text(title, style="bold"))
            for name, parameters in listed.items():
                say(f"  {name}({', '.join(parameters)})")


@app.command(short_help="Measure this machine, or show the description of one.")
def machine(
    name: Annotated[
        str, typer.Argument(metavar="[NAME|FILE]", help="A machine that ships, a .toml file, or `here`.")
    ] = "",
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="OUT.toml", help="Write it here.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="By default all processors.")] = None,
    as_json: Json = False,
) -> None:
    """Measure rates and bandwidths of this machine and keep them, or show a machine that is described.

    It takes some ten seconds. What is measured is `here` for later commands.

    \b
      moa machine h100
    """
    with guarded(as_json):
        if out is not None:
            writable(out, (".toml",))
        if name and threads is not None:
            raise MoaError("argument", "--threads is for measuring", None, "leave out the machine, or --threads")
        if name:
            found = machine_of(name)
        else:
            with working("measuring this machine") as now:
                found = probe(now, threads)
        if out is not None:
            text_to(out, toml_of(found))
        if as_json:
            tell(answers.of_machine(found))
        else:
            say(str(found))


class Action(StrEnum):
    clear = "clear"


@app.command(short_help="Show or clear the cache of compiled kernels.")
def cache(
    action: Annotated[Action | None, typer.Argument(help="`clear` removes all entries.")] = None, as_json: Json = False
) -> None:
    """Show the folder that keeps compiled kernels, and how much it holds, or clear it.

    MOA_CACHE=0 switches it off, MOA_CACHE_DIR names the folder, MOA_CACHE_SIZE is the most bytes it may hold.

    \b
      moa cache clear
    """
    with guarded(as_json):
        store = located()
        if action is None:
            found = Usage(0, 0) if store is None else store.usage()
        else:
            found = Usage(0, 0) if store is None else store.clear()
        answer = answers.of_cache(store, found)
        if action is None:
            answer |= {"used": current() is not None, "most_bytes": 0 if store is None else store.most_bytes}
        if as_json:
            tell(answer)
            return
        folder = "none" if store is None else printable(str(store.folder))
        count = f"{found.entries} entries, {found.total_bytes:,} bytes"
        if action is None:
            used = f" of at most {answer['most_bytes']:,}" if answer["used"] else "; not used in this environment"
            say(f"{folder}: {count}{used}")
        else:
            say(f"{folder}: removed {count}")


# Mistakes -----------------------------------------------------------------------------------------------------------


def tell(answer: answers.Answer) -> None:
    print(answers.text_of(answer))


def timed(f: Callable[[], T]) -> tuple[float, T]:
    """How many seconds a call takes, and what it returns."""
    begin = time.perf_counter()
    found = f()
    return time.perf_counter() - begin, found


@contextmanager
def guarded(as_json: bool) -> Iterator[None]:
    """Mistakes as messages on standard error, or as JSON; what was given reaches a terminal escaped only."""
    try:
        yield
        sys.stdout.flush()
    except MoaError as e:
        stop(e, as_json)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it once more
        raise SystemExit(BROKEN_PIPE) from None


def stop(e: MoaError, as_json: bool) -> NoReturn:
    if as_json:
        tell(answers.of_error(e))
    else:
        print("\n".join(printable(line) for line in str(e).splitlines()), file=sys.stderr)
    raise typer.Exit(MISTAKE)


def misused(message: str) -> int:
    """Tells that the command line cannot be read; its parser never got to know whether JSON is wanted."""
    hint = "moa --help, or moa COMMAND --help"
    if "--json" in sys.argv[1:]:
        tell(answers.of_error(MoaError("usage", message, None, hint)))
    else:
        print(f"{message}\n  hint: {hint}", file=sys.stderr)
    return MISTAKE


def main() -> None:
    """The entry of the command `moa`."""
    try:
        status = app(prog_name="moa", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except Exception as e:
        told = getattr(e, "format_message", None)  # what the parser of the command line raises
        if told is None:
            raise
        status = misused(printable(" ".join(str(told()).splitlines())))
    sys.exit(status or 0)


if __name__ == "__main__":
    main()
