"""Changes of destinations: add, change, rotate the secret, remove.

The fields of a destination pass through here unread. A new one goes into schemas/destinations.py, a
migration, service/store/destinations.py and its sql/destinations.sql, service/cli/destinations.py and
service/api/openapi_examples.py; the rules for its values are in service/forwarding/destination_validation.py.
"""

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from schemas.destinations import Destination, DestinationChange, DestinationCreate
from service.domain.audit import Actor, AuditedUnit
from service.domain.errors import NotFound
from service.domain.idempotency import KeyedAnswer, KeyedCall, Reservation, check_reservation, keyed_call
from service.domain.ids import DestinationId, TenantId, new_destination_id


class CheckDestinationRequest(Protocol):
    """Refuses a destination's URL, headers or credentials that no call must be made with."""

    async def __call__(self, request: DestinationCreate | DestinationChange) -> None:
        """Raise DestinationForbidden or InvalidRequest."""
        ...


class DestinationUnit(AuditedUnit, Protocol):
    """One transaction in a tenant's destinations."""

    async def reserve_key(self, call: KeyedCall, destination_id: DestinationId) -> Reservation:
        """Reserve the call's Idempotency-Key for a destination, or return what the key stands for already.

        A second call with the key waits here until the first one's transaction ends.
        """
        ...

    async def keep_answer(self, call: KeyedCall, destination_id: DestinationId, answer: bytes) -> None:
        """Keep the answer for repeats of the call."""
        ...

    async def add(self, destination_id: DestinationId, request: DestinationCreate) -> Destination:
        """Insert a destination; `secret` is in this answer and never readable again.

        Raises NotFound, or TooManyDestinations when the tenant has as many as it may.
        """
        ...

    async def change(self, destination_id: DestinationId, change: DestinationChange) -> Destination:
        """Change a destination; its deliveries go out when it is turned on and wait when it is off.

        Raises NotFound, or InvalidRequest for a new host that would be shown the old one's secrets.
        """
        ...

    async def rotate_secret(self, destination_id: DestinationId, overlap_seconds: float) -> Destination:
        """Make a new secret; the one before it signs too for so long, older ones no more. Raises NotFound."""
        ...

    async def remove(self, destination_id: DestinationId) -> None:
        """Remove a destination and give up its waiting deliveries. Raises NotFound."""
        ...


class DestinationStore(Protocol):
    """Rows of destinations."""

    def changing(self, actor: Actor) -> AbstractAsyncContextManager[DestinationUnit]:
        """Open a transaction for an actor in the destinations of its tenant."""
        ...

    async def one(self, tenant_id: TenantId, destination_id: DestinationId) -> Destination:
        """Return a destination, without its secret. Raises NotFound."""
        ...

    async def signs_with(self, tenant_id: TenantId, destination_id: DestinationId, secret: str) -> bool:
        """Return whether a secret still signs the destination's calls. Raises NotFound."""
        ...

    async def find_key(self, call: KeyedCall) -> Reservation | None:
        """Return what the call's Idempotency-Key stands for; None when it was not used yet."""
        ...


class Destinations:
    """Changes destinations; each change and its audit entry are one transaction."""

    def __init__(self, *, store: DestinationStore, check: CheckDestinationRequest) -> None:
        self._store = store
        self._check = check

    async def add(self, actor: Actor, request: DestinationCreate) -> Destination:
        """Add a destination; `secret` is shown this once.

        Raises DestinationForbidden, InvalidRequest, NotFound or TooManyDestinations.
        """
        await self._check(request)
        async with self._store.changing(actor) as unit:
            return await _add(unit, new_destination_id(), request)

    async def add_once(self, actor: Actor, request: DestinationCreate, key: str | None) -> KeyedAnswer:
        """Add a destination, or give the answer that the Idempotency-Key was given before.

        The key's row, the destination, the answer and the audit entry commit together: a repeat never makes
        a second destination, and never misses the secret while that signs. Raises as `add`, or
        IdempotencyKeyReused.
        """
        if key is None:
            return KeyedAnswer(msgspec.json.encode(await self.add(actor, request)), is_replayed=False)
        call = keyed_call(actor.tenant_id, "createDestination", key, request)
        # Before the checks: names of hosts may resolve differently by now, which must not fail a repeat.
        reserved = await self._store.find_key(call)
        if reserved is None or _must_run(reserved):
            await self._check(request)
            destination_id = new_destination_id()
            async with self._store.changing(actor) as unit:
                reserved = await unit.reserve_key(call, destination_id)
                if _must_run(reserved):
                    answer = msgspec.json.encode(await _add(unit, destination_id, request))
                    await unit.keep_answer(call, destination_id, answer)
                    return KeyedAnswer(answer, is_replayed=False)
        return KeyedAnswer(await self._replay(actor.tenant_id, reserved), is_replayed=True)

    async def _replay(self, tenant_id: TenantId, reserved: Reservation) -> bytes:
        """Return the first call's answer, without its secret if a rotation has ended that secret.

        An answer that nobody can decrypt any more is replaced by the destination as it is now.
        """
        if reserved.kind == "erased":
            raise NotFound("the destination of this Idempotency-Key was removed")
        check_reservation(reserved)
        destination_id = DestinationId(reserved.object_id)
        if reserved.answer is None:
            return msgspec.json.encode(await self._store.one(tenant_id, destination_id))
        shown: dict[str, Any] = msgspec.json.decode(reserved.answer)
        if await self._store.signs_with(tenant_id, destination_id, shown.pop("secret", "")):
            return reserved.answer
        return msgspec.json.encode(shown)

    async def change(
        self, actor: Actor, destination_id: DestinationId, change: DestinationChange
    ) -> Destination:
        """Change a destination; its deliveries go out when it is turned on and wait when it is off.

        Raises DestinationForbidden, InvalidRequest or NotFound.
        """
        await self._check(change)
        async with self._store.changing(actor) as unit:
            changed = await unit.change(destination_id, change)
            await unit.record("destination.changed", destination_id)
        return changed

    async def rotate_secret(
        self, actor: Actor, destination_id: DestinationId, overlap_seconds: int
    ) -> Destination:
        """Make a new secret, shown this once; the old one signs too for so long. Raises NotFound."""
        async with self._store.changing(actor) as unit:
            rotated = await unit.rotate_secret(destination_id, overlap_seconds)
            await unit.record("destination.secret_rotated", destination_id, overlap_seconds=overlap_seconds)
        return rotated

    async def remove(self, actor: Actor, destination_id: DestinationId) -> None:
        """Remove a destination and give up its waiting deliveries. Raises NotFound."""
        async with self._store.changing(actor) as unit:
            await unit.remove(destination_id)
            await unit.record("destination.removed", destination_id)


async def _add(
    unit: DestinationUnit, destination_id: DestinationId, request: DestinationCreate
) -> Destination:
    added = await unit.add(destination_id, request)
    await unit.record("destination.created", destination_id)
    return added


def _must_run(reservation: Reservation) -> bool:
    return reservation.kind in {"new", "resumed"}
