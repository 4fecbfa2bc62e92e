"""Values that do not open: a damaged one costs nothing but itself, one under others' key is for others."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from service.store.destinations import url_aad
from service.store.encryption import Keyring
from service.store.sessions import details_aad
from tests.support.api_calls import invalid, problem
from tests.support.bridge import ENCRYPTION_KEY, Bridge, open_bridge
from tests.support.medscribe_clients import envelope

FIELDS: dict[str, Any] = {"patient": {"id": "PAT-1", "name": "Asha Rao"}, "reference": "ENC-1"}
OLD, NEW = Keyring([ENCRYPTION_KEY]), Keyring([bytes(range(100, 132))])
# The last byte is of the tag; the second one of the key's id, of which nobody ever heard then.
DAMAGES = pytest.mark.parametrize("position", [-1, 2], ids=["value", "key id"])


def flipped(encrypted: bytes, position: int) -> bytes:
    damaged = bytearray(encrypted)
    damaged[position] ^= 1
    return bytes(damaged)


async def damage(house: Bridge, table: str, row_id: str, column: str, position: int = -1) -> None:
    encrypted = await house.database.fetchval(f"SELECT {column} FROM {table} WHERE id = $1", row_id)
    await house.database.execute(
        f"UPDATE {table} SET {column} = $2 WHERE id = $1", row_id, flipped(encrypted, position)
    )


async def move(house: Bridge, keyring: Keyring, table: str, row_id: str, column: str, place: str) -> None:
    """Bring a value under a key that the running service lacks."""
    encrypted = await house.database.fetchval(f"SELECT {column} FROM {table} WHERE id = $1", row_id)
    await house.database.execute(
        f"UPDATE {table} SET {column} = $2 WHERE id = $1",
        row_id,
        keyring.encrypt(OLD.decrypt(encrypted, place), place),
    )


async def register(database: asyncpg.Connection, keyring: Keyring) -> None:
    await database.execute("INSERT INTO encryption_keys (key_id) VALUES ($1)", keyring.first)


@DAMAGES
async def test_a_damaged_session_is_shown_without_what_is_lost_and_costs_no_other(
    house: Bridge, position: int
) -> None:
    whole = await house.create(**FIELDS)
    broken = await house.create(**FIELDS)
    await damage(house, "sessions", broken["id"], "details_sealed", position)
    with capture_logs() as logs:
        one = await house.session(broken["id"])
    assert (one["patient"], one["reference"], one["metadata"]) == (None, None, {})
    assert one["error"]["code"] == "value_unreadable"
    assert one["status"] == "created"
    told = [each for each in logs if each["event"] == "value_unreadable"]
    assert [(each["row"], each["column"]) for each in told] == [(broken["id"], "sessions.details_sealed")]
    listed = (await house.api.get("/v1/sessions", params={"limit": 50})).json()["items"]
    assert listed == [one, whole]


@DAMAGES
async def test_a_damaged_session_can_be_erased(house: Bridge, position: int) -> None:
    session = await house.create(**FIELDS)
    await damage(house, "sessions", session["id"], "details_sealed", position)
    answer = await house.api.delete(f"/v1/sessions/{session['id']}")
    assert answer.status_code == 202, answer.text
    problem(await house.api.get(f"/v1/sessions/{session['id']}"), 410, "session_erased")


async def test_a_damaged_result_says_so_where_it_stood(database_url: str, redis_url: str) -> None:
    async with open_bridge(database_url, redis_url) as house:
        await house.start_worker()
        session = await house.reach(await house.dictate(), "completed")
        document_id = session["documents"][0]["id"]
        await damage(house, "documents", document_id, "data_sealed")
        document = (await house.api.get(f"/v1/documents/{document_id}")).json()
        assert (document["data"], document["error"]["code"]) == (None, "value_unreadable")
        listed = (await house.api.get(f"/v1/sessions/{session['id']}/documents")).json()["items"]
        assert listed == [document]
        assert await house.session(session["id"]) == session
        await damage(house, "sessions", session["id"], "transcript_sealed")
        shown = await house.session(session["id"])
        assert (shown["transcript"], shown["error"]["code"]) == (None, "value_unreadable")
        assert (shown["patient"], shown["documents"]) == (session["patient"], session["documents"])


@DAMAGES
async def test_a_damaged_destination_costs_no_other_and_is_mended_by_a_new_value(
    house: Bridge, position: int
) -> None:
    whole = await house.add_destination()
    made = await house.add_destination(headers={"x-key": "hunter2"})
    path = f"/v1/destinations/{made['id']}"
    expected = (await house.api.get(path)).json()
    for column in ("url_sealed", "headers_sealed", "secrets_sealed"):
        await damage(house, "destinations", made["id"], column, position)
    shown = (await house.api.get(path)).json()
    assert shown == expected | {"url": "", "headers": {}, "paused_reason": "value_unreadable"}
    listed = (await house.api.get("/v1/destinations")).json()["items"]
    assert [each["id"] for each in listed] == [made["id"], whole["id"]]
    assert listed[0] == shown
    # Whose host the headers were for is not known any more: they are not sent to another one.
    invalid(await house.api.patch(path, json={"url": made["url"]}), "url")
    changed = await house.api.patch(path, json={"url": made["url"], "headers": {"x-key": "hunter2"}})
    assert changed.status_code == 200, changed.text
    assert changed.json()["paused_reason"] == "value_unreadable"  # the secret still is
    rotated = (await house.api.post(f"{path}/rotate-secret", json={})).json()
    assert rotated.pop("secret").startswith("whsec_")
    assert rotated == expected
    assert rotated["previous_secret_until"] is None  # the one before it signs nothing any more


async def test_what_is_under_a_key_that_only_others_have_is_not_called_damaged(
    database_url: str, redis_url: str
) -> None:
    async with open_bridge(database_url, redis_url) as house:
        session_id = (await house.create(**FIELDS))["id"]
        await house.put(session_id, 0)
        destination_id = (await house.add_destination())["id"]
        await register(house.database, NEW)
        place = details_aad(session_id)
        await move(house, NEW, "sessions", session_id, "details_sealed", place)
        await move(house, NEW, "destinations", destination_id, "url_sealed", url_aad(destination_id))
        calls = (
            ("GET", f"/v1/sessions/{session_id}"),
            ("GET", "/v1/sessions"),
            ("GET", f"/v1/sessions/{session_id}/documents"),
            ("POST", f"/v1/sessions/{session_id}/end"),
            ("GET", "/v1/destinations"),
            ("GET", f"/v1/destinations/{destination_id}"),
        )
        for method, path in calls:
            answer = await house.api.request(method, path)
            found = problem(answer, 503, "store_unavailable")
            assert found["detail"] == f"the encryption key {NEW.first} is not among ENCRYPTION_KEYS"
            assert int(answer.headers["retry-after"]) >= 1
        answer = await house.api.get(f"/voice/v1/sessions/{session_id}")
        envelope(answer, 503, "store_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        other_id = (await house.create(**FIELDS))["id"]
        await move(house, NEW, "sessions", other_id, "details_sealed", details_aad(other_id))
        assert (await house.api.delete(f"/v1/sessions/{other_id}")).status_code == 202
        # Given up, it is lost for everybody: the rest works again.
        await house.database.execute(
            "UPDATE encryption_keys SET retired_at = now() WHERE key_id = $1", NEW.first
        )
        assert (await house.session(session_id))["error"]["code"] == "value_unreadable"
        assert (await house.api.get("/v1/sessions")).status_code == 200
        assert (await house.api.get("/v1/destinations")).json()["items"][0]["url"] == ""


@DAMAGES
@pytest.mark.parametrize("path", ["/v1/sessions", "/v1/destinations"])
async def test_instead_of_a_damaged_kept_answer_a_repeat_shows_the_object_as_it_is(
    house: Bridge, path: str, position: int
) -> None:
    body = {"url": "https://emr.example/hooks"} if path == "/v1/destinations" else FIELDS
    headers = {"Idempotency-Key": "k"}
    first = (await house.api.post(path, json=body, headers=headers)).json()
    query = "SELECT answer_sealed FROM idempotency_keys WHERE session_id = $1"
    encrypted = await house.database.fetchval(query, first["id"])
    update = "UPDATE idempotency_keys SET answer_sealed = $2 WHERE session_id = $1"
    await house.database.execute(update, first["id"], flipped(encrypted, position))
    with capture_logs() as logs:
        again = await house.api.post(path, json=body, headers=headers)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
    assert again.json() == (await house.api.get(f"{path}/{first['id']}")).json()
    told = [each for each in logs if each["event"] == "value_unreadable"]
    assert [(each["column"], each["row"]) for each in told] == [
        ("idempotency_keys.answer_sealed", first["id"])
    ]
