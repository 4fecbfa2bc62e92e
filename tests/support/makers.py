"""Values for unit tests, every field filled in, and a clock that a test can turn."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from schemas.tenants import SessionDefaults
from service.domain.api_keys.models import Principal
from service.domain.deliveries.models import Answer, DeliveryJob
from service.domain.ids import (
    DEFAULT_ACCOUNT,
    UNFILTERED,
    DeliveryId,
    DestinationId,
    KeyId,
    Lease,
    SessionId,
    TemplateId,
    TenantId,
    VendorSessionId,
)
from service.domain.results.models import DocumentAnnotations, FetchJob, VendorDocument, VendorResult
from service.domain.sessions.models import SessionDetails, SessionPlan

SESSION = SessionId("ses_0123456789abcdef01234567")
AT_VENDOR = VendorSessionId(SESSION)
TENANT = TenantId("ten_0123456789abcdef01234567")
NOTE = TemplateId("eka_emr_template")
LETTER = TemplateId("letter_template")
START = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)


class TurnedClock:
    """The domain's Clock; a wait takes no time, is written down, and moves the time on."""

    def __init__(self, jitter: float = 0.5) -> None:
        self.at = START
        self.waits: list[float] = []
        self._chance = jitter

    def now(self) -> datetime:
        return self.at

    def jitter(self) -> float:
        return self._chance

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)  # others get their turn, as they would in a real wait
        self.at += timedelta(seconds=seconds)


async def wanted() -> bool:
    """What a sender asks before anything leaves: it is still to be sent."""
    return True


def make_lease() -> Lease:
    return Lease(uuid4())


def make_plan(**fields: Any) -> SessionPlan:
    values: dict[str, Any] = {
        "id": SESSION,
        "vendor_id": VendorSessionId(fields.get("id", SESSION)),
        "tenant_id": TENANT,
        "account": DEFAULT_ACCOUNT,
        "upload": "chunked",
        "mode": "dictation",
        "model": "pro",
        "templates": [NOTE],
        "languages": ["en"],
        "transcript_language": None,
        "details": SessionDetails(reference="ENC-1", patient={"id": "PAT-1", "name": "Asha Rao"}),
    }
    return SessionPlan(**(values | fields))


def make_principal(**defaults: Any) -> Principal:
    return Principal(
        key_id=KeyId("key_1"),
        tenant_id=TENANT,
        role="emr",
        defaults=SessionDefaults(**defaults),
        account=DEFAULT_ACCOUNT,
    )


def make_fetch_job(template_id: TemplateId = UNFILTERED, *, number: int = 1, **fields: Any) -> FetchJob:
    values: dict[str, Any] = {
        "id": number,
        "lease": make_lease(),
        "tenant_id": TENANT,
        "session_id": SESSION,
        "vendor_id": AT_VENDOR,
        "template_id": template_id,
        "account": DEFAULT_ACCOUNT,
        "attempts": 1,
        "missing": 0,
        "ended_seconds_ago": 5.0,
    }
    return FetchJob(**(values | fields))


def make_document(template_id: TemplateId = NOTE, **fields: Any) -> VendorDocument:
    values: dict[str, Any] = {
        "template_id": template_id,
        "upstream_id": f"doc_of_{template_id}",
        "type": None,
        "status": "success",
        "data": {"note": template_id},
    }
    if "vendor_code" in fields:
        fields["annotations"] = DocumentAnnotations(vendor_code=fields.pop("vendor_code"))
    return VendorDocument(**(values | fields))


def make_result(state: Any = "completed", *documents: VendorDocument, **fields: Any) -> VendorResult:
    return VendorResult(state=state, documents=list(documents), **fields)


def make_delivery_job(**fields: Any) -> DeliveryJob:
    values: dict[str, Any] = {
        "id": DeliveryId("msg_0123456789abcdef01234567"),
        "lease": Lease(UUID(int=1)),
        "tenant_id": TENANT,
        "session_id": SESSION,
        "destination_id": DestinationId("dst_1"),
        "type": "document.ready",
        "attempts": 0,
        "scheduled": 0,
        "body": b'{"type":"document.ready"}',
        "url": "https://emr.example/hooks",
        "headers": {},
        "secrets": ["whsec_" + "A" * 43 + "="],
        "timeout_seconds": None,
    }
    return DeliveryJob(**(values | fields))


def make_answer(status_code: int, excerpt: bytes = b"", **fields: Any) -> Answer:
    values: dict[str, Any] = {
        "status_code": status_code,
        "retry_after_seconds": None,
        "location": None,
        "echoed_id": None,
        "excerpt": excerpt,
        "size": len(excerpt),
        "sha256": b"\0" * 32,
        "duration_ms": 12,
    }
    return Answer(**(values | fields))
