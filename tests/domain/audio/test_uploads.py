"""A chunk is recorded for the vendor's session that got it, and kept if the session keeps its audio."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.domain.audio.models import Audio, AudioFormat, ChunkClaim, ChunkPlan
from service.domain.audio.uploads import AudioUploads
from service.domain.errors import SessionEnded
from service.domain.ids import DEFAULT_ACCOUNT, VendorSessionId
from tests.support.fakes import MemorySessions, ScriptedVendor
from tests.support.makers import AT_VENDOR, SESSION, make_lease, make_principal

AGAIN = VendorSessionId("ses_again")
WAV = AudioFormat(media_type="audio/wav", extension="wav")


class Sound:
    """The domain's Audio of five bytes."""

    size = 5
    sha256 = hashlib.sha256(b"audio").hexdigest()

    async def read(self) -> AsyncIterator[bytes]:
        yield b"audio"


def claimed(**fields: Any) -> ChunkClaim:
    values: dict[str, Any] = {
        "vendor_id": AT_VENDOR,
        "account": DEFAULT_ACCOUNT,
        "session_status": "recording",
        "upload": "chunked",
        "is_created": True,
        "is_held": False,
        "keeps_audio": False,
        "is_past": False,
        "is_erased": False,
        "lease": make_lease(),
        "stored_sha256": None,
        "stored_bytes": None,
        "stored_file_name": None,
        "state": None,
    }
    return ChunkClaim(**(values | fields))


class Chunks:
    """The domain's AudioStore and AudioHold: the vendor's session may be another one at each claim."""

    def __init__(self, *claims: ChunkClaim, has_room: bool = True) -> None:
        self.claims = list(claims)
        self.has_space = has_room
        self.now_at_vendor = claims[-1].vendor_id
        self.is_open = claims[-1].session_status == "recording"
        self.done: list[str] = []

    async def claim(self, chunk: ChunkPlan) -> ChunkClaim | None:
        return self.claims.pop(0)

    async def record(self, chunk: ChunkPlan, vendor_id: VendorSessionId) -> bool:
        return self._record("recorded", vendor_id)

    async def record_kept(self, chunk: ChunkPlan, vendor_id: VendorSessionId, audio: Audio) -> bool:
        return self._record("kept", vendor_id)

    def _record(self, word: str, vendor_id: VendorSessionId) -> bool:
        is_same = vendor_id == self.now_at_vendor and self.is_open
        self.done.append(word if is_same else f"not {word}")
        return is_same

    async def hold(self, chunk: ChunkPlan, audio: Audio, *, due_seconds: float) -> bool:
        self.done.append("held")
        return True

    async def has_room(self, tenant_id: str, size: int, *, is_confirmed: bool = False) -> bool:
        return self.has_space

    async def release(self, *_: Any) -> None:
        raise AssertionError("nothing is refused")

    async def expire_lease(self, *_: Any) -> None:
        raise AssertionError("nothing fails")


class Taking(ScriptedVendor):
    """A vendor that takes every chunk."""

    async def upload_audio(self, account: Any, session_id: VendorSessionId, *_: Any, **__: Any) -> None:
        self.calls.append(session_id)


async def upload(chunks: Chunks) -> tuple[str, list[str]]:
    """Upload a chunk; return its state and the vendor's sessions that got it."""
    vendor = Taking()
    uploads = AudioUploads(store=chunks, held_audio=chunks, sessions=MemorySessions(), vendor=vendor)
    stored = await uploads.accept_chunk(make_principal(), SESSION, 0, WAV, Sound())
    return stored.state, vendor.calls


@pytest.mark.parametrize(
    ("keeps_audio", "has_room", "done"),
    [(False, True, "recorded"), (True, True, "kept"), (True, False, "recorded")],
)
async def test_confirmed_audio_is_kept_if_the_session_keeps_it_and_there_is_room(
    keeps_audio: bool, has_room: bool, done: str
) -> None:
    chunks = Chunks(claimed(keeps_audio=keeps_audio), has_room=has_room)
    assert await upload(chunks) == ("stored", [AT_VENDOR])
    assert chunks.done == [done]


@pytest.mark.parametrize("keeps_audio", [True, False])
async def test_a_chunk_for_a_session_that_was_made_again_meanwhile_is_held_for_the_new_one(
    keeps_audio: bool,
) -> None:
    chunks = Chunks(claimed(keeps_audio=keeps_audio), claimed(vendor_id=AGAIN, is_held=True))
    assert await upload(chunks) == ("held", [AT_VENDOR])
    assert chunks.done[-1] == "held"


async def test_a_chunk_for_a_session_that_was_ended_meanwhile_is_refused() -> None:
    chunks = Chunks(claimed(), *[claimed(session_status="processing", lease=None)] * 3)
    with pytest.raises(SessionEnded):
        await upload(chunks)
    assert chunks.done == ["not recorded"]
