"""The address of a recording that comes in pieces, as tus 1.0 defines it, with four of its extensions.

https://tus.io/protocols/resumable-upload
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import AsyncIterator
from typing import Any

from litestar import Request, Response, Router, delete, head, patch, post, route
from litestar.di import NamedDependency

from schemas.problems import Problem
from service.api.dependencies import Services
from service.api.middleware.admission_control import permit_of
from service.api.problem_responses import documented, on_bridge_error
from service.api.recording_form import RecordingBody, too_large
from service.api.request_classes import REQUEST_CLASS
from service.api.upload_buffer import RECORDING_PACE, read_body
from service.api.v1.sessions import SessionPath
from service.domain.api_keys.models import Principal
from service.domain.errors import (
    AudioFormatInvalid,
    BridgeError,
    ChecksumWrong,
    InvalidRequest,
    TusVersionUnsupported,
)
from service.domain.ids import SessionId
from service.domain.recordings.uploads import UploadPiece

_VERSION = "1.0.0"
_TUS = {"Tus-Resumable": _VERSION}
_PIECE_TYPE = "application/offset+octet-stream"
_BLOCK_BYTES = 1024 * 1024
_MAX_NUMBER = 2**53
_ALGORITHMS = {"sha1": hashlib.sha1, "sha256": hashlib.sha256}
_ERRORS = documented(400, 401, 404, 408, 409, 410, 412, 413, 415, 423, 503)


def on_tus_error(request: Request[Any, Any, Any], error: BridgeError) -> Response[Problem]:
    """Answer an error with the headers that tus asks for."""
    answer = on_bridge_error(request, error)
    answer.headers["Tus-Resumable"] = _VERSION
    if isinstance(error, TusVersionUnsupported):
        answer.headers["Tus-Version"] = _VERSION
    return answer


@route(
    "/{session_id:str}",
    http_method=["OPTIONS"],
    status_code=204,
    operation_id="getUploadProtocol",
    summary="What this service speaks of tus",
    responses=documented(401, 503),
)
async def get_protocol(services: NamedDependency[Services], session_id: SessionPath) -> Response[None]:  # noqa: ARG001 - the answer is the same for each
    """Return the version and the extensions of tus."""
    return Response(
        None,
        status_code=204,
        headers={
            **_TUS,
            "Tus-Version": _VERSION,
            "Tus-Extension": "creation,creation-defer-length,checksum,termination",
            "Tus-Checksum-Algorithm": ",".join(_ALGORITHMS),
            "Tus-Max-Size": str(services.audio.recording_uploads.max_bytes),
        },
    )


@head("/{session_id:str}", operation_id="getUploadOffset", summary="How much is here", responses=_ERRORS)
async def get_offset(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    session_id: SessionPath,
) -> Response[None]:
    """Return how many bytes are here, and how many the recording has."""
    _check_version(request)
    state = await services.audio.recording_uploads.state(principal, SessionId(session_id))
    length = {"Upload-Defer-Length": "1"} if state.length is None else {"Upload-Length": str(state.length)}
    offset = {"Upload-Offset": str(state.received or 0)}
    return Response(None, headers={**_TUS, **offset, **length})


@post(
    "/{session_id:str}",
    operation_id="startUpload",
    opt={REQUEST_CLASS: "uploads"},
    summary="Begin to send a recording in pieces",
    responses=_ERRORS,
)
async def start_upload(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    session_id: SessionPath,
) -> Response[None]:
    """Begin the upload anew. Clients that cannot send PATCH send it as POST."""
    _check_version(request)
    if request.headers.get("x-http-method-override", "").upper() == "PATCH":
        return await _receive_piece(request, services, principal, SessionId(session_id))
    length = _number(request, "Upload-Length", is_required="upload-defer-length" not in request.headers)
    await services.audio.recording_uploads.start(principal, SessionId(session_id), length)
    location = f"{services.settings.public_url or ''}/v1/recordings/{session_id}"
    return Response(None, status_code=201, headers={**_TUS, "Location": location})


@patch(
    "/{session_id:str}",
    status_code=204,
    operation_id="sendPiece",
    opt={REQUEST_CLASS: "uploads"},
    summary="Send a piece of a recording",
    request_max_body_size=None,
    responses=_ERRORS,
)
async def send_piece(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    session_id: SessionPath,
) -> Response[None]:
    """Store a piece at `Upload-Offset`; the piece that makes the recording whole ends the session."""
    _check_version(request)
    return await _receive_piece(request, services, principal, SessionId(session_id))


@delete("/{session_id:str}", operation_id="giveUploadUp", summary="Give a recording up", responses=_ERRORS)
async def give_up(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    session_id: SessionPath,
) -> Response[None]:
    """Cancel the session and delete what is here of its recording."""
    _check_version(request)
    await services.audio.recording_uploads.cancel(principal, SessionId(session_id))
    return Response(None, status_code=204, headers=_TUS)


async def _receive_piece(
    request: Request[Any, Any, Any], services: Services, principal: Principal, session_id: SessionId
) -> Response[None]:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _PIECE_TYPE:
        raise AudioFormatInvalid("a piece has a Content-Type of its own", supported=[_PIECE_TYPE])
    offset = _number(request, "Upload-Offset", is_required=True) or 0
    length = _number(request, "Upload-Length", is_required=False)
    checksum = _checksum(request)
    uploads = services.audio.recording_uploads
    piece = await uploads.open_piece(principal, session_id, offset, length)
    state = await uploads.state(principal, session_id)
    total = state.length or uploads.max_bytes
    try:
        if checksum is None:
            await _receive_directly(request, piece, total - offset)
        else:
            await _receive_checked(request, piece, total - offset, checksum)
    finally:
        await piece.release()
    if piece.received == state.length:
        uploads.announce(session_id, piece.received)
    return Response(None, status_code=204, headers={**_TUS, "Upload-Offset": str(piece.received)})


async def _receive_directly(request: Request[Any, Any, Any], piece: UploadPiece, max_bytes: int) -> None:
    """Store the bytes as they come; those that came before a break stay."""
    pending = bytearray()

    async def store() -> None:
        block = bytes(pending)
        pending.clear()
        await piece.append(_once(block))

    async def consume(received: bytes) -> None:
        pending.extend(received)
        while len(pending) >= _BLOCK_BYTES:
            block = bytes(pending[:_BLOCK_BYTES])
            del pending[:_BLOCK_BYTES]
            await piece.append(_once(block))

    try:
        await read_body(request, max_bytes, consume, RECORDING_PACE, too_large)
    except BridgeError:
        if pending:
            await store()
        raise
    await store()


async def _receive_checked(
    request: Request[Any, Any, Any], piece: UploadPiece, max_bytes: int, checksum: tuple[str, bytes]
) -> None:
    """Store the bytes only after all of them came and their checksum is right."""
    algorithm, expected = checksum
    digest = _ALGORITHMS[algorithm](usedforsecurity=False)
    body = RecordingBody(permit_of(request.scope))

    async def consume(received: bytes) -> None:
        digest.update(received)
        body.write(received)

    try:
        await read_body(request, max_bytes, consume, RECORDING_PACE, too_large)
        if not hmac.compare_digest(digest.digest(), expected):
            raise ChecksumWrong("the bytes have another checksum than Upload-Checksum says; send them again")
        body.finish()
        await piece.append(body.read())
    finally:
        body.close()


async def _once(block: bytes) -> AsyncIterator[bytes]:
    if block:
        yield block


def _check_version(request: Request[Any, Any, Any]) -> None:
    if request.headers.get("tus-resumable") != _VERSION:
        raise TusVersionUnsupported(f"Tus-Resumable must be {_VERSION}")


def _number(request: Request[Any, Any, Any], name: str, *, is_required: bool) -> int | None:
    text = request.headers.get(name.lower())
    if text is None and not is_required:
        return None
    if text is None or not (text.isascii() and text.isdigit()) or int(text[:17]) >= _MAX_NUMBER:
        raise InvalidRequest("must be a whole number", field=name)
    return int(text)


def _checksum(request: Request[Any, Any, Any]) -> tuple[str, bytes] | None:
    header = request.headers.get("upload-checksum")
    if header is None:
        return None
    algorithm, _, encoded = header.strip().partition(" ")
    try:
        expected = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        expected = b""
    if algorithm not in _ALGORITHMS or not expected:
        raise InvalidRequest("must be `sha1` or `sha256`, and its value in base64", field="Upload-Checksum")
    return algorithm, expected


recording_uploads_router = Router(
    "/recordings",
    route_handlers=[get_protocol, get_offset, start_upload, send_piece, give_up],
    exception_handlers={BridgeError: on_tus_error},
    tags=["Sessions"],
)
