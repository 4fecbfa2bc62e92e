"""Audio is stored only if the answer says so; the vendor's list of files is read in every recorded form."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.domain.errors import VendorFailure
from service.domain.ids import DEFAULT_ACCOUNT, UNFILTERED
from service.domain.sessions.models import VendorEnd
from service.eka.acknowledgements import check_stored, read_files
from service.eka.http_exchange import VendorAnswer
from tests.support.makers import NOTE, SESSION
from tests.support.vendor_calls import ScriptedEka

STORED = {"session_id": SESSION, "success": True, "original_filename": "audio_0.wav"}
URL = f"s3://voice-records/261129/{SESSION}/"


def answer(body: Any) -> VendorAnswer:
    return VendorAnswer(200, None, body if isinstance(body, bytes) else json.dumps(body).encode())


def test_the_recorded_answer_to_an_upload_counts() -> None:
    check_stored(answer(STORED), SESSION)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        json.dumps(STORED).encode()[:40],
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        {},
        STORED | {"success": False},
        STORED | {"success": "true"},
        STORED | {"success": 1},
        STORED | {"session_id": "ses_ofsomebodyelse0000000"},
        STORED | {"session_id": None},
        {"success": True},
        {"status": "success", "message": "stored"},
    ],
)
def test_any_other_200_may_have_stored_nothing(body: Any) -> None:
    with pytest.raises(VendorFailure) as failed:
        check_stored(answer(body), SESSION)
    assert failed.value.sent


@pytest.mark.parametrize(
    ("received", "listed", "count", "sequences"),
    [
        (3, [URL + "0.wav", URL + "1.webm", URL + "10.mp3"], 3, [0, 1, 10]),
        (2, ["1.wav", "0.wav"], 2, [0, 1]),
        (2, ["audio_0.wav", "audio_7.ogg"], 2, [0, 7]),
        (2, ["7.webm", "7.wav"], 2, [7]),
        (0, [], 0, []),
        (None, [], 0, []),
        (None, [URL + "4.wav"], 1, [4]),
        (3, None, 3, None),
        (3, "0.wav", 3, None),
        (3, [], 3, None),
        (2, ["0.wav", "recording.wav"], 2, None),
        (None, ["0.wav", 7], 2, None),
        (None, ["0.wav", {"name": "1.wav"}], 2, None),
        ("3", None, None, None),
        (True, None, None, None),
        (-1, None, None, None),
        (2**31, None, None, None),
        (1, ["9999999999.wav"], 1, None),
    ],
)
def test_a_list_of_files_is_read_by_number_or_not_at_all(
    received: Any, listed: Any, count: Any, sequences: Any
) -> None:
    assert read_files(received, listed) == VendorEnd(files_received=count, sequences=sequences)


async def test_the_answer_to_end_says_which_files_are_there() -> None:
    eka = ScriptedEka((202, {"audio_files_received": 2, "audio_files": [URL + "0.wav", URL + "2.wav"]}))
    async with eka.client() as client:
        told = await client.end_session(DEFAULT_ACCOUNT, SESSION, 3)
    assert told == VendorEnd(files_received=2, sequences=[0, 2])


async def test_a_get_without_a_filter_says_so_too() -> None:
    body = {"status": "processing", "audio_files_received": 1, "audio_files": [URL + "2.wav"]}
    eka = ScriptedEka((202, body))
    async with eka.client() as client:
        result = await client.get_session(DEFAULT_ACCOUNT, SESSION, UNFILTERED)
        filtered = await client.get_session(DEFAULT_ACCOUNT, SESSION, NOTE)
    assert result.audio == VendorEnd(files_received=1, sequences=[2])
    assert filtered.audio is None
