"""The discovery document: what official clients demand of it, and our own addresses in it."""

from __future__ import annotations

import json

import pytest

from tests.api.voice.clients import no_nulls
from tests.bridge import Bridge

PATHS = [
    "/.well-known/medscribealliance",
    "/voice/.well-known/medscribealliance",
    "/voice/v1/.well-known/medscribealliance",
]


@pytest.mark.parametrize("path", PATHS)
async def test_it_holds_what_official_clients_demand(house: Bridge, path: str) -> None:
    answer = await (await house.client(None)).get(path)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "max-age=10800"
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    assert (found["protocol"], found["protocol_version"]) == ("medscribealliance", "0.1")
    assert found["endpoints"] == {"base_url": f"{house.url}/voice/v1"}
    assert found["authentication"]["supported_methods"] == ["api_key"]
    assert "audio/webm;codecs=opus" in found["capabilities"]["audio_formats"]
    assert found["capabilities"]["max_chunk_duration_seconds"] > 0
    assert {"chunked", "stream"} <= set(found["capabilities"]["upload_methods"])
    assert "en" in found["languages"]["supported"]
    durations = {model["id"]: model["max_session_duration_seconds"] for model in found["models"]}
    assert durations == {"lite": 600, "pro": 3600}
    assert no_nulls(found)


async def test_no_address_of_the_vendor_is_in_it(house: Bridge) -> None:
    found = (await (await house.client(None)).get(PATHS[2])).text
    assert house.vendor_url not in found
    assert "upstream" not in found
    assert json.loads(found)["endpoints"]["base_url"][-1] != "/"
