"""A form's file is the same however its bytes are cut into pieces."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.medscribe.upload_parser import Upload
from service.api.upload_buffer import BufferedBody
from service.domain.errors import AudioTruncated, ChunkTooLarge, InvalidRequest

BOUNDARY = "----WebKitFormBoundaryabc123"
LABELS = [f"multipart/form-data; boundary={BOUNDARY}", "audio/webm;codecs=opus", "multipart/form-data"]
# What looks like a boundary must not end the audio; what is one does, so that clients draw them at random.
AUDIO = (
    st.lists(st.binary(max_size=60) | st.sampled_from([b"\r\n--", f"\r\n--{BOUNDARY[:-1]}".encode(), b"--"]))
    .map(b"".join)
    .filter(lambda audio: BOUNDARY.encode() not in audio)
)


def body_of(audio: bytes, **fields: str) -> bytes:
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="1.mp3"\r\n'
    head += "Content-Type: audio/mp3\r\n\r\n"
    return "".join([*parts, head]).encode() + audio + f"\r\n--{BOUNDARY}--\r\n".encode()


def no_count(_: int) -> None:
    """Nothing is counted."""


async def accept_any(_: Any) -> BufferedBody:
    return BufferedBody(no_count)


async def read(body: bytes, label: str, sizes: list[int], max_bytes: int = 10_000) -> tuple[Upload, bytes]:
    upload = Upload(label, max_bytes, accept_any)
    rest = body
    for size in sizes:
        await upload.feed(rest[:size])
        rest = rest[size:]
    await upload.feed(rest)
    await upload.finish()
    return upload, b"".join([piece async for piece in upload.buffer.read()])


@given(audio=AUDIO, label=st.sampled_from(LABELS), sizes=st.lists(st.integers(0, 80), max_size=30))
async def test_pieces_do_not_matter(audio: bytes, label: str, sizes: list[int]) -> None:
    upload, found = await read(body_of(audio, key="k/${filename}"), label, sizes)
    assert found == audio
    assert upload.is_form
    assert (upload.file_name, upload.file_type) == ("1.mp3", "audio/mp3")
    assert upload.fields == {"key": "k/${filename}"}


@given(audio=AUDIO, sizes=st.lists(st.integers(0, 80), max_size=30))
async def test_raw_audio_passes_whole(audio: bytes, sizes: list[int]) -> None:
    upload, found = await read(audio, "audio/wav", sizes)
    assert found == audio
    assert not upload.is_form


@pytest.mark.parametrize(
    ("body", "label", "error"),
    [
        (body_of(b"x")[:-20], LABELS[0], AudioTruncated),
        (body_of(b"x")[:-20], LABELS[1], AudioTruncated),
        (body_of(b"x" * 101), LABELS[0], ChunkTooLarge),
        (b"RIFF" * 26, "audio/wav", ChunkTooLarge),
        (b"RIFF", LABELS[2], InvalidRequest),
        (body_of(b"x", big="y" * 20_000), LABELS[0], InvalidRequest),
        (b"".join([body_of(b"x")[: -len(f"--{BOUNDARY}--\r\n")], body_of(b"y")]), LABELS[0], InvalidRequest),
        (body_of(b"x", **{f"f{n}": "v" for n in range(40)}), LABELS[0], InvalidRequest),
        (body_of(b"x").replace(b'name="file"; filename="1.mp3"', b'name="n"'), LABELS[0], InvalidRequest),
        (b"", f"multipart/form-data; boundary={BOUNDARY}", AudioTruncated),
    ],
)
async def test_what_is_broken_or_too_much_is_refused(body: bytes, label: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        await read(body, label, [10, 50], max_bytes=100)


async def test_the_fields_are_seen_before_a_byte_of_the_file_is_kept() -> None:
    seen: list[Any] = []

    class Refused(Exception):
        pass

    async def refuse(fields: Any) -> BufferedBody:
        seen.append(dict(fields))
        raise Refused

    upload = Upload(LABELS[0], 100, refuse)
    with pytest.raises(Refused):
        await upload.feed(body_of(b"audio", token="t"))
    assert seen == [{"token": "t"}]


async def test_raw_audio_is_let_in_before_a_byte_of_it_is_kept() -> None:
    async def refuse(fields: Any) -> BufferedBody:
        assert fields == {}
        raise PermissionError

    with pytest.raises(PermissionError):
        await Upload("audio/wav", 100, refuse).feed(b"RIFF")
