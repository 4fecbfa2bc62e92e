"""Rotating the encryption key as docs/operations.md says, step by step, with real processes."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx2
import pytest

from service.store.encryption import Keyring
from tests.support.bridge import ENCRYPTION_KEY, encoded_key
from tests.support.commands import ekabridge
from tests.support.rig import Rig, Running, dictate, open_rig, until

NEW_KEY = bytes(range(100, 132))
OLD, NEW = encoded_key(), encoded_key(NEW_KEY)
OLD_ID, NEW_ID = Keyring([ENCRYPTION_KEY]).first, Keyring([NEW_KEY]).first
DETAILS = {"patient": {"id": "PAT-1", "name": "Asha Rao"}, "reference": "ENC-1"}


@pytest.fixture
async def rig(database_url: str, redis_url: str) -> AsyncIterator[Rig]:
    async with open_rig(database_url, redis_url, forks=True) as opened:
        yield opened


async def restart(rig: Rig, keys: str) -> Running:
    """Stop what runs, in order, and start a worker and a service; return the service."""
    running = [each for each in rig.running if each.process.returncode is None]
    assert not any(await asyncio.gather(*(each.stop() for each in running)))
    rig.environment["EKABRIDGE_ENCRYPTION_KEYS"] = keys
    _, service = await asyncio.gather(rig.worker(), rig.serve())
    return service


async def encryption(rig: Rig, *arguments: str) -> tuple[int, Any, str]:
    status, out, err = await ekabridge(rig.environment, "encryption", *arguments, "--json")
    return status, json.loads(out) if out else None, err


async def keys_of(rig: Rig) -> dict[str, dict[str, Any]]:
    status, found, err = await encryption(rig, "status")
    assert status == 0, err
    return {key["key_id"]: key for key in found["keys"]}


async def dictated(rig: Rig, service: Running, received: int) -> str:
    """A dictation from its start to the document in the EMR's hands."""
    async with client_of(rig, service) as api:
        session_id = await dictate(api, **DETAILS)
        assert len(await rig.received(received)) == received
        await shown(api, session_id)
    return session_id


async def shown(api: httpx2.AsyncClient, session_id: str) -> None:
    session = (await api.get(f"/v1/sessions/{session_id}")).json()
    assert (session["patient"], session["status"]) == (DETAILS["patient"], "completed")
    assert session["documents"]


def client_of(rig: Rig, service: Running) -> httpx2.AsyncClient:
    """A client that lets go of the service before that is stopped."""
    headers = {"authorization": f"Bearer {rig.key}"}
    return httpx2.AsyncClient(base_url=service.url, headers=headers, timeout=70, trust_env=False)


async def registered(database_url: str) -> set[str]:
    """The keys that encrypted something."""
    connection = await asyncpg.connect(database_url)
    try:
        return {row["key_id"] for row in await connection.fetch("SELECT key_id FROM encryption_keys")}
    finally:
        await connection.close()


# Four restarts of two processes, and three commands: on a busy machine each takes its seconds.
@pytest.mark.timeout(300)
async def test_a_key_is_replaced_step_by_step(rig: Rig, database_url: str) -> None:
    service = await restart(rig, OLD)
    async with client_of(rig, service) as api:
        await rig.register_emr(api)
    first = await dictated(rig, service, 1)

    # Step 1: at the end of the list.
    service = await restart(rig, f"{OLD},{NEW}")
    await dictated(rig, service, 2)
    assert await registered(database_url) == {OLD_ID}

    # Step 2: to the front.
    service = await restart(rig, f"{NEW},{OLD}")
    await dictated(rig, service, 3)
    assert await registered(database_url) == {OLD_ID, NEW_ID}

    # Step 3: everything is brought under it, whoever of the command and the worker is first.
    status, walked, err = await encryption(rig, "rotate")
    assert status == 0, err
    assert all(walk["finished_at"] and not walk["unreadable"] for walk in walked["walks"])

    # Step 4: nothing is under the old one; it is forgotten.
    keys = await keys_of(rig)
    assert {key_id: key["state"] for key_id, key in keys.items()} == {NEW_ID: "first", OLD_ID: "old"}
    assert (keys[OLD_ID]["values"], keys[OLD_ID]["places"]) == (0, {})
    assert keys[NEW_ID]["values"] > 0
    status, forgotten, err = await encryption(rig, "forget", OLD_ID)
    assert (status, forgotten["given_up"] if forgotten else err) == (0, 0)

    # Step 5: out of the list.
    service = await restart(rig, NEW)
    await dictated(rig, service, 4)
    async with client_of(rig, service) as api:
        await shown(api, first)
    connection = await asyncpg.connect(database_url)
    entry = await connection.fetchrow("SELECT * FROM audit WHERE action = 'encryption_key.retired'")
    await connection.close()
    assert (entry["actor"], entry["object_id"], entry["tenant_id"]) == ("cli", OLD_ID, rig.tenant_id)


async def test_a_lost_key_is_told_at_the_start_by_everyone_and_by_readiness(rig: Rig) -> None:
    rig.environment["EKABRIDGE_ENCRYPTION_KEYS"] = f"{NEW},{OLD}"
    async with client_of(rig, await rig.serve()) as api:
        assert (await api.post("/v1/sessions", json=DETAILS)).is_success
    environment = rig.environment | {"EKABRIDGE_ENCRYPTION_KEYS": OLD}
    commands = (("serve",), ("worker",), ("doctor",), ("tenant", "add", "City"))
    ends = await asyncio.gather(*(ekabridge(environment, *command) for command in commands))
    for (command, *_), (status, out, err) in zip(commands, ends, strict=True):
        assert status == 1, command
        said = out + err
        assert f"the encryption key {NEW_ID} is not among ENCRYPTION_KEYS" in said, command
        assert "sessions.details_sealed" in said, command
        assert f"ekabridge encryption forget {NEW_ID} --give-up" in said, command
        assert not {OLD, NEW, base64.b64decode(NEW).hex()} & set(said.split())


async def commands_with_a_wrong_first_key_change_nothing(rig: Rig, running: Running) -> None:
    """What only reads works and registers nothing; what seals is refused."""
    environment = rig.environment | {
        "EKABRIDGE_ENCRYPTION_KEYS": f"{NEW},{OLD}",
        "EKABRIDGE_PUBLIC_URL": running.url,
    }
    commands = (("tenant", "list"), ("tenant", "add", "City"), ("webhook", "list"))
    ends = await asyncio.gather(*(ekabridge(environment, *command) for command in commands))
    assert [status for status, _, _ in ends] == [0, 1, 1]
    for _, _, err in ends[1:]:
        assert f"encrypts nothing here yet, but {OLD_ID} does" in err
    async with httpx2.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"{running.url}/health/ready")).status_code == 200


async def test_a_pod_with_the_old_list_is_not_ready_while_others_encrypt_with_a_new_key(rig: Rig) -> None:
    behind = await rig.serve()
    async with httpx2.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"{behind.url}/health/ready")).status_code == 200
        await commands_with_a_wrong_first_key_change_nothing(rig, behind)
        rig.environment["EKABRIDGE_ENCRYPTION_KEYS"] = f"{NEW},{OLD}"
        ahead = await rig.serve()
        answers = await asyncio.gather(*(http.get(f"{each.url}/health/ready") for each in (behind, ahead)))
        assert [answer.status_code for answer in answers] == [503, 200]
        assert answers[0].json()["database"] == f"the encryption key {NEW_ID} is not among ENCRYPTION_KEYS"
        assert (await http.get(f"{behind.url}/health/live")).status_code == 200

        # Taken back before anything was encrypted with it, the old list is whole again.
        assert await ahead.stop() == 0
        rig.environment["EKABRIDGE_ENCRYPTION_KEYS"] = f"{OLD},{NEW}"
        status, _, err = await encryption(rig, "forget", NEW_ID)
        assert status == 0, err

        async def is_ready() -> bool:
            return (await http.get(f"{behind.url}/health/ready")).is_success

        assert await until(is_ready)


async def test_a_worker_that_lacks_a_key_does_not_keep_others_from_their_work(rig: Rig) -> None:
    """It led the sweep and did none of the work: while it lived, nobody did any."""
    behind = await rig.worker()
    rig.environment["EKABRIDGE_ENCRYPTION_KEYS"] = f"{NEW},{OLD}"
    service = await rig.serve(reconcile_after_seconds="0.5")
    api = await rig.client(service)
    await rig.register_emr(api)
    await dictate(api)
    await rig.worker()
    assert len(await rig.received(1, 60)) == 1
    async with httpx2.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{behind.url}/health/ready")
    assert answer.status_code == 503
    assert answer.json()["database"] == f"the encryption key {NEW_ID} is not among ENCRYPTION_KEYS"
