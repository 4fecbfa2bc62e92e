"""The interfaces that the domain needs; eka, store, forwarding and jobs implement them."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from schemas.events import Event
from schemas.results import WarningInfo
from schemas.sessions import SessionChange, SessionStatus
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
    """Time and randomness, so that a test can control both."""

    def now(self) -> datetime:
        """Return the time in UTC."""
        ...

    def jitter(self) -> float:
        """Return a random number from 0 to 1."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class Audio(Protocol):
    """A chunk's buffered bytes, which can be read more than once."""

    @property
    def size(self) -> int:
        """The number of bytes."""
        ...

    @property
    def sha256(self) -> str:
        """The SHA-256 of the bytes, hexadecimal."""
        ...

    def read(self) -> AsyncIterator[bytes]:
        """Read the bytes from the start, in pieces."""
        ...


class Vendor(Protocol):
    """Calls to EkaScribe. Each raises VendorRefused, VendorUnavailable or VendorTimeout."""

    async def create_session(self, plan: SessionPlan) -> VendorSession:
        """Create the session; this never repeats the call itself (docs/vendor.md#create-twice)."""
        ...

    async def upload_audio(
        self,
        account: Account,
        session_id: SessionId,
        file_name: str,
        audio_format: AudioFormat,
        audio: Audio,
        before_repeat: Callable[[], Awaitable[None]],
    ) -> None:
        """Upload a chunk; this may repeat the call, as the same bytes under one name do no harm.

        `before_repeat` raises when the bytes must not be sent again.
        """
        ...

    async def end_session(self, account: Account, session_id: SessionId, files_sent: int) -> VendorEnd:
        """End the session; this never repeats the call itself (docs/vendor.md#end-twice)."""
        ...

    async def get_session(
        self,
        account: Account,
        session_id: SessionId,
        template_id: TemplateId,
        document_id: str | None = None,
    ) -> VendorResult:
        """Get the session's state and result, filtered by the template unless it is UNFILTERED.

        `document_id`, an id of the vendor, filters instead of the template: if a template has several
        documents, the filter by template returns any one of them (docs/vendor.md#same-template).
        """
        ...

    async def change_session(self, account: Account, session_id: SessionId, change: SessionChange) -> None:
        """Change only the given fields; harmless to repeat."""
        ...

    async def cancel_session(self, account: Account, session_id: SessionId) -> None:
        """Cancel the session; harmless to repeat."""
        ...

    async def make_document(
        self, account: Account, session_id: SessionId, template_id: TemplateId
    ) -> str | None:
        """Request an additional document, once, as a repeat makes two; return its id if it is known."""
        ...


class VendorLimits(Protocol):
    """The vendor's limits, as far as they are known."""

    async def limits(self) -> Limits:
        """Return the limits known now, without waiting for a vendor that is away."""
        ...


class Wakeups(Protocol):
    """Wakes a worker; if a wake-up gets lost, the sweep finds the due rows."""

    def results_due(self, session_id: SessionId) -> None:
        """Wake a worker to fetch results of this session."""
        ...


class AudioStore(Protocol):
    """Rows of chunks."""

    async def claim(self, chunk: ChunkPlan) -> ChunkClaim | None:
        """Reserve the chunk's sequence; None when the tenant has no such session."""
        ...

    async def record(self, session_id: SessionId, sequence: int, sha256: str) -> bool:
        """Record that the vendor has the bytes; False when the session accepts no more audio."""
        ...

    async def release(self, session_id: SessionId, sequence: int, lease: Lease) -> None:
        """Free the sequence after the vendor refused the bytes."""
        ...

    async def expire_lease(self, session_id: SessionId, sequence: int, lease: Lease) -> None:
        """End the lease but keep the sequence reserved: the vendor may have the bytes."""
        ...


class SessionStore(Protocol):
    """Rows of sessions."""

    async def insert_session(
        self, plan: SessionPlan, lease: Lease, *, lease_seconds: float, life_seconds: float
    ) -> bool:
        """Insert the session with its create call pending; False when the id exists already."""
        ...

    async def claim_pending_create(
        self, tenant_id: TenantId, session_id: SessionId, lease: Lease, *, lease_seconds: float
    ) -> bool:
        """Lease a pending create call; False if another caller holds it."""
        ...

    async def record_created(self, session_id: SessionId, lease: Lease, found: VendorSession) -> bool:
        """Record that the vendor has the session; False when the lease was lost."""
        ...

    async def record_never_created(
        self, session_id: SessionId, lease: Lease, code: str, message: str
    ) -> None:
        """Fail the session, because the vendor does not have it."""
        ...

    async def is_cancelled(self, session_id: SessionId) -> bool:
        """Return whether the session was cancelled, or erased while it ran."""
        ...

    async def reschedule_pending_call(self, session_id: SessionId, lease: Lease, seconds: float) -> None:
        """Release a call with an unclear outcome, and make it due after so many seconds."""
        ...

    async def release_pending_call(self, session_id: SessionId, lease: Lease, seconds: float) -> None:
        """Make a call that was not sent due after so many seconds, without counting a try."""
        ...

    def ending(
        self, tenant_id: TenantId, session_id: SessionId
    ) -> AbstractAsyncContextManager["EndUnit | None"]:
        """Lock a session in order to end it; None when the tenant has no such session."""
        ...

    async def record_end_confirmed(
        self, session_id: SessionId, lease: Lease, confirmed: VendorEnd
    ) -> EndRecorded:
        """Record that the vendor confirmed the end, and the files that it holds."""
        ...

    async def record_cancel_settled(self, session_id: SessionId, lease: Lease) -> None:
        """Record that no cancel call is pending: the vendor confirmed it, or needs none any more."""
        ...

    async def claim_pending_calls(
        self, limit: int, lease_seconds: float, passed_over: Collection[Account] = ()
    ) -> list[PendingCall]:
        """Lease pending calls that are due; skip the accounts and `tenant:…` names in `passed_over`."""
        ...


class EndUnit(Protocol):
    """A session's locked row, for checking and ending it in one transaction."""

    state: EndState

    async def begin(self, lease: Lease, *, lease_seconds: float, reconcile_seconds: float) -> None:
        """End the session: lease its end call, and schedule a fetch of each result after the wait."""
        ...

    async def take_over(self, lease: Lease, *, lease_seconds: float) -> None:
        """Lease an end call that another caller did not finish."""
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
        """Lease Get Session calls that are due; skip the accounts in `passed_over`."""
        ...

    async def release_fetch(self, job: FetchJob) -> None:
        """Make a call due at once for another worker, because its own worker stops."""
        ...

    async def give_back_fetch(self, job: FetchJob, seconds: float) -> None:
        """Make a call that was not sent due after so many seconds, without counting a try."""
        ...

    async def drop_fetch(self, job: FetchJob) -> None:
        """Delete a call that is not needed any more."""
        ...

    def settling(self, session_id: SessionId) -> AbstractAsyncContextManager["SettleUnit | None"]:
        """Lock a session in order to record a result; None when it was cancelled or erased."""
        ...

    async def past_sessions(self, limit: int) -> list[SessionId]:
        """Return sessions that expired without an end."""
        ...

    async def warn_expiring(self, within_seconds: float) -> list[SessionId]:
        """Mark and return sessions with audio that expire soon and were not ended; each one once."""
        ...


class SettleUnit(Protocol):
    """A session's locked row, for recording a result in one transaction."""

    session_id: SessionId
    tenant_id: TenantId
    status: SessionStatus
    is_final: bool  # the status is final; False for a partial session with documents still to come
    is_past: bool
    templates: list[str]
    details: SessionDetails
    transcript: str | None
    model_used: str | None
    language_detected: str | None

    @property
    def warnings(self) -> list[WarningInfo]:
        """The session's warnings, including those recorded in this transaction."""
        ...

    async def holds(self, job: FetchJob) -> bool:
        """Return whether the call's lease is still valid; if so, it stays valid until this unit ends."""
        ...

    async def settle_fetch(self, job: FetchJob, outcome: str) -> bool:
        """Settle this call; False when the lease was lost, and then the caller must record nothing."""
        ...

    async def settle_other_fetches(self, outcome: str) -> None:
        """Settle all calls of the session that are not settled yet."""
        ...

    async def settle_template(self, template_id: TemplateId, outcome: str) -> None:
        """Settle the call for a template without making it; a call under way then records nothing."""
        ...

    async def postpone_fetch(self, job: FetchJob, seconds: float, reason: str, *, is_missing: bool) -> None:
        """Make the call due again later; `is_missing`: the vendor had no such session or document."""
        ...

    async def record_verdict(self, template_id: TemplateId, verdict: Verdict | None) -> None:
        """Store an answer's verdict on a template's document, and since when; None deletes it."""
        ...

    async def request_unfiltered(self, *, at_once: bool, restart_tries: bool = False) -> None:
        """Schedule the unfiltered call, unless it is scheduled already; `at_once` makes it due in any case.

        `restart_tries` sets the number of its tries back to 0.
        """
        ...

    async def record_result(self, result: VendorResult) -> None:
        """Record the answer's data about the session as a whole."""
        ...

    async def add_document(
        self,
        document: VendorDocument,
        error_code: str | None,
        *,
        listed: frozenset[str] | None,
        unless_same: bool = False,
    ) -> None:
        """Store a document, or a new version if it differs from the newest one.

        `listed` holds the vendor's ids of all the template's documents now. A document with a new id replaces
        documents whose ids are not listed, and continues their version numbers; with `unless_same`, only if
        its content differs. If `listed` is None, the answer held just one of the template's documents, and
        the new document replaces only a failed one.
        """
        ...

    async def known_documents(self, template_id: TemplateId) -> frozenset[str]:
        """Return the vendor's ids of the template's documents that are here."""
        ...

    async def mark_asked(self, job: FetchJob, document_id: str | None) -> None:
        """Record that the vendor makes the additional document."""
        ...

    async def drop_additional_document(self, job: FetchJob) -> None:
        """Delete the request for an additional document that never reached the vendor."""
        ...

    async def fetches(self) -> list[FetchState]:
        """Return the states of all calls."""
        ...

    async def document_statuses(self) -> list[tuple[TemplateId, str]]:
        """Return the template and status of each document."""
        ...

    async def unreleased_documents(self) -> list[StoredDocument]:
        """Return the documents for which no event exists yet."""
        ...

    async def show_partial(self) -> None:
        """Set the status `partial`: some documents are here, others are still to come."""
        ...

    async def settle_session(
        self, status: SessionStatus, *, error_code: str | None, error_message: str | None
    ) -> None:
        """Set the session's final status, and drop its pending call to the vendor."""
        ...

    async def emit(
        self, event: Event, document_id: DocumentId | None, template_id: TemplateId | None
    ) -> None:
        """Put the event and one delivery per matching destination into the outbox."""
        ...


class TokenStore(Protocol):
    """Vendor tokens that all replicas share, and the right to get new ones."""

    async def read(self, account: Account) -> TokenState:
        """Return the tokens of an account."""
        ...

    async def lease(self, account: Account, lease: Lease, *, seconds: float, generation: int) -> bool:
        """Acquire the lease to replace the tokens of a generation; False if held or replaced already."""
        ...

    async def store(self, account: Account, lease: Lease, tokens: bytes) -> bool:
        """Store new tokens; False when the lease was lost meanwhile."""
        ...

    async def release(self, account: Account, lease: Lease) -> None:
        """Release the lease."""
        ...
