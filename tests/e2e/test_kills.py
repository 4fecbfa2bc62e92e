"""Nothing is lost and nothing is done twice, whatever is killed: real processes, real kill -9."""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator

import asyncpg
import httpx2
import psutil
import pytest
from redis.asyncio import Redis

from tests.support.rig import Rig, dictate, open_rig, until
from tests.support.whole_recordings import send_recording, speech


@pytest.fixture
async def rig(database_url: str, redis_url: str) -> AsyncIterator[Rig]:
    async with open_rig(database_url, redis_url, forks=True) as opened:
        yield opened


async def test_duplicates_at_two_services_make_one_call_per_template(rig: Rig) -> None:
    services = await asyncio.gather(rig.serve(), rig.serve())
    await rig.worker()
    api = await rig.client(services[0])
    rig.vendor_app.state.vendor.settings.webhooks_enabled = False
    session_id = await dictate(api, templates=["eka_emr_template", "clinical_notes_template"])
    await rig.vendor.post(f"/_control/sessions/{session_id}/finish", json={"outcome": "completed"})
    answers = await asyncio.gather(
        *(
            rig.vendor.post(
                "/_control/webhooks/send",
                json={
                    "url": f"{service.url}/webhooks/eka",
                    "secret": "vendor-signing-key",
                    "session_id": session_id,
                    "copies": 50,
                },
            )
            for service in services
        )
    )
    outcomes = [json.loads(each["body"])["status"] for a in answers for each in a.json()["answers"]]
    assert sorted(outcomes) == ["accepted"] + ["duplicate"] * 99
    await _completed(api, session_id)
    assert (await rig.seen(session_id))["get_calls"] == {
        "eka_emr_template": 1,
        "clinical_notes_template": 1,
    }


async def test_a_worker_killed_between_fetch_and_forward_loses_nothing(rig: Rig) -> None:
    service, worker = await rig.serve(), await rig.worker()
    api = await rig.client(service)
    await rig.register_emr(api)
    await rig.emr.post(
        "/_control/behaviour", json={"sequence": [{"status": 200, "delay_seconds": 30, "times": 1}]}
    )
    session_id = await dictate(api, reference="ENC-9")
    await _completed(api, session_id)
    held = (await rig.received(1))[0]
    await worker.kill()
    await rig.worker()
    received = await rig.received(2)
    assert received[1]["headers"]["webhook-id"] == held["headers"]["webhook-id"]
    assert received[1]["body"] == held["body"]
    session = await until(lambda: _delivered(api, session_id))
    assert session["deliveries"] == {"pending": 0, "delivered": 1, "dead": 0}
    assert (await rig.seen(session_id))["get_calls"] == {"eka_emr_template": 1}


async def test_a_worker_killed_inside_a_fetch_leaves_it_to_the_next(rig: Rig, database_url: str) -> None:
    service, worker = await rig.serve(), await rig.worker()
    api = await rig.client(service)
    await rig.register_emr(api)
    await rig.fault("/sessions/ses_[^/]*$", method="GET", mode="hang", times=1)
    session_id = await dictate(api)

    async def is_asked() -> bool:
        wanted = {"method": "GET", "session_id": session_id}
        return (await rig.vendor.get("/_control/calls/count", params=wanted)).json()["count"] > 0

    await until(is_asked)
    await worker.kill()
    await _time_passes(database_url, "UPDATE fetches SET next_at = now() WHERE session_id = $1", session_id)
    await rig.worker()
    assert len(await rig.received(1)) == 1


async def test_a_service_killed_while_it_ends_a_session_ends_it_once(rig: Rig, database_url: str) -> None:
    service = await rig.serve()
    api = await rig.client(service)
    await rig.register_emr(api)
    created = (await api.post("/v1/sessions", json={})).json()["id"]
    await api.put(f"/v1/sessions/{created}/audio/0", content=b"sound", headers={"content-type": "audio/wav"})
    await rig.fault(f"/sessions/{created}/end", method="POST", mode="hang", when="after", times=1)
    ending = asyncio.create_task(api.post(f"/v1/sessions/{created}/end", json={"chunks": 1}))

    async def is_ended() -> bool:
        return (await rig.seen(created))["end_calls"] == 1

    await until(is_ended)
    await service.kill()
    with pytest.raises(httpx2.HTTPError):
        await ending
    await rig.serve()
    await _time_passes(database_url, "UPDATE sessions SET owed_next_at = now() WHERE id = $1", created)
    await _time_passes(database_url, "UPDATE fetches SET next_at = now() WHERE session_id = $1", created)
    await rig.worker()
    assert (await rig.received(1))[0]["body"]["data"]["session_id"] == created
    assert (await rig.seen(created))["end_calls"] == 1


async def test_a_service_killed_while_it_creates_a_session_creates_one(rig: Rig, database_url: str) -> None:
    service = await rig.serve()
    api = await rig.client(service)
    await rig.fault("/voice/v1/sessions$", method="POST", mode="hang", when="after", times=1)
    headers = {"idempotency-key": "one-dictation"}
    creating = asyncio.create_task(api.post("/v1/sessions", json={}, headers=headers))

    async def is_created() -> list[dict[str, str]]:
        return (await rig.vendor.get("/_control/sessions")).json()

    await until(is_created)
    await service.kill()
    with pytest.raises(httpx2.HTTPError):
        await creating
    api = await rig.client(await rig.serve())
    running = await api.post("/v1/sessions", json={}, headers=headers)
    assert (running.status_code, running.json()["code"]) == (409, "idempotency_in_progress")
    await _time_passes(database_url, "UPDATE sessions SET owed_next_at = now()")
    await _time_passes(database_url, "UPDATE idempotency_keys SET lease_until = now()")
    again = await api.post("/v1/sessions", json={}, headers=headers)
    assert again.status_code == 201, again.text
    known = await is_created()
    assert [each["session_id"] for each in known] == [again.json()["id"]]
    assert (await rig.seen(again.json()["id"]))["creates"] == 1
    replayed = await api.post("/v1/sessions", json={}, headers=headers)
    assert replayed.headers["idempotency-replayed"] == "true"
    assert replayed.content == again.content


async def test_a_service_killed_in_an_upload_takes_the_chunk_again(rig: Rig) -> None:
    service = await rig.serve()
    api = await rig.client(service)
    session_id = (await api.post("/v1/sessions", json={})).json()["id"]
    path = f"/v1/sessions/{session_id}/audio/0"
    wav = {"content-type": "audio/wav"}
    await rig.fault("/audio/audio_0", method="POST", mode="hang", when="after", times=1)
    sending = asyncio.create_task(api.put(path, content=b"sound", headers=wav))

    async def has_file() -> bool:
        return bool((await rig.seen(session_id))["files"])

    await until(has_file)
    await service.kill()
    with pytest.raises(httpx2.HTTPError):
        await sending
    api = await rig.client(await rig.serve())
    assert (await api.get(f"/v1/sessions/{session_id}")).json()["chunks_received"] == 0
    other = await api.put(path, content=b"other sound", headers=wav)
    assert (other.status_code, other.json()["code"]) == (409, "chunk_conflict")
    again = await api.put(path, content=b"sound", headers=wav)
    assert again.status_code == 200
    assert len((await rig.seen(session_id))["files"]) == 1


async def test_a_wiped_redis_loses_nothing(rig: Rig, redis_url: str) -> None:
    service = await rig.serve()
    api = await rig.client(service)
    await rig.register_emr(api)
    session_id = await dictate(api)
    await rig.vendor.get("/_control/webhooks", params={"session_id": session_id})

    async def is_due() -> bool:
        timeline = (await api.get(f"/v1/sessions/{session_id}/timeline")).json()["items"]
        return any(entry["type"] == "webhook.received" for entry in timeline)

    await until(is_due)
    async with Redis.from_url(redis_url) as redis:
        await redis.flushdb()
    await rig.worker()
    assert (await rig.received(1))[0]["body"]["data"]["session_id"] == session_id


async def test_without_redis_a_dictation_still_arrives(rig: Rig) -> None:
    nowhere = "redis://127.0.0.1:1/0"
    service = await rig.serve(redis_url=nowhere)
    worker = await rig.worker(redis_url=nowhere)
    api = await rig.client(service)
    await rig.register_emr(api)
    session_id = await dictate(api)
    assert (await rig.received(1))[0]["body"]["data"]["session_id"] == session_id
    async with httpx2.AsyncClient(trust_env=False) as http:
        for each in (service, worker):
            ready = await http.get(f"{each.url}/health/ready")
            assert (ready.status_code, ready.json()["redis"]) == (200, "unreachable")
    assert [await each.stop() for each in (service, worker)] == [0, 0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_both_processes_end_in_order(rig: Rig, number: int) -> None:
    service, worker = await rig.serve(), await rig.worker()
    assert [await each.stop(number) for each in (service, worker)] == [0, 0]


async def test_sigterm_finishes_what_is_in_hand(rig: Rig) -> None:
    service, worker = await rig.serve(), await rig.worker()
    api = await rig.client(service)
    await rig.register_emr(api)
    await rig.emr.post(
        "/_control/behaviour", json={"sequence": [{"status": 200, "delay_seconds": 0.7, "times": 1}]}
    )
    session_id = await dictate(api)
    await rig.received(1)
    assert await worker.stop() == 0
    assert (await _delivered(api, session_id))["deliveries"]["delivered"] == 1


async def test_two_processes_behind_one_port_survive_the_death_of_one(rig: Rig) -> None:
    service = await rig.serve(workers=2)
    api = await rig.client(service)
    await rig.register_emr(api)
    await rig.worker()
    children = [child for child in psutil.Process(service.process.pid).children() if _serves(child)]
    assert len(children) == 2
    children[0].kill()

    async def dictates() -> str | None:
        with contextlib.suppress(httpx2.HTTPError):
            return await dictate(api)
        return None

    assert await until(dictates)
    assert len(await rig.received(1)) >= 1
    assert await service.stop() == 0


def _serves(process: psutil.Process) -> bool:
    """Whether it is one of the service's own, not the helper that multiprocessing starts."""
    return "spawn_main" in " ".join(process.cmdline())


async def _completed(api: httpx2.AsyncClient, session_id: str) -> None:
    async def is_completed() -> bool:
        answer = await api.get(f"/v1/sessions/{session_id}", params={"wait": 1})
        return answer.json()["status"] == "completed"

    await until(is_completed)


async def _delivered(api: httpx2.AsyncClient, session_id: str) -> dict[str, dict[str, int]] | None:
    session = (await api.get(f"/v1/sessions/{session_id}")).json()
    return session if session["deliveries"]["delivered"] else None


async def _time_passes(database_url: str, statement: str, *arguments: str) -> None:
    """Let a lease run out without waiting for it."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(statement, *arguments)
    finally:
        await connection.close()


async def test_a_worker_killed_while_it_cuts_a_recording_leaves_it_to_the_next(
    rig: Rig, database_url: str
) -> None:
    service, worker = await rig.serve(), await rig.worker()
    api = await rig.client(service)
    await rig.register_emr(api)
    sent = await send_recording(api, speech(1800))
    assert sent.status_code == 202, sent.text
    session_id = sent.json()["id"]
    database = await asyncpg.connect(database_url)

    async def is_cutting() -> bool:
        return await database.fetchval("SELECT count(*) FROM chunks") > 0

    await until(is_cutting)
    await worker.kill()
    assert await database.fetchval("SELECT cut_at FROM recordings") is None, "it was over too soon"
    await database.execute("UPDATE sessions SET owed_next_at = now()")
    await rig.worker()
    assert (await rig.received(1))[0]["body"]["data"]["session_id"] == session_id
    recording = (await api.get(f"/v1/sessions/{session_id}")).json()["recording"]
    assert recording["chunks_total"] == recording["chunks_done"] == len((await rig.seen(session_id))["files"])
    assert (await rig.seen(session_id))["end_calls"] == 1
    assert await database.fetchval("SELECT count(*) FROM audio_blocks") == 0
    await database.close()


async def test_a_service_killed_while_it_receives_a_recording_has_begun_nothing(
    rig: Rig, database_url: str
) -> None:
    service = await rig.serve()
    api = await rig.client(service)
    is_half_sent, is_killed = asyncio.Event(), asyncio.Event()

    async def half_a_form() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="session"\r\n\r\n{}\r\n'
        yield b'--b\r\nContent-Disposition: form-data; name="audio"\r\n\r\n' + speech(30)
        is_half_sent.set()
        await is_killed.wait()
        yield b"more"

    headers = {"content-type": "multipart/form-data; boundary=b", "idempotency-key": "one"}
    sending = asyncio.create_task(api.post("/v1/recordings", content=half_a_form(), headers=headers))
    await is_half_sent.wait()
    await service.kill()
    is_killed.set()
    with pytest.raises(httpx2.HTTPError):
        await sending
    database = await asyncpg.connect(database_url)
    for table in ("sessions", "recordings", "audio_blocks", "idempotency_keys"):
        assert await database.fetchval(f"SELECT count(*) FROM {table}") == 0, table
    await database.close()
    api = await rig.client(await rig.serve())
    assert (await send_recording(api, speech(30), key="one")).status_code == 202


async def test_a_service_killed_while_it_receives_a_piece_leaves_the_rest_to_another(
    rig: Rig, database_url: str
) -> None:
    service = await rig.serve()
    api = await rig.client(service)
    await rig.register_emr(api)
    audio = speech(90)
    created = (await api.post("/v1/sessions", json={"upload": "recording"})).json()
    path = f"/v1/recordings/{created['id']}"
    tus = {"tus-resumable": "1.0.0"}
    begun = await api.post(path, headers=tus | {"upload-length": str(len(audio))})
    assert begun.status_code == 201
    is_killed = asyncio.Event()

    async def half_of_it() -> AsyncIterator[bytes]:
        yield audio[:1_500_000]
        await is_killed.wait()
        yield b"more"

    headers = tus | {"content-type": "application/offset+octet-stream"}
    sending = asyncio.create_task(
        api.patch(path, content=half_of_it(), headers=headers | {"upload-offset": "0"})
    )
    database = await asyncpg.connect(database_url)

    async def is_received() -> bool:
        return bool(await database.fetchval("SELECT received > 0 FROM recording_uploads"))

    await until(is_received)
    await service.kill()
    is_killed.set()
    with pytest.raises(httpx2.HTTPError):
        await sending
    other = await rig.client(await rig.serve())
    await rig.worker()
    offset = int((await other.head(path, headers=tus)).headers["upload-offset"])
    assert 0 < offset <= 1_500_000

    async def is_continued() -> bool:
        rest = {"content": audio[offset:], "headers": headers | {"upload-offset": str(offset)}}
        return (await other.patch(path, **rest)).status_code == 204

    await until(is_continued)
    assert (await rig.received(1))[0]["body"]["data"]["session_id"] == created["id"]
    recording = (await other.get(f"/v1/sessions/{created['id']}")).json()["recording"]
    assert (recording["bytes"], recording["seconds"]) == (len(audio), 90.0)
    await database.close()
