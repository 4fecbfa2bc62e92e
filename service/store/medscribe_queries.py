"""Reads sessions and documents for clients of the vendor's own protocol (/voice)."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from asyncpg import Record
from msgspec import Struct

from schemas.sessions import Upload
from service.domain.errors import NotFound
from service.domain.ids import SessionId, TemplateId, TenantId
from service.domain.sessions.models import SessionDetails
from service.store.database import Database
from service.store.documents import decrypt_data
from service.store.encryption import Keyring
from service.store.large_values import LargeValues, Reserve
from service.store.queries import sql
from service.store.sessions import decrypt_details, decrypt_transcript

# We upload files as `audio_0.wav`; the vendor lists them without this prefix (docs/vendor.md#end).
_FILE_BASE = "audio_"


class MedscribeDocument(Struct, frozen=True, kw_only=True):
    """The newest version of one document."""

    template_id: str
    upstream_id: str
    type: str | None
    status: str
    data: Any
    error_code: str | None


class MedscribeState(Struct, frozen=True, kw_only=True):
    """A session's row, decrypted. `is_past`: the session expired without an end."""

    id: SessionId
    status: str
    upload: Upload
    templates: list[str]
    details: SessionDetails
    transcript: str | None
    model_used: str | None
    language_detected: str | None
    error_code: str | None
    error_message: str | None
    vendor_files: int | None
    created_at: datetime
    expires_at: datetime
    settled_at: datetime | None
    is_past: bool
    files: list[str]

    @property
    def is_over(self) -> bool:
        """Whether the session has ended, by a client or by its expiry."""
        return self.is_past or self.status not in {"created", "recording", "processing"}


class MedscribeQueries:
    """Reads for /voice/v1 from our rows, without calling the vendor."""

    def __init__(self, database: Database, keyring: Keyring, reserve: Reserve | None = None) -> None:
        self._database = database
        self._large = LargeValues(database, reserve)
        self._keyring = keyring

    async def session(self, tenant_id: TenantId, session_id: SessionId) -> MedscribeState:
        """Return a session. Raises NotFound, for an erased one too."""
        row = await self._database.fetchrow(sql("medscribe.session"), tenant_id, session_id)
        if row is None:
            raise NotFound("no such session")
        transcripts = await self._large.transcripts(tenant_id, [row])
        return MedscribeState(
            id=session_id,
            status=row["status"],
            upload=row["upload"],
            templates=row["templates"],
            details=decrypt_details(self._keyring, session_id, row["details_sealed"]),
            transcript=decrypt_transcript(self._keyring, session_id, transcripts[session_id]),
            model_used=row["model_used"],
            language_detected=row["language_detected"],
            error_code=row["error_code"],
            error_message=row["error_message"],
            vendor_files=row["vendor_files"],
            created_at=row["created_at"],
            expires_at=row["expires_at"],
            settled_at=row["settled_at"],
            is_past=row["is_past"],
            files=[name.removeprefix(_FILE_BASE) for name in row["files"]],
        )

    async def documents(
        self, tenant_id: TenantId, session_id: SessionId, template_id: TemplateId | None
    ) -> list[MedscribeDocument]:
        """Return the newest version of each document of a session, or of one template's."""
        rows: Sequence[Record] = await self._database.fetch(
            sql("documents.of_session"), tenant_id, session_id, template_id
        )
        data = await self._large.data(tenant_id, rows)
        return [
            MedscribeDocument(
                template_id=row["template_id"],
                upstream_id=row["upstream_id"],
                type=row["type"],
                status=row["status"],
                data=decrypt_data(self._keyring, row["id"], data[row["id"]]),
                error_code=row["error_code"],
            )
            for row in rows
        ]

    async def is_pending(
        self, session_id: SessionId, template_id: TemplateId | None, upstream_id: str | None
    ) -> bool:
        """Return whether a fetch may still bring a document of that template or id."""
        return (
            await self._database.fetchrow(sql("medscribe.pending"), session_id, template_id, upstream_id)
            is not None
        )
