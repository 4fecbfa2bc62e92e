"""POST/GET/DELETE of /v1/destinations: what may be called, and that secrets are shown once."""

import base64
from typing import Any

import pytest

from tests.support.api_calls import invalid, problem
from tests.support.bridge import Bridge, open_bridge

URL = "https://emr.example/hooks"
FIELDS = {
    "id", "url", "events", "templates", "payload", "format", "timeout_seconds", "rate_per_second", "enabled",
}  # fmt: skip


async def add(house: Bridge, **fields: Any) -> dict[str, Any]:
    answer = await house.api.post("/v1/destinations", json={"url": URL, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()  # type: ignore[no-any-return]


async def test_a_destination_shows_its_secret_once(house: Bridge) -> None:
    made = await add(house, events=["document.ready"], templates=["a_template"])
    assert set(made) >= FIELDS | {"secret"}
    assert made["secret"].startswith("whsec_")
    assert len(base64.b64decode(made["secret"].removeprefix("whsec_"), validate=True)) >= 24
    assert (made["url"], made["events"], made["templates"]) == (URL, ["document.ready"], ["a_template"])
    assert (made["payload"], made["format"], made["enabled"]) == ("full", "ekabridge", True)
    without = {name: value for name, value in made.items() if name != "secret"}
    assert (await house.api.get(f"/v1/destinations/{made['id']}")).json() == without
    assert (await house.api.get("/v1/destinations")).json()["items"] == [without]
    row = await house.database.fetchrow("SELECT * FROM destinations WHERE id = $1", made["id"])
    assert made["secret"].removeprefix("whsec_") not in repr(dict(row))
    assert b"emr.example" not in row["url_sealed"]


async def test_every_destination_has_its_own_secret(house: Bridge) -> None:
    made = [await add(house) for _ in range(3)]
    assert len({each["secret"] for each in made}) == len({each["id"] for each in made}) == 3


async def test_the_list_is_paged_newest_first(house: Bridge) -> None:
    made = [(await add(house))["id"] for _ in range(5)]
    first = (await house.api.get("/v1/destinations", params={"limit": 3})).json()
    cursor = first["next_cursor"]
    rest = (await house.api.get("/v1/destinations", params={"limit": 3, "cursor": cursor})).json()
    assert [each["id"] for each in first["items"] + rest["items"]] == made[::-1]
    assert rest["next_cursor"] is None


async def test_a_removed_destination_is_gone(house: Bridge) -> None:
    made = await add(house)
    answer = await house.api.delete(f"/v1/destinations/{made['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    for method in ("GET", "DELETE"):
        problem(await house.api.request(method, f"/v1/destinations/{made['id']}"), 404, "not_found")
    assert (await house.api.get("/v1/destinations")).json()["items"] == []


@pytest.mark.parametrize("name", ["dst_nosuch", "a%00b", "%FF", "d" * 5000])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_an_unknown_id_is_not_found(house: Bridge, method: str, name: str) -> None:
    problem(await house.api.request(method, f"/v1/destinations/{name}"), 404, "not_found")


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "cursor=x", "cursor=%00", "limit=%00", "limit=101"])
async def test_a_senseless_parameter_is_refused(house: Bridge, query: str) -> None:
    invalid(await house.api.get(f"/v1/destinations?{query}"), query.partition("=")[0])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("url", None), ("url", 5), ("url", ""), ("url", [URL]), ("url", "https://a/" + "x" * 2040),
        ("events", "document.ready"), ("events", ["document.lost"]), ("events", [1]), ("events", None),
        ("events", ["ping"]), ("events", {"document.ready": 1}),
        ("templates", "a"), ("templates", ["a b"]), ("templates", [1]), ("templates", ["a\0"]),
        ("templates", ["a\n"]), ("templates", None),
        ("surprise", 1), ("secret", "whsec_mine"), ("id", "dst_mine"),
    ],
)  # fmt: skip
async def test_a_wrong_value_names_its_field(house: Bridge, field: str, value: Any) -> None:
    found = invalid(await house.api.post("/v1/destinations", json={"url": URL} | {field: value}))
    assert found["errors"][0]["field"].startswith(field)
    assert (await house.api.get("/v1/destinations")).json()["items"] == []


@pytest.mark.parametrize("content", [b"", b"null", b"{", b"[]", b"{}", b'{"url": "\xff"}', b"[" * 50_000])
async def test_what_is_not_a_destination_is_refused(house: Bridge, content: bytes) -> None:
    answer = await house.api.post(
        "/v1/destinations", content=content, headers={"content-type": "application/json"}
    )
    invalid(answer)


async def test_five_megabytes_are_refused(house: Bridge) -> None:
    answer = await house.api.post("/v1/destinations", json={"url": "https://a/" + "x" * 5_000_000})
    problem(answer, 413, "body_too_large")


@pytest.mark.parametrize(
    "url",
    [
        "notaurl-atall", "ftp://emr.example/", "file:///etc/passwd", "javascript:alert(1)", "https://",
        "https:///path", "https://user:secret@emr.example/", "https://user@emr.example/", "//emr.example/",
        "https://emr.example/#part", "https://emr.example:99999/", "https://emr.example:x/", "https://[::1",
        "https://emr exam.ple/", "https://emr.example/\0", "https://e\0mr.example/", "https://emr.example/\n",
        "https://emr.example/a\r\nX: y", "https://" + "a" * 300 + ".example/", "https://a..b/", "https://xn--a/",
        "https://.../", "https://%00/", "https://\ud7ff/", "https://emr.example:0/", "https://-/",
    ],
)  # fmt: skip
async def test_a_senseless_url_breaks_nothing(house: Bridge, url: str) -> None:
    answer = await house.api.post("/v1/destinations", json={"url": url})
    assert answer.status_code in {201, 400}, answer.text
    hopeless = ("ftp:", "file:", "javascript:", "//", "https:///", "notaurl", "https://user")
    if url.startswith(hopeless) or "\0" in url or "\n" in url or url in {"https://", "https://[::1"}:
        assert answer.status_code == 400, url
        assert answer.json()["code"] in {"destination_forbidden", "invalid_request"}
    if answer.status_code == 201:
        assert (await house.api.get(f"/v1/destinations/{answer.json()['id']}")).json()["url"] == url


PRIVATE = [
    "https://127.0.0.1/", "https://127.1/", "https://2130706433/", "https://0x7f000001/", "https://0177.0.0.1/",
    "https://localhost/", "https://0.0.0.0/", "https://0/", "https://10.0.0.1/",
    "https://172.16.5.4/", "https://192.168.1.1:8443/x", "https://169.254.169.254/latest/meta-data/",
    "https://100.64.0.1/", "https://224.0.0.1/", "https://255.255.255.255/", "https://198.18.0.1/",
    "https://[::1]/", "https://[::]/", "https://[::ffff:127.0.0.1]/", "https://[::ffff:10.0.0.1]/",
    "https://[fe80::1]/", "https://[fe80::1%25eth0]/", "https://[fc00::1]/", "https://[fd00:ec2::254]/",
    "https://[fec0::1]/", "https://[ff02::1]/", "https://[64:ff9b::7f00:1]/", "https://[2002:7f00:1::]/",
    "https://[::127.0.0.1]/", "https://\uff11\uff12\uff17.0.0.1/", "https://127。0。0。1/",
]  # fmt: skip


async def test_private_addresses_are_refused_in_production(database_url: str, redis_url: str) -> None:
    async with open_bridge(database_url, redis_url, allow_private_destinations=False) as bridge:
        for url in PRIVATE:
            answer = await bridge.api.post("/v1/destinations", json={"url": url})
            assert answer.status_code == 400, url
            problem(answer, 400, "destination_forbidden")
        for url in ("http://8.8.8.8/hook", "http://[2606:4700:4700::1111]/"):
            problem(
                await bridge.api.post("/v1/destinations", json={"url": url}), 400, "destination_forbidden"
            )
        assert (await bridge.api.get("/v1/destinations")).json()["items"] == []
        for url in ("https://8.8.8.8/hook", "https://[2606:4700:4700::1111]:8443/hook?a=b"):
            assert (await bridge.api.post("/v1/destinations", json={"url": url})).status_code == 201, url
