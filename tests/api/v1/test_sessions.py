"""GET of sessions, timelines and documents: from our own rows, and waiting without asking the vendor."""

import asyncio
import time
from datetime import datetime
from typing import Any

import pytest

from tests.support.api_calls import invalid, problem, request_head, until, wire
from tests.support.bridge import Bridge


async def test_reading_never_calls_the_vendor(house: Bridge) -> None:
    session_id = await house.dictate()
    calls = await house.calls(session_id)
    await house.fault(".*", times=None, mode="reset")
    for path in ("", "?wait=0.1", "/timeline", "/documents"):
        assert (await house.api.get(f"/v1/sessions/{session_id}{path}")).status_code == 200
    assert (await house.api.get("/v1/sessions")).status_code == 200
    assert await house.calls(session_id) == calls


async def test_waiting_ends_when_the_status_changes(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    # The vendor takes its time, so that all wait before the status changes.
    await house.fault(f"{session_id}/audio", delay_seconds=0.7)
    started = time.monotonic()
    waiters = [
        asyncio.create_task(house.api.get(f"/v1/sessions/{session_id}", params={"wait": 20}))
        for _ in range(5)
    ]
    await house.put(session_id, 0)
    answers = await asyncio.gather(*waiters)
    assert time.monotonic() - started < 4
    assert {answer.json()["status"] for answer in answers} == {"recording"}


async def test_waiting_in_vain_ends_in_time(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    started = time.monotonic()
    answer = await house.api.get(f"/v1/sessions/{session_id}", params={"wait": 0.5})
    assert 0.4 < time.monotonic() - started < 2
    assert answer.status_code == 200
    assert answer.json()["status"] == "created"


@pytest.mark.parametrize("status", ["completed", "partial", "failed", "expired", "cancelled"])
async def test_nobody_waits_for_what_is_over(house: Bridge, status: str) -> None:
    session_id = (await house.create())["id"]
    await house.database.execute(
        "UPDATE sessions SET status = $2, settled_at = now() WHERE id = $1", session_id, status
    )
    started = time.monotonic()
    answer = await house.api.get(f"/v1/sessions/{session_id}", params={"wait": 20})
    assert time.monotonic() - started < 2
    assert answer.json()["status"] == status


@pytest.mark.parametrize(
    "wait", ["31", "30.001", "-1", "-0.001", "x", "", "nan", "inf", "-inf", "1e400", "%00"]
)
async def test_a_senseless_wait_is_refused(house: Bridge, wait: str) -> None:
    session_id = (await house.create())["id"]
    invalid(await house.api.get(f"/v1/sessions/{session_id}?wait={wait}"), "wait")


@pytest.mark.parametrize(
    "name", ["ses_nosuchsession00000", "%00", "a%00b", "%FF", "s" * 5000, "%F0%9F%98%80"]
)
@pytest.mark.parametrize(
    "path", ["sessions/{}", "sessions/{}/timeline", "sessions/{}/documents", "documents/{}"]
)
async def test_an_unknown_id_is_not_found(house: Bridge, name: str, path: str) -> None:
    problem(await house.api.get(f"/v1/{path.format(name)}"), 404, "not_found")


async def test_a_template_filter_of_nothing_finds_nothing(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    for template_id in ("eka_emr_template", "nothing", "", "%FF", "t" * 3000, "a%00b", "%00"):
        answer = await house.api.get(f"/v1/sessions/{session_id}/documents?template_id={template_id}")
        if answer.status_code == 400 and "%00" in template_id:
            invalid(answer, "template_id")
            continue
        assert answer.status_code == 200, (template_id, answer.text)
        assert answer.json() == {"items": [], "next_cursor": None}


async def test_a_dictation_from_its_start_to_its_documents(bridge: Bridge) -> None:
    await bridge.vendor_settings(webhook_all_outcomes=True)
    await bridge.add_destination()
    await bridge.start_worker()
    session_id = await bridge.dictate(templates=["a_template", "fail_b"], reference="ENC-1")
    ended = await bridge.session(session_id)
    session = await bridge.reach(session_id, "partial", "completed", "failed")
    await bridge.received(2)
    assert session["status"] == "partial"
    assert session["transcript"].startswith("Received 2 audio files")
    assert session["completed_at"] >= session["ended_at"] == ended["ended_at"]
    summaries = {document["template_id"]: document for document in session["documents"]}
    assert {name: each["status"] for name, each in summaries.items()} == {
        "a_template": "success",
        "fail_b": "failed",
    }

    documents = (await bridge.api.get(f"/v1/sessions/{session_id}/documents")).json()
    assert documents["next_cursor"] is None
    for document in documents["items"]:
        assert set(document) == {
            "id", "session_id", "reference", "template_id", "type", "status", "data", "error", "warnings",
            "version", "upstream_id", "received_at",
        }  # fmt: skip
        assert (document["session_id"], document["reference"]) == (session_id, "ENC-1")
        assert document["version"] == 1
        assert document["id"] == summaries[document["template_id"]]["id"]
        one = await bridge.api.get(f"/v1/documents/{document['id']}")
        assert one.json() == document
    by_template = {document["template_id"]: document for document in documents["items"]}
    assert by_template["a_template"]["data"]
    assert by_template["a_template"]["error"] is None
    assert by_template["fail_b"]["data"] is None
    assert set(by_template["fail_b"]["error"]) == {"code", "message", "vendor_code"}
    narrowed = await bridge.api.get(
        f"/v1/sessions/{session_id}/documents", params={"template_id": "a_template"}
    )
    assert narrowed.json()["items"] == [by_template["a_template"]]

    await everything_is_on_the_timeline(bridge, session_id)

    calls = await bridge.calls(session_id)
    again = await bridge.end(session_id)
    assert again.status_code == 202
    assert again.json()["status"] == "partial"
    assert await bridge.calls(session_id) == calls
    stranger = await bridge.tenant()
    for document in documents["items"]:
        problem(await stranger.get(f"/v1/documents/{document['id']}"), 404, "not_found")


async def everything_is_on_the_timeline(bridge: Bridge, session_id: str) -> None:
    deadline = time.monotonic() + 5
    while True:
        entries: list[dict[str, Any]] = (await bridge.api.get(f"/v1/sessions/{session_id}/timeline")).json()[
            "items"
        ]
        types = [entry["type"] for entry in entries]
        if types.count("delivery.delivered") == 2 or time.monotonic() > deadline:
            break
    assert types[:4] == ["session.created", "chunk.stored", "chunk.stored", "session.ended"]
    assert types.count("webhook.received") == 1
    assert types.count("result.fetched") == 3  # of each template, and of the failure's reason
    assert types.count("document.received") == 2
    assert types.count("delivery.attempted") == 2
    assert types.count("delivery.delivered") == 2
    assert types.count("session.partial") == 1
    times = [datetime.fromisoformat(entry["at"]) for entry in entries]
    assert times == sorted(times)
    assert all(entry["at"].endswith("Z") for entry in entries)
    assert [entry["data"]["sequence"] for entry in entries if entry["type"] == "chunk.stored"] == [0, 1]


async def test_whoever_hangs_up_is_not_waited_for(house: Bridge) -> None:
    session = await house.create()
    name = 'ekabridge_http_requests_total{method="GET",route="/v1/sessions/{session_id}",status="499"}'

    async def given_up() -> list[str]:
        told = (await house.api.get("/metrics")).text.splitlines()
        return [line for line in told if line.startswith(name)]

    before = await given_up()
    async with wire(house.url) as client:
        await client.send(request_head(house, "GET", f"/v1/sessions/{session['id']}?wait=30"))

    async def is_let_go() -> bool:
        return await given_up() != before

    await until(is_let_go, seconds=5)
