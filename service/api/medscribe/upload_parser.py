"""Reads the uploads of the MedScribe protocol: raw audio, or a form with a file.

Clients label forms as raw audio, so the first bytes decide what a body is.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import multipart
from litestar import Request

from service.api.middleware.admission_control import permit_of
from service.api.upload_buffer import BufferedBody, content_length, memory_for, read_body
from service.domain.errors import AudioTruncated, ChunkTooLarge, InvalidRequest

# One official client posts a form labelled `audio/webm;codecs=opus`, without a boundary
# (docs/vendor.md#client-bare-form). No audio format starts with such bytes.
_FORM_START = re.compile(
    rb"--([^\r\n]{1,200})\r\n(?:[^\r\n]{1,1000}\r\n){0,4}?content-disposition:[ \t]*form-data", re.IGNORECASE
)
_MAX_START_BYTES = 2048
_MAX_FIELDS_BYTES = 16_384
_MAX_SEGMENTS = 32
# A form may hold so many bytes besides its file: fields, headers, boundaries.
_FORM_OVERHEAD_BYTES = 65_536

# Authorises an upload by the form's fields (none for raw audio), or raises; returns the buffer for its bytes.
Admit = Callable[[Mapping[str, str]], Awaitable[BufferedBody]]


class Upload:
    """A body that is being read, with the fields, file name and file type of a form.

    No byte of the audio is stored before `admit` has returned.
    """

    def __init__(self, content_type: str, max_bytes: int, admit: Admit) -> None:
        self.fields: dict[str, str] = {}
        self.file_name: str | None = None
        self.file_type: str | None = None
        self._max_bytes = max_bytes
        self._admit = admit
        self._buffer: BufferedBody | None = None
        self._start: bytearray | None = bytearray()
        self._form: multipart.PushMultipartParser | None = None
        self._segment: multipart.MultipartSegment | None = None
        self._value = bytearray()
        self._field_bytes = 0
        media_type, options = multipart.parse_options_header(content_type)
        self._claims_form = media_type == "multipart/form-data"
        boundary = options.get("boundary")
        if self._claims_form and boundary:
            self._begin_form(boundary.encode())

    @property
    def buffer(self) -> BufferedBody:
        """The buffer with the audio, available after `finish`."""
        assert self._buffer is not None  # noqa: S101 - a body without audio raises before
        return self._buffer

    def close(self) -> None:
        """Delete the audio."""
        if self._buffer is not None:
            self._buffer.close()

    @property
    def is_form(self) -> bool:
        """Return whether the body is a form."""
        return self._form is not None

    async def feed(self, piece: bytes) -> None:
        """Process the next bytes. Raises ChunkTooLarge, InvalidRequest, or an error of `admit`."""
        if self._start is not None:
            self._start += piece
            may_be_form = self._start.startswith(b"--") or bytes(self._start) in {b"", b"-"}
            if may_be_form and len(self._start) < _MAX_START_BYTES:
                return  # too few bytes to decide
            await self._detect_form()
        elif self._form is not None:
            await self._parse(piece)
        else:
            self._write(piece)

    async def finish(self) -> None:
        """Finish the body. Raises AudioTruncated for an incomplete form, InvalidRequest without a file."""
        if self._start is not None:
            await self._detect_form()
        if self._form is not None:
            self._close_form()
            if self.file_type is None:
                raise InvalidRequest("the form has no file")
        await self.buffer.finish()

    def _begin_form(self, boundary: bytes) -> None:
        self._start = None
        try:
            self._form = multipart.PushMultipartParser(boundary, max_segment_count=_MAX_SEGMENTS)
        except multipart.MultipartError:
            raise InvalidRequest("the form's boundary cannot be used") from None

    async def _detect_form(self) -> None:
        start, self._start = bytes(self._start or b""), None
        form = _FORM_START.match(start)
        if form is not None:
            self._begin_form(form[1])
            await self._parse(start)
        elif self._claims_form:
            raise InvalidRequest("the form cannot be read")
        else:
            self._buffer = await self._admit(self.fields)
            self._write(start)

    async def _parse(self, piece: bytes) -> None:
        assert self._form is not None  # noqa: S101 - only called once there is one
        if not piece:
            return
        try:
            for event in self._form.parse(piece):
                await self._on_event(event)
        except multipart.MultipartError:
            raise InvalidRequest("the form cannot be read") from None

    async def _on_event(self, event: Any) -> None:
        if isinstance(event, multipart.MultipartSegment):
            await self._begin_segment(event)
        elif event is None:
            self._end_segment()
        elif self._is_file:
            self._write(event)
        else:
            self._field_bytes += len(event)
            if self._field_bytes > _MAX_FIELDS_BYTES:
                raise InvalidRequest("the form's fields are too large")
            self._value += event

    @property
    def _is_file(self) -> bool:
        segment = self._segment
        return segment is not None and (segment.filename is not None or segment.name == "file")

    async def _begin_segment(self, segment: multipart.MultipartSegment) -> None:
        self._segment = segment
        self._value.clear()
        if not self._is_file:
            return
        if self.file_type is not None:
            raise InvalidRequest("the form has more than one file")
        self._buffer = await self._admit(self.fields)
        self.file_name, self.file_type = segment.filename, segment.header("Content-Type", "")

    def _end_segment(self) -> None:
        segment = self._segment
        if segment is not None and not self._is_file:
            self.fields[segment.name] = self._value.decode("utf-8", "replace")
        self._segment = None

    def _write(self, piece: bytes) -> None:
        if self.buffer.size + len(piece) > self._max_bytes:
            raise ChunkTooLarge(f"a chunk may have {self._max_bytes} bytes")
        self.buffer.write(piece)

    def _close_form(self) -> None:
        assert self._form is not None  # noqa: S101 - only called once there is one
        try:
            self._form.close()
        except multipart.MultipartError:
            raise AudioTruncated("the form ends before its last boundary") from None


async def read_upload(
    request: Request[Any, Any, Any],
    max_bytes: int,
    authorise: Callable[[Mapping[str, str]], Awaitable[None]] | None = None,
    count: Callable[[int], None] | None = None,
) -> Upload:
    """Read a body to its end; the caller closes the result.

    `authorise` gets the fields of a form before its file, and raises if they authorise nothing. Until then
    `count` gets the size of each piece, and may raise.
    """
    max_body_bytes = max_bytes + _FORM_OVERHEAD_BYTES

    async def admit(fields: Mapping[str, str]) -> BufferedBody:
        nonlocal count
        if authorise is not None:
            await authorise(fields)
        count = None
        permit = permit_of(request.scope)
        memory_bytes = await memory_for(permit, content_length(request), max_body_bytes)
        return BufferedBody(permit.count_written, memory_bytes, permit.disk_failure)

    upload = Upload(request.headers.get("content-type", ""), max_bytes, admit)

    async def feed(piece: bytes) -> None:
        await upload.feed(piece)
        if count is not None:
            count(len(piece))

    try:
        await read_body(request, max_body_bytes, upload.feed if count is None else feed)
        await upload.finish()
    except BaseException:
        upload.close()
        raise
    return upload
