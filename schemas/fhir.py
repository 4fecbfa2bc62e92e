"""The little of FHIR R4 (4.0.1) that a destination with `format: fhir-r4` gets: https://hl7.org/fhir/R4.

What is absent is left out: FHIR has neither nulls nor empty lists.
"""

from datetime import datetime
from typing import Literal

from msgspec import UNSET, Struct, UnsetType, field


class Identifier(Struct, kw_only=True, frozen=True):
    """A name of something within a system of names."""

    system: str
    value: str


class Coding(Struct, kw_only=True, frozen=True):
    """A code within a system of codes."""

    system: str
    code: str


class CodeableConcept(Struct, kw_only=True, frozen=True):
    """A concept by its code, and in words."""

    coding: list[Coding] | UnsetType = UNSET
    text: str


class Reference(Struct, kw_only=True, frozen=True):
    """Points at a resource of the same Bundle, or says by which identifier it is known, or both."""

    reference: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    identifier: Identifier


class Attachment(Struct, kw_only=True, frozen=True, rename="camel"):
    """A note's bytes as base64, or where to get them."""

    content_type: str
    data: str | UnsetType = UNSET
    url: str | UnsetType = UNSET
    title: str
    creation: datetime


class Content(Struct, kw_only=True, frozen=True):
    """One form of a document."""

    attachment: Attachment


class RelatesTo(Struct, kw_only=True, frozen=True):
    """The document that this one takes the place of."""

    code: Literal["replaces"] = "replaces"
    target: Reference


class Context(Struct, kw_only=True, frozen=True):
    """The encounter, and the session of ours, that a document came from."""

    encounter: list[Reference] | UnsetType = UNSET
    related: list[Reference]


class Patient(Struct, kw_only=True, frozen=True, tag_field="resourceType"):
    """Whom the EMR knows by this identifier; we know no more."""

    identifier: list[Identifier]


class Encounter(Struct, kw_only=True, frozen=True, tag_field="resourceType"):
    """What the EMR knows by this identifier; R4 wants a status and a class, which we do not know."""

    identifier: list[Identifier]
    status: Literal["unknown"] = "unknown"
    class_: Coding = field(name="class")
    subject: Reference | UnsetType = UNSET


class DocumentReference(Struct, kw_only=True, frozen=True, tag_field="resourceType", rename="camel"):
    """A note; `preliminary`, as no clinician has signed it yet."""

    identifier: list[Identifier]
    status: Literal["current"] = "current"
    doc_status: Literal["preliminary"] = "preliminary"
    type: CodeableConcept
    subject: Reference | UnsetType = UNSET
    date: datetime
    relates_to: list[RelatesTo] | UnsetType = UNSET
    content: list[Content]
    context: Context


class Task(Struct, kw_only=True, frozen=True, tag_field="resourceType", rename="camel"):
    """A note, or a whole session, of which nothing will come."""

    identifier: list[Identifier]
    group_identifier: Identifier
    status: Literal["failed"] = "failed"
    status_reason: CodeableConcept
    intent: Literal["order"] = "order"
    code: CodeableConcept
    for_: Reference | UnsetType = field(name="for", default=UNSET)
    encounter: Reference | UnsetType = UNSET
    last_modified: datetime


class Request(Struct, kw_only=True, frozen=True, rename="camel"):
    """What the server shall do with an entry: create it, unless it has one of that identifier."""

    method: Literal["POST"] = "POST"
    url: str
    if_none_exist: str


class Entry(Struct, kw_only=True, frozen=True, rename="camel"):
    """One resource of a Bundle."""

    full_url: str
    resource: DocumentReference | Task | Patient | Encounter
    request: Request


class Bundle(Struct, kw_only=True, frozen=True, tag_field="resourceType"):
    """All or nothing; without entries it does nothing, which is how a ping looks."""

    type: Literal["transaction"] = "transaction"
    timestamp: datetime
    entry: list[Entry] | UnsetType = UNSET
