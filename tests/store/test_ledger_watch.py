"""Who counts the ledger: one at a time, told of once, and no figure that stands still."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from service.jobs.monitors.ledger import LedgerMonitor
from tests.support.makers import NOTE
from tests.support.rig import until
from tests.support.store_house import House


def shown(standing: str) -> float | None:
    return REGISTRY.get_sample_value("ekabridge_ledger_sessions", {"standing": standing})


def watch(house: House) -> LedgerMonitor:
    return LedgerMonitor(leases=house.stores.leases, ledger=house.stores.ledger, interval_seconds=0.05)


async def renewals(house: House, number: int) -> None:
    """Wait until the lease was renewed so often: so often the ledger was counted."""
    seen = set()

    async def is_renewed() -> bool:
        seen.add(await house.value("SELECT until FROM leases WHERE name = 'ledger'"))
        return len(seen - {None}) > number

    await until(is_renewed)


async def test_what_is_lost_is_told_once_a_minute(house):
    await house.end(NOTE)
    await house.connection.execute("DELETE FROM fetches")
    stopping = asyncio.Event()
    with capture_logs() as logs:
        watching = asyncio.create_task(watch(house).run(stopping))
        await renewals(house, 3)
        stopping.set()
        await watching
    assert [each for each in logs if each["event"] == "ledger_lost"] == [
        {"event": "ledger_lost", "log_level": "error", "lost": 1}
    ]
    assert shown("lost") is None


async def test_another_one_goes_on_when_the_holder_is_gone(house):
    await house.end(NOTE)
    first, second = asyncio.Event(), asyncio.Event()
    counting = asyncio.create_task(watch(house).run(first))

    async def is_shown() -> bool:
        return (shown("ended"), shown("in_flight"), shown("lost")) == (1.0, 1.0, 0.0)

    await until(is_shown)
    first.set()
    await counting
    assert shown("ended") is None
    await house.end(NOTE)
    counting = asyncio.create_task(watch(house).run(second))

    async def is_shown_anew() -> bool:
        return shown("ended") == 2.0

    await until(is_shown_anew)
    second.set()
    await counting


@pytest.mark.parametrize("failure", ["away", "broken"])
async def test_a_figure_that_cannot_be_counted_is_not_shown(house, failure):
    await house.end(NOTE)
    stopping = asyncio.Event()
    counting = asyncio.create_task(watch(house).run(stopping))

    async def is_shown() -> bool:
        return shown("ended") == 1.0

    async def is_gone() -> bool:
        return shown("ended") is None

    await until(is_shown)
    damage = "ALTER TABLE fetches RENAME TO elsewhere"
    mending = "ALTER TABLE elsewhere RENAME TO fetches"
    if failure == "away":
        damage, mending = "ALTER TABLE leases RENAME TO nowhere", "ALTER TABLE nowhere RENAME TO leases"
    await house.connection.execute(damage)
    await until(is_gone)
    await house.connection.execute(mending)
    await until(is_shown)
    stopping.set()
    await counting
