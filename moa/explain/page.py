"""The upper part of the page: the signature, the formula, its normal form and groups; and how sections are laid out."""

from __future__ import annotations

from collections.abc import Iterable

from moa import ir
from moa.cost import flops
from moa.explain.names import Names
from moa.explain.text import INDENT, WIDTH, equation, extents, factored, wrapped
from moa.normal import Eq
from moa.text import printable

Section = tuple[str, list[str]]


def laid_out(sections: Iterable[Section]) -> str:
    """Sections under each other, titles in a column of their own; empty ones are left out."""
    out: list[str] = []
    for title, lines in sections:
        if not lines:
            continue
        out += ["", f"{title:<{INDENT}}{lines[0]}".rstrip()]
        out += [f"{' ' * INDENT}{line}".rstrip() for line in lines[1:]]
    return "\n".join(out[1:])


# Head and formula ----------------------------------------------------------------------------------------------------


def head(source: ir.Source, names: Names, dtype: str) -> str:
    """`file:line  name(parameters) -> shapes  dtype`, with the shapes as they are written."""
    f = source.functions[-1]
    program = names.derivation.program
    lead = any(isinstance(d, ir.Name) and d.name == "..." for p in f.parameters for d in p.dims or ())
    leading, results = leading_sizes(names), []
    for k in program.outputs:
        v = next(x for x in program.values if x.number == k)
        shape = [s for s in map(str, v.shape) if not (lead and s in leading)]
        results.append(f"[{', '.join([*(['...'] if lead else []), *shape])}]")
    parameters = ", ".join(_parameter(p) for p in f.parameters)
    place = f"{printable(f.span.file)}:{f.span.line}"
    return f"{place}  {f.name.name}({parameters}) -> {', '.join(results)}  in {dtype}"


def leading_sizes(names: Names) -> list[str]:
    """The sizes that `...` stands for in this derivation."""
    return [s for s in names.derivation.program.sizes() if s.startswith("batch") and s[5:].isdigit()]


def _parameter(p: ir.Parameter) -> str:
    kind = {"i": ": int", "b": ": bool"}.get(p.kind, "")
    if p.dims is None:
        return f"{p.name.name}{kind or ': float'}"
    dims = ", ".join(_written(d) for d in p.dims)
    return f"{p.name.name}{kind}[{dims}]" if kind else f"{p.name.name}[{dims}]"


def _written(e: ir.Expr) -> str:
    if isinstance(e, ir.Name):
        return e.name
    if isinstance(e, ir.Num):
        return str(e.value)
    return printable(e.span.text[e.span.start : e.span.end])


def formula(source: ir.Source) -> list[str]:
    """The body of the kernel as it was written; of one that only returns, what it returns."""
    f = source.functions[-1]
    if len(f.body) == 1 and isinstance(f.body[0], ir.Return):
        values = f.body[0].values
        span = values[0].span.to(values[-1].span)
        text = span.text[span.start : span.end]
        return [printable(line) for line in _dedented(text, span.column)]
    first, last = f.body[0].span, f.body[-1].span
    text = first.text[first.start : last.end]
    return [printable(line) for line in _dedented(text, first.column)]


def _dedented(text: str, column: int) -> list[str]:
    pad = " " * (column - 1)
    return [line.removeprefix(pad).rstrip() if k else line.rstrip() for k, line in enumerate(text.splitlines())]


# Normal form and groups ----------------------------------------------------------------------------------------------


def normal_form(source: ir.Source, names: Names) -> list[str]:
    """The equations with shared parts named, the steps that led to them, and what they cost."""
    d = names.derivation
    count = sum(d.trace.counts.values())
    rules = ", ".join(f"{rule} {n}" for rule, n in sorted(d.trace.counts.items(), key=lambda x: (-x[1], x[0])))
    first = f"after {count} psi steps ({rules}): only indices are left" if count else "as written: nothing to remove"
    lines = wrapped(first, 2, WIDTH - INDENT)
    equations = [e for e in d.equations.equations if isinstance(e, Eq)]
    for e in equations:
        scope = ("equations", e.name)
        text = equation(names, scope, e)
        left, _, right = text.partition(" = ")
        if left != right:  # an output that is a reduction stands there once
            lines += wrapped(f"  {text}", 6, WIDTH - INDENT)
    if any(isinstance(x, ir.Name) and x.name == "..." for p in source.functions[-1].parameters for x in p.dims or ()):
        here = ", ".join(leading_sizes(names)) or "no axes"
        lines.append(f"`...` stands for {here} on this page: each leading axis is one more index")
    letters = extents(names, equations, "equations")
    lines += wrapped(f"for {letters}; flops {factored(flops(d.equations))}", 2, WIDTH - INDENT)
    return lines


def forms(names: Names) -> list[str]:
    """The systems that compute the same, with the operations of each: sizes decide which one runs."""
    known = names.derivation.forms
    found = known if any(f.name == names.form.name for f in known) else (*known, names.form)
    if len(found) < 2:
        return []
    lines = []
    for f in found:
        name = names.text(("inlined", ""), f.name)
        here = " (this page)" if f.name == names.form.name else ""
        if any(s.law == "in rounds" for s in f.steps):
            count = next(r.axis[1] for r in f.streamed.recurrences if r.name.endswith(".rounds"))
            order = f", {names.poly(('streamed', ''), count)} rounds one after the other"
        elif any(s.law == "chunk" for s in f.steps):
            order = f", {names.poly(('streamed', ''), f.sequences)} chunks at once"
        elif str(f.sequential) != "0":
            order = f", {factored(f.sequential)} of them one step after the other"
        else:
            order = ""
        lines += wrapped(f"{name}{here}: {factored(f.flops)} operations{order}", 2, WIDTH - INDENT)
    return [*lines, "the cheapest one runs, once the sizes are known"]


def groups(names: Names) -> list[str]:
    """Reductions that run over the same axis, and in how many traversals of it, before and after the laws."""
    by_name = {e.name: e for e in names.derivation.inlined.equations if isinstance(e, Eq)}
    lines = []
    for g in names.derivation.report.groups:
        scope = ("inlined", g.members[0])
        red = by_name[g.members[0]].red
        assert red is not None
        members = ", ".join(dict.fromkeys(names.array("inlined", m) for m in g.members))
        counts = f"{g.passes[0][1]} pass" + ("es" if g.passes[0][1] > 1 else "")
        for (_, before), (law, after) in zip(g.passes, g.passes[1:], strict=False):
            if after != before:
                counts += f", {after} after {law}"
        lines.append(f"{{{members}}} over {names.letter(scope, red[0])} < {names.poly(scope, red[1])}: {counts}")
    return lines
