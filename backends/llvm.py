"""Loops as the text of an LLVM module.

One instruction of Loops becomes one to a dozen of LLVM; the printer decides nothing. No pass over the text is meant to
run afterwards: loops are printed rotated (a test at the end, a guard before), floats without fast-math flags, so what
is written is what is computed. Where the target has an instruction for `fraction` or `scale`, it is used; the portable
form beside it gives the same bits.
"""

from __future__ import annotations

from typing import assert_never

from moa.backends.llvm_elements import load, store, tested
from moa.backends.llvm_floats import fraction, mantissa_or_exponent, scale
from moa.backends.llvm_pairs import dot2, pair, weave
from moa.backends.llvm_stores import Stores
from moa.backends.llvm_sums import sums
from moa.backends.llvm_text import MEMORY, Target, Text, host, suffix
from moa.loops import Arg, CallFn, Const, Fn, For, If, Loops, Op, Stmt
from moa.pointers import with_pointers

__all__ = ["RELATIONS", "Target", "host", "print_llvm"]

RELATIONS = ("lt", "le", "gt", "ge", "eq", "ne")


BINARY = {
    "iadd": "add nsw", "isub": "sub nsw", "imul": "mul nsw",
    "wadd": "add", "wsub": "sub", "wmul": "mul",
    "band": "and", "bor": "or",
    "fadd": "fadd", "fsub": "fsub", "fmul": "fmul", "fdiv": "fdiv",
}  # fmt: skip

INTRINSICS = {
    "imin": "smin", "imax": "smax", "wmin": "smin", "wmax": "smax",
    "fma": "fma", "fabs": "fabs", "fsqrt": "sqrt", "round": "roundeven", "fmaxn": "maximum", "fminn": "minimum",
}  # fmt: skip


def print_llvm(loops: Loops, target: Target, traced: bool = False) -> str:
    """The module: entries are named moa_p0, moa_p1, .. in the order of phases, other functions are internal.

    traced  before each load and store stands a call of moa_access(address, bytes, whether it is a store)
    """
    return Printer(with_pointers(loops), target, traced).module()


def symbol(loops: Loops, function: str) -> str:
    if function in loops.phases:
        return f"moa_p{loops.phases.index(function)}"
    return f"moa_f{[f.name for f in loops.functions].index(function)}"


class Printer(Text):
    """Prints one module."""

    # module and functions

    def module(self) -> str:
        functions = "\n\n".join(self.function(f) for f in self.loops.functions)
        wide = f' "prefer-vector-width"="{8 * self.target.vector_bytes}"' if self.target.avx512 else ""
        parts = [f'target triple = "{self.target.triple}"', functions]
        parts += ["\n".join(self.declared[k] for k in sorted(self.declared))] if self.declared else []
        return "\n\n".join([*parts, f"attributes #0 = {{ nounwind{wide} }}"]) + "\n"

    def function(self, f: Fn) -> str:
        entry = f.name in self.loops.phases
        assert not entry or "".join(p.type for p in f.params) == "piip", f"the parameters of the entry {f.name}"
        self.lines, self.temporaries, self.labels, self.block = [], 0, 0, "entry"
        self.packed = f"%{f.params[0]}" if entry else None
        self.stores = Stores()
        self.body(f.body)
        params = ", ".join(f"{self.types[p.type]} %{p}" for p in f.params)
        linkage = "" if entry else "internal fastcc "
        head = f"define {linkage}void @{symbol(self.loops, f.name)}({params}) #0 {{\nentry:"
        return "\n".join([head, *self.lines, "  ret void", "}"])

    def body(self, body: tuple[Stmt, ...]) -> None:
        self.stores.last = None
        for s in body:
            match s:
                case Op():
                    self.op(s)
                case For():
                    self.loop(s)
                case If():
                    self.branch(s)
                case CallFn():
                    args = ", ".join(self.typed(a) for a in s.args)
                    self.put(f"call fastcc void @{symbol(self.loops, s.function)}({args})")
                case _:
                    assert_never(s)
            if not isinstance(s, Op):
                self.stores.last = None

    def loop(self, s: For) -> None:
        n = self.label()
        body, exit_ = f"loop{n}", f"done{n}"
        guard = not (isinstance(s.lo, Const) and isinstance(s.hi, Const) and s.lo.value < s.hi.value)
        if guard:
            test = self.temp(f"icmp slt {self.typed(s.lo)}, {self.arg(s.hi)}")
            self.put(f"br i1 {test}, label %{body}, label %{exit_}")
        else:
            self.put(f"br label %{body}")
        before = self.block
        self.start(body)
        mark = len(self.lines)
        self.body(s.body)
        last = self.block
        following = self.temp(f"add nsw i64 %{s.index}, {self.arg(s.step)}")
        following = self.temp(f'call i64 asm "", "=r,0"(i64 {following})')  # no instruction: see above
        again = self.temp(f"icmp slt i64 {following}, {self.arg(s.hi)}")
        self.put(f"br i1 {again}, label %{body}, label %{exit_}")
        phis = [f"  %{s.index} = phi i64 [ {self.arg(s.lo)}, %{before} ], [ {following}, %{last} ]"]
        for c in s.carried:
            edges = f"[ {self.arg(c.first)}, %{before} ], [ {self.arg(c.next)}, %{last} ]"
            phis.append(f"  %{c.phi} = phi {self.types[c.phi.type]} {edges}")
        self.lines[mark:mark] = phis
        self.start(exit_)
        for c in s.carried:
            edges = f"[ {self.arg(c.first)}, %{before} ], " if guard else ""
            self.put(f"%{c.result} = phi {self.types[c.result.type]} {edges}[ {self.arg(c.next)}, %{last} ]")

    def branch(self, s: If) -> None:
        n = self.label()
        other = s.other or s.results
        labels = f"label %then{n}, label %{'else' if other else 'join'}{n}"
        before = self.block
        self.put(f"br i1 {self.arg(s.cond)}, {labels}")
        self.start(f"then{n}")
        self.body(s.then)
        left = self.block
        self.put(f"br label %join{n}")
        right = before
        if other:
            self.start(f"else{n}")
            self.body(s.other)
            right = self.block
            self.put(f"br label %join{n}")
        self.start(f"join{n}")
        for r, a, b in s.results:
            self.put(f"%{r} = phi {self.types[r.type]} [ {self.arg(a)}, %{left} ], [ {self.arg(b)}, %{right} ]")

    # instructions

    def op(self, s: Op) -> None:
        text = self.text(s)
        if s.result is not None:
            self.put(f"%{s.result} = {text}")
        elif text:
            self.put(text)
        self.stores.note(s, len(self.lines) - 1)

    def text(self, s: Op) -> str:
        """The text of the last instruction of s, which yields its result; those before it are put."""
        args = [self.arg(a) for a in s.args]
        kind = s.args[0].type if s.args else ""
        type_ = self.types.get(kind, "")
        if s.op in BINARY:
            return f"{BINARY[s.op]} {type_} {args[0]}, {args[1]}"
        if s.op in INTRINSICS:
            return self.intrinsic(INTRINSICS[s.op], type_, *args)
        match s.op:
            case "idiv" | "imod":
                return self.floor_division(s.op, s.args[1], args)
            case "iabs":
                return self.call("llvm.abs.i64", "i64", f"i64 {args[0]}", "i1 false", immediate=(1,))
            case "icmp" | "wcmp":
                relation = s.attrs[0] if s.attrs[0] in ("eq", "ne") else "s" + s.attrs[0]
                return f"icmp {relation} {type_} {args[0]}, {args[1]}"
            case "fcmp":
                return f"fcmp {'une' if s.attrs[0] == 'ne' else 'o' + s.attrs[0]} {type_} {args[0]}, {args[1]}"
            case "bnot":
                return f"xor {type_} {args[0]}, {self.constant(True, kind)}"
            case "fneg":
                return f"fneg {type_} {args[0]}"
            case "fmax" | "fmin":
                test = self.temp(f"fcmp {'ogt' if s.op == 'fmax' else 'olt'} {type_} {args[0]}, {args[1]}")
                return f"select {self.types['m' if kind == 'v' else 'b']} {test}, {type_} {args[0]}, {type_} {args[1]}"
            case "select":
                if kind == "b" and s.args[1].type == "v":
                    mask = self.temp(self.mask_of_bit(args[0]))
                    return f"select {self.types['m']} {mask}, {self.typed(s.args[1])}, {self.typed(s.args[2])}"
                return f"select {type_} {args[0]}, {self.typed(s.args[1])}, {self.typed(s.args[2])}"
            case "wsplat":
                one = args[0] if self.bits == 64 else self.temp(f"trunc i64 {args[0]} to i32")
                return self.splat(f"i{self.bits}", one)
            case "lanes":
                numbers = ", ".join(f"i{self.bits} {k}" for k in range(self.width))
                return f"add {self.types['w']} <{numbers}>, zeroinitializer"
            case "first":
                low = self.temp(self.intrinsic("smax", "i64", args[0], "0"))
                count = self.temp(self.intrinsic("smin", "i64", low, str(self.width)))
                one = count if self.bits == 64 else self.temp(f"trunc i64 {count} to i32")
                lanes = ", ".join(f"i{self.bits} {k}" for k in range(self.width))
                return f"icmp slt {self.types['w']} <{lanes}>, {self.temp(self.splat(f'i{self.bits}', one))}"
            case "bsplat":
                return self.mask_of_bit(args[0])
            case "splat":
                return self.splat(self.float, args[0])
            case "i2f" | "w2v":
                assert s.result is not None
                return f"sitofp {type_} {args[0]} to {self.types[s.result.type]}"
            case "f2i":
                name = f"llvm.fptosi.sat.i64.{suffix(self.float)}"
                return self.call(name, "i64", f"{self.float} {args[0]}")
            case "fraction":
                return fraction(self, kind, type_, args[0])
            case "scale":
                return scale(self, kind, type_, args)
            case "mantissa" | "exponent":
                return mantissa_or_exponent(self, s.op, kind, type_, args[0])
            case "pair":
                return pair(self, args)
            case "dot2":
                return dot2(self, args)
            case "weave":
                return weave(self, args, s.attrs[0])
            case "reduce":
                return self.reduce(s.attrs[0], args[0])
            case "sums":
                return sums(self, args)
            case "turn":
                step, half = s.attrs
                own = [k - k % (2 * step) + half * step + k % step for k in range(self.width)]
                order = ", ".join(f"i32 {x + self.width * (k // step % 2)}" for k, x in enumerate(own))
                return f"shufflevector {type_} {args[0]}, {type_} {args[1]}, <{self.width} x i32> <{order}>"
            case "insert":
                return f"insertelement {type_} {args[0]}, {self.float} {args[1]}, i64 {s.attrs[0]}"
            case "extract":
                return f"extractelement {type_} {args[0]}, i64 {s.attrs[0]}"
            case "arg":
                return self.argument(s)
            case "offset":
                return f"getelementptr {MEMORY[s.attrs[0]]}, ptr {args[0]}, i64 {args[1]}"
            case "test":
                return tested(self, s, args)
            case "load" | "loadm":
                return load(self, s, args)
            case "prefetch":  # into the second cache: the first one holds the round that is computed
                place = self.temp(f"getelementptr {MEMORY[s.attrs[0]]}, ptr {args[0]}, i64 {args[1]}")
                hints = ("i32 0", "i32 2", "i32 1")
                return self.call("llvm.prefetch.p0", "void", f"ptr {place}", *hints, immediate=(1, 2, 3))
            case "store" | "storem":
                return self.stores.both(self, s) or store(self, s, args)
            case _:
                raise AssertionError(f"no text for the instruction: {s}")

    def floor_division(self, op: str, divisor: Arg, args: list[str]) -> str:
        a, b = args
        if isinstance(divisor, Const) and divisor.value > 0 and int(divisor.value) & (int(divisor.value) - 1) == 0:
            shift = int(divisor.value).bit_length() - 1
            return f"ashr i64 {a}, {shift}" if op == "idiv" else f"and i64 {a}, {int(divisor.value) - 1}"
        rest = self.temp(f"srem i64 {a}, {b}")
        negative = self.temp(f"icmp slt i64 {rest}, 0")
        if op == "imod":
            return f"select i1 {negative}, i64 {self.temp(f'add i64 {rest}, {b}')}, i64 {rest}"
        quotient = self.temp(f"sdiv i64 {a}, {b}")
        return f"add i64 {quotient}, {self.temp(f'sext i1 {negative} to i64')}"

    def mask_of_bit(self, bit: str) -> str:
        wide = self.temp(f"zext i1 {bit} to i{self.bits}")
        return f"icmp ne {self.types['w']} {self.temp(self.splat(f'i{self.bits}', wide))}, zeroinitializer"

    def reduce(self, op: str, value: str) -> str:
        """Lane i with lane i + width / 2, until one is left."""
        width = self.width
        while width > 1:
            width //= 2
            halves = []
            for start in (0, width):
                lanes = ", ".join(f"i32 {start + k}" for k in range(width))
                wide = f"<{2 * width} x {self.float}>"
                halves.append(self.temp(f"shufflevector {wide} {value}, {wide} poison, <{width} x i32> <{lanes}>"))
            type_ = f"<{width} x {self.float}>"
            if op in ("add", "mul"):
                value = self.temp(f"f{op} {type_} {halves[0]}, {halves[1]}")
            elif op in ("maxn", "minn"):
                value = self.temp(self.intrinsic(INTRINSICS[f"f{op}"], type_, *halves))
            else:
                relation = {"max": "ogt", "min": "olt"}[op]
                test = self.temp(f"fcmp {relation} {type_} {halves[0]}, {halves[1]}")
                value = self.temp(f"select <{width} x i1> {test}, {type_} {halves[0]}, {type_} {halves[1]}")
        return f"extractelement <1 x {self.float}> {value}, i64 0"

    def argument(self, s: Op) -> str:
        assert self.packed is not None and s.result is not None, f"only an entry reads its arguments: {s}"
        place = self.temp(f"getelementptr i64, ptr {self.packed}, i64 {s.attrs[0]}")
        if s.result.type != "f":
            return f"load {self.types[s.result.type]}, ptr {place}, align 8"
        if self.dtype == "f64":
            return f"load double, ptr {place}, align 8"
        return f"fptrunc double {self.temp(f'load double, ptr {place}, align 8')} to float"
