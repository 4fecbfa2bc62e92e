"""`GET /v1/sessions/{id}/recording`: the kept audio of a session, whole, audited, for its tenant alone."""

import hashlib
import io
import json
import os
import zipfile
from contextlib import AsyncExitStack

import httpx2
import pytest
from prometheus_client import REGISTRY

from tests.support.api_calls import problem, request_head, until, wire
from tests.support.bridge import Bridge

AWAY = {"mode": "reset", "times": None}
MEBIBYTE = 1024 * 1024


async def hold(house: Bridge, *sounds: bytes) -> str:
    """A session whose chunks the vendor did not take."""
    session_id = (await house.create(patient={"id": "PAT-1", "name": "Asha Rao"}))["id"]
    await house.fault("/voice/v1/sessions/", **AWAY)
    for sequence, sound in enumerate(sounds):
        answer = await house.put(session_id, sequence, sound, "audio/mp3" if sequence else "audio/wav")
        assert answer.json()["state"] == "held", answer.text
    return str(session_id)


async def recording(
    house: Bridge, session_id: str, client: httpx2.AsyncClient | None = None
) -> httpx2.Response:
    return await (client or house.api).get(f"/v1/sessions/{session_id}/recording")


def refused_and_cut() -> tuple[float, float]:
    """How many answers found no memory, and how many connections were cut because nobody read."""
    memory = {"kind": "answers", "reason": "memory"}
    refused = REGISTRY.get_sample_value("ekabridge_requests_refused_total", memory)
    unread = {"reason": "answer_not_read"}
    cut = REGISTRY.get_sample_value("ekabridge_http_connections_cut_total", unread)
    return refused or 0, cut or 0


async def test_several_chunks_come_as_an_archive_with_a_manifest(house: Bridge) -> None:
    sounds = [os.urandom(2 * MEBIBYTE + 5), b"short"]
    session_id = await hold(house, *sounds)
    answer = await recording(house, session_id)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["content-disposition"] == f'attachment; filename="{session_id}.zip"'
    assert answer.headers["cache-control"] == "no-store"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert [archive.read(name) for name in ("audio_0.wav", "audio_1.mp3")] == sounds
        text = archive.read("manifest.json").decode()
    manifest = json.loads(text)
    assert [(each["sequence"], each["bytes"], each["sha256"]) for each in manifest["chunks"]] == [
        (place, len(sound), hashlib.sha256(sound).hexdigest()) for place, sound in enumerate(sounds)
    ]
    assert "PAT-1" not in text
    assert "Asha" not in text


async def test_a_single_chunk_comes_as_it_is(house: Bridge) -> None:
    session_id = await hold(house, b"RIFF all of it")
    for client in (house.api, house.admin):
        answer = await recording(house, session_id, client)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/wav")
        assert answer.content == b"RIFF all of it"
        assert answer.headers["content-disposition"] == f'attachment; filename="{session_id}.wav"'


async def test_a_read_is_in_the_audit_trail_of_each_key(house: Bridge) -> None:
    session_id = await hold(house, b"sound")
    await recording(house, session_id)
    await recording(house, session_id)
    await recording(house, session_id, house.admin)
    entries = (await house.admin.get("/v1/audit", params={"action": "recording.read"})).json()["items"]
    assert [each["object_id"] for each in entries] == [session_id, session_id]
    assert len({each["actor"] for each in entries}) == 2


async def test_what_is_not_kept_is_404_and_what_is_erased_410(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    problem(await recording(house, session_id), 404, "recording_not_kept")
    assert (await house.put(session_id, 0)).json()["state"] == "stored"
    problem(await recording(house, session_id), 404, "recording_not_kept")
    problem(await recording(house, "ses_000000000000000000000000"), 404, "not_found")
    entries = (await house.admin.get("/v1/audit", params={"action": "recording.read"})).json()["items"]
    assert entries == []
    erased = await hold(house, b"sound")
    assert (await house.api.delete(f"/v1/sessions/{erased}")).status_code == 202
    problem(await recording(house, erased), 410, "session_erased")


async def test_another_tenant_gets_nothing(house: Bridge) -> None:
    session_id = await hold(house, b"sound")
    problem(await recording(house, session_id, await house.tenant("second")), 404, "not_found")
    problem(await recording(house, session_id, await house.client(None)), 401, "unauthenticated")


async def test_audio_that_goes_while_it_is_read_ends_the_answer_before_its_length(house: Bridge) -> None:
    session_id = await hold(house, os.urandom(3 * MEBIBYTE), b"second")
    # The first block is there, the second one is gone: the vendor has taken the chunk meanwhile.
    await house.database.execute(
        "DELETE FROM audio_blocks WHERE session_id = $1 AND sequence = 0 AND block > 0", session_id
    )
    with pytest.raises(httpx2.RemoteProtocolError):
        await recording(house, session_id)


async def test_a_block_of_another_place_is_not_read_as_this_one(house: Bridge) -> None:
    session_id = await hold(house, b"first", b"other")
    await house.database.execute(
        "UPDATE audio_blocks a SET data_sealed = b.data_sealed FROM audio_blocks b "
        "WHERE a.session_id = $1 AND b.session_id = $1 AND a.sequence <> b.sequence",
        session_id,
    )
    with pytest.raises(httpx2.RemoteProtocolError):
        await recording(house, session_id)


async def test_a_reader_who_does_not_read_holds_one_block_and_is_cut_when_others_wait(house: Bridge) -> None:
    session_id = await hold(house, *[os.urandom(8 * MEBIBYTE)] * 2)
    refused_before, cut_before = refused_and_cut()
    head = request_head(house, "GET", f"/v1/sessions/{session_id}/recording")
    async with AsyncExitStack() as stack:
        deaf = [await stack.enter_async_context(wire(house.url, receive_bytes=4096)) for _ in range(26)]
        for each in deaf:
            await each.send(head)

        async def are_some_refused() -> bool:
            return refused_and_cut()[0] > refused_before

        await until(are_some_refused, 15)

        async def is_read() -> bool:
            answer = await recording(house, session_id)
            assert answer.status_code in {200, 503}
            return answer.status_code == 200

        await until(is_read, 30)
        assert refused_and_cut()[1] > cut_before
