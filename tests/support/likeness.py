"""Whether our answer is the recorded one: equal, but for what can never be equal (times, tokens, new ids)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

# Equal in type only; null on one side must be null on the other.
OF_A_KIND = frozenset({
    "access_token",
    "accepted_at",
    "commit_at",
    "created_at",
    "data",
    "date_epoch",
    "desc",
    "device_code",
    "document_name",
    "event_time",
    "expired_at",
    "expires_at",
    "oid",
    "presigned_url",
    "processed_at",
    "presigned_url_expires_at",
    "primary_oid",
    "refresh_token",
    "title",
    "transcript",
    "updated_at",
    "user_code",
    "uuid",
    "verification_uri_complete",
    "x-scribe-expires",
    "x-scribe-token",
})  # fmt: skip
# The vendor's pipeline writes this now or later (docs/vendor.md#completed-at).
NOW_OR_LATER = frozenset({"completed_at"})
# Stand for ids of ours that the conversation learns as they come.
IDS = frozenset({"document_id", "template_id", "id"})
DAY = re.compile(r"/\d{6}/|\b\d{6}/(?=ses)")
TIME_ZONE = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|\+00:00)$")


def compare(real: Any, ours: Any, learn: Callable[[str, str], str], where: str = "body") -> None:
    """Fail where `ours` is not like `real`; `learn(recorded, ours)` says what a recorded id is here."""
    if isinstance(real, dict) and isinstance(ours, dict):
        assert set(ours) == set(real), where
        for key in real:
            compare_field(key, real[key], ours[key], learn, f"{where}.{key}")
    elif isinstance(real, list) and isinstance(ours, list):
        assert len(ours) == len(real), where
        for one, other in zip(sort(real), sort(ours), strict=True):
            compare(one, other, learn, f"{where}[]")
    else:
        assert normal(ours) == normal(real), where


def compare_field(key: str, real: Any, ours: Any, learn: Callable[[str, str], str], where: str) -> None:
    if key in NOW_OR_LATER:
        assert ours is None or isinstance(ours, str), where
    elif key in IDS and isinstance(real, str):
        assert isinstance(ours, str), where
        assert ours == learn(real, ours), where
    elif key == "data" and is_envelope(real, ours):
        compare(real, ours, learn, where)
    elif key == "additional_data" and isinstance(real, str):
        assert isinstance(ours, str), where
        assert ours.startswith("{"), where
    elif key in OF_A_KIND and not isinstance(real, list):
        assert type(ours) is type(real), (where, real, ours)
        assert bool(ours) == bool(real), (where, real, ours)
        if isinstance(real, str) and (zone := TIME_ZONE.match(real)):
            found = TIME_ZONE.match(ours)
            assert found is not None, (where, real, ours)
            assert found.group(1) == zone.group(1), (where, real, ours)
    elif key == "oid":
        assert len(ours) == len(real), where
    else:
        compare(real, ours, learn, where)


def is_envelope(real: Any, ours: Any) -> bool:
    """Whether `data` holds an answer rather than a document's content."""
    if isinstance(real, list):
        return True
    return isinstance(real, dict) and isinstance(ours, dict) and "chief_complaint" not in real


def normal(value: Any) -> Any:
    return DAY.sub("/DAY/", value) if isinstance(value, str) else value


def sort(items: list[Any]) -> list[Any]:
    """Put documents in an order of their own: those of one moment have none at the vendor."""
    if not items or not all(isinstance(each, dict) for each in items):
        return items
    return sorted(items, key=rank)


def rank(item: dict[str, Any]) -> tuple[str, ...]:
    if len(item) == 1 and isinstance(entry := next(iter(item.values())), dict):
        return (next(iter(item)), str(entry.get("status")), type(entry.get("data")).__name__)
    return (str(item.get("template_id", "")), str(item.get("status", "")), str(item.get("document_type", "")))
