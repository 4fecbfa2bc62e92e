"""A worker, Redis, the nudges and the destination go, and the ledger balances at every moment."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import httpx2
import pytest
from redis.asyncio import Redis

from service.domain.ids import TenantId
from tests.support.commands import ekabridge
from tests.support.rig import Rig, dictate, open_rig, until

_DICTATIONS = 12


@pytest.fixture
async def rig(database_url: str, redis_url: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with open_rig(database_url, redis_url, forks=True) as opened:
        opened.log = tmp_path / "processes.log"
        yield opened


async def sample(api: httpx2.AsyncClient, samples: list[dict[str, int]]) -> None:
    """Ask for the ledger again and again, whatever else goes on."""
    while True:
        answer = await api.get("/v1/ledger")
        assert answer.status_code == 200, answer.text
        samples.append(answer.json())


async def test_it_balances_whatever_is_killed_and_loses_nothing(
    rig: Rig, database_url: str, redis_url: str
) -> None:
    service, worker = await rig.serve(), await rig.worker()
    api = await rig.client(service)
    await rig.register_emr(api)
    await rig.emr.post("/_control/behaviour", json={"otherwise": {"status": 503}})
    samples: list[dict[str, int]] = []
    sampling = asyncio.create_task(sample(api, samples))
    dictating = asyncio.gather(*(dictate(api) for _ in range(_DICTATIONS)))
    await rig.received(2)
    await worker.kill()
    async with Redis.from_url(redis_url) as redis:
        await redis.flushall()
    await dictating
    connection = await asyncpg.connect(database_url)
    # What the killed worker held is due again when its leases end: let that time be over.
    for table in ("fetches", "deliveries"):
        await connection.execute(f"UPDATE {table} SET next_at = now() WHERE next_at IS NOT NULL")
    await connection.close()
    await rig.worker()
    async with Redis.from_url(redis_url) as redis:
        await redis.flushall()
    await rig.emr.post("/_control/behaviour", json={"otherwise": {"status": 204}})

    async def is_delivered() -> bool:
        assert not sampling.done(), sampling.exception()
        return bool(samples and samples[-1]["delivered"] == _DICTATIONS)

    await until(is_delivered, 60)
    sampling.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sampling
    assert len(samples) > _DICTATIONS
    for each in samples:
        assert each["ended"] == each["delivered"] + each["in_flight"] + each["dead"], each
        assert each["lost"] == 0, each
    ended = [each["ended"] for each in samples]
    assert ended == sorted(ended)  # what was ended once is in the ledger for good
    assert samples[-1] == {
        "ended": _DICTATIONS,
        "delivered": _DICTATIONS,
        "in_flight": 0,
        "dead": 0,
        "lost": 0,
    }


async def test_what_is_lost_is_an_error_in_the_log_once_a_minute(rig: Rig, database_url: str) -> None:
    api = await rig.client(await rig.serve())
    await dictate(api)
    connection = await asyncpg.connect(database_url)
    await connection.execute("DELETE FROM fetches")
    await connection.close()
    await rig.worker()
    assert rig.log is not None

    def lines() -> list[str]:
        return [line for line in rig.log.read_text().splitlines() if '"ledger_lost"' in line]  # type: ignore[union-attr]

    async def is_told() -> list[str]:
        return await asyncio.to_thread(lines)

    (line,) = await until(is_told)
    told = json.loads(line)
    assert (told["level"], told["lost"]) == ("error", 1)
    assert "ses_" not in line


async def test_the_command_line(rig: Rig, database_url: str) -> None:
    api = await rig.client(await rig.serve())
    session_id = await dictate(api)

    async def as_json(*arguments: str) -> dict:
        status, out, err = await ekabridge(rig.environment, *arguments, "--json")
        assert (status, out.count("\n")) == (0, 1), err
        return json.loads(out)

    in_flight = {"ended": 1, "delivered": 0, "in_flight": 1, "dead": 0, "lost": 0}
    assert await as_json("ledger", rig.tenant_id) == in_flight
    assert await as_json("ledger") == in_flight
    assert (await as_json("ledger", "--to", "2026-01-01T00:00:00Z"))["ended"] == 0
    assert (await as_json("ledger", "--show", "in_flight"))["items"] == [session_id]
    assert (await as_json("ledger", "--show", "lost"))["items"] == []
    _, out, _ = await ekabridge(rig.environment, "ledger", rig.tenant_id)
    assert out.split() == ["ended", "1", "delivered", "0", "in_flight", "1", "dead", "0", "lost", "0"]
    for wrong in (
        ("ledger", "ten_none"),
        ("ledger", "--from", "yesterday"),
        ("ledger", "--from", "2026-01-01T00:00:00"),
        ("ledger", "--from", "2026-01-02T00:00:00Z", "--to", "2026-01-01T00:00:00Z"),
        ("audit", "list", "ten_none"),
        ("tenant", "retention", rig.tenant_id, "--content-days", "9", "--metadata-days", "8"),
        ("tenant", "retention", rig.tenant_id, "--clear", "--content-days", "9"),
        ("tenant", "retention", "ten_none"),
    ):
        status, _, err = await ekabridge(rig.environment, *wrong)
        assert status in {1, 2}, wrong
        assert "Traceback" not in err

    kept = await as_json("tenant", "retention", rig.tenant_id, "--content-days", "90")
    assert (kept["keep_content_days"], kept["keep_metadata_days"]) == (90, None)
    assert (await as_json("tenant", "retention", rig.tenant_id))["keep_content_days"] == 90
    assert (await as_json("tenant", "list"))["items"][0]["keep_content_days"] == 90
    cleared = await as_json("tenant", "retention", rig.tenant_id, "--clear")
    assert cleared["keep_content_days"] is None
    entries = (await as_json("audit", "list", rig.tenant_id, "--action", "retention.changed"))["items"]
    assert [each["facts"]["content_days"] for each in entries] == [None, 90]
    assert [each["actor"] for each in entries] == ["cli", "cli"]
    assert TenantId(entries[0]["object_id"]) == rig.tenant_id
