"""Rows of sessions that are made again at the vendor, and of the audio that makes it possible."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.domain.ids import Lease, SessionId, TemplateId, VendorSessionId, new_vendor_session_id
from service.domain.sessions.models import VendorEnd
from service.store.queries import sql
from tests.support.makers import LETTER, NOTE, make_document, make_lease, make_result
from tests.support.store_house import House

TWO_DAYS = 2


class Sound:
    """The domain's Audio over some bytes."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size = len(content)
        self.sha256 = hashlib.sha256(content).hexdigest()

    async def read(self) -> AsyncIterator[bytes]:
        yield self._content


async def keep_chunk(house: House, session_id: SessionId, sequence: int, content: bytes = b"audio") -> bool:
    chunk = house.chunk(session_id, sequence, content)
    claim = await house.stores.audio.claim(chunk)
    assert claim is not None
    assert claim.keeps_audio
    return await house.stores.held_audio.record_kept(chunk, claim.vendor_id, Sound(content))


async def keeping(
    house: House, *templates: TemplateId, chunks: int = 2, days: int = 0
) -> tuple[SessionId, Lease]:
    """A session with kept audio whose end call is leased."""
    session_id = await house.create(templates=list(templates), keep_audio_days=days)
    for sequence in range(chunks):
        assert await keep_chunk(house, session_id, sequence)
    return session_id, await house.begin_end(session_id)


async def remake(house: House, session_id: SessionId, lease: Lease) -> VendorSessionId | None:
    vendor_id = new_vendor_session_id()
    is_made = await house.stores.sessions.remake(session_id, lease, vendor_id, "audio_incomplete")
    return vendor_id if is_made else None


async def sequences_kept(house: House) -> list[int]:
    rows = await house.connection.fetch("SELECT DISTINCT sequence FROM audio_blocks ORDER BY sequence")
    return [row["sequence"] for row in rows]


async def test_a_chunk_is_kept_in_the_transaction_that_records_it(house):
    session_id = await house.create(keep_audio_days=0)
    large = b"x" * 1_500_000
    assert await keep_chunk(house, session_id, 0, large)
    rows = await house.connection.fetch("SELECT bytes, data_sealed FROM audio_blocks ORDER BY block")
    assert [row["bytes"] for row in rows] == [1_048_576, 1_500_000 - 1_048_576]
    assert not any(b"xxxx" in row["data_sealed"] for row in rows)
    assert await house.value("SELECT status FROM chunks") == "stored"
    # Another upload of the same bytes that began before.
    chunk = house.chunk(session_id, 0, large)
    assert await house.stores.held_audio.record_kept(chunk, VendorSessionId(session_id), Sound(large))
    assert await house.value("SELECT count(*) FROM audio_blocks") == 2
    assert await house.value("SELECT status FROM sessions") == "recording"


async def test_no_chunk_is_kept_that_does_not_count(house):
    session_id = await house.create(keep_audio_days=0)
    await house.claim_chunk(session_id, 0, b"audio")
    chunk = house.chunk(session_id, 0, b"audio")
    other = new_vendor_session_id()
    assert not await house.stores.held_audio.record_kept(chunk, other, Sound(b"audio"))
    assert not await house.stores.audio.record(chunk, other)
    await house.begin_end(session_id)
    same = VendorSessionId(session_id)
    assert not await house.stores.held_audio.record_kept(chunk, same, Sound(b"audio"))
    assert await sequences_kept(house) == []
    assert await house.value("SELECT status FROM chunks") == "sending"


async def test_a_remade_session_begins_again_and_forgets_what_the_first_one_brought(house):
    session_id, lease = await keeping(house, NOTE, LETTER)
    note, letter = await house.claim_fetches(session_id)
    await house.fetch(note, make_result("processing", transcript="half of the words"))
    await house.connection.execute(
        "UPDATE sessions SET transcript_sealed = 'x', warnings_sealed = 'x', model_used = 'lite',"
        " audio_missing = '{1}'"
    )
    await house.connection.execute(
        "INSERT INTO fetches (tenant_id, session_id, template_id, next_at) VALUES ($1, $2, '', now())",
        house.tenant_id, session_id,
    )  # fmt: skip
    vendor_id = await remake(house, session_id, lease)
    row = await house.connection.fetchrow("SELECT * FROM sessions")
    wanted = {
        "status": "processing",
        "vendor_session_id": vendor_id,
        "remade_reason": "audio_incomplete",
        "owed": "create",
        "owed_attempts": 0,
    }
    forgotten = (
        "owed_lease transcript_sealed warnings_sealed model_used audio_missing upload_url_sealed settled_at"
    )
    wanted |= dict.fromkeys(forgotten.split())
    assert {name: row[name] for name in wanted} == wanted
    assert row["held_since"] == row["remade_at"] == row["owed_next_at"]
    fetches = await house.connection.fetch("SELECT * FROM fetches ORDER BY template_id")
    assert [(each["template_id"], each["attempts"], each["lease"]) for each in fetches] == [
        (NOTE, 0, None),
        (LETTER, 0, None),
    ]
    assert not await house.fetch(letter, make_result("completed", make_document(LETTER), transcript="words"))
    assert await house.value("SELECT count(*) FROM documents") == 0
    (pending,) = await house.stores.sessions.claim_pending_calls(1, 60)
    assert (pending.call, pending.vendor_id, pending.attempts) == ("create", vendor_id, 1)
    assert pending.held_seconds is not None
    chunk = await house.stores.held_audio.next_held(session_id, pending.lease)
    assert chunk is not None
    assert [piece async for piece in house.stores.held_audio.open_held(chunk).read()] == [b"audio"]
    timeline = await house.connection.fetch(sql("sessions.timeline"), session_id, None, 0)
    (entry,) = [each for each in timeline if each["type"] == "session.remade"]
    assert json.loads(entry["data"]) == {"reason": "audio_incomplete"}


UNFIT = {
    "a block is gone": "DELETE FROM audio_blocks WHERE sequence = 1",
    "it was made again before": "UPDATE sessions SET remade_at = now()",
    "it has its ending": "UPDATE sessions SET settled_at = now()",
    "it was cancelled": "UPDATE sessions SET status = 'cancelled'",
    "it streams": "UPDATE sessions SET upload = 'stream'",
    "the lease was lost": "UPDATE sessions SET owed_lease = gen_random_uuid()",
    "it has no audio": "DELETE FROM chunks",
    "it expired before its end": (
        "UPDATE sessions SET status = 'recording', ended_at = NULL, expires_at = now()"
    ),
    "it has a document": (
        "INSERT INTO documents (id, tenant_id, session_id, template_id, upstream_id, version, status) "
        "SELECT 'doc_1', tenant_id, id, 'a', '', 1, 'success' FROM sessions"
    ),
}


@pytest.mark.parametrize("change", UNFIT.values(), ids=UNFIT)
async def test_a_session_is_not_made_again_if(house, change):
    session_id, lease = await keeping(house, NOTE)
    await house.connection.execute(change)
    assert await remake(house, session_id, lease) is None
    assert await house.value("SELECT vendor_session_id FROM sessions") is None
    assert await house.value("SELECT count(*) FROM chunks WHERE status = 'held'") == 0


async def test_a_session_that_nobody_ended_goes_on_recording(house):
    session_id, lease = await keeping(house, NOTE)
    await house.connection.execute("UPDATE sessions SET status = 'recording', ended_at = NULL")
    vendor_id = await remake(house, session_id, lease)
    assert await house.value("SELECT status FROM sessions") == "recording"
    claim = await house.claim_chunk(session_id, 2, b"more")
    assert (claim.vendor_id, claim.is_held) == (vendor_id, True)


@pytest.mark.parametrize(
    ("told", "missing", "may_be_remade"),
    [
        (VendorEnd(files_received=3, sequences=[0, 1, 2]), [2], False),
        (VendorEnd(files_received=2, sequences=[0, 1]), [2], False),
        (VendorEnd(files_received=2), [2], False),
        (VendorEnd(files_received=None), [2], False),
        (VendorEnd(files_received=1), [], True),
        (VendorEnd(files_received=1, sequences=[0]), [1, 2], True),
    ],
)
async def test_a_chunk_that_the_vendor_refused_is_missing(house, told, missing, may_be_remade):
    """A new session would refuse it, too: only a chunk that was lost is a reason to make it again."""
    session_id, lease = await keeping(house, NOTE, chunks=3)
    await house.connection.execute("UPDATE chunks SET status = 'refused' WHERE sequence = 2")
    recorded = await house.record_end(session_id, lease, told)
    assert (recorded.was_ours, recorded.missing, recorded.may_be_remade) == (True, missing, may_be_remade)
    assert await house.value("SELECT owed FROM sessions") == ("end" if may_be_remade else None)
    if may_be_remade:
        recorded = await house.record_end(session_id, lease, told, may_remake=False)
        assert (recorded.missing, recorded.may_be_remade) == (missing, False)
    assert await house.value("SELECT audio_missing FROM sessions") == missing


async def finish(house: House, status: str, days: int) -> SessionId:
    """A session with kept audio that ended so, two days ago."""
    session_id, lease = await keeping(house, NOTE, days=days)
    await house.record_end(session_id, lease, VendorEnd(files_received=2))
    if status == "completed":
        (job,) = await house.claim_fetches(session_id)
        await house.fetch(job, make_result("completed", make_document(NOTE), transcript="words"))
    else:
        async with house.stores.results.settling(session_id) as unit:
            assert unit is not None
            await unit.settle_session(status, error_code=None, error_message=None)
    assert await house.value("SELECT status FROM sessions WHERE id = $1", session_id) == status
    await house.connection.execute("UPDATE sessions SET settled_at = now() - interval '2 days'")
    return session_id


@pytest.mark.parametrize(
    ("status", "days", "before", "after"),
    [
        ("completed", 0, [], []),
        ("completed", TWO_DAYS, [0, 1], []),
        ("completed", TWO_DAYS + 1, [0, 1], [0, 1]),
        ("partial", 0, [0, 1], [0, 1]),
        ("failed", 0, [0, 1], [0, 1]),
        ("cancelled", 0, [0, 1], []),
    ],
)
async def test_kept_audio_goes_when_its_time_is_over(house, status: Any, days, before, after):
    await finish(house, status, days)
    assert await sequences_kept(house) == before
    await house.stores.retention.purge_audio(64)
    assert await sequences_kept(house) == after


async def test_after_a_bad_ending_audio_is_kept_for_a_week(house):
    session_id = await finish(house, "failed", 0)
    await house.connection.execute(
        "UPDATE sessions SET settled_at = now() - interval '7 days' WHERE id = $1", session_id
    )
    assert await house.stores.retention.purge_audio(1) == 1
    assert await house.stores.retention.purge_audio(1) == 1
    assert await house.stores.retention.purge_audio(1) == 0


async def test_audio_of_sessions_that_go_on_or_keep_none_is_not_touched(house):
    await keeping(house, NOTE)
    assert await house.stores.retention.purge_audio(64) == 0


@pytest.mark.parametrize(("days", "kept"), [(None, []), (0, [0]), (7, [0])])
async def test_what_is_handed_over_is_kept_if_the_session_keeps_its_audio(house, days, kept):
    session_id = await house.create(keep_audio_days=days)
    chunk, lease = house.chunk(session_id, 0, b"audio"), make_lease()
    await house.stores.audio.claim(chunk)
    assert await house.stores.held_audio.hold(chunk, Sound(b"audio"), due_seconds=0)
    (pending,) = await house.stores.sessions.claim_pending_calls(1, 60)
    held = await house.stores.held_audio.next_held(session_id, pending.lease)
    assert not await house.stores.held_audio.record_handed_over(held, lease, is_stored=True)
    assert await house.stores.held_audio.record_handed_over(held, pending.lease, is_stored=True)
    assert await sequences_kept(house) == kept


async def test_results_of_a_remade_session_are_awaited_from_its_remake_on(house):
    session_id, lease = await keeping(house, NOTE)
    await house.connection.execute("UPDATE sessions SET ended_at = now() - interval '1 day'")
    await remake(house, session_id, lease)
    await house.let_pass("fetches")
    (job,) = await house.claim_fetches(session_id)
    assert job.ended_seconds_ago < 60


async def test_nobody_hurries_the_results_of_a_session_that_the_vendor_may_not_have_yet(house):
    session_id, lease = await keeping(house, NOTE)
    await remake(house, session_id, lease)
    refresh = house.stores.result_refresh
    assert not await refresh.hurry(house.tenant_id, session_id, 0)
    assert (await refresh.refresh(house.tenant_id, session_id, "key_1", 0)).is_requested
    assert await house.claim_fetches(session_id) == []
    await house.connection.execute("UPDATE sessions SET held_since = NULL")
    assert await refresh.hurry(house.tenant_id, session_id, 0)


async def test_confirmed_audio_leaves_half_of_the_room_to_an_outage(house):
    has_room, most = house.stores.held_audio.has_room, 4_294_967_296
    assert await has_room(house.tenant_id, most // 4, is_confirmed=True)
    assert not await has_room(house.tenant_id, 1, is_confirmed=True)
    assert await has_room(house.tenant_id, 1)
