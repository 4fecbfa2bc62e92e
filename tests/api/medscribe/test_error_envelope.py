"""Errors in the protocol's own envelope, everywhere below its paths and nowhere else."""

from __future__ import annotations

import pytest

from tests.support.api_calls import problem
from tests.support.bridge import Bridge
from tests.support.medscribe_clients import envelope

PATHS = [
    "/voice",
    "/voice/",
    "/voice/v1",
    "/voice/v1/webhooks",
    "/voice/v2/sessions",
    "/voice/v1/sessions/a/b/c",
]


@pytest.mark.parametrize("path", PATHS)
async def test_an_unknown_path_is_404_in_the_envelope(house: Bridge, path: str) -> None:
    envelope(await house.api.get(path), 404, "not_found")


async def test_the_login_s_side_has_its_own(house: Bridge) -> None:
    answer = await house.api.get("/connect-auth/v1/account/nothing")
    assert answer.status_code == 404
    assert set(answer.json()) == {"code", "error"}
    assert answer.json()["code"] == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/voice/v1/sessions/ses_x"),
        ("PUT", "/voice/v1/sessions/ses_x/audio/0.wav"),
        ("GET", "/voice/v1/sessions"),
        ("POST", "/voice/v1/.well-known/medscribealliance"),
    ],
)
async def test_a_method_that_is_not_there_is_405(house: Bridge, method: str, path: str) -> None:
    envelope(await house.api.request(method, path), 405, "method_not_allowed")


async def test_a_large_body_is_413(house: Bridge) -> None:
    answer = await house.api.post("/voice/v1/sessions", content=b" " * 70_000)
    envelope(answer, 413, "body_too_large")


async def test_the_vendor_s_failures_keep_their_status(house: Bridge) -> None:
    session = await house.create()
    url = f"/voice/v1/sessions/{session['id']}/audio/audio_0.wav"
    await house.fault("/audio/", method="POST", status=403, times=9)
    envelope(await house.api.post(url, content=b"RIFF"), 502, "vendor_error")
    await house.vendor.delete("/_control/faults")
    await house.fault(f"{session['id']}$", method="PATCH", status=429, times=9, headers={"retry-after": "30"})
    answer = await house.api.patch(f"/voice/v1/sessions/{session['id']}", json={"language_hint": ["hi"]})
    envelope(answer, 503, "vendor_unavailable")
    assert answer.headers["retry-after"] == "30"


async def test_our_own_login_at_the_vendor_is_not_the_client_s(house: Bridge) -> None:
    await house.fault("/sessions$", method="POST", status=403, times=9)
    body = {"upload_type": "chunked", "communication_protocol": "http"}
    error = envelope(await house.api.post("/voice/v1/sessions", json=body), 502, "vendor_error")
    assert error["details"]["vendor_status"] == 403


async def test_the_other_doors_speak_as_before(house: Bridge) -> None:
    problem(await house.api.get("/v1/sessions/ses_nope_nope_nope"), 404, "not_found")
    problem(await house.api.get("/nothing/voice/v1"), 404, "not_found")
    problem(await house.api.get("/voices"), 404, "not_found")
