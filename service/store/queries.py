"""Loads the named queries of sql/*.sql: `-- name: x`, one line of purpose, then the statement."""

from functools import cache
from importlib.resources import files

_MARK = "-- name: "


@cache
def queries() -> dict[str, str]:
    """Return every statement by its full name, `<file>.<name>`."""
    found: dict[str, str] = {}
    for entry in sorted(files("service.store").joinpath("sql").iterdir(), key=lambda item: item.name):
        if not entry.name.endswith(".sql"):
            continue
        file = entry.name.removesuffix(".sql")
        for part in entry.read_text(encoding="utf-8").split(_MARK)[1:]:
            name, _, statement = part.partition("\n")
            found[f"{file}.{name.strip()}"] = statement.strip()
    return found


def sql(name: str) -> str:
    """Return the statement of that name; a wrong name is a KeyError at import time."""
    return queries()[name]
