"""What goes wrong in a run and when: a plan that follows from the seed alone."""

import random
from dataclasses import asdict, dataclass
from typing import Any

from tests.tools.chaos.points import Point

# Crash points of a chaos run; `test_crash_points.py` finds and proves all that there are.
POINTS = [
    Point(role, step, when)  # type: ignore[arg-type]
    for role, steps in {
        "service": (
            "commit after sessions.insert",
            "vendor: create",
            "sessions.record_created",
            "audio.claim",
            "vendor: upload",
            "audio.record",
            "commit after results.schedule",
            "vendor: end",
            "sessions.record_end_told",
            "idempotency.finish",
            "webhook_events.receive",
        ),
        "worker": (
            "results.claim",
            "vendor: get",
            "commit after documents.mark_released",
            "commit after deliveries.claim",
            "emr: deliver",
            "deliveries.record_attempts",
        ),
    }.items()
    for step in steps
    for when in ("before", "after")
]
_VENDOR_PATHS = (
    "/voice/v1/sessions$",
    "/audio/",
    "/end$",
    "/sessions/ses_[^/]*$",
    "/voice/",
    "/connect-auth/",
)
# A call that may have taken effect, or not: its answer does not come, or not whole.
FAULTS: dict[str, dict[str, Any]] = {
    "500": {"status": 500, "body": {"error": {"code": "internal_error"}}},
    "500 after the effect": {"status": 500, "when": "after", "body": {"error": {"code": "internal_error"}}},
    "503": {"status": 503},
    "429": {"status": 429, "headers": {"Retry-After": "1"}},
    "reset": {"mode": "reset"},
    "reset after the effect": {"mode": "reset", "when": "after"},
    "hang": {"mode": "hang"},
    "hang after the effect": {"mode": "hang", "when": "after"},
    "drip": {"mode": "drip", "drip_seconds": 0.01},
    "half an answer": {"mode": "half_json"},
}
KINDS = (
    "kill",
    "kill at a point",
    "restart",
    "redis: flush",
    "redis: stop",
    "redis: hang",
    "postgresql: restart",
    "postgresql: crash",
    "postgresql: cut",
    "postgresql: slow commits",
    "postgresql: hang",
    "vendor: fault",
    "vendor: tokens expire",
    "webhooks: lost",
    "webhooks: doubled",
    "webhooks: late",
    "emr: fault",
    "clock: process",
    "clock: postgresql",
)
# Calls are made and disturbed far more often than anything is killed.
_OFTEN = (
    "kill",
    "kill at a point",
    "kill at a point",
    "vendor: fault",
    "vendor: fault",
    "emr: fault",
    "emr: fault",
)


@dataclass(frozen=True)
class Disturbance:
    """One thing that goes wrong: when, in seconds from the start, for how long, and to whom."""

    at: float
    kind: str
    seconds: float
    target: str = ""
    detail: str = ""

    def view(self) -> dict[str, Any]:
        """It, for the plan's file."""
        return asdict(self)


def make_plan(seed: int, seconds: float, slots: dict[str, str]) -> list[Disturbance]:
    """Make the plan of a seed: every kind again and again, in an order and at moments of chance."""
    jitter = random.Random(f"plan {seed}")
    plan: list[Disturbance] = []
    at, deck = 1.0, []
    while at < seconds:
        deck = deck or jitter.sample([*KINDS, *_OFTEN], len(KINDS) + len(_OFTEN))
        plan.append(_think_of(deck.pop(), round(at, 2), jitter, slots))
        at += jitter.uniform(0.5, 2.5)
    return plan


def _think_of(kind: str, at: float, jitter: random.Random, slots: dict[str, str]) -> Disturbance:
    names = sorted(slots)
    seconds = round(jitter.uniform(0.5, 4.0), 2)
    if kind in {"kill", "restart", "redis: hang", "postgresql: hang", "postgresql: slow commits"}:
        return Disturbance(at, kind, seconds, jitter.choice(names))
    if kind == "kill at a point":
        return Disturbance(at, kind, seconds, detail=str(jitter.randrange(len(POINTS))))
    if kind == "vendor: fault":
        return Disturbance(at, kind, seconds, jitter.choice(_VENDOR_PATHS), jitter.choice(sorted(FAULTS)))
    if kind == "emr: fault":
        return Disturbance(at, kind, seconds, "/hooks", jitter.choice(sorted(FAULTS)))
    if kind == "clock: process":
        return Disturbance(
            at, kind, seconds * 4, jitter.choice(names), str(jitter.choice((-600, -60, 60, 600)))
        )
    if kind == "clock: postgresql":
        return Disturbance(at, kind, 0.0, detail=str(jitter.choice((-30, -5, 60, 3600))))
    return Disturbance(at, kind, seconds)
