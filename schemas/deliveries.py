"""Deliveries and their attempts under /v1/deliveries."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

from schemas.events import EventType

DeliveryStatus = Literal["pending", "delivered", "filed", "dead", "paused"]


class Attempt(Struct, kw_only=True, frozen=True):
    """One call to a destination, and its outcome."""

    at: datetime
    status_code: int | None
    error_class: str | None
    duration_ms: int


class Delivery(Struct, kw_only=True, frozen=True):
    """One event for one destination; `id` is the `webhook-id` header that the EMR receives."""

    id: str
    session_id: str | None
    document_id: str | None
    destination_id: str
    type: EventType
    status: DeliveryStatus
    attempts: int | list[Attempt]
    next_attempt_at: datetime | None
    reason: str | None
    record_id: str | None
    created_at: datetime


class DeliveryConfirm(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The EMR's confirmation that it filed a delivery, with its own id of the note."""

    record_id: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9._:-]{1,128}$(?!\n)",
            description="The EMR's own id of the note: letters, digits and `._:-`; nothing of the patient's",
            examples=["NOTE-4711"],
        ),
    ]


class RecoverRequest(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The time from which deliveries to a destination shall be recovered."""

    since: Annotated[
        datetime, Meta(tz=True, description="With a time zone", examples=["2026-11-20T00:00:00Z"])
    ]


class Recovered(Struct, kw_only=True, frozen=True):
    """The number of dead deliveries that are due again, and of deliveries made for events never sent."""

    recovered: int
    replayed: int
