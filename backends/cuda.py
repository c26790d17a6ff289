"""Loops as CUDA C++: a work item is a block of threads, a lane a thread, a warp of the item a warp.

A value of a vector type is one scalar in each thread; every other value is the same in all threads of a warp, but in a
loop over lanes, where it belongs to the thread. The entry of a phase runs in all threads of a block, in step from
barrier to barrier; a nest is shared by the warps, none of which reads there what another one writes. Nothing is
contracted if the compiler is told so (`--fmad=false`): the bits are those of the Loops.
"""

from __future__ import annotations

from collections.abc import Mapping

from moa.backends.c_vectors import helpers
from moa.backends.cfamily import BINARY, RELATIONS, Family
from moa.backends.cuda_text import HEAD, KERNEL, LAUNCH, QUERIES, REDUCTIONS, SCRATCH, START
from moa.expand import expand
from moa.loops import Arg, Const, For, Loops, Op
from moa.lower import Lowered
from moa.tile import Strategy

__all__ = ["Printer", "kernels", "print_cuda", "warps"]

LANES = 32
THREADS = 512  # of a multiprocessor, at least: 128 registers are left for each
SCRATCH_BYTES = 96 << 10  # wanted of a block: two fit a multiprocessor with 227 KiB, and one any device
LEAST_SHARED_BYTES = 99 << 10  # what a block may have on any device of compute capability 8.0 or later
SCALAR = {"v": "f", "m": "b"}
WORDS = {"wadd": "+", "wsub": "-", "wmul": "*"}


def print_cuda(parts: Mapping[str, Lowered]) -> str:
    """A file of kernels for each prefix: PREFIX_start starts a phase. All parts have one element type."""
    (dtype,) = {p.loops.dtype for p in parts.values()}
    texts = [kernels(p, prefix) + launcher(p, prefix) for prefix, p in parts.items()]
    return "".join([preamble(dtype), *texts, QUERIES])


def preamble(dtype: str) -> str:
    """What stands once in a file: headers, scalar helpers, and how kernels are started."""
    return HEAD + helpers(dtype, short=True) + REDUCTIONS + START


def scratch_kinds(p: Lowered) -> tuple[str, ...]:
    """Where scratch may have to be: in global memory too, unless it fits the shared memory of every device."""
    known = p.scratch_bytes.as_int()
    return ("shared",) if known is not None and known <= LEAST_SHARED_BYTES else ("shared", "global")


def kernels(p: Lowered, prefix: str) -> str:
    """The functions of Loops, and kernels for each phase by the place of scratch."""
    loops = expand(p.loops)
    printer = Printer(loops, prefix)
    out = [f"\nstruct {prefix}_words {{", f"    int64_t word[{max(len(p.slots), 1)}];", "};", ""]
    out += [printer.function(f) + "\n" for f in loops.functions]
    for k in range(len(loops.phases)):
        threads = LANES * warps(loops)
        blocks = max(THREADS // threads, 1)
        words = {"PREFIX": prefix, "PHASE": str(k), "THREADS": str(threads), "BLOCKS": str(blocks)}
        for kind in scratch_kinds(p):
            out.append(filled(KERNEL, {**words, "KIND": kind[0], "SCRATCH": SCRATCH[kind]}))
    return "\n".join(out)


def launcher(p: Lowered, prefix: str) -> str:
    """A C function that starts one phase of the kernels with a prefix."""
    cases = []
    for k in range(len(p.loops.phases)):
        both = [f"{prefix}_{kind[0]}{k}" for kind in scratch_kinds(p)]
        given = f"word, {warps(p.loops)}, items, scratch, space, stream"
        cases.append(f"case {k}: return moa_start<{prefix}_words>({both[0]}, {[*both, 'nullptr'][1]}, {given});")
    return filled(LAUNCH, {"PREFIX": prefix, "CASES": "\n    ".join(cases)})


def filled(text: str, words: Mapping[str, str]) -> str:
    """The text with @WORD@ replaced by its value."""
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text


def strategies(dtype: str, few: bool = False) -> tuple[Strategy, ...]:
    """The ways to place a program on a device, what holds most rows first; with few rows another axis takes the lanes.

    Accumulators are 16 to a thread: 2 rows by 8 steps of a reduction, or 1 by 8 where scratch is short.
    """
    if few:
        return (Strategy(LANES, 1, 64, 8, 8, LANES, 8, True),)
    wide, narrow = Strategy(LANES, 64, 64, 8, 8, LANES, 8, True), Strategy(LANES, 32, 32, 8, 8, LANES, 4, True)
    return (wide, narrow) if dtype == "f32" else (narrow,)


def warps(loops: Loops) -> int:
    """How many warps share a work item."""
    counts = [s.hi.value for f in loops.functions for s in f.body if isinstance(s, For) and s.on == "warps"
              and isinstance(s.hi, Const)]  # fmt: skip
    return max((int(n) for n in counts), default=1)


class Printer(Family):
    """Prints device functions for vectors of 32 lanes."""

    words = "const int64_t *"

    def __init__(self, loops: Loops, prefix: str = "moa") -> None:
        assert loops.width == LANES, f"the width is {loops.width}"
        super().__init__(loops, prefix)
        self.types = {
            "i": "int64_t", "f": "moa_f", "b": "bool", "p": "moa_p", "v": "moa_f", "w": "moa_n", "m": "bool",
        }  # fmt: skip
        self.own = 0  # depth of loops over lanes: scalars are the thread's own there
        self.entry = False

    def head(self, entry: bool) -> str:
        self.entry = entry
        return "MOA_HELPER void"

    # statements

    def loop(self, s: For) -> None:
        match s.on:
            case "warps":
                self.on_warps(s)
            case "lanes":
                self.on_lanes(s)
            case _:
                super().loop(s)

    def on_warps(self, s: For) -> None:
        assert not s.carried and s.lo == Const(0, "i") and not self.entry, s
        self.put(f"if (MOA_WARP < {self.arg(s.hi)}) {{")
        self.inside(s)
        self.put("}")

    def on_lanes(self, s: For) -> None:
        for c in s.carried:
            self.put(f"{self.types[c.result.type]} {c.result};")
        self.put("{")
        self.own += 1
        self.inside(s, index="MOA_LANE")
        self.own -= 1
        self.put("}")
        for c in s.carried:
            self.unused(c.result)

    def inside(self, s: For, index: str = "MOA_WARP") -> None:
        self.depth += 1
        self.put(f"const int64_t {s.index} = {index};")
        self.unused(s.index)
        for c in s.carried:
            self.put(f"const {self.types[c.phi.type]} {c.phi} = {self.arg(c.first)};")
            self.unused(c.phi)
        self.body(s.body)
        for c in s.carried:
            self.put(f"{c.result} = {self.arg(c.next)};")
        self.depth -= 1

    # instructions

    def constant(self, a: Const) -> str:
        kind = SCALAR.get(a.type, a.type)
        return str(int(a.value)) if kind == "w" else super().constant(Const(a.value, kind))  # type: ignore[arg-type]

    def op(self, s: Op) -> None:
        if s.op == "barrier":
            self.put("__syncthreads();")
        elif s.result is None and s.args[2].type in "fib" and not self.own:
            self.put("if (MOA_LANE == 0)")  # all lanes hold the value
            self.depth += 1
            super().op(s)
            self.depth -= 1
        else:
            super().op(s)

    def vector(self, s: Op, args: list[str], types: str) -> str:
        """An instruction on one element of a vector: that of this thread."""
        result = s.result.type if s.result else ""
        if s.op in WORDS:
            return f"(moa_n)((moa_u){args[0]} {WORDS[s.op]} (moa_u){args[1]})"
        match s.op:
            case "wmin" | "wmax":
                return f"{args[0]} {'<' if s.op == 'wmin' else '>'} {args[1]} ? {args[0]} : {args[1]}"
            case "wcmp":
                return f"{args[0]} {RELATIONS[s.attrs[0]]} {args[1]}"
            case "band" | "bor":
                return f"{args[0]} {BINARY[s.op]} {args[1]}"
            case "lanes":
                return "MOA_LANE"
            case "wsplat":
                return f"(moa_n){args[0]}"
            case "first":
                return f"MOA_LANE < {args[0]}"
            case "splat" | "bsplat":
                return args[0]
            case "w2v":
                return f"(moa_f){args[0]}"
            case "reduce":
                return f"moa_reduce_{s.attrs[0]}({args[0]})"
            case "insert":
                return f"MOA_LANE == {s.attrs[0]} ? {args[1]} : {args[0]}"
            case "extract":
                return f"moa_lane({args[0]}, {s.attrs[0]})"
            case "pick":
                assert self.own, f"lanes are picked in a loop over lanes: {s}"
                return args[0]
            case "load":
                return self.load(s.attrs[0], SCALAR.get(result, result), [args[0], mine(s.args[1], args[1])])
            case "loadm":
                value = self.load(s.attrs[0], SCALAR[result], [args[0], mine(s.args[1], args[1])])
                return f"{args[2]} ? {value} : {self.constant(Const(0, result))}"  # type: ignore[arg-type]
            case "store" | "storem":
                text = self.store(s.attrs[0], SCALAR[types[2]], [args[0], mine(s.args[1], args[1]), args[2]])
                return text if s.op == "store" else f"if ({args[3]}) {text}"
        return self.scalar(s, args, types, result)


def mine(a: Arg, text: str) -> str:
    """The element of this thread in a vector that starts at an element."""
    return "MOA_LANE" if a == Const(0, "i") else f"{text} + MOA_LANE"
