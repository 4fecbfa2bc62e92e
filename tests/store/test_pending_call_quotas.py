"""Calls that are owed to EkaScribe: one tenant of an account leaves places to the account's others."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING

from service.domain.ids import Account, SessionId, TenantId
from service.jobs.job_pool import JobPool
from service.jobs.pools import account_quotas
from tests.support.rig import until
from tests.support.store_house import House, new_tenant

if TYPE_CHECKING:
    from service.domain.sessions.models import PendingCall


async def test_one_tenant_s_owed_calls_leave_places_to_another_tenant_of_the_account(house: House) -> None:
    """Whoever cancels many sessions while EkaScribe hangs held every place of the account."""
    other = House(
        stores=house.stores, connection=house.connection, tenant_id=await new_tenant(house.stores, "other")
    )
    for _ in range(20):
        await house.insert()
    await house.let_pass("sessions", "owed_next_at", 60)
    theirs = await other.insert()
    await house.connection.execute("UPDATE sessions SET owed_next_at = now() WHERE id = $1", theirs)
    running: Counter[TenantId] = Counter()
    may_end = asyncio.Event()

    async def claim(_: SessionId | None, limit: int, at_quota: Collection[str]) -> list[PendingCall]:
        passed_over = [Account(holder) for holder in at_quota]
        return await house.stores.sessions.claim_pending_calls(limit, 60, passed_over)

    async def run(call: PendingCall) -> None:
        running[call.tenant_id] += 1
        await may_end.wait()

    lane: JobPool[PendingCall] = JobPool("owed", size=24, claim=claim, run=run, quotas=account_quotas(8))
    await lane.wake(None)

    async def is_running() -> bool:
        return running[other.tenant_id] == 1

    await until(is_running)
    assert running[house.tenant_id] <= 6  # of eight, with what one claim takes beyond the half
    lane.close()
    may_end.set()
    await lane.drain(5)
