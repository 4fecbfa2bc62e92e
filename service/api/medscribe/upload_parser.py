"""Audio as clients of the protocol send it: raw, or as the file of a form, even of one labelled as raw."""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import multipart
from litestar import Request

from service.api.middleware.admission_control import permit_of
from service.api.upload_buffer import BufferedBody, content_length, memory_for, read_body
from service.domain.errors import AudioTruncated, ChunkTooLarge, InvalidRequest

# One official client posts a form labelled `audio/webm;codecs=opus`, without a boundary
# (docs/vendor.md#client-bare-form). No audio format begins so.
_FORM_HEAD = re.compile(
    rb"--([^\r\n]{1,200})\r\n(?:[^\r\n]{1,1000}\r\n){0,4}?content-disposition:[ \t]*form-data", re.IGNORECASE
)
_MAX_HEAD_BYTES = 2048
_MAX_FIELDS_BYTES = 16_384
_MAX_PARTS = 32
# What a form may hold besides its file: fields, headers, boundaries.
_FORM_OVERHEAD_BYTES = 65_536

# Lets audio in by a form's fields, of which raw audio has none, or raises; returns where its bytes are kept.
Admit = Callable[[Mapping[str, str]], Awaitable[BufferedBody]]


class Upload:
    """A body that is being read. `is_form` tells whether it was a form; then the file's own words count.

    No byte of the audio is kept before `admit` has returned.
    """

    def __init__(self, content_type: str, max_bytes: int, admit: Admit) -> None:
        self.fields: dict[str, str] = {}
        self.file_name: str | None = None
        self.file_type: str | None = None
        self._max_bytes = max_bytes
        self._admit = admit
        self._spool: BufferedBody | None = None
        self._head: bytearray | None = bytearray()
        self._form: multipart.PushMultipartParser | None = None
        self._part: multipart.MultipartSegment | None = None
        self._value = bytearray()
        self._field_bytes = 0
        kind, options = multipart.parse_options_header(content_type)
        self._claims_form = kind == "multipart/form-data"
        boundary = options.get("boundary")
        if self._claims_form and boundary:
            self._begin_form(boundary.encode())

    @property
    def spool(self) -> BufferedBody:
        """Where the audio is kept; there is one when the body is finished."""
        assert self._spool is not None  # noqa: S101 - a body without audio raises before
        return self._spool

    def close(self) -> None:
        """Forget the audio."""
        if self._spool is not None:
            self._spool.close()

    @property
    def is_form(self) -> bool:
        """Whether the body is a form."""
        return self._form is not None

    async def take(self, piece: bytes) -> None:
        """Take the next bytes. Raises ChunkTooLarge, InvalidRequest, or what `admit` raises."""
        if self._head is not None:
            self._head += piece
            may_be_form = self._head.startswith(b"--") or bytes(self._head) in {b"", b"-"}
            if may_be_form and len(self._head) < _MAX_HEAD_BYTES:
                return  # too little to tell
            await self._decide()
        elif self._form is not None:
            await self._parse(piece)
        else:
            self._keep(piece)

    async def finish(self) -> None:
        """There is no more. Raises AudioTruncated for a form cut short, InvalidRequest without a file."""
        if self._head is not None:
            await self._decide()
        if self._form is not None:
            self._close()
            if self.file_type is None:
                raise InvalidRequest("the form has no file")
        await self.spool.finish()

    def _begin_form(self, boundary: bytes) -> None:
        self._head = None
        try:
            self._form = multipart.PushMultipartParser(boundary, max_segment_count=_MAX_PARTS)
        except multipart.MultipartError:
            raise InvalidRequest("the form's boundary cannot be used") from None

    async def _decide(self) -> None:
        head, self._head = bytes(self._head or b""), None
        form = _FORM_HEAD.match(head)
        if form is not None:
            self._begin_form(form[1])
            await self._parse(head)
        elif self._claims_form:
            raise InvalidRequest("the form cannot be read")
        else:
            self._spool = await self._admit(self.fields)
            self._keep(head)

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
            await self._begin_part(event)
        elif event is None:
            self._end_part()
        elif self._is_file:
            self._keep(event)
        else:
            self._field_bytes += len(event)
            if self._field_bytes > _MAX_FIELDS_BYTES:
                raise InvalidRequest("the form's fields are too large")
            self._value += event

    @property
    def _is_file(self) -> bool:
        part = self._part
        return part is not None and (part.filename is not None or part.name == "file")

    async def _begin_part(self, part: multipart.MultipartSegment) -> None:
        self._part = part
        self._value.clear()
        if not self._is_file:
            return
        if self.file_type is not None:
            raise InvalidRequest("the form has more than one file")
        self._spool = await self._admit(self.fields)
        self.file_name, self.file_type = part.filename, part.header("Content-Type", "")

    def _end_part(self) -> None:
        part = self._part
        if part is not None and not self._is_file:
            self.fields[part.name] = self._value.decode("utf-8", "replace")
        self._part = None

    def _keep(self, piece: bytes) -> None:
        if self.spool.size + len(piece) > self._max_bytes:
            raise ChunkTooLarge(f"a chunk may have {self._max_bytes} bytes")
        self.spool.write(piece)

    def _close(self) -> None:
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
    """Read a body to its end; the caller closes it.

    `authorise` sees the fields of a form before its file, and raises if these do not let it in. Until then
    `count` hears of each piece, and may raise.
    """
    max_body_bytes = max_bytes + _FORM_OVERHEAD_BYTES

    async def admit(fields: Mapping[str, str]) -> BufferedBody:
        nonlocal count
        if authorise is not None:
            await authorise(fields)
        count = None
        place = permit_of(request.scope)
        return BufferedBody(
            place.keep, await memory_for(place, content_length(request), max_body_bytes), place.lose
        )

    upload = Upload(request.headers.get("content-type", ""), max_bytes, admit)

    async def take(piece: bytes) -> None:
        await upload.take(piece)
        if count is not None:
            count(len(piece))

    try:
        await read_body(request, max_body_bytes, upload.take if count is None else take)
        await upload.finish()
    except BaseException:
        upload.close()
        raise
    return upload
