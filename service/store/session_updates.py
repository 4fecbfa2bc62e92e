"""Changes, cancels and erasures of sessions by their tenant, with the audit entry in the same transaction."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from asyncpg import Record

from schemas.sessions import SessionChange, SessionStatus
from service.domain.api_keys.models import Principal
from service.domain.ids import Account, KeyId, Lease, SessionId, TenantId, VendorSessionId
from service.domain.sessions.models import ChangeState, SessionDetails
from service.store.audit import insert_audit_entry
from service.store.database import Database, LentConnection
from service.store.encryption import Keyring
from service.store.erasure import erase_session_rows
from service.store.lifecycle_metrics import SETTLED
from service.store.queries import sql
from service.store.sessions import SessionRows, decrypt_details, details_aad


class SessionUpdateRows:
    """The domain's ChangeStore over PostgreSQL."""

    def __init__(self, database: Database, keyring: Keyring, sessions: SessionRows) -> None:
        self._database = database
        self._keyring = keyring
        self._sessions = sessions

    @asynccontextmanager
    async def locked(
        self, tenant_id: TenantId, session_id: SessionId, *, to_erase: bool = False
    ) -> AsyncIterator["SessionUpdateUnitRows | None"]:
        """Lock a session; None when the tenant has no such session."""
        async with self._database.transaction() as connection:
            if to_erase:
                await connection.execute(sql("erasure.connections"), session_id, tenant_id)
            row = await connection.fetchrow(sql("sessions.lock"), session_id, tenant_id)
            unit = SessionUpdateUnitRows(connection, self._keyring, row) if row else None
            yield unit
        if unit is not None and unit.is_cancelled:
            SETTLED.labels("cancelled").inc()

    async def record_change(
        self,
        principal: Principal,
        session_id: SessionId,
        lease: Lease,
        change: SessionChange,
        details: SessionDetails,
    ) -> bool:
        """Record a change that the vendor accepted; false if the lease was lost or the session is over."""
        patient_hash = await self._sessions.patient_hash(
            principal.tenant_id, (details.patient or {}).get("id")
        )
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(
                sql("session_updates.record"),
                session_id,
                lease,
                change.templates,
                change.languages,
                change.mode,
                change.model,
                self._keyring.encrypt_json(details, details_aad(session_id)),
                patient_hash,
            )
            if row is not None:
                fields = [name for name in change.__struct_fields__ if getattr(change, name) is not None]
                facts = {"fields": fields}
                await insert_audit_entry(
                    connection, principal.tenant_id, principal.key_id, "session.changed", session_id, facts
                )
        return row is not None

    async def release_change(self, session_id: SessionId, lease: Lease) -> None:
        """Release the lease after a change that failed or has an unknown outcome."""
        await self._database.execute(sql("session_updates.release"), session_id, lease)


class SessionUpdateUnitRows:
    """The domain's ChangeUnit over PostgreSQL: one transaction, the session's row locked."""

    def __init__(self, connection: LentConnection, keyring: Keyring, row: Record) -> None:
        self._connection = connection
        self._keyring = keyring
        self._encrypted_details = row["details_sealed"]
        self._session_id = SessionId(row["id"])
        self._tenant_id = TenantId(row["tenant_id"])
        self.is_cancelled = False
        self.state = ChangeState(
            vendor_id=VendorSessionId(row["vendor_id"]),
            account=Account(row["account"]),
            templates=row["templates"],
            upload=row["upload"],
            model=row["model"],
            languages=row["languages"],
            status=row["status"],
            pending_call=row["owed"],
            pending_call_is_free=row["owed_lease"] is None or bool(row["owed_due"]),
            is_past=row["is_past"],
            is_erased=row["is_erased"],
            is_changing=row["is_changing"],
            is_final=row["is_final"],
        )

    def details(self) -> SessionDetails:
        """Decrypt the session's details; raises DecryptionError, so an erasure does without them."""
        return decrypt_details(self._keyring, self._session_id, self._encrypted_details)

    async def lease_change(self, lease: Lease, lease_seconds: float) -> None:
        """Lease the right to change the session; until it is released nobody else changes or ends it."""
        await self._connection.execute(sql("session_updates.lease"), self._session_id, lease, lease_seconds)

    async def cancel(self, lease: Lease | None, lease_seconds: float) -> None:
        """Cancel the session, with a pending cancel call to the vendor.

        The call is leased to us; with `lease` None it becomes due when the present pending call is over.
        """
        await self._connection.execute(sql("session_updates.cancel"), self._session_id, lease, lease_seconds)
        await self._connection.execute(sql("results.settle_rest"), self._session_id, "cancelled")
        self.is_cancelled = True

    async def erase(self, actor: KeyId) -> SessionStatus:
        """Erase all personal data of the session in every table; return the status that stays."""
        return await erase_session_rows(self._connection, self._tenant_id, self._session_id, actor)
