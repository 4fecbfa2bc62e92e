"""Whatever bytes come, the answer is a sentence about the file, soon, and nothing outside of it is opened."""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from service.domain.errors import RecordingUnreadable
from service.media.child_process import ProcessLimits
from service.media.ogg import OggWriter
from service.media.reader import FFmpegReader
from tests.media.conftest import Encrypt
from tests.support.media_files import encode, limits, video_only, voice

UNKNOWN = "in no format of audio or video"
DAMAGED = "damaged or ends too early"
TRUNCATED = "ends before the end"
NO_TRACK = "no audio track"
NO_SAMPLES = "no samples"
UNDECODABLE = "cannot be decoded"
MEMORY = "too much memory"
TIME = "too much time"


async def refusal(recording: object) -> str:
    with pytest.raises(RecordingUnreadable) as caught:
        await FFmpegReader().inspect(recording)  # type: ignore[arg-type]
    return caught.value.detail


def riff(form: bytes, data: bytes, *, announced: int | None = None) -> bytes:
    size = len(data) if announced is None else announced
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def pcm_form(rate: int = 16_000, channels: int = 1) -> bytes:
    return struct.pack("<HHIIHH", 1, channels, rate, rate * 2 & 0xFFFFFFFF, channels * 2 & 0xFFFF, 16)


def replaced(content: bytes, name: bytes, at: int, value: bytes) -> bytes:
    """Overwrites bytes of an MP4 box, counted from the end of its name."""
    start = content.index(name) + len(name) + at
    return content[:start] + value + content[start + len(value) :]


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("recording.wav", bytes(50_000_000))
    return file.getvalue()


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


def compressed_tables(size: int) -> bytes:
    data = box(b"cmvd", struct.pack(">I", size) + zlib.compress(bytes(10_000)))
    return box(b"ftyp", b"isom\0\0\0\0") + box(b"moov", box(b"cmov", box(b"dcom", b"zlib") + data))


def nested(depth: int) -> bytes:
    content = box(b"trak", b"")
    for _ in range(depth):
        content = box(b"moov", content)
    return box(b"ftyp", b"isom\0\0\0\0") + content


SOUND = voice(16_000, 1.5)
MP4 = encode("ipod", "aac", SOUND, rate=16_000)
FLAC = encode("flac", "flac", SOUND, rate=16_000)
OPUS_HEAD = b"OpusHead" + bytes([1, 1, 56, 1]) + struct.pack("<I", 48_000) + bytes(3)
SDP = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n"

FILES = {
    "nothing": (b"", UNKNOWN),
    "one byte": (b"\0", UNKNOWN),
    "zeros": (bytes(100_000), UNKNOWN),
    "text": (b"Dear colleague, the patient says " * 500, UNKNOWN),
    "json": (b'{"audio": [1, 2, 3]}' * 100, UNKNOWN),
    "pdf": (b"%PDF-1.7\n1 0 obj <</Type /Catalog>> endobj\n" * 50, UNKNOWN),
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10\0\0\0\x10\x08\6\0\0\0" + bytes(3000), UNKNOWN),
    "zip bomb": (zipped(), UNKNOWN),
    "sdp": (SDP, UNKNOWN),
    "video": (video_only(), NO_TRACK),
    "wav without samples": (riff(pcm_form(), b""), NO_SAMPLES),
    "ogg without samples": (OggWriter(OPUS_HEAD).write([], skip=0, trim=0), DAMAGED),
    "mp4 without samples": (replaced(MP4, b"stsz", 8, struct.pack(">I", 0)), NO_SAMPLES),
    "wav of a giant length": (riff(pcm_form(), bytes(4000), announced=0x7000_0000), TRUNCATED),
    "wav of a giant rate": (riff(pcm_form(rate=0xFFFFFFFF), bytes(4000)), DAMAGED),
    "wav of a giant rate that fits": (riff(pcm_form(rate=0x7FFFFFFF), bytes(4000)), UNDECODABLE),
    "wav of a tiny rate": (riff(pcm_form(rate=1), bytes(4000)), UNDECODABLE),
    "wav of 65535 channels": (riff(pcm_form(channels=65_535), bytes(400_000)), NO_SAMPLES),
    "wav without channels": (riff(pcm_form(channels=0), bytes(4000)), NO_SAMPLES),
    "flac of a giant length": (FLAC[:21] + b"\x0f\xff\xff\xff\xff" + FLAC[26:], TRUNCATED),
    "mp4 of a giant sample": (replaced(MP4, b"stsz", 12, b"\x7f\xff\xff\xff"), NO_SAMPLES),
    "mp4 of a giant table": (replaced(MP4, b"stsz", 4, struct.pack(">II", 1, 0x0FFF_FFFF)), NO_SAMPLES),
    "mp4 of giant durations": (
        replaced(MP4, b"stts", 8, struct.pack(">II", 0x7FFFFFFF, 0x7FFFFFFF)),
        UNDECODABLE,
    ),
    "mp4 with compressed tables of 2 GB": (compressed_tables(0x7FFF_FF00), MEMORY),
    "nested mp4": (nested(20_000), DAMAGED),
    "matroska of one giant element": (
        b"\x1a\x45\xdf\xa3\x01\xff\xff\xff\xff\xff\xff\xfe" + bytes(500),
        DAMAGED,
    ),
    "ogg of noise": (b"OggS" + random.Random(1).randbytes(50_000), DAMAGED),
    "random": (random.Random(2).randbytes(300_000), UNKNOWN),
}


@pytest.mark.parametrize("name", FILES)
async def test_the_answer_says_what_is_wrong(name: str, encrypted: Encrypt) -> None:
    content, wanted = FILES[name]
    assert wanted in await refusal(encrypted(content))


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("wav", "pcm_s16le"),
        ("ipod", "aac"),
        ("flac", "flac"),
        ("ogg", "libopus"),
        ("webm", "libopus"),
        ("matroska", "libopus"),
        ("aiff", "pcm_s16be"),
        ("au", "pcm_s16be"),
        ("caf", "pcm_s16le"),
        ("mp3", "mp3"),
        ("asf", "wmav2"),
    ],
)
async def test_half_a_file_is_no_recording(container: str, codec: str, encrypted: Encrypt) -> None:
    content = encode(
        container,
        codec,
        voice(seconds=4.0),
        options={"b": "64k"} if codec == "wmav2" else None,
        with_video=container == "matroska",
    )
    found = await refusal(encrypted(content[: len(content) // 2 + 7]))
    assert TRUNCATED in found or DAMAGED in found


async def test_an_mp4_whose_audio_is_cut_off_is_truncated(encrypted: Encrypt) -> None:
    """The tables lie at the front, as they do for the web; only the audio is incomplete."""
    content = encode("ipod", "aac", voice(seconds=4.0), container_options={"movflags": "empty_moov"})
    assert TRUNCATED in await refusal(encrypted(content[: len(content) * 2 // 3]))


async def test_recorders_that_write_to_a_stream_leave_lengths_out(encrypted: Encrypt) -> None:
    for length in (0, 0xFFFFFFFF):
        content = riff(pcm_form(), bytes(32_000), announced=length)
        facts = await FFmpegReader().inspect(encrypted(content))
        assert facts.seconds == 1.0


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\n{url}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{path}'\n",
        "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'><BaseURL>{url}</BaseURL></MPD>",
    ],
)
async def test_a_playlist_opens_nothing(playlist: str, encrypted: Encrypt, tmp_path: Path) -> None:
    other = tmp_path / "other.wav"
    other.write_bytes(encode("wav", "pcm_s16le", SOUND, rate=16_000))
    content = playlist.format(path=other, url=other.as_uri()).encode()
    assert UNKNOWN in await refusal(encrypted(content))


async def test_a_recording_without_end_costs_limited_time(encrypted: Encrypt) -> None:
    bomb = riff(struct.pack("<HHIIHH", 7, 1, 8000, 8000, 1, 8), bytes(30 << 20))
    reader = FFmpegReader(cut_limits=ProcessLimits(memory_bytes=512 << 20, cpu_seconds=1, wait_seconds=60))
    with pytest.raises(RecordingUnreadable, match=TIME):
        async for _ in reader.cut(encrypted(bomb), limits(3600.0, 1 << 30, limits(1).formats[2:3])):
            pass


async def test_damaged_recordings_of_all_kinds_get_an_answer(encrypted: Encrypt) -> None:
    """Bytes are changed anywhere; a decoder may play some of them, and must not fail in another way."""
    chance = random.Random(3)
    reader = FFmpegReader(max_processes=2, patience_seconds=60)
    contents = [
        MP4,
        FLAC,
        encode("webm", "libopus", SOUND, rate=16_000),
        encode("mp3", "mp3", SOUND, rate=16_000),
    ]

    async def read(content: bytes) -> None:
        recording = encrypted(content)
        with contextlib.suppress(RecordingUnreadable):
            await reader.inspect(recording)
            async for chunk in reader.cut(recording, limits(1.0)):
                assert len(chunk.data) < 1 << 20

    damaged = []
    for content in contents * 3:
        changed = bytearray(content)
        for _ in range(chance.choice((1, 10, 200))):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        damaged.append(bytes(changed))
    await asyncio.gather(*map(read, damaged))
