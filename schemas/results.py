"""Results of a session: documents, their errors and warnings, and requests for more documents."""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from schemas.templates import TemplateName


class DocumentRequest(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Another template of a finished session."""

    template_id: Annotated[
        TemplateName, Meta(description="The template's id", examples=["clinical_notes_template"])
    ]


class ErrorInfo(Struct, frozen=True, omit_defaults=True):
    """The reason of a failure: a stable code of ekabridge and a sentence.

    `vendor_code` is EkaScribe's own code, if EkaScribe gave one.
    """

    code: str
    message: str
    vendor_code: str | UnsetType = UNSET


class WarningInfo(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """A fact that a reader of a session or document should know, although nothing failed.

    `code` is a stable code of ekabridge. `vendor_code` and `message` come from EkaScribe if it gave the
    warning. `missing` comes with `audio_incomplete`: the sequences of the chunks that EkaScribe does not
    list.
    """

    code: str
    message: str
    vendor_code: str | UnsetType = UNSET
    missing: list[int] | UnsetType = UNSET


class DocumentSummary(Struct, kw_only=True, frozen=True):
    """A document in the list of its session, without content."""

    id: str
    template_id: str
    status: Literal["success", "failed"]
    type: str | None
    received_at: datetime


class Document(Struct, kw_only=True, frozen=True):
    """A structured note that EkaScribe made from one template."""

    id: str
    session_id: str
    reference: str | None
    template_id: str
    type: str | None
    status: Literal["success", "failed"]
    data: Any
    error: ErrorInfo | None
    warnings: list[WarningInfo]
    fhir: Any = UNSET
    version: int
    upstream_id: str
    received_at: datetime
