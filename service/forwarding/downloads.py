"""Downloads results that EkaScribe keeps at another address, through the SSRF guard.

No credentials are sent.
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httpx2
import structlog

from service.forwarding.name_resolution import NameUnresolvedError
from service.forwarding.ssrf_guard import (
    AddressForbiddenError,
    GuardedBackend,
    GuardedTransport,
)
from service.http_client.response_limits import ContentEncodingError, content_pieces

log = structlog.get_logger()

_SECONDS = 20.0
_OK = 200
# Smaller bodies reserve no memory.
_SMALL_BYTES = 64 * 1024


class GuardedDownloads:
    """Downloads from any public host; private addresses are refused when the connection is made."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._http: httpx2.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        """Return the downloads; the end of the block closes every connection."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.aclose()

    async def get(self, url: str, max_bytes: int, reserve: Callable[[int], Awaitable[None]]) -> bytes | None:
        """Return a body of at most `max_bytes`, or None if it cannot be had for any reason.

        `reserve` is awaited once, with the size of a large body, before more of it is read; its exceptions
        are raised.
        """
        if urlsplit(url).scheme != "https" and not self._allow_private:
            log.warning("download_refused", reason="not_https")
            return None
        if self._http is None:
            transport = GuardedTransport(GuardedBackend(allow_private=self._allow_private))
            self._http = httpx2.AsyncClient(
                transport=transport,
                timeout=_SECONDS,
                follow_redirects=False,
                headers={"accept-encoding": "gzip"},
            )
        try:
            async with asyncio.timeout(_SECONDS), self._http.stream("GET", url) as answer:
                if answer.status_code != _OK:
                    log.warning("download_refused", reason=f"http_{answer.status_code}")
                    return None
                body = bytearray()
                is_reserved = False
                async for piece in content_pieces(answer):
                    body += piece
                    if len(body) > max_bytes:
                        log.warning("download_refused", reason="too_large")
                        return None
                    if len(body) > _SMALL_BYTES and not is_reserved:
                        await reserve(_expected(answer, max_bytes))
                        is_reserved = True
        except (
            AddressForbiddenError,
            ContentEncodingError,
            NameUnresolvedError,
            httpx2.HTTPError,
            TimeoutError,
        ) as error:
            log.warning("download_refused", reason=type(error).__name__)
            return None
        return bytes(body)


def _expected(answer: httpx2.Response, max_bytes: int) -> int:
    announced = answer.headers.get("content-length", "")
    is_known = announced.isdigit() and "content-encoding" not in answer.headers
    return min(int(announced), max_bytes) if is_known else max_bytes
