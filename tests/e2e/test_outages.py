"""PostgreSQL goes away and comes back: both processes say so, lose nothing, and come back by themselves."""

import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pytest

from service.sandbox.embedded.api import Embedded, start_embedded
from service.store.migrate import migrate
from tests.support.rig import Rig, Running, dictate, open_rig, until


class Database:
    """A PostgreSQL of the test's own, which it may stop and start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: Embedded = start_embedded(folder)
        self.url = self._running.urls.database_url

    def stop(self) -> None:
        """Stop it."""
        self._running.stop()

    def start(self) -> None:
        """Start it again, on the same data."""
        self._running = start_embedded(self._folder)


@pytest.fixture
def database() -> Iterator[Database]:
    # Outside any home: as root, PostgreSQL runs as another user, who must be able to enter.
    folder = Path("/var/tmp") / f"ekabridge-test-{secrets.token_hex(4)}"
    made = Database(folder)
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def rig(database: Database, redis_url: str) -> AsyncIterator[Rig]:
    await migrate(database.url)
    async with open_rig(database.url, redis_url, forks=True) as opened:
        yield opened


async def test_a_restarted_database_is_waited_for(rig: Rig, database: Database) -> None:
    processes = [await rig.serve(), await rig.worker()]
    api = await rig.client(processes[0])
    await rig.register_emr(api)
    before = await dictate(api)
    await rig.received(1)

    database.stop()
    for process in processes:
        ready = await _ask(process, "/health/ready")
        # It was reached before: a pod that called itself unready would leave the ingress's own errors.
        assert (ready.status_code, ready.json()["status"]) == (200, "ready")
        assert ready.json()["database"] != "ok"
        assert (await _ask(process, "/health/live")).status_code == 200
    refused = await api.get(f"/v1/sessions/{before}")
    assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
    assert int(refused.headers["retry-after"]) > 0
    webhook = await rig.vendor.post(
        "/_control/webhooks/send",
        json={
            "url": f"{processes[0].url}/webhooks/eka",
            "secret": "vendor-signing-key",
            "session_id": before,
        },
    )
    assert webhook.json()["answers"][0]["status"] == 503  # never 200 for what is not committed

    database.start()
    for process in processes:

        async def is_ready(process: Running = process) -> bool:
            return (await _ask(process, "/health/ready")).json()["database"] == "ok"

        await until(is_ready)
    after = await dictate(api)
    received = await rig.received(2)
    assert {entry["body"]["data"]["session_id"] for entry in received} == {before, after}
    assert [await process.stop() for process in processes] == [0, 0]


async def test_both_start_before_their_database(rig: Rig, database: Database) -> None:
    database.stop()
    processes = [await rig.serve(), await rig.worker()]
    for process in processes:
        ready = await _ask(process, "/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
    database.start()
    api = await rig.client(processes[0])

    async def is_ready() -> bool:
        return (await _ask(processes[0], "/health/ready")).status_code == 200

    await until(is_ready)
    await rig.register_emr(api)
    assert await dictate(api) == (await rig.received(1))[0]["body"]["data"]["session_id"]


async def _ask(process: Running, path: str) -> httpx2.Response:
    async with httpx2.AsyncClient(trust_env=False, timeout=20) as http:
        return await http.get(process.url + path)


async def test_a_worker_that_cannot_reach_the_vendor_does_not_keep_others_from_their_work(rig: Rig) -> None:
    """The process that swept for all passed over what its own closed gate held back: nobody else looked."""
    service = await rig.serve(reconcile_after_seconds="0.5")
    await rig.worker(eka_base_url="http://127.0.0.1:9")
    api = await rig.client(service)
    await rig.register_emr(api)
    sessions = [await dictate(api, chunks=1) for _ in range(12)]
    await rig.worker()
    assert len(await rig.received(len(sessions), 60)) == len(sessions)
