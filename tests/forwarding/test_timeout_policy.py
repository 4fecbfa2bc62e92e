"""How long calls may take: a destination that hung gets less, and too many silent calls are cut."""

from __future__ import annotations

import asyncio

import pytest

from service.domain.ids import DestinationId, TenantId
from service.forwarding.timeout_policy import TimeoutPolicy
from tests.support.makers import make_delivery_job

OTHER = TenantId("ten_ffffffffffffffffffffffff")


@pytest.mark.parametrize(
    ("hangs", "own", "probe", "seconds"),
    [
        (0, None, False, 20),
        (0, 120, False, 120),
        (1, 120, False, 10),
        (2, 120, False, 5),
        (9, 120, False, 5),
        (3, 2.0, False, 2),
        (3, None, False, 5),
        (9, 120, True, 120),
    ],
)
def test_a_destination_that_hung_gets_less_time_and_a_probe_all_of_it(hangs, own, probe, seconds):
    job = make_delivery_job(hangs=hangs, timeout_seconds=own, is_probe=probe)
    assert TimeoutPolicy(max_silent=1).seconds(job, 20) == seconds


def test_a_destination_that_needs_long_keeps_twice_what_it_needs():
    patience, job = TimeoutPolicy(max_silent=1), make_delivery_job(timeout_seconds=120, hangs=5)
    for seconds, limit in ((1, 5), (15, 30), (100, 120), (2, 102)):
        patience.remember(job.destination_id, seconds)
        assert patience.seconds(job, 20) == limit


async def run(
    patience: TimeoutPolicy, number: int, over: asyncio.Event, *, answers: bool = False, **job
) -> str:
    """Make a call that waits until the test is over, or is cut."""
    try:
        async with asyncio.timeout(60) as scope:
            with patience.watch(
                make_delivery_job(destination_id=DestinationId(f"dst_{number}"), **job), scope
            ) as call:
                if answers:
                    call.answered()
                await over.wait()
    except TimeoutError:
        return "cut"
    return "went on"


async def finished(tasks: list[asyncio.Task[str]], count: int) -> None:
    async with asyncio.timeout(5):
        while sum(task.done() for task in tasks) < count:
            await asyncio.wait([t for t in tasks if not t.done()], return_when=asyncio.FIRST_COMPLETED)


async def test_of_silent_calls_the_oldest_of_the_tenant_with_the_most_of_them_is_cut():
    patience, over = TimeoutPolicy(max_silent=3), asyncio.Event()
    tasks = [asyncio.create_task(run(patience, 0, over, tenant_id=OTHER))]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(run(patience, number, over)) for number in range(1, 5)]
    answered = asyncio.create_task(run(patience, 9, over, answers=True))
    await finished(tasks, 2)
    over.set()
    assert [await task for task in tasks] == ["went on", "cut", "cut", "went on", "went on"]
    assert await answered == "went on"


async def test_nothing_is_cut_while_there_is_room():
    patience, over = TimeoutPolicy(max_silent=4), asyncio.Event()
    tasks = [asyncio.create_task(run(patience, number, over)) for number in range(4)]
    # One more that is silent for as long: its own end shows that the time has passed for all.
    late = asyncio.create_task(run(patience, 5, over, tenant_id=OTHER))
    await finished([*tasks, late], 1)
    over.set()
    assert sorted([await task for task in tasks]) == ["cut", "went on", "went on", "went on"]
    assert await late == "went on"


async def test_a_call_whose_answer_has_begun_is_read_to_its_end():
    patience = TimeoutPolicy(max_silent=1)
    async with asyncio.timeout(0.5) as scope:
        with patience.watch(make_delivery_job(), scope) as call:
            before = scope.when()
            call.answered()
            await asyncio.sleep(0)
    assert before is not None
    assert (scope.when() or 0) > before + 1
