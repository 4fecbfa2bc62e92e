"""Idempotency-Key at POST /v1/sessions/{id}/documents: a lost answer makes no second document."""

import asyncio
import json
from typing import Any

import httpx2
import pytest
from msgspec.structs import replace

from service.bootstrap.container import open_stores
from service.domain.ids import SessionId, TemplateId
from service.domain.results.additional_document_requests import AdditionalDocumentRequests
from service.store.idempotency import answer_aad
from service.store.session_queries import SessionQueries
from tests.support.api_calls import clear_faults, invalid, problem, until
from tests.support.bridge import Bridge
from tests.support.fakes import ScriptedVendor
from tests.support.long_transcripts import lengthen
from tests.support.makers import TurnedClock, make_principal

NOTE, OTHER = "eka_emr_template", "clinical_notes_template"
PROCESS = "/process/template/"


async def ask(bridge: Bridge, session_id: str, key: str | None, template_id: str = OTHER) -> httpx2.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    path = f"/v1/sessions/{session_id}/documents"
    return await bridge.api.post(path, json={"template_id": template_id}, headers=headers)


async def asked(bridge: Bridge, session_id: str) -> int:
    return await bridge.calls(f"{session_id}{PROCESS}", "POST")


async def completed(house: Bridge, **fields: Any) -> str:
    """A session that the vendor finished, and of which our rows say so."""
    session_id = await house.dictate(**fields)
    await house.vendor.post(f"/_control/sessions/{session_id}/finish", json={"outcome": "completed"})
    await house.database.execute(
        "UPDATE sessions SET status = 'completed', settled_at = now() WHERE id = $1", session_id
    )
    await settle(house, session_id, "completed")
    return session_id


async def settle(house: Bridge, session_id: str, outcome: str) -> None:
    await house.database.execute(
        "UPDATE fetches SET status = 'settled', outcome = $2, next_at = NULL, lease = NULL, "
        "settled_at = clock_timestamp() WHERE session_id = $1 AND status = 'pending'",
        session_id,
        outcome,
    )


async def lose_the_answer(house: Bridge, session_id: str) -> None:
    """As when the process died between the vendor's answer and ours, and its lease is over."""
    await house.database.execute(
        "UPDATE idempotency_keys SET answer_sealed = NULL, lease = gen_random_uuid(), "
        "lease_until = now() - interval '1 second' WHERE session_id = $1 AND route = 'makeDocument'",
        session_id,
    )


async def kept(house: Bridge, session_id: str) -> Any:
    query = "SELECT * FROM idempotency_keys WHERE session_id = $1 AND route = 'makeDocument'"
    return await house.database.fetchrow(query, session_id)


async def test_a_repeat_is_answered_and_asks_once(house: Bridge) -> None:
    session_id = await completed(house, patient={"id": "PAT-1", "name": "Asha Rao"})
    first = await ask(house, session_id, "k")
    assert first.status_code == 202, first.text
    assert (first.json()["id"], first.json()["patient"]["name"]) == (session_id, "Asha Rao")
    assert "idempotency-replayed" not in first.headers
    await settle(house, session_id, "success")
    again = await ask(house, session_id, "k")
    assert (again.status_code, again.json()) == (202, await house.session(session_id))
    assert again.headers["idempotency-replayed"] == "true"
    assert await asked(house, session_id) == 1
    # Without the key, or with another one, it is a new document.
    assert (await ask(house, session_id, "k2")).status_code == 202
    assert await asked(house, session_id) == 2


async def test_a_key_keeps_no_copy_of_the_session(house: Bridge) -> None:
    session_id = await completed(house, patient={"id": "PAT-1", "name": "Asha Rao"})
    transcript = await lengthen(house, session_id, 300_000)
    assert (await ask(house, session_id, "k")).json()["transcript"] == transcript
    encrypted = (await kept(house, session_id))["answer_sealed"]
    assert len(encrypted) < 200
    async with open_stores(house.settings) as stores:
        assert json.loads(stores.keyring.decrypt(encrypted, answer_aad(session_id))) == {"id": session_id}
    # A repeat shows the session as it is now.
    changed = await lengthen(house, session_id, 200_000)
    assert (await ask(house, session_id, "k")).json()["transcript"] == changed


async def test_a_repeat_reserves_memory_for_the_transcript_and_for_nothing_else(house: Bridge) -> None:
    session_id = await completed(house)
    await lengthen(house, session_id, 300_000)
    await ask(house, session_id, "k")
    # An earlier version stored the whole session with each key. Such a copy is not even decrypted.
    await house.database.execute(
        "UPDATE idempotency_keys SET answer_sealed = $2 WHERE session_id = $1", session_id, bytes(300_000)
    )
    reserved: list[int] = []

    async def reserve(size: int) -> None:
        reserved.append(size)

    async with open_stores(house.settings) as stores:
        queries = SessionQueries(
            stores.database, stores.keyring, stores.sessions, stores.streams, "", reserve
        )
        requests = AdditionalDocumentRequests(
            store=stores.additional_documents,
            idempotency=stores.idempotency,
            vendor=ScriptedVendor(),
            clock=TurnedClock(),
            read=queries.session,
        )
        principal = replace(make_principal(), tenant_id=house.tenant_id)
        again = await requests.request(principal, SessionId(session_id), TemplateId(OTHER), "k")
    assert again.is_replayed
    assert [300_000 <= size < 301_000 for size in reserved] == [True]


@pytest.mark.parametrize("fault", [503, 500])
async def test_no_retry_asks_for_a_document_of_an_erased_session(house: Bridge, fault: int) -> None:
    """After a 503 the call is repeated, after a 500 a GET looks first; the erasure comes before either."""
    session_id = await completed(house)
    if fault == 503:
        await house.fault(PROCESS, method="POST", status=503, headers={"retry-after": "1"}, body={}, times=1)
    else:
        await house.fault(PROCESS, method="POST", status=500, body={}, times=1)
        await house.fault(f"{session_id}[?]", method="GET", delay_seconds=1.0, times=1)
    asking = asyncio.create_task(ask(house, session_id, "k"))

    async def was_sent() -> bool:
        looks = await house.calls(f"{session_id}[?]", "GET")
        return await asked(house, session_id) == 1 and (fault == 503 or looks == 1)

    await until(was_sent)
    assert (await house.api.delete(f"/v1/sessions/{session_id}")).status_code == 202
    problem(await asking, 410, "session_erased")
    assert await asked(house, session_id) == 1
    problem(await ask(house, session_id, "k"), 410, "session_erased")


async def test_another_template_or_session_is_refused(house: Bridge) -> None:
    one, two = await completed(house), await completed(house)
    await ask(house, one, "k")
    problem(await ask(house, one, "k", NOTE), 422, "idempotency_key_reused")
    problem(await ask(house, two, "k"), 422, "idempotency_key_reused")
    assert await asked(house, two) == 0


async def test_a_call_that_still_runs_is_said_so(house: Bridge) -> None:
    session_id = await completed(house)
    await house.fault(PROCESS, method="POST", delay_seconds=0.6)
    first = asyncio.create_task(ask(house, session_id, "k"))

    async def is_reserved() -> bool:
        return await kept(house, session_id) is not None

    await until(is_reserved)
    problem(await ask(house, session_id, "k"), 409, "idempotency_in_progress")
    answer = await first
    assert answer.status_code == 202
    assert (await ask(house, session_id, "k")).content == answer.content
    assert await asked(house, session_id) == 1


@pytest.mark.parametrize("has_come", [True, False])
async def test_a_lost_answer_makes_no_second_document(house: Bridge, has_come: bool) -> None:
    session_id = await completed(house)
    await ask(house, session_id, "k")
    if has_come:
        await settle(house, session_id, "success")
    await lose_the_answer(house, session_id)
    again = await ask(house, session_id, "k")
    assert again.status_code == 202
    assert "idempotency-replayed" not in again.headers
    assert await asked(house, session_id) == 1
    assert (await ask(house, session_id, "k")).content == again.content


async def test_a_document_of_an_earlier_call_is_not_taken_for_this_one_s(house: Bridge) -> None:
    session_id = await completed(house)
    await ask(house, session_id, "k")
    await settle(house, session_id, "success")
    # As when the document was another call's, and this one's process died before it asked the vendor.
    await lose_the_answer(house, session_id)
    await house.database.execute(
        "UPDATE idempotency_keys SET created_at = clock_timestamp() WHERE session_id = $1", session_id
    )
    assert (await ask(house, session_id, "k")).status_code == 202
    assert await asked(house, session_id) == 2


async def test_a_refusal_is_no_document(house: Bridge) -> None:
    session_id = await completed(house)
    await house.database.execute(
        "INSERT INTO documents (id, tenant_id, session_id, template_id, upstream_id, version, status) "
        "VALUES ($1, $2, $1, $3, 'doc_1', 1, 'success')",
        session_id,
        house.tenant_id,
        NOTE,
    )
    await house.fault(PROCESS, method="POST", status=404)
    problem(await ask(house, session_id, "k", NOTE), 502, "vendor_error")
    assert (await ask(house, session_id, "k", NOTE)).status_code == 202
    assert await asked(house, session_id) == 2


async def test_after_a_failure_the_same_key_tries_again(house: Bridge) -> None:
    session_id = await completed(house)
    await house.fault(PROCESS, method="POST", times=None, status=503, headers={"Retry-After": "30"})
    await house.fault(f"{session_id}[?]", method="GET", times=None, status=503, headers={"Retry-After": "30"})
    problem(await ask(house, session_id, "k"), 503, "vendor_unavailable")
    await clear_faults(house)
    problem(await ask(house, session_id, "k", NOTE), 422, "idempotency_key_reused")
    assert (await ask(house, session_id, "k")).status_code == 202
    assert [each["template_id"] for each in (await house.seen(session_id))["documents"]] == [NOTE, OTHER]


async def test_an_erased_session_takes_the_kept_answer_along(house: Bridge) -> None:
    session_id = await completed(house, patient={"id": "PAT-1", "name": "Asha Rao"})
    await ask(house, session_id, "k")
    assert (await house.api.delete(f"/v1/sessions/{session_id}")).status_code == 202
    assert (await kept(house, session_id))["answer_sealed"] is None
    problem(await ask(house, session_id, "k"), 410, "session_erased")


async def test_another_tenant_s_session_reserves_no_key(house: Bridge) -> None:
    session_id = await completed(house)
    other = await house.tenant()
    answer = await other.post(
        f"/v1/sessions/{session_id}/documents",
        json={"template_id": OTHER},
        headers={"Idempotency-Key": "k"},
    )
    problem(answer, 404, "not_found")
    assert await kept(house, session_id) is None


async def test_a_refused_body_or_key_does_not_use_the_key_up(house: Bridge) -> None:
    session_id = await completed(house)
    invalid(await ask(house, session_id, "k", "a/b"), "template_id")
    problem(await ask(house, session_id, "two words"), 400, "idempotency_key_invalid")
    assert "idempotency-replayed" not in (await ask(house, session_id, "k")).headers
    assert await asked(house, session_id) == 1


async def test_a_repeat_is_a_read_of_the_session_in_the_audit_trail(house: Bridge) -> None:
    session_id = await completed(house, patient={"id": "PAT-1", "name": "Asha Rao"})
    await ask(house, session_id, "k")
    entries = await house.database.fetch(
        "SELECT action FROM audit WHERE object_id = $1 AND action = 'session.read'", session_id
    )
    assert len(entries) == 1
