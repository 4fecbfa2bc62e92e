"""PATCH /v1/sessions/{id}: at the vendor first, then here, and never across an end."""

import asyncio
import json
from typing import Any

import pytest

from tests.support.api_calls import call_arrived, clear_faults, expire, invalid, problem
from tests.support.bridge import Bridge

PATIENT = {"id": "PAT-9", "name": "Ravi Iyer", "age": 41}


async def change(house: Bridge, session_id: str, **fields: Any) -> Any:
    return await house.api.patch(f"/v1/sessions/{session_id}", json=fields)


async def patches(house: Bridge, session_id: str) -> int:
    return await house.calls(f"/sessions/{session_id}$", "PATCH")


async def audits(house: Bridge, session_id: str) -> list[tuple[str, Any]]:
    rows = await house.database.fetch(
        "SELECT action, facts FROM audit WHERE object_id = $1 ORDER BY id", session_id
    )
    return [(row["action"], json.loads(row["facts"])) for row in rows]


async def test_what_is_given_is_replaced_as_a_whole_here_and_at_the_vendor(house: Bridge) -> None:
    before = await house.create(
        patient={"id": "PAT-1", "name": "Asha Rao", "ward": "7"}, reference="ENC-1", metadata={"ward": "7"}
    )
    answer = await change(
        house, before["id"], patient=PATIENT, templates=["a_template", "b_template"], languages=["hi", "en"]
    )
    assert answer.status_code == 200, answer.text
    expected = before | {
        "patient": PATIENT,
        "templates": ["a_template", "b_template"],
        "languages": ["hi", "en"],
    }
    assert answer.json() == expected
    assert await house.session(before["id"]) == expected
    seen = await house.seen(before["id"])
    assert seen["patient"] == {"oid": "PAT-9", "name": "Ravi Iyer", "age": 41}
    assert seen["templates"] == ["a_template", "b_template"]
    assert seen["languages"] == ["hi", "en"]
    assert seen["additional_data"]["ward"] == "7"
    assert (seen["mode"], seen["model"]) == ("dictation", "pro")
    assert await audits(house, before["id"]) == [
        ("session.changed", {"fields": ["templates", "languages", "patient"]}),
        ("session.read", {}),  # the answer shows the patient
    ]


async def test_only_what_changed_is_sent_and_the_rest_stays(house: Bridge) -> None:
    before = await house.create(patient={"id": "PAT-1"}, metadata={"ward": "7"})
    assert (await change(house, before["id"], languages=["hi"])).json() == before | {"languages": ["hi"]}
    seen = await house.seen(before["id"])
    assert (seen["patient"], seen["templates"]) == ({"oid": "PAT-1"}, ["eka_emr_template"])
    # additional_data in a PATCH would break later calls (docs/vendor.md#patch-metadata): they still work.
    assert (await house.put(before["id"], 0)).status_code == 200
    assert (await house.end(before["id"], chunks=1)).status_code == 202


async def test_the_session_is_found_by_its_new_patient_and_not_by_the_old_one(house: Bridge) -> None:
    session_id = (await house.create(patient={"id": "PAT-old"}))["id"]
    await change(house, session_id, patient={"id": "PAT-new"})

    async def found(patient_id: str) -> list[str]:
        page = await house.api.get("/v1/sessions", params={"patient_id": patient_id})
        return [each["id"] for each in page.json()["items"]]

    assert await found("PAT-old") == []
    assert await found("PAT-new") == [session_id]
    await change(house, session_id, patient={"name": "of no id"})
    assert await found("PAT-new") == []


async def test_the_templates_that_count_are_those_at_the_end(house: Bridge) -> None:
    session_id = (await house.create(templates=["a_template"]))["id"]
    await house.put(session_id, 0)
    await change(house, session_id, templates=["b_template"])
    await house.end(session_id, chunks=1)
    rows = await house.database.fetch("SELECT template_id FROM fetches WHERE session_id = $1", session_id)
    assert [row["template_id"] for row in rows] == ["b_template"]


async def test_a_change_of_nothing_calls_nobody(house: Bridge) -> None:
    before = await house.create()
    for body in (b"", b"{}", b'{"patient": null}'):
        answer = await house.api.patch(f"/v1/sessions/{before['id']}", content=body)
        assert (answer.status_code, answer.json()) == (200, before)
    assert await patches(house, before["id"]) == 0
    assert await audits(house, before["id"]) == []


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"templates": []}, "templates"),
        ({"templates": ["a", "b", "c"]}, "templates"),
        ({"templates": ["a", "a"]}, "templates"),
        ({"templates": ["a/b"]}, "templates"),
        ({"languages": ["english"]}, "languages"),
        ({"patient": {}}, "patient"),
        ({"patient": {"id": ""}}, "patient.id"),
        ({"patient": {"name": 5}}, "patient.name"),
        ({"patient": {"id": "a\0b"}}, "patient.id"),
        ({"patient": {"note": "x" * 5000}}, "patient"),
        ({"reference": "ENC-2"}, "reference"),
        ({"metadata": {}}, "metadata"),
        ({"status": "cancelled"}, "status"),
    ],
)
async def test_what_create_refuses_a_change_refuses_too(
    house: Bridge, fields: dict[str, Any], named: str
) -> None:
    before = await house.create()
    found = invalid(await change(house, before["id"], **fields))
    assert found["errors"][0]["field"].startswith(named)
    assert await patches(house, before["id"]) == 0
    assert await house.session(before["id"]) == before


async def test_after_the_end_nothing_changes_any_more(house: Bridge) -> None:
    session_id = await house.dictate()
    problem(await change(house, session_id, patient=PATIENT), 409, "session_ended")
    assert await patches(house, session_id) == 0
    expired = (await house.create())["id"]
    await expire(house, expired)
    problem(await change(house, expired, patient=PATIENT), 409, "session_expired")
    assert await patches(house, expired) == 0


@pytest.mark.parametrize("body", [b"", b"{}", b'{"patient": null}'])
async def test_a_change_of_nothing_is_refused_where_any_other_change_is(house: Bridge, body: bytes) -> None:
    async def change_nothing(session_id: str) -> Any:
        return await house.api.patch(f"/v1/sessions/{session_id}", content=body)

    past = (await house.create())["id"]
    await expire(house, past)
    problem(await change_nothing(past), 409, "session_expired")
    for status, code in (
        ("expired", "session_expired"),
        ("processing", "session_ended"),
        ("partial", "session_ended"),
        ("completed", "session_ended"),
        ("failed", "session_ended"),
        ("cancelled", "session_ended"),
    ):
        session_id = (await house.create())["id"]
        await house.database.execute("UPDATE sessions SET status = $2 WHERE id = $1", session_id, status)
        problem(await change_nothing(session_id), 409, code)
    erased = (await house.create())["id"]
    assert (await house.api.delete(f"/v1/sessions/{erased}")).status_code == 202
    problem(await change_nothing(erased), 410, "session_erased")


async def test_nobody_changes_another_tenant_s_session(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    stranger = await house.tenant()
    for method, path in (("PATCH", ""), ("DELETE", ""), ("POST", "/documents"), ("GET", "/events")):
        for wanted in (session_id, "ses_nosuchsession00000", "%00"):
            body = {"template_id": "a"} if method == "POST" else None
            answer = await stranger.request(method, f"/v1/sessions/{wanted}{path}", json=body)
            problem(answer, 404, "not_found")
    assert (await house.session(session_id))["status"] == "created"


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 500, "when": "after"},
        {"mode": "reset"},
        {"status": 429, "headers": {"Retry-After": "0"}},
    ],
)
async def test_one_failure_of_the_vendor_is_not_seen(house: Bridge, fault: dict[str, Any]) -> None:
    session_id = (await house.create())["id"]
    await house.fault(f"{session_id}$", method="PATCH", **fault)
    assert (await change(house, session_id, languages=["hi"])).json()["languages"] == ["hi"]
    assert (await house.seen(session_id))["languages"] == ["hi"]


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ({"status": 503, "headers": {"Retry-After": "30"}}, 503, "vendor_unavailable"),
        ({"status": 500}, 502, "vendor_error"),
        ({"status": 400, "body": {"error": {"code": "bad_request"}}}, 502, "vendor_error"),
        ({"status": 409, "body": {"error": {"code": "session_already_committed"}}}, 409, "session_ended"),
        ({"status": 410, "body": {"error": {"code": "session_expired"}}}, 409, "session_expired"),
    ],
)
async def test_after_a_failure_nothing_has_changed_and_the_same_call_may_succeed(
    house: Bridge, fault: dict[str, Any], status: int, code: str
) -> None:
    before = await house.create()
    await house.fault(f"{before['id']}$", method="PATCH", times=None, **fault)
    problem(await change(house, before["id"], languages=["hi"]), status, code)
    assert await house.session(before["id"]) == before
    await clear_faults(house)
    assert (await change(house, before["id"], languages=["hi"])).status_code == 200


async def test_an_end_waits_for_a_change_and_a_change_for_another(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    await house.put(session_id, 0)
    await house.fault(f"{session_id}$", method="PATCH", delay_seconds=0.6)
    changing = asyncio.create_task(change(house, session_id, templates=["b_template"]))
    await call_arrived(house, f"{session_id}$", "PATCH")
    problem(await change(house, session_id, templates=["c_template"]), 409, "session_not_ready")
    problem(await house.end(session_id, chunks=1), 409, "session_not_ready")
    assert (await house.put(session_id, 1)).status_code == 200
    assert (await changing).json()["templates"] == ["b_template"]
    assert (await house.end(session_id, chunks=2)).status_code == 202
    assert (await house.seen(session_id))["templates"] == ["b_template"]


async def test_a_change_whose_process_died_keeps_nobody_away_for_longer_than_its_lease(house: Bridge) -> None:
    session_id = (await house.create())["id"]
    await house.put(session_id, 0)
    await house.database.execute(
        "UPDATE sessions SET change_lease = gen_random_uuid(), change_until = now() + interval '60 s' "
        "WHERE id = $1",
        session_id,
    )
    problem(await change(house, session_id, languages=["hi"]), 409, "session_not_ready")
    await house.database.execute(
        "UPDATE sessions SET change_until = now() - interval '1 s' WHERE id = $1", session_id
    )
    assert (await change(house, session_id, languages=["hi"])).status_code == 200
    assert (await house.end(session_id, chunks=1)).status_code == 202


@pytest.mark.parametrize(
    ("meanwhile", "status", "code"),
    [
        ("status = 'expired'", 409, "session_expired"),
        ("status = 'processing', ended_at = now()", 409, "session_ended"),
        ("change_lease = NULL", 409, "session_not_ready"),
    ],
)
async def test_a_change_that_comes_too_late_is_not_recorded(
    house: Bridge, meanwhile: str, status: int, code: str
) -> None:
    before = await house.create()
    await house.fault(f"{before['id']}$", method="PATCH", delay_seconds=0.5)
    changing = asyncio.create_task(change(house, before["id"], languages=["hi"]))
    await call_arrived(house, f"{before['id']}$", "PATCH")
    await house.database.execute(f"UPDATE sessions SET {meanwhile} WHERE id = $1", before["id"])
    problem(await changing, status, code)
    assert (await house.session(before["id"]))["languages"] == before["languages"]
    assert await audits(house, before["id"]) == []


async def test_a_session_that_the_vendor_is_not_known_to_have_cannot_change(house: Bridge) -> None:
    await house.fault("/sessions$", method="POST", times=None, status=503, headers={"Retry-After": "30"})
    assert (await house.api.post("/v1/sessions", json={})).status_code == 201
    await clear_faults(house)
    (page,) = (await house.api.get("/v1/sessions")).json()["items"]
    problem(await change(house, page["id"], languages=["hi"]), 409, "session_not_ready")


async def test_no_languages_at_all_are_refused(house: Bridge) -> None:
    session = await house.create(languages=["hi"])
    invalid(await change(house, session["id"], languages=[]), "languages")
    assert (await house.session(session["id"]))["languages"] == ["hi"]
