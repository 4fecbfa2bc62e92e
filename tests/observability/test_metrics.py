"""What a dictation leaves in the metrics, in one process."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest
from prometheus_client import REGISTRY

from service.jobs.monitors.queues import QueueMonitor
from service.store.lifecycle_metrics import reason_class
from tests.support.bridge import Bridge
from tests.support.makers import NOTE
from tests.support.rig import until
from tests.support.store_house import House


class Figures:
    """How much each figure has grown since this was made."""

    def __init__(self) -> None:
        self._before = self._now()

    @staticmethod
    def _now() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for metric in REGISTRY.collect()
            for sample in metric.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        key = (f"ekabridge_{name}", frozenset(labels.items()))
        return self._now().get(key, 0.0) - self._before.get(key, 0.0)

    async def reach(self, number: float, name: str, **labels: str) -> None:
        """Wait for what is counted after its answer was given."""

        async def is_reached() -> bool:
            return self(name, **labels) == number

        await until(is_reached)


async def test_a_dictation_shows_from_its_start_to_the_chart(bridge: Bridge) -> None:
    grown = Figures()
    await bridge.add_destination()
    await bridge.start_worker()
    session_id = await bridge.dictate(chunks=2)
    await bridge.received(1)
    await grown.reach(1, "delivery_attempts_total", type="document.ready", outcome="delivered")
    await grown.reach(1, "sessions_settled_total", status="completed")
    assert grown("sessions_total", upload="chunked") == 1
    assert grown("audio_chunks_total", outcome="stored") == 2
    assert grown("audio_bytes_total") == len(b"audio 0") * 2
    assert grown("webhooks_total", outcome="accepted") >= 1
    assert grown("fetches_total", outcome="settled") == 1
    assert grown("end_to_document_seconds_count") == 1
    assert grown("end_to_chart_seconds_count") == 1
    assert 0 < grown("end_to_document_seconds_sum") <= grown("end_to_chart_seconds_sum") < 60
    assert grown("delivery_duration_seconds_count") == 1
    assert grown("database_wait_seconds_count") > 10
    assert grown("nudges_dropped_total") == 0
    text = (await bridge.api.get("/metrics")).text
    assert "ekabridge_redis_up 1.0" in text
    assert session_id not in text


async def test_a_further_document_is_no_wait_of_the_dictation(bridge: Bridge) -> None:
    grown = Figures()
    await bridge.add_destination()
    await bridge.start_worker()
    session_id = await bridge.dictate()
    await grown.reach(1, "delivery_attempts_total", type="document.ready", outcome="delivered")
    await bridge.reach(session_id, "completed")
    asked = await bridge.api.post(
        f"/v1/sessions/{session_id}/documents", json={"template_id": "clinical_notes_template"}
    )
    assert asked.status_code == 202
    await grown.reach(2, "delivery_attempts_total", type="document.ready", outcome="delivered")
    assert grown("end_to_document_seconds_count") == 1
    assert grown("end_to_chart_seconds_count") == 1


async def test_what_a_destination_refuses_shows_by_its_class(bridge: Bridge) -> None:
    grown = Figures()
    await bridge.add_destination()
    await bridge.emr.post("/_control/behaviour", json={"sequence": [{"status": 422, "times": 1}]})
    await bridge.start_worker()
    await bridge.dictate()
    await grown.reach(1, "deliveries_dead_total", reason_class="http_4xx")
    assert grown("delivery_attempts_total", type="document.ready", outcome="dead") == 1
    assert grown("end_to_chart_seconds_count") == 0


async def test_a_session_that_is_cancelled_has_its_ending_too(bridge: Bridge) -> None:
    grown = Figures()
    session_id = (await bridge.create())["id"]
    assert (await bridge.api.delete(f"/v1/sessions/{session_id}")).status_code == 202
    assert grown("sessions_settled_total", status="cancelled") == 1


async def test_a_webhook_that_nobody_signed_is_counted_as_refused(bridge: Bridge) -> None:
    grown = Figures()
    assert (await bridge.api.post("/webhooks/eka", json={})).status_code == 401
    too_large = await bridge.api.post("/webhooks/eka", content=b"x" * 70_000)
    assert too_large.status_code == 413
    assert grown("webhooks_total", outcome="refused") == 2


async def test_chunks_are_counted_by_what_became_of_them(bridge: Bridge) -> None:
    grown = Figures()
    session_id = (await bridge.create())["id"]
    assert (await bridge.put(session_id, 0, b"one")).status_code == 200
    assert (await bridge.put(session_id, 0, b"another")).status_code == 409
    await bridge.fault("/audio/", times=None, status=500)
    assert (await bridge.put(session_id, 1, b"two")).status_code == 502
    counts = {each: grown("audio_chunks_total", outcome=each) for each in ("stored", "refused", "failed")}
    assert counts == {"stored": 1, "refused": 1, "failed": 1}
    assert grown("audio_bytes_total") == 3


@pytest.mark.parametrize(
    ("reason", "name"),
    [
        ("http_422", "http_4xx"),
        ("http_599", "http_5xx"),
        ("schedule_used_up: http_500", "schedule_used_up"),
        ("forbidden_address", "forbidden_address"),
        (None, "unknown"),
    ],
)
def test_a_reason_s_class_is_one_of_few(reason: str | None, name: str) -> None:
    assert reason_class(reason) == name


def shown(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"ekabridge_{name}", labels)


async def test_queues_and_leases_are_counted_by_whoever_has_the_turn(house: House) -> None:
    for _ in range(3):
        await house.end(NOTE)
    execute = house.connection.execute
    await execute("UPDATE fetches SET next_at = now() - interval '90 seconds'")
    leased = (
        "UPDATE fetches SET lease = gen_random_uuid(), next_at = now() + interval '40 seconds'"
        " WHERE id = (SELECT min(id) FROM fetches)"
    )
    await execute(leased)
    stopping = asyncio.Event()
    watch = QueueMonitor(leases=house.stores.leases, queues=house.stores.queue_depths, interval_seconds=0.05)
    watching = asyncio.create_task(watch.run(stopping))

    async def is_counted() -> bool:
        return shown("queue_depth", queue="fetches") == 2 and shown("leases", kind="streams") == 0

    await until(is_counted)
    assert 90 <= (shown("queue_oldest_seconds", queue="fetches") or 0) < 600
    assert shown("leases", kind="fetches") == 1
    assert shown("queue_depth", queue="deliveries") == 0
    assert shown("queue_oldest_seconds", queue="deliveries") == 0
    stopping.set()
    await watching
    assert shown("queue_depth", queue="fetches") is None
    assert shown("leases", kind="fetches") is None


async def test_what_an_open_breaker_holds_back_is_no_worker_s_to_do(house: House) -> None:
    destination_id = await add_destination(house)
    await add_delivery(house, destination_id)

    async def depths() -> dict[str, int]:
        return {queue.name: queue.depth for queue in await house.stores.queue_depths.depths()}

    assert (await depths())["deliveries"] == 1
    await house.connection.execute("UPDATE destinations SET probe_at = now() + interval '1 minute'")
    found = await depths()
    assert (found["deliveries"], found["held_deliveries"]) == (0, 1)


async def add_destination(house: House) -> Any:
    return await house.connection.fetchval(
        "INSERT INTO destinations (id, tenant_id, url_sealed, events, templates, secrets_sealed)"
        " VALUES ('dst_1', $1, '', '{}', '{}', '') RETURNING id",
        house.tenant_id,
    )


async def add_delivery(house: House, destination_id: Any) -> None:
    await house.connection.execute(
        "WITH event AS (INSERT INTO events (tenant_id, type) VALUES ($1, 'ping') RETURNING id)"
        " INSERT INTO deliveries (id, tenant_id, event_id, destination_id, type, next_at)"
        " SELECT $3, $1, id, $2, 'ping', now() FROM event",
        house.tenant_id,
        destination_id,
        hashlib.sha256(b"delivery").hexdigest(),
    )
