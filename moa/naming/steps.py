"""Recurrences with readers while names are given: a state before a step and the one after it never share a name.

What components read of a state is its value before the step, what readers read is the one after it. The states get the
axis among theirs, and those of the second kind a prime.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from moa.normal import Eq, Recurrence, Scalar, load, map_scalar
from moa.poly import var


def at_steps(r: Recurrence) -> Recurrence:
    """The recurrence with every load of a state at its step, before or after it."""
    states = {c.state for c in r.components}

    def node(x: Scalar, prime: str) -> Scalar | None:
        return load(x.args[0] + prime, (var(r.axis[0]), *x.args[1])) if x.op == "load" and x.args[0] in states else None

    def at(prime: str) -> Callable[[Scalar], Scalar]:
        return lambda s: map_scalar(s, lambda x: node(x, prime))

    return _map_steps(r, at(""), at("'"))


def without_steps(r: Recurrence) -> Recurrence:
    states = {c.state for c in r.components}

    def node(x: Scalar) -> Scalar | None:
        if x.op != "load" or x.args[0].removesuffix("'") not in states:
            return None
        return load(x.args[0].removesuffix("'"), x.args[1][1:])

    return _map_steps(r, lambda s: map_scalar(s, node), lambda s: map_scalar(s, node))


def _map_steps(r: Recurrence, before: Callable[[Scalar], Scalar], after: Callable[[Scalar], Scalar]) -> Recurrence:
    """The recurrence with `before` on what makes its states and `after` on what reads them."""

    def equation(e: Eq) -> Eq:
        return replace(e, pieces=tuple((c, after(s)) for c, s in e.pieces))

    components = tuple(replace(c, body=before(c.body)) for c in r.components)
    return replace(r, components=components, maps=tuple(map(equation, r.maps)), readers=tuple(map(equation, r.readers)))


def of_one_step(r: Recurrence) -> set[str]:
    """The names of what belongs to one step of a recurrence: its states, before and after, and its maps."""
    return {c.state for c in r.components} | {f"{c.state}'" for c in r.components} | {e.name for e in r.maps}
