"""The laws of a derivation: each with its statement, what it did here, why it may, and what it does to numbers."""

from __future__ import annotations

import re

from moa.explain.names import Names, Scope
from moa.explain.text import INDENT, WIDTH, equation, wrapped
from moa.laws.table import LAWS
from moa.normal import Eq, Fold
from moa.psi import PSI
from moa.rewrite import Contract, Step

CONTRACTS: dict[Contract, str] = {
    "exact": "the same number, bit for bit where the operations are exact",
    "reassociates": "equal over the reals; terms are added in another order and rounded accordingly",
    "rescales": "equal over the reals; partial results are multiplied by powers that are at most 1",
    "approximates": "within the bound that is stated",
    "assumes finite": "equal where the inputs behind the guard are finite or the tested infinity",
    "cancels": "equal over the reals; digits may cancel",
}


def laws(names: Names) -> list[str]:
    """Each law that fired: its statement, what it did here, why it may, what it does to numbers."""
    steps = names.form.steps
    if not steps:
        return ["none was needed"]
    lines: list[str] = []
    short = _Abbreviations(names)
    for law in dict.fromkeys(s.law for s in steps):
        own = [s for s in steps if s.law == law]
        entry = LAWS.laws.get(law)
        counts = list(dict.fromkeys(s.passes for s in own if s.passes and s.passes[0] != s.passes[1]))
        passes = "".join(f", passes {a} -> {b}" for a, b in counts)
        lines.append(f"{law}  ({own[0].contract}{passes})")
        if entry is not None:
            lines += wrapped(f"  {entry.statement}", 4, WIDTH - INDENT)
        seen: set[str] = set()
        reasons: dict[str, None] = {}
        whole = [names.array("inlined", s.target) for s in own if "\n" in s.before]
        if whole:
            lines += wrapped(f"    {', '.join(whole)}: see below", 8, WIDTH - INDENT)
        for s in own:
            if "\n" in s.before:
                continue
            scope = _scope(names, s.target)
            before, after = short.pair(*_instance(names, scope, s))
            text = f"{before} -> {after}"
            if text not in seen:
                seen.add(text)
                lines += wrapped(f"    {before}", 8, WIDTH - INDENT)
                lines += wrapped(f"      -> {after}", 9, WIDTH - INDENT)
            said = (_condition(names, scope, s, *c) for c in s.conditions)
            reasons |= dict.fromkeys(short.pair("", x)[1] for x in said if not re.match(r"\d+ is free of ", x))
        for k, reason in enumerate(reasons):
            lines += wrapped(f"    {'because  ' if not k else '         '}{reason}", 15, WIDTH - INDENT)
        for s in own:
            short.learn(_scope(names, s.target), s)
    return lines


def refused(names: Names) -> list[str]:
    """What was tried and may not be done, with the reason."""
    lines: list[str] = []
    for law, target, reason in dict.fromkeys(names.derivation.trace.refused):
        scope = _scope(names, target)
        text = f"{law}, for {names.array(scope[0], target)}: {names.text(scope, reason)}"
        lines += wrapped(text, 2, WIDTH - INDENT)
    return list(dict.fromkeys(lines))


def contract(names: Names) -> list[str]:
    """What the whole derivation does to numbers: the contracts of the laws that fired."""
    found: dict[Contract, list[str]] = {}
    if any(isinstance(e, Eq) and e.op in ("add", "mul") for e in names.derivation.equations.equations):
        found["reassociates"] = ["tiling"]
    for rule in names.derivation.trace.counts:
        law = PSI.laws.get(rule)
        if law is not None and law.contract != "exact":
            found.setdefault(law.contract, []).append(rule)
    for s in names.form.steps:
        if s.contract != "exact" and s.law not in found.setdefault(s.contract, []):
            found[s.contract].append(s.law)
    if not found:
        return [f"exact: {CONTRACTS['exact']}"]
    out = []
    for c, fired in found.items():
        out += wrapped(f"{c} ({', '.join(fired)}): {CONTRACTS[c]}", 2, WIDTH - INDENT)
    return out


def _scope(names: Names, target: str) -> Scope:
    """Whose index variables the texts about a target are written in."""
    return ("moved", target) if any(n[:2] == ("moved", target) for n in names.axes.parent) else ("inlined", target)


def _instance(names: Names, scope: Scope, s: Step) -> tuple[str, str]:
    where = scope if LAWS.laws.get(s.law) is None or s.passes is None else _own(names, scope, s)
    own = _references(names, s.target)
    head = re.match(r"[^ =]+\[[^]]*\](?= = )", s.before)
    after = s.after if head is None else s.after.replace(f"; {s.target} = ", f"; {head.group()} = ")
    return _plain(names.text(where, s.before, own)), _plain(names.text(where, after, own))


def _plain(text: str) -> str:
    """Reduced axes without their extents, which the normal form lists: `sum_j`, `sum_{j: i >= j}`."""
    text = re.sub(r"_\{(\w+) < [^,{}]+\}", r"_\1", text)
    return re.sub(r"_\{(\w+) < [^,{}]+, ([^{}]+)\}", r"_{\1: \2}", text)


def _own(names: Names, scope: Scope, s: Step) -> Scope:
    """A step on a whole equation is written in its own variables, one on a body in those of its group."""
    return ("inlined", s.target) if re.match(rf"{re.escape(s.target)}\b(\[[^]]*\])? = ", s.before) else scope


def _condition(names: Names, scope: Scope, s: Step, what: str, why: str) -> str:
    where = _own(names, scope, s)
    own = _references(names, s.target)
    what, why = names.text(where, what, own), names.text(where, why, own)
    return f"the move {what} {why}" if what == "C is" else f"{what} ({why})"


def _references(names: Names, target: str) -> dict[str, str]:
    """For a reduction of a Fold, what its references `r0'` are called on the page."""
    for e in names.derivation.streamed.equations:
        if isinstance(e, Fold):
            arrays = e.references()
            for m in e.members:
                if m.name == target or names.array("streamed", m.name) == names.array("moved", target):
                    out = {f"r{k}'": names.array("streamed", arrays[r]) + "'" for k, r in enumerate(m.refs)}
                    return out
    return {}


class _Abbreviations:
    """Names for what stands on both sides of a step, or was brought in by it, so that the eye finds what changed."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.known: dict[str, str] = {}  # name with its index -> text
        for e in names.derivation.equations.equations:
            if isinstance(e, Eq) and e.name not in names.derivation.equations.outputs:
                left, _, right = equation(names, ("equations", e.name), e).partition(" = ")
                self.known[left] = right if e.kind == "map" and e.body.op != "load" else ""
        given = {left.partition("[")[0] for left in self.known}
        for e in names.derivation.streamed.equations:
            if isinstance(e, Eq) and e.kind == "map" and names.array("streamed", e.name) in given:
                left, _, right = equation(names, ("streamed", e.name), e).partition(" = ")
                self.known.setdefault(left, right)

    def learn(self, scope: Scope, s: Step) -> None:
        """What a step says a reduction is now: a later text has that in its place."""
        value = s.after.rpartition(f"; {s.target} = ")[2]
        if value != s.after:
            own = _own(self.names, scope, s)
            shown = self.names.array("inlined", s.target)
            for left in self.known:
                if left.partition("[")[0] == shown:
                    self.known[left] = self.names.text(own, value)

    def pair(self, before: str, after: str) -> tuple[str, str]:
        for array in dict.fromkeys(name.partition("[")[0] for name in self.known):
            new_before, n = self.named(before, array)
            new_after, k = self.named(after, array)
            if n in (0, k):
                before, after = new_before, new_after
        return before, after

    def named(self, text: str, array: str) -> tuple[str, int]:
        """The text with an array by its name, at whatever index, and how often."""
        count = 0
        for name, value in self.known.items():
            if value and name.partition("[")[0] == array:
                text, n = put_in(text, value, name)
                count += n
        return text, count


def put_in(text: str, part: str, name: str) -> tuple[str, int]:
    """(the text with `name` for an expression in it, how often), where precedence allows to read it as one operand."""
    loose = _loosest(part)
    out, at, count = "", 0, 0
    while (k := text.find(part, at)) >= 0:
        left, right = text[:k], text[k + len(part) :]
        if _bounds(left, right, loose):
            out, count = out + text[at:k] + name, count + 1
        else:
            out += text[at : k + len(part)]
        at = k + len(part)
    return re.sub(r"(?<!\w)\((\w+\[[^\[\]()]*\])\)", r"\1", out + text[at:]), count


def _loosest(part: str) -> int:
    """The loosest operator outside brackets: 0 none, 1 a product, 2 a sum or anything else."""
    depth, level = 0, 0
    for k, c in enumerate(part):
        depth += (c in "([{") - (c in ")]}")
        if not depth and c == " " and k + 2 < len(part) and part[k + 2] == " ":
            level = max(level, 1 if part[k + 1] in "*/" else 2)
    return 2 if part.startswith("-") else level


def _bounds(left: str, right: str, loose: int) -> bool:
    if re.search(r"[\w.']$", left) or re.match(r"[\w.'\[(]", right):
        return False
    if loose == 0:
        return True
    start = not left or left.endswith(("(", ", ", " = ", "; ")) or re.search(r"(_\w+|_\{[^}]*\}) $", left) is not None
    stop = not right or right.startswith((")", ",", ";", " == ", " is "))
    if loose == 2:
        return (start or left.endswith(" + ")) and stop
    return (start or left.endswith((" + ", " - "))) and (stop or right.startswith((" + ", " - ", " * ", " / ")))
