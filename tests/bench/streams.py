"""Measures live streams: our relay's CPU beside the thinnest one, memory under many real-time streams."""

import asyncio
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any
from urllib.parse import quote

import psutil
from msgspec import Struct
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from service.sandbox.stack import free_port
from tests.e2e.rig import Rig

FRAME = bytes(3200)  # 100 ms of PCM
FRAMES = 10_000
ROUNDS = 5
STREAMS = 200
SECONDS = 20
CPU_LIMIT = 1.5
GROWTH_LIMIT_MB = 50


class StreamFigures(Struct, frozen=True, kw_only=True):
    """What was measured; CPU in microseconds a frame, memory in MB."""

    ours: float
    thin: float
    ratio: float
    early_mb: float
    late_mb: float
    arrived: int
    sent: int


class Sink:
    """A vendor that takes every frame and does nothing with it."""

    def __init__(self) -> None:
        self.frames = 0
        self._goal = 0
        self._reached = asyncio.Event()

    async def take(self, connection: ServerConnection) -> None:
        """Count the frames of one stream."""
        async for _ in connection:
            self.frames += 1
            if self.frames >= self._goal:
                self._reached.set()

    async def reach(self, frames: int) -> None:
        """Wait until so many frames have come in all."""
        self._goal = frames
        self._reached.clear()
        if self.frames < frames:
            await self._reached.wait()


async def measure_streams(rig: Rig) -> StreamFigures:
    """Run both relays in turns, then many real-time streams through ours."""
    async with AsyncExitStack() as stack:
        sink = Sink()
        server = await stack.enter_async_context(serve(sink.take, "127.0.0.1", 0, compression=None))
        sink_url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/sink"
        ours = await rig.serve()
        api = await rig.client(ours)
        thin, thin_url = await stack.enter_async_context(_thin_relay(sink_url))

        # The stand-in vendor would be slower than what is measured: streams go to the sink instead.
        rig.vendor_app.state.vendor.settings.stream_base_url = sink_url

        async def our_url() -> str:
            answer = await api.post("/v1/sessions", json={"upload": "stream"})
            return str(answer.json()["stream_url"])

        mine, peers = [], []
        our_process, thin_process = psutil.Process(ours.process.pid), psutil.Process(thin.pid)
        for _ in range(ROUNDS):
            mine.append(await _cpu(our_process, await our_url(), sink))
            peers.append(await _cpu(thin_process, thin_url, sink))
        urls = [await our_url() for _ in range(STREAMS)]
        early, late, arrived, sent = await _real_time(our_process, urls, sink)
        await ours.stop()
        ratios = [mine_us / thin_us for mine_us, thin_us in zip(mine, peers, strict=True)]
        return StreamFigures(
            ours=statistics.median(mine),
            thin=statistics.median(peers),
            ratio=statistics.median(ratios),
            early_mb=early,
            late_mb=late,
            arrived=arrived,
            sent=sent,
        )


@asynccontextmanager
async def _thin_relay(sink_url: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    port = free_port()
    options = (
        f"--port {port} --loop uvloop --ws websockets-sansio --ws-per-message-deflate false --lifespan off"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "uvicorn",
        "tests.bench.thin_relay:relay",
        *options.split(),
        "--log-level",
        "error",
    )
    url = f"ws://127.0.0.1:{port}/?{quote(sink_url, safe='')}"
    try:
        deadline = monotonic() + 20
        while True:
            try:
                async with connect(url, compression=None, proxy=None):
                    break
            except OSError:
                if monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)
        yield process, url
    finally:
        process.terminate()
        await process.wait()


async def _real_time(process: psutil.Process, urls: list[str], sink: Sink) -> tuple[float, float, int, int]:
    """Speak on all streams at once, ten frames a second each; return MB early and late, frames in and out."""
    streams = await asyncio.gather(*(connect(url, compression=None, proxy=None) for url in urls))
    before, started, sent = sink.frames, monotonic(), 0
    early = 0.0
    for beat in range(SECONDS * 10):
        await asyncio.gather(*(stream.send(FRAME) for stream in streams))
        sent += len(streams)
        if beat == SECONDS * 2:
            early = process.memory_info().rss / 1e6
        await asyncio.sleep(max(0.0, started + (beat + 1) * 0.1 - monotonic()))
    late = process.memory_info().rss / 1e6
    await asyncio.gather(*(stream.close() for stream in streams))
    return early, late, sink.frames - before, sent


async def _cpu(process: psutil.Process, url: str, sink: Sink) -> float:
    """Return the microseconds of CPU that the process spends on a frame."""
    async with connect(url, compression=None, proxy=None) as stream:
        await _send(stream, sink, 500)
        before = process.cpu_times()
        await _send(stream, sink, FRAMES)
        after = process.cpu_times()
    return (after.user + after.system - before.user - before.system) / FRAMES * 1e6


async def _send(stream: Any, sink: Sink, count: int) -> None:
    begun = sink.frames
    for number in range(1, count + 1):
        # One at a time, as they are spoken: frames that come in a burst share the cost of waking up.
        await stream.send(FRAME)
        await sink.reach(begun + number)
