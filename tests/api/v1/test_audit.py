"""GET /v1/audit: who read, changed or erased what, and when."""

import asyncio
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from tests.support.api_calls import problem
from tests.support.bridge import Bridge, add_key, add_tenant

BEFORE_TODAY = "2026-01-02T00:00:00Z"  # the entries that a test adds itself
SECRET = "Zaphrandine Quillibrand"


async def trail(house: Bridge, **params: Any) -> list[dict[str, Any]]:
    answer = await house.admin.get("/v1/audit", params={"limit": 100} | params)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


async def reads(bridge: Bridge, *keys: str) -> list[dict[str, Any]]:
    """What was read, newest first, by others than the key that dictated."""
    return [
        each for each in await trail(bridge) if each["action"].endswith(".read") and each["actor"] not in keys
    ]


async def finished(bridge: Bridge) -> dict[str, Any]:
    """A finished session, seen by nobody yet but the key that dictated it, `by`."""
    worker = await bridge.start_worker()
    writer = await bridge.client(await add_key(bridge.settings, bridge.tenant_id, "emr"))
    session_id = await replace(bridge, api=writer).dictate(patient={"id": "PAT-1", "name": SECRET})
    (entry,) = await reads(bridge)
    by = entry["actor"]
    wait = "SELECT count(*) FROM sessions WHERE status = 'completed' AND id = $1"
    async with asyncio.timeout(20):
        while await bridge.database.fetchval(wait, session_id) == 0:
            pass  # each look is a round trip
    await worker.stop()
    document_id = await bridge.database.fetchval("SELECT id FROM documents WHERE session_id = $1", session_id)
    return {"id": session_id, "document": document_id, "by": by}


async def test_only_an_admin_may_read_it(house: Bridge) -> None:
    problem(await house.api.get("/v1/audit"), 403, "forbidden")
    assert (await house.admin.get("/v1/audit")).status_code == 200


async def test_reads_of_content_leave_one_entry_for_each_key_and_object(bridge: Bridge) -> None:
    session = await finished(bridge)
    for _ in range(3):
        await bridge.api.get(f"/v1/sessions/{session['id']}?wait=1")
        await bridge.api.get(f"/v1/documents/{session['document']}")
        await bridge.api.get(f"/v1/sessions/{session['id']}/documents")
    await bridge.admin.get(f"/v1/documents/{session['document']}")
    found = await reads(bridge, session["by"])
    assert [(each["action"], each["object_id"]) for each in found] == [
        ("document.read", session["document"]),
        ("document.read", session["document"]),
        ("session.read", session["id"]),
    ]
    admin, emr, same = [each["actor"] for each in found]
    assert emr == same != admin
    assert all(each["facts"] == {} for each in found)
    assert SECRET not in str(await trail(bridge))


@pytest.mark.parametrize("path", ["/v1/sessions", "/v1/sessions/{id}/documents", "/voice/v1/sessions/{id}"])
async def test_every_door_that_shows_content_is_watched(bridge: Bridge, path: str) -> None:
    session = await finished(bridge)
    answer = await bridge.api.get(path.format(**session))
    assert answer.is_success, answer.text
    (found,) = await reads(bridge, session["by"])
    assert found["object_id"] in session.values()


async def test_a_repeated_end_that_shows_the_transcript_is_a_read(bridge: Bridge) -> None:
    session = await finished(bridge)
    assert (await bridge.api.post(f"/v1/sessions/{session['id']}/end")).json()["transcript"]
    assert [each["object_id"] for each in await reads(bridge, session["by"])] == [session["id"]]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/sessions/{id}", None),
        ("GET", "/v1/sessions/{id}?wait=0.05", None),
        ("GET", "/v1/sessions", None),
        ("GET", "/v1/sessions?patient_id=PAT-1", None),
        ("PATCH", "/v1/sessions/{id}", {"languages": ["hi"]}),
        ("POST", "/v1/sessions/{id}/end", {}),
        ("GET", "/voice/v1/sessions/{id}", None),
    ],
)
async def test_whoever_is_shown_a_patient_s_details_is_written_down(
    house: Bridge, method: str, path: str, body: dict[str, Any] | None
) -> None:
    session = await house.create(patient={"id": "PAT-1", "name": SECRET})
    await house.put(session["id"], 0)
    assert await reads(house) == []  # what was only said to us was shown to nobody
    answer = await house.admin.request(method, path.format(**session), json=body)
    assert answer.is_success, answer.text
    assert SECRET in answer.text
    (found,) = await reads(house)
    assert (found["action"], found["object_id"]) == ("session.read", session["id"])
    assert SECRET not in str(found)


async def test_a_replayed_create_is_a_read_of_what_it_shows(house: Bridge) -> None:
    for patient in ({"id": "PAT-1", "name": SECRET}, None):
        headers = {"idempotency-key": f"key-{patient is None}"}
        first = await house.api.post("/v1/sessions", json={"patient": patient}, headers=headers)
        again = await house.admin.post("/v1/sessions", json={"patient": patient}, headers=headers)
        assert again.headers["idempotency-replayed"] == "true"
        assert again.json()["id"] == first.json()["id"]
    (found,) = await reads(house)
    assert found["action"] == "session.read"


async def test_what_shows_no_content_leaves_no_entry(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    for path in (f"/v1/sessions/{session_id}", "/v1/sessions", f"/v1/sessions/{session_id}/timeline"):
        assert (await house.api.get(path)).is_success
    assert [
        each for each in await trail(house, object_id=session_id) if each["action"].endswith("read")
    ] == []


async def test_a_read_is_answered_although_it_cannot_be_recorded(bridge: Bridge) -> None:
    session = await finished(bridge)
    lock = bridge.database.transaction()
    await lock.start()
    await bridge.database.execute("ALTER TABLE audit RENAME TO audit_away")
    await lock.commit()
    try:
        answer = await bridge.api.get(f"/v1/documents/{session['document']}")
        assert answer.status_code == 200, answer.text
    finally:
        await bridge.database.execute("ALTER TABLE audit_away RENAME TO audit")
    # What was not recorded is, with the next read.
    await bridge.api.get(f"/v1/documents/{session['document']}")
    assert len(await trail(bridge, action="document.read")) == 1


async def test_an_erasure_leaves_counts_and_a_hash_and_the_earlier_reads(bridge: Bridge) -> None:
    session = await finished(bridge)
    await bridge.api.get(f"/v1/sessions/{session['id']}")
    await bridge.api.delete(f"/v1/sessions/{session['id']}")
    erased, *seen = await trail(bridge, object_id=session["id"])
    assert [erased["action"], *(each["action"] for each in seen)] == [
        "session.erased",
        "session.read",
        "session.read",
    ]
    assert erased["facts"].keys() == {"documents", "deliveries", "sha256"}
    assert (erased["facts"]["documents"], len(erased["facts"]["sha256"])) == (1, 64)


async def add_entries(house: Bridge, count: int) -> None:
    """Entries of which each two happened at the same moment."""
    await house.database.execute(
        "INSERT INTO audit (tenant_id, at, actor, action, object_id) "
        "SELECT $1, timestamptz '2026-01-01Z' + (n / 2) * interval '1 hour', 'cli', 'made.' || n % 3, "
        "'o' || n "
        "FROM generate_series(0, $2 - 1) n",
        house.tenant_id,
        count,
    )


async def test_pages_are_newest_first_and_none_is_repeated_or_skipped(house: Bridge) -> None:
    await add_entries(house, 9)
    seen, cursor = [], None
    while True:
        params = {"limit": 2, "to": BEFORE_TODAY} | ({"cursor": cursor} if cursor else {})
        page = (await house.admin.get("/v1/audit", params=params)).json()
        seen += [each["object_id"] for each in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [f"o{number}" for number in reversed(range(9))]


async def test_filters(house: Bridge) -> None:
    await add_entries(house, 9)

    async def found(params: dict[str, str]) -> list[str]:
        return [each["object_id"] for each in await trail(house, **({"to": BEFORE_TODAY} | params))]

    assert await found({"action": "made.1"}) == ["o7", "o4", "o1"]
    assert await found({"object_id": "o4"}) == ["o4"]
    assert await found({"from": "2026-01-01T03:00:00Z"}) == ["o8", "o7", "o6"]
    assert await found({"to": "2026-01-01T01:00:00Z"}) == ["o1", "o0"]
    assert await found({"from": "2026-01-01T01:00:00Z", "to": "2026-01-01T02:00:00Z"}) == ["o3", "o2"]
    wrong = {"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}
    problem(await house.admin.get("/v1/audit", params=wrong), 400, "invalid_request")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = 'nobody'",
        "UPDATE audit SET facts = '{}' WHERE false",
        "DELETE FROM audit",
        "DELETE FROM audit WHERE id = (SELECT max(id) FROM audit)",
        "TRUNCATE audit",
        """INSERT INTO audit (id, tenant_id, actor, action, object_id) OVERRIDING SYSTEM VALUE
           SELECT id, tenant_id, 'x', 'x', 'x' FROM audit ON CONFLICT (id) DO UPDATE SET actor = 'x'""",
    ],
)
async def test_the_database_itself_refuses_to_change_an_entry(house: Bridge, statement: str) -> None:
    await add_entries(house, 2)
    before = await trail(house)
    for role in ("origin", "replica"):  # with the second, ordinary triggers are off
        await house.database.execute(f"SET session_replication_role = {role}")
        with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
            await house.database.execute(statement)
    assert await trail(house) == before != []


async def test_a_foreign_cursor_is_refused(house: Bridge) -> None:
    sessions = await house.api.get("/v1/sessions", params={"limit": 1})
    if sessions.json()["next_cursor"] is None:
        for _ in range(2):
            await house.create()
        sessions = await house.api.get("/v1/sessions", params={"limit": 1})
    cursor = sessions.json()["next_cursor"]
    problem(await house.admin.get("/v1/audit", params={"cursor": cursor}), 400, "invalid_request")
    problem(await house.admin.get("/v1/audit", params={"cursor": "x"}), 400, "invalid_request")


async def test_other_tenants_entries_are_not_shown(house: Bridge) -> None:
    await add_entries(house, 1)
    _, key = await add_tenant(house.settings, "stranger", "admin")
    answer = await house.api.get("/v1/audit", headers={"authorization": f"Bearer {key}"})
    assert [each["action"] for each in answer.json()["items"]] == ["key.created", "tenant.created"]


async def test_of_an_emrs_answer_only_status_size_hash_and_class_are_kept(bridge: Bridge) -> None:
    await bridge.add_destination()
    words = f"{SECRET} cannot be filed"
    await bridge.emr.post(
        "/_control/behaviour", json={"sequence": [{"status": 422, "body": {"detail": words}}]}
    )
    await bridge.start_worker()
    await bridge.dictate()
    (received,) = await bridge.received(1)
    path = f"/v1/deliveries/{received['headers']['webhook-id']}"
    async with asyncio.timeout(20):
        while (answer := await bridge.api.get(path)).json()["status"] != "dead":
            pass
    assert SECRET not in answer.text
    (attempt,) = await bridge.database.fetch("SELECT * FROM attempts")
    assert (attempt["status_code"], attempt["error_class"]) == (422, "http_422")
    assert attempt["response_bytes"] > len(words)
    assert len(attempt["response_sha256"]) == 32
    tables = await bridge.database.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    for table in tables:
        for row in await bridge.database.fetch(f'SELECT t::text AS shown FROM "{table["tablename"]}" t'):
            assert SECRET not in row["shown"]
            assert SECRET.encode().hex() not in row["shown"]
