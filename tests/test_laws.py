"""Laws: each is seen to fire and a broken copy of it is caught; sympy proves every change of reference again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from normals_by_hand import KINDS, SIZES, SYSTEMS, adversarial
from test_stream import PARAMS, same

from moa.interp.normal import run
from moa.laws import prove
from moa.laws.defer import Around
from moa.laws.inlining import inlined
from moa.laws.reference import Moved
from moa.laws.table import LAWS
from moa.normal import Member, Normal, apply, lit, load
from moa.rewrite import Trace
from moa.stream import stream, stream_with_report

FIRES = {
    "split": "causal",
    "linearity": "difference",
    "defer": "attention",
    "defer out of an extreme": "attention",
    "change of reference": "attention",
    "drop a guard": "attention",
    "open a weight": "guarded entropy",
}


def equal(name: str) -> bool:
    """Whether the streamed system has the values of the system, on all kinds of data."""
    normal = SYSTEMS[name][0]
    out = stream(normal, Trace())
    for kind in KINDS:
        data = adversarial(kind)
        if not same(run(normal, data, SIZES, PARAMS), run(out, data, SIZES, PARAMS, tile=5), normal.outputs):
            return False
    return True


@pytest.mark.parametrize("law", FIRES)
def test_fires(law: str) -> None:
    trace = Trace()
    stream(SYSTEMS[FIRES[law]][0], trace)
    assert trace.fired(law)


def test_every_law_of_the_book_has_a_test() -> None:
    elsewhere = {
        "reassociate",
        "carry",
        "chunk",
        "in rounds",
        "merge",
        "beside a scan",
        "affine",
        "drop an axis",
    }  # tests of their own: most are between forms of a system
    assert set(LAWS.laws) - elsewhere == set(FIRES)


def with_member(change: Callable[[Member], Member]) -> Callable[[Callable[..., Moved]], Callable[..., Moved]]:
    """A mutant of the change of reference: its last member is changed."""

    def mutant(law: Callable[..., Moved]) -> Callable[..., Moved]:
        def apply_it(*args: Any) -> Moved:
            moved = law(*args)
            *first, (e, m) = moved.members
            return replace(moved, members=(*first, (e, change(m))))

        return apply_it

    return mutant


def no_move(m: Member) -> Member:
    p = m.width
    return replace(m, move=tuple(tuple(lit(int(a == b)) for b in range(p)) for a in range(p)))


def backwards(m: Member) -> Member:
    def swap(s: Any) -> Any:
        from moa.normal import Scalar, map_scalar

        other = {"old": "new", "new": "old"}
        return map_scalar(s, lambda x: Scalar("ref", (x.args[0], other[x.args[1]])) if x.op == "ref" else None)

    return replace(m, move=tuple(tuple(swap(s) for s in row) for row in m.move))


def infinite_reference(m: Member) -> Member:
    return replace(m, refs=tuple(r.args[0] if r.op in ("max", "min") else r for r in m.refs))


def no_nan(m: Member) -> Member:
    return replace(m, finish=m.finish.args[2] if m.finish.op == "select" else m.finish)


def no_last_move(m: Member) -> Member:
    return replace(m, finish=_first_state(m))


def _first_state(m: Member) -> Any:
    from moa.poly import var

    return load(m.state(0), tuple(var(v) for v, _ in m.outer))


def doubled_factor(law: Callable[..., Any]) -> Callable[..., Any]:
    def apply_it(t: Any) -> Any:
        c, free, rest = law(t)
        return c, free + free[:1], rest

    return apply_it


def lost_coefficient(law: Callable[..., Any]) -> Callable[..., Any]:
    return lambda t: (Fraction(1), *law(t)[1:])


def lost_term(law: Callable[..., Any]) -> Callable[..., Any]:
    return lambda body, scope: law(body, scope)[:1]


def negative_factor(law: Callable[..., Any]) -> Callable[..., Any]:
    def apply_it(*args: Any) -> Any:
        found = law(*args)
        if found is None:
            return None
        around, core = found
        return Around(-around.coefficient, around.factors, around.terms), apply("neg", core)

    return apply_it


def always_dropped(law: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: "because"


def negated(law: Callable[..., Any]) -> Callable[..., Any]:
    def apply_it(*args: Any) -> Any:
        found = law(*args)
        return None if found is None else apply("neg", found)

    return apply_it


def lost_piece(law: Callable[..., Any]) -> Callable[..., Any]:
    def apply_it(e: Any) -> Any:
        new = law(e)
        return None if new is None else replace(new, domain=e.domain)

    return apply_it


MUTANTS: list[tuple[str, Callable[..., Any], str]] = [
    ("change of reference", with_member(no_move), "scores"),
    ("change of reference", with_member(backwards), "scores"),
    ("change of reference", with_member(backwards), "variance"),
    ("change of reference", with_member(no_move), "variance"),
    ("change of reference", with_member(infinite_reference), "scores"),
    ("change of reference", with_member(no_nan), "denominator"),
    ("change of reference", with_member(no_last_move), "entropy"),
    ("defer", doubled_factor, "scores"),
    ("defer", lost_coefficient, "difference"),
    ("linearity", lost_term, "difference"),
    ("defer out of an extreme", negative_factor, "largest score"),
    ("drop a guard", always_dropped, "guarded by data"),
    ("split", lost_piece, "causal"),
    ("change of reference", with_member(no_last_move), "around a mean"),
    ("change of reference", with_member(no_move), "largest weighted"),
    ("open a weight", negated, "guarded entropy"),
]


def guarded_by_data() -> Normal:
    """A guard that must stay: it says nothing about infinity."""
    from normals_by_hand import I as row
    from normals_by_hand import J as key
    from normals_by_hand import System, X, exp, ld, maximum_of, total_of, where

    from moa.normal import compare

    s = System("guarded by data")
    m = maximum_of(s, X)
    total_of(s, where(compare("gt", ld("B", row, key).s, lit(0)), exp(X - m), 0))
    return s.out("l")


@pytest.mark.parametrize(("law", "mutant", "system"), MUTANTS)
def test_a_broken_copy_is_caught(
    law: str, mutant: Callable[..., Any], system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if system == "guarded by data":
        monkeypatch.setitem(SYSTEMS, system, (guarded_by_data(), 2, 1))
        monkeypatch.setattr("test_laws.KINDS", ("plain", "huge"))
    assert equal(system)
    right = LAWS[law]
    monkeypatch.setitem(LAWS.laws, law, replace(right, apply=mutant(right.apply)))
    assert not equal(system)


@pytest.mark.parametrize("name", SYSTEMS)
def test_sympy_proves_every_change_of_reference(name: str) -> None:
    normal = SYSTEMS[name][0]
    out, report = stream_with_report(normal, Trace())
    folds = [e for e in out.equations if not hasattr(e, "kind")]
    members = {m.name: m for f in folds for m in f.members}  # type: ignore[union-attr]
    members |= {m.name: m for moved in report.moved for _, m in moved.members}
    signs = prove.nonnegative_sums(inlined(normal)[0])
    for moved in report.moved:
        e, m = moved.members[-1]
        assert prove.move_holds(m)
        assert prove.finish_holds(e, m, list(members.values()))
        assert prove.exponents_hold(m, list(members.values()), signs)


def test_sympy_refuses_broken_members() -> None:
    _, report = stream_with_report(SYSTEMS["variance"][0], Trace())
    e, m = report.moved[0].members[-1]
    members = [m for moved in report.moved for _, m in moved.members]
    assert not prove.move_holds(backwards(m))
    assert not prove.move_holds(no_move(m))
    assert not prove.finish_holds(e, no_last_move(m), members)
