"""`ekabridge delivery` and `ekabridge destination recover|test` as an operator uses them: real processes."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.commands import ekabridge
from tests.support.rig import Rig, dictate, open_rig, until


@pytest.fixture
async def rig(database_url: str, redis_url: str) -> AsyncIterator[Rig]:
    async with open_rig(database_url, redis_url, forks=True) as opened:
        yield opened


async def ran(rig: Rig, *arguments: str, status: int = 0) -> str:
    found, out, err = await ekabridge(rig.environment, *arguments)
    assert found == status, out + err
    return out + err


async def as_json(rig: Rig, *arguments: str) -> Any:
    out = await ran(rig, *arguments, "--json")
    assert out.count("\n") == 1
    return json.loads(out)


async def test_an_outage_is_seen_and_recovered_from_the_command_line(rig: Rig) -> None:
    service, worker = await rig.serve(), await rig.worker(forward_schedule_seconds="0.05")
    api = await rig.client(service)
    await rig.register_emr(api)
    await rig.emr.post("/_control/behaviour", json={"otherwise": {"status": 503}})
    session_id = await dictate(api)

    async def dead() -> Any:
        return (await api.get("/v1/deliveries", params={"status": "dead"})).json()["items"]

    (died,) = await until(dead)
    tenant, destination = rig.tenant_id, died["destination_id"]
    listed = await as_json(rig, "delivery", "list", tenant, "--status", "dead", "--session", session_id)
    assert [each["id"] for each in listed["items"]] == [died["id"]]
    assert died["id"] in await ran(rig, "delivery", "list", tenant, "--destination", destination)
    shown = await ran(rig, "delivery", "show", tenant, died["id"])
    assert shown.count("http_503") == 3  # the reason, and two attempts
    await rig.emr.post("/_control/behaviour", json={"otherwise": {"status": 200}})

    since = ("--since", "2020-01-01T00:00:00")
    assert await as_json(rig, "destination", "recover", tenant, destination, *since) == {
        "recovered": 1,
        "replayed": 0,
    }
    assert "0 due again, 0 that it never got" in await ran(
        rig, "destination", "recover", tenant, destination, *since
    )
    ping = await as_json(rig, "destination", "test", tenant, destination)
    assert ping["type"] == "ping"

    async def done() -> Any:
        found = (await api.get("/v1/deliveries", params={"status": "delivered"})).json()["items"]
        return {each["id"] for each in found} == {died["id"], ping["id"]}

    await until(done)
    assert "delivery_settled" in await ran(rig, "delivery", "retry", tenant, died["id"], status=1)
    await worker.stop()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("destination", "recover", "ten_x", "dst_x", "--since", "yesterday"), "is not a time"),
        (("destination", "recover", "ten_x", "dst_x"), "--since"),
        (("delivery", "list", "ten_x", "--status", "lost"), "--status"),
    ],
)
async def test_a_mistake_is_told(rig: Rig, arguments: tuple[str, ...], words: str) -> None:
    assert words in await ran(rig, *arguments, status=2)


async def test_what_is_not_there_is_told(rig: Rig) -> None:
    for arguments in (
        ("delivery", "show", rig.tenant_id, "msg_x"),
        ("delivery", "retry", rig.tenant_id, "msg_x"),
        ("destination", "test", rig.tenant_id, "dst_x"),
    ):
        assert "not_found" in await ran(rig, *arguments, status=1)


async def test_a_session_that_ended_badly_is_refreshed_from_the_command_line(rig: Rig) -> None:
    service, _ = await rig.serve(), await rig.worker()
    api = await rig.client(service)
    await rig.register_emr(api)
    await rig.vendor.patch("/_control/settings", json={"outcome": "failed", "webhook_all_outcomes": True})
    session_id = await dictate(api)

    async def status_is(wanted: str) -> Any:
        return (await api.get(f"/v1/sessions/{session_id}")).json()["status"] == wanted

    await until(lambda: status_is("failed"))
    await rig.vendor.patch("/_control/settings", json={"webhooks_enabled": False})
    await rig.vendor.post(f"/_control/sessions/{session_id}/finish", json={"outcome": "completed"})
    since = ("--since", "2020-01-01T00:00:00Z")
    assert await as_json(rig, "session", "refresh", *since, "--tenant", rig.tenant_id) == {
        "refreshed": [session_id]
    }
    await until(lambda: status_is("completed"))
    assert "asked again about 1 sessions" in await ran(rig, "session", "refresh", session_id)
    assert "asked again about 0 sessions" in await ran(rig, "session", "refresh", *since)
    assert "no such session" in await ran(rig, "session", "refresh", "ses_unknown0000000000", status=1)
    assert "name a SESSION" in await ran(rig, "session", "refresh", status=2)
    assert "needs a time" in await ran(rig, "session", "refresh", "--since", "yesterday", status=2)
