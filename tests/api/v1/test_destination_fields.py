"""What a destination may be given, how it is changed, and that nothing secret of it ever comes out."""

import json
from typing import Any

import pytest

from tests.support.api_calls import invalid, problem
from tests.support.bridge import Bridge, open_bridge
from tests.support.certificates import make_authority

URL = "https://emr.example/hooks"
OAUTH2 = {
    "type": "oauth2",
    "token_url": "https://login.emr.example/token",
    "client_id": "bridge",
    "client_secret": "hunter2",
    "scope": "notes.write",
}
EVERYTHING: dict[str, Any] = {
    "url": URL,
    "events": ["document.ready"],
    "templates": ["a_template"],
    "payload": "reference",
    "format": "fhir-r4",
    "headers": {"X-Api-Key": "hunter2", "authorization": "Bearer hunter2"},
    "timeout_seconds": 2.5,
    "rate_per_second": 7,
    "auth": OAUTH2,
    "enabled": False,
}
OURS = [
    "host", "Content-Type", "content-length", "content-encoding", "webhook-id", "Webhook-Signature",
    "webhook-anything", "Idempotency-Key", "connection", "transfer-encoding", "Expect", "te", "upgrade",
    "trailer", "keep-alive", "proxy-authorization", "proxy-connection", "http2-settings",
]  # fmt: skip


async def add(house: Bridge, **fields: Any) -> dict[str, Any]:
    answer = await house.api.post("/v1/destinations", json={"url": URL, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()  # type: ignore[no-any-return]


async def change(house: Bridge, destination: dict[str, Any], **fields: Any) -> dict[str, Any]:
    answer = await house.api.patch(f"/v1/destinations/{destination['id']}", json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


async def test_everything_given_is_kept_and_nothing_secret_is_shown_again(house: Bridge) -> None:
    made = await add(house, **EVERYTHING)
    secret = made.pop("secret")
    plain = ("url", "events", "templates", "payload", "format", "timeout_seconds", "rate_per_second")
    assert {name: made[name] for name in plain} == {name: EVERYTHING[name] for name in plain}
    assert made["headers"] == {"X-Api-Key": "***", "authorization": "***"}
    assert made["auth"] == {name: OAUTH2[name] for name in ("type", "token_url", "client_id", "scope")}
    assert (made["enabled"], made["paused_reason"]) == (False, "disabled")
    answers = [
        await house.api.get(f"/v1/destinations/{made['id']}"),
        await house.api.get("/v1/destinations"),
        await house.api.patch(f"/v1/destinations/{made['id']}", json={"events": []}),
    ]
    row = await house.database.fetchrow("SELECT * FROM destinations WHERE id = $1", made["id"])
    for shown in (json.dumps(made), *(answer.text for answer in answers), repr(dict(row))):
        assert "hunter2" not in shown
        assert secret.removeprefix("whsec_") not in shown
    assert answers[0].json() == made
    assert b"login.emr" not in row["auth_sealed"]


async def test_a_change_leaves_what_it_does_not_name(house: Bridge) -> None:
    made = await add(house, **EVERYTHING)
    del made["secret"]
    other = made["url"] + "/other"
    moved = await change(house, made, url=other, payload="full")
    assert moved == made | {"url": other, "payload": "full"}
    assert await change(house, made) == moved
    slower = await change(house, made, timeout_seconds=90, rate_per_second=0.5, format="ekabridge")
    assert slower == moved | {"timeout_seconds": 90, "rate_per_second": 0.5, "format": "ekabridge"}


async def test_headers_are_replaced_as_a_whole_and_null_takes_away(house: Bridge) -> None:
    made = await add(house, **EVERYTHING)
    assert (await change(house, made, headers={"x-other": "1"}))["headers"] == {"x-other": "***"}
    gone = dict.fromkeys(("headers", "timeout_seconds", "rate_per_second", "auth"))
    cleared = await change(house, made, **gone)
    assert {name: cleared[name] for name in gone} == gone | {"headers": {}}
    row = await house.database.fetchrow("SELECT * FROM destinations WHERE id = $1", made["id"])
    assert row["headers_sealed"] is row["auth_sealed"] is None


@pytest.mark.parametrize("name", OURS)
async def test_headers_that_are_ours_or_the_connections_are_refused(house: Bridge, name: str) -> None:
    body = {"headers": {"x-fine": "1", name: "hunter2"}}
    answer = await house.api.post("/v1/destinations", json={"url": URL} | body)
    assert "hunter2" not in json.dumps(invalid(answer, f"headers.{name}"))
    made = await add(house)
    invalid(await house.api.patch(f"/v1/destinations/{made['id']}", json=body), f"headers.{name}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", "a"), ("a b", "a"), ("a:", "a"), ("a\r\nb", "a"), ("a\0", "a"), ("ä", "a"), ("a" * 65, "a"),
        ("x-a", ""), ("x-a", "a\r\nb: c"), ("x-a", "a\nb"), ("x-a", "a\0"), ("x-a", " a"), ("x-a", "a "),
        ("x-a", "ä"), ("x-a", "a" * 4097), ("x-a", "\x7f"),
    ],
)  # fmt: skip
async def test_a_header_that_cannot_be_sent_is_refused(house: Bridge, name: str, value: str) -> None:
    found = invalid(await house.api.post("/v1/destinations", json={"url": URL, "headers": {name: value}}))
    assert found["errors"][0]["field"].startswith("headers")
    assert (await house.api.get("/v1/destinations")).json()["items"] == []


async def test_names_of_headers_have_no_case_and_twenty_is_the_most(house: Bridge) -> None:
    twice = {"X-Key": "a", "x-key": "b"}
    invalid(await house.api.post("/v1/destinations", json={"url": URL, "headers": twice}), "headers.x-key")
    many = {f"x-{number}": "v" for number in range(21)}
    invalid(await house.api.post("/v1/destinations", json={"url": URL, "headers": many}), "headers")
    del many["x-0"]
    assert len((await add(house, headers=many))["headers"]) == 20


WRONG: list[tuple[str, Any]] = [
    ("payload", "none"), ("payload", None), ("format", "fhir"), ("format", 4), ("enabled", None),
    ("enabled", "true"), ("timeout_seconds", 0), ("timeout_seconds", 0.09), ("timeout_seconds", 121),
    ("timeout_seconds", "5"), ("timeout_seconds", True), ("rate_per_second", 0.009),
    ("rate_per_second", 1001), ("headers", []), ("headers", {"x-a": 1}), ("headers", {"x-a": None}),
    ("auth", {}), ("auth", "oauth2"), ("auth", {"type": "basic"}), ("auth", {"type": "oauth2"}),
    ("auth", OAUTH2 | {"client_id": ""}), ("auth", OAUTH2 | {"surprise": 1}), ("auth", {"type": "mtls"}),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), WRONG)
async def test_a_wrong_value_names_its_field(house: Bridge, field: str, value: Any) -> None:
    found = invalid(await house.api.post("/v1/destinations", json={"url": URL} | {field: value}))
    assert found["errors"][0]["field"].startswith(field)
    if value is not None:
        made = await add(house)
        answer = await house.api.patch(f"/v1/destinations/{made['id']}", json={field: value})
        assert invalid(answer)["errors"][0]["field"].startswith(field)


BAD_URLS = [
    "https://127.0.0.1/", "https://169.254.169.254/", "http://8.8.8.8/", "https://user:pw@8.8.8.8/",
    "https://[fe80::1%25eth0]/", "https://\uff11\uff12\uff17.0.0.1/", "https://8.8.8.8:0/", "ftp://8.8.8.8/",
    "https://8.8.8.8/#a", "https://[::ffff:10.0.0.1]/",
]  # fmt: skip


async def test_every_url_that_is_given_later_passes_the_same_checks(
    database_url: str, redis_url: str
) -> None:
    async with open_bridge(database_url, redis_url, allow_private_destinations=False) as bridge:
        made = await add(bridge, url="https://8.8.8.8/")
        path = f"/v1/destinations/{made['id']}"
        for url in BAD_URLS:
            problem(await bridge.api.patch(path, json={"url": url}), 400, "destination_forbidden")
            auth = OAUTH2 | {"token_url": url}
            for answer in (
                await bridge.api.patch(path, json={"auth": auth}),
                await bridge.api.post("/v1/destinations", json={"url": "https://8.8.8.8/", "auth": auth}),
            ):
                found = problem(answer, 400, "destination_forbidden")
                assert found["errors"][0]["field"] == "auth.token_url", url
        assert (await bridge.api.get(path)).json()["url"] == "https://8.8.8.8/"
        assert (await bridge.api.get(path)).json()["auth"] is None


async def test_a_client_certificate_is_checked_and_never_shown(house: Bridge) -> None:
    authority = make_authority()
    good, other, old = (authority.issue("bridge"), authority.issue("other"), authority.issue("old", days=-1))
    made = await add(house, auth={"type": "mtls", "certificate": good.certificate, "private_key": good.key})
    assert made["auth"] == {"type": "mtls"}
    row = await house.database.fetchrow("SELECT * FROM destinations WHERE id = $1", made["id"])
    assert b"BEGIN" not in row["auth_sealed"]
    path = f"/v1/destinations/{made['id']}"
    for certificate, key, field in (
        ("no certificate", good.key, "auth.certificate"),
        (good.certificate, "no key", "auth.private_key"),
        (good.certificate, good.locked_key, "auth.private_key"),
        (good.certificate, other.key, "auth.private_key"),
        (old.certificate, old.key, "auth.certificate"),
        (good.certificate, "\ud7ff", "auth.private_key"),
    ):
        auth = {"type": "mtls", "certificate": certificate, "private_key": key}
        answer = await house.api.patch(path, json={"auth": auth})
        assert "BEGIN" not in json.dumps(invalid(answer, field))


async def test_rotation_shows_a_new_secret_once_and_says_until_when_the_old_one_signs(house: Bridge) -> None:
    made = await add(house)
    path = f"/v1/destinations/{made['id']}"
    answer = await house.api.post(f"{path}/rotate-secret")
    assert answer.status_code == 200, answer.text
    rotated = answer.json()
    assert rotated["secret"].startswith("whsec_")
    assert rotated["secret"] != made["secret"]
    assert rotated["previous_secret_until"] is not None
    shown = (await house.api.get(path)).json()
    assert shown == {name: value for name, value in rotated.items() if name != "secret"}
    at_once = (await house.api.post(f"{path}/rotate-secret", json={"overlap_seconds": 0})).json()
    assert at_once["previous_secret_until"] is None
    entries = await house.database.fetch("SELECT * FROM audit WHERE object_id = $1 ORDER BY id", made["id"])
    assert [entry["action"] for entry in entries][1:] == ["destination.secret_rotated"] * 2
    assert "whsec" not in repr(entries)


@pytest.mark.parametrize("overlap", [-1, 604_801, "60", 1.5, None, True])
async def test_an_overlap_that_is_none_is_refused(house: Bridge, overlap: Any) -> None:
    made = await add(house)
    path = f"/v1/destinations/{made['id']}/rotate-secret"
    invalid(await house.api.post(path, json={"overlap_seconds": overlap}), "overlap_seconds")


async def test_another_tenants_destination_cannot_be_rotated_or_changed(house: Bridge) -> None:
    made = await add(house)
    stranger = await house.tenant()
    path = f"/v1/destinations/{made['id']}"
    problem(await stranger.post(f"{path}/rotate-secret"), 404, "not_found")
    problem(await stranger.patch(path, json={"url": URL}), 404, "not_found")


async def test_secrets_of_one_host_are_not_shown_to_another(house: Bridge) -> None:
    made = await house.add_destination(headers={"Authorization": "Bearer of-the-first"})
    path = f"/v1/destinations/{made['id']}"
    elsewhere = "http://127.0.0.2:1/hooks"
    invalid(await house.api.patch(path, json={"url": elsewhere}), "url")
    same_host = made["url"] + "/other"
    assert (await house.api.patch(path, json={"url": same_host})).json()["url"] == same_host
    answer = await house.api.patch(path, json={"url": elsewhere, "headers": None})
    assert answer.status_code == 200, answer.text
    assert answer.json()["url"] == elsewhere


async def test_a_new_rate_holds_at_once(house: Bridge) -> None:
    made = await house.add_destination(rate_per_second=0.01)
    await house.database.execute(
        "UPDATE destinations SET next_slot_at = now() + interval '90 seconds' WHERE id = $1", made["id"]
    )
    await house.api.patch(f"/v1/destinations/{made['id']}", json={"rate_per_second": 1000})
    slot = "SELECT next_slot_at FROM destinations WHERE id = $1"
    assert await house.database.fetchval(slot, made["id"]) is None
