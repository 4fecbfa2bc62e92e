"""The tables of docs/observability.md are true."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator

from prometheus_client import REGISTRY

import service.app
import service.worker
from tests.support.pages import ROOT, rows

PAGE = ROOT / "docs/observability.md"
_SUMMED = {"livesum": "sum", "livemax": "largest", "livemostrecent": "newest", "all": ""}


def our_metrics() -> Iterator[tuple[str, list[str]]]:
    """Every metric of the service and of the worker: its name, and the cells of its row."""
    assert service.app
    assert service.worker
    for metric in REGISTRY._collector_to_names:
        name = getattr(metric, "_name", "")
        if name.startswith("ekabridge_"):
            kind = metric._type
            mode = _SUMMED[metric._multiprocess_mode] if kind == "gauge" else "sum"
            labels = ", ".join(metric._labelnames)
            yield f"{name}_total" if kind == "counter" else name, [labels, kind, mode]


def test_every_metric_stands_in_the_table_as_it_is() -> None:
    listed = {row[0]: [row[1].replace("`", ""), row[2], row[4]] for row in rows(PAGE, "metric")}
    assert listed == dict(our_metrics())


def test_a_metric_s_name_says_its_unit_and_nobody_s_id() -> None:
    for name, (labels, kind, _) in our_metrics():
        assert kind != "histogram" or name.endswith("_seconds"), name
        assert "_id" not in labels, name


def our_events() -> dict[str, tuple[set[str], set[str]]]:
    """Every event of the log in the code: its levels and its fields."""
    found: dict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    levels = {"debug", "info", "warning", "error"}
    for path in (ROOT / "service").rglob("*.py"):
        if "sandbox" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if ast.unparse(node.func.value) == "log" and node.func.attr in levels:
                event = node.args[0]
                assert isinstance(event, ast.Constant), f"{path}:{node.lineno}: an event without a fixed name"
                found[event.value][0].add(node.func.attr)
                found[event.value][1].update(keyword.arg for keyword in node.keywords if keyword.arg)
    return found


def test_every_event_of_the_log_stands_in_the_table_with_its_levels() -> None:
    listed = {row[0]: set(row[1].split(", ")) for row in rows(PAGE, "`event`")}
    assert listed == {event: levels for event, (levels, _) in our_events().items()}
    assert list(listed) == sorted(listed)


def test_the_fields_of_the_wide_events_are_those_that_are_written() -> None:
    events = our_events()
    listed = {row[0]: row[1].replace("`", "").split(", ") for row in rows(PAGE, "event")}
    assert set(listed) == {"request", "webhook_received", "fetch", "delivery_attempted"}
    for event, fields in listed.items():
        assert set(fields) == events[event][1], event


def made_spans() -> Iterator[ast.Call]:
    """Every call in the code that makes a span or tells something of one."""
    for path in (ROOT / "service").rglob("*.py"):
        if path.name != "tracing.py":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in {
                    "span",
                    "span_of",
                    "note",
                    "update_name",
                }:
                    yield node


def written(name: ast.expr) -> str:
    """A span's name as the table writes it: what varies in angle brackets."""
    if isinstance(name, ast.JoinedStr):
        return "".join(
            f"<{ast.unparse(part.value).rpartition('.')[2]}>"
            if isinstance(part, ast.FormattedValue)
            else ast.literal_eval(part)
            for part in name.values
        )
    return str(ast.literal_eval(name))


def test_every_span_stands_in_the_table() -> None:
    found = {}
    for call in made_spans():
        kind = ast.unparse(call.func).rpartition(".")[2]
        if kind == "update_name":
            found[written(call.args[0])] = "server"
        elif kind in {"span", "span_of"} and not ast.unparse(call).startswith(("span_of(parent, scope",)):
            of_trace = kind == "span_of"
            name = written(call.args[of_trace])
            found["eka <operation>" if name == "eka stream" else name] = ast.literal_eval(
                call.args[of_trace + 1]
            )
    assert {row[0]: row[1] for row in rows(PAGE, "span")} == found


def test_every_attribute_of_ours_stands_in_the_table() -> None:
    found = set()
    for path in (ROOT / "service").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Dict):
                found |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
    found |= {ast.literal_eval(call.args[0]) for call in made_spans() if ast.unparse(call.func) == "note"}
    listed = [row[0] for row in rows(PAGE, "attribute")]
    assert listed == sorted(each for each in found if str(each).startswith("ekabridge."))
