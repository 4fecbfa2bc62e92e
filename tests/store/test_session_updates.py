"""Changes, cancels and erasures against everything that happens to a session at the same moment."""

import asyncio
from typing import Any

import msgspec
import pytest

from schemas.destinations import DestinationChange
from schemas.sessions import SessionChange
from service.domain.idempotency import KeyedCall
from service.domain.ids import DEFAULT_ACCOUNT
from service.domain.results.models import VendorResult
from service.store.queries import queries
from tests.support.makers import (
    LETTER,
    NOTE,
    make_answer,
    make_document,
    make_lease,
    make_principal,
    make_result,
)
from tests.support.sessions_in_store import ACTOR, erase, partial
from tests.support.store_house import DETAILS, House


def done(template_id: Any) -> VendorResult:
    return make_result("completed", make_document(template_id))


async def change(house: House, session_id: Any, lease: Any, **fields: Any) -> bool:
    principal = make_principal()
    return await house.stores.session_updates.record_change(
        principal, session_id, lease, SessionChange(**fields), DETAILS
    )


async def leased(house: House, session_id: Any, seconds: float = 60) -> Any:
    lease = make_lease()
    async with house.stores.session_updates.locked(house.tenant_id, session_id) as unit:
        await unit.lease_change(lease, seconds)
    return lease


async def test_a_change_is_recorded_under_its_lease_only_and_before_the_end_only(house):
    session_id = await house.create()
    old = await leased(house, session_id, 0)
    new = await leased(house, session_id)
    assert not await change(house, session_id, old, languages=["hi"])
    assert await change(house, session_id, new, languages=["hi"])
    assert not await change(house, session_id, new, languages=["ta"])
    assert await house.value("SELECT languages FROM sessions") == ["hi"]
    late = await leased(house, session_id)
    await house.begin_end(session_id)
    assert not await change(house, session_id, late, languages=["ta"])
    assert await house.value("SELECT count(*) FROM audit WHERE action = 'session.changed'") == 1


async def test_a_released_change_leaves_the_lease_of_another_alone(house):
    session_id = await house.create()
    old = await leased(house, session_id, 0)
    await leased(house, session_id)
    await house.stores.session_updates.release_change(session_id, old)
    async with house.stores.session_updates.locked(house.tenant_id, session_id) as unit:
        assert unit.state.is_changing


async def test_another_tenant_locks_nothing(house):
    session_id = await house.create()
    async with house.stores.session_updates.locked("ten_other", session_id, to_erase=True) as unit:
        assert unit is None


@pytest.mark.parametrize("to_erase", [False, True])
async def test_a_cancelled_or_erased_session_records_no_result(house, to_erase):
    session_id = await house.end(NOTE, LETTER)
    one, two = await house.claim_fetches()
    async with house.stores.session_updates.locked(house.tenant_id, session_id) as unit:
        await unit.cancel(make_lease(), 60)
        if to_erase:
            await unit.erase(ACTOR)
    for job, answer in ((one, "completed"), (two, "processing")):
        assert not await house.fetch(job, make_result(answer, make_document(NOTE), transcript="words"))
    assert await house.value("SELECT status FROM sessions") == "cancelled"
    assert await house.value("SELECT transcript_sealed FROM sessions") is None
    assert await house.value("SELECT count(*) FROM documents") == 0
    assert await house.value("SELECT count(*) FROM fetches WHERE status = 'pending'") == 0
    async with house.stores.results.settling(session_id) as unit:
        assert unit is None


async def test_an_erasure_comes_wholly_after_a_change_of_the_destination(house):
    """Whoever changes a destination locks it, then its deliveries: an erasure in between would deadlock."""
    destination = await house.add_destination()
    session_id = await house.finish(NOTE, LETTER)
    first, second = await house.connection.fetch("SELECT id FROM deliveries ORDER BY ctid")
    touch = "UPDATE deliveries SET reason = 'x' WHERE id = $1"
    async with house.connection.transaction():
        await house.connection.execute("UPDATE destinations SET enabled = true WHERE id = $1", destination.id)
        await house.connection.execute(touch, second["id"])
        erasing = asyncio.create_task(erase(house, session_id))
        done, _ = await asyncio.wait({erasing}, timeout=0.3)
        assert not done
        await house.connection.execute(touch, first["id"])
    assert await erasing == "completed"


async def test_an_answer_that_is_kept_after_the_erasure_is_not_kept(house):
    plan, lease = house.plan(), make_lease()
    call = KeyedCall(tenant_id=house.tenant_id, route="createSession", key="k", request=b"body")
    await house.stores.idempotency.reserve_session(call, plan, lease, lease_seconds=60, life_seconds=3600)
    await erase(house, plan.id)
    await house.stores.idempotency.finish(call, plan.id, b"the patient")
    assert await house.value("SELECT answer_sealed FROM idempotency_keys") is None
    again = await house.stores.idempotency.reserve_session(
        msgspec.structs.replace(call, request=b"other"),
        house.plan(),
        lease,
        lease_seconds=60,
        life_seconds=3600,
    )
    assert again.kind == "erased"


async def test_whatever_happens_at_once_an_erased_session_keeps_nothing(house):
    """Attempts, results, webhooks, pauses, erasures of the same sessions: no deadlock, and nothing stays."""
    destinations = [await house.add_destination(f"https://emr{n}.example/hooks") for n in range(3)]
    for _ in range(6):
        finished = [await house.finish(NOTE, LETTER) for _ in range(4)]
        running = [await house.end(NOTE, LETTER) for _ in range(4)]
        deliveries = await house.claim_deliveries()
        fetches = await house.claim_fetches()
        work = [
            *(house.record(job, make_answer(200, b"x"), record_id="r") for job in deliveries),
            *(house.fetch(job, done(job.template_id)) for job in fetches),
            *(house.hear(each, kind) for each in finished + running for kind in ("completed", "failed")),
            *(erase(house, each) for each in finished + running),
            *(turn(house, each.id, on) for each in destinations for on in (False, True)),
        ]
        await asyncio.gather(*work)
        for session_id in finished + running:
            row = await house.connection.fetchrow("SELECT * FROM sessions WHERE id = $1", session_id)
            assert (row["details_sealed"], row["transcript_sealed"]) == (None, None)
            for query in (
                "SELECT count(*) FROM documents WHERE session_id = $1 AND data_sealed IS NOT NULL",
                "SELECT count(*) FROM events WHERE session_id = $1 AND body_sealed IS NOT NULL",
                "SELECT count(next_at) FROM deliveries WHERE session_id = $1",
                "SELECT count(record_id) + count(lease) FROM deliveries WHERE session_id = $1",
                "SELECT count(*) FROM fetches WHERE session_id = $1",
                "SELECT count(*) FROM webhook_events WHERE session_id = $1",
            ):
                assert await house.value(query, session_id) == 0, query


async def turn(house: House, destination_id: str, on: bool) -> None:
    await house.destinations.change(house.actor, destination_id, DestinationChange(enabled=on))


async def test_a_webhook_that_waits_for_an_erasure_records_nothing(house):
    session_id = await house.end(NOTE)
    async with house.stores.session_updates.locked(house.tenant_id, session_id, to_erase=True) as unit:
        await unit.erase(ACTOR)
        hearing = asyncio.create_task(house.hear(session_id))
        done, _ = await asyncio.wait({hearing}, timeout=0.3)
        assert not done
    assert (await hearing).phase == "unknown"
    assert await house.value("SELECT count(*) FROM webhook_events") == 0


@pytest.mark.parametrize("kind", ["expired", "failed"])
async def test_a_hint_makes_one_call_due_and_an_end_forgets_it(house, kind):
    session_id = await house.create(templates=[NOTE])
    assert (await house.hear(session_id, kind)).due == 1
    assert (await house.hear(session_id, kind)).due == 0
    (job,) = await house.claim_fetches()
    assert (job.template_id, job.is_end_hint) == ("", True)
    await house.begin_end(session_id)
    assert not await house.fetch(job, make_result(kind))
    assert await house.value("SELECT status FROM sessions") == "processing"
    (job,) = await house.claim_fetches()
    assert (job.template_id, job.is_end_hint) == (NOTE, False)


@pytest.mark.parametrize("kind", ["completed", "partial", "started"])
async def test_no_other_word_before_the_end_makes_anything_due(house, kind):
    session_id = await house.create(templates=[NOTE])
    assert (await house.hear(session_id, kind)).due == 0
    assert await house.value("SELECT count(*) FROM fetches") == 0


async def test_a_completion_after_a_bad_ending_has_the_vendor_asked_once_without_a_filter(house):
    session_id = await partial(house)
    assert (await house.hear(session_id)).due == 1
    assert (await house.hear(session_id)).due == 0
    (job,) = await house.claim_fetches()
    assert (job.template_id, job.attempts, job.missing, job.is_end_hint, job.is_over) == (
        "",
        1,
        0,
        False,
        True,
    )
    assert (await house.hear(session_id, account=DEFAULT_ACCOUNT)).due == 0


async def summaries(house: House, session_id: Any) -> list[tuple[str, str, int]]:
    rows = await house.connection.fetch(
        "SELECT id, upstream_id, version FROM documents WHERE session_id = $1", session_id
    )
    known = {row["id"]: (row["upstream_id"], row["version"]) for row in rows}
    async with house.stores.results.settling(session_id) as unit:
        statuses = await unit.document_statuses()
    view = await house.stores.database.fetch(queries()["sessions.document_summaries"], [session_id])
    assert len(statuses) == len(view)
    return sorted((row["template_id"], *known[row["id"]]) for row in view)


@pytest.mark.parametrize("upstream_id", [f"doc_of_{LETTER}", "doc_new"])
async def test_a_document_that_succeeds_later_takes_the_place_of_the_failed_one(house, upstream_id):
    session_id = await partial(house)
    await house.hear(session_id)
    (job,) = await house.claim_fetches()
    made = make_document(LETTER, upstream_id=upstream_id)
    await house.fetch(job, make_result("completed", made))
    assert await summaries(house, session_id) == [
        (NOTE, f"doc_of_{NOTE}", 1),
        (LETTER, upstream_id, 2),
    ]
    assert await house.value("SELECT status FROM sessions WHERE id = $1", session_id) == "completed"


async def test_two_documents_of_one_template_are_two(house):
    session_id = await house.end(NOTE)
    (job,) = await house.claim_fetches()
    one, two = make_document(NOTE, upstream_id="a"), make_document(NOTE, upstream_id="b", status="failed")
    whole = make_result("partial", one, two, transcript="words")
    for each in (job, *await house.claim_fetches()):
        await house.fetch(each, whole)
    (job,) = await house.claim_fetches()
    await house.fetch(job, whole)
    assert await summaries(house, session_id) == [(NOTE, "a", 1), (NOTE, "b", 1)]
    await house.let_pass("fetches", "called_at", 60)
    await house.hear(session_id)
    (job,) = await house.claim_fetches()
    changed = make_document(NOTE, upstream_id="a", data={"note": "changed"})
    await house.fetch(job, make_result("partial", changed, two))
    assert await summaries(house, session_id) == [(NOTE, "a", 2), (NOTE, "b", 1)]
    async with house.stores.results.settling(session_id) as unit:
        both = frozenset({"a", "c"})
        await unit.add_document(make_document(NOTE, upstream_id="c"), None, listed=both)
    # The failed one is listed no more: what came in its place goes on counting its versions.
    assert await summaries(house, session_id) == [(NOTE, "a", 2), (NOTE, "c", 2)]


async def test_a_rerun_hides_what_it_replaces_and_a_failed_one_does_not(house):
    session_id = await house.finish(NOTE)
    for upstream_id, status in (("x", "success"), ("y", "failed")):
        lease = make_lease()
        async with house.stores.additional_documents.opening(house.tenant_id, session_id, NOTE) as unit:
            await unit.begin(lease, 60)
        await house.stores.additional_documents.record_asked(session_id, NOTE, lease, upstream_id, 0)
        (job,) = await house.claim_fetches()
        assert (job.asked, job.document_id, job.attempts) == ("asked", upstream_id, 1)
        made = make_document(NOTE, upstream_id=upstream_id, status=status)
        await house.fetch(job, make_result("completed", made))
    assert await summaries(house, session_id) == [(NOTE, "x", 2), (NOTE, "y", 3)]
    assert await house.value("SELECT status FROM sessions") == "completed"
    assert await house.value("SELECT count(*) FROM events") == 3


async def test_what_was_never_asked_for_leaves_no_row_or_the_old_one_settled(house):
    session_id = await house.finish(NOTE)
    for template_id, left in ((LETTER, None), (NOTE, "not_asked")):
        lease = make_lease()
        async with house.stores.additional_documents.opening(
            house.tenant_id, session_id, template_id
        ) as unit:
            assert unit.state.known == (frozenset() if left is None else {f"doc_of_{NOTE}"})
            await unit.begin(lease, 60)
        async with house.stores.additional_documents.opening(
            house.tenant_id, session_id, template_id
        ) as unit:
            assert (unit.state.is_pending, unit.state.is_asking, unit.state.is_unclear) == (True, True, False)
        await house.stores.additional_documents.withdraw(session_id, template_id, make_lease())
        assert await house.value("SELECT count(*) FROM fetches WHERE status = 'pending'") == 1
        await house.stores.additional_documents.withdraw(session_id, template_id, lease)
        outcome = "SELECT outcome FROM fetches WHERE template_id = $1"
        assert await house.value(outcome, template_id) == left
    assert await house.value("SELECT count(*) FROM fetches WHERE status = 'pending'") == 0


async def test_a_mark_changes_whenever_the_timeline_does_and_only_then(house):
    session_id = await house.create(templates=[NOTE])
    destination = await house.add_destination()

    async def mark() -> str:
        return (await house.stores.sessions.timeline_tokens([session_id]))[session_id]

    async def record(outcome: Any) -> None:
        (job,) = await house.claim_deliveries()
        await house.record(job, outcome, status="pending", wait_seconds=0)

    async def fetch() -> None:
        (job,) = await house.claim_fetches()
        await house.fetch(job, make_result("completed", make_document(NOTE), transcript="words"))

    seen = [await mark()]
    for step in (
        lambda: house.store_chunk(session_id, 0),
        lambda: house.begin_end(session_id),
        lambda: house.hear(session_id),
        fetch,
        lambda: record(make_answer(503)),
        lambda: turn(house, destination.id, False),
    ):
        assert await mark() == seen[-1]
        await step()
        seen.append(await mark())
    assert len(set(seen)) == len(seen)
