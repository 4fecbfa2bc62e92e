from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.audio.models import AudioFormat
from service.domain.audio.uploads import chunk_file_name
from service.domain.sessions.lifecycle import missing_sequences
from service.eka.audio_formats import PUBLISHED_FORMATS, normalise_audio_format

SEED_002 = {
    "audio/webm;codecs=opus": "webm",
    "audio/wav": "wav",
    "audio/ogg": "ogg",
    "audio/ogg;codecs=opus": "ogg",
    "audio/mp4": "mp4",
    "audio/m4a": "m4a",
    "audio/mp3": "mp3",
}
SPELLINGS = {
    "audio/webm": "audio/webm;codecs=opus",
    "audio/webm; codecs=opus": "audio/webm;codecs=opus",
    'audio/webm;codecs="opus"': "audio/webm;codecs=opus",
    "Audio/WebM ; Codecs = 'Opus'": "audio/webm;codecs=opus",
    "audio/mpeg": "audio/mp3",
    "audio/x-wav": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/vnd.wave": "audio/wav",
    "Audio/WAV": "audio/wav",
    " audio/wav ": "audio/wav",
    "audio/wav; charset=utf-8": "audio/wav",
    "audio/wav;codecs=1": "audio/wav",
    "audio/x-m4a": "audio/m4a",
    "audio/mp4;codecs=mp4a.40.2": "audio/mp4",
    "audio/ogg; codecs=opus": "audio/ogg;codecs=opus",
    "audio/opus": "audio/ogg;codecs=opus",
    "application/ogg": "audio/ogg",
}
REFUSED = [
    "",
    ";",
    "audio",
    "audio/",
    "audio/flac",
    "audio/aac",
    "audio/l16",
    "application/json",
    "application/octet-stream",
    "multipart/form-data; boundary=x",
    "video/webm",
    "audio/webm;codecs=vorbis",
    "audio/webm; codecs=pcm",
    "audio/webm;codecs=",
    "audio/ogg;codecs=flac",
    "audio/ogg; codecs=vorbis",
    "audio/wav, audio/wav",
    "audio\\wav",
    "audio/w\u0430v",  # a Cyrillic letter
]


def test_the_supported_formats_are_the_published_ones():
    assert set(PUBLISHED_FORMATS) == set(SEED_002)


@pytest.mark.parametrize(("media_type", "extension"), SEED_002.items())
def test_the_vendor_s_own_spelling_stays_as_it_is(media_type, extension):
    assert normalise_audio_format(media_type, PUBLISHED_FORMATS) == AudioFormat(media_type, extension)


@pytest.mark.parametrize(("spelling", "media_type"), SPELLINGS.items())
def test_common_spellings_become_the_vendor_s(spelling, media_type):
    assert normalise_audio_format(spelling, PUBLISHED_FORMATS) == AudioFormat(
        media_type, SEED_002[media_type]
    )


@pytest.mark.parametrize("content_type", REFUSED)
def test_what_the_vendor_does_not_take_is_refused(content_type):
    assert normalise_audio_format(content_type, PUBLISHED_FORMATS) is None


@pytest.mark.parametrize(
    ("content_type", "listed", "becomes"),
    [
        ("audio/webm", ["audio/webm; codecs=opus"], AudioFormat("audio/webm; codecs=opus", "webm")),
        ("audio/webm;codecs=opus", ["Audio/WebM"], AudioFormat("Audio/WebM", "webm")),
        (
            "audio/webm",
            ["audio/webm", "audio/webm;codecs=opus"],
            AudioFormat("audio/webm;codecs=opus", "webm"),
        ),
        ("audio/x-wav", ["audio/wave"], AudioFormat("audio/wave", "wav")),
        ("audio/mpeg", ["audio/mpeg"], AudioFormat("audio/mpeg", "mp3")),
        ("Audio/FLAC", ["audio/flac"], AudioFormat("audio/flac", "flac")),
        ("audio/x-aac", ["audio/x-aac"], AudioFormat("audio/x-aac", "aac")),
        ("audio/opus", ["audio/ogg"], AudioFormat("audio/ogg", "ogg")),
        ("audio/ogg", ["audio/ogg;codecs=opus"], None),
        ("audio/wav", ["audio/mp3"], None),
        ("audio/webm;codecs=vorbis", ["audio/webm"], None),
        ("audio/../x", ["audio/../x"], None),
        ("audio/wav", [], None),
    ],
)
def test_the_vendor_s_own_list_decides_and_so_does_its_spelling(content_type, listed, becomes):
    assert normalise_audio_format(content_type, listed) == becomes


@given(media_type=st.sampled_from(sorted(SEED_002)), data=st.data())
def test_case_spaces_and_quotes_do_not_matter(media_type, data):
    blank = st.sampled_from(["", " ", "\t", "  "])
    quote = data.draw(st.sampled_from(["", '"', "'"]))
    kind, _, parameter = media_type.partition(";")
    spelled = data.draw(blank) + kind + data.draw(blank)
    if parameter:
        name, _, codec = parameter.partition("=")
        spelled += f";{data.draw(blank)}{name}{data.draw(blank)}={data.draw(blank)}{quote}{codec}{quote}"
    capitals = data.draw(st.lists(st.booleans(), min_size=len(spelled), max_size=len(spelled)))
    spelled = "".join(
        letter.upper() if big else letter for letter, big in zip(spelled, capitals, strict=True)
    )
    assert normalise_audio_format(spelled, PUBLISHED_FORMATS) == AudioFormat(media_type, SEED_002[media_type])


@given(st.text(max_size=60))
def test_no_text_breaks_it_and_every_answer_is_one_that_the_vendor_takes(content_type):
    found = normalise_audio_format(content_type, PUBLISHED_FORMATS)
    assert found is None or found.media_type in SEED_002


@given(sequence=st.integers(0, 99_999), extension=st.sampled_from(sorted(set(SEED_002.values()))))
def test_a_chunk_s_name_is_one_base_its_number_and_its_extension(sequence, extension):
    name = chunk_file_name(sequence, AudioFormat("audio/x", extension))
    assert re.fullmatch(r"[a-z]+_(0|[1-9][0-9]*)\.[a-z0-9]+", name)
    assert name == f"audio_{sequence}.{extension}"


@given(stored=st.sets(st.integers(0, 60)), announced=st.none() | st.integers(0, 80))
def test_the_missing_sequences_are_the_holes_and_the_tail_in_order(stored, announced):
    expected = max(max(stored, default=-1) + 1, announced or 0)
    assert missing_sequences(sorted(stored), announced) == sorted(set(range(expected)) - stored)


def test_more_chunks_than_announced_are_no_hole():
    assert missing_sequences([0, 1, 2], 1) == []
