from __future__ import annotations

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from service.domain.ids import Account, SessionId, TenantId
from service.domain.sessions.models import EndRecorded, VendorEnd, VendorSession
from service.store.lifecycle_metrics import AUDIO_INCOMPLETE
from service.store.paging import after_cursor
from service.store.session_queries import SessionFilter, SessionQueries
from tests.support.makers import NOTE, make_lease
from tests.support.store_house import DETAILS, new_tenant

MADE = VendorSession(upload_url=None, expires_at=None)


def views_of(house) -> SessionQueries:
    return SessionQueries(
        house.stores.database,
        house.stores.keyring,
        house.stores.sessions,
        house.stores.streams,
        "https://bridge.example",
    )


async def end_if_open(house, session_id, tenant_id=None) -> bool:
    async with house.stores.sessions.ending(tenant_id or house.tenant_id, session_id) as unit:
        if unit is None or unit.state.status not in {"created", "recording"}:
            return False
        await unit.begin(make_lease(), lease_seconds=60, reconcile_seconds=120)
        return True


async def test_a_new_session_owes_its_create_call_and_whoever_has_the_lease_settles_it(house):
    lease, other = make_lease(), make_lease()
    session_id = await house.insert(lease)
    assert not await house.stores.sessions.record_created(session_id, other, MADE)
    await house.stores.sessions.record_never_created(session_id, other, "x", "y")
    await house.stores.sessions.reschedule_pending_call(session_id, other, 0)
    assert await house.value("SELECT owed FROM sessions") == "create"
    until = datetime(2030, 1, 1, tzinfo=UTC)
    assert await house.stores.sessions.record_created(
        session_id, lease, VendorSession(upload_url="https://u", expires_at=until)
    )
    assert tuple(await house.connection.fetchrow("SELECT owed, expires_at, status FROM sessions")) == (
        None,
        until,
        "created",
    )
    assert not await house.stores.sessions.record_created(session_id, lease, MADE)


async def test_an_end_that_the_vendor_puts_into_the_past_is_not_believed(house):
    """A clock that is an hour behind, or a canned answer: the session must not be over before it began."""
    lease = make_lease()
    session_id = await house.insert(lease)
    ours = await house.value("SELECT expires_at FROM sessions")
    past = VendorSession(upload_url=None, expires_at=datetime(2025, 1, 19, 11, 30, tzinfo=UTC))
    assert await house.stores.sessions.record_created(session_id, lease, past)
    assert await house.value("SELECT expires_at FROM sessions") == ours > datetime.now(UTC)


async def test_a_session_that_the_vendor_never_had_is_failed(house):
    lease = make_lease()
    session_id = await house.insert(lease)
    await house.stores.sessions.record_never_created(session_id, lease, "vendor_error", "no")
    row = await house.connection.fetchrow("SELECT status, owed, error_code FROM sessions")
    assert tuple(row) == ("failed", None, "vendor_error")


async def test_an_owed_create_is_taken_over_only_when_its_caller_gave_up_or_died(house):
    lease, next_lease = make_lease(), make_lease()
    session_id = await house.insert(lease)
    take = house.stores.sessions.claim_pending_create
    assert not await take(house.tenant_id, session_id, next_lease, lease_seconds=60)
    await house.let_pass("sessions", "owed_next_at")
    assert not await take(TenantId("ten_other"), session_id, next_lease, lease_seconds=60)
    assert await take(house.tenant_id, session_id, next_lease, lease_seconds=60)
    assert not await house.stores.sessions.record_created(session_id, lease, MADE)
    await house.stores.sessions.reschedule_pending_call(session_id, next_lease, 300)
    assert await take(house.tenant_id, session_id, make_lease(), lease_seconds=60)


async def test_owed_calls_that_are_due_are_leased_to_one_claimer_each(house):
    expected = {await house.insert() for _ in range(12)}
    assert await house.stores.sessions.claim_pending_calls(50, 60) == []
    await house.let_pass("sessions", "owed_next_at")
    claims = await asyncio.gather(*(house.stores.sessions.claim_pending_calls(4, 60) for _ in range(6)))
    claimed = [owed.session_id for claim in claims for owed in claim]
    assert len(claimed) == len(set(claimed))
    claimed += [owed.session_id for owed in await house.stores.sessions.claim_pending_calls(50, 60)]
    assert sorted(claimed) == sorted(expected)
    assert await house.stores.sessions.claim_pending_calls(50, 60) == []


async def test_an_owed_call_that_was_not_made_counts_for_nothing_and_accounts_can_be_passed_over(house):
    session_id = await house.insert()
    await house.let_pass("sessions", "owed_next_at")
    account = Account(await house.value("SELECT account FROM sessions WHERE id = $1", session_id))
    assert await house.stores.sessions.claim_pending_calls(5, 60, [account]) == []
    assert (
        await house.stores.sessions.claim_pending_calls(5, 60, [Account(f"tenant:{house.tenant_id}")]) == []
    )
    (owed,) = await house.stores.sessions.claim_pending_calls(5, 60)
    await house.stores.sessions.release_pending_call(session_id, make_lease(), 0)
    await house.stores.sessions.release_pending_call(session_id, owed.lease, 0)
    (again,) = await house.stores.sessions.claim_pending_calls(5, 60)
    assert (owed.attempts, again.attempts) == (2, 2)


async def test_an_owed_end_carries_the_number_of_stored_chunks(house):
    session_id = await house.create()
    for sequence in range(3):
        assert await house.store_chunk(session_id, sequence)
    await house.claim_chunk(session_id, 3, b"never confirmed")
    old = await house.begin_end(session_id)
    await house.let_pass("sessions", "owed_next_at")
    (owed,) = await house.stores.sessions.claim_pending_calls(5, 60)
    assert (owed.call, owed.chunks, owed.attempts, owed.upload) == ("end", 3, 2, "chunked")
    told = VendorEnd(files_received=3)
    assert not (await house.record_end(session_id, old, told)).was_ours
    assert (await house.record_end(session_id, owed.lease, told)).was_ours


@pytest.mark.parametrize(
    ("told", "missing"),
    [
        (VendorEnd(files_received=4, sequences=[0, 1, 2, 4]), None),
        (VendorEnd(files_received=9, sequences=[0, 1, 2, 3, 4, 5]), None),
        (VendorEnd(files_received=2, sequences=[0, 2]), [1, 4]),
        (VendorEnd(files_received=4, sequences=[0, 1, 2, 3]), [4]),
        (VendorEnd(files_received=0, sequences=[]), [0, 1, 2, 4]),
        (VendorEnd(files_received=3), []),
        (VendorEnd(files_received=4), None),
        (VendorEnd(files_received=None), None),
    ],
)
async def test_chunks_that_the_vendor_s_list_lacks_are_recorded_and_counted(house, told, missing):
    session_id = await house.create()
    for sequence in (0, 1, 2, 4):
        assert await house.store_chunk(session_id, sequence)
    await house.claim_chunk(session_id, 3, b"never confirmed")
    lease, before = await house.begin_end(session_id), AUDIO_INCOMPLETE._value.get()
    recorded = await house.record_end(session_id, lease, told)
    assert recorded == EndRecorded(was_ours=True, missing=missing)
    assert await house.value("SELECT audio_missing FROM sessions") == missing
    assert AUDIO_INCOMPLETE._value.get() - before == (missing is not None)
    again = await house.record_end(session_id, lease, told)
    assert (again.was_ours, AUDIO_INCOMPLETE._value.get() - before) == (False, missing is not None)


async def test_of_a_stream_no_chunk_is_missing(house):
    session_id = await house.create(upload="stream")
    lease = await house.begin_end(session_id)
    told = VendorEnd(files_received=0, sequences=[])
    assert (await house.record_end(session_id, lease, told)).missing is None


async def test_of_many_ends_at_once_exactly_one_ends_it(house):
    session_id = await house.create(templates=[NOTE])
    ended = await asyncio.gather(*(end_if_open(house, session_id) for _ in range(10)))
    assert ended.count(True) == 1
    assert await house.value("SELECT count(*) FROM fetches") == 1
    assert await house.value("SELECT owed_attempts FROM sessions") == 1


async def test_another_tenant_s_session_is_no_session(house):
    session_id = await house.create()
    other = await new_tenant(house.stores, "other")
    assert not await end_if_open(house, session_id, other)
    assert await house.claim_chunk(session_id, 0, b"a", tenant_id=other) is None
    async with house.stores.sessions.ending(other, session_id) as unit:
        assert unit is None


async def test_a_session_without_templates_owes_one_unfiltered_call_and_others_one_per_template(house):
    await house.end()
    await house.end(NOTE, "letter")
    rows = await house.connection.fetch("SELECT template_id FROM fetches ORDER BY template_id")
    assert [row["template_id"] for row in rows] == ["", NOTE, "letter"]


async def test_results_are_asked_for_when_no_webhook_comes_for_so_long(house):
    await house.end(NOTE, reconcile_seconds=120)
    assert await house.claim_fetches() == []
    wait = await house.value("SELECT extract(epoch FROM next_at - now())::float8 FROM fetches")
    assert 60 < wait <= 120
    await house.let_pass("fetches")
    (job,) = await house.claim_fetches()
    assert (job.template_id, job.attempts) == (NOTE, 1)


# Chunks.


async def test_the_same_bytes_may_be_sent_by_two_at_once_and_other_bytes_may_not(house):
    session_id = await house.create()
    first = await house.claim_chunk(session_id, 0, b"same")
    second = await house.claim_chunk(session_id, 0, b"same")
    assert first.lease is not None
    assert second.lease not in {None, first.lease}
    third = await house.claim_chunk(session_id, 0, b"other")
    assert third.lease is None
    assert third.stored_sha256 == hashlib.sha256(b"same").hexdigest()
    assert not third.is_stored


async def test_of_many_other_bytes_at_once_one_gets_the_sequence(house):
    session_id = await house.create()
    claims = await asyncio.gather(*(house.claim_chunk(session_id, 0, f"take {n}".encode()) for n in range(8)))
    assert sum(claim.lease is not None for claim in claims) == 1


async def test_stored_bytes_are_not_replaced(house):
    session_id = await house.create()
    assert await house.store_chunk(session_id, 0, b"first")
    for audio in (b"first", b"other"):
        claim = await house.claim_chunk(session_id, 0, audio)
        assert (claim.lease, claim.is_stored, claim.stored_bytes) == (None, True, 5)
        assert claim.stored_sha256 == hashlib.sha256(b"first").hexdigest()
    await house.let_pass("chunks", "lease_until")
    assert (await house.claim_chunk(session_id, 0, b"other")).lease is None


async def test_a_sequence_whose_upload_is_unclear_may_get_other_bytes_later_under_the_same_name(house):
    session_id, lease = await house.create(), make_lease()
    await house.claim_chunk(session_id, 0, b"first", lease=lease)
    await house.stores.audio.expire_lease(session_id, 0, make_lease())
    assert (await house.claim_chunk(session_id, 0, b"other")).lease is None
    await house.stores.audio.expire_lease(session_id, 0, lease)
    # Another name would be a second file at the vendor (docs/vendor.md#stored-by-number).
    assert (await house.claim_chunk(session_id, 0, b"other", file_name="audio_0.ogg")).lease is None
    assert (await house.claim_chunk(session_id, 0, b"other")).lease is not None


async def test_only_the_holder_releases_a_refused_sequence(house):
    session_id, lease = await house.create(), make_lease()
    await house.claim_chunk(session_id, 0, b"first", lease=lease)
    await house.stores.audio.release(session_id, 0, make_lease())
    assert await house.value("SELECT count(*) FROM chunks") == 1
    await house.stores.audio.release(session_id, 0, lease)
    assert await house.value("SELECT count(*) FROM chunks") == 0


async def test_a_chunk_counts_only_while_the_session_takes_audio(house):
    session_id = await house.create(templates=[NOTE])
    await house.claim_chunk(session_id, 0, b"late")
    await house.begin_end(session_id)
    assert not await house.record_chunk(session_id, 0, b"late")
    assert (await house.claim_chunk(session_id, 1, b"later")).lease is None
    assert await house.value("SELECT status FROM sessions") == "processing"
    assert await house.value("SELECT count(*) FROM chunks WHERE status = 'stored'") == 0


async def test_a_chunk_of_other_bytes_than_the_sequence_was_given_to_is_not_recorded(house):
    session_id, lease = await house.create(), make_lease()
    await house.claim_chunk(session_id, 0, b"slow", lease=lease)
    await house.stores.audio.expire_lease(session_id, 0, lease)
    await house.claim_chunk(session_id, 0, b"quick")
    assert not await house.record_chunk(session_id, 0, b"slow")
    assert await house.record_chunk(session_id, 0, b"quick")


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ("upload = 'stream'", {"upload": "stream"}),
        ("owed = 'create', owed_next_at = now()", {"is_created": False}),
        ("expires_at = now() - interval '1 second'", {"is_past": True}),
        ("status = 'cancelled'", {"session_status": "cancelled"}),
    ],
)
async def test_a_session_that_takes_no_audio_reserves_nothing_and_says_why(house, change, fields):
    session_id = await house.create()
    await house.connection.execute(f"UPDATE sessions SET {change}")
    claim = await house.claim_chunk(session_id, 0, b"a")
    assert claim.lease is None
    assert {name: getattr(claim, name) for name in fields} == fields
    assert await house.value("SELECT count(*) FROM chunks") == 0


async def test_the_end_finds_the_stored_sequences_in_order(house):
    session_id = await house.create()
    for sequence in (7, 0, 100, 3):
        assert await house.store_chunk(session_id, sequence)
    await house.claim_chunk(session_id, 5, b"never confirmed")
    async with house.stores.sessions.ending(house.tenant_id, session_id) as unit:
        assert unit.state.sequences == [0, 3, 7, 100]
        assert unit.state.status == "recording"


async def test_a_failed_end_unit_leaves_nothing_behind(house):
    session_id = await house.create(templates=[NOTE])

    class Interrupted(Exception):
        pass

    with pytest.raises(Interrupted):  # noqa: PT012 - the block is what is interrupted
        async with house.stores.sessions.ending(house.tenant_id, session_id) as unit:
            await unit.begin(make_lease(), lease_seconds=60, reconcile_seconds=0)
            raise Interrupted
    assert await house.value("SELECT status FROM sessions") == "created"
    assert await house.value("SELECT count(*) FROM fetches") == 0


# Expiry.


async def test_sessions_that_were_never_ended_are_past_and_others_are_not(house):
    open_, owed = await house.create(), await house.insert()
    ended = await house.end(NOTE)
    assert await house.stores.results.past_sessions(10) == []
    await house.let_pass("sessions", "expires_at")
    assert await house.stores.results.past_sessions(10) == [open_]
    assert {owed, ended}.isdisjoint(await house.stores.results.past_sessions(10))


async def test_a_session_with_audio_that_expires_soon_is_told_of_once(house):
    soon, without_audio = await house.create(), await house.create()
    await house.store_chunk(soon, 0)
    assert await house.stores.results.warn_expiring(300) == []
    await house.connection.execute("UPDATE sessions SET expires_at = now() + interval '200 seconds'")
    warned = await asyncio.gather(*(house.stores.results.warn_expiring(300) for _ in range(4)))
    assert [each for found in warned for each in found] == [soon]
    assert without_audio != soon


# Reads.


async def test_statuses_are_read_for_all_who_wait_at_once(house):
    one, other = await house.create(), await house.end(NOTE)
    found = await house.stores.sessions.state_tokens([one, other, SessionId("ses_unknown")])
    assert found == {one: "created", other: "processing"}


async def test_pages_show_each_session_once_newest_first_even_when_times_are_the_same(house):
    made = [await house.create() for _ in range(7)]
    await house.connection.execute("UPDATE sessions SET created_at = '2026-01-01 00:00:00+00'")
    other = await new_tenant(house.stores, "other")
    views, seen, after = views_of(house), [], None
    for _ in range(10):
        page = await views.page(house.tenant_id, SessionFilter(), after, 3)
        seen += [session.id for session in page.items]
        if page.next_cursor is None:
            break
        after = after_cursor(page.next_cursor)
    assert seen == sorted(made, reverse=True)
    assert (await views.page(other, SessionFilter(), None, 3)).items == []


async def test_a_list_is_narrowed_by_status_reference_patient_and_time(house):
    plain = await house.create(details=type(DETAILS)())
    mine = await house.create()
    ended = await house.end(NOTE, details=type(DETAILS)(reference="ENC-2", patient={"id": "PAT-1"}))
    views = views_of(house)

    async def ids(**wanted):
        page = await views.page(house.tenant_id, SessionFilter(**wanted), None, 10)
        return {session.id for session in page.items}

    assert await ids() == {plain, mine, ended}
    assert await ids(status="processing") == {ended}
    assert await ids(reference="ENC-1") == {mine}
    assert await ids(patient_id="PAT-1") == {mine, ended}
    assert await ids(patient_id="PAT-1", reference="ENC-2") == {ended}
    assert await ids(patient_id="ENC-1") == set()
    assert await ids(created_after=datetime.now(UTC) + timedelta(hours=1)) == set()


async def test_the_rules_of_the_rows_hold_whatever_the_code_does(house):
    await house.create()
    for statement in (
        "UPDATE sessions SET status = 'sleeping'",
        "UPDATE sessions SET owed = 'end'",
        """INSERT INTO fetches (tenant_id, session_id, template_id, status)
           SELECT 't', id, '', 'pending' FROM sessions""",
        """INSERT INTO chunks (session_id, sequence, tenant_id, status, sha256, bytes, content_type,
                               file_name)
           SELECT id, -1, 't', 'stored', '', 1, '', '' FROM sessions""",
    ):
        with pytest.raises(asyncpg.CheckViolationError):
            await house.connection.execute(statement)
