"""The id of an event says exactly which entries of a timeline were sent, in whatever order they came."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.emr import TimelineEntry
from service.api.event_cursor import EventCursor
from tests.unit.makers import START


def chunk(number: int) -> TimelineEntry:
    return TimelineEntry(at=START, type="chunk.stored", data={"sequence": number})


def attempt(seconds: int, delivery: str = "msg_1", **data: Any) -> TimelineEntry:
    at = START + timedelta(seconds=seconds)
    return TimelineEntry(at=at, type="delivery.attempted", data={"delivery_id": delivery} | data)


entries = st.one_of(
    st.integers(0, 40).map(chunk),
    st.tuples(st.integers(0, 9), st.sampled_from(["msg_1", "msg_2"])).map(lambda each: attempt(*each)),
)


def key(entry: TimelineEntry) -> tuple[Any, ...]:
    return (entry.at, entry.type, *sorted(entry.data.items()))


@given(sent=st.lists(entries, max_size=60), later=st.lists(entries, max_size=20))
def test_a_client_that_resumes_gets_every_other_entry_once(sent, later):
    cursor = EventCursor()
    new = [entry for entry in sent if cursor.add(entry)]
    assert sorted(map(key, new)) == sorted({key(entry) for entry in sent})
    resumed = EventCursor.parse(str(cursor))
    assert str(resumed) == str(cursor)
    found = [key(entry) for entry in later if resumed.add(entry)]
    assert sorted(found) == sorted({key(entry) for entry in later} - {key(entry) for entry in sent})


def test_a_thousand_chunks_in_any_order_take_a_few_characters():
    cursor = EventCursor()
    for number in sorted(range(1000), key=lambda each: (each * 577) % 1000):
        assert cursor.add(chunk(number))
    assert str(cursor) == "0-999."
    assert not cursor.add(chunk(500))


def test_what_grows_in_place_is_the_same_entry():
    cursor = EventCursor()
    event = {"event": "completed", "before_end": False}
    for repeats in range(3):
        entry = TimelineEntry(at=START, type="webhook.received", data=event | {"repeats": repeats})
        assert cursor.add(entry) == (repeats == 0)
    early = TimelineEntry(at=START, type="webhook.received", data=event | {"before_end": True})
    assert cursor.add(early)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "x.",
        "5-3.",
        "0-5_3-9.",
        "0-5_0-5.",
        ".abc",
        "-.",
        "0-99999999999.",
        "0-1.abcdef\n",
        "é.",
        "0-1_.",
    ],
)
def test_an_id_that_is_none_of_ours_is_the_start(text):
    cursor = EventCursor.parse(text)
    assert str(cursor) == "."
    assert cursor.add(chunk(0))
