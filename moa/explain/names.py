"""What things are called on a page: one letter for one axis, one name for one array, from the equations and the text.

The equations number their arrays and name the index variables of each equation by position. Here index variables that
run over the same axis (they meet where an array is loaded) get one letter, by the part that the axis plays: rows and
columns of the results, reduced axes, leading axes. Arrays get the names of the program where they have one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from moa import ir
from moa.explain.origin import canonical, forms, given_names
from moa.forms import Form
from moa.normal import Axis, Component, Cond, Eq, Fold, Index, Member, Normal, Scalar, load, loads, map_cond, map_scalar
from moa.ops import REDUCE_WORDS
from moa.pipeline import Derivation
from moa.poly import Atom, Poly, atom, var

Scope = tuple[str, str]  # a system of equations and an equation of it
Node = tuple[str, str, str]  # a variable of a scope, or ("", array, axis number)

REDUCED_AXIS = "reduced"
ROW, COLUMN = "i", "c"
LEADING = ("b", "h", "g")
REDUCED = ("j", "k", "p", "q", "u", "v")
OTHERS = ("u", "v", "w", "x", "y", "z")


@dataclass(frozen=True, slots=True)
class Entry:
    """One array of a system: its axes, the reduced ones with how far they go, and what it loads."""

    scope: Scope
    array: str
    outer: tuple[str, ...]
    red: tuple[Axis, ...]
    loads: tuple[tuple[str, Index], ...]


def entries(system: str, normal: Normal) -> Iterator[Entry]:
    for e in normal.equations:
        if isinstance(e, Eq):
            yield entry(system, e)
            continue
        for x in e.maps:
            yield entry(system, x)
        for m in e.members:
            scalars = [s for _, b in m.pieces for s in b] + [*m.refs, m.finish]
            found = tuple(dict.fromkeys(y for s in scalars for y in loads(s)))
            yield Entry((system, m.name), m.name, tuple(v for v, _ in m.outer), (e.axis,), found)

    for r in normal.recurrences:
        for x in (*r.maps, *r.readers):
            yield entry(system, x)
        for c in r.components:
            kept = tuple(v for v, _ in r.kept(c))
            red = () if r.axis[0] in kept else (r.axis,)
            array = c.name if r.keep else c.state  # which is no array and lacks the axis of the steps
            yield Entry((system, c.name), array, kept, red, tuple(y for y in loads(c.body) if "#" not in y[0]))


def entry(system: str, e: Eq) -> Entry:
    found = tuple(dict.fromkeys(y for _, s in e.pieces for y in loads(s)))
    red = () if e.red is None else (e.red,)
    return Entry((system, e.name), e.name, tuple(v for v, _ in e.outer), red, found)


class Axes:
    """Index variables and axes of arrays in classes. Two variables of one scope are never in one class."""

    def __init__(self) -> None:
        self.parent: dict[Node, Node] = {}
        self.held: dict[Node, dict[Scope, str]] = {}

    def find(self, a: Node) -> Node:
        if a not in self.parent:
            self.parent[a] = a
            self.held[a] = {(a[0], a[1]): a[2]} if a[0] else {}
        while self.parent[a] != a:
            a = self.parent[a]
        return a

    def join(self, a: Node, b: Node) -> None:
        a, b = self.find(a), self.find(b)
        if a == b or any(self.held[b].get(scope, v) != v for scope, v in self.held[a].items()):
            return
        self.parent[b] = a
        self.held[a] |= self.held.pop(b)

    def enter(self, found: Iterable[Entry]) -> None:
        """Variables that index the same axis of an array which the equations define are joined."""
        found = tuple(found)
        own = {e.array for e in found}
        for e in found:
            for k, x in enumerate(e.outer):
                self.join((*e.scope, x), self.axis(e.scope[0], e.array, k))
            for x, extent in e.red:
                self.join((*e.scope, x), self.axis(e.scope[0], e.array, f"{REDUCED_AXIS} < {extent}"))
        for e in found:
            for array, index in e.loads:
                name = array.split("#")[0]
                for k, p in enumerate(index):
                    v: str | None = p.as_var()
                    if v is not None and name in own:
                        self.join((*e.scope, v), self.axis(e.scope[0], name, k))

    def axis(self, system: str, array: str, k: int | str) -> Node:
        """Reductions and outputs keep their names from system to system, names of Maps are each system's own."""
        return ("", array if array[0] != "t" else f"{system}:{array}", str(k))


@dataclass(slots=True)
class Names:
    """The names of one page."""

    derivation: Derivation
    form: Form
    arrays: dict[tuple[str, str], str] = field(default_factory=dict)  # (system, array) -> name
    letters: dict[Node, str] = field(default_factory=dict)
    axes: Axes = field(default_factory=Axes)
    taken: set[str] = field(default_factory=set)

    # asking ------------------------------------------------------------------------------------------------------

    def letter(self, scope: Scope, v: str) -> str:
        """What an index variable of an equation is called; of one that a law brought in, as in what the law made."""
        nodes = [(*scope, v), (scope[0], stem(scope[1]), v), ("streamed", scope[1], v)]
        node = next((x for x in nodes if x in self.axes.parent), nodes[0])
        return self.letters.get(self.axes.find(node), v) if node in self.axes.parent else v

    def array(self, system: str, name: str) -> str:
        """The name of an array; of a state `x#k`, of the array that a reduction became."""
        stem, _, component = name.partition("#")
        shown = self.arrays.get((system, stem), stem)
        return shown if component in ("", "0") else f"{shown}#{component}"

    def scalar(self, scope: Scope, s: Scalar, own: Mapping[Scalar, Scalar] | None = None) -> Scalar:
        """The scalar as the page has it; `own` replaces nodes first."""
        replaced = own or {}

        def node(x: Scalar) -> Scalar | None:
            if x in replaced:
                return replaced[x]
            return load(self.array(scope[0], x.args[0]), x.args[1]) if x.op == "load" else None

        return map_scalar(s, node, lambda p: self.poly(scope, p))

    def cond(self, scope: Scope, c: Cond) -> Cond:
        return map_cond(c, lambda p: self.poly(scope, p), lambda s: self.scalar(scope, s))

    def poly(self, scope: Scope, p: Poly) -> Poly:
        def replace(a: Atom) -> Poly | None:
            if a.kind == "var":
                return var(self.letter(scope, a.name))
            if a.kind == "load":
                return atom("load", self.array(scope[0], a.name), (x.replace(replace) for x in a.args))
            return None

        return p.replace(replace)

    def text(self, scope: Scope, text: str, own: Mapping[str, str] | None = None) -> str:
        """A text of the trace as the page has it, word by word."""
        words = own or {}

        def word(m: re.Match[str]) -> str:
            w = str(m.group())
            if w in words:
                return words[w]
            if (scope[0], w.split("#")[0]) in self.arrays:
                return self.array(scope[0], w)
            return self.letter(scope, w)

        return re.sub(r"[A-Za-z_][A-Za-z0-9_]*(?:\.\d+)*(?:#\d+)?'?", word, text)

    def free(self, *candidates: str) -> str:
        """The first candidate that is not taken, numbered if all are; it is taken now."""
        k, name = 0, candidates[0]
        while name in self.taken:
            k += 1
            name = candidates[k] if k < len(candidates) else f"{candidates[0]}{k - len(candidates) + 1}"
        self.taken.add(name)
        return name


def names_of(source: ir.Source, d: Derivation, form: Form) -> Names:
    """The names for the page of one form of a derivation, whose streamed system is that form's."""
    names = Names(d, form)
    program = d.program
    names.taken = {p.name for p in program.inputs} | set(program.sizes()) | {"lowest", "inf", "nan"}
    moved = [eq for m in d.report.moved for eq, _ in m.members]
    _recurrences(names, "equations", d.equations)
    names.axes.enter(entries("equations", d.equations))
    names.axes.enter(entries("inlined", d.inlined))
    _recurrences(names, "streamed", d.streamed)
    names.axes.enter(entries("streamed", d.streamed))
    names.axes.enter(entries("first", d.forms[0].streamed))
    names.axes.enter(entry("moved", e) for e in moved)
    _parts(names, moved)
    _traversals(names)
    _by_inputs(names)
    _letters(names)
    _arrays(names, given_names(source, program))
    return names


def _recurrences(names: Names, system: str, normal: Normal) -> None:
    """All that belongs to one step of a recurrence has the axis of the recurrence, and the axes of its states."""
    for r in normal.recurrences:
        states = {c.state: c for c in r.components}
        found: list[tuple[str, tuple[tuple[str, Index], ...]]] = [(c.name, loads(c.body)) for c in r.components]
        found += [(x.name, entry(system, x).loads) for x in (*r.maps, *r.readers)]
        for name, read in found:
            names.axes.join((system, r.components[0].name, r.axis[0]), (system, name, r.axis[0]))
            for array, index in read:
                for (v, _), p in zip(states[array].outer if array in states else (), index, strict=False):
                    w = p.as_var()
                    if w is not None:
                        names.axes.join((system, states[array].name, v), (system, name, w))


def _traversals(names: Names) -> None:
    """Members of a group, and of a Fold, run over one axis; those of a Fold share what its references have."""
    reds = {e.name: e.red[0] for e in names.derivation.inlined.equations if isinstance(e, Eq) and e.red is not None}
    for g in names.derivation.report.groups:
        for m in g.members:
            names.axes.join(("inlined", g.members[0], reds[g.members[0]]), ("inlined", m, reds[m]))
    for system, normal in (("streamed", names.derivation.streamed), ("first", names.derivation.forms[0].streamed)):
        for f in normal.equations:
            if isinstance(f, Fold):
                for v in (f.axis[0], *(v for v, _ in f.shared)):
                    for k in f.members:
                        names.axes.join((system, f.members[0].name, v), (system, k.name, v))


def _parts(names: Names, moved: Iterable[Eq]) -> None:
    """A reduction that a law made from another, `r3.0` from `r3`, runs over the same axes where it has as many."""
    known = {e.name: e for e in names.derivation.inlined.equations if isinstance(e, Eq)}
    streamed = list(entries("streamed", names.derivation.streamed))
    for e in (*(entry("moved", x) for x in moved), *streamed):
        whole = known.get(stem(e.array))
        if whole is None or whole.red is None or len(whole.outer) != len(e.outer):
            continue
        here = ("inlined", whole.name)
        if e.scope[0] == "moved":
            for a, (b, _) in zip(e.outer, whole.outer, strict=True):
                names.axes.join((*here, b), (*e.scope, a))
        for v, extent in e.red:
            if extent == whole.red[1]:
                names.axes.join((*here, whole.red[0]), (*e.scope, v))


def _by_inputs(names: Names) -> None:
    """An axis that only a law knows is that of the equations which index the same axis of an input, if it is one."""
    inputs = {p.name for p in names.derivation.equations.inputs}

    def places(system: str, normal: Normal) -> Iterator[tuple[tuple[str, int], Node]]:
        for e in entries(system, normal):
            for array, index in e.loads:
                for k, p in enumerate(index):
                    v = p.as_var()
                    if v is not None and array in inputs:
                        yield (array, k), names.axes.find((*e.scope, v))

    known: dict[tuple[str, int], set[Node]] = {}
    for at, node in places("equations", names.derivation.equations):
        known.setdefault(at, set()).add(node)
    for at, node in places("streamed", names.derivation.streamed):
        node, found = names.axes.find(node), {names.axes.find(x) for x in known.get(at, ())}
        if len(found) == 1 and not any(system in ("equations", "inlined") for system, _ in names.axes.held[node]):
            names.axes.join(found.pop(), node)


def stem(name: str) -> str:
    """The reduction that a name made by a law comes from: `r3` of `r3.0`."""
    return name.partition(".")[0]


def _letters(names: Names) -> None:
    """A letter for every class: results first, then reduced axes from the results backwards, then the rest."""
    normal = names.derivation.equations
    by_name = {e.name: e for e in normal.equations if isinstance(e, Eq)}
    outer = {e.array: e.outer for e in entries("equations", normal)}
    parts: dict[str, list[Node]] = {"row": [], "column": [], "leading": [], "reduced": [], "other": []}
    for name in normal.outputs:
        own: list[Node] = [("equations", name, v) for v in outer[name]]
        parts["row"] += own[-2:-1] if len(own) > 1 else own
        parts["column"] += own[-1:] if len(own) > 1 else []
        parts["leading"] += own[:-2]
    for e in reversed(by_name.values()):
        parts["reduced"] += [("equations", e.name, e.red[0])] if e.red else []
    parts["other"] = list(names.axes.parent)
    leading = list(dict.fromkeys(names.axes.find(a) for a in parts["leading"]))
    plain = not names.taken.intersection(LEADING[: len(leading)]) and len(leading) <= len(LEADING)
    wanted = {
        "row": (ROW,),
        "column": (COLUMN,),
        "leading": LEADING if plain else tuple(f"b{k}" for k in range(len(leading))),
        "reduced": REDUCED,
        "other": OTHERS,
    }
    for part, nodes in parts.items():
        for a in nodes:
            a = names.axes.find(a)
            if a not in names.letters and (a[0] or names.axes.held[a]):
                names.letters[a] = names.free(*wanted[part])


def _arrays(names: Names, given: Mapping[Scalar, str]) -> None:
    """A name for every array: of the result, of the text, of what it multiplies, and otherwise its own."""
    normal = names.derivation.equations
    equations = [e for e in normal.equations if isinstance(e, Eq)]
    inlined = forms(normal)
    known: dict[str, str] = {p.name: p.name for p in normal.inputs}
    for name in normal.outputs:
        known[name] = names.free(name)
    for e in equations:
        copied = _copied(e) if e.name in normal.outputs else None
        if copied is not None:
            known.setdefault(copied, known[e.name])
    for e in equations:
        if e.name in known:
            continue
        word = given.get(canonical(inlined[e.name][1]), "")
        made = _made_of(e, known)
        known[e.name] = names.free(*_spelled(word), *made, e.name)
    for r in normal.recurrences:
        for name in (*(c.name for c in r.components), *(x.name for x in (*r.maps, *r.readers))):
            known.setdefault(name, name)
    for name, shown in known.items():
        if name not in {p.name for p in normal.inputs}:
            names.arrays[("equations", name)] = shown
            if name[0] != "t":
                names.arrays[("inlined", name)] = names.arrays[("moved", name)] = shown
    _made_by_laws(names, known)


def _spelled(word: str) -> tuple[str, ...]:
    """How a name of the text may be written: as it is, else in the other case, else marked."""
    if not word:
        return ()
    return (word, word.swapcase(), f"{word}_") if len(word) == 1 else (word, f"{word}_")


def _copied(e: Eq) -> str | None:
    """The array that a Map copies at its own index, if it does nothing else."""
    if e.kind == "map" and e.body.op == "load" and e.body.args[1] == e.index():
        return str(e.body.args[0])
    return None


def _made_of(e: Eq, known: Mapping[str, str]) -> tuple[str, ...]:
    """Names from what an equation is made of: AB for a sum of A times B, fA for a function of the elements of A."""
    found = dict.fromkeys(a for _, s in e.pieces for a, _ in loads(s))
    shown = [known.get(a, a) for a in found]
    product = e.kind == "reduce" and e.op == "add" and len(e.pieces) == 1 and e.body.op == "mul" and len(shown) == 2
    if product and all(x.op == "load" for x in e.body.args) and all(len(a) <= 2 for a in shown):
        return ("".join(shown),)
    if e.kind == "reduce" and len(e.pieces) == 1 and e.body.op == "load" and len(shown) == 1:
        return (f"{REDUCE_WORDS[e.op]}{shown[0]}",)
    if e.kind == "map" and len(shown) == 1 and len(shown[0]) == 1 and all(i == e.index() for _, i in loads(e.body)):
        return (f"f{shown[0]}", f"g{shown[0]}")
    return ()


def _made_by_laws(names: Names, known: Mapping[str, str]) -> None:
    """Names in the streamed system: parts of a reduction are numbered, Maps are those of before where equal."""
    equal = {
        canonical(names.scalar(("equations", e.name), e.body)): known[e.name]
        for e in names.derivation.equations.equations
        if isinstance(e, Eq) and e.kind == "map" and e.name[0] == "t"
    }
    for e in names.derivation.streamed.equations:
        found: tuple[Eq | Member, ...] = (*e.maps, *e.members) if isinstance(e, Fold) else (e,)
        for x in found:
            names.arrays[("streamed", x.name)] = _streamed_name(names, x, isinstance(e, Fold), known, equal)
        if isinstance(e, Fold):
            for k, name in enumerate(e.references().values()):
                names.arrays[("streamed", name)] = names.free("r", "ref") if k == 0 else names.free(f"r{k}", f"ref{k}")
    for r in names.derivation.streamed.recurrences:
        steps: tuple[Eq | Component, ...] = (*r.maps, *r.components, *r.readers)
        for step in steps:
            name = step.name
            shown = names.arrays.get(("equations", name)) if name[0] != "t" else None
            if shown is None and isinstance(step, Eq):
                shown = _equal_name(names, step, equal)
            part = name[len(stem(name)) + 1 :]
            made = numbered(known[stem(name)], part) if part and stem(name) in known else (name, f"{name}_")
            names.arrays[("streamed", name)] = shown or names.free(*made)
    for m in names.derivation.report.moved:
        for eq, _ in m.members:
            shown = names.arrays.get(("streamed", eq.name))
            if shown is None:
                base = known.get(stem(eq.name), eq.name)
                shown = base if eq.name == stem(eq.name) else names.free(*numbered(base, "0"))
            for system in ("moved", "inlined"):
                names.arrays.setdefault((system, eq.name), shown)
    for (system, name), shown in list(names.arrays.items()):
        if system == "streamed" and name[0] != "t":
            for other in ("inlined", "moved"):
                names.arrays.setdefault((other, name), shown)


def _streamed_name(
    names: Names,
    x: Eq | Member,
    in_fold: bool,
    known: Mapping[str, str],
    equal: Mapping[Scalar, str],
) -> str:
    if isinstance(x, Eq) and x.kind == "map" and x.name[0] == "t":
        if in_fold:
            return names.free("w", "w0")
        return _equal_name(names, x, equal) or names.free(x.name, f"{x.name}_")
    base = known.get(stem(x.name))
    if base is None:
        return names.free(x.name)
    part = x.name[len(stem(x.name)) + 1 :].replace(".", "_")
    return names.free(*numbered(base, part)) if part else base


def _equal_name(names: Names, x: Eq, equal: Mapping[Scalar, str]) -> str | None:
    """The name of the Map of the equations that has the same value, if there is one."""
    return equal.get(canonical(names.scalar(("streamed", x.name), x.body))) if x.kind == "map" else None


def numbered(base: str, part: str) -> tuple[str, ...]:
    """How part `part` of an array may be called: m0, or m1_0 where the name ends in a digit."""
    return (f"{base}_{part}",) if base[-1:].isdigit() else (f"{base}{part}", f"{base}_{part}")
