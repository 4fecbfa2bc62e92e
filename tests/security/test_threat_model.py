"""The threat model names tests that exist, and every door has its row."""

from __future__ import annotations

import ast
import re

import pytest

from tests.security.scan import ROOT
from tests.support.routes import routes

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("|") and line.count("|") == 5]
DOORS = ROWS[2:]
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


def defined_in(path: str) -> set[str]:
    """The names of a file's tests."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, kinds) and node.name.startswith("test_")}


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_each_test_that_is_named_exists(path: str, name: str) -> None:
    assert name in defined_in(path)


def test_each_row_says_what_stops_him_and_which_test_shows_it() -> None:
    assert len(DOORS) > 20
    for row in DOORS:
        _, tried, stops, shown = (cell.strip() for cell in row.strip("|").split("|"))
        assert tried, row
        assert stops, row
        assert re.fullmatch(r"(`tests/[\w/]+\.py::\w+` ?)+", shown), row


def test_each_family_of_addresses_is_spoken_of() -> None:
    families = {"/" + path.split("/")[1] for _, path in routes()}
    assert {family for family in families if f"`{family}" not in PAGE} == set()
