"""The FHIR R4 (4.0.1) resources that a destination with `format: fhir-r4` receives (https://hl7.org/fhir/R4).

A field without a value is absent, because FHIR allows neither null nor empty lists.
"""

from datetime import datetime
from typing import Literal

from msgspec import UNSET, Struct, UnsetType, field


class Identifier(Struct, kw_only=True, frozen=True):
    """A value that is unique within its system."""

    system: str
    value: str


class Coding(Struct, kw_only=True, frozen=True):
    """A code of a code system."""

    system: str
    code: str


class CodeableConcept(Struct, kw_only=True, frozen=True):
    """A concept as codes and as text."""

    coding: list[Coding] | UnsetType = UNSET
    text: str


class Reference(Struct, kw_only=True, frozen=True):
    """Refers to a resource of the same Bundle, by identifier, or both."""

    reference: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    identifier: Identifier


class Attachment(Struct, kw_only=True, frozen=True, rename="camel"):
    """A note's bytes in base64, or the URL to read them from."""

    content_type: str
    data: str | UnsetType = UNSET
    url: str | UnsetType = UNSET
    title: str
    creation: datetime


class Content(Struct, kw_only=True, frozen=True):
    """One representation of a document."""

    attachment: Attachment


class RelatesTo(Struct, kw_only=True, frozen=True):
    """The document that this one replaces."""

    code: Literal["replaces"] = "replaces"
    target: Reference


class Context(Struct, kw_only=True, frozen=True):
    """The encounter and the ekabridge session that a document belongs to."""

    encounter: list[Reference] | UnsetType = UNSET
    related: list[Reference]


class Patient(Struct, kw_only=True, frozen=True, tag_field="resourceType"):
    """A patient with the EMR's own identifier, the only thing that ekabridge knows for certain."""

    identifier: list[Identifier]


class Encounter(Struct, kw_only=True, frozen=True, tag_field="resourceType"):
    """An encounter with the EMR's own identifier; R4 requires a status and a class, both unknown here."""

    identifier: list[Identifier]
    status: Literal["unknown"] = "unknown"
    class_: Coding = field(name="class")
    subject: Reference | UnsetType = UNSET


class DocumentReference(Struct, kw_only=True, frozen=True, tag_field="resourceType", rename="camel"):
    """A note; it is `preliminary`, because no clinician has signed it yet."""

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
    """A failed note, or a failed session."""

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
    """Creates the entry's resource on condition that the server has none with that identifier."""

    method: Literal["POST"] = "POST"
    url: str
    if_none_exist: str


class Entry(Struct, kw_only=True, frozen=True, rename="camel"):
    """One resource of a Bundle."""

    full_url: str
    resource: DocumentReference | Task | Patient | Encounter
    request: Request


class Bundle(Struct, kw_only=True, frozen=True, tag_field="resourceType"):
    """A transaction: the server applies all entries or none. A ping is a Bundle without entries."""

    type: Literal["transaction"] = "transaction"
    timestamp: datetime
    entry: list[Entry] | UnsetType = UNSET
