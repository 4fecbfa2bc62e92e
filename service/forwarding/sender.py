"""Sends one signed POST to a destination, bounded in time and size, and names the stage of a failure."""

import asyncio
import contextlib
import hashlib
import ssl
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, assert_never

import httpx2
import msgspec
from msgspec import Struct
from standardwebhooks import Webhook

from schemas.destinations import MutualTls, OAuth2
from service.domain.clock import Clock
from service.domain.deliveries.models import Answer, CallFailure, DeliveryJob
from service.domain.ids import DeliveryId, DestinationId
from service.domain.retry_schedule import read_retry_after
from service.forwarding.client_certificates import ClientCertificates
from service.forwarding.fhir import FhirSystems
from service.forwarding.name_resolution import LOOKUP_OWNER, NameUnresolvedError, ResolverBusyError
from service.forwarding.oauth_tokens import DestinationTokens, TokenRefusedError, TokenUnavailableError
from service.forwarding.payloads import PayloadRenderer, RenderedPayload
from service.forwarding.ssrf_guard import (
    AddressForbiddenError,
    GuardedBackend,
    GuardedTransport,
)
from service.forwarding.timeout_policy import Call, TimeoutPolicy
from service.http_client.response_limits import ContentEncodingError, content_pieces
from service.observability.tracing import note, note_failure, trace_headers

# Enough for a record id or an error code; the rest of an EMR's answer is not read.
_MAX_ANSWER_BYTES = 64 * 1024
_BODY_SECONDS = 2.0

# ValueError and OverflowError: a destination that was stored before a check was made stricter, or a header
# that no library foresaw. AssertionError: a format, payload or kind of credentials that a newer version
# stored. The attempt is recorded all the same; a job that raises would be due for ever.
_FAILURES = (
    httpx2.HTTPError,
    httpx2.InvalidURL,
    AddressForbiddenError,
    NameUnresolvedError,
    OSError,
    TokenRefusedError,
    TokenUnavailableError,
    msgspec.MsgspecError,
    ValueError,
    OverflowError,
    AssertionError,
    ExceptionGroup,
)
_OUR_SYSTEMS = FhirSystems()
# httpcore2's trace event for an open connection over which the first byte is about to be written.
_BEFORE_WRITING = "http11.send_request_headers.started"
MayLeave = Callable[[], Awaitable[bool]]


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


class _WithheldError(Exception):
    """The delivery was withdrawn at the last moment, before its request was written."""


class _Attempt(Struct, frozen=True, kw_only=True):
    """One attempt at a delivery, which may take more than one request."""

    call: Call
    payload: RenderedPayload
    may_leave: MayLeave
    limit: float
    started: float


class HttpSender:
    """The domain's Sender over httpx2.

    `max_silent`: how many calls that have waited unusually long for an answer may go on (TimeoutPolicy).
    `public_url` and `systems` are for payloads: the address at which a document can be read, and the systems
    of the identifiers in FHIR.
    """

    def __init__(
        self,
        *,
        backend: GuardedBackend,
        clock: Clock,
        timeout_seconds: float,
        max_silent: int = 64,
        public_url: str = "",
        systems: FhirSystems = _OUR_SYSTEMS,
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._timeouts = TimeoutPolicy(max_silent=max_silent)
        self._renderer = PayloadRenderer(public_url=public_url, systems=systems)
        self._certificates = ClientCertificates()
        self._http = self._open(None)
        self.tokens = DestinationTokens(self._http, clock)

    async def close(self) -> None:
        """Close the connections."""
        await self.tokens.close()
        await self._http.aclose()

    async def send(self, job: DeliveryJob, may_leave: MayLeave) -> Answer | CallFailure:
        """POST the body, signed; never raises because of the destination's behaviour.

        `may_leave` is called each time that a connection is open and the request is about to be written.
        """
        outcome = await self._send(job, may_leave)
        if isinstance(outcome, CallFailure):
            note_failure(outcome.error_class)
        else:
            note("http.response.status_code", outcome.status_code)
            if outcome.status_code >= 300:  # noqa: PLR2004
                note_failure(str(outcome.status_code))
        return outcome

    async def _send(self, job: DeliveryJob, may_leave: MayLeave) -> Answer | CallFailure:
        limit = self._timeouts.seconds(job, self._timeout_seconds)
        started = time.monotonic()
        LOOKUP_OWNER.set(job.tenant_id)
        try:
            async with asyncio.timeout(limit) as scope:
                with self._timeouts.watch(job, scope) as call:
                    return await self._attempt(call, may_leave, limit=limit, started=started)
        except _WithheldError:
            return CallFailure(error_class="withheld", duration_ms=_elapsed_ms(started), is_withheld=True)
        except _FAILURES as error:
            return CallFailure(
                error_class=_stage(error),
                duration_ms=_elapsed_ms(started),
                is_forbidden=isinstance(error, AddressForbiddenError),
                is_refused=isinstance(error, TokenRefusedError),
                is_ours=isinstance(error, ResolverBusyError)
                or isinstance(error.__cause__, ResolverBusyError),
            )

    async def _attempt(self, call: Call, may_leave: MayLeave, *, limit: float, started: float) -> Answer:
        job = call.job
        payload = self._renderer.render(job.body, payload=job.payload, format=job.format)
        attempt = _Attempt(call=call, payload=payload, may_leave=may_leave, limit=limit, started=started)
        match job.auth:
            case None:
                return await self._post(self._http, attempt, {})
            case OAuth2() as auth:
                return await self._post_with_token(attempt, auth)
            case MutualTls() as auth:
                # A connection of its own for each call: a pool per certificate would have to be kept and
                # closed.
                async with self._open(await self._certificates.context(auth)) as http:
                    return await self._post(http, attempt, {})
            case _:
                assert_never(job.auth)

    async def _post_with_token(self, attempt: _Attempt, auth: OAuth2) -> Answer:
        """POST with a bearer token, once more with a new one when the destination answers 401."""
        destination_id, limit = attempt.call.job.destination_id, attempt.limit
        token = await self._token(destination_id, auth, limit)
        answer = await self._post(self._http, attempt, _bearer(token))
        if answer.status_code != 401:  # noqa: PLR2004
            return answer
        # The token may have been revoked early. One new token is tried, then the answer stands.
        self.tokens.forget(destination_id, token)
        token = await self._token(destination_id, auth, limit)
        try:
            return await self._post(self._http, attempt, _bearer(token))
        except _WithheldError:
            return answer  # the first request was sent, and this was its answer

    async def _token(self, destination_id: DestinationId, auth: OAuth2, limit: float) -> str:
        try:
            # Less than the whole limit, so that a token endpoint that hangs is not reported as a destination
            # that hangs.
            async with asyncio.timeout(limit * 0.9):
                return await self.tokens.token(destination_id, auth)
        except TimeoutError as error:
            raise TokenUnavailableError("timeout") from error

    async def _post(self, http: httpx2.AsyncClient, attempt: _Attempt, credentials: dict[str, str]) -> Answer:
        job, payload = attempt.call.job, attempt.payload
        headers = {name.lower(): value for name, value in job.headers.items()}
        if job.format == "fhir-r4":
            headers.setdefault("accept", payload.content_type)  # a record id is read out of JSON
        headers |= credentials | {"content-type": payload.content_type}
        headers |= sign(job.id, self._clock.now(), payload.body, job.secrets) | trace_headers()

        async def before_writing(event: str, _: dict[str, Any]) -> None:
            if event == _BEFORE_WRITING and not await attempt.may_leave():
                raise _WithheldError

        async with http.stream(
            "POST",
            job.url,
            content=payload.body,
            headers=headers,
            timeout=attempt.limit,
            extensions={"trace": before_writing},
        ) as answer:
            if answer.status_code != 401:  # noqa: PLR2004 - after a 401 the call may be made again
                attempt.call.answered()
            excerpt = await _excerpt(answer)
            return Answer(
                status_code=answer.status_code,
                retry_after_seconds=read_retry_after(answer.headers.get("retry-after"), self._clock.now()),
                location=answer.headers.get("location") if answer.is_success else None,
                echoed_id=answer.headers.get("webhook-id"),
                excerpt=excerpt,
                size=len(excerpt),
                sha256=hashlib.sha256(excerpt).digest(),
                duration_ms=_elapsed_ms(attempt.started),
            )

    def _open(self, ssl_context: ssl.SSLContext | None) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            transport=GuardedTransport(self._backend, ssl_context),
            timeout=httpx2.Timeout(self._timeout_seconds),
            follow_redirects=False,
            trust_env=False,
            headers={"user-agent": "ekabridge", "accept-encoding": "gzip"},
        )


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def _excerpt(answer: httpx2.Response) -> bytes:
    """Read the beginning of an answer's body; the status stands even if the body cannot be read.

    A note that was accepted with 200 must not be sent again because the body after it stalls or is garbled.
    """
    read = bytearray()
    with contextlib.suppress(httpx2.HTTPError, ContentEncodingError, TimeoutError, OSError):
        async with asyncio.timeout(_BODY_SECONDS):
            async for piece in content_pieces(answer):
                read += piece
                if len(read) >= _MAX_ANSWER_BYTES:
                    break
    return bytes(read[:_MAX_ANSWER_BYTES])


def _elapsed_ms(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


def _stage(error: Exception) -> str:
    if isinstance(error, AddressForbiddenError):
        return "forbidden_address"
    if isinstance(error, TokenRefusedError):
        return "oauth_refused"
    if isinstance(error, TokenUnavailableError):
        return "oauth_token"
    if isinstance(error, NameUnresolvedError):
        return "dns"
    if isinstance(error, msgspec.MsgspecError | AssertionError):
        return "form"
    if isinstance(error, ssl.SSLError):
        return "tls"
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
