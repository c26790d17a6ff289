"""The tables of the parser that ship as JSON: they are those of the grammar, and fit or are not used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Golden

from moa.parse import parse, tables
from moa.parse.tree import _lark

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = "def f(X[n, d], w: int):\n    return sum(where(X > w, X.T @ X, -inf), axis=0)[1:, None]\n"


def test_the_file_holds_the_tables_of_the_grammar(request: pytest.FixtureRequest) -> None:
    """After a change of the grammar, or with another version of lark: pytest --accept tests/test_tables.py."""
    shipped = Golden(ROOT / "grammar" / "moa.json", bool(request.config.getoption("--accept")))
    assert tables.tables(tables.grammar_text(), _lark()[1]).removesuffix("\n") == shipped
    assert tables.shipped(tables.grammar_text()) is not None


def test_tables_do_not_follow_the_seed_of_hashes() -> None:
    code = "from moa.parse import tables as t; print(t.digest(t.tables(t.grammar_text(), None)))"
    env = {**os.environ, "PYTHONHASHSEED": "1"}
    told = [
        subprocess.run([sys.executable, "-c", code], env=e, capture_output=True, text=True, check=True).stdout
        for e in (env, {**env, "PYTHONHASHSEED": "2"})
    ]
    assert told[0] == told[1]


def test_a_parser_from_tables_is_the_one_from_the_grammar() -> None:
    indenter = _lark()[1]
    found = tables.shipped(tables.grammar_text())
    assert found is not None
    indenter.joined = False
    trees = [p.parse(PROGRAM, start="program") for p in (tables.loaded(found, indenter), _built(indenter))]
    assert trees[0] == trees[1]


def _built(indenter: Any) -> Any:
    return tables.built(tables.grammar_text(), indenter)


@pytest.mark.parametrize("change", [{"grammar": "0"}, {"lark": "0.1"}, None])
def test_tables_that_do_not_fit_are_not_used(
    change: dict[str, str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "grammar" / "moa.json").read_text(encoding="ascii")
    (tmp_path / "moa.json").write_text("{" if change is None else json.dumps({**json.loads(text), **change}))
    monkeypatch.setattr(tables.resources, "files", lambda package: tmp_path)
    grammar = (ROOT / "grammar" / "moa.lark").read_text(encoding="utf-8")
    assert tables.shipped(grammar) is None


def test_parsing_builds_no_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "built", lambda *_: pytest.fail("the tables were built"))
    _lark.cache_clear()
    assert parse(PROGRAM).functions[0].name.name == "f"
