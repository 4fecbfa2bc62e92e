"""Fetches of documents that the EMR requests after its session has finished."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from asyncpg import Record

from service.domain.ids import Account, Lease, SessionId, TemplateId, TenantId, VendorSessionId
from service.domain.results.models import AdditionalDocumentState
from service.store.database import Database, LentConnection, storable
from service.store.queries import sql


class AdditionalDocumentRows:
    """The domain's AdditionalDocumentStore over PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def opening(
        self, tenant_id: TenantId, session_id: SessionId, template_id: TemplateId
    ) -> AsyncIterator["AdditionalDocumentUnitRows | None"]:
        """Lock a session; None when the tenant has no such session."""
        async with self._database.transaction() as connection:
            session = await connection.fetchrow(sql("sessions.lock"), session_id, tenant_id)
            if session is None:
                yield None
                return
            call = await connection.fetchrow(sql("additional_documents.of_template"), session_id, template_id)
            known = await connection.fetch(sql("documents.known"), session_id, template_id)
            state = _state(session, call, frozenset(row["upstream_id"] for row in known))
            yield AdditionalDocumentUnitRows(connection, tenant_id, session_id, template_id, state)

    async def record_asked(
        self,
        session_id: SessionId,
        template_id: TemplateId,
        lease: Lease,
        document_id: str | None,
        wait_seconds: float,
    ) -> None:
        """Record that the vendor makes the document; the fetch is due after the wait."""
        await self._database.execute(
            sql("additional_documents.record_asked"),
            session_id,
            template_id,
            lease,
            storable(document_id),
            wait_seconds,
        )

    async def leave(
        self, session_id: SessionId, template_id: TemplateId, lease: Lease, wait_seconds: float
    ) -> None:
        """Release a request with an unknown outcome: the next caller, or a worker after the wait, asks."""
        await self._database.execute(
            sql("additional_documents.leave"), session_id, template_id, lease, wait_seconds
        )

    async def withdraw(self, session_id: SessionId, template_id: TemplateId, lease: Lease) -> None:
        """End a request that the vendor refused."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(sql("additional_documents.find"), session_id, template_id, lease)
            if row is not None:
                await drop_additional_document(connection, row["id"], lease)


class AdditionalDocumentUnitRows:
    """The domain's AdditionalDocumentUnit over PostgreSQL: one transaction, the session's row locked."""

    def __init__(
        self,
        connection: LentConnection,
        tenant_id: TenantId,
        session_id: SessionId,
        template_id: TemplateId,
        state: AdditionalDocumentState,
    ) -> None:
        self._connection = connection
        self._tenant_id = tenant_id
        self._session_id = session_id
        self._template_id = template_id
        self.state = state

    async def begin(self, lease: Lease, lease_seconds: float) -> None:
        """Insert the fetch before the vendor is called: a crash then leaves a row that a worker resolves."""
        await self._connection.execute(
            sql("additional_documents.begin"),
            self._tenant_id,
            self._session_id,
            self._template_id,
            lease,
            lease_seconds,
        )


async def drop_additional_document(connection: LentConnection, fetch_id: int, lease: Lease) -> None:
    """End the fetch of an additional document that the vendor was never asked for.

    Documents of the same template may exist from before: then the fetch's row stays, settled.
    """
    await connection.execute(sql("additional_documents.drop"), fetch_id, lease)
    await connection.execute(sql("additional_documents.settle_unasked"), fetch_id, lease)


def _state(session: Record, call: Record | None, known: frozenset[str]) -> AdditionalDocumentState:
    is_pending = call is not None and call["is_pending"]
    is_asking = call is not None and is_pending and call["asked"] == "asking"
    return AdditionalDocumentState(
        vendor_id=VendorSessionId(session["vendor_id"]),
        account=Account(session["account"]),
        status=session["status"],
        is_erased=session["is_erased"],
        is_pending=is_pending,
        is_asking=is_asking and call is not None and call["is_leased"],
        is_unclear=is_asking and call is not None and not call["is_leased"],
        document_id=call["document_id"] if call is not None and is_pending else None,
        known=known,
        asked_until=call["asked_until"] if call is not None else None,
    )
