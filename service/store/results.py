"""Get Session calls, called fetches, and the transaction that records a result.

A worker leases a fetch, calls the vendor without a transaction, and records the answer in one transaction:
documents, statuses and deliveries. A worker that lost the lease records nothing.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from asyncpg import Record

from schemas.events import Event
from schemas.results import WarningInfo
from schemas.sessions import SessionStatus
from service.domain.ids import Account, DocumentId, Lease, SessionId, TemplateId, TenantId, VendorSessionId
from service.domain.results.events import session_warnings
from service.domain.results.models import (
    FetchJob,
    FetchState,
    StoredDocument,
    VendorDocument,
    VendorResult,
    Verdict,
)
from service.domain.sessions.lifecycle import HOLD_SECONDS
from service.store.additional_documents import drop_additional_document
from service.store.database import Database, LentConnection, storable
from service.store.documents import DocumentUnitRows
from service.store.encryption import Keyring
from service.store.lifecycle_metrics import END_TO_DOCUMENT, REMADE, SETTLED
from service.store.outbox import insert_event
from service.store.queries import sql
from service.store.sessions import (
    decrypt_details,
    decrypt_transcript,
    decrypt_warnings,
    transcript_aad,
    warnings_aad,
)


class ResultRows:
    """The domain's ResultStore over PostgreSQL."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        self._database = database
        self._keyring = keyring

    async def claim_fetches(
        self,
        session_id: SessionId | None,
        limit: int,
        lease_seconds: float,
        passed_over: Collection[Account] = (),
    ) -> list[FetchJob]:
        """Lease fetches that are due, except those of the accounts and `tenant:…` in `passed_over`."""
        rows = await self._database.fetch(
            sql("results.claim"), session_id, limit, lease_seconds, list(passed_over)
        )
        return [
            FetchJob(
                id=row["id"],
                lease=Lease(row["lease"]),
                tenant_id=TenantId(row["tenant_id"]),
                session_id=SessionId(row["session_id"]),
                vendor_id=VendorSessionId(row["vendor_id"]),
                template_id=TemplateId(row["template_id"]),
                account=Account(row["account"]),
                attempts=row["attempts"],
                missing=row["missing"],
                ended_seconds_ago=row["ended_seconds_ago"] or 0.0,
                is_end_hint=row["is_end_hint"],
                is_over=row["is_over"],
                was_announced=row["was_announced"],
                verdict=row["verdict"],
                verdict_seconds=row["verdict_seconds"],
                asked=row["asked"],
                document_id=row["document_id"],
                traceparent=row["traceparent"],
            )
            for row in rows
        ]

    async def release_fetch(self, job: FetchJob) -> None:
        """Release a fetch because its worker stops: another worker makes it at once."""
        await self._database.execute(sql("results.release"), job.id, job.lease)

    async def give_back_fetch(self, job: FetchJob, seconds: float) -> None:
        """Release a fetch that was not made; it counts as no attempt, and is due after these seconds."""
        await self._database.execute(sql("results.give_back"), job.id, job.lease, seconds)

    async def drop_fetch(self, job: FetchJob) -> None:
        """Delete a fetch that is not needed."""
        await self._database.execute(sql("results.drop"), job.id, job.lease)

    @asynccontextmanager
    async def settling(self, session_id: SessionId) -> AsyncIterator["SettleRows | None"]:
        """Lock a session in order to record a result; None if it was cancelled or erased."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(sql("sessions.lock"), session_id, None)
            is_open = row is not None and row["status"] != "cancelled" and not row["is_erased"]
            unit = SettleRows(connection, self._keyring, row) if row is not None and is_open else None
            yield unit
        if unit is not None:
            unit.count()

    async def past_sessions(self, limit: int) -> list[SessionId]:
        """Return sessions that have expired without an end."""
        rows = await self._database.fetch(sql("sessions.past"), limit)
        return [SessionId(row["id"]) for row in rows]

    async def warn_expiring(self, within_seconds: float) -> list[SessionId]:
        """Return sessions with audio that expire soon without an end; marks each, to return it only once."""
        rows = await self._database.fetch(sql("sessions.warn_expiring"), within_seconds)
        return [SessionId(row["id"]) for row in rows]


class SettleRows:
    """The domain's SettleUnit over PostgreSQL: one transaction, the session's row locked."""

    def __init__(self, connection: LentConnection, keyring: Keyring, row: Record) -> None:
        self._connection = connection
        self._keyring = keyring
        self._endings: list[SessionStatus] = []
        self._waits: list[float] = []
        self._remade_for: str | None = None
        self._keep_audio_days: int | None = row["keep_audio_days"]
        self.session_id = SessionId(row["id"])
        self.vendor_id = VendorSessionId(row["vendor_id"])
        self.tenant_id = TenantId(row["tenant_id"])
        self._documents = DocumentUnitRows(connection, keyring, self.tenant_id, self.session_id)
        self.status: SessionStatus = row["status"]
        self.is_final: bool = row["is_final"]
        self.is_past: bool = row["is_past"]
        self.templates: list[str] = row["templates"]
        self.details = decrypt_details(keyring, self.session_id, row["details_sealed"])
        self.transcript = decrypt_transcript(keyring, self.session_id, row["transcript_sealed"])
        self.model_used: str | None = row["model_used"]
        self.language_detected: str | None = row["language_detected"]
        self._vendor_warnings = decrypt_warnings(keyring, self.session_id, row["warnings_sealed"])
        self._audio_missing: list[int] | None = row["audio_missing"]

    @property
    def warnings(self) -> list[WarningInfo]:
        """The warnings of the session, with those of answers recorded in this transaction."""
        return session_warnings(self._vendor_warnings, self._audio_missing)

    def count(self) -> None:
        """Add to the metrics; the caller does so only after the commit."""
        for status in self._endings:
            SETTLED.labels(status).inc()
        for seconds in self._waits:
            END_TO_DOCUMENT.observe(seconds)
        if self._remade_for is not None:
            REMADE.labels(self._remade_for).inc()

    async def holds(self, job: FetchJob) -> bool:
        """Return whether the fetch's lease is still ours; if so, it stays ours until the transaction ends."""
        return await self._connection.fetchrow(sql("results.hold"), job.id, job.lease) is not None

    async def settle_fetch(self, job: FetchJob, outcome: str) -> bool:
        """Settle a fetch; false if the lease was lost, and then the caller may record nothing."""
        row = await self._connection.fetchrow(sql("results.settle"), job.id, job.lease, outcome)
        return row is not None

    async def settle_other_fetches(self, outcome: str) -> None:
        """Settle the fetches of the session that are still pending."""
        await self._connection.execute(sql("results.settle_rest"), self.session_id, outcome)

    async def settle_template(self, template_id: TemplateId, outcome: str) -> None:
        """Settle the fetch of a template; a worker in the middle of it has lost its lease."""
        await self._connection.execute(sql("results.settle_template"), self.session_id, template_id, outcome)

    async def postpone_fetch(self, job: FetchJob, seconds: float, reason: str, *, is_missing: bool) -> None:
        """Make a fetch due again after these seconds; `is_missing`: the vendor answered that it has none."""
        await self._connection.execute(
            sql("results.postpone"), job.id, job.lease, seconds, reason, is_missing
        )

    async def record_verdict(self, template_id: TemplateId, verdict: Verdict | None) -> None:
        """Store an answer's verdict on a template's document and the time of its first; None deletes both."""
        await self._connection.execute(sql("results.record_verdict"), self.session_id, template_id, verdict)

    async def request_unfiltered(self, *, at_once: bool, restart_tries: bool = False) -> None:
        """Make the unfiltered fetch due; one that waits already keeps its time unless `at_once` is set."""
        statement = sql("results.request_unfiltered")
        await self._connection.execute(statement, self.tenant_id, self.session_id, at_once, restart_tries)

    async def record_result(self, result: VendorResult) -> None:
        """Record an answer's transcript, model, language and warnings; the first transcript stays."""
        transcript = result.transcript or None
        if self.transcript is None:
            self.transcript = transcript
        self.model_used = storable(result.model_used) or self.model_used
        self.language_detected = storable(result.language_detected) or self.language_detected
        known = self._vendor_warnings
        self._vendor_warnings = [*known, *(each for each in result.warnings if each not in known)]
        await self._connection.execute(
            sql("sessions.record_result"),
            self.session_id,
            self._keyring.encrypt(transcript.encode(), transcript_aad(self.session_id))
            if transcript
            else None,
            storable(result.model_used),
            storable(result.language_detected),
            self._keyring.encrypt_json(self._vendor_warnings, warnings_aad(self.session_id))
            if len(self._vendor_warnings) > len(known)
            else None,
        )

    async def add_document(
        self,
        document: VendorDocument,
        error_code: str | None,
        *,
        listed: frozenset[str] | None,
        unless_same: bool = False,
    ) -> None:
        """Add a document or a new version (DocumentUnitRows.add)."""
        since_end = await self._documents.add(document, error_code, listed=listed, unless_same=unless_same)
        # A document that comes after the ending was changed or asked for later: the metric leaves it out.
        if since_end is not None and not self.is_final:
            self._waits.append(since_end)

    async def known_documents(self, template_id: TemplateId) -> frozenset[str]:
        """Return the vendor's ids of the template's documents that are stored."""
        return await self._documents.known(template_id)

    async def mark_asked(self, job: FetchJob, document_id: str | None) -> None:
        """Record that the vendor makes the additional document."""
        await self._connection.execute(
            sql("additional_documents.mark_asked"), job.id, job.lease, storable(document_id)
        )

    async def drop_additional_document(self, job: FetchJob) -> None:
        """End the fetch of an additional document that the vendor was never asked for."""
        await drop_additional_document(self._connection, job.id, job.lease)

    async def fetches(self) -> list[FetchState]:
        """Return the state of every fetch."""
        rows = await self._connection.fetch(sql("results.of_session"), self.session_id)
        return [
            FetchState(
                template_id=TemplateId(row["template_id"]),
                is_settled=row["is_settled"],
                was_answered=row["was_answered"],
                attempts=row["attempts"],
                is_additional=row["is_additional"],
                reason=row["reason"],
                outcome=row["outcome"],
                verdict=row["verdict"],
                verdict_seconds=row["verdict_seconds"],
            )
            for row in rows
        ]

    async def document_statuses(self) -> list[tuple[TemplateId, str]]:
        """Return the template and status of the newest version of each document."""
        rows = await self._connection.fetch(sql("sessions.document_summaries"), [self.session_id])
        return [(TemplateId(row["template_id"]), row["status"]) for row in rows]

    async def unreleased_documents(self) -> list[StoredDocument]:
        """Return the documents without an event in the outbox."""
        return await self._documents.unreleased()

    async def show_partial(self) -> None:
        """Show the session as partial while more documents are expected."""
        await self._connection.execute(sql("sessions.show_partial"), self.session_id)
        self.status = "partial"

    async def remake(self, vendor_id: VendorSessionId, reason: str) -> bool:
        """Make the session due again at the vendor, if all its audio is here; false changes nothing."""
        row = await self._connection.fetchrow(
            sql("sessions.remake"), self.session_id, vendor_id, reason, None, HOLD_SECONDS
        )
        if row is not None:
            self._remade_for = reason
        return row is not None

    async def settle_session(
        self, status: SessionStatus, *, error_code: str | None, error_message: str | None
    ) -> None:
        """Give the session its final status, and end its pending call to the vendor."""
        await self._connection.execute(
            sql("sessions.settle"), self.session_id, status, error_code, error_message
        )
        is_good = status == "completed" and self._audio_missing is None
        if is_good and self._keep_audio_days == 0:
            await self._connection.execute(sql("erasure.audio_blocks"), self.session_id)
        self._endings.append(status)
        self.status = status
        self.is_final = True

    async def emit(
        self, event: Event, document_id: DocumentId | None, template_id: TemplateId | None
    ) -> None:
        """Put the event and one delivery per matching destination into the outbox."""
        await insert_event(
            self._connection, self._keyring, self.tenant_id, self.session_id, event, document_id, template_id
        )
        if document_id is not None:
            await self._documents.mark_released(document_id)
