"""Whoever waits for a connection is counted, so that the doors can let in less."""

import asyncio

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
