"""Renders an event as the body of a delivery: whole or by reference, as our JSON or as FHIR R4.

The event itself is frozen when it happens. A body is rendered from the event alone, so that every attempt
sends the same bytes for as long as the destination's `payload` and `format` stay the same.
"""

from typing import assert_never

import msgspec
from msgspec import UNSET, Struct, UnsetType

from schemas.destinations import Format, Payload
from schemas.events import Event, EventData, EventType, ReferenceData, ReferenceDocument, ReferenceEvent
from service.forwarding.fhir import FhirSystems, make_bundle, make_ping

_JSON = "application/json"
_FHIR = "application/fhir+json"


class RenderedPayload(Struct, frozen=True, kw_only=True):
    """A body as it is sent, and its Content-Type."""

    content_type: str
    body: bytes


class _Head(Struct, frozen=True, kw_only=True):
    type: EventType


class PayloadRenderer:
    """Renders events; `public_url` is the address of our API, at which a document can be read."""

    def __init__(self, *, public_url: str, systems: FhirSystems) -> None:
        self._public_url = public_url
        self._systems = systems

    def render(self, event: bytes, *, payload: Payload, format: Format) -> RenderedPayload:  # noqa: A002 - the API's own word
        """Render a frozen event; the same event, payload and format give the same bytes.

        An unknown payload or format is an error: sent in the wrong form, a note could be refused or misread.
        """
        match format:
            case "ekabridge":
                return RenderedPayload(content_type=_JSON, body=self._as_json(event, payload))
            case "fhir-r4":
                return RenderedPayload(content_type=_FHIR, body=self._as_fhir(event, payload))
            case _:
                assert_never(format)

    def _as_json(self, event: bytes, payload: Payload) -> bytes:
        match payload:
            case "full":
                return event
            case "reference":
                if _is_ping(event):
                    return event  # a ping has no content to leave out
                decoded = msgspec.json.decode(event, type=Event)
                return msgspec.json.encode(_by_reference(decoded, self._document_url(decoded.data)))
            case _:
                assert_never(payload)

    def _as_fhir(self, event: bytes, payload: Payload) -> bytes:
        if _is_ping(event):
            return make_ping(event)
        decoded = msgspec.json.decode(event, type=Event)
        match payload:
            case "full":
                document_url = None
            case "reference":
                document_url = self._document_url(decoded.data)
            case _:
                assert_never(payload)
        return msgspec.json.encode(make_bundle(decoded, self._systems, document_url=document_url))

    def _document_url(self, data: EventData) -> str:
        return f"{self._public_url}/v1/documents/{data.document.id}" if data.document else ""


def _is_ping(event: bytes) -> bool:
    return msgspec.json.decode(event, type=_Head).type == "ping"


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
