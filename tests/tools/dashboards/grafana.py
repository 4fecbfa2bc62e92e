"""Grafana's JSON model of a dashboard, made of panels that are told in a few words.

In a query `NS` stands for the namespaces that are chosen, `$window` for the time that a rate is taken over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_SCHEMA_VERSION = 42  # of Grafana 12; newer ones raise it by themselves
_COLUMNS = 24
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    """One picture: its queries by their legends, in which `{{label}}` stands for a label's value."""

    title: str
    about: str
    unit: str
    queries: dict[str, str]
    width: int = 12
    is_stat: bool = False
    is_stacked: bool = False
    # Of a stat: from which value on it is red; None has no colour.
    red_from: float | None = None
    # The axis does not end below it.
    top: float | None = None

    def expressions(self) -> dict[str, str]:
        """The queries as Grafana sends them, but for its variables."""
        return {
            legend: query.replace("NS", 'namespace=~"$namespace"').replace("$window", "$__rate_interval")
            for legend, query in self.queries.items()
        }


@dataclass(frozen=True)
class Board:
    """A dashboard: rows of panels."""

    name: str
    title: str
    about: str
    rows: dict[str, list[Panel]]

    def panels(self) -> list[Panel]:
        """All panels, in order."""
        return [panel for row in self.rows.values() for panel in row]


def dashboard(board: Board) -> dict[str, Any]:
    """The dashboard in Grafana's JSON model."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in board.rows.items():
        panels.append(_row(len(panels) + 1, title, top))
        top += 1
        left = height = 0
        for panel in row:
            if left + panel.width > _COLUMNS:
                left, top = 0, top + height
            height = 4 if panel.is_stat else 8
            place = {"h": height, "w": panel.width, "x": left, "y": top}
            panels.append(_panel(len(panels) + 1, panel, place))
            left += panel.width
        top += height
    return {
        "uid": f"ekabridge-{board.name}",
        "title": board.title,
        "description": board.about,
        "tags": ["ekabridge"],
        "schemaVersion": _SCHEMA_VERSION,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "links": [_link()],
        "templating": {"list": _variables()},
        "panels": panels,
    }


def _link() -> dict[str, Any]:
    return {
        "type": "dashboards",
        "title": "ekabridge",
        "tags": ["ekabridge"],
        "asDropdown": False,
        "keepTime": True,
        "includeVars": True,
    }


def _variables() -> list[dict[str, Any]]:
    # Prometheus on one host sets no namespace: `All` matches those series, too.
    return [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        {
            "name": "namespace",
            "label": "Namespace",
            "type": "query",
            "datasource": _DATASOURCE,
            "query": {"query": "label_values(ekabridge_build_info, namespace)", "refId": "namespace"},
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        },
    ]


def _row(number: int, title: str, top: int) -> dict[str, Any]:
    place = {"h": 1, "w": _COLUMNS, "x": 0, "y": top}
    return {"id": number, "type": "row", "title": title, "gridPos": place, "collapsed": False, "panels": []}


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + index), "datasource": _DATASOURCE, "expr": query, "legendFormat": legend}
        | ({"instant": True} if panel.is_stat else {"range": True})
        for index, (legend, query) in enumerate(panel.expressions().items())
    ]
    return {
        "id": number,
        "type": "stat" if panel.is_stat else "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": _DATASOURCE,
        "gridPos": place,
        "targets": targets,
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "options": _stat_options(panel) if panel.is_stat else _series_options(),
    }


def _field(panel: Panel) -> dict[str, Any]:
    if panel.is_stat:
        steps = [{"color": "green" if panel.red_from is not None else "text", "value": None}]
        if panel.red_from is not None:
            steps.append({"color": "red", "value": panel.red_from})
        thresholds = {"mode": "absolute", "steps": steps}
        return {"unit": panel.unit, "color": {"mode": "thresholds"}, "thresholds": thresholds}
    top = {} if panel.top is None else {"axisSoftMax": panel.top}
    drawn = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 30 if panel.is_stacked else 5,
        "showPoints": "never",
        "stacking": {"mode": "normal" if panel.is_stacked else "none", "group": "A"},
    }
    return {"unit": panel.unit, "min": 0, "custom": drawn | top}


def _stat_options(panel: Panel) -> dict[str, Any]:
    return {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "none" if panel.red_from is None else "background",
        "graphMode": "none",
        "textMode": "value_and_name"
        if len(panel.queries) > 1 or "{{" in next(iter(panel.queries))
        else "value",
    }


def _series_options() -> dict[str, Any]:
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
