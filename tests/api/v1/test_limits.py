"""What the vendor's discovery document lists decides what EMRs may send."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest

from tests.support.api_calls import invalid, problem, rows_of
from tests.support.bridge import Bridge, open_bridge, random_bytes
from tests.support.medscribe_clients import envelope

WELL_KNOWN = "medscribealliance$"
DOCUMENT = {
    "protocol": "medscribealliance",
    "capabilities": {
        "audio_formats": ["audio/webm; codecs=opus", "audio/flac"],
        "max_chunk_size_bytes": 100_000,
    },
    "models": [{"id": "pro", "languages": ["en", "fr"], "max_session_duration_seconds": 3600}],
    "languages": {"supported": ["en", "fr", "de"]},
}


@asynccontextmanager
async def open_with(
    database_url: str, redis_url: str, document: Any = DOCUMENT, **changes: Any
) -> AsyncIterator[Bridge]:
    """A bridge whose vendor has this discovery document."""
    async with open_bridge(database_url, redis_url, **changes) as bridge:
        await bridge.fault(
            WELL_KNOWN,
            status=200,
            body=document if isinstance(document, str) else json.dumps(document),
            headers={"content-type": "application/json"},
            times=None,
        )
        yield bridge


async def test_a_model_or_language_that_is_not_listed_is_refused_before_any_call(
    database_url: str, redis_url: str
) -> None:
    async with open_with(database_url, redis_url) as bridge:
        for body, field, allowed in (
            ({"model": "lite"}, "model", "pro"),
            ({"languages": ["en", "hi"]}, "languages", "en, fr"),
            ({"languages": ["de"]}, "languages", "en, fr"),
            ({"transcript_language": "hi"}, "transcript_language", "en, fr, de"),
        ):
            found = invalid(await bridge.api.post("/v1/sessions", json=body), field)
            assert found["errors"][0]["message"].endswith(f"allowed: {allowed}")
            keyed = await bridge.api.post("/v1/sessions", json=body, headers={"idempotency-key": field})
            invalid(keyed, field)
        assert await bridge.calls("/voice/v1/sessions") == 0
        assert await bridge.database.fetchval("SELECT count(*) FROM sessions") == 0
        for body in ({"languages": ["EN", "fr-CA"], "transcript_language": "de"}, {"languages": ["en-fr"]}):
            assert (await bridge.create(**body))["status"] == "created"
        assert await bridge.calls(WELL_KNOWN) == 1


async def test_a_tenant_s_default_that_the_vendor_dropped_is_named_too(
    database_url: str, redis_url: str
) -> None:
    async with open_with(database_url, redis_url) as bridge:
        other = await bridge.tenant("hindi", languages=["hi"])
        invalid(await other.post("/v1/sessions", json={}), "languages")
        assert (await other.post("/v1/sessions", json={"languages": ["fr"]})).status_code == 201


async def test_formats_are_those_that_are_listed_as_they_are_spelled(
    database_url: str, redis_url: str
) -> None:
    async with open_with(database_url, redis_url) as bridge:
        session = await bridge.create()
        found = problem(
            await bridge.put(session["id"], 0, media_type="audio/wav"), 415, "invalid_audio_format"
        )
        assert found["supported"] == ["audio/webm; codecs=opus", "audio/flac"]
        await bridge.put(session["id"], 0, media_type="audio/webm")
        await bridge.put(session["id"], 1, media_type="Audio/x-FLAC")
        await bridge.put(session["id"], 1, media_type="Audio/FLAC")
        calls = (await bridge.vendor.get("/_control/calls", params={"path_regex": "/audio/"})).json()
        assert [each["headers"]["content-type"] for each in calls] == [
            "audio/webm; codecs=opus",
            "audio/flac",
        ]
        assert [each["path"].rsplit("/", 1)[1] for each in calls] == ["audio_0.webm", "audio_1.flac"]


@pytest.mark.parametrize(("theirs", "ours", "most"), [(100_000, 200_000, 100_000), (200_000, 80_000, 80_000)])
async def test_a_chunk_is_as_large_as_both_allow(
    database_url: str, redis_url: str, theirs: int, ours: int, most: int
) -> None:
    document = {"capabilities": {"max_chunk_size_bytes": theirs}}
    async with open_with(database_url, redis_url, document, chunk_max_bytes=ours) as bridge:
        session = await bridge.create()
        problem(await bridge.put(session["id"], 0, random_bytes(most + 1)), 413, "chunk_too_large")
        assert (await bridge.put(session["id"], 0, random_bytes(most))).status_code == 200


@pytest.mark.parametrize("document", ["<html>", "[]", "{}", '{"models": 7, "languages": {"supported": []}}'])
async def test_a_document_that_says_nothing_judges_nothing(
    database_url: str, redis_url: str, document: str
) -> None:
    async with open_with(database_url, redis_url, document) as bridge:
        session = await bridge.create(model="lite", languages=["fr"], transcript_language="xx")
        assert (await bridge.put(session["id"], 0, media_type="audio/mpeg")).status_code == 200
        found = problem(
            await bridge.put(session["id"], 1, media_type="audio/flac"), 415, "invalid_audio_format"
        )
        assert "audio/mp3" in found["supported"]


async def test_a_discovery_that_hangs_delays_the_first_call_alone_and_briefly(
    database_url: str, redis_url: str
) -> None:
    async with open_bridge(database_url, redis_url) as bridge:
        await bridge.fault(WELL_KNOWN, mode="hang", times=None)
        started = monotonic()
        sessions = await asyncio.gather(*(bridge.create(languages=["xx"]) for _ in range(5)))
        assert monotonic() - started < 3
        started = monotonic()
        assert (await bridge.put(sessions[0]["id"], 0)).status_code == 200
        assert (await bridge.create(languages=["xx"]))["status"] == "created"
        assert monotonic() - started < 1
        assert await bridge.calls(WELL_KNOWN) == 1


async def test_nothing_is_asked_of_the_vendor_before_an_emr_comes(bridge: Bridge) -> None:
    assert (await bridge.api.get("/health/ready")).status_code == 200
    assert (await bridge.api.get("/v1/sessions")).status_code == 200
    assert await bridge.calls(WELL_KNOWN) == 0


# What a server on premises offers (July 2026 says the same with more languages).
ON_PREMISES = {
    "capabilities": {"upload_methods": ["chunked"]},
    "languages": {"supported": ["en", "hi"], "auto_detection": False},
}


async def test_a_way_of_sending_audio_that_is_not_offered_is_refused_before_any_call(
    database_url: str, redis_url: str
) -> None:
    async with open_with(database_url, redis_url, ON_PREMISES) as bridge:
        found = problem(
            await bridge.api.post("/v1/sessions", json={"upload": "stream"}), 400, "upload_not_supported"
        )
        assert found["errors"][0]["field"] == "upload"
        assert found["detail"].endswith("allowed: chunked")
        for method in ("stream", "single"):
            asked = {"upload_type": method, "communication_protocol": "http"}
            answer = await bridge.api.post("/voice/v1/sessions", json=asked)
            envelope(answer, 400, "upload_not_supported")
            assert answer.json()["error"]["message"].startswith("Field 'body -> upload_type'")
        assert await bridge.calls("/voice/v1/sessions") == 0
        assert await rows_of(bridge) == []
        ours = (await bridge.api.get("/voice/v1/.well-known/medscribealliance")).json()
        assert ours["capabilities"]["upload_methods"] == ["chunked"]
        assert (await bridge.create())["status"] == "created"


async def test_before_discovery_is_known_a_stream_is_taken_and_a_500_loses_nothing(
    database_url: str, redis_url: str
) -> None:
    """A server on premises answers a create with 500 and has made the session (docs/vendor.md#create-500)."""
    async with open_bridge(database_url, redis_url) as bridge:
        await bridge.fault(WELL_KNOWN, status=500, times=None)
        failed = {"status": "failed", "error": {"code": "unexpected_error", "message": "An error"}}
        await bridge.fault("/sessions$", method="POST", status=500, body=failed, when="after")
        session = await bridge.create(upload="stream")
        assert await bridge.calls("/sessions$", "POST") == 1
        assert (await bridge.seen(session["id"]))["creates"] == 1


async def test_detection_of_the_language_is_sent_where_it_is_offered_alone(
    database_url: str, redis_url: str
) -> None:
    async with open_with(database_url, redis_url, ON_PREMISES) as bridge:
        for languages in (["auto_detect"], ["en", "auto_detect"]):
            found = invalid(await bridge.api.post("/v1/sessions", json={"languages": languages}), "languages")
            assert found["errors"][0]["message"].endswith("allowed: en, hi")
        session = await bridge.create(languages=["en"])
        url = f"/v1/sessions/{session['id']}"
        invalid(await bridge.api.patch(url, json={"languages": ["auto_detect"]}), "languages")
        assert await bridge.calls("/sessions/", "PATCH") == 0
    offered = ON_PREMISES | {"languages": {"supported": ["en"], "auto_detection": True}}
    async with open_with(database_url, redis_url, offered) as bridge:
        session = await bridge.create(languages=["auto_detect"])
        assert session["languages"] == ["auto_detect"]
        assert (await bridge.seen(session["id"]))["languages"] == ["auto_detect"]
        invalid(await bridge.api.post("/v1/sessions", json={"transcript_language": "auto_detect"}))


async def test_templates_do_not_change_at_a_server_that_makes_only_those_of_the_create_call(
    database_url: str, redis_url: str
) -> None:
    async with open_with(database_url, redis_url, ON_PREMISES) as bridge:
        session = await bridge.create(templates=["a_template", "b_template"])
        url = f"/v1/sessions/{session['id']}"
        for templates in (["c_template"], ["a_template"], ["a_template", "c_template"]):
            body = {"templates": templates, "languages": ["hi"]}
            problem(await bridge.api.patch(url, json=body), 409, "templates_fixed")
        assert await bridge.calls("/sessions/", "PATCH") == 0
        assert await bridge.session(session["id"]) == session
        same = {"templates": ["b_template", "a_template"]}
        assert (await bridge.api.patch(url, json=same)).json() == session
        assert await bridge.calls("/sessions/", "PATCH") == 0
        changed = (await bridge.api.patch(url, json=same | {"languages": ["hi"]})).json()
        assert changed == session | {"languages": ["hi"]}
        seen = await bridge.seen(session["id"])
        assert (seen["templates"], seen["languages"]) == (["a_template", "b_template"], ["hi"])
        voice = await bridge.api.patch(f"/voice{url}", json={"templates": ["c_template"]})
        envelope(voice, 409, "templates_fixed")
