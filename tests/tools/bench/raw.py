"""Serves a protocol by itself, for stand-ins that must cost next to nothing."""

import asyncio
import sys
from collections.abc import Callable

import uvloop


def serve_raw(protocol: Callable[[], asyncio.Protocol]) -> None:
    """Serve until killed; say the port."""

    async def serve() -> None:
        server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
        sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
        sys.stdout.flush()
        await server.serve_forever()

    uvloop.run(serve())
