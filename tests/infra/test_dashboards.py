"""The dashboards are what their description says, and ask for figures that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.support.promtool import needs_promtool, parses
from tests.tools.dashboards.boards import BOARDS, FOLDER, written
from tests.tools.dashboards.figures import ROOT, known, mistakes
from tests.tools.dashboards.grafana import Board

each_board = pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)


def concrete(query: str) -> str:
    """A query as Prometheus sees it: Grafana puts in its variables."""
    return query.replace("$__rate_interval", "1m").replace("$namespace", ".*")


@each_board
def test_the_json_is_what_the_description_makes(board: Board) -> None:
    assert (FOLDER / f"{board.name}.json").read_text() == written(board), "run `make dashboards`"


def test_there_are_no_other_dashboards() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{board.name}.json" for board in BOARDS}


@each_board
def test_panels_ask_for_figures_that_there_are(board: Board) -> None:
    for panel in board.panels():
        for query in panel.expressions().values():
            assert not list(mistakes(query, known())), panel.title


@each_board
def test_every_panel_chooses_the_namespace_and_says_what_it_shows(board: Board) -> None:
    for panel in board.panels():
        assert panel.about.endswith("."), panel.title
        for query in panel.expressions().values():
            asked = re.findall(r"(?:ekabridge_|process_)\w+(\{[^}]*\})?", query)
            assert asked, panel.title
            assert all('namespace=~"$namespace"' in matchers for matchers in asked), panel.title


@each_board
def test_panels_stand_side_by_side(board: Board) -> None:
    taken: set[tuple[int, int]] = set()
    panels = json.loads(written(board))["panels"]
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


@needs_promtool
@each_board
def test_every_query_parses(board: Board, tmp_path: Path) -> None:
    parses([concrete(query) for panel in board.panels() for query in panel.expressions().values()], tmp_path)


@each_board
def test_the_page_shows_every_dashboard(board: Board) -> None:
    page = (ROOT / "docs/dashboards.md").read_text()
    assert f"pictures/{board.name}.png" in page
    assert (ROOT / f"docs/pictures/{board.name}.png").exists()
