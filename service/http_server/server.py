"""Runs an ASGI application under uvicorn so that SIGTERM ends it in order: every call gets its answer."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import structlog
import uvicorn
from uvicorn.config import STARTUP_FAILURE

from service.http_server.graceful_shutdown import DrainingHttpProtocol, DrainingWebSocketProtocol
from service.http_server.signals import on_stop_signal

log = structlog.get_logger()

# The time from SIGTERM to the end is shared out: first the requests that run may finish; then they are
# cancelled and have a third of the rest to answer; then the server answers for them, with as much time again.
_DRAIN_SHARE = 0.8
_CANCEL_SHARE = 1 / 3
_POLL_SECONDS = 0.05
# Longer than a load balancer keeps idle connections: if we closed first, a request could meet the close.
_KEEP_ALIVE_SECONDS = 75
_BACKLOG = 2048
# A health server has only short answers to finish.
_HEALTH_SHUTDOWN_SECONDS = 6
# uvicorn's options for the connections of every server of ours: the classes that speak HTTP and WebSocket,
# the longest frame and the pings of WebSockets. A longer frame closes its stream with 1009. The pings keep an
# EMR's stream alive through proxies that cut silent ones after 60 s; the vendor's leg has the same two
# numbers in service/eka/streams.py. A client that back-pressure slows down answers a ping behind its frames,
# so it has as long as a stalled frame has.
CONNECTION_OPTIONS: dict[str, Any] = {
    "http": DrainingHttpProtocol,
    "ws": DrainingWebSocketProtocol,
    "ws_max_size": 1_048_576,
    "ws_per_message_deflate": False,
    "ws_ping_interval": 20.0,
    "ws_ping_timeout": 45.0,
}


def drain_seconds(shutdown_seconds: int) -> int:
    """Return how long work that has begun may go on after SIGTERM."""
    return max(1, int(shutdown_seconds * _DRAIN_SHARE))


def serve(app: str, listening: socket.socket, *, shutdown_seconds: int, parent: int | None = None) -> None:
    """Serve until SIGTERM or SIGINT; then stop accepting, finish the requests that run, and return.

    `app` is the `module:function` that makes the application. `parent` is a file descriptor that becomes
    readable when the process that started this one has died; the server then stops as at SIGTERM. Raises
    SystemExit if the application does not start.
    """
    config = uvicorn.Config(app, factory=True, loop="uvloop", **_options(shutdown_seconds))
    server = Server(config, shutdown_seconds=shutdown_seconds)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve(server, listening, shutdown_seconds, parent))
    if not server.started:
        raise SystemExit(STARTUP_FAILURE)


async def _serve(
    server: "Server", listening: socket.socket, shutdown_seconds: int, parent: int | None
) -> None:
    stop = on_stop_signal(server.stop, seconds=shutdown_seconds)
    if parent is not None:
        loop = asyncio.get_running_loop()

        def parent_died() -> None:
            loop.remove_reader(parent)
            log.error("supervisor_is_gone")
            stop()

        loop.add_reader(parent, parent_died)
    await server.serve(sockets=[listening])


@contextlib.asynccontextmanager
async def serving_health(app: Any, listening: socket.socket) -> AsyncIterator[None]:
    """Serve an application beside the work of this event loop until the block ends."""
    config = uvicorn.Config(app, **_options(_HEALTH_SHUTDOWN_SECONDS))
    server = Server(config, shutdown_seconds=_HEALTH_SHUTDOWN_SECONDS)
    running = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield
    finally:
        server.stop()
        await running


def _options(shutdown_seconds: int) -> dict[str, Any]:
    return CONNECTION_OPTIONS | {
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "backlog": _BACKLOG,
        "timeout_keep_alive": _KEEP_ALIVE_SECONDS,
        "timeout_graceful_shutdown": drain_seconds(shutdown_seconds),
    }


class Server(uvicorn.Server):
    """uvicorn's server, with an end that leaves no call without an answer.

    uvicorn itself resets connections that wait to be accepted and requests that arrive on kept connections
    at that moment, and answers a request that takes too long with a bare 500.
    """

    def __init__(self, config: uvicorn.Config, *, shutdown_seconds: int) -> None:
        super().__init__(config)
        self._drain_seconds = drain_seconds(shutdown_seconds)
        self._cancel_seconds = (shutdown_seconds - self._drain_seconds) * _CANCEL_SHARE

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers: the caller has its own, and uvicorn would raise the signals again."""
        yield

    def stop(self) -> None:
        """Begin to stop; `serve` returns when that is done."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, drain, answer the requests that do not finish, end the application."""
        await self._stop_listening(sockets or [])
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if not await self._drained(self._drain_seconds):
            await self._cancel_requests()
        await self.lifespan.shutdown()

    async def _stop_listening(self, sockets: list[socket.socket]) -> None:
        """Accept the connections that wait, then close the port: the kernel resets what nobody accepted."""
        waiting = [accepted for listening in sockets for accepted in _accept_all(listening)]
        for server in self.servers:
            server.close()
        for listening in sockets:
            listening.close()
        for accepted in waiting:
            with contextlib.suppress(OSError):  # the client has left meanwhile
                await asyncio.get_running_loop().connect_accepted_socket(self._protocol, accepted)

    def _protocol(self) -> asyncio.Protocol:
        made: Any = self.config.http_protocol_class
        connection: asyncio.Protocol = made(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return connection

    async def _drained(self, seconds: float) -> bool:
        """Wait until no connection and no request is left; false if some are after so many seconds."""
        state, loop = self.server_state, asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while state.connections or state.tasks:
            if loop.time() > deadline:
                return False
            await asyncio.sleep(_POLL_SECONDS)
        return True

    async def _cancel_requests(self) -> None:
        """Cancel every request that still runs; each gets an answer that tells the client to retry."""
        state = self.server_state
        if state.tasks:
            log.warning("requests_given_up", requests=len(state.tasks))
        for task in list(state.tasks):
            task.cancel()
        if not await self._drained(self._cancel_seconds):
            for connection in list(state.connections):
                if isinstance(connection, DrainingHttpProtocol):
                    await connection.answer_at_deadline()
            await self._drained(self._cancel_seconds)


def _accept_all(listening: socket.socket) -> list[socket.socket]:
    accepted = []
    with contextlib.suppress(OSError):  # no connection waits, or no file descriptor is free
        while True:
            connection, _ = listening.accept()
            connection.setblocking(False)
            accepted.append(connection)
    return accepted


def listen(host: str, port: int) -> socket.socket:
    """Bind the port. Raises OSError.

    The socket names its protocol because asyncio turns Nagle's algorithm off only for sockets that do; with
    it, small answers wait 40 ms for an acknowledgement.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening
