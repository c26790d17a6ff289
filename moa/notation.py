"""A typed Program as source text of the language: one operation a line, every result named.

Functions are inlined, shapes and conversions written out, scans get a function for their body. The text parses back to
a Program of the same normal form, so what `explain` shows of a program can be run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction

from moa import ir
from moa.ops import OPERATORS, REDUCTIONS
from moa.poly import Atom, Poly, const

INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%", "and": "&", "or": "|"}
INFIX |= {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
PREFIX = {"neg": "-", "not": "~"}
CALLED = {"max": "maximum", "min": "minimum"}
SCANNED = {"add": "+", "mul": "×", "max": "⌈", "min": "⌊", "and": "∧", "or": "∨"}
ROOTS = {"exp", "log", "sqrt", "tanh", "erf", "div"}  # of integers they give floats
MIXED = {*INFIX, *CALLED, "select", "concat", "matmul"} - {"div"}  # a float beside an integer makes it a float
WORDS = {operator: word for word, operator in REDUCTIONS.items()}


def program_text(program: ir.Program) -> str:
    """The program as text of the language; it parses and checks to one with the same normal form."""
    taken = {p.name for p in program.inputs} | set(program.sizes()) | {program.name}
    writer = _Writer(program, taken)
    body = writer.lines()
    head = f"def {program.name}({', '.join(map(parameter_text, program.inputs))}):"
    return "\n".join([*writer.functions, head, *(f"    {x}" for x in body)]) + "\n"


def parameter_text(p: ir.Input) -> str:
    prefix = {"f": "float", "i": "int", "b": "bool"}[p.kind]
    if p.shape:
        dims = ", ".join(map(poly_text, p.shape))
        return f"{p.name}[{dims}]" if p.kind == "f" else f"{p.name}: {prefix}[{dims}]"
    default = "" if p.default is None else f" = {number_text(p.default, p.kind)}"
    return f"{p.name}: {prefix}{default}"


def poly_text(p: Poly) -> str:
    """An integer expression of sizes as the language has it."""
    common = max((c.denominator for _, c in p.terms), default=1)
    if common != 1:  # an exact division that check could not write as a quotient
        return f"({poly_text(p * common)}) // {common}"
    out = ""
    for m, c in p.terms:
        factors = [atom_text(a) for a in m]
        if abs(c) != 1 or not factors:
            factors.insert(0, str(abs(c)))
        sign = "-" if c < 0 else "+"
        body = " * ".join(factors)
        out = (f"-{body}" if c < 0 else body) if not out else f"{out} {sign} {body}"
    return out or "0"


def atom_text(a: Atom) -> str:
    match a.kind:
        case "div":
            x, d = (f"({poly_text(p)})" for p in a.args)
            return f"({x} // {d})"
        case "min" | "max":
            return f"{CALLED[a.kind]}({', '.join(map(poly_text, a.args))})"
        case "abs":
            return f"abs({poly_text(a.args[0])})"
        case _:
            assert a.kind in ("size", "int"), a
            return a.name


def number_text(value: Fraction | float | bool, kind: str) -> str:
    """A literal: exact, as a decimal fraction or a quotient of two integers."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return "inf" if value > 0 else "-inf"
    f = Fraction(value)
    if kind == "i":
        return str(int(f))
    digits, rest = 0, f.denominator
    while rest % 2 == 0 or rest % 5 == 0:
        rest //= 10 if rest % 10 == 0 else (2 if rest % 2 == 0 else 5)
        digits += 1
    if rest != 1:
        return f"({f.numerator}.0 / {f.denominator}.0)"
    whole, part = divmod(abs(f.numerator) * 10**digits // f.denominator, 10**digits)
    text = f"{whole}.{str(part).rjust(digits, '0') if digits else '0'}"
    return f"-{text}" if f < 0 else text


@dataclass(slots=True)
class _Writer:
    """The names given so far: `taken` in the whole text, `names` of the values of one program."""

    program: ir.Program
    taken: set[str]
    functions: list[str] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    parts: dict[int, list[str]] = field(default_factory=dict)

    def fresh(self, wanted: str) -> str:
        k = 0
        while f"{wanted}{k}" in self.taken:
            k += 1
        self.taken.add(f"{wanted}{k}")
        return f"{wanted}{k}"

    def lines(self) -> list[str]:
        out = []
        implied = self.implied()
        for v in self.program.values:
            if v.number in implied:
                self.names[v.number] = self.operand(v.args[0])
            if v.op in ("input", "literal", "size", "part") or v.number in implied:
                continue
            text = self.operation(v)
            if v.number in self.parts:
                out.append(f"{', '.join(self.parts[v.number])} = {text}")
                continue
            self.names[v.number] = self.fresh("t")
            out.append(f"{self.names[v.number]} = {text}")
        return [*out, f"return {', '.join(map(self.operand, self.program.outputs))}"]

    def implied(self) -> set[int]:
        """The conversions of integers to floats that their users make by themselves."""
        values = self.program.values
        out = {v.number for v in values if v.op == "cast" and v.kind == "f" and values[v.args[0]].kind == "i"}
        out -= set(self.program.outputs)
        for v in values:
            if v.op in ROOTS or (v.op in MIXED and any(values[a].kind == "f" and a not in out for a in v.args)):
                continue
            out -= {*v.args} | ({*v.attrs[0].start} if v.op == "scan" else set())
        return out

    def operand(self, number: int) -> str:
        """A value by its name, or written out where it is an input, a literal or a size."""
        v = self.program.values[number]
        match v.op:
            case "input":
                return str(v.attrs[0])
            case "literal":
                value = number_text(v.attrs[0], v.kind)
                return f"({value})" if value.startswith("-") else value
            case "size":
                size = poly_text(v.attrs[0])
                return size if size.isidentifier() else f"({size})"
            case "part":
                return str(self.parts[v.args[0]][v.attrs[0]])
            case _:
                return self.names[number]

    def operation(self, v: ir.Value) -> str:
        x = [self.operand(a) for a in v.args]
        match v.op:
            case "iota":
                return f"iota({poly_text(v.shape[0])})"
            case "fill":
                return self.fill(v, x[0])
            case "cast":
                return f"1.0 * {x[0]}" if self.program.values[v.args[0]].kind == "i" else self.flag(v.kind, x[0])
            case "select":
                return f"where({', '.join(x)})"
            case "reduce":
                return f"{WORDS[v.attrs[0]]}({x[0]}, axis={v.attrs[1]})"
            case "matmul":
                return f"{x[0]} @ {x[1]}"
            case "index":
                return f"{x[0]}[{self.items(v)}]"
            case "transpose":
                return f"transpose({x[0]}, [{', '.join(map(str, v.attrs[0]))}])"
            case "reshape":
                return f"reshape({x[0]}, [{', '.join(map(poly_text, v.shape))}])"
            case "concat":
                return f"concat({x[0]}, {x[1]}, axis={v.attrs[0]})"
            case "rotate":
                return f"rotate({x[0]}, {poly_text(v.attrs[0])}, axis={v.attrs[1]})"
            case "argmax" | "argsort":
                return f"{v.op}({x[0]}, axis={v.attrs[0]})"
            case "scan":
                return self.scan(v, x)
            case op if op in INFIX:
                return f"{x[0]} {INFIX[op]} {x[1]}"
            case op if op in PREFIX:
                return f"{PREFIX[op]}{x[0]}"
            case op:
                assert op in OPERATORS, op
                return f"{CALLED.get(op, op)}({', '.join(x)})"

    def flag(self, kind: str, x: str) -> str:
        return f"where({x}, 1.0, 0.0)" if kind == "f" else f"where({x}, 1, 0)"

    def fill(self, v: ir.Value, x: str) -> str:
        """A scalar in every element: no built-in function does that for any scalar."""
        sizes = ", ".join(map(poly_text, v.shape))
        source = self.program.values[v.args[0]]
        if v.kind == "f" and source.op == "literal" and source.attrs[0] in (0, 1):
            return f"{'ones' if source.attrs[0] else 'zeros'}({sizes})"
        if v.kind == "f":
            return f"{x} + zeros({sizes})"
        places = [
            f"iota({poly_text(e)})[{', '.join([':', *['None'] * (len(v.shape) - 1 - k)])}]"
            for k, e in enumerate(v.shape)
        ]
        if v.kind == "i":
            return " + ".join([x, *(f"0 * {p}" for p in places)])
        return " & ".join([x, *(f"({p} >= 0)" for p in places)])

    def items(self, v: ir.Value) -> str:
        out, axis = [], 0
        shape = self.program.values[v.args[0]].shape
        for item in v.attrs[0]:
            match item:
                case ir.New():
                    out.append("None")
                    continue
                case ir.At(index):
                    out.append(poly_text(index))
                case ir.Gather(value):
                    out.append(self.operand(value))
                case ir.Range():
                    out.append(range_text(item, shape[axis]))
            axis += 1
        return ", ".join(out)

    # scans

    def scan(self, v: ir.Value, xs: list[str]) -> str:
        scan: ir.Scan = v.attrs[0]
        count = len(scan.body.outputs)
        if count > 1:
            self.parts[v.number] = [self.fresh("t") for _ in range(count)]
        glyph = running_glyph(self.program, v)
        if glyph is not None:
            return f"{glyph}\\Ω⟨{len(v.shape) - scan.axis}⟩ {xs[0]}"
        name = self.function(scan)
        start = joined(self.operand(s) for s in scan.start)
        options = [f"axis={scan.axis}", f"{'init' if scan.step else 'identity'}={start}"]
        options += ["exclusive=True"] * scan.exclusive + ["reverse=True"] * scan.reverse
        return f"{'scan' if scan.keep else 'fold'}({name}, {joined(xs)}, {', '.join(options)})"

    def function(self, scan: ir.Scan) -> str:
        """The name of a function for the body of a scan, which is written before the program."""
        inputs = [p.name for p in scan.body.inputs]
        name = self.fresh("step" if scan.step else "join")
        self.taken |= {*inputs}
        first, second = self.fresh("x"), self.fresh("y")
        count = len(scan.body.outputs)
        inner = _Writer(scan.body, {*self.taken}, self.functions)
        lines = [f"{', '.join(inputs[:count])} = {first}", f"{', '.join(inputs[count:])} = {second}"]
        body = inner.lines()
        self.functions += [f"def {name}({first}, {second}):", *(f"    {x}" for x in (*lines, *body)), ""]
        return name


def joined(texts: Iterable[str]) -> str:
    found = list(texts)
    return found[0] if len(found) == 1 else f"({', '.join(found)})"


def running_glyph(program: ir.Program, v: ir.Value) -> str | None:
    """The glyph of the operator that a scan applies, where it is one of the table with its own identity."""
    scan: ir.Scan = v.attrs[0]
    body = scan.body
    if scan.step or not scan.keep or scan.exclusive or scan.reverse or len(body.outputs) != 1:
        return None
    last = body.values[body.outputs[0]]
    plain = last.op in SCANNED and [body.values[a].attrs for a in last.args] == [(p.name,) for p in body.inputs]
    start = program.values[scan.start[0]]
    if not plain or start.op != "literal":
        return None
    identity = OPERATORS[last.op].identity
    extreme = v.kind == "i" and last.op in ("max", "min")
    same = abs(start.attrs[0]) >= 2**63 - 1 if extreme else start.attrs[0] == identity
    return SCANNED[last.op] if same else None


def range_text(item: ir.Range, n: Poly) -> str:
    """A range of an axis of extent n as a slice."""
    start, step, count = item.start, item.step, item.count
    if step == 1:
        low = "" if start == 0 else poly_text(start)
        stop = start + count
        return f"{low}:{'' if stop == n else poly_text(stop)}"
    if step > 0:
        low = "" if start == 0 else poly_text(start)
        whole = (n - start + (step - 1)) // step == count
        return f"{low}:{'' if whole else poly_text(start + (count - 1) * step + 1)}:{step}"
    high = "" if start == n - 1 else poly_text(start)
    stop = start + count * step - step - 1
    whole = (start + 1 + (-step - 1)) // -step == count or stop == const(-1)
    return f"{high}:{'' if whole else poly_text(stop)}:{step}"
