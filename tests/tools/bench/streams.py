"""Real-time streams through ekabridge, the thinnest relay and nginx, in turns: CPU a frame, and memory."""

import asyncio
import contextlib
import statistics
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any
from urllib.parse import quote

import psutil
from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import BINARY, Frame

from service.sandbox.stack import free_port
from tests.support.rig import Rig
from tests.tools.bench.installation import open_installation
from tests.tools.bench.peers import WEBSOCKET, cpu_seconds, nginx, open_nginx, started

FRAME_BYTES = 3200  # 100 ms of PCM
STREAMS = 300
ROUNDS = 3
SECONDS = 3
BEATS_A_SECOND = 10
FRAMES = STREAMS * BEATS_A_SECOND * SECONDS
CPU_LIMIT = 1.25
"""Ours may cost so many times what the thinnest relay does."""
NGINX_LIMIT = 4.0
"""And so many times what nginx does."""
GROWTH_LIMIT_MB = 50

_WARM_SECONDS = 0.5
_ARRIVAL_SECONDS = 15.0
_AT_ONCE = 16
_HANDSHAKE_SECONDS = 30.0


class StreamFigures(Struct, frozen=True, kw_only=True):
    """What was measured; CPU in microseconds a frame, the ratios to ours, memory in MB."""

    ours: float
    thin: float
    ratio: float
    nginx: float | None
    """None: there is no nginx on this machine."""
    nginx_ratio: float | None
    early_mb: float
    late_mb: float
    arrived: int
    sent: int

    @property
    def is_well(self) -> bool:
        """Whether every limit is kept."""
        return (
            self.ratio <= CPU_LIMIT
            and (self.nginx_ratio is None or self.nginx_ratio <= NGINX_LIMIT)
            and self.late_mb - self.early_mb < GROWTH_LIMIT_MB
            and self.arrived == self.sent
        )


class Sink:
    """A vendor that takes every frame and does nothing with it."""

    def __init__(self) -> None:
        self.frames = 0
        self._goal = 0
        self._reached = asyncio.Event()

    async def take(self, connection: ServerConnection) -> None:
        """Count the frames of one stream."""
        with contextlib.suppress(ConnectionClosed):  # no stream says goodbye here
            async for _ in connection:
                self.frames += 1
                if self.frames == self._goal:
                    self._reached.set()

    async def reach(self, frames: int) -> None:
        """Wait until so many frames have come in all."""
        self._goal = frames
        self._reached.clear()
        if self.frames < frames:
            async with asyncio.timeout(_ARRIVAL_SECONDS):
                await self._reached.wait()


class Target(Struct, kw_only=True):
    """A relay with its open streams."""

    name: str
    process: psutil.Process
    streams: list[ClientConnection]
    costs: list[float] = []
    """Microseconds of CPU a frame, by turn."""


async def measure_streams(rig: Rig) -> StreamFigures:
    """Open all streams of all relays, then speak on those of one after the other."""
    async with AsyncExitStack() as stack:
        sink = Sink()
        server = await stack.enter_async_context(
            serve(sink.take, "127.0.0.1", 0, compression=None, ping_interval=None)
        )
        port = server.sockets[0].getsockname()[1]
        ours = await stack.enter_async_context(_ours(rig, port))
        thin = await stack.enter_async_context(_thinnest(port))
        targets = [ours, thin]
        if nginx() is not None:
            targets.append(await stack.enter_async_context(_nginx(port)))
        memory: list[float] = []
        for _ in range(ROUNDS):
            for target in targets:
                target.costs.append(await _turn(target, sink))
            memory.append(ours.process.memory_info().rss / 1e6)
        return _figures(targets, memory, sink.frames)


def _figures(targets: list[Target], memory: list[float], arrived: int) -> StreamFigures:
    ours, thin, *others = (target.costs for target in targets)
    peer = others[0] if others else None
    return StreamFigures(
        ours=statistics.median(ours),
        thin=statistics.median(thin),
        ratio=_ratio(ours, thin),
        nginx=statistics.median(peer) if peer else None,
        nginx_ratio=_ratio(ours, peer) if peer else None,
        early_mb=memory[0],
        late_mb=memory[-1],
        arrived=arrived,
        sent=len(targets) * ROUNDS * _frames(_WARM_SECONDS) + len(targets) * ROUNDS * FRAMES,
    )


def _ratio(mine: list[float], peers: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(mine, peers, strict=True))


async def _turn(target: Target, sink: Sink) -> float:
    """Return the microseconds of CPU that a relay spends on a frame of many real-time streams."""
    await _speak(target.streams, sink, _WARM_SECONDS)
    before = cpu_seconds([target.process])
    await _speak(target.streams, sink, SECONDS)
    return (cpu_seconds([target.process]) - before) / FRAMES * 1e6


def _frames(seconds: float) -> int:
    return STREAMS * int(BEATS_A_SECOND * seconds)


async def _speak(streams: list[ClientConnection], sink: Sink, seconds: float) -> None:
    """Send ten frames a second on each, spread evenly: people do not speak in step."""
    goal = sink.frames + _frames(seconds)
    # Made once: what the speakers cost is taken from the machine that is measured.
    frame = Frame(BINARY, bytes(FRAME_BYTES)).serialize(mask=True)
    begun = monotonic()
    for number in range(_frames(seconds)):
        wait = begun + number / (STREAMS * BEATS_A_SECOND) - monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        streams[number % STREAMS].transport.write(frame)
    await sink.reach(goal)


@asynccontextmanager
async def _ours(rig: Rig, sink_port: int) -> AsyncIterator[Target]:
    # The stand-in vendor would be slower than what is measured: streams go to the sink instead.
    rig.vendor_app.state.vendor.settings.stream_base_url = f"ws://127.0.0.1:{sink_port}/sink"
    service = await rig.serve(rate_limit_per_second="0")
    api = await rig.client(service)

    async def address() -> str:
        answer = await api.post("/v1/sessions", json={"upload": "stream"})
        return str(answer.raise_for_status().json()["stream_url"])

    async with _opened(address) as streams:
        yield Target(name="ekabridge", process=psutil.Process(service.process.pid), streams=streams)


@asynccontextmanager
async def _thinnest(sink_port: int) -> AsyncIterator[Target]:
    port = free_port()
    options = (
        f"--port {port} --loop uvloop --ws websockets-sansio --ws-per-message-deflate false"
        " --lifespan off --log-level error"
    )
    command = (sys.executable, "-m", "uvicorn", "tests.tools.bench.thin_relay:relay", *options.split())

    async def address() -> str:
        return f"ws://127.0.0.1:{port}/?{quote(f'ws://127.0.0.1:{sink_port}/sink', safe='')}"

    async with started(*command, port=port) as process, _opened(address) as streams:
        yield Target(name="thinnest relay", process=process, streams=streams)


@asynccontextmanager
async def _nginx(sink_port: int) -> AsyncIterator[Target]:
    async with open_nginx(sink_port, WEBSOCKET) as (process, port):

        async def address() -> str:
            return f"ws://127.0.0.1:{port}/sink"

        async with _opened(address) as streams:
            yield Target(name="nginx", process=process, streams=streams)


@asynccontextmanager
async def _opened(address: Callable[[], Awaitable[str]]) -> AsyncIterator[list[ClientConnection]]:
    """Open all streams of a relay, some at once."""
    turns = asyncio.Semaphore(_AT_ONCE)

    async def opened() -> ClientConnection:
        async with turns:
            options: dict[str, Any] = {"compression": None, "proxy": None, "ping_interval": None}
            return await connect(await address(), open_timeout=_HANDSHAKE_SECONDS, **options)

    streams = await asyncio.gather(*(opened() for _ in range(STREAMS)))
    try:
        yield streams
    finally:
        for stream in streams:
            stream.transport.abort()


def stream_rows(figures: StreamFigures) -> str:
    """Write what was measured as rows of the report's table: what, measured, limit."""
    every = (
        f"CPU of a frame of {FRAME_BYTES:,} bytes with {STREAMS} real-time streams,"
        " beside the thinnest relay on the same libraries"
    )
    thin = f"{figures.ours:.0f} beside {figures.thin:.0f} µs: {figures.ratio:.2f} times"
    beside = "no nginx on this machine"
    if figures.nginx is not None:
        beside = f"{figures.ours:.0f} beside {figures.nginx:.0f} µs: {figures.nginx_ratio:.2f} times"
    memory = (
        f"memory of the service with these streams after {FRAMES:,} frames, and after {ROUNDS * FRAMES:,};"
        f" all frames came: {figures.arrived == figures.sent}"
    )
    return f"""\
| {every} | {thin} | {CPU_LIMIT} times |
| the same, beside nginx as a WebSocket proxy | {beside} | {NGINX_LIMIT:g} times |
| {memory} | {figures.early_mb:.0f} MB, {figures.late_mb:.0f} MB | no growth |
"""


async def main() -> int:
    """Measure by itself; return 1 if a limit is broken."""
    async with open_installation() as rig:
        figures = await measure_streams(rig)
    sys.stdout.write(stream_rows(figures))
    return 0 if figures.is_well else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
