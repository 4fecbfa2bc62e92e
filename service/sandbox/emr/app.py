"""A stand-in EMR: receives what the gateway sends, checks the signature by itself, answers as it is told."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from litestar import Litestar, Request, Response, get, post
from litestar.datastructures import State
from litestar.params import FromPath, FromQuery

from service.sandbox.vendor.control_bodies import read_struct
from service.sandbox.vendor.faults import abort_connection

_TOLERANCE_SECONDS = 300
EmrRequest = Request[Any, Any, State]


class Answer(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One answer to a delivery; mode "reset" cuts the connection instead. `times` deliveries get it."""

    status: int = 200
    headers: dict[str, str] = {}
    body: Any = msgspec.field(default_factory=lambda: {"received": True})
    delay_seconds: float = 0.0
    mode: Literal["respond", "reset"] = "respond"
    times: int = 1


class Behaviour(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Answers for the next deliveries to `/hooks/{name}` (None: to any), then `otherwise`, by default 200."""

    sequence: list[Answer] = []
    otherwise: Answer | None = None
    name: str | None = None


class Secrets(msgspec.Struct, forbid_unknown_fields=True):
    """The secrets whose signatures count as verified."""

    secrets: list[str]


@dataclass
class EmrState:
    """All that the stand-in EMR remembers."""

    secrets: list[str] = field(default_factory=list)
    received: list[dict[str, Any]] = field(default_factory=list)
    answers: dict[str | None, deque[Answer]] = field(default_factory=dict)
    otherwise: dict[str | None, Answer] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def choose_answer(self, name: str | None) -> Answer:
        """Use up the next answer for this hook."""
        for key in (name, None):
            queue = self.answers.get(key)
            if queue:
                return queue.popleft()
        return self.otherwise.get(name) or self.otherwise.get(None) or Answer()

    def announce_change(self) -> None:
        """Wake everyone who waits for deliveries."""
        self.changed.set()
        self.changed = asyncio.Event()


def verify_delivery(secrets: list[str], headers: dict[str, str], body: bytes) -> bool:
    """Whether one of the signatures fits one of the secrets (Standard Webhooks) and is at most 300 s off."""
    message_id, at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not message_id or not at.isdigit() or abs(time.time() - int(at)) > _TOLERANCE_SECONDS:
        return False
    given = [each.partition(",") for each in headers.get("webhook-signature", "").split()]
    signatures = [value for version, _, value in given if version == "v1"]
    for secret in secrets:
        try:
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            continue
        mac = hmac.new(key, f"{message_id}.{at}.".encode() + body, hashlib.sha256).digest()
        expected = base64.b64encode(mac)
        if any(hmac.compare_digest(expected, each.encode()) for each in signatures):
            return True
    return False


@post(["/hooks", "/hooks/{name:str}"], request_max_body_size=None)
async def receive_delivery(request: EmrRequest, name: FromPath[str | None] = None) -> Response[Any]:
    """Record one delivery and answer as told."""
    emr: EmrState = request.app.state.emr
    body, headers = await request.body(), dict(request.headers)
    answer = emr.choose_answer(name)
    entry = {
        "seq": len(emr.received) + 1,
        "at": time.time(),
        "name": name,
        "headers": headers,
        "body": _decode(body),
        "raw": body.decode("utf-8", "replace"),
        "verified": verify_delivery(emr.secrets, headers, body),
        "answered": None if answer.mode == "reset" else answer.status,
    }
    emr.received.append(entry)
    emr.announce_change()
    await asyncio.sleep(answer.delay_seconds)
    if answer.mode == "reset":
        await abort_connection(request.receive)
    content = answer.body if answer.status not in {204, 304} else None
    return Response(content, status_code=answer.status, headers=answer.headers)


@get("/_control/received")
async def list_received(
    request: EmrRequest,
    name: FromQuery[str | None] = None,
    type: FromQuery[str | None] = None,  # noqa: A002 - the query parameter's name
    webhook_id: FromQuery[str | None] = None,
    count: FromQuery[int] = 0,
    wait: FromQuery[float] = 0.0,
) -> list[dict[str, Any]]:
    """List what was received, oldest first; with `wait` (seconds), as soon as `count` entries match."""
    emr: EmrState = request.app.state.emr
    deadline = time.monotonic() + wait
    while True:
        changed = emr.changed
        found = [
            each
            for each in emr.received
            if name in {None, each["name"]}
            and (type is None or _type_of(each) == type)
            and webhook_id in {None, each["headers"].get("webhook-id")}
        ]
        left = deadline - time.monotonic()
        if len(found) >= count or left <= 0:
            return found
        try:
            await asyncio.wait_for(changed.wait(), left)
        except TimeoutError:
            continue


@post("/_control/secrets", status_code=200)
async def set_secrets(request: EmrRequest) -> dict[str, int]:
    """Replace the secrets."""
    data = await read_struct(request, Secrets)
    request.app.state.emr.secrets = data.secrets
    return {"secrets": len(data.secrets)}


@post("/_control/behaviour", status_code=200)
async def set_behaviour(request: EmrRequest) -> dict[str, int]:
    """Replace the planned answers of one hook, or of all that have none of their own."""
    data = await read_struct(request, Behaviour)
    emr: EmrState = request.app.state.emr
    planned = deque(answer for answer in data.sequence for _ in range(answer.times))
    emr.answers[data.name] = planned
    emr.otherwise.pop(data.name, None)
    if data.otherwise is not None:
        emr.otherwise[data.name] = data.otherwise
    return {"planned": len(planned)}


@post("/_control/reset", status_code=204)
async def reset(request: EmrRequest) -> None:
    """Forget deliveries and planned answers; the secrets stay."""
    emr: EmrState = request.app.state.emr
    emr.received.clear()
    emr.answers.clear()
    emr.otherwise.clear()
    emr.announce_change()


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.MsgspecError:
        return None


def _type_of(entry: dict[str, Any]) -> Any:
    body = entry["body"]
    return body.get("type") if isinstance(body, dict) else None


def create_emr(secret: str | None = None) -> Litestar:
    """Make the stand-in EMR: deliveries to `POST /hooks[/{name}]`, control under `/_control`."""
    emr = EmrState(secrets=[] if secret is None else [secret])
    return Litestar(
        route_handlers=[receive_delivery, list_received, set_secrets, set_behaviour, reset],
        state=State({"emr": emr}, deep_copy=False),
        openapi_config=None,
        logging_config=None,
    )
