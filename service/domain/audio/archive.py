"""Writes the chunks of a session as one ZIP archive, without compression and without seeking back.

The archive begins with `manifest.json`, which lists the chunks and holds no patient data.
"""

import io
import zipfile
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec
from msgspec import Struct

from service.domain.audio.models import KeptChunk
from service.domain.ids import SessionId

_MANIFEST = "manifest.json"
# Before and after an entry's bytes, its line of the directory, and the end of the archive, without names.
_ENTRY_BYTES, _DIRECTORY_ENTRY_BYTES, _END_BYTES = 30 + 16, 46, 22
# A larger archive, or one of more entries, has other headers.
_MAX_PLAIN_BYTES = 2**31 - 1
_MAX_PLAIN_ENTRIES = 65_535


class _ManifestChunk(Struct, frozen=True):
    sequence: int
    file_name: str
    media_type: str
    bytes: int
    sha256: str


class _Manifest(Struct, frozen=True):
    session_id: SessionId
    chunks: list[_ManifestChunk]


class _Output(io.RawIOBase):
    """Collects the bytes of the archive until they are sent; it cannot seek back."""

    def __init__(self) -> None:
        self._written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        content = bytes(data)  # type: ignore[call-overload]
        self._written += content
        return len(content)

    def drain(self) -> bytes:
        drained = bytes(self._written)
        self._written.clear()
        return drained


def archive_size(session_id: SessionId, chunks: Sequence[KeptChunk]) -> int | None:
    """Return the size of the archive; None for an archive so large that its headers differ."""
    entries = [(_MANIFEST, len(_manifest(session_id, chunks)))]
    entries += [(chunk.file_name, chunk.size) for chunk in chunks]
    around = _ENTRY_BYTES + _DIRECTORY_ENTRY_BYTES
    size = _END_BYTES + sum(around + 2 * len(name.encode()) + length for name, length in entries)
    return size if size <= _MAX_PLAIN_BYTES and len(entries) <= _MAX_PLAIN_ENTRIES else None


async def read_archive(
    session_id: SessionId,
    chunks: Sequence[KeptChunk],
    read: Callable[[KeptChunk], AsyncIterator[bytes]],
) -> AsyncIterator[bytes]:
    """Yield the archive piece by piece, with one block of `read` in memory."""
    output = _Output()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(_MANIFEST), _manifest(session_id, chunks))
        for chunk in chunks:
            is_large = chunk.size > _MAX_PLAIN_BYTES
            with archive.open(zipfile.ZipInfo(chunk.file_name), "w", force_zip64=is_large) as entry:
                async for block in read(chunk):
                    entry.write(block)
                    yield output.drain()
    yield output.drain()


def _manifest(session_id: SessionId, chunks: Sequence[KeptChunk]) -> bytes:
    return msgspec.json.encode(
        _Manifest(
            session_id=session_id,
            chunks=[
                _ManifestChunk(chunk.sequence, chunk.file_name, chunk.media_type, chunk.size, chunk.sha256)
                for chunk in chunks
            ],
        )
    )
