"""Reads sessions, timelines and documents for the EMR, decrypted."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from asyncpg import Record
from msgspec import UNSET, Struct, UnsetType

from schemas.pages import Page
from schemas.results import Document, DocumentSummary, ErrorInfo, WarningInfo
from schemas.sessions import DeliveryCounts, Session, TimelineEntry
from service.domain.errors import NotFound, SessionErased
from service.domain.ids import DocumentId, SessionId, TemplateId, TenantId
from service.domain.results.events import MESSAGES, document_error, session_warnings
from service.domain.results.models import DocumentAnnotations
from service.domain.sessions.models import SessionDetails
from service.store.database import Database
from service.store.documents import decrypt_annotations, decrypt_data
from service.store.encryption import Keyring
from service.store.large_values import LargeValues, Reserve
from service.store.paging import PageAfter, page_of
from service.store.queries import sql
from service.store.sessions import SessionRows, decrypt_details, decrypt_transcript, decrypt_warnings
from service.store.streams import StreamRows
from service.store.tolerant_decryption import UNREADABLE, RowDecryptor

# The stored transcripts of one page of sessions may have so many bytes together.
_MAX_PAGE_BYTES = 4 * 1024 * 1024
# How many entries of a timeline are read at once; an entry has some 250 bytes once it is encoded.
_SMALL_TIMELINE_PAGE, _LARGE_TIMELINE_PAGE = 250, 500
# A timeline of few entries is not worth a reservation; an entry's row, object and text take 1.2 kB together,
# which is three times this: a reservation counts what is stored threefold.
_FEW_ENTRIES = 250
_BYTES_OF_ENTRY = 400


class SessionFilter(Struct, frozen=True, kw_only=True):
    """A filter of a list of sessions; a field that is None filters nothing."""

    status: str | None = None
    reference: str | None = None
    patient_id: str | None = None
    created_after: datetime | None = None


class SessionQueries:
    """Reads sessions with their documents, deliveries and timeline."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        sessions: SessionRows,
        streams: StreamRows,
        public_url: str,
        reserve: Reserve | None = None,
    ) -> None:
        """`reserve` acquires memory for large values before they are read."""
        self._database = database
        self._reserve = reserve
        self._large = LargeValues(database, reserve)
        self._keyring = keyring
        self._sessions = sessions
        self._streams = streams
        self._public_url = public_url

    async def session(self, tenant_id: TenantId, session_id: SessionId) -> Session:
        """Return a session. Raises NotFound."""
        row = await self._database.fetchrow(sql("sessions.view"), tenant_id, session_id)
        if row is None:
            raise NotFound("no such session")
        if row["erased_at"] is not None:
            raise SessionErased("the session was erased")
        return (await self._assemble(tenant_id, [row]))[0]

    async def page(
        self, tenant_id: TenantId, wanted: SessionFilter, after: PageAfter | None, limit: int
    ) -> Page[Session]:
        """Return one page of a tenant's sessions, newest first; long transcripts make it shorter."""
        at, last = after or (None, None)
        rows = await self._database.fetch(
            sql("sessions.page"),
            tenant_id,
            wanted.status,
            await self._sessions.reference_hash(tenant_id, wanted.reference),
            await self._sessions.patient_hash(tenant_id, wanted.patient_id),
            wanted.created_after,
            at,
            last,
            limit + 1,
        )
        shown = _fitting(rows[:limit])
        sessions = {session.id: session for session in await self._assemble(tenant_id, rows[:shown])}
        return page_of(rows[: shown + 1], shown, lambda row: sessions[row["id"]])

    async def timeline(self, tenant_id: TenantId, session_id: SessionId) -> list[TimelineEntry]:
        """Return the timeline of a session, oldest first. Raises NotFound or SessionErased."""
        await self.is_over(tenant_id, session_id)
        row = await self._database.fetchrow(sql("sessions.timeline_size"), session_id)
        if row is not None and self._reserve is not None and row["entries"] > _FEW_ENTRIES:
            await self._reserve(row["entries"] * _BYTES_OF_ENTRY)
        return await self.entries(session_id)

    async def entries(self, session_id: SessionId) -> list[TimelineEntry]:
        """Return the timeline of a session; the caller has checked that the tenant owns the session."""
        return await self._entries(session_id, None, 0)

    async def entry_pages(
        self, session_id: SessionId, *, in_small_pages: bool = False
    ) -> AsyncIterator[list[TimelineEntry]]:
        """Read the timeline in pages, so that no stream keeps all of a long one; ownership was checked.

        An entry that becomes earlier than a page that was read already changes the session's mark, and is
        read then. Each page costs PostgreSQL the whole timeline; small ones are for a client that gets all of
        it, and keeps little of it in memory here when it reads slowly.
        """
        start, size = 0, _SMALL_TIMELINE_PAGE if in_small_pages else _LARGE_TIMELINE_PAGE
        while True:
            page = await self._entries(session_id, size, start)
            is_last = len(page) < size
            yield page
            if is_last:
                return
            start += size

    async def _entries(self, session_id: SessionId, limit: int | None, offset: int) -> list[TimelineEntry]:
        rows = await self._database.fetch(sql("sessions.timeline"), session_id, limit, offset)
        return [TimelineEntry(at=row["at"], type=row["type"], data=row["data"]) for row in rows]

    async def is_over(self, tenant_id: TenantId, session_id: SessionId) -> bool:
        """Return whether the session will change no more. Raises NotFound or SessionErased."""
        row = await self._database.fetchrow(sql("sessions.outlook"), tenant_id, session_id)
        if row is None:
            raise NotFound("no such session")
        if row["is_erased"]:
            raise SessionErased("the session was erased")
        return bool(row["is_over"])

    async def documents(
        self, tenant_id: TenantId, session_id: SessionId, template_id: TemplateId | None
    ) -> list[Document]:
        """Return the newest version of each document of a session. Raises NotFound or SessionErased."""
        details = await self._database.fetchrow(sql("documents.session_details"), tenant_id, session_id)
        if details is None:
            raise NotFound("no such session")
        if details["is_erased"]:
            raise SessionErased("the session was erased")
        rows = await self._database.fetch(sql("documents.of_session"), tenant_id, session_id, template_id)
        reference = (
            await self._details(RowDecryptor(self._database, "sessions", session_id), details)
        ).reference
        data = await self._large.data(tenant_id, rows)
        missing = details["audio_missing"]
        return [await self._document(row, data[row["id"]], reference, missing) for row in rows]

    async def document(self, tenant_id: TenantId, document_id: DocumentId) -> Document:
        """Return one document, in any version. Raises NotFound or SessionErased."""
        row = await self._database.fetchrow(sql("documents.one"), tenant_id, document_id)
        if row is None:
            raise NotFound("no such document")
        if row["is_erased"]:
            raise SessionErased("the document's session was erased")
        session = RowDecryptor(self._database, "sessions", row["session_id"])
        data = await self._large.data(tenant_id, [row])
        reference = (await self._details(session, row)).reference
        return await self._document(row, data[row["id"]], reference, row["audio_missing"])

    async def _assemble(self, tenant_id: TenantId, rows: Sequence[Record]) -> list[Session]:
        transcripts = await self._large.transcripts(tenant_id, rows)
        ids = [row["id"] for row in rows]
        settled = [row["id"] for row in rows if row["ended_at"] or row["settled_at"]]
        documents: dict[str, list[DocumentSummary]] = {session_id: [] for session_id in ids}
        counts: dict[str, DeliveryCounts] = {}
        if settled:
            for found in await self._database.fetch(sql("sessions.document_summaries"), settled):
                documents[found["session_id"]].append(_summary(found))
            for found in await self._database.fetch(sql("sessions.delivery_counts"), settled):
                counts[found["session_id"]] = DeliveryCounts(
                    pending=found["pending"], delivered=found["delivered"], dead=found["dead"]
                )
        return [
            await self._session(
                row,
                transcripts[row["id"]],
                await self._stream_url(row),
                documents[row["id"]],
                counts.get(row["id"], DeliveryCounts()),
            )
            for row in rows
        ]

    async def _stream_url(self, row: Record) -> str | UnsetType:
        """Return the URL that lets its bearer stream to the session, with the scheme ws or wss."""
        if row["upload"] != "stream":
            return UNSET
        base = self._public_url.replace("http", "ws", 1)
        return f"{base}/v1/stream/{row['id']}/{await self._streams.capability(row['id'])}"

    async def _session(
        self,
        row: Record,
        encrypted_transcript: bytes | None,
        stream_url: str | UnsetType,
        documents: list[DocumentSummary],
        counts: DeliveryCounts,
    ) -> Session:
        shown = RowDecryptor(self._database, "sessions", row["id"])
        details = await self._details(shown, row)
        transcript = await shown.value(
            "transcript_sealed",
            lambda: decrypt_transcript(self._keyring, row["id"], encrypted_transcript),
            None,
        )
        warnings = await shown.value(
            "warnings_sealed",
            lambda: decrypt_warnings(self._keyring, row["id"], row["warnings_sealed"]),
            list[WarningInfo](),
        )
        chunked = row["upload"] == "chunked"
        has_result = row["status"] in {"completed", "partial"}
        return Session(
            id=row["id"],
            status=row["status"],
            upload=row["upload"],
            templates=row["templates"],
            mode=row["mode"],
            model=row["model"],
            languages=row["languages"],
            transcript_language=row["transcript_language"],
            patient=details.patient,
            reference=details.reference,
            metadata=details.metadata,
            audio_url=f"{self._public_url}/v1/sessions/{row['id']}/audio" if chunked else UNSET,
            stream_url=stream_url,
            chunks_received=row["chunks_received"],
            created_at=row["created_at"],
            expires_at=row["expires_at"],
            ended_at=row["ended_at"],
            completed_at=row["settled_at"] if has_result else None,
            transcript=transcript,
            model_used=row["model_used"],
            language_detected=row["language_detected"],
            documents=documents,
            deliveries=counts,
            error=_session_error(row, shown),
            warnings=session_warnings(warnings, row["audio_missing"]),
        )

    async def _details(self, shown: RowDecryptor, row: Record) -> SessionDetails:
        return await shown.value(
            "details_sealed",
            lambda: decrypt_details(self._keyring, shown.id, row["details_sealed"]),
            SessionDetails(),
        )

    async def _document(
        self,
        row: Record,
        encrypted_data: bytes | None,
        reference: str | None,
        audio_missing: list[int] | None,
    ) -> Document:
        shown = RowDecryptor(self._database, "documents", row["id"])
        data = await shown.value(
            "data_sealed", lambda: decrypt_data(self._keyring, row["id"], encrypted_data), None
        )
        annotations = await shown.value(
            "annotations_sealed",
            lambda: decrypt_annotations(self._keyring, row["id"], row["annotations_sealed"]),
            DocumentAnnotations(),
        )
        return Document(
            id=row["id"],
            session_id=row["session_id"],
            reference=reference,
            template_id=row["template_id"],
            type=row["type"],
            status=row["status"],
            data=data,
            error=document_error(
                row["error_code"] if shown.is_whole else UNREADABLE, annotations.vendor_code
            ),
            warnings=session_warnings(annotations.warnings, audio_missing),
            fhir=annotations.fhir,
            version=row["version"],
            upstream_id=row["upstream_id"],
            received_at=row["received_at"],
        )


def _fitting(rows: Sequence[Record]) -> int:
    """Return how many rows fit on a page by the size of their transcripts; the first always fits."""
    size = 0
    for number, row in enumerate(rows):
        size += row["transcript_bytes"] or 0
        if size > _MAX_PAGE_BYTES and number > 0:
            return number
    return len(rows)


def _session_error(row: Record, shown: RowDecryptor) -> ErrorInfo | None:
    if not shown.is_whole:
        return ErrorInfo(code=UNREADABLE, message=MESSAGES[UNREADABLE])
    code = row["error_code"]
    return ErrorInfo(code=code, message=row["error_message"] or "") if code else None


def _summary(row: Record) -> DocumentSummary:
    return DocumentSummary(
        id=row["id"],
        template_id=row["template_id"],
        status=row["status"],
        type=row["type"],
        received_at=row["received_at"],
    )
