"""Processes whose clock is off by minutes: what they sign, what they accept, and how they say so."""

import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from tests.support.bridge import WEBHOOK_SECRET
from tests.support.rig import Rig, Running, dictate, open_rig, until
from tests.tools.chaos.clocks import Clocks

OFF_SECONDS = 600.0


@pytest.fixture
async def rig(database_url: str, redis_url: str) -> AsyncIterator[Rig]:
    async with open_rig(database_url, redis_url) as opened:
        yield opened


@pytest.fixture
def clocks(tmp_path: Path) -> Clocks:
    made = Clocks(tmp_path)
    if made.why_not:
        pytest.skip(made.why_not)
    return made


async def ready(process: Running) -> dict[str, str]:
    async with httpx2.AsyncClient(trust_env=False, timeout=10) as http:
        answer = await http.get(f"{process.url}/health/ready")
        assert answer.status_code == 200
        return answer.json()


async def offset(process: Running) -> float:
    async with httpx2.AsyncClient(trust_env=False, timeout=10) as http:
        lines = (await http.get(f"{process.url}/metrics")).text.splitlines()
    (found,) = [line for line in lines if line.startswith("ekabridge_clock_offset_seconds ")]
    return float(found.split()[1])


@pytest.mark.parametrize("seconds", [OFF_SECONDS, -OFF_SECONDS])
async def test_what_is_signed_by_a_process_with_a_wrong_clock_is_fresh(
    rig: Rig, clocks: Clocks, tmp_path: Path, seconds: float
) -> None:
    service = await rig.serve()
    api = await rig.client(service)
    await rig.register_emr(api)
    rig.log = tmp_path / "log"
    rig.environment |= clocks.environment("worker", seconds)
    worker = await rig.worker()
    await dictate(api)
    (delivery,) = await rig.received(1)
    assert delivery["verified"], delivery
    assert abs(int(delivery["headers"]["webhook-timestamp"]) - time.time()) < 5
    said = await ready(worker)
    assert said["status"] == "ready"
    assert said["clock"].startswith(("off by 599 s", "off by 600 s", "off by 601 s"))
    assert abs(await offset(worker) - OFF_SECONDS) < 2
    assert '"clock_is_off"' in rig.log.read_text()
    # It is set right: nobody need restart the process.
    clocks.shift("worker", 0.0)
    await until(lambda: _is_right(worker))
    assert '"clock_is_right"' in rig.log.read_text()


async def _is_right(process: Running) -> bool:
    return "clock" not in await ready(process) and await offset(process) < 2


async def _is_off(process: Running) -> bool:
    return "off by 600 s" in (await ready(process)).get("clock", "")


async def test_a_clock_that_jumps_while_the_process_runs_changes_no_signature(
    rig: Rig, clocks: Clocks
) -> None:
    service = await rig.serve()
    api = await rig.client(service)
    await rig.register_emr(api)
    rig.environment |= clocks.environment("worker", 0.0)
    await rig.worker()
    await dictate(api)
    await rig.received(1)
    clocks.shift("worker", -OFF_SECONDS)
    await dictate(api)
    _, delivery = await rig.received(2)
    assert delivery["verified"]
    assert abs(int(delivery["headers"]["webhook-timestamp"]) - time.time()) < 5


async def test_a_service_with_a_wrong_clock_takes_fresh_webhooks_and_refuses_stale_ones(
    rig: Rig, clocks: Clocks
) -> None:
    rig.environment |= clocks.environment("serve", OFF_SECONDS)
    service = await rig.serve()
    await until(lambda: _is_off(service))

    async def hook(at: float) -> int:
        body = json.dumps({"event": "session.completed", "session_id": "ses_of_nobody_00000000"}).encode()
        signed = f"{int(at)}.".encode() + body
        mac = hmac.new(WEBHOOK_SECRET.encode(), signed, hashlib.sha256).hexdigest()
        headers = {"x-msa-signature": f"t={int(at)},v1={mac}"}
        async with httpx2.AsyncClient(trust_env=False, timeout=10) as http:
            return (await http.post(f"{service.url}/webhooks/eka", content=body, headers=headers)).status_code

    assert await hook(time.time()) == 200
    assert await hook(time.time() + OFF_SECONDS) == 401
