"""What the printers of C and its relatives share: names, literals, comments, statements and scalar instructions.

A name of Loops becomes a constant of C; a value that a loop carries becomes a variable with the name of its result,
and its phi a constant inside. User text enters a source only through `comment`, user names only through `mangled`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import assert_never

import numpy as np

from moa.loops import ELEMENT_BYTES, Arg, CallFn, Const, Fn, For, If, Loops, Name, Op, Stmt

RELATIONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
BINARY = {
    "iadd": "+", "isub": "-", "imul": "*", "band": "&", "bor": "|", "fadd": "+", "fsub": "-", "fmul": "*", "fdiv": "/",
}  # fmt: skip
HELPERS = ("fmaxn", "fminn", "scale", "fraction", "mantissa", "exponent")
"""Scalar instructions that are functions of the text before the kernel: moa_fmaxn and so on."""

# fmt: off
RESERVED = frozenset((
    "alignas", "alignof", "and", "and_eq", "asm", "auto", "bitand", "bitor", "bool", "break", "case", "catch", "char",
    "class", "compl", "const", "constexpr", "continue", "decltype", "default", "delete", "do", "double",
    "dynamic_cast", "else", "enum", "errno", "exp", "exp2", "explicit", "export", "extern", "fabs", "false", "float",
    "for", "friend", "goto", "if", "inline", "int", "int64_t", "linux", "log", "long", "main", "memcpy", "memset",
    "mutable", "namespace", "new", "noexcept", "not", "not_eq", "nullptr", "operator", "or", "or_eq", "private",
    "protected", "public", "register", "reinterpret_cast", "restrict", "return", "short", "signed", "size_t",
    "sizeof", "sqrt", "static", "static_assert", "static_cast", "stderr", "stdin", "stdout", "struct", "switch",
    "tanh", "template", "this", "thread_local", "throw", "true", "try", "typedef", "typeid", "typename", "typeof",
    "uint8_t", "union", "unix", "unsigned", "using", "virtual", "void", "volatile", "wchar_t", "while", "workspace",
    "workspace_bytes", "xor", "xor_eq",
))
# fmt: on


def mangled(name: str, *, prefix: str = "x") -> str:
    """A name for C and C++: the name itself where it is an ordinary one, else its characters as code points."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) and "__" not in name and not name.startswith("moa_"):
        plain = name not in RESERVED and not (name.isupper() and len(name) > 3)
        return name if plain and len(name) < 60 else f"{prefix}_{name[:40]}_"
    coded = "".join(c if c.isascii() and c.isalnum() else f"_{ord(c):x}" for c in name[:24])
    return f"{prefix}{coded}_"


def escaped(text: str) -> str:
    """ASCII that ends no comment, line or string: other characters become \\u escapes, of `*/`, `/*`, `??/`, too."""
    out = []
    for k, c in enumerate(text):
        before = text[k - 1] if k else ""
        if c == "\n":
            out.append("\n")
        elif c == "\\" or not (c.isascii() and c.isprintable()):
            out.append(f"<U+{ord(c):04X}>")
        elif (before + c) in ("*/", "/*", "??", "//"):
            out.append(f" {c}")
        else:
            out.append(c)
    return "".join(out)


def comment(text: str) -> str:
    """A comment of C and C++ around any text, line by line; nothing in the text can end it."""
    lines = [line.rstrip() for line in escaped(text).split("\n")]
    if len(lines) == 1:
        return f"/* {lines[0]} */"
    return "\n".join(["/*", *(f" * {line}".rstrip() for line in lines), " */"])


def literal(value: float, dtype: str) -> str:
    """A floating constant, exactly."""
    with np.errstate(over="ignore"):
        x = float(np.float32(value)) if dtype == "f32" else float(value)
    end = "f" if dtype == "f32" else ""
    if math.isnan(x):
        return f'__builtin_nan{end}("")'
    if math.isinf(x):
        return f"{'-' if x < 0 else ''}__builtin_inf{end}()"
    text = x.hex() if x != int(x) or abs(x) > 1e6 else repr(x)
    return f"{text}{end}"


def integer(value: int) -> str:
    if value == -(2**63):
        return "INT64_MIN"
    return str(value) if abs(value) < 2**31 else f"INT64_C({value})"


def uses(body: tuple[Stmt, ...]) -> Iterator[Name]:
    """Every use of a name in the statements and those inside them."""
    for s in body:
        match s:
            case Op() | CallFn():
                args: tuple[Arg, ...] = s.args
            case For():
                args = (s.lo, s.hi, s.step, *(a for c in s.carried for a in (c.first, c.next)))
                yield from uses(s.body)
            case If():
                args = (s.cond, *(a for _, x, y in s.results for a in (x, y)))
                yield from uses(s.then)
                yield from uses(s.other)
            case _:
                assert_never(s)
        yield from (a for a in args if isinstance(a, Name))


class Family:
    """Prints functions of one Loops; a language adds its types and its instructions on vectors."""

    types: dict[str, str]
    words = "int64_t *"

    def __init__(self, loops: Loops, prefix: str = "moa") -> None:
        assert loops.width >= 1 and loops.width & (loops.width - 1) == 0, f"the width is {loops.width}"
        self.loops, self.dtype, self.width, self.prefix = loops, loops.dtype, loops.width, prefix
        self.lines: list[str] = []
        self.depth = 1
        self.used: Counter[Name] = Counter()
        self.packed = ""
        self.chains: dict[Name, tuple[str, dict[int, str]]] = {}

    # functions and statements

    def symbol(self, function: str) -> str:
        if function in self.loops.phases:
            return f"{self.prefix}_p{self.loops.phases.index(function)}"
        return f"{self.prefix}_nest{[f.name for f in self.loops.functions].index(function)}"

    def function(self, f: Fn) -> str:
        """The text of a function: one argument list of scalars and addresses, no result."""
        entry = f.name in self.loops.phases
        assert all(p.type in "ifbp" for p in f.params), f"{f.name} has a vector among its parameters"
        assert not entry or "".join(p.type for p in f.params) == "piip", f"the parameters of the entry {f.name}"
        self.lines, self.depth = [], 1
        self.used = Counter(uses(f.body))
        self.chains = {}
        params = [f"{self.types[p.type]} {p}" for p in f.params]
        if entry:
            self.packed = str(f.params[0])
            params[0] = f"{self.words}{f.params[0]}"
        for p in f.params:
            self.unused(p)
        self.body(f.body)
        head = f"{self.head(entry)} {self.symbol(f.name)}({', '.join(params)})"
        return "\n".join([head, "{", *self.lines, "}"])

    def head(self, entry: bool) -> str:
        return "void" if entry else "static void"

    def put(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def unused(self, n: Name) -> None:
        if not self.used[n]:
            self.put(f"(void){n};")

    def body(self, body: tuple[Stmt, ...]) -> None:
        for s in body:
            match s:
                case Op():
                    self.op(s)
                case For():
                    self.loop(s)
                case If():
                    self.branch(s)
                case CallFn():
                    self.put(f"{self.symbol(s.function)}({', '.join(map(self.arg, s.args))});")
                case _:
                    assert_never(s)

    def loop(self, s: For) -> None:
        for c in s.carried:
            self.put(f"{self.types[c.result.type]} {c.result} = {self.arg(c.first)};")
        lo, hi, step = self.arg(s.lo), self.arg(s.hi), self.arg(s.step)
        self.put(f"for (int64_t {s.index} = {lo}; {s.index} < {hi}; {s.index} += {step}) {{")
        self.depth += 1
        for c in s.carried:
            self.put(f"const {self.types[c.phi.type]} {c.phi} = {c.result};")
            self.unused(c.phi)
        self.body(s.body)
        for c in s.carried:
            if c.next != c.phi:
                self.put(f"{c.result} = {self.arg(c.next)};")
        self.depth -= 1
        self.put("}")
        for c in s.carried:
            self.unused(c.result)

    def branch(self, s: If) -> None:
        for r, _, _ in s.results:
            self.put(f"{self.types[r.type]} {r};")
        self.put(f"if ({self.arg(s.cond)}) {{")
        self.side(s.then, [(r, a) for r, a, _ in s.results])
        if s.other or s.results:
            self.put("} else {")
            self.side(s.other, [(r, b) for r, _, b in s.results])
        self.put("}")
        for r, _, _ in s.results:
            self.unused(r)

    def side(self, body: tuple[Stmt, ...], results: list[tuple[Name, Arg]]) -> None:
        self.depth += 1
        self.body(body)
        for r, a in results:
            self.put(f"{r} = {self.arg(a)};")
        self.depth -= 1

    # instructions

    def op(self, s: Op) -> None:
        text = self.text(s)
        if s.result is None:
            self.put(f"{text};")
        elif text:
            self.put(f"const {self.types[s.result.type]} {s.result} = {text};")
            self.unused(s.result)

    def arg(self, a: Arg) -> str:
        return str(a) if isinstance(a, Name) else self.constant(a)

    def constant(self, a: Const) -> str:
        match a.type:
            case "i":
                return integer(int(a.value))
            case "b":
                return "1" if a.value else "0"
            case "f":
                return literal(float(a.value), self.dtype)
            case _:
                raise AssertionError(f"a constant of type {a.type}")

    def text(self, s: Op) -> str:
        """An expression, or a statement where s has no result; "" where the result is printed later."""
        args = [self.arg(a) for a in s.args]
        types = "".join(a.type for a in s.args)
        result = s.result.type if s.result else ""
        if any(t in "vwm" for t in types + result):
            return self.vector(s, args, types)
        return self.scalar(s, args, types, result)

    def scalar(self, s: Op, args: list[str], types: str, result: str) -> str:
        if s.op in BINARY:
            return f"{args[0]} {BINARY[s.op]} {args[1]}"
        f = "f" if self.dtype == "f32" else ""
        match s.op:
            case "imin" | "fmin":
                return f"{args[0]} < {args[1]} ? {args[0]} : {args[1]}"
            case "imax" | "fmax":
                return f"{args[0]} > {args[1]} ? {args[0]} : {args[1]}"
            case "idiv" | "imod":
                return self.floor_division(s, args)
            case "iabs":
                return f"{args[0]} < 0 ? -{args[0]} : {args[0]}"
            case "icmp" | "fcmp":
                return f"{args[0]} {RELATIONS[s.attrs[0]]} {args[1]}"
            case "bnot":
                return f"!{args[0]}"
            case "fneg":
                return f"-({args[0]})"
            case "fma" | "fabs" | "fsqrt" | "round":
                name = {"fsqrt": "sqrt", "round": "rint"}.get(s.op, s.op)
                return f"__builtin_{name}{f}({', '.join(args)})"
            case "select":
                return f"{args[0]} ? {args[1]} : {args[2]}"
            case "i2f":
                return f"({self.types['f']}){args[0]}"
            case "f2i":
                return f"moa_f2i({args[0]})"
            case "arg":
                return self.argument(s)
            case "offset":
                return f"{args[0]} + {self.scaled(s.args[1], ELEMENT_BYTES[s.attrs[0]])}"
            case "prefetch":
                return f"MOA_PREFETCH({args[0]}, {self.scaled(s.args[1], ELEMENT_BYTES[s.attrs[0]])})"
            case "load":
                return self.load(s.attrs[0], result, args)
            case "store":
                return self.store(s.attrs[0], types[2], args)
            case op if op in HELPERS:
                return f"moa_{op}({', '.join(args)})"
            case _:
                raise AssertionError(f"no text for the instruction: {s}")

    def scaled(self, a: Arg, size: int) -> str:
        if isinstance(a, Const):
            return integer(int(a.value) * size)
        return f"{a}" if size == 1 else f"{a} * {size}"

    def floor_division(self, s: Op, args: list[str]) -> str:
        divisor = s.args[1]
        if isinstance(divisor, Const) and divisor.value > 0 and int(divisor.value) & (int(divisor.value) - 1) == 0:
            if s.op == "imod":
                return f"{args[0]} & {integer(int(divisor.value) - 1)}"
            return f"{args[0]} >> {int(divisor.value).bit_length() - 1}"
        return f"moa_{s.op}({args[0]}, {args[1]})"

    def argument(self, s: Op) -> str:
        assert s.result is not None and self.packed, f"only an entry reads its arguments: {s}"
        word = f"{self.packed}[{s.attrs[0]}]"
        if s.result.type == "p":
            return f"({self.types['p']})(intptr_t){word}"
        if s.result.type == "i":
            return word
        return f"({self.types['f']})moa_double({word})"

    def load(self, element: str, kind: str, args: list[str]) -> str:
        """A scalar; 16-bit floats are read by functions."""
        place = f"MOA_AT(moa_{element}, {args[0]}, {args[1]})"
        match element, kind:
            case (("f16" | "bf16"), "f"):
                return f"({self.types['f']})moa_from_{element}({place})"
            case _, "b":
                return f"{place} != 0"
            case _, "i":
                return f"(int64_t){place}" if element != "i64" else place
            case _:
                return f"({self.types['f']}){place}" if element != self.dtype else place

    def store(self, element: str, kind: str, args: list[str]) -> str:
        place = f"MOA_AT(moa_{element}, {args[0]}, {args[1]})"
        value = args[2]
        if element in ("f16", "bf16"):
            value = f"moa_to_{element}({value})"
        elif element in ("f32", "f64") and element != self.dtype:
            value = f"({'float' if element == 'f32' else 'double'}){value}"
        elif element == "u8":
            value = f"(uint8_t){value}"
        return f"{place} = {value}"

    def vector(self, s: Op, args: list[str], types: str) -> str:
        raise AssertionError(f"no vectors in this language: {s}")
