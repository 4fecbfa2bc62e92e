"""The vendor's second view of sessions: records, history, the pipeline's callback, erasure, context."""

from __future__ import annotations

from typing import Any

from litestar import Response, delete, get, patch
from litestar.params import FromPath, FromQuery

from service.sandbox.vendor.access import only_july
from service.sandbox.vendor.errors import StandInError, plain_error, transaction_error
from service.sandbox.vendor.processing import settle
from service.sandbox.vendor.records import PENDING, Session
from service.sandbox.vendor.requests import VendorRequest, account_of, read_object, user_of, vendor_of
from service.sandbox.vendor.rows import view_record, view_row
from service.sandbox.vendor.state import VendorState
from service.sandbox.vendor.webhooks import announce_event

_PATH = "/voice/api/v2/transaction/{session_id:str}"
_FAILURES = ("request_failure", "system_failure")
_HISTORY_LENGTH = 10


@get("/voice/api/v1/sessions/{session_id:str}")
async def read_record(
    request: VendorRequest, session_id: FromPath[str], presigned: FromQuery[bool] = False
) -> Response[dict[str, Any]]:
    """Read the session record, its documents with their states among it."""
    vendor = vendor_of(request)
    session = vendor.sessions.get(session_id)
    if session is None or session.deleted:
        raise transaction_error(404, "resource_not_found", "Session Not found", session_id)
    status, record = view_record(vendor, session, presigned=presigned)
    return Response(record, status_code=status)


@patch("/voice/api/v1/sessions/{session_id:str}/context", guards=[only_july])
async def change_context(request: VendorRequest, session_id: FromPath[str]) -> Response[dict[str, Any]]:
    """Add earlier documents and sessions that the notes may draw upon."""
    vendor = vendor_of(request)
    session = vendor.session(session_id)
    asked: dict[str, Any] = (await read_object(request)).get("context") or {}
    known = session.context or {"documents": [], "past_sessions": [], "attachments": []}
    past = [
        {"session_id": each, "date_epoch": int(vendor.session(each).created_at)}
        for each in asked.get("past_sessions", [])
    ]
    session.context = {
        "documents": asked.get("documents", known["documents"]),
        "past_sessions": past or known["past_sessions"],
        "attachments": known["attachments"],
    }
    return Response({"status": "success", "data": {"context": session.context}}, status_code=200)


@get("/voice/api/v2/transaction/history")
async def list_history(
    request: VendorRequest, oid: FromQuery[str | None] = None, count: FromQuery[int] = _HISTORY_LENGTH
) -> Response[dict[str, Any]]:
    """List the user's sessions, newest first; none at all is 404 with an error that is a string."""
    if count < 1:
        message = "Field 'query -> count': Input should be greater than or equal to 1"
        raise plain_error(400, "BAD_REQUEST", message)
    vendor = vendor_of(request)
    owner = (account_of(request), user_of(request))
    found = [
        each
        for each in reversed(vendor.sessions.values())
        if not each.deleted
        and (each.account, each.owner) == owner
        and (oid is None or (each.patient or {}).get("oid") == oid)
    ][:count]
    if not found:
        raise StandInError(404, {"status": "failed", "error": "No transactions found"})
    rows = [view_row(vendor, each) for each in found]
    answer = {"status": "success", "data": rows, "retrieved_count": len(rows)}
    return Response(answer, status_code=200)


@get(_PATH)
async def read_transaction(request: VendorRequest, session_id: FromPath[str]) -> Response[dict[str, Any]]:
    """Read one row."""
    vendor = vendor_of(request)
    row = view_row(vendor, vendor.session(session_id))
    return Response({"status": "success", "data": row}, status_code=200)


@patch(_PATH)
async def report_processing(request: VendorRequest, session_id: FromPath[str]) -> Response[dict[str, Any]]:
    """Take the pipeline's callback, which any token of the account may send (docs/vendor.md#callback).

    July turns a reported failure into a failure of every document, without a reason; August changes none.
    """
    vendor = vendor_of(request)
    session = vendor.session(session_id)
    body = await read_object(request)
    session.processing_error = body.get("processing_error", session.processing_error)
    reported = body.get("processing_status")
    session.processing_status = reported or session.processing_status
    row = view_row(vendor, session)
    if reported in _FAILURES and not vendor.settings.is_august:
        _fail_all(vendor, session)
    answer = {"status": "success", "message": "Transaction updated successfully", "data": row}
    return Response(answer, status_code=200)


def _fail_all(vendor: VendorState, session: Session) -> None:
    for task in list(session.tasks):
        task.cancel()
    for document in session.every_document():
        if document.status == PENDING:
            document.fail()
    settle(vendor, session)


@delete(_PATH, status_code=200)
async def delete_transaction(request: VendorRequest, session_id: FromPath[str]) -> Response[dict[str, Any]]:
    """Hide a session; its documents can still be read by their ids (docs/vendor.md#session-deleted)."""
    vendor = vendor_of(request)
    session = vendor.session(session_id)
    if vendor.settings.is_august and session.owner != user_of(request):
        message = "You are not allowed to delete the transaction data"
        raise transaction_error(400, "invalid_request", message, session_id)
    session.deleted = True
    session.announce_change()
    announce_event(vendor, session, "scribe.session.deleted")
    answer = {"status": "success", "message": "Transaction deleted successfully"}
    return Response(answer, status_code=200)
