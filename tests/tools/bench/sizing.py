"""Measures what a dictation costs and writes docs/sizing.md: `make sizing`.

Costs are processor time of each process, as the operating system counts it, so that the stand-ins, which run
on the same machine, have no part in them.
"""

import asyncio
import platform
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import psutil
from msgspec import Struct

from tests.support.rig import Rig, Running, dictate, until
from tests.tools.bench.installation import open_installation

SESSIONS = 400
AT_ONCE = 8
SMALL_BYTES, LARGE_BYTES = 131_072, 655_360
CHUNK_SECONDS = 10
DICTATION_SECONDS = 180
# What a pod may use on average, so that there is room for bursts and for a pod that is gone.
TARGET = 0.5
DOCTORS = (100, 1_000, 10_000)
REPORT = Path(__file__).parents[3] / "docs" / "sizing.md"


class Cost(Struct, frozen=True, kw_only=True):
    """Milliseconds of a core for one of something."""

    service: float
    worker: float
    database: float


class Meter:
    """The processor time that our processes and PostgreSQL have used."""

    def __init__(self, service: Running, worker: Running, postmaster: int) -> None:
        self._service = psutil.Process(service.process.pid)
        self._worker = psutil.Process(worker.process.pid)
        self._postmaster = psutil.Process(postmaster)

    async def cost(
        self, what: Callable[[int], Awaitable[Any]], after: Callable[[], Awaitable[Any]] | None = None
    ) -> Cost:
        """Do something for every session, and wait for what follows from it; return the cost of one."""
        before = self._used()
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with turns:
                await what(number)

        await asyncio.gather(*(one(number) for number in range(SESSIONS)))
        if after is not None:
            await after()
        used = [(now - then) * 1000 / SESSIONS for now, then in zip(self._used(), before, strict=True)]
        return Cost(service=used[0], worker=used[1], database=used[2])

    def _used(self) -> tuple[float, float, float]:
        database = sum(sum(each.cpu_times()[:2]) for each in self._postmaster.children())
        return (
            sum(self._service.cpu_times()[:2]),
            sum(self._worker.cpu_times()[:2]),
            # Backends that are gone count as the postmaster's children.
            database + sum(self._postmaster.cpu_times()[:4]),
        )


class Sizes(Struct, frozen=True, kw_only=True):
    """What was measured: costs of one each; `end` holds the webhook, the fetch and the delivery, too."""

    create: Cost
    small: Cost
    large: Cost
    end: Cost
    # Of a whole dictation, with as many chunks as it has.
    kept_bytes: float
    wal_bytes: float

    def cores(self, doctors: int, chunk: Cost) -> tuple[float, float, float]:
        """Cores that so many doctors use who dictate at once: of services, workers and PostgreSQL."""
        dictations, chunks = doctors / DICTATION_SECONDS, doctors / CHUNK_SECONDS
        return (
            (dictations * (self.create.service + self.end.service) + chunks * chunk.service) / 1000,
            (dictations * (self.create.worker + self.end.worker) + chunks * chunk.worker) / 1000,
            (dictations * (self.create.database + self.end.database) + chunks * chunk.database) / 1000,
        )


async def measure(rig: Rig) -> Sizes:
    """Start, feed and end so many sessions, each kind of step by itself."""
    service, worker = await rig.serve(), await rig.worker(sweep_interval_seconds="1")
    api = await rig.client(service)
    await rig.register_emr(api)
    await dictate(api)
    database = await asyncpg.connect(rig.environment["EKABRIDGE_DATABASE_URL"])
    try:
        await _delivered(api, 1)
        meter = Meter(service, worker, await database.fetchval(_POSTMASTER))
        began: asyncpg.Record = await database.fetchrow(_SIZES)
        ids: list[str] = []

        async def create(_: int) -> None:
            answer = await api.post("/v1/sessions", json={"patient": {"id": "PAT-1"}, "reference": "ENC-1"})
            ids.append(answer.raise_for_status().json()["id"])

        def put(sequence: int, content: bytes) -> Callable[[int], Awaitable[Any]]:
            async def send(number: int) -> None:
                path = f"/v1/sessions/{ids[number]}/audio/{sequence}"
                answer = await api.put(path, content=content, headers={"content-type": "audio/wav"})
                answer.raise_for_status()

            return send

        async def end(number: int) -> None:
            (await api.post(f"/v1/sessions/{ids[number]}/end")).raise_for_status()

        created = await meter.cost(create)
        before = await database.fetchrow(_SIZES)
        small = await meter.cost(put(0, bytes(SMALL_BYTES)))
        chunks = await database.fetchrow(_SIZES)
        costs = {
            "create": created,
            "small": small,
            "large": await meter.cost(put(1, bytes(LARGE_BYTES))),
            "end": await meter.cost(end, lambda: rig.received(SESSIONS + 1, 55)),
        }
        await _delivered(api, SESSIONS + 1)
        after = await database.fetchrow(_SIZES)
        more = DICTATION_SECONDS // CHUNK_SECONDS - 2
        kept, written = (
            float(last - first + more * (chunk - none)) / SESSIONS
            for first, none, chunk, last in zip(began, before, chunks, after, strict=True)
        )
        return Sizes(**costs, kept_bytes=kept, wal_bytes=written)
    finally:
        await database.close()


async def _delivered(api: httpx2.AsyncClient, sessions: int) -> None:
    async def are_delivered() -> bool:
        answer = await api.get("/v1/ledger")
        return bool(answer.raise_for_status().json()["delivered"] == sessions)

    await until(are_delivered, 120)


_POSTMASTER = "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int"
_SIZES = """
SELECT sum(pg_total_relation_size(oid)), pg_current_wal_lsn() - '0/0'::pg_lsn
FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
"""


def report(sizes: Sizes) -> str:
    """The page."""
    steps = [
        ("create", sizes.create),
        (f"a chunk of {SMALL_BYTES // 1024} KiB", sizes.small),
        (f"a chunk of {LARGE_BYTES // 1024} KiB", sizes.large),
        ("end, webhook, fetch, delivery", sizes.end),
    ]
    costs = "\n".join(
        f"| {name} | {cost.service:.1f} ms | {cost.worker:.1f} ms | {cost.database:.1f} ms |"
        for name, cost in steps
    )
    plans = []
    for doctors in DOCTORS:
        service, worker, database = sizes.cores(doctors, sizes.small)
        larger, _, _ = sizes.cores(doctors, sizes.large)
        chunks, dictations = doctors / CHUNK_SECONDS, doctors / DICTATION_SECONDS
        few, many = pods_for(service), pods_for(larger)
        pods = f"{few}{f', {many}' if many > few else ''} | {pods_for(worker)}"
        audio = ", ".join(
            f"{doctors * size * 8 / CHUNK_SECONDS / 1e6:,.0f}" for size in (SMALL_BYTES, LARGE_BYTES)
        )
        plans.append(
            f"| {doctors:,} | {chunks:,.0f} | {dictations:,.1f} | {audio} Mbit/s | {pods} | {database:.2g} |"
        )
    return PAGE.format(
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        where=f"{platform.system()}, {psutil.cpu_count()} cores, Python {platform.python_version()}",
        sessions=SESSIONS,
        chunks=DICTATION_SECONDS // CHUNK_SECONDS,
        costs=costs,
        plans="\n".join(plans),
        seconds=DICTATION_SECONDS,
        minutes=DICTATION_SECONDS // 60,
        chunk=CHUNK_SECONDS,
        share=round(TARGET * 100),
        small=SMALL_BYTES // 1024,
        large=LARGE_BYTES // 1024,
        kept=f"{sizes.kept_bytes / 1000:.0f}",
        thousand=f"{sizes.kept_bytes / 1000:.0f}",
        million=f"{sizes.kept_bytes / 1000:.0f}",
        wal=f"{sizes.wal_bytes / 1000:.0f}",
    )


def pods_for(cores: float) -> int:
    """Pods of one core each, never fewer than two."""
    return max(2, ceil(cores / TARGET))


async def main() -> None:
    """Measure, and write the page."""
    async with open_installation() as rig:
        sizes = await measure(rig)
    page = report(sizes)
    await asyncio.to_thread(REPORT.write_text, page)
    sys.stdout.write(page)


PAGE = """# How many pods

Made by `make sizing` on {date}: {where}. The figures are processor time of
ekabridge and PostgreSQL, without the stand-ins on the same machine. Your processors differ: **ratios carry
over, absolute numbers do not**. Measure on your own machines, and begin with twice as much as the table says.
[Capacity](capacity.md) shows how ekabridge behaves when that is too little.

## What a dictation costs

Time of one core, the mean of {sessions} each:

| step | service | worker | PostgreSQL |
|---|---|---|---|
{costs}

The worker's figures include its sweep. A dictation of {chunks} chunks keeps {kept} KB in the
database, indexes and dead rows with it, so a thousand keep {kept} MB and a million {kept} GB; it writes
{wal} KB of WAL. Your transcripts and documents may be longer than the stand-in's.
[Retention](ledger.md#how-long-it-is-kept) limits it. ekabridge never keeps audio.

## How many doctors

A doctor who dictates sends a chunk every {chunk} seconds: about {small} KiB of compressed audio, {large}
KiB uncompressed. A dictation lasts {minutes} minutes, and the next one follows at once: these
are doctors who dictate **at this moment**, seldom more than one in five of a hospital's doctors.

Pods have one core each and are used by {share} % on average; there are at least two of each,
in case one ends. Where a cell has two numbers, the first is for the small chunks.

| dictate at once | chunks a second | dictations a second | audio in, and out again | pods of the service \
| pods of the worker | cores of PostgreSQL |
|---|---|---|---|---|---|---|
{plans}

Memory is no limit: a process uses some 90 MB at rest, 50 MB more under 64 uploads at once, and less than
0.1 MB for a live stream. The CPU time of a live stream is that of its frames, some 1.2 times that of the
thinnest relay on the same libraries ([benchmarks](benchmarks.md)). Each pod has up to 10 connections to
PostgreSQL: for more than some 20 pods use [PgBouncer](operations.md#pgbouncer).

Limits are reached in this order: EkaScribe's own limit for your account (`EKA_MAX_CONCURRENCY` is per
process, so EkaScribe may get that number times the number of pods at once), the network (audio comes in and
goes out), the service's cores, PostgreSQL's commits.
"""

if __name__ == "__main__":
    asyncio.run(main())
