"""What a second process adds: two workers beside one, and `serve --workers 2` beside `--workers 1`.

Two processes are as fast as two cores let them be, and here the load, the stand-ins and PostgreSQL sit on
the same cores. What tells whether our processes stand in each other's way is the work that one second of
their CPU does, alone and as two. Alone: `python -m tests.tools.bench.scaling`.
"""

import asyncio
import statistics
import sys
from collections.abc import Sequence
from time import monotonic

import asyncpg
import httpx2
import psutil
from msgspec import Struct

from tests.support.rig import Rig, Running
from tests.tools.bench.deliveries import fill_outbox, until_received
from tests.tools.bench.installation import open_installation
from tests.tools.bench.load import Load
from tests.tools.bench.peers import cpu_seconds, open_listening, send
from tests.tools.bench.result_sink import TEMPLATE

ROUNDS = 3
DELIVERIES = 1_000
FETCHES = 150
CALLS_SECONDS = 1.5
SPEEDUP_GOAL = 1.7
CPU_GOAL = 0.85
_DESTINATIONS = 32
_CONNECTIONS = 32
_SESSIONS = 16
_WAIT_SECONDS = 60.0
_OWE = """
WITH made AS (
    INSERT INTO sessions (id, tenant_id, account, status, upload, mode, model, templates, languages, ended_at,
                          expires_at)
    SELECT 'ses_scale' || gen_random_uuid(), $1, 'default', 'processing', 'chunked', 'dictation', 'pro', $2,
           '{en-IN}', now(), now() + interval '1 day'
    FROM generate_series(1, $3::integer)
    RETURNING id
)
INSERT INTO fetches (tenant_id, session_id, template_id, next_at)
SELECT $1, id, $2[1], now() FROM made
"""


class Work(Struct, frozen=True, kw_only=True):
    """What so many processes did together."""

    rate: float
    """A second."""
    per_cpu_second: float
    """For a second of their CPU, all of them added up."""


class Pair(Struct, frozen=True, kw_only=True):
    """The same work by one process and by two, round by round."""

    one: list[Work]
    two: list[Work]

    @property
    def speedup(self) -> float:
        """How many times as much two do in the same time."""
        return _middle_ratio([each.rate for each in self.two], [each.rate for each in self.one])

    @property
    def cpu_share(self) -> float:
        """What a second of CPU does where there are two, beside what it does where there is one."""
        return _middle_ratio(
            [each.per_cpu_second for each in self.two], [each.per_cpu_second for each in self.one]
        )


class ScalingFigures(Struct, frozen=True, kw_only=True):
    """Everything that was measured, and on how many cores."""

    cores: int
    deliveries: Pair
    fetches: Pair
    calls: Pair

    @property
    def is_well(self) -> bool:
        """Whether our processes leave each other alone; how fast two are is the machine's matter."""
        return all(pair.cpu_share >= CPU_GOAL for pair in (self.deliveries, self.fetches, self.calls))


async def measure_scaling(rig: Rig) -> ScalingFigures:
    """Measure one and two in turns."""
    calls = await _measure_services(rig)
    deliveries, fetches = await _measure_workers(rig)
    return ScalingFigures(cores=psutil.cpu_count() or 1, deliveries=deliveries, fetches=fetches, calls=calls)


async def _measure_services(rig: Rig) -> Pair:
    """Read sessions over kept connections; the service that is not asked rests meanwhile."""
    services = [await rig.serve(workers=number, rate_limit_per_second="0") for number in (1, 2)]
    api = await rig.client(services[0])
    made = [await api.post("/v1/sessions", json={}) for _ in range(_SESSIONS)]
    paths = [f"/v1/sessions/{answer.json()['id']}" for answer in made]
    rounds: tuple[list[Work], list[Work]] = ([], [])
    for _ in range(ROUNDS):
        for service, works in zip(services, rounds, strict=True):
            works.append(await _read(rig, service, paths))
    for service in services:
        await service.stop()
    return Pair(one=rounds[0], two=rounds[1])


async def _read(rig: Rig, service: Running, paths: list[str]) -> Work:
    process = psutil.Process(service.process.pid)
    before = cpu_seconds([process])
    loaded = await send(
        Load(
            port=httpx2.URL(service.url).port or 0,
            paths=paths,
            method="GET",
            headers={"Authorization": f"Bearer {rig.key}"},
            connections=_CONNECTIONS,
            warm_seconds=0.5,
            seconds=CALLS_SECONDS,
        )
    )
    used = cpu_seconds([process]) - before
    assert set(loaded.statuses) == {200}, f"answered {loaded.statuses}"
    return Work(rate=loaded.rate, per_cpu_second=sum(loaded.statuses.values()) / used)


async def _measure_workers(rig: Rig) -> tuple[Pair, Pair]:
    """Forward what fills the outbox at once, then fetch what is due at once."""
    deliveries: tuple[list[Work], list[Work]] = ([], [])
    fetches: tuple[list[Work], list[Work]] = ([], [])
    database = await asyncpg.connect(rig.environment["EKABRIDGE_DATABASE_URL"])
    try:
        async with (
            open_listening("tests.tools.bench.fast_receiver") as port,
            httpx2.AsyncClient(
                base_url=(url := f"http://127.0.0.1:{port}"), trust_env=False, timeout=10
            ) as receiver,
            open_listening("tests.tools.bench.result_sink") as sink_port,
        ):
            for _ in range(ROUNDS):
                for index, number in enumerate((1, 2)):
                    workers = await asyncio.gather(*(_start(rig, sink_port) for _ in range(number)))
                    processes = [psutil.Process(each.process.pid) for each in workers]
                    deliveries[index].append(await _forward(rig, receiver, url, processes))
                    fetches[index].append(await _fetch(rig, database, processes))
                    await asyncio.gather(*(each.stop() for each in workers))
    finally:
        await database.close()
    return Pair(one=deliveries[0], two=deliveries[1]), Pair(one=fetches[0], two=fetches[1])


async def _start(rig: Rig, sink_port: int) -> Running:
    return await rig.worker(
        eka_base_url=f"http://127.0.0.1:{sink_port}",
        eka_token="any",
        forward_timeout_seconds="20",
        sweep_interval_seconds="0.1",
    )


async def _forward(
    rig: Rig, receiver: httpx2.AsyncClient, url: str, processes: Sequence[psutil.Process]
) -> Work:
    await receiver.post("/_reset")
    before = cpu_seconds(processes)
    await fill_outbox(rig, DELIVERIES, [f"{url}/well/{number}" for number in range(_DESTINATIONS)])
    seconds = await until_received(receiver, DELIVERIES)
    used = cpu_seconds(processes) - before
    return Work(rate=DELIVERIES / seconds, per_cpu_second=DELIVERIES / used)


async def _fetch(rig: Rig, database: asyncpg.Connection, processes: Sequence[psutil.Process]) -> Work:
    """Make fetches due of a tenant without destinations, and wait until all have their document."""
    before, began = cpu_seconds(processes), monotonic()
    await database.execute(_OWE, rig.tenant_id, [TEMPLATE], FETCHES)
    while await database.fetchval("SELECT count(*) FROM fetches WHERE status = 'pending'"):
        assert monotonic() < began + _WAIT_SECONDS, "the fetches do not come to an end"
        await asyncio.sleep(0.02)
    seconds, used = monotonic() - began, cpu_seconds(processes) - before
    missing = await database.fetchval(
        "SELECT count(*) FROM sessions WHERE id LIKE 'ses_scale%' AND status <> 'completed'"
    )
    assert not missing, f"{missing} sessions were not completed"
    return Work(rate=FETCHES / seconds, per_cpu_second=FETCHES / used)


def _middle_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def scaling_rows(figures: ScalingFigures) -> str:
    """Write the figures as rows of the report's table: what, measured, goal."""
    rows = []
    for what, pair in (
        ("deliveries of two workers beside one", figures.deliveries),
        ("fetches of two workers beside one", figures.fetches),
        ("sessions read from `serve --workers 2` beside `--workers 1`", figures.calls),
    ):
        one, two = (statistics.median(each.rate for each in works) for works in (pair.one, pair.two))
        rows += [
            (
                f"| {what}, a second, on {figures.cores} cores that everything shares "
                f"| {two:.0f} beside {one:.0f}: {pair.speedup:.2f} times "
                f"| {SPEEDUP_GOAL:g} times where a second core is free |\n"
            ),
            (
                f"| the same for a second of our processes' CPU | {pair.cpu_share:.2f} times "
                f"| at least {CPU_GOAL:g} |\n"
            ),
        ]
    return "".join(rows)


async def main() -> int:
    """Measure on an installation of its own; 1 if a goal is missed."""
    async with open_installation() as rig:
        figures = await measure_scaling(rig)
    sys.stdout.write(scaling_rows(figures))
    for pair in (figures.deliveries, figures.fetches, figures.calls):
        sys.stdout.write(f"{pair}\n")
    return 0 if figures.is_well else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
