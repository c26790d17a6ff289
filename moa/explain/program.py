"""The typed Program as readable text: one line a value, its operation, operands, shape and kind."""

from __future__ import annotations

from typing import Any

from moa import ir
from moa.poly import Poly

KINDS = {"f": "float", "i": "int", "b": "bool"}


def program_text(p: ir.Program, depth: int = 0) -> str:
    """The inputs, the values in order, what is returned, and what a call must test."""
    pad = "  " * depth
    lines = [f"{pad}program {p.name}"]
    lines += [f"{pad}  input {x.name}: {kind_text(x.kind, x.shape)}{_default(x.default)}" for x in p.inputs]
    for v in p.values:
        if v.op == "input":
            continue
        attrs = [a for a in v.attrs if not isinstance(a, ir.Scan)]
        words = [v.op, *(operand(p, k) for k in v.args), *(attribute(a) for a in attrs)]
        lines.append(f"{pad}  %{v.number}: {kind_text(v.kind, v.shape)} = {' '.join(words)}")
        for a in v.attrs:
            if isinstance(a, ir.Scan):
                lines.append(f"{pad}    {_scan(a)}")
                lines.append(program_text(a.body, depth + 2))
    lines.append(f"{pad}  return {', '.join(operand(p, k) for k in p.outputs)}")
    lines += [f"{pad}  test {_relation(o)}: {o.reason}" for o in p.obligations]
    return "\n".join(lines)


def kind_text(kind: str, shape: tuple[Poly, ...]) -> str:
    return f"{KINDS[kind]}[{', '.join(map(str, shape))}]" if shape else KINDS[kind]


def operand(p: ir.Program, number: int) -> str:
    """An input by its name, another value by its number."""
    v = next(x for x in p.values if x.number == number)
    return str(v.attrs[0]) if v.op == "input" else f"%{number}"


def attribute(a: Any) -> str:
    match a:
        case ir.Range(start, step, count):
            return f"{start} by {step} x {count}"
        case ir.New():
            return "new"
        case ir.At(index):
            return f"at {index}"
        case ir.Gather(value):
            return f"at %{value}"
        case tuple():
            return f"[{', '.join(map(attribute, a))}]"
        case _:
            return str(a)


def _default(value: ir.Default) -> str:
    return "" if value is None else f" = {value}"


def _scan(s: ir.Scan) -> str:
    words = ["step" if s.step else "operator", f"axis {s.axis}", "every state" if s.keep else "the last state"]
    words += ["exclusive"] * s.exclusive + ["reverse"] * s.reverse
    return f"{', '.join(words)}, from {', '.join(f'%{k}' for k in s.start)}"


def _relation(o: ir.Obligation) -> str:
    return f"{o.left} divides {o.right}" if o.relation == "divides" else f"{o.left} {o.relation} {o.right}"
