"""What the rules need from the rest of the house; eka, store, forwarding and jobs provide it."""

from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from schemas.deliveries import Event
from schemas.emr import SessionChange, SessionStatus, WarningInfo
from service.domain.ids import Account, DocumentId, Lease, SessionId, TemplateId, TenantId
from service.domain.models import (
    AudioFormat,
    ChunkClaim,
    ChunkPlan,
    EndRecorded,
    EndState,
    FetchJob,
    FetchState,
    PendingCall,
    SessionDetails,
    SessionPlan,
    StoredDocument,
    TokenState,
    VendorDocument,
    VendorEnd,
    VendorResult,
    VendorSession,
    Verdict,
)
from service.domain.vendor_limits import Limits


class Clock(Protocol):
    """Time and chance, so that a test can choose both."""

    def now(self) -> datetime:
        """The time, UTC."""
        ...

    def jitter(self) -> float:
        """A random number from 0 to 1."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class Audio(Protocol):
    """A chunk's bytes, spooled, that can be read more than once."""

    @property
    def size(self) -> int:
        """Their number, in bytes."""
        ...

    @property
    def sha256(self) -> str:
        """Their SHA-256, hexadecimal."""
        ...

    def read(self) -> AsyncIterator[bytes]:
        """The bytes from the start, in pieces."""
        ...


class Vendor(Protocol):
    """EkaScribe. Each call raises VendorRefused, VendorUnavailable or VendorTimeout."""

    async def create_session(self, plan: SessionPlan) -> VendorSession:
        """Create the session, once: never repeats on its own (docs/vendor.md#create-twice)."""
        ...

    async def upload_audio(
        self, account: Account, session_id: SessionId, file_name: str, audio_format: AudioFormat, audio: Audio
    ) -> None:
        """Upload a chunk; repeated within bounds, since the same bytes under one name are harmless."""
        ...

    async def end_session(self, account: Account, session_id: SessionId, files_sent: int) -> VendorEnd:
        """End the session, once: never repeats on its own (docs/vendor.md#end-twice)."""
        ...

    async def get_session(
        self,
        account: Account,
        session_id: SessionId,
        template_id: TemplateId,
        document_id: str | None = None,
    ) -> VendorResult:
        """Get the session's state and result, filtered by the template unless it is UNFILTERED.

        `document_id`, the vendor's, filters instead: with several documents of a template, the template's
        filter gives any of them (docs/vendor.md#same-template).
        """
        ...

    async def change_session(self, account: Account, session_id: SessionId, change: SessionChange) -> None:
        """Change what is given, nothing else; harmless to repeat."""
        ...

    async def cancel_session(self, account: Account, session_id: SessionId) -> None:
        """Cancel the session; harmless to repeat."""
        ...

    async def make_document(
        self, account: Account, session_id: SessionId, template_id: TemplateId
    ) -> str | None:
        """Have another document made, once: a repeat makes two. Returns its id, where it has one."""
        ...


class VendorLimits(Protocol):
    """What the vendor takes, as far as it is known."""

    async def limits(self) -> Limits:
        """The limits as they are known now; does not wait for a vendor that is away."""
        ...


class Wakeups(Protocol):
    """Says to some worker "look now"; may be lost, and then the sweep finds what is due."""

    def results_due(self, session_id: SessionId) -> None:
        """Results of this session can be fetched."""
        ...


class AudioStore(Protocol):
    """Rows of chunks."""

    async def claim(self, chunk: ChunkPlan) -> ChunkClaim | None:
        """Reserve its sequence; None when the tenant has no such session."""
        ...

    async def record(self, session_id: SessionId, sequence: int, sha256: str) -> bool:
        """The vendor has the bytes; false when the session takes no more audio."""
        ...

    async def release(self, session_id: SessionId, sequence: int, lease: Lease) -> None:
        """The vendor refused them."""
        ...

    async def expire_lease(self, session_id: SessionId, sequence: int, lease: Lease) -> None:
        """It is not known whether the vendor has them."""
        ...


class SessionStore(Protocol):
    """Rows of sessions."""

    async def insert_session(
        self, plan: SessionPlan, lease: Lease, *, lease_seconds: float, life_seconds: float
    ) -> bool:
        """Insert the session, its create call owed; false when its id is taken."""
        ...

    async def claim_pending_create(
        self, tenant_id: TenantId, session_id: SessionId, lease: Lease, *, lease_seconds: float
    ) -> bool:
        """Take over a create call that nobody is making."""
        ...

    async def record_created(self, session_id: SessionId, lease: Lease, found: VendorSession) -> bool:
        """The vendor has it; false when the lease was lost."""
        ...

    async def record_never_created(
        self, session_id: SessionId, lease: Lease, code: str, message: str
    ) -> None:
        """The vendor does not have it: failed."""
        ...

    async def is_cancelled(self, session_id: SessionId) -> bool:
        """Whether the session was cancelled, or erased while it ran."""
        ...

    async def reschedule_pending_call(self, session_id: SessionId, lease: Lease, seconds: float) -> None:
        """It is not known: look again later."""
        ...

    async def release_pending_call(self, session_id: SessionId, lease: Lease, seconds: float) -> None:
        """It was not made, and counts for nothing: look again later."""
        ...

    def ending(
        self, tenant_id: TenantId, session_id: SessionId
    ) -> AbstractAsyncContextManager["EndUnit | None"]:
        """Lock a session in order to end it; None when the tenant has no such session."""
        ...

    async def record_end_confirmed(
        self, session_id: SessionId, lease: Lease, confirmed: VendorEnd
    ) -> EndRecorded:
        """The vendor knows of the end, and has said which files it holds."""
        ...

    async def record_cancel_settled(self, session_id: SessionId, lease: Lease) -> None:
        """The vendor knows that it was cancelled, or need not know any more."""
        ...

    async def claim_pending_calls(
        self, limit: int, lease_seconds: float, passed_over: Collection[Account] = ()
    ) -> list[PendingCall]:
        """Lease owed calls that are due, but of no account or `tenant:…` that is passed over."""
        ...


class EndUnit(Protocol):
    """A session's row, locked, while it is decided whether it ends."""

    state: EndState

    async def begin(self, lease: Lease, *, lease_seconds: float, reconcile_seconds: float) -> None:
        """End it: the end call is owed and ours, each template's result is owed after the wait."""
        ...

    async def take_over(self, lease: Lease, *, lease_seconds: float) -> None:
        """Make the end call that somebody else did not finish."""
        ...


class ResultStore(Protocol):
    """Rows of fetches, documents and the outbox."""

    async def claim_fetches(
        self,
        session_id: SessionId | None,
        limit: int,
        lease_seconds: float,
        passed_over: Collection[Account] = (),
    ) -> list[FetchJob]:
        """Lease Get Session calls that are due, but of no account that is passed over."""
        ...

    async def release_fetch(self, job: FetchJob) -> None:
        """Its worker stops: another one makes it at once."""
        ...

    async def give_back_fetch(self, job: FetchJob, seconds: float) -> None:
        """It was not made, and counts for nothing: look again later."""
        ...

    async def drop_fetch(self, job: FetchJob) -> None:
        """It need not be made after all."""
        ...

    def settling(self, session_id: SessionId) -> AbstractAsyncContextManager["SettleUnit | None"]:
        """Lock a session in order to record a result; None when it was cancelled or erased."""
        ...

    async def past_sessions(self, limit: int) -> list[SessionId]:
        """Sessions that were never ended and whose time is over."""
        ...

    async def warn_expiring(self, within_seconds: float) -> list[SessionId]:
        """Mark and return sessions with audio that expire soon and were not ended; each one once."""
        ...


class SettleUnit(Protocol):
    """A session's row, locked, while a result is recorded: all of it is committed together or not at all."""

    session_id: SessionId
    tenant_id: TenantId
    status: SessionStatus
    is_final: bool  # it has its ending: false for one that is shown as partial while more is to come
    is_past: bool
    templates: list[str]
    details: SessionDetails
    transcript: str | None
    model_used: str | None
    language_detected: str | None

    @property
    def warnings(self) -> list[WarningInfo]:
        """The session's warnings as they stand now."""
        ...

    async def holds(self, job: FetchJob) -> bool:
        """Whether the call's lease still stands; if so, it does until this unit ends."""
        ...

    async def settle_fetch(self, job: FetchJob, outcome: str) -> bool:
        """This call is done with; false when the lease was lost, and then nothing may be recorded."""
        ...

    async def settle_other_fetches(self, outcome: str) -> None:
        """Calls that were still to be made are not."""
        ...

    async def settle_template(self, template_id: TemplateId, outcome: str) -> None:
        """The call for a template need not be made any more; one that is under way records nothing."""
        ...

    async def postpone_fetch(self, job: FetchJob, seconds: float, reason: str, *, is_missing: bool) -> None:
        """Ask again later; `is_missing`: the vendor said that there is no such thing."""
        ...

    async def record_verdict(self, template_id: TemplateId, verdict: Verdict | None) -> None:
        """Remember what an answer said of a template's document, and since when; None forgets it."""
        ...

    async def request_unfiltered(self, *, at_once: bool, restart_tries: bool = False) -> None:
        """Have the unfiltered call made, unless it is waiting to be made; `at_once`: even then.

        `restart_tries`: the calls so far do not count as tries.
        """
        ...

    async def record_result(self, result: VendorResult) -> None:
        """What the answer says of the session as a whole."""
        ...

    async def add_document(
        self,
        document: VendorDocument,
        error_code: str | None,
        *,
        listed: frozenset[str] | None,
        unless_same: bool = False,
    ) -> None:
        """A document, or a new version if it differs from the newest one.

        `listed`: the ids under which the vendor has the template's documents now. A new id takes the place of
        those that are not among them, and goes on counting their versions; with `unless_same` only where its
        content is another one. None: the answer gave any one of them, and only a failed one is replaced.
        """
        ...

    async def known_documents(self, template_id: TemplateId) -> frozenset[str]:
        """The vendor's ids of the template's documents that are here."""
        ...

    async def mark_asked(self, job: FetchJob, document_id: str | None) -> None:
        """The vendor is known to make the further document."""
        ...

    async def drop_additional_document(self, job: FetchJob) -> None:
        """The vendor was never asked for the further document."""
        ...

    async def fetches(self) -> list[FetchState]:
        """How all calls stand."""
        ...

    async def document_statuses(self) -> list[tuple[TemplateId, str]]:
        """How all documents stand."""
        ...

    async def unreleased_documents(self) -> list[StoredDocument]:
        """Documents of which no event was made yet."""
        ...

    async def show_partial(self) -> None:
        """Some documents are here, others are still to come."""
        ...

    async def settle_session(
        self, status: SessionStatus, *, error_code: str | None, error_message: str | None
    ) -> None:
        """The session's ending; nothing more is owed to the vendor for it."""
        ...

    async def emit(
        self, event: Event, document_id: DocumentId | None, template_id: TemplateId | None
    ) -> None:
        """Put the event and one delivery per matching destination into the outbox."""
        ...


class TokenStore(Protocol):
    """Vendor tokens that all replicas share, and the right to get new ones."""

    async def read(self, account: Account) -> TokenState:
        """The tokens of an account."""
        ...

    async def lease(self, account: Account, lease: Lease, *, seconds: float, generation: int) -> bool:
        """Take the right to replace the tokens of that generation; false when somebody has it or did it."""
        ...

    async def store(self, account: Account, lease: Lease, tokens: bytes) -> bool:
        """Store new tokens; false when the lease was lost meanwhile."""
        ...

    async def release(self, account: Account, lease: Lease) -> None:
        """Give the right back."""
        ...
