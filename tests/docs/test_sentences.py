"""Docstrings and comments use the field's words, and their sentences name a subject (docs/glossary.md)."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pages import ROOT

FILES = sorted(path for room in ("service", "schemas") for path in (ROOT / room).rglob("*.py"))
# A sentence that opens so names neither who acts nor what it acts on.
OPENINGS = re.compile(r"(What|Who|Whom|Whose|Whoever|Whatever|Of|Which|Whichever)\b")
METAPHORS = re.compile(
    r"\b(doors?|desks?|purses?|farewells?|passages?|leash|pokes?|lanes?|tongues?|owed|owes)\b", re.IGNORECASE
)


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Yields each docstring and each block of comments with its line."""
    for node in ast.walk(ast.parse(source)):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else []:
            if (
                isinstance(statement, ast.Expr)
                and isinstance(statement.value, ast.Constant)
                and isinstance(statement.value.value, str)
            ):
                yield statement.lineno, statement.value.value
    block, begin, last = "", 0, -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        text = token.string.lstrip("# ")
        if token.start[0] == last + 1:
            block = f"{block} {text}"
        else:
            if block:
                yield begin, block
            block, begin = text, token.start[0]
        last = token.start[0]
    if block:
        yield begin, block


def faults(text: str) -> list[str]:
    """The sentences of a text that open without a subject, and its metaphors."""
    sentences = re.split(r"(?<=[.:;!?])\s+|\n\s*\n", text)
    return [each.strip()[:60] for each in sentences if OPENINGS.match(each.strip())] + METAPHORS.findall(text)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sentences_name_their_subject_in_the_fields_words(path: Path) -> None:
    found = {line: bad for line, text in texts(path.read_text(encoding="utf-8")) if (bad := faults(text))}
    assert not found


@pytest.mark.parametrize(
    "text",
    ["Who needs one waits for it.", "A lease. What it does is plain.", "The door of audio.", "Is owed."],
)
def test_a_riddle_is_found(text: str) -> None:
    assert faults(text)
