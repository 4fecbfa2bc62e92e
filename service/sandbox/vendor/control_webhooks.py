"""Control calls about webhooks: what was sent, and sending some by hand."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import get, post
from litestar.params import FromQuery

from service.sandbox.vendor.control_bodies import read_struct
from service.sandbox.vendor.requests import VendorRequest, vendor_of
from service.sandbox.vendor.settings import Shape, SignatureHeader, Signing
from service.sandbox.vendor.webhooks import Target, name_event, open_client, post_event, write_event


class SendWebhook(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Webhooks to send now, `copies` of them at once.

    `event` defaults to completed in the shape's own spelling; `timestamp` (Unix seconds) and `sign` make
    stale and wrong signatures; `body` replaces the event's JSON by these characters.
    """

    url: str
    session_id: str
    secret: str | None = None
    shape: Shape = "v2"
    event: str | None = None
    data: dict[str, Any] = {}
    copies: int = 1
    header: SignatureHeader = "Eka-Webhook-Signature"
    headers: dict[str, str] = {}
    timestamp: int | None = None
    sign: Signing = "raw"
    body: str | None = None
    timeout_seconds: float = 30.0


@get("/webhooks")
async def list_deliveries(
    request: VendorRequest, session_id: FromQuery[str | None] = None
) -> list[dict[str, Any]]:
    """List the webhooks that were sent by themselves, and what was answered."""
    deliveries = vendor_of(request).deliveries
    return [each for each in deliveries if session_id in {None, each["session_id"]}]


@post("/webhooks/send", status_code=200)
async def send_webhooks(request: VendorRequest) -> dict[str, Any]:
    """Send webhooks at once and answer what the receiver said to each."""
    data = await read_struct(request, SendWebhook)
    target = Target(
        data.url,
        data.secret,
        data.shape,
        data.header,
        data.sign,
        at=data.timestamp,
        extra_headers=data.headers,
    )
    name = data.event or name_event(data.shape, "completed")
    event = write_event(data.shape, name, data.session_id, data.data or {"status": "completed"})
    async with open_client(data.timeout_seconds) as client:
        sends = (post_event(client, target, event, data.body) for _ in range(data.copies))
        return {"answers": await asyncio.gather(*sends)}
