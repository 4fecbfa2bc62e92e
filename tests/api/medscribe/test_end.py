"""End through the protocol: the documented answer (docs/vendor.md#end), and once only."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from tests.support.api_calls import expire
from tests.support.bridge import Bridge
from tests.support.medscribe_clients import envelope


async def begin(house: Bridge, files: int = 0, numbers: tuple[int, ...] = (), **fields: Any) -> str:
    body = {"upload_type": "chunked", "communication_protocol": "http"} | fields
    session: str = (await house.api.post("/voice/v1/sessions", json=body)).json()["session_id"]
    for number in numbers or range(files):
        url = f"/voice/v1/sessions/{session}/audio/audio_{number}.webm"
        assert (await house.api.post(url, content=f"audio {number}".encode())).status_code == 200
    return session


async def end(house: Bridge, session: str, sent: Any) -> httpx2.Response:
    body = {"audio_files_sent": sent, "audio_files_uploaded": sent}
    return await house.api.post(f"/voice/v1/sessions/{session}/end", json=body)


async def test_the_answer_is_the_seed_s(house: Bridge) -> None:
    session = await begin(house, 11)
    answer = await end(house, session, 11)
    assert answer.status_code == 202
    assert answer.json() == {
        "session_id": session,
        "status": "processing",
        "message": "Session ended. Processing started.",
        "audio_files_received": 11,
        "audio_files": [f"{number}.webm" for number in range(11)],
    }
    assert (await house.seen(session))["end_counts"] == [11]


async def test_again_it_answers_the_same_and_the_vendor_hears_nothing(house: Bridge) -> None:
    session = await begin(house, 1)
    first = await end(house, session, 1)
    again = await end(house, session, 3)
    assert (again.status_code, again.json()) == (202, first.json())
    assert (await house.seen(session))["end_calls"] == 1


async def test_fewer_files_than_were_sent_are_noticed(house: Bridge) -> None:
    session = await begin(house, 2)
    error = envelope(await end(house, session, 3), 409, "audio_incomplete")
    details = error["details"]
    assert (details["audio_files_sent"], details["audio_files_received"]) == (3, 2)
    assert details["audio_files"] == ["0.webm", "1.webm"]
    assert (await house.seen(session))["end_calls"] == 0
    assert (await house.session(session))["status"] == "recording"
    assert (await end(house, session, 2)).status_code == 202


@pytest.mark.parametrize("numbers", [(1, 2, 3), (0, 5, 9)])
async def test_only_the_count_counts_not_where_the_numbers_begin(
    house: Bridge, numbers: tuple[int, ...]
) -> None:
    session = await begin(house, numbers=numbers)
    assert (await end(house, session, 3)).status_code == 202


@pytest.mark.parametrize("sent", [0, 2])
async def test_none_at_all_is_refused(house: Bridge, sent: int) -> None:
    session = await begin(house)
    envelope(await end(house, session, sent), 409, "audio_missing")


async def test_a_stream_is_ended_with_a_count_of_zero_whatever_was_heard(house: Bridge) -> None:
    session = await begin(house, upload_type="stream", communication_protocol="websocket")
    assert (await end(house, session, 0)).status_code == 202
    assert (await house.seen(session))["end_counts"] == [0]


@pytest.mark.parametrize("sent", [-1, None, "3", 1.5, True])
async def test_a_count_that_is_none_is_400(house: Bridge, sent: Any) -> None:
    session = await begin(house, 1)
    error = envelope(await end(house, session, sent), 400, "invalid_request")
    assert "'body -> audio_files_sent'" in error["message"]


async def test_a_count_is_required(house: Bridge) -> None:
    session = await begin(house, 1)
    envelope(await house.api.post(f"/voice/v1/sessions/{session}/end"), 400, "invalid_request")


async def test_an_unknown_session_and_one_that_expired(house: Bridge) -> None:
    envelope(await end(house, "ses_does_not_exist_000", 1), 404, "session_not_found")
    session = await begin(house, 1)
    await expire(house, session)
    envelope(await end(house, session, 1), 410, "session_expired")


async def test_a_vendor_that_is_away_is_told_later_and_the_session_is_ended(house: Bridge) -> None:
    session = await begin(house, 1)
    await house.fault("/end$", method="POST", status=503, times=9)
    assert (await end(house, session, 1)).status_code in {200, 202}
    status = (await house.api.get(f"/voice/v1/sessions/{session}")).json()["status"]
    assert status == "processing"
