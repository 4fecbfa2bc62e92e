"""POST /v1/sessions/{id}/documents: asked for once, fetched and forwarded like any other document."""

import asyncio
from typing import Any

import httpx2
import pytest

from tests.support.api_calls import call_arrived, clear_faults, expire, invalid, problem, until
from tests.support.bridge import Bridge, RunningWorker

NOTE, OTHER = "eka_emr_template", "clinical_notes_template"
PROCESS = "/process/template/"


async def ask(bridge: Bridge, session_id: str, template_id: str = OTHER) -> httpx2.Response:
    return await bridge.api.post(f"/v1/sessions/{session_id}/documents", json={"template_id": template_id})


async def asked(bridge: Bridge, session_id: str) -> int:
    return await bridge.calls(f"{session_id}{PROCESS}", "POST")


async def finished(bridge: Bridge, **fields: Any) -> dict[str, Any]:
    """A completed session whose document the EMR has, and a worker."""
    await bridge.add_destination()
    await bridge.start_worker()
    session_id = await bridge.dictate(**fields)
    session = await bridge.reach(session_id, "completed", "partial")
    await bridge.received(1)
    return session


async def fetches_of(bridge: Bridge, session_id: str) -> dict[str, Any]:
    rows = await bridge.database.fetch("SELECT * FROM fetches WHERE session_id = $1", session_id)
    return {row["template_id"]: row for row in rows}


async def make_due(bridge: Bridge, session_id: str) -> None:
    """Let the waits of the session's calls be over, but no lease: its worker is at the vendor."""
    await bridge.database.execute(
        "UPDATE fetches SET next_at = now() WHERE session_id = $1 AND status = 'pending' AND lease IS NULL",
        session_id,
    )


async def test_another_template_is_fetched_and_forwarded_like_any_other(bridge: Bridge) -> None:
    session = await finished(bridge, reference="ENC-1")
    answer = await ask(bridge, session["id"])
    assert answer.status_code == 202, answer.text
    assert answer.json()["id"] == session["id"]
    assert answer.json()["status"] == "completed"
    _, received = await bridge.received(2)
    event = received["body"]
    assert event["type"] == "document.ready"
    assert event["data"]["document"]["template_id"] == OTHER
    assert event["data"]["document"]["version"] == 1
    assert event["data"]["document"]["data"]["assessment"] == "Acute bronchitis"
    assert event["data"]["session_status"] == "completed"
    assert event["data"]["transcript"]
    now = await bridge.session(session["id"])
    assert [each["template_id"] for each in now["documents"]] == [OTHER, NOTE]
    assert (now["status"], now["completed_at"]) == ("completed", session["completed_at"])
    seen = await bridge.seen(session["id"])
    # The filter by template gives any of a template's documents: the new one is asked for by its id.
    by_id = {name for name in seen["get_calls"] if name.startswith("document:")}
    assert set(seen["get_calls"]) == {NOTE} | by_id
    assert await asked(bridge, session["id"]) == 1


async def test_it_is_asked_for_once_however_often_the_emr_does(bridge: Bridge) -> None:
    await bridge.vendor_settings(processing_seconds=1)
    session = await finished(bridge)
    answers = await asyncio.gather(*(ask(bridge, session["id"]) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {202}
    assert await asked(bridge, session["id"]) == 1
    assert (await ask(bridge, session["id"])).status_code == 202
    assert await asked(bridge, session["id"]) == 1
    await bridge.received(2)
    assert len(await bridge.received(2)) == 2


async def test_one_that_is_still_awaited_from_the_start_is_not_asked_for_again(bridge: Bridge) -> None:
    await bridge.vendor_settings(
        partial_while_pending=True, slow_template_seconds=30, webhook_all_outcomes=True
    )
    await bridge.start_worker()
    session_id = await bridge.dictate(templates=[NOTE, "slow_b"])
    await bridge.reach(session_id, "partial")
    assert (await ask(bridge, session_id, "slow_b")).status_code == 202
    assert await asked(bridge, session_id) == 0


async def test_a_template_that_fails_is_told_and_the_session_stays_completed(bridge: Bridge) -> None:
    session = await finished(bridge)
    await ask(bridge, session["id"], "fail_letter")
    _, received = await bridge.received(2)
    assert received["body"]["type"] == "document.failed"
    assert received["body"]["data"]["document"]["error"]["code"] == "template_failed"
    assert received["body"]["data"]["session_status"] == "completed"
    assert (await bridge.session(session["id"]))["status"] == "completed"


@pytest.mark.parametrize("reuses", [False, True])
async def test_a_template_again_makes_a_new_version_of_its_document(bridge: Bridge, reuses: bool) -> None:
    await bridge.vendor_settings(rerun_changes=True, rerun_reuses_document=reuses)
    session = await finished(bridge)
    for number in (2, 3):
        assert (await ask(bridge, session["id"], NOTE)).status_code == 202
        received = (await bridge.received(number))[number - 1]["body"]["data"]["document"]
        assert (received["version"], received["data"]["revision"]) == (number, number)
        (document,) = (await bridge.api.get(f"/v1/sessions/{session['id']}/documents")).json()["items"]
        assert (document["version"], document["data"]["revision"]) == (number, number)
        (summary,) = (await bridge.session(session["id"]))["documents"]
        assert summary["id"] == document["id"] == received["id"]
    old = await bridge.api.get(f"/v1/documents/{session['documents'][0]['id']}")
    assert old.json()["version"] == 1
    assert await asked(bridge, session["id"]) == 2


async def test_a_document_that_did_not_change_is_not_forwarded_again(bridge: Bridge) -> None:
    await bridge.vendor_settings(rerun_reuses_document=True)
    session = await finished(bridge)
    await ask(bridge, session["id"], NOTE)

    async def is_settled() -> bool:
        return (await fetches_of(bridge, session["id"]))[NOTE]["status"] == "settled"

    await until(is_settled)
    assert len(await bridge.received(1)) == 1
    assert [each["version"] for each in await documents_of(bridge, session["id"])] == [1]


async def documents_of(bridge: Bridge, session_id: str) -> list[Any]:
    return await bridge.database.fetch(
        "SELECT * FROM documents WHERE session_id = $1 ORDER BY version", session_id
    )


@pytest.mark.parametrize("status", ["created", "recording", "processing", "failed", "expired", "cancelled"])
async def test_only_a_finished_session_has_further_documents(house: Bridge, status: str) -> None:
    session_id = (await house.create())["id"]
    await house.database.execute("UPDATE sessions SET status = $2 WHERE id = $1", session_id, status)
    problem(await ask(house, session_id), 409, "session_not_finished")
    assert await asked(house, session_id) == 0
    assert await fetches_of(house, session_id) == {}


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"template_id": 5}', b'{"template_id": ""}', b'{"template_id": "a/b"}', b"[]"]
)
async def test_a_wrong_body_names_its_field(house: Bridge, body: bytes) -> None:
    session_id = await completed(house)
    invalid(await house.api.post(f"/v1/sessions/{session_id}/documents", content=body))
    found = await house.api.post(
        f"/v1/sessions/{session_id}/documents", json={"template_id": OTHER, "odd": 1}
    )
    invalid(found, "odd")
    assert await asked(house, session_id) == 0


async def completed(house: Bridge) -> str:
    """A session that the vendor finished, and of which our rows say so."""
    session_id = await house.dictate()
    await house.vendor.post(f"/_control/sessions/{session_id}/finish", json={"outcome": "completed"})
    await house.database.execute(
        "UPDATE sessions SET status = 'completed', settled_at = now() WHERE id = $1", session_id
    )
    await house.database.execute(
        "UPDATE fetches SET status = 'settled', outcome = 'completed', next_at = NULL WHERE session_id = $1",
        session_id,
    )
    return session_id


@pytest.mark.parametrize("status", [400, 404, 409])
async def test_what_the_vendor_refuses_leaves_nothing(house: Bridge, status: int) -> None:
    session_id = await completed(house)
    await house.fault(PROCESS, method="POST", status=status, times=None)
    found = problem(await ask(house, session_id), 502, "vendor_error")
    assert found["vendor_status"] == status
    assert list(await fetches_of(house, session_id)) == [NOTE]
    await clear_faults(house)
    assert (await ask(house, session_id)).status_code == 202


@pytest.mark.parametrize("fault", [{"status": 500}, {"mode": "reset"}, {"mode": "half_json"}])
async def test_an_unclear_answer_is_looked_up_before_it_is_repeated(
    house: Bridge, fault: dict[str, Any]
) -> None:
    session_id = await completed(house)
    await house.fault(PROCESS, method="POST", when="after", **fault)
    assert (await ask(house, session_id)).status_code == 202
    assert await asked(house, session_id) == 1
    assert [each["template_id"] for each in (await house.seen(session_id))["documents"]] == [NOTE, OTHER]
    assert (await fetches_of(house, session_id))[OTHER]["asked"] == "asked"


async def test_a_call_that_never_arrived_is_made_again(house: Bridge) -> None:
    session_id = await completed(house)
    await house.fault(PROCESS, method="POST", status=500)
    assert (await ask(house, session_id)).status_code == 202
    assert await asked(house, session_id) == 2
    assert [each["template_id"] for each in (await house.seen(session_id))["documents"]] == [NOTE, OTHER]


async def outage(house: Bridge, *, takes_effect: bool) -> str:
    session_id = await completed(house)
    effect: dict[str, Any] = {"when": "after"} if takes_effect else {}
    slow = {"status": 503, "headers": {"Retry-After": "30"}}
    await house.fault(PROCESS, method="POST", times=None, **slow, **effect)
    await house.fault(f"{session_id}[?]", method="GET", times=None, **slow)
    problem(await ask(house, session_id), 503, "vendor_unavailable")
    row = (await fetches_of(house, session_id))[OTHER]
    assert (row["asked"], row["lease"], row["status"]) == ("asking", None, "pending")
    await clear_faults(house)
    return session_id


@pytest.mark.parametrize("takes_effect", [False, True])
async def test_after_an_outage_the_same_call_succeeds_and_makes_one_document(
    house: Bridge, takes_effect: bool
) -> None:
    session_id = await outage(house, takes_effect=takes_effect)
    assert (await ask(house, session_id)).status_code == 202
    assert [each["template_id"] for each in (await house.seen(session_id))["documents"]] == [NOTE, OTHER]
    assert (await fetches_of(house, session_id))[OTHER]["asked"] == "asked"


async def test_after_an_outage_a_worker_finds_what_was_asked_for(house: Bridge) -> None:
    session_id = await outage(house, takes_effect=True)
    worker = await working(house, session_id)

    async def is_here() -> bool:
        await make_due(house, session_id)
        return bool(await documents_of(house, session_id))

    await until(is_here)
    await worker.stop()
    (document,) = await documents_of(house, session_id)
    assert (document["template_id"], document["status"]) == (OTHER, "success")
    assert len((await house.seen(session_id))["documents"]) == 2


async def working(house: Bridge, session_id: str) -> RunningWorker:
    await make_due(house, session_id)
    return await house.start_worker()


async def test_after_an_outage_what_nobody_asked_for_is_forgotten(house: Bridge) -> None:
    session_id = await outage(house, takes_effect=False)
    worker = await working(house, session_id)

    async def is_forgotten() -> bool:
        return OTHER not in await fetches_of(house, session_id)

    await until(is_forgotten)
    await worker.stop()
    assert await documents_of(house, session_id) == []
    assert await house.database.fetch("SELECT 1 FROM events WHERE session_id = $1", session_id) == []
    assert [each["template_id"] for each in (await house.seen(session_id))["documents"]] == [NOTE]


async def test_a_process_that_died_while_it_asked_is_made_up_for_when_its_lease_is_over(
    house: Bridge,
) -> None:
    session_id = await completed(house)
    await house.fault(PROCESS, method="POST", delay_seconds=0.5)
    asking = asyncio.create_task(ask(house, session_id))
    await call_arrived(house, f"{session_id}{PROCESS}", "POST")
    row = (await fetches_of(house, session_id))[OTHER]
    assert row["lease"] is not None
    # Somebody else took the row over, as when its lease was over: the answer of the first counts no more.
    await house.database.execute(
        "UPDATE fetches SET lease = gen_random_uuid(), next_at = now() - interval '1 s' WHERE id = $1",
        row["id"],
    )
    assert (await asking).status_code == 202
    assert (await fetches_of(house, session_id))[OTHER]["asked"] == "asking"
    worker = await house.start_worker()

    async def is_here() -> bool:
        await make_due(house, session_id)
        return bool(await documents_of(house, session_id))

    await until(is_here)
    await worker.stop()
    assert len((await house.seen(session_id))["documents"]) == 2


async def test_a_session_past_its_hour_has_further_documents(house: Bridge) -> None:
    session_id = await completed(house)
    await expire(house, session_id)
    assert (await ask(house, session_id)).status_code == 202
