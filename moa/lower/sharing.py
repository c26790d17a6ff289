"""Which staged tiles take the same place in scratch: those that are never needed at one time."""

from __future__ import annotations

from collections.abc import Iterator

from moa.normal import loads
from moa.tiles import Loop, Nest, Phase, Sift, TileStmt, When


def places(phase: Phase) -> dict[str, int]:
    """The number of the place of each staged tile."""
    staged = [t.name for t in phase.tiles if t.space == "staged"]
    beside: dict[str, set[str]] = {t: set() for t in staged}
    for body in bodies(phase.body):
        lives = spans(body, set(staged))
        for a, (first, last) in lives.items():
            beside[a] |= {b for b, (start, end) in lives.items() if b != a and first <= end and start <= last}
    out: dict[str, int] = {}
    for t in staged:
        taken = {out[other] for other in beside[t] if other in out}
        out[t] = next(n for n in range(len(staged)) if n not in taken)
    return out


def spans(body: tuple[TileStmt, ...], names: set[str]) -> dict[str, tuple[int, int]]:
    """(first, last) statement of a body that touches each name."""
    out: dict[str, tuple[int, int]] = {}
    for k, s in enumerate(body):
        for x in s.statements if isinstance(s, Nest) else ():
            for name in {x.target.args[0], *(array for array, _ in loads(x.value))} & names:
                out[name] = (out.get(name, (k, k))[0], k)
    return out


def bodies(body: tuple[TileStmt, ...]) -> Iterator[tuple[TileStmt, ...]]:
    """The body, and every one inside it."""
    yield body
    for s in body:
        match s:
            case Loop():
                yield from bodies(s.body)
            case When():
                yield from bodies(s.body)
                yield from bodies(s.other)
            case Sift():
                yield from bodies(s.every)
                yield from bodies(s.some)
