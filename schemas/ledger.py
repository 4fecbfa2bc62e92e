"""The ledger: counts of sessions by what became of them; and the entries of the audit trail."""

from datetime import datetime
from typing import Any, Literal

from msgspec import Struct

LedgerClass = Literal["in_flight", "dead", "lost"]


class Ledger(Struct, kw_only=True, frozen=True):
    """Sessions that were ended or expired: `ended` is always `delivered` + `in_flight` + `dead`.

    `lost` counts sessions in flight that no due row will ever move again. A separate statement counts it; it
    must be 0.
    """

    ended: int
    delivered: int
    in_flight: int
    dead: int
    lost: int


class AuditEntry(Struct, kw_only=True, frozen=True):
    """A deed or a read by an actor; `facts` carries counts, names and hashes, never content."""

    id: str
    at: datetime
    actor: str
    action: str
    object_id: str
    facts: dict[str, Any]
