"""Uploads of audio (docs/vendor.md#upload): checks the name and the format, and stores the bytes."""

from __future__ import annotations

import asyncio
import hashlib
import re
from typing import Any

from litestar import Response, post
from litestar.params import FromPath

from service.sandbox.vendor.audio_formats import AUDIO_FORMATS
from service.sandbox.vendor.errors import (
    StandInError,
    plain_error,
    unexpected_error,
    unsupported_audio,
)
from service.sandbox.vendor.records import TERMINAL, Chunk, Recording, Session, measure_chunk
from service.sandbox.vendor.requests import VendorRequest, usable_session, vendor_of
from service.sandbox.vendor.state import VendorState
from service.sandbox.vendor.webhooks import announce_event

_FILE_NAME = re.compile(r"^\S+_(\d+)\.([A-Za-z0-9]+)$")
# The type that the on-prem server complains of when it found none (docs/vendor.md#mime-by-extension).
_NEVER_SENT = "audio/webm"
_SHORTEST_RECORDING = 64
_FIRST_BYTES = (b"ID3", b"OggS", b"\xff")
_FORMAT_OF_EXTENSION = {extension: name for name, extension in reversed(AUDIO_FORMATS.items())}


@post("/voice/v1/sessions/{session_id:str}/audio/{file_name:str}", request_max_body_size=None)
async def upload_audio(
    request: VendorRequest, session_id: FromPath[str], file_name: FromPath[str]
) -> Response[dict[str, Any]]:
    """Store an upload of any size, by default (docs/vendor.md#upload, docs/vendor.md#chunk-limits)."""
    vendor = vendor_of(request)
    try:
        session, number, extension, content_type = _check_upload(vendor, request, session_id, file_name)
        recording = await _store_body(vendor, request, extension)
        _refuse_ended(vendor, session)
    except StandInError:
        await _drain_body(request)
        raise
    if session.upload_type == "single" and not vendor.settings.is_hosted:
        await _refuse_noise(session, recording)
        # The server cuts such a recording into files of its own.
        extension = "m4a"
    if not session.chunks:
        announce_event(vendor, session, "scribe.session.update")
    keep_recording(session, number, extension, content_type, file_name, recording)
    answer = {"session_id": session_id, "success": True, "original_filename": file_name}
    return Response(answer, status_code=200)


def keep_recording(
    session: Session, number: int, extension: str, content_type: str, file_name: str, recording: Recording
) -> None:
    """Store it as `<number>.<extension>`; a repeat replaces the audio but not the first transcript."""
    known = session.chunks.get((number, extension))
    if known is None:
        session.chunks[number, extension] = Chunk(
            number, extension, content_type, file_name, first=recording, latest=recording
        )
        return
    known.latest = recording
    known.uploads += 1


def _check_upload(
    vendor: VendorState, request: VendorRequest, session_id: str, file_name: str
) -> tuple[Session, int, str, str]:
    session = usable_session(vendor, session_id)
    _refuse_ended(vendor, session)
    content_type = _read_type(vendor, request.headers.get("content-type", ""), file_name)
    if content_type not in AUDIO_FORMATS:
        raise unsupported_audio(content_type)
    if session.upload_type == "single" and not vendor.settings.is_hosted:
        return session, len(session.chunks) + 1, file_name.rpartition(".")[2], content_type
    parsed = _FILE_NAME.match(file_name)
    if parsed is None:
        raise unexpected_error(session_id)
    return session, int(parsed.group(1)), parsed.group(2), content_type


async def _refuse_noise(session: Session, recording: Recording) -> None:
    """Answer 500 to a `single` recording that is no audio; any chunk is taken (docs/vendor.md#single)."""
    data = await asyncio.to_thread(recording.path.read_bytes)
    known = data.startswith(_FIRST_BYTES) or data[4:8] == b"ftyp"
    if recording.seconds is None and not (known and recording.size >= _SHORTEST_RECORDING):
        raise unexpected_error(session.session_id)


def _read_type(vendor: VendorState, sent: str, file_name: str) -> str:
    """Say which type counts: on-prem not one that is no audio at all (docs/vendor.md#mime-by-extension)."""
    sent = sent.strip()
    is_audio = sent.lower().startswith("audio/")
    if sent and (is_audio or vendor.settings.is_hosted):
        return sent
    by_extension = _FORMAT_OF_EXTENSION.get(file_name.rpartition(".")[2].lower(), "")
    return by_extension or ("" if vendor.settings.is_hosted else _NEVER_SENT)


def _refuse_ended(vendor: VendorState, session: Session) -> None:
    if session.status in TERMINAL and vendor.settings.is_hosted:
        raise plain_error(400, "session_completed", "Session processing has finished, cannot upload audio")
    if session.committed or (vendor.settings.is_hosted and session.is_expired()):
        raise plain_error(400, "session_ended", "Session has ended, cannot upload audio")


async def _store_body(vendor: VendorState, request: VendorRequest, extension: str) -> Recording:
    limit = vendor.settings.chunk_max_bytes
    path, digest, size = vendor.new_audio_path(), hashlib.sha256(), 0
    file = await asyncio.to_thread(path.open, "wb")
    try:
        async for piece in request.stream():
            size += len(piece)
            if limit is not None and size > limit:
                message = f"Chunk exceeds the maximum size of {limit} bytes"
                raise plain_error(413, "chunk_too_large", message)
            digest.update(piece)
            file.write(piece)
    finally:
        file.close()
    data = await asyncio.to_thread(path.read_bytes)
    return Recording(path, size, digest.hexdigest(), measure_chunk(data, extension))


async def _drain_body(request: VendorRequest) -> None:
    async for _ in request.stream():
        pass
