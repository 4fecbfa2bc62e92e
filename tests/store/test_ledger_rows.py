"""The ledger over whatever the rows are, and over a hundred thousand of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.ledger import Ledger
from service.domain.ids import TenantId
from service.store.queries import sql
from tests.support.plans import walk
from tests.support.store_house import House, new_tenant


def as_the_page_says(state: dict[str, Any]) -> str | None:
    """Class a session by the words of docs/ledger.md, in Python; None when it is not counted."""
    if not state["ended"] and state["status"] != "expired":
        return None
    closed = {"session_erased", "superseded"}
    if any(status == "dead" and reason not in closed for status, reason, _, _ in state["deliveries"]):
        return "dead"
    erased, settled = state["erased"], state["settled"]
    documents_count = not erased
    fetch = "pending" in state["fetches"]
    further = "further" in state["fetches"]
    unreleased = documents_count and state["status"] != "cancelled" and "unreleased" in state["documents"]
    untold = documents_count and "untold" in state["documents"]
    untold |= settled and not erased and state["status"] in {"failed", "expired"} and not state["told"]
    open_ = any(status in {"pending", "paused"} for status, *_ in state["deliveries"])
    stranded = any(
        (status in {"pending", "paused"} and removed) or (status == "paused" and enabled)
        for status, _, enabled, removed in state["deliveries"]
    )
    if settled and not (fetch or further or open_ or unreleased or untold):
        return "delivered"
    nothing_moves = (not settled and not fetch) or (unreleased and not fetch and not further)
    forgotten = state["held"] == "forgotten" and not settled
    return "lost" if nothing_moves or untold or stranded or forgotten else "in_flight"


STATES = st.fixed_dictionaries(
    {
        "status": st.sampled_from(["processing", "completed", "partial", "failed", "expired", "cancelled"]),
        "ended": st.booleans(),
        "settled": st.booleans(),
        "erased": st.booleans(),
        "told": st.booleans(),
        "held": st.sampled_from([None, "due", "forgotten"]),
        "fetches": st.lists(st.sampled_from(["pending", "further", "settled"]), max_size=2),
        "documents": st.lists(st.sampled_from(["unreleased", "untold", "told"]), max_size=2),
        "deliveries": st.lists(
            st.tuples(
                st.sampled_from(["pending", "delivered", "filed", "dead", "paused"]),
                st.sampled_from([None, "http_422", "session_erased", "superseded"]),
                st.booleans(),
                st.booleans(),
            ),
            max_size=3,
        ),
    }
)


async def build(connection: asyncpg.Connection, tenant: TenantId, number: int, state: dict[str, Any]) -> None:
    """Put exactly these rows in."""
    name = f"{tenant}_{number}"
    # An ending is what makes an unended session expired: the schema's own code never has one without.
    settled = state["settled"] or (state["status"] == "expired" and not state["ended"])
    state["settled"] = settled
    await connection.execute(
        "INSERT INTO sessions (id, tenant_id, account, status, upload, mode, model, templates, languages, "
        "expires_at, ended_at, settled_at, erased_at, held_since, owed, owed_next_at) "
        "VALUES ($1, $2, 'default', $3, 'chunked', 'd', 'p', "
        "'{}', '{}', now(), CASE WHEN $4 THEN now() END, CASE WHEN $5 THEN now() END, "
        "CASE WHEN $6 THEN now() END, CASE WHEN $7 THEN now() END, CASE WHEN $8 THEN 'audio' END, "
        "CASE WHEN $8 THEN now() END)",
        *(name, tenant, state["status"], state["ended"], settled, state["erased"]),
        *(state["held"] is not None, state["held"] == "due"),
    )
    if state["told"]:
        await connection.execute(
            "INSERT INTO events (tenant_id, session_id, type) VALUES ($1, $2, 'session.' || $3)",
            *(tenant, name, state["status"]),
        )
    for place, kind in enumerate(state["fetches"]):
        await connection.execute(
            "INSERT INTO fetches (tenant_id, session_id, template_id, status, next_at, asked) "
            "VALUES ($1, $2, $3, $4, CASE WHEN $4 = 'pending' THEN now() END, $5)",
            *(tenant, name, f"t{place}", "settled" if kind == "settled" else "pending"),
            "asked" if kind == "further" else None,
        )
    for place, kind in enumerate(state["documents"]):
        document = f"{name}_{place}"
        await connection.execute(
            "INSERT INTO documents (id, tenant_id, session_id, template_id, upstream_id, version, status, "
            "released_at) VALUES ($1, $2, $3, 't', $4, 1, 'success', CASE WHEN $5 THEN now() END)",
            *(document, tenant, name, str(place), kind != "unreleased"),
        )
        if kind == "told":
            await connection.execute(
                "INSERT INTO events (tenant_id, session_id, document_id, type) "
                "VALUES ($1, $2, $3, 'document.ready')",
                *(tenant, name, document),
            )
    for place, (status, reason, enabled, removed) in enumerate(state["deliveries"]):
        target = f"{name}_{place}"
        await connection.execute(
            "INSERT INTO destinations (id, tenant_id, url_sealed, events, templates, secrets_sealed, "
            "enabled, removed_at) VALUES ($1, $2, '', '{}', '{}', '', $3, CASE WHEN $4 THEN now() END)",
            *(target, tenant, enabled, removed),
        )
        await connection.execute(
            "WITH e AS (INSERT INTO events (tenant_id, session_id, type) VALUES ($2, $3, 'ping') "
            "RETURNING id) INSERT INTO deliveries (id, tenant_id, event_id, session_id, destination_id, "
            "type, status, reason, next_at) SELECT $1, $2, e.id, $3, $1, 'ping', $4, $5, "
            "CASE WHEN $4 = 'pending' THEN now() END FROM e",
            *(target, tenant, name, status, reason),
        )


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(states=st.lists(STATES, min_size=1, max_size=6))
async def test_the_equation_and_the_classes_hold_whatever_the_rows_are(house, states):
    tenant = await new_tenant(house.stores, "drawn")
    for number, state in enumerate(states):
        await build(house.connection, tenant, number, state)
    found = await house.stores.ledger.count(tenant)
    expected = [as_the_page_says(state) for state in states]
    assert found.ended == found.delivered + found.in_flight + found.dead
    assert found == Ledger(
        ended=len(expected) - expected.count(None),
        delivered=expected.count("delivered"),
        in_flight=expected.count("in_flight") + expected.count("lost"),
        dead=expected.count("dead"),
        lost=expected.count("lost"),
    )
    await age_and_fold(house, tenant)
    assert await house.stores.ledger.count(tenant) == found


async def age_and_fold(house: House, tenant: TenantId) -> None:
    """Let what happened to a tenant lie five days back, and count each of those days for good."""
    await house.connection.execute("DELETE FROM ledger_days")
    await house.connection.execute("DELETE FROM ledger_suspects")
    await house.connection.execute(
        "UPDATE sessions SET created_at = created_at - interval '5 days', "
        "ended_at = ended_at - interval '5 days', settled_at = settled_at - interval '5 days' "
        "WHERE tenant_id = $1",
        tenant,
    )
    await house.connection.execute(
        "UPDATE documents SET received_at = received_at - interval '5 days' WHERE tenant_id = $1", tenant
    )
    while await house.stores.ledger.fold():
        pass


HUNDRED_THOUSAND = """
INSERT INTO tenants (id, name) SELECT 'big' || n, 'x' FROM generate_series(1, 10) n;
INSERT INTO destinations (id, tenant_id, url_sealed, events, templates, secrets_sealed)
SELECT 'dst' || n, 'big' || n, '', '{}', '{}', '' FROM generate_series(1, 10) n;
INSERT INTO sessions (id, tenant_id, account, status, upload, mode, model, templates, languages, created_at,
                      expires_at, ended_at, settled_at)
SELECT 's' || n, 'big' || (n % 10 + 1), 'default', 'completed', 'chunked', 'd', 'p', '{}', '{}',
       now() - n * interval '10 seconds', now(), now() - n * interval '10 seconds', now()
FROM generate_series(1, 100000) n;
INSERT INTO fetches (tenant_id, session_id, template_id, status, next_at)
SELECT 'big' || (n % 10 + 1), 's' || n, 'a', 'settled', NULL FROM generate_series(1, 100000) n;
INSERT INTO documents (id, tenant_id, session_id, template_id, upstream_id, version, status, received_at,
                       released_at)
SELECT 'd' || n, 'big' || (n % 10 + 1), 's' || n, 'a', '', 1, 'success', now() - n * interval '10 seconds',
       now()
FROM generate_series(1, 100000) n;
INSERT INTO events (tenant_id, session_id, document_id, type)
SELECT 'big' || (n % 10 + 1), 's' || n, 'd' || n, 'document.ready' FROM generate_series(1, 100000) n;
INSERT INTO deliveries (id, tenant_id, event_id, session_id, destination_id, type, status, settled_at)
SELECT 'm' || e.id, e.tenant_id, e.id, e.session_id, 'dst' || substr(e.tenant_id, 4), e.type,
       CASE WHEN e.id % 1000 = 0 THEN 'dead' ELSE 'delivered' END, now() FROM events e;
ANALYZE;
"""


SMALL_TABLES = {"destinations", "tenants", "ledger_days", "ledger_suspects"}


async def test_a_hundred_thousand_sessions_are_counted_by_their_indexes(house):
    await house.connection.execute(HUNDRED_THOUSAND)
    found = await house.stores.ledger.count(TenantId("big1"))
    assert (found.ended, found.delivered + found.dead, found.lost) == (10_000, 10_000, 0)
    now = datetime.now(UTC)
    hour = [TenantId("big1"), now - timedelta(hours=2), now - timedelta(hours=1), None, 10]
    used, scanned = await plan_of(house, "ledger.count", hour)
    assert used >= {"sessions_with_ending", "documents_by_session", "events_by_document"}
    assert scanned <= SMALL_TABLES
    together = await house.stores.ledger.count(None)
    while await house.stores.ledger.fold():
        pass
    assert await house.stores.ledger.count(None) == together
    assert await house.stores.ledger.count(TenantId("big1")) == found
    _, scanned = await plan_of(house, "ledger.count", [None, None, None, None, 10])
    assert scanned <= SMALL_TABLES
    _, scanned = await plan_of(house, "ledger.fold", [now.date()])
    assert scanned <= SMALL_TABLES


async def plan_of(house: House, name: str, arguments: list[Any]) -> tuple[set[str], set[str]]:
    """The indexes that are used, and the tables that are read from end to end."""
    plan = await house.connection.fetchval(f"EXPLAIN (FORMAT JSON) {sql(name)}", *arguments)
    nodes = walk(json.loads(plan)[0]["Plan"])
    used = {node["Index Name"] for node in nodes if "Index Name" in node}
    return used, {node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"}
