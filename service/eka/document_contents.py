"""Fetches a document's content when EkaScribe's answer holds an address instead of it.

The address carries its own permission (docs/vendor.md#presigned), so no credentials are sent. It may lead to
any host, so only the vendor's own host is called directly; other hosts go through downloads that refuse
private addresses.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import httpx2
import msgspec
import structlog

from service.concurrency.memory_budget import MemoryReservation
from service.domain.errors import VendorUnreachable
from service.domain.results.models import VendorDocument, VendorResult
from service.eka.http_exchange import NoRoomError, VendorHttp, exchange, reserve, shrink
from service.eka.lenient_json import decode_object
from service.eka.response_parsing import is_empty

log = structlog.get_logger()

MAX_CONTENT_BYTES = 8 * 1024 * 1024
Reserve = Callable[[int], Awaitable[None]]


class Downloads(Protocol):
    """Downloads from any public host."""

    async def get(self, url: str, max_bytes: int, reserve: Reserve) -> bytes | None:
        """Return a body of at most `max_bytes`, or None if it cannot be had for any reason.

        `reserve` is awaited with the size of a large body before it is read; its exceptions are raised.
        """
        ...


class Contents:
    """Fetches the contents of a result's documents, within the memory budget of EkaScribe's answers."""

    def __init__(
        self, http: httpx2.AsyncClient, downloads: Downloads, is_vendor_url: Callable[[str], bool]
    ) -> None:
        """`is_vendor_url` says whether an address has the vendor's own origin."""
        self._http = http
        self._downloads = downloads
        self._is_vendors = is_vendor_url

    async def fill(self, result: VendorResult) -> VendorResult:
        """Fetch the content of each document that has an address instead of it.

        Raises NoRoomError, because a lack of memory must not make a document count as empty.
        """
        if not any(each.status == "empty" and each.content_url for each in result.documents):
            return result
        documents = []
        held = list(result.held)
        # For all documents together, because an answer may hold any number of addresses.
        left = MAX_CONTENT_BYTES
        for document in result.documents:
            content = None
            if document.status == "empty" and document.content_url and left > 0:
                content = await self._content(document.content_url, left, held)
            left -= len(content or b"")
            # Without content the document stays empty, and is asked for again later.
            documents.append(document if content is None else _with_content(document, content))
        return msgspec.structs.replace(result, documents=documents, held=tuple(held))

    async def _content(self, url: str, max_bytes: int, held: list[MemoryReservation]) -> bytes | None:
        try:
            if not self._is_vendors(url):
                return await self._download(url, max_bytes, held)
            answer = await exchange(
                self._http, "GET", url, operation="content", headers={}, max_bytes=max_bytes
            )
        except NoRoomError:
            raise
        except (VendorUnreachable, httpx2.InvalidURL, ValueError) as error:
            # An invalid address must not lose the other documents of the answer.
            reason = error.code if isinstance(error, VendorUnreachable) else type(error).__name__
            log.warning("download_refused", reason=reason)
            return None
        if answer.held is not None:
            held.append(answer.held)
        return answer.body if answer.status == 200 else None  # noqa: PLR2004

    async def _download(self, url: str, max_bytes: int, held: list[MemoryReservation]) -> bytes | None:
        reserved: list[MemoryReservation] = []

        async def reserve_memory(size: int) -> None:
            if isinstance(self._http, VendorHttp):
                reserved.append(await reserve(self._http.memory, size))

        content = await self._downloads.get(url, max_bytes, reserve_memory)
        if content is not None:
            for each in reserved:
                shrink(each, content)
            held += reserved
        return content


def read_content(body: bytes) -> Any:
    """Return content as a JSON object if it is one, else as text (docs/vendor.md#content-types)."""
    try:
        return decode_object(body)[0]
    except (ValueError, RecursionError):
        return body.decode(errors="replace")


def _with_content(document: VendorDocument, content: bytes) -> VendorDocument:
    data = read_content(content)
    return document if is_empty(data) else msgspec.structs.replace(document, status="success", data=data)
