"""The thinnest relay on the same server and client libraries: what ours is measured against.

It checks and records nothing. `uvicorn tests.tools.bench.thin_relay:relay`; the query is the vendor's URL.
"""

import asyncio
from typing import Any
from urllib.parse import unquote

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed


async def relay(scope: Any, receive: Any, send: Any) -> None:
    """Pass frames both ways until either side closes."""
    if scope["type"] != "websocket":
        return
    target = unquote(scope["query_string"].decode())
    async with connect(target, compression=None, proxy=None) as vendor:
        await receive()
        await send({"type": "websocket.accept"})

        async def up() -> None:
            while (message := await receive())["type"] == "websocket.receive":
                data = message.get("bytes")
                await vendor.send(data if data is not None else message["text"])

        async def down() -> None:
            async for frame in vendor:
                kind = "text" if isinstance(frame, str) else "bytes"
                await send({"type": "websocket.send", kind: frame})

        pumps = [asyncio.create_task(up()), asyncio.create_task(down())]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for outcome in await asyncio.gather(*pumps, return_exceptions=True):
                if isinstance(outcome, Exception) and not isinstance(outcome, ConnectionClosed):
                    raise outcome
