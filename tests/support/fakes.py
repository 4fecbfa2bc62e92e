"""The domain's own ports in memory, small enough to be believed."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from schemas.events import Event
from schemas.results import WarningInfo
from schemas.sessions import SessionChange
from service.domain.audio.models import AudioFormat
from service.domain.errors import VendorError
from service.domain.ids import (
    UNFILTERED,
    Account,
    DocumentId,
    Lease,
    SessionId,
    TemplateId,
    TenantId,
    VendorSessionId,
)
from service.domain.results.models import FetchJob, FetchState, StoredDocument, VendorDocument, VendorResult
from service.domain.sessions.models import (
    EndRecorded,
    EndState,
    PendingCall,
    SessionDetails,
    SessionPlan,
    VendorEnd,
    VendorSession,
)
from service.domain.vendor_accounts import TokenState
from service.eka.http_exchange import SMALL_ANSWER_BYTES
from tests.support.makers import AT_VENDOR, SESSION, TENANT, make_fetch_job, make_lease, make_plan


class ScriptedVendor:
    """The domain's Vendor: each call takes the next step of its script, a value or an error."""

    def __init__(self) -> None:
        self.creates: list[VendorSession | VendorError] = []
        self.ends: list[VendorEnd | VendorError] = []
        self.changes: list[VendorError | None] = [None]
        self.cancels: list[VendorError | None] = [None]
        self.made: list[str | VendorError | None] = []
        self.answers: dict[TemplateId, list[VendorResult | VendorError]] = {}
        self.calls: list[str] = []
        self.files_sent: list[int] = []
        self.asked: Counter[TemplateId] = Counter()
        self.document_ids: list[str | None] = []

    async def create_session(self, plan: SessionPlan) -> VendorSession:
        self.calls.append("create")
        return _step(self.creates)

    async def end_session(self, account: Account, session_id: VendorSessionId, files_sent: int) -> VendorEnd:
        self.calls.append("end")
        self.files_sent.append(files_sent)
        return _step(self.ends)

    async def get_session(
        self,
        account: Account,
        session_id: VendorSessionId,
        template_id: TemplateId,
        document_id: str | None = None,
    ) -> VendorResult:
        self.calls.append("ask")
        self.asked[template_id] += 1
        self.document_ids.append(document_id)
        return _step(self.answers[template_id])

    async def change_session(
        self, account: Account, session_id: VendorSessionId, change: SessionChange
    ) -> None:
        self.calls.append("change")
        _step(self.changes)

    async def cancel_session(self, account: Account, session_id: VendorSessionId) -> None:
        self.calls.append("cancel")
        _step(self.cancels)

    async def make_document(
        self, account: Account, session_id: VendorSessionId, template_id: TemplateId
    ) -> str | None:
        self.calls.append("make")
        return _step(self.made)

    async def upload_audio(
        self,
        account: Account,
        session_id: VendorSessionId,
        file_name: str,
        audio_format: AudioFormat,
        audio: Any,
        before_repeat: Any,
    ) -> None:
        raise AssertionError("no audio is sent here")


async def allow_repeat() -> None:
    """Let an upload be repeated."""


def _step(script: list[Any]) -> Any:
    """Take the next step; the last one stays."""
    step = script.pop(0) if len(script) > 1 else script[0]
    if isinstance(step, Exception):
        raise step
    return step


class MemorySessions:
    """The domain's SessionStore for one session: what was recorded, in order."""

    def __init__(self, state: EndState | None = None) -> None:
        self.state = state
        self.recorded: list[str] = []
        self.created: VendorSession | None = None
        self.error_code: str | None = None
        self.told: VendorEnd | None = None
        self.missing: list[int] | None = None
        self.may_be_remade = self.keeps_audio = self.has_held_stream = False
        self.postponed_seconds: list[float] = []
        self.has_lease = True
        self.was_cancelled = False

    async def insert_session(
        self, plan: SessionPlan, lease: Lease, *, lease_seconds: float, life_seconds: float
    ) -> bool:
        self.recorded.append("inserted")
        return True

    async def claim_pending_create(
        self, tenant_id: TenantId, session_id: SessionId, lease: Lease, *, lease_seconds: float
    ) -> VendorSessionId | None:
        return AT_VENDOR if self.has_lease else None

    async def record_created(self, session_id: SessionId, lease: Lease, found: VendorSession) -> bool:
        if self.has_lease:
            self.recorded.append("created")
            self.created = found
        return self.has_lease

    async def hold_create(self, session_id: SessionId, lease: Lease, seconds: float) -> bool:
        if self.has_lease:
            self.recorded.append("create_held")
            self.postponed_seconds.append(seconds)
        return self.has_lease

    async def read_plan(self, session_id: SessionId, lease: Lease) -> SessionPlan | None:
        return make_plan() if self.has_lease else None

    async def renew_pending_call(self, session_id: SessionId, lease: Lease, seconds: float) -> bool:
        return self.has_lease

    async def record_never_created(
        self, session_id: SessionId, lease: Lease, code: str, message: str
    ) -> None:
        self.recorded.append("never_created")
        self.error_code = code

    async def is_cancelled(self, session_id: SessionId) -> bool:
        return self.was_cancelled

    async def reschedule_pending_call(self, session_id: SessionId, lease: Lease, seconds: float) -> None:
        self.recorded.append("postponed")
        self.postponed_seconds.append(seconds)

    async def release_pending_call(self, session_id: SessionId, lease: Lease, seconds: float) -> None:
        self.recorded.append("given_back")
        self.postponed_seconds.append(seconds)

    @asynccontextmanager
    async def ending(self, tenant_id: TenantId, session_id: SessionId) -> AsyncIterator[MemoryEnd | None]:
        yield MemoryEnd(self, self.state) if self.state is not None else None

    async def begin_stream_handover(
        self,
        session_id: SessionId,
        lease: Lease,
        vendor_id: VendorSessionId,
        *,
        result_seconds: float,
    ) -> bool:
        if self.has_held_stream:
            self.recorded.append("stream_handed_over")
        return self.has_held_stream

    async def record_end_confirmed(
        self,
        session_id: SessionId,
        lease: Lease,
        confirmed: VendorEnd,
        *,
        reconcile_seconds: float,
        may_remake: bool,
    ) -> EndRecorded:
        if may_remake and self.may_be_remade:
            return EndRecorded(was_ours=True, missing=self.missing, may_be_remade=True)
        self.recorded.append("end_told")
        self.told = confirmed
        return EndRecorded(was_ours=True, missing=self.missing)

    async def remake(
        self, session_id: SessionId, lease: Lease, vendor_id: VendorSessionId, reason: str
    ) -> bool:
        if self.keeps_audio:
            self.recorded.append(f"remade {reason}")
        return self.keeps_audio

    async def record_cancel_settled(self, session_id: SessionId, lease: Lease) -> None:
        self.recorded.append("cancel_told")

    async def claim_pending_calls(
        self, limit: int, lease_seconds: float, passed_over: Collection[Account] = ()
    ) -> list[PendingCall]:
        return []


class MemoryEnd:
    """The domain's EndUnit over a MemorySessions."""

    def __init__(self, store: MemorySessions, state: EndState) -> None:
        self.state = state
        self._store = store

    async def begin(self, lease: Lease, *, lease_seconds: float, reconcile_seconds: float) -> None:
        self._store.recorded.append("end_begun")
        self._store.state = msgspec.structs.replace(
            self.state, status="processing", pending_call="end", pending_call_is_free=False
        )

    async def begin_held(self, *, reconcile_seconds: float) -> None:
        self._store.recorded.append("held_end_begun")

    async def take_over(self, lease: Lease, *, lease_seconds: float) -> None:
        self._store.recorded.append("end_taken_over")


@dataclass
class Owed:
    """A row of fetches."""

    template_id: TemplateId
    lease: Lease | None = None
    attempts: int = 0
    outcome: str | None = None
    last_error: str | None = None
    missing: int = 0
    verdict: Any = None
    verdict_since: float = 0.0
    next_at: float = 0.0
    asked: str | None = None
    document_id: str | None = None


@dataclass
class Kept:
    """All rows of one session."""

    status: str = "processing"
    is_final: bool = False
    is_past: bool = False
    templates: list[str] = field(default_factory=list)
    transcript: str | None = None
    fetches: dict[TemplateId, Owed] = field(default_factory=dict)
    documents: list[tuple[StoredDocument, bool]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    now: float = 5.0  # seconds since the session was ended
    error_code: str | None = None
    settled: int = 0
    keeps_audio: bool = False
    remade_for: str | None = None


class MemoryResults:
    """The domain's ResultStore for one session; a unit's changes are kept together or not at all."""

    def __init__(self, *templates: TemplateId, **fields: Any) -> None:
        owed = {each: Owed(each) for each in (templates or (TemplateId(""),))}
        self.kept = Kept(templates=list(templates), fetches=owed, **fields)
        self.waits: list[tuple[TemplateId, float, str]] = []
        self.is_gone = False
        self.missing_key: Exception | None = None

    async def claim_fetches(
        self,
        session_id: SessionId | None,
        limit: int,
        lease_seconds: float,
        passed_over: Collection[Account] = (),
    ) -> list[FetchJob]:
        """Lease the calls that are due first, at the moment when they are due."""
        owed = {each: row for each, row in self.kept.fetches.items() if row.outcome is None}
        if owed:
            self.kept.now = max(self.kept.now, min(row.next_at for row in owed.values()))
        return [self.claim(each) for each, row in owed.items() if row.next_at <= self.kept.now]

    def claim(self, template_id: TemplateId, **fields: Any) -> FetchJob:
        row = self.kept.fetches[template_id]
        row.lease = make_lease()
        row.attempts += 1
        return make_fetch_job(
            template_id,
            **(
                {
                    "lease": row.lease,
                    "attempts": row.attempts,
                    "missing": row.missing,
                    "verdict": row.verdict,
                    "verdict_seconds": self.kept.now - row.verdict_since,
                    "ended_seconds_ago": self.kept.now,
                    "is_over": self.kept.is_final,
                    "asked": row.asked,
                    "document_id": row.document_id,
                    "is_end_hint": self.kept.status in {"created", "recording"},
                }
                | fields
            ),
        )

    async def release_fetch(self, job: FetchJob) -> None:
        if self.kept.fetches[job.template_id].lease == job.lease:
            self.kept.fetches[job.template_id].lease = None

    async def give_back_fetch(self, job: FetchJob, seconds: float) -> None:
        row = self.kept.fetches[job.template_id]
        if row.lease == job.lease and row.outcome is None:
            row.lease, row.attempts = None, row.attempts - 1
            row.next_at = self.kept.now + seconds
            self.waits.append((job.template_id, seconds, "gate_closed"))

    async def drop_fetch(self, job: FetchJob) -> None:
        if self.kept.fetches[job.template_id].lease == job.lease:
            del self.kept.fetches[job.template_id]

    @asynccontextmanager
    async def settling(self, session_id: SessionId) -> AsyncIterator[MemorySettle | None]:
        if self.is_gone:
            yield None
            return
        unit = MemorySettle(copy.deepcopy(self.kept))
        yield unit
        if self.missing_key is not None:
            raise self.missing_key
        self.waits += unit.waits
        unit.kept.status = unit.status
        unit.kept.is_final = unit.is_final
        unit.kept.transcript = unit.transcript
        self.kept = unit.kept

    async def past_sessions(self, limit: int) -> list[SessionId]:
        return [SESSION] if self.kept.is_past else []

    async def warn_expiring(self, within_seconds: float) -> list[SessionId]:
        return []


class MemorySettle:
    """The domain's SettleUnit over a copy of the rows."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.waits: list[tuple[TemplateId, float, str]] = []
        self.session_id = SESSION
        self.vendor_id = AT_VENDOR
        self.tenant_id = TENANT
        self.status: Any = kept.status
        self.is_final = kept.is_final
        self.is_past = kept.is_past
        self.templates = kept.templates
        self.details = SessionDetails(patient={"id": "PAT-1", "name": "Asha Rao"}, reference="ENC-1")
        self.transcript = kept.transcript
        self.model_used: str | None = None
        self.language_detected: str | None = None
        self.warnings: list[WarningInfo] = []

    async def holds(self, job: FetchJob) -> bool:
        row = self.kept.fetches[job.template_id]
        return row.lease == job.lease and row.outcome is None

    async def settle_fetch(self, job: FetchJob, outcome: str) -> bool:
        row = self.kept.fetches[job.template_id]
        if row.lease != job.lease or row.outcome is not None:
            return False
        row.outcome, row.lease = outcome, None
        return True

    async def settle_other_fetches(self, outcome: str) -> None:
        for row in self.kept.fetches.values():
            if row.asked is None:
                row.outcome = row.outcome or outcome

    async def settle_template(self, template_id: TemplateId, outcome: str) -> None:
        row = self.kept.fetches[template_id]
        if row.outcome is None:
            row.outcome, row.lease = outcome, None

    async def postpone_fetch(self, job: FetchJob, seconds: float, reason: str, *, is_missing: bool) -> None:
        row = self.kept.fetches[job.template_id]
        if row.lease == job.lease and row.outcome is None:
            row.lease, row.last_error = None, reason
            row.next_at = self.kept.now + seconds
            row.missing = row.missing + 1 if is_missing else 0
            self.waits.append((job.template_id, seconds, reason))

    async def record_verdict(self, template_id: TemplateId, verdict: Any) -> None:
        row = self.kept.fetches[template_id]
        if row.verdict != verdict:
            row.verdict, row.verdict_since = verdict, self.kept.now

    async def request_unfiltered(self, *, at_once: bool, restart_tries: bool = False) -> None:
        row = self.kept.fetches.setdefault(UNFILTERED, Owed(UNFILTERED))
        if row.outcome is not None:
            row.outcome, row.attempts, row.missing = None, 0, 0
            row.next_at = self.kept.now
        if at_once:
            row.next_at = self.kept.now
            row.attempts = 0 if restart_tries else row.attempts

    async def record_result(self, result: VendorResult) -> None:
        self.transcript = self.transcript or result.transcript
        self.model_used = result.model_used or self.model_used
        self.language_detected = result.language_detected or self.language_detected
        self.warnings = result.warnings or self.warnings

    async def add_document(
        self,
        document: VendorDocument,
        error_code: str | None,
        *,
        listed: frozenset[str] | None,
        unless_same: bool = False,
    ) -> None:
        same = [each for each, _ in self.kept.documents if each.template_id == document.template_id]
        before = [each for each in same if each.upstream_id == document.upstream_id]
        gone = [
            each
            for each in same
            if (each.status == "failed" if listed is None else each.upstream_id not in listed)
        ]
        compared = before or (gone if unless_same else [])
        if compared and (compared[-1].status, compared[-1].data) == (document.status, document.data):
            return
        version = max((each.version for each in before or gone), default=0) + 1
        stored = StoredDocument(
            id=DocumentId(f"doc_{len(self.kept.documents)}"),
            template_id=document.template_id,
            upstream_id=document.upstream_id,
            version=version,
            type=document.type,
            status="success" if document.status == "success" else "failed",
            data=document.data,
            error_code=error_code,
            annotations=document.annotations,
        )
        self.kept.documents.append((stored, False))

    async def known_documents(self, template_id: TemplateId) -> frozenset[str]:
        return frozenset(
            each.upstream_id for each, _ in self.kept.documents if each.template_id == template_id
        )

    async def mark_asked(self, job: FetchJob, document_id: str | None) -> None:
        row = self.kept.fetches[job.template_id]
        row.asked, row.document_id, row.lease = "asked", document_id, None

    async def drop_additional_document(self, job: FetchJob) -> None:
        if await self.known_documents(job.template_id):
            self.kept.fetches[job.template_id].outcome = "not_asked"
        else:
            del self.kept.fetches[job.template_id]

    async def fetches(self) -> list[FetchState]:
        return [
            FetchState(
                template_id=row.template_id,
                is_settled=row.outcome is not None,
                was_answered=row.last_error is not None,
                attempts=row.attempts,
                is_additional=row.asked is not None,
                reason=row.last_error,
                outcome=row.outcome,
                verdict=row.verdict,
                verdict_seconds=self.kept.now - row.verdict_since,
            )
            for row in self.kept.fetches.values()
        ]

    async def document_statuses(self) -> list[tuple[TemplateId, str]]:
        newest = {(each.template_id, each.upstream_id): each for each, _ in self.kept.documents}
        return [
            (document.template_id, document.status)
            for document in newest.values()
            if document.status == "success"
            or not any(
                each.template_id == document.template_id and each.version > document.version
                for each in newest.values()
            )
        ]

    async def unreleased_documents(self) -> list[StoredDocument]:
        return [document for document, is_released in self.kept.documents if not is_released]

    async def show_partial(self) -> None:
        self.status = "partial"

    async def remake(self, vendor_id: VendorSessionId, reason: str) -> bool:
        if not self.kept.keeps_audio or self.kept.remade_for is not None:
            return False
        self.kept.remade_for = reason
        names = [TemplateId(name) for name in self.kept.templates] or [UNFILTERED]
        self.kept.fetches = {each: Owed(each) for each in names}
        return True

    async def settle_session(self, status: Any, *, error_code: str | None, error_message: str | None) -> None:
        self.status, self.is_final = status, True
        self.kept.error_code = error_code
        self.kept.settled += 1

    async def emit(
        self, event: Event, document_id: DocumentId | None, template_id: TemplateId | None
    ) -> None:
        self.kept.events.append(event)
        self.kept.documents = [
            (document, is_released or document.id == document_id)
            for document, is_released in self.kept.documents
        ]


class MemoryTokens:
    """The domain's TokenStore, shared by as many replicas as a test makes."""

    def __init__(self, tokens: bytes | None = None, *, when_leased: Callable[[], None] | None = None) -> None:
        self.tokens = tokens
        self.generation = 1 if tokens else 0
        self.holder: Lease | None = None
        self.released = 0
        self._when_leased = when_leased or (lambda: None)

    async def read(self, account: Account) -> TokenState:
        if self.holder is not None:
            self._when_leased()
        return TokenState(tokens=self.tokens, generation=self.generation, is_leased=self.holder is not None)

    async def lease(self, account: Account, lease: Lease, *, seconds: float, generation: int) -> bool:
        if self.holder is not None or generation != self.generation:
            return False
        self.holder = lease
        return True

    async def store(self, account: Account, lease: Lease, tokens: bytes) -> bool:
        if self.holder != lease:
            return False
        self.tokens, self.holder = tokens, None
        self.generation += 1
        return True

    async def release(self, account: Account, lease: Lease) -> None:
        if self.holder == lease:
            self.holder = None
            self.released += 1


class MemoryDownloads:
    """The client's Downloads from memory; keeps the addresses that were wanted."""

    def __init__(self, contents: dict[str, bytes] | None = None) -> None:
        self.contents = contents or {}
        self.urls: list[str] = []

    async def get(self, url: str, max_bytes: int, reserve: Callable[[int], Awaitable[None]]) -> bytes | None:
        self.urls.append(url)
        content = self.contents.get(url)
        if content is not None and len(content) > SMALL_ANSWER_BYTES:
            await reserve(max_bytes)
        return content


class TokensOfMany:
    """The domain's TokenStore for more accounts than one."""

    def __init__(self, *, when_leased: Callable[[], None] | None = None) -> None:
        self.of: dict[Account, MemoryTokens] = {}
        self._when_leased = when_leased

    def _one(self, account: Account) -> MemoryTokens:
        return self.of.setdefault(account, MemoryTokens(when_leased=self._when_leased))

    async def read(self, account: Account) -> TokenState:
        return await self._one(account).read(account)

    async def lease(self, account: Account, lease: Lease, *, seconds: float, generation: int) -> bool:
        return await self._one(account).lease(account, lease, seconds=seconds, generation=generation)

    async def store(self, account: Account, lease: Lease, tokens: bytes) -> bool:
        return await self._one(account).store(account, lease, tokens)

    async def release(self, account: Account, lease: Lease) -> None:
        await self._one(account).release(account, lease)
