"""Each alert fires where it should and nowhere else, and the runbook knows it."""

import re
from pathlib import Path

import pytest
import yaml

from tests.support.pages import blocks
from tests.support.promtool import RUNBOOK, needs_promtool, parses, promtool
from tests.tools.dashboards.figures import PROMETHEUS, ROOT, Rule, known, mistakes, rules

RULES = rules()


each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)


@needs_promtool
@pytest.mark.parametrize("path", sorted((PROMETHEUS / "tests").glob("*.yaml")), ids=lambda path: path.stem)
def test_alerts_fire_and_are_silent(path: Path) -> None:
    promtool("test", "rules", path)


@each_rule
def test_every_alert_has_a_test_that_fires_it_and_one_that_does_not(rule: Rule) -> None:
    tests = yaml.safe_load((PROMETHEUS / "tests" / rule.file).read_text())["tests"]
    fired = {
        bool(expected["exp_alerts"])
        for test in tests
        for expected in test["alert_rule_test"]
        if expected["alertname"] == rule.name
    }
    assert fired == {True, False}


@each_rule
def test_alerts_ask_for_figures_that_there_are(rule: Rule) -> None:
    assert not list(mistakes(rule.query, known()))


@each_rule
def test_every_alert_names_its_entry_in_the_runbook(rule: Rule) -> None:
    assert rule.runbook == f"docs/runbook.md#{rule.name.lower()}"


def test_the_runbook_has_an_entry_for_every_alert_and_no_other() -> None:
    entries = re.findall(r"^### (\w+)$\n\n\*\*(\w+)\.\*\* ", RUNBOOK.read_text(), re.MULTILINE)
    assert len(entries) == RUNBOOK.read_text().count("\n### ")
    assert [(name, kind.lower()) for name, kind in entries] == [
        (rule.name, rule.severity) for rule in sorted(RULES, key=lambda rule: _place(rule.name))
    ]
    assert {name for name, _ in entries} == {rule.name for rule in RULES}


def _place(name: str) -> int:
    return RUNBOOK.read_text().find(f"\n### {name}\n")


def test_every_entry_says_how_to_look_and_what_to_do() -> None:
    for entry in RUNBOOK.read_text().split("\n### ")[1:]:
        name = entry.partition("\n")[0]
        assert "\n\nLook: " in entry, name
        assert "\n\nDo: " in entry, name


def test_the_runbook_asks_for_figures_that_there_are() -> None:
    for block in blocks(RUNBOOK):
        if block.language == "promql":
            assert not list(mistakes(block.text, known())), block.line


@needs_promtool
def test_the_runbooks_queries_parse(tmp_path: Path) -> None:
    parses([block.text for block in blocks(RUNBOOK) if block.language == "promql"], tmp_path)


def test_what_the_runbook_looks_for_in_logs_and_answers_is_said_somewhere() -> None:
    """Names in backticks with an underscore: log events, errors, outcomes, settings, figures."""
    named = set(re.findall(r"`(\w+_\w+)`", RUNBOOK.read_text()))
    source = "\n".join(
        path.read_text()
        for room in ("service", "schemas")
        for path in (ROOT / room).rglob("*")
        if path.suffix in {".py", ".sql"} and "sandbox" not in path.parts
    )
    for name in named - {"max_connections"}:  # PostgreSQL's
        assert re.search(rf"\b{name}\b", source, re.IGNORECASE), name
