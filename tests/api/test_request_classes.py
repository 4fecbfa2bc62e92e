"""Another spelling of a path or a query moves no request into another class, and out of no rule."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from tests.support.api_calls import request_head, until, wire
from tests.support.bridge import Bridge

KINDS = ("reads", "calls", "uploads", "webhooks", "waits", "strangers")


def in_work() -> dict[str, float]:
    """How many requests of each class are in work, those of none left out."""
    found = {
        kind: REGISTRY.get_sample_value("ekabridge_requests_in_work", {"kind": kind}) or 0.0 for kind in KINDS
    }
    return {kind: count for kind, count in found.items() if count}


HELD = [
    ("GET", "/v1/sessions/{id}/events", "waits"),
    ("GET", "/v1/sessions/{id}/events/", "waits"),
    ("GET", "//v1//sessions/{id}/events", "waits"),
    ("GET", "/v1/sessions/{id}/%65vents", "waits"),
    ("GET", "/v1/sessions/{id}?wait=9", "waits"),
    ("GET", "/v1/sessions/{id}/?wait=9", "waits"),
    ("GET", "/v1/sessions/{id}?%77ait=9", "waits"),
    ("GET", "/v1/sessions/{id}?&wait=9", "waits"),
    ("PUT", "/v1/sessions/{id}/audio/0", "uploads"),
    ("PUT", "//v1/sessions/{id}/audio/0", "uploads"),
    ("PUT", "/v1/sessions/{id}/audio/0/", "uploads"),
    ("PUT", "/v1/sessions/{id}/%61udio/0", "uploads"),
    ("POST", "/voice/v1/sessions/{id}//audio/0.wav", "uploads"),
    # Their senders are known when the form's fields, or the whole body, are here.
    ("POST", "/voice//v1/uploads/{id}", "strangers"),
    ("POST", "/webhooks//eka", "strangers"),
    ("POST", "//webhooks/eka/ten_1/", "strangers"),
    ("POST", "/v1/recordings", "uploads"),
    ("POST", "//v1/%72ecordings/", "uploads"),
    ("POST", "/v1/sessions/", "calls"),
]


@pytest.mark.parametrize(("method", "path", "kind"), HELD)
async def test_a_request_has_the_class_of_its_route(house: Bridge, method: str, path: str, kind: str) -> None:
    session = await house.create()
    await until(no_work)
    # A request that stays: a wait, or a body that does not come.
    is_form = "/uploads/" in path or "ecordings" in path
    content_type = "multipart/form-data; boundary=b" if is_form else "audio/wav"
    more = {} if method == "GET" else {"Content_Length": "10", "Content_Type": content_type}
    async with wire(house.url) as client:
        await client.send(request_head(house, method, path.format(id=session["id"]), **more))
        if method != "GET":
            await client.send(b"abc")
        await until(some_work)
        assert in_work() == {kind: 1}


async def no_work() -> bool:
    return not in_work()


async def some_work() -> bool:
    return bool(in_work())


@pytest.mark.parametrize("path", ["/v1/sessions", "//v1/sessions", "/v1//sessions/", "/%76%31/sessions"])
async def test_what_a_tenant_reads_is_stored_by_nobody_in_between(house: Bridge, path: str) -> None:
    async with wire(house.url) as client:
        await client.send(request_head(house, "GET", path))
        answer = await client.answer()
    assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")


@pytest.mark.parametrize("path", ["//voice/v1/sessions/ses_x", "/voice//v1/sessions/ses_x/", "//voice/v1/no"])
async def test_the_protocol_s_errors_keep_its_envelope_and_its_rules_for_browsers(
    house: Bridge, path: str
) -> None:
    async with wire(house.url) as client:
        await client.send(request_head(house, "GET", path, Origin="https://emr.example"))
        answer = await client.answer()
    assert (answer.status, set(answer.json())) == (404, {"error"})
    assert answer.headers["access-control-allow-origin"] == "https://emr.example"
    assert answer.headers["msa-version"] == "0.1"
