"""The ledger over whatever happens to sessions, in whatever order, before their days are folded and after."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from schemas.destinations import DestinationChange
from service.domain.errors import BridgeError
from service.domain.ids import DeliveryId, DestinationId, KeyId, SessionId, TenantId
from service.domain.results.fetching import ResultFetcher
from service.domain.tenants.changes import RetentionChange, Tenants
from service.jobs.retention import RetentionJob
from tests.support.fakes import ScriptedVendor
from tests.support.makers import LETTER, NOTE, TurnedClock, make_document, make_lease, make_result
from tests.support.plain_ledger import compare
from tests.support.schema_versions import add_version
from tests.support.store_house import House, new_tenant

MIDNIGHT = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
# What no code of ours does: only a day that is counted anew tells of it.
DAMAGES = (
    "DELETE FROM events WHERE session_id = $1",
    "DELETE FROM fetches WHERE session_id = $1",
    "UPDATE documents SET released_at = NULL WHERE session_id = $1",
    "UPDATE sessions SET settled_at = NULL WHERE id = $1 AND ended_at IS NOT NULL",
    "UPDATE sessions SET ended_at = ended_at - interval '1 day' WHERE id = $1",
)
_MOMENTS = {
    "sessions": ("created_at", "expires_at", "ended_at", "settled_at", "erased_at"),
    "documents": ("received_at", "released_at"),
    "deliveries": ("created_at", "settled_at"),
    "events": ("created_at",),
    "ledger_days": ("counted_at",),
}
PASSES = [
    f"UPDATE {table} SET " + ", ".join(f"{column} = {column} - $1::interval" for column in columns)
    for table, columns in _MOMENTS.items()
] + [
    # In two steps, past the days that are there.
    "UPDATE ledger_days SET day = (day - 10000 - $1::interval)::date",
    "UPDATE ledger_days SET day = (day + 10000 + 0 * $1::interval)::date",
]


class History:
    """What happens, drawn from a seed; each step is the code's own, but for the passing of time."""

    def __init__(self, house: House, random: Random, tenants: list[TenantId]) -> None:
        self.house = house
        self.random = random
        self.tenants = tenants
        self.steps = [
            *[self.begin, self.answer, self.deliver] * 4,
            *[self.days_pass, self.fold] * 3,
            *(self.add_version, self.cancel, self.erase, self.ask_further, self.retain, self.recover),
            *(self.confirm, self.change_destination, self.hear, self.recount, self.delete),
        ]

    async def step(self) -> None:
        """Let one thing happen, or nothing where it cannot."""
        self.house.tenant_id = self.random.choice(self.tenants)
        with suppress(BridgeError):
            await self.random.choice(self.steps)()

    async def one_of(self, statement: str) -> Any:
        rows = await self.house.connection.fetch(statement, self.house.tenant_id)
        return self.random.choice(rows)[0] if rows else None

    async def session(self) -> SessionId | None:
        found = await self.one_of("SELECT id FROM sessions WHERE tenant_id = $1 ORDER BY created_at")
        return SessionId(found) if found else None

    async def begin(self) -> None:
        """A session that was ended, or expires, at some time of the days that are not folded yet."""
        if self.random.random() < 0.2:
            session_id = await self.house.create()
            await self.house.connection.execute(
                "UPDATE sessions SET expires_at = now() WHERE id = $1", session_id
            )
            vendor = ScriptedVendor()
            fetching = ResultFetcher(store=self.house.stores.results, vendor=vendor, clock=TurnedClock())
            await fetching.expire(session_id)
        else:
            session_id = await self.house.end(*self.random.sample([NOTE, LETTER], self.random.randint(0, 2)))
        folded = await self.house.value("SELECT max(day) + 1 FROM ledger_days")
        first = datetime.combine(folded, datetime.min.time(), UTC) if folded else MIDNIGHT - timedelta(days=3)
        at = first + self.random.random() * (datetime.now(UTC) - first)
        if self.random.random() < 0.2:
            at = max(first, at.replace(hour=0, minute=0, second=0, microsecond=0))
        await self.house.connection.execute(
            "UPDATE sessions SET ended_at = CASE WHEN ended_at IS NOT NULL THEN $2::timestamptz END, "
            "settled_at = CASE WHEN settled_at IS NOT NULL THEN $2 END, created_at = $2 WHERE id = $1",
            *(session_id, at),
        )

    async def answer(self) -> None:
        await self.house.let_pass("fetches")
        for job in await self.house.claim_fetches(limit=self.random.randint(1, 3)):
            state = self.random.choice(["completed", "partial", "failed", "processing", "no_document"])
            status = self.random.choice(["success", "success", "failed", "pending"])
            document = make_document(job.template_id or NOTE, status=status)
            words = self.random.choice(["words", None])
            await self.house.fetch(job, make_result(state, document, transcript=words))

    async def deliver(self) -> None:
        await self.house.let_pass("deliveries")
        for job in await self.house.claim_deliveries(limit=self.random.randint(1, 4)):
            status = self.random.choice(["delivered", "filed", "dead", "pending", "paused"])
            await self.house.record(
                job,
                status=status,
                wait_seconds=60 if status == "pending" else None,
                reason="http_422" if status == "dead" else None,
            )

    async def days_pass(self) -> None:
        passed = timedelta(days=self.random.randint(1, 3))
        for statement in PASSES:
            await self.house.connection.execute(statement, passed)

    async def fold(self) -> None:
        for _ in range(self.random.randint(1, 5)):
            await self.house.stores.ledger.fold()

    async def recount(self) -> None:
        assert await self.house.stores.ledger.recount() is None

    async def add_version(self) -> None:
        session_id = await self.one_of(
            "SELECT id FROM sessions WHERE tenant_id = $1 AND status IN ('completed', 'partial') "
            "AND settled_at IS NOT NULL AND erased_at IS NULL ORDER BY created_at"
        )
        if session_id is not None:
            await add_version(self.house, session_id)

    async def cancel(self) -> None:
        session_id = await self.one_of(
            "SELECT id FROM sessions WHERE tenant_id = $1 AND settled_at IS NULL ORDER BY created_at"
        )
        if session_id is not None:
            async with self.house.stores.session_updates.locked(self.house.tenant_id, session_id) as unit:
                assert unit is not None
                await unit.cancel(make_lease(), 60)

    async def erase(self) -> None:
        session_id = await self.session()
        if session_id is not None:
            tenant_id = self.house.tenant_id
            async with self.house.stores.session_updates.locked(tenant_id, session_id, to_erase=True) as unit:
                assert unit is not None
                await unit.erase(KeyId("key_1"))

    async def delete(self) -> None:
        """As retention does to a session, whatever its state: by hand."""
        session_id = await self.session()
        if session_id is not None and self.random.random() < 0.5:
            await self.house.connection.execute("DELETE FROM sessions WHERE id = $1", session_id)

    async def ask_further(self) -> None:
        session_id = await self.one_of(
            "SELECT id FROM sessions WHERE tenant_id = $1 AND status = 'completed' AND erased_at IS NULL "
            "ORDER BY created_at"
        )
        if session_id is None:
            return
        lease = make_lease()
        async with self.house.stores.additional_documents.opening(
            self.house.tenant_id, session_id, LETTER
        ) as unit:
            assert unit is not None
            if unit.state.is_pending:
                return
            await unit.begin(lease, 60)
        await self.house.stores.additional_documents.record_asked(session_id, LETTER, lease, None, 0)

    async def retain(self) -> None:
        content = self.random.randint(3, 8)
        change = RetentionChange(content_days=content, rows_days=content + self.random.randint(0, 3))
        await Tenants(self.house.stores.tenants).change_retention(self.house.tenant_id, change)
        await RetentionJob(self.house.stores.retention).run()

    async def recover(self) -> None:
        destination = await self.destination()
        long_ago = datetime.now(UTC) - timedelta(days=30)
        await self.house.deliveries.recover(self.house.actor, destination, long_ago)

    async def confirm(self) -> None:
        delivery = await self.one_of("SELECT id FROM deliveries WHERE tenant_id = $1 ORDER BY created_at")
        if delivery is not None:
            await self.house.deliveries.confirm(self.house.actor, DeliveryId(delivery), "record")

    async def destination(self) -> DestinationId:
        return DestinationId(
            await self.one_of("SELECT id FROM destinations WHERE tenant_id = $1 ORDER BY created_at")
        )

    async def change_destination(self) -> None:
        destination = await self.destination()
        change = DestinationChange(enabled=self.random.random() < 0.7)
        await self.house.destinations.change(self.house.actor, destination, change)
        if self.random.random() < 0.2:
            await self.house.destinations.remove(self.house.actor, destination)
            await self.house.add_destination()

    async def hear(self) -> None:
        session_id = await self.session()
        if session_id is not None:
            kind = self.random.choice(["completed", "partial", "failed", "expired"])
            await self.house.hear(session_id, kind)

    async def damage(self) -> None:
        """Break a row of whatever day, and count every folded day anew."""
        session_id = await self.session()
        if session_id is None:
            return
        await self.house.connection.execute(self.random.choice(DAMAGES), session_id)
        for _ in range(await self.house.value("SELECT count(*) FROM ledger_days WHERE tenant_id = ''")):
            await self.house.stores.ledger.recount()


def some_bounds(random: Random) -> list[datetime | None]:
    """For ever, two midnights and two moments."""
    days = [MIDNIGHT - timedelta(days=random.randint(0, 12)) for _ in range(2)]
    return [None, *days, *(day + random.random() * timedelta(days=1) for day in days)]


@pytest.mark.parametrize("seed", range(6))
async def test_it_is_the_count_of_all_rows_whatever_happened(house, seed):
    random = Random(seed)
    tenants = [house.tenant_id, await new_tenant(house.stores, "second")]
    for tenant in tenants:
        house.tenant_id = tenant
        await house.add_destination()
    history = History(house, random, tenants)
    if seed % 2:
        history.steps.append(history.damage)
        history.steps.remove(history.recount)
    for number in range(90):
        await history.step()
        if number % 3 == 2:
            bounds = some_bounds(random)[: 5 if number % 9 == 8 else 1]
            show = random.choice(["lost", "dead", "in_flight"])
            await compare(house, random.choice([None, *tenants]), bounds, show)
    assert await house.value("SELECT count(*) FROM ledger_days") > 3
