from __future__ import annotations

import pytest

from service.sandbox.vendor.playing_times import pcm_seconds, wav_seconds, webm_seconds
from tests.support.sounds import wav, webm


@pytest.mark.parametrize("declared", [None, 0, 0xFFFFFFFF])
def test_wav_length_survives_the_headers_of_live_recorders(declared):
    assert wav_seconds(wav(1.25, declared=declared)) == 1.25


def test_what_is_no_wav_has_no_length():
    assert wav_seconds(b"") is None
    assert wav_seconds(b"RIFF\0\0\0\0WAVEdata\4\0\0\0abcd") is None
    assert wav_seconds(b"\x1a\x45\xdf\xa3" * 10) is None


def test_pcm_length_is_its_size():
    assert pcm_seconds(32_000, 16_000) == 1.0


def test_webm_length_is_the_sum_of_its_packets():
    assert webm_seconds(webm(1_200)) == pytest.approx(24.0)


def test_two_webm_files_in_a_row_add_up():
    assert webm_seconds(webm(100) + webm(50)) == pytest.approx(3.0)


def test_a_cut_webm_counts_its_whole_packets():
    data = webm(100)
    assert webm_seconds(data[:-10]) == pytest.approx(1.98)
    assert webm_seconds(data[500:]) is None


@pytest.mark.parametrize("size", range(0, 600, 7))
def test_no_cut_of_a_webm_fails(size):
    webm_seconds(webm(10)[:size])
