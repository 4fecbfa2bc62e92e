"""Held audio in PostgreSQL: its blocks, the repair after a mixed upgrade, and the purge."""

from __future__ import annotations

import os
from typing import Any

import pytest

from service.domain.ids import SessionId
from service.jobs.held_audio import KEPT_SECONDS, HeldAudioUpkeep
from service.store.audio_blocks import BLOCK_BYTES
from tests.support.makers import make_lease
from tests.support.store_house import House

BATCH = 64


async def pending_call(house: House, session_id: SessionId) -> dict[str, Any]:
    row = await house.connection.fetchrow(
        "SELECT owed, owed_next_at <= now() AS is_due, owed_lease, held_since IS NOT NULL AS is_held "
        "FROM sessions WHERE id = $1",
        session_id,
    )
    return dict(row)


async def blocks(house: House) -> dict[str, int]:
    """How many blocks each session has."""
    rows = await house.connection.fetch("SELECT session_id, count(*) FROM audio_blocks GROUP BY session_id")
    return {row["session_id"]: row["count"] for row in rows}


async def let_days_pass(house: House, days: float) -> None:
    """Turn back what the purge looks at."""
    await house.connection.execute(
        "UPDATE sessions SET created_at = created_at - $1 * interval '1 day', "
        "settled_at = settled_at - $1 * interval '1 day'",
        days,
    )
    await house.connection.execute("UPDATE audio_blocks SET kept_at = kept_at - $1 * interval '1 day'", days)


async def settle(house: House, session_id: SessionId, status: str) -> None:
    await house.connection.execute(
        "UPDATE sessions SET status = $2, settled_at = now(), held_since = NULL, owed = NULL, "
        "owed_next_at = NULL WHERE id = $1",
        session_id,
        status,
    )


async def test_the_bytes_of_a_held_chunk_come_back_whole_and_are_encrypted(house: House) -> None:
    session_id = await house.create()
    sound = os.urandom(2 * BLOCK_BYTES + 17)
    await house.hold_chunk(session_id, 0, sound)
    lease = make_lease()
    await house.connection.execute("UPDATE sessions SET owed_lease = $1", lease)
    chunk = await house.stores.held_audio.next_held(session_id, lease)
    assert chunk is not None
    audio = house.stores.held_audio.open_held(chunk)
    pieces = [piece async for piece in audio.read()]
    assert [len(piece) for piece in pieces] == [BLOCK_BYTES, BLOCK_BYTES, 17]
    assert b"".join(pieces) == sound
    rows = await house.connection.fetch("SELECT data_sealed FROM audio_blocks")
    assert not any(sound[:64] in row["data_sealed"] for row in rows)


@pytest.mark.parametrize("status", ["created", "recording", "processing"])
async def test_a_held_session_without_a_pending_call_gets_its_handover_again(
    house: House, status: str
) -> None:
    session_id = await house.create()
    await house.hold_chunk(session_id, 0)
    await house.connection.execute(
        "UPDATE sessions SET owed = NULL, owed_next_at = NULL, status = $1", status
    )
    await HeldAudioUpkeep(house.stores.held_audio).repair()
    assert await pending_call(house, session_id) == {
        "owed": "audio",
        "is_due": True,
        "owed_lease": None,
        "is_held": True,
    }
    assert await house.stores.held_audio.repair(100) == []


@pytest.mark.parametrize("call", ["create", "audio"])
async def test_a_held_session_with_a_pending_call_is_left_alone(house: House, call: str) -> None:
    lease = make_lease()
    session_id = await house.create()
    await house.hold_chunk(session_id, 0)
    await house.connection.execute("UPDATE sessions SET owed = $1, owed_lease = $2", call, lease)
    assert await house.stores.held_audio.repair(100) == []
    found = await pending_call(house, session_id)
    assert (found["owed"], found["owed_lease"]) == (call, lease)


async def test_a_session_that_has_its_ending_is_held_no_longer(house: House) -> None:
    session_id = await house.create()
    await house.hold_chunk(session_id, 0)
    await settle(house, session_id, "failed")
    await house.connection.execute("UPDATE sessions SET held_since = now()")
    assert await house.stores.held_audio.repair(100) == []
    found = await pending_call(house, session_id)
    assert (found["owed"], found["is_held"]) == (None, False)


@pytest.mark.parametrize("status", ["failed", "expired", "partial", "completed"])
async def test_audio_of_a_session_that_ended_is_deleted_after_a_week(house: House, status: str) -> None:
    ended, held = await house.create(), await house.create()
    for session_id in (ended, held):
        await house.hold_chunk(session_id, 0)
    await settle(house, ended, status)
    await let_days_pass(house, 6.9)
    assert await house.stores.held_audio.purge(KEPT_SECONDS, BATCH) == 0
    await let_days_pass(house, 0.2)
    assert await house.stores.held_audio.purge(KEPT_SECONDS, BATCH) == 1
    assert await blocks(house) == {held: 1}


async def test_audio_of_a_session_that_the_vendor_refused_goes_a_week_after_its_creation(
    house: House,
) -> None:
    session_id = await house.create()
    await house.hold_chunk(session_id, 0)
    await house.connection.execute("UPDATE sessions SET status = 'failed'")
    await let_days_pass(house, 6.9)
    assert await house.stores.held_audio.purge(KEPT_SECONDS, BATCH) == 0
    await let_days_pass(house, 0.2)
    assert await house.stores.held_audio.purge(KEPT_SECONDS, BATCH) == 1


async def test_the_purge_works_in_batches_and_goes_on_at_once_while_there_is_more(house: House) -> None:
    session_id = await house.create()
    for sequence in range(70):
        await house.hold_chunk(session_id, sequence)
    await settle(house, session_id, "failed")
    await let_days_pass(house, 8)
    upkeep = HeldAudioUpkeep(house.stores.held_audio)
    await upkeep.purge()
    assert await blocks(house) == {session_id: 6}
    await upkeep.purge()
    assert await blocks(house) == {}
    # The next look is ten minutes away.
    await house.connection.execute("UPDATE sessions SET status = 'recording', settled_at = NULL")
    await house.hold_chunk(session_id, 70)
    await settle(house, session_id, "failed")
    await let_days_pass(house, 8)
    await upkeep.purge()
    assert await blocks(house) == {session_id: 1}
