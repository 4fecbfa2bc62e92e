"""Measures everything beside what others would pick, and writes docs/benchmarks.md: `make bench`."""

import asyncio
import platform
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import TypeVar

import asyncpg
import psutil
from msgspec import Struct

from service.sandbox.embedded.api import start_embedded
from tests.support.rig import Rig
from tests.tools.bench.cold_start import START_GOAL, ColdStartFigures, cold_start_rows, measure_cold_start
from tests.tools.bench.deliveries import SHARE_LIMIT, DeliveryFigures, delivery_rows, measure_deliveries
from tests.tools.bench.installation import open_durable_installation, open_installation
from tests.tools.bench.main_job import (
    MEMORY_LIMIT_MB,
    SHARE_LIMIT_MS,
    UPLOADS,
    MemoryFigures,
    ShareFigures,
    measure_memory,
    measure_share,
)
from tests.tools.bench.peers import nginx
from tests.tools.bench.polling import SOONER_LIMIT, PollingFigures, measure_polling, polling_rows
from tests.tools.bench.scaling import CPU_GOAL, SPEEDUP_GOAL, ScalingFigures, measure_scaling, scaling_rows
from tests.tools.bench.streams import StreamFigures, measure_streams, stream_rows
from tests.tools.bench.uploads import (
    CONNECTIONS,
    COUNTED,
    LIBRARY,
    OURS,
    PEERS_PYTHON,
    SIZES,
    UploadFigures,
    measure_uploads,
    upload_rows,
)
from tests.tools.bench.webhooks import P99_GOAL_MS, RATIO_GOAL, WebhookFigures, measure_webhooks, webhook_rows

REPORT = Path(__file__).parents[3] / "docs" / "benchmarks.md"
THIN_GOAL, STREAM_NGINX_GOAL = 0.8, 0.25
Figures = TypeVar("Figures")


class Goal(Struct, frozen=True):
    """One line of the table that counts: what was measured beside whom, and what was wanted."""

    what: str
    peer: str
    measured: str
    goal: str
    is_met: bool | None
    """None: the peer is not on this machine."""


class All(Struct, frozen=True, kw_only=True):
    """Everything that was measured."""

    uploads: UploadFigures
    memory: MemoryFigures
    share: ShareFigures
    webhooks: WebhookFigures
    polling: PollingFigures
    deliveries: DeliveryFigures
    streams: StreamFigures
    scaling: ScalingFigures
    cold_start: ColdStartFigures


async def measure_all() -> All:
    """Measure one after the other, each on an installation of its own."""
    return All(
        uploads=await _on(open_durable_installation, measure_uploads),
        webhooks=await _on(open_durable_installation, measure_webhooks),
        memory=await _on(open_installation, measure_memory),
        share=await _on(open_installation, measure_share),
        polling=await _on(open_installation, measure_polling),
        deliveries=await _on(open_installation, measure_deliveries),
        streams=await _on(open_installation, measure_streams),
        scaling=await _on(open_installation, measure_scaling),
        cold_start=await _on(open_installation, measure_cold_start),
    )


async def _on(
    installation: Callable[[], AbstractAsyncContextManager[Rig]], measure: Callable[[Rig], Awaitable[Figures]]
) -> Figures:
    sys.stderr.write(f"{measure.__name__}\n")
    async with installation() as rig:
        return await measure(rig)


def goals_of(found: All) -> list[Goal]:
    """Return the lines of the table, in the order of what matters to whom builds on us."""
    streams, scaling, waits = found.streams, found.scaling, found.webhooks.latencies_ms
    nginx_share = None if streams.nginx_ratio is None else 1 / streams.nginx_ratio
    speedup = (
        f"{SPEEDUP_GOAL} where a second core is free (here {scaling.cores} for everything);"
        f" {CPU_GOAL} for a second of our CPU"
    )
    return [
        *_upload_goals(found.uploads),
        Goal(
            f"memory under {UPLOADS} uploads of 10 MB at once",
            "",
            f"{found.memory.growth_mb:.0f} MB more",
            f"below {MEMORY_LIMIT_MB} MB",
            found.memory.is_well,
        ),
        _at_least(
            "webhook: verified, known or new, committed",
            "a bare handler with one INSERT",
            found.webhooks.ratio,
            RATIO_GOAL,
        ),
        Goal(
            "webhook at half of our own most",
            "",
            f"{waits[-1]:.0f} ms at the 99th percentile",
            f"below {P99_GOAL_MS:.0f} ms",
            waits[-1] < P99_GOAL_MS,
        ),
        Goal(
            "results at EkaScribe until they are at the EMR",
            "polling each second, and a POST",
            f"{found.polling.sooner:.1f} times sooner",
            f"{SOONER_LIMIT:g} times",
            found.polling.is_well,
        ),
        Goal(
            "the same at rest, from the webhook on",
            "",
            f"{found.share.median_ms:.0f} ms",
            f"below {SHARE_LIMIT_MS} ms",
            found.share.is_well,
        ),
        _at_least("deliveries", "a bare httpx2 loop", found.deliveries.share, SHARE_LIMIT),
        _at_least(
            "CPU of live streams", "the thinnest relay of the same libraries", 1 / streams.ratio, THIN_GOAL
        ),
        _at_least("CPU of live streams", "nginx as a WebSocket proxy", nginx_share, STREAM_NGINX_GOAL),
        *(
            Goal(
                f"two {what} beside one",
                "",
                f"{pair.speedup:.2f} times; {pair.cpu_share:.2f} for a second of CPU",
                speedup,
                pair.speedup >= SPEEDUP_GOAL or pair.cpu_share >= CPU_GOAL,
            )
            for what, pair in (
                ("workers that deliver", scaling.deliveries),
                ("workers that fetch", scaling.fetches),
                ("service processes", scaling.calls),
            )
        ),
        Goal(
            "`serve` until it answers",
            "`python -c 'import litestar, asyncpg, httpx2'`",
            f"{found.cold_start.ratio:.2f} times",
            f"below {START_GOAL} times",
            found.cold_start.is_well,
        ),
    ]


def _upload_goals(uploads: UploadFigures) -> list[Goal]:
    return [
        _at_least(f"chunk of {called}", peer, uploads.ratio(size, peer), goal)
        for size, (called, goals) in SIZES.items()
        for peer, goal in goals.items()
    ]


def _at_least(what: str, peer: str, ratio: float | None, goal: float) -> Goal:
    if ratio is None:
        return Goal(what, peer, "not on this machine", f"{goal:g} times", None)
    return Goal(what, peer, f"{ratio:.2f} times", f"{goal:g} times", ratio >= goal)


def written(found: All, goals: list[Goal], *, seconds: float, machine: str) -> str:
    """Write the page."""
    met = {True: "met", False: "**missed**", None: "not measured"}
    table = "\n".join(
        f"| {goal.what} | {goal.peer} | {goal.measured} | {goal.goal} | {met[goal.is_met]} |"
        for goal in goals
    )
    counted = found.uploads.ratio(131_072, OURS, COUNTED)
    return f"""# Benchmarks

Made by `make bench` in {seconds:.0f} s on {datetime.now(UTC):%Y-%m-%d}: {machine}.
Everything runs on that one machine: the load, ekabridge, PostgreSQL, Valkey, the peers and the stand-ins for
EkaScribe and the EMR. Each peer and ekabridge take turns in one run, over several rounds; a ratio is the
median of the rounds' ratios. Times of one machine mean nothing on another, and even ratios vary by a fifth
when other programs use the machine.

[performance.md](performance.md) explains the figures and the goals that are missed.
Growth to ten million sessions has a run and a page of its own: [growth.md](growth.md).

| what | beside | measured | goal | |
|---|---|---|---|---|
{table}

## Chunks of audio

{upload_rows(found.uploads)}

All send from {CONNECTIONS} kept connections to one sink, which costs next to nothing; ekabridge, nginx and
the library are one process each, and PostgreSQL waits for the disk. "calls counted" has the limit of calls,
at a rate that nobody reaches: with it ekabridge passes on {counted or 0:.2f} times as many of 128 KB.

## Everything else

| what | measured | goal |
|---|---|---|
{webhook_rows(found.webhooks)}{polling_rows(found.polling)}{delivery_rows(found.deliveries)}\
{stream_rows(found.streams)}{scaling_rows(found.scaling)}{cold_start_rows(found.cold_start)}\
| memory of the service at rest | {found.memory.rest_mb:.0f} MB | |
| from webhook to the EMR at rest, 95th percentile | {found.share.p95_ms:.0f} ms | |
| database round trips before a lone webhook is answered (`tests/e2e/test_round_trips.py`) | 1 | 1 |
"""


async def _machine() -> str:
    with start_embedded(temporary=True) as embedded:
        connection = await asyncpg.connect(embedded.urls.database_url)
        try:
            server: str = await connection.fetchval("SHOW server_version")
        finally:
            await connection.close()
    peers = [_nginx_version() or "no nginx here", _library_version() or f"no {LIBRARY} here"]
    return (
        f"{platform.system()}, {psutil.cpu_count()} cores, Python {platform.python_version()}, "
        f"PostgreSQL {server}, httpx2 {version('httpx2')}, aiohttp {version('aiohttp')}, {', '.join(peers)}"
    )


def _nginx_version() -> str | None:
    program = nginx()
    if program is None:
        return None
    said = subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stderr
    return said.strip().rpartition("version: ")[2].replace("/", " ")


def _library_version() -> str | None:
    if not PEERS_PYTHON.exists():
        return None
    code = f"from importlib.metadata import version; print(version('{LIBRARY}'))"
    said = subprocess.run([PEERS_PYTHON, "-c", code], capture_output=True, text=True, check=True)
    return f"{LIBRARY} {said.stdout.strip()}"


async def main() -> int:
    """Measure, write the report, and return 1 if a goal is missed."""
    started = monotonic()
    found = await measure_all()
    goals = goals_of(found)
    page = written(found, goals, seconds=monotonic() - started, machine=await _machine())
    await asyncio.to_thread(REPORT.write_text, page)
    sys.stdout.write(page)
    return 0 if all(goal.is_met is not False for goal in goals) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
