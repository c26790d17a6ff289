"""A placed kernel on the page: work items, the loops over tiles with how the domain meets them, scratch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from moa.cost.sums import Count, Sum
from moa.explain.names import Names, entries
from moa.explain.text import INDENT, WIDTH, wrapped
from moa.loops import Element
from moa.normal import Cond, is_structural, loads, subterms
from moa.pipeline import Placed
from moa.poly import Poly
from moa.tiles import Loop, Nest, Phase, Sift, TileStmt, When, nests


def kernel_lines(names: Names, placed: Placed, dtype: Element) -> list[str]:
    """What runs: work items, the loops over tiles with how the domain meets them, nests, scratch."""
    s = placed.strategy
    lines = []
    starts: dict[str, None] = {}
    for p, items in zip(placed.tiles.phases, placed.lowered.items, strict=True):
        letters = tile_letters(names, p)
        one_by_one = {r.axis[0] for r in names.derivation.streamed.recurrences}
        grid = [f"{p.axis(a).step} of {letters[a]}" if p.axis(a).step > 1 else f"one {letters[a]}" for a in p.items]
        count = len(list(nests(p.body)))
        each = (
            f"an item is {' and '.join(grid)}, {counted(items)} items in parallel" if grid else "one item does it all"
        )
        text = f"{p.name}: {each}; "
        lines += wrapped(f"{text}{count} nest{'s' * (count > 1)} of loops{' each' if grid else ''}", 4, WIDTH - INDENT)
        for loop in _loops(p.body):
            by = f" by {p.axis(loop.axis).step}" if p.axis(loop.axis).step else ""
            lo, hi = on_page(str(loop.lo), letters), on_page(str(loop.hi), letters)
            for t in (lo, hi):
                starts |= dict.fromkeys(re.findall(r"\w+@0", t))
            tests = [on_page(str(c), letters) for c in tests_of(loop)] if loop.kind == "full" else []
            kind = f"full tiles, only {' and '.join(tests)} is tested" if tests else LOOP_KINDS[loop.kind]
            ended = "one after the other" if loop.axis in one_by_one else f"{by.strip()}: {kind}"
            text = f"  for {letters[loop.axis]} in {lo} .. {hi} {ended}"
            lines += wrapped(text, 6, WIDTH - INDENT)
    for x in starts:
        lines.append(f"  where {x} is the first {x[:-2]} of the item")
    owner = f"block of {s.warps} warps, in shared memory where it fits" if s.warps else "thread"
    scratch = f"scratch {counted(placed.lowered.scratch_bytes)} bytes a {owner}"
    vectors = f"{s.width} lanes of {dtype}" if s.width > 1 else f"one lane of {dtype}"
    stored = [a for a in placed.tiles.arrays if a.role == "workspace"]
    arrays = ", ".join(f"{names.array('streamed', a.name)}[{', '.join(map(str, a.shape))}]" for a in stored)
    lines += wrapped(f"{vectors}; {scratch}", 2, WIDTH - INDENT)
    lines.append(f"between phases in memory: {arrays or 'nothing'}")
    return lines


def counted(p: Poly) -> str:
    """A count with divisions written as ceilings."""
    return str(Count((Sum(p),)))


LOOP_KINDS = {
    "full": "full tiles, nothing is tested",
    "partial": "partial tiles, each element is tested",
    "classified": "each tile is classified once",
}


def on_page(text: str, letters: Mapping[str, str]) -> str:
    """A text about tiles with the letters of the page for its axes."""

    def word(m: re.Match[str]) -> str:
        name, at, rest = m.group().partition("@")
        return letters.get(name, name) + at + rest

    return re.sub(r"[A-Za-z_][A-Za-z0-9_.]*(@\d+)?", word, text)


def tests_of(loop: Loop) -> tuple[Cond, ...]:
    """The conditions, on positions and on data that are not floats, that a loop tests for each element of its axis."""
    values = [s.value for nest in nests(loop.body) for s in nest.statements]
    chosen = (x.args[0] for v in values for x in subterms(v) if x.op == "select")
    return tuple(dict.fromkeys(c for c in chosen if is_structural(c) and loop.axis in c.vars()))


def tile_letters(names: Names, p: Phase) -> dict[str, str]:
    """What the axes of a phase are called on the page: each has the letter of the input or result that it indexes."""
    known = _letters_of_arrays(names)
    out: dict[str, str] = {}
    for nest in nests(p.body):
        for s in nest.statements:
            for array, index in dict.fromkeys((*loads(s.target), *loads(s.value))):
                for k, q in enumerate(index):
                    v, letters = q.as_var(), known.get((array, k), set())
                    if v is not None and len(letters) == 1 and not letters & set(out.values()):
                        out.setdefault(v, *letters)
    for a in p.axes:
        out.setdefault(a.name, a.name)
    return out


def _letters_of_arrays(names: Names) -> dict[tuple[str, int], set[str]]:
    """The letters under which what runs indexes each axis of an input, and those of the results."""
    normal = names.derivation.streamed
    inputs = {p.name for p in normal.inputs}
    out: dict[tuple[str, int], set[str]] = {}
    for e in entries("streamed", normal):
        found = [(array, [p.as_var() for p in index]) for array, index in e.loads if array in inputs]
        found += [(e.array, list(e.outer))] if e.array in normal.outputs else []
        for array, variables in found:
            for k, v in enumerate(variables):
                if v is not None:
                    out.setdefault((array, k), set()).add(names.letter(e.scope, v))
    return out


def _loops(body: tuple[TileStmt, ...]) -> Iterator[Loop]:
    for s in body:
        match s:
            case Loop():
                yield s
                yield from _loops(s.body)
            case When():
                yield from _loops(s.body)
                yield from _loops(s.other)
            case Sift():
                yield from _loops((*s.every, *s.some))
            case Nest():
                pass
