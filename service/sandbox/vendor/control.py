"""The control API under `/_control`: for tests and developers, without authorization, on loopback only."""

from __future__ import annotations

import asyncio
import base64
import re
from typing import Any

import msgspec
from litestar import Router, delete, get, patch, post
from litestar.datastructures import State
from litestar.exceptions import ClientException, NotFoundException
from litestar.params import FromPath, FromQuery

from service.sandbox.vendor.control_bodies import read_struct
from service.sandbox.vendor.control_states import set_document, set_session
from service.sandbox.vendor.control_webhooks import list_deliveries, send_webhooks
from service.sandbox.vendor.faults import Fault, cut_connection
from service.sandbox.vendor.journal import Call
from service.sandbox.vendor.notes import read_audio
from service.sandbox.vendor.processing import finish
from service.sandbox.vendor.records import FAILED, PENDING, Chunk, Recording, Session, timestamp
from service.sandbox.vendor.requests import VendorRequest, read_object, vendor_of
from service.sandbox.vendor.settings import Outcome, VendorSettings, merge_settings
from service.sandbox.vendor.state import VendorState

# Control calls use these words, however a character spells them.
_STATUS_WORDS = {PENDING: "pending", FAILED: "failed"}


class Finish(msgspec.Struct, forbid_unknown_fields=True):
    """How a session is to end, at once."""

    outcome: Outcome = "completed"


class ExpireTokens(msgspec.Struct, forbid_unknown_fields=True):
    """Whether the long-lived tokens expire too; `refresh_seconds` instead ages spent refresh tokens."""

    static: bool = False
    refresh_seconds: float | None = None


class StreamFrame(msgspec.Struct, forbid_unknown_fields=True):
    """A frame, or an end, from the vendor to every open stream of a session; `drop` cuts the connection."""

    text: str | None = None
    base64: str | None = None
    close: int | None = None
    reason: str = ""
    drop: bool = False


@get("/settings")
async def read_settings(request: VendorRequest) -> VendorSettings:
    """All settings."""
    return vendor_of(request).settings


@patch("/settings")
async def change_settings(request: VendorRequest) -> VendorSettings:
    """Change some settings; 400 for an unknown field or a bad value."""
    settings = vendor_of(request).settings
    try:
        merge_settings(settings, await read_object(request))
    except msgspec.ValidationError as error:
        raise ClientException(str(error)) from error
    return settings


@post("/faults")
async def add_fault(request: VendorRequest) -> Fault:
    """Put a fault in force."""
    data = await read_struct(request, Fault)
    try:
        return vendor_of(request).faults.add(data)
    except re.error as error:
        raise ClientException(f"path_regex: {error}") from error


@get("/faults")
async def list_faults(request: VendorRequest) -> list[Fault]:
    """List the faults in force, with how often each was played."""
    return vendor_of(request).faults.faults


@delete("/faults", status_code=204)
async def clear_faults(request: VendorRequest) -> None:
    """End all faults; calls that hang are cut."""
    vendor_of(request).faults.clear()


@get("/calls")
async def list_calls(
    request: VendorRequest,
    method: FromQuery[str | None] = None,
    path_regex: FromQuery[str | None] = None,
    session_id: FromQuery[str | None] = None,
    status: FromQuery[int | None] = None,
    after: FromQuery[int] = 0,
) -> list[Call]:
    """List the journal, oldest first."""
    journal = vendor_of(request).journal
    return journal.find(
        method=method, path_regex=path_regex, session_id=session_id, status=status, after=after
    )


@get("/calls/count")
async def count_calls(
    request: VendorRequest,
    method: FromQuery[str | None] = None,
    path_regex: FromQuery[str | None] = None,
    session_id: FromQuery[str | None] = None,
    status: FromQuery[int | None] = None,
    after: FromQuery[int] = 0,
) -> dict[str, int]:
    """How many journal entries match."""
    journal = vendor_of(request).journal
    found = journal.find(
        method=method, path_regex=path_regex, session_id=session_id, status=status, after=after
    )
    return {"count": len(found)}


@get("/sessions")
async def list_sessions(request: VendorRequest) -> list[dict[str, Any]]:
    """Ids and states of all sessions."""
    sessions = vendor_of(request).sessions.values()
    return [{"session_id": each.session_id, "status": each.status} for each in sessions]


@get("/sessions/{session_id:str}")
async def view_session(request: VendorRequest, session_id: FromPath[str]) -> dict[str, Any]:
    """Say what truly arrived for one session."""
    session = _find(vendor_of(request), session_id)
    audio = await asyncio.to_thread(read_audio, session)
    return {
        "session_id": session_id,
        "status": session.status,
        "created_at": timestamp(session.created_at),
        "templates": session.templates,
        "patient": session.patient,
        "additional_data": session.additional_data,
        "languages": session.languages,
        "model": session.model,
        "mode": session.session_mode,
        "creates": session.creates,
        "damaged": session.damaged,
        "files": [_view_chunk(chunk) for chunk in session.ordered_chunks()],
        "audio": audio.view(),
        "transcript": session.transcript.content or "",
        "transcript_document": session.transcript.document_id,
        "end_calls": len(session.end_bodies),
        "end_counts": session.end_bodies,
        "runs": session.runs,
        "get_calls": dict(session.gets),
        "stream": session.stream.view() if session.stream else None,
        "documents": [
            {
                "document_id": each.document_id,
                "template_id": each.template_id,
                "status": _STATUS_WORDS.get(each.status, each.status),
                "current": each.current,
            }
            for each in session.documents
        ],
    }


@post("/sessions/{session_id:str}/finish", status_code=200)
async def finish_session(request: VendorRequest, session_id: FromPath[str]) -> dict[str, str]:
    """End a session now, whatever it was doing; its webhooks go out."""
    data = await read_struct(request, Finish)
    vendor = vendor_of(request)
    session = _find(vendor, session_id)
    for task in list(session.tasks):
        task.cancel()
    await finish(vendor, session, data.outcome)
    return {"session_id": session_id, "status": session.status}


@post("/sessions/{session_id:str}/stream", status_code=200)
async def send_to_stream(request: VendorRequest, session_id: FromPath[str]) -> dict[str, int]:
    """Send a frame to the open streams of a session; answers how many there were."""
    data = await read_struct(request, StreamFrame)
    sockets = list(vendor_of(request).sockets.get(session_id, ()))
    for socket in sockets:
        if data.text is not None:
            await socket.send_text(data.text)
        if data.base64 is not None:
            await socket.send_bytes(base64.b64decode(data.base64))
        if data.close is not None:
            await socket.close(code=data.close, reason=data.reason)
        if data.drop:
            cut_connection(socket.scope["state"]["sandbox_receive"])
    return {"sockets": len(sockets)}


@post("/tokens/expire", status_code=200)
async def expire_tokens(request: VendorRequest) -> dict[str, int]:
    """Expire every access token; the static ones only with `{"static": true}`."""
    data = await read_struct(request, ExpireTokens)
    tokens = vendor_of(request).tokens
    if data.refresh_seconds is not None:
        tokens.age_refresh_tokens(data.refresh_seconds)
        return {"expired": 0}
    return {"expired": tokens.expire(static=data.static)}


@post("/reset", status_code=204)
async def reset(request: VendorRequest) -> None:
    """Forget everything and return to the settings of the start."""
    await vendor_of(request).reset()


def _find(vendor: VendorState, session_id: str) -> Session:
    session = vendor.sessions.get(session_id)
    if session is None:
        raise NotFoundException(f"no session {session_id}")
    return session


def _view_chunk(chunk: Chunk) -> dict[str, Any]:
    return {
        "name": chunk.name,
        "original_name": chunk.original_name,
        "content_type": chunk.content_type,
        "uploads": chunk.uploads,
        **_view_recording(chunk.first),
        "latest": _view_recording(chunk.latest),
    }


def _view_recording(recording: Recording) -> dict[str, Any]:
    return {"bytes": recording.size, "sha256": recording.sha256, "seconds": recording.seconds}


def create_control_router() -> Router:
    """All control handlers under `/_control`."""
    handlers = [
        read_settings,
        change_settings,
        add_fault,
        list_faults,
        clear_faults,
        list_calls,
        count_calls,
        list_sessions,
        view_session,
        finish_session,
        set_document,
        set_session,
        send_to_stream,
        list_deliveries,
        send_webhooks,
        expire_tokens,
        reset,
    ]
    return Router("/_control", route_handlers=handlers, signature_types=[State])
