"""Reads the form of a whole recording: the part `session` first, then the part `audio`, which goes to a file.

The session is checked before the first byte of the audio is stored, so a wrong one costs no upload.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import multipart
from litestar import Request

from service.api.json_body import MAX_JSON_BYTES
from service.api.middleware.admission_control import Permit, permit_of
from service.api.upload_buffer import RECORDING_PACE, read_body
from service.domain.errors import (
    AudioMissing,
    AudioTruncated,
    BodyTooLarge,
    InvalidRequest,
    RecordingTooLarge,
)
from service.temporary_files.encrypted_file import EncryptedTemporaryFile

# The session, the headers of the parts and the boundaries.
FORM_BYTES = MAX_JSON_BYTES + 16_384
_PARTS = ("session", "audio")

# Checks the JSON of the part `session`, or raises.
CheckSession = Callable[[bytes], Awaitable[None]]


class RecordingBody:
    """The audio of a form in an encrypted file; the domain's ReceivedRecording."""

    def __init__(self, permit: Permit) -> None:
        self._permit = permit
        with self._translated_errors():
            self._file = EncryptedTemporaryFile()

    @property
    def size(self) -> int:
        """The number of bytes."""
        return self._file.size

    @property
    def sha256(self) -> str:
        """The hexadecimal SHA-256 of the bytes."""
        return self._file.sha256

    @property
    def key(self) -> bytes:
        """The file's key."""
        return self._file.key

    @property
    def nonce(self) -> bytes:
        """The counter block of the file's first 16 bytes."""
        return self._file.nonce

    def fileno(self) -> int:
        """Return the descriptor of the encrypted file."""
        return self._file.fileno()

    def write(self, piece: bytes) -> None:
        """Append bytes. Raises Overloaded if the disk is full."""
        self._permit.count_written(len(piece))
        with self._translated_errors():
            self._file.write(piece)

    def finish(self) -> None:
        """Flush what is written. Raises Overloaded if the disk is full."""
        with self._translated_errors():
            self._file.finish()

    async def read(self) -> AsyncIterator[bytes]:
        """Yield the bytes from the start, in pieces."""
        with self._translated_errors():
            for piece in self._file.read():
                yield piece
                await asyncio.sleep(0)  # reading a file never suspends, so other tasks get a chance here

    def close(self) -> None:
        """Delete the bytes."""
        self._file.close()

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._permit.disk_failure(error) from error


class RecordingForm:
    """A form that is being read."""

    def __init__(
        self, content_type: str, max_bytes: int, check_session: CheckSession, audio: RecordingBody
    ) -> None:
        """`max_bytes` limits the audio. Raises InvalidRequest if the body is no form."""
        media_type, options = multipart.parse_options_header(content_type)
        if media_type != "multipart/form-data" or not options.get("boundary"):
            raise InvalidRequest("must be multipart/form-data with a boundary", field="Content-Type")
        try:
            self._parser = multipart.PushMultipartParser(options["boundary"].encode())
        except multipart.MultipartError:
            raise InvalidRequest("the form's boundary cannot be used") from None
        self._max_bytes = max_bytes
        self._check_session = check_session
        self._audio = audio
        self._part: str | None = None
        self._parts_read = 0
        self._session = bytearray()

    async def feed(self, piece: bytes) -> None:
        """Process bytes. Raises InvalidRequest, RecordingTooLarge, or an error of `check_session`."""
        if not piece:
            return
        try:
            for event in self._parser.parse(piece):
                await self._on_event(event)
        except multipart.MultipartError:
            raise InvalidRequest("the form cannot be read") from None

    def finish(self) -> None:
        """Finish the form. Raises AudioTruncated if it is incomplete, AudioMissing if it has no audio."""
        try:
            self._parser.close()
        except multipart.MultipartError:
            raise AudioTruncated("the form ends before its last boundary") from None
        if self._parts_read == 0:
            raise InvalidRequest("is missing", field="session")
        if self._parts_read < len(_PARTS):
            raise AudioMissing("the form has no part `audio`")
        self._audio.finish()

    async def _on_event(self, event: Any) -> None:
        if isinstance(event, multipart.MultipartSegment):
            self._begin_part(event.name)
        elif event is None:
            await self._end_part()
        elif self._part == "audio":
            self._write(event)
        else:
            self._session += event
            if len(self._session) > MAX_JSON_BYTES:
                raise BodyTooLarge("the part `session` is too large")

    def _begin_part(self, name: str) -> None:
        if name not in _PARTS:
            raise InvalidRequest("is no part of this form; it has `session` and `audio`", field=name[:100])
        if self._parts_read == len(_PARTS) or name in _PARTS[: self._parts_read]:
            raise InvalidRequest("comes twice", field=name)
        if name != _PARTS[self._parts_read]:
            raise InvalidRequest("must come before `audio`", field="session")
        self._part = name

    async def _end_part(self) -> None:
        if self._part == "session":
            await self._check_session(bytes(self._session))
        self._parts_read += 1
        self._part = None

    def _write(self, piece: bytes) -> None:
        if self._audio.size + len(piece) > self._max_bytes:
            raise too_large(self._max_bytes)
        self._audio.write(bytes(piece))


def too_large(max_bytes: int) -> RecordingTooLarge:
    """Return the error for a recording with more bytes than this process accepts."""
    return RecordingTooLarge(f"a recording may have {max_bytes} bytes")


async def read_recording(
    request: Request[Any, Any, Any], max_bytes: int, check_session: CheckSession
) -> RecordingBody:
    """Read the form to its end; the caller closes the result.

    Raises as RecordingForm and `read_body` do.
    """
    audio = RecordingBody(permit_of(request.scope))
    try:
        form = RecordingForm(request.headers.get("content-type", ""), max_bytes, check_session, audio)
        await read_body(
            request,
            max_bytes + FORM_BYTES,
            form.feed,
            RECORDING_PACE,
            too_large=lambda _: too_large(max_bytes),
        )
        form.finish()
    except BaseException:
        audio.close()
        raise
    return audio
