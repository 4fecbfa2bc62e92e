"""Many who wait cost one question, each is woken once by another mark, and nobody is left behind."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from service.domain.errors import StoreUnavailable, TooManyWatchers
from service.domain.ids import SessionId, TenantId
from service.domain.sessions.change_polling import ChangePoller, tenant_quota

ONE, OTHER = SessionId("ses_1"), SessionId("ses_2")
ALICE, BOB, CAROL = TenantId("ten_a"), TenantId("ten_b"), TenantId("ten_c")


class Marks:
    """What the database would answer, and what it was asked."""

    def __init__(self) -> None:
        self.now = {ONE: "a", OTHER: "a"}
        self.asked: list[list[SessionId]] = []
        self.is_away = False
        self.was_asked = asyncio.Event()

    async def read(self, session_ids: list[SessionId]) -> dict[SessionId, str]:
        self.asked.append(session_ids)
        self.was_asked.set()
        if self.is_away:
            raise StoreUnavailable("away")
        return {each: self.now[each] for each in session_ids}


async def waiting(watch: ChangePoller, count: int) -> None:
    async with asyncio.timeout(2):
        while watch.waiting < count:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0)


async def test_many_who_wait_cost_one_question_at_a_time():
    marks = Marks()
    watch = ChangePoller(marks.read)
    waiters = [asyncio.create_task(watch.changed(each, "a", 5)) for each in (ONE, OTHER) * 50]
    await waiting(watch, 100)
    await marks.was_asked.wait()
    assert sorted(marks.asked[0]) == [ONE, OTHER]
    marks.now = {ONE: "b", OTHER: "c"}
    assert await asyncio.gather(*waiters) == ["b", "c"] * 50
    assert len(marks.asked) == 2
    assert watch.waiting == 0
    await watch.stop()


async def test_whoever_knows_the_mark_waits_and_whoever_does_not_is_told_at_once():
    watch = ChangePoller(Marks().read)
    assert await watch.changed(ONE, "", 5) == "a"
    assert await watch.changed(ONE, "a", 0.01) is None
    await watch.stop()


async def test_a_database_that_is_away_is_waited_for():
    marks = Marks()
    marks.is_away = True
    watch = ChangePoller(marks.read)
    waiter = asyncio.create_task(watch.changed(ONE, "a", 5))
    await marks.was_asked.wait()
    marks.is_away, marks.now = False, {ONE: "b"}
    assert await waiter == "b"
    await watch.stop()


async def test_whoever_goes_away_is_forgotten_at_once():
    watch = ChangePoller(Marks().read)
    waiter = asyncio.create_task(watch.changed(ONE, "a", 60))
    await waiting(watch, 1)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert watch.waiting == 0
    await watch.stop()


async def test_a_process_that_closes_lets_everybody_go_and_holds_nobody():
    watch = ChangePoller(Marks().read)
    waiter = asyncio.create_task(watch.changed(ONE, "a", 60))
    await waiting(watch, 1)
    watch.close()
    assert await waiter is None
    assert await watch.changed(ONE, "a", 60) is None
    await watch.stop()


async def test_places_are_limited_and_given_back():
    watch = ChangePoller(Marks().read, max_waiters=3)
    with watch.permit(ALICE), watch.permit(ALICE), watch.permit(BOB):
        with pytest.raises(TooManyWatchers):
            watch.check_capacity(CAROL)
        with pytest.raises(TooManyWatchers), watch.permit(CAROL):
            pass
        assert watch.in_use == 3
    assert watch.in_use == 0


async def test_one_tenant_leaves_places_for_others():
    watch = ChangePoller(Marks().read, max_waiters=4)
    with watch.permit(ALICE), watch.permit(ALICE), watch.permit(ALICE):
        with pytest.raises(TooManyWatchers):
            watch.check_capacity(ALICE)
        with watch.permit(BOB):
            assert watch.in_use == 4
    with watch.permit(ALICE):
        assert watch.in_use == 1


def test_a_share_is_three_quarters_and_never_nothing():
    assert [tenant_quota(places) for places in (1, 2, 3, 4, 128, 256, 1000)] == [1, 1, 2, 3, 96, 192, 750]


async def test_a_slow_poll_takes_a_sixth_of_the_time_at_most():
    spans: list[tuple[float, float]] = []
    loop = asyncio.get_running_loop()

    async def read(_: list[SessionId]) -> dict[SessionId, str]:
        began = loop.time()
        await asyncio.sleep(0.1)  # the database's time
        spans.append((began, loop.time()))
        return {ONE: "a" if len(spans) < 3 else "b"}

    assert await ChangePoller(read).changed(ONE, "a", 5) == "b"
    for (began, ended), (next_began, _) in pairwise(spans):
        assert next_began - ended >= 4.5 * (ended - began)
