"""Uploads audio to the vendor with aiohttp, for which a body costs a fifth of what httpx2 needs (ADR 023).

aiohttp returns an early answer, such as a 401, while the body is still being sent. It has no time-out for a
peer that stops reading, and accepts a success that came before the whole body; this module adds both checks.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any, Self

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from msgspec import Struct
from yarl import URL

from service.domain.audio.models import Audio
from service.domain.errors import VendorTimeout, VendorUnavailable, VendorUnreachable
from service.eka.http_exchange import (
    SMALL_ANSWER_BYTES,
    TIMEOUT,
    LimitedContent,
    VendorAnswer,
    instrumented_call,
    retry_after_of,
)
from service.http_client.tls_and_proxy import proxy_for, trusted_context
from service.observability.tracing import trace_headers

_KEEPALIVE_SECONDS = 30.0
# Moving the deadline costs more than sending a piece, so it is moved only so many times per time-out.
_MOVES_PER_TIMEOUT = 20
_MIN_REFUSAL = 300
# One answer with everything around it: interim answers, its head, framing, trailers.
_MAX_RAW_BYTES = 4 * SMALL_ANSWER_BYTES
_ENCODINGS = {"accept-encoding": "gzip"}


class UploadTimeouts(Struct, frozen=True, kw_only=True):
    """The seconds that each step of an upload may take, and the seconds for all of it."""

    connect: float = TIMEOUT.connect or 0.0
    write: float = TIMEOUT.write or 0.0
    read: float = TIMEOUT.read or 0.0
    whole: float = 45.0


class AudioClient:
    """Keeps connections for audio between the calls; the call limiter bounds how many there are."""

    def __init__(
        self,
        base_url: str,
        *,
        timeouts: UploadTimeouts | None = None,
        max_answer_bytes: int = SMALL_ANSWER_BYTES,
    ) -> None:
        self._timeouts = timeouts or UploadTimeouts()
        self._max_answer_bytes = max_answer_bytes
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS, ssl=trusted_context())
        # aiohttp has no parameter for the protocol, and nothing else bounds what it reads.
        make_protocol: Any = partial(_Protocol, asyncio.get_running_loop())
        connector._factory = make_protocol  # noqa: SLF001
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._timeouts.connect),
            response_class=_Response,
            # Not `trust_env`: that looks for a netrc file with each call.
            proxy=proxy_for(base_url),
        )

    async def __aenter__(self) -> Self:
        """Return the client; the end of the block closes every connection."""
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def send(self, url: str, headers: Mapping[str, str], audio: Audio) -> VendorAnswer:
        """POST the audio and read the whole answer; `url` is quoted already.

        Raises VendorUnavailable or VendorTimeout; their `sent` says whether the upload may have taken effect.
        An exception of `audio` while it is read is raised unchanged.
        """
        body = _Body(audio)
        with instrumented_call("upload", "POST") as record_status:
            try:
                answer = await self._exchange(url, {**headers, **_ENCODINGS, **trace_headers()}, body)
            except (aiohttp.ClientError, OSError) as error:  # a time-out is an OSError, too
                raise body.failure or _translated_errors(error, is_sent=body.sent_bytes > 0) from error
            record_status(answer.status)
        return answer

    async def _exchange(self, url: str, headers: dict[str, str], body: "_Body") -> VendorAnswer:
        started, timeouts = asyncio.get_running_loop().time(), self._timeouts
        async with (
            asyncio.timeout_at(started + timeouts.connect + timeouts.write) as deadline,
            self._session.post(
                URL(url, encoded=True),
                data=body.pieces(deadline, started + timeouts.whole, timeouts),
                headers=headers,
                allow_redirects=False,
            ) as answer,
        ):
            assert isinstance(answer, _Response)  # noqa: S101 - the session's response_class
            try:
                content = await self._content_of(answer)
            except BaseException:
                answer.abort()
                raise
            if not body.is_complete:
                answer.abort()
                if answer.status < _MIN_REFUSAL:
                    raise VendorUnavailable("EkaScribe answered before it had the audio", sent=True)
        return VendorAnswer(answer.status, retry_after_of(answer.headers), content)

    async def _content_of(self, answer: aiohttp.ClientResponse) -> bytes:
        content = LimitedContent(answer.headers.get("content-encoding"), self._max_answer_bytes)
        async for raw in answer.content.iter_any():
            for _ in content.feed(raw):
                pass
        return content.whole()


class _Body:
    """The body of an upload, which a task of aiohttp reads: how much was read, and which error ended it."""

    def __init__(self, audio: Audio) -> None:
        self._audio = audio
        self.sent_bytes = 0
        self.failure: Exception | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the connection has the whole body: aiohttp writes each piece right after it read it."""
        return self.sent_bytes == self._audio.size

    async def pieces(
        self, deadline: asyncio.Timeout, latest: float, timeouts: UploadTimeouts
    ) -> AsyncIterator[bytes]:
        """Yield the bytes, and move the deadline while the peer reads them."""
        loop, moved_at = asyncio.get_running_loop(), 0.0
        try:
            async for piece in self._audio.read():
                now = loop.time()
                if now > moved_at + timeouts.write / _MOVES_PER_TIMEOUT:
                    moved_at = now
                    _move(deadline, min(latest, now + timeouts.write))
                self.sent_bytes += len(piece)
                yield piece
            if not self.is_complete:
                # The vendor would read the first bytes of the next upload as the missing rest of this one.
                raise RuntimeError("the audio is not as long as it said")
        except Exception as error:
            self.failure = error
            raise
        _move(deadline, min(latest, loop.time() + timeouts.read))


class _Protocol(ResponseHandler):
    """A connection that is aborted when its peer sends too much for one answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._answer_bytes = 0

    def expect_answer(self) -> None:
        """Restart the count: the next bytes belong to the next answer."""
        self._answer_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Count and parse received bytes."""
        self._answer_bytes += len(data)
        if self._answer_bytes <= _MAX_RAW_BYTES:
            super().data_received(data)
        elif self.transport is not None:
            self.set_exception(aiohttp.ClientConnectionError("the answer goes on without end"))
            self.transport.abort()


class _Response(aiohttp.ClientResponse):
    """An answer to a request of ours; after a fault in it, its connection is aborted."""

    _transport: asyncio.Transport | None = None

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Wait for the answer's head."""
        protocol, self._transport = connection.protocol, connection.transport
        # The event loop has not run since the connection left the pool, so whatever it received earlier, such
        # as a 408 for idleness or a surplus answer, does not answer this request.
        if protocol is None or protocol.should_close:
            raise aiohttp.ClientConnectionError("the vendor spoke before it was asked")
        assert isinstance(protocol, _Protocol)  # noqa: S101 - the connector makes no others
        protocol.expect_answer()
        try:
            return await super().start(connection)
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Abort the connection: a plain close would wait for a peer that may never read the rest."""
        if self._transport is not None:
            self._transport.abort()


def _move(deadline: asyncio.Timeout, until: float) -> None:
    # aiohttp's task may run once more after the deadline.
    if not deadline.expired():
        deadline.reschedule(until)


def _translated_errors(error: Exception, *, is_sent: bool) -> VendorUnreachable:
    """Translate a failure. aiohttp writes nothing, not even the head, before it read a piece of the body."""
    if isinstance(error, TimeoutError):
        detail = "EkaScribe did not answer in time" if is_sent else "EkaScribe cannot be reached in time"
        return VendorTimeout(detail, sent=is_sent)
    detail = "the connection to EkaScribe broke" if is_sent else "EkaScribe cannot be reached"
    return VendorUnavailable(detail, sent=is_sent)
