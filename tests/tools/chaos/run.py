"""One seeded run: dictations without end, everything that can go wrong, a calm end, the oracle."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx2

from service.sandbox.vendor.characters import CharacterName
from tests.tools.chaos.disturbances import Disturber
from tests.tools.chaos.emr_client import Dictation, EmrClient, GaveUp, new_dictation
from tests.tools.chaos.hospital import Hospital, open_hospital
from tests.tools.chaos.oracle import Findings, judge
from tests.tools.chaos.plan import make_plan
from tests.tools.chaos.servers import chaos_servers

SLOTS = {"service-1": "service", "service-2": "service", "worker-1": "worker", "worker-2": "worker"}
# Without any step forward for so long, a run does not converge. A fetch waits for 60 s at most, a lease, too.
STANDSTILL_SECONDS = 150.0
_PAUSE_SECONDS = 1.0
# In calm no call takes 10 s; a lease that was taken longer ago is a dead process's.
_WAITS = (
    "UPDATE fetches SET next_at = now() WHERE status = 'pending' AND lease IS NULL AND next_at > now()",
    "UPDATE fetches SET next_at = now() WHERE lease IS NOT NULL AND next_at < now() + interval '35 seconds'",
    "UPDATE deliveries SET next_at = now() WHERE status = 'pending' AND lease IS NULL AND next_at > now()",
    "UPDATE sessions SET owed_next_at = now() WHERE owed IS NOT NULL AND owed_lease IS NULL",
    "UPDATE sessions SET owed_next_at = now() WHERE owed_next_at < now() + interval '50 seconds'",
    "UPDATE idempotency_keys SET lease_until = now() WHERE lease_until < now() + interval '50 seconds'",
    "UPDATE vendor_tokens SET lease_until = now() WHERE lease_until < now() + interval '20 seconds'",
    "UPDATE destinations SET probe_at = now() WHERE probe_at > now() + interval '9 seconds'",
)


@dataclass
class Outcome:
    """What a run came to."""

    seed: int
    character: CharacterName
    seconds: float
    findings: Findings
    disturbances: Counter[str]
    timelines: dict[str, Any] = field(default_factory=dict)


class ChaosRun:
    """Runs one seed."""

    def __init__(self, hospital: Hospital, seed: int, *, dictating: int, say: Callable[[str], None]) -> None:
        self.hospital = hospital
        self.seed = seed
        self.dictations: list[Dictation] = []
        self._dictating = dictating
        self._say = say
        self._stopping = asyncio.Event()
        self._numbers = count(1)
        self._ledger = Findings()

    async def run(self, seconds: float, plan_file: Path, *, hurry: bool) -> Outcome:
        """Disturb for so long, then wait for calm and judge. `hurry`: leases end with the disturbances."""
        plan = make_plan(self.seed, seconds, SLOTS)
        await asyncio.to_thread(plan_file.write_text, json.dumps([each.view() for each in plan], indent=1))
        self._say(f"seed {self.seed}, {len(plan)} disturbances in {seconds:g} s, plan in {plan_file}")
        disturber = Disturber(self.hospital, plan, self._say)
        doctors = [asyncio.create_task(self._doctor(number)) for number in range(self._dictating)]
        watches = [asyncio.create_task(self._watch_ledger()), asyncio.create_task(self._move_webhooks())]
        try:
            await disturber.run()
            await disturber.calm()
            self._stopping.set()
            self._say("calm")
            began = time.monotonic()
            await self._converge(doctors, hurry=hurry)
            self._say(f"converged after {time.monotonic() - began:.0f} s")
        finally:
            for task in (*watches, *doctors):
                task.cancel()
            await asyncio.wait([*watches, *doctors])
        findings = await judge(self.hospital, self.dictations, disturber.causes)
        findings.violations += self._ledger.violations
        findings.figures += self._ledger.figures
        self._say(f"this process was late by {self.hospital.lag_seconds:.1f} s at most")
        character = self.hospital.vendor.settings.character
        outcome = Outcome(self.seed, character, seconds, findings, disturber.counts)
        for session_id in sorted(findings.sessions)[:3]:
            answer = await self.hospital.ask("GET", f"/v1/sessions/{session_id}/timeline")
            outcome.timelines[session_id] = answer.json()
        return outcome

    async def _doctor(self, number: int) -> None:
        jitter = random.Random(f"doctor {number} of {self.seed}")
        client = EmrClient(self.hospital, jitter)
        while not self._stopping.is_set():
            dictation = new_dictation(next(self._numbers), jitter)
            self.dictations.append(dictation)
            with suppress(GaveUp):
                await client.dictate(dictation, change=jitter.random() < 0.2)
            await asyncio.sleep(jitter.uniform(0.2, 2 * _PAUSE_SECONDS))

    async def _move_webhooks(self) -> None:
        """As a load balancer would: to the one service, then to the other."""
        jitter = random.Random(f"webhooks {self.seed}")
        services = [slot for slot in self.hospital.slots.values() if slot.role == "service"]
        while True:
            self.hospital.send_webhooks_to(jitter.choice(services))
            await asyncio.sleep(jitter.uniform(0.5, 3.0))

    async def _watch_ledger(self) -> None:
        headers = {"authorization": f"Bearer {self.hospital.key}"}
        while True:
            for slot in self.hospital.slots.values():
                if slot.role != "service":
                    continue
                with suppress(httpx2.HTTPError):
                    answer = await self.hospital.http.get(
                        f"{slot.url}/v1/ledger", headers=headers, timeout=10
                    )
                    if answer.status_code == 200:
                        self._judge_ledger(answer.json())
                        break
            await asyncio.sleep(1.0)

    def _judge_ledger(self, ledger: dict[str, int]) -> None:
        self._ledger.figures["ledger_looks"] += 1
        sum_of_all = ledger["delivered"] + ledger["in_flight"] + ledger["dead"]
        is_right = ledger["lost"] == 0 and ledger["dead"] == 0 and ledger["ended"] == sum_of_all
        self._ledger.expect(is_right, f"the ledger said {ledger}")

    async def _converge(self, doctors: list[asyncio.Task[None]], *, hurry: bool) -> None:
        """Wait until every EMR was told and nothing is in flight; give up when nothing moves any more."""
        last, moved = "", time.monotonic()
        while time.monotonic() - moved < STANDSTILL_SECONDS:
            ledger = (await self.hospital.ask("GET", "/v1/ledger")).json()
            waiting = sum(not doctor.done() for doctor in doctors)
            if waiting == 0 and ledger["in_flight"] == 0:
                return
            steps = [(each.step, len(each.refusals)) for each in self.dictations]
            state = f"{ledger} {waiting} {steps} {len(self.hospital.emr.receipts)}"
            if state != last:
                last, moved = state, time.monotonic()
            if hurry:
                await self._let_waits_end()
            await asyncio.sleep(0.5)
        self._say(f"does not converge: {last}")

    async def _let_waits_end(self) -> None:
        """Let time pass for what waits, and for leases so old that their holders must be dead."""
        for statement in _WAITS:
            await self.hospital.rows(statement)


async def run_seed(
    seed: int,
    folder: Path,
    *,
    seconds: float,
    dictating: int,
    say: Callable[[str], None],
    hurry: bool = False,
    character: CharacterName = "hosted",
) -> Outcome:
    """Run one seed with servers, stand-ins and processes of its own."""
    with chaos_servers() as servers:
        if servers.clocks.why_not is not None:
            say(servers.clocks.why_not)
        async with open_hospital(servers, folder, SLOTS, character) as hospital:
            run = ChaosRun(hospital, seed, dictating=dictating, say=say)
            return await run.run(seconds, folder / f"plan-{seed}.json", hurry=hurry)


def complaint(outcome: Outcome) -> str:
    """Say what was not kept, and how to play it again."""
    again = (
        f"again: make chaos SEED={outcome.seed} SEEDS=1 MINUTES={outcome.seconds / 60:g}"
        f" CHARACTER={outcome.character}"
    )
    lines = [
        f"seed {outcome.seed}: {len(outcome.findings.violations)} promises were not kept",
        *outcome.findings.violations[:20],
        again,
    ]
    for session_id, timeline in outcome.timelines.items():
        lines.append(f"{session_id}: {json.dumps(timeline)}")
    return "\n".join(lines)
