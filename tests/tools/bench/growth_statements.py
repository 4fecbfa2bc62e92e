"""Every statement that touches what grows, with arguments as the service and the worker give them."""

import statistics
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import Any
from uuid import uuid4

import asyncpg
from msgspec import Struct

from service.store.queries import sql

ROUNDS = 31
_LONGEST_MS = 2_000
_HASH = b"\7" * 32


class Sample(Struct, frozen=True, kw_only=True):
    """Rows to ask for: old ones, each time another, so that no page is warm from the call before."""

    tenant: str
    erased_tenant: str
    sessions: list[asyncpg.Record]
    rare_destination: str
    destination: str
    deep: datetime


_OLD = """
SELECT s.id, s.tenant_id, s.reference_hash, s.patient_id_hash, d.id AS delivery_id, d.destination_id,
       d.event_id, d.document_id, f.id AS fetch_id
FROM sessions s JOIN deliveries d ON d.session_id = s.id JOIN fetches f ON f.session_id = s.id
WHERE s.tenant_id = $1 AND s.status = 'completed' AND s.erased_at IS NULL
  AND s.created_at < now() - interval '1 day'
ORDER BY s.id LIMIT 64
"""
_LARGEST = """
SELECT t.id FROM tenants t WHERE t.name = 'growth'
ORDER BY (SELECT count(*) FROM sessions s WHERE s.tenant_id = t.id{}) DESC LIMIT 1
"""
_DESTINATIONS = "SELECT id FROM destinations WHERE tenant_id = $1 ORDER BY id"
_DEEP = """
SELECT percentile_disc(0.1) WITHIN GROUP (ORDER BY created_at) FROM sessions
WHERE tenant_id = $1 AND erased_at IS NULL
"""


async def sample(connection: asyncpg.Connection) -> Sample:
    """Choose what is asked for."""
    tenant = await connection.fetchval(_LARGEST.format(""))
    destinations = await connection.fetch(_DESTINATIONS, tenant)
    erased = await connection.fetchval(_LARGEST.format(" AND s.erased_at IS NOT NULL"))
    return Sample(
        tenant=tenant,
        erased_tenant=erased,
        sessions=await connection.fetch(_OLD, tenant),
        destination=destinations[0]["id"],
        rare_destination=destinations[1]["id"],
        deep=await connection.fetchval(_DEEP, tenant),
    )


Row = asyncpg.Record
Arguments = Callable[[Row], list[Any]]


def calls(s: Sample) -> list[tuple[str, str, Arguments]]:
    """Return what is called: a statement, in which case, and with what for one of the sample's sessions."""
    recent = datetime.now(UTC) - timedelta(hours=2)
    lease = uuid4()
    t = s.tenant

    def by_id(row: Row) -> list[Any]:
        return [row["id"]]

    def owned(row: Row) -> list[Any]:
        return [t, row["id"]]

    def always(*arguments: Any) -> Arguments:
        return lambda _: list(arguments)

    def inserted(_: Row) -> list[Any]:
        new = f"ses_{uuid4().hex[:24]}"
        made = [new, t, "default", "chunked", "dictation", "pro", ["a"], ["en"], None]
        return [*made, b"sealed", _HASH, _HASH, 3600.0, 60.0, lease, None, None]

    def delivery(row: Row) -> list[Any]:
        new = f"msg_{uuid4().hex[:24]}"
        return [new, t, row["event_id"], row["id"], row["document_id"], s.rare_destination, "x", True]

    def chunk(row: Row) -> list[Any]:
        return [[row["id"]], [t], [0], [_HASH], [9], ["audio/wav"], ["audio_0.wav"], [lease], [60.0]]

    def document(row: Row) -> list[Any]:
        new = f"doc_{uuid4().hex[:24]}"
        return [new, t, row["id"], "further", new, 1, "json", "success", b"sealed" * 20, None, None]

    def attempt(row: Row) -> list[Any]:
        said = [[row["delivery_id"]], [lease], ["delivered"], [0], [None], [None], [None], [0.0], [200]]
        return [*said, [None], [9], [2], [_HASH], [row["destination_id"]], [None]]

    def summed(row: Row) -> list[Any]:
        return [[each["id"] for each in (row, *s.sessions[:20])]]

    sessions_page, deliveries_page = [None] * 6, [None] * 5
    return [
        ("nothing", "", always()),
        ("sessions.insert", "", inserted),
        ("sessions.lock", "", lambda row: [row["id"], t]),
        ("sessions.view", "", owned),
        ("sessions.begin_end", "", lambda row: [row["id"], lease, 60.0]),
        ("sessions.settle", "", lambda row: [row["id"], "completed", None, None]),
        ("sessions.record_result", "", lambda row: [row["id"], b"x", "m", "en", None]),
        ("sessions.record_end_told", "", lambda row: [row["id"], lease, 1, [0], 120.0, True]),
        ("sessions.remake", "", lambda row: [row["id"], "ses_again", "vendor_failed", None, 86_400.0]),
        ("sessions.page", "", always(t, *sessions_page, 21)),
        ("sessions.page", "deep", always(t, None, None, None, None, s.deep, "x", 21)),
        ("sessions.page", "status, rare", always(t, "recording", *sessions_page[1:], 21)),
        ("sessions.page", "status, none", always(t, "paused", *sessions_page[1:], 21)),
        ("sessions.page", "status, frequent", always(t, "completed", *sessions_page[1:], 21)),
        ("sessions.page", "reference", lambda row: [t, None, row["reference_hash"], *[None] * 4, 21]),
        ("sessions.page", "patient", lambda row: [t, None, None, row["patient_id_hash"], *[None] * 3, 21]),
        ("sessions.page", "unknown patient", always(t, None, None, _HASH, *[None] * 3, 21)),
        ("sessions.page", "since", always(t, *[None] * 3, recent, None, None, 21)),
        ("sessions.page", "erased", always(s.erased_tenant, None, None, None, None, s.deep, "x", 21)),
        ("sessions.page", "erased, status", always(s.erased_tenant, "partial", *[None] * 3, s.deep, "x", 21)),
        ("sessions.document_summaries", "", summed),
        ("sessions.delivery_counts", "", summed),
        ("sessions.timeline", "", lambda row: [*by_id(row), None, 0]),
        ("sessions.marks", "", summed),
        ("sessions.standings", "", summed),
        ("sessions.outlook", "", owned),
        ("sessions.claim_pending_calls", "", always(10, 60.0, [])),
        ("sessions.past", "", always(100)),
        ("sessions.warn_expiring", "", always(300.0)),
        ("audio.claim", "", chunk),
        ("audio.record", "", lambda row: [[row["id"]], [0], [_HASH], [row["id"]]]),
        ("audio.sequences", "", by_id),
        ("webhook_events.receive", "", lambda r: ["default", r["id"], uuid4().hex, "v", _HASH, 9, True]),
        (
            "webhook_events.receive",
            "duplicate",
            lambda r: ["default", r["id"], "completed", "v", _HASH, 9, True],
        ),
        (
            "webhook_events.receive",
            "unknown",
            lambda _: ["default", uuid4().hex, "completed", "v", _HASH, 9, True],
        ),
        ("results.schedule", "", lambda row: [t, row["id"], ["further"], 120.0]),
        ("results.claim", "any", always(None, 10, 60.0, [])),
        ("results.claim", "busy accounts", always(None, 10, 60.0, ["ten_1"])),
        ("results.claim", "one", lambda row: [row["id"], 10, 60.0, []]),
        ("results.settle", "", lambda row: [row["fetch_id"], lease, "completed"]),
        ("results.of_session", "", by_id),
        ("documents.latest", "", lambda row: [row["id"], "eka_emr_template", row["document_id"]]),
        ("documents.insert", "", document),
        ("documents.known", "", lambda row: [row["id"], "eka_emr_template"]),
        ("documents.unreleased", "", by_id),
        ("documents.mark_released", "", lambda row: [[row["document_id"]]]),
        ("documents.of_session", "", lambda row: [t, row["id"], None]),
        ("documents.one", "", lambda row: [t, row["document_id"]]),
        ("deliveries.insert_event", "", lambda r: [t, r["id"], r["document_id"], "x", "y", b"sealed" * 20]),
        ("deliveries.destinations_for", "", always(t, "document.ready", "a")),
        ("deliveries.insert", "", delivery),
        ("deliveries.claim", "any", always(None, 20, 45.0, 8, 10, [], 2**20, True)),
        ("deliveries.claim", "one", lambda row: [row["id"], 20, 45.0, 8, 10, [], 2**20, True]),
        ("deliveries.next_slot", "", always()),
        ("deliveries.record_attempts", "", attempt),
        ("deliveries.page", "", always(t, *deliveries_page, 21)),
        ("deliveries.page", "deep", always(t, None, None, None, s.deep, "x", 21)),
        ("deliveries.page", "dead", always(t, "dead", *[None] * 4, 21)),
        ("deliveries.page", "paused", always(t, "paused", *[None] * 4, 21)),
        ("deliveries.page", "pending", always(t, "pending", *[None] * 4, 21)),
        ("deliveries.page", "filed", always(t, "filed", *[None] * 4, 21)),
        ("deliveries.page", "destination", always(t, None, s.destination, *[None] * 3, 21)),
        ("deliveries.page", "rare destination", always(t, None, s.rare_destination, *[None] * 3, 21)),
        ("deliveries.page", "unknown destination", always(t, None, "dst_none", *[None] * 3, 21)),
        ("deliveries.page", "dead, destination", always(t, "dead", s.destination, *[None] * 3, 21)),
        ("deliveries.page", "session", lambda row: [t, None, None, row["id"], None, None, 21]),
        ("deliveries.one", "", lambda row: [t, row["delivery_id"]]),
        ("deliveries.attempts", "", lambda row: [row["delivery_id"]]),
        ("deliveries.retry", "", lambda row: [t, row["delivery_id"]]),
        ("deliveries.resume", "", always(s.destination)),
        ("deliveries.pause_deliveries", "", always(s.rare_destination, "disabled")),
        ("circuit_breakers.release", "", always(s.rare_destination)),
        ("circuit_breakers.give_up", "", always(s.rare_destination, 86400.0, "x")),
        ("destinations.list", "", always(t, None, None, 21)),
        ("deliveries.recover_dead", "", always(s.destination, recent)),
        ("deliveries.never_attempted", "", always(t, s.destination, recent)),
        ("deliveries.obstacle", "", lambda row: [row["delivery_id"]]),
        ("deliveries.supersede", "", lambda row: [row["delivery_id"]]),
        ("deliveries.confirm", "", lambda row: [row["delivery_id"], "record"]),
        ("audit.page", "", always(t, *[None] * 6, 21)),
        ("audit.page", "deep", always(t, None, None, None, None, s.deep, 0, 21)),
        ("audit.page", "object", lambda row: [t, None, row["id"], *[None] * 4, 21]),
        ("audit.page", "rare action", always(t, "session.changed", *[None] * 5, 21)),
        ("audit.page", "unknown action", always(t, "key.created", *[None] * 5, 21)),
        ("audit.page", "since", always(t, None, None, recent, None, None, None, 21)),
        ("audit.insert_reads", "", lambda row: [t, "key_1", "session.read", [row["id"]]]),
        ("audit.insert", "", lambda row: [t, "key_1", "session.changed", row["id"], "{}"]),
        ("api_keys.principals_by_hash", "", always([_HASH])),
        ("vendor_accounts.is_used", "", always(s.erased_tenant)),
        ("idempotency.begin", "", lambda r: [t, uuid4().bytes, _HASH, r["id"], lease, 60.0, "createSession"]),
        ("idempotency.forget", "", always(604_800.0 * 2)),
        ("erasure.hold_destinations", "", by_id),
        ("erasure.session", "", by_id),
        ("erasure.chunks", "", by_id),
        ("erasure.fetches", "", by_id),
        ("erasure.documents", "", by_id),
        ("erasure.events", "", by_id),
        ("erasure.deliveries", "", by_id),
        ("erasure.attempts", "", by_id),
        ("erasure.webhooks", "", by_id),
        ("erasure.idempotency", "", lambda row: [row["id"], t]),
        ("erasure.extent", "", by_id),
        ("additional_documents.begin", "", lambda row: [t, row["id"], "further", lease, 60.0]),
        ("ledger.count", "all", always(None, None, None, None, 1000)),
        ("ledger.count", "tenant", always(t, None, None, None, 1000)),
        ("ledger.count", "tenant, window", always(t, recent, datetime.now(UTC), None, 1000)),
        # Cuts a day at both, whose sessions are counted one by one: as many at the one as at the other.
        ("ledger.count", "tenant, until", always(t, None, recent - timedelta(days=2), None, 1000)),
        ("ledger.count", "tenant, dead", always(t, None, None, "dead", 1000)),
        ("queue_depths.depths", "", always()),
        ("queue_depths.leases", "", always()),
        ("encryption_keys.count", "", always(256.0)),
        ("reencryption.read_sessions", "", lambda row: [row["id"], 100, b"key!"]),
        ("reencryption.read_documents", "", lambda row: [row["document_id"], 100, b"key!"]),
        ("reencryption.read_events", "", lambda row: [str(row["event_id"]), 100, b"key!"]),
        ("streams.find", "", by_id),
        ("streams.has_audio", "", by_id),
        ("medscribe.session", "", owned),
        ("medscribe.pending", "", lambda row: [row["id"], None, None]),
        *RETENTION,
    ]


RETENTION: list[tuple[str, str, Arguments]] = [
    ("retention.due", "content", lambda _: [20, False]),
    ("retention.due", "rows", lambda _: [20, True]),
    ("retention.delete", "", lambda row: [row["id"]]),
]


async def time_statements(
    small: asyncpg.Connection, large: asyncpg.Connection
) -> dict[str, tuple[float, float]]:
    """Return the median milliseconds of each at both, called in turns, every call undone.

    One that takes long is called less often.
    """
    found = {}
    chosen = [(each, await sample(each)) for each in (small, large)]
    cases = [calls(stores) for _, stores in chosen]
    for of_small, of_large in zip(*cases, strict=True):
        name, case, _ = of_small
        statement = sql(name) if name != "nothing" else "SELECT 1"
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(ROUNDS):
            turns = list(zip(chosen, (of_small[2], of_large[2]), times, strict=True))
            for (connection, stores), arguments, taken in turns if number % 2 else turns[::-1]:
                taken.append(await _undone(connection, statement, arguments(stores.sessions[number])))
            if sum(times[1]) > _LONGEST_MS and number >= 2:
                break
        found[f"{name}{f' ({case})' if case else ''}"] = (
            statistics.median(times[0]),
            statistics.median(times[1]),
        )
    return found


async def _undone(connection: asyncpg.Connection, statement: str, arguments: list[Any]) -> float:
    transaction = connection.transaction()
    await transaction.start()
    began = perf_counter()
    await connection.fetch(statement, *arguments)
    took = perf_counter() - began
    await transaction.rollback()
    return took * 1000
