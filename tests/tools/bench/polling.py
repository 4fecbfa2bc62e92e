"""From the end of a dictation's processing to the document at the EMR: ours beside a client that polls.

The peer does what the vendor's guide says, and what its clients do: after the end, Get Session each second
until the status is no longer 202; then it posts the document to the EMR.
"""

import asyncio
import random
import statistics
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Self

import httpx2
from msgspec import Struct, field

from tests.support.rig import Rig, dictate
from tests.tools.bench.installation import open_installation
from tests.tools.bench.waits import Waits

DICTATIONS = 40
ROUNDS = 2
POLL_SECONDS = 1.0
PROCESSING_SECONDS = (0.3, 3.0)
SOONER_LIMIT = 10.0
"""So many times sooner than polling, at the median."""
TEMPLATE = "eka_emr_template"

_SEED = 6
_NEVER_BY_ITSELF_SECONDS = 600.0
_STARTED_AT_ONCE = 8
_WAV = {"content-type": "audio/wav"}


class Way(Waits, kw_only=True):
    """One way to the EMR; by dictation: milliseconds after the vendor was done, how often it was asked."""

    session_ids: list[str] = field(default_factory=list)
    gets: list[int] = field(default_factory=list)

    @property
    def calls(self) -> float:
        """Get Session calls a dictation."""
        return statistics.mean(self.gets)


class PollingFigures(Struct, kw_only=True):
    """What was measured; every dictation asks for one template."""

    ours: Way
    polling: Way

    @property
    def sooner(self) -> float:
        """How many times sooner ours is."""
        return self.polling.median_ms / self.ours.median_ms

    @property
    def is_well(self) -> bool:
        """Whether every limit is kept."""
        return self.sooner >= SOONER_LIMIT and set(self.ours.gets) == {1}


Dictate = Callable[[], Awaitable[str]]


async def measure_polling(rig: Rig) -> PollingFigures:
    """Dictate in both ways, in turns, with the same processing times."""
    service, worker = await rig.serve(rate_limit_per_second="0"), await rig.worker()
    api = await rig.client(service)
    await rig.register_emr(api)
    settings = rig.vendor_app.state.vendor.settings
    settings.processing_seconds = _NEVER_BY_ITSELF_SECONDS
    ours, polling = Way(), Way()
    async with _Poller(rig) as poller:
        for number in range(ROUNDS):
            settings.webhooks_enabled = True
            await _round(rig, ours, lambda: dictate(api, chunks=1), _SEED + number)
            settings.webhooks_enabled = False
            await _round(rig, polling, poller.dictate, _SEED + number)
    await service.stop()
    await worker.stop()
    sessions = rig.vendor_app.state.vendor.sessions
    for way in (ours, polling):  # when all is over: a call that comes late counts, too
        way.gets = [sum(sessions[session_id].gets.values()) for session_id in way.session_ids]
    return PollingFigures(ours=ours, polling=polling)


class _Poller:
    """What a team writes that calls the vendor by itself."""

    def __init__(self, rig: Rig) -> None:
        self._emr_url = f"{rig.emr_url}/hooks/polled"
        self._vendor = httpx2.AsyncClient(
            base_url=rig.vendor_url,
            headers={"authorization": "Bearer sandbox-token"},
            timeout=30,
            trust_env=False,
        )
        self._emr = httpx2.AsyncClient(timeout=30, trust_env=False)
        self._polling: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*self._polling)
        await self._vendor.aclose()
        await self._emr.aclose()

    async def dictate(self) -> str:
        """Create, send and end a session, and have it polled from then on; return its id."""
        wanted = {
            "upload_type": "chunked",
            "communication_protocol": "http",
            "templates": [TEMPLATE],
            "language_hint": ["en"],
        }
        created = (await self._vendor.post("/voice/v1/sessions", json=wanted)).raise_for_status().json()
        session_id = str(created["session_id"])
        answer = await self._vendor.post(
            f"{created['upload_url']}/audio_1.wav", content=b"audio", headers=_WAV
        )
        answer.raise_for_status()
        answer = await self._vendor.post(f"/voice/v1/sessions/{session_id}/end", json={"audio_files_sent": 1})
        answer.raise_for_status()
        task = asyncio.create_task(self._poll(session_id))
        self._polling.add(task)
        task.add_done_callback(self._polling.discard)
        return session_id

    async def _poll(self, session_id: str) -> None:
        path = f"/voice/v1/sessions/{session_id}"
        answer = await self._vendor.get(path)
        while answer.status_code == httpx2.codes.ACCEPTED:
            await asyncio.sleep(POLL_SECONDS)
            answer = await self._vendor.get(path)
        document = {"session_id": session_id, "document": answer.raise_for_status().json()}
        (await self._emr.post(self._emr_url, json=document)).raise_for_status()


async def _round(rig: Rig, way: Way, begin: Dictate, seed: int) -> None:
    """Make dictations in parallel, each processed for a time of its own, and see when each document came."""
    chosen, turns = random.Random(seed), asyncio.Semaphore(_STARTED_AT_ONCE)
    before = len(await rig.received(0))

    async def whole(processing_seconds: float) -> str:
        async with turns:
            session_id = await begin()
        await asyncio.sleep(processing_seconds)
        await rig.vendor.post(f"/_control/sessions/{session_id}/finish", json={"outcome": "completed"})
        return session_id

    times = [chosen.uniform(*PROCESSING_SECONDS) for _ in range(DICTATIONS)]
    ended = await asyncio.gather(*(whole(seconds) for seconds in times))
    received = (await rig.received(before + DICTATIONS))[before:]
    came_at = {_session_of(each["body"]): float(each["at"]) for each in received}
    sessions = rig.vendor_app.state.vendor.sessions
    way.waits_ms += [(came_at[each] - sessions[each].completed_at) * 1000 for each in ended]
    way.session_ids += ended


def _session_of(body: dict[str, Any]) -> str:
    """Return the session of an event of ours, or of a document that the peer posted."""
    return str(body["data"]["session_id"] if "data" in body else body["session_id"])


def polling_rows(figures: PollingFigures) -> str:
    """Write what was measured as rows of the report's table: what, measured, limit."""
    ours, polling = figures.ours, figures.polling
    once = "each once" if set(ours.gets) == {1} else f"{min(ours.gets)} to {max(ours.gets)}"
    soon = f"{ours.median_ms:.0f} beside {polling.median_ms:.0f} ms: {figures.sooner:.1f} times sooner"
    late = (
        f"{ours.p95_ms:.0f} beside {polling.p95_ms:.0f} ms: {polling.p95_ms / ours.p95_ms:.1f} times sooner"
    )
    what = (
        f"from the vendor's being done to the document at the EMR, median of {len(ours.waits_ms)} dictations,"
        f" {DICTATIONS} at a time, beside a client that polls each {POLL_SECONDS:g} s"
    )
    calls = "Get Session calls a dictation of one template, ours, and the polling client's"
    return f"""\
| {what} | {soon} | {SOONER_LIMIT:g} times |
| the same, 95th percentile | {late} | |
| {calls} | {once}, {polling.calls:.2f} | each once |
"""


async def main() -> int:
    """Measure by itself; return 1 if a limit is broken."""
    async with open_installation() as rig:
        figures = await measure_polling(rig)
    sys.stdout.write(polling_rows(figures))
    return 0 if figures.is_well else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
