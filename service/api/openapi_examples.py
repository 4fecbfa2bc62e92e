"""The examples of the OpenAPI document, built from the real types so that they always match them."""

from datetime import UTC, datetime
from typing import Any

import msgspec
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from msgspec import UNSET

from schemas.audio import ChunkStored
from schemas.audit import AuditEntry
from schemas.deliveries import Attempt, Delivery, Recovered
from schemas.destinations import AuthShown, Destination
from schemas.ledger import Ledger
from schemas.pages import Page
from schemas.recordings import RecordingState
from schemas.results import Document, DocumentSummary
from schemas.sessions import DeliveryCounts, Session, SessionErasure, TimelineEntry

_SESSION_ID = "ses_5f2c1b7a9d3e4c6081f2a3b4"
_DOCUMENT_ID = "doc_0a1b2c3d4e5f60718293a4b5"
_DESTINATION_ID = "dst_91a2b3c4d5e6f70819203a4b"
_DELIVERY_ID = "msg_7c6d5e4f3a2b1c0d9e8f7a6b"
_STARTED = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
_ENDED = datetime(2026, 11, 21, 9, 34, tzinfo=UTC)
_COMPLETED = datetime(2026, 11, 21, 9, 34, 20, tzinfo=UTC)

NEW_SESSION = {
    "templates": ["eka_emr_template"],
    "reference": "ENC-1",
    "patient": {"id": "PAT-12345", "name": "Asha Rao"},
    "metadata": {"ward": "7"},
}
END = {"chunks": 12}
CHANGE = {"patient": {"id": "PAT-67890", "name": "Ravi Iyer"}, "languages": ["en", "hi"]}
ADDITIONAL_DOCUMENT = {"template_id": "clinical_notes_template"}
NEW_DESTINATION = {
    "url": "https://emr.example/hooks/notes",
    "events": ["document.ready", "document.failed"],
    "payload": "full",
    "format": "ekabridge",
    "headers": {"x-hospital": "north"},
    "timeout_seconds": 10,
    "rate_per_second": 20,
    "auth": {
        "type": "oauth2",
        "token_url": "https://login.emr.example/token",
        "client_id": "ekabridge",
        "client_secret": "s3cret",
        "scope": "notes.write",
    },
}
DESTINATION_CHANGE = {"enabled": True, "rate_per_second": None}
ROTATION = {"overlap_seconds": 3600}

CREATED = Session(
    id=_SESSION_ID,
    status="created",
    upload="chunked",
    templates=["eka_emr_template"],
    mode="dictation",
    model="pro",
    languages=["en"],
    transcript_language=None,
    patient={"id": "PAT-12345", "name": "Asha Rao"},
    reference="ENC-1",
    metadata={"ward": "7"},
    audio_url=f"https://bridge.example/v1/sessions/{_SESSION_ID}/audio",
    chunks_received=0,
    created_at=_STARTED,
    expires_at=_STARTED.replace(hour=10),
    ended_at=None,
    completed_at=None,
    transcript=None,
    model_used=None,
    language_detected=None,
    documents=[],
    deliveries=DeliveryCounts(),
    error=None,
    warnings=[],
)
ENDED = msgspec.structs.replace(CREATED, status="processing", chunks_received=12, ended_at=_ENDED)
COMPLETED = msgspec.structs.replace(
    ENDED,
    status="completed",
    completed_at=_COMPLETED,
    transcript="Fever and cough for three days …",
    model_used="pro",
    language_detected="en",
    documents=[
        DocumentSummary(
            id=_DOCUMENT_ID,
            template_id="eka_emr_template",
            status="success",
            type=None,
            received_at=_COMPLETED,
        )
    ],
    deliveries=DeliveryCounts(delivered=1),
)
RECORDED = msgspec.structs.replace(
    CREATED,
    status="processing",
    upload="recording",
    audio_url=UNSET,
    recording=RecordingState(bytes=4_812_345, seconds=298.4, chunks_done=0, chunks_total=None),
    ended_at=_STARTED,
)
ERASED = SessionErasure(id=_SESSION_ID, status="completed")
CHUNK = ChunkStored(
    sequence=0,
    bytes=160_044,
    sha256="918c4f183ceeee8ac0f215cc9374863e7394ca38d0c7424e1bc96a47b9ba0d39",
    file_name="audio_0.wav",
    state="stored",
)
DOCUMENT = Document(
    id=_DOCUMENT_ID,
    session_id=_SESSION_ID,
    reference="ENC-1",
    template_id="eka_emr_template",
    type=None,
    status="success",
    data={"chief_complaint": "cough and fever"},
    error=None,
    warnings=[],
    version=1,
    upstream_id="doc_abc123",
    received_at=_COMPLETED,
)
TIMELINE = Page(
    items=[
        TimelineEntry(at=_STARTED, type="session.created", data={"upload": "chunked"}),
        TimelineEntry(at=_ENDED, type="session.ended", data={"chunks": 12, "told_vendor": True}),
        TimelineEntry(at=_COMPLETED, type="webhook.received", data={"event": "completed", "repeats": 0}),
    ]
)
DESTINATION = Destination(
    id=_DESTINATION_ID,
    url="https://emr.example/hooks/notes",
    events=["document.ready", "document.failed"],
    templates=[],
    payload="full",
    format="ekabridge",
    headers={"x-hospital": "***"},
    timeout_seconds=10,
    rate_per_second=20,
    auth=AuthShown(
        type="oauth2",
        token_url="https://login.emr.example/token",  # noqa: S106 - a URL, not a token
        client_id="ekabridge",
        scope="notes.write",
    ),
    enabled=True,
    paused_reason=None,
    previous_secret_until=None,
    created_at=_STARTED,
)
NEW_DESTINATION_ANSWER = msgspec.structs.replace(DESTINATION, secret="whsec_" + "A" * 43 + "=")
ROTATED_DESTINATION = msgspec.structs.replace(
    NEW_DESTINATION_ANSWER, previous_secret_until=_STARTED.replace(hour=11)
)
DELIVERY = Delivery(
    id=_DELIVERY_ID,
    session_id=_SESSION_ID,
    document_id=_DOCUMENT_ID,
    destination_id=_DESTINATION_ID,
    type="document.ready",
    status="delivered",
    attempts=1,
    next_attempt_at=None,
    reason=None,
    record_id=None,
    created_at=_COMPLETED,
)
LEDGER = Ledger(ended=1204, delivered=1198, in_flight=5, dead=1, lost=0)
AUDIT = AuditEntry(
    id="4711",
    at=_COMPLETED,
    actor="key_2b3c4d5e6f708192a3b4c5d6",
    action="session.erased",
    object_id=_SESSION_ID,
    facts={"documents": 2, "deliveries": 2, "sha256": "9f86d081" * 8},
)
PING = msgspec.structs.replace(
    DELIVERY,
    session_id=None,
    document_id=None,
    type="ping",
    status="pending",
    attempts=0,
    next_attempt_at=_COMPLETED,
)
CONFIRM = {"record_id": "NOTE-4711"}
FILED = msgspec.structs.replace(DELIVERY, status="filed", record_id="NOTE-4711")
RECOVER = {"since": "2026-11-20T00:00:00Z"}
RECOVERED = Recovered(recovered=12, replayed=3)
DELIVERY_WITH_ATTEMPTS = msgspec.structs.replace(
    DELIVERY, attempts=[Attempt(at=_COMPLETED, status_code=200, error_class=None, duration_ms=42)]
)


def example(value: Any) -> list[Example]:
    """Return a value as the list of examples that OpenAPI expects."""
    return [Example(summary="Example", value=msgspec.to_builtins(value))]


def answer(value: Any, description: str, *, kind: Any = None) -> ResponseSpec:
    """Describe a successful response by an example; `kind` overrides the type of `value`."""
    return ResponseSpec(
        data_container=kind or type(value),
        description=description,
        generate_examples=False,
        examples=example(value),
    )
