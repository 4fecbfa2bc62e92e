"""Work in lanes: so many at a time, a full one costs nothing, and what is left is found."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from service.jobs.job_pool import HolderQuota, JobPool


@dataclass
class Bench:
    """Jobs that end when they are told to."""

    due: list[int] = field(default_factory=list)
    claims: int = 0
    ends: dict[int, asyncio.Event] = field(default_factory=dict)
    done: list[int] = field(default_factory=list)
    started: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def claim(self, session_id, limit, at_quota):
        self.claims += 1
        taken, self.due = self.due[:limit], self.due[limit:]
        return taken

    async def run(self, job):
        async with self.started:
            self.ends[job] = asyncio.Event()
            self.started.notify_all()
        await self.ends[job].wait()
        if job < 0:
            raise RuntimeError("a job that fails")
        self.done.append(job)

    async def until_running(self, *jobs):
        async with asyncio.timeout(5), self.started:
            await self.started.wait_for(lambda: set(jobs) <= set(self.ends))


async def test_a_full_lane_takes_what_is_left_as_places_become_free():
    bench = Bench(due=list(range(1, 8)))
    lane = JobPool("test", size=4, claim=bench.claim, run=bench.run)
    await lane.wake(None)
    await bench.until_running(1, 2, 3, 4)
    assert lane.busy == 4
    bench.ends[1].set()
    await bench.until_running(5)
    for _ in range(1000):
        await asyncio.sleep(0)
    # One claim at first, one for the place that became free: a full lane must not turn in circles.
    assert bench.claims == 2
    for job in (2, 3):
        bench.ends[job].set()
    await bench.until_running(6, 7)
    for event in bench.ends.values():
        event.set()
    await lane.drain(5)
    assert sorted(bench.done) == [1, 2, 3, 4, 5, 6, 7]


async def test_a_job_that_fails_costs_no_other():
    bench = Bench(due=[-1, 2])
    lane = JobPool("test", size=2, claim=bench.claim, run=bench.run)
    await lane.wake(None)
    await bench.until_running(-1, 2)
    for event in bench.ends.values():
        event.set()
    await lane.drain(5)
    assert bench.done == [2]
    assert lane.busy == 0


async def test_a_closing_lane_starts_nothing_and_ends_what_does_not_end():
    bench = Bench(due=[1])
    lane = JobPool("test", size=1, claim=bench.claim, run=bench.run)
    await lane.wake(None)
    await bench.until_running(1)
    await lane.drain(0.01)
    bench.due = [2]
    await lane.wake(None)
    assert (bench.done, lane.busy, bench.due) == ([], 0, [2])


async def test_a_lane_whose_rows_wait_for_one_another_looks_again_after_each_end():
    bench = Bench(due=[1])
    lane = JobPool("test", size=4, claim=bench.claim, run=bench.run, next_slot_seconds=never)
    await lane.wake(None)
    await bench.until_running(1)
    bench.due = [2]  # its turn comes when the first is done
    bench.ends[1].set()
    await bench.until_running(2)
    bench.ends[2].set()
    await lane.drain(5)
    assert bench.done == [1, 2]


async def never() -> float | None:
    return None


async def test_a_lane_looks_again_when_the_next_slot_comes():
    bench = Bench()
    slots = [0.01]

    async def next_slot_seconds() -> float | None:
        if not slots:
            return None
        bench.due = [1]
        return slots.pop()

    lane = JobPool("test", size=4, claim=bench.claim, run=bench.run, next_slot_seconds=next_slot_seconds)
    await lane.wake(None)
    assert lane.busy == 0
    await bench.until_running(1)
    bench.ends[1].set()
    await lane.drain(5)
    assert bench.done == [1]


async def test_a_closed_lane_has_no_alarm():
    bench = Bench()

    async def soon() -> float | None:
        return 0.005

    lane = JobPool("test", size=4, claim=bench.claim, run=bench.run, next_slot_seconds=soon)
    await lane.wake(None)
    await lane.drain(1)
    claims = bench.claims
    loop = asyncio.get_running_loop()
    over = loop.create_future()
    loop.call_later(0.05, over.set_result, None)
    await over
    assert bench.claims == claims


async def test_one_account_takes_no_more_than_its_share_and_its_rest_is_not_forgotten():
    due = {"flood": list(range(1, 100)), "other": [1001, 1002]}
    bench, claims = Bench(), []

    async def claim(_, limit, at_quota):
        claims.append(limit)
        for account, jobs in due.items():
            if account not in at_quota and jobs:
                taken, due[account] = jobs[:limit], jobs[limit:]
                return taken
        return []

    def holder_of(job):
        return "other" if job > 1000 else "flood"

    lane = JobPool(
        "test",
        size=10,
        claim=claim,
        run=bench.run,
        quotas=[HolderQuota(holder_of=holder_of, max_jobs=4, at_a_time=2)],
    )
    await lane.wake(None)
    await bench.until_running(1, 2, 3, 4, 1001, 1002)
    assert (lane.busy, lane.holders_at_quota()) == (6, ["flood"])
    before = len(claims)
    bench.ends[1].set()
    await bench.until_running(5, 6)
    for _ in range(1000):
        await asyncio.sleep(0)
    assert (lane.busy, len(claims) - before) == (7, 2)
    before = len(claims)
    bench.ends[2].set()
    for _ in range(100):
        await asyncio.sleep(0)
    # The holder is still at its quota: another claim would pass over the same rows and find nothing.
    assert (lane.busy, len(claims)) == (6, before)
    bench.ends[3].set()
    await bench.until_running(7, 8)
    await lane.drain(0.01)
    assert lane.holders_at_quota() == []


async def test_each_share_limits_the_jobs_that_it_names():
    due = {"odd": [1, 3, 5, 7], "even": [2, 4, 6, 8]}
    bench = Bench()

    async def claim(_, limit, at_quota):
        for name, jobs in due.items():
            free = [job for job in jobs if name not in at_quota and not (job > 4 and "large" in at_quota)]
            if free:
                due[name] = [job for job in jobs if job not in free[:limit]]
                return free[:limit]
        return []

    quotas = [
        HolderQuota(holder_of=lambda job: "odd" if job % 2 else "even", max_jobs=3, at_a_time=1),
        HolderQuota(holder_of=lambda job: "large" if job > 4 else None, max_jobs=1, at_a_time=1),
    ]
    lane = JobPool("test", size=10, claim=claim, run=bench.run, quotas=quotas)
    await lane.wake(None)
    await bench.until_running(1, 2, 3, 4, 5)
    assert sorted(lane.holders_at_quota()) == ["large", "odd"]
    bench.ends[5].set()
    await bench.until_running(7)
    assert sorted(bench.ends) == [1, 2, 3, 4, 5, 7]
    await lane.drain(0.01)
    assert lane.holders_at_quota() == []
