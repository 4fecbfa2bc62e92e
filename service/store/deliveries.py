"""Deliveries and their attempts: claims by workers, records of outcomes, and changes by people."""

import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import structlog
from asyncpg import Record

from schemas.deliveries import Attempt, Delivery, Recovered
from schemas.events import Ping, PingData
from schemas.pages import Page
from service.concurrency.batching import Batcher
from service.domain.audit import Actor
from service.domain.deliveries.circuit_breaker import AT_ONCE, CAREFUL_AFTER
from service.domain.deliveries.models import Answer, CallFailure, DeliveryJob
from service.domain.errors import (
    DeliveryAlreadyFiled,
    DeliverySettled,
    DeliverySuperseded,
    DestinationDisabled,
    NotFound,
    RateLimited,
    SessionErased,
    StoreUnavailable,
)
from service.domain.ids import DeliveryId, DestinationId, Lease, SessionId, TenantId, new_delivery_id
from service.store.audit import AuditedUnitRows
from service.store.database import Database, LentConnection
from service.store.destinations import decrypt_auth, decrypt_headers, decrypt_secrets, decrypt_url
from service.store.encryption import DecryptionError, Keyring
from service.store.lifecycle_metrics import ATTEMPTS, count_attempt
from service.store.outbox import event_aad
from service.store.paging import PageAfter, page_of
from service.store.queries import sql

log = structlog.get_logger()

# A delivery that is sent this soon after its claim needs no second check.
_FRESH_SECONDS = 0.05
# A destination may have a rate of one call in a hundred seconds, and its waiting tests are limited.
_MAX_PINGS = 10


class DeliveryRows:
    """The domain's DeliveryStore over PostgreSQL, and the deliveries as people and EMRs read them."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring
        # Many calls of a worker end at the same time: one batch writes their rows.
        self._attempts = Batcher(self._write_attempts, unavailable=StoreUnavailable)
        self._looks = Batcher(self._look_again, unavailable=StoreUnavailable)

    async def _write_attempts(self, rows: Sequence[tuple[Any, ...]]) -> list[bool]:
        columns = zip(*rows, strict=True)
        written = await self._database.fetch(sql("deliveries.record_attempts"), *map(list, columns))
        for row in written:
            count_attempt(row)
        known = {row["delivery_id"] for row in written}
        return [values[0] in known for values in rows]

    async def _look_again(self, jobs: Sequence[DeliveryJob]) -> list[bool]:
        ids, leases = [job.id for job in jobs], [job.lease for job in jobs]
        rows = await self._database.fetch(sql("deliveries.may_leave"), ids, leases)
        known = {row["id"] for row in rows}
        return [job.id in known for job in jobs]

    async def claim_deliveries(
        self,
        session_id: SessionId | None,
        limit: int,
        lease_seconds: float,
        passed_over: Collection[str] = (),
        *,
        max_body_bytes: int,
        takes_any: bool,
    ) -> list[DeliveryJob]:
        """Lease due deliveries, within the limit of concurrent calls and the rate of each destination.

        The claim skips what `passed_over` names: tenants, groups of silent destinations
        (TimeoutPolicy.holder_of) and tenants' large bodies (BodyBudget). All large bodies together have at
        most `max_body_bytes`; with `takes_any` a single one may be larger.
        """
        async with self._database.transaction() as connection:
            await connection.execute(sql("deliveries.claim_alone"))
            rows = await connection.fetch(
                sql("deliveries.claim"),
                session_id,
                limit,
                lease_seconds,
                AT_ONCE,
                CAREFUL_AFTER,
                list(passed_over),
                max_body_bytes,
                takes_any,
            )
            # The time is taken before the commit. An erasure waits for the commit, so none came earlier.
            claimed_at = time.monotonic()
        jobs = []
        for row in rows:
            if row["body_sealed"] is None:
                # Nothing is left to send; the other deliveries of the claim must not fail with it.
                log.error("delivery_without_body", delivery_id=row["id"])
                continue
            try:
                jobs.append(self._job(row, claimed_at))
            except DecryptionError as error:
                # It stays leased and is due later: the others must not wait for a key that may come back.
                log.error("delivery_cannot_be_opened", delivery_id=row["id"], detail=str(error))
        return jobs

    async def next_slot_seconds(self) -> float | None:
        """Return the seconds until a destination's rate permits its next call; None if none waits."""
        row = await self._database.fetchrow(sql("deliveries.next_slot"))
        return row["seconds"] if row else None

    async def may_leave(self, job: DeliveryJob) -> bool:
        """Return whether a delivery may still be sent; right after its claim without another query.

        Deliveries that are about to be sent at the same time share one query.
        """
        if time.monotonic() - job.claimed_at < _FRESH_SECONDS:
            return True
        return await self._looks(job)

    async def withdraw_delivery(self, job: DeliveryJob) -> None:
        """Withdraw a delivery that was not sent, so that an erasure no longer counts it as in flight."""
        await self._database.execute(sql("deliveries.withdraw"), job.id, job.lease)

    async def release_delivery(self, job: DeliveryJob) -> None:
        """Release a delivery because its worker stops: another worker sends it at once."""
        await self._database.execute(sql("deliveries.release"), job.id, job.lease)

    async def record_attempt(
        self,
        job: DeliveryJob,
        outcome: Answer | CallFailure,
        *,
        status: str,
        wait_seconds: float | None,
        spends_schedule: bool,
        reason: str | None,
        error_class: str | None,
        record_id: str | None,
        pause_destination: bool,
    ) -> bool:
        """Record one attempt and the delivery's new state; false if the lease was lost."""
        answer = outcome if isinstance(outcome, Answer) else None
        values = (
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
            job.destination_id,
            answer.retry_after_seconds if answer else None,
        )
        if not pause_destination:
            is_recorded = await self._attempts(values)
        else:
            is_recorded = await self._record_and_pause(job.destination_id, values, reason)
        if not is_recorded:
            ATTEMPTS.labels(job.type, "lease_lost").inc()
        return is_recorded

    async def _record_and_pause(
        self, destination_id: DestinationId, values: tuple[Any, ...], reason: str | None
    ) -> bool:
        async with self._database.transaction() as connection:
            # A pause needs the exclusive lock, and takes it before the delivery's lock: see the lock order.
            await connection.execute(sql("deliveries.lock_to_pause"), destination_id)
            columns = [[value] for value in values]
            row = await connection.fetchrow(sql("deliveries.record_attempts"), *columns)
            if row is not None:
                await connection.execute(sql("deliveries.pause_destination"), destination_id, reason)
                await connection.execute(sql("deliveries.pause_deliveries"), destination_id, reason)
        if row is not None:
            count_attempt(row)
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

    @asynccontextmanager
    async def changing(self, actor: Actor) -> AsyncIterator["DeliveryUnitRows"]:
        """Open a transaction for an actor in the deliveries of its tenant."""
        async with self._database.transaction() as connection:
            yield DeliveryUnitRows(connection, actor, self._keyring)

    async def probe_now(self, tenant_id: TenantId, destination_id: DestinationId) -> None:
        """End the waits of a repaired destination; an open breaker lets one call through."""
        await self._database.execute(sql("circuit_breakers.probe_now"), tenant_id, destination_id)

    def _job(self, row: Record, claimed_at: float) -> DeliveryJob:
        destination_id = row["destination_id"]
        return DeliveryJob(
            id=DeliveryId(row["id"]),
            lease=Lease(row["lease"]),
            claimed_at=claimed_at,
            tenant_id=TenantId(row["tenant_id"]),
            session_id=SessionId(row["session_id"]) if row["session_id"] else None,
            destination_id=DestinationId(destination_id),
            type=row["type"],
            attempts=row["attempts"],
            scheduled=row["scheduled"],
            failures=row["failures"],
            hangs=row["hangs"],
            is_probe=row["is_probe"] and row["type"] != "ping",
            body=self._keyring.decrypt(row["body_sealed"], event_aad(row["session_id"])),
            url=decrypt_url(self._keyring, destination_id, row["url_sealed"]),
            headers=decrypt_headers(self._keyring, destination_id, row["headers_sealed"]),
            secrets=decrypt_secrets(
                self._keyring, destination_id, row["secrets_sealed"], is_rotating=row["is_rotating"]
            ),
            auth=decrypt_auth(self._keyring, destination_id, row["auth_sealed"]),
            payload=row["payload"],
            format=row["format"],
            timeout_seconds=row["timeout_seconds"],
            traceparent=row["traceparent"],
        )


class DeliveryUnitRows(AuditedUnitRows):
    """The domain's DeliveryUnit over PostgreSQL: one transaction."""

    def __init__(self, connection: LentConnection, actor: Actor, keyring: Keyring) -> None:
        super().__init__(connection, actor)
        self._keyring = keyring

    async def retry(self, delivery_id: DeliveryId) -> None:
        """Make a dead delivery due again, with the same id.

        Raises NotFound, SessionErased, DeliverySuperseded or DeliverySettled.
        """
        # The lock comes first: the answers to the next statements still hold when the row changes.
        delivery = await self._lock(delivery_id)
        row = await self._connection.fetchrow(sql("deliveries.retry"), self._tenant_id, delivery_id)
        if row is not None:
            await self._connection.execute(
                sql("circuit_breakers.probe_now"), self._tenant_id, row["destination_id"]
            )
            return
        obstacle = await self._connection.fetchrow(sql("deliveries.obstacle"), delivery_id)
        if obstacle is not None and obstacle["is_erased"]:
            raise SessionErased("the session of this delivery was erased")
        if delivery["status"] == "dead":
            if obstacle is not None and obstacle["is_superseded"]:
                raise DeliverySuperseded("a newer version of the document was delivered")
            raise DeliverySettled("the delivery's destination was removed or is off")
        if delivery["status"] != "pending":
            raise DeliverySettled(f"the delivery is {delivery['status']}; only a dead one can be retried")

    async def confirm(self, delivery_id: DeliveryId, record_id: str) -> None:
        """Record the id under which the EMR filed a delivery; a worker that sends it now loses the lease.

        Raises NotFound, SessionErased or DeliveryAlreadyFiled.
        """
        row = await self._lock(delivery_id)
        if row["status"] == "filed" and row["record_id"] not in {None, record_id}:
            raise DeliveryAlreadyFiled("the delivery is filed under another record id")
        if row["status"] == "filed" and row["record_id"] is not None:
            return
        if await self._connection.fetchrow(sql("deliveries.confirm"), delivery_id, record_id) is None:
            raise SessionErased("the session of this delivery was erased")
        await self._connection.execute(sql("deliveries.supersede"), delivery_id)

    async def ping(self, destination_id: DestinationId, delivery_id: DeliveryId, at: datetime) -> None:
        """Insert a test delivery to a destination.

        Raises NotFound, DestinationDisabled, or RateLimited if too many tests wait for it already.
        """
        await self._hold_enabled(destination_id)
        row = await self._connection.fetchrow(
            sql("deliveries.has_too_many_pings"), destination_id, _MAX_PINGS
        )
        if row is not None and row["has_too_many"]:
            raise RateLimited(
                f"{_MAX_PINGS} pings wait for this destination already", retry_after_seconds=10.0
            )
        body = Ping(type="ping", timestamp=at, data=PingData(destination_id=destination_id))
        await self._connection.execute(
            sql("deliveries.add_ping"),
            self._tenant_id,
            delivery_id,
            destination_id,
            self._keyring.encrypt_json(body, event_aad(None)),
        )

    async def recover(self, destination_id: DestinationId, since: datetime) -> Recovered:
        """Make dead deliveries since a time due again, and insert those that a destination never got.

        Raises NotFound or DestinationDisabled.
        """
        await self._hold_enabled(destination_id)
        dead = await self._connection.fetchrow(sql("deliveries.recover_dead"), destination_id, since)
        missed = await self._connection.fetch(
            sql("deliveries.never_attempted"), self._tenant_id, destination_id, since
        )
        replayed = await self._connection.fetch(
            sql("deliveries.replay"),
            destination_id,
            [new_delivery_id() for _ in missed],
            [row["id"] for row in missed],
        )
        return Recovered(recovered=dead["recovered"] if dead else 0, replayed=len(replayed))

    async def _lock(self, delivery_id: DeliveryId) -> Record:
        """Lock a delivery after its destination, the lock order of every change. Raises NotFound."""
        await self._connection.execute(sql("deliveries.hold_destination_of"), self._tenant_id, delivery_id)
        row = await self._connection.fetchrow(sql("deliveries.lock_delivery"), self._tenant_id, delivery_id)
        if row is None:
            raise NotFound("no such delivery")
        return row

    async def _hold_enabled(self, destination_id: DestinationId) -> None:
        row = await self._connection.fetchrow(
            sql("deliveries.hold_destination"), self._tenant_id, destination_id
        )
        if row is None:
            raise NotFound("no such destination")
        if not row["enabled"]:
            raise DestinationDisabled("the destination is off: turn it on first")


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
