"""How fast a worker forwards beside the barest loop, and what ten endpoints that hang cost ninety others."""

import asyncio
import sys
from secrets import token_hex
from time import monotonic
from typing import Any

import asyncpg
import httpx2
import msgspec
from msgspec import Struct

from schemas.destinations import DestinationCreate
from schemas.tenants import SessionDefaults
from service.bootstrap.container import make_destinations, open_stores
from service.domain.audit import Actor
from service.domain.ids import TenantId
from service.domain.tenants.changes import Tenants
from service.store.outbox import event_aad
from tests.support.bridge import make_settings
from tests.support.rig import Rig
from tests.tools.bench.installation import open_installation
from tests.tools.bench.peers import open_listening

DESTINATIONS = 100
HANGING = 10
DELIVERIES = 10_000
POSTS = 4_000
TASKS = 128  # as many as a worker forwards at once: 16 destinations of 8
ROUNDS = 3
SHARE_LIMIT = 0.5
DRAIN_LIMIT = 1.3
_SECONDS = 240.0
_BODY = {"type": "document.ready", "data": {"transcript": "Fever and cough for three days. " * 40}}


class DeliveryFigures(Struct, frozen=True, kw_only=True):
    """Posts a second of a worker and of the bare loop, and seconds until ninety endpoints have everything."""

    worker: float
    bare: float
    drained: float
    drained_beside_hanging: float

    @property
    def share(self) -> float:
        """The worker's throughput beside the bare loop's."""
        return self.worker / self.bare

    @property
    def slowdown(self) -> float:
        """How many times longer it takes beside endpoints that hang."""
        return self.drained_beside_hanging / self.drained

    @property
    def is_well(self) -> bool:
        """Whether every limit is kept."""
        return self.share >= SHARE_LIMIT and self.slowdown <= DRAIN_LIMIT


async def measure_deliveries(rig: Rig) -> DeliveryFigures:
    """Measure both; each round beside its peer, and the middle one counts."""
    async with (
        open_listening("tests.tools.bench.fast_receiver") as port,
        httpx2.AsyncClient(
            base_url=(url := f"http://127.0.0.1:{port}"), trust_env=False, timeout=10
        ) as receiver,
    ):
        rates: list[tuple[float, float]] = []
        for _ in range(ROUNDS):
            ours = await _forward(rig, receiver, POSTS, [f"{url}/well/{n}" for n in range(TASKS // 8)])
            rates.append((POSTS / ours, POSTS / await _post(url, receiver)))
        well = [f"{url}/well/{n}" for n in range(DESTINATIONS - HANGING)]
        drained = await _forward(
            rig, receiver, DELIVERIES, well + [f"{url}/other/{n}" for n in range(HANGING)]
        )
        beside = await _forward(rig, receiver, DELIVERIES, well + [f"{url}/hang/{n}" for n in range(HANGING)])
    worker, bare = sorted(rates, key=lambda pair: pair[0] / pair[1])[len(rates) // 2]
    return DeliveryFigures(worker=worker, bare=bare, drained=drained, drained_beside_hanging=beside)


async def _forward(rig: Rig, receiver: httpx2.AsyncClient, deliveries: int, urls: list[str]) -> float:
    """Let a worker forward so many, spread over these; return the seconds that the well ones took."""
    await fill_outbox(rig, deliveries, urls)
    wanted = deliveries * sum("/well" in url for url in urls) // len(urls)
    await receiver.post("/_reset")
    worker = await rig.worker(
        forward_timeout_seconds="20", sweep_interval_seconds="1", forward_schedule_seconds="5,30,120"
    )
    seconds = await until_received(receiver, wanted)
    await worker.kill()
    return seconds


async def _post(url: str, receiver: httpx2.AsyncClient) -> float:
    await receiver.post("/_reset")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.tools.bench.bare_posts",
        url,
        str(POSTS),
        str(TASKS),
        stdin=asyncio.subprocess.PIPE,
    )
    await process.communicate(msgspec.json.encode(_BODY))
    return await until_received(receiver, POSTS)


async def until_received(receiver: httpx2.AsyncClient, wanted: int) -> float:
    deadline = monotonic() + _SECONDS
    while monotonic() < deadline:
        counts: dict[str, Any] = (await receiver.get("/_counts")).json()
        if counts["counted"] >= wanted:
            return float(counts["last"] - counts["first"])
        await asyncio.sleep(0.2)
    raise AssertionError(f"only {counts['counted']} of {wanted} came")


async def fill_outbox(rig: Rig, deliveries: int, urls: list[str]) -> None:
    """Put so many deliveries into the outbox of a new tenant's destinations, and nothing else."""
    database_url = rig.environment["EKABRIDGE_DATABASE_URL"]
    connection = await asyncpg.connect(database_url)
    await connection.execute("DELETE FROM attempts; DELETE FROM deliveries; DELETE FROM events")
    settings = make_settings(database_url, "redis://unused")
    async with open_stores(settings) as stores:
        actor = Actor.operator(TenantId((await Tenants(stores.tenants).add("bench", SessionDefaults())).id))
        destinations = make_destinations(settings, stores)
        made = [(await destinations.add(actor, DestinationCreate(url=url))).id for url in urls]
        encrypted = stores.keyring.encrypt_json(_BODY, event_aad(None))
    first = await connection.fetchval("SELECT coalesce(max(id), 0) + 1 FROM events")
    await connection.execute(
        "INSERT INTO events (id, tenant_id, type, body_sealed) OVERRIDING SYSTEM VALUE "
        "SELECT $1 + n, $2, 'document.ready', $3 FROM generate_series(0, $4::int - 1) n",
        first,
        actor.tenant_id,
        encrypted,
        deliveries,
    )
    # What happens next gets an id that is still free.
    await connection.execute("SELECT setval(pg_get_serial_sequence('events', 'id'), $1)", first + deliveries)
    now = await connection.fetchval("SELECT now()")
    await connection.copy_records_to_table(
        "deliveries",
        columns=("id", "tenant_id", "event_id", "destination_id", "type", "next_at"),
        records=[
            (f"msg_{token_hex(12)}", actor.tenant_id, first + n, made[n % len(made)], "document.ready", now)
            for n in range(deliveries)
        ],
    )
    await connection.execute("ANALYZE")
    await connection.close()


def delivery_rows(figures: DeliveryFigures) -> str:
    """Write the figures as rows of the report's table: what, measured, goal."""
    return f"""\
| deliveries a second of one worker, beside the barest httpx2 loop \
| {figures.worker:.0f} beside {figures.bare:.0f}: {figures.share:.2f} times | {SHARE_LIMIT} times |
| 10,000 deliveries to 100 destinations: seconds until 90 have theirs, and while the other 10 hang \
| {figures.drained:.1f} s, {figures.drained_beside_hanging:.1f} s: {figures.slowdown:.2f} times \
| {DRAIN_LIMIT} times |
"""


if __name__ == "__main__":

    async def _alone() -> None:
        async with open_installation() as rig:
            figures = await measure_deliveries(rig)
        sys.stdout.write(f"{figures} share {figures.share:.2f} slowdown {figures.slowdown:.2f}\n")

    asyncio.run(_alone())
