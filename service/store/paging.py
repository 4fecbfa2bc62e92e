"""Keyset pages: a cursor names the last row of a page, so that the next page repeats and skips no row."""

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from asyncpg import Record

from schemas.pages import Page
from service.domain.errors import InvalidRequest

T = TypeVar("T")

PageAfter = tuple[datetime, str]
_ID = re.compile(r"[A-Za-z0-9_]{1,64}")


def cursor_of(row: Record) -> str:
    """Return the cursor that continues after this row."""
    return base64.urlsafe_b64encode(f"{row['created_at'].isoformat()}|{row['id']}".encode()).decode()


def after_cursor(cursor: str | None) -> PageAfter | None:
    """Return the time and id after which a cursor continues. Raises InvalidRequest for a foreign cursor."""
    if cursor is None:
        return None
    try:
        at, _, last = base64.urlsafe_b64decode(cursor.encode("ascii")).decode().partition("|")
        read = datetime.fromisoformat(at)
        moment = read.astimezone(UTC)
    except (binascii.Error, ValueError, OverflowError):
        raise InvalidRequest("the cursor is not one of ours", field="cursor") from None
    if read.tzinfo is None or not _ID.fullmatch(last):
        raise InvalidRequest("the cursor is not one of ours", field="cursor")
    return moment, last


def page_of(rows: Sequence[Record], limit: int, read: Callable[[Record], T]) -> Page[T]:
    """Make a page from at most `limit + 1` rows: one row too many proves that a next page exists."""
    shown = rows[:limit]
    return Page(
        items=[read(row) for row in shown], next_cursor=cursor_of(shown[-1]) if len(rows) > limit else None
    )
