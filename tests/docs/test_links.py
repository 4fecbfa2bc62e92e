"""Every link leads somewhere, and every block is a block."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from tests.support.pages import PAGES, ROOT, anchors, blocks, links

LANGUAGES = {"sh", "console", "python", "js", "json", "sql", "mermaid", "go", "java", "ruby", "promql"}
DIAGRAMS = ("sequenceDiagram", "flowchart ", "stateDiagram-v2")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_within_the_repository_lead_to_a_file_and_a_heading(page: Path) -> None:
    for link in links(page):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)}: {link}"
        assert target.is_relative_to(ROOT), f"{name_of(page)}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{name_of(page)}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_are_closed_and_name_their_language(page: Path) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{name_of(page)}:{block.line}"
        if block.language == "mermaid":
            assert block.text.startswith(DIAGRAMS), f"{name_of(page)}:{block.line}"
            assert ";" not in block.text, f"{name_of(page)}:{block.line}: Mermaid ends a statement there"
            assert block.text.count("loop ") == block.text.count("    end\n"), f"{name_of(page)}:{block.line}"
        if block.language == "json":
            msgspec.json.decode(block.text)
        if block.language == "python":
            compile(block.text, f"{name_of(page)}:{block.line}", "exec")


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        for link in links(page):
            target = (page.parent / link.partition("#")[0]).resolve()
            if not link.startswith("http") and target.exists():
                waiting += sorted(target.glob("*.md")) if target.is_dir() else [target]
    lost = [name_of(page) for page in PAGES if page not in reached]
    assert not lost, f"no page links to {lost}"
