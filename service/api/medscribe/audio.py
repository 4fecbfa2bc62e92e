"""The upload routes of the MedScribe protocol, which name each file (docs/vendor.md#upload).

The number in a file's name is its sequence number, so that the file is stored as a chunk like those of /v1.
"""

import re
from collections.abc import Sequence
from typing import Any

from litestar import Request, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from schemas.medscribe import AudioUploaded
from service.api.dependencies import Services
from service.api.medscribe.error_envelope import as_medscribe_error
from service.api.medscribe.upload_parser import Upload, read_upload
from service.api.request_classes import REQUEST_CLASS
from service.api.v1.audio import MAX_SEQUENCE, check_whole_and_plain, store_chunk
from service.domain.api_keys.models import Principal
from service.domain.audio.models import AudioFormat
from service.domain.errors import AudioFormatInvalid, InvalidRequest, SessionEnded
from service.domain.ids import SessionId
from service.eka.audio_formats import EXTENSIONS, PUBLISHED_FORMATS, normalise_audio_format

# `<base>_<number>.<extension>` (docs/vendor.md#upload), or `<number>.<extension>`, as the TypeScript client
# names files (docs/vendor.md#client-forms).
_NUMBERED = re.compile(r"(?:.*_)?([0-9]{1,5})\.[A-Za-z0-9]{1,8}")
_UNSPECIFIC_TYPES = frozenset({"", "application/octet-stream", "binary/octet-stream"})
_MAX_SHOWN_CHARACTERS = 100


@post(
    "/sessions/{session_id:str}/audio/{file_name:str}",
    status_code=200,
    request_max_body_size=None,
    opt={REQUEST_CLASS: "uploads"},
)
async def upload_audio(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    session_id: FromPath[str],
    file_name: FromPath[str],
) -> AudioUploaded:
    """Store one file; the URL holds its name."""
    return await _store(request, services, principal, SessionId(session_id), file_name)


@post(
    "/sessions/{session_id:str}/audio",
    status_code=200,
    request_max_body_size=None,
    opt={REQUEST_CLASS: "uploads"},
)
async def upload_form_with_file_name(
    request: Request[Any, Any, Any],
    services: NamedDependency[Services],
    principal: NamedDependency[Principal],
    session_id: FromPath[str],
) -> AudioUploaded:
    """Store one file of a form that holds its name, as the specification describes it."""
    return await _store(request, services, principal, SessionId(session_id), None)


async def _store(
    request: Request[Any, Any, Any],
    services: Services,
    principal: Principal,
    session_id: SessionId,
    file_name: str | None,
) -> AudioUploaded:
    limits = await services.medscribe.discovery.limits()
    check_whole_and_plain(request.headers, limits)
    upload = await read_upload(request, limits.chunk_bytes(services.settings.chunk_max_bytes))
    try:
        name = file_name or (upload.file_name or "").replace("\\", "/").rpartition("/")[2]
        header = request.headers.get("content-type", "")
        await store_file(services, principal, session_id, name, _content_types(upload, header), upload)
    finally:
        upload.close()
    return AudioUploaded(session_id=session_id, original_filename=name)


def _content_types(upload: Upload, header: str) -> list[str]:
    """Return the Content-Types to try: for a form that of its file, else the request's header.

    The header of a form counts only if the file states no known type, because some clients
    label a form with the type of other audio.
    """
    if not upload.is_form:
        return [header]
    return [
        content_type
        for content_type in (upload.file_type or "", header)
        if normalise_audio_format(content_type, PUBLISHED_FORMATS)
    ][:1]


async def store_file(
    services: Services,
    principal: Principal,
    session_id: SessionId,
    file_name: str,
    content_types: Sequence[str],
    upload: Upload,
) -> None:
    """Store one file as a chunk, as PUT /v1/sessions/{id}/audio/{sequence} does."""
    limits = await services.medscribe.discovery.limits()
    audio_format = choose_format(file_name, content_types, limits.audio_formats)
    sequence = await _sequence_of(services, principal, session_id, file_name)
    try:
        await store_chunk(services, principal, session_id, sequence, audio_format, upload.buffer)
    except SessionEnded as ended:
        state = await services.medscribe.queries.session(principal.tenant_id, session_id)
        if state.status in {"completed", "partial", "failed"}:
            raise as_medscribe_error(ended, 400, "session_completed") from None
        raise


def choose_format(file_name: str, content_types: Sequence[str], listed: Sequence[str]) -> AudioFormat:
    """Return the format by the first specific Content-Type, else by the file's extension.

    EkaScribe stores a file under the extension of its name (docs/vendor.md#stored-by-number), so a known
    extension is kept.
    """
    extension = file_name.rpartition(".")[2].lower()
    content_type = next((each for each in content_types if each.strip().lower() not in _UNSPECIFIC_TYPES), "")
    audio_format = normalise_audio_format(content_type or f"audio/{extension}", listed)
    if audio_format is None:
        provided = (content_type or file_name)[:_MAX_SHOWN_CHARACTERS]
        raise as_medscribe_error(
            AudioFormatInvalid("the audio format is not supported", supported=list(listed)),
            400,
            "invalid_audio_format",
            provided_format=provided,
        )
    if extension in EXTENSIONS:
        return AudioFormat(audio_format.media_type, extension)
    return audio_format


async def _sequence_of(
    services: Services, principal: Principal, session_id: SessionId, file_name: str
) -> int:
    numbered = _NUMBERED.fullmatch(file_name)
    if numbered is not None:
        return int(numbered[1])
    protocol = (await services.medscribe.queries.session(principal.tenant_id, session_id)).details.protocol
    if file_name and protocol is not None and protocol.upload_type == "single":
        return 0  # such a session has only one file, which may have any name
    raise InvalidRequest(
        f"must be <base>_<number>.<extension>, with a number from 0 to {MAX_SEQUENCE}", field="file_name"
    )
