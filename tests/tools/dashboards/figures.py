"""Which figures a query asks for, and which there are."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from prometheus_client import REGISTRY, Gauge

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / "infra/prometheus"

_ASKED = re.compile(r"\b(ekabridge_\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPED = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")
# What Prometheus, its operator and its client library bring.
_LABELS_OF_OTHERS = {"namespace", "instance", "job", "le"}


@dataclass(frozen=True)
class Rule:
    """An alert of `infra/prometheus/rules`."""

    name: str
    query: str
    severity: str
    summary: str
    runbook: str
    file: str


def rules() -> list[Rule]:
    """Every alert, in the order of the files."""
    return [
        Rule(
            name=each["alert"],
            query=each["expr"],
            severity=each["labels"]["severity"],
            summary=each["annotations"]["summary"],
            runbook=each["annotations"]["runbook_url"],
            file=path.name,
        )
        for path in sorted((PROMETHEUS / "rules").glob("*.yaml"))
        for group in yaml.safe_load(path.read_text())["groups"]
        for each in group["rules"]
    ]


def known() -> dict[str, set[str]]:
    """The labels of every series that our processes have, by the series' name."""
    for root in ("service.app", "service.worker"):
        importlib.import_module(root)
    found = {}
    # The registry has no public way to ask for the labels of what was never counted.
    for name, collector in REGISTRY._names_to_collectors.items():
        # It keeps a counter's and a histogram's bare names, too, which no series has.
        if name.startswith("ekabridge_") and (isinstance(collector, Gauge) or name != collector._name):  # type: ignore[attr-defined]
            found[name] = set(collector._labelnames)  # type: ignore[attr-defined]
    return found


def mistakes(query: str, figures: dict[str, set[str]]) -> Iterator[str]:
    """What a query asks for that no process of ours has."""
    labels: set[str] = set()
    for name, matchers in _ASKED.findall(query):
        if name not in figures:
            yield f"there is no {name}"
            continue
        labels |= figures[name]
        for label, _, _ in _MATCHER.findall(matchers):
            if label not in figures[name] | _LABELS_OF_OTHERS:
                yield f"{name} has no label {label}"
    for grouped in _GROUPED.findall(query):
        for label in re.split(r"\s*,\s*", grouped.strip()):
            if label and label not in labels | _LABELS_OF_OTHERS:
                yield f"nothing has the label {label}"


def values(query: str) -> Iterator[tuple[str, str]]:
    """Each value of a label that a query asks for by name, with the label."""
    for _, matchers in _ASKED.findall(query):
        for label, kind, value in _MATCHER.findall(matchers):
            if label in _LABELS_OF_OTHERS or label == "route" or "." in value:
                continue
            yield from ((label, each) for each in (value.split("|") if "~" in kind else [value]))
