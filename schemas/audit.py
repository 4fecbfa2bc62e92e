"""Entries of the audit trail."""

from datetime import datetime
from typing import Any

from msgspec import Struct


class AuditEntry(Struct, kw_only=True, frozen=True):
    """A deed or a read by an actor; `facts` carries counts, names and hashes, never content."""

    id: str
    at: datetime
    actor: str
    action: str
    object_id: str
    facts: dict[str, Any]
