from __future__ import annotations

import struct


def wav(seconds: float, rate: int = 16_000, *, declared: int | None = None) -> bytes:
    pcm = bytes(i % 251 for i in range(int(seconds * rate) * 2))
    form = struct.pack("<HHIIHH", 1, 1, rate, rate * 2, 2, 16)
    size = len(pcm) if declared is None else declared
    chunks = b"fmt " + struct.pack("<I", 16) + form + b"LIST" + struct.pack("<I", 3) + b"abc\0"
    chunks += b"data" + struct.pack("<I", size) + pcm
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WAVE" + chunks


def _element(name: str, body: bytes, *, unknown: bool = False) -> bytes:
    size = b"\x01" + b"\xff" * 7 if unknown else (len(body) | 1 << 56).to_bytes(8, "big")
    return bytes.fromhex(name) + size + body


def webm(packets: int) -> bytes:
    """A live recording as browsers make it: sizes unknown, 20 ms Opus packets, 50 a cluster."""
    track = _element("AE", _element("D7", b"\x01") + _element("86", b"A_OPUS"))
    info = _element("1549A966", _element("2AD7B1", (1_000_000).to_bytes(3, "big")))
    clusters = b""
    for first in range(0, packets, 50):
        blocks = b"".join(
            _element("A3", b"\x81" + struct.pack(">h", 20 * i) + b"\x80" + b"\x78" + bytes([i]) * 40)
            for i in range(min(50, packets - first))
        )
        clusters += _element(
            "1F43B675", _element("E7", (first * 20).to_bytes(4, "big")) + blocks, unknown=True
        )
    segment = _element("18538067", info + _element("1654AE6B", track) + clusters, unknown=True)
    return _element("1A45DFA3", b"\x42\x82\x84webm") + segment
