"""In which form a destination gets an event: whole or by reference, as our JSON or as FHIR R4.

The event itself is frozen when it happens. A form is made of it alone, so that every attempt sends the same
bytes for as long as the destination's `payload` and `format` stay what they are.
"""

import msgspec
from msgspec import UNSET, Struct, UnsetType

from schemas.deliveries import Event, EventData, ReferenceData, ReferenceDocument, ReferenceEvent
from schemas.destinations import Format, Payload
from schemas.emr import EventType
from service.forwarding.fhir import FhirSystems, make_bundle, make_ping

_JSON = "application/json"
_FHIR = "application/fhir+json"


class Form(Struct, frozen=True, kw_only=True):
    """A body as it is sent, and its Content-Type."""

    content_type: str
    body: bytes


class _Head(Struct, frozen=True, kw_only=True):
    type: EventType


class PayloadRenderer:
    """Makes forms; `public_url` is where a document's reader finds us."""

    def __init__(self, *, public_url: str, systems: FhirSystems) -> None:
        self._public_url = public_url
        self._systems = systems

    def make(self, event: bytes, *, payload: Payload, format: Format) -> Form:  # noqa: A002 - the API's own word
        """Return the form of a frozen event; the same event, payload and format give the same bytes."""
        if payload == "full" and format == "ekabridge":
            return Form(content_type=_JSON, body=event)
        if msgspec.json.decode(event, type=_Head).type == "ping":
            # A ping has no content to leave out; a FHIR server takes it for a transaction that does nothing.
            return Form(content_type=_FHIR, body=make_ping(event)) if format == "fhir-r4" else _as_is(event)
        read = msgspec.json.decode(event, type=Event)
        url = self._document_url(read.data)
        if format == "fhir-r4":
            bundle = make_bundle(read, self._systems, document_url=url if payload == "reference" else None)
            return Form(content_type=_FHIR, body=msgspec.json.encode(bundle))
        return Form(content_type=_JSON, body=msgspec.json.encode(_by_reference(read, url)))

    def _document_url(self, data: EventData) -> str:
        return f"{self._public_url}/v1/documents/{data.document.id}" if data.document else ""


def _as_is(event: bytes) -> Form:
    return Form(content_type=_JSON, body=event)


def _by_reference(event: Event, document_url: str) -> ReferenceEvent:
    data, document = event.data, event.data.document
    kept: ReferenceDocument | UnsetType = UNSET
    error = data.error
    if document:
        kept = ReferenceDocument(
            id=document.id,
            template_id=document.template_id,
            type=document.type,
            status=document.status,
            version=document.version,
            replaces=document.replaces,
        )
        error = document.error
    reference = ReferenceData(
        session_id=data.session_id,
        session_status=data.session_status,
        document=kept,
        document_url=document_url or UNSET,
        error=error,
    )
    return ReferenceEvent(type=event.type, timestamp=event.timestamp, data=reference)
