"""Destinations that take a call and never answer, hundreds of them, and the document of somebody else."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from secrets import token_hex
from time import monotonic

import pytest

from schemas.destinations import DestinationCreate
from schemas.tenants import SessionDefaults
from service.bootstrap.container import make_destinations, open_stores
from service.domain.audit import Actor
from service.domain.ids import TenantId
from service.domain.tenants.changes import Tenants
from service.store.outbox import event_aad
from tests.support.api_calls import until
from tests.support.bridge import Bridge

SILENT = 300
EACH = 10  # documents that wait for each of them
PATIENCE_SECONDS = 5.0


class SilentServer:
    """Takes every call and answers none."""

    def __init__(self) -> None:
        self.url = ""
        self.open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Keep a connection until the client gives up."""
        self.open += 1
        try:
            with contextlib.suppress(ConnectionError):
                while await reader.read(65536):
                    pass
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def silent_server() -> AsyncIterator[SilentServer]:
    silent = SilentServer()
    server = await asyncio.start_server(silent.serve, "127.0.0.1", 0, backlog=1024)
    silent.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield silent
    finally:
        server.close()


async def fill(bridge: Bridge, silent: SilentServer, tenants: int) -> None:
    """Let documents wait for 300 silent destinations of so many tenants."""
    async with open_stores(bridge.settings) as stores:
        names = [(await Tenants(stores.tenants).add(f"t{n}", SessionDefaults())).id for n in range(tenants)]
        made, destinations = [], make_destinations(bridge.settings, stores)
        for number in range(SILENT):
            request = DestinationCreate(url=f"{silent.url}/{number}", timeout_seconds=120)
            tenant_id = names[number % tenants]
            made.append(
                (tenant_id, (await destinations.add(Actor.operator(TenantId(tenant_id)), request)).id)
            )
        encrypted = stores.keyring.encrypt_json({"type": "document.ready"}, event_aad(None))
    for tenant_id, destination_id in made:
        await bridge.database.execute(
            "WITH made AS (INSERT INTO events (tenant_id, type, body_sealed) "
            "SELECT $1, 'document.ready', $2 FROM generate_series(1, $3::int) RETURNING id) "
            "INSERT INTO deliveries (id, tenant_id, event_id, destination_id, type, next_at) "
            "SELECT $4 || made.id, $1, made.id, $5, 'document.ready', now() FROM made",
            tenant_id,
            encrypted,
            EACH,
            f"msg_{token_hex(8)}",
            destination_id,
        )


@pytest.mark.parametrize("tenants", [1, SILENT])
async def test_another_tenant_s_document_comes_within_five_seconds(bridge: Bridge, tenants: int) -> None:
    await bridge.add_destination()
    async with silent_server() as silent:
        await fill(bridge, silent, tenants)
        await bridge.start_worker(shutdown_seconds=2, forward_schedule_seconds=(1.0, 2.0, 600.0))

        async def worker_is_busy() -> bool:
            return silent.open >= 90

        await until(worker_is_busy)
        waits = []
        for number in range(1, 4):
            session_id = await bridge.dictate()
            begun = monotonic()
            await bridge.reach(session_id, "completed")
            received = await bridge.received(number)
            waits.append(monotonic() - begun)
            assert received[-1]["body"]["data"]["session_id"] == session_id
            assert received[-1]["verified"]
    # All processes are one here, on a machine that may be busy: one of three may be late, never by a
    # time-out.
    assert sorted(waits)[1] < PATIENCE_SECONDS, waits
    assert max(waits) < 3 * PATIENCE_SECONDS, waits
