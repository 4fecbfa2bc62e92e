"""Makes HTTP calls to the vendor, bounded in time and size; a failure says whether the request was sent."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx2
from msgspec import Struct

from service.concurrency.memory_budget import VENDOR_ANSWERS_BYTES, MemoryBudget, MemoryReservation
from service.domain.errors import (
    VendorFailure,
    VendorLimited,
    VendorRefused,
    VendorTimeout,
    VendorUnavailable,
    VendorUnreachable,
)
from service.domain.retry_schedule import read_retry_after
from service.domain.vendor_limits import DEFAULT_MAX_RESULT_BYTES
from service.eka.metrics import Operation, counted, outcome_of
from service.eka.response_parsing import read_error_code
from service.eka.token_errors import explanation
from service.http_client.response_limits import ContentEncodingError, Decompressor, LimitedBackend
from service.http_client.tls_and_proxy import trusted_context
from service.observability.tracing import fail, span, trace_headers

# Get Session holds a request for up to 14 s (docs/vendor.md#long-poll): reading must wait longer than that.
TIMEOUT = httpx2.Timeout(connect=5.0, read=25.0, write=20.0, pool=5.0)
# The call limiter bounds the connections of each account (call_limiter.py). A bound over all accounts would
# let an account whose calls hang take the connections of the others.
LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=30.0)
# A vendor that sends a byte now and then never exceeds the time-out between two reads.
CALL_SECONDS = 30.0
# Less than a call or a download may take, so that a failed wait for memory is not reported as a slow vendor.
_ROOM_SECONDS = 15.0

_MAX_RETRY_AFTER_SECONDS = 300.0
# For answers without results: ids, times, counts, error codes.
SMALL_ANSWER_BYTES = 64 * 1024
# For the framing of content that comes in chunks.
_FRAMING_BYTES = 1024 * 1024
# The memory of an answer and its decoded values, in multiples of its bytes. The values take about four times
# the bytes: words with their times 4.1, notes 3.6, a text with one emoji 4.0. Only brackets take 24 times,
# and MAX_VALUES bounds those to 45 MB.
_DECODED_TIMES = 5
_ENCODINGS = {"accept-encoding": "gzip"}
_NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)


class NoRoomError(VendorTimeout):
    """The memory for large answers is in use."""


class VendorAnswer(Struct, frozen=True):
    """A whole answer: its HTTP status, the seconds of its Retry-After, its body.

    `held` is the memory reservation of a large body and its decoded values.
    """

    status: int
    retry_after_seconds: float | None
    body: bytes
    held: MemoryReservation | None = None

    @property
    def code(self) -> str | None:
        """The vendor's error code, if the body has one; a large body is not read for it."""
        return read_error_code(self.body) if len(self.body) <= SMALL_ANSWER_BYTES else None


class VendorHttp(httpx2.AsyncClient):
    """The HTTP client for all vendor calls, with the memory budget of their large answers."""

    def __init__(self, memory: MemoryBudget, max_answer_bytes: int) -> None:
        # No redirects, so that no token goes to another host. No cookies: an on-prem server sets its login as
        # a cookie, and the client's jar would send one account's login with another account's calls.
        super().__init__(
            verify=trusted_context(),
            timeout=TIMEOUT,
            limits=LIMITS,
            follow_redirects=False,
            cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
        )
        self.memory = memory
        # httpx2 has no parameter for the network backend, but its pools have one, also those of proxies.
        for transport in (self._transport, *self._mounts.values()):
            if isinstance(transport, httpx2.AsyncHTTPTransport):
                pool: Any = transport._pool  # noqa: SLF001
                pool._network_backend = LimitedBackend(pool._network_backend, max_answer_bytes)  # noqa: SLF001


def make_http_client(
    on_date: Callable[[str | None], None] | None = None,
    *,
    memory: MemoryBudget | None = None,
    max_result_bytes: int = DEFAULT_MAX_RESULT_BYTES,
) -> VendorHttp:
    """Make the client for vendor calls.

    `on_date` is called with the `Date` of each answer, by which our own clock is checked.
    """
    room = max(VENDOR_ANSWERS_BYTES, max_result_bytes * _DECODED_TIMES)
    counted_in = memory or MemoryBudget(room, patience_seconds=_ROOM_SECONDS)
    client = VendorHttp(counted_in, max_result_bytes + _FRAMING_BYTES)
    if on_date is not None:

        async def on_response(answer: httpx2.Response) -> None:
            on_date(answer.headers.get("date"))

        client.event_hooks = {"response": [on_response]}
    return client


async def exchange(
    http: httpx2.AsyncClient,
    method: str,
    url: str,
    *,
    operation: Operation,
    headers: Mapping[str, str],
    content: bytes | None = None,
    params: Mapping[str, str] | None = None,
    max_bytes: int = SMALL_ANSWER_BYTES,
) -> VendorAnswer:
    """Make one call and read the whole answer; a VendorHttp reserves memory for a large one.

    Raises VendorUnavailable, VendorTimeout, NoRoomError or VendorFailure; their `sent` says whether the
    request may have taken effect.
    """
    with_body: dict[str, Any] = {} if content is None else {"content": content}
    with instrumented_call(operation, method) as record_status:
        async with (
            _translated_errors(),
            http.stream(
                method,
                url,
                headers={**headers, **_ENCODINGS, **trace_headers()},
                params=params,
                **with_body,
            ) as answer,
        ):
            memory = http.memory if isinstance(http, VendorHttp) else None
            body, held = await _read(answer, memory, max_bytes)
        record_status(answer.status_code)
    return VendorAnswer(answer.status_code, retry_after_of(answer.headers), body, held)


async def _read(
    answer: httpx2.Response, memory: MemoryBudget | None, max_bytes: int
) -> tuple[bytes, MemoryReservation | None]:
    """Read a body; memory for a large one is reserved before more of it is read."""
    content = LimitedContent(answer.headers.get("content-encoding"), max_bytes)
    held = None
    # httpx2 would decompress the whole body at once, however large it gets.
    async for raw in answer.aiter_raw() if content.is_encoded else answer.aiter_bytes():
        for size in content.feed(raw):
            if memory is not None and held is None and size > SMALL_ANSWER_BYTES:
                announced = answer.headers.get("content-length", "")
                known = announced.isdigit() and not content.is_encoded
                held = await reserve(memory, min(int(announced), max_bytes) if known else max_bytes)
    body = content.whole()
    if held is not None:
        shrink(held, body)
    return body, held


async def reserve(memory: MemoryBudget, size: int) -> MemoryReservation:
    """Reserve memory for an answer of `size` bytes and its decoded values. Raises NoRoomError."""
    if not await memory.acquire(size * _DECODED_TIMES):
        raise NoRoomError("too many large answers of EkaScribe are read here", sent=True)
    return MemoryReservation(memory, size * _DECODED_TIMES)


def shrink(held: MemoryReservation, body: bytes) -> None:
    """Release the memory that was reserved beyond the size of this body."""
    held.shrink(len(body) * _DECODED_TIMES)


class LimitedContent:
    """Collects the content of an answer, decompressed, up to `max_bytes`."""

    def __init__(self, encoding: str | None, max_bytes: int) -> None:
        """Raises VendorFailure for an encoding that was not requested."""
        try:
            self._unfolding = Decompressor(encoding)
        except ContentEncodingError as error:
            raise VendorFailure("EkaScribe's answer is encoded as nobody asked for", sent=True) from error
        self.is_encoded = encoding is not None
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, raw: bytes) -> Iterator[int]:
        """Add received bytes; before each piece is kept, yields the size of the content with it.

        Raises VendorFailure for too much content, VendorUnavailable for garbled content.
        """
        try:
            for piece in self._unfolding.pieces(raw):
                self._size += len(piece)
                if self._size > self._max_bytes:
                    raise VendorFailure("EkaScribe's answer is too large", sent=True)
                yield self._size
                self._pieces.append(piece)
        except ContentEncodingError as error:
            raise VendorUnavailable("the connection to EkaScribe broke", sent=True) from error

    def whole(self) -> bytes:
        """Return the whole content and forget it."""
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@contextmanager
def instrumented_call(operation: Operation, method: str) -> Iterator[Callable[[int], None]]:
    """Count, time and trace one call; the block calls the yielded function with the status of its answer."""
    attributes = {"http.request.method": method, "ekabridge.operation": operation}
    with span(f"eka {operation}", "client", attributes) as made, counted(operation) as count:

        def record_status(status: int) -> None:
            count.outcome = outcome_of(status)
            if made is not None:
                made.set_attribute("http.response.status_code", status)
                if count.outcome != "ok":
                    fail(made, str(status))

        yield record_status


def retry_after_of(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of Retry-After, five minutes at most: a vendor's mistake must not delay a result."""
    seconds = read_retry_after(headers.get("retry-after"), datetime.now(UTC))
    return None if seconds is None else min(seconds, _MAX_RETRY_AFTER_SECONDS)


@asynccontextmanager
async def _translated_errors() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(CALL_SECONDS):
            yield
    except _NEVER_SENT as error:
        kind = VendorTimeout if isinstance(error, httpx2.TimeoutException) else VendorUnavailable
        raise kind("EkaScribe cannot be reached", sent=False) from error
    except (httpx2.TimeoutException, TimeoutError) as error:
        raise VendorTimeout("EkaScribe did not answer in time", sent=True) from error
    except httpx2.HTTPError as error:
        raise VendorUnavailable("the connection to EkaScribe broke", sent=True) from error


def check(answer: VendorAnswer, *accepted: int) -> VendorAnswer:
    """Return the answer if its status is one of these; raises VendorRefused or VendorUnreachable."""
    if answer.status in accepted:
        return answer
    if answer.status == 429:  # noqa: PLR2004
        raise VendorLimited(
            "EkaScribe is limiting our calls", sent=False, retry_after_seconds=answer.retry_after_seconds
        )
    if answer.status >= 500:  # noqa: PLR2004
        kind: type[VendorUnreachable] = VendorUnavailable if answer.status == 503 else VendorFailure  # noqa: PLR2004
        raise kind(
            f"EkaScribe answered {answer.status}", sent=True, retry_after_seconds=answer.retry_after_seconds
        )
    raise refusal(answer, explanation(answer.status, answer.body))


def refusal(answer: VendorAnswer, more: str = "") -> VendorRefused:
    """Make the error for a refused call; `more` follows the status and the code in its detail."""
    code = answer.code
    return VendorRefused(
        f"EkaScribe answered {answer.status}{f' {code}' if code else ''}{more}",
        status=answer.status,
        vendor_code=code,
    )
