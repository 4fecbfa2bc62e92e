"""Webhooks: writes events in each published shape, signs them and posts them to their receivers."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import json
import ssl
import time
from dataclasses import dataclass, field
from typing import Any, get_args

import httpx2

from service.sandbox.vendor.errors import BUSINESS_ID
from service.sandbox.vendor.records import PENDING, Document, Session, timestamp
from service.sandbox.vendor.settings import Shape, SignatureHeader, Signing
from service.sandbox.vendor.state import VendorState

_BUSINESS_ID, _SERVICE = "b_sandbox", "v2rx"
SHAPES: tuple[str, ...] = get_args(Shape)


@dataclass(frozen=True)
class Target:
    """One receiver and how it is spoken to; without a `secret`, or with sign "none", events are unsigned."""

    url: str
    secret: str | None
    shape: Shape
    header: SignatureHeader
    sign: Signing
    at: int | None = None
    extra_headers: dict[str, str] = field(default_factory=dict)


def write_event(shape: Shape, event: str, session_id: str, data: dict[str, Any]) -> dict[str, Any]:
    """Write the event in a published shape (docs/vendor.md#webhook-shapes); `event` is its full name."""
    now = time.time()
    common = {"client_id": "sandbox", "business_id": _BUSINESS_ID}
    if shape == "nested":
        payload = {
            "service": _SERVICE,
            "event": event,
            "event_time": timestamp(now),
            "transaction_id": session_id,
            "data": data,
        }
        return {**common, "service_id": _SERVICE, "event_id": event, "payload": payload}
    if shape in {"flat", "flat-event-type"}:
        name = "event" if shape == "flat" else "event_type"
        times = {"event_time": timestamp(now), "timestamp": int(now)}
        return {
            "service": _SERVICE,
            name: event,
            **times,
            "transaction_id": session_id,
            **common,
            "data": data,
        }
    if shape == "v2":
        inner = {"transaction_id": session_id, "session_id": session_id, **data}
        return {"event": event, "data": inner, "timestamp": timestamp(now)}
    return {"event": event, "timestamp": timestamp(now), "session_id": session_id}


def name_event(shape: Shape, outcome: str) -> str:
    """`v2rx.<outcome>`, or `session.<outcome>` in the protocol's own shape."""
    return f"session.{outcome}" if shape == "protocol" else f"{_SERVICE}.{outcome}"


def sign(event: dict[str, Any], body: bytes, secret: str, signing: Signing, at: int) -> str:
    """Make `t=<unix>,v1=<hex>` over the raw body, or over compact JSON as the vendor's samples do."""
    signed = body
    if signing in {"compact", "compact-ascii"}:
        ascii_only = signing == "compact-ascii"
        signed = json.dumps(event, separators=(",", ":"), ensure_ascii=ascii_only).encode()
    elif signing == "wrong":
        signed = body + b" "
    mac = hmac.new(secret.encode(), f"{at}.".encode() + signed, hashlib.sha256)
    return f"t={at},v1={mac.hexdigest()}"


async def post_event(
    client: httpx2.AsyncClient, target: Target, event: dict[str, Any], raw_body: str | None = None
) -> dict[str, Any]:
    """Send one event once: `{status, body, error}`, the error's class name instead of an exception.

    The body is JSON with spaces and unescaped letters, so that raw and compact signatures differ.
    """
    body = (json.dumps(event, ensure_ascii=False) if raw_body is None else raw_body).encode()
    headers = {"content-type": "application/json", **target.extra_headers}
    if target.secret is not None and target.sign != "none":
        at = int(time.time()) if target.at is None else target.at
        headers[target.header] = sign(event, body, target.secret, target.sign, at)
    try:
        response = await client.post(target.url, content=body, headers=headers)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        return {"status": None, "body": None, "error": type(error).__name__}
    return {"status": response.status_code, "body": response.text, "error": None}


def open_client(timeout_seconds: float) -> httpx2.AsyncClient:
    """Open a client with every wait bounded, blind to proxies and redirects."""
    return httpx2.AsyncClient(
        timeout=timeout_seconds,
        verify=_load_certificates(),
        trust_env=False,
        follow_redirects=False,
        limits=httpx2.Limits(max_connections=None),
    )


@functools.cache
def _load_certificates() -> ssl.SSLContext:
    return httpx2.create_ssl_context(trust_env=False)


def announce_outcome(vendor: VendorState, session: Session) -> None:
    """Send the webhooks of a session's ending in the background, if there are receivers.

    Connect shapes know only "completed" unless `webhook_all_outcomes`: the vendor publishes no other event.
    On premises July sends its one completion, also for a partial session, and August nothing at all.
    """
    settings = vendor.settings
    if not settings.is_hosted:
        if session.status in {"completed", "partial"}:
            announce_event(vendor, session, name_event("nested", "completed"))
        return
    if not settings.webhooks_enabled:
        return
    for target in _find_targets(vendor, session):
        for _ in range(vendor.settings.webhook_copies):
            name = name_event(target.shape, session.status)
            event = write_event(target.shape, name, session.session_id, {"status": session.status})
            vendor.spawn(_deliver(vendor, session, target, session.status, event))


def announce_event(vendor: VendorState, session: Session, event: str, **data: object) -> None:
    """Send an event that only the on-prem server of July has (docs/vendor.md#webhook-events)."""
    settings = vendor.settings
    if not settings.webhooks_enabled or not settings.is_july:
        return
    about = {} if event == name_event("nested", "completed") else {"session_id": session.session_id, **data}
    now = int(time.time())
    payload = {"service": _SERVICE, "event": event, "event_time": now, "transaction_id": session.session_id}
    body = {
        "business_id": BUSINESS_ID,
        "client_id": settings.traits.client_id,
        "service_id": _SERVICE,
        "event_id": event,
        "payload": {**payload, "data": about},
    }
    header, signing = settings.webhook_header, settings.webhook_sign
    for each in settings.webhook_endpoints:
        target = Target(each.url, each.secret, "nested", header, signing)
        for _ in range(settings.webhook_copies):
            vendor.spawn(_deliver(vendor, session, target, event, body))


def announce_document(vendor: VendorState, session: Session, document: Document) -> None:
    """Tell July's receivers of a document that was made; of one that failed it says nothing."""
    if document.status in {PENDING, "failure"}:
        return
    announce_event(
        vendor,
        session,
        "scribe.session.document.generated",
        document_id=document.document_id,
        template_id=document.template_id,
        status=document.status,
        source="background_agent",
    )


def _find_targets(vendor: VendorState, session: Session) -> list[Target]:
    settings, outcome, account = vendor.settings, session.status, session.account
    shape, header, signing = settings.webhook_shape, settings.webhook_header, settings.webhook_sign
    connect_shape: Shape = "v2" if shape == "protocol" else shape
    targets = [Target(each.url, each.secret, shape, header, signing) for each in settings.webhook_endpoints]
    targets += [
        Target(each["endpoint"], each.get("signing_key"), connect_shape, header, signing)
        for each in vendor.connect_subscriptions.values()
        if each["account"] == account and _wants(each.get("event_names"), name_event(connect_shape, outcome))
    ]
    targets += [
        Target(each["url"], each.get("secret"), "protocol", "X-MSA-Signature", signing)
        for each in vendor.protocol_webhooks.values()
        if each["account"] == account and _wants(each.get("events"), name_event("protocol", outcome))
    ]
    speaks_all = settings.webhook_all_outcomes or outcome == "completed"
    return [target for target in targets if speaks_all or target.shape == "protocol"]


def _wants(names: object, event: str) -> bool:
    return not isinstance(names, list) or not names or event in names or "*" in names


async def _deliver(
    vendor: VendorState, session: Session, target: Target, outcome: str, event: dict[str, Any]
) -> None:
    await asyncio.sleep(vendor.settings.webhook_delay_seconds)
    started = time.time()
    async with open_client(vendor.settings.webhook_timeout_seconds) as client:
        answer = await post_event(client, target, event)
    vendor.deliveries.append({
        "at": started,
        "url": target.url,
        "session_id": session.session_id,
        "shape": target.shape,
        "outcome": outcome,
        "duration_ms": (time.time() - started) * 1000,
        **answer,
    })  # fmt: skip
