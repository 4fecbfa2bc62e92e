"""The documents API: documents by their own id, whatever their session (docs/vendor.md#documents-api)."""

from __future__ import annotations

import time
from typing import Any

from litestar import Response, delete, get, post
from litestar.params import FromPath

from service.sandbox.vendor.access import only_july
from service.sandbox.vendor.errors import StandInError, field_error, transaction_error
from service.sandbox.vendor.processing import settle
from service.sandbox.vendor.records import GOOD, Document, Session, timestamp
from service.sandbox.vendor.requests import VendorRequest, read_object, user_of, vendor_of
from service.sandbox.vendor.response_parts import describe_document, presign
from service.sandbox.vendor.state import VendorState

_PATH = "/voice/api/v1/documents"
_KINDS = ("context", "transcript", "custom", "notes", "integration")
_NO_TEMPLATE = "__non_tmp_doc"


@post(_PATH)
async def write_document(request: VendorRequest) -> Response[dict[str, Any]]:
    """Make a document, or with a `document_id` change one; content is put to the address of the answer."""
    vendor = vendor_of(request)
    body = await read_object(request)
    kind = body.get("type")
    if kind is not None and kind not in _KINDS:
        listed = ", ".join(f"'{each}'" for each in _KINDS)
        odd = "\"<class 'voice2rx.choices.DocumentType.Config'>\""
        raise field_error("type", f"Input should be {listed} or {odd}")
    session_id = str(body.get("session_id"))
    if body.get("document_id") is not None:
        session, document = _find(vendor, str(body["document_id"]), session_id, user_of(request))
        if document.deleted:
            raise _missing(document.document_id, session_id)
        _change(document, body)
        settle(vendor, session)
        return Response(_view(vendor, session, document, writes=True), status_code=200)
    found = vendor.sessions.get(session_id)
    if found is None or found.deleted:
        message = f"Transaction not found: {session_id}"
        raise transaction_error(404, "resource_not_found", message, session_id, business_id="")
    document = _make(vendor, body)
    found.documents.append(document)
    settle(vendor, found)
    answer = _view(vendor, found, document, writes=True)
    answer["data"]["updated_at"] = int(document.created_at)
    return Response(answer, status_code=201)


@get(f"{_PATH}/{{document_id:str}}")
async def read_document(request: VendorRequest, document_id: FromPath[str]) -> Response[dict[str, Any]]:
    """Read one document's record; its content is behind `presigned_url`."""
    vendor = vendor_of(request)
    session, document = _find(vendor, document_id, document_id, user_of(request))
    if document.deleted:
        message = f"Document has been deleted: {document_id}"
        raise transaction_error(404, "resource_not_found", message, document_id, business_id="")
    answer = _view(vendor, session, document, writes=False)
    answer["data"] |= {"tip_tap_data": None, "ag_ui_data": None, "markdown_data": None}
    if vendor.settings.is_july:
        answer["data"]["published_at"] = ""
    return Response(answer, status_code=200)


@delete(f"{_PATH}/{{document_id:str}}", status_code=200)
async def delete_document(request: VendorRequest, document_id: FromPath[str]) -> Response[dict[str, Any]]:
    """Delete a document; Get Session with its id still shows it (docs/vendor.md#document-deleted)."""
    vendor = vendor_of(request)
    session, document = _find(vendor, document_id, document_id, user_of(request))
    message = "Document already deleted" if document.deleted else "Document deleted successfully"
    document.deleted = True
    session.announce_change()
    return Response({"status": "success", "message": message}, status_code=200)


@post(
    "/voice/api/v1/sessions/{session_id:str}/documents/{document_id:str}/publish",
    guards=[only_july],
)
async def publish_document(
    request: VendorRequest, session_id: FromPath[str], document_id: FromPath[str]
) -> Response[dict[str, Any]]:
    """Accept a publication; nothing comes of it here."""
    _find(vendor_of(request), document_id, document_id, user_of(request))
    accepted = {"document_id": document_id, "session_id": session_id, "accepted_at": int(time.time())}
    return Response({"status": "accepted", "data": accepted}, status_code=202)


def _find(vendor: VendorState, document_id: str, about: str, user: str) -> tuple[Session, Document]:
    found = vendor.find_document(document_id)
    # August hides the documents of another user, though not the session's transcript
    # (docs/vendor.md#other-user).
    if found is None or (vendor.settings.is_august and found[0].owner != user):
        raise _missing(document_id, about)
    return found


def _missing(document_id: str, about: str) -> StandInError:
    message = f"Document not found: {document_id}"
    return transaction_error(404, "resource_not_found", message, about, business_id="")


def _make(vendor: VendorState, body: dict[str, Any]) -> Document:
    template_id = str(body.get("template_id") or _NO_TEMPLATE)
    return Document(
        template_id,
        status=str(body.get("status") or GOOD),
        name=str(body.get("document_name") or vendor.name_of(template_id)),
        kind=str(body.get("type") or "custom"),
        errors=list(body.get("errors") or []),
        warnings=list(body.get("warnings") or []),
    )


def _change(document: Document, body: dict[str, Any]) -> None:
    document.status = str(body.get("status") or document.status)
    document.name = str(body.get("document_name") or document.name)
    document.errors = list(body.get("errors", document.errors))
    document.warnings = list(body.get("warnings", document.warnings))
    document.updated_at = time.time()


def _view(vendor: VendorState, session: Session, document: Document, *, writes: bool) -> dict[str, Any]:
    settings = vendor.settings
    has_address = not settings.is_july and (writes or document.has_path)
    view: dict[str, Any] = {
        **describe_document(session, document),
        "usage_information": {},
        "presigned_url": presign(session, document)[0] if has_address else None,
        "updated_at": timestamp(document.updated_at),
    }
    if settings.is_july:
        view["publish"] = {}
    return {"status": "success", "data": view}
