"""Every path that the maps of the code name exists: a reader follows them and must not find nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.pages import ROOT

# The pages that send a reader into the code. `README.md` links files, which test_links.py checks.
MAPS = [ROOT / "docs/architecture.md", ROOT / "docs/glossary.md"]
_TOP_FOLDERS = "service|schemas|tests|infra|docs"
_PATH = re.compile(rf"`((?:{_TOP_FOLDERS})/[^`\s]*|[\w.-]+\.(?:py|md|toml|sql))`")


def paths_of(page: Path) -> list[str]:
    """Return every path of the repository that a page shows as code."""
    return _PATH.findall(page.read_text())


@pytest.mark.parametrize("page", MAPS, ids=lambda page: page.stem)
def test_every_path_exists(page: Path) -> None:
    named = paths_of(page)
    assert len(named) > 40, "the page's paths were not recognised"
    missing = sorted({path for path in named if not (ROOT / path).exists()})
    assert not missing


@pytest.mark.parametrize("page", MAPS, ids=lambda page: page.stem)
def test_a_folder_ends_with_a_slash_and_a_file_does_not(page: Path) -> None:
    wrong = [path for path in paths_of(page) if path.endswith("/") != (ROOT / path).is_dir()]
    assert not wrong


def test_the_rooms_of_the_table_are_all_rooms_of_the_service() -> None:
    """A new folder of `service/` without a row in the table of rooms is a room that no reader is told of."""
    rooms = (ROOT / "docs/architecture.md").read_text().split("\n## ")[1]
    named = {path.split("/")[1] for path in _PATH.findall(rooms) if path.startswith("service/")}
    folders = {path.name for path in (ROOT / "service").iterdir() if any(path.glob("*.py"))}
    assert folders <= named


def test_the_table_of_changes_has_fifteen_rows_that_name_a_path() -> None:
    section = (ROOT / "docs/architecture.md").read_text().split("## To change X", 1)[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 15
    for row in rows:
        cells = row.strip("|").split(" | ")
        assert len(cells) == 3, row
        assert _PATH.search(cells[1]), f"no path to go to: {row}"


def test_no_test_imports_another() -> None:
    imported = re.compile(r"^(?:from|import) tests\.[\w.]*\btest_\w+", re.MULTILINE)
    found = {
        str(path.relative_to(ROOT)): imported.findall(path.read_text(encoding="utf-8"))
        for path in (ROOT / "tests").rglob("*.py")
    }
    assert not {path: lines for path, lines in found.items() if lines}
