"""Each address has connections of its own, and keeps them no longer than it uses them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpcore2

from service.forwarding.per_host_pools import PoolsByAddress


@asynccontextmanager
async def endpoint() -> AsyncIterator[tuple[str, list[asyncio.StreamWriter]]]:
    """An endpoint that answers each request with 204 and keeps its connections."""
    connections: list[asyncio.StreamWriter] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", connections
    finally:
        server.close()


async def test_a_connection_is_used_again_by_its_own_address_only():
    async with endpoint() as (url, connections):
        pools = PoolsByAddress(httpcore2.AsyncConnectionPool, idle_seconds=60)
        async with pools:
            for path in ("/a", "/b", "/a", "/b", "/a"):
                assert (await pools.request("GET", url + path)).status == 204
            assert len(connections) == 2


async def test_a_pool_that_was_long_idle_is_closed():
    made: list[httpcore2.AsyncConnectionPool] = []

    def make() -> httpcore2.AsyncConnectionPool:
        made.append(httpcore2.AsyncConnectionPool())
        return made[-1]

    async with endpoint() as (url, connections):
        pools = PoolsByAddress(make, idle_seconds=0)
        async with pools:
            await pools.request("GET", f"{url}/a")
            assert made[0].connections
            await pools.request("GET", f"{url}/b")
            assert not made[0].connections
            await pools.request("GET", f"{url}/a")
            assert len(made) == len(connections) == 3
        assert not any(pool.connections for pool in made)
