"""One tenant's results that EkaScribe is slow to give leave room for another tenant's of the same account."""

import asyncio
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

import httpx2
import pytest

from tests.support.bridge import add_tenant, make_settings
from tests.support.rig import Rig, dictate, open_rig, until

SESSIONS = 60
SECONDS = 2.0


@pytest.fixture
async def rig(database_url: str, redis_url: str) -> AsyncIterator[Rig]:
    async with open_rig(database_url, redis_url, forks=True) as opened:
        yield opened


async def test_refreshes_of_one_tenant_do_not_hold_up_another_tenants_note(
    rig: Rig, database_url: str, redis_url: str
) -> None:
    """Sixty calls of two seconds in eight places took a quarter of a minute, first come first served."""
    service = await rig.serve(rate_limit_per_second="0")
    await rig.worker(eka_max_concurrency="8")
    busy = await rig.client(service)
    _, key = await add_tenant(make_settings(database_url, redis_url), "other", "emr")
    other = await rig.stack.enter_async_context(
        httpx2.AsyncClient(
            base_url=service.url, headers={"authorization": f"Bearer {key}"}, timeout=60, trust_env=False
        )
    )

    async def finished(api: httpx2.AsyncClient, session_id: str) -> Any:
        async def is_over() -> bool:
            return (await api.get(f"/v1/sessions/{session_id}")).json()["status"] == "completed"

        return await until(is_over, 60)

    sessions = [await dictate(busy, 1) for _ in range(SESSIONS)]
    await asyncio.gather(*(finished(busy, each) for each in sessions))
    await rig.fault(r"^/voice/v1/sessions/[^/]+$", method="GET", times=None, delay_seconds=SECONDS)
    for each in sessions:
        assert (await busy.post(f"/v1/sessions/{each}/refresh")).status_code == 202
    asked = monotonic()
    await finished(other, await dictate(other, 1))
    assert monotonic() - asked < 3 * SECONDS
