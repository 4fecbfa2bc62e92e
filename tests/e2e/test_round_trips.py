"""A webhook is answered after exactly one round trip to the database: counted on the wire."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qs, urlsplit

from schemas.tenants import SessionDefaults
from service.bootstrap.container import open_stores
from service.domain.tenants.changes import Tenants
from service.domain.vendor_accounts import AccountChange, Credentials
from tests.support.bridge import WEBHOOK_SECRET, make_settings, open_bridge

_SYNC = ord("S")


class Wire:
    """Stands between a client and PostgreSQL and counts the round trips that the client asks for.

    asyncpg ends each extended query with one Sync, and waits for its answer: one Sync is one round trip.
    """

    def __init__(self) -> None:
        self.syncs = 0

    @asynccontextmanager
    async def listening(self, database_url: str) -> AsyncIterator[str]:
        """Listen, and yield the URL that leads through here."""
        parts = urlsplit(database_url)
        folder = parse_qs(parts.query).get("host", [None])[0]

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            if folder:
                return await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.5432")
            return await asyncio.open_connection(parts.hostname or "127.0.0.1", parts.port or 5432)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            upstream_reader, upstream_writer = await connect()
            pumps = [
                asyncio.create_task(self._count(reader, upstream_writer)),
                asyncio.create_task(_copy(upstream_reader, writer)),
            ]
            # Whichever side hangs up first, the other is hung up on.
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for each in (writer, upstream_writer):
                each.close()
                with suppress(ConnectionError):
                    await each.wait_closed()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        user = f"{parts.username or 'postgres'}{':' + parts.password if parts.password else ''}"
        async with server:
            yield f"postgresql://{user}@127.0.0.1:{port}{parts.path}?sslmode=disable"

    async def _count(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        start = int.from_bytes(head := await reader.readexactly(4))
        writer.write(head + await reader.readexactly(start - 4))
        while True:
            head = await reader.readexactly(5)
            writer.write(head + await reader.readexactly(int.from_bytes(head[1:]) - 4))
            self.syncs += head[0] == _SYNC
            await writer.drain()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(65536):
        writer.write(piece)
        await writer.drain()


async def test_a_webhook_costs_one_round_trip(database_url: str, redis_url: str) -> None:
    wire = Wire()
    async with wire.listening(database_url) as through, open_bridge(through, redis_url) as bridge:
        await bridge.vendor_settings(webhooks_enabled=False)
        session_ids = [await bridge.dictate() for _ in range(3)]

        async def send(session_id: str) -> list[str]:
            answer = await bridge.vendor.post(
                "/_control/webhooks/send",
                json={
                    "url": f"{bridge.url}/webhooks/eka",
                    "secret": WEBHOOK_SECRET,
                    "session_id": session_id,
                },
            )
            return [each["body"] for each in answer.json()["answers"]]

        await send(session_ids[0])  # the statement is prepared once per connection
        for session_id in session_ids[1:]:
            before = wire.syncs
            assert await send(session_id) == ['{"status":"accepted"}']
            assert wire.syncs - before == 1


async def test_nor_does_a_webhook_of_a_tenant_s_own_account_cost_more(
    database_url: str, redis_url: str
) -> None:
    wire = Wire()
    async with wire.listening(database_url) as through, open_bridge(through, redis_url) as bridge:
        own = AccountChange(
            credentials=Credentials(token="sandbox-token"), webhook_secrets=("hospital-signing-key",)
        )
        async with open_stores(make_settings(database_url, redis_url)) as stores:
            tenant = await Tenants(stores.tenants).add("hospital", SessionDefaults(), own)

        async def send(session_id: str) -> list[str]:
            answer = await bridge.vendor.post(
                "/_control/webhooks/send",
                json={
                    "url": f"{bridge.url}/webhooks/eka/{tenant.id}",
                    "secret": "hospital-signing-key",
                    "session_id": session_id,
                },
            )
            return [each["body"] for each in answer.json()["answers"]]

        await send("ses_first")  # the secrets are looked up, the statement is prepared
        for session_id in ("ses_second", "ses_third"):
            before = wire.syncs
            assert await send(session_id) == ['{"status":"ignored"}']
            assert wire.syncs - before == 1
