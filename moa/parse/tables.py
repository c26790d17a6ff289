"""The LALR parser of the grammar: from the tables that ship beside it as JSON, or built anew where they do not fit.

Building takes a tenth of a second or two, reading the tables a hundredth. They fit if they were made from this text
of the grammar by this version of lark.
"""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from typing import Any

STARTS = ("program", "expression")
SHIFT = 0  # what lark calls an action that leads to a state; the other one reduces by a rule


def parser(postlex: Any) -> Any:
    """The parser of `moa.lark`; `postlex` makes indentation into tokens."""
    grammar = grammar_text()
    found = shipped(grammar)
    return built(grammar, postlex) if found is None else loaded(found, postlex)


def grammar_text() -> str:
    return resources.files("moa.grammar").joinpath("moa.lark").read_text(encoding="utf-8")


def built(grammar: str, postlex: Any) -> Any:
    from lark import Lark

    return Lark(
        grammar,
        parser="lalr",
        lexer="basic",
        start=list(STARTS),
        postlex=postlex,
        propagate_positions=True,
        maybe_placeholders=True,
    )


def tables(grammar: str, postlex: Any) -> str:
    """The text of the file of tables for a grammar: the same in every process."""
    from lark import __version__
    from lark.grammar import Rule
    from lark.lexer import TerminalDef

    data, memo = built(grammar, postlex).memo_serialize([TerminalDef, Rule])
    data["options"] |= {"postlex": None}
    data["parser"]["parser"] = ordered(data["parser"]["parser"])
    found = {"grammar": digest(grammar), "lark": __version__, "data": data, "memo": memo}
    return json.dumps(found, ensure_ascii=True, separators=(",", ":")) + "\n"


def ordered(table: dict[str, Any]) -> dict[str, Any]:
    """The table with its tokens by name, and its states in the order in which shifts lead to them from the starts.

    lark numbers both as sets happen to be ordered.
    """
    rows = {s: sorted((table["tokens"][t], action) for t, action in row.items()) for s, row in table["states"].items()}
    tokens = sorted(table["tokens"].values())
    number = {s: k for k, (_, s) in enumerate(sorted(table["start_states"].items()))}
    reached = list(number)
    for state in reached:
        for _, (kind, target) in rows[state]:
            if kind == SHIFT and target not in number:
                number[target] = len(reached)
                reached.append(target)

    def action(kind: int, target: Any) -> list[Any]:
        return [kind, number[target] if kind == SHIFT else target]

    return {
        "tokens": dict(enumerate(tokens)),
        "states": {number[s]: {tokens.index(t): action(*a) for t, a in rows[s]} for s in reached},
        "start_states": {start: number[s] for start, s in sorted(table["start_states"].items())},
        "end_states": {start: number[s] for start, s in sorted(table["end_states"].items())},
    }


def shipped(grammar: str) -> dict[str, Any] | None:
    """The tables beside the grammar, if they are there and fit."""
    from lark import __version__

    try:
        text = resources.files("moa.grammar").joinpath("moa.json").read_text(encoding="ascii")
        found: dict[str, Any] = json.loads(text)
    except (OSError, ValueError):
        return None
    fits = found.get("grammar") == digest(grammar) and found.get("lark") == __version__
    return found if fits else None


def loaded(found: dict[str, Any], postlex: Any) -> Any:
    """The parser of tables; their keys are numbers again, which JSON made into strings."""
    from lark import Lark

    table = found["data"]["parser"]["parser"]
    table["tokens"] = {int(k): v for k, v in table["tokens"].items()}
    table["states"] = {
        int(k): {int(token): action for token, action in row.items()} for k, row in table["states"].items()
    }
    memo = {int(k): v for k, v in found["memo"].items()}
    load: Any = Lark._load_from_dict
    return load(found["data"], memo, postlex=postlex)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
