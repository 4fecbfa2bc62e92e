"""Reads the vendor's webhooks, which have four published shapes (docs/vendor.md#webhook-shapes)."""

import re
from typing import Any, Literal

import msgspec
from msgspec import Struct

Shape = Literal["nested", "flat", "v2", "protocol", "unknown"]

# Kinds after which Get Session may return a result.
ENDINGS = frozenset({"completed", "partial", "failed", "expired"})
KNOWN = ENDINGS | {"started", "ended"}
UNRECOGNISED = "unrecognised"

_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class VendorEvent(Struct, frozen=True, kw_only=True):
    """A webhook's session (empty if it names none), the kind of its event, and its shape."""

    session_id: str
    kind: str
    shape: Shape

    @property
    def is_known(self) -> bool:
        """Whether it names a session and a known kind."""
        return bool(self.session_id) and self.kind in KNOWN

    @property
    def is_ending(self) -> bool:
        """Whether the session may have results now."""
        return self.kind in ENDINGS


def parse_event(body: bytes) -> VendorEvent | None:
    """Read a webhook's body; None when it is not JSON.

    `v2rx.completed` and `session.completed` are one kind, `completed`: we may be subscribed in more than one
    shape, and then the second event about the same result is a repeat.
    """
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(decoded, dict):
        return VendorEvent(session_id="", kind=UNRECOGNISED, shape="unknown")
    shape, name, session_id = _read(decoded)
    return VendorEvent(session_id=_clean_id(session_id), kind=_kind(name), shape=shape)


def _read(event: dict[str, Any]) -> tuple[Shape, Any, Any]:
    payload, data = event.get("payload"), event.get("data")
    if isinstance(payload, dict):
        name = event.get("event_id") or payload.get("event") or event.get("event")
        return "nested", name, payload.get("transaction_id") or payload.get("session_id")
    name = event.get("event") or event.get("event_type") or event.get("event_id")
    if "transaction_id" in event:
        return "flat", name, event["transaction_id"]
    if isinstance(data, dict) and ("transaction_id" in data or "session_id" in data):
        return "v2", name, data.get("transaction_id") or data.get("session_id")
    if "session_id" in event:
        return "protocol", name, event["session_id"]
    return "unknown", name, None


def _kind(name: Any) -> str:
    if not isinstance(name, str):
        return UNRECOGNISED
    service, _, kind = name.strip().lower().rpartition(".")
    return kind if kind in KNOWN and service in {"v2rx", "session", ""} else UNRECOGNISED


def _clean_id(session_id: Any) -> str:
    if isinstance(session_id, str) and _SESSION_ID.fullmatch(session_id):
        return session_id
    return ""
