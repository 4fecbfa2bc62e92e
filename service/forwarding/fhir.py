"""Writes an event as a FHIR R4 transaction Bundle (https://hl7.org/fhir/R4/http.html#transaction).

Each resource is created only if the server has none with its identifier, so a delivery that comes twice files
one note. Where the server knows the identifiers of Patient and Encounter, its own resources are used.
"""

import base64
import re
from datetime import datetime
from typing import assert_never
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

import msgspec
from msgspec import UNSET, Struct, UnsetType

from schemas.events import Event, EventData, EventDocument
from schemas.fhir import (
    Attachment,
    Bundle,
    CodeableConcept,
    Coding,
    Content,
    Context,
    DocumentReference,
    Encounter,
    Entry,
    Identifier,
    Patient,
    Reference,
    RelatesTo,
    Request,
    Task,
)

_DOCUMENTS = "urn:ekabridge:document"
_SESSIONS = "urn:ekabridge:session"
_TEMPLATES = "urn:ekabridge:template"
_ERRORS = "urn:ekabridge:error"
_UNKNOWN = Coding(system="http://terminology.hl7.org/CodeSystem/v3-NullFlavor", code="UNK")
# R4, 2.24.0.1: only single spaces, and only inside.
_CODE = re.compile(r"\S+(?: \S+)*")
# R4, 3.1.1.5: the separators of a search value are escaped inside one.
_SEPARATOR = re.compile(r"([\\,$|])")


class FhirSystems(Struct, frozen=True, kw_only=True):
    """The identifier systems of the EMR's patient ids and encounter ids."""

    patient: str = "urn:ekabridge:patient"
    encounter: str = "urn:ekabridge:encounter"


class _Ping(Struct, frozen=True, kw_only=True):
    timestamp: datetime


def make_ping(event: bytes) -> bytes:
    """Return an empty transaction: a FHIR server answers it and changes nothing."""
    return msgspec.json.encode(Bundle(timestamp=msgspec.json.decode(event, type=_Ping).timestamp))


def make_bundle(event: Event, systems: FhirSystems, *, document_url: str | None) -> Bundle:
    """Return the Bundle of an event; with `document_url` it holds neither the note nor the patient.

    A note becomes a DocumentReference, and a failure becomes a failed Task. Either is the first entry.
    """
    patient = encounter = None
    if document_url is None:
        patient, encounter = _patient(event.data, systems), _encounter(event.data, systems)
    first = _first_entry(event, _reference_to(patient), _reference_to(encounter), document_url)
    return Bundle(timestamp=event.timestamp, entry=[first, *filter(None, (patient, encounter))])


def _first_entry(
    event: Event,
    subject: Reference | UnsetType,
    encounter: Reference | UnsetType,
    document_url: str | None,
) -> Entry:
    document = event.data.document
    match event.type:
        case "document.ready":
            if not document:
                raise ValueError("an event of a ready document holds no document")
            return _document_reference(event, document, subject, encounter, document_url)
        case "document.failed" | "session.failed" | "session.expired":
            return _failed_task(event, subject, encounter)
        case _:
            assert_never(event.type)


def _document_reference(
    event: Event,
    document: EventDocument,
    subject: Reference | UnsetType,
    encounter: Reference | UnsetType,
    document_url: str | None,
) -> Entry:
    relates = (
        UNSET
        if not document.replaces
        else [RelatesTo(target=_reference_by_identifier(_DOCUMENTS, document.replaces))]
    )
    identifier = Identifier(system=_DOCUMENTS, value=document.id)
    resource = DocumentReference(
        identifier=[identifier],
        type=_document_type(document),
        subject=subject,
        date=event.timestamp,
        relates_to=relates,
        content=_content(event, document, document_url),
        context=Context(
            encounter=[encounter] if encounter else UNSET,
            related=[_reference_by_identifier(_SESSIONS, event.data.session_id, UNSET)],
        ),
    )
    return _entry("DocumentReference", resource, identifier)


def _content(event: Event, document: EventDocument, document_url: str | None) -> list[Content]:
    at = event.timestamp
    if document_url is not None:
        note = Attachment(content_type="application/json", url=document_url, title="note", creation=at)
        return [Content(attachment=note)]
    data = _base64(msgspec.json.encode(document.data))
    contents = [Attachment(content_type="application/json", data=data, title="note", creation=at)]
    if event.data.transcript:
        transcript = _base64(event.data.transcript.encode())
        contents.append(
            Attachment(
                content_type="text/plain; charset=utf-8", data=transcript, title="transcript", creation=at
            )
        )
    return [Content(attachment=each) for each in contents]


def _failed_task(event: Event, subject: Reference | UnsetType, encounter: Reference | UnsetType) -> Entry:
    data, document = event.data, event.data.document
    error = (document.error if document else UNSET) or data.error
    session = Identifier(system=_SESSIONS, value=data.session_id)
    identifier = Identifier(system=_DOCUMENTS, value=document.id) if document else session
    reason = CodeableConcept(text=event.type)
    if error:
        coding = [Coding(system=_ERRORS, code=error.code)]
        reason = CodeableConcept(coding=coding, text=error.message)
    resource = Task(
        identifier=[identifier],
        group_identifier=session,
        status_reason=reason,
        code=_document_type(document) if document else CodeableConcept(text="Session"),
        for_=subject,
        encounter=encounter,
        last_modified=event.timestamp,
    )
    return _entry("Task", resource, identifier)


def _patient(data: EventData, systems: FhirSystems) -> Entry | None:
    patient_id = (data.patient.id if data.patient else None) or ""
    if not patient_id.strip():
        return None
    identifier = Identifier(system=systems.patient, value=patient_id)
    return _entry("Patient", Patient(identifier=[identifier]), identifier)


def _encounter(data: EventData, systems: FhirSystems) -> Entry | None:
    if not (data.reference or "").strip():
        return None
    identifier = Identifier(system=systems.encounter, value=data.reference or "")
    resource = Encounter(
        identifier=[identifier], class_=_UNKNOWN, subject=_reference_to(_patient(data, systems))
    )
    return _entry("Encounter", resource, identifier)


def _document_type(document: EventDocument) -> CodeableConcept:
    template, text = document.template_id, (document.type or document.template_id).strip()
    coding = [Coding(system=_TEMPLATES, code=template)] if _CODE.fullmatch(template) else UNSET
    return CodeableConcept(coding=coding, text=text or "note")


def _entry(kind: str, resource: DocumentReference | Task | Patient | Encounter, known: Identifier) -> Entry:
    value = _SEPARATOR.sub(r"\\\1", known.value)
    return Entry(
        # Derived from the identifier instead of random, so that every attempt sends the same bytes.
        full_url=f"urn:uuid:{uuid5(NAMESPACE_URL, f'{kind}|{known.system}|{known.value}')}",
        resource=resource,
        request=Request(
            url=kind, if_none_exist=f"identifier={quote(known.system, safe=':/')}%7C{quote(value, safe='')}"
        ),
    )


def _reference_to(entry: Entry | None) -> Reference | UnsetType:
    if entry is None:
        return UNSET
    kind = entry.request.url
    return Reference(reference=entry.full_url, type=kind, identifier=entry.resource.identifier[0])


def _reference_by_identifier(
    system: str, value: str, kind: str | UnsetType = "DocumentReference"
) -> Reference:
    return Reference(type=kind, identifier=Identifier(system=system, value=value))


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
