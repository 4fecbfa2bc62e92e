"""Runs the service under uvicorn, so that SIGTERM ends it in order, cuts nobody's call, and exits with 0."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import structlog
import uvicorn
from uvicorn.config import STARTUP_FAILURE

from service.http_server.graceful_shutdown import PROTOCOLS, DrainingHttpProtocol

log = structlog.get_logger()

_FACTORY = "service.app:app_from_environment"
# Of the time from SIGTERM to the end, the first share is for what is in hand; of the rest, the second is for
# what has to be ended to end so, and as much again for the answers of what does not even do that.
_WORK_SHARE = 0.8
_LAST_WORDS_SHARE = 1 / 3
_LOOK_AGAIN_SECONDS = 0.05
# Starters pass a Ctrl-C on that its terminal has sent to everybody already: that is not a second one.
_SAME_INTERRUPT_SECONDS = 1.0
_INTERRUPTED = 128 + signal.SIGINT
# Longer than a load balancer keeps idle connections, so that it is not us who hang up on a request.
_KEEP_ALIVE_SECONDS = 75
_BACKLOG = 2048
_GARBAGE_THRESHOLDS = (700, 10, 200)


def drain_seconds(shutdown_seconds: int) -> int:
    """Return how long what is in hand may go on after SIGTERM."""
    return max(1, int(shutdown_seconds * _WORK_SHARE))


def serve(
    listening: socket.socket, *, host: str, port: int, shutdown_seconds: int, parent: int | None = None
) -> None:
    """Serve until SIGTERM or SIGINT; then stop accepting, finish what is in hand, return.

    `parent` is a file descriptor that becomes readable when the process that started us is gone, which is as
    good as SIGTERM.
    """
    # Nearly all that a start makes stays: looking for garbage in it again and again is a tenth of its time.
    gc.disable()
    config = uvicorn.Config(
        _FACTORY,
        factory=True,
        host=host,
        port=port,
        loop="uvloop",
        **PROTOCOLS,
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=drain_seconds(shutdown_seconds),
    )
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

        def parent_is_gone() -> None:
            loop.remove_reader(parent)
            log.error("supervisor_is_gone")
            stop()

        loop.add_reader(parent, parent_is_gone)
    await server.serve(sockets=[listening])


class Server(uvicorn.Server):
    """uvicorn's server, ending so that every call has an answer.

    uvicorn's own ending resets what waits to be accepted and what comes on kept connections at that moment,
    and answers a call that takes too long with a bare 500.
    """

    def __init__(self, config: uvicorn.Config, *, shutdown_seconds: int) -> None:
        super().__init__(config)
        self._work_seconds = drain_seconds(shutdown_seconds)
        self._last_words_seconds = (shutdown_seconds - self._work_seconds) * _LAST_WORDS_SHARE

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to whoever runs the server: uvicorn raises them again when it is done."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application and accept; from then on, look for garbage, but only in what is new."""
        await super().startup(sockets)
        gc.freeze()
        # All that is open is looked through for garbage seldom: with thousands of connections that takes as
        # long as dozens of calls. What is short-lived is looked through as ever.
        gc.set_threshold(*_GARBAGE_THRESHOLDS)
        gc.enable()

    def stop(self) -> None:
        """Begin to end."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, let what is in hand finish, answer what does not, end the application."""
        await self._stop_listening(sockets or [])
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if not await self._all_done(self._work_seconds):
            await self._give_up()
        await self.lifespan.shutdown()

    async def _stop_listening(self, sockets: list[socket.socket]) -> None:
        """Close the door behind whoever has knocked: the system would reset what nobody has accepted."""
        waiting = [accepted for listening in sockets for accepted in _accept_all(listening)]
        for server in self.servers:
            server.close()
        for listening in sockets:
            listening.close()
        for accepted in waiting:
            with contextlib.suppress(OSError):  # gone meanwhile
                await asyncio.get_running_loop().connect_accepted_socket(self._protocol, accepted)

    def _protocol(self) -> asyncio.Protocol:
        made: Any = self.config.http_protocol_class
        connection: asyncio.Protocol = made(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return connection

    async def _all_done(self, seconds: float) -> bool:
        state, loop = self.server_state, asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while state.connections or state.tasks:
            if loop.time() > deadline:
                return False
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        return True

    async def _give_up(self) -> None:
        """End every request that still runs, and see to it that each is told to come again."""
        state = self.server_state
        if state.tasks:
            log.warning("requests_given_up", requests=len(state.tasks))
        for task in list(state.tasks):
            task.cancel()
        if not await self._all_done(self._last_words_seconds):
            for connection in list(state.connections):
                if isinstance(connection, DrainingHttpProtocol):
                    await connection.give_up()
            await self._all_done(self._last_words_seconds)


def _accept_all(listening: socket.socket) -> list[socket.socket]:
    accepted = []
    with contextlib.suppress(OSError):  # nobody waits, or there is no room for one more
        while True:
            connection, _ = listening.accept()
            connection.setblocking(False)
            accepted.append(connection)
    return accepted


def on_stop_signal(stop: Callable[[], None], *, seconds: float) -> Callable[[], None]:
    """Call `stop` once at SIGTERM or SIGINT, and end the process so many seconds later, whatever hangs.

    Every state is a row and every lease ends: a process that does not get done in time may simply go. To be
    told SIGTERM again changes nothing; a second SIGINT, of somebody who will not wait, ends it at once.
    Returns what does the same as the signal.
    """
    loop = asyncio.get_running_loop()
    stopped_at: float | None = None

    def stopped() -> None:
        nonlocal stopped_at
        if stopped_at is None:
            stopped_at = loop.time()
            last = threading.Timer(seconds, _exit_hard, [0])  # a thread, because the loop may be what hangs
            last.daemon = True
            last.start()
            stop()

    def interrupted() -> None:
        if stopped_at is not None and loop.time() > stopped_at + _SAME_INTERRUPT_SECONDS:
            _exit_hard(_INTERRUPTED)
        stopped()

    loop.add_signal_handler(signal.SIGTERM, stopped)
    loop.add_signal_handler(signal.SIGINT, interrupted)
    return stopped


def _exit_hard(status: int) -> None:
    log.error("stopped_without_finishing")
    os._exit(status)


def listen(host: str, port: int) -> socket.socket:
    """Bind the port. Raises OSError.

    The protocol is named because asyncio turns Nagle's algorithm off only for sockets that name it; with it,
    small answers wait 40 ms for an acknowledgement.
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
