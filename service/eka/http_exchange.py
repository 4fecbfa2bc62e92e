"""One HTTP exchange with the vendor: bounded in time and size, failures told apart by whether it was sent."""

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
from service.eka.metrics import Operation, counted, outcome_of
from service.eka.response_parsing import read_error_code
from service.eka.tls import trusted_context
from service.eka.token_errors import explanation
from service.http_client.response_limits import ContentEncodingError, LimitedBackend, Unfolding
from service.observability.tracing import fail, span, trace_headers

# Get Session holds a request for up to 14 s (docs/vendor.md#long-poll): reading must wait longer than that.
TIMEOUT = httpx2.Timeout(connect=5.0, read=25.0, write=20.0, pool=5.0)
# How many connections there are is the gates' matter (call_limiter.py): a bound over all accounts would
# let one whose calls hang take them from the others.
LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=30.0)
# A vendor that sends a byte now and then never runs into a time-out between two of them.
CALL_SECONDS = 30.0
# Less than a call or a download may take: who waited for memory in vain says so, and is not taken for slow.
_ROOM_SECONDS = 15.0

_MAX_ASKED_SECONDS = 300.0
# Of calls that answer no result: ids, times, counts, error codes.
SMALL_ANSWER_BYTES = 64 * 1024
RESULT_ANSWER_BYTES = 8 * 1024 * 1024
# Content may come in chunks, with frames around them, and compressed.
_FRAMING_BYTES = 1024 * 1024
# An answer and the values that are decoded from it. They take up to four times its bytes: words with their
# times 4.1, notes 3.6, a text with one emoji 4.0. Only brackets take 24; MAX_VALUES bounds these by 45 MB.
_DECODED_TIMES = 5
_ENCODINGS = {"accept-encoding": "gzip"}
_NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)


class NoRoomError(VendorTimeout):
    """The memory for large answers is taken."""


class WireAnswer(Struct, frozen=True):
    """A whole answer: HTTP status, the wait its Retry-After asks for, its body.

    `held`: what a large body, and what is decoded from it, take of the process' memory.
    """

    status: int
    retry_after_seconds: float | None
    body: bytes
    held: MemoryReservation | None = None

    @property
    def code(self) -> str | None:
        """The vendor's error code, if the body has one; of a large body none is read."""
        return read_error_code(self.body) if len(self.body) <= SMALL_ANSWER_BYTES else None


class VendorHttp(httpx2.AsyncClient):
    """The client for all vendor calls, and the memory that their large answers may take."""

    def __init__(self, memory: MemoryBudget, max_answer_bytes: int) -> None:
        # No redirects, so that a token goes nowhere else. No cookies: a server on premises sets its login
        # as one, and the client's jar would send one account's login with another account's calls.
        super().__init__(
            verify=trusted_context(),
            timeout=TIMEOUT,
            limits=LIMITS,
            follow_redirects=False,
            cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
        )
        self.memory = memory
        # httpx2 has no parameter for the network backend; its pools have, those of proxies too.
        for transport in (self._transport, *self._mounts.values()):
            if isinstance(transport, httpx2.AsyncHTTPTransport):
                pool: Any = transport._pool  # noqa: SLF001
                pool._network_backend = LimitedBackend(pool._network_backend, max_answer_bytes)  # noqa: SLF001


def make_http_client(
    hear_date: Callable[[str | None], None] | None = None,
    *,
    memory: MemoryBudget | None = None,
    max_result_bytes: int = RESULT_ANSWER_BYTES,
) -> VendorHttp:
    """Make the client for vendor calls.

    `hear_date` is told the `Date` of each answer: the vendor's clock is a witness of the time.
    """
    room = max(VENDOR_ANSWERS_BYTES, max_result_bytes * _DECODED_TIMES)
    counted_in = memory or MemoryBudget(room, patience_seconds=_ROOM_SECONDS)
    client = VendorHttp(counted_in, max_result_bytes + _FRAMING_BYTES)
    if hear_date is not None:

        async def hear(answer: httpx2.Response) -> None:
            hear_date(answer.headers.get("date"))

        client.event_hooks = {"response": [hear]}
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
) -> WireAnswer:
    """Make one call and read the whole answer, of so many bytes at most; a VendorHttp counts large ones.

    Raises VendorUnavailable, VendorTimeout, NoRoomError or VendorFailure; their `sent` says whether the
    request may have taken effect.
    """
    with_body: dict[str, Any] = {} if content is None else {"content": content}
    with watched(operation, method) as answered:
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
        answered(answer.status_code)
    return WireAnswer(answer.status_code, asked_seconds(answer.headers), body, held)


async def _read(
    answer: httpx2.Response, memory: MemoryBudget | None, max_bytes: int
) -> tuple[bytes, MemoryReservation | None]:
    """Read a body, which is counted before more of it is held than every answer may have."""
    content = LimitedContent(answer.headers.get("content-encoding"), max_bytes)
    held = None
    # The library would unfold what is compressed whole, however large it gets.
    async for raw in answer.aiter_raw() if content.is_folded else answer.aiter_bytes():
        for size in content.take(raw):
            if memory is not None and held is None and size > SMALL_ANSWER_BYTES:
                announced = answer.headers.get("content-length", "")
                known = announced.isdigit() and not content.is_folded
                held = await reserve(memory, min(int(announced), max_bytes) if known else max_bytes)
    body = content.whole()
    if held is not None:
        shrink(held, body)
    return body, held


async def reserve(memory: MemoryBudget, size: int) -> MemoryReservation:
    """Take the memory for an answer of so many bytes and what is decoded from it. Raises NoRoomError."""
    if not await memory.take(size * _DECODED_TIMES):
        raise NoRoomError("too many large answers of EkaScribe are read here", sent=True)
    return MemoryReservation(memory, size * _DECODED_TIMES)


def shrink(held: MemoryReservation, body: bytes) -> None:
    """Give back what was reserved for more than this body."""
    held.shrink(len(body) * _DECODED_TIMES)


class LimitedContent:
    """The content of an answer, put together within its bound."""

    def __init__(self, encoding: str | None, max_bytes: int) -> None:
        """Raises VendorFailure for content that is encoded as nobody asked for."""
        try:
            self._unfolding = Unfolding(encoding)
        except ContentEncodingError as error:
            raise VendorFailure("EkaScribe's answer is encoded as nobody asked for", sent=True) from error
        self.is_folded = encoding is not None
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._size = 0

    def take(self, raw: bytes) -> Iterator[int]:
        """Take what came; yields how much there is before each piece is kept.

        Raises VendorFailure for too much, VendorUnavailable for what is garbled.
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
        """Return all of it; it is not kept here."""
        pieces, self._pieces = self._pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@contextmanager
def watched(operation: Operation, method: str) -> Iterator[Callable[[int], None]]:
    """Count, time and trace one call to the vendor, which tells the status of a whole answer."""
    attributes = {"http.request.method": method, "ekabridge.operation": operation}
    with span(f"eka {operation}", "client", attributes) as made, counted(operation) as count:

        def answered(status: int) -> None:
            count.outcome = outcome_of(status)
            if made is not None:
                made.set_attribute("http.response.status_code", status)
                if count.outcome != "ok":
                    fail(made, str(status))

        yield answered


def asked_seconds(headers: Mapping[str, str]) -> float | None:
    """Return for how long the vendor asks us to wait, five minutes at most: a typo must not hide a result."""
    asked = read_retry_after(headers.get("retry-after"), datetime.now(UTC))
    return None if asked is None else min(asked, _MAX_ASKED_SECONDS)


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


def check(answer: WireAnswer, *accepted: int) -> WireAnswer:
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


def refusal(answer: WireAnswer, more: str = "") -> VendorRefused:
    """Make the error for an answer that means no; `more` goes on after the status and the code."""
    code = answer.code
    return VendorRefused(
        f"EkaScribe answered {answer.status}{f' {code}' if code else ''}{more}",
        status=answer.status,
        vendor_code=code,
    )
