"""The way of audio to the vendor, by aiohttp: a body costs it a fifth of what it costs httpx2 (ADR 023).

It sees an early answer, a 401 say, while the body is still being sent. What it does not do is done here: a
time-out for a peer that stops reading, and no belief in a success that cannot be one.
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

from service.domain.errors import VendorTimeout, VendorUnavailable, VendorUnreachable
from service.domain.ports import Audio
from service.eka.http_exchange import (
    SMALL_ANSWER_BYTES,
    TIMEOUT,
    LimitedContent,
    WireAnswer,
    asked_seconds,
    watched,
)
from service.eka.proxy import proxy_for
from service.eka.tls import trusted_context
from service.observability.tracing import trace_headers

_KEEPALIVE_SECONDS = 30.0
# To move the end of our patience costs more than to send a piece: it is moved so many times in a wait.
_TOLD_IN_A_WAIT = 20
_MIN_REFUSAL = 300
# Of one answer with all that is around it: interim answers, its head, frames, trailers.
_MAX_RAW_BYTES = 4 * SMALL_ANSWER_BYTES
_ENCODINGS = {"accept-encoding": "gzip"}


class UploadTimeouts(Struct, frozen=True, kw_only=True):
    """How many seconds each step of an upload may take, and the whole of it once it began."""

    connect: float = TIMEOUT.connect or 0.0
    write: float = TIMEOUT.write or 0.0
    read: float = TIMEOUT.read or 0.0
    whole: float = 45.0


class AudioClient:
    """Connections for audio, kept between the calls. How many there are is the gates' matter."""

    def __init__(
        self,
        base_url: str,
        *,
        patience: UploadTimeouts | None = None,
        max_answer_bytes: int = SMALL_ANSWER_BYTES,
    ) -> None:
        self._patience = patience or UploadTimeouts()
        self._max_answer_bytes = max_answer_bytes
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS, ssl=trusted_context())
        # aiohttp has no parameter for it; what it reads is not bounded otherwise.
        make: Any = partial(_Protocol, asyncio.get_running_loop())
        connector._factory = make  # noqa: SLF001
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._patience.connect),
            response_class=_Answer,
            # Not `trust_env`: that looks for a netrc file with each call.
            proxy=proxy_for(base_url),
        )

    async def __aenter__(self) -> Self:
        """Use it until the block ends, which closes every connection."""
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def send(self, url: str, headers: Mapping[str, str], audio: Audio) -> WireAnswer:
        """POST all of it and read the whole answer; `url` is quoted already.

        Raises VendorUnavailable or VendorTimeout; their `sent` says whether it may have taken effect. What
        `audio` raises while it is read is raised as it is.
        """
        body = _Body(audio)
        with watched("upload", "POST") as answered:
            try:
                answer = await self._exchange(url, {**headers, **_ENCODINGS, **trace_headers()}, body)
            except (aiohttp.ClientError, OSError) as error:  # a time-out is an OSError, too
                raise body.failure or _translated_errors(error, is_sent=body.given > 0) from error
            answered(answer.status)
        return answer

    async def _exchange(self, url: str, headers: dict[str, str], body: "_Body") -> WireAnswer:
        started, patience = asyncio.get_running_loop().time(), self._patience
        async with (
            asyncio.timeout_at(started + patience.connect + patience.write) as end,
            self._session.post(
                URL(url, encoded=True),
                data=body.pieces(end, started + patience.whole, patience),
                headers=headers,
                allow_redirects=False,
            ) as answer,
        ):
            assert isinstance(answer, _Answer)  # noqa: S101 - the session was told so
            try:
                content = await self._content_of(answer)
            except BaseException:
                answer.abort()
                raise
            if not body.is_given:
                answer.abort()
                if answer.status < _MIN_REFUSAL:
                    raise VendorUnavailable("EkaScribe answered before it had the audio", sent=True)
        return WireAnswer(answer.status, asked_seconds(answer.headers), content)

    async def _content_of(self, answer: aiohttp.ClientResponse) -> bytes:
        content = LimitedContent(answer.headers.get("content-encoding"), self._max_answer_bytes)
        async for raw in answer.content.iter_any():
            for _ in content.take(raw):
                pass
        return content.whole()


class _Body:
    """A body on its way, by a task of the library's: how much of it was handed over, and what went wrong."""

    def __init__(self, audio: Audio) -> None:
        self._audio = audio
        self.given = 0
        self.failure: Exception | None = None

    @property
    def is_given(self) -> bool:
        """Whether the connection has all of it: the library takes a piece and writes it in one turn."""
        return self.given == self._audio.size

    async def pieces(
        self, end: asyncio.Timeout, latest: float, patience: UploadTimeouts
    ) -> AsyncIterator[bytes]:
        """The bytes; with each that is taken the end of our patience moves."""
        loop, told = asyncio.get_running_loop(), 0.0
        try:
            async for piece in self._audio.read():
                now = loop.time()
                if now > told + patience.write / _TOLD_IN_A_WAIT:
                    told = now
                    _move(end, min(latest, now + patience.write))
                self.given += len(piece)
                yield piece
            if not self.is_given:
                # The rest of what we announced would be the next upload's first bytes.
                raise RuntimeError("the audio is not as long as it said")
        except Exception as error:
            self.failure = error
            raise
        _move(end, min(latest, loop.time() + patience.read))


class _Protocol(ResponseHandler):
    """A connection whose peer is cut off when it sends too much for one answer, or without being asked."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._answer_bytes = 0

    def expect_answer(self) -> None:
        """Count anew: what comes from now on belongs to the next answer."""
        self._answer_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Read what came."""
        self._answer_bytes += len(data)
        if self._answer_bytes <= _MAX_RAW_BYTES:
            super().data_received(data)
        elif self.transport is not None:
            self.set_exception(aiohttp.ClientConnectionError("the answer goes on without end"))
            self.transport.abort()


class _Answer(aiohttp.ClientResponse):
    """An answer to what was asked; a connection over which it did not come as it should is cut off."""

    _transport: asyncio.Transport | None = None

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Wait for the answer's head."""
        protocol, self._transport = connection.protocol, connection.transport
        # No turn of the loop has passed since the connection was taken: what has come over it, a 408 for
        # idleness or an answer too many, is no answer to us.
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
        """Cut the connection off: closed only, it waits for a peer that may never read what it was sent."""
        if self._transport is not None:
            self._transport.abort()


def _move(end: asyncio.Timeout, until: float) -> None:
    # The library's task may have another turn after the end of our patience.
    if not end.expired():
        end.reschedule(until)


def _translated_errors(error: Exception, *, is_sent: bool) -> VendorUnreachable:
    """Name a failure. Before the first piece of the body is taken nothing is written, not even the head."""
    if isinstance(error, TimeoutError):
        told = "EkaScribe did not answer in time" if is_sent else "EkaScribe cannot be reached in time"
        return VendorTimeout(told, sent=is_sent)
    told = "the connection to EkaScribe broke" if is_sent else "EkaScribe cannot be reached"
    return VendorUnavailable(told, sent=is_sent)
