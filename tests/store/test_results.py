from __future__ import annotations

import asyncio

import pytest

from schemas.results import WarningInfo
from service.domain.ids import UNFILTERED, Account
from service.domain.results.fetching import ResultFetcher
from service.domain.results.models import VendorResult
from tests.support.fakes import ScriptedVendor
from tests.support.makers import LETTER, NOTE, TurnedClock, make_document, make_result


def done(template_id=NOTE, transcript="words", **fields) -> VendorResult:
    return make_result("completed", make_document(template_id, **fields), transcript=transcript)


async def test_two_claimers_never_get_the_same_call(house):
    for _ in range(10):
        await house.end(NOTE, LETTER)
    claims = await asyncio.gather(*(house.claim_fetches(limit=4) for _ in range(8)))
    claimed = [job.id for claim in claims for job in claim]
    assert len(claimed) == len(set(claimed))
    claimed += [job.id for job in await house.claim_fetches()]
    assert len(claimed) == len(set(claimed)) == 20
    assert await house.claim_fetches() == []


async def test_a_claim_can_be_for_one_session(house):
    one, other = await house.end(NOTE), await house.end(NOTE)
    assert [job.session_id for job in await house.claim_fetches(one)] == [one]
    assert [job.session_id for job in await house.claim_fetches()] == [other]


async def test_accounts_can_be_passed_over(house):
    session_id = await house.end(NOTE)
    account = Account(await house.value("SELECT account FROM sessions WHERE id = $1", session_id))
    assert await house.stores.results.claim_fetches(None, 10, 60, [account]) == []
    assert await house.stores.results.claim_fetches(session_id, 10, 60, {account, Account("x")}) == []
    assert len(await house.stores.results.claim_fetches(None, 10, 60, [Account("x")])) == 1


async def test_a_call_that_was_not_made_counts_for_nothing(house):
    await house.end(NOTE)
    (old,) = await house.claim_fetches()
    await house.postpone(old, 0, "no", is_missing=True)
    (job,) = await house.claim_fetches()
    await house.stores.results.give_back_fetch(old, 300)  # not its lease any more
    await house.stores.results.give_back_fetch(job, 0)
    (again,) = await house.claim_fetches()
    assert (job.attempts, again.attempts, again.missing) == (2, 2, 1)
    await house.stores.results.give_back_fetch(again, 300)
    assert await house.claim_fetches() == []


async def test_a_lease_that_ran_out_is_due_again_and_its_old_holder_records_nothing(house):
    session_id = await house.end(NOTE)
    (old,) = await house.claim_fetches()
    assert await house.claim_fetches() == []
    await house.let_pass("fetches")
    (new,) = await house.claim_fetches()
    assert (new.id, new.attempts) == (old.id, 2)
    assert new.lease != old.lease

    assert not await house.fetch(old, done())
    assert not await house.fetch(old, make_result("failed"))
    await house.postpone(old, 0, "late")
    row = await house.connection.fetchrow("SELECT status, settled_at, transcript_sealed FROM sessions")
    assert tuple(row) == ("processing", None, None)
    assert await house.value("SELECT count(*) FROM documents") == 0
    assert await house.value("SELECT count(*) FROM events") == 0
    assert await house.value("SELECT lease FROM fetches") == new.lease

    assert await house.fetch(new, done())
    assert await house.value("SELECT status FROM sessions WHERE id = $1", session_id) == "completed"
    assert await house.value("SELECT count(*) FROM documents") == 1


async def test_of_two_holders_at_once_only_one_records(house):
    await house.end(NOTE)
    await house.add_destination()
    (old,) = await house.claim_fetches()
    await house.let_pass("fetches")
    (new,) = await house.claim_fetches()
    await asyncio.gather(house.fetch(old, done()), house.fetch(new, done()))
    for table in ("documents", "events", "deliveries"):
        assert await house.value(f"SELECT count(*) FROM {table}") == 1


async def test_templates_of_one_session_that_finish_at_once_complete_it_once(house):
    session_id = await house.end(NOTE, LETTER)
    await house.add_destination()
    jobs = await house.claim_fetches()
    await asyncio.gather(*(house.fetch(job, done(job.template_id)) for job in jobs))
    assert await house.value("SELECT status FROM sessions WHERE id = $1", session_id) == "completed"
    assert await house.value("SELECT count(*) FROM deliveries") == 2
    assert await house.claim_fetches() == []


async def test_a_postponed_call_is_due_after_its_wait_and_not_before(house):
    await house.end(NOTE)
    (job,) = await house.claim_fetches()
    await house.postpone(job, 30, "processing")
    assert await house.claim_fetches() == []
    row = await house.connection.fetchrow(
        "SELECT lease, last_error, extract(epoch FROM next_at - now())::float8 AS wait FROM fetches"
    )
    assert (row["lease"], row["last_error"]) == (None, "processing")
    assert 0 < row["wait"] <= 30


async def test_a_webhook_during_a_call_makes_it_due_again_at_once(house):
    session_id = await house.end(NOTE)
    (job,) = await house.claim_fetches()
    heard = await house.hear(session_id)
    assert (heard.is_first, heard.phase, heard.due) == (True, "ended", 1)
    assert await house.claim_fetches() == []  # it stays with the one who has it
    await house.postpone(job, 300, "processing")
    (again,) = await house.claim_fetches()
    assert again.attempts == 2
    # The hint was for once: the next wait is a wait again.
    await house.postpone(again, 300, "processing")
    assert await house.claim_fetches() == []


async def test_a_webhook_while_nobody_calls_makes_it_due_now(house):
    session_id = await house.end(NOTE, LETTER, reconcile_seconds=120)
    assert await house.claim_fetches() == []
    assert (await house.hear(session_id)).due == 2
    assert {job.template_id for job in await house.claim_fetches()} == {NOTE, LETTER}


async def test_a_settled_call_is_not_made_again_whatever_webhooks_say(house):
    session_id = await house.finish(NOTE)
    for kind in ("completed", "partial", "failed"):
        assert (await house.hear(session_id, kind)).due == 0
    assert await house.claim_fetches() == []


async def test_the_transcript_s_own_call_is_owed_once_and_the_document_s_stays_settled(house):
    session_id = await house.end(NOTE)
    (job,) = await house.claim_fetches()
    await house.fetch(job, done(transcript=None))
    (again,) = await house.claim_fetches()
    assert again.template_id == UNFILTERED
    await house.fetch(again, make_result("completed", make_document(NOTE), transcript="words"))
    assert await house.claim_fetches() == []
    assert await house.value("SELECT count(*) FROM documents") == 1
    assert await house.value("SELECT status FROM sessions WHERE id = $1", session_id) == "completed"


async def test_a_bad_ending_settles_what_was_still_to_be_asked(house):
    await house.end(NOTE, LETTER)
    one, other = await house.claim_fetches()
    assert not await house.fetch(one, make_result("failed"))
    (unfiltered,) = await house.claim_fetches()
    assert await house.fetch(unfiltered, make_result("failed"))
    assert not await house.fetch(other, done(other.template_id))
    assert await house.value("SELECT count(*) FROM fetches WHERE status = 'pending'") == 0
    assert tuple(await house.connection.fetchrow("SELECT status, error_code, owed FROM sessions")) == (
        "failed",
        "vendor_failed",
        None,
    )


async def test_what_is_recorded_together_is_kept_together_or_not_at_all(house):
    session_id = await house.end(NOTE)
    (job,) = await house.claim_fetches()

    class Interrupted(Exception):
        pass

    with pytest.raises(Interrupted):  # noqa: PT012 - the block is what is interrupted
        async with house.stores.results.settling(session_id) as unit:
            assert await unit.settle_fetch(job, "completed")
            await unit.record_result(done())
            await unit.add_document(make_document(NOTE), None, listed=frozenset({f"doc_of_{NOTE}"}))
            await unit.settle_session("completed", error_code=None, error_message=None)
            raise Interrupted
    assert await house.value("SELECT status FROM sessions") == "processing"
    assert await house.value("SELECT status FROM fetches") == "pending"
    assert await house.value("SELECT count(*) FROM documents") == 0


async def test_a_document_is_stored_again_only_when_it_differs(house):
    session_id = await house.finish(NOTE)
    async with house.stores.results.settling(session_id) as unit:
        await unit.add_document(make_document(NOTE), None, listed=frozenset({f"doc_of_{NOTE}"}))
        both = frozenset({f"doc_of_{NOTE}", "another"})
        await unit.add_document(make_document(NOTE, data={"note": "changed"}), None, listed=both)
        await unit.add_document(make_document(NOTE, data={"note": "changed"}), None, listed=both)
        await unit.add_document(make_document(NOTE, upstream_id="another"), None, listed=both)
        statuses = await unit.document_statuses()
        unreleased = await unit.unreleased_documents()
    rows = await house.connection.fetch("SELECT upstream_id, version FROM documents ORDER BY 1, 2")
    assert [tuple(row) for row in rows] == [
        ("another", 1),
        (f"doc_of_{NOTE}", 1),
        (f"doc_of_{NOTE}", 2),
    ]
    assert statuses == [(NOTE, "success"), (NOTE, "success")]
    assert sorted(document.data["note"] for document in unreleased) == ["changed", NOTE]


async def test_the_first_transcript_stays(house):
    session_id = await house.finish(NOTE, transcript="first")
    async with house.stores.results.settling(session_id) as unit:
        assert unit.transcript == "first"
        await unit.record_result(make_result("completed", transcript="second"))
        assert unit.transcript == "first"
    async with house.stores.results.settling(session_id) as unit:
        assert unit.transcript == "first"


async def test_a_session_that_does_not_exist_cannot_be_settled(house):
    async with house.stores.results.settling("ses_unknown") as unit:
        assert unit is None


@pytest.mark.parametrize("name", ["type", "upstream_id", "template_id"])
async def test_a_text_of_the_vendor_s_that_postgresql_cannot_hold_does_not_block_the_session(house, name):
    # JSON may hold NUL and PostgreSQL's text may not; a session must not be asked for again for ever.
    session_id = await house.end()
    (job,) = await house.claim_fetches()
    odd = make_document(**({"template_id": NOTE} | {name: "odd\0text"}))
    assert await house.fetch(job, make_result("completed", odd, transcript="words"))
    assert await house.value("SELECT status FROM sessions WHERE id = $1", session_id) == "completed"


async def test_a_verdict_stands_from_when_it_was_first_said_and_another_one_anew(house):
    session_id = await house.end(NOTE)
    for verdict, seconds in (("empty", 0), ("empty", 70), ("absent", 0), (None, None)):
        await house.let_pass("fetches")
        async with house.stores.results.settling(session_id) as unit:
            await unit.record_verdict(NOTE, verdict)
        (job,) = await house.claim_fetches()
        assert job.verdict == verdict
        if seconds is None:
            assert job.verdict_seconds is None
        else:
            assert seconds <= job.verdict_seconds < seconds + 30
        await house.let_pass("fetches", "verdict_since", 70)


async def test_the_unfiltered_call_is_requested_once_and_hurried_only_when_told(house):
    session_id = await house.end(NOTE)
    async with house.stores.results.settling(session_id) as unit:
        await unit.request_unfiltered(at_once=False)
    first, second = sorted(await house.claim_fetches(), key=lambda job: job.template_id)
    assert (first.template_id, second.template_id) == (UNFILTERED, NOTE)
    await house.postpone(first, 300, "processing")
    for at_once, restart_tries, attempts in ((False, False, []), (True, False, [2]), (True, True, [1])):
        async with house.stores.results.settling(session_id) as unit:
            await unit.request_unfiltered(at_once=at_once, restart_tries=restart_tries)
        claimed = await house.claim_fetches()
        assert [job.attempts for job in claimed] == attempts
        for job in claimed:
            await house.postpone(job, 300, "processing")
    async with house.stores.results.settling(session_id) as unit:
        await unit.settle_template(UNFILTERED, "completed")
        await unit.request_unfiltered(at_once=False)
    (again,) = await house.claim_fetches()
    assert (again.template_id, again.attempts) == (UNFILTERED, 1)


async def test_a_call_knows_whether_a_webhook_announced_its_result(house):
    session_id = await house.end(NOTE)
    (job,) = await house.claim_fetches()
    assert not job.was_announced
    await house.hear(session_id)
    await house.let_pass("fetches")
    (job,) = await house.claim_fetches()
    assert job.was_announced


async def test_warnings_of_several_answers_are_kept_once_each(house):
    session_id = await house.end(NOTE)
    one, two = (WarningInfo(code="processing_error", message=each) for each in ("one", "two"))
    for warnings in ([one], [one, two], []):
        async with house.stores.results.settling(session_id) as unit:
            await unit.record_result(make_result("partial", warnings=warnings))
    async with house.stores.results.settling(session_id) as unit:
        assert unit.warnings == [one, two]


async def test_a_session_that_expired_unended_and_gets_documents_stays_where_the_ledger_counted_it(house):
    session_id = await house.create()
    await house.connection.execute("UPDATE sessions SET expires_at = now()")
    await ResultFetcher(store=house.stores.results, vendor=ScriptedVendor(), clock=TurnedClock()).expire(
        session_id
    )
    await house.let_pass("sessions", "settled_at", 3600)
    expired_at = await house.value("SELECT settled_at FROM sessions")
    async with house.stores.results.settling(session_id) as unit:
        await unit.settle_session("completed", error_code=None, error_message=None)
    assert await house.value("SELECT ended_at FROM sessions") == expired_at
