"""Documents and their versions, encrypted; a result's transaction writes them and locks the session's row."""

import msgspec
from asyncpg import Record

from service.domain.ids import DocumentId, SessionId, TemplateId, TenantId, new_document_id
from service.domain.results.models import DocumentAnnotations, StoredDocument, VendorDocument
from service.store.database import LentConnection, storable
from service.store.encryption import Keyring
from service.store.queries import sql


def document_aad(document_id: str) -> str:
    """Return the AAD that binds a document's data to its id."""
    return f"document.data:{document_id}"


def annotations_aad(document_id: str) -> str:
    """Return the AAD that binds a document's warnings, reason and FHIR resource to its id."""
    return f"document.annotations:{document_id}"


class DocumentUnitRows:
    """The documents of one session, within a transaction that holds the session's row."""

    def __init__(
        self, connection: LentConnection, keyring: Keyring, tenant_id: TenantId, session_id: SessionId
    ) -> None:
        self._connection = connection
        self._keyring = keyring
        self._tenant_id = tenant_id
        self._session_id = session_id

    async def add(
        self,
        document: VendorDocument,
        error_code: str | None,
        *,
        listed: frozenset[str] | None,
        unless_same: bool,
    ) -> float | None:
        """Add a document or a new version; an answer equal to the newest version adds nothing.

        `listed` has the ids under which the vendor has the template's documents now. A new id replaces a
        document that is not listed, and continues its version numbers; with `unless_same`, only if the
        content differs. With None the vendor's list is unknown, and a new id replaces only a failed document.

        Returns the seconds from the session's end to a first, successful version; None for all others.
        """
        template_id, upstream_id = storable(document.template_id), storable(document.upstream_id)
        latest = await self._connection.fetchrow(
            sql("documents.latest"), self._session_id, template_id, upstream_id
        )
        data = msgspec.json.encode(document.data)
        status = "success" if document.status == "success" else "failed"
        if self._is_same(latest, status, data, document.annotations):
            return None
        if latest is None:
            kept = None if listed is None else [storable(each) for each in listed]
            latest = await self._connection.fetchrow(
                sql("documents.replaced_version"), self._session_id, template_id, kept
            )
            if unless_same and self._is_same(latest, status, data, document.annotations):
                return None
        document_id = new_document_id()
        has_annotations = document.annotations != DocumentAnnotations()
        since_end: float | None = await self._connection.fetchval(
            sql("documents.insert"),
            document_id,
            self._tenant_id,
            self._session_id,
            template_id,
            upstream_id,
            latest["version"] + 1 if latest else 1,
            storable(document.type),
            status,
            self._keyring.encrypt(data, document_aad(document_id)),
            error_code,
            latest["lineage"] if latest else None,
            self._keyring.encrypt_json(document.annotations, annotations_aad(document_id))
            if has_annotations
            else None,
        )
        return since_end if latest is None and status == "success" else None

    def _is_same(
        self, row: Record | None, status: str, data: bytes, annotations: DocumentAnnotations
    ) -> bool:
        encrypted = row["data_sealed"] if row is not None else None
        if row is None or encrypted is None or row["status"] != status:
            return False
        known = decrypt_annotations(self._keyring, row["id"], row["annotations_sealed"])
        return self._keyring.decrypt(encrypted, document_aad(row["id"])) == data and known == annotations

    async def known(self, template_id: TemplateId) -> frozenset[str]:
        """Return the vendor's ids of the template's documents that are stored."""
        rows = await self._connection.fetch(sql("documents.known"), self._session_id, template_id)
        return frozenset(row["upstream_id"] for row in rows)

    async def unreleased(self) -> list[StoredDocument]:
        """Return the documents without an event in the outbox, decrypted."""
        rows = await self._connection.fetch(sql("documents.unreleased"), self._session_id)
        return [self._stored(row) for row in rows]

    async def mark_released(self, document_id: DocumentId) -> None:
        """Record that a document's event is in the outbox."""
        await self._connection.execute(sql("documents.mark_released"), [document_id])

    def _stored(self, row: Record) -> StoredDocument:
        return StoredDocument(
            id=DocumentId(row["id"]),
            template_id=TemplateId(row["template_id"]),
            upstream_id=row["upstream_id"],
            version=row["version"],
            type=row["type"],
            status=row["status"],
            data=decrypt_data(self._keyring, row["id"], row["data_sealed"]),
            error_code=row["error_code"],
            replaces=DocumentId(row["replaces"]) if row["replaces"] else None,
            annotations=decrypt_annotations(self._keyring, row["id"], row["annotations_sealed"]),
        )


def decrypt_annotations(keyring: Keyring, document_id: str, encrypted: bytes | None) -> DocumentAnnotations:
    """Decrypt a document's warnings, reason and FHIR resource."""
    if encrypted is None:
        return DocumentAnnotations()
    return keyring.decrypt_json(encrypted, annotations_aad(document_id), DocumentAnnotations)


def decrypt_data(keyring: Keyring, document_id: str, encrypted: bytes | None) -> object:
    """Decrypt a document's data; None when it was erased."""
    return msgspec.json.decode(keyring.decrypt(encrypted, document_aad(document_id))) if encrypted else None
