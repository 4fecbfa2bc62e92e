"""One bridge for many tests of the doors, each with a tenant of its own."""

import dataclasses
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import asyncpg
import pytest

from service.sandbox.embedded.api import EmbeddedUrls
from tests.conftest import with_path
from tests.support.bridge import Bridge, add_key, add_tenant, open_bridge


@pytest.fixture(scope="session")
async def shared_bridge(
    servers: EmbeddedUrls, database_template: str, database_names: Iterator[str], worker_id: str
) -> AsyncIterator[Bridge]:
    """A bridge that lives as long as the run; tests use it through `house`."""
    name = next(database_names)
    connection = await asyncpg.connect(servers.database_url)
    await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{database_template}" STRATEGY FILE_COPY')
    number = 0 if worker_id == "master" else int(worker_id.removeprefix("gw"))
    redis_url = with_path(servers.redis_url, str(number))
    async with open_bridge(with_path(servers.database_url, name), redis_url) as opened:
        # No test here wants the vendor's own webhooks; those that do open a bridge of their own.
        await opened.vendor_settings(webhooks_enabled=False)
        yield opened
    await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await connection.close()


@pytest.fixture
async def house(shared_bridge: Bridge) -> AsyncIterator[Bridge]:
    """The shared bridge, seen by a fresh tenant with the default template; faults end with the test."""
    async with AsyncExitStack() as stack:
        shared = dataclasses.replace(shared_bridge, stack=stack)
        tenant_id, key = await add_tenant(shared.settings, "one", "emr", templates=["eka_emr_template"])
        admin_key = await add_key(shared.settings, tenant_id, "admin")
        yield dataclasses.replace(
            shared, tenant_id=tenant_id, api=await shared.client(key), admin=await shared.client(admin_key)
        )
    (await shared_bridge.vendor.delete("/_control/faults")).raise_for_status()
