"""The address of a recording that comes in pieces, as tus 1.0 defines it, with four of its extensions.

https://tus.io/protocols/resumable-upload
"""

from typing import Annotated, Any

from litestar import Request, Response, Router, delete, head, patch, post, route
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter
from msgspec import Struct

from schemas.problems import Problem
from service.api.dependencies import Services
from service.api.problem_responses import documented, on_bridge_error
from service.api.recording_pieces import CHECKSUMS, read_checksum, receive_checked, receive_directly
from service.api.request_classes import REQUEST_CLASS
from service.api.v1.sessions import SessionPath
from service.domain.api_keys.models import Principal
from service.domain.errors import (
    AudioFormatInvalid,
    BridgeError,
    InvalidRequest,
    TusVersionUnsupported,
)
from service.domain.ids import SessionId

_VERSION = "1.0.0"
_TUS = {"Tus-Resumable": _VERSION}
_PIECE_TYPE = "application/offset+octet-stream"
_MAX_NUMBER = 2**53
TusResumable = Annotated[
    str | None, HeaderParameter(name="Tus-Resumable", description="The version of tus: 1.0.0")
]
UploadOffset = Annotated[
    str | None, HeaderParameter(name="Upload-Offset", description="The number of bytes before this piece")
]
UploadLength = Annotated[
    str | None, HeaderParameter(name="Upload-Length", description="The number of bytes of the recording")
]
UploadChecksum = Annotated[
    str | None,
    HeaderParameter(name="Upload-Checksum", description="`sha1` or `sha256`, and the piece's hash in base64"),
]
_ERRORS = documented(400, 401, 404, 408, 409, 410, 412, 413, 415, 423, 503)


def _empty(description: str) -> ResponseSpec:
    """Describe a successful response without a body; its headers are those of tus."""
    return ResponseSpec(data_container=None, description=description, generate_examples=False)


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
    include_in_schema=False,
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
            "Tus-Checksum-Algorithm": ",".join(CHECKSUMS),
            "Tus-Max-Size": str(services.audio.recording_uploads.max_bytes),
        },
    )


@head(
    "/{session_id:str}",
    operation_id="getUploadOffset",
    summary="How much is here",
    responses={200: _empty("`Upload-Offset` and `Upload-Length`"), **_ERRORS},
)
async def get_offset(
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    session_id: SessionPath,
    tus_resumable: TusResumable = None,
) -> Response[None]:
    """Return how many bytes are here, and how many the recording has."""
    _check_version(tus_resumable)
    state = await services.audio.recording_uploads.state(principal, SessionId(session_id))
    length = {"Upload-Defer-Length": "1"} if state.length is None else {"Upload-Length": str(state.length)}
    offset = {"Upload-Offset": str(state.received or 0)}
    return Response(None, headers={**_TUS, **offset, **length})


@post(
    "/{session_id:str}",
    operation_id="startUpload",
    opt={REQUEST_CLASS: "uploads"},
    summary="Begin to send a recording in pieces",
    responses={201: _empty("`Location`: where the pieces go"), **_ERRORS},
)
async def start_upload(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    session_id: SessionPath,
    tus_resumable: TusResumable = None,
    upload_length: UploadLength = None,
    upload_offset: UploadOffset = None,
    upload_checksum: UploadChecksum = None,
) -> Response[None]:
    """Begin the upload anew. Clients that cannot send PATCH send it as POST."""
    _check_version(tus_resumable)
    if request.headers.get("x-http-method-override", "").upper() == "PATCH":
        headers = _read_headers(upload_offset, upload_length, upload_checksum)
        return await _receive_piece(request, services, principal, SessionId(session_id), headers)
    length = _number(upload_length, "Upload-Length", is_required="upload-defer-length" not in request.headers)
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
    responses={204: _empty("`Upload-Offset`: so many bytes are here now"), **_ERRORS},
)
async def send_piece(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    session_id: SessionPath,
    tus_resumable: TusResumable = None,
    upload_length: UploadLength = None,
    upload_offset: UploadOffset = None,
    upload_checksum: UploadChecksum = None,
) -> Response[None]:
    """Store a piece at `Upload-Offset`; the piece that makes the recording whole ends the session."""
    _check_version(tus_resumable)
    headers = _read_headers(upload_offset, upload_length, upload_checksum)
    return await _receive_piece(request, services, principal, SessionId(session_id), headers)


@delete(
    "/{session_id:str}",
    operation_id="giveUploadUp",
    summary="Give a recording up",
    responses={204: _empty("The session is cancelled"), **_ERRORS},
)
async def give_up(
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    session_id: SessionPath,
    tus_resumable: TusResumable = None,
) -> Response[None]:
    """Cancel the session and delete what is here of its recording."""
    _check_version(tus_resumable)
    await services.audio.recording_uploads.cancel(principal, SessionId(session_id))
    return Response(None, status_code=204, headers=_TUS)


class _PieceHeaders(Struct, frozen=True, kw_only=True):
    """The headers of a piece; `checksum` is an algorithm and its value."""

    offset: int
    length: int | None
    checksum: tuple[str, bytes] | None


def _read_headers(offset: str | None, length: str | None, checksum: str | None) -> _PieceHeaders:
    return _PieceHeaders(
        offset=_number(offset, "Upload-Offset", is_required=True) or 0,
        length=_number(length, "Upload-Length", is_required=False),
        checksum=None if checksum is None else read_checksum(checksum),
    )


async def _receive_piece(
    request: Request[Any, Any, Any],
    services: Services,
    principal: Principal,
    session_id: SessionId,
    headers: _PieceHeaders,
) -> Response[None]:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _PIECE_TYPE:
        raise AudioFormatInvalid("a piece has a Content-Type of its own", supported=[_PIECE_TYPE])
    uploads = services.audio.recording_uploads
    piece = await uploads.open_piece(principal, session_id, headers.offset, headers.length)
    state = await uploads.state(principal, session_id)
    max_bytes = (state.length or uploads.max_bytes) - headers.offset
    try:
        if headers.checksum is None:
            await receive_directly(request, piece, max_bytes)
        else:
            await receive_checked(request, piece, max_bytes, headers.checksum)
    finally:
        await piece.release()
    if piece.received == state.length:
        uploads.announce(session_id, piece.received)
    return Response(None, status_code=204, headers={**_TUS, "Upload-Offset": str(piece.received)})


def _check_version(version: str | None) -> None:
    if version != _VERSION:
        raise TusVersionUnsupported(f"Tus-Resumable must be {_VERSION}")


def _number(text: str | None, name: str, *, is_required: bool) -> int | None:
    if text is None and not is_required:
        return None
    if text is None or not (text.isascii() and text.isdigit()) or int(text[:17]) >= _MAX_NUMBER:
        raise InvalidRequest("must be a whole number", field=name)
    return int(text)


recording_uploads_router = Router(
    "/recordings",
    route_handlers=[get_protocol, get_offset, start_upload, send_piece, give_up],
    exception_handlers={BridgeError: on_tus_error},
    tags=["Sessions"],
)
