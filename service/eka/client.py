"""EkaScribe's protocol API as the domain's Vendor: seeds 000 to 003, with the dangers of facts.md in mind."""

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx2
import msgspec
import stamina

from schemas.eka import (
    CancelSession,
    ChangeSession,
    CreateSession,
    DocumentAsked,
    EndSession,
    SessionAnswer,
    SessionCreated,
    SessionEnded,
)
from schemas.emr import SessionChange
from service.domain.errors import (
    ENDED_AT_VENDOR,
    LONGEST_WAIT_SECONDS,
    VendorFailure,
    VendorGateClosed,
    VendorRefused,
    VendorUnreachable,
)
from service.domain.ids import UNFILTERED, Account, SessionId, TemplateId
from service.domain.ports import Audio
from service.domain.records import (
    AudioFormat,
    SessionPlan,
    VendorEnd,
    VendorResult,
    VendorSession,
)
from service.eka.answers import read_session, read_time
from service.eka.audio_way import AudioSender
from service.eka.gate import Gates, Kind
from service.eka.metrics import Operation
from service.eka.tokens import HeldToken, TokenKeeper
from service.eka.wire import RESULT_ANSWER_BYTES, SMALL_ANSWER_BYTES, WireAnswer, check, exchange

T = TypeVar("T")

_SESSIONS = "/voice/v1/sessions"
_JSON = {"content-type": "application/json"}
_MAX_LIST_BYTES = 1024 * 1024
_UPLOAD_TRIES = 3
_TRIES_SECONDS = 45.0
_NO_SUCH_DOCUMENT = frozenset({"resource_not_found", "document_not_found", "template_not_found"})

Once = Callable[[HeldToken], Awaitable[WireAnswer]]


class EkaClient:
    """The vendor's calls; each through its account's gate, one login for all, one repeat after a 401."""

    def __init__(
        self,
        *,
        http: httpx2.AsyncClient,
        audio: AudioSender,
        tokens: TokenKeeper,
        gates: Gates,
        base_url: str,
        max_result_bytes: int = RESULT_ANSWER_BYTES,
    ) -> None:
        self._max_result_bytes = max_result_bytes
        self._http = http
        self._audio = audio
        self._tokens = tokens
        self.gates = gates
        self._base_url = base_url

    async def create_session(self, plan: SessionPlan) -> VendorSession:
        """`POST /voice/v1/sessions` with our id; never repeated here."""
        patient = plan.details.patient
        body = CreateSession(
            session_id=plan.id,
            session_mode=plan.mode,
            templates=plan.templates,
            model=plan.model,
            language_hint=plan.languages,
            upload_type=plan.upload,
            communication_protocol="websocket" if plan.upload == "stream" else "http",
            transcript_language=plan.transcript_language,
            additional_data=plan.details.metadata or None,
            patient_details=_patient_details(patient) if patient else None,
        )
        encoded = msgspec.json.encode(body)
        answer = await self._call(
            plan.account, "create", plan.id, "POST", _SESSIONS, content=encoded, headers=_JSON
        )
        try:
            check(answer, 200, 201)
        except VendorRefused as refused:
            if refused.status == 400:  # noqa: PLR2004
                refused.detail += "; check templates, languages, transcript_language and model"
            raise
        created = _decoded(answer, SessionCreated)
        url = created.upload_url
        return VendorSession(
            upload_url=url if isinstance(url, str) else None, expires_at=read_time(created.expires_at)
        )

    async def upload_audio(
        self, account: Account, session_id: SessionId, file_name: str, audio_format: AudioFormat, audio: Audio
    ) -> None:
        """`POST …/audio/{file_name}`, raw; repeated within bounds: the same bytes overwrite themselves."""
        headers = {"content-type": audio_format.media_type, "content-length": str(audio.size)}
        url = f"{self._base_url}{_SESSIONS}/{quote(session_id)}/audio/{quote(file_name)}"

        async def send(held: HeldToken) -> WireAnswer:
            return await self._audio.send(url, headers | _authorized(held), audio)

        async def once(*, again: bool = False) -> VendorUnreachable | None:
            try:
                if again:
                    # A 401 in the middle of a body may arrive as a broken connection: a call without a body
                    # sees it, and renews the token.
                    await self._look_at(account, session_id)
                check(await self._passing(account, "upload", session_id, send), 200, 201)
            except VendorUnreachable as error:
                return error
            return None

        began = time.monotonic()
        failure = await once()
        if failure is None:
            return
        maybe_sent = failure.sent
        async for attempt in stamina.retry_context(
            on=_wait_before_repeat,
            attempts=_UPLOAD_TRIES,
            timeout=max(0.0, began + _TRIES_SECONDS - time.monotonic()),
            wait_initial=0.2,
            wait_max=3.0,
        ):
            with attempt:
                if attempt.num > 1:
                    failure = await once(again=True)
                if failure is not None:
                    failure.sent = maybe_sent = maybe_sent or failure.sent
                    raise failure

    async def _look_at(self, account: Account, session_id: SessionId) -> None:
        try:
            await self.get_session(account, session_id, UNFILTERED)
        except VendorUnreachable as error:
            error.sent = False  # it was only a look
            raise

    async def end_session(self, account: Account, session_id: SessionId, files_sent: int) -> VendorEnd:
        """`POST …/end`; never repeated here. A session that has ended already, or expired, is ended."""
        encoded = msgspec.json.encode(EndSession(audio_files_sent=files_sent))
        path = f"{_SESSIONS}/{quote(session_id)}/end"
        answer = await self._call(account, "end", session_id, "POST", path, content=encoded, headers=_JSON)
        try:
            check(answer, 200, 202)
        except VendorRefused as refused:
            if refused.vendor_code in ENDED_AT_VENDOR or refused.status == 410:  # noqa: PLR2004
                return VendorEnd(files_received=None)
            raise
        return VendorEnd(files_received=_decoded(answer, SessionEnded).audio_files_received)

    async def get_session(
        self, account: Account, session_id: SessionId, template_id: TemplateId
    ) -> VendorResult:
        """`GET /voice/v1/sessions/{id}[?template_id=]`; may be held by the vendor for 14 s."""
        params: dict[str, str] = {} if template_id == UNFILTERED else {"template_id": template_id}
        path = f"{_SESSIONS}/{quote(session_id)}"
        answer = await self._call(
            account, "get", session_id, "GET", path, params=params, max_bytes=self._max_result_bytes
        )
        if answer.status == 404:  # noqa: PLR2004
            no_document = template_id != UNFILTERED and answer.code in _NO_SUCH_DOCUMENT
            return VendorResult(state="no_document" if no_document else "missing")
        check(answer, 200, 202, 206, 410)
        return read_session(answer.status, _decoded(answer, SessionAnswer))

    async def change_session(self, account: Account, session_id: SessionId, change: SessionChange) -> None:
        """`PATCH /voice/v1/sessions/{id}` with what is given, nothing else."""
        body = ChangeSession(
            patient_details=None if change.patient is None else _patient_details(change.patient),
            templates=change.templates,
            language_hint=change.languages,
            session_mode=change.mode,
            model=change.model,
        )
        await self._patch(account, "change", session_id, body)

    async def cancel_session(self, account: Account, session_id: SessionId) -> None:
        """`PATCH /voice/v1/sessions/{id}` that cancels it."""
        await self._patch(account, "cancel", session_id, CancelSession())

    async def _patch(
        self, account: Account, operation: Operation, session_id: SessionId, body: msgspec.Struct
    ) -> None:
        encoded = msgspec.json.encode(body)
        path = f"{_SESSIONS}/{quote(session_id)}"
        answer = await self._call(
            account, operation, session_id, "PATCH", path, content=encoded, headers=_JSON
        )
        check(answer, 200, 202, 204)

    async def make_document(
        self, account: Account, session_id: SessionId, template_id: TemplateId
    ) -> str | None:
        """`POST …/process/template/{template_id}`; never repeated here."""
        path = f"{_SESSIONS}/{quote(session_id)}/process/template/{quote(template_id, safe='')}"
        answer = await self._call(
            account, "make_document", session_id, "POST", path, content=b"{}", headers=_JSON
        )
        check(answer, 200, 201, 202)
        return _decoded(answer, DocumentAsked).document_id or None

    def is_vendors(self, url: str) -> bool:
        """Whether a URL has the origin of EKA_BASE_URL: our token must go nowhere else."""
        return _origin(url) == _origin(self._base_url)

    async def ask(self, account: Account, method: str, url: str, *, body: Any = None) -> WireAnswer:
        """Make a call about webhook subscriptions, to a path or to a whole URL, with `body` as JSON.

        Returns any answer that came. Raises VendorUnreachable, also for a URL that is not the vendor's.
        """
        if not url.startswith("/") and not self.is_vendors(url):
            raise VendorFailure("an address that is not EkaScribe's is not called", sent=False)
        if body is None:
            return await self._call(account, "subscriptions", url, method, url, max_bytes=_MAX_LIST_BYTES)
        encoded = msgspec.json.encode(body)
        return await self._call(account, "subscriptions", url, method, url, content=encoded, headers=_JSON)

    async def _call(
        self,
        account: Account,
        operation: Operation,
        subject: str,
        method: str,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
        content: bytes | None = None,
        max_bytes: int = SMALL_ANSWER_BYTES,
    ) -> WireAnswer:
        """Make one call with the account's token; a 401 renews the token and repeats the call once.

        `subject`: the session that it is about, or the address. The login that it may need is part of it.
        """

        async def once(held: HeldToken) -> WireAnswer:
            return await exchange(
                self._http,
                method,
                self._base_url + path if path.startswith("/") else path,
                operation=operation,
                headers=(headers or {}) | _authorized(held),
                params=params,
                content=content,
                most_bytes=max_bytes,
            )

        return await self._passing(account, operation, subject, once)

    async def _passing(self, account: Account, operation: Operation, subject: str, once: Once) -> WireAnswer:
        """Make one call through the account's gate; a 401 renews the token and repeats the call once."""
        kind: Kind = "upload" if operation == "upload" else "other"
        async with self.gates.passage(account, kind, operation, subject) as passage:
            token = await self._tokens.token(account)
            answer = await once(token)
            if answer.status == 401:  # noqa: PLR2004
                renewed = await self._tokens.renew(account, token)
                answer = answer if renewed is None else await once(renewed)
            passage.heard(answer.status, answer.retry_after_seconds)
            return answer


def _authorized(held: HeldToken) -> dict[str, str]:
    return {"authorization": f"Bearer {held.access_token}"}


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _patient_details(patient: dict[str, Any]) -> dict[str, Any]:
    """Name the patient's id as the vendor does: it indexes by `oid` (seed 000)."""
    details = {name: value for name, value in patient.items() if name != "id"}
    return details | {"oid": patient["id"]} if "id" in patient else details


def _wait_before_repeat(error: Exception) -> bool | float:
    """Whether an upload is worth repeating, or for how long to wait when the vendor said so."""
    if not isinstance(error, VendorUnreachable) or isinstance(error, VendorGateClosed):
        return False
    wait = error.retry_after_seconds
    if wait is None:
        return True
    return wait if wait <= LONGEST_WAIT_SECONDS else False


def _decoded(answer: WireAnswer, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise VendorFailure("EkaScribe's answer cannot be read", sent=True) from error
