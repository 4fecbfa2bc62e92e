"""The ledger: counts of sessions by what became of them; and the entries of the audit trail."""

from typing import Literal

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
