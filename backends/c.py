"""Loops as C11 with the vector extensions of GCC and clang.

An instruction on vectors is a macro or an operator, a scalar one an expression (`moa.backends.cfamily`); the compiler
is told to contract nothing, so what is written is what is computed, and the bits are those of the LLVM text.
"""

from __future__ import annotations

from moa.backends.c_vectors import scalars, vectors
from moa.backends.cfamily import BINARY, RELATIONS, Family, comment, literal
from moa.loops import ELEMENT_BYTES, Const, Fn, For, If, Loops, Name, Op, Stmt
from moa.pointers import with_pointers

__all__ = ["Printer", "comment", "print_c", "print_functions"]

UNARY = {"fabs": "MOA_FABS", "fneg": "MOA_FNEG", "fsqrt": "MOA_SQRT", "round": "MOA_ROUND", "bnot": "MOA_NOT",
         "fraction": "MOA_FRACTION", "mantissa": "MOA_MANTISSA", "exponent": "MOA_EXPONENT", "wsplat": "MOA_WSPLAT",
         "first": "MOA_FIRST", "bsplat": "MOA_BSPLAT", "splat": "MOA_SPLAT"}  # fmt: skip
CALLS = {"fma": "MOA_FMA", "fmax": "MOA_FMAX", "fmin": "MOA_FMIN", "fmaxn": "MOA_FMAXN", "fminn": "MOA_FMINN",
         "scale": "MOA_SCALE", "wmin": "MOA_WMIN", "wmax": "MOA_WMAX", "wadd": "MOA_WADD", "wsub": "MOA_WSUB",
         "wmul": "MOA_WMUL", "pair": "MOA_PAIR", "dot2": "MOA_DOT2", "band": "MOA_AND", "bor": "MOA_OR"}  # fmt: skip


def print_c(loops: Loops) -> str:
    """A file: entries are named moa_p0, moa_p1, .. in the order of phases, other functions are static."""
    head = "/* Made by moa. */\n"
    return head + scalars(loops.dtype, short=True) + "\n" + vectors(loops.dtype, loops.width) + "\n" + functions(loops)


def functions(loops: Loops) -> str:
    entries = [f"void moa_p{k}(int64_t *, int64_t, int64_t, unsigned char *);" for k in range(len(loops.phases))]
    return "\n".join([*entries, "", print_functions(loops, "moa", "void")])


def print_functions(loops: Loops, prefix: str, linkage: str) -> str:
    """The functions of Loops alone; `linkage` is what stands before the names of entries."""
    loops = with_pointers(loops)
    printer = Printer(loops, prefix, linkage)
    return "\n\n".join(printer.function(f) for f in loops.functions) + "\n"


class Printer(Family):
    """Prints C, for `Loops.width` floats in a vector."""

    def __init__(self, loops: Loops, prefix: str = "moa", linkage: str = "void") -> None:
        super().__init__(loops, prefix)
        self.linkage = linkage
        self.types = {
            "i": "int64_t", "f": "moa_f", "b": "_Bool", "p": "moa_p", "v": "moa_v", "w": "moa_w", "m": "moa_m",
        }  # fmt: skip
        self.follows: dict[Name, bool] = {}

    def head(self, entry: bool) -> str:
        return self.linkage if entry else "MOA_NEST static void"

    def function(self, f: Fn) -> str:
        self.follows = {}
        self.note_inserts(f.body)
        return super().function(f)

    def note_inserts(self, body: tuple[Stmt, ...]) -> None:
        """Finds the inserts of a block that nothing but the next insert uses: they are printed as one vector."""
        counted: dict[Name, int] = {}
        inserts: dict[Name, Name] = {}
        for s in body:
            match s:
                case Op():
                    for a in s.args:
                        if isinstance(a, Name) and a.type == "v":
                            counted[a] = counted.get(a, 0) + 1
                            if s.op == "insert" and s.result is not None:
                                inserts[a] = s.result
                case For():
                    self.note_inserts(s.body)
                case If():
                    self.note_inserts(s.then)
                    self.note_inserts(s.other)
        self.follows |= {a: True for a in inserts if counted[a] == 1}

    def constant(self, a: Const) -> str:
        match a.type:
            case "v":
                return f"MOA_SPLAT({literal(float(a.value), self.dtype)})"
            case "w":
                return f"MOA_WSPLAT({int(a.value)})"
            case "m":
                return "MOA_TRUE" if a.value else "MOA_FALSE"
            case _:
                return super().constant(a)

    def scalar(self, s: Op, args: list[str], types: str, result: str) -> str:
        if s.op == "offset":
            return f"MOA_MOVED({args[0]}, {self.scaled(s.args[1], ELEMENT_BYTES[s.attrs[0]])})"
        return super().scalar(s, args, types, result)

    def vector(self, s: Op, args: list[str], types: str) -> str:
        result = s.result.type if s.result else ""
        if s.op in CALLS:
            return f"{CALLS[s.op]}({', '.join(args)})"
        if s.op in UNARY:
            cast = "(moa_n)" if s.op == "wsplat" else ""
            return f"{UNARY[s.op]}({cast}{args[0]})"
        if s.op in BINARY:
            return f"{args[0]} {BINARY[s.op]} {args[1]}"
        match s.op:
            case "fcmp" | "wcmp":
                name = "MOA_FCMP" if s.op == "fcmp" else "MOA_WCMP"
                return f"{name}({s.attrs[0]}, {RELATIONS[s.attrs[0]]}, {args[0]}, {args[1]})"
            case "select" if types[0] == "m":
                return f"{'MOA_WSELECT' if result == 'w' else 'MOA_SELECT'}({', '.join(args)})"
            case "select":
                return f"{args[0]} ? {args[1]} : {args[2]}"
            case "lanes":
                return "MOA_LANES"
            case "w2v":
                return f"__builtin_convertvector({args[0]}, moa_v)"
            case "insert":
                return self.insert(s, args)
            case "extract":
                return f"{args[0]}[{s.attrs[0]}]" if isinstance(s.args[0], Name) else f"({args[0]})[{s.attrs[0]}]"
            case "sums":
                return f"MOA_SUMS_{len(args)}({', '.join(args)})"
            case "turn":
                step, half = s.attrs
                own = [k - k % (2 * step) + half * step + k % step for k in range(self.width)]
                lanes = ", ".join(str(x + self.width * (k // step % 2)) for k, x in enumerate(own))
                return f"MOA_SHUFFLE_TWO({args[0]}, {args[1]}, {lanes})"
            case "weave":
                first = [s.attrs[0] * self.width + k // 2 + k % 2 * 2 * self.width for k in range(2 * self.width)]
                return f"MOA_WEAVE({', '.join(args)}, {', '.join(map(str, first))})"
            case "reduce":
                return f"MOA_ACROSS_{s.attrs[0]}({args[0]})"
            case "test":
                element, relation = s.attrs
                return f"MOA_TEST_{element}({relation}, {RELATIONS[relation]}, {', '.join(args)})"
            case "load":
                return self.load_vector(s, result, args)
            case "loadm":
                return self.load_masked(s.attrs[0], result, args)
            case "store":
                return self.store_vector(s, types[2], args)
            case "storem":
                return self.store_masked(s.attrs[0], types[2], args)
            case _:
                raise AssertionError(f"no text for the instruction: {s}")

    def insert(self, s: Op, args: list[str]) -> str:
        assert s.result is not None
        first = s.args[0]
        if isinstance(first, Name) and first in self.chains:
            base, lanes = self.chains.pop(first)
        else:
            base, lanes = args[0], {}
        lanes = {**lanes, s.attrs[0]: args[1]}
        if self.follows.get(s.result, False):
            self.chains[s.result] = base, lanes
            return ""
        if len(lanes) == self.width:
            return f"(moa_v){{{', '.join(lanes[k] for k in range(self.width))}}}"
        text = base
        for k, x in lanes.items():
            text = (
                f"MOA_INSERT({text}, {k}, {x})" if text == base else text.replace(" r_; })", f" r_[{k}] = {x}; r_; }})")
            )
        return text

    # memory

    def place(self, element: str, aligned: bool, args: list[str]) -> str:
        if element == "pair" and aligned:
            return f"MOA_VEC(moa_w, moa_pair, {args[0]}, {args[1]})"
        kind = f"moa_v{'a' if aligned else 'u'}" if element == self.dtype else f"moa_v{element}"
        return f"MOA_VEC({kind}, moa_{element}, {args[0]}, {args[1]})"

    def load_vector(self, s: Op, kind: str, args: list[str]) -> str:
        element, aligned = s.attrs
        if kind == "w" and element == "bf16":
            return f"MOA_WORDS({args[0]}, {args[1]})"
        if element in ("f16", "bf16") and self.dtype == "f32":
            return f"MOA_FROM_{element.upper()}(MOA_VEC(moa_vu16, moa_{element}, {args[0]}, {args[1]}))"
        if element in ("f16", "bf16"):
            place = f"MOA_AT(moa_{element}, {args[0]}, ({args[1]}) + k_)"
            return f"MOA_EACH((moa_f)moa_from_{element}, {place})"
        place = self.place(element, aligned, args)
        if kind == "m":
            return f"MOA_TEST({place})"
        if kind == "w":
            return f"(moa_w){place}"
        return place if element == self.dtype else f"__builtin_convertvector({place}, moa_v)"

    def store_vector(self, s: Op, kind: str, args: list[str]) -> str:
        element, aligned = s.attrs
        if element == "bf16" and self.dtype == "f32":
            return f"MOA_VEC(moa_vu16, moa_bf16, {args[0]}, {args[1]}) = MOA_TO_BF16({args[2]})"
        if element in ("f16", "bf16"):
            return self.store_masked(element, kind, [*args, "MOA_TRUE"])
        place = self.place(element, aligned, args)
        if kind == "m":
            return f"MOA_STOREB({args[0]}, {args[1]}, {args[2]}, MOA_TRUE)"
        if element in (self.dtype, "pair"):
            return f"{place} = {args[2]}"
        return f"{place} = __builtin_convertvector({args[2]}, moa_v{element})"

    def load_masked(self, element: str, kind: str, args: list[str]) -> str:
        place = f"{args[0]}, {args[1]}, {args[2]}"
        if kind == "m":
            return f"MOA_TEST(MOA_LOADB({place}))"
        if kind == "w":
            return f"MOA_WORDSM({place})"
        if element == self.dtype:
            return f"MOA_LOADM({place})"
        if element in ("f16", "bf16"):
            return f"MOA_LOADM_BY(moa_from_{element}, moa_{element}, {place})"
        return f"MOA_LOADM_AS(moa_{element}, {place})"

    def store_masked(self, element: str, kind: str, args: list[str]) -> str:
        place = ", ".join(args)
        if kind == "m":
            return f"MOA_STOREB({place})"
        if element == self.dtype:
            return f"MOA_STOREM({place})"
        if element in ("f16", "bf16"):
            return f"MOA_STOREM_BY(moa_to_{element}, moa_{element}, {place})"
        return f"MOA_STOREM_AS(moa_{element}, {place})"
