"""Values of deliveries: claimed jobs, and the outcome of a call."""

from msgspec import Struct

from schemas.destinations import Auth, Format, Payload
from service.domain.ids import DeliveryId, DestinationId, Lease, SessionId, TenantId


class DeliveryJob(Struct, frozen=True, kw_only=True):
    """A leased delivery, with all data that its call needs."""

    id: DeliveryId
    lease: Lease
    tenant_id: TenantId
    session_id: SessionId | None
    destination_id: DestinationId
    type: str
    attempts: int
    scheduled: int
    body: bytes
    url: str
    headers: dict[str, str]
    secrets: list[str]  # newest first; more than one while a secret is rotated
    timeout_seconds: float | None
    payload: Payload = "full"
    format: Format = "ekabridge"
    auth: Auth | None = None
    failures: int = 0  # of calls to the destination in a row, when this one was claimed
    hangs: int = 0  # of them, how many took long
    claimed_at: float = 0.0  # on the monotonic clock
    is_probe: bool = False  # the destination's circuit breaker is open; this call tests whether it recovered
    traceparent: str | None = None  # of the session's create call


class Answer(Struct, frozen=True, kw_only=True):
    """A destination's answer; `excerpt` serves to find a record id or an error code and is never stored."""

    status_code: int
    retry_after_seconds: float | None
    location: str | None
    echoed_id: str | None
    excerpt: bytes
    size: int
    sha256: bytes
    duration_ms: int


class CallFailure(Struct, frozen=True, kw_only=True):
    """A call without an answer; `error_class` names the stage at which it failed.

    `is_refused`: the destination's OAuth 2.0 token endpoint refused our credentials. `is_withheld`: the
    sender sent nothing, because the last check before sending found the delivery settled. `is_ours`: this
    process had no free thread to resolve the name, so the failure says nothing about the destination.
    """

    error_class: str
    duration_ms: int
    is_forbidden: bool = False
    is_refused: bool = False
    is_withheld: bool = False
    is_ours: bool = False
