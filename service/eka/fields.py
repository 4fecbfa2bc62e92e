"""Reads fields of EkaScribe's answers whose types may differ from its documentation.

A field of an unexpected type is converted if its meaning is clear, else ignored. Either way it is counted and
logged by its name, never by its value; an alert names the new field or word to the operator.
"""

import re
from datetime import UTC, datetime
from typing import Any

import structlog
from prometheus_client import Counter

log = structlog.get_logger()

UNKNOWN = Counter(
    "ekabridge_vendor_unknown",
    "Fields of EkaScribe's answers with a type, or statuses with a word, that ekabridge does not know",
    ["where"],
)
# A status is one of few words; a longer text, or one with capitals, might be a person's name and is not
# logged.
_WORD = re.compile(r"[a-z]{1,24}([_-][a-z]{1,24}){0,4}")
_MAX_ID_CHARACTERS = 200
_MILLISECONDS_FROM = 1e11


def note_unknown(where: str, word: object) -> None:
    """Count a field or status that is new; `word` is logged only if it cannot be patient data."""
    UNKNOWN.labels(where).inc()
    is_plain = isinstance(word, str) and _WORD.fullmatch(word) is not None
    log.warning("vendor_word_unknown", where=where, word=word if is_plain else None, type=type(word).__name__)


class Fields:
    """Reads one JSON object of an answer; `odd` collects the names of fields with an unexpected type."""

    def __init__(self, values: dict[str, Any], where: str, odd: list[str]) -> None:
        self.values = values
        self._where = where
        self.odd = odd

    def text(self, name: str) -> str | None:
        """Return a field's text; a number becomes its digits, a list of texts becomes lines."""
        value = self.values.get(name)
        if value is None or isinstance(value, str):
            return value
        self._note(name, value)
        if isinstance(value, bool):
            return None
        if isinstance(value, (int, float)):
            return str(value)
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            return "\n".join(value)
        return None

    def identifier(self, name: str) -> str | None:
        """Return an id; one that is too long for an index is cut, and then cannot be used in a call."""
        value = self.text(name)
        if value is not None and len(value) > _MAX_ID_CHARACTERS:
            self._note(name, value)
            return value[:_MAX_ID_CHARACTERS]
        return value

    def objects(self, name: str) -> list[dict[str, Any]]:
        """Return the objects in a list; a single object counts as a list of one."""
        value = self.values.get(name)
        if value is None:
            return []
        if isinstance(value, dict):
            return [value]
        if not isinstance(value, list):
            self._note(name, value)
            return []
        found = [each for each in value if isinstance(each, dict)]
        if len(found) < len(value):
            self._note(name, next(each for each in value if not isinstance(each, dict)))
        return found

    def timestamp(self, name: str) -> datetime | None:
        """Return a time, given as ISO 8601 or as seconds or milliseconds since 1970."""
        return read_time(self.values.get(name))

    def note(self, name: str, value: object) -> None:
        """Count and collect a field that the caller read itself."""
        self._note(name, value)

    def _note(self, name: str, value: object) -> None:
        where = f"{self._where}.{name}"
        if where in self.odd:
            return  # once per answer, because a list of 8 MiB can hold millions of odd entries
        note_unknown(where, value if not isinstance(value, str) else "")
        self.odd.append(where)


def read_time(value: object) -> datetime | None:
    """Read a time: ISO 8601 (UTC if it has no zone), or seconds or milliseconds since 1970.

    Returns None for anything else, and for a time outside of the calendar.
    """
    try:
        if isinstance(value, str) and value:
            timestamp = datetime.fromisoformat(value)
            return timestamp.astimezone(UTC) if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value / 1000 if abs(value) > _MILLISECONDS_FROM else value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None
