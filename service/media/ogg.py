"""Writes Opus packets as an Ogg file (RFC 3533, RFC 7845).

FFmpeg's own writer cannot begin with packets that players skip, so that a cut would be heard.
"""

import struct
import zlib
from collections.abc import Sequence

from service.media.messages import Kind
from service.media.opus_packets import RATE
from service.media.units import Unit

# RFC 7845 recommends 80 ms before a place where decoding starts, which leaves an error 20 dB below the voice.
# After 400 ms the error is below the resolution of 16 bits (docs/libraries.md#opus-preroll).
_PREROLL_SAMPLES = RATE * 400 // 1000
_PAGE_HEADER = struct.Struct("<4sBBqIII")
_MAX_SEGMENTS = 255
_PAGE_SAMPLES = RATE
_FIRST_PAGE, _LAST_PAGE = 2, 4
_PRE_SKIP_AT = 10
_VENDOR = b"ekabridge"
_TAGS = b"OpusTags" + struct.pack("<I", len(_VENDOR)) + _VENDOR + struct.pack("<I", 0)
_SERIAL = 1
_PAGE_BYTES = _PAGE_HEADER.size + 4
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_ONES = 0xFFFFFFFF


class OggWriter:
    """Writes chunks of one Opus track, whose OpusHead each chunk repeats."""

    kind = Kind.OGG
    rate = RATE
    preroll_samples = _PREROLL_SAMPLES

    def __init__(self, head: bytes) -> None:
        self._head = head
        self.fixed_bytes = 3 * _PAGE_BYTES + len(head) + len(_TAGS)

    def unit_bytes(self, unit: Unit) -> int:
        """Return the bytes of the packet and its lacing values, and of pages that hold this packet alone."""
        lacing = len(unit.data) // 255 + 1
        return len(unit.data) + lacing + _PAGE_BYTES * (1 + lacing // _MAX_SEGMENTS)

    def write(self, units: Sequence[Unit], *, skip: int, trim: int) -> bytes:
        """Return the Ogg file; the pre-skip field makes players skip, the last granule position trims."""
        head = self._head[:_PRE_SKIP_AT] + struct.pack("<H", skip) + self._head[_PRE_SKIP_AT + 2 :]
        pages = _Pages()
        pages.add(head, 0)
        pages.flush()
        pages.add(_TAGS, 0)
        pages.flush()
        position = 0
        for unit in units:
            position += unit.samples
            pages.add(unit.data, unit.samples)
        pages.flush(last_position=position - trim)
        return bytes(pages.file)


class _Pages:
    """Collects packets into pages: one page for each second, or for 255 segments."""

    def __init__(self) -> None:
        self.file = bytearray()
        self._number = 0
        self._position = 0
        self._page_samples = 0
        self._is_continued = False
        self._lacing = bytearray()
        self._body: list[bytes] = []

    def add(self, packet: bytes, samples: int) -> None:
        """Append a packet; one that does not fit continues on the next page."""
        lacing = b"\xff" * (len(packet) // 255) + bytes([len(packet) % 255])
        if self._page_samples >= _PAGE_SAMPLES or len(self._lacing) + len(lacing) > _MAX_SEGMENTS:
            self.flush()
        while len(lacing) > _MAX_SEGMENTS:
            self._lacing += lacing[:_MAX_SEGMENTS]
            self._body.append(packet[: 255 * _MAX_SEGMENTS])
            self._write_page(-1, 0)
            self._is_continued = True
            lacing, packet = lacing[_MAX_SEGMENTS:], packet[255 * _MAX_SEGMENTS :]
        self._lacing += lacing
        self._body.append(packet)
        self._position += samples
        self._page_samples += samples

    def flush(self, *, last_position: int | None = None) -> None:
        """Write the packets as a page, which is the last one if it gets the file's last position."""
        if last_position is not None:
            self._write_page(last_position, _LAST_PAGE)
        elif self._lacing:
            self._write_page(self._position, 0)

    def _write_page(self, position: int, flags: int) -> None:
        flags |= _FIRST_PAGE if self._number == 0 else 0
        flags |= int(self._is_continued)
        header = _PAGE_HEADER.pack(b"OggS", 0, flags, position, _SERIAL, self._number, 0)
        page = bytearray(header + bytes([len(self._lacing)]) + self._lacing + b"".join(self._body))
        struct.pack_into("<I", page, _PAGE_HEADER.size - 4, _checksum(page))
        self.file += page
        self._number += 1
        self._page_samples = 0
        self._is_continued = False
        self._lacing, self._body = bytearray(), []


def _checksum(page: bytearray) -> int:
    """Return Ogg's CRC-32, which is zlib's with the bits of each byte in the other order and no inversion."""
    reflected = zlib.crc32(page.translate(_REVERSED), _ONES) ^ _ONES
    return int.from_bytes(reflected.to_bytes(4, "little").translate(_REVERSED))
