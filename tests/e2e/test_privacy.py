"""No patient data where it must not be: logs, metrics, Redis, the database in clear, error messages."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import httpx2
import pytest
from redis.asyncio import Redis

from tests.support.dumps import _dump_database
from tests.support.rig import Rig, dictate, open_rig, until

PATIENT = "Zaphrandine Quillibrand"


PATIENT_ID = "PAT-7731-QXZ"


REFERENCE = "ENC-5519-QXZ"


WARD = "ward-eleven-QXZ"


SPOKEN = "Received 2 audio files"


NOTED = "Acute bronchitis"


@pytest.fixture
async def rig(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with open_rig(database_url, redis_url, forks=True) as opened:
        opened.log = tmp_path / "processes.log"
        yield opened


async def test_nothing_that_identifies_a_patient_leaves_its_place(
    rig: Rig, database_url: str, redis_url: str
) -> None:
    service, worker = await rig.serve(log_level="debug"), await rig.worker(log_level="debug")
    api = await rig.client(service)
    await rig.register_emr(api)
    await rig.emr.post("/_control/behaviour", json={"sequence": [{"status": 503, "body": PATIENT}]})
    await rig.fault("/audio/", mode="respond", status=500, body={"detail": PATIENT}, times=1)
    fields = {
        "patient": {"id": PATIENT_ID, "name": PATIENT},
        "reference": REFERENCE,
        "metadata": {"ward": WARD},
    }
    session_id = await dictate(api, **fields)
    received = await rig.received(2)
    assert SPOKEN in received[1]["body"]["data"]["transcript"]
    assert received[1]["body"]["data"]["document"]["data"]["diagnosis"] == [NOTED]
    mistakes = await _make_mistakes(api, session_id)
    async with httpx2.AsyncClient(trust_env=False) as http:
        metrics = "".join([(await http.get(f"{each.url}/metrics")).text for each in (service, worker)])
    assert rig.log is not None
    places = {
        "log": await asyncio.to_thread(rig.log.read_text),
        "metrics": metrics,
        "redis": await _dump_redis(redis_url),
        "database": await _dump_database(database_url),
        "errors": mistakes,
    }
    assert session_id in places["log"]
    assert session_id in places["database"]
    secret_words = [
        *(PATIENT, PATIENT_ID, REFERENCE, WARD, SPOKEN, NOTED),
        *(rig.key, "sandbox-secret", "vendor-signing-key", "whsec_", "/hooks"),
    ]
    found = [
        (place, word, line)
        for place, text in places.items()
        for word in secret_words
        for line in text.splitlines()
        if word in line
    ]
    assert found == []


async def _make_mistakes(api: httpx2.AsyncClient, session_id: str) -> str:
    """Send the patient where it does not belong, and return what we are told."""
    calls = [
        api.post("/v1/sessions", json={"patient": {"id": ["x"], "name": PATIENT}}),
        api.post("/v1/sessions", json={"mode": PATIENT}),
        api.post("/v1/sessions", json={"languages": [PATIENT]}),
        api.post("/v1/sessions", content=f'{{"patient": "{PATIENT}"'.encode()),
        api.get("/v1/sessions", params={"status": PATIENT}),
        api.get("/v1/sessions", params={"cursor": PATIENT, "patient_id": PATIENT_ID}),
        api.get(f"/v1/sessions/{PATIENT_ID}"),
        api.get(f"/{PATIENT}"),
        api.put(f"/v1/sessions/{session_id}/audio/{PATIENT_ID}", content=b"x"),
        api.put(
            f"/v1/sessions/{session_id}/audio/7", content=b"x", headers={"content-type": f"x/{PATIENT_ID}"}
        ),
        api.post("/v1/sessions", json={}, headers={"idempotency-key": f"{PATIENT_ID} {PATIENT_ID}"}),
        api.post("/webhooks/eka", content=PATIENT.encode()),
    ]
    answers = await asyncio.gather(*calls)
    assert all(400 <= answer.status_code < 500 for answer in answers)
    return "".join(answer.text for answer in answers)


async def _dump_redis(redis_url: str) -> str:
    async with Redis.from_url(redis_url) as redis:
        keys = await redis.keys("*")
        dumped = [str(key) + str(await redis.dump(key)) for key in keys]
    return "".join(dumped)


async def test_the_answer_to_a_kept_key_is_encrypted_too(rig: Rig, database_url: str) -> None:
    api = await rig.client(await rig.serve())
    fields = {"patient": {"id": PATIENT_ID, "name": PATIENT}}
    headers = {"idempotency-key": REFERENCE}
    created = await api.post("/v1/sessions", json=fields, headers=headers)
    assert created.json()["patient"]["name"] == PATIENT
    assert PATIENT not in await _dump_database(database_url)
    assert REFERENCE not in await _dump_database(database_url)

    async def is_kept() -> bool:
        return (await api.post("/v1/sessions", json=fields, headers=headers)).content == created.content

    assert await until(is_kept)


async def test_nothing_of_an_erased_session_is_left_anywhere(
    rig: Rig, database_url: str, redis_url: str
) -> None:
    service, _ = await rig.serve(), await rig.worker()
    api = await rig.client(service)
    await rig.register_emr(api)
    fields = {
        "patient": {"id": PATIENT_ID, "name": PATIENT},
        "reference": REFERENCE,
        "metadata": {"ward": WARD},
    }
    kept = await api.post("/v1/sessions", json=fields, headers={"idempotency-key": REFERENCE})
    session_id = kept.json()["id"]
    audio = {"content": b"audio", "headers": {"content-type": "audio/wav"}}
    for sequence in range(2):
        assert (await api.put(f"/v1/sessions/{session_id}/audio/{sequence}", **audio)).is_success
    assert (await api.post(f"/v1/sessions/{session_id}/end")).is_success
    await rig.received(1)
    further = {"template_id": "clinical_notes_template"}
    assert (await api.post(f"/v1/sessions/{session_id}/documents", json=further)).is_success
    await rig.received(2)

    async def is_delivered() -> bool:
        counts = (await api.get(f"/v1/sessions/{session_id}")).json()["deliveries"]
        return bool(counts["delivered"] == 2)

    assert await until(is_delivered)
    before = await _bytes_of(database_url)
    assert (await api.delete(f"/v1/sessions/{session_id}")).status_code == 202
    after = await _bytes_of(database_url)

    # Of all hashes and sealed values that its rows held none is left, wherever it stood.
    gone = before - after
    assert {table for table, _, _ in gone} >= {
        *("sessions", "chunks", "documents", "events", "webhook_events", "attempts", "idempotency_keys")
    }
    shared = {"tenants", "api_keys", "destinations", "server_secrets", "vendor_tokens"}
    left = {(table, column) for table, column, _ in after if table not in shared}
    assert left == {("idempotency_keys", "key_hash"), ("idempotency_keys", "request_hash")}
    assert [value for table, column, value in after if column == "request_hash"] == [b""]
    dump = await _dump_database(database_url)
    assert "audio_0.wav" not in dump
    for word in (PATIENT, PATIENT_ID, REFERENCE, WARD, SPOKEN, NOTED):
        assert word not in dump
    assert session_id in dump  # so that the same key makes no new session


async def _bytes_of(database_url: str) -> set[tuple[str, str, bytes]]:
    """Every binary value of every table: sealed values and hashes, with where they stand."""
    connection = await asyncpg.connect(database_url)
    try:
        columns = await connection.fetch(
            "SELECT table_name, column_name FROM information_schema.columns "
            "WHERE table_schema = 'public' AND data_type = 'bytea'"
        )
        found = set()
        for table, column in columns:
            for row in await connection.fetch(f'SELECT "{column}" FROM "{table}"'):
                if row[0] is not None:
                    found.add((table, column, row[0]))
        return found
    finally:
        await connection.close()
