"""Pages of the origins that the setting names may call the protocol's paths, and nobody else's."""

from __future__ import annotations

import pytest

from tests.support.bridge import Bridge, open_bridge
from tests.support.medscribe_clients import ORIGIN, envelope, login

ASKED = {
    "origin": ORIGIN,
    "access-control-request-method": "PATCH",
    "access-control-request-headers": "Authorization, content-type,flavour, x-timezone, msa-version, x-evil",
}


@pytest.mark.parametrize(
    "path",
    [
        "/voice/v1/sessions",
        "/voice/v1/sessions/ses_x/audio/1.mp3",
        "/voice/v1/uploads/ses_x",
        "/connect-auth/v1/account/login",
        "/.well-known/medscribealliance",
        "/voice/v1/nothing/here",
    ],
)
async def test_a_preflight_is_answered(house: Bridge, path: str) -> None:
    answer = await (await house.client(None)).options(path, headers=ASKED)
    assert answer.status_code == 204
    headers = answer.headers
    assert headers["access-control-allow-origin"] == ORIGIN
    assert headers["access-control-allow-credentials"] == "true"
    assert headers["vary"] == "Origin"
    assert set(headers["access-control-allow-methods"].split(", ")) == {"GET", "POST", "PATCH", "OPTIONS"}
    assert headers["access-control-allow-headers"] == (
        "authorization, content-type, flavour, x-timezone, msa-version"
    )
    assert int(headers["access-control-max-age"]) > 0


async def test_every_answer_is_marked_errors_too(house: Bridge) -> None:
    http = await house.client(None)
    for path, status, code in (
        ("/voice/v1/sessions/ses_x", 403, "missing_token"),
        ("/voice/v1/nothing/here", 404, "not_found"),
        ("/voice/v1/uploads/ses_x", 405, "method_not_allowed"),
    ):
        answer = await http.get(path, headers={"origin": ORIGIN})
        envelope(answer, status, code)
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert "Origin" in answer.headers["vary"]
    answer = await http.get("/.well-known/medscribealliance")
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["vary"] == "Origin"


STRANGERS = [
    "https://evil.example",
    "null",
    "https://emr.example.evil.example",
    "https://sub.emr.example",
    "http://emr.example",
    "https://emr.example:8443",
    "https://emr.example/",
    "*",
    "",
]


@pytest.mark.parametrize("origin", STRANGERS)
async def test_another_origin_is_let_in_nowhere(house: Bridge, origin: str) -> None:
    http = await house.client(None)
    answer = await http.options("/voice/v1/sessions", headers=ASKED | {"origin": origin})
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    for path in ("/voice/v1/sessions/ses_x", "/.well-known/medscribealliance"):
        answer = await http.get(path, headers={"origin": origin})
        assert not [name for name in answer.headers if name.startswith("access-control-")]
        assert "Origin" in answer.headers["vary"]


async def test_without_the_setting_no_page_is_let_in(database_url: str, redis_url: str) -> None:
    async with open_bridge(database_url, redis_url, voice_origins=()) as bridge:
        http = await bridge.client(None)
        answer = await http.options("/voice/v1/sessions", headers=ASKED)
        assert answer.status_code == 403
        answer = await http.get("/.well-known/medscribealliance", headers={"origin": ORIGIN})
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_v1_is_for_backends(house: Bridge) -> None:
    answer = await (await house.client(None)).options("/v1/sessions", headers=ASKED)
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    answer = await house.api.get("/v1/sessions", headers={"origin": ORIGIN})
    assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_login_from_a_page(house: Bridge) -> None:
    assert (await login(house)).status_code == 200
    answer = await (await house.client(None)).post(
        "/connect-auth/v1/account/login", json={}, headers={"origin": ORIGIN}
    )
    assert answer.status_code == 400
    assert answer.headers["access-control-allow-origin"] == ORIGIN
