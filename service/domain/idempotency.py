"""Idempotency-Keys: a repeated call gets the answer of the first one, and nothing is made twice.

A key belongs to one tenant and one kind of call, and is recognised for a week.
"""

import re
from datetime import datetime
from typing import Literal

import msgspec
from msgspec import Struct

from service.domain.errors import IdempotencyInProgress, IdempotencyKeyInvalid, IdempotencyKeyReused
from service.domain.ids import TenantId

_KEY = re.compile(r"[\x21-\x7e]{1,255}")

Route = Literal["createSession", "createRecording", "createDestination", "makeDocument"]


class KeyedCall(Struct, frozen=True, kw_only=True):
    """A call that came with an Idempotency-Key.

    `request` is all that the call asks for, the ids of its address included: another request with the same
    key is refused.
    """

    tenant_id: TenantId
    route: Route
    key: str
    request: bytes


class Reservation(Struct, frozen=True, kw_only=True):
    """The outcome of reserving an Idempotency-Key for a call, and the session or destination it is about.

    `new`: the call runs now; `resumed`: it runs now, and an earlier try of `since` may have reached the
    vendor; `established`: the vendor has that earlier session, only the answer was lost; `replayed`: the
    first call was answered, with `answer` if that is readable; `reused`: the request differs; `running`: the
    first call is still under way; `erased`: the session was erased or the destination removed, and the answer
    with it.
    """

    kind: Literal["new", "resumed", "established", "replayed", "reused", "running", "erased"]
    object_id: str
    answer: bytes | None = None
    since: datetime | None = None


class KeyedAnswer(Struct, frozen=True):
    """The answer, encoded, and whether it is one that was given before."""

    body: bytes
    is_replayed: bool


def check_key(key: str) -> None:
    """Raise IdempotencyKeyInvalid for a key that is too long or has characters that are not allowed."""
    if not _KEY.fullmatch(key):
        raise IdempotencyKeyInvalid("Idempotency-Key must be 1 to 255 printable characters without spaces")


def keyed_call(tenant_id: TenantId, route: Route, key: str, request: Struct | list[str]) -> KeyedCall:
    """Make the keyed call of a request, its address's ids included. Raises IdempotencyKeyInvalid."""
    check_key(key)
    return KeyedCall(
        tenant_id=tenant_id,
        route=route,
        key=key,
        request=msgspec.json.encode(request, order="deterministic"),
    )


def check_reservation(reservation: Reservation) -> None:
    """Raise IdempotencyKeyReused or IdempotencyInProgress when the call must not run."""
    if reservation.kind == "reused":
        raise IdempotencyKeyReused("this Idempotency-Key was used with another body")
    if reservation.kind == "running":
        raise IdempotencyInProgress("the first call with this Idempotency-Key is still running")
