"""For another tenant nothing exists: every route that names an object, every list, every capability.

The tables below are compared with the application's own routes: a route without its case fails the build.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from service.sandbox.embedded.api import EmbeddedUrls
from tests.conftest import with_path
from tests.support.api_calls import clear_faults
from tests.support.bridge import Bridge, add_key, add_tenant, open_bridge
from tests.support.medscribe_clients import form
from tests.support.rig import until
from tests.support.routes import Route, routes

_WAV = {"content": b"RIFF", "headers": {"content-type": "audio/wav"}}
_FORM_BODY, _FORM_TYPE = form({}, "audio_0.wav", b"RIFF")
_FORM = {"content": _FORM_BODY, "headers": {"content-type": _FORM_TYPE}}
_VOICE = "/voice/v1/sessions/{session_id}"

# Routes that name an object in their path, with a request that its owner may make. What removes comes last.
OBJECTS: dict[Route, dict[str, Any]] = {
    ("GET", "/v1/sessions/{session_id}"): {},
    ("PATCH", "/v1/sessions/{session_id}"): {"json": {"patient": {"id": "P-9"}}},
    ("GET", "/v1/sessions/{session_id}/timeline"): {},
    ("GET", "/v1/sessions/{session_id}/documents"): {},
    ("GET", "/v1/sessions/{session_id}/events"): {},
    ("GET", "/v1/sessions/{session_id}/recording"): {},
    ("PUT", "/v1/sessions/{session_id}/audio/{sequence}"): _WAV,
    ("POST", "/v1/sessions/{session_id}/documents"): {"json": {"template_id": "soap"}},
    ("POST", "/v1/sessions/{session_id}/refresh"): {},
    ("GET", "/v1/documents/{document_id}"): {},
    ("GET", "/v1/deliveries/{delivery_id}"): {},
    ("POST", "/v1/deliveries/{delivery_id}/retry"): {},
    ("POST", "/v1/deliveries/{delivery_id}/confirm"): {"json": {"record_id": "R-1"}},
    ("GET", "/v1/destinations/{destination_id}"): {},
    ("PATCH", "/v1/destinations/{destination_id}"): {"json": {"enabled": True}},
    ("POST", "/v1/destinations/{destination_id}/test"): {},
    ("POST", "/v1/destinations/{destination_id}/recover"): {"json": {"since": "2026-01-01T00:00:00Z"}},
    ("POST", "/v1/destinations/{destination_id}/rotate-secret"): {},
    ("GET", _VOICE): {},
    ("PATCH", _VOICE): {"json": {"patient_details": {"oid": "X"}}},
    ("POST", f"{_VOICE}/audio/{{file_name}}"): _WAV,
    ("POST", f"{_VOICE}/audio"): _FORM,
    ("POST", f"{_VOICE}/process/template/{{template_id}}"): {},
    ("POST", f"{_VOICE}/process/template"): {},
    ("POST", f"{_VOICE}/end"): {"json": {"audio_files_sent": 0}},
    ("POST", "/v1/sessions/{session_id}/end"): {},
    ("DELETE", "/v1/destinations/{destination_id}"): {},
    ("DELETE", "/v1/sessions/{session_id}"): {},
}

# The owner's finished session has no such object any more.
ONLY_WHILE_HELD: set[Route] = {("GET", "/v1/sessions/{session_id}/recording")}

# Lists and counts, with parameters that name what is another tenant's; each answers its owner with something.
LISTS: dict[Route, list[str]] = {
    ("GET", "/v1/sessions"): [
        "",
        "reference=ENC-1",
        "patient_id=PAT-1",
        "status=completed",
        "cursor={cursor}",
    ],
    ("GET", "/v1/destinations"): [""],
    ("GET", "/v1/deliveries"): ["", "session_id={session_id}", "destination_id={destination_id}"],
    ("GET", "/v1/audit"): ["", "object_id={session_id}"],
    ("GET", "/v1/ledger"): [""],
}

_UPLOADS = "tests/api/v1/test_recording_uploads.py::test_another_tenant_finds_no_upload"
# What has a test of its own below, or in another file.
ELSEWHERE: dict[Route, str] = {
    ("POST", "/v1/sessions"): "test_an_idempotency_key_is_its_tenant_s_own",
    ("POST", "/v1/destinations"): "test_what_is_made_is_its_maker_s",
    ("HEAD", "/v1/recordings/{session_id}"): _UPLOADS,
    ("POST", "/v1/recordings/{session_id}"): _UPLOADS,
    ("PATCH", "/v1/recordings/{session_id}"): _UPLOADS,
    ("DELETE", "/v1/recordings/{session_id}"): _UPLOADS,
    ("POST", "/v1/recordings"): "tests/api/v1/test_recordings.py::test_other_tenants_see_nothing_of_it",
    ("POST", "/voice/v1/sessions"): "test_an_id_that_is_taken_is_refused_and_nothing_of_it_told",
    ("POST", "/voice/v1/uploads/{session_id}"): "test_a_form_s_field_opens_its_own_session_only",
    ("GET", "/voice/v1/templates"): "tests/domain/test_templates.py::test_each_account_has_its_own_list",
    ("POST", "/connect-auth/v1/account/login"): "test_a_login_needs_the_tenant_s_own_key",
    ("WS", "/v1/stream/{session_id}/{capability}"): "test_a_stream_s_address_opens_its_own_session_only",
    ("POST", "/webhooks/eka"): "tests/security/test_replay.py",
    ("POST", "/webhooks/eka/{tenant}"): "tests/security/test_replay.py",
}

# What is the same for everybody, and why that is right.
SAME_FOR_ALL: dict[Route, str] = {
    ("GET", "/health/live"): "of the process",
    ("GET", "/health/ready"): "of the process",
    ("GET", "/metrics"): "of the process; kept inside by the ingress (docs/security.md)",
    ("GET", "/docs"): "the API's description",
    ("GET", "/docs/assets/{name}"): "Swagger UI's files",
    ("GET", "/schema"): "the API's description",
    ("GET", "/schema/swagger"): "the API's description",
    ("GET", "/schema/openapi.json"): "the API's description",
    ("GET", "/schema/{path}"): "answers 404 for anything",
    ("GET", "/.well-known/medscribealliance"): "the protocol's discovery",
    ("GET", "/voice/.well-known/medscribealliance"): "the protocol's discovery",
    ("GET", "/voice/v1/.well-known/medscribealliance"): "the protocol's discovery",
}


def test_every_route_has_its_case() -> None:
    tables = (OBJECTS, LISTS, ELSEWHERE, SAME_FOR_ALL)
    known = [route for table in tables for route in table]
    assert len(known) == len(set(known))
    assert routes() - set(known) == set(), (
        "a new route: say above how another tenant's objects are kept from it"
    )
    assert set(known) - routes() == set(), "a case of a route that is gone"
    named = {
        route for route in routes() if re.search(r"\{(session|document|delivery|destination)_id\}", route[1])
    }
    assert named <= set(OBJECTS) | set(ELSEWHERE)


@dataclass
class Owner:
    """A tenant with one of everything; strangers are other tenants' keys, of each role."""

    bridge: Bridge
    things: dict[str, str]
    open_session: str
    strangers: list[httpx2.AsyncClient]

    def path(self, path: str, session_id: str | None = None) -> str:
        """A route's path with the owner's objects in it."""
        return path.format(**(self.things | ({"session_id": session_id} if session_id else {})))

    async def rows(self) -> dict[str, list[str]]:
        """Every row of every table that speaks of the owner or of one of his things."""
        database = self.bridge.database
        tables = await database.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
        )
        words = [self.bridge.tenant_id, self.open_session, *self.things.values()]
        words = [word for word in words if re.fullmatch(r"[a-z]{3}_[0-9a-f]{24}", word)]
        found = {}
        for (table,) in tables:
            texts = await database.fetch(
                f'SELECT t::text AS row FROM "{table}" t WHERE t::text LIKE ANY($1) ORDER BY 1',
                [f"%{word}%" for word in words],
            )
            found[table] = [each["row"] for each in texts]
        return found


@pytest.fixture(scope="module")
async def owner(
    servers: EmbeddedUrls, database_template: str, database_names: Iterator[str], worker_id: str
) -> AsyncIterator[Owner]:
    name = next(database_names)
    connection = await asyncpg.connect(servers.database_url)
    await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{database_template}" STRATEGY FILE_COPY')
    number = 0 if worker_id == "master" else int(worker_id.removeprefix("gw"))
    redis_url = with_path(servers.redis_url, str(number))
    async with open_bridge(with_path(servers.database_url, name), redis_url) as bridge:
        yield await furnish(bridge)
    await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await connection.close()


async def furnish(bridge: Bridge) -> Owner:
    """Make one of everything the way that it comes to be, and then let everything rest."""
    worker = await bridge.start_worker()
    destination = await bridge.add_destination()
    first = await bridge.dictate(patient={"id": "PAT-0"})
    session_id = await bridge.dictate(reference="ENC-1", patient={"id": "PAT-1", "name": "Asha Rao"})
    await bridge.reach(first, "completed")
    await bridge.reach(session_id, "completed")

    async def delivered() -> list[dict[str, Any]]:
        found = (await bridge.api.get("/v1/deliveries")).json()["items"]
        return found if [each["status"] for each in found] == ["delivered", "delivered"] else []

    deliveries = await until(delivered)
    await worker.stop()
    open_session = (await bridge.create(reference="ENC-2"))["id"]
    assert (await bridge.put(open_session, 0)).status_code == 200
    await bridge.fault("/voice/v1/sessions/", mode="reset", times=None)
    assert (await bridge.put(open_session, 1)).json()["state"] == "held"
    await clear_faults(bridge)
    documents = (await bridge.api.get(f"/v1/sessions/{session_id}/documents")).json()["items"]
    page = (await bridge.api.get("/v1/sessions", params={"limit": 1})).json()
    things = {
        "session_id": session_id,
        "document_id": documents[0]["id"],
        "delivery_id": next(each["id"] for each in deliveries if each["session_id"] == session_id),
        "destination_id": destination["id"],
        "sequence": "0",
        "file_name": "audio_0.wav",
        "template_id": "soap",
        "cursor": page["next_cursor"],
    }
    tenant_id, key = await add_tenant(
        bridge.settings, f"stranger of {bridge.tenant_id}", "emr", templates=["eka_emr_template"]
    )
    admin_key = await add_key(bridge.settings, tenant_id, "admin")
    strangers = [await bridge.client(key), await bridge.client(admin_key)]
    return Owner(bridge=bridge, things=things, open_session=open_session, strangers=strangers)


def without_request_id(answer: httpx2.Response) -> str:
    """An answer's body, without what differs between any two answers."""
    body = re.sub(r"req_[0-9a-f]{24}", "req", answer.text)
    return re.sub(r"(ses|doc|dst|msg|dlv)_[0-9a-f]{24}", "id", body)


async def test_no_route_shows_or_touches_another_tenant_s_object(owner: Owner) -> None:
    before = await owner.rows()
    nothing = {name: f"{value[:4]}{'0' * 24}" for name, value in owner.things.items() if name.endswith("_id")}
    for (method, path), request in OBJECTS.items():
        for session_id in (
            {owner.things["session_id"], owner.open_session} if "session_id" in path else {None}
        ):
            for stranger in owner.strangers:
                address = owner.path(path, session_id)
                answer = await stranger.request(method, address, **request)
                assert answer.status_code == 404, (method, path, answer.text)
                missing = await stranger.request(method, path.format(**(owner.things | nothing)), **request)
                # Word for word as if there were no such thing, in its headers, too.
                assert without_request_id(answer) == without_request_id(missing), (method, path)
                assert set(answer.headers) == set(missing.headers)
    assert await owner.rows() == before


async def test_no_list_holds_what_is_another_tenant_s(owner: Owner) -> None:
    marks = [
        owner.bridge.tenant_id,
        *(owner.things[name] for name in ("session_id", "document_id", "delivery_id")),
    ]
    for (method, path), queries in LISTS.items():
        for query in queries:
            address = f"{path}?{query.format(**owner.things)}"
            own = await owner.bridge.admin.request(method, address)
            assert own.status_code == 200, own.text
            counts = own.json()
            assert counts["items"] if "items" in counts else counts["ended"], address
            for stranger in owner.strangers:
                answer = await stranger.request(method, address)
                if path == "/v1/audit" and stranger is owner.strangers[0]:
                    assert answer.status_code == 403
                    continue
                assert answer.status_code == 200, answer.text
                assert not any(mark in answer.text for mark in marks), address
                found = answer.json()
                if path == "/v1/audit":  # a stranger's trail begins with how it was made
                    found["items"] = [each for each in found["items"] if each["actor"] != "cli"]
                assert (found["items"] == []) if "items" in found else (not any(found.values())), address


async def test_an_idempotency_key_is_its_tenant_s_own(owner: Owner) -> None:
    headers = {"Idempotency-Key": "the-same-key"}
    mine = await owner.bridge.api.post("/v1/sessions", json={"reference": "A"}, headers=headers)
    theirs = await owner.strangers[0].post("/v1/sessions", json={"reference": "A"}, headers=headers)
    assert (mine.status_code, theirs.status_code) == (201, 201)
    assert theirs.json()["id"] != mine.json()["id"]
    assert "idempotency-replayed" not in theirs.headers
    other = await owner.strangers[0].post("/v1/sessions", json={"reference": "B"}, headers=headers)
    assert other.status_code == 422
    again = await owner.bridge.api.post("/v1/sessions", json={"reference": "A"}, headers=headers)
    assert again.json()["id"] == mine.json()["id"]


async def test_what_is_made_is_its_maker_s(owner: Owner) -> None:
    before = await owner.rows()
    made = await owner.strangers[1].post("/v1/destinations", json={"url": f"{owner.bridge.emr_url}/theirs"})
    assert made.status_code == 201
    assert (await owner.bridge.api.get(f"/v1/destinations/{made.json()['id']}")).status_code == 404
    for table, rows in (await owner.rows()).items():
        assert rows == before[table], table
    removed = await owner.strangers[1].delete(f"/v1/destinations/{made.json()['id']}")
    assert removed.status_code == 204


async def test_an_id_that_is_taken_is_refused_and_nothing_of_it_told(owner: Owner) -> None:
    """Ids are one space at EkaScribe, so a client of the protocol that chooses a taken one must be told."""
    before = await owner.rows()
    for session_id in (owner.things["session_id"], owner.open_session):
        body = {"session_id": session_id, "communication_protocol": "http", "upload_type": "chunked"}
        answer = await owner.strangers[0].post("/voice/v1/sessions", json=body)
        assert answer.status_code == 409, answer.text
        assert answer.json()["error"]["code"] == "txn_already_initialized"
        assert "ENC" not in answer.text
        assert "PAT" not in answer.text
    assert await owner.rows() == before


async def test_a_form_s_field_opens_its_own_session_only(owner: Owner) -> None:
    made = (
        await owner.strangers[0].post("/voice/v1/sessions?version=v2", json={"upload_type": "chunked"})
    ).json()
    before = await owner.rows()
    content, kind = form(made["upload_url"]["uploadData"]["fields"], "0.mp3", b"ID3")
    nobody = await owner.bridge.client(None)
    headers = {"content-type": kind}
    for session_id in (owner.open_session, owner.things["session_id"], f"ses_{'0' * 24}"):
        answer = await nobody.post(f"/voice/v1/uploads/{session_id}", content=content, headers=headers)
        assert answer.status_code == 403, answer.text
        assert answer.json()["error"]["code"] == "access_denied"
    assert await owner.rows() == before
    own = await nobody.post(f"/voice/v1/uploads/{made['session_id']}", content=content, headers=headers)
    assert own.status_code == 204


async def test_a_login_needs_the_tenant_s_own_key(owner: Owner) -> None:
    def body(client: httpx2.AsyncClient) -> dict[str, str]:
        secret = client.headers["authorization"].removeprefix("Bearer ")
        return {"client_id": owner.bridge.tenant_id, "client_secret": secret}

    nobody = await owner.bridge.client(None)
    refused = await nobody.post("/connect-auth/v1/account/login", json=body(owner.strangers[0]))
    assert refused.status_code == 401
    own = await nobody.post("/connect-auth/v1/account/login", json=body(owner.bridge.api))
    token = own.json()["access_token"]
    stranger = {"client_secret": body(owner.strangers[0])["client_secret"]}
    stranger["client_id"] = await owner.bridge.database.fetchval(
        "SELECT id FROM tenants WHERE name = $1", f"stranger of {owner.bridge.tenant_id}"
    )
    theirs = (await nobody.post("/connect-auth/v1/account/login", json=stranger)).json()["access_token"]
    path = f"/voice/v1/sessions/{owner.open_session}"
    for shown, status in ((token, 202), (theirs, 404)):
        answer = await nobody.get(path, headers={"authorization": f"Bearer {shown}"})
        assert answer.status_code == status, answer.text
    # A token of the protocol's door opens no other.
    assert (await nobody.get("/v1/sessions", headers={"authorization": f"Bearer {token}"})).status_code == 401


async def test_a_stream_s_address_opens_its_own_session_only(owner: Owner) -> None:
    mine = (await owner.bridge.create(upload="stream"))["stream_url"]
    theirs = (await owner.strangers[0].post("/v1/sessions", json={"upload": "stream"})).json()["stream_url"]
    session_url, _, _ = mine.rpartition("/")
    _, _, capability = theirs.rpartition("/")
    told = []
    for address in (
        f"{session_url}/{capability}",
        f"{session_url.rpartition('/')[0]}/ses_{'0' * 24}/{capability}",
    ):
        with pytest.raises(InvalidStatus) as refused:
            await connect(address, proxy=None).__aenter__()
        answer = refused.value.response
        assert answer.status_code == 404
        told.append(
            {name: value for name, value in json.loads(answer.body or b"").items() if name != "request_id"}
        )
    assert told[0] == told[1]
    async with connect(mine, proxy=None):
        pass


async def test_an_owner_reaches_every_object(owner: Owner) -> None:
    """Or the refusals above would prove nothing. Another owner, as nothing is left of his things."""
    tenant_id, key = await add_tenant(owner.bridge.settings, "second", "emr", templates=["eka_emr_template"])
    admin_key = await add_key(owner.bridge.settings, tenant_id, "admin")
    bridge = dataclasses.replace(
        owner.bridge,
        tenant_id=tenant_id,
        api=await owner.bridge.client(key),
        admin=await owner.bridge.client(admin_key),
    )
    owner = await furnish(bridge)
    for (method, path), request in OBJECTS.items():
        reached = []
        for session_id in (
            [owner.things["session_id"], owner.open_session] if "session_id" in path else [None]
        ):
            address = owner.path(path, session_id)
            async with owner.bridge.api.stream(method, address, **request) as answer:
                reached.append(answer.status_code)
        if (method, path) in ONLY_WHILE_HELD:
            reached.remove(404)
        assert not {403, 404, 405, 410, 500} & set(reached), (method, path, reached)
