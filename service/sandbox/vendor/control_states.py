"""Control calls that put a session into a state which no public call reaches (`db_set`, `forced`)."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from litestar import patch, post
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from service.sandbox.vendor.control_bodies import read_struct
from service.sandbox.vendor.processing import settle
from service.sandbox.vendor.records import Document, Session
from service.sandbox.vendor.requests import VendorRequest, vendor_of
from service.sandbox.vendor.state import VendorState


class SetDocument(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A document as it is to be; the one with this id, or the newest of this template, or a new one.

    `template_id` "transcript" is the transcript. `content` null takes the content away.
    """

    template_id: str | None = None
    document_id: str | None = None
    new: bool = False
    status: str | None = None
    content: Any = msgspec.UNSET
    errors: list[Any] | None = None
    warnings: list[Any] | None = None
    has_path: bool | None = None


class SetSession(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How many seconds ago a session is to have begun and ended, and whether it expired."""

    age_seconds: float | None = None
    ended_seconds_ago: float | None = None
    expired: bool = False


@post("/sessions/{session_id:str}/documents", status_code=200)
async def set_document(request: VendorRequest, session_id: FromPath[str]) -> dict[str, str]:
    """Write a document, whatever the vendor's own rules are."""
    data = await read_struct(request, SetDocument)
    vendor = vendor_of(request)
    session = _find(vendor, session_id)
    document = _choose(vendor, session, data)
    document.status = data.status or document.status
    if data.content is not msgspec.UNSET:
        document.write(data.content, document.status)
    document.errors = document.errors if data.errors is None else data.errors
    document.warnings = document.warnings if data.warnings is None else data.warnings
    document.has_path = document.has_path if data.has_path is None else data.has_path
    document.updated_at = time.time()
    settle(vendor, session)
    return {"document_id": document.document_id, "status": document.status}


@patch("/sessions/{session_id:str}")
async def set_session(request: VendorRequest, session_id: FromPath[str]) -> dict[str, str]:
    """Make a session older, or let it expire."""
    data = await read_struct(request, SetSession)
    session = _find(vendor_of(request), session_id)
    if data.age_seconds is not None:
        lifetime = session.expires_at - session.created_at
        session.created_at = time.time() - data.age_seconds
        session.expires_at = session.created_at + lifetime
    if data.ended_seconds_ago is not None:
        session.ended_at = time.time() - data.ended_seconds_ago
        for document in session.every_document():
            document.created_at = min(document.created_at, session.ended_at)
    if data.expired:
        session.status = "expired"
    session.announce_change()
    return {"session_id": session_id, "status": session.status}


def _choose(vendor: VendorState, session: Session, data: SetDocument) -> Document:
    if data.template_id == "transcript":
        return session.transcript
    if not data.new:
        for document in reversed(session.documents):
            if data.document_id in {None, document.document_id} and data.template_id in {
                None,
                document.template_id,
            }:
                return document
        raise NotFoundException(f"no such document in session {session.session_id}")
    template_id = data.template_id or ""
    document = Document(template_id, name=vendor.name_of(template_id))
    session.documents.append(document)
    return document


def _find(vendor: VendorState, session_id: str) -> Session:
    session = vendor.sessions.get(session_id)
    if session is None:
        raise NotFoundException(f"no session {session_id}")
    return session
