"""A kill -9 before and after everything that a process does: each point found by itself, each one survived.

The scenario runs undisturbed, and what passes the proxies and the stand-ins is written down. Then it runs for
every point with a kill exactly there. A new statement in a .sql file so gets its crash test by itself.
"""

import asyncio
import logging
import os
import random
import time
from collections.abc import AsyncIterator
from itertools import count, zip_longest
from pathlib import Path
from typing import Any

import pytest

from tests.tools.chaos.emr_client import TEMPLATES, Dictation, EmrClient, GaveUp, new_dictation
from tests.tools.chaos.hospital import Hospital, open_hospital
from tests.tools.chaos.oracle import judge
from tests.tools.chaos.plan import POINTS
from tests.tools.chaos.points import Point
from tests.tools.chaos.servers import chaos_servers

IS_WHOLE = os.environ.get("CHAOS") == "whole"
CHARACTER: Any = os.environ.get("CHARACTER") or "hosted"
SETTLE_SECONDS = 100.0
# The pairs of call and record that matter most; the rest in `make chaos`.
TELLING = (
    ("commit after sessions.insert", "after"),
    ("vendor: create", "after"),
    ("sessions.record_created", "after"),
    ("vendor: upload", "before"),
    ("vendor: upload", "after"),
    ("audio.record", "before"),
    ("commit after results.schedule", "after"),
    ("vendor: end", "after"),
    ("webhook_events.receive", "before"),
    ("results.claim", "after"),
    ("vendor: get", "after"),
    ("commit after documents.mark_released", "before"),
    ("commit after documents.mark_released", "after"),
    ("commit after deliveries.claim", "after"),
    ("emr: deliver", "after"),
    ("deliveries.record_attempts", "after"),
)

log = logging.getLogger(__name__)
pytestmark = pytest.mark.timeout(3600 if IS_WHOLE else 400)


@pytest.fixture
async def hospital(tmp_path: Path) -> AsyncIterator[Hospital]:
    with chaos_servers() as servers:
        slots = {"service": "service", "worker": "worker"}
        async with open_hospital(servers, tmp_path, slots, CHARACTER, clocks_jump=False) as opened:
            yield opened


class Rounds:
    """Plays the scenario again and again, each time on sessions of its own."""

    def __init__(self, hospital: Hospital) -> None:
        self.hospital = hospital
        self.dictations: list[Dictation] = []
        self._numbers = count(1)
        self._chance = random.Random(1)
        self._is_over = False

    async def play(self) -> None:
        """A dictation with all that an EMR may do to it, beside one that is cancelled."""
        hospital = self.hospital
        hospital.vendor.tokens.expire(static=False)
        hospital.vendor.tokens._refresh.clear()  # so that a refresh is tried, and a login made
        client = EmrClient(hospital, self._chance, patience_seconds=SETTLE_SECONDS)
        whole = new_dictation(next(self._numbers), self._chance, list(TEMPLATES))
        unwanted = new_dictation(next(self._numbers), self._chance)
        self.dictations += [whole, unwanted]
        await client.dictate(whole, change=True)
        if IS_WHOLE:
            await asyncio.gather(client.cancel(unwanted), self._settled(whole))
            if not hospital.vendor.settings.is_august:  # it makes no further documents
                await client.ask_for(whole, "pomr_template")
        else:
            self.dictations.remove(unwanted)
        await self._settled(whole)

    async def _settled(self, dictation: Dictation) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        wanted = len(dictation.templates) + len(dictation.further)
        while time.monotonic() < deadline:
            session = (await self.hospital.ask("GET", f"/v1/sessions/{dictation.session_id}")).json()
            counts = session["deliveries"]
            if counts["delivered"] >= wanted and counts["pending"] == counts["dead"] == 0:
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{dictation.session_id} does not settle: {session}")

    async def play_with_kills(self, points: list[Point]) -> list[Point]:
        """Play it with a kill at these points, at most one of each role; returns which were not reached."""
        hospital = self.hospital
        log.info("kill %s", ", ".join(map(str, points)))
        done = len(hospital.watch.hits)
        for point in points:
            hospital.watch.arm(point)
        self._is_over = False
        mending = asyncio.create_task(self._mend())
        try:
            await self.play()
        except (GaveUp, AssertionError) as failure:
            raise AssertionError(f"{', '.join(map(str, points))}: {failure}") from failure
        finally:
            hospital.watch.disarm()
            self._is_over = True
            hospital.watch.changed.set()
            await mending
        return [point for point in points if point not in [hit for hit, _ in hospital.watch.hits[done:]]]

    async def _mend(self) -> None:
        """Start killed processes again, with the time gone for which they held their leases."""
        hospital = self.hospital
        while not self._is_over:
            await hospital.watch.changed.wait()
            hospital.watch.changed.clear()
            for slot in hospital.slots.values():
                if slot.lives[-1].ended_by is not None:
                    await hospital.gone(slot.name)
                    await hospital.let_leases_end(slot.role)
                    await hospital.start(slot.name)


async def test_a_kill_at_every_point_loses_and_doubles_nothing(hospital: Hospital) -> None:
    rounds = Rounds(hospital)
    for _ in range(2):
        await rounds.play()
    points = hospital.watch.points()
    found = {(point.step, point.when) for point in points}
    telling = {(step, when) for step, when in TELLING if _is_passed(hospital, step)}
    named = telling | {(point.step, point.when) for point in POINTS if _is_passed(hospital, point.step)}
    assert found >= named, f"renamed, or not passed any more: {named - found}"
    if not IS_WHOLE:
        points = [point for point in points if (point.step, point.when) in telling]
    of_service = [point for point in points if point.role == "service"]
    of_worker = [point for point in points if point.role == "worker"]
    missed: list[Point] = []
    for pair in zip_longest(of_service, of_worker):
        chosen = [point for point in pair if point is not None]
        missed += await rounds.play_with_kills(chosen)
    missed = [point for point in missed if await rounds.play_with_kills([point])]
    findings = await judge(hospital, rounds.dictations)
    log.info("%d points, not reached: %s", len(points), ", ".join(map(str, missed)) or "none")
    log.info("%s", dict(findings.figures))
    assert not findings.violations, "\n".join(findings.violations[:20])
    assert findings.figures["duplicates"] <= findings.figures["kills"]
    assert not [point for point in missed if (point.step, point.when) in telling]


def _is_passed(hospital: Hospital, step: str) -> bool:
    """Whether a step belongs to this server's dictations: August sends no webhook."""
    return step != "webhook_events.receive" or not hospital.vendor.settings.is_august
