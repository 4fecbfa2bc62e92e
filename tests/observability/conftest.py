from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from service.bootstrap.container import open_stores
from tests.support.bridge import make_settings
from tests.support.store_house import House, new_tenant


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection beside the pool, to look at the rows and to turn their clocks."""
    opened = await asyncpg.connect(database_url)
    yield opened
    await opened.close()


@pytest.fixture
async def house(database_url: str, connection: asyncpg.Connection) -> AsyncIterator[House]:
    """Every room of the store over a fresh database, with one tenant."""
    async with open_stores(make_settings(database_url, "redis://unused")) as stores:
        yield House(stores=stores, connection=connection, tenant_id=await new_tenant(stores))
