"""Several service processes that share one port: started together, replaced when they die, stopped together.

uvicorn's own supervisor keeps the port open until its last process has ended, so calls arrive that nobody
answers; and when it is killed, its processes live on and keep the port.
"""

import asyncio
import multiprocessing
import socket
from multiprocessing.context import SpawnProcess

import structlog

from service.http_server.server import serve
from service.http_server.signals import on_stop_signal
from service.observability.metrics_exposition import forget_process, shared_metrics

log = structlog.get_logger()

_spawn = multiprocessing.get_context("spawn")
# The pause before a process that died is replaced: one that cannot start must not use all of the CPU.
_REPLACE_SECONDS = 1.0
# A process ends itself at its deadline; one that has not by so much later is killed.
_MARGIN_SECONDS = 0.5


class Supervisor:
    """Keeps `workers` processes serving one socket; `app` is as for `serve`."""

    def __init__(self, app: str, listening: socket.socket, *, workers: int, shutdown_seconds: int) -> None:
        self._app = app
        self._listening = listening
        self._workers = workers
        self._shutdown_seconds = shutdown_seconds
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT."""
        on_stop_signal(self._stop, seconds=self._shutdown_seconds + 2 * _MARGIN_SECONDS)
        with shared_metrics():
            await asyncio.gather(*(self._keep_one() for _ in range(self._workers)))

    def _stop(self) -> None:
        # This process's socket would keep the port open, and calls would wait there unanswered.
        self._listening.close()
        self._stopping.set()

    async def _keep_one(self) -> None:
        while not self._stopping.is_set():
            process = self._start()
            ended = asyncio.create_task(_end_of(process))
            await self._until_stopped(ended)
            if not self._stopping.is_set():
                forget_process(process.pid or 0)
                log.error("service_process_died", pid=process.pid, status=process.exitcode)
                await self._until_stopped(seconds=_REPLACE_SECONDS)
                continue
            process.terminate()
            await asyncio.wait({ended}, timeout=self._shutdown_seconds + _MARGIN_SECONDS)
            if not ended.done():
                log.error("service_process_killed", pid=process.pid)
                process.kill()
            await ended

    async def _until_stopped(self, *or_done: asyncio.Task[None], seconds: float | None = None) -> None:
        stop = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({stop, *or_done}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()

    def _start(self) -> SpawnProcess:
        process = _spawn.Process(
            target=_serve_child,
            args=(self._app, self._listening, self._shutdown_seconds),
        )
        process.start()
        return process


async def _end_of(process: SpawnProcess) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(process.sentinel, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(process.sentinel)
    process.join()


def _serve_child(app: str, listening: socket.socket, shutdown_seconds: int) -> None:
    parent = multiprocessing.parent_process()
    serve(
        app,
        listening,
        shutdown_seconds=shutdown_seconds,
        parent=parent.sentinel if parent is not None else None,
    )
