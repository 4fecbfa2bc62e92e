from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.domain.retry_schedule import (
    delivery_wait,
    error_wait,
    held_back_wait,
    jittered,
    pending_wait,
    read_retry_after,
)
from service.settings import Settings

NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
DAY = 86_400.0

chances = st.floats(0, 1)
schedules = st.lists(st.floats(0, 1e6), min_size=1, max_size=15).map(sorted)


@given(seconds=st.floats(0, 1e7), jitter=chances)
def test_jitter_is_a_tenth_to_either_side(seconds, jitter):
    assert seconds * 0.9 - 1e-6 <= jittered(seconds, jitter) <= seconds * 1.1 + 1e-6


@given(schedule=schedules, used=st.integers(1, 20), jitter=chances, asked=st.none() | st.floats(0, DAY))
def test_a_delivery_waits_by_its_schedule_and_never_less_than_it_was_asked_to(schedule, used, jitter, asked):
    wait = delivery_wait(schedule, used, retry_after_seconds=asked, jitter=jitter)
    if used > len(schedule):
        assert wait is None
        return
    planned = schedule[used - 1]
    assert wait is not None
    assert wait >= planned * 0.9 - 1e-6
    assert wait >= (asked or 0)
    assert wait <= max(planned * 1.1 + 1e-6, asked or 0)


@given(jitter=chances)
def test_the_schedule_s_places_grow_and_the_one_after_the_last_is_the_end(jitter):
    schedule = Settings().forward_schedule_seconds
    waits = [
        delivery_wait(schedule, used, retry_after_seconds=None, jitter=jitter)
        for used in range(1, len(schedule) + 1)
    ]
    assert waits == sorted(waits)
    assert delivery_wait(schedule, len(schedule) + 1, retry_after_seconds=0, jitter=jitter) is None


@given(attempts=st.integers(1, 10_000), jitter=chances)
def test_waits_for_the_vendor_are_bounded_and_grow(attempts, jitter):
    for wait, longest in (
        (lambda n: pending_wait(n, jitter), 33.0),
        (lambda n: error_wait(n, retry_after_seconds=None, jitter=jitter), 330.0),
    ):
        assert 0.5 <= wait(attempts) <= wait(attempts + 1) <= longest


@given(attempts=st.integers(1, 50), jitter=chances, asked=st.floats(0, DAY))
def test_a_vendor_that_asks_for_patience_gets_it(attempts, jitter, asked):
    plain = error_wait(attempts, retry_after_seconds=None, jitter=jitter)
    assert error_wait(attempts, retry_after_seconds=asked, jitter=jitter) == max(plain, asked)


@given(attempts=st.integers(1, 50), jitter=chances, most=st.floats(1, 300))
def test_a_result_that_is_awaited_is_asked_for_at_short_intervals(attempts, jitter, most):
    wait = error_wait(attempts, retry_after_seconds=None, jitter=jitter, max_seconds=most)
    assert wait <= most * 1.1
    assert wait <= error_wait(attempts, retry_after_seconds=None, jitter=jitter)


@given(asked=st.none() | st.floats(0, DAY), jitter=chances)
def test_what_our_own_gate_held_back_is_looked_at_soon_and_not_at_once(asked, jitter):
    assert 1 <= held_back_wait(asked, jitter=jitter) <= 5.5


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 120 ", 120.0),
        ("86401", DAY),
        ("9" * 400, DAY),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(days=3), usegmt=True), 0.0),
        (format_datetime(NOW + timedelta(days=40), usegmt=True), DAY),
        ("Monday, 04-May-26 03:02:31 GMT", 30.0),
        ("Mon May  4 03:02:31 2026", 30.0),
        (None, None),
        ("", None),
        ("   ", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("1e3", None),
        ("²", None),
        ("٣", None),
        ("Mon, 99 May 2026 03:02:01 GMT", None),
        ("Mon, 04 May 99999 03:02:01 GMT", None),
    ],
)
def test_retry_after_is_read_in_seconds_and_as_a_date(value, seconds):
    assert read_retry_after(value, NOW) == seconds


@given(
    st.text(max_size=60)
    | st.builds(
        "Mon, {} May {} {}:00:00 {}".format,
        st.integers(0, 99),
        st.integers(0, 10**6),
        st.integers(0, 99),
        st.from_regex(r"[+-][0-9]{1,24}|[A-Z]{1,4}", fullmatch=True),
    )
)
@example("Mon, 04 May 2026 00:00:00 +99999999999999999999")
def test_no_retry_after_breaks_it_or_exceeds_a_day(value):
    found = read_retry_after(value, NOW)
    assert found is None or 0 <= found <= DAY


def test_the_default_schedule_spans_three_days():
    assert sum(Settings().forward_schedule_seconds) >= 3 * DAY
