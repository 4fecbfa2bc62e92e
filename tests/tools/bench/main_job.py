"""The memory of many large uploads at once, and our share of the way from a webhook to the EMR's endpoint."""

import asyncio
from collections.abc import AsyncIterator
from time import time

import psutil
from msgspec import Struct

from tests.support.rig import Rig, Running, dictate
from tests.tools.bench.waits import Waits

UPLOADS = 64
UPLOAD_BYTES = 10_000_000
DICTATIONS = 60
MEMORY_LIMIT_MB = 150
SHARE_LIMIT_MS = 50


class MemoryFigures(Struct, frozen=True, kw_only=True):
    """Megabytes of the service at rest and at the peak, and how many uploads were stored."""

    rest_mb: float
    peak_mb: float
    stored: int

    @property
    def growth_mb(self) -> float:
        """How much it grew."""
        return self.peak_mb - self.rest_mb

    @property
    def is_well(self) -> bool:
        """Whether the limit is kept, and everything was stored."""
        return self.growth_mb < MEMORY_LIMIT_MB and self.stored == UPLOADS


class ShareFigures(Waits, kw_only=True):
    """Milliseconds from sending a webhook until the EMR has the document, of each dictation."""

    @property
    def is_well(self) -> bool:
        """Whether the limit is kept."""
        return self.median_ms < SHARE_LIMIT_MS


async def measure_memory(rig: Rig) -> MemoryFigures:
    """Upload 64 chunks of 10 MB at once."""
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
    return MemoryFigures(rest_mb=rest, peak_mb=peak, stored=statuses.count(200))


async def measure_share(rig: Rig) -> ShareFigures:
    """Dictate one after the other, and tell of each by a webhook of our own."""
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
    return ShareFigures(waits_ms=shares)


def _resident_mb(service: Running) -> float:
    return psutil.Process(service.process.pid).memory_info().rss / 1e6
