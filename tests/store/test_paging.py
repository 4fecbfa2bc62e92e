from __future__ import annotations

import base64
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.errors import InvalidRequest
from service.store.paging import after_cursor, cursor_of, page_of

AT = datetime(2026, 5, 4, 3, 2, 1, 123456, tzinfo=UTC)


def encode(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


@given(
    at=st.integers(0, 10**10).map(lambda number: AT + timedelta(milliseconds=number)),
    last=st.from_regex(r"[a-z]{3}_[0-9a-f]{24}", fullmatch=True),
)
def test_a_cursor_of_ours_comes_back_as_what_it_names(at, last):
    cursor = cursor_of({"created_at": at, "id": last})
    assert after_cursor(cursor) == (at, last)
    assert all(letter.isalnum() or letter in "-_=" for letter in cursor)


@given(
    st.text(max_size=80)
    | st.text(max_size=40).map(encode)
    | st.binary(max_size=40).map(lambda b: base64.urlsafe_b64encode(b).decode())
)
def test_garbage_is_an_invalid_request_and_nothing_else(cursor):
    with suppress(InvalidRequest):
        at, last = after_cursor(cursor)
        assert at.tzinfo is not None
        assert last


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "é",
        "====",
        encode("2026-05-04T03:02:01+00:00"),
        encode("2026-05-04T03:02:01+00:00|"),
        encode("2026-05-04T03:02:01|ses_1"),
        encode("yesterday|ses_1"),
        encode("|ses_1"),
        encode("2026-13-04T03:02:01+00:00|ses_1"),
    ],
)
def test_a_cursor_that_is_none_of_ours_is_refused(cursor):
    with pytest.raises(InvalidRequest) as refusal:
        after_cursor(cursor)
    assert refusal.value.extra == {"field": "cursor"}


@pytest.mark.parametrize(
    "cursor",
    [
        encode("2026-05-04T03:02:01+00:00|ses_\0"),  # PostgreSQL's text cannot hold NUL
        encode("0001-01-01T00:00:00+23:59|ses_1"),  # before the first day once it is UTC
        encode("9999-12-31T23:59:59-23:59|ses_1"),
    ],
)
def test_a_cursor_that_the_database_could_not_take_is_refused(cursor):
    with pytest.raises(InvalidRequest):
        after_cursor(cursor)


def test_no_cursor_is_the_first_page():
    assert after_cursor(None) is None


@given(total=st.integers(0, 30), limit=st.integers(1, 10))
def test_pages_hold_every_row_once(total, limit):
    rows = [{"id": f"ses_{number}", "created_at": AT - timedelta(seconds=number)} for number in range(total)]
    seen, after = [], None
    for _ in range(total + 2):
        start = 0 if after is None else [(r["created_at"], r["id"]) for r in rows].index(after) + 1
        page = page_of(rows[start : start + limit + 1], limit, lambda row: row["id"])
        assert len(page.items) <= limit
        seen += page.items
        if page.next_cursor is None:
            break
        after = after_cursor(page.next_cursor)
    assert seen == [row["id"] for row in rows]
