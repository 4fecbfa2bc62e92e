"""Values of results: the vendor's answers, fetches, and stored documents."""

from datetime import datetime
from typing import Any, Literal

from msgspec import UNSET, Struct, field

from schemas.results import WarningInfo
from schemas.sessions import SessionStatus
from service.concurrency.memory_budget import MemoryReservation
from service.domain.ids import Account, DocumentId, Lease, SessionId, TemplateId, TenantId, VendorSessionId
from service.domain.sessions.models import VendorEnd

VendorState = Literal[
    "open", "processing", "completed", "partial", "failed", "expired", "missing", "no_document", "unknown"
]


# The meaning of an answer for a document that is no plain success (service/domain/results/verdicts.py).
Verdict = Literal["failed", "unexplained", "empty", "unknown", "absent"]


# `pending`: announced, but not made yet. `empty`: a success without content. `unknown`: a status that this
# service does not know.
VendorDocumentStatus = Literal["success", "failed", "pending", "empty", "unknown"]


class DocumentAnnotations(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The vendor's additional data about a document beside its content; stored encrypted.

    `vendor_code`: the vendor's own code for the reason of a failure. `fhir`: a FHIR resource of the document.
    """

    warnings: list[WarningInfo] = field(default_factory=list)
    vendor_code: str | None = None
    fhir: Any = UNSET


class VendorDocument(Struct, frozen=True, kw_only=True):
    """One document of an answer; `content_url` is the address of its content if `data` lacks it."""

    template_id: TemplateId
    upstream_id: str
    type: str | None
    status: VendorDocumentStatus
    data: Any
    annotations: DocumentAnnotations = DocumentAnnotations()
    content_url: str | None = None


class VendorResult(Struct, frozen=True, kw_only=True):
    """An answer of Get Session in our terms.

    `open`: not ended yet; `missing`: no such session; `no_document`: the filter matched no document;
    `unknown`: a status that this service does not know. `warnings`: the vendor's warnings about processing.
    `audio`: the files that the vendor lists, only from an answer without a filter. `held`: the memory that
    large values use, reserved until the garbage collector frees the result.
    """

    state: VendorState
    transcript: str | None = None
    documents: list[VendorDocument] = field(default_factory=list)
    model_used: str | None = None
    language_detected: str | None = None
    upload_url: str | None = None
    expires_at: datetime | None = None
    warnings: list[WarningInfo] = field(default_factory=list)
    audio: VendorEnd | None = None
    held: tuple[MemoryReservation, ...] = ()


class AdditionalDocumentState(Struct, frozen=True, kw_only=True):
    """The fields of a finished session's locked row that a request for an additional document needs.

    `is_pending`: that document is on its way; `is_asking`: another call asks the vendor for it at this
    moment; `is_unclear`: a call asked for it, and nobody knows whether the vendor got that call. `known`: the
    vendor's ids of the template's documents that are here. `asked_until`: the time at which the last
    requested document was settled.
    """

    vendor_id: VendorSessionId
    account: Account
    status: SessionStatus
    is_erased: bool
    is_pending: bool
    is_asking: bool
    is_unclear: bool
    document_id: str | None
    known: frozenset[str]
    asked_until: datetime | None = None


class FetchJob(Struct, frozen=True, kw_only=True):
    """A leased Get Session call.

    `is_end_hint`: no caller ended the session, but the vendor hinted that it is over. `is_over`: the session
    has its final status already, and the call checks for new results. `was_announced`: a webhook announced
    results. `verdict`: the judgement of earlier answers, unchanged for `verdict_seconds`. `asked`: for an
    additional document, whether the vendor certainly got the request for it; `document_id` is its id at the
    vendor.
    """

    id: int
    lease: Lease
    tenant_id: TenantId
    session_id: SessionId
    vendor_id: VendorSessionId
    template_id: TemplateId
    account: Account
    attempts: int
    missing: int  # how often in a row the vendor said that there is no such thing
    ended_seconds_ago: float
    is_end_hint: bool = False
    is_over: bool = False
    was_announced: bool = False
    verdict: Verdict | None = None
    verdict_seconds: float | None = None
    asked: Literal["asking", "asked"] | None = None
    document_id: str | None = None
    traceparent: str | None = None  # of the session's create call


class FetchState(Struct, frozen=True, kw_only=True):
    """The state of one of a session's Get Session calls."""

    template_id: TemplateId
    is_settled: bool
    was_answered: bool
    attempts: int
    is_additional: bool = False
    reason: str | None = None  # of the last answer that did not settle it
    outcome: str | None = None
    verdict: Verdict | None = None
    verdict_seconds: float | None = None


class StoredDocument(Struct, frozen=True, kw_only=True):
    """A stored document for which no event exists yet."""

    id: DocumentId
    template_id: TemplateId
    upstream_id: str
    version: int
    type: str | None
    status: Literal["success", "failed"]
    data: Any
    error_code: str | None
    replaces: DocumentId | None = None
    annotations: DocumentAnnotations = DocumentAnnotations()
