"""Each fact about the vendor has one place in docs/vendor.md, and what relies on it leads there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pages import PAGES, ROOT, anchors, links

VENDOR, LIBRARIES = ROOT / "docs/vendor.md", ROOT / "docs/libraries.md"
CODE = ("service", "schemas", "tests")
SUFFIXES = frozenset({".py", ".sql", ".toml", ".yaml", ".sh"})
# How a fact is known; several where it is known in more ways than one.
MARKS = frozenset({"published", "seen", "source", "client"})

# Without an anchor the second group is empty, which no page has.
_CITED = re.compile(r"docs/(vendor|libraries)\.md(?:#([\w-]+))?")
_FACT = re.compile(r'^- <a id="([a-z0-9-]+)"></a>\*\*', re.MULTILINE)
_KNOWN = re.compile(r"\(([a-z, ]+)\)$")
_ANCHOR = re.compile(r'<a id="([^"]+)"></a>')
# Notes outside the repository, which nobody who reads the code can look up. `l{2}` keeps the line from
# matching itself.
_PAPERS = re.compile(
    r"facts(-2)?\.md|\bfacts-2\b|\(facts[,;)]|\bseeds? 0\d\d|\(seeds\)|\bpitfal{2}s\b|\(recordings[ )]"
)


def sources() -> Iterator[Path]:
    """Yield every file of the code that may cite a fact."""
    for folder in CODE:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SUFFIXES and path.is_file():
                yield path


def citations() -> Iterator[tuple[str, str, str]]:
    """Yield (file, page, anchor) of every citation in code."""
    for path in sources():
        if path != Path(__file__):
            for page, anchor in _CITED.findall(path.read_text()):
                yield str(path.relative_to(ROOT)), page, anchor


def facts(page: Path) -> list[tuple[str, str]]:
    """Return (anchor, text) of every fact of a page."""
    found = []
    for item in re.split(r"^(?=- <a id=)", page.read_text(), flags=re.MULTILINE)[1:]:
        text = re.split(r"\n\n", item, maxsplit=1)[0]
        head = _FACT.match(text)
        assert head, f"a fact without a plain anchor and a heading: {text[:80]}"
        found.append((head[1], " ".join(text.split())))
    return found


def test_every_citation_leads_to_an_anchor() -> None:
    there = {"vendor": anchors(VENDOR), "libraries": anchors(LIBRARIES)}
    cited = list(citations())
    assert len(cited) > len(facts(VENDOR)) / 2, "the citations were not found"
    dangling = [
        f"{file}: docs/{page}.md#{anchor}" for file, page, anchor in cited if anchor not in there[page]
    ]
    assert not dangling


@pytest.mark.parametrize("page", [VENDOR, LIBRARIES], ids=lambda page: page.stem)
def test_every_anchor_is_one_fact_that_something_relies_on(page: Path) -> None:
    made = _ANCHOR.findall(page.read_text())
    assert len(made) == len(set(made)), "an anchor stands twice"
    cited = {anchor for _, name, anchor in citations() if name == page.stem}
    for other in PAGES:
        for link in links(other):
            path, _, anchor = link.partition("#")
            # A page's links within itself are no use of the fact.
            if other != page and path and (other.parent / path).resolve() == page:
                cited.add(anchor)
    unused = set(made) - cited
    assert not unused


def test_every_fact_about_the_vendor_says_how_it_is_known() -> None:
    found = facts(VENDOR)
    assert {anchor for anchor, _ in found} == set(_ANCHOR.findall(VENDOR.read_text())) - {"differences"}
    for anchor, text in found:
        known = _KNOWN.search(text)
        assert known, f"{anchor} does not end with how it is known"
        assert set(known[1].split(", ")) <= MARKS, anchor


def test_nothing_cites_papers_that_are_not_in_the_repository() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sources()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if _PAPERS.search(line)
    ]
    assert not found
