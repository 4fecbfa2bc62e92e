"""Rows of live streams: one holder at a time, and when it must let go."""

from __future__ import annotations

import hashlib

import pytest

from service.domain.ids import Lease, SessionId, new_vendor_session_id
from service.domain.streams.holding import HeldPiece
from service.domain.streams.models import StreamEnd, StreamHeartbeat
from tests.support.makers import make_lease, make_result
from tests.support.store_house import House, new_tenant


def ended(frames: int = 0, size: int = 0, cause: str = "client_closed") -> StreamEnd:
    return StreamEnd(cause=cause, code=1000, frames=frames, bytes=size)


def piece_of(house: House, session_id: SessionId, lease: Lease, wav: bytes) -> HeldPiece:
    return HeldPiece(
        session_id=session_id,
        tenant_id=house.tenant_id,
        lease=lease,
        sequence=0,
        file_name="audio_0.wav",
        content_type="audio/wav",
        sha256=hashlib.sha256(wav).hexdigest(),
        wav=wav,
    )


async def test_only_the_capability_of_the_very_session_opens_it(house: House) -> None:
    rows = house.stores.streams
    mine, other = await house.create(upload="stream"), await house.create(upload="stream")
    capability = await rows.capability(mine)
    assert len(capability) >= 40
    assert capability == await rows.capability(mine)
    found = await rows.find(mine, capability)
    assert found is not None
    assert (found.id, found.upload, found.status) == (mine, "stream", "created")
    assert found.vendor_url == "https://api.eka.care/upload/u-1"
    assert await rows.find(other, capability) is None
    assert await rows.find(mine, capability + "=") is None


async def test_one_holds_a_stream_until_it_is_released_or_its_lease_is_over(house: House) -> None:
    rows, session_id = house.stores.streams, await house.create(upload="stream")
    first, second, third = make_lease(), make_lease(), make_lease()
    assert await rows.claim(session_id, first, 60)
    assert not await rows.claim(session_id, second, 60)
    assert await rows.is_open(session_id)
    await rows.release(session_id, first, ended())
    assert not await rows.is_open(session_id)
    assert await rows.claim(session_id, second, 60)
    await house.connection.execute("UPDATE streams SET lease_until = now() - interval '1 second'")
    assert not await rows.is_open(session_id)
    assert await rows.claim(session_id, third, 60)
    await rows.release(session_id, second, ended())
    assert await rows.is_open(session_id), "whoever lost the lease must not free it for its successor"


async def test_no_stream_of_a_session_that_takes_no_audio(house: House) -> None:
    rows = house.stores.streams
    chunked, owed = await house.create(), await house.insert(upload="stream")
    over, past = await house.create(upload="stream"), await house.create(upload="stream")
    await house.begin_end(over)
    await house.connection.execute("UPDATE sessions SET expires_at = now() WHERE id = $1", past)
    for session_id in (chunked, owed, over, past):
        assert not await rows.claim(session_id, make_lease(), 60)


async def test_a_holder_is_asked_to_yield_only_when_its_client_is_silent(house: House) -> None:
    rows, session_id, lease = house.stores.streams, await house.create(upload="stream"), make_lease()
    await rows.claim(session_id, lease, 60)
    assert not await rows.ask_to_yield(session_id, 5)
    await house.connection.execute("UPDATE streams SET heard_at = now() - interval '6 seconds'")
    beat = StreamHeartbeat(session_id=session_id, lease=lease, was_active=False, frames=1, bytes=2)
    await rows.renew_leases([beat], 60)
    assert await rows.ask_to_yield(session_id, 5)
    (look,) = await rows.read_states([session_id])
    assert (look.is_yielding, look.lease) == (True, lease)


async def test_hearing_the_client_keeps_the_stream(house: House) -> None:
    rows, session_id, lease = house.stores.streams, await house.create(upload="stream"), make_lease()
    await rows.claim(session_id, lease, 60)
    await house.connection.execute("UPDATE streams SET heard_at = now() - interval '6 seconds'")
    beat = StreamHeartbeat(session_id=session_id, lease=lease, was_active=True, frames=1, bytes=2)
    await rows.renew_leases([beat], 60)
    assert not await rows.ask_to_yield(session_id, 5)
    await rows.announce_end(session_id, lease)
    assert await rows.ask_to_yield(session_id, 5), "one that is about to end is waited for, not fought"


async def test_beats_renew_the_lease_and_tell_that_there_is_audio(house: House) -> None:
    rows, lease = house.stores.streams, make_lease()
    session_id, quiet = await house.create(upload="stream"), await house.create(upload="stream")
    await rows.claim(session_id, lease, 1)
    await rows.claim(quiet, make_lease(), 1)
    await house.connection.execute("UPDATE streams SET lease_until = now() + interval '1 second'")
    beats = [StreamHeartbeat(session_id=session_id, lease=lease, was_active=True, frames=3, bytes=9)]
    await rows.renew_leases([*beats, beats[0]], 60)
    assert await house.value("SELECT status FROM sessions WHERE id = $1", session_id) == "recording"
    assert await house.value("SELECT status FROM sessions WHERE id = $1", quiet) == "created"
    left = "SELECT lease_until > now() + interval '30 seconds' FROM streams WHERE session_id = $1"
    assert await house.value(left, session_id)
    assert await house.value("SELECT frames FROM stream_connections WHERE lease = $1", lease) == 3


async def test_a_beat_of_a_lost_lease_renews_nothing(house: House) -> None:
    rows, session_id, lost = house.stores.streams, await house.create(upload="stream"), make_lease()
    await rows.claim(session_id, make_lease(), 1)
    beat = StreamHeartbeat(session_id=session_id, lease=lost, was_active=True, frames=3, bytes=9)
    await rows.renew_leases([beat], 600)
    assert await house.value("SELECT lease_until < now() + interval '60 seconds' FROM streams")


async def has_audio(house: House, session_id: str) -> bool | None:
    async with house.stores.sessions.ending(house.tenant_id, session_id) as unit:  # type: ignore[arg-type]
        assert unit is not None
        return unit.state.has_stream_audio


async def test_whether_there_was_audio(house: House) -> None:
    rows, session_id = house.stores.streams, await house.create(upload="stream")
    assert await has_audio(house, session_id) is False
    lease = make_lease()
    await rows.claim(session_id, lease, 60)
    assert await has_audio(house, session_id) is None, "an open connection may bring some"
    await house.connection.execute("UPDATE streams SET lease_until = now()")
    assert await has_audio(house, session_id) is True, "one that was cut may have brought some"
    await rows.release(session_id, lease, ended())
    assert await has_audio(house, session_id) is False
    lease = make_lease()
    await rows.claim(session_id, lease, 60)
    await rows.release(session_id, lease, ended(frames=1, size=3200))
    assert await has_audio(house, session_id)
    assert await house.value("SELECT status FROM sessions WHERE id = $1", session_id) == "recording"


async def test_the_timeline_tells_of_each_connection(house: House) -> None:
    rows, session_id, lease = house.stores.streams, await house.create(upload="stream"), make_lease()
    await rows.claim(session_id, lease, 60)
    await rows.release(session_id, lease, ended(frames=2, size=6400, cause="vendor_lost"))
    types = await house.connection.fetch(
        "SELECT cause, code, frames, bytes FROM stream_connections WHERE session_id = $1", session_id
    )
    assert [tuple(row) for row in types] == [("vendor_lost", 1000, 2, 6400)]


async def test_another_tenants_stream_is_another_capability(house: House) -> None:
    other = await new_tenant(house.stores, "other")
    mine = await house.create(upload="stream")
    theirs = await house.create(upload="stream", tenant_id=other)
    assert await house.stores.streams.capability(mine) != await house.stores.streams.capability(theirs)


@pytest.mark.parametrize("days", [None, 0, 30])
async def test_a_held_piece_that_grows_replaces_its_earlier_state(house: House, days: int | None) -> None:
    session_id, lease = await house.create(upload="stream", keep_audio_days=days), make_lease()
    assert await house.stores.streams.claim(session_id, lease, 60)
    for wav in (b"one", b"one and two"):
        assert await house.stores.stream_audio.hold_piece(piece_of(house, session_id, lease, wav))
        assert await house.stores.stream_audio.read_piece(session_id, 0) == wav


async def test_an_answer_about_the_first_session_says_nothing_of_the_second(house: House) -> None:
    session_id, lease = await house.create(upload="stream", templates=[]), make_lease()
    assert await house.stores.streams.claim(session_id, lease, 60)
    assert await house.stores.stream_audio.hold_piece(piece_of(house, session_id, lease, b"wav"))
    end_lease = await house.begin_end(session_id)
    (job,) = await house.claim_fetches()
    vendor_id = new_vendor_session_id()
    rows = house.stores.sessions
    assert await rows.begin_stream_handover(session_id, end_lease, vendor_id, result_seconds=3600)
    await house.fetch(job, make_result(state="failed"))
    assert await house.value("SELECT status FROM sessions") == "processing"
    assert await house.value("SELECT owed FROM sessions") == "create"
    assert await house.claim_fetches() == []
