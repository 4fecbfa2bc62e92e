"""The pages of the documentation, taken apart: fenced blocks, links, anchors, tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "infra/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]

_FENCE = re.compile(r"^```(\S*)\s*$")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_ANCHOR = re.compile(r'<a id="([^"]+)"></a>')


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line on which it begins."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """Fenced blocks in order; AssertionError for a fence that is never closed or has text before it."""
    found, lines, opened, language = [], [], 0, ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if opened and line == "```":
            found.append(Block(language, "\n".join(lines) + "\n", opened))
            opened = 0
        elif opened:
            assert fence is None, f"{page.name}:{number}: a fence within the block of line {opened}"
            lines.append(line)
        elif fence:
            assert fence[1], f"{page.name}:{number}: a block without a language"
            lines, opened, language = [], number, fence[1]
        else:
            assert "```" not in line, f"{page.name}:{number}: a fence in the middle of a line"
    assert not opened, f"{page.name}:{opened}: the block is never closed"
    return found


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def links(page: Path) -> list[str]:
    """Every link's target."""
    return _LINK.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """Every place of the page that a link can name: its headings, as GitHub names them, and its anchors."""
    headings = (
        re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in _HEADING.findall(prose(page))
    )
    return {*headings, *_ANCHOR.findall(page.read_text())}


def rows(page: Path, first: str) -> list[list[str]]:
    """The rows of every table whose head begins with `first`, without anchors and outer backticks."""
    found, inside = [], False
    for line in page.read_text().splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cells = [_ANCHOR.sub("", cell).strip() for cell in line.strip("|").split("|")]
        if cells[0] == first:
            inside = True
        elif inside and not set(cells[0]) <= set("-:"):
            found.append(
                [cell.removeprefix("`").removesuffix("`") if cell.count("`") == 2 else cell for cell in cells]
            )
    return found
