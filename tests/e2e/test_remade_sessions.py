"""A dictation whose session is lost at EkaScribe is made again there, once, from audio that is kept here."""

import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.bootstrap.container import open_stores
from service.domain.ids import TenantId
from service.domain.tenants.changes import Tenants
from tests.support.api_calls import clear_faults, hook, v2_event
from tests.support.bridge import Bridge, open_bridge
from tests.support.rig import until

AWAY = {"mode": "reset", "times": None}


@pytest.fixture
async def bridge(database_url: str, redis_url: str) -> AsyncIterator[Bridge]:
    settings: dict[str, Any] = {"keep_audio": "until_result", "reconcile_after_seconds": 0.2}
    async with open_bridge(database_url, redis_url, **settings) as opened:
        await opened.add_destination()
        yield opened


async def begin(bridge: Bridge, *, chunks: int = 2) -> str:
    """Create a session and send its audio."""
    session = await bridge.create()
    for sequence in range(chunks):
        answer = await bridge.put(session["id"], sequence, f"audio {sequence}".encode())
        assert (answer.status_code, answer.json()["state"]) == (200, "stored")
    return str(session["id"])


async def vendor_id(bridge: Bridge, session_id: str) -> str | None:
    query = "SELECT vendor_session_id FROM sessions WHERE id = $1"
    found: str | None = await bridge.database.fetchval(query, session_id)
    return found


async def remade_id(bridge: Bridge, session_id: str) -> str:
    """Wait until the session has another id at the vendor."""
    found: str = await until(lambda: vendor_id(bridge, session_id))
    return found


async def kept_bytes(bridge: Bridge) -> int:
    return int(await bridge.database.fetchval("SELECT coalesce(sum(bytes), 0) FROM audio_blocks"))


async def reasons(bridge: Bridge, session_id: str) -> list[str]:
    """The reasons of the remakes in the timeline."""
    entries = (await bridge.api.get(f"/v1/sessions/{session_id}/timeline")).json()["items"]
    return [each["data"]["reason"] for each in entries if each["type"] == "session.remade"]


async def assert_done_once(bridge: Bridge, session_id: str, again: str, *, chunks: int = 2) -> None:
    """The EMR has one document under the first id, and nothing was done twice in either vendor session."""
    await bridge.reach(session_id, "completed")
    received = await bridge.received(1)
    assert [each["body"]["type"] for each in received] == ["document.ready"]
    assert received[0]["body"]["data"]["session_id"] == session_id
    assert again not in json.dumps([each["body"] for each in received])
    for each in (session_id, again):
        assert await bridge.calls(f"/sessions/{each}/end$", "POST") == 1
    assert await bridge.calls("/voice/v1/sessions$", "POST") == 2
    files = {file["name"]: file["sha256"] for file in (await bridge.seen(again))["files"]}
    assert files == {f"{n}.wav": hashlib.sha256(f"audio {n}".encode()).hexdigest() for n in range(chunks)}
    assert await bridge.database.fetchval("SELECT count(*) FROM deliveries") == 1
    assert await kept_bytes(bridge) == 0


@pytest.mark.parametrize(("outcome", "reason"), [("failed", "vendor_failed"), ("expired", "session_expired")])
async def test_a_session_that_ends_badly_at_the_vendor_is_made_again(
    bridge: Bridge, outcome: str, reason: str
) -> None:
    session_id = await begin(bridge)
    assert await kept_bytes(bridge) == len(b"audio 0audio 1")
    stored = await bridge.database.fetch("SELECT data_sealed FROM audio_blocks")
    assert not any(b"audio" in row["data_sealed"] for row in stored)
    await bridge.vendor_settings(outcomes={session_id: outcome})
    assert (await bridge.end(session_id, chunks=2)).status_code == 202
    await bridge.start_worker()
    again = await remade_id(bridge, session_id)
    await assert_done_once(bridge, session_id, again)
    assert await reasons(bridge, session_id) == [reason]


async def test_a_session_with_fewer_files_at_the_vendor_is_made_again(bridge: Bridge) -> None:
    session_id = await begin(bridge)
    body = {"session_id": session_id, "status": "processing", "audio_files": ["s3://v/x/0.wav"]}
    await bridge.fault(f"{session_id}/end$", status=202, body=json.dumps(body), when="after")
    ended = await bridge.end(session_id, chunks=2)
    assert (ended.status_code, ended.json()["status"], ended.json()["warnings"]) == (202, "processing", [])
    again = await vendor_id(bridge, session_id)
    assert again is not None
    await bridge.start_worker()
    await assert_done_once(bridge, session_id, again)
    assert await reasons(bridge, session_id) == ["audio_incomplete"]
    assert (await bridge.session(session_id))["warnings"] == []


async def test_a_second_failure_ends_it(bridge: Bridge) -> None:
    session_id = await begin(bridge)
    await bridge.vendor_settings(outcome="failed")
    assert (await bridge.end(session_id, chunks=2)).status_code == 202
    await bridge.start_worker()
    failed = await bridge.reach(session_id, "failed")
    assert failed["error"]["code"] == "vendor_failed"
    (delivery,) = await bridge.received(1)
    assert delivery["body"]["type"] == "session.failed"
    assert await bridge.calls("/voice/v1/sessions$", "POST") == 2
    assert await kept_bytes(bridge) > 0


async def test_webhooks_of_the_replaced_session_are_ignored_and_those_of_the_new_one_work(
    database_url: str, redis_url: str
) -> None:
    # The schedule would fetch after an hour: only a webhook brings the document sooner.
    settings: dict[str, Any] = {"keep_audio": "until_result", "reconcile_after_seconds": 3600.0}
    async with open_bridge(database_url, redis_url, **settings) as bridge:
        await bridge.add_destination()
        session_id = await begin(bridge)
        await bridge.vendor_settings(webhooks_enabled=False)
        body = {"session_id": session_id, "status": "processing", "audio_files": []}
        await bridge.fault(f"{session_id}/end$", status=202, body=json.dumps(body), when="after")
        assert (await bridge.end(session_id, chunks=2)).status_code == 202
        again = await remade_id(bridge, session_id)
        await bridge.start_worker()

        async def is_ended_there() -> bool:
            return await bridge.calls(f"/sessions/{again}/end$", "POST") == 1

        await until(is_ended_there)
        looks = await bridge.calls(f"/sessions/{again}$", "GET")
        for event in ("v2rx.completed", "v2rx.failed"):
            old = await hook(bridge, v2_event(session_id, event))
            assert (old.status_code, old.json()["status"]) == (200, "ignored")
        assert await bridge.calls(f"/sessions/({again}|{session_id})$", "GET") == looks
        new = await hook(bridge, v2_event(again))
        assert new.json()["status"] == "accepted"
        await assert_done_once(bridge, session_id, again)
        assert (await hook(bridge, v2_event(again))).json()["status"] == "duplicate"


async def test_without_kept_audio_a_missing_file_is_warned_of(database_url: str, redis_url: str) -> None:
    async with open_bridge(database_url, redis_url) as bridge:
        session_id = await begin(bridge)
        assert await kept_bytes(bridge) == 0
        body = {"session_id": session_id, "status": "processing", "audio_files": ["s3://v/x/0.wav"]}
        await bridge.fault(f"{session_id}/end$", status=202, body=json.dumps(body), when="after")
        (warning,) = (await bridge.end(session_id, chunks=2)).json()["warnings"]
        assert (warning["code"], warning["missing"]) == ("audio_incomplete", [1])
        assert await vendor_id(bridge, session_id) is None


async def test_a_tenant_s_own_choice_wins_over_the_setting(database_url: str, redis_url: str) -> None:
    async with open_bridge(database_url, redis_url) as bridge:
        async with open_stores(bridge.settings) as stores:
            tenants = Tenants(stores.tenants)
            assert (await tenants.change_keep_audio(bridge.tenant_id, "7")).keep_audio == "7"
        await begin(bridge)
        assert await kept_bytes(bridge) > 0
        other = await bridge.tenant()
        session = (await other.post("/v1/sessions", json={})).json()
        sent = await other.put(
            f"/v1/sessions/{session['id']}/audio/0",
            content=b"of another",
            headers={"content-type": "audio/wav"},
        )
        assert sent.status_code == 200
        query = "SELECT count(*) FROM audio_blocks WHERE tenant_id <> $1"
        assert await bridge.database.fetchval(query, TenantId(bridge.tenant_id)) == 0


async def test_held_audio_whose_session_is_gone_goes_to_a_new_one(database_url: str, redis_url: str) -> None:
    async with open_bridge(database_url, redis_url) as bridge:
        await bridge.add_destination()
        session = await bridge.create()
        session_id = session["id"]
        await bridge.fault("/voice/v1/", **AWAY)
        for sequence in range(2):
            held = await bridge.put(session_id, sequence, f"audio {sequence}".encode())
            assert held.json()["state"] == "held"
        assert (await bridge.end(session_id, chunks=2)).status_code == 202
        await clear_faults(bridge)
        gone = {"error": {"code": "session_not_found", "message": "gone"}}
        await bridge.fault(f"{session_id}/audio/", status=404, body=json.dumps(gone), times=None)
        await bridge.start_worker()
        again = await remade_id(bridge, session_id)
        await bridge.reach(session_id, "completed")
        assert await reasons(bridge, session_id) == ["vendor_session_missing"]
        assert len((await bridge.seen(again))["files"]) == 2
        (delivery,) = await bridge.received(1)
        assert delivery["body"]["type"] == "document.ready"


async def test_a_chunk_that_is_refused_when_it_is_handed_over_is_missing(bridge: Bridge) -> None:
    session = await bridge.create()
    await bridge.fault("/voice/v1/", **AWAY)
    for sequence in range(2):
        assert (await bridge.put(session["id"], sequence)).json()["state"] == "held"
    assert (await bridge.end(session["id"], chunks=2)).status_code == 202
    await clear_faults(bridge)
    refusal = {"error": {"code": "invalid_audio_format", "message": "no audio"}}
    await bridge.fault("/audio/audio_1", status=415, body=json.dumps(refusal), times=None)
    await bridge.start_worker()
    done = await bridge.reach(session["id"], "completed")
    (delivery,) = await bridge.received(1)
    for warnings in (done["warnings"], delivery["body"]["data"]["warnings"]):
        assert [(each["code"], each["missing"]) for each in warnings] == [("audio_incomplete", [1])]
    assert await bridge.calls("/voice/v1/sessions$", "POST") == 1
    assert await kept_bytes(bridge) == 2 * len(b"audio")  # it can be exported


async def test_a_worker_that_dies_in_between_leaves_it_to_the_next(bridge: Bridge) -> None:
    session_id = await begin(bridge)
    body = {"session_id": session_id, "status": "processing", "audio_files": []}
    await bridge.fault(f"{session_id}/end$", status=202, body=json.dumps(body), when="after")
    assert (await bridge.end(session_id, chunks=2)).status_code == 202
    again = await remade_id(bridge, session_id)
    row = await bridge.database.fetchrow("SELECT owed, owed_lease, held_since, status FROM sessions")
    assert (row["owed"], row["owed_lease"], row["status"]) == ("create", None, "processing")
    assert row["held_since"] is not None
    # A worker created it and died with its lease, before it recorded that.
    await bridge.fault("/voice/v1/sessions$", when="after", **AWAY)
    worker = await bridge.start_worker()

    async def is_created() -> bool:
        return await bridge.calls("/voice/v1/sessions$", "POST") >= 2

    await until(is_created)
    await worker.stop()
    await clear_faults(bridge)
    await bridge.database.execute(
        "UPDATE sessions SET owed_lease = gen_random_uuid(), owed_next_at = now() - interval '1 second'"
        " WHERE owed = 'create'"
    )
    await bridge.start_worker()
    await assert_done_once(bridge, session_id, again)


async def test_an_erasure_meanwhile_takes_the_audio_and_cancels_the_new_session(bridge: Bridge) -> None:
    session_id = await begin(bridge)
    body = {"session_id": session_id, "status": "processing", "audio_files": []}
    await bridge.fault(f"{session_id}/end$", status=202, body=json.dumps(body), when="after")
    assert (await bridge.end(session_id, chunks=2)).status_code == 202
    again = await remade_id(bridge, session_id)
    assert (await bridge.api.delete(f"/v1/sessions/{session_id}")).status_code == 202
    assert await kept_bytes(bridge) == 0
    await bridge.start_worker()

    async def is_settled() -> bool:
        return await bridge.database.fetchval("SELECT owed FROM sessions") is None

    await until(is_settled)
    assert await bridge.calls(f"/sessions/{again}/audio/", "POST") == 0
    assert await bridge.calls(f"/sessions/{again}$", "PATCH") == 1
    assert (await bridge.api.get(f"/v1/sessions/{session_id}")).status_code == 410
    assert await bridge.database.fetchval("SELECT count(*) FROM deliveries") == 0
