"""The way of audio to the vendor, by aiohttp: a body costs it a fifth of what it costs httpx2 (ADR 022).

It sees an early answer, a 401 say, while the body is still being sent. It knows no time-out for a peer that
stops reading, so that each piece of the body has one here.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from service.domain.errors import VendorFailure, VendorTimeout, VendorUnavailable, VendorUnreachable
from service.domain.ports import Audio
from service.eka.metrics import counted, outcome_of
from service.eka.trust import trusted
from service.eka.wire import MOST_ANSWER_BYTES, TIMEOUT, WireAnswer, asked_seconds
from service.tracing import fail, span, trace_headers

UPLOAD_SECONDS = 45.0
_CONNECT_SECONDS = TIMEOUT.connect or 0.0
_WRITE_SECONDS = TIMEOUT.write or 0.0
_READ_SECONDS = TIMEOUT.read or 0.0
_KEEPALIVE_SECONDS = 30.0
# To move the end of our patience costs more than to send a piece: it is moved once in so many seconds.
_TOLD_SECONDS = 1.0
_NEVER_SENT = (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, aiohttp.InvalidURL)


class AudioWire:
    """Connections for audio, kept between the calls. How many there are is the gates' matter."""

    def __init__(self, base_url: str) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS, ssl=trusted()),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=_CONNECT_SECONDS),
            # Not `trust_env`: that looks for a netrc file with each call.
            proxy=_proxy_for(base_url),
        )

    async def __aenter__(self) -> Self:
        """Use it until the block ends, which closes every connection."""
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def send(self, url: str, headers: Mapping[str, str], audio: Audio) -> WireAnswer:
        """POST all of it and read the whole answer; `url` is quoted already.

        Raises VendorUnavailable or VendorTimeout; their `sent` says whether it may have taken effect.
        """
        attributes = {"http.request.method": "POST", "ekabridge.operation": "upload"}
        with span("eka upload", "client", attributes) as made, counted("upload") as count:
            try:
                answer = await self._exchange(url, {**headers, **trace_headers()}, audio)
            except (aiohttp.ClientError, OSError) as error:  # a time-out is an OSError, too
                raise _told_apart(error) from error
            count.outcome = outcome_of(answer.status)
            if made is not None:
                made.set_attribute("http.response.status_code", answer.status)
                if count.outcome != "ok":
                    fail(made, str(answer.status))
        return answer

    async def _exchange(self, url: str, headers: dict[str, str], audio: Audio) -> WireAnswer:
        loop = asyncio.get_running_loop()
        end = loop.time() + UPLOAD_SECONDS
        async with asyncio.timeout_at(loop.time() + _CONNECT_SECONDS + _WRITE_SECONDS) as patience:

            async def pieces() -> AsyncIterator[bytes]:
                told = 0.0
                async for piece in audio.read():
                    now = loop.time()
                    if now > told + _TOLD_SECONDS:
                        told = now
                        _be_patient(patience, min(end, now + _WRITE_SECONDS))
                    yield piece
                _be_patient(patience, min(end, loop.time() + _READ_SECONDS))

            async with self._session.post(
                URL(url, encoded=True), data=pieces(), headers=headers, allow_redirects=False
            ) as answer:
                body = bytearray()
                async for piece in answer.content.iter_any():
                    body += piece
                    if len(body) > MOST_ANSWER_BYTES:
                        raise VendorFailure("EkaScribe's answer is too large", sent=True)
        return WireAnswer(answer.status, asked_seconds(answer.headers), bytes(body))


def _proxy_for(base_url: str) -> str | None:
    """Return the proxy that the usual variables (HTTPS_PROXY, NO_PROXY, …) name for an address."""
    parts = urlsplit(base_url)
    proxies = getproxies()
    if proxy_bypass(parts.hostname or ""):
        return None
    return proxies.get(parts.scheme) or proxies.get("all")


def _be_patient(patience: asyncio.Timeout, until: float) -> None:
    # The body is sent by a task of the library's, which may have another turn after the end of our patience.
    if not patience.expired():
        patience.reschedule(until)


def _told_apart(error: Exception) -> VendorUnreachable:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return VendorTimeout("EkaScribe cannot be reached", sent=False)
    if isinstance(error, _NEVER_SENT):
        return VendorUnavailable("EkaScribe cannot be reached", sent=False)
    if isinstance(error, TimeoutError):
        return VendorTimeout("EkaScribe did not answer in time", sent=True)
    return VendorUnavailable("the connection to EkaScribe broke", sent=True)
