"""Small sizes and integer parameters that fulfil what a program asks of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moa.ir import Obligation
from moa.oracle import evaluate
from moa.text import MoaError

MOST_STEPS = 20000
LARGEST = 1 << 12


def assignment(
    names: Sequence[str], facts: Sequence[Obligation], fixed: dict[str, int], pool: Sequence[int]
) -> dict[str, int] | None:
    """Values for the names with which all facts hold, None if none are found in so many steps.

    A name that an equation leaves alone is solved for; the others are tried with the values of a pool.
    """
    steps = 0
    used = {o: {a.name for p in (o.left, o.right) for a in p.atoms() if a.kind in ("size", "int")} for o in facts}

    def values(name: str, at: dict[str, int]) -> Iterator[int] | None:
        for o in facts:
            if o.relation == "==" and used[o] - at.keys() == {name}:
                found = _solution(o, name, at)
                if found != ():
                    return iter(found or ())
        return None

    def search(at: dict[str, int]) -> dict[str, int] | None:
        nonlocal steps
        steps += 1
        left = [n for n in names if n not in at]
        if not left:
            return at
        name, tried = left[0], None
        for n in left:
            tried = values(n, at)
            if tried is not None:
                name = n
                break
        for x in pool if tried is None else tried:
            further = {**at, name: x}
            new = (o for o in facts if name in used[o] and used[o] <= further.keys())
            if all(holds(o, further) for o in new) and steps < MOST_STEPS:
                done = search(further)
                if done is not None:
                    return done
        return None

    return search(dict(fixed))


def _solution(o: Obligation, name: str, at: dict[str, int]) -> tuple[int, ...] | None:
    """The value of a name that an equation leaves, () where it leaves it any, None where there is none."""

    def gap(x: int) -> int:
        return evaluate(o.left, {**at, name: x}) - evaluate(o.right, {**at, name: x})

    try:
        first, step = gap(1), gap(2) - gap(1)
        if step == 0:
            return () if first == 0 else None
        x = 1 - first // step
        return (x,) if 0 <= x <= LARGEST and gap(x) == 0 else None
    except MoaError:  # a quotient by 0
        return None


def holds(o: Obligation, at: dict[str, int]) -> bool:
    """Whether a fact about sizes holds."""
    try:
        left, right = evaluate(o.left, at), evaluate(o.right, at)
    except MoaError:
        return False
    return {"==": left == right, ">=": left >= right, "divides": left != 0 and right % (left or 1) == 0}[o.relation]
