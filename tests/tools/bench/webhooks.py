"""Webhooks through ekabridge and through a handler with one INSERT, in turns, to one PostgreSQL.

Ours checks signatures, knows duplicates and makes results due; both answer after the commit. Then our delays
at half of what we can do. Alone: `python -m tests.tools.bench.webhooks`.
"""

import asyncio
import os
import statistics
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count

import asyncpg
import httpx2
import msgspec
import psutil
from msgspec import Struct

from service.sandbox.stack import free_port
from tests.support.bridge import WEBHOOK_SECRET
from tests.support.rig import Rig
from tests.tools.bench.installation import open_durable_installation
from tests.tools.bench.load import Load, Loaded
from tests.tools.bench.peers import cpu_seconds, send, started

CONNECTIONS = 32
ROUNDS = 3
SECONDS = 2.5
REPEATED = 10  # one event of so many is told again
RATIO_GOAL = 1.0
P99_GOAL_MS = 30.0
_WARM_SECONDS = 0.5
# More than either of them takes in a round.
_EVENTS = 22_000
_FILL = """
WITH made AS (
    INSERT INTO sessions (id, tenant_id, account, status, upload, mode, model, templates, languages, ended_at,
                          expires_at)
    SELECT 'ses_' || $1::text || '_' || n, $2, 'default', 'processing', 'chunked', 'dictation', 'pro',
           '{eka_emr_template}', '{en-IN}', now(), now() + interval '1 day'
    FROM generate_series(1, $3::integer) n
    RETURNING id
)
INSERT INTO fetches (tenant_id, session_id, template_id, next_at)
SELECT $2, id, 'eka_emr_template', now() + interval '1 day' FROM made
"""


class WebhookRound(Struct, frozen=True, kw_only=True):
    """One run of one of them."""

    rate: float
    service_cpu_ms: float
    """For each request, as the next."""
    database_cpu_ms: float


class WebhookFigures(Struct, frozen=True, kw_only=True):
    """Both, round by round, and our delays at half of our rate."""

    ours: list[WebhookRound]
    bare: list[WebhookRound]
    half_rate: float
    latencies_ms: list[float]
    """The 50th, 95th and 99th percentile."""

    @property
    def ratio(self) -> float:
        """Our requests a second beside the peer's: the middle of the rounds' ratios."""
        return statistics.median(a.rate / b.rate for a, b in zip(self.ours, self.bare, strict=True))

    @property
    def is_well(self) -> bool:
        """Whether the goals are met."""
        return self.ratio >= RATIO_GOAL and self.latencies_ms[-1] < P99_GOAL_MS


class _Target(Struct, frozen=True, kw_only=True):
    port: int
    process: psutil.Process


class _Events:
    """Sessions that were ended, and what is told of them."""

    def __init__(self, database: asyncpg.Connection, tenant_id: str) -> None:
        self._database = database
        self._tenant_id = tenant_id
        self._runs = count(1)

    async def more(self, number: int) -> list[str]:
        """Make sessions, and return an event of each in the order of telling, repeats among them."""
        run = str(next(self._runs))
        await self._database.execute(_FILL, run, self._tenant_id, number)
        await self._database.execute("ANALYZE")  # as autovacuum has done where sessions have come one by one
        await self._database.execute("CHECKPOINT")  # or the disk is still writing them while webhooks come
        told: list[str] = []
        for each in range(1, number + 1):
            told.append(_event(f"ses_{run}_{each}"))
            if each % REPEATED == 0:
                told.append(told[-REPEATED // 2])
        return told


def _event(session_id: str) -> str:
    event = {
        "event": "v2rx.completed",
        "data": {"transaction_id": session_id, "status": "completed", "business_id": "b_1234567890"},
        "timestamp": "2026-01-01T00:00:00Z",
    }
    return msgspec.json.encode(event).decode()


async def measure_webhooks(rig: Rig) -> WebhookFigures:
    """Measure both in turns, then ours at half of its rate."""
    url = rig.environment["EKABRIDGE_DATABASE_URL"]
    service = await rig.serve()
    ours = _Target(port=httpx2.URL(service.url).port or 0, process=psutil.Process(service.process.pid))
    database = await asyncpg.connect(url)
    server = psutil.Process(database.get_server_pid()).parent()
    assert server is not None
    events = _Events(database, rig.tenant_id)
    rounds: dict[int, list[WebhookRound]] = {}
    try:
        async with _bare(url) as bare:
            for _ in range(ROUNDS):
                for target in (bare, ours):
                    told = await events.more(_EVENTS)
                    rounds.setdefault(target.port, []).append(await _measure(target, server, told))
        best = rounds[ours.port]
        half = statistics.median(each.rate for each in best) / 2
        calm = await _send(ours, await events.more(int(half * (SECONDS + _WARM_SECONDS))), rate=half)
    finally:
        await database.close()
        await service.stop()
    return WebhookFigures(ours=best, bare=rounds[bare.port], half_rate=half, latencies_ms=calm.latencies_ms)


@asynccontextmanager
async def _bare(database_url: str) -> AsyncIterator[_Target]:
    port = free_port()
    options = ("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "error")
    async with started(
        sys.executable, "-m", "uvicorn", "tests.tools.bench.bare_webhook:app", "--port", str(port), *options,
        port=port, env=os.environ | {"DATABASE_URL": database_url},
    ) as process:  # fmt: skip
        yield _Target(port=port, process=process)


async def _measure(target: _Target, server: psutil.Process, told: list[str]) -> WebhookRound:
    before = cpu_seconds([target.process]), cpu_seconds([server])
    loaded = await _send(target, told)
    after = cpu_seconds([target.process]), cpu_seconds([server])
    answered = sum(loaded.statuses.values())
    service_ms, database_ms = ((a - b) / answered * 1000 for a, b in zip(after, before, strict=True))
    return WebhookRound(rate=loaded.rate, service_cpu_ms=service_ms, database_cpu_ms=database_ms)


async def _send(target: _Target, told: list[str], rate: float = 0.0) -> Loaded:
    loaded = await send(
        Load(
            port=target.port,
            paths=["/webhooks/eka"],
            method="POST",
            headers={"Content-Type": "application/json"},
            bodies=told,
            secret=WEBHOOK_SECRET,
            connections=CONNECTIONS,
            warm_seconds=_WARM_SECONDS,
            seconds=SECONDS,
            rate=rate,
        )
    )
    assert set(loaded.statuses) == {200}, f"answered {loaded.statuses}"
    return loaded


def webhook_rows(figures: WebhookFigures) -> str:
    """Write the figures as rows of the report's table: what, measured, limit."""
    ours, bare = _middle(figures.ours), _middle(figures.bare)
    p50, p95, p99 = figures.latencies_ms
    return f"""\
| webhooks a second, beside a bare Litestar handler with one INSERT for each \
| {ours[0]:.0f} beside {bare[0]:.0f}: {figures.ratio:.2f} times | at least {RATIO_GOAL:.1f} times |
| CPU of a webhook: of the service, and of PostgreSQL; the bare handler's \
| {ours[1]:.2f} ms, {ours[2]:.2f} ms; {bare[1]:.2f} ms, {bare[2]:.2f} ms | |
| webhooks at half of that rate, {figures.half_rate:.0f} a second: median, 95th, 99th percentile \
| {p50:.1f} ms, {p95:.1f} ms, {p99:.1f} ms | 99th below {P99_GOAL_MS:.0f} ms |
"""


def _middle(rounds: Sequence[WebhookRound]) -> tuple[float, ...]:
    """Return the medians of the rates, of the service's CPU and of the database's."""
    columns = zip(*((each.rate, each.service_cpu_ms, each.database_cpu_ms) for each in rounds), strict=True)
    return tuple(statistics.median(column) for column in columns)


async def main() -> int:
    """Measure on an installation of its own; 1 if a goal is missed."""
    async with open_durable_installation() as rig:
        figures = await measure_webhooks(rig)
    sys.stdout.write(webhook_rows(figures))
    for ours, bare in zip(figures.ours, figures.bare, strict=True):
        sys.stdout.write(f"{ours.rate:.0f} beside {bare.rate:.0f}\n")
    return 0 if figures.is_well else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
