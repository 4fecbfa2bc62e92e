"""Runs the service under uvicorn, so that SIGTERM ends it in order and with exit status 0."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable

import structlog
import uvicorn
from uvicorn.supervisors import Multiprocess

from service.parting import PROTOCOLS

log = structlog.get_logger()

_FACTORY = "service.app:app_from_environment"
# Kubernetes gives 30 s by default: leave it some.
_GRACEFUL_SECONDS = 24
_LAST_SECONDS = 28
# Longer than a load balancer keeps idle connections, so that it is not us who hang up on a request.
_KEEP_ALIVE_SECONDS = 75
_BACKLOG = 2048


def serve(listening: socket.socket, *, host: str, port: int, workers: int) -> None:
    """Serve until SIGTERM or SIGINT; then stop accepting, finish what is in hand, return."""
    config = uvicorn.Config(
        _FACTORY,
        factory=True,
        host=host,
        port=port,
        workers=workers,
        loop="uvloop",
        **PROTOCOLS,
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACEFUL_SECONDS,
    )
    server = uvicorn.Server(config)
    if workers > 1:
        Multiprocess(config, sockets=[listening]).run()
        return
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve(server, listening))
    if not server.started:
        raise SystemExit(3)


async def _serve(server: uvicorn.Server, listening: socket.socket) -> None:
    # uvicorn raises the signal again when it is done, which would end the process with the signal's status.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    on_stop_signal(lambda: server.handle_exit(signal.SIGTERM, None))
    await server.serve(sockets=[listening])


def on_stop_signal(stop: Callable[[], None]) -> None:
    """Call `stop` at SIGTERM or SIGINT, and see to it that the process ends in time, whatever hangs.

    Every state is a row and every lease ends: a process that does not get done in time may simply go.
    """
    loop = asyncio.get_running_loop()

    def stopped() -> None:
        stop()
        loop.call_later(_LAST_SECONDS, _go)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped)


def _go() -> None:
    log.error("stopped_without_finishing")
    os._exit(0)


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
