"""GET /v1/sessions: pages, filters, cursors."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.api_calls import invalid
from tests.support.bridge import Bridge


async def listed(house: Bridge, **params: Any) -> dict[str, Any]:
    answer = await house.api.get("/v1/sessions", params=params)
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"items", "next_cursor"}
    return answer.json()  # type: ignore[no-any-return]


async def ids(house: Bridge, **params: Any) -> list[str]:
    return [session["id"] for session in (await listed(house, **params))["items"]]


def forged(text: str | bytes) -> str:
    raw = text if isinstance(text, bytes) else text.encode()
    return base64.urlsafe_b64encode(raw).decode()


async def test_an_empty_list(house: Bridge) -> None:
    assert await listed(house) == {"items": [], "next_cursor": None}


async def test_pages_are_newest_first_and_hold_each_session_once(house: Bridge) -> None:
    made = [(await house.create())["id"] for _ in range(7)]
    seen: list[str] = []
    cursor = None
    sizes = []
    while True:
        page = await listed(house, limit=3, **({"cursor": cursor} if cursor else {}))
        sizes.append(len(page["items"]))
        seen += [session["id"] for session in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        await house.create()  # what is new does not move what is old
    assert sizes == [3, 3, 1]
    assert seen == made[::-1]


async def test_a_full_last_page_has_no_next(house: Bridge) -> None:
    for _ in range(2):
        await house.create()
    assert (await listed(house, limit=2))["next_cursor"] is None
    assert (await listed(house, limit=1))["next_cursor"] is not None


async def test_sessions_of_one_instant_are_not_lost_between_pages(house: Bridge) -> None:
    made = {(await house.create())["id"] for _ in range(5)}
    await house.database.execute(
        "UPDATE sessions SET created_at = '2026-01-01T00:00:00Z' WHERE id = ANY($1)", list(made)
    )
    found: list[str] = []
    cursor = None
    for _ in range(5):
        page = await listed(house, limit=1, **({"cursor": cursor} if cursor else {}))
        found += [session["id"] for session in page["items"]]
        cursor = page["next_cursor"]
    assert cursor is None
    assert set(found) == made
    assert len(found) == 5


async def test_an_item_is_what_get_answers(house: Bridge) -> None:
    session_id = await house.dictate(chunks=1, reference="E", patient={"id": "P"}, metadata={"a": 1})
    assert (await listed(house))["items"] == [await house.session(session_id)]


async def test_filters(house: Bridge) -> None:
    first = (await house.create(reference="A", patient={"id": "P1"}))["id"]
    second = (await house.create(reference="B", patient={"id": "P1"}))["id"]
    third = (await house.create(reference="A", patient={"id": "P2", "name": "P1"}))["id"]
    await house.put(third, 0)
    assert await ids(house, reference="A") == [third, first]
    assert await ids(house, patient_id="P1") == [second, first]
    assert await ids(house, reference="A", patient_id="P1") == [first]
    assert await ids(house, status="recording") == [third]
    assert await ids(house, status="created") == [second, first]
    assert await ids(house, status="created", reference="A") == [first]
    assert await ids(house, status="completed") == []
    for nothing in ("", "a", "A ", "%", "*", "A' OR '1'='1"):
        assert await ids(house, reference=nothing) == []
    second_at = (await house.session(second))["created_at"]
    assert await ids(house, created_after=second_at) == [third]
    assert await ids(house, created_after="2000-01-01T00:00:00Z") == [third, second, first]
    assert await ids(house, created_after="2000-01-01T00:00:00+05:30", reference="B") == [second]
    later = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    assert await ids(house, created_after=later) == []


async def test_filters_hold_across_pages(house: Bridge) -> None:
    wanted = []
    for number in range(6):
        session = await house.create(reference="A" if number % 2 else "B")
        wanted += [session["id"]] if number % 2 else []
    page = await listed(house, limit=2, reference="A")
    rest = await listed(house, limit=2, reference="A", cursor=page["next_cursor"])
    assert [each["id"] for each in page["items"] + rest["items"]] == wanted[::-1]
    assert rest["next_cursor"] is None


async def test_a_tenant_sees_its_own_sessions_only(house: Bridge) -> None:
    other = await house.tenant()
    fields = {"reference": "SAME", "patient": {"id": "SAME"}}
    mine = [(await house.create(**fields))["id"] for _ in range(2)]
    theirs = [(await other.post("/v1/sessions", json=fields)).json()["id"] for _ in range(2)]
    for query in ({}, {"reference": "SAME"}, {"patient_id": "SAME"}, {"status": "created"}):
        assert await ids(house, **query) == mine[::-1]
        found = (await other.get("/v1/sessions", params=query)).json()["items"]
        assert [each["id"] for each in found] == theirs[::-1]
    # Their cursor is a place in time, no key to their rows.
    cursor = (await other.get("/v1/sessions", params={"limit": 1})).json()["next_cursor"]
    assert set(await ids(house, cursor=cursor)) <= set(mine)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("limit", "0"), ("limit", "-1"), ("limit", "101"), ("limit", "x"), ("limit", ""), ("limit", "1.5"),
        ("limit", "99999999999999999999"), ("limit", "%00"), ("limit", "true"),
        ("status", "done"), ("status", ""), ("status", "Created"), ("status", "%00"), ("status", "%FF"),
        ("created_after", "yesterday"), ("created_after", ""), ("created_after", "2026-01-01"),
        ("created_after", "2026-01-01T00:00:00"), ("created_after", "2026-13-01T00:00:00Z"),
        ("created_after", "%00"), ("created_after", "10000-01-01T00:00:00Z"),
        ("cursor", ""), ("cursor", "x"), ("cursor", "%00"), ("cursor", "%FF"), ("cursor", "a" * 5000),
        ("cursor", "ünïcode"), ("cursor", forged("x|y")), ("cursor", forged("2026-01-01T00:00:00Z|")),
        ("cursor", forged("2026-01-01T00:00:00|ses_x")), ("cursor", forged(b"\xff\xfe|a")),
        ("cursor", forged("2026-01-01T00:00:00Z")), ("cursor", forged("")),
    ],
)  # fmt: skip
async def test_a_senseless_parameter_is_refused_by_name(house: Bridge, field: str, value: str) -> None:
    escaped = value if value.startswith("%") else quote(value)
    invalid(await house.api.get(f"/v1/sessions?{field}={escaped}"), field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("created_after", "9999-12-31T23:59:59-23:59"),
        ("created_after", "0001-01-01T00:00:00+23:59"),
        ("created_after", "9999-12-31T23:59:59.999999Z"),
        ("created_after", "0001-01-01T00:00:00Z"),
        ("created_after", "1e300"),
        ("created_after", "-62135596800"),
        ("cursor", forged("9999-12-31T23:59:59-23:59|ses_x")),
        ("cursor", forged("0001-01-01T00:00:00+23:59|ses_x")),
        ("cursor", forged("2026-01-01T00:00:00Z|ses_\0")),
        ("cursor", forged("2026-01-01T00:00:00Z|" + "x" * 5000)),
    ],
)
async def test_the_ends_of_time_break_nothing(house: Bridge, field: str, value: str) -> None:
    answer = await house.api.get("/v1/sessions", params={field: value})
    if answer.status_code != 200:
        invalid(answer, field)


@pytest.mark.parametrize("query", ["reference=%00", "reference=a%00b", "patient_id=%00", "reference=%FF"])
async def test_nul_in_a_filter_finds_nothing(house: Bridge, query: str) -> None:
    await house.create(reference="a", patient={"id": "a"})
    answer = await house.api.get(f"/v1/sessions?{query}")
    if answer.status_code == 200:
        assert answer.json()["items"] == []
    else:
        invalid(answer, query.partition("=")[0])


async def test_a_reference_with_nul_is_found_by_it_or_refused(house: Bridge) -> None:
    answer = await house.api.post("/v1/sessions", json={"reference": "a\0b"})
    if answer.status_code == 201:
        found = await house.api.get("/v1/sessions?reference=a%00b")
        assert [each["id"] for each in found.json()["items"]] == [answer.json()["id"]]
    else:
        invalid(answer, "reference")
