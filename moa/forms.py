"""Forms: one program as several systems that compute the same, and which of them to compute at given sizes.

The first form is the system as written. Others come from exchanging sums (`reassociate`) and from carrying reductions
over prefix domains along their rows (`carry`). Every form goes through the same laws of `stream`. Which is best
depends on sizes, so the choice is made when they are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from functools import cache, partial
from typing import TypeVar

import moa.laws.rounds  # noqa: F401  (enters its law into the table)
from moa.cost.choice import through, word_bytes
from moa.laws.affine import SideBySide
from moa.laws.algebra import reads
from moa.laws.assemble import Moves, defines, in_order, is_wide, reads_of
from moa.laws.beside import Fused, beside_scans
from moa.laws.carry import Carried, carry, prefix
from moa.laws.chunk import Chunked
from moa.laws.inlining import Names, inlined
from moa.laws.parts import Parted
from moa.laws.readers import apart, with_recurrences
from moa.laws.reading import Stays
from moa.laws.reassociate import Reassociated, opens
from moa.laws.sign import nonpositive_steps
from moa.laws.split import conjuncts
from moa.laws.table import LAWS
from moa.machine import Machine, machine_in_use
from moa.naming import flops as scalar_flops
from moa.naming import name
from moa.normal import TRUE, Axis, Cond, Eq, Fold, Normal, Recurrence, Scalar, both, loads
from moa.ops import OPERATORS, REDUCERS
from moa.oracle import evaluate
from moa.poly import Poly, const, size
from moa.rewrite import Step, Trace
from moa.stream import Report, stream_with_report
from moa.tile import parallel
from moa.words import memory_words

MAX_FORMS = 6  # beyond these, further orders of a chain are not looked at
LENGTHS = (32, 64, 128, 256)  # of chunks that are looked at
ROUNDS = (32, 64)  # of chunks one behind the other: longer ones only compute more, as no state leaves for memory
MANY = 1 << 30  # items of a system without traversals: its work is divided anywhere
MARGIN = 0.8  # of most forms: their operations are of another kind than those of the form as written
CLEARLY = 0.9  # of the time of others, for forms in chunks: what is read inside them may have to be made again
WITHIN = "within@"  # how often what stands inside chunks is counted, in polynomials


@dataclass(frozen=True, slots=True)
class Outline:
    """What is known of one system for a program before it is looked at: enough to choose.

    name        "as written", or what made it: "open r0 in r1, r2; carry h0, h1 along i"
    flops       floating-point operations, as a polynomial in sizes; a prefix domain counts as what it holds
    sequential  those of them that stand in recurrences; of a form in chunks, those not between rows of one chunk
    sequences   how many recurrences (or chunks) can run at once: the extents along which they are independent
    items       how many rows the longest traversal is computed for: each is the work of one thread
    margin      it is taken where it takes less than this share of the time of the form as written
    weight      what a sequential operation is, one of `moa.machine.OPERATIONS`: "step", "chunk" or "round"
    words       that pass through memory: arguments, results, and twice what is stored in between
    state       words that recurrences hold from step to step, and how many are touched in all steps together
    """

    name: str
    flops: Poly
    sequential: Poly
    sequences: Poly
    items: Poly
    margin: float
    weight: str
    words: Poly
    state: tuple[Poly, Poly]

    def operations(self, sizes: Mapping[str, int], threads: int = 1, machine: Machine | None = None) -> float:
        """Operations of the busiest thread at these sizes, those one behind the other as the machine weighs them."""
        weight = (machine or machine_in_use()).costs(self.weight)
        sequential = evaluate(self.sequential, sizes)
        others = evaluate(self.flops, sizes) - sequential
        side_by_side = max(1, min(threads, evaluate(self.sequences, sizes)))
        return others / max(1, min(threads, evaluate(self.items, sizes))) + weight * sequential / side_by_side

    def times_s(
        self, sizes: Mapping[str, int], threads: int = 1, machine: Machine | None = None, dtype: str = "float32"
    ) -> tuple[tuple[str, float], ...]:
        """(what is waited for, seconds): operations, arrays where they are, states where they stay.

        Each thread has its share of rates and bandwidths; so many threads as asked for, whatever the machine has.
        """
        m = machine or machine_in_use()
        word = word_bytes(dtype)
        out = [("flops", self.operations(sizes, threads, m) / (m.rate(dtype) / m.threads))]
        moved = word * evaluate(self.words, sizes)
        at_once = min(threads, max(1, evaluate(self.items, sizes)))
        out.append(through(m, moved / at_once, moved, at_once))
        held, touched = (word * evaluate(p, sizes) for p in self.state)
        if touched:
            at_once = min(threads, max(1, evaluate(self.sequences, sizes)))
            where, s = through(m, held, touched, at_once)
            beyond = where != m.levels[0].name  # then each step waits for them before it computes
            out.append((f"states in {where}", s + beyond * out[0][1]))
        return tuple(out)

    def time_s(
        self, sizes: Mapping[str, int], threads: int = 1, machine: Machine | None = None, dtype: str = "float32"
    ) -> float:
        """At least so long: the largest of its times, or their sum."""
        return self.together_s(t for _, t in self.times_s(sizes, threads, machine, dtype))

    def together_s(self, times_s: Iterable[float]) -> float:
        """The largest; of a form in chunks, whose phases compute and move states in turns, the sum."""
        return sum(times_s) if self.weight == "chunk" else max(times_s)


@dataclass(frozen=True, slots=True)
class Form(Outline):
    """One system for a program, and what it costs.

    streamed    the named system after the laws between reductions
    steps       the laws that made it, in order
    by_length   the same in chunks of another length; None where there are no chunks
    """

    streamed: Normal
    steps: tuple[Step, ...]
    by_length: Callable[[int], Form] | None = field(default=None, compare=False, repr=False)

    def outline(self) -> Outline:
        return Outline(*(getattr(self, f.name) for f in fields(Outline)))

    def __str__(self) -> str:
        head = f"{self.name}: {self.flops} operations"
        return "\n".join((head, *(f"  {line}" for line in str(self.streamed).splitlines())))


def in_lengths(forms: tuple[Form, ...]) -> tuple[Form, ...]:
    """The forms, each that goes by chunks followed by the same in chunks of the other lengths."""
    out = []
    for f in forms:
        lengths = ROUNDS if f.weight == "round" else LENGTHS
        others = () if f.by_length is None else (n for n in lengths if not f.name.endswith(f" by {n}"))
        out += [f, *(f.by_length(n) for n in others if f.by_length)]
    return tuple(out)


F = TypeVar("F", bound=Outline)


def chosen(
    forms: tuple[F, ...],
    sizes: Mapping[str, int],
    threads: int = 1,
    machine: Machine | None = None,
    dtype: str = "float32",
) -> F:
    """The form that takes least time; the first one unless another one is clearly faster.

    machine  by whose rates, by default that in use
    """
    first, *others = forms
    if not others:
        return first
    times = {f.name: f.time_s(sizes, threads, machine, dtype) for f in forms}
    least = min((times[f.name] for f in forms if f.weight != "chunk"), default=0.0)
    faster = [
        f
        for f in others
        if times[f.name] < f.margin * times[first.name] and (f.weight != "chunk" or times[f.name] < CLEARLY * least)
    ]
    return min(faster, key=lambda f: times[f.name], default=first)


def streamed_beside(normal: Normal, trace: Trace, moves: Moves = "all") -> tuple[Normal, Report]:
    """The laws between reductions, with recurrences left as they are: what they read are arrays like outputs."""
    plain = replace(normal, outputs=(*normal.outputs, *normal.stored), recurrences=(), stored=())
    streamed, report = stream_with_report(plain, trace, moves)
    streamed = replace(streamed, outputs=normal.outputs, recurrences=normal.recurrences, stored=normal.stored)
    return streamed, report


def forms_of(normal: Normal, streamed: Normal, trace: Trace) -> tuple[Form, ...]:
    """The forms of an inlined system, the first being `streamed`; what was refused goes into the trace."""
    written = streamed
    held = beside = _with_one_state(streamed, trace, trace)
    out = [_form("as written", held, tuple(trace.steps))]
    orders = [_Order(normal, frozenset(), frozenset(), frozenset(), ())]
    rounds: list[Form | None] = []
    for order in orders:
        own = Trace(steps=list(order.steps))
        if order.opened:
            streamed = streamed_beside(order.normal, own)[0]
            if not order.carried:
                held = _with_one_state(_with_arrays(streamed, order.new), own, trace)
                out.append(_form(str(order), held, tuple(own.steps)))
        made = _carried(streamed, order.carried, own, trace, bool(order.opened))
        if made is None and order.opened:  # a running value of all rows is none of those before a row
            own = Trace(steps=list(order.steps))
            streamed = streamed_beside(order.normal, own, "none")[0]
            made = _carried(streamed, order.carried, own, trace, True)
        if made is not None:
            carried, text = made
            before = () if order.opened else out[0].steps
            carried = _with_one_state(_with_arrays(carried, order.new), own, trace)
            out.append(_form("; ".join(filter(None, (str(order), text))), carried, (*before, *own.steps)))
        chunked = _chunked(order, trace)
        if chunked is not None:
            out.append(chunked)
            rounds.append(_in_rounds(order, trace))
        if len(out) >= MAX_FORMS:
            break
        for more in _orders(order, trace):
            if len(orders) < MAX_FORMS and all(more.opened != x.opened for x in orders):
                orders.append(more)
    others = (
        _more_passes(normal, written, trace), _parted(out[0], written, trace), _side_by_side(out[0], beside, trace)
    )  # fmt: skip
    return (*out, *(f for f in (*rounds, *others) if f is not None))


def _more_passes(normal: Normal, streamed: Normal, trace: Trace) -> Form | None:
    """The form in which products of differences from a running value wait for it; None where there are none."""
    folds = [e for e in streamed.equations if isinstance(e, Fold)]
    if not any(is_wide(m, set(f.shared)) for f in folds for m in f.members):
        return None
    own = Trace()
    held = _with_one_state(streamed_beside(normal, own, "narrow")[0], own, trace)
    _extend(trace, own.steps)
    return replace(_form("products in a pass of their own", held, tuple(own.steps)), margin=1.0)


def _parted(form: Form, streamed: Normal, trace: Trace) -> Form | None:
    """A form with each traversal of a run-time length in parts, for fewer rows than threads; None if there is none."""
    names = Names(streamed)
    names.taken |= {c.name for r in streamed.recurrences for c in r.components}
    steps: list[Step] = []
    equations: list[Eq | Fold] = []
    stored: list[str] = []
    for e in streamed.equations:
        if isinstance(e, Eq) or e.axis[1].as_int() is not None:
            equations.append(e)
            continue
        try:
            made: Parted = LAWS["merge"].apply(e, names.fresh)
        except Stays as reason:
            _refuse(trace, "merge", e.name, str(reason))
            return None
        equations += [made.parts, made.merged]
        stored += [m.name for m in made.parts.members]
        text = f"{made.parts}; {made.merged}"
        steps.append(Step("merge", e.name, str(e), text, made.conditions, contract=LAWS["merge"].contract))
    if not steps:
        return None
    _extend(trace, steps)
    parted = replace(streamed, equations=tuple(equations), stored=(*streamed.stored, *stored))
    own = Trace(steps=[*form.steps, *steps])
    return _form("in parts, merged", _with_one_state(parted, own, trace), tuple(own.steps))


def _side_by_side(form: Form, held: Normal, trace: Trace, **of_length: int) -> Form | None:
    """A form with the steps of recurrences in chunks that run at once; None if there is none.

    of_length  `length`, or nothing: that of the law
    """
    names = Names(held)
    names.taken |= {n for r in held.recurrences for n in (r.name, *(e.name for e in (*r.maps, *r.readers)))}
    names.taken |= {c.name for r in held.recurrences for c in r.components}
    steps: list[Step] = []
    made: dict[str, SideBySide] = {}
    for r in held.recurrences:
        if not r.readers and not r.keep:  # all that is wanted is the last state
            continue
        try:
            found: SideBySide = LAWS["affine"].apply(r, partial(_fresh, names), **of_length)
        except Stays as reason:
            _refuse(trace, "affine", r.name, str(reason))
            continue
        made[r.name] = found
        text = "; ".join(map(str, (found.ends, *found.states, found.chunks)))
        steps.append(Step("affine", r.name, str(r), text, found.conditions, contract=LAWS["affine"].contract))
    if not made:
        return None
    _extend(trace, steps)
    recurrences: list[Recurrence] = []
    for r in held.recurrences:
        x = made.get(r.name)
        recurrences += [r] if x is None else [x.ends, *x.states, x.chunks]
    equations = in_order([*held.equations, *(e for x in made.values() for e in x.equations)])
    chunks = replace(held, equations=tuple(equations), recurrences=tuple(recurrences))
    first = next(iter(made.values()))
    text = f"{', '.join(made)} in parts side by side by {first.chunks.axis[1]}"
    out = _form(text, chunks, (*form.steps, *steps))
    sequential, sequences = const(0), const(1)
    for r in out.streamed.recurrences:
        if any(r.name in (x.ends.name, x.chunks.name) for x in made.values()):
            sequential = sequential + _recurrence_flops(r)
    for _, extent in parallel(first.chunks):
        sequences = sequences * extent
    out = replace(out, sequential=sequential, sequences=sequences)
    return out if of_length else replace(out, by_length=_each_once(partial(_side_by_side, form, held)))


def _each_once(make: Callable[..., Form | None]) -> Callable[[int], Form]:
    """What makes a form in chunks of a length, each once; no law asks how long its chunks are."""

    @cache
    def by_length(length: int) -> Form:
        made = make(Trace(), length=length)
        assert made is not None
        return made

    return by_length


def _form(text: str, streamed: Normal, steps: tuple[Step, ...]) -> Form:
    named = name(streamed)
    total, sequential = flops(named)
    own = [parallel(r) for r in named.recurrences if r.readers or r.keep]
    sequences = const(1)
    for _, extent in min(own, key=len, default=()):
        sequences = sequences * extent
    folds = [e.shared for e in named.equations if isinstance(e, Fold)]
    items = const(1) if folds else const(MANY)
    for _, extent in max(folds, key=len, default=()):
        items = items * extent
    words, state = memory_words(named)
    return Form(text, total, sequential, sequences, items, MARGIN, "step", words, state, named, steps)


def _with_one_state(streamed: Normal, own: Trace, trace: Trace) -> Normal:
    """The system with the states of scans held one at a time where that is possible; its steps go into `own`."""
    found = Trace()
    held = beside_scans(streamed, found)
    own.steps += found.steps
    if own is trace:
        trace.refused += found.refused
    else:
        _extend(trace, found.steps)
    return held if held is streamed else _with_arrays(held, frozenset())


def _with_arrays(streamed: Normal, names: Set[str]) -> Normal:
    """The system with reductions that are better made once as arrays in memory.

    These are the ones of these names (and parts of them), which have fewer axes than what reads them, and those that
    its recurrences read, which step by step would be products of matrices with one row.
    """
    by_name = {e.name: e for e in streamed.equations if isinstance(e, Eq)}
    wanted = {n for n in by_name if n.partition(".")[0] in names}
    carried = [r for r in streamed.recurrences if r.readers]
    todo = [a for r in carried for c in r.components for s in (c.start, c.body) for a in sorted(reads(s))]
    todo += [a for r in carried for e in (*r.maps, *r.readers) for a in _loads(e)]
    while todo:
        e = by_name.get(todo.pop())
        if e is None or e.name in wanted:
            continue
        if e.kind == "reduce":
            wanted.add(e.name)
        else:
            todo += _loads(e)
    found = tuple(n for n in by_name if n in wanted and by_name[n].kind == "reduce" and n not in streamed.outputs)
    return replace(streamed, stored=(*streamed.stored, *(n for n in found if n not in streamed.stored)))


def _loads(e: Eq) -> list[str]:
    return [a for _, s in e.pieces for a in sorted(reads(s))]


# Orders of sums ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Order:
    """A system with some sums exchanged.

    made      what the last exchange made of each reduction, and the system before it
    opened    (reduction, the sum that was opened in it), of all exchanges; the system follows from it
    new       the sums that exchanges made
    carried   those of them that are worth nothing unless they become recurrences
    """

    normal: Normal
    opened: frozenset[tuple[str, str]]
    new: frozenset[str]
    carried: frozenset[str]
    steps: tuple[Step, ...]
    before: Normal | None = None
    made: tuple[tuple[Eq, Reassociated], ...] = ()

    def __str__(self) -> str:
        inner = sorted({name for _, name in self.opened})
        return "; ".join(f"open {x} in {', '.join(sorted(e for e, y in self.opened if x == y))}" for x in inner)


def _orders(order: _Order, trace: Trace) -> Iterator[_Order]:
    """The system with one inner sum opened in all reductions that have it as a factor."""
    normal = order.normal
    falling = nonpositive_steps(normal.recurrences)
    reductions, _ = inlined(normal)
    split = {e.name: LAWS["split"].apply(e) or e for e in reductions}
    for inner in split.values():
        if inner.name in order.new:  # to open it again would undo an exchange
            continue
        names = Names(normal)
        names.taken |= {c.name for r in normal.recurrences for c in r.components}
        new: dict[str, Reassociated] = {}
        must: set[str] = set()
        steps: list[Step] = []
        for e in split.values():
            if e.dtype != "f" or inner.dtype != "f" or e.name == inner.name or not opens(e, inner):
                continue
            try:
                made: Reassociated = LAWS["reassociate"].apply(e, inner, partial(_fresh, names))
            except Stays as reason:
                _refuse(trace, "reassociate", e.name, str(reason))
                continue
            if not made.missing():
                try:
                    carry(made.inner, falling, partial(_fresh, names))
                except Stays as reason:
                    text = f"the new inner sum has every axis of {e.name} and is not carried: {reason}"
                    _refuse(trace, "reassociate", e.name, text)
                    continue
                must.add(made.inner.name)
            new[e.name] = made
            text = f"{made.outer}; {made.inner}"
            steps.append(
                Step("reassociate", e.name, str(e), text, made.conditions, contract=LAWS["reassociate"].contract)
            )
        if not new:
            continue
        equations: list[Eq | Fold] = []
        for x in normal.equations:
            assert isinstance(x, Eq)
            found = new.get(x.name)
            equations += [x] if found is None else [found.inner, found.outer]
        _extend(trace, steps)
        yield _Order(
            replace(normal, equations=_live(equations, normal)),
            order.opened | {(e, inner.name) for e in new},
            order.new | {x.inner.name for x in new.values()},
            order.carried | must,
            (*order.steps, *steps),
            normal,
            tuple((split[n], x) for n, x in new.items()),
        )


def _chunked(order: _Order, trace: Trace, **of_length: int) -> Form | None:
    """The form of an order in which reductions over prefixes go by chunks of rows; None if there is none.

    of_length  `length`, or nothing: that of the law
    """
    if order.before is None:
        return None
    before = order.before
    steps: list[Step] = []
    new: dict[str, tuple[Eq, ...]] = {}
    states: list[Recurrence] = []
    stored: list[str] = []
    away: set[str] = set()
    for e, found in _chunks(order, before, _names(before), **of_length):
        if isinstance(found, Stays):
            _refuse(trace, "chunk", e.name, str(found))
            continue
        new[e.name] = (found.near, found.sums, found.far, found.whole)
        states.append(found.states)
        stored.append(found.sums.name)
        away.add(found.far.name)
        length = "" if found.sums.red is None else str(found.sums.red[1])
        steps.append(_chunk_step(e, found))
    if not new:
        return None
    others = {e.name: (x.inner, x.outer) for e, x in order.made if e.name not in new}
    equations: list[Eq | Fold] = []
    for y in before.equations:
        equations += (new | others).get(y.name, (y,))
    normal = replace(
        before,
        recurrences=(*before.recurrences, *states),
        stored=(*before.stored, *stored),
    )
    normal = replace(normal, equations=_live(equations, normal))
    own = Trace(steps=[*order.steps, *steps])
    streamed = streamed_beside(normal, own)[0]
    split = (apart(e) if away & set(defines(e)) else (e,) for e in streamed.equations)
    streamed = _with_arrays(replace(streamed, equations=tuple(x for y in split for x in y)), away)
    streamed = _with_one_state(streamed, own, trace)
    _extend(trace, steps)
    text = f"chunk {', '.join(new)} by {length}"
    form = _form("; ".join(filter(None, (str(order), text))), streamed, tuple(own.steps))
    beyond = flops(form.streamed, within=0)[0]
    form = replace(form, sequential=beyond, sequences=states[0].axis[1], weight="chunk")
    return form if of_length else replace(form, by_length=_each_once(partial(_chunked, order)))


def _names(normal: Normal) -> Names:
    """The names of a system, those of the states of its recurrences among them."""
    names = Names(normal)
    names.taken |= {c.name for r in normal.recurrences for c in r.components}
    return names


def _chunks(order: _Order, before: Normal, names: Names, **of_length: int) -> Iterator[tuple[Eq, Chunked | Stays]]:
    """Each sum over a prefix of an order with its chunks, or why it has none."""
    falling = nonpositive_steps(before.recurrences)
    for e, made in order.made:
        try:
            yield e, LAWS["chunk"].apply(e, made, falling, partial(_fresh, names), **of_length)
        except Stays as reason:
            yield e, reason


def _chunk_step(e: Eq, found: Chunked) -> Step:
    text = "; ".join(map(str, (found.near, found.sums, found.far)))
    return Step("chunk", e.name, str(e), text, found.conditions, contract=LAWS["chunk"].contract)


def _in_rounds(order: _Order, trace: Trace, **of_length: int) -> Form | None:
    """The form of an order in which chunks follow each other, each done in one step; None if there is none.

    of_length  `length`, or nothing: that of the law
    """
    assert order.before is not None
    before, names = order.before, _names(order.before)
    tried = _chunks(order, before, names, **of_length)
    found = [(e, x) for e, x in tried if isinstance(x, Chunked)]  # of the others it was told why
    try:
        rounds: Fused = LAWS["in rounds"].apply(before, found, partial(_fresh, names))
    except Stays as reason:
        _refuse(trace, "in rounds", ", ".join(e.name for e, _ in found), str(reason))
        return None
    law = LAWS["in rounds"]
    text = ", ".join(e.name for e, _ in found)
    steps = [_chunk_step(e, c) for e, c in found]
    steps.append(Step(law.name, text, str(order), str(rounds.recurrence), rounds.conditions, contract=law.contract))
    _extend(trace, steps)
    others = {e.name: (x.inner, x.outer) for e, x in order.made if all(e.name != y.name for y, _ in found)}
    equations: list[Eq | Fold] = []
    for x in rounds.system.equations:
        equations += others.get(x.name, (x,))
    own = Trace(steps=[*order.steps, *steps])
    system = replace(rounds.system, equations=tuple(equations))
    scalars = [x for c in rounds.recurrence.components for x in (c.start, c.body)]
    scalars += [x for e in (*rounds.recurrence.maps, *rounds.recurrence.readers) for _, x in e.pieces]
    read = {a for x in scalars for a in reads(x)} & {n for e in equations for n in defines(e)}
    system = replace(system, stored=(*system.stored, *sorted(read - set(system.stored))))
    streamed = streamed_beside(replace(system, equations=_live(equations, system)), own)[0]
    length = next(str(c.sums.red[1]) for _, c in found if c.sums.red is not None)
    form = _form("; ".join(filter(None, (str(order), f"round {text} by {length}"))), streamed, tuple(own.steps))
    form = replace(form, weight="round")
    return form if of_length else replace(form, by_length=_each_once(partial(_in_rounds, order)))


def _live(equations: list[Eq | Fold], normal: Normal) -> tuple[Eq | Fold, ...]:
    """The equations that the outputs and the recurrences of a system need, in dependence order."""
    scalars = [x for r in normal.recurrences for c in r.components for x in (c.start, c.body)]
    scalars += [s for r in normal.recurrences for e in r.maps for _, s in e.pieces]
    wanted = {*normal.outputs, *normal.stored, *(a for s in scalars for a in reads(s))}
    out: list[Eq | Fold] = []
    for e in reversed(in_order(equations)):
        if e.name in wanted or (isinstance(e, Eq) and e.dtype != "f"):
            out.append(e)
            wanted |= reads_of(e)
    return tuple(out[::-1])


def _fresh(names: Names, root: str) -> str:
    k = 0
    while f"{root}{k}" in names.taken:
        k += 1
    names.taken.add(f"{root}{k}")
    return f"{root}{k}"


def _refuse(trace: Trace, law: str, target: str, reason: str) -> None:
    if (law, target, reason) not in trace.refused:
        trace.refused.append((law, target, reason))


def _extend(trace: Trace, steps: list[Step]) -> None:
    trace.others += [s for s in steps if s not in trace.others]


# Recurrences ---------------------------------------------------------------------------------------------------------


def _carried(normal: Normal, must: frozenset[str], own: Trace, trace: Trace, opened: bool) -> tuple[Normal, str] | None:
    """The system with every reduction over a prefix domain carried, and what was; None if that is not enough."""
    names = Names(normal)
    falling = nonpositive_steps(normal.recurrences)
    found: dict[str, Carried] = {}
    steps: list[Step] = []
    for e in normal.equations:
        if isinstance(e, Eq) and (e.kind != "reduce" or e.dtype != "f"):
            continue
        try:
            made: Carried = LAWS["carry"].apply(e, falling, names.fresh)
        except Stays as reason:
            if not opened and _near(e):
                _refuse(trace, "carry", e.name if isinstance(e, Eq) else e.members[0].name, str(reason))
            continue
        found[e.name] = made
        after = "; ".join(f"{c.name}: from {c.start} by {c.body}" for c in made.components)
        contract = LAWS["carry"].contract if made.moved else "reassociates"
        for n, _, _ in made.values:
            steps.append(Step("carry", n, str(e), after, made.conditions, contract=contract))
    left = {e.name.partition(".")[0] for x in normal.equations if x.name not in found for e in _parts(x)}
    if not found or left & must:
        return None
    out, kept = with_recurrences(normal, found)
    if {n.partition(".")[0] for n in kept} & must:
        return None
    own.steps += steps
    _extend(trace, steps)
    rows = ", ".join(dict.fromkeys(c.prefix.row[0] for c in found.values()))
    return out, f"carry {', '.join(n for c in found.values() for n, _, _ in c.values)} along {rows}"


def _parts(e: Eq | Fold) -> tuple[Eq, ...]:
    if isinstance(e, Eq):
        return (e,) if e.kind == "reduce" else ()
    return tuple(Eq(m.name, "map", m.outer, ()) for m in e.members)


def _near(e: Eq | Fold) -> bool:
    """Whether only the domain can be what keeps a reduction from being carried: no element of it depends on a row."""
    members = [(e.domain, e.pieces)] if isinstance(e, Eq) else [(m.domain, m.pieces) for m in e.members]
    axis = e.red if isinstance(e, Eq) else e.axis
    assert axis is not None
    for domain, pieces in members:
        rows = domain.vars() - {axis[0]}
        scalars: list[Scalar] = [s for _, b in pieces for s in (b if isinstance(b, tuple) else (b,))]
        if not rows or axis[0] not in domain.vars() or any(rows & s.vars() for s in scalars):
            return False
    return True


# Operations ----------------------------------------------------------------------------------------------------------


def flops(normal: Normal, within: int = 1) -> tuple[Poly, Poly]:
    """(floating-point operations of a streamed, named system; those of them in recurrences of many states).

    within  0: without those for pairs of a row and a position of its own chunk
    """
    total = sequential = const(0)
    demanded = _demanded(normal)
    for e in normal.equations:
        total = total + (_fold_flops(e, demanded) if isinstance(e, Fold) else _eq_flops(e, demanded.get(e.name)))
    for r in normal.recurrences:
        own = _recurrence_flops(r)
        total = total + own
        if r.readers or r.keep:
            sequential = sequential + own
    counted = {size(WITHIN).as_atom(): const(within)}
    return total.replace(counted.get), sequential


Demand = tuple[int, int, Poly]  # of an array: the positions of two axes, and how many pairs along them are read


def _demanded(normal: Normal) -> dict[str, Demand]:
    """The arrays that are read only under one domain, with what it leaves of two of their axes."""
    found: dict[str, set[Demand | None]] = {n: {None} for n in (*normal.outputs, *normal.stored)}
    for r in normal.recurrences:
        for s in (*(x for c in r.components for x in (c.start, c.body)), *(x for e in r.maps for _, x in e.pieces)):
            found |= {a: {None} for a in reads(s)}

    def read(s: Scalar, pairs: tuple[tuple[str, str, Poly], ...]) -> None:
        for array, index in loads(s):
            at = [p.as_var() for p in index]
            kept: set[Demand | None] = {(at.index(i), at.index(j), n) for i, j, n in pairs if i in at and j in at}
            found.setdefault(array, set()).update(kept or {None})

    def visit(outer: tuple[Axis, ...], red: Axis | None, domain: Cond, scalars: Iterable[Scalar], own: str) -> None:
        pairs = () if red is None else tuple((i, red[0], n) for i, n in _pairs(outer, red, domain))
        mine = found.get(own, {None})
        if not pairs and len(mine) == 1 and (limit := next(iter(mine))) is not None:
            pairs = ((outer[limit[0]][0], outer[limit[1]][0], limit[2]),)
        for s in scalars:
            read(s, pairs)

    for e in reversed(normal.equations):
        if isinstance(e, Eq):
            visit(e.outer, e.red, e.domain, [s for _, s in e.pieces], e.name)
            continue
        for m in e.members:
            visit(m.outer, e.axis, m.domain, [b for _, basis in m.pieces for b in basis], m.name)
        for x in reversed(e.maps):
            visit(x.outer, None, TRUE, [s for _, s in x.pieces], x.name)
    single = {n: next(iter(d)) for n, d in found.items() if len(d) == 1}
    return {n: d for n, d in single.items() if d is not None}


def _pairs(outer: tuple[Axis, ...], red: Axis, domain: Cond) -> list[tuple[str, Poly]]:
    """The outer axes that a domain ties to the reduced one, each with the number of pairs that are left."""
    out = []
    for a in outer:
        tied = [c for c in conjuncts(domain) if {a[0], red[0]} <= c.vars()]
        length = next((n for c in tied if (n := _block(c, a, red)) is not None), None)
        rest = both(*(c for c in tied if _block(c, a, red) is None))
        lag = None
        try:
            lag = 0 if rest.is_true else -1 if prefix(rest, a, red).strict else 1
        except Stays:
            continue
        if length is None and (rest.is_true or a[1] != red[1]):
            continue
        if length is not None:
            half = length if lag == 0 else (length + lag + 1) // 2
            out.append((a[0], a[1] * half * size(WITHIN)))
        else:
            out.append((a[0], a[1] * (red[1] + lag) * const(Fraction(1, 2))))
    return out


def _block(c: Cond, a: Axis, b: Axis) -> int | None:
    """L where the condition says a // L == b // L."""
    if c.op != "eq":
        return None
    atoms = [x for x in c.args[0].atoms() if x.kind == "div"]
    if len(atoms) != 2 or {str(x.args[0]) for x in atoms} != {a[0], b[0]} or atoms[0].args[1] != atoms[1].args[1]:
        return None
    length: int | None = atoms[0].args[1].as_int()
    return length


def _points(outer: tuple[Axis, ...], red: Axis | None = None, domain: Cond = TRUE) -> Poly:
    """The elements of a box, or of its part under a domain that leaves a known share."""
    pairs = [] if red is None else _pairs(outer, red, domain)
    row, out = (pairs[0][0], pairs[0][1]) if pairs else ("", const(1) if red is None else red[1])
    for v, extent in outer:
        if v != row:
            out = out * extent
    return out


def _demanded_points(outer: tuple[Axis, ...], demand: Demand | None) -> Poly:
    out = const(1) if demand is None else demand[2]
    for k, (_, extent) in enumerate(outer):
        if demand is None or k not in demand[:2]:
            out = out * extent
    return out


def _eq_flops(e: Eq, demand: Demand | None) -> Poly:
    own = sum(scalar_flops(s) for _, s in e.pieces) + (REDUCERS[e.op].flops if e.op else 0)
    if demand is not None:
        return _demanded_points(e.outer, demand) * (const(1) if e.red is None else e.red[1]) * own
    return _points(e.outer, e.red, e.domain) * own


def _fold_flops(f: Fold, demanded: Mapping[str, Demand]) -> Poly:
    total = const(0)
    for e in f.maps:
        total = total + _demanded_points(e.outer, demanded.get(e.name)) * scalar_flops(e.body)
    for m in f.members:
        own = sum(scalar_flops(b) for _, basis in m.pieces for b in basis)
        own += m.width * OPERATORS[m.op.removesuffix("_ref")].flops
        total = total + _points(m.outer, f.axis, m.domain) * own + _points(m.outer) * scalar_flops(m.finish)
    return total


def _recurrence_flops(r: Recurrence) -> Poly:
    step = const(0)
    for c in r.components:
        step = step + _points(c.outer) * scalar_flops(c.body)
    row: set[str] = {r.axis[0]}
    for e in (*r.maps, *r.readers):
        outer = tuple(a for a in e.outer if a[0] not in row)
        own = sum(scalar_flops(s) for _, s in e.pieces) + (REDUCERS[e.op].flops if e.op else 0)
        step = step + _points(outer, e.red) * own
    return step * r.axis[1]
