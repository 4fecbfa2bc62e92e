"""Serves the stand-ins with uvicorn, beside a test or as `ekabridge sandbox`."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import click
import msgspec
import uvicorn

from service.sandbox.vendor.app import VendorSettings, create_vendor

_GRACE_SECONDS = 1
_POLL_SECONDS = 0.005
_USAGE = """\
ekabridge sandbox: a stand-in EkaScribe at {url}
  token          Authorization: Bearer sandbox-token   (or log in as sandbox / sandbox-secret,
                 with --character onprem-2026-08 as sandbox / sandbox-password)
  settings       curl {url}/_control/settings
  change one     curl -X PATCH {url}/_control/settings -d '{{"processing_seconds": 5}}'
  add a fault    curl -X POST {url}/_control/faults -d '{{"path_regex": "/end$", "status": 503, "times": 2}}'
  journal        curl {url}/_control/calls
  start afresh   curl -X POST {url}/_control/reset
Ctrl-C stops it."""


class StandInServer(uvicorn.Server):
    """Uvicorn without signal handlers, which says when it listens, and stops without pauses of 0.1 seconds.

    Tests start and stop a thousand of them.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self.stopping = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers: the program around this server has its own."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen and say so."""
        await super().startup(sockets)
        self.listening.set()

    async def main_loop(self) -> None:
        """Renew the date of the answers each second, until `stopping` is set."""
        while not self.stopping.is_set():
            await self.on_tick(0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self.stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, give open calls their time, cancel them, and run the app's shutdown."""
        for server in self.servers:
            server.close()
        for listening in sockets or []:
            listening.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110 - uvicorn's sets
                    await asyncio.sleep(_POLL_SECONDS)
        for task in self.server_state.tasks:
            task.cancel()
        await self.lifespan.shutdown()


@contextlib.asynccontextmanager
async def serve_app(app: Any, host: str = "127.0.0.1", port: int = 0, **options: Any) -> AsyncIterator[str]:
    """Serve an ASGI app in this event loop and yield its base URL; port 0 lets the system choose.

    `options` are uvicorn's, in place of those chosen here.

    Raises `OSError` when the address is taken. On exit it stops listening, gives open calls one second, then
    cancels them and runs the app's shutdown.
    """
    listener = _listen(host, port)
    chosen: dict[str, Any] = {
        "http": "httptools",
        "ws": "websockets-sansio",
        "ws_per_message_deflate": False,
        "lifespan": "on",
        "log_config": None,
        "log_level": "error",
        "access_log": False,
        "timeout_graceful_shutdown": _GRACE_SECONDS,
    }
    config = uvicorn.Config(app, **(chosen | options))
    server = StandInServer(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    listening = asyncio.create_task(server.listening.wait())
    try:
        await asyncio.wait({serving, listening}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            await serving
            raise RuntimeError("the server stopped before it listened")
        name = f"[{host}]" if ":" in host else host
        yield f"http://{name}:{listener.getsockname()[1]}"
    finally:
        listening.cancel()
        server.stopping.set()
        await asyncio.wait({serving})
        listener.close()


def _listen(host: str, port: int) -> socket.socket:
    # asyncio sets TCP_NODELAY only on sockets with an explicit protocol; without it each answer takes 40 ms.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener


def run_sandbox(host: str = "127.0.0.1", port: int = 8090, character: str = "hosted") -> None:
    """Serve the stand-in vendor, as one of its three servers, until SIGINT or SIGTERM.

    Raises `ValueError` for an address that is not loopback, since the control API has no authorization, and
    `OSError` when the port is taken.
    """
    if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
        raise ValueError("the sandbox listens on loopback addresses only")
    settings = msgspec.convert({"character": character}, VendorSettings)
    asyncio.run(_serve_sandbox("127.0.0.1" if host == "localhost" else host, port, settings))


async def _serve_sandbox(host: str, port: int, settings: VendorSettings) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with serve_app(create_vendor(settings), host, port) as url:
        click.echo(_USAGE.format(url=url))
        await stopped.wait()
