"""Measures the main job and writes docs/benchmarks.md: `make bench`.

Memory under 64 uploads of 10 MB at once, our share of the way from a webhook to the EMR's endpoint, and live
streams beside the thinnest relay.
Times of one machine mean nothing on another; what counts is the distance to the limit, or to a peer.
"""

import asyncio
import platform
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, time

import asyncpg
import httpx2
import psutil

from service.sandbox.embedded import start_embedded
from service.store.migrate import migrate
from tests.bench.deliveries import DRAIN_LIMIT, SHARE_LIMIT, measure_deliveries
from tests.bench.streams import (
    CPU_LIMIT,
    FRAMES,
    GROWTH_LIMIT_MB,
    ROUNDS,
    SECONDS,
    STREAMS,
    measure_streams,
)
from tests.e2e.rig import Rig, Running, dictate, open_rig

UPLOADS = 64
UPLOAD_BYTES = 10_000_000
DICTATIONS = 60
MEMORY_LIMIT_MB = 150
SHARE_LIMIT_MS = 50
REPORT = Path(__file__).parents[2] / "docs" / "benchmarks.md"


@asynccontextmanager
async def open_installation() -> AsyncIterator[Rig]:
    """Start servers and stand-ins of our own."""
    async with AsyncExitStack() as stack:
        urls = stack.enter_context(start_embedded(temporary=True)).urls
        await migrate(urls.database_url)
        yield await stack.enter_async_context(open_rig(urls.database_url, urls.redis_url))


async def measure_memory(rig: Rig) -> tuple[float, float, int]:
    """Upload 64 chunks of 10 MB at once; return MB at rest, MB at the peak, and how many were stored."""
    service = await rig.serve()
    api = await rig.client(service)
    session_id = (await api.post("/v1/sessions", json={})).json()["id"]
    wav = {"content-type": "audio/wav"}
    await api.put(f"/v1/sessions/{session_id}/audio/0", content=b"warm", headers=wav)
    rest = _resident_mb(service)
    peak, done = rest, asyncio.Event()

    async def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, _resident_mb(service))
            await asyncio.sleep(0.01)

    async def body() -> AsyncIterator[bytes]:
        piece = bytes(100_000)
        for _ in range(UPLOAD_BYTES // len(piece)):
            yield piece

    async def upload(sequence: int) -> int:
        headers = wav | {"content-length": str(UPLOAD_BYTES)}
        path = f"/v1/sessions/{session_id}/audio/{sequence}"
        return (await api.put(path, content=body(), headers=headers)).status_code

    watching = asyncio.create_task(watch())
    statuses = await asyncio.gather(*(upload(sequence) for sequence in range(1, UPLOADS + 1)))
    done.set()
    await watching
    await service.stop()
    return rest, peak, statuses.count(200)


async def measure_share(rig: Rig) -> list[float]:
    """Return, per dictation, the milliseconds from sending the webhook until the EMR has the document."""
    service, worker = await rig.serve(), await rig.worker()
    api = await rig.client(service)
    await rig.register_emr(api)
    rig.vendor_app.state.vendor.settings.webhooks_enabled = False
    shares = []
    for number in range(1, DICTATIONS + 1):
        session_id = await dictate(api)
        await rig.vendor.post(f"/_control/sessions/{session_id}/finish", json={"outcome": "completed"})
        sent = time()
        await rig.vendor.post(
            "/_control/webhooks/send",
            json={
                "url": f"{service.url}/webhooks/eka",
                "secret": "vendor-signing-key",
                "session_id": session_id,
            },
        )
        received = await rig.received(number)
        shares.append((received[-1]["at"] - sent) * 1000)
    await service.stop()
    await worker.stop()
    return shares


def _resident_mb(service: Running) -> float:
    return psutil.Process(service.process.pid).memory_info().rss / 1e6


async def main() -> int:
    """Measure, write the report, and return 1 if a limit is broken."""
    started = monotonic()
    async with open_installation() as rig:
        rest, peak, stored = await measure_memory(rig)
        shares = sorted(await measure_share(rig))
    async with open_installation() as rig:
        streams = await measure_streams(rig)
    async with open_installation() as rig:
        deliveries = await measure_deliveries(rig)
    growth, median = peak - rest, statistics.median(shares)
    p95 = shares[int(len(shares) * 0.95)]
    version = await _server_version()
    report = f"""# Benchmarks

Made by `make bench` in {monotonic() - started:.0f} s on {datetime.now(UTC):%Y-%m-%d}, {platform.system()}, \
{psutil.cpu_count()} cores, Python {platform.python_version()}, {version}. Everything runs on that one
machine: service, worker, PostgreSQL, Valkey, the stand-in EkaScribe and the stand-in EMR. Absolute times
differ from machine to machine; the limits are ours.

| what | measured | limit |
|---|---|---|
| memory of the service at rest | {rest:.0f} MB | |
| growth under {UPLOADS} uploads of {UPLOAD_BYTES / 1e6:.0f} MB at once, all stored: {stored == UPLOADS} \
| {growth:.0f} MB | {MEMORY_LIMIT_MB} MB |
| from webhook to the EMR's endpoint, at rest, median of {DICTATIONS} | {median:.0f} ms \
| {SHARE_LIMIT_MS} ms |
| the same, 95th percentile | {p95:.0f} ms | |
| database round trips before a webhook is answered | 1 | 1 |
| CPU of a stream's frame of 3,200 bytes, beside the thinnest relay on the same libraries \
| {streams.ratio:.2f} times | {CPU_LIMIT} times |
| memory of the service with {STREAMS} real-time streams after 2 s, and {SECONDS} s; all frames came: \
{streams.arrived == streams.sent} | {streams.early_mb:.0f} MB, {streams.late_mb:.0f} MB | no growth |
| deliveries a second of one worker, beside the barest httpx2 loop \
| {deliveries.worker:.0f} beside {deliveries.bare:.0f}: {deliveries.share:.2f} | {SHARE_LIMIT} |
| 10,000 deliveries to 100 destinations: seconds until 90 have theirs, and while the other 10 hang \
| {deliveries.drained:.1f} s, {deliveries.drained_beside_hanging:.1f} s: {deliveries.slowdown:.2f} times \
| {DRAIN_LIMIT} times |

The way from webhook to EMR holds the signature check, the commit, the nudge through Redis (arq looks every
20 ms), the Get Session call, the commit of the document and its deliveries, and the signed POST. The round
trips are counted on the wire by `tests/bench/test_round_trips.py`, which `make test` runs.

The thinnest relay is `tests/bench/thin_relay.py`: two loops between uvicorn and `websockets` that check and
record nothing. Both run in turns ({ROUNDS} of {FRAMES:,} frames), each in its own process, and send to
one sink; their CPU is what the operating system says that each process used.

The barest loop is `tests/bench/bare_posts.py`: as many tasks as a worker forwards at once post the same
body to the same receiver and do nothing else. A worker claims, opens, signs and records each delivery, too.
"""
    await asyncio.to_thread(REPORT.write_text, report)
    sys.stdout.write(report)
    is_well = (
        growth < MEMORY_LIMIT_MB
        and median < SHARE_LIMIT_MS
        and stored == UPLOADS
        and streams.ratio <= CPU_LIMIT
        and streams.arrived == streams.sent
        and streams.late_mb - streams.early_mb < GROWTH_LIMIT_MB
        and deliveries.share >= SHARE_LIMIT
        and deliveries.slowdown <= DRAIN_LIMIT
    )
    return 0 if is_well else 1


async def _server_version() -> str:
    with start_embedded(temporary=True) as embedded:
        connection = await asyncpg.connect(embedded.urls.database_url)
        try:
            version: str = await connection.fetchval("SHOW server_version")
        finally:
            await connection.close()
    return f"PostgreSQL {version}, httpx2 {httpx2.__version__}"


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
