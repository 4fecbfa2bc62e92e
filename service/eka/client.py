"""Calls EkaScribe's protocol API; implements the domain's Vendor.

A create and an end are sent once, because a repeat does harm (docs/vendor.md#create-twice,
docs/vendor.md#end-twice).
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
import msgspec
import structlog

from schemas.eka import (
    CancelSession,
    ChangeSession,
    CreateSession,
    DocumentAsked,
    EndAnswer,
    EndSession,
    SessionCreated,
)
from schemas.sessions import SessionChange
from service.domain.audio.models import Audio, AudioFormat
from service.domain.errors import (
    ENDED_AT_VENDOR,
    VendorError,
    VendorFailure,
    VendorRefused,
    VendorUnreachable,
)
from service.domain.ids import UNFILTERED, Account, TemplateId, VendorSessionId
from service.domain.results.models import VendorResult
from service.domain.sessions.models import SessionPlan, VendorEnd, VendorSession
from service.domain.vendor_limits import DEFAULT_MAX_RESULT_BYTES
from service.eka.acknowledgements import check_stored, decode, read_files
from service.eka.audio_client import AudioClient
from service.eka.call_limiter import CallLimiters, Kind
from service.eka.document_contents import Contents, Downloads
from service.eka.fields import read_time
from service.eka.http_exchange import (
    SMALL_ANSWER_BYTES,
    VendorAnswer,
    check,
    exchange,
    refusal,
)
from service.eka.metrics import PATIENTS_DROPPED, Operation
from service.eka.patient_fields import (
    OTHER_FIELD,
    PatientFields,
    carries_patient,
    patient_details,
    refuses_field,
    with_patient,
)
from service.eka.response_parsing import read_answer
from service.eka.token_errors import asks_for_login, remedy
from service.eka.tokens import HeldToken, TokenKeeper
from service.eka.upload_retry import upload_with_retry

log = structlog.get_logger()

_SESSIONS = "/voice/v1/sessions"
_JSON = {"content-type": "application/json"}
# The create call has succeeded by then, and its caller must not lose the session because of the patient.
_PATIENT_SECONDS = 5.0
_MAX_LIST_BYTES = 1024 * 1024
# The codes of a 404 for a filter that matches no document (docs/vendor.md#filter-miss). A 404 with any other
# code means that there is no such session (docs/vendor.md#not-found-words).
_NO_SUCH_DOCUMENT = frozenset({"resource_not_found", "document_not_found", "template_not_found"})

Once = Callable[[HeldToken], Awaitable[VendorAnswer]]


class EkaClient:
    """Makes the vendor's calls through the account's limiter, and repeats a call once with a new token."""

    def __init__(
        self,
        *,
        http: httpx2.AsyncClient,
        audio: AudioClient,
        tokens: TokenKeeper,
        call_limiters: CallLimiters,
        downloads: Downloads,
        base_url: str,
        max_result_bytes: int = DEFAULT_MAX_RESULT_BYTES,
    ) -> None:
        self._max_result_bytes = max_result_bytes
        self._http = http
        self._contents = Contents(http, downloads, self.is_vendor_url)
        self._audio = audio
        self._tokens = tokens
        self.call_limiters = call_limiters
        self._base_url = base_url
        self._patient_fields = PatientFields()

    async def create_session(self, plan: SessionPlan) -> VendorSession:
        """`POST /voice/v1/sessions` with an id that we made; never repeated here."""
        details = patient_details(plan.details.patient)
        body = CreateSession(
            session_id=plan.vendor_id,
            session_mode=plan.mode,
            templates=plan.templates,
            model=plan.model,
            language_hint=plan.languages,
            upload_type=plan.upload,
            communication_protocol="websocket" if plan.upload == "stream" else "http",
            transcript_language=plan.transcript_language,
            additional_data=plan.details.metadata or None,
            patient_details=details,
            session_details=details,
        )
        encoded = msgspec.json.encode(body)
        answer = await self._call(
            plan.account, "create", plan.vendor_id, "POST", _SESSIONS, content=encoded, headers=_JSON
        )
        try:
            check(answer, 200, 201)
        except VendorRefused as refused:
            if refused.status == 400:  # noqa: PLR2004
                refused.detail += "; check templates, languages, transcript_language and model"
            raise
        created = decode(answer, SessionCreated)
        self._patient_fields.learn(plan.account, created)
        if details is not None and not carries_patient(created, details):
            await self._send_patient_again(plan, details)
        url, ends = created.upload_url, created.expires_at
        return VendorSession(
            upload_url=url if isinstance(url, str) else None,
            expires_at=read_time(ends) if isinstance(ends, str) else None,
        )

    async def _send_patient_again(self, plan: SessionPlan, details: dict[str, Any]) -> None:
        """PATCH the patient once when the answer to create lacks it; the session stays if that fails."""
        outcome = "repaired"
        try:
            async with asyncio.timeout(_PATIENT_SECONDS):
                await self._change(plan.account, plan.vendor_id, ChangeSession(), details)
        except (VendorError, TimeoutError):
            outcome = "missing"
        PATIENTS_DROPPED.labels(outcome).inc()
        log.warning("patient_dropped", session_id=plan.id, outcome=outcome)

    async def upload_audio(
        self,
        account: Account,
        session_id: VendorSessionId,
        file_name: str,
        audio_format: AudioFormat,
        audio: Audio,
        before_repeat: Callable[[], Awaitable[None]],
    ) -> None:
        """`POST …/audio/{file_name}` with the raw bytes; repeated within bounds: it overwrites itself."""
        headers = {"content-type": audio_format.media_type, "content-length": str(audio.size)}
        url = f"{self._base_url}{_SESSIONS}/{quote(session_id)}/audio/{quote(file_name)}"

        async def send(held: HeldToken) -> VendorAnswer:
            return await self._audio.send(url, headers | _authorized(held), audio)

        async def once() -> None:
            answer = await self._with_permit(account, "upload", session_id, send)
            check_stored(check(answer, 200, 201), session_id)

        async def again() -> None:
            # A 401 in the middle of a body may arrive as a broken connection. A call without a body receives
            # the 401 and renews the token.
            await self._probe_session(account, session_id)
            await before_repeat()
            await once()

        await upload_with_retry(once, again)

    async def _probe_session(self, account: Account, session_id: VendorSessionId) -> None:
        try:
            await self.get_session(account, session_id, UNFILTERED)
        except VendorUnreachable as error:
            error.sent = False  # a read takes no effect
            raise

    async def end_session(self, account: Account, session_id: VendorSessionId, files_sent: int) -> VendorEnd:
        """`POST …/end`; never repeated here. A session that ended already, or expired, counts as ended."""
        encoded = msgspec.json.encode(EndSession(audio_files_sent=files_sent))
        path = f"{_SESSIONS}/{quote(session_id)}/end"
        answer = await self._call(account, "end", session_id, "POST", path, content=encoded, headers=_JSON)
        try:
            check(answer, 200, 202)
        except VendorRefused as refused:
            if refused.vendor_code in ENDED_AT_VENDOR or refused.status == 410:  # noqa: PLR2004
                return VendorEnd(files_received=None)
            raise
        ended = decode(answer, EndAnswer)
        return read_files(ended.audio_files_received, ended.audio_files)

    async def get_session(
        self,
        account: Account,
        session_id: VendorSessionId,
        template_id: TemplateId,
        document_id: str | None = None,
    ) -> VendorResult:
        """`GET /voice/v1/sessions/{id}[?template_id=|?document_id=]`; the vendor may hold it for 14 s."""
        params: dict[str, str] = {} if template_id == UNFILTERED else {"template_id": template_id}
        if document_id:
            params = {"document_id": document_id}
        path = f"{_SESSIONS}/{quote(session_id)}"
        answer = await self._call(
            account, "get", session_id, "GET", path, params=params, max_bytes=self._max_result_bytes
        )
        if answer.status == 404:  # noqa: PLR2004
            no_document = bool(params) and answer.code in _NO_SUCH_DOCUMENT
            return VendorResult(state="no_document" if no_document else "missing")
        check(answer, 200, 202, 206, 410)
        try:
            result, facts = read_answer(answer.status, answer.body)
        except (ValueError, RecursionError) as error:
            raise VendorFailure("EkaScribe's answer cannot be read", sent=True) from error
        self._patient_fields.learn(account, facts)
        if not params:
            audio = read_files(facts.audio_files_received, facts.audio_files)
            result = msgspec.structs.replace(result, audio=audio)
        if answer.held is not None:
            result = msgspec.structs.replace(result, held=(answer.held,))
        return await self._contents.fill(result)

    async def change_session(
        self, account: Account, session_id: VendorSessionId, change: SessionChange
    ) -> None:
        """`PATCH /voice/v1/sessions/{id}` with only the fields that change."""
        body = ChangeSession(
            templates=change.templates,
            language_hint=change.languages,
            session_mode=change.mode,
            model=change.model,
        )
        await self._change(account, session_id, body, patient_details(change.patient))

    async def _change(
        self,
        account: Account,
        session_id: VendorSessionId,
        body: ChangeSession,
        details: dict[str, Any] | None,
    ) -> None:
        """PATCH with the patient under the server's name for it; after a refusal try the other name once."""
        name = self._patient_fields.name_for(account)
        answer = await self._patch(account, "change", session_id, with_patient(body, name, details))
        if details is not None and refuses_field(answer, name):
            name = OTHER_FIELD[name]
            answer = await self._patch(account, "change", session_id, with_patient(body, name, details))
        check(answer, 200, 202, 204)
        if details is not None:
            self._patient_fields.remember(account, name)

    async def cancel_session(self, account: Account, session_id: VendorSessionId) -> None:
        """`PATCH /voice/v1/sessions/{id}` that cancels it."""
        check(await self._patch(account, "cancel", session_id, CancelSession()), 200, 202, 204)

    async def _patch(
        self, account: Account, operation: Operation, session_id: VendorSessionId, body: msgspec.Struct
    ) -> VendorAnswer:
        encoded = msgspec.json.encode(body)
        path = f"{_SESSIONS}/{quote(session_id)}"
        return await self._call(account, operation, session_id, "PATCH", path, content=encoded, headers=_JSON)

    async def make_document(
        self, account: Account, session_id: VendorSessionId, template_id: TemplateId
    ) -> str | None:
        """`POST …/process/template/{template_id}`; never repeated here."""
        path = f"{_SESSIONS}/{quote(session_id)}/process/template/{quote(template_id, safe='')}"
        answer = await self._call(
            account, "make_document", session_id, "POST", path, content=b"{}", headers=_JSON
        )
        check(answer, 200, 201, 202)
        return decode(answer, DocumentAsked).document_id or None

    def is_vendor_url(self, url: str) -> bool:
        """Whether a URL has the origin of EKA_BASE_URL; our token must not go to any other."""
        return _origin(url) == _origin(self._base_url)

    async def ask(
        self,
        account: Account,
        method: str,
        url: str,
        *,
        body: Any = None,
        operation: Operation = "subscriptions",
        max_bytes: int = _MAX_LIST_BYTES,
    ) -> VendorAnswer:
        """Make a call that concerns no session, to a path or a whole URL, with `body` as JSON.

        Returns an answer of any status. Raises VendorUnreachable, also for a URL that is not the vendor's.
        """
        if not url.startswith("/") and not self.is_vendor_url(url):
            raise VendorFailure("an address that is not EkaScribe's is not called", sent=False)
        with_body: dict[str, Any] = (
            {} if body is None else {"content": msgspec.json.encode(body), "headers": _JSON}
        )
        return await self._call(account, operation, url, method, url, max_bytes=max_bytes, **with_body)

    async def _call(
        self,
        account: Account,
        operation: Operation,
        session_or_url: str,
        method: str,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
        content: bytes | None = None,
        max_bytes: int = SMALL_ANSWER_BYTES,
    ) -> VendorAnswer:
        """Make one call with the account's token, and once more with a new token if it is refused.

        `session_or_url` is the subject of the call for the circuit breaker. A login that the call needs
        counts as part of it.
        """

        async def once(held: HeldToken) -> VendorAnswer:
            return await exchange(
                self._http,
                method,
                self._base_url + path if path.startswith("/") else path,
                operation=operation,
                headers=(headers or {}) | _authorized(held),
                params=params,
                content=content,
                max_bytes=max_bytes,
            )

        return await self._with_permit(account, operation, session_or_url, once)

    async def _with_permit(
        self, account: Account, operation: Operation, session_or_url: str, once: Once
    ) -> VendorAnswer:
        """Hold a permit for one call, and repeat the call once if its answer asks for a newer token.

        Raises VendorRefused if no token is accepted.
        """
        kind: Kind = "upload" if operation == "upload" else "other"
        async with self.call_limiters.permit(account, kind, operation, session_or_url) as permit:
            token = await self._tokens.token(account)
            answer = await once(token)
            if asks_for_login(answer.status, answer.body):
                renewed = await self._tokens.renew(account, token)
                answer = answer if renewed is None else await once(renewed)
                if asks_for_login(answer.status, answer.body):
                    raise refusal(answer, remedy(account, is_static=renewed is None))
            permit.record_answer(answer.status, answer.retry_after_seconds)
            return answer


def _authorized(held: HeldToken) -> dict[str, str]:
    return {"authorization": f"Bearer {held.access_token}"}


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
