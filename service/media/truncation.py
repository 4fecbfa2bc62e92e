"""Recognises files that end before the end that their own headers announce.

FFmpeg reads such files without an error (docs/libraries.md#ffmpeg-truncated). Half a dictation that looks
like a whole one is a danger, so these files are refused. Recorders that write to a stream leave lengths out;
their files are accepted.
"""

import io
import struct
from collections.abc import Callable
from typing import IO

_OGG_PAGE = struct.Struct("<4s22xB")
_OGG_TAIL_BYTES = 128 * 1024
_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067
_EBML_HEAD_BYTES = 4096
_EBML_ID_BYTES = 4
_ASF_OBJECT = struct.Struct("<16sQ")
_ASF_HEADER, _ASF_DATA = bytes.fromhex("3026b2758e66cf11"), bytes.fromhex("3626b2758e66cf11")
_RIFF_CHUNK, _CAF_CHUNK = struct.Struct("<4sI"), struct.Struct(">4sq")
_RIFF_START, _CAF_START = 12, 8
_MAX_CHUNKS = 64
# A WAV header that was written before the end was known has one of these lengths, or about the largest.
_UNKNOWN_LENGTHS = {0, 0x7FFFF000}
_ALMOST_4_GIB = 0xFFFF_0000
# Writers of WAV files count a chunk's padding wrongly, or a tag behind the audio.
_TOLERATED_BYTES = 4096


def ends_too_early(file: IO[bytes], container: str) -> bool:
    """Return whether the file is shorter than the lengths in its structure."""
    size = file.seek(0, io.SEEK_END)
    check = _CHECKS.get(container)
    end = check(file, size) if check else None
    return end is not None and end > size


def _wav_end(file: IO[bytes], size: int) -> int | None:
    file.seek(0)
    found = _data_chunk(file, size, _RIFF_CHUNK, _RIFF_START) if file.read(4) == b"RIFF" else None
    if found is None or found[1] in _UNKNOWN_LENGTHS or found[1] >= _ALMOST_4_GIB:
        return None
    return sum(found) - _TOLERATED_BYTES


def _caf_end(file: IO[bytes], size: int) -> int | None:
    found = _data_chunk(file, size, _CAF_CHUNK, _CAF_START)
    return None if found is None or found[1] < 0 else sum(found)


def _data_chunk(file: IO[bytes], size: int, header: struct.Struct, at: int) -> tuple[int, int] | None:
    """Return where the content of the chunk `data` starts, and the length that its header announces."""
    for _ in range(_MAX_CHUNKS):
        file.seek(at)
        text = file.read(header.size)
        if len(text) < header.size or at >= size:
            return None
        name, length = header.unpack(text)
        if name == b"data":
            return at + header.size, length
        if length < 0:
            return None
        at += header.size + length + (length % 2 if header is _RIFF_CHUNK else 0)
    return None


def _ogg_end(file: IO[bytes], size: int) -> int | None:
    """Return where the last page ends; one byte too far if not even its header is complete."""
    start = max(0, size - _OGG_TAIL_BYTES)
    file.seek(start)
    tail = file.read(_OGG_TAIL_BYTES)
    at = tail.rfind(b"OggS")
    if at < 0:
        return None
    if at + _OGG_PAGE.size > len(tail):
        return size + 1
    segments: int = _OGG_PAGE.unpack_from(tail, at)[1]
    lacing = tail[at + _OGG_PAGE.size : at + _OGG_PAGE.size + segments]
    return start + at + _OGG_PAGE.size + segments + sum(lacing)


def _matroska_end(file: IO[bytes], _: int) -> int | None:
    """Return where the segment ends, the second element of the file; None if it has no length."""
    file.seek(0)
    head = file.read(_EBML_HEAD_BYTES)
    at = 0
    for wanted in (_EBML, _SEGMENT):
        first = at + _EBML_ID_BYTES
        if head[at:first] != wanted.to_bytes(_EBML_ID_BYTES) or not head[first : first + 1].strip(b"\0"):
            return None
        # The number of leading zero bits says how many bytes a length has; all ones mean that there is none.
        width = 9 - head[first].bit_length()
        unknown = (1 << 7 * width) - 1
        length = int.from_bytes(head[first : first + width]) & unknown
        at = first + width
        if wanted == _EBML:
            at += length
        elif length != unknown:
            return at + length
    return None


def _asf_end(file: IO[bytes], _: int) -> int | None:
    """Return where the data object ends, which follows the header object; None if it has no length."""
    at = 0
    for wanted in (_ASF_HEADER, _ASF_DATA):
        file.seek(at)
        text = file.read(_ASF_OBJECT.size)
        if len(text) < _ASF_OBJECT.size or not text.startswith(wanted):
            return None
        length: int = _ASF_OBJECT.unpack(text)[1]
        if not length:
            return None
        at += length
    return at


_CHECKS: dict[str, Callable[[IO[bytes], int], int | None]] = {
    "wav": _wav_end,
    "caf": _caf_end,
    "ogg": _ogg_end,
    "asf": _asf_end,
    "matroska": _matroska_end,
}
