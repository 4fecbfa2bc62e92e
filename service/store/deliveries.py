"""Rows of destinations, deliveries and attempts."""

import base64
import secrets

import msgspec
import structlog
from asyncpg import Record

from schemas.emr import Attempt, Delivery, Destination, DestinationChange, DestinationCreate, Page
from service.domain.errors import DeliverySettled, NotFound, SessionErased
from service.domain.ids import DeliveryId, DestinationId, Lease, SessionId, TenantId, new_destination_id
from service.domain.records import Answer, DeliveryJob, NoAnswer
from service.store.database import Database
from service.store.paging import PageAfter, page_of
from service.store.queries import sql
from service.store.results import event_place
from service.store.sealing import Keyring, SealError

log = structlog.get_logger()


def url_place(destination_id: str) -> str:
    """Name the place for which a destination's URL is sealed."""
    return f"destination.url:{destination_id}"


def secrets_place(destination_id: str) -> str:
    """Name the place for which a destination's signing secrets are sealed."""
    return f"destination.secrets:{destination_id}"


def headers_place(destination_id: str) -> str:
    """Name the place for which a destination's static headers are sealed."""
    return f"destination.headers:{destination_id}"


class DestinationRows:
    """Where a tenant's documents go."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    async def add(self, tenant_id: TenantId, request: DestinationCreate) -> Destination:
        """Insert a destination; the answer is the only place where `secret` ever stands. Raises NotFound."""
        destination_id = new_destination_id()
        secret = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        row = await self._database.fetchrow(
            sql("destinations.insert"),
            destination_id,
            tenant_id,
            self._keyring.seal(request.url.encode(), url_place(destination_id)),
            request.events,
            request.templates,
            self._keyring.seal_json([secret], secrets_place(destination_id)),
        )
        if row is None:
            raise NotFound("no such tenant")
        return msgspec.structs.replace(self._destination(row), secret=secret)

    async def page(self, tenant_id: TenantId, after: PageAfter | None, limit: int) -> Page[Destination]:
        """Return one page of a tenant's destinations, newest first."""
        at, last = after or (None, None)
        rows = await self._database.fetch(sql("destinations.list"), tenant_id, at, last, limit + 1)
        return page_of(rows, limit, self._destination)

    async def one(self, tenant_id: TenantId, destination_id: DestinationId) -> Destination:
        """Return a destination. Raises NotFound."""
        row = await self._database.fetchrow(sql("destinations.one"), tenant_id, destination_id)
        if row is None:
            raise NotFound("no such destination")
        return self._destination(row)

    async def change(
        self, tenant_id: TenantId, destination_id: DestinationId, change: DestinationChange
    ) -> Destination:
        """Change a destination; what waited for it goes out when it is turned on, waits when it is off.

        Raises NotFound.
        """
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                sql("destinations.change"),
                tenant_id,
                destination_id,
                change.enabled,
                change.events,
                change.templates,
            )
            if row is None:
                raise NotFound("no such destination")
            if change.enabled is True:
                await connection.execute(sql("deliveries.resume"), destination_id)
            elif change.enabled is False:
                await connection.execute(sql("deliveries.pause_deliveries"), destination_id, "disabled")
        return self._destination(row)

    async def remove(self, tenant_id: TenantId, destination_id: DestinationId) -> None:
        """Take a destination out of use; what still waits for it is given up. Raises NotFound."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(sql("destinations.remove"), tenant_id, destination_id)
            if row is None:
                raise NotFound("no such destination")
            await connection.execute(sql("destinations.give_up_deliveries"), destination_id)

    def _destination(self, row: Record) -> Destination:
        return Destination(
            id=row["id"],
            url=self._keyring.open(row["url_sealed"], url_place(row["id"])).decode(),
            events=row["events"],
            templates=row["templates"],
            payload=row["payload"],
            format=row["format"],
            timeout_seconds=row["timeout_seconds"],
            rate_per_second=row["rate_per_second"],
            enabled=row["enabled"],
            paused_reason=row["paused_reason"],
            created_at=row["created_at"],
        )


class DeliveryRows:
    """The domain's DeliveryStore over PostgreSQL, and what the EMR may read of it."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    async def claim_deliveries(
        self, session_id: SessionId | None, limit: int, lease_seconds: float
    ) -> list[DeliveryJob]:
        """Lease deliveries that are due."""
        rows = await self._database.fetch(sql("deliveries.claim"), session_id, limit, lease_seconds)
        jobs = []
        for row in rows:
            try:
                jobs.append(self._job(row))
            except SealError as error:
                # It stays leased and is due again: the others must not wait for a key that may come back.
                log.error("delivery_cannot_be_opened", delivery_id=row["id"], detail=str(error))
        return jobs

    async def record_attempt(
        self,
        job: DeliveryJob,
        outcome: Answer | NoAnswer,
        *,
        status: str,
        wait_seconds: float | None,
        spends_schedule: bool,
        reason: str | None,
        error_class: str | None,
        record_id: str | None,
        pause_destination: bool,
    ) -> bool:
        """Record one attempt and where the delivery stands now; false when the lease was lost."""
        answer = outcome if isinstance(outcome, Answer) else None
        lock = sql("deliveries.lock_to_pause") if pause_destination else sql("deliveries.lock_destination")
        async with self._database.transaction() as connection:
            # First of all, so that turning it on or off at this moment comes wholly before or after.
            await connection.execute(lock, job.destination_id)
            row = await connection.fetchrow(
                sql("deliveries.record_attempt"),
                job.id,
                job.lease,
                status,
                int(spends_schedule),
                wait_seconds,
                reason,
                record_id,
                outcome.duration_ms / 1000,
                answer.status_code if answer else None,
                error_class,
                outcome.duration_ms,
                answer.size if answer else None,
                answer.sha256 if answer else None,
            )
            if pause_destination and row is not None:
                await connection.execute(sql("deliveries.pause_destination"), job.destination_id, reason)
                await connection.execute(sql("deliveries.pause_deliveries"), job.destination_id, reason)
        return row is not None

    async def page(
        self,
        tenant_id: TenantId,
        *,
        status: str | None,
        destination_id: str | None,
        session_id: str | None,
        after: PageAfter | None,
        limit: int,
    ) -> Page[Delivery]:
        """Return one page of a tenant's deliveries, newest first."""
        at, last = after or (None, None)
        rows = await self._database.fetch(
            sql("deliveries.page"), tenant_id, status, destination_id, session_id, at, last, limit + 1
        )
        return page_of(rows, limit, lambda row: _delivery(row, row["attempts"]))

    async def one(self, tenant_id: TenantId, delivery_id: DeliveryId) -> Delivery:
        """Return a delivery with its attempts. Raises NotFound."""
        row = await self._database.fetchrow(sql("deliveries.one"), tenant_id, delivery_id)
        if row is None:
            raise NotFound("no such delivery")
        attempts = await self._database.fetch(sql("deliveries.attempts"), delivery_id)
        return _delivery(
            row,
            [
                Attempt(
                    at=attempt["at"],
                    status_code=attempt["status_code"],
                    error_class=attempt["error_class"],
                    duration_ms=attempt["duration_ms"],
                )
                for attempt in attempts
            ],
        )

    async def retry(self, tenant_id: TenantId, delivery_id: DeliveryId) -> Delivery:
        """Make a dead delivery due again, with the same id. Raises NotFound or DeliverySettled."""
        row = await self._database.fetchrow(sql("deliveries.retry"), tenant_id, delivery_id)
        delivery = await self.one(tenant_id, delivery_id)
        if row is None and delivery.reason == "session_erased":
            raise SessionErased("the session of this delivery was erased")
        if row is None and delivery.status == "dead":
            raise DeliverySettled("the delivery's destination was removed or is off")
        if row is None and delivery.status != "pending":
            raise DeliverySettled(f"the delivery is {delivery.status}; only a dead one can be retried")
        return delivery

    def _job(self, row: Record) -> DeliveryJob:
        destination_id, headers = row["destination_id"], row["headers_sealed"]
        return DeliveryJob(
            id=DeliveryId(row["id"]),
            lease=Lease(row["lease"]),
            tenant_id=TenantId(row["tenant_id"]),
            session_id=SessionId(row["session_id"]) if row["session_id"] else None,
            destination_id=DestinationId(destination_id),
            type=row["type"],
            attempts=row["attempts"],
            scheduled=row["scheduled"],
            body=self._keyring.open(row["body_sealed"], event_place(row["session_id"])),
            url=self._keyring.open(row["url_sealed"], url_place(destination_id)).decode(),
            headers=self._keyring.open_json(headers, headers_place(destination_id), dict[str, str])
            if headers
            else {},
            secrets=self._keyring.open_json(row["secrets_sealed"], secrets_place(destination_id), list[str]),
            timeout_seconds=row["timeout_seconds"],
        )


def _delivery(row: Record, attempts: int | list[Attempt]) -> Delivery:
    return Delivery(
        id=row["id"],
        session_id=row["session_id"],
        document_id=row["document_id"],
        destination_id=row["destination_id"],
        type=row["type"],
        status=row["status"],
        attempts=attempts,
        next_attempt_at=row["next_at"],
        reason=row["reason"],
        record_id=row["record_id"],
        created_at=row["created_at"],
    )
