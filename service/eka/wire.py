"""One HTTP exchange with the vendor: bounded in time and size, failures told apart by whether it was sent."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx2
from msgspec import Struct

from service.domain.errors import (
    VendorFailure,
    VendorLimited,
    VendorRefused,
    VendorTimeout,
    VendorUnavailable,
    VendorUnreachable,
)
from service.domain.schedule import read_retry_after
from service.eka.answers import read_error_code
from service.eka.logins import explanation
from service.eka.metrics import Operation, counted, outcome_of
from service.eka.trust import trusted
from service.tracing import fail, span, trace_headers

# Get Session holds a request for up to 14 s (facts.md, Sessions): reading must wait longer than that.
TIMEOUT = httpx2.Timeout(connect=5.0, read=25.0, write=20.0, pool=5.0)
# How many connections there are is the gates' matter (service/eka/gate.py): a bound over all accounts would
# let one whose calls hang take them from the others.
LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=30.0)
# A vendor that sends a byte now and then never runs into a time-out between two of them.
CALL_SECONDS = 30.0

_MOST_ASKED_SECONDS = 300.0
MOST_ANSWER_BYTES = 32 * 1024 * 1024
_NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)


class WireAnswer(Struct, frozen=True):
    """A whole answer: HTTP status, the wait its Retry-After asks for, its body."""

    status: int
    retry_after_seconds: float | None
    body: bytes

    @property
    def code(self) -> str | None:
        """The vendor's error code, if the body has one."""
        return read_error_code(self.body)


def make_http_client(hear_date: Callable[[str | None], None] | None = None) -> httpx2.AsyncClient:
    """Make the client for all vendor calls.

    No redirects, so that a token goes nowhere else. No cookies: a server on premises sets its login as one,
    and the client's jar would send one account's login with another account's calls. `hear_date` is told the
    `Date` of each answer: the vendor's clock is a witness of the time.
    """
    client = httpx2.AsyncClient(
        verify=trusted(),
        timeout=TIMEOUT,
        limits=LIMITS,
        follow_redirects=False,
        cookies=CookieJar(policy=DefaultCookiePolicy(allowed_domains=[])),
    )
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
    most_bytes: int = MOST_ANSWER_BYTES,
) -> WireAnswer:
    """Make one call and read the whole answer.

    Raises VendorUnavailable or VendorTimeout; their `sent` says whether the request may have taken effect.
    """
    with_body: dict[str, Any] = {} if content is None else {"content": content}
    with watched(operation, method) as answered:
        async with (
            _told_apart(),
            http.stream(
                method, url, headers={**headers, **trace_headers()}, params=params, **with_body
            ) as answer,
        ):
            body = bytearray()
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > most_bytes:
                    raise VendorFailure("EkaScribe's answer is too large", sent=True)
        answered(answer.status_code)
    return WireAnswer(answer.status_code, asked_seconds(answer.headers), bytes(body))


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
    return None if asked is None else min(asked, _MOST_ASKED_SECONDS)


@asynccontextmanager
async def _told_apart() -> AsyncIterator[None]:
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
