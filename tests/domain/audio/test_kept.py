"""Kept audio as one recording: whole or an error, and never read without its audit entry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from service.domain.audio.kept import KeptAudio
from service.domain.audio.models import KeptChunk
from service.domain.audit import Actor
from service.domain.errors import RecordingNotKept, StoreUnavailable
from service.domain.ids import SessionId, TenantId
from tests.support.makers import SESSION, TENANT


class MemoryKept:
    """Chunks by their sequences."""

    def __init__(self, *contents: bytes) -> None:
        self.contents = dict(enumerate(contents))
        self._chunks = [
            KeptChunk(
                sequence=sequence,
                file_name=f"audio_{sequence}.wav",
                media_type="audio/wav",
                size=len(content),
                sha256="0" * 64,
            )
            for sequence, content in self.contents.items()
        ]

    async def chunks(self, tenant_id: TenantId, session_id: SessionId) -> Sequence[KeptChunk]:
        return self._chunks

    async def read(self, session_id: SessionId, sequence: int) -> AsyncIterator[bytes]:
        for start in range(0, len(self.contents.get(sequence, b"")), 100_000):
            yield self.contents[sequence][start : start + 100_000]


class MemoryAudit:
    """The entries of an operator; away, it fails."""

    def __init__(self, *, is_away: bool = False) -> None:
        self.entries: list[tuple[str, str, str, dict[str, Any]]] = []
        self._is_away = is_away

    @asynccontextmanager
    async def changing(self, actor: Actor) -> AsyncIterator[Any]:
        if self._is_away:
            raise StoreUnavailable("PostgreSQL is away")
        self._actor = actor
        yield self

    async def record(self, action: str, object_id: str, **facts: Any) -> None:
        self.entries.append((self._actor.name, action, object_id, facts))


@pytest.mark.parametrize("contents", [(b"x" * 250_000,), (b"x" * 250_000, b"second")])
async def test_a_recording_comes_in_small_pieces_of_the_size_that_it_says(contents: tuple[bytes]) -> None:
    audit, kept = MemoryAudit(), KeptAudio(MemoryKept(*contents))
    recording = await kept.open_for_operator(TENANT, SESSION, audit)
    pieces = [piece async for piece in kept.read(recording)]
    assert sum(len(piece) for piece in pieces) == recording.size
    assert max(len(piece) for piece in pieces) <= 65_536
    assert audit.entries == [("cli", "recording.read", SESSION, {"chunks": len(contents)})]


@pytest.mark.parametrize("others", [(), (b"second",)])
async def test_bytes_that_are_gone_meanwhile_are_an_error_and_no_short_recording(
    others: tuple[bytes, ...],
) -> None:
    store = MemoryKept(b"x" * 250_000, *others)
    kept = KeptAudio(store)
    recording = await kept.open_for_operator(TENANT, SESSION, MemoryAudit())
    store.contents[0] = b"x" * 100_000
    with pytest.raises(RecordingNotKept):
        async for _ in kept.read(recording):
            pass


async def test_an_operator_reads_nothing_without_an_audit_entry() -> None:
    with pytest.raises(StoreUnavailable):
        await KeptAudio(MemoryKept(b"x")).open_for_operator(TENANT, SESSION, MemoryAudit(is_away=True))


async def test_nothing_is_kept() -> None:
    audit = MemoryAudit()
    with pytest.raises(RecordingNotKept):
        await KeptAudio(MemoryKept()).open_for_operator(TENANT, SESSION, audit)
    assert audit.entries == []
