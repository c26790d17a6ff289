"""Inlining: a system as reductions that load only inputs and each other, and definitions of everything else."""

from __future__ import annotations

from dataclasses import replace

from moa.normal import Cond, Eq, Normal, Scalar, map_cond, map_scalar, rename

Definitions = dict[str, tuple[tuple[str, ...], Scalar]]  # array -> its index variables and value


def inline(s: Scalar, definitions: Definitions) -> Scalar:
    """The scalar with loads of defined arrays replaced by their values."""
    if not definitions:
        return s

    def node(x: Scalar) -> Scalar | None:
        if x.op == "load" and x.args[0] in definitions:
            outer, value = definitions[x.args[0]]
            return rename(value, dict(zip(outer, x.args[1], strict=True)))
        return None

    return map_scalar(s, node)


def inline_equation(e: Eq, definitions: Definitions) -> Eq:
    if not definitions:
        return e

    def walk(s: Scalar) -> Scalar:
        return inline(s, definitions)

    def cond(c: Cond) -> Cond:
        return map_cond(c, lambda p: p, walk)

    return replace(e, domain=cond(e.domain), pieces=tuple((cond(c), walk(s)) for c, s in e.pieces))


def inlined(normal: Normal) -> tuple[list[Eq], Definitions]:
    """(the reductions, loading only inputs and each other; the value of every Map)."""
    definitions: Definitions = {}
    reductions: list[Eq] = []
    for e in normal.equations:
        assert isinstance(e, Eq), "a system is streamed once"
        e = inline_equation(e, definitions)
        if e.kind == "map" and e.dtype == "f":
            definitions[e.name] = (tuple(v for v, _ in e.outer), e.body)
        elif e.kind == "reduce":
            reductions.append(e)
    return reductions, definitions


class Names:
    """Names not used yet: the name of an equation, a point and a number."""

    def __init__(self, normal: Normal) -> None:
        self.taken = {i.name for i in normal.inputs}
        for e in normal.equations:
            self.taken |= {e.name} if isinstance(e, Eq) else {e.name, *(m.name for m in e.members)}

    def fresh(self, name: str) -> str:
        root = name
        stem, _, number = name.rpartition(".")
        if stem and number.isdigit():
            root = stem
        k = 0
        while f"{root}.{k}" in self.taken:
            k += 1
        self.taken.add(f"{root}.{k}")
        return f"{root}.{k}"
