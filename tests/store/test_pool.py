"""Whoever waits for a connection is counted, so that the doors can let in less; tenants take turns."""

import asyncio

import pytest

from service.domain.errors import StoreUnavailable
from service.domain.ids import TenantId
from service.domain.vendor_calls import CALLING_TENANT
from service.store import database as database_module
from service.store.database import Database


async def test_the_longest_wait_for_a_connection_is_told_once(database_url: str) -> None:
    database = Database(database_url, size=1, statement_cache_size=0)
    await database.open()
    try:
        async with database.connection():
            waiting = asyncio.create_task(database.ping())
            await asyncio.sleep(0.3)  # the time itself is what is told
        await waiting
        assert database.longest_wait() >= 0.29
        assert database.longest_wait() == 0.0
        await database.ping()
        assert database.longest_wait() > 0.0
    finally:
        await database.close()


async def test_one_tenant_s_many_queries_delay_another_s_by_one(database_url: str) -> None:
    database = Database(database_url, size=1, statement_cache_size=0)
    await database.open()
    order: list[str] = []

    async def query(tenant: str) -> None:
        CALLING_TENANT.set(TenantId(tenant))
        await database.ping()
        order.append(tenant)

    try:
        async with database.connection():
            flood = [asyncio.create_task(query("mallory")) for _ in range(50)]
            await asyncio.sleep(0)
            hospital = asyncio.create_task(query("hospital"))
            await asyncio.sleep(0)
        await asyncio.gather(*flood, hospital)
        assert order.index("hospital") <= 1
    finally:
        await database.close()


async def test_a_turn_that_does_not_come_in_time_is_told(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(database_url, size=1, statement_cache_size=0)
    await database.open()
    try:
        await database.ping()
        monkeypatch.setattr(database_module, "_ACQUIRE_TIMEOUT_SECONDS", 0.05)
        async with database.connection():
            with pytest.raises(StoreUnavailable):
                await database.ping()
        await database.ping()
    finally:
        await database.close()
