"""The ports to the stored fetches, documents and events."""

from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from schemas.events import Event
from schemas.results import WarningInfo
from schemas.sessions import SessionStatus
from service.domain.ids import Account, DocumentId, SessionId, TemplateId, TenantId, VendorSessionId
from service.domain.results.models import (
    FetchJob,
    FetchState,
    StoredDocument,
    VendorDocument,
    VendorResult,
    Verdict,
)
from service.domain.sessions.models import SessionDetails


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
    vendor_id: VendorSessionId
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

    async def remake(self, vendor_id: VendorSessionId, reason: str) -> bool:
        """Make the session again at the vendor under this id, from the audio that is kept here.

        False changes nothing: not all of the audio is here, documents are, or it was made again before.
        """
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
