"""An archive of chunks: its size is known before, and it is written block by block."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import AsyncIterator

import pytest

from service.domain.audio.archive import archive_size, read_archive
from service.domain.audio.models import KeptChunk
from tests.support.makers import SESSION


def kept(sequence: int, content: bytes, name: str = "") -> KeptChunk:
    return KeptChunk(
        sequence=sequence,
        file_name=name or f"audio_{sequence}.wav",
        media_type="audio/wav",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


async def archive_of(contents: list[bytes], names: list[str]) -> tuple[list[KeptChunk], list[bytes]]:
    chunks = [kept(place, each, name) for place, (each, name) in enumerate(zip(contents, names, strict=True))]

    async def read(chunk: KeptChunk) -> AsyncIterator[bytes]:
        content = contents[chunk.sequence]
        for start in range(0, len(content), 1000):
            yield content[start : start + 1000]

    return chunks, [piece async for piece in read_archive(SESSION, chunks, read)]


@pytest.mark.parametrize("names", [["audio_0.wav", "audio_1.wav"], ["ä.m4a", "a.webm"]])
async def test_an_archive_holds_every_chunk_and_says_its_size_before(names: list[str]) -> None:
    contents = [os.urandom(4321), os.urandom(1)]
    chunks, pieces = await archive_of(contents, names)
    whole = b"".join(pieces)
    assert len(whole) == archive_size(SESSION, chunks)
    with zipfile.ZipFile(io.BytesIO(whole)) as opened:
        assert opened.testzip() is None
        assert opened.namelist() == ["manifest.json", *names]
        assert [opened.read(name) for name in names] == contents
        assert {entry.compress_type for entry in opened.infolist()} == {zipfile.ZIP_STORED}
        manifest = json.loads(opened.read("manifest.json"))
    assert manifest == {
        "session_id": SESSION,
        "chunks": [
            {
                "sequence": place,
                "file_name": name,
                "media_type": "audio/wav",
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
            }
            for place, (name, content) in enumerate(zip(names, contents, strict=True))
        ],
    }


async def test_an_archive_is_written_block_by_block() -> None:
    _, pieces = await archive_of([os.urandom(50_000)], ["audio_0.wav"])
    assert len(pieces) == 51
    assert max(len(piece) for piece in pieces) < 2000


def test_the_size_of_an_archive_with_large_headers_is_not_guessed() -> None:
    chunk = KeptChunk(sequence=0, file_name="a.wav", media_type="audio/wav", size=2**31, sha256="0" * 64)
    assert archive_size(SESSION, [chunk]) is None
    assert archive_size(SESSION, [kept(0, b"x")] * 65_535) is None
