"""The derivation once more: its equations beside the oracle, and what its laws demanded, by other means."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from moa import ir
from moa.associative import proved
from moa.interp.normal import run as run_normal
from moa.interp.normal import run_halves
from moa.laws.chunk import LENGTH
from moa.naming import inline
from moa.normal import Cond, Eq, Fold, Member, Scalar, both
from moa.ops import OPERATORS
from moa.oracle import bind, evaluate, oracle
from moa.pipeline import Derivation
from moa.poly import Atom, Poly
from moa.storage import computed
from moa.verify.check import Check
from moa.verify.expected import Expected, compared, expected
from moa.verify.inputs import arguments, floating, satisfied, sizes_text

Array = np.ndarray[Any, Any]


def before_laws(derivation: Derivation, given: Mapping[str, Any], dtype: str) -> tuple[Array, ...]:
    """The outputs of the equations before any law between reductions."""
    program = derivation.program
    if derivation.inlined.recurrences:
        return oracle(program, given)
    arrays, params = _split(program, given, dtype)
    found = run_normal(derivation.inlined, arrays, bind(program, given), params)
    return tuple(found[o] for o in derivation.inlined.outputs)


def _split(program: ir.Program, given: Mapping[str, Any], dtype: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(arrays, scalars with `lowest`)."""
    arrays = {p.name: given[p.name] for p in program.inputs if p.shape}
    scalars = {p.name: given[p.name] for p in program.inputs if not p.shape and p.name in given}
    return arrays, {**scalars, "lowest": float(np.finfo(computed(dtype)).min)}


def systems(derivation: Derivation, given: Mapping[str, Any]) -> Iterator[Check]:
    """The equations before the laws, and every form of them after, in tiles of 1, 5 and all, and in parts merged.

    This proves again what made the forms (exchanged sums, states carried from row to row), whatever engine made them.
    """
    program = derivation.program
    given = {k: x.astype(np.float64) if isinstance(x, np.ndarray) and floating(x) else x for k, x in given.items()}
    want = expected(program, given, "float64")
    sizes = bind(program, given)
    arrays, params = _split(program, given, "float64")
    yield _system("as psi left them", {"all at once": before_laws(derivation, given, "float64")}, want, sizes)
    for form in derivation.forms:
        streamed = form.streamed
        results: dict[str, tuple[Array, ...]] = {}
        for tile in (1, 5, None):
            found = run_normal(streamed, arrays, sizes, params, tile)
            results[f"tiles of {tile or 'all'}"] = tuple(found[o] for o in streamed.outputs)
        extents = [evaluate(e.axis[1], sizes) for e in streamed.equations if isinstance(e, Fold)]
        if extents and min(extents) > 2 and not streamed.recurrences:
            found = run_halves(streamed, arrays, sizes, params, cuts=(2,))
            results["two parts, merged"] = tuple(found[o] for o in streamed.outputs)
        yield _system(form.name, results, want, sizes)


def in_chunks(derivation: Derivation, fixed: Mapping[str, int], rng: np.random.Generator) -> Iterator[Check]:
    """The forms that go by chunks of rows, at lengths of several chunks and a part of one."""
    program = derivation.program
    for form in derivation.forms:
        if not any(s.law in ("chunk", "in rounds") for s in form.steps):
            continue
        counts = [a for r in form.streamed.recurrences for a in r.axis[1].atoms()]
        long = {x.name for a in counts for x in (a, *(x for p in a.args for x in p.atoms()))}
        sizes = {s: 2 * LENGTH + 2 if s in long else 3 for s in program.sizes()}
        integers = {p.name: 2 for p in program.inputs if p.kind == "i" and not p.shape}
        found = satisfied(program, {**integers, **sizes, **fixed}, {*integers, *fixed})
        given = None if found is None else arguments(program, found, rng, "float64")
        if given is None:
            continue
        sizes = bind(program, given)
        arrays, params = _split(program, given, "float64")
        got = run_normal(form.streamed, arrays, sizes, params)
        results = {"chunk by chunk": tuple(got[o] for o in form.streamed.outputs)}
        yield _system(form.name, results, expected(program, given, "float64"), sizes)


def _system(name: str, results: Mapping[str, Sequence[Array]], want: Expected, sizes: Mapping[str, int]) -> Check:
    for how, got in results.items():
        bad = compared(got, want)
        if bad:
            return Check(f"equations, {name}", False, f"{how}: {bad}")
    return Check(f"equations, {name}", True, f"{', '.join(results)}: equal to the oracle at {sizes_text(sizes)}")


def laws(derivation: Derivation, rng: np.random.Generator) -> Iterator[Check]:
    """Each change of reference again, at random points and by sympy; conditions of the trace as text."""
    moved = derivation.report.moved
    if moved:
        from moa.laws import prove

        everywhere = {m.name: m for made in moved for _, m in made.members}
        plain: list[Eq] = []
        for e in inline(derivation.streamed).equations:  # bodies as they were moved, nothing in them named
            if isinstance(e, Fold):
                everywhere |= {m.name: m for m in e.members}
            else:
                plain.append(e)
        members = list(everywhere.values())
        signs = prove.nonnegative_sums([*plain, *(e for made in moved for e, _ in made.members)])
        for made in moved:
            e, m = made.members[-1]
            proofs = {
                "move": prove.move_holds(m),
                "finish": prove.finish_holds(e, m, members),
                "exponents": prove.exponents_hold(m, members, signs),
            }
            failed = [k for k, holds in proofs.items() if not holds]
            where = at_random_points(e, m, members, rng)
            name = f"law `change of reference` on {m.name}"
            if failed or where:
                yield Check(name, False, where or f"not proved by sympy: {', '.join(failed)}")
            else:
                yield Check(name, True, "move and finish at random points; move, finish, exponents by sympy")
    for v in derivation.program.values:
        if v.op == "scan" and not v.attrs[0].step:
            how = "by sympy, in every order of operands" if proved(v.attrs[0]) else "no counterexample was found"
            yield Check(f"operator {v.attrs[0].body.name} is associative", True, how)
    for s in derivation.trace.steps:
        for fact, reason in s.conditions:
            told = re.fullmatch(r"(?s)(.+?)(?: > 0 and| is) free of (\w+)", fact)
            if told is not None:
                free = not re.search(rf"\b{re.escape(told.group(2))}\b", told.group(1))
                if not free or reason not in ("structure", "sign"):
                    yield Check(f"law `{s.law}` on {s.target}", False, f"{fact}: not so")


def at_random_points(e: Eq, m: Member, members: Sequence[Member], rng: np.random.Generator) -> str:
    """Where `move` or `finish` of a member fails, loads and parameters being random numbers; or nothing."""
    plain = {x.state(0): x.name for x in members if x.width == 1 and x.finish.op == "load"}
    for _ in range(8):
        for c, basis in m.pieces:
            point = _Point(rng, plain)
            old, new = ([rng.uniform(-1, 1) for _ in m.refs] for _ in range(2))
            before = [point.value(b, {(k, "new"): x for k, x in enumerate(old)}) for b in basis]
            after = [point.value(b, {(k, "new"): x for k, x in enumerate(new)}) for b in basis]
            refs = {(k, "old"): x for k, x in enumerate(old)} | {(k, "new"): x for k, x in enumerate(new)}
            for row, there in zip(m.move, after, strict=True):
                total = sum(point.value(x, refs) * y for x, y in zip(row, before, strict=True))
                if not np.isclose(total, there, rtol=1e-8, atol=1e-10):
                    return f"move gives {total}, the basis at the new reference is {there}"
            ends = {(k, "new"): point.value(r) for k, r in enumerate(m.refs)}
            for k, component in enumerate(basis):
                point.known[m.state(k)] = point.value(component, ends)
            bodies = [s for d, s in e.pieces if both(e.domain, d) is both(m.domain, c)]
            if not bodies:
                return f"no piece of the reduction has the condition {c}"
            want, got = point.value(bodies[0]), point.value(m.finish)
            if not np.isclose(got, want, rtol=1e-8, atol=1e-10):
                return f"finish gives {got}, the body is {want}"
    return ""


class _Point:
    """Numbers for everything that a scalar reads: equal loads have equal numbers."""

    def __init__(self, rng: np.random.Generator, states: Mapping[str, str]) -> None:
        self.rng = rng
        self.states = states  # running values that are final ones at the end, too
        self.known: dict[Any, float] = {}

    def number(self, key: Any, low: float = 0.25, high: float = 1.75) -> float:
        if key not in self.known:
            self.known[key] = float(self.rng.uniform(low, high))
        return self.known[key]

    def integer(self, p: Poly) -> int:
        def atom(a: Atom) -> int:
            return round(self.number(("integer", a), 1, 9))

        return int(p.evaluate(atom))

    def value(self, s: Scalar, refs: Mapping[tuple[int, str], float] | None = None) -> float:
        with np.errstate(all="ignore"):
            return float(self._value(s, refs or {}))

    def _value(self, s: Scalar, refs: Mapping[tuple[int, str], float]) -> Any:
        match s.op:
            case "lit":
                return float(s.args[0])
            case "int":
                return float(self.integer(s.args[0]))
            case "param":
                return -1e300 if s.args[0] == "lowest" else self.number(s)
            case "ref":
                return refs[s.args[0], s.args[1]]
            case "load":
                if s.args[0] in self.known:
                    return self.known[s.args[0]]
                return self.number((self.states.get(s.args[0], s.args[0]), s.args[1]))
            case "select":
                return self._value(s.args[1] if self.holds(s.args[0], refs) else s.args[2], refs)
            case _:
                return OPERATORS[s.op].numpy(*(self._value(x, refs) for x in s.args))

    def holds(self, c: Cond, refs: Mapping[tuple[int, str], float]) -> bool:
        match c.op:
            case "true" | "false":
                return c.is_true
            case "ge":
                return self.integer(c.args[0]) >= 0
            case "eq":
                return self.integer(c.args[0]) == 0
            case "and":
                return all(self.holds(x, refs) for x in c.args)
            case "or":
                return any(self.holds(x, refs) for x in c.args)
            case "not":
                return not self.holds(c.args[0], refs)
            case "cmp":
                return bool(OPERATORS[c.args[0]].numpy(self._value(c.args[1], refs), self._value(c.args[2], refs)))
            case _:
                return self.number(c) < 1
