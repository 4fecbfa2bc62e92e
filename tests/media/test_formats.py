"""Each common format is recognised by its content, measured, and cut without losing a sample."""

from __future__ import annotations

import math
from typing import Any

import pytest

from service.domain.recordings.models import CutChunk, RecordingFile
from service.media.reader import FFmpegReader
from tests.media.conftest import Encrypt
from tests.support.media_files import FORMATS, M4A, OGG, WAV, decibels, decoded, encode, limits, voice

NO_NOISE = {"aac_pns": "0"}  # noise that a decoder makes up is another one each time

# container, codec, rate, options → names of the facts, whether packets are copied
COPIED: list[tuple[str, str, dict[str, Any], str, str]] = [
    ("ogg", "libopus", {}, "ogg", "opus"),
    ("ogg", "libopus", {"options": {"b": "16k", "application": "voip"}}, "ogg", "opus"),
    ("ogg", "libopus", {"options": {"frame_duration": "60"}, "channels": 2}, "ogg", "opus"),
    ("opus", "libopus", {"rate": 16_000}, "ogg", "opus"),
    ("webm", "libopus", {}, "matroska", "opus"),
    ("matroska", "libopus", {"with_video": True}, "matroska", "opus"),
    ("ipod", "aac", {"options": NO_NOISE}, "mp4", "aac"),
    ("mp4", "aac", {"options": NO_NOISE, "rate": 44_100, "channels": 2, "with_video": True}, "mp4", "aac"),
    ("mov", "aac", {"options": NO_NOISE, "with_video": True}, "mp4", "aac"),
    ("mp4", "aac", {"options": NO_NOISE, "container_options": {"movflags": "empty_moov"}}, "mp4", "aac"),
    ("adts", "aac", {"options": NO_NOISE, "rate": 22_050}, "aac", "aac"),
    ("matroska", "aac", {"options": NO_NOISE}, "matroska", "aac"),
    ("wav", "pcm_s16le", {"channels": 2}, "wav", "pcm_s16le"),
    ("wav", "pcm_s24le", {"rate": 44_100}, "wav", "pcm_s24le"),
    ("wav", "pcm_f32le", {}, "wav", "pcm_f32le"),
    ("wav", "pcm_u8", {"rate": 11_025}, "wav", "pcm_u8"),
    ("wav", "pcm_mulaw", {"rate": 8000}, "wav", "pcm_mulaw"),
    ("wav", "pcm_alaw", {"rate": 8000}, "wav", "pcm_alaw"),
    ("caf", "pcm_s16le", {}, "caf", "pcm_s16le"),
]
ENCODED: list[tuple[str, str, dict[str, Any], str, str]] = [
    ("mp3", "mp3", {}, "mp3", "mp3"),
    ("mp3", "mp3", {"container_options": {"write_xing": "0"}, "rate": 44_100}, "mp3", "mp3"),
    ("flac", "flac", {}, "flac", "flac"),
    ("ogg", "flac", {}, "ogg", "flac"),
    ("aiff", "pcm_s16be", {"rate": 44_100, "channels": 2}, "aiff", "pcm_s16be"),
    ("au", "pcm_s16be", {}, "au", "pcm_s16be"),
    ("caf", "alac", {}, "caf", "alac"),
    ("mov", "alac", {}, "mp4", "alac"),
    ("asf", "wmav2", {"options": {"b": "64k"}}, "asf", "wmav2"),
    ("amr", "libopencore_amrnb", {"rate": 8000}, "amr", "amr_nb"),
    ("3gp", "libopencore_amrnb", {"rate": 8000}, "mp4", "amr_nb"),
    ("wav", "adpcm_ms", {"rate": 8000}, "wav", "adpcm_ms"),
    ("matroska", "ac3", {"with_video": True}, "matroska", "ac3"),
]


def named(cases: list[tuple[str, str, dict[str, Any], str, str]]) -> list[Any]:
    return [pytest.param(*case, id=f"{case[0]}-{case[1]}-{number}") for number, case in enumerate(cases)]


async def chunks_of(recording: RecordingFile, *args: Any) -> list[CutChunk]:
    return [chunk async for chunk in FFmpegReader().cut(recording, limits(*args))]


def content_of(container: str, codec: str, made: dict[str, Any]) -> bytes:
    rate, channels = made.get("rate", 48_000), made.get("channels", 1)
    return encode(container, codec, voice(rate, channels=channels), **made)


@pytest.mark.parametrize(("container", "codec", "made", "container_name", "codec_name"), named(COPIED))
async def test_a_copy_plays_the_same_samples(
    container: str, codec: str, made: dict[str, Any], container_name: str, codec_name: str, encrypted: Encrypt
) -> None:
    content = content_of(container, codec, made)
    recording = encrypted(content)
    facts = await FFmpegReader().inspect(recording)
    chunks = await chunks_of(recording, 0.9)
    rate = 48_000 if codec_name == "opus" else made.get("rate", 48_000)
    assert (facts.container, facts.codec, facts.sample_rate) == (container_name, codec_name, rate)
    assert (facts.channels, facts.is_copyable) == (made.get("channels", 1), True)
    whole, pieces = decoded(content), [decoded(chunk.data) for chunk in chunks]
    joined = [sample for piece in pieces for sample in piece]
    assert len(pieces) >= 3
    assert len(joined) == len(whole)
    # An Opus decoder remembers some tenths of a second; the others start exactly.
    assert decibels(whole, joined) > (40 if codec_name == "opus" else 120)
    assert {chunk.format for chunk in chunks} == {{"opus": OGG, "aac": M4A}.get(codec_name, WAV)}
    check_places(chunks, [len(piece) / rate for piece in pieces], facts.seconds)


@pytest.mark.parametrize(("container", "codec", "made", "container_name", "codec_name"), named(ENCODED))
async def test_other_formats_become_opus_of_the_same_length(
    container: str, codec: str, made: dict[str, Any], container_name: str, codec_name: str, encrypted: Encrypt
) -> None:
    content = content_of(container, codec, made)
    recording = encrypted(content)
    facts = await FFmpegReader().inspect(recording)
    chunks = await chunks_of(recording, 0.9)
    rate = made.get("rate", 48_000)
    assert (facts.container, facts.codec, facts.sample_rate) == (container_name, codec_name, rate)
    assert (facts.channels, facts.is_copyable) == (made.get("channels", 1), False)
    pieces = [decoded(chunk.data) for chunk in chunks]
    assert len(pieces) >= 3
    assert sum(map(len, pieces)) == 3 * round(len(decoded(content)) * 16_000 / rate)
    assert {chunk.format for chunk in chunks} == {OGG}
    check_places(chunks, [len(piece) / 48_000 for piece in pieces], facts.seconds)


def check_places(chunks: list[CutChunk], seconds: list[float], total: float) -> None:
    assert [chunk.sequence for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.seconds for chunk in chunks[:-1]] == pytest.approx(seconds[:-1], abs=1e-6)
    starts = [sum(seconds[:number]) for number in range(len(seconds))]
    assert [chunk.start_seconds for chunk in chunks] == pytest.approx(starts, abs=1e-6)
    assert sum(seconds) == pytest.approx(total, abs=0.1)


async def test_a_cut_changes_no_sample_of_what_was_re_encoded(encrypted: Encrypt) -> None:
    recording = encrypted(encode("flac", "flac", voice()))
    (whole,) = await chunks_of(recording, 10.0)
    chunks = await chunks_of(recording, 0.9)
    joined = [sample for chunk in chunks for sample in decoded(chunk.data)]
    assert decibels(decoded(whole.data), joined) > 70


async def test_re_encoded_speech_is_what_was_said(encrypted: Encrypt) -> None:
    samples = voice(16_000)
    (chunk,) = await chunks_of(encrypted(encode("flac", "flac", samples, rate=16_000)), 10.0)
    heard = decoded(chunk.data)[::3][: len(samples)]
    said = [sample / 32_768 for sample in samples]
    common = sum(one * other for one, other in zip(said, heard, strict=True))
    power = math.sqrt(sum(one**2 for one in said) * sum(one**2 for one in heard))
    assert common / power > 0.95


async def test_a_chunk_can_be_cut_again(encrypted: Encrypt) -> None:
    """Its header skips several packets at the start, as files of other programs do."""
    for container, codec in (("ogg", "libopus"), ("ipod", "aac")):
        content = encode(container, codec, voice(), options=NO_NOISE if codec == "aac" else None)
        second = (await chunks_of(encrypted(content), 1.0))[1].data
        chunks = await chunks_of(encrypted(second), 0.7)
        whole, joined = decoded(second), [sample for each in chunks for sample in decoded(each.data)]
        assert len(chunks) >= 2
        assert len(joined) == len(whole)
        assert decibels(whole, joined) > 60


async def test_recordings_that_were_joined_are_re_encoded(encrypted: Encrypt) -> None:
    """A second Ogg stream behind the first has a header of its own, which no copy could hold."""
    content = encode("ogg", "libopus", voice()) + encode("ogg", "libopus", voice(seconds=1.01))
    recording = encrypted(content)
    facts = await FFmpegReader().inspect(recording)
    chunks = await chunks_of(recording, 0.9)
    assert not facts.is_copyable
    assert sum(chunk.seconds for chunk in chunks) == pytest.approx(3.02, abs=0.001)


@pytest.mark.parametrize(
    ("codec", "listed", "wanted"),
    [
        ("libopus", (WAV,), WAV),
        ("libopus", (WAV, M4A, FORMATS[0]), FORMATS[0]),
        ("pcm_s16le", (OGG, M4A), OGG),
        ("pcm_s16le", (WAV,), WAV),
    ],
)
async def test_only_formats_of_the_vendor_are_made(
    codec: str, listed: Any, wanted: Any, encrypted: Encrypt
) -> None:
    content = encode("wav" if codec == "pcm_s16le" else "ogg", codec, voice())
    chunks = await chunks_of(encrypted(content), 1.0, 1024 * 1024, listed)
    assert {chunk.format for chunk in chunks} == {wanted}
    assert sum(chunk.seconds for chunk in chunks) == pytest.approx(2.01, abs=1e-4)


async def test_the_same_recording_gives_the_same_chunks(encrypted: Encrypt) -> None:
    for content in (encode("ogg", "libopus", voice()), encode("mp3", "mp3", voice())):
        assert await chunks_of(encrypted(content), 1.0) == await chunks_of(encrypted(content), 1.0)
