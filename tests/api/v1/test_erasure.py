"""DELETE /v1/sessions/{id}, and cancelling: what ran stops, and nothing comes back."""

import asyncio
import hashlib
from typing import Any

import msgspec
import pytest

from tests.support.api_calls import call_arrived, hook, problem, until, v2_event
from tests.support.bridge import Bridge, open_bridge
from tests.support.due_calls import make_due_calls

PATIENT = "Zaphrandine Quillibrand"
PATIENT_ID = "PAT-7731-QXZ"
REFERENCE = "ENC-5519-QXZ"
FIELDS: dict[str, Any] = {
    "patient": {"id": PATIENT_ID, "name": PATIENT},
    "reference": REFERENCE,
    "metadata": {"ward": "ward-eleven-QXZ"},
}


async def erase(house: Bridge, session_id: str) -> dict[str, Any]:
    answer = await house.api.delete(f"/v1/sessions/{session_id}")
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def row_of(house: Bridge, session_id: str) -> Any:
    return await house.database.fetchrow("SELECT * FROM sessions WHERE id = $1", session_id)


async def everything_is_gone(house: Bridge, session_id: str, *documents: str) -> None:
    """Every door of the session says so, and no row holds anything of it."""
    base = f"/v1/sessions/{session_id}"
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", base, {}),
        ("GET", f"{base}?wait=5", {}),
        ("GET", f"{base}/timeline", {}),
        ("GET", f"{base}/documents", {}),
        ("GET", f"{base}/events", {}),
        ("PUT", f"{base}/audio/0", {"content": b"audio", "headers": {"content-type": "audio/wav"}}),
        ("PUT", f"{base}/audio/9", {"content": b"audio", "headers": {"content-type": "audio/wav"}}),
        ("POST", f"{base}/end", {}),
        ("PATCH", base, {"json": {"languages": ["hi"]}}),
        ("POST", f"{base}/documents", {"json": {"template_id": "a"}}),
        ("DELETE", base, {}),
        *(("GET", f"/v1/documents/{each}", {}) for each in documents),
    ]
    before = await house.calls(session_id)
    for method, path, fields in calls:
        problem(await house.api.request(method, path, **fields), 410, "session_erased")
    assert await house.calls(session_id) == before
    listed = (await house.api.get("/v1/sessions", params={"limit": 100})).json()["items"]
    assert session_id not in [each["id"] for each in listed]
    row = await row_of(house, session_id)
    for name in (
        *("details_sealed", "patient_id_hash", "reference_hash", "transcript_sealed", "upload_url_sealed"),
        *("error_message", "model_used", "language_detected", "vendor_files", "change_lease"),
    ):
        assert row[name] is None, name
    assert row["erased_at"] is not None
    for table in ("chunks", "fetches", "webhook_events", "stream_connections"):
        assert await house.database.fetch(f"SELECT 1 FROM {table} WHERE session_id = $1", session_id) == []
    for table, column in (("documents", "data_sealed"), ("events", "body_sealed")):
        rows = await house.database.fetch(f"SELECT {column} FROM {table} WHERE session_id = $1", session_id)
        assert [each[column] for each in rows] == [None] * len(rows)


async def finished(bridge: Bridge, **fields: Any) -> dict[str, Any]:
    session_id = await bridge.dictate(**fields)
    return await bridge.reach(session_id, "completed", "partial", "failed")


async def test_a_finished_session_is_erased_everywhere(bridge: Bridge) -> None:
    await bridge.add_destination()
    await bridge.emr.post(
        "/_control/behaviour", json={"otherwise": {"status": 201, "body": {"id": "NOTE-77"}}}
    )
    await bridge.start_worker()
    session = await finished(bridge, **FIELDS)
    (received,) = await bridge.received(1)
    delivery_id = received["headers"]["webhook-id"]

    async def is_recorded() -> bool:
        found = await bridge.api.get(f"/v1/deliveries/{delivery_id}")
        return bool(found.json()["status"] != "pending")

    await until(is_recorded)
    documents = [document["id"] for document in session["documents"]]
    assert len(documents) == 1

    assert await erase(bridge, session["id"]) == {"id": session["id"], "status": "completed"}
    await everything_is_gone(bridge, session["id"], *documents)
    assert await bridge.calls(f"/sessions/{session['id']}$", "PATCH") == 0  # it ran no more
    delivery = (await bridge.api.get(f"/v1/deliveries/{delivery_id}")).json()
    assert (delivery["status"], delivery["record_id"]) == ("filed", None)
    assert (
        await bridge.database.fetchval("SELECT count(*) FROM attempts WHERE response_sha256 IS NOT NULL") == 0
    )
    rows = await bridge.database.fetch(
        "SELECT action, actor, facts FROM audit WHERE object_id = $1", session["id"]
    )
    entries = {row["action"]: row for row in rows}
    assert entries.keys() == {"session.read", "session.erased"}  # the reads of the test itself
    assert entries["session.erased"]["actor"].startswith("key_")
    ids = "\n".join(sorted([session["id"], delivery_id, *documents]))
    assert msgspec.json.decode(entries["session.erased"]["facts"]) == {
        "documents": 1,
        "deliveries": 1,
        "sha256": hashlib.sha256(ids.encode()).hexdigest(),
    }


@pytest.mark.parametrize("chunks", [0, 2])
async def test_what_still_runs_is_cancelled_at_the_vendor(house: Bridge, chunks: int) -> None:
    session_id = (await house.create(**FIELDS))["id"]
    for sequence in range(chunks):
        await house.put(session_id, sequence)
    assert (await erase(house, session_id))["status"] == "cancelled"
    await everything_is_gone(house, session_id)
    assert (await house.seen(session_id))["status"] == "cancelled"
    row = await row_of(house, session_id)
    assert (row["status"], row["owed"]) == ("cancelled", None)


async def test_a_session_that_is_processed_is_fetched_no_more(bridge: Bridge) -> None:
    await bridge.vendor_settings(processing_seconds=30)
    await bridge.add_destination()
    await bridge.start_worker()
    session_id = await bridge.dictate(**FIELDS)
    assert (await erase(bridge, session_id))["status"] == "cancelled"
    await everything_is_gone(bridge, session_id)
    await bridge.vendor.post(f"/_control/sessions/{session_id}/finish", json={"outcome": "completed"})
    answer = await hook(bridge, v2_event(session_id))
    assert answer.json() == {"status": "ignored"}
    await everything_is_gone(bridge, session_id)
    assert (await bridge.seen(session_id))["get_calls"] == {}
    assert await bridge.database.fetchval("SELECT count(*) FROM events") == 0


async def test_a_webhook_for_it_is_ignored_and_leaves_nothing(house: Bridge) -> None:
    session_id = await house.dictate(**FIELDS)
    assert (await hook(house, v2_event(session_id))).json() == {"status": "accepted"}
    await erase(house, session_id)
    for event in (
        v2_event(session_id),
        v2_event(session_id, "v2rx.failed"),
        v2_event(session_id, "v2rx.odd"),
    ):
        assert (await hook(house, event)).json() == {"status": "ignored"}
    await everything_is_gone(house, session_id)


async def test_what_was_to_be_delivered_is_dead_and_cannot_be_sent_any_more(bridge: Bridge) -> None:
    await bridge.add_destination()
    await bridge.emr.post("/_control/behaviour", json={"otherwise": {"status": 503}})
    await bridge.start_worker(forward_schedule_seconds=(60.0,))
    session = await finished(bridge, **FIELDS)
    (received,) = await bridge.received(1)
    await erase(bridge, session["id"])
    path = f"/v1/deliveries/{received['headers']['webhook-id']}"
    delivery = (await bridge.api.get(path)).json()
    assert (delivery["status"], delivery["reason"]) == ("dead", "session_erased")
    assert delivery["next_attempt_at"] is None
    problem(await bridge.api.post(f"{path}/retry"), 410, "session_erased")
    await everything_is_gone(bridge, session["id"])


async def test_what_waits_for_a_destination_that_is_off_is_dead_too(bridge: Bridge) -> None:
    destination = await bridge.add_destination()
    await bridge.api.patch(f"/v1/destinations/{destination['id']}", json={"enabled": False})
    await bridge.start_worker()
    session = await finished(bridge, **FIELDS)
    await erase(bridge, session["id"])
    await bridge.api.patch(f"/v1/destinations/{destination['id']}", json={"enabled": True})
    (delivery,) = (await bridge.api.get("/v1/deliveries")).json()["items"]
    assert (delivery["status"], delivery["reason"]) == ("dead", "session_erased")


async def test_a_delivery_under_way_is_told_without_what_the_emr_answered(bridge: Bridge) -> None:
    await bridge.add_destination()
    await bridge.emr.post(
        "/_control/behaviour",
        json={"otherwise": {"status": 201, "body": {"id": "NOTE-77"}, "delay_seconds": 0.7}},
    )
    await bridge.start_worker()
    session = await finished(bridge, **FIELDS)

    async def is_being_sent() -> bool:
        return await bridge.database.fetchval("SELECT count(*) FROM deliveries WHERE lease IS NOT NULL") == 1

    await until(is_being_sent)
    await erase(bridge, session["id"])
    await bridge.received(1)
    await asyncio.gather(*(worker.stop() for worker in bridge.workers))
    (delivery,) = (await bridge.api.get("/v1/deliveries")).json()["items"]
    assert (delivery["status"], delivery["reason"], delivery["record_id"]) == ("dead", "session_erased", None)
    kept = await bridge.database.fetch(
        "SELECT status_code, error_class, response_bytes, response_sha256 FROM attempts"
    )
    assert [tuple(row) for row in kept] == [(201, None, None, None)]


async def test_a_fetch_under_way_brings_nothing_back(bridge: Bridge) -> None:
    await bridge.add_destination()
    await bridge.fault("/sessions/[^/]+$", method="GET", delay_seconds=0.7)
    await bridge.start_worker()
    session_id = await bridge.dictate(**FIELDS)
    await call_arrived(bridge, f"{session_id}$", "GET")
    await erase(bridge, session_id)
    await asyncio.gather(*(worker.stop() for worker in bridge.workers))
    assert (await bridge.seen(session_id))["get_calls"] != {}
    await everything_is_gone(bridge, session_id)
    assert await bridge.database.fetchval("SELECT count(*) FROM documents") == 0


async def test_an_upload_under_way_leaves_no_row(house: Bridge) -> None:
    session_id = (await house.create(**FIELDS))["id"]
    await house.fault(f"{session_id}/audio", delay_seconds=0.6)
    sending = asyncio.create_task(house.put(session_id, 0))
    await call_arrived(house, f"{session_id}/audio")
    await erase(house, session_id)
    assert (await sending).status_code in {409, 410}
    await everything_is_gone(house, session_id)


async def test_the_same_idempotency_key_makes_no_new_session(house: Bridge) -> None:
    headers = {"idempotency-key": f"key-{REFERENCE}"}
    first = await house.api.post("/v1/sessions", json=FIELDS, headers=headers)
    session_id = first.json()["id"]
    await erase(house, session_id)
    for body in (FIELDS, {}):
        answer = await house.api.post("/v1/sessions", json=body, headers=headers)
        problem(answer, 410, "session_erased")
    row = await house.database.fetchrow(
        "SELECT answer_sealed, request_hash FROM idempotency_keys WHERE session_id = $1", session_id
    )
    assert tuple(row) == (None, b"")
    assert (
        await house.database.fetchval("SELECT count(*) FROM sessions WHERE tenant_id = $1", house.tenant_id)
        == 1
    )


async def test_erased_while_its_create_call_is_under_way(house: Bridge) -> None:
    headers = {"idempotency-key": "k"}
    await house.fault("/sessions$", method="POST", delay_seconds=0.6)
    creating = asyncio.create_task(house.api.post("/v1/sessions", json=FIELDS, headers=headers))
    await call_arrived(house, "/sessions$", "POST", await house.calls("/sessions$", "POST") + 1)
    (found,) = (await house.api.get("/v1/sessions")).json()["items"]
    await erase(house, found["id"])
    problem(await creating, 409, "session_ended")
    await everything_is_gone(house, found["id"])
    row = await row_of(house, found["id"])
    # Its create call may still arrive at the vendor: the cancel is owed, for when that is over.
    assert (row["status"], row["owed"], row["owed_lease"]) == ("cancelled", "cancel", None)
    assert (await house.seen(found["id"]))["status"] == "initialized"
    problem(await house.api.post("/v1/sessions", json=FIELDS, headers=headers), 410, "session_erased")
    await make_due_calls(house)
    assert (await row_of(house, found["id"]))["owed"] is None
    assert (await house.seen(found["id"]))["status"] == "cancelled"


async def test_two_erasures_at_once_are_one(house: Bridge) -> None:
    session_id = (await house.create(**FIELDS))["id"]
    answers = await asyncio.gather(*(house.api.delete(f"/v1/sessions/{session_id}") for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [202, 410, 410, 410, 410, 410]
    assert await house.calls(f"{session_id}$", "PATCH") == 1
    count = await house.database.fetchval("SELECT count(*) FROM audit WHERE object_id = $1", session_id)
    assert count == 1


@pytest.mark.parametrize("call", ["create", "change", "upload"])
async def test_no_retry_sends_what_was_erased(house: Bridge, call: str) -> None:
    """A retry that waits as long as EkaScribe asked looks for an erasure before it sends anything."""
    session_id = f"erased-before-a-retry-of-{call}"
    if call != "create":
        session_id = (await house.create(**FIELDS))["id"]
    pattern, method = {
        "create": (r"/voice/v1/sessions$", "POST"),
        "change": (f"/sessions/{session_id}$", "PATCH"),
        "upload": (f"/sessions/{session_id}/audio", "POST"),
    }[call]
    await house.fault(pattern, method=method, status=503, headers={"retry-after": "1"}, body={}, times=1)
    before = await house.calls(pattern, method)
    renamed = {"id": PATIENT_ID, "name": "Quillibrand-Newname"}

    async def send() -> Any:
        if call == "create":
            wanted = {
                "session_id": session_id,
                "communication_protocol": "http",
                "upload_type": "chunked",
                "templates": ["eka_emr_template"],
                "patient_details": {"oid": PATIENT_ID, "name": PATIENT},
            }
            return await house.api.post("/voice/v1/sessions", json=wanted)
        if call == "change":
            return await house.api.patch(f"/v1/sessions/{session_id}", json={"patient": renamed})
        return await house.put(session_id, 0)

    async def was_sent() -> bool:
        return await house.calls(pattern, method) == before + 1

    sending = asyncio.create_task(send())
    await until(was_sent)
    await erase(house, session_id)
    answer = await sending
    assert "session_ended" in answer.text  # in the words of the protocol, too
    # The erasure tells EkaScribe of the cancel, by a PATCH without anything of the patient.
    assert await house.calls(pattern, method) == before + 1 + (call == "change")
    assert "Quillibrand-Newname" not in (await house.vendor.get(f"/_control/sessions/{session_id}")).text


async def test_no_retry_of_an_end_reaches_an_erased_session(house: Bridge) -> None:
    session_id = (await house.create(**FIELDS))["id"]
    await house.put(session_id, 0)
    await house.fault(f"{session_id}/end", method="POST", status=503, headers={"retry-after": "1"}, body={})
    ending = asyncio.create_task(house.api.post(f"/v1/sessions/{session_id}/end", json={"chunks": 1}))

    async def was_sent() -> bool:
        return await house.calls(f"{session_id}/end", "POST") == 1

    await until(was_sent)
    await erase(house, session_id)
    problem(await ending, 410, "session_erased")
    assert await house.calls(f"{session_id}/end", "POST") == 1
    # The end is over, so the cancel that waited for it is due at once.
    row = await house.database.fetchrow(
        "SELECT owed, owed_lease, owed_next_at <= now() AS is_due FROM sessions WHERE id = $1", session_id
    )
    assert tuple(row) == ("cancel", None, True)


@pytest.mark.parametrize("call", ["create", "upload"])
async def test_no_call_that_waited_for_a_permit_sends_what_was_erased(
    database_url: str, redis_url: str, call: str
) -> None:
    """A first call waits in the line of EkaScribe's calls; the erasure is answered before its turn comes."""
    async with open_bridge(database_url, redis_url, eka_max_concurrency=1) as house:
        busy, session_id = (await house.create())["id"], "erased-while-it-waits"
        if call == "upload":
            session_id = (await house.create(**FIELDS))["id"]
        before_it = {
            "create": (r"/voice/v1/sessions$", lambda: house.api.post("/v1/sessions", json={})),
            "upload": (f"/sessions/{busy}/audio", lambda: house.put(busy, 0)),
        }
        pattern, occupy = before_it[call]
        await house.fault(pattern, method="POST", delay_seconds=1.5, times=1)
        occupying = asyncio.create_task(occupy())
        await call_arrived(house, pattern, "POST", count=1 + (call == "create"))
        wanted = {
            "session_id": session_id,
            "communication_protocol": "http",
            "upload_type": "chunked",
            "templates": ["eka_emr_template"],
            "patient_details": {"oid": PATIENT_ID, "name": PATIENT},
        }
        waiting = asyncio.create_task(
            house.api.post("/voice/v1/sessions", json=wanted)
            if call == "create"
            else house.put(session_id, 0)
        )

        async def is_begun() -> bool:
            table = "sessions WHERE id = $1" if call == "create" else "chunks WHERE session_id = $1"
            return bool(await house.database.fetchval(f"SELECT count(*) FROM {table}", session_id))

        await until(is_begun)
        await erase(house, session_id)
        assert not occupying.done()
        assert "session_ended" in (await waiting).text
        assert (await occupying).is_success
        if call == "create":
            assert await house.calls(pattern, "POST") == 2
        else:
            assert await house.calls(f"/sessions/{session_id}/audio", "POST") == 0
