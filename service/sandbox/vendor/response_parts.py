"""Pieces that several answers share: patient, audio lists, addresses with a token, document entries."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from typing import Any

from service.sandbox.vendor.errors import BUSINESS_ID
from service.sandbox.vendor.records import FAILED, Document, Session, timestamp
from service.sandbox.vendor.settings import VendorSettings

BUCKET = "voice-records"
_FORM_TOKEN_SECONDS = 10_800
_ADDRESS_SECONDS = 3_600
# Tokens of one process are good in it alone.
_KEY = secrets.token_bytes(32)


def view_patient(settings: VendorSettings, session: Session) -> dict[str, Any]:
    """Give the patient under the character's own name (docs/vendor.md#patient-names).

    Without a patient the field is null on-prem, and absent in hosted.
    """
    name = settings.traits.patient_field
    if settings.is_hosted:
        return {} if session.patient is None else {name: session.patient}
    return {name: session.patient}


def view_upload_url(session: Session, *, form: bool) -> Any:
    """Give the string, or the form object to those who ask for it (docs/vendor.md#upload-url)."""
    return form_upload(session) if form and session.upload_type == "chunked" else session.upload_url


def form_upload(session: Session) -> dict[str, Any]:
    """Make the object for form posts to the object storage, with a fresh token of three hours."""
    expires = int(time.time()) + _FORM_TOKEN_SECONDS
    fields = {
        "key": f"{session.folder}/${{filename}}",
        "x-scribe-prefix": session.folder,
        "x-scribe-expires": str(expires),
        "x-scribe-token": sign_address(session.folder, expires),
        "x-amz-meta-bid": BUSINESS_ID,
        "x-amz-meta-txnid": session.session_id,
    }
    upload = {"url": f"{session.base_url}/voice/v1/blob-upload/{BUCKET}", "fields": fields}
    return {"uploadData": upload, "folderPath": f"{session.folder}/", "txn_id": session.session_id}


def sign_address(path: str, expires: int) -> str:
    """Make the token that opens `path` until `expires`, in Unix seconds."""
    return hmac.new(_KEY, f"{path}\n{expires}".encode(), hashlib.sha256).hexdigest()


def is_address_good(path: str, expires: str, token: str) -> bool:
    """Whether the token was made here for this path, and is not too old."""
    if not expires.isdigit() or int(expires) < time.time():
        return False
    return hmac.compare_digest(sign_address(path, int(expires)).encode(), token.encode())


def presign(session: Session, document: Document) -> tuple[str, int]:
    """Make the address of a document's content, good for an hour without any other token, and its end."""
    path = f"{session.folder}/documents/{document.document_id}.txt"
    expires = int(time.time()) + _ADDRESS_SECONDS
    query = f"expires={expires}&token={sign_address(path, expires)}"
    return f"{session.base_url}/voice/v1/blob/{BUCKET}/{path}?{query}", expires


def describe_document(session: Session, document: Document) -> dict[str, Any]:
    """Return the fields that a document has wherever the vendor shows it as a row of its own."""
    return {
        "document_id": document.document_id,
        "session_id": session.session_id,
        "template_id": document.template_id,
        "document_name": document.name,
        "type": "markdown",
        "document_type": document.kind,
        "status": document.status,
        "errors": document.errors,
        "warnings": document.warnings,
        "created_at": int(document.created_at),
    }


def list_audio(settings: VendorSettings, session: Session, *, ordered: bool = False) -> list[str]:
    """List stored names: by arrival before the end, by sequence after it (on-prem: as URLs).

    A form upload shows only after the end; of a `single` recording only the newest file before it.
    """
    if ordered or session.committed:
        chunks = session.ordered_chunks()
    else:
        chunks = [chunk for chunk in session.chunks.values() if not chunk.by_form]
    names = [chunk.name for chunk in chunks]
    if settings.is_hosted:
        return names
    if session.upload_type == "single":
        folder = f"s3://{BUCKET}/{settings.traits.client_id}/{session.session_id}"
        shown = names if session.committed else names[-1:]
        return [f"{folder}/{name}" for name in shown]
    if session.ended_at is None:
        return names
    return [f"s3://{BUCKET}/{session.folder}/{name}" for name in names]


def view_entry(
    settings: VendorSettings, session: Session, document: Document, status: str | None = None
) -> dict[str, dict[str, Any]]:
    """Give one entry of `templates`; `status` replaces the document's own word."""
    word = status or document.status
    data = None if document.by_address else document.read()
    entry: dict[str, Any] = {
        "status": settings.traits.failure_word if word == FAILED else word,
        "errors": document.errors,
        "warnings": document.warnings,
        "data": data,
        "document_id": document.document_id,
        "document_type": document.template_id if settings.is_hosted else document.kind,
        "publish": {},
    }
    if document.by_address or session.flavour:
        url, expires = presign(session, document)
        has_none = settings.is_july and not document.by_address
        entry |= {"presigned_url": None if has_none else url, "presigned_url_expires_at": expires}
    return {document.template_id: entry}


def view_times(settings: VendorSettings, session: Session) -> dict[str, Any]:
    """Give `completed_at`; null on the first look where the settings say so (docs/vendor.md#completed-at)."""
    hides = settings.completed_at_null_first and not session.completed_shown
    session.completed_shown = True
    ended_at = session.completed_at
    if ended_at is None and settings.is_hosted:
        ended_at = session.created_at
    return {"completed_at": None if hides or ended_at is None else timestamp(ended_at)}
