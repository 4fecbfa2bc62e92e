"""One signed POST to a destination, bounded in time and size; every failure named by its stage."""

import asyncio
import contextlib
import hashlib
import ssl
import time
from datetime import UTC, datetime

import httpx2
from standardwebhooks import Webhook

from service.domain.ids import DeliveryId
from service.domain.ports import Clock
from service.domain.records import Answer, DeliveryJob, NoAnswer
from service.domain.schedule import read_retry_after
from service.forwarding.guard import (
    AddressForbiddenError,
    GuardedBackend,
    GuardedTransport,
    NameUnresolvedError,
)

# Enough for a record id or an error code; what an EMR answers beyond it is not read.
_MOST_ANSWER_BYTES = 64 * 1024
_BODY_SECONDS = 2.0

# ValueError and OverflowError: a destination that was stored before a check was made stricter, or a header
# that no library foresaw. The attempt is recorded all the same; a job that raises would be due for ever.
_FAILURES = (
    httpx2.HTTPError,
    httpx2.InvalidURL,
    AddressForbiddenError,
    NameUnresolvedError,
    OSError,
    ValueError,
    OverflowError,
    ExceptionGroup,
)


def sign(delivery_id: DeliveryId, at: datetime, body: bytes, secrets: list[str]) -> dict[str, str]:
    """Return the headers of Standard Webhooks; during a rotation both secrets sign."""
    text = body.decode()
    signatures = [Webhook(secret).sign(delivery_id, at, text) for secret in secrets]
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
        "idempotency-key": delivery_id,
    }


class HttpSender:
    """The domain's Sender over httpx2."""

    def __init__(self, *, backend: GuardedBackend, clock: Clock, timeout_seconds: float) -> None:
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._http = httpx2.AsyncClient(
            transport=GuardedTransport(backend),
            timeout=httpx2.Timeout(timeout_seconds),
            follow_redirects=False,
            trust_env=False,
            headers={"user-agent": "ekabridge"},
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def send(self, job: DeliveryJob) -> Answer | NoAnswer:
        """POST the body, signed; never raises for what the destination does."""
        limit = min(job.timeout_seconds or self._timeout_seconds, self._timeout_seconds)
        started = time.monotonic()
        try:
            async with asyncio.timeout(limit):
                return await self._post(job, started)
        except _FAILURES as error:
            return NoAnswer(
                error_class=_stage(error),
                duration_ms=_elapsed_ms(started),
                is_forbidden=isinstance(error, AddressForbiddenError),
            )

    async def _post(self, job: DeliveryJob, started: float) -> Answer:
        headers = {name.lower(): value for name, value in job.headers.items()}
        headers |= {"content-type": "application/json"}
        headers |= sign(job.id, self._clock.now(), job.body, job.secrets)
        async with self._http.stream("POST", job.url, content=job.body, headers=headers) as answer:
            excerpt = await _excerpt(answer)
            return Answer(
                status_code=answer.status_code,
                retry_after_seconds=read_retry_after(answer.headers.get("retry-after"), datetime.now(UTC)),
                location=answer.headers.get("location") if answer.is_success else None,
                echoed_id=answer.headers.get("webhook-id"),
                excerpt=excerpt,
                size=len(excerpt),
                sha256=hashlib.sha256(excerpt).digest(),
                duration_ms=_elapsed_ms(started),
            )


async def _excerpt(answer: httpx2.Response) -> bytes:
    """Read the beginning of an answer's body; the status stands, whatever becomes of the body.

    A note that was accepted with 200 must not be sent again because the words after it stall or are garbled.
    """
    read = bytearray()
    with contextlib.suppress(httpx2.HTTPError, TimeoutError, OSError):
        async with asyncio.timeout(_BODY_SECONDS):
            async for piece in answer.aiter_bytes():
                read += piece
                if len(read) >= _MOST_ANSWER_BYTES:
                    break
    return bytes(read[:_MOST_ANSWER_BYTES])


def _elapsed_ms(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


def _stage(error: Exception) -> str:
    if isinstance(error, AddressForbiddenError):
        return "forbidden_address"
    if isinstance(error, NameUnresolvedError):
        return "dns"
    if isinstance(error, TimeoutError | httpx2.TimeoutException):
        return "timeout"
    if isinstance(error, httpx2.ConnectError):
        return "tls" if _is_tls(error) else "connect"
    if isinstance(error, httpx2.NetworkError):
        return "connection_broken"
    return "connect" if isinstance(error, OSError) else "protocol"


def _is_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False
