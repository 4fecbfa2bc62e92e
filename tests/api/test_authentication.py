"""API keys, roles, and that a tenant's things do not exist for another."""

import secrets
from typing import Any

import pytest

from schemas.tenants import SessionDefaults
from service.bootstrap.container import open_stores
from service.domain.api_keys.changes import ApiKeys
from service.domain.tenants.changes import Tenants
from tests.support.api_calls import chunk_head, key_of, problem, request_head, wire
from tests.support.bridge import Bridge, add_key

ROUTES = [
    ("POST", "/v1/sessions"),
    ("GET", "/v1/sessions"),
    ("GET", "/v1/sessions/{session}"),
    ("PUT", "/v1/sessions/{session}/audio/0"),
    ("POST", "/v1/sessions/{session}/end"),
    ("GET", "/v1/sessions/{session}/timeline"),
    ("GET", "/v1/sessions/{session}/documents"),
    ("GET", "/v1/documents/{document}"),
    ("POST", "/v1/destinations"),
    ("GET", "/v1/destinations"),
    ("GET", "/v1/destinations/{destination}"),
    ("DELETE", "/v1/destinations/{destination}"),
    ("GET", "/v1/deliveries"),
    ("GET", "/v1/deliveries/{delivery}"),
    ("POST", "/v1/deliveries/{delivery}/retry"),
]


async def furnish(house: Bridge) -> dict[str, str]:
    """Make one of everything for the house's tenant; rows stand in for what only a worker makes."""
    session_id = await house.dictate()
    destination = (
        await house.admin.post("/v1/destinations", json={"url": "https://emr.example/hook"})
    ).json()["id"]
    document, delivery = f"doc_{secrets.token_hex(12)}", f"msg_{secrets.token_hex(12)}"
    await house.database.execute(
        "INSERT INTO documents (id, tenant_id, session_id, template_id, upstream_id, version, type, status)"
        " VALUES ($1, $2, $3, 'eka_emr_template', 'up', 1, 'x', 'failed')",
        document,
        house.tenant_id,
        session_id,
    )
    event = await house.database.fetchval(
        "INSERT INTO events (tenant_id, session_id, document_id, type, template_id, body_sealed)"
        " VALUES ($1, $2, $3, 'document.failed', 'eka_emr_template', ''::bytea) RETURNING id",
        house.tenant_id,
        session_id,
        document,
    )
    await house.database.execute(
        "INSERT INTO deliveries (id, tenant_id, event_id, session_id, document_id, destination_id, type,"
        " status, settled_at) VALUES ($1, $2, $3, $4, $5, $6, 'document.failed', 'dead', now())",
        delivery,
        house.tenant_id,
        event,
        session_id,
        document,
        destination,
    )
    return {"session": session_id, "document": document, "destination": destination, "delivery": delivery}


def body_for(method: str, path: str) -> dict[str, Any]:
    if method == "PUT":
        return {"content": b"sound", "headers": {"content-type": "audio/wav"}}
    if path == "/v1/destinations" and method == "POST":
        return {"json": {"url": "https://emr.example/hook"}}
    return {}


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_no_door_opens_without_a_key(house: Bridge, method: str, path: str) -> None:
    address = path.format(session="ses_x", document="doc_x", destination="dst_x", delivery="msg_x")
    nobody = await house.client(None)
    for given in ("", "Bearer", "Bearer wrong", "Bearer ekb_wrong", "Basic ZWtiOng="):
        headers = {"authorization": given} if given else {}
        arguments = body_for(method, path)
        arguments["headers"] = arguments.get("headers", {}) | headers
        answer = await nobody.request(method, address, **arguments)
        problem(answer, 401, "unauthenticated")
        assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "given",
    [
        b"Bearer ekb_" + b"x" * 300,
        b"Bearer ekb_" + b"x" * 20_000,
        b"Bearer ekb_\xff\xfe",
        "Bearer ekb_ключ".encode(),
        b"Bearer ekb_a,Bearer ekb_b",
        b"Bearer\tekb_x",
        b"ekb_x",
        b"Token ekb_x",
    ],
)
async def test_an_odd_key_is_none(house: Bridge, given: bytes) -> None:
    nobody = await house.client(None)
    answer = await nobody.get("/v1/sessions", headers=[(b"authorization", given)])
    problem(answer, 401, "unauthenticated")


async def test_a_key_must_be_whole(house: Bridge) -> None:
    key = await key_of(house)
    for wrong in (key[:-1], key + "x", key.upper(), key.lower(), key[4:], f"{key} x"):
        if wrong != key:
            client = await house.client(wrong)
            problem(await client.get("/v1/sessions"), 401, "unauthenticated")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_has_no_case(house: Bridge, scheme: str) -> None:
    nobody = await house.client(None)
    headers = {"authorization": f"{scheme} {await key_of(house)}"}
    assert (await nobody.get("/v1/sessions", headers=headers)).status_code == 200


async def test_a_revoked_key_opens_nothing_at_once(house: Bridge) -> None:
    async with open_stores(house.settings) as stores:
        key = await ApiKeys(stores.api_keys).add(house.tenant_id, "emr")
        client = await house.client(str(key.key))
        assert (await client.get("/v1/sessions")).status_code == 200
        await ApiKeys(stores.api_keys).revoke(house.tenant_id, key.id)  # type: ignore[arg-type]
    problem(await client.get("/v1/sessions"), 401, "unauthenticated")
    assert (await house.api.get("/v1/sessions")).status_code == 200


async def test_the_key_is_asked_for_before_the_body(house: Bridge) -> None:
    create = request_head(house, "POST", "/v1/sessions", Content_Length="9000")
    for head in (create, chunk_head(house, "x", Content_Length="9000")):
        async with wire(house.url) as client:
            await client.send(head.replace(b"Bearer ekb_", b"Bearer x"))
            answer = await client.answer()
        assert (answer.status, answer.json()["code"]) == (401, "unauthenticated")


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if "{" in route[1]])
async def test_for_another_tenant_it_does_not_exist(house: Bridge, method: str, path: str) -> None:
    things = await furnish(house)
    address = path.format(**things)
    stranger = await house.tenant()
    stranger_admin = await stranger_with_admin_key(house)
    for client in (stranger, stranger_admin):
        answer = await client.request(method, address, **body_for(method, path))
        found = problem(answer, 404, "not_found")
        nothing = await client.request(
            method, path.format(**dict.fromkeys(things, "no_such_thing_at_all")), **body_for(method, path)
        )
        assert found["detail"] == problem(nothing, 404, "not_found")["detail"], "tells that it exists"
    # It is untouched, and its owner still reaches it.
    assert (await house.session(things["session"]))["status"] == "processing"
    assert (await house.api.get(f"/v1/destinations/{things['destination']}")).status_code == 200
    delivery = (await house.api.get(f"/v1/deliveries/{things['delivery']}")).json()
    assert delivery["status"] == "dead"


async def stranger_with_admin_key(house: Bridge) -> Any:
    async with open_stores(house.settings) as stores:
        tenant = await Tenants(stores.tenants).add("stranger", SessionDefaults())
    return await house.client(await add_key(house.settings, tenant.id, "admin"))  # type: ignore[arg-type]


async def test_lists_of_another_tenant_are_empty(house: Bridge) -> None:
    things = await furnish(house)
    stranger = await house.tenant()
    for path in (
        "/v1/sessions",
        "/v1/destinations",
        "/v1/deliveries",
        f"/v1/deliveries?session_id={things['session']}",
        f"/v1/deliveries?destination_id={things['destination']}",
    ):
        assert (await stranger.get(path)).json() == {"items": [], "next_cursor": None}, path


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("role", ["emr", "admin"])
async def test_both_roles_may_use_everything_here(house: Bridge, method: str, path: str, role: str) -> None:
    things = await furnish(house)
    client = house.api if role == "emr" else house.admin
    answer = await client.request(method, path.format(**things), **body_for(method, path))
    expected = {200, 201, 202, 204} if "audio" not in path else {409}
    assert answer.status_code in expected, answer.text


async def test_keys_stand_nowhere_in_the_database(house: Bridge) -> None:
    key = (await key_of(house)).removeprefix("ekb_")
    rows = await house.database.fetch("SELECT * FROM api_keys")
    assert rows
    assert all(key not in repr(dict(row)) for row in rows)
    assert all(key.encode().hex() not in row["key_hash"].hex() for row in rows)
