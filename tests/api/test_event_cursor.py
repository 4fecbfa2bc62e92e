"""The id of an event says exactly which entries of a timeline were sent, in whatever order they came."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.sessions import TimelineEntry
from service.api.event_cursor import EventCursor
from tests.support.makers import START


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
        "~1.0.0",
    ],
)
def test_an_id_that_is_none_of_ours_is_the_start(text):
    cursor = EventCursor.parse(text)
    assert str(cursor) == "."
    assert cursor.add(chunk(0))


def sparse_chunk(number: int) -> TimelineEntry:
    """A chunk with an even number; ten of them are stored at the same time."""
    at = START + timedelta(seconds=number // 10)
    return TimelineEntry(at=at, type="chunk.stored", data={"sequence": 2 * number})


async def pages_of(timeline: list[TimelineEntry]) -> AsyncIterator[list[TimelineEntry]]:
    for start in range(0, len(timeline), 250):
        yield timeline[start : start + 250]


async def missing_after(cursor: EventCursor, timeline: list[TimelineEntry]) -> list[TimelineEntry]:
    resumed = await EventCursor.resume(str(cursor), pages_of(timeline))
    return [entry for entry in timeline if resumed.add(entry)]


def cursor_of(*entries: TimelineEntry) -> EventCursor:
    cursor = EventCursor()
    for entry in entries:
        cursor.add(entry)
    return cursor


TIMELINE = [sparse_chunk(number) for number in range(5000)]


def test_an_id_does_not_grow_with_gaps_or_with_entries():
    cursor, longest = EventCursor(), 0
    for entry in [*TIMELINE, *(attempt(seconds) for seconds in range(1000))]:
        cursor.add(entry)
        longest = max(longest, len(str(cursor)))
    assert longest < 1000


@pytest.mark.parametrize("sent", [0, 20, 300, 4990, 5000])
async def test_a_client_that_resumes_from_a_coarse_id_gets_the_rest_once(sent):
    assert await missing_after(cursor_of(*TIMELINE[:sent]), TIMELINE) == TIMELINE[sent:]


async def test_a_break_between_entries_of_one_time_repeats_only_these():
    assert await missing_after(cursor_of(*TIMELINE[:305]), TIMELINE) == TIMELINE[300:]


async def test_an_entry_that_is_committed_late_is_never_missed():
    late = TIMELINE[7]
    received = [entry for entry in TIMELINE[:1000] if entry != late]
    missing = await missing_after(cursor_of(*received), TIMELINE)
    assert late in missing
    assert all(entry in missing for entry in TIMELINE[1000:])
    # Once it was sent, behind later ones, nothing is sent again.
    assert await missing_after(cursor_of(*received, late), TIMELINE) == TIMELINE[1000:]
