"""Answers with long transcripts and large documents: whole, in pages that fit, and counted."""

from contextlib import AsyncExitStack
from typing import Any

import msgspec
from prometheus_client import REGISTRY

from service.bootstrap.container import open_stores
from service.domain.ids import DocumentId, SessionId
from service.store.documents import document_aad
from service.store.session_queries import SessionQueries
from tests.support.api_calls import request_head, until, wire
from tests.support.bridge import Bridge
from tests.support.long_transcripts import lengthen

MEBIBYTE = 1024 * 1024


async def test_pages_of_long_transcripts_are_short_and_hold_each_session_once(house: Bridge) -> None:
    made = {}
    for _ in range(5):
        session_id = (await house.create())["id"]
        made[session_id] = await lengthen(house, session_id, 3 * MEBIBYTE // 2)
    sizes, seen, cursor = [], {}, None
    while True:
        params = {"limit": 4} | ({"cursor": cursor} if cursor else {})
        page = (await house.api.get("/v1/sessions", params=params)).json()
        sizes.append(len(page["items"]))
        seen |= {each["id"]: each["transcript"] for each in page["items"]}
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == made
    assert sizes == [2, 2, 1]


async def test_one_that_is_longer_than_a_page_is_shown_alone(house: Bridge) -> None:
    sessions = [(await house.create())["id"] for _ in range(2)]
    for each in sessions:
        await lengthen(house, each, 5 * MEBIBYTE)
    page = (await house.api.get("/v1/sessions")).json()
    assert [each["id"] for each in page["items"]] == [sessions[1]]
    assert page["next_cursor"] is not None


async def test_long_transcripts_are_whole_wherever_they_are_read(house: Bridge) -> None:
    session_id = await house.dictate()
    for size in (60_000, 65_536, 200_000, 8 * MEBIBYTE):
        transcript = await lengthen(house, session_id, size)
        assert (await house.session(session_id))["transcript"] == transcript
        # The protocol shows it when the session is over.
        await house.database.execute("UPDATE sessions SET status = 'completed' WHERE id = $1", session_id)
        answer = await house.api.get(f"/voice/v1/sessions/{session_id}")
        assert answer.json()["transcript"] == transcript


async def test_large_documents_are_whole_wherever_they_are_read(bridge: Bridge) -> None:
    await bridge.start_worker()
    session_id = await bridge.dictate(templates=["a_template", "b_template"])
    await bridge.reach(session_id, "completed")
    documents = (await bridge.api.get(f"/v1/sessions/{session_id}/documents")).json()["items"]
    for size in (40_000, 70_000, 3 * MEBIBYTE):  # two of 40,000 are large together, and not each by itself
        made: dict[str, Any] = {}
        async with open_stores(bridge.settings) as stores:
            for each in documents:
                made[each["id"]] = {"text": each["id"].ljust(size)}
                place = document_aad(DocumentId(each["id"]))
                encrypted = stores.keyring.encrypt(msgspec.json.encode(made[each["id"]]), place)
                await bridge.database.execute(
                    "UPDATE documents SET data_sealed = $2 WHERE id = $1", each["id"], encrypted
                )
        listed = (await bridge.api.get(f"/v1/sessions/{session_id}/documents")).json()["items"]
        assert {each["id"]: each["data"] for each in listed} == made
        for each in documents:
            answer = await bridge.api.get(f"/v1/documents/{each['id']}")
            assert answer.json()["data"] == made[each["id"]]
        as_medscribe_error = (await bridge.api.get(f"/voice/v1/sessions/{session_id}")).json()["templates"]
        told = [result["data"] for template in as_medscribe_error for result in template.values()]
        assert sorted(each["text"] for each in told) == sorted(each["text"] for each in made.values())


async def test_who_does_not_read_is_cut_when_another_tenant_s_reader_waits(house: Bridge) -> None:
    readers = []
    for client in (house.api, await house.tenant("second")):
        session_id = (await client.post("/v1/sessions", json={})).json()["id"]
        await lengthen(house, session_id, 8 * MEBIBYTE)
        key = client.headers["authorization"].encode()
        head = request_head(house, "GET", f"/v1/sessions/{session_id}")
        readers.append(head.replace(house.api.headers["authorization"].encode(), key))
    other = await house.tenant("third")
    theirs = (await other.post("/v1/sessions", json={})).json()["id"]
    transcript = await lengthen(house, theirs, 8 * MEBIBYTE)
    async with AsyncExitStack() as stack:
        deaf = [await stack.enter_async_context(wire(house.url, receive_bytes=4096)) for _ in range(24)]
        for number, each in enumerate(deaf):
            await each.send(readers[number % 2])

        async def are_some_refused() -> bool:
            reasons = {"kind": "answers", "reason": "memory"}
            return bool(REGISTRY.get_sample_value("ekabridge_requests_refused_total", reasons))

        await until(are_some_refused, 15)

        async def is_read() -> bool:
            answer = await other.get(f"/v1/sessions/{theirs}")
            assert answer.status_code in {200, 503}
            assert answer.status_code == 200 or int(answer.headers["retry-after"]) > 0
            return answer.status_code == 200 and answer.json()["transcript"] == transcript

        await until(is_read, 20)
        labels = {"reason": "answer_not_read"}
        assert REGISTRY.get_sample_value("ekabridge_http_connections_cut_total", labels)


async def test_a_long_timeline_is_counted_before_it_is_read(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    await house.put(session_id, 0)
    reserved: list[int] = []

    async def reserve(size: int) -> None:
        reserved.append(size)

    async with open_stores(house.settings) as stores:
        queries = SessionQueries(
            stores.database, stores.keyring, stores.sessions, stores.streams, "", reserve
        )
        await queries.timeline(house.tenant_id, SessionId(session_id))
        assert reserved == []
        await house.database.execute(
            "INSERT INTO chunks (session_id, sequence, tenant_id, status, sha256, bytes, content_type,"
            " file_name, stored_at) SELECT session_id, n, tenant_id, status, sha256, bytes, content_type,"
            " 'audio_' || n || '.wav', stored_at FROM chunks, generate_series(1, 999) n"
            " WHERE session_id = $1",
            session_id,
        )
        assert len(await queries.timeline(house.tenant_id, SessionId(session_id))) == 1001
    assert reserved == [400_000]
