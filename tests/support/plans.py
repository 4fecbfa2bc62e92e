"""Plans of statements, read as trees."""

from typing import Any


def walk(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for inner in plan.get("Plans", []) for node in walk(inner))]
