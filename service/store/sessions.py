"""Sessions: their rows, their pending vendor calls, and the encryption of their details.

A pending call is a call to the vendor that the row promises. Its caller holds a lease. After a crash the
lease runs out, and the sweep finds the call again.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from asyncpg import Record

from schemas.results import WarningInfo
from service.domain.ids import UNFILTERED, Account, Lease, SessionId, TemplateId, TenantId, VendorSessionId
from service.domain.sessions.lifecycle import HOLD_SECONDS
from service.domain.sessions.models import (
    EndRecorded,
    EndState,
    PendingCall,
    SessionDetails,
    SessionPlan,
    VendorEnd,
    VendorSession,
)
from service.observability.tracing import current_traceparent
from service.store.database import Database, LentConnection
from service.store.encryption import Hasher, Keyring
from service.store.lifecycle_metrics import AUDIO_INCOMPLETE, REMADE, SESSIONS
from service.store.queries import sql

_PATIENT_ID = "patient_id"
_REFERENCE = "reference"


def upload_url_aad(session_id: str) -> str:
    """Return the AAD that binds the vendor's upload URL to its session."""
    return f"session.upload_url:{session_id}"


def details_aad(session_id: str) -> str:
    """Return the AAD that binds a session's patient, reference and metadata to its id."""
    return f"session.details:{session_id}"


def transcript_aad(session_id: str) -> str:
    """Return the AAD that binds a transcript to its session."""
    return f"session.transcript:{session_id}"


def warnings_aad(session_id: str) -> str:
    """Return the AAD that binds the vendor's warnings to their session."""
    return f"session.warnings:{session_id}"


class SessionRows:
    """The domain's SessionStore over PostgreSQL."""

    def __init__(self, database: Database, keyring: Keyring, hasher: Hasher) -> None:
        self._database = database
        self._keyring = keyring
        self._hasher = hasher

    async def insert_session(
        self, plan: SessionPlan, lease: Lease, *, lease_seconds: float, life_seconds: float
    ) -> bool:
        """Insert a session with its pending create call, leased to us; false if the id exists."""
        arguments = await self.insert_arguments(
            plan, lease, lease_seconds=lease_seconds, life_seconds=life_seconds
        )
        return await self._database.fetchrow(sql("sessions.insert"), *arguments) is not None

    async def insert_arguments(
        self, plan: SessionPlan, lease: Lease, *, lease_seconds: float, life_seconds: float
    ) -> list[Any]:
        """Return the parameters of the insert statement, encrypted and hashed."""
        details = plan.details
        patient_id = (details.patient or {}).get("id")
        return [
            plan.id,
            plan.tenant_id,
            plan.account,
            plan.upload,
            plan.mode,
            plan.model,
            plan.templates,
            plan.languages,
            plan.transcript_language,
            self._keyring.encrypt_json(details, details_aad(plan.id)),
            await self.patient_hash(plan.tenant_id, patient_id),
            await self.reference_hash(plan.tenant_id, details.reference),
            life_seconds,
            lease_seconds,
            lease,
            current_traceparent(),
            plan.keep_audio_days,
        ]

    async def patient_hash(self, tenant_id: TenantId, patient_id: str | None) -> bytes | None:
        """Return the keyed hash that finds the sessions of a tenant's patient."""
        return await self._hash(_PATIENT_ID, tenant_id, patient_id)

    async def reference_hash(self, tenant_id: TenantId, reference: str | None) -> bytes | None:
        """Return the keyed hash that finds the session of a tenant's encounter."""
        return await self._hash(_REFERENCE, tenant_id, reference)

    async def _hash(self, purpose: str, tenant_id: TenantId, value: str | None) -> bytes | None:
        if value is None:
            return None
        return await self._hasher.hash(purpose, f"{tenant_id}\0{value}".encode())

    async def begin_upload(self, session_id: SessionId, lease: Lease) -> None:
        """Begin the upload of a session's recording in place of its create call."""
        await self._database.execute(sql("recording_uploads.begin"), session_id, lease)

    async def claim_pending_create(
        self, tenant_id: TenantId, session_id: SessionId, lease: Lease, *, lease_seconds: float
    ) -> VendorSessionId | None:
        """Lease a pending create call if its lease is free or has run out; return the vendor's id."""
        row = await self._database.fetchrow(
            sql("sessions.claim_pending_create"), tenant_id, session_id, lease, lease_seconds
        )
        return VendorSessionId(row["vendor_id"]) if row is not None else None

    async def record_created(self, session_id: SessionId, lease: Lease, found: VendorSession) -> bool:
        """Record that the vendor has created the session; false if the lease was lost."""
        url = found.upload_url
        row = await self._database.fetchrow(
            sql("sessions.record_created"),
            session_id,
            lease,
            self._keyring.encrypt(url.encode(), upload_url_aad(session_id)) if url else None,
            found.expires_at,
        )
        if row is not None:
            SESSIONS.labels(row["upload"]).inc()
        return await self._was_ours(session_id, row)

    async def _was_ours(self, session_id: SessionId, row: Record | None) -> bool:
        """Return whether the lease still held; a cancel that waited for this call becomes due otherwise."""
        if row is None:
            await self._database.execute(sql("sessions.cancel_now"), session_id)
        return row is not None

    async def is_cancelled(self, session_id: SessionId) -> bool:
        """Return whether the session was cancelled, or erased while it ran."""
        return await self._database.fetchrow(sql("sessions.is_cancelled"), session_id) is not None

    async def hold_create(self, session_id: SessionId, lease: Lease, seconds: float) -> bool:
        """Hold a create call that the vendor did not answer; false if the lease was lost."""
        row = await self._database.fetchrow(sql("sessions.hold_create"), session_id, lease, seconds)
        return await self._was_ours(session_id, row)

    async def read_plan(self, session_id: SessionId, lease: Lease) -> SessionPlan | None:
        """Return the plan of a held create call; None if the lease was lost."""
        row = await self._database.fetchrow(sql("sessions.plan"), session_id, lease)
        if row is None:
            return None
        return SessionPlan(
            id=session_id,
            vendor_id=VendorSessionId(row["vendor_id"]),
            tenant_id=TenantId(row["tenant_id"]),
            account=Account(row["account"]),
            upload=row["upload"],
            mode=row["mode"],
            model=row["model"],
            templates=row["templates"],
            languages=row["languages"],
            transcript_language=row["transcript_language"],
            details=decrypt_details(self._keyring, session_id, row["details_sealed"]),
        )

    async def renew_pending_call(self, session_id: SessionId, lease: Lease, seconds: float) -> bool:
        """Renew the lease of a pending call; false if it was lost."""
        row = await self._database.fetchrow(sql("sessions.renew_pending_call"), session_id, lease, seconds)
        return row is not None

    async def record_never_created(
        self, session_id: SessionId, lease: Lease, code: str, message: str
    ) -> None:
        """Fail the session, because the vendor does not have it."""
        await self._database.execute(sql("sessions.record_never_created"), session_id, lease, code, message)

    async def reschedule_pending_call(self, session_id: SessionId, lease: Lease, seconds: float) -> None:
        """Release a call with an unknown outcome; the sweep looks again after these seconds."""
        row = await self._database.fetchrow(
            sql("sessions.reschedule_pending_call"), session_id, lease, seconds
        )
        await self._was_ours(session_id, row)

    async def release_pending_call(self, session_id: SessionId, lease: Lease, seconds: float) -> None:
        """Release a call that was not made; it counts as no attempt, and is due after these seconds."""
        row = await self._database.fetchrow(sql("sessions.release_pending_call"), session_id, lease, seconds)
        await self._was_ours(session_id, row)

    @asynccontextmanager
    async def ending(self, tenant_id: TenantId, session_id: SessionId) -> AsyncIterator["EndRows | None"]:
        """Lock a session in order to end it; None when the tenant has no such session."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(sql("sessions.lock"), session_id, tenant_id)
            if row is None:
                yield None
                return
            sequences = await connection.fetch(sql("audio.sequences"), session_id)
            heard = None
            if row["upload"] == "stream":
                heard = await connection.fetchrow(sql("streams.has_audio"), session_id)
            yield EndRows(
                connection,
                row,
                [found["sequence"] for found in sequences],
                has_stream_audio=_heard(heard),
            )

    async def begin_stream_handover(
        self,
        session_id: SessionId,
        lease: Lease,
        vendor_id: VendorSessionId,
        *,
        result_seconds: float,
    ) -> bool:
        """Have the held audio of an ended stream handed over in a second session; false if none is held."""
        row = await self._database.fetchrow(
            sql("sessions.begin_stream_handover"), session_id, lease, vendor_id, result_seconds
        )
        return row is not None

    async def record_end_confirmed(
        self,
        session_id: SessionId,
        lease: Lease,
        confirmed: VendorEnd,
        *,
        reconcile_seconds: float,
        may_remake: bool,
    ) -> EndRecorded:
        """Record that the vendor knows of the end, and compare its list of files with our chunks."""
        row = await self._database.fetchrow(
            sql("sessions.record_end_told"),
            session_id,
            lease,
            confirmed.files_received,
            confirmed.sequences,
            reconcile_seconds,
            may_remake,
        )
        missing = row["audio_missing"] if row is not None else None
        may_be_remade = row is not None and row["may_be_remade"]
        if missing is not None and not may_be_remade:
            AUDIO_INCOMPLETE.inc()
        was_ours = await self._was_ours(session_id, row)
        return EndRecorded(was_ours=was_ours, missing=missing, may_be_remade=may_be_remade)

    async def remake(
        self, session_id: SessionId, lease: Lease, vendor_id: VendorSessionId, reason: str
    ) -> bool:
        """Make the session due again at the vendor, if all its audio is here and the lease still holds."""
        row = await self._database.fetchrow(
            sql("sessions.remake"), session_id, vendor_id, reason, lease, HOLD_SECONDS
        )
        if row is not None:
            REMADE.labels(reason).inc()
        return row is not None

    async def claim_pending_calls(
        self, limit: int, lease_seconds: float, passed_over: Collection[Account] = ()
    ) -> list[PendingCall]:
        """Lease pending calls that are due, except those of the accounts and `tenant:…` in `passed_over`."""
        rows = await self._database.fetch(
            sql("sessions.claim_pending_calls"), limit, lease_seconds, list(passed_over)
        )
        return [
            PendingCall(
                session_id=SessionId(row["id"]),
                vendor_id=VendorSessionId(row["vendor_id"]),
                tenant_id=TenantId(row["tenant_id"]),
                account=Account(row["account"]),
                call=row["owed"],
                lease=Lease(row["owed_lease"]),
                attempts=row["owed_attempts"],
                upload=row["upload"],
                chunks=row["chunks"],
                held_seconds=row["held_seconds"],
                traceparent=row["traceparent"],
            )
            for row in rows
        ]

    async def record_cancel_settled(self, session_id: SessionId, lease: Lease) -> None:
        """Settle a pending cancel: the vendor was told, or no longer needs to be told."""
        await self._database.execute(sql("sessions.record_cancel_told"), session_id, lease)

    async def state_tokens(self, session_ids: list[SessionId]) -> dict[SessionId, str]:
        """Return how each of these sessions stands, in one statement for all who wait."""
        rows = await self._database.fetch(sql("sessions.standings"), session_ids)
        return {SessionId(row["id"]): row["standing"] for row in rows}

    async def tenant_of(self, session_id: SessionId) -> TenantId | None:
        """Return the tenant that a session belongs to."""
        row = await self._database.fetchrow(sql("sessions.tenant_of"), session_id)
        return TenantId(row["tenant_id"]) if row else None

    async def traceparent(self, session_id: SessionId) -> str | None:
        """Return the traceparent of a session; None if the session has none or does not exist."""
        row = await self._database.fetchrow(sql("sessions.traceparent"), session_id)
        return row["traceparent"] if row else None

    async def timeline_tokens(self, session_ids: list[SessionId]) -> dict[SessionId, str]:
        """Return words that change whenever these sessions' timelines do, in one statement for all."""
        rows = await self._database.fetch(sql("sessions.marks"), session_ids)
        return {SessionId(row["id"]): row["mark"] for row in rows}


class EndRows:
    """The domain's EndUnit over PostgreSQL."""

    def __init__(
        self,
        connection: LentConnection,
        row: Record,
        sequences: list[int],
        *,
        has_stream_audio: bool | None,
    ) -> None:
        self._connection = connection
        self._session_id = SessionId(row["id"])
        self._tenant_id = TenantId(row["tenant_id"])
        self.state = EndState(
            vendor_id=VendorSessionId(row["vendor_id"]),
            account=Account(row["account"]),
            status=row["status"],
            upload=row["upload"],
            templates=row["templates"],
            pending_call=row["owed"],
            pending_call_is_free=row["owed_lease"] is None or bool(row["owed_due"]),
            is_held=row["is_held"],
            is_past=row["is_past"],
            sequences=sequences,
            has_stream_audio=has_stream_audio,
            was_ended=row["ended_at"] is not None,
            is_erased=row["is_erased"],
            is_changing=row["is_changing"],
        )

    async def begin(self, lease: Lease, *, lease_seconds: float, reconcile_seconds: float) -> None:
        """End the session: lease its pending end call to us, and schedule a fetch for each template."""
        await self._connection.execute(sql("sessions.begin_end"), self._session_id, lease, lease_seconds)
        await self._schedule_fetches(reconcile_seconds)

    async def begin_held(self, *, reconcile_seconds: float) -> None:
        """End the session here: its pending calls go on, and the end call comes after them."""
        await self._connection.execute(sql("sessions.begin_held_end"), self._session_id)
        await self._schedule_fetches(reconcile_seconds)

    async def _schedule_fetches(self, reconcile_seconds: float) -> None:
        await self._connection.execute(sql("results.forget_probes"), self._session_id)
        templates: list[TemplateId] = [TemplateId(name) for name in self.state.templates] or [UNFILTERED]
        await self._connection.execute(
            sql("results.schedule"), self._tenant_id, self._session_id, templates, reconcile_seconds
        )

    async def take_over(self, lease: Lease, *, lease_seconds: float) -> None:
        """Lease a pending end call that its last caller did not finish."""
        await self._connection.execute(
            sql("sessions.claim_pending_end"), self._session_id, lease, lease_seconds
        )


def _heard(row: Record | None) -> bool | None:
    """Return whether a stream has brought audio; None if it is open and has brought none yet."""
    if row is None or row["has_audio"]:
        return row is not None
    return None if row["is_open"] else False


def decrypt_details(keyring: Keyring, session_id: str, encrypted: bytes | None) -> SessionDetails:
    """Decrypt a session's patient, reference and metadata; all are empty after an erasure."""
    if encrypted is None:
        return SessionDetails()
    return keyring.decrypt_json(encrypted, details_aad(session_id), SessionDetails)


def decrypt_transcript(keyring: Keyring, session_id: str, encrypted: bytes | None) -> str | None:
    """Decrypt a session's transcript."""
    return None if encrypted is None else keyring.decrypt(encrypted, transcript_aad(session_id)).decode()


def decrypt_warnings(keyring: Keyring, session_id: str, encrypted: bytes | None) -> list[WarningInfo]:
    """Decrypt the warnings that the vendor's answers brought for a session."""
    if encrypted is None:
        return []
    warnings: list[WarningInfo] = keyring.decrypt_json(encrypted, warnings_aad(session_id), list[WarningInfo])
    return warnings
