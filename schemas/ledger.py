"""What was promised and what became of it: the ledger, and the trail of who did what."""

from datetime import datetime
from typing import Any, Literal

from msgspec import Struct

LedgerClass = Literal["in_flight", "dead", "lost"]


class Ledger(Struct, kw_only=True, frozen=True):
    """Sessions that were ended or expired: `ended` is always `delivered` + `in_flight` + `dead`.

    `lost` are those in flight that no row would ever move again. It is found by itself, and is 0.
    """

    ended: int
    delivered: int
    in_flight: int
    dead: int
    lost: int


class AuditEntry(Struct, kw_only=True, frozen=True):
    """One thing that somebody did or read; `facts` carries counts, names and hashes, never content."""

    id: str
    at: datetime
    actor: str
    action: str
    object_id: str
    facts: dict[str, Any]
